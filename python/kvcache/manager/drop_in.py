"""The calls of MAX 26.7's manager, beside those of the seed's."""

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Self

from kvcache.core.digest import namespace
from kvcache.errors import RequestStateError
from kvcache.manager.max_gauges import MaxGauges
from kvcache.manager.max_values import (
    COMPLETED,
    CompletedTransfer,
    PrefixCacheHits,
)
from kvcache.request import RequestContext

if TYPE_CHECKING:
    from max.driver import Device
    from max.engine import InferenceSession
    from max.nn.kv_cache import (
        BatchCharacteristics,
        KVCacheBuffer,
    )
    from max.nn.kv_cache import KVCacheParams as MaxKVCacheParams

    from kvcache.manager.device import ReplicaPools
    from kvcache.manager.max_inputs import MaxInputs
    from kvcache.manager.replica import Replica
    from kvcache.manager.replicas import Replicas
    from kvcache.resets import ResetInbox
    from kvcache.spec import KVCacheParams


class DropIn(MaxGauges):
    """What a scheduler and model graphs written for MAX 26.7 ask for.

    Claim a request, and then step by step `alloc` it, run the graph with the
    batch's `runtime_inputs`, update the request and `step` it. At last
    `release` it. `contains`, `step` and `release` take MAX's requests as well
    as what the seed's calls take, and both kinds of calls may be mixed.

    As in MAX, `alloc` raises on shortage, and a prompt that ends inside a page
    still takes that page from the cache once another request has filled it.
    Unlike in MAX, a chunk that is cached as a whole moves on, requests share
    pages only under the same model name, no more than `max_batch_size` can be
    claimed, and metrics leave out what failed. Speculative decoding, quantized
    pages and sliding windows are not offered.
    """

    params: "KVCacheParams"
    devices: "list[Device]"
    num_layers: int
    _replicas: "Replicas"
    _pools: "list[ReplicaPools]"
    _inbox: "ResetInbox | None"
    _max_params: "MaxKVCacheParams | None" = None
    _max_buffers: "list[KVCacheBuffer] | None" = None

    @classmethod
    def from_max(
        cls,
        params: "MaxKVCacheParams",
        session: "InferenceSession | None",
        total_num_pages: int,
        *,
        max_batch_size: int,
        max_seq_len: int | None = None,
        enable_runtime_checks: bool = False,
    ) -> Self:
        """Makes a manager from what MAX's own is made from.

        Args:
            params: MAX's parameters of one attention cache.
            session: Runs the increment graph.
            total_num_pages: Pages of each replica.
            max_batch_size: Requests that each replica serves at a time.
            max_seq_len: Tokens of the longest request; as many as the pages
                of a replica take if None.
            enable_runtime_checks: Whether each call verifies the books; slow.

        Raises:
            NotOfferedError: If the parameters ask for what is not offered.
        """
        from kvcache.manager.max_params import params_from_max

        ours = params_from_max(params)
        make: Callable[..., Self] = cls
        degree = ours.data_parallel_degree
        page_bytes = ours.bytes_per_page(params.num_layers)
        manager = make(
            ours,
            max_batch_size * degree,
            max_seq_len or total_num_pages * params.page_size,
            params.num_layers,
            [device.to_device() for device in params.devices],
            session,
            total_num_pages * page_bytes * degree,
            page_size=params.page_size,
            enable_runtime_checks=enable_runtime_checks,
            copy_prefixes_across_replicas=(
                params.enable_dp_cross_replica_prefix_copy
            ),
        )
        manager._max_params = params  # noqa: SLF001  (our own)
        return manager

    @property
    def max_params(self) -> "MaxKVCacheParams":
        """MAX's parameters: those given to `from_max`, or made from ours.

        Raises:
            NotOfferedError: If pages hold latent vectors and the manager was
                not made with `from_max`.
        """
        if self._max_params is None:
            from kvcache.manager.max_params import max_params_of

            self._max_params = max_params_of(
                self.params,
                self.devices,
                num_layers=self.num_layers,
                page_size=self.page_size,
            )
        return self._max_params

    def claim(self, ctx: RequestContext, replica_idx: int = 0) -> None:
        """Makes a request known to the replica that serves it.

        Args:
            ctx: The request.
            replica_idx: The replica, from 0.

        Raises:
            UnknownReplicaError: If there is no such replica.
            ClaimError: If the request is claimed already, or no more may be.
        """
        self._part(replica_idx)
        self._replicas.claim(ctx.request_id, replica_idx)

    def alloc_dummy(self, ctx: RequestContext, replica_idx: int = 0) -> None:
        """Claims a request that fills a batch up, on the null page alone.

        Args:
            ctx: The request, of at most a page.
            replica_idx: The replica, from 0.

        Raises:
            UnknownReplicaError: If there is no such replica.
            ClaimError: If the request is claimed already, or no more may be.
        """
        replica, _ = self._part(replica_idx)
        self._replicas.claim(ctx.request_id, replica_idx)
        replica.make_null(ctx.request_id)

    def alloc(self, ctx: RequestContext) -> CompletedTransfer:
        """Takes the cached prefix of a request and the pages of its window.

        Args:
            ctx: The request; its window moves past the hit.

        Returns:
            A transfer that is over: nothing is to be waited for.

        Raises:
            InsufficientPagesError: If the pages are not there; also MAX's
                `InsufficientBlocksError`. Nothing has changed then.
            UnknownRequestError: If the request is not claimed.
            RequestStateError: If its tokens do not fit what it holds.
            SequenceTooLongError: If it is longer than `max_seq_len`.
        """
        self._home(ctx.request_id).alloc(ctx)
        return COMPLETED

    def runtime_inputs(
        self,
        batches: Sequence[Sequence[RequestContext]],
        *,
        max_cache_length: int | None = None,
        batch_characteristics: "BatchCharacteristics | None" = None,
    ) -> "MaxInputs":
        """Returns what a graph of MAX takes for one step of some batches.

        The pages are those that `fetch` returns; the other buffers are new.

        Args:
            batches: The requests of each replica, after `alloc`.
            max_cache_length: Tokens that the lookup tables must have columns
                for; those of the longest request if None.
            batch_characteristics: The batch that the kernels are dispatched
                for, at least as large; the real one if None.

        Returns:
            The inputs of each device, replica by replica.

        Raises:
            RequestStateError: If a request lacks pages, is there twice, or
                does not fit the sizes; a `ValueError`.
            UnknownRequestError: If a request is not claimed there.
        """
        from kvcache.manager.max_inputs import max_inputs, step_of

        self._poll_resets()
        parts = self._parts()
        if len(batches) != len(parts):
            raise RequestStateError(
                f"wanted a batch for each of {len(parts)} replicas, got "
                f"{len(batches)}"
            )
        allocated = [
            replica.allocated(batch, max_cache_length=max_cache_length)
            for (replica, _), batch in zip(parts, batches, strict=True)
        ]
        steps = [
            step_of(pools.inputs(step.tables)).widened(batch_characteristics)
            for (_, pools), step in zip(parts, allocated, strict=True)
        ]
        inputs = max_inputs(self.max_params, self._buffers(), steps)
        for step in allocated:
            step.cover()
        return inputs

    def runtime_inputs_for_leaf(
        self,
        batches: Sequence[Sequence[RequestContext]],
        *,
        max_cache_length: int | None = None,
        batch_characteristics: "BatchCharacteristics | None" = None,
    ) -> "MaxInputs":
        """Returns the same as `runtime_inputs`: there is but one cache."""
        return self.runtime_inputs(
            batches,
            max_cache_length=max_cache_length,
            batch_characteristics=batch_characteristics,
        )

    def get_prefix_cache_hit_counts(
        self, ctx: RequestContext
    ) -> list[PrefixCacheHits]:
        """Returns the cached prefix of a request on each replica, in pages.

        Changes nothing; the request need not be claimed.
        """
        name = namespace(cache_salt=ctx.cache_salt, model_name=ctx.model_name)
        tokens = ctx.tokens.all[:-1]  # The last one is computed in any case.
        return [
            PrefixCacheHits(len(replica.core.probe(name, tokens).pages))
            for replica, _ in self._parts()
        ]

    def get_req_blocks_per_leaf(
        self, ctx: RequestContext
    ) -> dict[str, list[int]]:
        """Returns the pages of a request, under MAX's name of the cache."""
        held = self._home(ctx.request_id).held(ctx.request_id)
        return {leaf: list(held) for leaf in self.max_params.leaves()}

    def num_req_blocks(self, ctx: RequestContext) -> int:
        """Returns how many pages a request holds."""
        return len(self._home(ctx.request_id).held(ctx.request_id))

    def get_device_buffer(self, replica_idx: int) -> "KVCacheBuffer":
        """Returns a replica's pages as MAX describes them."""
        self._part(replica_idx)
        return self._buffers()[replica_idx]

    def poll_transfers(self) -> None:
        """Does nothing: no transfer is under way between two calls."""

    def pending_transfers_exist(self, replica_idx: int = 0) -> bool:
        """Returns False: no transfer is under way between two calls."""
        self._part(replica_idx)
        return False

    def shutdown(self) -> None:
        """Closes the endpoint for reset requests, if there is one."""
        if self._inbox is not None:
            self._inbox.close()
            self._inbox = None

    def _parts(self) -> "list[tuple[Replica, ReplicaPools]]":
        return list(zip(self._replicas.members, self._pools, strict=True))

    @abstractmethod
    def _poll_resets(self) -> None:
        """Resets the prefix cache if a request for it has come."""

    def _home(self, request_id: Hashable) -> "Replica":
        """Returns the replica that a request is claimed on."""
        return self._replicas.of(request_id)

    def _buffers(self) -> "list[KVCacheBuffer]":
        """Returns each replica's pages as MAX describes them."""
        if self._max_buffers is None:
            from kvcache.manager.max_inputs import max_buffers

            self._max_buffers = [
                max_buffers(
                    self.max_params, [pool.blocks for pool in pools.shards]
                )
                for _, pools in self._parts()
            ]
        return self._max_buffers
