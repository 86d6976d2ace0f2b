"""Checks of a model folder: it has to contain a complete causal language model.

If weights are missing, transformers fills them with random numbers; if there are too many, it ignores some. Both only
give a log message, so both are errors here. So is a tokenizer with more ids than the model.
Costs: reads the configuration, the headers of the weights and tokenizer.json before the weights.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from el_resources.listed_names import listed
from el_resources.models.model_files import check_weights, read_config, read_json, weight_shapes
from el_resources.scoring.fitness import FAILURES, told

_OTHER_HEADS = ("ForMaskedLM", "Classification", "ForQuestionAnswering", "ForMultipleChoice", "ForPreTraining")
_DECODER_ONLY = "give a decoder-only causal language model"
_LAYER = re.compile(r"(?P<before>.*\b(?:layers|h|blocks|layer))\.(?P<index>\d+)\.(?P<part>.+)")


def checked_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Return the configuration of a causal language model's folder.

    Raises:
        ValueError: the folder contains something else, or its configuration or tokenizer does not fit.
    """
    _check_folder(folder)
    stated = read_config(folder)
    _check_type(folder, stated, trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (*FAILURES, ImportError, OSError, StrictDataclassError) as error:
        raise ValueError(
            f"transformers {transformers.__version__} cannot read {folder / 'config.json'} ({told(error)}); "
            "correct it, or fetch the file again"
        ) from error
    _check_kind(folder, config, stated)
    _check_layers(folder, config)
    _check_tokenizer(folder, getattr(config.get_text_config(decoder=True), "vocab_size", None))
    return config


def refuse_other_weights(folder: Path, config: Any) -> None:
    """Compare the headers of the weights with the configuration: shapes and number of layers.

    Only headers are read. Tensors that transformers renames when it loads them, quantized ones and those of a folder's
    own code are checked by `load_checkpoint` alone.

    Raises:
        ValueError: they differ; the errors are those of `load_checkpoint`.
    """
    if getattr(config, "quantization_config", None) or getattr(config, "auto_map", None):
        return
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (*FAILURES, ImportError):
        return  # loading gives the reason
    expected, found = {key: tuple(one.shape) for key, one in model.state_dict().items()}, weight_shapes(folder)
    other = {(key, found[key], shape) for key, shape in expected.items() if found.get(key, shape) != shape}
    missing = _of_whole_layers(expected.keys() - found.keys(), found)
    lists = {match["before"] for key in expected if (match := _LAYER.match(key))}
    further = [key for key in found if (match := _LAYER.match(key)) and match["before"] in lists]
    _check_tensors(folder, model, {"mismatched_keys": other, "missing_keys": missing, "unexpected_keys": further})


def load_checkpoint(folder: Path, config: Any, **options: Any) -> Any:
    """Load the model of a folder; every tensor comes from its files.

    Raises:
        ValueError: tensors are missing, have another shape, or belong to layers that the configuration lacks.
    """
    check_weights(folder)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except (*FAILURES, ImportError, OSError) as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        quantized = getattr(config, "quantization_config", None)
        hint = "it is quantized: install what that needs, or use the model's plain weights" if quantized else ""
        raise ValueError(
            f"transformers {transformers.__version__} cannot load {folder} ({told(error)}); "
            f"{hint or 'fetch the model again, or use another one'}"
        ) from error
    _check_tensors(folder, model, found)
    return model


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file; give the folder that holds it" if folder.is_file() else "does not exist; give a model folder"
        raise ValueError(f"{folder} {what}, its config and its tokenizer")
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} holds an adapter (adapter_config.json), which is part of a model; merge it into its base "
            "model with peft's `merge_and_unload()`, and save that with `save_pretrained(folder)`"
        )


def _check_type(folder: Path, stated: dict[str, Any], trust_remote_code: bool) -> None:
    """Raise ValueError for a configuration of unknown type, or one that needs code of the folder without permission."""
    file, model_type = folder / "config.json", stated.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ValueError(
            f"{file} names no model_type, so transformers cannot tell its class; fetch the model's own config.json"
        )
    if model_type in CONFIG_MAPPING or (stated.get("auto_map") and trust_remote_code):
        return
    if stated.get("auto_map"):
        raise ValueError(
            f"the model in {folder} needs Python code that its folder ships ({', '.join(stated['auto_map'])}); read "
            "that code, then set EL_TRUST_REMOTE_CODE=true (`trust_remote_code`), or use another model"
        )
    raise ValueError(
        f"{file} names the model_type {model_type!r}, which transformers {transformers.__version__} does not know; "
        "correct it, or use a model of a known type"
    )


