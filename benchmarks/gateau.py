"""Effects of GATEAU's open choices on the known truth of the embedded pool, on the ranking, and on the subsets.

The pool is scored once for each form of homologous models' guidance (HMG), by the workspace's own jobs, in a store that
may be kept (a second run then scores nothing). Signs, normalisations and scales are recomputed from the stored scores.

    python benchmarks/gateau.py --samples-per-kind 60
    python benchmarks/gateau.py --instructions 'jsonl:FOLDER' --store FOLDER --name "what it is called in the tables"

A `far` sample needs a passage beyond the short window; these are the samples that guidance is meant to rank first.
Areas are ROC AUCs of far samples over the others, with 95 % bootstrap intervals. Overlaps are shares of the default's
subset that an alternative also selects; chance alone gives 0.1, 0.3 and 0.5.
"""

import argparse
import resource
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

import dagster as dg
import numpy as np
import polars as pl

from el_assets.gateau.assets import open_instructions_of
from el_assets.gateau.cam import contextual_awareness
from el_assets.gateau.hmg import perplexity_gap
from el_assets.gateau.influence import combined, rank_correlation, roc_auc
from el_assets.gateau.scales import Values, rank
from el_assets.operations.schedules import range_tags
from el_assets.partitions import instruction_shards, register_shards
from el_assets.parts import FRACTIONS, subset_size
from el_assets.workspace import build_definitions
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables


def choices(setting: str) -> tuple[str, ...]:
    """Return the choices that a setting offers."""
    return get_args(Settings.model_fields[setting].annotation)


