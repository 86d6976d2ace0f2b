"""Origins of a setting's value, its bounds, and the words of errors."""

import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import dagster as dg
import pytest

from el_resources.configuration.launching import settings_at_launch
from el_resources.configuration.seen_settings import UnnamedSettingError
from el_resources.settings import Settings, all_settings
from el_resources.sources.mixture import parse_mixture


@pytest.mark.parametrize(
    ("environment", "overrides", "sequence_tokens"),
    [
        ({"EL_PROFILE": "paper"}, {}, 131_072),
        ({"EL_PROFILE": "paper", "EL_SEQUENCE_TOKENS": "4096"}, {}, 4096),
        ({"EL_PROFILE": "paper", "EL_SEQUENCE_TOKENS": "4096"}, {"sequence_tokens": 512}, 512),
        ({"EL_PROFILE": "paper", "EL_SEQUENCE_TOKENS": "4096"}, {"sequence_tokens": None}, 4096),
        ({"EL_SEQUENCE_TOKENS": "4096"}, {"profile": "paper"}, 4096),
        ({}, {"profile": "paper"}, 131_072),
    ],
)
def test_overrides_win_over_environment_over_profile(
    environment: dict[str, str], overrides: dict[str, Any], sequence_tokens: int
) -> None:
    assert Settings.load(environment, **overrides).sequence_tokens == sequence_tokens


def test_an_override_of_the_profile_replaces_all_of_the_other() -> None:
    assert Settings.load({"EL_PROFILE": "paper"}, profile="reference") == Settings.load({})


def test_text_of_the_environment_becomes_the_fields_type() -> None:
    found = Settings.load({"EL_ALPHA": "1.25", "EL_BEATS_CONTROLS": "false", "EL_SEED": "7", "EL_SEPARATOR": " "})
    assert (found.alpha, found.beats_controls, found.seed, found.separator) == (1.25, False, 7, " ")


def test_the_process_environment_is_the_default_and_the_file_wins_over_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EL_EPSILON", "0.25")
    assert Settings.load().epsilon == 0.25
    (tmp_path / ".env").write_text("EL_EPSILON=0.3\n")
    assert Settings.load().epsilon == 0.3


def test_only_el_variables_are_read_and_those_of_deployments_passed_over() -> None:
    assert Settings.load({"ALPHA": "9", "PATH": "x", "EL_EXECUTION": "ray"}) == Settings.load({})


def test_misspelt_names_are_refused_and_named() -> None:
    named = r"unknown setting EL_ALHPA \(did you mean EL_ALPHA\?\); EL_QQ\. \.env\.example lists"
    with pytest.raises(ValueError, match=named):
        Settings.load({"EL_QQ": "0.2", "EL_ALHPA": "1"})
    with pytest.raises(ValueError, match=r"unknown setting alhpa \(did you mean alpha\?\); choose from alpha, "):
        Settings.load({}, alhpa=1.0)


OTHER_TEXTS = {
    "corpus": "jsonl:x",
    "device": "cpu",
    "encoder": "sentence-transformers:x",
    "hub_endpoint": "https://x",
    "instruction_columns": "messages=dialog",
    "instructions": "jsonl:x",
    "long_model": "reference:short",
    "short_model": "reference:long",
}


def other_values() -> dict[str, Any]:
    """A valid value for every setting that is not its default, whatever its type."""
    found: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        if get_origin(field.annotation) is Literal:
            found[name] = next(choice for choice in get_args(field.annotation) if choice != default)
        elif isinstance(default, bool):
            found[name] = not default
        elif isinstance(default, str):
            found[name] = f"{default}x"
        elif name == "backfill_every_hours":
            found[name] = 6
        else:
            found[name] = default + 1 if isinstance(default, int) else default / 2
    return {**found, **OTHER_TEXTS, "root_tokens_min": 64}


def test_every_value_of_an_instance_arrives_in_a_run_whose_launch_config_is_empty() -> None:
    seen: list[Settings] = []

    @dg.asset
    def reader(settings: Settings) -> None:
        seen.append(settings)

    values = other_values()
    environment = {f"EL_{name.upper()}": str(value) for name, value in values.items()}
    with dg.DagsterInstance.ephemeral() as instance:
        resources = {"settings": settings_at_launch(Settings.load(environment))}
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        dg.materialize([reader], instance=instance, resources=resources, run_config=quiet)
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    arrived = seen[0].model_dump()
    assert [name for name in defaults if arrived[name] == defaults[name]] == [], "none is its default"
    assert arrived == values


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"profile 'papers' is unknown; choose one of \['paper', 'reference'\]"):
        Settings.load({"EL_PROFILE": "papers"})


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("alpha", "20.5", "less than or equal to 20"),
        ("alpha", "nan", "finite number"),
        ("alpha", "two", "valid number"),
        ("epsilon", "1", "less than 1"),
        ("epsilon", "-1", "greater than -1"),
        ("epsilon", "inf", "finite number"),
        ("candidates_per_anchor", "0", "greater than or equal to 1"),
        ("candidates_per_anchor", "1001", "less than or equal to 1000"),
        ("sequence_tokens", "15", "greater than or equal to 16"),
        ("sequence_tokens", "2048.5", "valid integer"),
        ("near_duplicate_containment", "0", "greater than 0"),
        ("criterion", "perplexity", "'entropy', 'nll' or 'both'"),
        ("store", "", "at least 1 character"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_what_is_allowed(name: str, text: str, allowed: str) -> None:
    variable = f"EL_{name.upper()}"
    with pytest.raises(ValueError) as raised:
        Settings.load({variable: text})
    assert str(raised.value).startswith(f"invalid settings: {name} ({variable}) = {text!r}: ")
    assert allowed in str(raised.value)


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"EL_ALPHA.*; epsilon \(EL_EPSILON\)"):
        Settings.load({"EL_ALPHA": "99", "EL_EPSILON": "2"})


