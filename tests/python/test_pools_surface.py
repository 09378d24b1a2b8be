"""The names, parameters and defaults of the seed are all there."""

import inspect
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from kvcache import errors, pools  # noqa: E402
from kvcache.pools import devices  # noqa: E402
from paths import ROOT  # noqa: E402

NO_DEFAULT = inspect.Parameter.empty
FLOAT16, BFLOAT16 = torch.float16, torch.bfloat16

PARAMETERS = {
    "KVPool": {
        "size": NO_DEFAULT,
        "layer_num": NO_DEFAULT,
        "k_head_num": NO_DEFAULT,
        "k_head_dim": NO_DEFAULT,
        "device": "cuda",
        "dtype": FLOAT16,
        "v_head_num": None,
        "v_head_dim": None,
        "pin_memory": True,
    },
    "TokenToKVPoolAllocator": {
        "size": NO_DEFAULT,
        "device": "cuda",
        "page_size": 1,
        "need_sort": True,
    },
    "ReqToTokenPool": {
        "max_reqs": NO_DEFAULT,
        "max_context_len": NO_DEFAULT,
        "device": "cuda",
    },
    "GDNPool": {
        "max_reqs": NO_DEFAULT,
        "num_gdn_layers": NO_DEFAULT,
        "num_v_heads": NO_DEFAULT,
        "head_k_dim": NO_DEFAULT,
        "head_v_dim": NO_DEFAULT,
        "conv_dim": NO_DEFAULT,
        "conv_kernel_size": NO_DEFAULT,
        "device": "cuda",
        "dtype": BFLOAT16,
        "max_track_slots": 0,
    },
    "make_full_attention_net_mem_pool": {
        "size": NO_DEFAULT,
        "layer_num": NO_DEFAULT,
        "k_head_num": NO_DEFAULT,
        "k_head_dim": NO_DEFAULT,
        "v_head_num": NO_DEFAULT,
        "v_head_dim": NO_DEFAULT,
        "device": "cuda",
        "dtype": FLOAT16,
        "page_size": 1,
        "need_sort": True,
        "pin_memory": True,
    },
    "make_req_to_token_pool": {
        "max_reqs": NO_DEFAULT,
        "max_context_len": NO_DEFAULT,
        "device": "cuda",
    },
    "KVPool.get_key_buffer": {"layer_id": NO_DEFAULT},
    "KVPool.get_value_buffer": {"layer_id": NO_DEFAULT},
    "KVPool.get_kv_buffer": {"layer_id": NO_DEFAULT},
    "KVPool.set_kv_buffer": dict.fromkeys(
        ["layer_id", "indices", "k", "v"], NO_DEFAULT
    ),
    "KVPool._mem_bytes": {},
    "TokenToKVPoolAllocator.clear": {},
    "TokenToKVPoolAllocator.available_size": {},
    "TokenToKVPoolAllocator.merge_and_sort_free": {},
    "TokenToKVPoolAllocator.free_group_begin": {},
    "TokenToKVPoolAllocator.free_group_end": {},
    "TokenToKVPoolAllocator.alloc": {"need_size": NO_DEFAULT},
    "TokenToKVPoolAllocator.free": {"indices": NO_DEFAULT},
    "ReqToTokenPool.available_size": {},
    "ReqToTokenPool.alloc": {"n": 1},
    "ReqToTokenPool.free": {"slot": NO_DEFAULT},
    "ReqToTokenPool.write": {"index": NO_DEFAULT, "values": NO_DEFAULT},
    "ReqToTokenPool.clear": {},
    "GDNPool.get_layer_state": {"gdn_layer_idx": NO_DEFAULT},
    "GDNPool.reset_states": {"req_pool_indices": NO_DEFAULT},
    "GDNPool.alloc_track_slot": {},
    "GDNPool.free_track_slot": {"slot": NO_DEFAULT},
    "GDNPool.copy_states": dict.fromkeys(
        ["src_index", "dst_index"], NO_DEFAULT
    ),
    "GDNPool.mem_bytes": {},
}

ATTRIBUTES = {
    "KVPool": "size layer_num k_head_num k_head_dim v_head_num v_head_dim "
    "device dtype k_buffer v_buffer",
    "TokenToKVPoolAllocator": "size page_size device need_sort free_slots "
    "release_slots",
    "ReqToTokenPool": "size max_context_len device req_to_token",
    "GDNPool": "max_reqs num_gdn_layers num_v_heads head_k_dim head_v_dim "
    "conv_dim conv_kernel_size device dtype max_track_slots pool_size "
    "recurrent_state conv_state",
}

ON_CPU = {
    "KVPool": lambda: pools.KVPool(7, 2, 1, 4, device="cpu"),
    "TokenToKVPoolAllocator": lambda: pools.TokenToKVPoolAllocator(7, "cpu"),
    "ReqToTokenPool": lambda: pools.ReqToTokenPool(2, 5, "cpu"),
    "GDNPool": lambda: pools.GDNPool(2, 1, 1, 4, 6, 5, 4, device="cpu"),
}


@pytest.mark.parametrize("path", PARAMETERS)
def test_parameters_and_defaults_are_those_of_the_seed(path: str) -> None:
    found: object = pools
    for name in path.split("."):
        found = getattr(found, name)
    assert callable(found)
    parameters = dict(inspect.signature(found).parameters)
    parameters.pop("self", None)
    ours = {
        name: each.default
        for name, each in parameters.items()
        if each.kind is not each.KEYWORD_ONLY
    }
    assert list(ours.items()) == list(PARAMETERS[path].items())
    more = [each for name, each in parameters.items() if name not in ours]
    assert all(each.default is not NO_DEFAULT for each in more)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_of_the_seed_are_there(name: str) -> None:
    made = ON_CPU[name]()
    for attribute in ATTRIBUTES[name].split():
        assert hasattr(made, attribute)
    assert made.device == torch.device("cpu")


def test_the_package_lists_its_names() -> None:
    top = {path for path in PARAMETERS if "." not in path}
    assert top <= set(pools.__all__) <= set(dir(pools))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        pools.Nothing  # noqa: B018


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import kvcache.pools, sys; print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "False\n"


def test_a_missing_torch_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from kvcache import errors, pools\n"
        "try: pools.KVPool\n"
        "except errors.MissingPackageError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "kvcache[torch]" in run.stdout


@pytest.mark.parametrize(
    "make",
    [
        lambda: pools.KVPool(7, 1, 1, 4),
        lambda: pools.TokenToKVPoolAllocator(7),
        lambda: pools.ReqToTokenPool(2, 5),
        lambda: pools.GDNPool(2, 1, 1, 4, 6, 5, 4),
        lambda: pools.make_full_attention_net_mem_pool(7, 1, 1, 4, 1, 4),
        lambda: pools.make_req_to_token_pool(2, 5),
    ],
)
def test_without_cuda_the_default_device_is_a_clear_error(
    make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(errors.DeviceNotAvailableError, match='device="cpu"'):
        make()


def test_a_cuda_device_past_the_last_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.available_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(errors.DeviceNotAvailableError, match="sees 2"):
        devices.available_device("cuda:2")
