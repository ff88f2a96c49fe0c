"""What a deployment's chain is held against: the best placement there is, and whether to keep it.

The figures that the chain was chosen by are remembered, so that news of them calls for another
look; and when it last moved, so that it does not move too often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from dsi_mqtt.core import policy as rules_of_ones_own
from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.draft import chain_of, does
from dsi_mqtt.core.failures import NodeKey
from dsi_mqtt.core.grounds import DRAINS, Grounds
from dsi_mqtt.core.membership import Membership
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.moving import NOISE, Move, has_fallen
from dsi_mqtt.core.node import Telemetry
from dsi_mqtt.core.offered import Coming, Offered
from dsi_mqtt.core.outlook import Outlook
from dsi_mqtt.core.plan import Infeasible, Plan
from dsi_mqtt.core.policy import BUILTIN, Policies
from dsi_mqtt.core.sensing import Sensing
from dsi_mqtt.core.sharing import Shares
from dsi_mqtt.core.table import Table

# After so long another's rules are asked again, though nothing that is known here has changed.
ASK_AGAIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Alternatives:
    """found: the best placement, or where the chain is broken one that serves `at_once`: what is
    left of it, and stand-bys, with nothing to load. present: what the chain that serves promises;
    None: none does, or it breaks the rules. beside: there is room for both.
    """

    found: Plan | Infeasible
    present: Plan | None
    beside: bool
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What was looked at, and what came of it so far, as in `core.grounds`."""

    spec: Deployment
    graph: ModelGraph
    old: Table | None
    choice: Alternatives
    move: Move | None = None
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class LookAgain:
    at: float
    reason: str


