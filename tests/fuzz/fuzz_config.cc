// JSON and the configurations in it: changed bytes, and values in the place of others.
#include "config.h"
#include "fuzz.h"
#include "json.h"
#include "postfilter.h"

namespace {

using namespace uniaudio;

const char* const kExamples[] = {
    R"({"vocab_size":50,"num_codebooks":2,"global":{"layers":2,"width":32,"heads":2},)"
    R"("local":{"layers":1,"width":16,"heads":2,"mlp_width":32},"embedding":"concat",)"
    R"("conditioning":"add","start_id":0,"local_start_id":1,"max_frames":64,"guide_slots":2,)"
    R"("guide_vocab":9,"continuous":{"c":5}})",
    R"({"family":"spectral","frame_size":320,"num_codebooks":3,"codebook_size":16,)"
    R"("codebook_dim":8,"spectral":{"encoder_width":16,"encoder_blocks":1,"encoder_hidden":24,)"
    R"("decoder_width":16,"decoder_blocks":1,"decoder_hidden":24,"log_floor":1e-3}})",
    R"({"family":"seanet","frame_size":320,"num_codebooks":3,"codebook_size":16,)"
    R"("codebook_dim":8,"bandwidths":[1.5,3],"seanet":{"filters":4,"ratios":[8,5,4,2],)"
    R"("causal":true,"pad_mode":"zero","norm":"none","trim_right_ratio":0.5}})",
    R"({"window":512,"hop":160,"width":160,"hidden":480,"blocks":7,"kernel_size":25,"lookahead":2,)"
    R"("log_floor":1e-4,"voice":64,"voice_blocks":3})",
    R"(["é 😀",-0.0,1e-400,{"a":[[],{},null,true,false,"\n"]}])",
};
const char* const kTokens[] = {"null",     "-1",    "0",      "1e400",       "NaN",
                               "[]",       "{}",    "\"\"",   "\"\\ud800\"", "99999999999999999999",
                               "[[[[[[[[", "\\u00", "1e-320", "\xff",        ","};

bool use(fuzz::Draw& draw) {
  std::string text = kExamples[draw.in(0, int(std::size(kExamples)) - 1)];
  for (int i = draw.in(1, 4); i > 0; --i) {
    const size_t at = draw.bits() % (text.size() + 1);
    const size_t length = std::min(text.size() - at, size_t(draw.of({0, 1, 1, 2, 8, 60})));
    const std::string token = kTokens[draw.in(0, int(std::size(kTokens)) - 1)];
    switch (draw.in(0, 4)) {
      case 0: text.erase(at, length); break;
      case 1: text.insert(at, 1, char(draw.bits())); break;
      case 2: text.replace(at, length, token); break;
      case 3:
        text.insert(at, text.substr(draw.bits() % text.size(), size_t(draw.in(1, 40))));
        break;
      default:
        for (int times = draw.of({1, 40, 4000}); times > 0; --times) text.insert(at, token);
    }
    if (text.empty()) text = " ";
  }
  bool accepted = false;
  const auto read = [&](auto parse) {
    try {
      parse(text);
      accepted = true;
    } catch (const std::invalid_argument&) {
    }
  };
  read(parse_json);
  read(parse_lm_config);
  read(parse_codec_config);
  read(parse_postfilter_config);
  return accepted;
}

}  // namespace

int main(int argc, char** argv) { return fuzz::run(argc, argv, use); }
