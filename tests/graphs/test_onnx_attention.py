"""The `onnx` package's own cases, an oracle that nobody here has written.

Used are those of `Attention` without mask, window or softcap whose heads have
one size, and those of `RotaryEmbedding` on four heads.
"""

import functools
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest

from kernels.batch import Batch, Pages
from kernels.buffers import Array, to_array
from kernels.configuration import ONNX_BFLOAT16, ONNX_FLOAT32, Rotation
from kernels.models import CompiledKernels, Kernels

ATTENTION = [
    "test_attention_3d",
    "test_attention_3d_causal",
    "test_attention_3d_causal_bf16",
    "test_attention_3d_gqa",
    "test_attention_3d_gqa_causal",
    "test_attention_3d_gqa_scaled",
    "test_attention_3d_scaled",
    "test_attention_3d_transpose_verification",
    "test_attention_4d",
    "test_attention_4d_causal",
    "test_attention_4d_causal_bf16",
    "test_attention_4d_causal_nonpad_batch_prefill",
    "test_attention_4d_causal_nonpad_continued_prefill",
    "test_attention_4d_causal_with_past_and_present",
    "test_attention_4d_gqa",
    "test_attention_4d_gqa_causal",
    "test_attention_4d_gqa_causal_nonpad_decode",
    "test_attention_4d_gqa_scaled",
    "test_attention_4d_scaled",
    "test_attention_4d_with_qk_matmul",
]

ROTARY = [
    "test_rotary_embedding",
    "test_rotary_embedding_3d_input",
    "test_rotary_embedding_interleaved",
    "test_rotary_embedding_no_position_ids",
    "test_rotary_embedding_no_position_ids_interleaved",
    "test_rotary_embedding_no_position_ids_rotary_dim",
    "test_rotary_embedding_with_interleaved_rotary_dim",
    "test_rotary_embedding_with_rotary_dim",
]

TOLERANCE = {
    "float32": {"rtol": 1e-5, "atol": 1e-5},
    # The package rounds to bfloat16 between the steps, too.
    "bfloat16": {"rtol": 2.0**-6, "atol": 2.0**-8},
}


@functools.cache
def cases() -> dict[str, Any]:
    """Imports two operators' cases; `collect_testcases` imports all."""
    package = "onnx.backend.test.case.node"
    for name in ("attention", "rotaryembedding"):
        importlib.import_module(f"{package}.{name}")
    collected = importlib.import_module(package)._NodeTestCases
    return {case.name: case for case in collected}


@dataclass(frozen=True, slots=True)
class Case:
    """One case: its inputs by name, its attributes and its first output."""

    inputs: dict[str, Array]
    attributes: dict[str, Any]
    expected: Array
    dtype: str

    @classmethod
    def named(cls, name: str) -> "Case":
        case = cases()[name]
        node = case.model.graph.node[0]
        inputs, outputs = case.data_sets[0]
        names = [name for name in node.input if name]
        return cls(
            {
                name: array.astype(np.float32)
                if array.dtype.kind == "V"
                else array
                for name, array in zip(names, inputs, strict=True)
            },
            {
                a.name: onnx.helper.get_attribute_value(a)
                for a in node.attribute
            },
            outputs[0].astype(np.float32),
            inputs[0].dtype.name,
        )

    def heads(self, array: Array, num_heads: str) -> Array:
        """Returns `[batch, length, heads, head_dim]`."""
        if array.ndim == 4:
            return array.transpose(0, 2, 1, 3)
        count = self.attributes[num_heads]
        return array.reshape(*array.shape[:2], count, -1)


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_equals_onnx(
    compiled_kernels: CompiledKernels, name: str
) -> None:
    case = Case.named(name)
    queries = case.heads(case.inputs["Q"], "q_num_heads")
    keys = with_past(case, "K", "past_key")
    values = with_past(case, "V", "past_value")
    expected = case.heads(case.expected, "q_num_heads")
    head_dim = queries.shape[-1]
    scale = case.attributes.get("scale", head_dim**-0.5)
    configuration = {
        "float32": ONNX_FLOAT32,
        "bfloat16": ONNX_BFLOAT16,
    }[case.dtype]
    kernels = compiled_kernels.of(configuration)
    num_kv_heads = keys.shape[2]
    pool, pages = stored(
        kernels,
        into_kv_heads(kernels, keys),
        into_kv_heads(kernels, values),
        context_lengths(case, keys.shape[1]),
    )
    batch, pages = step(case, queries, keys.shape[1], pages)

    actual = kernels.attention(
        pool,
        into_q_heads(
            kernels, queries * (scale / configuration.scale), num_kv_heads
        ),
        batch,
        pages,
    )

    by_group = actual.reshape(-1, *configuration.heads, configuration.head_dim)
    group = queries.shape[2] // num_kv_heads
    used = by_group[:, :num_kv_heads, :group, :head_dim]
    np.testing.assert_allclose(
        used.reshape(expected.shape), expected, **TOLERANCE[case.dtype]
    )


def with_past(case: Case, name: str, past: str) -> Array:
    rows = case.heads(case.inputs[name], "kv_num_heads")
    if past not in case.inputs:
        return rows
    before = case.inputs[past].transpose(0, 2, 1, 3)
    return np.concatenate([before, rows], axis=1)


