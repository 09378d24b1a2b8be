"""How much cache a memory holds, said before there is a manager."""

from kvcache.planning.budget import MemoryBudget
from kvcache.planning.cache_plan import CachePlan, WindowBound, plan_cache
from kvcache.planning.formats import KVFormat, beyond_kernels, formats_for
from kvcache.planning.hf_config import shape_from_config
from kvcache.planning.reading import read_shape
from kvcache.planning.shape import ModelShape, RecurrentState, WindowLayers
from kvcache.planning.shape_text import parse_shape

__all__ = [
    "CachePlan",
    "KVFormat",
    "MemoryBudget",
    "ModelShape",
    "RecurrentState",
    "WindowBound",
    "WindowLayers",
    "beyond_kernels",
    "formats_for",
    "parse_shape",
    "plan_cache",
    "read_shape",
    "shape_from_config",
]
