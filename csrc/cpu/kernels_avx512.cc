#if defined(UNIAUDIO_X86)
#define UNIAUDIO_ISA_NAMESPACE avx512
#include "cpu/vec_avx512.h"
#include "cpu/kernels_body.h"

namespace uniaudio {
const Kernels* avx512_kernels() { return &avx512::table; }
}  // namespace uniaudio
#endif
