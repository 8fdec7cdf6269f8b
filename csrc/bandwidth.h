// What this machine can read from memory now: the bound that benchmarks are held against.
#pragma once

namespace uniaudio {

// GB/s (1e9 bytes) of `threads` threads that stream over `megabytes` MiB; the best of several passes.  std::invalid_argument unless
// 1 <= threads <= 256 and 1 <= megabytes <= 16384.
double read_bandwidth(int threads, int megabytes);

}  // namespace uniaudio
