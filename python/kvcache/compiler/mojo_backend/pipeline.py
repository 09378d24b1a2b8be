"""What one kernel of a flow computes, stage by stage, and where it keeps it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from kvcache.compiler.mojo_backend.domain import Domain
from kvcache.compiler.mojo_backend.meanings import (
    PRODUCTS,
    is_interleave,
    is_materialised,
)
from kvcache.compiler.program import Node
from kvcache.compiler.vtensor import FORMAT, vTensor

MOST_NUMBERS = 64
"""The numbers that a lane of a GPU holds of one tile."""

MOST_ROWS = 8
"""The rows of a column that every lane of a GPU holds."""


class Place(Enum):
    """Where a tile that was computed is."""

    LANES = "lanes"
    """In registers, each lane with its columns."""
    EVERYWHERE = "everywhere"
    """In registers, a single column, the same on every lane."""
    MEMORY = "memory"
    """In memory that the team shares."""


class Work(Enum):
    """What a stage does."""

    ROWS = "rows"
    """It folds the rows of a tile."""
    COLUMNS = "columns"
    """It folds the columns of a tile."""
    PRODUCT = "product"
    """It multiplies two tiles."""
    COPY = "copy"
    """It computes a tile once for many readers."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Tiles that are computed in one pass over tiles of the same extents."""

    work: Work
    tile: tuple[int, int]
    """The extents of what is read; of a product, those of `x`."""
    outputs: tuple[int, ...]
    """The tensors that are made."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The calls of one kernel.

    Args:
        nodes: The calls in order.
        stores: The tensors that leave the kernel.
        tensors: All tensors, by their ids.
        ahead: Tensors of others that are read before they are needed.
    """

    nodes: tuple[Node, ...]
    stores: tuple[int, ...]
    tensors: Sequence[vTensor]
    ahead: frozenset[int] = frozenset()

    @property
    def makers(self) -> dict[int, Node]:
        """The calls, by the tensors that they make."""
        return {node.output: node for node in self.nodes}

    @property
    def leaves(self) -> tuple[int, ...]:
        """The tensors that come from elsewhere, ascending."""
        made = self.makers
        read = {each for node in self.nodes for each in node.inputs}
        # A mask looks at the place of an element only.
        masks = {
            each
            for node in self.nodes
            if node.op.kind == "MaskSlice"
            for each in node.inputs
        }
        others = {
            each
            for node in self.nodes
            if node.op.kind != "MaskSlice"
            for each in node.inputs
        }
        unread = masks - others - set(self.stores)
        return tuple(sorted((read | set(self.stores)) - made.keys() - unread))

    def is_request(self, tensor: int) -> bool:
        """Whether a tensor has a tile for a request, not for a block."""
        return self.tensors[tensor].format is FORMAT.BATCHED

    @property
    def materialised(self) -> frozenset[int]:
        """Tensors that are computed once: folds, products and copies.

        What a request has once is computed before its blocks.
        """
        kept = {n.output for n in self.nodes if is_materialised(n)}
        for node in self.nodes:
            if not self.is_request(node.output):
                kept |= {x for x in node.inputs if self.is_request(x)}
        return frozenset(kept | self.ahead)

    def inputs(self, tensor: int) -> tuple[int, ...]:
        """What a call reads to make a tensor; nothing for a leaf."""
        node = self.makers.get(tensor)
        if node is None or node.op.kind == "MaskSlice":
            return ()
        return node.inputs

    def stages(self, *, of_request: bool) -> Iterator[Stage]:
        """Yields what is materialised, in an order that works.

        Folds over tiles of the same extents share a pass, unless one reads
        what another makes.

        Args:
            of_request: Whether of the request's tensors, or of the blocks'.
        """
        waiting: list[Stage] = []
        for tensor in self._ordered():
            if self.is_request(tensor) != of_request:
                continue
            stage = self._stage(tensor)
            needed = self._anchors(tensor)
            if any(needed & set(each.outputs) for each in waiting):
                yield from waiting
                waiting = []
            for i, each in enumerate(waiting):
                if (each.work, each.tile) == (stage.work, stage.tile) and (
                    each.work in {Work.ROWS, Work.COLUMNS}
                ):
                    waiting[i] = Stage(
                        each.work, each.tile, (*each.outputs, tensor)
                    )
                    break
            else:
                waiting.append(stage)
        yield from waiting

    def _ordered(self) -> list[int]:
        """What is materialised: copies of leaves, then as it is computed."""
        kept = self.materialised
        made = [n.output for n in self.nodes if n.output in kept]
        return sorted(kept - set(made)) + made

    def _stage(self, tensor: int) -> Stage:
        node = self.makers.get(tensor)
        if node is None or not is_materialised(node):
            return Stage(Work.COPY, self.tensors[tensor].tile, (tensor,))
        tile = self.tensors[node.inputs[0]].tile
        if node.op.kind in PRODUCTS:
            return Stage(Work.PRODUCT, tile, (tensor,))
        by_rows = node.op.attributes["dim"] == 1
        return Stage(Work.ROWS if by_rows else Work.COLUMNS, tile, (tensor,))

    def _anchors(self, tensor: int) -> set[int]:
        """What is materialised and read to make a tensor."""
        found: set[int] = set()
        for each in self.inputs(tensor):
            if each in self.materialised:
                found.add(each)
            else:
                found |= self._anchors(each)
        return found

    def places(self, lanes: int) -> dict[int, Place]:
        """Returns where each materialised tensor is.

        Args:
            lanes: The lanes of a team; one, of a CPU, keeps all in memory.
        """
        places = dict.fromkeys(self.materialised, Place.MEMORY)
        if lanes == 1:
            return places
        scattered = self._scattered()
        for tensor in self.materialised:
            rows, columns = self.tensors[tensor].tile
            domain = Domain(rows, columns, lanes)
            per_lane = rows * domain.chunks * domain.width
            if tensor in scattered or per_lane > MOST_NUMBERS:
                continue
            if columns == 1:
                if rows <= MOST_ROWS:
                    places[tensor] = Place.EVERYWHERE
            elif self._stage(tensor).work in {Work.ROWS, Work.COPY}:
                places[tensor] = Place.LANES
        return places

    def _scattered(self) -> set[int]:
        """Materialised tensors of which a lane reads what another made."""
        found: set[int] = set()
        for tensor in (*self.materialised, *self.stores):
            if tensor in self.makers:
                self._walk(tensor, found, is_aligned=True, is_first=True)
        return found

    def _walk(
        self, tensor: int, found: set[int], *, is_aligned: bool, is_first: bool
    ) -> None:
        if tensor in self.materialised and not is_first:
            if not is_aligned and self.tensors[tensor].tile != (1, 1):
                found.add(tensor)
            return
        for each in self.inputs(tensor):
            self._walk(
                each,
                found,
                is_aligned=is_aligned and self.keeps_columns(tensor, each),
                is_first=False,
            )

    def keeps_columns(self, tensor: int, read: int) -> bool:
        """Whether a lane reads its own columns to make its own."""
        node = self.makers[tensor]
        kind, attributes = node.op.kind, node.op.attributes
        if kind in {"Reshape", "Transpose"}:
            return False
        if kind == "Kron":
            is_single = self.tensors[read].tile[1] == 1
            return not attributes["kron2"] or is_single
        return not (is_interleave(node) and attributes["dim"] == 2)
