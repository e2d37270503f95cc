"""The option groups that several commands share, and their conversion to EngineArgs.

Deliberately does not import the engine: help must not wait for JAX. The defaults are therefore
written here too, and a test holds them equal to the engine's own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flaxen.cli import panels
from flaxen.cli.cpu import backend_name
from flaxen.cli.groups import option
from flaxen.cli.model_names import complete_model
from flaxen.cli.sizes import parse_size_option
from flaxen.sharding.shape import MeshShape, combine_mesh
from flaxen.weights.reference import parse_reference

if TYPE_CHECKING:
    from flaxen.engine_args import EngineArgs

MODEL_HELP = (
    "A GGUF file, a directory with safetensors, a repository of the Hugging Face hub (ORG/NAME, or "
    "ORG/NAME:Q4_K_M of GGUF files), a short name such as smollm2-135m, or a definition of your "
    "own: FILE.py:NAME, or package.module:NAME, of a function that returns a flaxen.Definition; or "
    "the directory that flaxen train wrote."
)
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help=MODEL_HELP, show_default=False, autocompletion=complete_model
    ),
]

_model_option = partial(option, rich_help_panel=panels.MODEL)
_engine_option = partial(option, rich_help_panel=panels.ENGINE)

DefinitionCode = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.py:NAME",
        help="For a directory that flaxen train wrote for a definition of your own: its code, in "
        "place of what the directory names.",
        rich_help_panel=panels.MODEL,
    ),
]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The implementation of a model, and its number formats."""

    dtype: str = _model_option(
        "auto",
        help="Number format to compute in: float32, bfloat16, or auto, which is float32 where "
        "XLA alone computes on a CPU, else bfloat16.",
    )
    impl: str = _model_option(
        "auto",
        help="What defines the model: flaxen is our own decoder; torch is transformers' class, "
        "unchanged, through PyTorch (pip install flaxen\\[torch]); auto is flaxen where it "
        "knows the family.",
    )
    quantization: str = _model_option(
        "auto",
        help="Number format of the weights: int8, int4, fp8 and mxfp4 quantize plain ones as "
        "they are loaded; none is that of --dtype; auto keeps the file's own where kernels can "
        "compute with it.",
    )
    definition: DefinitionCode = None


@dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """Whether a model generates."""

    runner: str = _model_option(
        "auto",
        help="What the model answers with: generate is text; pooling is embeddings, labels or "
        "scores; auto is pooling for an encoder, a classification head, or a directory with "
        "sentence-transformers' modules.json.",
    )


@dataclass(frozen=True, kw_only=True)
class ChatTemplateOptions:
    """The chat template."""

    chat_template: str | None = _model_option(
        None,
        metavar="FILE|JINJA|NAME",
        help="Chat template in place of the model's own: a file, Jinja in one line, or the "
        "name of one of the model's.",
        show_default="the model's own",
    )


@dataclass(frozen=True, kw_only=True)
class ContextOptions:
    """The length of sequences, and the memory of their keys and values."""

    max_model_len: int | None = _model_option(
        None,
        min=1,
        help="Most tokens of a request, prompt and answer together.",
        show_default="the model's own, as far as the KV cache holds it",
    )
    kv_cache_dtype: str = _engine_option(
        "auto",
        help="Number format of the KV cache: auto is that of compute; int8 and fp8 (fp8_e4m3) "
        "take half of bfloat16's memory, with a scale for each token and head. What is served "
        "is then no longer what is trained, to the bit.",
    )
    kv_cache_bytes: int | None = _engine_option(
        None,
        "--kv-cache-size",
        parser=parse_size_option,
        metavar="SIZE",
        help="Memory for the KV cache, as 2GiB or 512MiB.",
        show_default="room for all sequences at 512 tokens and for one at full length, at most "
        "half of the free memory; on a GPU or TPU what --gpu-memory-utilization leaves",
    )
    gpu_memory_utilization: float | None = _engine_option(
        None,
        help="Share of a GPU's or TPU's memory, above 0 and at most 1, for weights, steps and "
        "the KV cache together.",
        show_default="0.9",
    )


