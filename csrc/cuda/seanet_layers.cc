#include "seanet_layers.h"

#include <algorithm>
#include <cmath>

namespace uniaudio::cuda {
namespace {

// Weight [out][in][kernel] as rows [kernel in], which is how a signal's rows follow one another.
DenseMatrix conv_matrix(const LayerSource& s, const std::string& name, int in, int out, int kernel,
                        const Buffer<float>& bias) {
  const Buffer<float> w = s.weights.get(name + ".weight", {out, in, kernel});
  std::vector<float> turned(w.size());
  for (int o = 0; o < out; ++o) {
    for (int i = 0; i < in; ++i) {
      for (int k = 0; k < kernel; ++k)
        turned[size_t((o * kernel + k) * in + i)] = w[size_t((o * in + i) * kernel + k)];
    }
  }
  return {s.device, turned.data(), bias.data(), out, kernel * in};
}

class Part : public Layer {
 public:
  explicit Part(const LayerSource& s) : device_(s.device) {}

 protected:
  void copy(const float* from, int64_t rows, int width, float* to) const {
    if (rows > 0) device_->copy(to, from, 0, size_t(rows) * size_t(width) * sizeof(float), 1);
  }
  void zero(float* to, int64_t rows, int width) const {
    if (rows > 0) device_->zero(to, size_t(rows) * size_t(width) * sizeof(float));
  }
  LayerState state(size_t kept) const {
    LayerState s;
    s.kept = DeviceBuffer<float>(device_, kept);
    return s;
  }
  std::shared_ptr<Device> device_;
};

class ConvLayer final : public Part {
 public:
  ConvLayer(const LayerSource& source, const std::string& name, int in, int out, int kernel,
            int stride, int dilation, bool elu_first)
      : Part(source),
        in_(in),
        out_(out),
        kernel_(kernel),
        stride_(stride),
        dilation_(dilation),
        span_((kernel - 1) * dilation + 1),
        reflect_(source.config.reflect),
        elu_first_(elu_first) {
    const int total = span_ - stride_;
    right_ = source.config.causal ? 0 : total / 2;
    left_ = total - right_;
    retain_ = reflect_ ? std::max(left_, right_ + stride_ - 1) + 1 : 0;
    capacity_ = std::max(span_, retain_);
    matrix_ = conv_matrix(source, name, in, out, kernel, source.weights.get(name + ".bias", {out}));
  }
  LayerState make_state() const override { return state(size_t(capacity_) * size_t(in_)); }
  void reset(LayerState& s) const override {
    s.rows = s.skip = 0;
    s.received = 0;
    s.started = false;
  }
  int width_out() const override { return out_; }
  int64_t bound(int64_t n) const override { return (n + capacity_ + left_ + right_) / stride_ + 2; }
  float* input(LayerState& s, int64_t n) const override {
    // [room for the left padding][kept rows][new rows][room for the right padding]
    return s.work.reserve(device_, size_t(left_ + capacity_ + n + right_ + stride_) * size_t(in_)) +
           size_t(left_ + s.rows) * size_t(in_);
  }
  int run(LayerState& s, int n, bool last, float* out) const override {
    const Window window = open(s, n, last);
    if (window.count > 0) device_->conv(convolution(window.first, window.count, out));
    close(s, window);
    return window.count;
  }

