"""The ops as the tests of the C++ kernels call them: on the CPU backend."""

from __future__ import annotations

import functools

from flaxen import token_sampling as sampling
from flaxen.attention_kernels import causal_attention as causal
from flaxen.kernels import activation as activation_op
from flaxen.kernels import layer_norm as layer_norm_op
from flaxen.kernels import linear as layers
from flaxen.kernels import log_softmax as softmax
from flaxen.kernels import rms_norm as norm
from flaxen.kernels import rope
from flaxen.kernels.backend import Backend

_on_cpu = functools.partial(functools.partial, backend=Backend.CPU)

apply_rope = _on_cpu(rope.apply_rope)
causal_attention = _on_cpu(causal.causal_attention)
embed = _on_cpu(layers.embed)
gated_linear = _on_cpu(layers.gated_linear)
activation = _on_cpu(activation_op.activation)
layer_norm = _on_cpu(layer_norm_op.layer_norm)
linear = _on_cpu(layers.linear)
linears = _on_cpu(layers.linears)
log_softmax = _on_cpu(softmax.log_softmax)
pack = _on_cpu(layers.pack)
rms_norm = _on_cpu(norm.rms_norm)
sample = _on_cpu(sampling.sample)
transpose = _on_cpu(layers.transpose)
