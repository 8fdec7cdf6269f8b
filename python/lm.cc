// LM, LMSession and Sampling for Python.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "arrays.h"
#include "bindings.h"
#include "lm_session.h"

namespace uniaudio::python {

// The aligned rows of `rows` frames, or nothing.
std::optional<std::vector<int32_t>> aligned_of(const py::object& object, const LmConfig& config,
                                               int64_t rows) {
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

// Python's Ctrl-C handler, asked from the frame loop.
bool interrupted() {
  py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

namespace {

// Continuous inputs {name: (values float32 [n, width], frames int32 [n])}, copied.
struct Continuous {
  std::vector<std::vector<float>> values;
  std::vector<std::vector<int32_t>> index;
  std::vector<ContinuousInput> inputs;
};

Continuous continuous_of(const py::object& object, const LmConfig& config) {
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

SamplingConfig make_sampling(
    double temperature, int64_t top_k, double top_p, bool greedy, int64_t repetition_window,
    double repetition_penalty, uint64_t seed,
    const std::optional<std::vector<std::vector<std::pair<int64_t, int64_t>>>>& allowed,
    int64_t end_id, const std::string& end_slots, int64_t min_frames, bool tie_slots) {
  SamplingConfig c;
  c.temperature = temperature, c.top_k = top_k, c.top_p = top_p, c.greedy = greedy;
  c.repetition_window = repetition_window, c.repetition_penalty = repetition_penalty;
  c.seed = seed, c.end_id = end_id, c.min_frames = min_frames, c.tie_slots = tie_slots;
  if (end_slots != "first" && end_slots != "last" && end_slots != "any") {
    throw std::invalid_argument(
        "sampling: end_slots: expected \"first\", \"last\" or \"any\", got \"" + end_slots + "\"");
  }
  c.end_slots = end_slots == "first"  ? EndSlots::first
                : end_slots == "last" ? EndSlots::last
                                      : EndSlots::any;
  if (!allowed) return c;
  for (const auto& slot : *allowed) {
    c.allowed.emplace_back();
    for (const auto& [start, size] : slot) {
      if (start < 0 || size < 1 || start > (1 << 20) || size > (1 << 20)) {
        throw std::invalid_argument(
            "sampling: allowed: expected (start, size) within the vocabulary, got (" +
            std::to_string(start) + ", " + std::to_string(size) + ")");
      }
      c.allowed.back().push_back({int32_t(start), int32_t(start + size)});
    }
  }
  return c;
}

using SessionPointer = std::shared_ptr<LmSession>;

// Room for what generate may write; the session itself refuses counts beyond its capacity.
std::vector<int32_t> room(const LmSession& s, int64_t n) {
  return std::vector<int32_t>(
      size_t(std::clamp<int64_t>(n, 0, s.capacity()) * s.lm().config().num_codebooks));
}

py::array_t<int32_t> generate(LmSession& s, int64_t n, const SamplingConfig& sampling,
                              const py::object& aligned) {
  if (n < 0)
    throw std::invalid_argument("generate: expected 0 or more frames, got " + std::to_string(n));
  const auto ids = aligned_of(aligned, s.lm().config(), n);
  std::vector<int32_t> out = room(s, n);
  int64_t made = 0;
  {
    py::gil_scoped_release release;
    made = s.generate(n, sampling, ids ? ids->data() : nullptr, out.data(), interrupted);
  }
  if (PyErr_Occurred()) throw py::error_already_set();
  return array_of(out, {made, s.lm().config().num_codebooks});
}

std::vector<py::array_t<int32_t>> generate_batch(
    const std::vector<SessionPointer>& sessions, int64_t n,
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
  std::vector<LmSession::Job> jobs;
  for (size_t i = 0; i < sessions.size(); ++i) {
    if (!sessions[i]) throw std::invalid_argument("generate_batch: expected sessions, got None");
    if (aligned_rows) ids[i] = aligned_of((*aligned_rows)[i], sessions[i]->lm().config(), n);
    out.push_back(room(*sessions[i], n));
  }
  for (size_t i = 0; i < sessions.size(); ++i)
    jobs.push_back(
        {sessions[i].get(), &samplings[i], ids[i] ? ids[i]->data() : nullptr, out[i].data(), 0});
  {
    py::gil_scoped_release release;
    LmSession::generate_batch(jobs, n, interrupted);
  }
  if (PyErr_Occurred()) throw py::error_already_set();
  std::vector<py::array_t<int32_t>> result;
  for (size_t i = 0; i < jobs.size(); ++i)
    result.push_back(array_of(out[i], {jobs[i].made, sessions[i]->lm().config().num_codebooks}));
  return result;
}

py::array_t<float> logits(const MultiScaleLm& lm, const py::object& frames,
                          const py::object& aligned, const py::object& continuous) {
  const LmConfig& c = lm.config();
  const IntMatrix m = int_matrix(frames, "frames", c.num_codebooks, "[T, K]");
  const auto ids = aligned_of(aligned, c, m.rows);
  const Continuous inputs = continuous_of(continuous, c);
  py::array_t<float> out(
      {py::ssize_t(m.rows), py::ssize_t(c.num_codebooks), py::ssize_t(c.vocab_size)});
  float* data = out.mutable_data();
  {
    py::gil_scoped_release release;
    lm.logits(m.values.data(), m.rows, ids ? ids->data() : nullptr, inputs.inputs, data);
  }
  return out;
}

std::shared_ptr<MultiScaleLm> make_lm(const std::string& config_json, const py::dict& weights,
                                      const std::string& dtype, int threads,
                                      const std::string& kv_dtype) {
  std::vector<py::array> keep;
  const Weights w = weights_of(weights, keep);
  const LmConfig config = parse_lm_config(config_json);
  const LmDTypes types = LmDTypes::parse(dtype);
  const KvDType kv_type = parse_kv_dtype(kv_dtype.c_str());
  py::gil_scoped_release release;
  return std::make_shared<MultiScaleLm>(config, w, types, threads, kv_type);
}

// A sampler with its buffers, one call at a time.
struct DrawnSlots {
  DrawnSlots(const SamplingConfig& sampling, const LmConfig& lm)
      : sampler(sampling, lm), codebooks(lm.num_codebooks), vocab(lm.vocab_size) {
    scratch.reserve(vocab);
  }

  int32_t sample(const py::array_t<float, py::array::c_style | py::array::forcecast>& logits,
                 int slot, uint64_t frame,
                 const py::array_t<int32_t, py::array::c_style | py::array::forcecast>& history) {
    if (logits.ndim() != 1 || logits.shape(0) != vocab)
      throw std::invalid_argument("logits: expected [" + std::to_string(vocab) + "], got " +
                                  array_shape(logits));
    if (history.ndim() != 2 || history.shape(1) != codebooks)
      throw std::invalid_argument("history: expected [n, " + std::to_string(codebooks) + "], got " +
                                  array_shape(history));
    if (slot < 0 || slot >= codebooks)
      throw std::invalid_argument("slot: expected 0 to " + std::to_string(codebooks - 1) +
                                  ", got " + std::to_string(slot));
    const int32_t* const known = history.data();
    for (py::ssize_t i = 0; i < history.size(); ++i) {
      if (known[i] < 0 || known[i] >= vocab)
        throw std::invalid_argument("history: expected ids from 0 to " + std::to_string(vocab - 1) +
                                    ", got " + std::to_string(known[i]));
    }
    values.assign(logits.data(), logits.data() + vocab);  // the repetition guard changes them
    return sampler.sample(scratch, values.data(), slot, frame, known, history.shape(0));
  }

  Sampler sampler;
  Sampler::Scratch scratch;
  int codebooks, vocab;
  std::vector<float> values;
};

// The arrays in which a model folder stores a matrix: (values, scales) as csrc/weights.h describes
// them.
py::tuple quantize(const py::array_t<float, py::array::c_style | py::array::forcecast>& w,
                   const std::string& dtype) {
  if (w.ndim() != 2)
    throw std::invalid_argument("quantize: expected a matrix [out, in], got shape " +
                                array_shape(w));
  for (py::ssize_t i = 0; i < w.size(); ++i) {
    if (!std::isfinite(w.data()[i]))
      throw std::invalid_argument("quantize: expected finite values, got infinity or NaN");
  }
  const Matrix m = quantize_matrix(w.data(), w.shape(0), w.shape(1), parse_dtype(dtype));
  const py::ssize_t out = m.out, in = m.in, groups = m.groups();
  if (m.dtype == DType::int8) {
    py::array_t<int8_t> q({out, in});
    std::copy_n(m.q.data(), m.q.size(), q.mutable_data());
    py::array_t<float> scale(out);
    std::copy_n(m.scale.data(), m.scale.size(), scale.mutable_data());
    return py::make_tuple(q, scale);
  }
  const Buffer<uint8_t> bytes = stored_nibbles(m);
  py::array_t<uint8_t> q({out, groups * kGroup / 2});
  std::copy_n(bytes.data(), bytes.size(), q.mutable_data());
  py::array_t<uint16_t> scale({out, groups});
  std::transform(m.scale.data(), m.scale.data() + m.scale.size(), scale.mutable_data(),
                 to_bfloat16);
  return py::make_tuple(q, scale);
}

}  // namespace

void prefill_session(LmSession& s, const py::object& frames, const py::object& aligned,
                     const py::object& continuous) {
  const LmConfig& c = s.lm().config();
  const IntMatrix m = int_matrix(frames, "frames", c.num_codebooks, "[n, K]");
  const auto ids = aligned_of(aligned, c, m.rows);
  const Continuous inputs = continuous_of(continuous, c);
  py::gil_scoped_release release;
  s.prefill(m.values.data(), m.rows, ids ? ids->data() : nullptr, inputs.inputs);
}

void bind_lm(py::module_& m) {
  py::class_<SamplingConfig>(m, "Sampling",
                             "How ids are chosen from logits.  `allowed`: per slot, (start, size) "
                             "ranges of ids that may be emitted.")
      .def(py::init(&make_sampling), py::arg("temperature") = 1.0, py::arg("top_k") = 0,
           py::arg("top_p") = 1.0, py::arg("greedy") = false, py::arg("repetition_window") = 0,
           py::arg("repetition_penalty") = 1.0, py::arg("seed") = 0,
           py::arg("allowed") = py::none(), py::arg("end_id") = -1, py::arg("end_slots") = "first",
           py::arg("min_frames") = 0, py::arg("tie_slots") = false)
      .def_readonly("temperature", &SamplingConfig::temperature)
      .def_readonly("top_k", &SamplingConfig::top_k)
      .def_readonly("top_p", &SamplingConfig::top_p)
      .def_readonly("greedy", &SamplingConfig::greedy)
      .def_readonly("seed", &SamplingConfig::seed)
      .def_readonly("repetition_window", &SamplingConfig::repetition_window)
      .def_readonly("repetition_penalty", &SamplingConfig::repetition_penalty)
      .def_readonly("end_id", &SamplingConfig::end_id)
      .def_readonly("min_frames", &SamplingConfig::min_frames)
      .def_readonly("tie_slots", &SamplingConfig::tie_slots)
      .def_property_readonly("end_slots",
                             [](const SamplingConfig& c) {
                               return std::string(c.end_slots == EndSlots::first  ? "first"
                                                  : c.end_slots == EndSlots::last ? "last"
                                                                                  : "any");
                             })
      .def_property_readonly(
          "allowed",
          [](const SamplingConfig& c) {
            std::vector<std::vector<std::pair<int64_t, int64_t>>> slots;
            for (const auto& slot : c.allowed) {
              slots.emplace_back();
              for (IdRange r : slot) slots.back().emplace_back(r.begin, r.end - r.begin);
            }
            return slots;
          },
          "Per slot (start, size) ranges; empty: everything everywhere.");

  py::class_<DrawnSlots>(
      m, "Sampler", "The rules of Sampling for one LM, over logits that something else computed.")
      .def(py::init([](const SamplingConfig& sampling, const std::string& config_json) {
             return std::make_unique<DrawnSlots>(sampling, parse_lm_config(config_json));
           }),
           py::arg("sampling"), py::arg("config_json"))
      .def("sample", &DrawnSlots::sample, py::arg("logits"), py::arg("slot"), py::arg("frame"),
           py::arg("history"),
           "The id of a slot from float32 logits [V]; `frame` keys the random numbers; history "
           "int32 [n, K]: frames generated so far.  RuntimeError\n"
           "where a logit that may be emitted is not finite.")
      .def(
          "ends",
          [](const DrawnSlots& s, int slot, int32_t id) { return s.sampler.ends(slot, id); },
          py::arg("slot"), py::arg("id"));

  m.def("quantize", &quantize, py::arg("matrix"), py::arg("dtype"),
        "A float32 matrix [out, in] as it is stored in \"int8\" (int8 [out, in], float32 scales "
        "[out]) or \"int4\" (uint8 [out, 16 groups], bfloat16\n"
        "scales as uint16 [out, groups], groups of 32 inputs).  ValueError for anything else.");
  m.def(
      "lm_dtype",
      [](const std::string& text) {
        const LmDTypes d = LmDTypes::parse(text);
        py::dict parts;
        parts["global"] = dtype_name(d.global), parts["local"] = dtype_name(d.local),
        parts["head"] = dtype_name(d.head);
        return py::make_tuple(d.name(), parts);
      },
      py::arg("text"),
      "A choice of weight formats such as \"int8\" or \"int8,local=int4\": (its shortest name, "
      "{part: format}).  ValueError when it is none.");

  py::class_<MultiScaleLm, std::shared_ptr<MultiScaleLm>>(
      m, "LM", "The multi-scale LM; immutable, shared by its sessions and by threads.")
      .def(py::init(&make_lm), py::arg("config_json"), py::arg("weights"),
           py::arg("dtype") = "float32", py::arg("threads") = 1, py::arg("kv_dtype") = "float32",
           "dtype: how weights are held (see lm_dtype); kv_dtype float32|bfloat16|int8: how "
           "sessions hold keys and values (int8: one scale for\n"
           "each position and head).")
      .def("logits", &logits, py::arg("frames"), py::arg("aligned") = py::none(),
           py::arg("continuous") = py::none(),
           "Teacher-forced logits [T, K, V] of frames [T, K], each slot given all before it.")
      .def(
          "session",
          [](std::shared_ptr<MultiScaleLm> lm, int64_t max_frames) {
            return std::make_shared<LmSession>(std::move(lm), max_frames);
          },
          py::arg("max_frames"))
      .def(
          "memory_bytes",
          [](const MultiScaleLm& lm, int64_t max_frames) {
            if (max_frames < 1 || max_frames > lm.config().max_frames) {
              throw std::invalid_argument("max_frames: expected 1 to " +
                                          std::to_string(lm.config().max_frames) + ", got " +
                                          std::to_string(max_frames));
            }
            return lm.session_bytes(max_frames);
          },
          py::arg("max_frames"),
          "Bytes of KV cache and history that a session of max_frames keeps.")
      .def("weight_bytes", &MultiScaleLm::weight_bytes_per_frame, py::arg("head_rows") = 0,
           "Bytes of weights read per frame when head_rows rows of the output head are used per "
           "slot (0: all).")
      .def_property_readonly("weight_bytes_per_frame",
                             [](const MultiScaleLm& lm) { return lm.weight_bytes_per_frame(); })
      .def_property_readonly("vocab_size",
                             [](const MultiScaleLm& lm) { return lm.config().vocab_size; })
      .def_property_readonly("num_codebooks",
                             [](const MultiScaleLm& lm) { return lm.config().num_codebooks; })
      .def_property_readonly("aligned_slots",
                             [](const MultiScaleLm& lm) { return lm.config().aligned_slots; })
      .def_property_readonly("max_frames",
                             [](const MultiScaleLm& lm) { return lm.config().max_frames; })
      .def_property_readonly("threads", [](const MultiScaleLm& lm) { return lm.pool().threads(); })
      .def_property_readonly("dtype", [](const MultiScaleLm& lm) { return lm.dtypes().name(); })
      .def_property_readonly("kv_dtype", [](const MultiScaleLm& lm) {
        return std::string(kv_dtype_name(lm.kv_dtype()));
      });

  py::class_<LmSession, SessionPointer>(m, "LMSession",
                                        "One sequence: known frames in, generated frames out.")
      .def("prefill", &prefill_session, py::arg("frames"), py::arg("aligned") = py::none(),
           py::arg("continuous") = py::none(), "Appends known frames [n, K].")
      .def("generate", &generate, py::arg("n"), py::arg("sampling"),
           py::arg("aligned") = py::none(),
           "Up to n new frames [m, K]; fewer when the end id came (.finished) or after cancel().")
      .def("cancel", &LmSession::cancel,
           "Stops a running generate before its next frame, or else the next generate at once; any "
           "thread.")
      .def(
          "set_guidance",
          [](LmSession& s, const LmSession& plain, double scale) {
            py::gil_scoped_release release;
            s.set_guidance(plain, scale);
          },
          py::arg("plain"), py::arg("scale"),
          "From here on ids are drawn from plain + scale (own - plain), logit by logit; plain is "
          "the same sequence without what is to be followed.")
      .def_property_readonly("guided", &LmSession::guided)
      .def("reset", &LmSession::reset)
      .def("fork",
           [](const LmSession& s) {
             py::gil_scoped_release release;
             return SessionPointer(s.fork());
           })
      .def("save",
           [](const LmSession& s) {
             std::string bytes;
             {
               py::gil_scoped_release release;
               bytes = s.save();
             }
             return py::bytes(bytes);
           })
      .def(
          "restore",
          [](LmSession& s, const py::bytes& bytes) {
            const std::string copy = bytes;
            py::gil_scoped_release release;
            s.restore(copy);
          },
          py::arg("bytes"))
      .def_property_readonly("finished", &LmSession::finished)
      .def_property_readonly("frames", &LmSession::frames)
      .def_property_readonly("capacity", &LmSession::capacity)
      .def_property("frame_offset", &LmSession::frame_offset, &LmSession::set_frame_offset,
                    "Added to the frame index that keys the random numbers.");

  m.def("generate_batch", &generate_batch, py::arg("sessions"), py::arg("n"), py::arg("samplings"),
        py::arg("aligned_rows") = py::none(),
        "Steps several sessions of one LM together; each one's frames are the same as alone.");
}

}  // namespace uniaudio::python
