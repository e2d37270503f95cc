"""LoRA adapters of a model: their trees, and how a forward applies them.

Adapters come in stacks: those that train at once, or the slots of served adapters.
Deliberately does not know: files, names, optimizers, which row uses which adapter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from flaxen.kernels.linear.lora import LoraWeight
from flaxen.kernels.linear.weight import LinearWeight
from flaxen.models.model import Model, Params
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import is_spec
from flaxen.models.staging import stack_layers

_MOST_TARGETS = 64  # of one layer, so that each has a number of its own

# {"layers": ({"wq": {"a": [n, I, R], "b": [n, R, O]}, ...}, ...)}, one dict a layer; float32
Adapters = Any

# The matrices of a plain decoder. As the targets of a run they stand for all
# that its model has.
LORA_TARGETS = ("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """An adapter's rank, alpha and targets.

    Raises:
      ValueError: rank or alpha is not above 0, or no layer has a target.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = LORA_TARGETS  # for a definition: see lora_targets
    use_rslora: bool = False  # https://arxiv.org/abs/2312.03732

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"a LoRA rank must be at least 1, got {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"LoRA's alpha must be above 0, got {self.alpha}")
        unknown = [name for name in self.targets if not (name.isidentifier() or _is_path(name))]
        if unknown or not self.targets:
            raise ValueError(
                f"LoRA targets must be names of matrices such as {', '.join(LORA_TARGETS)}, or "
                "paths of a definition's, as lora_targets(model) lists them, got "
                f"{self.targets}"
            )

    @property
    def scale(self) -> float:
        """The factor on a @ b."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    @property
    def is_of_definition(self) -> bool:
        """Whether the targets are paths in a definition's parameters instead of our decoder's
        names.
        """
        return any(map(_is_path, self.targets))


def _is_path(target: str) -> bool:
    """Whether a target is a path of `jax.tree_util.keystr`, which never equals a decoder's name."""
    return target[:1] in ("[", ".")


def lora_targets(model: Model, *parts: str) -> tuple[str, ...]:
    """The names of the matrices that can be adapted, for `targets` of LoRA.

        targets = flaxen.lora_targets(model, "query", "value")
        result = flaxen.train(model, params, data, tokenizer=..., lora={"targets": targets})

    Args:
      model: the decoder, or a definition, whose targets are the paths of its matrices in the
          spelling of jax.tree_util.keystr. The embedding and the unembedding are not targets;
          experts are, and are not listed: w_experts_gate, w_experts_up and w_experts_down. If
          layers are stacked in one array, each layer is a target, with its number at the end.
      parts: selects names that contain one of these, such as "q_proj"; without any, all names.

    Returns:
      The names, each once, in the order of the layers; () if no name contains any of `parts`.
    """
    names = dict.fromkeys(name for layer in matrices(model) for name in layer)
    return tuple(name for name in names if not parts or any(part in name for part in parts))


def _matrices(model: Model) -> list[dict[str, tuple[int, ...]]]:
    """(I, O) of each matrix that can be adapted, (E, I, O) of experts, one dict for each layer."""
    stacks = expert_stacks(model) if model.has_layers else [{}]
    return [
        {name: matrix_shape(spec) for name, spec in each.items()}
        | {name: spec.shape for name, spec in stack.items()}
        for each, stack in zip(matrices(model), stacks, strict=True)
    ]


def expert_stacks(model: Model) -> list[dict[str, ParamSpec]]:
    """The spec of each stack of experts of a decoder, one dict for each layer. Adapters beside them
    are trained and merged, but not served.
    """
    layers = [
        {name: spec for name, spec in layer.items() if spec.is_stack}
        for layer in model.param_specs["layers"]
    ]
    return layers * model.num_stages


def matrices(model: Model) -> list[dict[str, ParamSpec]]:
    """The spec of each matrix that can be adapted, one dict for each layer; a definition is one
    layer.
    """
    if model.has_layers:
        layers = [
            {name: spec for name, spec in layer.items() if _is_adapted(spec)}
            for layer in model.param_specs["layers"]
        ]
        return layers * model.num_stages
    return [{jax.tree_util.keystr(path): spec for path, spec in _adapted(model)}]


def _is_adapted(spec: ParamSpec) -> bool:
    """Whether adapters may be beside a parameter: a matrix that is no router."""
    return spec.role == "matrix" and spec.matrix is not None and not spec.is_wide


