"""How the search writes a placement down."""

from __future__ import annotations

from typing import NamedTuple


class Step(NamedTuple):
    """A segment up to `stop` on `node`; coding: of the hop that brings what enters it."""

    node: int
    stop: int
    coding: int


# The door, then steps. Paths are compared in this order.
Path = tuple[int, tuple[Step, ...]]
