"""The memory that a manager's books take, measured in a process of its own.

    python -m benchmarks.manager.footprint max-paged 1048576 16

prints the bytes per page of an empty and of a full pool, without the keys and
values themselves.
"""

import gc
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from max.driver import CPU, Buffer
from max.dtype import DType

from benchmarks.manager.scaling import fill, pool_of
from benchmarks.manager.sides import BYTES_PER_TOKEN, Factory
from benchmarks.rows import ROOT


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes per page of the books."""

    empty: float
    """Of a pool in which every page is blank."""
    full: float
    """Of a pool in which every page is cached, tokens included if kept."""


def measure(who: str, num_pages: int, page_size: int) -> Footprint:
    """Returns the footprint of a side, from a new process.

    Raises:
        CalledProcessError: If the process failed; it has said why.
    """
    module = "benchmarks.manager.footprint"
    run = subprocess.run(
        [sys.executable, "-m", module, who, str(num_pages), str(page_size)],
        cwd=ROOT,
        env=dict(os.environ),  # Without what MAX has set by `setenv`.
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Footprint(**json.loads(run.stdout.splitlines()[-1]))


def resident_bytes() -> int:
    """Returns the memory of this process that is in use."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return 1024 * int(line.split()[1])
    raise OSError("wanted VmRSS in /proc/self/status, it is not there")


def weigh(factory: Factory, num_pages: int, page_size: int) -> Footprint:
    """Makes and fills a side, after a small one that warms everything up."""
    small = pool_of(256, page_size)
    first = factory(small)
    fill(first)
    start = resident_bytes()
    shape = ((num_pages + 1) * page_size * BYTES_PER_TOKEN,)
    # What of the pages counts as in use depends on how MAX zeroes them. This
    # buffer is kept: what is given back may be handed out once more.
    alike = Buffer.zeros(shape, DType.uint8, CPU())
    start, pages = resident_bytes(), resident_bytes() - start
    pool = pool_of(num_pages, page_size)
    side = factory(pool)
    empty = resident_bytes() - start - pages
    fill(side)
    full = resident_bytes() - start - pages
    assert alike.shape == shape
    return Footprint(empty / num_pages, full / num_pages)


def main() -> None:
    """Measures the side that the command line names."""
    from benchmarks.manager.lineup import line_up

    who, num_pages, page_size = sys.argv[1:]
    factory = line_up().factories[who]
    print(json.dumps(asdict(weigh(factory, int(num_pages), int(page_size)))))


if __name__ == "__main__":
    main()
