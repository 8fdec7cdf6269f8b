// Codec, EncoderStream and DecoderStream for Python: NumPy in and out, arguments checked, GIL
// released while computing.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <mutex>

#include "bindings.h"
#include "codec.h"
#include "codec_bindings.h"
#include "fft.h"
#include "rvq.h"

namespace uniaudio::python {

namespace {

// None, or float32 [chunks].
std::vector<float> scales_argument(const py::object& value) {
  if (value.is_none()) return {};
  const py::array a = py::array::ensure(value);
  if (!a) PyErr_Clear();
  if (!a || a.ndim() != 1 || a.dtype().kind() != 'f')
    throw py::value_error("scales: expected float32 [chunks], got " + describe(value));
  const Floats f = converted<float>(a);
  return {f.data(), f.data() + f.size()};
}

Floats scales_result(const std::vector<float>& scales) {
  return Floats(py::ssize_t(scales.size()), scales.data());
}

using Encoder = Guarded<Codec, EncoderStream>;
using Decoder = Guarded<Codec, DecoderStream>;

// The next frames of a stream; `scales` null: those of a codec that normalises are refused.
Ints push_samples(Encoder& s, const py::object& samples, std::vector<float>* scales) {
  const Floats x = samples_argument(samples, s.codec->channels());
  const float* data = x.data();
  const size_t n = size_t(x.shape(x.ndim() - 1));
  std::vector<int32_t> codes;
  s.with([&](EncoderStream& e) { e.push(data, n, codes, scales); });
  return codes_result(codes, s.stream->num_codebooks());
}
Ints flush_samples(Encoder& s, std::vector<float>* scales) {
  std::vector<int32_t> codes;
  s.with([&](EncoderStream& e) { e.flush(codes, scales); });
  return codes_result(codes, s.stream->num_codebooks());
}
Ints encode_clip(const Codec& c, const py::object& samples, int num_codebooks,
                 std::vector<float>* scales) {
  const Floats x = samples_argument(samples, c.channels());
  const float* data = x.data();
  const size_t n = size_t(x.shape(x.ndim() - 1));
  std::vector<int32_t> codes;
  {
    const WithoutGil release;
    codes = c.encode(data, n, num_codebooks, scales);
  }
  return codes_result(codes, num_codebooks ? num_codebooks : c.config().num_codebooks);
}

// A quantizer by itself, with threads of its own.
struct Quantizer {
  ResidualVQ vq;
  ThreadPool pool;
  std::mutex mutex;

