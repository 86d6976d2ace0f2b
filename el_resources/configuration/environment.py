"""Variables of a workspace, read in the same way by commands in a shell, Dagster's servers, and their runs.

Precedence, highest first: a command's flag, `.env` in the working directory, the shell. `.env` takes precedence over
the shell because Dagster's own commands (`dagster dev`, the daemon, the code servers) give it precedence; otherwise the
UI could serve one corpus while a command in the shell makes another.
"""

import difflib
import io
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from el_resources.addresses import is_web_address

PREFIX = "EL_"
# Variables with the same prefix that are not settings of a run: where runs are executed, how many at once, the address
# that is told of failures, and the host names of the UI.
OTHER_VARIABLES = {"EL_EXECUTION", "EL_RUNS_AT_ONCE", "EL_FAILURE_WEBHOOK", "EL_UI_HOSTS"}
EXECUTIONS = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Layers of variables; each takes precedence over the next.

    Attributes:
        flags: variables that a command's flags set.
        file: variables of `.env`.
        shell: variables of the process.
    """

    flags: Mapping[str, str] = field(default_factory=dict)
    file: Mapping[str, str] = field(default_factory=dict)
    shell: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, flags: Mapping[str, str] | None = None) -> "Environment":
        """Read the process's variables and `.env` in the working directory.

        Raises:
            ValueError: `.env` is there and cannot be read.
        """
        return cls(flags=flags or {}, file=read_env_file(Path.cwd() / ".env"), shell=dict(os.environ))

    def values(self) -> dict[str, str]:
        """Return all variables with the values that take precedence."""
        return {**self.shell, **self.file, **self.flags}

    def origin(self, variable: str) -> str:
        """Return the layer that a variable comes from: `flag`, `.env` or `shell`; empty if none has it."""
        layers = {"flag": self.flags, ".env": self.file, "shell": self.shell}
        return next((name for name, layer in layers.items() if variable in layer), "")

    def without_flags(self) -> "Environment":
        """Return the environment without this command's flags, as other commands and the UI read it."""
        return Environment(file=self.file, shell=self.shell)

    def enter(self) -> None:
        """Set variables of the file that are not settings in this process, for libraries that read them (HF_TOKEN)."""
        others = {k: v for k, v in self.file.items() if not k.startswith(PREFIX) or k in OTHER_VARIABLES}
        os.environ.update(others)


def read_env_file(file: Path) -> dict[str, str]:
    """Return the variables of a `.env` file; none if the file does not exist.

    Raises:
        ValueError: it cannot be read, or has a line without a value, which dotenv would ignore.
    """
    if not (file.exists() or file.is_symlink()):
        return {}
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read ({error}); repair it, or remove it") from error
    for line in parse_stream(io.StringIO(text)):
        if line.error or (line.key is not None and line.value is None):
            shown = line.original.string.strip().splitlines()[0]
            raise ValueError(f"{file}, line {line.original.line}: {shown!r} is not NAME=VALUE; repair or remove it")
    return {name: value for name, value in dotenv_values(file).items() if value is not None}


def settings_in(variables: Mapping[str, str], fields: Collection[str]) -> dict[str, str]:
    """Return `{field: text}` for every `EL_<FIELD>`.

    Raises:
        ValueError: a name is unknown; ignoring it could change results. The error suggests the nearest name.
    """
    refuse_bad_values(variables)
    named = {k: v for k, v in variables.items() if k.upper().startswith(PREFIX) and k not in OTHER_VARIABLES}
    unknown = sorted(k for k in named if k not in map(variable_of, fields))
    if unknown:
        known = [variable_of(name) for name in fields] + sorted(OTHER_VARIABLES)
        raise ValueError(
            f"unknown setting {'; '.join(suggested(unknown, known))}. .env.example lists every EL_* variable"
        )
    return {field_of(k): v for k, v in named.items()}


def refuse_bad_values(variables: Mapping[str, str]) -> None:
    """Raise ValueError for a value on which Dagster or a sensor would fail later; name variable, value and remedy."""
    execution = variables.get("EL_EXECUTION", "local")
    if execution not in EXECUTIONS:
        raise ValueError(f"EL_EXECUTION={execution!r} is unknown; choose one of {[*EXECUTIONS]}")
    at_once = variables.get("EL_RUNS_AT_ONCE")
    if at_once is not None and not (at_once.strip().isdecimal() and int(at_once) >= 1):
        raise ValueError(f"EL_RUNS_AT_ONCE={at_once!r} is not a number of runs; set it to 1 or more")
    webhook = variables.get("EL_FAILURE_WEBHOOK", "")
    if webhook and not is_web_address(webhook):
        # Not shown: it may hold a token.
        raise ValueError("EL_FAILURE_WEBHOOK is not an http or https address; write https://HOST/PATH, or unset it")


def suggested(unknown: Collection[str], known: Collection[str]) -> Iterator[str]:
    """Yield each unknown name, with the most similar known one if there is any."""
    for name in unknown:
        near = [name.upper()] if name.upper() in known else difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        yield f"{name} (did you mean {near[0]}?)" if near else name


def variable_of(name: str) -> str:
    """Return the variable of a setting: `EL_ALPHA` for `alpha`.

    Example:
        >>> variable_of("alpha")
        'EL_ALPHA'
    """
    return PREFIX + name.upper()


def field_of(variable: str) -> str:
    """Return the setting of a variable: `alpha` for `EL_ALPHA`."""
    return variable.removeprefix(PREFIX).lower()


def as_env_lines(variables: Mapping[str, str]) -> list[str]:
    """Return lines for `.env` with these variables; values with special characters are quoted.

    Example:
        >>> as_env_lines({"EL_STORE": "my data"})
        ["EL_STORE='my data'"]
    """
    return [f"{name}={_quoted(value)}" for name, value in variables.items()]


def _quoted(value: str) -> str:
    plain = all(c.isalnum() or c in "/._-:,@+*=" for c in value)
    return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
