"""Make `token_idf.safetensors`, the inverse document frequency of each token of the reference vocabulary.

Method: documentation is stripped of its markup and cut into windows of 128 tokens. A token that occurs in n of N
windows has the weight `ln((N + 1) / (n + 1))`: 0 if it is in all of them, `ln(N + 1)` if it is in none.

Provenance of the shipped table: the documentation of free software as Debian 12 packages it, unpacked with `dpkg -x`,
one folder a package, each giving 4 MB of text if it has that much: apache2-doc 2.4.71, bash-doc 5.2.15, cmake-doc
3.25.1, git-doc 2.39.5, perl-doc 5.36.0, postgresql-doc-15 15.20, python-django-doc 3.2.25, python3.11-doc 3.11.2,
rust-doc 1.63.0, sqlite3-doc 3.40.1. The table contains a statistic of tokens, and no text.

    python -m el_resources.reference_models.make_token_idf FOLDER [FOLDER ...]

Cost: about half a minute for the ten packages.
"""

import argparse
import gzip
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from el_resources.models.tokenization import ModelTokenizer

HERE = Path(__file__).parent
OUTPUT = HERE / "token_idf.safetensors"
WINDOW_TOKENS = 128
CHARS_PER_FOLDER = 4_000_000
# A long file must not dominate its package.
CHARS_PER_FILE = 100_000
SUFFIXES = {".html", ".htm", ".txt", ".rst", ".md", ".pod"}


class _Text(HTMLParser):
    """Collector of a page's visible text; block elements begin a line."""

    UNSEEN = frozenset({"script", "style", "head", "nav"})
    BLOCKS = frozenset({"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "pre", "dd", "dt", "table", "section"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen_depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.UNSEEN:
            self._unseen_depth += 1
        elif tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.UNSEEN and self._unseen_depth:
            self._unseen_depth -= 1

    def handle_data(self, data: str) -> None:
        if not self._unseen_depth:
            self.parts.append(data)


def texts_of(folder: Path, max_chars: int) -> Iterator[str]:
    """Yield the texts of a folder's documentation files, ordered by a hash of their paths, up to `max_chars`."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and _suffix(path) in SUFFIXES
    ]
    files.sort(key=lambda path: blake2b(str(path.relative_to(folder)).encode(), digest_size=16).digest())
    for path in files:
        text = _read(path)[: min(CHARS_PER_FILE, max_chars)]
        max_chars -= len(text)
        if text.strip():
            yield text
        if max_chars <= 0:
            return


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _read(path: Path) -> str:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = content.decode("utf-8", errors="ignore")
    if _suffix(path) not in {".html", ".htm"}:
        return text
    parser = _Text()
    parser.feed(text)
    return "".join(parser.parts)


def windows_of(texts: Iterable[str], tokenizer: ModelTokenizer) -> Iterator[NDArray[np.int32]]:
    """Yield whole windows of token ids; the rest at a text's end is dropped."""
    for text in texts:
        ids = tokenizer.encode(text)
        n_windows = len(ids) // WINDOW_TOKENS
        yield from ids[: n_windows * WINDOW_TOKENS].reshape(n_windows, WINDOW_TOKENS)


def inverse_document_frequency(windows: Iterable[NDArray[np.int32]], vocab_size: int) -> NDArray[np.float32]:
    """Return `ln((N + 1) / (n + 1))` for every token."""
    n_windows = 0
    n_with_token = np.zeros(vocab_size, dtype=np.int64)
    for window in windows:
        n_with_token[np.unique(window)] += 1
        n_windows += 1
    return np.log((n_windows + 1) / (n_with_token + 1)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the IDF table of the reference vocabulary.")
    parser.add_argument("folders", nargs="+", type=Path, help="unpacked documentation packages, one folder each")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: next to this script")
    arguments = parser.parse_args()
    tokenizer = ModelTokenizer.from_folder(HERE / "long")
    texts = (text for folder in arguments.folders for text in texts_of(folder, CHARS_PER_FOLDER))
    idf = inverse_document_frequency(windows_of(texts, tokenizer), tokenizer.vocab_size)
    save_file({"idf": idf}, str(arguments.output))
    print(f"{arguments.output}: {len(idf)} tokens, IDF {idf.min():.2f} to {idf.max():.2f}, median {np.median(idf):.2f}")


if __name__ == "__main__":
    main()
