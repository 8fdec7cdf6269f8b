// uniaudio_engine._cuda: the models of csrc/cuda/ for Python, with the methods that _C's have. Over
// csrc/cuda/device_host.cc the same file is the tests' module _cuda_host, whose device is the CPU.
//
// It takes _C.Sampling, so both modules must come from one build: cuda.py compares
// `sampling_layout`.
#include "cuda/codec.h"
#include "cuda/lm.h"
#include "cuda/rvq_device.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "codec.h"
#include "codec_bindings.h"
#include "errors.h"
#include "lm_bindings.h"

namespace uniaudio::python {
namespace {

// One object for each device, while anything uses it.
std::shared_ptr<cuda::Device> shared_device(int index) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<cuda::Device>> devices;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<cuda::Device> device = devices[index].lock();
  if (!device) devices[index] = device = cuda::open_device(index);
  return device;
}

// --- language model

std::shared_ptr<cuda::Lm> make_lm(const std::string& config_json, const py::dict& weights,
                                  const std::string& dtype, const std::string& kv_dtype,
                                  int device) {
  std::vector<py::array> keep;
  const Weights w = weights_of(weights, keep);
  const LmConfig config = parse_lm_config(config_json);
  const LmDTypes types = LmDTypes::parse(dtype);
  const KvDType kv_type = parse_kv_dtype(kv_dtype.c_str());
  const WithoutGil release;
  return std::make_shared<cuda::Lm>(shared_device(device), config, w, types, kv_type);
}

// --- arrays

py::capsule dlpack(const std::shared_ptr<cuda::Array>& array, const py::object& stream,
                   const py::object&, const py::object& dl_device, const py::object& copy) {
  const cuda::Device& device = *array->device();
  const auto here = py::make_tuple(device.dlpack_type(), device.index());
  if ((!copy.is_none() && py::cast<bool>(copy)) ||
      (!dl_device.is_none() && !py::tuple(dl_device).equal(here)))
    throw py::buffer_error("an Array is lent where it lies; use numpy() for a copy");
  // DLPack numbers the consumer's streams: 1 is the legacy default stream, -1 asks for no order.
  const int64_t order = stream.is_none() ? 1 : py::cast<int64_t>(stream);
  if (order > 0) array->device()->order(uint64_t(order));
  return py::capsule(cuda::Array::share(array), "dltensor", [](PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, "dltensor")) return;  // its consumer owns it now
    auto* const tensor =
        static_cast<cuda::DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
    if (tensor->deleter) tensor->deleter(tensor);
  });
}

py::array to_numpy(const cuda::Array& array) {
  const auto dtype = array.integers() ? py::dtype::of<int32_t>() : py::dtype::of<float>();
  py::array out(dtype, std::vector<py::ssize_t>(array.shape().begin(), array.shape().end()));
  if (array.bytes() > 0) array.device()->download(out.mutable_data(), array.data(), array.bytes());
  return out;
}

// --- codec

// A device's codec; what is the same for every device is asked of csrc/codec.h's at its making.
struct DeviceCodec {
  std::shared_ptr<const cuda::Codec> codec;
  int64_t encoder_lookahead, decoder_lookahead;

  const CodecConfig& config() const { return codec->config(); }
};
using Encoder = Guarded<DeviceCodec, cuda::EncoderStream>;
using Decoder = Guarded<DeviceCodec, cuda::DecoderStream>;

std::shared_ptr<DeviceCodec> make_codec(const std::string& config_json, const py::dict& weights,
                                        int device) {
  const CodecConfig config = parse_codec_config(config_json);
  const Weights w = weights_argument(weights);
  const WithoutGil release;
  const std::shared_ptr<const Codec> host = Codec::create(config, w, 1);
  return std::make_shared<DeviceCodec>(
      DeviceCodec{cuda::Codec::create(shared_device(device), config, w), host->encoder_lookahead(),
                  host->decoder_lookahead()});
}

std::unique_ptr<Encoder> encoder_stream(const std::shared_ptr<DeviceCodec>& c, int num_codebooks) {
  return std::make_unique<Encoder>(c, c->codec->encoder(num_codebooks));
}
std::unique_ptr<Decoder> decoder_stream(const std::shared_ptr<DeviceCodec>& c) {
  return std::make_unique<Decoder>(c, c->codec->decoder());
}

