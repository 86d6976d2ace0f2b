"""What assets with one table per shard share: their decorator, their pool, and what a step of a shard has at hand."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import dagster as dg
import numpy as np

from el_assets.progress import progress
from el_assets.recipes import RECIPES
from el_resources.causal_lm import ModelChoice
from el_resources.settings import Settings
from el_resources.shard_tables import ShardTables
from el_resources.tokenization import ModelTokenizer

GPU_POOL = "gpu"
# A model is loaded once per run, so a run takes many shards.
MANY_SHARDS = dg.BackfillPolicy.multi_run(max_partitions_per_run=Settings.load().shards_per_run)

Advance = Callable[[int], None]
# Starts a progress display: (what, total, unit) -> context manager that yields `advance(units since the last call)`.
Show = Callable[[str, int, str], Any]


def shard_asset(
    name: str,
    deps: list[Any],
    *,
    group: str,
    partitions: dg.PartitionsDefinition,
    kinds: set[str],
    pool: str | None = None,
) -> Any:
    """`@dg.asset` for a table that is partitioned by shard."""
    return dg.asset(
        name=name,
        group_name=group,
        kinds=kinds,
        deps=deps,
        partitions_def=partitions,
        backfill_policy=MANY_SHARDS,
        code_version=RECIPES[name].code_version,
        pool=pool,
    )


@dataclass(frozen=True, kw_only=True)
class ShardStep:
    """What every step of a shard has at hand."""

    settings: Settings
    tables: ShardTables
    tokenizer: ModelTokenizer
    show: Show

    @classmethod
    def of(cls, context: dg.AssetExecutionContext, settings: Settings, **more: Any) -> Self:
        """The run's; `more` is what a step has beside this."""
        return cls(
            settings=settings,
            tables=ShardTables(settings.store),
            tokenizer=ModelChoice.long(settings).tokenizer(),
            show=partial(progress, context),
            **more,
        )

    def separator_ids(self) -> np.ndarray:
        """Token ids of the setting `separator`. Raises ValueError if the tokenizer does not keep it."""
        return self.tokenizer.joint_ids(self.settings.separator)

    def joint_facts(self) -> dict[str, Any]:
        """The separator's ids and how many control tokens texts are kept from, for a stamp."""
        return {
            "separator_ids": self.separator_ids().tolist(),
            "control_tokens_kept_from_text": len(self.tokenizer.control_tokens),
        }
