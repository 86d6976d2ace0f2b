"""The log of a run on the terminal of its command: warnings, a line each. Errors are the command's last words."""

import logging
import sys

import dagster as dg
from dagster._core.log_manager import has_log_record_event
from dagster._core.utils import coerce_valid_log_level

# Begins what Dagster says of each step that is left out after one that failed.
FOLLOWS = "Dependencies for step"


class _ToTerminal(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # A run's own events (a step failed) are told by the command, with their traces in a file.
        said = getattr(record, "dagster_meta", {}).get("orig_message") or record.getMessage()
        if not has_log_record_event(record) and not said.startswith(FOLLOWS):
            print(f"{record.levelname.lower()}: {said}", file=sys.stderr)


@dg.logger({"log_level": str}, description="Warnings, a line each.")
def terminal(context: dg.InitLoggerContext) -> logging.Logger:
    """Return the logger, configured like Dagster's own `console`, so that a server takes the run's configuration."""
    # Not one of the process's loggers, which would keep its handlers.
    log = logging.Logger("terminal", coerce_valid_log_level(context.logger_config["log_level"]))
    log.addHandler(_ToTerminal())
    return log
