import copy
import os
import pickle
from dataclasses import dataclass, replace
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
    indexer_context,
    tensor,
)
from kvcache import KVCacheParams
from kvcache.compiler import FORMAT, UNSET, Mode, as_vtensor, cache, indexer
from kvcache.compiler.context_base import ContextBase
from kvcache.compiler.parents import PoolParent, parent_of
from kvcache.compiler.runners import Requests, Settings
from kvcache.compiler.runners import Runner as PlainRunner
from kvcache.compiler.vop import vOp
from kvcache.compiler.vtensor import vTensor
from kvcache.errors import InvalidParamsError
from managers import make, make_replicas

each_side = pytest.mark.parametrize(
    "side", [cache, indexer], ids=["cache", "indexer"]
)


@dataclass(frozen=True)
class FakeTorchDevice:
    type: str


class FakeTorchTensor:
    """What torch says of a tensor's memory."""

    def __init__(
        self, address: int, num_bytes: int, device: str = "cuda:0"
    ) -> None:
        self.device = FakeTorchDevice(device.partition(":")[0])
        self._memory = SimpleNamespace(
            data_ptr=lambda: address, nbytes=lambda: num_bytes
        )

    def untyped_storage(self) -> Any:
        return self._memory

    def element_size(self) -> int:
        return 2

    def nelement(self) -> int:
        return 5


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


def slots_of(each: type) -> tuple[str, ...]:
    return each.__dict__.get("__slots__", ())


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
        {"page_size": True},
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


def test_aux_memory_adds_bytes_and_arrays() -> None:
    ctx = cache.Context()
    array = np.zeros((3, 4), np.float32)
    described = vTensor((2, 3, 4), "float16", _format=FORMAT.PAGED, tensor_id=0)
    assert ctx.add_aux_memory(5) == 5
    assert ctx.add_aux_memory(array) == 48
    assert ctx.add_aux_memory(array[1:]) == 32  # shared, and counted again
    assert ctx.add_aux_memory(described) == 48
    assert ctx.add_aux_memory(FakeTorchTensor(0, 999)) == 10
    assert ctx.summary().aux_bytes == 5 + 48 + 32 + 48 + 10
    ctx.clear_aux_memory()
    assert ctx.summary().aux_bytes == 0


@pytest.mark.parametrize("given", [True, 1.5, "8", None, [1]])
def test_aux_memory_of_something_else_is_refused(given: Any) -> None:
    ctx = cache.Context()
    with pytest.raises(TypeError, match="wanted an int or an array"):
        ctx.add_aux_memory(given)
    with pytest.raises(TypeError, match="wanted an int"):
        ctx.add_aux_flops(given)
    assert (ctx.summary().aux_bytes, ctx.summary().aux_flops) == (0, 0)


def test_negative_counts_are_refused() -> None:
    ctx = cache.Context()
    with pytest.raises(ValueError, match="got -1"):
        ctx.add_aux_memory(-1)
    with pytest.raises(ValueError, match="got -2"):
        ctx.add_aux_flops(-2)
    assert (ctx.summary().aux_bytes, ctx.summary().aux_flops) == (0, 0)


def test_aux_flops_add_up_and_clear() -> None:
    ctx = cache.Context()
    assert ctx.add_aux_flops(3) is None
    ctx.add_aux_flops(4)
    assert ctx.summary().aux_flops == 7
    ctx.clear_aux_flops()
    assert ctx.summary().aux_flops == 0


def test_summary_counts_shared_storage_once() -> None:
    ctx = indexer_context()
    base = np.zeros(100, np.int32)
    ctx.dense_kv_indices = base[:40]
    ctx.dense_kv_indptr = base[40:50].reshape(2, 5)
    ctx.sparse_kv_indices = np.zeros(7, np.int64)
    ctx.sparse_kv_indptr = [
        FakeTorchTensor(4096, 300),
        {"view": FakeTorchTensor(4096, 300)},
        FakeTorchTensor(8192, 20),
        FakeTorchTensor(64, 11, "cpu"),
    ]
    summary = ctx.summary()
    assert summary.host_bytes == 400 + 56 + 11
    assert summary.device_bytes == 320