Ints push_samples(Encoder& s, const py::object& samples) {
  const Floats x = samples_argument(samples, 1);
  const float* data = x.data();
  const int64_t n = x.size();
  std::vector<int32_t> codes;
  s.with([&](cuda::EncoderStream& e) {
    if (n > 0) e.push(data, n, codes);
  });
  return codes_result(codes, s.stream->num_codebooks());
}
Ints flush_samples(Encoder& s) {
  std::vector<int32_t> codes;
  s.with([&](cuda::EncoderStream& e) { e.flush(codes); });
  return codes_result(codes, s.stream->num_codebooks());
}
Ints encode(const std::shared_ptr<DeviceCodec>& c, const py::object& samples, int num_codebooks) {
  const auto s = encoder_stream(c, num_codebooks);
  const Floats x = samples_argument(samples, 1);
  const float* data = x.data();
  const int64_t n = x.size();
  std::vector<int32_t> codes;
  s->with([&](cuda::EncoderStream& e) {
    if (n > 0) e.push(data, n, codes);
    e.flush(codes);
  });
  return codes_result(codes, s->stream->num_codebooks());
}

// A device's codecs code no loudness.
void refuse_scales(const py::object& scales) {
  if (!scales.is_none())
    throw std::invalid_argument("scales: expected none, since this codec does not normalize");
}

Floats decode_into(Decoder& s, const py::object& codes, bool flush) {
  const CodeFrames c = frames_argument(codes, s.codec->config().num_codebooks);
  std::vector<float> samples;
  s.with([&](cuda::DecoderStream& d) {
    if (c.count > 0) d.push(c.values.data(), c.count, c.num_codebooks, samples);
    if (flush) d.flush(samples);
  });
  return samples_result(samples, 1);
}

std::shared_ptr<cuda::Array> decode_to_array(Decoder& s, const py::object& codes, bool flush) {
  const CodeFrames c = frames_argument(codes, s.codec->config().num_codebooks);
  const int64_t most = (c.count + 1) * s.codec->config().frame_size + s.codec->decoder_lookahead;
  return s.with([&](cuda::DecoderStream& d) {
    const auto array = std::make_shared<cuda::Array>(d.device(), std::vector<int64_t>{most}, false);
    cuda::ArraySink sink(*array);
    if (c.count > 0) d.push(c.values.data(), c.count, c.num_codebooks, sink);
    if (flush) d.flush(sink);
    array->shorten(int64_t(sink.size()));
    return array;
  });
}

// --- quantizer

struct Quantizer {
  cuda::Rvq rvq;
  int num_codebooks, dim;

  Floats checked(const py::object& z) const {
    const Floats x = Floats::ensure(z);
    if (!x) PyErr_Clear();
    if (!x || x.ndim() != 2 || x.shape(1) != dim)
      throw std::invalid_argument("z: expected float32 [T, " + std::to_string(dim) + "], got " +
                                  describe(z));
    return x;
  }
};

std::unique_ptr<Quantizer> make_quantizer(const Floats& books, int device) {
  if (books.ndim() != 3)
    throw std::invalid_argument("codebooks: expected float32 [K, C, E], got " + describe(books));
  const int k = int(books.shape(0)), c = int(books.shape(1)), e = int(books.shape(2));
  return std::unique_ptr<Quantizer>(
      new Quantizer{cuda::Rvq(shared_device(device), books.data(), k, c, e), k, e});
}

// --- the module

double bandwidth(int index, int64_t megabytes) {
  const auto device = shared_device(index);
  const size_t bytes = size_t(std::clamp<int64_t>(megabytes, 1, 16384)) << 20;
  const cuda::DeviceBuffer<char> a(device, bytes), b(device, bytes);
  device->zero(a.data(), bytes);
  double best = 0;
  for (int i = 0; i < 8; ++i) {
    const double us = device->timed([&] { device->copy(b.data(), a.data(), 0, bytes, 1); });
    best = std::max(best, 2e-3 * double(bytes) / us);
  }
  return best;
}

void bind_lm(py::module_& m) {
  py::class_<cuda::Lm, std::shared_ptr<cuda::Lm>> lm(
      m, "LM", py::module_local(),
      "The multi-scale LM on a device; immutable, shared by its sessions and by threads.");
  py::class_<cuda::Session, std::shared_ptr<cuda::Session>> session(
      m, "LMSession", py::module_local(), "One sequence, whose state lives on the device.");
  bind_model<cuda::Lm, cuda::Session>(lm);
  lm.def(py::init(&make_lm), py::arg("config_json"), py::arg("weights"),
         py::arg("dtype") = "float32", py::arg("kv_dtype") = "float32", py::arg("device") = 0,
         "dtype and kv_dtype as _C.LM has them, but for int4 weights and int8 keys and values.")
      .def("weight_bytes", &cuda::Lm::weight_bytes, py::arg("head_rows") = 0,
           "Bytes of weights read per frame when each slot uses head_rows rows of the output head "
           "(0: all).")
      .def_property_readonly("weight_bytes_per_frame",
                             [](const cuda::Lm& x) { return x.weight_bytes(); })
      .def_property_readonly("most_streams", &cuda::Lm::most_columns,
                             "Sessions, or positions of a prefill, that one pass over the weights "
                             "serves.")
      .def("set_batched_from", &cuda::Lm::set_batched_from, py::arg("streams"),
           "Steps this many streams and more by the batched path (64 at most), fewer by the "
           "persistent kernel (8 at most).  Only the speed changes: both give the same bits.  Not "
           "while another thread uses the model.  The default is 9, or one more than the "
           "persistent kernel has room for.");
  bind_session(session);
  session.def("known", &cuda::Session::known, py::arg("first"), py::arg("count"),
              "Frames [first, first + count), an int32 Array [count, K] on the device.");
}

