from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.checkup import (
    DATA_QUEUE,
    RELEASED_UNIX_S,
    BrokerFacts,
    Echo,
    Finding,
    MachineFacts,
    PortHolder,
    examine,
    examine_broker,
    examine_machine,
    healthy,
)

MACHINE = MachineFacts(
    memory_available=8 * 1024**3,
    clock_unix_s=RELEASED_UNIX_S + 86_400,
    clock_synchronised=True,
    packages={"numpy": "2.4.6", "torch": "2.13.0", "transformers": "5.23.0", "uvloop": "0.23.0"},
    mosquitto="2.0.11",
)
BROKER = BrokerFacts(
    role="control",
    address="10.0.0.1:1883",
    version="mosquitto version 2.0.11",
    uptime_s=60,
    max_packet_size=4_194_304,
    receive_max=256,
    message_bytes=1_000_000,
    message_arrived=True,
    retained_kept=True,
    session_kept=True,
    queue_tried=DATA_QUEUE,
    queue_kept=DATA_QUEUE,
    echo=Echo(median_ms=0.2, samples=60, stalled=0),
)


def the_one_bad(findings: list[Finding]) -> Finding:
    bad = [finding for finding in findings if finding.level != "ok"]
    assert len(bad) == 1, bad
    assert bad[0].change, "a finding that is not ok says what to change"
    return bad[0]


def test_a_sound_machine_and_broker_need_no_change() -> None:
    findings = examine(MACHINE, (BROKER, replace(BROKER, role="data")))
    assert {finding.level for finding in findings} == {"ok"}
    assert all(finding.change is None for finding in findings)
    assert healthy(findings)


@pytest.mark.parametrize(
    ("facts", "check", "level", "change"),
    [
        (replace(MACHINE, memory_available=100 * 1024**2), "memory", "fail", "free at least"),
        (replace(MACHINE, memory_available=1024**3), "memory", "warn", "2 GiB"),
        (replace(MACHINE, clock_unix_s=0.0), "date", "fail", "set the clock"),
        (replace(MACHINE, clock_synchronised=False), "synchronised", "warn", "run NTP"),
        (replace(MACHINE, clock_synchronised=None), "synchronised", "warn", "run NTP"),
        (replace(MACHINE, mosquitto=None), "program", "warn", "apt-get install mosquitto"),
        (
            replace(MACHINE, packages=MACHINE.packages | {"numpy": None}),
            "needed",
            "fail",
            "pip install . in the checkout",
        ),
        (
            replace(MACHINE, packages=MACHINE.packages | {"torch": None}),
            "torch",
            "warn",
            "'.[node]' in the checkout",
        ),
    ],
)
def test_what_a_machine_lacks(facts: MachineFacts, check: str, level: str, change: str) -> None:
    finding = the_one_bad(examine_machine(facts))
    assert (finding.check, finding.level) == (check, level)
    assert change in (finding.change or "")


def test_an_unknown_clock_is_not_called_wrong() -> None:
    finding = the_one_bad(examine_machine(replace(MACHINE, clock_synchronised=None)))
    assert "unknown" in finding.what


@pytest.mark.parametrize(
    ("facts", "check", "level", "change"),
    [
        (replace(BROKER, max_qos=0), "qos", "fail", "another broker"),
        (replace(BROKER, message_arrived=False), "message_size", "fail", "max_packet_size 2000000"),
        (replace(BROKER, receive_max=2), "receive_maximum", "warn", "max_inflight_messages"),
        (replace(BROKER, retained_kept=False), "retained", "fail", "retain_available true"),
        (replace(BROKER, session_kept=False), "session", "fail", "session expiry"),
        (replace(BROKER, queue_kept=999), "queue", "fail", "max_queued_messages 1000"),
        (replace(BROKER, echo=None), "echo", "fail", "publish and subscribe below dsi/v1"),
        (replace(BROKER, echo=Echo(6.0, 60, 0)), "echo", "warn", "nearer"),
        (replace(BROKER, echo=Echo(0.2, 60, 4)), "nodelay", "warn", "set_tcp_nodelay true"),
        (replace(BROKER, role="control and data"), "shared", "warn", "a broker of its own"),
    ],
)
def test_what_a_broker_lacks(facts: BrokerFacts, check: str, level: str, change: str) -> None:
    finding = the_one_bad(examine_broker(facts))
    assert (finding.check, finding.level) == (check, level)
    assert change in (finding.change or "")
    assert healthy([finding]) == (level != "fail")


def test_the_limit_that_a_broker_names_is_told() -> None:
    facts = replace(BROKER, message_arrived=False, max_packet_size=100_000)
    assert "takes packets up to 100,000" in the_one_bad(examine_broker(facts)).what
    facts = replace(facts, max_packet_size=None)
    assert "names no limit" in the_one_bad(examine_broker(facts)).what


def test_a_data_broker_needs_no_state() -> None:
    facts = replace(BROKER, role="data", retained_kept=False, session_kept=False)
    assert healthy(examine_broker(facts))


def test_few_stalls_are_noise() -> None:
    facts = replace(BROKER, echo=Echo(median_ms=0.2, samples=60, stalled=3))
    assert {finding.level for finding in examine_broker(facts)} == {"ok"}


@pytest.mark.parametrize(
    ("local", "holder", "change"),
    [
        (False, None, "start it, or correct the address"),
        (True, None, "nothing listens on that port"),
        (True, PortHolder("nginx", 12), "nginx (pid 12) holds the port"),
        (True, PortHolder("another user's program", None), "another user's program holds the port"),
    ],
)
def test_a_broker_that_does_not_answer_is_one_finding(
    local: bool, holder: PortHolder | None, change: str
) -> None:
    facts = BrokerFacts("data", "host:1", local=local, holder=holder, error="no answer at host:1")
    finding = the_one_bad(examine_broker(facts))
    assert (finding.check, finding.level, finding.what) == (
        "reachable",
        "fail",
        "no answer at host:1",
    )
    assert change in (finding.change or "")
