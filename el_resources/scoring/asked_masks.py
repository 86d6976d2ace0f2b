"""Comparison of a model's own masks with the packed attention that would replace them.

A model passes a sliding window twice: to the function that makes its masks, and to its attention. Packed attention
gets the second only. Some models have the window in the mask alone (PhiMoE), or pass one to the attention of layers
whose mask has none.

Algorithm: the model reads a few tokens with a special attention implementation, whose masks are the rules that
transformers composed (`AskedMask`). In each attention layer the rule is evaluated on rows and keys around every window
of the configuration and around the layer's own, and compared with packed attention.
Guarantees: windows of any size are checked exactly, however short the text is.
Costs: a forward of a few tokens, and a few thousand comparisons a layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from el_resources.scoring.attention import Layout, implementation, packed_attention, reading
from el_resources.scoring.pieces import Piece

PROBING = "packed_sequences_probe"

_WINDOW_WORDS = ("window", "chunk", "local_attention", "index_topk", "block_size", "extent")
# Rows and keys that are compared for every model: near the beginning, and at the ends of long contexts.
_PLACES = (0, 1, 2, 5, 127, 4097, 131_071)


@dataclass(frozen=True)
class AskedMask:
    """The rule of a mask, which gives the keys that a row sees. Models may cut it to their keys and pass it on."""

    rule: Callable[..., Tensor]

    def __getitem__(self, _: object) -> "AskedMask":
        return self

    def shows(self, window: int | None, places: set[int], device: torch.device) -> bool:
        """Return true if rows see the same keys as in causal attention with this window."""
        near = {place + step for place in places for step in (-1, 0, 1)}
        window_edges = {place - (window or 0) + step for place in places for step in (-1, 0, 1, 2)}
        rows = torch.tensor(sorted(places), device=device)[:, None]
        keys = torch.tensor(sorted(one for one in near | window_edges if one >= 0), device=device)[None]
        expected = keys <= rows
        if window is not None:
            expected = expected & (keys > rows - window)
        zero = torch.zeros((), dtype=torch.long, device=device)
        found = self.rule(zero, zero, rows, keys)
        return bool((found.expand_as(expected) == expected).all())


@dataclass
class AttentionCalls:
    """Windows that the attention layers of one forward were given, in their order."""

    windows_named: list[int]
    windows: list[int | None] = field(default_factory=list)


_calls: ContextVar[AttentionCalls | None] = ContextVar("_calls", default=None)


def windows_named_in(config: Any) -> list[int]:
    """Return every window, chunk or budget of attention that a configuration names, smallest first."""
    found = set()
    for name, value in config.to_dict().items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if any(word in name for word in _WINDOW_WORDS):
            found |= {one for one in values if isinstance(one, int) and not isinstance(one, bool) and one > 1}
    return sorted(found)


@contextmanager
def asking(model: Any, n_inputs: int) -> Iterator[AttentionCalls]:
    """Make the forward of one sequence check the model's own masks in this context.

    Raises, in the forward:
        ValueError: the mask of an attention layer shows other keys than packed attention would.
    """
    calls = AttentionCalls(windows_named_in(model.config.get_text_config()))
    token = _calls.set(calls)
    try:
        with reading(model, Layout.of([Piece(0, n_inputs)], model.device)), implementation(model, PROBING):
            yield calls
    finally:
        _calls.reset(token)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    calls, window = _calls.get(), options.get("sliding_window")
    assert calls is not None, "the model is read inside `asking`"
    places = {*_PLACES}
    for named in {*calls.windows_named, *([] if window is None else [window])}:
        places |= {named - 1, named, named + 1, 2 * named + 1}
    if isinstance(attention_mask, AskedMask):
        if not attention_mask.shows(window, places, query.device):
            raise ValueError("its masks show an attention layer other tokens than the window that the layer names")
    elif attention_mask is not None:
        raise ValueError("it makes attention masks of its own")
    calls.windows.append(window)
    return packed_attention(module, query, key, value, None, **options)


def _ask(*_: Any, mask_function: Callable[..., Tensor], **__: Any) -> AskedMask:
    return AskedMask(mask_function)


AttentionInterface.register(PROBING, _attend)
AttentionMaskInterface.register(PROBING, _ask)
