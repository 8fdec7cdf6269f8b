// The CPU emulator of a device, for tests: it runs the same phases, block by block in random order.
// Memory and shared memory start as NaN. A block whose inputs have not arrived is tried again
// later. It is an error when no block can go on, or when data are overwritten before every block
// has read them.
#include <chrono>
#include <cstdlib>
#include <utility>
#include <stdexcept>
#include <vector>

#include "device.h"

namespace uniaudio::cuda {
namespace {

constexpr int kPoison = 0xFF;

uint64_t seed_of(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

class HostDevice final : public Device {
 public:
  std::string name() const override { return "host"; }
  DeviceLimits limits() const override {
    return {int(seed_of("UNIAUDIO_CUDA_HOST_BLOCKS", 7)),
            int(seed_of("UNIAUDIO_CUDA_HOST_SHARED", 227 * 1024))};
  }
  size_t free_bytes() const override { return size_t{8} << 30; }
  int index() const override { return 0; }
  int dlpack_type() const override { return 1; }
  void order(uint64_t) override {}

  void* allocate(size_t bytes) override {
    void* p = std::malloc(bytes);
    if (!p) throw DeviceError("cuda: out of memory");
    std::memset(p, kPoison, bytes);
    return p;
  }
  void release(void* p) override { std::free(p); }
  void upload(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void zero(void* p, size_t bytes) override { std::memset(p, 0, bytes); }
  void copy(void* to, const void* from, size_t pitch, size_t width, size_t rows) override {
    for (size_t i = 0; i < rows; ++i)
      std::memcpy(static_cast<char*>(to) + i * pitch, static_cast<const char*>(from) + i * pitch,
                  width);
  }

  void frames(const FrameParams& p, int blocks, int depth, int shared_bytes) override {
    if (depth != kDepths[0] && depth != kDepths[1])
      throw DeviceError("cuda: no kernel with a ring of this depth");
    if (p.columns == 1) {
      run_frames<1>(p, blocks, shared_bytes);
    } else {
      run_frames<kMaxColumns>(p, blocks, shared_bytes);
    }
  }
  void sequence(const std::vector<BatchedOp>& ops, int times) override {
    for (int i = 0; i < times; ++i) {
      for (const BatchedOp& op : ops) {
        std::visit(
            [&](const auto& p) {
              each_block(batched_blocks(p), batched_smem(p), [&](Block& b) { batched_run(b, p); });
            },
            op);
      }
    }
  }
  void rvq_encode(const RvqEncode& p) override {
    each_block((p.rows + kRvqRows - 1) / kRvqRows, rvq_smem(p.books.dim),
               [&](Block& b) { cuda::rvq_encode(b, p); });
  }
  void rvq_decode(const RvqDecode& p) override {
    each_block((p.rows + kRvqDecodeRows - 1) / kRvqDecodeRows, rvq_decode_smem(p.books.dim),
               [&](Block& b) { cuda::rvq_decode(b, p); });
  }
  void dense(const Dense& p) override {
    each_block(dense_blocks(p), dense_smem(p), [&](Block& b) { cuda::dense(b, p); });
  }
  void row_norm(const RowNorm& p) override {
    each_block(row_norm_blocks(p), 16, [&](Block& b) { cuda::row_norm(b, p); });
  }
  void overlap_add(const OverlapAdd& p) override {
    each_block(overlap_blocks(p), 16, [&](Block& b) { cuda::overlap_add(b, p); });
  }
  void features(const Features& p) override {
    each_block(features_blocks(p), 16, [&](Block& b) { cuda::features(b, p); });
  }
  void conv(const Conv& p) override {
    each_block(conv_blocks(p), kConvSmem, [&](Block& b) { cuda::conv(b, p); });
  }
  void lstm_cell(const LstmCell& p) override {
    each_block(lstm_cell_blocks(p), 16, [&](Block& b) { cuda::lstm_cell(b, p); });
  }
  void add(const Add& p) override {
    each_block(add_blocks(p), 16, [&](Block& b) { cuda::add_all(b, p); });
  }

  double timed(const std::function<void()>& work) override {
    const auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
        .count();
  }

 private:
  struct Shared {
    explicit Shared(size_t bytes)
        : data(static_cast<char*>(std::aligned_alloc(128, (bytes + 127) / 128 * 128))) {
      std::memset(data, kPoison, bytes);
    }
    ~Shared() { std::free(data); }
    Shared(Shared&& o) noexcept : data(std::exchange(o.data, nullptr)) {}
    char* data;
  };

  std::vector<int> order(int n) {
    std::vector<int> v(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) v[size_t(i)] = i;
    for (int i = n; i > 1; --i) std::swap(v[size_t(i - 1)], v[host_.draw(uint32_t(i))]);
    return v;
  }

  template <class F>
  void each_block(int blocks, size_t shared, F body) {
    for (int b : order(blocks)) {
      const Shared s(shared);
      Block block{b, blocks, s.data, &host_};
      body(block);
    }
  }

  template <int kColumns>
  void run_frames(const FrameParams& p, int blocks, int shared_bytes) {
    std::vector<Shared> shared;
    std::vector<Block> block;
    std::vector<Frames<kColumns, kDepths[0]>> state(static_cast<size_t>(blocks));
    for (int b = 0; b < blocks; ++b) {
      shared.emplace_back(size_t(shared_bytes));
      block.push_back({b, blocks, shared.back().data, &host_});
      state[size_t(b)].start(block[size_t(b)], p);
    }
    host_.error = nullptr;
    // A drawn block runs as far as it can, or stops after a few phases: some get far ahead of
    // others.
    for (int left = blocks, stuck = 0; left > 0;) {
      bool moved = false;
      for (int b : order(blocks)) {
        for (uint32_t phases = 1 + host_.draw(6); phases > 0 && !state[size_t(b)].done(p);
             --phases) {
          host_.blocked = false;
          const bool went = state[size_t(b)].step(block[size_t(b)], p);
          if (host_.error) throw DeviceError(std::string("cuda host run: ") + host_.error);
          if (!went) break;
          moved = true;
          if (state[size_t(b)].done(p)) --left;
        }
      }
      stuck = moved ? 0 : stuck + 1;
      if (stuck > 1 && left > 0) throw DeviceError("cuda host run: every block waits for another");
    }
  }

  HostRun host_{seed_of("UNIAUDIO_CUDA_HOST_SEED", 1)};
};

}  // namespace

std::shared_ptr<Device> open_device(int index) {
  if (index != 0)
    throw DeviceError("cuda: expected a device from 0 to 0, got " + std::to_string(index));
  return std::make_shared<HostDevice>();
}
int device_count() { return 1; }
const char* backend() { return "host"; }

}  // namespace uniaudio::cuda
