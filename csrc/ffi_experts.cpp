// The kernels of experts as targets of XLA's foreign function interface; see ffi.cpp.
#include "ffi_operands.h"
#include "isa.h"
#include "kernels.h"

namespace flaxen {
namespace {

// The attributes of a gate: its kind, and alpha, limit, offset.
Gate read_gate(int64_t kind, ffi::Span<const float> numbers) {
  return {static_cast<Gate::Kind>(kind), numbers[0], numbers[1], numbers[2]};
}

ffi::Error experts(ffi::AnyBuffer x, ffi::Buffer<ffi::S32> ids, ffi::Buffer<ffi::F32> weights,
                   ffi::RemainingArgs args, ffi::Result<ffi::AnyBuffer> out, Integers layers,
                   int64_t num_experts, bool has_residual, bool scales_inputs, int64_t gate_kind,
                   ffi::Span<const float> gate) {
  ExpertsCall call{};
  Operands operands(args);
  if (layers.size() != 3 * kWeightFields || gate.size() != 3 || !operands.has(has_residual))
    return ffi::Error::InvalidArgument("flaxen_experts: operands do not match the attributes");
  if (has_residual) {
    const auto residual = operands.next();
    call.residual = residual.untyped_data();
    call.residual_type = type_of(residual);
  }
  for (size_t i = 0; i < 3; ++i)
    if (!read_weight(operands, layers.begin() + i * kWeightFields, &call.layers[i]))
      return ffi::Error::InvalidArgument("flaxen_experts: an operand of a weight is missing");
  call.x = x.untyped_data();
  call.type = type_of(x);
  call.T = x.dimensions()[0];
  call.D = x.dimensions()[1];
  call.F = call.layers[0].num_outputs;
  call.num_experts = num_experts;
  call.k = ids.dimensions()[1];
  call.ids = ids.typed_data();
  call.weights = weights.typed_data();
  call.scales_inputs = scales_inputs;
  call.gate = read_gate(gate_kind, gate);
  call.out_type = type_of(*out);
  call.out = out->untyped_data();
  kernels().experts(call);
  return ffi::Error::Success();
}

// Starts that would make the kernels read beyond the rows are refused.
bool are_starts(ffi::Buffer<ffi::S32> starts, int64_t rows) {
  const int32_t* at = starts.typed_data();
  const size_t count = starts.element_count();
  for (size_t i = 0; i < count; ++i)
    if (at[i] < (i == 0 ? 0 : at[i - 1]) || at[i] > rows) return false;
  return count > 0;
}

ffi::Error grouped_linear(ffi::AnyBuffer x, ffi::Buffer<ffi::S32> starts, ffi::RemainingArgs args,
                          ffi::Result<ffi::AnyBuffer> out, Integers weights) {
  Operands operands(args);
  GroupedCall call{};
  call.linear.rows = x.dimensions()[0];
  if (weights.size() != kWeightFields || !are_starts(starts, call.linear.rows))
    return ffi::Error::InvalidArgument("flaxen_grouped_linear: operands do not match");
  Weight weight;
  if (!read_weight(operands, weights.begin(), &weight))
    return ffi::Error::InvalidArgument("flaxen_grouped_linear: an operand is missing");
  weight.out = out->untyped_data();
  call.starts = starts.typed_data();
  call.num_experts = static_cast<int64_t>(starts.element_count()) - 1;
  call.linear.x = x.untyped_data();
  call.linear.type = type_of(x);
  call.linear.num_inputs = x.dimensions()[1];
  call.linear.out_type = type_of(*out);
  call.linear.num_weights = 1;
  call.linear.weights = &weight;
  kernels().grouped_linear(call);
  return ffi::Error::Success();
}

ffi::Error experts_gradient(ffi::AnyBuffer h, ffi::AnyBuffer out_bar, ffi::Buffer<ffi::S32> starts,
                            ffi::Result<ffi::AnyBuffer> out) {
  ExpertsGradientCall call{};
  call.S = h.dimensions()[0];
  if (!are_starts(starts, call.S))
    return ffi::Error::InvalidArgument("flaxen_experts_gradient: starts beyond the rows");
  call.h = h.untyped_data();
  call.out_bar = out_bar.untyped_data();
  call.type = type_of(h);
  call.I = h.dimensions()[1];
  call.O = out_bar.dimensions()[1];
  call.num_experts = static_cast<int64_t>(starts.element_count()) - 1;
  call.starts = starts.typed_data();
  call.out_type = type_of(*out);
  call.out = out->untyped_data();
  kernels().experts_gradient(call);
  return ffi::Error::Success();
}

ffi::Error transpose_experts(ffi::RemainingArgs args, ffi::Result<ffi::AnyBuffer> out,
                             Integers weights, int64_t num_inputs, int64_t num_experts) {
  TransposeCall call{};
  Operands operands(args);
  if (weights.size() != kWeightFields || !read_weight(operands, weights.begin(), &call.weight))
    return ffi::Error::InvalidArgument("flaxen_transpose_experts: operands do not match");
  call.num_inputs = num_inputs;
  call.out = out->untyped_data();
  kernels().transpose_experts(call, num_experts);
  return ffi::Error::Success();
}

ffi::Error routing(ffi::Buffer<ffi::F32> logits, ffi::RemainingArgs bias,
                   ffi::Result<ffi::Buffer<ffi::S32>> ids,
                   ffi::Result<ffi::Buffer<ffi::F32>> weights, bool is_sigmoid, bool normalize,
                   int64_t num_groups, int64_t groups_used, int64_t group_best, float epsilon,
                   float scale) {
  RoutingCall call{};
  call.logits = logits.typed_data();
  if (bias.size() > 0)
    call.bias = static_cast<const float*>(bias.get<ffi::AnyBuffer>(0)->untyped_data());
  call.T = logits.dimensions()[0];
  call.E = logits.dimensions()[1];
  call.k = ids->dimensions()[1];
  call.score = is_sigmoid ? RoutingCall::sigmoid : RoutingCall::softmax;
  call.num_groups = num_groups;
  call.groups_used = groups_used;
  call.group_best = group_best;
  call.normalize = normalize;
  call.epsilon = epsilon;
  call.scale = scale;
  call.ids = ids->typed_data();
  call.weights = weights->typed_data();
  kernels().routing(call);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace flaxen

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_experts, flaxen::experts,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<flaxen::Integers>("layers")
                                  .Attr<int64_t>("num_experts")
                                  .Attr<bool>("has_residual")
                                  .Attr<bool>("scales_inputs")
                                  .Attr<int64_t>("gate_kind")
                                  .Attr<ffi::Span<const float>>("gate"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_grouped_linear, flaxen::grouped_linear,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<flaxen::Integers>("weights"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_experts_gradient, flaxen::experts_gradient,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_transpose_experts, flaxen::transpose_experts,
                              ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<flaxen::Integers>("weights")
                                  .Attr<int64_t>("num_inputs")
                                  .Attr<int64_t>("num_experts"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_routing, flaxen::routing,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<bool>("is_sigmoid")
                                  .Attr<bool>("normalize")
                                  .Attr<int64_t>("num_groups")
                                  .Attr<int64_t>("groups_used")
                                  .Attr<int64_t>("group_best")
                                  .Attr<float>("epsilon")
                                  .Attr<float>("scale"));

#pragma GCC visibility pop
