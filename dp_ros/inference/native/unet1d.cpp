// The denoising loop of a diffusion policy on a CPU: a 1-D U-Net as a list of convolutions, run for every noise level.
//
// `dp_ros/inference/native/engine.py` lays the network out as that list; this file knows no U-Net. A convolution takes
// rows (time) of channels and writes rows, and does to its result, while it is in the cache, all that comes before the
// next convolution: bias, group norm, mish, modulation (FiLM), what is added. Weights lie in blocks of 16 outputs,
//
//     weights[cout / 16][cin][tap][16]
//
// so that a block is read once, front to back, while 4 rows x 16 outputs stay in registers; chunks of a block that fit
// into the first-level cache serve all rows of all samples before the next chunk is read. Every view of rows has rows of
// zeros before and behind it where taps reach beyond the sequence.
//
// Narrow weights lie in blocks (cin / 2, tap, 16, 2) or (cin / 4, tap, 16, 4), so that two or four inputs meet their
// weights in one instruction:
//
//     BYTES_SHORTS   weights of 8 bits, inputs of 16 with one scale for each sample, which cost nothing that can be seen
//     BYTES_BYTES    weights of 8 bits, inputs of 8 (AVX-512 VNNI): their error is what there is to see
//     BFLOATS        both bfloat16 (AVX-512 BF16)
//
// Sums of whole numbers are kept in 32 bits for one chunk and in float from chunk to chunk.
//
// Threads share the outputs of a convolution, whole groups of the norm each, and wait for one another after it. What a
// number is does not depend on threads or on what else is in the batch. Written from the definition of the network in
// dp_ros/policies/unet1d.py (Chi et al., 2023, arXiv 2303.04137), which tests hold it against.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <type_traits>
#include <vector>

#include "team.hpp"
#include "vectors.hpp"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int PAIRS = 32;             // of inputs, after which sums of 8-bit products go to float before they overflow
constexpr int COEFFICIENTS = 11;      // of a denoising step, `DenoisingStep` without its level
constexpr float MISH_IS_LINEAR = 20.0f;

// exp of values up to about 80: 2^n times a polynomial of the rest (coefficients of the Cephes library's expf).
inline Floats exponential(Floats x) {
  x = x < all(-87.0f) ? all(-87.0f) : x;
  const Floats shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const Floats n = shifted - 12582912.0f;
  const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  return p * (Floats)power;  // the same bits
}

// z tanh(log(1 + exp z)); with e = exp z, the tanh is e (e + 2) / (e (e + 2) + 2).
inline Floats mish(Floats z) {
  const Floats capped = z > all(MISH_IS_LINEAR) ? all(MISH_IS_LINEAR) : z;
  const Floats e = exponential(capped);
  const Floats q = e * (e + 2.0f);
  return z * (q / (q + 2.0f));
}

}  // namespace

extern "C" {

// One convolution. Offsets count floats: views in the samples' memory, parameters in that of the network; -1: none.
struct DpConvolution {
  int64_t input, input_stride;    // first row, which may be the first of the zeros; floats from row to row
  int64_t output, output_stride;
  int64_t weights, bias;
  int64_t gamma, beta;            // of the group norm
  int64_t film;                   // in a condition: cout scales, then cout shifts
  int64_t added, added_stride;    // rows to add, or to add a pointwise convolution of
  int64_t added_weights, added_bias;
  int32_t cin, cout, taps, step;  // step: input rows from output row to output row
  int32_t rows;                   // written
  int32_t groups;                 // of the group norm; 0: neither norm nor mish
  int32_t added_cin;
  int32_t borders;                // whether taps reach beyond the sequence, taps / 2 rows on each side
  int32_t joins;                  // whether the next one may begin before this one is finished
  int64_t scales, added_scales;   // of 8-bit weights, one for each output; of BYTES_BYTES then its weights' sum
  int32_t kind, added_kind;       // of weights; those that are not FLOATS count bytes
};

enum DpKind { FLOATS, BYTES_SHORTS, BYTES_BYTES, BFLOATS };

}

