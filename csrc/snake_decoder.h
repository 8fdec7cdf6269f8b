// The decoder of Qwen3-TTS's 12 Hz tokenizer; see SnakeDecoderConfig. All of it is causal: rows come
// out as soon as they go in, and nothing is held back.
#pragma once

#include "codec_layers.h"

namespace uniaudio {

void build_snake_decoder(LayerChain& chain, const LayerSource& source,
                         const SnakeDecoderConfig& config);

}  // namespace uniaudio
