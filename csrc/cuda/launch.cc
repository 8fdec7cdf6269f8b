// Launches of the LM: arguments for the device, put together and uploaded in one piece.
#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "lm.h"

namespace uniaudio::cuda {
namespace {

constexpr uint32_t kLastEpoch = 0xF0000000u;

// The row tiles of a head from id `start` on that hold `ranges`, ascending.
std::vector<int32_t> tiles_of(const std::vector<IdRange>& ranges, int32_t start) {
  std::vector<int32_t> tiles;
  for (IdRange r : ranges) {
    for (int32_t t = (r.begin - start) / kTileRows; t <= (r.end - 1 - start) / kTileRows; ++t)
      tiles.push_back(t);
  }
  std::sort(tiles.begin(), tiles.end());
  tiles.erase(std::unique(tiles.begin(), tiles.end()), tiles.end());
  return tiles;
}

// Appends an array at a multiple of 16 bytes; returns where.
template <class T>
size_t append(std::vector<char>& bytes, const T* from, size_t count) {
  bytes.resize((bytes.size() + 15) / 16 * 16);
  const size_t at = bytes.size();
  bytes.resize(at + count * sizeof(T));
  if (count) std::memcpy(bytes.data() + at, from, count * sizeof(T));
  return at;
}
template <class T>
size_t append(std::vector<char>& bytes, const std::vector<T>& from) {
  return append(bytes, from.data(), from.size());
}
template <class T>
const T* at(const char* base, size_t offset) {
  return reinterpret_cast<const T*>(base + offset);
}

// A step's arrays, by their place in the upload.
struct StepArrays {
  size_t ranges, range_begin, end_slot, slots, end_frame, aligned, forced;
};

int32_t narrow(int64_t v) { return int32_t(std::min<int64_t>(v, INT32_MAX)); }

// All but the arrays.
Sampling sampling_of(const SamplingConfig& c) {
  Sampling s{};
  s.end_id = int32_t(c.end_id), s.min_frames = narrow(c.min_frames);
  s.tie = c.tie_slots, s.seed = c.seed, s.keep_end = c.keep_end_frame;
  return s;
}

SlotSampling slot_sampling_of(const Drawing& d, int32_t forced, bool fixed) {
  SlotSampling s{};
  s.greedy = d.is_greedy();
  s.temperature = s.greedy ? 1.0f : float(d.temperature);
  s.top_k = narrow(d.top_k), s.top_p = d.top_p;
  s.window = narrow(d.repetition_window), s.penalty = float(d.repetition_penalty);
  s.forced = forced, s.fixed = fixed ? forced : -1;
  return s;
}

// needed(slot): the ids to draw from.
template <class Needed>
StepArrays append_sampling(std::vector<char>& bytes, const SamplingConfig& c,
                           const Sampler& sampler, int slots, const Needed& needed) {
  std::vector<Range> ranges;
  std::vector<int32_t> begin;
  std::vector<uint8_t> ends;
  std::vector<SlotSampling> drawn;
  for (int slot = 0; slot < slots; ++slot) {
    begin.push_back(int32_t(ranges.size()));
    for (IdRange r : needed(slot)) ranges.push_back({r.begin, r.end});
    ends.push_back(c.end_id >= 0 && sampler.ends(slot, int32_t(c.end_id)));
    drawn.push_back(slot_sampling_of(sampler.drawing(slot), sampler.final_id(slot, -1),
                                     sampler.is_fixed(slot)));
  }
  begin.push_back(int32_t(ranges.size()));
  StepArrays a{};
  a.ranges = append(bytes, ranges), a.range_begin = append(bytes, begin);
  a.end_slot = append(bytes, ends), a.slots = append(bytes, drawn);
  a.end_frame = append(bytes, c.end_frame);
  return a;
}

}  // namespace

FrameParams Lm::params(int columns) const {
  FrameParams p{};
  p.global = global_.params, p.local = local_.params;
  p.embed = {global_embed_.data(), embed_width_, config_.num_codebooks, config_.concat};
  p.local_table = {(config_.tied_local ? global_embed_ : local_embed_).data(),
                   config_.local_table_start, config_.local_rows()};
  for (int i : {0, 1}) p.heads[i] = {head_of(i).scale.data(), head_ids(i).begin};
  p.global_head = global_head(0);
  const Delays delays = config_.delay_rules();
  p.rules = {{delays_.data(), delay_ids_.data(), delays.rows, delays.codebooks, delays.most},
             config_.num_codebooks,
             config_.given_slots,
             config_.first_local()};
  p.aligned_embed = aligned_embed_.data();
  p.bridge = bridge_table_.data(), p.slot_bridges = config_.project;
  p.slices = config_.bridge_in() < config_.global.width ? config_.num_codebooks : 1;
  p.vocab = config_.vocab_size, p.codebooks = config_.num_codebooks;
  p.aligned_slots = config_.aligned_slots, p.local_start = config_.local_start_id;
  p.add = config_.add, p.kv_half = kv_dtype_ == KvDType::bfloat16;
  p.head_format = formats_.head;
  p.columns = columns;
  Word* const e = exchange_.data();
  p.qkv = e + places_.qkv, p.part = e + places_.part, p.x1 = e + places_.x1, p.x2 = e + places_.x2,
  p.hidden = e + places_.hidden;
  p.local_qkv = e + places_.local_qkv, p.bridged = e + places_.bridged,
  p.logits = e + places_.logits, p.ids = e + places_.ids;
  return p;
}

// By the persistent kernel.
void Lm::run(FrameParams& p, int head_tiles) const {
  const int depth =
      ring_depth(config_, formats_, device_->limits(), plan_.blocks, p.columns, head_tiles);
  const SharedLayout s =
      shared_layout(config_, formats_, plan_.blocks, p.columns, head_tiles, depth);
  p.at_x = s.x, p.at_local_x = s.local_x, p.at_operand = s.operand, p.at_parts = s.parts,
  p.at_scale = s.scale, p.at_codes = s.codes;
  p.at_flat = s.flat, p.at_ring = s.ring;
  // Every phase but a few makes one exchange; the bound need not be sharp.
  const uint64_t most = uint64_t(p.rounds) * (uint64_t(p.job_count) * 3 + 64);
  if (epoch_ + most > kLastEpoch) {
    device_->zero(exchange_.data(), places_.all * sizeof(Word));
    epoch_ = 0;
  }
  p.epoch = epoch_;
  device_->frames(p, plan_.blocks, depth, s.bytes);
  epoch_ += uint32_t(most);
}

const char* Lm::reserve_arguments(size_t bytes) const {
  if (arguments_.size() < bytes) arguments_ = DeviceBuffer<char>(device_, bytes * 2);
  return arguments_.data();
}

void Lm::add_jobs(const Stack& stack, int slot, std::vector<Job>& jobs) const {
  for (const Layer& l : stack.layers) {
    const Projections& w = l.at(slot);
    for (const Packed* m : {&w.qkv, &w.o, &w.up, &w.down}) jobs.push_back(m->job());
  }
}

Column Lm::column_of(const Session& s) const {
  Column column{};
  column.keys = s.keys_.data(), column.values = s.values_.data();
  column.history = s.history_.data(), column.last = s.last_.data();
  column.result = s.result_.data();
  column.held = held(s.capacity_), column.now = s.now_;
  column.key_frame = s.frame_offset_;
  if (s.words_ && s.spoken_) {
    column.speaks = true;
    column.words = s.words_->rules(), column.word_state = s.words_->state;
    column.words.ids = s.spoken_->ids.data(), column.words.places = s.spoken_->places.data();
  }
  column.unconditional = column.conditional = -1;
  return column;
}

void Lm::launch_prefill(Session& s, const float* rows, int64_t count, int columns) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  FrameParams p = params(columns);
  p.slots = 0;
  p.rounds = int(count / columns);
  std::vector<Job> jobs;
  add_jobs(global_, 0, jobs);
  std::vector<Column> list(size_t(columns), column_of(s));
  for (int c = 0; c < columns; ++c) {
    list[size_t(c)].rows = rows + c * config_.global.width;
    list[size_t(c)].now.steps += c;
  }
  std::vector<char> bytes;
  const size_t at_jobs = append(bytes, jobs), at_columns = append(bytes, list);
  const char* const base = reserve_arguments(bytes.size());
  device_->upload(arguments_.data(), bytes.data(), bytes.size());
  p.jobs = at<Job>(base, at_jobs), p.job_count = int(jobs.size());
  p.column = at<Column>(base, at_columns);
  if (batched(columns)) {
    run_batched(p, jobs, list);
  } else {
    run(p, 1);
  }
}