namespace {

// Adds the products of `n` inputs to ROWS x 16 sums. FIRST and LAST: these rows begin or end the sequence, and taps that
// fall on the zeros around it are left out.
template <int TAPS, int STEP, int ROWS, bool FIRST, bool LAST>
inline void multiply(const float *x, int64_t stride, const float *w, int n, float *sums, int64_t sums_stride) {
  constexpr int SEEN = (ROWS - 1) * STEP + TAPS, HALF = TAPS / 2;
  const float *row[SEEN];
  for (int r = 0; r < SEEN; ++r) row[r] = x + r * stride;
  Floats sum[ROWS][2];
#pragma GCC unroll 4
  for (int t = 0; t < ROWS; ++t) {
    sum[t][0] = load(sums + t * sums_stride);
    sum[t][1] = load(sums + t * sums_stride + LANES);
  }
  for (int c = 0; c < n; ++c, w += TAPS * BLOCK) {
#pragma GCC unroll 8
    for (int k = 0; k < TAPS; ++k) {
      const Floats w0 = load(w + k * BLOCK), w1 = load(w + k * BLOCK + LANES);
#pragma GCC unroll 4
      for (int t = 0; t < ROWS; ++t) {
        if ((FIRST && t + k < HALF) || (LAST && t + k >= ROWS + HALF)) continue;
        const Floats value = all(row[t * STEP + k][c]);
        sum[t][0] += w0 * value;
        sum[t][1] += w1 * value;
      }
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < ROWS; ++t) {
    store(sums + t * sums_stride, sum[t][0]);
    store(sums + t * sums_stride + LANES, sum[t][1]);
  }
}

template <int TAPS, int STEP, int ROWS>
inline void multiply_at(bool first, bool last, const float *x, int64_t stride, const float *w, int n, float *sums,
                        int64_t sums_stride) {
  if constexpr (TAPS > 1 && STEP == 1) {
    if (first && last) return multiply<TAPS, STEP, ROWS, true, true>(x, stride, w, n, sums, sums_stride);
    if (first) return multiply<TAPS, STEP, ROWS, true, false>(x, stride, w, n, sums, sums_stride);
    if (last) return multiply<TAPS, STEP, ROWS, false, true>(x, stride, w, n, sums, sums_stride);
  }
  multiply<TAPS, STEP, ROWS, false, false>(x, stride, w, n, sums, sums_stride);
}

struct Span {  // rows of one view for all samples
  const float *first;
  int64_t stride, sample;
};

// Adds a convolution of all rows of all samples to `sums` (samples, rows, sums_stride), for one block of outputs.
template <int TAPS, int STEP>
void convolve(Span x, const float *w, int cin, int rows, int samples, bool borders, float *sums, int64_t sums_stride) {
  const int chunk = std::max(CHUNK_BYTES / int(TAPS * BLOCK * sizeof(float)), 1);
  for (int c = 0; c < cin; c += chunk) {
    const int n = std::min(chunk, cin - c);
    const float *weights = w + int64_t(c) * TAPS * BLOCK;
    for (int b = 0; b < samples; ++b) {
      for (int t = 0; t < rows;) {
        const float *at = x.first + b * x.sample + int64_t(t) * STEP * x.stride + c;
        float *to = sums + (int64_t(b) * rows + t) * sums_stride;
        // A last group of fewer than taps / 2 rows would not hold all taps that reach beyond the end.
        const int left = rows - t, size = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        const bool skip = borders && rows % 4 == 0;
        const bool first = skip && t == 0, last = skip && left == size;
        if (size == 4) multiply_at<TAPS, STEP, 4>(first, last, at, x.stride, weights, n, to, sums_stride);
        else if (size == 2) multiply_at<TAPS, STEP, 2>(false, false, at, x.stride, weights, n, to, sums_stride);
        else multiply_at<TAPS, STEP, 1>(false, false, at, x.stride, weights, n, to, sums_stride);
        t += size;
      }
    }
  }
}

template <int N>
using Constant = std::integral_constant<int, N>;

// Calls `f` with taps and step as constants; steps of 2 are taken by convolutions with 3 taps only.
template <class F>
void with_constants(int taps, int step, F f) {
  if (step == 2) f(Constant<3>{}, Constant<2>{});
  else if (taps == 1) f(Constant<1>{}, Constant<1>{});
  else if (taps == 2) f(Constant<2>{}, Constant<1>{});
  else if (taps == 3) f(Constant<3>{}, Constant<1>{});
  else if (taps == 5) f(Constant<5>{}, Constant<1>{});
  else f(Constant<7>{}, Constant<1>{});
}

#if defined(__AVX2__)

// `multiply` for weights of 8 bits and inputs of 16: pairs of both, `n` of them.
template <int TAPS, int STEP, int ROWS>
inline void multiply8(const int16_t *x, int64_t stride, const int8_t *w, int n, const float *scales, float input_scale,
                      float *sums, int64_t sums_stride) {
  constexpr int SEEN = (ROWS - 1) * STEP + TAPS;
  const int16_t *row[SEEN];
  for (int r = 0; r < SEEN; ++r) row[r] = x + r * stride;
  __m256i sum[ROWS][2];
#pragma GCC unroll 4
  for (int t = 0; t < ROWS; ++t) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
  for (int c = 0; c < 2 * n; c += 2, w += TAPS * 2 * BLOCK) {
#pragma GCC unroll 8
    for (int k = 0; k < TAPS; ++k) {
      const auto *at = reinterpret_cast<const __m128i *>(w + k * 2 * BLOCK);
      const __m256i w0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(at)), w1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(at + 1));
#pragma GCC unroll 4
      for (int t = 0; t < ROWS; ++t) {
        int32_t pair;
        std::memcpy(&pair, row[t * STEP + k] + c, sizeof pair);
        const __m256i value = _mm256_set1_epi32(pair);
        sum[t][0] = _mm256_add_epi32(sum[t][0], _mm256_madd_epi16(w0, value));
        sum[t][1] = _mm256_add_epi32(sum[t][1], _mm256_madd_epi16(w1, value));
      }
    }
  }
  const Floats s0 = load(scales) * input_scale, s1 = load(scales + LANES) * input_scale;
#pragma GCC unroll 4
  for (int t = 0; t < ROWS; ++t) {
    float *to = sums + t * sums_stride;
    store(to, load(to) + (Floats)_mm256_cvtepi32_ps(sum[t][0]) * s0);
    store(to + LANES, load(to + LANES) + (Floats)_mm256_cvtepi32_ps(sum[t][1]) * s1);
  }
}

