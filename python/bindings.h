// What each file of the module adds to it.
#pragma once

#include <pybind11/pybind11.h>

namespace uniaudio::python {

void bind_lm(pybind11::module_& m);          // LM, LMSession, Sampling
void bind_codec(pybind11::module_& m);       // Codec and its streams
void bind_postfilter(pybind11::module_& m);  // PostFilter and its streams

}  // namespace uniaudio::python
