"""Wrong values as users give them: refused at once, with the variable, the value and the remedy, before any run."""

import json
import shutil
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from el_assets.__main__ import main
from el_assets.cli.before_a_run import refuse_what_cannot_run
from el_assets.operations.sensors import listing
from el_resources.models.model_files import REFERENCE_FOLDER
from el_resources.settings import Settings
from tests.conftest import library_documents, library_samples, write_json_lines

# (variables, the command's arguments, what is said)
VALUES = [
    ("EL_DEVICE=gpu", "", "(EL_DEVICE) = 'gpu': no such device; use auto, cpu, cuda, or cuda:N"),
    ("EL_DEVICE=CPU", "", "no such device"),
    ("EL_DEVICE=cuda:x", "", "no such device"),
    ("EL_DEVICE=", "", "no such device"),
    ("EL_DEVICE=cuda", "", "EL_DEVICE='cuda' is not there: torch sees"),
    ("EL_DEVICE=cuda:97", "", "EL_DEVICE='cuda:97' is not there: torch sees"),
    ("EL_STORE=", "", "(EL_STORE) = ''"),
    ("EL_STORE= ", "", "(EL_STORE) = ' ': an empty place; name a folder or s3://BUCKET/PREFIX"),
    ("EL_STORE=s3:bucket/x", "", "write s3://bucket/x, with two slashes"),
    ("EL_STORE=s3:/bucket/x", "", "write s3://bucket/x, with two slashes"),
    ("EL_STORE=s3://", "", "no bucket is named; write s3://BUCKET/PREFIX"),
    ("EL_STORE=az://box/x", "", "az:// needs the package adlfs; install it with `pip install adlfs`"),
    ("EL_STORE=gs://box/x", "", "gs:// needs the package gcsfs; install it with `pip install gcsfs`"),
    ("EL_STORE=ftp://host/x", "", "tables cannot be kept in ftp://; name a folder or s3://BUCKET/PREFIX"),
    ("EL_STORE=~nobody-here/x", "", "~nobody-here is not the home folder of any user; write the whole path"),
    ("EL_STORE=dagster.yaml", "", "is a file; set EL_STORE to a folder"),
    ("EL_STORE=dagster.yaml/x", "", "EL_STORE='dagster.yaml/x' cannot be made (Not a directory)"),
    ("EL_CORPUS=", "", "corpus '' has no known scheme; use one of python-docs:, parquet:, jsonl:, hf:"),
    ("EL_CORPUS=corpus", "", "'corpus' has no known scheme"),
    ("EL_CORPUS=json:corpus", "", "'json:corpus' has no known scheme"),
    ("EL_CORPUS=jsonl:", "", "'jsonl:' names no place"),
    ("EL_CORPUS=python-docs:3.12", "", "python-docs: is one fixed source; write nothing after the colon"),
    ("EL_CORPUS=jsonl:gs://box/x", "", "gs:// needs the package gcsfs"),
    ("EL_CORPUS=jsonl:nope://x", "", "no file system has the scheme nope://"),
    ("EL_CORPUS=jsonl:s3:/bucket/x", "", "write s3://bucket/x, with two slashes"),
    ("EL_CORPUS=jsonl:http://[::1", "", "(EL_CORPUS) = 'jsonl:http://[::1': http://[::1 is not an address: it names"),
    ("EL_CORPUS=jsonl:http://[::1]:80/x", "", "an IPv6 host cannot be read from; write its name, as in http://HOST"),
    ("EL_CORPUS=jsonl:http://me:hunter2@host:99999/x", "", "http://host:99999/x is not an address: its port is"),
    ("EL_CORPUS=jsonl:ftp://host:ab/x", "", "its port is not a number from 1 to 65535; write ftp://HOST/PATH"),
    ("EL_CORPUS=jsonl:https://", "", "https:// is not an address: it names no host; write https://HOST/PATH"),
    ("EL_CORPUS=jsonl:corpus + jsonl:http://host:0/x", "", "http://host:0/x is not an address"),
    ("EL_CORPUS=jsonl:absent", "", "absent does not exist; name a file, a folder or a glob"),
    ("EL_CORPUS=jsonl:absent/*.jsonl", "", "no file matches"),
    ("EL_CORPUS=jsonl:corpus [wieght=0.5]", "", "wieght"),
    ("EL_CORPUS=jsonl:corpus [weight=2]", "", "weight"),
    ("EL_CORPUS=jsonl:corpus + nope:x", "", "'nope:x' has no known scheme"),
    (
        "EL_INSTRUCTIONS=pool",
        "",
        "instructions 'pool' has no known scheme; use one of python-docs-questions:, parquet:",
    ),
    ("EL_INSTRUCTIONS=jsonl:", "", "names no place"),
    ("EL_INSTRUCTIONS=parquet:http://[x/y", "", "(EL_INSTRUCTIONS) = 'parquet:http://[x/y': http://[x/y is not an"),
    ("EL_INSTRUCTIONS=jsonl:absent", "--select gateau", "absent does not exist"),
    ("EL_INSTRUCTION_COLUMNS=mesages=x", "", "mesages"),
    ("EL_KEEP_COLUMNS=a,,b", "", "EL_KEEP_COLUMNS"),
    ("EL_LONG_MODEL=", "", "(EL_LONG_MODEL) = ''"),
    ("EL_LONG_MODEL=reference:lng", "", "there is no reference model 'reference:lng'; choose one of reference:short"),
    ("EL_LONG_MODEL=no such", "", "model 'no such' is neither an existing folder nor a hub id"),
    ("EL_LONG_MODEL=/absent/model", "", "EL_LONG_MODEL: model '/absent/model' is neither an existing folder"),
    ("EL_LONG_MODEL=corpus", "", "EL_LONG_MODEL: "),
    ("EL_LONG_MODEL=dagster.yaml", "", "is a file; give the folder that holds it"),
    ("EL_BOS_TOKEN=<nope>", "", "error: EL_BOS_TOKEN='<nope>': the tokenizer of"),
    ("EL_END_OF_TEXT_TOKEN=<nope>", "", "error: EL_END_OF_TEXT_TOKEN='<nope>': the tokenizer of"),
    ("EL_LONG_MODEL_REVISION=main", "", "is local and has no revision 'main'; leave the revision empty"),
    ("EL_ENCODER=bge", "", "no such encoder; use reference-idf or sentence-transformers:NAME-OR-FOLDER"),
    ("EL_ENCODER=sentence-transformers:", "", "no such encoder"),
    (
        "EL_ENCODER=sentence-transformers:/absent/x",
        "",
        "there is no folder /absent/x; correct the path, or give a hub id",
    ),
    (
        "EL_ENCODER=sentence-transformers:dagster.yaml",
        "",
        "EL_ENCODER: encoder 'sentence-transformers:dagster.yaml' is",
    ),
    ("EL_ENCODER=sentence-transformers:corpus", "", "corpus holds neither modules.json nor config.json; give the"),
    ("EL_ENCODER=sentence-transformers:bad/layers", "", "holds a causal language model (LlamaForCausalLM)"),
    ("EL_ENCODER=sentence-transformers:bad/encoder", "", "EL_ENCODER: encoder 'sentence-transformers:bad/encoder'"),
    ("EL_SHORT_MODEL=corpus", "", "EL_SHORT_MODEL: model 'corpus': corpus holds no config.json"),
    ("EL_LONG_MODEL=bad/layers", "", "EL_LONG_MODEL: the weights in bad/layers have layers that its config.json"),
    ("EL_LONG_MODEL=bad/more_layers", "", "EL_LONG_MODEL: the weights in bad/more_layers lack 9 tensors"),
    ("EL_LONG_MODEL=bad/width", "", "EL_LONG_MODEL: the weights in bad/width do not fit its config.json"),
    ("EL_LONG_MODEL=bad/no_layers", "", "bad/no_layers/config.json states num_hidden_layers=-1; correct it"),
    ("EL_LONG_MODEL=bad/no_heads", "", "EL_LONG_MODEL: transformers"),
    ("EL_LONG_MODEL=bad/type", "", "EL_LONG_MODEL: bad/type/config.json names the model_type 'lama'"),
    ("EL_SHORT_MODEL=bad/type EL_HMG_FORM=pair", "", "EL_SHORT_MODEL: bad/type/config.json names the model_type"),
    (
        "EL_SHORT_MODEL=reference:long EL_HMG_FORM=pair_ntk",
        "",
        "EL_HMG_FORM=pair_ntk: short_model 'reference:long' cannot be read in the window of long_model, 4096 tokens",
    ),
    ("EL_HUB_ENDPOINT=huggingface.co", "", "no address; write https://HOST"),
    ("EL_HUB_ENDPOINT=https://host:99999", "", "no address; write https://HOST"),
    ("EL_TRUST_REMOTE_CODE=perhaps", "", "(EL_TRUST_REMOTE_CODE) = 'perhaps'"),
    ("EL_CHUNK_TOKENS=4096", "", "no root fits: EL_CHUNK_TOKENS=4096, EL_ROOT_TOKENS_MIN=128"),
    ("EL_CHUNK_TOKENS=many", "", "(EL_CHUNK_TOKENS) = 'many'"),
    ("EL_CHUNK_TOKENS=1e3", "", "(EL_CHUNK_TOKENS) = '1e3'"),
    ("EL_ROOT_TOKENS_MIN=2000", "", "root_tokens_max=640 is below root_tokens_min=2000"),
    ("EL_SEQUENCE_TOKENS=100", "", "sequence_tokens=100 has to hold a whole root"),
    ("EL_CONTROLS_PER_ROOT=0", "", "controls_per_root=0 draws none; set"),
    ("EL_LONG_WINDOW=99999999", "", "EL_LONG_WINDOW=99999999: the model in"),
    ("EL_LONG_WINDOW=4097", "--select entropylong", "reads at most 4096 tokens at once"),
    ("EL_LONG_WINDOW=1", "", "EL_LONG_WINDOW=1: a window of 1 tokens cannot hold BOS and one token; give at least 2"),
    ("EL_SHORT_WINDOW=1", "", "EL_SHORT_WINDOW=1 cannot hold BOS and one token; give at least 2, or 0"),
    ("EL_LONG_WINDOW=400", "", "the window of EL_SHORT_MODEL=reference:short, 512, is beyond the window of"),
    ("EL_END_OF_TEXT_TOKEN=hello", "", "error: EL_END_OF_TEXT_TOKEN='hello': the tokenizer of"),
    ("EL_BOS_TOKEN=the", "", "takes this for ordinary text, not for a special token; nearest are '<|endoftext|>'"),
    ("EL_SHORT_WINDOW=9000", "--select gateau", "EL_SHORT_WINDOW=9000 is beyond the window of reference:long, 4096"),
    ("EL_EPSILON=1", "", "(EL_EPSILON) = '1'"),
    ("EL_EPSILON=0,4", "", "(EL_EPSILON) = '0,4'"),
    ("EL_ALPHA=nan", "", "(EL_ALPHA) = 'nan'"),
    ("EL_CORES_PER_RUN=inf", "", "(EL_CORES_PER_RUN) = 'inf'"),
    ("EL_BAD_ROWS_MAX_SHARE=1%", "", "(EL_BAD_ROWS_MAX_SHARE) = '1%'"),
    ("EL_LINE_MIB_MAX=0", "", "(EL_LINE_MIB_MAX) = '0'"),
    ("EL_PROFILE=papers", "", "papers"),
    ("EL_RETRIEVER=bm25", "", "(EL_RETRIEVER) = 'bm25'"),
    ("EL_RUNS_AT_ONCE=many", "", "EL_RUNS_AT_ONCE='many' is not a number of runs; set it to 1 or more"),
    ("EL_RUNS_AT_ONCE=0", "", "EL_RUNS_AT_ONCE='0' is not a number of runs"),
    ("EL_EXECUTION=Ray", "", "EL_EXECUTION='Ray' is unknown; choose one of ['local', 'ray']"),
    ("EL_FAILURE_WEBHOOK=hooks.slack.com/x", "", "EL_FAILURE_WEBHOOK is not an http or https address"),
    ("EL_FAILURE_WEBHOOK=https:///x", "", "EL_FAILURE_WEBHOOK is not an http or https address"),
    ("EL_FAILURE_WEBHOOK=http://[x/y", "", "EL_FAILURE_WEBHOOK is not an http or https address"),
    ("EL_ALHPA=2", "", "unknown setting EL_ALHPA (did you mean EL_ALPHA?)"),
    ("el_alpha=2", "", "unknown setting el_alpha (did you mean EL_ALPHA?)"),
    ("DAGSTER_HOME=absent", "", "DAGSTER_HOME='absent' is not a folder"),
    ("DAGSTER_HOME=dagster.yaml", "", "DAGSTER_HOME='dagster.yaml' is not a folder"),
    ("DAGSTER_HOME=broken", "", "broken/dagster.yaml cannot be read (while parsing"),
    ("DAGSTER_HOME=list", "", "list/dagster.yaml holds a list, and not Dagster's settings by name; repair it"),
    ("DAGSTER_HOME=unset", "", "unset/dagster.yaml needs the variables NO_SUCH_VARIABLE, which are not set"),
    ("", "--shards z.jsonl", "unknown shard 'z.jsonl'; there are a.jsonl, \"b,c.jsonl\""),
    ("", "--shard z.jsonl", "unknown shard 'z.jsonl'"),
    ("", "--shards=", "unknown shard ''"),
    ("", "--select indx", "unknown part 'indx'; there are"),
    ("", "--subsets top_5_percent", "unknown subset 'top_5_percent'; there are"),
    ("", "--store s3://", "no bucket is named"),
    ("", "--corpus corpus", "'corpus' has no known scheme"),
]


