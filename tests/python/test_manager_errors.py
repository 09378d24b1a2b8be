import pytest

from kvcache import (
    InsufficientPagesError,
    Request,
)
from kvcache.errors import (
    ClaimError,
    NotOfferedError,
    RequestStateError,
    RequestTooLargeError,
    SequenceTooLongError,
    UnknownReplicaError,
    UnknownRequestError,
)
from managers import claimed, compute, make, pages


def test_a_refused_request_keeps_its_tokens_and_takes_no_hit() -> None:
    manager = make(num_pages=4)
    first = claimed(manager, 40)
    compute(manager, first)
    manager.release(first.request_id)  # Two cached pages, two blank ones.
    order = manager._replicas.members[0].core.eviction_order()
    holder = claimed(manager, range(100, 120))
    assert manager.maybe_reserve(holder)
    order = manager._replicas.members[0].core.eviction_order()
    request = claimed(manager, 60)
    assert not manager.maybe_reserve(request)
    assert request.tokens.processed_length == 0
    assert pages(manager, request) == []
    assert manager._replicas.members[0].core.eviction_order() == order
    assert manager.metrics.cache_tokens == 0


def test_fetch_gives_pages_to_all_or_to_none() -> None:
    manager = make(num_pages=4)
    small, large = claimed(manager, 16), claimed(manager, 64)
    with pytest.raises(InsufficientPagesError, match="wanted 5 pages, 4 free"):
        manager.fetch([small, large])
    assert pages(manager, small) == pages(manager, large) == []
    manager.fetch([large])
    assert len(pages(manager, large)) == 4


def test_a_reserved_request_does_not_run_short() -> None:
    manager = make(num_pages=3)
    request, other = claimed(manager, 30), claimed(manager, 16)
    assert manager.maybe_reserve(request, 4)  # 33 tokens: three pages.
    assert not manager.maybe_reserve(other)
    manager.fetch([request], 4)
    with pytest.raises(InsufficientPagesError):
        manager.fetch([request, other], 4)


def test_a_request_that_never_fits_is_an_error_and_not_a_no() -> None:
    manager = make(num_pages=2)
    request = claimed(manager, 33)
    request.tokens.chunk(5)  # The chunk would fit, the prompt will not.
    for call in (manager.maybe_reserve, lambda r: manager.fetch([r])):
        with pytest.raises(RequestTooLargeError, match="wanted 3 pages"):
            call(request)
    assert manager.num_free_blocks == 2


def test_a_request_past_the_longest_sequence_is_refused() -> None:
    manager = make(max_seq_len=40)
    request = claimed(manager, 40)
    assert manager.maybe_reserve(request)
    for call in (manager.maybe_reserve, lambda r, n: manager.fetch([r], n)):
        with pytest.raises(SequenceTooLongError, match=r"at most 40 .* got 41"):
            call(request, 2)
    with pytest.raises(RuntimeError):
        manager.maybe_reserve(claimed(manager, 41))


@pytest.mark.parametrize("num_steps", [0, -1])
def test_steps_are_positive(num_steps: int) -> None:
    manager = make()
    request = claimed(manager, 4)
    with pytest.raises(RequestStateError, match=f"num_steps={num_steps}"):
        manager.maybe_reserve(request, num_steps)
    with pytest.raises(RequestStateError, match="at least 1 step"):
        manager.fetch([request], num_steps)


def test_an_unclaimed_request_is_an_error() -> None:
    manager = make()
    request = Request([1, 2], request_id="nobody")
    for call in (
        lambda: manager.maybe_reserve(request),
        lambda: manager.adopt_prefix(request),
        lambda: manager.fetch([request]),
        lambda: manager.step([request]),
        lambda: manager.release("nobody"),
        lambda: manager.get_req_blocks("nobody"),
    ):
        with pytest.raises(UnknownRequestError, match="got 'nobody'"):
            call()
    assert not manager.contains("nobody")


def test_a_request_is_released_once() -> None:
    manager = make()
    request = claimed(manager, 20)
    assert manager.contains(request.request_id)
    assert manager.maybe_reserve(request)
    manager.release(request.request_id)
    with pytest.raises(KeyError):
        manager.release(request.request_id)
    assert manager.num_free_blocks == 10


def test_claims_are_unique_and_bounded() -> None:
    manager = make(max_batch_size=2)
    manager.external_claim("a", 0)
    with pytest.raises(ClaimError, match="'a' is already claimed"):
        manager.external_claim("a")
    for replica in (1, -1):
        with pytest.raises(UnknownReplicaError, match=f"got {replica}"):
            manager.external_claim("b", replica)
    assert not manager.contains("b")
    manager.external_claim("b")
    with pytest.raises(ClaimError, match="all 2 are claimed"):
        manager.external_claim("c")
    manager.release("a")
    manager.external_claim("c")


def test_a_batch_names_a_request_once() -> None:
    manager = make()
    request = claimed(manager, 4)
    for call in (manager.fetch, manager.step):
        with pytest.raises(RequestStateError, match="each request once"):
            call([request, request])
    assert pages(manager, request) == []


def test_a_preempted_request_must_be_rewound() -> None:
    manager = make()
    request = claimed(manager, 40)
    compute(manager, request)
    manager.release(request.request_id)
    manager.external_claim(request.request_id)
    with pytest.raises(RequestStateError, match=r"40 processed .* have 0"):
        manager.maybe_reserve(request)
    request.tokens.rewind_processing(40)
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == 32


def test_a_request_is_not_rewound_behind_what_is_shared() -> None:
    manager = make()
    request = claimed(manager, 40)
    compute(manager, request)
    request.tokens.rewind_processing(40)
    for call in (manager.maybe_reserve, lambda r: manager.fetch([r])):
        with pytest.raises(RequestStateError, match="32 were committed"):
            call(request)


def test_what_was_not_fetched_is_not_committed() -> None:
    manager = make()
    request = claimed(manager, 40)
    assert manager.maybe_reserve(request)
    request.update(7)
    with pytest.raises(RequestStateError, match=r"40 processed .* have 0"):
        manager.step([request])


def test_a_claim_is_for_one_salt_and_model() -> None:
    manager = make()
    request = claimed(manager, 40, cache_salt="secret")
    assert manager.maybe_reserve(request)
    request.cache_salt = "other"
    with pytest.raises(RequestStateError) as raised:
        manager.maybe_reserve(request)
    assert "secret" not in str(raised.value)


def test_images_are_not_offered() -> None:
    manager = make()
    request = claimed(manager, 40)
    request.images = [object()]  # type: ignore[attr-defined]
    with pytest.raises(NotOfferedError, match="has images"):
        manager.maybe_reserve(request)
