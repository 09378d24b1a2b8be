"""Reads from a `config.json` the state that recurrent layers keep."""

import math

from kvcache.errors import InvalidParamsError
from kvcache.model.error import ModelError
from kvcache.model.fields import Fields
from kvcache.planning.layer_kinds import LISTS
from kvcache.planning.shape import RecurrentState
from kvcache.spec import KVCacheParams

_FLOAT32_BYTES = 4
_MARKS = ("linear_num_value_heads", "mamba_d_state", "ssm_state_size")
"""What a model with recurrent layers names, each kind its own."""


def recurrent_state(
    fields: Fields, num_layers: int, dtype: str
) -> RecurrentState | None:
    """Returns the state of a request, None without recurrent layers.

    The recurrent state is in float32, the inputs that a convolution still
    needs (one fewer than its kernel has) are in the model's type.

    Args:
        fields: What the file says.
        num_layers: Recurrent layers.
        dtype: The model's element type, by name.

    Raises:
        ModelError: If a size is missing or not positive, or the fields are of
            a model with recurrent layers and nothing says which those are.
    """
    mark = next((key for key in _MARKS if key in fields), None)
    if not num_layers:
        if mark is None or any(key in fields for key in LISTS):
            return None
        raise ModelError(
            f"{fields.source}: wanted layer_types with recurrent layers "
            f"beside {mark}, got none"
        )
    if mark is None:
        raise ModelError(
            f"{fields.source}: wanted one of {', '.join(_MARKS)} for "
            f"{num_layers} recurrent layers, got none"
        )
    readers = dict(zip(_MARKS, (_gated_delta, _mamba, _nemotron), strict=True))
    state, channels, kernel, num_shares = readers[mark](fields)
    return RecurrentState(
        num_layers=num_layers,
        recurrent_bytes=state * _FLOAT32_BYTES,
        conv_bytes=channels * (kernel - 1) * _bytes_of(fields, dtype),
        num_shares=num_shares,
    )


def _gated_delta(fields: Fields) -> tuple[int, int, int, int]:
    """Returns a gated delta net's state, channels, kernel and shares."""
    key_heads = _size(fields, "linear_num_key_heads")
    value_heads = _size(fields, "linear_num_value_heads")
    key_dim = _size(fields, "linear_key_head_dim")
    value_dim = _size(fields, "linear_value_head_dim")
    return (
        value_heads * key_dim * value_dim,
        2 * key_heads * key_dim + value_heads * value_dim,
        _size(fields, "linear_conv_kernel_dim"),
        math.gcd(key_heads, value_heads),
    )


def _mamba(fields: Fields) -> tuple[int, int, int, int]:
    """Returns the same of Jamba's layers, or with heads of Mamba-2's."""
    state = _size(fields, "mamba_d_state")
    kernel = _size(fields, "mamba_d_conv")
    width = _size(fields, "mamba_expand") * _size(fields, "hidden_size")
    if "mamba_n_heads" not in fields:
        return width * state, width, kernel, width
    heads = _size(fields, "mamba_n_heads")
    groups = _size(fields, "mamba_n_groups")
    if fields["mamba_d_head"] not in {None, "auto"}:
        wide = heads * _size(fields, "mamba_d_head")
        if wide != width:
            raise ModelError(
                f"{fields.source}: wanted mamba_n_heads * mamba_d_head to be "
                f"mamba_expand * hidden_size {width}, got {wide}"
            )
    channels = width + 2 * groups * state
    return width * state, channels, kernel, math.gcd(heads, groups)


def _nemotron(fields: Fields) -> tuple[int, int, int, int]:
    """Returns the same under the names that Nemotron-H has for them."""
    state = _size(fields, "ssm_state_size")
    heads = _size(fields, "mamba_num_heads")
    groups = _size(fields, "n_groups")
    width = heads * _size(fields, "mamba_head_dim")
    kernel = _size(fields, "conv_kernel")
    channels = width + 2 * groups * state
    return width * state, channels, kernel, math.gcd(heads, groups)


def _size(fields: Fields, key: str) -> int:
    if (value := fields.integer(key)) < 1:
        raise ModelError(
            f"{fields.source}: wanted a positive {key}, got {value}"
        )
    return value


def _bytes_of(fields: Fields, dtype: str) -> int:
    try:
        return KVCacheParams(dtype, 1, 1, page_size=1).dtype_bytes
    except InvalidParamsError as error:
        raise ModelError(f"{fields.source}: torch_dtype: {error}") from error
