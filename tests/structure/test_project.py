import os
import re
import subprocess
import sys
import tomllib

import pytest

from paths import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PIXI = tomllib.loads((ROOT / "pixi.toml").read_text("utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
PEERS_LOCK = (ROOT / "requirements-peers.lock").read_text("utf-8")
COMMANDS = {
    "install",
    "install-peers",
    "install-torch",
    "demo",
    "test",
    "check",
    "bench",
    "test-gpu",
}
each_lock = pytest.mark.parametrize(
    "lock", [LOCK, PEERS_LOCK], ids=["lock", "peers"]
)


def normal(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def exact_pins(requirements: list[str]) -> dict[str, str]:
    pins = (re.match(r"([\w.-]+)==([\w.]+)", line) for line in requirements)
    return {normal(pin[1]): pin[2] for pin in pins if pin}


def locked(lock: str) -> dict[str, set[str]]:
    """Each locked package with its versions, one for each Python."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)==([\w.]+)", lock, re.MULTILINE
    ):
        versions.setdefault(normal(name), set()).add(version)
    return versions


def extra(name: str) -> list[str]:
    return PYPROJECT["project"]["optional-dependencies"][name]


def pixi_tasks() -> dict[str, str]:
    features = PIXI.get("feature", {}).values()
    tables = [PIXI, *features]
    return {k: v for table in tables for k, v in table.get("tasks", {}).items()}


def test_makefile_has_every_command() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
    assert targets >= COMMANDS
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    assert set(phony[1].split()) >= COMMANDS


def test_every_check_has_its_recipe() -> None:
    checks = re.search(r"^CHECKS := (.*)$", MAKEFILE, re.MULTILINE)
    assert checks
    recipes = re.findall(r"^check-([a-z-]+):$", MAKEFILE, re.MULTILINE)
    assert checks[1].split() == recipes


def test_pixi_runs_the_makefile_under_the_same_names() -> None:
    tasks = pixi_tasks()
    assert set(tasks) >= COMMANDS
    for name, command in tasks.items():
        assert command == f"make {name} BIN=$CONDA_PREFIX/bin READY="


def test_pixi_pins_what_pyproject_pins() -> None:
    project = PYPROJECT["project"]
    wanted = exact_pins(project["dependencies"])
    assert wanted == {"max": "26.7.0", "mojo": "1.2.0"}
    assert set(wanted) <= set(PIXI["pypi-dependencies"])
    tables = [(PIXI, wanted)]
    for feature, name in [("torch", "torch"), ("peers", "peers")]:
        tables.append((PIXI["feature"][feature], exact_pins(extra(name))))
    for table, pins in tables:
        assert set(pins) <= set(table["pypi-dependencies"])
        for name, version in table["pypi-dependencies"].items():
            if name != "kvcache":
                assert version == f"=={pins[name]}", name
    assert PIXI["dependencies"]["python"] == project["requires-python"]


def test_pixi_installs_this_project_for_developers() -> None:
    assert PIXI["pypi-dependencies"]["kvcache"] == {
        "path": ".",
        "editable": True,
        "extras": ["dev"],
    }


@each_lock
def test_lock_holds_each_requirement_of_a_developer(lock: str) -> None:
    versions = locked(lock)
    lines = [*PYPROJECT["project"]["dependencies"]]
    lines += [*extra("demo"), *extra("zmq")]
    lines += [line for line in extra("dev") if not line.startswith("kvcache")]
    for line in lines:
        name = re.match(r"[\w.-]+", line)
        assert name
        assert normal(name[0]) in versions, line
    for name, version in exact_pins(lines).items():
        assert versions[name] == {version}


def test_peers_lock_adds_the_peers_and_moves_nothing() -> None:
    mine, theirs = locked(LOCK), locked(PEERS_LOCK)
    assert {name: theirs[name] for name in mine} == mine
    pins = exact_pins(extra("peers"))
    assert {name: theirs[name] for name in pins} == {
        name: {version} for name, version in pins.items()
    }


@each_lock
def test_lock_names_no_registry_and_no_torch(lock: str) -> None:
    assert "torch" not in locked(lock)
    assert "://" not in lock
    assert not re.search(r"^\s*--(?!hash=)", lock, re.MULTILINE)


@each_lock
def test_every_locked_package_has_a_hash(lock: str) -> None:
    entries = re.split(r"^(?=\w)", lock, flags=re.MULTILINE)[1:]
    assert len(entries) >= len(locked(lock))
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_every_op_is_tested_and_compiled_for_the_gpu() -> None:
    sources = sorted((ROOT / "mojo/kvcache").glob("*ops.mojo"))
    ops = "".join(path.read_text("utf-8") for path in sources)
    built = (ROOT / "tests/kernels/build.py").read_text("utf-8")
    registered = re.findall(r"register\(\"kvcache\.(\w+)\"\)", ops)
    assert len(registered) >= 18
    # The same builder, over codes or over latents.
    builders = {op.removesuffix("_quantized") for op in registered}
    builders.remove("attention_latents")  # It has that of attention.
    assert builders <= set(re.findall(r"(\w+)_graph\(", built))


def test_mojo_folder_shadows_nothing_of_the_compiler() -> None:
    names = {path.name for path in (ROOT / "mojo").iterdir()}
    assert "kvcache" in names
    assert names.isdisjoint(
        {"__init__.py", "importer.py", "notebook.py", "paths.py", "run.py"}
    )


def test_package_links_to_its_graphs_and_mojo_sources() -> None:
    package = ROOT / "python" / "kvcache"
    assert (package / "graphs").resolve() == ROOT / "graphs"
    assert (package / "_mojo/kvcache").resolve() == ROOT / "mojo" / "kvcache"
    assert (package / "py.typed").exists()


def test_importing_the_package_loads_neither_engine_nor_torch() -> None:
    heavy = "{'max', 'torch', 'transformers', 'gguf'}"
    code = f"import kvcache, sys; print({heavy} & set(sys.modules))"
    path = os.pathsep.join([str(ROOT / "python"), *sys.path])
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "set()\n", "")
