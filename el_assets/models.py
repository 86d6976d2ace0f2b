"""The models as external assets: observed with their fingerprints, so that lineage names what scored the data."""

import dagster as dg

from el_resources.causal_lm import ModelChoice
from el_resources.settings import Settings
from el_resources.text_encoder import encoder_fingerprint


@dg.observable_source_asset(group_name="models", name="long_model")
def long_model(settings: Settings) -> dg.ObserveResult:
    """The causal language model that scores the corpus (`EL_LONG_MODEL`): a name, a folder or a hub id."""
    return _observed(ModelChoice.long(settings))


@dg.observable_source_asset(group_name="models", name="short_model")
def short_model(settings: Settings) -> dg.ObserveResult:
    """The short-window sibling of `long_model` (`EL_SHORT_MODEL`): same tokenizer and architecture."""
    return _observed(ModelChoice.short(settings))


@dg.observable_source_asset(group_name="models", name="text_encoder")
def text_encoder(settings: Settings) -> dg.ObserveResult:
    """The encoder whose vectors candidates are retrieved by (`EL_ENCODER`)."""
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
