"""Reads from a `config.json` what a model keeps of a request."""

from collections.abc import Mapping

from kvcache.model.error import ModelError
from kvcache.model.fields import Fields
from kvcache.planning.layer_kinds import LayerKind, layer_kinds, window_tokens
from kvcache.planning.model_defaults import NESTED_DEFAULTS, defaults_of
from kvcache.planning.recurrent import recurrent_state
from kvcache.planning.shape import ModelShape, WindowLayers

_TEXT_PARTS = ("text_config", "llm_config", "language_config")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_Q_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "multi_query_group_num")
_WIDTH = ("hidden_size", "n_embd", "n_embed", "d_model")
_LENGTH = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "seq_length",
    "max_seq_len",
)
_NOT_PLANNED = (
    "attn_type_list",
    "block_configs",
    "block_types",
    "compress_ratios",
    "conv_L_cache",
    "cross_attention_layers",
    "global_head_dim",
    "index_topk",
    "is_encoder_decoder",
    "linear_attn_config",
    "num_global_key_value_heads",
    "num_key_value_heads_per_layer",
    "num_kv_shared_layers",
    "swa_head_dim",
    "swa_num_key_value_heads",
    "use_cla",
)
"""Fields that make layers keep something else than the others, if set."""
_WITHOUT_CACHE = frozenset(
    {
        "albert",
        "bert",
        "clip",
        "deberta-v2",
        "distilbert",
        "electra",
        "modernbert",
        "roberta",
        "siglip",
        "vit",
        "xlm-roberta",
    }
)
"""Values of `model_type` of models that generate nothing."""


def shape_from_config(
    config: Mapping[str, object] | Fields, source: str = "config"
) -> ModelShape:
    """Reads a Hugging Face `config.json`.

    A key that is absent has the value that `model_defaults` lists for this
    type of model: that of the transformers library. Where no value is listed
    and none follows from another key, it is an error. Of a multimodal model
    the part about text counts.

    Args:
        config: The object in the file.
        source: What it was read from; starts every message.

    Returns:
        What the model keeps of a request.

    Raises:
        ModelError: If a field is missing, contradicts another one, or asks for
            what this library does not plan; the message names the field.
    """
    outer = config if isinstance(config, Fields) else Fields(config, source)
    _check_planned(outer)
    fields = _text_part(outer)
    _check_planned(fields)
    num_layers = _positive(fields, _LAYERS)
    kinds = layer_kinds(fields, num_layers)
    num_window = kinds.count(LayerKind.WINDOW) + kinds.count(LayerKind.CHUNK)
    num_paged = num_window + kinds.count(LayerKind.FULL)
    if not num_paged:
        raise ModelError(
            f"{fields.source}: wanted a layer with attention, got none"
        )
    num_kv_heads, head_dim, is_mla = _heads(fields)
    return ModelShape(
        num_layers=num_paged,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        is_mla=is_mla,
        window=WindowLayers(
            num_layers=num_window, tokens=window_tokens(fields, kinds)
        )
        if num_window
        else None,
        state=recurrent_state(
            fields, kinds.count(LayerKind.RECURRENT), _dtype(outer, fields)
        ),
        max_seq_len=_optional(fields, _LENGTH),
    )


def _text_part(outer: Fields) -> Fields:
    """Returns the part about text with the defaults of its kind."""
    parts = [key for key in _TEXT_PARTS if key in outer]
    if len(parts) > 1:
        raise ModelError(
            f"{outer.source}: wanted one of {', '.join(_TEXT_PARTS)}, got "
            f"{' and '.join(parts)}"
        )
    if not parts:
        return _with_defaults(outer, {})
    inner = outer.object(parts[0])
    assert inner is not None, "the key is there"
    for names in (_LAYERS, _Q_HEADS, _KV_HEADS, ("head_dim",)):
        above, below = _optional(outer, names), _optional(inner, names)
        if None not in {above, below} and above != below:
            raise ModelError(
                f"{outer.source}: wanted one {names[0]}, got {above} and in "
                f"{parts[0]} {below}"
            )
    kind = inner.optional_text("model_type")
    return _with_defaults(inner, NESTED_DEFAULTS.get(kind or "", {}))


