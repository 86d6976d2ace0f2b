"""Pin the tree of dependencies, with the hashes of every file of each release: `make lock`.

`run.txt` pins what the project needs, `build.txt` what its installation needs besides (the build backend of
pyproject.toml), `<extra>.txt` what an extra adds. pip checks the hashes with
`pip install --no-deps --require-hashes -r requirements/run.txt -r requirements/build.txt`;
`pip install --no-build-isolation -e .` then adds the project and torch, and fetches no build backend.

torch and its CUDA libraries are left out, since which wheel is right depends on the machine (CPU or CUDA version), and
its hash with it. Versions that the files have stay unless `--upgrade` is given or pyproject.toml no longer allows them.
"""

import argparse
import re
import subprocess
import tempfile
import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent
EXTRAS = ["encoders", "test", "cluster", "services"]
COMES_WITH_TORCH = ("torch==", "triton==", "nvidia-", "cuda-")
HEADER = "# Made by `make lock` from pyproject.toml. Do not edit.\n"


def main() -> None:
    """Write one file for the project, one for its build backend and one for each extra."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows")
    upgrade = parser.parse_args().upgrade
    kept = "" if upgrade else "".join(path.read_text() for path in FOLDER.glob("*.txt"))
    run = _pinned(["pyproject.toml"], kept)
    _write("run", run)
    pinned_everywhere = {_version(entry) for entry in run if ";" not in entry.splitlines()[0]}
    asked = {"build": ["-"]} | {extra: ["pyproject.toml", "--extra", extra] for extra in EXTRAS}
    for name, options in asked.items():
        added = _pinned(options, kept + "".join(run))
        _write(name, [entry for entry in added if _version(entry) not in pinned_everywhere])


def _pinned(options: list[str], preferred: str) -> list[str]:
    """Return one entry a package, its hashes included; `preferred` is a lock file whose versions stay if they can.

    The option `-` stands for the build backend, which uv reads from its standard input.
    """
    backend = "\n".join(tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["build-system"]["requires"])
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lock.txt"
        output.write_text(preferred)
        command = ["uv", "pip", "compile", *options, "--universal", "--generate-hashes"]
        command += ["--python-version", "3.11", "--no-annotate", "--no-header", "--quiet", "-o", str(output)]
        subprocess.run(command, cwd=FOLDER.parent, check=True, input=backend, text=True)
        entries = re.split(r"\n(?=\S)", output.read_text().strip())
    return [entry + "\n" for entry in entries if not entry.startswith(COMES_WITH_TORCH)]


def _version(entry: str) -> str:
    return re.split(r"[ \\;]", entry)[0]


def _write(name: str, entries: list[str]) -> None:
    (FOLDER / f"{name}.txt").write_text(HEADER + "".join(entries))


if __name__ == "__main__":
    main()
