"""The core below our manager: its books alone, and its digests."""

import functools
import secrets
import warnings
from types import ModuleType

import numpy as np
import numpy.typing as npt

from benchmarks.manager.sides import Pool
from benchmarks.manager.streams import TokenIds
from kvcache.core.digest import keyed_digest
from kvcache.core.native import NativeCore, extension
from kvcache.core.plain import PlainCore
from kvcache.mojo_sources import MojoCompileError


def make_books(pool: Pool) -> object:
    """Returns the books that a manager keeps, without pages."""
    core: type[NativeCore | PlainCore] = NativeCore
    if _native() is None:
        core = PlainCore
    return core(
        pool.num_pages,
        pool.page_size,
        pool.max_batch_size,
        enable_prefix_caching=True,
    )


def hash_pages(tokens: TokenIds, page_size: int) -> object:
    """Returns the digests of a prompt's whole pages, keyed, 128 bits wide."""
    native = _native()
    if native is None:
        return _plain_digests(tokens, page_size)
    key = _key(page_size)
    digests = np.empty((len(tokens) // page_size, 2), np.uint64)
    places = [x.ctypes.data for x in (tokens, key, digests)]
    config = np.array(
        [places[0], len(digests), page_size, *places[1:], tokens.itemsize],
        np.int64,
    )
    native.digest_pages(config.ctypes.data)
    return digests


@functools.cache
def _native() -> ModuleType | None:
    """Returns the core in Mojo, or None where it cannot be built."""
    try:
        return extension()
    except (FileNotFoundError, ImportError, MojoCompileError) as error:
        warnings.warn(f"without the native core: {error}", stacklevel=2)
        return None


@functools.cache
def _key(page_size: int) -> npt.NDArray[np.uint64]:
    num_words = extension().count_key_words(page_size)
    return np.frombuffer(secrets.token_bytes(8 * num_words), np.uint64)


def _plain_digests(tokens: TokenIds, page_size: int) -> list[bytes]:
    content, stride = tokens.tobytes(), tokens.itemsize * page_size
    digest, parent, digests = keyed_digest(), b"", []
    for begin in range(0, len(content) - stride + 1, stride):
        parent = digest(parent, content[begin : begin + stride])
        digests.append(parent)
    return digests