def _check_kind(folder: Path, config: Any, stated: dict[str, Any]) -> None:
    """Raise ValueError unless the model is a decoder-only causal language model."""
    architectures = [one for one in stated.get("architectures") or [] if isinstance(one, str)]
    what = f"{folder} holds a {config.model_type} model{f' ({architectures[0]})' if architectures else ''}"
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{what}, an encoder-decoder; {_DECODER_ONLY}")
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in (stated.get("auto_map") or {})
    if not known or (architectures and all(one.endswith(_OTHER_HEADS) for one in architectures)):
        raise ValueError(
            f"{what}, which is not a causal language model; {_DECODER_ONLY} (an encoder of texts is set by EL_ENCODER)"
        )


def _check_layers(folder: Path, config: Any) -> None:
    """Raise ValueError for a model without layers, which transformers would run."""
    n_layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if isinstance(n_layers, int) and n_layers < 1:
        raise ValueError(
            f"{folder / 'config.json'} states num_hidden_layers={n_layers}; correct it, or fetch the file again"
        )


def _check_tokenizer(folder: Path, n_rows: int | None) -> None:
    """Raise ValueError if text can have ids beyond the model's vocabulary; added tokens may have such ids."""
    file = folder / "tokenizer.json"
    if not file.is_file() or not isinstance(n_rows, int):
        return
    model = read_json(file).get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        largest = max((one for one in vocabulary.values() if isinstance(one, int)), default=-1)
    else:
        largest = len(vocabulary or ()) - 1
    if largest >= n_rows:
        raise ValueError(
            f"{file} is another model's tokenizer: its ids reach {largest}, and {folder / 'config.json'} states a "
            f"vocabulary of {n_rows}; copy the tokenizer's files and the config from the model's origin"
        )


def _check_tensors(folder: Path, model: Any, found: dict[str, Any]) -> None:
    name = type(model).__name__
    if found["mismatched_keys"]:
        key, in_file, in_model = min(found["mismatched_keys"])
        raise ValueError(
            f"the weights in {folder} do not fit its config.json: {key} is {_shape(in_file)}, and {name} with this "
            f"configuration has {_shape(in_model)} ({len(found['mismatched_keys'])} such tensors); "
            "fetch config and weights of one model"
        )
    if found["missing_keys"]:
        raise ValueError(
            f"the weights in {folder} lack {len(found['missing_keys'])} tensors of {name}, such as "
            f"{listed(sorted(found['missing_keys']))}; fetch the model again, or correct its config.json"
        )
    extra = _layers_beyond(model, found["unexpected_keys"])
    if extra:
        raise ValueError(
            f"the weights in {folder} have layers that its config.json lacks for {name}: {listed(sorted(extra))}; "
            "correct num_hidden_layers, or fetch config and weights of one model"
        )
    if found.get("error_msgs"):
        raise ValueError(f"the weights in {folder} cannot be read ({found['error_msgs'][0]}); fetch the model again")


def _of_whole_layers(missing: Iterable[str], found: Iterable[str]) -> list[str]:
    """Return the missing tensors of layers that are missing as a whole, if other layers have the same parts."""
    matched = [match for key in found if (match := _LAYER.match(key))]
    parts = {(match["before"], match["part"]) for match in matched}
    layers = {(match["before"], match["index"]) for match in matched}
    return [
        key
        for key in missing
        if (match := _LAYER.match(key))
        and (match["before"], match["part"]) in parts
        and (match["before"], match["index"]) not in layers
    ]


def _layers_beyond(model: Any, unexpected: Iterable[str]) -> list[str]:
    """Return unread tensors of whole further layers, except layers with other parts, which predict further tokens."""
    parts: dict[str, set[str]] = {}
    own = model.state_dict().keys()
    for key in own:
        if match := _LAYER.match(key):
            parts.setdefault(match["before"], set()).add(match["part"])
    further: dict[tuple[str, str], set[str]] = {}
    for key in unexpected:
        if (match := _LAYER.match(key)) and key not in own:
            further.setdefault((match["before"], match["index"]), set()).add(match["part"])
    known = {part for every in parts.values() for part in every}
    return [f"{before}.{index}" for (before, index), found in further.items() if found <= known]


def _shape(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))
