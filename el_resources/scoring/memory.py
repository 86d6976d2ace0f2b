"""Size of the batches on a GPU: a first size from its free memory, and a smaller one if that was too large."""

from collections.abc import Callable

import torch

PROBE_TOKENS = 2048
# Share of the free memory; the rest is for the head's logits, fragmentation and other users of the device.
SHARE = 0.6


def tokens_that_fit(device: torch.device, read: Callable[[int], object], *, at_most: int) -> int:
    """Return the number of inputs that a batch may hold, from the memory that a batch of `PROBE_TOKENS` takes.

    Args:
        read: puts a given number of inputs through the model.
    """
    read(PROBE_TOKENS)  # warm-up: libraries allocate their workspaces at the first call
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    read(PROBE_TOKENS)
    taken = torch.cuda.max_memory_allocated(device) - before
    return min(at_most, max(PROBE_TOKENS, int(SHARE * free_bytes(device) * PROBE_TOKENS / taken)))


def free_bytes(device: torch.device) -> int:
    """Return the bytes that torch can still allocate: free memory of the device, and unused memory of torch's cache."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def half_of(n_tokens: int, n_sequences: int) -> int:
    """Return the size of the next smaller batch after one that did not fit.

    Raises:
        ValueError: the batch was a single sequence.
    """
    if n_sequences == 1:
        raise ValueError(
            f"a sequence of {n_tokens} inputs does not fit the GPU's memory; use a model in half precision, shorter "
            "documents, or a larger GPU"
        )
    return max(1, n_tokens // 2)
