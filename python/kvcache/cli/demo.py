"""`kvcache demo`: eight conversations over one paged cache."""

from pathlib import Path

from rich.console import Console

from kvcache.cli.board import Board
from kvcache.cli.conversations import CONVERSATIONS, SYSTEM
from kvcache.cli.opening import open_loop, open_model
from kvcache.cli.options import CacheOptions
from kvcache.cli.summary import print_answers, print_summary
from kvcache.cli.view import make_view
from kvcache.model import ModelError
from kvcache.serve import (
    Conversation,
    ConversationLoop,
    SamplingParams,
    ScheduleLimits,
)

_PROMPT_TOKENS = 160
"""Room for the system prompt and both questions, in the default budget."""


def run_demo(
    *,
    model_path: Path | None,
    max_new_tokens: int,
    max_batch_size: int,
    cache: CacheOptions,
    limits: ScheduleLimits,
    sampling: SamplingParams,
) -> int:
    """Serves the conversations, shows them, and sums up.

    Args:
        model_path: A GGUF file or a Hugging Face folder; SmolLM2 if None.
        max_new_tokens: Tokens in one answer, at most.
        max_batch_size: Conversations that hold pages at the same time.
        cache: What the person said about the cache.
        limits: How much one step may compute.
        sampling: How tokens are drawn.

    Returns:
        The exit status: 1 if a conversation could not be finished.

    Raises:
        KVCacheError: If the person asked for what cannot be had.
    """
    console = Console()
    model, tokenizer = open_model(model_path or _download(console))
    if not tokenizer.has_chat_template:
        raise ModelError("wanted a model with a chat template, got one without")
    with console.status("Compiling the model"):
        tokens = max_batch_size * (_PROMPT_TOKENS + 2 * max_new_tokens)
        loop = open_loop(
            model,
            cache,
            num_tokens=tokens,
            max_batch_size=max_batch_size,
            limits=limits,
            samples=not sampling.is_greedy,
        )
    conversations = [
        Conversation(questions, system=SYSTEM, name=name)
        for name, questions in CONVERSATIONS
    ]
    talks = ConversationLoop(
        loop, tokenizer, max_new_tokens=max_new_tokens, sampling=sampling
    )
    for conversation in conversations:
        talks.start(conversation)
    with make_view(
        console, Board(conversations, talks, tokenizer), loop.stats
    ) as view:
        while not loop.is_idle:
            view.see(talks.step())
    print_answers(console, conversations)
    print_summary(console, conversations, loop.stats, cache)
    return int(any(c.error is not None for c in conversations))


def _download(console: Console) -> Path:
    """Returns SmolLM2, which is downloaded the first time."""
    from kvcache.model.smollm2 import download_smollm2

    return download_smollm2(
        announce=lambda text: console.print(
            text, markup=False, highlight=False, soft_wrap=True
        )
    )
