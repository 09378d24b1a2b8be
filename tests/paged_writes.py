"""Writes of one backend against a loop, for a test file of each library."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcache.paged_attention import (
    PagedAttentionCacheView,
    PagedAttentionMetadata,
)
from paged_caches import (
    BITS,
    DTYPES,
    bits,
    decode,
    filled_view,
    floats,
    mixed,
    numpy_type,
    prefill,
    rows,
    sizes,
    stain,
    written,
)

each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@st.composite
def steps(draw: st.DrawFn) -> PagedAttentionMetadata:
    """A prompt, a batch or both, in pages of their own or the dummy page."""
    free = draw(st.permutations(range(1, 9)))
    length = draw(st.integers(1, 11))
    padded = draw(
        st.sampled_from([size for size in (4, 8, 12) if size >= length])
    )
    count = -(-length // 4)
    table = [draw(st.sampled_from([0, page])) for page in free[:count]]
    first = 4 * draw(st.integers(0, 3))
    junk = draw(st.lists(st.integers(-9, 99), max_size=2))
    prompt = prefill(length, [*table, *junk], padded=padded, first=first)
    positions = draw(st.lists(st.integers(-1, 11), min_size=1, max_size=3))
    # Pages that no position needs are out of range: strays show.
    tables = np.full((len(positions), 3), 99, np.int32)
    for seq, position in enumerate(positions):
        if position >= 0:
            page = draw(st.sampled_from([0, free[count + seq]]))
            tables[seq, position // 4] = page
    batch = decode(positions, tables.tolist())
    return draw(st.sampled_from([prompt, batch, mixed(prompt, batch)]))


def num_rows(step: PagedAttentionMetadata) -> int:
    return step.num_prefill_rows + step.num_decode_rows


class WritesAgainstALoop:
    """Collected where a subclass names its backend."""

    backend: str

    def view(self, dtype: str = "float32") -> PagedAttentionCacheView:
        return filled_view(sizes(dtype=dtype), backend=self.backend)

    def own(self, array: Any) -> Any:
        """The array as one of this backend's."""
        return array

    @each_dtype
    @pytest.mark.parametrize("given_dtype", DTYPES)
    def test_rows_go_where_the_loop_puts_them(
        self, dtype: str, given_dtype: str
    ) -> None:
        view = self.view(dtype)

        @settings(max_examples=30)
        @given(
            step=steps(), seed=st.integers(0, 2**32 - 1), is_own=st.booleans()
        )
        def go(step: PagedAttentionMetadata, seed: int, is_own: bool) -> None:
            stain(view.key_pages, view.value_pages)
            values = [
                rows(num_rows(step), seed + x, given_dtype) for x in (0, 1)
            ]
            wanted = []
            for each in values:
                pages = np.zeros((2, 9, 4, 8), numpy_type(dtype))
                stain(pages)
                rounded = each.astype(np.float32).astype(pages.dtype)
                written(pages, step, rounded)
                wanted.append(pages.view(BITS[pages.itemsize]))
            arrays = [self.own(x) for x in values] if is_own else values
            found = view.concatenate_to_cache(*arrays, step)
            assert found[0] is view.key_pages
            assert found[1] is view.value_pages
            np.testing.assert_array_equal(bits(view.key_pages), wanted[0])
            np.testing.assert_array_equal(bits(view.value_pages), wanted[1])

        go()

    @each_dtype
    def test_bits_of_the_own_type_are_kept(self, dtype: str) -> None:
        view = self.view(dtype)
        kind = np.dtype(numpy_type(dtype))
        raw = BITS[kind.itemsize]
        info = np.iinfo(raw)
        seen = np.random.default_rng(1).integers(0, info.max, (4, 2, 8), raw)
        # Minus zero, and NaN of several payloads.
        high = {4: 0x7F800000, 2: 0x7F80 if dtype == "bfloat16" else 0x7C00}
        special = [
            1 << 8 * kind.itemsize - 1,
            high[kind.itemsize] | 5,
            info.max,
        ]
        seen[0, 0, :3] = special
        step = prefill(4, [7])
        view.concatenate_to_cache(
            self.own(seen.view(kind)), self.own(seen.view(kind)), step
        )
        for pages in (view.key_pages, view.value_pages):
            found = bits(pages)[:, 7].swapaxes(0, 1)
            np.testing.assert_array_equal(found, seen)

    def test_each_part_is_written_by_its_own_call(self) -> None:
        both, apart = self.view(), self.view()
        prompt, batch = prefill(6, [8, 2]), decode([3, -1], [[1], [5]])
        keys, values = rows(10, 1), rows(10, 2)
        both.concatenate_to_cache(keys, values, mixed(prompt, batch))
        step = mixed(prompt, batch)
        assert apart.write_prefill_to_cache(keys[:8], values[:8], step) is None
        assert apart.write_generate_to_cache(keys[8:], values[8:], step) is None
        assert both == apart

    def test_a_batch_without_a_used_place_writes_nothing(self) -> None:
        view, untouched = self.view(), self.view()
        step = decode([-1, -1], [[1], [2]])
        view.concatenate_to_cache(rows(2), rows(2), step)
        assert view == untouched

    @each_dtype
    def test_what_was_written_is_read(self, dtype: str) -> None:
        view = self.view(dtype)
        keys, values = rows(8, 1, dtype), rows(8, 2, dtype)
        view.concatenate_to_cache(keys, values, prefill(7, [5, 3]))
        found = view.read_from_cache([5, 3, 99], 7)
        for array, wanted in zip(found, (keys, values), strict=True):
            assert type(array) is type(view.key_pages)
            assert tuple(array.shape) == (7, 2, 8)
            np.testing.assert_array_equal(floats(array, dtype), wanted[:7])
        empty, _ = view.read_from_cache([], 0)
        assert tuple(empty.shape) == (0, 2, 8)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"key": rows(7)},
                "`key` must be float32, .* shape .8, 2, 8., got",
            ),
            ({"value": rows(9)}, "`value` must be float32"),
            ({"value": rows(8)[:, :1]}, "`value` must be float32"),
            ({"value": rows(8).astype(np.float64)}, "got float64"),
            ({"value": rows(8).astype(np.int32)}, "got int32"),
            ({"value": rows(8).view(np.uint16)[..., :8]}, "got uint16"),
            ({"value": rows(8).tolist()}, "must be an array of"),
            ({"metadata": prefill(6, [8])}, "must have 2 pages for 6 tokens"),
            (
                {"metadata": prefill(6, [8, 9])},
                "wanted a page from 0 to 8, got",
            ),
            ({"metadata": prefill(6, [8, -1])}, "wanted a page from 0 to 8"),
            (
                {"metadata": prefill(6, [8, 8])},
                "wanted each row in a slot of its own, got two in slot 0",
            ),
            ({"metadata": None}, "`metadata` must be a PagedAttentionMetadata"),
        ],
    )
    def test_a_refused_write_has_written_nothing(
        self, changes: dict[str, Any], message: str
    ) -> None:
        view, untouched = self.view(), self.view()
        arguments = {
            "key": rows(8, 1),
            "value": rows(8, 2),
            "metadata": prefill(6, [8, 2]),
            **changes,
        }
        with pytest.raises(ValueError, match=message):
            view.concatenate_to_cache(**arguments)
        assert view == untouched
        view.concatenate_to_cache(rows(8), rows(8), prefill(6, [8, 2]))
        assert view != untouched
