"""Every command that README.md and docs/ show is accepted by its program; the cheap ones are run as they stand.

A command of a program that is not listed here fails the test: say in CHECKS how it is tried, or in NOT_RUN why it
cannot be. `/data`, `/models` and NAME stand for a folder and a shard of the test.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import click
import polars as pl
import pytest

from el_assets.__main__ import main
from el_assets.cli.command_line import parser
from el_resources.configuration.environment import Environment
from el_resources.settings import Settings
from tests.conftest import library_documents, library_samples, tiny_model, write_json_lines

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "docs", "benchmarks", "benchmarks/results")
PAGES = [page for folder in FOLDERS for page in sorted((ROOT / folder).glob("*.md"))]
# Programs whose commands are not run, and why.
NOT_RUN = {
    "sudo": "changes the machine",
    "ray": "needs a cluster; tests/test_cluster.py runs one",
    "cp": "a shell's own",
    "$EDITOR": "a person's",
    "set": "a shell's own",
    ".": "a shell's own",
    "source": "a shell's own",
    "export": "a shell's own",
    "cd": "a shell's own",
    "ssh": "needs a second machine",
    "git": "needs a remote repository",
    "jq": "is not installed with the project",
    "zstd": "is not installed with the project",
    "iconv": "is not installed with the project",
    "hf": "needs the hub",
    "python3.11": "makes an environment",
    ".venv/bin/pip": "needs the package index",
    "curl": "needs the server that it asks",
    "docker": "is not installed with the project",
    ".ci/run": "runs this test",
    "pre-commit": "is not installed with the project",
    "openssl": "is not installed with the project",
}
# Scripts of which only the options are looked at, in their `--help`, and why.
ONLY_HELP = {
    "benchmarks/gateau.py": "takes minutes or more",
    "benchmarks/hard_texts.py": "takes minutes",
    "benchmarks/index_scale.py": "takes minutes",
    "benchmarks/many_shards.py": "takes minutes",
    "benchmarks/numerics.py": "takes minutes",
    "benchmarks/overheads.py": "takes minutes",
    "benchmarks/paper_profile.py": "takes minutes",
    "benchmarks/pipeline.py": "needs a GPU, or minutes",
    "benchmarks/retrieval.py": "takes minutes",
    "benchmarks/scoring.py": "needs a GPU, or minutes",
    "docs/write_settings.py": "changes the checkout",
    "docs/make_pictures.py": "needs a browser",
    "requirements/lock.py": "needs the package index",
}
OWN = ("run", "backfill", "register", "status", "settings", "ui")
# Words of prose that stand between backquotes like commands and are none.
PROGRAMS = {"python", "entropylong", "make", "pip", "dg", "dagster", "dagster-daemon", "dagster-webserver"}
SMALL = {
    "EL_ROOTS_PER_SHARD": "2",
    "EL_ROOT_TOKENS_MIN": "32",
    "EL_CANDIDATES_PER_ANCHOR": "2",
    "EL_MAX_ANCHORS": "2",
    "EL_ALPHA": "0.5",
    "EL_EPSILON": "0",
}


def blocks() -> Iterator[str]:
    """Yield each line of the code blocks for a shell."""
    for page in PAGES:
        for block in re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", page.read_text(), re.M | re.S):
            yield from block.replace("\\\n", " ").splitlines()


def inline() -> Iterator[str]:
    """Yield the texts between backquotes that begin like a command, or with a script."""
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
        for quoted in re.findall(r"`([^`\n]+)`", text):
            first, _, rest = quoted.partition(" ")
            if (first in PROGRAMS and rest) or (first in OWN and rest.startswith("-")) or "EL_EXECUTION=ray " in quoted:
                yield quoted
            elif first in ONLY_HELP:
                yield f"python {quoted}"


def commands() -> Iterator[list[str]]:
    """Yield the words of every command, each once."""
    seen = set()
    for line in [*blocks(), *inline()]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not re.fullmatch(r"[;&|]+", word):
                words.append(word)
                continue
            if words and tuple(words) not in seen:
                seen.add(tuple(words))
                yield words
            words = []


def split_variables(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables in front of a command, and the command."""
    given = {}
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words[0].partition("=")
        given[name] = value
        words = words[1:]
    return given, words


def of_make(words: list[str]) -> None:
    subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)


def of_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert set(name.split(",")) <= set(extras), words
    for file in (word for word in words if word.endswith((".lock", ".txt"))):
        assert (ROOT / file).is_file(), words


def of_python(words: list[str]) -> None:
    if words[1:3] == ["-m", "el_assets"]:
        of_ours(words[2:])
        return
    if words[1] == "-m":
        assert find_spec(words[2]), words
        return
    assert words[1] in ONLY_HELP, f"say in {Path(__file__).name} why {words[1]!r} is not run"
    options = {word for word in words if word.startswith("--")}
    assert (ROOT / words[1]).is_file(), words
    assert not options or all(option in help_of(words[1]) for option in options), words


@cache
def help_of(script: str) -> str:
    command = [sys.executable, script, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=with_root()).stdout


