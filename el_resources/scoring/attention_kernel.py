"""Causal attention over packed pieces on a Hopper GPU: one kernel for the short sequences of packed batches.

Shapes: T inputs of a batch, H query heads, K key heads, G = H / K of them a key head, E width of a head, W work items.

A work item is a block of inputs of one piece. One program takes a block and a key head. The G query heads that share
the key head become rows of one tile, so that a tile spans few inputs and little of it is above the diagonal. The
program walks over the keys of the shared prefix, then over the piece's own keys up to its rows, and keeps the running
maximum and sum of the softmax, in fp32 and powers of two; only blocks at the prefix's end or on the diagonal need a
mask. The tensor memory accelerator loads keys and values from where they are, so those of a shared prefix are not
copied. The blocks with the most keys start first.

Guarantees: the result is that of `packed_attention` (attention.py), up to rounding in half precision.
Costs: for documents of 64 to 4,095 tokens on an H100, flash attention 2 takes 1.35 times (heads of width 128) to 2
times (width 64) as long; long single sequences are left to cuDNN (attention.py).
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

from el_resources.scoring.pieces import Piece

LOG2_E = math.log2(math.e)
FAR_BELOW = tl.constexpr(-1e30)  # finite, so that infinities are never subtracted


@dataclass(frozen=True)
class Tile:
    """Size of a program's tile, and options of its compilation.

    Attributes:
        rows: rows of queries (inputs × G).
        keys: keys a step.
    """

    rows: int
    keys: int
    warps: int
    stages: int


# Largest number of programs along the second dimension of a grid.
MAX_WORK_ITEMS = 65_535
# Tile by width of a head: the fastest of the tiles tried on an H100.
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
    """Add KEYS keys, from `at`, to the running softmax.

    MASK selects the keys that count: "none" all, "end" those before `end`, "causal" those up to each row's input.
    """
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
    # Read shared keys.
    whole = shared_start + (shared_end - shared_start) // KEYS * KEYS
    for at in tl.range(shared_start, whole, KEYS):
        outputs, total, largest = _step(
            outputs, total, largest, query, keys, values, at, head, scale, rows, shared_end, E, KEYS, "none"
        )
    if whole < shared_end:
        outputs, total, largest = _step(
            outputs, total, largest, query, keys, values, whole, head, scale, rows, shared_end, E, KEYS, "end"
        )
    # Read own keys. Every row of the block sees every key before `diagonal`.
    diagonal = start + (first - start + 1) // KEYS * KEYS
    for at in tl.range(start, diagonal, KEYS):
        outputs, total, largest = _step(
            outputs, total, largest, query, keys, values, at, head, scale, rows, end, E, KEYS, "none"
        )
    for at in tl.range(diagonal, tl.minimum(first + INPUTS, end), KEYS):
        outputs, total, largest = _step(
            outputs, total, largest, query, keys, values, at, head, scale, rows, end, E, KEYS, "causal"
        )
    # Write the outputs.
    heads = head * G + tl.arange(0, ROWS) % G
    places = (rows.to(tl.int64)[:, None] * (tl.num_programs(0) * G) + heads[:, None]) * E + tl.arange(0, E)[None, :]
    tl.store(output + places, (outputs / total[:, None]).to(output.dtype.element_ty), mask=(rows < end)[:, None])


def takes(query_THE: Tensor, key_TKE: Tensor, value_TKE: Tensor) -> bool:
    """Return true if there is a tile for heads of this width and number, and the GPU's accelerator can load it."""
    (_, n_heads, width), n_key_heads = query_THE.shape, key_TKE.shape[1]
    sharing = n_heads // n_key_heads
    return (
        width in TILES
        and width == value_TKE.shape[2]
        and TILES[width].rows % sharing == 0
        and torch.cuda.get_device_capability(query_THE.device)[0] == 9  # not tried on other GPUs
    )


def inputs_of_a_block(query_THE: Tensor, key_TKE: Tensor) -> int:
    """Return the number of inputs whose rows one program holds."""
    return TILES[query_THE.shape[2]].rows * key_TKE.shape[1] // query_THE.shape[1]


def work_items(pieces: Sequence[Piece], n_inputs: int) -> NDArray[np.int32]:
    """Divide pieces into blocks of `n_inputs` inputs, those with the most keys first.

    Returns:
        W × 5: the block's first input, the end and the start of its piece, the start and the end of its shared prefix.
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
    """Return the attention [T, H, E] of every input to the inputs that it may see.

    `takes` has to return true for the heads; `work_W5` is the result of `work_items`.
    """
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
    """Return a description for the accelerator: shape, strides and block. Heads that it cannot address are copied."""
    if heads.stride(2) != 1 or any(stride % 8 for stride in heads.stride()[:2]) or heads.data_ptr() % 16:
        heads = heads.contiguous()
    return TensorDescriptor(heads, list(heads.shape), list(heads.stride()), block)
