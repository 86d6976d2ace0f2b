"""Names lead to whole model folders or to an error that says what to do; fingerprints follow contents."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from el_resources.models.model_files import (
    REFERENCE_FOLDER,
    model_fingerprint,
    model_window,
    resolve_model,
    tokenizer_fingerprint,
)

# `sha256sum model.safetensors` of the long reference model.
SHA256_OF_LONG = "fa8a287388dc2635f81c79a903ad52b4e92c650eaf4aeda1de1f84160c56b318"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model folder that a test may break."""
    return Path(shutil.copytree(REFERENCE_FOLDER / "long", tmp_path / "model"))


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter: the hub's client reads its environment at import."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=False
    )


def rewrite_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def shard_weights(folder: Path) -> None:
    """Lay the weights out as a large model does, with an index that lists a second file, which is not there."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_reference_models_are_whole_and_have_their_windows() -> None:
    assert model_window(resolve_model("reference:short")) == 512
    assert model_window(resolve_model("reference:long")) == 4096


def test_a_folder_is_taken_as_it_is(folder: Path) -> None:
    assert resolve_model(str(folder)) == folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reference:medium", r"no reference model 'reference:medium'; choose one of reference:short, reference:long"),
        ("./nowhere", r"'./nowhere' is neither an existing folder nor a hub id"),
        ("a/b/c", r"'a/b/c' is neither an existing folder nor a hub id"),
        ("", r"'' is neither an existing folder nor a hub id"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_model(name)


def test_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"is a file; give the folder"):
        resolve_model(str(folder / "model.safetensors"))


def test_a_revision_of_local_files_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"has no revision 'v2'"):
        resolve_model(str(folder), "v2")
    assert resolve_model(str(folder), "") == folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"holds no config\.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"holds no tokenizer \(none of tokenizer\.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"holds no weights: neither model\.safetensors"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            r"pickled weights only \(pytorch_model\.bin\).*writes safetensors",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
            r"model\.safetensors is a Git LFS pointer; fetch its content with `git lfs pull`",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n"),
            r"tokenizer\.json is a Git LFS pointer; fetch its content with `git lfs pull`",
        ),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text("<!DOCTYPE html><title>Log in</title>"),
            r"tokenizer_config\.json is an HTML or XML page",
        ),
        (
            lambda folder: (folder / "config.json").write_text("# xet version 0\nfilesize = 1\n"),
            r"config\.json is a Xet pointer; fetch its content with `git xet` or `hf download`",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(gzip.compress(b"weights")),
            r"model\.safetensors is compressed with gzip; decompress it",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text(""), r"tokenizer\.json is an empty file"),
        (
            lambda folder: os.truncate(folder / "model.safetensors", 1_000_000),
            r"not a whole safetensors file \(1000000 bytes\)",
        ),
        (shard_weights, r"lists weights that are not there \(\['model-00002-of-00002\.safetensors'\]\)"),
    ],
)
def test_a_folder_with_missing_files_is_refused(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        resolve_model(str(folder))
    assert str(folder) in str(error.value)


def test_a_broken_config_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        model_window(folder)


def test_window_comes_from_the_config_or_the_caller(folder: Path) -> None:
    assert model_window(folder, 4096) == 4096
    assert model_window(folder, 1024) == 1024
    with pytest.raises(ValueError, match=r"^EL_LONG_WINDOW=4097: .* reads at most 4096 tokens .* or 0 for 4096$"):
        model_window(folder, 4097)
    (folder / "config.json").write_text('{"text_config": {"max_position_embeddings": 77}}')
    assert model_window(folder) == 77
    (folder / "config.json").write_text('{"n_positions": 99}')
    assert model_window(folder) == 99
    (folder / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(ValueError, match=r"states no max_position_embeddings; give the window explicitly"):
        model_window(folder)
    assert model_window(folder, 1_000_000) == 1_000_000, "a config that names no limit allows any"
    with pytest.raises(ValueError, match=r"window of 1 tokens"):
        model_window(folder, 1)


def test_fingerprint_is_of_contents_not_of_places(folder: Path) -> None:
    before = model_fingerprint(folder, dtype="float32")
    assert before == model_fingerprint(REFERENCE_FOLDER / "long", dtype="float32")
    (folder / "README.md").write_text("no model depends on its card")
    assert before == model_fingerprint(folder, dtype="float32")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: rewrite_json(folder / "config.json", rms_norm_eps=1e-5),
        lambda folder: rewrite_json(folder / "tokenizer.json", truncation=None, version="1.1"),
        lambda folder: rewrite_json(folder / "tokenizer_config.json", bos_token="!"),
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-1] + b"\x01"
        ),
    ],
    ids=["config", "tokenizer", "tokenizer settings", "weights"],
)
def test_fingerprint_follows_each_file(folder: Path, change: Callable[[Path], None]) -> None:
    before = model_fingerprint(folder, dtype="float32")
    change(folder)
    assert model_fingerprint(folder, dtype="float32") != before


def test_fingerprint_follows_dtype_and_window(folder: Path) -> None:
    fingerprints = {
        model_fingerprint(folder, dtype="float32"),
        model_fingerprint(folder, dtype="bfloat16"),
        model_fingerprint(folder, dtype="float32", window=2048),
    }
    assert len(fingerprints) == 3
    with pytest.raises(ValueError, match=r"dtype 'fp32' is unknown; choose one of auto, float32"):
        model_fingerprint(folder, dtype="fp32")


def test_models_with_one_tokenizer_share_its_fingerprint() -> None:
    short, long = REFERENCE_FOLDER / "short", REFERENCE_FOLDER / "long"
    assert tokenizer_fingerprint(short) == tokenizer_fingerprint(long)
    assert model_fingerprint(short, dtype="float32") != model_fingerprint(long, dtype="float32")


def make_hub_cache(home: Path, model: str) -> Path:
    """The reference model as the hub's client keeps a download: blobs named by their hash, linked from a snapshot."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = home / "hub" / f"models--{model.replace('/', '--')}"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / commit
    for place in (blobs, snapshot, repository / "refs"):
        place.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for file in (REFERENCE_FOLDER / "long").iterdir():
        large = file.suffix == ".safetensors"
        # Large files are named by their SHA-256 and need no reading; small ones by their Git hash.
        blob = blobs / (SHA256_OF_LONG if large else f"{len(file.name):040x}")
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    return snapshot


