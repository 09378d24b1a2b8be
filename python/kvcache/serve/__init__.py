"""A serving loop over a paged cache: continuous batching in plain Python.

`ServingLoop` drives any `StepRunner`; `kvcache.serve.runner.LlamaRunner` is
one that computes a Llama model in MAX.
"""

from kvcache.serve.conversation import Conversation, ConversationLoop
from kvcache.serve.events import (
    Event,
    RequestFinished,
    RequestPreempted,
    RequestStarted,
    TokenGenerated,
)
from kvcache.serve.loop import ServingLoop, StepRunner
from kvcache.serve.plan import ScheduleLimits
from kvcache.serve.request import GenerationRequest, RequestRejectedError
from kvcache.serve.sampling import FinishReason, SamplingParams
from kvcache.serve.stats import ServingStats

__all__ = [
    "GenerationRequest",
    "RequestRejectedError",
    "SamplingParams",
    "ServingLoop",
    "StepRunner",
    "ScheduleLimits",
    "ServingStats",
    "FinishReason",
    "Event",
    "RequestStarted",
    "TokenGenerated",
    "RequestPreempted",
    "RequestFinished",
    "Conversation",
    "ConversationLoop",
]
