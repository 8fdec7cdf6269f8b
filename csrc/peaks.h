// How fast this machine reads memory and computes: the bounds that benchmarks are compared
// with. All functions throw std::invalid_argument unless 1 <= threads <= 256.
#pragma once

#include <cstdint>

#include "cpu/kernel_table.h"

namespace uniaudio {

// GB/s (1e9 bytes) of `threads` threads that stream over `megabytes` MiB; the best of several
// passes. std::invalid_argument unless 1 <= megabytes <= 16384.
double read_bandwidth(int threads, int megabytes);

// GFLOP/s (1e9) of float32 multiply-adds on registers of the current ISA, all `threads` threads
// together; the best of several passes of a few milliseconds.
double fma_peak(int threads);

// GOP/s (1e9; a multiplication and an addition are two) of multiply-adds of bytes on registers of
// the current ISA, likewise.
double byte_peak(int threads);

// Median seconds of y = x W^T for x [rows, in] and W [out, in], over at least `seconds` seconds.
// The products take turns over as many matrices as fill `megabytes` MiB: 0 keeps one matrix in the
// caches, several times the last-level cache streams it from memory. Quantization of x is
// included. std::invalid_argument unless 1 <= rows <= 4096, 1 <= in, out <= 65536, 0 <= megabytes
// <= 16384 and 0 < seconds <= 60.
double product_seconds(int threads, DType dtype, int64_t rows, int64_t in, int64_t out,
                       int megabytes, double seconds);

// Median seconds of the attention of one row to `positions` positions with `heads` heads of `dim`
// dimensions, over at least `seconds` seconds. Caches that fill `megabytes` MiB take turns, as
// above. std::invalid_argument unless 1 <= positions <= 65536, 1 <= heads <= 256, 1 <= dim <= 512,
// and as above.
double attention_seconds(int threads, KvDType dtype, int64_t positions, int64_t heads, int64_t dim,
                         int megabytes, double seconds);

}  // namespace uniaudio
