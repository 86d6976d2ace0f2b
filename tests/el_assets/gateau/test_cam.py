"""CAS by hand: its signs, its normalisations, and where the cosine is not defined."""

import numpy as np
import pytest

from el_assets.gateau.cam import cam_table, contextual_awareness, importance, with_awareness

# Perplexities 1, 2 and 4 with the segments alone; the first segment helps most.
NLL = np.log([1.0, 2.0, 4.0])
TOKENS = np.array([10, 10, 5])


def cas(attention: list[float], sign: str = "ppl", normalisation: str = "none") -> float:
    return contextual_awareness(NLL, np.array(attention), TOKENS, sign=sign, normalisation=normalisation)


def test_importance_is_the_perplexity_or_its_negative() -> None:
    np.testing.assert_allclose(importance(NLL, "ppl"), [1, 2, 4])
    np.testing.assert_allclose(importance(NLL, "negative_ppl"), [-1, -2, -4])
    with pytest.raises(ValueError, match="'inverse' is unknown"):
        importance(NLL, "inverse")


def test_attention_counts_per_token() -> None:
    # Per token 0.01, 0.02, 0.04: parallel to the perplexities.
    assert cas([0.1, 0.2, 0.2]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("sign", "normalisation", "expected"),
    [
        # attention per token (0.04, 0.02, 0.02) against (1, 2, 4): 0.16 / (sqrt(0.0024) * sqrt(21))
        ("ppl", "none", 0.16 / np.sqrt(0.0024 * 21)),
        ("negative_ppl", "none", -0.16 / np.sqrt(0.0024 * 21)),
        # (1, 0, 0) against (0, 1/3, 1)
        ("ppl", "minmax", 0.0),
        # (1, 0, 0) against (1, 2/3, 0): 1 / sqrt(1 + 4/9)
        ("negative_ppl", "minmax", 1 / np.sqrt(13 / 9)),
    ],
)
def test_signs_and_normalisations_by_hand(sign: str, normalisation: str, expected: float) -> None:
    assert cas([0.4, 0.2, 0.1], sign, normalisation) == pytest.approx(expected)


def test_softmax_by_hand() -> None:
    score = np.exp([1.0, 2.0, 4.0]) / np.exp([1.0, 2.0, 4.0]).sum()
    attention = np.exp([0.04, 0.02, 0.02]) / np.exp([0.04, 0.02, 0.02]).sum()
    expected = score @ attention / np.linalg.norm(score) / np.linalg.norm(attention)
    assert cas([0.4, 0.2, 0.1], normalisation="softmax") == pytest.approx(expected)


def test_where_the_cosine_is_not_defined_cas_is_zero() -> None:
    empty = np.array([])
    assert contextual_awareness(empty, empty, empty, sign="ppl", normalisation="none") == 0
    one = contextual_awareness(NLL[:1], np.array([0.3]), TOKENS[:1], sign="ppl", normalisation="minmax")
    assert one == 0, "one segment has no range"
    single = contextual_awareness(NLL[:1], np.array([0.3]), TOKENS[:1], sign="ppl", normalisation="none")
    assert single == pytest.approx(1)


def test_an_exploding_perplexity_stays_finite() -> None:
    found = contextual_awareness(
        np.array([1e4, 1.0]), np.array([0.5, 0.5]), np.array([1, 1]), sign="ppl", normalisation="none"
    )
    assert np.isfinite(found)


def test_every_stored_sample_gets_its_cas() -> None:
    same = {"rest_attention": 0.5, "nll_nats": 1.0, "n_dropped_context_tokens": 0}
    segments = {"segment_tokens": [10, 10, 5], "segment_nll_nats": list(NLL)}
    parallel = {"sample_id": "a", **segments, "segment_attention": [0.1, 0.2, 0.2], **same}
    empty = {"sample_id": "b", "segment_tokens": [], "segment_nll_nats": [], "segment_attention": [], **same}
    found = with_awareness(cam_table([parallel, empty]), sign="ppl", normalisation="none")
    assert found["cas"].to_list() == pytest.approx([1, 0])
