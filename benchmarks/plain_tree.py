"""A compressed radix tree in plain Python, to compare with.

A node holds a run of tokens and their slots, as a tensor; children are found by
their first token. Of what the cache does it has insert, match and evict, at
page size 1 and without locks, namespaces or handles.
"""

import heapq
from dataclasses import dataclass, field
from itertools import count

import torch

_CLOCK = count()


@dataclass(slots=True, eq=False)
class Node:
    """A run of tokens and what follows it."""

    tokens: list[int]
    slots: torch.Tensor
    parent: "Node | None" = None
    used: int = 0
    children: dict[int, "Node"] = field(default_factory=dict)


class PlainTree:
    """Keeps slots of prefixes in nodes of many tokens.

    Args:
        pool: Takes slots back.
    """

    def __init__(self, pool: object) -> None:
        """Starts with nothing."""
        self.page_size = 1
        self._pool = pool
        self._root = Node([], torch.empty(0, dtype=torch.int32))
        self._size = 0

    def total_size(self) -> int:
        """Returns the tokens that are cached."""
        return self._size

    def match(self, tokens: list[int]) -> torch.Tensor:
        """Returns the slots of the longest cached prefix."""
        runs, _, _ = self._walk(tokens)
        return torch.cat(runs).to(torch.int64) if runs else self._root.slots

    def insert(self, tokens: list[int], slots: torch.Tensor) -> int:
        """Adds what is not there; returns how many tokens were."""
        _, node, done = self._walk(tokens)
        if done < len(tokens):
            rest = Node(tokens[done:], slots[done:].clone(), node, next(_CLOCK))
            node.children[tokens[done]] = rest
            self._size += len(tokens) - done
        return done

    def evict(self, num_tokens: int) -> int:
        """Frees the leaves that were used longest ago; returns the tokens."""
        heap = [(leaf.used, id(leaf), leaf) for leaf in self._leaves()]
        heapq.heapify(heap)
        freed = 0
        while heap and freed < num_tokens:
            _, _, leaf = heapq.heappop(heap)
            self._pool.free(leaf.slots)
            freed += len(leaf.tokens)
            parent = leaf.parent
            del parent.children[leaf.tokens[0]]
            if parent is not self._root and not parent.children:
                heapq.heappush(heap, (parent.used, id(parent), parent))
        self._size -= freed
        return freed

    def _walk(self, tokens: list[int]) -> tuple[list[torch.Tensor], Node, int]:
        node, done, now = self._root, 0, next(_CLOCK)
        runs = []
        while done < len(tokens):
            child = node.children.get(tokens[done])
            if child is None:
                break
            same = _common(child.tokens, tokens, done)
            node = child if same == len(child.tokens) else _split(child, same)
            node.used = now
            runs.append(node.slots)
            done += same
            if node is not child:
                break
        return runs, node, done

    def _leaves(self) -> list[Node]:
        leaves, todo = [], list(self._root.children.values())
        while todo:
            node = todo.pop()
            todo.extend(node.children.values())
            if not node.children:
                leaves.append(node)
        return leaves


def _common(run: list[int], tokens: list[int], first: int) -> int:
    part = tokens[first : first + len(run)]
    if part == run:
        return len(run)
    pairs = zip(run, part, strict=False)
    differs = (place for place, (a, b) in enumerate(pairs) if a != b)
    return next(differs, len(part))


def _split(node: Node, length: int) -> Node:
    head = Node(node.tokens[:length], node.slots[:length], node.parent)
    node.parent.children[head.tokens[0]] = head
    node.tokens, node.slots = node.tokens[length:], node.slots[length:].clone()
    node.parent, head.slots = head, head.slots.clone()
    head.children[node.tokens[0]] = node
    return head
