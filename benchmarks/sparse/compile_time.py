"""How long a flow takes to compile, and to be found compiled.

    python -m benchmarks.sparse.compile_time

Prints the seconds for Quest, every cache empty, then in a new process with them
filled: the package for graphs (`flow_ops`), and the class of the cache side for
arrays in the seed's layout, compiled and run once.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rows import context, processor

BLOCK_SIZE, HEAD_DIM, GROUP_SIZE = 16, 64, 3
ONE = "--one"


def one() -> dict[str, float]:
    """Compiles, or finds, a flow; returns seconds, imports excluded."""
    import numpy as np

    from kvcache.compiler import Context
    from kvcache.compiler.compiling import compile as compile_pipeline
    from kvcache.compiler.mojo_backend import flow_ops
    from kvcache.compiler.parents import PoolParent
    from kvcache.compiler.recording import record_cache
    from kvcache.compiler.registry import make_flow
    from kvcache.compiler.runners import Requests, Runner, Settings
    from kvcache.mojo_sources import precompiled_package

    precompiled_package()  # The kernels themselves, compiled once for all.
    begin = time.perf_counter()
    flow_ops(
        make_flow("quest"),
        block_size=BLOCK_SIZE,
        head_dim=HEAD_DIM,
        group_size=GROUP_SIZE,
        field_dtype="float32",
    )
    package = time.perf_counter() - begin
    parent = PoolParent(
        page_size=BLOCK_SIZE,
        block_size=BLOCK_SIZE,
        num_pages=4,
        head_num=1,
        head_dim=HEAD_DIM,
        group_size=GROUP_SIZE,
    )
    settings = Settings(max_prefill_tokens=64, vortex_dtype="float32")
    ctx = Context().create(parent, Runner(settings, Requests(1)))
    record_cache(make_flow("quest"), ctx)
    keys = np.ones((4, BLOCK_SIZE, HEAD_DIM), np.float32)
    fields = {
        "max": np.zeros((4, 1, HEAD_DIM), np.float32),
        "min": np.zeros((4, 1, HEAD_DIM), np.float32),
        "k": keys,
        "v": keys,
    }
    begin = time.perf_counter()
    compiled = compile_pipeline(ctx)()
    compiled.forward(fields, np.arange(BLOCK_SIZE), ctx)
    whole = time.perf_counter() - begin
    assert fields["max"][0].all(), "the first block is complete"
    return {"flow_ops_s": round(package, 3), "class_s": round(whole, 3)}


def main() -> None:
    """Runs twice with the same empty caches."""
    if ONE in sys.argv:
        print(json.dumps(one()))
        return
    where = context(processor())
    with tempfile.TemporaryDirectory() as folder:
        env = dict(
            os.environ,
            KVCACHE_CACHE_DIR=str(Path(folder, "kvcache")),
            MODULAR_CACHE_DIR=str(Path(folder, "modular")),
        )
        for case in ("compile quest", "find quest compiled"):
            run = subprocess.run(
                [sys.executable, "-m", __spec__.name, ONE],
                env=env,
                capture_output=True,
                text=True,
                check=True,
            )
            print(json.dumps({"case": case, **json.loads(run.stdout), **where}))


if __name__ == "__main__":
    main()
