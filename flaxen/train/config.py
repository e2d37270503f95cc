"""What a training run is made of, as data, and how it is read from YAML.

Deliberately does not know: argv, the environment, how the parts are built.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from flaxen.data.config import DataConfig
from flaxen.models.adapters import LORA_TARGETS, LoraConfig
from flaxen.train.loss import REMATS, Remat
from flaxen.train.optimizer import OptimizerConfig, ScheduleConfig
from flaxen.weights.packing.pack import QUANTIZATIONS, Quantization

Method = Literal["full", "lora", "dpo"]
METHODS: tuple[Method, ...] = get_args(Method)
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The adapters that are trained: one, or several at once that differ in seed or learning rate.

    Raises:
      ValueError: a value out of its range, or as many seeds as learning rates are wanted, and not
        given.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = LORA_TARGETS
    use_rslora: bool = False
    dropout: float = 0.0
    seeds: tuple[int, ...] = ()  # one for each adapter; () is the run's seed for all
    learning_rates: tuple[float, ...] = ()  # one for each adapter; () is the optimizer's for all
    base_quantization: Quantization = "auto"  # of the frozen weights: auto, none, int8, int4

    def __post_init__(self) -> None:
        self.to_lora()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, got {self.dropout}")
        if self.seeds and self.learning_rates and len(self.seeds) != len(self.learning_rates):
            raise ValueError(
                f"{len(self.seeds)} seeds and {len(self.learning_rates)} learning_rates: give one "
                "of each for every adapter, or only one of the two lists"
            )
        if not all(rate > 0 for rate in self.learning_rates):
            raise ValueError(f"learning_rates must be above 0, got {self.learning_rates}")
        if self.base_quantization not in QUANTIZATIONS:
            raise ValueError(
                f"base_quantization {self.base_quantization!r} is not supported: use one of "
                f"{', '.join(QUANTIZATIONS)}"
            )

    @property
    def num_adapters(self) -> int:
        """How many are trained at once."""
        return max(len(self.seeds), len(self.learning_rates), 1)

    def to_lora(self) -> LoraConfig:
        """What each adapter is, without how it is trained."""
        return LoraConfig(
            rank=self.rank, alpha=self.alpha, targets=self.targets, use_rslora=self.use_rslora
        )


@dataclass(frozen=True, kw_only=True)
class DpoConfig:
    """The loss of the method dpo, which checks the values: flaxen.train.dpo."""

    beta: float = 0.1
    label_smoothing: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state is saved.

    Raises:
      ValueError: a number below 1.
    """

    every: int = 100  # steps
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run.

    Raises:
      ValueError: a value out of its range, or settings that do not go together.
    """

    model: str  # a named model, a directory, a .gguf file or a Hugging Face repository
    output_dir: Path  # checkpoints, metrics and the result
    data: DataConfig  # its batch_size is the rows of a whole step
    method: Method = "lora"  # dpo trains adapters, too
    from_scratch: bool = False  # random parameters; of the model only what it is made of
    dtype: str = "auto"  # of compute: float32, bfloat16; auto is float32 where XLA runs on a CPU
    remat: Remat = "none"  # layer saves memory at the price of computing the forward twice
    seed: int = 0
    # None: as many as there are batches in data.epochs; else the data are read as often as it takes
    num_steps: int | None = None
    num_microbatches: int = 1  # of a step's batch: more take less memory
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    lora: AdapterConfig = field(default_factory=AdapterConfig)
    dpo: DpoConfig = field(default_factory=DpoConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        for name, words in {"method": METHODS, "dtype": DTYPES, "remat": REMATS}.items():
            if getattr(self, name) not in words:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} is not supported: use one of "
                    f"{', '.join(words)}"
                )
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        if self.num_steps is None and self.data.epochs is None:
            raise ValueError("num_steps is missing, and with data.epochs empty the data never end")
        if self.num_microbatches < 1 or self.data.batch_size % self.num_microbatches:
            raise ValueError(
                f"num_microbatches must divide data.batch_size {self.data.batch_size}, got "
                f"{self.num_microbatches}"
            )
        if self.from_scratch and self.method != "full":
            raise ValueError(
                f"from_scratch trains all parameters, and the method {self.method} adapters of a "
                "model that has learnt already: use method full"
            )
        for name, methods in {"lora": ("lora", "dpo"), "dpo": ("dpo",)}.items():
            default = AdapterConfig() if name == "lora" else DpoConfig()
            if self.method not in methods and getattr(self, name) != default:
                raise ValueError(
                    f"the settings under {name} mean nothing to the method {self.method}: take "
                    "them out"
                )


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings of a file, unchecked.

    Raises:
      ValueError: it is no YAML, or no mapping of settings.
      OSError: it can't be read.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold settings as name: value, as in `model: smollm2-135m`")
    return found


def set_value(settings: dict[str, Any], name: str, value: Any) -> None:
    """Sets one of nested settings, in place.

    Args:
      settings: what read_yaml returns.
      name: with a dot between the levels, as optimizer.learning_rate.
      value: as YAML would have it.

    Raises:
      ValueError: a level on the way is a value.
    """
    *levels, last = name.split(".")
    for level in levels:
        inner = settings.setdefault(level, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{name} can't be set: {level} is the value {inner!r}")
        settings = inner
    settings[last] = value


def make_config(settings: Mapping[str, Any]) -> TrainConfig:
    """The run that settings describe. With num_steps, data.epochs is endless if it is not given.

    Raises:
      ValueError: an unknown setting, a value of another type, or one that is not allowed; the
        message names it.
    """
    settings = dict(settings)
    data = settings.get("data")
    if settings.get("num_steps") is not None and isinstance(data, dict):
        settings["data"] = {"epochs": None, **data}
    config: TrainConfig = _read(TrainConfig, settings, "")
    return config


def _read(kind: Any, found: Any, where: str) -> Any:
    """A value of a field's type. `where` is its dotted name."""
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, found, where)
    origin, arguments = typing.get_origin(kind), get_args(kind)
    if origin in (types.UnionType, typing.Union):  # only X | None
        return None if found is None else _read(arguments[0], found, where)
    if origin is tuple:
        items = found if isinstance(found, list | tuple) else [found]
        return tuple(_read(arguments[0], item, where) for item in items)
    if origin is Literal:
        kind = str
    if kind is Path and isinstance(found, str | Path):
        return Path(os.path.expanduser(found))
    if kind is float and isinstance(found, str):  # YAML takes 1e-4 for a text
        try:
            return float(found)
        except ValueError:
            pass
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if kind is float and is_number:
        return float(found)
    if type(found) is not kind:
        raise ValueError(f"{where} must be {_NAMES[kind]}, got {found!r}")
    return found


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false",
          Path: "a path"}  # fmt: skip


def _read_dataclass(kind: Any, found: Any, where: str) -> Any:
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} must hold settings as name: value, got {found!r}")
    prefix = f"{where}." if where else ""
    hints = typing.get_type_hints(kind)
    for name in found:
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, n=1)
            known = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(hints)}"
            raise ValueError(f"there is no setting {prefix}{name}: {known}")
    for each in dataclasses.fields(kind):
        has_default = (
            each.default is not dataclasses.MISSING
            or each.default_factory is not dataclasses.MISSING
        )
        if not has_default and each.name not in found:
            raise ValueError(f"the setting {prefix}{each.name} is missing")
    values = {name: _read(hints[name], value, f"{prefix}{name}") for name, value in found.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from None
