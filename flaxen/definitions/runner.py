"""Whether a model generates text or pools vectors: `--runner`, with vLLM's name and values.

Deliberately does not know engines.
"""

from __future__ import annotations

from flaxen.definitions.definition import Definition
from flaxen.definitions.opening import AnySource
from flaxen.protocol import PoolingInfo
from flaxen.weights.encoder_checkpoint import EncoderCheckpoint

RUNNERS = ("auto", "generate", "pooling")
# A decoder's last token has seen the whole prompt; vLLM takes it too.
_OF_A_DECODER = PoolingInfo(task="embed", pooling="last")


def choose_pooling(source: AnySource, runner: str) -> PoolingInfo | None:
    """How a model pools; None if it generates.

    Args:
      source: the opened model.
      runner: one of RUNNERS; auto pools if the model is an encoder, has a classification head, or
          its directory says how sentence-transformers pools it.

    Raises:
      ValueError: the model can't do what the runner asks.
    """
    own = None if isinstance(source, Definition) else source.pooling
    if runner == "auto":
        return own
    if runner == "generate":
        if isinstance(source, EncoderCheckpoint) or not source.model.generates:
            raise ValueError(
                f"--runner generate was asked for, and {source.name} generates no text: it is an "
                "encoder, or has a classification head. Leave it out"
            )
        return None
    if own is None and source.model.final_norm_on is None:
        raise ValueError(
            f"--runner pooling was asked for, and {source.name}, a definition of somebody else's, "
            "does not give its hidden states: serve it with our decoder (--impl flaxen)"
        )
    return own or _OF_A_DECODER
