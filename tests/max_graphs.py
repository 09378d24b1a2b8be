"""A graph of MAX's own making, over a cache that either manager holds.

Compiling MAX's attention for the CPU takes more than a minute for each graph,
so one graph has both: MAX's Llama 3 on the first layers of the cache, and
MAX's bare attention operations on the last one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from max import tree
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import (
    BufferValue,
    DeviceRef,
    Graph,
    TensorType,
    TensorValue,
    Value,
    ops,
)
from max.nn.attention import MHAMaskVariant
from max.nn.kernels import flash_attention_ragged, rope_split_store_ragged
from max.nn.kv_cache import KVCacheInputsPerDevice
from max.nn.transformer import ReturnLogits
from max.pipelines.architectures.llama3.llama3 import Llama3
from max.pipelines.architectures.llama3.model_config import Llama3Config

from beside_max import max_params

HOST = DeviceRef.CPU()
NUM_LAYERS = 2
NUM_Q_HEADS = 4
NUM_KV_HEADS = 2
HEAD_DIM = 16
VOCAB_SIZE = HIDDEN_SIZE = NUM_Q_HEADS * HEAD_DIM  # Equal sizes compile once.
MAX_SEQ_LEN = 1024
QKV_WIDTH = (NUM_Q_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM
SHAPE: dict[str, Any] = {
    "n_kv_heads": NUM_KV_HEADS,
    "head_dim": HEAD_DIM,
    "num_layers": NUM_LAYERS + 1,
    "page_size": 128,
}
PARAMS = max_params(**SHAPE)
QKV = np.random.default_rng(5).normal(size=(VOCAB_SIZE, QKV_WIDTH))
QKV = QKV.astype(np.float32)
"""What the queries, keys and values of each token are."""


def small_llama() -> Llama3:
    """MAX's Llama 3 with few and random weights."""
    config = Llama3Config(
        hidden_size=HIDDEN_SIZE,
        num_attention_heads=NUM_Q_HEADS,
        num_key_value_heads=NUM_KV_HEADS,
        num_hidden_layers=NUM_LAYERS,
        rope_theta=10_000.0,
        rope_scaling_params=None,
        max_seq_len=MAX_SEQ_LEN,
        intermediate_size=HIDDEN_SIZE,
        interleaved_rope_weights=False,
        vocab_size=VOCAB_SIZE,
        dtype=DType.float32,
        model_quantization_encoding=None,
        quantization_config=None,
        kv_params=PARAMS,
        return_logits=ReturnLogits.LAST_TOKEN,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        attention_multiplier=HEAD_DIM**-0.5,
        embedding_multiplier=1.0,
        residual_multiplier=1.0,
        devices=[HOST],
        clip_qkv=None,
    )
    model = Llama3(config)
    draw = np.random.default_rng(3)
    weights = {
        name: draw.normal(
            scale=0.3, size=[int(dim) for dim in weight.shape]
        ).astype(np.float32)
        for name, weight in sorted(model.raw_state_dict().items())
    }
    model.load_state_dict(weights, weight_alignment=1, strict=False)
    return model


def bare_attention(
    qkv: TensorValue,
    freqs: TensorValue,
    offsets: TensorValue,
    cache: KVCacheInputsPerDevice[TensorValue, BufferValue],
) -> TensorValue:
    """MAX's rotary embedding fused with its store, and its attention."""
    layer = ops.constant(NUM_LAYERS, DType.uint32, device=HOST)
    queries = rope_split_store_ragged(
        PARAMS,
        qkv,
        offsets,
        freqs,
        cache,
        layer,
        NUM_Q_HEADS,
        interleaved=False,
    )
    return flash_attention_ragged(
        PARAMS,
        input=queries.reshape((-1, NUM_Q_HEADS, HEAD_DIM)),
        kv_collection=cache,
        layer_idx=layer,
        input_row_offsets=offsets,
        mask_variant=MHAMaskVariant.CAUSAL_MASK,
        scale=HEAD_DIM**-0.5,
    )


def compiled() -> Model:
    """Compiles the graph.

    Inputs: those of MAX's Llama 3 without the cache, then qkv
    `[total_tokens, QKV_WIDTH]` and frequencies, then the cache. Outputs: the
    attention's heads `[total_tokens, num_q_heads, head_dim]`, and the logits
    of each request's last token `[batch, vocab]`.
    """
    llama = small_llama()
    own = llama.input_types(PARAMS)
    cache_types = tree.leaves(PARAMS.get_symbolic_inputs())
    total = own[0].shape[0]

    def forward(*values: Value[Any]) -> tuple[TensorValue, ...]:
        tokens, offsets, num_logits, qkv, freqs = (
            value.tensor for value in values[:5]
        )
        (cache,) = tree.leaves(
            PARAMS.unflatten_kv_inputs(iter(values[5:])),
            leaf=KVCacheInputsPerDevice,
        )
        logits = llama(tokens, cache, num_logits, offsets)
        return bare_attention(qkv, freqs, offsets, cache), *logits

    graph = Graph(
        "llama_and_attention",
        forward,
        input_types=[
            *own[:3],
            TensorType(DType.float32, [total, QKV_WIDTH], HOST),
            TensorType(DType.float32, [MAX_SEQ_LEN, HEAD_DIM], HOST),
            *cache_types,
        ],
    )
    session = InferenceSession(devices=[CPU()])
    return session.load(graph, weights_registry=llama.state_dict())


def frequencies() -> Buffer:
    """Cosines and sines of each position, `[max_seq_len, head_dim]`."""
    speeds = 1e-2 ** np.linspace(0, 1, HEAD_DIM // 2)
    angles = np.outer(np.arange(MAX_SEQ_LEN), speeds)
    both = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return Buffer.from_numpy(both.astype(np.float32))


def run(
    model: Model,
    tokens: Sequence[npt.NDArray[np.int64]],
    inputs: KVCacheInputsPerDevice[Buffer, Buffer],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What attention and model make of each request's new tokens."""
    joined = np.concatenate(tokens)
    offsets = np.cumsum([0, *map(len, tokens)], dtype=np.uint32)
    outputs = model.execute(
        Buffer.from_numpy(joined),
        Buffer.from_numpy(offsets),
        Buffer.from_numpy(np.array([1], np.int64)),
        Buffer.from_numpy(QKV[joined]),
        frequencies(),
        *tree.leaves(inputs),
    )
    heads, logits = (np.array(one.to_numpy()) for one in outputs[:2])
    return heads, logits
