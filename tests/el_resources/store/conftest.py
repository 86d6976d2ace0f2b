"""An S3 server of each module that asks for one."""

from collections.abc import Iterator

import pytest

from tests.support.s3_server import S3, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    """The server as the module's tests leave it."""
    with s3_server() as s3:
        yield s3


@pytest.fixture
def s3(server: S3) -> S3:
    """The same server with nothing in it."""
    server.empty()
    return server
