from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from flow_contexts import (
    LOC,
    Parent,
    Runner,
    cache_context,
    check_lists,
    indexer_context,
)
from kvcache.compiler import FORMAT, cache, flows, indexer, register, vFlow
from kvcache.compiler.recording import record_cache, record_indexer
from kvcache.compiler.registry import (
    flow_class,
    flow_names,
    make_flow,
    parse_sparse,
)
from kvcache.compiler.runners import Requests, Settings
from kvcache.compiler.runners import Runner as PlainRunner
from kvcache.compiler.vtensor import vTensor
from kvcache.errors import InvalidParamsError
from kvcache.summaries import SummaryField

SHIPPED = ("block_sparse", "gqa_block_sparse", "quest", "window")
ALIASES = {
    "block_sparse_attention": "block_sparse",
    "gqa_block_sparse_attention": "gqa_block_sparse",
    "gqa_quest_sparse_attention": "quest",
    "sliding_window_sparse_attention": "window",
}
SUMMARISING = {
    "block_sparse": [("Mean", {"dim": 1})],
    "gqa_block_sparse": [("Mean", {"dim": 1})],
    "quest": [("Max", {"dim": 1}), ("Min", {"dim": 1})],
    "window": [("Mean", {"dim": 1})],
}
BY_CENTROID = [("Mean", {"dim": 1}), ("GeMV", {}), ("topK", {})]
SCORING = {
    "block_sparse": BY_CENTROID,
    "gqa_block_sparse": [
        ("GeMM", {}),
        ("Softmax", {"scale": 0.09}),
        ("Max", {"dim": 2}),
        ("topK", {}),
    ],
    "quest": [
        ("Multiply", {}),
        ("Multiply", {}),
        ("Maximum", {}),
        ("Sum", {"dim": 2}),
        ("Max", {"dim": 1}),
        ("topK", {}),
    ],
    "window": BY_CENTROID,
}


def kinds(ctx: Any) -> list[tuple[str, dict[str, float]]]:
    return [(op.kind, op.attributes) for op in ctx.op_list]


@pytest.mark.parametrize("name", SHIPPED)
def test_summaries_are_recorded_with_fields_in_front(name: str) -> None:
    ctx = cache_context()
    flow = make_flow(name)
    record_cache(flow, ctx)
    check_lists(ctx)
    assert ctx.mode == "execute"
    assert kinds(ctx) == SUMMARISING[name]
    declared = list(flow.create_cache(16, 8))
    assert ctx.tensor_id_to_tensor_name_map == {
        index: f"cache['{field}']"
        for index, field in enumerate([*declared, "k", "v"])
    }
    for index in range(len(declared)):
        assert ctx.tensor_list[index].tile == (1, 8)
        assert ctx.output_tensor_to_op_list[index] == index
    for field in ctx.tensor_list:
        assert (field._format, field.shape[0]) == (FORMAT.PAGED, 0)
        assert field.dtype == "bfloat16"
    assert [each.tile for each in ctx.tensor_list[len(declared) :]] == [
        (16, 8),
        (16, 8),
    ]


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("group_size", [None, 1, 8])
def test_scores_are_recorded_and_end_in_topk(
    name: str, group_size: int | None
) -> None:
    ctx = indexer_context()
    flow = make_flow(name)
    record_indexer(flow, ctx, group_size)
    check_lists(ctx)
    assert ctx.mode == "execute"
    assert kinds(ctx) == SCORING[name]
    *fields, q, o = ctx.tensor_id_to_tensor_name_map
    assert list(ctx.tensor_id_to_tensor_name_map.values()) == [
        *(f"cache['{field}']" for field in flow.create_cache(16, 8)),
        "cache['k']",
        "cache['v']",
        "q",
        "o",
    ]
    assert fields == list(range(len(fields)))
    assert ctx.tensor_list[q].shape == (0, group_size or 3, 8)
    assert ctx.tensor_list[q]._format is FORMAT.BATCHED
    assert ctx.tensor_list[o].dtype == "int32"
    assert ctx.output_tensor_to_op_list[o] == len(ctx.op_list) - 1
    (score,) = ctx.op_to_input_tensor_list[-1]
    assert ctx.tensor_list[score].tile == (1, 1)
    assert ctx.tensor_list[score]._format is FORMAT.RAGGED


