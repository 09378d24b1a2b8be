from pathlib import Path

import pytest

from kvcache.cache_folder import cache_folder


def test_the_cache_folder_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVCACHE_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("KVCACHE_CACHE_DIR", "~/models")
    assert cache_folder() == Path.home() / "models"
    monkeypatch.delenv("KVCACHE_CACHE_DIR")
    assert cache_folder().name == "kvcache"
