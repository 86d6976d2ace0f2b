"""Dagster resource that provides scoring engines: a run loads each model once, however many shards it has."""

import functools
import gc
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from pydantic import PrivateAttr

from el_resources.configuration.checked_values import naming
from el_resources.models.model_files import (
    DTYPES,
    is_embedded,
    model_fingerprint,
    model_window,
    read_config,
    resolve_model,
    tokenizer_fingerprint,
)
from el_resources.models.placed_tokens import PlacedTokens, may_have_chat_tokens
from el_resources.models.tokenization import ModelTokenizer
from el_resources.settings import Settings

if TYPE_CHECKING:
    from el_resources.scoring.engine import ScoringEngine


RopeScaling = Literal["none", "dynamic"]
# Kind of device that runs the model; the dtype `auto` depends on it.
Place = Literal["cpu", "gpu"]
PLACES: tuple[Place, ...] = ("cpu", "gpu")
# The short window is this fraction of the long one if the settings name no short model of the same family.
SHORT_SHARE = 4
# Dtypes as a safetensors header names them.
STORED_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A causal language model as the settings name it; it is loaded on first use.

    Attributes:
        window_tokens: number of tokens that it reads at once; 0 for the window that its config states.
        bos_token, end_of_text_token: spellings of BOS and end-of-text; empty for the choice of placed_tokens.py.
        variable: the setting that names it, for errors.
    """

    name: str
    revision: str
    dtype: str
    device: str
    trust_remote_code: bool
    window_tokens: int = 0
    bos_token: str = ""
    end_of_text_token: str = ""
    variable: str = field(default="EL_LONG_MODEL", compare=False)

    @classmethod
    def long(cls, settings: Settings) -> "ModelChoice":
        """Return the model that scores the corpus."""
        choice = cls._of(settings, settings.long_model, settings.long_model_revision)
        return replace(choice, window_tokens=settings.long_window)

    @classmethod
    def short(cls, settings: Settings) -> "ModelChoice":
        """Return the short-window model."""
        choice = cls._of(settings, settings.short_model, settings.short_model_revision)
        return replace(choice, variable="EL_SHORT_MODEL")

    @classmethod
    def _of(cls, settings: Settings, name: str, revision: str) -> "ModelChoice":
        return cls(
            name=name,
            revision=revision,
            dtype=settings.dtype,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            bos_token=settings.bos_token,
            end_of_text_token=settings.end_of_text_token,
        )

    def folder(self) -> Path:
        """Return the folder of the model's files, downloaded for a hub model. Raises ValueError (resolve_model)."""
        with naming(self.variable):
            return resolve_model(self.name, self.revision or None)

    def config(self) -> dict[str, Any]:
        """Return the content of the model's config.json."""
        with naming(self.variable):
            return read_config(self.folder())

    def checked_config(self) -> Any:
        """Return the configuration as transformers reads it; this imports torch.

        Raises:
            ValueError: the model is not a causal language model, or its config does not fit the tokenizer or weights.
        """
        from el_resources.scoring.checkpoints import checked_config, refuse_other_weights

        with naming(self.variable):
            config = checked_config(self.folder(), trust_remote_code=self.trust_remote_code)
            refuse_other_weights(self.folder(), config)
            return config

    def window(self) -> int:
        """Return the number of tokens that the model reads at once, BOS included."""
        with naming(self.variable):
            return model_window(self.folder(), self.window_tokens or None)

    def open_engine(self, *, window: int | None = None, rope_scaling: RopeScaling = "none") -> "ScoringEngine":
        """Load the model; arguments as in `CausalLM.engine`."""
        from el_resources.scoring.engine import ScoringEngine

        return ScoringEngine.from_folder(
            self.folder(),
            bos_id=self.tokenizer().bos_id,
            dtype=self.weights_dtype(),
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            window=window or self.window_tokens or None,
            rope_scaling=rope_scaling,
        )

    def place(self) -> Place:
        """Return the kind of device that this machine reads the model on; torch is asked if the device is `auto`."""
        if self.device != "auto":
            return "cpu" if self.device == "cpu" else "gpu"
        from el_resources.scoring.loading import torch_device

        return "cpu" if torch_device(self.device).type == "cpu" else "gpu"

    def weights_dtype(self, place: Place | None = None) -> str:
        """Return the dtype of the weights in memory: `auto` is float32 on a CPU and the checkpoint's own on a GPU.

        Args:
            place: kind of device that they are read on; None for this machine's.
        """
        if self.dtype != "auto":
            return self.dtype
        return "float32" if (place or self.place()) == "cpu" else checkpoint_dtype(self.folder())

    def fingerprint(self, place: Place | None = None) -> str:
        """Return the hash of what scores depend on: weights, tokenizer, dtype, window, and a BOS that is not its own.

        Kernels, batches and devices are not part of it, since they change scores by rounding only.
        """
        placed = self.placed_tokens()
        return model_fingerprint(
            self.folder(),
            dtype=self.weights_dtype(place),
            window=self.window_tokens or None,
            bos_id=None if placed is None or placed.bos_id == placed.own_bos_id else placed.bos_id,
        )

    def tokenizer_fingerprint(self) -> str:
        """Return the hash of all that token ids depend on: the tokenizer, and ordinary tokens that settings place."""
        own, placed = tokenizer_fingerprint(self.folder()), self.placed_tokens()
        if placed is None or not placed.kept_from_text:
            return own
        return hashlib.sha256("\n".join([own, *placed.kept_from_text]).encode()).hexdigest()

    def other_end_of_text(self) -> str | None:
        """Return name and id of the end-of-text token if it differs from the checkpoint's; else None."""
        placed = self.placed_tokens()
        if placed is None or placed.end_of_text_id == placed.own_end_of_text_id:
            return None
        tokenizer = self.tokenizer()
        return f"{tokenizer.end_of_text_token} ({tokenizer.eos_id})"

    def placed_tokens(self) -> PlacedTokens | None:
        """Return BOS and end-of-text; None if their names alone show that they are the checkpoint's own."""
        folder = self.folder()
        if not (self.bos_token or self.end_of_text_token or may_have_chat_tokens(folder)):
            return None
        return _placed_tokens(self, tokenizer_fingerprint(folder))

    def tokenizer(self) -> ModelTokenizer:
        with naming(self.variable):
            return ModelTokenizer.from_folder(
                self.folder(),
                trust_remote_code=self.trust_remote_code,
                bos_token=self.bos_token,
                end_of_text_token=self.end_of_text_token,
            )


