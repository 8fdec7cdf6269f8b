// Session: an LM session and the codec's streaming decoder in one object.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <mutex>

#include "arrays.h"
#include "bindings.h"
#include "session.h"

namespace uniaudio::python {
namespace {

// Python may call from several threads; the decoder, unlike the LM session, has no guard of its
// own.
struct JoinedSession {
  std::unique_ptr<Session> session;
  std::mutex mutex;

  explicit JoinedSession(std::unique_ptr<Session> s) : session(std::move(s)) {}
  template <class F>
  auto with(F&& f) {
    py::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex);
    return f(*session);
  }
  int64_t codebooks() const { return session->lm().lm().config().num_codebooks; }
};

// Time-major [n][channels] to float32 [n], or [channels, n].
py::array_t<float> pcm_of(const std::vector<float>& rows, int channels) {
  if (channels == 1) return array_of(rows, {py::ssize_t(rows.size())});
  const size_t n = rows.size() / size_t(channels);
  py::array_t<float> out({py::ssize_t(channels), py::ssize_t(n)});
  for (size_t i = 0; i < rows.size(); ++i)
    out.mutable_data()[i % size_t(channels) * n + i / size_t(channels)] = rows[i];
  return out;
}

py::tuple generate_audio(JoinedSession& s, int64_t n, const SamplingConfig& sampling,
                         const py::object& aligned, bool flush) {
  if (n < 0)
    throw std::invalid_argument("generate_audio: expected 0 or more frames, got " +
                                std::to_string(n));
  const auto ids = aligned_of(aligned, s.session->lm().lm().config(), n);
  std::vector<int32_t> codes;
  std::vector<float> samples;
  const int64_t made = s.with([&](Session& x) {
    return x.generate_audio(n, sampling, ids ? ids->data() : nullptr, flush, codes, samples,
                            interrupted);
  });
  if (PyErr_Occurred()) throw py::error_already_set();
  return py::make_tuple(array_of(codes, {made, s.codebooks()}),
                        pcm_of(samples, s.session->codec().channels()));
}

py::array_t<float> decode(JoinedSession& s, const py::object& codes, bool flush) {
  const IntMatrix m = int_matrix(codes, "codes", s.codebooks(), "[m, K]");
  std::vector<float> samples;
  s.with([&](Session& x) { x.decode(m.values.data(), m.rows, flush, samples); });
  return pcm_of(samples, s.session->codec().channels());
}

}  // namespace

void bind_session(py::module_& m) {
  py::class_<JoinedSession>(
      m, "Session",
      "An LM session joined to the codec's streaming decoder: frames in, codes and samples out.")
      .def(py::init([](std::shared_ptr<MultiScaleLm> lm, std::shared_ptr<Codec> codec,
                       int64_t max_frames) {
             return std::make_unique<JoinedSession>(
                 std::make_unique<Session>(std::move(lm), std::move(codec), max_frames));
           }),
           py::arg("lm"), py::arg("codec"), py::arg("max_frames"))
      .def_property_readonly(
          "lm_session", [](JoinedSession& s) { return s.session->shared_lm(); },
          "The LM's part, for generate_batch.")
      .def(
          "prefill",
          [](JoinedSession& s, const py::object& frames, const py::object& aligned,
             const py::object& continuous) {
            prefill_session(s.session->lm(), frames, aligned, continuous);
          },
          py::arg("frames"), py::arg("aligned") = py::none(), py::arg("continuous") = py::none(),
          "Appends known frames [n, K].")
      .def(
          "generate",
          [](py::object self, const py::object& n, const py::object& sampling,
             const py::object& aligned) {
            return self.attr("lm_session").attr("generate")(n, sampling, aligned);
          },
          py::arg("n"), py::arg("sampling"), py::arg("aligned") = py::none(),
          "Frames [m, K] without decoding them.")
      .def("generate_audio", &generate_audio, py::arg("n"), py::arg("sampling"),
           py::arg("aligned") = py::none(), py::arg("flush") = false,
           "(codes int32 [m, K], pcm float32 [*]) of up to n frames; flush drains the decoder's "
           "look-ahead after them, the end id always does.")
      .def("decode", &decode, py::arg("codes"), py::arg("flush") = false,
           "Samples of given codes [m, K], in the same stream.")
      .def("cancel", [](JoinedSession& s) { s.session->lm().cancel(); })
      .def("reset_audio", [](JoinedSession& s) { s.with([](Session& x) { x.reset_audio(); }); })
      .def("reset", [](JoinedSession& s) { s.with([](Session& x) { x.reset(); }); })
      .def("fork",
           [](JoinedSession& s) {
             return std::make_unique<JoinedSession>(s.with([](Session& x) { return x.fork(); }));
           })
      .def("save",
           [](JoinedSession& s) { return py::bytes(s.with([](Session& x) { return x.save(); })); })
      .def(
          "restore",
          [](JoinedSession& s, const py::bytes& bytes) {
            const std::string copy = bytes;
            s.with([&](Session& x) { x.restore(copy); });
          },
          py::arg("bytes"))
      .def_property_readonly("finished",
                             [](JoinedSession& s) { return s.session->lm().finished(); })
      .def_property_readonly("frames", [](JoinedSession& s) { return s.session->lm().frames(); })
      .def_property_readonly("capacity",
                             [](JoinedSession& s) { return s.session->lm().capacity(); })
      .def_property(
          "frame_offset", [](JoinedSession& s) { return s.session->lm().frame_offset(); },
          [](JoinedSession& s, int64_t offset) { s.session->lm().set_frame_offset(offset); });
}

}  // namespace uniaudio::python
