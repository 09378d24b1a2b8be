"""The graph types of what a fetch returns."""

from collections.abc import Sequence

from max.driver import Device
from max.dtype import DType
from max.graph import BufferType, DeviceRef, TensorType

from kvcache.manager.inputs import RaggedKVCacheSymbols
from kvcache.manager.quantized_inputs import QuantizedKVCacheSymbols
from kvcache.manager.stores import page_parts
from kvcache.manager.summarised_inputs import with_summaries
from kvcache.spec import KVCacheParams


def ragged_symbols(
    params: KVCacheParams,
    devices: Sequence[Device],
    *,
    num_layers: int,
    page_size: int,
) -> list[RaggedKVCacheSymbols]:
    """Returns the types of each device's inputs, in the order of the replicas.

    Devices of one replica have equal batches, so their dimensions have equal
    names. Where there are several replicas, each has names of its own.

    Args:
        params: Shape of a token's keys and values.
        devices: One per device of `params`, in the order of the replicas.
        num_layers: Layers of the model.
        page_size: Tokens per page.
    """
    parts = page_parts(params, num_layers, page_size)
    return [
        _symbols(params, parts, device, _names(params, place))
        for place, device in enumerate(devices)
    ]


def _names(params: KVCacheParams, place: int) -> tuple[str, str, str]:
    """Returns what batch, columns and steps of a device are called."""
    if params.data_parallel_degree == 1:
        return "batch_size", "num_columns", "steps_remaining"
    prefix = f"replica_{place // params.devices_per_replica}"
    return (
        f"{prefix}_batch_size",
        f"{prefix}_max_num_pages",
        f"{prefix}_steps_remaining",
    )


def _symbols(
    params: KVCacheParams,
    parts: Sequence[tuple[tuple[int, ...], DType]],
    device: Device,
    names: tuple[str, str, str],
) -> RaggedKVCacheSymbols:
    place, host = DeviceRef.from_device(device), DeviceRef.CPU()
    batch, columns, steps = names
    blocks, *further = (
        BufferType(dtype, ["total_num_pages", *page], place)
        for page, dtype in parts
    )
    symbols = RaggedKVCacheSymbols(
        blocks=blocks,
        cache_lengths=TensorType(DType.uint32, [batch], place),
        lookup_table=TensorType(DType.uint32, [batch, columns], place),
        max_lengths=TensorType(DType.uint32, [steps, 2], host),
    )
    if params.quantization is not None:
        symbols = QuantizedKVCacheSymbols(*symbols, further.pop(0))
    if params.summaries is not None:
        symbols = with_summaries(symbols, params.summaries, further)
    return symbols
