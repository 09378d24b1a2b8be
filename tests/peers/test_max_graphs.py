"""MAX's compiled graphs compute the same bits over our pages as over theirs."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import max_graphs
from beside_max import Managers, Pair, assert_equal_inputs, pair
from max_graphs import QKV_WIDTH, SHAPE, VOCAB_SIZE, run_attention, run_llama

DRAW = np.random.default_rng(11)
PREFIX = DRAW.integers(0, VOCAB_SIZE, 256).tolist()
ROWS = DRAW.normal(size=(VOCAB_SIZE, QKV_WIDTH)).astype(np.float32)
"""What the queries, keys and values of each token are."""


@pytest.fixture(scope="module")
def graphs() -> dict[str, Any]:
    return max_graphs.compile_all()


@pytest.fixture
def managers() -> Managers:
    return Managers(num_pages=24, max_batch_size=4, **SHAPE)


def prompt(num_own: int, num_shared: int, name: str) -> Pair:
    own = DRAW.integers(0, VOCAB_SIZE, num_own).tolist()
    return pair(PREFIX[:num_shared] + own, name)


def claimed(managers: Managers, request: Pair) -> Pair:
    managers.both("claim", request)
    return request


def fetched(managers: Managers, batch: list[Pair]) -> list[Any]:
    """Both managers' inputs, on pages of equal numbers."""
    for request in batch:
        assert managers.alloc(request)
    mine, theirs = managers.inputs(batch)
    assert_equal_inputs(mine, theirs)
    return [mine, theirs]


def assert_equal_bits(
    mine: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]
) -> None:
    assert np.isfinite(mine).all()
    np.testing.assert_array_equal(mine.view(np.uint32), theirs.view(np.uint32))


def assert_equal_pages(managers: Managers) -> None:
    mine, theirs = (
        manager.get_device_buffer(0).values[0].to_numpy()
        for manager in (managers.mine, managers.theirs)
    )
    assert_equal_bits(mine, theirs)
    assert mine[:-1].any()
    assert not mine[-1].any()


def test_attention_is_equal_to_the_bit(
    graphs: dict[str, Any], managers: Managers
) -> None:
    first = [prompt(n, 0, f"first {n}") for n in (1, 127, 128)]
    batch = [claimed(managers, p) for p in (*first, prompt(40, 256, "shared"))]
    for step in range(4):
        if step == 2:  # Its first two pages are there.
            managers.both("release", batch.pop(0))
            batch.append(claimed(managers, prompt(9, 256, "again")))
        inputs = fetched(managers, batch)
        if step == 2:
            assert batch[-1].tokens.processed_length == 256
        qkv = [ROWS[p.tokens.active] for p in batch]
        mine, theirs = (
            run_attention(graphs["attention"], qkv, one) for one in inputs
        )
        assert_equal_bits(mine, theirs)
        assert_equal_pages(managers)
        for place, request in enumerate(batch):
            managers.advance(request, (7 * place + step) % VOCAB_SIZE)


def test_a_llama_of_max_is_equal_to_the_bit(
    graphs: dict[str, Any], managers: Managers
) -> None:
    waiting = [
        prompt(num_own, num_shared, f"{num_own} of {num_shared}")
        for num_own, num_shared in [(30, 256), (3, 0), (200, 128), (1, 256)]
    ]
    batch: list[Pair] = []
    hits = []
    for _ in range(8):
        if waiting:
            batch.append(claimed(managers, waiting.pop(0)))
        inputs = fetched(managers, batch)
        hits.append(batch[-1].theirs.cached_prefix_length)
        tokens = [p.tokens.active for p in batch]
        mine, theirs = (
            run_llama(graphs["llama"], tokens, one) for one in inputs
        )
        assert mine.shape == (len(batch), VOCAB_SIZE)
        assert_equal_bits(mine, theirs)
        assert_equal_pages(managers)
        for request, logits in zip(batch, mine, strict=True):
            managers.advance(request, int(logits.argmax()))
    assert hits[:4] == [0, 0, 128, 256]
    assert len({tuple(p.tokens.generated) for p in batch}) > 1


def test_a_hit_leaves_the_logits_as_they_are(
    graphs: dict[str, Any], managers: Managers
) -> None:
    twins = [prompt(0, 256, "first"), prompt(0, 256, "second")]
    logits = []
    for request in twins:
        claimed(managers, request)
        mine, _ = fetched(managers, [request])
        tokens = [request.tokens.active]
        logits.append(run_llama(graphs["llama"], tokens, mine))
        managers.advance(request, 5)
    assert twins[1].mine.cached_prefix_length == 128
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)


def test_a_fetch_of_the_seed_feeds_a_graph_of_max(
    graphs: dict[str, Any], managers: Managers
) -> None:
    request = claimed(managers, prompt(150, 0, "seed"))
    (theirs,) = fetched(managers, [request])[1:]
    (ragged,) = managers.mine.fetch([request.mine])
    mine = ragged.per_device()
    assert mine.kv_blocks is ragged.blocks
    assert_equal_inputs(mine, theirs)
    tokens = [request.tokens.active]
    assert_equal_bits(
        run_llama(graphs["llama"], tokens, mine),
        run_llama(graphs["llama"], tokens, theirs),
    )
