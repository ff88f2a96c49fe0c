"""The pictures of a report, drawn with matplotlib, which is an extra."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from dsi_mqtt.errors import MachineError
from dsi_mqtt.evaluate import scenarios
from dsi_mqtt.evaluate.outcome import Judged
from dsi_mqtt.evaluate.playing import Played, Traces
from dsi_mqtt.evaluate.policies import Name
from dsi_mqtt.evaluate.scoring import share_of
from dsi_mqtt.sim.scenario import Scenario
from dsi_mqtt.sim.simulation import Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

COLORS: Final[dict[Name, str]] = {
    "static-start": "#b08968",
    "static-hindsight": "#e07a1f",
    "cloud": "#8a8f98",
    "edge": "#c3b32c",
    "adaptive": "#1c5fc4",
    "causal-oracle": "#2a9d5c",
    "clairvoyant": "#0b5d44",
}
LINKS: Final = ("#7b3fa0", "#c2417c", "#3d7ea6", "#5b6b2f")
STYLE: Final[dict[Any, Any]] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "dsi",  # the same figure is the same file
}
_FIGURE_DPI: Final = 130


@dataclass(frozen=True, slots=True)
class Picture:
    """name: of its file. svg: its bytes."""

    name: str
    title: str
    svg: bytes


def require_plots() -> None:
    """Raises MachineError where matplotlib is missing."""
    try:
        import_module("matplotlib")  # an extra of the package
    except ModuleNotFoundError:
        raise MachineError(
            "the report is drawn with matplotlib; pip install '.[evaluate]' in the checkout, or "
            "take --json, which needs none"
        ) from None


def pictures(each: Judged, traces: Traces) -> list[Picture]:
    """Of one scenario. Raises MachineError."""
    require_plots()
    from matplotlib import rc_context  # noqa: PLC0415 - the extra, as above

    with rc_context(STYLE):
        over_time = _over_time(each, traces)
        compared = _compared(each)
        return [
            Picture(f"{each.scenario}-time.svg", "Latency over time, seed 1", _svg(over_time)),
            Picture(f"{each.scenario}-policies.svg", "All seeds", _svg(compared)),
        ]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure as Drawn  # noqa: PLC0415 - the extra, as above

    return Drawn(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", dpi=_FIGURE_DPI, metadata={"Date": None})
    return file.getvalue()


# --- over time --------------------------------------------------------------------------------


def _over_time(each: Judged, traces: Traces) -> Figure:
    """Links, latencies with decisions, and violations as they add up, of the first seed."""
    scenario = scenarios.scenario(each.scenario, 1)
    figure = _figure(11, 7.2)
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(1.1, 3, 1.3))
    _draw_links(axes[0], scenario, scenarios.site_of(each.scenario).traced, traces)
    _draw_latencies(axes[1], each)
    _draw_violations(axes[2], each)
    for axis in axes:
        _shade(axis, scenario)
    axes[2].set_xlim(0, scenario.duration_s)
    axes[2].set_xlabel("seconds")
    return figure


def _draw_links(axis: Axes, scenario: Scenario, traced: Sequence[str], traces: Traces) -> None:
    run = Simulation(scenario, traces, scripts={})
    seconds = range(int(scenario.duration_s))
    for name, color in zip(traced, LINKS, strict=False):
        link = run.nodes[name].link
        rates = [link.up.mbit_s(second) for second in seconds]
        axis.step(seconds, rates, where="post", color=color, linewidth=0.9, label=name)
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low / 2, high * 4)
    _plain(axis.yaxis, axis.get_ylim(), bases=(1,))
    axis.set_ylabel("link, Mbit/s")
    axis.legend(loc="upper right", ncols=len(traced), fontsize=8)


def _draw_latencies(axis: Axes, each: Judged) -> None:
    seed, target_ms = each.seeds[0], each.target.latency_s * 1e3
    shown: tuple[tuple[Name, float], ...] = (
        ("static-hindsight", 0.45),
        ("causal-oracle", 0.45),
        ("adaptive", 0.8),
    )
    for name, alpha in shown:
        if name in seed:
            _dots(axis, seed[name], each.target.deadline_s, name, alpha)
    axis.axhline(target_ms, color="#b00020", linewidth=1, linestyle="--")
    axis.annotate(
        f"target {target_ms:.0f} ms",
        (0.002, target_ms),
        xycoords=("axes fraction", "data"),
        color="#b00020",
        fontsize=8,
        va="bottom",
    )
    axis.set_yscale("log")
    _plain(axis.yaxis, axis.get_ylim())
    axis.set_ylabel("latency of each input, ms")
    for kind, marker in (("remap", "^"), ("resplit", "D")):
        at = [d.at_s for d in seed["adaptive"].decisions if d.kind == kind]
        for moment in at:
            axis.axvline(moment, color=COLORS["adaptive"], linewidth=0.5, alpha=0.5)
        axis.scatter(
            at,
            [1.0] * len(at),
            marker=marker,
            s=22,
            color=COLORS["adaptive"],
            transform=axis.get_xaxis_transform(),
            clip_on=False,
            label=f"adaptive: {kind} ({len(at)})",
            zorder=5,
        )
    axis.legend(loc="upper left", bbox_to_anchor=(0, 1.13), ncols=5, fontsize=8, markerscale=1.6)


def _dots(axis: Axes, played: Played, deadline_s: float, name: Name, alpha: float) -> None:
    took = [value * 1e3 for value in played.latencies_s]
    axis.scatter(
        played.asked_at,
        took,
        s=4,
        color=COLORS[name],
        alpha=alpha,
        linewidths=0,
        label=name,
        rasterized=True,
    )
    if played.failed_at:
        level = [deadline_s * 1e3] * len(played.failed_at)
        axis.scatter(
            played.failed_at, level, s=9, marker="x", linewidths=0.6, color=COLORS[name], alpha=0.6
        )


def _draw_violations(axis: Axes, each: Judged) -> None:
    """How many there have been until then."""
    for name, played in sorted(each.seeds[0].items()):
        late = [
            at
            for at, took in zip(played.asked_at, played.latencies_s, strict=True)
            if took > each.target.latency_s
        ]
        moments = sorted([*late, *played.failed_at])
        counts = range(1, len(moments) + 1)
        axis.step(
            [0, *moments, each.duration_s],
            [0, *counts, len(moments)],
            where="post",
            color=COLORS[name],
            linewidth=2 if name == "adaptive" else 1.2,
            label=name,
        )
    axis.set_ylabel("violations so far")
    axis.legend(loc="upper left", fontsize=7, ncols=2)


def _plain(
    axis: XAxis | YAxis, limits: tuple[float, float], bases: Sequence[int] = (1, 2, 5)
) -> None:
    """Numbers as people write them, not powers of ten."""
    steps = [base * 10.0**power for power in range(-4, 6) for base in bases]
    axis.set_ticks([step for step in steps if limits[0] <= step <= limits[1]])
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(_no_ticks())


def _no_ticks() -> Locator:
    from matplotlib.ticker import NullLocator  # noqa: PLC0415 - the extra, as above

    return NullLocator()


def _shade(axis: Axes, scenario: Scenario) -> None:
    for fault in scenario.faults:
        ends = fault.at_s + (fault.for_s or 0.0)
        color = "#f3d9dc" if fault.kill else "#e6e3f4"
        axis.axvspan(fault.at_s, ends, color=color, zorder=0, linewidth=0)
    for spike in scenario.requests[1:]:
        ends = spike.until_s or scenario.duration_s
        axis.axvspan(spike.from_s, ends, color="#fdf0cf", zorder=0, linewidth=0)


# --- policies beside each other ---------------------------------------------------------------


def _compared(each: Judged) -> Figure:
    figure = _figure(11, 6.4)
    axes = figure.subplots(2, 2)
    _draw_shares(axes[0][0], each)
    _draw_violation_shares(axes[0][1], each)
    names = [row.policy for row in each.rows]
    _bars(
        axes[1][0],
        names,
        [[row.bytes / 1e6 for row in each.rows], [row.control_bytes / 1e6 for row in each.rows]],
        "MB on all links; paler: words beside the traffic",
    )
    _bars(
        axes[1][1],
        names,
        [[row.moves["remap"] for row in each.rows], [row.moves["resplit"] for row in each.rows]],
        "moves in all seeds: remap; paler: resplit",
    )
    return figure


def _draw_shares(axis: Axes, each: Judged) -> None:
    """The distribution of latency; inputs without a result never arrive."""
    for row in each.rows:
        played = [seed[row.policy] for seed in each.seeds if row.policy in seed]
        took = sorted(value * 1e3 for one in played for value in one.latencies_s)
        asked = sum(one.asked for one in played)
        step = max(1, len(took) // 1500)
        axis.plot(
            took[::step],
            [(i + 1) / asked for i in range(0, len(took), step)],
            color=COLORS[row.policy],
            linewidth=2 if row.policy == "adaptive" else 1.2,
            label=row.policy,
        )
    axis.axvline(each.target.latency_s * 1e3, color="#b00020", linewidth=1, linestyle="--")
    axis.set_xscale("log")
    _plain(axis.xaxis, axis.get_xlim())
    axis.set_ylim(0, 1)
    axis.set_xlabel("latency, ms")
    axis.set_title("share of inputs answered within", fontsize=9, loc="left")
    axis.legend(loc="lower right", fontsize=7)


def _draw_violation_shares(axis: Axes, each: Judged) -> None:
    names = [row.policy for row in each.rows]
    by_policy = [
        [share_of(seed[name], each.target) * 100 for seed in each.seeds if name in seed]
        for name in names
    ]
    _bars(
        axis,
        names,
        [[row.violation_share * 100 for row in each.rows]],
        "inputs that violate the target, %; dots: seeds",
        reach=[max(shares) for shares in by_policy],
        unit=" %",
    )
    for place, shares in enumerate(by_policy):
        axis.scatter(shares, [place] * len(shares), s=8, color="#333333", alpha=0.6, zorder=3)


def _bars(
    axis: Axes,
    names: Sequence[Name],
    stacks: Iterable[Sequence[float]],
    title: str,
    *,
    reach: Sequence[float] = (),
    unit: str = "",
) -> None:
    """One bar for each policy. reach: how far else something is drawn, left of the figure."""
    places = range(len(names))
    left = [0.0] * len(names)
    for alpha, values in zip((1.0, 0.45), stacks, strict=False):
        axis.barh(
            places,
            values,
            left=left,
            height=0.62,
            color=[COLORS[name] for name in names],
            alpha=alpha,
        )
        left = [before + value for before, value in zip(left, values, strict=True)]
    for place, total in zip(places, left, strict=True):
        axis.annotate(
            f"{total:.1f}{unit}" if unit else f"{total:,.0f}",
            (max(total, reach[place] if reach else 0.0), place),
            xytext=(5, 0),
            textcoords="offset points",
            fontsize=8,
            va="center",
        )
    axis.set_yticks(list(places), names)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.grid(visible=False, axis="y")
    axis.set_title(title, fontsize=9, loc="left")
