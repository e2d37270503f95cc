"""The body that makes a fine-tuning job: its fields, their types and ranges, what is refused.

Deliberately does not know files, jobs or what training does with a value.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from flaxen.server.errors import ApiError, invalid
from flaxen.server.schema import Whole, parse, shorten, whole

_STRICT = ConfigDict(strict=True, extra="forbid", protected_namespaces=())
_SUFFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_SEED = 2**31 - 1

# name -> (whether whole, lowest, highest); "auto" or nothing leaves each to the server
_COMMON = {
    "n_epochs": (True, 1, 50),
    "batch_size": (True, 1, 256),
    "learning_rate_multiplier": (False, 1e-6, 1e6),
}
_RANGES = {"supervised": _COMMON, "dpo": {**_COMMON, "beta": (False, 1e-4, 2)}}


class JobBody(BaseModel):
    """The fields of POST /v1/fine_tuning/jobs: OpenAI's, and `lora`, our own."""

    model_config = _STRICT

    model: str
    training_file: str
    validation_file: str | None = None
    method: dict[str, Any] | None = None
    hyperparameters: dict[str, Any] | None = None  # OpenAI's older place for them
    suffix: str | None = None
    seed: Whole | None = None
    metadata: dict[str, Any] | None = None
    integrations: list[Any] | None = None
    lora: dict[str, Any] | None = None


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
      max_lora_rank: what `lora.rank` may be at most, and is where it is not given, up to 16.

    Raises:
      ApiError: 400 with the wrong field as its param.
    """
    body = parse(JobBody, fields)
    if body.integrations:
        raise invalid(
            "integrations are not supported: this server sends metrics nowhere but into the job's "
            "events",
            "integrations",
            "unsupported_parameter",
        )
    if body.suffix is not None and not _SUFFIX.fullmatch(body.suffix):
        raise invalid(
            "suffix must be 1 to 64 letters, digits, '.', '_' or '-', as it becomes part of the "
            f"model's name; got {shorten(body.suffix)}",
            "suffix",
        )
    if body.seed is not None and not 0 <= body.seed <= MAX_SEED:
        raise invalid(f"seed must be from 0 to {MAX_SEED}, got {shorten(body.seed)}", "seed")
    method, hyperparameters = _method(body)
    return JobRequest(
        model=body.model,
        training_file=body.training_file,
        validation_file=body.validation_file,
        method=method,
        hyperparameters=hyperparameters,
        suffix=body.suffix or "",
        seed=body.seed,
        metadata=_metadata(body.metadata),
        lora=_lora(body.lora or {}, max_lora_rank),
    )


def _method(body: JobBody) -> tuple[str, dict[str, float | str]]:
    if body.method is None:
        return "supervised", _numbers(body.hyperparameters or {}, "supervised", "hyperparameters")
    if body.hyperparameters is not None:
        raise invalid(
            "hyperparameters beside method: put them into the method, where OpenAI has them now",
            "hyperparameters",
        )
    kind = body.method.get("type")
    if not isinstance(kind, str) or kind not in _RANGES:
        raise invalid(
            f"method.type must be 'supervised' or 'dpo', got {shorten(kind)}: this server trains "
            "by no other",
            "method.type",
            "unsupported_method",
        )
    for name, value in body.method.items():
        if name not in ("type", kind) and value is not None:
            raise invalid(
                f"method.{name[:80]} does not belong to a method of type {kind!r}",
                f"method.{name[:80]}",
            )
    own = _object(body.method.get(kind), f"method.{kind}")
    for name, value in own.items():
        if name != "hyperparameters" and value is not None:
            raise _unknown(f"method.{kind}.{name[:80]}")
    where = f"method.{kind}.hyperparameters"
    return kind, _numbers(_object(own.get("hyperparameters"), where), kind, where)


def _numbers(given: dict[str, Any], method: str, where: str) -> dict[str, float | str]:
    ranges = _RANGES[method]
    for name, value in given.items():
        if name not in ranges and value is not None:
            raise _unknown(f"{where}.{name[:80]}")
    numbers: dict[str, float | str] = {}
    for name, (is_whole, low, high) in ranges.items():
        value = given.get(name)
        if value is None or value == "auto":
            numbers[name] = "auto"
        else:
            numbers[name] = _number(value, f"{where}.{name}", is_whole, low, high, " or 'auto'")
    return numbers


def _lora(given: dict[str, Any], max_rank: int) -> dict[str, float]:
    for name, value in given.items():
        if name not in ("rank", "alpha") and value is not None:
            raise _unknown(f"lora.{name[:80]}")
    rank = given.get("rank")
    rank = min(16, max_rank) if rank is None else _number(rank, "lora.rank", True, 1, max_rank)
    alpha = given.get("alpha")
    alpha = 2.0 * rank if alpha is None else _number(alpha, "lora.alpha", False, 1e-3, 1e4)
    return {"rank": rank, "alpha": alpha}


def _number(
    value: Any, param: str, is_whole: bool, low: float, high: float, more: str = ""
) -> float:
    value = whole(value) if is_whole else value
    kinds = (int,) if is_whole else (int, float)
    if (
        not isinstance(value, kinds)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        kind = "a whole number" if is_whole else "a number"
        raise invalid(
            f"{param} must be {kind} from {low:g} to {high:g}{more}, got {shorten(value)}", param
        )
    return value


def _object(value: Any, param: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise invalid(f"{param} must be an object, got {shorten(value)}", param, "invalid_type")
    return value or {}


def _metadata(given: dict[str, Any] | None) -> dict[str, str] | None:
    for name, value in (given or {}).items():
        if not isinstance(value, str) or len(name) > 64 or len(value) > 512:
            raise invalid(
                "metadata must map keys of at most 64 characters to strings of at most 512; "
                f"{shorten(name)} does not",
                "metadata",
            )
    if given is not None and len(given) > 16:
        raise invalid(f"metadata must have at most 16 keys, got {len(given)}", "metadata")
    return given


def _unknown(param: str) -> ApiError:
    return invalid(
        f"unknown field {param!r}: this server would have to ignore it, and refuses instead",
        param,
        "unknown_parameter",
    )
