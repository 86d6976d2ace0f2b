"""The sources of all data as external assets, at which lineage starts."""

import dagster as dg

from el_resources.addresses import without_secrets
from el_resources.settings import Settings


def sources(settings: Settings) -> list[dg.AssetSpec]:
    """The corpus and the pool that the settings name.

    Their metadata is the environment's when definitions load. A launchpad may name others for its run; what a table was
    read from is recorded in its column `source`, and the content in its fingerprint.
    """
    return [
        dg.AssetSpec(
            "source_corpus",
            group_name="sources",
            kinds={"file"},
            description="The documents that the corpus is read from (`EL_CORPUS`): Parquet or JSON lines files, a "
            "shard each, or the embedded documentation of Python's standard library. This workspace never writes to "
            "it.",
            metadata={"uri": without_secrets(settings.corpus)},
        ),
        dg.AssetSpec(
            "source_instructions",
            group_name="sources",
            kinds={"file"},
            description="The instruction samples that GATEAU chooses from (`EL_INSTRUCTIONS`): Parquet or JSON lines "
            "files, a shard each, or the embedded questions about Python's documentation. This workspace never writes "
            "to it.",
            metadata={"uri": without_secrets(settings.instructions)},
        ),
    ]
