"""Finds the tensors of each parameter of a decoder, by comparing the files with the rules.

Everything is checked before any weight is read. Deliberately does not know formats or families.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from flaxen.families.rules import Rules
from flaxen.models.param_spec import ParamSpec
from flaxen.tensors.tensor import StoredTensor
from flaxen.tensors.value_views import in_rows
from flaxen.tensors.views import entry_of, transposed
from flaxen.weights.rules import Place, SizesOf, file_shape, place_rules, read_tensors


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source of one parameter."""

    stored: StoredTensor  # its rows, perhaps from several tensors or from a part of one
    spec: ParamSpec
    transposed: bool  # stored is [..., out, in], the decoder takes [..., in, out]

    @property
    def matrix(self) -> StoredTensor:
        """The tensor of a parameter that can be packed, as [out, in]."""
        assert self.spec.matrix is not None
        outputs_first = self.spec.matrix.outputs == (0,)
        rows_are_outputs = outputs_first != self.transposed
        return self.stored if rows_are_outputs else transposed(self.stored)

    @property
    def experts(self) -> list[StoredTensor]:
        """The weights of a stack, each as [out, in]."""
        entries = [entry_of(self.stored, index) for index in range(self.stored.shape[0])]
        return entries if self.transposed else [transposed(each) for each in entries]


class Sources(NamedTuple):
    """The sources of a model's parameters."""

    params: list[Source]  # one for each parameter, in the order of the tree's leaves
    tensors: Mapping[str, StoredTensor]  # the used tensors of the files, by name


def find_sources(
    specs: Any,
    rules: Rules,
    tensors: Mapping[str, StoredTensor],
    sizes: SizesOf,
    *,
    ignored: Callable[[str], bool],
) -> Sources:
    """Finds each parameter in the files.

    Args:
      specs: the decoder's tree of ParamSpec.
      rules: a family's rules for the files' format.
      tensors: the files' tensors.
      sizes: DecoderConfig.sizes.
      ignored: decides whether a tensor without a parameter is harmless.

    Raises:
      ValueError: a tensor is missing, has the wrong shape, or belongs to no parameter.
    """
    outside: dict[str, Any] = {}
    layers: list[dict[str, Source]] = [{} for _ in specs["layers"]]
    used: dict[str, StoredTensor] = {}
    for place in place_rules(rules, specs, sizes):
        found = _needed(place, tensors)
        used |= found
        rows = read_tensors(place.rule.steps, list(found.values()), place.sizes)
        own = outside if place.layer is None else layers[place.layer]
        for param, spec, stored in zip(place.rule.params, place.specs, rows, strict=True):
            assert stored.shape == file_shape(place.rule, spec), (param, stored.shape)
            own[param] = Source(stored=stored, spec=spec, transposed=place.rule.transposed)
    unknown = sorted(name for name in tensors.keys() - used.keys() if not ignored(name))
    if unknown:
        raise ValueError(
            f"tensor {unknown[0]} has no place in the model"
            f"{f', nor have {len(unknown) - 1} more' if len(unknown) > 1 else ''}: leaving it out "
            "would change the result. Is the configuration the right one?"
        )
    return Sources(jax.tree.leaves({**outside, "layers": tuple(layers)}), used)


def _needed(place: Place, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors that a rule needs.

    Raises:
      ValueError: a tensor is missing or has another shape.
    """
    for name, shape in place.shapes.items():
        if name not in tensors:
            raise ValueError(f"tensor {name} is missing: the configuration needs it")
        if tensors[name].shape != shape and not _is_row(tensors[name], shape):
            raise ValueError(
                f"tensor {name} has shape {list(tensors[name].shape)}, but the "
                f"configuration needs {list(shape)}: the two do not belong together"
            )
    return {name: _as_row(tensors[name], shape) for name, shape in place.shapes.items()}


def _is_row(tensor: StoredTensor, shape: tuple[int, ...]) -> bool:
    """Whether a vector has the numbers of the one row that is needed."""
    return len(tensor.shape) == 1 and (1, *tensor.shape) == shape


def _as_row(tensor: StoredTensor, shape: tuple[int, ...]) -> StoredTensor:
    """A vector as the matrix of one row that is needed: ggml does not tell them apart."""
    return tensor if tensor.shape == shape else in_rows(tensor, 1)
