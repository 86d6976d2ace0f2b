"""Software-defined assets that make and choose long-context training data."""

import warnings

# Backfill policies, observable sources and partitioned checks are what the graph is built on; that they are beta or
# preview is known, and their versions are pinned. Said here, since decorators warn wherever an asset is imported first.
warnings.filterwarnings("ignore", message=".* is currently in (beta|preview)")