void bind_codec(py::module_& m) {
  py::class_<Encoder> encoder(m, "EncoderStream", py::module_local(),
                              "Samples in, complete frames out; one clip.");
  bind_stream(encoder);
  encoder
      .def("push", &push_samples, py::arg("samples"),
           "samples float32 [n] -> codes int32 [K, t], maybe t = 0.")
      .def("flush", &flush_samples,
           "Ends the clip: the remaining frames int32 [K, t].  The next push starts a new clip.")
      .def_property_readonly("num_codebooks",
                             [](const Encoder& s) { return s.stream->num_codebooks(); });

  py::class_<Decoder> decoder(m, "DecoderStream", py::module_local(),
                              "Frames in, complete samples out; one clip.");
  bind_stream(decoder);
  decoder
      .def(
          "push", [](Decoder& s, const py::object& c) { return decode_into(s, c, false); },
          py::arg("codes"), "codes [K', t] -> the samples that are complete, float32 [n].")
      .def(
          "push_array",
          [](Decoder& s, const py::object& c, bool flush) { return decode_to_array(s, c, flush); },
          py::arg("codes"), py::arg("flush") = false,
          "As push (and, with flush, flush), but the samples stay on the device: an Array [n].")
      .def(
          "flush",
          [](Decoder& s) {
            std::vector<float> samples;
            s.with([&](cuda::DecoderStream& d) { d.flush(samples); });
            return samples_result(samples, 1);
          },
          "Ends the clip: the samples that the look-ahead held back.  The next push starts a new "
          "clip.");

  py::class_<DeviceCodec, std::shared_ptr<DeviceCodec>>(
      m, "Codec", py::module_local(),
      "A mono codec of whole clips on a device; immutable, shared between threads and streams.")
      .def(py::init(&make_codec), py::arg("config_json"), py::arg("weights"), py::arg("device") = 0)
      .def("encode", &encode, py::arg("samples"), py::arg("num_codebooks") = 0,
           "samples float32 [N] at the codec's rate -> codes int32 [K, frames(N)]; 0: all.")
      .def(
          "encode_scaled",
          [](const std::shared_ptr<DeviceCodec>& c, const py::object& samples, int num_codebooks) {
            return py::make_tuple(encode(c, samples, num_codebooks), Floats(py::ssize_t(0)));
          },
          py::arg("samples"), py::arg("num_codebooks") = 0,
          "As encode: (codes, scales float32 [0]), since no codec here normalizes.")
      .def(
          "decode",
          [](const std::shared_ptr<DeviceCodec>& c, const py::object& codes,
             const py::object& scales) {
            refuse_scales(scales);
            return decode_into(*decoder_stream(c), codes, true);
          },
          py::arg("codes"), py::arg("scales") = py::none(),
          "codes [K', T] -> samples float32 [T * frame_size]; scales: none.")
      .def(
          "decode_array",
          [](const std::shared_ptr<DeviceCodec>& c, const py::object& codes) {
            return decode_to_array(*decoder_stream(c), codes, true);
          },
          py::arg("codes"), "As decode, but the samples stay on the device: an Array [n].")
      .def(
          "frames",
          [](const DeviceCodec& c, size_t samples) {
            const auto size = size_t(c.config().frame_size);
            return (samples + size - 1) / size;
          },
          py::arg("samples"), "Frames T of a clip of that many samples.")
      .def("encoder_stream", &encoder_stream, py::arg("num_codebooks") = 0, "0 codebooks: all.")
      .def("decoder_stream", &decoder_stream)
      .def_readonly("encoder_lookahead", &DeviceCodec::encoder_lookahead)
      .def_readonly("decoder_lookahead", &DeviceCodec::decoder_lookahead)
      .def_property_readonly("sample_rate",
                             [](const DeviceCodec& c) { return c.config().sample_rate; })
      .def_property_readonly("frame_size",
                             [](const DeviceCodec& c) { return c.config().frame_size; })
      .def_property_readonly("num_codebooks",
                             [](const DeviceCodec& c) { return c.config().num_codebooks; })
      .def_property_readonly("codebook_size",
                             [](const DeviceCodec& c) { return c.config().codebook_size; });

  py::class_<Quantizer>(m, "ResidualVQ", py::module_local(),
                        "A residual vector quantizer by itself, for tests and measurements.")
      .def(py::init(&make_quantizer), py::arg("codebooks"), py::arg("device") = 0,
           "codebooks float32 [K, C, E]")
      .def(
          "encode",
          [](const Quantizer& q, const py::object& z, int num_codebooks) {
            const Floats x = q.checked(z);
            const int k = num_codebooks ? num_codebooks : q.num_codebooks;
            if (k < 1 || k > q.num_codebooks)
              throw std::invalid_argument("num_codebooks: expected 0 (all) to " +
                                          std::to_string(q.num_codebooks));
            Ints codes({x.shape(0), py::ssize_t(k)});
            q.rvq.encode(x.data(), x.shape(0), k, codes.mutable_data(), nullptr);
            return codes;
          },
          py::arg("z"), py::arg("num_codebooks") = 0, "z float32 [T, E] -> codes int32 [T, K]")
      .def(
          "decode",
          [](const Quantizer& q, const py::object& codes) {
            const auto c = py::array_t < int32_t,
                       py::array::c_style | py::array::forcecast > ::ensure(codes);
            if (!c) PyErr_Clear();
            if (!c || c.ndim() != 2)
              throw std::invalid_argument("codes: expected int32 [T, K], got " + describe(codes));
            Floats z({c.shape(0), py::ssize_t(q.dim)});
            q.rvq.decode(c.data(), c.shape(0), int(c.shape(1)), false, z.mutable_data());
            return z;
          },
          py::arg("codes"), "codes [T, K] -> z float32 [T, E]")
      .def(
          "encode_microseconds",
          [](const Quantizer& q, const py::object& z, int num_codebooks, int repeats) {
            const Floats x = q.checked(z);
            return q.rvq.time_encode(x.data(), x.shape(0), num_codebooks, repeats);
          },
          py::arg("z"), py::arg("num_codebooks"), py::arg("repeats") = 20,
          "Time of the encoding kernel alone, the median.");
}

}  // namespace
}  // namespace uniaudio::python

