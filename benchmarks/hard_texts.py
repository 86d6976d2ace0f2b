"""Cost of inputs that once took quadratic or cubic time: CPU seconds for 1, 10 and 100 MB of each.

- *equal texts*: documents of 250 characters, all alike and without ids, made into the `documents` table.
- One document's text, cut into retrieval chunks of 128 tokens of the reference model: a word without an end (hex
  digits), an array of numbers, Han without punctuation, one line of words, lines of words. The last is an ordinary
  text, for comparison.

The cost is linear if the seconds of a row grow tenfold from column to column. CPU seconds are summed over all threads,
so other work on the machine changes them little.

    OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 python benchmarks/hard_texts.py --megabytes 1 10
"""

import argparse
import random
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice

from el_assets.corpus.documents import documents_table
from el_resources.models.model_files import REFERENCE_FOLDER
from el_resources.models.text_splitting import TextSplitter
from el_resources.models.tokenization import ModelTokenizer
from el_resources.sources.contracts import SourceDocument

CHUNK_TOKENS = 128
EQUAL_CHARS = 250
# A text is made of one piece of random content, repeated.
PIECE_CHARS = 1_000_000
WORDS = ("alpha", "network", "returns", "of", "the", "socket", "when", "a", "file", "closed")


def piece(signs: list[str], joint: str, rng: random.Random) -> str:
    """Return about a million characters of random signs."""
    n_signs = PIECE_CHARS // (len(signs[0]) + len(joint))
    return joint.join(rng.choices(signs, k=n_signs)) + joint


def texts() -> dict[str, str]:
    """Return a piece of every kind of text, by the name of the kind."""
    rng = random.Random(0)
    lines = [" ".join(rng.choices(WORDS, k=12)) + "." for _ in range(1000)]
    return {
        "one word of hex digits": piece(list("0123456789abcdef"), "", rng),
        "an array of numbers": piece([str(number) for number in range(256)], ",", rng),
        "Han without punctuation": piece(list("漢字文章標準日本中国語学"), "", rng),
        "one line of words": piece(list(WORDS), " ", rng),
        "lines of words": piece(lines, "\n", rng),
    }


def of_size(part: str, megabytes: int) -> str:
    """Return the piece, repeated to this many megabytes of UTF-8."""
    n_chars = megabytes * 10**6 * len(part) // len(part.encode())
    return "".join(islice(cycle([part]), n_chars // len(part) + 1))[:n_chars]


def chunks(splitter: TextSplitter, part: str, megabytes: int) -> int:
    (spans,) = splitter.split_all([of_size(part, megabytes)])
    return len(spans)


def equal_texts(megabytes: int) -> int:
    n_documents = megabytes * 10**6 // EQUAL_CHARS
    document = SourceDocument(source_id=None, text="x" * EQUAL_CHARS)
    return documents_table((document for _ in range(n_documents)), "made").height


def seconds(work: Callable[[int], int], megabytes: int) -> tuple[float, int]:
    started = time.process_time()
    found = work(megabytes)
    return time.process_time() - started, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--megabytes", type=int, nargs="+", default=[1, 10, 100], help="sizes to measure (default: 1 10 100)"
    )
    sizes = parser.parse_args().megabytes
    tokenizer = ModelTokenizer.from_folder(REFERENCE_FOLDER / "long")
    splitter = TextSplitter(tokenizer.backend, CHUNK_TOKENS, tokenizer.count_batch)

    print("| input | " + " | ".join(f"{size} MB, CPU s (rows)" for size in sizes) + " |")
    print("|---" * (len(sizes) + 1) + "|")
    rows: dict[str, Callable[[int], int]] = {"equal texts without ids": equal_texts}
    for name, part in texts().items():
        rows[name] = partial(chunks, splitter, part)
    for name, work in rows.items():
        found = [seconds(work, size) for size in sizes]
        print(f"| {name} | " + " | ".join(f"{taken:.1f} ({n:,})" for taken, n in found) + " |", flush=True)


if __name__ == "__main__":
    main()
