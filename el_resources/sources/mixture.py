"""Several corpora as one: `SOURCE [OPTIONS] + SOURCE [OPTIONS] + …`, in one variable or one line of the launchpad.

    hf:HuggingFaceFW/fineweb-edu/sample-10BT [weight=0.6 tokens=2e9] +
    hf:HuggingFaceTB/cosmopedia/stanford [name=stanford weight=0.4 documents=100_000 roots=no]

Plus signs and brackets have a space before them, and options are separated by spaces. A source whose path contains such
signs is written in double quotes, with its scheme: `"parquet:/data/a + b [x]" [weight=0.5] + jsonl:/c`. A single source
without options needs no quotes if its path, or a parent folder that contains all the signs, exists on this disk.

| option | meaning |
|---|---|
| name=NAME | first part of the names of the source's shards; default: the last word of its place |
| weight=SHARE | share of the source's documents that is taken, above 0 and up to 1 (default 1) |
| documents=N, tokens=N | at most N documents, or tokens of the scorer, in all shards of the source together |
| roots=no | its documents serve as contexts only; no root is sampled from them |
| text_column=NAME | its text column, if it differs from EL_TEXT_COLUMN |

Guarantees:
- A hash of a document's id (of its text if it has none) decides if its source's weight takes it, independently of
  other documents, shards and sources. A larger weight keeps every document that a smaller one keeps.
- A budget is divided evenly among the source's shards; the first of them get the remainder. Each shard takes its
  sampled documents in stored order up to its part of the budget and reads no further. Shards are independent, so if
  one shard does not use up its part, no other gets the rest: a budget is an upper limit.
- A shard's fingerprint contains its weight and its part of the budget, and nothing of other sources. With a budget, a
  new shard makes the parts smaller, so the source's other shards become stale; without one it does not.
- The shards of a single source without a name keep their plain names; others are NAME/SHARD. If other sources may be
  added later, name a source from the start: otherwise its shards are renamed then.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Protocol

from el_resources.addresses import secrets_kept, without_secrets
from el_resources.sources.contracts import CorpusSource, SourceDocument, unknown_shard
from el_resources.sources.file_listing import existing_part

PLUS = re.compile(r"\s+\+(?:\s+|$)")
OPTIONS = re.compile(r"(?P<uri>.*\S)\s+\[(?P<options>[^\[\]]*)\]", re.DOTALL)
# A source in quotes, with its options.
QUOTED = re.compile(r'"(?P<uri>[^"]*)"(?:\s+\[(?P<options>[^\[\]]*)\])?\s*')
PLACES = ("parquet", "jsonl", "hf")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
OPTION_NAMES = ("name", "weight", "documents", "tokens", "roots", "text_column")
MAX_HASH = 2**64


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """One source of a mixture; the module's docstring explains the options. A budget of 0 sets none."""

    uri: str
    name: str = ""
    weight: float = 1.0
    documents: int = 0
    tokens: int = 0
    roots: bool = True
    text_column: str = ""


class TokenCounter(Protocol):
    """Counter of tokens, for budgets of tokens."""

    def tokenizer_fingerprint(self) -> str: ...

    def count_tokens(self, text: str) -> int: ...


@secrets_kept()
def parse_mixture(text: str) -> list[SourceSpec]:
    """Return the sources that a corpus setting lists; if there are several, each has a name of its own.

    Raises:
        ValueError: a part cannot be read; the error names it, the option and the allowed values.
    """
    if _is_existing_place(text.strip()):
        return [SourceSpec(uri=text.strip())]
    specs = [_parse_source(part) for part in _split(text.strip())]
    if len(specs) > 1:
        specs = [replace(spec, name=spec.name or default_name(without_secrets(spec.uri))) for spec in specs]
    for spec in specs:
        if sum(other.name == spec.name for other in specs) > 1:
            raise ValueError(f"two sources of corpus {text!r} are named {spec.name!r}; tell them apart by [name=…]")
    return specs


