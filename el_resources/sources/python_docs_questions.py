"""The embedded instruction pool: questions about Python's documentation, with the known places of their answers.

A question asks what the documentation says about one function; the response is the function's docstring, word for word
as in its module's text in `python-docs:`. Each question is asked three times, over contexts of equal length (but for a
few tokens) that are made of excerpts of several modules' documentation:
- near: the needed passage (signature and docstring), the instruction and the response together are within the last
  `short_window` tokens of the sample;
- far: the passage ends `short_window` tokens or more before the response starts, at distances spread evenly over the
  context;
- absent: the context contains nothing about the function's package.
So neither the question nor the length of its context shows the kind.

Algorithm: a text is the function's module between excerpts of others, in seeded order. A context is a window of that
text, and the position of the window decides the distance of the passage. Windows start and end between two words.
Guarantees: `samples_per_kind` samples of each kind over two shards, with the three samples of a question in one shard;
deterministic for the same library, tokenizer and parameters; neither a question's signature nor any five words in a row
of its response occur anywhere else in the library's documentation; context, instruction, response and the tokens that
join them fit `long_window`.
Costs: a few seconds for the library, once, and about 20 ms a sample at a window of 4,096.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from itertools import islice

from el_resources.models.tokenization import ModelTokenizer
from el_resources.sources.contracts import SourceSample, unknown_shard
from el_resources.sources.python_docs import (
    LICENSE,
    SHORTEST_DOCUMENT_CHARS,
    PythonDocs,
    function_passages,
    module_text,
)
from el_resources.sources.text_windows import BLANK_LINE, Excerpt, TextWindows
from el_resources.store.shingles import shingles

# Part of every fingerprint; it rises when the same sources give other samples.
READER_VERSION = 1
SEED = 0
N_SHARDS = 2
KINDS = ("near", "far", "absent")

RESPONSE_TOKENS = range(24, 121)
LONGEST_PASSAGE_TOKENS = 240
# Room for BOS, for the tokens that join the parts, and for differences between joined texts and their parts.
SPARE_TOKENS = 16
# Shortest and longest context, in sixteenths of the long window; lengths are spread evenly between them.
CONTEXT_SIXTEENTHS = (10, 13)
# The longest excerpt is this part of the long window, so that a context has several modules; one shorter than the
# second number is little more than a heading.
EXCERPTS_A_WINDOW = 8
SHORTEST_EXCERPT_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Question:
    """A function and its passage, which is at `start` in its module's text."""

    module: str
    function: str
    passage: str
    text: str
    start: int

    @property
    def name(self) -> str:
        return f"{self.module}.{self.function}"

    @property
    def package(self) -> str:
        return top_package(self.module)

    @property
    def before(self) -> str:
        return self.text[: self.start]

    @property
    def after(self) -> str:
        return self.text[self.start + len(self.passage) :]

    @property
    def instruction(self) -> str:
        """The question. It ends with the signature, which also precedes the docstring in the passage."""
        return f"What does the documentation say about `{self.name}`?\n{self.signature.strip()}"

    @property
    def response(self) -> str:
        return self.passage.removeprefix(self.signature).strip()

    @property
    def signature(self) -> str:
        return self.passage.partition(BLANK_LINE)[0]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Tokens of a question's parts."""

    passage: int
    instruction: int
    response: int


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Material of which samples are made.

    Attributes:
        questions: questions with the sizes of their parts.
        excerpts: beginning of every module's documentation.
        shares: for the context's length (`context`) and for the passage's distance in each kind, a number in [0, 1)
            for every question, evenly spread: the sample's place in the range of possible values.
    """

    questions: list[tuple[Question, Sizes]]
    excerpts: list[Excerpt]
    shares: dict[str, list[float]]


@dataclass(kw_only=True)
class PythonDocsQuestions:
    """`python-docs-questions:`, made of the documentation in `corpus`."""

    tokenizer: Callable[[], ModelTokenizer]
    samples_per_kind: int
    short_window: int
    long_window: int
    uri: str = "python-docs-questions:"
    corpus: PythonDocs = field(default_factory=PythonDocs)

    def shards(self) -> list[str]:
        return [f"python-docs-questions-{number}" for number in range(N_SHARDS)]

    def passed_over(self) -> dict[str, str]:
        return {}

    def shard_fingerprint(self, shard: str) -> str:
        """Return a hash of the library and the parameters.

        Callers add a hash of the tokenizer, which is not loaded here.
        """
        made_as = (READER_VERSION, self._number(shard), self.samples_per_kind, self.short_window, self.long_window)
        library = [self.corpus.shard_fingerprint(part) for part in self.corpus.shards()]
        return blake2b(repr((made_as, library)).encode(), digest_size=16).hexdigest()

    def origin(self, shard: str) -> dict[str, str]:
        return {"source": self.uri}

    def samples(self, shard: str) -> Iterator[SourceSample]:
        return self._samples(self._number(shard))

    def _number(self, shard: str) -> int:
        if shard not in self.shards():
            raise unknown_shard(shard, self.uri, self.shards())
        return self.shards().index(shard)

    def _samples(self, number: int) -> Iterator[SourceSample]:
        for index in range(number, self.samples_per_kind, N_SHARDS):
            for kind in KINDS:
                yield self._sample(index, kind)

    def _sample(self, index: int, kind: str) -> SourceSample:
        question, sizes = self._pool.questions[index]
        n_context, n_after = self._place(index, kind)
        others = [excerpt for excerpt in self._pool.excerpts if top_package(excerpt.source) != question.package]
        random.Random(f"{SEED} {question.name}").shuffle(others)
        before, after = others[::-1], others
        if kind != "absent":
            before = [self._windows.end_of(question.module, question.before, self._excerpt_tokens), *before]
            after = [self._windows.start_of(question.module, question.after, self._excerpt_tokens), *after]
        passage = question.passage if kind != "absent" else ""
        context, n_after = self._windows.around(passage, before, after, n_tokens=n_context, n_after=n_after)
        distance = n_after + sizes.instruction if kind != "absent" else None
        assert (kind == "far") == (distance is not None and distance >= self.short_window)
        return SourceSample(
            source_id=f"{kind}-{index:03d}-{question.name}",
            context=context,
            instruction=question.instruction,
            response=question.response,
            license=LICENSE,
            evidence=kind,
            evidence_distance_tokens=distance,
        )

    def _place(self, index: int, kind: str) -> tuple[int, int]:
        """Return the tokens of a sample's context, and of its part after the passage or the absent passage's place."""
        _, sizes = self._pool.questions[index]
        shortest, longest = self._context_tokens
        n_context = shortest + int((longest - shortest) * self._pool.shares["context"][index])
        first, last = 0, self._near_room(sizes)
        if kind == "far":
            first, last = self.short_window + SPARE_TOKENS, n_context - sizes.passage - SPARE_TOKENS
        return n_context, first + int((last - first) * self._pool.shares[kind][index])

    def _near_room(self, sizes: Sizes) -> int:
        """Return the tokens of context that fit the short window with passage, instruction and response."""
        return self.short_window - sizes.passage - sizes.instruction - sizes.response - SPARE_TOKENS

    @property
    def _context_tokens(self) -> tuple[int, int]:
        shortest, longest = CONTEXT_SIXTEENTHS
        return self.long_window * shortest // 16, self.long_window * longest // 16

    @property
    def _excerpt_tokens(self) -> int:
        return self.long_window // EXCERPTS_A_WINDOW

    @cached_property
    def _windows(self) -> TextWindows:
        return TextWindows(self.tokenizer())

    @cached_property
    def _pool(self) -> Pool:
        shortest, _ = self._context_tokens
        if shortest < self.short_window + LONGEST_PASSAGE_TOKENS + 3 * SPARE_TOKENS:
            raise ValueError(
                f"a long window of {self.long_window} tokens leaves no room beyond a short one of {self.short_window};"
                " give models whose windows differ more, or instructions of your own (jsonl:PATH, parquet:PATH)"
            )
        texts, questions = library(self.corpus)
        usable = self._usable(questions)
        chosen = list(islice(distinctive(usable, texts), self.samples_per_kind))
        if len(chosen) < self.samples_per_kind:
            raise ValueError(
                f"samples_per_kind={self.samples_per_kind}: the library's documentation has only {len(chosen)}"
                " questions for these windows; ask for fewer"
            )
        excerpts = [self._windows.start_of(module, text, self._excerpt_tokens) for module, text in texts.items()]
        return Pool(
            questions=chosen,
            excerpts=[excerpt for excerpt in excerpts if excerpt.n_tokens >= SHORTEST_EXCERPT_TOKENS],
            shares={name: evenly_spread(len(chosen), name) for name in ("context", *KINDS)},
        )

    def _usable(self, questions: list[Question]) -> list[tuple[Question, Sizes]]:
        """Return the questions whose parts fit both windows, in seeded turns: one of each package, then a second, …"""
        n_response = self._windows.counts([question.response for question in questions])
        kept = [question for question, n in zip(questions, n_response, strict=True) if n in RESPONSE_TOKENS]
        usable = [(question, sizes) for question in kept if self._fits(sizes := self._sizes(question))]
        random.Random(SEED).shuffle(usable)
        n_asked: Counter[str] = Counter()
        turns = []
        for question, _ in usable:
            turns.append(n_asked[question.package])
            n_asked[question.package] += 1
        return [usable[number] for number in sorted(range(len(usable)), key=turns.__getitem__)]

    def _sizes(self, question: Question) -> Sizes:
        passage, instruction, response = self._windows.counts(
            [question.passage, question.instruction, question.response]
        )
        return Sizes(passage=passage, instruction=instruction, response=response)

    def _fits(self, sizes: Sizes) -> bool:
        beside_context = sizes.instruction + sizes.response + SPARE_TOKENS
        return (
            sizes.passage <= LONGEST_PASSAGE_TOKENS
            and self._near_room(sizes) >= 0
            and self._context_tokens[1] + beside_context <= self.long_window
        )


def library(corpus: PythonDocs) -> tuple[dict[str, str], list[Question]]:
    """Return every module's text by name, and the questions that can be asked about public functions."""
    texts: dict[str, str] = {}
    questions: list[Question] = []
    for shard in corpus.shards():
        for module, tree in corpus.syntax_trees(shard):
            text = module_text(module, tree).strip()
            if len(text) >= SHORTEST_DOCUMENT_CHARS:
                texts[module] = text
                questions += module_questions(module, text, list(function_passages(tree.body)))
    return texts, questions


