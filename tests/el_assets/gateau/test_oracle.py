"""Stored scores and order against a naive implementation: plain transformers with eager attention, all weights and all
logits, one sample at a time, fp32; means, cosines and ranks by loops.

Nothing of el_assets.gateau is called here but through the jobs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

from el_resources.models.model_files import resolve_model
from tests.conftest import Workspace, chat, library_documents, tiny_model

SHARD = "pool.jsonl"
WINDOW, SHORT_WINDOW, SEGMENT = 192, 80, 24
ALPHA = 0.57  # makes no two different pairs of ranks equal
# One segment only, a short last segment, no context, contexts beyond the window; the rest for the ranking.
CONTEXT_TOKENS = [20, 100, 0, 400, 96, 77, 130, 250, 24, 61, 110]
NLL_TOLERANCE_NATS, ATTENTION_TOLERANCE, CAS_TOLERANCE = 1e-4, 1e-5, 1e-4


def random_config(seed: int, window: int = WINDOW) -> Any:
    """A small Llama or Qwen2 with grouped query heads; wide weights, so that attention is far from even."""
    generator = np.random.default_rng(seed)
    key_heads, sharing, width = (int(generator.choice(choices)) for choices in ([1, 2, 3], [2, 3], [8, 12]))
    return [LlamaConfig, Qwen2Config][seed % 2](
        vocab_size=8192,
        hidden_size=key_heads * sharing * width,
        intermediate_size=48,
        num_hidden_layers=int(generator.integers(2, 4)),
        num_attention_heads=key_heads * sharing,
        num_key_value_heads=key_heads,
        max_position_embeddings=window,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )


def reference_tokenizer() -> Any:
    """From the reference folder: next to a Qwen2 config transformers would read the same files as another class."""
    return AutoTokenizer.from_pretrained(resolve_model("reference:long"))


def samples() -> list[dict[str, Any]]:
    """Chat samples whose contexts have CONTEXT_TOKENS tokens of library documents."""
    tokenizer = reference_tokenizer()
    texts = [document["text"] for document in library_documents(20)]
    found = []
    for number, n_tokens in enumerate(CONTEXT_TOKENS):
        ids = tokenizer("\n".join(texts[number : number + 5]), add_special_tokens=False)["input_ids"]
        response = texts[number + 6].strip()[: 20 + 11 * number]
        found.append(chat(f"s{number:02}", tokenizer.decode(ids[:n_tokens]), f"Part {number}, please?", response))
    return found


Exchange = tuple[list[int], list[int]]  # token ids of an instruction and its response


@dataclass
class Naive:
    """The method, written down once more.

    Attributes:
        short, long: models of both readings; the same one where one model reads with two windows.
        short_window: what the short reading may see.
        cut: `head` or `middle`.
        exchange: `first`, `last` or `all`.
    """

    short: Any
    long: Any
    tokenizer: Any
    short_window: int
    cut: str
    exchange: str = "first"

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def parts(self, sample: dict[str, Any]) -> tuple[list[int], list[Exchange]]:
        """Context, and the exchanges that are scored; instructions hold no blank line."""
        turns = [message["content"] for message in sample["messages"]]
        before, turns = (turns[:-2], turns[-2:]) if self.exchange == "last" else ([], turns)
        *context, instruction = turns[0].rsplit("\n\n", maxsplit=1)
        exchanges = [(instruction, turns[1]), *zip(turns[2::2], turns[3::2], strict=True)]
        taken = exchanges if self.exchange == "all" else exchanges[:1]
        return self.ids("\n\n".join([*before, *context])), [(self.ids(asked), self.ids(said)) for asked, said in taken]

    def shortened(self, context: list[int], exchanges: list[Exchange], window: int) -> list[int]:
        joint = len(self.ids("\n\n"))
        room = window - 1 - (joint if context else 0)
        room -= sum(len(asked) + len(said) for asked, said in exchanges) + joint * (2 * len(exchanges) - 1)
        while len(context) > max(room, 0):
            where = 0 if self.cut == "head" else (room + 1) // 2
            context = context[:where] + context[where + 1 :]
        return context

    def sequence(self, context: list[int], exchanges: list[Exchange]) -> tuple[list[int], list[int]]:
        """The inputs, and the rows that predict the responses: row t predicts input t + 1."""
        joint = self.ids("\n\n")
        inputs, rows = [0, *context], []
        for asked, said in exchanges:
            inputs += [*(joint if len(inputs) > 1 else []), *asked, *joint]
            rows += range(len(inputs) - 1, len(inputs) - 1 + len(said))
            inputs += said
        return inputs, rows

    @torch.inference_mode()
    def read(self, model: Any, context: list[int], exchanges: list[Exchange]) -> tuple[float, np.ndarray]:
        """Mean response NLL, and the attention of the rows that predict the responses on every input."""
        sequence, rows = self.sequence(context, exchanges)
        output = model(torch.tensor([sequence]), output_attentions=True)
        log_p = torch.log_softmax(output.logits[0].double(), dim=-1)
        nll = -sum(float(log_p[row, sequence[row + 1]]) for row in rows) / len(rows)
        heads = torch.cat([layer[0] for layer in output.attentions]).double()
        return nll, heads[:, rows].mean(dim=(0, 1)).numpy()

    def score(self, sample: dict[str, Any]) -> dict[str, Any]:
        whole, exchanges = self.parts(sample)
        context = self.shortened(whole, exchanges, WINDOW)
        short_context = self.shortened(whole, exchanges, self.short_window)
        long_nll, attention = self.read(self.long, context, exchanges)
        short_nll, _ = self.read(self.short, short_context, exchanges)
        starts = range(0, len(context), SEGMENT)
        segments = [context[start : start + SEGMENT] for start in starts]
        # Input 0 is BOS, so token t of the context is input t + 1.
        mass = [attention[1 + start : 1 + start + len(one)].sum() for start, one in zip(starts, segments, strict=True)]
        alone = [self.read(self.long, one, exchanges)[0] for one in segments]
        per_token = [on_segment / len(one) for on_segment, one in zip(mass, segments, strict=True)]
        return {
            "nll_short_nats": short_nll,
            "nll_long_nats": long_nll,
            "n_dropped": len(whole) - len(context),
            "lengths": [len(one) for one in segments],
            "segment_attention": mass,
            "segment_nll_nats": alone,
            "hmp": short_nll - long_nll,
            "cas": cosine(stretched([math.exp(nll) for nll in alone]), stretched(per_token)),
        }


def stretched(values: list[float]) -> list[float]:
    """To [0, 1]."""
    low, high = (min(values), max(values)) if values else (0, 0)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def cosine(left: list[float], right: list[float]) -> float:
    length = math.sqrt(sum(x * x for x in left) * sum(y * y for y in right))
    return sum(x * y for x, y in zip(left, right, strict=True)) / length if length else 0.0


def ranks(values: list[float]) -> list[float]:
    """Mean rank from 0 to 1, by counting."""
    return [
        (sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2) / (len(values) - 1)
        for value in values
    ]


def order(ids: list[str], scores: list[float]) -> list[str]:
    return [
        sample_id for _, sample_id in sorted((-score, sample_id) for sample_id, score in zip(ids, scores, strict=True))
    ]


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def check_against_naive(workspace: Workspace, naive: Naive, pool: list[dict[str, Any]]) -> None:
    """Run the jobs, then compare every stored number and the order."""
    workspace.write_instructions(SHARD, pool)
    workspace.register_instructions()
    assert workspace.run("score_samples").success
    assert workspace.run("select_samples").success
    tables = workspace.tables
    stored, hmg, cam = (tables.read(name, SHARD) for name in ("instruction_samples", "hmg_scores", "cam_scores"))
    assert naive.exchange == "last" or stored["n_context_tokens"].to_list() == CONTEXT_TOKENS
    assert stored["set_aside_reason"].null_count() == len(pool)
    influence = tables.read("influence_scores")
    cas = dict(influence.select("sample_id", "cas").iter_rows())

    expected = [naive.score(sample) for sample in pool]
    for sample, row, guidance, awareness in zip(
        pool, expected, hmg.iter_rows(named=True), cam.iter_rows(named=True), strict=True
    ):
        assert guidance["sample_id"] == awareness["sample_id"] == sample["id"]
        for name in ("nll_short_nats", "nll_long_nats"):
            assert guidance[name] == pytest.approx(row[name], abs=NLL_TOLERANCE_NATS)
        assert awareness["nll_nats"] == pytest.approx(row["nll_long_nats"], abs=NLL_TOLERANCE_NATS)
        assert guidance["n_dropped_context_tokens"] == awareness["n_dropped_context_tokens"] == row["n_dropped"]
        assert awareness["segment_tokens"] == row["lengths"]
        assert awareness["segment_attention"] == pytest.approx(row["segment_attention"], abs=ATTENTION_TOLERANCE)
        assert awareness["segment_nll_nats"] == pytest.approx(row["segment_nll_nats"], abs=NLL_TOLERANCE_NATS)
        assert cas[sample["id"]] == pytest.approx(row["cas"], abs=CAS_TOLERANCE)
    check_order(influence["sample_id"].to_list(), pool, expected)
    lengths = [row["lengths"] for row in expected]
    if naive.exchange != "last":
        assert [20] in lengths, "one segment"
        assert [] in lengths, "no context"
    if naive.exchange == "first":
        assert [24, 24, 24, 24, 4] in lengths, "a short last segment"
    assert sum(row["n_dropped"] > 0 for row in expected) >= 2


def check_order(stored: list[str], pool: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The stored order is the naive one, and neither term alone gives it."""
    ids = [sample["id"] for sample in pool]
    hmp, cas = (ranks([row[name] for row in expected]) for name in ("hmp", "cas"))
    assert stored == order(ids, [ALPHA * h + (1 - ALPHA) * c for h, c in zip(hmp, cas, strict=True)])
    assert stored != order(ids, hmp)
    assert stored != order(ids, cas)


