// Group norm and mish of a U-Net that is trained on a CPU, forwards and backwards, each in two passes over its input.
//
// As operators of torch they take forty passes over tensors of 100 kB, and as much time as the convolutions between them.
// Tensors are (T, B, C), time first; a sample's group of channels is normalised over time. `time_major.py` calls this
// where the library is there and holds the same arithmetic in torch, which tests compare it with.

#include <cstdint>
#include <cstring>
#include <vector>

#include "group_norm.hpp"

namespace {

constexpr float MISH_IS_LINEAR = 20.0f;

// exp of values up to about 80: 2^n times a polynomial of the rest (coefficients of the Cephes library's expf).
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

struct Shape {
  int64_t steps, samples, channels, groups;
  int64_t of_group() const { return channels / groups; }
  int64_t row() const { return samples * channels; }  // from a step to the next
};

}  // namespace

extern "C" {

// result = mish(norm(y + bias)), slope = its derivative after z, the output of the norm. `y` gets the bias;
// mean and rstd (B, groups).
void dp_norm_mish_forward(float *__restrict__ y, const float *__restrict__ bias, const float *__restrict__ gamma,
                          const float *__restrict__ beta, float eps, int64_t steps, int64_t samples, int64_t channels,
                          int64_t groups, float *__restrict__ result, float *__restrict__ slope,
                          float *__restrict__ mean, float *__restrict__ rstd) {
  const Shape s{steps, samples, channels, groups};
  std::vector<float> buffer(4 * channels);
  float *__restrict__ sum = buffer.data(), *__restrict__ square = sum + channels;
  float *__restrict__ scale = square + channels, *__restrict__ shift = scale + channels;
  const float share = 1.0f / static_cast<float>(steps * s.of_group());
  for (int64_t b = 0; b < samples; ++b) {
    std::memset(sum, 0, 2 * channels * sizeof(float));
    for (int64_t t = 0; t < steps; ++t) {
      float *__restrict__ row = y + t * s.row() + b * channels;
      for (int64_t c = 0; c < channels; ++c) {
        const float value = row[c] + bias[c];
        row[c] = value;
        sum[c] += value;
        square[c] += value * value;
      }
    }
    for (int64_t g = 0; g < groups; ++g) {
      float first = 0.0f, second = 0.0f;
      for (int64_t c = g * s.of_group(); c < (g + 1) * s.of_group(); ++c) {
        first += sum[c];
        second += square[c];
      }
      const float m = first * share, variance = second * share - m * m;
      const float r = 1.0f / __builtin_sqrtf((variance < 0.0f ? 0.0f : variance) + eps);
      mean[b * groups + g] = m;
      rstd[b * groups + g] = r;
      for (int64_t c = g * s.of_group(); c < (g + 1) * s.of_group(); ++c) {
        scale[c] = r * gamma[c];
        shift[c] = beta[c] - m * scale[c];
      }
    }
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t at = t * s.row() + b * channels;
      const float *__restrict__ row = y + at;
      float *__restrict__ out = result + at, *__restrict__ derivative = slope + at;
      for (int64_t c = 0; c < channels; ++c) {
        // With e = exp z, u = 1 + e and n = e (e + 2) = u u - 1, mish is z n / (n + 2).
        const float z = row[c] * scale[c] + shift[c];
        const float e = exponential(z > MISH_IS_LINEAR ? MISH_IS_LINEAR : z);
        const float n = e * (e + 2.0f), inverse = 1.0f / (n + 2.0f);
        const float tanh = n * inverse;
        out[c] = z * tanh;
        derivative[c] = tanh + z * (4.0f * (1.0f + e) * e) * (inverse * inverse);
      }
    }
  }
}

// Gradients of y, bias, gamma and beta from that of the result.
void dp_norm_mish_backward(const float *__restrict__ d_result, const float *__restrict__ slope,
                           const float *__restrict__ y, const float *__restrict__ mean, const float *__restrict__ rstd,
                           const float *__restrict__ gamma, int64_t steps, int64_t samples, int64_t channels,
                           int64_t groups, float *__restrict__ d_y, float *__restrict__ d_bias,
                           float *__restrict__ d_gamma, float *__restrict__ d_beta) {
  const Shape s{steps, samples, channels, groups};
  std::vector<float> buffer(5 * channels);
  float *__restrict__ of_beta = buffer.data(), *__restrict__ of_gamma = of_beta + channels;
  float *__restrict__ of_z = of_gamma + channels, *__restrict__ of_y = of_z + channels;
  float *__restrict__ constant = of_y + channels;
  const float share = 1.0f / static_cast<float>(steps * s.of_group());
  for (float *sums : {d_bias, d_gamma, d_beta}) std::memset(sums, 0, channels * sizeof(float));
  for (int64_t b = 0; b < samples; ++b) {
    std::memset(of_beta, 0, 2 * channels * sizeof(float));
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t at = t * s.row() + b * channels;
      const float *__restrict__ gradient = d_result + at, *__restrict__ derivative = slope + at;
      const float *__restrict__ row = y + at;
      float *__restrict__ out = d_y + at;
      for (int64_t c = 0; c < channels; ++c) {
        const float d_z = gradient[c] * derivative[c];
        out[c] = d_z;
        of_beta[c] += d_z;
        of_gamma[c] += d_z * row[c];
      }
    }
    dp_ros::group_norm_gradient({mean + b * groups, rstd + b * groups, gamma, of_beta, of_gamma, of_z, of_y, constant,
                                 d_beta, d_gamma},
                                groups, s.of_group(), share);
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t at = t * s.row() + b * channels;
      const float *__restrict__ row = y + at;
      float *__restrict__ out = d_y + at;
      for (int64_t c = 0; c < channels; ++c) {
        const float value = constant[c] + row[c] * of_y[c] + out[c] * of_z[c];
        out[c] = value;
        d_bias[c] += value;
      }
    }
  }
}
}
