"""What kernels are compiled for, and which of it the tests compile."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from kvcache.quantization import Granularity, Quantization

from .rules import CAUSAL, Rules

PAGE_SIZES = (16, 32, 64, 128, 256)
HEAD_DIMS = (8, 16, 40, 64, 80, 128, 192, 256)
HEADS = ((2, 1), (3, 3), (2, 4), (1, 8), (1, 1))
"""Key-value heads, and the query heads that share each of them."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """How rotary embedding turns a head."""

    rope_dim: int
    interleaved: bool

    def __str__(self) -> str:
        pairs = "neighbours" if self.interleaved else "halves"
        return f"{pairs}_{self.rope_dim}"


def halves(rope_dim: int) -> Rotation:
    """Pairs half of `rope_dim` apart, as Hugging Face has them."""
    return Rotation(rope_dim, interleaved=False)


def neighbours(rope_dim: int) -> Rotation:
    """Pairs of neighbours, as GGUF has them."""
    return Rotation(rope_dim, interleaved=True)


@dataclass(frozen=True, slots=True)
class Kept:
    """How a pool holds its elements in 8 bits."""

    dtype: str
    granularity: str
    group_size: int | None = None

    def __str__(self) -> str:
        return f"{self.dtype}_{self.granularity}{self.group_size or ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The sizes that one set of graphs is compiled for."""

    dtype: str
    page_size: int
    heads: tuple[int, int]
    """Key-value heads, and the query heads that share each of them."""
    head_dim: int
    layers: tuple[int, int]
    """The layer that the ops use, and how many there are."""
    rotations: tuple[Rotation, ...]
    rules: tuple[Rules, ...] = (CAUSAL,)
    kept: Kept | None = None
    """How the pool differs from `dtype`, if it does."""
    value_dim: int | None = None
    """The leading elements of a latent that are its value, if there are latents
    in the place of keys and values."""

    def __str__(self) -> str:
        kept = "" if self.kept is None else f"{self.kept}_"
        value = "" if self.value_dim is None else f"_v{self.value_dim}"
        return (
            f"{kept}{self.dtype}_p{self.page_size}_kv{self.num_kv_heads}"
            f"_q{self.num_q_heads}_d{self.head_dim}{value}"
        )

    @property
    def num_kv_heads(self) -> int:
        return self.heads[0]

    @property
    def num_q_heads(self) -> int:
        return self.heads[0] * self.heads[1]

    @property
    def layer(self) -> int:
        return self.layers[0]

    @property
    def num_layers(self) -> int:
        return self.layers[1]

    @property
    def row(self) -> tuple[int, int]:
        """The shape of one token's keys, or of its values."""
        return self.num_kv_heads, self.head_dim

    @property
    def kv_dim(self) -> int:
        """How many rows a token has: a key and a value, or one latent."""
        return 2 if self.value_dim is None else 1

    @property
    def page(self) -> tuple[int, int, int, int, int]:
        """The shape of one page."""
        return self.kv_dim, self.num_layers, self.page_size, *self.row

    @property
    def scales_of_page(self) -> tuple[int, ...]:
        """The shape of one page's scales."""
        assert self.kept is not None
        quantization = Quantization(
            granularity=Granularity(self.kept.granularity),
            group_size=self.kept.group_size,
        )
        return (
            self.kv_dim,
            self.num_layers,
            *quantization.scales_per_page(
                page_size=self.page_size,
                num_kv_heads=self.num_kv_heads,
                head_dim=self.head_dim,
            ),
        )

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5

    @property
    def has_prefill_kernel(self) -> bool:
        """Whether a GPU's tensor cores serve prompts of these sizes."""
        is_one_scale = self.kept is None or self.kept.group_size in (
            None,
            self.head_dim,
        )
        return (
            is_one_scale
            and self.value_dim is None
            and self.dtype != "float32"
            and self.head_dim % 16 == 0
        )

    @property
    def has_decode_kernel(self) -> bool:
        """Whether a GPU has a kernel for single new tokens of these sizes."""
        element_bytes = 2 if self.kept is None else 1
        pieces = self.head_dim * element_bytes // 16
        return self.has_prefill_kernel and pieces in (4, 8, 16, 32)


ONNX_FLOAT32 = Configuration(
    dtype="float32",
    page_size=16,
    heads=(3, 3),
    head_dim=8,
    layers=(1, 3),
    rotations=(halves(8), neighbours(8), halves(4), neighbours(4)),
    rules=(
        CAUSAL,
        Rules(window=5),
        Rules(window=40, sink_tokens=4, has_sinks=True, softcap=5),
    ),
)
"""The sizes of the `onnx` package's cases."""

ONNX_BFLOAT16 = Configuration(
    dtype="bfloat16",
    page_size=64,
    heads=(3, 3),
    head_dim=8,
    layers=(1, 2),
    rotations=(neighbours(4),),
    rules=(CAUSAL, Rules(has_sinks=True)),
)

LARGE_PAGES = Configuration(
    dtype="bfloat16",
    page_size=128,
    heads=(2, 4),
    head_dim=128,
    layers=(0, 2),
    rotations=(neighbours(64),),
    rules=(CAUSAL, Rules(window=128, has_sinks=True), Rules(softcap=30)),
)

