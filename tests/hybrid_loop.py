"""A serving loop of the hybrid model over the pools, batched continuously.

A step runs one token of each running request, of its prompt or a new one, in a
batch that is padded to one size: padded entries are request 0 and slot 0.
"""

from dataclasses import dataclass, field

import torch

from hybrid_model import (
    CONV_DIM,
    HEAD_DIM,
    KERNEL_SIZE,
    KEY_DIM,
    NUM_ATTENTION,
    NUM_DELTA,
    NUM_HEADS,
    VALUE_DIM,
    DeltaState,
    Weights,
    attend,
    delta_step,
    run_tokens,
)
from kvcache.pools import (
    GDNPool,
    make_full_attention_net_mem_pool,
    make_req_to_token_pool,
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is kept of a prefix: its slots, and the state behind it."""

    tokens: list[int]
    slots: torch.Tensor
    track: int


@dataclass(slots=True)
class Running:
    """One request in the batch."""

    row: int
    tokens: list[int]
    num_prompt: int
    num_new: int
    snapshot_at: int | None
    num_shared: int = 0
    length: int = 0
    snapshot: Snapshot | None = None

    @property
    def new_tokens(self) -> list[int]:
        """What was generated."""
        return self.tokens[self.num_prompt :]

    @property
    def is_done(self) -> bool:
        """Whether all that was asked for is there."""
        return len(self.new_tokens) == self.num_new


@dataclass
class HybridLoop:
    """Requests that join and leave, over pools of a fixed size."""

    model: list[Weights]
    num_slots: int = 96
    max_batch: int = 4
    running: list[Running] = field(default_factory=list)
    steps: int = 0

    def __post_init__(self) -> None:
        """Makes the pools."""
        self.kv, self.allocator = make_full_attention_net_mem_pool(
            self.num_slots,
            NUM_ATTENTION,
            NUM_HEADS,
            HEAD_DIM,
            NUM_HEADS,
            HEAD_DIM,
            device="cpu",
            dtype=torch.float32,
        )
        self.requests = make_req_to_token_pool(self.max_batch, 64, "cpu")
        self.states = GDNPool(
            self.max_batch,
            NUM_DELTA,
            NUM_HEADS,
            KEY_DIM,
            VALUE_DIM,
            CONV_DIM,
            KERNEL_SIZE,
            device="cpu",
            dtype=torch.float32,
            max_track_slots=2,
        )

    def join(
        self,
        prompt: list[int],
        num_new: int,
        *,
        prefix: Snapshot | None = None,
        snapshot_at: int | None = None,
    ) -> Running | None:
        """Lets a request in, behind a prefix if there is one, or returns None.

        Args:
            prompt: Its tokens.
            num_new: Tokens to generate.
            prefix: Beginning of the prompt that need not be computed again.
            snapshot_at: Tokens after which a snapshot is taken.
        """
        rows = self.requests.alloc()
        if rows is None:
            return None
        [row] = rows
        request = Running(row, list(prompt), len(prompt), num_new, snapshot_at)
        if prefix is None:
            self.states.reset_states(row)
        else:
            count = len(prefix.tokens)
            assert prompt[:count] == prefix.tokens
            assert count < len(prompt)
            self.requests.write((row, slice(0, count)), prefix.slots)
            self.states.copy_states(prefix.track, row)
            request.num_shared = request.length = count
        self.running.append(request)
        return request

    def step(self) -> list[Running]:
        """Runs one token of each request; returns those that are done."""
        batch = self.running
        slots = self.allocator.alloc(len(batch))
        assert slots is not None
        rows = torch.tensor([each.row for each in batch])
        lengths = torch.tensor([each.length for each in batch])
        self.requests.write((rows, lengths), slots)
        padding = self.max_batch - len(batch)
        tokens = [each.tokens[each.length] for each in batch]
        found = self._run(
            torch.tensor(tokens + [0] * padding),
            torch.cat([rows, rows.new_zeros(padding)]),
            torch.cat([slots, slots.new_zeros(padding)]),
            [*(lengths + 1).tolist(), *[1] * padding],
        )
        for request, token in zip(batch, found.tolist(), strict=False):
            self._advance(request, token)
        done = [each for each in batch if each.is_done]
        self.running = [each for each in batch if not each.is_done]
        self._leave(done)
        self.steps += 1
        return done

    def _run(
        self,
        tokens: torch.Tensor,
        rows: torch.Tensor,
        slots: torch.Tensor,
        lengths: list[int],
    ) -> torch.Tensor:
        table = self.requests.req_to_token

        def attention(layer: int, *given: torch.Tensor) -> torch.Tensor:
            queries, k, v = given
            self.kv.set_kv_buffer(layer, slots, k, v)
            keys, values = self.kv.get_kv_buffer(layer)
            read = []
            for row, length, q in zip(rows, lengths, queries, strict=True):
                held = table[row, :length]
                read.append(attend(q, keys[held], values[held]))
            return torch.stack(read)

        def delta(
            layer: int, weights: Weights, x: torch.Tensor
        ) -> torch.Tensor:
            recurrent, conv = self.states.get_layer_state(layer)
            before = DeltaState(recurrent[rows], conv[rows])
            output, after = delta_step(weights, x, before)
            recurrent[rows], conv[rows] = after.recurrent, after.conv
            return output

        return run_tokens(self.model, tokens, attention, delta)

    def _advance(self, request: Running, token: int) -> None:
        request.length += 1
        if request.length == len(request.tokens):
            request.tokens.append(token)
        if request.length == request.snapshot_at:
            track = self.states.alloc_track_slot()
            assert track is not None
            self.states.copy_states(request.row, track)
            kept = self.requests.req_to_token[request.row, : request.length]
            tokens = request.tokens[: request.length]
            request.snapshot = Snapshot(tokens, kept.clone(), track)

    def _leave(self, done: list[Running]) -> None:
        """Gives back what a request has and no snapshot keeps."""
        with self.allocator.free_group():
            for each in done:
                kept = each.snapshot
                begin = len(kept.tokens) if kept else each.num_shared
                table = self.requests.req_to_token
                self.allocator.free(table[each.row, begin : each.length])
                self.requests.free(each.row)

    def drop(self, snapshot: Snapshot) -> None:
        """Gives back what a snapshot keeps; no request may share it."""
        self.allocator.free(snapshot.slots)
        self.states.free_track_slot(snapshot.track)
