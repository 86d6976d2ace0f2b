"""Value of each retriever to verification: verified contexts per 1,000 candidates that the model must score.

Scoring costs the most, one forward per unique (root, chunk), so a retriever is as good as the share of its candidates
that is kept. Roots, anchors, queries, exclusions, controls and the keep rule are those of el_assets under its default
settings, apart from the options below; only the retriever differs. Every (root, chunk) is scored once, however many
retrievers propose it.

    python benchmarks/retrieval.py --corpus python-docs: --roots 40
    python benchmarks/retrieval.py --corpus parquet:FOLDER --name "what it is called in the table" --root-tokens-max
    2048

Columns: `verified` counts the candidates with ΔI > ε at an anchor that retrieved them. `beats controls`, the number to
choose by, counts those of them that also lower entropy by more than each of four random chunks at that anchor; ± is one
standard error over roots. `vs` compares with the default encoder on the same resampled roots. Queries and passages a
second are those of one process on this machine: search with LanceDB for queries, encoding alone for passages.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from retrievers import Retriever, dense_retriever, encoders, fused, random_retriever
from tokenizers import Tokenizer

from el_assets.corpus.chunks import chunks_table
from el_assets.corpus.documents import documents_table, usable
from el_assets.entropylong.anchors import RootLimits, entropy_map_row, entropy_maps_table, sample_roots
from el_assets.entropylong.candidates import (
    ControlRing,
    Exclusions,
    control_rows,
    draw_controls,
    query_texts,
    retrieve,
)
from el_assets.entropylong.selection import KeepRule, judge
from el_assets.entropylong.verification import (
    Joint,
    blocks,
    pairs_with_before,
    plan_units,
    score_units,
    with_reductions,
)
from el_resources.models.model_files import REFERENCE_FOLDER
from el_resources.models.text_encoder import REFERENCE_IDF
from el_resources.models.text_splitting import TextSplitter
from el_resources.models.tokenization import ModelTokenizer
from el_resources.scoring.engine import ScoringEngine
from el_resources.settings import Settings
from el_resources.sources.opening import open_corpus

MODEL = REFERENCE_FOLDER / "long"
BOOTSTRAP_SAMPLES = 1000
PAIR = ["doc_id", "anchor", "chunk_hash"]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents and their chunks, without vectors, with the shard of each chunk."""

    documents: pl.DataFrame
    chunks: pl.DataFrame


@dataclass
class Bench:
    """Settings, model and notes that all retrievers share."""

    settings: Settings
    tokenizer: ModelTokenizer
    engine: ScoringEngine
    notes: list[str] = field(default_factory=list)


