"""Reads from a `config.json` what each layer of a model keeps."""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from kvcache.model.error import ModelError
from kvcache.model.fields import Fields


class LayerKind(Enum):
    """What a layer keeps of a request."""

    FULL = "every token"
    """The keys and values of every token."""
    WINDOW = "the last tokens"
    """The keys and values of every token, though it reads the last ones."""
    CHUNK = "the tokens of a chunk"
    """The same, though it reads those since its chunk began."""
    RECURRENT = "a state"
    """A state whose size does not depend on the tokens."""
    NOTHING = "nothing"
    """Nothing: the layer mixes no tokens."""


_NAMES: Final = {
    "attention": LayerKind.FULL,
    "full_attention": LayerKind.FULL,
    "sliding_attention": LayerKind.WINDOW,
    "chunked_attention": LayerKind.CHUNK,
    "linear_attention": LayerKind.RECURRENT,
    "mamba": LayerKind.RECURRENT,
    "mlp": LayerKind.NOTHING,
    "moe": LayerKind.NOTHING,
}
_LETTERS: Final = {
    "*": LayerKind.FULL,
    "M": LayerKind.RECURRENT,
    "-": LayerKind.NOTHING,
    "E": LayerKind.NOTHING,
}
"""Nemotron-H writes a letter a layer."""
_LOCAL_GLOBAL: Final = {"L": LayerKind.WINDOW, "G": LayerKind.FULL}
"""EXAONE 4 writes the letters of as many layers as repeat."""
LISTS = ("layer_types", "layers_block_type")
"""Keys under which each layer has its kind."""


def layer_kinds(fields: Fields, num_layers: int) -> list[LayerKind]:
    """Returns the kind of each layer, `[num_layers]`.

    Args:
        fields: What the file says.
        num_layers: Layers of the model.

    Raises:
        ModelError: If a list has another length or an unknown kind, two fields
            disagree, or it is not said which layers have the window.
    """
    listed = _listed(fields)
    if listed is None:
        implied = _implied(fields, num_layers)
        return implied or [LayerKind.FULL] * num_layers
    key, kinds = listed
    if len(kinds) != num_layers:
        raise ModelError(
            f"{fields.source}: wanted {num_layers} layers in {key}, as "
            f"num_hidden_layers says, got {len(kinds)}"
        )
    interval = _interval(fields, num_layers)
    if interval is not None and interval[1] != kinds:
        raise ModelError(
            f"{fields.source}: wanted {key} and {interval[0]} to agree, got "
            f"{interval[0]} {fields[interval[0]]}"
        )
    return kinds


def window_tokens(fields: Fields, kinds: Sequence[LayerKind]) -> int:
    """Returns the tokens that layers with a window read, the newest included.

    Args:
        fields: What the file says.
        kinds: The kind of each layer; some have a window.

    Raises:
        ModelError: If that is not said, or no positive number.
    """
    in_chunks = LayerKind.CHUNK in kinds
    if in_chunks and LayerKind.WINDOW in kinds:
        raise ModelError(
            f"{fields.source}: wanted sliding_attention or chunked_attention "
            f"in layer_types, got both"
        )
    if not in_chunks and not fields.flag("use_sliding_window", True):
        raise ModelError(
            f"{fields.source}: wanted no sliding_attention in layer_types "
            f"under use_sliding_window False, got some"
        )
    return _at_least(
        fields, "attention_chunk_size" if in_chunks else "sliding_window", 1
    )


def _listed(fields: Fields) -> tuple[str, list[LayerKind]] | None:
    """Returns the kinds that a list of all layers names, with its key."""
    for key in LISTS:
        if key in fields:
            names = fields.texts(key)
            return key, [_kind(fields, key, name, _NAMES) for name in names]
    if "hybrid_override_pattern" in fields:
        key = "hybrid_override_pattern"
        letters = fields.text(key)
        return key, [_kind(fields, key, name, _LETTERS) for name in letters]
    return None


