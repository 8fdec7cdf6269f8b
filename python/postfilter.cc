// PostFilter and its streams for Python: NumPy in and out, arguments checked, GIL released while
// computing.
#include "postfilter.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <span>

#include "bindings.h"
#include "codec_bindings.h"

namespace uniaudio::python {

namespace {

using Stream = Guarded<PostFilter, PostFilterStream>;

// The vector of a voice; none for None.
Floats voice_vector(const py::object& voice) {
  return voice.is_none() ? Floats(py::ssize_t{0}) : samples_argument(voice, 1);
}

std::span<const float> numbers(const Floats& x) { return {x.data(), size_t(x.size())}; }

}  // namespace

void bind_postfilter(py::module_& m) {
  py::class_<Stream> stream(
      m, "PostFilterStream",
      "A source in, filtered samples out; concatenated pushes and flush equal apply().");
  bind_stream(stream);
  stream
      .def(
          "push",
          [](Stream& s, const py::object& source) {
            const Floats x = samples_argument(source, 1);
            const std::span<const float> heard = numbers(x);
            std::vector<float> out;
            s.with([&](PostFilterStream& f) { f.push(heard.data(), heard.size(), out); });
            return samples_result(out, 1);
          },
          py::arg("source"),
          "source float32 [n] -> the samples float32 [m] that are complete.  ValueError on NaN or "
          "infinity; nothing changes then.")
      .def(
          "flush",
          [](Stream& s) {
            std::vector<float> out;
            s.with([&](PostFilterStream& f) { f.flush(out); });
            return samples_result(out, 1);
          },
          "Ends the clip: the samples that are still missing.  The next push starts a new clip.");

  py::class_<PostFilter, std::shared_ptr<PostFilter>>(
      m, "PostFilter",
      "A source times gains of its spectrum; immutable, shared between threads and streams.")
      .def(py::init([](const std::string& config_json, const py::dict& weights, int threads) {
             const PostFilterConfig config = parse_postfilter_config(config_json);
             const Weights w = weights_argument(weights);
             const WithoutGil release;
             return std::make_shared<PostFilter>(config, w, threads);
           }),
           py::arg("config_json"), py::arg("weights"), py::arg("threads"))
      .def(
          "apply",
          [](const PostFilter& f, const py::object& source, float least_gain,
             const py::object& voice) {
            const Floats x = samples_argument(source, 1), v = voice_vector(voice);
            const std::span<const float> heard = numbers(x), vector = numbers(v);
            std::vector<float> out;
            {
              const WithoutGil release;
              const auto stream = f.stream(least_gain, vector);
              stream->push(heard.data(), heard.size(), out);
              stream->flush(out);
            }
            return samples_result(out, 1);
          },
          py::arg("source"), py::arg("least_gain") = 0.0f, py::arg("voice") = py::none(),
          "source float32 [N] -> the filtered source float32 [N].  Its gains are "
          "between least_gain and 1.  voice: the vector float32 [V] of the voice to keep.  "
          "ValueError when least_gain is not in 0 to 1, or the vector of another size.")
      .def(
          "voice",
          [](const PostFilter& f, const py::object& samples) {
            const Floats x = samples_argument(samples, 1);
            const std::span<const float> heard = numbers(x);
            std::vector<float> vector;
            {
              const WithoutGil release;
              vector = f.voice(heard.data(), heard.size());
            }
            return samples_result(vector, 1);
          },
          py::arg("samples"),
          "samples float32 [n] of a voice -> the vector float32 [V] that stands for it, [0] of a "
          "filter that hears none.  ValueError on NaN or infinity.")
      .def(
          "stream",
          [](const std::shared_ptr<PostFilter>& f, float least_gain, const py::object& voice) {
            const Floats v = voice_vector(voice);
            return std::make_unique<Stream>(f, f->stream(least_gain, numbers(v)));
          },
          py::arg("least_gain") = 0.0f, py::arg("voice") = py::none(), "As apply(), in chunks.")
      .def_property_readonly("delay", &PostFilter::delay,
                             "Samples that must follow a sample before it comes out.")
      .def_property_readonly("threads", &PostFilter::threads);
}

}  // namespace uniaudio::python
