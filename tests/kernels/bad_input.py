"""Gives a kernel one bad input: `python -m kernels.bad_input NAME`.

An assert ends the process, so each has a process of its own.
"""

import sys
from collections.abc import Callable

import numpy as np
from max.driver import Buffer

from .batch import NO_PAGE, Batch, Indices, Pages
from .configuration import ONNX_FLOAT32
from .host_graphs import kernels_on_host
from .models import Kernels

PAGE_SIZE = ONNX_FLOAT32.page_size
NUM_PAGES = 2


class LongerThanItsTables(Batch):
    """A batch whose offsets have a sequence that the tables lack."""

    @property
    def cache_lengths(self) -> Indices:
        return super().cache_lengths[:1]


def store(
    kernels: Kernels, batch: Batch, table: list[list[int]], layer: int = 1
) -> None:
    rows = np.ones((batch.num_rows, *ONNX_FLOAT32.row), np.float32)
    pages = Pages(np.array(table, np.uint32), NUM_PAGES)
    kernels.store_to_layer(pool(kernels), rows, batch, pages, layer=layer)


def pool(kernels: Kernels) -> Buffer:
    shape = (NUM_PAGES + 1, *ONNX_FLOAT32.page)
    return kernels.elements(np.zeros(shape, np.float32))


def one(cached: int) -> Batch:
    """One sequence with one new token."""
    return Batch(lengths=[(cached, 1)], page_size=PAGE_SIZE)


def too_far_for_freqs(kernels: Kernels) -> None:
    width = (ONNX_FLOAT32.num_q_heads + 2 * 3) * ONNX_FLOAT32.head_dim
    rotation = ONNX_FLOAT32.rotations[0]
    kernels.rope_store(
        pool(kernels),
        np.ones((1, width), np.float32),
        np.ones((5, rotation.rope_dim), np.float32),
        one(5),
        Pages(np.array([[0]], np.uint32), NUM_PAGES),
        rotation=rotation,
    )


def attend_to_a_stray_page(kernels: Kernels) -> None:
    heads = ONNX_FLOAT32.num_q_heads, ONNX_FLOAT32.head_dim
    kernels.attention(
        pool(kernels),
        np.ones((1, *heads), np.float32),
        one(PAGE_SIZE),
        Pages(np.array([[NO_PAGE, 0]], np.uint32), NUM_PAGES),
    )


def copy(source: int, target: int) -> Callable[[Kernels], None]:
    pairs = np.array([(source, target)], np.uint32)
    return lambda kernels: kernels.copy_pages(pool(kernels), pairs)


MESSAGES: dict[str, tuple[str, Callable[[Kernels], None]]] = {
    "stray_page": (
        "page out of range",
        lambda kernels: store(kernels, one(0), [[NUM_PAGES + 7]]),
    ),
    "null_page": (
        "page out of range",
        lambda kernels: store(kernels, one(0), [[NUM_PAGES]]),
    ),
    "attention_to_a_stray_page": ("page out of range", attend_to_a_stray_page),
    "token_beyond_the_table": (
        "token beyond the lookup table",
        lambda kernels: store(kernels, one(2 * PAGE_SIZE), [[0, 1]]),
    ),
    "sequence_beyond_the_table": (
        "batch_idx out of range",
        lambda kernels: store(
            kernels,
            LongerThanItsTables(lengths=[(0, 1), (0, 1)], page_size=PAGE_SIZE),
            [[0]],
        ),
    ),
    "layer": (
        "layer out of range",
        lambda kernels: store(
            kernels, one(0), [[0]], layer=ONNX_FLOAT32.num_layers
        ),
    ),
    "position_beyond_freqs": ("position beyond freqs", too_far_for_freqs),
    "copy_from_the_null_page": ("source page out of range", copy(NUM_PAGES, 0)),
    "copy_to_the_null_page": ("target page out of range", copy(0, NUM_PAGES)),
}
"""What each bad input must be answered with."""


if __name__ == "__main__":
    _, act = MESSAGES[sys.argv[1]]
    act(kernels_on_host().of(ONNX_FLOAT32))
