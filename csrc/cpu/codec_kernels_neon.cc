#if defined(UNIAUDIO_ARM64)
#define UNIAUDIO_ISA_NAMESPACE neon
#include "cpu/vec_neon.h"
#include "cpu/codec_kernels_body.h"

namespace uniaudio {
const CodecKernels* neon_codec_kernels() { return &neon::codec_table; }
}  // namespace uniaudio
#endif
