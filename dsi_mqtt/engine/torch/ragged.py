"""Attention of rows that are at different positions: each to the keys and values of its session.

The model's own forward computes a step's rows as one batch; only here, and in the masks made for
here, do they part. Masks are made by the model's own rule (its windows), from each row's position.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

# The name under which transformers knows this attention; `config._attn_implementation` takes it.
RAGGED: Final = "dsi_mqtt_ragged"

# By row, head, position of the query and position of the key: whether it attends.
MaskRule = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Ragged:
    """Keys or values of one layer, for each row (1, heads, length, width).

    No tensor, so that a model that computes with what its cache returned cannot do so unnoticed.
    """

    __slots__ = ("rows",)

    def __init__(self, rows: list[torch.Tensor]) -> None:
        self.rows = rows


def ragged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor | Ragged,
    value: torch.Tensor | Ragged,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **others: Any,  # noqa: ANN401 - what else a model hands to all attention functions
) -> tuple[torch.Tensor, None]:
    """As transformers' attention functions; query is (rows, heads, tokens, width).

    Without a mask a single token attends to all there is, and several are causal.
    """
    del module, others
    if position_bias is not None:
        raise NotImplementedError("attention with a position bias")
    keys = key.rows if isinstance(key, Ragged) else key.chunk(len(key))
    values = value.rows if isinstance(value, Ragged) else value.chunk(len(value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended = []
    for row, (own_keys, own_values) in enumerate(zip(keys, values, strict=True)):
        asked = query[row : row + 1] if len(keys) > 1 else query
        mask = attention_mask
        if mask is not None:
            mask = mask[row : row + 1, :, :, : own_keys.shape[2]]
        if softcap is None and s_aux is None:
            attended.append(_attend(asked, own_keys, own_values, mask, scale))
        else:
            bent = partial(_bent, scale=scale, softcap=softcap, sinks=s_aux)
            attended.append(bent(asked, own_keys, own_values, mask))
    together = attended[0] if len(attended) == 1 else torch.cat(attended)
    return together.transpose(1, 2).contiguous(), None


def ragged_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    *,
    mask_function: MaskRule,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    **others: Any,  # noqa: ANN401 - as other mask functions
) -> torch.Tensor | None:
    """As transformers' mask functions: bool (rows, 1, tokens, keys of the longest), or None.

    q_offset: where there are several rows, the first position of each, as (rows, 1, 1, 1).
    """
    del others
    if use_vmap or attention_mask is not None or kv_offset:
        raise NotImplementedError("masks that depend on more than positions")
    all_seen = local_size is None or kv_length < local_size
    if allow_is_causal_skip and all_seen and q_length in (1, kv_length):
        return None
    rows = torch.arange(batch_size)[:, None, None, None]
    queries = torch.arange(q_length)[None, None, :, None] + q_offset
    keys = torch.arange(kv_length)[None, None, None, :]
    mask = mask_function(rows, torch.zeros((1, 1, 1, 1), dtype=torch.int64), queries, keys)
    return mask.expand(batch_size, -1, q_length, kv_length)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        scale=scale,
        is_causal=_is_causal(query, key, mask),
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _bent(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention whose weights are bounded (softcap) or partly go nowhere (sinks, one a head)."""
    shared = query.shape[1] // key.shape[1]
    weights = query @ key.repeat_interleave(shared, dim=1).transpose(2, 3) * scale
    if softcap is not None:
        weights = torch.tanh(weights / softcap) * softcap
    if _is_causal(query, key, mask):
        mask = torch.ones(weights.shape[2:], dtype=torch.bool).tril()
    if mask is not None:
        weights = weights.masked_fill(~mask, torch.finfo(weights.dtype).min)
    if sinks is not None:
        sink = sinks.reshape(1, -1, 1, 1).expand(*weights.shape[:3], 1)
        weights = torch.cat([weights, sink.to(weights.dtype)], dim=-1)
    weights = weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return weights[..., : key.shape[2]] @ value.repeat_interleave(shared, dim=1)


def _is_causal(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> bool:
    if mask is not None or query.shape[2] == 1:
        return False
    if query.shape[2] != key.shape[2]:
        raise NotImplementedError("several tokens that continue a session, without a mask")
    return True


AttentionInterface.register(RAGGED, ragged_attention)
AttentionMaskInterface.register(RAGGED, ragged_mask)
