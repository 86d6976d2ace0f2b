"""`python -m el_assets`: the workspace from a shell, for people who do not open the UI."""

import argparse
import os
import sys
from pathlib import Path

from el_assets.parts import PARTS

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
    top = argparse.ArgumentParser(prog="python -m el_assets", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="register shards and materialize them",
        description="Register the corpus's shards, materialize what is missing or stale, and print a summary. "
        "Every other setting is an EL_* variable; .env.example lists them.",
    )
    _add_options(run)
    run.add_argument("--shards", metavar="A,B", help="only these shards, by name (default: all)")
    run.add_argument("--select", metavar="A,B", help=f"only these parts, of {', '.join(PARTS)} (default: all)")
    run.add_argument("--force", action="store_true", help="recompute tables even if they are up to date")
    run.add_argument(
        "--refresh",
        action="store_true",
        help="retrieve candidates again from the newest index; only pairs never scored before cost a forward",
    )
    register = commands.add_parser("register", help="register the corpus's shards, so that the UI offers them")
    _add_options(register)
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
    status.add_argument("--shards", action="store_true", help="name every shard, not the first few of each reason")
    status.add_argument("--json", action="store_true", help="one JSON object for machines")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 on success, 1 on failure, 2 for bad input. `status --help` says what its codes mean."""
    options = parser().parse_args(arguments)
    # The settings' variables are the one way in, so that code locations loaded later in this process agree with the
    # command line.
    for name, (variable, _) in OPTIONS.items():
        if getattr(options, name) is not None:
            os.environ[variable] = getattr(options, name)
    try:
        _set_home()
        from el_assets import commands

        match options.command:
            case "run":
                return commands.run(options)
            case "status":
                return commands.status(options)
        return commands.register()
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if options.command == "status" else 1


def _add_options(command: argparse.ArgumentParser) -> None:
    for name, (variable, text) in OPTIONS.items():
        command.add_argument(f"--{name}", metavar=name.upper(), help=f"{text} [{variable}]")


def _set_home() -> None:
    """Use the Dagster instance of the working directory unless DAGSTER_HOME names another."""
    if home := os.environ.get("DAGSTER_HOME"):
        if not Path(home).expanduser().is_dir():
            raise ValueError(f"DAGSTER_HOME={home!r} is no folder; make it, or unset it to use the working directory")
        return
    if not Path("dagster.yaml").is_file():
        raise ValueError(
            "no dagster.yaml here; run from the repository's root, or set DAGSTER_HOME to a folder that has one"
        )
    os.environ["DAGSTER_HOME"] = str(Path.cwd())


if __name__ == "__main__":
    sys.exit(main())
