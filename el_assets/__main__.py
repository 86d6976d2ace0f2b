"""`entropylong`, also `python -m el_assets`: the workspace from a shell, for people who do not open the UI.

Signals are watched before anything else is imported, so that an interrupt is one line at any time.
"""

import os
import sys
from typing import NoReturn

from el_assets.cli.interrupts import STATUSES, Interrupts
from el_assets.cli.streams import READER_GONE, drop_output_if_reader_gone


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status.

    The status is 0 on success, 1 on failure, 2 for bad input, 128 + n after signal n, and 141 if its reader is gone.
    """
    with Interrupts() as interrupts:
        try:
            from el_assets.cli.command_line import run_command

            status = run_command(arguments, interrupts)
            sys.stdout.flush()
        except BrokenPipeError:
            if not drop_output_if_reader_gone():
                raise
            return READER_GONE
        except BaseException as error:  # Dagster has an interrupt of its own, which is not an Exception
            if interrupts.came or isinstance(error, KeyboardInterrupt):
                return interrupts.told()
            raise
        return status


def program() -> NoReturn:
    """Run the command line and end the process with its status."""
    status = main()
    if status in STATUSES:
        os._exit(status)  # everything is closed; Python's own end would wait for threads and take signals again
    sys.exit(status)


if __name__ == "__main__":
    program()
