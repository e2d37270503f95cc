"""A model directory on a mesh, by the names that users type, and what is refused."""

from __future__ import annotations

import pytest

from flaxen import LLM, SamplingParams
from flaxen.engine_args import EngineArgs
from flaxen.kernels.choice import choose_backend
from flaxen.models.layout import check_layout
from tests.e2e.tiny_model import write_tiny_model
from tests.engine.tiny import MODEL
from tests.mesh.meshes import placement

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
PROMPTS = ["one", "two words", "a third, which is longer"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model")))


def test_a_mesh_says_what_one_device_says(model: str) -> None:
    args = {"dtype": "float32", "max_model_len": 64, "max_num_seqs": 4, "compile_sizes": (16,)}
    args["max_num_batched_tokens"] = 16
    alone = LLM(model, backend="reference", **args).generate(PROMPTS, GREEDY)
    for mesh in ({"tensor_parallel_size": 2}, {"mesh": "pipeline=2,tensor=2"}):
        llm = LLM(model, **mesh, **args)
        table = llm.params["embed"]
        assert table.addressable_shards[0].data.nbytes * 2 == table.nbytes
        found = llm.generate(PROMPTS, GREEDY)
        assert [each.outputs[0].token_ids for each in found] == [
            each.outputs[0].token_ids for each in alone
        ]


def test_data_replicas_say_what_one_device_says(model: str) -> None:
    args = {"dtype": "float32", "max_model_len": 64, "max_num_seqs": 4, "compile_sizes": (16,)}
    args["max_num_batched_tokens"] = 16
    sampled = SamplingParams(temperature=0.9, max_tokens=6, ignore_eos=True)  # seeds of the LLM
    alone = LLM(model, backend="reference", **args).generate(PROMPTS, sampled)
    llm = LLM(model, data_parallel_size=2, **args)
    found = llm.generate(PROMPTS, sampled)
    assert [each.outputs[0].token_ids for each in found] == [
        each.outputs[0].token_ids for each in alone
    ]
    assert all(each.num_generated_tokens for each in llm.engine.stats().replicas)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"mesh": "fsdp=2"}, "the mesh axis fsdp divides training, and an engine has no use"),
        ({"mesh": "tensor=2", "tensor_parallel_size": 4}, "the mesh has tensor=2, and tensor=4"),
        ({"mesh": "tensors=2"}, "the mesh axis 'tensors' is not known"),
    ],
)
def test_a_mesh_that_no_engine_has_is_refused(args: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineArgs(model="m", **args)  # type: ignore[arg-type]


def test_heads_that_are_not_divided_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"the model's 6 query heads can't be divided over tensor=4 .* of 1, 2, 6$"
    ):
        check_layout(MODEL.param_specs, placement("tensor=4"))


def test_the_cpus_kernels_have_no_mesh() -> None:
    assert choose_backend(num_devices=2, platform="cpu", is_built=True).value == "reference"
    with pytest.raises(ValueError, match="the backend cpu computes on one device, and the mesh"):
        choose_backend("cpu", num_devices=2, platform="cpu", is_built=True)