def test_quest_multiplies_queries_by_both_ends() -> None:
    ctx = indexer_context()
    record_indexer(make_flow("quest"), ctx)
    largest, smallest, _, _, q, _ = range(6)
    reads = ctx.op_to_input_tensor_list
    assert reads[:2] == [[q, largest], [q, smallest]]
    assert reads[2] == [6, 7]


def test_gqa_reads_the_shares_and_not_the_products() -> None:
    ctx = indexer_context()
    record_indexer(make_flow("gqa_block_sparse"), ctx)
    centroids, _, _, q, o, products, shares, score = range(8)
    assert ctx.op_to_input_tensor_list == [
        [q, centroids],
        [products],
        [shares],
        [score],
    ]
    assert ctx.op_to_output_tensor_list[-1] == [o]


class InPlace(flows.GQABlockSparseAttention):
    def forward_indexer(
        self, q: vTensor, o: vTensor, cache: Mapping[str, vTensor], ctx: Any
    ) -> None:
        products = self.products(q, cache["centroids"], ctx=ctx)
        self.share(products, ctx=ctx)
        self.choose(self.largest(products, ctx=ctx), o, ctx=ctx)


def test_softmax_need_not_be_assigned() -> None:
    ctx, other = indexer_context(), indexer_context()
    record_indexer(InPlace(), ctx)
    record_indexer(flows.GQABlockSparseAttention(), other)
    assert ctx.op_to_input_tensor_list == other.op_to_input_tensor_list
    assert kinds(ctx) == kinds(other)


@pytest.mark.parametrize("name", SHIPPED)
def test_flow_is_recorded_anew_as_often_as_wanted(name: str) -> None:
    flow = make_flow(name)
    ctx = cache_context()
    scores = indexer_context()
    for _ in range(2):
        record_cache(flow, ctx)
        record_indexer(flow, scores)
    ctx.create(Parent(), Runner(), overwrite=True)
    record_cache(flow, ctx)
    record_cache(flow, cache_context(block_size=32))
    assert (flow.block_size, flow.head_dim) == (32, 8)
    assert kinds(ctx) == SUMMARISING[name]
    assert kinds(scores) == SCORING[name]
    with pytest.raises(RuntimeError, match="wanted an operator for each call"):
        _profile_again(flow, ctx)


def _profile_again(flow: vFlow, ctx: cache.Context) -> None:
    ctx.profile()
    record_cache(flow, ctx)
    ctx.profile()
    names = ctx.tensor_id_to_tensor_name_map.values()
    fields = {
        name[len("cache['") : -len("']")]: field
        for name, field in zip(names, ctx.tensor_list, strict=False)
    }
    flow.forward_cache(fields, LOC, ctx)


def test_types_that_a_flow_has_are_kept() -> None:
    flow = make_flow("quest")
    flow.initialize(16, 8, "fp8_e4m3", "float16", "float32")
    ctx = indexer_context()
    record_indexer(flow, ctx)
    types = [each.dtype for each in ctx.tensor_list]
    assert types[:2] == ["float32"] * 2
    assert types[2:4] == ["float8_e4m3fn"] * 2
    assert types[4:6] == ["float16", "int32"]
    assert set(types[6:]) == {"bfloat16"}
    record_cache(flow, cache_context(head_dim=16))
    assert flow.head_dim == 16
    assert flow.kv_cache_dtype == "float8_e4m3fn"
    assert flow.q_data_type == "float16"
    assert flow.intermediate_dtype == "float32"


