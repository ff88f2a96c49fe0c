"""Which cuts of a graph its units lie between: even work, and little that crosses.

A dynamic program over all cuts. A unit costs by the square of its share of the work, so that even
ones are cheapest; a cut costs a constant and what crosses it, so that a better one near wins, and
where much crosses there are fewer. In whole numbers: nodes must come to the same cuts, or they
have no table together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

# With even work and like cuts, about this many units over the square root of two.
_UNITS: Final = 40
_SHARES: Final = 10**6
_CUT: Final = 10**12
_DEAREST: Final = 10**4


def choose_cuts(work: Sequence[int], crossing: Sequence[int | None]) -> list[int]:
    """Cuts from the first to the last, both included.

    work: of everything before each cut, in any measure. crossing: bytes, or None where there can
    be no cut; both by cut.
    """
    ends = len(work) - 1
    total = max(1, work[ends] - work[0])
    share = np.array([(value - work[0]) * _SHARES // total for value in work], np.int64)
    possible = sorted(size for size in crossing if size is not None)
    # A quarter of all cuts have less.
    usual = max(1, possible[len(possible) // 4]) if possible else 1
    best = np.zeros(ends + 1, np.int64)
    before = np.zeros(ends + 1, np.int64)
    from_here = [0]
    for cut in range(1, ends + 1):
        size = crossing[cut]
        if size is None and cut != ends:
            continue
        reachable = np.array(from_here)
        costs = best[reachable] + (_UNITS * (share[cut] - share[reachable])) ** 2 // 2
        chosen = int(costs.argmin())
        price = _CUT + min(_DEAREST * _CUT, _CUT * (size or 0) // usual)
        best[cut] = costs[chosen] + price
        before[cut] = reachable[chosen]
        from_here.append(cut)
    cuts = [ends]
    while cuts[-1]:
        cuts.append(int(before[cuts[-1]]))
    return cuts[::-1]
