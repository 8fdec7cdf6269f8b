#if defined(UNIAUDIO_X86)
#define UNIAUDIO_ISA_NAMESPACE avx2
#include "cpu/vec_avx2.h"
#include "cpu/codec_kernels_body.h"

namespace uniaudio {
const CodecKernels* avx2_codec_kernels() { return &avx2::codec_table; }
}  // namespace uniaudio
#endif
