"""A function whose parameters look like our decoder's, and are not: {"layers": [{"wq": ...}]}.

Which layout a tree has is known from its model; its keys mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen
from flaxen.definitions.definition import Definition
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend
from flaxen.models.adapters import LoraConfig, lora_targets
from flaxen.models.model import Model, Params
from flaxen.scheduling.config import LoraLimits
from flaxen.training.full import full
from flaxen.training.jobs.plan import Hyperparameters
from flaxen.training.jobs.run import Base, JobCallbacks, JobSpec, adapter_directory, run_job
from flaxen.training.loop import Callbacks, train
from flaxen.training.loss import next_token
from flaxen.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from flaxen.training.step import make_step, start
from flaxen.weights.adapters.adapter import merge_adapter
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from tests.bridges.training import counting_batches, needs_kernels
from tests.bridges.words import VOCAB_SIZE, byte_tokenizer
from tests.training.tiny import Repeated
from tests.weights.adapters.made import random_adapter

D, H = 64, 4
MLP = VOCAB_SIZE  # so that a size tells no table from a matrix
KINDS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "dict": lambda layers: {"first": layers[0], "second": layers[1]},
}
GREEDY = flaxen.SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


def make_params(kind: str) -> Params:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)

    layers = [
        {
            "wq": random(D, H, D // H),
            "bq": random(H, D // H),
            "wk": random(D, H, D // H),
            "wv": random(D, H, D // H),
            "wo": random(D, D),
            "up": random(D, MLP),
            "down": random(MLP, D),
        }
        for _ in range(2)
    ]
    return {"embed": random(VOCAB_SIZE, D) * 8, "layers": KINDS[kind](layers)}


def norm(x: jax.Array) -> jax.Array:
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)


def forward(params: Params, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    x = params["embed"][tokens]
    layers = params["layers"]
    for p in layers.values() if isinstance(layers, dict) else layers:
        h = norm(x)
        q, k, v = (jnp.einsum("btd,dhk->bthk", h, p[name]) for name in ("wq", "wk", "wv"))
        x = x + flaxen.attend(q + p["bq"][None, None], k, v).reshape(x.shape) @ p["wo"]
        x = x + jax.nn.gelu(norm(x) @ p["up"]) @ p["down"]
    logits: jax.Array = norm(x) @ params["embed"].T
    return logits


@pytest.fixture(scope="module", params=KINDS)
def definition(request: pytest.FixtureRequest) -> Definition:
    params = make_params(request.param)
    model = flaxen.from_function(forward, params, max_position=128)
    return Definition(model=model, params=params, tokenizer=byte_tokenizer(), name="mine")


@pytest.mark.parametrize("definition", ["list", "tuple"], indirect=True)
def test_adapters_are_served_saved_and_loaded(definition: Definition, tmp_path: Path) -> None:
    model = definition.model
    targets = lora_targets(model)
    assert len(targets) == 2 * 6
    adapter = random_adapter(model, targets=targets)
    save_adapter(tmp_path, adapter, model=model)
    loaded = load_adapter(tmp_path, model)
    jax.tree.map(np.testing.assert_array_equal, loaded.layers, adapter.layers)
    llm = flaxen.LLM(definition, lora=LoraLimits(max_loras=1, max_lora_rank=8), max_num_seqs=2)
    llm.load_adapter("mine", loaded)
    outputs = llm.generate(["one", "one"], GREEDY, adapter=[None, "mine"])
    found = [output.outputs[0].token_ids for output in outputs]
    assert found[0] != found[1]
    with pytest.raises(ValueError, match="of a definition, which merge_into_definition merges"):
        merge_adapter(definition.params, adapter)


@needs_kernels
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_matrices_are_packed_in_the_format_that_was_asked_for(
    definition: Definition, quantization: Any
) -> None:
    params = definition.load_params(
        jnp.dtype("bfloat16"), backend=Backend.CPU, quantization=quantization
    )
    layers = params["layers"]
    for layer in layers.values() if isinstance(layers, dict) else layers:
        formats = {name: leaf.format for name, leaf in layer.items() if name != "bq"}
        assert set(formats.values()) == {quantization}
        assert layer["bq"].dtype == jnp.bfloat16
    assert params["embed"].format == "int8"  # four bits are too few for the logits


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_all_parameters_are_trained(definition: Definition, name: Any) -> None:
    model: Model = definition.model
    losses: list[float] = []
    step = make_step(
        full(model, dtype=jnp.dtype("float32")),
        next_token(model),
        make_optimizer(OptimizerConfig(name=name, weight_decay=0.01)),
        make_schedule(ScheduleConfig(name="constant"), 8),
        [1e-2],
    )
    state = train(
        step,
        start(step, jax.tree.map(jnp.copy, definition.params), 0),
        None,
        Repeated(counting_batches(1)),
        num_steps=8,
        callbacks=Callbacks(
            on_metrics=lambda metrics: losses.append(float(metrics.values["loss"][0]))
        ),
    )
    assert losses[-1] < 0.8 * losses[0]
    assert jax.tree.structure(state.params) == jax.tree.structure(definition.params)


@pytest.mark.parametrize("definition", ["list", "dict"], indirect=True)
def test_a_job_trains_an_adapter_beside_it(definition: Definition, tmp_path: Path) -> None:
    """The job runs as under `flaxen serve --data-dir`."""
    model = definition.model
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps({"prompt": "who?", "completion": " me."}) + "\n")
    losses: list[float] = []
    spec = JobSpec(
        method="supervised",
        training_file=file,
        validation_file=None,
        hyperparameters=Hyperparameters(n_epochs=6, batch_size=1, learning_rate_multiplier=50.0),
        lora=LoraConfig(rank=4, targets=lora_targets(model)),
        seed=0,
        directory=tmp_path,
    )
    callbacks = JobCallbacks(
        on_start=lambda chosen: None,
        on_step=lambda step, num, metrics, tokens: losses.append(metrics["train_loss"]),
        on_checkpoint=lambda step, metrics, is_last: None,
        should_stop=lambda: False,
        rest=lambda worked_s: None,
    )
    base = Base(
        model=model,
        params=definition.load_params(jnp.dtype("float32"), backend=choose_backend()),
        tokenizer=byte_tokenizer(),
        name="mine",
        max_length=64,
    )
    assert run_job(spec, base, callbacks)
    assert losses[-1] < 0.5 * losses[0]
    assert load_adapter(adapter_directory(tmp_path, 6), model).config == spec.lora
