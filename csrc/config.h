// The configuration structs of uniaudio_engine/storage/config.py, read from the same JSON with the
// same checks. Unknown or missing keys, wrong types and values out of range are
// std::invalid_argument with the key's full name.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "step_rules.h"

namespace uniaudio {

enum class Activation { gelu, gelu_tanh, swiglu };

struct StackConfig {
  int layers = 0, width = 0, heads = 0;
  int kv_heads = 0;   // resolved: never 0 after parsing
  int mlp_width = 0;  // resolved: never 0 after parsing
  bool rmsnorm = true;
  float norm_eps = 1e-5f;
  Activation activation = Activation::swiglu;
  bool rope = true;  // else learned positions
  double rope_base = 10000.0;
  std::vector<double> rope_frequencies;  // radians per position of each pair; empty: of rope_base
  int head_width = 0;                    // 0: width / heads
  bool qk_norm = false;                  // RMSNorm over each head's query and key, before rope
  bool final_norm = true;
  int window = 0;  // positions that a query sees, its own included; 0: all before it
  bool q_bias = false, k_bias = false, v_bias = false, o_bias = false, mlp_bias = false;

  bool gated() const { return activation == Activation::swiglu; }
  int head_dim() const { return head_width > 0 ? head_width : width / heads; }
  int query_width() const { return heads * head_dim(); }
  int key_width() const { return kv_heads * head_dim(); }  // and of values
  // Of each pair of a head's dimensions, as given or else of rope_base.
  std::vector<double> frequencies() const;
};

struct LmConfig {
  int vocab_size = 0, num_codebooks = 0;
  StackConfig global, local;
  bool concat = false;   // frame embedding: concat of K rows of D/K, else the sum of K rows of D
  bool add = false;      // local conditioning: a part of h is added at each slot, else h as prefix
  bool project = false;  // with add: each slot has its own map of the whole h, else its slice of h
  int start_id = 0, local_start_id = 1;
  int max_frames = 4096;
  int aligned_slots = 0, aligned_vocab = 0;
  std::map<std::string, int> continuous;
  bool tied_local = false;  // the local stack embeds with the global stack's table
  bool tied_head = false;   // the output head is the local stack's table
  // above 0: slot 0 is predicted from the global output, and is one of these ids
  int global_head_start = 0, global_head_size = 0;
  // above 0: the ids that the local stack's own table and the output head have; any other has a row
  // of zeros and is never drawn there
  int local_table_start = 0, local_table_size = 0;
  bool slot_weights = false;  // the local stack's projections are others at each slot
  // Slots after slot 0 whose ids are given, never predicted. The local stack begins with the sum of
  // theirs and slot 0's rows.
  int given_slots = 0;
  // Slot k of frame t is predicted at step t + delays[k]; empty: at step t.
  std::vector<int> delays;
  // [rows, K]: the ids of the places before a slot begins, by step; the last row is that of all
  // later steps, and of the places after a slot's last frame.
  std::vector<int32_t> delay_ids;

  int delay(int slot) const { return delays.empty() ? 0 : delays[size_t(slot)]; }
  int max_delay() const {
    return delays.empty() ? 0 : *std::max_element(delays.begin(), delays.end());
  }
  Delays delay_rules() const {
    return {delays.empty() ? nullptr : delays.data(), delay_ids.data(),
            int32_t(delay_ids.size()) / num_codebooks, num_codebooks, max_delay()};
  }
  int embed_width() const { return concat ? global.width / num_codebooks : global.width; }
  // tensors
  std::string local_table() const { return tied_local ? "global.embed" : "local.embed"; }
  std::string head_table() const { return tied_head ? local_table() : "head"; }
  int local_rows() const { return local_table_size > 0 ? local_table_size : vocab_size; }
  // The first slot that passes through the local stack, how many do, and how many sets of
  // projections it has for them.
  int first_local() const { return project && global_head_size > 0 ? 1 + given_slots : 0; }
  // Ids before a slot of which the local stack's input at it is made.
  int previous_ids(int slot) const { return slot > 0 && slot == first_local() ? slot : 1; }
  bool is_given(int slot) const { return slot > 0 && slot <= given_slots; }
  int local_slots() const { return num_codebooks - first_local(); }
  int weight_sets() const { return slot_weights ? local_slots() : 1; }
  // `bridge`, and the rows of the local width that it makes of one h.
  int bridge_out() const { return local.width * (project ? local_slots() : 1); }
  int bridge_in() const { return add && !project ? global.width / num_codebooks : global.width; }
  int bridge_rows() const { return add ? local_slots() : 1; }
};

struct SpectralConfig {
  int encoder_window = 640, encoder_subframes = 2, encoder_width = 256, encoder_blocks = 4,
      encoder_hidden = 768;
  int decoder_window = 640, decoder_subframes = 2, decoder_width = 320, decoder_blocks = 6,
      decoder_hidden = 960;
  int kernel_size = 7;
  float log_floor = 1e-3f;
  bool encoder_phases = true;  // false: log-magnitudes only

