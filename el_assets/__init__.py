"""Software-defined assets that make and choose long-context training data."""

import warnings

# The graph is built on backfill policies, observable sources and partitioned checks. They are beta or preview, which is
# why Dagster's version is pinned. The filter is set here because decorators warn when any asset is first imported.
warnings.filterwarnings("ignore", message=".* is currently in (beta|preview)")
