#include "abi.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "codec.h"
#include "lm.h"
#include "rvq_device.h"

using namespace uniaudio;

struct uniaudio_lm {
  std::shared_ptr<cuda::Lm> lm;
};
struct uniaudio_session {
  std::unique_ptr<cuda::Session> session;
};
struct uniaudio_rvq {
  std::unique_ptr<cuda::Rvq> rvq;
};
struct uniaudio_codec {
  std::shared_ptr<const cuda::Codec> codec;
};
struct uniaudio_encoder {
  std::unique_ptr<cuda::EncoderStream> stream;
};
struct uniaudio_decoder {
  std::unique_ptr<cuda::DecoderStream> stream;
};
struct uniaudio_array {
  std::shared_ptr<cuda::Array> array;
};

namespace {

thread_local std::string last_error;

// Runs `body`; what it throws becomes a status and a line.
template <class F>
int32_t guarded(F body) {
  const auto fail = [](int32_t status, const char* why) {
    try {
      last_error = why;
    } catch (...) {
      last_error.clear();
    }
    return status;
  };
  try {
    body();
    return UNIAUDIO_OK;
  } catch (const cuda::DeviceError& e) {
    return fail(UNIAUDIO_NO_DEVICE, e.what());
  } catch (const std::invalid_argument& e) {
    return fail(UNIAUDIO_BAD_ARGUMENT, e.what());
  } catch (const std::bad_alloc&) {
    return fail(UNIAUDIO_FAILED, "cuda: out of host memory");
  } catch (const std::exception& e) {
    return fail(UNIAUDIO_FAILED, e.what());
  } catch (...) {
    return fail(UNIAUDIO_FAILED, "cuda: unknown failure");
  }
}
template <class T, class F>
T* made(F body) {
  T* result = nullptr;
  guarded([&] { result = new T{body()}; });
  return result;
}

// One object for each device, while anything uses it.
std::shared_ptr<cuda::Device> shared_device(int index) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<cuda::Device>> devices;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<cuda::Device> device = devices[index].lock();
  if (!device) devices[index] = device = cuda::open_device(index);
  return device;
}

Weights weights_of(const uniaudio_tensor* tensors, int64_t count) {
  Weights weights;
  for (int64_t i = 0; i < count; ++i) {
    const uniaudio_tensor& t = tensors[i];
    if (t.type < 0 || t.type > 3)
      throw std::invalid_argument(std::string("tensor ") + t.name + ": expected type 0 to 3, got " +
                                  std::to_string(t.type));
    weights.add(t.name,
                {StoredType(t.type), std::vector<int64_t>(t.shape, t.shape + t.rank), t.data});
  }
  return weights;
}

SamplingConfig config_of(const uniaudio_sampling& s) {
  SamplingConfig c;
  c.temperature = s.temperature, c.top_p = s.top_p, c.repetition_penalty = s.repetition_penalty;
  c.top_k = s.top_k, c.repetition_window = s.repetition_window, c.end_id = s.end_id,
  c.min_frames = s.min_frames;
  c.seed = s.seed, c.greedy = s.greedy != 0, c.tie_slots = s.tie_slots != 0;
  if (s.end_slots < 0 || s.end_slots > 2)
    throw std::invalid_argument("sampling: end_slots: expected 0, 1 or 2, got " +
                                std::to_string(s.end_slots));
  c.end_slots = EndSlots(s.end_slots);
  const int32_t* r = s.ranges;
  for (int32_t slot = 0; slot < s.slots; ++slot) {
    c.allowed.emplace_back();
    for (int32_t i = 0; i < s.range_count[slot]; ++i, r += 2)
      c.allowed.back().push_back({r[0], r[1]});
  }
  return c;
}

}  // namespace

