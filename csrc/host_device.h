// Functions that the CPU and a device's kernels share.
#pragma once

#if defined(__CUDACC__)
#define UA_HD __host__ __device__ __forceinline__
#else
#define UA_HD inline
#endif
