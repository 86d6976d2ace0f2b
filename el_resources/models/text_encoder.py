"""Encoders of texts for dense retrieval: an embedded one without training, or any sentence-transformers model.

`reference-idf`: a text's vector is the sum of fixed vectors of its tokens, each weighted by the token's inverse
document frequency (`reference_models/token_idf.safetensors`). A token's vector has two parts of equal weight:
- the reference model's input embedding (256 numbers), in which words with similar meanings are close;
- 512 signs hashed from the token's id, a random projection that approximates the cosine of TF-IDF vectors.
Either part alone finds fewer contexts that pass verification (benchmarks/results/retrieval.md).

Guarantees of every encoder:
- `encode` returns float32 rows of length 1; a text without tokens has the zero vector, whose similarity is always 0.
- Text beyond `window_tokens` is not read; el_resources.models.long_texts splits longer texts, so that nothing is lost.
- A row depends on its text alone, not on the other texts in the batch (`reference-idf`: to the last bit).
- `encoder_fingerprint` changes whenever a vector could change.

Costs: `reference-idf` opens in less than a second without torch, and encodes 1,500 passages of 128 tokens a second on
2 busy cores; a transformer of the MiniLM class encodes 14 there.
"""

import json
import math
from collections.abc import Callable, Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from el_resources.addresses import one_line
from el_resources.models.model_files import REFERENCE_FOLDER, read_config
from el_resources.models.tokenization import ModelTokenizer
from el_resources.store.file_kinds import refuse_pointers
from el_resources.store.stamps import digest

Vectors = NDArray[np.float32]
OnProgress = Callable[[int], None]

REFERENCE_IDF = "reference-idf"
SENTENCE_TRANSFORMERS_PREFIX = "sentence-transformers:"
# It rises when the arithmetic below changes, since older vectors are not comparable then.
REFERENCE_IDF_VERSION = 1
# Bound of the rows of the token table that are read at once: 128 passages of 128 tokens are 50 MB.
TEXTS_PER_BLOCK = 128
SIGN_BYTES = 64  # of the hash of a token; the longest digest of BLAKE2b


class TextEncoder(Protocol):
    """Encoder of texts; the dot product of two vectors is their similarity."""

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    @property
    def window_tokens(self) -> int | None:
        """Number of tokens of a text that `encode` reads, by the encoder's tokenizer; None if it reads all."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, by the encoder's tokenizer."""
        ...

    def encode(self, texts: Sequence[str], on_progress: OnProgress | None = None) -> Vectors:
        """Return vectors `[len(texts), dimension]`; `on_progress` is called with the texts done since its last call."""
        ...


def open_encoder(
    name: str, *, device: str = "auto", trust_remote_code: bool = False, revision: str | None = None
) -> TextEncoder:
    """Return the encoder that `name` names.

    Args:
        name: `reference-idf`, or `sentence-transformers:NAME-OR-FOLDER`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; the embedded encoder always runs on the CPU.
        trust_remote_code: run Python code that ships with a sentence-transformers model.
        revision: branch, tag or commit of a hub model.

    Raises:
        ValueError: the name is unknown, or the model cannot be found.
        ImportError: sentence-transformers is not installed.
    """
    if name == REFERENCE_IDF:
        return TokenTableEncoder(REFERENCE_IDF, reference_token_vectors())
    folder = sentence_transformers_folder(name, revision)
    return SentenceTransformersEncoder(name, folder, device=device, trust_remote_code=trust_remote_code)


def encoder_fingerprint(name: str, revision: str | None = None) -> str:
    """Return the hash of everything that an encoder's vectors depend on; imports no torch.

    A hub model is downloaded if it is not in the hub's cache.
    """
    if name == REFERENCE_IDF:
        files = {path.name: _sha256(path) for path in (_EMBEDDINGS, _TOKENIZER, _TOKEN_IDF)}
        return digest({"encoder": REFERENCE_IDF, "version": REFERENCE_IDF_VERSION, "files": files})
    folder = sentence_transformers_folder(name, revision)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return digest(
        {"encoder": "sentence-transformers", "files": {str(p.relative_to(folder)): _sha256(p) for p in paths}}
    )


_MODEL_FOLDER = REFERENCE_FOLDER / "long"
_EMBEDDINGS = _MODEL_FOLDER / "model.safetensors"
_TOKENIZER = _MODEL_FOLDER / "tokenizer.json"
_TOKEN_IDF = REFERENCE_FOLDER / "token_idf.safetensors"