def context_lengths(case: Case, num_keys: int) -> list[int]:
    """Returns how many keys each sequence has; the others are padding."""
    batch_size = len(case.inputs["Q"])
    lengths = case.inputs.get("nonpad_kv_seqlen", [num_keys] * batch_size)
    return [int(length) for length in lengths]


def into_kv_heads(kernels: Kernels, rows: Array) -> Array:
    """Puts rows into the configuration's heads; what is not used is NaN."""
    shape = (*rows.shape[:2], *kernels.configuration.row)
    wide = np.full(shape, np.nan, np.float32)
    # A case with smaller heads fills them up with zeros: sums stay the same.
    wide[:, :, : rows.shape[2]] = 0
    wide[:, :, : rows.shape[2], : rows.shape[3]] = rows
    return wide


def into_q_heads(kernels: Kernels, queries: Array, num_kv_heads: int) -> Array:
    """Puts queries behind the key-value heads that they share."""
    num_rows = queries.shape[0] * queries.shape[1]
    by_group = queries.reshape(num_rows, num_kv_heads, -1, queries.shape[-1])
    configuration = kernels.configuration
    shape = (num_rows, *configuration.heads, configuration.head_dim)
    wide = np.full(shape, np.nan, np.float32)
    used = wide[:, :num_kv_heads, : by_group.shape[2]]
    used[:] = 0
    used[..., : queries.shape[-1]] = by_group
    return wide.reshape(num_rows, -1, configuration.head_dim)


def stored(
    kernels: Kernels, keys: Array, values: Array, lengths: list[int]
) -> tuple[Any, Pages]:
    """Stores the keys and values of every sequence from its position 0."""
    configuration = kernels.configuration
    batch = Batch(
        lengths=[(0, length) for length in lengths],
        page_size=configuration.page_size,
    )
    pages = batch.written()
    shape = (pages.num_pages + 1, *configuration.page)
    pool = kernels.elements(np.full(shape, np.nan, np.float32))
    rows = [
        np.concatenate([row[:n] for row, n in zip(x, lengths, strict=True)])
        for x in (keys, values)
    ]
    kernels.store(pool, *rows, batch, pages)
    return pool, pages


def step(
    case: Case, queries: Array, num_keys: int, pages: Pages
) -> tuple[Batch, Pages]:
    """Returns the batch whose new tokens see the keys that the case says.

    Without a causal mask each token is the last of a sequence of its own, and
    these share their pages.
    """
    batch_size, new = queries.shape[:2]
    page_size = ONNX_FLOAT32.page_size  # says nothing about tables made before
    if not case.attributes.get("is_causal"):
        table = np.repeat(pages.lookup_table, new, axis=0)
        lengths = [(num_keys - 1, 1)] * (batch_size * new)
        return (
            Batch(lengths=lengths, page_size=page_size),
            Pages(table, pages.num_pages),
        )
    if "nonpad_kv_seqlen" in case.inputs:
        contexts = context_lengths(case, num_keys)
        lengths = [(context - new, new) for context in contexts]
    elif "past_key" in case.inputs:
        lengths = [(num_keys - new, new)] * batch_size
    else:
        lengths = [(0, new)] * batch_size  # the mask's top left corner
    return Batch(lengths=lengths, page_size=page_size), pages


@pytest.mark.parametrize("name", ROTARY)
def test_rotation_equals_onnx(
    compiled_kernels: CompiledKernels, name: str
) -> None:
    case = Case.named(name)
    kernels = compiled_kernels.of(ONNX_FLOAT32)
    heads = case.heads(case.inputs["input"], "num_heads")
    expected = case.heads(case.expected, "num_heads").reshape(-1, 4, 8)
    num_rows, num_keys = len(expected), ONNX_FLOAT32.num_kv_heads
    cosines, sines = (
        case.inputs[f"{x}_cache"].reshape(
            -1, case.inputs["cos_cache"].shape[-1]
        )
        for x in ("cos", "sin")
    )
    positions = case.inputs.get("position_ids", np.arange(num_rows)).ravel()
    batch = Batch(
        lengths=[(int(position), 1) for position in positions], page_size=16
    )
    pages = batch.written()
    pool = kernels.elements(
        np.zeros((pages.num_pages + 1, *ONNX_FLOAT32.page), np.float32)
    )
    qkv = np.zeros((num_rows, 9 + 2 * num_keys, 8), np.float32)
    qkv[:, :4] = heads.reshape(-1, 4, 8)
    qkv[:, 9 : 9 + num_keys] = qkv[:, :num_keys]

    queries = kernels.rope_store(
        pool,
        qkv.reshape(num_rows, -1),
        np.concatenate([cosines, sines], axis=1),
        batch,
        pages,
        rotation=Rotation(
            case.attributes.get("rotary_embedding_dim", 8),
            interleaved=bool(case.attributes.get("interleaved", 0)),
        ),
    )

    columns, slots = np.divmod(positions, 16)
    of_tokens = pages.lookup_table[np.arange(num_rows), columns]
    keys = to_array(pool)[of_tokens, 0, ONNX_FLOAT32.layer, slots]
    tolerance = TOLERANCE["float32"]
    np.testing.assert_allclose(queries[:, :4], expected, **tolerance)
    np.testing.assert_allclose(keys, expected[:, :num_keys], **tolerance)
