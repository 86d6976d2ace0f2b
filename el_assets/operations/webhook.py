"""Posts of a message to an address set by the user, such as a chat service's, as the JSON `{"text": ...}`.

The address is a secret, since whoever knows it can post there. So errors do not name it, redirects are not followed,
and only the status of the answer is read. A post takes at most `POST_SECONDS`, including the look-up of the host.
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
        seconds: time after which the attempt ends.

    Raises:
        WebhookError: the message was not delivered; the error does not contain the address.
    """
    if not is_web_address(address):
        raise WebhookError(f"{VARIABLE} is no http(s) address; nothing was sent")
    outcome: list[str] = []
    # A timeout of `requests` counts between two bytes and excludes the look-up of the host; a thread limits the whole.
    sender = Thread(target=lambda: outcome.append(_outcome(address, message, seconds)), daemon=True)
    sender.start()
    sender.join(seconds)
    words = outcome[0] if outcome else f"gave no answer within {seconds:g} s"
    if words:
        raise WebhookError(f"the address of {VARIABLE} {words}; the run's log has the message")


def _outcome(address: str, message: str, seconds: float) -> str:
    """Send the message, and return what went wrong; empty if nothing did."""
    import requests  # comes with dagster

    logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)  # its debug lines show the address
    body = {"text": without_secrets(message)}
    try:
        with requests.post(address, json=body, timeout=seconds, allow_redirects=False, stream=True) as answer:
            if answer.is_redirect or 300 <= answer.status_code < 400:
                return f"answered {answer.status_code}, a redirect, which is not followed"
            return "" if answer.ok else f"answered {answer.status_code}"
    except Exception as error:  # errors of several libraries, whose messages contain the address
        return f"could not be reached ({type(error).__name__})"
