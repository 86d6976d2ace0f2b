"""Presets of settings: `reference`, which has the defaults, and `paper`, which has EntropyLong's values."""

from collections.abc import Mapping
from typing import Any

UNLIMITED = 0  # a cap of this value is off

# The paper's values; every addition of ours is off, except eligibility, the exclusion of own and near-duplicate
# chunks, and the measurement of the controls.
PROFILES: dict[str, dict[str, Any]] = {
    "reference": {},
    "paper": {
        # The paper names both without shares. Cosmopedia has several configs; a corpus may list more of them.
        "corpus": "hf:HuggingFaceFW/fineweb-edu/sample-10BT [name=fineweb-edu] + "
        "hf:HuggingFaceTB/cosmopedia/stanford [name=cosmopedia-stanford]",
        "long_model": "meta-llama/Meta-Llama-3-8B",
        "encoder": "sentence-transformers:BAAI/bge-base-en-v1.5",
        "alpha": 2.0,
        "chunk_tokens": 512,
        "roots_per_shard": UNLIMITED,
        "root_tokens_min": 1,
        "root_tokens_max": UNLIMITED,
        "skip_tokens": 0,
        "max_anchors": UNLIMITED,
        "candidates_per_anchor": 32,
        "beats_controls": False,
        "max_chunk_uses": UNLIMITED,
        "sequence_tokens": 131_072,
    },
}


def profile_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the profile that `given` names. Raises ValueError for an unknown one."""
    profile = given.get("profile", "reference")
    if profile not in PROFILES:
        raise ValueError(f"profile {profile!r} is unknown; choose one of {sorted(PROFILES)}")
    return PROFILES[profile]
