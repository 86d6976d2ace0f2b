"""Attention over packed sequences: many sequences in one row of inputs, each of which sees only itself.

Shapes: T inputs of a batch, H query heads, K key heads, E width of a head, P pieces, J keys of all pieces.

A batch is one row of T inputs, cut into pieces. A piece is a whole sequence, or the rest of a sequence after a prefix
that it shares with others. The shared prefix is a piece of its own, which is computed once, and its keys come before
those of every piece that follows it:

    inputs    | BOS C sep | root A | root B | BOS sequence D |
    pieces         0          1        2            3
    keys of 1: piece 0, piece 1        keys of 2: piece 0, piece 2        keys of 3: piece 3

Rows of a piece see all keys of the shared prefix and, causally, those of the piece itself; in a layer with a sliding
window only those within it. The result is exact: sharing changes only the order of sums.

Algorithm: `packed_attention` is registered with transformers' attention interface and finds the batch's layout in a
context variable. On a GPU in half precision one kernel takes all pieces: this project's own on Hopper for heads of
width 64 or 128 (attention_kernel.py), else torch's variable-length flash attention; a long sequence that is alone in
its batch goes to cuDNN. Otherwise SDPA is called for each piece. There is no padding and no T × T mask.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from el_resources.scoring.pieces import LayerWatcher, Piece, visible

# Name in transformers' registries; a model refers to it only while it is read.
PACKED = "packed_sequences"

# Arguments of some models' attention that are not supported here.
_BEYOND = {"softcap": "capped scores", "s_aux": "attention sinks", "position_bias": "position biases"}

_HALF = (torch.float16, torch.bfloat16)

# Least inputs for which a sequence alone in its batch goes to cuDNN, and the step to which its length is rounded up.
LONG, LONG_STEP = 16_384, 2048


@dataclass(kw_only=True)
class Layout:
    """The pieces of a batch, in the form that the attention of every layer needs.

    Attributes:
        cu_queries_P1, cu_keys_P1: starts of each piece's queries and keys, and the end.
        watcher: gets the queries and keys of every layer.
        masks, work: values that layers of one kind share; the first of these layers makes them.
    """

    pieces: Sequence[Piece]
    cu_queries_P1: Tensor
    cu_keys_P1: Tensor
    max_queries: int
    max_keys: int
    watcher: LayerWatcher | None = None
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)
    work: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, pieces: Sequence[Piece], device: torch.device, watcher: LayerWatcher | None = None) -> "Layout":
        n_queries = [piece.end - piece.start for piece in pieces]
        n_keys = [piece.n_keys for piece in pieces]
        return cls(
            pieces=pieces,
            cu_queries_P1=to_device(np.cumsum([0, *n_queries], dtype=np.int32), device),
            cu_keys_P1=to_device(np.cumsum([0, *n_keys], dtype=np.int32), device),
            max_queries=max(n_queries),
            max_keys=max(n_keys),
            watcher=watcher,
        )

    @cached_property
    def keys_J(self) -> Tensor | None:
        """Return the input of each key; None if no piece has a shared prefix."""
        if not any(piece.n_shared for piece in self.pieces):
            return None
        spans = [span for p in self.pieces for span in ((p.shared_start, p.shared_end), (p.start, p.end))]
        return to_device(np.concatenate([np.arange(*span) for span in spans]), self.cu_keys_P1.device)


def to_device(values: "np.ndarray[Any, Any]", device: torch.device) -> Tensor:
    """Return an array on the device; the copy does not wait for the GPU's current work."""
    tensor = torch.from_numpy(values)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


_layout: ContextVar[Layout | None] = ContextVar("_layout", default=None)


@contextmanager
def reading(model: Any, layout: Layout) -> Iterator[None]:
    """Use this layout in a model's forwards inside the context; the model is then restored, also after an error."""
    token = _layout.set(layout)
    try:
        with implementation(model, PACKED):
            yield
    finally:
        _layout.reset(token)


@contextmanager
def implementation(model: Any, name: str) -> Iterator[None]:
    """Use a registered attention implementation in a model's forwards inside the context."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


@torch.compiler.disable
def packed_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Return the attention of one layer over a packed batch; arguments and result are those of transformers' interface.

    Raises:
        ValueError: the layer passes an argument that is not supported here.
    """
    for option, what in _BEYOND.items():
        if options.get(option) is not None:
            raise ValueError(f"its attention has {what}")
    layout = _layout.get()
    assert layout is not None and query.shape[0] == 1, "the model is read inside `reading`, one row at a time"
    scale, window = options.get("scaling"), options.get("sliding_window")
    if layout.watcher is not None:
        layout.watcher.add_layer(query[0], key[0], window=window, scale=scale)
    attend = _choose(layout, query, window)
    return attend(layout, query[0], key[0], value[0], scale, window)[None], None


