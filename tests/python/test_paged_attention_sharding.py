"""What is split over devices is what is whole on one."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention import (
    Mesh,
    PagedAttentionCache,
    PagedAttentionCacheManager,
    PagedAttentionCacheView,
    PagedAttentionMetadata,
    PageQuantizer,
    PartitionAxis,
    PartitionSpec,
    absent,
)
from paged_caches import (
    ONE,
    attend,
    bits,
    decode,
    floats,
    mixed,
    prefill,
    rows,
    sizes,
)
from paged_writes import num_rows, steps

GRID = Mesh([[["cpu"] * 2] * 2] * 2, ("dp", "sp", "tp"))
SPECS: list[tuple[Any, ...]] = [
    ("tp",),
    (None, "dp"),
    (None, None, "sp"),
    ("tp", "dp", "sp", None),
    (None, ("dp", "tp")),
    (None, None, ("tp", "sp")),
    (),
]
each_spec = pytest.mark.parametrize("spec", SPECS, ids=str)


def caches(
    spec: Any, backend: str = "numpy", **changes: Any
) -> list[PagedAttentionCacheView]:
    """A layer on one device, and one split."""
    if backend == "torch":
        pytest.importorskip("torch")
    metadata = sizes(num_pages_per_layer=12, **changes)
    return [
        PagedAttentionCacheView.init(
            mesh, metadata, 0, None, split, backend=backend
        )
        for mesh, split in [
            (ONE, PartitionSpec()),
            (GRID, PartitionSpec(*spec)),
        ]
    ]


def queries(num: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((num, 4, 8))


@each_spec
@settings(max_examples=20)
@given(step=steps(), seed=st.integers(0, 2**31))
def test_attention_is_the_same(spec: Any, step: Any, seed: int) -> None:
    table = np.where(
        step.generate_page_table == 99, 0, step.generate_page_table
    )
    step = step.replace(generate_page_table=table)
    whole, split = caches(spec)
    num = num_rows(step)
    found = []
    for view in (whole, split):
        view.concatenate_to_cache(rows(num, seed), rows(num, seed + 1), step)
        found.append(attend(view, queries(num, seed), step))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.isfinite(found[0]).all()


@pytest.mark.parametrize("backend", ["numpy", "max", "torch"])
@pytest.mark.parametrize("quantizer", [None, PageQuantizer("float8_e4m3fn")])
@each_spec
def test_each_device_has_its_part(
    backend: str, quantizer: PageQuantizer | None, spec: Any
) -> None:
    whole, split = caches(spec, backend, quantizer=quantizer, dtype="float16")
    step = mixed(
        prefill(8, [9, 4]), decode([5, -1, 2], [[0, 11], [3, 3], [8, 1]])
    )
    for view in (whole, split):
        view.concatenate_to_cache(rows(11, 1), rows(11, 2), step)
    names = ["key_pages", "value_pages"]
    names += ["key_scales", "value_scales"] if quantizer else []
    sizes_of = {"dp": 2, "sp": 2, "tp": 2}
    for name in names:
        array, shards = bits(getattr(whole, name)), getattr(split, name)
        assert len(shards) == 8
        for shard, place in zip(shards, np.ndindex(2, 2, 2), strict=True):
            at, wanted = dict(zip(sizes_of, place, strict=True)), array
            for dimension, axis in enumerate(spec):
                for each in (axis,) if isinstance(axis, str) else axis or ():
                    parts = np.split(wanted, sizes_of[each], axis=dimension)
                    wanted = parts[at[each]]
            np.testing.assert_array_equal(bits(shard), wanted)
    for table, length in (([9, 4], 8), ([0, 11], 6), ([8], 3)):
        pairs = zip(
            whole.read_from_cache(table, length),
            split.read_from_cache(table, length),
            strict=True,
        )
        for one, other in pairs:
            np.testing.assert_array_equal(
                floats(one, "float16"), floats(other, "float16")
            )


def test_the_axes_of_the_sizes_split_by_default() -> None:
    axes = PartitionAxis("dp", "sp", "tp")
    metadata = sizes(partition_axis=axes, num_pages_per_layer=12)
    cache = PagedAttentionCache.init_cache(GRID, metadata, backend="numpy")
    for view in cache.views:
        assert view is not None
        assert [x.shape for x in view.key_pages] == [(1, 6, 2, 8)] * 8
        assert view.kv_pages_sharding.num_replicas == 1


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        (
            ("tp",),
            {"num_kv_heads": 3},
            "`num_kv_heads` must be a multiple of 2",
        ),
        (
            (None, "dp"),
            {},
            "`num_pages_per_layer` must be a multiple of 2 .* 9",
        ),
        (
            (None, None, "sp"),
            {"page_size": 5},
            "`page_size` must be a multiple",
        ),
        ((None, None, None, "sp"), {}, "must leave head_dim whole"),
        (("xp",), {}, "must name axes of the mesh, dp, sp, tp, got xp"),
    ],
)
def test_an_uneven_split_is_refused(
    spec: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParamsError, match=message):
        PagedAttentionCacheView.init(
            GRID, sizes(**changes), 0, None, PartitionSpec(*spec)
        )


def test_shards_that_do_not_fit_are_refused() -> None:
    _, split = caches(("tp",))
    for wrong, message in [
        (split.key_pages[:7], "one array for each of 8 devices, got 7"),
        (split.key_pages[0], "one array for each of 8 devices, got ndarray"),
        ((*split.key_pages[:7], None), "arrays of NumPy, torch or MAX alike"),
        ((*split.key_pages[:7], np.zeros((2, 12, 4, 8), "f")), "got float32"),
    ]:
        with pytest.raises(InvalidParamsError, match=message):
            split.replace(key_pages=wrong)


def test_a_step_that_is_refused_changes_no_shard() -> None:
    _, view = caches(("tp", "dp"))
    _, untouched = caches(("tp", "dp"))
    step = prefill(8, [1, 12])
    with pytest.raises(ValueError, match="wanted a page from 0 to 11, got 12"):
        view.concatenate_to_cache(rows(8), rows(8), step)
    assert view == untouched


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    new=st.integers(0, 6),
    seed=st.integers(0, 2**31),
)
def test_sequences_in_pages_are_attended_as_if_they_lay_in_a_row(
    lengths: list[int], new: int, seed: int
) -> None:
    """Prompts come one a step beside the batch of those before, as served."""
    axes = PartitionAxis("dp", "sp", "tp")
    metadata = sizes(
        partition_axis=axes,
        num_pages_per_layer=20,
        max_sequences=24,
        num_pages_per_sequence=6,
    )
    view = PagedAttentionCacheView.init(GRID, metadata, 0, backend="numpy")
    manager = PagedAttentionCacheManager(metadata)
    rng = np.random.default_rng(seed)
    tokens = [
        rng.standard_normal((3, x + len(lengths) + new, 4, 8), np.float32)
        for x in lengths
    ]
    tables: list[list[int]] = []
    at: list[int] = []
    for turn in range(len(lengths) + new):
        positions, running = [-1] * 3, np.zeros((3, 6), np.int32)
        for seq, table in enumerate(tables):
            if at[seq] % 4 == 0 and at[seq] // 4 == len(table):
                table.extend(manager.alloc_hbm_pages(1))
            positions[seq] = at[seq]
            running[seq, : len(table)] = table
        step = PagedAttentionMetadata(0, absent(), absent(), positions, running)
        parts = []
        if turn < len(lengths):
            length = lengths[turn]
            pages = manager.alloc_prefill_hbm_pages(length)
            padding = -length % 4
            prompt = tokens[turn][:, :length]
            parts.append(np.pad(prompt, ((0, 0), (0, padding), (0, 0), (0, 0))))
            step = mixed(prefill(length, pages), step)
        batch = np.zeros((3, 3, 4, 8), np.float32)
        for seq in range(len(tables)):
            batch[:, seq] = tokens[seq][:, at[seq]]
        parts.append(batch)
        asked, keys, values = np.concatenate(parts, axis=1)
        view.concatenate_to_cache(keys[:, :2], values[:, :2], step)
        found = attend(view, asked, step)
        begin = step.num_prefill_rows
        for seq in range(len(tables)):
            wanted = in_a_row(tokens[seq], at[seq])
            np.testing.assert_allclose(found[begin + seq], wanted, rtol=1e-9)
            at[seq] += 1
        if begin:
            for row in range(lengths[turn]):
                wanted = in_a_row(tokens[turn], row)
                np.testing.assert_allclose(found[row], wanted, rtol=1e-9)
            tables.append(pages)
            at.append(lengths[turn])


def in_a_row(tokens: Any, own: int) -> Any:
    """Attention of one token `[3, tokens, 4, 8]`: queries, keys, values."""
    asked, keys, values = tokens.astype(np.float64)
    wanted = np.empty((4, 8))
    for head in range(4):
        kv = head // 2
        scores = keys[: own + 1, kv] @ asked[own, head]
        weights = np.exp(scores - scores.max())
        wanted[head] = weights @ values[: own + 1, kv] / weights.sum()
    return wanted
