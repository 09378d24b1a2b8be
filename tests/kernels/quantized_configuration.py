"""What kernels on quantised pages are compiled for."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from .configuration import (
    COVERING,
    DECODING,
    PREFILLING,
    Configuration,
    Kept,
    full_product,
    halves,
    neighbours,
)
from .latent_configuration import LATENTS, QUANTIZED_LATENTS
from .rules import CAUSAL, Rules

QUANTIZED = (
    Configuration(
        kept=Kept("int8", "token"),
        dtype="float32",
        page_size=16,
        heads=(3, 3),
        head_dim=8,
        layers=(1, 3),
        rotations=(halves(8), neighbours(4)),
        rules=(CAUSAL, Rules(window=40, sink_tokens=4, softcap=5)),
    ),
    Configuration(
        kept=Kept("float8_e4m3fn", "token", 32),
        dtype="bfloat16",
        page_size=64,
        heads=(2, 4),
        head_dim=128,
        layers=(0, 2),
        rotations=(halves(128),),
        rules=(CAUSAL, Rules(window=100, has_sinks=True)),
    ),
    Configuration(
        kept=Kept("float8_e5m2", "token"),
        dtype="float16",
        page_size=32,
        heads=(1, 8),
        head_dim=40,
        layers=(0, 1),
        rotations=(neighbours(10),),
    ),
    Configuration(
        kept=Kept("int8", "token", 8),
        dtype="float16",
        page_size=256,
        heads=(2, 1),
        head_dim=192,
        layers=(1, 2),
        rotations=(neighbours(64),),
    ),
    Configuration(
        kept=Kept("int8", "head"),
        dtype="bfloat16",
        page_size=128,
        heads=(2, 1),
        head_dim=64,
        layers=(2, 3),
        rotations=(halves(64),),
    ),
    Configuration(
        kept=Kept("float8_e4m3fn", "head"),
        dtype="float16",
        page_size=256,
        heads=(2, 4),
        head_dim=80,
        layers=(0, 1),
        rotations=(neighbours(32),),
    ),
    Configuration(
        kept=Kept("float8_e5m2", "head"),
        dtype="float32",
        page_size=16,
        heads=(3, 3),
        head_dim=16,
        layers=(1, 2),
        rotations=(halves(16),),
        rules=(CAUSAL, Rules(has_sinks=True, softcap=2)),
    ),
    Configuration(
        kept=Kept("int8", "tensor"),
        dtype="float16",
        page_size=64,
        heads=(1, 1),
        head_dim=256,
        layers=(0, 1),
        rotations=(halves(256),),
    ),
    Configuration(
        kept=Kept("float8_e4m3fn", "tensor"),
        dtype="float32",
        page_size=32,
        heads=(2, 1),
        head_dim=16,
        layers=(1, 2),
        rotations=(neighbours(8),),
    ),
    Configuration(
        kept=Kept("float8_e5m2", "tensor"),
        dtype="bfloat16",
        page_size=128,
        heads=(3, 3),
        head_dim=8,
        layers=(2, 3),
        rotations=(halves(4),),
    ),
)
"""Each element type with each granularity, and each with each computed in.

Groups are a whole head of no power of two (40), a whole power of two, and parts
of a head; every page size is there.
"""

DECODING_QUANTIZED = (
    Configuration(
        kept=Kept("float8_e4m3fn", "token"),
        dtype="bfloat16",
        page_size=16,
        heads=(2, 4),
        head_dim=128,
        layers=(1, 2),
        rotations=(),
    ),
    Configuration(
        kept=Kept("float8_e5m2", "head"),
        dtype="bfloat16",
        page_size=32,
        heads=(3, 3),
        head_dim=64,
        layers=(0, 2),
        rotations=(),
        rules=(CAUSAL, Rules(window=20, sink_tokens=17, has_sinks=True)),
    ),
    Configuration(
        kept=Kept("int8", "token"),
        dtype="float16",
        page_size=128,
        heads=(1, 12),
        head_dim=256,
        layers=(0, 1),
        rotations=(),
        rules=(CAUSAL, Rules(window=130, softcap=30)),
    ),
)
"""What a GPU's decode kernel takes: each type of codes, rows of four to sixteen
pieces."""

PREFILLING_QUANTIZED = tuple(
    configuration
    for configuration in (*QUANTIZED, *DECODING_QUANTIZED)
    if configuration.has_prefill_kernel
)
"""What a GPU's prefill kernel takes: each type of codes, each granularity."""

COMPILED = (*COVERING, *QUANTIZED, *LATENTS, *QUANTIZED_LATENTS)
"""All that the tests compile, in one module."""

ON_GPU = tuple(
    dict.fromkeys(COMPILED + DECODING + DECODING_QUANTIZED + PREFILLING)
)
"""All that the tests of a GPU compile."""


def full_quantized_product(
    kv_dtype: str, page_size: int
) -> Iterator[Configuration]:
    """Yields each granularity with each type computed in, heads in turn."""
    sizes = list(full_product("float32", page_size))
    kinds = product(
        ("tensor", "head", "token", "token8"),
        ("float32", "bfloat16", "float16"),
    )
    for number, (granularity, dtype) in enumerate(kinds):
        name, group_size = granularity, None
        if granularity == "token8":
            name, group_size = "token", 8
        # 7 and the number of sizes have no common divisor.
        yield replace(
            sizes[(7 * number + page_size) % len(sizes)],
            dtype=dtype,
            kept=Kept(kv_dtype, name, group_size),
        )
