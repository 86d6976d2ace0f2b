"""Print the entropy and the negative log-likelihood of every token of a text."""

from el_resources.scoring.texts import TextScorer

scorer = TextScorer.open()  # the embedded model; or a folder, or a hub id
scores = scorer.entropy("Return a list of the names of the files.")
for token, entropy, nll in zip(scores.tokens, scores.entropy_nats, scores.nll_nats, strict=True):
    print(f"{token!r:10} {entropy:.2f} {nll:.2f}")
