"""The bookkeeping in Mojo, called once per step."""

import ctypes
import functools
import hashlib
import importlib.machinery
import importlib.util
import math
import secrets
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kvcache.core.native_check import check_memory, free_order
from kvcache.core.native_rows import RowMemory
from kvcache.core.native_running import NativeRows
from kvcache.core.native_status import raise_for
from kvcache.core.owner import Owner
from kvcache.core.plan import Ask
from kvcache.core.retention import Retention
from kvcache.core.running import StepMemory
from kvcache.core.values import (
    DEFAULT_PRIORITY,
    Batch,
    Counts,
    Granted,
    Probe,
)
from kvcache.errors import (
    ClaimError,
    PageStateError,
    RetentionError,
)
from kvcache.mojo_sources import core_extension

_COUNTERS = 8
_Words: TypeAlias = npt.NDArray[np.uint64]


@functools.cache
def extension() -> ModuleType:
    """Returns the extension module, built if need be.

    Raises:
        FileNotFoundError: If the Mojo sources are absent.
        MojoCompileError: If they do not compile.
        ImportError: If the library does not load.
    """
    path = str(core_extension())
    _load_runtime()
    loader = importlib.machinery.ExtensionFileLoader("_kvcore", path)
    spec = importlib.util.spec_from_file_location(
        "_kvcore", path, loader=loader
    )
    if spec is None:
        raise ImportError(f"wanted an extension module, got {path}")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _load_runtime() -> None:
    """Loads Mojo's runtime of this environment, which the module asks for.

    A module from the cache folder may have been built by another environment,
    whose own runtime it would look for.
    """
    modular = importlib.util.find_spec("modular")
    for folder in modular.submodule_search_locations or () if modular else ():
        runtime = Path(folder) / "lib" / "libKGENCompilerRTShared.so"
        if runtime.is_file():
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
            return


