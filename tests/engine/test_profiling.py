"""What each unit takes, measured with an engine whose units cost what they are told to."""

from __future__ import annotations

import pytest

from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.engine.fake import FakeEngine, FakeFactory
from dsi_mqtt.engine.profiling import profile_batches, profile_generation
from dsi_mqtt.errors import InvalidInputError


class Machine:
    """Its time passes only while a unit computes. held: the most bytes that were loaded at once."""

    def __init__(self, generation: Generation | None = None) -> None:
        self.now = 0.0
        self.held = 0
        options = {"units": 3, "unit_ms": [1.0, 4.0, 2.0], "weight_mib": [1.0, 5.0, 2.0]}
        factory = FakeFactory(sleep=self.sleep)
        self.engine: FakeEngine = factory.open(ModelSpec(tier="fake", options=options), generation)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.held = max(self.held, self.engine.loaded_bytes())

    def clock(self) -> float:
        return self.now


def test_each_unit_is_measured_for_each_batch_and_none_stays_loaded() -> None:
    machine, said = Machine(), list[int]()
    found = profile_batches(machine.engine, (1, 2, 8), '"x"', machine.clock, said.append)
    assert [unit.batch_ms["1"] for unit in found] == pytest.approx([1, 4, 2])
    assert [unit.batch_ms["8"] for unit in found] == pytest.approx([8, 32, 16])
    assert [unit.weight_bytes >> 20 for unit in found] == [1, 5, 2]
    assert (said, machine.held >> 20, machine.engine.loaded_bytes()) == ([0, 1, 2], 5, 0)


def test_an_input_that_the_model_does_not_read_is_said() -> None:
    machine = Machine()
    with pytest.raises(InvalidInputError):
        profile_batches(machine.engine, (1,), "{}", machine.clock, lambda _: None)
    assert machine.engine.loaded_bytes() == 0


def test_prompts_and_steps_are_measured_apart_and_no_session_stays() -> None:
    machine = Machine(Generation(context=128))
    found = profile_generation(machine.engine, (1, 4), (8, 32), machine.clock, lambda _: None)
    assert [unit.prefill_ms["32"] for unit in found] == pytest.approx([32, 128, 64])
    assert [unit.decode_ms["1"] for unit in found] == pytest.approx([1, 4, 2])
    assert [unit.decode_ms["4"] for unit in found] == pytest.approx([4, 16, 8])
    assert all(unit.state_bytes > 0 for unit in found)
    engine = machine.engine
    assert [engine.state_bytes(name) for name in ("prompt", "s0", "s3")] == [0, 0, 0]
    engine.load(UnitRange(0, 1))
    assert engine.loaded_bytes() == 1 << 20
