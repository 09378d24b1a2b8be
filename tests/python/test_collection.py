"""What `tests/conftest.py` does, tried on small projects of its own."""

from pathlib import Path

import pytest

from paths import ROOT

pytest_plugins = ["pytester"]

MOJO_TEST = """
from std.testing import TestSuite

def test_claim() raises:
    assert {claim}, "the claim does not hold"

def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
"""

READS_DATA = "def test_reads(shared_data): assert shared_data.is_dir()"
SKIPS = """
import pytest
def test_skips(shared_data): pytest.skip("no time")
"""
SKIPS_WHOLE = """
import pytest
pytest.importorskip("no_such_package")
def test_never_seen(shared_data): pass
"""


class Project:
    """A project folder that has our conftest and nothing else."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester
        self._root = pytester.path / "project"
        for name in (
            "pyproject.toml",
            "tests/conftest.py",
            "tests/mojo_files.py",
        ):
            self.write(name, (ROOT / name).read_text())

    def write(self, name: str, text: str) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def add_shared_data(self) -> None:
        (self._pytester.path / "shared" / "data").mkdir(parents=True)

    def run(self, *options: str) -> pytest.RunResult:
        root = str(self._root)
        return self._pytester.runpytest_subprocess("--rootdir", root, *options)


@pytest.fixture
def project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Project:
    monkeypatch.delenv("CI", raising=False)
    made = Project(pytester)
    pytester.chdir()
    monkeypatch.chdir(pytester.path / "project")
    return made


def test_mojo_file_is_one_test_with_asserts_on(project: Project) -> None:
    project.write("tests/mojo/test_false.mojo", MOJO_TEST.format(claim="2 < 1"))
    project.write("tests/mojo/no_test.mojo", "this is not Mojo")
    project.write("tests/mojo/test_true.mojo", MOJO_TEST.format(claim="1 < 2"))
    result = project.run()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*the claim does not hold*"])


def test_mojo_warning_fails_its_test(project: Project) -> None:
    source = MOJO_TEST.format(claim="True").replace(
        "main() raises:", "main() raises:\n    var unused = 1"
    )
    project.write("tests/mojo/test_warns.mojo", source)
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*unused*"])


def test_data_test_skips_with_a_reason_where_data_are_absent(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("tests/test_data.py", READS_DATA)
    monkeypatch.setenv("CI", "true")
    result = project.run()
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*../shared/data*absent*"])


def test_data_test_runs_where_data_are_here(project: Project) -> None:
    project.write("tests/test_data.py", READS_DATA)
    project.add_shared_data()
    project.run().assert_outcomes(passed=1)


@pytest.mark.parametrize("source", [SKIPS, SKIPS_WHOLE])
def test_data_test_may_skip_on_a_laptop(project: Project, source: str) -> None:
    project.write("tests/test_data.py", source)
    project.add_shared_data()
    project.run().assert_outcomes(skipped=1)


def test_skip_of_a_data_test_fails_in_ci(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("tests/test_data.py", SKIPS)
    project.write("tests/test_other.py", SKIPS.replace("shared_data", ""))
    project.add_shared_data()
    monkeypatch.setenv("CI", "true")
    result = project.run()
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*../shared/data is here, yet*no time*"])


def test_skip_of_a_whole_data_file_fails_in_ci(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("tests/test_data.py", SKIPS_WHOLE)
    project.add_shared_data()
    monkeypatch.setenv("CI", "true")
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*../shared/data is here, yet*no_such*"])


def test_skip_among_the_peers_fails_in_ci(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SKIPS.replace("shared_data", "")
    project.write("tests/peers/test_skips.py", source)
    project.write(
        "tests/peers/test_never_seen.py",
        SKIPS_WHOLE.replace("shared_data", ""),
    )
    marked = source.replace("def ", "@pytest.mark.peers\ndef ")
    project.write("tests/test_marked.py", marked)
    project.run().assert_outcomes(skipped=3)
    monkeypatch.setenv("CI", "true")
    result = project.run("--continue-on-collection-errors")
    result.assert_outcomes(failed=2, errors=1)
    result.stdout.fnmatch_lines(["*CI installs the peers, yet*no time*"])


def test_gpu_run_reads_no_file_outside_its_folder(project: Project) -> None:
    project.write("tests/gpu/test_kernel.py", "def test_runs(): pass")
    project.write("tests/python/test_host.py", "import no_such_package")
    project.write("tests/test_top.py", "import no_such_package")
    project.write("tests/mojo/test_host.mojo", "this is not Mojo")
    project.run("-m", "gpu").assert_outcomes(passed=1)


def test_gpu_folder_is_left_out_by_default(project: Project) -> None:
    project.write("tests/gpu/test_kernel.py", "def test_runs(): assert False")
    project.write("tests/python/test_host.py", "def test_runs(): pass")
    project.run().assert_outcomes(passed=1, deselected=1)


def test_gpu_mark_outside_its_folder_is_an_error(project: Project) -> None:
    source = "import pytest\n@pytest.mark.gpu\ndef test_lost(): pass"
    project.write("tests/python/test_host.py", source)
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*wanted gpu tests in tests/gpu*test_lost*"])


def test_shared_modules_lie_directly_in_tests() -> None:
    shared = {path.name for path in Path(ROOT, "tests").glob("*.py")}
    assert not any(name.startswith("test_") for name in shared)
