import base64
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from max.driver import Buffer

from kvcache.paged_attention import (
    Mesh,
    NamedSharding,
    PagedAttentionCache,
    PagedAttentionCacheMetaData,
    PagedAttentionCacheView,
    PagedAttentionMetadata,
    PageQuantizer,
    PartitionAxis,
    PartitionSpec,
    absent,
)
from kvcache.quantization import QUANTIZED_DTYPES
from paged_caches import DTYPES, ONE, bits, filled_view, prefill, rows, sizes
from paged_documents import DOCUMENTS, METADATA

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"]
INTEGERS += ["uint64"]


each_document = pytest.mark.parametrize(
    "found", DOCUMENTS, ids=lambda found: type(found).__name__
)


@each_document
def test_a_document_is_read_as_it_was_written(found: Any) -> None:
    kind = type(found)
    for options in ({}, {"indent": 2}, {"sort_keys": True}):
        again = kind.from_json(found.to_json(**options))
        assert again == found
        assert again is not found
        assert again.to_dict() == found.to_dict()
    assert kind.from_dict(found.to_dict()) == found
    assert json.loads(found.to_json()) == found.to_dict()


def test_the_form_is_the_one_that_is_documented() -> None:
    step = PagedAttentionMetadata(1, [1, -2], [3], absent(), absent())
    data = b"\x01\0\0\0\xfe\xff\xff\xff"
    found = step.to_dict()
    assert list(found)[:3] == ["format", "version", "type"]
    assert found["format"] == "kvcache.paged_attention"
    assert found["version"] == 1
    assert found["type"] == "PagedAttentionMetadata"
    assert found["prefill_pos"] == {
        "type": "array",
        "backend": "numpy",
        "dtype": "int32",
        "shape": [2],
        "device": "cpu:0",
        "data": base64.b64encode(data).decode(),
        "crc32": zlib.crc32(b"int32 2 " + data),
    }
    assert found["generate_pos"]["shape"] == []
    assert found["generate_pos"]["crc32"] == zlib.crc32(b"int32  \0\0\0\0")
    metadata = METADATA.to_dict()
    assert metadata["page_size"] == 4
    assert metadata["dtype"] == "float32"
    assert metadata["partition_axis"] == {
        "type": "PartitionAxis",
        "batch_axis": None,
        "sequence_axis": None,
        "head_axis": "tp",
    }


@given(
    arrays(
        st.sampled_from(INTEGERS).map(np.dtype),
        st.integers(1, 5),
        elements=st.integers(0, 127),
    ),
    st.sampled_from(["numpy", "max"]),
)
def test_integers_of_each_type_come_back(found: Any, backend: str) -> None:
    table = Buffer.from_numpy(found) if backend == "max" else found
    step = PagedAttentionMetadata(
        1, absent(), absent(), found, [[1]] * len(found)
    )
    step = step.replace(prefill_length=found[0], generate_pos=table)
    again = PagedAttentionMetadata.from_json(step.to_json())
    assert again == step
    assert type(again.generate_pos) is type(table)
    assert again.generate_pos.dtype == table.dtype
    assert again.prefill_length.dtype == found.dtype


@pytest.mark.parametrize("backend", ["numpy", "max", "torch"])
@pytest.mark.parametrize("dtype", [*DTYPES, *QUANTIZED_DTYPES])
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_bit_of_pages_comes_back(
    backend: str, dtype: str, seed: int
) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    quantizer = PageQuantizer(dtype) if dtype in QUANTIZED_DTYPES else None
    metadata = sizes(dtype="float32" if quantizer else dtype)
    view = PagedAttentionCacheView.init(
        ONE, metadata, 0, quantizer, backend=backend
    )
    rng = np.random.default_rng(seed)
    for array in (view.key_pages, view.value_pages):
        seen = bits(array)
        # Infinities and NaN of many payloads, quiet and not, and -0.0.
        tops = np.array([0x7F, 0xFF, 0x80, 0x7C, 0x00], np.uint8)
        drawn = rng.integers(0, 256, (*seen.shape, seen.itemsize), np.uint8)
        drawn[..., -1] = rng.choice(tops, seen.shape)
        seen[...] = drawn.view(seen.dtype)[..., 0]
    again = PagedAttentionCacheView.from_json(view.to_json())
    assert again == view
    for name in ("key_pages", "value_pages"):
        mine, theirs = getattr(view, name), getattr(again, name)
        assert type(theirs) is type(mine)
        assert theirs.dtype == mine.dtype
        np.testing.assert_array_equal(bits(theirs), bits(mine))
    # One bit is enough to be different.
    bits(again.value_pages)[1, 8, 3, 7] ^= 1
    assert again != view


def test_minus_zero_is_not_zero_and_nan_is_itself() -> None:
    one, other = (filled_view(sizes(), backend="numpy") for _ in range(2))
    assert one == other
    one.key_pages[0, 0, 0, 0], other.key_pages[0, 0, 0, 0] = 0.0, -0.0
    assert one != other
    assert PagedAttentionCacheView.from_dict(other.to_dict()) == other


def test_what_is_read_is_the_readers_own_and_can_be_written() -> None:
    view = filled_view(sizes(), backend="numpy")
    again = PagedAttentionCacheView.from_json(view.to_json())
    again.concatenate_to_cache(rows(4), rows(4), prefill(4, [1]))
    assert again != view
    assert np.isnan(view.key_pages).all()


def test_views_of_another_library_are_different() -> None:
    views = [filled_view(sizes(), backend=x) for x in ("numpy", "max")]
    assert views[0] != views[1]


def test_an_empty_cache_is_a_document() -> None:
    empty = PagedAttentionCache.init_empty(3)
    assert empty.views == [None] * 3
    assert PagedAttentionCache.from_json(empty.to_json()) == empty
    assert PagedAttentionCache.init_empty().views == []
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        PagedAttentionCache.init_empty(-1)


@pytest.mark.parametrize("views", [None, 3, "ab", [3], [None, "view"]])
def test_views_are_views(views: Any) -> None:
    with pytest.raises(ValueError, match="`views"):
        PagedAttentionCache(views)


def test_parts_of_a_cache_are_plain_values() -> None:
    sharding = NamedSharding(ONE, PartitionSpec("tp", None))
    assert sharding == NamedSharding(Mesh(["cpu:0"], ("tp",)), ("tp", None))
    assert hash(PartitionAxis()) == hash(PartitionAxis())
    assert PagedAttentionCacheMetaData.from_dict(METADATA.to_dict()) == METADATA
