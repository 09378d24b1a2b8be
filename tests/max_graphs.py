"""Graphs of MAX's own making, over a cache that either manager holds.

Compiling MAX's attention for the CPU takes a minute or two; all graphs are
compiled together, since they share it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from max import tree
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Graph, Module, TensorType, Value, ops
from max.nn.attention import MHAMaskVariant
from max.nn.kernels import flash_attention_ragged, rope_split_store_ragged
from max.nn.kv_cache import KVCacheInputsPerDevice, MHAKVCacheParams
from max.nn.transformer import ReturnLogits
from max.pipelines.architectures.llama3.llama3 import Llama3
from max.pipelines.architectures.llama3.model_config import Llama3Config

from beside_max import max_params

HOST = DeviceRef.CPU()
NUM_LAYERS = 2
NUM_Q_HEADS = 4
NUM_KV_HEADS = 2
HEAD_DIM = 16
VOCAB_SIZE = 96
MAX_SEQ_LEN = 1024
QKV_WIDTH = (NUM_Q_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM
SHAPE: dict[str, Any] = {
    "n_kv_heads": NUM_KV_HEADS,
    "head_dim": HEAD_DIM,
    "num_layers": NUM_LAYERS,
    "page_size": 128,
}
PARAMS = max_params(**SHAPE)


def attention_graph(params: MHAKVCacheParams, module: Module) -> Graph:
    """MAX's fused rotary embedding with store, and its attention.

    Inputs: qkv `[total_tokens, QKV_WIDTH]`, frequencies, row offsets, cache.
    Output: the heads of the last layer `[total_tokens, num_q_heads, head_dim]`.
    """

    def forward(
        qkv: Value[Any], freqs: Value[Any], offsets: Value[Any], *rest: Any
    ) -> Any:
        (cache,) = tree.leaves(
            params.unflatten_kv_inputs(iter(rest)), leaf=KVCacheInputsPerDevice
        )
        layer = ops.constant(params.num_layers - 1, DType.uint32, device=HOST)
        queries = rope_split_store_ragged(
            params,
            qkv.tensor,
            offsets.tensor,
            freqs.tensor,
            cache,
            layer,
            NUM_Q_HEADS,
            interleaved=False,
        )
        return flash_attention_ragged(
            params,
            input=queries.reshape((-1, NUM_Q_HEADS, params.head_dim)),
            kv_collection=cache,
            layer_idx=layer,
            input_row_offsets=offsets.tensor,
            mask_variant=MHAMaskVariant.CAUSAL_MASK,
            scale=params.head_dim**-0.5,
        )

    types = [
        TensorType(DType.float32, ["total_seq_len", QKV_WIDTH], HOST),
        TensorType(DType.float32, [MAX_SEQ_LEN, params.head_dim], HOST),
        TensorType(DType.uint32, ["input_row_offsets_len"], HOST),
        *tree.leaves(params.get_symbolic_inputs()),
    ]
    return Graph("attention", forward, input_types=types, module=module)


def small_llama(params: MHAKVCacheParams) -> Llama3:
    """MAX's Llama 3 with few and random weights."""
    hidden_size = NUM_Q_HEADS * params.head_dim
    config = Llama3Config(
        hidden_size=hidden_size,
        num_attention_heads=NUM_Q_HEADS,
        num_key_value_heads=params.n_kv_heads,
        num_hidden_layers=params.num_layers,
        rope_theta=10_000.0,
        rope_scaling_params=None,
        max_seq_len=MAX_SEQ_LEN,
        intermediate_size=2 * hidden_size,
        interleaved_rope_weights=False,
        vocab_size=VOCAB_SIZE,
        dtype=DType.float32,
        model_quantization_encoding=None,
        quantization_config=None,
        kv_params=params,
        return_logits=ReturnLogits.LAST_TOKEN,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        attention_multiplier=params.head_dim**-0.5,
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


def compile_all() -> dict[str, Model]:
    """Compiles the attention and the model together."""
    module = Module()
    attention_graph(PARAMS, module)
    llama = small_llama(PARAMS)
    llama.trace(*llama.input_types(PARAMS), name="llama", module=module)
    session = InferenceSession(devices=[CPU()])
    return session.load_all(module, weights_registry=llama.state_dict())


def ragged(rows: Sequence[npt.NDArray[Any]]) -> tuple[Buffer, Buffer]:
    """The rows end to end, and where each one starts."""
    starts = np.cumsum([0, *map(len, rows)], dtype=np.uint32)
    joined = np.ascontiguousarray(np.concatenate(rows))
    return Buffer.from_numpy(joined), Buffer.from_numpy(starts)


def run_attention(
    model: Model,
    qkv: Sequence[npt.NDArray[np.float32]],
    inputs: KVCacheInputsPerDevice[Buffer, Buffer],
) -> npt.NDArray[np.float32]:
    """What attention makes of each token, `[total_tokens, heads, dim]`."""
    angles = np.outer(
        np.arange(MAX_SEQ_LEN), 1e-2 ** np.linspace(0, 1, HEAD_DIM // 2)
    )
    freqs = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    rows, offsets = ragged(qkv)
    (heads,) = model.execute(
        rows,
        Buffer.from_numpy(freqs.astype(np.float32)),
        offsets,
        *tree.leaves(inputs),
    )
    return np.array(heads.to_numpy())


def run_llama(
    model: Model,
    tokens: Sequence[npt.NDArray[np.int64]],
    inputs: KVCacheInputsPerDevice[Buffer, Buffer],
) -> npt.NDArray[np.float32]:
    """The logits of each request's last token, `[batch, vocab]`."""
    rows, offsets = ragged(tokens)
    num_logits = Buffer.from_numpy(np.array([1], np.int64))
    logits, *_ = model.execute(rows, offsets, num_logits, *tree.leaves(inputs))
    return np.array(logits.to_numpy())
