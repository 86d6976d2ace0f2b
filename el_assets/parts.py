"""What a run from the command line consists of; apart, so that `--help` loads nothing."""

PARTS = ("index", "entropylong", "gateau", "reports")
