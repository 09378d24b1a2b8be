"""With asserts on, no member of a cache goes past what is there."""

import subprocess
from pathlib import Path

import pytest

from mojo_files import mojo_command, mojo_environment
from paths import ROOT

BATCH = "batch_idx out of range"
HEAD = "head out of range"
DIM = "dim out of range"
LAYER = "layer out of range"
PAGE = "page out of range"
BEFORE = "token before the sequence"
BEHIND = "token beyond the lookup table"

MESSAGES = {
    **{
        f"{member}_{case}": message
        for member in ("load", "store")
        for case, message in {
            "batch": BATCH,
            "negative_batch": BATCH,
            "head": HEAD,
            "negative_head": HEAD,
            "token": BEHIND,
            "negative_token": BEFORE,
            "dim": DIM,
            "negative_dim": DIM,
            "width": f"{member} crosses the end of the head",
            "null_page": PAGE,
            "no_page": PAGE,
        }.items()
    },
    "pointer_batch": BATCH,
    "pointer_negative_batch": BATCH,
    "pointer_head": HEAD,
    "pointer_token": BEHIND,
    "pointer_negative_token": BEFORE,
    "pointer_dim": DIM,
    "pointer_across_pages": "tile crosses a page",
    "row_batch": BATCH,
    "row_token": BEHIND,
    "row_null_page": PAGE,
    "row_past_32_bits": "row does not fit 32 bits",
    "column_head": HEAD,
    "length_batch": BATCH,
    "length_negative_batch": BATCH,
    "key_layer": LAYER,
    "key_negative_layer": LAYER,
    "value_layer": LAYER,
    "value_negative_layer": LAYER,
    "collection_batch": BATCH,
    "collection_negative_batch": BATCH,
}

PROGRAM = ROOT / "tests" / "mojo" / "out_of_range.mojo"

REFUSED = {
    "tile_size must divide page_size": "keys.block_paged_ptr[12](0, 0, 0)",
    "tile_size must divide": "keys.block_paged_ptr[32](0, 0, 0)",
    "Cannot call get_value_cache for MLA cache": "mla.get_value_cache(0)",
}
"""What does not compile, and why."""

WRONG = """
from kv_cache.types import KVCacheStaticParams
from kvcache import PagedKVCache, PagedKVCacheCollection

comptime MLA = KVCacheStaticParams(1, 8, True)
comptime Keys = PagedKVCache[DType.float32, MLA, 16]
comptime Pool = PagedKVCacheCollection[DType.float32, MLA, 16]

def main():
    var bits = List[UInt8](length=4096, fill=0)
    var keys = bits.unsafe_ptr().unsafe_bitcast[Keys]()[unsafe_offset=0]
    var mla = bits.unsafe_ptr().unsafe_bitcast[Pool]()[unsafe_offset=0]
    _ = {}
"""


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    mojo = mojo_command()
    assert mojo is not None, "wanted the mojo compiler, found none"
    options = ["--Werror", "-D", "ASSERT=all", "-I", str(ROOT / "mojo")]
    return subprocess.run(
        [mojo, "build", *options, str(source), "-o", str(target)],
        env=mojo_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that asks for one thing out of range."""
    target: Path = tmp_path_factory.mktemp("program") / "out_of_range"
    run = build(PROGRAM, target)
    assert run.returncode == 0, run.stderr
    return target


def ask(program: Path, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, name], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", MESSAGES)
def test_what_is_out_of_range_stops_with_its_own_message(
    program: Path, name: str
) -> None:
    run = ask(program, name)
    assert run.returncode != 0
    assert f"Assert Error: {MESSAGES[name]}" in run.stdout + run.stderr
    assert "went on" not in run.stdout


def test_what_is_in_range_goes_on(program: Path) -> None:
    assert "went on" in ask(program, "nothing").stdout


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_wrong_already_does_not_compile(
    message: str, tmp_path: Path
) -> None:
    source = tmp_path / "wrong.mojo"
    source.write_text(WRONG.format(REFUSED[message]))
    run = build(source, tmp_path / "wrong")
    assert run.returncode != 0
    assert message in run.stdout + run.stderr
