"""The commands, and how a person's mistakes are told."""

import sys
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from kvcache.cli.options import (
    CacheOptions,
    ChunkSize,
    Device,
    DeviceKind,
    KVDtype,
    KVDtypeOption,
    KVMemory,
    MaxBatchTokens,
    MaxNewTokens,
    MaxPages,
    ModelPath,
    NoPrefixCache,
    NumSteps,
    PageSize,
    Seed,
    Sparse,
    Temperature,
    TopK,
    TopP,
)
from kvcache.cli.plan_options import (
    DeviceMemory,
    GroupSize,
    HostMemory,
    InUse,
    MaxLen,
    MeanLen,
    PlannedModel,
    ShapeText,
    TensorParallel,
    Utilization,
)
from kvcache.errors import KVCacheError

# Typer has its own copy of click, under a name that is not public.
_UsageError = cast("type[Exception]", typer.BadParameter.__base__)
INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""

app = typer.Typer(
    name="kvcache",
    help="A paged KV cache for LLM serving loops.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def run(args: Sequence[str]) -> int:
    """Runs the command line and returns its exit status.

    A mistake ends in one line on stderr: status 2 for the command line itself,
    1 for what it asks for.

    Args:
        args: The arguments after the command's name.
    """
    try:
        status = app(
            args=list(args), prog_name="kvcache", standalone_mode=False
        )
        sys.stdout.flush()
    except _UsageError as error:
        return _complain(_message(error), 2)
    except KVCacheError as error:
        return _complain(str(error), 1)
    except BrokenPipeError:  # whoever read us has seen enough
        sys.stdout = None
        return 1
    except (KeyboardInterrupt, typer.Abort):  # as Typer's version has it
        status = INTERRUPTED
    if status == INTERRUPTED:
        return _complain("interrupted", INTERRUPTED)
    return int(status or 0)


def _complain(message: str, status: int) -> int:
    print(f"kvcache: {' '.join(message.split())}", file=sys.stderr)
    return status


def _message(error: Exception) -> str:
    """Returns what a usage error says, with the option it is about."""
    show = getattr(error, "format_message", None)
    return str(show() if callable(show) else error)


def _show_version(*, value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"kvcache {version('kvcache')}")
        except PackageNotFoundError:  # run from the source tree
            print("kvcache (not installed)")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001  (its callback prints it)
        bool,
        typer.Option(
            "--version",
            callback=lambda value: _show_version(value=value),
            is_eager=True,
            help="Show the version.",
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to answer.")],
    *,
    model: ModelPath = None,
    max_new_tokens: MaxNewTokens = 128,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Take the prompt without chat template."),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one object: prompt_ids, output_ids, text, metrics.",
        ),
    ] = False,
    device: Device = DeviceKind.CPU,
    page_size: PageSize = 16,
    kv_dtype: KVDtypeOption = KVDtype.FLOAT32,
    sparse: Sparse = None,
    max_pages: MaxPages = None,
    kv_memory: KVMemory = None,
    no_prefix_cache: NoPrefixCache = False,
    max_batch_tokens: MaxBatchTokens = 512,
    chunk_size: ChunkSize = 256,
    num_steps: NumSteps = 8,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
) -> int:
    """Answer one prompt with a Llama model."""
    from kvcache.cli.generate import generate_answer
    from kvcache.serve.plan import ScheduleLimits
    from kvcache.serve.sampling import SamplingParams

    if model is None:
        raise typer.BadParameter("wanted --model PATH, got none")
    return generate_answer(
        prompt,
        model_path=model,
        max_new_tokens=max_new_tokens,
        raw=raw,
        as_json=as_json,
        cache=CacheOptions(
            device=device,
            page_size=page_size,
            kv_dtype=kv_dtype,
            sparse=sparse,
            max_pages=max_pages,
            kv_memory=kv_memory,
            prefix_cache=not no_prefix_cache,
        ),
        limits=ScheduleLimits(
            max_batch_tokens=max_batch_tokens,
            chunk_size=chunk_size,
            num_steps=num_steps,
        ),
        sampling=SamplingParams(
            temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        ),
    )


@app.command()
def demo(
    *,
    model: ModelPath = None,
    max_new_tokens: MaxNewTokens = 64,
    max_batch_size: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Conversations at a time."),
    ] = 8,
    device: Device = DeviceKind.CPU,
    page_size: PageSize = 16,
    kv_dtype: KVDtypeOption = KVDtype.FLOAT32,
    sparse: Sparse = None,
    max_pages: MaxPages = None,
    kv_memory: KVMemory = None,
    no_prefix_cache: NoPrefixCache = False,
    max_batch_tokens: MaxBatchTokens = 512,
    chunk_size: ChunkSize = 256,
    num_steps: NumSteps = 8,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
) -> int:
    """Watch eight conversations share one paged cache.

    Without --model it takes SmolLM2-135M-Instruct, downloaded once (93 MB).
    """
    from kvcache.cli.demo import run_demo
    from kvcache.serve.plan import ScheduleLimits
    from kvcache.serve.sampling import SamplingParams

    return run_demo(
        model_path=model,
        max_new_tokens=max_new_tokens,
        max_batch_size=max_batch_size,
        cache=CacheOptions(
            device=device,
            page_size=page_size,
            kv_dtype=kv_dtype,
            sparse=sparse,
            max_pages=max_pages,
            kv_memory=kv_memory,
            prefix_cache=not no_prefix_cache,
        ),
        limits=ScheduleLimits(
            max_batch_tokens=max_batch_tokens,
            chunk_size=chunk_size,
            num_steps=num_steps,
        ),
        sampling=SamplingParams(
            temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        ),
    )


@app.command()
def plan(
    *,
    memory: DeviceMemory,
    model: PlannedModel = None,
    shape: ShapeText = None,
    utilization: Utilization = 0.9,
    in_use: InUse = None,
    max_len: MaxLen = None,
    mean_len: MeanLen = None,
    page_size: PageSize = 16,
    tp: TensorParallel = 1,
    host_memory: HostMemory = None,
    group_size: GroupSize = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one object a KV dtype.")
    ] = False,
) -> int:
    """Say what a memory holds, for every KV dtype side by side."""
    if (model is None) == (shape is None):
        raise typer.BadParameter(
            f"wanted --model PATH or --shape, got "
            f"{'neither' if model is None else 'both'}"
        )
    from kvcache.cli.plan import print_plan
    from kvcache.planning import MemoryBudget

    return print_plan(
        model_path=model,
        shape_text=shape,
        budget=MemoryBudget(
            memory=memory,
            utilization=utilization,
            in_use=in_use or 0,
            n_devices=tp,
        ),
        page_size=page_size,
        max_len=max_len,
        mean_len=mean_len,
        host_memory=host_memory,
        group_size=group_size,
        as_json=as_json,
    )
