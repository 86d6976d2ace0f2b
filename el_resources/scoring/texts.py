"""Scores of texts: the scoring engine with its model's tokenizer, for use as a library (docs/engine.md).

Algorithm: texts are tokenized part by part and joined as ids, so that the position of every token is known; the engine
scores the ids. Guarantees and costs are those of engine.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from el_resources.models.model_files import resolve_model
from el_resources.models.tokenization import ModelTokenizer
from el_resources.scoring.engine import ScoringEngine

if TYPE_CHECKING:
    from el_resources.models.causal_lm import ModelChoice

SEPARATOR = "\n\n"
EMBEDDED = "reference:long"


@dataclass(frozen=True, kw_only=True)
class TextEntropy:
    """Scores of every token of a text.

    Attributes:
        tokens: the text of each token.
        entropy_nats: entropy of the distribution that predicts the token.
        nll_nats: -ln of the probability that this distribution gives to the token.
    """

    tokens: list[str]
    entropy_nats: NDArray[np.float32]
    nll_nats: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ContextEffect:
    """Entropy at some positions of a text, without and with a context in front of it.

    Attributes:
        before_nats, after_nats: entropy of the text alone, and after the context.
        reduction: (before - after) / before; 0 if the entropy before is 0.
    """

    before_nats: NDArray[np.float32]
    after_nats: NDArray[np.float32]
    reduction: NDArray[np.float32]


class TextScorer:
    """A causal language model that scores texts.

    Attributes:
        engine: the engine, for token ids.
        tokenizer: the model's tokenizer.
        separator_ids: tokens between a context and what follows it.
    """

    def __init__(self, engine: ScoringEngine, tokenizer: ModelTokenizer, *, separator: str = SEPARATOR) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.separator_ids = tokenizer.joint_ids(separator)

    @classmethod
    def open(
        cls,
        model: str | Path = EMBEDDED,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        window: int | None = None,
        separator: str = SEPARATOR,
    ) -> Self:
        """Load a model and its tokenizer.

        Args:
            model: a model folder or a hub id; the embedded reference model by default, which needs no network.
            revision: a commit or tag of the hub.
            dtype, device, window: as in `ScoringEngine.from_folder`.
        """
        folder = resolve_model(str(model), revision)
        tokenizer = ModelTokenizer.from_folder(folder)
        engine = ScoringEngine.from_folder(folder, bos_id=tokenizer.bos_id, dtype=dtype, device=device, window=window)
        return cls(engine, tokenizer, separator=separator)

    @classmethod
    def of_choice(cls, choice: "ModelChoice", *, separator: str = SEPARATOR) -> Self:
        """Load the model that the settings name, such as `ModelChoice.long(settings)`."""
        return cls(choice.open_engine(), choice.tokenizer(), separator=separator)

    def entropy(self, text: str) -> TextEntropy:
        """Score every token of a text.

        Example:
            >>> scores = TextScorer.open().entropy("Return a list.")
            >>> scores.tokens
            ['Return', ' a', ' list', '.']
            >>> [f"{nats:.1f}" for nats in scores.entropy_nats]
            ['5.1', '2.0', '5.5', '1.1']
        """
        ids = self.tokenizer.encode(text)
        [scores] = self.engine.score([ids])
        tokens = [self.tokenizer.decode([int(one)]) for one in ids]
        return TextEntropy(tokens=tokens, entropy_nats=scores.entropy_nats, nll_nats=scores.nll_nats)

    def with_context(self, context: str, text: str, positions: Sequence[int]) -> ContextEffect:
        """Compare the entropy at some positions of a text, without and with a context in front of it.

        Args:
            positions: token positions of the text, counted from 0 without the context.

        Raises:
            ValueError: the text has no such position, or context and text exceed the model's window.

        Example:
            >>> scorer = TextScorer.open()
            >>> effect = scorer.with_context("frobnicate(path) returns names.", "Call frobnicate(path).", [2])
            >>> f"{effect.before_nats[0]:.1f} nats, then {effect.after_nats[0]:.1f}: {effect.reduction[0]:.0%} less"
            '4.5 nats, then 1.3: 72% less'
        """
        wanted = np.asarray(positions, dtype=np.int64)
        ids = self.tokenizer.encode(text)
        if outside := [int(one) for one in wanted if not 0 <= one < len(ids)]:
            raise ValueError(
                f"position {outside[0]} does not exist: the text has {len(ids)} tokens; "
                f"give positions in [0, {len(ids)})"
            )
        front = np.concatenate([self.tokenizer.encode(context), self.separator_ids])
        alone, joined = self.engine.score([ids, np.concatenate([front, ids])], [wanted, wanted + len(front)])
        before, after = alone.entropy_nats, joined.entropy_nats
        reduction = np.divide(before - after, before, out=np.zeros_like(before), where=before > 0)
        return ContextEffect(before_nats=before, after_nats=after, reduction=reduction)