def _choose(layout: Layout, query: Tensor, window: int | None) -> Callable[..., Tensor]:
    """Return the fastest function that supports this batch; all of them return T × H × E."""
    if not (query.is_cuda and query.dtype in _HALF and query.shape[3] % 8 == 0):
        return _piece_by_piece
    if window is not None:
        return _varlen
    return _long_alone if len(layout.pieces) == 1 and layout.max_queries >= LONG else _tiled


def _long_alone(
    layout: Layout, query_HTE: Tensor, key_KTE: Tensor, value_KTE: Tensor, scale: float | None, window: int | None
) -> Tensor:
    """Attend in one long sequence, by cuDNN if available: 1.5 to 1.8 times as fast as flash attention on Hopper.

    Lengths are rounded up, since cuDNN makes a plan for every new one; no row sees the inputs added after it.
    """
    n_inputs = query_HTE.shape[1]
    added = -n_inputs % LONG_STEP
    query, key, value = (
        (pad(heads, (0, 0, 0, added)) if added else heads)[None] for heads in (query_HTE, key_KTE, value_KTE)
    )
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
        output_1HTE = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
    return output_1HTE[0, :, :n_inputs].transpose(0, 1)


def _tiled(
    layout: Layout, query_HTE: Tensor, key_KTE: Tensor, value_KTE: Tensor, scale: float | None, window: int | None
) -> Tensor:
    """Attend in all pieces by this project's own kernel, if it supports such heads."""
    from el_resources.scoring import attention_kernel as kernel

    query, key, value = (heads.transpose(0, 1) for heads in (query_HTE, key_KTE, value_KTE))
    if not kernel.takes(query, key, value):
        return _varlen(layout, query_HTE, key_KTE, value_KTE, scale, window)
    n_inputs = kernel.inputs_of_a_block(query, key)
    if n_inputs not in layout.work:
        layout.work[n_inputs] = to_device(kernel.work_items(layout.pieces, n_inputs), query.device)
    if len(layout.work[n_inputs]) > kernel.MAX_WORK_ITEMS:
        return _varlen(layout, query_HTE, key_KTE, value_KTE, scale, window)
    return kernel.attend_to_pieces(
        query, key, value, layout.work[n_inputs], query.shape[2] ** -0.5 if scale is None else scale
    )


def _varlen(
    layout: Layout, query_HTE: Tensor, key_KTE: Tensor, value_KTE: Tensor, scale: float | None, window: int | None
) -> Tensor:
    """Attend in all pieces by one flash attention kernel: T × H × E."""
    from torch.nn.attention.varlen import varlen_attn

    key_JKE, value_JKE = key_KTE.transpose(0, 1), value_KTE.transpose(0, 1)
    if layout.keys_J is not None:
        key_JKE, value_JKE = key_JKE[layout.keys_J], value_JKE[layout.keys_J]
    # Versions of torch without this option let query heads share key heads by themselves.
    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
    # Rows align with keys at the bottom right: the last row of a piece sees all of its keys.
    output = varlen_attn(
        query_HTE.transpose(0, 1),
        key_JKE,
        value_JKE,
        layout.cu_queries_P1,
        layout.cu_keys_P1,
        layout.max_queries,
        layout.max_keys,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )
    assert isinstance(output, Tensor), "no auxiliary output was asked for"
    return output


def _piece_by_piece(
    layout: Layout, query_HTE: Tensor, key_KTE: Tensor, value_KTE: Tensor, scale: float | None, window: int | None
) -> Tensor:
    """Attend by SDPA in one piece after another: T × H × E."""
    n_heads, n_inputs, _ = query_HTE.shape
    output_THE = query_HTE.new_empty(n_inputs, n_heads, value_KTE.shape[2])
    for piece in layout.pieces:
        own, shared = slice(piece.start, piece.end), slice(piece.shared_start, piece.shared_end)
        keys, values = (
            torch.cat([heads[:, shared], heads[:, own]], dim=1) if piece.n_shared else heads[:, own]
            for heads in (key_KTE, value_KTE)
        )
        mask = _mask(layout, piece, window, query_HTE.device)
        attended = scaled_dot_product_attention(
            query_HTE[None, :, own],
            keys[None],
            values[None],
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=n_heads != keys.shape[0],
        )
        output_THE[own] = attended[0].transpose(0, 1)
    return output_THE


def _mask(layout: Layout, piece: Piece, window: int | None, device: torch.device) -> Tensor | None:
    """Return the keys that the rows of a piece see; None if each row sees all keys up to itself."""
    n_queries, n_keys = piece.end - piece.start, piece.n_keys
    if not piece.n_shared and (window is None or n_keys <= window):
        return None
    shape = (n_queries, n_keys, window)
    if shape not in layout.masks:
        layout.masks[shape] = visible(piece.n_shared, n_keys, 0, n_keys, window, device)
    return layout.masks[shape]


def _no_mask(*_: Any, **__: Any) -> None:
    """Return no mask, since the layout replaces it."""


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, _no_mask)
