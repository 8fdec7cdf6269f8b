// The codec kernels for avx2.
#include <immintrin.h>

#include "cpu/codec_kernels.h"

namespace uniaudio {

#define UA_LANES 8
#define UA_FMA(a, b, c) ((Native)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define UA_SQRT(a) ((Native)_mm256_sqrt_ps((__m256)(a)))
#define UA_TABLE codec_kernels_avx2
#define UA_TILE 6       // most rows x panels of a tile
#define UA_TILE_ROWS 6  // most rows
#define UA_ROWS_8 0     // most rows of a tile eight panels wide, and so on
#define UA_ROWS_4 1
#define UA_ROWS_2 2
#define UA_LSTM_BLOCKS 1
#define UA_RVQ_SEARCH nullptr
#define UA_LSTM_GATES 4

#include "codec_kernels_body.h"

}  // namespace uniaudio
