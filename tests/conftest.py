"""What every test of the project shares.

Mojo test files are pytest items, `tests/gpu` is a world of its own, and a test
that reads `../shared/data` or wants MAX's manager may skip on a laptop but not
in CI.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from mojo_files import MojoFile, mojo_environment

ROOT = Path(__file__).resolve().parent.parent
GPU_TESTS = ROOT / "tests" / "gpu"
PEER_TESTS = ROOT / "tests" / "peers"
SHARED_DATA = ROOT.parent / "shared" / "data"

SHARED_DATA_IS_HERE = "../shared/data is here"
PEERS_ARE_HERE = "CI installs the peers"
TORCH_IS_HERE = "CI installs torch beside the peers"

settings.register_profile(
    "dev",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "ci",
    parent=settings.get_profile("dev"),
    database=None,
    derandomize=True,
    print_blob=True,
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure(config: pytest.Config) -> None:
    """Has MAX compile its extension before several processes want it.

    MAX does so at the first import, and writes the file where the others read.
    A failure shows in the tests that import it.
    """
    max_package = find_spec("max")
    if max_package is None or hasattr(config, "workerinput"):
        return
    (folder,) = max_package.submodule_search_locations or ()
    if not list(Path(folder, "_kv_cache_ops", "__mojocache__").glob("*.so")):
        command = [sys.executable, "-c", "import max._kv_cache_ops"]
        subprocess.run(command, env=mojo_environment(), check=False)


def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> MojoFile | None:
    """Collects Mojo tests; leaves every other file to pytest."""
    if file_path.suffix == ".mojo" and file_path.stem.startswith("test_"):
        return MojoFile.from_parent(parent, path=file_path)
    return None


def pytest_ignore_collect(
    collection_path: Path, config: pytest.Config
) -> bool | None:
    """Keeps `-m gpu` to `tests/gpu`: a GPU machine lacks the host's tools."""
    if config.option.markexpr != "gpu":
        return None
    path = collection_path.resolve()
    inside = path.is_relative_to(GPU_TESTS) or GPU_TESTS.is_relative_to(path)
    return None if inside else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what a folder or a fixture says about a test.

    In CI, where examples are the same each time, a test of Hypothesis runs half
    of them, and with `KVCACHE_BRIEF` a quarter.

    Raises:
        pytest.UsageError: If a test outside `tests/gpu` is marked `gpu`; the
            GPU machine would never see it.
    """
    share = 2 if os.environ.get("CI") else 1
    share = 4 if os.environ.get("KVCACHE_BRIEF") else share
    if share > 1:
        for owner, name in {owner_of_settings(item) for item in items}:
            whole = getattr(owner, name, None)
            if isinstance(whole, settings):
                few = max(1, whole.max_examples // share)
                setattr(owner, name, settings(whole, max_examples=few))
    for item in items:
        if item.path.is_relative_to(GPU_TESTS):
            item.add_marker(pytest.mark.gpu)
        elif item.path.is_relative_to(PEER_TESTS):
            item.add_marker(pytest.mark.peers)
        elif item.get_closest_marker("gpu"):
            message = f"wanted gpu tests in tests/gpu, got {item.nodeid}"
            raise pytest.UsageError(message)
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared_data)


def owner_of_settings(item: pytest.Item) -> tuple[object, str]:
    """Returns where a state machine or a `@given` test has its settings."""
    machine = getattr(item, "cls", None)
    if isinstance(getattr(machine, "settings", None), settings):
        return machine, "settings"
    function = getattr(item, "function", None)
    return function, "_hypothesis_internal_use_settings"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Has what is compiled once for several tests run in one process."""
    from scheduling import GroupScheduling

    return GroupScheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose data are absent."""
    if item.get_closest_marker("shared_data") and not SHARED_DATA.is_dir():
        pytest.skip("reads ../shared/data, which is absent here")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:
    """Turns a skip into a failure in CI where nothing may be missing."""
    del call
    report = yield
    if item.get_closest_marker("shared_data"):
        fail_if_skipped(report, SHARED_DATA_IS_HERE)
    if item.get_closest_marker("peers"):
        fail_if_skipped(report, PEERS_ARE_HERE)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Does the same where a whole file of such tests skips."""
    report = yield
    path = collector.path
    text = path.read_text("utf-8") if path.suffix == ".py" else ""
    if "shared_data" in text:
        fail_if_skipped(report, SHARED_DATA_IS_HERE)
    if path.is_relative_to(PEER_TESTS):
        fail_if_skipped(report, PEERS_ARE_HERE)
    wants_torch = 'importorskip("torch")' in text
    if wants_torch and find_spec("PIL") and not path.is_relative_to(GPU_TESTS):
        fail_if_skipped(report, TORCH_IS_HERE)
    return report


def fail_if_skipped(
    report: pytest.TestReport | pytest.CollectReport, because: str
) -> None:
    """Makes a skip a failure in CI, but for an expected failure."""
    expected = hasattr(report, "wasxfail") or (
        because is SHARED_DATA_IS_HERE and not SHARED_DATA.is_dir()
    )
    if report.skipped and os.environ.get("CI") and not expected:
        reason = report.longrepr[-1] if report.longrepr else "no reason"
        report.outcome = "failed"
        report.longrepr = f"{because}, yet: {reason}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and traces beside the project."""
    return SHARED_DATA


@pytest.fixture(params=["native", "plain"])
def either_core(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Has managers that are made in a test keep their books in this core."""
    core: str = request.param
    monkeypatch.setenv("KVCACHE_CORE", core)
    return core
