"""`kvcache generate`: one prompt, one answer."""

import json
from pathlib import Path

from rich.console import Console

from kvcache.cli.opening import open_loop, open_model
from kvcache.cli.options import CacheOptions
from kvcache.cli.units import format_size
from kvcache.errors import KVCacheError
from kvcache.model import ModelError, Tokenizer
from kvcache.serve import (
    GenerationRequest,
    RequestFinished,
    RequestRejectedError,
    SamplingParams,
    ScheduleLimits,
    ServingLoop,
    ServingStats,
    TokenGenerated,
)


def generate_answer(
    prompt: str,
    *,
    model_path: Path,
    max_new_tokens: int,
    raw: bool,
    as_json: bool,
    cache: CacheOptions,
    limits: ScheduleLimits,
    sampling: SamplingParams,
) -> int:
    """Prints an answer as it is generated, or one JSON object at its end.

    Args:
        prompt: What to answer.
        model_path: A GGUF file or a Hugging Face folder.
        max_new_tokens: Tokens in the answer, at most.
        raw: Whether the prompt goes without chat template.
        as_json: Whether to print one JSON object.
        cache: What the person said about the cache.
        limits: How much one step may compute.
        sampling: How tokens are drawn.

    Returns:
        The exit status.

    Raises:
        KVCacheError: If the person asked for what cannot be had.
    """
    if not prompt.strip():
        raise RequestRejectedError("wanted a prompt, got an empty one")
    notes = Console(stderr=True)
    with notes.status("Reading the model"):
        model, tokenizer = open_model(model_path)
        request = GenerationRequest(
            _prompt_ids(tokenizer, prompt, raw=raw),
            max_new_tokens=max_new_tokens,
            stop_ids=tokenizer.eos_ids,
            sampling=sampling,
        )
        limit = model.config.max_seq_len
        if len(request.tokens) >= limit:
            raise RequestRejectedError(
                f"wanted a prompt of at most {limit - 1} tokens, the model's "
                f"context less one, got {len(request.tokens)}"
            )
    with notes.status("Compiling the model"):
        loop = open_loop(
            model,
            cache,
            num_tokens=min(len(request.tokens) + max_new_tokens, limit),
            max_batch_size=1,
            limits=limits,
            samples=not sampling.is_greedy,
        )
        loop.submit(request)
    if as_json:
        _run(loop, None)
        print(json.dumps(_as_object(loop, request, tokenizer)))
    else:
        _run(loop, tokenizer)
        notes.print(_summary(loop.stats), style="dim", highlight=False)
    return 0


def _prompt_ids(tokenizer: Tokenizer, prompt: str, *, raw: bool) -> list[int]:
    """Returns the tokens of a prompt, as one user's message unless raw."""
    if not raw:
        if not tokenizer.has_chat_template:
            raise ModelError(
                "wanted a model with a chat template, got one without: "
                "--raw takes the prompt as it stands"
            )
        message = {"role": "user", "content": prompt}
        prompt = tokenizer.apply_chat_template([message])
    return tokenizer.encode(prompt)


def _run(loop: ServingLoop, tokenizer: Tokenizer | None) -> None:
    """Serves the one request; prints its text if there is a tokenizer."""
    stream = tokenizer.stream(skip_special=True) if tokenizer else None
    for event in loop.run():
        if isinstance(event, TokenGenerated) and stream:
            print(stream.feed(event.token), end="", flush=True)
        elif isinstance(event, RequestFinished):
            if stream:
                print(stream.finish())
            if event.error is not None:
                raise KVCacheError(f"the answer was cut off: {event.error}")


def _as_object(
    loop: ServingLoop, request: GenerationRequest, tokenizer: Tokenizer
) -> dict[str, object]:
    """Returns what `--json` prints."""
    reason, output_ids = request.finish_reason, request.output_ids
    return {
        "prompt_ids": request.prompt_ids,
        "output_ids": output_ids,
        "text": tokenizer.decode(output_ids, skip_special=True),
        "metrics": {
            **loop.stats.as_dict(),
            "finish_reason": reason.value if reason else None,
        },
    }


def _summary(stats: ServingStats) -> str:
    shape = stats.shape
    return (
        f"{stats.generated_tokens} tokens, "
        f"{stats.tokens_per_second:.1f} tokens/s; {stats.peak_pages} of "
        f"{shape.num_pages} pages of {shape.page_size} tokens, "
        f"{format_size(stats.peak_bytes)}"
    )