def module_questions(module: str, text: str, passages: list[tuple[str, str, str]]) -> Iterator[Question]:
    """Yield a question for every public function whose name and passage occur in the module's text once."""
    names = Counter(function for function, _, _ in passages)
    for function, signature, docstring in passages:
        passage = f"{signature}{BLANK_LINE}{docstring}".rstrip()
        public = not any(part.startswith("_") for part in f"{module}.{function}".split("."))
        if public and names[function] == 1 and text.count(passage) == 1:
            start = text.index(passage)
            yield Question(module=module, function=function, passage=passage, text=text, start=start)


def distinctive(questions: list[tuple[Question, Sizes]], texts: dict[str, str]) -> Iterator[tuple[Question, Sizes]]:
    """Yield in order the questions that have a unique signature and, in their response, unique runs of five words."""
    n_lines = Counter(line.strip() for text in texts.values() for line in text.splitlines())
    n_modules = Counter(shingle for text in texts.values() for shingle in shingles(text))
    for question, sizes in questions:
        own = shingles(question.response)
        if n_lines[question.signature.strip()] == 1 and all(n_modules[shingle] == 1 for shingle in own):
            elsewhere = shingles(question.before) | shingles(question.after)
            if not own & elsewhere:
                yield question, sizes


def top_package(module: str) -> str:
    """Return the top package of a module: `xml` of `xml.dom.minidom`."""
    return module.partition(".")[0]


def evenly_spread(n: int, name: str) -> list[float]:
    """Return a number in each of n equal parts of [0, 1), in seeded order."""
    rng = random.Random(f"{SEED} {name}")
    shares = [(part + rng.random()) / n for part in range(n)]
    rng.shuffle(shares)
    return shares
