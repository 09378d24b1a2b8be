"""The serving loop beside Hugging Face transformers, SmolLM2 in float32.

Same weights, same process, the two interleaved:

    python -m benchmarks.bench_loop --json benchmarks/results/loop.jsonl

Decode is the rate behind a prompt, at batch 1 and at batch 8 of equal lengths;
prefill the rate of one long prompt; the stream is the MT-bench conversations,
whose second turn comes when the first was answered. Each side runs at its best
setting: transformers eager and compiled, its stream in padded batches of
several sizes. Answers have the recorded lengths on both sides.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.rows import ROOT, Row, context, processor, write
from kvcache.model import LlamaModel, download_smollm2, load_model
from kvcache.serve import GenerationRequest, ScheduleLimits, ServingLoop
from kvcache.serve.engine import cache_params, llama_loop

STREAM = ROOT.parent / "shared/data/traces/mtbench/requests.tokens.jsonl"
PROMPT_TOKENS = 128
DECODE_TOKENS = 64
PREFILL_TOKENS = 512
PAGES = 1024
PAGE_SIZE = 16
STREAM_BATCHES = (8, 16, 20)


@dataclass(frozen=True, slots=True)
class Turn:
    """One recorded request of the stream."""

    conversation: int
    prompt: list[int]
    num_new: int


def read_stream(path: Path) -> list[Turn]:
    """Reads the recorded requests, in order."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Turn(row["conv"], row["prompt_ids"], len(row["output_ids"]))
        for row in rows
    ]


def prompts(batch: int, length: int, vocab_size: int) -> list[list[int]]:
    """Draws prompts that share nothing."""
    rng = np.random.default_rng(batch * 100_003 + length)
    return rng.integers(3, vocab_size, (batch, length)).tolist()


class Ours:
    """The serving loop; nothing stops at a stop token."""

    def __init__(self, model: LlamaModel) -> None:
        """Compiles the graphs."""
        self._vocab_size = model.config.vocab_size
        params = cache_params(model.config, page_size=PAGE_SIZE)
        self._loop = llama_loop(
            model,
            params,
            memory=PAGES * params.bytes_per_page(model.config.num_layers),
            max_batch_size=max(STREAM_BATCHES),
            limits=ScheduleLimits(max_batch_tokens=512, chunk_size=512),
        )

    def decode(self, batch: int) -> float:
        """Returns decoded tokens per second behind cached prompts."""
        loop = self._fresh()
        requests = [
            GenerationRequest(ids, max_new_tokens=DECODE_TOKENS + 1)
            for ids in prompts(batch, PROMPT_TOKENS, self._vocab_size)
        ]
        for request in requests:
            loop.submit(request)
        while not all(r.tokens.generated_length for r in requests):
            loop.step()
        before = sum(r.tokens.generated_length for r in requests)
        seconds = _seconds(lambda: list(loop.run()))
        after = sum(r.tokens.generated_length for r in requests)
        return (after - before) / seconds

    def prefill(self) -> float:
        """Returns prompt tokens per second up to the first new token."""
        loop = self._fresh()
        (ids,) = prompts(1, PREFILL_TOKENS, self._vocab_size)
        loop.submit(GenerationRequest(ids, max_new_tokens=1))
        return PREFILL_TOKENS / _seconds(lambda: list(loop.run()))

    def stream(self, turns: list[Turn]) -> float:
        """Returns new tokens per second over all conversations."""
        loop = self._fresh()
        later: dict[int, list[Turn]] = {}
        for turn in turns:
            later.setdefault(turn.conversation, []).append(turn)
        owner: dict[object, int] = {}

        def submit(conversation: int) -> None:
            turn = later[conversation].pop(0)
            request = GenerationRequest(
                turn.prompt, max_new_tokens=turn.num_new
            )
            owner[request.request_id] = conversation
            loop.submit(request)

        def serve() -> None:
            for conversation in later:
                submit(conversation)
            while not loop.is_idle:
                for event in loop.step():
                    conversation = owner[event.request.request_id]
                    ended = event.request.finish_reason is not None
                    if ended and later[conversation]:
                        submit(conversation)

        seconds = _seconds(serve)
        return sum(turn.num_new for turn in turns) / seconds

    def _fresh(self) -> ServingLoop:
        """Returns the loop with nothing cached."""
        self._loop.manager.reset_prefix_cache()
        return self._loop


