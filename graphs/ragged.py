"""Types of the inputs that describe a ragged batch."""

from max.dtype import DType
from max.graph import DeviceRef, TensorType


def row_offsets_type(device: DeviceRef) -> TensorType:
    """Returns the type of `input_row_offsets`.

    Args:
        device: Where the batch is.

    Returns:
        uint32 `[batch_size + 1]`, under a symbol of its own.
    """
    return TensorType(DType.uint32, ["batch_size_plus_one"], device)
