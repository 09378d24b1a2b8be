"""A small model of full-attention and gated-delta-net layers, random weights.

It runs in two ways: over all tokens with nothing cached, one token after the
other in plain loops, and step by step over the pools of `kvcache.pools`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

VOCABULARY, WIDTH = 61, 32
NUM_HEADS, HEAD_DIM = 2, 16
KEY_DIM, VALUE_DIM = 8, 12
CONV_DIM = NUM_HEADS * (2 * KEY_DIM + VALUE_DIM)
KERNEL_SIZE = 4
LAYERS = ("delta", "attention", "delta", "delta", "attention")
NUM_DELTA, NUM_ATTENTION = 3, 2
SLOW = 4.0
"""What keeps the gate of forgetting open, so that states last."""

Weights = dict[str, torch.Tensor]


def draw_weights(seed: int = 0) -> list[Weights]:
    """Returns each layer's weights, then those of embedding and head."""
    draw = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=draw) / rows**0.5

    heads = NUM_HEADS * HEAD_DIM
    layers = []
    for kind in LAYERS:
        if kind == "attention":
            shapes = {"q": heads, "k": heads, "v": heads}
            out = heads
        else:
            shapes = {"qkv": CONV_DIM, "gates": 2 * NUM_HEADS}
            out = NUM_HEADS * VALUE_DIM
        weights = {name: matrix(WIDTH, size) for name, size in shapes.items()}
        weights["out"] = 3 * matrix(out, WIDTH)
        if kind == "delta":
            weights["conv"] = matrix(KERNEL_SIZE, CONV_DIM)
        layers.append(weights)
    last = {"embedding": matrix(VOCABULARY, WIDTH)}
    last["head"] = matrix(WIDTH, VOCABULARY)
    return [*layers, last]


@dataclass(frozen=True, slots=True)
class DeltaState:
    """The states of a batch in one delta-net layer."""

    recurrent: torch.Tensor
    """`[batch_size, num_heads, value_dim, key_dim]`."""
    conv: torch.Tensor
    """Last inputs of the convolution, `[batch_size, conv_dim, kernel - 1]`."""

    @classmethod
    def empty(cls) -> "DeltaState":
        """Returns one request's state before the first token."""
        return cls(
            torch.zeros(1, NUM_HEADS, VALUE_DIM, KEY_DIM),
            torch.zeros(1, CONV_DIM, KERNEL_SIZE - 1),
        )


def delta_step(
    weights: Weights, x: torch.Tensor, state: DeltaState
) -> tuple[torch.Tensor, DeltaState]:
    """Runs one token of each request through a delta-net layer.

    `S = alpha S + beta (v - alpha S k) k^T`, and the output is `S q`.

    Args:
        weights: The layer's.
        x: The tokens, `[batch_size, width]`.
        state: What the tokens before left.

    Returns:
        The output, `[batch_size, width]`, and the new states.
    """
    newest = (x @ weights["qkv"]).unsqueeze(-1)
    inputs = torch.cat([state.conv, newest], dim=-1)
    mixed = functional.silu((inputs * weights["conv"].T).sum(dim=-1))
    sizes = [NUM_HEADS * KEY_DIM] * 2 + [NUM_HEADS * VALUE_DIM]
    q, k, v = (
        each.unflatten(-1, (NUM_HEADS, -1)).unsqueeze(-1)
        for each in mixed.split(sizes, dim=-1)
    )
    q, k = functional.normalize(q, dim=-2), functional.normalize(k, dim=-2)
    gates = (x @ weights["gates"])[..., None, None]
    alpha, beta = gates.split(NUM_HEADS, dim=1)
    alpha, beta = torch.sigmoid(alpha + SLOW), torch.sigmoid(beta)
    kept = alpha * state.recurrent
    recurrent = kept + beta * (v - kept @ k) @ k.mT
    read = (recurrent @ q).flatten(1)
    return read @ weights["out"], DeltaState(recurrent, inputs[..., 1:])


def attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Returns what one token reads, `[num_heads * head_dim]`.

    Args:
        q: Its query, `[num_heads, head_dim]`.
        keys: Those up to this token, `[length, num_heads, head_dim]`.
        values: Likewise.
    """
    scores = torch.einsum("hd,thd->ht", q, keys) / HEAD_DIM**0.5
    return torch.einsum("ht,thd->hd", scores.softmax(1), values).flatten()


def run_tokens(
    model: list[Weights],
    tokens: torch.Tensor,
    attention: Callable[..., torch.Tensor],
    delta: Callable[..., torch.Tensor],
) -> torch.Tensor:
    """Runs one token of each request; returns the likeliest next ones.

    Args:
        model: The weights.
        tokens: The tokens' ids, `[batch_size]`.
        attention: Given the layer's number among its kind and q, k and v,
            `[batch_size, num_heads, head_dim]`, returns what each token reads.
        delta: Given the layer's number, its weights and its input, returns the
            output.

    Returns:
        The next ids, `[batch_size]`.
    """
    *layers, last = model
    x = last["embedding"][tokens]
    numbers = {"attention": 0, "delta": 0}
    for kind, weights in zip(LAYERS, layers, strict=True):
        number = numbers[kind]
        numbers[kind] += 1
        normal = functional.rms_norm(x, (WIDTH,))
        if kind == "attention":
            q, k, v = (
                (normal @ weights[name]).view(-1, NUM_HEADS, HEAD_DIM)
                for name in "qkv"
            )
            x = x + attention(number, q, k, v) @ weights["out"]
        else:
            x = x + delta(number, weights, normal)
    logits = functional.rms_norm(x, (WIDTH,)) @ last["head"]
    return logits.argmax(dim=-1)


def generate_plainly(
    model: list[Weights], prompt: list[int], num_new: int
) -> list[int]:
    """Returns new tokens; each is computed from all tokens, nothing kept."""
    tokens = list(prompt)
    for _ in range(num_new):
        tokens.append(next_tokens(model, tokens)[-1])
    return tokens[len(prompt) :]


def next_tokens(model: list[Weights], tokens: list[int]) -> list[int]:
    """Returns the likeliest token behind each one, in one pass from nothing."""
    seen: list[list[tuple[torch.Tensor, torch.Tensor]]] = [
        [] for _ in range(NUM_ATTENTION)
    ]
    states = [DeltaState.empty() for _ in range(NUM_DELTA)]

    def attention(layer: int, *rows: torch.Tensor) -> torch.Tensor:
        q, k, v = rows
        seen[layer].append((k, v))
        keys, values = map(torch.cat, zip(*seen[layer], strict=True))
        return attend(q[0], keys, values)[None]

    def delta(layer: int, weights: Weights, x: torch.Tensor) -> torch.Tensor:
        output, states[layer] = delta_step(weights, x, states[layer])
        return output

    return [
        int(run_tokens(model, torch.tensor([token]), attention, delta))
        for token in tokens
    ]
