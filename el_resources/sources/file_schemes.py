"""The schemes of sources that are files: `parquet:`, `jsonl:` and `hf:`."""

from el_resources.addresses import without_secrets
from el_resources.sources.file_formats import FileFormat
from el_resources.sources.shard_files import LocatedFiles, ShardFiles


def open_files(uri: str, hub_endpoint: str = "", variable: str = "source") -> ShardFiles:
    """The files that a URI of one of these schemes means; nothing is looked at yet.

    They are reached by the URI as it is, and known by it without credentials.

    Args:
        variable: the setting that names the source, for errors.
    """
    scheme, _, location = uri.partition(":")
    uri = without_secrets(uri)
    if scheme == "hf":
        from el_resources.sources.hub_files import HubFiles

        return HubFiles(uri=uri, location=location, variable=variable, endpoint=hub_endpoint)
    assert scheme in ("parquet", "jsonl"), f"{uri!r} has no scheme of files"
    file_format: FileFormat = "parquet" if scheme == "parquet" else "jsonl"
    return LocatedFiles(uri=uri, location=location, variable=variable, file_format=file_format)
