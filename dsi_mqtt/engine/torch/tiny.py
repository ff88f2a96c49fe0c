"""A small model of the same kind: fewer and narrower blocks, all kinds of blocks kept.

Sizes shrink by what the configuration calls them; where a model type has constraints of its own
that this breaks, a milder shrinking follows, of depth and vocabulary alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from dsi_mqtt.engine.torch.build import one_pass

if TYPE_CHECKING:
    from transformers import PretrainedConfig

VOCABULARY: Final = 96
IMAGE_SIDE: Final = 64
_DEPTH: Final = 3
_STAGE_DEPTH: Final = 2
_KINDS_DEPTH: Final = 8
_HEAD_WIDTH: Final = 16
_HEADS: Final = ("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads")
_GROUPS: Final = ("num_key_value_heads", "num_kv_heads")
_WIDTHS: Final = ("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim")
_INNER: Final = (
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "ffn_hidden_size",
    "hidden_dim",
    "d_inner",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "expert_ffn_hidden_size",
)
_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts")
_CHOSEN: Final = ("num_experts_per_tok", "moe_topk", "n_group")
_HEAD_WIDTHS: Final = (
    "head_dim",
    "d_head",
    "kv_channels",
    "rotary_dim",
    "qk_rope_head_dim",
    "qk_nope_head_dim",
    "v_head_dim",
    "kv_lora_rank",
    "q_lora_rank",
)
_WINDOWS: Final = ("sliding_window", "attention_window", "attention_chunk_size")
_DEPTHS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")

# Lists of stages that a configuration works out itself.
_DERIVED: Final = ("stage_names", "out_features", "out_indices", "_out_features", "_out_indices")

Fields = dict[str, Any]


def shrunk(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """Smaller configurations of the same type, smallest first. Not all need be valid."""
    for narrow in (True, False):
        fields = config.to_dict()
        for name in _DERIVED:
            fields.pop(name, None)
        _shrink_depth(fields)
        _shrink_vocabulary(fields)
        _shrink_image(fields)
        if narrow:
            _shrink_width(fields)
        yield one_pass(type(config).from_dict(fields))


def _shrink_depth(fields: Fields) -> None:
    kinds = fields.get("layer_types")
    depth = _DEPTH
    if isinstance(kinds, list) and len(set(kinds)) > 1:
        first = {kind: kinds.index(kind) for kind in kinds}
        depth = max(_DEPTH, *(index + 2 for index in first.values()))
    elif fields.get("first_k_dense_replace") or fields.get("decoder_sparse_step", 1) != 1:
        depth = _KINDS_DEPTH
    for name in _DEPTHS:
        before = fields.get(name)
        if isinstance(before, int) and before > depth:
            fields[name] = depth
            for other, value in fields.items():
                if isinstance(value, list) and len(value) == before:
                    fields[other] = value[:depth]
    if isinstance(fields.get("depths"), list):
        fields["depths"] = [min(stage, _STAGE_DEPTH) for stage in fields["depths"]]


def _shrink_vocabulary(fields: Fields) -> None:
    if not isinstance(fields.get("vocab_size"), int):
        return
    fields["vocab_size"] = min(fields["vocab_size"], VOCABULARY)
    for name, value in fields.items():
        if name.endswith("_token_id") and isinstance(value, int) and value >= VOCABULARY:
            fields[name] = 1
        elif name.endswith("_token_id") and isinstance(value, list):
            fields[name] = [min(item, 1) for item in value]


def _shrink_image(fields: Fields) -> None:
    if not isinstance(fields.get("image_size"), int):
        return
    fields["image_size"] = min(fields["image_size"], IMAGE_SIDE)
    stages, patch = fields.get("depths"), fields.get("patch_size")
    if isinstance(fields.get("window_size"), int) and isinstance(stages, list) and patch:
        # The last stage, halved at each step, must still hold a window.
        last = fields["image_size"] // (patch << (len(stages) - 1))
        fields["window_size"] = max(1, min(fields["window_size"], last))


def _shrink_width(fields: Fields) -> None:
    stages = fields.get("hidden_sizes")
    if isinstance(stages, list) and stages:
        factor = max(1, min(stages) // 8)
        fields["hidden_sizes"] = [size // factor for size in stages]
        if isinstance(fields.get("embedding_size"), int):
            fields["embedding_size"] = max(8, fields["embedding_size"] // factor)
        return
    if isinstance(fields.get("embed_dim"), int) and isinstance(fields.get("num_heads"), list):
        fields["embed_dim"] = fields["num_heads"][0] * 8
        return
    heads = _shrink_heads(fields)
    if heads is not None:
        _limit(fields, _WIDTHS, heads * _HEAD_WIDTH)
        _limit(fields, _INNER, heads * _HEAD_WIDTH * 2)
        _limit(fields, _HEAD_WIDTHS, _HEAD_WIDTH)
        _limit(fields, _EXPERTS, 4)
        _limit(fields, _CHOSEN, 2)
        _limit(fields, ("topk_group",), 1)
        _limit(fields, _WINDOWS, 4)


def _limit(fields: Fields, names: tuple[str, ...], most: int) -> None:
    for name in names:
        if isinstance(fields.get(name), int):
            fields[name] = min(fields[name], most)


def _shrink_heads(fields: Fields) -> int | None:
    """Fewer heads, as many of them to a group of keys and values as before, if that is few."""
    name = next((name for name in _HEADS if isinstance(fields.get(name), int)), None)
    if name is None:
        return None
    group = next((key for key in _GROUPS if isinstance(fields.get(key), int)), None)
    if group is None or fields[group] == fields[name]:
        fields[name] = min(fields[name], 4)
        if group is not None:
            fields[group] = fields[name]
    else:
        ratio = max(1, fields[name] // fields[group])
        fields[group] = 1 if ratio > 4 or fields[group] == 1 else 2  # noqa: PLR2004 - 8 heads at most
        fields[name] = fields[group] * min(ratio, 8)
    return int(fields[name])
