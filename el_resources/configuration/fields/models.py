"""Settings of models: those that score, and the encoder; `Settings` joins the groups."""

from typing import Literal

from pydantic import BaseModel, Field


class ModelSettings(BaseModel):
    """Settings of models: those that score, and the encoder."""

    short_model: str = Field(
        default="reference:short",
        description="Model with a shorter window and the same tokenizer as `long_model`: an embedded name, a folder "
        "or a hub id. GATEAU's forms `pair` and `pair_ntk` run it; `one_model` takes its window only.",
    )
    long_model: str = Field(
        default="reference:long",
        description="Model that scores documents and samples, and whose tokenizer counts their tokens: an embedded "
        "name, a folder or a hub id.",
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
        description="Context window of `long_model` in tokens, BOS included. 0 takes the window of the model's "
        "config; set it if the config states none.",
    )
    bos_token: str = Field(
        default="",
        description="Token before every text that is scored. Empty takes the model's own BOS, or its end-of-text "
        "token if it has no BOS or the BOS is a chat token such as `<|im_start|>`.",
    )
    end_of_text_token: str = Field(
        default="",
        description="Token between the groups of a packed sequence. Empty takes the model's own end-of-text token, "
        "or that of its pre-training if the model names a chat token such as `<|im_end|>`.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Number format of the weights in memory. `auto` takes float32 on a CPU and the checkpoint's own "
        "on a GPU. Tables made in one format stay as they are, and are not mixed with tables of "
        "another.",
    )
    device: str = Field(
        default="auto",
        description="Device that models run on: `auto` (the first GPU, or else the CPU), `cpu`, `cuda` or `cuda:N`.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run Python code that ships with a model. Off, because such code can do anything that the run "
        "can do.",
    )
    encoder: str = Field(
        default="reference-idf",
        description="Encoder that turns chunks and queries into vectors for dense retrieval: `reference-idf` "
        "(embedded) or `sentence-transformers:NAME-OR-FOLDER`.",
    )
