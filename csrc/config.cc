#include "config.h"

#include <cmath>
#include <numbers>
#include <set>
#include <stdexcept>

#include "json.h"

namespace uniaudio {
namespace {

std::string number(double v) {
  std::string s = std::to_string(v);
  s.erase(s.find_last_not_of('0') + 1);
  if (!s.empty() && s.back() == '.') s.pop_back();
  return s;
}

// Reads one JSON object; remembers which keys were asked for, so that the others can be refused.
class Object {
 public:
  Object(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is(Json::Kind::object))
      throw std::invalid_argument("config: " + where_ + ": expected an object, got " +
                                  json.kind_name());
  }
  void done() const {
    for (const auto& [key, value] : json_.object) {
      if (!known_.count(key))
        throw std::invalid_argument("config: " + where_ + ": unknown key \"" + key +
                                    "\"; upgrade uniaudio-engine for newer models");
    }
  }
  const Json* get(const std::string& key) {
    known_.insert(key);
    const Json* v = json_.find(key);
    return v && v->is(Json::Kind::null) ? nullptr : v;
  }
  void require(bool ok, const std::string& key, const std::string& expected,
               const std::string& got) const {
    if (!ok)
      throw std::invalid_argument("config: " + where_ + "." + key + ": expected " + expected +
                                  ", got " + got);
  }
  void integer(const std::string& key, int& out, int low, int high, bool needed = false) {
    const Json* v = get(key);
    if (!v) {
      if (needed)
        throw std::invalid_argument("config: " + where_ + ": key \"" + key + "\" is missing");
      return;
    }
    require(v->is(Json::Kind::integer), key, "an integer", v->kind_name());
    const std::string range = std::to_string(low) + " to " + std::to_string(high);
    require(v->integer >= low && v->integer <= high, key, range, std::to_string(v->integer));
    out = int(v->integer);
  }
  template <class T>
  void real(const std::string& key, T& out) {
    const Json* v = get(key);
    if (!v) return;
    require(v->is(Json::Kind::integer) || v->is(Json::Kind::real), key, "a number", v->kind_name());
    out = T(v->real);
  }
  void boolean(const std::string& key, bool& out) {
    const Json* v = get(key);
    if (!v) return;
    require(v->is(Json::Kind::boolean), key, "true or false", v->kind_name());
    out = v->boolean;
  }
  // One of several names, in the order of the enum's values from 0 on.
  template <class Enum, size_t N>
  void name(const std::string& key, Enum& out, const char* const (&names)[N], bool needed = false) {
    const Json* v = get(key);
    if (!v && needed)
      throw std::invalid_argument("config: " + where_ + ": key \"" + key + "\" is missing");
    if (!v) return;
    const std::string got = v->is(Json::Kind::string) ? v->string : v->kind_name();
    std::string expected;
    for (size_t i = 0; i < N; ++i) {
      if (v->is(Json::Kind::string) && got == names[i]) {
        out = Enum(i);
        return;
      }
      expected += (i == 0 ? "\"" : i + 1 < N ? ", \"" : " or \"") + std::string(names[i]) + "\"";
    }
    require(false, key, expected, "\"" + got + "\"");
  }
  // A list of numbers from `low` to `high`, at most `most` of them.
  void reals(const std::string& key, std::vector<double>& out, size_t most, double low,
             double high) {
    const Json* list = get(key);
    if (!list) return;
    require(list->is(Json::Kind::array) && list->array.size() <= most, key,
            "a list of at most " + std::to_string(most), list->kind_name());
    out.clear();
    for (const Json& v : list->array) {
      require(v.is(Json::Kind::integer) || v.is(Json::Kind::real), key, "numbers", v.kind_name());
      require(v.real >= low && v.real <= high, key, number(low) + " to " + number(high),
              number(v.real));
      out.push_back(v.real);
    }
  }
  // out = whether the value is `yes` rather than `no`.
  void choice(const std::string& key, bool& out, const char* yes, const char* no,
              bool needed = false) {
    int at = out ? 0 : 1;
    name(key, at, {yes, no}, needed);
    out = at == 0;
  }
  const std::string& where() const { return where_; }