COVERING = (
    ONNX_FLOAT32,
    ONNX_BFLOAT16,
    LARGE_PAGES,
    Configuration(
        dtype="bfloat16",
        page_size=16,
        heads=(1, 1),
        head_dim=40,
        layers=(0, 1),
        rotations=(halves(10),),
        rules=(CAUSAL, Rules(window=1, sink_tokens=1, softcap=2)),
    ),
    Configuration(
        dtype="float32",
        page_size=32,
        heads=(2, 1),
        head_dim=16,
        layers=(0, 3),
        rotations=(neighbours(16),),
        rules=(CAUSAL, Rules(window=33, sink_tokens=40)),
    ),
    Configuration(
        dtype="bfloat16",
        page_size=32,
        heads=(1, 8),
        head_dim=64,
        layers=(2, 3),
        rotations=(halves(64),),
        rules=(CAUSAL, Rules(window=128, sink_tokens=4, softcap=50)),
    ),
    Configuration(
        dtype="float32",
        page_size=64,
        heads=(2, 4),
        head_dim=80,
        layers=(1, 2),
        rotations=(halves(32),),
        rules=(CAUSAL, Rules(has_sinks=True, softcap=2)),
    ),
    Configuration(
        dtype="float32",
        page_size=256,
        heads=(1, 1),
        head_dim=256,
        layers=(0, 1),
        rotations=(halves(256),),
        rules=(CAUSAL, Rules(window=300, sink_tokens=4, has_sinks=True)),
    ),
    Configuration(
        dtype="float16",
        page_size=256,
        heads=(2, 1),
        head_dim=192,
        layers=(1, 2),
        rotations=(neighbours(64),),
        rules=(CAUSAL, Rules(window=16, has_sinks=True, softcap=5)),
    ),
)
"""Every value and, of the pairs, those that take paths of their own.

Such are heads that no wide vector divides (40, 80), heads wider than a GPU
block of threads (192, 256), pages smaller and larger than the keys that are
scored at once, and a rotated part whose half is odd (10). Windows are below, at
and above a page; sink tokens end in the first page and behind it.
"""

FULL_RULES = (
    Rules(window=1),
    Rules(window=64, sink_tokens=4, softcap=5),
    Rules(window=100, sink_tokens=33, has_sinks=True),
    Rules(has_sinks=True, softcap=2),
)
"""What the full product goes through in turn."""


def full_product(dtype: str, page_size: int) -> Iterator[Configuration]:
    """Yields each combination of heads with one dtype and page size."""
    sizes = product(HEADS, HEAD_DIMS)
    for number, (heads, head_dim) in enumerate(sizes):
        num_layers = 1 + number % 3
        part = head_dim // 4 * 2
        yield Configuration(
            dtype=dtype,
            page_size=page_size,
            heads=heads,
            head_dim=head_dim,
            layers=(number % num_layers, num_layers),
            rotations=(
                Rotation(head_dim, interleaved=bool(number % 2)),
                Rotation(part, interleaved=not number % 2),
            ),
            rules=(CAUSAL, FULL_RULES[number % len(FULL_RULES)]),
        )


DECODING = (
    LARGE_PAGES,
    Configuration(
        dtype="bfloat16",
        page_size=16,
        heads=(3, 3),
        head_dim=64,
        layers=(1, 2),
        rotations=(),
        rules=(CAUSAL, Rules(window=20, sink_tokens=17, has_sinks=True)),
    ),
    Configuration(
        dtype="bfloat16",
        page_size=32,
        heads=(2, 16),
        head_dim=128,
        layers=(0, 1),
        rotations=(),
        rules=(CAUSAL, Rules(softcap=30)),
    ),
    Configuration(
        dtype="bfloat16",
        page_size=64,
        heads=(4, 1),
        head_dim=256,
        layers=(0, 1),
        rotations=(),
        rules=(CAUSAL, Rules(window=64)),
    ),
    Configuration(
        dtype="bfloat16",
        page_size=256,
        heads=(1, 5),
        head_dim=32,
        layers=(0, 1),
        rotations=(),
    ),
)
"""What a GPU's decode kernel takes: heads alone and in pairs, one and two tiles
of query heads, rows of four to thirty-two pieces."""

PREFILLING = tuple(
    configuration
    for configuration in (
        *COVERING,
        *DECODING[1:],
        Configuration(
            dtype="bfloat16",
            page_size=16,
            heads=(2, 5),
            head_dim=96,
            layers=(1, 2),
            rotations=(),
            rules=(
                CAUSAL,
                Rules(window=100, sink_tokens=33, has_sinks=True, softcap=5),
            ),
        ),
        Configuration(
            dtype="float16",
            page_size=64,
            heads=(1, 12),
            head_dim=80,
            layers=(0, 1),
            rotations=(),
            rules=(CAUSAL, Rules(window=70)),
        ),
        Configuration(
            dtype="bfloat16",
            page_size=32,
            heads=(2, 1),
            head_dim=16,
            layers=(0, 1),
            rotations=(),
        ),
        Configuration(
            dtype="bfloat16",
            page_size=32,
            heads=(2, 4),
            head_dim=96,
            layers=(1, 2),
            rotations=(),
            rules=(
                CAUSAL,
                Rules(window=3, sink_tokens=2**31 - 1),
                Rules(window=3, sink_tokens=2**32 - 1),
            ),
        ),
        Configuration(
            dtype="float16",
            page_size=256,
            heads=(1, 8),
            head_dim=112,
            layers=(0, 1),
            rotations=(),
        ),
    )
    if configuration.has_prefill_kernel
)
"""What a GPU's prefill kernel takes: panels of 16, 32 and 64 elements, groups
that a tile's rows are a multiple of and others, and sink tokens beyond what 31
and 32 bits count."""
