"""BOS and end-of-text of checkpoints of the kinds that there are: tiny tokenizers with the names of real ones."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from el_resources.models.placed_tokens import may_have_chat_tokens
from el_resources.models.tokenization import ModelTokenizer

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
LLAMA_3 = "{{ bos_token }}<|start_header_id|>{{ role }}<|end_header_id|>\n\n{{ content }}<|eot_id|>"
GEMMA = "{{ bos_token }}<start_of_turn>{{ role }}\n{{ content }}<end_of_turn>\n"


@dataclass(frozen=True)
class Kind:
    """A checkpoint's special tokens in the order of their ids, its files, and what is chosen.

    Attributes:
        placed: BOS, whether it is the model's own, end-of-text.
    """

    specials: tuple[str, ...]
    settings: dict[str, Any]
    placed: tuple[str, bool, str]
    template: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, words: tuple[str, ...] = ()) -> Path:
        """Write the files; words are further ones of the vocabulary, which are not special."""
        vocabulary = {word: number for number, word in enumerate(("a", "b", *words))}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.add_special_tokens([AddedToken(name, special=True) for name in self.specials])
        tokenizer.save(str(folder / "tokenizer.json"))
        files = {"tokenizer_config": self.settings, "config": self.config, "generation_config": self.generation}
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        if self.template:
            (folder / "chat_template.jinja").write_text(self.template)
        return folder


SMOLLM2 = Kind(
    specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    settings={"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    template=CHATML,
    config={"bos_token_id": 3, "eos_token_id": 4},
    placed=("<|endoftext|>", False, "<|endoftext|>"),
)
KINDS = {
    "SmolLM2-Instruct": SMOLLM2,
    "SmolLM2-Instruct without its template": Kind(SMOLLM2.specials, SMOLLM2.settings, SMOLLM2.placed),
    "SmolLM2": Kind(
        SMOLLM2.specials,
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        ("<|endoftext|>", True, "<|endoftext|>"),
    ),
    "Llama-3-Instruct": Kind(
        specials=("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>"),
        settings={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        template=LLAMA_3,
        config={"bos_token_id": 2, "eos_token_id": [3, 5]},
        placed=("<|begin_of_text|>", True, "<|end_of_text|>"),
    ),
    "Qwen3": Kind(
        specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        settings={"bos_token": None, "eos_token": "<|im_end|>", "chat_template": CHATML},
        config={"bos_token_id": 2, "eos_token_id": 4},
        generation={"eos_token_id": [4, 2]},
        placed=("<|endoftext|>", False, "<|endoftext|>"),
    ),
    "Gemma 3": Kind(
        specials=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        settings={"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": [{"name": "x", "template": GEMMA}]},
        config={"bos_token_id": 4, "eos_token_id": [3, 6]},
        placed=("<bos>", True, "<eos>"),
    ),
    "Gemma 3 whose tokenizer names the end of a turn": Kind(
        specials=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        settings={"bos_token": "<bos>", "eos_token": {"content": "<end_of_turn>"}},
        template=GEMMA,
        placed=("<bos>", True, "<eos>"),
    ),
    "Llama": Kind(
        specials=("<unk>", "<s>", "</s>"),
        settings={"bos_token": "<s>", "eos_token": "</s>"},
        template="{{ bos_token }}[INST] {{ content }} [/INST] {{ content }} </s>",
        placed=("<s>", True, "</s>"),
    ),
    "a turn's end of its own": Kind(
        specials=("<s>", "</s>", "[TURN]"),
        settings={"bos_token": "<s>", "eos_token": "[TURN]"},
        template="{{ content }}[TURN]",
        placed=("<s>", True, "</s>"),
    ),
    "chat tokens alone": Kind(
        specials=("<|im_start|>", "<|im_end|>"),
        settings={"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
        template=CHATML,
        placed=("<|im_start|>", True, "<|im_end|>"),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_chosen_tokens(tmp_path: Path, name: str) -> None:
    tokenizer = ModelTokenizer.from_folder(KINDS[name].write(tmp_path))
    assert (tokenizer.bos_token, tokenizer.has_bos, tokenizer.end_of_text_token) == KINDS[name].placed
    ids = tokenizer.control_tokens
    assert (tokenizer.bos_id, tokenizer.eos_id) == (ids[tokenizer.bos_token], ids[tokenizer.end_of_text_token])


@pytest.mark.parametrize("name", KINDS)
def test_folders_that_need_no_look_at_the_vocabulary(tmp_path: Path, name: str) -> None:
    """Whatever the names alone exclude must have its own tokens."""
    kind = KINDS[name]
    own = tuple((kind.settings[key] or {}) for key in ("bos_token", "eos_token"))
    assert may_have_chat_tokens(kind.write(tmp_path)) or own == kind.placed[::2]


@pytest.mark.parametrize(
    ("specials", "files", "name"),
    [
        (("<|endoftext|>", "[SEP]"), {}, "[SEP]"),  # special
        (("<|endoftext|>",), {"pad_token": {"content": "b"}}, "b"),  # the tokenizer names it
        (("<|endoftext|>",), {}, "</s>"),  # the name of an end-of-text
    ],
)
def test_the_settings_name_tokens(tmp_path: Path, specials: tuple[str, ...], files: dict[str, Any], name: str) -> None:
    kind = Kind(specials, {"bos_token": None, "eos_token": "<|endoftext|>", **files}, ("", False, ""))
    folder = kind.write(tmp_path, words=("</s>",))
    tokenizer = ModelTokenizer.from_folder(folder, bos_token=name, end_of_text_token=name)
    assert (tokenizer.bos_token, tokenizer.has_bos, tokenizer.end_of_text_token) == (name, False, name)
    assert tokenizer.encode("a").tolist() == [0]


@pytest.mark.parametrize("argument", ["bos_token", "end_of_text_token"])
@pytest.mark.parametrize(
    ("name", "why"),
    [("<|end_of_text|>", "has no such token"), ("hello", "has no such token"), ("b", "takes this for ordinary text")],
)
def test_a_text_that_is_no_special_token_is_refused_with_the_nearest(
    tmp_path: Path, argument: str, name: str, why: str
) -> None:
    many = tuple(f"<|reserved_{number}|>" for number in range(9))
    folder = Kind((*SMOLLM2.specials, *many), SMOLLM2.settings, SMOLLM2.placed).write(tmp_path)
    with pytest.raises(
        ValueError, match=rf"^EL_{argument.upper()}='{re.escape(name)}': the tokenizer of .* {why}"
    ) as error:
        ModelTokenizer.from_folder(folder, **{argument: name})
    suggested = re.findall("'([^']*)'", str(error.value).partition("nearest are ")[2])
    assert len(suggested) == 5
    assert {*suggested} <= {*SMOLLM2.specials, *many}
    assert name != "<|end_of_text|>" or suggested[0] == "<|endoftext|>"
