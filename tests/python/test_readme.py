"""The README's code runs as it stands there."""

import re
from typing import Any

import numpy as np
import numpy.typing as npt
from max.driver import Buffer

from kvcache.manager import RaggedKVCacheInputs
from managers import make
from paths import ROOT


def test_first_example_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    seen: list[tuple[int, ...]] = []

    def my_model(
        tokens: npt.NDArray[np.int64],
        blocks: Buffer,
        cache_lengths: Buffer,
        lookup_table: Buffer,
        max_lengths: Buffer,
    ) -> int:
        assert len(blocks.shape) == 6
        assert lookup_table.shape[0] == 1
        seen.append((len(tokens), int(cache_lengths.to_numpy()[0])))
        assert max_lengths.to_numpy()[0, 0] == len(tokens)
        return 7

    names: dict[str, object] = {"my_model": my_model}
    exec(compile(blocks[0], "README.md", "exec"), names)
    assert seen == [(5, 0), *((1, n) for n in range(5, 24))]


def test_running_batch_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    manager, steps = make(), iter([[7, 2], [7], [2]])

    def my_step(inputs: list[RaggedKVCacheInputs]) -> npt.NDArray[np.int64]:
        ((_, lengths, table, longest),) = inputs
        assert lengths.shape[0] == table.shape[0]
        seen.append((lengths.to_numpy().tolist(), longest.to_numpy()[0, 1]))
        return np.array(next(steps))

    seen: list[tuple[list[int], int]] = []
    prompts = [np.arange(20), np.arange(18)]
    names = {
        "manager": manager,
        "prompts": prompts,
        "my_step": my_step,
        "EOS": 2,
    }
    exec(compile(blocks[1], "README.md", "exec"), names)
    assert seen == [([0, 0], 20), ([20], 21), ([21], 22)]
    assert manager.num_free_blocks == 10


def test_own_flow_scores_blocks() -> None:
    from kvcache.compiler.mojo_backend import flow_programs
    from kvcache.compiler.numpy_backend import run_cache, score_blocks

    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (code,) = (block for block in blocks if "vFlow" in block)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(code.strip().splitlines()) < 30
    programs = flow_programs(
        names["Loudest"](), block_size=16, head_dim=8, group_size=2
    )
    rng = np.random.default_rng(4)
    keys = rng.standard_normal((5, 16, 8)).astype(np.float32)
    queries = rng.standard_normal((2, 8)).astype(np.float32)
    fields = run_cache(programs.cache, {"k": keys, "v": keys})
    scores = score_blocks(programs.indexer, queries, fields)
    longest = np.linalg.norm(keys, axis=2).max(axis=1)
    products = keys.mean(axis=1) @ queries.T
    np.testing.assert_allclose(
        scores, products.max(axis=1) * longest, rtol=1e-5
    )


README = (ROOT / "README.md").read_text()
