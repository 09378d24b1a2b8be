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
