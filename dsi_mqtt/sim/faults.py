"""What befalls a simulated site, and what its operator does, at their times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.node import Desired
from dsi_mqtt.orchestrator.strays import RETURN_S
from dsi_mqtt.sim.broker import Broker
from dsi_mqtt.sim.clock import Clock
from dsi_mqtt.sim.journal import Journal
from dsi_mqtt.sim.orchestrator import SimOrchestrator
from dsi_mqtt.sim.scenario import Fault, Operation

# An operator who finds no broker tries again so much later.
AGAIN_S: Final = 1.0


class Faults:
    """start: begins another orchestrator, which is then among `orchestrators`."""

    def __init__(
        self,
        clock: Clock,
        broker: Broker,
        journal: Journal,
        orchestrators: list[SimOrchestrator],
        start: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._broker = broker
        self._journal = journal
        self._orchestrators = orchestrators
        self._start = start

    def plan(self, fault: Fault) -> None:
        self._clock.at(fault.at_s, self._befall, fault)

    def _befall(self, fault: Fault) -> None:
        if fault.broker is not None:
            self._end_broker(fault)
            return
        self._journal.write(self._clock.now, fault.kind, node=fault.node, for_s=fault.for_s)
        if fault.kind == "orchestrator":
            self._end_leader(fault.for_s)
            return
        node = self._broker.nodes[fault.node]
        if fault.kind == "kill":
            node.kill()
            if fault.for_s is not None:
                self._clock.after(fault.for_s, node.start)
        elif fault.kind == "freeze":
            node.freeze()
            self._clock.after(fault.for_s or 0.0, node.thaw)
        elif fault.kind == "cut":
            node.link_cut()

    def _end_leader(self, for_s: float | None) -> None:
        leaders = [one for one in self._orchestrators if one.leading] or self._orchestrators
        if leaders:
            leaders[0].end()
            self._orchestrators.remove(leaders[0])
            if for_s is not None:
                self._clock.after(for_s, self._start)

    def _end_broker(self, fault: Fault) -> None:
        name, forgets = fault.broker or "both", fault.forgets
        told = {"name": name, "for_s": fault.for_s, "forgets": forgets, "stops": fault.stops}
        self._journal.write(self._clock.now, "broker", **told)
        self._broker.goes(name, forgets=forgets, stops=fault.stops)
        self._clock.after(fault.for_s or 0.0, self._broker.comes, name)


class Operator:
    """Who drains, deploys and undeploys, by what is retained at the control broker."""

    def __init__(self, clock: Clock, broker: Broker, journal: Journal) -> None:
        self._clock = clock
        self._broker = broker
        self._journal = journal

    def plan(self, operation: Operation) -> None:
        at_s, for_s, node = operation.at_s, operation.for_s, operation.drain
        if node is not None:
            self._clock.at(at_s, self.drain, node)
            if for_s is not None:
                self._clock.at(at_s + for_s, self.drain, node, False)
        elif operation.deploy is not None:
            self._clock.at(at_s, self.deploy, operation.deploy)
        elif operation.undeploy is not None:
            self._clock.at(at_s, self.undeploy, operation.undeploy)

    def deploy(self, spec: Deployment) -> None:
        if self._must_wait(self.deploy, spec):
            return
        self._broker.publish_spec(spec)
        self._journal.write(self._clock.now, "deployed", deployment=spec.name)

    def undeploy(self, deployment: str) -> None:
        """What a broker has forgotten is unknown there until the leader has told it again."""
        known = deployment in self._broker.specs or deployment in self._broker.documents
        returns = self._clock.now < self._broker.back_at + RETURN_S
        if self._must_wait(self.undeploy, deployment, unless=known or not returns):
            return
        if known:
            self._broker.clear_spec(deployment)
        event = "undeployed" if known else "unknown"
        self._journal.write(self._clock.now, event, deployment=deployment)

    def drain(self, node: str, drain: bool = True) -> None:
        if self._must_wait(self.drain, node, drain):
            return
        self._broker.publish_desired(node, Desired(drain=drain))
        self._journal.write(self._clock.now, "drain" if drain else "undrain", node=node)

    def _must_wait(self, act: Callable[..., None], *given: object, unless: bool = True) -> bool:
        """Whether there is no broker to tell, or not yet; then it is tried again."""
        if unless and self._broker.is_there("control"):
            return False
        self._clock.after(AGAIN_S, act, *given)
        return True
