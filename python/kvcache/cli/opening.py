"""Opens what a command runs on: a model and a loop that serves it."""

from pathlib import Path
from typing import TYPE_CHECKING

from kvcache.cli.options import CacheOptions
from kvcache.errors import InsufficientMemoryError
from kvcache.model import LlamaModel, ModelError, Tokenizer, load_model
from kvcache.serve import ScheduleLimits, ServingLoop
from kvcache.spec import pages_for

if TYPE_CHECKING:
    from kvcache.flow_ops import FlowOps

SUMMARY_DTYPE = "float32"
"""The element type of summaries."""


def open_model(path: Path) -> tuple[LlamaModel, Tokenizer]:
    """Reads a model that has a tokenizer.

    Raises:
        ModelError: If there is no such model, or it has no tokenizer.
    """
    model = load_model(path)
    if model.tokenizer is None:
        raise ModelError(f"wanted a model with a tokenizer, {path} has none")
    return model, model.tokenizer


def open_loop(
    model: LlamaModel,
    cache: CacheOptions,
    *,
    num_tokens: int,
    max_batch_size: int,
    limits: ScheduleLimits,
    samples: bool,
) -> ServingLoop:
    """Compiles a model and makes its cache.

    Args:
        model: The model.
        cache: What the person said about the cache.
        num_tokens: Tokens that the cache shall hold if nothing was said.
        max_batch_size: Requests that hold pages at the same time.
        limits: How much one step may compute.
        samples: Whether tokens are drawn at random.

    Raises:
        InsufficientMemoryError: If the budget does not hold one page.
        DeviceError: If the device is not there.
    """
    from kvcache.serve.engine import cache_params, llama_loop

    flow = _flow_ops(model, cache)
    params = cache_params(
        model.config,
        page_size=cache.page_size,
        prefix_cache=cache.prefix_cache,
        kv_dtype=cache.kv_dtype.value,
        flow=flow,
    )
    page_bytes = params.bytes_per_page(model.config.num_layers)
    num_pages = cache.max_pages or pages_for(num_tokens, cache.page_size)
    memory = cache.kv_memory or num_pages * page_bytes
    if memory < page_bytes:
        raise InsufficientMemoryError(
            f"wanted at least {page_bytes} bytes, one page of "
            f"{cache.page_size} tokens, got {memory}"
        )
    return llama_loop(
        model,
        params,
        memory=memory,
        device=cache.device.value,
        max_batch_size=max_batch_size,
        limits=limits,
        samples=samples,
        flow=flow,
        ratio=cache.sparse.ratio if cache.sparse else 1.0,
    )


def _flow_ops(model: LlamaModel, cache: CacheOptions) -> "FlowOps | None":
    """Compiles the flow that chooses blocks, if one was asked for."""
    if cache.sparse is None:
        return None
    from kvcache.compiler.mojo_backend import flow_ops
    from kvcache.compiler.registry import make_flow

    config = model.config
    return flow_ops(
        make_flow(cache.sparse.flow),
        block_size=cache.block_size,
        head_dim=config.head_dim,
        group_size=config.num_q_heads // config.num_kv_heads,
        field_dtype=SUMMARY_DTYPE,
    )
