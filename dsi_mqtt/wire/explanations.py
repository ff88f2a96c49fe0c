"""Explanations as bytes: as many of the newest decisions as there is room for."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from dsi_mqtt.core.explanation import Explanation, Explanations
from dsi_mqtt.core.sizes import KIB
from dsi_mqtt.wire.control import Codec
from dsi_mqtt.wire.ranges import first_out_of_range

# A decision among ten nodes takes about 3 KiB, one among a hundred 10.
EXPLANATIONS_MAX: Final = 128 * KIB

_ONE: Final = Codec(Explanation)


class ExplanationsCodec(Codec[Explanations]):
    """Leaves out the oldest rather than to refuse."""

    def __init__(self) -> None:
        super().__init__(Explanations, limit=EXPLANATIONS_MAX, check=first_out_of_range)

    def encode(self, value: Explanations) -> bytes:
        """Raises TooLargeError where the newest alone is too large."""
        left = EXPLANATIONS_MAX - len(super().encode(replace(value, explanations=())))
        kept: list[Explanation] = []
        for explanation in reversed(value.explanations):
            left -= len(_ONE.encode(explanation)) + 1  # and a comma
            if left < 0 and kept:
                break
            kept.append(explanation)
        return super().encode(replace(value, explanations=tuple(reversed(kept))))
