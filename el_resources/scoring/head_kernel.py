"""Entropy and NLL of rows of logits on a GPU; each logit is read once.

Shapes: R rows, V vocabulary.

With s = x - m and m the largest logit so far, one program per row keeps Z = Σ exp(s) and S = Σ s·exp(s) while it
walks over the row. Whenever m rises by d, Z becomes Z·exp(-d), and S becomes (S - d·Z)·exp(-d). In the end
`H = ln Z - S / Z` and `NLL = ln Z - (x[target] - m)`, as in head.py, in fp32.
Costs: one pass over the logits; a chain of torch operations takes four or more.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
WARPS = 8
FAR_BELOW = -1e30  # a finite start, so that infinities are never subtracted


@triton.jit
def _walk(logits, targets, entropies, nlls, n_vocabulary, stride, FAR_BELOW: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = logits + row * stride
    largest = tl.full((), FAR_BELOW, tl.float32)
    total = tl.full((), 0.0, tl.float32)
    weighted = tl.full((), 0.0, tl.float32)
    for start in range(0, n_vocabulary, BLOCK):
        # Load a block.
        column = start + tl.arange(0, BLOCK)
        x = tl.load(at + column, mask=column < n_vocabulary, other=float("-inf")).to(tl.float32)
        # Update the sums.
        above = tl.maximum(largest, tl.max(x, axis=0))
        rise = above - largest
        shrink = tl.exp(-rise)
        s = x - above
        e = tl.exp(s)
        weighted = (weighted - rise * total) * shrink + tl.sum(tl.where(e > 0, s * e, 0.0), axis=0)
        total = total * shrink + tl.sum(e, axis=0)
        largest = above
    target = tl.load(at + tl.load(targets + row)).to(tl.float32)
    tl.store(entropies + row, tl.maximum(tl.log(total) - weighted / total, 0.0))
    tl.store(nlls + row, tl.log(total) - (target - largest))


def entropy_and_nll_once(logits_RV: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entropy of each row's distribution and the NLL of its target, in nats and fp32."""
    n_rows, n_vocabulary = logits_RV.shape
    entropy_R = torch.empty(n_rows, dtype=torch.float32, device=logits_RV.device)
    nll_R = torch.empty_like(entropy_R)
    assert logits_RV.stride(1) == 1, "rows of logits are contiguous"
    _walk[(n_rows,)](
        logits_RV, targets_R, entropy_R, nll_R, n_vocabulary, logits_RV.stride(0), FAR_BELOW, BLOCK, num_warps=WARPS
    )
    return entropy_R, nll_R
