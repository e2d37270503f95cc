"""`flaxen.train`: every framework gets its trained parameters back, and files train as they do by
the command.
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
from flaxen.models.adapters import LORA_TARGETS
from flaxen.runs.result import TrainResult
from flaxen.sharding.processes import Processes
from flaxen.trainer import refuse_processes
from flaxen.weights.adapters.peft import load_adapter
from tests.bridges.words import byte_tokenizer
from tests.cli.train import tiny_training
from tests.compile_cache import shared_directory
from tests.extras import extra

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a bird in the hand"] * 4
IDS = np.array([byte_tokenizer().encode("the cat sat on a log")])
OPTIONS: dict[str, Any] = {
    "tokenizer": byte_tokenizer(),
    "method": "full",
    "num_steps": 6,
    "learning_rate": 3e-3,
    "batch_size": 2,
    "sequence_length": 48,
}
# As `tiny_training.train` trains.
AS_THE_COMMAND: dict[str, Any] = {
    "batch_size": 2,
    "sequence_length": 24,
    "schedule": {"name": "constant"},
    "learning_rate": 0.01,
    "num_steps": 4,
}


def positions() -> jax.Array:
    return jnp.arange(IDS.shape[1], dtype=jnp.int32)[None]


def assert_handed_back(result: TrainResult, own: Callable[[], Any]) -> None:
    """The loss fell, and the user's object computes what is served."""
    losses = [each["loss"] for each in result.metrics]
    assert len(losses) == result.num_steps == 6
    assert losses[-1] < 0.8 * losses[0]
    definition = result.definition
    assert isinstance(definition, flaxen.Definition)
    assert result.adapter is None
    params = definition.load_params(jnp.dtype("float32"), backend=definition.model.backend)
    served = flaxen.logits(definition.model, params, jnp.asarray(IDS))
    np.testing.assert_allclose(np.asarray(own()), np.asarray(served), atol=2e-4, rtol=2e-4)


def test_a_module_of_flax_nnx_is_updated_in_place_and_generates() -> None:
    nnx: Any = extra("flax.nnx")
    from tests.bridges.nnx_model import Transformer

    module = Transformer(num_layers=1, dropout=0.1, rngs=nnx.Rngs(0))
    model, params = flaxen.from_nnx(module, max_position=64)
    before = jax.tree.map(np.array, params)
    seen: list[Any] = []
    result = flaxen.train(model, params, TEXTS, on_metrics=seen.append, **OPTIONS)
    jax.tree.map(np.testing.assert_array_equal, before, params)  # the user's arrays are their own
    assert tuple(seen) == result.metrics

    result.update(module)
    module.eval()
    assert_handed_back(result, lambda: module(jnp.asarray(IDS), positions()))
    llm = flaxen.LLM(result.definition, max_num_seqs=2)
    (output,) = llm.generate("the ", flaxen.SamplingParams(temperature=0, max_tokens=1))
    own = module(jnp.asarray([output.prompt_token_ids]), positions()[:, :4])[0, -1]
    assert output.outputs[0].token_ids == [int(jnp.argmax(own))]

    other = Transformer(num_layers=1, dim=32, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"has the shape \[.*\], and its trained value \[.*\]: giv"
    ):
        result.update(other)
    other = Transformer(num_layers=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"no trained value for blocks.1.* of Transformer: give"):
        result.update(other)


