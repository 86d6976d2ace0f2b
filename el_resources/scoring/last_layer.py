"""The last layer on the wanted rows alone, since nothing reads its results for the others.

Shapes: T inputs of a packed batch, R of them wanted, D hidden width.

After the attention itself, every part of a decoder layer works on each input alone: the output projection of attention,
and the MLP. Other layers need all rows, because the attention of the next layer reads them; the last layer does not. So
its parts get the wanted rows alone and return zeros for the others, which the residual stream carries to the end.
Guarantees: exact up to rounding; readers.py checks it on every model before it uses it.
Savings if few rows are wanted, as in verification: 88 % of a layer of an 8B Llama, which is 2.8 % of its body, or 77 %
of a layer of the reference model, which is 13 %. Costs: on a GPU this layer runs uncompiled meanwhile.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from el_resources.scoring.body import body_of

# Names of these parts in transformers' decoders that call their layers `layers`.
_PARTS = ("self_attn.o_proj", "mlp")


def decoder_layers(model: Any) -> Sequence[Any]:
    """Return the layers of a model's body; empty if it has no list called `layers`."""
    return list(getattr(body_of(model), "layers", ()))


def parts_by_row(model: Any) -> list[nn.Module]:
    """Return the parts of the last layer that, by their names, work on each input alone; empty if there are none."""
    found = dict(decoder_layers(model)[-1].named_modules()) if decoder_layers(model) else {}
    return [found[name] for name in _PARTS if name in found]


@contextmanager
def on_rows_alone(model: Any, parts: Sequence[nn.Module], rows_R: Tensor) -> Iterator[None]:
    """Run these parts of the last layer on these rows of inputs 1 × T × D inside the context; rows must not repeat."""
    layer = decoder_layers(model)[-1]
    compiled, layer._compiled_call_impl = layer._compiled_call_impl, None  # a compiled layer does not see the hooks
    with ExitStack() as hooks:
        for part in parts:
            n_inputs: list[int] = []  # of the current call
            hooks.enter_context(part.register_forward_pre_hook(_take(rows_R, n_inputs)))
            hooks.enter_context(part.register_forward_hook(_spread(rows_R, n_inputs)))
        try:
            yield
        finally:
            layer._compiled_call_impl = compiled


def _take(rows_R: Tensor, n_inputs: list[int]) -> Any:
    def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden_1TD, *rest = arguments
        n_inputs.append(hidden_1TD.shape[1])
        return hidden_1TD[:, rows_R], *rest

    return hook


def _spread(rows_R: Tensor, n_inputs: list[int]) -> Any:
    def hook(module: nn.Module, arguments: tuple[Tensor, ...], output_1RD: Tensor) -> Tensor:
        whole_1TD = output_1RD.new_zeros(1, n_inputs.pop(), output_1RD.shape[2])
        whole_1TD[:, rows_R] = output_1RD
        return whole_1TD

    return hook
