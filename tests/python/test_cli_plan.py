"""`kvcache plan` from end to end: its table, its JSON and its complaints."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvcache.cli.app import run
from kvcache.cli.units import format_size
from kvcache.planning import (
    MemoryBudget,
    formats_for,
    parse_shape,
    plan_cache,
    shape_from_config,
)
from managers import HOST
from paths import ROOT

Plan = Callable[[str], str]
LLAMA = "--shape layers=32,kv_heads=8,head_dim=128"
SMALL = "--shape layers=2,kv_heads=2,head_dim=8 --utilization 1"
HYBRID: dict[str, Any] = {
    "model_type": "qwen3_next",
    "hidden_size": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 8,
    "head_dim": 16,
}


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Plan:
    """Runs a plan that succeeds; returns what it prints."""

    def call(options: str) -> str:
        assert run(["plan", *shlex.split(options)]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return call


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a plan that fails; returns its status and its one line."""

    def call(options: str) -> tuple[int, str]:
        status = run(["plan", *shlex.split(options)])
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("kvcache: ")
        assert err.count("\n") == 1
        return status, err.strip().removeprefix("kvcache: ")

    return call


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def rows(text: str) -> list[list[str]]:
    """The table's cells, its header first."""
    lines = text.split("\n\n")[1].splitlines()
    return [re.split(r"\s{2,}", line.strip()) for line in lines]


def test_json_has_one_object_a_format(printed: Plan) -> None:
    found = objects(
        printed(f"{LLAMA} --memory 80GiB --max-len 8192 --mean-len 512 --json")
    )
    shape = parse_shape(LLAMA.split()[1])
    formats = formats_for(shape)
    assert len(found) == len(formats) == 12
    for item, kv_format in zip(found, formats, strict=True):
        plan = plan_cache(
            shape,
            kv_format,
            MemoryBudget(memory=80 * 2**30, utilization=0.9),
            page_size=16,
            max_len=8192,
            mean_len=512,
        )
        scales = kv_format.quantization
        assert item["dtype"] == kv_format.dtype
        assert item["scales"] == (scales and scales.granularity.value)
        assert item["num_pages"] == plan.num_pages
        assert item["num_tokens"] == plan.num_tokens == plan.num_pages * 16
        assert item["max_requests"] == plan.num_pages // 512
        assert item["mean_requests"] == plan.num_pages // 32
        assert (
            item["pool_bytes"] == (plan.num_pages + 1) * item["bytes_per_page"]
        )
        assert item["budget_bytes"] == item["page_memory_bytes"]
        assert item["num_null_pages"] == 1
        assert item["shortage"] is None


def test_json_by_hand(printed: Plan) -> None:
    found = objects(printed(f"{LLAMA} --memory 80GiB --max-len 8192 --json"))
    (item,) = (each for each in found if each["dtype"] == "bfloat16")
    # Keys and values, 8 heads of 128 elements of 2 bytes.
    assert item["bytes_per_token_per_layer"] == 4096
    assert item["bytes_per_page"] == 16 * 32 * 4096 == 2**21
    assert item["budget_bytes"] == int(80 * 2**30 * 0.9)
    assert item["num_pages"] == 36_864
    assert item["max_requests"] == 72
    assert item["mean_len"] is item["mean_requests"] is None
    assert item["window_bound"] is item["state"] is None
    assert (item["num_kv_heads"], item["head_dim"]) == (8, 128)


def test_manager_made_from_the_json_has_as_many_pages(
    printed: Plan, tmp_path: Path
) -> None:
    from kvcache import KVCacheParams, PagedKVCacheManager
    from kvcache.quantization import Quantization

    path = tmp_path / "config.json"
    path.write_text(json.dumps(HYBRID))
    options = f"--model {path} --memory 1MB --page-size 32 --json"
    for item in objects(printed(options)):
        kind = item["scales"] and Quantization(granularity=item["scales"])
        manager = PagedKVCacheManager(
            KVCacheParams(
                item["dtype"],
                item["num_kv_heads"],
                item["head_dim"],
                page_size=item["page_size"],
                quantization=kind,
            ),
            max_batch_size=max(1, item["max_requests"]),
            max_seq_len=item["max_len"],
            num_layers=item["num_layers"],
            devices=[HOST],
            session=None,
            available_cache_memory=item["page_memory_bytes"],
            page_size=item["page_size"],
        )
        assert manager.total_num_pages == item["num_pages"] > 0
        slots = item["state"]["num_slots"]
        assert item["max_requests"] == slots > 0


def test_units_of_memory(printed: Plan) -> None:
    texts = ["80GB", "80000000000", "80 gb"]
    one, *others = (
        printed(f"{LLAMA} --memory '{text}' --max-len 9") for text in texts
    )
    assert others == [one, one]
    assert one != printed(f"{LLAMA} --memory 80GiB --max-len 9")


