"""Runs the GPU tests and records what came of them.

python -m benchmarks.gpu_tests --json benchmarks/results/gpu_tests.jsonl

One row a test file, and one for every test that notes figures of its own.
"""

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.rows import ROOT, Row, context, write


class Recorder:
    """Collects outcomes while pytest runs."""

    def __init__(self) -> None:
        """Starts with nothing seen."""
        self.outcomes: dict[str, Counter[str]] = {}
        self.seconds: Counter[str] = Counter()
        self.noted: list[Row] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts a test's phases."""
        path = report.nodeid.split("::")[0]
        self.seconds[path] += report.duration
        outcomes = self.outcomes.setdefault(path, Counter())
        if report.when == "call" or report.outcome != "passed":
            outcomes[report.outcome] += 1
        if report.when == "call" and report.user_properties:
            self.noted.append(
                {"case": report.nodeid} | dict(report.user_properties)
            )

    def rows(self) -> list[Row]:
        """Returns a row a file, then what tests noted."""
        files: list[Row] = [
            {"case": path, **counts, "seconds": round(self.seconds[path], 1)}
            for path, counts in self.outcomes.items()
        ]
        return files + self.noted


def gpu_name() -> str:
    """Returns the GPU's name as its driver gives it."""
    run = subprocess.run(
        [
            "nvidia-smi",
            "--query-gpu=name,driver_version",
            "--format=csv,noheader",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


def main() -> None:
    """Runs the tests; exits with pytest's status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("tests", nargs="*", default=["tests/gpu"])
    args = parser.parse_args()
    recorder = Recorder()
    status = pytest.main(
        ["-q", "-m", "gpu", f"--rootdir={ROOT}", *args.tests],
        plugins=[recorder],
    )
    where = context(gpu_name())
    write((row | where for row in recorder.rows()), args.json)
    sys.exit(status)


if __name__ == "__main__":
    main()
