"""Requests as pages of other sites send them, refused before they reach the app; the UI's own pass."""

import asyncio
import json
from typing import Any

import pytest

from el_assets.server.door import Door, is_origin_of

MUTATION = "mutation { reloadWorkspace { __typename } }"
HERE = {"host": "localhost:3000"}
JSON = {"content-type": "application/json"}


def asked(
    method: str, path: str = "/graphql", hosts: tuple[str, ...] = (), **headers: str | list[str]
) -> tuple[int, str]:
    """Status and text of the answer to an HTTP request."""
    reached, sent = [], list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ran"})

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Door(app, hosts)(scope_of("http", path, headers, method=method), receive, send))
    start, body = sent
    assert (start["status"] == 200) == bool(reached)
    assert start["status"] != 200 or (b"x-frame-options", b"SAMEORIGIN") in start["headers"]
    return start["status"], body["body"].decode()


def scope_of(kind: str, path: str, headers: dict[str, Any], **more: Any) -> dict[str, Any]:
    pairs = [
        (name.replace("_", "-").encode(), value.encode())
        for name, values in headers.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    return {"type": kind, "path": path, "query_string": b"", "headers": pairs, **more}


@pytest.mark.parametrize(
    "host", ["localhost:3000", "127.0.0.1:8000", "LOCALHOST", "[::1]:3000", "127.9.9.9", "ui.lab:80", "named:3000"]
)
def test_loopback_and_named_hosts_pass(host: str) -> None:
    assert asked("GET", "/", ("UI.lab", "named:3000"), host=host) == (200, "ran")
    assert (
        asked(
            "POST",
            hosts=("UI.lab", "named:3000"),
            host=host,
            origin=f"http://{host}",
            content_type=JSON["content-type"],
        )[0]
        == 200
    )


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:3000",
        "localhost.evil.example",
        "localhost@evil.example",
        "127.0.0.1.evil.example:3000",
        "10.0.0.7:3000",
        "0.0.0.0:3000",
        "named:3001",
        "localhost.",
        "",
        ["localhost:3000", "evil.example"],
        [],
    ],
    ids=str,
)
def test_other_hosts_are_refused_and_named(host: str | list[str]) -> None:
    for path in ("/", "/graphql", "/server_info"):
        status, words = asked("GET", path, ("named:3000",), host=host)
        assert status == 403
        assert "is neither loopback nor one of EL_UI_HOSTS" in words


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:3001", "http://127.0.0.1:3000", "file://", "http://localhost",
     "http://localhost:3000.evil.example", "http://localhost:3000@evil.example", "chrome-extension://localhost:3000",
     ["http://localhost:3000", "http://evil.example"], ""],
    ids=str,
)  # fmt: skip
def test_other_origins_are_refused_whatever_they_ask(origin: str | list[str]) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        status, words = asked(method, **HERE, origin=origin, content_type="application/json", accept="text/html")
        assert (status, "is not this server" in words) == (403, True)


def test_a_proxy_may_end_https() -> None:
    assert is_origin_of("https://ui.lab", "ui.lab")
    assert is_origin_of("https://ui.lab:443", "UI.lab")
    assert not is_origin_of("https://ui.lab", "ui.lab:80")


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; charset=application/json",
        "application/graphql",
        "application/jsonp",
        ["application/json", "text/plain"],
        [],
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/graphql", "/report_asset_materialization/documents", "/anything"])
def test_what_a_form_can_send_is_refused(kind: str | list[str], path: str) -> None:
    status, words = asked("POST", path, **HERE, content_type=kind)
    assert (status, "send what changes something by POST as application/json" in words) == (403, True)
    assert asked("PUT", path, **HERE, content_type="application/json")[0] == 403


@pytest.mark.parametrize("path", ["/graphql", "/graphql/", "/prefix/graphql"])
def test_graphql_is_not_asked_by_get(path: str) -> None:
    for method in ("GET", "HEAD"):
        assert asked(method, path, **HERE, accept="*/*")[0] == 403
    assert asked("GET", path, **HERE, accept="text/html,*/*")[0] == 200, "the page of its editor"
    assert asked("POST", path, **HERE, content_type="application/json; charset=utf-8")[0] == 200


def told(*messages: Any, **headers: str) -> list[Any]:
    """Return the messages of a WebSocket that reach the app, and the answers without it."""
    received, sent = [], list[Any]()
    left = [{"type": "websocket.connect"}, *({"type": "websocket.receive", **message} for message in messages)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while left and (not received or received[-1]["type"] != "websocket.disconnect"):
            received.append(await receive())

    async def receive() -> Any:
        return left.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Door(app)(scope_of("websocket", "/graphql", headers), receive, send))
    return [*received, *sent]


def text(**message: Any) -> dict[str, str]:
    return {"text": json.dumps(message)}


def test_a_websocket_of_another_site_is_closed_before_it_is_open() -> None:
    for headers in ({"host": "evil.example"}, {**HERE, "origin": "http://evil.example"}, {**HERE, "origin": "null"}):
        assert told(text(type="connection_init"), **headers) == [{"type": "websocket.close", "code": 1008}]


def test_a_websocket_carries_subscriptions_and_nothing_else() -> None:
    own = {**HERE, "origin": "http://localhost:3000"}
    subscription = text(
        type="start", id="1", payload={"query": "subscription a { locationStateChangeEvents { event { message } } }"}
    )
    passed = told(text(type="connection_init"), subscription, text(type="stop", id="1"), **own)
    assert [message["type"] for message in passed] == ["websocket.connect", *["websocket.receive"] * 3]
    for bad in (
        text(type="start", id="1", payload={"query": MUTATION}),
        text(type="start", id="1", payload={"query": f"subscription a {{ x }} {MUTATION}"}),
        text(type="start", id="1", payload={"query": "{"}),
        text(type="start", id="1", payload={}),
        text(type="start", id="1"),
        {"text": "[1]"},
        {"text": "no JSON"},
        {"bytes": b"{}"},
    ):
        assert told(bad, **own)[-1] == {"type": "websocket.disconnect", "code": 1008}, bad
