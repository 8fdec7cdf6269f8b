// Sessions as bytes.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "lm_session.h"

namespace uniaudio {
namespace {

struct SavedHeader {
  char magic[8];
  uint64_t fingerprint, bytes;
  int64_t count, generated, frame_offset, flags;
};
constexpr int64_t kFinished = 1, kConditioned = 2;  // flags
constexpr char kMagic[8] = {'U', 'A', 'S', 'E', 'S', 'S', '0', '1'};

uint64_t checksum(const char* data, size_t size) {
  uint64_t h = 0xCBF29CE484222325ull;
  for (size_t i = 0; i + 8 <= size; i += 8) {
    uint64_t v;
    std::memcpy(&v, data + i, 8);
    h = (h ^ v) * 0x100000001B3ull;
    h ^= h >> 32;
  }
  for (size_t i = size / 8 * 8; i < size; ++i)
    h = (h ^ uint64_t(uint8_t(data[i]))) * 0x100000001B3ull;
  return h;
}

}  // namespace

// Header, history, last embedding, condition if any, cache, with delays the steps and the end,
// checksum of all before it.
std::string LmSession::save() const {
  const Use use(*this);
  if (guided())
    throw std::invalid_argument(
        "save: expected a session without guidance; save it before set_guidance");
  const size_t history = history_bytes(now_.count), last = last_.size() * sizeof(float);
  if (words_)
    throw std::invalid_argument("save: expected a session without words; save it before set_words");
  // As it is where it has slid to this frame, which restore knows too.
  KvCache slid;
  const int64_t base = KvCache::base_of(lm_->config().global, now_.steps),
                packed = now_.steps - base;
  if (base > cache_.base()) {
    slid = KvCache(lm_->config().global, now_.steps - cache_.base(), lm_->kv_dtype());
    slid.copy_from(cache_, now_.steps - cache_.base());
    slid.set_base(cache_.base());
    slid.slide(now_.steps);
  }
  const KvCache& kept = base > cache_.base() ? slid : cache_;
  const size_t cache = kept.packed_bytes(packed), condition = condition_.size() * sizeof(float);
  const int64_t ahead[2] = {now_.steps, now_.end};
  const size_t delays = lm_->config().delays.empty() ? 0 : sizeof ahead;
  SavedHeader h{};
  std::memcpy(h.magic, kMagic, 8);
  h.fingerprint = lm_->fingerprint();
  h.bytes = sizeof h + history + last + condition + cache + delays + 8;
  h.count = now_.count, h.generated = now_.generated, h.frame_offset = frame_offset_,
  h.flags = (now_.finished ? kFinished : 0) | (conditioned() ? kConditioned : 0);
  std::string out(h.bytes, '\0');
  char* p = out.data();
  std::memcpy(p, &h, sizeof h);
  std::memcpy(p + sizeof h, history_.data(), history);
  std::memcpy(p + sizeof h + history, last_.data(), last);
  if (condition) std::memcpy(p + sizeof h + history + last, condition_.data(), condition);
  kept.pack(packed, p + sizeof h + history + last + condition);
  std::memcpy(p + h.bytes - 8 - delays, ahead, delays);
  const uint64_t sum = checksum(p, h.bytes - 8);
  std::memcpy(p + h.bytes - 8, &sum, 8);
  return out;
}

void LmSession::restore(const std::string& bytes) {
  const Use use(*this);
  const auto refuse = [](const std::string& why) {
    throw std::invalid_argument("restore: " + why);
  };
  SavedHeader h;
  if (bytes.size() < sizeof h + 8)
    refuse("expected a saved session, got " + std::to_string(bytes.size()) +
           " bytes; save it again");
  std::memcpy(&h, bytes.data(), sizeof h);
  if (std::memcmp(h.magic, kMagic, 8) != 0)
    refuse("expected a session saved by this version, got other bytes; save it again");
  if (h.fingerprint != lm_->fingerprint())
    refuse("expected a session of this model and dtype, got another's; load that model");
  if (h.count < 0 || h.count > capacity_) {
    refuse("expected at most " + std::to_string(capacity_) + " frames, got " +
           std::to_string(h.count) + "; make the session with a larger max_frames");
  }
  const LmConfig& c = lm_->config();
  const size_t history = history_bytes(h.count), last = last_.size() * sizeof(float),
               condition = h.flags & kConditioned ? last : 0;
  int64_t ahead[2] = {h.count, -1};  // steps and the end
  const size_t delays = c.delays.empty() ? 0 : sizeof ahead;
  if (bytes.size() >= sizeof h + delays + 8)
    std::memcpy(ahead, bytes.data() + bytes.size() - 8 - delays, delays);
  // The step that completes a frame of the end which is not kept is one more.
  const int64_t left_out = h.flags & kFinished ? 1 : 0,
                most = std::min(h.count + left_out, capacity_) + c.max_delay();
  if (ahead[0] < h.count || ahead[0] > most || ahead[1] < -1 || ahead[1] > ahead[0])
    refuse("the saved session has impossible counts; save it again");
  const int64_t base = KvCache::base_of(c.global, ahead[0]), held_positions = ahead[0] - base;
  const size_t cache = cache_.packed_bytes(held_positions);
  const size_t expected = sizeof h + history + last + condition + cache + delays + 8;
  uint64_t sum = 0;
  if (bytes.size() == expected) std::memcpy(&sum, bytes.data() + expected - 8, 8);
  if (bytes.size() != expected || h.bytes != expected ||
      sum != checksum(bytes.data(), expected - 8))
    refuse("the saved session is cut short or damaged; save it again");
  if (h.generated < 0 || h.generated > h.count || h.frame_offset < 0 ||
      (h.flags & ~(kFinished | kConditioned)))
    refuse("the saved session has impossible counts; save it again");
  std::vector<int32_t> ids(history / sizeof(int32_t));
  if (history) std::memcpy(ids.data(), bytes.data() + sizeof h, history);
  check_frames(c, ids.data(), h.count + c.max_delay());
  const char* const packed = bytes.data() + sizeof h + history + last + condition;
  std::vector<float> embedding((last + condition) / sizeof(float));  // and the condition
  std::memcpy(embedding.data(), bytes.data() + sizeof h + history, last + condition);
  if (!cache_.all_finite(held_positions, packed) ||
      !std::all_of(embedding.begin(), embedding.end(), [](float v) { return std::isfinite(v); })) {
    refuse("the saved session holds infinite or NaN values; save it again");
  }
  std::fill_n(history_.data(), history_.size(), 0);
  if (history) std::memcpy(history_.data(), ids.data(), history);
  std::memcpy(last_.data(), embedding.data(), last);
  cache_.grow(held(h.count));
  cache_.set_base(base);
  cache_.unpack(held_positions, packed);
  clear();
  now_.count = h.count, now_.generated = h.generated, frame_offset_ = h.frame_offset;
  now_.steps = ahead[0], now_.end = ahead[1];
  now_.finished = (h.flags & kFinished) != 0;
  unconditional_.reset();
  condition_.assign(embedding.begin() + int64_t(last_.size()), embedding.end());
}

}  // namespace uniaudio
