"""Causal attention over packed pieces on a Hopper GPU: one kernel, written for the short sequences that packing is for.

Shapes: T inputs of a batch, H query heads, K key heads, G = H / K of them a key head, E width of a head, W work items.

A work item is a block of rows of one piece. One program takes a block and a key head, and reads the G query heads that
share it as rows of one tile, so that a tile spans few inputs and little of it lies above the diagonal. It walks over
the keys of the shared beginning, then over the piece's own up to its rows, and keeps the running maximum and sum of the
softmax, in fp32 and powers of two; scores of whole blocks need no mask. Keys and values come through the tensor memory
accelerator, from where they are: those of a shared beginning are not copied. The longest blocks start first.

Guarantees: as `packed_attention` (attention.py), to the rounding of half precision.
Costs: on documents of 64 to 4,095 tokens on an H100 flash attention 2 takes 1.35 (128-wide heads) to 2 times (64-wide)
as long; long single sequences are cuDNN's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from el_resources.scoring.attention import Piece

LOG2_E = math.log2(math.e)
FAR_BELOW = tl.constexpr(-1e30)  # finite, so that no difference of infinities arises


@dataclass(frozen=True)
class Tile:
    """How much a program holds: rows of queries (inputs × G), keys a step; and how it is compiled."""

    rows: int
    keys: int
    warps: int
    stages: int


# What a grid has room for.
MAX_WORK_ITEMS = 65_535
# By width of a head; the fastest of those tried on an H100.
TILES = {64: Tile(128, 64, 4, 3), 128: Tile(64, 32, 4, 3)}


@triton.jit
def _step(  # type: ignore[no-untyped-def]
    outputs,
    total,
    largest,
    query,
    keys,
    values,
    at,
    head,
    scale,
    rows,
    end,
    E: tl.constexpr,
    KEYS: tl.constexpr,
    MASK: tl.constexpr,
):
    """Take the keys from `at` on into the running softmax: all of them, those before `end`, or those up to the rows."""
    key = tl.reshape(keys.load([at, head, 0]), [KEYS, E])
    scores = tl.dot(query, key.T)
    columns = at + tl.arange(0, KEYS)
    if MASK == "end":
        scores = tl.where(columns[None, :] < end, scores, FAR_BELOW)
    if MASK == "causal":
        scores = tl.where(columns[None, :] <= rows[:, None], scores, FAR_BELOW)
    above = tl.maximum(largest, tl.max(scores, axis=1) * scale)
    weights = tl.exp2(scores * scale - above[:, None])
    shrink = tl.exp2(largest - above)
    value = tl.reshape(values.load([at, head, 0]), [KEYS, E])
    outputs = tl.dot(weights.to(value.dtype), value, outputs * shrink[:, None])
    return outputs, total * shrink + tl.sum(weights, axis=1), above


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    output,
    work,
    scale,
    G: tl.constexpr,
    E: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    head = tl.program_id(0)
    item = work + tl.program_id(1) * 5
    first, end, start = tl.load(item), tl.load(item + 1), tl.load(item + 2)
    shared_start, shared_end = tl.load(item + 3), tl.load(item + 4)
    INPUTS: tl.constexpr = ROWS // G
    query = tl.reshape(queries.load([first, head * G, 0]), [ROWS, E])
    rows = first + tl.arange(0, ROWS) // G
    outputs = tl.zeros((ROWS, E), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    largest = tl.full((ROWS,), FAR_BELOW, tl.float32)
    whole = shared_start + (shared_end - shared_start) // KEYS * KEYS
    for at in tl.range(shared_start, whole, KEYS):
        outputs, total, largest = _step(
            outputs, total, largest, query, keys, values, at, head, scale, rows, shared_end, E, KEYS, "none"
        )
    if whole < shared_end:
        outputs, total, largest = _step(
            outputs, total, largest, query, keys, values, whole, head, scale, rows, shared_end, E, KEYS, "end"
        )
    # Every row of the block sees every key before this one.
    diagonal = start + (first - start + 1) // KEYS * KEYS
    for at in tl.range(start, diagonal, KEYS):
        outputs, total, largest = _step(
            outputs, total, largest, query, keys, values, at, head, scale, rows, end, E, KEYS, "none"
        )
    for at in tl.range(diagonal, tl.minimum(first + INPUTS, end), KEYS):
        outputs, total, largest = _step(
            outputs, total, largest, query, keys, values, at, head, scale, rows, end, E, KEYS, "causal"
        )
    heads = head * G + tl.arange(0, ROWS) % G
    places = (rows.to(tl.int64)[:, None] * (tl.num_programs(0) * G) + heads[:, None]) * E + tl.arange(0, E)[None, :]
    tl.store(output + places, (outputs / total[:, None]).to(output.dtype.element_ty), mask=(rows < end)[:, None])


def takes(query_THE: Tensor, key_TKE: Tensor, value_TKE: Tensor) -> bool:
    """Whether there is a tile for heads of this width and number, and the accelerator that loads it."""
    (_, n_heads, width), n_key_heads = query_THE.shape, key_TKE.shape[1]
    sharing = n_heads // n_key_heads
    return (
        width in TILES
        and width == value_TKE.shape[2]
        and TILES[width].rows % sharing == 0
        and torch.cuda.get_device_capability(query_THE.device)[0] == 9  # nobody has tried it on another
    )


def inputs_of_a_block(query_THE: Tensor, key_TKE: Tensor) -> int:
    """Inputs whose rows one program holds."""
    return TILES[query_THE.shape[2]].rows * key_TKE.shape[1] // query_THE.shape[1]


def work_items(pieces: Sequence[Piece], n_inputs: int) -> NDArray[np.int32]:
    """Blocks of so many inputs, most keys first.

    Returns:
        W × 5: the block's first input, the end and the start of its piece, start and end of what is shared.
    """
    blocks = []
    for piece in pieces:
        firsts = np.arange(piece.start, piece.end, n_inputs)
        rest = [piece.end, piece.start, piece.shared_start, piece.shared_end]
        blocks.append(np.column_stack([firsts, np.tile(rest, (len(firsts), 1))]))
    work_W5 = np.concatenate(blocks).astype(np.int32)
    n_keys_W = work_W5[:, 0] - work_W5[:, 2] + work_W5[:, 4] - work_W5[:, 3]
    return np.ascontiguousarray(work_W5[np.argsort(-n_keys_W, kind="stable")])


def attend_to_pieces(query_THE: Tensor, key_TKE: Tensor, value_TKE: Tensor, work_W5: Tensor, scale: float) -> Tensor:
    """Attention T × H × E of every row to what it may see; arguments as `takes` and `work_items` say."""
    (_, n_heads, width), n_key_heads = query_THE.shape, key_TKE.shape[1]
    tile, sharing = TILES[width], n_heads // n_key_heads
    output_THE = torch.empty(query_THE.shape, dtype=query_THE.dtype, device=query_THE.device)
    queries = _described(query_THE, [tile.rows // sharing, sharing, width])
    keys, values = (_described(heads, [tile.keys, 1, width]) for heads in (key_TKE, value_TKE))
    _attend[(n_key_heads, len(work_W5))](
        queries,
        keys,
        values,
        output_THE,
        work_W5,
        scale * LOG2_E,
        sharing,
        width,
        tile.rows,
        tile.keys,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return output_THE


def _described(heads: Tensor, block: list[int]) -> TensorDescriptor:
    """What the accelerator needs to know: shape, strides and block; rows that it can address."""
    if heads.stride(2) != 1 or any(stride % 8 for stride in heads.stride()[:2]) or heads.data_ptr() % 16:
        heads = heads.contiguous()
    return TensorDescriptor(heads, list(heads.shape), list(heads.stride()), block)