  bool has_decoder() const { return decoder_blocks > 0; }
};

// Causal transformer layers of a codec, with rotary positions and without biases.
struct TransformerConfig {
  int layers = 0, width = 0, heads = 0, mlp_width = 0;
  int window = 0;  // positions that a row sees, itself among them
  double rope_base = 10000.0;
  float norm_eps = 1e-5f;
  bool rmsnorm = false;     // else LayerNorm
  bool gated = false;       // swiglu, else gelu (erf)
  int head_width = 0;       // 0: width / heads
  bool final_norm = false;  // after the last layer

  int head_dim() const { return head_width > 0 ? head_width : width / heads; }
  int query_width() const { return heads * head_dim(); }
};

// Mimi's: a transformer and a change of rate between the convolutions and the quantizer.
struct BottleneckConfig {
  int stride = 2;  // rows of the convolutions per frame
  TransformerConfig transformer;
};

// A decoder in place of SEANet's own (Qwen3-TTS's 12 Hz tokenizer): codewords, a convolution, a
// transformer between projections, stages that repeat rows by a linear map and refine them by a
// ConvNeXt block, then transposed convolutions with snake activations.
struct SnakeDecoderConfig {
  int latent_dim = 0;  // of its own codewords
  int width = 0;       // of the rows around and after the transformer
  TransformerConfig transformer;
  std::vector<int> upsample = {2, 2};
  int filters = 0;  // of the first transposed convolution; each halves them
  std::vector<int> ratios = {8, 5, 4, 3};
};

struct SeanetConfig {
  int channels = 1, filters = 32;
  std::vector<int> ratios = {8, 5, 4, 2};
  int kernel_size = 7, last_kernel_size = 7, residual_kernel_size = 3, residual_layers = 1,
      dilation_base = 2, compress = 2;
  bool conv_shortcut = true;
  int lstm_layers = 2;
  bool causal = false;
  bool reflect = true;  // pad_mode
  double trim_right_ratio = 1.0;
  bool group_norm = false;               // norm == "group"
  int chunk_size = 0, chunk_stride = 0;  // samples; 0: the whole clip is one chunk
  bool normalize = false;                // each chunk is divided by its loudness
  std::optional<BottleneckConfig> bottleneck;
  std::optional<SnakeDecoderConfig> decoder;  // in place of the decoder that mirrors the encoder
};

// One side of a CAT codec: patches[0], stage 0, patches[1], .. patches[stages]. The encoder joins
// patches[i] rows to one, the decoder splits a row into as many.
struct CatSide {
  struct Stage {
    int output = 0;  // width of the rows that it makes
    TransformerConfig transformer;
  };
  std::vector<int> patches;
  std::vector<Stage> stages;
};

struct CatConfig {
  int channels = 1;
  CatSide encoder, decoder;
};

// See quantizer.h. Without one, the latent itself is quantized.
struct QuantizerConfig {
  bool factorised = false;  // else split
  int latent_dim = 0;
  int semantic_codebooks = 0;  // split: those of the first projection
  int rvq_dim = 0;             // factorised: width of the residual
};

enum class CodecFamily : int { seanet = 0, spectral = 1, cat = 2 };

struct CodecConfig {
  int sample_rate = 16000, frame_size = 320, num_codebooks = 8, codebook_size = 1024,
      codebook_dim = 64;
  std::optional<SpectralConfig> spectral;  // exactly the one that `family` names is used
  std::optional<SeanetConfig> seanet;
  std::optional<CatConfig> cat;
  std::optional<QuantizerConfig> quantizer;
  CodecFamily family = CodecFamily::spectral;

  bool is(CodecFamily f) const { return family == f; }
  int latent_dim() const { return quantizer ? quantizer->latent_dim : codebook_dim; }
  int channels() const {
    return is(CodecFamily::seanet) ? seanet->channels : is(CodecFamily::cat) ? cat->channels : 1;
  }
  // kbit/s, ascending; CodecConfig.codebooks_for in Python uses them
  std::vector<double> bandwidths;
};

LmConfig parse_lm_config(std::string_view json);
CodecConfig parse_codec_config(std::string_view json);

}  // namespace uniaudio
