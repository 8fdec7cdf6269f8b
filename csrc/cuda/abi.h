/* The C ABI of libuniaudio_cuda.so.  Handles are opaque; no exception crosses.  A call that fails says so by its result (a status
 * other than 0, or a null handle), and uniaudio_cuda_error() says why, in one line, until the next failure in the same thread.
 * Arrays are read during the call only.  Handles of models and codebooks may be used from several threads, those of sessions from one at a
 * time (cancel from any).  A change of any structure or meaning is a new UNIAUDIO_CUDA_ABI. */
#pragma once

#include <stdint.h>

#define UNIAUDIO_CUDA_ABI 1
#if defined(__GNUC__)
#define UNIAUDIO_CUDA_API __attribute__((visibility("default")))
#else
#define UNIAUDIO_CUDA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { UNIAUDIO_OK = 0, UNIAUDIO_BAD_ARGUMENT = 1, UNIAUDIO_FAILED = 2, UNIAUDIO_NO_DEVICE = 3 };

typedef struct uniaudio_lm uniaudio_lm;
typedef struct uniaudio_session uniaudio_session;
typedef struct uniaudio_rvq uniaudio_rvq;
typedef struct uniaudio_codec uniaudio_codec;
typedef struct uniaudio_encoder uniaudio_encoder;
typedef struct uniaudio_decoder uniaudio_decoder;
typedef struct uniaudio_array uniaudio_array; /* float32 or int32, on the device */

typedef struct {
  const char* name;
  int32_t type; /* 0 float32, 1 bfloat16, 2 int8, 3 int4: csrc/weights.h */
  int32_t rank;
  const int64_t* shape;
  const void* data;
} uniaudio_tensor;

typedef struct { /* outside embeddings in place of some frames' own */
  const char* name;
  const float* values;  /* [count, width] */
  const int32_t* index; /* [count] */
  int64_t count;
} uniaudio_continuous;

typedef struct { /* SamplingConfig of csrc/sampling.h */
  double temperature, top_p, repetition_penalty;
  int64_t top_k, repetition_window, end_id, min_frames;
  uint64_t seed;
  int32_t greedy, tie_slots, end_slots; /* end_slots: 0 first, 1 last, 2 any */
  int32_t slots;                        /* of allowed; 0: everything everywhere */
  const int32_t* range_count;           /* [slots] */
  const int32_t* ranges;                /* pairs begin, end */
} uniaudio_sampling;

typedef struct {
  uniaudio_session* session;
  const uniaudio_sampling* sampling;
  const int32_t* aligned; /* [count, S] or null */
  int32_t* out;           /* [count, K] */
  int64_t made;           /* set by the call */
} uniaudio_request;

typedef struct {
  int64_t blocks, most_columns, weight_bytes, device_free_bytes;
  double balance;
} uniaudio_lm_info;

typedef struct {
  int64_t frames, capacity, frame_offset;
  int32_t finished, guided;
} uniaudio_session_info;

typedef struct {
  char name[256];
  int64_t multiprocessors, shared_bytes, free_bytes;
} uniaudio_device_info;

UNIAUDIO_CUDA_API int32_t uniaudio_cuda_abi_version(void);
UNIAUDIO_CUDA_API const char* uniaudio_cuda_backend(
    void); /* "cuda", or "host": phases played by the CPU, for tests */
UNIAUDIO_CUDA_API const char* uniaudio_cuda_error(void);

UNIAUDIO_CUDA_API int32_t uniaudio_cuda_device_count(int32_t* count);
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_device(int32_t device, uniaudio_device_info* info);

UNIAUDIO_CUDA_API uniaudio_lm* uniaudio_cuda_lm_create(int32_t device, const char* config_json,
                                                       const uniaudio_tensor* tensors,
                                                       int64_t count, const char* dtype,
                                                       const char* kv_dtype);
UNIAUDIO_CUDA_API void uniaudio_cuda_lm_release(uniaudio_lm* lm);
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_lm_info(const uniaudio_lm* lm, int64_t head_rows,
                                                uniaudio_lm_info* info);
UNIAUDIO_CUDA_API int64_t uniaudio_cuda_lm_session_bytes(const uniaudio_lm* lm, int64_t max_frames);
/* So many streams (or positions of a prefill) and more are stepped by plain launches, up to 64 together, fewer by the kernel that stays (8 at most).
 * Either gives the same bits. */
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_lm_set_wide_from(uniaudio_lm* lm, int32_t streams);
/* out [count, K, V] */
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_lm_logits(const uniaudio_lm* lm, const int32_t* frames,
                                                  int64_t count, const int32_t* aligned,
                                                  float* out);

UNIAUDIO_CUDA_API uniaudio_session* uniaudio_cuda_session_create(const uniaudio_lm* lm,
                                                                 int64_t max_frames);
UNIAUDIO_CUDA_API void uniaudio_cuda_session_release(uniaudio_session* session);
UNIAUDIO_CUDA_API uniaudio_session* uniaudio_cuda_session_fork(const uniaudio_session* session);
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_session_info(const uniaudio_session* session,
                                                     uniaudio_session_info* info);
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_session_set_offset(uniaudio_session* session,
                                                           int64_t offset);
