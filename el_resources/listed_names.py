"""Lists of names for messages: the first few, and the number of the others."""

from collections.abc import Iterable

NAMES_SHOWN = 5


def listed(names: Iterable[object], shown: int | None = NAMES_SHOWN) -> str:
    """Return the first few names and the number of the others; a name with a comma is quoted, as for `--shards`.

    Args:
        shown: largest number of names; None for all.

    Example:
        >>> listed(["a", "b,c", "d"], shown=2)
        'a, "b,c" and 1 more'
    """
    texts = [f'"{name}"' if "," in str(name) else str(name) for name in names]
    more = len(texts) - len(texts[:shown])
    return ", ".join(texts[:shown]) + (f" and {more} more" if more else "") if texts else "none"
