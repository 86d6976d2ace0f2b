"""One settings object: what a run depends on, where it comes from, and what it may be.

Precedence, highest first: a launchpad's or caller's value, the environment (`EL_ALPHA=1.5`;
el_resources.configuration.environment says how it is read), the profile (`EL_PROFILE`), the defaults below, which are
the `reference` profile. Method settings enter the fingerprints of the tables that depend on them
(el_assets.tables.recipes names which); storage and device settings do not.

`[?]` in a description marks what the EntropyLong paper does not state.
"""

from collections.abc import Collection, Mapping
from typing import Any, Literal, cast

import dagster as dg
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from el_resources.addresses import without_secrets_within
from el_resources.bounds import bounds_described
from el_resources.configuration.checked_values import CHECKS
from el_resources.configuration.choices import FullTextTokenizer, LongTexts, ScoredExchange
from el_resources.configuration.environment import Environment, settings_in, suggested, variable_of
from el_resources.configuration.profiles import profile_values
from el_resources.configuration.seen_settings import SeenSettings
from el_resources.sources.instruction_columns import parse_columns, parse_names


@bounds_described
class Settings(dg.ConfigurableResource):
    """Every setting of the workspace, with its bounds. Built by `load()`; most may be given anew in the launchpad."""

    profile: Literal["reference", "paper"] = Field(
        default="reference",
        description="Preset that the other defaults come from: `reference` runs offline within minutes on 2 cores, `paper` "
        "takes the paper's models, lengths and thresholds.",
    )
    store: str = Field(
        default="data",
        min_length=1,
        description="Folder in which tables, the retrieval index and exports are stored, or `s3://BUCKET/PREFIX`. The endpoint "
        "and credentials of an object store come from the usual AWS_* variables.",
    )
    corpus: str = Field(
        default="python-docs:",
        description="Source of the documents: `python-docs:` (embedded), `parquet:PLACE`, `jsonl:PLACE` (a file, folder or "
        "glob, also `s3://BUCKET/PREFIX`) or `hf:OWNER/NAME/CONFIG@REVISION#SPLIT`. Several are mixed by `SOURCE "
        "[weight=0.6 tokens=2e9] + SOURCE [weight=0.4 documents=100_000 roots=no name=NAME text_column=NAME]`. Put "
        'a SOURCE in double quotes if its path has a plus sign or bracket after a space, as in `"jsonl:/data/a + b" '
        "[weight=0.5]`.",
    )
    text_column: str = Field(default="", description="Column of the corpus that holds the text; empty: `text`.")
    bad_rows_max_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of a file's rows that may be unreadable (not UTF-8, not JSON, without text). Such rows are set "
        "aside; a file with a larger share is refused, but never for a single row.",
    )
    line_mib_max: int = Field(
        default=64,
        ge=1,
        le=2_047,
        description="Longest line of a JSON lines file, after decompression, and longest text in a Parquet file, in MiB. A "
        "longer one counts as an unreadable row, so that it cannot fill the memory.",
    )
    document_chars_max: int = Field(
        default=50_000_000,
        ge=1_000,
        description="Longest document or conversation, in characters. A longer one counts as an unreadable row.",
    )
    hub_endpoint: str = Field(
        default="",
        description="Address of the Hugging Face hub or of a mirror, for `hf:` sources; empty: the hub's own. HF_TOKEN is sent "
        "to it.",
    )

    special_tokens_in_text: Literal["as_text", "set_aside"] = Field(
        default="as_text",
        description="Treatment of a document or sample whose text spells a special or control token of `long_model`: it is "
        "encoded as ordinary text, or set aside.",
    )

    short_model: str = Field(
        default="reference:short",
        description="Model with a shorter window and the same tokenizer as `long_model`: an embedded name, a folder or a hub "
        "id. GATEAU's forms `pair` and `pair_ntk` run it; `one_model` takes its window only.",
    )
    long_model: str = Field(
        default="reference:long",
        description="Model that scores documents and samples, and whose tokenizer counts their tokens: an embedded name, a "
        "folder or a hub id.",
    )
    short_model_revision: str = Field(
        default="", description="Branch, tag or commit of `short_model` on the hub; empty: its main branch."
    )
    long_model_revision: str = Field(
        default="", description="Branch, tag or commit of `long_model` on the hub; empty: its main branch."
    )
    long_window: int = Field(
        default=0,
        ge=0,
        description="Context window of `long_model` in tokens, BOS included. 0 takes the window of the model's config; set it "
        "if the config states none.",
    )
    bos_token: str = Field(
        default="",
        description="Token before every text that is scored. Empty takes the model's own BOS, or its end-of-text token if it "
        "has no BOS or the BOS is a chat token such as `<|im_start|>`.",
    )
    end_of_text_token: str = Field(
        default="",
        description="Token between the groups of a packed sequence. Empty takes the model's own end-of-text token, or that of "
        "its pre-training if the model names a chat token such as `<|im_end|>`.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Number format of the weights in memory. `auto` takes float32 on a CPU and the checkpoint's own on a GPU. "
        "Tables made in one format stay as they are, and are not mixed with tables of another.",
    )
    device: str = Field(
        default="auto",
        description="Device that models run on: `auto` (the first GPU, or else the CPU), `cpu`, `cuda` or `cuda:N`.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run Python code that ships with a model. Off, because such code can do anything that the run can do.",
    )
    encoder: str = Field(
        default="reference-idf",
        description="Encoder that turns chunks and queries into vectors for dense retrieval: `reference-idf` (embedded) or "
        "`sentence-transformers:NAME-OR-FOLDER`.",
    )

    chunk_tokens: int = Field(
        default=128, ge=8, le=8192, description="[?] Longest retrieval chunk, in tokens of `long_model`."
    )
    long_chunks: LongTexts = Field(
        default="split",
        description="Treatment of chunks longer than the encoder's window: `split` takes the mean of the vectors of a chunk's "
        "parts, `refuse` stops with an error if more than 1 % of a shard's text would be lost.",
    )
    full_text_tokenizer: FullTextTokenizer = Field(
        default="icu",
        description="Word splitting of the full-text index. `icu` finds words also in scripts without spaces, such as Chinese, "
        "Japanese and Thai; `simple` splits at punctuation and spaces, `whitespace` at spaces, `ngram` into pieces "
        "of 2 and 3 characters.",
    )
    roots_per_shard: int = Field(
        default=25,
        ge=0,
        description="Documents sampled per shard, by hash, as roots: the texts that contexts are sought for. 0 takes every "
        "eligible document.",
    )
    root_tokens_min: int = Field(
        default=128,
        ge=1,
        description="[?] Shortest root, in tokens of `long_model`; shorter documents serve as contexts only.",
    )
    root_tokens_max: int = Field(
        default=640,
        ge=0,
        description="[?] Longest root, in tokens of `long_model`; longer documents serve as contexts only. 0 leaves only the "
        "limit of the model's window.",
    )
    alpha: float = Field(
        default=1.5,
        ge=-10,
        le=20,
        allow_inf_nan=False,
        description="Height of the anchor threshold: an anchor is a position of a root whose entropy exceeds the root's mean + "
        "alpha × standard deviation. The paper's 2.0 leaves too few anchors with the small reference model, whose "
        "entropies spread less.",
    )
    skip_tokens: int = Field(
        default=8,
        ge=0,
        description="[?] Tokens at a root's start that are never anchors, because every text's first tokens are uncertain.",
    )
    max_anchors: int = Field(
        default=8,
        ge=0,
        description="Anchors kept per root, highest entropy first; each costs candidates_per_anchor + controls_per_root "
        "forwards. 0 keeps all.",
    )

    query_half_width: int = Field(
        default=16,
        ge=1,
        le=2048,
        description="Half width w of a query, in tokens: the text of the tokens [anchor - w, anchor + w) is what is searched "
        "for.",
    )
    retriever: Literal["dense", "full_text"] = Field(
        default="dense",
        description="Search for candidate contexts: `dense` ranks chunks by the cosine of their vectors, `full_text` by BM25 "
        "over their words.",
    )
    candidates_per_anchor: int = Field(
        default=8,
        ge=1,
        le=1000,
        description="Chunks retrieved per anchor (K), not counting excluded ones such as near-duplicates of the root. Each "
        "costs a forward.",
    )
    near_duplicate_containment: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of a chunk's 5-word shingles that may also be in the root. A chunk with a larger share is excluded "
        "as a near-duplicate.",
    )
    controls_per_root: int = Field(
        default=4,
        ge=0,
        le=64,
        description="Random chunks per root, scored at each of its anchors next to the retrieved ones. They measure how often a "
        "context passes by chance; each costs a forward per anchor.",
    )
    separator: str = Field(default="\n\n", description="[?] Text between a context and the text after it.")

    epsilon: float = Field(
        default=0.4,
        gt=-1,
        lt=1,
        allow_inf_nan=False,
        description="Threshold of the relative reduction, 1 - after / before: a context is kept if the reduction at the anchor "
        "exceeds it. 0.4 means a fall by more than 40 %.",
    )
    criterion: Literal["entropy", "nll", "both"] = Field(
        default="entropy",
        description="Quantity whose reduction must exceed epsilon: the entropy (paper), the negative log-likelihood (NLL) of "
        "the true token, or both.",
    )
    beats_controls: bool = Field(
        default=True,
        description="Keep a context only if its reduction also exceeds that of every random control at the same anchor.",
    )
    max_chunk_uses: int = Field(
        default=8,
        ge=0,
        description="Roots of one shard that may keep the same chunk; those with the largest reductions keep it. 0 sets no "
        "limit.",
    )
    sequence_tokens: int = Field(
        default=1536,
        ge=16,
        description="Length of a packed sequence (L), in tokens; every sequence has exactly this length.",
    )

    instructions: str = Field(
        default="python-docs-questions:",
        description="Source of the instruction samples: `python-docs-questions:` (embedded), `jsonl:PLACE`, `parquet:PLACE` or "
        "`hf:OWNER/NAME/CONFIG`, written as in `corpus`. Rows have LongAlign's `messages`, ShareGPT's "
        "`conversations`, or `context`, `instruction` and `response`.",
    )
    instruction_columns: str = Field(
        default="",
        description="Names of columns, keys and roles in instruction files that differ from the usual ones, such as "
        "`messages=dialog role=speaker content=text user=Human assistant=Bot`. `system`, `tool`, `context`, "
        "`instruction`, `response`, `id` and `license` can be named too.",
    )
    keep_columns: str = Field(
        default="",
        description="Further columns of the instruction files to write out with the selected samples, separated by commas.",
    )
    scored_exchange: ScoredExchange = Field(
        default="first",
        description="Exchange of a conversation that is scored; the whole conversation is selected either way. `first` suits "
        "pools that begin with the long context, as LongAlign does; `last` takes everything before it as context; "
        "`all` scores all responses jointly.",
    )
    samples_per_kind: int = Field(
        default=20,
        ge=1,
        le=500,
        description="Samples of each kind in the embedded instruction pool: those with the needed passage near the question, "
        "far from it, and absent.",
    )
    context_cut: Literal["head", "middle"] = Field(
        default="head", description="Part that is cut from a context too long for a window: its head, or its middle."
    )
    hmg_form: Literal["one_model", "pair", "pair_ntk"] = Field(
        default="one_model",
        description="Short-window reading that GATEAU compares with the long one: `one_model` is `long_model` with its context "
        "cut to the short window, `pair` is `short_model` run beyond its window, `pair_ntk` the same with dynamic "
        "NTK scaling (paper).",
    )
    short_window: int = Field(
        default=0,
        ge=0,
        description="Short window of the form `one_model`, in tokens. 0 takes the window of `short_model`, or a quarter of the "
        "long window if only `long_model` is set.",
    )
    cam: bool = Field(
        default=True,
        description="Measure contextual awareness (CAM). If it is off, influence is the HMP term alone; turn it off for models "
        "whose attention cannot be read.",
    )
    segment_tokens: int = Field(
        default=128,
        ge=1,
        le=65_536,
        description="Length of the segments that a sample's context is cut into for contextual awareness, in tokens.",
    )
    importance_sign: Literal["ppl", "negative_ppl"] = Field(
        default="ppl",
        description="[?] Importance of a segment: the response's perplexity with that segment alone as its context, or the "
        "negative of it.",
    )
    cosine_normalisation: Literal["none", "minmax", "softmax"] = Field(
        default="minmax",
        description="[?] Normalisation of the segments' importance and attention before the cosine of the two, which is the "
        "CAS.",
    )
    influence_alpha: float = Field(
        default=0.8,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Weight of the HMP term in the influence; the CAS term has the rest, 1 - influence_alpha.",
    )
    hmp_normalisation: Literal["none", "softmax", "minmax", "zscore", "rank"] = Field(
        default="none", description="Norm, over the pool, in HMP = Norm(PPL_short) - Norm(PPL_long)."
    )
    influence_perplexity: Literal["ppl", "log_ppl"] = Field(
        default="log_ppl",
        description="Quantity that HMP compares: perplexities, or their logarithms. The logarithm is the default because a "
        "single outlier cannot dominate it.",
    )
    influence_scale: Literal["softmax", "minmax", "zscore", "rank"] = Field(
        default="rank", description="Scale, over the pool, that HMP and CAS are both brought to before they are added."
    )

    seed: int = Field(
        default=0, ge=0, description="Seed of root sampling, controls and shuffles; another seed draws other roots."
    )
    exact_search_rows: int = Field(
        default=100_000,
        ge=0,
        description="Number of chunks up to which dense retrieval is exact. For more chunks an approximate index is built, "
        "which is faster and may miss some neighbours.",
    )
    cores_per_run: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="CPU cores that a run requests from a Ray cluster (EL_EXECUTION=ray).",
    )
    gpus_per_run: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="GPUs that a run requests from a Ray cluster (EL_EXECUTION=ray) if it loads a model. Set 0 for a cluster "
        "without GPUs; a run uses one at most.",
    )
    force: bool = Field(
        default=False, description="Make the tables of the chosen shards again even if they are up to date."
    )
    replace_by_empty: bool = Field(
        default=False,
        description="Let an empty table replace one that a model scored. If it is off, the run stops before anything is "
        "written, since the scores were costly.",
    )
    refresh_candidates: bool = Field(
        default=False,
        description="Retrieve candidates again for shards whose candidates come from an older build of the index. Only pairs "
        "that were never scored cost a forward.",
    )

    watch_every_seconds: int = Field(
        default=300,
        ge=5,
        le=86_400,
        description="Seconds between the sensors' listings of the sources for new, changed or removed shards; read when "
        "definitions load.",
    )
    backfill_every_hours: int = Field(
        default=24,
        ge=1,
        le=24,
        description="Hours between the schedules' requests for missing or stale tables; read when definitions load.",
    )
    shards_per_run: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="Most shards, in sequence, that one run takes if the shell, a schedule or a backfill starts it. Each run "
        "loads its models once, so more shards save loading.",
    )
    remove_many_shards: bool = Field(
        default=False,
        description="Let a sensor remove shards and their tables even if more than half of the registered ones are gone from "
        "the source at once. Otherwise that is taken for a fault of the source, and nothing is removed.",
    )

    @field_validator(*CHECKS)
    @classmethod
    def _checked(cls, text: str, info: ValidationInfo) -> str:
        return CHECKS[str(info.field_name)](text)

    @field_validator("instruction_columns", "keep_columns")
    @classmethod
    def _names_of_columns(cls, text: str, info: ValidationInfo) -> str:
        parse_columns(text) if info.field_name == "instruction_columns" else parse_names(text)
        return text

    @model_validator(mode="after")
    def _bounds_that_span_fields(self) -> "Settings":
        if self.root_tokens_max and self.root_tokens_max < self.root_tokens_min:
            raise ValueError(
                f"root_tokens_max={self.root_tokens_max} is below root_tokens_min={self.root_tokens_min}; "
                "raise the one or lower the other (0 removes the upper bound)"
            )
        if self.root_tokens_min >= self.sequence_tokens:
            raise ValueError(
                f"root_tokens_min={self.root_tokens_min} leaves no sequence: one of "
                f"sequence_tokens={self.sequence_tokens} holds a whole root and a context; "
                "lower the one or raise the other"
            )
        if self.beats_controls and not self.controls_per_root:
            raise ValueError("beats_controls needs controls_per_root of at least 1; got 0")
        return self

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> "Settings":
        """Build the settings from overrides, environment and profile.

        Args:
            environment: `EL_*` variables; those of the process and of `.env` if None. An unknown `EL_*` name is an
                error.
            overrides: win over the environment; None means not given.

        Raises:
            ValueError: names the variable or argument, its value, and what is allowed.
        """
        if unknown := sorted(set(overrides) - set(cls.model_fields)):
            raise ValueError(
                f"unknown setting {'; '.join(suggested(unknown, cls.model_fields))}; "
                f"choose from {', '.join(sorted(cls.model_fields))}"
            )
        variables = Environment.read().values() if environment is None else environment
        given = {
            **settings_in(variables, cls.model_fields.keys()),
            **{name: value for name, value in overrides.items() if value is not None},
        }
        return cls.of({**profile_values(given), **given})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Settings":
        """Build the settings from values alone. Raises ValueError that names each wrong one."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise ValueError(_in_words(error)) from None

    def subset(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return the named settings, in a JSON-ready dict; they go into a fingerprint."""
        return {name: getattr(self, name) for name in sorted(names)}

    def seen_by(self, reader: str, names: Collection[str]) -> "Settings":
        """Return a view of which only the named settings can be read; another one raises UnnamedSettingError.

        Args:
            reader: the step that reads, for the error.
        """
        return cast(Settings, SeenSettings(self, reader, type(self).model_fields.keys(), names))


def all_settings(settings: Settings) -> Settings:
    """Return every setting behind a view, for pictures and logs, on which no table depends."""
    return settings.whole if isinstance(settings, SeenSettings) else settings


def _in_words(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        value = "" if not name else f"{name} ({variable_of(name)}) = {without_secrets_within(problem['input'])!r}: "
        lines.append(f"{value}{problem['msg'].removeprefix('Value error, ')}")
    return "invalid settings: " + "; ".join(lines)