/* From here on ids are drawn from plain + scale (own - plain); a fork of `plain` goes along.  Another session of the same model. */
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_session_set_guidance(uniaudio_session* session,
                                                             const uniaudio_session* plain,
                                                             double scale);
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_session_reset(uniaudio_session* session);
/* Frames [first, first + count) of what a session knows: int32 [count, K]. */
UNIAUDIO_CUDA_API uniaudio_array* uniaudio_cuda_session_known(const uniaudio_session* session,
                                                              int64_t first, int64_t count);
UNIAUDIO_CUDA_API void uniaudio_cuda_session_cancel(uniaudio_session* session);
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_session_prefill(uniaudio_session* session,
                                                        const int32_t* frames, int64_t count,
                                                        const int32_t* aligned,
                                                        const uniaudio_continuous* continuous,
                                                        int64_t continuous_count);
/* Distinct sessions of one model, stepped together by up to `count` frames. */
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_generate(uniaudio_request* requests, int64_t request_count,
                                                 int64_t count);

/* codebooks [K, C, E] */
UNIAUDIO_CUDA_API uniaudio_rvq* uniaudio_cuda_rvq_create(int32_t device, const float* codebooks,
                                                         int32_t num_codebooks,
                                                         int32_t codebook_size, int32_t dim);
UNIAUDIO_CUDA_API void uniaudio_cuda_rvq_release(uniaudio_rvq* rvq);
/* z [rows, E] -> codes [rows, stages] and the residual [rows, E] (or null) */
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_rvq_encode(const uniaudio_rvq* rvq, const float* z,
                                                   int64_t rows, int32_t stages, int32_t* codes,
                                                   float* residual);
/* codes [rows, stages] -> z [rows, E], or [E, rows] where channel_major */
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_rvq_decode(const uniaudio_rvq* rvq, const int32_t* codes,
                                                   int64_t rows, int32_t stages,
                                                   int32_t channel_major, float* z);

/* A codec, or a tokenizer that ends at its codes; streams of it are used from one thread at a time. */
UNIAUDIO_CUDA_API uniaudio_codec* uniaudio_cuda_codec_create(int32_t device,
                                                             const char* config_json,
                                                             const uniaudio_tensor* tensors,
                                                             int64_t count);
UNIAUDIO_CUDA_API void uniaudio_cuda_codec_release(uniaudio_codec* codec);
/* num_codebooks 0: all. */
UNIAUDIO_CUDA_API uniaudio_encoder* uniaudio_cuda_encoder_create(const uniaudio_codec* codec,
                                                                 int32_t num_codebooks);
UNIAUDIO_CUDA_API void uniaudio_cuda_encoder_release(uniaudio_encoder* encoder);
UNIAUDIO_CUDA_API uniaudio_encoder* uniaudio_cuda_encoder_fork(const uniaudio_encoder* encoder);
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_encoder_reset(uniaudio_encoder* encoder);
/* samples [count] -> frames [made][K'] that are complete, with `flush` all; out has room for (count + look-ahead) / frame_size + 2 frames. */
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_encoder_push(uniaudio_encoder* encoder,
                                                     const float* samples, int64_t count,
                                                     int32_t flush, int32_t* out, int64_t* made);
UNIAUDIO_CUDA_API uniaudio_decoder* uniaudio_cuda_decoder_create(const uniaudio_codec* codec);
UNIAUDIO_CUDA_API void uniaudio_cuda_decoder_release(uniaudio_decoder* decoder);
UNIAUDIO_CUDA_API uniaudio_decoder* uniaudio_cuda_decoder_fork(const uniaudio_decoder* decoder);
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_decoder_reset(uniaudio_decoder* decoder);
/* codes [count, num_codebooks]; `flush` ends the clip after them.  out has room for count frames and a window of samples; *made of it are set. */
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_decoder_push(uniaudio_decoder* decoder,
                                                     const int32_t* codes, int64_t count,
                                                     int32_t num_codebooks, int32_t flush,
                                                     float* out, int64_t* made);
/* The same, but the samples stay on the device: float32 [n].  most: n at most. */
UNIAUDIO_CUDA_API uniaudio_array* uniaudio_cuda_decoder_push_array(uniaudio_decoder* decoder,
                                                                   const int32_t* codes,
                                                                   int64_t count,
                                                                   int32_t num_codebooks,
                                                                   int32_t flush, int64_t most);

UNIAUDIO_CUDA_API void uniaudio_cuda_array_release(uniaudio_array* array);
/* shape [4] takes `rank` sizes; device [2]: DLPack's device type and number. */
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_array_info(const uniaudio_array* array, int64_t* shape,
                                                   int32_t* rank, int32_t* integers,
                                                   int32_t* device);
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_array_download(const uniaudio_array* array, void* to);
/* A DLManagedTensor that keeps the memory alive until its deleter is called.  What comes to `stream` (a handle; 1 and 2: the legacy and the
 * per-thread default stream; 0: no order is asked for) waits until the values are there. */
UNIAUDIO_CUDA_API void* uniaudio_cuda_array_dlpack(const uniaudio_array* array, uint64_t stream);

/* For benchmarks.  Bytes read and written by copies within the device, GB/s, the best of some; microseconds of the encoding kernel, the median. */
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_bandwidth(int32_t device, int64_t megabytes,
                                                  double* gb_per_s);
UNIAUDIO_CUDA_API int32_t uniaudio_cuda_rvq_time(const uniaudio_rvq* rvq, const float* z,
                                                 int64_t rows, int32_t stages, int32_t repeats,
                                                 double* microseconds);

#ifdef __cplusplus
}
#endif
