// Vectors of the instruction set that this file is compiled for, in GCC's and Clang's vector
// extensions: the same source gives AVX-512, AVX2 and portable code.
//
// Included only by files that are compiled once for each instruction set. Everything here has
// internal linkage, and these files use no templates of the standard library: the linker keeps one
// copy of such a function, perhaps one with instructions that the machine lacks.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#define FLAXEN_INLINE static inline __attribute__((always_inline))

namespace flaxen {
namespace {

constexpr int W = FLAXEN_WIDTH;  // lanes of 32 bits
constexpr int kTile = 16;  // outputs in a weight's tile
constexpr int kTileVectors = kTile / W;

// Calls body(Index<0>{}) to body(Index<N - 1>{}). A plain loop is unrolled too late for the
// compiler to keep an array indexed by it in registers.
template <int I>
struct Index {
  constexpr operator int() const { return I; }
};
template <int N, class Body>
FLAXEN_INLINE void unroll(const Body& body) {
  if constexpr (N > 0) {
    unroll<N - 1>(body);
    body(Index<N - 1>{});
  }
}
#define FLAXEN_LAMBDA __attribute__((always_inline))

typedef float f32v __attribute__((vector_size(4 * W)));
typedef int32_t i32v __attribute__((vector_size(4 * W)));
typedef uint32_t u32v __attribute__((vector_size(4 * W)));
typedef int8_t i8v __attribute__((vector_size(W)));
typedef uint16_t u16v __attribute__((vector_size(2 * W)));
typedef uint8_t u8v __attribute__((vector_size(W)));

// Unaligned loads and stores of any type.
template <class V>
struct __attribute__((packed, may_alias)) Unaligned {
  V value;
};
template <class V>
FLAXEN_INLINE V load(const void* from) {
  return static_cast<const Unaligned<V>*>(from)->value;
}
template <class V>
FLAXEN_INLINE void store(void* to, V value) {
  static_cast<Unaligned<V>*>(to)->value = value;
}

FLAXEN_INLINE f32v splat(float x) { return x - f32v{}; }
FLAXEN_INLINE f32v as_f32(u32v bits) { return (f32v)bits; }
FLAXEN_INLINE f32v max(f32v a, f32v b) { return a > b ? a : b; }

// A vector of 32-bit words holds pairs of bfloat16: these return the first and the second of each.
FLAXEN_INLINE f32v first_of_pairs(u32v pairs) { return (f32v)(pairs << 16); }
FLAXEN_INLINE f32v second_of_pairs(u32v pairs) { return (f32v)(pairs & 0xffff0000u); }

FLAXEN_INLINE float bf16_to_f32(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Rounds to nearest, ties to even; NaN stays NaN.
FLAXEN_INLINE uint16_t f32_to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

FLAXEN_INLINE u32v f32_to_bf16_bits(f32v value) {  // in the lower half of each word
  const u32v bits = (u32v)value;
  const u32v rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return (bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16 | 0x40) : rounded;
}
#if defined(__AVX512BF16__)
// The processor's conversion, which treats subnormal numbers as zero. Returned as 256 bits, because
// compilers name the bfloat16 type differently.
FLAXEN_INLINE __m256i narrow(f32v value) {
  __m256i narrowed;
  __asm__("vcvtneps2bf16 %1, %0" : "=v"(narrowed) : "v"(value));
  return narrowed;
}
FLAXEN_INLINE f32v round_to_bf16(f32v value) {
  return (f32v)((u32v)_mm512_maskz_cvtepu16_epi32(0xffff, narrow(value)) << 16);
}
#else
FLAXEN_INLINE f32v round_to_bf16(f32v value) { return (f32v)(f32_to_bf16_bits(value) << 16); }
#endif

// GCC 12 converts a vector in halves, with five instructions instead of one.
FLAXEN_INLINE f32v load_bf16(const uint16_t* from) {
#if defined(__AVX512F__) && FLAXEN_WIDTH == 16
  return (f32v)((u32v)_mm512_maskz_cvtepu16_epi32(0xffff, load<__m256i>(from)) << 16);
#elif defined(__AVX2__) && FLAXEN_WIDTH == 8
  return (f32v)_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(from)), 16);
#else
  return (f32v)(__builtin_convertvector(load<u16v>(from), u32v) << 16);
#endif
}
FLAXEN_INLINE void store_bf16(uint16_t* to, f32v value) {
#if defined(__AVX512BF16__)
  flaxen::store(to, narrow(value));
#elif defined(__AVX2__) && FLAXEN_WIDTH == 8
  const __m256i bits = (__m256i)f32_to_bf16_bits(value);
  store(to, _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1)));
#else
  store(to, __builtin_convertvector(f32_to_bf16_bits(value), u16v));
#endif
}

