"""The models as external assets: observed with their fingerprints, so that lineage names what scored the data."""

import dagster as dg

from el_resources.causal_lm import ModelChoice
from el_resources.settings import Settings
from el_resources.text_encoder import encoder_fingerprint


@dg.observable_source_asset(
    group_name="models",
    description="The causal language model that scores the corpus (`EL_LONG_MODEL`): a name, a folder or a hub id.",
)
def long_model(settings: Settings) -> dg.ObserveResult:
    """Observe the fingerprint of the weights."""
    return _observed(ModelChoice.long(settings))


@dg.observable_source_asset(
    group_name="models",
    description="The short-window sibling of `long_model` (`EL_SHORT_MODEL`): same tokenizer and architecture.",
)
def short_model(settings: Settings) -> dg.ObserveResult:
    """Observe the fingerprint of the weights."""
    return _observed(ModelChoice.short(settings))


@dg.observable_source_asset(
    group_name="models", description="The encoder whose vectors candidates are retrieved by (`EL_ENCODER`)."
)
def text_encoder(settings: Settings) -> dg.ObserveResult:
    """Observe the fingerprint of its files."""
    fingerprint = encoder_fingerprint(settings.encoder)
    return dg.ObserveResult(
        data_version=dg.DataVersion(fingerprint), metadata={"name": settings.encoder, "fingerprint": fingerprint}
    )


def _observed(model: ModelChoice) -> dg.ObserveResult:
    fingerprint = model.fingerprint()
    return dg.ObserveResult(
        data_version=dg.DataVersion(fingerprint),
        metadata={
            "name": model.name,
            "revision": model.revision or "main",
            "dtype": model.dtype,
            "window_tokens": model.window(),
            "fingerprint": fingerprint,
            "tokenizer_fingerprint": model.tokenizer_fingerprint(),
        },
    )


MODELS = [short_model, long_model, text_encoder]
