"""What a machine and its brokers must be able to do: facts in, findings out.

A finding is a sentence with a level, and what to change where the level is not `ok`. `fail`:
deployments will break or lose inputs here; `warn`: they work, but worse than they could, or
nobody can tell. Who gathers the facts is not this module's business (`cli.doctor`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from dsi_mqtt.core.sizes import GIB, MIB

Level = Literal["ok", "warn", "fail"]
Role = Literal["control", "data", "control and data"]

# All credits granted for one receiver stay under half of what its broker queues for it, and 500
# messages are ten senders with 8 MiB and 16 messages each, in chunks of 256 KiB.
DATA_QUEUE: Final = 1_000
# Inputs that wait while a door moves: what a deployment queues at most.
CONTROL_QUEUE: Final = 200
# The largest chunk on the wire, headers included, with room to spare.
CHUNK_BYTES: Final = 300_000
ECHO_MAX_MS: Final = 5.0
# Nagle's algorithm against a delayed acknowledgement: about 40 ms, on top of the usual echo.
STALL_MS: Final = 25.0
STALL_SHARE_MAX: Final = 0.05
# One segment of the demo peaks at about 450 MB.
MEMORY_LEAST_BYTES: Final = 512 * MIB
MEMORY_DEMO_BYTES: Final = 2 * GIB
# 2026-11-23: a clock before this release is wrong. Terms of leadership count in unix seconds.
RELEASED_UNIX_S: Final = 1_795_392_000


@dataclass(frozen=True, slots=True)
class Finding:
    """subject: what was looked at. check: a stable name. change: None when all is well."""

    subject: str
    check: str
    level: Level
    what: str
    change: str | None = None


@dataclass(frozen=True, slots=True)
class PortHolder:
    """The program that listens on a port; `pid` is None where this user may not know it."""

    name: str
    pid: int | None

    def __str__(self) -> str:
        return self.name if self.pid is None else f"{self.name} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class Echo:
    """Messages sent to oneself, in bursts; milliseconds from the first publish to the last echo."""

    median_ms: float
    samples: int
    stalled: int


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """What was seen of one broker. With an `error`, which says why, nothing else was seen.

    local: it is on this machine, so that `holder` (None: nobody) is known.
    message_bytes: the largest message that deployments will send; `message_arrived`: it was tried.
    queue_tried, queue_kept: small messages sent to a subscriber that had stopped to read, and
        those that it got in the end.
    session_kept: a message sent while a durable MQTT session's client was away was there when it
        came back.
    echo: None when none came.
    version, uptime_s: as the broker says in `$SYS`; None where it does not.
    """

    role: Role
    address: str
    local: bool = False
    holder: PortHolder | None = None
    error: str | None = None
    version: str | None = None
    uptime_s: int | None = None
    max_packet_size: int | None = None
    receive_max: int = 65_535
    max_qos: int = 2
    message_bytes: int = 0
    message_arrived: bool = False
    retained_kept: bool = False
    session_kept: bool = False
    queue_tried: int = 0
    queue_kept: int = 0
    echo: Echo | None = None


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """memory_available: bytes. clock_unix_s: now. clock_synchronised: None where nobody knows.

    packages: installed versions by name, None for one that is missing.
    """

    memory_available: int
    clock_unix_s: float
    clock_synchronised: bool | None
    packages: dict[str, str | None]
    mosquitto: str | None


_NODE: Final = "pip install '.[node]' in the checkout"
# Without these nothing runs; without the others a machine has a narrower use.
_OPTIONAL: Final[dict[str, str]] = {
    "torch": f"clients and the orchestrator run here, segments do not; {_NODE}",
    "transformers": f"no segment of a transformers model runs here; {_NODE}",
    "uvloop": "small hops take a third longer without it; pip install uvloop",
}


def healthy(findings: list[Finding]) -> bool:
    return all(finding.level != "fail" for finding in findings)


def examine(machine: MachineFacts, brokers: tuple[BrokerFacts, ...]) -> list[Finding]:
    """All findings, those about the machine first."""
    findings = examine_machine(machine)
    for broker in brokers:
        findings += examine_broker(broker)
    return findings


def examine_machine(facts: MachineFacts) -> list[Finding]:
    return [_memory(facts), *_clock(facts), *_packages(facts), _mosquitto(facts)]


def _memory(facts: MachineFacts) -> Finding:
    what = f"{facts.memory_available / GIB:.1f} GiB available"
    if facts.memory_available < MEMORY_LEAST_BYTES:
        return Finding(
            "memory", "memory", "fail", what, "free at least 0.5 GiB: no segment fits here"
        )
    if facts.memory_available < MEMORY_DEMO_BYTES:
        return Finding(
            "memory", "memory", "warn", what, "the demo's three segments want 2 GiB; free some"
        )
    return Finding("memory", "memory", "ok", what)


def _clock(facts: MachineFacts) -> list[Finding]:
    if facts.clock_unix_s < RELEASED_UNIX_S:
        change = "set the clock: leadership would lose to any table written with a right one"
        return [Finding("clock", "date", "fail", "it is before this program's release", change)]
    findings = [Finding("clock", "date", "ok", "the date is plausible")]
    if facts.clock_synchronised:
        findings.append(Finding("clock", "synchronised", "ok", "the kernel has it synchronised"))
    else:
        unknown = facts.clock_synchronised is None
        what = "whether it is synchronised is unknown" if unknown else "it is not synchronised"
        change = "run NTP (systemd-timesyncd, chrony): leaders' terms are told by the clock"
        findings.append(Finding("clock", "synchronised", "warn", what, change))
    return findings


def _packages(facts: MachineFacts) -> list[Finding]:
    missing = [name for name, version in facts.packages.items() if version is None]
    needed = [name for name in missing if name not in _OPTIONAL]
    if needed:
        change = "install them: pip install . in the checkout"
        what = f"missing: {', '.join(needed)}"
        return [Finding("packages", "needed", "fail", what, change)]
    findings = [Finding("packages", "needed", "ok", "everything that a client needs is there")]
    for name in _OPTIONAL:
        version = facts.packages.get(name)
        if version is None:
            findings.append(
                Finding("packages", name, "warn", f"{name} is missing", _OPTIONAL[name])
            )
        else:
            findings.append(Finding("packages", name, "ok", f"{name} {version}"))
    return findings


def _mosquitto(facts: MachineFacts) -> Finding:
    if facts.mosquitto is None:
        change = "only the demo, tests and benchmarks start one; apt-get install mosquitto"
        return Finding("mosquitto", "program", "warn", "the program is missing here", change)
    return Finding("mosquitto", "program", "ok", f"version {facts.mosquitto} is installed")


def examine_broker(facts: BrokerFacts) -> list[Finding]:
    if facts.error is not None:
        return [_unreachable(facts)]
    findings = [_identity(facts), _quality(facts), _message(facts), _inflight(facts)]
    if "control" in facts.role:
        findings += [_retained(facts), _session(facts)]
    findings += [_queue(facts), *_echo(facts)]
    if facts.role == "control and data":
        findings.append(_shared(facts))
    return findings


def _finding(
    facts: BrokerFacts, check: str, level: Level, what: str, change: str | None = None
) -> Finding:
    return Finding(f"{facts.role} broker {facts.address}", check, level, what, change)


def _unreachable(facts: BrokerFacts) -> Finding:
    what = facts.error or ""
    if not facts.local:
        change = "start it, or correct the address; then its firewall"
    elif facts.holder is None:
        change = "nothing listens on that port: start the broker"
    else:
        change = f"{facts.holder} holds the port; end it or give another address"
    return _finding(facts, "reachable", "fail", what, change)


def _identity(facts: BrokerFacts) -> Finding:
    version = facts.version or "a broker that does not tell its version"
    up = "" if facts.uptime_s is None else f", up for {facts.uptime_s} s"
    process = "" if facts.holder is None else f", {facts.holder}"
    return _finding(facts, "reachable", "ok", f"answers: {version}{up}{process}")


def _quality(facts: BrokerFacts) -> Finding:
    if facts.max_qos < 1:
        return _finding(facts, "qos", "fail", "offers no QoS 1", "use another broker")
    return _finding(facts, "qos", "ok", "offers QoS 1")


def _message(facts: BrokerFacts) -> Finding:
    size = f"a message of {facts.message_bytes:,} bytes"
    if facts.message_arrived:
        return _finding(facts, "message_size", "ok", f"{size} came through")
    limit = facts.max_packet_size
    said = "it names no limit" if limit is None else f"it takes packets up to {limit:,}"
    change = f"set max_packet_size {facts.message_bytes * 2}, and no message_size_limit"
    return _finding(facts, "message_size", "fail", f"{size} did not come through; {said}", change)


def _inflight(facts: BrokerFacts) -> Finding:
    what = f"takes {facts.receive_max} unacknowledged messages from a publisher"
    if facts.receive_max < 16:  # noqa: PLR2004 - the smallest window of a door
        change = "set max_inflight_messages 256: publishers wait for each other"
        return _finding(facts, "receive_maximum", "warn", what, change)
    return _finding(facts, "receive_maximum", "ok", what)


def _retained(facts: BrokerFacts) -> Finding:
    if facts.retained_kept:
        return _finding(facts, "retained", "ok", "gives retained messages to wildcards")
    what = "did not give a retained message to a wildcard subscription"
    change = "set retain_available true, or use another broker: tables are retained"
    return _finding(facts, "retained", "fail", what, change)


def _session(facts: BrokerFacts) -> Finding:
    if facts.session_kept:
        return _finding(facts, "session", "ok", "keeps messages for an MQTT session that is away")
    what = "lost a message for an MQTT session whose client was away"
    change = "allow session expiry and queued messages: inputs are lost when a door moves"
    return _finding(facts, "session", "fail", what, change)


def _queue(facts: BrokerFacts) -> Finding:
    kept = f"kept {facts.queue_kept} of {facts.queue_tried} messages for a slow subscriber"
    if facts.queue_kept >= facts.queue_tried:
        return _finding(facts, "queue", "ok", kept)
    change = f"set max_queued_messages {facts.queue_tried}: it acknowledges what it drops"
    return _finding(facts, "queue", "fail", kept, change)


def _echo(facts: BrokerFacts) -> list[Finding]:
    echo = facts.echo
    if echo is None:
        change = "let its users publish and subscribe below dsi/v1, then see its log"
        return [_finding(facts, "echo", "fail", "sent nothing back", change)]
    findings = []
    median = f"echoes in {echo.median_ms:.1f} ms"
    if echo.median_ms > ECHO_MAX_MS:
        change = "bring it nearer: every hop pays this; or the machine is busy"
        findings.append(_finding(facts, "echo", "warn", median, change))
    else:
        findings.append(_finding(facts, "echo", "ok", median))
    if echo.stalled > STALL_SHARE_MAX * echo.samples:
        stalled = f"{echo.stalled} of {echo.samples} bursts stalled for 25 ms or more"
        change = "set set_tcp_nodelay true; if it is set, the disk or the machine is busy"
        findings.append(_finding(facts, "nodelay", "warn", stalled, change))
    else:
        findings.append(_finding(facts, "nodelay", "ok", "small messages do not stall"))
    return findings


def _shared(facts: BrokerFacts) -> Finding:
    what = "is the one broker for both"
    change = "give data a broker of its own: tensors wait while this one saves its state"
    return _finding(facts, "shared", "warn", what, change)
