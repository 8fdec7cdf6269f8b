// The multi-scale LM on a device: weights in tiles, sessions whose state lives there, and their
// steps. csrc/multiscale_lm.h and csrc/lm_session.h are the reference.
#pragma once

#include <algorithm>
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
#include "session_rules.h"
#include "weights.h"

namespace uniaudio::cuda {

class Session;

constexpr int64_t kRounds = 8;  // frames of a launch; cancel() takes effect between launches
constexpr int64_t kPrefillRounds = 64;  // of a prefill's launch

class Lm {
 public:
  // std::invalid_argument on weights that do not fit, or on what kernels do not have (int4, kv
  // int8); DeviceError.
  Lm(std::shared_ptr<Device> device, const LmConfig& config, const Weights& weights,
     LmDTypes dtypes, KvDType kv_dtype);

  const LmConfig& config() const { return config_; }
  const Plan& plan() const { return plan_; }
  Device& device() const { return *device_; }
  const LmDTypes& dtypes() const { return dtypes_; }
  KvDType kv_dtype() const { return kv_dtype_; }
  // read for a frame, as MultiScaleLm::weight_bytes_per_frame counts
  size_t weight_bytes(int64_t head_rows = 0) const;
  size_t session_bytes(int64_t capacity) const;
  // The most columns (streams, or positions of a prefill) of one launch.
  int most_columns() const {
    return batched_columns_ > plan_.most_columns && batched_from_ <= batched_columns_
               ? batched_columns_
               : plan_.most_columns;
  }
  // Launches of at least `columns` columns take the batched path (batched.h), others the persistent
  // kernel (persistent.h), whose limit is the plan's. Both give the same bits.
  void set_batched_from(int columns);

  // Teacher-forced logits [T, K, V]; aligned rows [T, S] or null.
  void logits(const int32_t* frames, int64_t count, const int32_t* aligned,
              const std::vector<ContinuousInput>& continuous, float* out) const;

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
  struct Projections {
    Packed qkv, o, up, down;
  };
  struct Layer {
    DeviceBuffer<float> attn_norm, attn_norm_bias, mlp_norm, mlp_norm_bias, q_norm, k_norm;
    std::vector<Projections> sets;  // one, or one of each slot
    const Projections& at(int slot) const { return sets[slot > 0 && sets.size() > 1 ? slot : 0]; }
  };
  struct Stack {
    std::vector<Layer> layers;
    DeviceBuffer<float> norm, norm_bias, positions, angles;
    DeviceBuffer<LayerParams> table;
    StackParams params{};
  };
  const Packed& bridge_of(int slot) const {  // one that passes through the local stack
    return bridges_[config_.project ? size_t(slot - config_.first_local()) : 0];
  }
  // Slot 0's is the first one where the global stack predicts it.
  bool global_head(int slot) const { return slot == 0 && config_.global_head_size > 0; }
  const Packed& head_of(int slot) const { return global_head(slot) ? first_head_ : head_; }
  IdRange head_ids(int slot) const;
  int64_t logits_stride() const {
    return int64_t{std::max(head_.shape.row_tiles, first_head_.shape.row_tiles)} * kTileRows;
  }
  // Of a slot, ids whose logits are computed. One that is fixed has to be drawn, too: from any.
  std::vector<IdRange> needed(const Sampler& sampler, int slot) const;
  size_t cache_row() const;  // bytes of one head's position
  // Positions that a session's cache has: with a window it is a ring.
  int64_t held(int64_t capacity) const;
  bool batched(int64_t columns) const { return columns >= batched_from_ && batched_columns_ > 0; }
  DeviceBuffer<float> floats(const Buffer<float>& b) const { return {device_, b.data(), b.size()}; }
  // The parts' rows of one of `sets` sets, which lie one after the other.
  Packed pack(const std::vector<Part>& parts, DType dtype, bool gated, int set = 0,
              int sets = 1) const;
  Stack make_stack(const Weights& weights, const std::string& name, const StackConfig& c,
                   int64_t max_positions, DType dtype, int sets) const;
  // Embeddings on the host: x [D] of a frame's ids [K]; out [count, D].
  void embed(const int32_t* ids, float* x) const;
  void embed_continuous(const ContinuousInput& input, float* out) const;

