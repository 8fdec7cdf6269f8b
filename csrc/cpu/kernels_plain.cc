#define UNIAUDIO_ISA_NAMESPACE plain
#include "cpu/vec_plain.h"
#include "cpu/kernels_body.h"

namespace uniaudio {
const Kernels* plain_kernels() { return &plain::table; }
}  // namespace uniaudio
