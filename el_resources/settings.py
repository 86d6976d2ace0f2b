"""The settings of a run: one object with the values, their origins and their bounds.

Precedence, highest first: a value from the launchpad or the caller, the environment (`EL_ALPHA=1.5`, read by
el_resources.configuration.environment), the profile (`EL_PROFILE`), and the defaults of the fields
(el_resources.configuration.fields), which are the `reference` profile. Method settings are part of the fingerprints of
the tables that depend on them, as el_assets.tables.recipes declares; storage and device settings are not.

`[?]` in a description marks a value that the EntropyLong paper does not state.
"""

from collections.abc import Collection, Mapping
from typing import Any, cast

import dagster as dg
from pydantic import ValidationError, ValidationInfo, field_validator, model_validator

from el_resources.addresses import without_secrets_within
from el_resources.bounds import bounds_described
from el_resources.configuration.checked_values import CHECKS
from el_resources.configuration.environment import Environment, settings_in, suggested, variable_of
from el_resources.configuration.fields.entropylong import EntropyLongSettings
from el_resources.configuration.fields.gateau import GateauSettings
from el_resources.configuration.fields.models import ModelSettings
from el_resources.configuration.fields.runs import RunSettings
from el_resources.configuration.fields.sources import SourceSettings
from el_resources.configuration.profiles import profile_values
from el_resources.configuration.seen_settings import SeenSettings
from el_resources.sources.instruction_columns import parse_columns, parse_names


@bounds_described
class Settings(
    RunSettings, GateauSettings, EntropyLongSettings, ModelSettings, SourceSettings, dg.ConfigurableResource
):  # the last base's fields come first
    """Every setting of the workspace, with its bounds. Built by `load()`; most may be given anew in the launchpad."""

    @field_validator(*CHECKS)
    @classmethod
    def _checked(cls, text: str, info: ValidationInfo) -> str:
        return CHECKS[str(info.field_name)](text)

    @field_validator("instruction_columns", "keep_columns")
    @classmethod
    def _names_of_columns(cls, text: str, info: ValidationInfo) -> str:
        parse_columns(text) if info.field_name == "instruction_columns" else parse_names(text)
        return text

    @model_validator(mode="after")
    def _bounds_that_span_fields(self) -> "Settings":
        if self.root_tokens_max and self.root_tokens_max < self.root_tokens_min:
            raise ValueError(
                f"root_tokens_max={self.root_tokens_max} is below root_tokens_min={self.root_tokens_min}; "
                "raise the one or lower the other (0 removes the upper bound)"
            )
        if self.root_tokens_min >= self.sequence_tokens:
            raise ValueError(
                f"no sequence can be packed: sequence_tokens={self.sequence_tokens} has to hold a whole root of at "
                f"least root_tokens_min={self.root_tokens_min} tokens and a context; raise the one or lower the other"
            )
        if self.beats_controls and not self.controls_per_root:
            raise ValueError(
                "beats_controls=true compares with controls, and controls_per_root=0 draws none; set "
                "controls_per_root to at least 1, or beats_controls=false"
            )
        return self

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> "Settings":
        """Build the settings from overrides, environment and profile.

        Args:
            environment: `EL_*` variables; None for those of the process and of `.env`. An unknown `EL_*` name is an
                error.
            overrides: values that take precedence over the environment; None means not given.

        Raises:
            ValueError: names the variable or argument, its value, and what is allowed.

        Example:
            >>> Settings.load({"EL_ALPHA": "2"}, epsilon=0.5).subset(("alpha", "epsilon"))
            {'alpha': 2.0, 'epsilon': 0.5}
        """
        if unknown := sorted(set(overrides) - set(cls.model_fields)):
            raise ValueError(
                f"unknown setting {'; '.join(suggested(unknown, cls.model_fields))}; "
                f"choose from {', '.join(sorted(cls.model_fields))}"
            )
        variables = Environment.read().values() if environment is None else environment
        given = {
            **settings_in(variables, cls.model_fields.keys()),
            **{name: value for name, value in overrides.items() if value is not None},
        }
        return cls.of({**profile_values(given), **given})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Settings":
        """Build the settings from values alone. Raises a ValueError that names every wrong value."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise ValueError(_in_words(error)) from None

    def subset(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return the named settings, in a JSON-ready dict; they go into a fingerprint."""
        return {name: getattr(self, name) for name in sorted(names)}

    def seen_by(self, reader: str, names: Collection[str]) -> "Settings":
        """Return a view with the named settings alone; reading another one raises UnnamedSettingError.

        Args:
            reader: name of the step that reads, for the error.
        """
        return cast(Settings, SeenSettings(self, reader, type(self).model_fields.keys(), names))


def all_settings(settings: Settings) -> Settings:
    """Return the settings that a view is of, whole, for pictures and logs, on which no table depends."""
    return settings.whole if isinstance(settings, SeenSettings) else settings


def _in_words(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        value = "" if not name else f"{name} ({variable_of(name)}) = {without_secrets_within(problem['input'])!r}: "
        lines.append(f"{value}{problem['msg'].removeprefix('Value error, ')}")
    return "invalid settings: " + "; ".join(lines)
