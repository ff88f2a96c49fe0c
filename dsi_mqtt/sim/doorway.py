"""A simulated node's doors: their ingress, and what leaves by them.

What leaves is kept until the broker has confirmed it, as the worker's shell keeps it
(`worker/leaving.py`), and goes out again on the next connection; so an answer whose confirmation
was lost comes twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.problem import HOP_S
from dsi_mqtt.sim.broker import PACKET_BYTES, Broker
from dsi_mqtt.sim.clock import Clock
from dsi_mqtt.sim.texts import FRAME_BYTES, TOKEN_BYTES, Wanted
from dsi_mqtt.worker.leaving import joined

if TYPE_CHECKING:
    from dsi_mqtt.sim.node import Node

Leaving = fx.PublishReply | fx.PublishPartial | fx.WriteRecord
# Of what kind, of which deployment, of which request or input.
Key = tuple[str, str, bytes | str]


class Doorway:
    """Of all doors of one node, through all its lives."""

    def __init__(self, node: Node, clock: Clock, broker: Broker) -> None:
        self._node = node
        self._clock = clock
        self._broker = broker
        self._leaving: dict[Key, Leaving] = {}
        self._sessions: dict[str, str] = {}

    def performers(self) -> dict[type, Callable[[Any], None]]:
        return {
            fx.ReadPrompt: self._read_prompt,
            fx.WriteText: self._write_text,
            fx.ForgetText: lambda _: None,
            fx.PublishPartial: self._publish_partial,
            fx.EchoHearing: self._echo_hearing,
            fx.OpenAnswers: lambda _: None,
            fx.OpenIngress: self._open_ingress,
            fx.CloseIngress: self._close_ingress,
            fx.EchoNonce: self._echo_nonce,
            fx.PublishReply: self._publish_reply,
            fx.Acknowledge: self._acknowledge,
            fx.WriteRecord: self._write_record,
        }

    def begin(self) -> None:
        """Another life of the node."""
        self._leaving.clear()
        self._sessions.clear()

    def connected(self) -> None:
        """Sends again what nobody has confirmed."""
        for effect in list(self._leaving.values()):
            self._sends(effect)

    def hears(self, event: ev.Event) -> None:
        """What confirms something is noted."""
        if isinstance(event, ev.ReplyPublished):
            self._leaving.pop(("reply", event.deployment, event.request), None)
        elif isinstance(event, ev.PartialTaken):
            self._leaving.pop(("partial", event.deployment, event.request), None)
        elif isinstance(event, ev.RecordWritten):
            self._leaving.pop(("record", event.deployment, event.record.key), None)

    # --- ingress ------------------------------------------------------------------------------

    def _open_ingress(self, effect: fx.OpenIngress) -> None:
        """Connect and subscribe: two round trips, of which the first is of the network's."""
        self._sessions[effect.deployment] = effect.door.session
        first_s = self._node.ingress_s()
        if first_s:
            self._clock.after(first_s, self._node.in_life(self._subscribe), effect)
        else:
            self._subscribe(effect)

    def _subscribe(self, effect: fx.OpenIngress) -> None:
        name, node = effect.deployment, self._node
        if node.connected:
            session = effect.door.session
            node.aside(8, self._broker.open_session, name, session, node, effect.hold_count)
        else:
            node.handle(ev.IngressLost(name))

    def _close_ingress(self, effect: fx.CloseIngress) -> None:
        self._broker.close_session(effect.deployment, self._node)
        session = self._sessions.get(effect.deployment)
        if effect.forget and session is not None:
            self._node.aside(8, self._broker.forget_session, effect.deployment, session)

    def _acknowledge(self, effect: fx.Acknowledge) -> None:
        node = self._node
        node.aside(8, self._broker.acknowledged, effect.deployment, node, effect.receipt)

    def _echo_nonce(self, effect: fx.EchoNonce) -> None:
        node = self._node
        node.aside(PACKET_BYTES, node.receive_aside, ev.NonceReturned(effect.deployment))

    def _echo_hearing(self, effect: fx.EchoHearing) -> None:
        proven = ev.HearingProven(effect.deployment, effect.asked_at)
        self._node.aside(PACKET_BYTES, self._node.receive_aside, proven)

    # --- what leaves --------------------------------------------------------------------------

    def _publish_reply(self, effect: fx.PublishReply) -> None:
        self._leaves(("reply", effect.deployment, effect.request), effect)

    def _publish_partial(self, effect: fx.PublishPartial) -> None:
        key = "partial", effect.deployment, effect.request
        if self._node.connected and not effect.ask:
            self._sends(effect)  # what of it is lost comes with the answer
            return
        waiting = self._leaving.get(key)
        if isinstance(waiting, fx.PublishPartial) and not self._node.connected:
            effect = joined(waiting, effect)
        self._leaves(key, effect)

    def _write_record(self, effect: fx.WriteRecord) -> None:
        self._leaves(("record", effect.deployment, effect.record.key), effect)

    def _leaves(self, key: Key, effect: Leaving) -> None:
        self._leaving[key] = effect
        self._sends(effect)

    def _sends(self, effect: Leaving) -> None:
        node = self._node
        if not node.connected:
            return
        if isinstance(effect, fx.WriteRecord):
            node.aside(2 * PACKET_BYTES, self._written, effect)
        elif isinstance(effect, fx.PublishPartial):
            nbytes = FRAME_BYTES + len(effect.partial.tokens) * TOKEN_BYTES
            node.at_broker(node.sends(nbytes) + HOP_S, self._streamed, effect)
        else:
            told = effect.reply.completion
            size = len(effect.reply.body) if told is None else len(told.tokens) * TOKEN_BYTES
            given = effect.deployment, node, effect.request, effect.reply
            node.at_broker(node.sends(size + PACKET_BYTES) + HOP_S, self._broker.answer, *given)

    def _written(self, effect: fx.WriteRecord) -> None:
        """The clearing of a record is not confirmed to the machine."""
        key = "record", effect.deployment, effect.record.key
        if effect.record.void and self._leaving.get(key) is effect:
            del self._leaving[key]
        self._broker.record(effect.deployment, self._node, effect.record)

    def _streamed(self, effect: fx.PublishPartial) -> None:
        key = "partial", effect.deployment, effect.request
        if not effect.ask and self._leaving.get(key) is effect:
            del self._leaving[key]
        self._broker.stream(self._node, effect)

    # --- texts --------------------------------------------------------------------------------

    def _read_prompt(self, effect: fx.ReadPrompt) -> None:
        graph = self._node.engines.graph(effect.deployment)
        vocabulary = graph.vocabulary if graph is not None else None
        ask = Wanted.read(effect.parsed.body).ask(vocabulary.size if vocabulary is not None else 1)
        tokens = tuple(token for token in ask.prompt if isinstance(token, int))
        read = ev.PromptRead(effect.deployment, effect.request, ask, tokens)
        self._clock.after(0.0, self._node.in_life(self._node.handle), read)

    def _write_text(self, effect: fx.WriteText) -> None:
        count = len(effect.tokens)
        text = "".join(f" w{token}" for token in effect.tokens)
        written = ev.TextWritten(effect.deployment, effect.request, count, text, effect.last)
        self._clock.after(0.0, self._node.in_life(self._node.handle), written)