@pytest.mark.parametrize(("seed", "cut"), [(0, "head"), (1, "middle"), (2, "middle"), (3, "head")])
def test_one_model_with_two_windows(
    new_workspace: Callable[..., Workspace], tmp_path: Path, seed: int, cut: str
) -> None:
    folder = tiny_model(tmp_path / "long", random_config(seed), seed=seed)
    model = load(folder)
    workspace = new_workspace(
        long_model=str(folder),
        short_window=SHORT_WINDOW,
        segment_tokens=SEGMENT,
        context_cut=cut,
        influence_alpha=ALPHA,
    )
    naive = Naive(model, model, reference_tokenizer(), SHORT_WINDOW, cut)
    check_against_naive(workspace, naive, samples())


def test_a_pair_reads_the_same_prompt_beyond_the_short_window(
    new_workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    short = tiny_model(tmp_path / "short", random_config(4, window=SHORT_WINDOW), seed=5)
    long = tiny_model(tmp_path / "long", random_config(4), seed=4)
    workspace = new_workspace(
        hmg_form="pair",
        short_model=str(short),
        long_model=str(long),
        segment_tokens=SEGMENT,
        influence_alpha=ALPHA,
    )
    naive = Naive(load(short), load(long), reference_tokenizer(), WINDOW, "head")
    check_against_naive(workspace, naive, samples())


def conversations() -> list[dict[str, Any]]:
    """The samples with one or two more exchanges, but for the first."""
    words = library_documents(1, offset=22)[0]["text"].split()
    found = samples()
    for number, sample in enumerate(found[1:]):
        for n in range(number, number + 1 + number % 2):
            asked, said = " ".join(words[n : n + 4]), " ".join(words[n + 4 : n + 9])
            sample["messages"] += [{"role": "user", "content": f"{asked}?"}, {"role": "assistant", "content": said}]
    return found


@pytest.mark.parametrize("exchange", ["first", "last", "all"])
def test_the_exchange_that_is_asked_for_is_scored(
    new_workspace: Callable[..., Workspace], tmp_path: Path, exchange: str
) -> None:
    folder = tiny_model(tmp_path / "long", random_config(2), seed=2)
    model = load(folder)
    workspace = new_workspace(
        long_model=str(folder),
        short_window=SHORT_WINDOW,
        segment_tokens=SEGMENT,
        influence_alpha=ALPHA,
        scored_exchange=exchange,
    )
    naive = Naive(model, model, reference_tokenizer(), SHORT_WINDOW, "head", exchange)
    check_against_naive(workspace, naive, conversations())
