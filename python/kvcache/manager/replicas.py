"""All replicas: which request is on which, and calls that span several."""

from collections.abc import Hashable, Sequence

from kvcache.errors import (
    ClaimError,
    InsufficientPagesError,
    UnknownRequestError,
)
from kvcache.manager.forking import fork, truncate
from kvcache.manager.pinning import Pin
from kvcache.manager.replica import Replica
from kvcache.manager.retention import Wish
from kvcache.manager.tables import StepTables
from kvcache.metrics import KVCacheMetrics
from kvcache.request import RequestContext


class Replicas:
    """Sends each call to the replica of its request.

    Args:
        members: The replicas, at least one, in order.
    """

    def __init__(self, members: Sequence[Replica]) -> None:
        """Starts without requests."""
        self.members = members
        self._homes: dict[Hashable, int] = {}

    def __contains__(self, request_id: Hashable) -> bool:
        """Returns whether a request is claimed."""
        return request_id in self._homes

    @property
    def num_free(self) -> int:
        """Pages that no request holds, over all replicas."""
        return sum(member.core.num_free for member in self.members)

    @property
    def num_host_pages(self) -> int:
        """Pages of the host, over all replicas."""
        return sum(member.core.num_host_pages for member in self.members)

    @property
    def num_host_cached(self) -> int:
        """Pages of the host that are findable, over all replicas."""
        return sum(member.core.num_host_cached for member in self.members)

    @property
    def metrics(self) -> KVCacheMetrics:
        """Counts over all replicas."""
        return sum(
            (member.metrics for member in self.members), KVCacheMetrics()
        )

    def reset_metrics(self) -> None:
        """Sets every count to zero."""
        for member in self.members:
            member.reset_metrics()

    def claim(self, request_id: Hashable, replica: int) -> None:
        """Makes a request known to a replica.

        Raises:
            ClaimError: If it is known, or that replica takes no more.
        """
        if request_id in self._homes:
            raise ClaimError(f"request {request_id!r} is already claimed")
        self.members[replica].claim(request_id)
        self._homes[request_id] = replica

    def index_of(self, request_id: Hashable) -> int:
        """Returns the replica of a request.

        Raises:
            UnknownRequestError: If it is not claimed.
        """
        replica = self._homes.get(request_id)
        if replica is None:
            raise UnknownRequestError(
                f"wanted a claimed request, got {request_id!r}, which is not"
            )
        return replica

    def release(self, request_id: Hashable) -> None:
        """Forgets a request and gives its pages back."""
        self.of(request_id).release(request_id)
        del self._homes[request_id]

    def fork(
        self,
        context: RequestContext,
        new: RequestContext,
        length: int | None,
    ) -> None:
        """Claims a request that shares what another one has computed."""
        replica = self.index_of(context.request_id)
        if new.request_id in self._homes:
            raise ClaimError(f"request {new.request_id!r} is already claimed")
        fork(self.members[replica], context, new, length)
        self._homes[new.request_id] = replica

    def truncate(self, context: RequestContext, length: int | None) -> None:
        """Gives a request's pages beyond some tokens back."""
        truncate(self.of(context.request_id), context, length)

    def keep(self, context: RequestContext, wish: Wish) -> None:
        """Says how long to keep what a request commits."""
        member = self.of(context.request_id)
        seq = member.claims.meet_one(context).seq
        member.keeper.keep(seq, wish)
        member.verify()

    @property
    def num_pinned(self) -> int:
        """Pages that are pinned, over all replicas."""
        return sum(member.pins.num_pages for member in self.members)

    def pin(self, context: RequestContext) -> Pin:
        """Keeps the committed pages of a request."""
        member = self.of(context.request_id)
        claim = member.claims.meet_one(context)
        tokens = context.tokens.all[: claim.num_committed]
        pin = member.pins.add(claim.seq, claim.namespace, tokens)
        member.verify()
        return pin

    def unpin(self, pin: Pin) -> None:
        """Lets pages go that were kept."""
        member = self.members[pin.replica % len(self.members)]
        member.pins.remove(pin)
        member.verify()

    def pages(self, request_id: Hashable) -> list[int]:
        """Returns a request's pages, as its own replica numbers them."""
        return self.of(request_id).pages(request_id)

    def adopt(self, context: RequestContext) -> int:
        """Takes a request's cached prefix; returns its new tokens."""
        return self.of(context.request_id).adopt(context)

    def reserve(self, context: RequestContext, num_steps: int) -> bool:
        """Takes a request's pages for some steps, or says no and takes none."""
        return self.of(context.request_id).reserve(context, num_steps)

    def reserve_batch(
        self, contexts: Sequence[RequestContext], num_steps: int
    ) -> bool:
        """Takes a batch's pages for some steps, or says no and takes none."""
        batches = [
            (member, member.prepare(group, num_steps))
            for member, group in self._groups(contexts)
        ]
        try:
            for member, batch in batches[1:]:
                member.check_pages(
                    batch, may_hit=member.core.enable_prefix_caching
                )
            for member, batch in batches:
                member.reserve_batch(batch)
        except InsufficientPagesError:
            return False
        return True

    def fetch(
        self, contexts: Sequence[RequestContext], num_steps: int
    ) -> list[StepTables]:
        """Makes the tables of each replica, with pages for all or for none."""
        batches = [
            member.prepare(group, num_steps)
            for member, group in self._groups(contexts)
        ]
        # The first replica's own call finds out about its pages.
        for member, batch in list(zip(self.members, batches, strict=True))[1:]:
            member.check_pages(batch)
        pairs = zip(self.members, batches, strict=True)
        return [member.fetch(batch) for member, batch in pairs]

    def commit(self, contexts: Sequence[RequestContext]) -> None:
        """Makes the full pages of processed tokens findable."""
        groups = self._groups(contexts)
        if len(groups) > 1:
            for member, group in groups:
                member.check_windows(group)
        for member, group in groups:
            member.commit(group)

    def forget_cached(self) -> None:
        """Makes what no request holds unfindable, on every replica."""
        for member in self.members:
            member.forget_cached()

    def of(self, request_id: Hashable) -> Replica:
        """Returns the replica that a request is claimed on.

        With one replica only that one itself knows whether it is.

        Raises:
            UnknownRequestError: If it is not claimed.
        """
        if len(self.members) == 1:
            return self.members[0]
        return self.members[self.index_of(request_id)]

    def _groups(
        self, contexts: Sequence[RequestContext]
    ) -> list[tuple[Replica, Sequence[RequestContext]]]:
        """Returns each replica with its part of a batch, its order kept."""
        if len(self.members) == 1:
            return [(self.members[0], contexts)]
        groups: list[list[RequestContext]] = [[] for _ in self.members]
        for context in contexts:
            groups[self.index_of(context.request_id)].append(context)
        return list(zip(self.members, groups, strict=True))
