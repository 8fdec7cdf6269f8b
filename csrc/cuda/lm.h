// The multi-scale LM on a device: weights in tiles, sessions whose state lives there, and their
// steps. The same model, sessions and rules as csrc/multiscale_lm.h and csrc/lm_session.h, which
// are its truth.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "array.h"
#include "device.h"
#include "lm_session.h"
#include "multiscale_lm.h"
#include "weights.h"

namespace uniaudio::cuda {

class Session;

constexpr int64_t kRounds = 8;          // frames of a launch: between launches cancel() is heeded
constexpr int64_t kPrefillRounds = 64;  // of one launch

class Lm {
 public:
  // std::invalid_argument on weights that do not fit, or on what kernels do not have (int4, kv
  // int8); DeviceError.
  Lm(std::shared_ptr<Device> device, const LmConfig& config, const Weights& weights,
     LmDTypes dtypes, KvDType kv_dtype);

  const LmConfig& config() const { return config_; }
  const Plan& plan() const { return plan_; }
  Device& device() const { return *device_; }
  KvDType kv_dtype() const { return kv_dtype_; }
  // read for a frame, as MultiScaleLm::weight_bytes_per_frame counts
  size_t weight_bytes(int64_t head_rows = 0) const;
  size_t session_bytes(int64_t capacity) const;
  // Columns of one launch: streams of it, or positions of a prefill.
  int most_columns() const {
    return wide_columns_ > plan_.most_columns && wide_from_ <= wide_columns_ ? wide_columns_
                                                                             : plan_.most_columns;
  }
  // From so many columns on launches are wide.h's; below they are frame.h's, which takes the plan's
  // at most. Never changes a bit.
  void set_wide_from(int columns);

  // Teacher-forced logits [T, K, V]; aligned rows [T, S] or null.
  void logits(const int32_t* frames, int64_t count, const int32_t* aligned,
              const std::vector<ContinuousInput>& continuous, float* out) const;

  void check_frames(const int32_t* frames, int64_t count) const;
  void check_aligned(const int32_t* aligned, int64_t count) const;

 private:
  friend class Session;
  struct Packed {
    DeviceBuffer<unsigned char> tiles;
    DeviceBuffer<float> scale, bias;
    TileShape shape{0, 0};
    size_t bytes = 0;
    Job job() const { return {tiles.data(), shape.row_tiles, shape.k_tiles, nullptr}; }
  };
  struct Part {
    Matrix weight;
    Buffer<float> bias;
  };
  struct Layer {
    Packed qkv, o, up, down;
    DeviceBuffer<float> attn_norm, attn_norm_bias, mlp_norm, mlp_norm_bias;
  };
  struct Stack {
    std::vector<Layer> layers;
    DeviceBuffer<float> norm, norm_bias, positions, angles;
    DeviceBuffer<LayerParams> table;
    StackParams params{};
  };
  size_t cache_row() const;  // bytes of a head's position
  bool wide(int64_t columns) const { return columns >= wide_from_ && wide_columns_ > 0; }
  DeviceBuffer<float> floats(const Buffer<float>& b) const { return {device_, b.data(), b.size()}; }
  Packed pack(const std::vector<Part>& parts, DType dtype, bool gated) const;
  Stack make_stack(const Weights& weights, const std::string& name, const StackConfig& c,
                   int64_t max_positions, DType dtype) const;
  // Embedding of a frame, on the host.
  void embed(const int32_t* ids, float* x) const;
  std::vector<float> embed_continuous(const ContinuousInput& input) const;

  struct Step {  // of a launch, for one session
    Session* session;
    const SamplingConfig* sampling;
    const Sampler* sampler;
    const int32_t* aligned;
    const int32_t* forced = nullptr;
    float* logits = nullptr;  // device
    int64_t made = 0;
    bool goes_along = false;  // with the step before it, whose ids it takes
  };
  // generate
  void launch(std::vector<Step*>& steps, int64_t rounds) const;
  // rows: device
  void launch_prefill(Session& s, const float* rows, int64_t count, int columns) const;
  FrameParams params(int columns) const;
  void run(FrameParams& p, const std::vector<Job>& jobs, int head_tiles) const;
  void run_wide(const FrameParams& p, const std::vector<Job>& jobs,
                const std::vector<Column>& columns) const;
  int widest_columns() const;

  std::shared_ptr<Device> device_;
  LmConfig config_;
  LmDTypes dtypes_;
  KvDType kv_dtype_;
  Formats formats_;
  Plan plan_;
  int embed_width_;
  Buffer<float> host_embed_, host_aligned_;
  std::map<std::string, std::pair<Buffer<float>, Buffer<float>>> continuous_;
  Stack global_, local_;
  Packed bridge_, head_;
  DeviceBuffer<float> global_embed_, local_embed_, aligned_embed_;

  // What launches share: one at a time.
  mutable std::mutex mutex_;
  mutable uint32_t epoch_ = 0;
  DeviceBuffer<Word> exchange_;
  struct Places {
    size_t qkv, part, x1, hidden, x2, local_qkv, bridged, logits, ids, all;
  } places_{};
  mutable DeviceBuffer<char> arguments_;
  int wide_columns_ = 0, wide_from_ = 0;
  mutable DeviceBuffer<char> wide_memory_;  // when first needed
};

// One sequence.  One call at a time, cancel() excepted.
class Session {
 public:
  Session(std::shared_ptr<const Lm> lm, int64_t max_frames);
  int64_t frames() const { return count_; }
  int64_t capacity() const { return capacity_; }
  bool finished() const { return finished_; }
  int64_t frame_offset() const { return frame_offset_; }
  void set_frame_offset(int64_t offset);
  const Lm& lm() const { return *lm_; }

  void prefill(const int32_t* frames, int64_t count, const int32_t* aligned,
               const std::vector<ContinuousInput>& continuous);
  void cancel() { cancel_.store(true); }
  // As LmSession::set_guidance; also std::invalid_argument where the device takes one stream at a
  // time.
  void set_guidance(const Session& plain, double scale);
  bool guided() const { return plain_ != nullptr; }
  void reset();  // ends guidance, too
  std::unique_ptr<Session> fork() const;
  // Frames [first, first + count) as they lie on the device: int32 [count, K].
  // std::invalid_argument where they are not known yet.
  std::shared_ptr<Array> known(int64_t first, int64_t count) const;

  struct Request {
    Session* session;
    const SamplingConfig* sampling;
    const int32_t* aligned;
    int32_t* out;
    int64_t made = 0;
  };
  // Steps distinct sessions of one model together; each one's frames are the same as alone.
  static void generate(std::vector<Request>& requests, int64_t count,
                       const std::function<bool()>& interrupted);

 private:
  friend class Lm;
  void check_room(const char* what, int64_t count) const;
  std::shared_ptr<const Lm> lm_;
  int64_t capacity_, count_ = 0, generated_ = 0, frame_offset_ = 0;
  bool finished_ = false;
  DeviceBuffer<char> keys_, values_;
  DeviceBuffer<int32_t> history_, result_;
  DeviceBuffer<float> last_;
  std::unique_ptr<Session> plain_;  // under guidance: what goes along
  float guidance_ = 1.0f;
  std::atomic<bool> cancel_{false};
};

}  // namespace uniaudio::cuda
