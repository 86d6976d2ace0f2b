"""The table of architectures in docs/architectures.md: `python -m tests.el_resources.scoring.architecture_table`."""

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.el_resources.scoring.sweep import Outcome, outcome_of_type
from tests.el_resources.scoring.tiny_models import NOT_TINY, model_types

PAGE = Path(__file__).parents[3] / "docs" / "architectures.md"
_HEAD = """# Architectures

This page lists how the engine reads each causal language model class of transformers 5.23. It was tested with a tiny
model with random weights of each class (`tests/el_resources/scoring/test_architectures.py`): its scores equal those of
transformers' own forward within 1e-4 nats in fp32. Every checkpoint is tested in the same way when it is opened
(`el_resources/scoring/probe.py`), and that test decides.

- **packed**: whole sequences in one row, without padding; the fastest.
- **padded**: sequences of similar length in a rectangle; exact too, but slower.
- **refused**: an error that names the class, the cause and the remedy.
- **CAM**: yes if segment attention, which GATEAU's CAM needs, can be watched (within 1e-5 of eager attention).

This page is generated: `python -m tests.el_resources.scoring.architecture_table`.

| class | model types | read | CAM | why not packed |
|---|---|---|---|---|
"""


def row_of(outcome: Outcome, types: Iterable[str]) -> str:
    """A line of the table."""
    why = outcome.why.removeprefix(f"{outcome.name} ").replace("cannot be scored: ", "").split(";")[0]
    watched = "yes" if outcome.watched else "no"
    why = re.sub(r" \(they differ by .*\)", "", why)
    return f"| {outcome.name} | {', '.join(types)} | {outcome.read} | {watched} | {why.replace('|', '/')} |"


def row_not_tried(model_type: str) -> str:
    """A line for a type of which no tiny model is made."""
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    return f"| {name} | {model_type} | not tried | | {NOT_TINY[model_type]} |"


def page() -> str:
    """The whole page."""
    found: dict[Outcome, list[str]] = defaultdict(list)
    for model_type in model_types():
        if model_type not in NOT_TINY:
            found[outcome_of_type(model_type)].append(model_type)
    rows = [row_of(outcome, types) for outcome, types in found.items()] + [row_not_tried(one) for one in NOT_TINY]
    return _HEAD + "\n".join(sorted(rows, key=str.lower)) + "\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    PAGE.write_text(page(), encoding="utf-8")
