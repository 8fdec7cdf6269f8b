// uniaudio_engine._C: NumPy in and out of csrc/, nothing else.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings.h"
#include "cpu/isa.h"
#include "errors.h"
#include "gil.h"
#include "matrix.h"
#include "peaks.h"
#include "transformer.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native core of uniaudio_engine";
  uniaudio::python::translate_errors();
  uniaudio::python::drain_at_exit();
  m.attr("sampling_layout") = UNIAUDIO_SAMPLING_LAYOUT;  // what _cuda must have been built with
  m.def(
      "isa", [] { return uniaudio::isa_name(uniaudio::current_isa()); },
      "Instruction set in use: avx512, avxvnni, avx2, neon or plain.  RuntimeError when "
      "UNIAUDIO_ISA names one that this machine lacks.");
  m.def("isa_available", [] {
    std::vector<std::string> names;
    for (uniaudio::Isa isa : uniaudio::available_isas())
      names.emplace_back(uniaudio::isa_name(isa));
    return names;
  });
  m.def("read_bandwidth", &uniaudio::read_bandwidth, py::arg("threads"), py::arg("megabytes"),
        py::call_guard<uniaudio::python::WithoutGil>(),
        "Memory read bandwidth measured now, in GB/s.");
  m.def("fma_peak", &uniaudio::fma_peak, py::arg("threads"),
        py::call_guard<uniaudio::python::WithoutGil>(),
        "Float32 multiply-adds on registers measured now, in GFLOP/s: what a matrix product can "
        "reach at most.");
  m.def("byte_peak", &uniaudio::byte_peak, py::arg("threads"),
        py::call_guard<uniaudio::python::WithoutGil>(),
        "Multiply-adds of bytes on registers measured now, in GOP/s.");
  m.def(
      "product_seconds",
      [](int threads, const std::string& dtype, int64_t rows, int64_t in, int64_t out,
         int megabytes, double seconds) {
        return uniaudio::product_seconds(threads, uniaudio::parse_dtype(dtype), rows, in, out,
                                         megabytes, seconds);
      },
      py::arg("threads"), py::arg("dtype"), py::arg("rows"), py::arg("width"), py::arg("out"),
      py::arg("megabytes") = 0, py::arg("seconds") = 0.1,
      py::call_guard<uniaudio::python::WithoutGil>(),
      "Median seconds of x [rows, width] times the transpose of a matrix [out, width]; matrices of "
      "`megabytes` MiB in all take turns.");
  m.def(
      "attention_seconds",
      [](int threads, const std::string& dtype, int64_t positions, int64_t heads, int64_t dim,
         int megabytes, double seconds) {
        return uniaudio::attention_seconds(threads, uniaudio::parse_kv_dtype(dtype.c_str()),
                                           positions, heads, dim, megabytes, seconds);
      },
      py::arg("threads"), py::arg("dtype"), py::arg("positions"), py::arg("heads"), py::arg("dim"),
      py::arg("megabytes") = 0, py::arg("seconds") = 0.1,
      py::call_guard<uniaudio::python::WithoutGil>(),
      "Median seconds of the attention of one row to `positions` positions; key-value caches of "
      "`megabytes` MiB in all take turns.");
  uniaudio::python::bind_lm(m);
  uniaudio::python::bind_codec(m);
  uniaudio::python::bind_postfilter(m);
}
