import base64
import copy
import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from max.driver import Buffer

from kvcache.errors import DocumentError
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
from kvcache.quantization import QUANTIZED_DTYPES, Quantization
from paged_caches import DTYPES, ONE, bits, filled_view, prefill, rows, sizes

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"]
INTEGERS += ["uint64"]


def small(backend: str = "numpy", **options: Any) -> PagedAttentionCacheView:
    """A view of two shards, with scales, that is short when written down."""
    metadata = sizes(num_pages_per_layer=1, page_size=12)
    return PagedAttentionCacheView.init(
        Mesh([["cpu"], ["cpu"]], ("dp", "tp")),
        metadata.replace(num_pages_per_layer=2, dtype="bfloat16"),
        1,
        PageQuantizer("float8_e4m3fn", Quantization(group_size=8)),
        PartitionSpec(("tp",), "dp"),
        backend=backend,
        **options,
    )


METADATA = sizes(quantizer=PageQuantizer("int8"))
STEP = prefill(6, [8, 2]).replace(prefill_length=np.uint64(6))
CACHE = PagedAttentionCache([small(), None])
DOCUMENTS = [METADATA, STEP, small(), CACHE]
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


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "easydel", "^format: wanted 'kvcache.paged_attention'"),
        (("version",), 2, "^version: wanted 1, got 2"),
        (("version",), True, "^version: wanted 1, got True"),
        (("version",), "1", "^version: wanted 1, got '1'"),
        (("type",), "PagedAttentionCacheView", "^type: wanted 'PagedAttention"),
        (("type",), ["x"], "^type: wanted"),
        (("views",), 3, "^`views` must be a list of views, got 3"),
        (("views",), {"type": "dict"}, "^views.type: wanted one of array"),
        (("views", 0), 3, r"^`views\[0\]` must be a PagedAttentionCacheView"),
        (("views", 0, "type"), "os", r"^views\[0\].type: wanted one of"),
        (
            ("views", 0, "type"),
            "Mesh",
            r"^views\[0\].key_pages: wanted no such",
        ),
        (("views", 0, "layer_index"), 7, r"^views\[0\]: `layer_index` must be"),
        (
            ("views", 0, "metadata", "page_size"),
            "12",
            r"^views\[0\].metadata: `page_size` must be an integer, got '12'",
        ),
        (
            ("views", 0, "metadata", "dtype"),
            "<class 'jax.numpy.bfloat16'>",
            r"^views\[0\].metadata: `dtype` must be one of float32",
        ),
        (
            ("views", 0, "metadata", "dtype"),
            "torch.bfloat16",
            r"^views\[0\].metadata.dtype: wanted 'bfloat16', got 'torch.bfl",
        ),
        (
            ("views", 0, "kv_pages_sharding", "mesh", "devices"),
            ["cpu:0", "tpu:0"],
            r"^views\[0\].kv_pages_sharding.mesh: `devices` must be names",
        ),
        (
            ("views", 0, "kv_pages_sharding", "mesh", "axis_sizes"),
            None,
            r"^views\[0\].kv_pages_sharding.mesh: `axis_names` must name 1",
        ),
        (
            ("views", 0, "key_pages", 1, "data"),
            "AAA",
            r"^views\[0\].key_pages\[1\].data: wanted base64",
        ),
        (
            ("views", 0, "key_pages", 1, "data"),
            "AAAA",
            r"key_pages\[1\].data: wanted 192 bytes for uint8 of shape",
        ),
        (
            ("views", 0, "key_pages", 1, "crc32"),
            0,
            r"^views\[0\].key_pages\[1\].crc32: wanted \d+, the checksum",
        ),
        (
            ("views", 0, "key_pages", 1, "device"),
            "gpu:77",
            r"^views\[0\].key_pages\[1\]: .*wants devices that are the CPU",
        ),
        (
            ("views", 0, "key_pages", 1, "device"),
            "cuda",
            r"\[1\].device: wanted",
        ),
        (
            ("views", 0, "key_pages", 1, "dtype"),
            "O",
            r"\[1\].dtype: wanted one",
        ),
        (("views", 0, "key_pages", 1, "shape"), [-1], r"\[1\].shape: wanted"),
        (("views", 0, "key_pages", 1, "shape"), 96, r"\[1\].shape: wanted at"),
        (
            ("views", 0, "key_pages", 1, "shape"),
            [2, 0, 2**62, 2**62],
            r"\[1\].data: wanted 0 bytes",
        ),
        (
            ("views", 0, "key_pages", 1, "backend"),
            "jax",
            r"\[1\]: `backend` mus",
        ),
        (("views", 0, "key_pages"), None, r"^views\[0\]: `key_pages` must be"),
        (
            ("views", 0, "pickle"),
            "x",
            r"^views\[0\].pickle: wanted no such field",
        ),
        (
            ("views", 0, "quantizer", "dtype"),
            "x",
            r"^views\[0\].quantizer: `dt",
        ),
        (
            ("views", 0, "quantizer", "quantization", "group_size"),
            3,
            r"^views\[0\]: group_size must be one of",
        ),
    ],
)
def test_a_wrong_field_is_named(
    path: tuple[Any, ...], value: object, message: str
) -> None:
    document: Any = CACHE.to_dict()
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(DocumentError, match=message):
        PagedAttentionCache.from_dict(document)


