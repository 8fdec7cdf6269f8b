#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>
#if defined(UNIAUDIO_X86)
#include <cpuid.h>
#endif
#if defined(__unix__)
#include <unistd.h>
#endif
#if defined(UNIAUDIO_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "cpu/codec_kernels.h"
#include "cpu/kernel_table.h"

namespace uniaudio {
namespace {

#if defined(UNIAUDIO_X86)
// Leaf 7, subleaf 1, bit 4 of EAX; not all compilers' __builtin_cpu_supports know the name.
bool has_avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1 &&
         __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

// __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
bool has(Isa isa) {
#if defined(UNIAUDIO_X86)
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avxvnni) return has(Isa::avx2) && has_avxvnni();
  if (isa == Isa::avx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
  }
#elif defined(UNIAUDIO_ARM64) && defined(__linux__)
  if (isa == Isa::neon) return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;  // dot products
#elif defined(UNIAUDIO_ARM64)
  if (isa == Isa::neon) return true;  // every 64-bit Apple machine has them
#endif
  return isa == Isa::plain;
}

Isa choose() {
  const char* forced = std::getenv("UNIAUDIO_ISA");
  const std::vector<Isa> all = available_isas();
  if (!forced || !*forced) return all.front();
  std::string names;
  for (Isa isa : all) {
    if (std::string(forced) == isa_name(isa)) return isa;
    names += std::string(names.empty() ? "" : ", ") + isa_name(isa);
  }
  throw std::runtime_error("UNIAUDIO_ISA: expected one of " + names + " on this machine, got " +
                           forced + "; unset it to choose the best");
}

struct Tables {
  const Kernels* kernels;
  const CodecKernels* codec;
};

Tables pick() {
  switch (current_isa()) {  // throws on a bad UNIAUDIO_ISA
#if defined(UNIAUDIO_X86)
    case Isa::avx512: return {avx512_kernels(), avx512_codec_kernels()};
    case Isa::avxvnni: return {avxvnni_kernels(), avx2_codec_kernels()};
    case Isa::avx2: return {avx2_kernels(), avx2_codec_kernels()};
#elif defined(UNIAUDIO_ARM64)
    case Isa::neon: return {neon_kernels(), neon_codec_kernels()};
#endif
    default: return {plain_kernels(), plain_codec_kernels()};
  }
}

const Tables& tables() {
  static const Tables picked = pick();
  return picked;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2: return "avx2";
    case Isa::avxvnni: return "avxvnni";
    case Isa::avx512: return "avx512";
    case Isa::neon: return "neon";
    case Isa::plain: break;
  }
  return "plain";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> v;
  for (Isa isa : {Isa::avx512, Isa::avxvnni, Isa::avx2, Isa::neon, Isa::plain}) {
    if (has(isa)) v.push_back(isa);
  }
  return v;
}

Isa current_isa() {
  static const Isa isa = choose();
  return isa;
}

int64_t last_level_cache() {
#if defined(_SC_LEVEL3_CACHE_SIZE)
  const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return int64_t{16} << 20;
}

const Kernels& kernels() { return *tables().kernels; }
const CodecKernels& codec_kernels() { return *tables().codec; }

}  // namespace uniaudio
