"""Our views, given to MAX's own attention on the CPU."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max.dtype import DType
from max.graph import DeviceRef

from kernels.batch import REGIMES, batches, regimes
from kernels.checks import check_attention
from kernels.models import Kernels
from kernels.rules import CAUSAL
from kvcache.graphs import attention_max_graph
from kvcache.ops import CacheInputTypes


@pytest.mark.parametrize("regime", REGIMES)
def test_attention_equals_reference_at_the_edges(
    max_kernels: Kernels, regime: str
) -> None:
    batch = regimes(max_kernels.configuration.page_size)[regime]
    check_attention(max_kernels, batch, CAUSAL)


@given(st.data())
@settings(max_examples=30)
def test_attention_equals_reference(
    max_kernels: Kernels, data: st.DataObject
) -> None:
    batch = data.draw(batches(max_kernels.configuration, longest_new=40))
    check_attention(max_kernels, batch, CAUSAL)


@pytest.mark.parametrize(
    ("dtype", "head_dim", "device", "wanted"),
    [
        (DType.bfloat16, 64, DeviceRef.CPU(), "pool of float32, got bfloat16"),
        (DType.float32, 64, DeviceRef.GPU(), "pool of bfloat16, got float32"),
        (DType.bfloat16, 80, DeviceRef.GPU(), "of 64, 128, 256, got 80"),
    ],
)
def test_what_max_does_not_take_is_refused(
    dtype: DType, head_dim: int, device: DeviceRef, wanted: str
) -> None:
    cache = CacheInputTypes(
        dtype=dtype,
        num_layers=1,
        page_size=16,
        num_kv_heads=1,
        head_dim=head_dim,
        device=device,
    )
    with pytest.raises(ValueError, match=wanted):
        attention_max_graph(cache, num_q_heads=1, scale=1)
