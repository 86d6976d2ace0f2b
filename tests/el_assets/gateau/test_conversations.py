"""Whole conversations through the workspace: what went into a file comes out of the subsets, whatever was scored."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from el_assets.__main__ import main
from el_assets.gateau.checks import rows_add_up
from el_assets.parts import FRACTIONS
from tests.conftest import Workspace, chat, failed_checks, forwards, library_documents, library_samples, tiny_model

A, B = "a.jsonl", "b.jsonl"
TOP_10, TOP_30, TOP_50 = FRACTIONS
TEXTS = [document["text"] for document in library_documents(6)]


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


# Key orders, numbers and keys that nobody reads are part of what comes out.
THREE_TURNS = {
    "id": "three-turns",
    "length": 2**70,
    "messages": [
        message("system", "Antworte kurz. 語 🙂"),
        {"content": f"{TEXTS[0]}\n\nWhat is it?", "role": "user", "name": "Ann"},
        message("assistant", "A module.", weight=0.1),
        message("user", "Of what?"),
        message("assistant", "The library.\n"),
        message("user", "Thanks!\n\nSure?"),
        message("assistant", "Yes."),
    ],
}
SHAREGPT = {
    "id": "sharegpt",
    "length": 7.5,
    "conversations": [
        {"from": "human", "value": f"{TEXTS[1]}\n\nWhat is it?"},
        {"from": "gpt", "value": "Another module.", "markdown": None},
        {"from": "human", "value": "Why?"},
        {"from": "gpt", "value": "Because."},
    ],
}
PARTS = {
    "id": "parts",
    "messages": [
        message("developer", "Be kind."),
        message("user", [{"type": "text", "text": TEXTS[2]}, {"text": "\n\nWhat is it?", "type": "text"}]),
        message("assistant", "A third module."),
    ],
}
THREE_TEXTS = {"id": "texts", "length": None, "context": TEXTS[3], "instruction": "What?", "response": "A fourth one."}
UNANSWERED = {
    "id": "unanswered",
    "messages": [*chat("", TEXTS[4], "What?", "A fifth.")["messages"], message("user", "?")],
}
PLAIN = chat("plain", TEXTS[5], "What is it?", "A sixth.")
GOOD = [THREE_TURNS, SHAREGPT, PARTS, THREE_TEXTS, UNANSWERED, PLAIN]
IMAGE = {"messages": [message("user", [{"type": "image_url", "image_url": "x"}]), message("assistant", "A picture.")]}
TOOLS = [message("user", "1 + 2?"), message("assistant", None, tool_calls=[{"id": "1"}]), message("tool", "3")]
# With the reason of each.
SET_ASIDE = [
    (IMAGE, "content_not_text"),
    ({"messages": [*TOOLS, message("assistant", "3")]}, "tool_turns"),
    ({**THREE_TURNS, "id": "copy"}, "exact_duplicate"),
    ({**PLAIN}, "exact_duplicate"),
    ({"messages": [message("narrator", "Once"), *PLAIN["messages"]]}, "unknown_role"),
]


def conversation(row: dict[str, Any]) -> Any:
    """Return the sample's `original`."""
    texts = {name: row.get(name) for name in ("context", "instruction", "response")}
    return row.get("messages") or row.get("conversations") or texts


def out(messages: Any) -> list[dict[str, Any]]:
    """Return the sample's `messages`."""
    if isinstance(messages, dict):
        asked = f"{messages['context']}\n\n{messages['instruction']}"
        return [message("user", asked), message("assistant", messages["response"])]
    found = []
    for one in messages:
        content = one.get("content", one.get("value"))
        text = "".join(part["text"] for part in content) if isinstance(content, list) else content
        found.append(message(one.get("role", one.get("from")), text))
    return found


def check_subset(path: Path, kept: tuple[str, ...]) -> int:
    """Every selected row is its row of the file; returns how many there are."""
    rows = {row["id"]: row for row in GOOD}
    subset = pl.read_parquet(path)
    for selected in subset.iter_rows(named=True):
        row = rows[selected["sample_id"]]
        # As texts, in which the order of keys counts, and 1 is not 1.0.
        assert json.dumps(json.loads(selected["original"])) == json.dumps(conversation(row))
        assert selected["messages"] == out(conversation(row))
        assert json.loads(selected["kept_columns"]) == {name: row[name] for name in kept if name in row}
    return subset.height


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=768))


