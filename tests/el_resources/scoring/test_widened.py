"""Half-precision models read in float32: what a float32 copy gives, and nothing of it stays."""

from typing import Any

import pytest
import torch

from el_resources.scoring.body import hidden_states
from el_resources.scoring.widened import in_float32, is_half
from tests.el_resources.scoring.oracle import build_model

IDS = torch.arange(3, 15)[None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["llama-tied", "gpt2-learned-positions"])
@torch.inference_mode()
def test_it_gives_what_a_float32_copy_gives(architecture: str, dtype: torch.dtype) -> None:
    model = build_model(architecture).to(dtype)
    before = dict(model.named_parameters())
    with in_float32(model):
        found = hidden_states(model, IDS)
    assert {name: id(one) for name, one in model.named_parameters()} == {name: id(one) for name, one in before.items()}
    halves = hidden_states(model, IDS)
    assert (found.dtype, halves.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(found, hidden_states(model.float(), IDS), atol=0, rtol=0)


@torch.inference_mode()
def test_after_an_error_the_weights_are_as_they_were() -> None:
    model = build_model("llama-tied").to(torch.bfloat16)
    expected = hidden_states(model, IDS)

    def fail(*_: Any) -> None:
        raise RuntimeError("broken off")

    hook = model.model.layers[1].mlp.down_proj.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken off"), in_float32(model):
        hidden_states(model, IDS)
    hook.remove()
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}
    assert torch.equal(hidden_states(model, IDS), expected)


def test_models_that_are_not_in_plain_half_precision_are_told() -> None:
    model = build_model("llama-tied")
    assert not is_half(model)
    assert is_half(model.to(torch.bfloat16))
    model.config.quantization_config = {"quant_method": "fp8"}
    assert not is_half(model)
