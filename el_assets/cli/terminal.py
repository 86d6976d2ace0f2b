"""The log of a run on the terminal: one line per warning. The command prints errors itself, at its end."""

import logging
import sys

import dagster as dg
from dagster._core.log_manager import has_log_record_event
from dagster._core.utils import coerce_valid_log_level

# First words of Dagster's message about a step that is skipped because an earlier one failed.
FOLLOWS = "Dependencies for step"


class _ToTerminal(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # The command reports events of the run (such as failed steps) itself, and writes their traces into a file.
        said = getattr(record, "dagster_meta", {}).get("orig_message") or record.getMessage()
        if not has_log_record_event(record) and not said.startswith(FOLLOWS):
            print(f"{record.levelname.lower()}: {said}", file=sys.stderr)


@dg.logger({"log_level": str}, description="Warnings, a line each.")
def terminal(context: dg.InitLoggerContext) -> logging.Logger:
    """Return the logger. Its configuration is that of Dagster's `console`, so that servers accept the run's."""
    # A logger of its own: one from logging.getLogger would keep the handlers of earlier runs.
    log = logging.Logger("terminal", coerce_valid_log_level(context.logger_config["log_level"]))
    log.addHandler(_ToTerminal())
    return log
