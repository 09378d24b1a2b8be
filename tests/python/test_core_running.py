"""A batch that runs: the Mojo core's beside the one over the plain core."""

from typing import Any

import numpy as np
import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from kvcache.core.native import NativeCore
from kvcache.core.plain import PlainCore
from kvcache.core.running import RunningRows, StepMemory
from kvcache.errors import (
    ClaimError,
    InsufficientPagesError,
    KVCacheError,
    RequestStateError,
    SequenceTooLongError,
)

TOKENS = st.lists(st.sampled_from([0, 0, 0, 1]), min_size=1, max_size=13)
IDS = st.sampled_from([np.int32, np.int64])
COUNTERS = (
    "num_free",
    "num_cached",
    "num_evicted",
    "num_copied",
    "num_offloaded",
    "num_onloaded",
    "num_host_cached",
)


def step_memory(rows: int, columns: int) -> StepMemory:
    return StepMemory(
        np.zeros(rows, np.uint32),
        np.zeros((rows, columns), np.uint32),
        np.zeros((1, 2), np.uint32),
    )


def as_lists(answer: Any) -> Any:
    if hasattr(answer, "hits"):
        return answer.hits.tolist(), answer.moves.tolist()
    return None if answer is None else answer.tolist()


class RunningMachine(RuleBasedStateMachine):
    """Two cores do the same and must agree on every entry and every error."""

    @initialize(
        page_size=st.integers(1, 4),
        num_pages=st.integers(1, 30),
        num_host_pages=st.sampled_from([0, 0, 4]),
        rows=st.integers(1, 5),
        columns=st.integers(1, 8),
        caching=st.sampled_from([True, True, True, False]),
    )
    def start(
        self, page_size, num_pages, num_host_pages, rows, columns, caching
    ) -> None:
        kinds = {
            "enable_prefix_caching": caching,
            "num_host_pages": num_host_pages,
        }
        self.cores = (
            PlainCore(num_pages, page_size, rows, **kinds),
            NativeCore(num_pages, page_size, rows, **kinds),
        )
        self.memories = [step_memory(rows, columns) for _ in self.cores]
        self.batches: list[RunningRows] = [
            core.open_batch(memory)
            for core, memory in zip(self.cores, self.memories, strict=True)
        ]

    def both(self, name: str, *args: Any, **kwargs: Any) -> None:
        outcomes = []
        for batch in self.batches:
            try:
                granted = getattr(batch, name)(*args, **kwargs)
            except KVCacheError as error:
                counts = getattr(error, "wanted", 0), getattr(error, "free", 0)
                outcomes.append((type(error).__name__, *counts))
                event(f"{name}: {type(error).__name__}")
            else:
                outcomes.append(("done", as_lists(granted), 0))
                if getattr(granted, "hits", np.zeros(1)).any():
                    event("hit")
        assert outcomes[0] == outcomes[1]

    @rule(
        prompts=st.lists(TOKENS, min_size=1, max_size=2),
        dtype=IDS,
        namespace=st.sampled_from([b"x", b"x", b"y"]),
        min_partial=st.sampled_from([None, 1, 2]),
    )
    def admit(self, prompts, dtype, namespace, min_partial) -> None:
        arrays = [np.array(prompt, dtype) for prompt in prompts]
        self.both("admit", namespace, arrays, min_partial=min_partial)

    @rule()
    def admit_too_wide_an_id(self) -> None:
        self.both("admit", b"x", [np.array([2**31])])

    @rule()
    def settle(self) -> None:
        self.both("settle")

    @rule(data=st.data(), steps=st.integers(1, 4))
    def advance(self, data, steps) -> None:
        for _ in range(steps):
            tokens = data.draw(
                st.lists(
                    st.sampled_from([0, 0, 1]),
                    min_size=len(self.batches[0]),
                    max_size=len(self.batches[0]),
                )
            )
            self.both("advance", np.array(tokens, np.int64))

    @rule(data=st.data())
    def leave(self, data) -> None:
        rows = st.integers(0, max(0, len(self.batches[0]) - 1))
        count = len(self.batches[0])
        chosen = data.draw(st.lists(rows, unique=True, max_size=count))
        self.both("leave", chosen if count else [])

    @rule()
    def forget(self) -> None:
        for core in self.cores:
            core.forget_cached()

    @invariant()
    def agree(self) -> None:
        plain, native = self.batches
        assert len(plain) == len(native)
        rows = len(plain)
        for name in ("cache_lengths", "lookup_table"):
            wanted, got = (getattr(m, name)[:rows] for m in self.memories)
            np.testing.assert_array_equal(got, wanted, err_msg=name)
        wanted, got = (memory.max_lengths for memory in self.memories)
        np.testing.assert_array_equal(got, wanted)
        for row in range(rows):
            pages = plain.pages(row).tolist()
            assert native.pages(row).tolist() == pages
            table = self.memories[1].lookup_table[row].tolist()
            null = [self.cores[0].num_pages] * (len(table) - len(pages))
            assert table == pages + null
        for name in COUNTERS:
            wanted, got = (getattr(core, name) for core in self.cores)
            assert got == wanted, name
        for core in self.cores:
            core.check()


