"""What kernels on pages of latents are compiled for."""

from collections.abc import Iterator
from itertools import product

from .configuration import (
    FULL_RULES,
    Configuration,
    Kept,
    halves,
    neighbours,
)
from .rules import CAUSAL, Rules

LATENT_DIMS = ((24, 16), (96, 96), (328, 264), (576, 512))
"""The elements of a latent, and of its value."""

GROUPS = (1, 5, 48, 128)
"""The query heads that share a latent."""

DEEPSEEK_FLOAT32 = Configuration(
    dtype="float32",
    page_size=128,
    heads=(1, 16),
    head_dim=576,
    value_dim=512,
    layers=(1, 2),
    rotations=(halves(64),),
)
"""DeepSeek's latents, under the query heads of one device of eight."""

LATENTS = (
    DEEPSEEK_FLOAT32,
    Configuration(
        dtype="bfloat16",
        page_size=16,
        heads=(1, 128),
        head_dim=576,
        value_dim=512,
        layers=(0, 1),
        rotations=(),
    ),
    Configuration(
        dtype="float16",
        page_size=16,
        heads=(1, 1),
        head_dim=24,
        value_dim=16,
        layers=(1, 3),
        rotations=(neighbours(8),),
        rules=(
            CAUSAL,
            Rules(window=20, sink_tokens=4, has_sinks=True, softcap=5),
        ),
    ),
)
"""Each element type; one query head, those of a block, and many blocks'."""

QUANTIZED_LATENTS = (
    Configuration(
        kept=Kept("float8_e4m3fn", "token", 64),
        dtype="bfloat16",
        page_size=16,
        heads=(1, 16),
        head_dim=576,
        value_dim=512,
        layers=(1, 2),
        rotations=(),
    ),
    Configuration(
        kept=Kept("int8", "token"),
        dtype="float32",
        page_size=128,
        heads=(1, 3),
        head_dim=24,
        value_dim=16,
        layers=(0, 2),
        rotations=(),
        rules=(Rules(window=130, sink_tokens=4),),
    ),
)
"""Groups of the length of the rotated part, and whole latents."""


def full_latent_product(dtype: str, page_size: int) -> Iterator[Configuration]:
    """Yields each combination of sizes with one dtype and page size."""
    sizes = product(LATENT_DIMS, GROUPS)
    for number, ((head_dim, value_dim), group) in enumerate(sizes):
        num_layers = 1 + number % 3
        rope_dim = head_dim - value_dim
        yield Configuration(
            dtype=dtype,
            page_size=page_size,
            heads=(1, group),
            head_dim=head_dim,
            value_dim=value_dim,
            layers=(number % num_layers, num_layers),
            rotations=(halves(rope_dim),) if rope_dim else (),
            rules=(CAUSAL, FULL_RULES[number % len(FULL_RULES)]),
        )