def test_a_module_of_flax_linen_takes_its_variables() -> None:
    extra("flax")
    from tests.bridges.linen_model import Transformer

    module = Transformer(num_layers=2)
    variables = module.init(jax.random.key(0), jnp.asarray(IDS), positions())
    model, params = flaxen.from_linen(module, variables, max_position=64)
    result = flaxen.train(model, params, TEXTS, **OPTIONS)
    assert_handed_back(result, lambda: module.apply(result.params, jnp.asarray(IDS), positions()))
    with pytest.raises(ValueError, match="Transformer holds no parameters that could be updated"):
        result.update(module)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_module_of_pytorch_is_updated_in_place(dtype: str) -> None:
    """Tied weights stay tied, and the dtype is kept."""
    torch = extra("torch")
    from tests.bridges.torch_models import make

    module = make("Llama").to(getattr(torch, dtype))
    model, params = flaxen.from_transformers(module)
    tied = module.lm_head.weight is module.model.embed_tokens.weight
    result = flaxen.train(model, params, TEXTS, **OPTIONS)
    result.update(module)
    assert tied
    assert module.lm_head.weight is module.model.embed_tokens.weight
    name = "model.norm.weight"
    own = module.state_dict()[name]
    assert own.dtype == getattr(torch, dtype)
    assert result.params["params"][name].dtype == dtype
    np.testing.assert_array_equal(
        own.float().numpy(), np.asarray(result.params["params"][name], np.float32)
    )
    if dtype == "float32":
        with torch.no_grad():
            assert_handed_back(result, lambda: module(torch.from_numpy(IDS)).logits)
    with pytest.raises(ValueError, match="no trained value for weight of Linear: give the module"):
        result.update(torch.nn.Linear(2, 2))
    module.model.norm.weight = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=r"model.norm.weight of Llama.* has the shape \[3\]"):
        result.update(module)


