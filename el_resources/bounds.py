"""What a model's fields may be, said in their descriptions.

Forms that are made from a model show each field's description, and not always its constraints: Dagster's launchpad
knows types and choices only.
"""

from typing import TypeVar

from pydantic import BaseModel

# Keyword of JSON Schema -> how its limit is said.
WORDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minLength": "length at least",
}

Model = TypeVar("Model", bound=BaseModel)


def bounds_described(model: type[Model]) -> type[Model]:
    """Class decorator: the description of every field that has bounds ends with them, as in `At least 0, at most 1.`"""
    for name, schema in model.model_json_schema()["properties"].items():
        if bounds := ", ".join(f"{words} {schema[key]:,}" for key, words in WORDS.items() if key in schema):
            field = model.model_fields[name]
            field.description = f"{field.description} {bounds.capitalize()}."
    return model