class Transformers:
    """Hugging Face transformers on the same weights.

    Args:
        model: The weights.
        is_compiled: Whether decode goes through `torch.compile`.
    """

    def __init__(self, model: LlamaModel, *, is_compiled: bool) -> None:
        """Builds the model; its tensors share the weights' memory."""
        import torch
        import transformers

        self._torch, self._hf = torch, transformers
        config = model.config
        self._model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_q_heads,
                num_key_value_heads=config.num_kv_heads,
                head_dim=config.head_dim,
                max_position_embeddings=config.max_seq_len,
                rms_norm_eps=config.rms_norm_eps,
                rope_theta=config.rope_theta,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": config.rope_theta,
                },
                tie_word_embeddings=config.tie_embeddings,
            )
        ).eval()
        state = {k: torch.from_numpy(v) for k, v in model.weights.items()}
        self._model.load_state_dict(state, strict=False, assign=True)
        self._model.tie_weights()
        self._is_compiled = is_compiled
        self._vocab_size = config.vocab_size
        self._step = torch.compile(self._model) if is_compiled else self._model

    def decode(self, batch: int) -> float:
        """Returns decoded tokens per second behind cached prompts."""
        torch = self._torch
        ids = torch.tensor(prompts(batch, PROMPT_TOKENS, self._vocab_size))
        with torch.inference_mode():
            cache = self._cache(batch, PROMPT_TOKENS + DECODE_TOKENS + 1)
            out = self._model(
                ids, past_key_values=cache, use_cache=True, logits_to_keep=1
            )

            def run() -> None:
                token = out.logits[:, -1:].argmax(-1)
                for i in range(DECODE_TOKENS):
                    place = torch.tensor([PROMPT_TOKENS + i])
                    token = (
                        self._step(
                            token,
                            past_key_values=cache,
                            use_cache=True,
                            cache_position=place,
                            position_ids=place[None].expand(batch, 1),
                        )
                        .logits[:, -1:]
                        .argmax(-1)
                    )

            return batch * DECODE_TOKENS / _seconds(run)

    def prefill(self) -> float:
        """Returns prompt tokens per second up to the first new token."""
        ids = self._torch.tensor(prompts(1, PREFILL_TOKENS, self._vocab_size))
        with self._torch.inference_mode():
            return PREFILL_TOKENS / _seconds(
                lambda: self._model(ids, use_cache=True, logits_to_keep=1)
            )

    def stream(self, turns: list[Turn], batch: int) -> float:
        """Returns new tokens per second, in left-padded batches.

        First turns go before second turns, which need their answers.
        """
        seen: set[int] = set()
        rounds: tuple[list[Turn], list[Turn]] = ([], [])
        for turn in turns:
            rounds[turn.conversation in seen].append(turn)
            seen.add(turn.conversation)

        def run() -> None:
            for waiting in rounds:
                waiting.sort(key=lambda turn: len(turn.prompt))
                for begin in range(0, len(waiting), batch):
                    self._generate(waiting[begin : begin + batch])

        return sum(turn.num_new for turn in turns) / _seconds(run)

    def _cache(self, batch: int, length: int) -> object:
        """Returns a cache; a compiled step wants one of a fixed size."""
        if not self._is_compiled:
            return self._hf.DynamicCache(config=self._model.config)
        return self._hf.StaticCache(
            config=self._model.config, max_cache_len=length, batch_size=batch
        )

    def _generate(self, turns: list[Turn]) -> None:
        torch = self._torch
        longest = max(len(turn.prompt) for turn in turns)
        pads = [longest - len(turn.prompt) for turn in turns]
        rows = zip(pads, turns, strict=True)
        ids = torch.tensor([[0] * pad + turn.prompt for pad, turn in rows])
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads])
        num_new = max(turn.num_new for turn in turns)
        with torch.inference_mode():
            self._model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=num_new,
                min_new_tokens=num_new,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
            )


def weights_read_seconds(model: LlamaModel) -> float:
    """Returns how long both cores take to read every weight once."""
    arrays = [array.ravel() for array in model.weights.values()]
    halves = [half for array in arrays for half in np.array_split(array, 2)]
    # As integers: an exact, vectorised reduction that only waits for memory.
    views = [half.view(np.int32) for half in halves]

    def read(part: list[np.ndarray]) -> int:
        return sum(int(np.bitwise_or.reduce(view)) for view in part)

    with ThreadPoolExecutor(2) as pool:
        return min(
            _seconds(lambda: list(pool.map(read, (views[::2], views[1::2]))))
            for _ in range(5)
        )


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _measure(
    runs: dict[str, Callable[[], float]], repeats: int
) -> dict[str, list[float]]:
    """Returns every side's rates, the sides interleaved, the first dropped."""
    rates: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(repeats + 1):
        for who, run in runs.items():
            rates[who].append(run())
    return {who: values[1:] for who, values in rates.items()}


def bench(
    repeats: int, *, with_compiled: bool, only: str = ""
) -> Iterator[Row]:
    """Measures every case; yields the rows."""
    model = load_model(download_smollm2())
    ours = Ours(model)
    eager = Transformers(model, is_compiled=False)
    peers = {"transformers eager": eager}
    if with_compiled:
        peers["transformers compiled"] = Transformers(model, is_compiled=True)
    cases: dict[str, dict[str, Callable[[], float]]] = {}
    for batch in (1, 8):
        cases[f"decode {batch}x{PROMPT_TOKENS}"] = {
            who: functools.partial(side.decode, batch)
            for who, side in {"kvcache": ours, **peers}.items()
        }
    cases[f"prefill 1x{PREFILL_TOKENS}"] = {
        "kvcache": ours.prefill,
        "transformers eager": eager.prefill,
    }
    if STREAM.is_file():
        turns = read_stream(STREAM)
        cases["stream mtbench"] = {
            "kvcache": functools.partial(ours.stream, turns)
        } | {
            f"transformers batch {batch}": functools.partial(
                eager.stream, turns, batch
            )
            for batch in STREAM_BATCHES
        }
    read = weights_read_seconds(model)
    num_bytes = sum(array.nbytes for array in model.weights.values())
    where = context(processor())
    gbps = round(num_bytes / read / 1e9, 2)
    yield {"case": "read of the weights", "gbps": gbps, **where}
    for case, runs in cases.items():
        if not case.startswith(only):
            continue
        for who, rates in _measure(runs, repeats).items():
            rate = statistics.median(rates)
            row: Row = {
                "case": case,
                "who": who,
                "tokens_per_second": round(rate, 2),
                "min": round(min(rates), 2),
                "max": round(max(rates), 2),
            }
            if case.startswith("decode"):
                batch = int(case.split()[1].split("x")[0])
                row["weights_read_pct"] = round(100 * read * rate / batch, 1)
            yield row | where


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--compiled", action="store_true", help="torch.compile too: minutes"
    )
    parser.add_argument("--only", default="", help="cases that begin so")
    args = parser.parse_args()
    rows = bench(args.repeats, with_compiled=args.compiled, only=args.only)
    write(rows, args.json)


if __name__ == "__main__":
    main()
