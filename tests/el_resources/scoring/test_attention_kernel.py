"""The packed attention kernel against float64 attention with its full scores, piece by piece."""

import numpy as np
import pytest
import torch
from torch import Tensor

from el_resources.scoring.attention import Layout, _choose, _tiled, _varlen
from el_resources.scoring.pieces import Piece

# Half precision rounds queries, keys, weights and outputs of size 1; bf16 to 2^-8 of that, fp16 to 2^-11.
TOLERANCE = {torch.bfloat16: 0.03, torch.float16: 0.004}

# Ends of pieces that share nothing, and of pieces after a common beginning of this many inputs.
UNSHARED = {"one input": [1], "a block and its neighbours": [31, 64, 161, 289], "many": [900, 901, 965, 1300, 1317]}
SHARED = {"whole blocks of keys": (256, [700, 701, 900]), "a last block in part": (77, [78, 109, 500, 1200])}
FAMILIES = "two families, the second not at the row's start"


def pieces_of(ends: list[int], n_shared: int = 0) -> list[Piece]:
    """Neighbouring pieces, or pieces after the first if that is shared."""
    starts = [n_shared, *ends[:-1]]
    beginning = [Piece(0, n_shared)] if n_shared else []
    return beginning + [Piece(*span, 0, n_shared) for span in zip(starts, ends, strict=True)]


def two_families() -> list[Piece]:
    """Return pieces that share 40 inputs, one that is alone, and some that share 33 others further on."""
    first = [*pieces_of([90, 91], 40), Piece(91, 200)]
    return [*first, Piece(200, 233), Piece(233, 234, 200, 233), Piece(234, 390, 200, 233)]


def slow_attention(query_THE: Tensor, key_TKE: Tensor, value_TKE: Tensor, pieces: list[Piece], scale: float) -> Tensor:
    """Softmax over what each row may see, in float64."""
    sharing = query_THE.shape[1] // key_TKE.shape[1]
    output = torch.empty_like(query_THE, dtype=torch.float64)
    for piece in pieces:
        own, shared = slice(piece.start, piece.end), slice(piece.shared_start, piece.shared_end)
        keys, values = (
            torch.cat([heads[shared], heads[own]]).repeat_interleave(sharing, dim=1).double()
            for heads in (key_TKE, value_TKE)
        )
        scores = torch.einsum("qhe,khe->hqk", query_THE[own].double(), keys) * scale
        n_queries, n_keys = scores.shape[1:]
        hidden = torch.ones(n_queries, n_keys, dtype=torch.bool, device=scores.device).triu(1 + piece.n_shared)
        output[own] = torch.einsum("hqk,khe->qhe", scores.masked_fill(hidden, -torch.inf).softmax(-1), values)
    return output


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("n_heads", "n_key_heads"), [(8, 2), (4, 4), (16, 1), (6, 3)])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("name", [*UNSHARED, *SHARED, FAMILIES])
def test_every_row_attends_to_what_it_may_see(
    dtype: torch.dtype, n_heads: int, n_key_heads: int, width: int, name: str
) -> None:
    torch.manual_seed(0)
    n_shared, ends = SHARED.get(name) or (0, UNSHARED.get(name, []))
    pieces = two_families() if name == FAMILIES else pieces_of(ends, n_shared)
    # One tensor for all three, as some models make them: rows are not neighbours in memory.
    heads = torch.randn(pieces[-1].end, n_heads + 2 * n_key_heads, width, device="cuda", dtype=dtype)
    query, key, value = heads.split([n_heads, n_key_heads, n_key_heads], dim=1)
    layout = Layout.of(pieces, heads.device)
    found = _tiled(layout, *(part.transpose(0, 1) for part in (query, key, value)), 0.2, None)
    assert layout.work, "the kernel takes these heads"
    expected = slow_attention(query, key, value, pieces, 0.2)
    assert float((found.double() - expected).abs().max()) < TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize(("n_heads", "n_key_heads", "width"), [(14, 2, 64), (4, 2, 80), (6, 2, 64)])
def test_heads_without_a_tile_are_left_to_flash_attention(n_heads: int, n_key_heads: int, width: int) -> None:
    torch.manual_seed(0)
    pieces = pieces_of([300, 420])
    query, key, value = (
        torch.randn(n, 420, width, device="cuda", dtype=torch.bfloat16) for n in (n_heads, n_key_heads, n_key_heads)
    )
    layout = Layout.of(pieces, query.device)
    found = _tiled(layout, query, key, value, None, None)
    assert not layout.work
    assert torch.equal(found, _varlen(layout, query, key, value, None, None))


@pytest.mark.gpu
def test_the_way_follows_the_batch() -> None:
    def chosen(pieces: list[Piece], window: int | None, dtype: torch.dtype = torch.bfloat16) -> str:
        query = torch.empty(1, 4, pieces[-1].end, 64, device="cuda", dtype=dtype)
        return _choose(Layout.of(pieces, query.device), query, window).__name__

    assert chosen(pieces_of([300, 420]), None) == "_tiled"
    assert chosen(pieces_of([300, 420]), 256) == "_varlen"
    assert chosen(pieces_of([20_000]), None) == "_long_alone"
    assert chosen(pieces_of([20_000, 20_001]), None) == "_tiled"
    assert chosen(pieces_of([300]), None, torch.float32) == "_piece_by_piece"


@pytest.mark.gpu
def test_work_starts_with_most_keys_and_covers_every_input_once() -> None:
    from el_resources.scoring.attention_kernel import work_items

    work = work_items(pieces_of([109, 500], n_shared=77), 32)
    n_keys = work[:, 0] - work[:, 2] + work[:, 4] - work[:, 3]
    assert (np.diff(n_keys) <= 0).all()
    covered = [row for first, end, *_ in work for row in range(first, min(first + 32, end))]
    assert sorted(covered) == list(range(500))