def test_table_has_a_row_a_format(printed: Plan) -> None:
    out = printed(f"{LLAMA} --memory 80GiB --max-len 8192 --mean-len 512")
    header, *lines = rows(out)
    names = "KV dtype|scales|B/token/layer|page|pages|tokens|x 8192|x 512|pool"
    assert header == names.split("|")
    assert len(lines) == 12
    numbers = "36864 589824 72 1152"
    assert lines[1][:3] == ["bfloat16", "4096", "2.0 MiB"]
    assert lines[1][3:] == [*numbers.split(), "72.0 GiB"]
    assert lines[-1][:3] == ["int8", "tensor", "2048.5"]
    assert "the null page on top of the budget included" in out
    assert "(80.0 GiB x 0.9) = 72.0 GiB" in out


def test_latents_on_several_devices(printed: Plan) -> None:
    options = (
        "--shape layers=61,latent_dim=576 --memory 80GiB --in-use 60GiB "
        "--tp 8 --max-len 4096 --host-memory 10GB --page-size 128"
    )
    out = printed(options)
    assert "61 attention layers, latents of 576" in out
    assert "8 x (80.0 GiB x 0.9 - 60.0 GiB) = 96.0 GiB" in out
    assert "each one has the whole latents" in out
    assert "token/64" in out
    header, *lines = rows(out)
    assert header[-1] == "host pages"
    assert len(lines) == 6
    # 61 layers, 128 tokens, 576 elements of 2 bytes, on 8 devices.
    assert int(lines[1][-1]) == 10**10 // (61 * 128 * 576 * 2 * 8)


def test_window_is_kept_apart_from_what_is_allocated(printed: Plan) -> None:
    plain = "layers=26,kv_heads=1,head_dim=256"
    rest = "--memory 1GiB --utilization 1 --max-len 32768"
    out = printed(f"--shape {plain},window=512,window_layers=22 {rest}")
    windowed, without = rows(out), rows(printed(f"--shape {plain} {rest}"))
    assert windowed[0][-2] == "bound"
    assert [row[:-2] + row[-1:] for row in windowed] == without
    assert windowed[2][-2] == "7"  # 145,752,064 bytes a request
    assert windowed[2][-3] == "1"
    assert "keeps every token in all 26 attention layers" in out
    assert "Lower bound: 22 of them read the last 512 tokens of 32768" in out
    assert "33 pages at most" in out


def test_bound_stands_behind_what_it_is_a_bound_of(printed: Plan) -> None:
    out = printed(
        "--shape layers=1,kv_heads=1,head_dim=8,window=4 --memory 1MiB "
        "--max-len 64 --mean-len 8"
    )
    assert rows(out)[0][6:] == ["x 64", "bound", "x 8", "pool"]
    assert "Model   1 attention layer, 1 KV head of 8\n" in out


def test_hybrid_says_where_its_state_is(printed: Plan, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HYBRID))
    out = printed(f"--model {tmp_path} --memory 1MB --max-len 300")
    shape = shape_from_config(HYBRID)
    assert shape.state is not None
    assert shape.state.bytes_per_request == 6 * (1024 + 64 * 3 * 2) == 8448
    assert "2 attention layers, 2 KV heads of 16, a recurrent state" in out
    assert "Recurrent layers keep 8.2 KiB of a request" in out
    assert "and one for padding" in out
    header, *lines = rows(out)
    assert header[-2:] == ["pool", "states"]
    for line, kv_format in zip(lines, formats_for(shape), strict=True):
        plan = plan_cache(
            shape,
            kv_format,
            MemoryBudget(memory=10**6),
            page_size=16,
            max_len=300,
        )
        assert line[-3] == str(plan.num_slots)
        states = (plan.num_slots + 1) * 8448
        assert line[-1] == format_size(states)
        assert line[-2] == format_size(plan.pool_bytes)
    assert "made for 256 tokens, not for 300" in out


def test_context_is_the_longest_request_by_default(
    printed: Plan, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HYBRID))
    out = printed(f"--model {tmp_path} --memory 1MB")
    assert rows(out)[0][6] == "x 256"
    assert "was made for" not in out


def test_formats_that_hold_too_little_say_so(printed: Plan) -> None:
    # A page has 2 * 2 * 16 * 2 * 8 elements: 1024 of 1, 2 or 4 bytes.
    out = printed(f"{SMALL} --memory 2048 --max-len 17")
    assert (
        "float32: wanted at least 4096 bytes of cache memory for a single "
        "page, got 2048\n"
    ) in out
    wanted = "a request of 17 tokens wants 2 pages, there are 1\n"
    assert f"bfloat16: {wanted}" in out
    assert f"int8 head: {wanted}" in out
    assert rows(out)[1][:3] == ["float32", "128", "4.0 KiB"]
    assert rows(out)[1][3:] == ["0", "0", "0", "0 B"]
    short = objects(printed(f"{SMALL} --memory 2048 --max-len 17 --json"))
    assert all(each["shortage"] for each in short)


