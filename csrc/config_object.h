// Reading of the configurations' JSON, for config.cc and lm_config.cc.
#pragma once

#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.h"

namespace uniaudio {

inline std::string number(double v) {
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
  // A list of whole numbers from `low` to `high`, `count` of them or none.
  void integers(const std::string& key, std::vector<int>& out, size_t count, int low, int high) {
    if (const Json* list = get(key)) integers(*list, key, out, count, low, high);
  }
  void integers(const Json& list, const std::string& key, std::vector<int>& out, size_t count,
                int low, int high) const {
    const bool sized =
        list.is(Json::Kind::array) && (list.array.empty() || list.array.size() == count);
    require(sized, key, "a list of " + std::to_string(count),
            list.is(Json::Kind::array) ? std::to_string(list.array.size()) : list.kind_name());
    out.clear();
    for (const Json& v : list.array) {
      require(v.is(Json::Kind::integer), key, "whole numbers", v.kind_name());
      require(v.integer >= low && v.integer <= high, key,
              std::to_string(low) + " to " + std::to_string(high), std::to_string(v.integer));
      out.push_back(int(v.integer));
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

}  // namespace uniaudio