  // z [T, E] -> codes [T, K']
  Ints encode(const Floats& z, int stages, bool plain) {
    if (z.ndim() != 2 || z.shape(1) != vq.dim())
      throw py::value_error("z: expected float32 [T, " + std::to_string(vq.dim()) + "], got " +
                            describe(z));
    if (stages < 0 || stages > vq.num_codebooks())
      throw py::value_error("num_codebooks: expected 0 (all) to " +
                            std::to_string(vq.num_codebooks()));
    if (stages == 0) stages = vq.num_codebooks();
    const int rows = int(z.shape(0));
    std::vector<float> residual(z.data(), z.data() + z.size());
    Ints codes({py::ssize_t(rows), py::ssize_t(stages)});
    int32_t* to = codes.mutable_data();
    const WithoutGil release;
    std::lock_guard<std::mutex> lock(mutex);
    if (plain)
      vq.encode_plain(residual.data(), rows, stages, to);
    else
      vq.encode(pool, residual.data(), rows, stages, to, scratch);
    return codes;
  }
  Buffer<float> scratch;
};

}  // namespace

void bind_codec(py::module_& m) {
  py::class_<Encoder> encoder(
      m, "EncoderStream",
      "Samples in, complete frames out; concatenated pushes and flush equal encode().");
  bind_stream(encoder);
  encoder
      .def(
          "push",
          [](Encoder& s, const py::object& samples) { return push_samples(s, samples, nullptr); },
          py::arg("samples"),
          "samples float32 [N] ([C, N]) -> codes int32 [K, t], maybe t = 0.  ValueError on NaN or "
          "a wrong shape; nothing changes then.")
      .def(
          "flush", [](Encoder& s) { return flush_samples(s, nullptr); },
          "Ends the clip: the remaining frames int32 [K, t].  The next push starts a new clip.")
      .def(
          "push_scaled",
          [](Encoder& s, const py::object& samples) {
            std::vector<float> scales;
            const Ints codes = push_samples(s, samples, &scales);
            return py::make_tuple(codes, scales_result(scales));
          },
          py::arg("samples"),
          "As push, with the loudness of the chunks that the frames begin: (codes int32 [K, t], "
          "scales float32 [chunks]).")
      .def(
          "flush_scaled",
          [](Encoder& s) {
            std::vector<float> scales;
            const Ints codes = flush_samples(s, &scales);
            return py::make_tuple(codes, scales_result(scales));
          },
          "As flush, with the loudness of the chunks that the frames begin.")
      .def("save",
           [](Encoder& s) { return py::bytes(s.with([](EncoderStream& e) { return e.save(); })); })
      .def(
          "restore",
          [](Encoder& s, const py::bytes& state) {
            const std::string bytes = state;
            s.with([&](EncoderStream& e) { e.restore(bytes); });
          },
          py::arg("state"))
      .def_property_readonly(
          "lookahead", [](const Encoder& s) { return s.stream->lookahead(); },
          "Samples after a frame's end before it comes out, at worst.")
      .def_property_readonly("num_codebooks",
                             [](const Encoder& s) { return s.stream->num_codebooks(); });

  py::class_<Decoder> decoder(
      m, "DecoderStream",
      "Frames in, complete samples out; concatenated pushes and flush equal decode().");
  bind_stream(decoder);
  decoder
      .def(
          "push",
          [](Decoder& s, const py::object& codes, const py::object& scales) {
            const std::vector<float> loudness = scales_argument(scales);
            const CodeFrames c = frames_argument(codes, s.codec->config().num_codebooks);
            std::vector<float> samples;
            s.with([&](DecoderStream& d) {
              d.push(c.values.data(), size_t(c.count), c.num_codebooks, samples, loudness);
            });
            return samples_result(samples, s.codec->channels());
          },
          py::arg("codes"), py::arg("scales") = py::none(),
          "codes [K', t], K' <= K, and the scales of the chunks that they begin -> samples float32 "
          "[n] ([C, n]).  ValueError on a code out of range; nothing "
          "changes then.")
      .def(
          "flush",
          [](Decoder& s) {
            std::vector<float> samples;
            s.with([&](DecoderStream& d) { d.flush(samples); });
            return samples_result(samples, s.codec->channels());
          },
          "Ends the clip: the samples that the look-ahead held back.  The next push starts a new "
          "clip.")
      .def("save",
           [](Decoder& s) { return py::bytes(s.with([](DecoderStream& d) { return d.save(); })); })
      .def(
          "restore",
          [](Decoder& s, const py::bytes& state) {
            const std::string bytes = state;
            s.with([&](DecoderStream& d) { d.restore(bytes); });
          },
          py::arg("state"))
      .def_property_readonly(
          "lookahead", [](const Decoder& s) { return s.stream->lookahead(); },
          "Samples held back behind the newest frame, at worst.");

  py::class_<Quantizer>(m, "ResidualVQ",
                        "A residual vector quantizer by itself, for tests and measurements.")
      .def(py::init([](const Floats& books, int threads) {
             if (books.ndim() != 3 || books.size() == 0)
               throw py::value_error("codebooks: expected float32 [K, C, E], got " +
                                     describe(books));
             Buffer<float> copy(size_t(books.size()));
             std::copy_n(books.data(), books.size(), copy.data());
             return new Quantizer{
                 ResidualVQ(copy, int(books.shape(0)), int(books.shape(1)), int(books.shape(2))),
                 ThreadPool(threads),
                 {},
                 {}};
           }),
           py::arg("codebooks"), py::arg("threads"))
      .def(
          "encode",
          [](Quantizer& q, const Floats& z, int num_codebooks) {
            return q.encode(z, num_codebooks, false);
          },
          py::arg("z"), py::arg("num_codebooks") = 0, "z float32 [T, E] -> codes int32 [T, K]")
      .def(
          "encode_plain",
          [](Quantizer& q, const Floats& z, int num_codebooks) {
            return q.encode(z, num_codebooks, true);
          },
          py::arg("z"), py::arg("num_codebooks") = 0,
          "The same by definition, one score at a time.");

  m.def(
      "rfft",
      [](const Floats& x) {
        if (x.ndim() != 2)
          throw py::value_error("x: expected float32 [rows, length], got " + describe(x));
        const RealFft fft(int(x.shape(1)));
        const py::ssize_t rows = x.shape(0), bins = fft.bins();
        Floats out({rows, py::ssize_t(2), bins});
        std::vector<float> scratch(fft.scratch_size());
        for (py::ssize_t r = 0; r < rows; ++r)
          fft.forward(codec_kernels(), x.data(r, 0), out.mutable_data(r, 0, 0),
                      out.mutable_data(r, 1, 0), scratch.data());
        return out;
      },
      py::arg("x"),
      "The codec's FFT: float32 [rows, length] -> [rows, 2, length / 2 + 1], real and imaginary "
      "parts; on one thread.");

  // Held by a pointer to mutable, because pybind11 has no const holders; nothing of a Codec can be
  // changed.
  py::class_<Codec, std::shared_ptr<Codec>>(
      m, "Codec",
      "A neural codec (spectral or seanet); immutable, shared between threads and streams.")
      .def(py::init([](const std::string& config_json, const py::dict& weights, int threads) {
             const CodecConfig config = parse_codec_config(config_json);
             const Weights w = weights_argument(weights);
             const WithoutGil release;
             return std::const_pointer_cast<Codec>(Codec::create(config, w, threads));
           }),
           py::arg("config_json"), py::arg("weights"), py::arg("threads"))
      .def(
          "encode",
          [](const Codec& c, const py::object& samples, int num_codebooks) {
            return encode_clip(c, samples, num_codebooks, nullptr);
          },
          py::arg("samples"), py::arg("num_codebooks") = 0,
          "samples float32 [N] ([C, N]) at the codec's rate -> codes int32 [K, frames(N)]; "
          "num_codebooks 0: all.  ValueError where the codec normalises.")
      .def(
          "encode_scaled",
          [](const Codec& c, const py::object& samples, int num_codebooks) {
            std::vector<float> scales;
            const Ints codes = encode_clip(c, samples, num_codebooks, &scales);
            return py::make_tuple(codes, scales_result(scales));
          },
          py::arg("samples"), py::arg("num_codebooks") = 0,
          "As encode, for any codec: (codes, scales float32 [chunks]), the loudness of each chunk "
          "(of the clip, without chunks); none where it does not normalise.")
      .def(
          "decode",
          [](const Codec& c, const py::object& codes, const py::object& scales) {
            const std::vector<float> loudness = scales_argument(scales);
            const CodeFrames f = frames_argument(codes, c.config().num_codebooks);
            std::vector<float> samples;
            {
              const WithoutGil release;
              samples = c.decode(f.values.data(), size_t(f.count), f.num_codebooks, loudness);
            }
            return samples_result(samples, c.channels());
          },
          py::arg("codes"), py::arg("scales") = py::none(),
          "codes [K', T], K' <= K, and their scales where the codec normalises -> samples float32 "
          "[n] ([C, n]); n is T * frame_size, or of a codec in chunks as "
          "far as the last one reaches: at least as many as were encoded.")
      .def("frames", &Codec::frames, py::arg("samples"), "Frames T of a clip of that many samples.")
      .def(
          "encoder_stream",
          [](const std::shared_ptr<Codec>& c, int num_codebooks) {
            return std::make_unique<Encoder>(c, c->encoder_stream(num_codebooks));
          },
          py::arg("num_codebooks") = 0)
      .def("decoder_stream",
           [](const std::shared_ptr<Codec>& c) {
             return std::make_unique<Decoder>(c, c->decoder_stream());
           })
      .def_property_readonly("encoder_lookahead", &Codec::encoder_lookahead)
      .def_property_readonly("decoder_lookahead", &Codec::decoder_lookahead)
      .def_property_readonly("sample_rate", [](const Codec& c) { return c.config().sample_rate; })
      .def_property_readonly("frame_size", [](const Codec& c) { return c.config().frame_size; })
      .def_property_readonly("num_codebooks",
                             [](const Codec& c) { return c.config().num_codebooks; })
      .def_property_readonly("codebook_size",
                             [](const Codec& c) { return c.config().codebook_size; })
      .def_property_readonly("channels", &Codec::channels)
      .def_property_readonly("normalizes", &Codec::normalizes,
                             "Whether codes need their scales: see encode_scaled.")
      .def_property_readonly("chunk_frames", &Codec::chunk_frames,
                             "Frames of each chunk, or 0: the codec works on whole clips.")
      .def_property_readonly("threads", &Codec::threads);
}

}  // namespace uniaudio::python
