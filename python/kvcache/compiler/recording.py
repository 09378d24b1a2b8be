"""Calls a flow once and records what it does."""

import numpy as np

from kvcache.compiler.cache.context import Context as CacheContext
from kvcache.compiler.flow import vFlow
from kvcache.compiler.graph_context import GraphContext
from kvcache.compiler.indexer.context import Context as IndexerContext
from kvcache.compiler.vtensor import FORMAT, vTensor


def record_cache(flow: vFlow, ctx: CacheContext) -> None:
    """Records how a flow makes its summaries.

    What the context had recorded is forgotten. Tensors 0 and on are the
    declared fields, then `k` and `v`. The context ends in execute mode.

    Args:
        flow: The flow; initialised with the context's sizes, or not yet, and
            then it is with the context's `vortex_dtype` for all types.
        ctx: The context, created.

    Raises:
        RuntimeError: If the context is not created, or a declared field is
            not made.
        ValueError: If the flow was initialised with other sizes.
        AssertionError: If operands of an operator do not fit, by its name.
    """
    _prepare(flow, ctx)
    fields = _add_fields(flow, ctx)
    ctx.profile()
    flow.forward_cache(fields, np.empty(0, np.int64), ctx)
    made = ctx.output_tensor_to_op_list
    unmade = [
        name
        for name, tensor in fields.items()
        if name not in {"k", "v"} and made[tensor.tensor_id] is None
    ]
    if unmade:
        raise RuntimeError(
            f"{type(flow).__name__}: wanted forward_cache to make every "
            f"declared field, got none for {', '.join(unmade)}"
        )
    ctx.execute()


def record_indexer(
    flow: vFlow, ctx: IndexerContext, group_size: int | None = None
) -> None:
    """Records how a flow scores and chooses blocks.

    What the context had recorded is forgotten. Tensors 0 and on are the
    declared fields, then `k`, `v`, `q` and `o`. The context ends in execute
    mode. What the flow reserves and its `topk_val` become the context's.

    Args:
        flow: As in `record_cache`.
        ctx: The context, created.
        group_size: Query heads that share a key-value head; the context's if
            None.

    Raises:
        RuntimeError: If the context is not created, or `topK` is not called.
        ValueError: If the flow was initialised with other sizes.
        AssertionError: If operands of an operator do not fit, by its name.
    """
    _prepare(flow, ctx)
    fields = _add_fields(flow, ctx)
    group = ctx.group_size if group_size is None else group_size
    q = ctx.add_tensor(
        (group, ctx.head_dim),
        flow.q_data_type or ctx.vortex_dtype,
        FORMAT.BATCHED,
        name="q",
    )
    o = ctx.add_tensor((1, 1), "int32", FORMAT.RAGGED, name="o")
    ctx.profile()
    flow.forward_indexer(q, o, fields, ctx)
    if ctx.output_tensor_to_op_list[o.tensor_id] is None:
        raise RuntimeError(
            f"{type(flow).__name__}: wanted forward_indexer to call topK, "
            "got no call"
        )
    ctx.block_reserved_bos = flow.block_reserved_bos
    ctx.block_reserved_eos = flow.block_reserved_eos
    ctx.topk_val = max(ctx.topk_val, flow.topk_val)
    ctx.execute()


def _prepare(flow: vFlow, ctx: CacheContext | IndexerContext) -> None:
    """Clears the context, and lets the flow know its sizes."""
    ctx.assert_created()
    wanted = (ctx.block_size, ctx.head_dim)
    if flow.cache_meta_info is None:
        dtype = ctx.vortex_dtype
        flow.initialize(*wanted, dtype, dtype, intermediate_dtype=dtype)
    elif (flow.block_size, flow.head_dim) != wanted:
        raise ValueError(
            f"wanted a flow of block_size and head_dim {wanted}, got "
            f"{(flow.block_size, flow.head_dim)}"
        )
    ctx.reset_graph()


def _add_fields(flow: vFlow, ctx: GraphContext) -> dict[str, vTensor]:
    described: dict[str, tuple[tuple[int, int], str]] = (
        flow.cache_meta_info or {}
    )
    return {
        name: ctx.add_tensor(tile, dtype, FORMAT.PAGED, name=f"cache[{name!r}]")
        for name, (tile, dtype) in described.items()
    }