  struct Window {
    const float* base = nullptr;
    int64_t rows = 0;
    const float* first = nullptr;
    int count = 0;
  };
  Conv convolution(const float* first, int count, float* out) const {
    Conv c = matrix_.convolution(first, in_, kernel_, stride_, dilation_, count, out, out_);
    c.elu_in = elu_first_;
    return c;
  }
  Window open(LayerState& s, int n, bool last) const {
    float* base = s.work.data() + size_t(left_) * size_t(in_);
    copy(s.kept.data(), s.rows, in_, base);
    s.received += n;
    int64_t rows = s.rows + int64_t{n};
    if (!s.started && s.received > 0 && (!reflect_ || last || s.received > left_)) {
      for (int i = 1; i <= left_; ++i) {
        float* const to = base - int64_t{i} * in_;
        if (reflect_ && i < s.received) {
          copy(base + int64_t{i} * in_, 1, in_, to);
        } else {
          zero(to, 1, in_);
        }
      }
      base -= int64_t{left_} * in_;
      rows += left_;
      s.started = true;
    }
    if (last && s.received > 0) {
      const int64_t length = s.received;
      const int pad = right_ + int((length + stride_ - 1) / stride_ * stride_ - length);
      const int64_t extended = std::max<int64_t>(length, std::max(left_, pad) + 1);
      for (int i = 0; i < pad; ++i) {
        const int64_t mirror = 2 * (extended - 1) - (length + i);
        float* const to = base + (rows + i) * in_;
        if (reflect_ && length + i >= extended && mirror < length) {
          copy(base + (rows - (length - mirror)) * in_, 1, in_, to);
        } else {
          zero(to, 1, in_);
        }
      }
      rows += pad;
    }
    Window window{base, rows, nullptr, 0};
    if (s.started && rows - s.skip >= span_) {
      window.first = base + int64_t{s.skip} * in_;
      window.count = int((rows - s.skip - span_) / stride_ + 1);
    }
    return window;
  }
  void close(LayerState& s, const Window& window) const {
    const int64_t next = s.skip + int64_t{window.count} * stride_;
    const int64_t first =
        std::clamp<int64_t>(std::min(next, window.rows - retain_), 0, window.rows);
    s.rows = int(window.rows - first);
    s.skip = int(next - first);
    // more only where the clip has ended
    if (s.rows <= capacity_) copy(window.base + first * in_, s.rows, in_, s.kept.data());
  }
  int left() const { return left_; }

 private:
  int in_, out_, kernel_, stride_, dilation_, span_, left_, right_;
  bool reflect_, elu_first_;
  int capacity_, retain_;
  DenseMatrix matrix_;
};

// Output rows u * stride .. are x[u] W0 + x[u - 1] W1: a convolution over two rows.
class UpsampleLayer final : public Part {
 public:
  UpsampleLayer(const LayerSource& source, const std::string& name, int in, int out, int stride,
                bool elu_first)
      : Part(source), in_(in), out_(out), stride_(stride), elu_first_(elu_first) {
    const int trim_right =
        source.config.causal ? int(std::ceil(stride * source.config.trim_right_ratio)) : stride / 2;
    trim_left_ = stride - trim_right;
    const Buffer<float> w = source.weights.get(name + ".weight", {in, out, 2 * stride}),
                        b = source.weights.get(name + ".bias", {out});
    std::vector<float> matrix(size_t(stride * out) * size_t(2 * in)), bias(size_t(stride * out));
    for (int j = 0; j < stride; ++j) {
      for (int o = 0; o < out; ++o) {
        float* const row = matrix.data() + size_t(j * out + o) * size_t(2 * in);
        for (int i = 0; i < in; ++i) {
          const float* const from = w.data() + size_t(i * out + o) * size_t(2 * stride);
          row[i] = from[stride + j];  // the row before
          row[in + i] = from[j];
        }
        bias[size_t(j * out + o)] = b[size_t(o)];
      }
    }
    matrix_ = DenseMatrix(device_, matrix.data(), bias.data(), stride * out, 2 * in);
  }
  LayerState make_state() const override { return state(size_t(in_)); }
  void reset(LayerState& s) const override {
    zero(s.kept.data(), 1, in_);
    s.skip = trim_left_;
    s.received = 0;
  }
  int width_out() const override { return out_; }
  int64_t bound(int64_t n) const override { return (n + 1) * stride_; }
  float* input(LayerState& s, int64_t n) const override {
    return s.work.reserve(device_, size_t(n + 2) * size_t(in_)) + in_;
  }
  int run(LayerState& s, int n, bool last, float* out) const override {
    float* const base = s.work.data();
    copy(s.kept.data(), 1, in_, base);
    s.received += n;
    if (s.received == 0) return 0;
    const int groups = n + last;
    if (last) zero(base + int64_t{n + 1} * in_, 1, in_);
    int64_t count = int64_t{n} * stride_ + (last ? trim_left_ : 0);
    const int64_t drop = std::min<int64_t>(s.skip, count);
    float* const to =
        drop > 0 ? s.work2.reserve(device_, size_t(groups) * size_t(stride_ * out_)) : out;
    Conv c = matrix_.convolution(base, in_, 2, 1, 1, groups, to, stride_ * out_);
    c.elu_in = elu_first_;
    device_->conv(c);
    count -= drop;
    s.skip -= int(drop);
    if (drop > 0) copy(to + drop * out_, count, out_, out);
    copy(base + int64_t{n} * in_, 1, in_, s.kept.data());
    return int(count);
  }

