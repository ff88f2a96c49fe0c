"""What two doors do while one makes way for the other, so that no input waits for that.

The door before keeps the ingress until it has answered what it holds. What comes meanwhile it
*passes on*: it sends a copy to the next door, as soon as that has spoken, and leaves the input
unacknowledged. The next door runs the copy and answers it. When it takes the ingress, the broker
hands it everything that is unacknowledged, and what it has had as a copy it only acknowledges:

    before:  named ──(another is)──► admits on ──(that speaks)──► passes on, finishes ──► lets go
    next:                            named, speaks ─► runs copies ─────────────────────► takes it

So a copy may be lost, or come too late: the input itself comes with the ingress.

Nothing is alone in the chain while two doors have inputs in it. So a door that holds suspects lets
them run first, and passes nothing on; what becomes a suspect later is for the next door, as one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from dsi_mqtt.core.activation import pack_body, unpack_body
from dsi_mqtt.core.effects import Effects, Transmit
from dsi_mqtt.core.message import Activation, Header, Passed
from dsi_mqtt.core.request import Input, ParsedInput
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import DOOR, Table
from dsi_mqtt.errors import WireError

# Of what a device chooses, in a header, and of all copies of one hand-over: they take the ways of
# what is in the chain. What is more waits for the ingress.
CHOSEN_MAX: Final = 4096
COPIES_MAX: Final = MIB
# Of inputs that were passed on; the longest known are forgotten, and answered once more.
KNOWN_MAX: Final = 4096
_RANDOM_BYTES: Final = 8


class HandOver:
    """Of one door: what it leaves to the next, and what the one before has passed on to it."""

    def __init__(self) -> None:
        self._left: list[tuple[Input, bool]] = []
        self._copied = 0
        self._known: OrderedDict[str, bool] = OrderedDict()

    # --- the door before ----------------------------------------------------------------------

    def may_copy(self, given: Input) -> bool:
        """Whether there is room for that."""
        chosen = given.response_topic or "", given.parsed.identity or ""
        fits = sum(len(text.encode()) for text in chosen) <= CHOSEN_MAX
        return fits and self._copied + given.nbytes <= COPIES_MAX

    def leaves(self, given: Input, *, passed_on: bool = False) -> None:
        """It is for the next door, unless that is this one again."""
        self._left.append((given, passed_on))
        self._copied += given.nbytes if passed_on else 0

    def take_back(self, numbers: Iterator[int]) -> list[Input]:
        """What was left, for this door is named again. What another has had may be what it died of,
        which is asked as of what the broker hands out again.
        """
        left, self._left, self._copied = self._left, [], 0
        return [
            replace(
                given,
                request=_another_name(given.request, next(numbers)) if passed else given.request,
                duplicate=given.duplicate or passed,
            )
            for given, passed in left
        ]

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


def passed_on(given: Input, deployment: str, table: Table, deaths: int | None = None) -> Effects:
    """A copy for the door that `table` names. deaths: counted of a suspect."""
    if table.door is None:
        return []
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
        deaths,
    )
    header = Header("input", deployment, table.stamp, DOOR, DOOR, given.request, passed=passed)
    body = pack_body(parsed.content_type, parsed.body)
    return [Transmit(table.door.node, Activation(header, body))]


def as_input(activation: Activation, number: int) -> Input | None:
    """The input that was passed on; None: what came is none.

    number: unlike any other in this incarnation.
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
        request=_another_name(header.request, number),
        device=passed.device,
        parsed=ParsedInput(passed.identity, content_type, body, priority=passed.priority),
        digest=passed.digest,
        nbytes=passed.nbytes,
        correlation=passed.correlation,
        response_topic=passed.response_topic,
        expiry_s=passed.expiry_s,
        deaths=passed.deaths,
    )


def _another_name(request: bytes, number: int) -> bytes:
    """For attempts that are not those of before."""
    return request[:_RANDOM_BYTES] + number.to_bytes(_RANDOM_BYTES, "big")
