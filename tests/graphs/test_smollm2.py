"""SmolLM2-135M gives its recorded tokens, however it is served.

One setting is changed at a time from a base, and one run has all of the hard
ones; the full product is slow.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kvcache.model import load_model
from models import smollm2_file
from serving import Recorded, Served, Setting, count_ties, read_mtbench

BASE = Setting(max_batch_size=20, chunk_size=512)
HARD = replace(BASE, chunk_size=32, num_pages=70)
SETTINGS = [
    BASE,
    replace(BASE, prefix_cache=False),
    replace(BASE, page_size=128, num_pages=64),
    replace(BASE, num_steps=1),
    replace(BASE, chunk_size=32),
    replace(BASE, num_pages=70),
    HARD,
]
MOST_TIES = 4
"""The most answers of 40 that a tie may turn; each is checked to be one."""


@pytest.fixture(scope="module")
def served(shared_data: Path) -> Served:
    """The model, compiled once for both page sizes."""
    assert shared_data.is_dir()
    return Served(load_model(smollm2_file()), page_sizes=(16, 128))


@pytest.fixture(scope="module")
def mtbench(shared_data: Path) -> list[Recorded]:
    return read_mtbench(shared_data)


def test_golden_prompts(served: Served, shared_data: Path) -> None:
    path = shared_data / "models/smollm2/golden_greedy.json"
    recorded = [
        Recorded(g["prompt_ids"], g["new_ids"], g["top1_gaps"])
        for g in json.loads(path.read_text()).values()
    ]
    requests, _ = served.serve(recorded, BASE)
    assert [r.output_ids for r in requests] == [r.output for r in recorded]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_mtbench_answers(
    served: Served,
    mtbench: list[Recorded],
    setting: Setting,
    record_property: Callable[[str, object], None],
) -> None:
    check_answers(served, mtbench, setting, record_property)


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        replace(
            BASE,
            page_size=page_size,
            prefix_cache=prefix_cache,
            num_steps=num_steps,
            chunk_size=chunk_size,
            num_pages=(70 if is_small else 512) * 16 // page_size,
        )
        for page_size, prefix_cache, num_steps, chunk_size, is_small in (
            itertools.product(
                (16, 128), (True, False), (1, 8), (32, 512), (False, True)
            )
        )
    ],
    ids=str,
)
def test_mtbench_answers_in_every_combination(
    served: Served,
    mtbench: list[Recorded],
    setting: Setting,
    record_property: Callable[[str, object], None],
) -> None:
    check_answers(served, mtbench, setting, record_property)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kv_dtype", "share"),
    [("int8", 0.75), ("float8_e4m3fn", 0.7), ("float8_e5m2", 0.4)],
)
def test_quantized_caches_keep_most_of_the_mtbench_answers(
    served: Served,
    mtbench: list[Recorded],
    kv_dtype: str,
    share: float,
    record_property: Callable[[str, object], None],
) -> None:
    requests, _ = served.serve(mtbench, replace(BASE, kv_dtype=kv_dtype))
    kept = sum(
        same_tokens(wanted.output, request.output_ids)
        for wanted, request in zip(mtbench, requests, strict=True)
    )
    total = sum(len(wanted.output) for wanted in mtbench)
    record_property("kept", kept / total)
    print(f"{kv_dtype}: {kept} of {total} tokens before the first difference")
    assert kept >= share * total


def same_tokens(wanted: list[int], got: list[int]) -> int:
    """Returns how many tokens come before the first that differs."""
    differ = np.flatnonzero(np.array(got) != np.array(wanted))
    return int(differ[0]) if differ.size else len(wanted)


def check_answers(
    served: Served,
    mtbench: list[Recorded],
    setting: Setting,
    record_property: Callable[[str, object], None],
) -> None:
    requests, loop = served.serve(mtbench, setting)
    ties = count_ties(mtbench, requests)
    stats = loop.stats
    record_property("ties", ties)
    print(f"{setting}: {ties} ties, {stats.num_preemptions} preemptions")
    assert ties <= MOST_TIES
    assert (stats.hit_tokens > 0) == setting.prefix_cache
    if setting.num_pages * setting.page_size <= HARD.num_pages * 16:
        assert stats.num_preemptions > 0
