"""Addresses without their secrets: the one place that decides what is recorded, printed or sent on.

An address such as `https://user:password@host/data.jsonl?X-Amz-Signature=…` opens a source or a store; its name, in
tables, reports, messages and Dagster's database, is `https://host/data.jsonl`. Two addresses that
differ only in their credentials have one name, so a new password changes no table.

- The part before the `@` is removed, except in schemes that name a place there (`github://OWNER:NAME@BRANCH/`,
  `abfs://CONTAINER@ACCOUNT/`, of which only a password is removed).
- The query is removed. Outside http(s) a question mark is a wildcard, unless a name and an equals sign follow it.
  Punctuation at the end of a query stays if the address is part of a text, since it likely belongs to the text.
- A parameter after `;` or `#` is removed if its name is that of a secret (`;sig=…`, `#access_token=…`).
- Misspelled addresses are cleaned too: `https:/user:password@host`, `//user:password@host`, and a password with a space
  or a quote in it.
- Other texts (a path on this machine, `hf:OWNER/NAME@REVISION`) stay as they are.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

# `scheme://`, `scheme:/` or `scheme:` of a network, and `//` that is not part of a path.
START = r"(?P<start>[A-Za-z][A-Za-z0-9+.-]*://|\b(?:https?|ftps?|sftp|ssh|s3a?):/?(?![/\s])|(?<![\w:/.\\~-])//(?!/))"
# A login with a space or a quote in its password. After the colon of a host comes a port.
LOGIN = (
    r"(?P<login>[^\s/?#@:\[\"'<>`\\]{0,200}:(?!\d*(?:[\s/,;.)\]\"'<>`\\]|$))(?:"
    r"(?:(?!://)[^\s@]){0,200}[\"'<>`\\](?:(?!://)[^\s@]){0,200}"
    r"|(?:(?!://)[^\n\"'<>`@]){1,200}[ \t](?:(?!://)[^\n\"'<>`@]){0,200})@)?"
)
ADDRESS = re.compile(START + LOGIN + r"(?P<rest>(?:(?!::[A-Za-z][\w+.-]*://)[^\s\"'<>`\\])*)")
AUTHORITY = re.compile(r"[^/?#]*")
# A host and a port, or the start of a password: `user:pa/ss@host` is not an address, and would show a secret.
PORT = re.compile(r"[^:]*(\[[^\]]*\])?(:\d*)?")
QUERY = re.compile(r"\?[\w.%-]+=.*", re.DOTALL)
WEB_QUERY = re.compile(r"\?[^#]*")
SECRET_NAMES = "sig|token|secret|key|passw|pwd|credential|auth|session"
SECRET_PART = re.compile(rf"[;#](?:[^;#]*&)?[\w.%-]*(?:{SECRET_NAMES})[\w.%-]*=.*", re.DOTALL | re.IGNORECASE)
PUNCTUATION = re.compile(r"[)\]}.,;:!?]*$")
SPACE = re.compile(r"\s")
WEB_SCHEMES = ("http", "https")
WEB_ADDRESSES = tuple(f"{scheme}://" for scheme in WEB_SCHEMES)
# Schemes whose addresses name a host that a program connects to.
HOSTED_SCHEMES = (*WEB_SCHEMES, "ftp", "ftps", "sftp", "ssh", "smb", "hdfs", "webhdfs")
NO_IPV6 = "an IPv6 host cannot be read from; write its name"
PLACES_BEFORE_AT = ("github", "git")
# The empty scheme is that of `//name@host`.
CONTAINERS_BEFORE_AT = ("", "abfs", "abfss", "adl", "wasb", "wasbs")


def without_secrets(text: str) -> str:
    """Return a text, such as a setting's value or a message, without the credentials of the addresses in it.

    Example:
        >>> without_secrets("jsonl:https://me:hunter2@host/a.jsonl?sig=1 cannot be read")
        'jsonl:https://host/a.jsonl cannot be read'
    """
    is_text = bool(SPACE.search(text))

    def shown(match: re.Match[str]) -> str:
        scheme = match["start"].partition(":")[0].strip("/").lower()
        cleaned = _cleaned(scheme, match["rest"])
        ends_in_text = is_text or match.end() < len(text)
        end = _punctuation(match["rest"]) if ends_in_text else ""
        return match["start"] + (cleaned if cleaned.endswith(end) else cleaned + end)

    return ADDRESS.sub(shown, text)


def _punctuation(rest: str) -> str:
    found = PUNCTUATION.search(rest)
    assert found, "it matches the empty text too"
    return found[0]


def without_query(address: str) -> str:
    """Return a web address without its query; other places stay as they are.

    Example:
        >>> without_query("https://host/a.jsonl?sig=b/c")
        'https://host/a.jsonl'
    """
    return address.partition("?")[0] if address.lower().startswith(WEB_ADDRESSES) else address


def has_secrets(text: str) -> bool:
    """Return true if a text has an address with credentials."""
    return without_secrets(text) != text


def without_secrets_within(value: Any) -> Any:
    """Return a setting's value without credentials if it is a text; other values stay as they are."""
    return without_secrets(value) if isinstance(value, str) else value


