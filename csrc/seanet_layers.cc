#include "seanet_layers.h"

#include <cmath>

namespace uniaudio {

namespace {

// most rows that one task takes through all passes at once: they stay in cache
constexpr int kTile = 96;

void copy_rows(const float* from, int64_t rows, int width, float* to) {
  std::copy_n(from, rows * width, to);
}

void elu_rows(ThreadPool& pool, const float* x, float* y, int64_t count) {
  split(
      pool, count, 16,
      [&](int64_t a, int64_t b) { codec_kernels().elu(x + a, y + a, size_t(b - a)); }, kPanel);
}

}  // namespace

void ClipNorm::load(const LayerSource& source, const std::string& prefix, int width) {
  if (!source.config->group_norm) return;
  weight = source.get(prefix + ".norm.weight", {width});
  bias = source.get(prefix + ".norm.bias", {width});
}

void ClipNorm::run(ThreadPool& pool, const float* x, int64_t rows, int width, float* y, bool add,
                   bool activate) const {
  if (rows == 0) return;
  const CodecKernels& kernels = codec_kernels();
  constexpr int64_t kBlock = 16384;  // fixed, so that the sums do not depend on the threads
  const int64_t n = rows * width, blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> sums(size_t(blocks) * 2);
  split(pool, blocks, kBlock, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i)
      kernels.moments(x + i * kBlock, size_t(std::min(kBlock, n - i * kBlock)),
                      &sums[size_t(i) * 2], &sums[size_t(i) * 2 + 1]);
  });
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < blocks; ++i)
    sum += sums[size_t(i) * 2], squares += sums[size_t(i) * 2 + 1];
  const double mean = sum / double(n),
               scale = 1.0 / std::sqrt(std::max(0.0, squares / double(n) - mean * mean) + 1e-5);
  // a row of few channels would leave most of a vector idle: several rows are taken as one
  const int repeat = static_cast<int>(std::clamp<int64_t>(64 / width, 1, rows)),
            wide = repeat * width;
  std::vector<float> a(size_t{2} * wide);
  float* const b = a.data() + wide;
  for (int i = 0; i < wide; ++i) {
    const double factor = scale * weight[i % width];
    a[i] = static_cast<float>(factor);
    b[i] = static_cast<float>(bias[i % width] - mean * factor);
  }
  split(pool, rows / repeat, wide, [&](int64_t from, int64_t to) {
    kernels.affine(x + from * wide, a.data(), b, y + from * wide, int(to - from), wide, add,
                   activate);
  });
  const int64_t done = rows / repeat * repeat * width;
  kernels.affine(x + done, a.data(), b, y + done, int(rows % repeat), width, add, activate);
}

// --- convolution ---------------------------------------------------------------------------------

ConvLayer::ConvLayer(const LayerSource& source, const std::string& prefix, const ConvShape& shape)
    : in_(shape.in),
      out_(shape.out),
      kernel_(shape.kernel),
      stride_(shape.stride),
      dilation_(shape.dilation),
      span_((shape.kernel - 1) * shape.dilation + 1),
      elu_first_(shape.elu_first),
      pad_(shape.pad.value_or(source.config->reflect ? Pad::reflect : Pad::zero)) {
  const int in = in_, out = out_, kernel = kernel_, stride = stride_, dilation = dilation_;
  const int total = span_ - stride_;
  right_ = source.config->causal ? 0 : total / 2;
  left_ = total - right_;
  retain_ = pad_ == Pad::reflect ? std::max(left_, right_ + stride_ - 1) + 1 : 0;
  capacity_ = std::max(span_, retain_);
  const Buffer<float> weight = source.get(prefix + ".weight", {out, in, kernel});
  const Buffer<float> bias =
      shape.bias ? source.get(prefix + ".bias", {out}) : Buffer<float>(size_t(out));
  norm_.load(source, prefix, out);
  if (!source.weights) return;
  const auto at = [&](int o, int i, int k) { return weight[(size_t(o) * in + i) * kernel + k]; };
  matrix_.allocate(kernel * in, out);
  for (int o = 0; o < out; ++o) {
    for (int k = 0; k < kernel; ++k)
      for (int i = 0; i < in; ++i) matrix_.at(k * in + i, o) = at(o, i, k);
    matrix_.bias[o] = bias[o];
  }
  if (out <= 4 && stride == 1 && dilation == 1 && in * kernel >= 32) {
    group_ = kPanel / out;
    banded_.allocate((group_ - 1 + kernel) * in, group_ * out);
    for (int g = 0; g < group_; ++g)
      for (int o = 0; o < out; ++o) {
        for (int k = 0; k < kernel; ++k)
          for (int i = 0; i < in; ++i) banded_.at((g + k) * in + i, g * out + o) = at(o, i, k);
        banded_.bias[g * out + o] = bias[o];
      }
  }
}

