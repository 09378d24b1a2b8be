"""Generated files are shared, and never trusted."""

import py_compile
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from compiler_cases import CASES, cache_context, drawn_fields, recorded_on_cache
from kvcache.compiler.compiling import compile as compiled
from kvcache.compiler.module_files import module_file, module_of

TEXT = "ANSWER = 42\n"


def test_equal_texts_share_a_file(tmp_path: Path) -> None:
    one = module_file(tmp_path, TEXT, ".py")
    changed = one.stat().st_mtime_ns
    assert module_file(str(tmp_path), TEXT, ".py") == one
    assert one.stat().st_mtime_ns == changed
    assert one.read_text() == TEXT
    assert module_file(tmp_path, TEXT + "\n", ".py") != one
    assert len(list(tmp_path.iterdir())) == 2


def test_the_folder_is_made_and_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = module_file("~/a/b", TEXT, ".mojo")
    assert path.parent == tmp_path / "a" / "b"
    assert path.suffix == ".mojo"


@pytest.mark.parametrize("content", ["", "ANSWER = 4", "ANSWER = 43\n", "\0"])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: str) -> None:
    path = module_file(tmp_path, TEXT, ".py")
    path.write_text(content)
    assert module_file(tmp_path, TEXT, ".py") == path
    assert path.read_text() == TEXT


def test_a_link_is_replaced_and_what_it_points_to_is_kept(
    tmp_path: Path,
) -> None:
    path = module_file(tmp_path, TEXT, ".py")
    foreign = tmp_path / "foreign"
    foreign.write_text(TEXT)
    path.unlink()
    path.symlink_to(foreign)
    module_file(tmp_path, TEXT, ".py")
    assert not path.is_symlink()
    foreign.write_text("raise SystemExit")
    assert path.read_text() == TEXT


def test_a_folder_in_its_place_is_an_error_that_leaves_nothing(
    tmp_path: Path,
) -> None:
    path = module_file(tmp_path, TEXT, ".py")
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match=path.name):
        module_file(tmp_path, TEXT, ".py")
    assert list(tmp_path.iterdir()) == [path]


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    text = "x = 1\n" * 20000
    path = module_file(tmp_path, text, ".py")

    def spoil_write_and_read(i: int) -> bool:
        if i % 3 == 0:
            other = tmp_path / f"spoiled{i}"
            other.write_text("spoiled")
            other.replace(path)
        module_file(tmp_path, text, ".py")
        return path.read_text() in {text, "spoiled"}

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(spoil_write_and_read, range(60)))
    module_file(tmp_path, text, ".py")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_bytecode_of_somebody_else_is_not_run(tmp_path: Path) -> None:
    path = module_file(tmp_path, TEXT, ".py")
    foreign = tmp_path / "foreign.py"
    foreign.write_text("ANSWER = 666\n")
    cached = Path(sys.implementation.cache_tag or "")
    target = tmp_path / "__pycache__" / f"{path.stem}.{cached}.pyc"
    py_compile.compile(
        str(foreign),
        cfile=str(target),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    path.write_text("ANSWER = 667\n")
    before = target.read_bytes()
    assert module_of(TEXT, path).ANSWER == 42
    assert target.read_bytes() == before


def test_equal_pipelines_share_a_module(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        ctx = cache_context(tmp_path, "numpy")
        recorded_on_cache(CASES[0], ctx)
        made = compiled(ctx)
        names.add(made.__name__)
        assert made.__name__.endswith("_CompiledFunc")
    assert len(names) == 1
    assert len(list(tmp_path.glob("*"))) == 1
    ctx = cache_context(tmp_path, "numpy")
    recorded_on_cache(CASES[2], ctx)
    assert compiled(ctx).__name__ not in names


def test_a_damaged_module_is_not_run(tmp_path: Path) -> None:
    ctx = cache_context(tmp_path, "numpy")
    recorded_on_cache(CASES[0], ctx)
    compiled(ctx)
    (path,) = tmp_path.glob("*.py")
    text = path.read_text()
    path.write_text(text.replace(".mean(", ".sum("))
    pool = drawn_fields(((5, 24), (1, 24)))
    compiled(ctx)().forward(pool, np.array([15]), ctx)
    assert np.allclose(pool["f1"][0], pool["f0"][0].mean(axis=0), atol=1e-6)
    assert path.read_text() == text


def test_without_a_folder_the_cache_folder_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVCACHE_CACHE_DIR", str(tmp_path / "here"))
    ctx = cache_context(tmp_path, "numpy")
    ctx.compilation_cache_dir = None
    recorded_on_cache(CASES[0], ctx)
    compiled(ctx)
    assert len(list((tmp_path / "here" / "compiler").glob("*.py"))) == 1


def test_an_unknown_backend_is_an_error(tmp_path: Path) -> None:
    ctx = cache_context(tmp_path, "cuda")
    recorded_on_cache(CASES[0], ctx)
    with pytest.raises(RuntimeError, match="Unknown impl_backend: 'cuda'"):
        compiled(ctx)
    assert list(tmp_path.iterdir()) == []


def test_lines_of_the_context_come_in_once(tmp_path: Path) -> None:
    ctx = cache_context(tmp_path, "numpy")
    recorded_on_cache(CASES[0], ctx)
    ctx.compilation_header_lines = ["import math", "import numpy as np"] * 2
    ctx.auxilary_func_def_lines = ["def own():", "    return math.pi"]
    compiled(ctx)
    (path,) = tmp_path.glob("*.py")
    text = path.read_text()
    assert text.count("import math") == text.count("import numpy as np") == 1
    assert (
        text.index("import math") < text.index("def own") < text.index("_impl")
    )
