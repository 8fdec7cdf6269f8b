// Read-only mappings of files that tensors lie in: memory that the system fills from the file when
// it is read, and may take back at any time.
#pragma once

#include <cstddef>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace uniaudio {

// A second mapping of memory that is a shared read-only mapping of a file. Empty where the system
// does not make one.
class Mapping {
 public:
  Mapping() = default;
  Mapping(const void* data, size_t bytes) {
#if defined(__linux__)
    if (bytes == 0) return;
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    const uintptr_t at = reinterpret_cast<uintptr_t>(data), skip = at % page;
    void* const made =
        mremap(reinterpret_cast<void*>(at - skip), 0, bytes + skip, MREMAP_MAYMOVE);  // 0: copies
    if (made == MAP_FAILED) return;
    pages_ = made, size_ = bytes + skip;
    data_ = static_cast<const char*>(made) + skip;
#else
    (void)data, (void)bytes;
#endif
  }
  Mapping(Mapping&& o) noexcept
      : pages_(std::exchange(o.pages_, nullptr)),
        size_(std::exchange(o.size_, 0)),
        data_(std::exchange(o.data_, nullptr)) {}
  Mapping& operator=(Mapping&& o) noexcept {
    std::swap(pages_, o.pages_);
    std::swap(size_, o.size_);
    std::swap(data_, o.data_);
    return *this;
  }
  ~Mapping() {
#if defined(__linux__)
    if (pages_) munmap(pages_, size_);
#endif
  }

  const void* data() const { return data_; }

  // Gives back the memory of a mapping that has been read; reading it again fills it again. For
  // shared read-only mappings alone: it would empty other memory.
  static void drop(const void* data, size_t bytes) {
#if defined(__linux__)
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
#else
    (void)data, (void)bytes;
#endif
  }

 private:
  void* pages_ = nullptr;
  size_t size_ = 0;
  const void* data_ = nullptr;
};

}  // namespace uniaudio