class TokenTableEncoder:
    """Sums of fixed token vectors, scaled to length 1.

    Args:
        name: the encoder's name.
        token_vectors_VD: one row for each token of the reference vocabulary, weights included.
    """

    def __init__(self, name: str, token_vectors_VD: Vectors) -> None:
        self.name = name
        self.dimension = token_vectors_VD.shape[1]
        self._token_vectors_VD = np.ascontiguousarray(token_vectors_VD, dtype=np.float32)
        self.window_tokens = None
        self._tokenizer = ModelTokenizer.from_folder(_MODEL_FOLDER)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._tokenizer.count_batch(texts)

    def encode(self, texts: Sequence[str], on_progress: OnProgress | None = None) -> Vectors:
        vectors_ND = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), TEXTS_PER_BLOCK):
            block = texts[start : start + TEXTS_PER_BLOCK]
            vectors_ND[start : start + len(block)] = self._encode_block(block)
            if on_progress:
                on_progress(len(block))
        return vectors_ND

    def _encode_block(self, texts: Sequence[str]) -> Vectors:
        ids = self._tokenizer.encode_batch(texts)
        sums_ND = np.zeros((len(texts), self.dimension), dtype=np.float32)
        # For an empty segment reduceat returns the next one's first row, so texts without tokens are left out.
        filled = np.array([row for row, tokens in enumerate(ids) if len(tokens)], dtype=np.intp)
        if len(filled):
            starts = np.cumsum([0, *(len(ids[row]) for row in filled[:-1])])
            sums_ND[filled] = np.add.reduceat(self._token_vectors_VD[np.concatenate(ids)], starts, axis=0)
        return unit_rows(sums_ND)


class SentenceTransformersEncoder:
    """A sentence-transformers model; queries and passages are encoded alike, since both are excerpts of documents."""

    def __init__(self, name: str, folder: Path, *, device: str, trust_remote_code: bool) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ImportError(
                f"encoder {name!r} needs sentence-transformers; install it with `pip install 'entropylong[encoders]'`, "
                f"or set EL_ENCODER={REFERENCE_IDF}"
            ) from error
        self.name = name
        place = None if device == "auto" else device
        try:
            self._model: Any = SentenceTransformer(str(folder), device=place, trust_remote_code=trust_remote_code)
            self._model.encode(["two texts", "of other lengths, padded"], show_progress_bar=False)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"encoder {name!r}: sentence-transformers cannot open {folder} "
                f"({type(error).__name__}: {one_line(error, 200)}); fetch the model again, or set "
                f"EL_ENCODER={REFERENCE_IDF}"
            ) from error
        self.dimension = int(self._model.get_embedding_dimension())
        self.window_tokens = self._window()

    def _window(self) -> int | None:
        """Return the model's longest input in tokens, without special tokens and prompt; None if there is no limit."""
        longest = self._model.max_seq_length
        if longest is None or not math.isfinite(longest):
            return None
        tokenizer, prompt = self._model.tokenizer, self._model.prompts.get(self._model.default_prompt_name) or ""
        fixed = len(tokenizer(prompt)["input_ids"])
        if longest <= fixed:
            raise ValueError(
                f"encoder {self.name!r} reads at most {longest} tokens, and its prompt and special tokens take "
                f"{fixed}, so that no text fits; choose another encoder, or set EL_ENCODER={REFERENCE_IDF}"
            )
        return int(longest) - fixed

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        counts: list[int] = []
        for start in range(0, len(texts), TEXTS_PER_BLOCK):
            block = list(texts[start : start + TEXTS_PER_BLOCK])
            counts += map(
                len,
                self._model.tokenizer(block, add_special_tokens=False, truncation=False, verbose=False)["input_ids"],
            )
        return counts

    def encode(self, texts: Sequence[str], on_progress: OnProgress | None = None) -> Vectors:
        vectors_ND = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), TEXTS_PER_BLOCK):
            block = list(texts[start : start + TEXTS_PER_BLOCK])
            filled = [row for row, text in enumerate(block) if text.strip()]
            if filled:
                encoded = self._model.encode([block[row] for row in filled], show_progress_bar=False)
                vectors_ND[start + np.array(filled)] = unit_rows(np.asarray(encoded, dtype=np.float32))
            if on_progress:
                on_progress(len(block))
        return vectors_ND


def reference_token_vectors() -> Vectors:
    """Return the token table of `reference-idf`: embedding and signs of each token in one row, times its IDF."""
    idf_V = reference_idf()
    parts = (reference_embeddings() * idf_V[:, None], token_signs(len(idf_V)) * idf_V[:, None])
    return np.concatenate([part_VD / _row_scale(part_VD) for part_VD in parts], axis=1)


def reference_embeddings() -> Vectors:
    """Return the input embeddings of the long reference model, one row a token."""
    return read_tensor(_EMBEDDINGS, "model.embed_tokens.weight")


def reference_idf() -> Vectors:
    """Inverse document frequency of every token of the reference vocabulary."""
    return read_tensor(_TOKEN_IDF, "idf")


def token_signs(vocab_size: int) -> Vectors:
    """Return +1 or -1 for each bit of a hash of each token's id: rows are nearly orthogonal, and equal everywhere."""
    digests = b"".join(blake2b(str(token).encode(), digest_size=SIGN_BYTES).digest() for token in range(vocab_size))
    bits_VD = np.unpackbits(np.frombuffer(digests, dtype=np.uint8)).reshape(vocab_size, -1)
    return bits_VD.astype(np.float32) * 2 - 1


