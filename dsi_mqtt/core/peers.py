"""Who lives, as one node hears it from the others' statuses.

Two kinds of word, told apart everywhere: a status with another incarnation than a table names is
*proof* that the named one is dead, whatever becomes of the other; a will or a farewell is a *hint*,
for a broker that stops sends the will of everybody. Nodes that were never heard of count as alive.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dsi_mqtt.core.node import DoorReport, NodeState, NodeStatus
from dsi_mqtt.core.table import Stamp, Table

Member = tuple[str, str]

# Of nodes and their doors together; beyond, those longest unheard of are forgotten.
WORDS_MAX: Final = 16_384


@dataclass(frozen=True, slots=True)
class _Word:
    """What a node said of itself, as far as it matters here. lived: it was heard as this one."""

    incarnation: str
    state: NodeState
    doors: tuple[DoorReport, ...]
    lived: bool

    @property
    def weight(self) -> int:
        return 1 + len(self.doors)


class Peers:
    """The newest word of every other node, one for each name, as long as it is retained."""

    def __init__(self, words_max: int = WORDS_MAX) -> None:
        self._words: OrderedDict[str, _Word] = OrderedDict()
        # Which nodes speak of a door, by deployment: asked at every tick, among all words.
        self._with_door: dict[str, dict[str, None]] = {}
        self._weight = 0
        self._words_max = words_max

    def __len__(self) -> int:
        return len(self._words)

    def heard(self, status: NodeStatus) -> bool:
        """Takes up a status. False for the will of an earlier life, which changes nothing."""
        known = self._words.get(status.node)
        if (
            status.state == "offline"
            and known is not None
            and known.incarnation != status.incarnation
        ):
            return False
        self.removed(status.node)
        lived = status.state != "offline" or (known is not None and known.lived)
        word = _Word(status.incarnation, status.state, status.doors, lived)
        self._words[status.node] = word
        self._weight += word.weight
        for door in word.doors:
            self._with_door.setdefault(door.deployment, {})[status.node] = None
        while self._weight > self._words_max:
            self.removed(next(iter(self._words)))
        return True

    def removed(self, node: str) -> None:
        """Its status is retained no more: it is as one never heard of."""
        word = self._words.pop(node, None)
        if word is None:
            return
        self._weight -= word.weight
        for deployment in {door.deployment for door in word.doors}:
            nodes = self._with_door[deployment]
            del nodes[node]
            if not nodes:
                del self._with_door[deployment]

    def is_replaced(self, member: Member) -> bool:
        """Proof: this node lives, or has lived since, as another incarnation."""
        word = self._words.get(member[0])
        return word is not None and word.lived and word.incarnation != member[1]

    def is_missing(self, member: Member) -> bool:
        """Proof or hint: replaced, or said to be offline."""
        word = self._words.get(member[0])
        said = word is not None and (word.state, word.incarnation) == ("offline", member[1])
        return said or self.is_replaced(member)

    def has_let_go(self, deployment: str, incarnation: str) -> bool:
        """Whether a living node says, as `incarnation`, that it has not got this ingress.

        One that died in silence last said that it had.
        """
        return any(
            word.incarnation == incarnation
            and word.state != "offline"
            and not any(d.deployment == deployment and d.ingress_open for d in word.doors)
            for word in self._words.values()
        )

    def lacks(self, table: Table) -> bool:
        """Whether, by proof or hint, a member of `table` is gone."""
        return any(self.is_missing(member) for member in table.members())

    def disproves(self, table: Table) -> bool:
        """Whether there is proof that a member of `table` is dead."""
        return any(self.is_replaced(member) for member in table.members())

    def has_ingress(self, deployment: str) -> bool:
        """Whether a living node says that it has this ingress open."""
        return any(door.ingress_open for _, door in self._doors(deployment))

    def keeps_door(self, deployment: str, table: Table) -> bool:
        """Whether the door that `table` names says that it is this deployment's."""
        return table.keeper in self.doors(deployment)

    def doors(self, deployment: str) -> set[Member]:
        """Living nodes that say that they have a door of this deployment."""
        return {member for member, _ in self._doors(deployment)}

    def oldest(self, deployment: str) -> dict[Member, Stamp]:
        """What the doors of living nodes say about the oldest table their requests use."""
        return {member: door.oldest for member, door in self._doors(deployment)}

    def _doors(self, deployment: str) -> Iterator[tuple[Member, DoorReport]]:
        for node in self._with_door.get(deployment, ()):
            word = self._words[node]
            if word.state != "offline":
                for door in word.doors:
                    if door.deployment == deployment:
                        yield (node, word.incarnation), door
