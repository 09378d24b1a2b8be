"""Which tests run in the same process, where several processes share them.

xdist's own groups (`--dist loadgroup`, 3.8) come to nothing under pytest 9.2,
which does not read the names that they are put into.
"""

import re
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

ROOT = Path(__file__).resolve().parent.parent

_USES_KERNELS = re.compile(r"\b(?:\w+_)?kernels: \w*Kernels\b")
"""A parameter that is one of the fixtures over the compiled kernels."""

_USES_SMALL_MODEL = re.compile(r"\bsmall_(?:sparse_)?served\b")
"""What serves the small model, compiled once a process for all."""


FIRST = (
    "tests/graphs/test_manager_inputs.py",
    "tests/graphs/test_manager_replica_inputs.py",
)
"""What finds its graphs compiled before, as long as no session of the process
has asserts on."""

LONGEST = (
    "tests/graphs/test_smollm2.py",
    "kernels",
    "small model",
    "tests/peers/test_max_graphs.py",
    "tests/python/test_wheel.py",
    "tests/python/test_collection.py",
    "tests/python/test_summaries_machine.py",
    "tests/python/test_manager_quantized.py",
)
"""What takes half a minute or more, in the order in which it starts: what is
short comes last, so that no process ends long before the others."""


class GroupScheduling(LoadScopeScheduling):
    """One process for a file, or for all files that share what is compiled.

    Such are the kernels' graphs, the small model's, and Mojo's test files.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Gives a process what comes first, then the longest that is left."""
        for group in reversed((*FIRST, *LONGEST)):
            if group in self.workqueue:
                self.workqueue.move_to_end(group, last=False)
        super()._assign_work_unit(node)


@cache
def group_of(path: str) -> str:
    """Returns what one process runs together.

    Args:
        path: A test file, from the project's root.
    """
    if path.endswith(".mojo"):
        return "mojo"
    if path.startswith("tests/graphs/"):
        text = (ROOT / path).read_text("utf-8")
        if _USES_KERNELS.search(text):
            return "kernels"
        if _USES_SMALL_MODEL.search(text):
            return "small model"
    return path
