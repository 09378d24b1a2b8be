"""Writes what the methods of kernels do, for teams of some lanes."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kvcache.compiler.mojo_backend.bindings import Bindings
from kvcache.compiler.mojo_backend.code import Code
from kvcache.compiler.mojo_backend.domain import WARP, Domain
from kvcache.compiler.mojo_backend.pipeline import Pipeline, Place
from kvcache.compiler.mojo_backend.stages import Passes

MOST_AHEAD = 16
"""The numbers of one field that a lane reads ahead."""

FEW_KEPT = 32
"""The numbers that teams of a few lanes may keep in shared memory, each."""

MOST_KEPT = 11 * 1024 // 4
"""The float32 numbers that a team keeps in shared memory at most: a quarter of
what tables leave of the 48 KiB that four warps have together."""
MOST_LANES = 128
"""The threads of a block that makes summaries."""


@dataclass(frozen=True, slots=True)
class Body:
    """The statements of a method."""

    text: str
    """The statements."""
    lanes: int
    """The lanes of a team that runs them."""
    kept: int
    """The numbers that a team keeps in memory meanwhile."""


def wide_body(
    pipeline: Pipeline, bindings: Bindings, *, columns_each: int
) -> Body | None:
    """Returns the body for lanes of several warps, if they need not talk."""
    tiles = [pipeline.tensors[x].tile for x in pipeline.leaves]
    columns = max((tile[1] for tile in tiles), default=1)
    lanes = min(columns // columns_each, MOST_LANES)
    if lanes <= WARP or lanes & (lanes - 1):
        return None
    body = _body(pipeline, lanes, bindings, None)
    return None if body.kept or _TALK.search(body.text) else body


_TALK = re.compile(r"\bteam\.(?!column\b)|\bteam_")


def bodies(
    pipeline: Pipeline,
    lanes: Sequence[int],
    bindings: Bindings,
    is_per_block: bool | None,
) -> tuple[Body, Body]:
    """Returns the body for the CPU, and that for a GPU."""
    cpu = _body(pipeline, 1, bindings, is_per_block)
    for count in (*lanes, WARP):
        gpu = _body(
            _reading_ahead(pipeline, count, bindings, is_per_block),
            count,
            bindings,
            is_per_block,
        )
        is_score = is_per_block is not None
        most_kept = FEW_KEPT if is_score else 0
        if gpu.kept <= most_kept and _fits(pipeline, count, is_score=is_score):
            return cpu, gpu
    gpu = _body(pipeline, WARP, bindings, is_per_block)
    if gpu.kept > MOST_KEPT:
        raise NotImplementedError(
            f"wanted a flow that keeps at most {MOST_KEPT} numbers of a block "
            f"between its operators, got {gpu.kept}"
        )
    return cpu, gpu


def _reading_ahead(
    pipeline: Pipeline,
    lanes: int,
    bindings: Bindings,
    is_per_block: bool | None,
) -> Pipeline:
    """Has a scorer read small fields a round before it needs them."""
    if not is_per_block:
        return pipeline
    fields = frozenset(
        each
        for each in pipeline.leaves
        if bindings.member(each).startswith("field_")
        and each not in pipeline.stores
    )
    places = replace(pipeline, ahead=fields).places(lanes)
    near = [
        each
        for each in fields
        if places[each] is not Place.MEMORY
        and math.prod(pipeline.tensors[each].tile) <= MOST_AHEAD * lanes
    ]
    return replace(pipeline, ahead=frozenset(near))


def _fits(pipeline: Pipeline, lanes: int, *, is_score: bool) -> bool:
    """Whether a team's lanes all have work, and none too much."""
    tiles = [pipeline.tensors[x].tile for x in pipeline.leaves]
    columns = max((tile[1] for tile in tiles), default=1)
    vectors = Domain(1, columns, lanes).vectors
    if is_score:
        return vectors <= lanes
    return vectors >= lanes or lanes == 4


def _body(
    pipeline: Pipeline,
    lanes: int,
    bindings: Bindings,
    is_per_block: bool | None,
) -> Body:
    code = Code()
    passes = Passes(code, pipeline, lanes)
    if is_per_block is None:
        _summarise(passes, bindings)
    else:
        _score(passes, bindings, is_per_block=is_per_block)
    head = Code()
    if lanes == 1 and "team." in code.text():
        head.line("var team = Team[1]()")
    if lanes == 1 and passes.kept:
        head.line(
            f"var kept = stack_allocation[{passes.kept}, Float32, "
            "alignment=32]().unsafe_origin_cast[MutUntrackedOrigin]()"
        )
    if lanes == 1 and "is_there" in code.text():
        head.line("comptime is_there = True")
    for width, chunk in sorted(set(_COLUMN.findall(code.text()))):
        head.line(f"var column_{width}_{chunk} = team.column[{width}]({chunk})")
    return Body(
        head.text().strip("\n") + "\n" + code.text(), lanes, passes.kept
    )


