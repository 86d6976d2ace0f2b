"""Files of a model: its folder, the check that it is complete, its window and its fingerprint. Imports no torch.

A name is, in this order: `reference:short` or `reference:long` (shipped with this package), a local folder, or a
Hugging Face hub id such as `meta-llama/Meta-Llama-3-8B`, downloaded once into the hub's own cache.

Guarantees: a folder that `resolve_model` returns holds a config, a tokenizer and whole safetensors weights. Pickled
weights are never accepted. A fingerprint depends on the files' contents alone, so a copy of a folder and a hub
snapshot of links have the same one.
Costs: a process hashes each weight file once (about 1 GB/s). Files of the hub's cache whose names are their SHA-256 are
not read.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from el_resources.listed_names import listed
from el_resources.models import exact_encoding
from el_resources.models.attention_kinds import longest_window, stated_window
from el_resources.store.file_kinds import refuse_other_than_data

REFERENCE_PREFIX = "reference:"
REFERENCE_FOLDER = Path(__file__).parents[1] / "reference_models"
REFERENCE_NAMES = ("short", "long")
DTYPES = ("auto", "float32", "bfloat16", "float16")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Top level only: hub repositories keep other formats of the same weights in subfolders.
_HUB_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py"]
_HUB_EXCLUDED = ["*/*", "consolidated*"]
_TOKENIZER_VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_TOKENIZER_EXTRAS = ("special_tokens_map.json", "added_tokens.json", "merges.txt")
_NOT_IN_TOKEN_IDS = ("model_max_length", "chat_template")


def resolve_model(name: str, revision: str | None = None) -> Path:
    """Return the folder of a model.

    Args:
        name: `reference:short`, `reference:long`, a folder, or a hub id.
        revision: branch, tag or commit of a hub id; None or empty for its main branch.

    Raises:
        ValueError: there is no such model, a revision is given for local files, or the folder lacks files.
        ConnectionError: the hub cannot be reached and its cache does not hold the model.
    """
    local = _local_folder(name)
    if local is None:
        return _checked(_download(name, revision or None), name)
    if revision:
        raise ValueError(f"model {name!r} is local and has no revision {revision!r}; leave the revision empty")
    return _checked(local, name)


def refuse_unknown_form(name: str) -> None:
    """Raise ValueError for a name that cannot be a reference model, a hub id, or a path on any machine."""
    if name.startswith(REFERENCE_PREFIX) or "/" not in name:
        _local_folder(name)


def model_window(folder: Path, override: int | None = None) -> int:
    """Return the number of tokens that the model reads at once, BOS included: the override, else the config's window.

    Raises:
        ValueError: the override (EL_LONG_WINDOW) is below 2 or beyond what the config allows (`longest_window`; a
            config that names no limit allows any), or there is neither an override nor a stated window.
    """
    config = read_config(folder)
    stated, longest = stated_window(config), longest_window(config)
    if override is None and stated is None:
        raise ValueError(
            f"{folder / 'config.json'} states no max_position_embeddings; give the window explicitly: EL_LONG_WINDOW "
            "for the long model, EL_SHORT_WINDOW for the short one"
        )
    if override is None:
        assert stated is not None, "one of the two is there"
        return stated
    if override < 2:
        raise ValueError(
            f"EL_LONG_WINDOW={override}: a window of {override} tokens cannot hold BOS and one token; give at least 2"
        )
    if longest is not None and override > longest:
        raise ValueError(
            f"EL_LONG_WINDOW={override}: the model in {folder} reads at most {longest} tokens at once "
            f"(max_position_embeddings and RoPE scaling of its config.json); give at most {longest}, or 0 for {stated}"
        )
    return override


def is_embedded(name: str) -> bool:
    """Return true if the name is that of a reference model, which ships with this package."""
    return name.startswith(REFERENCE_PREFIX)


def model_fingerprint(folder: Path, *, dtype: str, window: int | None = None, bos_id: int | None = None) -> str:
    """Return the hash of everything that scores depend on: weights, config, tokenizer, dtype in memory, and window.

    Args:
        dtype: `auto` only to recognise tables of earlier versions, which recorded that word.
        window: replaces the config's window.
        bos_id: first token of every text, if it is not the checkpoint's own BOS.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    parts = [
        *_file_lines(_weight_files(folder)),
        *_file_lines([folder / "config.json"]),
        f"tokenizer {tokenizer_fingerprint(folder)}",
        f"dtype {dtype}",
        f"window {model_window(folder, window)}",
        *([] if bos_id is None else [f"bos {bos_id}"]),
    ]
    return _digest(parts)


