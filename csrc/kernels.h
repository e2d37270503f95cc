// The functions that each instruction set implements. Plain data in and out: knows neither XLA nor
// Python.
#pragma once
#include <cstdint>

namespace flaxen {

enum class Type { f32, bf16 };  // of activations, keys and values, norms, biases

// The layout of a packed weight [in, out]: tiles of 16 outputs, and in a tile the inputs one after
// the other, padded with zeros to a multiple of 32. Always
//   value(i, o) = scale(i / group, o) * (stored(i, o) - zero) + min(i / group, o)
// with scale 1, zero 0 and min 0 for floats.
enum class Format {
  f32,   // [out/16][in][16] float
  bf16,  // [out/16][in/2][16][2] bfloat16
  int8,  // [out/16][in][16] int8
  int4,  // [out/16][in/8][16] uint32, the first input in the lowest four bits; stored as 0..15
  float8,  // [out/16][in/2][16][2] bytes: floats of eight bits, e4m3 without infinities
  float4,  // as int4, but each four bits are a float, e2m1, and the number stored is twice its value
};

enum class Scales {
  f16,
  f32,
  e8m0,  // bytes: a power of two, 2^(byte - 128). Half of what MXFP4 says, for float4's numbers.
};

// Low-rank adapters of a weight, one chosen by each row: they add scales[id] * (x @ a[id]) @ b[id].
struct Adapters {
  const float* a;       // [num, inputs, rank]
  const float* b;       // [num, rank, outputs]
  const float* scales;  // [num]
  const int32_t* ids;   // [rows]; a row has no adapter if its id is not in [0, num)
  int64_t num;
  int64_t rank;  // 0 if the weight has no adapters
};

// What a gated layer computes of gate and up:
//   gate' = min(gate, limit), up' = clamp(up, -limit, limit),
//   gate' * sigmoid(alpha * gate') * (up' + offset), or gelu(gate') with its tanh in place of that.
struct Gate {
  enum Kind { silu, gelu_tanh } kind = silu;
  float alpha = 1;
  float limit = 0;  // 0 for none
  float offset = 0;
};

struct Weight {
  Format format;
  const void* data;
  const void* scales;  // [out/16][in/group][16]; null for f32 and bf16
  const void* mins;    // like scales, or null for none
  Scales scale_type;   // of scales and mins
  int32_t zero;
  int64_t group;  // inputs that share a scale, a multiple of 32
  int64_t num_outputs;
  Adapters adapters;
  const void* bias;  // [num_outputs] of the activations' type, or null
  void* out;         // [rows, num_outputs]
  void* before_gate;  // gate and up before they are multiplied, for their gradients; or null
};

// out_w = weights_w(norm(x)) + adapters_w(norm(x)) + bias_w (+ residual), or silu(gate(norm(x))) * up(norm(x)).
// Sums are float32; a row's order of reduction does not depend on the number of rows or threads.
struct LinearCall {
  const void* x;  // [rows, num_inputs]
  Type type;      // of x, norm, biases
  int64_t rows;
  int64_t num_inputs;
  const void* norm;  // [num_inputs] weight of an RMS norm over x, or null for none
  float eps;
  const void* residual;  // [rows, num_outputs] or null; only with one weight
  Type residual_type;
  Type out_type;
  bool gated;  // weights are (gate, up), with one output in the first
  Gate gate;
  int num_weights;
  const Weight* weights;
};

// out = gelu(x @ weight + bias) + residual, with x rounded to eight bits: byte_linear.inc.
struct ByteLinearCall {
  const void* x;  // [rows, num_inputs]
  Type type;      // of x, bias, residual and out
  int64_t rows, num_inputs;
  Weight weight;         // int8 without zero, mins or adapters; with bias and out
  const void* residual;  // [rows, num_outputs] or null
  int64_t gelu;          // 0 for none, 1 for the exact GELU, 2 for that with tanh
};

// Embedding lookup: out[t] = weight[:, ids[t]]; zeros if the id is negative.
struct EmbedCall {
  const int32_t* ids;
  int64_t num_ids;
  int64_t num_inputs;  // the width of a row
  Weight weight;       // without bias or out
  Type out_type;
  void* out;  // [num_ids, num_inputs]
};

// The packed transpose [out, in] of a packed weight; a quantized weight becomes float32.
struct TransposeCall {
  Weight weight;  // without adapters, bias, out
  int64_t num_inputs;
  void* out;
};

// Packs a plain weight [in, out] in its own type, or unpacks it.
struct PackCall {
  const void* from;
  Type type;
  int64_t num_inputs, num_outputs;
  void* to;
};

// Several linear layers (or gated ones), one for each expert, over rows that are sorted by expert.
// A weight is a stack: the tiles of an expert follow those of the one before, as in a weight with
// num_experts times as many outputs, each expert's padded to whole tiles.
struct GroupedCall {
  LinearCall linear;      // without norm or residual; the rows are those of all experts
  const int32_t* starts;  // [num_experts + 1], the first row of each expert
  int64_t num_experts;
};

// A mixture of experts: out[t] = residual[t] + sum over j of weights[t][j] * expert(ids[t][j], x[t]),
// in the order of j, where an expert is down(gate(gate(x), up(x))). A row of zeros is padding: it
// has no experts, nor has an id outside of [0, num_experts).
struct ExpertsCall {
  const void* x;  // [T, D]
  Type type;      // of x and biases
  int64_t T, D, F, num_experts, k;
  const int32_t* ids;    // [T, k]
  const float* weights;  // [T, k]
  bool scales_inputs;    // the weights multiply the inputs of experts, not their outputs
  Gate gate;
  Weight layers[3];  // gate, up, down: stacks. Adapters have one for each expert of each adapter.
  const void* residual;  // [T, D] or null
  Type residual_type;
  Type out_type;
  void* out;  // [T, D]
};

// The gradient of a stack of packed weights: for each expert the product of its rows of h,
// transposed, with those of out_bar.
struct ExpertsGradientCall {
  const void* h;        // [S, I], sorted by expert
  const void* out_bar;  // [S, O]
  Type type;            // of both
  int64_t S, I, O, num_experts;
  const int32_t* starts;  // [num_experts + 1]
  Type out_type;          // float32 or bfloat16
  void* out;              // packed
};

// Which experts a token uses, and with which weights; see flaxen/expert_kernels/routing/__init__.py.
struct RoutingCall {
  const float* logits;  // [T, E]
  const float* bias;    // [E], added to scores for the choice alone; or null
  int64_t T, E, k;
  enum Score { softmax, sigmoid } score;
  int64_t num_groups, groups_used;  // 1, 1 for none
  int64_t group_best;               // a group's score: the sum of so many of its best
  bool normalize;                   // the weights of a token are divided by their sum
  float epsilon;                    // added to that sum
  float scale;                      // multiplies the weights
  int32_t* ids;    // [T, k], best first
  float* weights;  // [T, k]
};

struct RmsNormCall {
  const void* x;  // [rows, width]
  const void* weight;
  int64_t rows, width;
  float eps;
  Type type;
  void* out;
};

struct LayerNormCall {
  const void* x;  // [rows, width]
  const void* weight;
  const void* bias;  // or null
  int64_t rows, width;
  float eps;
  Type type;  // of all arrays
  void* out;
};

// In the order of flaxen/kernels/activation/cpu.py.
enum class Activation { gelu, gelu_tanh, silu, sigmoid, tanh };

struct ActivationCall {
  const void* x;  // [rows, width]
  int64_t rows, width;
  Activation kind;
  Type type;
  void* out;
};

// out = x - log(sum(exp(x))) for each row.
struct LogSoftmaxCall {
  const float* x;  // [rows, width]
  int64_t rows, width;
  float* out;
};

// Rotates pairs (i, i + head_dim/2) of each head; tables are [tokens, head_dim/2].
struct RopeCall {
  const void* x;  // [tokens, heads, head_dim]
  const float* cos;
  const float* sin;
  int64_t tokens, heads, head_dim;
  Type type;
  void* out;
};

// Which keys a token sees, and what becomes of its scores with them.
struct Scores {
  int64_t window;  // tokens seen, the current one included; 0 sees all
  int64_t chunk;   // a token sees those of its own chunk of so many positions; 0 sees all
  float scale;     // multiplies the scores
  float softcap;   // 0 for none