def is_mixture(text: str) -> bool:
    """Return true for several sources, and for one source with options or in quotes."""
    return _has_syntax(text.strip()) and not _is_existing_place(text.strip())


def _has_syntax(text: str) -> bool:
    return text.startswith('"') or bool(PLUS.search(text) or OPTIONS.fullmatch(text))


def _is_existing_place(text: str) -> bool:
    """Return true if all plus signs and brackets of a setting are in the part of its path that exists on this disk."""
    scheme, _, place = text.partition(":")
    if scheme not in PLACES or not _has_syntax(text):
        return False
    path = os.path.expanduser(place.removeprefix("file://"))  # noqa: PTH111  # a Path would drop a last slash
    existing = existing_part(path)
    return bool(existing) and not _has_syntax(f"x{path.removeprefix(existing)}")


def _split(text: str) -> list[str]:
    """Split a setting at its plus signs into sources; plus signs within quotes do not count."""
    parts, rest = [], text
    while (quoted := rest.startswith('"')) or PLUS.search(rest):
        # Skip the quotes.
        start = 0
        if quoted:
            match = QUOTED.match(rest)
            start = match.end("uri") + 1 if match else len(rest)
        # Cut one source.
        plus = PLUS.search(rest, start)
        parts.append((rest[: plus.start()] if plus else rest).strip())
        if plus is None:
            return parts
        rest = rest[plus.end() :]
    return [*parts, rest.strip()]


def offers_roots(corpus: str, shard: str) -> bool:
    """Return True if roots may be sampled from a shard of the corpus."""
    specs = parse_mixture(corpus) if is_mixture(corpus) else []
    if len(specs) == 1 and not specs[0].name:
        return specs[0].roots
    name = shard.partition("/")[0]
    return all(spec.roots for spec in specs if spec.name == name)


def default_name(uri: str) -> str:
    """Return the last word of a source's place: `sample-10BT` of `hf:HuggingFaceFW/fineweb-edu/sample-10BT`."""
    place = re.split("[@#]", uri)[0] if uri.startswith("hf:") else uri
    words = [word for word in re.split(r"[/:]", place) if NAME.fullmatch(word)]
    return words[-1] if words else ""


def _parse_source(part: str) -> SourceSpec:
    match = (QUOTED if part.startswith('"') else OPTIONS).fullmatch(part)
    if part.startswith('"') and not match:
        raise ValueError(
            f"corpus source {part} begins with a double quote; put the closing one after the path, then options, as "
            'in "parquet:/data/a + b" [weight=0.5]'
        )
    uri, written = (match["uri"], (match["options"] or "").split()) if match else (part, [])
    options: dict[str, str] = {}
    for option in written:
        name, equals, value = option.partition("=")
        if name not in OPTION_NAMES or not equals or not value or name in options:
            raise ValueError(
                f"corpus source {part!r}: option {option!r} is not one of "
                f"{', '.join(f'{known}=…' for known in OPTION_NAMES)}, each at most once"
            )
        options[name] = value
    if not uri:
        raise ValueError("a corpus source is empty; write SOURCE [OPTIONS] + SOURCE [OPTIONS]")
    return _checked(part, uri, options)


def _checked(part: str, uri: str, options: dict[str, str]) -> SourceSpec:
    name, roots = options.get("name", ""), options.get("roots", "yes")
    if name and not NAME.fullmatch(name):
        raise ValueError(f"corpus source {part!r}: name={name} may contain only letters, digits, single dots, - and _")
    if roots not in ("yes", "no"):
        raise ValueError(f"corpus source {part!r}: roots={roots} is neither yes nor no")
    weight = _number(part, "weight", options.get("weight", "1"))
    if not 0 < weight <= 1:
        raise ValueError(
            f"corpus source {part!r}: weight={options['weight']} is not a share of its documents; "
            "write 1 for the source that you want all of, and less for the others"
        )
    budgets = {}
    for budget in ("documents", "tokens"):
        amount = _number(part, budget, options[budget]) if budget in options else 0
        if budget in options and (amount < 1 or amount != int(amount)):
            raise ValueError(f"corpus source {part!r}: {budget}={options[budget]} is not a whole number above 0")
        budgets[budget] = int(amount)
    return SourceSpec(
        uri=uri, name=name, weight=weight, roots=roots == "yes", text_column=options.get("text_column", ""), **budgets
    )


