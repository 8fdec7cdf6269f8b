// uniaudio_engine._C: NumPy in and out of csrc/, nothing else.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bandwidth.h"
#include "bindings.h"
#include "cpu/isa.h"
#include "errors.h"
#include "gil.h"

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
  uniaudio::python::bind_lm(m);
  uniaudio::python::bind_codec(m);
}
