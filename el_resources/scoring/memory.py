"""How much a GPU takes at once: the size of a batch from its free memory, and what to do when that was too much."""

from collections.abc import Callable

import torch

PROBE_TOKENS = 2048
# Of the memory that is free; the rest is for the head's logits, fragmentation and other users of the device.
SHARE = 0.6


def tokens_that_fit(device: torch.device, read: Callable[[int], object], *, at_most: int) -> int:
    """Inputs that a batch may hold, from what one of `PROBE_TOKENS` takes.

    Args:
        read: puts so many inputs through the model.
    """
    read(PROBE_TOKENS)  # once before it counts: libraries take their workspaces at the first call
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    read(PROBE_TOKENS)
    taken = torch.cuda.max_memory_allocated(device) - before
    return min(at_most, max(PROBE_TOKENS, int(SHARE * free_bytes(device) * PROBE_TOKENS / taken)))


def free_bytes(device: torch.device) -> int:
    """Bytes that torch may still allocate: what the device has free and what torch holds unused."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def half_of(n_tokens: int, n_sequences: int) -> int:
    """The next smaller batch after one that did not fit.

    Raises:
        ValueError: the batch was a single sequence.
    """
    if n_sequences == 1:
        raise ValueError(
            f"a sequence of {n_tokens} inputs does not fit the GPU's memory; use a model in half precision, shorter "
            "documents, or a larger GPU"
        )
    return max(1, n_tokens // 2)
