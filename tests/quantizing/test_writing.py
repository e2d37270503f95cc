"""What `flaxen quantize` writes: the weights of its layers, read back to the bit, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from flaxen.cli.main import main
from flaxen.families import find_family
from flaxen.kernels.backend import Backend
from flaxen.models.attention_impls import causal
from flaxen.models.decoder import decoder
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import is_spec
from flaxen.quantizing.calibrate import Texts, input_sizes, quantize_layers, round_layers
from flaxen.quantizing.schemes import choose_scheme
from flaxen.quantizing.writing import pack, write_quantized
from flaxen.weights.checkpoint import Checkpoint, open_checkpoint
from flaxen.weights.huggingface.export import export_huggingface

GOLDENS = Path(__file__).parents[1] / "models" / "goldens"
NAMES = {"int8": "qwen2_biases", "int4": "llama_default", "fp8": "qwen3_tied"}


def made(name: str, directory: Path) -> Path:
    """A model like a golden, with 64 inputs where int4 needs groups, and a tokenizer of bytes."""
    fields = json.loads((GOLDENS / name / "config.json").read_text()) | {"intermediate_size": 64}
    family = find_family(fields["model_type"])
    config = family.config_from_hf(fields)
    rng = np.random.default_rng(0)

    def random(spec: ParamSpec) -> jax.Array:
        values = rng.standard_normal(spec.shape)
        return jnp.asarray(1 + values / 9 if spec.role == "vector" else values / 6, jnp.float32)

    params = jax.tree.map(random, decoder(config).param_specs, is_leaf=is_spec)
    export_huggingface(directory, family, config, params)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())[:90]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, [])
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def texts(checkpoint: Checkpoint) -> list[Texts]:
    tokens = np.random.default_rng(0).integers(3, 90, (4, 24)).astype(np.int32)
    positions = np.broadcast_to(np.arange(24, dtype=np.int32), tokens.shape)
    return [Texts(tokens[:2], positions[:2], np.ones((2, 24), np.int32))] * 2


def hidden(checkpoint: Checkpoint, params: object) -> jax.Array:
    (some, _) = texts(checkpoint)
    attend = causal(jnp.asarray(some.segment_ids), Backend.REFERENCE)
    cache = (None,) * len(checkpoint.model.cache_specs)
    out, _ = checkpoint.model.forward(
        params, jnp.asarray(some.tokens), jnp.asarray(some.positions), attend, cache
    )
    return out


@pytest.mark.parametrize("method", ["gptq", "rtn"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_back_to_the_bit(name: str, method: str, tmp_path: Path) -> None:
    source = made(NAMES[name], tmp_path / "model")
    checkpoint = open_checkpoint(source)
    scheme = choose_scheme(name, None, input_sizes(checkpoint.model))
    params = checkpoint.load_params(jnp.dtype("float32"))
    done: list[int] = []
    if method == "gptq":
        layers = quantize_layers(
            checkpoint.model, checkpoint.config, params, texts(checkpoint), scheme,
            lambda number, total: done.append(number),
        )  # fmt: skip
    else:
        layers = round_layers(
            checkpoint.model, params, scheme, lambda number, total: done.append(number)
        )
    assert done == list(range(1, len(layers) + 1))
    write_quantized(tmp_path / "out", checkpoint, source, layers, scheme)
    again = open_checkpoint(tmp_path / "out")
    assert again.quantized_by == "compressed-tensors"
    found = again.load_params(jnp.dtype("float32"))
    for number, layer in enumerate(found["layers"]):
        for param, value in layer.items():
            quantized = layers[number].get(param)
            expected = params["layers"][number][param] if quantized is None else quantized.values.T
            np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(found["embed"], params["embed"])
    plain = hidden(checkpoint, params)
    gap = jnp.abs(hidden(again, found) - plain).max() / jnp.abs(plain).max()
    assert 0 < gap < (0.6 if name == "int4" else 0.1)


def test_numbers_are_packed_from_the_lowest_bits_on() -> None:
    words = pack(np.array([[-8, 7, 0, 1, 2, 3, 4, 5, -1]]), 4)
    assert words.view(np.uint32).tolist() == [[0xDCBA98F0, 0x00000007]]
    assert pack(np.array([[-128, 127, 0, 1]]), 8).view(np.uint32).tolist() == [[0x8180FF00]]


def test_the_command_writes_what_transformers_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = made("llama_default", tmp_path / "model"), tmp_path / "out"
    text = tmp_path / "texts.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    args = ["quantize", str(source), str(out), "--scheme", "int4", "--samples", "5"]
    args += ["--calibration", str(text), "--sequence-length", "32"]
    assert main(args) == 0
    assert "by gptq" in capsys.readouterr().out
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["format"]) == ("compressed-tensors", "pack-quantized")
    assert config["ignore"] == ["lm_head"]
    weights = config["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["strategy"], weights["symmetric"]) == (4, "group", True)
    assert main(["quantize", str(out), str(tmp_path / "more"), "--method", "rtn"]) == 2
    assert "is quantized already, by compressed-tensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--method", "awq"], "the method awq is not supported: use gptq"),
        (["--method", "nf4"], "the method 'nf4' is not known: use gptq or rtn"),
        ([], "gptq needs texts: name a file of them with --calibration FILE, or"),
        (["--method", "rtn", "--calibration", "x.txt"], "--method rtn reads no texts"),
        (["--method", "rtn", "--scheme", "int3"], "the scheme 'int3' is not supported"),
        (["--method", "rtn", "--group-size", "64"], "--group-size is for int4"),
        (["--calibration", "no.txt"], "no.txt"),
    ],
)
def test_a_bad_call_says_what_to_do(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = made("llama_default", tmp_path / "model")
    assert main(["quantize", str(source), str(tmp_path / "out"), *args]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
