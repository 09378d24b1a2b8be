"""Puts a model, its cache and a loop together."""

import os

from kvcache.errors import InsufficientMemoryError
from kvcache.flow_ops import FlowOps
from kvcache.manager import PagedKVCacheManager
from kvcache.model import LlamaConfig, LlamaModel
from kvcache.quantization import QUANTIZED_DTYPES, Quantization
from kvcache.serve.compiled_llama import CompiledLlama, compile_together
from kvcache.serve.loop import ServingLoop
from kvcache.serve.plan import ScheduleLimits
from kvcache.serve.runner import LlamaRunner, open_device, open_session
from kvcache.spec import KVCacheParams

_LIMITS = ScheduleLimits()


def cache_params(
    config: LlamaConfig,
    *,
    page_size: int = 16,
    prefix_cache: bool = True,
    kv_dtype: str = "float32",
    flow: FlowOps | None = None,
) -> KVCacheParams:
    """Returns the shape of a model's cache.

    Args:
        config: The model's sizes.
        page_size: Tokens per page.
        prefix_cache: Whether requests share the pages of equal prefixes.
        kv_dtype: The element type of keys and values, by name. Of types of 8
            bits, each token's heads have scales of their own.
        flow: Whose summaries are kept beside the pages.

    Raises:
        InvalidParamsError: If there is no such type.
    """
    is_quantized = kv_dtype in QUANTIZED_DTYPES
    return KVCacheParams(
        dtype=kv_dtype,
        quantization=Quantization() if is_quantized else None,
        n_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        enable_prefix_caching=prefix_cache,
        page_size=page_size,
        summaries=None if flow is None else flow.summaries,
    )


def llama_loop(
    model: LlamaModel,
    params: KVCacheParams,
    *,
    memory: int,
    device: str = "cpu",
    max_batch_size: int = 8,
    limits: ScheduleLimits = _LIMITS,
    samples: bool = False,
    flow: FlowOps | None = None,
    ratio: float = 1.0,
) -> ServingLoop:
    """Compiles a model and returns a loop that serves it.

    Args:
        model: The weights and their sizes.
        params: The shape of the cache.
        memory: Bytes for pages; one more page comes on top.
        device: `cpu` or `gpu`.
        max_batch_size: Requests that hold pages at the same time.
        limits: How much one step may compute.
        samples: Whether to compile the graph that samples too; else that
            happens within the first step that needs it.
        flow: Chooses the blocks that decode steps attend to; `params` have its
            summaries.
        ratio: The share of its blocks that a request attends to.

    Raises:
        InvalidParamsError: If a full batch could not decode in one step.
        DeviceError: If there is no such device.
        InsufficientMemoryError: If the memory does not hold one page, or the
            machine does not have it.
    """
    limits.check_batch(max_batch_size)
    place = open_device(device)
    if device == "cpu":
        _check_memory(memory)
    session = open_session(place)
    page_size = params.page_size
    assert page_size is not None, "the paged strategy has a page size"
    manager = PagedKVCacheManager(
        params,
        max_batch_size=max_batch_size,
        max_seq_len=model.config.max_seq_len,
        num_layers=model.config.num_layers,
        devices=[place],
        session=session,
        available_cache_memory=memory,
        page_size=page_size,
    )
    compiled = CompiledLlama(
        model, params, device=place, session=session, flow=flow
    )
    compile_together([compiled], samples=samples)
    runner = LlamaRunner(compiled, manager, ratio=ratio)
    return ServingLoop(manager, runner, limits=limits)


def _check_memory(memory: int) -> None:
    """Refuses what this machine cannot hold, before it tries."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory > there:
        raise InsufficientMemoryError(
            f"wanted {memory} bytes for pages, this machine has {there}"
        )
