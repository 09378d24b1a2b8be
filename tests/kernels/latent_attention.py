"""Multi-head latent attention, by its definition and in its absorbed form.

By definition, each head makes a key and a value of its own from a token's
latent. What it makes them with can be moved to the queries and to the results:
then the latents themselves are keys and values, and nothing else is kept.

See DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .batch import Batch, Pages
from .buffers import Array
from .checks import poisoned_pool
from .configuration import Configuration
from .latents import LatentKernels
from .rope_shift import angles

KEY_DIM = 40
"""The elements of a head's key that are made from the latent."""

VALUE_DIM = 24
"""The elements of a head's value."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one sequence's tokens give to attention, float64."""

    latents: Array  # [num_tokens, latent_dim]
    rotated_keys: Array  # [num_tokens, rope_dim]
    queries: Array  # [num_tokens, num_heads, KEY_DIM]
    rotated_queries: Array  # [num_tokens, num_heads, rope_dim]

    def kept(self) -> Array:
        """Returns what the cache holds, float32 `[num_tokens, head_dim]`."""
        rows = np.concatenate([self.latents, self.rotated_keys], axis=1)
        return rows.astype(np.float32)


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """One layer's weights, float64."""

    key_up: Array  # [num_heads, KEY_DIM, latent_dim]
    value_up: Array  # [num_heads, VALUE_DIM, latent_dim]
    rope_dim: int
    scale: float

    @classmethod
    def drawn(
        cls, rng: np.random.Generator, configuration: Configuration
    ) -> "LatentAttention":
        """Draws weights that keep the size of what they multiply."""
        latent_dim = configuration.value_dim
        assert latent_dim is not None
        key_up, value_up = (
            rng.standard_normal((configuration.num_q_heads, dim, latent_dim))
            * latent_dim**-0.5
            for dim in (KEY_DIM, VALUE_DIM)
        )
        rope_dim = configuration.head_dim - latent_dim
        return cls(key_up, value_up, rope_dim, configuration.scale)

    def prompt(self, rng: np.random.Generator, num_tokens: int) -> Prompt:
        """Draws a sequence; scores are wide, so that a wrong key shows."""
        num_heads, _, latent_dim = self.key_up.shape
        turned = angles(list(range(num_tokens)), self.rope_dim)
        return Prompt(
            rng.standard_normal((num_tokens, latent_dim)),
            rotated(rng.standard_normal((num_tokens, self.rope_dim)), turned),
            4 * rng.standard_normal((num_tokens, num_heads, KEY_DIM)),
            rotated(
                4 * rng.standard_normal((num_tokens, num_heads, self.rope_dim)),
                turned[:, None],
            ),
        )

    def by_definition(self, prompt: Prompt) -> Array:
        """Returns `[num_tokens, num_heads, VALUE_DIM]`, causally attended."""
        num_tokens = len(prompt.latents)
        own_keys = np.einsum("tl,hkl->htk", prompt.latents, self.key_up)
        values = np.einsum("tl,hvl->htv", prompt.latents, self.value_up)
        scores = np.einsum("thk,hsk->hts", prompt.queries, own_keys)
        scores += np.einsum(
            "thr,sr->hts", prompt.rotated_queries, prompt.rotated_keys
        )
        hidden = np.triu(np.ones((num_tokens, num_tokens), np.bool_), 1)
        scores = np.where(hidden, -np.inf, scores * self.scale)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        return np.einsum("hts,hsv->thv", weights, values)

    def absorbed_queries(self, prompt: Prompt) -> Array:
        """Returns what the cache is asked, `[num_tokens, heads, head_dim]`."""
        queries = np.einsum("thk,hkl->thl", prompt.queries, self.key_up)
        return np.concatenate([queries, prompt.rotated_queries], axis=2).astype(
            np.float32
        )

    def values_of(self, results: Array) -> Array:
        """Returns what weighted latents, `[rows, heads, latent_dim]`, mean."""
        return np.einsum("thl,hvl->thv", results, self.value_up)


def rotated(rows: Array, turned: Array) -> Array:
    """Returns rows turned by each position's angles, pairs half apart."""
    x, y = np.split(rows, 2, axis=-1)
    cosine, sine = np.split(turned.astype(np.float64), 2, axis=-1)
    return np.concatenate([x * cosine - y * sine, y * cosine + x * sine], -1)


def check_absorbed(latent_kernels: LatentKernels) -> None:
    """Checks steps of prefill, chunked prefill and decode in one pool."""
    configuration = latent_kernels.kernels.configuration
    page = configuration.page_size
    steps = ([page - 3, 0, 20], [5, page, 0], [1, 1, 1])
    rng = np.random.default_rng(0)
    layer = LatentAttention.drawn(rng, configuration)
    prompts = [layer.prompt(rng, sum(new)) for new in zip(*steps, strict=True)]
    table = np.array([[4, 1], [0, 3], [2, 5]], np.uint32)
    empty = Batch(lengths=[], page_size=page)
    pool = latent_kernels.kernels.elements(
        poisoned_pool(configuration, empty, num_pages=6)
    )
    cached = [0] * len(prompts)
    for new in steps:
        batch = Batch(
            lengths=list(zip(cached, new, strict=True)), page_size=page
        )
        pages = Pages(table, 6)
        latent_kernels.store(
            pool,
            rows_of([prompt.kept() for prompt in prompts], batch),
            batch,
            pages,
        )
        results = latent_kernels.kernels.attention(
            pool,
            rows_of(map(layer.absorbed_queries, prompts), batch),
            batch,
            pages,
        )
        np.testing.assert_allclose(
            layer.values_of(results),
            rows_of(map(layer.by_definition, prompts), batch),
            rtol=1e-4,
            atol=1e-4,
        )
        cached = [a + b for a, b in zip(cached, new, strict=True)]


def rows_of(sequences: Iterable[Array], batch: Batch) -> Array:
    """Returns the rows of a batch's new tokens, end to end."""
    return np.concatenate(
        [
            rows[cached : cached + new]
            for rows, (cached, new) in zip(
                sequences, batch.lengths, strict=True
            )
        ]
    )
