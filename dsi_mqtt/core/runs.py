"""What a door and its runs ask of each other, whether these are attempts or generations.

The door holds requests, from their first delivery until their answer is taken. Its runs bring them
through the chain: `Attempts` those of a one-pass model, `TwoModels` those of one that generates, as
`Generations` of the deployment's own model and of its fallback.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.effects import Effects
from dsi_mqtt.core.events import PartialTaken, PromptRead, PromptRefused, TextWritten
from dsi_mqtt.core.line import Request
from dsi_mqtt.core.message import Activation, Failure, Header
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.request import Reply
from dsi_mqtt.core.table import Stamp, Table

# What becomes of prompts and texts outside of the chain.
TextEvent = PromptRead | PromptRefused | TextWritten | PartialTaken


@dataclass(frozen=True, slots=True)
class Calls:
    """What runs ask of their door; all are given `now`.

    give_up: the request ends without a result, and why. conclude: it has its answer. retain: it is
    a suspect's turn: that it runs here is retained before it does, and `retained` is the answer.
    settle: it is not in the chain now, and may run again. began: a generation has its first token.
    timed: the seconds of a step of decoding. told: a text has ended, with so many tokens in its
    prompt, and drawn.
    """

    give_up: Callable[[Request, Failure, float], Effects]
    conclude: Callable[[Request, Reply, float], Effects]
    retain: Callable[[Request, float], Effects]
    settle: Callable[[Request, float], Effects]
    began: Callable[[Request, float], None]
    timed: Callable[[float], None]
    told: Callable[[int, int], None]


class Runs(Protocol):
    """starting: whether anything may start; what runs goes on. beside: another door has some in the
    chain too, so that nothing is alone there.
    """

    starting: bool
    beside: bool

    @property
    def retried(self) -> int:
        """How often anything was."""

    @property
    def table(self) -> Table | None:
        """What serves."""

    @property
    def in_flight(self) -> int:
        """Requests that run."""

    def oldest(self) -> Stamp:
        """The oldest table that anything in the chain uses, or the serving one."""

    def is_recording(self, request: Request) -> bool:
        """Whether it waits for its deaths to be retained."""

    def may_be_left(self, request: Request) -> bool:
        """Whether it ends nowhere without starting something: the next door may have it."""

    def has_begun(self, request: Request) -> bool:
        """Whether something of it has been in the chain, which another door would do again."""

    # --- what is there ------------------------------------------------------------------------

    def spec_changed(self, spec: Deployment) -> None:
        """The deployment changed; its kind did not."""

    def model_is(self, graph: ModelGraph | None, now: float, *, fallback: bool = False) -> Effects:
        """How the model looks from the door's node; None: it is not open there. fallback: it is the
        other one of the deployment.
        """

    def table_changed(self, table: Table, now: float) -> Effects:
        """A new table serves. What is in the chain goes on; what starts uses this one."""

    def peers_changed(self, now: float) -> Effects:
        """Another node came, went, or lives as another incarnation.

        Ends what is on tables with a dead member; a hint needs a newer table as well.
        """

    def data_reconnected(self, now: float) -> Effects:
        """What was on the wire may be gone: ask for all of it at once."""

    # --- requests -----------------------------------------------------------------------------

    def join(self, request: Request, now: float) -> Effects:
        """A request may run from now on."""

    def retained(self, request: Request, now: float) -> Effects:
        """Its deaths are retained: it is still its turn."""

    def end(self, request: Request, now: float, *, cancel: bool) -> Effects:
        """It is over. cancel: what of it is in the chain is to be forgotten there."""

    def earn(self) -> None:
        """A request has its answer: what retries are measured by."""

    def repeated(self, request: Request) -> Effects:
        """Its device asks again: it may have missed what was told so far."""

    def device_spoke(self, device: str, now: float) -> None:
        """A device says that it still waits."""

    def hearing(self, *, hears: bool) -> None:
        """Whether what devices say is heard; else their silence is nothing to go by."""

    def hearing_proven(self, asked_at: float, now: float) -> None:
        """An echo asked for then has come."""

    # --- the chain ----------------------------------------------------------------------------

    def done(self, activation: Activation, now: float) -> Effects:
        """A `done` from the chain: what came of it, or why nothing did."""

    def broke(self, header: Header, now: float) -> Effects:
        """A `lost` or `stale` from the chain."""

    def alive(self, header: Header, now: float) -> None:
        """Somebody in the chain has it."""

    def text_event(self, event: TextEvent, now: float) -> Effects:
        """Something became of a prompt, or of a text."""

    def tick(self, now: float) -> Effects:
        """Time has passed."""

    def next_tick(self) -> float:
        """The earliest time at which a tick does anything, unless an event comes before."""

    def pump(self, now: float) -> Effects:
        """Starts what may run, while there is a chain to run it on."""
