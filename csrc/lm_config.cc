#include <algorithm>
#include <cmath>
#include <numbers>

#include "config.h"
#include "config_object.h"

namespace uniaudio {
namespace {

constexpr int kMaxDelay = 256;

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

// `delays`, `delay_ids` and what they exclude.
void parse_delays(Object& o, LmConfig& c) {
  const size_t k = size_t(c.num_codebooks);
  o.integers("delays", c.delays, k, 0, kMaxDelay);
  if (const Json* rows = o.get("delay_ids")) {
    o.require(rows->is(Json::Kind::array) && rows->array.size() <= size_t(kMaxDelay), "delay_ids",
              "a list of rows", rows->kind_name());
    for (const Json& row : rows->array) {
      std::vector<int> ids;
      o.integers(row, "delay_ids", ids, k, 0, c.vocab_size - 1);
      o.require(!ids.empty(), "delay_ids", "rows of " + std::to_string(k) + " ids", "an empty row");
      c.delay_ids.insert(c.delay_ids.end(), ids.begin(), ids.end());
    }
  }
  o.require(c.delays.empty() == c.delay_ids.empty(), "delay_ids", "given exactly where delays are",
            c.delays.empty() ? "ids without delays" : "none");
  if (c.delays.empty()) return;
  o.require(*std::min_element(c.delays.begin(), c.delays.end()) == 0 && c.max_delay() > 0, "delays",
            "0 for some slots, more for others", "the same for all, or none of 0");
  const bool plain = c.aligned_slots == 0 && c.continuous.empty() && c.global.rope;
  o.require(plain, "delays", "none with guide_slots, continuous or learned global positions",
            std::to_string(c.max_delay()));
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
  o.integer("given_slots", c.given_slots, 0, 8);
  parse_delays(o, c);
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
  o.require(c.given_slots == 0 || c.first_local() > 0, "given_slots",
            "0 without conditioning project and global_head_size", std::to_string(c.given_slots));
  o.require(c.local_slots() > 0, "num_codebooks",
            std::to_string(c.first_local() + 1) +
                " or more with conditioning project and global_head_size",
            std::to_string(c.num_codebooks));
  o.require((c.aligned_slots == 0) == (c.aligned_vocab == 0), "guide_vocab",
            "above 0 exactly when guide_slots is", std::to_string(c.aligned_vocab));
  return c;
}

}  // namespace uniaudio
