"""Cached keys that turn on to new positions: properties on any device."""

import numpy as np

from kvcache import reference

from .batch import Batch, Pages
from .buffers import Array, to_array
from .checks import TOLERANCE, drawn
from .configuration import Rotation
from .models import Kernels

EPSILON = {"float32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-12}
"""The most that rounding to the element type changes a number, relatively."""


def angles(distances: list[int], rope_dim: int) -> Array:
    """Returns cosines, then sines, of the angles of distances, a row each."""
    half = rope_dim // 2
    frequencies = 10000.0 ** (-np.arange(half) / half)
    angle = np.array(distances, np.float64)[:, None] * frequencies
    return np.concatenate([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def check_rope_shift(
    kernels: Kernels, rotation: Rotation, *, seed: int
) -> None:
    """Checks that slots of a shift turn, in all layers, and no others.

    All that must not be touched is poison, and so are the values. Of latents
    turns what comes behind the part that is a value.
    """
    configuration, rng = kernels.configuration, np.random.default_rng(seed)
    begin = configuration.value_dim or 0
    page = configuration.page_size
    edge = int(rng.integers(1, page - 1))
    spans = [(0, 0, page), (1, 0, edge), (1, edge + 1, page), (3, 2, 2)]
    spans.append((4, page - 1, page))
    rows = rng.integers(0, 3, (len(spans), 1))
    order = rng.permutation(5)
    shifts = np.hstack([np.array(spans), rows]).astype(np.uint32)
    shifts[:, 0] = order[shifts[:, 0]]
    freqs = rng.standard_normal((3, rotation.rope_dim), np.float32)
    expected = np.full((6, *configuration.page), np.nan, np.float32)
    for target, first, last, _ in shifts.tolist():
        shape = (configuration.num_layers, last - first, *configuration.row)
        expected[target, 0, :, first:last] = drawn(rng, configuration, *shape)
    pool = kernels.elements(expected)
    reference.rope_shift(
        expected,
        freqs,
        shifts,
        interleaved=rotation.interleaved,
        begin=begin,
    )

    kernels.rope_shift(pool, freqs, shifts, rotation=rotation)

    actual = to_array(pool)
    tolerance = TOLERANCE[configuration.dtype]
    np.testing.assert_allclose(actual, expected, **tolerance)
    for rest in (np.s_[..., :begin], np.s_[..., begin + rotation.rope_dim :]):
        np.testing.assert_array_equal(actual[rest], expected[rest])


def check_compaction(kernels: Kernels, rotation: Rotation) -> None:
    """Checks that a context that loses its first page is as computed anew.

    The tokens behind it keep their pages; their keys turn back by a page.
    """
    configuration, rng = kernels.configuration, np.random.default_rng(0)
    page = configuration.page_size
    before = Batch(lengths=[(0, 2 * page + 5)], page_size=page)
    after = Batch(lengths=[(0, page + 5)], page_size=page)
    heads = configuration.num_q_heads + 2 * configuration.num_kv_heads
    width = heads * configuration.head_dim
    qkv = drawn(rng, configuration, before.num_rows, width)
    freqs = angles(list(range(before.num_rows)), rotation.rope_dim)
    zeros = np.zeros((4, *configuration.page), np.float32)
    moved, computed = kernels.elements(zeros), kernels.elements(zeros)
    table = np.array([[2, 0, 1]], np.uint32)
    shifts = np.array([(0, 0, page, 0), (1, 0, 5, 0)], np.uint32)
    kernels.rope_store(
        *(moved, qkv, freqs, before, Pages(table, 3)), rotation=rotation
    )
    kernels.rope_store(
        *(computed, qkv[page:], freqs, after, Pages(table[:, 1:], 3)),
        rotation=rotation,
    )

    kernels.rope_shift(
        moved, angles([-page], rotation.rope_dim), shifts, rotation=rotation
    )

    kept = np.s_[:2, :, configuration.layer]
    wanted = to_array(computed)[kept]
    largest = np.abs(wanted).max()
    np.testing.assert_allclose(
        to_array(moved)[kept],
        wanted,
        rtol=0,
        # Two roundings here and one there, of pairs that turn; and in float32
        # the rounding of the angles' cosines.
        atol=8 * EPSILON[configuration.dtype] * largest,
    )


def error_of_many_shifts(
    kernels: Kernels, rotation: Rotation, num_shifts: int
) -> tuple[float, float]:
    """Returns the largest and the mean error behind shifts by a token each.

    Both are relative to the mean size of an element.
    """
    configuration, rng = kernels.configuration, np.random.default_rng(0)
    keys = drawn(rng, configuration, 2, *configuration.page)
    pool = kernels.elements(keys)
    shifts = np.array([(0, 0, configuration.page_size, 0)], np.uint32)
    for _ in range(num_shifts):
        kernels.rope_shift(
            pool, angles([1], rotation.rope_dim), shifts, rotation=rotation
        )
    exact = keys.astype(np.float64)
    reference.rope_shift(
        exact,
        angles([num_shifts], rotation.rope_dim),
        shifts,
        interleaved=rotation.interleaved,
    )
    error = (to_array(pool) - exact)[0, 0, ..., : rotation.rope_dim]
    size = np.sqrt(np.mean(np.square(exact[0, 0])))
    mean = np.sqrt(np.mean(np.square(error)))
    return float(np.abs(error).max() / size), float(mean / size)
