"""MAX's compiled graph computes the same bits over our pages as over theirs."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from beside_max import Managers, Pair, assert_equal_inputs, pair
from max_graphs import SHAPE, VOCAB_SIZE, compiled, run

DRAW = np.random.default_rng(11)
PREFIX = DRAW.integers(0, VOCAB_SIZE, 256).tolist()


@pytest.fixture(scope="module")
def model() -> Any:
    return compiled()


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


def test_llama_and_attention_are_equal_to_the_bit(
    model: Any, managers: Managers
) -> None:
    waiting = [
        prompt(num_own, num_shared, f"{num_own} of {num_shared}")
        for num_own, num_shared in [(30, 256), (3, 0), (200, 128), (127, 0)]
    ]
    batch: list[Pair] = []
    hits = []
    for step in range(9):
        if waiting:
            batch.append(claimed(managers, waiting.pop(0)))
        if step == 5:
            managers.both("release", batch.pop(0))
            batch.append(claimed(managers, prompt(1, 256, "again")))
        inputs = fetched(managers, batch)
        hits.append(batch[-1].theirs.cached_prefix_length)
        tokens = [p.tokens.active for p in batch]
        mine, theirs = (run(model, tokens, one) for one in inputs)
        for one, other in zip(mine, theirs, strict=True):
            assert_equal_bits(one, other)
        assert_equal_pages(managers)
        for request, logits in zip(batch, mine[1], strict=True):
            managers.advance(request, int(logits.argmax()))
    assert hits == [0, 0, 128, 0, 0, 256, 256, 256, 256]
    assert len({tuple(p.tokens.generated) for p in batch}) > 1


def test_a_hit_leaves_the_logits_as_they_are(
    model: Any, managers: Managers
) -> None:
    outputs = []
    for name in ("first", "second"):
        request = claimed(managers, prompt(0, 256, name))
        mine, _ = fetched(managers, [request])
        outputs.append(run(model, [request.tokens.active], mine))
        managers.advance(request, 5)
    assert request.mine.cached_prefix_length == 128
    (heads, logits), (last_heads, last_logits) = outputs
    np.testing.assert_allclose(last_logits, logits, atol=1e-5)
    np.testing.assert_allclose(last_heads, heads[128:], atol=1e-5)


def test_a_fetch_of_the_seed_feeds_a_graph_of_max(
    model: Any, managers: Managers
) -> None:
    request = claimed(managers, prompt(150, 0, "seed"))
    _, theirs = fetched(managers, [request])
    (ragged,) = managers.mine.fetch([request.mine])
    mine = ragged.per_device()
    assert mine.kv_blocks is ragged.blocks
    assert_equal_inputs(mine, theirs)
    tokens = [request.tokens.active]
    pairs = zip(
        run(model, tokens, mine), run(model, tokens, theirs), strict=True
    )
    for one, other in pairs:
        assert_equal_bits(one, other)