 private:
  int in_, out_, stride_, trim_left_;
  bool elu_first_;
  DenseMatrix matrix_;
};

// shortcut(x) + second(elu(first(elu(x)))), and an elu around it all where the next layer wants
// that.
class ResidualLayer final : public Part {
 public:
  ResidualLayer(const LayerSource& source, const std::string& name, int width, int dilation,
                bool elu_after)
      : Part(source),
        width_(width),
        hidden_(width / source.config.compress),
        first_(source, name + ".first", width, hidden_, source.config.residual_kernel_size, 1,
               dilation, true),
        elu_after_(elu_after),
        conv_shortcut_(source.config.conv_shortcut) {
    second_ = conv_matrix(source, name + ".second", hidden_, width, 1,
                          source.weights.get(name + ".second.bias", {width}));
    if (conv_shortcut_)
      shortcut_ = conv_matrix(source, name + ".shortcut", width, width, 1,
                              source.weights.get(name + ".shortcut.bias", {width}));
  }
  LayerState make_state() const override { return first_.make_state(); }
  void reset(LayerState& s) const override { first_.reset(s); }
  int width_out() const override { return width_; }
  int64_t bound(int64_t n) const override { return first_.bound(n); }
  float* input(LayerState& s, int64_t n) const override { return first_.input(s, n); }
  int run(LayerState& s, int n, bool last, float* out) const override {
    const ConvLayer::Window window = first_.open(s, n, last);
    if (window.count > 0) {
      float* const mid = s.work2.reserve(device_, size_t(window.count) * size_t(hidden_));
      const float* const centre = window.first + int64_t{first_.left()} * width_;
      Conv first = first_.convolution(window.first, window.count, mid);
      first.elu_out = true;
      device_->conv(first);
      if (conv_shortcut_) {
        device_->conv(shortcut_.convolution(centre, width_, 1, 1, 1, window.count, out, width_));
      } else {
        copy(centre, window.count, width_, out);
      }
      Conv second = second_.convolution(mid, hidden_, 1, 1, 1, window.count, out, width_);
      second.add = true, second.elu_out = elu_after_;
      device_->conv(second);
    }
    first_.close(s, window);
    return window.count;
  }

