"""The manager's benchmark runs, and stops where hits are wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT

CASES = {"W1", "W2", "W3-objects", "W4", "W5", "hash"}
INTERFACES = {
    "W3-batch": "kvcache-batch",
    "W3-objects": "kvcache-objects",
    "W3-max-objects": "kvcache-max-objects",
}
FIELDS = {
    "case",
    "page_size",
    "who",
    "peer",
    "us",
    "cpu_us",
    "ratio",
    "spread",
    "versions",
    "machine",
    "commit",
}


def test_quick_run_writes_a_row_for_each_case_and_peer(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    run = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.bench_manager", "--quick",
            "--repeats", "1", "--json", str(path),
        ],
        cwd=ROOT,
        env=dict(os.environ),  # What native code has set stays out.
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(row.keys() >= FIELDS for row in rows)
    cases = {row["case"] for row in rows}
    assert cases >= CASES
    for case, who in INTERFACES.items():
        assert (case in cases) != (f"not measured: {who}:" in run.stderr)
    assert all(row["us"] > 0 and row["cpu_us"] > 0 for row in rows)
    if "max[serve]" in run.stderr:
        assert {row["peer"] for row in rows} == {None}
        pytest.skip("wanted the extra `peers`, which is not installed")
    found = {(row["case"], row["peer"]) for row in rows}
    for case in CASES - {"hash"}:
        assert found >= {(case, "max-paged"), (case, "max-jenga")}
    assert all(row["ratio"] > 0 for row in rows)
