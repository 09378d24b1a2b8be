"""PagedKVCacheManager: who holds which page, fed to MAX graphs."""

import time
from collections.abc import Hashable, Sequence

from max.driver import Device
from max.engine import InferenceSession

from kvcache.core.digest import Digest
from kvcache.manager.arguments import (
    check_agreement,
    check_offered,
    check_partial,
    check_pinning,
    check_replica,
    check_sizes,
    pages_in,
)
from kvcache.manager.building import build_pools, build_replicas
from kvcache.manager.drop_in import DropIn
from kvcache.manager.feeding import GraphFeeding
from kvcache.manager.gauges import CacheGauges
from kvcache.manager.host import host_shares
from kvcache.manager.increment import CacheLengthIncrement
from kvcache.manager.inputs import RaggedKVCacheInputs
from kvcache.manager.load_or_compute import LoadOrCompute
from kvcache.manager.retention import Clock
from kvcache.manager.running import RunningBatch
from kvcache.manager.sharing import CacheSharing
from kvcache.manager.sizing import CacheSizing
from kvcache.request import RequestContext, request_id_of
from kvcache.resets import ResetInbox
from kvcache.spec import KVCacheParams


class PagedKVCacheManager(
    DropIn, CacheSizing, CacheGauges, CacheSharing, GraphFeeding
):
    """Decides which request holds which page, and feeds graphs with it.

    A serving loop claims a request with `external_claim`, and then step by
    step takes its pages with `maybe_reserve`, gets a batch's buffers with
    `fetch`, runs its model, updates the request's tokens and commits the batch
    with `step`. At last it lets the request go with `release`.

    With prefix caching, full pages are shared between requests that are equal
    in tokens, salt and model up to the page's end. A hit moves the request's
    window: `tokens.skip_processing(hit)`. Where a chunk is cached as a whole,
    the window moves on behind the hit and keeps its length. So the hit is the
    same whether a prompt is cut into chunks before or after it is reserved;
    `adopt_prefix` takes the hit alone, without pages for what follows.

    With data parallelism there are several replicas, each with requests,
    pages and a cache of its own, on its own run of the devices; the devices
    of one replica share the heads. A prefix that another replica has cached
    further is copied over instead of computed.

    With `enable_kvcache_swapping_to_host`, cached pages that are evicted go to
    host memory and come back on a hit, in `host_kvcache_swap_space_gb` GiB over
    all replicas. Copies are issued on the device's queue before whatever reads
    or overwrites them; one that cannot be issued is a miss, see `metrics`.

    Each replica has its share of `available_cache_memory` in pages, and one
    more: the null page, all zeros, whose index fills what a lookup table does
    not use. Its bytes come on top. `total_num_pages` counts all replicas'.

    A call that raises, or returns False, has changed nothing, the request's
    tokens included. A manager is for one thread.

    Args:
        params: Shape of a token's keys and values.
        max_batch_size: Requests that can be claimed at a time, spread over
            the replicas.
        max_seq_len: Tokens of the longest request, prompt included.
        num_layers: Layers of the model.
        devices: Where the pages live, those of replica 0 first; a device may
            come several times, and holds as many shares then.
        session: Runs the increment graph; made on first use if None is given.
        available_cache_memory: Bytes for pages, over all devices.
        zmq_endpoint_base: Where `request_prefix_cache_reset` finds the
            manager, see `ResetInbox`; only looked at with prefix caching.
        page_size: Tokens per page; equals `params.page_size` if that is given.
        enable_runtime_checks: Whether each call verifies the books; slow.
        digest: Finds cached pages, never decides; randomly keyed unless given.
        copy_prefixes_across_replicas: Whether prefixes are copied.
        min_partial_hit: Tokens of a page, fewer than a page has, from which
            on the beginning of a cached page is copied where the whole does
            not match; None for whole pages only. A copy moves a page's bytes,
            whatever part of it fits, so few tokens may cost more than they
            spare. It also widens a side channel: whoever shares a salt can
            tell from the time that a request takes what others have cached,
            token by token instead of page by page.
        clock: Says the time in seconds, for what is kept for a time and for
            when pages were evicted; it must never go back.
        max_pinned_share: Share of each replica's pages that can be pinned,
            from 0 to 1; what is left is for requests.
        max_pins: Pins that each replica takes.
        zmq_allow_remote: Whether the endpoint may be one that other machines
            reach.
        host_load_gbps: 10^9 bytes that a device gets from the host per second.
        prefill_tokens_per_second: Tokens that a replica computes per second;
            with both rates, pages are loaded from the host only if that takes
            less time than to compute their tokens.

    Raises:
        InvalidParamsError: If a size is out of range, arguments disagree, or
            the endpoint cannot be bound.
        NotOfferedError: If a layout is wanted that is not paged.
        InsufficientMemoryError: If a replica's memory, or its share of the
            host's, does not hold one page.
        MissingPackageError: If there is an endpoint, and no `pyzmq`.
    """

    def __init__(  # noqa: PLR0917  (MAX's signature)
        self,
        params: KVCacheParams,
        max_batch_size: int,
        max_seq_len: int,
        num_layers: int,
        devices: Sequence[Device],
        session: InferenceSession | None,
        available_cache_memory: int,
        zmq_endpoint_base: str | None = None,
        page_size: int = 128,
        enable_runtime_checks: bool = False,
        *,
        digest: Digest | None = None,
        copy_prefixes_across_replicas: bool = True,
        min_partial_hit: int | None = None,
        clock: Clock = time.monotonic,
        max_pinned_share: float = 0.5,
        max_pins: int = 64,
        zmq_allow_remote: bool = False,
        host_load_gbps: float | None = None,
        prefill_tokens_per_second: float | None = None,
    ) -> None:
        """Allocates the pools; every page is free."""
        check_sizes(
            max_batch_size=max_batch_size,
            max_seq_len=max_seq_len,
            num_layers=num_layers,
            page_size=page_size,
        )
        check_offered(params)
        check_agreement(params, devices, page_size)
        check_partial(min_partial_hit, page_size)
        check_pinning(max_pinned_share, max_pins)
        self.params = params
        self.max_batch_size = max_batch_size
        self.max_seq_len = max_seq_len
        self.num_layers = num_layers
        self.devices = list(devices)
        self.num_replicas = params.data_parallel_degree
        self.devices_per_replica = params.devices_per_replica
        self.session = session
        self.page_size = page_size
        self.enable_prefix_caching = params.enable_prefix_caching
        self.enable_kvcache_swapping_to_host = (
            params.enable_kvcache_swapping_to_host
        )
        self.min_partial_hit = min_partial_hit
        self.copy_prefixes_across_replicas = (
            copy_prefixes_across_replicas
            and params.enable_prefix_caching
            and self.num_replicas > 1
        )
        bytes_per_page = params.bytes_per_page(num_layers, page_size)
        num_pages = pages_in(
            available_cache_memory // self.num_replicas, bytes_per_page
        )
        self.total_num_pages = num_pages * self.num_replicas
        on_host = host_shares(params, bytes_per_page)
        rates = LoadOrCompute(host_load_gbps, prefill_tokens_per_second)
        self._pools = build_pools(
            params,
            self.devices,
            num_pages=num_pages,
            host_shares=on_host,
            num_layers=num_layers,
            page_size=page_size,
        )
        self._replicas = build_replicas(
            params,
            self._pools,
            num_pages=num_pages,
            host_shares=on_host,
            page_size=page_size,
            max_batch_size=max_batch_size,
            max_seq_len=max_seq_len,
            copies_prefixes=self.copy_prefixes_across_replicas,
            max_onload=rates.max_onload(
                params, num_layers=num_layers, page_size=page_size
            ),
            is_checking=enable_runtime_checks,
            min_partial=min_partial_hit,
            clock=clock,
            max_pinned_share=max_pinned_share,
            max_pins=max_pins,
            digest=digest,
        )
        self._increment = CacheLengthIncrement(self.devices, self.num_replicas)
        self._inbox: ResetInbox | None = None
        if zmq_endpoint_base is not None and params.enable_prefix_caching:
            self._inbox = ResetInbox(
                zmq_endpoint_base, allow_remote=zmq_allow_remote
            )

    @property
    def num_ignored_reset_messages(self) -> int:
        """Messages to the endpoint that were no reset request."""
        return 0 if self._inbox is None else self._inbox.num_ignored

    def adopt_prefix(self, data: RequestContext) -> int:
        """Takes the cached prefix of a request, and no page beyond it.

        A scheduler that calls it first knows what is left to compute before
        it cuts a prompt into chunks. `maybe_reserve` finds the same prefix
        and, with `min_partial_hit`, the beginning of a further page.

        Args:
            data: The request; its window moves past the hit.

        Returns:
            The tokens found beyond those that were processed.

        Raises:
            UnknownRequestError: If the request is not claimed.
            RequestStateError: If its tokens do not fit what it holds.
        """
        return self._replicas.adopt(data)

    def maybe_reserve(self, data: RequestContext, num_steps: int = 1) -> bool:
        """Takes the pages for the next steps of a request, if they are there.

        A cached prefix is taken first. A request that was reserved does not
        run short in `fetch`, and reserving it again takes nothing more. Pages
        are reserved up to the end of the active chunk, not of the prompt.

        Args:
            data: The request; its window moves past the hit.
            num_steps: How often the model runs before the next call.

        Returns:
            Whether the pages are there. If not, nothing has changed.

        Raises:
            UnknownRequestError: If the request is not claimed.
            RequestStateError: If its tokens do not fit what it holds, or
                `num_steps` is not positive.
            SequenceTooLongError: If it would pass `max_seq_len`.
            RequestTooLargeError: If the request will never fit the pool; an
                `InsufficientPagesError`.
        """
        self._poll_resets()
        return self._replicas.reserve(data, num_steps)

    def reserve_batch(
        self, batch: Sequence[RequestContext], num_steps: int = 1
    ) -> bool:
        """Takes the pages for the next steps of a batch, for all or for none.

        As `maybe_reserve` for each request, in one call; but nothing is
        copied from other replicas.

        Args:
            batch: The requests, each once; their windows move past the hits.
            num_steps: How often the model runs before the next call.

        Returns:
            Whether the pages are there. If not, nothing has changed.

        Raises:
            UnknownRequestError: If a request is not claimed.
            RequestStateError: If a request is there twice, its tokens do not
                fit what it holds, or `num_steps` is not positive.
            SequenceTooLongError: If one would pass `max_seq_len`.
            RequestTooLargeError: If one will never fit the pool.
        """
        self._poll_resets()
        return self._replicas.reserve_batch(batch, num_steps)

    def fetch(
        self, batch: Sequence[RequestContext], num_steps: int = 1
    ) -> list[RaggedKVCacheInputs]:
        """Returns what a graph needs to run some steps of a batch.

        Requests that lack pages get them as by `maybe_reserve`, all of them or
        none, but nothing is copied from other replicas. Each returned buffer
        but the pools is new; see `RaggedKVCacheInputs` for how long it holds.

        Args:
            batch: The requests, in the order of the model's inputs.
            num_steps: How often the model runs before the next call.

        Returns:
            The inputs of each device, those of replica 0 first. The rows of a
            replica are its own requests, in the order of the batch; a replica
            without any has empty tables.

        Raises:
            InsufficientPagesError: If a replica's pages are not there.
            UnknownRequestError: If a request is not claimed.
            RequestStateError: If a request is there twice, its tokens do not
                fit what it holds, or `num_steps` is not positive.
            SequenceTooLongError: If one would pass `max_seq_len`.
        """
        self._poll_resets()
        tables = self._replicas.fetch(batch, num_steps)
        pairs = zip(self._pools, tables, strict=True)
        return [inputs for pools, own in pairs for inputs in pools.inputs(own)]

    def step(self, batch: Sequence[RequestContext] | RequestContext) -> None:
        """Makes the full pages of a batch findable, once they were computed.

        Call it after the requests' tokens were updated. A page that another
        one equals is given back, and the request goes on with that one.

        Args:
            batch: The requests of the step, or one request as MAX says it.

        Raises:
            UnknownRequestError: If a request is not claimed.
            RequestStateError: If a request is there twice, or more of its
                tokens are processed than were fetched.
        """
        if isinstance(batch, Sequence):
            self._replicas.commit(batch)
        else:
            self._replicas.of(batch.request_id).commit_one(batch)

    def release(self, request_id: Hashable | RequestContext) -> None:
        """Forgets a request and gives its pages back.

        What it committed stays findable until its pages are handed out again,
        the end of the sequence first. To claim the request again later, rewind
        its tokens.

        Args:
            request_id: The request's id, or the request as MAX says it.

        Raises:
            UnknownRequestError: If the request is not claimed.
        """
        self._replicas.release(request_id_of(request_id))

    def get_req_blocks(self, request_id: Hashable) -> list[int]:
        """Returns the pages of a request in order, as its replica has them.

        Args:
            request_id: The request.

        Raises:
            UnknownRequestError: If the request is not claimed.
        """
        return self._replicas.pages(request_id)

    def open_batch(
        self, *, max_rows: int | None = None, replica_idx: int = 0
    ) -> RunningBatch:
        """Returns a batch without rows, for loops that keep tokens themselves.

        Args:
            max_rows: Rows that fit; `max_batch_size` of them if None.
            replica_idx: The replica that serves them.

        Raises:
            InvalidParamsError: If `max_rows` is not positive.
            UnknownReplicaError: If there is no such replica.
        """
        rows = self.max_batch_size if max_rows is None else max_rows
        check_sizes(max_rows=rows)
        check_replica(replica_idx, self.num_replicas)
        return RunningBatch(
            self._replicas.members[replica_idx],
            self._pools[replica_idx],
            max_rows=rows,
            max_seq_len=self.max_seq_len,
        )

    def reset_prefix_cache(self) -> None:
        """Makes what no request holds unfindable, on every replica.

        What a request holds stays findable, and can be shared, until it is
        released and handed out again.
        """
        self._replicas.forget_cached()

    def _poll_resets(self) -> None:
        """Resets the prefix cache if that was asked for; waits for nothing."""
        if self._inbox is not None and self._inbox.poll():
            self.reset_prefix_cache()
