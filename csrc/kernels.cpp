// Compiled once for each instruction set: FLAXEN_KERNELS names the table, FLAXEN_WIDTH the lanes.
#include "kernels.h"

#include "pool.h"
#include "simd.h"

#include "stored_pages.inc"
#include "turn_keys.inc"
#include "attention.inc"
#include "head_linear.inc"
#include "causal_attention.inc"
#include "bidirectional_attention.inc"
#include "elementwise.inc"
#include "activation.inc"
#include "layer_norm.inc"
#include "linear.inc"
#include "byte_linear.inc"
#include "embed.inc"
#include "repack.inc"
#include "product.inc"
#include "causal_gradient.inc"
#include "lora_gradient.inc"
#include "experts.inc"
#include "experts_gradient.inc"
#include "routing.inc"
#include "peak.inc"
#include "sample.inc"
#include "sequences.inc"
#include "short_convolution.inc"
#include "recurrence.inc"
#include "gated_norm.inc"

namespace flaxen {

const Kernels FLAXEN_KERNELS = {
    linear, byte_linear, embed, transpose, pack, unpack, rms_norm, layer_norm, activation, rope,
    log_softmax, attention, head_linear, causal_attention, bidirectional_attention,
    causal_gradient, lora_gradient, sample, short_convolution, recurrence, gated_norm,
    grouped_linear, experts, experts_gradient, transpose_experts, routing, peak_flops};

}  // namespace flaxen
