from collections.abc import Iterator
from pathlib import Path

import pytest

from kvcache import mojo_sources


def test_package_holds_the_ops() -> None:
    package = mojo_sources.mojo_package()
    assert package.is_absolute()
    assert (package / "ops.mojo").is_file()


def test_folder_is_named_as_the_mojo_package_it_is() -> None:
    assert mojo_sources.mojo_package().name == "kvcache"


def test_absent_sources_are_named_in_the_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        mojo_sources, "__file__", str(tmp_path / "mojo_sources.py")
    )
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        mojo_sources.mojo_package()


def make_package(folder: Path, source: str) -> Path:
    package = folder / "_mojo" / "kvcache"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.mojo").write_text(source)
    return package


@pytest.fixture
def other_sources(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Path]:
    """A package of one line in place of ours, and an empty cache folder."""
    monkeypatch.setattr(
        mojo_sources, "__file__", str(tmp_path / "mojo_sources.py")
    )
    monkeypatch.setenv("KVCACHE_CACHE_DIR", str(tmp_path / "cache"))
    mojo_sources.precompiled_package.cache_clear()
    yield tmp_path
    mojo_sources.precompiled_package.cache_clear()


def test_precompiles_once_for_each_state_of_the_sources(
    other_sources: Path,
) -> None:
    make_package(other_sources, "comptime ANSWER = 42\n")
    first = mojo_sources.precompiled_package()
    assert first.name == "kvcache.mojoc"
    assert first.is_relative_to(other_sources / "cache")
    written = first.stat().st_mtime_ns

    mojo_sources.precompiled_package.cache_clear()  # as in a new process
    assert mojo_sources.precompiled_package() == first
    assert first.stat().st_mtime_ns == written

    make_package(other_sources, "comptime ANSWER = 43\n")
    mojo_sources.precompiled_package.cache_clear()
    second = mojo_sources.precompiled_package()
    assert second != first
    assert list(second.parent.iterdir()) == [second]  # nothing half-made


def test_sources_that_do_not_compile_leave_nothing_behind(
    other_sources: Path,
) -> None:
    make_package(other_sources, "def broken(:\n")
    with pytest.raises(mojo_sources.MojoCompileError, match="broken"):
        mojo_sources.precompiled_package()
    assert not list((other_sources / "cache").rglob("*.mojoc"))
