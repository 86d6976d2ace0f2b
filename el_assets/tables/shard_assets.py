"""The decorator for assets with one table per shard, and the inputs that all steps of shards use."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial, wraps
from typing import TYPE_CHECKING, Any, Self, TypeVar

import dagster as dg
import numpy as np

from el_assets.catalogue import RECIPES
from el_assets.tables.progress import progress
from el_assets.tables.recipes import settings_seen
from el_resources.addresses import secrets_kept
from el_resources.models.causal_lm import ModelChoice
from el_resources.models.tokenization import ModelTokenizer
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables

if TYPE_CHECKING:
    from el_resources.scoring.engine import ScoringEngine

GPU_POOL = "gpu"

Step = TypeVar("Step", bound=Callable[..., Any])
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
    """Return `@dg.asset` for a table that is partitioned by shard."""
    decorate = dg.asset(
        name=name,
        group_name=group,
        kinds=kinds,
        deps=deps,
        partitions_def=partitions,
        code_version=RECIPES[name].code_version,
        pool=pool,
    )
    return lambda step: decorate(with_seen_settings(name)(step))


def with_seen_settings(asset: str) -> Callable[[Step], Step]:
    """Return a decorator of an asset's step: the step may read the settings of its recipe only; others raise."""

    def decorate(step: Step) -> Step:
        @wraps(step)
        def seeing(*args: Any, settings: Settings, **more: Any) -> Any:
            with secrets_kept():  # Dagster stores and shows the errors of a step
                return step(*args, settings=settings.seen_by(asset, settings_seen(asset)), **more)

        # The UI links to the file and line of the code object, so these are set to those of the step.
        own: Any = seeing
        place: Any = step
        own.__code__ = own.__code__.replace(
            co_filename=place.__code__.co_filename, co_firstlineno=place.__code__.co_firstlineno
        )
        return seeing  # type: ignore[return-value]

    return decorate


@dataclass(frozen=True, kw_only=True)
class ShardStep:
    """The settings, tables and tokenizer that every step of a shard uses."""

    settings: Settings
    tables: ShardTables
    show: Show

    @classmethod
    def of(cls, context: dg.AssetExecutionContext, settings: Settings, **more: Any) -> Self:
        """Return the inputs of a run's steps; `more` holds the fields that a subclass adds."""
        return cls(
            settings=settings,
            tables=ShardTables(settings.store),
            show=partial(progress, context),
            **more,
        )

    @cached_property
    def tokenizer(self) -> ModelTokenizer:
        """The tokenizer of the model that scores."""
        return ModelChoice.long(self.settings).tokenizer()

    def separator_ids(self) -> np.ndarray:
        """Token ids of the setting `separator`. Raises ValueError if the tokenizer does not keep it."""
        return self.tokenizer.joint_ids(self.settings.separator)

    def placed_facts(self, engine: "ScoringEngine") -> dict[str, Any]:
        """Return facts for the stamp: the BOS before scored texts, the window and the device."""
        return {
            "bos_token": self.tokenizer.bos_token,
            "bos_id": self.tokenizer.bos_id,
            "window_tokens": engine.window,
            "device": engine.device.type,
        }

    def joint_facts(self) -> dict[str, Any]:
        """Return facts for the stamp: the ids of the separator, and how many control tokens texts cannot contain."""
        return {
            "separator_ids": self.separator_ids().tolist(),
            "control_tokens_kept_from_text": len(self.tokenizer.control_tokens),
        }
