"""Tiles through `create_tma_tile` hold what plain loads read."""

from pathlib import Path

from kernels.programs import output_of

PAGE_SIZES = (16, 32, 64, 128, 256)
SWIZZLES = ("no", "32B", "64B", "128B")


def test_tiles_equal_plain_loads(tmp_path: Path) -> None:
    *lines, refused = output_of("tma_tiles", tmp_path).splitlines()
    done = {tuple(line.split()[:2]) for line in lines}
    for dtype in ("bfloat16", "float32"):
        for page_size in PAGE_SIZES:
            assert (dtype, str(page_size)) in done
    assert ("float8_e4m3fn", "64") in done
    for swizzle in SWIZZLES:
        assert any(f"{swizzle} swizzle" in line for line in lines)
    assert "at most 2**31 rows" in refused
