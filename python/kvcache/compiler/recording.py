"""Calls a flow once and records what it does."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from kvcache.compiler.cache.context import Context as CacheContext
from kvcache.compiler.flow import vFlow
from kvcache.compiler.graph_context import GraphContext
from kvcache.compiler.indexer.context import Context as IndexerContext
from kvcache.compiler.vtensor import FORMAT, vTensor


def record_cache(flow: vFlow, ctx: CacheContext) -> None:
    """Records how a flow makes its summaries.

    What the context had recorded is forgotten. Tensors 0 and on are the
    declared fields, then `k` and `v`. The context ends in execute mode. If
    anything raises, the context has recorded nothing and has its old mode.

    Args:
        flow: The flow. Unless it is initialised for the context's sizes, it
            is now: with the types that it has, or with `vortex_dtype`.
        ctx: The context, created.

    Raises:
        RuntimeError: If the context is not created, or a declared field is
            not made.
        AssertionError: If operands of an operator do not fit, by its name.
    """
    with _recording(flow, ctx):
        fields = _add_fields(flow, ctx)
        flow.forward_cache(fields, np.empty(0, np.int64), ctx)
        _check_all_made(flow, ctx, fields)


def record_indexer(
    flow: vFlow, ctx: IndexerContext, group_size: int | None = None
) -> None:
    """Records how a flow scores and chooses blocks.

    What the context had recorded is forgotten. Tensors 0 and on are the
    declared fields, then `k`, `v`, `q` and `o`. The context ends in execute
    mode; what it reserves and chooses at least is no less than what the flow
    says. If anything raises, the context has recorded nothing and has its old
    mode.

    Args:
        flow: As in `record_cache`.
        ctx: The context, created.
        group_size: Query heads that share a key-value head; the context's if
            None.

    Raises:
        RuntimeError: If the context is not created, or `topK` is not called.
        AssertionError: If operands of an operator do not fit, by its name.
    """
    with _recording(flow, ctx):
        fields = _add_fields(flow, ctx)
        group = ctx.group_size if group_size is None else group_size
        q = ctx.add_tensor(
            (group, ctx.head_dim),
            flow.q_data_type or ctx.vortex_dtype,
            FORMAT.BATCHED,
            name="q",
        )
        o = ctx.add_tensor((1, 1), "int32", FORMAT.RAGGED, name="o")
        flow.forward_indexer(q, o, fields, ctx)
        if ctx.output_tensor_to_op_list[o.tensor_id] is None:
            raise RuntimeError(
                f"{type(flow).__name__}: wanted forward_indexer to call topK, "
                "got no call"
            )
    for name in ("block_reserved_bos", "block_reserved_eos", "topk_val"):
        setattr(ctx, name, max(getattr(ctx, name), getattr(flow, name)))


@contextmanager
def _recording(
    flow: vFlow, ctx: CacheContext | IndexerContext
) -> Iterator[None]:
    """Clears a context and lets operators be recorded in it."""
    ctx.assert_created()
    sizes = (ctx.block_size, ctx.head_dim)
    if (flow.block_size, flow.head_dim) != sizes:
        default = ctx.vortex_dtype
        flow.initialize(
            *sizes,
            flow.kv_cache_dtype or default,
            flow.q_data_type or default,
            flow.intermediate_dtype or default,
        )
    mode = ctx.mode
    ctx.reset_graph()
    ctx.profile()
    try:
        yield
    except BaseException:
        ctx.reset_graph()
        ctx.mode = mode
        raise
    ctx.execute()


def _add_fields(flow: vFlow, ctx: GraphContext) -> dict[str, vTensor]:
    assert flow.cache_meta_info is not None, "initialize() makes it"
    return {
        name: ctx.add_tensor(tile, dtype, FORMAT.PAGED, name=f"cache[{name!r}]")
        for name, (tile, dtype) in flow.cache_meta_info.items()
    }


def _check_all_made(
    flow: vFlow, ctx: CacheContext, fields: dict[str, vTensor]
) -> None:
    """Refuses a field that would keep what the pool began with."""
    makers = ctx.output_tensor_to_op_list
    unmade = [
        name
        for name, tensor in fields.items()
        if name not in {"k", "v"} and makers[tensor.tensor_id] is None
    ]
    if unmade:
        raise RuntimeError(
            f"{type(flow).__name__}: wanted forward_cache to make every "
            f"declared field, got none for {', '.join(unmade)}"
        )
