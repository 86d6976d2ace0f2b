from collections.abc import Callable

from dagster import AssetKey

from el_assets.cli.backfills import submit_backfill
from el_assets.operations.run_needs import RAY_TAG
from tests.conftest import Workspace, library_documents, library_samples

A, B, C = "a.jsonl", "b.jsonl", "c.jsonl"


def test_a_backfill_asks_for_the_chosen_shards_and_for_the_index_once(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace()
    for number, shard in enumerate((A, B, C)):
        workspace.write_shard(shard, library_documents(1, offset=number))
    workspace.register()
    identifier = submit_backfill(workspace.instance, workspace.loaded(), ["index"], {"corpus": [A, C]})
    backfill = workspace.instance.get_backfill(identifier)
    assert backfill is not None and backfill.asset_backfill_data is not None
    asked = backfill.asset_backfill_data.target_subset
    assert asked.asset_keys == {AssetKey("documents"), AssetKey("context_chunks"), AssetKey("retrieval_index")}
    for table in ("documents", "context_chunks"):
        assert set(asked.partitions_subsets_by_asset_key[AssetKey(table)].get_partition_keys()) == {A, C}
    assert asked.non_partitioned_asset_keys == {AssetKey("retrieval_index")}
    assert RAY_TAG not in backfill.tags, "this instance's runs are processes of this machine"


def test_a_backfill_of_gateau_ends_with_ranking_subsets_and_report(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace()
    for number, shard in enumerate((A, B, C)):
        workspace.write_instructions(shard, library_samples(1, offset=number))
    workspace.register_instructions()
    chosen = {"instructions": [B]}
    identifier = submit_backfill(workspace.instance, workspace.loaded(), ["gateau", "reports"], chosen)
    backfill = workspace.instance.get_backfill(identifier)
    assert backfill is not None and backfill.asset_backfill_data is not None
    asked = backfill.asset_backfill_data.target_subset
    assert asked.non_partitioned_asset_keys == {AssetKey("influence_scores"), AssetKey("gateau_report")}
    partitions = {
        key.to_user_string(): set(s.get_partition_keys()) for key, s in asked.partitions_subsets_by_asset_key.items()
    }
    assert partitions == {
        "instruction_samples": {B},
        "hmg_scores": {B},
        "cam_scores": {B},
        "selected_subsets": {"top_10_percent", "top_30_percent", "top_50_percent"},
    }
