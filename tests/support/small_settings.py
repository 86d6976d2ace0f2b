"""Settings under which a few short documents make every table in a second or two; a module names what it changes."""

from collections.abc import Mapping
from typing import Any

SMALL: dict[str, Any] = {
    "roots_per_shard": 6,
    "root_tokens_min": 64,
    "root_tokens_max": 300,
    "chunk_tokens": 96,
    "alpha": 0.5,
    "max_anchors": 3,
    "candidates_per_anchor": 2,
    "controls_per_root": 2,
    "sequence_tokens": 1000,
    "epsilon": -0.5,  # so that enough contexts are kept to fill sequences
    "beats_controls": False,
}
# The same for a random model, which gains nothing from a context, over shards of three or four documents.
RANDOM_MODEL = {
    **SMALL,
    "roots_per_shard": 3,
    "max_anchors": 2,
    "controls_per_root": 1,
    "sequence_tokens": 500,
    "epsilon": -0.9,
}


def as_environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that say the same."""
    return {f"EL_{name.upper()}": str(value) for name, value in settings.items()}
