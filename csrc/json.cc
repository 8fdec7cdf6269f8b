#include "json.h"

#include <charconv>
#include <cmath>
#include <stdexcept>

namespace uniaudio {
namespace {

constexpr int kMaxDepth = 32;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) fail("end of text");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& expected) const {
    std::string got = at_ < text_.size()
                          ? "byte " + std::to_string(static_cast<unsigned char>(text_[at_]))
                          : "the end";
    throw std::invalid_argument("JSON: expected " + expected + " at offset " + std::to_string(at_) +
                                ", got " + got);
  }
  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t'))
      ++at_;
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char c) {
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  void word(std::string_view w) {
    if (text_.substr(at_, w.size()) != w) fail("a value");
    at_ += w.size();
  }

  Json parse_value(int depth) {
    if (depth > kMaxDepth) fail("at most 32 nested levels");
    skip_space();
    Json v;
    switch (peek()) {
      case '{': parse_object(v, depth); break;
      case '[': parse_array(v, depth); break;
      case '"': v.kind = Json::Kind::string, v.string = parse_string(); break;
      case 't': word("true"), v.kind = Json::Kind::boolean, v.boolean = true; break;
      case 'f': word("false"), v.kind = Json::Kind::boolean; break;
      case 'n': word("null"); break;
      default: parse_number(v);
    }
    return v;
  }

  void parse_object(Json& v, int depth) {
    v.kind = Json::Kind::object;
    ++at_;
    skip_space();
    if (take('}')) return;
    do {
      skip_space();
      if (peek() != '"') fail("a key");
      std::string key = parse_string();
      skip_space();
      if (!take(':')) fail("':'");
      if (v.object.count(key))
        throw std::invalid_argument("JSON: key \"" + key + "\" is there twice");
      v.object.emplace(std::move(key), parse_value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take('}')) fail("',' or '}'");
  }

  void parse_array(Json& v, int depth) {
    v.kind = Json::Kind::array;
    ++at_;
    skip_space();
    if (take(']')) return;
    do {
      v.array.push_back(parse_value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take(']')) fail("',' or ']'");
  }

  unsigned hex4() {
    unsigned x = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      if (c >= '0' && c <= '9')
        x = x * 16 + unsigned(c - '0');
      else if (c >= 'a' && c <= 'f')
        x = x * 16 + unsigned(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F')
        x = x * 16 + unsigned(c - 'A' + 10);
      else
        fail("four hexadecimal digits");
    }
    return x;
  }

  static void append_utf8(std::string& s, unsigned cp) {
    if (cp < 0x80) {
      s += char(cp);
    } else if (cp < 0x800) {
      s += char(0xC0 | cp >> 6), s += char(0x80 | (cp & 63));
    } else if (cp < 0x10000) {
      s += char(0xE0 | cp >> 12), s += char(0x80 | (cp >> 6 & 63)), s += char(0x80 | (cp & 63));
    } else {
      s += char(0xF0 | cp >> 18), s += char(0x80 | (cp >> 12 & 63)),
          s += char(0x80 | (cp >> 6 & 63)), s += char(0x80 | (cp & 63));
    }
  }

  std::string parse_string() {
    std::string s;
    ++at_;
    for (;;) {
      if (at_ >= text_.size()) fail("'\"'");
      const unsigned char c = static_cast<unsigned char>(text_[at_]);
      if (c < 0x20) fail("no control character in a string");
      ++at_;
      if (c == '"') return s;
      if (c != '\\') {
        s += char(c);
        continue;
      }
      const char e = peek();
      if (at_ >= text_.size()) fail("an escape");
      ++at_;
      switch (e) {
        case '"':
        case '\\':
        case '/': s += e; break;
        case 'b': s += '\b'; break;
        case 'f': s += '\f'; break;
        case 'n': s += '\n'; break;
        case 'r': s += '\r'; break;
        case 't': s += '\t'; break;
        case 'u': {
          unsigned cp = hex4();
          if (cp >= 0xD800 && cp < 0xDC00) {
            if (!(take('\\') && take('u'))) fail("a low surrogate");
            const unsigned low = hex4();
            if (low < 0xDC00 || low > 0xDFFF) fail("a low surrogate");
            cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
          } else if (cp >= 0xDC00 && cp < 0xE000) {
            fail("a high surrogate first");
          }
          append_utf8(s, cp);
          break;
        }
        default: --at_, fail("an escape");
      }
    }
  }

  static bool digit(char c) { return c >= '0' && c <= '9'; }

  void parse_number(Json& v) {
    const size_t start = at_;
    take('-');
    if (!digit(peek())) fail("a value");
    if (peek() == '0')
      ++at_;
    else
      while (digit(peek())) ++at_;
    bool whole = true;
    if (take('.')) {
      whole = false;
      if (!digit(peek())) fail("a digit");
      while (digit(peek())) ++at_;
    }
    if (peek() == 'e' || peek() == 'E') {
      whole = false;
      ++at_;
      if (!take('+')) take('-');
      if (!digit(peek())) fail("a digit");
      while (digit(peek())) ++at_;
    }
    const std::string token(text_.substr(start, at_ - start));
    if (whole) {
      const auto r = std::from_chars(token.data(), token.data() + token.size(), v.integer);
      if (r.ec != std::errc())
        throw std::invalid_argument("JSON: number " + token.substr(0, 40) +
                                    " does not fit in 64 bits");
      v.kind = Json::Kind::integer;
      v.real = double(v.integer);
      return;
    }
    // strtod, since not every standard library has from_chars for doubles yet; the token's grammar
    // is already checked.
    v.real = std::strtod(token.c_str(), nullptr);
    v.kind = Json::Kind::real;
    if (!std::isfinite(v.real))
      throw std::invalid_argument("JSON: number " + token.substr(0, 40) + " is out of range");
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

const char* Json::kind_name() const {
  static const char* const names[] = {"null",     "a boolean", "an integer", "a real number",
                                      "a string", "an array",  "an object"};
  return names[int(kind)];
}

Json parse_json(std::string_view text) { return Parser(text).document(); }

}  // namespace uniaudio
