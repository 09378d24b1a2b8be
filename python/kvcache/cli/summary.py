"""What the demo says at its end."""

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kvcache.cli.options import CacheOptions
from kvcache.cli.units import format_size
from kvcache.serve import Conversation, ServingStats


def print_answers(
    console: Console, conversations: Sequence[Conversation]
) -> None:
    """Prints every question with its answer."""
    for conversation in conversations:
        console.print(Text(conversation.name, style="bold"))
        for turn, question in enumerate(conversation.questions):
            if turn < len(conversation.answers):
                answer = conversation.answers[turn].strip()
                console.print(Text(question, style="italic"))
                console.print(Padding(Text(answer), (0, 0, 0, 2)))
        if conversation.error is not None:
            console.print(Text(conversation.error, style="red"))
        console.print()


def print_summary(
    console: Console,
    conversations: Sequence[Conversation],
    stats: ServingStats,
    cache: CacheOptions,
) -> None:
    """Prints what was served, how fast, and the memory that it took."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    rows = _work(conversations, stats) | _attention(cache) | _memory(stats)
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(value))
    console.print(table)


def _work(
    conversations: Sequence[Conversation], stats: ServingStats
) -> dict[str, str]:
    """Returns what was computed, and how fast."""
    answers = sum(len(c.answers) for c in conversations)
    prompts = stats.hit_tokens + stats.prefill_tokens
    served = f"{len(conversations)} conversations, {answers} answers"
    generated = (
        f"{stats.generated_tokens} tokens in {stats.seconds:.1f} s: "
        f"{stats.tokens_per_second:.1f} tokens/s"
    )
    steps = (
        f"{stats.num_steps} in {stats.num_fetches} fetches, "
        f"{stats.num_preemptions} preemptions"
    )
    hits = (
        f"{stats.hit_tokens} of {prompts} prompt tokens: {stats.hit_rate:.0%}"
    )
    return {
        "Served": served,
        "Generated": generated,
        "Steps": steps,
        "Prefix hits": hits,
    }


def _attention(cache: CacheOptions) -> dict[str, str]:
    """Returns what decode steps attend to, if not to everything."""
    if cache.sparse is None:
        return {}
    said = (
        f"{cache.sparse.ratio:.0%} of a sequence's blocks of "
        f"{cache.block_size} tokens in decode, chosen by {cache.sparse.flow}"
    )
    return {"Attention": said}


def _memory(stats: ServingStats) -> dict[str, str]:
    """Returns what the pages took, beside dense caches."""
    shape, peak = stats.shape, stats.peak_bytes
    empty = stats.last_page_tokens / max(stats.num_finished, 1)
    pages = (
        f"{stats.peak_pages} of {shape.num_pages} at the peak, of "
        f"{shape.page_size} tokens: {format_size(peak)}"
    )
    longest = (
        f"{format_size(stats.dense_max_bytes)} for {stats.peak_batch} of "
        f"{shape.max_seq_len} tokens: {_times(stats.dense_max_bytes, peak)}"
    )
    final = (
        f"{format_size(stats.dense_final_bytes)} if each final length were "
        f"known: {_times(stats.dense_final_bytes, peak)}"
    )
    last = (
        f"{empty:.1f} of {shape.page_size} tokens empty on average: "
        f"{stats.last_page_waste:.1%} of the slots"
    )
    return {
        "Pages": pages,
        "Dense caches": longest,
        "": final,
        "Last pages": last,
    }


def _times(dense: int, pages: int) -> str:
    """Returns how a dense size compares with that of the pages."""
    return f"{dense / pages:.1f} times the pages" if pages else "no pages"
