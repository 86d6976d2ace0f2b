"""Pieces of a batch, and the keys that a row may see: shared by packed attention, its kernel and its watcher."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """Inputs [start, end) of a batch, after the shared inputs [shared_start, shared_end)."""

    start: int
    end: int
    shared_start: int = 0
    shared_end: int = 0

    @property
    def n_shared(self) -> int:
        return self.shared_end - self.shared_start

    @property
    def n_keys(self) -> int:
        return self.n_shared + self.end - self.start


class LayerWatcher(Protocol):
    """Receiver of the queries and keys of every layer of a forward."""

    def add_layer(self, query_HNE: Tensor, key_KNE: Tensor, *, window: int | None, scale: float | None) -> None:
        """Take one layer's queries and keys, after rotation."""
        ...


def visible(start: int, end: int, first: int, last: int, window: int | None, device: torch.device) -> Tensor:
    """Return the keys, of first … last-1, that the rows start … end-1 see, all counted from a sequence's beginning."""
    rows, keys = torch.arange(start, end, device=device)[:, None], torch.arange(first, last, device=device)
    seen = keys <= rows
    return seen if window is None else seen & (keys > rows - window)
