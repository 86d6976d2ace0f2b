"""The Dagster resource that hands out scoring engines: one load per model and run, whatever the number of shards."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import dagster as dg
from pydantic import PrivateAttr

from el_resources.model_files import model_fingerprint, model_window, resolve_model, tokenizer_fingerprint
from el_resources.settings import Settings
from el_resources.tokenization import ModelTokenizer

if TYPE_CHECKING:
    from el_resources.scoring.engine import ScoringEngine


RopeScaling = Literal["none", "dynamic"]


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A causal language model as the settings name it; nothing is loaded until it is asked for."""

    name: str
    revision: str
    dtype: str
    device: str
    trust_remote_code: bool

    @classmethod
    def long(cls, settings: Settings) -> "ModelChoice":
        """The model that scores the corpus."""
        return cls._of(settings, settings.long_model, settings.long_model_revision)

    @classmethod
    def short(cls, settings: Settings) -> "ModelChoice":
        """Its short-window sibling."""
        return cls._of(settings, settings.short_model, settings.short_model_revision)

    @classmethod
    def _of(cls, settings: Settings, name: str, revision: str) -> "ModelChoice":
        return cls(
            name=name,
            revision=revision,
            dtype=settings.dtype,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
        )

    def folder(self) -> Path:
        """The folder with its files; a hub model is downloaded first. Raises ValueError (see resolve_model)."""
        return resolve_model(self.name, self.revision or None)

    def window(self) -> int:
        """Tokens that the model reads at once, BOS included."""
        return model_window(self.folder())

    def fingerprint(self) -> str:
        """Hash of weights, tokenizer, dtype setting and window."""
        return model_fingerprint(self.folder(), dtype=self.dtype)

    def tokenizer_fingerprint(self) -> str:
        return tokenizer_fingerprint(self.folder())

    def tokenizer(self) -> ModelTokenizer:
        return ModelTokenizer.from_folder(self.folder(), trust_remote_code=self.trust_remote_code)


@dataclass(frozen=True)
class ScorerTokens:
    """Counts tokens of a model; its tokenizer is loaded when first counted."""

    model: ModelChoice

    @cached_property
    def _tokenizer(self) -> ModelTokenizer:
        return self.model.tokenizer()

    def tokenizer_fingerprint(self) -> str:
        return self.model.tokenizer_fingerprint()

    def count_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text))


def short_window(settings: Settings) -> int:
    """Tokens of the short window, BOS included: the setting, else the short model's own window."""
    return settings.short_window or ModelChoice.short(settings).window()


@dataclass(frozen=True)
class _Loaded:
    choice: ModelChoice
    window: int | None
    rope_scaling: RopeScaling


class CausalLM(dg.ConfigurableResource):
    """Scoring engines of a run, loaded on first use."""

    _engines: "dict[_Loaded, ScoringEngine]" = PrivateAttr(default_factory=dict)
    _loading: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    def engine(
        self, choice: ModelChoice, *, window: int | None = None, rope_scaling: RopeScaling = "none"
    ) -> "ScoringEngine":
        """The engine of a model; the same object for the same arguments until the run ends.

        Args:
            window: read up to so many tokens, where that is more than the model was trained on; None keeps its own
            window. rope_scaling: `none`, or `dynamic` for dynamic NTK scaling of the rotary embeddings to that window.
        """
        key = _Loaded(choice, window, rope_scaling)
        with self._loading:
            if key not in self._engines:
                from transformers.utils import logging as transformers_logging

                from el_resources.scoring.engine import ScoringEngine

                transformers_logging.disable_progress_bar()  # its loading bar would stand between ours
                with ScoringEngine.turn:  # a load beside a forward would spoil what that one learns of free memory
                    self._engines[key] = ScoringEngine.from_folder(
                        choice.folder(),
                        bos_id=choice.tokenizer().bos_id,
                        dtype=choice.dtype,
                        device=choice.device,
                        trust_remote_code=choice.trust_remote_code,
                        window=window,
                        rope_scaling=rope_scaling,
                    )
            return self._engines[key]

    @staticmethod
    def shards_at_once(choice: ModelChoice) -> int:
        """Two on a GPU, which scores one while the host works on the other; on a CPU both would want the same cores."""
        from el_resources.scoring.loading import torch_device

        return 1 if torch_device(choice.device).type == "cpu" else 2

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["CausalLM"]:
        """Frees the models when the run ends, so that a long-lived process does not keep them."""
        try:
            yield self
        finally:
            self._engines.clear()
            gc.collect()
