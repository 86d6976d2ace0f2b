"""A message to an address of yours, such as a chat service's: as JSON, `{"text": ...}`.

The address is a secret: whoever has it may write there. So no error names it, redirects are not followed, and of the
answer only the status is read. All of it, from the look-up of the name to the answer, takes `POST_SECONDS` at most.
"""

import logging
from threading import Thread

from el_resources.addresses import is_web_address, without_secrets

POST_SECONDS = 10
VARIABLE = "EL_FAILURE_WEBHOOK"


class WebhookError(RuntimeError):
    """The message could not be delivered."""


def post(address: str, message: str, *, seconds: float = POST_SECONDS) -> None:
    """Send the message.

    Args:
        seconds: after which it is given up.

    Raises:
        WebhookError: says what happened, and not to which address.
    """
    if not is_web_address(address):
        raise WebhookError(f"{VARIABLE} is no http(s) address; nothing was sent")
    outcome: list[str] = []
    # A timeout of `requests` counts from byte to byte, and a name's look-up has none, so the clock is kept here.
    sender = Thread(target=lambda: outcome.append(_outcome(address, message, seconds)), daemon=True)
    sender.start()
    sender.join(seconds)
    words = outcome[0] if outcome else f"gave no answer within {seconds:g} s"
    if words:
        raise WebhookError(f"the address of {VARIABLE} {words}; the run's log has the message")


def _outcome(address: str, message: str, seconds: float) -> str:
    """Send the message; returns what went wrong, empty if nothing did."""
    import requests  # comes with dagster

    logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)  # its debug lines show the address
    body = {"text": without_secrets(message)}
    try:
        with requests.post(address, json=body, timeout=seconds, allow_redirects=False, stream=True) as answer:
            if answer.is_redirect or 300 <= answer.status_code < 400:
                return f"answered {answer.status_code}, a redirect, which is not followed"
            return "" if answer.ok else f"answered {answer.status_code}"
    except Exception as error:  # of many libraries; the words of most hold the address
        return f"could not be reached ({type(error).__name__})"
