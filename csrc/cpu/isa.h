// Which instruction set the kernels use: the best that this machine has, or the one that
// UNIAUDIO_ISA names.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace uniaudio {

enum class Isa { plain, avx2, avxvnni, avx512, neon };  // avxvnni: AVX2 with 8-bit dot products

const char* isa_name(Isa isa);
std::vector<Isa> available_isas();  // best first; always ends with plain
// decided once; std::runtime_error when UNIAUDIO_ISA names one that isn't there
Isa current_isa();

// Bytes of the last-level cache, as the system tells; 16 MiB where it doesn't.
int64_t last_level_cache();

}  // namespace uniaudio
