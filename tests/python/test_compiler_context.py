import copy
import os
import pickle
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flow_contexts import (
    LOC,
    Args,
    Parent,
    Runner,
    cache_context,
    tensor,
)
from kvcache.compiler import FORMAT, UNSET, Mode, as_vtensor, cache, indexer
from kvcache.compiler.context_base import ContextBase
from kvcache.compiler.runners import Requests, Settings
from kvcache.compiler.runners import Runner as PlainRunner
from kvcache.compiler.vop import vOp
from kvcache.compiler.vtensor import vTensor

each_side = pytest.mark.parametrize(
    "side", [cache, indexer], ids=["cache", "indexer"]
)


def slots_of(each: type) -> tuple[str, ...]:
    return each.__dict__.get("__slots__", ())


@each_side
def test_new_context_is_empty(side: Any) -> None:
    ctx = side.Context()
    kept = {"name", "mode", "_aux_total_bytes", "_aux_total_flops"}
    kept |= {"batch_size"} if side is indexer else set()
    slots = {slot for each in type(ctx).__mro__ for slot in slots_of(each)}
    assert not ctx.created
    assert set(ctx.missing()) == slots - kept - {"_created"}
    assert len(ctx.missing()) == len(set(ctx.missing()))
    assert ctx.mode is Mode.PROFILE
    assert ctx.name == {cache: "Cache", indexer: "Indexer"}[side]


def test_fields_are_what_pool_and_runner_say() -> None:
    ctx = cache_context()
    assert ctx.created
    assert ctx.missing() == []
    assert ctx.page_size == 64
    assert ctx.block_size == 16
    assert ctx.num_blocks_per_page == 4
    assert ctx.total_num_pages == 9
    assert ctx.total_num_blocks == 36
    assert ctx.head_num == 2
    assert ctx.head_dim == 8
    assert ctx.max_new_tokens_per_batch == 32
    assert ctx.vortex_dtype == "bfloat16"
    assert ctx.impl_backend == "mojo"
    assert ctx.sparse_attention_name == "parent_cache"
    assert ctx.compilation_cache_dir is None
    assert ctx.tensor_list == ctx.op_list == []
    assert ctx.tensor_id_to_tensor_name_map == {}


def test_batch_is_the_larger_of_prefill_and_requests() -> None:
    runner = Runner(Args(max_prefill_tokens=3))
    ctx = cache.Context().create(Parent(), runner)
    assert ctx.max_new_tokens_per_batch == 4


def test_indexer_fields_are_what_pool_and_runner_say() -> None:
    parent = Parent(num_pages=10, page_size=64)
    ctx = indexer.Context().create(parent, Runner())
    assert ctx.num_kv_heads == 2
    assert ctx.group_size == 3
    assert ctx.num_qo_heads == 6
    assert (ctx.topk_val, ctx.topk_ratio) == (0, 0.0)
    assert (ctx.block_reserved_bos, ctx.block_reserved_eos) == (1, 1)
    assert ctx.max_num_blocks_per_request == 5 * 4  # pages of one head
    assert ctx.max_num_blocks == 20 * 4 * 2
    assert ctx.missing() == [
        "dense_kv_indices",
        "dense_kv_indptr",
        "sparse_kv_indices",
        "sparse_kv_indptr",
    ]


def test_indexer_takes_arrays_and_budget_where_they_are_told() -> None:
    arrays = {
        "dense_kv_indices": np.zeros(4, np.int32),
        "dense_kv_indptr": np.zeros(2, np.int32),
        "sparse_kv_indices": np.zeros(4, np.int32),
        "sparse_kv_indptr": np.zeros(2, np.int32),
    }
    parent: Any = SimpleNamespace(**vars(Parent()), **arrays)
    settings = Settings(
        8,
        vortex_topk_val=5,
        vortex_topk_ratio=0.25,
        vortex_block_reserved_bos=2,
        vortex_block_reserved_eos=3,
        vortex_max_seq_lens=100,
    )
    ctx = indexer.Context().create(parent, PlainRunner(settings, Requests(2)))
    assert ctx.missing() == []
    assert ctx.dense_kv_indptr is arrays["dense_kv_indptr"]
    assert (ctx.topk_val, ctx.topk_ratio) == (5, 0.25)
    assert (ctx.block_reserved_bos, ctx.block_reserved_eos) == (2, 3)
    assert ctx.max_num_blocks_per_request == 7
    ctx.set_batch_size(2)
    assert ctx.batch_size == 2


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("float32", "float32"),
        ("float16", "float16"),
        ("fp8_e5m2", "float8_e5m2"),
        ("fp8_e4m3", "float8_e4m3fn"),
        (np.float32, "float32"),
    ],
)
def test_intermediate_type_is_kept_by_name(told: object, kept: str) -> None:
    runner: Any = Runner(
        SimpleNamespace(max_prefill_tokens=4, vortex_dtype=told)
    )
    assert cache.Context().create(Parent(), runner).vortex_dtype == kept