PYBIND11_MODULE(UNIAUDIO_CUDA_MODULE, m) {
  using namespace uniaudio;
  using namespace uniaudio::python;
  m.doc() = "Models of uniaudio_engine on NVIDIA devices";
  translate_errors<cuda::DeviceError>();
  drain_at_exit();
  m.attr("backend") = cuda::backend();
  m.attr("sampling_layout") = UNIAUDIO_SAMPLING_LAYOUT;

  py::class_<cuda::Array, std::shared_ptr<cuda::Array>>(
      m, "Array", py::module_local(),
      "float32 or int32 values on a device.  torch.from_dlpack(array), cupy.from_dlpack(array) and "
      "jax.dlpack.from_dlpack(array) read the same memory; their stream waits for the values, the "
      "host does not.")
      .def_property_readonly("shape",
                             [](const cuda::Array& a) { return py::tuple(py::cast(a.shape())); })
      .def_property_readonly("dtype",
                             [](const cuda::Array& a) {
                               return a.integers() ? py::dtype::of<int32_t>()
                                                   : py::dtype::of<float>();
                             })
      .def("__len__", [](const cuda::Array& a) { return a.shape().at(0); })
      .def("numpy", &to_numpy, "A copy on the host.")
      .def("__dlpack_device__",
           [](const cuda::Array& a) {
             return py::make_tuple(a.device()->dlpack_type(), a.device()->index());
           })
      .def("__dlpack__", &dlpack, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(),
           py::arg("copy") = py::none(),
           "A capsule that owns a share of the memory.  stream: the consumer's, as DLPack numbers "
           "them.  BufferError where a copy or another device is asked for.");

  m.def("device_count", &cuda::device_count, "Devices of this machine.  InputError: no driver.");
  m.def(
      "device",
      [](int index) {
        const auto d = shared_device(index);
        return py::make_tuple(d->name(), d->limits().blocks, d->free_bytes());
      },
      py::arg("index"),
      "(name, multiprocessors, bytes free) of a device.  InputError where it cannot be used.");
  m.def("bandwidth", &bandwidth, py::arg("device") = 0, py::arg("megabytes") = 1024,
        py::call_guard<WithoutGil>(),
        "GB/s read and written by copies within the device, measured now.");
  bind_lm(m);
  bind_codec(m);
}
