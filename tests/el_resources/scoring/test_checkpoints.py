"""Faulty model folders are refused before anything is scored, by an error that names folder, fault and remedy."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from el_resources.models.model_files import REFERENCE_FOLDER, resolve_model
from el_resources.models.text_encoder import open_encoder
from el_resources.models.tokenization import ModelTokenizer
from el_resources.scoring import ScoringEngine
from tests.el_resources.scoring.tiny_models import tiny_config, tiny_model

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose vocabulary is that of the reference tokenizer, untied."""
    folder = tmp_path_factory.mktemp("whole")
    tiny_model("llama", vocab_size=8192, num_hidden_layers=3).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(REFERENCE_FOLDER / "short" / name, folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A model folder that a test may break."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def open_model(folder: Path) -> ScoringEngine:
    """Open a model as a run does before it reads its first shard."""
    place = resolve_model(str(folder))
    return ScoringEngine.from_folder(place, bos_id=ModelTokenizer.from_folder(place).bos_id)


def config(**changes: Any) -> Damage:
    """Change keys of config.json; None removes one."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        content = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Change tensors of model.safetensors."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def write(name: str, content: str | bytes) -> Damage:
    """Put a file in the place of another."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(name: str, n_bytes: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:n_bytes])


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def shards(*, lost: bool) -> Damage:
    """Lay the weights out in two files, of which one is not there or does not hold what the index says."""

    def lay_out(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(tensors)
        first, second = names[::2], names[1::2]
        files = {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": second}
        weight_map = {name: file for file, held in files.items() for name in held}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        for file, held in files.items():
            kept = held if file.startswith("model-00001") or lost else held[:-1]
            save_file({name: tensors[name] for name in kept}, folder / file, metadata={"format": "pt"})
        if lost:
            (folder / "model-00002-of-00002.safetensors").unlink()

    return lay_out


def not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan


def renamed(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[f"transformer.{name}"] = tensors.pop(name)


def in_integers(tensors: dict[str, torch.Tensor]) -> None:
    tensors.update({name: (10 * tensor).to(torch.int8) for name, tensor in tensors.items()})


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def with_other_tokenizer(folder: Path) -> None:
    """A tokenizer whose texts have ids that the model does not know."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["beyond"] = 8192
    file.write_text(json.dumps(content))


DAMAGE: dict[str, tuple[Damage, str]] = {
    "an empty folder": (emptied, r"holds no config\.json; give a folder"),
    "no config": (remove("config.json"), r"holds no config\.json; give a folder"),
    "a config that breaks off": (cut("config.json", 40), r"config\.json is not valid JSON .*; fetch the file again"),
    "a config that is a list": (write("config.json", "[1]"), r"config\.json holds a JSON list, not an object; fetch"),
    "no model_type": (config(model_type=None), r"names no model_type.*; fetch the model's own config\.json"),
    "an unknown model_type": (config(model_type="nonsense"), r"model_type 'nonsense', which .* know; correct it"),
    "code of its own": (
        config(model_type="mine", auto_map={"AutoConfig": "mine.Config"}),
        r"needs Python code that its folder ships \(AutoConfig\); .*EL_TRUST_REMOTE_CODE=true",
    ),
    "heads that do not divide the width": (config(num_attention_heads=7), r"cannot read .*config\.json .*; correct it"),
    "a word in place of a number": (config(num_hidden_layers="three"), r"cannot read .*num_hidden_layers.*; correct"),
    "an unknown activation": (config(hidden_act="nope"), r"cannot load .*nope.*; fetch the model again"),
    "an unknown RoPE": (config(rope_parameters={"rope_type": "nope"}), r"cannot (load|read) .*nope.*; "),
    "another vocabulary": (config(vocab_size=9000), r"lm_head\.weight is 8192 × 32, .* has 9000 × 32 .*; fetch"),
    "another width": (
        config(hidden_size=64),
        r"do not fit its config\.json: .* × 64 \(\d+ such tensors\); fetch config",
    ),
    "layers that the weights lack": (
        config(num_hidden_layers=5),
        r"lack 18 tensors of LlamaForCausalLM, such as model\.layers\.3\.input_layernorm\.weight.*; fetch the model",
    ),
    "layers that the config lacks": (
        config(num_hidden_layers=2),
        r"have layers that its config\.json lacks for LlamaForCausalLM: model\.layers\.2; correct num_hidden_layers",
    ),
    "no weights": (remove("model.safetensors"), r"holds no weights: .*; fetch the model again"),
    "weights of no bytes": (write("model.safetensors", b""), r"model\.safetensors is an empty file; fetch it again"),
    "weights that break off": (cut("model.safetensors", 9000), r"is not a whole safetensors file .*; fetch it again"),
    "weights whose header says nothing": (
        write("model.safetensors", (2).to_bytes(8, "little") + b"[]"),
        r"is not a whole safetensors file .*; fetch it again",
    ),
    "weights without tensors": (weights(dict.clear), r"lack \d+ tensors of LlamaForCausalLM.*; fetch the model again"),
    "one tensor too few": (
        weights(lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight")),
        r"lack 1 tensors of LlamaForCausalLM, such as model\.layers\.1\.mlp\.up_proj\.weight; fetch",
    ),
    "tensors of other names": (weights(renamed), r"lack \d+ tensors of LlamaForCausalLM.*; fetch the model again"),
    "weights that are no numbers": (
        weights(not_a_number),
        r"1 of 1536 numbers of model\.layers\.1\.mlp\.up_proj\.weight are NaN or infinite; fetch the model again",
    ),
    "weights in integers": (weights(in_integers), r"are integers \(I8\), and .* no quantization_config .*; fetch"),
    "pickled weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        r"pickled weights only \(pytorch_model\.bin\), which can run code.*; convert",
    ),
    "a lost shard of the weights": (shards(lost=True), r"lists weights that are not there .*00002-of-.*; fetch"),
    "a shard that lacks a tensor": (shards(lost=False), r"lack 1 tensors of LlamaForCausalLM, such as .*; fetch"),
    "an index without files": (
        lambda folder: (remove("model.safetensors")(folder), write("model.safetensors.index.json", "{}")(folder)),
        r"lists weights that are not there \(it lists none\); fetch the model again",
    ),
    "an adapter": (
        lambda folder: (
            (folder / "config.json").rename(folder / "adapter_config.json"),
            (folder / "model.safetensors").rename(folder / "adapter_model.safetensors"),
        ),
        r"holds an adapter \(adapter_config\.json\).*; merge it into its base model",
    ),
    "an adapter next to a model": (write("adapter_config.json", "{}"), r"holds an adapter .*; merge it"),
    "quantized weights": (
        config(quantization_config={"quant_method": "gptq", "bits": 4}),
        r"cannot load .*quantized.*; it is quantized: install what that needs",
    ),
    "no tokenizer": (remove("tokenizer.json"), r"holds no tokenizer .*; copy the tokenizer's files"),
    "a tokenizer that breaks off": (cut("tokenizer.json", 500), r"tokenizer\.json is not valid JSON .*; fetch"),
    "a tokenizer of nothing": (write("tokenizer.json", "{}"), r"tokenizer\.json is not a tokenizer .*; fetch it again"),
    "tokenizer settings that break off": (cut("tokenizer_config.json", 9), r"tokenizer_config\.json is not valid JSON"),
    "another model's tokenizer": (
        with_other_tokenizer,
        r"tokenizer\.json is another model's tokenizer: its ids reach 8192, .* vocabulary of 8192; copy",
    ),
    "an encoder": (
        config(architectures=["BertForMaskedLM"], model_type="bert"),
        r"holds a bert model \(BertForMaskedLM\), which is not a causal language model; give a decoder-only",
    ),
    "a vision encoder": (
        config(architectures=["CLIPVisionModel"], model_type="clip_vision_model"),
        r"holds a clip_vision_model model .* not a causal language model; give",
    ),
    "a classifier": (
        config(architectures=["LlamaForSequenceClassification"]),
        r"\(LlamaForSequenceClassification\), which is not a causal language model; give",
    ),
    "an encoder-decoder": (
        config(architectures=["BartForConditionalGeneration"], model_type="bart", is_encoder_decoder=True),
        r"holds a bart model \(BartForConditionalGeneration\), an encoder-decoder; give a decoder-only",
    ),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_faulty_model_folder_is_refused_in_words(folder: Path, fault: str) -> None:
    damage, message = DAMAGE[fault]
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        open_model(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value), "one line"


def test_the_whole_folder_is_read(folder: Path) -> None:
    assert open_model(folder).vocab_size == 8192


def test_a_folder_is_checked_without_resolve_model_too(folder: Path, tmp_path: Path) -> None:
    """The engine alone, as a library, refuses the same faults."""
    with pytest.raises(ValueError, match=r"is a file; give the folder that holds it"):
        ScoringEngine.from_folder(folder / "config.json", bos_id=0)
    with pytest.raises(ValueError, match=r"nowhere does not exist; give a model folder"):
        ScoringEngine.from_folder(tmp_path / "nowhere", bos_id=0)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds an adapter"):
        ScoringEngine.from_folder(folder, bos_id=0)


def test_tensors_that_predict_further_tokens_and_tied_heads_are_no_fault(folder: Path) -> None:
    """Such layers follow the last one and have parts of their own; a tied head is not stored."""

    def further_tokens(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("model.layers.2.")]:
            tensors[name.replace("layers.2", "layers.3")] = tensors[name].clone()
        tensors["model.layers.3.eh_proj.weight"] = torch.zeros(32, 64)

    weights(further_tokens)(folder)
    assert open_model(folder).vocab_size == 8192
    config(tie_word_embeddings=True)(folder)
    weights(lambda tensors: tensors.pop("lm_head.weight"))(folder)
    assert open_model(folder).vocab_size == 8192


def test_two_loads_of_one_folder_score_alike(folder: Path) -> None:
    """Nothing is filled in at random."""
    ids = [[5, 6, 7, 8]]
    one, other = (open_model(folder).score(ids)[0] for _ in range(2))  # type: ignore[arg-type]
    assert one.entropy_nats.tolist() == other.entropy_nats.tolist()


def test_a_folder_that_is_no_encoder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"holds a causal language model \(LlamaForCausalLM\), which was not trained"):
        open_encoder(f"sentence-transformers:{folder}")
    with pytest.raises(ValueError, match=r"is a file; give the folder"):
        open_encoder(f"sentence-transformers:{__file__}")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no file named model.safetensors found\nin directory")

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=refuse))
    emptied(folder)
    with pytest.raises(ValueError, match=r"cannot open .* \(OSError: no file named .* in directory\); fetch the model"):
        open_encoder(f"sentence-transformers:{folder}")


def test_a_tiny_config_is_the_types_own() -> None:
    assert type(tiny_config("llama")) is transformers.LlamaConfig
