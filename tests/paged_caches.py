"""Small paged attention caches, and what they are compared with."""

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from kvcache.paged_attention import (
    DeviceMemory,
    Mesh,
    PagedAttentionCacheMetaData,
    PagedAttentionCacheView,
    PagedAttentionMetadata,
    PartitionAxis,
    absent,
)

ONE = Mesh(["cpu"], "tp")
DTYPES = ("float32", "float16", "bfloat16")
BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32}

Floats = npt.NDArray[Any]


def sizes(**changes: Any) -> PagedAttentionCacheMetaData:
    """A cache of 9 pages of 4 tokens, 2 heads of 8 elements, 2 layers."""
    fields: dict[str, Any] = {
        "partition_axis": PartitionAxis(),
        "dtype": "float32",
        "batch_size": 3,
        "num_hidden_layers": 2,
        "num_pages_per_layer": 9,
        "num_pages_per_sequence": 3,
        "max_sequences": 12,
        "page_size": 4,
        "num_kv_heads": 2,
        "kv_head_dim_size": 8,
        "hbm_utilization": 0.9,
        "hbm_bytes": 1 << 16,
        **changes,
    }
    return PagedAttentionCacheMetaData(**fields)


def create(**changes: Any) -> PagedAttentionCacheMetaData:
    """What `create` makes of the example of EasyDeL's page."""
    arguments: dict[str, Any] = {
        "mesh": ONE,
        "partition_axis": PartitionAxis(),
        "batch_size": 1,
        "num_hidden_layers": 2,
        "max_sequences": 10,
        "page_size": 4,
        "num_kv_heads": 2,
        "kv_head_dim_size": 3,
        "hbm_utilization": 0.5,
        "dtype": "bfloat16",
        "memory": DeviceMemory(16000),
        **changes,
    }
    return PagedAttentionCacheMetaData.create(**arguments)


def prefill(
    length: int, table: list[int], *, padded: int | None = None, first: int = 0
) -> PagedAttentionMetadata:
    rows = -(-length // 4) * 4 if padded is None else padded
    positions = first + np.arange(rows, dtype=np.int32)
    return PagedAttentionMetadata(length, positions, table, absent(), absent())


def decode(
    positions: list[int], table: list[list[int]]
) -> PagedAttentionMetadata:
    return PagedAttentionMetadata(0, absent(), absent(), positions, table)


def mixed(
    prompt: PagedAttentionMetadata, batch: PagedAttentionMetadata
) -> PagedAttentionMetadata:
    return prompt.replace(
        generate_pos=batch.generate_pos,
        generate_page_table=batch.generate_page_table,
    )


def rows(num_rows: int, seed: int = 0, dtype: str = "float32") -> Floats:
    """Keys or values `[num_rows, 2, 8]`."""
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((num_rows, 2, 8), np.float32) * 4
    return drawn.astype(numpy_type(dtype))


def numpy_type(dtype: str) -> npt.DTypeLike:
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def bits(array: Any) -> npt.NDArray[Any]:
    """An array's bits, as unsigned numbers; for NumPy and MAX a view."""
    if type(array).__module__.startswith("torch"):
        import torch

        kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
        host = array.cpu().contiguous().view(kinds[array.element_size()])
        return np.asarray(host.numpy()).view(BITS[array.element_size()])
    if not isinstance(array, np.ndarray):
        from max.dtype import DType

        size = array.dtype.size_in_bytes
        kind = {1: DType.uint8, 2: DType.uint16, 4: DType.uint32}[size]
        array = array.view(kind, array.shape).to_numpy()
    return array.view(BITS[array.itemsize])


def stain(*arrays: Any) -> None:
    """Sets every bit, so that each float is NaN."""
    for array in arrays:
        if isinstance(array, tuple):
            stain(*array)
        else:
            seen = bits(array)
            seen[...] = np.iinfo(seen.dtype).max


def filled_view(
    metadata: PagedAttentionCacheMetaData, mesh: Mesh = ONE, **options: Any
) -> PagedAttentionCacheView:
    """A layer whose pages are NaN wherever nothing was written."""
    view = PagedAttentionCacheView.init(mesh, metadata, 0, **options)
    stain(view.key_pages, view.value_pages)
    return view


def written(
    pages: npt.NDArray[Any], step: PagedAttentionMetadata, values: Floats
) -> None:
    """Writes a step's rows as the words say, one by one.

    Args:
        pages: `[heads, pages, 4, 8]`.
        step: Its arrays are NumPy's.
        values: `[rows, heads, 8]`, of the pages' type.
    """
    begin = 0
    if step.prefill_pos.ndim:
        begin = len(step.prefill_pos)
        for row in range(int(step.prefill_length)):
            page = step.prefill_page_table[row // 4]
            if page:
                pages[:, page, row % 4] = values[row]
    if step.generate_pos.ndim:
        for seq, position in enumerate(step.generate_pos.tolist()):
            if position >= 0:
                page = step.generate_page_table[seq, position // 4]
                if page:
                    pages[:, page, position % 4] = values[begin + seq]


def attend(
    view: PagedAttentionCacheView,
    queries: Floats,  # [rows, q_heads, 8]
    step: PagedAttentionMetadata,
) -> Floats:
    """Causal attention of a step's rows; padding and unused places are 0."""
    output = np.zeros(queries.shape)
    begin = 0
    if step.prefill_pos.ndim:
        begin = len(step.prefill_pos)
        for row in range(int(step.prefill_length)):
            output[row] = _attended(
                view, queries[row], step.prefill_page_table, row + 1
            )
    if step.generate_pos.ndim:
        for seq, position in enumerate(step.generate_pos.tolist()):
            if position >= 0:
                row = begin + seq
                table = step.generate_page_table[seq]
                output[row] = _attended(view, queries[row], table, position + 1)
    return output


def _attended(
    view: PagedAttentionCacheView, query: Floats, table: Any, length: int
) -> Floats:
    keys, values = (
        floats(each, view.metadata.dtype)
        for each in view.read_from_cache(table, length)
    )
    group = len(query) // keys.shape[1]
    output = np.empty(query.shape)
    for head, each in enumerate(query):
        scores = keys[:, head // group] @ each.astype(np.float64)
        weights = np.exp(scores - scores.max())
        output[head] = weights @ values[:, head // group] / weights.sum()
    return output


def floats(array: Any, dtype: str) -> npt.NDArray[np.float64]:
    """What is read from a cache, as float64."""
    if isinstance(array, np.ndarray):
        return array.astype(np.float64)
    return bits(array).view(numpy_type(dtype)).astype(np.float64)
