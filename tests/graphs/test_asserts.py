"""With asserts on, an index that is out of range stops with its own message."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from kernels.bad_input import MESSAGES
from kernels.host_graphs import write_kernels
from kernels.models import MEF_FOLDER, CompiledKernels
from paths import ROOT


def run(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(ROOT / x) for x in ("python", "tests"))
    return subprocess.run(
        [sys.executable, "-m", "kernels.bad_input", name],
        env={**os.environ, "PYTHONPATH": paths, MEF_FOLDER: str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def runs(
    compiled_kernels: CompiledKernels,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, subprocess.CompletedProcess[str]]:
    """Runs all bad inputs, two at a time, on graphs from one file."""
    assert compiled_kernels.models
    folder = tmp_path_factory.mktemp("kernels")
    write_kernels(folder)
    with ThreadPoolExecutor(2) as pool:
        return dict(
            zip(
                MESSAGES,
                pool.map(partial(run, folder=folder), MESSAGES),
                strict=True,
            )
        )


@pytest.mark.parametrize("name", MESSAGES)
def test_bad_input_stops_with_its_own_message(
    runs: dict[str, subprocess.CompletedProcess[str]], name: str
) -> None:
    message, _ = MESSAGES[name]
    assert runs[name].returncode != 0
    assert f"Assert Error: {message}" in runs[name].stdout + runs[name].stderr