 private:
  const Json& json_;
  std::string where_;
  std::set<std::string> known_;
};

StackConfig parse_stack(const Json* json, const std::string& where) {
  if (!json) throw std::invalid_argument("config: " + where + " is missing");
  StackConfig c;
  Object o(*json, where);
  o.integer("layers", c.layers, 1, 256, true);
  o.integer("width", c.width, 1, 16384, true);
  o.integer("heads", c.heads, 1, 256, true);
  o.integer("kv_heads", c.kv_heads, 0, 256);
  o.integer("mlp_width", c.mlp_width, 0, 65536);
  o.choice("norm", c.rmsnorm, "rmsnorm", "layernorm");
  o.real("norm_eps", c.norm_eps);
  o.name("activation", c.activation, {"gelu", "gelu_tanh", "swiglu"});
  o.choice("positions", c.rope, "rope", "learned");
  o.real("rope_base", c.rope_base);
  o.reals("rope_frequencies", c.rope_frequencies, 512, 0, std::numbers::pi);
  o.integer("head_width", c.head_width, 0, 1024);
  o.boolean("qk_norm", c.qk_norm);
  o.boolean("final_norm", c.final_norm);
  o.integer("window", c.window, 0, 1 << 20);
  o.boolean("q_bias", c.q_bias);
  o.boolean("k_bias", c.k_bias);
  o.boolean("v_bias", c.v_bias);
  o.boolean("o_bias", c.o_bias);
  o.boolean("mlp_bias", c.mlp_bias);
  o.done();
  o.require(c.head_width > 0 || c.width % c.heads == 0, "heads",
            "a divisor of width " + std::to_string(c.width) + ", or head_width given",
            std::to_string(c.heads));
  if (c.kv_heads == 0) c.kv_heads = c.heads;
  if (c.mlp_width == 0) c.mlp_width = 4 * c.width;
  o.require(c.heads % c.kv_heads == 0, "kv_heads",
            "0 or a divisor of heads " + std::to_string(c.heads), std::to_string(c.kv_heads));
  o.require(!c.rope || c.head_dim() % 2 == 0, "head_dim", "an even number for rope",
            std::to_string(c.head_dim()));
  o.require(c.norm_eps > 0 && c.norm_eps < 1, "norm_eps", "between 0 and 1",
            number(double(c.norm_eps)));
  o.require(c.rope_base > 1, "rope_base", "above 1", number(c.rope_base));
  const size_t pairs = size_t(c.head_dim() / 2);
  o.require(c.rope_frequencies.empty() || c.rope_frequencies.size() == pairs, "rope_frequencies",
            "none, or one for each of " + std::to_string(pairs) + " pairs",
            std::to_string(c.rope_frequencies.size()));
  return c;
}

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

std::vector<double> StackConfig::frequencies() const {
  if (!rope_frequencies.empty()) return rope_frequencies;
  std::vector<double> all(size_t(head_dim() / 2));
  for (size_t i = 0; i < all.size(); ++i)
    all[i] = std::pow(rope_base, -double(2 * i) / double(head_dim()));
  return all;
}

LmConfig parse_lm_config(std::string_view text) {
  const Json root = parse_json(text);
  LmConfig c;
  Object o(root, "lm");
  o.integer("vocab_size", c.vocab_size, 1, 1 << 20, true);
  o.integer("num_codebooks", c.num_codebooks, 1, 64, true);
  c.global = parse_stack(o.get("global"), "lm.global");
  c.local = parse_stack(o.get("local"), "lm.local");
  o.choice("embedding", c.concat, "concat", "sum");
  enum class Conditioning { add, prefix, project } conditioning = Conditioning::prefix;
  o.name("conditioning", conditioning, {"add", "prefix", "project"});
  c.add = conditioning != Conditioning::prefix;
  c.project = conditioning == Conditioning::project;
  o.integer("start_id", c.start_id, 0, c.vocab_size - 1);
  o.integer("local_start_id", c.local_start_id, 0, c.vocab_size - 1);
  o.integer("max_frames", c.max_frames, 1, 1 << 20);
  o.integer("guide_slots", c.aligned_slots, 0, 64);
  o.integer("guide_vocab", c.aligned_vocab, 0, 1 << 20);
  if (const Json* m = o.get("continuous")) {
    Object sub(*m, "lm.continuous");
    for (const auto& [name, value] : m->object)
      sub.integer(name, c.continuous[name], 1, 65536, true);
  }
  o.boolean("tied_local", c.tied_local);
  o.boolean("tied_head", c.tied_head);
  o.integer("global_head_start", c.global_head_start, 0, c.vocab_size);
  o.integer("global_head_size", c.global_head_size, 0, c.vocab_size - c.global_head_start);
  o.integer("local_table_start", c.local_table_start, 0, c.vocab_size);
  o.integer("local_table_size", c.local_table_size, 0, c.vocab_size - c.local_table_start);
  o.boolean("slot_weights", c.slot_weights);
  o.done();
  o.require(c.local_start_id < c.vocab_size, "local_start_id", "an id below vocab_size",
            std::to_string(c.local_start_id));
  const bool slices = c.add && !c.project;
  o.require(!(c.concat || slices) || c.global.width % c.num_codebooks == 0, "global.width",
            "a multiple of num_codebooks " + std::to_string(c.num_codebooks),
            std::to_string(c.global.width));
  o.require(!c.tied_local || c.embed_width() == c.local.width, "tied_local",
            "false, or a local width of " + std::to_string(c.embed_width()) +
                ", which a row of the shared table has",
            std::to_string(c.local.width));
  o.require(c.local_table_size > 0 || c.local_table_start == 0, "local_table_start",
            "0 where local_table_size is", std::to_string(c.local_table_start));
  o.require(c.local_table_size == 0 || !(c.tied_local || c.tied_head || slices), "local_table_size",
            "0 with tied tables, or conditioning add", std::to_string(c.local_table_size));
  o.require(c.local_slots() > 0, "num_codebooks",
            "2 or more with conditioning project and global_head_size",
            std::to_string(c.num_codebooks));
  o.require((c.aligned_slots == 0) == (c.aligned_vocab == 0), "guide_vocab",
            "above 0 exactly when guide_slots is", std::to_string(c.aligned_vocab));
  return c;
}

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
