"""Serves a hybrid model over `kvcache.pools`, and checks it without any cache.

    python examples/hybrid_demo.py

A small model of full-attention and gated-delta-net layers, its weights random,
answers a dozen prompts of which many begin alike. Requests join and leave a
batch of three; a prompt's keys, values and states are cached behind it.
"""

import random

from hybrid_loop import HybridLoop, Running
from hybrid_model import VOCABULARY, draw_weights, generate_plainly


def main() -> None:
    """Runs the loop, prints each request, and compares its tokens."""
    model = draw_weights()
    loop = HybridLoop(model, max_batch=3, num_snapshots=4)
    draw = random.Random(0)  # noqa: S311 - a demo's prompts
    system = [draw.randrange(VOCABULARY) for _ in range(12)]
    prompts = [system[:8]]
    for _ in range(11):
        own = [draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 5))]
        prompts.append(system[: draw.choice([8, 8, 12])] + own)
    done: list[Running] = []
    for prompt in prompts:
        while not loop.join(prompt, 8):
            done += loop.step()
    while loop.running:
        done += loop.step()
    for request in done:
        prompt = request.tokens[: request.num_prompt]
        wanted = generate_plainly(model, prompt, request.num_new)
        same = "as uncached" if request.new_tokens == wanted else "WRONG"
        print(
            f"{request.num_prompt:3} prompt tokens, {request.num_hit:2} cached"
            f" -> {request.new_tokens} {same}"
        )
        assert request.new_tokens == wanted
    hits = sum(request.num_hit for request in done)
    print(f"{len(done)} requests, {loop.steps} steps, {hits} tokens cached")


if __name__ == "__main__":
    main()
