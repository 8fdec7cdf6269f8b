// The codec kernels for avx512.
#include <immintrin.h>

#include "cpu/codec_kernels.h"

namespace uniaudio {

#define UA_LANES 16
#define UA_FMA(a, b, c) ((Native)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define UA_SQRT(a) ((Native)_mm512_maskz_sqrt_ps((__mmask16) - 1, (__m512)(a)))
#define UA_TABLE codec_kernels_avx512
#define UA_TILE 24       // most rows x panels of a tile
#define UA_TILE_ROWS 12  // most rows
#define UA_ROWS_8 2      // most rows of a tile eight panels wide, and so on
#define UA_ROWS_4 6
#define UA_ROWS_2 12
#define UA_LSTM_BLOCKS 2
#define UA_RVQ_SEARCH rvq_search
#define UA_LSTM_GATES 4

#define UA_EXTRA "codec_vnni.h"
#include "codec_kernels_body.h"

}  // namespace uniaudio
