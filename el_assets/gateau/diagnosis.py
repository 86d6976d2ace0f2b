"""The reason why no sample of a pool can be scored, with the remedy; used by the summary and by runs that stop."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp


def nothing_scorable(facts: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why shards of `instruction_samples` with these facts have no sample to score; None if they have one.

    Example:
        all 12 samples were set aside: does_not_fit_window 9, empty_response 3; ...
    """
    if any(of_shard.get("samples") for of_shard in facts):
        return None
    if unreadable := [str(of_shard["unreadable"]) for of_shard in facts if "unreadable" in of_shard]:
        return f"the source could not be read: {'; '.join(unreadable)}"
    counts = Counter[str]()
    for of_shard in facts:
        counts.update(of_shard.get("set_aside", {}))
    if not counts:
        return "the source holds no samples: look at the file, or at EL_INSTRUCTIONS"
    listed = ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())
    window = "; a model with a longer window (EL_LONG_MODEL) reads longer responses"
    return (
        f"all {counts.total():,} samples were set aside: {listed}; the column `detail` of instruction_samples says "
        f"what is wrong with each{window if 'does_not_fit_window' in counts else ''}"
    )


def why_no_samples(tables: ShardTables, stamp: Stamp) -> str:
    """Return why the table of scores with this stamp, which has no rows, is empty."""
    samples = tables.require_stamp("instruction_samples", stamp.partition).facts
    return nothing_scorable([samples]) or f"{stamp.asset} has no rows"
