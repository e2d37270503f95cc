"""Every engine that can be compared: how it is started, and on which files.

All get the same threads, memory for the same number of keys and values, and the same most requests
at once.
Deliberately does not start anything.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flaxen.benchmark.ideal import CacheLayer, ExpertsCost, ModelCost

from .compare import Engine

MODELS = ("smollm2-135m", "llama-1b-rand", "moe-1b-rand")  # the directories that `install` makes
MAX_MODEL_LEN = 2048  # tokens
MAX_NUM_SEQS = 64
ROOT = Path(__file__).parents[2]
# Memory for keys and values: it holds any workload at once, of both models.
KV_GIB = {"bf16": 1, "f32": 2}
# Engines are compared with those of their own group, which are loaded at the same time.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "16 and 32 bits": ("bf16", "f32"),
    "8 bits": ("int8", "q8_0"),
    "4 bits": ("int4", "q4_1"),
}
_BITS = {"bf16": 16.0, "f32": 32.0}
_DTYPES = {"bf16": "bfloat16", "f32": "float32"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the peers are installed, and the share of the machine that each gets."""

    peers: Path  # the directory that `install` filled
    num_threads: int


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """One engine, before the caller's changes."""

    python: Path
    module: str  # of the worker
    path: Path  # of the model
    args: dict[str, Any]
    weight_bits: float
    cache_bits: float
    kv_gib: int
    env: Mapping[str, str]


def _flaxen(number_format: str, model: str, place: Place) -> _Recipe:
    args, weight_bits, cache_bits = _FLAXEN[number_format]
    kv_gib = KV_GIB["f32" if cache_bits == 32 else "bf16"]
    return _Recipe(
        python=Path(sys.executable),
        module="run_flaxen",
        path=place.peers / "models" / model,
        args={
            **args,
            "max_model_len": MAX_MODEL_LEN,
            "max_num_seqs": MAX_NUM_SEQS,
            "kv_cache_bytes": kv_gib << 30,
            "compile_cache": str(place.peers / "flaxen-cache"),
        },
        weight_bits=weight_bits,
        cache_bits=cache_bits,
        kv_gib=kv_gib,
        env={},
    )


def _flaxen_torch(number_format: str, model: str, place: Place) -> _Recipe:
    """transformers' class of the same model, through our engine."""
    recipe = _flaxen(number_format, model, place)
    return replace(recipe, args={**recipe.args, "impl": "torch"})


def _vllm(number_format: str, model: str, place: Place) -> _Recipe:
    return _Recipe(
        python=place.peers / "venv_vllm/bin/python",
        module="run_vllm",
        path=place.peers / "models" / model,
        # In one process, and not bound to cores: its fastest setting on two of them.
        args={
            "dtype": _DTYPES[number_format],
            "max_model_len": MAX_MODEL_LEN,
            "max_num_seqs": MAX_NUM_SEQS,
            "distributed_executor_backend": "uni",
        },
        weight_bits=_BITS[number_format],
        cache_bits=_BITS[number_format],
        kv_gib=KV_GIB[number_format],
        env={**vllm_env(place.peers, number_format), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
    )


def _openvino(number_format: str, model: str, place: Place) -> _Recipe:
    return _Recipe(
        python=place.peers / "venv_ov/bin/python",
        module="run_openvino",
        path=place.peers / f"models/{model}-ov-{number_format}",
        args={
            "cache_size": KV_GIB["bf16"],
            "max_num_seqs": MAX_NUM_SEQS,
            "max_num_batched_tokens": MAX_MODEL_LEN,
            "enable_prefix_caching": True,
            "dynamic_split_fuse": True,
            "properties": {"INFERENCE_NUM_THREADS": place.num_threads},
        },
        weight_bits={"bf16": 16, "int8": 8}[number_format],  # as stored in its files
        cache_bits=8,  # its own default
        kv_gib=KV_GIB["bf16"],
        env={},
    )


def _transformers(number_format: str, model: str, place: Place) -> _Recipe:
    return _Recipe(
        python=place.peers / "venv_hf/bin/python",
        module="run_transformers",
        path=place.peers / "models" / model,
        args={
            "dtype": _DTYPES[number_format],
            "threads": place.num_threads,
            "batch_size": 16,
        },
        weight_bits=_BITS[number_format],
        cache_bits=_BITS[number_format],
        kv_gib=KV_GIB[number_format],
        env={},
    )


def _llama(number_format: str, model: str, place: Place) -> _Recipe:
    # 1,152 tokens hold the longest request, the prefill of 1,024.
    slots = {"slots": MAX_NUM_SEQS, "slot_tokens": 1152}
    return _llama_program("llama-server", "run_llama_server", slots, number_format, model, place)


def _llama_batched(number_format: str, model: str, place: Place) -> _Recipe:
    return _llama_program(
        "llama-batched-bench", "run_llama_batched", {}, number_format, model, place
    )


def _llama_program(
    binary: str,
    module: str,
    args: Mapping[str, Any],
    number_format: str,
    model: str,
    place: Place,
) -> _Recipe:
    return _Recipe(
        python=Path(sys.executable),
        module=module,
        path=place.peers / f"models/{model}.{number_format}.gguf",
        args={
            **args,
            "binary": str(place.peers / "build_llama/bin" / binary),
            "threads": place.num_threads,
        },
        weight_bits=_LLAMA_BITS[number_format],
        cache_bits=16,
        kv_gib=2,  # of 64 slots
        env={},
    )


# flaxen's number formats: the arguments, the bits per weight, and the bits per element of keys and
# values.
_FLAXEN: Mapping[str, tuple[dict[str, str], float, float]] = {
    "bf16": ({"dtype": "bfloat16"}, 16, 16),
    "f32": ({"dtype": "float32"}, 32, 32),
    "int8": ({"dtype": "bfloat16", "quantization": "int8"}, 8, 16),
    "int4": ({"dtype": "bfloat16", "quantization": "int4"}, 5, 16),
}
# Blocks of 32 with a scale; q4_1 has a minimum too.
_LLAMA_BITS = {"bf16": 16.0, "q8_0": 8.5, "q4_1": 5.0}
_MAKERS: Mapping[str, tuple[Callable[[str, str, Place], _Recipe], tuple[str, ...]]] = {
    "flaxen": (_flaxen, tuple(_FLAXEN)),
    "flaxentorch": (_flaxen_torch, ("bf16", "f32")),
    "vllm": (_vllm, ("bf16", "f32")),
    "openvino": (_openvino, ("bf16", "int8")),
    "llama": (_llama, tuple(_LLAMA_BITS)),
    "llamabatched": (_llama_batched, tuple(_LLAMA_BITS)),
    "transformers": (_transformers, ("bf16", "f32")),
}
NAMES = tuple(f"{peer}-{form}" for peer, (_, forms) in _MAKERS.items() for form in forms)

# What is compared where nothing is named: what the targets need, and what fits into 24 GB.
_NARROW = (
    "flaxen-int8",
    "openvino-int8",
    "llama-q8_0",
    "llamabatched-q8_0",
    "flaxen-int4",
    "llama-q4_1",
    "llamabatched-q4_1",
)
_WITH_VLLM = ("flaxen-bf16", "vllm-bf16", "vllm-f32")
DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "smollm2-135m": (*_WITH_VLLM, "openvino-bf16", "transformers-f32", *_NARROW),
    "llama-1b-rand": (*_WITH_VLLM, *_NARROW),
    "moe-1b-rand": (*_WITH_VLLM, "transformers-bf16", "transformers-f32"),
}


