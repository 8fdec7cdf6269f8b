#if defined(UNIAUDIO_X86)
#define UNIAUDIO_ISA_NAMESPACE avx2
#include "cpu/vec_avx2.h"
#include "cpu/kernels_body.h"

namespace uniaudio {
const Kernels* avx2_kernels() { return &avx2::table; }
}  // namespace uniaudio
#endif
