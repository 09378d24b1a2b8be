"""The functions that Python calls, as a module."""

from std.os import abort
from std.python import PythonObject
from std.python.bindings import PythonModuleBuilder

from kvcore.arrays import write_tokens
from kvcore.commit import commit
from kvcore.digest_calls import count_key_words, digest_pages
from kvcore.look_calls import (
    describe,
    fill_table,
    is_sequence,
    look_at,
    look_at_row,
)
from kvcore.prefix_calls import (
    drop_prefix,
    evict_pages,
    find_evictions,
    forget_one,
    forget_prefixes,
    probe_row,
    set_clock,
    set_priority,
)
from kvcore.probe import evicted_at, probe
from kvcore.reserve import check_reserve, reserve
from kvcore.retain import set_retention, tick
from kvcore.running import admit, advance, leave, settle
from kvcore.running_calls import (
    admit_rows,
    advance_rows,
    close_running,
    leave_rows,
    open_running,
    settle_rows,
)
from kvcore.sequence_calls import (
    add_namespace,
    check_rows,
    claim_sequence,
    commit_rows,
    create,
    destroy,
    fork_sequence,
    name_tokens,
    release_sequence,
    reserve_rows,
    truncate_sequence,
)
from kvcore.sharing import drop, forget_cached, forget_page, fork, truncate


@export
def PyInit__kvcore() abi("C") -> PythonObject:
    """Makes the Python module.

    Returns:
        The module.
    """
    try:
        var module = PythonModuleBuilder("_kvcore")
        module.def_function[create]("create")
        module.def_function[destroy]("destroy")
        module.def_function[add_namespace]("add_namespace")
        module.def_function[claim_sequence]("claim")
        module.def_function[release_sequence]("release")
        module.def_function[reserve_rows]("reserve")
        module.def_function[check_rows]("check_reserve")
        module.def_function[name_tokens]("write_tokens")
        module.def_function[commit_rows]("commit")
        module.def_function[fork_sequence]("fork")
        module.def_function[truncate_sequence]("truncate")
        module.def_function[drop_prefix]("drop")
        module.def_function[forget_one]("forget_page")
        module.def_function[forget_prefixes]("forget_cached")
        module.def_function[evict_pages]("evict")
        module.def_function[set_priority]("set_retention")
        module.def_function[set_clock]("tick")
        module.def_function[is_sequence]("is_claimed")
        module.def_function[look_at]("look_at")
        module.def_function[look_at_row]("look_at_row")
        module.def_function[describe]("describe")
        module.def_function[fill_table]("fill")
        module.def_function[probe_row]("probe")
        module.def_function[find_evictions]("evicted_at")
        module.def_function[open_running]("open_running")
        module.def_function[close_running]("close_running")
        module.def_function[admit_rows]("admit")
        module.def_function[settle_rows]("settle")
        module.def_function[advance_rows]("advance")
        module.def_function[leave_rows]("leave")
        module.def_function[digest_pages]("digest_pages")
        module.def_function[count_key_words]("count_key_words")
        return module.finalize()
    except error:
        abort(String("kvcore: ", error))
