"""Reads the imports and says which arrows do not point down.

A unit is what stands directly in the package: a module, or a folder with all
its modules. A unit imports itself and units of lower layers, nothing else.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PYTHON_LAYERS = (
    {"__init__"},  # names that load on first use
    {"cli", "__main__"},
    {"planning", "serve"},
    {"compiler", "manager", "paged_attention", "pools"},
    {"graphs"},
    {"ops"},
    {"attention_workspace"},
    {"cache_inputs", "core", "metrics", "model", "resets"},
    {"cache_types", "flow_ops"},
    {"mojo_sources", "request"},
    {"cache_folder", "extension_build", "spec"},
    {"quantization", "summaries"},
    {"errors"},
    {"reference", "reference_quantized", "reference_sparse"},
)
MOJO_LAYERS = (
    {"__init__"},
    {
        "latent_ops",
        "latent_quantized_ops",
        "ops",
        "quantized_ops",
        "sparse_ops",
    },
    {"sparse_attend", "store_summarised_gpu"},
    {"op_tensors"},
    {
        "attend_gpu",
        "choose_segments_cpu",
        "choose_segments_gpu",
        "rope_mover",
        "sparse_gpu",
        "store_beside_gpu",
        "store_blocks_gpu",
        "store_mover",
    },
    {
        "attention_cpu",
        "attention_gpu",
        "attention_max",
        "choose_cpu",
        "choose_gpu",
        "copy_cpu",
        "copy_gpu",
        "decode_gpu",
        "gather_cpu",
        "gather_gpu",
        "gather_latents_cpu",
        "gather_latents_gpu",
        "gather_quantized_cpu",
        "gather_quantized_gpu",
        "held_keys",
        "held_summaries",
        "over_blocks_cpu",
        "over_blocks_gpu",
        "prefill_gpu",
        "rope_rows",
        "rope_shift_cpu",
        "rope_shift_gpu",
        "rope_store_cpu",
        "rope_store_gpu",
        "rope_store_quantized_cpu",
        "rope_store_quantized_gpu",
        "score_cpu",
        "score_gpu",
        "segment_choice",
        "store_cpu",
        "store_gpu",
        "store_latents_cpu",
        "store_latents_gpu",
        "store_quantized_cpu",
        "store_quantized_gpu",
        "summarise_gpu",
        "summarise_slots_cpu",
        "summarise_slots_gpu",
    },
    {
        "attention_parts",
        "block_mover",
        "head_chunk",
        "prefill_fed_gpu",
        "run_copy",
        "segments",
        "summarise_cpu",
        "summary_tiles",
    },
    {"block_rows", "completed_blocks", "few_completed"},
    # What kernels are made of.
    {
        "attention_block",
        "attention_tile",
        "block_tables",
        "decode_merge",
        "gpu_summarisers",
        "max_cache",
        "prefill_attend",
        "prefill_block",
        "prefill_feed",
        "over_blocks",
        "quantized_lanes",
        "request_place",
        "rope_shift",
        "rope_store",
        "rope_store_quantized",
        "row_share",
        "runs",
        "sequence_rows",
        "slots",
    },
    {
        "attention_pieces",
        "attention_units",
        "collection",
        "decode_warp",
        "prefill_boxes",
        "prefill_tickets",
        "prefill_ring",
        "prefill_write",
        "rope",
        "team",
        "tile_arithmetic",
        "tile_place",
    },
    {"block_choice", "choose_bar", "decode_factors", "prefill_rows", "tiles"},
    {"decode_stage", "prefill_products", "prefill_queries", "prefill_stage"},
    {"prefill_instruction", "prefill_share"},
    {"decode_call", "prefill_call"},
    {"attention_inputs", "decode_split", "prefill_tile"},
    {
        "attention_softmax",
        "decode_shape",
        "decode_shares",
        "overlap",
        "prefill_shape",
        "quantized_pages",
    },
    {
        "attention_products",
        "attention_rules",
        "block_source",
        "cache",
        "parallel",
        "ragged",
        "ranked_rows",
        "score_keys",
        "vectors",
    },
    {
        "codes_gpu",
        "layout",
        "quantize",
        "scales",
        "shared_memory",
        "tensors",
        "tma",
    },
)
KVCORE_LAYERS = (
    {"__init__", "extension"},  # what Python calls, as a module
    {
        "digest_calls",
        "look_calls",
        "prefix_calls",
        "running_calls",
        "sequence_calls",
    },
    {"handle"},
    {"arrays", "running"},  # what Python has; a batch, step by step
    {"commit", "reserve"},
    {"lookup", "probe", "retain", "sharing"},
    {"victims"},
    {"core"},  # the books as one
    {"ghosts", "index", "plan", "pool", "retention", "rows", "sequence"},
    {"page", "status", "tokens"},
    {"digest"},
    {"memory"},
)

MAY_IMPORT_MAX = {
    "attention_workspace",
    "cache_inputs",
    "cache_types",
    "compiler.mojo_backend.segment_classes",
    "compiler.mojo_backend.segment_steps",
    "compiler.mojo_backend.slot_buffers",
    "compiler.mojo_backend.slot_classes",
    "compiler.mojo_backend.slot_graphs",
    "graphs",
    "manager",
    "ops",
    "paged_attention.max_backend",
    "paged_attention.memory",
    "serve.compiled_llama",
    "serve.runner",
}
"""Units, and modules of units, that may import MAX."""

MAY_IMPORT_TORCH = {
    "compiler.triton_backend.arrays",
    "compiler.triton_backend.choice",
    "paged_attention.max_backend",
    "paged_attention.torch_backend",
    "paged_attention.torch_codes",
    "pools",
}
"""Units, and modules of units, that may import torch."""

MAY_IMPORT_ZMQ = {"resets"}
"""Units that may import ZeroMQ, which is an extra."""

FOR_TESTS_ONLY = {"reference", "reference_quantized", "reference_sparse"}
"""Units that no other unit imports: what an operation means."""


@dataclass(frozen=True, slots=True)
class Module:
    """One source file.

    `name` is its dotted name inside the package: `core.pool`, or `serve` for
    a folder's `__init__`.
    """

    name: str
    source: str
    is_folder: bool = False

    @property
    def unit(self) -> str:
        """What stands directly in the package."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Import:
    """One import: the line it is on and the full name it asks for."""

    line: int
    target: str


