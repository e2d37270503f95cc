"""The configuration of a decoder, as data. Deliberately does not know any model's name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

RopeKind = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding. The kinds and fields are those of Hugging Face's `rope_scaling`.

    Raises:
      ValueError: the kind is unknown, or a factor is not above 0.
    """

    kind: RopeKind = "default"
    theta: float = 10_000.0
    factor: float = 1.0  # linear, llama3, yarn
    original_max_position: int = 0  # tokens; llama3, yarn
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None derives it from factor
    mscale: float = 0.0  # yarn; together with mscale_all_dim it gives attention_factor
    mscale_all_dim: float = 0.0  # yarn
    truncate: bool = True  # yarn; round the correction range to whole dimensions

    def __post_init__(self) -> None:
        if self.kind not in ("default", "linear", "llama3", "yarn"):
            raise ValueError(
                f"rope kind {self.kind!r} is not supported: use default, linear, llama3 or yarn"
            )
        if self.theta <= 0 or self.factor <= 0:
            raise ValueError(
                f"rope theta and factor must be above 0, got {self.theta} and {self.factor}"
            )
        if self.kind in ("llama3", "yarn") and self.original_max_position <= 0:
            raise ValueError(
                f"rope kind {self.kind} needs original_max_position_embeddings above 0, "
                f"got {self.original_max_position}"
            )


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder-only transformer with RMS norms, rotary positions and a SiLU-gated MLP.

    Raises:
      ValueError: a size is not above 0, or num_heads is not a multiple of num_kv_heads.
    """

    vocab_size: int
    model_dim: int  # D
    mlp_dim: int  # F
    num_layers: int  # L
    num_heads: int  # N
    num_kv_heads: int  # K
    head_dim: int  # H
    norm_eps: float = 1e-5
    rope: RopeConfig = field(default_factory=RopeConfig)
    # Sliding window of each layer, in tokens; () for no windows.
    windows: tuple[int | None, ...] = ()
    biases: tuple[str, ...] = ()  # the linear layers with a bias, e.g. ("wq", "wk", "wv")
    qk_norm: bool = False  # RMS norm of each query and key head, before rope
    tied_embeddings: bool = False
    max_position: int = 2048  # tokens

    def __post_init__(self) -> None:
        for name in ("vocab_size", "model_dim", "mlp_dim", "num_layers", "num_heads",
                     "num_kv_heads", "head_dim", "max_position"):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads "
                f"({self.num_kv_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")
        if not self.windows:
            object.__setattr__(self, "windows", (None,) * self.num_layers)
        if len(self.windows) != self.num_layers:
            raise ValueError(
                f"windows has {len(self.windows)} entries for {self.num_layers} layers"
            )
        for window in self.windows:
            if window is not None and window <= 0:
                raise ValueError(f"a sliding window must be above 0 tokens, got {window}")
