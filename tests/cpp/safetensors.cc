#include "safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "json.h"

namespace uniaudio {
namespace {

constexpr uint64_t kMaxHeader = 100u << 20;  // the format's own limit
constexpr size_t kMaxDims = 16;

size_t dtype_size(const std::string& dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "U8" || dtype == "I8" || dtype == "BOOL") return 1;
  return 0;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw std::runtime_error(path + ": " + std::strerror(errno));
  struct stat st{};
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    close(fd);
    throw std::runtime_error(path + ": expected a regular file");
  }
  size_ = size_t(st.st_size);
  if (size_ >= 8) {
    map_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map_ == MAP_FAILED) map_ = nullptr;
  }
  close(fd);
  if (!map_) {
    throw std::invalid_argument(path + ": expected a safetensors file of at least 8 bytes, got " +
                                std::to_string(size_) + "; fetch it again");
  }
  try {
    parse();
  } catch (...) {
    munmap(map_, size_);
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() { munmap(map_, size_); }

void SafetensorsFile::parse() {
  const uint8_t* bytes = static_cast<const uint8_t*>(map_);
  const auto fail = [this](const std::string& what) {
    throw std::invalid_argument(path_ + ": " + what + "; the file is damaged, fetch it again");
  };
  uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | bytes[i];
  if (header > kMaxHeader || header > size_ - 8) {
    fail("header of " + std::to_string(header) + " bytes in a file of " + std::to_string(size_));
  }
  Json root;
  try {
    root = parse_json({reinterpret_cast<const char*>(bytes) + 8, size_t(header)});
  } catch (const std::invalid_argument& e) {
    fail(e.what());
  }
  if (!root.is(Json::Kind::object)) fail("the header is not a JSON object");
  const size_t data_size = size_ - 8 - size_t(header);
  std::vector<std::pair<size_t, size_t>> ranges;
  for (auto& [name, value] : root.object) {
    if (name == "__metadata__") {
      for (auto& [k, v] : value.object) {
        if (!v.is(Json::Kind::string)) fail("metadata " + k + " is not a string");
        metadata_[k] = v.string;
      }
      continue;
    }
    const Json* dtype = value.find("dtype");
    const Json* shape = value.find("shape");
    const Json* offsets = value.find("data_offsets");
    if (!dtype || !shape || !offsets || !dtype->is(Json::Kind::string) ||
        !shape->is(Json::Kind::array) || !offsets->is(Json::Kind::array) ||
        offsets->array.size() != 2 || value.object.size() != 3) {
      fail("tensor " + name + " lacks dtype, shape or data_offsets");
    }
    Entry e;
    e.dtype = dtype->string;
    const size_t item = dtype_size(e.dtype);
    if (item == 0) fail("tensor " + name + " has unknown dtype " + e.dtype);
    if (shape->array.size() > kMaxDims) fail("tensor " + name + " has more than 16 dimensions");
    size_t count = item;
    for (const Json& d : shape->array) {
      if (!d.is(Json::Kind::integer) || d.integer < 0 || d.integer > int64_t{1} << 40)
        fail("tensor " + name + " has a bad shape");
      e.shape.push_back(d.integer);
      if (d.integer != 0 && count > size_ / size_t(d.integer))
        fail("tensor " + name + " is larger than the file");
      count *= size_t(d.integer);
    }
    for (const Json& o : offsets->array) {
      if (!o.is(Json::Kind::integer) || o.integer < 0 || uint64_t(o.integer) > data_size)
        fail("tensor " + name + " lies outside the file");
    }
    const size_t begin = size_t(offsets->array[0].integer), end = size_t(offsets->array[1].integer);
    if (end < begin || end - begin != count)
      fail("tensor " + name + "'s data_offsets do not fit its shape");
    e.data = bytes + 8 + header + begin;
    e.bytes = count;
    ranges.emplace_back(begin, end);
    entries_.emplace(name, std::move(e));
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) fail("two tensors overlap");
  }
}

const SafetensorsFile::Entry& SafetensorsFile::at(const std::string& name) const {
  const auto it = entries_.find(name);
  if (it == entries_.end()) throw std::invalid_argument(path_ + ": tensor " + name + " is missing");
  return it->second;
}

Weights SafetensorsFile::weights(const std::string& prefix) const {
  Weights w;
  for (const auto& [name, e] : entries_) {
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    static const std::map<std::string, StoredType> types = {{"F32", StoredType::float32},
                                                            {"BF16", StoredType::bfloat16},
                                                            {"I8", StoredType::int8},
                                                            {"U8", StoredType::int4}};
    const auto type = types.find(e.dtype);
    if (type == types.end())
      throw std::invalid_argument(path_ + ": tensor " + name +
                                  ": expected F32, BF16, I8 or U8 (int4), got " + e.dtype);
    w.add(name.substr(prefix.size()), {type->second, e.shape, e.data});
  }
  return w;
}

std::vector<float> SafetensorsFile::floats(const std::string& name) const {
  const Entry& e = at(name);
  if (e.dtype != "F32")
    throw std::invalid_argument(path_ + ": tensor " + name + ": expected F32, got " + e.dtype);
  std::vector<float> v(e.bytes / 4);
  if (!v.empty()) std::memcpy(v.data(), e.data, e.bytes);
  return v;
}

std::vector<int32_t> SafetensorsFile::ints(const std::string& name) const {
  const Entry& e = at(name);
  if (e.dtype != "I32")
    throw std::invalid_argument(path_ + ": tensor " + name + ": expected I32, got " + e.dtype);
  std::vector<int32_t> v(e.bytes / 4);
  if (!v.empty()) std::memcpy(v.data(), e.data, e.bytes);
  return v;
}

}  // namespace uniaudio
