"""Writes loops over the rows and columns of tiles, for the lanes of a team."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from kvcache.compiler.mojo_backend.code import Code, Index, scaled
from kvcache.compiler.mojo_backend.domain import WARP, Domain
from kvcache.compiler.mojo_backend.expressions import At, Expressions
from kvcache.compiler.mojo_backend.pipeline import Pipeline, Place

AHEAD = 16
"""Rows that a lane of a GPU reads before it waits for the first."""

WIDE_AHEAD = 64
"""The same where many lanes share a tile, and have little of each row."""


@dataclass(slots=True)
class Loops:
    """What the passes of one kernel have in common.

    Args:
        code: Where lines are added.
        pipeline: The kernel.
        lanes: The lanes of a team; one on the CPU.
    """

    code: Code
    pipeline: Pipeline
    lanes: int
    places: dict[int, Place] = field(init=False)
    """Where what is kept is."""
    values: Expressions = field(init=False)
    """The elements of tiles."""

    def __post_init__(self) -> None:
        """Finds a place for everything."""
        self.places = self.pipeline.places(self.lanes)
        self.values = Expressions(self.code, self.pipeline, self.places)

    def _sync(self) -> None:
        if self.lanes > 1:
            self.code.line("team.sync()")

    def _tile(self, tensor: int) -> tuple[int, int]:
        return self.pipeline.tensors[tensor].tile

    def _domain(self, tile: tuple[int, int], tensors: list[int]) -> Domain:
        """Returns how lanes share the tile of what is read and made."""
        tree = self._tree(tensors)
        is_in_lanes = any(self.places.get(each) is Place.LANES for each in tree)
        is_scattered = any(
            not self.pipeline.keeps_columns(each, read)
            for each in tree
            if each not in self.values.is_ready
            for read in self.pipeline.inputs(each)
        )
        return Domain(
            *tile, self.lanes, is_scattered=is_scattered and not is_in_lanes
        )

    def _tree(self, tensors: list[int]) -> set[int]:
        """Returns tensors, and those that are read to make them now."""
        found: set[int] = set()
        left = list(tensors)
        while left:
            tensor = left.pop()
            found.add(tensor)
            if tensor not in self.values.is_ready:
                left.extend(self.pipeline.inputs(tensor))
        return found

    def _any_column(self, domain: Domain, chunk: int) -> Index:
        """Returns the column of a vector, of lanes without one another's."""
        if domain.is_everywhere:
            return 0
        column = f"column_{domain.width}_{chunk}"
        if domain.is_partial and chunk == domain.chunks - 1:
            return f"min({column}, {domain.columns - domain.width})"
        return column

    def _first_lane(self) -> AbstractContextManager[None]:
        if self.lanes == 1:
            return nullcontext()
        return self.code.block("if team.lane == 0:")

    def _rows(self, count: int, tensors: list[int]) -> Iterator[Index]:
        """Yields the rows of a pass, in a loop unless they must be known."""
        if count == 1 or (self.lanes > 1 and self._must_know_rows(tensors)):
            yield from range(count)
            return
        if self.lanes > 1 and count <= 4:
            yield from range(count)
            return
        row = self.code.name("row")
        ahead = AHEAD if self.lanes > 1 else 1
        if self.lanes > WARP:
            ahead = WIDE_AHEAD
        while count % ahead:
            ahead //= 2
        if ahead == 1:
            with self.code.block(f"for {row} in range({count}):"):
                yield row
            return
        first = self.code.name("first")
        with (
            self.code.block(f"for {first} in range(0, {count}, {ahead}):"),
            self.code.block(f"comptime for ahead_{row} in range({ahead}):"),
        ):
            self.code.line(f"var {row} = {first} + ahead_{row}")
            yield row

    def _must_know_rows(self, tensors: list[int]) -> bool:
        """Whether numbers of several rows are read, or kept, by their names."""
        return any(
            self.places.get(each, Place.MEMORY) is not Place.MEMORY
            and self._tile(each)[0] > 1
            for each in self._tree(tensors)
        )

    def _columns(
        self, domain: Domain, row: Index, *, is_store: bool = True
    ) -> Iterator[At]:
        """Yields each of a lane's vectors of a row.

        Of a single column every lane has all; to store it one is enough.
        """
        if self.lanes == 1 and domain.chunks > 1:
            place = self.code.name("chunk")
            with self.code.block(f"for {place} in range({domain.chunks}):"):
                yield At(row, scaled(place, domain.width), domain.width)
            return
        for chunk in range(domain.chunks):
            with self._lanes_with(domain, chunk, is_store=is_store) as column:
                yield At(row, column, domain.width, chunk)

    @contextmanager
    def _lanes_with(
        self, domain: Domain, chunk: Index, *, is_store: bool = False
    ) -> Iterator[Index]:
        """Opens a block for the lanes that have a vector in a round."""
        width = domain.width
        if domain.is_everywhere:
            if is_store:
                with self._first_lane():
                    yield 0
            else:
                yield 0
            return
        if self.lanes == 1:
            yield scaled(chunk, width)
            return
        column = f"column_{width}_{chunk}"
        if domain.is_partial and chunk == domain.chunks - 1:
            with self.code.block(f"if {column} < {domain.columns}:"):
                yield column
            return
        yield column