def test_null_page_without_room_is_named(printed: Plan) -> None:
    out = printed(f"{SMALL} --memory 8292 --max-len 16")
    assert "The null page does not fit beside the rest. Missing: " in out
    assert "3.9 KiB of float32, 1.9 KiB of bfloat16" in out


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ("kv_heads=8,head_dim=256", None),
        (
            "kv_heads=8,head_dim=264",
            "heads of 8 to 256 elements, a multiple of 8, got 264",
        ),
        (
            "kv_heads=8,head_dim=20",
            "heads of 8 to 256 elements, a multiple of 8, got 20",
        ),
        ("latent_dim=576", None),
        (
            "latent_dim=584",
            "latents of 8 to 576 elements, a multiple of 8, got 584",
        ),
    ],
)
def test_heads_that_the_kernels_do_not_take_are_named(
    printed: Plan, shape: str, complaint: str | None
) -> None:
    options = f"--shape layers=2,{shape} --memory 1GiB --max-len 9"
    out = printed(options)
    if complaint is None:
        assert "kernels" not in out
    else:
        assert f"Of this package the kernels want {complaint}." in out
    (limit,) = {
        each["beyond_kernels"] for each in objects(printed(f"{options} --json"))
    }
    assert limit == (complaint and f"the kernels want {complaint}")


def test_narrow_terminal_cuts_no_number(
    printed: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = f"{LLAMA} --memory 80GiB --max-len 8192"
    wide = printed(options)
    monkeypatch.setenv("COLUMNS", "40")
    assert printed(options) == wide


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--memory 1GiB", "wanted --model PATH or --shape, got neither"),
        (
            f"{LLAMA} --model x --memory 1GiB",
            "wanted --model PATH or --shape, got both",
        ),
        (f"{LLAMA} --memory 0", "wanted at least one byte, got '0'"),
        (f"{LLAMA} --memory lots", "wanted a size such as 64MiB"),
        (LLAMA, "Missing option '--memory'"),
        (f"{LLAMA} --memory 1GiB --page-size 17", "wanted one of 16, 32"),
        (f"{LLAMA} --memory 1GiB --max-len 0", "--max-len"),
        (f"{LLAMA} --memory 1GiB --tp 0", "--tp"),
    ],
)
def test_wrong_command_line_is_status_2(
    told: Callable[[str], tuple[int, str]], options: str, line: str
) -> None:
    status, complaint = told(options)
    assert status == 2
    assert line in complaint


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            f"{LLAMA} --memory 1GiB",
            "wanted --max-len, the model names no context",
        ),
        (
            f"{LLAMA} --memory 1GiB --utilization 1.5 --max-len 8",
            "utilization must be above 0 and at most 1, got 1.5",
        ),
        (
            f"{LLAMA} --memory 1GiB --in-use 1GiB --max-len 8",
            (
                "wanted memory for the cache, got none: 966367641 bytes may "
                "be used, 1073741824 are in use"
            ),
        ),
        (
            f"{LLAMA} --memory 1GiB --max-len 8 --mean-len 9",
            "mean_len must be from 1 to max_len 8, got 9",
        ),
        (
            f"{LLAMA} --memory 1GiB --max-len 8 --tp 3",
            (
                "n_kv_heads must be a multiple of the devices of a replica, "
                "got 8 heads for 3 devices"
            ),
        ),
        (
            f"{LLAMA} --memory 1GiB --max-len 8 --group-size 48",
            (
                "group_size must be one of [8, 16, 32, 64, 128] for a "
                "head_dim of 128, got 48"
            ),
        ),
        (
            "--shape layers=2 --memory 1GiB --max-len 8",
            "wanted kv_heads in the shape, got 'layers=2'",
        ),
        (
            f"{SMALL} --memory 1039 --max-len 8",
            (
                "wanted at least 1040 bytes of cache memory for a single "
                "page, got 1039, in any format"
            ),
        ),
        (
            "--model /no/model --memory 1GiB",
            (
                "wanted a GGUF file, a config.json or its folder, got no "
                "such file: /no/model"
            ),
        ),
    ],
)
def test_what_cannot_be_planned_is_status_1(
    told: Callable[[str], tuple[int, str]], options: str, line: str
) -> None:
    assert told(options) == (1, line)


def test_help_tells_how_shapes_are_written(printed: Plan) -> None:
    words = " ".join(printed("--help").split())
    assert "layers=32,kv_heads=8,head_dim=128" in words
    assert "latent_dim=576" in words
    assert "window_layers=N" in words
    assert "state_bytes=N" in words


def test_example_of_the_guide_prints_what_it_shows(printed: Plan) -> None:
    text = (ROOT / "docs/planning.md").read_text("utf-8")
    example = re.search(
        r"```sh\nkvcache plan (.*?)```\n\n```text\n(.*?)```", text, re.DOTALL
    )
    assert example is not None
    command, shown = example.groups()
    assert printed(command.replace("\\\n", " ")) == shown
