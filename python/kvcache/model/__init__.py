"""Llama models on the host: weights, tokenizer and chat template.

Nothing here computes a token. A graph is built from what `load_model` returns.
"""

from kvcache.model.chat_template import ChatTemplate
from kvcache.model.config import LlamaConfig
from kvcache.model.error import ModelError
from kvcache.model.loading import load_model
from kvcache.model.rope import DivisorScaling, LinearScaling, Llama3Scaling
from kvcache.model.smollm2 import download_smollm2
from kvcache.model.tokenizer import TextStream, Tokenizer
from kvcache.model.weights import LlamaModel, weight_shapes

__all__ = [
    "ChatTemplate",
    "DivisorScaling",
    "LinearScaling",
    "Llama3Scaling",
    "LlamaConfig",
    "LlamaModel",
    "ModelError",
    "TextStream",
    "Tokenizer",
    "download_smollm2",
    "load_model",
    "weight_shapes",
]
