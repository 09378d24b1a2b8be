"""SmolLM2-135M gives its recorded tokens on a GPU too, in float32."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from max.driver import Accelerator

from kvcache.model import load_model
from models import smollm2_file
from serving import Recorded, Served, Setting, count_ties, read_mtbench


@pytest.fixture(scope="module")
def served(shared_data: Path) -> Served:
    assert shared_data.is_dir()
    return Served(load_model(smollm2_file()), Accelerator())


def test_golden_prompts(
    served: Served,
    shared_data: Path,
    record_property: Callable[[str, object], None],
) -> None:
    path = shared_data / "models/smollm2/golden_greedy.json"
    recorded = [
        Recorded(g["prompt_ids"], g["new_ids"], g["top1_gaps"])
        for g in json.loads(path.read_text()).values()
    ]
    requests, _ = served.serve(recorded, Setting())
    assert [r.output_ids for r in requests] == [r.output for r in recorded]
    record_property("golden_prompts_equal", len(recorded))


@pytest.mark.parametrize(
    "setting",
    [Setting(), Setting(num_steps=1), Setting(chunk_size=32, num_pages=70)],
    ids=str,
)
def test_mtbench_answers(
    served: Served,
    shared_data: Path,
    setting: Setting,
    record_property: Callable[[str, object], None],
) -> None:
    recorded = read_mtbench(shared_data)
    requests, loop = served.serve(recorded, setting)
    ties = count_ties(recorded, requests)
    record_property("ties", ties)
    record_property("preemptions", loop.stats.num_preemptions)
    rate = round(loop.stats.tokens_per_second)
    record_property("tokens_per_second", rate)
    assert ties <= 4
