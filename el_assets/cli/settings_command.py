"""`entropylong settings`: the value of every setting, and the layer that it comes from."""

import json
from collections.abc import Mapping
from typing import Any

from el_resources.addresses import has_secrets, without_secrets, without_secrets_within
from el_resources.configuration.environment import Environment, as_env_lines, field_of, variable_of
from el_resources.configuration.profiles import PROFILES
from el_resources.settings import Settings

ADVICE = "these flags hold for this command only; put them into .env, so that the UI and other commands use them too:"
EXPANDED = (
    "these flags hold for this command only; export them for the UI and other commands (.env would expand ${...}):"
)


def print_settings(environment: Environment, *, as_json: bool) -> int:
    """Print all settings as a table or as JSON, and return 0. Raises ValueError if one is bad."""
    settings = Settings.load(environment.values())
    rows = [
        {
            "setting": name,
            "variable": variable_of(name),
            "value": without_secrets_within(getattr(settings, name)),
            "from": origin,
        }
        for name, origin in origins(settings, environment).items()
    ]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return 0
    shown = [(row["variable"], _in_a_line(row["value"]), row["from"]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for variable, value, origin in shown:
        print(f"{variable:<{widths[0]}}  {origin:<{widths[2]}}  {value}")
    return 0


def origins(settings: Settings, environment: Environment) -> dict[str, str]:
    """Return the origin of every setting: `flag`, `.env`, `shell`, `profile paper` or `default`."""
    of_profile = PROFILES[settings.profile]

    def origin(name: str) -> str:
        origin = f"profile {settings.profile}" if name in of_profile else "default"
        return environment.origin(variable_of(name)) or origin

    return {name: origin(name) for name in Settings.model_fields}


def seen_by_this_command_only(environment: Environment) -> dict[str, str]:
    """Return the variables that flags of this command set, and whose values differ for other commands and the UI."""
    try:
        elsewhere = Settings.load(environment.without_flags().values())
    except ValueError:  # without the flags the settings are bad
        return dict(environment.flags)
    here = Settings.load(environment.values())
    return {
        variable: value
        for variable, value in environment.flags.items()
        if getattr(here, field_of(variable)) != getattr(elsewhere, field_of(variable))
    }


def advice(flags: Mapping[str, str]) -> list[str]:
    """Return lines that say how to give the UI and other commands the values of these flags; none without flags."""
    if not flags:
        return []
    is_expanded = any("${" in value for value in flags.values())
    shown = {name: without_secrets(value) for name, value in flags.items()}
    hidden = [name for name, value in flags.items() if has_secrets(value)]
    return [
        EXPANDED if is_expanded else ADVICE,
        *(f"  {line}" for line in as_env_lines(shown)),
        *(f"  {name} is shown without its credentials; write them in" for name in hidden),
    ]


def _in_a_line(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
    return text.lower() if isinstance(value, bool) else text
