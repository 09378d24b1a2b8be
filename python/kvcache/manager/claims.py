"""The requests that one replica knows."""

from collections.abc import Hashable, ItemsView, Sequence

from kvcache.core.interface import CacheCore
from kvcache.errors import (
    ClaimError,
    RequestStateError,
    UnknownRequestError,
)
from kvcache.manager.claim import Claim, check_identity, first_sight
from kvcache.manager.prepared import Met
from kvcache.manager.retention import Keeper, Wish
from kvcache.manager.tables import counts
from kvcache.request import RequestContext

NAMESPACES = 256
"""Namespaces that are remembered."""

_DEFAULT = Wish()


class Claims:
    """What is held for each request.

    Args:
        core: Keeps the pages' books.
        most: Requests that can be claimed at a time.
        keeper: Is told how long requests want their pages kept.
    """

    def __init__(self, core: CacheCore, most: int, keeper: Keeper) -> None:
        """Starts without requests."""
        self._keeper = keeper
        self._core = core
        self._most = most
        self._claims: dict[Hashable, Claim] = {}
        self._met: Met | None = None
        self._seen: dict[int, tuple[RequestContext, Claim]] = {}
        self.namespaces: dict[bytes, None] = {}
        """The last namespaces that requests came with."""
        self._newest = b""

    def __contains__(self, request_id: Hashable) -> bool:
        """Returns whether a request is claimed."""
        return request_id in self._claims

    def __len__(self) -> int:
        """Returns how many requests are claimed."""
        return len(self._claims)

    def __getitem__(self, request_id: Hashable) -> Claim:
        """Returns what is held for a request.

        Raises:
            UnknownRequestError: If it is not claimed.
        """
        claim = self._claims.get(request_id)
        if claim is None:
            raise UnknownRequestError(
                f"wanted a claimed request, got {request_id!r}, which is not"
            )
        return claim

    def of(self, context: RequestContext) -> Claim:
        """Returns what is held for a request.

        A context that was asked for before is known as the object that it is:
        an id may take long to hash.

        Raises:
            UnknownRequestError: If it is not claimed.
        """
        seen = self._seen.get(id(context))
        if seen is not None and seen[0] is context:
            return seen[1]
        claim = self[context.request_id]
        self._seen.pop(claim.seen_as, None)
        claim.seen_as = id(context)
        self._seen[claim.seen_as] = (context, claim)
        return claim

    def items(self) -> ItemsView[Hashable, Claim]:
        """Returns every request's id and what is held for it."""
        return self._claims.items()

    def add(self, request_id: Hashable, claim: Claim) -> None:
        """Makes a request known.

        Raises:
            ClaimError: If it is known, or no more may be claimed.
        """
        if request_id in self._claims:
            raise ClaimError(f"request {request_id!r} is already claimed")
        if len(self._claims) >= self._most:
            raise ClaimError(
                f"wanted one more request, all {self._most} are claimed"
            )
        self._claims[request_id] = claim

    def remove(self, request_id: Hashable) -> None:
        """Forgets a request and gives its pages back.

        Raises:
            UnknownRequestError: If it is not claimed.
        """
        claim = self[request_id]
        if claim.seq >= 0:
            self._core.release(claim.seq)
        del self._claims[request_id]
        self.forget_batch()
        self._seen.pop(claim.seen_as, None)

    def meet(self, contexts: Sequence[RequestContext]) -> Met:
        """Returns what is held for requests, each of which comes once.

        The last batch is remembered: a batch of the very same requests is
        known without asking each of them who it is.

        Raises:
            UnknownRequestError: If one is not claimed.
            RequestStateError: If one comes twice, or is not what it was.
        """
        if self._met is not None and self._met.is_of(contexts):
            return self._met
        claims = [self.meet_one(context) for context in contexts]
        seqs = [claim.seq for claim in claims]
        if len(set(seqs)) < len(seqs):
            raise RequestStateError("wanted each request once in a batch")
        self._met = Met(list(contexts), claims, counts(seqs))
        return self._met

    def forget_batch(self) -> None:
        """Has the next batch verified anew, since claims have changed."""
        self._met = None

    def meet_one(self, context: RequestContext) -> Claim:
        """Returns what is held for one request."""
        claim = self.of(context)
        if claim.seq < 0:
            wish = Wish.of(context)
            if wish != _DEFAULT:
                self._keeper.tick()  # A clock that fails does so first.
            first_sight(claim, context, self._core)
            if wish != _DEFAULT:
                self._keeper.keep(claim.seq, wish)
            self.note(claim.namespace)
        check_identity(claim, context)
        claim.context = context
        return claim

    def note(self, namespace: bytes) -> None:
        """Remembers a namespace as one that pages may be cached in."""
        if namespace == self._newest:
            return
        self._newest = namespace
        self.namespaces.pop(namespace, None)
        self.namespaces[namespace] = None
        if len(self.namespaces) > NAMESPACES:
            del self.namespaces[next(iter(self.namespaces))]
