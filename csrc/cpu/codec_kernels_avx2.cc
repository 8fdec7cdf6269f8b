// The codec kernels for avx2.
#include <immintrin.h>

#include "cpu/codec_kernels.h"

namespace uniaudio {

#define UA_LANES 8
#define UA_FMA(a, b, c) ((Native)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define UA_SQRT(a) ((Native)_mm256_sqrt_ps((__m256)(a)))
#define UA_TABLE codec_kernels_avx2
#define UA_ROWS_1 1
#define UA_PANELS_1 4
#define UA_ROWS_2 2
#define UA_PANELS_2 2
#define UA_ROWS_3 6
#define UA_PANELS_3 1
#define UA_LSTM_BLOCKS 1
#define UA_LSTM_GATES 4

#include "codec_kernels_body.h"

}  // namespace uniaudio