def read_corpus(uri: str, chunk_tokens: int) -> Corpus:
    """Read all usable documents of a corpus and split them into chunks."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    splitter = TextSplitter(tokenizer, chunk_tokens)
    source = open_corpus(uri)
    documents, chunks = [], []
    for shard in source.shards():
        table = usable(documents_table(source.documents(shard), uri).lazy()).collect()
        spans = splitter.split_all(table["text"].to_list())
        documents.append(table)
        chunks.append(chunks_table(table, spans).with_columns(shard=pl.lit(shard)))
    return Corpus(documents=pl.concat(documents), chunks=pl.concat(chunks))


def map_roots(bench: Bench, documents: pl.DataFrame, *, count: int) -> pl.DataFrame:
    """Return the `entropy_maps` table of a sample of eligible roots, without the roots that have no anchor."""
    settings = bench.settings
    limits = RootLimits(
        shortest=settings.root_tokens_min,
        longest=settings.root_tokens_max,
        window=bench.engine.window,
        chunk=settings.chunk_tokens,
        separator=len(bench.tokenizer.encode(settings.separator)),
    )
    ids = bench.tokenizer.encode_batch(documents["text"].to_list())
    lengths = [len(tokens) for tokens in ids]
    chosen, counts = sample_roots(documents["doc_id"].to_list(), lengths, limits, count=count, seed=settings.seed)
    bench.notes.append(f"{len(chosen)} of {counts['eligible']} eligible roots")
    scores = bench.engine.score([ids[index] for index in chosen])
    rows = [
        entropy_map_row(
            documents["doc_id"][index],
            documents["content_hash"][index],
            ids[index],
            score.entropy_nats,
            score.nll_nats,
            alpha=settings.alpha,
            skip=settings.skip_tokens,
            cap=settings.max_anchors,
        )
        for index, score in zip(chosen, scores, strict=True)
    ]
    return entropy_maps_table(rows).filter(pl.col("anchors").list.len() > 0)


def find_candidates(
    bench: Bench, corpus: Corpus, maps: pl.DataFrame, retrievers: Sequence[Retriever]
) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
    """Return (`candidate_contexts` rows by retriever, control rows for all retrievers)."""
    settings = bench.settings
    queries = query_texts(maps, bench.tokenizer.decode, half_width=settings.query_half_width)
    root_texts = {doc_id: bench.tokenizer.decode(ids) for doc_id, ids in maps.select("doc_id", "token_ids").iter_rows()}
    exclusions = Exclusions(root_texts, settings.near_duplicate_containment)
    texts = queries["query_text"].to_list()
    candidates = {
        retriever.name: retrieve(
            queries,
            retriever.bound_to(texts),
            exclusions,
            k=settings.candidates_per_anchor,
            n_chunks=corpus.chunks.height,
        )
        for retriever in retrievers
    }
    return candidates, _controls(bench, corpus.chunks, queries, exclusions)


def _controls(bench: Bench, chunks: pl.DataFrame, queries: pl.DataFrame, exclusions: Exclusions) -> pl.DataFrame:
    """Draw random chunks for every anchor. Unlike in the pipeline, a control may also be a retriever's candidate."""
    ring = ControlRing.of(chunks["chunk_id"].to_list(), seed=bench.settings.seed)
    by_id = {row["chunk_id"]: row for row in chunks.iter_rows(named=True)}
    drawn = []
    for root in queries["doc_id"].unique(maintain_order=True):

        def is_free(chunk_id: str, root: str = root) -> bool:
            return exclusions.allows(root, chunk_id, by_id[chunk_id]["doc_id"], by_id[chunk_id]["text"])

        for chunk_id in draw_controls(
            root, ring, is_free, count=bench.settings.controls_per_root, seed=bench.settings.seed
        ):
            drawn.append((root, chunk_id, by_id[chunk_id]["shard"], by_id[chunk_id]["content_hash"]))
    columns = ["root", "chunk_id", "shard", "content_hash"]
    return control_rows(queries, pl.DataFrame(drawn, schema=dict.fromkeys(columns, pl.String), orient="row"))


