"""Selects the modules of an adapter's configuration by PEFT's rules, with their rank and alpha.

Deliberately does not know tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from flaxen.hub.weight_files import ADAPTER_WEIGHTS
from flaxen.weights.adapters.modules import Modules, last_names
from flaxen.weights.adapters.patterns import match_patterns

_LAYER = re.compile(r".*\.[^.]*\.(\d+)\.")  # PEFT's default without layers_pattern


class Strength(NamedTuple):
    """The rank and alpha of one module."""

    rank: int
    alpha: float

    def scale(self, use_rslora: bool) -> float:
        """The factor on a @ b."""
        return self.alpha / (math.sqrt(self.rank) if use_rslora else self.rank)


def select_modules(
    fields: Mapping[str, Any], modules: Modules, held: Collection[str]
) -> frozenset[str]:
    """The modules that the configuration names; the file must have exactly these.

    Args:
      fields: the fields of adapter_config.json.
      modules: all modules of the model that can be adapted.
      held: the modules of which the file has a tensor.

    Raises:
      ValueError: a field is not supported, or names other modules than those in the file.
    """
    known = [module for layer in modules for module in layer.values()]
    named = fields.get("target_modules")
    numbers = _layer_numbers(fields, known)
    if isinstance(named, str) and named != "all-linear":
        if numbers is not None:
            raise ValueError(
                "layers_to_transform can't be used beside a target_modules that is a pattern: put "
                "the layers into the pattern"
            )
        found = match_patterns("target_modules", "whole", [named], known)
        meant = {module for module, matches in zip(known, found, strict=True) if matches}
        meant -= _excluded(fields, known)
        if not meant:
            raise ValueError(
                f"target_modules = {named!r} matches none of the modules that can be adapted here: "
                f"only {', '.join(last_names(modules))} can"
            )
        _check_held(f"target_modules = {named!r}", meant, held)
    else:
        left = set(known) - _excluded(fields, known)
        if numbers is not None:
            wanted = _wanted_layers(fields["layers_to_transform"])
            # As in PEFT, a full name selects the module whatever its layer.
            whole = named if isinstance(named, list) else []
            left = {module for module in left if numbers.get(module) in wanted or module in whole}
        if named == "all-linear":
            targets = {target for layer in modules for target in layer if layer[target] in held}
            meant = {layer[target] for layer in modules for target in targets} & left
        else:
            meant = _listed(named, modules, left, held)
    lacking = set(held) - meant
    if lacking:
        raise ValueError(
            f"{ADAPTER_WEIGHTS} holds tensors of {min(lacking)}, which target_modules lacks"
        )
    return frozenset(meant)


def module_strengths(fields: Mapping[str, Any], modules: Sequence[str]) -> dict[str, Strength]:
    """The rank and alpha of each module, from the configuration or its patterns.

    Raises:
      ValueError: a value is not a valid number, or a pattern is invalid.
    """
    plain = Strength(_rank("r", fields.get("r")), _alpha("lora_alpha", fields.get("lora_alpha")))
    ranks = _by_pattern(fields, "rank_pattern", modules)
    alphas = _by_pattern(fields, "alpha_pattern", modules)
    return {
        module: Strength(
            _rank("rank_pattern", ranks[module]) if module in ranks else plain.rank,
            _alpha("alpha_pattern", alphas[module]) if module in alphas else plain.alpha,
        )
        for module in modules
    }


def _listed(named: Any, modules: Modules, left: Collection[str], held: Collection[str]) -> set[str]:
    """The modules whose paths end with one of the listed names."""
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise ValueError(
            f"target_modules must be a list of names, a pattern or all-linear, got {named!r}"
        )
    known = [module for layer in modules for module in layer.values()]
    if len(named) > len(known):
        raise ValueError(
            f"target_modules has {len(named)} names, and the model {len(known)} linear weights"
        )
    found: set[str] = set()
    for each in named:
        all_meant = [module for module in known if f".{module}".endswith(f".{each}")]
        if not all_meant:
            raise ValueError(
                f"target_modules has {each!r}, which can't be adapted here: only "
                f"{', '.join(last_names(modules))} can"
            )
        meant = {module for module in all_meant if module in left}
        _check_held(f"target_modules has {each!r}", meant, held)
        found |= meant
    return found


def _check_held(what: str, meant: Collection[str], held: Collection[str]) -> None:
    empty = [module for module in sorted(meant) if module not in held]
    if empty and len(empty) == len(meant):
        raise ValueError(f"{what}, of which {ADAPTER_WEIGHTS} holds no tensor")
    if empty:
        raise ValueError(f"{what}, and {ADAPTER_WEIGHTS} holds no tensor of {empty[0]}")


def _excluded(fields: Mapping[str, Any], known: Sequence[str]) -> set[str]:
    named = fields.get("exclude_modules")
    if not named:
        return set()
    if isinstance(named, str):
        found = match_patterns("exclude_modules", "whole", [named], known)
        return {module for module, matches in zip(known, found, strict=True) if matches}
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise ValueError(f"exclude_modules must be a list of names or a pattern, got {named!r}")
    ends = tuple(f".{each}" for each in named)
    return {module for module in known if f".{module}".endswith(ends)}


def _layer_numbers(fields: Mapping[str, Any], known: Sequence[str]) -> dict[str, int | None] | None:
    """The layer number of each module; None if all layers are adapted."""
    layers, patterns = fields.get("layers_to_transform"), fields.get("layers_pattern")
    if layers is None or layers == []:
        if patterns:
            raise ValueError(
                f"layers_pattern = {patterns!r} means nothing without layers_to_transform: remove "
                "it, or say which layers"
            )
        return None
    if not patterns:
        matches = [_LAYER.match(module) for module in known]
        return {m: int(x[1]) if x else None for m, x in zip(known, matches, strict=True)}
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
        raise ValueError(f"layers_pattern must be a name or a list of names, got {patterns!r}")
    numbers = match_patterns("layers_pattern", "layers", patterns, known)
    return dict(zip(known, numbers, strict=True))


def _wanted_layers(layers: Any) -> set[int]:
    listed = layers if isinstance(layers, list) else [layers]
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in listed):
        raise ValueError(f"layers_to_transform must be a layer's number or a list, got {layers!r}")
    return set(listed)


def _by_pattern(fields: Mapping[str, Any], field: str, modules: Sequence[str]) -> dict[str, Any]:
    """Each module's value in a field that maps patterns to values, if a pattern matches."""
    values = fields.get(field)
    if not values:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{field} must be an object of patterns, got {values!r}")
    found = match_patterns(field, "ends", list(values), modules)
    return {m: values[key] for m, key in zip(modules, found, strict=True) if key is not None}


def _rank(field: str, rank: Any) -> int:
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise ValueError(f"{field} must be a whole number, got {rank!r}")
    if rank < 1:
        raise ValueError(f"a LoRA rank must be at least 1, got {rank} in {field}")
    return rank


def _alpha(field: str, alpha: Any) -> float:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f"{field} must be a number, got {alpha!r}")
    if not alpha > 0:
        raise ValueError(f"LoRA's alpha must be above 0, got {alpha} in {field}")
    return float(alpha)
