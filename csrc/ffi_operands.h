// What the targets of XLA's foreign function interface share: the operands of a weight.
#pragma once
#include "kernels.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace flaxen {
namespace {

using Integers = ffi::Span<const int64_t>;

Type type_of(const ffi::AnyBuffer& buffer) {
  return buffer.element_type() == ffi::DataType::BF16 ? Type::bf16 : Type::f32;
}

inline PageFormat page_format_of(const ffi::AnyBuffer& pages) {
  switch (pages.element_type()) {
    case ffi::DataType::S8: return PageFormat::int8;
    case ffi::DataType::F8E4M3FN: return PageFormat::fp8_e4m3;
    default: return PageFormat::plain;
  }
}

inline int64_t leading_size(const ffi::AnyBuffer& buffer) {
  const auto dims = buffer.dimensions();
  int64_t size = 1;
  for (size_t i = 0; i + 1 < dims.size(); ++i) size *= dims[i];
  return size;
}

// Hands out the operands in order.
class Operands {
 public:
  explicit Operands(ffi::RemainingArgs args) : args_(args) {}
  ffi::AnyBuffer next() { return *args_.get<ffi::AnyBuffer>(index_++); }
  bool has(size_t count) const { return index_ + count <= args_.size(); }

 private:
  ffi::RemainingArgs args_;
  size_t index_ = 0;
};

// The attributes of a weight, in this order: format, outputs, group, zero, has mins, row in the
// table of addresses or -1, type of scales there, has bias, number of adapters, their rank.
constexpr size_t kWeightFields = 10;

// Data, scales and mins as separate operands.
bool read_arrays(Operands& operands, bool is_quantized, bool has_mins, Weight* weight) {
  if (!operands.has(1 + is_quantized + has_mins)) return false;
  weight->data = operands.next().untyped_data();
  if (is_quantized) {
    const auto scales = operands.next();
    weight->scales = scales.untyped_data();
    const auto type = scales.element_type();
    weight->scale_type = type == ffi::DataType::F32  ? Scales::f32
                         : type == ffi::DataType::U8 ? Scales::e8m0
                                                     : Scales::f16;
  }
  if (has_mins) weight->mins = operands.next().untyped_data();
  return true;
}

// The same by address: see flaxen/kernels/linear/bound.py.
bool read_addresses(Operands& operands, int64_t row, Scales scale_type, Weight* weight) {
  if (!operands.has(1)) return false;
  const auto table = operands.next();  // [n, 6] halves of addresses
  const auto dims = table.dimensions();
  if (table.element_type() != ffi::DataType::U32 || dims.size() != 2 || dims[1] != 6 || row >= dims[0])
    return false;
  const auto* addresses = static_cast<const uint64_t*>(table.untyped_data()) + 3 * row;
  weight->data = reinterpret_cast<const void*>(addresses[0]);
  weight->scales = reinterpret_cast<const void*>(addresses[1]);
  weight->mins = reinterpret_cast<const void*>(addresses[2]);
  weight->scale_type = scale_type;
  return true;
}

bool read_weight(Operands& operands, const int64_t* fields, Weight* weight) {
  *weight = Weight{};
  weight->format = static_cast<Format>(fields[0]);
  weight->num_outputs = fields[1];
  weight->group = fields[2];
  weight->zero = static_cast<int32_t>(fields[3]);
  const bool is_quantized = weight->format != Format::f32 && weight->format != Format::bf16;
  const bool has_mins = fields[4] != 0, has_bias = fields[7] != 0, has_adapters = fields[9] != 0;
  if (!(fields[5] >= 0 ? read_addresses(operands, fields[5], static_cast<Scales>(fields[6]), weight)
                       : read_arrays(operands, is_quantized, has_mins, weight)))
    return false;
  if (!operands.has(has_bias + (has_adapters ? 4 : 0))) return false;
  if (has_bias) weight->bias = operands.next().untyped_data();
  if (has_adapters) {
    weight->adapters.a = static_cast<const float*>(operands.next().untyped_data());
    weight->adapters.b = static_cast<const float*>(operands.next().untyped_data());
    weight->adapters.scales = static_cast<const float*>(operands.next().untyped_data());
    weight->adapters.ids = static_cast<const int32_t*>(operands.next().untyped_data());
    weight->adapters.num = fields[8];
    weight->adapters.rank = fields[9];
  }
  return true;
}

}  // namespace
}  // namespace flaxen
