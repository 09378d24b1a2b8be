"""Every mistake ends in one line on stderr and a status, never a traceback."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from kvcache.cli.app import run
from models import write_small_llama

Told = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_llama(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs a command line that fails; returns its status and its one line."""

    def call(*args: object) -> tuple[int, str]:
        status = run([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("kvcache: ")
        assert err.count("\n") == 1
        return status, err.strip().removeprefix("kvcache: ")

    return call


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["talk"], "No such command 'talk'."),
        (["generate"], "Missing argument 'prompt'."),
        (["generate", "hi"], "Invalid value: wanted --model PATH, got none"),
        (["generate", "hi", "-q"], "No such option: -q"),
        (
            ["generate", "hi", "--page-size", "17"],
            (
                "Invalid value for '--page-size': "
                "wanted one of 16, 32, 64, 128, 256, got 17"
            ),
        ),
        (
            ["generate", "hi", "--kv-memory", "12 apples"],
            (
                "Invalid value for '--kv-memory': wanted a size such as "
                "64MiB, 1.5GiB or 1000000, got '12 apples'"
            ),
        ),
        (
            ["demo", "--max-pages", "4", "--kv-memory", "1MiB"],
            "Invalid value: wanted --max-pages or --kv-memory, got both",
        ),
    ],
)
def test_wrong_command_line_is_status_2(
    told: Told, args: list[str], line: str
) -> None:
    assert told(*args) == (2, line)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--device", "tpu"),
        ("--kv-dtype", "uint8"),
        ("--sparse", "quest"),
        ("--sparse", "quest:0"),
        ("--sparse", "quest:1.5"),
        ("--sparse", "best:0.5"),
        ("--max-pages", "0"),
        ("--max-pages", "many"),
        ("--max-new-tokens", "0"),
        ("--temperature", "-1"),
        ("--top-k", "-1"),
        ("--top-p", "1.5"),
        ("--seed", "-1"),
        ("--chunk-size", "0"),
    ],
)
def test_option_out_of_range_is_named(
    told: Told, option: str, value: str
) -> None:
    status, line = told("demo", option, value)
    assert status == 2
    assert option in line


def test_sampling_that_draws_from_nothing(told: Told) -> None:
    line = "top_p must be above 0 and at most 1, got 0.0"
    assert told("demo", "--top-p", 0) == (1, line)


def test_no_such_model(told: Told, tmp_path: Path) -> None:
    missing = tmp_path / "missing.gguf"
    for args in (["generate", "hi"], ["demo"]):
        status, line = told(*args, "--model", missing)
        assert status == 1
        assert "no such file" in line


def test_file_that_is_no_model(told: Told, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a model")
    status, line = told("generate", "hi", "--model", path)
    assert status == 1
    assert "GGUF" in line


def test_model_that_is_no_llama(told: Told, small: Path) -> None:
    folder = small.parent / "bert"
    folder.mkdir()
    for path in small.iterdir():
        text = path.read_bytes()
        if path.name == "config.json":
            text = text.replace(b"LlamaForCausalLM", b"BertModel")
            text = text.replace(b'"llama"', b'"bert"')
        (folder / path.name).write_bytes(text)
    status, line = told("generate", "hi", "--model", folder)
    assert status == 1
    assert "lama" in line


def test_model_without_tokenizer(told: Told, small: Path) -> None:
    folder = small.parent / "mute"
    folder.mkdir()
    for path in small.iterdir():
        if not path.name.startswith("tokenizer"):
            (folder / path.name).write_bytes(path.read_bytes())
    status, line = told("generate", "hi", "--model", folder)
    assert (status, "tokenizer" in line) == (1, True)


def test_model_without_chat_template(told: Told, small: Path) -> None:
    folder = small.parent / "base"
    folder.mkdir()
    for path in small.iterdir():
        if path.name != "tokenizer_config.json":
            (folder / path.name).write_bytes(path.read_bytes())
    status, line = told("generate", "hi", "--model", folder)
    assert status == 1
    assert "--raw takes the prompt as it stands" in line
    assert told("demo", "--model", folder)[0] == 1


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_empty_prompt(told: Told, small: Path, prompt: str) -> None:
    line = "wanted a prompt, got an empty one"
    assert told("generate", prompt, "--model", small) == (1, line)


def test_prompt_longer_than_the_context(told: Told, small: Path) -> None:
    status, line = told("generate", "?" * 600, "--raw", "--model", small)
    assert status == 1
    assert line == (
        "wanted a prompt of at most 511 tokens, the model's context less one, "
        "got 600"
    )


def test_budget_under_one_page(told: Told, small: Path) -> None:
    # Keys and values, 2 layers, 16 tokens, 2 heads of 8 floats of 4 bytes.
    page = 2 * 2 * 16 * 2 * 8 * 4
    for args in (["generate", "hi"], ["demo"]):
        status, line = told(*args, "--model", small, "--kv-memory", page - 1)
        assert status == 1
        assert line == (
            f"wanted at least {page} bytes, one page of 16 tokens, "
            f"got {page - 1}"
        )


def test_budget_beyond_the_machine(told: Told, small: Path) -> None:
    status, line = told(
        "generate", "hi", "--model", small, "--kv-memory", "1000TiB"
    )
    assert status == 1
    assert "this machine has" in line


def test_gpu_that_is_not_there(told: Told, small: Path) -> None:
    from max.driver import accelerator_count

    if accelerator_count():
        pytest.skip("this machine has a GPU")
    line = "wanted a GPU that MAX can use, found none"
    args = ["generate", "hi", "--model", small, "--device", "gpu"]
    assert told(*args) == (1, line)


def test_batch_that_could_not_decode(told: Told, small: Path) -> None:
    status, line = told("demo", "--model", small, "--max-batch-tokens", 3)
    assert status == 1
    assert line == "max_batch_tokens must be at least max_batch_size 8, got 3"


@pytest.mark.parametrize("error", [KeyboardInterrupt, typer.Abort])
def test_ctrl_c_is_status_130(
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    def interrupted(**_: object) -> None:
        raise error

    monkeypatch.setattr("kvcache.cli.app.app", interrupted)
    assert told("demo") == (130, "interrupted")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {code}"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "python")},
    )


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_no_engine(option: str) -> None:
    heavy = ["max", "torch", "numpy", "gguf", "tokenizers", "jinja2"]
    run = python(
        "from kvcache.cli.app import run; "
        f"assert run([{option!r}]) == 0; "
        f"print(sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)"
    )
    assert run.returncode == 0
    assert run.stdout
    assert run.stderr.strip() == "[]"


def test_command_ends_with_its_status() -> None:
    run = python(
        "from kvcache.cli import main; "
        "sys.argv = ['kvcache', 'demo', '--model', '/no/model']; main()"
    )
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "Traceback" not in run.stderr


def test_reader_that_leaves_early_is_no_error() -> None:
    command = (
        f"{sys.executable} -c 'from kvcache.cli import main; import sys; "
        'sys.argv = ["kvcache"]; main()\' | true'
    )
    run = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "python")},
    )
    assert run.stderr == ""
