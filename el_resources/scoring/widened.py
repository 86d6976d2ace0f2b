"""A model in half precision that runs as if its weights were float32.

Algorithm: while a module runs, hooks replace its half-precision parameters by float32 copies.
Guarantees: every copy is exact, and the model is restored afterwards, also after an error.
Costs: memory for the float32 parameters of one module (the largest is the embedding, or the experts of a layer), and a
copy of all weights in each forward.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

HALF = (torch.float16, torch.bfloat16)


def is_half(model: Any) -> bool:
    """Return true if the weights are in plain half precision, neither quantized nor with 8 bits."""
    kinds = {parameter.dtype for parameter in model.parameters()}
    quantized = getattr(model.config, "quantization_config", None)
    return not quantized and bool(kinds & {*HALF}) and kinds <= {*HALF, torch.float32}


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Convert a model's half-precision weights to float32 inside the context, and multiply without TF32.

    A module that reads the weights of another one gets them unconverted, and may raise an error.
    """
    held: dict[nn.Module, dict[str, nn.Parameter]] = {}

    def widen(module: nn.Module, _: object) -> None:
        held[module] = _halves(module)
        for name, parameter in held[module].items():
            module._parameters[name] = nn.Parameter(parameter.float(), requires_grad=False)

    def restore(module: nn.Module, *_: object) -> None:
        module._parameters.update(held.pop(module, {}))

    precision, hooks = torch.get_float32_matmul_precision(), []
    torch.set_float32_matmul_precision("highest")
    for module in model.modules():
        if _halves(module):
            hooks.append(module.register_forward_pre_hook(widen))
            hooks.append(module.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for hook in hooks:
            hook.remove()
        for module in [*held]:
            restore(module)


def _halves(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the half-precision parameters of a module itself, without its children."""
    return {name: one for name, one in module._parameters.items() if one is not None and one.dtype in HALF}
