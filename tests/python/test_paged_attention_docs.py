"""The page for those who come from EasyDeL does what it says."""

import json
import re

import numpy as np

from kvcache import paged_attention
from kvcache.paged_attention import (
    PagedAttentionCache,
    PagedAttentionMetadata,
    absent,
)
from paths import ROOT

PAGE = (ROOT / "docs" / "coming-from-easydel.md").read_text("utf-8")


def test_the_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2, 2, 32, 2, 64), np.float32)
    names: dict[str, object] = {"my_layer": lambda layer: rows[layer]}
    exec(compile(code, "coming-from-easydel.md", "exec"), names)
    keys, cache, manager = names["keys"], names["cache"], names["manager"]
    assert tuple(keys.shape) == (20, 2, 64)  # type: ignore[attr-defined]
    assert isinstance(cache, PagedAttentionCache)
    assert len(cache.views) == 2
    assert names["pages"] == [1, 2]
    assert manager.num_free_pages > 8  # type: ignore[attr-defined]


def test_the_array_is_written_as_the_page_shows() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    step = PagedAttentionMetadata(1, [1, 2], [3], absent(), absent())
    assert step.to_dict()["prefill_pos"] == json.loads(text)


def test_the_page_names_what_there_is() -> None:
    table = PAGE[: PAGE.index("```")]
    named = set(re.findall(r"`(\w+)`", table)) & set(paged_attention.__all__)
    assert len(named) >= 9
