"""Stamp of a table, which records its inputs, settings and costs, and its reading from Parquet metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import Any

from el_resources.addresses import one_line
from el_resources.store.hashing import DIGEST_FIELD

STAMP_KEY = "entropylong"


class DamagedTableError(ValueError):
    """A table's file exists, but does not hold a sound table with its stamp."""


class MixedSettingsError(ValueError):
    """Partitions of one asset were made under different settings."""


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """Record of a table's inputs, settings and costs.

    Attributes:
        asset, partition: the table's name.
        recipe: hash of inputs, settings, models and code version; a table is stale if they now give another hash.
        fingerprint: hash of the recipe and the pinned inputs, on which tables made from this one depend.
        settings: method settings under which this table and its inputs were made.
        pinned: recorded inputs that do not make the table stale if they change, such as an index tag.
        facts: counts and costs, JSON-ready.
        made_from: inputs of the recipe's hash other than settings and models, by name (`code_version`, `source`, the
            inputs' tables), so that a stale table can say why.
    """

    asset: str
    partition: str
    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    pinned: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    made_from: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return digest({"recipe": self.recipe, "pinned": dict(self.pinned)}) if self.pinned else self.recipe

    def setting_in_words(self, name: str) -> str:
        """Return a setting's value for a message; that of the scoring model includes the dtype of its weights."""
        value = repr(self.settings.get(name))
        return f"{value} with weights in {self.facts['dtype']}" if name == "scorer" and "dtype" in self.facts else value


def stamp_in(metadata: Mapping[str, str], asset: str, partition: str) -> Stamp:
    """Return the stamp in a table's file. Raises DamagedTableError if it is missing, broken or of another table."""
    if STAMP_KEY not in metadata:
        raise DamagedTableError("its file has no stamp of this project")
    try:
        found = json.loads(metadata[STAMP_KEY])
        found.pop(DIGEST_FIELD, None)
        unknown = sorted(found.keys() - {one.name for one in fields(Stamp)})
        if unknown:
            raise DamagedTableError(f"its stamp is of a newer version of this project, with {', '.join(unknown)}")
        stamp = Stamp(**found)
        texts, objects = (stamp.asset, stamp.partition, stamp.recipe), (stamp.settings, stamp.pinned, stamp.made_from)
        if not all(isinstance(one, str) for one in texts) or not all(isinstance(one, dict) for one in objects):
            raise TypeError("a text or an object is something else")
        int(stamp.facts.get("rows", 0))
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, DamagedTableError):
            raise
        raise DamagedTableError(f"its stamp is broken ({one_line(error)})") from error
    if (stamp.asset, stamp.partition) != (asset, partition):
        raise DamagedTableError(f"its stamp belongs to {stamp.asset!r} of {stamp.partition!r}")
    return stamp


def refuse_mixed_settings(stamps: Mapping[str, Stamp]) -> None:
    """Raise MixedSettingsError unless all stamps carry equal settings."""
    (first_key, first), *others = stamps.items()
    for key, other in others:
        if other.settings == first.settings:
            continue
        names = sorted(set(first.settings) | set(other.settings))
        differing = [name for name in names if first.settings.get(name) != other.settings.get(name)]
        listed = "; ".join(
            f"{name} is {first.setting_in_words(name)} in {first_key!r} and {other.setting_in_words(name)} in {key!r}"
            for name in differing
        )
        raise MixedSettingsError(
            f"partitions of {first.asset!r} were made under different settings: {listed}. "
            f"Materialize {first.asset} for all of them under one setting"
        )


def digest(value: Any) -> str:
    """Return the hash of a JSON-ready value, 32 hex digits; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
