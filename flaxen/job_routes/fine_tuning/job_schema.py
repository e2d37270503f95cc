"""The body that creates a fine-tuning job: its fields, types, ranges, and refused values.

Deliberately does not know files, jobs or what training does with a value.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from flaxen.server.errors import invalid, unsupported
from flaxen.server.schema import Metadata, StrictBody, Whole, must_be, parse, shorten

_SUFFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_SEED = 2**31 - 1
_METHODS = ("supervised", "dpo")


def _within(kind: str, low: float, high: float | str, *, or_auto: bool = False) -> WrapValidator:
    """Validates a number in a range; every invalid value gets one message, which names the range.

    Args:
      kind: "a number" or "a whole number", for the message; the field's type decides.
      low: the lowest number.
      high: the highest number, or the name of its entry in the validation context.
      or_auto: whether "auto" is allowed, which leaves the value to the server, like null.
    """

    def check(value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        most = (info.context or {})[high] if isinstance(high, str) else high
        if or_auto and value == "auto":
            return None
        with contextlib.suppress(ValidationError):
            number = read(value)
            if number is None or low <= number <= most:
                return number
        auto = " or 'auto'" if or_auto else ""
        raise PydanticCustomError("invalid_value", f"{kind} from {low:g} to {most:g}{auto}")

    return WrapValidator(check)


def _without_nulls(value: Any) -> Any:
    """Removes null fields of an object: null means not given, at any depth."""
    if not isinstance(value, dict):
        return value
    return {name: field for name, field in value.items() if field is not None}


_Given = BeforeValidator(_without_nulls)
_Number = int | float  # both types, so that 3 is not shown as 3.0

_Epochs = Annotated[Whole | None, _within("a whole number", 1, 50, or_auto=True)]
_BatchSize = Annotated[Whole | None, _within("a whole number", 1, 256, or_auto=True)]
_Multiplier = Annotated[_Number | None, _within("a number", 1e-6, 1e6, or_auto=True)]


class SupervisedNumbers(StrictBody):
    """The hyperparameters of the method supervised; None is "auto"."""

    n_epochs: _Epochs = None
    batch_size: _BatchSize = None
    learning_rate_multiplier: _Multiplier = None


class DpoNumbers(StrictBody):
    """The hyperparameters of the method dpo; None is "auto"."""

    n_epochs: _Epochs = None
    batch_size: _BatchSize = None
    learning_rate_multiplier: _Multiplier = None
    beta: Annotated[_Number | None, _within("a number", 1e-4, 2, or_auto=True)] = None


class Supervised(StrictBody):
    """OpenAI's `method.supervised`."""

    hyperparameters: Annotated[SupervisedNumbers | None, _Given] = None


class Dpo(StrictBody):
    """OpenAI's `method.dpo`."""

    hyperparameters: Annotated[DpoNumbers | None, _Given] = None


class MethodBody(StrictBody):
    """OpenAI's `method`: its type, and an object whose name is the type."""

    type: Literal["supervised", "dpo"]
    supervised: Annotated[Supervised | None, _Given] = None
    dpo: Annotated[Dpo | None, _Given] = None

    @model_validator(mode="before")
    @classmethod
    def _belongs_together(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        kind = fields.get("type")
        if kind not in _METHODS:
            raise invalid(
                f"method.type must be 'supervised' or 'dpo', got {shorten(kind)}: this server "
                "trains by no other",
                "method.type",
                "unsupported_method",
            )
        for name in fields:
            if name not in ("type", kind):
                raise invalid(
                    f"method.{name[:80]} does not belong to a method of type {kind!r}",
                    f"method.{name[:80]}",
                )
        return fields


class LoraSize(StrictBody):
    """The size of the adapter, a field of our own."""

    rank: Annotated[Whole | None, _within("a whole number", 1, "max_lora_rank")] = None
    alpha: Annotated[_Number | None, _within("a number", 1e-3, 1e4)] = None


class JobBody(StrictBody):
    """The fields of POST /v1/fine_tuning/jobs: OpenAI's, and `lora`."""

    model: str
    training_file: str
    validation_file: str | None = None
    method: Annotated[MethodBody | None, _Given] = None
    # OpenAI's older place for hyperparameters
    hyperparameters: Annotated[SupervisedNumbers | None, _Given] = None
    suffix: str | None = None
    seed: Whole | None = None
    metadata: Metadata | None = None
    integrations: list[Any] | None = None
    lora: Annotated[LoraSize | None, _Given] = None

    @field_validator("suffix")
    @classmethod
    def _suffix(cls, suffix: str | None) -> str | None:
        if suffix is not None and not _SUFFIX.fullmatch(suffix):
            raise invalid(
                "suffix must be 1 to 64 letters, digits, '.', '_' or '-', as it becomes part of "
                f"the model's name; got {shorten(suffix)}",
                "suffix",
            )
        return suffix

    @field_validator("seed")
    @classmethod
    def _seed(cls, seed: int | None) -> int | None:
        if seed is not None and not 0 <= seed <= MAX_SEED:
            raise must_be("seed", f"from 0 to {MAX_SEED}", seed)
        return seed

    @field_validator("integrations")
    @classmethod
    def _integrations(cls, integrations: list[Any] | None) -> list[Any] | None:
        if integrations:
            raise unsupported(
                "integrations are not supported: this server sends metrics nowhere but into the "
                "job's events",
                "integrations",
            )
        return integrations


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A checked body."""

    model: str
    training_file: str
    validation_file: str | None
    method: str  # "supervised" or "dpo"
    hyperparameters: dict[str, float | str]  # each "auto" or a number
    suffix: str
    seed: int | None
    metadata: dict[str, str] | None
    lora: dict[str, float]  # rank and alpha


def read_job(fields: dict[str, Any], *, max_lora_rank: int) -> JobRequest:
    """Checks a body.

    Args:
      fields: the JSON object.
      max_lora_rank: the limit of `lora.rank`; the default is 16, or this limit if it is lower.

    Raises:
      ApiError: 400 with the wrong field as its param.
    """
    body = parse(JobBody, fields, context={"max_lora_rank": max_lora_rank})
    lora = body.lora or LoraSize()
    rank = lora.rank or min(16, max_lora_rank)
    method, numbers = _method(body)
    return JobRequest(
        model=body.model,
        training_file=body.training_file,
        validation_file=body.validation_file,
        method=method,
        hyperparameters={
            name: "auto" if value is None else value for name, value in numbers.model_dump().items()
        },
        suffix=body.suffix or "",
        seed=body.seed,
        metadata=body.metadata,
        lora={"rank": rank, "alpha": lora.alpha or 2.0 * rank},
    )


def _method(body: JobBody) -> tuple[str, SupervisedNumbers | DpoNumbers]:
    """The method's name and its hyperparameters."""
    if body.method is None:
        return "supervised", body.hyperparameters or SupervisedNumbers()
    if body.hyperparameters is not None:
        raise invalid(
            "hyperparameters beside method: put them into the method, where OpenAI has them now",
            "hyperparameters",
        )
    if body.method.type == "dpo":
        return "dpo", (body.method.dpo or Dpo()).hyperparameters or DpoNumbers()
    supervised = body.method.supervised or Supervised()
    return "supervised", supervised.hyperparameters or SupervisedNumbers()
