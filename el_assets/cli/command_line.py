"""The commands of `entropylong`: their options, their errors and their exit status."""

import argparse
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from el_assets.cli.interrupts import Interrupted, Interrupts
from el_assets.cli.streams import warnings_in_lines
from el_assets.parts import FRACTIONS, PARTS
from el_assets.tables.failures import Told, told_of, trace_of_command
from el_resources.addresses import without_secrets
from el_resources.configuration.environment import Environment

# Command-line option -> (variable of the settings, help).
OPTIONS = {
    "profile": ("EL_PROFILE", "preset of settings: reference (default) or paper"),
    "corpus": (
        "EL_CORPUS",
        "where documents come from: python-docs:, parquet:PLACE, jsonl:PLACE, hf:OWNER/NAME/CONFIG",
    ),
    "instructions": (
        "EL_INSTRUCTIONS",
        "where instruction samples come from: python-docs-questions:, jsonl:PLACE, parquet:PLACE, hf:OWNER/NAME/CONFIG",
    ),
    "store": ("EL_STORE", "folder or s3://BUCKET/PREFIX for tables and index (default: data)"),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="entropylong",
        description="Long-context training data from a shell. `entropylong` and `python -m el_assets` are the same.",
        epilog="Every setting is an EL_* variable of the shell or of .env in the working directory, which wins; "
        "`settings` shows each with its value and where that comes from.",
    )
    top.add_argument("--version", action="version", version=f"entropylong {version('entropylong')}")
    commands = top.add_subparsers(dest="command", required=True)
    _add_run(commands)
    _add_backfill(commands)
    _add_register(commands)
    _add_status(commands)
    _add_settings(commands)
    _add_ui(commands)
    for command in commands.choices.values():
        command.add_argument(
            "--debug", action="store_true", help="print the whole trace of an error and libraries' warnings"
        )
    return top


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="register shards and materialize them",
        description="Register the corpus's shards, materialize what is missing or stale, and print a summary. "
        "Every other setting is an EL_* variable; .env.example lists them.",
    )
    _add_options(run)
    _add_shards(run)
    run.add_argument("--select", metavar="A,B", help=f"only these parts, of {', '.join(PARTS)} (default: all)")
    _add_subsets(run)
    run.add_argument("--force", action="store_true", help="recompute tables even if they are up to date")
    run.add_argument(
        "--replace-by-empty",
        action="store_true",
        help="let scored tables be replaced by empty ones, which otherwise stops the run before they are written",
    )
    run.add_argument(
        "--refresh",
        action="store_true",
        help="retrieve candidates again from the newest index; only pairs never scored before cost a forward",
    )


def _add_backfill(commands: Any) -> None:
    backfill = commands.add_parser(
        "backfill",
        help="hand shards to Dagster's daemon, which launches runs on this machine or on a cluster",
        description="Register the corpus's shards and ask the daemon of the instance for what is missing or stale. "
        "Settings are those of the daemon's environment. EL_EXECUTION=ray uses the instance of deploy/, whose runs are "
        "jobs of a Ray cluster: docs/cluster.md.",
    )
    _add_shards(backfill)
    backfill.add_argument(
        "--select", metavar="A,B", help=f"only these parts, of {', '.join(PARTS)} (default: all but reports)"
    )
    _add_subsets(backfill)


def _add_register(commands: Any) -> None:
    register = commands.add_parser("register", help="register the corpus's shards, so that the UI offers them")
    _add_options(register)


def _add_status(commands: Any) -> None:
    status = commands.add_parser(
        "status",
        help="which shards are done, missing or stale, and why",
        description="Print for every asset how many registered shards are done, missing and stale, and why. Computes "
        "and changes nothing.",
        epilog="exit status: 0 everything is done; 1 something is missing, stale or not registered; 2 bad settings, or "
        "a source or store that cannot be read",
    )
    _add_options(status)
    status.add_argument("--select", metavar="A,B", help=f"only these parts, of {', '.join(PARTS)} (default: all)")
    _add_subsets(status)
    status.add_argument("--shards", action="store_true", help="name every shard, not the first few of each reason")
    status.add_argument(
        "--verify",
        action="store_true",
        help="read every table too and compare it with its digest, as runs do before they use one",
    )
    status.add_argument("--json", action="store_true", help="one JSON object for machines")


