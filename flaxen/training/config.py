"""What a training run is made of, as data.

Deliberately does not know: YAML (settings.py), argv, how the parts are built.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from flaxen.data.config import DataConfig, OneOrMore, UserPath
from flaxen.models.adapters import LORA_TARGETS, LoraConfig
from flaxen.tensors.packing.pack import QUANTIZATIONS, Quantization
from flaxen.training.loss import REMATS, Remat
from flaxen.training.optimizer import OptimizerConfig, ScheduleConfig

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
    targets: OneOrMore[str] = LORA_TARGETS
    use_rslora: bool = False
    dropout: float = 0.0
    seeds: OneOrMore[int] = ()  # one for each adapter; () is the run's seed for all
    learning_rates: OneOrMore[float] = ()  # one for each adapter; () is the optimizer's for all
    base_quantization: Quantization = "auto"  # of the frozen weights, as the option has it

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
    """The loss of the method dpo, which checks the values: flaxen.training.dpo."""

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
    data: DataConfig  # its batch_size is the rows of a whole step
    # for checkpoints, metrics and the result; None, from Python alone, writes nothing
    output_dir: UserPath | None = None
    method: Method = "lora"  # dpo trains adapters, too
    # Random parameters; of a definition, those that its code makes, as in any case.
    from_scratch: bool = False
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
        size = self.data.batch_size or self.num_microbatches  # a chosen one is a multiple
        if self.num_microbatches < 1 or size % self.num_microbatches:
            raise ValueError(
                f"num_microbatches must divide data.batch_size {self.data.batch_size}, got "
                f"{self.num_microbatches}"
            )
        if self.from_scratch and self.method != "full":
            raise ValueError(
                f"from_scratch trains all parameters, and the method {self.method} adapters of a "
                "model that has learnt already: use method full"
            )
        router = self.optimizer.router_balance_loss or self.optimizer.router_z_loss
        if self.method == "dpo" and router:
            raise ValueError(
                "router_balance_loss and router_z_loss are added to the loss of next tokens, and "
                "the method dpo has another: take them out"
            )
        for name, methods in {"lora": ("lora", "dpo"), "dpo": ("dpo",)}.items():
            default = AdapterConfig() if name == "lora" else DpoConfig()
            if self.method not in methods and getattr(self, name) != default:
                raise ValueError(
                    f"the settings under {name} mean nothing to the method {self.method}: take "
                    "them out"
                )
