// The kernels as targets of XLA's foreign function interface, and settings that Python makes
// through ctypes. Needs no Python headers: one library serves every version. flaxen/kernels checks
// shapes when it traces; here only errors that would corrupt memory are checked again.
#include <vector>

#include "ffi_operands.h"
#include "isa.h"
#include "kernels.h"
#include "pool.h"

namespace flaxen {
namespace {

ffi::Error linear(ffi::RemainingArgs args, ffi::RemainingRets results, Integers weights,
                  bool has_norm, bool has_residual, bool gated, float eps) {
  constexpr size_t kMaxWeights = 8;  // as in linear_formats.inc
  const size_t num_weights = weights.size() / kWeightFields;
  const bool keeps = gated && results.size() == 3;  // also keep gate and up for the gradient
  const size_t num_results = gated ? 1 : num_weights;
  Operands operands(args);
  if (num_weights == 0 || num_weights > kMaxWeights || results.size() != num_results + 2 * keeps ||
      !operands.has(1 + has_norm + has_residual))
    return ffi::Error::InvalidArgument("flaxen_linear: operands do not match the attributes");
  LinearCall call{};
  const auto x = operands.next();
  call.x = x.untyped_data();
  call.type = type_of(x);
  call.rows = leading_size(x);
  call.num_inputs = x.dimensions().back();
  if (has_norm) call.norm = operands.next().untyped_data();
  if (has_residual) {
    const auto residual = operands.next();
    call.residual = residual.untyped_data();
    call.residual_type = type_of(residual);
  }
  call.eps = eps;
  call.gated = gated;
  Weight read[kMaxWeights];
  for (size_t i = 0; i < num_weights; ++i) {
    if (!read_weight(operands, weights.begin() + i * kWeightFields, &read[i]))
      return ffi::Error::InvalidArgument("flaxen_linear: an operand of a weight is missing");
    if (i < num_results) {
      auto out = *results.get<ffi::AnyBuffer>(i);
      read[i].out = out->untyped_data();
      call.out_type = type_of(*out);
    }
    if (keeps) read[i].before_gate = (*results.get<ffi::AnyBuffer>(1 + i))->untyped_data();
  }
  call.num_weights = static_cast<int>(num_weights);
  call.weights = read;
  kernels().linear(call);
  return ffi::Error::Success();
}

ffi::Error byte_linear(ffi::AnyBuffer x, ffi::RemainingArgs args, ffi::Result<ffi::AnyBuffer> out,
                       Integers weights, bool has_residual, int64_t gelu) {
  ByteLinearCall call{};
  Operands operands(args);
  if (has_residual && operands.has(1)) call.residual = operands.next().untyped_data();
  if (weights.size() != kWeightFields || !read_weight(operands, weights.begin(), &call.weight))
    return ffi::Error::InvalidArgument("flaxen_byte_linear: operands do not match the attributes");
  call.x = x.untyped_data();
  call.type = type_of(x);
  call.rows = leading_size(x);
  call.num_inputs = x.dimensions().back();
  call.gelu = gelu;
  call.weight.out = out->untyped_data();
  kernels().byte_linear(call);
  return ffi::Error::Success();
}

ffi::Error embed(ffi::Buffer<ffi::S32> ids, ffi::RemainingArgs args,
                 ffi::Result<ffi::AnyBuffer> out, Integers weights) {
  EmbedCall call{};
  Operands operands(args);
  if (weights.size() != kWeightFields || !read_weight(operands, weights.begin(), &call.weight))
    return ffi::Error::InvalidArgument("flaxen_embed: operands do not match the attributes");
  call.ids = ids.typed_data();
  call.num_ids = static_cast<int64_t>(ids.element_count());
  call.num_inputs = out->dimensions().back();
  call.out_type = type_of(*out);
  call.out = out->untyped_data();
  kernels().embed(call);
  return ffi::Error::Success();
}

ffi::Error transpose(ffi::RemainingArgs args, ffi::Result<ffi::AnyBuffer> out, Integers weights,
                     int64_t num_inputs) {
  TransposeCall call{};
  Operands operands(args);
  if (weights.size() != kWeightFields || !read_weight(operands, weights.begin(), &call.weight))
    return ffi::Error::InvalidArgument("flaxen_transpose: operands do not match the attributes");
  call.num_inputs = num_inputs;
  call.out = out->untyped_data();
  kernels().transpose(call);
  return ffi::Error::Success();
}

// Calls `run` for a weight [in, out], or for each of a stack [experts, in, out].
void for_each_weight(void (*run)(const PackCall&), const ffi::AnyBuffer& from,
                     const ffi::AnyBuffer& plain, const ffi::AnyBuffer& to) {
  const auto dims = plain.dimensions();
  const int64_t count = dims.size() == 3 ? dims[0] : 1;
  const size_t from_bytes = from.size_bytes() / (count > 0 ? count : 1);
  const size_t to_bytes = to.size_bytes() / (count > 0 ? count : 1);
  for (int64_t i = 0; i < count; ++i)
    run({static_cast<const char*>(from.untyped_data()) + i * from_bytes, type_of(plain),
         dims[dims.size() - 2], dims[dims.size() - 1],
         static_cast<char*>(to.untyped_data()) + i * to_bytes});
}

ffi::Error pack(ffi::AnyBuffer plain, ffi::Result<ffi::AnyBuffer> packed) {
  for_each_weight(kernels().pack, plain, plain, *packed);
  return ffi::Error::Success();
}

ffi::Error unpack(ffi::AnyBuffer packed, ffi::Result<ffi::AnyBuffer> plain) {
  for_each_weight(kernels().unpack, packed, *plain, *plain);
  return ffi::Error::Success();
}

ffi::Error rms_norm(ffi::AnyBuffer x, ffi::AnyBuffer weight, ffi::Result<ffi::AnyBuffer> out,
                    float eps) {
  RmsNormCall call{};
  call.x = x.untyped_data();
  call.weight = weight.untyped_data();
  call.rows = leading_size(x);
  call.width = x.dimensions().back();
  call.eps = eps;
  call.type = type_of(x);
  call.out = out->untyped_data();
  kernels().rms_norm(call);
  return ffi::Error::Success();
}

ffi::Error layer_norm(ffi::AnyBuffer x, ffi::AnyBuffer weight, ffi::RemainingArgs bias,
                      ffi::Result<ffi::AnyBuffer> out, float eps) {
  LayerNormCall call{};
  call.x = x.untyped_data();
  call.weight = weight.untyped_data();
  if (bias.size() > 0) call.bias = bias.get<ffi::AnyBuffer>(0)->untyped_data();
  call.rows = leading_size(x);
  call.width = x.dimensions().back();
  call.eps = eps;
  call.type = type_of(x);
  call.out = out->untyped_data();
  kernels().layer_norm(call);
  return ffi::Error::Success();
}

ffi::Error activation(ffi::AnyBuffer x, ffi::Result<ffi::AnyBuffer> out, int64_t kind) {
  ActivationCall call{};
  call.x = x.untyped_data();
  call.rows = leading_size(x);
  call.width = x.dimensions().back();
  call.kind = static_cast<Activation>(kind);
  call.type = type_of(x);
  call.out = out->untyped_data();
  kernels().activation(call);
  return ffi::Error::Success();
}

ffi::Error rope(ffi::AnyBuffer x, ffi::Buffer<ffi::F32> cos, ffi::Buffer<ffi::F32> sin,
                ffi::Result<ffi::AnyBuffer> out) {
  const auto dims = x.dimensions();  // [tokens, heads, head_dim]
  RopeCall call{};
  call.x = x.untyped_data();
  call.cos = cos.typed_data();
  call.sin = sin.typed_data();
  call.tokens = dims[0];
  call.heads = dims[1];
  call.head_dim = dims[2];
  call.type = type_of(x);
  call.out = out->untyped_data();
  kernels().rope(call);
  return ffi::Error::Success();
}

ffi::Error log_softmax(ffi::Buffer<ffi::F32> x, ffi::Result<ffi::Buffer<ffi::F32>> out) {
  LogSoftmaxCall call{};
  call.x = x.typed_data();
  call.width = x.dimensions().back();
  call.rows = call.width == 0 ? 0 : static_cast<int64_t>(x.element_count()) / call.width;
  call.out = out->typed_data();
  kernels().log_softmax(call);
  return ffi::Error::Success();
}

ffi::Error attention(ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v, ffi::AnyBuffer pages,
                     ffi::Buffer<ffi::S32> kv_lens, ffi::Buffer<ffi::S32> page_table,
                     ffi::Buffer<ffi::S32> cu_q_lens, ffi::RemainingArgs sinks,
                     ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> new_pages,
                     int64_t page_size, bool has_values, Integers strides, int64_t window,
                     int64_t chunk, float scale, float softcap) {
  if (pages.untyped_data() != new_pages->untyped_data())
    return ffi::Error::Internal("flaxen_attention: the pages were not aliased to the result");
  if (strides.size() != 3)
    return ffi::Error::InvalidArgument("flaxen_attention: operands do not match the attributes");
  AttentionCall call{};
  call.q = q.untyped_data();
  call.k = k.untyped_data();
  if (has_values) call.v = v.untyped_data();
  call.pages = pages.untyped_data();
  call.page_stride = strides[0];
  call.head_stride = strides[1];
  call.value_offset = strides[2];
  call.format = page_format_of(pages);
  call.type = type_of(q);
  call.kv_lens = kv_lens.typed_data();
  call.page_table = page_table.typed_data();
  call.cu_q_lens = cu_q_lens.typed_data();
  if (sinks.size() > 0) call.sinks = static_cast<const float*>(sinks.get<ffi::AnyBuffer>(0)->untyped_data());
  const auto q_dims = q.dimensions();
  call.T = q_dims[0];
  call.N = q_dims[1];
  call.H = q_dims[2];
  call.V = out->dimensions()[2];
  call.K = k.dimensions()[1];
  call.S = page_table.dimensions()[0];
  call.P = page_table.dimensions()[1];
  call.num_pages = pages.dimensions()[0];
  call.page_size = page_size;
  call.scores = {window, chunk, scale, softcap};
  call.out = out->untyped_data();
  kernels().attention(call);
  return ffi::Error::Success();
}

ffi::Error head_linear(ffi::AnyBuffer x, ffi::AnyBuffer weight, ffi::Result<ffi::AnyBuffer> out) {
  const auto dims = weight.dimensions();
  const int64_t size = dims[0] * dims[1];
  const int64_t rows = size == 0 ? 0 : static_cast<int64_t>(x.element_count()) / size;
  kernels().head_linear({x.untyped_data(), weight.untyped_data(), type_of(x), rows, dims[0],
                         dims[1], dims[2], out->untyped_data()});
  return ffi::Error::Success();
}

// `options` are the segment ids and the sinks, as far as they are there.
bool causal_call(const ffi::AnyBuffer& q, const ffi::AnyBuffer& k, const ffi::AnyBuffer& v,
                 ffi::RemainingArgs options, bool has_segments, bool has_sinks,
                 const Scores& scores, CausalCall* into) {
  CausalCall& call = *into = CausalCall{};
  Operands operands(options);
  if (!operands.has(has_segments + has_sinks)) return false;
  call.q = q.untyped_data();
  call.k = k.untyped_data();
  call.v = v.untyped_data();
  call.type = type_of(q);
  if (has_segments) call.segment_ids = static_cast<const int32_t*>(operands.next().untyped_data());
  if (has_sinks) call.sinks = static_cast<const float*>(operands.next().untyped_data());
  const auto q_dims = q.dimensions();
  call.B = q_dims[0];
  call.T = q_dims[1];
  call.N = q_dims[2];
  call.H = q_dims[3];
  call.K = k.dimensions()[2];
  call.V = v.dimensions()[3];
  call.scores = scores;
  return true;
}

ffi::Error no_option() {
  return ffi::Error::InvalidArgument("flaxen causal attention: an operand is missing");
}

ffi::Error causal_attention(ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                            ffi::RemainingArgs options, ffi::Result<ffi::AnyBuffer> out,
                            bool has_segments, bool has_sinks, int64_t window, int64_t chunk,
                            float scale, float softcap) {
  CausalCall call;
  if (!causal_call(q, k, v, options, has_segments, has_sinks, {window, chunk, scale, softcap}, &call))
    return no_option();
  call.out = out->untyped_data();
  kernels().causal_attention(call);
  return ffi::Error::Success();
}

ffi::Error bidirectional_attention(ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                                   ffi::RemainingArgs segment_ids,
                                   ffi::Result<ffi::AnyBuffer> out, int64_t window, float scale) {
  const auto dims = q.dimensions();  // [B, T, N, H]
  BidirectionalCall call{};
  call.q = q.untyped_data();
  call.k = k.untyped_data();
  call.v = v.untyped_data();
  call.type = type_of(q);
  if (segment_ids.size() > 0)
    call.segment_ids =
        static_cast<const int32_t*>(segment_ids.get<ffi::AnyBuffer>(0)->untyped_data());
  call.B = dims[0];
  call.T = dims[1];
  call.N = dims[2];
  call.K = k.dimensions()[2];
  call.H = dims[3];
  call.window = window;
  call.scale = scale;
  call.out = out->untyped_data();
  kernels().bidirectional_attention(call);
  return ffi::Error::Success();
}

ffi::Error causal_gradient(ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                           ffi::AnyBuffer out_bar, ffi::RemainingArgs options,
                           ffi::Result<ffi::AnyBuffer> q_bar, ffi::Result<ffi::AnyBuffer> k_bar,
                           ffi::Result<ffi::AnyBuffer> v_bar,
                           ffi::Result<ffi::Buffer<ffi::F32>> sinks_bar, bool has_segments,
                           bool has_sinks, int64_t window, int64_t chunk, float scale,
                           float softcap) {
  CausalCall call;
  if (!causal_call(q, k, v, options, has_segments, has_sinks, {window, chunk, scale, softcap}, &call))
    return no_option();
  kernels().causal_gradient({call, out_bar.untyped_data(), q_bar->untyped_data(),
                             k_bar->untyped_data(), v_bar->untyped_data(), sinks_bar->typed_data()});
  return ffi::Error::Success();
}

ffi::Error lora_gradient(ffi::AnyBuffer h, ffi::AnyBuffer out_bar, ffi::Buffer<ffi::F32> a,
                         ffi::Buffer<ffi::F32> b, ffi::Buffer<ffi::F32> scales,
                         ffi::Buffer<ffi::S32> ids, ffi::Result<ffi::Buffer<ffi::F32>> a_bar,
                         ffi::Result<ffi::Buffer<ffi::F32>> b_bar,
                         ffi::Result<ffi::Buffer<ffi::F32>> scales_bar) {
  LoraGradientCall call{};
  call.h = h.untyped_data();
  call.out_bar = out_bar.untyped_data();
  call.type = type_of(h);
  call.T = h.dimensions()[0];
  call.I = h.dimensions()[1];
  call.O = out_bar.dimensions()[1];
  const auto dims = a.dimensions();  // [n, I, R]
  call.adapters = {a.typed_data(),   b.typed_data(), scales.typed_data(),
                   ids.typed_data(), dims[0],        dims[2]};
  call.a_bar = a_bar->typed_data();
  call.b_bar = b_bar->typed_data();
  call.scales_bar = scales_bar->typed_data();
  kernels().lora_gradient(call);
  return ffi::Error::Success();
}

ffi::Error sample(ffi::Buffer<ffi::F32> logits, ffi::Buffer<ffi::F32> temperature,
                  ffi::Buffer<ffi::S32> top_k, ffi::Buffer<ffi::F32> top_p,
                  ffi::Buffer<ffi::F32> min_p, ffi::Buffer<ffi::U32> seed,
                  ffi::Buffer<ffi::S32> position, ffi::Buffer<ffi::PRED> active,
                  ffi::Result<ffi::Buffer<ffi::S32>> out,
                  ffi::Result<ffi::Buffer<ffi::PRED>> finite) {
  SampleCall call{};
  call.logits = logits.typed_data();
  call.S = logits.dimensions()[0];
  call.V = logits.dimensions()[1];
  call.temperature = temperature.typed_data();
  call.top_k = top_k.typed_data();
  call.top_p = top_p.typed_data();
  call.min_p = min_p.typed_data();
  call.seed = seed.typed_data();
  call.position = position.typed_data();
  call.active = active.typed_data();
  call.out = out->typed_data();
  call.finite = finite->typed_data();
  kernels().sample(call);
  return ffi::Error::Success();
}

// Reads which tokens belong to which sequence: operands kv_lens, page_table and cu_q_lens after the
// state, or segment ids alone, or none where each row is one sequence.
bool read_tokens(Operands& operands, bool is_paged, const ffi::AnyBuffer& x, size_t row_axes,
                 const ffi::RemainingRets& results, SequenceTokens* tokens, float** state) {
  *tokens = SequenceTokens{};
  *state = nullptr;
  const auto dims = x.dimensions();
  tokens->B = 1;
  for (size_t i = 0; i + row_axes + 1 < dims.size(); ++i) tokens->B *= dims[i];
  tokens->T = dims[dims.size() - row_axes - 1];
  if (!is_paged) {
    if (operands.has(1)) tokens->segment_ids = static_cast<const int32_t*>(operands.next().untyped_data());
    return true;
  }
  if (!operands.has(4) || results.size() != 2) return false;
  const auto states = operands.next();
  const auto kv_lens = operands.next(), page_table = operands.next(), cu_q_lens = operands.next();
  if (states.untyped_data() != (*results.get<ffi::AnyBuffer>(1))->untyped_data()) return false;
  *state = static_cast<float*>(states.untyped_data());
  tokens->num_slots = states.dimensions()[0];
  tokens->kv_lens = static_cast<const int32_t*>(kv_lens.untyped_data());
  tokens->page_table = static_cast<const int32_t*>(page_table.untyped_data());
  tokens->cu_q_lens = static_cast<const int32_t*>(cu_q_lens.untyped_data());
  tokens->S = page_table.dimensions()[0];
  tokens->P = page_table.dimensions()[1];
  return true;
}

ffi::Error short_convolution(ffi::AnyBuffer x, ffi::Buffer<ffi::F32> weight,
                             ffi::RemainingArgs args, ffi::RemainingRets results, bool has_bias,
                             bool is_paged, bool is_silu) {
  ShortConvolutionCall call{};
  Operands operands(args);
  call.x = x.untyped_data();
  call.type = type_of(x);
  call.weight = weight.typed_data();
  call.K = weight.dimensions()[0];
  call.C = weight.dimensions()[1];
  call.is_silu = is_silu;
  if (has_bias) call.bias = static_cast<const float*>(operands.next().untyped_data());
  if (!read_tokens(operands, is_paged, x, 1, results, &call.tokens, &call.state))
    return ffi::Error::InvalidArgument("flaxen_short_convolution: the state was not aliased");
  call.out = (*results.get<ffi::AnyBuffer>(0))->untyped_data();
  kernels().short_convolution(call);
  return ffi::Error::Success();
}

ffi::Error recurrence(ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v, ffi::AnyBuffer a,
                      ffi::Buffer<ffi::F32> a_log, ffi::Buffer<ffi::F32> dt_bias,
                      ffi::AnyBuffer b_or_skip, ffi::RemainingArgs args, ffi::RemainingRets results,
                      bool is_delta, bool is_paged, float dt_min, float dt_max) {
  RecurrenceCall call{};
  Operands operands(args);
  call.q = q.untyped_data();
  call.k = k.untyped_data();
  call.v = v.untyped_data();
  call.a = a.untyped_data();
  call.type = type_of(q);
  call.a_log = a_log.typed_data();
  call.dt_bias = dt_bias.typed_data();
  call.is_delta = is_delta;
  if (is_delta) call.b = b_or_skip.untyped_data();
  else call.skip = static_cast<const float*>(b_or_skip.untyped_data());
  call.dt_min = dt_min;
  call.dt_max = dt_max;
  const auto q_dims = q.dimensions(), v_dims = v.dimensions();
  call.G = q_dims[q_dims.size() - 2];
  call.N = q_dims.back();
  call.H = v_dims[v_dims.size() - 2];
  call.P = v_dims.back();
  if (!read_tokens(operands, is_paged, q, 2, results, &call.tokens, &call.state))
    return ffi::Error::InvalidArgument("flaxen_recurrence: the state was not aliased");
  call.out = (*results.get<ffi::AnyBuffer>(0))->untyped_data();
  kernels().recurrence(call);
  return ffi::Error::Success();
}

ffi::Error gated_norm(ffi::AnyBuffer x, ffi::AnyBuffer gate, ffi::Buffer<ffi::F32> weight,
                      ffi::Result<ffi::AnyBuffer> out, int64_t group, float eps,
                      bool is_gate_first) {
  GatedNormCall call{};
  call.x = x.untyped_data();
  call.gate = gate.untyped_data();
  call.type = type_of(x);
  call.weight = weight.typed_data();
  call.rows = leading_size(x);
  call.width = x.dimensions().back();
  call.group = group;
  call.eps = eps;
  call.is_gate_first = is_gate_first;
  call.out = out->untyped_data();
  kernels().gated_norm(call);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace flaxen

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_linear, flaxen::linear,
                              ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<flaxen::Integers>("weights")
                                  .Attr<bool>("has_norm")
                                  .Attr<bool>("has_residual")
                                  .Attr<bool>("gated")
                                  .Attr<float>("eps"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_byte_linear, flaxen::byte_linear,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<flaxen::Integers>("weights")
                                  .Attr<bool>("has_residual")
                                  .Attr<int64_t>("gelu"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_embed, flaxen::embed,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<flaxen::Integers>("weights"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_transpose, flaxen::transpose,
                              ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<flaxen::Integers>("weights")
                                  .Attr<int64_t>("num_inputs"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_pack, flaxen::pack,
                              ffi::Ffi::Bind().Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_unpack, flaxen::unpack,
                              ffi::Ffi::Bind().Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_rms_norm, flaxen::rms_norm,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<float>("eps"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_layer_norm, flaxen::layer_norm,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<float>("eps"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_activation, flaxen::activation,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("kind"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_rope, flaxen::rope,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_log_softmax, flaxen::log_softmax,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_attention, flaxen::attention,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("page_size")
                                  .Attr<bool>("has_values")
                                  .Attr<flaxen::Integers>("strides")
                                  .Attr<int64_t>("window")
                                  .Attr<int64_t>("chunk")
                                  .Attr<float>("scale")
                                  .Attr<float>("softcap"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_head_linear, flaxen::head_linear,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_causal_attention, flaxen::causal_attention,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<bool>("has_segments")
                                  .Attr<bool>("has_sinks")
                                  .Attr<int64_t>("window")
                                  .Attr<int64_t>("chunk")
                                  .Attr<float>("scale")
                                  .Attr<float>("softcap"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_bidirectional_attention, flaxen::bidirectional_attention,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("window")
                                  .Attr<float>("scale"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_causal_gradient, flaxen::causal_gradient,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<bool>("has_segments")
                                  .Attr<bool>("has_sinks")
                                  .Attr<int64_t>("window")
                                  .Attr<int64_t>("chunk")
                                  .Attr<float>("scale")
                                  .Attr<float>("softcap"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_lora_gradient, flaxen::lora_gradient,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_sample, flaxen::sample,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::PRED>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_short_convolution, flaxen::short_convolution,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<bool>("has_bias")
                                  .Attr<bool>("is_paged")
                                  .Attr<bool>("is_silu"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_recurrence, flaxen::recurrence,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<bool>("is_delta")
                                  .Attr<bool>("is_paged")
                                  .Attr<float>("dt_min")
                                  .Attr<float>("dt_max"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_gated_norm, flaxen::gated_norm,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("group")
                                  .Attr<float>("eps")
                                  .Attr<bool>("is_gate_first"));

extern "C" {

// Returns 1 if the instruction set was chosen, 0 if the machine lacks it or the name is unknown.
int flaxen_choose_isa(const char* name) {
  return flaxen::choose_isa(name) ? 1 : 0;
}
const char* flaxen_chosen_isa() {
  return flaxen::chosen_isa();
}
void flaxen_set_num_threads(int num_threads) {
  flaxen::set_num_threads(num_threads);
}
int flaxen_num_threads() { return flaxen::num_threads(); }
// The peak multiplication rate of the chosen instruction set, in operations a second; takes
// milliseconds.
double flaxen_peak_flops(int is_bf16) {
  return flaxen::kernels().peak_flops(is_bf16 ? flaxen::Type::bf16 : flaxen::Type::f32);
}

}  // extern "C"

#pragma GCC visibility pop