def make_engine(name: str, model: str, place: Place, changes: Mapping[str, Any]) -> Engine:
    """Describes one engine.

    Args:
      name: one of NAMES.
      model: one of MODELS.
      place: where to find it.
      changes: arguments of its worker that differ from ours.

    Raises:
      ValueError: an unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"there is no engine {name!r}: choose from {', '.join(NAMES)}")
    peer, _, number_format = name.partition("-")
    recipe = _MAKERS[peer][0](number_format, model, place)
    args = json.dumps({**recipe.args, **changes})
    module = f"benchmarks.peers.workers.{recipe.module}"
    return Engine(
        name=name,
        command=(str(recipe.python), "-m", module, str(recipe.path), args),
        env={
            **recipe.env,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": str(place.num_threads),
            "HF_HUB_OFFLINE": "1",
        },
        weight_bits=recipe.weight_bits,
        cache_bits=recipe.cache_bits,
        kv_bytes=recipe.kv_gib << 30,
    )


def vllm_env(peers: Path, number_format: str) -> dict[str, str]:
    """The environment variables that vLLM's guide for CPUs recommends; its allocator where it is
    installed.
    """
    allocators = [
        *Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4"),
        *peers.glob("tcmalloc/usr/lib/*/libtcmalloc_minimal.so.4"),
    ]
    preload = [*allocators[:1], *peers.glob("venv_vllm/lib/libiomp5.so")]
    return {
        "LD_PRELOAD": ":".join(map(str, preload)),
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB[number_format]),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }


def num_params(config: Mapping[str, Any]) -> tuple[int, int]:
    """The matrix elements of a Llama's layers with all experts, and of its unembedding.

    Args:
      config: of the model's directory, config.json.
    """
    width = config["hidden_size"]
    q_size = config["num_attention_heads"] * config["head_dim"]
    kv_size = config["num_key_value_heads"] * config["head_dim"]
    mlp_size = config["intermediate_size"] * config.get("num_local_experts", 1)
    per_layer = width * (2 * q_size + 2 * kv_size + 3 * mlp_size)
    return config["num_hidden_layers"] * per_layer, width * config["vocab_size"]


def cost(engine: Engine, config: Mapping[str, Any]) -> ModelCost:
    """What a step of a Llama or Mixtral must read and multiply as this engine holds it.

    Args:
      engine: for the bits of its numbers.
      config: of the model's directory, config.json.
    """
    all_params, unembed_params = num_params(config)
    num_experts = config.get("num_local_experts", 0)
    expert_params = 3 * config["hidden_size"] * config["intermediate_size"] * num_experts
    expert_params *= config["num_hidden_layers"]
    layer_params = all_params - expert_params

    def num_bytes(params: int) -> int:
        return math.ceil(params * engine.weight_bits / 8)

    experts = ExpertsCost(
        num_bytes=num_bytes(expert_params),
        num_params=expert_params,
        share=config["num_experts_per_tok"] / num_experts if num_experts else 1,
    )
    kv_size = config["num_key_value_heads"] * config["head_dim"]
    layer = CacheLayer(bytes_per_token=math.ceil(2 * kv_size * engine.cache_bits / 8), window=None)
    return ModelCost(
        weight_bytes=num_bytes(layer_params + unembed_params),
        layer_params=layer_params,
        unembed_params=unembed_params,
        cache_layers=(layer,) * config["num_hidden_layers"],
        experts=(experts,) if num_experts else (),
    )
