"""Print GATEAU's two measures of five samples: the perplexity gap, and the contextual awareness score."""

from el_assets.gateau.texts import awareness, guidance
from el_resources.scoring.texts import TextScorer

FILLER = "The module provides functions to read and to write files. "
QUESTION, ANSWER = "What is the function called?", "The function is called frobnicate."
BEFORE = [0, 10, 20, 30, 40]  # sentences of the filler before the answer, of 40
SAMPLES = [(f"{FILLER * n}{ANSWER} {FILLER * (40 - n)}", QUESTION, ANSWER) for n in BEFORE]

scorer = TextScorer.open()
gaps = guidance(scorer, SAMPLES, short_window=128)  # in nats: the difference of log-perplexities
for n, gap, aware in zip(BEFORE, gaps, awareness(scorer, SAMPLES), strict=True):
    masses = " ".join(f"{one:.2f}" for one in aware.attention)
    print(f"{n:2} before  gap {gap:5.2f}  CAS {aware.cas:.2f}  attention {masses}")
