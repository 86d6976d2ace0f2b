"""A model in half precision, read as if its weights were float32.

Algorithm: hooks put a float32 copy in place of each half-precision parameter as long as the module that holds it runs.
Guarantees: every copy is exact, and the model is left as it was found, also after an error.
Costs: memory for the float32 parameters of one module (the largest is the embedding or a layer's experts), and one copy
of all weights a forward.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

HALF = (torch.float16, torch.bfloat16)


def is_half(model: Any) -> bool:
    """Return true if the weights are in half precision, and plainly so: neither quantized nor of 8 bits."""
    kinds = {parameter.dtype for parameter in model.parameters()}
    quantized = getattr(model.config, "quantization_config", None)
    return not quantized and bool(kinds & {*HALF}) and kinds <= {*HALF, torch.float32}


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Read a model's half-precision weights in float32 inside the context, and multiply in it (not in TF32).

    A module that reads the weights of another by itself gets them as they are, and may raise for it.
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
    """The half-precision parameters that a module itself holds."""
    return {name: one for name, one in module._parameters.items() if one is not None and one.dtype in HALF}
