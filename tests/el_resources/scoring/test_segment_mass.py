"""The watcher of attention against softmax in float64, and masses that are known."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from el_resources.scoring import ScoringEngine
from el_resources.scoring.pieces import Piece
from el_resources.scoring.readers import read_packed
from el_resources.scoring.segment_mass import AttentionWatcher, segment_scores
from tests.el_resources.scoring.attention_models import BOS, CONFIGS, LAYOUTS, build_model, random_sequence

DTYPES = [torch.float32, torch.bfloat16]


def gap_to_float64(dtype: torch.dtype, device: str) -> float:
    """Between the watcher and softmax in float64, over the same queries and keys."""
    torch.manual_seed(1)
    query = torch.randn(1, 6, 70, 8, device=device).to(dtype)
    key = 3 * torch.randn(1, 2, 70, 8, device=device).to(dtype)
    watcher = AttentionWatcher(rows=[(50, 70)], max_weights=3000)
    watcher.add_layer(query[0], key[0], window=None, scale=0.3)
    scores = 0.3 * query[0].double() @ key[0].double().repeat_interleave(3, dim=0).mT
    scores.masked_fill_(torch.ones(70, 70, device=device).triu(1).bool(), -torch.inf)
    mass = scores.softmax(dim=-1)[:, -20:].mean(dim=(0, 1))
    return float(np.abs(watcher.masses()[0] - mass.cpu().numpy()).max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_is_computed_in_fp32(dtype: torch.dtype) -> None:
    assert gap_to_float64(dtype, "cpu") <= 1e-7


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_is_computed_in_fp32_on_a_gpu(dtype: torch.dtype) -> None:
    assert gap_to_float64(dtype, "cuda") <= 1e-7


# --- attention that is known


def test_a_model_that_looks_everywhere_alike_gives_each_input_its_share() -> None:
    model = build_model(CONFIGS["random-0"])
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)  # every score is 0
    found = ScoringEngine(model, bos_id=BOS).segment_attention([random_sequence(4)], [[(0, 1), (1, 3)]], [(3, 4)])[0]
    # Token 3 is predicted from BOS and tokens 0, 1, 2: a quarter each.
    np.testing.assert_allclose(found.segment_attention, [0.25, 0.5], rtol=1e-6)
    assert found.rest_attention == pytest.approx(0.25, rel=1e-6)


NO_NLL = np.zeros(0, dtype=np.float32)


def test_masses_of_segments_are_sums_of_their_inputs_masses() -> None:
    layer = torch.tensor([0.4, 0.1, 0.2, 0.05, 0.25], dtype=torch.float64)  # BOS and tokens 0 … 3
    found = segment_scores(AttentionWatcher([(4, 5)], layers_N=[layer], windows=[None]), [(2, 4), (0, 1)], NO_NLL)
    np.testing.assert_allclose(found.segment_attention, [0.3, 0.1], rtol=1e-6)
    assert found.rest_attention == pytest.approx(0.6)
    assert found.segment_layers.tolist() == [1, 1]


def test_a_segment_counts_the_layers_that_reach_it() -> None:
    """Row 4 reads the last of 5 inputs; a window of 3 holds inputs 2, 3 and 4."""
    everywhere = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2], dtype=torch.float64)
    near = torch.tensor([0.0, 0.0, 0.1, 0.4, 0.5], dtype=torch.float64)
    watcher = AttentionWatcher([(4, 5)], layers_N=[near, everywhere], windows=[3, None])
    found = segment_scores(watcher, [(0, 1), (1, 2), (2, 3)], NO_NLL)  # inputs 1, 2 and 3
    np.testing.assert_allclose(found.segment_attention, [0.2, (0.1 + 0.2) / 2, (0.4 + 0.2) / 2], rtol=1e-6)
    assert found.segment_layers.tolist() == [1, 2, 2]
    assert found.rest_attention == pytest.approx((0.5 + 0.4) / 2)
    # A segment that the window cuts is not reached.
    assert segment_scores(watcher, [(0, 2)], NO_NLL).segment_attention == pytest.approx([0.4])


def test_what_no_layer_reaches_has_the_mass_of_the_widest_window() -> None:
    near = torch.tensor([0.0, 0.0, 0.1, 0.4, 0.5], dtype=torch.float64)
    nearer = torch.tensor([0.0, 0.0, 0.0, 0.3, 0.7], dtype=torch.float64)
    watcher = AttentionWatcher([(4, 5)], layers_N=[nearer, near], windows=[2, 3])
    found = segment_scores(watcher, [(0, 2)], NO_NLL)
    assert (found.segment_attention.tolist(), found.segment_layers.tolist()) == ([pytest.approx(0.1)], [1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_attention_is_on_segments_or_rest(layout: str) -> None:
    engine = ScoringEngine(build_model(CONFIGS["random-2"]), bos_id=BOS)
    length, segments, response = LAYOUTS[layout]
    found = engine.segment_attention([random_sequence(length)], [segments], [response])[0]
    assert float(found.segment_attention.sum(dtype=np.float64)) + found.rest_attention == pytest.approx(1, abs=1e-6)
    assert (found.rest_attention == pytest.approx(1, abs=1e-6)) == (segments == [])


# --- how it is computed


def watched_mass(model: Any, token_ids: NDArray[np.int32], n_rows: int, max_weights: int) -> NDArray[np.float64]:
    inputs = torch.from_numpy(token_ids.astype(np.int64))
    watcher = AttentionWatcher([(len(inputs) - n_rows, len(inputs))], max_weights)
    with torch.inference_mode():
        read_packed(model, inputs[None], torch.arange(len(inputs))[None], [Piece(0, len(inputs))], watcher)
    found: NDArray[np.float64] = watcher.masses().mean(axis=0)
    return found


@pytest.mark.parametrize("name", ["random-1", "mistral-sliding"])
@pytest.mark.parametrize("max_weights", [1, 2500])
def test_chunks_of_rows_change_nothing(name: str, max_weights: int) -> None:
    model, ids = build_model(CONFIGS[name]), random_sequence(60)
    whole = watched_mass(model, ids, n_rows=50, max_weights=10**9)
    np.testing.assert_allclose(watched_mass(model, ids, 50, max_weights), whole, atol=1e-7)


def test_rows_in_several_pieces_are_the_mean_of_each_by_their_lengths() -> None:
    engine = ScoringEngine(build_model(CONFIGS["random-2"]), bos_id=BOS)
    ids, segments, pieces = random_sequence(30), [(0, 5), (5, 9)], [(10, 12), (15, 21), (29, 30)]
    (whole,) = engine.segment_attention([ids], [segments], [pieces])
    alone = engine.segment_attention([ids] * 3, [segments] * 3, pieces)
    expected = np.average([one.segment_attention for one in alone], axis=0, weights=[2, 6, 1])
    np.testing.assert_allclose(whole.segment_attention, expected, atol=1e-7)
    np.testing.assert_allclose(whole.nll_nats, np.concatenate([one.nll_nats for one in alone]), atol=1e-5)
    assert float(whole.segment_attention.sum()) + whole.rest_attention == pytest.approx(1, abs=1e-6)


def test_one_piece_is_the_span_to_the_bit() -> None:
    engine, ids = ScoringEngine(build_model(CONFIGS["random-2"]), bos_id=BOS), random_sequence(30)
    span, piece = (engine.segment_attention([ids], [[(0, 5)]], [response])[0] for response in ((10, 30), [(10, 30)]))
    assert span.segment_attention.tobytes() == piece.segment_attention.tobytes()
    assert (span.rest_attention, span.nll_nats.tobytes()) == (piece.rest_attention, piece.nll_nats.tobytes())


def test_weights_alive_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes, plain = build_model(CONFIGS["mistral-sliding"]), [0], torch.Tensor.softmax

    def counting(weights: torch.Tensor, dim: int) -> torch.Tensor:
        sizes.append(weights.numel())
        return plain(weights, dim)

    monkeypatch.setattr(torch.Tensor, "softmax", counting)
    watched_mass(model, random_sequence(60), n_rows=50, max_weights=2500)
    assert 2000 < max(sizes) <= 2500  # ten rows of 4 heads and at most 60 inputs
