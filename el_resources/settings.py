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
        description="Preset that the other defaults come from (EL_PROFILE): `reference`, offline in minutes on "
        "2 cores, or `paper`.",
    )
    store: str = Field(
        default="data",
        min_length=1,
        description="Folder that holds tables, the retrieval index and exports, or `s3://BUCKET/PREFIX`; endpoint and "
        "credentials of an object store come from the usual AWS_* variables.",
    )
    corpus: str = Field(
        default="python-docs:",
        description="Where documents come from: `python-docs:`, `parquet:PLACE`, `jsonl:PLACE` (a file, folder or "
        "glob, also `s3://BUCKET/PREFIX`) or `hf:OWNER/NAME/CONFIG@REVISION#SPLIT`. Several: `SOURCE [weight=0.6 "
        "tokens=2e9] + SOURCE [weight=0.4 documents=100_000 roots=no name=NAME text_column=NAME]`; a SOURCE whose path "
        'has a plus sign or bracket after a space stands in double quotes, as in `"jsonl:/data/a + b" [weight=0.5]`.',
    )
    text_column: str = Field(default="", description="Text column of the corpus where it is not called `text`.")
    bad_rows_max_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of a file's rows that may be unreadable (not UTF-8, not JSON, without text): they are set "
        "aside; a file with more is refused. One row always may.",
    )
    line_mib_max: int = Field(
        default=64,
        ge=1,
        le=2_047,
        description="Longest line of JSON lines, decompressed, and longest text in Parquet, in MiB; a longer one is a "
        "row that cannot be read.",
    )
    document_chars_max: int = Field(
        default=50_000_000,
        ge=1_000,
        description="Longest document or conversation, in characters; a longer one is a row that cannot be read.",
    )
    hub_endpoint: str = Field(
        default="",
        description="Address of the Hugging Face hub for `hf:` sources, such as a mirror, which is sent HF_TOKEN too; "
        "empty: its own.",
    )

    special_tokens_in_text: Literal["as_text", "set_aside"] = Field(
        default="as_text",
        description="What becomes of a document or sample whose text spells a special or control token of "
        "`long_model`: it is encoded as ordinary text, or set aside.",
    )

    short_model: str = Field(
        default="reference:short", description="Short-window sibling of `long_model`: a name, a folder or a hub id."
    )
    long_model: str = Field(
        default="reference:long", description="The model that scores the corpus: a name, a folder or a hub id."
    )
    short_model_revision: str = Field(default="", description="Hub revision of `short_model`; empty: its main branch.")
    long_model_revision: str = Field(default="", description="Hub revision of `long_model`; empty: its main branch.")
    long_window: int = Field(
        default=0,
        ge=0,
        description="Tokens that `long_model` reads at once, BOS included; 0 takes what its config states, which some "
        "do not.",
    )
    bos_token: str = Field(
        default="",
        description="Token in front of every text that is scored; empty: the model's own BOS, but its end-of-text "
        "token if that is a chat token such as `<|im_start|>` or there is none.",
    )
    end_of_text_token: str = Field(
        default="",
        description="Token between the groups of a packed sequence; empty: the model's own end-of-text token, but that "
        "of its pre-training if a chat token such as `<|im_end|>` is named.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Weights in memory. `auto`: float32 on a CPU, the checkpoint's own on a GPU; tables made in either "
        "stay as they are, and are never mixed.",
    )
    device: str = Field(default="auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that ships with a model. Off unless you set it."
    )
    encoder: str = Field(
        default="reference-idf",
        description="Dense retrieval encoder: `reference-idf` (embedded) or `sentence-transformers:NAME-OR-FOLDER`.",
    )

    chunk_tokens: int = Field(default=128, ge=8, le=8192, description="[?] Longest retrieval chunk, in scorer tokens.")
    long_chunks: LongTexts = Field(
        default="split",
        description="A chunk longer than the encoder's window: the mean of its parts' vectors, or an error if more "
        "than 1 % of a shard's text would be lost.",
    )
    full_text_tokenizer: FullTextTokenizer = Field(
        default="icu",
        description="Words of the full-text index: `icu` knows the words of Chinese, Japanese, Thai and other scripts "
        "without spaces, `simple` cuts at signs and spaces, `whitespace` at spaces, `ngram` into 2 and 3 characters.",
    )
    roots_per_shard: int = Field(
        default=25, ge=0, description="Root documents sampled per shard, by hash; 0 takes every eligible document."
    )
    root_tokens_min: int = Field(default=128, ge=1, description="[?] Shortest root, in scorer tokens.")
    root_tokens_max: int = Field(
        default=640,
        ge=0,
        description="[?] Longest root, in scorer tokens; 0 leaves only the limit of the scorer's window.",
    )
    alpha: float = Field(
        default=1.5,
        ge=-10,
        le=20,
        allow_inf_nan=False,
        description="Anchors are positions with entropy above mean + alpha * std. The paper's 2.0 leaves the small "
        "reference model, whose entropies spread less, with too few.",
    )
    skip_tokens: int = Field(default=8, ge=0, description="[?] Positions at a root's start that are never anchors.")
    max_anchors: int = Field(default=8, ge=0, description="Anchors kept per root, highest entropy first; 0 keeps all.")

    query_half_width: int = Field(
        default=16, ge=1, le=2048, description="w: a query is the tokens [anchor - w, anchor + w)."
    )
    retriever: Literal["dense", "full_text"] = Field(
        default="dense", description="Cosine over vectors, or BM25 over text."
    )
    candidates_per_anchor: int = Field(
        default=8, ge=1, le=1000, description="K: chunks retrieved per anchor, after exclusions."
    )
    near_duplicate_containment: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="A chunk is excluded when more than this share of its 5-word shingles stands in the root.",
    )
    controls_per_root: int = Field(
        default=4,
        ge=0,
        le=64,
        description="Random chunks scored at every anchor of a root, to measure what chance passes.",
    )
    separator: str = Field(default="\n\n", description="[?] Text between a context and what follows it.")

    epsilon: float = Field(
        default=0.4,
        gt=-1,
        lt=1,
        allow_inf_nan=False,
        description="Keep a context when its relative reduction exceeds this.",
    )
    criterion: Literal["entropy", "nll", "both"] = Field(
        default="entropy",
        description="What must fall by more than epsilon: entropy (paper), the true token's NLL, or both.",
    )
    beats_controls: bool = Field(
        default=True, description="Keep a context only if it also reduces more than every control at the same anchor."
    )
    max_chunk_uses: int = Field(
        default=8, ge=0, description="Roots of one shard that may keep the same chunk, strongest first; 0: no cap."
    )
    sequence_tokens: int = Field(default=1536, ge=16, description="L: tokens in a packed sequence, exactly.")

    instructions: str = Field(
        default="python-docs-questions:",
        description="Where instruction samples come from: `python-docs-questions:`, `jsonl:PLACE`, `parquet:PLACE` or "
        "`hf:OWNER/NAME/CONFIG`, as for `corpus`, with LongAlign's `messages`, ShareGPT's `conversations`, or "
        "`context`, `instruction` and `response`.",
    )
    instruction_columns: str = Field(
        default="",
        description="Names of columns, keys and roles of instruction files that are called otherwise, such as "
        "`messages=dialog role=speaker content=text user=Human assistant=Bot`; also `system`, `tool`, `context`, "
        "`instruction`, `response`, `id` and `license`.",
    )
    keep_columns: str = Field(
        default="",
        description="Further columns of instruction files that go out with the selected samples, apart by commas.",
    )
    scored_exchange: ScoredExchange = Field(
        default="first",
        description="The exchange of a conversation that is scored; the whole conversation is selected either way. "
        "`first`, which has the long context before it in most pools, as in LongAlign; `last`, with everything before "
        "it as context; or `all` responses jointly.",
    )
    samples_per_kind: int = Field(
        default=20,
        ge=1,
        le=500,
        description="Embedded instruction pool: samples with the passage near, far and absent.",
    )
    context_cut: Literal["head", "middle"] = Field(
        default="head", description="What a context loses that exceeds a window: its head, or its middle."
    )
    hmg_form: Literal["one_model", "pair", "pair_ntk"] = Field(
        default="one_model",
        description="Short-window reading: `long_model` with its context cut to the short window, `short_model` beyond "
        "its window as it is, or with dynamic NTK scaling (paper).",
    )
    short_window: int = Field(
        default=0,
        ge=0,
        description="Tokens of the short window in the form `one_model`; 0 takes that of `short_model`, or a quarter "
        "of the long window if only `long_model` is set.",
    )
    cam: bool = Field(
        default=True,
        description="Measure contextual awareness. Without it influence is HMP alone, which a model needs whose "
        "attention cannot be watched.",
    )
    segment_tokens: int = Field(default=128, ge=1, le=65_536, description="Tokens of a context segment.")
    importance_sign: Literal["ppl", "negative_ppl"] = Field(
        default="ppl",
        description="[?] Importance of a segment: the response's perplexity with it alone, or its negative.",
    )
    cosine_normalisation: Literal["none", "minmax", "softmax"] = Field(
        default="minmax", description="[?] What importance and attention go through before their cosine."
    )
    influence_alpha: float = Field(
        default=0.8, ge=0, le=1, allow_inf_nan=False, description="Weight of HMP; the rest is the weight of CAS."
    )
    hmp_normalisation: Literal["none", "softmax", "minmax", "zscore", "rank"] = Field(
        default="none", description="Norm in HMP = Norm(PPL_short) - Norm(PPL_long), over the pool."
    )
    influence_perplexity: Literal["ppl", "log_ppl"] = Field(
        default="log_ppl", description="HMP on perplexities or on their logarithms, which one outlier cannot rule."
    )
    influence_scale: Literal["softmax", "minmax", "zscore", "rank"] = Field(
        default="rank", description="The one scale that HMP and CAS are brought to before they are added."
    )

    seed: int = Field(default=0, ge=0, description="Seeds root sampling, controls and shuffles.")
    exact_search_rows: int = Field(
        default=100_000,
        ge=0,
        description="Up to this many chunks retrieval is exact; beyond it an approximate index is built.",
    )
    cores_per_run: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="CPU cores that a run asks a Ray cluster for (EL_EXECUTION=ray).",
    )
    gpus_per_run: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="GPUs that a run asks a Ray cluster for if it reads a model; 0 for a cluster without. A run uses "
        "one.",
    )
    force: bool = Field(default=False, description="Recompute shards even if their tables are up to date.")
    replace_by_empty: bool = Field(
        default=False,
        description="Let a table that a model scored be replaced by an empty one, which otherwise stops the run before "
        "anything is written.",
    )
    refresh_candidates: bool = Field(
        default=False,
        description="Retrieve candidates again wherever the index is newer than the build that they came from; only "
        "pairs never scored before cost a forward.",
    )

    watch_every_seconds: int = Field(
        default=300,
        ge=5,
        le=86_400,
        description="How often the sensors list the sources for shards that came, changed or went; read when "
        "definitions load.",
    )
    backfill_every_hours: int = Field(
        default=24,
        ge=1,
        le=24,
        description="How often the schedules ask for what is missing or stale; read when definitions load.",
    )
    shards_per_run: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="Contiguous shards that a run of the shell, a schedule or backfill takes at most; each run loads "
        "its models once.",
    )
    remove_many_shards: bool = Field(
        default=False,
        description="Let a sensor remove shards and their tables even where more than half of those registered are "
        "gone from the source at once, which is otherwise taken for a fault of the source.",
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
