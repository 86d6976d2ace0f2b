"""Passing faults of an object store: work that LanceDB gave up is repeated, a bounded number of times.

LanceDB's client repeats most requests itself. But a connection that is reset in a listing or a commit ends its call,
and the outcome of that commit is unknown. So work given here must be idempotent.
"""

import re
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from el_resources.addresses import one_line
from el_resources.store.object_stores import S3_REMEDY, endpoint_of, is_remote

ATTEMPTS = 8
LONGEST_PAUSE_SECONDS = 20
SHOWN_CHARS = 300
# LanceDB has no error classes: it raises RuntimeError, OSError or ValueError with the words of its client.
LANCE_ERRORS = (RuntimeError, OSError, ValueError)
PASSING = re.compile(
    r"connection (was )?(reset|closed|aborted|refused|error)|error sending request|broken pipe|incomplete message|"
    r"unexpected eof|end of file before message|timed? ?out|error (reading|decoding) (a |the )?(response )?body|"
    r"\b50[0234]\b|SlowDown|InternalError|ServiceUnavailable|HTTP error: request|after \d+ retries|dns error",
    re.IGNORECASE,
)
T = TypeVar("T")
Tell = Callable[[str], None]


def silent(line: str) -> None:
    """Ignore the line."""


class Again:
    """Calls of LanceDB on one place.

    Args:
        tell: called with a line before each pause.
    """

    def __init__(self, place: str, tell: Tell = silent) -> None:
        self._place, self._tell = place, tell

    def __call__(self, what: str, work: Callable[[int], T]) -> T:
        """Do the work, and repeat it after a passing fault.

        Args:
            what: the work in words.
            work: called with the number of earlier attempts.

        Raises:
            ConnectionError: the fault did not pass; names the place, its endpoint and what to check.
        """
        if not is_remote(self._place):
            return work(0)
        retrying = Retrying(
            retry=retry_if_exception(is_passing),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE_SECONDS),
            before_sleep=lambda state: self._tell(self._pause(what, state)),
            reraise=True,
        )
        attempts = iter(range(ATTEMPTS))
        try:
            return retrying(lambda: work(next(attempts)))
        except LANCE_ERRORS as error:
            if not is_passing(error):
                raise
            raise ConnectionError(
                f"{self._place} at {endpoint_of(self._place)} cannot be reached: {what} failed {ATTEMPTS} times "
                f"({one_line(error, SHOWN_CHARS)}); {S3_REMEDY}"
            ) from error

    def _pause(self, what: str, state: RetryCallState) -> str:
        assert state.outcome and state.next_action, "tenacity pauses after an outcome"
        why = one_line(state.outcome.exception(), SHOWN_CHARS)
        return (
            f"{self._place}: {what} failed ({why}); attempt {state.attempt_number + 1} "
            f"of {ATTEMPTS} in {state.next_action.sleep:.1f} s"
        )


def is_passing(error: BaseException) -> bool:
    """Return true for a fault of the network or server that another attempt may not meet.

    A ConnectionError comes from fsspec, which has repeated the request itself.
    """
    is_lance = isinstance(error, LANCE_ERRORS) and not isinstance(error, ConnectionError)
    return is_lance and bool(PASSING.search(str(error)))
