"""The NumPy Llama and the tokenizer on real, tiny weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvcache.model import LlamaModel, Tokenizer, load_model
from llama_reference import LlamaReference, greedy
from models import small_llama, write_stories260k

PROMPTS = (
    "(empty)",
    "Lily and Tom went to the",
    "Once upon a time, there was a dragon named",
    "The little boy was sad because",
)


@pytest.fixture(scope="module")
def stories(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> LlamaModel:
    source = shared_data / "models" / "stories260K"
    return load_model(
        write_stories260k(source, tmp_path_factory.mktemp("stories260K"))
    )


@pytest.fixture(scope="module")
def tokenizer(stories: LlamaModel) -> Tokenizer:
    assert stories.tokenizer is not None
    return stories.tokenizer


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> dict[str, Any]:
    source = shared_data / "models" / "stories260K" / "golden_greedy.json"
    cases: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    assert tuple(cases) == PROMPTS
    return cases


def test_the_shape_is_the_published_one(stories: LlamaModel) -> None:
    config = stories.config
    assert (config.num_layers, config.hidden_size) == (5, 64)
    assert (config.num_q_heads, config.num_kv_heads) == (8, 4)
    assert (config.head_dim, config.vocab_size) == (8, 512)
    assert config.tie_embeddings


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_greedy_tokens_are_the_golden_ones(
    stories: LlamaModel, golden: dict[str, Any], prompt: str, dtype: type
) -> None:
    ids, prompt_ids = golden[prompt]["ids"], golden[prompt]["prompt_ids"]
    new = len(ids) - len(prompt_ids)
    made = greedy(stories, prompt_ids, max_new_tokens=new, dtype=dtype)
    assert prompt_ids + made == ids


@pytest.mark.parametrize("prompt", PROMPTS)
def test_first_logits_are_the_golden_ones(
    stories: LlamaModel, golden: dict[str, Any], prompt: str
) -> None:
    logits = LlamaReference(stories).feed(golden[prompt]["prompt_ids"])
    np.testing.assert_allclose(
        logits[-1][:8], golden[prompt]["first_logits8"], atol=1e-12
    )


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_tokenizer_reads_and_writes_the_golden_text(
    tokenizer: Tokenizer, golden: dict[str, Any], prompt: str
) -> None:
    case = golden[prompt]
    assert tokenizer.encode(case["prompt"]) == case["prompt_ids"]
    assert tokenizer.decode(case["ids"], skip_special=True) == case["text"]
    assert tokenizer.decode(case["ids"]) == "<s> " + case["text"]


def test_the_text_is_what_llama2c_prints(
    tokenizer: Tokenizer, golden: dict[str, Any], shared_data: Path
) -> None:
    printed = (
        shared_data
        / "models"
        / "stories260K"
        / "expected_stdout_llama2c_test_all.txt"
    ).read_text(encoding="utf-8")
    text = tokenizer.decode(golden["(empty)"]["ids"], skip_special=True)
    assert text.startswith(printed.strip())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pieces_give_the_logits_of_the_whole(dtype: type) -> None:
    model = small_llama(seed=1)
    tokens = list(range(3, 40))
    whole = LlamaReference(model, dtype).feed(tokens)
    pieces = LlamaReference(model, dtype)
    parts = [pieces.feed(tokens[at : at + 5]) for at in range(0, 37, 5)]
    np.testing.assert_allclose(
        np.concatenate(parts),
        whole,
        atol=1e-3 if dtype is np.float32 else 1e-10,
    )
    assert whole.dtype == dtype


def test_a_random_model_listens_to_its_whole_context() -> None:
    model = small_llama()
    tokens = list(range(3, 20))
    made = greedy(model, tokens, max_new_tokens=40)
    other = greedy(model, [99, *tokens[1:]], max_new_tokens=40)
    assert len(set(made)) > 20
    assert made != other


def test_greedy_ends_after_a_stop_token() -> None:
    model = small_llama()
    made = greedy(model, [5, 6, 7], max_new_tokens=20)
    stopped = greedy(model, [5, 6, 7], max_new_tokens=20, stop_ids=[made[4]])
    assert stopped == made[: made.index(made[4]) + 1]
