"""Choices that a setting offers and another module implements, each named once."""

from typing import Literal

# How texts and queries of the full-text index are cut into words.
FullTextTokenizer = Literal["icu", "simple", "whitespace", "ngram"]
# Treatment of a text that is longer than the encoder's window.
LongTexts = Literal["split", "refuse"]
# The exchange of a conversation whose response is scored.
ScoredExchange = Literal["first", "last", "all"]
