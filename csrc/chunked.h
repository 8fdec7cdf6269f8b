// Codecs that work in chunks (EnCodec 48 kHz): each chunk of samples is a clip of its own, padded
// with zeros to full length; decoded chunks are joined by linear cross-fades. A chunk's loudness
// may be taken out before coding: its scale then travels beside the codes.
//
// Chunk i covers the samples [i * stride, i * stride + size), for every i with i * stride < N; its
// frames follow those of chunk i - 1.
#pragma once

#include <memory>
#include <vector>

#include "codec.h"

namespace uniaudio {

// RMS of the channels' mean over `rows` of samples [rows][channels], + 1e-8: never zero.
float loudness(const float* rows, size_t n, int channels);

std::unique_ptr<EncoderStream> make_chunked_encoder(std::shared_ptr<const Codec> codec,
                                                    std::unique_ptr<EncoderStream> inner);
std::unique_ptr<DecoderStream> make_chunked_decoder(std::shared_ptr<const Codec> codec,
                                                    std::unique_ptr<DecoderStream> inner);

}  // namespace uniaudio
