"""`kvcache plan`: what fits into a memory, for every format of the pages."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvcache.cli.units import format_size
from kvcache.errors import InsufficientMemoryError, InvalidParamsError
from kvcache.planning import (
    CachePlan,
    MemoryBudget,
    ModelShape,
    beyond_kernels,
    formats_for,
    parse_shape,
    plan_cache,
    read_shape,
)

_NARROWEST = 100
"""Columns that the table wants where nobody resizes a terminal."""


def print_plan(
    *,
    model_path: Path | None,
    shape_text: str | None,
    budget: MemoryBudget,
    page_size: int,
    max_len: int | None,
    mean_len: int | None,
    host_memory: int | None,
    group_size: int | None,
    as_json: bool,
) -> int:
    """Prints a table of the formats, or one JSON object a format.

    Args:
        model_path: A Hugging Face folder or `config.json`, or a GGUF file.
        shape_text: What `parse_shape` reads, in place of a model.
        budget: The memory for pages and states.
        page_size: Tokens per page.
        max_len: Tokens of the longest request; the model's context if None.
        mean_len: Tokens of a usual request.
        host_memory: Bytes for pages that are swapped to the host.
        group_size: Elements that share a scale where tokens have their own.
        as_json: Whether to print JSON.

    Returns:
        The exit status.

    Raises:
        KVCacheError: If the model cannot be read, a number is out of range, or
            no format has a page that the memory holds.
    """
    shape = _shape_of(model_path, shape_text)
    if max_len is None:
        max_len = shape.max_seq_len
    if max_len is None:
        raise InvalidParamsError("wanted --max-len, the model names no context")
    plans = [
        plan_cache(
            shape,
            kv_format,
            budget,
            page_size=page_size,
            max_len=max_len,
            mean_len=mean_len,
            host_memory=host_memory,
        )
        for kv_format in formats_for(shape, group_size)
    ]
    if not any(plan.num_pages for plan in plans):
        smallest = min(plans, key=lambda plan: plan.bytes_per_page)
        raise InsufficientMemoryError(f"{smallest.shortage}, in any format")
    if as_json:
        for plan in plans:
            print(json.dumps(as_object(plan)))
    else:
        _print_table(plans)
    return 0


def as_object(plan: CachePlan) -> dict[str, object]:
    """Returns what `--json` prints of a format."""
    shape, quantization = plan.shape, plan.kv_format.quantization
    bound, state = plan.window_bound, shape.state
    return {
        "dtype": plan.kv_format.dtype,
        "scales": quantization.granularity.value if quantization else None,
        "group_size": quantization.group_size if quantization else None,
        "num_layers": shape.num_layers,
        "num_kv_heads": None if shape.is_mla else shape.num_kv_heads,
        "head_dim": None if shape.is_mla else shape.head_dim,
        "latent_dim": shape.head_dim if shape.is_mla else None,
        "tp": plan.budget.n_devices,
        "page_size": plan.page_size,
        "bytes_per_token_per_layer": plan.bytes_per_token_per_layer,
        "bytes_per_page": plan.bytes_per_page,
        "budget_bytes": plan.budget.bytes,
        "page_memory_bytes": plan.page_memory,
        "num_pages": plan.num_pages,
        "num_null_pages": 1,
        "num_tokens": plan.num_tokens,
        "pool_bytes": plan.pool_bytes,
        "num_host_pages": plan.num_host_pages,
        "max_len": plan.max_len,
        "max_requests": plan.max_requests,
        "mean_len": plan.mean_len,
        "mean_requests": plan.mean_requests,
        "state": {
            "bytes_per_request": state.bytes_per_request,
            "num_slots": plan.num_slots,
            "pool_bytes": plan.state_bytes,
        }
        if state
        else None,
        "window_bound": {
            "num_layers": bound.num_layers,
            "tokens": bound.tokens,
            "pages": bound.pages,
            "bytes_per_request": bound.bytes_per_request,
            "max_requests": bound.max_requests,
        }
        if bound
        else None,
        "bytes_missing": plan.bytes_missing,
        "shortage": plan.shortage,
        "beyond_kernels": beyond_kernels(shape),
    }


def _shape_of(model_path: Path | None, shape_text: str | None) -> ModelShape:
    if model_path is not None:
        return read_shape(model_path)
    assert shape_text is not None, "the command line has one of the two"
    return parse_shape(shape_text)


def _print_table(plans: Sequence[CachePlan]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _NARROWEST)
    for line in _heading(plans[0]):
        console.print(line, markup=False, soft_wrap=True)
    console.print()
    console.print(_table(plans))
    console.print()
    for line in _notes(plans):
        console.print(line, markup=False, soft_wrap=True)


def _heading(plan: CachePlan) -> Iterator[str]:
    shape, budget = plan.shape, plan.budget
    kept = (
        f"latents of {shape.head_dim}"
        if shape.is_mla
        else f"{_count(shape.num_kv_heads, 'KV head')} of {shape.head_dim}"
    )
    state = ", a recurrent state" if shape.state else ""
    layers = _count(shape.num_layers, "attention layer")
    yield f"Model   {layers}, {kept}{state}"
    devices = f"{budget.n_devices} x " if budget.n_devices > 1 else ""
    taken = f" - {format_size(budget.in_use)}" if budget.in_use else ""
    yield (
        f"Memory  {devices}({format_size(budget.memory)} x "
        f"{budget.utilization:g}{taken}) = {format_size(budget.bytes)}"
    )
    yield f"Pages   of {plan.page_size} tokens"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _table(plans: Sequence[CachePlan]) -> Table:
    first = plans[0]
    columns = ["B/token/layer", "page", "pages", "tokens"]
    columns.append(f"x {first.max_len}")
    if first.window_bound is not None:
        columns.append("bound")
    if first.mean_len is not None:
        columns.append(f"x {first.mean_len}")
    columns.append("pool")
    if first.shape.state is not None:
        columns.append("states")
    if first.num_host_pages:
        columns.append("host pages")
    table = Table(box=None, pad_edge=False)
    table.add_column("KV dtype", no_wrap=True)
    table.add_column("scales", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    for plan in plans:
        table.add_row(*map(Text, _row(plan)))
    return table


def _row(plan: CachePlan) -> list[str]:
    quantization = plan.kv_format.quantization
    scales = ""
    if quantization is not None:
        scales = quantization.granularity.value
        if quantization.group_size is not None:
            scales += f"/{quantization.group_size}"
    row = [
        plan.kv_format.dtype,
        scales,
        f"{plan.bytes_per_token_per_layer:.10g}",
        format_size(plan.bytes_per_page),
        str(plan.num_pages),
        str(plan.num_tokens),
        str(plan.max_requests),
    ]
    if plan.window_bound is not None:
        row.append(str(plan.window_bound.max_requests))
    if plan.mean_requests is not None:
        row.append(str(plan.mean_requests))
    row.append(format_size(plan.pool_bytes))
    if plan.shape.state is not None:
        row.append(format_size(plan.state_bytes))
    if plan.num_host_pages:
        row.append(str(plan.num_host_pages))
    return row


def _notes(plans: Sequence[CachePlan]) -> Iterator[str]:
    """Yields what the numbers mean, and what does not fit."""
    shape = plans[0].shape
    yield (
        "x N: requests of N tokens at a time. pool: what is allocated, the "
        "null page on top of the budget included."
    )
    if plans[0].budget.n_devices > 1:
        yield "Bytes are over all devices" + (
            "; each one has the whole latents." if shape.is_mla else "."
        )
    yield from _model_notes(plans[0])
    for plan in plans:
        if plan.shortage is not None:
            yield f"{_name(plan)}: {plan.shortage}"
    missing = [
        f"{format_size(plan.bytes_missing)} of {_name(plan)}"
        for plan in plans
        if plan.bytes_missing
    ]
    if missing:
        yield (
            f"The null page does not fit beside the rest. Missing: "
            f"{', '.join(missing)}."
        )


def _model_notes(plan: CachePlan) -> Iterator[str]:
    """Yields what is to be known about layers that are not all alike."""
    shape, length = plan.shape, plan.max_len
    if (bound := plan.window_bound) is not None:
        yield (
            f"This library keeps every token in all {shape.num_layers} "
            f"attention layers, and the table counts so. Lower bound: "
            f"{bound.num_layers} of them read the last {bound.tokens} tokens "
            f"of {length} ({bound.pages} pages at most). bound: no more "
            f"requests of {length} tokens fit if nothing else is kept."
        )
    if shape.state is not None:
        each = format_size(shape.state.bytes_per_request)
        yield (
            f"Recurrent layers keep {each} of a request, whatever its length. "
            f"That comes out of the memory first, as states: a slot for each "
            f"request of {plan.mean_len or length} tokens, and one for padding."
        )
    if shape.max_seq_len is not None and length > shape.max_seq_len:
        yield (
            f"The model was made for {shape.max_seq_len} tokens, not for "
            f"{length}."
        )
    if (limit := beyond_kernels(shape)) is not None:
        yield f"Of this package {limit}."


def _name(plan: CachePlan) -> str:
    return " ".join(_row(plan)[:2]).strip()
