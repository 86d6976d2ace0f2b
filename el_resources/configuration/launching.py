"""The settings of a run: those of the environment, and the values that a launchpad, a backfill or a schedule changes.

A launch may change how data is made. It may not change which code runs, or where secrets and tables go: these come from
the environment alone, so that the right to start a run does not grant more than that.

| at launch | is refused, because |
|---|---|
| `profile` | it would change no other value |
| `store` | tables would be read from, written to and removed in another place |
| `hub_endpoint` | that server would be sent HF_TOKEN |
| `trust_remote_code` | code that ships with a model would run |
| models and encoder, under `trust_remote_code` | their code would run |
| an address with credentials | Dagster keeps what a launch gives, and shows it |
| `{"env": "NAME"}` for a value | a secret variable would be shown in messages and tables |

A value that equals the environment's is always accepted. The launchpad and Dagster's database show addresses without
their credentials (el_resources.addresses); an address given in that form means the environment's own.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field, create_model

from el_resources.addresses import has_secrets, without_secrets_within
from el_resources.configuration.environment import variable_of
from el_resources.settings import Settings

# Settings that a launch cannot change, and why not.
OF_THE_ENVIRONMENT = {
    "profile": "it would change no other value",
    "store": "it is where tables are read, written and removed",
    "hub_endpoint": "it is sent HF_TOKEN",
    "trust_remote_code": "it lets code that ships with a model run",
}
# Settings that name models, whose code runs under `trust_remote_code`.
MODELS = ("encoder", "long_model", "long_model_revision", "short_model", "short_model_revision")


def settings_at_launch(settings: Settings) -> dg.ResourceDefinition:
    """Return the resource with a run's settings; most of them may be changed at launch.

    A refused value raises `dg.DagsterInvalidConfigError` while the run is planned, so no run starts. Dagster's own
    schema, which the launchpad checks while a user types, contains types and choices only.
    """
    schema = _plain_schema(settings)
    resource = dg.ResourceDefinition(settings_of_a_run, config_schema=schema, description=Settings.__doc__)

    def checked(config: dict[str, Any]) -> dict[str, Any]:
        try:
            values = launched_values(settings, config)
            Settings.of(values)
        except ValueError as error:
            raise dg.DagsterInvalidConfigError(str(error), errors=[], config_value=config) from None
        return values

    return resource.configured(checked, config_schema=schema)


def settings_of_a_run(context: dg.InitResourceContext) -> Settings:
    """Return the settings for a run's steps. Dagster shows this function's name as the resource's type."""
    return Settings.of(context.resource_config)


def launched_values(settings: Settings, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a run.

    Args:
        settings: those of the environment.
        config: a value for every setting, as it is given at launch or shown there.

    Raises:
        ValueError: a launch cannot give this value; the error says why, and what to do instead.
    """
    own = {name: getattr(settings, name) for name in type(settings).model_fields}
    shown = {name: without_secrets_within(value) for name, value in own.items()}
    values = {name: own[name] if value == shown[name] else value for name, value in config.items()}
    for name, value in values.items():
        if value == own[name]:
            continue
        if why := _why_not(name, value, settings):
            raise ValueError(
                f"{name}={_shown(value)} cannot be given at launch: {why}; set "
                f"{variable_of(name)}={_shown(value)} (now {_shown(own[name])}) in the environment and restart Dagster"
            )
    return values


def shown_at_launch(settings: Settings, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the named settings for a run's configuration, which Dagster keeps: without credentials."""
    return {name: without_secrets_within(value) for name, value in settings.subset(names).items()}


def _why_not(name: str, value: Any, settings: Settings) -> str:
    """Return the reason why a launch cannot give a value; empty if it can."""
    if name in OF_THE_ENVIRONMENT:
        return OF_THE_ENVIRONMENT[name]
    if name in MODELS and settings.trust_remote_code:
        return "EL_TRUST_REMOTE_CODE is on, so its code would run"
    if isinstance(value, str) and has_secrets(value):
        return "it has credentials, and Dagster keeps and shows what a launch gives"
    return ""


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(without_secrets_within(value)) or "''"


def _plain_schema(settings: Settings) -> dict[str, dg.Field]:
    """Return the schema of a launch's values by setting; their defaults are the values of `settings`.

    Dagster's schema of a resource would also accept `{"env": "NAME"}` for a text, a number or a flag, and so put any
    variable of the environment, also a secret one, into a run's messages.
    """
    made = _with_values_as_defaults(settings).configure_at_launch().get_resource_definition().config_schema.as_field()
    assert isinstance(made.config_type, dg.Shape), "a resource's fields are by name"
    return {name: _plain(field) for name, field in made.config_type.fields.items()}


def _plain(field: dg.Field) -> dg.Field:
    kind = field.config_type.inner_type if isinstance(field.config_type, dg.Noneable) else field.config_type
    for source, plain in ((dg.StringSource, str), (dg.IntSource, int), (dg.BoolSource, bool)):
        if kind is source:
            return dg.Field(dg.Noneable(plain), default_value=field.default_value, description=field.description)
    return field


def _with_values_as_defaults(settings: Settings) -> type[dg.ConfigurableResource]:
    """Return a resource class that has these values, without credentials, as defaults.

    `configure_at_launch(**values)` would lose the values of fields with choices: Dagster 1.13.27 keeps the class's own
    default of every Literal.
    """
    fields: dict[str, Any] = {
        name: (
            info.annotation,
            Field(default=without_secrets_within(getattr(settings, name)), description=info.description),
        )
        for name, info in type(settings).model_fields.items()
    }
    return create_model("LaunchedSettings", __base__=dg.ConfigurableResource, **fields)