def _with_defaults(fields: Fields, more: Mapping[str, object]) -> Fields:
    kind = fields.text("model_type", "")
    given = {key: fields[key] for key in fields}
    return Fields({**more, **defaults_of(kind, given), **given}, fields.source)


def _check_planned(fields: Fields) -> None:
    if (kind := fields.text("model_type", "")) in _WITHOUT_CACHE:
        raise ModelError(
            f"{fields.source}: wanted a model_type that generates text, got "
            f"{kind}"
        )
    for key in _NOT_PLANNED:
        if fields[key]:
            raise ModelError(
                f"{fields.source}: wanted no {key} (its layers do not keep "
                f"the same, which is not planned), got "
                f"{str(fields[key])[:60]!r}"
            )


def _heads(fields: Fields) -> tuple[int, int, bool]:
    """Returns key-value heads, elements of one, and whether it is a latent."""
    if "kv_lora_rank" in fields:
        parts = ("kv_lora_rank",), ("qk_rope_head_dim",)
        return 1, sum(_positive(fields, part) for part in parts), True
    num_q_heads = _positive(fields, _Q_HEADS)
    num_kv_heads = _kv_heads(fields, num_q_heads)
    if num_q_heads % num_kv_heads:
        raise ModelError(
            f"{fields.source}: wanted {_name(fields, _Q_HEADS)} to be a "
            f"multiple of {_name(fields, _KV_HEADS)} {num_kv_heads}, got "
            f"{num_q_heads}"
        )
    head_dim = _head_dim(fields, num_q_heads)
    value_dim = fields.integer("v_head_dim", head_dim)
    if value_dim != head_dim:
        raise ModelError(
            f"{fields.source}: wanted v_head_dim to be the head_dim "
            f"{head_dim}, got {value_dim}"
        )
    return num_kv_heads, head_dim, False


def _kv_heads(fields: Fields, num_q_heads: int) -> int:
    """Returns the key-value heads; Falcon names them whether used or not."""
    inner = fields.object("attn_config")
    if inner is not None and "kv_n_heads" in inner:  # as DBRX has it
        return _positive(inner, ("kv_n_heads",))
    has_one = fields.flag("multi_query", False)
    if has_one and not fields.flag("new_decoder_architecture", False):
        return 1
    if _optional(fields, _KV_HEADS) is None:
        return num_q_heads
    return _positive(fields, _KV_HEADS)


def _head_dim(fields: Fields, num_q_heads: int) -> int:
    if _optional(fields, ("head_dim", "kv_channels")) is not None:
        return _positive(fields, ("head_dim", "kv_channels"))
    width = _positive(fields, _WIDTH)
    if width % num_q_heads:
        raise ModelError(
            f"{fields.source}: wanted head_dim, or {_name(fields, _WIDTH)} as "
            f"a multiple of the {num_q_heads} heads, got {width}"
        )
    return width // num_q_heads


def _dtype(outer: Fields, fields: Fields) -> str:
    """Returns the model's own element type, by name."""
    for part in (fields, outer):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                return part.text(key).removeprefix("torch.")
    return "bfloat16"


def _optional(fields: Fields, names: tuple[str, ...]) -> int | None:
    """Returns a whole number that has several names.

    Raises:
        ModelError: If two of them differ.
    """
    found = [name for name in names if name in fields]
    values = [fields.integer(name) for name in found]
    if len(set(values)) > 1:
        raise ModelError(
            f"{fields.source}: wanted one value, got {found[0]} {values[0]} "
            f"and {found[1]} {values[1]}"
        )
    return values[0] if values else None


def _positive(fields: Fields, names: tuple[str, ...]) -> int:
    value = _optional(fields, names)
    if value is None:
        value = fields.integer(names[0])  # raises, and names the field
    if value < 1:
        raise ModelError(
            f"{fields.source}: wanted a positive {_name(fields, names)}, got "
            f"{value}"
        )
    return value


def _name(fields: Fields, names: tuple[str, ...]) -> str:
    """Returns the name that a file gives a number."""
    return next((name for name in names if name in fields), names[0])
