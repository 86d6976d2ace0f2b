"""The chunks of the verification benchmark that are read before two roots."""

import numpy as np

from benchmarks.scoring_cases import Unit, with_shared_chunks


def test_that_share_of_the_units_has_its_chunk_before_another_root_too() -> None:
    roots = [np.full(20, root) for root in range(4)]
    own = [Unit(np.array([root, number]), roots[root], np.array([9])) for root in range(4) for number in range(50)]
    shared = with_shared_chunks(own, share=0.12)
    assert [(unit.root[0], unit.anchors[0]) for unit in shared] == [(unit.root[0], 9) for unit in own]
    roots_of: dict[bytes, list[int]] = {}
    for unit in shared:
        roots_of.setdefault(unit.chunk.tobytes(), []).append(int(unit.root[0]))
    together = [found for found in roots_of.values() if len(found) > 1]
    assert len(together) == 12  # pairs: 24 of 200 units
    assert all(len(found) == len(set(found)) == 2 for found in together)