struct Span16 {  // rows of rounded inputs, and a scale for each sample
  const int16_t *first;
  int64_t stride, sample;
  const float *scales;
};

template <int TAPS, int STEP>
void convolve8(Span16 x, const int8_t *w, int cin, int rows, int samples, const float *scales, float *sums,
               int64_t sums_stride) {
  const int pairs = (cin + 1) / 2;
  for (int p = 0; p < pairs; p += PAIRS) {
    const int n = std::min(PAIRS, pairs - p);
    const int8_t *weights = w + int64_t(p) * TAPS * 2 * BLOCK;
    for (int b = 0; b < samples; ++b) {
      for (int t = 0; t < rows;) {
        const int16_t *at = x.first + b * x.sample + int64_t(t) * STEP * x.stride + 2 * p;
        float *to = sums + (int64_t(b) * rows + t) * sums_stride;
        const int left = rows - t;
        if (left >= 4) multiply8<TAPS, STEP, 4>(at, x.stride, weights, n, scales, x.scales[b], to, sums_stride), t += 4;
        else if (left >= 2) multiply8<TAPS, STEP, 2>(at, x.stride, weights, n, scales, x.scales[b], to, sums_stride), t += 2;
        else multiply8<TAPS, STEP, 1>(at, x.stride, weights, n, scales, x.scales[b], to, sums_stride), t += 1;
      }
    }
  }
}

float largest_of(const float *first, int64_t stride, int cin, int rows) {
  float largest = 1e-20f;
  for (int t = 0; t < rows; ++t)
    for (int c = 0; c < cin; ++c) largest = std::max(largest, std::fabs(first[t * stride + c]));
  return largest;
}

// `rows` rows of `cin` floats of all samples as 16-bit numbers, rows padded to an even length, and their scales.
Span16 rounded(Span x, int cin, int rows, int samples, std::vector<int16_t> &values, std::vector<float> &scales) {
  const int64_t stride = (cin + 1) / 2 * 2;
  values.assign(samples * rows * stride, 0);
  scales.resize(samples);
  for (int b = 0; b < samples; ++b) {
    const float largest = largest_of(x.first + b * x.sample, x.stride, cin, rows), by = 32767.0f / largest;
    scales[b] = largest / 32767.0f;
    for (int t = 0; t < rows; ++t) {
      const float *from = x.first + b * x.sample + t * x.stride;
      int16_t *to = values.data() + (int64_t(b) * rows + t) * stride;
      // Rounds to the nearest: 1.5 * 2^23 leaves no bits for what is behind the point.
      for (int c = 0; c < cin; ++c) to[c] = int16_t(int32_t((from[c] * by + 12582912.0f) - 12582912.0f));
    }
  }
  return {values.data(), stride, rows * stride, scales.data()};
}

#if defined(__x86_64__)
#define DP_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")))

// Four bytes of inputs, for every output.
DP_AVX512 inline __m512i broadcast(const void *from) {
  int32_t four;
  std::memcpy(&four, from, sizeof four);
  return _mm512_set1_epi32(four);
}

// Bytes of weights that meet four bytes of inputs, for each output.
constexpr int weights_of(int kind) { return kind == BYTES_SHORTS ? 2 : 4; }

