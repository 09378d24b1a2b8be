import resource
from pathlib import Path

import numpy as np
from max.driver import Buffer
from max.dtype import DType

from kernels.configuration import LARGE_PAGES
from kernels.large_pool import SHAPE, check_large_pool
from kernels.models import CompiledKernels


def test_offsets_past_32_bits_reach_their_pages(
    compiled_kernels: CompiledKernels, tmp_path: Path
) -> None:
    # Of 8.6 GB in a sparse file, only what is touched is ever in memory.
    file = tmp_path / "pool"
    bits = np.memmap(file, np.uint16, "w+", shape=SHAPE)
    file.unlink()
    pool = Buffer.from_numpy(np.asarray(bits)).view(DType.bfloat16, SHAPE)
    before = resident_bytes()

    check_large_pool(compiled_kernels.of(LARGE_PAGES), pool)

    assert bits.size > 2**32
    assert resident_bytes() - before < 2**26


def resident_bytes() -> int:
    """Returns how much memory this process has at the moment."""
    num_pages = Path("/proc/self/statm").read_text().split()[1]
    return int(num_pages) * resource.getpagesize()
