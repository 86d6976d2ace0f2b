import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from el_resources.models.model_files import resolve_model
from el_resources.models.tokenization import ModelTokenizer
from el_resources.sources.contracts import InstructionSource, SourceSample
from el_resources.sources.opening import open_instructions
from el_resources.sources.python_docs import PythonDocs
from el_resources.sources.python_docs_questions import KINDS, PythonDocsQuestions
from el_resources.store.shingles import shingles

SHORT_WINDOW, LONG_WINDOW = 512, 4096
N_PER_KIND = 9


@cache
def tokenizer() -> ModelTokenizer:
    return ModelTokenizer.from_folder(resolve_model("reference:long"))


def n_tokens(text: str) -> int:
    return len(tokenizer().encode(text))


def all_samples(source: InstructionSource) -> list[SourceSample]:
    return [sample for shard in source.shards() for sample in source.samples(shard)]


def by_question(samples: list[SourceSample]) -> dict[str, dict[str, SourceSample]]:
    """Samples by what they ask, `000-module.function`, and by kind."""
    asked: dict[str, dict[str, SourceSample]] = {}
    for sample in samples:
        assert sample.source_id and sample.evidence
        asked.setdefault(sample.source_id.removeprefix(f"{sample.evidence}-"), {})[sample.evidence] = sample
    return asked


def prompt(sample: SourceSample) -> list[int]:
    """Token ids as a model reads them: BOS, and the parts joined by blank lines."""
    parts = [tokenizer().encode(text) for text in (sample.context, sample.instruction, sample.response)]
    joint = tokenizer().encode("\n\n")
    return [tokenizer().bos_id, *np.concatenate([parts[0], joint, parts[1], joint, parts[2]]).tolist()]


@pytest.fixture(scope="module")
def pool() -> InstructionSource:
    return open_instructions(
        "python-docs-questions:",
        tokenizer=tokenizer,
        samples_per_kind=N_PER_KIND,
        windows=lambda: (SHORT_WINDOW, LONG_WINDOW),
    )


@pytest.fixture(scope="module")
def questions(pool: InstructionSource) -> dict[str, dict[str, SourceSample]]:
    return by_question(all_samples(pool))


class TestStandardLibrary:
    def test_every_question_is_asked_in_every_kind_within_one_shard(self, pool: InstructionSource) -> None:
        shards = [by_question(list(pool.samples(shard))) for shard in pool.shards()]
        assert pool.shards() == ["python-docs-questions-0", "python-docs-questions-1"]
        assert [len(shard) for shard in shards] == [5, 4]
        for shard in shards:
            assert all(tuple(kinds) == KINDS for kinds in shard.values())
        numbers = sorted(question.partition("-")[0] for shard in shards for question in shard)
        assert numbers == [f"{number:03d}" for number in range(N_PER_KIND)]

    def test_kinds_differ_in_nothing_but_their_context(self, questions: dict[str, dict[str, SourceSample]]) -> None:
        for question, kinds in questions.items():
            assert len({(sample.instruction, sample.response) for sample in kinds.values()}) == 1
            assert f"`{question.partition('-')[2]}`" in kinds["near"].instruction
            lengths = [n_tokens(sample.context) for sample in kinds.values()]
            assert max(lengths) - min(lengths) <= 12
            assert all(0.6 * LONG_WINDOW <= length <= 0.83 * LONG_WINDOW for length in lengths)

    def test_responses_stand_in_near_and_far_contexts_only(self, questions: dict[str, dict[str, SourceSample]]) -> None:
        for question, kinds in questions.items():
            module = question.partition("-")[2].rpartition(".")[0]
            response = kinds["near"].response
            assert 24 <= n_tokens(response) <= 120
            assert [kinds[kind].context.count(response) for kind in KINDS] == [1, 1, 0]
            assert not shingles(response) & shingles(kinds["absent"].context)
            package = module.partition(".")[0]
            assert f"\n{package}\n=" not in kinds["absent"].context
            # The signature, which ends the question, stands before the docstring too.
            signature = kinds["near"].instruction.splitlines()[-1]
            assert kinds["near"].context.partition(response)[0].rstrip().endswith(signature)

    def test_distances_follow_from_the_parts_token_ids(self, questions: dict[str, dict[str, SourceSample]]) -> None:
        for kinds in questions.values():
            assert kinds["absent"].evidence_distance_tokens is None
            for kind in ("near", "far"):
                sample = kinds[kind]
                end = sample.context.index(sample.response) + len(sample.response)
                behind = n_tokens(sample.context) - n_tokens(sample.context[:end])
                distance = sample.evidence_distance_tokens
                assert distance is not None
                # A token may span the cut.
                assert abs(distance - behind - n_tokens(sample.instruction)) <= 1
                assert distance >= SHORT_WINDOW if kind == "far" else distance < SHORT_WINDOW

    def test_the_short_window_holds_the_near_passage_and_nothing_of_the_far_one(
        self, questions: dict[str, dict[str, SourceSample]]
    ) -> None:
        for kinds in questions.values():
            signature = kinds["near"].instruction.splitlines()[-1]
            texts = {kind: tokenizer().decode(prompt(kinds[kind])[-SHORT_WINDOW:]) for kind in KINDS}
            response = kinds["near"].response
            # Once as the response itself.
            assert [texts[kind].count(response) for kind in KINDS] == [2, 1, 1]
            lines = {kind: [line.strip() for line in text.splitlines()] for kind, text in texts.items()}
            assert [lines[kind].count(signature) for kind in KINDS] == [2, 1, 1]

    def test_distances_are_spread_evenly(self, questions: dict[str, dict[str, SourceSample]]) -> None:
        far = sorted(kinds["far"].evidence_distance_tokens or 0 for kinds in questions.values())
        assert far[0] < 900 and far[-1] > 2200
        assert max(np.diff(far)) < 900
        near = [kinds["near"].evidence_distance_tokens or 0 for kinds in questions.values()]
        assert len(set(near)) == N_PER_KIND

    def test_everything_fits_the_long_window(self, questions: dict[str, dict[str, SourceSample]]) -> None:
        longest = max(len(prompt(sample)) for kinds in questions.values() for sample in kinds.values())
        assert 0.7 * LONG_WINDOW < longest <= LONG_WINDOW


