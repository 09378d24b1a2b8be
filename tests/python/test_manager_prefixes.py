from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvcache import (
    KVCacheMetrics,
    PagedKVCacheManager,
    Request,
)
from kvcache.core.digest import keyed_digest
from managers import claimed, compute, make, pages
from page_oracle import PageOracle


def test_equal_tokens_under_other_salts_or_models_are_not_shared() -> None:
    manager = make(max_batch_size=9, num_pages=40)
    compute(manager, claimed(manager, 40))
    for fields, hit in [
        ({"cache_salt": ""}, 0),
        ({"cache_salt": "a"}, 0),
        ({"model_name": "other"}, 0),
        ({}, 32),
    ]:
        request = claimed(manager, 40, **fields)
        assert manager.maybe_reserve(request)
        assert request.tokens.processed_length == hit
        compute(manager, request)
    salted = claimed(manager, 40, cache_salt="a")
    assert manager.adopt_prefix(salted) == 32


def test_a_strided_prompt_finds_its_pages() -> None:
    manager = make()
    compute(manager, claimed(manager, list(range(0, 80, 2))))
    request = claimed(manager, 1)
    request.tokens._array = np.arange(80)[::2]
    request.tokens._num_tokens = request.tokens._window_end = 40
    assert not request.tokens.all.flags.c_contiguous
    assert manager.adopt_prefix(request) == 32


def test_a_chunk_that_is_cached_as_a_whole_moves_on() -> None:
    manager = make(num_pages=20)
    compute(manager, claimed(manager, 100))  # Six full pages.
    request = claimed(manager, 140)
    request.tokens.chunk(32)
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == 96
    assert request.tokens.active.tolist() == list(range(96, 128))
    assert request.tokens.actively_chunked
    assert len(pages(manager, request)) == 8  # For the chunk, not the prompt.
    compute(manager, request)
    assert request.tokens.active.tolist() == list(range(128, 140))


def test_a_chunk_that_moves_to_the_end_is_no_chunk() -> None:
    manager = make(num_pages=20)
    compute(manager, claimed(manager, 100))
    request = claimed(manager, 100)
    request.tokens.chunk(40)
    assert manager.maybe_reserve(request)
    assert request.tokens.active.tolist() == [96, 97, 98, 99]
    assert not request.tokens.actively_chunked


def test_a_hit_inside_a_chunk_shortens_it() -> None:
    manager = make(num_pages=20)
    compute(manager, claimed(manager, 40))
    request = claimed(manager, 100)
    request.tokens.chunk(48)
    assert manager.maybe_reserve(request)
    assert request.tokens.active.tolist() == list(range(32, 48))
    assert request.tokens.actively_chunked


def test_the_hit_is_the_same_however_a_prompt_is_cut() -> None:
    def hit(cut: Callable[[PagedKVCacheManager, Request], None]) -> int:
        manager = make(num_pages=30)
        compute(manager, claimed(manager, 100))
        request = claimed(manager, 150)
        cut(manager, request)
        while request.tokens.generated_length == 0:
            if request.tokens.active_length > 16:
                request.tokens.chunk(16)
            assert manager.maybe_reserve(request)
            compute(manager, request)
        metrics = manager.metrics
        assert metrics.prompt_tokens == 250
        return metrics.cache_tokens

    def reserve_whole(manager: PagedKVCacheManager, request: Request) -> None:
        assert manager.maybe_reserve(request)

    def adopt(manager: PagedKVCacheManager, request: Request) -> None:
        assert manager.adopt_prefix(request) == 96
        assert len(pages(manager, request)) == 6

    def chunk_first(manager: PagedKVCacheManager, request: Request) -> None:
        del manager
        request.tokens.chunk(16)

    assert [hit(cut) for cut in (reserve_whole, adopt, chunk_first)] == [96] * 3


def test_a_chunk_reserves_its_pages_only() -> None:
    manager = make()
    request = claimed(manager, 100)
    request.tokens.chunk(20)
    assert manager.maybe_reserve(request)
    assert len(pages(manager, request)) == 2


