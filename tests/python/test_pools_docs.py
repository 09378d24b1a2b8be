"""The page for those who come from pymllm says what is there."""

import re

import pytest

torch = pytest.importorskip("torch")

from kvcache import pools  # noqa: E402
from paths import ROOT  # noqa: E402

PAGE = (ROOT / "docs" / "coming-from-pymllm.md").read_text("utf-8")


def test_the_examples_run() -> None:
    first, second = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(first, "coming-from-pymllm.md", "exec"), names)
    assert names["allocator"].available_size() == 4096
    assert names["requests"].available_size() == 256
    exec(compile(second, "coming-from-pymllm.md", "exec"), names)
    key = names["RadixKey"](names["tokens"], extra_key="adapter-7")
    assert names["cache"].match_prefix(key).prefix_len == 96
    assert names["cache"].evictable_size() == 96
    assert names["allocator"].available_size() == 4000


def test_every_import_of_the_table_works() -> None:
    imported = re.findall(r"from kvcache\.pools import (\w+)`", PAGE)
    assert len(imported) == 6
    for name in imported:
        assert callable(getattr(pools, name))