// `multiply` for 16 outputs in one register: KIND says of what width the numbers are. Two sums for each row, so that one
// addition need not wait for the last.
template <int KIND, int TAPS, int STEP, int ROWS>
DP_AVX512 inline void multiply_wide(const int8_t *x, int64_t stride, const int8_t *w, int n, const float *scales,
                                    float input_scale, float *sums, int64_t sums_stride) {
  constexpr int SEEN = (ROWS - 1) * STEP + TAPS;
  const int8_t *row[SEEN];
  for (int r = 0; r < SEEN; ++r) row[r] = x + r * stride;
  __m512i sum[ROWS][2];
#pragma GCC unroll 8
  for (int t = 0; t < ROWS; ++t) sum[t][0] = sum[t][1] = _mm512_setzero_si512();
  for (int c = 0; c < n; ++c, w += TAPS * weights_of(KIND) * BLOCK) {
#pragma GCC unroll 8
    for (int k = 0; k < TAPS; ++k) {
      const int8_t *at = w + k * weights_of(KIND) * BLOCK;
      __m512i weights;
      if constexpr (KIND == BYTES_SHORTS)
        weights = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(at)));
      else
        weights = _mm512_loadu_si512(at);
#pragma GCC unroll 8
      for (int t = 0; t < ROWS; ++t) {
        const __m512i value = broadcast(row[t * STEP + k] + 4 * c);
        __m512i &to = sum[t][k & 1];
        if constexpr (KIND == BFLOATS)
          to = (__m512i)_mm512_dpbf16_ps((__m512)to, (__m512bh)value, (__m512bh)weights);
        else if constexpr (KIND == BYTES_SHORTS)
          to = _mm512_dpwssd_epi32(to, value, weights);
        else
          to = _mm512_dpbusd_epi32(to, value, weights);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < ROWS; ++t) {
    float *to = sums + t * sums_stride;
    __m512 found;
    if constexpr (KIND == BFLOATS) {
      found = _mm512_add_ps((__m512)sum[t][0], (__m512)sum[t][1]);
    } else {
      found = _mm512_maskz_cvtepi32_ps(0xffff, _mm512_add_epi32(sum[t][0], sum[t][1]));
      found = _mm512_mul_ps(found, _mm512_mul_ps(_mm512_loadu_ps(scales), _mm512_set1_ps(input_scale)));
    }
    _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), found));
  }
}

bool wide = true;  // whether convolve_wide may be used where convolve8 would do, too

// Whether the processor has what `convolve_wide` computes with, but for bfloat16.
bool has_vnni() {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  return has;
}

struct Narrow {  // rows of inputs as 4 bytes for two or four of them, and a scale for each sample
  const int8_t *first;
  int64_t stride, sample;
  const float *scales;
};

// `convolve` for narrow weights; `fours` of four bytes are the inputs of a row.
template <int KIND, int TAPS, int STEP>
DP_AVX512 void convolve_wide(Narrow x, const int8_t *w, int fours, int rows, int samples, const float *scales,
                             const float *shifts, float *sums, int64_t sums_stride) {
  const int chunk = KIND == BYTES_SHORTS ? PAIRS : std::max(CHUNK_BYTES / (TAPS * 4 * BLOCK), 1);
  for (int c = 0; c < fours; c += chunk) {
    const int n = std::min(chunk, fours - c);
    const int8_t *weights = w + int64_t(c) * TAPS * weights_of(KIND) * BLOCK;
    for (int b = 0; b < samples; ++b) {
      for (int t = 0; t < rows;) {
        const int8_t *at = x.first + b * x.sample + int64_t(t) * STEP * x.stride + 4 * c;
        float *to = sums + (int64_t(b) * rows + t) * sums_stride;
        const int left = rows - t;
        const float scale = KIND == BFLOATS ? 1.0f : x.scales[b];
        if (left >= 8) multiply_wide<KIND, TAPS, STEP, 8>(at, x.stride, weights, n, scales, scale, to, sums_stride), t += 8;
        else if (left >= 4) multiply_wide<KIND, TAPS, STEP, 4>(at, x.stride, weights, n, scales, scale, to, sums_stride), t += 4;
        else if (left >= 2) multiply_wide<KIND, TAPS, STEP, 2>(at, x.stride, weights, n, scales, scale, to, sums_stride), t += 2;
        else multiply_wide<KIND, TAPS, STEP, 1>(at, x.stride, weights, n, scales, scale, to, sums_stride), t += 1;
      }
    }
  }
  if (KIND != BYTES_BYTES) return;
  // The instruction takes inputs without a sign: they are 128 too large, which adds 128 times the weights' sum.
  for (int b = 0; b < samples; ++b) {
    const __m512 excess = _mm512_mul_ps(_mm512_loadu_ps(shifts), _mm512_set1_ps(128.0f * x.scales[b]));
    for (int t = 0; t < rows; ++t) {
      float *to = sums + (int64_t(b) * rows + t) * sums_stride;
      _mm512_storeu_ps(to, _mm512_sub_ps(_mm512_loadu_ps(to), excess));
    }
  }
}
#endif  // __x86_64__