FORMS, SIGNS = choices("hmg_form"), choices("importance_sign")
NORMALISATIONS, SCALES = choices("cosine_normalisation"), choices("influence_scale")
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
KEYS = ["shard", "sample_id"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One option for each open choice."""

    form: str
    sign: str
    normalisation: str
    scale: str
    perplexity: str

    def __str__(self) -> str:
        return f"{self.form}, {self.sign}, {self.normalisation}, {self.scale}, {self.perplexity}"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A pool with everything that the choices need.

    Attributes:
        samples: one row per scored sample, with `evidence` if it is known, and the columns of `cam_scores`.
        guidance: for each form, (NLL in the short window, NLL in the long window) of the same samples, nats a token.
        costs: table lines, one for each table made.
    """

    samples: pl.DataFrame
    guidance: Mapping[str, tuple[Values, Values]]
    costs: Sequence[str]

    def hmp(self, choice: Choice, settings: Settings) -> Values:
        return perplexity_gap(
            *self.guidance[choice.form], normalisation=settings.hmp_normalisation, perplexity=choice.perplexity
        )

    def cas(self, choice: Choice) -> Values:
        columns = ("segment_nll_nats", "segment_attention", "segment_tokens")
        rows = zip(*(self.samples[name].to_list() for name in columns), strict=True)
        return np.array(
            [
                contextual_awareness(
                    *(np.asarray(values) for values in row), sign=choice.sign, normalisation=choice.normalisation
                )
                for row in rows
            ]
        )

    def order(self, choice: Choice, settings: Settings) -> Values:
        """Return the influence score of every sample."""
        alpha = settings.influence_alpha
        return combined([(alpha, self.hmp(choice, settings)), (1 - alpha, self.cas(choice))], choice.scale)


def score_pool(settings: Settings, forms: Sequence[str]) -> Scored:
    """Score the settings' pool under each form; the default form comes last, so that the store ends up with it."""
    tables, costs, guidance = ShardTables(settings.store), [], {}
    for form in sorted(forms, key=lambda form: form == settings.hmg_form):
        shards = _run(settings, form)
        hmg = tables.scan_many("hmg_scores", shards).sort(KEYS).collect()
        guidance[form] = (hmg["nll_short_nats"].to_numpy(), hmg["nll_long_nats"].to_numpy())
        costs.append(_cost(f"hmg_scores, {form}", tables, "hmg_scores", shards))
    costs.append(_cost("cam_scores", tables, "cam_scores", shards))
    cam = tables.scan_many("cam_scores", shards).sort(KEYS).collect()
    texts = tables.scan_many("instruction_samples", shards).select(*KEYS, "evidence", "n_context_tokens").collect()
    samples = cam.join(texts, on=KEYS, how="left", maintain_order="left")
    assert samples.height == hmg.height, "both tables hold every sample that was not set aside"
    return Scored(samples=samples, guidance=guidance, costs=costs)


def _run(settings: Settings, form: str) -> list[str]:
    """Score all shards under a form and return their names."""
    with dg.DagsterInstance.ephemeral() as instance:
        shards = register_shards(instance, open_instructions_of(settings), instruction_shards).shards
        definitions = build_definitions(Settings.load({}, **{**settings.model_dump(), "hmg_form": form}))
        definitions.resolve_job_def("score_samples").execute_in_process(
            instance=instance,
            tags=range_tags(shards[0], shards[-1]),
            run_config={"loggers": {"console": {"config": {"log_level": "WARNING"}}}},
        )
        return shards


def _cost(name: str, tables: ShardTables, asset: str, shards: Sequence[str]) -> str:
    facts = [stamp.facts for stamp in tables.stamps(asset, shards).values()]
    tokens, seconds = sum(fact["tokens"] for fact in facts), sum(fact["scoring_seconds"] for fact in facts)
    rate = f"{tokens / seconds:,.0f}" if seconds else "-"
    return f"| {name} | {sum(fact['forwards'] for fact in facts):,} | {tokens:,} | {seconds:,.0f} | {rate} |"


def report(scored: Scored, settings: Settings, name: str) -> Iterator[str]:
    """Yield the tables in Markdown, piece by piece."""
    default = Choice(
        form=settings.hmg_form,
        sign=settings.importance_sign,
        normalisation=settings.cosine_normalisation,
        scale=settings.influence_scale,
        perplexity=settings.influence_perplexity,
    )
    cut = scored.samples["n_dropped_context_tokens"].to_numpy()
    yield f"### {name}\n"
    yield (
        f"{scored.samples.height} samples, {int((cut > 0).sum())} contexts cut to the long window "
        f"({int(cut.sum()):,} tokens dropped, policy `{settings.context_cut}`), peak memory "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB. Default: {default}, "
        f"α {settings.influence_alpha}.\n"
    )
    yield from table(["table", "forwards", "tokens", "seconds", "tokens/s"], scored.costs)
    yield from _distributions(scored, default, settings)
    far = (scored.samples["evidence"] == "far").fill_null(False).to_numpy()
    if far.any() and not far.all():
        yield from _areas(scored, default, settings)
    yield from _orders(scored, default, settings)


def _distributions(scored: Scored, default: Choice, settings: Settings) -> Iterator[str]:
    values = {"context tokens": scored.samples["n_context_tokens"].to_numpy()}
    for form in scored.guidance:
        values[f"NLL short, nats, {form}"] = scored.guidance[form][0]
    values["NLL long, nats"] = scored.guidance[default.form][1]
    for form in scored.guidance:
        values[f"HMP, {form}"] = scored.hmp(_but(default, form=form), settings)
    for sign, normalisation in product(SIGNS, NORMALISATIONS):
        values[f"CAS, {sign}, {normalisation}"] = scored.cas(_but(default, sign=sign, normalisation=normalisation))
    rows = [
        f"| {label} | {' | '.join(_three_digits(found) for found in np.quantile(column, QUANTILES))} |"
        for label, column in values.items()
    ]
    yield from table(["", *(f"{100 * q:.0f} %" for q in QUANTILES)], rows)


def _areas(scored: Scored, default: Choice, settings: Settings) -> Iterator[str]:
    columns = {f"HMP, {form}": scored.hmp(_but(default, form=form), settings) for form in scored.guidance}
    for sign, normalisation in product(SIGNS, NORMALISATIONS):
        columns[f"CAS, {sign}, {normalisation}"] = scored.cas(_but(default, sign=sign, normalisation=normalisation))
    alternatives = {str(choice): choice for choice in (default, *_alternatives(default, list(scored.guidance)))}
    columns |= {f"score: {label}": scored.order(choice, settings) for label, choice in alternatives.items()}
    kinds = scored.samples["evidence"].to_numpy()
    rows = []
    for label, values in columns.items():
        areas = [
            roc_auc(values[kinds == "far"], values[others], seed=settings.seed)
            for others in (kinds != "far", kinds == "near", kinds == "absent")
        ]
        cells = [f"{area['auc']:.2f} [{area['low']:.2f}, {area['high']:.2f}]" for area in areas]
        rows.append(f"| {label} | {' | '.join(cells)} |")
    yield from table(["far above", "near and absent", "near", "absent"], rows)


def _orders(scored: Scored, default: Choice, settings: Settings) -> Iterator[str]:
    """Yield a table that compares the ranking of each alternative with the default's."""
    own = scored.order(default, settings)
    rows = []
    for choice in (default, *_alternatives(default, list(scored.guidance))):
        score, terms = scored.order(choice, settings), (scored.hmp(choice, settings), scored.cas(choice))
        shares = [_two_digits(rank_correlation(score, term)) for term in (*terms, own)]
        overlaps = [f"{_overlap(own, score, subset_size(len(own), name)):.2f}" for name in FRACTIONS]
        rows.append(f"| {choice} | {' | '.join([*shares, *overlaps])} |")
    names = ["score", "ρ with HMP", "ρ with CAS", "ρ with default", *(f"overlap {name}" for name in FRACTIONS)]
    yield from table(names, rows)


def _alternatives(default: Choice, forms: Sequence[str]) -> Iterator[Choice]:
    """Yield the alternatives: the default with one choice changed, and every pair of sign and normalisation."""
    found = [
        *(_but(default, form=form) for form in forms),
        *(_but(default, sign=sign, normalisation=norm) for sign, norm in product(SIGNS, NORMALISATIONS)),
        *(_but(default, scale=scale) for scale in SCALES),
        _but(default, perplexity="ppl"),
        _but(default, perplexity="ppl", scale="minmax"),
    ]
    yield from (choice for choice in dict.fromkeys(found) if choice != default)


def _but(choice: Choice, **changed: Any) -> Choice:
    return Choice(**{**choice.__dict__, **changed})


def _overlap(one: Values, other: Values, size: int) -> float:
    """Return the share of the best `size` samples by one score that are also among the best `size` by the other."""
    best, others = (set(np.argsort(-rank(values), kind="stable")[:size].tolist()) for values in (one, other))
    return len(best & others) / size


def _two_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(columns: Sequence[str], rows: Sequence[str]) -> Iterator[str]:
    """Yield a Markdown table: its head, then its rows."""
    yield f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
    yield "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--instructions", help="address of the pool, as for `run` (default: the embedded pool)")
    parser.add_argument(
        "--samples-per-kind", type=int, default=60, help="samples a kind, embedded pool only (default: 60)"
    )
    parser.add_argument(
        "--forms",
        nargs="+",
        choices=FORMS,
        default=FORMS,
        help="forms of guidance, the default's included (default: all)",
    )
    parser.add_argument("--store", help="folder of the tables, kept for a second run (default: a temporary folder)")
    parser.add_argument("--name", help="heading of the printed tables (default: the pool's address)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.load(
            {},
            store=arguments.store or folder,
            instructions=arguments.instructions,
            samples_per_kind=arguments.samples_per_kind,
        )
        for line in report(score_pool(settings, arguments.forms), settings, arguments.name or settings.instructions):
            print(line, flush=True)


if __name__ == "__main__":
    main()
