"""`flaxen.attend` for modules of PyTorch, whether flaxen runs them or PyTorch itself.

Deliberately does not know modules.
"""

from __future__ import annotations

import torch

from flaxen.bridges.torch.torchax_import import import_torchax
from flaxen.models.attention import attend, check_attention


def attend_torch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """`flaxen.attend` for PyTorch modules: causal attention that flaxen replaces.

    A module that flaxen does not run computes it in PyTorch, on any device and with gradients.

        q, k, v = (each.unflatten(-1, (N, H)) for each in self.qkv(x).chunk(3, dim=-1))
        x = x + self.out(flaxen.attend_torch(q, k, v).flatten(-2))

    Args:
      q: [..., T, N, H] queries, rotated.
      k: [..., T, K, H] keys of the same tokens, rotated; N is a multiple of K.
      v: [..., T, K, H] values.
      window: as in `flaxen.attend`.
      scale: as in `flaxen.attend`.
      softcap: as in `flaxen.attend`.

    Returns:
      [..., T, N, H] in q's dtype.

    Raises:
      ImportError: torchax is not installed.
      ValueError: as in `flaxen.attend`.
    """
    torchax = import_torchax()
    if isinstance(q, torchax.tensor.Tensor):
        env = torchax.default_env()
        arrays = env.t2j_iso((q, k, v))
        found: torch.Tensor = env.j2t_iso(
            attend(*arrays, window=window, scale=scale, softcap=softcap)
        )
        return found
    shapes = (tuple(q.shape), tuple(k.shape), tuple(v.shape))
    check_attention("flaxen.attend_torch", *shapes, window)
    return _alone(q, k, v, window, scale, softcap)


def _alone(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    window: int | None,
    scale: float | None,
    softcap: float | None,
) -> torch.Tensor:
    """The implementation outside flaxen, at least in float32 as the reference is."""
    wide = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[-2] // k.shape[-2]  # query heads that share a key head
    keys, values = (each.to(wide).repeat_interleave(group, dim=-2) for each in (k, v))
    scores = torch.einsum("...tnh,...snh->...nts", q.to(wide), keys)
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    places = torch.arange(q.shape[-3], device=q.device)
    distance = places[:, None] - places[None, :]
    is_seen = (distance >= 0) & (distance < (window or len(places)))
    weights = scores.masked_fill(~is_seen, -torch.inf).softmax(dim=-1)
    return torch.einsum("...nts,...snh->...tnh", weights, values).to(q.dtype)
