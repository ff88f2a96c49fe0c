from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.activation import Tensor, type_sizes
from dsi_mqtt.engine.torch.crossing import from_wire, pack, to_wire, unpack
from dsi_mqtt.engine.torch.phantom import Phantom
from dsi_mqtt.engine.torch.requests import Request
from dsi_mqtt.errors import WireError

shapes = st.lists(st.integers(0, 4), max_size=4)


@given(dtype=st.sampled_from(sorted(type_sizes)), shape=shapes, seed=st.integers(0, 99))
def test_a_tensor_comes_back_bit_by_bit(dtype: str, shape: list[int], seed: int) -> None:
    kind: torch.dtype = getattr(torch, dtype)
    random = torch.Generator().manual_seed(seed)
    value = torch.randint(0, 2 if dtype == "bool" else 100, shape, generator=random).to(kind)
    sent = to_wire("x", value)
    assert sent.dtype == dtype
    assert sent.nbytes == value.numel() * type_sizes[dtype]
    back = from_wire(sent)
    assert back.dtype == kind
    assert torch.equal(back, value)


@given(order=st.permutations(range(4)), batched=st.booleans())
def test_the_layout_of_a_stream_crosses_with_it(order: list[int], batched: bool) -> None:
    stream = torch.arange(120.0).reshape(2, 3, 4, 5).permute(order)
    mask = torch.tensor([[1, 1, 0]])
    request = Request({"input_ids": torch.ones(1, 3).long(), "attention_mask": mask}, batched)
    back, got = unpack(pack(stream, request, ("attention_mask",)), ("attention_mask",), {})
    assert torch.equal(back, stream)
    assert back.stride() == stream.stride()
    assert got.batched == batched
    assert torch.equal(got.inputs["attention_mask"], mask)
    ids = got.inputs["input_ids"]
    assert isinstance(ids, Phantom)
    assert (ids.shape, ids.dtype) == ((1, 3), torch.int64)


def test_bytes_that_do_not_fit_the_shape_are_refused() -> None:
    with pytest.raises(WireError, match="tensor x is 3 bytes"):
        from_wire(Tensor("x", "float32", (1,), bytes(3)))
    with pytest.raises(WireError, match="dtype 'complex64' is unknown"):
        from_wire(Tensor("x", "complex64", (1,), bytes(8)))


def test_a_claimed_shape_costs_no_memory_and_has_a_limit() -> None:
    stream = torch.zeros(1)
    tensors = (
        to_wire("hidden_states", stream),
        to_wire("batched", torch.tensor(True)),
        to_wire("shape.input_ids", torch.tensor([1 << 20, 1 << 20])),
    )
    with pytest.raises(WireError, match="of input_ids is no input's"):
        unpack(tensors, (), {})