class NativeCore:
    """A `CacheCore` in Mojo.

    Args:
        num_pages: Pages of the device that can be handed out.
        page_size: Tokens per page.
        num_sequences: Sequences that can be claimed at a time.
        enable_prefix_caching: Whether sequences share pages.
        num_host_pages: Pages of the host tier.
        digest_bits: 128; 0 lets all digests collide, for tests.

    Performance:
        64 bytes a page and its token ids, 4 bytes each, none of it touched
        before a page is used. Calls take time in proportion to what they name.
    """

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        num_sequences: int,
        *,
        enable_prefix_caching: bool = False,
        num_host_pages: int = 0,
        digest_bits: int = 128,
    ) -> None:
        """Starts with every page blank and no sequence claimed."""
        self._module = module = extension()
        self._owner = Owner()
        self._page_size = page_size
        self._is_caching = enable_prefix_caching
        self._num_pages = num_pages
        self._num_host_pages = num_host_pages
        self._num_sequences = num_sequences
        self._rows = RowMemory(max(num_sequences, 1), module)
        self._counters = np.zeros(_COUNTERS, np.int64)
        self._key = _random_words(module.count_key_words(page_size))
        self._namespace_key = secrets.token_bytes(32)
        self._namespaces: dict[bytes, int] = {}
        config = np.array(
            [
                num_pages,
                num_host_pages,
                page_size,
                num_sequences,
                enable_prefix_caching,
                self._key.ctypes.data,
                digest_bits,
                self._counters.ctypes.data,
                self._rows.address,
                self._rows.capacity,
            ],
            np.int64,
        )
        self._address: int = module.create(config.ctypes.data)
        keep = (self._key, self._counters, self._rows)
        weakref.finalize(self, _destroy, module, self._address, keep)

    @property
    def page_size(self) -> int:
        """Tokens per page."""
        return self._page_size

    @property
    def enable_prefix_caching(self) -> bool:
        """Whether sequences share pages."""
        return self._is_caching

    @property
    def num_pages(self) -> int:
        """Pages of the device that can be handed out."""
        return self._num_pages

    @property
    def num_host_pages(self) -> int:
        """Pages of the host tier; their numbers begin at `num_pages`."""
        return self._num_host_pages

    @property
    def num_free(self) -> int:
        """Pages of the device that no sequence holds, cached ones included."""
        return int(self._counters[0])

    @property
    def num_cached(self) -> int:
        """Pages of the device that no sequence holds and that are findable."""
        return int(self._counters[1])

    @property
    def num_evicted(self) -> int:
        """Prefixes' pages lost to new contents or `evict`, since the start."""
        return int(self._counters[2])

    @property
    def num_copied(self) -> int:
        """Pages that were copied within the device, since the start."""
        return int(self._counters[3])

    @property
    def num_offloaded(self) -> int:
        """Pages that moved from the device to the host, since the start."""
        return int(self._counters[4])

    @property
    def num_onloaded(self) -> int:
        """Pages that moved from the host to the device, since the start."""
        return int(self._counters[5])

    @property
    def num_host_cached(self) -> int:
        """Pages of the host tier that are findable."""
        return int(self._counters[6])

    def claim(self, namespace: bytes) -> int:
        """Takes a sequence; see `CacheCore.claim`."""
        self._owner.check()
        number = self._namespace(namespace)
        seq: int = self._module.claim(self._address, number)
        if seq < 0:
            raise ClaimError(
                f"wanted a free sequence, all {self._rows.capacity} are claimed"
            )
        return seq

    def release(self, seq: int) -> None:
        """Gives a sequence back; see `CacheCore.release`."""
        self._owner.check()
        self._expect(self._module.release(self._address, seq))

    def fork(self, seq: int, processed: int) -> int:
        """Takes a sequence that shares pages; see `CacheCore.fork`."""
        self._owner.check()
        self._expect(self._module.fork(self._address, seq, processed))
        return self._rows.detail(0)

    def truncate(self, seq: int, length: int) -> None:
        """Gives the pages beyond `length` back; see `CacheCore.truncate`."""
        self._owner.check()
        self._expect(self._module.truncate(self._address, seq, length))

    def set_retention(
        self,
        seq: int,
        *,
        priority: int = DEFAULT_PRIORITY,
        expires: float = 0.0,
    ) -> None:
        """Says how long to keep pages; see `CacheCore.set_retention`."""
        self._owner.check()
        if not self._module.is_claimed(self._address, seq):
            self._expect(self._module.set_retention(self._address, seq, 0, 0.0))
        Retention(priority, expires)  # Raises where the two do not fit.
        self._expect(
            self._module.set_retention(
                self._address, seq, priority, float(expires)
            )
        )

    def tick(self, now: float) -> None:
        """Sets the clock; see `CacheCore.tick`."""
        if not math.isfinite(now):
            raise RetentionError(f"wanted a finite time, got {now}")
        self._owner.check()
        self._module.tick(self._address, float(now))

    def adopt(self, batch: Batch, *, max_onload: int | None = None) -> Granted:
        """Retains cached prefixes; see `CacheCore.adopt`."""
        return self._take(batch, 0, None, max_onload)

    def reserve(
        self,
        batch: Batch,
        *,
        num_steps: int,
        min_partial: int | None = None,
        max_onload: int | None = None,
    ) -> Granted:
        """Takes pages for the next steps; see `CacheCore.reserve`."""
        return self._take(batch, num_steps, min_partial, max_onload)

    def check_reserve(
        self, batch: Batch, *, num_steps: int, max_onload: int | None = None
    ) -> None:
        """Verifies that `reserve` works; see `CacheCore.check_reserve`."""
        Ask(max_onload=max_onload)  # Raises where it is out of range.
        self._owner.check()
        most = -1 if max_onload is None else max_onload
        self._rows.set_limits(num_steps, 0, most)
        with self._rows.of(batch):
            self._expect(self._module.check_reserve(self._address))

    def pages(self, seq: int) -> npt.NDArray[np.uint32]:
        """Returns a copy of a sequence's pages in order, read-only."""
        self._owner.check()
        self._module.look_at(self._address, seq)
        pages = self._rows.found()
        pages.flags.writeable = False
        return pages

    def fill(
        self,
        seqs: Counts,
        num_pages: Counts,
        lookup_table: npt.NDArray[np.uint32],
    ) -> None:
        """Writes pages into a lookup table; see `CacheCore.fill`."""
        self._owner.check()
        self._rows.write_seqs(seqs, num_pages)
        status = self._module.fill(
            self._address, lookup_table.ctypes.data, lookup_table.shape[1]
        )
        if status:
            raise_for(status, self._rows, is_table=True)

    def commit(self, batch: Batch) -> None:
        """Makes full pages findable; see `CacheCore.commit`."""
        self._owner.check()
        if not self._is_caching:
            return
        with self._rows.of(batch):
            self._expect(self._module.commit(self._address))

    def drop(self, seq: int, column: int) -> None:
        """Makes pages unfindable; see `CacheCore.drop`."""
        self._owner.check()
        self._expect(self._module.drop(self._address, seq, column))

    def forget_page(self, page: int) -> None:
        """Makes a page unfindable; see `CacheCore.forget_page`."""
        num_pages = self._num_pages + self._num_host_pages
        if not 0 <= page < num_pages:
            raise PageStateError(
                f"wanted a page from 0 to {num_pages - 1}, got {page}"
            )
        self._owner.check()
        self._module.forget_page(self._address, page)

    def forget_cached(self) -> None:
        """Makes what no sequence holds unfindable, on device and host."""
        self._owner.check()
        self._module.forget_cached(self._address)

    def evict(self, num_pages: int) -> npt.NDArray[np.uint32]:
        """Gives cached pages up; see `CacheCore.evict`."""
        if num_pages < 0:
            raise PageStateError(f"wanted at least 0 pages, got {num_pages}")
        self._owner.check()
        self._expect(self._module.evict(self._address, num_pages))
        return self._rows.found()

    def probe(self, namespace: bytes, tokens: npt.NDArray[np.int64]) -> Probe:
        """Returns what is cached of a prompt; see `CacheCore.probe`."""
        self._owner.check()
        number = self._namespaces.get(namespace, -1)
        with self._rows.of_tokens(tokens):
            partial = self._module.probe(self._address, number)
            return Probe(self._rows.found(), partial)

    def evicted_at(
        self, namespace: bytes, tokens: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Returns when pages were evicted; see `CacheCore.evicted_at`."""
        self._owner.check()
        times = np.full(len(tokens) // self._page_size, -1.0)
        number = self._namespaces.get(namespace, -1)
        if number >= 0:
            with self._rows.of_tokens(tokens):
                self._module.evicted_at(
                    self._address, number, times.ctypes.data
                )
        times[times < 0] = np.nan
        return times

    def open_batch(self, memory: StepMemory) -> NativeRows:
        """Returns a batch without rows; see `CacheCore.open_batch`."""
        return NativeRows(
            self._module,
            self._address,
            rows=self._rows,
            number_of=self._namespace,
            owner=self._owner,
            memory=memory,
        )

    def eviction_order(self) -> list[int]:
        """Returns the device's free pages, first to be handed out first."""
        return free_order(
            self._module, self._address, self._num_pages, self._page_size
        )

    def check(self) -> None:
        """Verifies every invariant; see `CacheCore.check`."""
        check_memory(
            self._module,
            self._address,
            self._rows,
            num_pages=self._num_pages,
            page_size=self._page_size,
            num_sequences=self._num_sequences,
        )

    def _take(
        self,
        batch: Batch,
        num_steps: int,
        min_partial: int | None,
        max_onload: int | None,
    ) -> Granted:
        Ask(num_steps, min_partial, max_onload)  # Raises: out of range.
        self._owner.check()
        rows = self._rows
        rows.set_limits(
            num_steps,
            0 if min_partial is None else min_partial,
            -1 if max_onload is None else max_onload,
        )
        with rows.of(batch):
            self._expect(self._module.reserve(self._address))
        return Granted(rows.hits(), rows.moves())

    def _expect(self, status: int) -> None:
        if status:
            raise_for(status, self._rows)

    def _namespace(self, namespace: bytes) -> int:
        number = self._namespaces.get(namespace)
        if number is None:
            digest = hashlib.blake2b(
                namespace, digest_size=16, key=self._namespace_key
            ).digest()
            low, high = np.frombuffer(digest, np.int64).tolist()
            number = self._module.add_namespace(self._address, low, high)
            self._namespaces[namespace] = number
        return number


def _random_words(count: int) -> _Words:
    return np.frombuffer(secrets.token_bytes(8 * count), np.uint64)


def _destroy(module: Any, address: int, keep: object) -> None:
    del keep
    module.destroy(address)
