"""Bounds of a pydantic model's fields, added to their descriptions.

Forms for a model show each field's description but not always its constraints: Dagster's launchpad shows types and
choices only.
"""

from typing import TypeVar

from pydantic import BaseModel

# Keyword of JSON Schema -> words for its limit.
WORDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minLength": "length at least",
}

Model = TypeVar("Model", bound=BaseModel)


def bounds_described(model: type[Model]) -> type[Model]:
    """Add to the description of every bounded field its bounds, such as `At least 0, at most 1.`; a class decorator."""
    for name, schema in model.model_json_schema()["properties"].items():
        if bounds := ", ".join(f"{words} {schema[key]:,}" for key, words in WORDS.items() if key in schema):
            field = model.model_fields[name]
            field.description = f"{field.description} {bounds.capitalize()}."
    return model
