"""Serves recorded requests with a real model and compares the tokens."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from max.driver import CPU, Device
from max.engine import InferenceSession

from kvcache import PagedKVCacheManager
from kvcache.flow_ops import FlowOps
from kvcache.model import LlamaModel
from kvcache.serve import (
    GenerationRequest,
    SamplingParams,
    ScheduleLimits,
    ServingLoop,
)
from kvcache.serve.compiled_llama import CompiledLlama, compile_together
from kvcache.serve.engine import cache_params
from kvcache.serve.runner import LlamaRunner

TIE = 1e-2
"""A smaller gap between the best two logits may flip."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request and the tokens that it must give."""

    prompt: list[int]
    output: list[int]
    gaps: list[float] = field(default_factory=list)
    conversation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How requests are served; a test changes one thing from the base."""

    page_size: int = 16
    kv_dtype: str = "float32"
    prefix_cache: bool = True
    num_steps: int = 8
    chunk_size: int = 256
    num_pages: int = 512
    max_batch_size: int = 8
    in_order: bool = False


class Served:
    """One model behind graphs that are compiled once per page size and type.

    Args:
        model: The weights.
        device: Where the pages are.
        page_sizes: Those that are compiled together, when one is wanted.
        has_all_outputs: Whether there are a sampling graph and logits too.
        flow: Chooses the blocks that decode steps attend to.
        session: Compiles the graphs; one of its own if None.
    """

    def __init__(
        self,
        model: LlamaModel,
        device: Device | None = None,
        *,
        page_sizes: Sequence[int] = (16,),
        has_all_outputs: bool = False,
        flow: FlowOps | None = None,
        session: InferenceSession | None = None,
    ) -> None:
        self.model = model
        self.flow = flow
        self.page_sizes = page_sizes
        self.has_all_outputs = has_all_outputs
        self.device = device or CPU()
        self.session = session or InferenceSession(devices=[self.device])
        self.compiled: dict[tuple[int, str], CompiledLlama] = {}

    def loop(self, setting: Setting) -> ServingLoop:
        """Returns a fresh loop on a fresh pool."""
        config = self.model.config
        params = cache_params(
            config,
            page_size=setting.page_size,
            prefix_cache=setting.prefix_cache,
            kv_dtype=setting.kv_dtype,
            flow=self.flow,
        )
        manager = PagedKVCacheManager(
            params,
            max_batch_size=setting.max_batch_size,
            max_seq_len=config.max_seq_len,
            num_layers=config.num_layers,
            devices=[self.device],
            session=self.session,
            available_cache_memory=setting.num_pages
            * params.bytes_per_page(config.num_layers),
            page_size=setting.page_size,
            enable_runtime_checks=True,
        )
        kind = setting.page_size, setting.kv_dtype
        if kind not in self.compiled:
            self.compile(setting.kv_dtype)
        runner = LlamaRunner(self.compiled[kind], manager)
        limits = ScheduleLimits(
            max_batch_tokens=512,
            chunk_size=setting.chunk_size,
            num_steps=setting.num_steps,
        )
        return ServingLoop(manager, runner, limits=limits)

    def compile(self, kv_dtype: str) -> None:
        """Compiles the model for caches of every page size."""
        caches = self.caches(kv_dtype)
        compile_together([*caches.values()], samples=self.has_all_outputs)

    def caches(self, kv_dtype: str) -> dict[tuple[int, str], CompiledLlama]:
        """Keeps and returns the caches of every page size, to be compiled."""
        caches = {
            (page_size, kv_dtype): CompiledLlama(
                self.model,
                cache_params(
                    self.model.config,
                    page_size=page_size,
                    kv_dtype=kv_dtype,
                    flow=self.flow,
                ),
                device=self.device,
                session=self.session,
                flow=self.flow,
                return_logits=self.has_all_outputs,
            )
            for page_size in self.page_sizes
        }
        self.compiled |= caches
        return caches

    def serve(
        self,
        recorded: Sequence[Recorded],
        setting: Setting,
        *,
        attention_ratio: float | None = None,
    ) -> tuple[list[GenerationRequest], ServingLoop]:
        """Serves all requests; later turns wait for the turn before them."""
        loop = self.loop(setting)
        requests = [
            GenerationRequest(
                r.prompt,
                max_new_tokens=len(r.output),
                attention_ratio=attention_ratio,
            )
            for r in recorded
        ]
        for group in _rounds(recorded, in_order=setting.in_order):
            for index in group:
                loop.submit(requests[index])
            for _ in loop.run():
                pass
        assert loop.manager.num_free_blocks == setting.num_pages
        return requests, loop


def _rounds(
    recorded: Sequence[Recorded], *, in_order: bool
) -> Iterable[list[int]]:
    """Yields which requests may be submitted together."""
    if in_order:
        yield from ([index] for index in range(len(recorded)))
        return
    seen: dict[int, int] = {}
    rounds: dict[int, list[int]] = {}
    for index, request in enumerate(recorded):
        turn = 0
        if request.conversation is not None:
            turn = seen.get(request.conversation, -1) + 1
            seen[request.conversation] = turn
        rounds.setdefault(turn, []).append(index)
    yield from rounds.values()


def read_mtbench(shared_data: Path) -> list[Recorded]:
    """Returns the 40 MT-bench requests, as tokens of SmolLM2."""
    path = shared_data / "traces/mtbench/requests.tokens.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 40
    return [
        Recorded(
            row["prompt_ids"], row["output_ids"], row["top1_gaps"], row["conv"]
        )
        for row in rows
    ]


def count_ties(
    recorded: Sequence[Recorded], requests: Sequence[GenerationRequest]
) -> int:
    """Returns how many answers left the recorded one at a tie.

    Raises:
        AssertionError: If one left it elsewhere.
    """
    ties = 0
    for wanted, request in zip(recorded, requests, strict=True):
        got = request.output_ids
        assert len(got) == len(wanted.output)
        differ = np.flatnonzero(np.array(got) != np.array(wanted.output))
        if not differ.size:
            continue
        first = int(differ[0])
        gap = wanted.gaps[first] if wanted.gaps else np.inf
        assert gap < TIE, (
            f"token {first} is {got[first]}, wanted {wanted.output[first]},"
            f" and the gap is {gap}"
        )
        ties += 1
    return ties


def sampled(seed: int) -> SamplingParams:
    """Returns parameters that make the draw matter."""
    return SamplingParams(temperature=0.9, top_k=40, top_p=0.95, seed=seed)


SPARSE_BLOCK = 16
"""Tokens of a block of the small model's flow."""


