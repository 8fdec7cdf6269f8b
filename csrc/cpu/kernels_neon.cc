#if defined(UNIAUDIO_ARM64)
#define UNIAUDIO_ISA_NAMESPACE neon
#include "cpu/vec_neon.h"
#include "cpu/kernels_body.h"

namespace uniaudio {
const Kernels* neon_kernels() { return &neon::table; }
}  // namespace uniaudio
#endif
