"""What flows are compiled for, and which of it the tests compile."""

from dataclasses import replace

from kvcache.compiler.flows.gqa_block_sparse import GQABlockSparseAttention
from kvcache.compiler.flows.quest import GQAQuestSparseAttention
from kvcache.compiler.flows.window import SlidingWindowAttention

from .configuration import Configuration, Kept
from .flows import FlowConfiguration
from .sweep_flows import EveryOperator


def sizes(
    dtype: str,
    *,
    page_size: int,
    heads: tuple[int, int],
    head_dim: int,
    kept: Kept | None = None,
) -> Configuration:
    """Returns sizes of two layers, of which the second one is scored."""
    return Configuration(
        dtype=dtype,
        page_size=page_size,
        heads=heads,
        head_dim=head_dim,
        layers=(1, 2),
        rotations=(),
        kept=kept,
    )


SWEEP = FlowConfiguration(
    flow=EveryOperator,
    block_size=16,
    field_dtype="float32",
    sizes=sizes("float32", page_size=32, heads=(2, 3), head_dim=40),
)
"""Every operator, in heads that no wide vector divides."""

SHIPPED = (
    FlowConfiguration(
        flow=GQAQuestSparseAttention,
        block_size=16,
        field_dtype="bfloat16",
        sizes=sizes("bfloat16", page_size=64, heads=(2, 4), head_dim=128),
    ),
    FlowConfiguration(
        flow=GQAQuestSparseAttention,
        block_size=32,
        field_dtype="float16",
        sizes=sizes(
            "bfloat16",
            page_size=32,
            heads=(2, 1),
            head_dim=64,
            kept=Kept("float8_e4m3fn", "token", 32),
        ),
    ),
    FlowConfiguration(
        flow=GQABlockSparseAttention,
        block_size=16,
        field_dtype="float32",
        sizes=sizes("float32", page_size=16, heads=(3, 3), head_dim=8),
    ),
    FlowConfiguration(
        flow=SlidingWindowAttention,
        block_size=64,
        field_dtype="bfloat16",
        sizes=sizes(
            "float16",
            page_size=256,
            heads=(2, 8),
            head_dim=80,
            kept=Kept("int8", "head"),
        ),
    ),
)
"""Every flow; that of windows has the operators of `block_sparse`. Pages of one
block and of four; plain pools and quantised ones."""

FLOWS = (SWEEP, *SHIPPED)
"""All that is compiled."""

STORED_ON_CPU = SHIPPED[:2]
"""A plain pool and a quantised one, whose stores tests of the CPU compile."""

LARGE_BLOCKS = FlowConfiguration(
    flow=GQAQuestSparseAttention,
    block_size=256,
    field_dtype="bfloat16",
    sizes=replace(
        sizes("bfloat16", page_size=256, heads=(2, 4), head_dim=128),
        layers=(0, 1),
    ),
)
"""A single layer, and blocks whose keys are too many to be held in a GPU's
shared memory."""

ON_GPU = (
    *(replace(f, sizes=replace(f.sizes, layers=(1, 3))) for f in FLOWS),
    LARGE_BLOCKS,
)
"""All that is compiled for a GPU, whose stores differ in the first layer, the
last one, and those between."""
