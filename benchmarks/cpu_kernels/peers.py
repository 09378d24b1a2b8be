"""The other side: torch's attention, and plain reads and copies."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.cpu_kernels.cases import Decode

Run = Callable[[], object]

EXPANDED_BYTES = 6 << 30
"""The most memory for keys and values with a copy for each query head."""


def torch_decodes(case: Decode, num_cores: int) -> dict[str, Run]:
    """Returns what runs torch's attention over contiguous keys and values.

    Every layer has its own `[batch, heads, context, head_dim]` tensors, as ours
    has its own pages: once shared by the query heads of a group, once expanded.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention as attend

    torch.set_num_threads(num_cores)
    model = case.setting.model
    dtype = getattr(torch, case.setting.dtype)
    heads, dim = model.num_kv_heads, model.head_dim
    shape = (case.batch, heads, case.context, dim)
    group = model.num_q_heads // heads
    layers = range(case.setting.num_layers)
    query = torch.randn(case.batch, model.num_q_heads, 1, dim).to(dtype)
    some = torch.randn(shape).to(dtype)
    pairs = [(some.clone(), some.clone()) for _ in layers]

    def shared() -> None:
        with torch.inference_mode():
            for keys, values in pairs:
                attend(query, keys, values, enable_gqa=True)

    runs: dict[str, Run] = {"torch enable_gqa": shared}
    if case.num_bytes * len(layers) * group <= EXPANDED_BYTES:
        wide = [
            tuple(each.repeat_interleave(group, 1) for each in pair)
            for pair in pairs
        ]

        def expanded() -> None:
            with torch.inference_mode():
                for keys, values in wide:
                    attend(query, keys, values)

        runs["torch expanded"] = expanded
    return runs


def read(num_bytes: int, num_cores: int) -> Run:
    """Returns what reads so many bytes, a share on each core."""
    data = np.ones(num_bytes // 4, np.int32)
    shares = np.array_split(data, num_cores)
    return _on_cores(np.bitwise_or.reduce, [(share,) for share in shares])


def memcpy(num_bytes: int, num_cores: int) -> Run:
    """Returns what copies so many bytes, a share on each core."""
    source, target = (np.ones(num_bytes // 4, np.int32) for _ in "st")
    split = [np.array_split(each, num_cores) for each in (target, source)]
    return _on_cores(np.copyto, list(zip(*split, strict=True)))


def _on_cores(
    work: Callable[..., object], shares: list[tuple[np.ndarray, ...]]
) -> Run:
    """Returns what calls `work` on all shares at the same time."""
    if len(shares) == 1:
        return lambda: work(*shares[0])
    pool = ThreadPoolExecutor(len(shares))
    return lambda: list(pool.map(lambda share: work(*share), shares))
