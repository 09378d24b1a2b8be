"""A hybrid model's plan has the bytes of the pool that holds its states."""

import pytest

from kvcache.planning import (
    KVFormat,
    MemoryBudget,
    plan_cache,
    shape_from_config,
)
from public_configs import QWEN3_NEXT_80B

torch = pytest.importorskip("torch")
pools = pytest.importorskip("kvcache.pools")

SMALL = QWEN3_NEXT_80B | {
    "hidden_size": 64,
    "linear_key_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_value_head_dim": 16,
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kernel", [1, 2, 4])
def test_states_are_those_of_the_pool(dtype: str, kernel: int) -> None:
    config = SMALL | {"torch_dtype": dtype, "linear_conv_kernel_dim": kernel}
    plan = plan_cache(
        shape_from_config(config),
        KVFormat("bfloat16"),
        MemoryBudget(memory=8_000_000),
        page_size=16,
        max_len=100,
    )
    pool = pools.GDNPool(
        plan.num_slots,
        36,
        num_v_heads=6,
        head_k_dim=8,
        head_v_dim=16,
        conv_dim=2 * 2 * 8 + 6 * 16,
        conv_kernel_size=kernel,
        device="cpu",
        dtype=getattr(torch, dtype),
    )
    assert plan.num_slots > 1
    assert plan.state_bytes == pool.mem_bytes()
    assert plan.page_memory + pool.mem_bytes() == plan.budget.bytes
