import pytest

from import_arrows import (
    KVCORE_LAYERS,
    MOJO_LAYERS,
    PYTHON_LAYERS,
    Module,
    mojo_imports,
    python_imports,
    read_mojo,
    read_python,
    strays,
    upward_arrows,
)
from paths import ROOT


def python_findings(*modules: Module) -> list[str]:
    imports = {module: python_imports(module) for module in modules}
    return [*upward_arrows(imports, PYTHON_LAYERS), *strays(imports)]


def mojo_findings(*modules: Module) -> list[str]:
    imports = {module: mojo_imports(module) for module in modules}
    return list(upward_arrows(imports, MOJO_LAYERS))


def test_python_arrows_point_down() -> None:
    modules = read_python(ROOT / "python" / "kvcache")
    assert {"__init__", "mojo_sources"} <= {module.name for module in modules}
    assert any(module.unit == "graphs" for module in modules)
    assert python_findings(*modules) == []


def test_mojo_arrows_point_down() -> None:
    modules = read_mojo(ROOT / "mojo" / "kvcache")
    assert {"ops", "layout"} <= {module.name for module in modules}
    assert mojo_findings(*modules) == []


def test_arrows_of_the_bookkeeping_point_down() -> None:
    modules = read_mojo(ROOT / "mojo" / "kvcore")
    assert {"core", "extension"} <= {module.name for module in modules}
    imports = {module: mojo_imports(module) for module in modules}
    assert list(upward_arrows(imports, KVCORE_LAYERS)) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("core.pool", "from kvcache.manager import PagedKVCacheManager"),
        ("core.pool", "import kvcache.manager"),
        ("core.pool", "from kvcache import manager"),
        ("core.pool", "from ..manager import PagedKVCacheManager"),
        ("core.pool", "from .. import manager"),
        ("core.pool", "def late():\n    from kvcache.manager import x"),
        ("core.pool", "if FAST:\n    from kvcache.manager import x"),
        ("core.pool", "try:\n    import kvcache.manager\nexcept E: pass"),
        ("core.pool", "from kvcache import PagedKVCacheManager"),
        ("core.pool", "import kvcache"),
        ("spec", "from .request import Request"),
        ("ops", "from kvcache.graphs.store import store_graph"),
        ("metrics", "from kvcache.core.pool import PagePool"),
        ("serve.loop", "from kvcache.reference import attention"),
        ("serve.loop", "from kvcache.nowhere import thing"),
        (
            "core.pool",
            "if TYPE_CHECKING:\n    pass\nelse:\n    import kvcache.manager",
        ),
    ],
)
def test_arrow_that_points_up_is_found(name: str, source: str) -> None:
    (finding,) = python_findings(Module(name, source))
    assert finding.startswith(f"{name}:")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("manager", "from kvcache.core.pool import PagePool"),
        ("manager", "from .core import pool"),
        ("core.pool", "from .table import Table"),
        ("core.pool", "from ..errors import KVCacheError"),
        ("cli.demo", "from kvcache import serve"),
        ("core.pool", "import numpy\nimport maximum\nimport torchless"),
        (
            "serve.loop",
            "if TYPE_CHECKING:\n    from kvcache.cli import main",
        ),
        (
            "serve.loop",
            "if typing.TYPE_CHECKING:\n    from max.driver import Buffer",
        ),
    ],
)
def test_arrow_that_points_down_passes(name: str, source: str) -> None:
    assert python_findings(Module(name, source)) == []


def test_folder_itself_reads_its_relative_imports_from_inside() -> None:
    folder = Module("core", "from .manager import x", is_folder=True)
    assert python_findings(folder) == []
    above = Module("core", "from ..manager import x", is_folder=True)
    assert python_findings(above) == ["core:1: imports kvcache.manager.x"]


def test_unknown_module_must_be_placed() -> None:
    assert python_findings(Module("novelty", "")) == [
        "novelty: has no place in the table of layers"
    ]
    assert mojo_findings(Module("novelty", "")) == [
        "novelty: has no place in the table of layers"
    ]


@pytest.mark.parametrize("package", ["max", "torch", "zmq"])
def test_heavy_import_in_a_light_module_is_found(package: str) -> None:
    module = Module("core.pool", f"def late():\n    import {package}.driver")
    assert python_findings(module) == [f"core.pool:2: imports {package}"]


def test_max_is_for_the_runner_and_not_for_its_neighbours() -> None:
    source = "from max.driver import CPU"
    assert python_findings(Module("serve.runner", source)) == []
    assert python_findings(Module("graphs.store", source)) == []
    assert python_findings(Module("serve.loop", source)) == [
        "serve.loop:1: imports max"
    ]


def test_reference_imports_numpy_only() -> None:
    plain = "import math\nimport numpy as np\nfrom numpy import typing"
    assert python_findings(Module("reference", plain)) == []
    assert python_findings(Module("reference", "import scipy")) == [
        "reference:1: wanted numpy, got scipy"
    ]
    assert python_findings(Module("reference", "import kvcache.errors")) != []


def test_mojo_arrow_that_points_up_is_found() -> None:
    source = '"""Doc."""\nfrom std.math import ceil\nfrom .ops import Store\n'
    assert mojo_findings(Module("layout", source)) == [
        "layout:3: imports kvcache.ops"
    ]
    source = "def late():\n    from kvcache.store_gpu import store_gpu"
    assert mojo_findings(Module("cache", source)) == [
        "cache:2: imports kvcache.store_gpu"
    ]


def test_mojo_arrow_that_points_down_passes() -> None:
    source = "from .cache import PagedKVCache\nfrom .layout import PageLayout"
    assert mojo_findings(Module("store_gpu", source)) == []