std::unique_ptr<LayerState> ConvLayer::make_state() const {
  auto s = std::make_unique<LayerState>();
  s->kept.allocate(size_t(capacity_) * in_);
  return s;
}

void ConvLayer::reset(LayerState& s) const {
  s.rows = s.skip = 0;
  s.received = 0;
  s.started = false;
}

float* ConvLayer::input(LayerState& s, int64_t n) const {
  // [room for the left padding][kept rows][new rows][room for the right padding]
  s.work.reserve(size_t(left_ + capacity_ + n + right_ + stride_) * in_);
  return s.work.data() + size_t(left_ + s.rows) * in_;
}

int ConvLayer::run(ThreadPool& pool, LayerState& s, int n, bool last, float* out) const {
  if (elu_first_) {
    float* fresh = s.work.data() + size_t(left_ + s.rows) * in_;
    elu_rows(pool, fresh, fresh, int64_t{n} * in_);
  }
  const Window window = open(s, n, last);
  if (window.count > 0) convolve(pool, window.first, window.count, out);
  close(s, window);
  return window.count;
}

ConvLayer::Window ConvLayer::open(LayerState& s, int n, bool last) const {
  float* base = s.work.data() + size_t(left_) * in_;  // kept rows, then new ones
  copy_rows(s.kept.data(), s.rows, in_, base);
  s.received += n;
  int64_t rows = s.rows + int64_t{n};
  if (!s.started && s.received > 0 && (pad_ != Pad::reflect || last || s.received > left_)) {
    // all rows are still there, so row i of the clip is row i of base
    for (int i = 1; i <= left_; ++i) {
      float* to = base - int64_t{i} * in_;
      if (pad_ == Pad::replicate)
        copy_rows(base, 1, in_, to);
      else if (pad_ == Pad::reflect && i < s.received)
        copy_rows(base + int64_t{i} * in_, 1, in_, to);
      else
        std::fill_n(to, in_, 0.0f);
    }
    base -= int64_t{left_} * in_;
    rows += left_;
    s.started = true;
  }
  if (last && s.received > 0) {
    const int64_t length = s.received;
    const int pad = right_ + static_cast<int>(round_up(length, stride_) - length);
    // reflection at the end of the clip, or of its zero extension where it is no longer than the
    // padding
    const int64_t extended = std::max<int64_t>(length, std::max(left_, pad) + 1);
    for (int i = 0; i < pad; ++i) {
      const int64_t mirror = 2 * (extended - 1) - (length + i);
      float* to = base + (rows + i) * in_;
      if (pad_ == Pad::replicate)
        copy_rows(base + (rows - 1) * in_, 1, in_, to);
      else if (pad_ == Pad::reflect && length + i >= extended && mirror < length)
        copy_rows(base + (rows - (length - mirror)) * in_, 1, in_, to);
      else
        std::fill_n(to, in_, 0.0f);
    }
    rows += pad;
  }
  Window window{.base = base, .rows = rows};
  if (s.started && rows - s.skip >= span_) {
    window.first = base + int64_t{s.skip} * in_;
    window.count = static_cast<int>((rows - s.skip - span_) / stride_ + 1);
  }
  return window;
}

void ConvLayer::close(LayerState& s, const Window& window) const {
  const int64_t next = s.skip + int64_t{window.count} * stride_;
  const int64_t first = std::clamp<int64_t>(std::min(next, window.rows - retain_), 0, window.rows);
  s.rows = static_cast<int>(window.rows - first);
  s.skip = static_cast<int>(next - first);
  // more only where the clip has ended
  if (s.rows <= capacity_) copy_rows(window.base + first * in_, s.rows, in_, s.kept.data());
}

