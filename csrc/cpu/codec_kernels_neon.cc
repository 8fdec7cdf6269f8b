// The codec kernels for 64-bit ARM.
#if defined(UNIAUDIO_ARM64)
#include <arm_neon.h>

#include "cpu/codec_kernels.h"

namespace uniaudio {

#define UA_LANES 4
#define UA_FMA(a, b, c) ((Native)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#define UA_SQRT(a) ((Native)vsqrtq_f32((float32x4_t)(a)))
#define UA_TABLE codec_kernels_neon
#define UA_TILE 6       // most rows x panels of a tile: 24 of the 32 registers
#define UA_TILE_ROWS 6  // most rows
#define UA_ROWS_8 0     // most rows of a tile eight panels wide, and so on
#define UA_ROWS_4 1
#define UA_ROWS_2 3
#define UA_LSTM_BLOCKS 1
#define UA_RVQ_SEARCH nullptr
#define UA_LSTM_GATES 4

#include "codec_kernels_body.h"

}  // namespace uniaudio
#endif
