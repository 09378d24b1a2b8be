"""The wheel, built from the tree and used where the tree is not."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from paths import ROOT

# Three tokens behind fifteen: the first ends page 2, the others begin page 0.
STORE = """
import numpy as np
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef

from kvcache.graphs import store_graph
from kvcache.ops import CacheInputTypes

cache = CacheInputTypes(
    dtype=DType.float32,
    num_layers=1,
    page_size=16,
    num_kv_heads=1,
    head_dim=8,
    device=DeviceRef.CPU(),
)
store = InferenceSession(devices=[CPU()]).load(store_graph(cache))
pool = np.zeros((4, 2, 1, 16, 1, 8), np.float32)
keys = np.arange(1, 25, dtype=np.float32).reshape(3, 1, 8)
table = np.full((1, 24), 3, np.uint32)
table[0, :2] = 2, 0
lengths = np.array([15], np.uint32)
longest = np.array([[3, 18]], np.uint32)
offsets = np.array([0, 3], np.uint32)
arrays = (pool, lengths, table, longest, keys, -keys, offsets)
store.execute(*map(Buffer.from_numpy, arrays))

for kv, rows in enumerate((keys, -keys)):
    np.testing.assert_array_equal(pool[2, kv, 0, 15], rows[0])
    np.testing.assert_array_equal(pool[0, kv, 0, :2], rows[1:])
print(np.count_nonzero(pool), "elements written")
"""


def run(*command: str | Path, folder: Path) -> str:
    """Runs a command as a person would, with nothing of ours on its path."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=keep,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pins(folder: Path) -> Path:
    """The lock file as constraints: pip wants no hashes there."""
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    file = folder / "pins.txt"
    file.write_text(re.sub(r" *\\\n +--hash=\S+", "", lock))
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds from a copy, so that no earlier build's files get in."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("python", "graphs", "mojo"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, folder / name, True, ignored)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    run(*pip, "--no-build-isolation", "-w", "dist", ".", folder=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installs the wheel into an empty environment; returns its Python."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", folder / "env", folder=folder)
    python = folder / "env" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--no-compile"]
    pip += ["-c", pins(folder)]
    run(*pip, wheel, folder=folder)
    return python


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


CORE = """
import re
from pathlib import Path

import numpy as np
import kvcache
from kvcache.core.making import make_core
from kvcache.core.native import NativeCore, extension
from kvcache.core.running import StepMemory

package = Path(kvcache.__file__).parent
assert Path(extension().__file__) == package / "_mojo" / "_kvcore.so"
content = Path(extension().__file__).read_bytes()
found = re.findall(rb"[^\\0]*modular/lib", content)
assert found == [b"$ORIGIN/../../modular/lib"], found
core = make_core(4, 16, 2, enable_prefix_caching=True)
assert isinstance(core, NativeCore)
lengths, table = np.zeros(2, np.uint32), np.zeros((2, 2), np.uint32)
batch = core.open_batch(StepMemory(lengths, table, np.zeros((1, 2), np.uint32)))
batch.admit(b"", [np.arange(17)])
batch.advance(np.array([17]))
assert table[0].tolist() == [0, 1]
print("native core serves")
"""


LOAD = """
import ctypes
import importlib.util
import sys
from importlib.machinery import ExtensionFileLoader

ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
loader = ExtensionFileLoader("_kvcore", sys.argv[2])
spec = importlib.util.spec_from_file_location(
    "_kvcore", sys.argv[2], loader=loader
)
print(importlib.util.module_from_spec(spec).count_key_words(16))
"""


def test_native_core_is_in_the_wheel_and_runs(
    python: Path, tmp_path: Path
) -> None:
    code = tmp_path / "core.py"
    code.write_text(CORE)
    assert "native core serves" in run(python, code, folder=tmp_path)


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_native_core_imports_under_each_python(
    wheel: Path, tmp_path: Path, version: str
) -> None:
    other = find_python(version)
    if other is None:
        pytest.skip(f"no CPython {version} here")
    code = tmp_path / "load.py"
    code.write_text(LOAD)
    runtime = Path(sys.prefix).rglob("libKGENCompilerRTShared.so")
    with zipfile.ZipFile(wheel) as archive:
        module = archive.extract("kvcache/_mojo/_kvcore.so", tmp_path)
    assert run(other, code, next(runtime), module, folder=tmp_path) == "10\n"


def find_python(version: str) -> str | None:
    """Returns a Python of a version, from the PATH or from pyenv."""
    pyenv = Path.home() / ".pyenv" / "versions"
    places = [shutil.which(f"python{version}") or ""]
    places += map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))
    for place in filter(None, places):
        probe = [
            place,
            "-c",
            "import sys; print('%d.%d' % sys.version_info[:2])",
        ]
        done = subprocess.run(
            probe,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.stdout.strip() == version:
            return place
    return None


def test_wheel_holds_each_source_in_its_place(wheel: Path) -> None:
    places = {
        ROOT / "graphs": "kvcache/graphs",
        ROOT / "mojo" / "kvcache": "kvcache/_mojo/kvcache",
        ROOT / "mojo" / "kvcore": "kvcache/_mojo/kvcore",
        ROOT / "python" / "kvcache": "kvcache",
    }
    wanted = {
        f"{place}/{path.relative_to(folder)}"
        for folder, place in places.items()
        for suffix in ("*.py", "*.mojo", "py.typed")
        for path in folder.rglob(suffix)
    }
    held = {name for name in names(wheel) if ".dist-info/" not in name}
    assert held == wanted | {"kvcache/_mojo/_kvcore.so"}
    assert {"kvcache/py.typed", "kvcache/graphs/__init__.py"} <= held
    assert "kvcache/_mojo/kvcache/ops.mojo" in held


def test_wheel_puts_one_name_on_top(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in names(wheel)}
    assert tops == {"kvcache", "kvcache-0.1.0.dist-info"}


def test_wheel_carries_the_license(wheel: Path) -> None:
    name = "kvcache-0.1.0.dist-info/licenses/LICENSE"
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


def test_installed_package_imports(python: Path, tmp_path: Path) -> None:
    code = "import kvcache; print(kvcache.__file__)"
    printed = run(python, "-c", code, folder=tmp_path)
    assert Path(printed.strip()).is_relative_to(python.parent.parent)


def test_installed_command_says_what_it_can(
    python: Path, tmp_path: Path
) -> None:
    printed = run(python.parent / "kvcache", "--help", folder=tmp_path)
    assert "generate" in printed
    assert "demo" in printed


def test_installed_ops_run_in_a_graph(python: Path, tmp_path: Path) -> None:
    printed = run(python, "-W", "error", "-c", STORE, folder=tmp_path)
    assert printed == "48 elements written\n"