  // The first key that the token at a position sees.
  int64_t first_key(int64_t position) const {
    int64_t first = 0;
    if (window > 0 && position >= window) first = position + 1 - window;
    if (chunk > 0 && position - position % chunk > first) first = position - position % chunk;
    return first;
  }
};

// How keys and values are stored in pages: in the type of the activations, or in eight bits with a
// scale for each token and head (stored_pages.inc).
enum class PageFormat { plain, int8, fp8_e4m3 };

// Ragged attention over pages; see flaxen/attention_kernels/paged_attention/cpu.py for the page layout.
struct AttentionCall {
  const void* q;  // [T, N, H]
  const void* k;  // [T, K, H]
  const void* v;  // [T, K, V]; null: a value is the first V numbers of its key
  void* pages;    // in the layout that the next three describe, written in place
  int64_t page_stride, head_stride;  // numbers from a page to the next, and from a kv head to the next
  int64_t value_offset;              // numbers from a head's keys to its values
  PageFormat format;
  Type type;
  const int32_t* kv_lens;     // [S]
  const int32_t* page_table;  // [S, P]
  const int32_t* cu_q_lens;   // [S + 1]
  const float* sinks;         // [N] or null
  int64_t T, N, K, H, V, S, P, num_pages, page_size;
  Scores scores;
  void* out;  // [T, N, V]
};

// The product of each head's inputs with a weight of its own.
struct HeadLinearCall {
  const void* x;       // [rows, N, I]
  const void* weight;  // [N, I, O]
  Type type;
  int64_t rows, N, I, O;
  void* out;  // [rows, N, O]
};

// Causal attention of whole sequences, packed in rows one after the other.
struct CausalCall {
  const void* q;  // [B, T, N, H]
  const void* k;  // [B, T, K, H]
  const void* v;  // [B, T, K, V]
  Type type;
  // [B, T], equal along a sequence, 0 for padding; null: each row is one sequence.
  const int32_t* segment_ids;
  const float* sinks;  // [N] or null
  int64_t B, T, N, K, H, V;
  Scores scores;
  void* out;  // [B, T, N, V]; zeros for padding
};

// Attention of whole sequences in which each token sees those before and after it.
struct BidirectionalCall {
  const void* q;  // [B, T, N, H]
  const void* k;  // [B, T, K, H]
  const void* v;
  Type type;
  const int32_t* segment_ids;  // as above
  int64_t B, T, N, K, H;
  int64_t window;  // how far a token sees to either side; 0 sees all
  float scale;
  void* out;  // [B, T, N, H]; zeros for padding
};

// The gradient of causal attention: for all inputs, from the output's gradient.
struct CausalGradientCall {
  CausalCall of;        // without out
  const void* out_bar;  // [B, T, N, V]
  void* q_bar;
  void* k_bar;
  void* v_bar;
  float* sinks_bar;  // [N]; zeros without sinks
};

// The gradients of low-rank adapters, from the gradient of their layer's outputs.
struct LoraGradientCall {
  const void* h;        // [T, I], the adapters' inputs
  const void* out_bar;  // [T, O]
  Type type;            // of both
  int64_t T, I, O;
  Adapters adapters;
  float* a_bar;       // like a; zeros for an adapter without rows
  float* b_bar;       // like b
  float* scales_bar;  // like scales
};

// Samples a token for each row of logits; see flaxen/token_sampling/__init__.py.
struct SampleCall {
  const float* logits;  // [S, V]
  int64_t S, V;
  const float* temperature;  // [S]; 0 is greedy
  const int32_t* top_k;      // [S]; 0 keeps all
  const float* top_p;        // [S]; 1 keeps all
  const float* min_p;        // [S]; 0 keeps all
  const uint32_t* seed;      // [S, 2]
  const int32_t* position;   // [S]
  const bool* active;        // [S]; inactive rows get token 0
  int32_t* out;              // [S]
  bool* finite;              // [S]: whether all logits of an active row are finite
};

// Which tokens belong to which sequence, for ops that go through a sequence token by token.
struct SequenceTokens {
  // Serving, one ragged row of T tokens: as in AttentionCall, with the sequence's slot in the first
  // column of its page table. Null in training.
  const int32_t* kv_lens;     // [S]
  const int32_t* page_table;  // [S, P]
  const int32_t* cu_q_lens;   // [S + 1]
  int64_t S, P, num_slots;
  // Training: rows [B, T], as in CausalCall.
  const int32_t* segment_ids;
  int64_t B, T;
};

// A depthwise causal convolution over each sequence.
struct ShortConvolutionCall {
  const void* x;  // [tokens, C]
  Type type;
  const float* weight;  // [K, C], the current token's last
  const float* bias;    // [C] or null
  int64_t C, K;
  bool is_silu;  // out = silu(convolution)
  SequenceTokens tokens;
  float* state;  // [slots, K - 1, C], the last inputs of each sequence, in place; or null
  void* out;     // [tokens, C]; zeros for padding
};

// A linear recurrence over a matrix of each head: state = decay * state + k u, out = q state.
struct RecurrenceCall {
  const void* q;  // [tokens, G, N]
  const void* k;  // [tokens, G, N]
  const void* v;  // [tokens, H, P]
  const void* a;  // [tokens, H]; the time step is softplus(a + dt_bias)
  const void* b;  // [tokens, H], of the delta rule; else null
  Type type;      // of these and of the output
  const float* a_log;    // [H]: decay = exp(-exp(a_log) * time step)
  const float* dt_bias;  // [H]
  const float* skip;     // [H] or null: out += skip * v
  // The delta rule: u = sigmoid(b) * (v - k state), with q and k of unit length. Else u = v * time
  // step, which lies between dt_min and dt_max.
  bool is_delta;
  float dt_min, dt_max;
  int64_t G, H, N, P;
  SequenceTokens tokens;
  float* state;  // [slots, H, N, P], in place; or null
  void* out;     // [tokens, H, P]; zeros for padding
};

// RMS norm in groups of a row, with a gate: norm(x) * weight * silu(gate), or the gate first.
struct GatedNormCall {
  const void* x;     // [rows, width]
  const void* gate;  // [rows, width]
  Type type;
  const float* weight;  // [width]
  int64_t rows, width, group;
  float eps;
  bool is_gate_first;
  void* out;
};

struct Kernels {
  void (*linear)(const LinearCall&);
  void (*byte_linear)(const ByteLinearCall&);
  void (*embed)(const EmbedCall&);
  void (*transpose)(const TransposeCall&);
  void (*pack)(const PackCall&);
  void (*unpack)(const PackCall&);
  void (*rms_norm)(const RmsNormCall&);
  void (*layer_norm)(const LayerNormCall&);
  void (*activation)(const ActivationCall&);
  void (*rope)(const RopeCall&);
  void (*log_softmax)(const LogSoftmaxCall&);
  void (*attention)(const AttentionCall&);
  void (*head_linear)(const HeadLinearCall&);
  void (*causal_attention)(const CausalCall&);
  void (*bidirectional_attention)(const BidirectionalCall&);
  void (*causal_gradient)(const CausalGradientCall&);
  void (*lora_gradient)(const LoraGradientCall&);
  void (*sample)(const SampleCall&);
  void (*short_convolution)(const ShortConvolutionCall&);
  void (*recurrence)(const RecurrenceCall&);
  void (*gated_norm)(const GatedNormCall&);
  void (*grouped_linear)(const GroupedCall&);
  void (*experts)(const ExpertsCall&);
  void (*experts_gradient)(const ExpertsGradientCall&);
  void (*transpose_experts)(const TransposeCall&, int64_t num_experts);
  void (*routing)(const RoutingCall&);
  double (*peak_flops)(Type);  // operations a second, of all threads from registers
};

extern const Kernels kPortableKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;
extern const Kernels kAmxKernels;
#endif

}  // namespace flaxen
