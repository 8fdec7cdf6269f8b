#if defined(UNIAUDIO_X86)
#define UNIAUDIO_ISA_NAMESPACE avx512
#include "cpu/vec_avx512.h"
#include "cpu/codec_kernels_body.h"

namespace uniaudio {
const CodecKernels* avx512_codec_kernels() { return &avx512::codec_table; }
}  // namespace uniaudio
#endif
