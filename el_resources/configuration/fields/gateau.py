"""Settings of GATEAU, in the order of its tables; `Settings` joins the groups."""

from typing import Literal

from pydantic import BaseModel, Field

# The exchange of a conversation whose response is scored.
ScoredExchange = Literal["first", "last", "all"]


class GateauSettings(BaseModel):
    """Settings of GATEAU, in the order of its tables."""

    instructions: str = Field(
        default="python-docs-questions:",
        description="Source of the instruction samples: `python-docs-questions:` (embedded), `jsonl:PLACE`, "
        "`parquet:PLACE` or `hf:OWNER/NAME/CONFIG`, written as in `corpus`. Rows have LongAlign's "
        "`messages`, ShareGPT's `conversations`, or `context`, `instruction` and `response`.",
    )
    instruction_columns: str = Field(
        default="",
        description="Names of columns, keys and roles in instruction files that differ from the usual ones, such as "
        "`messages=dialog role=speaker content=text user=Human assistant=Bot`. `system`, `tool`, "
        "`context`, `instruction`, `response`, `id` and `license` can be named too.",
    )
    keep_columns: str = Field(
        default="",
        description="Further columns of the instruction files to write out with the selected samples, separated by "
        "commas.",
    )
    scored_exchange: ScoredExchange = Field(
        default="first",
        description="Exchange of a conversation that is scored; the whole conversation is selected either way. "
        "`first` suits pools that begin with the long context, as LongAlign does; `last` takes "
        "everything before it as context; `all` scores all responses jointly.",
    )
    samples_per_kind: int = Field(
        default=20,
        ge=1,
        le=500,
        description="Samples of each kind in the embedded instruction pool: those with the needed passage near the "
        "question, far from it, and absent.",
    )
    context_cut: Literal["head", "middle"] = Field(
        default="head", description="Part that is cut from a context too long for a window: its head, or its middle."
    )
    hmg_form: Literal["one_model", "pair", "pair_ntk"] = Field(
        default="one_model",
        description="Short-window reading that GATEAU compares with the long one: `one_model` is `long_model` with "
        "its context cut to the short window, `pair` is `short_model` run beyond its window, `pair_ntk` "
        "the same with dynamic NTK scaling (paper).",
    )
    short_window: int = Field(
        default=0,
        ge=0,
        description="Short window of the form `one_model`, in tokens. 0 takes the window of `short_model`, or a "
        "quarter of the long window if only `long_model` is set.",
    )
    cam: bool = Field(
        default=True,
        description="Measure contextual awareness (CAM). If it is off, influence is the HMP term alone; turn it off "
        "for models whose attention cannot be read.",
    )
    segment_tokens: int = Field(
        default=128,
        ge=1,
        le=65_536,
        description="Length of the segments that a sample's context is cut into for contextual awareness, in tokens.",
    )
    importance_sign: Literal["ppl", "negative_ppl"] = Field(
        default="ppl",
        description="[?] Importance of a segment: the response's perplexity with that segment alone as its context, "
        "or the negative of it.",
    )
    cosine_normalisation: Literal["none", "minmax", "softmax"] = Field(
        default="minmax",
        description="[?] Normalisation of the segments' importance and attention before the cosine of the two, "
        "which is the CAS.",
    )
    influence_alpha: float = Field(
        default=0.8,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Weight of the HMP term in the influence; the CAS term has the rest, 1 - influence_alpha.",
    )
    hmp_normalisation: Literal["none", "softmax", "minmax", "zscore", "rank"] = Field(
        default="none",
        description="Normalisation of the perplexities over the pool, Norm in HMP = Norm(PPL_short) - Norm(PPL_long).",
    )
    influence_perplexity: Literal["ppl", "log_ppl"] = Field(
        default="log_ppl",
        description="Quantity that HMP compares: perplexities, or their logarithms. The logarithm is the default "
        "because a single outlier cannot dominate it.",
    )
    influence_scale: Literal["softmax", "minmax", "zscore", "rank"] = Field(
        default="rank", description="Scale, over the pool, that HMP and CAS are both brought to before they are added."
    )
