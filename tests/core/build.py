"""Small values for tests of the node's machines: a deployment, tables, inputs, statuses."""

from __future__ import annotations

from dataclasses import replace

from dsi_mqtt.core.activation import Tensor, Tensors, pack_body
from dsi_mqtt.core.deployment import Deployment, InputLimits, Sla
from dsi_mqtt.core.message import Activation, Header
from dsi_mqtt.core.model import ModelGraph, ModelSpec, Unit, UnitRange
from dsi_mqtt.core.node import DoorReport, NodeState, NodeStatus
from dsi_mqtt.core.request import Input, ParsedInput
from dsi_mqtt.core.table import (
    DOOR,
    DoorPlace,
    Forecast,
    Hop,
    ModelRef,
    Replica,
    Segment,
    Stamp,
    Table,
    TableDocument,
)

NAME = "hazards"
Member = tuple[str, str]
A: Member = ("a", "a1")
B: Member = ("b", "b1")
C: Member = ("c", "c1")


def make_spec(
    *, deadline_ms: float = 10_000.0, max_bytes: int = 1000, dedupe_s: float = 60.0
) -> Deployment:
    return Deployment(
        NAME,
        ModelSpec(tier="fake"),
        input=InputLimits(max_bytes=max_bytes, dedupe_s=dedupe_s),
        sla=Sla(deadline_ms=deadline_ms),
    )


def make_graph(units: int = 6, weight_bytes: int = 10, digest: str = "m1") -> ModelGraph:
    return ModelGraph(
        digest,
        "fake",
        tuple(Unit(f"u{i}", weight_bytes, 1.0, 4) for i in range(units)),
    )


def make_table(
    *places: tuple[Member, tuple[int, int]],
    epoch: int = 1,
    door: Member | None = A,
    window: int = 4,
    credit: tuple[int, int] = (1000, 4),
    digest: str = "m1",
    p50_ms: float | None = None,
) -> Table:
    """A serving table: segments s0, s1, … where `places` says; by default [0, 3) on A, the rest
    on B.
    """
    chosen = places or ((A, (0, 3)), (B, (3, 6)))
    segments = tuple(
        Segment(f"s{i}", UnitRange(*units), "float32", (Replica(*member),))
        for i, (member, units) in enumerate(chosen)
    )
    hops = tuple(
        Hop(f"s{i}", f"s{i + 1}", {"request": "raw"}, *credit) for i in range(len(segments) - 1)
    )
    return Table(
        NAME,
        1,
        "leader",
        epoch,
        "serving",
        None,
        f"d-{epoch}",
        ModelRef(digest, chosen[-1][1][1], "fake"),
        DoorPlace(*door, "mqtt://broker", "session", window) if door else None,
        segments,
        hops,
        forecast=Forecast(p50_ms, p50_ms, 10.0) if p50_ms is not None else None,
    )


def no_route(epoch: int, reason: str, door: Member | None = None) -> Table:
    table = make_table(epoch=epoch, door=door)
    return replace(table, state="unavailable", reason=reason, segments=(), hops=(), model=None)


def document(serve: Table | None, prepare: Table | None = None) -> TableDocument:
    return TableDocument(serve, replace(prepare, state="preparing") if prepare else None)


def make_input(
    number: int,
    *,
    device: str = "cam",
    text: str | None = None,
    with_id: bool = True,
    duplicate: bool = False,
    receipt: int | None = None,
) -> Input:
    """Delivery of input `number`; `receipt` and the fresh request id are the same by default."""
    taken = number if receipt is None else receipt
    body = (text if text is not None else f"input {number}").encode()
    return Input(
        receipt=taken,
        request=(taken + 1).to_bytes(16, "big"),
        device=device,
        parsed=ParsedInput(None, "text/plain", body),
        digest=body.hex(),
        nbytes=len(body),
        correlation=number.to_bytes(16, "big") if with_id else None,
        duplicate=duplicate,
    )


def make_status(
    member: Member,
    state: NodeState = "online",
    *,
    oldest: Stamp | None = None,
    ingress_open: bool = False,
) -> NodeStatus:
    doors = (DoorReport(NAME, oldest, ingress_open),) if oldest is not None else ()
    return NodeStatus(*member, state, doors=doors)


def make_work(
    table: Table,
    target: str,
    request: int = 1,
    attempt: int = 1,
    *,
    source: str = DOOR,
    door: str = "a",
    nbytes: int = 10,
    budget_ms: int | None = 5000,
) -> Activation:
    header = Header(
        "request",
        NAME,
        table.stamp,
        source,
        target,
        request.to_bytes(16, "big"),
        attempt,
        door=door,
        budget_ms=budget_ms,
    )
    return Activation(header, make_tensors(nbytes))


def make_tensors(nbytes: int = 10) -> Tensors:
    return (Tensor("h", "uint8", (nbytes,), bytes(nbytes)),)


def make_done(header: Header, body: bytes = b"result") -> Activation:
    """The answer of the last segment to what `header` started."""
    return Activation(
        replace(header, kind="done", source=header.target, target=DOOR),
        pack_body("text/plain", body),
    )
