// Light views and aligned memory.  Nothing here computes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <utility>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace uniaudio {

// [d0, d1, ...] for messages.
inline std::string shape_string(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i) s += ", ";
    s += std::to_string(shape[i]);
  }
  return s + "]";
}

// Zero-initialised, 64-byte aligned array of a plain type.  Allocated once, never grows by itself.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size) { allocate(size); }
  Buffer(Buffer&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)) {}
  Buffer& operator=(Buffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  // Drops the old contents.  Throws std::bad_alloc.
  void allocate(size_t size) {
    std::free(std::exchange(data_, nullptr));
    size_ = 0;
    if (size == 0) return;
    if (size > (SIZE_MAX >> 2) / sizeof(T)) throw std::bad_alloc();
    const size_t bytes = size * sizeof(T);
    const size_t huge = size_t{2} << 20;
    const size_t align = bytes >= 2 * huge ? huge : 64;
    const size_t rounded = (bytes + align - 1) / align * align;
    data_ = static_cast<T*>(std::aligned_alloc(align, rounded));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    // streaming weights through 4 KiB pages costs TLB misses
    if (align == huge) madvise(data_, rounded, MADV_HUGEPAGE);
#endif
    std::memset(static_cast<void*>(data_), 0, rounded);
    size_ = size;
  }
  // Keeps what is there when it is large enough.
  void reserve(size_t size) {
    if (size > size_) allocate(size);
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace uniaudio
