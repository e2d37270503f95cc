"""Trained = served, to the bit: a training step's log-probabilities are those of every way of the
server, on each instruction set that the machine has, with and without an adapter."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.models.adapters import LoraConfig, adapter_shapes
from flaxen.models.decoder import decoder
from flaxen.parity.compare import compare, differences
from flaxen.weights.adapters.adapter import Adapter
from tests.e2e.tiny_model import CONFIG, write_tiny_model

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    cpu_library.start(isa=request.param)
    yield request.param
    cpu_library.start(isa=cpu_library.supported_isas()[0])


def make_adapter() -> Adapter:
    rng = np.random.default_rng(1)
    config = LoraConfig(rank=4)
    layers = [
        {
            name: {
                part: (0.2 * rng.standard_normal(shape)).astype(np.float32)
                for part, shape in shapes.items()
            }
            for name, shapes in layer.items()
        }
        for layer in adapter_shapes(decoder(CONFIG), config)["layers"]
    ]
    return Adapter(config=config, layers=tuple(layers))


def prompts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(7)
    return [rng.integers(1, 256, length).tolist() for length in lengths]


@pytest.mark.parametrize("isa", cpu_library.supported_isas(), indirect=True)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", [None, make_adapter()], ids=["base", "adapter"])
def test_no_bit_differs(tiny: str, isa: str, dtype: str, adapter: Adapter | None) -> None:
    args = {"model": tiny, "dtype": dtype}
    found = compare(args, prompts(17, 40, 65, 33), 6, adapter)
    assert {each.way: each.num_tokens for each in found} == {
        "whole prefill": 151,
        "chunked prefill": 151,
        "decode": 48,
        "cached prefill": 24,
        "batched": 175,
    }
    for each in found:
        assert (each.num_differing, each.max_difference) == (0, 0)
        assert each.mean == each.trainer_mean < -1


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_no_bit_differs_beside_quantized_weights(tiny: str, quantization: str) -> None:
    args = {"model": tiny, "dtype": "bfloat16", "quantization": quantization}
    found = compare(args, prompts(17, 40), 6, make_adapter())
    assert [each.num_differing for each in found] == [0] * 5
    assert min(each.num_tokens for each in found) > 0


def test_differences_are_counted_bit_by_bit() -> None:
    ours = np.array([-1.5, -2.0, -0.0, -3.0], np.float32)
    same = differences("w", ours.tolist(), ours.tolist())
    assert (same.num_differing, same.max_difference) == (0, 0)
    theirs = [np.nextafter(ours[0], np.float32(0)), -2.0, 0.0, -3.5]
    found = differences("w", ours.tolist(), theirs)
    assert (found.way, found.num_tokens, found.num_differing) == ("w", 4, 3)
    assert (found.max_difference, found.trainer_mean) == (0.5, -1.625)
    assert found.mean == pytest.approx(-1.75)


def test_short_prompts_are_refused(tiny: str) -> None:
    with pytest.raises(ValueError, match=r"a prompt of 16 tokens is too short .* more than 16"):
        compare({"model": tiny}, prompts(40, 16), 4)
