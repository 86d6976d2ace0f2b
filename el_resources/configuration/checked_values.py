"""Checks of settings that need their text alone: places, devices and names are refused or completed.

Bounds and choices are checked by the fields of `Settings`. Checks that need this machine (is there a GPU, does the
model's folder exist) run before a run: el_assets.cli.before_a_run.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from el_resources.addresses import fault_of_address, is_web_address, without_secrets
from el_resources.sources.contracts import CORPUS_SCHEMES, POOL_SCHEMES
from el_resources.store.object_stores import is_remote

DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
# `s3:/bucket`, `s3:bucket`: an address that lacks a slash would be taken for a folder of that name.
ALMOST_AN_ADDRESS = re.compile(r"(s3a?|gs|gcs|az|abfss?|https?|ftp|hdfs|memory):/?(?!/)")
# Schemes of stores: those that fsspec, polars and LanceDB all read and write.
STORE_SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "file")
EMBEDDED = ("python-docs", "python-docs-questions")
ENCODER_PREFIX = "sentence-transformers:"


def device(name: str) -> str:
    """Return a device's name. Raises ValueError for one that torch or this project does not know."""
    if not DEVICE.fullmatch(name):
        raise ValueError("no such device; use auto, cpu, cuda, or cuda:N with the number of a GPU")
    return name


def store(place: str) -> str:
    """Return a store's place with `~` expanded. Raises ValueError if tables cannot be stored there."""
    if not place.strip():
        raise ValueError("an empty place; name a folder or s3://BUCKET/PREFIX")
    _refuse_almost(place)
    if is_remote(place):
        scheme, _, rest = place.partition("://")
        if scheme not in STORE_SCHEMES:
            raise ValueError(f"tables cannot be kept in {scheme}://; name a folder or s3://BUCKET/PREFIX")
        if not rest.strip("/"):
            raise ValueError(f"no bucket is named; write {scheme}://BUCKET/PREFIX")
        if scheme in ("s3", "s3a") and ("@" in rest or "?" in rest):
            raise ValueError("a store's address holds no credentials or queries; set the AWS_* variables instead")
        refuse_without_driver(place)
        return place
    return at_home(place.removeprefix("file://"))


def corpus(uri: str) -> str:
    """Return a corpus setting. Raises ValueError for an unknown scheme, option or file system, or without a place."""
    from el_resources.sources.mixture import is_mixture, parse_mixture

    for one in [spec.uri for spec in parse_mixture(uri)] if is_mixture(uri) else [uri]:
        _refuse_source("corpus", one, CORPUS_SCHEMES, "as in parquet:data/*.parquet")
    return uri


def instructions(uri: str) -> str:
    """Return an instruction pool's setting. Raises ValueError like `corpus`."""
    _refuse_source("instructions", uri, POOL_SCHEMES, "as in jsonl:data/*.jsonl.gz")
    return uri


def encoder(name: str) -> str:
    """Return an encoder's name with `~` expanded. Raises ValueError if it has no known form."""
    model = name.removeprefix(ENCODER_PREFIX)
    if name == "reference-idf":
        return name
    if not name.startswith(ENCODER_PREFIX) or not model.strip():
        raise ValueError(f"no such encoder; use reference-idf or {ENCODER_PREFIX}NAME-OR-FOLDER")
    return f"{ENCODER_PREFIX}{at_home(model)}"


def model(name: str) -> str:
    """Return a model's name with `~` expanded. Raises ValueError if it has no known form."""
    from el_resources.models.model_files import refuse_unknown_form

    refuse_unknown_form(name)
    return at_home(name)


def hub_endpoint(address: str) -> str:
    """Return the hub's address. Raises ValueError unless it is an http or https address."""
    if address and not is_web_address(address):
        raise ValueError("no address; write https://HOST, or leave it empty for huggingface.co")
    return address


CHECKS: dict[str, Callable[[str], str]] = {
    "device": device,
    "store": store,
    "corpus": corpus,
    "instructions": instructions,
    "encoder": encoder,
    "short_model": model,
    "long_model": model,
    "hub_endpoint": hub_endpoint,
}


@contextmanager
def naming(variable: str) -> Iterator[None]:
    """Put the variable in front of errors that are raised in this context, unless they name one already."""
    try:
        yield
    except (ValueError, ConnectionError) as error:
        if str(error).startswith("EL_"):
            raise
        raise type(error)(f"{variable}: {error}") from error


def at_home(place: str) -> str:
    """Return a path with `~` and `~user` expanded. Raises ValueError if there is no such user."""
    if not place.startswith("~"):
        return place
    try:
        return str(Path(place).expanduser())
    except RuntimeError as error:
        raise ValueError(
            f"{place.partition('/')[0]} is not the home folder of any user; write the whole path"
        ) from error


def refuse_without_driver(address: str) -> None:
    """Raise ValueError if no file system has an address's scheme, or its package is not installed; name the package.

    The package is searched for but not imported, since some take a second to import.
    """
    from fsspec.registry import known_implementations  # type: ignore[import-untyped]  # fsspec ships no types

    scheme = address.partition("://")[0]
    known = known_implementations.get(scheme)
    if known is None:
        raise ValueError(f"no file system has the scheme {scheme}://; name a folder, s3://… or https://…")
    package = known["class"].partition(".")[0]
    needed = "paramiko" if scheme in ("sftp", "ssh") else package
    if find_spec(needed) is None:
        raise ValueError(f"{scheme}:// needs the package {needed}; install it with `pip install {needed}`")


def _refuse_almost(place: str) -> None:
    if ALMOST_AN_ADDRESS.match(place):
        scheme, _, rest = place.partition(":")
        raise ValueError(f"write {scheme}://{rest.lstrip('/') or 'BUCKET/PREFIX'}, with two slashes")


def _refuse_source(kind: str, uri: str, schemes: tuple[str, ...], example: str) -> None:
    scheme, colon, place = uri.partition(":")
    if not colon or scheme not in schemes:
        known = ", ".join(f"{name}:" for name in schemes)
        raise ValueError(
            f"{kind} {uri!r} has no known scheme; use one of {known} (files need one too, {example}; put scheme and "
            "path in double quotes if the path has ' + ' or ' [' in it)"
        )
    if scheme in EMBEDDED:
        if place:
            raise ValueError(f"{scheme}: is one fixed source; write nothing after the colon")
        return
    if not place.strip():
        raise ValueError(f"{uri!r} names no place; write one after the scheme: a file, a folder or a glob")
    if scheme == "hf":
        return
    _refuse_almost(place)
    if is_remote(place):
        refuse_without_driver(place)
        if fault := fault_of_address(place):
            raise ValueError(f"{without_secrets(place)} is not an address: {fault}")
