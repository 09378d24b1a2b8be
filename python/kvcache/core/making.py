"""Which of the two cores serves."""

import functools
import os
import warnings

from kvcache.core.digest import Digest
from kvcache.core.interface import CacheCore
from kvcache.core.native import NativeCore, extension
from kvcache.core.plain import PlainCore
from kvcache.errors import InvalidParamsError
from kvcache.mojo_sources import MojoCompileError

CORES = ("native", "plain")
"""What `KVCACHE_CORE` may be."""


class PlainCoreWarning(UserWarning):
    """The bookkeeping runs in plain Python, many times slower."""


def make_core(
    num_pages: int,
    page_size: int,
    num_sequences: int,
    *,
    enable_prefix_caching: bool = False,
    num_host_pages: int = 0,
    digest: Digest | None = None,
) -> CacheCore:
    """Returns the core in Mojo or, where that cannot be, the one in Python.

    The environment's `KVCACHE_CORE` asks for `native` or `plain`.

    Args:
        num_pages: Pages of the device that can be handed out.
        page_size: Tokens per page.
        num_sequences: Sequences that can be claimed at a time.
        enable_prefix_caching: Whether sequences share pages.
        num_host_pages: Pages of the host tier.
        digest: A digest in Python, which takes the core in Python.

    Raises:
        InvalidParamsError: If `KVCACHE_CORE` is something else.
        MojoCompileError: If the native core was asked for and does not build.
    """
    wanted = os.environ.get("KVCACHE_CORE")
    if wanted not in (None, *CORES):
        raise InvalidParamsError(
            f"KVCACHE_CORE must be one of {CORES}, got {wanted!r}"
        )
    if digest is None and (wanted == "native" or (not wanted and _is_there())):
        return NativeCore(
            num_pages,
            page_size,
            num_sequences,
            enable_prefix_caching=enable_prefix_caching,
            num_host_pages=num_host_pages,
        )
    return PlainCore(
        num_pages,
        page_size,
        num_sequences,
        enable_prefix_caching=enable_prefix_caching,
        num_host_pages=num_host_pages,
        digest=digest,
    )


@functools.cache
def _is_there() -> bool:
    """Returns whether the native core loads; warns once if not."""
    try:
        extension()
    except (FileNotFoundError, MojoCompileError, ImportError) as error:
        warnings.warn(
            f"the bookkeeping runs in plain Python, many times slower: {error}",
            PlainCoreWarning,
            stacklevel=3,
        )
        return False
    return True
