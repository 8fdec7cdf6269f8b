// The codec kernels in plain C++: four lanes, which the compiler maps to SSE2 or NEON.
#include "cpu/codec_kernels.h"

namespace uniaudio {

#define UA_LANES 4
// a * b + c in two roundings: the portable tier has no fused multiply-add to rely on
#define UA_FMA(a, b, c) ((a) * (b) + (c))
#define UA_SQRT(a)                                                                   \
  (Native{__builtin_sqrtf((a)[0]), __builtin_sqrtf((a)[1]), __builtin_sqrtf((a)[2]), \
          __builtin_sqrtf((a)[3])})
#define UA_TABLE codec_kernels_plain
#define UA_TILE 2       // most rows x panels of a tile
#define UA_TILE_ROWS 2  // most rows
#define UA_ROWS_8 0     // most rows of a tile eight panels wide, and so on
#define UA_ROWS_4 0
#define UA_ROWS_2 1
#define UA_LSTM_BLOCKS 1
#define UA_RVQ_SEARCH nullptr
#define UA_LSTM_GATES 2

#include "codec_kernels_body.h"

}  // namespace uniaudio
