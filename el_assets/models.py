"""The models as external assets, observed with their fingerprints: lineage shows which weights scored the data."""

from collections.abc import Callable

import dagster as dg

from el_resources.addresses import without_secrets
from el_resources.models.causal_lm import ModelChoice
from el_resources.models.text_encoder import encoder_fingerprint
from el_resources.settings import Settings


def _spec(name: str, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(name, group_name="models", kinds={"huggingface"}, description=description)


def _observed_model(name: str, choice: Callable[[Settings], ModelChoice], description: str) -> dg.AssetsDefinition:
    """Return the external asset of a causal language model; observing it records fingerprint, dtype and window."""

    @dg.multi_observable_source_asset(name=f"observe_{name}", specs=[_spec(name, description)])
    def observe(settings: Settings) -> dg.ObserveResult:
        """Observe the fingerprint of weights and tokenizer, the dtype and the window."""
        model = choice(settings)
        fingerprint = model.fingerprint()
        return dg.ObserveResult(
            asset_key=name,
            data_version=dg.DataVersion(fingerprint),
            metadata={
                "name": without_secrets(model.name),
                "revision": model.revision or "main",
                "dtype": model.dtype,
                "window_tokens": model.window(),
                "fingerprint": fingerprint,
                "tokenizer_fingerprint": model.tokenizer_fingerprint(),
            },
        )

    return observe


observe_long_model = _observed_model(
    "long_model",
    ModelChoice.long,
    "The causal language model that scores the corpus and reads samples in the long window (`EL_LONG_MODEL`): "
    "a name, a folder or a hub id. An observation holds its fingerprint, dtype and window.",
)

observe_short_model = _observed_model(
    "short_model",
    ModelChoice.short,
    "The short-window sibling of `long_model` (`EL_SHORT_MODEL`): same tokenizer and architecture. GATEAU's "
    "guidance reads it if `EL_HMG_FORM` is `pair` or `pair_ntk`. EntropyLong does not use it.",
)


@dg.multi_observable_source_asset(
    specs=[_spec("text_encoder", "The encoder of chunks and queries, for retrieval by cosine (`EL_ENCODER`).")]
)
def observe_text_encoder(settings: Settings) -> dg.ObserveResult:
    """Observe the fingerprint of the encoder's files."""
    fingerprint = encoder_fingerprint(settings.encoder)
    return dg.ObserveResult(
        asset_key="text_encoder",
        data_version=dg.DataVersion(fingerprint),
        metadata={"name": without_secrets(settings.encoder), "fingerprint": fingerprint},
    )


MODELS = [observe_short_model, observe_long_model, observe_text_encoder]
