"""Entropy and negative log-likelihood of token sequences under a causal language model."""

from el_resources.scoring.batching import input_lengths
from el_resources.scoring.engine import ScoringEngine, TokenScores

__all__ = ["ScoringEngine", "TokenScores", "input_lengths"]
