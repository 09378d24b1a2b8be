from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvcache.paged_attention import PagedAttentionCacheView  # noqa: E402
from paged_caches import (  # noqa: E402
    ONE,
    bits,
    decode,
    filled_view,
    prefill,
    rows,
    sizes,
)
from paged_writes import WritesAgainstALoop  # noqa: E402


class TestTorch(WritesAgainstALoop):
    backend = "torch"

    def own(self, array: Any) -> Any:
        if array.dtype.name != "bfloat16":
            return torch.tensor(array)
        raw = torch.tensor(array.view(np.int16))
        return raw.view(torch.bfloat16)


def test_pages_are_tensors_of_the_type() -> None:
    view = PagedAttentionCacheView.init(
        ONE, sizes(dtype=torch.bfloat16), 0, backend="torch"
    )
    assert view.key_pages.dtype == torch.bfloat16
    assert view.metadata.dtype == "bfloat16"


def test_uint16_is_the_bits_of_bfloat16() -> None:
    view = filled_view(sizes(dtype="bfloat16"), backend="torch")
    raw = np.arange(4 * 2 * 8, dtype=np.uint16).reshape(4, 2, 8)
    view.concatenate_to_cache(raw, raw, prefill(4, [3]))
    np.testing.assert_array_equal(bits(view.key_pages)[:, 3, 1], raw[1])


def test_a_step_of_tensors_is_that_of_numpy() -> None:
    one, other = (filled_view(sizes(), backend="torch") for _ in range(2))
    step = decode([5, -1], [[1, 2, 3], [4, 5, 6]])
    tensors = step.replace(
        generate_pos=torch.tensor([5, -1]),
        generate_page_table=torch.tensor([[1, 2, 3], [4, 5, 6]]),
        prefill_length=torch.tensor(0),
    )
    one.concatenate_to_cache(rows(2), rows(2), step)
    other.concatenate_to_cache(rows(2), rows(2), tensors)
    assert one == other
    assert tensors != step


def test_rows_that_want_gradients_are_written() -> None:
    view = filled_view(sizes(), backend="torch")
    keys = torch.tensor(rows(4), requires_grad=True) * 1
    view.concatenate_to_cache(keys, keys, prefill(4, [1]))
    assert not view.key_pages.requires_grad
    assert torch.equal(view.key_pages[:, 1, 0], keys[0].detach())


def test_rows_of_another_library_are_refused() -> None:
    view = filled_view(sizes(), backend="numpy")
    with pytest.raises(ValueError, match="must be an array of numpy or numpy"):
        view.concatenate_to_cache(
            torch.tensor(rows(4)), rows(4), prefill(4, [1])
        )


def test_a_device_mesh_of_torch_is_a_mesh() -> None:
    from torch.distributed import (
        destroy_process_group,
        init_device_mesh,
        init_process_group,
    )
    from torch.testing._internal.distributed.fake_pg import FakeStore

    init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    finally:
        destroy_process_group()
    found = PagedAttentionCacheView.init(mesh, sizes(), 0, backend="torch")
    assert found.kv_pages_sharding.mesh.shape == {"dp": 2, "tp": 2}
    assert [tuple(each.shape) for each in found.key_pages] == [(1, 9, 4, 8)] * 4
    assert found.kv_pages_sharding.num_replicas == 2


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("code", [None, "int8", "float8_e4m3fn"])
def test_buffers_written_through_torch_are_those_written_through_numpy(
    dtype: str, code: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of GPUs, over buffers of the CPU, which torch sees as well."""
    from kvcache.paged_attention import PageQuantizer, max_backend

    quantizer = code if code is None else PageQuantizer(code)
    made = [
        PagedAttentionCacheView.init(ONE, sizes(dtype=dtype), 0, quantizer)
        for _ in range(2)
    ]
    step = decode([5, -1], [[1, 2, 3], [4, 5, 6]])
    keys, values = rows(2, 1), rows(2, 2)
    made[0].concatenate_to_cache(keys, values, step)
    wanted = [bits(each) for each in made[0].read_from_cache([1, 2], 6)]
    with monkeypatch.context() as patch:
        patch.setattr(max_backend, "is_host", lambda _: False)
        made[1].concatenate_to_cache(keys, values, step)
        found = made[1].read_from_cache([1, 2], 6)
    assert made[0] == made[1]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(bits(one), other)


def test_a_gpu_that_is_not_there_is_named() -> None:
    from kvcache.paged_attention import Mesh

    with pytest.raises(ValueError, match="are there, got gpu:99"):
        PagedAttentionCacheView.init(
            Mesh([torch.device("cuda", 99)], "tp"), sizes(), 0, backend="torch"
        )
