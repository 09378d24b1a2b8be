"""What requests share beyond equal prefixes, and for how long it is kept."""

from kvcache.core.interface import DEFAULT_PRIORITY
from kvcache.manager.explaining import PageReport, explain
from kvcache.manager.pinning import Pin
from kvcache.manager.retention import Wish
from kvcache.manager.routing import ReplicaRouting
from kvcache.request import RequestContext


class CacheSharing(ReplicaRouting):
    """Branches and shortens requests; keeps, pins and explains pages."""

    def fork(
        self,
        request: RequestContext,
        new_request: RequestContext,
        *,
        length: int | None = None,
    ) -> None:
        """Claims a request that goes on from what another one has computed.

        Both hold the same pages, whether they are full or committed or not,
        with or without prefix caching. Each goes on in pages of its own: a
        page that is begun is copied for the one that reserves first, so that
        takes a page more. Until `truncate`, neither can be rewound behind what
        they share.

        The new request gets the retention of the other one, unless it has a
        `cache_priority` of its own; its shared tokens count as `cache_tokens`.
        For an edited prompt, share the tokens before the first that changed.

        Args:
            request: The request to go on from.
            new_request: One that is not claimed, of the same salt and model,
                with an id and tokens of its own: they begin with those that
                are shared, and at least one more follows. Its window moves
                behind the shared tokens.
            length: Processed tokens of `request` to share; None for all.

        Raises:
            UnknownRequestError: If `request` is not claimed.
            ClaimError: If `new_request` is, or no more may be claimed.
            RequestStateError: If the new request's tokens begin otherwise or
                are processed already, its salt or model differs, or `length`
                is beyond what is processed or leaves it nothing to compute.
            NotOfferedError: If the new request has images.
            RetentionError: If its `cache_priority` or `cache_ttl` is out of
                range.
        """
        self._replicas.fork(request, new_request, length)

    def truncate(
        self, request: RequestContext, length: int | None = None
    ) -> None:
        """Moves a request back, and gives the pages beyond back.

        The window begins after `length` tokens then: what was processed behind
        them is active again, as by `tokens.rewind_processing`, and pages that
        were reserved for further steps have to be reserved again. What was
        committed stays findable, as with `release`. A page that stays in part
        is copied before it is written, if others can see it.

        For speculative decoding, and for requests that wait.

        Args:
            request: The request.
            length: Processed tokens to keep; None for all, which gives back
                what is reserved beyond. A caller may have rewound the tokens
                before, even behind what was committed.

        Raises:
            UnknownRequestError: If the request is not claimed.
            RequestStateError: If `length` is negative or beyond what is
                processed, or more is processed than was fetched.
        """
        self._replicas.truncate(request, length)

    def set_retention(
        self,
        request: RequestContext,
        *,
        priority: int = DEFAULT_PRIORITY,
        ttl: float | None = None,
    ) -> None:
        """Says how long to keep what a request commits, once it has left.

        Of cached pages, those with the lowest priority are handed out first,
        and the longest unused of them. That goes for what the request has
        committed, for what it will commit and for the cached prefix that it
        takes; where several requests use a page, the highest priority and the
        latest end count, so a page is never kept for less. A prefix is kept at
        least as long as what follows it.

        A request may say the same with its attributes `cache_priority` and
        `cache_ttl`, which are read when its tokens are first seen.

        Args:
            request: The request.
            priority: 0 to 100; that of other requests is 35.
            ttl: Seconds from now on after which the pages fall back to
                priority 35; None for never. Only with a higher priority.

        Raises:
            UnknownRequestError: If the request is not claimed.
            RetentionError: If a value is out of range, or a time goes with a
                priority that is not above 35.
        """
        self._replicas.keep(request, Wish(priority, ttl))

    def pin(self, request: RequestContext) -> Pin:
        """Keeps what a request has committed, also after its release.

        Pinned pages are not free and stay findable, through resets too, until
        `unpin`. Each call gives a pin of its own; a page that several keep
        counts once, and goes when the last of them does. What is committed
        later is not pinned: pin again for that.

        Args:
            request: The request; without prefix caching it has committed
                nothing, and the pin keeps nothing.

        Returns:
            The pin, for `unpin`.

        Raises:
            UnknownRequestError: If the request is not claimed.
            PinLimitError: If its replica would have more pinned pages than
                `max_pinned_share` allows, or more than `max_pins` pins.
        """
        return self._replicas.pin(request)

    def unpin(self, pin: Pin) -> None:
        """Lets go of what a pin keeps; it stays cached as if just released.

        Args:
            pin: What `pin` returned.

        Raises:
            UnknownPinError: If it was let go before, or is another manager's.
        """
        self._replicas.unpin(pin)

    def explain(self, request: RequestContext) -> list[PageReport]:
        """Says of each page of a request why it would be a hit now, or not.

        What is said holds for a request with the same tokens that begins anew
        on this request's replica or, if it is not claimed, on the one that
        `get_or_recommend_replica` names; what that would copy from other
        replicas is left out, and so is that a request may be short of pages.
        Pages that running batches have not committed count as never seen, and
        of other salts and models the last few hundred are looked at. Changes
        nothing.

        For whoever runs the manager: it tells what other tenants have cached,
        though not which, so it is not for tenants to ask.

        Args:
            request: The request, claimed or not.

        Returns:
            A report for each page of its tokens, in order; the last page may
            not be whole.
        """
        replica = self.get_or_recommend_replica(request)
        return explain(self._replicas.members[replica], request)
