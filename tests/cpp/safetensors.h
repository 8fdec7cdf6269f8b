// A reader of safetensors files (8-byte header length, JSON header, raw little-endian data), for
// golden files. Every offset is checked against the file's size before it is used;
// std::invalid_argument otherwise.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "weights.h"

namespace uniaudio {

class SafetensorsFile {
 public:
  struct Entry {
    std::string dtype;  // "F32", "BF16", "I32", "I64", "U8", ...
    std::vector<int64_t> shape;
    const uint8_t* data = nullptr;
    size_t bytes = 0;
  };

  // std::runtime_error when the file can't be read
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::map<std::string, Entry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const Entry& at(const std::string& name) const;

  // All tensors whose names start with `prefix`, which is cut off. They must be F32, BF16, I8 or U8
  // (int4). Views into this file.
  Weights weights(const std::string& prefix = "") const;
  // Copies of one tensor's values; the dtype must match (F32; I32).
  std::vector<float> floats(const std::string& name) const;
  std::vector<int32_t> ints(const std::string& name) const;

 private:
  void parse();
  std::string path_;
  void* map_ = nullptr;
  size_t size_ = 0;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace uniaudio