TestRunning = RunningMachine.TestCase
TestRunning.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None
)


@pytest.fixture(params=[PlainCore, NativeCore])
def core(request) -> Any:
    return request.param(8, 4, 3, enable_prefix_caching=True)


def test_a_batch_by_hand(core) -> None:
    memory = step_memory(3, 4)
    batch = core.open_batch(memory)
    prompt = np.arange(6)
    assert batch.admit(b"", [prompt, prompt[:3]]).hits.tolist() == [0, 0]
    assert memory.lookup_table[:2].tolist() == [[0, 1, 8, 8], [2, 8, 8, 8]]
    assert memory.cache_lengths[:2].tolist() == [0, 0]
    assert memory.max_lengths.tolist() == [[6, 6]]

    batch.advance(np.array([70, 71]))
    assert memory.cache_lengths[:2].tolist() == [6, 3]
    assert memory.max_lengths.tolist() == [[1, 7]]
    batch.advance(np.array([72, 73]))  # The second row's page is full: page 3.
    assert memory.lookup_table[1].tolist() == [2, 3, 8, 8]

    hit = batch.admit(b"", [np.arange(9)]).hits
    assert hit.tolist() == [4]  # Page 0 was committed by the first advance.
    assert memory.lookup_table[2].tolist() == [0, 4, 5, 8]
    batch.leave([0])
    assert len(batch) == 2
    assert memory.lookup_table[:2].tolist() == [[2, 3, 8, 8], [0, 4, 5, 8]]
    assert memory.cache_lengths[:2].tolist() == [4, 4]


def test_equal_rows_go_on_with_one_page(core) -> None:
    memory = step_memory(3, 4)
    batch = core.open_batch(memory)
    batch.admit(b"", [np.arange(4), np.arange(4)])
    assert memory.lookup_table[:2, 0].tolist() == [0, 1]
    batch.settle()
    assert memory.lookup_table[:2, 0].tolist() == [0, 0]
    assert core.num_free == 7


@pytest.mark.parametrize(
    ("error", "prompts"),
    [
        (ClaimError, [[1]] * 4),
        (InsufficientPagesError, [[1] * 16, [2] * 16, [3]]),
        (SequenceTooLongError, [[1], [1] * 17]),
        (RequestStateError, [[1], []]),
        (RequestStateError, [[1], [-(2**31) - 1]]),
    ],
)
def test_prompts_that_do_not_fit_change_nothing(core, error, prompts) -> None:
    memory = step_memory(3, 4)
    batch = core.open_batch(memory)
    with pytest.raises(error):
        batch.admit(b"", [np.array(prompt, np.int64) for prompt in prompts])
    assert len(batch) == 0
    assert core.num_free == 8
    assert not memory.lookup_table.any()
    batch.admit(b"", [np.arange(4)] * 3)  # Every sequence is still there.


