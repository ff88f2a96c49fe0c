"""An explanation in words, a line for each thing that it says."""

from __future__ import annotations

from collections.abc import Iterator

from dsi_mqtt.core.explanation import (
    Explanation,
    Gain,
    Inputs,
    Measured,
    NodeFigures,
    Outline,
    Rejected,
)
from dsi_mqtt.core.sizes import KIB, MIB

_WHAT = {
    "present": "the present chain",
    "found": "the best found",
    "alone": "one node alone",
    "others": "any other",
}


def lines(told: Explanation) -> list[str]:
    """Without what heads them: id, time, kind and reason."""
    return list(_lines(told))


def _lines(told: Explanation) -> Iterator[str]:
    if told.chosen is not None:
        yield f"{'kept' if told.kind == 'keep' else 'chosen'}: {outline(told.chosen)}"
    for rejected in told.rejected:
        yield f"rejected: {_rejected(rejected)}"
    if told.expected is not None and told.expected.share > 0:
        yield _expected(told.expected, made=told.kind != "keep")
    if told.before is not None or told.after is not None:
        yield from _measured(told)
    if told.inputs is not None:
        yield from _inputs(told.inputs)
    if told.took_ms:
        yield f"decided in {told.took_ms:.3g} ms"


def outline(placement: Outline) -> str:
    """As in "0:3 on city, 3:8 on cloud, door on city: 40.2 ms idle, most within 51.0 ms"."""
    places = ", ".join(
        f"{place.units} on {' + '.join(place.nodes)}" for place in placement.segments
    )
    figures = []
    if placement.idle_ms is not None:
        first = " to the first token" if placement.token_ms is not None else " idle"
        figures.append(f"{_ms(placement.idle_ms)}{first}")
        grows = "waits that grow for ever"
        within = placement.within_ms
        figures.append(grows if within is None else f"most within {_ms(within)}")
    if placement.token_ms is not None:
        figures.append(f"{_ms(placement.token_ms)} a token")
    if placement.rate_per_s is not None:
        figures.append(f"up to {placement.rate_per_s:.3g}/s")
    if placement.cost_per_hour:
        figures.append(f"costs {placement.cost_per_hour:.3g} an hour")
    if placement.request_bytes is not None:
        figures.append(f"{_size(placement.request_bytes)} a request")
    told = f": {', '.join(figures)}" if figures else ""
    return f"{places}, door on {placement.door}{told}"


def _rejected(rejected: Rejected) -> str:
    parts = [_WHAT[rejected.what]]
    if rejected.placement is not None:
        parts.append(f" ({outline(rejected.placement)})")
    if rejected.idle_ms is not None:
        parts.append(f" ({_ms(rejected.idle_ms)} idle)")
    return f"{''.join(parts)}, for {rejected.why}"


def _expected(gain: Gain, *, made: bool) -> str:
    return (
        f"expected gain{'' if made else ' of a move'}: {_share(gain.share)} of the score, "
        f"{gain.saved_s:.3g} s within the horizon, for {gain.paid_s:.3g} s that the way costs"
    )


def _measured(told: Explanation) -> Iterator[str]:
    before, after = told.before, told.after
    if before is not None:
        yield f"measured before: {measured(before)}"
    if after is None:
        return
    yield f"measured since: {measured(after)}{_beside(told, after)}"
    if before is not None and before.p50_ms > 0:
        saved = 1 - after.p50_ms / before.p50_ms
        gain = _share(saved) if saved >= 0 else f"none, it takes {_share(-saved)} more"
        yield f"measured gain: {gain} in the middle"


def measured(found: Measured) -> str:
    """As in "44.1 ms in the middle, 95 % within 60.3 ms, of 240"."""
    parts = [f"{_ms(found.p50_ms)} in the middle"]
    if found.p95_ms is not None:
        parts.append(f"95 % within {_ms(found.p95_ms)}")
    if found.token_p50_ms is not None:
        parts.append(f"a token {_ms(found.token_p50_ms)}")
    return f"{', '.join(parts)}, of {found.samples}"


def _beside(told: Explanation, after: Measured) -> str:
    promised = None if told.chosen is None else told.chosen.idle_ms
    return f" ({after.p50_ms / promised:.2g} times what was expected)" if promised else ""


def _inputs(inputs: Inputs) -> Iterator[str]:
    comes = f"{inputs.rate_per_s:.3g} requests/s come"
    if inputs.prompt_tokens is not None and inputs.new_tokens is not None:
        comes += f", of {inputs.prompt_tokens} tokens and {inputs.new_tokens} drawn"
    yield f"by: {comes}"
    for node in inputs.nodes:
        yield f"by: {_node(node)}"
    if inputs.left_out:
        are = "node that is" if inputs.left_out == 1 else "nodes that are"
        yield f"and {inputs.left_out} {are} further away"


def _node(node: NodeFigures) -> str:
    told = (
        f"{node.node}: ↑{_rate(node.up_mbit_s)} ↓{_rate(node.down_mbit_s)} Mbit/s, "
        f"{_ms(node.rtt_ms)} away, model {_ms(node.model_s * 1e3)}, "
        f"{node.free_bytes / MIB:.1f} MiB free"
    )
    others = f"{max(node.taken):.0%}"
    return told if others == "0%" else f"{told}, others take {others} of it"


def _rate(rate: float | None) -> str:
    if rate is None:
        return "any"
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"  # noqa: PLR2004 - two digits say enough


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


def _ms(ms: float) -> str:
    return f"{ms:.1f} ms" if ms >= 1 else f"{ms:.2g} ms"


def _size(nbytes: int) -> str:
    return f"{nbytes / KIB:.1f} KiB" if nbytes >= KIB else f"{nbytes} B"
