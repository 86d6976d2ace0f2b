"""The log of a run on the terminal of its command: warnings, a line each. Errors are the command's last words."""

import logging
import sys

import dagster as dg
from dagster._core.log_manager import has_log_record_event

# Begins what Dagster says of each step that is left out after one that failed.
FOLLOWS = "Dependencies for step"


class _ToTerminal(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # A run's own events (a step failed) are told by the command, with their traces in a file.
        said = getattr(record, "dagster_meta", {}).get("orig_message") or record.getMessage()
        if not has_log_record_event(record) and not said.startswith(FOLLOWS):
            print(f"{record.levelname.lower()}: {said}", file=sys.stderr)


@dg.logger({}, description="Warnings, a line each.")
def terminal(context: dg.InitLoggerContext) -> logging.Logger:
    log = logging.Logger("terminal", logging.WARNING)  # not one of the process, which would keep its handlers
    log.addHandler(_ToTerminal())
    return log
