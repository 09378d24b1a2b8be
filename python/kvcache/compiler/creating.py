"""The fields that contexts of both sides are created with."""

import os
import sys
from pathlib import Path
from typing import Any

from kvcache.compiler.element_types import element_type

DEFAULT_BACKEND = "mojo"
"""What compiles a pipeline. The seed's system always takes "triton"."""

_FLOATS = (
    "bfloat16",
    "float16",
    "float32",
    "float8_e4m3fn",
    "float8_e5m2",
)


def shared_fields(
    parent: Any, model_runner: Any, *, side: str
) -> dict[str, Any]:
    """Returns what both sides read, checked, by the names of the fields.

    Args:
        parent: The pool; see `protocols.CacheParent`.
        model_runner: What runs the model; see `protocols.ModelRunner`.
        side: The end of the pipeline's name: `cache` or `indexer`.

    Raises:
        AssertionError: If blocks do not fill a page, or a size is no positive
            int.
        TypeError: If the type between operators is none of floats.
        AttributeError: If the pool or the runner lacks a field.
    """
    settings = model_runner.server_args
    page_size = positive("page_size", parent.page_size)
    block_size = positive("block_size", parent.block_size)
    if page_size % block_size:
        raise AssertionError(
            "Context: wanted a block_size that divides the page_size "
            f"{page_size}, got {block_size}"
        )
    folder = getattr(settings, "vortex_compilation_cache_dir", None)
    return {
        "vortex_dtype": _compute_type(
            getattr(settings, "vortex_dtype", "bfloat16")
        ),
        "page_size": page_size,
        "block_size": block_size,
        "num_blocks_per_page": page_size // block_size,
        "head_dim": positive("head_dim", parent.head_dim),
        "num_sms": _num_sms(model_runner),
        "compilation_cache_dir": None if folder is None else _path(folder),
        "sparse_attention_name": f"{type(parent).__name__.lower()}_{side}",
        "impl_backend": DEFAULT_BACKEND,
    }


def positive(name: str, value: Any) -> int:
    """Returns a size.

    Raises:
        AssertionError: If it is no positive int.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise AssertionError(
            f"Context: wanted a positive int as {name}, got {value!r}"
        )
    return value


def _compute_type(dtype: object) -> str:
    name = element_type(dtype)
    if name not in _FLOATS:
        raise TypeError(
            f"wanted vortex_dtype to be one of {', '.join(_FLOATS)}, got "
            f"{dtype!r}"
        )
    return name


def _path(folder: str | os.PathLike[str]) -> str:
    return str(Path(folder))


def _num_sms(model_runner: Any) -> int:
    """The multiprocessors of the runner's GPU, or the cores of the host.

    torch is asked only where something else has loaded it.
    """
    told: int | None = getattr(model_runner, "num_sms", None)
    if told is not None:
        return told
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return int(properties.multi_processor_count)
    return os.cpu_count() or 0
