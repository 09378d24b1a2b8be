"""MAX's manager and ours, asked the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from max.dtype import DType
from max.graph import DeviceRef
from max.nn.kv_cache import MHAKVCacheParams

from kvcache import PagedKVCacheManager

REASON = "wanted the extra `peers`"
THEIRS = pytest.importorskip(
    "max.pipelines.kv_cache", reason=REASON, exc_type=ImportError
)
CONTEXT = pytest.importorskip(
    "max.pipelines.context", reason=REASON, exc_type=ImportError
)
CONNECTOR = pytest.importorskip(
    "max.pipelines.kv_cache.kv_connector", reason=REASON, exc_type=ImportError
)
REQUEST = pytest.importorskip(
    "max.pipelines.request", reason=REASON, exc_type=ImportError
)

SCALARS = ("max_prompt_length", "max_cache_length", "page_stride")
ABSENT = (
    "kv_scales",
    "scales_page_stride",
    "scales_lookup_table",
    "draft_attention_dispatch_metadata",
    "mla_num_partitions",
    "draft_mla_num_partitions",
    "kv_blocks_per_layer",
    "kv_scales_per_layer",
)


def max_params(**changes: Any) -> MHAKVCacheParams:
    fields: dict[str, Any] = {
        "dtype": DType.float32,
        "n_kv_heads": 1,
        "head_dim": 8,
        "num_layers": 1,
        "devices": [DeviceRef.CPU()],
        "enable_prefix_caching": True,
        "page_size": 16,
    }
    return MHAKVCacheParams(**{**fields, **changes})


@dataclass(frozen=True, eq=False)
class Pair:
    """One request, as each of the managers sees it."""

    mine: Any
    theirs: Any

    def __iter__(self) -> Any:
        return iter((self.mine, self.theirs))

    @property
    def tokens(self) -> Any:
        return self.mine.tokens

    def chunk(self, size: int) -> None:
        for context in self:
            context.tokens.chunk(size)

    def update(self, token: int) -> None:
        for context in self:
            context.update(token)

    def check(self) -> None:
        """Both have the same window."""
        windows = [
            (t.processed_length, t.current_position, len(t))
            for t in (context.tokens for context in self)
        ]
        assert windows[0] == windows[1]

    def check_hit(self) -> None:
        """Both have noted the same hit."""
        hits = [
            (
                context.cached_prefix_length,
                context.cached_prefix_external_length,
            )
            for context in self
        ]
        assert hits[0] == hits[1]


def pair(tokens: Sequence[int], name: str, salt: str | None = None) -> Pair:
    mine, theirs = (
        CONTEXT.TextContext(
            max_length=1 << 20,
            tokens=CONTEXT.TokenBuffer(np.array(tokens, np.int64)),
            request_id=REQUEST.RequestID(name),
            cache_salt=salt,
        )
        for _ in range(2)
    )
    return Pair(mine, theirs)


class Managers:
    """Two managers with equal pools."""

    def __init__(
        self,
        kind: str = "PagedKVCacheManager",
        *,
        num_pages: int,
        max_batch_size: int = 8,
        is_checking: bool = True,
        **changes: Any,
    ) -> None:
        arguments: dict[str, Any] = {
            "params": max_params(**changes),
            "session": None,
            "total_num_pages": num_pages,
            "max_batch_size": max_batch_size,
            "enable_runtime_checks": is_checking,
        }
        self.page_size = arguments["params"].page_size
        self.has_same_pages = True
        self.mine = PagedKVCacheManager.from_max(**arguments)
        self.theirs = getattr(THEIRS, kind)(**arguments)

    def both(self, call: str, request: Pair, *arguments: Any) -> list[Any]:
        """Calls the same of both; returns what they answer."""
        managers = (self.mine, self.theirs)
        return [
            getattr(manager, call)(context, *arguments)
            for manager, context in zip(managers, request, strict=True)
        ]

    def alloc(self, request: Pair) -> bool:
        """Allocates in both; returns whether the pages are there in both.

        A hit in place of pages that a request holds already: MAX gives back
        all that follow as well and takes new ones, we keep them.
        """
        held, _ = self.both("num_req_blocks", request)
        before = request.tokens.processed_length
        shortages = []
        for manager, context in zip(
            (self.mine, self.theirs), request, strict=True
        ):
            try:
                assert manager.alloc(context).is_complete()
            except THEIRS.InsufficientBlocksError as error:
                shortages.append(error)
        assert len(shortages) in {0, 2}, shortages
        request.check()
        is_hit = request.tokens.processed_length > before
        if is_hit and held > before // self.page_size:
            self.has_same_pages = False
        if not shortages:  # MAX notes a hit of zero where it gave no page.
            request.check_hit()
        return not shortages

    def inputs(self, batch: Sequence[Pair], **options: Any) -> list[Any]:
        """Returns the inputs of both, on one replica and one device."""
        (mine,) = self.mine.runtime_inputs([[p.mine for p in batch]], **options)
        (theirs,) = self.theirs.runtime_inputs(
            [[p.theirs for p in batch]], **options
        )
        return [mine, theirs]

    def advance(self, request: Pair, token: int) -> None:
        """Takes a step as computed."""
        request.update(token)
        self.both("step", request)
        request.check()


def assert_equal_inputs(
    mine: Any, theirs: Any, *, same_pages: bool = True
) -> None:
    """Both tell a graph the same, but for the pages' contents."""
    assert mine.kv_blocks.shape == theirs.kv_blocks.shape
    assert mine.kv_blocks.dtype == theirs.kv_blocks.dtype
    names = [*SCALARS, "cache_lengths", "attention_dispatch_metadata"]
    for name in names + ["lookup_table"] * same_pages:
        one, other = getattr(mine, name), getattr(theirs, name)
        assert one.dtype == other.dtype, name
        np.testing.assert_array_equal(one.to_numpy(), other.to_numpy(), name)
    for name in ABSENT:
        assert getattr(mine, name) is getattr(theirs, name) is None
    if not same_pages:
        assert_same_sharing(
            mine.lookup_table.to_numpy(), theirs.lookup_table.to_numpy()
        )


def assert_same_sharing(mine: Any, theirs: Any) -> None:
    """Two tables are equal but for the pages' numbers."""
    assert mine.shape == theirs.shape
    pairs = set(
        zip(mine.ravel().tolist(), theirs.ravel().tolist(), strict=True)
    )
    assert len({one for one, _ in pairs}) == len(pairs)
    assert len({other for _, other in pairs}) == len(pairs)
