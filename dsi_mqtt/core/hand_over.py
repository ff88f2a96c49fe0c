"""What two doors do while one makes way for the other, so that no input waits for that.

The door before keeps the ingress until it has answered what it holds. What comes meanwhile it
*passes on*: it sends a copy to the next door, as soon as that has spoken, and leaves the input
unacknowledged. The next door runs the copy and answers it. When it takes the ingress, the broker
hands it everything that is unacknowledged, and what it has had as a copy it only acknowledges:

    before:  named ──(another is)──► admits on ──(that speaks)──► passes on, finishes ──► lets go
    next:                            named, speaks ─► runs copies ─────────────────────► takes it

So a copy may be lost, or come too late: the input itself comes with the ingress. What must run
alone is not passed on, and does not run while two doors have inputs in the chain.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Final

from dsi_mqtt.core.activation import pack_body, unpack_body
from dsi_mqtt.core.effects import Transmit
from dsi_mqtt.core.message import Activation, Header, Passed
from dsi_mqtt.core.request import Input, ParsedInput
from dsi_mqtt.core.table import DOOR, Table
from dsi_mqtt.errors import WireError

# Of what a device chooses, in a header; what has more waits for the ingress.
CHOSEN_MAX: Final = 4096
# Of inputs that were passed on; the longest known are forgotten, and answered once more.
KNOWN_MAX: Final = 4096
_RANDOM_BYTES: Final = 8


class HandOver:
    """Of one door: what it leaves to the next, and what the one before has passed on to it."""

    def __init__(self) -> None:
        self._left: list[tuple[Input, bool]] = []
        self._known: OrderedDict[str, bool] = OrderedDict()

    # --- the door before ----------------------------------------------------------------------

    def leaves(self, given: Input, *, passed_on: bool = False) -> None:
        """It is for the next door, unless that is this one again."""
        self._left.append((given, passed_on))

    def take_back(self) -> list[Input]:
        """What was left, for this door is named again. What another has had may be what it died of,
        which is asked as of what the broker hands out again.
        """
        left, self._left = self._left, []
        return [replace(given, duplicate=True) if passed else given for given, passed in left]

    def ingress_lost(self) -> None:
        """The broker hands out again what was left."""
        self._left.clear()

    @property
    def leaves_any(self) -> bool:
        return bool(self._left)

    # --- the next door ------------------------------------------------------------------------

    def came(self, key: str) -> None:
        """An input is run that was passed on."""
        self._known[key] = False
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def answered(self, key: str) -> None:
        """The broker has the answer of an input."""
        if key in self._known:
            self._known[key] = True

    def forget(self, key: str) -> None:
        """It was left to another door."""
        self._known.pop(key, None)

    def is_over(self, given: Input) -> bool:
        """Whether this is the input itself of a copy that has been answered. Asked once of each."""
        return given.duplicate and self._known.pop(given.key, False)


def fits(given: Input) -> bool:
    """Whether what its device has chosen can travel in a header."""
    chosen = given.response_topic or "", given.parsed.identity or ""
    return sum(len(text.encode()) for text in chosen) <= CHOSEN_MAX


def passed_on(given: Input, deployment: str, table: Table) -> Transmit | None:
    """A copy for the door that `table` names."""
    if table.door is None:
        return None
    parsed = given.parsed
    passed = Passed(
        given.device,
        given.digest,
        given.nbytes,
        parsed.identity,
        given.correlation,
        given.response_topic,
        parsed.priority,
        given.expiry_s,
    )
    header = Header("input", deployment, table.stamp, DOOR, DOOR, given.request, passed=passed)
    body = pack_body(parsed.content_type, parsed.body)
    return Transmit(table.door.node, Activation(header, body))


def as_input(activation: Activation, number: int) -> Input | None:
    """The input that was passed on; None: what came is none.

    number: unlike any other in this incarnation. The door before may have to run the input after
    all, so that here it has a name of its own.
    """
    header = activation.header
    passed = header.passed
    if passed is None:
        return None
    try:
        content_type, body = unpack_body(activation.tensors)
    except WireError:
        return None
    return Input(
        receipt=0,
        request=header.request[:_RANDOM_BYTES] + number.to_bytes(_RANDOM_BYTES, "big"),
        device=passed.device,
        parsed=ParsedInput(passed.identity, content_type, body, priority=passed.priority),
        digest=passed.digest,
        nbytes=passed.nbytes,
        correlation=passed.correlation,
        response_topic=passed.response_topic,
        expiry_s=passed.expiry_s,
    )
