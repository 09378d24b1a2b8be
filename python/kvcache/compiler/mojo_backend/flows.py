"""Compiles both sides of a flow for graphs."""

from dataclasses import dataclass
from pathlib import Path

from kvcache.cache_folder import cache_folder
from kvcache.compiler.cache.context import Context as CacheContext
from kvcache.compiler.flow import vFlow
from kvcache.compiler.graph import program_of
from kvcache.compiler.indexer.context import Context as IndexerContext
from kvcache.compiler.mojo_backend.modules import flow_text
from kvcache.compiler.mojo_backend.packages import compiled_package
from kvcache.compiler.parents import PoolParent
from kvcache.compiler.program import Program
from kvcache.compiler.recording import record_cache, record_indexer
from kvcache.compiler.runners import Requests, Runner, Settings
from kvcache.flow_ops import FlowOps


@dataclass(frozen=True, slots=True)
class FlowPrograms:
    """What a flow computes."""

    cache: Program
    """How the summaries of a complete block are made."""
    indexer: Program
    """How the complete blocks of a sequence are scored."""
    reserved_first: int
    """The first blocks of a sequence, which are always chosen."""
    reserved_last: int
    """The last blocks, which are always chosen."""
    top_k: int
    """Blocks that are chosen by their scores beside these, at least."""


def flow_programs(
    flow: vFlow, *, block_size: int, head_dim: int, group_size: int
) -> FlowPrograms:
    """Records both sides of a flow.

    Args:
        flow: The flow; it must not have been initialised with other sizes.
        block_size: Tokens of a block.
        head_dim: Elements per head.
        group_size: Query heads that share a key-value head.

    Raises:
        AssertionError: If operands of an operator do not fit, by its name.
        RuntimeError: If a field is not made, or no block is chosen.
        ValueError: If the flow was initialised with other sizes.
    """
    parent = PoolParent(
        page_size=block_size,
        block_size=block_size,
        num_pages=1,
        head_num=1,
        head_dim=head_dim,
        group_size=group_size,
    )
    runner = Runner(Settings(max_prefill_tokens=1), Requests(1))
    cache = CacheContext().create(parent, runner)
    record_cache(flow, cache)
    indexer = IndexerContext().create(parent, runner)
    record_indexer(flow, indexer, group_size)
    return FlowPrograms(
        program_of(cache),
        program_of(indexer),
        indexer.block_reserved_bos,
        indexer.block_reserved_eos,
        indexer.topk_val,
    )


def flow_ops(
    flow: vFlow,
    *,
    block_size: int,
    head_dim: int,
    group_size: int,
    field_dtype: object = "bfloat16",
    cache_dir: str | Path | None = None,
) -> FlowOps:
    """Compiles a flow for graphs, or finds it compiled.

    Of a quantised pool the operations are called `CacheInputs.op(name)`: the
    names here with `_quantized` behind them.

    Args:
        flow: The flow.
        block_size: Tokens of a block.
        head_dim: Elements per head.
        group_size: Query heads that share a key-value head.
        field_dtype: Element type of the summaries.
        cache_dir: Where generated packages are kept; below `cache_folder()`
            by default.

    Raises:
        AssertionError: If operands of an operator do not fit, by its name.
        RuntimeError: If a field is not made, or no block is chosen.
        ValueError: If a size is one that summaries do not take.
        NotImplementedError: If a block's intermediate results do not fit a
            GPU's shared memory.
        MojoCompileError: If the generated code does not compile.
    """
    summaries = flow.summaries(block_size, head_dim, field_dtype)
    programs = flow_programs(
        flow, block_size=block_size, head_dim=head_dim, group_size=group_size
    )
    module = flow_text(
        programs.cache,
        programs.indexer,
        summaries.fields,
        group_size=group_size,
        head_dim=head_dim,
    )
    folder = cache_folder() / "compiler" if cache_dir is None else cache_dir
    name, extension = compiled_package(
        module.text, Path(folder).expanduser().absolute()
    )
    return FlowOps(
        extension=extension,
        summarise=f"{name}.summarise",
        score=f"{name}.score",
        store=f"{name}.store",
        rope_store=f"{name}.rope_store",
        summaries=summaries,
        score_scratch=module.score_scratch,
        reserved_first=programs.reserved_first,
        reserved_last=programs.reserved_last,
        top_k=programs.top_k,
    )
