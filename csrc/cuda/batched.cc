// Builds the list of launches that batched.h describes.
#include "batched.h"

#include <algorithm>
#include <stdexcept>

#include "lm.h"

namespace uniaudio::cuda {
namespace {

struct Memory {  // floats from the start of batched_memory_, for `columns`
  size_t x, local_x, h, hidden, attended, known, stats, slice_peaks, state, ids, parts, all;
};

}  // namespace

// As many as a block's shared memory holds parts of operands for; 0: too few to be worth it.
int Lm::most_batched_columns() const {
  const StackShape g = stack_shape(config_.global, formats_.global),
                   l = stack_shape(config_.local, formats_.local);
  int columns = kBatchedColumns;
  const auto fit = [&](const TileShape& t, Format format) {
    while (columns > 0 && operand_bytes(format, batched_range(t.k_tiles), columns) >
                              device_->limits().shared_bytes)
      columns -= 16;
  };
  for (const TileShape& t : {g.qkv, g.o, g.up, g.down}) fit(t, formats_.global);
  for (const TileShape& t : {l.qkv, l.o, l.up, l.down}) fit(t, formats_.local);
  fit(bridges_[0].shape, formats_.head), fit(head_.shape, formats_.head),
      fit(first_head_.shape, formats_.head);
  return columns > plan_.most_columns ? columns : 0;
}

void Lm::set_batched_from(int columns) {
  if (columns < 1)
    throw std::invalid_argument("batched_from: expected 1 or more, got " + std::to_string(columns));
  const std::lock_guard<std::mutex> lock(mutex_);
  batched_from_ =
      columns > plan_.most_columns && batched_columns_ == 0 ? plan_.most_columns + 1 : columns;
}

void Lm::run_batched(const FrameParams& p, const std::vector<Job>& jobs,
                     const std::vector<Column>& columns) const {
  const int count = int(columns.size()), k = config_.num_codebooks;
  const StackParams &g = global_.params, &l = local_.params;
  int rows = 0;
  for (const Job& j : jobs) rows = std::max(rows, j.row_tiles * kTileRows);
  Memory m{};
  const auto place = [&](size_t floats) {
    const size_t here = m.all;
    m.all += (floats + 31) / 32 * 32;
    return here;
  };
  const size_t n = size_t(count);
  m.x = place(n * size_t(g.width)), m.local_x = place(n * size_t(l.width)),
  m.h = place(n * size_t(g.width));
  m.hidden = place(n * size_t(std::max(g.hidden, l.hidden))),
  m.attended = place(n * size_t(std::max(g.heads * g.dim, l.heads * l.dim)));
  m.known = place(n * size_t(k) * size_t(l.layers) * size_t(l.qkv));
  m.stats = place(n * kStats), m.slice_peaks = place(n * size_t(k)),
  m.state = place(n * sizeof(StreamState) / sizeof(float)), m.ids = place(n * size_t(k));
  m.parts = place(size_t(kWarps) * n * size_t(rows));
  if (batched_memory_.size() < m.all * sizeof(float))
    batched_memory_ = DeviceBuffer<char>(device_, m.all * sizeof(float));
  float* const memory = reinterpret_cast<float*>(batched_memory_.data());
  float *const stats = memory + m.stats, *const parts = memory + m.parts,
               *const peaks = memory + m.slice_peaks;
  const Streams streams = {p.column, reinterpret_cast<StreamState*>(memory + m.state),
                           reinterpret_cast<int32_t*>(memory + m.ids), p.rules};
  std::vector<StreamState> state(n);
  for (size_t c = 0; c < n; ++c)
    state[c].now = columns[c].now, state[c].words = columns[c].word_state;
  device_->upload(streams.state, state.data(), n * sizeof(StreamState));

  std::vector<BatchedOp> ops;
  size_t job = 0;
  // The next product, and where its consumer finds what it gave.
  const auto product = [&](const float* x, int stride, int inputs, const Norm& norm, Format format,
                           const float* scale, const float* peak, int peak_stride) {
    BatchedProduct w{};
    w.job = jobs[job++];
    w.x = x, w.stride = stride, w.n = inputs, w.norm = norm, w.stats = stats, w.peak = peak,
    w.peak_stride = peak_stride, w.format = format, w.columns = count;
    w.each = w.job.row_tiles >= 2 * device_->limits().blocks ? 2 : 1;
    w.parts = parts;
    ops.emplace_back(w);
    return Totals{parts, count, w.job.row_tiles * kTileRows, format, scale, peak, peak_stride};
  };
  const auto row = [&](Row how, int width, const Totals& from, const float* bias, float* x,
                       const Norm& next, Format next_format) {
    BatchedRow w{};
    w.how = how, w.columns = count, w.width = width, w.from = from, w.bias = bias, w.x = x,
    w.norm = next, w.peaks = next_format == Format::int8;
    w.stats = stats, w.streams = streams;
    return w;
  };
  // All layers but what comes before the first product; `last` is the row after the last one.
  const auto layers = [&](const Stack& s, float* x, int slot, const Norm& end, Format end_format,
                          const auto& finish) {
    const StackParams& c = s.params;
    float *const hidden = memory + m.hidden, *const attended = memory + m.attended;
    for (size_t i = 0; i < s.layers.size(); ++i) {
      const Layer& layer = s.layers[i];
      const Projections& weights = layer.at(slot);
      const Norm attn = {layer.attn_norm.data(), layer.attn_norm_bias.data(), c.eps, c.rmsnorm},
                 mlp = {layer.mlp_norm.data(), layer.mlp_norm_bias.data(), c.eps, c.rmsnorm};
      const HeadNorm head_norms = {layer.q_norm.data(), layer.k_norm.data(), c.eps};
      const Totals qkv = product(x, c.width, c.width, attn, c.format, weights.qkv.scale.data(),
                                 stats + kPeak, kStats);
      if (slot < 0) {
        BatchedAttend w{};
        w.qkv = qkv, w.bias = weights.qkv.bias.data(), w.columns = count, w.heads = c.heads,
        w.kv_heads = c.kv_heads, w.dim = c.dim, w.layer = int(i), w.window = c.window;
        w.norm = head_norms, w.angles = c.angles, w.streams = streams, w.half = p.kv_half,
        w.write = true, w.attend = p.slots > 0, w.out = attended, w.stats = stats;
        ops.emplace_back(w);
        if (!w.attend) {
          w.write = false, w.attend = true;
          ops.emplace_back(w);
        }
      } else {
        BatchedAttendFew w{};
        w.qkv = qkv, w.bias = weights.qkv.bias.data(), w.columns = count, w.heads = c.heads,
        w.kv_heads = c.kv_heads, w.dim = c.dim, w.width = c.qkv, w.layer = int(i);
        w.layers = c.layers, w.window = c.window, w.slot = slot, w.norm = head_norms,
        w.angles = c.angles, w.known = memory + m.known, w.out = attended, w.stats = stats;
        ops.emplace_back(w);
      }
      const Totals o = product(attended, c.heads * c.dim, c.heads * c.dim, Norm{}, c.format,
                               weights.o.scale.data(), stats + kAttended, kStats);
      ops.emplace_back(row(Row::add, c.width, o, weights.o.bias.data(), x, mlp, c.format));
      const Totals up = product(x, c.width, c.width, mlp, c.format, weights.up.scale.data(),
                                stats + kPeak, kStats);
      ops.emplace_back(row(c.swiglu      ? Row::gated
                           : c.gelu_tanh ? Row::hidden_tanh
                                         : Row::hidden,
                           c.hidden, up, weights.up.bias.data(), hidden, Norm{}, c.format));
      const Totals down = product(hidden, c.hidden, c.hidden, Norm{}, c.format,
                                  weights.down.scale.data(), stats + kPeak, kStats);
      const bool more = i + 1 < s.layers.size();
      const Norm next = more ? Norm{s.layers[i + 1].attn_norm.data(),
                                    s.layers[i + 1].attn_norm_bias.data(), c.eps, c.rmsnorm}
                             : end;
      BatchedRow w = row(Row::add, c.width, down, weights.down.bias.data(), x, next,
                         more ? c.format : end_format);
      if (!more) finish(w);
      ops.emplace_back(w);
    }
  };
  const auto first_norm = [](const Stack& s) {
    return Norm{s.layers[0].attn_norm.data(), s.layers[0].attn_norm_bias.data(), s.params.eps,
                s.params.rmsnorm};
  };

  float *const x = memory + m.x, *const local_x = memory + m.local_x, *const h = memory + m.h;
  BatchedRow begin = row(Row::begin, g.width, Totals{}, nullptr, x, first_norm(global_), g.format);
  begin.positions = g.positions, begin.aligned_embed = p.aligned_embed,
  begin.aligned_slots = p.aligned_slots, begin.prefill = p.slots == 0;
  ops.emplace_back(begin);
  const int slices = p.slices;
  layers(global_, x, -1, norm_of(g, g.norm, g.norm_bias), p.head_format,
         [&](BatchedRow& w) { w.out = h, w.slice_peaks = peaks, w.slices = slices; });
  for (int slot = 0; slot < p.slots; slot = p.rules.next(slot)) {
    const Norm end = norm_of(l, l.norm, l.norm_bias);
    if (const int at = slot - p.rules.first_local; at >= 0) {
      const bool bridged = p.add || slot == 0;
      Totals bridge{};
      if (bridged)
        bridge =
            product(h + slot % slices * (g.width / slices), g.width, g.width / slices, Norm{},
                    p.head_format, bridge_of(slot).scale.data(), peaks + slot % slices, slices);
      BatchedRow in = row(Row::slot, l.width, bridge, bridge_of(slot).bias.data(), local_x,
                          first_norm(local_), l.format);
      in.positions = l.positions, in.embed = p.local_table, in.slot = slot, in.local_slot = at,
      in.start_id = p.local_start, in.bridged = bridged, in.embedded = p.add || slot > 0;
      ops.emplace_back(in);
      layers(local_, local_x, at, end, p.head_format, [](BatchedRow&) {});
    }
    BatchedSample s{};
    s.list = jobs[job].list;
    const HeadParams& head = p.heads[slot > 0];
    s.logits = global_head(slot)
                   ? product(h, g.width, g.width, Norm{}, p.head_format, head.scale, peaks, 1)
                   : product(local_x, l.width, l.width, end, p.head_format, head.scale,
                             stats + kPeak, kStats);
    s.start = head.start;
    s.columns = count, s.vocab = p.vocab, s.slot = slot, s.width = g.width,
    s.last = slot + 1 >= p.slots;
    s.streams = streams, s.embed = p.embed;
    ops.emplace_back(s);
  }
  device_->sequence(ops, p.rounds);
}

}  // namespace uniaudio::cuda
