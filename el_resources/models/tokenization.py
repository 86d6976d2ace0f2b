"""A model's tokenizer: text to ids and back, without torch.

Guarantees:
- `encode` adds nothing: no BOS, no end-of-text, no truncation, no padding, no dummy prefix (exact_encoding.py).
- Text that spells a special or control token, as in a document about tokenizers, is encoded as ordinary text. So ids of
  `control_tokens` only come from this project.
- `decode` drops and tidies nothing. Joined ids of several texts decode to the joined texts, for every vocabulary that
  preserves text (byte-level or with byte fallback); `joint_ids` refuses a separator that is not preserved.
Costs: `encode_batch` uses all cores; two encode about 1 to 3 MB of text a second.
"""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import Unigram

from el_resources.addresses import one_line
from el_resources.models.exact_encoding import is_control_form, made_exact
from el_resources.models.model_files import read_json
from el_resources.models.placed_tokens import PlacedTokens, choose_placed_tokens

TokenIds = NDArray[np.int32]
# A separator is tried between these texts: a word, a leading space, a line break, another script, a digit.
JOINED_TEXTS = (("The end.", "A start"), ("x = 1", "  y"), ("- one\n", "\ttwo"), ("終わり", "はじめ"), ("7", "8 "))


class _Codec(Protocol):
    """A converter of text to ids: the `tokenizers` library, or transformers if a model has no tokenizer.json."""

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]: ...
    def decode(self, ids: list[int]) -> str: ...
    def vocabulary(self) -> dict[str, int]: ...
    def special_tokens(self) -> dict[str, int]: ...
    def unknown_token(self) -> str | None: ...
    def finds_byte_pieces(self) -> bool: ...
    def backend(self) -> Tokenizer: ...


