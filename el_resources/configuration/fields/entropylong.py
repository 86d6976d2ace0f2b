"""Settings of the corpus index and of EntropyLong, in the order of its tables; `Settings` joins the groups."""

from typing import Literal

from pydantic import BaseModel, Field

# Word splitting of the full-text index: of its texts and of its queries.
FullTextTokenizer = Literal["icu", "simple", "whitespace", "ngram"]
# Treatment of a text that is longer than the encoder's window.
LongTexts = Literal["split", "refuse"]


class EntropyLongSettings(BaseModel):
    """Settings of the corpus index and of EntropyLong, in the order of its tables."""

    chunk_tokens: int = Field(
        default=128, ge=8, le=8192, description="[?] Longest retrieval chunk, in tokens of `long_model`."
    )
    long_chunks: LongTexts = Field(
        default="split",
        description="Treatment of chunks longer than the encoder's window: `split` takes the mean of the vectors of "
        "a chunk's parts, `refuse` stops with an error if more than 1 % of a shard's text would be "
        "lost.",
    )
    full_text_tokenizer: FullTextTokenizer = Field(
        default="icu",
        description="Word splitting of the full-text index. `icu` finds words also in scripts without spaces, such "
        "as Chinese, Japanese and Thai; `simple` splits at punctuation and spaces, `whitespace` at "
        "spaces, `ngram` into pieces of 2 and 3 characters.",
    )
    roots_per_shard: int = Field(
        default=25,
        ge=0,
        description="Documents sampled per shard, by hash, as roots: the texts for which contexts are searched. 0 "
        "takes every eligible document.",
    )
    root_tokens_min: int = Field(
        default=128,
        ge=1,
        description="[?] Shortest root, in tokens of `long_model`; shorter documents serve as contexts only.",
    )
    root_tokens_max: int = Field(
        default=640,
        ge=0,
        description="[?] Longest root, in tokens of `long_model`; longer documents serve as contexts only. 0 leaves "
        "only the limit of the model's window.",
    )
    alpha: float = Field(
        default=1.5,
        ge=-10,
        le=20,
        allow_inf_nan=False,
        description="Height of the anchor threshold: an anchor is a position of a root whose entropy exceeds the "
        "root's mean + alpha × standard deviation. The paper's 2.0 leaves too few anchors with the "
        "small reference model, whose entropies spread less.",
    )
    skip_tokens: int = Field(
        default=8,
        ge=0,
        description="[?] Tokens at a root's start that are never anchors, because every text's first tokens are "
        "uncertain.",
    )
    max_anchors: int = Field(
        default=8,
        ge=0,
        description="Anchors kept per root, highest entropy first; each brings its own candidates. 0 keeps all.",
    )
    query_half_width: int = Field(
        default=16,
        ge=1,
        le=2048,
        description="Half width w of a query, in tokens: the text of the tokens [anchor - w, anchor + w) is what is "
        "searched for, if a query is around its anchor.",
    )
    query_side: Literal["around", "before"] = Field(
        default="around",
        description="Text of a query: `around` the anchor as in the paper, with the anchor's token and w - 1 tokens "
        "after it, or `before` it, the 2w tokens [anchor - 2w, anchor) without the anchor's token, which a model "
        "must predict.",
    )
    retriever: Literal["dense", "full_text", "hybrid"] = Field(
        default="dense",
        description="Search for candidate contexts: `dense` ranks chunks by the cosine of their vectors, "
        "`full_text` by BM25 over their words, `hybrid` by the reciprocal ranks of both.",
    )
    candidates_per_anchor: int = Field(
        default=8,
        ge=1,
        le=1000,
        description="Chunks retrieved per anchor (K), not counting excluded ones such as near-duplicates of the "
        "root. Each chunk costs a forward per root.",
    )
    near_duplicate_containment: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of a chunk's 5-word shingles that may also be in the root. A chunk with a larger share "
        "is excluded as a near-duplicate.",
    )
    controls_per_root: int = Field(
        default=4,
        ge=0,
        le=64,
        description="Random chunks per root, scored at each of its anchors next to the retrieved ones. They "
        "measure how often a context passes by chance; each costs a forward per root.",
    )
    separator: str = Field(default="\n\n", description="[?] Text between a context and the text after it.")
    epsilon: float = Field(
        default=0.4,
        gt=-1,
        lt=1,
        allow_inf_nan=False,
        description="Threshold of the relative reduction, 1 - after / before: a context is kept if the reduction at "
        "the anchor exceeds it. 0.4 means a fall by more than 40 %.",
    )
    criterion: Literal["entropy", "nll", "both"] = Field(
        default="entropy",
        description="Quantity whose reduction must exceed epsilon: the entropy (paper), the negative log-likelihood "
        "(NLL) of the true token, or both.",
    )
    beats_controls: bool = Field(
        default=True,
        description="Keep a context only if its reduction also exceeds that of every random control at the same "
        "anchor.",
    )
    max_chunk_uses: int = Field(
        default=8,
        ge=0,
        description="Roots of one shard that may keep the same chunk; those with the largest reductions keep it. 0 "
        "sets no limit.",
    )
    sequence_tokens: int = Field(
        default=1536,
        ge=16,
        description="Length of a packed sequence (L), in tokens; every sequence has exactly this length.",
    )
