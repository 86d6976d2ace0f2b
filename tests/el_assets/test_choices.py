"""Choices that a setting offers are those that the code implements."""

from typing import get_args

import numpy as np
import pytest

from el_assets.entropylong.selection import CRITERIA
from el_assets.gateau.cam import importance
from el_assets.gateau.prompts import cut_context
from el_assets.gateau.scales import SCALES
from el_assets.partitions import selected_fractions
from el_assets.parts import FRACTIONS
from el_resources.settings import Settings


def offered(setting: str) -> set[str]:
    return set(get_args(Settings.model_fields[setting].annotation))


def test_every_criterion_names_what_must_fall() -> None:
    assert offered("criterion") == set(CRITERIA)


def test_every_scale_is_one() -> None:
    assert offered("hmp_normalisation") == set(SCALES)
    assert offered("influence_scale") | offered("cosine_normalisation") <= set(SCALES)


@pytest.mark.parametrize("sign", sorted(offered("importance_sign")))
def test_every_sign_is_one(sign: str) -> None:
    assert abs(importance(np.array([0.0]), sign)[0]) == 1.0


@pytest.mark.parametrize("cut", sorted(offered("context_cut")))
def test_every_cut_is_one(cut: str) -> None:
    assert len(cut_context(np.arange(9), 4, cut)) == 4


def test_fractions_are_listed_once() -> None:
    assert selected_fractions.get_partition_keys() == list(FRACTIONS)
