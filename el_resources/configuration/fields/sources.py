"""Settings of sources and store; `Settings` joins the groups."""

from typing import Literal

from pydantic import BaseModel, Field


class SourceSettings(BaseModel):
    """Settings of sources and store."""

    profile: Literal["reference", "paper"] = Field(
        default="reference",
        description="Preset that the other defaults come from: `reference` runs offline within minutes on 2 cores, "
        "`paper` takes the paper's models, lengths and thresholds.",
    )
    store: str = Field(
        default="data",
        min_length=1,
        description="Folder in which tables, the retrieval index and exports are stored, or `s3://BUCKET/PREFIX`. "
        "The endpoint and credentials of an object store come from the usual AWS_* variables.",
    )
    corpus: str = Field(
        default="python-docs:",
        description="Source of the documents: `python-docs:` (embedded), `parquet:PLACE`, `jsonl:PLACE` (a file, "
        "folder or glob, also `s3://BUCKET/PREFIX`) or `hf:OWNER/NAME/CONFIG@REVISION#SPLIT`. Several "
        "are mixed by `SOURCE [weight=0.6 tokens=2e9] + SOURCE [weight=0.4 documents=100_000 roots=no "
        "name=NAME text_column=NAME]`. Put a SOURCE in double quotes if its path has a plus sign or "
        'bracket after a space, as in `"jsonl:/data/a + b" [weight=0.5]`.',
    )
    text_column: str = Field(default="", description="Column of the corpus that holds the text; empty: `text`.")
    bad_rows_max_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of a file's rows that may be unreadable (not UTF-8, not JSON, without text). Such rows "
        "are set aside; a file with a larger share is refused, but never for a single row.",
    )
    line_mib_max: int = Field(
        default=64,
        ge=1,
        le=2_047,
        description="Longest line of a JSON lines file, after decompression, and longest text in a Parquet file, in "
        "MiB. A longer one counts as an unreadable row, so that it cannot fill the memory.",
    )
    document_chars_max: int = Field(
        default=50_000_000,
        ge=1_000,
        description="Longest document or conversation, in characters. A longer one counts as an unreadable row.",
    )
    hub_endpoint: str = Field(
        default="",
        description="Address of the Hugging Face hub or of a mirror, for `hf:` sources; empty: the hub's own. "
        "HF_TOKEN is sent to it.",
    )
    special_tokens_in_text: Literal["as_text", "set_aside"] = Field(
        default="as_text",
        description="Treatment of a document or sample whose text spells a special or control token of "
        "`long_model`: it is encoded as ordinary text, or set aside.",
    )
