"""Loading and tokenizing the demo's model, against recorded tokens."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from kvcache.model import LlamaModel, Tokenizer, load_model
from llama_reference import LlamaReference, greedy
from models import smollm2_file

TIE = 1e-2
"""Two logits closer than this may come in either order."""


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> dict[str, Any]:
    path = shared_data / "models" / "smollm2" / "golden_greedy.json"
    cases: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return cases


@pytest.fixture(scope="module")
def file(shared_data: Path) -> Path:
    del shared_data  # marks the tests: none runs where the data are absent
    return smollm2_file()


@pytest.fixture(scope="module")
def smollm2(file: Path) -> LlamaModel:
    return load_model(file)


@pytest.fixture(scope="module")
def tokenizer(smollm2: LlamaModel) -> Tokenizer:
    assert smollm2.tokenizer is not None
    return smollm2.tokenizer


def test_the_shape_is_the_published_one(smollm2: LlamaModel) -> None:
    config = smollm2.config
    assert (config.num_layers, config.hidden_size) == (30, 576)
    assert (config.num_q_heads, config.num_kv_heads) == (9, 3)
    assert (config.head_dim, config.intermediate_size) == (64, 1536)
    assert (config.vocab_size, config.max_seq_len) == (49_152, 8_192)
    assert config.rope_theta == 1e5
    assert config.rms_norm_eps == pytest.approx(1e-5)
    assert config.tie_embeddings
    assert len(smollm2.weights) == 272


def test_weights_are_what_the_package_dequantises(
    smollm2: LlamaModel, file: Path
) -> None:
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for name, theirs in {
        "model.embed_tokens.weight": "token_embd.weight",  # Q8_0
        "model.layers.7.mlp.down_proj.weight": "blk.7.ffn_down.weight",
        "model.layers.29.self_attn.v_proj.weight": "blk.29.attn_v.weight",
        "model.norm.weight": "output_norm.weight",
    }.items():
        tensor = tensors[theirs]
        wanted = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(smollm2.weights[name], wanted)


def test_the_golden_prompts_are_read_and_written(
    tokenizer: Tokenizer, golden: dict[str, Any]
) -> None:
    for case in golden.values():
        assert tokenizer.encode(case["prompt"]) == case["prompt_ids"]
        assert tokenizer.decode(case["prompt_ids"]) == case["prompt"]
        assert tokenizer.decode(case["new_ids"]) == case["text"]
    assert tokenizer.eos_ids == {2}
    assert tokenizer.bos_id == 1


def test_the_chat_template_gives_the_golden_prompt(
    tokenizer: Tokenizer, golden: dict[str, Any]
) -> None:
    question = {"role": "user", "content": "What is the capital of France?"}
    text = tokenizer.apply_chat_template([question])
    assert text == golden["chat"]["prompt"]


def test_mt_bench_reads_back_its_ids(
    tokenizer: Tokenizer, shared_data: Path
) -> None:
    path = shared_data / "traces" / "mtbench" / "requests.tokens.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 40
    for line in lines:
        request = json.loads(line)
        for ids in (request["prompt_ids"], request["output_ids"]):
            stream = tokenizer.stream()
            pieces = [stream.feed(token) for token in ids]
            text = "".join(pieces) + stream.finish()
            assert tokenizer.encode(text) == ids
            assert "\ufffd" not in text


@pytest.mark.parametrize("case", ["france", "chat", "story"])
def test_logits_are_the_golden_ones(
    smollm2: LlamaModel, golden: dict[str, Any], case: str
) -> None:
    """One pass over prompt and answer: each position names the next token."""
    prompt, new = golden[case]["prompt_ids"], golden[case]["new_ids"]
    logits = LlamaReference(smollm2, np.float32).feed(prompt + new)
    after_prompt = logits[len(prompt) - 1 : -1]
    np.testing.assert_allclose(
        after_prompt[0][:8], golden[case]["first_logits8"], atol=1e-3
    )
    best = np.sort(after_prompt, axis=-1)[:, -2:]
    gaps = best[:, 1] - best[:, 0]
    np.testing.assert_allclose(gaps, golden[case]["top1_gaps"], atol=1e-3)
    assert after_prompt.argmax(axis=-1).tolist() == new
    assert gaps.min() > TIE


def test_greedy_tokens_are_the_golden_ones(
    smollm2: LlamaModel, golden: dict[str, Any]
) -> None:
    case = golden["chat"]
    made = greedy(
        smollm2,
        case["prompt_ids"],
        max_new_tokens=20,
        stop_ids=[2],
        dtype=np.float32,
    )
    assert made == case["new_ids"]