def _add_settings(commands: Any) -> None:
    settings = commands.add_parser(
        "settings",
        help="the value of every setting, and where it comes from",
        description="Print every setting with its value and origin: default, profile, shell, .env or flag. Reads no "
        "source and no store.",
    )
    _add_options(settings)
    settings.add_argument("--json", action="store_true", help="one JSON object for machines")


def _add_ui(commands: Any) -> None:
    ui = commands.add_parser(
        "ui",
        help="serve Dagster's UI with its daemon, closed to web pages of other sites",
        description="Serve Dagster's UI and run its daemon, until Ctrl-C. Requests of other sites' pages are refused, "
        "which Dagster's own `dagster dev` and `dagster-webserver` let through. It has no login.",
    )
    ui.add_argument("--address", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    ui.add_argument("--port", type=int, help="port (default: 3000, or a free one if that is taken)")
    ui.add_argument(
        "--hosts",
        metavar="A,B",
        help="names, also NAME:PORT, under which browsers may reach it, besides localhost [EL_UI_HOSTS]",
    )
    ui.add_argument("--no-daemon", action="store_true", help="leave the daemon out, because it runs by itself")


def run_command(arguments: list[str] | None, interrupts: Interrupts) -> int:
    """Run a command; 0 on success, 1 on failure, 2 for bad input. `status --help` says what its codes mean."""
    options = parser().parse_args(arguments)
    try:
        with warnings_in_lines(as_python_does=options.debug):
            return _dispatched(options, interrupts)
    except (Interrupted, KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:
        if interrupts.came:  # whatever it was turned into on its way
            raise Interrupted from error
        return _failed(error, options)


def _dispatched(options: argparse.Namespace, interrupts: Interrupts) -> int:
    environment = Environment.read(flags_of(options))
    environment.enter()
    if options.command == "settings":
        from el_assets.cli.settings_command import print_settings

        return print_settings(environment, as_json=options.json)
    from el_assets.cli import commands
    from el_assets.operations.homes import set_home

    set_home(environment.values())

    interrupts.stops_at_once = False
    if options.command == "ui":
        return _serve(options, environment.values())
    match options.command:
        case "run":
            return commands.run(options, environment, interrupts)
        case "backfill":
            return commands.backfill(options, environment)
        case "status":
            return commands.status(options, environment)
    return commands.register(environment)


def _serve(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    from el_assets.server.ui import serve
    from el_resources.settings import Settings

    Settings.load(variables)  # refused here, and not by a page that cannot load the workspace
    hosts = [name.strip() for name in variables.get("EL_UI_HOSTS", "").split(",") if name.strip()]
    return serve(address=options.address, port=options.port, hosts=hosts, with_daemon=not options.no_daemon)


def _failed(error: Exception, options: argparse.Namespace) -> int:
    """Print the last words on an error that ended the command; returns the exit status."""
    told = told_of(error)
    if isinstance(error, OSError) and not told.is_foreseen and error.errno is not None:
        told = Told(f"{error}")  # the system's words, with the path
    if not told.is_foreseen or options.debug:
        where = trace_of_command(error, options.command, on_screen=options.debug)
        print(f"error: {without_secrets(told.words)}\n  {where}", file=sys.stderr)
    else:
        print(f"error: {without_secrets(told.words)}", file=sys.stderr)
    if isinstance(error, ValueError | FileNotFoundError) and told.is_foreseen:
        return 2
    return 2 if options.command == "status" else 1


def flags_of(options: argparse.Namespace) -> dict[str, str]:
    """Return the variables that the given flags set."""
    given = {variable: getattr(options, name, None) for name, (variable, _) in OPTIONS.items()}
    given["EL_UI_HOSTS"] = getattr(options, "hosts", None)
    return {variable: value for variable, value in given.items() if value is not None}


def _add_options(command: argparse.ArgumentParser) -> None:
    for name, (variable, text) in OPTIONS.items():
        command.add_argument(f"--{name}", metavar=name.upper(), help=f"{text} [{variable}]")


def _add_shards(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--shards",
        metavar="A,B",
        help="only these shards, by name (default: all); a name with a comma is written in double quotes",
    )
    command.add_argument(
        "--shard", metavar="NAME", action="append", default=[], help="a shard, its name as it is; may be given again"
    )


def _add_subsets(command: argparse.ArgumentParser) -> None:
    names = ", ".join(FRACTIONS)
    command.add_argument("--subsets", metavar="A,B", help=f"only these selected subsets, of {names} (default: all)")