def _cleaned(scheme: str, rest: str) -> str:
    authority = AUTHORITY.match(rest)
    assert authority, "it matches the empty text too"
    host, path = authority[0], rest[authority.end() :]
    if not PORT.fullmatch(host) and "@" not in host and "@" in path:
        host, path = "", path.rpartition("@")[2]
    before, at, after = host.rpartition("@")
    is_place = scheme in PLACES_BEFORE_AT or (scheme in CONTAINERS_BEFORE_AT and ":" not in before)
    return (host if is_place or not at else after) + _without_query(scheme, path)


def _without_query(scheme: str, path: str) -> str:
    query = WEB_QUERY if scheme in WEB_SCHEMES else QUERY
    return SECRET_PART.sub("", query.sub("", path, count=1))


def fault_of_address(address: str) -> str:
    """Return fault and remedy of an address to which no program could connect; empty for a good address.

    Example:
        >>> fault_of_address("http://host:99999/x")
        'its port is not a number from 1 to 65535; write http://HOST/PATH, or http://HOST:PORT/PATH'
    """
    scheme = address.partition("://")[0].lower()
    if scheme not in HOSTED_SCHEMES:
        return ""
    remedy = f"write {scheme}://HOST/PATH, or {scheme}://HOST:PORT/PATH"
    try:
        parts = urlsplit(address)
        is_named = bool(parts.hostname) and parts.port != 0
    except ValueError as error:  # its message may quote a password
        is_port = "port" in str(error).lower()
        return f"{'its port is not a number from 1 to 65535' if is_port else 'it names no host'}; {remedy}"
    if not is_named or SPACE.search(parts.netloc):
        return f"it names no host; {remedy}"
    return f"{NO_IPV6}, as in {scheme}://HOST:PORT/PATH" if ":" in (parts.hostname or "") else ""


def is_web_address(address: str) -> bool:
    """Return true for an http or https address with a host.

    Example:
        >>> is_web_address("https://host/x"), is_web_address("http:///x"), is_web_address("ftp://host")
        (True, False, False)
    """
    try:
        parts = urlsplit(address)
        return parts.scheme in WEB_SCHEMES and bool(parts.hostname) and parts.port != 0 and not SPACE.search(address)
    except ValueError:
        return False


def one_line(error: BaseException | None, longest: int = 0) -> str:
    """Return an error's message on one line, or the name of its class if it has no message.

    Args:
        longest: number of characters after which the line is cut; 0 for no limit.
    """
    line = " ".join(str(error).split()) or type(error).__name__
    return line if not longest or len(line) <= longest else f"{line[: longest - 1]}…"


class AddressError(OSError):
    """An error of another library about an address, with its message but without the address's credentials."""


# Classes that stay when an error's message is changed; an error of another class becomes an AddressError.
KEPT_CLASSES = (FileNotFoundError, PermissionError, ConnectionError, TimeoutError, ValueError)


@contextmanager
def secrets_kept() -> Iterator[None]:
    """Remove credentials of addresses from errors that are raised in this context, and from their causes."""
    try:
        yield
    except Exception as error:
        if not any(has_secrets(str(one)) for one in _chain(error)):
            raise
        raise (in_clean_words(error) if has_secrets(str(error)) else error) from None


def in_clean_words(error: Exception) -> Exception:
    """Return an error of the same class, or of the nearest that takes a message alone, without credentials."""
    words = without_secrets(str(error))
    for kind in KEPT_CLASSES:
        if isinstance(error, kind):
            return kind(words)
    return AddressError(f"{type(error).__name__}: {words}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Return the error and all its causes."""
    seen, left = set[int](), [error]
    while left:
        one = left.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
