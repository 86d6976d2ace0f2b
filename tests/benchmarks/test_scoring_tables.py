"""Numbers become tables, and sections go into both files, which keep the others."""

from pathlib import Path

from benchmarks.scoring_tables import read_numbers, section_text, write_section

SECTION = {
    "shape": "1b",
    "date": "2026-11-22",
    "machine": "Linux x86_64, 16 CPU cores",
    "versions": {"torch": "2.11.0", "triton": "3.6.0"},
    "dtype": "bfloat16",
    "flops_per_second": 776.4e12,
    "sustained_flops_per_second": 700e12,
    "max_batch_tokens": 32768,
    "scale": 0.5,
    "roots": 8,
    "tables": {
        "verify": [
            {
                "way": "engine",
                "units": 1416,
                "pairs": 3072,
                "pairs_per_second": 448.81,
                "times_plain": 10.48,
                "tokens_per_second": 253555.4,
                "matmul_share": 0.6249,
                "gib_above_weights": None,
            }
        ]
    },
}
TEXT = """\
### 1b on a GPU

2026-11-22, Linux x86_64, 16 CPU cores, torch 2.11.0, triton 3.6.0, bfloat16, matrix products at 776
TFLOP/s in a burst, 700 sustained, batches of 32,768 inputs, scale 0.5, 8 roots in verification.

| verification | units | pairs | pairs/s | × plain | tokens/s | of the matmul rate | GiB above the weights |
|---|---|---|---|---|---|---|---|
| engine | 1,416 | 3,072 | 448.8 | 10.5 | 253,555 | 62 % |  |"""


def test_a_section_says_circumstances_and_rows() -> None:
    assert section_text("1b on a GPU", SECTION) == TEXT


def test_sections_are_added_to_both_files_and_replaced_there(tmp_path: Path) -> None:
    results = tmp_path / "scoring.md"
    write_section(results, "1b on a GPU", SECTION)
    write_section(results, "8b on a GPU", {**SECTION, "shape": "8b"})
    write_section(results, "1b on a GPU", {**SECTION, "tables": {}})
    numbers = read_numbers(tmp_path / "scoring.json")
    assert {name: (section["shape"], list(section["tables"])) for name, section in numbers.items()} == {
        "1b on a GPU": ("1b", []),
        "8b on a GPU": ("8b", ["verify"]),
    }
    lines = results.read_text().splitlines()
    assert [line for line in lines if line.startswith(("#", "<!--", "| engine"))] == [
        "## Tables",
        "<!-- scoring: 1b on a GPU -->",
        "### 1b on a GPU",
        "<!-- end -->",
        "<!-- scoring: 8b on a GPU -->",
        "### 8b on a GPU",
        "| engine | 1,416 | 3,072 | 448.8 | 10.5 | 253,555 | 62 % |  |",
        "<!-- end -->",
    ]


def test_the_committed_sections_say_what_the_committed_numbers_are() -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    results, numbers = (folder / "scoring.md").read_text(), read_numbers(folder / "scoring.json")
    assert numbers
    for name, section in numbers.items():
        assert f"<!-- scoring: {name} -->\n\n{section_text(name, section)}\n\n<!-- end -->\n" in results, name
