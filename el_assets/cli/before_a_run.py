"""Checks of settings, files and models before the first shard is registered, so that a run does not fail hours later.

They cost nothing extra: a run too downloads models of the hub, loads a tokenizer, and imports torch if a GPU is named
or a model scores.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from el_assets.gateau.steps import refuse_different_tokenizers, refuse_unreadable_pair, refuse_unwatchable
from el_resources.configuration.checked_values import ENCODER_PREFIX, naming
from el_resources.models.causal_lm import ModelChoice, short_window
from el_resources.models.text_encoder import refuse_no_encoder
from el_resources.settings import Settings
from el_resources.store.object_stores import is_remote, store_path

SCORING_PARTS = ("entropylong", "gateau")


def refuse_what_cannot_run(settings: Settings, parts: Sequence[str], *, runs_here: bool = True) -> None:
    """Raise ValueError, with the variable's name, if this machine, its files or the model do not allow a setting.

    Args:
        runs_here: true if runs execute on this machine; if false its devices are not checked.
    """
    _make_store(settings.store)
    if runs_here:
        _refuse_device(settings.device)
    if not set(parts) & {"index", *SCORING_PARTS}:
        return
    _refuse_encoder(settings.encoder, needed="index" in parts or "entropylong" in parts)
    long = ModelChoice.long(settings)
    tokenizer = long.tokenizer()
    if set(parts) & set(SCORING_PARTS):
        window = long.window()
        with naming("EL_SEPARATOR"):
            separator = len(tokenizer.joint_ids(settings.separator))
        _refuse_sizes(settings, parts, window, separator)
        ModelChoice.short(settings).folder()  # its fingerprint is observed in every run
        long.checked_config()
    if "gateau" in parts:
        short_window(settings)
        refuse_different_tokenizers(settings)
        refuse_unreadable_pair(settings)
        refuse_unwatchable(settings)


def _refuse_sizes(settings: Settings, parts: Sequence[str], window: int, separator: int) -> None:
    needed = 1 + settings.chunk_tokens + separator + settings.root_tokens_min
    if "entropylong" in parts and needed > window:
        raise ValueError(
            f"no root fits: EL_CHUNK_TOKENS={settings.chunk_tokens}, EL_ROOT_TOKENS_MIN={settings.root_tokens_min}, "
            f"BOS and a separator of {separator} tokens need {needed} tokens, but the window of {settings.long_model} "
            f"has {window}; lower one of the two settings, or take a model with a longer window"
        )


def _make_store(place: str) -> None:
    """Create the folder of a local store now; otherwise only the first table would find that this fails."""
    if is_remote(place):
        return
    try:
        store_path(place).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"EL_STORE={place!r} cannot be made ({error.strerror}); choose a folder that you may write to"
        ) from error


def _refuse_device(name: str) -> None:
    if name.startswith("cuda"):
        import torch

        seen = torch.cuda.device_count()
        if int(name.partition(":")[2] or 0) >= seen:
            there = f"{seen} GPUs, cuda:0 to cuda:{seen - 1}" if seen else "no GPU"
            raise ValueError(f"EL_DEVICE={name!r} is not there: torch sees {there}; use 'auto' or 'cpu'")


def _refuse_encoder(name: str, *, needed: bool) -> None:
    if not needed or not name.startswith(ENCODER_PREFIX):
        return
    if find_spec("sentence_transformers") is None:
        raise ValueError(
            f"EL_ENCODER={name!r} needs sentence-transformers; install it with `pip install 'entropylong[encoders]'`"
        )
    model = name.removeprefix(ENCODER_PREFIX)
    if (model.startswith(("/", ".")) or model.count("/") > 1) and not Path(model).is_dir():
        raise ValueError(f"EL_ENCODER={name!r}: there is no folder {model}; correct the path, or give a hub id")
    with naming("EL_ENCODER"):
        refuse_no_encoder(name)
