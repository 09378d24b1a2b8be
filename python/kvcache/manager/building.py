"""Puts the replicas of a manager together."""

from collections.abc import Sequence
from functools import partial

from max.driver import Device

from kvcache.core.digest import Digest
from kvcache.core.making import make_core
from kvcache.manager.device import ReplicaPools
from kvcache.manager.lending import Lender
from kvcache.manager.pinning import Pins
from kvcache.manager.replica import Replica
from kvcache.manager.replicas import Replicas
from kvcache.manager.retention import Clock
from kvcache.manager.sizing import spread
from kvcache.manager.taking import PageTaker
from kvcache.manager.transfer import PageTransfer
from kvcache.spec import KVCacheParams


def build_replicas(
    params: KVCacheParams,
    pools: Sequence[ReplicaPools],
    *,
    num_pages: int,
    host_shares: Sequence[int],
    page_size: int,
    max_batch_size: int,
    max_seq_len: int,
    copies_prefixes: bool,
    max_onload: int | None,
    is_checking: bool,
    min_partial: int | None,
    clock: Clock,
    max_pinned_share: float,
    max_pins: int,
    digest: Digest | None,
) -> Replicas:
    """Makes the books of each replica.

    Args:
        params: Shape of a token's keys and values.
        pools: The pages of each replica.
        num_pages: Pages of each replica.
        host_shares: Host pages of each replica.
        page_size: Tokens per page.
        max_batch_size: Requests over all replicas, spread over them.
        max_seq_len: Tokens of the longest request.
        copies_prefixes: Whether cached prefixes go from replica to replica.
        max_onload: Pages that a request loads from the host at most; None for
            all that it finds.
        is_checking: Whether each call verifies the books.
        min_partial: Tokens of a page from which on its beginning is copied.
        clock: Says the time, in seconds.
        max_pinned_share: Share of a replica's pages that can be pinned.
        max_pins: Pins of a replica.
        digest: Finds cached pages, for tests; None for one of the core's own.
    """
    spare = len(pools) > 1  # A sequence that looks, or holds what is copied.
    members = []
    requests = spread(max_batch_size, len(pools))
    for own, host, most in zip(pools, host_shares, requests, strict=True):
        core = make_core(
            num_pages,
            page_size,
            most + spare + max_pins,
            enable_prefix_caching=params.enable_prefix_caching,
            num_host_pages=host,
            digest=digest,
        )
        taker = PageTaker(core, own.carry_out, max_onload=max_onload)
        members.append(
            Replica(
                core,
                most,
                max_seq_len,
                taker,
                is_checking=is_checking,
                clock=clock,
            )
        )
    for index, member in enumerate(members):
        member.min_partial = min_partial
        member.pins = Pins(
            member.core,
            index,
            most_pages=int(max_pinned_share * num_pages),
            most_pins=max_pins,
        )
    if copies_prefixes:
        _connect(members, pools)
    return Replicas(members)


def build_pools(
    params: KVCacheParams,
    devices: Sequence[Device],
    *,
    num_pages: int,
    host_shares: Sequence[int],
    num_layers: int,
    page_size: int,
) -> list[ReplicaPools]:
    """Allocates the pages of each replica on its own run of the devices."""
    each = params.devices_per_replica
    transfers = {
        device: PageTransfer.compiled(device)
        for device in dict.fromkeys(devices)
        if any(host_shares) and not device.is_host
    }
    shares = [devices[i : i + each] for i in range(0, len(devices), each)]
    return [
        ReplicaPools(
            params,
            num_pages,
            num_layers=num_layers,
            page_size=page_size,
            devices=own,
            num_host_pages=num_host_pages,
            transfers=[transfers.get(device) for device in own],
        )
        for own, num_host_pages in zip(shares, host_shares, strict=True)
    ]


def _connect(members: Sequence[Replica], pools: Sequence[ReplicaPools]) -> None:
    """Lets each replica find and copy what the others hold."""

    def copy(
        source: int, target: int, pages: list[int], into: list[int]
    ) -> None:
        pools[target].copy_from(pools[source], pages, into)

    lender = Lender([member.core for member in members], copy)
    for index, member in enumerate(members):
        member.find_offer = partial(lender.offer, index)