 private:
  int width_, hidden_;
  ConvLayer first_;
  DenseMatrix second_, shortcut_;
  bool elu_after_, conv_shortcut_;
};

// lstm(x) + x over all layers: the inputs' share of the gates for all rows at once, then two
// launches a row.
class LstmLayer final : public Part {
 public:
  LstmLayer(const LayerSource& source, const std::string& name, int width, int layers)
      : Part(source), width_(width) {
    for (int l = 0; l < layers; ++l) {
      const std::string end = "_l" + std::to_string(l);
      const auto get = [&](const std::string& what, const std::vector<int64_t>& shape) {
        return source.weights.get(name + "." + what + end, shape);
      };
      Buffer<float> bias = get("bias_ih", {4 * width});
      const Buffer<float> more = get("bias_hh", {4 * width});
      for (size_t i = 0; i < bias.size(); ++i) bias[i] += more[i];
      input_.emplace_back(device_, get("weight_ih", {4 * width, width}).data(), bias.data(),
                          4 * width, width);
      recurrent_.emplace_back(device_, get("weight_hh", {4 * width, width}).data(), nullptr,
                              4 * width, width);
    }
  }
  // per layer: hidden, cell
  LayerState make_state() const override { return state(2 * input_.size() * size_t(width_)); }
  void reset(LayerState& s) const override {
    zero(s.kept.data(), int64_t(2 * input_.size()), width_);
    s.received = 0;
  }
  int width_out() const override { return width_; }
  int64_t bound(int64_t n) const override { return n; }
  float* input(LayerState& s, int64_t n) const override {
    s.work2.reserve(device_, size_t(n) * size_t(4 * width_));
    // input rows, then the rows between layers
    return s.work.reserve(device_, size_t(n) * size_t(2 * width_));
  }
  int run(LayerState& s, int n, bool, float* out) const override {
    s.received += n;
    if (n == 0) return 0;
    float *const x = s.work.data(), *const gates = s.work2.data();
    const float* from = x;
    const int layers = int(input_.size());
    for (int l = 0; l < layers; ++l) {
      // the last ones land in `out`
      float* const to = (layers - 1 - l) % 2 == 0 ? out : x + int64_t{n} * width_;
      float *const hidden = s.kept.data() + size_t(2 * l) * size_t(width_), *const cell =
                                                                                hidden + width_;
      device_->conv(input_[size_t(l)].convolution(from, width_, 1, 1, 1, n, gates, 4 * width_));
      for (int t = 0; t < n; ++t) {
        Conv step = recurrent_[size_t(l)].convolution(
            t == 0 ? hidden : to + int64_t{t - 1} * width_, width_, 1, 1, 1, 1,
            gates + int64_t{t} * 4 * width_, 4 * width_);
        step.add = true;
        device_->conv(step);
        device_->lstm_cell(
            {gates + int64_t{t} * 4 * width_, cell, to + int64_t{t} * width_, width_});
      }
      copy(to + int64_t{n - 1} * width_, 1, width_, hidden);
      from = to;
    }
    device_->add({x, out, n * width_});
    return n;
  }

 private:
  int width_;
  std::vector<DenseMatrix> input_, recurrent_;
};

}  // namespace

std::unique_ptr<Layer> conv_layer(const LayerSource& source, const std::string& name, int in,
                                  int out, int kernel, int stride, bool elu_first) {
  return std::make_unique<ConvLayer>(source, name, in, out, kernel, stride, 1, elu_first);
}
std::unique_ptr<Layer> upsample_layer(const LayerSource& source, const std::string& name, int in,
                                      int out, int stride, bool elu_first) {
  return std::make_unique<UpsampleLayer>(source, name, in, out, stride, elu_first);
}
std::unique_ptr<Layer> residual_layer(const LayerSource& source, const std::string& name, int width,
                                      int dilation, bool elu_after) {
  return std::make_unique<ResidualLayer>(source, name, width, dilation, elu_after);
}
std::unique_ptr<Layer> lstm_layer(const LayerSource& source, const std::string& name, int width,
                                  int layers) {
  return std::make_unique<LstmLayer>(source, name, width, layers);
}

// --- chain ---------------------------------------------------------------------------------------

LayerChain::States LayerChain::make_states() const {
  States states;
  for (const auto& layer : layers_) states.push_back(layer->make_state());
  reset(states);
  return states;
}

void LayerChain::reset(States& states) const {
  for (size_t i = 0; i < layers_.size(); ++i) layers_[i]->reset(states[i]);
}

void LayerChain::copy(Device& device, const States& from, States& to) const {
  for (size_t i = 0; i < layers_.size(); ++i) {
    device.copy(to[i].kept.data(), from[i].kept.data(), 0, from[i].kept.size() * sizeof(float), 1);
    to[i].rows = from[i].rows, to[i].skip = from[i].skip, to[i].received = from[i].received,
    to[i].started = from[i].started;
  }
}

int LayerChain::run(const std::shared_ptr<Device>& device, States& states, int n, bool last,
                    Room& out) const {
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (n == 0 && !last) return 0;
    const int64_t bound = layers_[i]->bound(n);
    float* const to = i + 1 < layers_.size()
                          ? layers_[i + 1]->input(states[i + 1], bound)
                          : out.reserve(device, size_t(bound) * size_t(layers_[i]->width_out()));
    n = layers_[i]->run(states[i], n, last, to);
  }
  return n;
}

}  // namespace uniaudio::cuda
