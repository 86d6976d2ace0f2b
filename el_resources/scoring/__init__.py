"""Entropy, negative log-likelihood and segment attention of token sequences under a causal language model."""

from el_resources.scoring.batching import input_lengths
from el_resources.scoring.engine import ScoringEngine
from el_resources.scoring.results import TokenScores
from el_resources.scoring.segment_mass import SegmentScores

__all__ = ["ScoringEngine", "SegmentScores", "TokenScores", "input_lengths"]
