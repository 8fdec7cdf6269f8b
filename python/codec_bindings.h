// What the codecs of every device share in Python: arguments checked, results as NumPy arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "gil.h"
#include "weights.h"

namespace uniaudio::python {

namespace py = pybind11;

using Floats = py::array_t<float, py::array::c_style>;
using Ints = py::array_t<int32_t, py::array::c_style>;

// Of another kind of number, too, such as float64: what `ensure` cannot convert, it would return as
// null.
template <class T>
py::array_t<T, py::array::c_style> converted(const py::array& a) {
  const auto values = py::array_t < T, py::array::c_style | py::array::forcecast > ::ensure(a);
  if (!values) throw py::error_already_set();
  return values;
}

inline std::string describe(const py::handle& value) {
  if (!py::isinstance<py::array>(value)) return py::str(py::type::of(value).attr("__name__"));
  const auto a = py::reinterpret_borrow<py::array>(value);
  std::string s = py::str(a.dtype());
  s += " [";
  for (py::ssize_t i = 0; i < a.ndim(); ++i) s += (i ? ", " : "") + std::to_string(a.shape(i));
  return s + "]";
}

// float32 [N], or [C, N] with the codec's channels; other float and integer kinds are converted,
// the rest refused.
inline Floats samples_argument(const py::object& value, int channels) {
  const std::string expected =
      channels == 1 ? "float32 [N] or [1, N]" : "float32 [" + std::to_string(channels) + ", N]";
  const py::array a = py::array::ensure(value);
  if (!a) PyErr_Clear();
  const bool shaped =
      a && ((a.ndim() == 1 && channels == 1) || (a.ndim() == 2 && a.shape(0) == channels));
  if (!shaped || (a.dtype().kind() != 'f' && a.dtype().kind() != 'i')) {
    throw py::value_error("samples: expected " + expected + ", got " + describe(value) +
                          "; mix down or reshape first");
  }
  return converted<float>(a);
}

// integers [K', T]
inline py::array_t<int64_t, py::array::c_style> codes_argument(const py::object& value,
                                                               int num_codebooks) {
  const py::array a = py::array::ensure(value);
  if (!a) PyErr_Clear();
  const bool integral = a && (a.dtype().kind() == 'i' || a.dtype().kind() == 'u');
  if (!integral || a.ndim() != 2 || a.shape(0) < 1 || a.shape(0) > num_codebooks) {
    throw py::value_error("codes: expected integers [K, T] with K from 1 to " +
                          std::to_string(num_codebooks) + ", got " + describe(value));
  }
  return converted<int64_t>(a);
}

// Codes as csrc/ takes them: frame-major, [count][num_codebooks].
struct CodeFrames {
  std::vector<int32_t> values;
  int64_t count;
  int num_codebooks;
};

// integers [K', T]; anything beyond 32 bits becomes -1, which the range check then names
inline CodeFrames frames_argument(const py::object& value, int num_codebooks) {
  const auto codes = codes_argument(value, num_codebooks);
  const size_t k = size_t(codes.shape(0)), t = size_t(codes.shape(1));
  const int64_t* from = codes.data();
  CodeFrames out{std::vector<int32_t>(k * t), int64_t(t), int(k)};
  for (size_t i = 0; i < k; ++i)
    for (size_t j = 0; j < t; ++j) {
      const int64_t v = from[i * t + j];
      out.values[j * k + i] = v < INT32_MIN || v > INT32_MAX ? -1 : int32_t(v);
    }
  return out;
}

inline Ints codes_result(const std::vector<int32_t>& frames, int num_codebooks) {
  const size_t k = size_t(num_codebooks), t = frames.size() / k;
  Ints out({py::ssize_t(k), py::ssize_t(t)});
  int32_t* to = out.mutable_data();
  for (size_t j = 0; j < t; ++j)
    for (size_t i = 0; i < k; ++i) to[i * t + j] = frames[j * k + i];
  return out;
}

inline Floats samples_result(const std::vector<float>& rows, int channels) {
  if (channels == 1) return Floats(py::ssize_t(rows.size()), rows.data());
  const size_t n = rows.size() / size_t(channels);
  Floats out({py::ssize_t(channels), py::ssize_t(n)});
  float* to = out.mutable_data();
  for (size_t i = 0; i < n; ++i)
    for (int c = 0; c < channels; ++c)
      to[size_t(c) * n + i] = rows[i * size_t(channels) + size_t(c)];
  return out;
}

inline Weights weights_argument(const py::dict& dict) {
  Weights weights;
  for (const auto& item : dict) {
    const std::string name = py::cast<std::string>(item.first);
    if (!py::isinstance<py::array>(item.second))
      throw py::value_error("tensor " + name + ": expected a NumPy array, got " +
                            describe(item.second));
    const auto a = py::reinterpret_borrow<py::array>(item.second);
    const bool f32 =
        a.dtype().is(py::dtype::of<float>()) || a.dtype().equal(py::dtype::of<float>());
    const bool bf16 = a.dtype().equal(py::dtype::of<uint16_t>());
    if ((!f32 && !bf16) || !(a.flags() & py::array::c_style)) {
      throw py::value_error(
          "tensor " + name +
          ": expected a contiguous float32 or uint16 (bfloat16 bits) array, got " +
          describe(item.second));
    }
    StoredTensor t;
    t.type = f32 ? StoredType::float32 : StoredType::bfloat16;
    t.shape.assign(a.shape(), a.shape() + a.ndim());
    t.data = a.data();
    t.mapped = mapped(a);
    weights.add(name, t);
  }
  return weights;
}

// A stream is one thread's at a time; Python may call it from several.
template <class CodecType, class Stream>
struct Guarded {
  std::shared_ptr<const CodecType> codec;
  std::unique_ptr<Stream> stream;
  std::mutex mutex;

  Guarded(std::shared_ptr<const CodecType> c, std::unique_ptr<Stream> s)
      : codec(std::move(c)), stream(std::move(s)) {}

  template <class F>
  auto with(F&& f) {
    const WithoutGil release;
    std::lock_guard<std::mutex> lock(mutex);
    return f(*stream);
  }
};

// What the streams of every device have; G is a Guarded stream.
template <class G, class... Options>
void bind_stream(py::class_<G, Options...>& stream) {
  stream.def(
            "reset", [](G& s) { s.with([](auto& x) { x.reset(); }); }, "Forgets the clip.")
      .def(
          "fork",
          [](G& s) {
            auto copy = s.with([](auto& x) { return x.fork(); });
            return std::make_unique<G>(s.codec, std::move(copy));
          },
          "A copy that continues on its own.");
}

}  // namespace uniaudio::python