def test_summary_reads_well_and_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ctx = indexer_context()
    ctx.dense_kv_indices = np.zeros(3 << 19, np.int32)
    ctx.sparse_kv_indices = FakeTorchTensor(0, 100)
    ctx.add_aux_memory(3 << 40)
    ctx.add_aux_flops(1234567)
    lines = str(ctx.summary()).splitlines()
    assert capsys.readouterr().out == ""
    assert [line.split() for line in lines] == [
        ["Context", "Indexer"],
        ["device", "arrays", "100", "B"],
        ["host", "arrays", "6.0", "MiB"],
        ["auxiliary", "memory", "3.0", "TiB"],
        ["auxiliary", "flops", "1,234,567"],
    ]


def test_real_arrays_of_every_library_are_counted() -> None:
    from max.driver import Buffer
    from max.dtype import DType

    ctx = indexer_context()
    ctx.dense_kv_indices = Buffer.zeros((4, 5), DType.int32)
    ctx.add_aux_memory(ctx.dense_kv_indices)
    assert ctx.summary().host_bytes == ctx.summary().aux_bytes == 80


def test_torch_tensors_are_counted_by_storage() -> None:
    torch = pytest.importorskip("torch")
    ctx = indexer_context()
    whole = torch.zeros(10, 4)
    ctx.dense_kv_indices, ctx.dense_kv_indptr = whole[:2], whole[5:]
    assert ctx.summary().host_bytes == 160
    assert ctx.add_aux_memory(whole[:2]) == 32
    runner: Any = Runner(
        SimpleNamespace(max_prefill_tokens=4, vortex_dtype=torch.float16)
    )
    ctx = indexer.Context().create(Parent(), runner)
    assert ctx.vortex_dtype == "float16"


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


def test_manager_describes_its_pool() -> None:
    parent = parent_of(make(num_pages=10, page_size=16), group_size=3)
    assert parent == PoolParent(
        page_size=16,
        block_size=16,
        num_pages=22,  # Ten and the null page, for each of two heads.
        head_num=2,
        head_dim=8,
        group_size=3,
    )
    runner = PlainRunner(Settings(8), Requests(2))
    assert cache.Context().create(parent, runner).missing() == []
    ctx = indexer.Context().create(parent, runner)
    assert ctx.max_num_blocks_per_request == 11


def test_each_replica_has_its_own_pages() -> None:
    assert parent_of(make_replicas(replicas=2, num_pages=7)).num_pages == 16


def test_params_describe_a_pool_of_so_many_pages() -> None:
    params = KVCacheParams("bfloat16", 8, 64, page_size=128, n_devices=2)
    parent = parent_of(params, num_pages=9)
    assert (parent.block_size, parent.head_num) == (64, 4)
    assert parent.num_pages == 40
    assert parent_of(params, num_pages=9, block_size=32).block_size == 32


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        (KVCacheParams("bfloat16", 8, 64, page_size=128), {}),
        (KVCacheParams("bfloat16", 8, 64, page_size=128), {"page_size": 64}),
        (
            KVCacheParams("bfloat16", 1, 64, page_size=128, is_mla=True),
            {"num_pages": 3},
        ),
        (object(), {"num_pages": 3, "page_size": 64}),
    ],
)
def test_pool_that_cannot_be_described_is_refused(
    pool: Any, told: dict[str, int]
) -> None:
    with pytest.raises(InvalidParamsError, match="wanted"):
        parent_of(pool, **told)


def test_slots_of_torch_describe_a_pool() -> None:
    pytest.importorskip("torch")
    from kvcache.pools import KVPool

    pool = KVPool(100, 1, 2, 8, "cpu", page_size=16)
    parent = parent_of(pool, page_size=16, block_size=16)
    assert (parent.num_pages, parent.head_num) == (2 * (7 + 1), 2)
    with pytest.raises(InvalidParamsError, match="wanted page_size"):
        parent_of(pool)
    with pytest.raises(InvalidParamsError, match="made with"):
        parent_of(pool, page_size=48)
    narrow = KVPool(100, 1, 2, 8, "cpu", v_head_dim=4, page_size=16)
    with pytest.raises(InvalidParamsError, match="one shape"):
        parent_of(narrow, page_size=16)


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
