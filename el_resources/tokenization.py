"""A model's tokenizer: text to ids and back, without torch.

Guarantees: `encode` adds nothing (no BOS, no end-of-text, no truncation, no padding), and text that spells a special
token, as in a document about tokenizers, is encoded as the ordinary text that it is. Ids of special tokens therefore
stand only where this project puts them. `decode` drops and tidies nothing; for a byte-level vocabulary it inverts
`encode` exactly, up to characters whose bytes a cut has split.
Costs: `encode_batch` uses all cores, about 1 to 3 MB of text a second on two.
"""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from el_resources.model_files import read_config, read_json

TokenIds = NDArray[np.int32]


class _Codec(Protocol):
    """What turns text into ids: the `tokenizers` library, or transformers where a model has no tokenizer.json."""

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]: ...
    def decode(self, ids: list[int]) -> str: ...
    def vocabulary(self) -> dict[str, int]: ...
    def special_tokens(self) -> dict[str, int]: ...
    def backend(self) -> Tokenizer: ...


class ModelTokenizer:
    """A tokenizer with the ids of the two tokens that this project places itself.

    Attributes:
        bos_id: what stands before every sequence; in a model without BOS its end-of-text token.
        has_bos: whether the model has a BOS of its own.
        eos_id: end-of-text, which separates unrelated texts.
        vocab_size: ids are in [0, vocab_size). The model's own vocabulary may be larger, padded for speed.
    """

    def __init__(self, codec: _Codec, *, bos_id: int, has_bos: bool, eos_id: int) -> None:
        self._codec = codec
        self.bos_id = bos_id
        self.has_bos = has_bos
        self.eos_id = eos_id
        self.vocab_size = max(codec.vocabulary().values()) + 1
        self._special_tokens = codec.special_tokens()

    @classmethod
    def from_folder(cls, folder: Path, *, trust_remote_code: bool = False) -> Self:
        """The tokenizer of a model folder: its tokenizer.json, else whatever transformers makes of its files."""
        file = folder / "tokenizer.json"
        codec: _Codec = _FastCodec(file) if file.is_file() else _TransformersCodec(folder, trust_remote_code)
        eos_id = _eos_id(folder, codec.vocabulary())
        bos_id, has_bos = _bos_id(folder, codec.vocabulary(), eos_id)
        return cls(codec, bos_id=bos_id, has_bos=has_bos, eos_id=eos_id)

    @property
    def backend(self) -> Tokenizer:
        """The `tokenizers` object behind this one, for libraries that count tokens themselves.

        Raises:
            ValueError: the model's tokenizer is not built on that library.
        """
        return self._codec.backend()

    def encode(self, text: str) -> TokenIds:
        """Token ids of a text, nothing added."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text."""
        for index, text in enumerate(texts):
            if not text.isascii():
                _check_encodable(text, index)
        batch = self._codec.encode_batch(texts)
        return [self._without_special(text, ids) for text, ids in zip(texts, batch, strict=True)]

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """The text of token ids, special tokens spelled out."""
        return self._codec.decode([int(token) for token in ids])

    def _without_special(self, text: str, ids: TokenIds) -> TokenIds:
        """The ids; where a special token that the text spells slipped in, those of the text cut inside its spelling.

        Unigram vocabularies hold `</s>` as a piece like any other, and then it is found in text.
        """
        spelled = [name for name, token in self._special_tokens.items() if name in text and token in ids]
        if not spelled:
            return ids
        cuts = [match.start() + 1 for match in re.finditer("|".join(map(re.escape, spelled)), text)]
        pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
        return np.concatenate(self._codec.encode_batch(pieces))


class _FastCodec:
    """A tokenizer.json, read by the `tokenizers` library."""

    def __init__(self, file: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{file} is not a tokenizer ({error}); fetch it again from the model's origin") from error
        # A tokenizer.json may carry the truncation and padding of the run that saved it.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Special tokens are not looked for in the text.
        self._tokenizer.encode_special_tokens = True

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def vocabulary(self) -> dict[str, int]:
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    def special_tokens(self) -> dict[str, int]:
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    def backend(self) -> Tokenizer:
        return self._tokenizer


class _TransformersCodec:
    """Older tokenizer files, or a model's own tokenizer code, through transformers (which may import torch)."""

    def __init__(self, folder: Path, trust_remote_code: bool) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        return [np.array(self._ids(text), dtype=np.int32) for text in texts]

    def _ids(self, text: str) -> list[int]:
        encoding = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, truncation=False, padding=False, verbose=False
        )
        return list(encoding["input_ids"])

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def vocabulary(self) -> dict[str, int]:
        return dict(self._tokenizer.get_vocab())

    def special_tokens(self) -> dict[str, int]:
        return dict(zip(self._tokenizer.all_special_tokens, self._tokenizer.all_special_ids, strict=True))

    def backend(self) -> Tokenizer:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ValueError(
                f"{self._tokenizer.name_or_path}: chunks are counted with a tokenizer.json; "
                "save the model's fast tokenizer beside its weights"
            )
        backend.encode_special_tokens = True
        return backend


def _check_encodable(text: str, index: int) -> None:
    """Refuse lone surrogates, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text {index} holds {text[error.start]!r} at {error.start}, which UTF-8 cannot; set the document aside"
        ) from error


def _eos_id(folder: Path, vocabulary: dict[str, int]) -> int:
    """End-of-text: named by tokenizer_config.json, else numbered by config.json."""
    eos_id = _named_id(_settings(folder).get("eos_token"), vocabulary)
    if eos_id is None:
        eos_id = _numbered_id(read_config(folder), "eos_token_id")
    if eos_id is None:
        raise ValueError(f"{folder} names no end-of-text token; set eos_token in its tokenizer_config.json")
    return eos_id


def _bos_id(folder: Path, vocabulary: dict[str, int], eos_id: int) -> tuple[int, bool]:
    """What stands before a sequence, and whether it is a BOS of the model's own.

    Qwen's tokenizers declare `"bos_token": null`, and their configs number the end-of-text token as BOS.
    """
    settings = _settings(folder)
    named = _named_id(settings.get("bos_token"), vocabulary)
    if named is not None:
        return named, True
    numbered = _numbered_id(read_config(folder), "bos_token_id")
    if numbered is None:
        return eos_id, False
    return numbered, "bos_token" not in settings


def _settings(folder: Path) -> dict[str, Any]:
    """The folder's tokenizer_config.json, which old models lack."""
    file = folder / "tokenizer_config.json"
    return read_json(file) if file.is_file() else {}


def _named_id(token: object, vocabulary: dict[str, int]) -> int | None:
    """Id of a token given as a string, or as the mapping that older versions of transformers wrote."""
    content = token.get("content") if isinstance(token, dict) else token
    return vocabulary.get(content) if isinstance(content, str) else None


def _numbered_id(config: dict[str, Any], key: str) -> int | None:
    """A token id from a config; the first where a chat model lists several."""
    text = config.get("text_config")
    value = config.get(key, text.get(key) if isinstance(text, dict) else None)
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, int) else None
