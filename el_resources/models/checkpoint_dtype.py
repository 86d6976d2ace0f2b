"""The dtype that a checkpoint is stored in, read without torch."""

import json
from pathlib import Path

from el_resources.models.model_files import DTYPES, read_config

_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def checkpoint_dtype(folder: Path) -> str:
    """Return the checkpoint's own dtype, as transformers takes it: that of its config, else of its first tensor.

    It is `auto` for a checkpoint in a dtype that weights are not read in here, such as FP8, which is left to
    transformers.
    """
    config = read_config(folder)
    text = config.get("text_config")
    for holder in (config, text if isinstance(text, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            if isinstance(holder.get(key), str):
                named = str(holder[key]).removeprefix("torch.")
                return named if named in DTYPES else "auto"
    weights = sorted(folder.glob("*.safetensors"))
    return next((_STORED[name] for name in _dtypes_of(weights[0]) if name in _STORED), "auto") if weights else "auto"


def _dtypes_of(path: Path) -> list[str]:
    """The dtypes of a safetensors file's tensors: 8 bytes of header length, then the header, a JSON object."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return [entry["dtype"] for key, entry in header.items() if key != "__metadata__"]
