"""Always an answer: whatever is wrong with an input, its device is told; nobody else suffers."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from dsi_mqtt.client import Client
from dsi_mqtt.errors import (
    MESSAGE_MAX,
    InfeasibleError,
    InvalidInputError,
    ModelFailedError,
    UnavailableError,
)
from dsi_mqtt.transport.base import Message
from dsi_mqtt.transport.retained import read_retained
from tests.e2e.live import NODES, Device, LiveSite, deployment, unknown, unsplit
from tests.e2e.programs import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


def complaint(answer: Message, code: str) -> str:
    """The sentence of an error answer, which must be one that a device can use."""
    document = json.loads(bytes(answer.payload))
    assert document["status"] == "error"
    assert document["error"]["code"] == code
    assert answer.user_properties == (("status", "error"), ("code", code))
    message: str = document["error"]["message"]
    assert 0 < len(message) <= MESSAGE_MAX
    assert message.isprintable()
    return message


async def asked(live: LiveSite, payload: bytes, **fields: Any) -> Message:
    """The answer to one input, after which the same device gets a good result."""
    async with Device(live, "hazards", f"bad-{uuid.uuid4().hex}") as device:
        answer = await device.ask(payload, correlation_data=b"q", **fields)
        assert answer.correlation_data == b"q"
        good = await device.ask(b'{"input": "fine"}')
    assert json.loads(bytes(good.payload))["result"] == unsplit("fine")
    return answer


@pytest.fixture(autouse=True)
async def nobody_dies(calm_site: LiveSite) -> Any:
    before = {node.id: calm_site.pid(node.id) for node in NODES}
    yield
    picture = await calm_site.picture()
    assert {name: status.pid for name, status in picture.statuses.items()} == before
    assert {status.state for status in picture.statuses.values()} == {"online"}


@pytest.mark.parametrize(
    ("payload", "kind", "sentence"),
    [
        (b"{nonsense", None, "not JSON"),
        (b"\xff\xfe", None, "not JSON"),
        (b'{"id": "a"}', None, "input is missing"),
        (b'{"input": 1, "id": [1]}', None, "id must be text"),
        (b'{"input": {"temperature": 3}}', None, "an item is a dict"),
        (b'{"input": [["a"], ["b"]]}', None, "an item is a list"),
        (b'{"input": []}', None, "the batch is empty"),
        (b'{"input": NaN}', None, "NaN is no JSON number"),
        (b"\xff\xd8\xff\xe0", "image/jpeg", "'image/jpeg' is not read here"),
        (b"\xff", "text/plain", "not valid text/plain"),
        (b"a", "text/plain" * 20, "Content Type"),
        (b'{"input": "%s"}' % (b"x" * 20_000), None, "over input.max_bytes 20000"),
        (b'{"input": ["a", "b", "c", "d", "e"]}', None, "5 rows; this deployment takes 4"),
        (b"[" * 10_000, None, "not JSON"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
async def test_what_cannot_be_read_is_said(
    calm_site: LiveSite, payload: bytes, kind: str | None, sentence: str
) -> None:
    answer = await asked(calm_site, payload, content_type=kind)
    assert sentence in complaint(answer, "invalid_input")


async def test_an_error_names_the_id_of_its_input(calm_site: LiveSite) -> None:
    answer = await asked(calm_site, b'{"input": {}, "id": "mine"}')
    complaint(answer, "invalid_input")
    assert json.loads(bytes(answer.payload))["id"] == "mine"


@pytest.mark.parametrize("unit", [0, 3, 5])
async def test_a_model_that_raises_fails_one_input(calm_site: LiveSite, unit: int) -> None:
    given = {"raise": unit}
    answer = await asked(calm_site, json.dumps({"input": given}).encode())
    assert f"unit {unit} raised" in complaint(answer, "model_failed")
    async with Client(calm_site.url) as client:
        with pytest.raises(ModelFailedError, match=f"unit {unit} raised"):
            await client.infer("hazards", given, timeout_s=PATIENCE_S)
        assert await client.infer("hazards", "fine", timeout_s=PATIENCE_S) == unsplit("fine")


async def test_a_retained_input_is_refused_and_cleared(calm_site: LiveSite) -> None:
    async with Device(calm_site, "hazards", f"bad-{uuid.uuid4().hex}") as device:
        answer = await device.ask(b'{"input": "stays"}', retain=True)
        assert "retain" in complaint(answer, "invalid_input")
        await device.ask(b'{"input": "fine"}')
    async with calm_site.connection() as connection:
        assert await read_retained(connection, [device.input], f"test/{uuid.uuid4().hex}") == []


@pytest.mark.parametrize(
    "topic",
    [
        "dsi/v1/deploy/hazards/in/other",
        "dsi/v1/deploy/hazards/out/other/result",
        "anything",
        "{own}",
    ],
)
async def test_a_foreign_response_topic_gets_nothing(calm_site: LiveSite, topic: str) -> None:
    async with Device(calm_site, "hazards", f"bad-{uuid.uuid4().hex}") as device:
        asked_for = topic.format(own=device.own)
        if topic != "{own}":
            await device.listen(asked_for)
        answer = await device.ask(b'{"input": "x"}', response_topic=asked_for)
        assert answer.topic == device.own + "result"
        assert "Response Topic" in complaint(answer, "invalid_input")
        # In order behind it: had anything been published to the other topic, it came first.
        good = await device.ask(b'{"input": "x"}', response_topic=device.own + "mine")
    assert good.topic == device.own + "mine"


async def test_a_response_topic_of_300_levels_is_refused_and_ends_no_connection(
    calm_site: LiveSite,
) -> None:
    async with Device(calm_site, "hazards", f"bad-{uuid.uuid4().hex}") as device:
        deep = device.own + "/".join("x" * 300)
        answer = await device.ask(b'{"input": "x"}', response_topic=deep, correlation_data=b"q")
        assert answer.topic == device.own + "result"
        assert answer.correlation_data == b"q"
        assert "at most 200 levels" in complaint(answer, "invalid_input")
        good = await device.ask(b'{"input": "x"}')
    assert json.loads(bytes(good.payload))["result"] == unsplit("x")


async def test_long_correlation_data_is_refused_and_comes_back(calm_site: LiveSite) -> None:
    async with Device(calm_site, "hazards", f"bad-{uuid.uuid4().hex}") as device:
        answer = await device.ask(b'{"input": "x"}', correlation_data=bytes(60_000))
    assert answer.correlation_data == bytes(60_000)
    assert "over 1024" in complaint(answer, "invalid_input")


async def test_a_misspelt_deployment_is_answered(calm_site: LiveSite) -> None:
    async with Device(calm_site, "hasards", "somebody") as device:
        answer = await device.ask(b'{"input": "x", "id": "1"}', correlation_data=b"q")
    assert "'hasards' does not exist" in complaint(answer, "unknown_deployment")
    assert answer.correlation_data == b"q"
    assert await unknown(calm_site, "hasards")


async def test_what_fits_nowhere_is_unavailable(calm_site: LiveSite) -> None:
    spec = deployment("giant", options={"weight_mib": 100}, sla={"deadline_ms": 500})
    with pytest.raises(InfeasibleError, match=r"giant cannot be served: .*MiB"):
        await calm_site.deploy(spec)
    try:
        async with Device(calm_site, "giant", "somebody") as device:
            assert "MiB" in complaint(await device.ask(b'{"input": "x"}'), "unavailable")
        async with Client(calm_site.url) as client:
            with pytest.raises(UnavailableError, match="MiB"):
                await client.infer("giant", "x", timeout_s=PATIENCE_S)
            assert await client.infer("hazards", "x", timeout_s=PATIENCE_S) == unsplit("x")
    finally:
        await calm_site.undeploy("giant")


async def test_an_input_larger_than_a_packet_ends_at_the_client(calm_site: LiveSite) -> None:
    async with Client(calm_site.url) as client:
        with pytest.raises(InvalidInputError, match="send less"):
            await client.infer("hazards", b"\0" * (5 << 20), timeout_s=PATIENCE_S)
        assert await client.infer("hazards", "fine", timeout_s=PATIENCE_S) == unsplit("fine")
