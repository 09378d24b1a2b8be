"""What choosing blocks and attending to them are compiled for."""

from dataclasses import dataclass

from .configuration import Configuration, Kept
from .rules import CAUSAL, Rules

MEF_NAME = "sparse.mef"
"""The file of compiled graphs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseCase:
    """The sizes that one pair of graphs is compiled for."""

    configuration: Configuration
    """The cache; its one rule is what the attention goes by."""
    block_size: int
    reserved_first: int = 1
    reserved_last: int = 1
    top_k: int = 0

    def __str__(self) -> str:
        return (
            f"{self.configuration}_b{self.block_size}_first"
            f"{self.reserved_first}_last{self.reserved_last}_top{self.top_k}"
        )

    @property
    def rules(self) -> Rules:
        (rules,) = self.configuration.rules
        return rules


def cache_of(
    dtype: str,
    page_size: int,
    heads: tuple[int, int],
    head_dim: int,
    *,
    layers: tuple[int, int] = (0, 1),
    rules: Rules = CAUSAL,
    kept: Kept | None = None,
) -> Configuration:
    """Returns the sizes of a cache."""
    return Configuration(
        dtype=dtype,
        page_size=page_size,
        heads=heads,
        head_dim=head_dim,
        layers=layers,
        rotations=(),
        rules=(rules,),
        kept=kept,
    )


CASES = (
    SparseCase(
        configuration=cache_of("float32", 16, (3, 3), 8, layers=(1, 3)),
        block_size=16,
        reserved_first=0,
    ),
    SparseCase(
        configuration=cache_of(
            *("bfloat16", 128, (2, 4), 128),
            layers=(1, 2),
            rules=Rules(has_sinks=True),
        ),
        block_size=32,
        reserved_last=2,
        top_k=3,
    ),
    SparseCase(
        configuration=cache_of(
            *("float16", 256, (2, 1), 192), rules=Rules(softcap=5)
        ),
        block_size=16,
        reserved_first=2,
    ),
    SparseCase(
        configuration=cache_of(
            *("bfloat16", 64, (2, 4), 128),
            kept=Kept("float8_e4m3fn", "token", 32),
        ),
        block_size=32,
    ),
    SparseCase(
        configuration=cache_of(
            *("float16", 128, (2, 1), 80),
            layers=(1, 2),
            kept=Kept("float8_e5m2", "head"),
        ),
        block_size=32,
        reserved_last=3,
    ),
    SparseCase(
        configuration=cache_of(
            *("bfloat16", 32, (1, 1), 64), kept=Kept("int8", "tensor")
        ),
        block_size=16,
    ),
)
"""Every element type and granularity, every page size, blocks that are pages
and parts of them; all that the tests compile for the CPU."""


CODES_OF_HEADS = SparseCase(
    configuration=cache_of(
        *("bfloat16", 256, (2, 2), 64),
        layers=(1, 2),
        kept=Kept("float8_e4m3fn", "head"),
    ),
    block_size=64,
)
"""Codes that the decode kernel of a GPU reads."""

ON_GPU = (
    *CASES,
    CODES_OF_HEADS,
    SparseCase(
        configuration=cache_of(
            *("bfloat16", 64, (1, 8), 64),
            rules=Rules(has_sinks=True, softcap=30),
        ),
        block_size=64,
        top_k=1,
    ),
    SparseCase(
        configuration=cache_of(
            *("float32", 32, (2, 1), 16), kept=Kept("int8", "token")
        ),
        block_size=16,
    ),
    SparseCase(
        configuration=cache_of("bfloat16", 16, (1, 1), 40),
        block_size=16,
        reserved_first=0,
    ),
    SparseCase(
        configuration=cache_of("float32", 256, (1, 2), 256),
        block_size=256,
    ),
    SparseCase(
        configuration=cache_of("bfloat16", 32, (4, 1), 256, layers=(1, 2)),
        block_size=32,
    ),
    SparseCase(
        configuration=cache_of("float16", 128, (2, 16), 128),
        block_size=64,
        top_k=2,
    ),
    SparseCase(
        configuration=cache_of(
            *("bfloat16", 256, (8, 4), 128),
            kept=Kept("float8_e4m3fn", "token"),
        ),
        block_size=64,
    ),
    SparseCase(
        configuration=cache_of(
            *("float16", 128, (1, 12), 256), kept=Kept("int8", "token")
        ),
        block_size=16,
    ),
)
"""Also what the decode kernel takes paths of its own for, or does not take:
heads that could be read in pairs, two tiles of query heads, scales of tokens;
odd head sizes, blocks of whole large pages."""

CHOOSES_MANY = CASES[2]
"""What also chooses from very many blocks."""
