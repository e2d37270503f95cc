"""The configuration of an encoder, as data. Deliberately does not know any model's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flaxen.models.head import HeadConfig
from flaxen.models.param_spec import check_sizes

Activation = Literal["gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """An encoder in BERT's form: bidirectional attention, learned positions, layer norms after the
    residuals, and an MLP without a gate.

    Raises:
      ValueError: a size is not above 0, or model_dim is not a multiple of num_heads.
    """

    vocab_size: int  # without token types
    model_dim: int  # D
    mlp_dim: int  # F
    num_layers: int  # L
    num_heads: int  # N
    norm_eps: float
    activation: Activation = "gelu"
    max_position: int  # the most tokens of a sequence
    # Rows of the table of positions before that of the first token: RoBERTa's padding has its own.
    position_offset: int = 0
    num_token_types: int = 0  # rows of the table of token types; 0 for no such table
    head: HeadConfig | None = None

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "model_dim", "mlp_dim", "num_layers", "num_heads", "max_position")
        check_sizes(self, *sizes)
        if self.model_dim % self.num_heads:
            raise ValueError(
                f"model_dim ({self.model_dim}) must be a multiple of num_heads ({self.num_heads})"
            )

    @property
    def head_dim(self) -> int:
        """The size of one head."""
        return self.model_dim // self.num_heads

    @property
    def num_input_ids(self) -> int:
        """The ids that the forward takes: each token of the vocabulary in each token type."""
        return self.vocab_size * max(self.num_token_types, 1)
