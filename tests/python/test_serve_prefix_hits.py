"""Prefix hits on real conversations, against a plain trie."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from max.driver import CPU

from kvcache import PagedKVCacheManager
from kvcache.serve import GenerationRequest, ServingLoop
from kvcache.serve.engine import cache_params
from models import small_config
from serving import Recorded, read_mtbench


@pytest.fixture(scope="module")
def mtbench(shared_data: Path) -> list[Recorded]:
    return read_mtbench(shared_data)


class Replay:
    """Answers with the recorded tokens: only the pages are real."""

    def __init__(self, recorded: list[Recorded]) -> None:
        self.answers = {tuple(r.prompt): r.output for r in recorded}

    def run(
        self,
        batch: list[GenerationRequest],
        kv_inputs: object,
        *,
        num_steps: int,
    ) -> npt.NDArray[np.int64]:
        del kv_inputs
        rows = []
        for request in batch:
            done = request.tokens.generated_length
            answer = self.answers[tuple(request.prompt_ids)]
            rows.append(answer[done : done + num_steps])
        return np.array(rows, np.int64).T


def trie_hits(recorded: list[Recorded], page_size: int) -> list[int]:
    """Returns each request's hit tokens in a plain radix trie of full pages.

    A request's last token is never a hit; what it leaves behind are the full
    pages of its prompt and of its answer but the last token, which was never
    fed.
    """
    trie: set[tuple[int, ...]] = set()
    hits = []
    for request in recorded:
        tokens = request.prompt
        pages = 0
        while (pages + 1) * page_size < len(tokens) and tuple(
            tokens[: (pages + 1) * page_size]
        ) in trie:
            pages += 1
        hits.append(pages * page_size)
        fed = tokens + request.output[:-1]
        for end in range(page_size, len(fed) + 1, page_size):
            trie.add(tuple(fed[:end]))
    return hits


@pytest.mark.parametrize("page_size", [16, 128])
def test_prefix_hits_are_those_of_a_radix_trie(
    mtbench: list[Recorded], page_size: int
) -> None:
    config = small_config(max_seq_len=1024)
    params = cache_params(config, page_size=page_size)
    num_pages = 65536 // page_size
    manager = PagedKVCacheManager(
        params,
        max_batch_size=1,
        max_seq_len=config.max_seq_len,
        num_layers=config.num_layers,
        devices=[CPU()],
        session=None,
        available_cache_memory=num_pages
        * params.bytes_per_page(config.num_layers),
        page_size=page_size,
        enable_runtime_checks=True,
    )
    loop = ServingLoop(manager, Replay(mtbench))
    hits = []
    for recorded in mtbench:
        request = GenerationRequest(
            recorded.prompt, max_new_tokens=len(recorded.output)
        )
        loop.submit(request)
        for _ in loop.run():
            pass
        assert request.output_ids == recorded.output
        hits.append(request.hit_tokens)
    assert hits == trie_hits(mtbench, page_size)
    assert sum(hits) > 0
    prompt_tokens = sum(len(r.prompt) for r in mtbench)
    rate = sum(hits) / prompt_tokens
    assert loop.manager.metrics.cache_hit_rate == pytest.approx(rate)
    if page_size == 16:
        assert rate == pytest.approx(0.518, abs=5e-4)