@pytest.mark.parametrize("told", ["int32", "int8", "complex64", None, 4])
def test_other_intermediate_types_are_refused(told: object) -> None:
    runner: Any = Runner(
        SimpleNamespace(max_prefill_tokens=4, vortex_dtype=told)
    )
    with pytest.raises(TypeError, match="wanted"):
        cache.Context().create(Parent(), runner)


@each_side
@pytest.mark.parametrize(
    "change",
    [
        {"block_size": 24},
        {"block_size": 128},
        {"block_size": 0},
        {"page_size": -64},
        {"head_dim": True},
        {"head_dim": 8.0},
        {"head_num": 0},
    ],
    ids=repr,
)
def test_refused_sizes_leave_the_context_as_it_was(
    side: Any, change: dict[str, Any]
) -> None:
    ctx = side.Context()
    empty = ctx.missing()
    with pytest.raises(AssertionError, match=r"^Context: wanted"):
        ctx.create(replace(Parent(), **change), Runner())
    assert not ctx.created
    assert ctx.missing() == empty


def test_refused_overwrite_keeps_the_recording() -> None:
    ctx = cache_context()
    kept = tensor(ctx, 1, 8)
    with pytest.raises(AssertionError):
        ctx.create(Parent(block_size=24), Runner(), overwrite=True)
    assert ctx.tensor_list == [kept]
    assert ctx.block_size == 16


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("vortex_topk_val", -1),
        ("vortex_topk_ratio", 1.5),
        ("vortex_topk_ratio", float("nan")),
        ("vortex_block_reserved_bos", 0),
        ("vortex_block_reserved_eos", 0),
    ],
)
def test_senseless_budget_is_refused(setting: str, value: Any) -> None:
    settings = replace(Settings(8), **{setting: value})
    with pytest.raises(AssertionError, match=r"^Context: wanted"):
        indexer.Context().create(Parent(), PlainRunner(settings, Requests(2)))


@each_side
def test_second_create_wants_overwrite(side: Any) -> None:
    ctx = side.Context().create(Parent(), Runner())
    with pytest.raises(RuntimeError) as caught:
        ctx.create(Parent(), Runner())
    assert str(caught.value) == (
        "Context.create() already called; pass overwrite=True to reinitialize."
    )


@each_side
def test_overwrite_forgets_the_graph_and_keeps_mode_and_counters(
    side: Any,
) -> None:
    ctx = side.Context()
    assert ctx.create(Parent(), Runner()) is ctx
    old = tensor(ctx, 1, 8, name="cache['m']")
    ctx.compilation_header_lines.append("import os")
    ctx.auxilary_func_def_lines.append("pass")
    ctx.replace(old, old)
    ctx.impl_backend = "numpy"
    ctx.execute()
    ctx.add_aux_memory(7)
    ctx.add_aux_flops(9)
    ctx.create(Parent(block_size=32), Runner(), overwrite=True)
    assert ctx.block_size == 32
    assert ctx.impl_backend == "mojo"
    assert ctx.tensor_list == ctx.op_list == []
    assert ctx.output_tensor_to_op_list == []
    assert ctx.op_to_input_tensor_list == ctx.op_to_output_tensor_list == []
    assert ctx.tensor_id_to_tensor_name_map == {}
    assert ctx.tensor_id_to_current_id_map == {}
    assert ctx.compilation_header_lines == ctx.auxilary_func_def_lines == []
    assert ctx.mode == "execute"
    assert (ctx.summary().aux_bytes, ctx.summary().aux_flops) == (7, 9)


