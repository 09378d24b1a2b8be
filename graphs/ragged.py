"""Types of the inputs that describe a ragged batch and how it is kept."""

from max.dtype import DType
from max.graph import DeviceRef, TensorType

from kvcache.ops import CacheInputTypes


def row_offsets_type(device: DeviceRef) -> TensorType:
    """Returns the type of `input_row_offsets`.

    Args:
        device: Where the batch is.

    Returns:
        uint32 `[batch_size + 1]`, under a symbol of its own.
    """
    return TensorType(DType.uint32, ["batch_size_plus_one"], device)


def given_scales(cache: CacheInputTypes) -> list[TensorType]:
    """Returns the type of the scales that a store is given, if there are any.

    Args:
        cache: The types of the cache's inputs.
    """
    return [] if cache.scales is None else [cache.scales]