def _number(part: str, name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise ValueError(f"corpus source {part!r}: {name}={text} is not a number")
    return number


@dataclass(kw_only=True)
class MixedCorpus:
    """The shards of several sources, or of one with options.

    Attributes:
        counter: counter of tokens; needed if a source has a budget of tokens.
    """

    uri: str
    sources: Sequence[tuple[SourceSpec, CorpusSource]]
    counter: TokenCounter | None = None

    def __post_init__(self) -> None:
        for spec, _ in self.sources:
            if spec.tokens and self.counter is None:
                source = without_secrets(spec.uri)
                raise ValueError(
                    f"corpus source {source!r} has a budget of tokens and nothing to count by; pass a `counter`"
                )

    @cached_property
    def _shards(self) -> dict[str, "_Part"]:
        parts: dict[str, _Part] = {}
        for spec, source in self.sources:
            shards = source.shards()
            for number, shard in enumerate(shards):
                name = f"{spec.name}/{shard}" if spec.name else shard
                documents = part_of_budget(spec.documents, number, len(shards))
                tokens = part_of_budget(spec.tokens, number, len(shards))
                parts[name] = _Part(source, shard, spec, documents, tokens)
        return parts

    def shards(self) -> list[str]:
        return list(self._shards)

    def shard_fingerprint(self, shard: str) -> str:
        part = self._part(shard)
        inner = part.source.shard_fingerprint(part.shard)
        if part.takes_all:
            return inner
        counted = self.counter.tokenizer_fingerprint() if self.counter and part.tokens is not None else ""
        content = repr((inner, part.spec.weight, part.documents, part.tokens, counted))
        return blake2b(content.encode(), digest_size=16).hexdigest()

    def passed_over(self) -> dict[str, str]:
        return {
            f"{spec.name}/{place}" if spec.name else place: why
            for spec, source in self.sources
            for place, why in source.passed_over().items()
        }

    def origin(self, shard: str) -> dict[str, str]:
        part = self._part(shard)
        return dict(part.source.origin(part.shard))

    def documents(self, shard: str) -> Iterator[SourceDocument]:
        return self._taken(self._part(shard))

    def _taken(self, part: "_Part") -> Iterator[SourceDocument]:
        """Yield the part's documents in stored order, up to the first that exceeds a budget."""
        documents, tokens = 0, 0
        if 0 in (part.documents, part.tokens):
            return
        for document in part.source.documents(part.shard):
            # Apply the weight.
            if not is_taken(document, part.spec.weight):
                continue
            # Apply token budget.
            if self.counter and part.tokens is not None:
                tokens += self.counter.count_tokens(document.text)
                if tokens > part.tokens:
                    return
            yield document
            # Apply document budget.
            documents += 1
            if documents == part.documents:
                return

    def _part(self, shard: str) -> "_Part":
        if shard not in self._shards:
            raise unknown_shard(shard, self.uri, self.shards())
        return self._shards[shard]


@dataclass(frozen=True)
class _Part:
    """A shard of one source, with its parts of the budgets; None if there is no budget."""

    source: CorpusSource
    shard: str
    spec: SourceSpec
    documents: int | None
    tokens: int | None

    @property
    def takes_all(self) -> bool:
        return self.spec.weight == 1 and self.documents is None and self.tokens is None


def part_of_budget(budget: int, number: int, n_shards: int) -> int | None:
    """Return the part of shard `number`, None without a budget. Parts differ by at most 1 and add up to the budget."""
    return budget // n_shards + (number < budget % n_shards) if budget else None


def is_taken(document: SourceDocument, weight: float) -> bool:
    """Return True if a weight takes a document: its hash is below this share of the range of hashes."""
    if weight == 1:
        return True
    key = document.source_id or document.text or document.detail
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) < weight * MAX_HASH