@dataclass(frozen=True, kw_only=True)
class StepSizeOptions:
    """The sizes of an engine's steps, and of its pages."""

    max_num_seqs: int | None = _engine_option(
        None,
        min=1,
        help="Most sequences that run at once.",
        show_default="64 on a CPU, 256 on a GPU or TPU",
    )
    max_num_batched_tokens: int | None = _engine_option(
        None,
        min=1,
        help="Most tokens computed in one step: more is faster on long prompts, and makes the "
        "others wait longer between their tokens.",
        show_default="512 on a CPU, 2048 on a GPU or TPU",
    )
    page_size: int = _engine_option(
        16, min=1, help="Tokens in a page of the KV cache; it must divide 128."
    )


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """The programs of an engine's steps, and the cache that is kept between requests."""

    enable_prefix_caching: bool = _engine_option(
        True,
        "--prefix-caching/--no-prefix-caching",
        help="Keep the KV cache of prefixes, so that one which prompts share is computed once.",
    )
    batch_invariant: bool = _engine_option(
        False,
        "--batch-invariant",
        help="Compute a request to the same bits whatever runs beside it: always so with the "
        "CPU kernels, slower on a GPU, refused elsewhere.",
    )
    enforce_eager: bool = _engine_option(
        False, "--enforce-eager", help="On a GPU, start kernels without CUDA graphs."
    )
    compile_sizes: list[int] = _engine_option(
        [],
        "--compile-size",
        min=1,
        help="Number of tokens that a step is compiled for, smaller steps being padded to it; "
        "may be given several times, and the largest must be --max-num-batched-tokens.",
        show_default="what the device needs, up to --max-num-batched-tokens",
    )


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """The devices that a model is divided over."""

    mesh: str = _engine_option(
        "",
        metavar="AXIS=N,...",
        help="Devices to compute on, as tensor=4 or tensor=4,data=2: tensor divides heads, "
        "MLP and vocabulary; pipeline divides the layers; data has a copy of the model for "
        "each part of the requests.",
        show_default="one device",
    )
    tensor_parallel_size: int | None = _engine_option(
        None, "--tensor-parallel-size", "-tp", min=1, help="The same as --mesh tensor=N."
    )
    pipeline_parallel_size: int | None = _engine_option(
        None, "--pipeline-parallel-size", "-pp", min=1, help="The same as --mesh pipeline=N."
    )
    data_parallel_size: int | None = _engine_option(
        None, "--data-parallel-size", "-dp", min=1, help="The same as --mesh data=N."
    )

    @property
    def shape(self) -> MeshShape:
        """The whole mesh.

        Raises:
          ValueError: the options contradict each other, or an axis is unknown.
        """
        return combine_mesh(
            self.mesh,
            tensor=self.tensor_parallel_size,
            pipeline=self.pipeline_parallel_size,
            data=self.data_parallel_size,
        )

    @property
    def num_devices(self) -> int:
        """The devices of the whole mesh; raises what `shape` raises."""
        return self.shape.num_devices


def engine_args(model: str, *groups: Any, **more: Any) -> EngineArgs:
    """Makes EngineArgs from the options of a command.

    Args:
      model: MODEL, as the user gave it.
      groups: their fields of an EngineArgs' name are that field; the others do not matter here.
      more: fields that no group has. What neither has keeps its default.

    Raises:
      ValueError: a value is out of its range, or the chat template is not valid.
      OSError: its file can't be read.
    """
    from flaxen.engine_args import EngineArgs
    from flaxen.text.given_template import read_template

    names = {each.name for each in fields(EngineArgs)}
    given = {name: value for group in groups for name, value in vars(group).items()}
    found = {name: value for name, value in given.items() if name in names} | more
    if (template := found.get("chat_template")) is not None:
        found["chat_template"] = read_template(template)
    found["compile_sizes"] = tuple(found.get("compile_sizes", ()))
    is_here = parse_reference(model) is not None or os.path.exists(os.path.expanduser(model))
    return EngineArgs(
        model=model,
        backend=backend_name(),
        # Clients call the model what it was called here, unless that is a path on this machine.
        # What is here is named by its file, or by its definition.
        served_model_name=None if is_here else model,
        **found,
    )
