"""The hits of real conversations are those of a trie over full pages."""

import json
from collections import Counter
from pathlib import Path

import pytest

from managers import claimed, make

PAGE_SIZE = 16


def trie_hit(trie: set[tuple[int, ...]], prompt: list[int]) -> int:
    end = 0
    while end + PAGE_SIZE < len(prompt) and (
        tuple(prompt[: end + PAGE_SIZE]) in trie
    ):
        end += PAGE_SIZE
    return end


@pytest.mark.parametrize("chunk_size", [32, 10**6])
def test_mtbench_in_order_hits_what_a_trie_hits(
    shared_data: Path, chunk_size: int
) -> None:
    path = shared_data / "traces" / "mtbench" / "requests.tokens.jsonl"
    lines = path.read_text("utf-8").splitlines()
    manager = make(
        num_pages=3000, max_seq_len=2048, enable_runtime_checks=False
    )
    trie: set[tuple[int, ...]] = set()
    expected: Counter[str] = Counter()
    for line in map(json.loads, lines):
        prompt, output = line["prompt_ids"], line["output_ids"]
        expected["hit"] += trie_hit(trie, prompt)
        expected["prompt"] += len(prompt)
        request = claimed(manager, prompt)
        while request.tokens.generated_length < len(output):
            if request.tokens.active_length > chunk_size:
                request.tokens.chunk(chunk_size)
            assert manager.maybe_reserve(request)
            manager.fetch([request])
            request.update(output[request.tokens.generated_length])
            manager.step([request])
        manager.release(request.request_id)
        ids = request.tokens.all[:-1].tolist()
        ends = range(PAGE_SIZE, len(ids) + 1, PAGE_SIZE)
        trie.update(tuple(ids[:end]) for end in ends)
    metrics = manager.metrics
    assert len(lines) == 40
    assert metrics.cache_tokens == expected["hit"]
    assert metrics.prompt_tokens == expected["prompt"]
    assert metrics.cache_hit_rate == pytest.approx(0.518, abs=5e-4)
