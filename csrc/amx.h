// AMX's tiles, or an emulation of them under FLAXEN_EMULATE, for machines that lack AMX.
//
// Included only by files that are compiled once for each instruction set, after simd.h.
// Deliberately knows nothing of what is multiplied.
#pragma once

namespace flaxen {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileRowBytes = 64;
constexpr int kTileBytes = kTileRows * kTileRowBytes;  // 16 x 16 float32, or 16 x 32 bfloat16

// Vectors take subnormal numbers for zero, and give zero for them, as tiles always do, while an object
// of this type lives.
class FlushSubnormals {
 public:
  FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kOfResults | kOfInputs); }
  ~FlushSubnormals() { _mm_setcsr(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  static constexpr unsigned kOfResults = 0x8000, kOfInputs = 0x40;
  const unsigned before_;
};

#if defined(FLAXEN_EMULATE)

// TDPBF16PS as in Intel's manual: the even and the odd products are summed separately, by fused
// multiply-adds from zero, then added to each other, and to the tile. The hardware also treats
// subnormal numbers as zero; the emulation keeps them.
alignas(64) thread_local float emulated_tiles[8][kTileRows * kTile];

struct Tiles {};

template <int T>
FLAXEN_INLINE void tile_zero() {
  std::memset(emulated_tiles[T], 0, kTileBytes);
}
template <int T>
FLAXEN_INLINE void tile_load(const void* from) {
  std::memcpy(emulated_tiles[T], from, kTileBytes);
}
template <int T>
FLAXEN_INLINE void tile_store(void* to) {
  std::memcpy(to, emulated_tiles[T], kTileBytes);
}
inline void emulated_multiply(float* sums, const float* a, const float* b) {
  for (int r = 0; r < kTileRows; ++r) {
    for (int v = 0; v < kTileVectors; ++v) {
      f32v even = {}, odd = {};
      for (int p = 0; p < kTileRows; ++p) {
        uint32_t pair;
        std::memcpy(&pair, a + r * kTile + p, 4);
        const u32v weights = load<u32v>(b + p * kTile + v * W);
        add_product(even, first_of_pairs(weights),
                    splat(bf16_to_f32(static_cast<uint16_t>(pair))));
        add_product(odd, second_of_pairs(weights),
                    splat(bf16_to_f32(static_cast<uint16_t>(pair >> 16))));
      }
      float* at = sums + r * kTile + v * W;
      store(at, load<f32v>(at) + (even + odd));
    }
  }
}
template <int Sums, int A, int B>
FLAXEN_INLINE void tile_multiply() {
  emulated_multiply(emulated_tiles[Sums], emulated_tiles[A], emulated_tiles[B]);
}

#else

// Inline assembly, because compilers' headers differ: GCC 12's say that a configuration is 8 bytes,
// and that loading a tile reads no memory.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64, "as the processor reads it");
const TileConfig kTileConfig;

// Tiles may be used while an object of this type lives. Its destructor releases them, so that the
// system need not save 8 KB for a thread that waits for its next task.
struct Tiles {
  Tiles() { __asm__ volatile("ldtilecfg %0" ::"m"(kTileConfig) : "memory"); }
  ~Tiles() { __asm__ volatile("tilerelease" ::: "memory"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

template <int T>
FLAXEN_INLINE void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
FLAXEN_INLINE void tile_load(const void* from) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from),
                   "r"(static_cast<int64_t>(kTileRowBytes)), "i"(T)
                   : "memory");
}
template <int T>
FLAXEN_INLINE void tile_store(void* to) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to),
                   "r"(static_cast<int64_t>(kTileRowBytes)), "i"(T)
                   : "memory");
}
template <int Sums, int A, int B>
FLAXEN_INLINE void tile_multiply() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(A), "i"(B));
}

#endif

}  // namespace
}  // namespace flaxen
