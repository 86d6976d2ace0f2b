"""An ASGI middleware that keeps other sites' web pages out of Dagster's server.

Dagster's server has no login, so any web page in a browser that can reach it could start runs: by a request that
browsers send without asking the server first (a form, a GET, a WebSocket), or by a host name that its owner later
points to this machine. These requests are refused, over HTTP and WebSocket:

| request | reason |
|---|---|
| `Host` is neither loopback nor in EL_UI_HOSTS | a foreign name points to this machine (DNS rebinding) |
| `Origin` is not that of the `Host` | a page of another site sends it |
| GraphQL by GET, other than the page with the editor | any page may send a GET |
| another method than GET, HEAD and OPTIONS, unless a POST of JSON | any page may send a form or plain text |
| a GraphQL operation over a WebSocket that is not a subscription | changes are made by POST only |

A request without an `Origin` passes the second rule: curl, Dagster's own clients and links send such requests, scripts
of pages do not. This is no login: whoever reaches the port with such a client can do all that the UI can. Pages of
other sites also cannot show the UI in a frame, in which a visitor could be tricked into a click.
"""

import ipaddress
import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

READING = ("GET", "HEAD", "OPTIONS")
DEFAULT_PORTS = {"http": 80, "https": 443}
POLICY_VIOLATION = 1008  # the close code of RFC 6455


class Door:
    """The middleware: it answers refused requests with 403 and a reason, and passes the others to the app.

    Args:
        hosts: host names of the server in addition to loopback, with a port or for all ports.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] = ()) -> None:
        self.app, self.hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                if reason := self.refusal(scope):
                    await PlainTextResponse(f"refused: {reason}\n", status_code=403)(scope, receive, send)
                    return
            case "websocket":
                if self.foreign(Headers(scope=scope)):
                    await send({"type": "websocket.close", "code": POLICY_VIOLATION})
                    return
                receive = _subscriptions_only(receive)
        await self.app(scope, receive, _unframed(send))

    def refusal(self, scope: Scope) -> str:
        """Return the reason why a request is refused; empty if it passes."""
        headers, method = Headers(scope=scope), scope["method"]
        if reason := self.foreign(headers):
            return reason
        if method not in READING:
            return _not_json(method, headers)
        if scope["path"].rstrip("/").endswith("/graphql") and "text/html" not in headers.get("accept", ""):
            return "send GraphQL by POST with Content-Type: application/json"
        return ""

    def foreign(self, headers: Headers) -> str:
        """Return the reason why host or origin of a request are not this server's; empty if they are."""
        named = headers.getlist("host")
        if len(named) != 1 or not self._is_known(named[0]):
            shown = ", ".join(map(repr, named)) or "none"
            return f"Host {shown} is neither loopback nor one of EL_UI_HOSTS; add it there if it names this server"
        origins = headers.getlist("origin")
        if any(not is_origin_of(origin, named[0]) for origin in origins):
            return f"Origin {', '.join(map(repr, origins))} is not this server, {named[0]!r}"
        return ""

    def _is_known(self, host: str) -> bool:
        name = host_and_port(host)[0]
        return is_loopback(name) or bool({name, host.lower()} & self.hosts)


def host_and_port(host: str) -> tuple[str, str]:
    """Return name and port of a `Host`, in lower case; the port is empty if there is none."""
    name, _, port = host.lower().partition("]") if host.startswith("[") else host.lower().partition(":")
    return name.removeprefix("["), port.removeprefix(":")


def is_loopback(name: str) -> bool:
    """Return true for localhost and loopback addresses; names are not looked up."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_origin_of(origin: str, host: str) -> bool:
    """Return true if an `Origin` is that of a `Host`. Its scheme may be https, if a proxy terminates TLS.

    Example:
        >>> is_origin_of("http://localhost:3000", "localhost:3000"), is_origin_of("null", "localhost:3000")
        (True, False)
    """
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in DEFAULT_PORTS or parts.username is not None or parts.path or parts.query or parts.fragment:
        return False
    default = DEFAULT_PORTS[parts.scheme]
    name, given = host_and_port(host)
    return parts.hostname == name and str(port or default) == (given or str(default))


def _not_json(method: str, headers: Headers) -> str:
    """Return the reason why a request that may change something is refused; empty for a POST of JSON."""
    kinds = headers.getlist("content-type")
    # Dagster accepts the words anywhere: it takes `text/plain; x=application/json`, plain text to a browser, for JSON.
    is_json = len(kinds) == 1 and kinds[0].partition(";")[0].strip().lower() == "application/json"
    if method == "POST" and is_json:
        return ""
    return f"{method} of {', '.join(kinds) or 'no type'}; send what changes something by POST as application/json"


def _unframed(send: Send) -> Send:
    """Return a `send` that forbids pages of other sites to show the responses in a frame."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["X-Frame-Options"] = "SAMEORIGIN"
        await send(message)

    return sent


def _subscriptions_only(receive: Receive) -> Receive:
    """Return a `receive` that ends the connection if a message asks for anything but a subscription."""

    async def checked() -> Message:
        message = await receive()
        if message["type"] == "websocket.receive" and not _is_subscription(message.get("text") or ""):
            return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}
        return message

    return checked


def _is_subscription(text: str) -> bool:
    """Return true if a graphql-ws message starts a subscription, or starts no operation."""
    try:
        message = json.loads(text)
        if not isinstance(message, dict) or message.get("type") != "start":
            return isinstance(message, dict)
        operations = parse(message["payload"]["query"]).definitions
    except (ValueError, TypeError, KeyError, GraphQLError, RecursionError):
        return False
    asked = [one.operation for one in operations if isinstance(one, OperationDefinitionNode)]
    return set(asked) == {OperationType.SUBSCRIPTION}