_COLUMN = re.compile(r"\bcolumn_(\d+)_(\d+)\b")


def _summarise(passes: Passes, bindings: Bindings) -> None:
    pipeline = passes.pipeline
    if passes.lanes > 1:
        passes.sync_rounds()
    _name_leaves(passes, bindings, pipeline.leaves, None)
    passes.declare_memory()
    passes.compute(of_request=False)
    _store(passes, bindings, pipeline.stores, None, condition="is_there")


def _score(passes: Passes, bindings: Bindings, *, is_per_block: bool) -> None:
    pipeline, code = passes.pipeline, passes.code
    requests = [x for x in pipeline.leaves if bindings.is_request(x)]
    blocks = [x for x in pipeline.leaves if not bindings.is_request(x)]
    passes.declare_memory()
    _name_leaves(passes, bindings, requests, None)
    passes.compute(of_request=True)
    stores = [x for x in pipeline.stores if bindings.is_request(x)]
    if stores:
        condition = "first == 0 and index == 0" if passes.lanes > 1 else None
        _store(passes, bindings, stores, None, condition=condition)
    if not is_per_block:
        return
    stores = [x for x in pipeline.stores if not bindings.is_request(x)]
    ahead = sorted(pipeline.ahead)
    if ahead:
        _find(passes, bindings, ahead, "first + index", begin="var ")
        _name_leaves(passes, bindings, ahead, "block")
        for each in ahead:
            passes.read_ahead(each)
    later = [x for x in blocks if x not in pipeline.ahead]
    head = "for block in range(at.num_blocks):"
    if passes.lanes > 1:
        head = "for base in range(first, at.num_blocks, step):"
    with code.block(head):
        if passes.lanes > 1:
            code.line("var is_there = base + index < at.num_blocks")
            passes.sync_rounds()
        _take_and_read_next(passes, bindings, ahead)
        if passes.lanes > 1:
            code.line("var block = min(base + index, at.num_blocks - 1)")
        if any(bindings.name(x) for x in later):
            code.line(f"var place = {PLACE.format('block')}")
        _name_leaves(passes, bindings, later, "block")
        passes.compute(of_request=False)
        _store(passes, bindings, stores, "block", condition="is_there")


PLACE = "self.tables.place(at.seq, {}, layer=at.layer, head=at.head)"
"""The expression of a block's place."""


def _find(
    passes: Passes,
    bindings: Bindings,
    leaves: Sequence[int],
    block: str,
    *,
    begin: str = "",
) -> None:
    """Writes where the tiles of a block that is read ahead are."""
    block = f"min({block}, at.num_blocks - 1)"
    passes.code.line(f"{begin}place = {PLACE.format(block)}")
    if not begin:
        for each in leaves:
            name = passes.values.leaves[each]
            passes.code.line(f"{name} = {bindings.tile(each, block=None)}")


def _take_and_read_next(
    passes: Passes, bindings: Bindings, leaves: Sequence[int]
) -> None:
    """Writes the loads of the next round, before this one's work."""
    if not leaves:
        return
    for each in leaves:
        passes.take_ahead(each)
    passes.code.line("var is_last = base + step >= at.num_blocks")
    with passes.code.block("if not is_last:"):
        _find(passes, bindings, leaves, "base + step + index")
        for each in leaves:
            passes.read_ahead(each)


def _name_leaves(
    passes: Passes,
    bindings: Bindings,
    leaves: Sequence[int],
    block: str | None,
) -> None:
    for each in leaves:
        name = f"leaf_{bindings.name(each) or each}"
        if name in passes.values.leaves.values():
            name = f"{name}_{each}"
        passes.code.line(f"var {name} = {bindings.tile(each, block=block)}")
        passes.values.leaves[each] = name


def _store(
    passes: Passes,
    bindings: Bindings,
    stores: Sequence[int],
    block: str | None,
    *,
    condition: str | None,
) -> None:
    for each in stores:
        target = passes.code.name("to")
        text = f"var {target} = {bindings.tile(each, block=block)}"
        if passes.lanes == 1 or condition is None:
            passes.code.line(text)
            passes.store(each, target)
            continue
        with passes.code.block(f"if {condition}:"):
            passes.code.line(text)
            passes.store(each, target)
