// A small strict JSON reader (RFC 8259) for config.json. Duplicate keys, trailing text, depth beyond
// 32 and numbers that do not fit are errors: std::invalid_argument with the byte offset.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace uniaudio {

struct Json {
  enum class Kind { null, boolean, integer, real, string, array, object };
  Kind kind = Kind::null;
  bool boolean = false;
  int64_t integer = 0;  // also set for none other than integers
  double real = 0;      // set for integers and reals
  std::string string;
  std::vector<Json> array;
  std::map<std::string, Json> object;

  bool is(Kind k) const { return kind == k; }
  const Json* find(const std::string& key) const {
    auto it = object.find(key);
    return it == object.end() ? nullptr : &it->second;
  }
  const char* kind_name() const;
};

Json parse_json(std::string_view text);

}  // namespace uniaudio
