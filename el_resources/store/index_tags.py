"""Tags of the retrieval table: one for each build, by its content, and `current`, which names the build in force."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from el_resources.configuration.fields.entropylong import FullTextTokenizer
from el_resources.store.stamps import digest

if TYPE_CHECKING:
    from lancedb.table import Table

CURRENT = "current"
BUILD_PREFIX = "build-"
# Part of the tag; it rises when the table's layout or its indices change.
LAYOUT_VERSION = 1


def build_tag(
    fingerprints: Mapping[str, str],
    settings: Mapping[str, object],
    exact_row_limit: int,
    full_text_tokenizer: FullTextTokenizer,
) -> str:
    """Return the tag of the build that `sync` makes of shards with these fingerprints."""
    content = {
        "layout": LAYOUT_VERSION,
        "shards": dict(fingerprints),
        "settings": dict(settings),
        "exact_row_limit": exact_row_limit,
        "full_text_tokenizer": full_text_tokenizer,
    }
    return BUILD_PREFIX + digest(content)


def versions_of(table: "Table") -> dict[str, int]:
    """Return the table version of every tag."""
    return {tag: int(entry["version"]) for tag, entry in table.tags.list().items()}


def builds_in(versions: Mapping[str, int]) -> list[str]:
    """Return the tags of builds, oldest first."""
    return sorted((tag for tag in versions if tag.startswith(BUILD_PREFIX)), key=lambda tag: versions[tag])


def restore(table: "Table", version: int) -> None:
    """Make the table's newest version equal to an older one."""
    if table.version != version:
        table.checkout(version)
        table.restore()


def set_tag(table: "Table", tag: str, version: int) -> None:
    versions = versions_of(table)
    if versions.get(tag) == version:
        return
    try:
        (table.tags.update if tag in versions else table.tags.create)(tag, version)
    except RuntimeError:
        # The library's second attempt finds the tag that its first one made.
        if versions_of(table).get(tag) != version:
            raise