def sentence(rng: random.Random, n_words: int) -> str:
    return " ".join("".join(rng.choices("aeioulmnrst", k=5)) for _ in range(n_words))


def write_library(folder: Path, n_modules: int = 30) -> PythonDocs:
    """Modules of random words, each with a docstring of some 400 tokens and one function that can be asked about."""
    rng = random.Random(0)
    folder.mkdir(exist_ok=True)
    for number in range(n_modules):
        paragraphs = "\n\n".join(sentence(rng, 10) for _ in range(12))
        function = f'def act{number}(x):\n    """{sentence(rng, 12)}"""\n'
        (folder / f"m{number}.py").write_text(f'"""{paragraphs}"""\n{function}')
    return PythonDocs(stdlib=folder)


def small_pool(corpus: PythonDocs, **parameters: Any) -> PythonDocsQuestions:
    given = {"samples_per_kind": 4, "short_window": 192, "long_window": 1024} | parameters
    return PythonDocsQuestions(tokenizer=tokenizer, corpus=corpus, **given)


class TestAnyLibrary:
    def test_the_same_library_gives_the_same_samples(self, tmp_path: Path) -> None:
        first = small_pool(write_library(tmp_path / "a"))
        second = small_pool(write_library(tmp_path / "b"))
        assert all_samples(first) == all_samples(second) == all_samples(first)
        shards = first.shards()
        assert [first.shard_fingerprint(shard) for shard in shards] == [second.shard_fingerprint(s) for s in shards]
        assert len(set(map(first.shard_fingerprint, shards))) == 2

    @pytest.mark.parametrize("changed", [{"samples_per_kind": 5}, {"short_window": 191}, {"long_window": 1025}])
    def test_fingerprints_follow_parameters_and_sources(self, tmp_path: Path, changed: dict[str, int]) -> None:
        corpus = write_library(tmp_path / "a")
        before = small_pool(corpus).shard_fingerprint("python-docs-questions-0")
        assert small_pool(corpus, **changed).shard_fingerprint("python-docs-questions-0") != before
        (tmp_path / "a" / "m0.py").write_text('"""Rewritten."""')
        assert small_pool(corpus).shard_fingerprint("python-docs-questions-0") != before

    def test_fingerprints_need_no_tokenizer(self, tmp_path: Path) -> None:
        def no_tokenizer() -> ModelTokenizer:
            raise AssertionError("the tokenizer was loaded")

        corpus = write_library(tmp_path / "a")
        pool = PythonDocsQuestions(
            tokenizer=no_tokenizer, samples_per_kind=1, short_window=192, long_window=1024, corpus=corpus
        )
        assert pool.shard_fingerprint("python-docs-questions-1")
        with pytest.raises(AssertionError, match="was loaded"):
            next(pool.samples("python-docs-questions-0"))

    def test_what_is_private_ambiguous_or_said_twice_is_not_asked(self, tmp_path: Path) -> None:
        rng = random.Random(1)
        said_twice = sentence(rng, 12)
        functions = "".join(
            f'def {name}(x):\n    """{docstring}"""\n'
            for name, docstring in [
                ("_private", sentence(rng, 12)),
                ("twice_named", sentence(rng, 12)),
                ("twice_named", sentence(rng, 12)),
                ("quoted", said_twice),
                ("quoting", f"{sentence(rng, 3)} {said_twice[:40]} {sentence(rng, 6)}"),
                ("brief", "Brief."),
                ("act0", sentence(rng, 12)),  # with the signature of another module's function
            ]
        )
        corpus = write_library(tmp_path / "a")
        (tmp_path / "a" / "other.py").write_text(f'"""{sentence(rng, 120)}"""\n{functions}')
        asked = by_question(all_samples(small_pool(corpus, samples_per_kind=29)))
        assert sorted(question.partition("-")[2] for question in asked) == sorted(
            f"m{number}.act{number}" for number in range(1, 30)
        )

    def test_too_few_questions_are_counted(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"samples_per_kind=31: .* only 30 questions"):
            all_samples(small_pool(write_library(tmp_path / "a"), samples_per_kind=31))

    def test_windows_that_leave_no_room_between_them_are_named(self, tmp_path: Path) -> None:
        pool = small_pool(write_library(tmp_path / "a"), short_window=1024)
        with pytest.raises(ValueError, match=r"long window of 1024 tokens .* short one of 1024"):
            all_samples(pool)

    def test_a_library_that_fills_no_window_is_an_error(self, tmp_path: Path) -> None:
        pool = small_pool(write_library(tmp_path / "a", n_modules=4), samples_per_kind=1, long_window=65_536)
        with pytest.raises(ValueError, match="too short"):
            all_samples(pool)

    def test_an_unknown_shard_is_an_error_that_lists_the_known_ones(self, tmp_path: Path) -> None:
        pool = small_pool(PythonDocs(stdlib=tmp_path))
        for ask in (pool.samples, pool.shard_fingerprint):
            with pytest.raises(ValueError, match=r"no shard '\.\./x'.*python-docs-questions-0"):
                ask("../x")
