// A GPU through the CUDA runtime, which is linked statically and looks for the driver on first use.
#include <cuda_runtime.h>

#include <cstring>
#include <map>
#include <mutex>
#include <type_traits>
#include <utility>

#include "device.h"

namespace uniaudio::cuda {
namespace {

constexpr int kOldestMajor = 8;  // compute capability: mma of bfloat16, cp.async

template <int kColumns, int kDepth>
__global__ void __launch_bounds__(kThreads, 1)
    frames_kernel(const __grid_constant__ FrameParams p) {
  extern __shared__ __align__(128) char shared[];
  Block block{int(blockIdx.x), int(gridDim.x), shared};
  Frames<kColumns, kDepth> frames;
  frames.start(block, p);
  while (!frames.done(p)) frames.step(block, p);
}

__global__ void __launch_bounds__(kThreads) rvq_encode_kernel(const __grid_constant__ RvqEncode p) {
  extern __shared__ __align__(128) char shared[];
  Block block{int(blockIdx.x), int(gridDim.x), shared};
  rvq_encode(block, p);
}
__global__ void __launch_bounds__(kThreads) rvq_decode_kernel(const __grid_constant__ RvqDecode p) {
  extern __shared__ __align__(128) char shared[];
  Block block{int(blockIdx.x), int(gridDim.x), shared};
  rvq_decode(block, p);
}

__global__ void __launch_bounds__(kThreads) dense_kernel(const __grid_constant__ Dense p) {
  extern __shared__ __align__(128) char shared[];
  Block block{int(blockIdx.x), int(gridDim.x), shared};
  dense(block, p);
}
__global__ void __launch_bounds__(kThreads) row_norm_kernel(const __grid_constant__ RowNorm p) {
  Block block{int(blockIdx.x), int(gridDim.x), nullptr};
  row_norm(block, p);
}
__global__ void __launch_bounds__(kThreads)
    overlap_add_kernel(const __grid_constant__ OverlapAdd p) {
  Block block{int(blockIdx.x), int(gridDim.x), nullptr};
  overlap_add(block, p);
}
__global__ void __launch_bounds__(kThreads) features_kernel(const __grid_constant__ Features p) {
  Block block{int(blockIdx.x), int(gridDim.x), nullptr};
  features(block, p);
}
__global__ void __launch_bounds__(kThreads) conv_kernel(const __grid_constant__ Conv p) {
  extern __shared__ __align__(128) char shared[];
  Block block{int(blockIdx.x), int(gridDim.x), shared};
  conv(block, p);
}
__global__ void __launch_bounds__(kThreads) lstm_cell_kernel(const __grid_constant__ LstmCell p) {
  Block block{int(blockIdx.x), int(gridDim.x), nullptr};
  lstm_cell(block, p);
}
__global__ void __launch_bounds__(kThreads) add_kernel(const __grid_constant__ Add p) {
  Block block{int(blockIdx.x), int(gridDim.x), nullptr};
  add_all(block, p);
}

template <class P>
__global__ void __launch_bounds__(kThreads, 1) batched_kernel(const __grid_constant__ P p) {
  extern __shared__ __align__(128) char shared[];
  Block block{int(blockIdx.x), int(gridDim.x), shared};
  batched_run(block, p);
}

bool same(const std::vector<BatchedOp>& a, const std::vector<BatchedOp>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].index() != b[i].index()) return false;
    if (!std::visit(
            [&](const auto& p) {
              return std::memcmp(&p, std::get_if<std::decay_t<decltype(p)>>(&b[i]), sizeof p) == 0;
            },
            a[i]))
      return false;
  }
  return true;
}

void check(cudaError_t e, const char* what) {
  if (e != cudaSuccess)
    throw DeviceError(std::string("cuda: ") + what + ": " + cudaGetErrorString(e));
}