// The head's rows: the union of what the columns need at each slot.
Lm::Round Lm::make_round(const std::vector<Step*>& steps, int slots) const {
  Round round;
  add_jobs(global_, 0, round.jobs);
  for (int slot = 0; slot < slots; ++slot) {
    if (config_.is_given(slot)) continue;
    if (slot >= config_.first_local()) {
      if (config_.add || slot == 0) round.jobs.push_back(bridge_of(slot).job());
      add_jobs(local_, slot - config_.first_local(), round.jobs);
    }
    std::vector<IdRange> ids;
    for (const Step* s : steps) {
      const std::vector<IdRange> own = needed(*s->sampler, slot);
      ids.insert(ids.end(), own.begin(), own.end());
    }
    Job head = head_of(slot).job();
    std::vector<int32_t> tiles = tiles_of(ids, head_ids(slot).begin);
    head.row_tiles = int32_t(tiles.size());
    round.most_head_tiles = std::max(round.most_head_tiles, int(tiles.size()));
    round.heads.push_back({round.jobs.size(), std::move(tiles)});
    round.jobs.push_back(head);
  }
  return round;
}

void Lm::launch(std::vector<Step*>& steps, int64_t rounds) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const int k = config_.num_codebooks, n = int(steps.size());
  FrameParams p = params(n);
  p.rounds = int(rounds);
  p.slots = 1;
  for (const Step* s : steps) {
    if (!s->sampling->tie_slots) p.slots = k;
  }
  Round round = make_round(steps, p.slots);

  // All arrays go up in one piece. Pointers to them are set once its address is known.
  std::vector<char> bytes;
  std::vector<size_t> lists;
  for (const Round::Head& head : round.heads) lists.push_back(append(bytes, head.tiles));
  std::vector<StepArrays> arrays;
  std::vector<Column> columns;
  for (size_t i = 0; i < steps.size(); ++i) {
    const Step& step = *steps[i];
    StepArrays a = append_sampling(bytes, *step.sampling, *step.sampler, k,
                                   [&](int slot) { return needed(*step.sampler, slot); });
    if (step.aligned)
      a.aligned = append(bytes, step.aligned, size_t(rounds * config_.aligned_slots));
    if (step.forced) a.forced = append(bytes, step.forced, size_t(rounds * k));
    arrays.push_back(a);
    Column& column = columns.emplace_back(column_of(*step.session));
    column.logits = step.logits, column.logits_stride = int32_t(logits_stride());
    column.sampling = sampling_of(*step.sampling);
    if (i + 1 < steps.size() && steps[i + 1]->unconditional)
      column.unconditional = int32_t(i + 1), column.guidance = step.session->guidance_;
    if (step.unconditional) column.conditional = int32_t(i - 1);
  }
  const size_t at_jobs = append(bytes, round.jobs), at_columns = append(bytes, columns);

  const char* const base = reserve_arguments(bytes.size());
  for (size_t i = 0; i < lists.size(); ++i)
    round.jobs[round.heads[i].job].list = at<int32_t>(base, lists[i]);
  for (size_t i = 0; i < steps.size(); ++i) {
    Sampling& s = columns[i].sampling;
    s.ranges = at<Range>(base, arrays[i].ranges);
    s.range_begin = at<int32_t>(base, arrays[i].range_begin);
    s.end_slot = at<uint8_t>(base, arrays[i].end_slot);
    s.slots = at<SlotSampling>(base, arrays[i].slots);
    if (!steps[i]->sampling->end_frame.empty())
      s.end_frame = at<int32_t>(base, arrays[i].end_frame);
    if (steps[i]->aligned) columns[i].aligned = at<int32_t>(base, arrays[i].aligned);
    if (steps[i]->forced) columns[i].forced = at<int32_t>(base, arrays[i].forced);
  }
  std::memcpy(bytes.data() + at_jobs, round.jobs.data(), round.jobs.size() * sizeof(Job));
  std::memcpy(bytes.data() + at_columns, columns.data(), columns.size() * sizeof(Column));
  device_->upload(arguments_.data(), bytes.data(), bytes.size());
  p.jobs = at<Job>(base, at_jobs), p.job_count = int(round.jobs.size());
  p.column = at<Column>(base, at_columns);
  if (batched(n) && !steps[0]->forced) {
    run_batched(p, round.jobs, columns);
  } else {
    run(p, round.most_head_tiles);
  }
  for (Step* step : steps) take_result(*step);
}

