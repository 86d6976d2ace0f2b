"""Loading of a causal language model from a folder to its device."""

from pathlib import Path
from typing import Any

import torch

from el_resources.scoring.checkpoints import checked_config, load_checkpoint
from el_resources.scoring.rope import LengthScaledRope, RopeScaling, check_scaling, extend_window


def load_causal_lm(
    folder: Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    rope_scaling: RopeScaling = "none",
    window: int | None = None,
) -> Any:
    """Load a model folder's safetensors weights; arguments as in `ScoringEngine.from_folder`."""
    place = torch_device(device)
    check_scaling(rope_scaling)
    config = checked_config(folder, trust_remote_code=trust_remote_code)
    if rope_scaling == "dynamic":
        extend_window(config, window)
    model = load_checkpoint(
        folder,
        config,
        dtype="float32" if dtype == "auto" and place.type == "cpu" else dtype,
        trust_remote_code=trust_remote_code,
    )
    if rope_scaling == "dynamic" and not LengthScaledRope.of(model).rotaries:
        raise ValueError(f"{type(model).__name__} does not scale its RoPE as its config asks; use rope_scaling='none'")
    return model.to(place)


def torch_device(name: str) -> torch.device:
    """Return a device by name; `auto` is a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is not there: torch sees no GPU; use 'auto' or 'cpu'")
    return torch.device(name)
