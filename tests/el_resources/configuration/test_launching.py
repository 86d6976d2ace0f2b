"""The values that a launch may give, and those that only the environment can."""

from typing import Any

import pytest

from el_resources.configuration.launching import launched_values, settings_at_launch, shown_at_launch
from el_resources.settings import Settings

CODE = {
    "long_model": "me/a-model-with-code",
    "short_model": "/tmp/a-model-with-code",
    "long_model_revision": "a-branch-with-code",
    "short_model_revision": "a-branch-with-code",
    "encoder": "sentence-transformers:me/an-encoder-with-code",
}
SECRET = "jsonl:https://me:hunter2@host/a.jsonl?sig=hunter3"


def launched(settings: Settings, **values: Any) -> Settings:
    return Settings.of(launched_values(settings, {**settings.model_dump(), **values}))


@pytest.mark.parametrize(("name", "value"), CODE.items())
def test_models_come_from_the_environment_if_code_of_theirs_would_run(name: str, value: str) -> None:
    trusting = Settings.load({"EL_TRUST_REMOTE_CODE": "true"})
    with pytest.raises(ValueError, match=rf"{name}={value} cannot .*TRUST_REMOTE_CODE is on.*set EL_{name.upper()}"):
        launched(trusting, **{name: value})
    assert launched(trusting, **{name: getattr(trusting, name)}) == trusting
    assert getattr(launched(Settings.load({}), **{name: value}), name) == value


def test_a_run_has_the_credentials_of_the_environment_and_its_configuration_has_not() -> None:
    settings = Settings.load({"EL_CORPUS": SECRET})
    shown = shown_at_launch(settings, ("corpus", "seed"))
    assert shown == {"corpus": "jsonl:https://host/a.jsonl", "seed": 0}
    assert launched(settings, **shown).corpus == SECRET
    schema = settings_at_launch(settings).config_schema.as_field()
    assert schema is not None
    assert "hunter" not in str(schema.default_value)
    fields = schema.config_type.fields  # type: ignore[attr-defined]
    assert fields["corpus"].default_value == "jsonl:https://host/a.jsonl"
