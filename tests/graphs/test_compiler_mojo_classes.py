"""Cache sides as classes, on the seed's layout, and the files they leave."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from max.driver import CPU
from max.graph import DeviceRef, Graph, Module

from kernels.slot_caches import (
    HEAD_DIM,
    PAGE_SIZE,
    PAGES,
    fields,
    quest_cache,
    rows_of,
)
from kvcache.compiler.cache.context import Context
from kvcache.compiler.compiling import compile as compile_context
from kvcache.compiler.graph import program_of
from kvcache.compiler.mojo_backend import slot_graphs
from kvcache.compiler.mojo_backend.packages import (
    compiled_package,
    is_whole,
    seal,
)
from kvcache.compiler.mojo_backend.slot_graphs import GraphPlan
from kvcache.compiler.numpy_backend import run_cache


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def ctx(folder: Path) -> Context:
    return quest_cache(folder)


def check(compiled: Any, ctx: Context, slots: list[int], seed: int) -> None:
    cache = fields(np.random.default_rng(seed))
    made = run_cache(program_of(ctx), cache)
    rows = rows_of(slots)
    expected = {name: cache[name].copy() for name in made}
    for name in made:
        expected[name][rows] = made[name][rows]

    compiled().forward(cache, np.array(slots, np.int64), ctx, cur_layer=1)

    for name, wanted in expected.items():
        np.testing.assert_array_equal(cache[name], wanted)


def damage(file: Path) -> None:
    good = file.read_bytes()
    file.write_bytes(good[:10] + b"damaged" + good[17:])


def test_forward_summarises_blocks_that_slots_complete(ctx: Context) -> None:
    compiled = compile_context(ctx)
    everything = list(range(PAGES * PAGE_SIZE))
    for seed, slots in enumerate(
        ([], [15], [14], [15, 14, 63, 40, 127], everything)
    ):
        check(compiled, ctx, slots, seed)


def test_a_bad_array_is_refused_before_any_is_written(ctx: Context) -> None:
    forward = compile_context(ctx)().forward
    rng, slots = np.random.default_rng(0), np.array([15])
    for name, bad, wanted in (
        ("max", np.zeros((3, 1, HEAD_DIM), np.float32), "as many rows"),
        ("max", np.zeros((16, 2, HEAD_DIM), np.float32), "max float32"),
        ("k", np.zeros((16, 16, HEAD_DIM), np.float16), "k of float32"),
        ("min", fields(rng)["min"][::2], "min contiguous"),
    ):
        cache = fields(rng) | {name: bad}
        good = [each for each in ("max", "min") if each != name]
        with pytest.raises(ValueError, match=wanted):
            forward(cache, slots)
        assert all((cache[each] == -7).all() for each in good)
    with pytest.raises(ValueError, match="loc of int64"):
        forward(fields(rng), slots.astype(np.int32))
    with pytest.raises(KeyError, match="max"):
        forward({"k": fields(rng)["k"]}, slots)


def test_a_damaged_package_is_made_again(tmp_path: Path) -> None:
    source = "def nothing():\n    pass\n"
    made = compiled_package(source, tmp_path)
    _, extension = made
    for ending in (".mojo", ".mojoc"):
        file = extension.with_suffix(ending)
        damage(file)
        assert compiled_package(source, tmp_path) == made
        assert b"damaged" not in file.read_bytes()
        assert is_whole(extension)


class AskedForError(Exception):
    """A graph is about to be compiled."""


class Kept(GraphPlan):
    """A graph that is in its file, or else must be compiled."""

    label = "kept"

    def graph(self, device: DeviceRef, module: Module | None = None) -> Graph:
        """Builds none."""
        raise AskedForError(device, module)


def test_a_damaged_graph_is_compiled_again(
    ctx: Context, folder: Path, tmp_path: Path
) -> None:
    check(compile_context(ctx), ctx, [15], 0)
    (file,) = folder.rglob("*.mef")
    plan = Kept("flow", tmp_path / "flow.mojoc")
    mef = Path(shutil.copy(file, plan.mef("cpu")))
    seal(mef)
    assert slot_graphs.loaded(plan, CPU())
    slot_graphs.loaded.cache_clear()
    damage(mef)
    with pytest.raises(AskedForError):
        slot_graphs.loaded(plan, CPU())


def test_a_graph_that_is_kept_is_not_compiled_again(
    ctx: Context, folder: Path
) -> None:
    check(compile_context(ctx), ctx, [15], 0)
    (file,) = folder.rglob("*.mef")
    before = file.stat()
    slot_graphs.loaded.cache_clear()

    check(compile_context(ctx), ctx, [15, 31], 1)

    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )


def test_equal_pipelines_share_their_files(ctx: Context, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    other = quest_cache(folder)
    assert compile_context(other).__name__ == compile_context(ctx).__name__
    assert sorted(folder.rglob("*")) == before