def test_a_step_without_pages_changes_nothing(core) -> None:
    memory = step_memory(3, 4)
    batch = core.open_batch(memory)
    batch.admit(b"", [np.arange(16), np.arange(100, 116)])
    batch.leave([1])
    batch.admit(b"", [np.arange(200, 212), np.array([9])])
    before = memory.cache_lengths.copy(), memory.lookup_table.copy()
    with pytest.raises(SequenceTooLongError):
        batch.advance(np.array([1, 2, 3]))  # The first row's table is full.
    np.testing.assert_array_equal(memory.cache_lengths, before[0])
    np.testing.assert_array_equal(memory.lookup_table, before[1])
    batch.leave([0])
    batch.advance(np.array([2, 3]))
    assert memory.cache_lengths[:2].tolist() == [12, 1]


@pytest.mark.parametrize("tokens", [[1, 2], [[1]], [1.5], []])
def test_one_integer_for_each_row_is_wanted(core, tokens) -> None:
    batch = core.open_batch(step_memory(3, 4))
    batch.admit(b"", [np.arange(4)])
    with pytest.raises(RequestStateError):
        batch.advance(np.array(tokens))


@pytest.mark.parametrize("rows", [[1], [-1], [0, 0]])
def test_only_rows_that_are_there_can_leave(core, rows) -> None:
    batch = core.open_batch(step_memory(3, 4))
    batch.admit(b"", [np.arange(4)])
    with pytest.raises(RequestStateError):
        batch.leave(rows)
    assert len(batch) == 1


def test_rows_that_leave_are_integers(core) -> None:
    batch = core.open_batch(step_memory(3, 4))
    batch.admit(b"", [np.arange(4)])
    with pytest.raises(TypeError, match="integer"):
        batch.leave([0.0])
    assert len(batch) == 1


def unaligned(ids: np.ndarray) -> np.ndarray:
    memory = np.frombuffer(b"." + ids.tobytes(), np.uint8)[1:]
    return memory.view(ids.dtype)


@pytest.mark.parametrize(
    "of",
    [
        lambda ids: ids.astype(np.int32),
        lambda ids: ids.astype(np.int8),
        lambda ids: ids.astype(">i8"),
        lambda ids: np.repeat(ids, 2)[::2],
        lambda ids: ids[::-1].copy()[::-1],
        unaligned,
    ],
)
def test_token_ids_are_read_however_they_lie(core, of) -> None:
    batch = core.open_batch(step_memory(3, 4))
    batch.admit(b"", [of(np.arange(9)), of(np.arange(5))])
    batch.settle()
    batch.leave([0])
    assert batch.admit(b"", [np.arange(9)]).hits.tolist() == [8]


@pytest.mark.parametrize("rows", [np.array([0, 2]), range(0, 3, 2), (2, 0)])
def test_rows_leave_however_they_are_named(core, rows) -> None:
    memory = step_memory(3, 4)
    batch = core.open_batch(memory)
    batch.admit(b"", np.arange(12).reshape(3, 4))
    batch.leave(rows)
    assert len(batch) == 1
    assert memory.lookup_table[0].tolist() == [1, 8, 8, 8]


@pytest.mark.parametrize(
    "prompt",
    [
        np.arange(4, dtype=np.uint32),
        np.arange(4.0),
        np.ones(4, np.bool_),
        np.ones((2, 2), np.int64),
        np.array(4),
    ],
)
def test_only_rows_of_integers_are_prompts(core, prompt) -> None:
    batch = core.open_batch(step_memory(3, 4))
    with pytest.raises(RequestStateError, match="a row of at least one"):
        batch.admit(b"", [np.arange(4), prompt])
    assert len(batch) == 0
    assert core.num_free == 8
