"""What the machine reaches: copies in its memory, and to the host's."""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from max.driver import Buffer, Device
from max.dtype import DType

from benchmarks.gpu_kernels.bench import Bench, Ceilings
from benchmarks.gpu_kernels.layout import drawn, repeated
from kvcache.manager.host import host_buffer

DEVICE_BYTES = 2**32
HOST_BYTES = 2**28
WORDS_PER_PROGRAM = 2**16


def measure_ceilings(device: Device) -> Ceilings:
    """Returns gigabytes per second by what is done.

    `copy` counts bytes read and bytes written; `read` is there where torch is:
    the best of its reductions and of one in Triton; `offload` and `onload` are
    one copy each to and from pinned memory.
    """
    bench = Bench({}, device, {})
    one, other = (
        repeated(drawn(device, 2**20), DEVICE_BYTES // 2**21).view(
            DType.uint8, [DEVICE_BYTES]
        )
        for _ in "ab"
    )
    part = one[slice(0, HOST_BYTES)]
    pinned = host_buffer([HOST_BYTES], DType.uint8, device)
    runs: dict[str, tuple[int, Callable[[], object]]] = {
        "copy": (2 * DEVICE_BYTES, lambda: one.inplace_copy_from(other)),
        "offload": (HOST_BYTES, lambda: pinned.inplace_copy_from(part)),
        "onload": (HOST_BYTES, lambda: part.inplace_copy_from(pinned)),
    }
    ceilings = {
        name: num_bytes / bench.device_us(run) / 1e3
        for name, (num_bytes, run) in runs.items()
    }
    if bench.has_torch:
        ceilings["read"] = DEVICE_BYTES / _read_us(bench, one) / 1e3
    return ceilings


def _read_us(bench: Bench, buffer: Buffer) -> float:
    """Returns the time of the fastest read of a buffer, in microseconds."""
    import torch

    whole = torch.from_dlpack(buffer)
    words, numbers = (
        whole.view(dtype) for dtype in (torch.int32, torch.float32)
    )
    reads: list[Callable[[], object]] = [words.amax, numbers.amax, numbers.sum]
    if find_spec("triton") is not None:
        reads.append(_triton_read(words))
    return min(bench.torch_us(read) for read in reads)


def _triton_read(words: Any) -> Callable[[], object]:
    """Returns what reads all words and keeps one sum of each stretch."""
    import torch

    from benchmarks.gpu_kernels.triton_kernel import read

    programs = words.numel() // WORDS_PER_PROGRAM
    sums = torch.empty(programs, dtype=torch.int32, device=words.device)
    return functools.partial(
        read[(programs,)],
        *(words, sums),
        per_program=WORDS_PER_PROGRAM,
        block=4096,
        num_warps=8,
    )
