"""A served model is still a function: its gradients, its adapters and its Jacobians, in JAX.

Everything that is changed here is data: the tokens' embeddings are a table, an adapter is a tree of
arrays, and a vector that steers a layer is a bias of that layer.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

import flaxen
from flaxen.hub.resolve import resolve
from flaxen.models import attention_impls
from flaxen.models.adapters import Adapters, LoraConfig, adapter_shapes, with_adapters
from flaxen.models.model import Model, Params, logprobs
from flaxen.weights.checkpoint import open_checkpoint


def completion_logprobs(
    model: Model,
    params: Params,
    prompt: jax.Array,
    completion: jax.Array,
    embeddings: jax.Array | None = None,
) -> jax.Array:
    """The log-probability of each token of a completion.

    Args:
      model: any.
      params: its own, perhaps changed.
      prompt: [P] int32.
      completion: [C] int32.
      embeddings: [P + C, D] of the tokens, in place of the model's; None is the model's.

    Returns:
      [C] float32.
    """
    tokens = jnp.concatenate([prompt, completion])[None]
    places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    inputs, read = params, tokens
    if embeddings is not None:  # a table of these tokens alone: row i is token i's
        inputs, read = {**params, "embed": embeddings}, places
    cache = (None,) * len(model.cache_specs)
    attend = attention_impls.causal(None, model.backend)  # over the whole sequence, without a cache
    hidden, _ = model.forward(inputs, read, places, attend, cache)
    logits = model.unembed(params, hidden[0, len(prompt) - 1 : -1])
    scores = logprobs(logits, model.backend)
    return jnp.take_along_axis(scores, completion[:, None], axis=-1)[:, 0]


def embedding_gradient(
    model: Model, params: Params, prompt: jax.Array, completion: jax.Array
) -> jax.Array:
    """How a completion's log-probability changes with each input embedding: [P + C, D].

    Args:
      model: any.
      params: its own; the embedding is a plain array [V, D].
      prompt: [P] int32.
      completion: [C] int32.
    """

    def total(embeddings: jax.Array) -> jax.Array:
        return completion_logprobs(model, params, prompt, completion, embeddings).sum()

    rows = params["embed"][jnp.concatenate([prompt, completion])]
    gradient: jax.Array = jax.grad(total)(rows)
    return gradient


def logprobs_by_adapter(
    model: Model, params: Params, adapters: Adapters, prompt: jax.Array, completion: jax.Array
) -> jax.Array:
    """The completion's log-probability with each adapter of a stack of n: [n].

    Args:
      model: any.
      params: of the base.
      adapters: the stack; its scale is 1.
      prompt: [P] int32.
      completion: [C] int32.
    """
    ids = jnp.zeros((1, len(prompt) + len(completion)), jnp.int32)

    def one(adapter: Adapters) -> jax.Array:
        alone = jax.tree.map(lambda leaf: leaf[None], adapter)
        adapted = with_adapters(params, alone, jnp.ones(1), ids)
        return completion_logprobs(model, adapted, prompt, completion).sum()

    found: jax.Array = jax.vmap(one)(adapters)
    return found


def steered(params: Params, layer: int, vector: jax.Array) -> Params:
    """Parameters with a vector [D] added to what leaves a layer, at each token."""
    changed = dict(params["layers"][layer])
    changed["b_down"] = changed.get("b_down", 0) + vector
    layers = params["layers"]
    return {**params, "layers": (*layers[:layer], changed, *layers[layer + 1 :])}


def steering_jacobian(
    model: Model,
    params: Params,
    layer: int,
    directions: jax.Array,
    prompt: jax.Array,
    completion: jax.Array,
) -> jax.Array:
    """How each token's log-probability changes as a layer is steered along directions: [C, K].

    Args:
      model: any.
      params: plain arrays.
      layer: whose output is steered.
      directions: [K, D].
      prompt: [P] int32.
      completion: [C] int32.
    """

    def along(strengths: jax.Array) -> jax.Array:
        changed = steered(params, layer, strengths @ directions)
        return completion_logprobs(model, changed, prompt, completion)

    jacobian: jax.Array = jax.jacfwd(along)(jnp.zeros(len(directions)))
    return jacobian


def random_adapters(model: Model, num: int, key: jax.Array) -> Adapters:
    """A stack of adapters of rank 4, with small random weights."""
    shapes = adapter_shapes(model, LoraConfig(rank=4, targets=("wq", "wv")))
    leaves, structure = jax.tree.flatten(shapes, is_leaf=_is_shape)
    keys = jax.random.split(key, len(leaves))
    made = [0.05 * jax.random.normal(k, (num, *s)) for k, s in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, made)


def _is_shape(node: object) -> bool:
    return isinstance(node, tuple) and isinstance(node[0], int)


def main(name: str = "smollm2-135m") -> None:
    """Prints what each transformation finds, all of it through jit."""
    model, params = flaxen.load(name, backend="reference")  # forward mode is for XLA's ops only
    tokenizer = open_checkpoint(resolve(name)).make_tokenizer()
    prompt = jnp.asarray(tokenizer.encode("The capital of France is"), jnp.int32)
    completion = jnp.asarray(tokenizer.encode(" Paris."), jnp.int32)

    found = jax.jit(partial(completion_logprobs, model))(params, prompt, completion)
    print("log-probabilities of ' Paris.':", found)

    gradient = jax.jit(partial(embedding_gradient, model))(params, prompt, completion)
    print("gradient by the embedding of each token of the prompt, its norm:")
    for token_id, row in zip(prompt.tolist(), gradient, strict=False):
        print(f"  {tokenizer.token(token_id)!r:12} {jnp.linalg.norm(row):.2f}")

    stack = random_adapters(model, 3, jax.random.key(0))
    by_adapter = jax.jit(partial(logprobs_by_adapter, model))(params, stack, prompt, completion)
    print("log-probability with each of three random adapters:", by_adapter)

    places = [tokenizer.encode(f" {city}")[0] for city in ("Paris", "London", "Rome")]
    directions = params["embed"][jnp.asarray(places)]
    layer = len(params["layers"]) // 2
    jacobian = jax.jit(partial(steering_jacobian, model, layer=layer))(
        params, directions=directions, prompt=prompt, completion=completion
    )
    print(f"Jacobian by steering layer {layer} towards Paris, London, Rome, a row a token:")
    print(jacobian)


if __name__ == "__main__":
    main()