@pytest.fixture
def workspace(new_workspace: Callable[..., Workspace], random_model: str) -> Workspace:
    return new_workspace(long_model=random_model, short_window=96, segment_tokens=128)


def test_from_a_file_to_chosen_subsets_on_the_command_line(
    tmp_path: Path, random_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*GOOD, *(row for row, _ in SET_ASIDE)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    environment = {
        "DAGSTER_HOME": str(tmp_path),
        "EL_INSTRUCTIONS": f"jsonl:{tmp_path / 'pool.jsonl'}",
        "EL_STORE": str(tmp_path / "store"),
        "EL_LONG_MODEL": random_model,
        "EL_SHORT_WINDOW": "96",
        "EL_KEEP_COLUMNS": "length",
    }

    chosen = f"{TOP_10},{TOP_50}"
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "--select", "gateau", "--subsets", chosen]) == 0
    found = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    reasons = "exact_duplicate 2, content_not_text 1, tool_turns 1, unknown_role 1"
    assert f"instruction samples {len(GOOD)} (set aside: {reasons})" in found
    assert f"selected {TOP_10} 1, {TOP_50} 3" in found
    assert f"small pool 6 samples are too few for {TOP_10}, which is the best sample alone" in found

    tables = tmp_path / "store" / "tables"
    assert sorted(path.stem for path in (tables / "selected_subsets").iterdir()) == [TOP_10, TOP_50]
    sizes = [check_subset(tables / "selected_subsets" / f"{name}.parquet", ("length",)) for name in (TOP_10, TOP_50)]
    assert sizes == [1, 3]
    samples = pl.read_parquet(tables / "instruction_samples" / "*.parquet")
    assert Counter(samples["set_aside_reason"].drop_nulls()) == Counter(reason for _, reason in SET_ASIDE)
    assert samples.height == len(rows), "every row of the file is scored or set aside"

    assert main(["status", "--select", "gateau", "--subsets", chosen]) == 0
    assert main(["status", "--select", "gateau"]) == 1, "the third subset is missing"


@pytest.mark.parametrize("exchange", ["first", "last", "all"])
def test_what_is_scored_does_not_change_what_is_selected(workspace: Workspace, exchange: str) -> None:
    workspace.write_instructions(A, GOOD)
    workspace.register_instructions()
    made = {"scored_exchange": exchange, "keep_columns": "length,id"}
    assert failed_checks(workspace.run("score_samples", **made)) == set()
    workspace.run("select_samples", **made)
    subset = Path(workspace.settings["store"]) / "tables" / "selected_subsets" / f"{TOP_50}.parquet"
    assert check_subset(subset, ("length", "id")) == 3
    samples = workspace.tables.read("instruction_samples", A)
    scored = samples.row(by_predicate=pl.col("sample_id") == "three-turns", named=True)
    assert scored["n_turns"] == 3
    assert [len(scored["later_exchanges"]), scored["response"]] == {
        "first": [0, "A module."],
        "last": [0, "Yes."],
        "all": [2, "A module."],
    }[exchange]
    tokens = dict(workspace.tables.read("hmg_scores", A).select("sample_id", "n_response_tokens").iter_rows())
    assert tokens == dict(samples.select("sample_id", "n_response_tokens").iter_rows())


def test_conversations_scored_in_two_ways_are_not_ranked_together(workspace: Workspace) -> None:
    for shard, rows in ((A, GOOD[:3]), (B, GOOD[3:])):
        workspace.write_instructions(shard, rows)
    workspace.register_instructions()
    workspace.run("score_samples", A, A)
    workspace.run("score_samples", B, B, scored_exchange="last")
    with pytest.raises(ValueError, match=r"scored_exchange is 'first' in 'a\.jsonl' and 'last' in 'b\.jsonl'"):
        workspace.run("select_samples")


def test_later_responses_longer_than_the_window_are_set_aside_only_if_they_are_scored(workspace: Workspace) -> None:
    turns = [message("user", "Count."), message("assistant", " ".join(map(str, range(900))))]
    workspace.write_instructions(A, [{"id": "long", "messages": [*PLAIN["messages"], *turns]}, PLAIN])
    workspace.register_instructions()
    for exchange, reasons in (("first", [None, None]), ("all", ["does_not_fit_window", None])):
        workspace.materialize("instruction_samples", scored_exchange=exchange)
        assert workspace.tables.read("instruction_samples", A)["set_aside_reason"].to_list() == reasons


