"""Which replica a request is on, or should go to."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from max.driver import Buffer

from kvcache.core.digest import namespace
from kvcache.core.interface import Batch
from kvcache.errors import (
    ClaimError,
    InsufficientPagesError,
    RequestStateError,
)
from kvcache.manager.arguments import check_replica
from kvcache.manager.lending import num_cached
from kvcache.manager.replica import Replica
from kvcache.manager.replicas import Replicas
from kvcache.manager.tables import counts
from kvcache.request import RequestContext, request_id_of

BALANCE = 4
"""Requests beyond the least busy replica's that outweigh a whole prompt."""
COPY_COST = 1 / 16
"""What a token that is copied from another replica costs, in computed ones."""


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What counts when a request looks for a replica."""

    num_requests: int
    """Requests on it."""
    has_room: bool
    """Whether it takes another request and has the pages that it lacks."""
    num_cached: int
    """Tokens of the request that it need not compute."""
    num_lent: int
    """Those of them that another replica could copy."""


def recommend(
    states: Sequence[ReplicaState], num_tokens: int, *, copies: bool
) -> int:
    """Returns the replica that a request costs least on.

    The cost is the tokens to compute and, for each request that the replica
    has beyond the least busy one, another `1 / BALANCE` of the prompt. So a
    replica that holds the whole prompt is still left alone once it is
    `BALANCE` requests ahead, and a prefix that many requests share cannot
    herd them. Replicas without room come last; the fewest requests, then the
    lowest index decide ties.

    Args:
        states: The replicas, at least one.
        num_tokens: The request's length.
        copies: Whether a prefix that another replica holds is copied over.
    """
    candidates = [i for i, state in enumerate(states) if state.has_room]
    candidates = candidates or list(range(len(states)))
    least = min(states[i].num_requests for i in candidates)
    found = max(state.num_lent for state in states) if copies else 0

    def cost(index: int) -> tuple[float, int, int]:
        state = states[index]
        copied = max(0, found - state.num_cached)
        computed = num_tokens - state.num_cached - copied
        ahead = state.num_requests - least
        tokens = computed + copied * COPY_COST + num_tokens * ahead / BALANCE
        return tokens, state.num_requests, index

    return min(candidates, key=cost)


class ReplicaRouting:
    """Puts requests on replicas, and tells where they are."""

    _replicas: Replicas
    num_replicas: int
    """Replicas that requests are spread over."""
    copy_prefixes_across_replicas: bool
    """Whether a prefix that another replica holds is copied over."""

    def external_claim(
        self, request_id: Hashable, replica_idx: int | None = None
    ) -> None:
        """Makes a request known, before it can hold pages.

        Args:
            request_id: Identifies the request until it is released.
            replica_idx: The replica to serve it, such as
                `get_or_recommend_replica` names; None is enough if there is
                one only.

        Raises:
            UnknownReplicaError: If there is no such replica.
            ClaimError: If the request is claimed already, all that the replica
                takes are, or no replica is named and there are several.
        """
        if replica_idx is None and self.num_replicas > 1:
            raise ClaimError(
                f"wanted a replica_idx from 0 to {self.num_replicas - 1}, got "
                f"None"
            )
        replica = replica_idx or 0
        check_replica(replica, self.num_replicas)
        self._replicas.claim(request_id, replica)

    def contains(self, request_id: Hashable | RequestContext) -> bool:
        """Returns whether a request, or the request of an id, is claimed."""
        return request_id_of(request_id) in self._replicas

    def get_replica(self, context: RequestContext) -> int:
        """Returns the replica that a request was claimed on.

        Args:
            context: The request.

        Raises:
            UnknownRequestError: If the request is not claimed.
        """
        return self._replicas.index_of(context.request_id)

    def get_or_recommend_replica(self, context: RequestContext) -> int:
        """Returns a request's replica or, if it has none, the best for it.

        A replica is good for what it holds of the request's prefix and for
        having few requests; see `recommend` for the rule. It needs a claim
        and the pages left; only if no replica has them, they do not count.
        Changes nothing.

        Args:
            context: The request.
        """
        if context.request_id in self._replicas:
            return self.get_replica(context)
        if self.num_replicas == 1:
            return 0
        return recommend(
            self._states(context),
            len(context.tokens),
            copies=self.copy_prefixes_across_replicas,
        )

    def get_data_parallel_splits(
        self, context_batch: Sequence[RequestContext]
    ) -> Buffer:
        """Returns where each replica's rows begin and end in a batch.

        Args:
            context_batch: The requests, those of replica 0 first and so on.

        Returns:
            Rows before each replica and, at last, all rows: int64
            `[num_replicas + 1]` on the host, beginning with 0.

        Raises:
            UnknownRequestError: If a request is not claimed.
            RequestStateError: If the requests are not ordered by replica.
        """
        replicas = [self.get_replica(context) for context in context_batch]
        if replicas != sorted(replicas):
            raise RequestStateError(
                f"wanted requests that are ordered by replica, got replicas "
                f"{replicas}"
            )
        num_rows = np.bincount(
            np.array(replicas, np.int64), minlength=self.num_replicas
        )
        splits = np.zeros(self.num_replicas + 1, np.int64)
        np.cumsum(num_rows, out=splits[1:])
        return Buffer.from_numpy(splits)

    def _states(self, context: RequestContext) -> list[ReplicaState]:
        """Looks at each replica for a request; changes nothing."""
        root = namespace(
            cache_salt=context.cache_salt, model_name=context.model_name
        )
        states = []
        for member in self._replicas.members:
            core, tokens = member.core, context.tokens.all
            size = core.page_size
            whole = (len(tokens) - 1) // size * size
            num_hits, num_lent = num_cached(core, root, tokens[:whole])
            if member.taker.max_onload == 0:
                num_hits = num_lent
            states.append(
                ReplicaState(
                    num_requests=member.num_requests,
                    has_room=_has_room(member, root, context),
                    num_cached=num_hits * size,
                    num_lent=num_lent * size,
                )
            )
        return states


def _has_room(
    member: Replica, namespace: bytes, context: RequestContext
) -> bool:
    """Returns whether a replica could take a request and its pages now."""
    if member.num_requests >= member.max_batch_size:
        return False
    tokens, seq = context.tokens, member.core.claim(namespace)
    batch = Batch(
        seqs=counts([seq]),
        processed=counts([0]),
        active=counts([tokens.current_position]),
        tokens=[tokens.all],
    )
    try:
        member.taker.check_reserve(batch, num_steps=1)
    except InsufficientPagesError:
        return False
    finally:
        member.core.release(seq)
    return True
