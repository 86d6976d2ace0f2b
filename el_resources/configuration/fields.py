"""The settings with their defaults, which are the profile `reference`, their bounds and descriptions.

`[?]` in a description marks what the EntropyLong paper does not state.
"""

from typing import Literal

import dagster as dg
from pydantic import Field

from el_resources.bounds import bounds_described
from el_resources.configuration.choices import FullTextTokenizer, LongTexts, ScoredExchange


@bounds_described
class SettingFields(dg.ConfigurableResource):
    """Every setting, in the order of the graph; el_resources.settings adds checks and loading."""

    profile: Literal["reference", "paper"] = Field(
        default="reference",
        description="Preset of defaults (EL_PROFILE): `reference` runs offline in minutes on 2 cores, `paper`"
        " has the values of the EntropyLong paper.",
    )
    store: str = Field(
        default="data",
        min_length=1,
        description="Folder of tables, retrieval index, reports and exports, or `s3://BUCKET/PREFIX`. "
        "Endpoint and credentials of an object store come from the usual AWS_* variables.",
    )
    corpus: str = Field(
        default="python-docs:",
        description="Where documents come from: `python-docs:`, `parquet:PLACE`, `jsonl:PLACE` (a file, folder or "
        "glob, also `s3://BUCKET/PREFIX`) or `hf:OWNER/NAME/CONFIG@REVISION#SPLIT`. Several: `SOURCE [weight=0.6 "
        "tokens=2e9] + SOURCE [weight=0.4 documents=100_000 roots=no name=NAME text_column=NAME]`; a SOURCE whose path "
        'has a plus sign or bracket after a space is put in double quotes, as in `"jsonl:/data/a + b" [weight=0.5]`.',
    )
    text_column: str = Field(default="", description="Text column of the corpus, if it is not `text`.")
    bad_rows_max_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of a file's rows that may be unreadable (not UTF-8, not JSON, without text) and "
        "are set aside; a file with more is refused. One row is always allowed.",
    )
    line_mib_max: int = Field(
        default=64,
        ge=1,
        le=2_047,
        description="Longest line of JSON lines, decompressed, and longest text in Parquet, in MiB. A longer "
        "one counts as an unreadable row.",
    )
    document_chars_max: int = Field(
        default=50_000_000,
        ge=1_000,
        description="Longest document or conversation, in characters. A longer one counts as an unreadable row.",
    )
    hub_endpoint: str = Field(
        default="",
        description="Address of a Hugging Face hub or mirror for `hf:` sources; it is sent HF_TOKEN too. "
        "Empty: huggingface.co.",
    )

    special_tokens_in_text: Literal["as_text", "set_aside"] = Field(
        default="as_text",
        description="Treatment of a document or sample whose text spells a special or control token of "
        "`long_model`: encode it as ordinary text, or set the row aside.",
    )

    short_model: str = Field(
        default="reference:short",
        description="Short-window sibling of `long_model`, for GATEAU's homologous pair: a name, a folder or a hub id.",
    )
    long_model: str = Field(
        default="reference:long",
        description="Model that scores the corpus and the samples: a name, a folder or a hub id.",
    )
    short_model_revision: str = Field(default="", description="Hub revision of `short_model`; empty: its main branch.")
    long_model_revision: str = Field(default="", description="Hub revision of `long_model`; empty: its main branch.")
    long_window: int = Field(
        default=0,
        ge=0,
        description="Context window of `long_model` in tokens, BOS included. 0: the window that its config "
        "states; some configs state none.",
    )
    bos_token: str = Field(
        default="",
        description="Token put before every scored text. Empty: the model's own BOS, or its end-of-text token"
        " if the BOS is missing or a chat token such as `<|im_start|>`.",
    )
    end_of_text_token: str = Field(
        default="",
        description="Token between the groups of a packed sequence. Empty: the model's own end-of-text token,"
        " or that of its pre-training if the model names a chat token such as `<|im_end|>`.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Dtype of the weights in memory. `auto`: float32 on a CPU, the checkpoint's own on a GPU."
        " Scores of two dtypes are never mixed.",
    )
    device: str = Field(
        default="auto",
        description="Device of models and encoder: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.",
    )
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that comes with a model. Only the environment may set it."
    )
    encoder: str = Field(
        default="reference-idf",
        description="Encoder of dense retrieval: `reference-idf` (embedded) or `sentence-transformers:NAME-OR-FOLDER`.",
    )

    chunk_tokens: int = Field(default=128, ge=8, le=8192, description="[?] Longest retrieval chunk, in scorer tokens.")
    long_chunks: LongTexts = Field(
        default="split",
        description="Treatment of a chunk longer than the encoder's window: `split` takes the mean of its "
        "parts' vectors, `refuse` stops if more than 1 % of a shard's text would be lost.",
    )
    full_text_tokenizer: FullTextTokenizer = Field(
        default="icu",
        description="Word splitter of the full-text index: `icu` also splits scripts without spaces (Chinese,"
        " Japanese, Thai), `simple` splits at punctuation and spaces, `whitespace` at spaces, "
        "`ngram` into 2 and 3 characters.",
    )
    roots_per_shard: int = Field(
        default=25, ge=0, description="Root documents sampled per shard, by hash. 0: every eligible document."
    )
    root_tokens_min: int = Field(default=128, ge=1, description="[?] Shortest root, in scorer tokens.")
    root_tokens_max: int = Field(
        default=640,
        ge=0,
        description="[?] Longest root, in scorer tokens. 0: limited by the scorer's window only.",
    )
    alpha: float = Field(
        default=1.5,
        ge=-10,
        le=20,
        allow_inf_nan=False,
        description="Anchors are positions with entropy above mean + alpha * std of their root. The paper's "
        "2.0 gives too few for the small reference model, whose entropies spread less.",
    )
    skip_tokens: int = Field(default=8, ge=0, description="[?] Positions at a root's start that are never anchors.")
    max_anchors: int = Field(default=8, ge=0, description="Most anchors per root, highest entropy first. 0: no limit.")

    query_half_width: int = Field(
        default=16,
        ge=1,
        le=2048,
        description="w of the paper: the retrieval query of an anchor t is the tokens [t - w, t + w).",
    )
    retriever: Literal["dense", "full_text"] = Field(
        default="dense", description="Retrieval method: `dense` (cosine similarity of vectors) or `full_text` (BM25)."
    )
    candidates_per_anchor: int = Field(
        default=8, ge=1, le=1000, description="K of the paper: chunks retrieved per anchor, after exclusions."
    )
    near_duplicate_containment: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="A chunk is no candidate if more than this share of its 5-word shingles occurs in the root.",
    )
    controls_per_root: int = Field(
        default=4,
        ge=0,
        le=64,
        description="Random chunks scored at every anchor of a root. They measure how often chance passes.",
    )
    separator: str = Field(default="\n\n", description="[?] Text between a context and what follows it.")

    epsilon: float = Field(
        default=0.4,
        gt=-1,
        lt=1,
        allow_inf_nan=False,
        description="A context is kept if its relative reduction at an anchor is more than this.",
    )
    criterion: Literal["entropy", "nll", "both"] = Field(
        default="entropy",
        description="Quantity that must fall by more than epsilon: entropy (paper), the true token's NLL, or both.",
    )
    beats_controls: bool = Field(
        default=True, description="Keep a context only if it also reduces more than every control at the same anchor."
    )
    max_chunk_uses: int = Field(
        default=8,
        ge=0,
        description="Most roots of a shard that may keep the same chunk, strongest reduction first. 0: no limit.",
    )
    sequence_tokens: int = Field(
        default=1536, ge=16, description="L of the paper: length of every packed sequence, in tokens."
    )

    instructions: str = Field(
        default="python-docs-questions:",
        description="Where instruction samples come from: `python-docs-questions:`, `jsonl:PLACE`, `parquet:PLACE` or "
        "`hf:OWNER/NAME/CONFIG`, as for `corpus`, with LongAlign's `messages`, ShareGPT's `conversations`, or "
        "`context`, `instruction` and `response`.",
    )
    instruction_columns: str = Field(
        default="",
        description="Other names of columns, keys and roles in instruction files, such as `messages=dialog "
        "role=speaker content=text user=Human assistant=Bot`; also `system`, `tool`, `context`, "
        "`instruction`, `response`, `id` and `license`.",
    )
    keep_columns: str = Field(
        default="",
        description="Further columns of instruction files that are written with the selected samples, "
        "separated by commas.",
    )
    scored_exchange: ScoredExchange = Field(
        default="first",
        description="Exchange of a conversation that is scored; the whole conversation is selected either "
        "way. `first` follows the long context in most pools, as in LongAlign; `last` takes "
        "everything before it as context; `all` scores all responses together.",
    )
    samples_per_kind: int = Field(
        default=20,
        ge=1,
        le=500,
        description="Embedded instruction pool: samples of each kind, with the needed passage near, far or absent.",
    )
    context_cut: Literal["head", "middle"] = Field(
        default="head", description="Part that a context loses if it exceeds a window: its `head`, or its `middle`."
    )
    hmg_form: Literal["one_model", "pair", "pair_ntk"] = Field(
        default="one_model",
        description="Short-window reading of HMG: `one_model` is `long_model` with its context cut to the "
        "short window, `pair` is `short_model` read beyond its window, `pair_ntk` the same with "
        "dynamic NTK scaling (paper).",
    )
    short_window: int = Field(
        default=0,
        ge=0,
        description="Short window of the form `one_model`, in tokens. 0: the window of `short_model`, or a "
        "quarter of the long window if only `long_model` is set.",
    )
    cam: bool = Field(
        default=True,
        description="Measure contextual awareness (CAM). false: influence is HMP alone, for models whose "
        "attention cannot be watched.",
    )
    segment_tokens: int = Field(
        default=128, ge=1, le=65_536, description="Length of a context segment of CAM, in tokens."
    )
    importance_sign: Literal["ppl", "negative_ppl"] = Field(
        default="ppl",
        description="[?] Importance of a segment: the response's perplexity with it alone, or its negative.",
    )
    cosine_normalisation: Literal["none", "minmax", "softmax"] = Field(
        default="minmax", description="[?] Normalisation of importance and attention before their cosine (CAS)."
    )
    influence_alpha: float = Field(
        default=0.8,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Weight of HMP in the influence score; CAS has the rest.",
    )
    hmp_normalisation: Literal["none", "softmax", "minmax", "zscore", "rank"] = Field(
        default="none", description="Norm in HMP = Norm(PPL_short) - Norm(PPL_long), over the pool."
    )
    influence_perplexity: Literal["ppl", "log_ppl"] = Field(
        default="log_ppl",
        description="Compute HMP from perplexities (`ppl`) or their logarithms (`log_ppl`), which no single "
        "outlier dominates.",
    )
    influence_scale: Literal["softmax", "minmax", "zscore", "rank"] = Field(
        default="rank", description="Scale that HMP and CAS are both brought to before they are added."
    )

    seed: int = Field(default=0, ge=0, description="Seed of root sampling, controls and shuffles.")
    exact_search_rows: int = Field(
        default=100_000,
        ge=0,
        description="Most chunks up to which retrieval is exact; above it an approximate index is built.",
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
        description="GPUs that a run that reads a model requests from a Ray cluster; 0 for a cluster without "
        "GPUs. A run uses one.",
    )
    force: bool = Field(default=False, description="Make tables again even if they are up to date.")
    replace_by_empty: bool = Field(
        default=False,
        description="Let an empty table replace one that a model scored. Otherwise such a run stops before "
        "anything is written.",
    )
    refresh_candidates: bool = Field(
        default=False,
        description="Retrieve candidates again if the index is newer than the build that they came from. Only"
        " pairs never scored before cost a forward.",
    )

    watch_every_seconds: int = Field(
        default=300,
        ge=5,
        le=86_400,
        description="Seconds between two looks of the sensors at the sources, for shards that came, changed "
        "or went. Read when definitions load.",
    )
    backfill_every_hours: int = Field(
        default=24,
        ge=1,
        le=24,
        description="Hours between two looks of the schedules for missing or stale tables. Read when definitions load.",
    )
    shards_per_run: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="Most contiguous shards of one run of the shell, a schedule or a backfill. Each run loads"
        " its models once.",
    )
    remove_many_shards: bool = Field(
        default=False,
        description="Let a sensor remove shards and their tables even if more than half of the registered "
        "shards left the source at once, which otherwise counts as a fault of the source.",
    )
