"""What two doors do while one makes way for the other, so that no input waits for that.

The door before keeps the ingress until it has answered what it holds. What comes meanwhile it
*passes on*: it sends a copy to the next door, as soon as that has spoken, and leaves the input
unacknowledged. The next door runs the copy, answers it, and tells whoever holds the input. When it
takes the ingress, the broker hands it everything that is unacknowledged, and what it has had as a
copy it only acknowledges:

    before:  named ──(another is)──► admits on ──(that speaks)──► passes on, finishes ──► lets go
    next:                            named, speaks ─► runs copies ─────────────────────► takes it

So a copy may be lost, or come too late: the input itself comes with the ingress. Where the door
before is named again, what the next one runs is left to that for as long as it says that it is a
door, and run here if it has ended without a word.

Nothing is alone in the chain while two doors have inputs in it. So a door that holds suspects lets
them run first, and passes nothing on; what becomes a suspect later is for the next door, as one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from dsi_mqtt.core.activation import pack_body, unpack_body
from dsi_mqtt.core.effects import Effects, Transmit
from dsi_mqtt.core.message import Activation, Header, Passed
from dsi_mqtt.core.peers import Member, Peers
from dsi_mqtt.core.request import Input, ParsedInput
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import DOOR, Stamp, Table
from dsi_mqtt.errors import WireError

# Of what a device chooses, in a header, and of all copies of one hand-over: they take the ways of
# what is in the chain. What is more waits for the ingress.
CHOSEN_MAX: Final = 4096
COPIES_MAX: Final = MIB
# Of inputs that were passed on; the longest known are forgotten, and answered once more.
KNOWN_MAX: Final = 4096
# Of a request that is run by another name: these bytes are other ones.
_SECOND_BYTES: Final = 4
_SECOND: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class _Left:
    """An input for another door. receipts: of its deliveries, unacknowledged. to: has a copy."""

    given: Input
    receipts: tuple[int, ...]
    to: Member | None


@dataclass(slots=True)
class _Copy:
    """Of an input that another node holds, as which request of its own."""

    holder: str
    request: bytes
    answered: bool = False


class HandOver:
    """Of one door: what it leaves to the next, and what the one before has passed on to it."""

    def __init__(self, deployment: str, me: Member, peers: Peers) -> None:
        self._deployment = deployment
        self._me = me
        self._peers = peers
        self.heir: Table | None = None  # by which another door is named
        self._left: list[_Left] = []
        self._copied = 0
        self._copies: OrderedDict[str, _Copy] = OrderedDict()

    # --- the door before ----------------------------------------------------------------------

    @property
    def next_has_spoken(self) -> bool:
        return self.heir is not None and self._peers.keeps_door(self._deployment, self.heir)

    @property
    def may_take(self) -> bool:
        """Whether inputs may be left for the next door, or nobody is named."""
        return self.heir is None or self.next_has_spoken

    @property
    def lends(self) -> bool:
        """Whether others than the next door run copies of what is held here."""
        heir = None if self.heir is None else self.heir.keeper
        return bool(self.borrowers() - {heir})

    def pass_on(self, given: Input, receipts: Iterable[int], deaths: int | None) -> Effects:
        """It is for the next door, and where there is room for that a copy goes ahead. deaths:
        counted of a suspect.
        """
        if self.heir is None or not self._may_copy(given):
            self.leaves(given, receipts)
            return []
        self.leaves(given, receipts, self.heir.keeper)
        return passed_on(given, self._deployment, self.heir, self._me[0], deaths)

    def _may_copy(self, given: Input) -> bool:
        chosen = given.response_topic or "", given.parsed.identity or ""
        fits = sum(len(text.encode()) for text in chosen) <= CHOSEN_MAX
        return fits and self._copied + given.nbytes <= COPIES_MAX

    def leaves(self, given: Input, receipts: Iterable[int], to: Member | None = None) -> None:
        """It is for the next door, which has a copy of it where that is said."""
        self._left.append(_Left(given, tuple(receipts), to))
        self._copied += given.nbytes if to is not None else 0

    def is_with(self, key: str) -> Member | None:
        """Who has a copy of that input; None: nobody."""
        return next((left.to for left in self._left if left.given.key == key and left.to), None)

    def borrowers(self) -> set[Member]:
        """Who has copies that are not answered yet, as far as that is known."""
        return {left.to for left in self._left if left.to is not None}

    def answered_there(self, request: bytes) -> list[int]:
        """The deliveries of an input whose copy has been answered: nobody waits for them. Those of
        the same id are one input.
        """
        found = next((left.given for left in self._left if left.given.request == request), None)
        if found is None:
            return []

        def is_same(left: _Left) -> bool:
            named = not found.anonymous and left.given.key == found.key and left.to is not None
            return named or left.given.request == request

        over = [left for left in self._left if is_same(left)]
        self._left = [left for left in self._left if not is_same(left)]
        return [receipt for left in over for receipt in left.receipts]

    def gone(self) -> set[Member]:
        """Who has copies, and says no more that it is a door."""
        return self.borrowers() - self._peers.doors(self._deployment)

    def take_back(self, gone: Container[Member | None], numbers: Iterator[int]) -> list[Input]:
        """What was left to nobody (None), or to those that are gone. What another has had may be
        what it died of, which is asked as of what the broker hands out again.
        """
        back = [left for left in self._left if left.to in gone]
        self._left = [left for left in self._left if left.to not in gone]
        self._copied = sum(left.given.nbytes for left in self._left if left.to is not None)
        return [
            replace(
                left.given,
                receipt=receipt,
                request=_another_name(left.given.request, next(numbers)),
                duplicate=left.given.duplicate or left.to is not None or place > 0,
            )
            for left in back
            for place, receipt in enumerate(left.receipts)
        ]

    def ingress_lost(self) -> None:
        """The broker hands out again what was left."""
        self._left.clear()
        self._copied = 0

    @property
    def leaves_any(self) -> bool:
        return bool(self._left)

    # --- the next door ------------------------------------------------------------------------

    def came(self, key: str, header: Header) -> None:
        """An input is run that was passed on."""
        self._copies[key] = _Copy(header.door, header.request)
        while len(self._copies) > KNOWN_MAX:
            self._copies.popitem(last=False)

    def answered(self, key: str, stamp: Stamp) -> Effects:
        """The broker has the answer of an input: of a copy, its holder is told."""
        copy = self._copies.get(key)
        if copy is None or copy.answered:
            return []
        copy.answered = True
        header = Header("input", self._deployment, stamp, DOOR, DOOR, copy.request)
        return [Transmit(copy.holder, Activation(header))]

    def forget(self, key: str) -> None:
        """It was left to another door."""
        self._copies.pop(key, None)

    def is_over(self, given: Input) -> bool:
        """Whether this is the input itself of a copy that has been answered. Asked once of each."""
        copy = self._copies.pop(given.key, None) if given.duplicate else None
        return copy is not None and copy.answered


def passed_on(
    given: Input, deployment: str, table: Table, holder: str, deaths: int | None = None
) -> Effects:
    """A copy for the door that `table` names. holder: the node that has the input. deaths: counted
    of a suspect.
    """
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
    header = Header(
        "input", deployment, table.stamp, DOOR, DOOR, given.request, door=holder, passed=passed
    )
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
    """For attempts that are not those of before. number: unlike any other in this incarnation."""
    told = _SECOND | number % _SECOND
    return told.to_bytes(_SECOND_BYTES, "big") + request[_SECOND_BYTES:]
