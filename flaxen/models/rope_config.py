"""The settings of rotary position embedding. Deliberately does not know what they compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RopeKind = Literal["default", "linear", "llama3", "yarn", "longrope", "dynamic"]

# The fields of RopeConfig that each kind uses, beside those that all do.
FIELDS: Mapping[RopeKind, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "original_max_position", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_max_position", "beta_fast", "beta_slow", "attention_factor",
             "mscale", "mscale_all_dim", "truncate"),
    "longrope": ("factor", "original_max_position", "attention_factor", "short_factors",
                 "long_factors", "context"),
    "dynamic": ("factor", "original_max_position", "context"),
}  # fmt: skip
_ALWAYS = ("theta", "partial", "interleaved")


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding. The kinds and fields are those of Hugging Face's `rope_scaling`.

    Raises:
      ValueError: the kind is unknown, a factor is not above 0, or the part is not of a head.
    """

    kind: RopeKind = "default"
    theta: float = 10_000.0
    factor: float = 1.0  # all but default
    original_max_position: int = 0  # tokens; all but default and linear
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn, longrope; None derives it from factor
    mscale: float = 0.0  # yarn; together with mscale_all_dim it gives attention_factor
    mscale_all_dim: float = 0.0  # yarn
    truncate: bool = True  # yarn; round the correction range to whole dimensions
    short_factors: tuple[float, ...] = ()  # longrope; what divides the frequency of each pair
    long_factors: tuple[float, ...] = ()  # longrope; the same for a context beyond the original
    # The context that the model is made for, in tokens; 0 is the original one. longrope and dynamic
    # choose their frequencies by it (decision 0287).
    context: int = 0
    partial: float = 1.0  # the part of a head that is rotated: its first numbers
    interleaved: bool = False  # rotates the pairs (2i, 2i + 1) instead of (i, i + H/2)

    def __post_init__(self) -> None:
        if self.kind not in FIELDS:
            raise ValueError(
                f"rope kind {self.kind!r} is not supported: use one of {', '.join(FIELDS)}"
            )
        if self.theta <= 0 or self.factor <= 0:
            raise ValueError(
                f"rope theta and factor must be above 0, got {self.theta} and {self.factor}"
            )
        if not 0 < self.partial <= 1:
            raise ValueError(
                f"the rotated part of a head must be above 0 and at most 1, got {self.partial}"
            )
        if "original_max_position" in FIELDS[self.kind] and self.original_max_position <= 0:
            raise ValueError(
                f"rope kind {self.kind} needs original_max_position_embeddings above 0, "
                f"got {self.original_max_position}"
            )

    def canonical(self) -> RopeConfig:
        """The same with the fields that its kind does not use at their defaults."""
        used = {name: getattr(self, name) for name in (*_ALWAYS, *FIELDS[self.kind])}
        return RopeConfig(kind=self.kind, **used)

    def num_rotated(self, head_dim: int) -> int:
        """How many numbers of a head of `head_dim` are rotated.

        Raises:
          ValueError: it is odd, and rope rotates pairs.
        """
        found = int(head_dim * self.partial)
        if found % 2 or not found:
            raise ValueError(
                f"rope rotates pairs, and {self.partial:g} of a head of {head_dim} are {found} "
                "numbers: the rotated part must be even and above 0"
            )
        return found

    @property
    def longest(self) -> int | None:
        """The most tokens that its frequencies are right for; None if it does not limit them."""
        if self.kind not in ("longrope", "dynamic"):
            return None
        return max(self.context, self.original_max_position)
