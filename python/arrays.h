// NumPy arrays to plain vectors, checked. Copies, so that nobody can change ids between check and
// use while the GIL is released.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensor.h"
#include "weights.h"

namespace uniaudio::python {

namespace py = pybind11;

inline std::string array_shape(const py::array& a) {
  std::vector<int64_t> shape(a.shape(), a.shape() + a.ndim());
  return shape_string(shape);
}

struct IntMatrix {
  std::vector<int32_t> values;
  int64_t rows = 0;
};

// Any integer array of shape [rows, columns].
inline IntMatrix int_matrix(const py::handle& object, const std::string& name, int64_t columns,
                            const char* layout) {
  py::array a = py::array::ensure(object);
  if (!a) {
    PyErr_Clear();
    throw std::invalid_argument(name + ": expected an integer array, got " +
                                std::string(py::str(py::type::of(object))));
  }
  if (a.ndim() != 2 || a.shape(1) != columns) {
    throw std::invalid_argument(name + ": expected shape " + layout + " = [*, " +
                                std::to_string(columns) + "], got " + array_shape(a));
  }
  const char kind = a.dtype().kind();
  if (kind != 'i' && kind != 'u' && a.size() > 0) {
    throw std::invalid_argument(name + ": expected integers, got " +
                                std::string(py::str(a.dtype())));
  }
  const auto wide = py::array_t < int64_t, py::array::c_style | py::array::forcecast > ::ensure(a);
  if (!wide) throw py::error_already_set();
  IntMatrix m;
  m.rows = a.shape(0);
  m.values.resize(size_t(a.size()));
  for (size_t i = 0; i < m.values.size(); ++i) {
    const int64_t v = wide.data()[i];
    if (v < std::numeric_limits<int32_t>::min() || v > std::numeric_limits<int32_t>::max()) {
      throw std::invalid_argument(name + ": expected ids of 32 bits, got " + std::to_string(v));
    }
    m.values[i] = int32_t(v);
  }
  return m;
}

// Whether an array lies in a read-only mapping of a file, which is a shared one.
inline bool mapped(const py::array& a) {
  if (a.writeable()) return false;
  py::object base = a.base();
  while (base && py::isinstance<py::array>(base)) base = base.attr("base");
  if (base && py::isinstance<py::memoryview>(base)) base = base.attr("obj");
  if (!base || !py::isinstance(base, py::module_::import("mmap").attr("mmap"))) return false;
  return py::reinterpret_borrow<py::buffer>(base).request().readonly;
}

// Weights of a dict of arrays: float32, bfloat16 (as uint16), int8, or int4 (as uint8); `keep`
// holds what the views point into.
inline Weights weights_of(const py::dict& dict, std::vector<py::array>& keep) {
  const std::pair<py::dtype, StoredType> types[] = {
      {py::dtype::of<float>(), StoredType::float32},
      {py::dtype::of<uint16_t>(), StoredType::bfloat16},
      {py::dtype::of<int8_t>(), StoredType::int8},
      {py::dtype::of<uint8_t>(), StoredType::int4}};
  Weights w;
  for (const auto& [key, value] : dict) {
    const std::string name = py::str(key);
    py::array a = py::array::ensure(value, py::array::c_style);
    const auto* const type = std::find_if(std::begin(types), std::end(types), [&](const auto& t) {
      return a && a.dtype().is(t.first);
    });
    if (type == std::end(types)) {
      PyErr_Clear();
      throw std::invalid_argument(
          "tensor " + name +
          ": expected a float32 array, bfloat16 as uint16, int8, or int4 as uint8, got " +
          (a ? std::string(py::str(a.dtype())) : std::string(py::str(py::type::of(value)))));
    }
    keep.push_back(a);
    w.add(name, {type->second, std::vector<int64_t>(a.shape(), a.shape() + a.ndim()), a.data(),
                 mapped(a)});
  }
  return w;
}

template <class T>
py::array_t<T> array_of(const std::vector<T>& values, std::vector<py::ssize_t> shape) {
  py::array_t<T> a(shape);
  std::copy(values.begin(), values.begin() + a.size(), a.mutable_data());
  return a;
}

}  // namespace uniaudio::python
