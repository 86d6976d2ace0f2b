"""Print how much a context lowers the entropy at the most uncertain tokens of a text."""

import numpy as np

from el_resources.scoring.texts import TextScorer

CONTEXT = "The function frobnicate(path) returns the names of the files in a folder."
TEXT = "Call frobnicate(path). The function returns the names of the files in a folder."

scorer = TextScorer.open()
scores = scorer.entropy(TEXT)
anchors = np.sort(np.argsort(-scores.entropy_nats)[:4])
effect = scorer.with_context(CONTEXT, TEXT, anchors)
for index, anchor in enumerate(anchors):
    before, after = effect.before_nats[index], effect.after_nats[index]
    fall = effect.reduction[index]
    print(f"{scores.tokens[anchor]!r:10} {before:.2f} -> {after:.2f}  ΔI {fall:.2f}")