# The long reference model with another config.
BAD_CONFIGS = {
    "layers": {"num_hidden_layers": 2},
    "more_layers": {"num_hidden_layers": 7},
    "width": {"hidden_size": 128},
    "no_layers": {"num_hidden_layers": -1},
    "no_heads": {"num_attention_heads": 0},
    "type": {"model_type": "lama"},
    "encoder": {"architectures": ["BertModel"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wrong")
    homes = {
        "": "telemetry: {enabled: false}\n",
        "broken": "a: [",
        "list": "- a\n",
        "unset": "a: {env: NO_SUCH_VARIABLE}\n",
    }
    for name, text in homes.items():
        (place / name).mkdir(exist_ok=True)
        (place / name / "dagster.yaml").write_text(text)
    for name in ("a.jsonl", "b,c.jsonl"):
        write_json_lines(place / "corpus" / name, library_documents(1))
    write_json_lines(place / "pool" / "q.jsonl", library_samples(1))
    for name, changes in BAD_CONFIGS.items():
        model = Path(shutil.copytree(REFERENCE_FOLDER / "long", place / "bad" / name))
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, **changes}))
    (place / "bad/encoder/model.safetensors").unlink()
    return place


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(folder)
    told = {
        "DAGSTER_HOME": str(folder),
        "EL_CORPUS": "jsonl:corpus",
        "EL_INSTRUCTIONS": "jsonl:pool",
        "EL_STORE": "store",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: main([*arguments])


@pytest.mark.parametrize(("variable", "arguments", "said"), VALUES)
def test_a_wrong_value_is_refused_before_a_run(
    command: Callable[..., int],
    folder: Path,
    variable: str,
    arguments: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for given in variable.split(" EL_"):
        name, _, value = given.partition("=")
        if name:
            monkeypatch.setenv(name if name.startswith(("EL_", "el_", "DAG")) else f"EL_{name}", value)
    assert command("run", *arguments.split()) == 2
    out, error = capsys.readouterr()
    assert said in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert "hunter2" not in error
    assert "shards of" not in out or "shard" in said, "nothing was begun"
    assert not (folder / "store/tables").exists()


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    """A server whose answer to every request is the status that its path begins with."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path.split("/")[1]))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


S3 = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_MAX_ATTEMPTS": "1",
}
# (address, as it is told, what is said of it)
UNREACHABLE = [
    ("http://me:hunter2@127.0.0.1:1/a", "http://127.0.0.1:1/a", "cannot be reached (Cannot connect to host 127.0"),
    ("https://me:hunter2@127.0.0.1:1/*", "https://127.0.0.1:1/*", "cannot be reached (Cannot connect to host 127.0"),
    ("http://nowhere.invalid/a", "http://nowhere.invalid/a", "cannot be reached (Cannot connect to host nowhere.inv"),
    ("ftp://me:hunter2@127.0.0.1:1/a", "ftp://127.0.0.1:1/a", "cannot be reached ([Errno 111] Connection refused); c"),
    ("http://SERVER/403/a?sig=hunter2", "http://SERVER/403/a", "cannot be reached (403, message='Forbidden', url='ht"),
    ("http://SERVER/500/b/", "http://SERVER/500/b/", "cannot be reached (500, message='Internal Server Error', url="),
    ("http://me:hunter2@SERVER/404/a", "http://SERVER/404/a", "does not exist; name a file, a folder or a glob"),
    ("s3://no-such-bucket/a", "s3://no-such-bucket/a", "at http://127.0.0.1:1 cannot be reached (Could not connect to"),
]


@pytest.mark.parametrize(("variable", "arguments"), [("EL_CORPUS", ""), ("EL_INSTRUCTIONS", "--select gateau")])
@pytest.mark.parametrize(("address", "shown", "said"), UNREACHABLE)
def test_a_source_that_cannot_be_reached_is_a_line_with_its_setting(
    command: Callable[..., int],
    refusing: str,
    variable: str,
    arguments: str,
    address: str,
    shown: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {**S3, variable: f"jsonl:{address.replace('SERVER', refusing)}"}.items():
        monkeypatch.setenv(name, value)
    for words in (["register"], ["run", *arguments.split()], ["status", *arguments.split()]):
        assert command(*words) in (1, 2)
        error = capsys.readouterr().err
        assert error.startswith(f"error: {variable}: "), error
        assert f"{shown.replace('SERVER', refusing)} {said}" in error
        assert "; check the " in error or "; name a " in error
        assert len(error.splitlines()) == 1
        assert "hunter2" not in error


def test_a_tick_over_a_source_that_cannot_be_reached_names_its_setting() -> None:
    settings = Settings.load({}, corpus="jsonl:http://me:hunter2@127.0.0.1:1/a.jsonl")
    with pytest.raises(ConnectionError, match=r"^EL_CORPUS: http://127\.0\.0\.1:1/a\.jsonl cannot be reached"):
        listing("corpus", settings)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("EL_DEVICE=cuda:97", "EL_DEVICE='cuda:97' is not there: torch sees"),
        ("EL_LONG_MODEL=/absent/model", "EL_LONG_MODEL: model '/absent/model' is neither an existing folder"),
        ("EL_CHUNK_TOKENS=4096", "no root fits: EL_CHUNK_TOKENS=4096"),
    ],
)
def test_a_backfill_of_what_cannot_run_is_refused_before_it_is_handed_over(
    command: Callable[..., int],
    folder: Path,
    variable: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, _, value = variable.partition("=")
    monkeypatch.setenv(name, value)
    assert command("backfill") == 2
    out, error = capsys.readouterr()
    assert said in error
    assert len(error.splitlines()) == 1
    assert out == "", "nothing was registered"


def test_the_devices_of_this_machine_are_not_looked_at_if_runs_are_elsewhere(tmp_path: Path) -> None:
    settings = Settings.load({}, device="cuda:97", store=str(tmp_path))
    refuse_what_cannot_run(settings, [], runs_here=False)
    with pytest.raises(ValueError, match="is not there: torch sees"):
        refuse_what_cannot_run(settings, [])


def test_the_home_folder_is_written_out(
    command: Callable[..., int], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    for name, value in {
        "EL_STORE": "~/kept",
        "EL_LONG_MODEL": "~/m",
        "EL_ENCODER": "sentence-transformers:~/e",
    }.items():
        monkeypatch.setenv(name, value)
    assert command("settings") == 0
    shown = capsys.readouterr().out
    assert all(
        f'"{place}"' in shown for place in (f"{folder}/kept", f"{folder}/m", f"sentence-transformers:{folder}/e")
    )


def test_a_shard_whose_name_has_a_comma_can_be_named(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("EL_STORE", str(tmp_path / "store"))
    for arguments in (["--shard", "b,c.jsonl"], ["--shards", '"b,c.jsonl"']):
        assert command("run", "--select", "index", *arguments) == 0
        assert '1 of 2 shards of jsonl:corpus: "b,c.jsonl"\n' in capsys.readouterr().out
    assert command("run", "--select", "index", "--shard", "b,c.jsonl", "--shards", "a.jsonl") == 0
    assert "2 of 2 shards" in capsys.readouterr().out
    assert command("backfill", "--select", "index", "--shard", "b,c.jsonl") == 0
    assert '1 of 2 shards of jsonl:corpus: "b,c.jsonl"\n' in capsys.readouterr().out
