"""Choice of root documents and of their anchors: the positions at which the language model is uncertain.

EntropyLong (arXiv 2510.02330), "high-entropy positions": τ = μ + α·σ over the document's own token entropies; the
anchors are the positions with entropy above τ. Limits on roots, skipped positions and the cap on anchors are additions
of this project; the `paper` profile switches the last two off.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import polars as pl

from el_assets.tables.schemas import polars_schema


@dataclass(frozen=True, kw_only=True)
class RootLimits:
    """Limits on the length of a root, in scorer tokens.

    Attributes:
        shortest, longest: bounds set by the user; a `longest` of 0 means no bound.
        window: the scorer's window, which must hold BOS, the longest chunk, the separator and the root together.
        chunk, separator: tokens of the longest chunk and of the separator.

    The length of a sequence is no limit here: it decides which roots are packed, not which are scored.
    """

    shortest: int
    longest: int
    window: int
    chunk: int
    separator: int

    @property
    def left_by_window(self) -> int:
        """Number of tokens that the scorer's window leaves for a root."""
        return max(0, self.window - 1 - self.chunk - self.separator)

    def reason_against(self, n_tokens: int) -> str | None:
        """Return why a document of this length is not a root; None if it is one.

        A document that exceeds both the window and the user's bound is counted as too long for the window, since
        a higher bound would not make it eligible.
        """
        if n_tokens < self.shortest:
            return "too_short"
        if n_tokens > self.left_by_window:
            return "too_long_for_window"
        if self.longest and n_tokens > self.longest:
            return "too_long_for_root_tokens_max"
        return None


def sample_roots(
    doc_ids: Sequence[str], n_tokens: Sequence[int], limits: RootLimits, *, count: int, seed: int
) -> tuple[list[int], dict[str, int]]:
    """Return the indices of the sampled roots, in the documents' order, and the counts of documents.

    The counts are the number of `eligible` documents, and of ineligible ones by reason. The sample is the `count`
    eligible documents with the smallest hashes of seed and id (all of them if `count` is 0). So it does not depend on
    the order of the documents, and changes little if some are added or removed.
    """
    reasons = [limits.reason_against(n) for n in n_tokens]
    eligible = [index for index, reason in enumerate(reasons) if reason is None]
    chosen = sorted(eligible, key=lambda index: seeded_hash(seed, "root", doc_ids[index]))[: count or None]
    ineligible = Counter(reason for reason in reasons if reason is not None)
    return sorted(chosen), {"eligible": len(eligible), **dict(sorted(ineligible.items()))}


def threshold(entropy_nats: np.ndarray, alpha: float) -> tuple[float, float, float]:
    """Return (μ, σ, τ = μ + ασ) of a document's token entropies [n], in nats; σ is without Bessel's correction.

    Example:
        >>> threshold(np.array([1.0, 1.0, 1.0, 5.0]), alpha=1.5)
        (2.0, 1.7320508075688772, 4.598076211353316)
    """
    entropy = entropy_nats.astype(np.float64)
    mean, std = float(entropy.mean()), float(entropy.std())
    return mean, std, mean + alpha * std


def find_anchors(entropy_nats: np.ndarray, threshold_nats: float, *, skip: int, cap: int) -> np.ndarray:
    """Return the positions with entropy above the threshold, ascending, as int32.

    Args:
        entropy_nats: [n_tokens].
        skip: positions at the start that are never anchors.
        cap: most anchors; 0 for no cap. Those with the highest entropies are kept (at equal entropy, the earlier
            ones). So a larger α only removes anchors: it never adds one that a smaller α left out.

    Example:
        >>> find_anchors(np.array([9.0, 1.0, 5.0, 6.0, 7.0]), 4.5, skip=1, cap=2).tolist()
        [3, 4]
    """
    positions = np.flatnonzero(entropy_nats > threshold_nats)
    positions = positions[positions >= skip]
    if cap and len(positions) > cap:
        highest_first = np.argsort(-entropy_nats[positions], kind="stable")
        positions = np.sort(positions[highest_first[:cap]])
    return positions.astype(np.int32)


def entropy_map_row(
    doc_id: str,
    content_hash: str,
    token_ids: np.ndarray,
    entropy_nats: np.ndarray,
    nll_nats: np.ndarray,
    *,
    alpha: float,
    skip: int,
    cap: int,
) -> dict[str, object]:
    """Return one root's row of `entropy_maps`."""
    mean, std, tau = threshold(entropy_nats, alpha)
    return {
        "doc_id": doc_id,
        "content_hash": content_hash,
        "token_ids": token_ids,
        "entropy_nats": entropy_nats,
        "nll_nats": nll_nats,
        "mean_nats": mean,
        "std_nats": std,
        "threshold_nats": tau,
        "anchors": find_anchors(entropy_nats, tau, skip=skip, cap=cap),
        "n_above_threshold": int((entropy_nats > tau).sum()),
    }


def entropy_maps_table(rows: list[dict[str, object]]) -> pl.DataFrame:
    """Return the `entropy_maps` table of one shard."""
    return pl.DataFrame(rows, schema=polars_schema("entropy_maps"), orient="row")


def seeded_hash(seed: int, *parts: str) -> int:
    """Return 64 bits that depend on the seed and the parts only: the same on every machine and in every process."""
    text = "\0".join((str(seed), *parts))
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest())