@pytest.mark.parametrize("script", sorted(ONLY_HELP))
def test_a_script_has_a_help_and_describes_every_option(script: str) -> None:
    calls = [node for node in ast.walk(ast.parse((ROOT / script).read_text())) if isinstance(node, ast.Call)]
    names = [(call.func.attr if isinstance(call.func, ast.Attribute) else "", call) for call in calls]
    assert any(name == "ArgumentParser" for name, _ in names), "its --help would run it"
    options = [call for name, call in names if name == "add_argument"]
    assert [ast.unparse(call) for call in options if "help" not in {word.arg for word in call.keywords}] == []


def of_ours(words: list[str]) -> None:
    if len(words) > 1 and not words[1].startswith("--v"):
        parser().parse_args([word for word in words[1:] if word != "..."])


def of_click(load: Callable[[], click.Command]) -> Callable[[list[str]], None]:
    def check(words: list[str]) -> None:
        command, context, rest = load(), None, words[1:]
        while isinstance(command, click.Group):
            context = click.Context(command, parent=context)
            found = command.get_command(context, rest[0])
            assert found, words
            command, rest = found, rest[1:]
        command.make_context(command.name, rest, parent=context, resilient_parsing=True)

    return check


def dagster_program() -> click.Command:
    from dagster._cli import create_dagster_cli

    return create_dagster_cli()


def dg_program() -> click.Command:
    from dagster_dg_cli.cli import cli

    return cli


def webserver() -> click.Command:
    from dagster_webserver.cli import dagster_webserver

    return dagster_webserver


def daemon() -> click.Command:
    from dagster._daemon.cli import create_dagster_daemon_cli

    return create_dagster_daemon_cli()


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": of_make,
    "pip": of_pip,
    "python": of_python,
    "entropylong": of_ours,
    "dagster": of_click(dagster_program),
    "dagster-webserver": of_click(webserver),
    "dagster-daemon": of_click(daemon),
    "dg": of_click(dg_program),
    **{name: lambda words: of_ours(["el_assets", *words]) for name in OWN},
}


def with_root(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_is_accepted_by_its_program(words: list[str]) -> None:
    given, command = split_variables(words)
    Settings.load({name: value for name, value in given.items() if name.startswith("EL_")})
    if not command or command[0] in NOT_RUN:
        return
    assert command[0] in CHECKS, f"say in {Path(__file__).name} how {command[0]!r} is tried"
    CHECKS[command[0]](command)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's own files, with sources and models where the documents say."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("dagster.yaml", "workspace.yaml", "pyproject.toml"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / "data/fineweb-edu").mkdir(parents=True)
    pl.DataFrame(library_documents(6)).write_parquet(folder / "data/fineweb-edu/a.parquet")
    write_json_lines(folder / "data/LongAlign-10k/q.jsonl", library_samples(4))
    tiny_model(folder / "models/Llama-3.2-1B")
    return folder


def in_place(place: Path, word: str) -> str:
    return re.sub(r"(^|[:'\"])/(data|models)/", rf"\1{place}/\2/", word)


def is_run(words: list[str]) -> bool:
    """Return true if a command is one of this project's that can be run here."""
    _, command = split_variables(words)
    text = " ".join(words)
    is_ours = command[:3] == ["python", "-m", "el_assets"] and len(command) > 3
    # `ui` serves until it is interrupted; tests/test_server.py does both.
    return is_ours and command[3] != "ui" and not re.search(r"\bNAME\b|s3:|hf:", text)


@pytest.mark.parametrize("words", list(filter(is_run, commands())), ids=" ".join)
def test_our_commands_run_as_they_stand(place: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given, command = split_variables(words)
    if given.get("EL_EXECUTION") == "ray":
        pytest.skip("tests/test_cluster.py runs it")
    given.pop("EL_ENCODER", None)  # of the hub
    default = {
        "EL_CORPUS": f"parquet:{place}/data/fineweb-edu",
        "EL_INSTRUCTIONS": f"jsonl:{place}/data/LongAlign-10k",
        "EL_STORE": str(place / "data"),
        "EL_LONG_MODEL": str(place / "models/Llama-3.2-1B"),
        "EL_SHORT_MODEL": str(place / "models/Llama-3.2-1B"),
        "EL_SHORT_WINDOW": "512",
    }
    monkeypatch.chdir(place)
    monkeypatch.setenv("DAGSTER_HOME", str(place))
    for name, value in {**default, **SMALL, **given}.items():
        monkeypatch.setenv(name, in_place(place, value))
    arguments = [in_place(place, word) for word in command[3:] if word != "..."]
    if "reports" in arguments:
        assert main(["run", "--select", "gateau"]) == 0
    assert main(arguments) in ((0, 1) if arguments[0] == "status" else (0,)), arguments
    assert Environment.read()


@pytest.mark.services  # a minute, for Dagster's own command line
def test_dagsters_own_commands_run(place: Path) -> None:
    corpus = {"EL_CORPUS": f"parquet:{place}/data/fineweb-edu", "EL_STORE": str(place / "by dagster"), **SMALL}
    env = with_root(DAGSTER_HOME=str(place), PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", **corpus)
    run = [sys.executable, "-m", "el_assets", "run", "--select", "index,entropylong"]
    subprocess.run(run, cwd=place, env=env, check=True, capture_output=True)
    found = [
        words for words in commands() if words[:2] == ["dg", "launch"] or words[:3] == ["dagster", "job", "launch"]
    ]
    assert len(found) >= 2
    for words in found:
        command = ["a.parquet" if word == "NAME" else word for word in words]
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr[-2000:])
