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

namespace {

const CodecKernels& pick() {
  switch (current_isa()) {
#if defined(UNIAUDIO_X86)
    case Isa::avx512: return codec_kernels_avx512;
    case Isa::avxvnni:  // the codecs have no use for dot products of bytes on 256-bit registers
    case Isa::avx2: return codec_kernels_avx2;
#elif defined(UNIAUDIO_ARM64)
    case Isa::neon: return codec_kernels_neon;
#endif
    default: return codec_kernels_plain;
  }
}

}  // namespace

const CodecKernels& codec_kernels() {
  static const CodecKernels& table = pick();
  return table;
}

}  // namespace uniaudio
