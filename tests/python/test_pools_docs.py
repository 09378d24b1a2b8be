"""The page for those who come from pymllm says what is there."""

import re

import pytest

torch = pytest.importorskip("torch")

from kvcache import pools  # noqa: E402
from paths import ROOT  # noqa: E402

PAGE = (ROOT / "docs" / "coming-from-pymllm.md").read_text("utf-8")


def test_the_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "coming-from-pymllm.md", "exec"), names)
    assert names["allocator"].available_size() == 4096
    assert names["requests"].available_size() == 256


def test_every_import_of_the_table_works() -> None:
    imported = re.findall(r"from kvcache\.pools import (\w+)`", PAGE)
    assert len(imported) == 6
    for name in imported:
        assert callable(getattr(pools, name))