class _Reader(ast.NodeVisitor):
    """Collects imports wherever they are, but for `if TYPE_CHECKING:`."""

    def __init__(self, module: Module) -> None:
        self.imports: list[Import] = []
        parts = ["kvcache", *module.name.split(".")]
        if module.name == "__init__" or not module.is_folder:
            parts.pop()
        self._folder = parts

    def visit_If(self, node: ast.If) -> None:
        """Leaves out what only a type checker sees."""
        if ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        """Takes `import a.b`."""
        for alias in node.names:
            self.imports.append(Import(node.lineno, alias.name))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Takes `from a import b`, relative or not, as `a.b`."""
        base = [node.module] if node.module else []
        if node.level:
            kept = len(self._folder) - node.level + 1
            base = self._folder[:kept] + base
        for alias in node.names:
            name = ".".join([*base, alias.name])
            self.imports.append(Import(node.lineno, name))


def python_imports(module: Module) -> list[Import]:
    """Returns the imports of a Python module, those in functions too."""
    reader = _Reader(module)
    reader.visit(ast.parse(module.source))
    return reader.imports


def mojo_imports(module: Module) -> list[Import]:
    """Returns the imports of a Mojo module from its own package."""
    pattern = r"^\s*from\s+(?:\.|kvcache\.|kvcore\.)(\w+)[\w.]*\s+import\b"
    found = re.finditer(pattern, module.source, re.MULTILINE)
    return [
        Import(
            module.source.count("\n", 0, match.start(1)) + 1,
            f"kvcache.{match[1]}",
        )
        for match in found
    ]


def layer_of(unit: str, layers: tuple[set[str], ...]) -> int | None:
    """Returns a unit's layer, 0 at the top, or None if it has no place."""
    return next((i for i, units in enumerate(layers) if unit in units), None)


def upward_arrows(
    imports: Mapping[Module, list[Import]], layers: tuple[set[str], ...]
) -> Iterator[str]:
    """Yields a line for each arrow that points up, aside or nowhere."""
    for module, found in imports.items():
        layer = layer_of(module.unit, layers)
        if layer is None:
            yield f"{module.name}: has no place in the table of layers"
            continue
        for item in found:
            package, _, rest = item.target.partition(".")
            unit = rest.partition(".")[0]
            if package != "kvcache" or unit == module.unit:
                continue
            below = layer_of(unit, layers)
            if below is None or below <= layer or unit in FOR_TESTS_ONLY:
                yield f"{module.name}:{item.line}: imports {item.target}"


def strays(imports: Mapping[Module, list[Import]]) -> Iterator[str]:
    """Yields a line for each import of a package that a module may not use."""
    allowed = {
        "max": MAY_IMPORT_MAX,
        "torch": MAY_IMPORT_TORCH,
        "zmq": MAY_IMPORT_ZMQ,
    }
    plain = {"numpy", *sys.stdlib_module_names}
    for module, found in imports.items():
        for item in found:
            package = item.target.partition(".")[0]
            places = allowed.get(package, {module.name})
            is_misplaced = places.isdisjoint({module.name, module.unit})
            if module.unit in FOR_TESTS_ONLY and package not in plain:
                yield f"{module.name}:{item.line}: wanted numpy, got {package}"
            elif is_misplaced:
                yield f"{module.name}:{item.line}: imports {package}"


def read_python(package: Path) -> list[Module]:
    """Returns the modules of a Python package, links included."""
    modules = []
    for path in sorted(_walk(package)):
        parts = list(path.relative_to(package).with_suffix("").parts)
        is_folder = parts[-1] == "__init__"
        if is_folder and len(parts) > 1:
            parts.pop()
        source = path.read_text("utf-8")
        modules.append(Module(".".join(parts), source, is_folder))
    return modules


def read_mojo(package: Path) -> list[Module]:
    """Returns the modules of a Mojo package."""
    return [
        Module(path.stem, path.read_text("utf-8"))
        for path in sorted(package.glob("*.mojo"))
    ]


def _walk(folder: Path) -> Iterator[Path]:
    """Yields the Python files below a folder, through links as well."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _walk(path)
        elif path.suffix == ".py":
            yield path