def test_bounds_that_span_fields() -> None:
    with pytest.raises(ValueError, match="root_tokens_max=100 is below root_tokens_min=200"):
        Settings.load({}, root_tokens_min=200, root_tokens_max=100)
    assert Settings.load({}, root_tokens_min=200, root_tokens_max=0).root_tokens_max == 0
    # One token of a context and the whole root are the least that a sequence holds.
    with pytest.raises(ValueError, match="sequence_tokens=300 has to hold a whole root of at least root_tokens_min"):
        Settings.load({}, root_tokens_min=300, sequence_tokens=300)
    assert Settings.load({}, root_tokens_min=300, sequence_tokens=301).sequence_tokens == 301
    with pytest.raises(ValueError, match="controls_per_root=0 draws none; set controls_per_root to at least 1"):
        Settings.load({"EL_CONTROLS_PER_ROOT": "0"})
    assert Settings.load({"EL_CONTROLS_PER_ROOT": "0"}, beats_controls=False).controls_per_root == 0


def test_a_launch_changes_one_value_and_plans_no_run_beyond_the_bounds() -> None:
    seen: list[Settings] = []

    @dg.asset
    def reader(settings: Settings) -> None:
        seen.append(settings)

    def launch(**values: float) -> None:
        with dg.DagsterInstance.ephemeral() as instance:
            dg.materialize(
                [reader],
                instance=instance,
                resources={"settings": settings_at_launch(Settings.load({"EL_ALPHA": "1.25"}))},
                run_config={
                    "resources": {"settings": {"config": values}},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
            )

    launch(epsilon=0.31)
    launch()
    assert [(settings.alpha, settings.epsilon) for settings in seen] == [(1.25, 0.31), (1.25, 0.4)]
    with pytest.raises(dg.DagsterInvalidConfigError, match=r"epsilon \(EL_EPSILON\) = 2.0: .* less than 1"):
        launch(epsilon=2.0)
    assert len(seen) == 2


def test_the_paper_profile_is_the_paper_with_our_additions_off() -> None:
    stated_by_the_paper = {
        "alpha": 2.0,
        "epsilon": 0.4,
        "query_half_width": 16,
        "candidates_per_anchor": 32,
        "retriever": "dense",
        "query_side": "around",
        "criterion": "entropy",
        "sequence_tokens": 131_072,
    }
    switched_off = {
        "skip_tokens": 0,
        "max_anchors": 0,
        "beats_controls": False,
        "max_chunk_uses": 0,
        "roots_per_shard": 0,
        "root_tokens_min": 1,
        "root_tokens_max": 0,
    }
    paper = Settings.load({"EL_PROFILE": "paper"})
    expected = {**stated_by_the_paper, **switched_off}
    assert paper.subset(tuple(expected)) == expected
    sources = [(spec.uri, spec.weight, spec.roots) for spec in parse_mixture(paper.corpus)]
    assert sources == [
        ("hf:HuggingFaceFW/fineweb-edu/sample-10BT", 1, True),
        ("hf:HuggingFaceTB/cosmopedia/stanford", 1, True),
    ]
    # Kept: controls are measured, near-duplicates excluded.
    assert paper.controls_per_root > 0
    assert paper.near_duplicate_containment < 1


def test_a_subset_is_json_ready_and_sorted() -> None:
    found = Settings.load({}, alpha=1.5, criterion="nll", seed=3).subset(("seed", "criterion", "alpha"))
    assert json.dumps(found) == '{"alpha": 1.5, "criterion": "nll", "seed": 3}'


def test_a_step_sees_the_settings_that_it_names_and_no_other() -> None:
    settings = Settings.load({}, epsilon=0.3)
    seen = settings.seen_by("verified_pairs", ["epsilon", "store"])
    assert (seen.epsilon, seen.store) == (0.3, "data")
    assert seen.subset(("epsilon",)) == {"epsilon": 0.3}
    for read in (lambda: seen.alpha, lambda: seen.subset(("alpha", "epsilon"))):
        with pytest.raises(UnnamedSettingError, match="verified_pairs reads the setting 'alpha', which its recipe"):
            read()
    assert all_settings(seen).alpha == 1.5
    assert all_settings(settings) is settings


def test_a_store_may_be_named_by_a_file_address(tmp_path: Path) -> None:
    assert Settings.load({"EL_STORE": f"file://{tmp_path}/store"}).store == f"{tmp_path}/store"


@pytest.mark.parametrize("place", ["s3://KEY:SECRET@bucket/x", "s3://bucket/x?sig=SECRET"])
def test_a_store_whose_address_holds_credentials_is_refused_and_not_printed(place: str) -> None:
    with pytest.raises(ValueError, match=r"a store's address holds no credentials .* AWS_\* variables") as raised:
        Settings.load({"EL_STORE": place})
    assert "SECRET" not in str(raised.value)
