"""Rows of results: what was measured, where, and with what."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = ("kvcache", "max", "mojo", "numpy", "torch", "transformers")

Row = dict[str, Any]


def processor() -> str:
    """Returns the processor's name and how many cores there are."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return name
    names = [x.split(":")[1].strip() for x in lines if x[:10] == "model name"]
    return f"{names[0]}, {len(names)} cores" if names else name


def context(device: str) -> Row:
    """Returns what every row says about where it was measured."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"device": device, "commit": _commit(), "versions": versions}


def write(rows: Iterable[Row], path: Path | None) -> None:
    """Prints rows, and writes them to a file of one object a line."""
    lines = []
    for row in rows:
        lines.append(json.dumps(row))
        print(lines[-1], flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines))


def _commit() -> str:
    """Returns the commit, with a mark if the tree is not clean.

    A copy of the tree without its history says `KVCACHE_COMMIT`.
    """
    if commit := os.environ.get("KVCACHE_COMMIT"):
        return commit
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip() or "unknown"
