"""What a manager allocates in a memory, and what fits into it."""

from dataclasses import dataclass

from kvcache.errors import InsufficientMemoryError, InvalidParamsError
from kvcache.manager.arguments import pages_in
from kvcache.manager.host import host_shares
from kvcache.manager.sizing import CacheSizing
from kvcache.planning.budget import MemoryBudget
from kvcache.planning.formats import KVFormat
from kvcache.planning.shape import ModelShape, RecurrentState
from kvcache.spec import KVCacheParams, pages_for


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowBound:
    """What the longest request must keep if layers forget behind windows.

    This library does not: a page has all attention layers of its tokens.
    """

    num_layers: int
    """Layers that read the last tokens only."""
    tokens: int
    """Tokens of the longest request that such a layer must keep."""
    pages: int
    """Pages that those can lie in: the window, and one page more."""
    bytes_per_request: int
    """The least bytes of such a request over all layers, its state included.

    Scales that a whole page shares are not counted, nor are summaries.
    """
    max_requests: int
    """More such requests than these fit into no cache of the same budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlan:
    """One format's cache in a memory budget; all bytes are over all devices.

    `params`, `shape.num_layers` and `page_memory` are what
    `PagedKVCacheManager` takes as `params`, `num_layers` and
    `available_cache_memory`.
    """

    shape: ModelShape
    """The model."""
    kv_format: KVFormat
    """What keys and values are kept in."""
    params: KVCacheParams
    """The parameters of the manager."""
    budget: MemoryBudget
    """The memory for pages and states."""
    page_size: int
    """Tokens per page."""
    max_len: int
    """Tokens of the longest request, prompt included."""
    mean_len: int | None
    """Tokens of a usual request, if they were given."""
    num_slots: int
    """Requests whose recurrent state there is room for; 0 without any state."""
    page_memory: int
    """Bytes of the budget that are for pages."""
    num_pages: int
    """Pages that requests can hold; 0 if the memory does not hold one."""
    num_host_pages: int
    """Pages in host memory; 0 without a host tier."""
    shortage: str | None
    """What is wanted if not even one request of `max_len` fits."""

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token, those left out that a page or a block shares."""
        return self.params.bytes_per_token(self.shape.num_layers)

    @property
    def bytes_per_page(self) -> int:
        """Bytes of a page over all layers, scales and summaries included."""
        return self.params.bytes_per_page(self.shape.num_layers, self.page_size)

    @property
    def bytes_per_token_per_layer(self) -> float:
        """Bytes of a token in one layer, with its part of a page's others."""
        slots = self.shape.num_layers * self.page_size
        return self.bytes_per_page / slots

    @property
    def num_tokens(self) -> int:
        """Tokens that all pages hold."""
        return CacheSizing.max_supported_sequence_length(
            self.params, self.shape.num_layers, self.page_memory
        )

    @property
    def pool_bytes(self) -> int:
        """Bytes that the manager allocates: the null page is among them."""
        return (self.num_pages + 1) * self.bytes_per_page * bool(self.num_pages)

    @property
    def state_bytes(self) -> int:
        """Bytes of all recurrent states: a padding slot is among them."""
        if self.shape.state is None or not self.num_pages:
            return 0
        return (self.num_slots + 1) * self.shape.state.bytes_per_request

    @property
    def bytes_missing(self) -> int:
        """Bytes that pools and states want beyond what the devices have."""
        in_use = self.budget.in_use * self.budget.n_devices
        there = self.budget.memory * self.budget.n_devices - in_use
        return max(0, self.pool_bytes + self.state_bytes - there)

    @property
    def max_requests(self) -> int:
        """Requests of `max_len` tokens that fit at the same time."""
        return self.requests(self.max_len)

    @property
    def mean_requests(self) -> int | None:
        """Requests of `mean_len` tokens that fit, if that was given."""
        return None if self.mean_len is None else self.requests(self.mean_len)

    @property
    def window_bound(self) -> WindowBound | None:
        """What must be kept at least; None if no layer has a window."""
        window, state = self.shape.window, self.shape.state
        if window is None:
            return None
        fixed = state.bytes_per_request if state else 0
        kept = min(self.max_len, window.tokens)
        everywhere = self.shape.num_layers - window.num_layers
        size = fixed + kept * self.params.bytes_per_token(window.num_layers)
        size += self.max_len * self.params.bytes_per_token(everywhere)
        return WindowBound(
            num_layers=window.num_layers,
            tokens=kept,
            pages=min(
                pages_for(self.max_len, self.page_size),
                pages_for(window.tokens - 1, self.page_size) + 1,
            ),
            bytes_per_request=size,
            max_requests=max(0, self.budget.bytes - fixed) // size,
        )

    def requests(self, length: int) -> int:
        """Returns how many requests fit at the same time.

        Nothing is shared between them.

        Args:
            length: Tokens of each, prompt included.
        """
        fitting = self.num_pages // pages_for(length, self.page_size)
        return min(fitting, self.num_slots) if self.shape.state else fitting


