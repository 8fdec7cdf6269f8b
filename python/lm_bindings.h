// What the sessions of every device share in Python: arguments checked, NumPy in and out, the GIL
// released while computing.
//
// A session class S is a SessionState (csrc/session_rules.h) with the interface of LmSession.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "config.h"
#include "gil.h"
#include "multiscale_lm.h"
#include "sampling.h"
#include "session_rules.h"

namespace uniaudio::python {

// The aligned rows of `rows` frames, or nothing.
inline std::optional<std::vector<int32_t>> aligned_of(const py::object& object,
                                                      const LmConfig& config, int64_t rows) {
  if (object.is_none()) return std::nullopt;
  if (config.aligned_slots == 0)
    throw std::invalid_argument(
        "aligned: expected none, since this model has no aligned slots; leave it out");
  IntMatrix m = int_matrix(object, "aligned", config.aligned_slots, "[T, S]");
  if (m.rows != rows) {
    throw std::invalid_argument("aligned: expected one row per frame (" + std::to_string(rows) +
                                "), got " + std::to_string(m.rows));
  }
  return std::move(m.values);
}

// Continuous inputs {name: (values float32 [n, width], frames int32 [n])}, copied.
struct Continuous {
  std::vector<std::vector<float>> values;
  std::vector<std::vector<int32_t>> index;
  std::vector<ContinuousInput> inputs;
};

inline Continuous continuous_of(const py::object& object, const LmConfig& config) {
  Continuous c;
  if (object.is_none()) return c;
  if (!py::isinstance<py::dict>(object))
    throw std::invalid_argument("continuous: expected a dict of name -> (values, frames)");
  for (const auto& [key, value] : py::cast<py::dict>(object)) {
    const std::string name = py::str(key), where = "continuous[\"" + name + "\"]";
    if (!py::isinstance<py::tuple>(value) || py::len(value) != 2)
      throw std::invalid_argument(where + ": expected a tuple (values [n, width], frames [n])");
    const auto pair = py::cast<py::tuple>(value);
    const auto width = config.continuous.find(name);
    auto values = py::array_t < float,
         py::array::c_style | py::array::forcecast > ::ensure(pair[0]);
    auto index = py::array::ensure(pair[1]);
    if (!values || !index) {
      PyErr_Clear();
      throw std::invalid_argument(where + ": expected arrays");
    }
    if (width != config.continuous.end() &&
        (values.ndim() != 2 || values.shape(1) != width->second)) {
      throw std::invalid_argument(where + ": expected values of shape [n, " +
                                  std::to_string(width->second) + "], got " + array_shape(values));
    }
    if (index.ndim() != 1 || (values.ndim() > 0 && index.shape(0) != values.shape(0))) {
      throw std::invalid_argument(
          where + ": expected one frame index per row of values, got shape " + array_shape(index));
    }
    c.index.push_back(
        int_matrix(index.reshape({py::ssize_t(-1), py::ssize_t(1)}), where, 1, "[n]").values);
    c.values.emplace_back(values.data(), values.data() + values.size());
    c.inputs.push_back({name, nullptr, nullptr, int64_t(c.index.back().size())});
  }
  for (size_t i = 0; i < c.inputs.size(); ++i)
    c.inputs[i].values = c.values[i].data(), c.inputs[i].index = c.index[i].data();
  return c;
}

// Room for what generate may write; the session itself refuses counts beyond its capacity.
template <class S>
std::vector<int32_t> room(const S& s, int64_t n) {
  return std::vector<int32_t>(
      size_t(std::clamp<int64_t>(n, 0, s.capacity()) * s.lm().config().num_codebooks));
}

template <class S>
void prefill(S& s, const py::object& frames, const py::object& aligned,
             const py::object& continuous) {
  const LmConfig& c = s.lm().config();
  const IntMatrix m = int_matrix(frames, "frames", c.num_codebooks, "[n, K]");
  const auto ids = aligned_of(aligned, c, m.rows);
  const Continuous inputs = continuous_of(continuous, c);
  const WithoutGil release;
  s.prefill(m.values.data(), m.rows, ids ? ids->data() : nullptr, inputs.inputs);
}

template <class S>
py::array_t<int32_t> generate(S& s, int64_t n, const SamplingConfig& sampling,
                              const py::object& aligned) {
  if (n < 0)
    throw std::invalid_argument("generate: expected 0 or more frames, got " + std::to_string(n));
  const auto ids = aligned_of(aligned, s.lm().config(), n);
  std::vector<int32_t> out = room(s, n);
  std::vector<typename S::Job> jobs{{&s, &sampling, ids ? ids->data() : nullptr, out.data(), 0}};
  {
    const WithoutGil release;
    S::generate_batch(jobs, n, interrupted);
  }
  if (PyErr_Occurred()) throw py::error_already_set();
  return array_of(out, {jobs[0].made, s.lm().config().num_codebooks});
}

template <class S>
std::vector<py::array_t<int32_t>> generate_batch(
    const std::vector<std::shared_ptr<S>>& sessions, int64_t n,
    const std::vector<SamplingConfig>& samplings,
    const std::optional<std::vector<py::object>>& aligned_rows) {
  if (n < 0)
    throw std::invalid_argument("generate: expected 0 or more frames, got " + std::to_string(n));
  if (samplings.size() != sessions.size() ||
      (aligned_rows && aligned_rows->size() != sessions.size())) {
    throw std::invalid_argument(
        "generate_batch: expected one sampling and one set of aligned rows per session (" +
        std::to_string(sessions.size()) + "), got " + std::to_string(samplings.size()) +
        (aligned_rows ? " and " + std::to_string(aligned_rows->size()) : ""));
  }
  std::vector<std::optional<std::vector<int32_t>>> ids(sessions.size());
  std::vector<std::vector<int32_t>> out;
  std::vector<typename S::Job> jobs;
  for (size_t i = 0; i < sessions.size(); ++i) {
    if (!sessions[i]) throw std::invalid_argument("generate_batch: expected sessions, got None");
    if (aligned_rows) ids[i] = aligned_of((*aligned_rows)[i], sessions[i]->lm().config(), n);
    out.push_back(room(*sessions[i], n));
  }
  for (size_t i = 0; i < sessions.size(); ++i)
    jobs.push_back(
        {sessions[i].get(), &samplings[i], ids[i] ? ids[i]->data() : nullptr, out[i].data(), 0});
  {
    const WithoutGil release;
    S::generate_batch(jobs, n, interrupted);
  }
  if (PyErr_Occurred()) throw py::error_already_set();
  std::vector<py::array_t<int32_t>> result;
  for (size_t i = 0; i < jobs.size(); ++i)
    result.push_back(array_of(out[i], {jobs[i].made, sessions[i]->lm().config().num_codebooks}));
  return result;
}

template <class M>
py::array_t<float> logits(const M& lm, const py::object& frames, const py::object& aligned,
                          const py::object& continuous) {
  const LmConfig& c = lm.config();
  const IntMatrix m = int_matrix(frames, "frames", c.num_codebooks, "[T, K]");
  const auto ids = aligned_of(aligned, c, m.rows);
  const Continuous inputs = continuous_of(continuous, c);
  py::array_t<float> out(
      {py::ssize_t(m.rows), py::ssize_t(c.num_codebooks), py::ssize_t(c.vocab_size)});
  float* data = out.mutable_data();
  {
    const WithoutGil release;
    lm.logits(m.values.data(), m.rows, ids ? ids->data() : nullptr, inputs.inputs, data);
  }
  return out;
}

inline void check_max_frames(int64_t max_frames, const LmConfig& config) {
  if (max_frames < 1 || max_frames > config.max_frames)
    throw std::invalid_argument("max_frames: expected 1 to the model's limit " +
                                std::to_string(config.max_frames) + ", got " +
                                std::to_string(max_frames));
}

// What every LM has; M has logits() and config(), S are its sessions.
template <class M, class S, class... Options>
void bind_model(py::class_<M, Options...>& model) {
  model
      .def("logits", &logits<M>, py::arg("frames"), py::arg("aligned") = py::none(),
           py::arg("continuous") = py::none(),
           "Teacher-forced logits [T, K, V] of frames [T, K], each slot given all before it.")
      .def(
          "session",
          [](std::shared_ptr<M> lm, int64_t max_frames) {
            return std::make_shared<S>(std::move(lm), max_frames);
          },
          py::arg("max_frames"), "A new session with room for max_frames frames.")
      .def_static("generate_batch", &generate_batch<S>, py::arg("sessions"), py::arg("n"),
                  py::arg("samplings"), py::arg("aligned_rows") = py::none(),
                  "Steps distinct sessions of one model together: up to n frames [m, K] of each, "
                  "the same as alone.")
      .def(
          "memory_bytes",
          [](const M& lm, int64_t max_frames) {
            check_max_frames(max_frames, lm.config());
            return lm.session_bytes(max_frames);
          },
          py::arg("max_frames"),
          "Bytes of KV cache and history that a session of max_frames keeps.")
      .def_property_readonly("vocab_size", [](const M& lm) { return lm.config().vocab_size; })
      .def_property_readonly("num_codebooks", [](const M& lm) { return lm.config().num_codebooks; })
      .def_property_readonly("aligned_slots", [](const M& lm) { return lm.config().aligned_slots; })
      .def_property_readonly("max_frames", [](const M& lm) { return lm.config().max_frames; })
      .def_property_readonly("dtype", [](const M& lm) { return lm.dtypes().name(); })
      .def_property_readonly("kv_dtype",
                             [](const M& lm) { return std::string(kv_dtype_name(lm.kv_dtype())); });
}

// What every session has.
template <class S, class... Options>
void bind_session(py::class_<S, Options...>& session) {
  session
      .def("prefill", &prefill<S>, py::arg("frames"), py::arg("aligned") = py::none(),
           py::arg("continuous") = py::none(), "Appends known frames [n, K].")
      .def("generate", &generate<S>, py::arg("n"), py::arg("sampling"),
           py::arg("aligned") = py::none(),
           "Up to n new frames [m, K]; fewer when the end id came (.finished) or after cancel().")
      .def(
          "cancel", [](S& s) { s.cancel(); },
          "Stops a running generate within some frames, or else the next one at once; any thread.")
      .def(
          "set_guidance",
          [](S& s, const S& unconditional, double scale, bool aligned) {
            const WithoutGil release;
            s.set_guidance(unconditional, scale, aligned);
          },
          py::arg("unconditional"), py::arg("scale"), py::arg("aligned") = true,
          "From here on ids are drawn from the logits unconditional + scale (own - "
          "unconditional).  The unconditional session holds the same sequence without the "
          "condition; a fork of it takes in all that this session takes in, aligned rows only "
          "if aligned.")
      .def(
          "set_words",
          [](S& s, const std::vector<std::pair<std::vector<int32_t>, int64_t>>& words,
             int32_t new_word, int32_t pad, int64_t ahead, int32_t second_offset, int32_t none,
             int64_t max_padding, int64_t initial_padding, int64_t final_frames) {
            WordsConfig c{{},          new_word,        pad,         ahead, second_offset, none,
                          max_padding, initial_padding, final_frames};
            for (const auto& [ids, padding] : words) c.words.push_back({ids, padding});
            s.set_words(c);
          },
          py::arg("words"), py::arg("new_word"), py::arg("pad"), py::arg("ahead") = 0,
          py::arg("second_offset") = 0, py::arg("none") = 0, py::arg("max_padding") = 6,
          py::arg("initial_padding") = 2, py::arg("final_frames") = 0,
          "From here on the text is these words [(ids, padding)], each begun where the id new_word "
          "is drawn in slot 0.")
      .def(
          "reset", [](S& s) { s.reset(); }, "Back to no frames and no guidance.")
      .def(
          "fork",
          [](const S& s) {
            const WithoutGil release;
            return std::shared_ptr<S>(s.fork());
          },
          "A copy that continues on its own.")
      .def_property_readonly("guided", [](const S& s) { return s.guided(); })
      .def_property_readonly("finished", [](const S& s) { return s.finished(); })
      .def_property_readonly("frames", [](const S& s) { return s.frames(); })
      .def_property_readonly("capacity", [](const S& s) { return s.capacity(); })
      .def_property(
          "frame_offset", [](const S& s) { return s.frame_offset(); },
          [](S& s, int64_t offset) { s.set_frame_offset(offset); },
          "Added to the frame index that keys the random numbers.");
}

}  // namespace uniaudio::python
