"""Record of the files of a build of the retrieval index, and the faults that they have now.

After a build its files are recorded with their sizes and, on disk, their hashes, in `builds/<tag>.json` next to the
table. LanceDB has no checksums of its own: it reads a flipped byte of a vector as another vector.

The manifest of a build tells which files belong to it: it contains data files by name, indices as the bytes of their
UUIDs, and deletions as varints of their numbers. Files that only other builds use are not checked.

Costs: one listing, and hashes of at most `LOOK_BYTES` bytes for a look or `OPEN_BYTES` before the build is used, in the
smallest files first. A process hashes a file again only if its size or times changed.
"""

import json
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]  # fsspec ships no types
from upath import UPath

from el_resources.sources.shard_files import FileDigests
from el_resources.store.object_stores import is_remote, store_path
from el_resources.store.whole_files import put_whole

LOG = logging.getLogger("entropylong")
LOOK_BYTES = 64 * 2**20
OPEN_BYTES = 8 * 2**30
TAGS = "_refs/tags/"
NEWEST_VERSION = 2**64 - 1  # a manifest's name is this minus its version, so that the newest is listed first


def record_build(store: str, table: str, tag: str, version: int) -> None:
    """Write the record of a new build."""
    folder = store_path(store) / f"{table}.lance"
    sizes = _sizes(folder)
    manifest = _manifest(version)
    assert manifest in sizes, f"{folder} has no manifest of version {version}"
    files = {manifest: sizes[manifest], **_used_files(sizes, (folder / manifest).read_bytes())}
    hashes = {} if is_remote(store) else _hashes(folder, files, OPEN_BYTES)
    content = {"version": version, "files": {name: [size, hashes.get(name)] for name, size in files.items()}}
    put_whole(_record(store, tag), json.dumps(content).encode())


def build_fault(store: str, table: str, tag: str, version: int, *, hash_bytes: int = LOOK_BYTES) -> str:
    """Return the fault of a build's files in words; empty if they have none, or if the build has no record."""
    place = _record(store, tag)
    if not place.exists():
        return ""
    try:
        record = json.loads(place.read_text())
        expected = {str(name): (int(size), made) for name, (size, made) in record["files"].items()}
        recorded = int(record["version"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"the record {place} is broken"
    if recorded != version:
        return f"tag {tag} names version {version}, and the build is version {recorded}"
    folder = store_path(store) / f"{table}.lance"
    sizes = _sizes(folder)
    for name, (size, _) in expected.items():
        if name not in sizes:
            return f"{folder / name} is gone"
        if sizes[name] != size:
            return f"{folder / name} has {sizes[name]:,} bytes and had {size:,}"
    if is_remote(store):
        return ""
    now = _hashes(folder, {name: size for name, (size, made) in expected.items() if made}, hash_bytes)
    changed = next((name for name, made in now.items() if made != expected[name][1]), None)
    return f"the content of {folder / changed} changed" if changed else ""


def fault_in_words(store: str, table: str, tag: str, error: Exception | None = None) -> str:
    """Return why the library cannot read a table: the file that is gone or broken, which its error does not name.

    Args:
        tag: tag that is checked first.
        error: error of the library; None if it finds no table, which is a fault only if there was a build.
    """
    folder = store_path(store) / f"{table}.lance"
    sizes = _sizes(folder)
    tags = _tags_in(sizes)
    if error is None:
        was_built = tags or _sizes(store_path(store) / "builds")
        return f"{folder} {'has no manifest' if folder.exists() else 'is gone'}" if was_built else ""
    LOG.debug("the library's words on %s", folder, exc_info=error)
    ordered = sorted(tags, key=lambda name: (tags[name] != tag, name))
    faults = (_fault_of_tag(folder, name, tags[name], sizes) for name in ordered)
    return next(filter(None, faults), f"the files of {folder} do not form a readable table")


def _fault_of_tag(folder: UPath, name: str, tag: str, sizes: Mapping[str, int]) -> str:
    """Return the fault of a tag's file, or of the manifest that it names; empty if there is none."""
    version = _tagged_version((folder / name).read_bytes())
    if version is None:
        return f"the file of tag {tag}, {folder / name}, is broken"
    manifest = _manifest(version)
    if sizes.get(manifest):
        return ""
    return f"the manifest of tag {tag}, {folder / manifest}, is {'empty' if manifest in sizes else 'gone'}"


def _tags_in(sizes: Mapping[str, int]) -> dict[str, str]:
    """Return the tags by the names of their files."""
    return {
        name: name.removeprefix(TAGS).removesuffix(".json")
        for name in sizes
        if name.startswith(TAGS) and name.endswith(".json")
    }


def _tagged_version(content: bytes) -> int | None:
    """Return the table version that a tag's file names; None if the file is broken."""
    try:
        found = json.loads(content)
        version, size = found["version"], found["manifestSize"]
    except (ValueError, TypeError, KeyError):
        return None
    return version if type(version) is int and type(size) is int and min(version, size) >= 0 else None


def _record(store: str, tag: str) -> UPath:
    return store_path(store) / "builds" / f"{tag}.json"


def _manifest(version: int) -> str:
    return f"_versions/{NEWEST_VERSION - version}.manifest"


def _sizes(folder: UPath) -> dict[str, int]:
    """Return the bytes of every file below a folder."""
    if not is_remote(str(folder)):
        root = Path(str(folder))
        return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    found = folder.fs.find(folder.path, detail=True)
    root_length = len(folder.path.rstrip("/")) + 1
    return {path[root_length:]: int(entry["size"]) for path, entry in found.items()}


def _used_files(sizes: Mapping[str, int], manifest: bytes) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if _is_used(name, manifest)}


def _is_used(name: str, manifest: bytes) -> bool:
    folder, _, rest = name.partition("/")
    if folder == "data":
        return rest.encode() in manifest
    if folder == "_indices":
        return uuid.UUID(rest.partition("/")[0]).bytes in manifest
    if folder == "_deletions":
        return _varint(int(rest.partition(".")[0].split("-")[-1])) in manifest
    return False


def _varint(number: int) -> bytes:
    """Return a number as protocol buffers write it."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _hashes(folder: UPath, sizes: Mapping[str, int], most_bytes: int) -> dict[str, str]:
    """Return hashes of files, smallest first, up to `most_bytes` bytes."""
    found = {}
    for name, size in sorted(sizes.items(), key=lambda item: (item[1], item[0])):
        most_bytes -= size
        if most_bytes < 0:
            break
        found[name] = FileDigests().of(LocalFileSystem(), str(folder / name))[:32]
    return found