// `rows` rows of `cin` floats of all samples as bytes without a sign, 128 for zero, or as bfloat16.
Narrow narrowed(Span x, int kind, int cin, int rows, int samples, std::vector<int16_t> &values, std::vector<float> &scales) {
  const int at_once = kind == BFLOATS ? 2 : 4;
  const int64_t stride = int64_t(cin + at_once - 1) / at_once * 4;
  values.assign(samples * rows * stride / 2, 0);
  scales.resize(samples);
  int8_t *bytes = reinterpret_cast<int8_t *>(values.data());
  for (int b = 0; b < samples; ++b) {
    const float *from = x.first + b * x.sample;
    const float largest = kind == BFLOATS ? 127.0f : largest_of(from, x.stride, cin, rows), by = 127.0f / largest;
    scales[b] = largest / 127.0f;
    for (int t = 0; t < rows; ++t, from += x.stride) {
      int8_t *to = bytes + (int64_t(b) * rows + t) * stride;
      if (kind == BFLOATS) {
        uint16_t *halves = reinterpret_cast<uint16_t *>(to);
        for (int c = 0; c < cin; ++c) {
          uint32_t bits;
          std::memcpy(&bits, from + c, sizeof bits);
          halves[c] = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to the nearest, ties to even
        }
      } else {
        for (int c = 0; c < cin; ++c) to[c] = int8_t(int32_t((from[c] * by + 12582912.0f) - 12582912.0f) + 128);
      }
    }
  }
  return {bytes, stride, rows * stride, scales.data()};
}

#endif  // __AVX2__

int padded(int channels) { return (channels + BLOCK - 1) / BLOCK * BLOCK; }

// Outputs that one thread takes at a time: whole blocks, and whole groups of the norm.
int unit_of(const DpConvolution &op) {
  const int all_outputs = padded(op.cout);
  if (!op.groups) return BLOCK;
  const int group = op.cout / op.groups;
  if (group % BLOCK == 0) return group;
  if (BLOCK % group == 0 && op.cout % BLOCK == 0) return BLOCK;
  return all_outputs;
}

struct Sample {  // what a call draws; arrays have the samples in front
  int samples, steps;
  const float *noise;         // (samples, rows, dim), already scaled by the temperature
  const float *fresh;         // (steps, samples, rows, dim), null for DDIM
  const float *films;         // (samples, film) of the observation
  const float *step_films;    // (steps, film)
  const float *coefficients;  // (steps, COEFFICIENTS)
  const float *planned;       // (samples, rows, dim), normalised; null: no prefix
  const float *gains;         // (steps, samples, rows)
  const float *known;         // (samples, rows) 0 or 1
  float *actions;             // (samples, rows, dim), normalised
};

class Network {
 public:
  Network(const DpConvolution *ops, int n_ops, const float *parameters, int64_t n_parameters, const int8_t *bytes,
          int64_t n_bytes, int64_t sample_floats,
          int film, int rows, int dim, int mask, int64_t input, int64_t input_stride, int64_t output,
          int64_t output_stride, int clip, int multistep, int threads, int spin)
      : ops_(ops, ops + n_ops), parameters_(parameters, n_parameters), bytes_(bytes, n_bytes),
        sample_floats_(sample_floats), film_(film), rows_(rows), dim_(dim), mask_(mask), input_(input), input_stride_(input_stride), output_(output),
        output_stride_(output_stride), clip_(clip), multistep_(multistep), threads_(threads), scratch_(threads), team_(threads, spin, [this](int thread) { run(thread); }) {}

  void draw(const Sample &sample) {
    std::lock_guard<std::mutex> one_call_at_a_time(calls_);
    if (memory_.size() < size_t(sample.samples * sample_floats_)) {
      memory_.assign(sample.samples * sample_floats_, 0.0f);
      condition_.resize(int64_t(sample.samples) * film_);
      last_clean_.resize(int64_t(sample.samples) * rows_ * dim_);
    }
    sample_ = sample;
    team_.run();
  }

 private:
  struct Scratch {  // of a thread
    std::vector<float> floats, scales, added_input_scales;
    std::vector<int16_t> values, added_values;
#if defined(__AVX2__)
    Span16 input{}, added{};
    Narrow narrow_input{}, narrow_added{};
#endif
  };

  void run(int thread) {
    const Sample &s = sample_;
    for (int k = 0; k < s.steps; ++k) {
      if (thread == 0) begin_step(s, k);
      team_.wait_for_one_another();
      for (const DpConvolution &op : ops_) {
        convolution(op, s, thread);
        if (!op.joins) team_.wait_for_one_another();
      }
      if (thread == 0) end_step(s, k);
    }
  }

