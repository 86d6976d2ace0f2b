import json

import pytest

from el_assets.operations.run_needs import RAY_TAG, ray_tags
from el_resources.settings import Settings

CORES, WITH_GPU = {"num_cpus": 2.0}, {"num_cpus": 2.0, "num_gpus": 1.0}


@pytest.mark.parametrize(
    ("parts", "settings", "asked"),
    [
        ([], {}, CORES),
        (["index"], {}, CORES),  # the embedded encoder
        (["index"], {"encoder": "sentence-transformers:x/y"}, WITH_GPU),
        (["index", "entropylong"], {}, WITH_GPU),
        (["gateau"], {}, WITH_GPU),
        (["gateau"], {"gpus_per_run": 0}, CORES),
    ],
)
def test_what_reads_a_model_asks_for_a_gpu(
    parts: list[str], settings: dict[str, object], asked: dict[str, float]
) -> None:
    loaded = Settings.load({}, cores_per_run=2, **settings)
    assert json.loads(ray_tags(loaded, parts, on_ray=True)[RAY_TAG]) == asked
    assert ray_tags(loaded, parts, on_ray=False) == {}
