"""What a user writes: how blocks are summarised, scored and chosen."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from kvcache.compiler.element_types import ELEMENT_BYTES, element_type
from kvcache.compiler.vtensor import vTensor
from kvcache.errors import InvalidParamsError
from kvcache.summaries import Summaries, SummaryField


class vFlow(ABC):  # noqa: N801  (the seed's name)
    """A way to summarise blocks, and to choose some by their summaries.

    A subclass makes its operators in `__init__`, one for each call, declares
    fields in `create_cache`, and says in `forward_cache` and
    `forward_indexer` how they are made and used. Both are called once, with
    descriptions of tensors, and recorded.

    What `forward_cache` makes of a block must follow from its keys and
    values. It may read a field that it makes later, but finds there what the
    last block in that place left.
    """

    block_reserved_bos: int = 1
    """The first blocks of a sequence, which are always chosen; at least 1."""
    block_reserved_eos: int = 1
    """The last blocks, which are always chosen; at least 1."""
    topk_val: int = 0
    """Blocks that are chosen by their scores beside these, at least."""

    block_size: int | None
    """Tokens per block; None before `initialize`."""
    head_dim: int | None
    """Elements per head; None before `initialize`."""
    kv_cache_dtype: str | None
    """Element type of keys and values; None before `initialize`."""
    q_data_type: str | None
    """Element type of queries; None before `initialize`."""
    intermediate_dtype: str | None
    """Element type of declared fields; None before `initialize`."""
    cache_meta_info: dict[str, tuple[tuple[int, int], str]] | None
    """Tile and type of each field, those of the flow first, then `k`, `v`."""

    def __init__(self) -> None:
        """Knows no sizes yet."""
        self.block_size = None
        self.head_dim = None
        self.kv_cache_dtype = None
        self.q_data_type = None
        self.intermediate_dtype = None
        self.cache_meta_info = None

    @abstractmethod
    def create_cache(
        self, block_size: int, head_dim: int
    ) -> Mapping[str, tuple[int, int]]:
        """Returns what is kept of each block and head, by name.

        Args:
            block_size: Tokens per block.
            head_dim: Elements per head.

        Returns:
            The tile `(r, c)` of each field. `k` and `v` are there already.
        """

    @abstractmethod
    def forward_cache(
        self, cache: Mapping[str, vTensor], loc: Any, ctx: Any
    ) -> None:
        """Makes the declared fields of blocks that are complete.

        Args:
            cache: The fields by name; `k` and `v` have tiles
                `(block_size, head_dim)`.
            loc: Passed on to each operator.
            ctx: The context of the cache side.
        """

    @abstractmethod
    def forward_indexer(
        self, q: vTensor, o: vTensor, cache: Mapping[str, vTensor], ctx: Any
    ) -> None:
        """Scores the blocks of one request and head, and calls `topK`.

        Args:
            q: The queries of the head's group, `[1, group_size, head_dim]`.
            o: Where `topK` writes the blocks.
            cache: The fields by name, `[S, r, c]` for S blocks.
            ctx: The context of the indexer side.
        """

    def initialize(  # noqa: PLR0917 - the seed's order
        self,
        block_size: int,
        head_dim: int,
        kv_cache_dtype: object,
        q_data_type: object,
        intermediate_dtype: object = "bfloat16",
    ) -> None:
        """Fixes sizes and types, and fills `cache_meta_info`.

        Args:
            block_size: Tokens per block.
            head_dim: Elements per head.
            kv_cache_dtype: Element type of keys and values.
            q_data_type: Element type of queries.
            intermediate_dtype: Element type of the declared fields.

        Raises:
            AssertionError: If `create_cache` declares `k` or `v`.
            InvalidParamsError: If it declares a tile without elements.
            TypeError: If a type is unknown.
        """
        types = [
            element_type(each)
            for each in (kv_cache_dtype, q_data_type, intermediate_dtype)
        ]
        fields = self._declared(block_size, head_dim)
        self.block_size, self.head_dim = block_size, head_dim
        self.kv_cache_dtype, self.q_data_type, self.intermediate_dtype = types
        own = {name: (tile, types[2]) for name, tile in fields.items()}
        keys = ((block_size, head_dim), types[0])
        self.cache_meta_info = own | {"k": keys, "v": keys}

    def get_token_ratio(self) -> float:
        """Returns the bytes of all fields over those of a block's keys.

        At least 2, for keys and values.

        Raises:
            RuntimeError: Before `initialize`.
        """
        return 2.0 + self.get_aux_token_ratio()

    def get_aux_token_ratio(self) -> float:
        """Returns the bytes of declared fields over those of a block's keys.

        Raises:
            RuntimeError: Before `initialize`.
        """
        if self.cache_meta_info is None:
            raise RuntimeError(
                f"{type(self).__name__}: wanted initialize() to be called first"
            )
        sizes = {
            name: math.prod(tile) * ELEMENT_BYTES[dtype]
            for name, (tile, dtype) in self.cache_meta_info.items()
        }
        declared = sum(sizes.values()) - sizes["k"] - sizes["v"]
        return declared / sizes["k"]

    def summaries(
        self, block_size: int, head_dim: int, dtype: object = "bfloat16"
    ) -> Summaries:
        """Returns what is kept of each block, for `KVCacheParams.summaries`.

        Args:
            block_size: Tokens per block.
            head_dim: Elements per head.
            dtype: Element type of the fields.

        Raises:
            AssertionError: If `create_cache` declares `k` or `v`.
            ValueError: If a size or a type is one that summaries do not take.
        """
        name_of_type = element_type(dtype)
        fields = self._declared(block_size, head_dim)
        return Summaries(
            block_size=block_size,
            fields=tuple(
                SummaryField(name, rows, columns, name_of_type)
                for name, (rows, columns) in fields.items()
            ),
        )

    def _declared(
        self, block_size: int, head_dim: int
    ) -> dict[str, tuple[int, int]]:
        """The fields of `create_cache`, checked."""
        declared = self.create_cache(block_size, head_dim)
        return {name: self._tile(name, declared[name]) for name in declared}

    def _tile(self, name: str, tile: Sequence[int]) -> tuple[int, int]:
        """The tile of a declared field, checked."""
        if name in {"k", "v"}:
            raise AssertionError(
                f"{type(self).__name__}: wanted create_cache to declare "
                f"names other than k and v, got {name!r}"
            )
        if len(tile) != 2 or min(tile) < 1:
            raise InvalidParamsError(
                f"{type(self).__name__}: wanted {name} with two positive "
                f"extents, got {tile}"
            )
        return tile[0], tile[1]
