"""How much memory a cache takes, and how much cache a memory holds."""

# ruff: noqa: ARG003, PLR0917  (MAX's signatures, whose arguments come in order)

from collections.abc import Sequence

from max.driver import Device

from kvcache.errors import InvalidParamsError
from kvcache.spec import KVCacheParams, pages_for

_MAX_BATCH_SIZE = 512


def spread(total: int, parts: int) -> list[int]:
    """Returns a total in parts that differ by at most one, larger ones first.

    Args:
        total: What is spread.
        parts: How many parts there are.
    """
    share, rest = divmod(total, parts)
    return [share + (part < rest) for part in range(parts)]


def page_size_of(params: KVCacheParams) -> int:
    """Returns the tokens per page that parameters name.

    Raises:
        InvalidParamsError: If they name none.
    """
    if params.page_size is None:
        raise InvalidParamsError("wanted a page_size, got None")
    return params.page_size


class CacheSizing:
    """The arithmetic that a manager answers before there is one."""

    @classmethod
    def max_supported_sequence_length(
        cls, params: KVCacheParams, num_layers: int, memory_available: int
    ) -> int:
        """Returns the tokens that a memory budget holds, in whole pages.

        Args:
            params: Shape of a token's keys and values.
            num_layers: Layers of the model.
            memory_available: Bytes for pages, over all devices; each replica
                has an equal share.

        Raises:
            InvalidParamsError: If `params` has no page size.
        """
        per_replica = memory_available // params.data_parallel_degree
        page_size = page_size_of(params)
        return per_replica // params.bytes_per_page(num_layers) * page_size

    @classmethod
    def estimated_memory_size(
        cls,
        params: KVCacheParams,
        max_batch_size: int,
        max_seq_len: int,
        num_layers: int,
        available_cache_memory: int,
        devices: Sequence[Device],
        **kwargs: object,
    ) -> int:
        """Returns the bytes of pages that full batches of long requests take.

        The requests are spread over the replicas, each of which has its share
        of the memory.

        Args:
            params: Shape of a token's keys and values.
            max_batch_size: Requests at a time, over all replicas.
            max_seq_len: Tokens of the longest request.
            num_layers: Layers of the model.
            available_cache_memory: Bytes that there are, an upper bound.
            devices: Not looked at; `params.n_devices` counts.
            **kwargs: Not looked at.

        Raises:
            InvalidParamsError: If `params` has no page size.
        """
        each = pages_for(max_seq_len, page_size_of(params))
        each *= params.bytes_per_page(num_layers)
        replicas = params.data_parallel_degree
        there = available_cache_memory // replicas
        batches = spread(max_batch_size, replicas)
        return sum(min(there, requests * each) for requests in batches)

    @classmethod
    def infer_optimal_batch_size(
        cls,
        params: KVCacheParams,
        max_seq_len: int,
        num_layers: int,
        available_cache_memory: int,
        devices: Sequence[Device],
        **kwargs: object,
    ) -> int:
        """Returns 512, as MAX does, whatever the arguments.

        Args:
            params: Not looked at.
            max_seq_len: Not looked at.
            num_layers: Not looked at.
            available_cache_memory: Not looked at.
            devices: Not looked at.
            **kwargs: Not looked at.
        """
        return _MAX_BATCH_SIZE
