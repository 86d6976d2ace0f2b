"""Scores straight from hidden states, against float64 logits."""

import pytest
import torch
from torch import nn

from el_resources.scoring.head import VocabularyHead

TOLERANCE_NATS = 2e-4  # the largest of 128K logits of size 10, summed in fp32 in another order


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n_rows", "n_vocabulary"), [(1, 1), (3, 97), (130, 256), (129, 4099), (700, 128_256)])
@pytest.mark.parametrize("width", [64, 576])
def test_scores_are_those_of_float64_logits(dtype: torch.dtype, n_rows: int, n_vocabulary: int, width: int) -> None:
    from el_resources.scoring.fused_head_kernel import entropy_and_nll_of, takes

    torch.manual_seed(0)
    hidden = torch.randn(n_rows, width, device="cuda").to(dtype)
    weight = (torch.randn(n_vocabulary, width, device="cuda") * 3 / width**0.5).to(dtype)
    targets = torch.randint(0, n_vocabulary, (n_rows,), device="cuda")
    targets[-1] = n_vocabulary - 1
    assert takes(hidden, weight)
    entropy, nll = entropy_and_nll_of(hidden, weight, targets)
    log_p = torch.log_softmax(hidden.double() @ weight.double().T, dim=-1)
    assert entropy.dtype == nll.dtype == torch.float32
    expected = -(log_p.exp() * log_p).sum(dim=-1)
    torch.testing.assert_close(entropy.double(), expected, atol=TOLERANCE_NATS, rtol=0)
    expected = -log_p.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(nll.double(), expected, atol=TOLERANCE_NATS, rtol=0)


@pytest.mark.gpu
def test_a_certain_row_has_no_entropy() -> None:
    from el_resources.scoring.fused_head_kernel import entropy_and_nll_of

    hidden = torch.zeros(2, 64, device="cuda", dtype=torch.bfloat16)
    hidden[:, 0] = 1000
    weight = torch.zeros(600, 64, device="cuda", dtype=torch.bfloat16)
    weight[599, 0] = 10
    entropy, nll = entropy_and_nll_of(hidden, weight, torch.tensor([599, 0], device="cuda"))
    assert entropy.tolist() == [0.0, 0.0]
    assert nll.tolist() == [0.0, pytest.approx(1e4, rel=1e-3)]


@pytest.mark.gpu
def test_a_head_gives_the_same_however_its_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from el_resources.scoring import fused_head_kernel

    torch.manual_seed(0)
    head = VocabularyHead(projection=nn.Linear(64, 1000, bias=False, device="cuda", dtype=torch.bfloat16))
    hidden = torch.randn(900, 64, device="cuda", dtype=torch.bfloat16)
    targets = torch.randint(0, 1000, (900,), device="cuda")
    with torch.inference_mode():
        whole = head.scores(hidden, targets, 1)
        monkeypatch.setattr(fused_head_kernel, "MAX_PARTIALS", 1)
        cut = head.scores(hidden, targets, 1)
    assert fused_head_kernel.rows_at_once(1000) == fused_head_kernel.ROWS
    assert torch.equal(whole[0], cut[0])
    assert torch.equal(whole[1], cut[1])


@pytest.mark.gpu
@pytest.mark.parametrize("rule", [{"scale": 0.5}, {"softcap": 30.0}])
def test_heads_that_do_more_keep_their_logits(rule: dict[str, float]) -> None:
    torch.manual_seed(0)
    projection = nn.Linear(64, 1000, bias=False, device="cuda", dtype=torch.bfloat16)
    nn.init.normal_(projection.weight)
    hidden = torch.randn(50, 64, device="cuda", dtype=torch.bfloat16)
    targets = torch.zeros(50, dtype=torch.long, device="cuda")
    with torch.inference_mode():
        plain = VocabularyHead(projection=projection).scores(hidden, targets, 50)[1]
        head = VocabularyHead(projection=projection, **rule)
        found = head.scores(hidden, targets, 50)[1]
        log_p = torch.log_softmax(head.logits(hidden).double(), dim=-1)
    torch.testing.assert_close(found.double(), -log_p[:, 0], atol=1e-4, rtol=0)
    assert float((found - plain).abs().max()) > 1e-3
