#define UNIAUDIO_ISA_NAMESPACE plain
#include "cpu/vec_plain.h"
#include "cpu/codec_kernels_body.h"

namespace uniaudio {
const CodecKernels* plain_codec_kernels() { return &plain::codec_table; }
}  // namespace uniaudio