def _row_scale(rows_VD: Vectors) -> np.float32:
    """Root mean square length of the rows."""
    return np.sqrt(np.square(rows_VD).sum(axis=1).mean())


def unit_rows(rows_ND: Vectors) -> Vectors:
    """Rows scaled to length 1; zero rows stay zero."""
    norms_N1 = np.sqrt(np.square(rows_ND).sum(axis=1, keepdims=True))
    return np.divide(rows_ND, norms_N1, out=np.zeros_like(rows_ND), where=norms_N1 > 0)


def read_tensor(path: Path, name: str) -> Vectors:
    """Return a float32 or bfloat16 tensor of a safetensors file as float32.

    numpy has no bfloat16, but a bfloat16 is the upper half of the equal float32.
    """
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(header_bytes))[name]
        start, end = entry["data_offsets"]
        file.seek(8 + header_bytes + start)
        content = file.read(end - start)
    if entry["dtype"] == "F32":
        flat = np.frombuffer(content, dtype="<f4").astype(np.float32)
    elif entry["dtype"] == "BF16":
        flat = (np.frombuffer(content, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        raise ValueError(f"tensor {name!r} of {path} is {entry['dtype']}; store it as float32 or bfloat16")
    return flat.reshape(entry["shape"])


def sentence_transformers_folder(name: str, revision: str | None = None) -> Path:
    """Return the folder of a `sentence-transformers:` model, downloaded once into the hub's cache if it is not local.

    Raises:
        ValueError: there is no such model, or it is not of this kind.
        ConnectionError: the hub cannot be reached.
    """
    model = name.removeprefix(SENTENCE_TRANSFORMERS_PREFIX)
    if not name.startswith(SENTENCE_TRANSFORMERS_PREFIX) or not model:
        raise ValueError(
            f"encoder {name!r} is unknown; use {REFERENCE_IDF!r} or {SENTENCE_TRANSFORMERS_PREFIX + 'NAME-OR-FOLDER'!r}"
        )
    folder = Path(model).expanduser()
    if folder.is_dir():
        refuse_pointers(folder)
        if revision:
            raise ValueError(f"encoder {name!r} is local and has no revision {revision!r}; leave the revision empty")
        return _encoder_folder(folder, name)
    if folder.is_file():
        raise ValueError(f"encoder {name!r} is a file; give the folder that holds it, its config and its tokenizer")
    # As sentence-transformers itself reads a name without an owner.
    return _encoder_folder(_download(name, model if "/" in model else f"sentence-transformers/{model}", revision), name)


def refuse_no_encoder(name: str) -> None:
    """Raise ValueError or ConnectionError if a `sentence-transformers:` model, or one of its files, is missing."""
    folder = sentence_transformers_folder(name)
    if not any((folder / file).is_file() for file in ("modules.json", "config.json")):
        raise ValueError(
            f"encoder {name!r}: {folder} holds neither modules.json nor config.json; give the folder of a "
            f"sentence-transformers model, or set EL_ENCODER={REFERENCE_IDF}"
        )
    weights = (file for pattern in ("*.safetensors", "*.bin") for file in folder.rglob(pattern))
    if (folder / "config.json").is_file() and next(weights, None) is None:
        raise ValueError(
            f"encoder {name!r}: {folder} holds no weights (*.safetensors, *.bin); fetch the model again, or set "
            f"EL_ENCODER={REFERENCE_IDF}"
        )


def _encoder_folder(folder: Path, name: str) -> Path:
    """Return the folder. Raises ValueError for a causal language model, which sentence-transformers would also open."""
    described = (folder / "modules.json").is_file() or not (folder / "config.json").is_file()
    architectures = [] if described else [str(one) for one in read_config(folder).get("architectures") or []]
    if any(one.endswith(("ForCausalLM", "LMHeadModel")) for one in architectures):
        raise ValueError(
            f"encoder {name!r}: {folder} holds a causal language model ({architectures[0]}), which was not trained to "
            f"encode texts; give a sentence-transformers model, or set EL_ENCODER={REFERENCE_IDF}"
        )
    return folder


def _download(name: str, model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        # The same weights in other formats are not read.
        return Path(snapshot_download(model, revision=revision or None, ignore_patterns=["onnx/*", "openvino/*"]))
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ValueError(
            f"encoder {name!r}: there is no such folder, and no such model on the hub that you have access to"
            f"{f' at revision {revision!r}' if revision else ''}; correct the name or give a folder"
        ) from error
    except OSError as error:
        raise ConnectionError(
            f"encoder {name!r}: there is no such folder, and the hub cannot be reached ({type(error).__name__}); "
            f"connect to the network, give a local folder, or set EL_ENCODER={REFERENCE_IDF}"
        ) from error


def _sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