def test_a_cached_hub_model_needs_no_hub_and_has_the_fingerprint_of_its_files(tmp_path: Path) -> None:
    snapshot = make_hub_cache(tmp_path, "someone/tiny")
    code = "from el_resources.models.model_files import *; print(resolve_model('someone/tiny'))"
    done = run_python(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout.strip()) == (0, str(snapshot)), done.stderr
    local = model_fingerprint(REFERENCE_FOLDER / "long", dtype="float32")
    assert model_fingerprint(snapshot, dtype="float32") == local


def test_an_unreachable_hub_is_named_with_the_way_out(tmp_path: Path) -> None:
    code = "from el_resources.models.model_files import *; resolve_model('someone/tiny', 'v1')"
    done = run_python(code, HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    assert done.returncode == 1
    assert "ConnectionError: there is no folder 'someone/tiny', and the hub cannot be reached" in done.stderr
    assert "revision 'v1'" in done.stderr and "give a local folder" in done.stderr


@pytest.fixture
def refusing_hub(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a hub that answers every question with one refusal."""

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", request.param)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output free of the server's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("refusing_hub", "message"),
    [
        ("RepoNotFound", "ValueError: there is no folder 'someone/tiny', and no such model on the hub"),
        ("RevisionNotFound", "ValueError: the hub has no model 'someone/tiny' at revision 'v1'"),
    ],
    indirect=["refusing_hub"],
)
def test_a_model_that_the_hub_does_not_have_is_a_wrong_name(tmp_path: Path, refusing_hub: str, message: str) -> None:
    code = "from el_resources.models.model_files import *; resolve_model('someone/tiny', 'v1')"
    done = run_python(code, HF_HOME=str(tmp_path), HF_ENDPOINT=refusing_hub, HF_HUB_OFFLINE="0")
    assert done.returncode == 1
    assert message in done.stderr


def test_no_torch_is_imported() -> None:
    code = (
        "import sys; from el_resources.models.model_files import *; from el_resources.models.tokenization import *; "
        "ModelTokenizer.from_folder(resolve_model('reference:long')).encode('a'); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert run_python(code).returncode == 0
