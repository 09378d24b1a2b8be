"""The options that the commands share, and how their values are read."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kvcache.cli.units import parse_size

PAGE_SIZES = (16, 32, 64, 128, 256)
"""The page sizes that the kernels take, in tokens."""


LARGEST_BLOCK = 64
"""The most tokens of a block of sparse attention."""


class DeviceKind(StrEnum):
    """Where the pages and the weights are."""

    CPU = "cpu"
    GPU = "gpu"


class KVDtype(StrEnum):
    """The element types of keys and values that the model's graphs take."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"
    FLOAT8_E4M3FN = "float8_e4m3fn"
    FLOAT8_E5M2 = "float8_e5m2"


def read_size(text: str) -> int:
    """Returns the bytes that an option's text means.

    Raises:
        BadParameter: If it means no size.
    """
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@dataclass(frozen=True, slots=True)
class SparseChoice:
    """What a person said about sparse attention."""

    flow: str
    """The name of a flow."""
    ratio: float
    """The share of its blocks that a sequence attends to."""


def read_sparse(text: str) -> SparseChoice:
    """Returns the flow and the ratio that an option's text means.

    Raises:
        BadParameter: If it means none.
    """
    from kvcache.compiler.registry import parse_sparse

    try:
        flow, ratio = parse_sparse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return SparseChoice(flow, ratio)


def _page_size(value: int) -> int:
    if value not in PAGE_SIZES:
        sizes = ", ".join(map(str, PAGE_SIZES))
        raise typer.BadParameter(f"wanted one of {sizes}, got {value}")
    return value


ModelPath = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="PATH",
        help="A GGUF file, or a Hugging Face folder, of a Llama model.",
    ),
]
PageSize = Annotated[
    int,
    typer.Option(callback=_page_size, help="Tokens per page."),
]
MaxPages = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Pages in the cache."),
]
KVMemory = Annotated[
    int | None,
    typer.Option(
        parser=read_size,
        metavar="SIZE",
        help="Memory of the cache, such as 64MiB; in place of --max-pages.",
    ),
]
Device = Annotated[
    DeviceKind, typer.Option(help="Where the model and its cache are.")
]
KVDtypeOption = Annotated[
    KVDtype,
    typer.Option(
        "--kv-dtype",
        help="What keys and values are kept in; of 8 bits, with a scale for"
        " each token's head.",
    ),
]
Sparse = Annotated[
    SparseChoice | None,
    typer.Option(
        parser=read_sparse,
        metavar="FLOW:RATIO",
        help="Let decode steps attend to a share of each sequence's blocks,"
        " such as quest:0.25.",
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option(min=1, metavar="N", help="Tokens in one answer.")
]
NoPrefixCache = Annotated[
    bool,
    typer.Option(
        "--no-prefix-cache", help="Compute shared prefixes again each time."
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        min=0, max=2**64 - 1, metavar="N", help="Of the random numbers."
    ),
]
Temperature = Annotated[
    float, typer.Option(min=0.0, help="0 takes the likeliest token.")
]
TopK = Annotated[
    int, typer.Option(min=0, help="Draw from the K likeliest; 0 is all.")
]
TopP = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Draw from the likeliest tokens that together reach P.",
    ),
]
MaxBatchTokens = Annotated[
    int, typer.Option(min=1, metavar="N", help="Tokens in one step.")
]
ChunkSize = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Prompt tokens of one request."),
]
NumSteps = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="Steps per fetch while nothing waits."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """What a person said about the cache.

    Raises:
        BadParameter: If both `max_pages` and `kv_memory` are given.
    """

    device: DeviceKind
    """Where the pages and the weights are."""
    page_size: int
    """Tokens per page."""
    max_pages: int | None
    """Pages in the cache."""
    kv_memory: int | None
    """Bytes of the cache, in place of `max_pages`."""
    prefix_cache: bool
    """Whether requests share the pages of equal prefixes."""
    kv_dtype: KVDtype = KVDtype.FLOAT32
    """What keys and values are kept in."""
    sparse: SparseChoice | None = None
    """Which blocks decode steps attend to; all of them if None."""

    @property
    def block_size(self) -> int:
        """Tokens that sparse attention takes or leaves together."""
        return min(self.page_size, LARGEST_BLOCK)

    def __post_init__(self) -> None:
        """Refuses two answers to one question."""
        if self.max_pages is not None and self.kv_memory is not None:
            raise typer.BadParameter(
                "wanted --max-pages or --kv-memory, got both"
            )
