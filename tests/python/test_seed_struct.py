"""The seed's Mojo structs, name by name, as `mojo doc` sees ours.

What is ours alone may come behind: more parameters, with a default each, and
more members. `tests/mojo/test_cache_surface.mojo` uses what is named here.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mojo_files import mojo_command, mojo_environment
from paths import ROOT

Methods = dict[str, str]
"""The parameters and the arguments of each, behind `self`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Struct:
    """What a struct of the seed has."""

    module: str
    fields: tuple[str, ...]
    aliases: tuple[str, ...]
    methods: Methods


PARAMETERS = "dtype_ kv_params_ page_size"
FIELDS = (
    "blocks",
    "cache_lengths",
    "lookup_table",
    "max_seq_length",
    "max_cache_length",
)

STRUCTS = {
    "PagedKVCache": Struct(
        module="cache",
        fields=FIELDS,
        aliases=(
            *("dtype", "kv_params", "page_size_", "device_type"),
            *("blocks_shape", "blocks_layout", "blocks_type"),
        ),
        methods={
            "__init__": f"[] {' '.join(FIELDS)}",
            "get_type_name": "[]",
            "get_device_type_name": "[]",
            "max_tile_size": "[]",
            "cache_lengths_nd": "[]",
            "cache_length": "[] batch_idx",
            "row_idx": "[] batch_idx tok_idx",
            "col_idx": "[] head_idx",
            "create_tma_tile": "[tile_m tile_n swizzle_mode is_k_major] ctx",
            "load": "[width] bs head_idx tok_idx head_dim_idx",
            "store": "[width] bs head_idx tok_idx head_dim_idx val",
            "empty_cache": "[]",
            "max_prompt_length": "[]",
            "max_context_length": "[]",
            "block_paged_ptr": (
                "[tile_size] batch_idx start_tok_idx head_idx head_dim_idx"
            ),
        },
    ),
    "PagedKVCacheCollection": Struct(
        module="collection",
        fields=FIELDS,
        aliases=(
            *("name_str", "dtype", "kv_params", "CacheType"),
            *("blocks_shape", "blocks_layout", "blocks_type"),
        ),
        methods={
            "__init__": f"[] {' '.join(FIELDS)}",
            "get_key_cache": "[] layer_idx",
            "get_value_cache": "[] layer_idx",
            "cache_length": "[] bs_idx",
        },
    ),
}


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The package's structs by name."""
    mojo = mojo_command()
    assert mojo is not None, "wanted the mojo compiler, found none"
    file: Path = tmp_path_factory.mktemp("doc") / "kvcache.json"
    subprocess.run(
        [mojo, "doc", str(ROOT / "mojo" / "kvcache"), "-o", str(file)],
        env=mojo_environment(),
        check=True,
    )
    modules = json.loads(file.read_text())["decl"]["modules"]
    return {
        f"{module['name']}.{struct['name']}": struct
        for module in modules
        for struct in module["structs"]
    }


@pytest.fixture(params=STRUCTS)
def pair(
    documented: dict[str, Any], request: pytest.FixtureRequest
) -> tuple[Struct, dict[str, Any]]:
    """What the seed has, and what we have."""
    wanted = STRUCTS[request.param]
    return wanted, documented[f"{wanted.module}.{request.param}"]


def names(items: list[dict[str, Any]]) -> list[str]:
    return [item["name"] for item in items]


def test_parameters_come_first(pair: tuple[Struct, dict[str, Any]]) -> None:
    _, ours = pair
    parameters = ours["parameters"]
    assert " ".join(names(parameters)[:3]) == PARAMETERS
    assert all("default" in extra for extra in parameters[3:])


def test_fields_and_aliases_are_there(
    pair: tuple[Struct, dict[str, Any]],
) -> None:
    wanted, ours = pair
    assert set(wanted.fields) <= set(names(ours["fields"]))
    assert set(wanted.aliases) <= set(names(ours["aliases"]))


def test_methods_take_what_the_seed_s_take(
    pair: tuple[Struct, dict[str, Any]],
) -> None:
    wanted, ours = pair
    methods = {method["name"]: method for method in ours["functions"]}
    for name, signature in wanted.methods.items():
        assert any(
            takes(overload, signature)
            for overload in methods[name]["overloads"]
        ), f"{name}{signature}"


def takes(overload: dict[str, Any], signature: str) -> bool:
    """Whether a method takes these first, and then only what has a default."""
    parameters, _, arguments = signature[1:].partition("]")
    return all(
        names(have)[: len(want)] == want
        and all("default" in extra for extra in have[len(want) :])
        for want, have in (
            (parameters.split(), overload["parameters"]),
            (
                arguments.split(),
                [x for x in overload["args"] if x["name"] != "self"],
            ),
        )
    )


def test_views_are_passed_to_a_gpu_as_bits(documented: dict[str, Any]) -> None:
    traits = names(documented["cache.PagedKVCache"]["parentTraits"])
    assert {"TrivialRegisterPassable", "DevicePassable"} <= set(traits)