  struct Step {  // one session's share of a launch
    Session* session;
    const SamplingConfig* sampling;
    const Sampler* sampler;
    const int32_t* aligned;
    const int32_t* forced = nullptr;
    float* logits = nullptr;  // device
    int64_t made = 0;
    bool unconditional = false;  // guides the step before it, and takes that one's ids
  };
  struct Round {  // the products of one frame
    std::vector<Job> jobs;
    struct Head {
      size_t job;                  // of `jobs`
      std::vector<int32_t> tiles;  // the row tiles that its slot needs
    };
    std::vector<Head> heads;
    int most_head_tiles = 0;
  };
  // Generates up to `rounds` frames in each step's session, in as many launches as it takes.
  void launch_all(std::vector<Step>& steps, int64_t rounds) const;
  void launch(std::vector<Step*>& steps, int64_t rounds) const;
  // rows: device
  void launch_prefill(Session& s, const float* rows, int64_t count, int columns) const;
  void add_jobs(const Stack& stack, int slot, std::vector<Job>& jobs) const;
  Round make_round(const std::vector<Step*>& steps, int slots) const;
  Column column_of(const Session& s) const;
  const char* reserve_arguments(size_t bytes) const;  // where a launch's arguments go
  void take_result(Step& step) const;
  FrameParams params(int columns) const;
  void run(FrameParams& p, int head_tiles) const;
  void run_batched(const FrameParams& p, const std::vector<Job>& jobs,
                   const std::vector<Column>& columns) const;
  int most_batched_columns() const;  // 0: the device holds too few to be worth it

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
  std::vector<Packed> bridges_;  // one, or one of each slot
  DeviceBuffer<BridgeParams> bridge_table_;
  Packed head_, first_head_;
  DeviceBuffer<float> global_embed_, local_embed_, aligned_embed_;
  DeviceBuffer<int32_t> delays_, delay_ids_;

  // What launches share; one launch at a time.
  mutable std::mutex mutex_;
  mutable uint32_t epoch_ = 0;
  DeviceBuffer<Word> exchange_;
  struct Places {
    size_t qkv, part, x1, hidden, x2, local_qkv, bridged, logits, ids, all;
  } places_{};
  mutable DeviceBuffer<char> arguments_;
  int batched_columns_ = 0, batched_from_ = 0;
  mutable DeviceBuffer<char> batched_memory_;  // allocated on first use
};

// One sequence, whose state lives on the device. The same interface and rules as LmSession.
class Session final : public SessionState {
 public:
  Session(std::shared_ptr<const Lm> lm, int64_t max_frames);
  const Lm& lm() const { return *lm_; }

  void prefill(const int32_t* frames, int64_t count, const int32_t* aligned,
               const std::vector<ContinuousInput>& continuous);
  // As LmSession::set_guidance. Also std::invalid_argument where the device takes one stream at a
  // time.
  void set_guidance(const Session& unconditional, double scale, bool aligned = true);
  void set_words(const WordsConfig& words);  // as LmSession::set_words
  void reset();                              // ends guidance too
  std::unique_ptr<Session> fork() const;
  // A copy on the device of frames [first, first + count): int32 [count, K]. std::invalid_argument
  // where they are not known yet.
  std::shared_ptr<Array> known(int64_t first, int64_t count) const;

  struct Job {
    Session* session;
    const SamplingConfig* sampling;
    const int32_t* aligned;
    int32_t* out;
    int64_t made = 0;
  };
  // Steps distinct sessions of one model together; each one's frames are the same as alone.
  static void generate_batch(std::vector<Job>& jobs, int64_t count,
                             const std::function<bool()>& interrupted);

 private:
  friend class Lm;
  const void* model() const override { return lm_.get(); }
  const Session* unconditional() const override { return unconditional_.get(); }
  const LmConfig& config() const override { return lm_->config(); }
  // The global stack's inputs of `count` frames and, after them, the input that the next step will
  // have: [count + 1, D].
  std::vector<float> input_rows(const int32_t* frames, int64_t count, const int32_t* aligned,
                                const std::vector<ContinuousInput>& continuous) const;
  static void take_frames(Job& job, int64_t made);

  std::shared_ptr<const Lm> lm_;
  DeviceBuffer<char> keys_, values_;
  DeviceBuffer<int32_t> history_;
  DeviceBuffer<StreamState> result_;
  DeviceBuffer<float> last_;
  struct Spoken {
    DeviceBuffer<int32_t> ids;
    DeviceBuffer<WordPlace> places;
  };
  std::shared_ptr<const Spoken> spoken_;    // the words, which forks share
  std::unique_ptr<Session> unconditional_;  // under guidance
};

}  // namespace uniaudio::cuda