def test_contexts_share_no_lists() -> None:
    first, second = cache_context(), cache_context()
    tensor(first, 1, 8)
    assert second.tensor_list == []


@each_side
def test_mode_equals_its_name(side: Any) -> None:
    ctx = side.Context()
    assert ctx.mode == "profile"
    assert ctx.execute() is None
    assert ctx.mode == "execute"
    assert ctx.profile() is None
    assert ctx.mode == "profile" != Mode.EXECUTE


@each_side
def test_unknown_field_cannot_be_set(side: Any) -> None:
    ctx = side.Context()
    with pytest.raises(AttributeError):
        ctx.page_sise = 4
    assert not hasattr(ctx, "__dict__")


def test_assert_created_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"^Context is not created yet\.$"):
        cache.Context().assert_created()
    assert cache_context().assert_created() is None


def test_abstract_context_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="create"):
        ContextBase()  # type: ignore[abstract]


def test_unset_is_one_falsy_value() -> None:
    assert repr(UNSET) == "UNSET"
    assert pickle.loads(pickle.dumps(UNSET)) is UNSET
    assert copy.deepcopy(UNSET) is UNSET
    assert not UNSET


def test_cores_stand_in_for_multiprocessors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(__import__("sys").modules, "torch", raising=False)
    assert cache_context().num_sms == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cache_context().num_sms == 0


def test_runner_or_cuda_say_the_multiprocessors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    properties = SimpleNamespace(multi_processor_count=132)
    cuda = SimpleNamespace(
        is_available=lambda: True, get_device_properties=lambda _: properties
    )
    modules = __import__("sys").modules
    monkeypatch.setitem(modules, "torch", SimpleNamespace(cuda=cuda))
    assert cache_context().num_sms == 132
    runner = PlainRunner(Settings(8), Requests(2), num_sms=7)
    assert cache.Context().create(Parent(), runner).num_sms == 7


def test_folder_and_name_come_from_settings_and_pool() -> None:
    settings = Settings(8, vortex_compilation_cache_dir="some/where")
    runner = PlainRunner(settings, Requests(2))
    ctx = cache.Context().create(Parent(), runner)
    assert ctx.compilation_cache_dir == "some/where"
    scores = indexer.Context().create(Parent(), runner)
    assert scores.sparse_attention_name == "parent_indexer"


def test_operator_goes_by_the_mode() -> None:
    ctx = cache_context()
    keys, means = tensor(ctx, 16, 8), tensor(ctx, 1, 8)
    ctx.execute()
    with pytest.raises(NotImplementedError, match=r"^Mean: wanted a compiled"):
        cache.Mean()(keys, means, loc=LOC, ctx=ctx)
    ctx.mode = "training"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"^Unknown mode 'training'"):
        cache.Mean()(keys, means, loc=LOC, ctx=ctx)
    with pytest.raises(NotImplementedError, match=r"^vOp: profile"):
        vOp()(ctx=cache_context())
    assert ctx.op_list == []


def test_tensors_are_described_by_what_they_are_made_of() -> None:
    tagged = as_vtensor(np.zeros((2, 3, 5), np.float32), FORMAT.PAGED, 4)
    assert (tagged.shape, tagged.dtype) == ((2, 3, 5), "float32")
    assert tagged.padded_shape == (2, 4, 8)
    assert tagged.tile == (3, 5)
    assert tagged.dim() == 3
    assert as_vtensor(tagged, FORMAT.RAGGED, 6) is tagged
    assert (tagged._format, tagged.tensor_id) == (FORMAT.RAGGED, 6)
    made = as_vtensor(None, FORMAT.BATCHED, 0, shape=(0, 1, 1), dtype="fp16")
    assert made.dtype == "float16"
    with pytest.raises(TypeError, match="wanted a vTensor, a tensor or None"):
        as_vtensor([1], FORMAT.PAGED, 0)
    with pytest.raises(TypeError, match="tensor_id"):
        vTensor((0, 1, 1), _format=FORMAT.PAGED, tensor_id=True)
    with pytest.raises(TypeError, match="FORMAT"):
        vTensor((0, 1, 1), _format=2, tensor_id=0)  # type: ignore[arg-type]
