import dagster as dg

from el_assets.shard_checks import result


def test_nothing_found_is_passed() -> None:
    found = result({}, shards=3, remedy="Do it again")
    assert found.passed
    assert {name: value.value for name, value in found.metadata.items()} == {"shards_checked": 3, "problems": 0}
    assert found.description is None


def test_what_is_found_is_named_by_shard_with_the_remedy() -> None:
    found = result({"a": ["x is 1", "y is 2"], "b": ["z is 3"]}, shards=4, remedy="Do it again")
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.ERROR
    assert found.description == "a: x is 1. Do it again"
    assert {name: value.value for name, value in found.metadata.items()} == {
        "shards_checked": 4,
        "problems": 3,
        "first_problems": ["a: x is 1", "a: y is 2", "b: z is 3"],
        "what_to_do": "Do it again",
    }


def test_shards_without_problems_do_not_fail() -> None:
    assert result({"a": [], "b": []}, shards=2, remedy="Do it again").passed


def test_many_problems_are_counted_and_the_first_shown() -> None:
    problems = {"a": [f"row {number}" for number in range(100)]}
    found = result(problems, shards=1, remedy="Do it again", severity=dg.AssetCheckSeverity.WARN)
    assert found.metadata["problems"].value == 100
    assert found.metadata["first_problems"].value == [f"a: row {number}" for number in range(20)]
    assert found.severity == dg.AssetCheckSeverity.WARN