def plan_cache(
    shape: ModelShape,
    kv_format: KVFormat,
    budget: MemoryBudget,
    *,
    page_size: int,
    max_len: int,
    mean_len: int | None = None,
    host_memory: int | None = None,
) -> CachePlan:
    """Returns what a manager makes of a memory budget.

    A hybrid model's states come out of the budget first: as many slots as
    requests of `mean_len` tokens fit (of `max_len`, if there is none), and one
    for padding. The rest is for pages.

    Args:
        shape: The model.
        kv_format: What keys and values are kept in.
        budget: The memory for pages and states.
        page_size: Tokens per page.
        max_len: Tokens of the longest request, prompt included.
        mean_len: Tokens of a usual request.
        host_memory: Bytes for pages that are swapped to the host.

    Raises:
        InvalidParamsError: If a size is out of range, or a manager would
            refuse the parameters.
        InsufficientMemoryError: If the host's memory does not hold one page.
    """
    _check_lengths(max_len, mean_len)
    params = shape.params(
        kv_format,
        page_size=page_size,
        n_devices=budget.n_devices,
        host_memory=host_memory,
    )
    bytes_per_page = params.bytes_per_page(shape.num_layers, page_size)
    usual = pages_for(mean_len or max_len, page_size) * bytes_per_page
    num_slots, page_memory = _split(shape, budget.bytes, usual)
    shortage: str | None
    try:
        num_pages = pages_in(page_memory, bytes_per_page)
    except InsufficientMemoryError as error:
        num_pages, shortage = 0, str(error)
        if shape.state is not None:
            shortage = _shortage_of_state(shape.state, budget, bytes_per_page)
    else:
        shortage = _shortage_of_pages(max_len, page_size, num_pages)
    return CachePlan(
        shape=shape,
        kv_format=kv_format,
        params=params,
        budget=budget,
        page_size=page_size,
        max_len=max_len,
        mean_len=mean_len,
        num_slots=num_slots,
        page_memory=page_memory,
        num_pages=num_pages,
        num_host_pages=sum(host_shares(params, bytes_per_page)),
        shortage=shortage,
    )


def _shortage_of_pages(
    max_len: int, page_size: int, num_pages: int
) -> str | None:
    """Returns what the longest request wants, None if it fits."""
    if (wanted := pages_for(max_len, page_size)) <= num_pages:
        return None
    return (
        f"a request of {max_len} tokens wants {wanted} pages, there are "
        f"{num_pages}"
    )


def _shortage_of_state(
    state: RecurrentState, budget: MemoryBudget, bytes_per_page: int
) -> str:
    """Returns what a hybrid model wants at least."""
    wanted = 2 * state.bytes_per_request + bytes_per_page
    return (
        f"wanted at least {wanted} bytes of cache memory for a request's "
        f"state, one for padding and a single page, got {budget.bytes}"
    )


def _split(shape: ModelShape, memory: int, usual: int) -> tuple[int, int]:
    """Returns the slots for states, and the bytes that they leave for pages.

    Args:
        shape: The model.
        memory: Bytes for pages and states.
        usual: Bytes of a usual request's pages.
    """
    if shape.state is None:
        return 0, memory
    state = shape.state.bytes_per_request
    num_slots = max(1, (memory - state) // (usual + state))
    return num_slots, max(0, memory - (num_slots + 1) * state)


def _check_lengths(max_len: int, mean_len: int | None) -> None:
    if max_len < 1:
        raise InvalidParamsError(f"max_len must be positive, got {max_len}")
    if mean_len is not None and not 1 <= mean_len <= max_len:
        raise InvalidParamsError(
            f"mean_len must be from 1 to max_len {max_len}, got {mean_len}"
        )
