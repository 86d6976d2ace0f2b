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
    "profile": (
        "EL_PROFILE",
        "preset of settings: reference, small and offline, or paper, with the paper's corpora, model and numbers "
        "(default: reference)",
    ),
    "corpus": (
        "EL_CORPUS",
        "source of documents: python-docs: (default), parquet:PLACE, jsonl:PLACE or hf:OWNER/NAME/CONFIG; a PLACE is a "
        "file, a folder or a glob",
    ),
    "instructions": (
        "EL_INSTRUCTIONS",
        "source of instruction samples: python-docs-questions: (default), jsonl:PLACE, parquet:PLACE or "
        "hf:OWNER/NAME/CONFIG",
    ),
    "store": ("EL_STORE", "folder or s3://BUCKET/PREFIX of tables, index and reports (default: data)"),
}
PARTS_HELP = f"only these parts, of {', '.join(PARTS)}; entropylong needs the index"
EXIT_STATUS = """\
exit status:
  0    everything succeeded, and every source file could be read
  1    a run or a check failed, or a source file could not be read
  2    bad settings, flags or sources
  129, 130, 143    stopped by SIGHUP, Ctrl-C or SIGTERM; the same command goes on where it stopped"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="entropylong",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Make long-context training data. `entropylong` and `python -m el_assets` are the same command.",
        epilog="""\
Every setting is a variable EL_*, from the shell or from .env in the working directory; if both set it,
.env counts. `entropylong settings` shows every value and its origin. COMMAND --help lists the options.

examples:
  entropylong run                                                    the demo: both methods, 5 minutes on 2 cores
  entropylong run --select index,entropylong --corpus 'parquet:/data/texts/*.parquet' --store /data/el
  entropylong status --store /data/el""",
    )
    top.add_argument("--version", action="version", version=f"entropylong {version('entropylong')}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_backfill(commands)
    _add_register(commands)
    _add_status(commands)
    _add_settings(commands)
    _add_ui(commands)
    for command in commands.choices.values():
        command.add_argument(
            "--debug", action="store_true", help="print the whole trace of an error, and the warnings of libraries"
        )
    return top


def _add_run(commands: Any) -> None:
    run = _command(
        commands,
        "run",
        "make the tables that are missing or stale, in this process",
        """\
Register the shards of the corpus and of the instruction samples, make the tables that are missing or
stale, and print a summary. Tables that are up to date are skipped, so the command may be repeated.""",
        f"""\
examples:
  entropylong run --select index
  entropylong run --select entropylong,reports --shards python-docs-0
  entropylong run --select gateau --subsets top_10_percent

{EXIT_STATUS}""",
    )
    _add_options(run)
    _add_shards(run)
    _add_select(run, f"{PARTS_HELP} (default: all)")
    _add_subsets(run, "select")
    run.add_argument("--force", action="store_true", help="make the chosen tables again even if they are up to date")
    run.add_argument(
        "--replace-by-empty",
        action="store_true",
        help="let an empty table replace one that a model scored (default: the scored table stays, and the run fails)",
    )
    run.add_argument(
        "--refresh",
        action="store_true",
        help="retrieve candidates again if the index is newer; only pairs that were never scored cost a forward",
    )


def _add_backfill(commands: Any) -> None:
    backfill = _command(
        commands,
        "backfill",
        "have Dagster's daemon make tables, on this machine or on a cluster",
        """\
Register the shards and ask Dagster's daemon to make the tables that are missing or stale. The command
returns at once; the daemon must be running (`entropylong ui` starts it), and its runs use the settings
of its own environment. With EL_EXECUTION=ray the runs are jobs of a Ray cluster: docs/cluster.md.""",
        """\
examples:
  entropylong backfill --select index
  entropylong backfill --select entropylong,gateau

exit status: 0 the backfills were submitted; 1 an error; 2 bad settings, flags or sources""",
    )
    _add_shards(backfill)
    _add_select(backfill, f"{PARTS_HELP} (default: all but reports)")
    _add_subsets(backfill, "select")


def _add_register(commands: Any) -> None:
    register = _command(
        commands,
        "register",
        "register shards, so that the UI offers them",
        """\
