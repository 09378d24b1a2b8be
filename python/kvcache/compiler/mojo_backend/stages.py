"""Writes the passes of a kernel: what is kept, and what is stored."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kvcache.compiler.mojo_backend.code import Index
from kvcache.compiler.mojo_backend.domain import Domain
from kvcache.compiler.mojo_backend.expressions import (
    At,
    across,
)
from kvcache.compiler.mojo_backend.loops import Loops
from kvcache.compiler.mojo_backend.meanings import Folding, folding
from kvcache.compiler.mojo_backend.pipeline import Place, Stage, Work

MOST_FOLDED = 16
"""Vectors that the CPU folds rows into at once."""


@dataclass(slots=True)
class Passes(Loops):
    """The passes of one kernel, for a team of some lanes."""

    offsets: dict[int, int] = field(init=False)
    """Where tensors in memory begin, in numbers."""
    kept: int = field(init=False)
    """The numbers of all tensors in memory."""

    def __post_init__(self) -> None:
        """Finds a place for everything."""
        Loops.__post_init__(self)
        self.offsets, self.kept = {}, 0
        for tensor in sorted(self.places):
            if self.places[tensor] is Place.MEMORY:
                rows, columns = self._tile(tensor)
                self.offsets[tensor] = self.kept
                # Vectors are aligned to 16 bytes.
                self.kept += -(-rows * columns // 4) * 4

    def declare_memory(self) -> None:
        """Names the tiles that are in memory."""
        for tensor, offset in self.offsets.items():
            columns = self._tile(tensor)[1]
            if self.lanes > 1:
                self.code.line(
                    f"var kept_{tensor} = Tile[DType.float32, {columns}, "
                    f"AddressSpace.SHARED](kept.unsafe_offset({offset}))"
                )
            else:
                self.code.line(
                    f"var kept_{tensor} = Tile[DType.float32, {columns}]("
                    f"kept.unsafe_offset({offset}))"
                )

    def compute(self, *, of_request: bool) -> None:
        """Writes all passes that make what the request, or a block, keeps."""
        writers: dict[Work, Callable[[Stage], None]] = {
            Work.ROWS: self._fold_rows,
            Work.COLUMNS: self._fold_columns,
            Work.PRODUCT: self._multiply,
            Work.COPY: self._copy,
        }
        for stage in self.pipeline.stages(of_request=of_request):
            if self.values.is_ready.issuperset(stage.outputs):
                continue
            with self.code.scope():
                writers[stage.work](stage)
            self.values.is_ready.update(stage.outputs)
            if any(self.places[x] is Place.MEMORY for x in stage.outputs):
                self._sync()

    def read_ahead(self, tensor: int) -> None:
        """Writes the loads of a leaf, as it is kept, into names of its own."""
        for key, load in self._loads(tensor):
            name = self._ahead_name(key)
            begin = "" if tensor in self.values.is_ready else "var "
            self.code.line(f"{begin}{name} = {load}")

    def take_ahead(self, tensor: int) -> None:
        """Has what was read ahead be the leaf's elements from here on."""
        for key, _ in self._loads(tensor):
            name = self._ahead_name(key)
            self.values.registers[key] = self.code.let(
                object(), f"t{tensor}", f"{name}.cast[DType.float32]()"
            )
        self.values.is_ready.add(tensor)

    def _loads(
        self, tensor: int
    ) -> Iterator[tuple[tuple[int, int, int | None], str]]:
        domain = Domain(*self._tile(tensor), self.lanes)
        leaf = self.values.leaves[tensor]
        is_lanes = self.places[tensor] is Place.LANES
        for row in range(domain.rows):
            for chunk in range(domain.chunks):
                column = self._any_column(domain, chunk)
                load = f"{leaf}.load_as_kept[{domain.width}]({row}, {column})"
                yield (tensor, row, chunk if is_lanes else None), load

    def _ahead_name(self, key: tuple[int, int, int | None]) -> str:
        return "ahead_" + "_".join(str(each) for each in key)

    def sync_rounds(self) -> None:
        """Waits until all lanes have read what the next round replaces."""
        if any(
            place is Place.MEMORY and not self.pipeline.is_request(tensor)
            for tensor, place in self.places.items()
        ):
            self._sync()

    def store(self, tensor: int, target: str) -> None:
        """Writes a tensor's tile to a tile of others."""
        with self.code.scope():
            self._store(
                tensor, target, self._domain(self._tile(tensor), [tensor])
            )

    def _store(self, tensor: int, target: str, domain: Domain) -> None:
        for row in self._rows(domain.rows, [tensor]):
            for at in self._columns(domain, row):
                self.code.line(
                    f"{target}.store[{at.width}]({at.row}, {at.column}, "
                    f"{self.values.value(tensor, at)})"
                )

    def _fold_rows(self, stage: Stage) -> None:
        domain = self._domain(stage.tile, list(stage.outputs))
        # On the CPU long rows are read once, from left to right.
        is_plain = self._tree(list(stage.outputs)) <= set(stage.outputs) | {
            self._operand(tensor) for tensor in stage.outputs
        }
        if self.lanes > 1 or (is_plain and domain.chunks <= MOST_FOLDED):
            self._fold_some_rows(stage, domain, list(range(domain.chunks)))
            return
        chunk = self.code.name("chunk")
        with self.code.block(f"for {chunk} in range({domain.chunks}):"):
            self._fold_some_rows(stage, domain, [chunk])

    def _fold_some_rows(
        self, stage: Stage, domain: Domain, chunks: list[Index]
    ) -> None:
        folds = {
            (tensor, chunk): self._start(self._how(tensor), domain.width)
            for tensor in stage.outputs
            for chunk in chunks
        }
        reads = [self._operand(tensor) for tensor in stage.outputs]
        for row in self._rows(domain.rows, reads):
            for chunk in chunks:
                with self._lanes_with(domain, chunk) as column:
                    at = At(row, column, domain.width, _known(chunk))
                    for tensor in stage.outputs:
                        self._step(
                            self._how(tensor),
                            folds[tensor, chunk],
                            self.values.value(self._operand(tensor), at),
                        )
        for (tensor, chunk), name in folds.items():
            self._finish(self._how(tensor), name, domain.rows)
            if self.places[tensor] is not Place.MEMORY:
                is_lanes = self.places[tensor] is Place.LANES
                key = (tensor, 0, _known(chunk) if is_lanes else None)
                self.values.registers[key] = name
                continue
            with self._lanes_with(domain, chunk, is_store=True) as column:
                self.code.line(
                    f"kept_{tensor}.store[{domain.width}](0, {column}, {name})"
                )

    def _fold_columns(self, stage: Stage) -> None:
        domain = self._domain(stage.tile, list(stage.outputs))
        reads = [self._operand(tensor) for tensor in stage.outputs]
        for row in self._rows(domain.rows, [*reads, *stage.outputs]):
            names = {
                tensor: self._start(self._how(tensor), domain.width)
                for tensor in stage.outputs
            }
            for at in self._columns(domain, row, is_store=False):
                for tensor, name in names.items():
                    x = self.values.value(self._operand(tensor), at)
                    self._step(self._how(tensor), name, x)
            for tensor, name in names.items():
                how = self._how(tensor)
                total = name
                if not domain.is_everywhere:
                    total = self.code.let(
                        object(),
                        "total",
                        across(how, name, width=domain.width),
                    )
                self._finish(how, total, domain.columns)
                self._keep_number(tensor, row, 0, total)

    def _multiply(self, stage: Stage) -> None:
        (tensor,) = stage.outputs
        x, y = self.pipeline.makers[tensor].inputs
        domain = self._domain(stage.tile, [tensor])
        how = Folding("0", "", "sum")
        for y_row in self._rows(self._tile(y)[0], [y, tensor]):
            for x_row in self._rows(domain.rows, [x]):
                name = self._start(how, domain.width)
                for at in self._columns(domain, x_row, is_store=False):
                    left = self.values.value(x, at)
                    right = self.values.value(
                        y, At(y_row, at.column, at.width, at.chunk)
                    )
                    self.code.line(f"{name} = {left}.fma({right}, {name})")
                total = name
                if not domain.is_everywhere:
                    total = self.code.let(
                        object(),
                        "total",
                        across(how, name, width=domain.width),
                    )
                self._keep_number(tensor, y_row, x_row, total)

    def _copy(self, stage: Stage) -> None:
        (tensor,) = stage.outputs
        domain = self._domain(self._tile(tensor), [tensor])
        place = self.places[tensor]
        if place is Place.MEMORY:
            self._store(tensor, f"kept_{tensor}", domain)
            return
        for row in self._rows(domain.rows, [tensor]):
            for chunk in range(domain.chunks):
                column = self._any_column(domain, chunk)
                at = At(row, column, domain.width, chunk)
                key = (tensor, row, chunk if place is Place.LANES else None)
                self.values.registers[key] = self.values.value(tensor, at)

    def _keep_number(
        self, tensor: int, row: Index, column: Index, name: str
    ) -> None:
        """Keeps a number that every lane has."""
        if self.places[tensor] is not Place.MEMORY:
            self.values.registers[tensor, row, None] = name
            return
        with self._first_lane():
            self.code.line(f"kept_{tensor}.store[1]({row}, {column}, {name})")

    def _operand(self, tensor: int) -> int:
        return self.pipeline.makers[tensor].inputs[0]

    def _how(self, tensor: int) -> Folding:
        how = folding(self.pipeline.makers[tensor])
        assert how is not None
        return how

    def _start(self, how: Folding, width: int) -> str:
        return self.code.let(
            object(), "fold", f"SIMD[DType.float32, {width}]({how.first})"
        )

    def _step(self, how: Folding, name: str, x: str) -> None:
        self.code.line(f"{name} = {how.step.format(a=name, x=x)}")

    def _finish(self, how: Folding, name: str, count: int) -> None:
        if how.last != "{a}":
            self.code.line(f"{name} = {how.last.format(a=name, n=count)}")


def _known(chunk: Index) -> int | None:
    return chunk if isinstance(chunk, int) else None
