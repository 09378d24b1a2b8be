"""The commands from end to end, with the fake model in the engine's place."""

import io
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fake_model import FakeRunner, straight_line
from fake_serving import Setting, make
from kvcache.cli import demo, generate, view
from kvcache.cli.app import run
from kvcache.cli.conversations import CONVERSATIONS, SYSTEM
from kvcache.cli.options import CacheOptions, SparseChoice
from kvcache.model import LlamaModel, Tokenizer, load_model
from kvcache.serve import SamplingParams, ScheduleLimits, ServingLoop
from kvcache.spec import pages_for
from models import write_small_llama

VOCAB = 273


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_llama(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def tokenizer(small: Path) -> Tokenizer:
    tokenizer = load_model(small).tokenizer
    assert tokenizer is not None
    return tokenizer


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ServingLoop]]:
    """Puts the fake model in the engine's place; collects the loops made."""
    made: list[ServingLoop] = []

    def open_loop(
        model: LlamaModel,
        cache: CacheOptions,
        *,
        num_tokens: int,
        max_batch_size: int,
        limits: ScheduleLimits,
        samples: bool,
    ) -> ServingLoop:
        del samples  # the fake model has one graph for both
        setting = Setting(
            num_pages=cache.max_pages or pages_for(num_tokens, cache.page_size),
            page_size=cache.page_size,
            max_batch_size=max_batch_size,
            max_seq_len=model.config.max_seq_len,
            prefix_cache=cache.prefix_cache,
            vocab_size=VOCAB,
            limits=limits,
        )
        made.append(make(setting)[0])
        return made[-1]

    monkeypatch.setattr(generate, "open_loop", open_loop)
    monkeypatch.setattr(demo, "open_loop", open_loop)
    yield made
    assert all(loop.stats.pages_used == 0 for loop in made)


