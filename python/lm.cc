// LM, LMSession and Sampling for Python.
#include "lm_session.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "bindings.h"
#include "lm_bindings.h"

namespace uniaudio::python {
namespace {

std::vector<int32_t> slot_ids(const char* what, const std::optional<std::vector<int64_t>>& given) {
  std::vector<int32_t> ids;
  for (int64_t id : given.value_or(std::vector<int64_t>())) {
    if (id < -1 || id >= (1 << 20))
      throw std::invalid_argument(std::string("sampling: ") + what +
                                  ": expected ids, or -1 for none, got " + std::to_string(id));
    ids.push_back(int32_t(id));
  }
  return ids;
}

SamplingConfig make_sampling(
    double temperature, int64_t top_k, double top_p, bool greedy, int64_t repetition_window,
    double repetition_penalty, uint64_t seed,
    const std::optional<std::vector<std::vector<std::pair<int64_t, int64_t>>>>& allowed,
    int64_t end_id, const std::string& end_slots, int64_t min_frames, bool tie_slots,
    bool keep_end_frame, const std::optional<std::vector<int64_t>>& forced,
    const std::optional<std::vector<SamplingConfig>>& slots,
    const std::optional<std::vector<int64_t>>& end_frame) {
  SamplingConfig c;
  c.temperature = temperature, c.top_k = top_k, c.top_p = top_p, c.greedy = greedy;
  c.repetition_window = repetition_window, c.repetition_penalty = repetition_penalty;
  c.seed = seed, c.end_id = end_id, c.min_frames = min_frames, c.tie_slots = tie_slots;
  c.keep_end_frame = keep_end_frame;
  c.forced = slot_ids("forced", forced);
  c.end_frame = slot_ids("end_frame", end_frame);
  if (slots) c.slots.assign(slots->begin(), slots->end());
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

std::shared_ptr<MultiScaleLm> make_lm(const std::string& config_json, const py::dict& weights,
                                      const std::string& dtype, int threads,
                                      const std::string& kv_dtype) {
  std::vector<py::array> keep;
  const Weights w = weights_of(weights, keep);
  const LmConfig config = parse_lm_config(config_json);
  const LmDTypes types = LmDTypes::parse(dtype);
  const KvDType kv_type = parse_kv_dtype(kv_dtype.c_str());
  const WithoutGil release;
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

  bool ends_frame(const std::vector<int32_t>& frame, int64_t generated) const {
    if (int64_t(frame.size()) != codebooks)
      throw std::invalid_argument("ends_frame: expected " + std::to_string(codebooks) +
                                  " ids, got " + std::to_string(frame.size()));
    return sampler.ends_frame(frame.data(), generated);
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

void bind_lm(py::module_& m) {
  py::class_<SamplingConfig>(
      m, "Sampling",
      "How ids are chosen from logits.  `allowed`: per slot, (start, size) "
      "ranges of ids that may be emitted.  `forced`: per slot the id that it "
      "has whatever is drawn, or -1.  `slots`: per slot a Sampling, of which "
      "temperature, top_k, top_p, greedy and repetition count.  "
      "`end_frame`: per slot an id or -1; a frame with all of these ids ends "
      "too.  `keep_end_frame`: the frame in which the end comes is the last "
      "one; else the one before it.")
      .def(py::init(&make_sampling), py::arg("temperature") = 1.0, py::arg("top_k") = 0,
           py::arg("top_p") = 1.0, py::arg("greedy") = false, py::arg("repetition_window") = 0,
           py::arg("repetition_penalty") = 1.0, py::arg("seed") = 0,
           py::arg("allowed") = py::none(), py::arg("end_id") = -1, py::arg("end_slots") = "first",
           py::arg("min_frames") = 0, py::arg("tie_slots") = false,
           py::arg("keep_end_frame") = false, py::arg("forced") = py::none(),
           py::arg("slots") = py::none(), py::arg("end_frame") = py::none())
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
      .def_readonly("keep_end_frame", &SamplingConfig::keep_end_frame)
      .def_readonly("forced", &SamplingConfig::forced)
      .def_readonly("end_frame", &SamplingConfig::end_frame)
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
          py::arg("slot"), py::arg("id"), "Whether this id, drawn there, ends the sequence.")
      .def(
          "final_id",
          [](const DrawnSlots& s, int slot, int32_t id) { return s.sampler.final_id(slot, id); },
          py::arg("slot"), py::arg("id"), "The id that the slot has where this one was drawn.")
      .def("ends_frame", &DrawnSlots::ends_frame, py::arg("frame"), py::arg("generated"),
           "Whether this frame [K], after `generated` others, ends the sequence by its ids.");

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

  py::class_<MultiScaleLm, std::shared_ptr<MultiScaleLm>> lm(
      m, "LM", "The multi-scale LM; immutable, shared by its sessions and by threads.");
  py::class_<LmSession, std::shared_ptr<LmSession>> session(
      m, "LMSession", "One sequence: known frames in, generated frames out.");
  bind_model<MultiScaleLm, LmSession>(lm);
  lm.def(py::init(&make_lm), py::arg("config_json"), py::arg("weights"),
         py::arg("dtype") = "float32", py::arg("threads") = 1, py::arg("kv_dtype") = "float32",
         "dtype: how weights are held (see lm_dtype); kv_dtype float32|bfloat16|int8: how "
         "sessions hold keys and values (int8: one scale for each position and head).")
      .def("weight_bytes", &MultiScaleLm::weight_bytes_per_frame, py::arg("head_rows") = 0,
           "Bytes of weights read per frame when each slot uses head_rows rows of the output head "
           "(0: all).")
      .def(
          "held_bytes",
          [](const MultiScaleLm& x, int64_t frames, int64_t max_frames) {
            check_max_frames(max_frames, x.config());
            if (frames < 0 || frames > max_frames)
              throw std::invalid_argument("frames: expected 0 to " + std::to_string(max_frames) +
                                          ", got " + std::to_string(frames));
            return x.session_bytes(LmSession::held_frames(frames, max_frames), max_frames);
          },
          py::arg("frames"), py::arg("max_frames"),
          "Bytes of KV cache and history that a session of max_frames keeps while it has `frames`: "
          "its cache grows with them.")
      .def_property_readonly("weight_bytes_per_frame",
                             [](const MultiScaleLm& x) { return x.weight_bytes_per_frame(); })
      .def_property_readonly("threads", [](const MultiScaleLm& x) { return x.pool().threads(); });

  bind_session(session);
  session
      .def(
          "set_condition",
          [](LmSession& s, const py::object& row) {
            const auto values = py::array_t < float,
                       py::array::c_style | py::array::forcecast > ::ensure(row);
            const int64_t width = s.lm().config().global.width;
            if (!values) PyErr_Clear();
            if (!values || values.ndim() != 1 || values.shape(0) != width) {
              throw std::invalid_argument("set_condition: expected a row of " +
                                          std::to_string(width) + " numbers" +
                                          (values ? ", got " + array_shape(values) : ""));
            }
            s.set_condition(values.data());
          },
          py::arg("row"),
          "From here on the row [D] is added to every input of the global stack; before the first "
          "prefill.")
      .def_property_readonly("conditioned", [](const LmSession& s) { return s.conditioned(); })
      .def(
          "save",
          [](const LmSession& s) {
            std::string bytes;
            {
              const WithoutGil release;
              bytes = s.save();
            }
            return py::bytes(bytes);
          },
          "The state as bytes; an error where the session is guided.")
      .def(
          "restore",
          [](LmSession& s, const py::bytes& bytes) {
            const std::string copy = bytes;
            const WithoutGil release;
            s.restore(copy);
          },
          py::arg("bytes"), "Takes in a state that a session of this model saved; ends guidance.");
}

}  // namespace uniaudio::python
