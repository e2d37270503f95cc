"""The layouts of a layer's pages: one for each kind of kernel that reads them."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float, Num


class KvPages(NamedTuple):
    """Keys and values of one layer in the layout for XLA and for the GPU's kernels."""

    keys: Num[Array, "pages page_size K H"]
    values: Num[Array, "pages page_size K V"] | None  # None: they are part of the keys
    # Where these have eight bits: what their numbers are multiplied with (scales.py).
    key_scales: Float[Array, "pages page_size K 1"] | None = None
    value_scales: Float[Array, "pages page_size K 1"] | None = None


# The layouts of the C++ kernel, of the TPU's kernel, and of tokamax.
CpuPages = Num[Array, "pages planes K words"]
TpuPages = Float[Array, "pages K page_size lanes"]
TokamaxPages = Float[Array, "pages page_size keys_values lanes"]
Pages = KvPages | CpuPages | TpuPages | TokamaxPages