FLAXEN_INLINE float f16_to_f32(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, mantissa = bits & 1023;
  if (exponent == 0) {
    const float tiny = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -tiny : tiny;
  }
  const uint32_t wide =
      sign | (exponent == 31 ? 255u : exponent + 112) << 23 | mantissa << 13;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

FLAXEN_INLINE f32v load_f16(const uint16_t* from) {
#if defined(__AVX512F__) && FLAXEN_WIDTH == 16
  return (f32v)_mm512_maskz_cvtph_ps(0xffff, load<__m256i>(from));
#elif defined(__F16C__) && FLAXEN_WIDTH == 8
  return (f32v)_mm256_cvtph_ps(load<__m128i>(from));
#else
  f32v value;
  for (int i = 0; i < W; ++i) value[i] = f16_to_f32(from[i]);
  return value;
#endif
}

FLAXEN_INLINE i32v load_i8(const int8_t* from) {
#if defined(__AVX512F__) && FLAXEN_WIDTH == 16
  return (i32v)_mm512_maskz_cvtepi8_epi32(0xffff, load<__m128i>(from));
#elif defined(__AVX2__) && FLAXEN_WIDTH == 8
  return (i32v)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#else
  return __builtin_convertvector(load<i8v>(from), i32v);
#endif
}

// sum += a * b with one rounding, if the machine has it. Explicit, because a compiler fuses or not
// depending on the surrounding code, and a row would get other bits in another block of rows. In
// assembly, because GCC 12 prefers forms that overwrite a factor, and then keeps half the sums in
// memory.
FLAXEN_INLINE void add_product(f32v& sum, f32v a, f32v b) {
#if defined(__AVX512F__) && FLAXEN_WIDTH == 16
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#elif defined(__FMA__) && FLAXEN_WIDTH == 8
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
#elif defined(__FMA__) || defined(__aarch64__)
  for (int i = 0; i < W; ++i) sum[i] = __builtin_fmaf(a[i], b[i], sum[i]);
#else
  sum += a * b;
#endif
}

#if defined(FLAXEN_BF16)
constexpr bool kHasBf16 = true;

// sum += a * b for both bfloat16 of each word, the second's product first. The processor treats
// subnormal numbers as zero.
FLAXEN_INLINE void add_pair_products(f32v& sum, u32v a, u32v b) {
#if defined(__AVX512BF16__)
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#else  // an emulated build
  add_product(sum, second_of_pairs(a), second_of_pairs(b));
  add_product(sum, first_of_pairs(a), first_of_pairs(b));
#endif
}
#else
constexpr bool kHasBf16 = false;
#endif

FLAXEN_INLINE float sum_lanes(f32v v) {  // in a fixed order
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
}

FLAXEN_INLINE float max_lanes(f32v v) {  // for numbers; if one is NaN the result is any of them
#if defined(__AVX512F__) && FLAXEN_WIDTH == 16
  __m256 halves[2];
  std::memcpy(halves, &v, sizeof(v));
  const __m256 eight = _mm256_max_ps(halves[0], halves[1]);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
  float most = v[0];
  for (int i = 1; i < W; ++i) most = v[i] > most ? v[i] : most;
  return most;
#endif
}

// e^x to within 2 units in the last place: x = n log 2 + r, and a polynomial in r.
FLAXEN_INLINE f32v exp(f32v x) {
#if defined(__AVX512F__) && FLAXEN_WIDTH == 16
  // If one is NaN these return the second operand, so NaN stays NaN. scalef handles underflow.
  const __m512 below = _mm512_maskz_min_ps(0xffff, (__m512)splat(88.37f), (__m512)x);
  const f32v clamped = (f32v)_mm512_maskz_max_ps(0xffff, (__m512)splat(-126), below);
  const f32v n = (f32v)_mm512_maskz_roundscale_ps(0xffff, (__m512)(clamped * 1.44269504f), 0);
#else
  const f32v clamped = max(x < 88.37f ? x : splat(88.37f), splat(-87.33f));
  const f32v shifted = clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  const f32v n = shifted - 12582912.0f;
#endif
  f32v r = clamped - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  f32v p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
#if defined(__AVX512F__) && FLAXEN_WIDTH == 16
  return (f32v)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
#else
  const f32v power = (f32v)(((i32v)shifted + 127) << 23);
  const f32v result = p * power;
  return x == x ? (x < -87.33f ? f32v{} : result) : x;  // NaN stays NaN
#endif
}

// Reads and writes activations of either type as float32.
template <class T>
struct Io;
template <>
struct Io<float> {
  static constexpr bool rounds = false;
  FLAXEN_INLINE f32v load(const float* p) { return flaxen::load<f32v>(p); }
  FLAXEN_INLINE void store(float* p, f32v v) { flaxen::store(p, v); }
  FLAXEN_INLINE float load1(const float* p) { return *p; }
  FLAXEN_INLINE void store1(float* p, float v) { *p = v; }
};
template <>
struct Io<uint16_t> {
  static constexpr bool rounds = true;
  FLAXEN_INLINE f32v load(const uint16_t* p) { return load_bf16(p); }
  FLAXEN_INLINE void store(uint16_t* p, f32v v) { store_bf16(p, v); }
  FLAXEN_INLINE float load1(const uint16_t* p) { return bf16_to_f32(*p); }
  FLAXEN_INLINE void store1(uint16_t* p, float v) { *p = f32_to_bf16(v); }
};

}  // namespace
}  // namespace flaxen