std::string version_text(int v) {
  return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10);
}

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index) : index_(index) {
    use();
    check(cudaGetDeviceProperties(&properties_, index), "device");
    if (properties_.major < kOldestMajor) {
      throw DeviceError(
          std::string("cuda: expected a device of compute capability 8.0 or newer, got ") +
          properties_.name + " of " + std::to_string(properties_.major) + "." +
          std::to_string(properties_.minor) + "; use device cpu");
    }
    int cooperative = 0;
    check(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, index), "device");
    if (!cooperative)
      throw DeviceError(std::string("cuda: ") + properties_.name +
                        " can't keep a grid's blocks together (cooperative launch), as under some "
                        "virtual machines; use device cpu");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
    check(cudaStreamCreateWithFlags(&recorder_, cudaStreamNonBlocking), "stream");
  }
  ~CudaDevice() override {
    cudaSetDevice(index_);
    if (recorded_) cudaGraphExecDestroy(recorded_);
    cudaStreamDestroy(recorder_);
    cudaFreeHost(pinned_);
    cudaStreamDestroy(stream_);
  }
  std::string name() const override { return properties_.name; }
  DeviceLimits limits() const override {
    return {properties_.multiProcessorCount, int(properties_.sharedMemPerBlockOptin)};
  }
  size_t free_bytes() const override {
    use();
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "memory");
    return free;
  }

  void* allocate(size_t bytes) override {
    use();
    void* p = nullptr;
    const cudaError_t e = cudaMalloc(&p, bytes);
    if (e == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // not for the next call
      throw DeviceError("cuda: out of memory on " + name() + ": wanted " +
                        std::to_string(bytes >> 20) + " MiB, free " +
                        std::to_string(free_bytes() >> 20) +
                        " MiB; use a smaller max_seconds or dtype");
    }
    check(e, "memory");
    return p;
  }
  void release(void* p) override {
    cudaSetDevice(index_);
    cudaStreamSynchronize(stream_);
    cudaFree(p);
  }
  void upload(void* to, const void* from, size_t bytes) override {
    use();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "upload");
    check(cudaStreamSynchronize(stream_), "upload");  // `from` is the caller's again
  }
  void download(void* to, const void* from, size_t bytes) override {
    use();
    // Small results, such as a stream's, come through pinned memory, without the driver's staging.
    const std::unique_lock<std::mutex> lock =
        bytes <= kPinned ? std::unique_lock(pinned_mutex_) : std::unique_lock<std::mutex>();
    if (lock && !pinned_) check(cudaMallocHost(&pinned_, kPinned), "pinned memory");
    check(cudaMemcpyAsync(lock ? pinned_ : to, from, bytes, cudaMemcpyDeviceToHost, stream_),
          "download");
    check(cudaStreamSynchronize(stream_), "a kernel or download");
    if (lock) std::memcpy(to, pinned_, bytes);
  }
  int index() const override { return index_; }
  int dlpack_type() const override { return 2; }
  void order(uint64_t stream) override {
    use();
    cudaEvent_t done;
    check(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "event");
    check(cudaEventRecord(done, stream_), "event");
    // 1 and 2 are cudaStreamLegacy and cudaStreamPerThread
    check(cudaStreamWaitEvent(reinterpret_cast<cudaStream_t>(stream), done, 0), "event");
    check(cudaEventDestroy(done), "event");
  }
  void zero(void* p, size_t bytes) override {
    use();
    check(cudaMemsetAsync(p, 0, bytes, stream_), "zero");
  }
  void copy(void* to, const void* from, size_t pitch, size_t width, size_t rows) override {
    use();
    if (rows == 1) pitch = width;
    check(cudaMemcpy2DAsync(to, pitch, from, pitch, width, rows, cudaMemcpyDeviceToDevice, stream_),
          "copy");
  }

  void frames(const FrameParams& p, int blocks, int depth, int shared_bytes) override {
    const bool one = p.columns == 1, deep = depth == kDepths[0];
    if (!(deep && one) && depth != kDepths[1])
      throw DeviceError("cuda: no kernel with a ring of this depth");
    const void* const kernel =
        deep  ? reinterpret_cast<const void*>(&frames_kernel<1, kDepths[0]>)
        : one ? reinterpret_cast<const void*>(&frames_kernel<1, kDepths[1]>)
              : reinterpret_cast<const void*>(&frames_kernel<kMaxColumns, kDepths[1]>);
    FrameParams copy = p;
    void* arguments[] = {&copy};
    launch(kernel, blocks, shared_bytes, arguments, true, stream_);
  }
  // Recorded once, on a stream of its own, and played again while the list stays the same: one
  // launch in place of hundreds.
  void sequence(const std::vector<BatchedOp>& ops, int times) override {
    use();
    const std::lock_guard<std::mutex> lock(record_mutex_);
    if (!recorded_ || !same(ops, recorded_ops_)) {
      if (recorded_) check(cudaGraphExecDestroy(std::exchange(recorded_, nullptr)), "graph");
      check(cudaStreamBeginCapture(recorder_, cudaStreamCaptureModeThreadLocal), "recording");
      std::string wrong;
      try {
        for (const BatchedOp& op : ops) {
          std::visit(
              [&](const auto& p) {
                auto copy = p;
                void* arguments[] = {&copy};
                launch(reinterpret_cast<const void*>(&batched_kernel<std::decay_t<decltype(p)>>),
                       batched_blocks(p), int(batched_smem(p)), arguments, false, recorder_);
              },
              op);
        }
      } catch (const DeviceError& e) {
        wrong = e.what();
      }
      cudaGraph_t graph = nullptr;
      const cudaError_t ended = cudaStreamEndCapture(recorder_, &graph);
      if (!wrong.empty()) {
        if (graph) cudaGraphDestroy(graph);
        throw DeviceError(wrong);
      }
      check(ended, "recording");
      const cudaError_t made = cudaGraphInstantiate(&recorded_, graph, 0);
      cudaGraphDestroy(graph);
      check(made, "graph");
      recorded_ops_ = ops;
    }
    for (int i = 0; i < times; ++i) check(cudaGraphLaunch(recorded_, stream_), "launch");
  }
  void rvq_encode(const RvqEncode& p) override {
    run(&rvq_encode_kernel, p, (p.rows + kRvqRows - 1) / kRvqRows, int(rvq_smem(p.books.dim)));
  }
  void rvq_decode(const RvqDecode& p) override {
    run(&rvq_decode_kernel, p, (p.rows + kRvqDecodeRows - 1) / kRvqDecodeRows,
        int(rvq_decode_smem(p.books.dim)));
  }
  void dense(const Dense& p) override {
    run(&dense_kernel, p, dense_blocks(p), int(dense_smem(p)));
  }
  void row_norm(const RowNorm& p) override { run(&row_norm_kernel, p, row_norm_blocks(p), 0); }
  void overlap_add(const OverlapAdd& p) override {
    run(&overlap_add_kernel, p, overlap_blocks(p), 0);
  }
  void features(const Features& p) override { run(&features_kernel, p, features_blocks(p), 0); }
  void conv(const Conv& p) override { run(&conv_kernel, p, conv_blocks(p), int(kConvSmem)); }
  void lstm_cell(const LstmCell& p) override { run(&lstm_cell_kernel, p, lstm_cell_blocks(p), 0); }
  void add(const Add& p) override { run(&add_kernel, p, add_blocks(p), 0); }

  double timed(const std::function<void()>& work) override {
    use();
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin), "event");
    check(cudaEventCreate(&end), "event");
    check(cudaEventRecord(begin, stream_), "event");
    work();
    check(cudaEventRecord(end, stream_), "event");
    check(cudaEventSynchronize(end), "a kernel");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "event");
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return 1000.0 * double(milliseconds);
  }

 private:
  void use() const { check(cudaSetDevice(index_), "device"); }

  template <class P>
  void run(void (*kernel)(P), P p, int blocks, int shared_bytes) {
    void* arguments[] = {&p};
    launch(reinterpret_cast<const void*>(kernel), blocks, shared_bytes, arguments, false, stream_);
  }

  // together: all blocks must be resident at once, or this throws; else they run in any order.
  void launch(const void* kernel, int blocks, int shared_bytes, void** arguments, bool together,
              cudaStream_t stream) {
    if (blocks <= 0) return;
    use();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      int& allowed = shared_of_[kernel];
      if (shared_bytes > allowed) {
        check(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
            "shared memory");
        allowed = shared_bytes;
      }
    }
    if (together) {
      check(cudaLaunchCooperativeKernel(kernel, dim3(unsigned(blocks)), dim3(kThreads), arguments,
                                        size_t(shared_bytes), stream),
            "launch");
    } else {
      check(cudaLaunchKernel(kernel, dim3(unsigned(blocks)), dim3(kThreads), arguments,
                             size_t(shared_bytes), stream),
            "launch");
    }
  }

  int index_;
  cudaDeviceProp properties_{};
  cudaStream_t stream_ = nullptr, recorder_ = nullptr;
  std::mutex record_mutex_;
  cudaGraphExec_t recorded_ = nullptr;
  std::vector<BatchedOp> recorded_ops_;
  std::mutex mutex_;
  std::map<const void*, int> shared_of_;
  static constexpr size_t kPinned = size_t{1} << 20;
  std::mutex pinned_mutex_;
  void* pinned_ = nullptr;
};

}  // namespace

int device_count() {
  int count = 0, driver = 0, runtime = 0;
  const cudaError_t e = cudaGetDeviceCount(&count);
  if (e == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0)
    throw DeviceError("cuda: no NVIDIA driver is installed here (libcuda.so.1); use device cpu");
  if (e == cudaErrorInsufficientDriver) {
    throw DeviceError("cuda: the NVIDIA driver is too old: it serves CUDA " + version_text(driver) +
                      ", this library needs " + version_text(runtime) + "; update the driver");
  }
  if (e == cudaSuccess || e == cudaErrorNoDevice)
    throw DeviceError(
        "cuda: a driver is there, but no device that this process may use; see nvidia-smi and "
        "CUDA_VISIBLE_DEVICES");
  throw DeviceError(std::string("cuda: the driver answers: ") + cudaGetErrorString(e));
}

std::shared_ptr<Device> open_device(int index) {
  const int count = device_count();
  if (index < 0 || index >= count)
    throw DeviceError("cuda: expected a device from 0 to " + std::to_string(count - 1) + ", got " +
                      std::to_string(index));
  return std::make_shared<CudaDevice>(index);
}

const char* backend() { return "cuda"; }

}  // namespace uniaudio::cuda