@each_document
def test_a_missing_field_is_named(found: Any) -> None:
    def paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            if isinstance(value, dict):
                yield (*path, key)
            if isinstance(each, (dict, list)):
                yield from paths(each, (*path, key))

    for path in paths(found.to_dict(), ()):
        document = place = copy.deepcopy(found.to_dict())
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]
        with pytest.raises(DocumentError, match=rf"\b{path[-1]}\b"):
            type(found).from_dict(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "^document: wanted JSON"),
        ("nonsense", "^document: wanted JSON"),
        ("[" * 100_000, "^document: wanted JSON"),
        ("[]", r"^document: wanted an object, got \[\]"),
        ("3", "^document: wanted an object, got 3"),
        ("{}", "^format: wanted"),
        ('{"a": NaN}', "^document: wanted JSON, got NaN"),
        ('{"views": 1, "views": 2}', "^views: wanted it once, got it twice"),
        (None, "^document: wanted JSON"),
        (b"\xff", "^document: wanted JSON"),
    ],
)
def test_text_that_is_no_document_is_refused(text: Any, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        PagedAttentionCache.from_json(text)


@each_document
def test_each_class_refuses_the_documents_of_the_others(found: Any) -> None:
    others = {type(each) for each in DOCUMENTS} - {type(found)}
    for other in others:
        with pytest.raises(DocumentError, match=r"^type: wanted"):
            other.from_json(found.to_json())


@each_document
@given(data=st.data())
def test_a_truncated_document_is_refused(found: Any, data: Any) -> None:
    text = found.to_json()
    end = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(DocumentError):
        type(found).from_json(text[:end])


@each_document
@given(data=st.data())
def test_changed_text_is_refused_or_says_what_it_says(
    found: Any, data: Any
) -> None:
    text = found.to_json()
    place = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from('09aZ/+="{}[]:, .-ntu\\\0é'))
    changed = text[:place] + new + text[place + data.draw(st.integers(0, 2)) :]
    read_or_refuse(found, changed)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2**70)
    | st.floats()
    | st.sampled_from(["array", "Mesh", "int8", "cpu:1", "tp", "", "max"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "data"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@each_document
@given(data=st.data())
def test_a_changed_value_is_refused_or_says_what_it_says(
    found: Any, data: Any
) -> None:
    document = place = found.to_dict()
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner:
            break
        if data.draw(st.integers(0, 4)) == 0:
            break
        place = inner
    place[key] = data.draw(JSON)
    read_or_refuse(found, json.dumps(document))


def read_or_refuse(found: Any, text: str) -> None:
    """Reads a document; what is read must say exactly what the text says."""
    try:
        again = type(found).from_json(text)
    except DocumentError:
        return
    assert again.to_dict() == json.loads(text)
    if again.to_dict() == found.to_dict():
        assert again == found


def test_parts_of_a_cache_are_plain_values() -> None:
    sharding = NamedSharding(ONE, PartitionSpec("tp", None))
    assert sharding == NamedSharding(Mesh(["cpu:0"], ("tp",)), ("tp", None))
    assert hash(PartitionAxis()) == hash(PartitionAxis())
    assert PagedAttentionCacheMetaData.from_dict(METADATA.to_dict()) == METADATA