void ConvLayer::convolve_here(const float* first, int count, float* out) const {
  multiply_here({.m = &matrix_,
                 .a = first,
                 .lda = int64_t{stride_} * in_,
                 .rows = count,
                 .c = out,
                 .ldc = out_,
                 .taps = kernel_,
                 .tap_step = int64_t{dilation_} * in_});
}

void ConvLayer::convolve(ThreadPool& pool, const float* first, int rows, float* out,
                         bool activate) const {
  const int64_t step = int64_t{stride_} * in_;
  int done = 0;
  if (group_ > 1 && rows >= group_) {
    done = rows / group_ * group_;
    multiply(pool, {.m = &banded_,
                    .a = first,
                    .lda = group_ * step,
                    .rows = rows / group_,
                    .c = out,
                    .ldc = group_ * out_});
  }
  multiply(pool, {.m = &matrix_,
                  .a = first + done * step,
                  .lda = step,
                  .rows = rows - done,
                  .c = out + int64_t{done} * out_,
                  .ldc = out_,
                  .taps = kernel_,
                  .tap_step = int64_t{dilation_} * in_});
  if (norm_.present())
    norm_.run(pool, out, rows, out_, out, false, activate);
  else if (activate)
    elu_rows(pool, out, out, int64_t{rows} * out_);
}

int64_t ConvLayer::ready(int64_t received) const {
  if (received == 0 || (pad_ == Pad::reflect && received <= left_)) return 0;
  const int64_t rows = received + left_;
  return rows < span_ ? 0 : (rows - span_) / stride_ + 1;
}

bool ConvLayer::plausible(const LayerState& s) const {
  if (s.rows > capacity_) return false;
  if (!s.started)
    return s.skip == 0 && s.rows == s.received && s.received <= (pad_ == Pad::reflect ? left_ : 0);
  const int64_t seen = s.received + left_, next = ready(s.received) * stride_;
  const int64_t first = std::max<int64_t>(0, std::min(next, seen - retain_));
  return s.received > 0 && s.rows == seen - first && s.skip == next - first;
}

// --- transposed convolution ----------------------------------------------------------------------

UpsampleLayer::UpsampleLayer(const LayerSource& source, const std::string& prefix, int in, int out,
                             int stride, bool elu_first)
    : in_(in), out_(out), stride_(stride), elu_first_(elu_first) {
  const int trim_right = source.config->causal
                             ? static_cast<int>(std::ceil(stride * source.config->trim_right_ratio))
                             : stride / 2;
  trim_left_ = stride - trim_right;
  const Buffer<float> weight = source.get(prefix + ".weight", {in, out, 2 * stride});
  const Buffer<float> bias = source.get(prefix + ".bias", {out});
  norm_.load(source, prefix, out);
  if (!source.weights) return;
  matrix_.allocate(2 * in, stride * out);
  for (int j = 0; j < stride; ++j)
    for (int o = 0; o < out; ++o) {
      const int column = j * out + o;
      for (int i = 0; i < in; ++i) {
        const float* w = weight.data() + (size_t(i) * out + o) * 2 * stride;
        matrix_.at(i, column) = w[stride + j];  // the row before
        matrix_.at(in + i, column) = w[j];
      }
      matrix_.bias[column] = bias[o];
    }
}

std::unique_ptr<LayerState> UpsampleLayer::make_state() const {
  auto s = std::make_unique<LayerState>();
  s->kept.allocate(in_);
  s->skip = trim_left_;
  return s;
}

void UpsampleLayer::reset(LayerState& s) const {
  std::fill_n(s.kept.data(), s.kept.size(), 0.0f);
  s.skip = trim_left_;
  s.received = 0;
}

float* UpsampleLayer::input(LayerState& s, int64_t n) const {
  s.work.reserve(size_t(n + 2) * in_);
  return s.work.data() + in_;
}