def test_flow_raises_what_is_chosen_and_never_lowers_it() -> None:
    settings = Settings(8, vortex_topk_val=3, vortex_block_reserved_bos=5)
    runner = PlainRunner(settings, Requests(2))
    ctx = indexer.Context().create(Parent(), runner)
    record_indexer(flows.SlidingWindowAttention(2, 7, 1), ctx)
    assert (ctx.block_reserved_bos, ctx.block_reserved_eos) == (5, 7)
    assert ctx.topk_val == 3


def test_window_reserves_what_it_is_made_with() -> None:
    flow = make_flow("window", first=2, last=8, topk_val=4)
    assert (flow.block_reserved_bos, flow.block_reserved_eos) == (2, 8)
    assert flow.topk_val == 4
    plain = make_flow("block_sparse")
    assert (plain.block_reserved_bos, plain.block_reserved_eos) == (1, 1)
    assert plain.topk_val == 0


@pytest.mark.parametrize(
    "settings", [{"first": 0}, {"last": 0}, {"topk_val": -1}], ids=repr
)
def test_window_always_keeps_both_ends(settings: dict[str, int]) -> None:
    with pytest.raises(InvalidParamsError, match="wanted first and last of at"):
        make_flow("window", **settings)


class Twice(flows.BlockSparseAttention):
    def forward_cache(
        self, cache: Mapping[str, vTensor], loc: Any, ctx: Any
    ) -> None:
        for _ in range(2):
            super().forward_cache(cache, loc, ctx)


class Forgetful(flows.BlockSparseAttention):
    def forward_cache(
        self, cache: Mapping[str, vTensor], loc: Any, ctx: Any
    ) -> None:
        self.centroid(cache["k"], None, loc=loc, ctx=ctx)

    def forward_indexer(self, *given: Any) -> None:  # type: ignore[override]
        q, _, _, ctx = given
        self.query(q, ctx=ctx)


def test_failed_recording_leaves_nothing() -> None:
    ctx, scores = cache_context(), indexer_context()
    ctx.execute()
    with pytest.raises(RuntimeError, match=r"^Mean: wanted an operator for"):
        record_cache(Twice(), ctx)
    with pytest.raises(RuntimeError, match=r"^Forgetful: .* for centroids$"):
        record_cache(Forgetful(), ctx)
    with pytest.raises(RuntimeError, match=r"^Forgetful: .* call topK"):
        record_indexer(Forgetful(), scores)
    for each in (ctx, scores):
        assert each.tensor_list == each.op_list == []
        assert each.tensor_id_to_tensor_name_map == {}
    assert ctx.mode == "execute"
    assert scores.mode == "profile"
    with pytest.raises(RuntimeError, match="Context is not created yet"):
        record_cache(make_flow("quest"), cache.Context())


def test_ratios_count_bytes() -> None:
    flow = make_flow("quest")
    with pytest.raises(RuntimeError, match="wanted initialize"):
        flow.get_token_ratio()
    flow.initialize(16, 8, "bfloat16", "bfloat16")
    assert flow.get_aux_token_ratio() == 2 / 16
    assert flow.get_token_ratio() == 2 + 2 / 16
    flow.initialize(16, 8, "fp8_e5m2", "bfloat16", np.float32)
    assert flow.get_aux_token_ratio() == 2 * 4 / 16
    assert flow.cache_meta_info == {
        "max": ((1, 8), "float32"),
        "min": ((1, 8), "float32"),
        "k": ((16, 8), "float8_e5m2"),
        "v": ((16, 8), "float8_e5m2"),
    }


def test_flow_says_what_a_pool_keeps() -> None:
    kept = make_flow("quest").summaries(32, 64, "float32")
    assert kept.block_size == 32
    assert kept.fields == (
        SummaryField("max", 1, 64, "float32"),
        SummaryField("min", 1, 64, "float32"),
    )
    assert make_flow("window").summaries(16, 8).fields[0].dtype == "bfloat16"
    with pytest.raises(ValueError, match="power of two"):
        make_flow("quest").summaries(24, 64)
    with pytest.raises(ValueError, match="int8"):
        make_flow("quest").summaries(32, 64, "int8")