def tokenizer_fingerprint(folder: Path) -> str:
    """Return the hash of everything that token ids depend on: vocabulary and tokenizer settings.

    It includes the changes of exact_encoding.py, and neither window nor chat template. Two models whose tokenizers have
    the same fingerprint read the same ids.
    """
    file = folder / "tokenizer_config.json"
    settings = read_json(file) if file.is_file() else {}
    relevant = {key: value for key, value in settings.items() if key not in _NOT_IN_TOKEN_IDS}
    lines = [*_file_lines(_tokenizer_files(folder)), json.dumps(relevant, sort_keys=True)]
    return _digest([*lines, *_encoding_lines(folder / "tokenizer.json")])


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of the folder's config.json."""
    return read_json(folder / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a model folder."""
    if path.is_file():
        refuse_other_than_data(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; give a folder in Hugging Face format") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); fetch the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, not an object; fetch the file again")
    return content


def check_weights(folder: Path) -> None:
    """Raise ValueError if a folder lacks whole safetensors weights, or has integers without a quantization config."""
    dtypes = {dtype for file in _weight_files(folder) for dtype in _check_safetensors(file)}
    whole_numbers = dtypes and not any("F" in dtype for dtype in dtypes)
    if whole_numbers and not read_config(folder).get("quantization_config"):
        raise ValueError(
            f"the weights in {folder} are integers ({', '.join(sorted(dtypes))}), and its config.json has no "
            "quantization_config that says how to read them; fetch the model's weights in float32, float16 or bfloat16"
        )


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a folder's weights, from the headers alone."""
    entries = (entry for file in _weight_files(folder) for entry in _tensors_of(file).items())
    return {name: tuple(tensor.get("shape") or ()) for name, tensor in entries}


def _local_folder(name: str) -> Path | None:
    """Return the folder that a name means on this machine; None if it can only be a hub id."""
    if name.startswith(REFERENCE_PREFIX):
        size = name.removeprefix(REFERENCE_PREFIX)
        if size not in REFERENCE_NAMES:
            known = ", ".join(REFERENCE_PREFIX + known for known in REFERENCE_NAMES)
            raise ValueError(f"there is no reference model {name!r}; choose one of {known}")
        return REFERENCE_FOLDER / size
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if name and path.is_file():
        raise ValueError(f"model {name!r} is a file; give the folder that holds it, its config and its tokenizer")
    if not _HUB_ID.fullmatch(name):
        raise ValueError(
            f"model {name!r} is neither an existing folder nor a hub id; give a folder, a hub id such as "
            f"'meta-llama/Meta-Llama-3-8B', or {REFERENCE_PREFIX}{REFERENCE_NAMES[-1]}"
        )
    return None


def _download(name: str, revision: str | None) -> Path:
    """Return the hub's snapshot of a model, from its cache if it is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    at = f" at revision {revision!r}" if revision else ""
    local = "or give a local folder"
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=_HUB_PATTERNS, ignore_patterns=_HUB_EXCLUDED)
    except RevisionNotFoundError as error:
        raise ValueError(f"the hub has no model {name!r}{at}; correct the revision, {local}") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"there is no folder {name!r}, and no such model on the hub that you have access to; correct the name, log "
            f"in with `hf auth login` if it is private or gated, {local}"
        ) from error
    except (OSError, HfHubHTTPError) as error:
        raise ConnectionError(
            f"there is no folder {name!r}, and the hub cannot be reached for the model{at} ({type(error).__name__}); "
            f"connect to the network, {local}"
        ) from error
    return Path(folder)


def _checked(folder: Path, name: str) -> Path:
    """Return the folder after checking that it has a config, whole weights and a tokenizer."""
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"model {name!r}: {folder} holds an adapter (adapter_config.json), which is part of a model; merge it into "
            "its base model with peft's `merge_and_unload()`, and save that with `save_pretrained(folder)`"
        )
    if not (folder / "config.json").is_file():
        raise ValueError(f"model {name!r}: {folder} holds no config.json; give a folder in Hugging Face format")
    check_weights(folder)
    for file in [folder / "config.json", folder / "tokenizer_config.json", *_tokenizer_files(folder)]:
        if file.is_file():
            refuse_other_than_data(file)
    return folder


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers would load from the folder."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            raise ValueError(
                f"{index} lists weights that are not there ({missing or 'it lists none'}); fetch the model again"
            )
        return [folder / name for name in names]
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise ValueError(
            f"{folder} holds pickled weights only ({listed(pickled)}), which can run code when loaded; "
            "convert the model with `model.save_pretrained(folder)`, which writes safetensors"
        )
    raise ValueError(
        f"{folder} holds no weights: neither model.safetensors nor model.safetensors.index.json; fetch the model again"
    )


def _check_safetensors(path: Path) -> set[str]:
    """Return the dtypes of a file's tensors. Raises ValueError for an incomplete file (see _tensors_of)."""
    return {str(entry.get("dtype")) for entry in _tensors_of(path).values()}


def _tensors_of(path: Path) -> dict[str, Any]:
    """Return the entries of a safetensors header by tensor name.

    Raises ValueError for an incomplete download, and for other files, such as a pointer or an error page.

    Layout: 8 bytes of header length, little endian; the header, a JSON object with each tensor's offsets; the tensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(header_bytes) if header_bytes <= size - 8 else "")
            tensors = {key: entry for key, entry in header.items() if key != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            refuse_other_than_data(path)
            raise ValueError(f"{path} is not a whole safetensors file ({size} bytes); fetch it again") from error
    if 8 + header_bytes + end != size:
        raise ValueError(f"{path} is not a whole safetensors file ({size} bytes); fetch it again")
    return tensors


def _tokenizer_files(folder: Path) -> list[Path]:
    """Return the folder's tokenizer files except tokenizer_config.json; at least one contains a vocabulary."""
    vocabularies = [folder / name for name in _TOKENIZER_VOCABULARIES if (folder / name).is_file()]
    vocabularies += sorted(folder.glob("*.tiktoken"))
    if not vocabularies:
        raise ValueError(
            f"{folder} holds no tokenizer (none of {', '.join(_TOKENIZER_VOCABULARIES)}); "
            "copy the tokenizer's files from the model's origin into it"
        )
    return vocabularies + [folder / name for name in _TOKENIZER_EXTRAS if (folder / name).is_file()]


def _encoding_lines(file: Path) -> list[str]:
    """Return lines for the changes to the tokenizer; without a tokenizer.json they are unknown, and are assumed."""
    if not file.is_file():
        return [f"encoding {exact_encoding.VERSION}"]
    status = file.stat()
    changes = _encoding_changes(file, status.st_size, status.st_mtime_ns)
    return [f"encoding {exact_encoding.VERSION}", *changes] if changes else []


@functools.lru_cache(maxsize=32)
def _encoding_changes(file: Path, n_bytes: int, modified_ns: int) -> tuple[str, ...]:
    """Return the changes to a tokenizer.json, which is read again only if its size or time of change differs."""
    return tuple(exact_encoding.made_exact(read_json(file))[1])


def _file_lines(paths: Iterable[Path]) -> list[str]:
    """Return a line `name sha256` for each file, sorted by name."""
    return sorted(f"{path.name} {_sha256(path)}" for path in paths)


def _sha256(path: Path) -> str:
    """Return the SHA-256 of a file; the hub's cache uses it as the name of large files, which are then not read."""
    target = path.resolve()
    if path.is_symlink() and target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
        return target.name
    status = target.stat()
    return _sha256_of(target, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256_of(path: Path, n_bytes: int, modified_ns: int) -> str:
    """Return the SHA-256 of a file, which is read again only if its size or time of change differs."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(lines: Iterable[str]) -> str:
    """Return the hash of some lines in their order."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
