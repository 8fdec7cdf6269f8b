#include "cpu/codec_kernels.h"

#include "cpu/isa.h"

namespace uniaudio {

extern const CodecKernels codec_kernels_plain;
#if defined(UNIAUDIO_X86)
extern const CodecKernels codec_kernels_avx2;
extern const CodecKernels codec_kernels_avx512;
#elif defined(UNIAUDIO_ARM64)
extern const CodecKernels codec_kernels_neon;
#endif

const CodecKernels& codec_kernels() {
#if defined(UNIAUDIO_X86)
  static const CodecKernels& table = current_isa() == Isa::avx512  ? codec_kernels_avx512
                                     : current_isa() != Isa::plain ? codec_kernels_avx2
                                                                   : codec_kernels_plain;
  return table;
#elif defined(UNIAUDIO_ARM64)
  return current_isa() == Isa::neon ? codec_kernels_neon : codec_kernels_plain;
#else
  return codec_kernels_plain;
#endif
}

}  // namespace uniaudio
