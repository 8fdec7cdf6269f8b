// Exceptions of csrc/ as Python's: what a caller can correct becomes uniaudio_engine's InputError,
// which is a ValueError.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <stdexcept>

namespace uniaudio::python {

// For the module that calls it.  `Also`: further exceptions that become InputError.
template <class... Also>
void translate_errors() {
  pybind11::register_local_exception_translator([](std::exception_ptr p) {
    const auto raise = [](const std::exception& e) {
      const auto error = pybind11::module_::import("uniaudio_engine.errors").attr("InputError");
      pybind11::set_error(error, e.what());
    };
    const auto is_input_error = [](const std::exception& e) {
      return dynamic_cast<const std::invalid_argument*>(&e) ||
             dynamic_cast<const pybind11::value_error*>(&e) ||
             (... || dynamic_cast<const Also*>(&e));
    };
    try {
      if (p) std::rethrow_exception(p);
    } catch (const std::exception& e) {
      if (!is_input_error(e)) throw;
      raise(e);
    }
  });
}

}  // namespace uniaudio::python
