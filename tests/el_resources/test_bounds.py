from typing import Literal

from pydantic import BaseModel, Field

from el_resources.bounds import bounds_described


@bounds_described
class Knobs(BaseModel):
    share: float = Field(default=0.5, gt=0, le=1, description="A share.")
    tokens: int = Field(default=16, ge=8, lt=10_000, description="A length.")
    name: str = Field(default="x", min_length=1, description="A name.")
    choice: Literal["a", "b"] = Field(default="a", description="A choice.")
    anything: int = Field(default=0, description="Any number.")


def test_a_description_ends_with_the_fields_bounds() -> None:
    assert {name: field.description for name, field in Knobs.model_fields.items()} == {
        "share": "A share. Above 0, at most 1.",
        "tokens": "A length. At least 8, below 10,000.",
        "name": "A name. Length at least 1.",
        "choice": "A choice.",
        "anything": "Any number.",
    }