def matrix_shape(spec: ParamSpec) -> tuple[int, int]:
    """(I, O) of a parameter that is a matrix, or a stack of them."""
    assert spec.matrix is not None
    num_inputs, num_outputs = (
        math.prod(spec.shape[axis] for axis in axes)
        for axes in (spec.matrix.inputs, spec.matrix.outputs)
    )
    return num_inputs, num_outputs


def target_paths(model: Model) -> dict[str, tuple[Any, ...]]:
    """For a definition: each target's keys in the tree of parameters.

    The last key of a stacked layer is its number, as in packed parameters (`compute_params`).
    """
    return {jax.tree_util.keystr(path): path for path, _ in _adapted(model)}


def _adapted(model: Model) -> Iterator[tuple[tuple[Any, ...], ParamSpec]]:
    for path, spec in jax.tree.flatten_with_path(model.param_specs, is_leaf=is_spec)[0]:
        if spec.matrix is None or spec.role != "matrix":
            continue
        if spec.matrix.layers is None:
            yield path, spec
            continue
        for index in range(spec.shape[spec.matrix.layers]):
            yield (*path, jax.tree_util.DictKey(index)), spec


def adapter_shapes(
    model: Model, config: LoraConfig
) -> dict[str, tuple[dict[str, dict[str, tuple[int, ...]]], ...]]:
    """The shapes of a single adapter: a tree of (I, R) and (R, O), of experts (E, I, R), (E, R, O).

    A layer without a target, where others have it, has no part of the adapter.

    Raises:
      ValueError: no layer of the model has a target.
    """
    layers = []
    found = _matrices(model)
    known = {name for layer in found for name in layer}
    if missing := [name for name in config.targets if name not in known]:
        raise ValueError(
            f"the model's layers have no {', '.join(missing)} to adapt. lora_targets(model) lists "
            "what there is"
        )
    for layer in found:
        shapes = {name: layer[name] for name in config.targets if name in layer}
        layers.append(
            {
                name: {"a": (*shape[:-1], config.rank), "b": (*shape[:-2], config.rank, shape[-1])}
                for name, shape in shapes.items()
            }
        )
    return {"layers": tuple(layers)}


def with_adapters(
    params: Params,
    adapters: Adapters,
    scales: jax.Array,
    ids: jax.Array,
    *,
    key: jax.Array | None = None,
    dropout: float = 0.0,
) -> Params:
    """Returns the parameters with each adapted weight as a LoraWeight.

    Args:
      params: the model's parameters.
      adapters: a stack of n.
      scales: [n] float32.
      ids: int32 in the tokens' shape: the adapter of each token; -1 for none.
      key: for dropout.
      dropout: the dropout probability of an adapter's inputs.

    Returns:
      A tree for `Model.forward` and `Model.unembed`. An array of stacked layers is replaced by a
      dict of the adapted layers, each with the whole array.
    """

    def adapted(index: int, number: int, base: Any, stack: Any) -> LoraWeight:
        own = None
        if dropout:
            assert key is not None, "dropout needs a key"
            own = jax.random.fold_in(key, index * _MOST_TARGETS + number)
        return LoraWeight(
            base=base,
            a=stack["a"],
            b=stack["b"],
            scales=scales,
            ids=ids,
            key=own,
            dropout=dropout,
        )

    if any(_is_path(target) for target in adapters["layers"][0]):
        (stacks,) = adapters["layers"]
        numbers = {name: number for number, name in enumerate(stacks)}

        of_stack = _by_array(stacks)

        def one(path: tuple[Any, ...], base: Any) -> Any:
            name = jax.tree_util.keystr(path)
            if name in numbers:
                return adapted(0, numbers[name], base, stacks[name])
            if name not in of_stack:
                return base
            return {
                index: adapted(0, numbers[target], base, stacks[target])
                for index, target in of_stack[name].items()
            }

        return jax.tree_util.tree_map_with_path(
            one, params, is_leaf=lambda leaf: isinstance(leaf, LinearWeight)
        )
    layers = []
    stacked = stack_layers(adapters["layers"], len(params["layers"]))
    for index, (layer, stacks) in enumerate(zip(params["layers"], stacked, strict=True)):
        beside = {
            name: adapted(index, number, layer[name], stack)
            for number, (name, stack) in enumerate(stacks.items())
        }
        layers.append({**layer, **beside})
    return {**params, "layers": tuple(layers)}


def _by_array(targets: Iterable[str]) -> dict[str, dict[int, str]]:
    """Groups targets that may be layers of one array: array name -> layer number -> target."""
    found: dict[str, dict[int, str]] = {}
    for target in targets:
        name, _, number = target.removesuffix("]").rpartition("[")
        if number.isdecimal():
            found.setdefault(name, {})[int(number)] = target
    return found
