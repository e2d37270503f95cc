#include "isa.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

namespace flaxen {
namespace {

bool always() { return true; }

#if defined(__x86_64__)
#if defined(FLAXEN_EMULATE)  // all instruction sets, for tests on machines that lack some
bool has_avx512() { return true; }
bool has_avx512_bf16() { return true; }
bool has_amx() { return true; }
#else
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_avx512_bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni");
}

// A process must ask the operating system once, before threads use tiles, to save their state.
// https://docs.kernel.org/arch/x86/xstate.html
bool has_amx() {
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
  __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  const bool has_bf16 = edx >> 22 & 1, has_tiles = edx >> 24 & 1;
  return has_avx512() && has_bf16 && has_tiles && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}
#endif
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
#endif

struct Isa {
  const char* name;
  const Kernels* kernels;
  bool (*is_supported)();
};

constexpr Isa kIsas[] = {  // best first
#if defined(__x86_64__)
    {"amx", &kAmxKernels, has_amx},
    {"avx512_bf16", &kAvx512Bf16Kernels, has_avx512_bf16},
    {"avx512", &kAvx512Kernels, has_avx512},
    {"avx2", &kAvx2Kernels, has_avx2},
#endif
    {"portable", &kPortableKernels, always},
};

const Isa* best() {
  for (const Isa& isa : kIsas)
    if (isa.is_supported()) return &isa;
  return nullptr;  // not reached: the last always is
}

std::atomic<const Isa*>& chosen() {
  static std::atomic<const Isa*> isa{best()};
  return isa;
}

}  // namespace

bool choose_isa(const char* name) {
  for (const Isa& isa : kIsas) {
    if (std::strcmp(isa.name, name) == 0 && isa.is_supported()) {
      chosen() = &isa;
      return true;
    }
  }
  return false;
}

const char* chosen_isa() { return chosen().load()->name; }
const Kernels& kernels() { return *chosen().load(std::memory_order_relaxed)->kernels; }

}  // namespace flaxen
