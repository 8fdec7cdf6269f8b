#include "config.h"

#include <stdexcept>

#include "config_object.h"

namespace uniaudio {
namespace {

SpectralConfig parse_spectral(const Json& json, int frame_size) {
  SpectralConfig c;
  Object o(json, "codec.spectral");
  o.integer("encoder_window", c.encoder_window, 1, 16384);
  o.integer("encoder_subframes", c.encoder_subframes, 1, 64);
  o.integer("encoder_width", c.encoder_width, 1, 16384);
  o.integer("encoder_blocks", c.encoder_blocks, 1, 16384);
  o.integer("encoder_hidden", c.encoder_hidden, 1, 16384);
  o.integer("decoder_window", c.decoder_window, 1, 16384);
  o.integer("decoder_subframes", c.decoder_subframes, 1, 64);
  o.integer("decoder_width", c.decoder_width, 1, 16384);
  o.integer("decoder_blocks", c.decoder_blocks, 0, 16384);  // 0: an encoder without a decoder
  o.integer("decoder_hidden", c.decoder_hidden, 1, 16384);
  o.integer("kernel_size", c.kernel_size, 1, 63);
  o.real("log_floor", c.log_floor);
  o.boolean("encoder_phases", c.encoder_phases);
  o.done();
  const auto side = [&](const std::string& name, int window, int subframes) {
    o.require(frame_size % subframes == 0, name + "_subframes",
              "a divisor of frame_size " + std::to_string(frame_size), std::to_string(subframes));
    o.require(window % 2 == 0 && window >= frame_size / subframes, name + "_window",
              "even and at least " + std::to_string(frame_size / subframes),
              std::to_string(window));
  };
  side("encoder", c.encoder_window, c.encoder_subframes);
  side("decoder", c.decoder_window, c.decoder_subframes);
  o.require(c.log_floor > 0, "log_floor", "above 0", number(double(c.log_floor)));
  return c;
}

TransformerConfig parse_transformer(const Json* json, const std::string& where) {
  if (!json) throw std::invalid_argument("config: " + where + " is missing");
  TransformerConfig c;
  Object o(*json, where);
  o.integer("layers", c.layers, 1, 64, true);
  o.integer("width", c.width, 1, 4096, true);
  o.integer("heads", c.heads, 1, 256, true);
  o.integer("mlp_width", c.mlp_width, 1, 65536, true);
  o.integer("window", c.window, 1, 65536, true);
  o.real("rope_base", c.rope_base);
  o.real("norm_eps", c.norm_eps);
  o.choice("norm", c.rmsnorm, "rmsnorm", "layernorm");
  o.choice("activation", c.gated, "swiglu", "gelu");
  o.integer("head_width", c.head_width, 0, 1024);
  o.boolean("final_norm", c.final_norm);
  o.done();
  o.require(c.head_width > 0 || c.width % (2 * c.heads) == 0, "heads",
            "a divisor of half of width " + std::to_string(c.width), std::to_string(c.heads));
  o.require(c.head_width % 2 == 0, "head_width", "an even number", std::to_string(c.head_width));
  o.require(int64_t{c.layers} * c.query_width() * c.window <= 1 << 28, "window",
            "at most 268435456 / (layers x width)", std::to_string(c.window));  // keys of a stream
  o.require(c.rope_base > 1, "rope_base", "above 1", number(c.rope_base));
  o.require(c.norm_eps > 0 && c.norm_eps < 1, "norm_eps", "between 0 and 1",
            number(double(c.norm_eps)));
  return c;
}

BottleneckConfig parse_bottleneck(const Json& json) {
  BottleneckConfig c;
  Object o(json, "codec.seanet.bottleneck");
  o.integer("stride", c.stride, 1, 64);
  c.transformer = parse_transformer(o.get("transformer"), "codec.seanet.bottleneck.transformer");
  o.done();
  return c;
}

CatSide parse_cat_side(const Json* json, const std::string& where) {
  if (!json) throw std::invalid_argument("config: " + where + " is missing");
  CatSide c;
  Object o(*json, where);
  const auto list = [&](const char* key) {
    const Json* v = o.get(key);
    o.require(v && v->is(Json::Kind::array) && v->array.size() <= 17, key, "a list of at most 17",
              v ? v->kind_name() : "nothing");
    return v;
  };
  for (const Json& v : list("patches")->array) {
    o.require(v.is(Json::Kind::integer) && v.integer >= 1 && v.integer <= 65536, "patches",
              "1 to 65536 each", v.kind_name());
    c.patches.push_back(int(v.integer));
  }
  for (const Json& v : list("stages")->array) {
    const std::string name = where + ".stages[" + std::to_string(c.stages.size()) + "]";
    Object stage(v, name);
    CatSide::Stage& made = c.stages.emplace_back();
    stage.integer("output", made.output, 1, 65536, true);
    made.transformer = parse_transformer(stage.get("transformer"), name + ".transformer");
    stage.done();
  }
  o.done();
  o.require(!c.stages.empty() && c.patches.size() == c.stages.size() + 1, "patches",
            "one more than stages, of which there is at least one",
            std::to_string(c.patches.size()));
  return c;
}

CatConfig parse_cat(const Json& json, const CodecConfig& codec) {
  CatConfig c;
  Object o(json, "codec.cat");
  o.integer("channels", c.channels, 1, 64);
  c.encoder = parse_cat_side(o.get("encoder"), "codec.cat.encoder");
  c.decoder = parse_cat_side(o.get("decoder"), "codec.cat.decoder");
  o.done();
  for (const bool encoder : {true, false}) {
    const CatSide& side = encoder ? c.encoder : c.decoder;
    const std::string name = encoder ? "encoder" : "decoder";
    double product = 1;
    for (int patch : side.patches) product *= patch;
    o.require(product == double(codec.frame_size) * c.channels, name + ".patches",
              "a product of frame_size x channels " +
                  std::to_string(int64_t{codec.frame_size} * c.channels),
              number(product));
    const int outer = encoder ? side.patches.front() : side.patches.back();
    o.require(outer % c.channels == 0, name + ".patches",
              "a multiple of channels at the samples' end", std::to_string(outer));
    // widths: the encoder's grow by each patch, the decoder's shrink
    int64_t width = encoder ? 1 : codec.latent_dim();
    for (size_t i = 0; i < side.patches.size(); ++i) {
      const int patch = side.patches[i];
      o.require(encoder || width % patch == 0, name + ".patches",
                "a divisor of the width " + std::to_string(width) + " before it",
                std::to_string(patch));
      width = encoder ? width * patch : width / patch;
      o.require(width <= 65536, name + ".stages", "widths up to 65536", std::to_string(width));
      if (i < side.stages.size()) width = side.stages[i].output;
    }
    const int64_t last = encoder ? codec.latent_dim() : 1;
    o.require(width == last, name + ".stages", "a last width of " + std::to_string(last),
              std::to_string(width));
  }
  return c;
}

QuantizerConfig parse_quantizer(const Json& json, int num_codebooks) {
  QuantizerConfig c;
  Object o(json, "codec.quantizer");
  o.choice("kind", c.factorised, "factorised", "split", true);
  o.integer("latent_dim", c.latent_dim, 1, 4096, true);
  o.integer("semantic_codebooks", c.semantic_codebooks, 0, 64);
  o.integer("rvq_dim", c.rvq_dim, 0, 4096);
  o.done();
  o.require(c.factorised ? c.semantic_codebooks == 0
                         : c.semantic_codebooks >= 1 && c.semantic_codebooks < num_codebooks,
            "semantic_codebooks", "1 to num_codebooks - 1 where kind is split, else 0",
            std::to_string(c.semantic_codebooks));
  o.require((c.rvq_dim > 0) == c.factorised, "rvq_dim", "above 0 exactly where kind is factorised",
            std::to_string(c.rvq_dim));
  return c;
}

void parse_ratios(Object& o, const char* key, std::vector<int>& ratios) {
  const Json* r = o.get(key);
  if (!r) return;
  o.require(r->is(Json::Kind::array) && r->array.size() <= 16, key, "a list of at most 16",
            r->kind_name());
  ratios.clear();
  for (const Json& v : r->array) {
    o.require(v.is(Json::Kind::integer) && v.integer >= 1 && v.integer <= 64, key, "1 to 64 each",
              std::to_string(v.integer));
    ratios.push_back(int(v.integer));
  }
}

SnakeDecoderConfig parse_snake_decoder(const Json& json, int frame_size) {
  SnakeDecoderConfig c;
  Object o(json, "codec.seanet.decoder");
  o.integer("latent_dim", c.latent_dim, 1, 4096, true);
  o.integer("width", c.width, 1, 4096, true);
  c.transformer = parse_transformer(o.get("transformer"), "codec.seanet.decoder.transformer");
  parse_ratios(o, "upsample", c.upsample);
  o.integer("filters", c.filters, 1, 16384, true);
  parse_ratios(o, "ratios", c.ratios);
  o.done();
  double product = 1;
  for (int r : c.upsample) product *= r;
  for (int r : c.ratios) product *= r;
  o.require(product == frame_size, "ratios",
            "with upsample a product of frame_size " + std::to_string(frame_size), number(product));
  o.require(c.filters % (1 << c.ratios.size()) == 0, "filters",
            "a multiple of " + std::to_string(1 << c.ratios.size()), std::to_string(c.filters));
  return c;
}

SeanetConfig parse_seanet(const Json& json, int frame_size) {
  SeanetConfig c;
  Object o(json, "codec.seanet");
  o.integer("channels", c.channels, 1, 4096);
  o.integer("filters", c.filters, 1, 4096);
  parse_ratios(o, "ratios", c.ratios);
  o.integer("kernel_size", c.kernel_size, 1, 4096);
  o.integer("last_kernel_size", c.last_kernel_size, 1, 4096);
  o.integer("residual_kernel_size", c.residual_kernel_size, 1, 4096);
  o.integer("residual_layers", c.residual_layers, 0, 16);
  o.integer("dilation_base", c.dilation_base, 1, 4096);
  o.integer("compress", c.compress, 1, 4096);
  o.boolean("conv_shortcut", c.conv_shortcut);
  o.integer("lstm_layers", c.lstm_layers, 0, 16);
  o.boolean("causal", c.causal);
  o.choice("pad_mode", c.reflect, "reflect", "zero");
  o.real("trim_right_ratio", c.trim_right_ratio);
  o.choice("norm", c.group_norm, "group", "none");
  o.integer("chunk_size", c.chunk_size, 0, 1 << 20);
  o.require(int64_t{c.chunk_size} * std::max(c.channels, c.filters) <= 1 << 26, "chunk_size",
            "at most 67108864 / channels or filters",
            std::to_string(c.chunk_size));  // a layer's rows are all in memory
  o.integer("chunk_stride", c.chunk_stride, (c.chunk_size + 7) / 8, c.chunk_size, c.chunk_size > 0);
  o.boolean("normalize", c.normalize);
  if (const Json* v = o.get("bottleneck")) c.bottleneck = parse_bottleneck(*v);
  if (const Json* v = o.get("decoder")) c.decoder = parse_snake_decoder(*v, frame_size);
  o.done();
  o.require(!c.decoder || (c.bottleneck && c.channels == 1), "decoder",
            "a bottleneck and one channel with it", "others");
  o.require(!c.bottleneck || (c.causal && c.trim_right_ratio == 1 && !c.group_norm &&
                              !c.normalize && c.chunk_size == 0),
            "bottleneck", "causal convolutions without norm, chunks or loudness", "others");
  double product = c.bottleneck ? c.bottleneck->stride : 1;
  for (int r : c.ratios) product *= r;
  o.require(product == frame_size, "ratios",
            "a product of frame_size " + std::to_string(frame_size), number(product));
  o.require(c.trim_right_ratio >= 0 && c.trim_right_ratio <= 1, "trim_right_ratio", "0 to 1",
            number(c.trim_right_ratio));
  return c;
}

}  // namespace

CodecConfig parse_codec_config(std::string_view text) {
  const Json root = parse_json(text);
  CodecConfig c;
  Object o(root, "codec");
  static constexpr const char* kFamilies[] = {"seanet", "spectral", "cat"};
  o.name("family", c.family, kFamilies, true);
  o.integer("sample_rate", c.sample_rate, 1000, 384000);
  o.integer("frame_size", c.frame_size, 1, 65536);
  o.integer("num_codebooks", c.num_codebooks, 1, 64);
  o.integer("codebook_size", c.codebook_size, 2, 65536);
  o.integer("codebook_dim", c.codebook_dim, 1, 4096);
  if (const Json* v = o.get("quantizer")) c.quantizer = parse_quantizer(*v, c.num_codebooks);
  if (const Json* v = o.get("spectral")) c.spectral = parse_spectral(*v, c.frame_size);
  if (const Json* v = o.get("seanet")) c.seanet = parse_seanet(*v, c.frame_size);
  if (const Json* v = o.get("cat")) c.cat = parse_cat(*v, c);
  if (const Json* list = o.get("bandwidths")) {
    o.require(list->is(Json::Kind::array) && list->array.size() <= 64, "bandwidths",
              "a list of at most 64", list->kind_name());
    for (const Json& v : list->array) {
      const bool numeric = v.is(Json::Kind::integer) || v.is(Json::Kind::real);
      o.require(numeric, "bandwidths", "numbers", v.kind_name());
      o.require(v.real > (c.bandwidths.empty() ? 0 : c.bandwidths.back()) && v.real < 1e6,
                "bandwidths", "ascending numbers of kbit/s", number(v.real));
      c.bandwidths.push_back(v.real);
    }
  }
  o.done();
  const std::string family = kFamilies[int(c.family)];
  const bool there = c.is(CodecFamily::spectral) ? c.spectral.has_value()
                     : c.is(CodecFamily::seanet) ? c.seanet.has_value()
                                                 : c.cat.has_value();
  o.require(there, family, "a section for family \"" + family + "\"", "none");
  o.require(!c.quantizer || !c.is(CodecFamily::spectral), "quantizer",
            "none for family \"spectral\"", "one");
  return c;
}

}  // namespace uniaudio
