"""Entropy and NLL from hidden states on a Hopper GPU, without writing logits to memory.

Shapes: R rows, D hidden width, V vocabulary, J tiles of the vocabulary.

One program multiplies a tile of rows with a tile of the output embeddings. It stores of the resulting logits x only the
statistics, in fp32, that the softmax needs: the largest logit m, Z = Σ exp(s) and S = Σ s·exp(s) with s = x - m, and
the target's logit if it is among them. A second kernel merges the J tiles of each row as head_kernel.py merges blocks.
The grid is persistent, so that the sums over one tile overlap the loads of the next. It walks over groups of rows whose
hidden states stay in the cache while all embeddings are loaded.
Costs: 2 × D × V operations a row, at 0.9 to 1 of the rate of a plain half-precision product on an H100 (0.8 to 0.9 if
logits are written in fp32 and read back); 12 bytes of memory a row and tile (1 KB for logits).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

ROWS, COLUMNS, DEPTH, GROUP = 128, 256, 64, 16
WARPS, STAGES = 8, 3
MERGED_ROWS = 64
# Partial results (row × tile) in memory at once: 12 bytes each.
MAX_PARTIALS = 2**25
FAR_BELOW = tl.constexpr(-1e30)


@triton.jit(do_not_specialize=["n_rows", "n_vocabulary"])
def _tiles(  # type: ignore[no-untyped-def]
    hidden,
    weight,
    targets,
    partials,
    target_logits,
    n_rows,
    n_vocabulary,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    n_down, n_across = tl.cdiv(n_rows, ROWS), tl.cdiv(n_vocabulary, COLUMNS)
    for tile in tl.range(tl.program_id(0), n_down * n_across, tl.num_programs(0), flatten=True):
        # Find the tile.
        first = tile // (GROUP * n_across) * GROUP
        size = tl.minimum(n_down - first, GROUP)
        down = first + tile % (GROUP * n_across) % size
        across = tile % (GROUP * n_across) // size
        # Multiply the tiles.
        logits = tl.zeros((ROWS, COLUMNS), tl.float32)
        for depth in tl.range(0, width, DEPTH):
            rows_RD = hidden.load([down * ROWS, depth])
            columns_VD = weight.load([across * COLUMNS, depth])
            logits = tl.dot(rows_RD, columns_VD.T, logits)
        rows = down * ROWS + tl.arange(0, ROWS)
        columns = across * COLUMNS + tl.arange(0, COLUMNS)
        logits = tl.where(columns[None, :] < n_vocabulary, logits, FAR_BELOW)
        # Store the statistics.
        largest = tl.max(logits, axis=1)
        s = logits - largest[:, None]
        e = tl.exp(s)
        inside = rows < n_rows
        at = partials + across.to(tl.int64) * n_rows + rows
        step = n_across.to(tl.int64) * n_rows
        tl.store(at, largest, mask=inside)
        tl.store(at + step, tl.sum(e, axis=1), mask=inside)
        tl.store(at + 2 * step, tl.sum(s * e, axis=1), mask=inside)
        # Store target logits.
        target = tl.load(targets + rows, mask=inside, other=-1)
        here = (target >= across * COLUMNS) & (target < across * COLUMNS + COLUMNS)
        found = tl.sum(tl.where(columns[None, :] == target[:, None], logits, 0.0), axis=1)
        tl.store(target_logits + rows, found, mask=inside & here)


@triton.jit(do_not_specialize=["n_rows", "n_across"])
def _merge(  # type: ignore[no-untyped-def]
    partials,
    target_logits,
    entropies,
    nlls,
    n_rows,
    n_across,
    MERGED_ROWS: tl.constexpr,
):
    rows = tl.program_id(0) * MERGED_ROWS + tl.arange(0, MERGED_ROWS)
    inside = rows < n_rows
    step = n_across.to(tl.int64) * n_rows
    largest = tl.full((MERGED_ROWS,), FAR_BELOW, tl.float32)
    total = tl.zeros((MERGED_ROWS,), tl.float32)
    weighted = tl.zeros((MERGED_ROWS,), tl.float32)
    for across in tl.range(n_across):
        # Load a tile's.
        at = partials + across.to(tl.int64) * n_rows + rows
        theirs = tl.load(at, mask=inside, other=FAR_BELOW)
        above = tl.maximum(largest, theirs)
        rise, fall = largest - above, theirs - above
        ours, add = tl.exp(rise), tl.exp(fall)
        # Merge the sums.
        their_total = tl.load(at + step, mask=inside, other=0.0)
        their_weighted = tl.load(at + 2 * step, mask=inside, other=0.0)
        weighted = (weighted + rise * total) * ours + (their_weighted + fall * their_total) * add
        total = total * ours + their_total * add
        largest = above
    target = tl.load(target_logits + rows, mask=inside, other=0.0)
    tl.store(entropies + rows, tl.maximum(tl.log(total) - weighted / total, 0.0), mask=inside)
    tl.store(nlls + rows, tl.log(total) - (target - largest), mask=inside)


def takes(hidden_RD: Tensor, weight_VD: Tensor) -> bool:
    """Return true if the GPU has a tensor memory accelerator that supports the matrices' type, width and alignment."""
    return (
        hidden_RD.dtype in (torch.float16, torch.bfloat16)
        and hidden_RD.dtype == weight_VD.dtype
        and hidden_RD.shape[1] % DEPTH == 0
        and all(matrix.is_contiguous() and matrix.data_ptr() % 16 == 0 for matrix in (hidden_RD, weight_VD))
        and torch.cuda.get_device_capability(hidden_RD.device)[0] == 9  # not tried on other GPUs
    )


def rows_at_once(n_vocabulary: int) -> int:
    """Return the number of rows whose partial results may be in memory at once."""
    return max(ROWS, MAX_PARTIALS // triton.cdiv(n_vocabulary, COLUMNS) // ROWS * ROWS)


def entropy_and_nll_of(hidden_RD: Tensor, weight_VD: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entropy of each row's distribution and the NLL of its target, in nats and fp32.

    `takes` has to return true for the matrices.
    """
    (n_rows, width), n_vocabulary = hidden_RD.shape, weight_VD.shape[0]
    n_across = triton.cdiv(n_vocabulary, COLUMNS)
    partials_3JR = torch.empty(3, n_across, n_rows, dtype=torch.float32, device=hidden_RD.device)
    target_logits_R, entropy_R, nll_R = torch.empty_like(partials_3JR[:, 0]).unbind()
    n_programs = torch.cuda.get_device_properties(hidden_RD.device).multi_processor_count
    _tiles[(n_programs,)](
        TensorDescriptor.from_tensor(hidden_RD, [ROWS, DEPTH]),
        TensorDescriptor.from_tensor(weight_VD, [COLUMNS, DEPTH]),
        targets_R,
        partials_3JR,
        target_logits_R,
        n_rows,
        n_vocabulary,
        width,
        ROWS,
        COLUMNS,
        DEPTH,
        GROUP,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    _merge[(triton.cdiv(n_rows, MERGED_ROWS),)](
        partials_3JR, target_logits_R, entropy_R, nll_R, n_rows, n_across, MERGED_ROWS, num_warps=2
    )
    return entropy_R, nll_R
