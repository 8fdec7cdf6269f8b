// The multi-scale LM: a global transformer over frames and a local one over a frame's slots.
// Immutable and shared by sessions. Reference: MultiScaleLM in uniaudio_training/models/lm.py.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "config.h"
#include "session_rules.h"
#include "transformer.h"

namespace uniaudio {

// Ids [begin, end) of the vocabulary.
struct IdRange {
  int32_t begin, end;
};

class MultiScaleLm;

constexpr int64_t kPrefillRows = 128;  // known frames that go through the global stack together

// The tensors that a model of this configuration consists of.
std::vector<TensorSpec> lm_tensors(const LmConfig& config);

// The rows [count + max_delay, K] that the steps of frames [count, K] make; empty without delays.
std::vector<int32_t> delayed_rows(const LmConfig& config, const int32_t* frames, int64_t count);

// How the weights of each part are held. The bridge, which is small too, follows the head.
struct LmDTypes {
  DType global = DType::float32, local = DType::float32, head = DType::float32;
  LmDTypes() = default;
  LmDTypes(DType all) : global(all), local(all), head(all == DType::int4 ? DType::int8 : all) {}
  // One name for all parts ("int4" keeps the head in int8), or parts by name, each at most once:
  // "global=int8,local=int4,head=int8". A leading name sets the other parts, "int8" by default:
  // "int4,global=int8". std::invalid_argument on other text.
  static LmDTypes parse(const std::string& text);
  std::string name() const;  // the shortest text that parses to this
};

// A pass's working memory, reserved outside the frame loop.
struct LmScratch {
  TransformerScratch global, local;
  LinearScratch linear;
  Buffer<float> x;        // [rows, D]: global inputs, then hidden
  Buffer<float> bridged;  // [rows * bridge_rows, local D]
  Buffer<float> local_x;  // [local rows, local D]
  Buffer<float> logits;   // [local rows, V]
  std::vector<KvCache> local_caches;
  std::vector<SequenceRow> rows;

  // For passes of up to `rows` frames through the global stack and `local_rows` through the local
  // one.
  void reserve(const MultiScaleLm& lm, int64_t rows, int64_t local_rows, int64_t capacity);
};

// Working memory for the calls in progress. It is lent for one call and kept for the next, so that
// there is as much of it as there are calls at the same time, not sessions.
class ScratchPool {
  // One process's. A child of fork() begins anew: a thread that it does not have may hold the lock.
  struct Shared {
    explicit Shared(int p) : process(p) {}
    const int process;
    std::mutex mutex;
    size_t made = 0;
    std::vector<std::unique_ptr<LmScratch>> free;
  };

 public:
  class Loan {
   public:
    explicit Loan(ScratchPool& pool);
    ~Loan();
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    LmScratch& operator*() const { return *scratch_; }

   private:
    Shared& pool_;
    std::unique_ptr<LmScratch> scratch_;
  };

  ScratchPool();
  ~ScratchPool();
  ScratchPool(const ScratchPool&) = delete;

 private:
  Shared& mine();

  std::atomic<Shared*> shared_;
};

class MultiScaleLm {
 public:
  // std::invalid_argument on weights that do not fit the config.
  MultiScaleLm(const LmConfig& config, const Weights& weights, LmDTypes dtypes, int threads,
               KvDType kv_dtype = KvDType::float32);

  const LmConfig& config() const { return config_; }
  const LmDTypes& dtypes() const { return dtypes_; }
  // of the global stack's caches; the local stack's are short and stay float32
  KvDType kv_dtype() const { return kv_dtype_; }
  ThreadPool& pool() const { return *pool_; }
  ScratchPool& scratch() const { return *scratch_; }
  const Transformer& global() const { return global_; }
  const Transformer& local() const { return local_; }
  // of config, dtypes and weights: identifies the model of a saved session
  uint64_t fingerprint() const { return fingerprint_; }

  // Bytes of weights read for one frame when `head_rows` rows of the output head are used per slot
  // (0: all).
  size_t weight_bytes_per_frame(int64_t head_rows = 0) const;
  // The most positions that a session's cache holds at once: with a window, it slides.
  int64_t most_held() const {
    const int64_t window = config_.global.window;
    return window > 0 ? round_up(window + kPrefillRows + 15, 16) : INT64_MAX;
  }
  // Of a session with room for `capacity` frames, when its caches have grown to `held` of them.
  size_t session_bytes(int64_t held, int64_t capacity) const;
  size_t session_bytes(int64_t capacity) const { return session_bytes(capacity, capacity); }

  // --- pieces of a step; x, h: [rows, D] in scratch.x --------------------------------------------
  void embed_frame(const int32_t* ids, float* x) const;  // x [D] = E(ids [K])
  void embed_start(float* x) const;                      // x [D] = E(start frame)
  // x [D] += aligned rows [S]; -1 adds nothing
  void add_aligned(const int32_t* aligned, float* x) const;
  void embed_continuous(const ContinuousInput& input, float* out) const;  // out [count, D]
  // Appends scratch.rows (count of them) to their caches; scratch.x becomes h unless cache_only.
  void global_pass(LmScratch& scratch, int64_t count, bool cache_only) const;
  // After global_pass: h of `count` frames to local inputs.
  void bridge(LmScratch& scratch, int64_t count) const;
  // Slot `slot` of `count` frames. frame[i] is the frame's row in the global pass, previous[i] the
  // id in slot - 1 (unused at 0), or the previous_ids(slot) before it. scratch.local_x
  // [count, local D] becomes the hidden rows. Not for slots before first_local.
  void local_pass(LmScratch& scratch, int slot, int64_t count, const int32_t* frame,
                  const int32_t* previous) const;
  // Logits of the ids in `ranges` (ascending, disjoint) that the head has into logits [count, V];
  // others are left as they were.
  void head(LmScratch& scratch, int64_t count, const IdRange* ranges, int64_t num_ranges,
            float* logits) const;

  // Of slot 0, where a head on the global output predicts it: after global_pass, of its first `count`
  // rows. `ranges` lie within the head's ids.
  void first_head(LmScratch& scratch, int64_t count, const IdRange* ranges, int64_t num_ranges,
                  float* logits) const;
  bool has_first_head() const { return config_.global_head_size > 0; }

  // Teacher-forced logits [T, K, V] of frames [T, K]; aligned rows [T, S] or null.
  void logits(const int32_t* frames, int64_t count, const int32_t* aligned,
              const std::vector<ContinuousInput>& continuous, float* out) const;

 private:
  LmConfig config_;
  LmDTypes dtypes_;
  KvDType kv_dtype_;
  uint64_t fingerprint_ = 0;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<ScratchPool> scratch_ = std::make_unique<ScratchPool>();
  Transformer global_, local_;
  Table global_embed_, local_embed_, aligned_;  // no local one where it is tied
  Linear bridge_, head_, global_head_;
  // always float32: outside embeddings may have wide ranges
  std::map<std::string, Linear> continuous_;
};

}  // namespace uniaudio
