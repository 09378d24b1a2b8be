"""A flow of several steps, compiled without fusion."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from compiler_cases import cache_context
from kvcache.compiler import cache as c
from kvcache.compiler import indexer as i
from kvcache.compiler.compiling import compile as compile_context
from kvcache.compiler.flow import vFlow
from kvcache.compiler.graph import DISABLE_FUSION
from kvcache.compiler.recording import record_cache
from kvcache.compiler.vtensor import vTensor

from .flow_configuration import sizes
from .flows import FlowConfiguration, extensions_of, flow_module

if TYPE_CHECKING:
    from max.graph import DeviceRef, Module

    from kvcache.compiler.mojo_backend.slot_classes import SlotCache

ON_CACHE_SIDE = 5
ON_INDEXER_SIDE = 3


class Steps(vFlow):
    """Summaries and scores of several steps; one reads a field."""

    def create_cache(
        self, block_size: int, head_dim: int
    ) -> dict[str, tuple[int, int]]:
        """Declares a mean, and its norm."""
        del block_size
        return {"mean": (1, head_dim), "norm": (1, 1)}

    def forward_cache(
        self, cache: Mapping[str, vTensor], loc: Any, ctx: Any
    ) -> None:
        """Calls the operators of `ON_CACHE_SIDE`."""
        size = c.Abs(0.1, 2.0)(cache["k"], loc=loc, ctx=ctx)
        pairs = c.MaxInterleave(dim=1, k=2)(size, loc=loc, ctx=ctx)
        both = c.Multiply()(pairs, pairs, loc=loc, ctx=ctx)
        c.Mean(dim=1)(both, cache["mean"], loc=loc, ctx=ctx)
        c.L2Norm(dim=2)(cache["mean"], cache["norm"], loc=loc, ctx=ctx)

    def forward_indexer(
        self, q: vTensor, o: vTensor, cache: Mapping[str, vTensor], ctx: Any
    ) -> None:
        """Calls the operators of `ON_INDEXER_SIDE`, and chooses."""
        product = i.GeMV()(i.Mean(dim=1)(q, ctx=ctx), cache["mean"], ctx=ctx)
        i.topK()(i.Add()(product, cache["norm"], ctx=ctx), o, ctx=ctx)


POOL = FlowConfiguration(
    flow=Steps,
    block_size=16,
    field_dtype="float32",
    sizes=sizes("float32", page_size=32, heads=(2, 3), head_dim=24),
)


@contextmanager
def without_fusion() -> Iterator[None]:
    """Has programs that are made meanwhile consist of single operators."""
    with patch.dict(environ, {DISABLE_FUSION: "1"}):
        yield


def recorded_slots(folder: Path | None, backend: str) -> Any:
    """Returns the context of the cache side on the seed's layout."""
    ctx = cache_context(folder, backend)
    record_cache(Steps(), ctx)
    return ctx


@cache
def slots_class() -> "type[SlotCache]":
    """Returns the cache side on the seed's layout, without fusion."""
    with without_fusion():
        made: type[SlotCache] = compile_context(recorded_slots(None, "mojo"))
    return made


def add_unfused(module: "Module", device: "DeviceRef") -> None:
    """Adds the flow's graphs on our pool and on the seed's layout."""
    with without_fusion():
        flow_module([POOL], device, module)
    slots_class().plan_of().graph(device, module)


def extensions_of_unfused() -> list[Path]:
    """Returns the compiled modules of both."""
    with without_fusion():
        return [*extensions_of([POOL]), slots_class().plan_of().extension]
