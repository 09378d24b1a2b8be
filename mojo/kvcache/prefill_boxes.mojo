"""How tensor memory copies keys, values and queries of the prefill kernel."""

from layout import coord
from layout.tma_async import TMATensorTile
from max.gpu.host import DeviceBuffer, DeviceContext
from max.gpu.host.nvidia.tma import create_tma_descriptor
from std.utils.index import IndexList

from .prefill_call import PrefillCall
from .prefill_shape import PrefillShape
from .tma import PageTMATile

comptime Boxes[shape: PrefillShape] = PageTMATile[
    shape.code, shape.box_rows(), shape.panel(), shape.swizzle(), True
]
"""Describes copies of some tokens' panels of one head.

Parameters:
    shape: What the kernel is compiled for.
"""

comptime QueryBoxes[shape: PrefillShape] = TMATensorTile[
    shape.dtype,
    coord[shape.box_tokens(), shape.box_heads(), shape.panel()],
    coord[shape.box_tokens(), shape.box_heads(), shape.panel()],
    True,
]
"""Describes copies of a panel of a tile's queries.

Parameters:
    shape: What the kernel is compiled for.
"""


def page_boxes[
    shape: PrefillShape
](cache: PrefillCall[shape].CacheType, ctx: DeviceContext) raises -> Boxes[
    shape
]:
    """Describes a layer's keys, or its values.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        cache: The view of them.
        ctx: The GPU.

    Returns:
        The descriptor.

    Raises:
        If the pool does not allow one.
    """
    return cache.create_tma_tile[
        shape.box_rows(), shape.panel(), shape.swizzle(), is_k_major=True
    ](ctx)


def query_boxes[
    shape: PrefillShape
](
    call: PrefillCall[shape], *, total_tokens: Int, ctx: DeviceContext
) raises -> QueryBoxes[shape]:
    """Describes the queries.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        total_tokens: The rows in the queries.
        ctx: The GPU.

    Returns:
        The descriptor.

    Raises:
        If the queries are not aligned to 16 bytes.
    """
    comptime head_dim = shape.head_dim()
    return {
        create_tma_descriptor[shape.dtype, 3, shape.swizzle()](
            DeviceBuffer(
                ctx, call.queries.unsafe_mut_cast[True](), 1, owning=False
            ),
            IndexList[3](total_tokens, shape.num_q_heads, head_dim),
            IndexList[3](shape.num_q_heads * head_dim, head_dim, 1),
            IndexList[3](shape.box_tokens(), shape.box_heads(), shape.panel()),
        )
    }