def _kind(
    fields: Fields, key: str, name: str, known: dict[str, LayerKind]
) -> LayerKind:
    if name not in known:
        raise ModelError(
            f"{fields.source}: wanted {', '.join(known)} in {key}, got {name}"
        )
    return known[name]


def _implied(fields: Fields, num_layers: int) -> list[LayerKind] | None:
    """Returns the kinds that follow from other fields."""
    if (found := _interval(fields, num_layers)) is not None:
        return found[1]
    if "attn_layer_indices" in fields:
        return _at_indices(fields, num_layers)
    if "attn_layer_period" in fields:
        return _periodic(fields, num_layers)
    if "attention_chunk_size" in fields:
        return _without_rope(fields, num_layers)
    if "sliding_window" in fields and fields.flag("use_sliding_window", True):
        return _behind_first(fields, num_layers)
    return None


def _interval(
    fields: Fields, num_layers: int
) -> tuple[str, list[LayerKind]] | None:
    """Returns the kinds if some layers repeat, with the key that says so."""
    key, others = "full_attention_interval", LayerKind.RECURRENT
    if key not in fields:
        key, others = "sliding_window_pattern", LayerKind.WINDOW
        if key not in fields or "sliding_window" not in fields:
            return None
    if isinstance(letters := fields[key], str) and letters:
        kinds = [_kind(fields, key, each, _LOCAL_GLOBAL) for each in letters]
    else:
        interval = _at_least(fields, key, 1)
        kinds = [others] * (interval - 1) + [LayerKind.FULL]
    return key, [kinds[i % len(kinds)] for i in range(num_layers)]


def _at_indices(fields: Fields, num_layers: int) -> list[LayerKind]:
    indices = fields.integers("attn_layer_indices")
    kinds = [LayerKind.RECURRENT] * num_layers
    for index in indices:
        if not 0 <= index < num_layers:
            raise ModelError(
                f"{fields.source}: wanted attn_layer_indices below "
                f"num_hidden_layers {num_layers}, got {index}"
            )
        kinds[index] = LayerKind.FULL
    return kinds


def _periodic(fields: Fields, num_layers: int) -> list[LayerKind]:
    period = _at_least(fields, "attn_layer_period", 1)
    offset = _at_least(fields, "attn_layer_offset", 0)
    if offset >= period:
        raise ModelError(
            f"{fields.source}: wanted attn_layer_offset below "
            f"attn_layer_period {period}, got {offset}"
        )
    return [
        LayerKind.FULL if layer % period == offset else LayerKind.RECURRENT
        for layer in range(num_layers)
    ]


def _without_rope(fields: Fields, num_layers: int) -> list[LayerKind]:
    """Returns Llama 4's kinds: layers that rotate nothing read everything."""
    rotates: list[int] = []
    if fields["no_rope_layers"]:
        rotates = fields.integers("no_rope_layers")
    elif "no_rope_layer_interval" in fields:
        interval = _at_least(fields, "no_rope_layer_interval", 1)
        rotates = [(i + 1) % interval for i in range(num_layers)]
    if len(rotates) != num_layers:
        raise ModelError(
            f"{fields.source}: wanted layer_types, or no_rope_layers for "
            f"{num_layers} layers, beside attention_chunk_size, got "
            f"{len(rotates)}"
        )
    return [LayerKind.CHUNK if each else LayerKind.FULL for each in rotates]


def _behind_first(fields: Fields, num_layers: int) -> list[LayerKind]:
    """Returns windows for all layers behind those that have full attention."""
    if "max_window_layers" not in fields:
        raise ModelError(
            f"{fields.source}: wanted layer_types, sliding_window_pattern or "
            f"max_window_layers beside sliding_window "
            f"{fields['sliding_window']}, got none of them"
        )
    first = min(_at_least(fields, "max_window_layers", 0), num_layers)
    rest = num_layers - first
    return [LayerKind.FULL] * first + [LayerKind.WINDOW] * rest


def _at_least(fields: Fields, key: str, least: int) -> int:
    if (value := fields.integer(key)) < least:
        raise ModelError(
            f"{fields.source}: wanted {key} from {least} on, got {value}"
        )
    return value