extern "C" {

int32_t uniaudio_cuda_abi_version(void) { return UNIAUDIO_CUDA_ABI; }
const char* uniaudio_cuda_backend(void) { return cuda::backend(); }
const char* uniaudio_cuda_error(void) { return last_error.c_str(); }

int32_t uniaudio_cuda_device_count(int32_t* count) {
  return guarded([&] { *count = cuda::device_count(); });
}

int32_t uniaudio_cuda_device(int32_t device, uniaudio_device_info* info) {
  return guarded([&] {
    const auto d = shared_device(device);
    std::memset(info, 0, sizeof *info);
    const std::string name = d->name();
    std::memcpy(info->name, name.c_str(), std::min(name.size(), sizeof info->name - 1));
    info->multiprocessors = d->limits().blocks, info->shared_bytes = d->limits().shared_bytes,
    info->free_bytes = int64_t(d->free_bytes());
  });
}

uniaudio_lm* uniaudio_cuda_lm_create(int32_t device, const char* config_json,
                                     const uniaudio_tensor* tensors, int64_t count,
                                     const char* dtype, const char* kv_dtype) {
  return made<uniaudio_lm>([&] {
    const Weights weights = weights_of(tensors, count);
    const LmConfig config = parse_lm_config(config_json);
    return std::make_shared<cuda::Lm>(shared_device(device), config, weights,
                                      LmDTypes::parse(dtype), parse_kv_dtype(kv_dtype));
  });
}
void uniaudio_cuda_lm_release(uniaudio_lm* lm) { delete lm; }

int32_t uniaudio_cuda_lm_info(const uniaudio_lm* lm, int64_t head_rows, uniaudio_lm_info* info) {
  return guarded([&] {
    const cuda::Plan& plan = lm->lm->plan();
    *info = {plan.blocks, lm->lm->most_columns(), int64_t(lm->lm->weight_bytes(head_rows)),
             int64_t(lm->lm->device().free_bytes()), plan.balance};
  });
}
int32_t uniaudio_cuda_lm_set_wide_from(uniaudio_lm* lm, int32_t streams) {
  return guarded([&] { lm->lm->set_batched_from(streams); });
}
int64_t uniaudio_cuda_lm_session_bytes(const uniaudio_lm* lm, int64_t max_frames) {
  return int64_t(lm->lm->session_bytes(max_frames));
}

int32_t uniaudio_cuda_lm_logits(const uniaudio_lm* lm, const int32_t* frames, int64_t count,
                                const int32_t* aligned, float* out) {
  return guarded([&] { lm->lm->logits(frames, count, aligned, {}, out); });
}

uniaudio_session* uniaudio_cuda_session_create(const uniaudio_lm* lm, int64_t max_frames) {
  return made<uniaudio_session>(
      [&] { return std::make_unique<cuda::Session>(lm->lm, max_frames); });
}
void uniaudio_cuda_session_release(uniaudio_session* session) { delete session; }
uniaudio_session* uniaudio_cuda_session_fork(const uniaudio_session* session) {
  return made<uniaudio_session>([&] { return session->session->fork(); });
}
int32_t uniaudio_cuda_session_info(const uniaudio_session* session, uniaudio_session_info* info) {
  const cuda::Session& s = *session->session;
  *info = {s.frames(), s.capacity(), s.frame_offset(), s.finished(), s.guided()};
  return UNIAUDIO_OK;
}
int32_t uniaudio_cuda_session_set_offset(uniaudio_session* session, int64_t offset) {
  return guarded([&] { session->session->set_frame_offset(offset); });
}
int32_t uniaudio_cuda_session_set_guidance(uniaudio_session* session, const uniaudio_session* plain,
                                           double scale) {
  return guarded([&] { session->session->set_guidance(*plain->session, scale); });
}
int32_t uniaudio_cuda_session_reset(uniaudio_session* session) {
  return guarded([&] { session->session->reset(); });
}
uniaudio_array* uniaudio_cuda_session_known(const uniaudio_session* session, int64_t first,
                                            int64_t count) {
  return made<uniaudio_array>([&] { return session->session->known(first, count); });
}
void uniaudio_cuda_session_cancel(uniaudio_session* session) { session->session->cancel(); }

int32_t uniaudio_cuda_session_prefill(uniaudio_session* session, const int32_t* frames,
                                      int64_t count, const int32_t* aligned,
                                      const uniaudio_continuous* continuous,
                                      int64_t continuous_count) {
  return guarded([&] {
    if (count < 0)
      throw std::invalid_argument("prefill: expected 0 or more frames, got " +
                                  std::to_string(count));
    std::vector<ContinuousInput> inputs;
    for (int64_t i = 0; i < continuous_count; ++i)
      inputs.push_back(
          {continuous[i].name, continuous[i].values, continuous[i].index, continuous[i].count});
    session->session->prefill(frames, count, aligned, inputs);
  });
}

int32_t uniaudio_cuda_generate(uniaudio_request* requests, int64_t request_count, int64_t count) {
  return guarded([&] {
    if (count < 0)
      throw std::invalid_argument("generate: expected 0 or more frames, got " +
                                  std::to_string(count));
    std::vector<SamplingConfig> samplings;
    samplings.reserve(size_t(request_count));
    std::vector<cuda::Session::Request> list;
    for (int64_t i = 0; i < request_count; ++i) {
      samplings.push_back(config_of(*requests[i].sampling));
      list.push_back({requests[i].session->session.get(), &samplings.back(), requests[i].aligned,
                      requests[i].out});
      requests[i].made = 0;
    }
    cuda::Session::generate(list, count, {});
    for (int64_t i = 0; i < request_count; ++i) requests[i].made = list[size_t(i)].made;
  });
}

uniaudio_rvq* uniaudio_cuda_rvq_create(int32_t device, const float* codebooks,
                                       int32_t num_codebooks, int32_t codebook_size, int32_t dim) {
  return made<uniaudio_rvq>([&] {
    return std::make_unique<cuda::Rvq>(shared_device(device), codebooks, num_codebooks,
                                       codebook_size, dim);
  });
}
void uniaudio_cuda_rvq_release(uniaudio_rvq* rvq) { delete rvq; }
int32_t uniaudio_cuda_rvq_encode(const uniaudio_rvq* rvq, const float* z, int64_t rows,
                                 int32_t stages, int32_t* codes, float* residual) {
  return guarded([&] { rvq->rvq->encode(z, rows, stages, codes, residual); });
}
int32_t uniaudio_cuda_rvq_decode(const uniaudio_rvq* rvq, const int32_t* codes, int64_t rows,
                                 int32_t stages, int32_t channel_major, float* z) {
  return guarded([&] { rvq->rvq->decode(codes, rows, stages, channel_major != 0, z); });
}

uniaudio_codec* uniaudio_cuda_codec_create(int32_t device, const char* config_json,
                                           const uniaudio_tensor* tensors, int64_t count) {
  return made<uniaudio_codec>([&] {
    return cuda::Codec::create(shared_device(device), parse_codec_config(config_json),
                               weights_of(tensors, count));
  });
}
void uniaudio_cuda_codec_release(uniaudio_codec* codec) { delete codec; }
uniaudio_encoder* uniaudio_cuda_encoder_create(const uniaudio_codec* codec, int32_t num_codebooks) {
  return made<uniaudio_encoder>([&] { return codec->codec->encoder(num_codebooks); });
}
void uniaudio_cuda_encoder_release(uniaudio_encoder* encoder) { delete encoder; }
uniaudio_encoder* uniaudio_cuda_encoder_fork(const uniaudio_encoder* encoder) {
  return made<uniaudio_encoder>([&] { return encoder->stream->fork(); });
}
int32_t uniaudio_cuda_encoder_reset(uniaudio_encoder* encoder) {
  return guarded([&] { encoder->stream->reset(); });
}
int32_t uniaudio_cuda_encoder_push(uniaudio_encoder* encoder, const float* samples, int64_t count,
                                   int32_t flush, int32_t* out, int64_t* made) {
  *made = 0;
  return guarded([&] {
    std::vector<int32_t> codes;
    if (count > 0) encoder->stream->push(samples, count, codes);
    if (flush) encoder->stream->flush(codes);
    std::copy(codes.begin(), codes.end(), out);
    *made = int64_t(codes.size()) / encoder->stream->num_codebooks();
  });
}
uniaudio_decoder* uniaudio_cuda_decoder_create(const uniaudio_codec* codec) {
  return made<uniaudio_decoder>([&] { return codec->codec->decoder(); });
}
void uniaudio_cuda_decoder_release(uniaudio_decoder* decoder) { delete decoder; }
uniaudio_decoder* uniaudio_cuda_decoder_fork(const uniaudio_decoder* decoder) {
  return made<uniaudio_decoder>([&] { return decoder->stream->fork(); });
}
int32_t uniaudio_cuda_decoder_reset(uniaudio_decoder* decoder) {
  return guarded([&] { decoder->stream->reset(); });
}
int32_t uniaudio_cuda_decoder_push(uniaudio_decoder* decoder, const int32_t* codes, int64_t count,
                                   int32_t num_codebooks, int32_t flush, float* out,
                                   int64_t* made) {
  *made = 0;
  return guarded([&] {
    std::vector<float> samples;
    if (count > 0) decoder->stream->push(codes, count, num_codebooks, samples);
    if (flush) decoder->stream->flush(samples);
    std::copy(samples.begin(), samples.end(), out);
    *made = int64_t(samples.size());
  });
}

uniaudio_array* uniaudio_cuda_decoder_push_array(uniaudio_decoder* decoder, const int32_t* codes,
                                                 int64_t count, int32_t num_codebooks,
                                                 int32_t flush, int64_t most) {
  return made<uniaudio_array>([&] {
    if (most < 0)
      throw std::invalid_argument("array: expected 0 or more samples, got " + std::to_string(most));
    const auto array =
        std::make_shared<cuda::Array>(decoder->stream->device(), std::vector<int64_t>{most}, false);
    cuda::ArraySink sink(*array);
    if (count > 0) decoder->stream->push(codes, count, num_codebooks, sink);
    if (flush) decoder->stream->flush(sink);
    array->shorten(int64_t(sink.size()));
    return array;
  });
}

void uniaudio_cuda_array_release(uniaudio_array* array) { delete array; }
int32_t uniaudio_cuda_array_info(const uniaudio_array* array, int64_t* shape, int32_t* rank,
                                 int32_t* integers, int32_t* device) {
  const cuda::Array& a = *array->array;
  std::copy(a.shape().begin(), a.shape().end(), shape);
  *rank = int32_t(a.shape().size()), *integers = a.integers(),
  device[0] = a.device()->dlpack_type(), device[1] = a.device()->index();
  return UNIAUDIO_OK;
}
int32_t uniaudio_cuda_array_download(const uniaudio_array* array, void* to) {
  return guarded([&] {
    if (array->array->bytes() > 0)
      array->array->device()->download(to, array->array->data(), array->array->bytes());
  });
}
void* uniaudio_cuda_array_dlpack(const uniaudio_array* array, uint64_t stream) {
  void* managed = nullptr;
  guarded([&] {
    if (stream) array->array->device()->order(stream);
    managed = cuda::Array::share(array->array);
  });
  return managed;
}

int32_t uniaudio_cuda_bandwidth(int32_t device, int64_t megabytes, double* gb_per_s) {
  return guarded([&] {
    const auto d = shared_device(device);
    const size_t bytes = size_t(std::clamp<int64_t>(megabytes, 1, 16384)) << 20;
    const cuda::DeviceBuffer<char> a(d, bytes), b(d, bytes);
    d->zero(a.data(), bytes);
    *gb_per_s = 0;
    for (int i = 0; i < 8; ++i) {
      const double us = d->timed([&] { d->copy(b.data(), a.data(), 0, bytes, 1); });
      *gb_per_s = std::max(*gb_per_s, 2e-3 * double(bytes) / us);
    }
  });
}
int32_t uniaudio_cuda_rvq_time(const uniaudio_rvq* rvq, const float* z, int64_t rows,
                               int32_t stages, int32_t repeats, double* microseconds) {
  return guarded([&] { *microseconds = rvq->rvq->time_encode(z, rows, stages, repeats); });
}

}  // extern "C"