int UpsampleLayer::run(ThreadPool& pool, LayerState& s, int n, bool last, float* out) const {
  float* base = s.work.data();
  if (elu_first_) elu_rows(pool, base + in_, base + in_, int64_t{n} * in_);
  copy_rows(s.kept.data(), 1, in_, base);
  s.received += n;
  if (s.received == 0) return 0;
  const int groups = n + last;
  if (last) std::fill_n(base + int64_t{n + 1} * in_, in_, 0.0f);
  multiply(pool, {.m = &matrix_,
                  .a = base,
                  .lda = in_,
                  .rows = groups,
                  .c = out,
                  .ldc = int64_t{stride_} * out_});
  if (norm_.present()) norm_.run(pool, out, int64_t{groups} * stride_, out_, out);
  // the last group is only the tail of the row before it
  int64_t count = int64_t{n} * stride_ + (last ? trim_left_ : 0);
  if (s.skip > 0) {
    const int64_t drop = std::min<int64_t>(s.skip, count);
    std::copy(out + drop * out_, out + count * out_, out);
    count -= drop;
    s.skip -= static_cast<int>(drop);
  }
  copy_rows(base + int64_t{n} * in_, 1, in_, s.kept.data());
  return static_cast<int>(count);
}

bool UpsampleLayer::plausible(const LayerState& s) const {
  return s.rows == 0 && !s.started &&
         s.skip == std::max<int64_t>(0, trim_left_ - s.received * stride_);
}

DepthwiseUpsample::DepthwiseUpsample(const LayerSource& source, const std::string& prefix,
                                     int width, int stride)
    : width_(width), stride_(stride) {
  const Buffer<float> weight = source.get(prefix + ".weight", {width, 2 * stride});
  if (!source.weights) return;
  weight_.allocate(weight.size());
  for (int c = 0; c < width; ++c)
    for (int j = 0; j < 2 * stride; ++j)
      weight_[size_t(j) * width + c] = weight[size_t(c) * 2 * stride + j];
}

std::unique_ptr<LayerState> DepthwiseUpsample::make_state() const {
  auto s = std::make_unique<LayerState>();
  s->kept.allocate(width_);  // the row before
  return s;
}

void DepthwiseUpsample::reset(LayerState& s) const {
  std::fill_n(s.kept.data(), s.kept.size(), 0.0f);
  s.received = 0;
}

float* DepthwiseUpsample::input(LayerState& s, int64_t n) const {
  s.work.reserve(size_t(n + 1) * width_);
  return s.work.data() + width_;
}

int DepthwiseUpsample::run(ThreadPool&, LayerState& s, int n, bool, float* out) const {
  const CodecKernels& kernels = codec_kernels();
  const size_t width = size_t(width_);
  float* x = s.work.data();
  copy_rows(s.kept.data(), 1, width_, x);
  for (int u = 0; u < n; ++u, x += width)
    for (int j = 0; j < stride_; ++j, out += width) {
      kernels.multiply(x + width, weight_.data() + j * width, out, width);
      kernels.multiply_add(x, weight_.data() + (stride_ + j) * width, out, width);
    }
  copy_rows(x, 1, width_, s.kept.data());
  s.received += n;
  return n * stride_;
}

// --- residual block ------------------------------------------------------------------------------

ResidualLayer::ResidualLayer(const LayerSource& source, const std::string& prefix, int width,
                             int dilation, bool elu_after)
    : width_(width),
      hidden_(width / source.config->compress),
      first_(source, prefix + ".first",
             {.in = width,
              .out = hidden_,
              .kernel = source.config->residual_kernel_size,
              .dilation = dilation}),
      conv_shortcut_(source.config->conv_shortcut),
      elu_after_(elu_after) {
  const auto pointwise = [&](const std::string& name, int in, int out, ClipNorm& norm) {
    const Buffer<float> weight = source.get(name + ".weight", {out, in, 1}),
                        bias = source.get(name + ".bias", {out});
    norm.load(source, name, out);
    return source.weights ? PackedMatrix::linear(weight, bias, out, in) : PackedMatrix();
  };
  second_ = pointwise(prefix + ".second", hidden_, width_, second_norm_);
  if (conv_shortcut_) {
    shortcut_ = pointwise(prefix + ".shortcut", width_, width_, shortcut_norm_);
    // the second product is added to the first: one bias serves both
    if (source.weights && !second_norm_.present())
      for (int i = 0; i < width_; ++i) shortcut_.bias[i] += second_.bias[i];
  }
}

