// Eight floats at a time, in the compiler's own vectors: AVX on x86, pairs of NEON registers on ARM.

#pragma once

#include <cstdint>

namespace {

typedef float Floats __attribute__((vector_size(32)));                   // 8 values
typedef float LooseFloats __attribute__((vector_size(32), aligned(4)));  // the same, anywhere in memory
typedef int32_t Ints __attribute__((vector_size(32)));

constexpr int LANES = 8;
constexpr int BLOCK = 2 * LANES;    // outputs that a kernel computes at a time
constexpr int CHUNK_BYTES = 16384;  // of weights that are kept in the first-level cache

inline Floats load(const float *from) { return *reinterpret_cast<const LooseFloats *>(from); }
inline void store(float *to, Floats value) { *reinterpret_cast<LooseFloats *>(to) = value; }
inline Floats all(float value) { return value - Floats{}; }

}  // namespace