@pytest.mark.parametrize("name", ["k", "v"])
def test_keys_and_values_cannot_be_declared(name: str) -> None:
    flow = flows.BlockSparseAttention()
    flow.create_cache = lambda *_: {name: (1, 8)}  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="other than k and v"):
        flow.initialize(16, 8, "bfloat16", "bfloat16")
    with pytest.raises(AssertionError, match="other than k and v"):
        flow.summaries(16, 8)
    assert flow.block_size is None


@pytest.mark.parametrize("tile", [(0, 8), (8,), (1, 2, 3)])
def test_field_without_elements_cannot_be_declared(tile: Any) -> None:
    flow = flows.BlockSparseAttention()
    flow.create_cache = lambda *_: {"m": tile}  # type: ignore[method-assign]
    with pytest.raises(InvalidParamsError, match="two positive extents"):
        flow.initialize(16, 8, "bfloat16", "bfloat16")


def test_flow_is_abstract() -> None:
    with pytest.raises(TypeError, match="create_cache"):
        vFlow()  # type: ignore[abstract]


def test_shipped_flows_have_names_and_aliases() -> None:
    assert set(SHIPPED) <= set(flow_names())
    assert flow_names() == sorted(flow_names())
    assert not set(ALIASES) & set(flow_names())
    for alias, name in ALIASES.items():
        assert flow_class(alias) is flow_class(name)
    assert type(make_flow("quest")) is flows.GQAQuestSparseAttention
    assert make_flow("quest") is not make_flow("quest")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("quest:0.25", ("quest", 0.25)),
        ("gqa_quest_sparse_attention:.5", ("quest", 0.5)),
        ("block_sparse:1", ("block_sparse", 1.0)),
        ("window:1e-3", ("window", 0.001)),
    ],
)
def test_text_means_flow_and_share(text: str, meant: tuple[str, float]) -> None:
    assert parse_sparse(text) == meant


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("quest", "wanted FLOW:SHARE, such as quest:0.25, got 'quest'"),
        ("", "wanted FLOW:SHARE"),
        ("quest:", "above 0 and at most 1, got ''"),
        ("quest:0", "above 0 and at most 1, got '0'"),
        ("quest:-0.5", "above 0 and at most 1"),
        ("quest:1.01", "above 0 and at most 1"),
        ("quest:nan", "above 0 and at most 1"),
        ("quest:inf", "above 0 and at most 1"),
        ("quest:1/4", "above 0 and at most 1"),
        ("quest:0.5:2", "above 0 and at most 1"),
        (":0.5", "wanted a flow: .*got ''"),
        ("dense:0.5", "block_sparse, .*quest, .*window, got 'dense'"),
    ],
)
def test_other_texts_are_refused(text: str, wanted: str) -> None:
    with pytest.raises(InvalidParamsError, match=wanted) as caught:
        parse_sparse(text)
    assert isinstance(caught.value, ValueError)


def test_user_registers_a_flow_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kvcache.compiler import registry

    flow_names()  # loads what is shipped
    monkeypatch.setattr(registry, "_FLOWS", dict(registry._FLOWS))
    monkeypatch.setattr(registry, "_SHORT_NAMES", dict(registry._SHORT_NAMES))

    def define() -> type[vFlow]:
        @register("mine", "ours")
        class Mine(flows.BlockSparseAttention):
            pass

        return Mine

    mine = define()
    assert flow_class("ours") is mine
    assert "mine" in flow_names()
    assert parse_sparse("ours:1") == ("mine", 1.0)
    again = define()
    assert again is not mine
    assert flow_class("mine") is flow_class("ours") is again
    with pytest.raises(InvalidParamsError, match="wanted a name that no flow"):
        register("free", "quest")(mine)
    assert "free" not in flow_names()
    for name in ("", "a b", "quest:1", "1st"):
        with pytest.raises(InvalidParamsError, match="wanted a name of"):
            register(name)
    with pytest.raises(TypeError, match="derived from vFlow"):
        register("other")(int)  # type: ignore[type-var]
