"""Prompts with latent attention, whose pages a manager hands out."""

from collections.abc import Sequence

import numpy as np
import pytest

from kernels.batch import row_offsets
from kernels.buffers import to_array, to_buffer
from kernels.latent_attention import LatentAttention, Prompt
from kernels.latent_configuration import DEEPSEEK_FLOAT32
from kernels.models import CompiledKernels, Kernels
from kernels.rules import CAUSAL
from kvcache import PagedKVCacheManager, Request
from managers import HOST, claimed, make, pages

PAGE_SIZE = DEEPSEEK_FLOAT32.page_size


@pytest.fixture
def manager() -> PagedKVCacheManager:
    num_layers = DEEPSEEK_FLOAT32.num_layers
    kind = {"n_kv_heads": 16, "head_dim": 576, "is_mla": True}
    manager = make(
        page_size=PAGE_SIZE, max_seq_len=512, num_layers=num_layers, kind=kind
    )
    (inputs,) = manager.fetch([])
    inputs.blocks.to_numpy()[:] = np.nan
    return manager


def step(
    kernels: Kernels,
    manager: PagedKVCacheManager,
    layer: LatentAttention,
    batch: Sequence[tuple[Request, Prompt]],
) -> None:
    """Runs one step of a batch, and checks what comes out."""
    requests = [request for request, _ in batch]
    for request in requests:
        assert manager.maybe_reserve(request)
    (inputs,) = manager.fetch(requests)
    spans = [
        slice(each.tokens.processed_length, each.tokens.current_position)
        for each in requests
    ]
    offsets = row_offsets([span.stop - span.start for span in spans])

    def rows(arrays: Sequence[np.ndarray]) -> np.ndarray:
        parts = zip(arrays, spans, strict=True)
        return np.concatenate([array[span] for array, span in parts])

    latents = rows([prompt.kept() for _, prompt in batch])
    queries = rows([layer.absorbed_queries(prompt) for _, prompt in batch])
    given = [to_buffer(offsets, HOST)]
    kernels.run("store", *inputs, to_buffer(latents, HOST), *given)
    (output,) = kernels.run(
        str(CAUSAL), *inputs, to_buffer(queries, HOST), *given
    )
    np.testing.assert_allclose(
        layer.values_of(to_array(output)),
        rows([layer.by_definition(prompt) for _, prompt in batch]),
        rtol=1e-4,
        atol=1e-4,
    )
    for request in requests:
        request.update(7)
    manager.step(requests)


def test_a_shared_prefix_is_attended_to_as_if_it_were_computed(
    compiled_kernels: CompiledKernels, manager: PagedKVCacheManager
) -> None:
    kernels = compiled_kernels.of(DEEPSEEK_FLOAT32)
    rng = np.random.default_rng(1)
    layer = LatentAttention.drawn(rng, DEEPSEEK_FLOAT32)
    prompt = layer.prompt(rng, PAGE_SIZE + 10)
    tokens = [3] * (PAGE_SIZE + 5)
    first = claimed(manager, tokens)
    step(kernels, manager, layer, [(first, prompt)])

    second = claimed(manager, [*tokens, 4, 5])
    assert manager.maybe_reserve(second)
    assert second.tokens.processed_length == PAGE_SIZE
    step(kernels, manager, layer, [(second, prompt), (first, prompt)])

    assert pages(manager, second)[0] == pages(manager, first)[0]
    step(kernels, manager, layer, [(first, prompt), (second, prompt)])
