// What each file of the module adds to it, and what they share.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace uniaudio {
class LmSession;
struct LmConfig;
}  // namespace uniaudio

namespace uniaudio::python {

void bind_lm(pybind11::module_& m);       // LM, LMSession, Sampling
void bind_codec(pybind11::module_& m);    // Codec and its streams
void bind_session(pybind11::module_& m);  // Session: both joined

// Checked arguments of a session's calls.
void prefill_session(LmSession& s, const pybind11::object& frames, const pybind11::object& aligned,
                     const pybind11::object& continuous);
std::optional<std::vector<int32_t>> aligned_of(const pybind11::object& object,
                                               const LmConfig& config, int64_t rows);
bool interrupted();  // Python's Ctrl-C handler, asked from the frame loop without the GIL

}  // namespace uniaudio::python