def test_what_another_request_computed_meanwhile_is_taken_over() -> None:
    manager = make()
    late = claimed(manager, 60)
    assert manager.maybe_reserve(late)
    own = pages(manager, late)
    early = claimed(manager, 50)
    compute(manager, early)
    assert manager.maybe_reserve(late)
    assert late.tokens.processed_length == 48
    assert pages(manager, late) == [*pages(manager, early)[:3], own[3]]
    assert manager.num_free_blocks == 10 - 4 - 1


def test_a_trunk_outlives_its_branches() -> None:
    manager = make(num_pages=6, page_size=2)
    trunk = [1, 2, 3, 4]
    for branch in ([5, 6, 9], [7, 8, 9]):
        request = claimed(manager, trunk + branch)
        compute(manager, request)
        manager.release(request.request_id)
    stranger = claimed(manager, [50, 51, 52, 53, 54, 55, 56])
    compute(manager, stranger)  # Takes the blank pages and the branches.
    assert manager.metrics.evicted_pages == 2
    heir = claimed(manager, [*trunk, 5, 6, 9])
    assert manager.adopt_prefix(heir) == 4


def test_resetting_forgets_what_no_request_holds() -> None:
    manager = make(num_pages=20)
    gone, here = claimed(manager, 40), claimed(manager, range(100, 140))
    compute(manager, gone, here)
    manager.release(gone.request_id)
    manager.reset_prefix_cache()
    assert manager.adopt_prefix(claimed(manager, 40)) == 0
    assert manager.adopt_prefix(claimed(manager, range(100, 140))) == 32
    assert manager.num_free_blocks == 17


def test_steady_decode_digests_full_pages_only() -> None:
    calls = []
    keyed = keyed_digest()

    def counted(parent: bytes, content: bytes) -> bytes:
        calls.append(len(content))
        return keyed(parent, content)

    manager = make(digest=counted)
    request = claimed(manager, 17)
    compute(manager, request)
    calls.clear()
    for _ in range(14):
        assert manager.maybe_reserve(request)
        compute(manager, request)
    assert calls == []
    compute(manager, request)
    assert calls == [16 * 8]


def test_without_caching_nothing_is_shared() -> None:
    manager = make(caching=False)
    compute(manager, claimed(manager, 40))
    request = claimed(manager, 40)
    assert manager.maybe_reserve(request)
    assert manager.adopt_prefix(request) == 0
    assert request.tokens.processed_length == 0
    assert manager.metrics == KVCacheMetrics(input_tokens=80)


@given(
    prompts=st.lists(
        st.lists(st.integers(0, 1), min_size=1, max_size=24), max_size=12
    ),
    page_size=st.sampled_from([1, 2, 3, 16]),
    chunk_size=st.sampled_from([1, 2, 5, 100]),
)
def test_hits_in_order_are_those_of_a_trie(
    prompts: list[list[int]], page_size: int, chunk_size: int
) -> None:
    manager = make(num_pages=400, page_size=page_size, max_seq_len=30)
    oracle = PageOracle(page_size, manager.total_num_pages)
    trie: set[tuple[int, ...]] = set()
    hits = 0
    for prompt in prompts:
        end = 0
        while end + page_size < len(prompt) and (
            tuple(prompt[: end + page_size]) in trie
        ):
            end += page_size
        hits += end
        request = claimed(manager, prompt)
        while request.tokens.generated_length < 2:
            if request.tokens.active_length > chunk_size:
                request.tokens.chunk(chunk_size)
            assert manager.maybe_reserve(request)
            (inputs,) = manager.fetch([request])
            oracle.run([request], inputs)
            request.update(1)
            manager.step([request])
        manager.release(request.request_id)
        ids = request.tokens.all[:-1].tolist()
        trie.update(
            tuple(ids[:full])
            for full in range(page_size, len(ids) + 1, page_size)
        )
    assert manager.metrics.cache_tokens == hits
    assert manager.metrics.prompt_tokens == sum(map(len, prompts))
    assert manager.num_free_blocks == manager.total_num_pages
