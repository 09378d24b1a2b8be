"""`import kvcache` costs next to nothing; names load when they are used."""

import subprocess
import sys
import time

import pytest

import kvcache
from paths import ROOT


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "python"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_import_loads_neither_max_nor_torch_nor_numpy() -> None:
    heavy = run(
        "import sys, kvcache\n"
        "print([m for m in ('max', 'torch', 'numpy') if m in sys.modules])"
    )
    assert heavy.strip() == "[]"


def test_core_and_values_leave_max_alone() -> None:
    heavy = run(
        "import sys, kvcache.core.plain, kvcache.request, kvcache.metrics\n"
        "import kvcache.spec\n"
        "print([m for m in ('max', 'torch') if m in sys.modules])"
    )
    assert heavy.strip() == "[]"


def test_import_takes_under_a_tenth_of_a_second() -> None:
    def best_of_five(code: str) -> float:
        def once() -> float:
            start = time.perf_counter()
            run(code)
            return time.perf_counter() - start

        return min(once() for _ in range(5))

    assert best_of_five("import kvcache") - best_of_five("pass") < 0.1


def test_every_public_name_is_there() -> None:
    for name in kvcache.__all__:
        assert getattr(kvcache, name).__name__ == name
    assert set(kvcache.__all__) <= set(dir(kvcache))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'PagedCache'"):
        kvcache.PagedCache  # noqa: B018