def test_exact_copies_are_set_aside_and_the_first_stays(workspace: Workspace) -> None:
    first, other = library_samples(2)
    as_sharegpt = [{"from": "human", "value": first["messages"][0]["content"]}]
    as_sharegpt.append({"from": "gpt", "value": first["messages"][1]["content"]})
    longer = [*first["messages"], message("user", "Why?"), message("assistant", "So.")]
    rows = [
        {"messages": first["messages"]},
        {"messages": first["messages"]},
        {"id": "named", "conversations": as_sharegpt},
        {"messages": longer},
        {"messages": [message("system", "Be brief."), *first["messages"]]},
        other,
        {**other, "messages": longer[:2]},
    ]
    workspace.write_instructions(A, rows)
    workspace.register_instructions()
    workspace.materialize("instruction_samples")
    samples = workspace.tables.read("instruction_samples", A)
    copy = "exact_duplicate"
    assert samples["set_aside_reason"].to_list() == [None, copy, copy, None, None, None, copy]
    own_id = samples["sample_id"][0]
    assert samples["detail"].to_list()[1:3] == [f"the conversation is that of sample {own_id!r}"] * 2
    kept = samples.filter(pl.col("set_aside_reason").is_null())["sample_id"]
    assert kept.n_unique() == len(kept) == 4, "samples without an id differ by their later turns too"


def test_copies_in_two_shards_are_told(workspace: Workspace) -> None:
    workspace.write_instructions(A, library_samples(2))
    workspace.write_instructions(B, [{**library_samples(1)[0], "id": "again"}, *library_samples(1, offset=3)])
    workspace.register_instructions()
    result = workspace.materialize("instruction_samples")
    assert failed_checks(result) == {"conversations_are_unique_over_shards"}
    (check,) = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "again" in (check.description or "")
    assert "['a.jsonl', 'b.jsonl']" in (check.description or "")


def test_a_column_that_some_files_lack_is_kept_of_the_others_and_a_misspelt_one_refused(workspace: Workspace) -> None:
    workspace.write_instructions(A, library_samples(5))
    workspace.write_instructions(B, [{**sample, "length": 1} for sample in library_samples(5, offset=5)])
    workspace.register_instructions()
    first = workspace.run("score_samples", keep_columns="length")
    assert failed_checks(first) == set()
    assert forwards(first) > 0
    workspace.run("select_samples", keep_columns="length")
    chosen = workspace.tables.read("selected_subsets", "top_50_percent")
    assert set(chosen.select("shard", "kept_columns").iter_rows()) <= {(A, "{}"), (B, '{"length": 1}')}

    assert forwards(workspace.run("score_samples", keep_columns="lenght")) == 0, "no score depends on them"
    with pytest.raises(ValueError, match="EL_KEEP_COLUMNS names 'lenght', which no row of the pool has"):
        workspace.run("select_samples", keep_columns="lenght")


def test_samples_of_an_earlier_version_are_named_where_they_are_read(workspace: Workspace) -> None:
    workspace.write_instructions(A, library_samples(2))
    workspace.register_instructions()
    workspace.materialize("instruction_samples")
    old = replace(workspace.tables.require_stamp("instruction_samples", A), made_from={"code_version": "3"})
    workspace.tables.write(workspace.tables.read("instruction_samples", A).drop("later_exchanges"), old)
    with pytest.raises(
        ValueError, match=r"the first is 'a\.jsonl', were made by an earlier version; run the job score"
    ):
        workspace.materialize("cam_scores")


def test_rows_that_do_not_add_up_are_told(workspace: Workspace) -> None:
    workspace.write_instructions(A, [*library_samples(2), {"messages": []}])
    workspace.register_instructions()
    workspace.materialize("instruction_samples")
    assert rows_add_up(workspace.tables, A) == []
    stamp = workspace.tables.require_stamp("instruction_samples", A)
    lost = replace(stamp, facts={**stamp.facts, "source_rows": 4})
    workspace.tables.write(workspace.tables.read("instruction_samples", A), lost)
    assert rows_add_up(workspace.tables, A) == ["of 4 rows 2 are scored and 1 set aside"]
