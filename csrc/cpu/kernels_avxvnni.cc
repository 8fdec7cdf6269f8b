#if defined(UNIAUDIO_X86)
#define UNIAUDIO_ISA_NAMESPACE avxvnni
#include "cpu/vec_avx2.h"
#include "cpu/kernels_body.h"

namespace uniaudio {
const Kernels* avxvnni_kernels() { return &avxvnni::table; }
}  // namespace uniaudio
#endif