  // The actions so far, and which of them are known, as the network's input; the condition of this step.
  void begin_step(const Sample &s, int k) {
    for (int b = 0; b < s.samples; ++b) {
      const int64_t first = int64_t(b) * rows_;
      for (int t = 0; t < rows_; ++t) {
        const float *from = (k ? s.actions : s.noise) + (first + t) * dim_;
        float *now = s.actions + (first + t) * dim_, *in = &memory_[b * sample_floats_ + input_ + t * input_stride_];
        const bool given = mask_ && s.known && s.known[first + t] > 0.5f;
        if (given) from = s.planned + (first + t) * dim_;
        for (int d = 0; d < dim_; ++d) in[d] = now[d] = from[d];
        if (mask_) in[dim_] = given ? 1.0f : 0.0f;
      }
      for (int f = 0; f < film_; ++f)
        condition_[int64_t(b) * film_ + f] = s.films[int64_t(b) * film_ + f] + s.step_films[int64_t(k) * film_ + f];
    }
  }

  // The network's prediction leads to less noisy actions, see `DenoisingStep`.
  void end_step(const Sample &s, int k) {
    const float *c = s.coefficients + k * COEFFICIENTS;
    const float clean_x = c[0], clean_p = c[1], noise_x = c[2], noise_p = c[3], next_clean = c[4], next_noise = c[5];
    const float towards = c[6], keep = c[7], fresh = c[8], momentum = c[10];
    for (int b = 0; b < s.samples; ++b) {
      for (int t = 0; t < rows_; ++t) {
        const int64_t at = int64_t(b) * rows_ + t;
        const float *p = &memory_[b * sample_floats_ + output_ + t * output_stride_];
        const float gain = s.planned ? s.gains[int64_t(k) * s.samples * rows_ + at] : 0.0f;
        for (int d = 0; d < dim_; ++d) {
          const float x = s.actions[at * dim_ + d];
          float clean = x * clean_x + p[d] * clean_p;
          if (clip_) clean = std::min(std::max(clean, -1.0f), 1.0f);
          float next = s.fresh || multistep_ ? clean * towards + x * keep
                                             : clean * next_clean + (x * noise_x + p[d] * noise_p) * next_noise;
          if (multistep_) {
            float &last = last_clean_[at * dim_ + d];
            if (momentum != 0.0f) next += (clean - last) * momentum;
            last = clean;
          }
          if (gain != 0.0f) next = next * (1.0f - gain) + (s.planned[at * dim_ + d] * towards + x * keep) * gain;
          if (s.fresh) next += s.fresh[(int64_t(k) * s.samples * rows_ + at) * dim_ + d] * fresh;
          s.actions[at * dim_ + d] = next;
        }
      }
    }
  }

  void convolution(const DpConvolution &op, const Sample &s, int thread) {
    const int unit = unit_of(op), outputs = padded(op.cout);
#if defined(__AVX2__)
    Scratch &own = scratch_[thread];
    if (unit * thread < outputs) {
      const int rows = (op.rows - 1) * op.step + op.taps;
      const Span x = span(op.input, op.input_stride), beside = span(op.added, op.added_stride);
      if (op.kind == BYTES_SHORTS) own.input = rounded(x, op.cin, rows, s.samples, own.values, own.scales);
      else if (op.kind != FLOATS)
        own.narrow_input = narrowed(x, op.kind, op.cin, rows, s.samples, own.values, own.scales);
      if (op.added_weights >= 0 && op.added_kind == BYTES_SHORTS)
        own.added = rounded(beside, op.added_cin, op.rows, s.samples, own.added_values, own.added_input_scales);
      else if (op.added_weights >= 0 && op.added_kind != FLOATS)
        own.narrow_added =
            narrowed(beside, op.added_kind, op.added_cin, op.rows, s.samples, own.added_values, own.added_input_scales);
    }
#endif
    for (int at = unit * thread; at < outputs; at += unit * threads_) one_unit(op, s, at, unit, scratch_[thread]);
  }

  Span span(int64_t offset, int64_t stride) const { return {memory_.data() + offset, stride, sample_floats_}; }

