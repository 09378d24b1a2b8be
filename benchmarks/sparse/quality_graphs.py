"""SmolLM2's graphs with flows, and the texts that they read."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from max.driver import Device
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Module

from benchmarks.sparse.needles import Needle, needles
from benchmarks.sparse.texts import BOOK, chapter
from kvcache.compiler.mojo_backend import flow_ops
from kvcache.compiler.registry import make_flow
from kvcache.flow_ops import FlowOps
from kvcache.graphs.llama import llama_graph
from kvcache.graphs.llama_weights import llama_weights
from kvcache.model import LlamaConfig, LlamaModel, Tokenizer
from kvcache.ops import CacheInputTypes, precompiled_package
from kvcache.spec import KVCacheParams
from kvcache.summaries import Summaries, SummaryField

PAGE_SIZE = 64
"""Tokens per page."""

MEF, NOTES = "quality.mef", "quality.json"
"""What a folder of compiled graphs holds."""

Choice = tuple[str, int]
"""A flow and its block size."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What is read, as tokens."""

    book: list[int]
    """A chapter, as far as it is read."""
    needles: dict[int, list[Needle]]
    """Hidden facts, by the length of the text around them."""

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        *,
        length: int,
        lengths: Sequence[int],
        count: int,
    ) -> "Texts":
        """Reads the texts.

        Args:
            tokenizer: The model's.
            length: Tokens of the chapter.
            lengths: Tokens around each fact.
            count: Facts of each length.
        """
        book = tokenizer.encode(chapter(BOOK))[:length]
        assert len(book) == length, "the chapter is long enough"
        hidden = {
            each: list(needles(tokenizer, each, count)) for each in lengths
        }
        return cls(book, hidden)


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that is compiled, and all that is read."""

    models: dict[Choice, Model]
    summaries: dict[Choice, Summaries]
    texts: Texts


def compile_flows(
    model: LlamaModel, choices: Sequence[Choice], device: Device
) -> tuple[Module, dict[Choice, FlowOps]]:
    """Builds a model's graphs for several flows, all in one module.

    Args:
        model: The model.
        choices: Flows with their block sizes.
        device: Where they are to run.
    """
    config, module = model.config, Module()
    flows = {
        (name, size): flow_ops(
            make_flow(name),
            block_size=size,
            head_dim=config.head_dim,
            group_size=config.num_q_heads // config.num_kv_heads,
            field_dtype="float32",
        )
        for name, size in choices
    }
    for (name, size), flow in flows.items():
        cache = CacheInputTypes(
            dtype=DType.float32,
            num_layers=config.num_layers,
            page_size=PAGE_SIZE,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            device=DeviceRef.from_device(device),
            summaries=flow.summaries,
        )
        llama_graph(
            config,
            cache,
            flow=flow,
            return_logits=True,
            name=f"{name}_{size}",
            module=module,
        )
    return module, flows


def extensions(flows: dict[Choice, FlowOps]) -> list[Path]:
    """Returns the compiled kernels of the graphs."""
    own = dict.fromkeys(flow.extension for flow in flows.values())
    return [precompiled_package(), *own]


def params_of(config: LlamaConfig, summaries: Summaries) -> KVCacheParams:
    """Returns the cache of a model with a flow."""
    return KVCacheParams(
        dtype="float32",
        n_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        enable_prefix_caching=True,
        page_size=PAGE_SIZE,
        summaries=summaries,
    )


def save(  # noqa: PLR0917  (each is of another type)
    folder: Path,
    model: LlamaModel,
    choices: Sequence[Choice],
    texts: Texts,
    device: Device,
) -> None:
    """Compiles for another machine, and writes what it needs beside a model."""
    session = InferenceSession(devices=[device])
    module, flows = compile_flows(model, choices, device)
    compiled = session.compile(module, custom_extensions=extensions(flows))
    folder.mkdir(parents=True, exist_ok=True)
    compiled.export_mef(folder / MEF)
    notes = {
        "flows": [[*k, asdict(v.summaries)] for k, v in flows.items()],
        "book": texts.book,
        "needles": [
            [length, [asdict(each) for each in hidden]]
            for length, hidden in texts.needles.items()
        ],
    }
    (folder / NOTES).write_text(json.dumps(notes))


def load(folder: Path, model: LlamaModel, device: Device) -> Prepared:
    """Loads what `save` wrote, over a model's weights."""
    notes = json.loads((folder / NOTES).read_text())
    summaries = {
        (name, size): Summaries(
            said["block_size"],
            tuple(SummaryField(**field) for field in said["fields"]),
        )
        for name, size, said in notes["flows"]
    }
    texts = Texts(
        notes["book"],
        {n: [Needle(**each) for each in some] for n, some in notes["needles"]},
    )
    models = InferenceSession(devices=[device]).load_all(
        folder / MEF,
        weights_registry=llama_weights(model.config, model.weights),
    )
    named = {(n, s): models[f"{n}_{s}"] for n, s in summaries}
    return Prepared(named, summaries, texts)


def make(
    model: LlamaModel, choices: Sequence[Choice], texts: Texts, device: Device
) -> Prepared:
    """Compiles for this machine, over a model's weights."""
    module, flows = compile_flows(model, choices, device)
    models = InferenceSession(devices=[device]).load_all(
        module,
        custom_extensions=extensions(flows),
        weights_registry=llama_weights(model.config, model.weights),
    )
    named = {(n, s): models[f"{n}_{s}"] for n, s in flows}
    summaries = {choice: flow.summaries for choice, flow in flows.items()}
    return Prepared(named, summaries, texts)
