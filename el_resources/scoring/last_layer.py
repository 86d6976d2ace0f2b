"""The last layer, on the rows that are asked for: what it makes of the others, nobody reads.

Shapes: T inputs of a packed batch, R of them wanted, D hidden width.

After the attention itself every part of a decoder layer works on each input alone: the product that ends attention,
and the MLP. Layers before the last owe their rows to the attention of the next; the last owes only what is asked for.
There these parts take the wanted rows and give zeros for the others, which the residual stream carries to the end.
Guarantees: exact, to rounding; readers.py tries it on every model before it relies on it.
Saves, if few rows are wanted, as in verification: 88 % of a layer of an 8B Llama, which is 2.8 % of its body, or
77 % of one of the reference model's, which is 13 %. Costs: on a GPU this layer runs uncompiled meanwhile.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from el_resources.scoring.body import body_of

# Names of these parts in transformers, in the decoders that name their layers `layers`.
_PARTS = ("self_attn.o_proj", "mlp")


def decoder_layers(model: Any) -> Sequence[Any]:
    """Return the layers of a model's body; none if it does not keep them in a list called `layers`."""
    return list(getattr(body_of(model), "layers", ()))


def parts_by_row(model: Any) -> list[nn.Module]:
    """Return the parts of the last layer that should work on each input alone; none if they have other names."""
    found = dict(decoder_layers(model)[-1].named_modules()) if decoder_layers(model) else {}
    return [found[name] for name in _PARTS if name in found]


@contextmanager
def on_rows_alone(model: Any, parts: Sequence[nn.Module], rows_R: Tensor) -> Iterator[None]:
    """Let these parts of the last layer work on these rows, each named once, of inputs 1 × T × D."""
    layer = decoder_layers(model)[-1]
    compiled, layer._compiled_call_impl = layer._compiled_call_impl, None  # a compiled layer does not see the hooks
    with ExitStack() as hooks:
        for part in parts:
            n_inputs: list[int] = []  # of the call under way
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
