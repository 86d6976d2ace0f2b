"""Benchmark of the scoring engine against plain transformers and against the hardware's limit.

    python benchmarks/scoring.py --shape 1b 8b --what maps verify long cam      # one GPU
    make bench                                                                  # a CPU, the demo's model

Shapes other than `reference` have random bf16 weights, which is enough for speed. The hardware's limit is computed: the
operations of the matrix products (2 × parameters a token, the head for the rows that are asked for, attention for the
pairs of inputs that see each other), divided by the rate of an 8192³ bf16 product (2048³ fp32 on a CPU). That rate is
measured in the same process in a burst of ten; the rate that is sustained for two seconds (one on a CPU) is reported
with it. The naive ways run in the same process too: on a GPU on a sample; on a CPU in turns with the engine, in three
rounds, of which the medians count.

Documents have 64 to 4,095 tokens, log-normal, median 800; those of `reference` 128 to 640, median 300, as in the demo.
Verification reads such documents as roots. Each root has 12 anchors with 32 candidates each, drawn from 200 chunks of
512 tokens (`reference`: 128), so a unique (root, chunk) serves 2.2 pairs. Tokens a second count the tokens that were
read: a shared chunk counts once.

A run prints its tables as it goes. When a shape is done, its section replaces the whole section of that shape and
device in results/scoring.md, and its numbers replace theirs in scoring.json next to it, from which scoring.png is
drawn. Needs torch, transformers and numpy, and PYTHONPATH=. if the project is not installed; the picture
needs matplotlib, Pillow and polars, too (`--plot-from` draws it on another machine).
"""

import argparse
import gc
import os
import platform
import warnings
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.scoring_bench import SHAPES, Bench, open_bench
from benchmarks.scoring_cases import CASES, longest_input
from benchmarks.scoring_tables import TABLES, read_numbers, section_head, table_head, table_row, write_section

RESULTS = Path(__file__).parent / "results" / "scoring.md"


def main() -> None:
    arguments = parsed()
    if arguments.plot_from:
        draw_picture(arguments.plot_from)
        return
    warnings.simplefilter("ignore")
    for shape in arguments.shape:
        measure_shape(shape, arguments)
        release()
    if not arguments.dry:
        draw_picture(arguments.results.with_name("scoring.json"))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--shape",
        nargs="+",
        choices=[*SHAPES, "reference"],
        default=["reference"],
        help="sizes of models (default: reference)",
    )
    parser.add_argument(
        "--what", nargs="+", choices=TABLES, default=["maps", "verify"], help="tables to measure (default: maps verify)"
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="torch device (default: cuda if there is one)",
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor on the amount of work, less than 1 for a trial (default: 1)"
    )
    parser.add_argument("--roots", type=int, help="roots of verification (default: 16 times the scale)")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        help="page to write the sections into (default: benchmarks/results/scoring.md)",
    )
    parser.add_argument("--dry", action="store_true", help="print the tables and write nothing")
    parser.add_argument(
        "--plot-from", type=Path, metavar="JSON", help="measure nothing; draw scoring.png next to this file"
    )
    return parser.parse_args()


def measure_shape(shape: str, arguments: argparse.Namespace) -> None:
    """Measure and print a shape's section, then write it."""
    bench = open_bench(shape, arguments.device, scale=arguments.scale, roots=arguments.roots)
    name = f"{shape} on {torch.cuda.get_device_name() if bench.on_gpu else 'CPU'}"
    section = {**circumstances(bench), "tables": {}}
    print(f"{section_head(name, section)}\n", flush=True)
    for what in arguments.what:
        if longest_input(bench, what) > bench.engine.window:
            reads = f"it reads {longest_input(bench, what):,} tokens, and the window is {bench.engine.window:,}"
            print(f"{what} is left out: {reads}.\n", flush=True)
            continue
        rows = section["tables"].setdefault(what, [])
        measure_case(bench, what, rows)
    if not arguments.dry:
        write_section(arguments.results, name, section)


def measure_case(bench: Bench, what: str, rows: list[dict[str, Any]]) -> None:
    """Print a case's rows and add them, rounded to six digits."""
    print(table_head(what), flush=True)
    try:
        for row in CASES[what](bench):
            rows.append({key: six_digits(cell) if isinstance(cell, float) else cell for key, cell in row.items()})
            print(table_row(what, rows[-1]), flush=True)
    except torch.OutOfMemoryError:
        print(f"\n{what} ends here: the device's memory does not hold the next row.", flush=True)
    print(flush=True)


def circumstances(bench: Bench) -> dict[str, Any]:
    """Return the circumstances that a section's numbers depend on."""
    threads = "" if bench.on_gpu else f", torch threads: {torch.get_num_threads()}"
    return {
        "shape": bench.name,
        "date": date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores{threads}",
        "versions": installed(["torch", "transformers", "triton"]),
        "dtype": bench.engine.dtype,
        "flops_per_second": six_digits(bench.flops_per_second),
        "sustained_flops_per_second": six_digits(bench.sustained_flops_per_second),
        "max_batch_tokens": bench.engine.max_batch_tokens,
        "scale": bench.scale,
        "roots": bench.roots,
    }


def six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed; triton comes with CUDA only."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def release() -> None:
    """Free a shape's memory before the next shape is opened."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def draw_picture(numbers: Path) -> None:
    """Draw scoring.png next to the numbers; if a package that it needs is missing, say so instead."""
    try:
        from benchmarks.scoring_picture import picture
    except ModuleNotFoundError as error:
        print(
            f"No picture, {error.name} is not installed; elsewhere: python benchmarks/scoring.py --plot-from {numbers}"
        )
        return
    numbers.with_name("scoring.png").write_bytes(picture(read_numbers(numbers)))


if __name__ == "__main__":
    main()
