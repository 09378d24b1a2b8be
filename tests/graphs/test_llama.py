"""The decoder on a small random model, against a plain NumPy one."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef

from kvcache.graphs.llama import llama_graph
from kvcache.model import load_model
from kvcache.ops import CacheInputTypes
from kvcache.serve import GenerationRequest
from llama_reference import LlamaReference, greedy
from models import STORIES260K_SIZES, small_config, write_stories260k
from serving import (
    Recorded,
    Served,
    Setting,
    sampled,
    served_pair,
    small_served,
)

VOCABULARY = STORIES260K_SIZES["vocab_size"]


def prompts(*lengths: int) -> list[list[int]]:
    """Draws prompts that begin alike."""
    rng = np.random.default_rng(sum(lengths))
    shared = rng.integers(3, VOCABULARY, 40).tolist()
    return [
        (shared + rng.integers(3, VOCABULARY, n).tolist())[:n] for n in lengths
    ]


@pytest.fixture(scope="module")
def served() -> Served:
    return small_served()


@pytest.fixture(scope="module")
def wanted(served: Served) -> list[Recorded]:
    """Requests at page edges, and what the NumPy model says to them."""
    lengths = (1, 15, 16, 17, 31, 32, 33, 64, 70, 100)
    return [
        Recorded(p, greedy(served.model, p, max_new_tokens=24))
        for p in prompts(*lengths)
    ]


@pytest.mark.parametrize(
    "setting",
    [
        Setting(),
        Setting(prefix_cache=False),
        Setting(num_steps=1),
        Setting(chunk_size=7),
        Setting(max_batch_size=1),
        Setting(num_pages=12),
        Setting(num_pages=9, chunk_size=5, num_steps=3, max_batch_size=10),
    ],
    ids=str,
)
def test_loop_gives_the_tokens_of_the_numpy_model(
    served: Served, wanted: list[Recorded], setting: Setting
) -> None:
    requests, loop = served.serve(wanted, setting)
    assert [r.output_ids for r in requests] == [w.output for w in wanted]
    if setting.num_pages < 64:
        assert loop.stats.num_preemptions > 0
    if setting.prefix_cache:
        assert loop.stats.hit_tokens > 0


def test_sampled_tokens_depend_on_the_seed_alone(served: Served) -> None:
    def serve(setting: Setting, seed: int) -> list[list[int]]:
        requests = [
            GenerationRequest(p, max_new_tokens=24, sampling=sampled(seed + i))
            for i, p in enumerate(prompts(5, 20, 33, 48))
        ]
        loop = served.loop(setting)
        for request in requests:
            loop.submit(request)
        for _ in loop.run():
            pass
        return [r.output_ids for r in requests]

    base = serve(Setting(), seed=1)
    assert serve(Setting(), seed=1) == base
    assert serve(Setting(num_steps=1, max_batch_size=2), seed=1) == base
    assert serve(Setting(num_pages=8), seed=1) == base  # with preemption
    assert serve(Setting(), seed=99) != base
    assert len({tuple(output) for output in base}) == len(base)


def test_greedy_rows_of_a_sampled_batch_stay_greedy(
    served: Served, wanted: list[Recorded]
) -> None:
    loop = served.loop(Setting())
    greedy_one = GenerationRequest(wanted[4].prompt, max_new_tokens=24)
    drawn = GenerationRequest(
        wanted[5].prompt, max_new_tokens=24, sampling=sampled(3)
    )
    loop.submit(greedy_one)
    loop.submit(drawn)
    for _ in loop.run():
        pass
    assert greedy_one.output_ids == wanted[4].output


class Logits:
    """The logits of a compiled model, on a pool of its own."""

    def __init__(self, served: Served, kv_dtype: str = "float32") -> None:
        served.loop(Setting(kv_dtype=kv_dtype))  # compiles it
        self.model = served.model
        self.kv_dtype = kv_dtype
        self.graph = served.compiled[16, kv_dtype].greedy
        config = self.model.config
        self.shape = (2, config.num_layers, 16, config.num_kv_heads, 8)

    def pools(self, num_pages: int) -> list[np.ndarray]:
        """Returns pages that nobody has written to, and their scales."""
        shape = num_pages, *self.shape
        if self.kv_dtype == "float32":
            return [np.full(shape, np.nan, np.float32)]
        assert self.kv_dtype == "int8"
        scales = np.full((*shape[:-1], 1), np.nan, np.float32)
        return [np.full(shape, -128, np.int8), scales]

    def feed(
        self, chunks: list[list[list[int]]], seed: int
    ) -> Iterator[np.ndarray]:
        """Yields `[batch, vocab]` after each chunk of every sequence."""
        batch = len(chunks[0])
        columns = 1 + sum(max(map(len, c)) for c in chunks) // 16 + 1
        pages = np.random.default_rng(seed).permutation(batch * columns)
        table = pages.astype(np.uint32).reshape(batch, columns)
        pool, *scales = self.pools(batch * columns + 1)
        lengths = np.zeros(batch, np.uint32)
        for chunk in chunks:
            new = np.array([len(tokens) for tokens in chunk], np.uint32)
            longest = [[new.max(), (lengths + new).max()]]
            inputs = [
                np.concatenate(chunk).astype(np.int64),
                np.concatenate([[0], new.cumsum()]).astype(np.uint32),
                pool,
                lengths,
                table,
                np.array(longest, np.uint32),
                *scales,
            ]
            _, logits = self.graph.execute(*map(Buffer.from_numpy, inputs))
            yield logits.to_numpy()
            lengths = lengths + new


@pytest.fixture(scope="module")
def logits(served: Served) -> Logits:
    return Logits(served)


@settings(
    max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_logits_equal_the_numpy_model_in_any_chunks(
    logits: Logits, data: st.DataObject, seed: int
) -> None:
    token = st.integers(0, VOCABULARY - 1)
    batch = data.draw(st.integers(1, 3))
    chunk = st.lists(token, min_size=1, max_size=40)
    chunks = data.draw(
        st.lists(
            st.lists(chunk, min_size=batch, max_size=batch),
            min_size=1,
            max_size=4,
        )
    )
    references = [LlamaReference(logits.model) for _ in range(batch)]
    for fed, got in zip(chunks, logits.feed(chunks, seed), strict=True):
        for row, reference in enumerate(references):
            expected = reference.feed(fed[row])[-1]
            np.testing.assert_allclose(got[row], expected, atol=2e-3, rtol=1e-3)


@pytest.mark.slow
def test_logits_of_a_quantized_cache_stay_near(served: Served) -> None:
    logits = Logits(served, "int8")
    rng = np.random.default_rng(0)
    chunks = [
        [rng.integers(0, VOCABULARY, length).tolist() for length in lengths]
        for lengths in ((40, 3), (1, 30), (1, 1))
    ]
    references = [LlamaReference(logits.model) for _ in range(2)]
    errors, sizes = [], []
    for fed, got in zip(chunks, logits.feed(chunks, 0), strict=True):
        for row, reference in enumerate(references):
            expected = reference.feed(fed[row])[-1]
            errors.append(got[row] - expected)
            sizes.append(expected)
    assert 0 < np.std(errors) < 0.02 * np.std(sizes)


def test_cache_that_does_not_fit_the_model_is_refused() -> None:
    cache = CacheInputTypes(
        dtype=DType.float32,
        num_layers=2,
        page_size=16,
        num_kv_heads=2,
        head_dim=16,
        device=DeviceRef.CPU(),
    )
    with pytest.raises(ValueError, match="head_dim 8, got 16"):
        llama_graph(small_config(), cache)


def test_stories260k_tells_its_golden_stories(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "models/stories260K"
    write_stories260k(source, tmp_path)
    golden = json.loads((source / "golden_greedy.json").read_text())
    recorded = [
        Recorded(story["prompt_ids"], story["ids"][len(story["prompt_ids"]) :])
        for story in golden.values()
    ]
    served, _ = served_pair(load_model(tmp_path))
    for setting in (Setting(), Setting(num_pages=32, chunk_size=3)):
        requests, _ = served.serve(recorded, setting)
        assert [r.output_ids for r in requests] == [r.output for r in recorded]