def score(bench: Bench, chunks: pl.DataFrame, maps: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Return the entropy and NLL after the chunk for every pair, by one forward per (root, chunk text)."""
    texts = dict(chunks.select("content_hash", "text").unique("content_hash").iter_rows())
    hashes = pairs["chunk_hash"].unique().to_list()
    chunk_ids = dict(zip(hashes, bench.tokenizer.encode_batch([texts[h] for h in hashes]), strict=True))
    roots = {doc_id: np.asarray(ids, dtype=np.int32) for doc_id, ids in maps.select("doc_id", "token_ids").iter_rows()}
    joint = Joint(bench.tokenizer.encode(bench.settings.separator))

    def scores(
        sequences: list[NDArray[np.int32]], positions: list[NDArray[np.int64]], n_common: list[int]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        scored = bench.engine.score(sequences, positions, n_common=n_common)
        return [(s.entropy_nats, s.nll_nats) for s in scored]

    units = plan_units(pairs)
    bench.notes.append(f"{len(units):,} unique (root, chunk) scored")
    return pl.concat([score_units(block, roots, chunk_ids, joint, scores) for block in blocks(units)])


def outcome(bench: Bench, maps: pl.DataFrame, pairs: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Count each root's unique candidates, the verified ones, and those that also beat the controls.

    Roots stay in the order of `maps`.
    """
    scored = with_reductions(pairs_with_before(pairs, maps).join(after, on=PAIR, how="inner"))
    plain = KeepRule(epsilon=bench.settings.epsilon, criterion=bench.settings.criterion, beats_controls=False)
    verified = judge(scored, plain).with_columns(beats=judge(scored, replace(plain, beats_controls=True))["passes"])
    per_root = (
        verified.filter(~pl.col("is_control"))
        .group_by("doc_id", "chunk_hash")
        .agg(pl.col("passes", "beats").any())
        .group_by("doc_id")
        .agg(candidates=pl.len(), verified=pl.col("passes").sum(), beating=pl.col("beats").sum())
    )
    return maps.select("doc_id").join(per_root, on="doc_id", how="left", maintain_order="left").fill_null(0)


def table_rows(retrievers: Sequence[Retriever], outcomes: dict[str, pl.DataFrame], seed: int) -> list[str]:
    """Return the table's rows in Markdown."""
    n_roots = next(iter(outcomes.values())).height
    draws_SR = np.random.default_rng(seed).integers(n_roots, size=(BOOTSTRAP_SAMPLES, n_roots))
    resampled = {name: _per_thousand(counts, draws_SR) for name, counts in outcomes.items()}
    return [_table_row(retriever, outcomes[retriever.name], resampled) for retriever in retrievers]


def _table_row(retriever: Retriever, counts: pl.DataFrame, resampled: dict[str, NDArray[np.float64]]) -> str:
    candidates, verified, beating = (int(counts[c].sum()) for c in ("candidates", "verified", "beating"))
    own = resampled[retriever.name]
    change = own / resampled[REFERENCE_IDF] - 1
    versus = "" if retriever.name == REFERENCE_IDF else f"{change.mean():+.0%} ± {change.std():.0%}"
    speed = retriever.n_queries / retriever.seconds if retriever.seconds else 0
    passages = f"{retriever.passages_per_second:,.0f}" if retriever.passages_per_second else ""
    return (
        f"| {retriever.name} | {candidates:,} | {1000 * verified / candidates:.1f} "
        f"| {1000 * beating / candidates:.1f} ± {own.std():.1f} | {versus} | {beating / counts.height:.2f} "
        f"| {speed:,.0f} | {passages} |"
    )


def _per_thousand(counts: pl.DataFrame, draws_SR: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the contexts that beat the controls, per 1,000 candidates, in every resample of roots."""
    beating_R, candidates_R = counts["beating"].to_numpy(), counts["candidates"].to_numpy()
    return np.asarray(1000 * beating_R[draws_SR].sum(axis=1) / candidates_R[draws_SR].sum(axis=1))


def run(bench: Bench, uri: str, name: str, *, roots: int) -> None:
    """Measure all retrievers on one corpus and print the table."""
    started = time.perf_counter()
    corpus = read_corpus(uri, bench.settings.chunk_tokens)
    maps = map_roots(bench, corpus.documents, count=roots)
    with tempfile.TemporaryDirectory() as folder:
        made = [
            dense_retriever(encoder, corpus.chunks, Path(folder) / str(number))
            for number, encoder in enumerate(encoders())
        ]
        retrievers = [retriever for retriever, _ in made]
        index = made[-1][1]
        full_text = Retriever("full text (BM25)", index.search_text)
        retrievers += [
            full_text,
            fused(retrievers[-1], full_text),
            random_retriever(corpus.chunks, bench.settings.seed),
        ]
        candidates, controls = find_candidates(bench, corpus, maps, retrievers)
    everything = pl.concat([*candidates.values(), controls]).unique([*PAIR], maintain_order=True)
    after = score(bench, corpus.chunks, maps, everything)
    outcomes = {
        retriever.name: outcome(bench, maps, pl.concat([candidates[retriever.name], controls]), after)
        for retriever in retrievers
    }
    anchors = int(maps["anchors"].list.len().sum())
    print(f"\n### {name}\n")
    print(
        f"{corpus.documents.height:,} documents, {corpus.chunks.height:,} chunks, {'; '.join(bench.notes)}, "
        f"{anchors} anchors, {time.perf_counter() - started:,.0f} s on {bench.engine.device}.\n"
    )
    columns = [
        "retriever",
        "candidates",
        "verified per 1,000",
        "beats controls per 1,000",
        "vs default",
        "beating per root",
        "queries/s",
        "passages/s",
    ]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    print("\n".join(table_rows(retrievers, outcomes, bench.settings.seed)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--corpus", required=True, help="python-docs:, parquet:PATH or jsonl:PATH")
    parser.add_argument("--name", help="heading of the printed table (default: the corpus)")
    parser.add_argument(
        "--roots", type=int, default=40, help="roots to sample (default: 40); 0 takes all eligible ones"
    )
    parser.add_argument("--root-tokens-max", type=int, help="longest root (default: that of the reference profile)")
    parser.add_argument("--alpha", type=float, help="anchors are above mean + ALPHA std (default: that of the profile)")
    parser.add_argument(
        "--max-anchors", type=int, help="most anchors of a root, 0 for all (default: that of the profile)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    arguments = parser.parse_args()
    settings = Settings.load(
        {},
        corpus=arguments.corpus,
        root_tokens_max=arguments.root_tokens_max,
        alpha=arguments.alpha,
        max_anchors=arguments.max_anchors,
    )
    tokenizer = ModelTokenizer.from_folder(MODEL)
    engine = ScoringEngine.from_folder(MODEL, bos_id=tokenizer.bos_id, dtype="float32", device=arguments.device)
    bench = Bench(settings, tokenizer, engine)
    run(bench, arguments.corpus, arguments.name or arguments.corpus, roots=arguments.roots)


if __name__ == "__main__":
    main()
