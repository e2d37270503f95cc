// Which instruction set the kernels use: the best that the machine has, or a lower one on request.
#pragma once
#include "kernels.h"

namespace flaxen {

// Chooses "portable", "avx2", "avx512", "avx512_bf16" or "amx". False, and no change, if the machine
// lacks it.
bool choose_isa(const char* name);
const char* chosen_isa();
const Kernels& kernels();

}  // namespace flaxen