  void one_unit(const DpConvolution &op, const Sample &s, int at, int unit, Scratch &own) {
    const int64_t values = int64_t(s.samples) * op.rows * unit;
    own.floats.resize(2 * values + 4 * unit);
    float *sums = own.floats.data(), *added = sums + values, *scale = added + values, *shift = scale + unit;
    float *mean = shift + unit, *square = mean + unit;
    const float *bias = &parameters_[op.bias] + at;
    for (int64_t i = 0; i < values; i += unit) std::copy(bias, bias + unit, sums + i);
    const Span x = span(op.input, op.input_stride);
    for (int block = 0; block < unit; block += BLOCK) {
#if defined(__AVX2__)
      if (op.kind != FLOATS) {
        with_constants(op.taps, op.step, [&](auto taps, auto step) {
          narrow<taps, step>(op.kind, own.input, own.narrow_input, op.weights, op.cin, op.rows, s.samples, op.scales,
                             padded(op.cout), at + block, sums + block, unit);
        });
        continue;
      }
#endif
      const float *w = &parameters_[op.weights] + int64_t(at + block) * op.cin * op.taps;
      with_constants(op.taps, op.step, [&](auto taps, auto step) {
        convolve<taps, step>(x, w, op.cin, op.rows, s.samples, op.borders, sums + block, unit);
      });
    }
    if (op.added_weights >= 0) {
      const float *added_bias = &parameters_[op.added_bias] + at;
      for (int64_t i = 0; i < values; i += unit) std::copy(added_bias, added_bias + unit, added + i);
      for (int block = 0; block < unit; block += BLOCK) {
#if defined(__AVX2__)
        if (op.added_kind != FLOATS) {
          narrow<1, 1>(op.added_kind, own.added, own.narrow_added, op.added_weights, op.added_cin, op.rows, s.samples,
                       op.added_scales, padded(op.cout), at + block, added + block, unit);
          continue;
        }
#endif
        const float *w = &parameters_[op.added_weights] + int64_t(at + block) * op.added_cin;
        convolve<1, 1>(span(op.added, op.added_stride), w, op.added_cin, op.rows, s.samples, false, added + block, unit);
      }
    }
    const int used = std::min(unit, op.cout - at);
    for (int b = 0; b < s.samples; ++b) {
      float *rows = sums + int64_t(b) * op.rows * unit;
      if (op.groups) norm(op, rows, at, unit, used, scale, shift, mean, square);
      const float *film = op.film < 0 ? nullptr : &condition_[int64_t(b) * film_ + op.film] + at;
      const float *other = nullptr;
      int64_t other_stride = 0;
      if (op.added_weights >= 0) other = added + int64_t(b) * op.rows * unit, other_stride = unit;
      else if (op.added >= 0) other = &memory_[b * sample_floats_ + op.added] + at, other_stride = op.added_stride;
      for (int t = 0; t < op.rows; ++t) {
        float *row = rows + int64_t(t) * unit, *out = &memory_[b * sample_floats_ + op.output + t * op.output_stride] + at;
        int c = 0;
        for (; c + LANES <= used; c += LANES) {
          Floats value = load(row + c);
          if (op.groups) value = mish(value * load(scale + c) + load(shift + c));
          if (film) value = value * load(film + c) + load(film + op.cout + c);
          if (other) value += load(other + t * other_stride + c);
          store(out + c, value);
        }
        if (c == used) continue;
        Floats value = load(row + c);
        if (op.groups) value = mish(value * load(scale + c) + load(shift + c));
        for (int i = 0; c + i < used; ++i) {
          float one = value[i];
          if (film) one = one * film[c + i] + film[op.cout + c + i];
          if (other) one += other[t * other_stride + c + i];
          out[c + i] = one;
        }
      }
    }
  }

#if defined(__AVX2__)
  // Adds a convolution with narrow weights to `sums`, for the block of outputs that begins with `first`.
  template <int TAPS, int STEP>
  void narrow(int kind, const Span16 &shorts, const Narrow &others, int64_t weights, int cin, int rows, int samples,
              int64_t scales, int outputs, int first, float *sums, int64_t sums_stride) const {
    if (kind == BYTES_SHORTS) {
      const int8_t *w = &bytes_[weights] + int64_t(first) * ((cin + 1) / 2 * 2) * TAPS;
      const float *factors = &parameters_[scales] + first;
#if defined(__x86_64__)
      if (wide && has_vnni()) {
        const Narrow wide{reinterpret_cast<const int8_t *>(shorts.first), 2 * shorts.stride, 2 * shorts.sample, shorts.scales};
        convolve_wide<BYTES_SHORTS, TAPS, STEP>(wide, w, (cin + 1) / 2, rows, samples, factors, nullptr, sums, sums_stride);
        return;
      }
#endif
      convolve8<TAPS, STEP>(shorts, w, cin, rows, samples, factors, sums, sums_stride);
      return;
    }
    const int fours = kind == BFLOATS ? (cin + 1) / 2 : (cin + 3) / 4;
    const int8_t *w = &bytes_[weights] + int64_t(first) * fours * 4 * TAPS;
    if (kind == BFLOATS) {
      convolve_wide<BFLOATS, TAPS, STEP>(others, w, fours, rows, samples, nullptr, nullptr, sums, sums_stride);
      return;
    }
    const float *factors = &parameters_[scales] + first;
    convolve_wide<BYTES_BYTES, TAPS, STEP>(others, w, fours, rows, samples, factors, factors + outputs, sums, sums_stride);
  }
#endif