@functools.lru_cache(maxsize=32)
def _placed_tokens(choice: ModelChoice, fingerprint: str) -> PlacedTokens:
    """Return the placed tokens; a tokenizer is loaded again only if its files changed."""
    return choice.tokenizer().placed


def checkpoint_dtype(folder: Path) -> str:
    """Return the checkpoint's own dtype as transformers chooses it: from its config, else from its first tensor.

    It is `auto` if the engine has no such dtype, as for FP8; then transformers decides.
    """
    config = read_config(folder)
    text = config.get("text_config")
    for holder in (config, text if isinstance(text, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            if isinstance(holder.get(key), str):
                named = str(holder[key]).removeprefix("torch.")
                return named if named in DTYPES else "auto"
    weights = sorted(folder.glob("*.safetensors"))
    stored = _tensor_dtypes(weights[0]) if weights else []
    return next((STORED_DTYPES[name] for name in stored if name in STORED_DTYPES), "auto")


def _tensor_dtypes(path: Path) -> list[str]:
    """Return the dtypes of a safetensors file's tensors: 8 bytes of header length, then the header, a JSON object."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return [entry["dtype"] for key, entry in header.items() if key != "__metadata__"]


@dataclass(frozen=True)
class ScorerTokens:
    """Counter of a model's tokens; the tokenizer is loaded on first use."""

    model: ModelChoice

    @cached_property
    def _tokenizer(self) -> ModelTokenizer:
        return self.model.tokenizer()

    def tokenizer_fingerprint(self) -> str:
        return self.model.tokenizer_fingerprint()

    def count_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text))


def short_window(settings: Settings) -> int:
    """Return the tokens of the short window, BOS included.

    It is the setting `short_window` if that is given, else the window of the short model. If the short model is the
    embedded one and the long model is not, the two are not a family, and it is a quarter of the long window.

    Raises:
        ValueError: it has no room for BOS and one token, or is larger than the long window.
    """
    given, long_window = settings.short_window, ModelChoice.long(settings).window()
    if given == 1:
        raise ValueError(
            "EL_SHORT_WINDOW=1 cannot hold BOS and one token; give at least 2, or 0 for the short model's own window"
        )
    if not given and is_embedded(settings.short_model) and not is_embedded(settings.long_model):
        return max(2, long_window // SHORT_SHARE)
    found = given or ModelChoice.short(settings).window()
    if found > long_window:
        named = (
            f"EL_SHORT_WINDOW={found}" if given else f"the window of EL_SHORT_MODEL={settings.short_model}, {found},"
        )
        raise ValueError(
            f"{named} is beyond the window of {settings.long_model}, {long_window} tokens; "
            f"the short window is a part of it: set EL_SHORT_WINDOW to at most {long_window}"
        )
    return found


@dataclass(frozen=True)
class _Loaded:
    choice: ModelChoice
    window: int | None
    rope_scaling: RopeScaling


class CausalLM(dg.ConfigurableResource):
    """Scoring engines of a run, loaded on first use."""

    _engines: "dict[_Loaded, ScoringEngine]" = PrivateAttr(default_factory=dict)

    def engine(
        self, choice: ModelChoice, *, window: int | None = None, rope_scaling: RopeScaling = "none"
    ) -> "ScoringEngine":
        """Return the engine of a model; until the run ends, equal arguments give the same object.

        Args:
            window: largest number of tokens to read, if it exceeds the model's own window; None keeps that.
            rope_scaling: `none`, or `dynamic` for dynamic NTK scaling of the rotary embeddings to that window.
        """
        key = _Loaded(choice, window, rope_scaling)
        if key not in self._engines:
            from transformers.utils import logging as transformers_logging

            transformers_logging.disable_progress_bar()  # its loading bar would appear between ours
            with naming(choice.variable):
                self._engines[key] = choice.open_engine(window=window, rope_scaling=rope_scaling)
        return self._engines[key]

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["CausalLM"]:
        """Free the models when the run ends, so that a long-lived process does not keep them."""
        try:
            yield self
        finally:
            self._engines.clear()
            gc.collect()
