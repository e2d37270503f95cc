"""What a caller asks of pooled vectors, with vLLM's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flaxen.protocol import FieldError, ModelInfo, PoolingInfo
from flaxen.protocol.pooling import PoolingTask
from flaxen.text.tokenizer import Side

MODEL_LENGTH = -1  # of truncate_prompt_tokens


@dataclass(frozen=True, kw_only=True)
class PoolingParams:
    """Options of embeddings, scores and classification; None is what the model's files say.

    Raises:
      FieldError: a value is out of range.
    """

    dimensions: int | None = None  # cuts an embedding to its first numbers (Matryoshka)
    normalize: bool | None = None  # whether embeddings get the length 1
    # Whether logits become probabilities; of embeddings the same as normalize, as in vLLM.
    use_activation: bool | None = None
    # Cuts inputs to so many tokens; -1: to the model's length. None: refuses longer ones.
    truncate_prompt_tokens: int | None = None
    truncation_side: Side = "right"
    prompt_name: str | None = None  # which of the model's prompts to put before each text

    def __post_init__(self) -> None:
        if self.dimensions is not None and self.dimensions < 1:
            raise FieldError("dimensions", f"dimensions must be at least 1, got {self.dimensions}")
        length = self.truncate_prompt_tokens
        if length is not None and length < 1 and length != MODEL_LENGTH:
            raise FieldError(
                "truncate_prompt_tokens",
                f"truncate_prompt_tokens must be at least 1, or -1 for the model's length, got "
                f"{length}",
            )

    def check(self, info: ModelInfo, task: PoolingTask) -> PoolingInfo:
        """Checks the options against a model, and that it does a task; returns how it pools.

        Raises:
          FieldError: it can't.
        """
        pooling = pooling_of(info, task)
        length = self.truncate_prompt_tokens
        if length is not None and length > info.max_model_len:
            raise FieldError(
                "truncate_prompt_tokens",
                f"truncate_prompt_tokens is {length}, and the model takes {info.max_model_len} "
                "tokens. Please request a smaller truncation size. -1 is the model's length",
            )
        if self.prompt_name is not None and self.prompt_name not in pooling.prompts:
            raise FieldError(
                "prompt_name",
                f"the model has no prompt {self.prompt_name!r}: it has "
                f"{', '.join(pooling.prompts) or 'none'}",
            )
        if task == "classify" and (self.dimensions, self.normalize) != (None, None):
            raise FieldError(
                "dimensions",
                "dimensions and normalize are of embeddings, and this model gives labels' scores: "
                "leave them out",
            )
        both = {self.normalize, self.use_activation} - {None}
        if task == "embed" and len(both) > 1:
            raise FieldError(
                "use_activation",
                "use_activation and normalize mean the same of embeddings, and differ: give one",
            )
        allowed = pooling.dimensions
        if self.dimensions is not None and allowed and self.dimensions not in allowed:
            raise FieldError(
                "dimensions",
                f"dimensions must be one of {', '.join(map(str, allowed))}, for which the model "
                f"was trained, got {self.dimensions}",
            )
        return pooling

    def wants_unit(self, pooling: PoolingInfo) -> bool:
        """Whether embeddings get the length 1."""
        asked = self.use_activation if self.normalize is None else self.normalize
        return pooling.normalize if asked is None else asked

    def cut(self, ids: Sequence[int], info: ModelInfo) -> list[int]:
        """The ids without those that are too many."""
        most = self.max_tokens(info)
        if most is None or len(ids) <= most:
            return list(ids)
        return list(ids[:most] if self.truncation_side == "right" else ids[-most:])

    def max_tokens(self, info: ModelInfo) -> int | None:
        """The tokens to which an input is cut; None if it is not."""
        if self.truncate_prompt_tokens == MODEL_LENGTH:
            return info.max_model_len
        return self.truncate_prompt_tokens


def pooling_of(info: ModelInfo, task: PoolingTask | None = None) -> PoolingInfo:
    """How a model pools.

    Args:
      info: the model's.
      task: what it is asked for; None is whatever it does.

    Raises:
      FieldError: it generates text, or does the other task.
    """
    if info.pooling is None:
        raise FieldError(
            "model",
            f"{info.name} is served for text, and gives no embeddings or scores: serve it with "
            "--runner pooling (in Python runner='pooling') for embeddings, or take a model of "
            "embeddings or classification",
        )
    if task is not None and info.pooling.task != task:
        has = {"embed": "gives embeddings", "classify": "has a classification head"}
        use = {
            "embed": "/v1/embeddings, /v1/score or /v1/rerank (LLM.embed, LLM.score)",
            "classify": "/classify, /v1/score or /v1/rerank (LLM.classify, LLM.score)",
        }
        raise FieldError(
            "model",
            f"{info.name} {has[info.pooling.task]}: use {use[info.pooling.task]}",
        )
    return info.pooling
