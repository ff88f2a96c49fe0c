"""docs/topics.md says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgpack
import pytest

from dsi_mqtt.core.activation import Row, Tensor
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.message import (
    KINDS,
    Activation,
    Copy,
    Credit,
    EdgeMark,
    Failure,
    Header,
    HopStamp,
    Passed,
)
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.table import Stamp
from dsi_mqtt.errors import REQUEST_ERRORS
from dsi_mqtt.orchestrator import strays
from dsi_mqtt.wire.activation import ACTIVATION_MAX, CHUNK_BYTES, encode
from dsi_mqtt.wire.control import CONTROL_MAX
from dsi_mqtt.wire.header import HEADER_MAX
from dsi_mqtt.wire.topics import ROOT, Topics

TEXT = (Path(__file__).parents[2] / "docs" / "topics.md").read_text("utf-8")
TOPICS = {t.pattern.removeprefix(f"{ROOT}/"): t for t in Topics().all().values()}
CONTROL = sorted(pattern for pattern, topic in TOPICS.items() if topic.codec is not None)


def table(heading: str) -> list[list[str]]:
    """The cells of the table whose first column is called `heading`."""
    _, _, rest = TEXT.partition(f"\n| {heading} |")
    assert rest, heading
    rows = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip().strip("|").split(" | ")] for row in rows]


def test_the_table_of_topics_is_the_code_s() -> None:
    told = {row[0].strip("`"): row[1:] for row in table("topic")}
    bytes_of = {
        "beat": "bytes",
        "echo": "bytes",
        "probe": "bytes",
        "in": "an input",
        "out": "an answer",
        "cancel": "an id",
        "alive": "anything",
        "act": "an activation",
    }
    actual = {}
    for pattern, topic in TOPICS.items():
        other = [word for level, word in bytes_of.items() if level in pattern.split("/")]
        payload = topic.codec.kind.__name__ if topic.codec is not None else other[0]
        retained = "yes" if topic.retain else "no"
        actual[pattern] = [payload, topic.writer, str(topic.qos), retained]
    assert told == actual
    assert f"Below the root `{ROOT}`" in TEXT


@pytest.mark.parametrize("pattern", CONTROL)
def test_each_control_message_is_shown_by_an_example_that_can_be_read(pattern: str) -> None:
    section = TEXT.split(f"### `{pattern}`")[1].split("\n### ")[0]
    (example,) = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    codec = TOPICS[pattern].payload
    written = json.loads(codec.encode(codec.decode(example.encode())))
    assert contained(json.loads(example), written)


def contained(shown: object, written: object) -> bool:
    """Whether all that is shown is there: an example may leave out fields, not invent any."""
    if isinstance(shown, dict) and isinstance(written, dict):
        return all(k in written and contained(v, written[k]) for k, v in shown.items())
    return shown == written


def test_every_error_code_is_explained() -> None:
    told = {row[0].strip("`") for row in table("code")}
    assert told == {*REQUEST_ERRORS, "unknown_deployment"}
    assert '"unknown_deployment"' in Path(strays.__file__).read_text("utf-8")


def test_the_header_is_told_field_by_field() -> None:
    header = Header(
        "request",
        "d",
        Stamp(1, "n", 1),
        "s0",
        "s1",
        door="city",
        rows=(Row(),),
        budget_ms=1,
        trace="t",
        stamps=(HopStamp("s0", 1, 1, 1),),
        edge=EdgeMark("a", "b", 1, 1),
        credit=Credit("a", "b", 1, 1),
        failure=Failure("failed", "why"),
        sampling=(Sampling(),),
        lane=1,
        copy=Copy(UnitRange(0, 1), Stamp(1, "n", 2), "s1"),
        passed=Passed("cam", "d1", 9),
        recall=b"text",
    )
    activation = Activation(header, (Tensor("x", "uint8", (4,), b"abcd"),))
    headers = []
    for message in encode(activation, chunk_bytes=2):
        unpacker = msgpack.Unpacker()
        unpacker.feed(message)
        headers.append(unpacker.unpack())
    first, second = headers
    rows = [(name, row) for row in table("field") for name in re.findall(r"`(\w+)`", row[0])]
    told = dict(rows)
    assert len(told) == len(rows), "a field is told twice"
    assert told.keys() == first.keys()
    assert {name for name, row in told.items() if row[1].startswith("every")} == second.keys()
    assert next(iter(first)) == "xxh3"
    for name in ("chunk", "credit", "error", "copy"):
        assert re.findall(r"{(.*?)}", told[name][2])[0].split(", ") == list(first[name])
    for name in ("rows", "sampling", "stamps", "tensors"):
        assert re.findall(r"{(.*?)}", told[name][2])[0].split(", ") == list(first[name][0])


def test_the_limits_and_kinds_are_the_code_s() -> None:
    assert f"*chunks* of {CHUNK_BYTES // 1024} KiB" in TEXT
    assert f"at most {HEADER_MAX // 1024} KiB" in TEXT
    assert f"at most {ACTIVATION_MAX // 1024**2} MiB" in TEXT
    assert f"JSON, at most {CONTROL_MAX // 1024**2} MiB" in TEXT
    kinds = TEXT.split("\n`kind` is ")[1].split(";")[0]
    assert set(re.findall(r"`(\w+)`", kinds)) == KINDS