def generate_json(
    capsys: pytest.CaptureFixture[str], *args: object
) -> dict[str, Any]:
    assert run(["generate", "--json", *map(str, args)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    answer: dict[str, Any] = json.loads(out)
    return answer


def test_sparse_reaches_the_loop(
    small: Path,
    loops: list[ServingLoop],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[CacheOptions] = []
    open_fake = demo.open_loop

    def open_loop(
        model: LlamaModel, cache: CacheOptions, **rest: Any
    ) -> ServingLoop:
        asked.append(cache)
        return open_fake(model, cache, **rest)

    monkeypatch.setattr(demo, "open_loop", open_loop)
    command = ["demo", "--model", str(small), "--max-new-tokens", "2"]
    assert run([*command, "--sparse", "gqa_quest_sparse_attention:0.25"]) == 0
    said = "25% of a sequence's blocks of 16 tokens in decode, chosen by quest"
    assert said in " ".join(capsys.readouterr().out.split())
    assert run(command) == 0
    assert "in decode" not in capsys.readouterr().out
    assert [cache.sparse for cache in asked] == [
        SparseChoice("quest", 0.25),
        None,
    ]
    assert len(loops) == 2


@pytest.mark.usefixtures("loops")
def test_json_has_the_whole_answer(
    capsys: pytest.CaptureFixture[str], small: Path, tokenizer: Tokenizer
) -> None:
    answer = generate_json(
        capsys, "why?", "--raw", "--model", small, "--max-new-tokens", 20
    )
    assert set(answer) == {"prompt_ids", "output_ids", "text", "metrics"}
    assert answer["prompt_ids"] == tokenizer.encode("why?")
    assert answer["output_ids"] == straight_line(
        answer["prompt_ids"],
        max_new_tokens=20,
        vocab_size=VOCAB,
        stop_ids=tokenizer.eos_ids,
    )
    assert answer["text"] == tokenizer.decode(
        [t for t in answer["output_ids"] if t not in tokenizer.special_ids]
    )
    metrics = answer["metrics"]
    assert metrics["finish_reason"] == "length"
    assert metrics["generated_tokens"] == 20
    assert metrics["peak_pages"] == metrics["num_pages"] == 2


@pytest.mark.usefixtures("loops")
def test_prompt_goes_through_the_chat_template(
    capsys: pytest.CaptureFixture[str], small: Path, tokenizer: Tokenizer
) -> None:
    answer = generate_json(capsys, "why?", "--model", small)
    text = "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(answer["prompt_ids"]) == text


def test_options_reach_the_loop(
    capsys: pytest.CaptureFixture[str],
    small: Path,
    loops: list[ServingLoop],
) -> None:
    options = shlex.split(
        "--page-size 32 --max-pages 9 --no-prefix-cache --chunk-size 5 "
        "--max-batch-tokens 7 --num-steps 3 --temperature 0.5 --top-k 4 "
        "--top-p 0.9 --seed 8 --max-new-tokens 11 --raw"
    )
    answer = generate_json(capsys, "how are you?", *options, "--model", small)
    manager = loops[0].manager
    assert (manager.page_size, manager.total_num_pages) == (32, 9)
    assert not manager.enable_prefix_caching
    runner = loops[0]._runner
    assert isinstance(runner, FakeRunner)
    assert runner.fed[0] == [5]
    assert max(runner.steps) == 3
    sampling = SamplingParams(temperature=0.5, top_k=4, top_p=0.9, seed=8)
    assert answer["output_ids"] == straight_line(
        answer["prompt_ids"],
        max_new_tokens=11,
        vocab_size=VOCAB,
        sampling=sampling,
    )


@pytest.mark.usefixtures("loops")
def test_text_goes_to_stdout_and_numbers_to_stderr(
    capsys: pytest.CaptureFixture[str], small: Path
) -> None:
    args = ["why?", "--raw", "--model", str(small), "--max-new-tokens", "20"]
    text = generate_json(capsys, *args)["text"]
    assert run(["generate", *args]) == 0
    out, err = capsys.readouterr()
    assert out == f"{text}\n"
    assert "20 tokens, " in err
    assert "2 of 2 pages of 16 tokens" in err


@pytest.mark.usefixtures("loops")
def test_answer_that_outgrows_its_pages_is_cut_off(
    capsys: pytest.CaptureFixture[str], small: Path
) -> None:
    args = ["why?", "--raw", "--model", str(small), "--max-pages", "1"]
    assert run(["generate", *args]) == 1
    out, err = capsys.readouterr()
    assert out
    assert err == (
        "kvcache: the answer was cut off: 17 tokens want 2 pages of 16 "
        "tokens, there are 1\n"
    )


@pytest.mark.usefixtures("loops")
def test_prompt_over_its_pages_is_refused(
    capsys: pytest.CaptureFixture[str], small: Path
) -> None:
    args = ["?" * 40, "--raw", "--model", str(small), "--max-pages", "1"]
    assert run(["generate", *args]) == 1
    assert capsys.readouterr().err == (
        "kvcache: the prompt of 40 tokens wants 3 pages of 16 tokens, "
        "there are 1\n"
    )


@pytest.mark.parametrize("command", [["generate", "why?"], ["demo"]])
def test_ctrl_c_ends_politely(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    small: Path,
    loops: list[ServingLoop],
    command: list[str],
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeRunner, "run", interrupted)
    assert run([*command, "--model", str(small)]) == 130
    assert capsys.readouterr().err == "kvcache: interrupted\n"
    loops.clear()  # cut off in the middle, it still holds its pages


def test_demo_answers_every_question(
    capsys: pytest.CaptureFixture[str],
    small: Path,
    loops: list[ServingLoop],
) -> None:
    assert run(["demo", "--model", str(small), "--max-new-tokens", "9"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name, questions in CONVERSATIONS:
        assert all(question in out for question in questions)
        assert out.count(f"{name}: reads ") == 2
        assert out.count(f"{name}: answered in ") == 2
    assert "8 conversations, 16 answers" in out
    stats = loops[0].stats
    assert stats.hit_tokens > 7 * (len(SYSTEM) // 2) // 16 * 16
    assert f"{stats.hit_tokens} of " in out
    assert f"{stats.peak_pages} of {stats.shape.num_pages} at the peak" in out
    assert "for 8 of 512 tokens" in out
    assert "if each final length were known" in out
    assert f"{stats.last_page_waste:.1%} of the slots" in out


def test_demo_is_the_same_when_pages_run_out(
    capsys: pytest.CaptureFixture[str],
    small: Path,
    loops: list[ServingLoop],
) -> None:
    args = ["demo", "--model", str(small), "--max-new-tokens", "40"]
    answers = []
    for more in ([], ["--max-pages", "36"]):
        assert run([*args, *more]) == 0
        out = capsys.readouterr().out
        answers.append(out[out.index("\nAda\n") : out.index("\nServed")])
    assert answers[0] == answers[1]
    assert loops[0].stats.num_preemptions == 0
    assert loops[1].stats.num_preemptions > 0
    assert "lost its pages to an older conversation" in out


@pytest.mark.usefixtures("loops")
def test_demo_that_cannot_finish_says_so(
    capsys: pytest.CaptureFixture[str], small: Path
) -> None:
    args = ["demo", "--model", str(small), "--max-pages", "20"]
    assert run(args) == 1
    out = capsys.readouterr().out
    assert "there are 20" in out


def test_live_view_is_drawn_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
    small: Path,
    loops: list[ServingLoop],
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(demo, "Console", lambda: console)
    drawn: list[str] = []
    draw = view.LiveView._draw

    def record(self: view.LiveView) -> Any:
        group = draw(self)
        frame = Console(file=io.StringIO(), width=100)
        with frame.capture() as capture:
            frame.print(group)
        drawn.append(capture.get())
        return group

    monkeypatch.setattr(view.LiveView, "_draw", record)
    assert run(["demo", "--model", str(small), "--max-new-tokens", "9"]) == 0
    assert "waiting" in drawn[0]
    assert any("answering" in frame for frame in drawn)
    last = drawn[-1]
    assert last.count("done") == 8
    assert last.count("2/2") == 8
    assert f"{loops[0].stats.generated_tokens} tokens, " in last
    assert "tokens/s" in last
    assert f"of {loops[0].stats.shape.num_pages} pages" in last
    assert "prefix hits " in last
    assert "\x1b[?25h" in screen.getvalue()  # the cursor is back
