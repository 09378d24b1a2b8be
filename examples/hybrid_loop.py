"""A serving loop of the hybrid model over the pools, batched continuously.

A step runs one token of each running request, of its prompt or a new one, in a
batch that is padded to one size: padded entries are request 0 and slot 0.
Behind its prompt a request's states are kept, and the prompt is cached with
them: the next prompt that begins alike goes on from there.
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
    MambaRadixCache,
    RadixKey,
    RadixNode,
    make_full_attention_net_mem_pool,
    make_req_to_token_pool,
)


@dataclass(slots=True)
class Running:
    """One request in the batch."""

    row: int
    tokens: list[int]
    num_prompt: int
    num_new: int
    node: RadixNode
    """The end of its cached prefix, locked."""
    num_cached: int
    """Tokens whose slots are the cache's."""
    num_hit: int
    """Tokens that were cached when it came."""
    length: int
    """Tokens that are computed."""

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
    num_snapshots: int = 2
    running: list[Running] = field(default_factory=list)
    steps: int = 0

    def __post_init__(self) -> None:
        """Makes the pools, and the cache over them."""
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
            max_track_slots=self.num_snapshots,
        )
        self.cache = MambaRadixCache(1, self.allocator, self.states)

    def join(self, prompt: list[int], num_new: int) -> Running | None:
        """Lets a request in, behind what is cached of its prompt.

        Args:
            prompt: Its tokens; the last one is always computed.
            num_new: Tokens to generate.

        Returns:
            The request, or None if the batch is full.
        """
        rows = self.requests.alloc()
        if rows is None:
            return None
        [row] = rows
        match = self.cache.match_prefix(RadixKey(prompt[:-1]))
        node, hit = match.last_node, match.prefix_len
        self.cache.inc_lock_ref(node)
        if hit:
            self.requests.write((row, slice(0, hit)), match.indices.int())
            self.states.copy_states(int(node.mamba_value), row)
        else:
            self.states.reset_states(row)
        request = Running(
            row, list(prompt), len(prompt), num_new, node, hit, hit, hit
        )
        self.running.append(request)
        return request

    def step(self) -> list[Running]:
        """Runs one token of each request; returns those that are done."""
        batch = self.running
        slots = self._take(len(batch))
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

    def _take(self, count: int) -> torch.Tensor:
        """Returns slots for some tokens; cached prefixes make room."""
        missing = count - self.allocator.available_size()
        if missing > 0:
            self.cache.evict(missing)
        slots = self.allocator.alloc(count)
        assert slots is not None, "more requests than the slots hold"
        return slots

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
        if request.length == request.num_prompt:
            self._keep_prompt(request)

    def _keep_prompt(self, request: Running) -> None:
        """Caches a prompt, with the states behind its last token."""
        row, length = request.row, request.num_prompt
        track = self._take_snapshot(row)
        if track is None:
            return
        key = RadixKey(request.tokens[:length])
        own = self.requests.req_to_token[row, :length].clone()
        there = self.cache.insert(key, own, mamba_value=track)
        if there.mamba_exist:
            self.states.free_track_slot(track)
        self.allocator.free(own[request.num_cached : there.prefix_len])
        match = self.cache.match_prefix(key)
        self.requests.write((row, slice(0, length)), match.indices.int())
        self.cache.inc_lock_ref(match.last_node)
        self.cache.dec_lock_ref(request.node)
        request.node, request.num_cached = match.last_node, length

    def _take_snapshot(self, row: int) -> int | None:
        """Keeps a request's states; None if those of all prompts are in use."""
        track = self.states.alloc_track_slot()
        if track is None:
            self.cache.evict(0, 1)
            track = self.states.alloc_track_slot()
        if track is not None:
            self.states.copy_states(row, track)
        return track

    def _leave(self, done: list[Running]) -> None:
        """Gives back what is a request's own; its prompt stays cached."""
        table = self.requests.req_to_token
        with self.allocator.free_group():
            for each in done:
                own = table[each.row, each.num_cached : each.length]
                self.allocator.free(own)
                self.requests.free(each.row)
                self.cache.dec_lock_ref(each.node)