class ModelTokenizer:
    """A tokenizer with the ids of the two tokens that this project places itself.

    Attributes:
        origin: the model folder.
        placed: both tokens, and those that the checkpoint names.
        bos_id: first token of every sequence, chosen as placed_tokens.py explains.
        has_bos: true if the model has a BOS of its own.
        eos_id: end-of-text, which separates unrelated texts.
        bos_token, end_of_text_token: spellings of the two.
        vocab_size: ids are in [0, vocab_size). The model's vocabulary may be larger, padded for speed.
        control_tokens: spelling and id of the tokens as which text is never encoded: all special ones, those with the
            form of a control token, BOS and end-of-text.
    """

    def __init__(self, codec: _Codec, *, origin: str, placed: PlacedTokens) -> None:
        self._codec = codec
        self.origin = origin
        self.placed = placed
        self.bos_id = bos_id = placed.bos_id
        self.has_bos = placed.has_bos
        self.eos_id = eos_id = placed.end_of_text_id
        vocabulary = codec.vocabulary()
        names = {number: name for name, number in vocabulary.items()}
        self.bos_token, self.end_of_text_token = (names.get(one, f"token {one}") for one in (bos_id, eos_id))
        self.vocab_size = max(vocabulary.values()) + 1
        named = {name: token for name, token in vocabulary.items() if token in (bos_id, eos_id)}
        self.control_tokens = {**named, **codec.special_tokens()}
        self._is_control = np.zeros(self.vocab_size, dtype=bool)
        self._is_control[list(self.control_tokens.values())] = True
        self._unknown_id = vocabulary.get(codec.unknown_token() or "")
        self._byte_piece = re.compile(r"(?=<0x[0-9A-F]{2}>)") if codec.finds_byte_pieces() else re.compile(r"(?!)")
        spelled = (f"(?={re.escape(name)})" for name in self.control_tokens)
        self._never_whole = re.compile("|".join([*spelled, self._byte_piece.pattern]))

    @classmethod
    def from_folder(
        cls, folder: Path, *, trust_remote_code: bool = False, bos_token: str = "", end_of_text_token: str = ""
    ) -> Self:
        """Return the tokenizer of a model folder: its tokenizer.json, else the tokenizer that transformers loads.

        Args:
            bos_token, end_of_text_token: names of the two placed tokens; empty for the choice of placed_tokens.py.
        """
        file = folder / "tokenizer.json"
        codec = _FastCodec.from_file(file) if file.is_file() else _through_transformers(folder, trust_remote_code)
        placed = choose_placed_tokens(
            folder, codec.vocabulary(), codec.special_tokens(), bos_token=bos_token, end_of_text_token=end_of_text_token
        )
        return cls(codec, origin=str(folder), placed=placed)

    @property
    def backend(self) -> Tokenizer:
        """The `tokenizers` object, for libraries that count tokens themselves.

        Raises:
            ValueError: the model's tokenizer is not built on that library.
        """
        return self._codec.backend()

    def encode(self, text: str) -> TokenIds:
        """Return the token ids of a text, with nothing added."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the token ids of each text."""
        for index, text in enumerate(texts):
            if not text.isascii():
                _check_encodable(text, index)
        batch = self._codec.encode_batch(texts)
        return [self._without_control(text, ids) for text, ids in zip(texts, batch, strict=True)]

    def count_batch(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        return [len(ids) for ids in self.encode_batch(texts)]

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """Return the text of token ids, with special tokens spelled out."""
        return self._codec.decode([int(token) for token in ids])

    def joint_ids(self, separator: str) -> TokenIds:
        """Return the token ids of a separator between the ids of two texts.

        Raises:
            ValueError: the joined ids do not decode to the texts with the separator between them.
        """
        ids = self.encode(separator)
        for before, after in JOINED_TEXTS:
            ends = self.encode(before), self.encode(after)
            joined = self.decode(np.concatenate([ends[0], ids, ends[1]]))
            left, right = (self.decode(end) for end in ends)
            if joined != left + separator + right:
                found = joined.removeprefix(left).removesuffix(right)
                raise ValueError(
                    f"the tokenizer of {self.origin!r} turns the separator {separator!r} between {before!r} and "
                    f"{after!r} into {found!r}; set EL_SEPARATOR to a text that it keeps, or choose another model"
                )
        return ids

    def spelled_control_token(self, text: str) -> str | None:
        """Return a control token that the text spells; None if it spells none."""
        return next((name for name in self.control_tokens if name in text), None)

    def _without_control(self, text: str, ids: TokenIds) -> TokenIds:
        """Return the ids; if they contain control tokens that the text spells, encode it cut inside these spellings.

        Unigram vocabularies contain `</s>`, and `<0x0A>` for a byte, as ordinary pieces, which are then found in text.
        If a normalizer makes them of other characters, the text is encoded character by character. Unknown characters
        keep their token.
        """
        if not self._is_control[ids].any() and not self._byte_piece.search(text):
            return ids
        cuts = [match.start() + 1 for match in self._never_whole.finditer(text)]
        if cuts:
            pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
            ids = np.concatenate(self._codec.encode_batch(pieces))
        if self._is_control[ids[ids != self._unknown_id]].any():
            ids = np.concatenate(self._codec.encode_batch(list(text)))
        return ids


class _FastCodec:
    """A tokenizer of the `tokenizers` library, encoding exactly (exact_encoding.py)."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._tokenizer = Tokenizer.from_str(json.dumps(made_exact(content)[0]))
        model = content["model"]
        number = model.get("unk_id")
        self._unknown_token = model.get("unk_token") if number is None else model["vocab"][number][0]
        # A tokenizer.json may contain the truncation and padding of the run that saved it.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Special tokens are not looked for in the text.
        self._tokenizer.encode_special_tokens = True

    @classmethod
    def from_file(cls, file: Path) -> "_FastCodec":
        content = read_json(file)
        try:
            return cls(content)
        except Exception as error:  # the library raises no narrower class
            raise ValueError(
                f"{file} is not a tokenizer ({one_line(error)}); fetch it again from the model's origin"
            ) from error

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

    def unknown_token(self) -> str | None:
        return self._unknown_token

    def finds_byte_pieces(self) -> bool:
        return isinstance(self._tokenizer.model, Unigram)

    def backend(self) -> Tokenizer:
        return self._tokenizer


def _through_transformers(folder: Path, trust_remote_code: bool) -> _Codec:
    """Return a tokenizer without tokenizer.json, or with code of its own, through transformers (may import torch)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return _FastCodec(json.loads(backend.to_str())) if isinstance(backend, Tokenizer) else _SlowCodec(tokenizer)


class _SlowCodec:
    """A tokenizer that is not built on the `tokenizers` library; added tokens of ordinary text are found here."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = {str(token): (number, token.special) for number, token in tokenizer.added_tokens_decoder.items()}
        self._text_tokens = {
            name: number for name, (number, special) in added.items() if not special and not is_control_form(name)
        }
        longest_first = sorted(self._text_tokens, key=len, reverse=True)
        self._text_token = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        return [np.array(self._ids(text), dtype=np.int32) for text in texts]

    def _ids(self, text: str) -> list[int]:
        pieces = self._text_token.split(text) if self._text_token else [text]
        found = (
            [self._text_tokens[piece]] if piece in self._text_tokens else self._plain_ids(piece)
            for piece in pieces
            if piece
        )
        return [number for ids in found for number in ids]

    def _plain_ids(self, text: str) -> list[int]:
        encoding = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, truncation=False, padding=False, verbose=False
        )
        return list(encoding["input_ids"])

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def vocabulary(self) -> dict[str, int]:
        return dict(self._tokenizer.get_vocab())

    def special_tokens(self) -> dict[str, int]:
        named = zip(self._tokenizer.all_special_tokens, self._tokenizer.all_special_ids, strict=True)
        added = self._tokenizer.added_tokens_decoder.items()
        return {**dict(named), **{str(t): n for n, t in added if t.special or is_control_form(str(t))}}

    def unknown_token(self) -> str | None:
        return self._tokenizer.unk_token

    def finds_byte_pieces(self) -> bool:
        return True

    def backend(self) -> Tokenizer:
        raise ValueError(
            f"the tokenizer of {self._tokenizer.name_or_path!r} has no tokenizer.json, which counting chunks needs; "
            "save the model's fast tokenizer next to its weights"
        )


def _check_encodable(text: str, index: int) -> None:
    """Raise ValueError for a lone surrogate, which JSON can contain and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text {index} holds {text[error.start]!r} at {error.start}, which UTF-8 cannot encode; "
            "set the document aside"
        ) from error