@cache
def small_served() -> Served:
    """Returns a small random model, compiled once a process.

    Its graphs are those of stories260K, so MAX compiles them once for both.
    """
    return _small_pair()[0]


@cache
def small_sparse_served() -> Served:
    """Returns the same model with Quest's choice of blocks, pages of two."""
    return _small_pair()[1]


@cache
def _small_pair() -> tuple[Served, Served]:
    from models import STORIES260K_SIZES, small_llama

    return served_pair(small_llama(**STORIES260K_SIZES))


def served_pair(model: LlamaModel) -> tuple[Served, Served]:
    """Compiles a model without and with a flow: most of both is the same.

    Models of equal sizes have equal graphs, which MAX compiles once.
    """
    from kvcache.compiler.mojo_backend import flow_ops
    from kvcache.compiler.registry import make_flow

    flow = flow_ops(
        make_flow("quest"),
        block_size=SPARSE_BLOCK,
        head_dim=model.config.head_dim,
        group_size=model.config.num_q_heads // model.config.num_kv_heads,
        field_dtype="float32",
    )
    dense = Served(model, has_all_outputs=True)
    sparse = Served(
        model,
        page_sizes=(2 * SPARSE_BLOCK,),
        flow=flow,
        session=dense.session,
    )
    caches = [*dense.caches("float32").values()]
    caches += sparse.caches("float32").values()
    compile_together(caches, samples=True)
    return dense, sparse
