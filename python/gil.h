// Computing without the GIL, also while the interpreter exits.
//
// A thread that asks for the GIL during finalization is ended by CPython in the middle of our
// destructors, and the process aborts. So the module drains at exit: calls in progress end early
// and are waited for, and later ones, of daemon threads that still run, keep the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>

namespace uniaudio::python {

namespace py = pybind11;

// One set for each compiled module. `exiting` changes only while the GIL is held.
inline std::atomic<bool> exiting{false};
inline std::atomic<int> calls_without_gil{0};

// Releases the GIL while it lives.
class WithoutGil {
 public:
  WithoutGil() {
    if (exiting.load()) return;
    calls_without_gil.fetch_add(1);
    release_.emplace();
  }
  ~WithoutGil() {
    if (!release_) return;
    release_.reset();
    calls_without_gil.fetch_sub(1);
  }
  WithoutGil(const WithoutGil&) = delete;

 private:
  std::optional<py::gil_scoped_release> release_;
};

// Whether a loop that runs without the GIL has to end: Python exits, or its handler of Ctrl-C
// raised.
inline bool interrupted() {
  if (exiting.load()) return true;
  py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

// Registers what waits for the calls in progress when Python exits.
inline void drain_at_exit() {
  py::module_::import("atexit").attr("register")(py::cpp_function([] {
    exiting.store(true);
    const py::gil_scoped_release release;
    while (calls_without_gil.load() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }));
}

}  // namespace uniaudio::python
