"""Inputs that no door will see: answered beside the broker, as `orchestrator.strays` does it."""

from __future__ import annotations

from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.request import Reply
from dsi_mqtt.errors import one_sentence
from dsi_mqtt.orchestrator.strays import PATIENCE_S, RETURN_S
from dsi_mqtt.sim.broker import Broker, Delivery
from dsi_mqtt.sim.clock import Clock


class Strays:
    """One process, on the machine of the control broker."""

    def __init__(self, clock: Clock, broker: Broker) -> None:
        self._clock = clock
        self._broker = broker
        broker.strays = self

    def came(self, deployment: str, delivery: Delivery) -> None:
        if self._refusal(deployment) is not None:
            returning_s = self._broker.back_at + RETURN_S - self._clock.now
            self._clock.after(max(PATIENCE_S, returning_s), self._answer, deployment, delivery)

    def _answer(self, deployment: str, delivery: Delivery) -> None:
        """What waits when the broker goes is dropped: its device asks again."""
        failure = self._refusal(deployment)
        if failure is not None and self._broker.is_there("control"):
            reply = Reply(delivery.device, None, delivery.correlation, None, failure=failure)
            self._broker.tell_device(reply)

    def _refusal(self, deployment: str) -> Failure | None:
        """Why nobody will serve an input of this deployment; None: its door will see it."""
        document = self._broker.documents.get(deployment)
        if document is None and deployment not in self._broker.specs:
            return Failure("unknown_deployment", f"deployment {deployment!r} does not exist here")
        serve = document.serve if document is not None else None
        if serve is not None and serve.door is not None:
            return None
        reason = (serve.reason if serve is not None else None) or "it is being prepared"
        return Failure("unavailable", one_sentence(f"{deployment!r} serves nothing now: {reason}"))
