// The codec kernels in plain C++: four lanes, which the compiler maps to SSE2 or NEON.
#include "cpu/codec_kernels.h"

namespace uniaudio {

#define UA_LANES 4
// a * b + c in two roundings: the portable tier has no fused multiply-add to rely on
#define UA_FMA(a, b, c) ((a) * (b) + (c))
#define UA_SQRT(a) (Native{__builtin_sqrtf((a)[0]), __builtin_sqrtf((a)[1]), __builtin_sqrtf((a)[2]), __builtin_sqrtf((a)[3])})
#define UA_TABLE codec_kernels_plain
#define UA_ROWS_1 1
#define UA_PANELS_1 2
#define UA_ROWS_2 2
#define UA_PANELS_2 1
#define UA_ROWS_3 2
#define UA_PANELS_3 1
#define UA_LSTM_BLOCKS 1
#define UA_LSTM_GATES 2

#include "codec_kernels_body.h"

}  // namespace uniaudio
