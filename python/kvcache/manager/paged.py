"""PagedKVCacheManager: who holds which page, fed to MAX graphs."""

from collections.abc import Hashable, Sequence

from max.driver import Buffer, Device
from max.engine import InferenceSession

from kvcache.core.digest import Digest
from kvcache.core.plain import PlainCore
from kvcache.errors import UnknownReplicaError
from kvcache.manager.arguments import (
    check_agreement,
    check_offered,
    check_sizes,
    pages_in,
)
from kvcache.manager.device import DevicePool
from kvcache.manager.drop_in import DropIn, request_id_of
from kvcache.manager.gauges import CacheGauges
from kvcache.manager.inputs import (
    HasRowOffsets,
    RaggedKVCacheInputs,
    RaggedKVCacheSymbols,
)
from kvcache.manager.replica import Replica
from kvcache.manager.sizing import CacheSizing
from kvcache.request import RequestContext
from kvcache.spec import KVCacheParams


class PagedKVCacheManager(DropIn, CacheSizing, CacheGauges):
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

    The pool has `total_num_pages` pages, `available_cache_memory` divided by
    the bytes of a page, and one more: the null page, all zeros, whose index
    fills what a lookup table does not use. Its bytes come on top.

    A call that raises, or returns False, has changed nothing, the request's
    tokens included. A manager is for one thread.

    Args:
        params: Shape of a token's keys and values.
        max_batch_size: Requests that can be claimed at a time.
        max_seq_len: Tokens of the longest request, prompt included.
        num_layers: Layers of the model.
        devices: Where the pages live; one device.
        session: Runs the increment graph; made on first use if None is given.
        available_cache_memory: Bytes for pages, over all devices.
        zmq_endpoint_base: Not offered yet; None.
        page_size: Tokens per page; equals `params.page_size` if that is given.
        enable_runtime_checks: Whether each call verifies the books; slow.
        digest: Finds cached pages, never decides; randomly keyed unless given.

    Raises:
        InvalidParamsError: If a size is not positive, or arguments disagree.
        NotOfferedError: If more than one device or replica is wanted, swapping
            to the host, a layout that is not paged, or a socket.
        InsufficientMemoryError: If the memory does not hold one page.
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
    ) -> None:
        """Allocates the pool; every page is free."""
        check_sizes(
            max_batch_size=max_batch_size,
            max_seq_len=max_seq_len,
            num_layers=num_layers,
            page_size=page_size,
        )
        check_offered(params, zmq_endpoint_base)
        check_agreement(params, devices, page_size)
        self.params = params
        self.max_batch_size = max_batch_size
        self.max_seq_len = max_seq_len
        self.num_layers = num_layers
        self.devices = list(devices)
        self.num_replicas = params.data_parallel_degree
        self.session = session
        self.page_size = page_size
        self.enable_prefix_caching = params.enable_prefix_caching
        self.total_num_pages = pages_in(
            available_cache_memory,
            params.bytes_per_token(num_layers) * page_size,
        )
        core = PlainCore(
            self.total_num_pages,
            page_size,
            max_batch_size,
            enable_prefix_caching=params.enable_prefix_caching,
            digest=digest,
        )
        self._replica = Replica(
            core, max_batch_size, max_seq_len, is_checking=enable_runtime_checks
        )
        self._pools = [
            DevicePool(
                params,
                self.total_num_pages,
                num_layers=num_layers,
                page_size=page_size,
                device=device,
            )
            for device in self.devices
        ]

    def external_claim(
        self, request_id: Hashable, replica_idx: int | None = None
    ) -> None:
        """Makes a request known, before it can hold pages.

        Args:
            request_id: Identifies the request until it is released.
            replica_idx: The replica to serve it; 0 or None.

        Raises:
            UnknownReplicaError: If there is no such replica.
            ClaimError: If the request is claimed already, or `max_batch_size`
                requests are.
        """
        if replica_idx is not None and not 0 <= replica_idx < self.num_replicas:
            raise UnknownReplicaError(
                f"wanted a replica from 0 to {self.num_replicas - 1}, got "
                f"{replica_idx}"
            )
        self._replica.claim(request_id)

    def contains(self, request_id: Hashable | RequestContext) -> bool:
        """Returns whether a request, or the request of an id, is claimed."""
        return request_id_of(request_id) in self._replica

    def adopt_prefix(self, data: RequestContext) -> int:
        """Takes the cached prefix of a request, and no page beyond it.

        A scheduler that calls it first knows what is left to compute before
        it cuts a prompt into chunks. `maybe_reserve` finds the same prefix.

        Args:
            data: The request; its window moves past the hit.

        Returns:
            The tokens found beyond those that were processed.

        Raises:
            UnknownRequestError: If the request is not claimed.
            RequestStateError: If its tokens do not fit what it holds.
        """
        return self._replica.adopt(data)

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
        return self._replica.reserve(data, num_steps)

    def fetch(
        self, batch: Sequence[RequestContext], num_steps: int = 1
    ) -> list[RaggedKVCacheInputs]:
        """Returns what a graph needs to run some steps of a batch.

        Requests that lack pages get them as by `maybe_reserve`, all of them or
        none. Each returned buffer but the pool is new; see
        `RaggedKVCacheInputs` for how long it holds.

        Args:
            batch: The requests, in the order of the model's inputs.
            num_steps: How often the model runs before the next call.

        Returns:
            The inputs of each device.

        Raises:
            InsufficientPagesError: If the pages are not there.
            UnknownRequestError: If a request is not claimed.
            RequestStateError: If a request is there twice, its tokens do not
                fit what it holds, or `num_steps` is not positive.
            SequenceTooLongError: If one would pass `max_seq_len`.
        """
        tables = self._replica.fetch(batch, num_steps)
        return [pool.inputs(tables) for pool in self._pools]

    def input_symbols(self) -> list[RaggedKVCacheSymbols]:
        """Returns the graph types of what `fetch` returns, per device."""
        return [pool.symbols() for pool in self._pools]

    def increment_cache_lengths(
        self,
        kv_cache_inputs: Sequence[RaggedKVCacheInputs],
        prev_model_inputs: HasRowOffsets,
    ) -> list[RaggedKVCacheInputs]:
        """Returns the inputs of the next step of a fetch.

        Each cache length grows by what the last step computed, on the device
        and without waiting for it; `max_lengths` loses its first row.

        Args:
            kv_cache_inputs: The inputs of the last step; left as they are.
            prev_model_inputs: Has `input_row_offsets`, where each request's
                tokens started in the last step, uint32 `[batch + 1]`.

        Raises:
            RequestStateError: If `fetch` was not asked for a further step.
        """
        offsets = prev_model_inputs.input_row_offsets
        first = offsets if isinstance(offsets, Buffer) else offsets[0]
        if self.session is None:
            self.session = InferenceSession(devices=self.devices)
        pairs = zip(self._pools, kv_cache_inputs, strict=True)
        return [p.advance(inputs, first, self.session) for p, inputs in pairs]

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
            self._replica.commit(batch)
        else:
            self._replica.commit_one(batch)

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
        self._replica.release(request_id_of(request_id))

    def get_req_blocks(self, request_id: Hashable) -> list[int]:
        """Returns the pages of a request in order.

        Args:
            request_id: The request.

        Raises:
            UnknownRequestError: If the request is not claimed.
        """
        return self._replica.pages(request_id)

    def reset_prefix_cache(self) -> None:
        """Makes what no request holds unfindable.

        What a request holds stays findable, and can be shared, until it is
        released and handed out again.
        """
        self._replica.forget_cached()
