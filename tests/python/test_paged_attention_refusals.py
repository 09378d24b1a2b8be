"""Documents that are malformed, truncated, foreign or changed."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcache.errors import DocumentError
from kvcache.paged_attention import PagedAttentionCache, PagedAttentionMetadata
from paged_documents import CACHE, DOCUMENTS, STEP

each_document = pytest.mark.parametrize(
    "found", DOCUMENTS, ids=lambda found: type(found).__name__
)


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
            "cpu:1",
            r"^views\[0\].key_pages\[1\].device: wanted a name such as",
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


def test_base64_has_one_form() -> None:
    document = STEP.to_dict()
    assert document["prefill_length"]["data"] == "BgAAAAAAAAA="
    document["prefill_length"]["data"] = "BgAAAAAAAAB="  # The same bytes.
    with pytest.raises(
        DocumentError, match=r"prefill_length.data: .* last bit"
    ):
        PagedAttentionMetadata.from_dict(document)


def test_a_subclass_reads_its_own_documents() -> None:
    class Mesh(PagedAttentionMetadata):
        """Its name is taken."""

    step = Mesh(*[1] * 5)
    assert type(Mesh.from_json(step.to_json())) is Mesh
    assert PagedAttentionCache.from_json(CACHE.to_json()) == CACHE