int ResidualLayer::run(ThreadPool& pool, LayerState& s, int n, bool last, float* out) const {
  const ConvLayer::Window window = first_.open(s, n, last);
  // Many rows: tiles of them. Few: the columns are shared out, so that each weight is read by one
  // thread only.
  if (window.count > 0) {
    if (second_norm_.present() || (pool.threads() > 1 && window.count < 12 * pool.threads()))
      columns(pool, s, window.first, window.count, out);
    else
      tiles(pool, s, window.first, window.count, out);
  }
  first_.close(s, window);
  return window.count;
}

void ResidualLayer::tiles(ThreadPool& pool, LayerState& s, const float* first, int count,
                          float* out) const {
  const CodecKernels& kernels = codec_kernels();
  const int threads = pool.threads(), before = first_.span() - 1;
  // As many tiles for one thread as for the other, and no fewer rows in one than the rows before
  // it, which are computed again.
  const int64_t wanted = round_up((count + kTile - 1) / kTile, 2 * threads);
  const int tile = static_cast<int>(std::max<int64_t>({(count + wanted - 1) / wanted, before, 8}));
  const size_t activated = size_t(tile + before) * width_,
               each = size_t(round_up(activated + size_t(tile) * hidden_, 1024)) + 64;
  s.work2.reserve(each * threads);
  pool.run((count + tile - 1) / tile, 1, [&](int64_t begin, int64_t end, int thread) {
    float *x = s.work2.data() + each * thread, *mid = x + activated;
    for (int64_t a = begin * tile; a < std::min<int64_t>(count, end * tile); a += tile) {
      const int rows = static_cast<int>(std::min<int64_t>(tile, count - a));
      const float* from = first + a * width_;
      const float* centre = from + int64_t{first_.left()} * width_;
      float* to = out + a * width_;
      kernels.elu(from, x, size_t(rows + before) * width_);
      first_.convolve_here(x, rows, mid);
      kernels.elu(mid, mid, size_t(rows) * hidden_);
      if (conv_shortcut_) {
        multiply_here(
            {.m = &shortcut_, .a = centre, .lda = width_, .rows = rows, .c = to, .ldc = width_});
      } else {
        copy_rows(centre, rows, width_, to);
        for (int r = 0; r < rows; ++r)
          kernels.add(second_.bias.data(), to + int64_t{r} * width_, width_);
      }
      multiply_here({.m = &second_,
                     .a = mid,
                     .lda = hidden_,
                     .rows = rows,
                     .c = to,
                     .ldc = width_,
                     .add = true});
      if (elu_after_) kernels.elu(to, to, size_t(rows) * width_);
    }
  });
}

void ResidualLayer::columns(ThreadPool& pool, LayerState& s, const float* first, int count,
                            float* out) const {
  const CodecKernels& kernels = codec_kernels();
  const size_t activated = size_t(count + first_.span() - 1) * width_,
               total = size_t(count) * width_;
  s.work2.reserve(activated + size_t(count) * hidden_);
  float *x = s.work2.data(), *mid = x + activated;
  const float* centre = first + int64_t{first_.left()} * width_;
  elu_rows(pool, first, x, int64_t(activated));
  first_.convolve(pool, x, count, mid, true);
  if (conv_shortcut_)
    multiply(pool,
             {.m = &shortcut_, .a = centre, .lda = width_, .rows = count, .c = out, .ldc = width_});
  else
    copy_rows(centre, count, width_, out);
  Product second{
      .m = &second_, .a = mid, .lda = hidden_, .rows = count, .c = out, .ldc = width_, .add = true};
  if (second_norm_.present()) {
    if (conv_shortcut_) shortcut_norm_.run(pool, out, count, width_, out);
    second.c = x;  // which nobody needs any more
    second.add = false;
    multiply(pool, second);
    return second_norm_.run(pool, x, count, width_, out, true, elu_after_);
  }
  if (!conv_shortcut_)
    for (int r = 0; r < count; ++r)
      kernels.add(second_.bias.data(), out + int64_t{r} * width_, width_);
  multiply(pool, second);
  if (elu_after_) elu_rows(pool, out, out, int64_t(total));
}

}  // namespace uniaudio