  // Group norm as a scale and a shift for each output of a unit.
  void norm(const DpConvolution &op, const float *rows, int at, int unit, int used, float *scale, float *shift,
            float *mean, float *square) const {
    const int group = op.cout / op.groups;
    const float share = 1.0f / float(group * op.rows);
    std::fill(scale, scale + unit, 0.0f);
    std::fill(shift, shift + unit, 0.0f);
    sum_over_rows(rows, op.rows, unit, nullptr, mean);
    by_group(mean, used, group, share);
    std::fill(mean + used, mean + unit, 0.0f);
    sum_over_rows(rows, op.rows, unit, mean, square);
    by_group(square, used, group, share);
    const float *gamma = &parameters_[op.gamma] + at, *beta = &parameters_[op.beta] + at;
    for (int c = 0; c < used; ++c) {
      scale[c] = gamma[c] / std::sqrt(square[c] + 1e-5f);
      shift[c] = beta[c] - mean[c] * scale[c];
    }
  }

  static void sum_over_rows(const float *rows, int n, int unit, const float *mean, float *sums) {
    for (int c = 0; c < unit; c += LANES) {
      Floats sum{};
      for (int t = 0; t < n; ++t) {
        const Floats value = load(rows + int64_t(t) * unit + c);
        if (mean) {
          const Floats away = value - load(mean + c);
          sum += away * away;
        } else {
          sum += value;
        }
      }
      store(sums + c, sum);
    }
  }

  static void by_group(float *values, int used, int group, float share) {
    for (int first = 0; first < used; first += group) {
      float sum = 0.0f;
      for (int c = first; c < first + group; ++c) sum += values[c];
      std::fill(values + first, values + first + group, sum * share);
    }
  }

  const std::vector<DpConvolution> ops_;
  const Weights<float> parameters_;
  const Weights<int8_t> bytes_;
  const int64_t sample_floats_;
  const int film_, rows_, dim_, mask_;
  const int64_t input_, input_stride_, output_, output_stride_;
  const int clip_, multistep_, threads_;  // multistep: DPM-Solver++, else DDIM or, with fresh noise, DDPM
  std::vector<float> memory_, condition_, last_clean_;
  std::vector<Scratch> scratch_;
  std::mutex calls_;
  Sample sample_{};
  Team team_;  // last: its threads need the rest
};

}  // namespace

extern "C" {

void *dp_unet1d_create(const DpConvolution *ops, int n_ops, const float *parameters, int64_t n_parameters,
                       const int8_t *bytes, int64_t n_bytes, int64_t sample_floats, int film, int rows, int dim, int mask, int64_t input,
                       int64_t input_stride, int64_t output, int64_t output_stride, int clip, int multistep, int threads,
                       int spin) {
  try {
    return new Network(ops, n_ops, parameters, n_parameters, bytes, n_bytes, sample_floats, film, rows, dim, mask, input, input_stride,
                       output, output_stride, clip, multistep, threads, spin);
  } catch (...) {  // no memory, no thread: nothing may be thrown into Python
    return nullptr;
  }
}

// Of the functions and structures of this library; library.py has the same number and takes no other.
int dp_native_interface() { return 4; }

// Whether this processor can compute with weights of a kind.
int dp_unet1d_has(int kind) {
  if (kind == FLOATS) return 1;
#if defined(__AVX2__)
  if (kind == BYTES_SHORTS) return 1;
  if (kind == BYTES_BYTES) return has_vnni();
  if (kind == BFLOATS) return has_vnni() && __builtin_cpu_supports("avx512bf16");
#endif
  return 0;
}

// For tests: compute as on a processor without AVX-512 where that is possible, or as usual again.
void dp_unet1d_use_wide(int use) {
#if defined(__AVX2__)
  wide = use != 0;
#else
  (void)use;
#endif
}

void dp_unet1d_destroy(void *network) { delete static_cast<Network *>(network); }

// Returns 0, or 1 if there was no memory for it.
int dp_unet1d_draw(void *network, int samples, int steps, const float *noise, const float *fresh, const float *films,
                   const float *step_films, const float *coefficients, const float *planned, const float *gains,
                   const float *known, float *actions) {
  try {
    static_cast<Network *>(network)->draw(
        {samples, steps, noise, fresh, films, step_films, coefficients, planned, gains, known, actions});
    return 0;
  } catch (...) {
    return 1;
  }
}

}