class Choice:
    """Of one deployment."""

    def __init__(
        self, name: str, members: Membership, outlook: Outlook, policies: Policies
    ) -> None:
        self._name = name
        self._members = members
        self._outlook = outlook
        self._policies = policies
        self._sensing = Sensing(name)
        self._offered = Offered()
        self._announced: float | None = None
        self._moved_at = float("-inf")
        self._chosen: Plan | None = None  # what serves or is prepared, as it promised to be
        self._hurried_at = float("-inf")  # when a move last did not wait, for the chain had fallen
        self.looks = 0  # at placements, since it began
        self._look: Look | None = None
        self._told: set[str] = set()  # verdicts, since the last move

    def takes(self, spec: Deployment, plan: Plan | None) -> None:
        """What serves, or is about to, keeps its nodes busy. None: nothing serves."""
        shares: Shares = {} if plan is None else plan.shares(self._coming(spec).rate_per_s)
        self._outlook.sharing.takes(self._name, shares)

    def tells(self, spec: Deployment, graph: ModelGraph, serve: Table) -> None:
        """What serves keeps its nodes busy, whoever has placed it."""
        self.takes(spec, self._outlook.present(spec, graph, serve, self._coming(spec)))

    def moved(self, now: float) -> None:
        """Another chain is prepared, or serves."""
        self._moved_at = now
        self._told.clear()

    def chose(self, plan: Plan) -> None:
        """It is prepared. What was promised of links that nobody has measured is no promise."""
        self._chosen = plan if self._sensing.measured(plan.nodes) else None

    def cools_until(self, spec: Deployment) -> float:
        """When another chain may follow that nobody waits for."""
        return self._moved_at + spec.policy.cooldown_s

    def _may_hurry_at(self, spec: Deployment) -> float:
        """When a chain that has fallen may be left again before it is time to move: so there are
        two moves at most within one cooldown, whatever figures do.
        """
        return self._hurried_at + spec.policy.cooldown_s

    # --- sensing ------------------------------------------------------------------------------

    def heard(
        self, spec: Deployment, serve: Table, telemetry: Telemetry, now: float
    ) -> LookAgain | None:
        """Another look, where `serve` was chosen by other figures than this node tells."""
        changed = None
        node = (telemetry.node, telemetry.incarnation)
        if node == serve.keeper:
            for load in telemetry.doors:
                if load.deployment == self._name:
                    self._offered.counted(node, load, now)
                    changed = self._sensing.offered(self._coming(spec))
        part = any(name == telemetry.node for name, _ in serve.members())
        changed = changed or self._sensing.heard(telemetry, serves=part)
        if changed is None and self._may_differ_by_now(spec, now):
            changed = f"policy {spec.policy.use} may see it otherwise by now"
        return None if changed is None else LookAgain(max(now, self._sensing.look_at()), changed)

    def _may_differ_by_now(self, spec: Deployment, now: float) -> bool:
        """Whether somebody's rules, which may depend on the time of day, were last asked long
        ago.
        """
        return spec.policy.use != BUILTIN and self._sensing.looked_s(now) >= ASK_AGAIN_S

    def others_moved(self, other: str, now: float) -> LookAgain:
        """Another look, where another deployment takes other shares of the nodes."""
        at = max(now, self._sensing.look_at())
        return LookAgain(at, f"deployment {other} takes other shares of the nodes")

    def _coming(self, spec: Deployment) -> Coming:
        """As many requests as come, and no fewer than were announced, which is as its policy asked
        last.
        """
        announced = spec.rate_per_s if self._announced is None else self._announced
        rate, generates = max(announced, self._offered.rate_per_s), spec.kind == "generation"
        return Coming(rate, (self._offered.texts or Texts.of(spec)) if generates else None)

    # --- looking ------------------------------------------------------------------------------

    def begins(self) -> None:
        """Another look: what was seen at the last one does not count."""
        self.looks += 1
        self._look = None

    def grounds(self) -> Grounds | None:
        """Of this look; None: it has compared nothing."""
        look = self._look
        if look is None:
            return None
        coming, choice = self._coming(look.spec), look.choice
        nodes = self._outlook.nodes(look.spec, look.graph, coming)
        chain = None if look.old is None else chain_of(look.old)
        return Grounds(nodes, coming, chain, choice.found, choice.present, look.move, look.verdict)

    def verdict(self) -> str:
        """Why something better was found and the chain is kept; "": that is not so, or was told."""
        look = self._look
        if look is None or look.move is None or look.move.gain <= NOISE:
            return ""
        verdict = "" if look.verdict in self._told else look.verdict
        self._told.add(look.verdict)
        return verdict

    def asked(self, spec: Deployment, graph: ModelGraph, now: float) -> Deployment:
        """As the deployment's policy wants it planned. Raises ConfigError."""
        self._sensing.looks(now)
        nodes = () if spec.policy.use == BUILTIN else self._outlook.nodes(spec, graph)
        return rules_of_ones_own.asked(self._policies, spec, nodes)

    def compare(
        self,
        spec: Deployment,
        graph: ModelGraph,
        old: Table | None,
        serve: Table | None,
        *,
        without: Iterable[NodeKey],
        now: float,
    ) -> Alternatives:
        """old: what holds memory until another serves. serve: the same, where it is intact.
        Raises ConfigError when the deployment contradicts itself.
        """
        choice = self._compared(spec, graph, old, serve, without=without, now=now)
        self._look = Look(spec, graph, old, choice)
        return choice

    def foresees(
        self,
        spec: Deployment,
        graph: ModelGraph,
        old: Table | None,
        serve: Table | None,
        *,
        without: Iterable[NodeKey],
        now: float,
    ) -> bool:
        """Where its chain is about to be left, what it would take beside what others are about to:
        that is told the others already. Says whether it was something else before. As `compare`.
        """
        choice = self._compared(spec, graph, old, serve, without=without, now=now)
        found = choice.found
        stays = serve is not None and choice.present is not None
        if isinstance(found, Infeasible):
            return False
        if serve is not None and stays and not self._must_leave(serve, found):
            return False
        shares = found.shares(self._coming(spec).rate_per_s)
        return self._outlook.sharing.foresees(self._name, shares)

    def _compared(
        self,
        spec: Deployment,
        graph: ModelGraph,
        old: Table | None,
        serve: Table | None,
        *,
        without: Iterable[NodeKey],
        now: float,
    ) -> Alternatives:
        """As `compare`.

        A chain that is broken or against the rules is worth nothing: where there is no room
        beside it, it goes first.
        """
        self._announced = spec.rate_per_s
        coming, without = self._coming(spec), tuple(without)
        self._sensing.chosen(self._members.reports(), coming, now)
        if serve is None and old is not None and old.segments:
            heir = self._outlook.heir(spec, graph, old, without, coming)
            if heir is not None and heir.sustained:
                return Alternatives(heir, None, beside=True, at_once=True)
        best = partial(self._outlook.best, spec, graph, without=without, coming=coming)
        found = self._with_few_spares(best(old), best, old, without)
        present = None if serve is None else self._outlook.present(spec, graph, serve, coming)
        if isinstance(found, Infeasible) and present is None and old is not None and old.segments:
            found = self._with_few_spares(best(None), best, None, without)
            return Alternatives(found, None, beside=False)
        if isinstance(found, Plan) and present is not None and found.door != present.door:
            there = partial(best, door=present.door)
            same = self._with_few_spares(there(old), there, old, without)
            found = self._with_same_door(spec, found, same)
        return Alternatives(found, present, beside=True)

    def _with_few_spares(
        self,
        found: Plan | Infeasible,
        best: Callable[..., Plan | Infeasible],
        old: Table | None,
        without: tuple[NodeKey, ...],
    ) -> Plan | Infeasible:
        """`found`, or the best without those of its spares that it can do without.

        The planner takes all of them as soon as it needs one.
        """
        if isinstance(found, Infeasible):
            return found
        spares = self._outlook.spares(found.nodes)
        left_out: tuple[NodeKey, ...] = ()
        for spare in sorted(spares) if len(spares) > 1 else ():
            other = best(old, without=(*without, *left_out, spare))
            if isinstance(other, Infeasible) or found.meets_sla > other.meets_sla:
                continue
            if found.sustained > other.sustained:
                continue
            found, left_out = other, (*left_out, spare)
        return found

    def _with_same_door(self, spec: Deployment, found: Plan, same: Plan | Infeasible) -> Plan:
        """`found`, or the best with the door where it is, unless it pays that the door moves.

        Inputs wait while a door hands over, longest where what it holds is slow.
        """
        uses_spare = self._outlook.uses_spare
        if isinstance(same, Infeasible) or (uses_spare(same.nodes) and not uses_spare(found.nodes)):
            return found
        move = Move.of(spec, same, found, self._outlook.loading_bytes(found))
        return found if move.pays else same

    def keeps(
        self, spec: Deployment, serve: Table, choice: Alternatives, now: float
    ) -> LookAgain | bool:
        """Whether an intact chain is kept rather than replaced by what was found; for now, where it
        says when to look again. Raises ConfigError when the deployment's policy fails.
        """
        found, present = choice.found, choice.present
        if isinstance(found, Infeasible) or present is None:
            return True
        move = Move.of(spec, present, found, self._outlook.loading_bytes(found))
        if self._must_leave(serve, found):
            given_back = "a spare is given back"
            self._weighed(move, DRAINS if self._outlook.drains(serve) else given_back)
            return False
        if does(serve, found):
            return True
        if not rules_of_ones_own.moves(self._policies, spec, move):
            own = "" if spec.policy.use == BUILTIN else f"policy {spec.policy.use} keeps the chain"
            self._weighed(move, own or move.objection)
            return True
        wait = self.cools_until(spec)
        hurries = has_fallen(present, self._chosen, spec) and now >= self._may_hurry_at(spec)
        if move.mends or hurries or now >= wait:
            self._hurried_at = now if now < wait and not move.mends else self._hurried_at
            self._weighed(move, "")
            return False
        self._weighed(
            move, f"policy.cooldown_s ({spec.policy.cooldown_s:g}) holds back what was found"
        )
        return LookAgain(wait, "a better placement was held back by the cooldown")

    def _must_leave(self, serve: Table, found: Plan) -> bool:
        """Whether it is left whatever that saves: a node drains, or a spare can be given back."""
        spares = self._outlook.spares
        frees_spare = spares(found.nodes) < spares(n for n, _ in serve.members())
        return self._outlook.drains(serve) or frees_spare

    def _weighed(self, move: Move, verdict: str) -> None:
        if self._look is not None:
            self._look = replace(self._look, move=move, verdict=verdict)
