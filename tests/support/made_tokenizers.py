"""Small tokenizers of the families that promises about special tokens and joints are tested on, as model folders."""

import json
import string
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.conftest import tiny_model

SIGNS = "▁" + string.ascii_letters + string.digits + ".,:;()[]<>|/_-'\"`"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SENTENCEPIECE_NAMES = ("<unk>", "<s>", "</s>")
CONTROL = ("<|endoftext|>", "<|im_start|>", "<tool_call>", "<|fim_prefix|>", "<think>", "</s>")


def byte_level() -> Tokenizer:
    """Byte-level BPE without merges, its control tokens marked special: GPT-2's kind."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<|endoftext|>", "<|im_start|>")])
    return tokenizer


def qwen_like() -> Tokenizer:
    """Byte-level BPE with control tokens that are not marked special, and with runs of spaces as ordinary tokens."""
    tokenizer = byte_level()
    names = ("<tool_call>", "<|fim_prefix|>", "<think>", " " * 4, "<table>")
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in names])
    return tokenizer


def roberta_like() -> Tokenizer:
    """Byte-level BPE that puts a space before every text."""
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    return tokenizer


def llama_2_like() -> Tokenizer:
    """BPE with byte fallback and the dummy prefix as a normalizer: Llama 2's tokenizer.json."""
    pieces = [*SENTENCEPIECE_NAMES, *BYTES, *SIGNS]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = _sentencepiece_decoder()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SENTENCEPIECE_NAMES])
    return tokenizer


def unigram(scheme: str = "always") -> Tokenizer:
    """Unigram with byte fallback and Metaspace; its vocabulary holds `</s>` as a piece like any other."""
    pieces = [*((name, 0.0) for name in SENTENCEPIECE_NAMES), *((piece, -9.0) for piece in BYTES)]
    tokenizer = Tokenizer(models.Unigram([*pieces, *((sign, -3.0) for sign in SIGNS)], unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = _sentencepiece_decoder()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SENTENCEPIECE_NAMES])
    return tokenizer


def _sentencepiece_decoder() -> decoders.Decoder:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return decoders.Sequence(steps)


FAMILIES = {
    "byte-level": (byte_level, "<|endoftext|>"),
    "qwen": (qwen_like, "<|endoftext|>"),
    "roberta": (roberta_like, "<|endoftext|>"),
    "llama-2": (llama_2_like, "</s>"),
    "unigram-always": (unigram, "</s>"),
    "unigram-first": (lambda: unigram("first"), "</s>"),
}


def write_tokenizer(folder: Path, tokenizer: Tokenizer, eos: str) -> Path:
    """The tokenizer's files, and a config if there is none; `<s>` is BOS if it has one."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text("{}")
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": eos, **({"bos_token": "<s>"} if tokenizer.token_to_id("<s>") is not None else {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


def model_of(folder: Path, family: str) -> Path:
    """A random Llama with a family's tokenizer."""
    make, eos = FAMILIES[family]
    tokenizer = make()
    size, eos_id = tokenizer.get_vocab_size(), tokenizer.token_to_id(eos)
    tiny_model(folder, vocab_size=size, bos_token_id=eos_id, eos_token_id=eos_id)
    return write_tokenizer(folder, tokenizer, eos)