Register the shards of the corpus and of the instruction samples in Dagster, and print their names. A
shard whose file is gone is no longer registered; its tables stay. No table is made.""",
    )
    _add_options(register)


def _add_status(commands: Any) -> None:
    status = _command(
        commands,
        "status",
        "show which shards are done, missing or stale, and why",
        """\
Print for every asset how many registered shards are done, missing and stale, and why. Makes and changes
nothing.""",
        """\
exit status:
  0    everything is done
  1    something is missing, stale, unreadable, not registered, or gone from the source
  2    bad settings, or a source or store that cannot be read""",
    )
    _add_options(status)
    _add_select(status, f"only these parts, of {', '.join(PARTS)} (default: all)")
    _add_subsets(status, "look at")
    status.add_argument(
        "--shards", action="store_true", help="name every shard (default: the first few for each reason)"
    )
    status.add_argument(
        "--verify",
        action="store_true",
        help="also read every table whole and compare it with its digest, as runs do (default: read footers only)",
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")


def _add_settings(commands: Any) -> None:
    settings = _command(
        commands,
        "settings",
        "show the value of every setting, and where it comes from",
        """\
Print every setting with its value and its origin: default, profile, shell, .env or flag. Reads neither
sources nor the store.""",
    )
    _add_options(settings)
    settings.add_argument("--json", action="store_true", help="print a JSON list of objects")


def _add_ui(commands: Any) -> None:
    ui = _command(
        commands,
        "ui",
        "serve Dagster's UI and run its daemon",
        """\
Serve Dagster's UI and run its daemon, until Ctrl-C. Requests that web pages of other sites send are
refused; Dagster's own `dagster dev` and `dagster-webserver` let them through. There is no login: whoever
reaches the port can start runs.""",
    )
    ui.add_argument("--address", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    ui.add_argument("--port", type=int, help="port to listen on (default: 3000, or a free one if that is taken)")
    ui.add_argument(
        "--hosts",
        metavar="A,B",
        help="host names (NAME or NAME:PORT) by which browsers may reach the UI, in addition to localhost "
        "[EL_UI_HOSTS]",
    )
    ui.add_argument("--no-daemon", action="store_true", help="do not start the daemon, because it runs elsewhere")


def _command(commands: Any, name: str, summary: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """Add a command and return its parser; the line breaks of description and epilog stay."""
    added: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return added


def run_command(arguments: list[str] | None, interrupts: Interrupts) -> int:
    """Run a command and return its exit status, as `run --help` and `status --help` explain it."""
    options = parser().parse_args(arguments)
    try:
        with warnings_in_lines(as_python_does=options.debug):
            return _dispatched(options, interrupts)
    except (Interrupted, KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:
        if interrupts.came:  # even if the signal became another error on its way
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

    Settings.load(variables)  # bad settings are refused here; else a page would fail to load
    hosts = [name.strip() for name in variables.get("EL_UI_HOSTS", "").split(",") if name.strip()]
    return serve(address=options.address, port=options.port, hosts=hosts, with_daemon=not options.no_daemon)


def _failed(error: Exception, options: argparse.Namespace) -> int:
    """Print the error that ended the command, and return the exit status."""
    told = told_of(error)
    if isinstance(error, OSError) and not told.is_foreseen and error.errno is not None:
        told = Told(f"{error}")  # the operating system's message, with the path
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
        help="only these shards (default: all); put a name that has a comma into double quotes, or use --shard",
    )
    command.add_argument(
        "--shard",
        metavar="NAME",
        action="append",
        default=[],
        help="only this shard, by its exact name; may be given several times",
    )


def _add_select(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--select", metavar="A,B", help=text)


def _add_subsets(command: argparse.ArgumentParser, verb: str) -> None:
    names = ", ".join(FRACTIONS)
    command.add_argument("--subsets", metavar="A,B", help=f"{verb} only these subsets, of {names} (default: all)")
