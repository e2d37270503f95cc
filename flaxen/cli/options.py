"""The options that several commands share, and how the engine's become EngineArgs.

Deliberately does not import the engine: help must not wait for JAX. The defaults are therefore
written here too, and a test holds them equal to the engine's own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flaxen.cli.cpu import backend_name
from flaxen.cli.definitions import is_place
from flaxen.cli.sizes import parse_size

if TYPE_CHECKING:
    from flaxen.build import EngineArgs

MODEL_PANEL = "Model"
ENGINE_PANEL = "Engine"
SAMPLING_PANEL = "Sampling"
LORA_PANEL = "LoRA adapters"
MODEL_HELP = (
    "A GGUF file, a directory with safetensors, a Hugging Face id, smollm2-135m, or a definition "
    "of your own: FILE.py:NAME of a function that returns a flaxen.Definition."
)


def size(text: str | int) -> int:
    """Parses a size for typer, which also passes defaults through here.

    Raises:
      typer.BadParameter: not a size.
    """
    if isinstance(text, int):
        return text
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
Dtype = Annotated[
    str,
    typer.Option(
        help="Number format to compute in: float32, bfloat16, or auto, which is float32 where XLA "
        "alone computes on a CPU, else bfloat16.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Impl = Annotated[
    str,
    typer.Option(
        help="What defines the model: flaxen is our own decoder; torch is transformers' class, "
        "unchanged, through PyTorch (pip install flaxen\\[torch]); auto is flaxen where it knows "
        "the family.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Quantization = Annotated[
    str,
    typer.Option(
        help="Of the weights: int8, int4, none, or auto, which keeps what the file has where the "
        "CPU kernels can.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Of a definition, the parameters that flaxen train wrote, in place of its own.",
        rich_help_panel=MODEL_PANEL,
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most tokens of a request, prompt and answer together.",
        show_default="the model's own, as far as the KV cache holds it",
        rich_help_panel=MODEL_PANEL,
    ),
]
MaxNumSeqs = Annotated[
    int,
    typer.Option(min=1, help="Sequences that run at once.", rich_help_panel=ENGINE_PANEL),
]
MaxNumBatchedTokens = Annotated[
    int,
    typer.Option(
        min=1,
        help="Tokens computed in one step: more is faster on long prompts, and makes the "
        "others wait longer between their tokens.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
TargetItlMs = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Milliseconds wanted between two tokens of an answer: a step computes fewer prompt "
        "tokens where it would take longer, but takes twice the time of one without prompts if "
        "need be. 0: --max-num-batched-tokens alone decides. Not given: three times what a step "
        "without prompts takes here, at least 40.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
PageSize = Annotated[
    int,
    typer.Option(
        min=1,
        help="Tokens in a page of the KV cache; it must divide 128.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
KvCacheSize = Annotated[
    int | None,
    typer.Option(
        parser=size,
        metavar="SIZE",
        help="Memory for the KV cache, as 2GiB or 512MiB.",
        show_default="what all sequences need, at most 1GiB",
        rich_help_panel=ENGINE_PANEL,
    ),
]
MaxUnreadSize = Annotated[
    int,
    typer.Option(
        parser=size,
        metavar="SIZE",
        help="Memory for what slow clients have not read of their answers, all together; beyond "
        "it the request furthest behind is ended.",
        show_default="256MiB",
        rich_help_panel=ENGINE_PANEL,
    ),
]
PrefixCaching = Annotated[
    bool,
    typer.Option(
        "--prefix-caching/--no-prefix-caching",
        help="Compute a beginning that prompts share only once.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Threads that compute on the CPU.",
        show_default="one for each CPU that the process may use",
        rich_help_panel=ENGINE_PANEL,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        help="Where the random choices of requests without a seed of their own start from.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
CompileCache = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        envvar="FLAXEN_CACHE",
        file_okay=False,
        help="Where compiled programs are kept, so that the next start is quick.",
        show_default="~/.cache/flaxen",
        rich_help_panel=ENGINE_PANEL,
    ),
]
CompileSize = Annotated[
    list[int] | None,
    typer.Option(
        min=1,
        help="Number of tokens that a step is compiled for, smaller steps being padded to it; may "
        "be given several times, and the largest must be --max-num-batched-tokens.",
        show_default="1, 16, 64, ... up to --max-num-batched-tokens",
        rich_help_panel=ENGINE_PANEL,
    ),
]
EnableLora = Annotated[
    bool,
    typer.Option(
        "--enable-lora",
        help="Serve LoRA adapters beside the model, mixed in one batch.",
        rich_help_panel=LORA_PANEL,
    ),
]
MaxLoras = Annotated[
    int,
    typer.Option(
        min=1,
        help="Adapters that run at once. The others wait in the host's memory for one of these "
        "slots, all of which have room for the largest rank and all targets.",
        rich_help_panel=LORA_PANEL,
    ),
]
MaxLoraRank = Annotated[
    int, typer.Option(min=1, help="Largest rank of an adapter.", rich_help_panel=LORA_PANEL)
]
MaxCpuLoras = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Adapters in the host's memory. More can't be loaded; of fine-tuned models the least "
        "recently used leaves, and is read again when it is needed.",
        show_default="any number, and 16 fine-tuned models",
        rich_help_panel=LORA_PANEL,
    ),
]
LoraModules = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=DIR",
        help="Adapter in PEFT's format to load at the start; may be given several times.",
        rich_help_panel=LORA_PANEL,
    ),
]
AllowLoraUpdating = Annotated[
    bool,
    typer.Option(
        "--allow-runtime-lora-updating",
        help="Let clients load adapters from below --lora-dir, and unload any: "
        "/v1/load_lora_adapter, /v1/unload_lora_adapter.",
        rich_help_panel=LORA_PANEL,
    ),
]
LoraDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Directory below which clients may load adapters from.",
        show_default="none",
        rich_help_panel=LORA_PANEL,
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        help="Never download: take only what is on this machine.",
        rich_help_panel=MODEL_PANEL,
    ),
]
GenerationConfig = Annotated[
    str,
    typer.Option(
        metavar="auto|vllm|DIR",
        help="Where the sampling of requests comes from that do not say: auto is the model's own "
        "generation_config.json, vllm is none, DIR has another.",
        rich_help_panel=MODEL_PANEL,
    ),
]
ChatTemplate = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|JINJA|NAME",
        help="Chat template in place of the model's own: a file, Jinja in one line, or the name of "
        "one of the model's.",
        show_default="the model's own",
        rich_help_panel=MODEL_PANEL,
    ),
]
MaxTokens = Annotated[
    int,
    typer.Option(min=1, help="Most tokens of an answer.", rich_help_panel=SAMPLING_PANEL),
]
Temperature = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="0 always takes the likeliest token; higher is more varied.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        help="Sample from the likeliest tokens whose probabilities sum to this, 0 to 1; 0 "
        "keeps the likeliest only.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        min=0,
        help="Sample from this many likeliest tokens; 0 is all.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]


def sampling_seed(default: str) -> Any:
    """The option --sampling-seed; `default` says in help where the seed comes from without it."""
    return typer.Option(
        "--sampling-seed",
        help="The same seed gives the same text.",
        show_default=default,
        rich_help_panel=SAMPLING_PANEL,
    )


def engine_args(model: str, compile_cache: Path | None, **options: Any) -> EngineArgs:
    """Gathers the options of a command; fields that it has no option for keep their defaults.

    Compiled programs are kept from here on, for the whole process.

    Raises:
      ValueError: a value is out of its range, or the chat template is not valid.
      OSError: its file can't be read.
    """
    from flaxen.build import EngineArgs, use_compile_cache
    from flaxen.text.given_template import read_template

    if (given := options.get("chat_template")) is not None:
        options["chat_template"] = read_template(given)
    use_compile_cache(compile_cache or default_cache())
    is_here = is_place(model) or os.path.exists(os.path.expanduser(model))
    return EngineArgs(
        model=model,
        backend=backend_name(),
        # Clients call the model what it was called here, unless that is a path on this machine.
        # What is here is named by its file, or by its definition.
        served_model_name=None if is_here else model,
        **options,
    )


def default_cache() -> Path:
    """The directory for compiled programs, by the XDG convention."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "flaxen"
