"""Entropy and NLL of given logits, and the refusal of models whose logits are made in an unknown way."""

import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from el_resources.scoring import ScoringEngine
from el_resources.scoring.head import VocabularyHead, entropy_and_nll, rows_at_once

INFINITY = math.inf


@pytest.mark.parametrize(
    ("logits", "target", "entropy", "nll"),
    [
        ([0.0, 0.0, 0.0, 0.0], 3, math.log(4), math.log(4)),
        ([0.0, 0.0, -INFINITY, -INFINITY], 0, math.log(2), math.log(2)),  # two tokens are ruled out
        ([0.0, 0.0, -INFINITY, -INFINITY], 2, math.log(2), INFINITY),
        ([1e4, 0.0, 0.0, 0.0], 0, 0.0, 0.0),
        ([1e4, 0.0, 0.0, 0.0], 1, 0.0, 1e4),
        ([math.log(3), 0.0, -INFINITY, -INFINITY], 1, 0.562335, math.log(4)),  # p = 3/4, 1/4
    ],
)
@pytest.mark.parametrize("offset", [0.0, 500.0])  # logits mean the same wherever their zero is
def test_distributions_known_by_hand(
    logits: list[float], target: int, entropy: float, nll: float, offset: float
) -> None:
    found = entropy_and_nll(torch.tensor([logits]) + offset, torch.tensor([target]))
    assert found[0].tolist() == pytest.approx([entropy], abs=1e-4)
    assert found[1].tolist() == pytest.approx([nll], abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_are_fp32_and_as_exact_as_that_allows(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (4 * torch.randn(300, 8192)).to(dtype)
    targets = torch.randint(0, 8192, (300,))
    kept = logits.clone()
    entropy, nll = entropy_and_nll(logits, targets)
    log_p = torch.log_softmax(logits.double(), dim=-1)
    assert entropy.dtype == nll.dtype == torch.float32
    torch.testing.assert_close(entropy.double(), -(log_p.exp() * log_p).sum(dim=-1), atol=5e-6, rtol=0)
    torch.testing.assert_close(nll.double(), -log_p[torch.arange(300), targets], atol=5e-6, rtol=0)
    assert torch.equal(logits, kept)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_entropy_lies_between_0_and_that_of_the_vocabulary(scale: float) -> None:
    torch.manual_seed(1)
    entropy, nll = entropy_and_nll(scale * torch.randn(200, 1000), torch.zeros(200, dtype=torch.long))
    assert float(entropy.min()) >= 0.0
    assert float(entropy.max()) <= math.log(1000) + 1e-5
    assert float(nll.min()) >= 0.0


def tiny_config() -> LlamaConfig:
    """The smallest Llama that is worth the name."""
    return LlamaConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=False,
    )


@pytest.mark.parametrize("head_rows", [1, 3, 10, 11])
def test_chunks_give_what_the_whole_gives(head_rows: int) -> None:
    torch.manual_seed(2)
    head = VocabularyHead(projection=torch.nn.Linear(8, 20))
    hidden, targets = torch.randn(10, 8), torch.randint(0, 20, (10,))
    with torch.inference_mode():
        found = head.scores(hidden, targets, head_rows)
        whole = entropy_and_nll(head.logits(hidden), targets)
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=0)


class Squared(LlamaForCausalLM):
    """A model that squares its logits, as no model known here does."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits**2
        return output


def test_a_model_with_an_unknown_rule_for_its_logits_is_refused() -> None:
    assert VocabularyHead.from_model(LlamaForCausalLM(tiny_config())).scale == 1.0
    with pytest.raises(ValueError, match=r"Squared changes its logits after the head in a way that is not known"):
        VocabularyHead.from_model(Squared(tiny_config()))


def test_what_overflows_is_not_taken_for_an_unknown_rule() -> None:
    """1e5 is infinity in float16: of one token the others tell the rule, of all tokens none does."""
    some, every = LlamaForCausalLM(tiny_config()), LlamaForCausalLM(tiny_config())
    with torch.no_grad():
        some.get_input_embeddings().weight[5] = 1e5
        every.get_input_embeddings().weight.fill_(1e5)
    assert VocabularyHead.from_model(some.half()).scale == 1.0
    with pytest.raises(ValueError, match=r"not finite with weights in float16; load it in bfloat16 or float32"):
        VocabularyHead.from_model(every.half())


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"LlamaModel has no output embeddings"):
        VocabularyHead.from_model(LlamaForCausalLM(tiny_config()).model)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_vocabulary", [1, 97, 4096, 8192, 128_256])
def test_one_pass_on_a_gpu_gives_what_several_give(dtype: torch.dtype, n_vocabulary: int) -> None:
    from el_resources.scoring.head_kernel import entropy_and_nll_once

    torch.manual_seed(0)
    logits = (6 * torch.randn(70, n_vocabulary, device="cuda")).to(dtype)
    logits[::5, : n_vocabulary // 2] = -INFINITY  # tokens that are ruled out, whole blocks of them
    logits[3] += 1e4
    targets = torch.full((70,), n_vocabulary - 1, device="cuda")
    for found, expected in zip(entropy_and_nll_once(logits, targets), entropy_and_nll(logits, targets), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("vocab_size", "on_cpu", "rows"),
    [(8192, True, 128), (49_152, True, 64), (262_144, True, 64), (262_144, False, 2048), (8_000_000, False, 67)],
)
def test_a_large_vocabulary_is_not_read_a_few_rows_at_a_time_on_a_cpu(vocab_size: int, on_cpu: bool, rows: int) -> None:
    assert rows_at_once(vocab_size, on_cpu=on_cpu) == rows


def test_an_engine_takes_the_rows_that_suit_its_vocabulary() -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40_000, **shape)).eval()
    assert ScoringEngine(model, bos_id=1).head_rows == 64
