"""Access of every library to object stores, configured in one place.

Three clients read and write a store: fsspec's file systems (bytes of sources, writes of tables), polars (reads of
tables) and LanceDB. All of them take credentials from the standard variables (`AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`) or from the machine's role. The endpoint (`AWS_ENDPOINT_URL_S3`, else
`AWS_ENDPOINT_URL`), the region and the profiles of ~/.aws are found in all their forms by s3fs alone, so the other two
get them as options from here. A plain http:// endpoint, as MinIO has on a private network, is allowed, since a user has
to name it.

Listings are never cached, because other processes may write at any time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # fsspec ships no types
from upath import UPath

from el_resources.addresses import one_line, secrets_kept

S3_SCHEMES = ("s3://", "s3a://")
# botocore's names for the sources of credentials.
ROLES = ("iam-role", "container-role", "assume-role-with-web-identity")
S3_REMEDY = "check the bucket, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the network"


def is_remote(place: str) -> bool:
    """Return true if a path is on another machine, or in an object store."""
    return "://" in place and not place.startswith("file://")


def is_s3(place: str) -> bool:
    return place.startswith(S3_SCHEMES)


def store_path(place: str) -> UPath:
    """Return a folder on disk or an address such as `s3://bucket/prefix`. Raises ValueError for a file."""
    if is_remote(place):
        return UPath(place, use_listings_cache=False)
    path = UPath(place.removeprefix("file://"))
    if path.exists() and not path.is_dir():
        raise ValueError(f"the store {place!r} is a file; set EL_STORE to a folder, which is made if it is not there")
    return path


@secrets_kept()
def open_filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Raises:
        ValueError: no file system has the scheme, or its package is not installed; names the address.
    """
    try:
        return url_to_fs(url, use_listings_cache=False)
    except (ValueError, ImportError) as error:  # fsspec's ways to say so
        raise ValueError(
            f"{url!r} cannot be opened: {one_line(error)}; fsspec.available_protocols() lists the schemes"
        ) from error


def client_options(place: str) -> dict[str, str] | None:
    """Return `storage_options` of polars and LanceDB for a path; None if they need none."""
    if not is_s3(place):
        return None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options = {
        "aws_endpoint": endpoint,
        "aws_allow_http": "true" if endpoint and endpoint.startswith("http://") else None,
        "aws_region": region,
        **_credentials(),
    }
    return {name: value for name, value in options.items() if value}


def _credentials() -> dict[str, str | None]:
    """Return keys from the variables, else from a profile; none for a role, since clients renew its keys themselves."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {name.lower(): os.environ.get(name) for name in names}
    from botocore.session import get_session

    found = get_session().get_credentials()
    if found is None or found.method in ROLES:
        return {}
    keys = found.get_frozen_credentials()
    return {
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
        "aws_session_token": keys.token,
    }


def endpoint_of(place: str) -> str:
    """Return the server of an address, in words."""
    named = (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")) if is_s3(place) else None
    return named or "its provider's endpoint"


@contextmanager
def faults_named(place: str) -> Iterator[None]:
    """Add the place and the remedy to errors of S3's client in this context: no credentials, no connection, a refusal.

    Credentials of addresses are removed from errors of all file systems.
    """
    with secrets_kept(), s3_faults_named(place) if is_s3(place) else nullcontext():
        yield


@contextmanager
def s3_faults_named(place: str) -> Iterator[None]:
    """Add an S3 address, its endpoint and the remedy to errors of its client; the caller removes credentials."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise PermissionError(
            f"{place} at {endpoint_of(place)} refuses access ({one_line(error)}); {S3_REMEDY}"
        ) from error
    except (BotoCoreError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error.__cause__, ClientError | BotoCoreError):
            raise  # an error of the caller's code
        raise ConnectionError(
            f"{place} at {endpoint_of(place)} cannot be reached ({one_line(error)}); {S3_REMEDY}"
        ) from error