def function(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    x = params["embed"][tokens] + params["places"][positions]
    heads = (each.reshape(*x.shape[:-1], 2, 16) for each in jnp.split(x @ params["qkv"], 3, -1))
    x = x + flaxen.attend(*heads).reshape(x.shape) @ params["out"]
    logits: jax.Array = x @ params["embed"].T
    return logits


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"embed": (272, 32), "places": (64, 32), "qkv": (32, 96), "out": (32, 32)}
    return {
        name: (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in shapes.items()
    }


def test_a_function_of_jax_and_its_adapters(tmp_path: Path) -> None:
    model = flaxen.from_function(function, weights(), max_position=64)
    result = flaxen.train(model, weights(), TEXTS, **{**OPTIONS, "learning_rate": 0.02})
    assert_handed_back(result, lambda: function(result.params, jnp.asarray(IDS), positions()))
    again = flaxen.train(
        result.definition, data=TEXTS, method="full", num_steps=1, sequence_length=48
    )
    assert again.metrics[0]["loss"] < result.metrics[0]["loss"]

    several = {**OPTIONS, "method": "lora", "lora": {"seeds": [1, 2]}, "rank": 2}
    adapted = flaxen.train(model, weights(), TEXTS, **several)
    assert [each.config.rank for each in adapted.adapters] == [2, 2]
    with pytest.raises(ValueError, match="2 adapters were trained at once: take one of"):
        _ = adapted.adapter
    with pytest.raises(ValueError, match="the method lora trains an adapter beside parameters"):
        _ = adapted.params
    adapted.save(tmp_path / "saved")
    for index in range(2):
        load_adapter(tmp_path / "saved" / f"adapter-{index}", model)


def by_the_command(directory: Path, method: str, *options: object) -> tuple[Path, Path, Path]:
    """A tiny model, its data, and what `flaxen train` makes of them in four steps."""
    model = tiny_training.write_model(directory / "llama")
    texts = tiny_training.write_texts(directory / "texts.jsonl")
    more = ("--learning-rate", 0.01, "--num-steps", 4, "--method", method, *options)
    output = directory / "command"
    assert tiny_training.train(model, texts, output, shared_directory(), *more) == 0
    return model, texts, output


def test_an_adapter_is_trained_and_resumed_as_by_the_command(tmp_path: Path) -> None:
    """To the bit."""
    model, texts, output = by_the_command(tmp_path, "lora", "--rank", 4)
    expected = (output / "adapter" / "adapter_model.safetensors").read_bytes()
    options = {**AS_THE_COMMAND, "rank": 4, "output_dir": tmp_path / "own"}
    flaxen.train(str(model), data=[str(texts)], **{**options, "num_steps": 2})
    with pytest.raises(ValueError, match="holds a run of 2 steps: give --resume to go on"):
        flaxen.train(model, data=texts, **options)
    result = flaxen.train(model, data=texts, resume=True, **options)
    result.save(tmp_path / "saved")
    for directory in (tmp_path / "own" / "adapter", tmp_path / "saved"):
        assert (directory / "adapter_model.safetensors").read_bytes() == expected
    assert [each["step"] for each in result.metrics] == [3, 4]
    assert result.num_steps == 4
    with pytest.raises(ValueError, match="already holds files: give a new"):
        result.save(tmp_path / "saved")


def test_records_in_memory_train_as_their_file_by_the_command(tmp_path: Path) -> None:
    """To the bit."""
    model, texts, output = by_the_command(tmp_path, "full")
    records = [json.loads(line) for line in texts.read_text().splitlines()]
    result = flaxen.train(str(model), data=records, method="full", **AS_THE_COMMAND)
    result.save(tmp_path / "saved")
    expected = (output / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "saved" / "model.safetensors").read_bytes() == expected


def definition() -> flaxen.Definition:
    model = flaxen.from_function(function, weights(), max_position=64)
    return flaxen.Definition(model=model, params=weights(), tokenizer=byte_tokenizer())


def test_what_is_missing_or_does_not_go_together_is_said() -> None:
    own = definition()
    model, params, tokenizer = own.model, own.params, byte_tokenizer()
    train: Any = flaxen.train
    cases: list[tuple[str, Callable[[], Any]]] = [
        ("params is missing: a Model holds no weights", lambda: train(model, data=TEXTS)),
        ("tokenizer is missing: give a directory", lambda: train(model, params, TEXTS)),
        ("its save_pretrained", lambda: train(model, params, TEXTS, tokenizer=object())),
        ("data is missing: give data=", lambda: train(model, params, tokenizer=tokenizer)),
        ("'a.py:b' names the code of", lambda: train(own, data=TEXTS, definition="a.py:b")),
        ("a Definition has its own parameters", lambda: train(own, params, TEXTS)),
        ("'smollm2-135m' has its own parameters", lambda: train("smollm2-135m", ["a.jsonl"])),
        ("has its own tokenizer: leave", lambda: train(own, data=TEXTS, tokenizer=tokenizer)),
        ("model must be a Model, a Definition or the name", lambda: train(function, params, TEXTS)),
        ("the settings under lora mean nothing", lambda: train(own, data=TEXTS, method="full",
                                                               rank=2)),
        ("the model's layers have no wq", lambda: train(
            own, data=TEXTS, sequence_length=48, lora={"targets": [*LORA_TARGETS[:2]]})),
        ("data:2: a record must have the keys", lambda: train(
            own, data=[{"text": "a b"}, {}], sequence_length=48)),
        ("only DPO learns from", lambda: train(
            own, data=[{"chosen": "a", "rejected": "b"}], sequence_length=48)),
        ("data.sequence_length is 1024, and the model was made for 64", lambda: train(
            own, data=TEXTS, sequence_length=1024)),
    ]  # fmt: skip
    for message, call in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_progress_is_shown_when_it_is_asked_for(capsys: Any) -> None:
    options: dict[str, Any] = {"method": "full", "num_steps": 1, "sequence_length": 48}
    flaxen.train(definition(), data=TEXTS, **options)
    assert not capsys.readouterr().err
    flaxen.train(definition(), data=TEXTS, progress=True, **options)
    assert "step 1/1  loss " in capsys.readouterr().err


def test_several_processes_train_by_the_command() -> None:
    refuse_processes(Processes())
    with pytest.raises(ValueError, match="one process, and JAX was started with 2: use the"):
        refuse_processes(Processes(count=2))
