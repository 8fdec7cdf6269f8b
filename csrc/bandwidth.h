// What this machine can read from memory and compute now: the bounds that benchmarks are held
// against.
#pragma once

namespace uniaudio {

// GB/s (1e9 bytes) of `threads` threads that stream over `megabytes` MiB; the best of several
// passes. std::invalid_argument unless 1 <= threads <= 256 and 1 <= megabytes <= 16384.
double read_bandwidth(int threads, int megabytes);

// GFLOP/s (1e9) of float32 multiply-adds on registers of the ISA in force, all `threads` threads
// together; the best of several passes of a few milliseconds. std::invalid_argument unless 1 <=
// threads <= 256.
double fma_peak(int threads);

}  // namespace uniaudio