void Lm::launch_all(std::vector<Step>& steps, int64_t rounds) const {
  for (size_t first = 0; first < steps.size();) {
    std::vector<Step*> together;
    const size_t left = steps.size() - first, most = batched(int64_t(left))
                                                         ? size_t(most_columns())
                                                         : size_t(plan_.most_columns);
    for (size_t end = first + std::min(left, most); first < end; ++first) {
      // a guided pair stays together
      if (first + 1 == end && end < steps.size() && steps[end].unconditional) break;
      together.push_back(&steps[first]);
    }
    launch(together, rounds);
  }
}

// Where its sequence is, or what went wrong.
void Lm::take_result(Step& step) const {
  Session& s = *step.session;
  StreamState result;
  device_->download(&result, s.result_.data(), sizeof result);
  if (result.error) {
    throw std::runtime_error(result.error == 1
                                 ? "the model gave infinite or NaN logits; its weights are "
                                   "damaged or the temperature is too small"
                                 : "sampling: nothing may be emitted before min_frames but the "
                                   "end id; allow more ids");
  }
  step.made = result.now.count - s.now_.count;
  s.now_ = result.now;
  if (s.words_) s.words_->state = result.words;
}

void Lm::logits(const int32_t* frames, int64_t count, const int32_t* aligned,
                const std::vector<ContinuousInput>& continuous, float* out) const {
  check_logits(config_, frames, count, aligned);
  if (!continuous.empty())
    throw std::invalid_argument(
        "logits: expected no continuous inputs on cuda, which does not take them; use device cpu");
  if (count == 0) return;
  const int k = config_.num_codebooks;
  const int64_t v = config_.vocab_size, n = logits_stride();
  // This shared pointer does not own: the session ends before this call does.
  Session session(std::shared_ptr<const Lm>(std::shared_ptr<const Lm>(), this), count);
  SamplingConfig all;
  all.greedy = true;
  const Sampler sampler(all, config_);
  const DeviceBuffer<float> buffer(device_, size_t(kRounds * k * n));
  std::vector<float> host(size_t(kRounds * k * n));
  const std::vector<int32_t> delayed = delayed_rows(config_, frames, count);
  const int32_t* const ids_of_steps = delayed.empty() ? frames : delayed.data();
  const int64_t all_steps = count + config_.max_delay();
  for (int64_t first = 0; first < all_steps; first += kRounds) {
    const int64_t rounds = std::min(kRounds, all_steps - first);
    Step step{&session,
              &all,
              &sampler,
              aligned ? aligned + first * config_.aligned_slots : nullptr,
              ids_of_steps + first * k,
              buffer.data()};
    std::vector<Step*> steps = {&step};
    launch(steps, rounds);
    device_->download(host.data(), buffer.data(), size_t(rounds * k * n) * sizeof(float));
    for (int64_t i = 0; i < rounds * k; ++i) {
      const int slot = int(i % k);
      const int64_t frame = first + i / k - config_.delay(slot);
      if (frame < 0 || frame >= count) continue;
      const IdRange ids = head_ids(slot);
      float* const to = out + (frame * k + slot) * v;
      std::fill_n(to, v, -std::numeric_limits<float>::infinity());
      if (config_.is_given(slot)) continue;
      std::copy_n(host.data() + i * n, ids.end - ids.begin, to + ids.begin);
    }
  }
}

}  // namespace uniaudio::cuda
