// Group norm and ReLU of a picture encoder that is trained on a CPU, forwards and backwards, each in two passes over a
// picture, which stays in the cache between them.
//
// Tensors are (N, P, C): pictures of P places, channels last. `channels_last.py` calls this where the library is there.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "group_norm.hpp"

namespace {

// Places whose sums are kept apart from the total, so that a small value still counts beside a large sum.
constexpr int64_t RUN = 64;

struct Shape {
  int64_t places, channels, groups;
  int64_t of_group() const { return channels / groups; }
  float share() const { return 1.0f / static_cast<float>(places * of_group()); }
};

// For each channel the sums over the places of what `add(place, first, second)` adds to two rows of channels.
template <class Add>
void sums_over_places(const Shape &s, float *__restrict__ buffer, float *__restrict__ first, float *__restrict__ second,
                      Add add) {
  float *__restrict__ run_first = buffer, *__restrict__ run_second = buffer + s.channels;
  std::fill_n(first, s.channels, 0.0f);
  std::fill_n(second, s.channels, 0.0f);
  for (int64_t begin = 0; begin < s.places; begin += RUN) {
    std::fill_n(buffer, 2 * s.channels, 0.0f);
    for (int64_t p = begin; p < std::min(begin + RUN, s.places); ++p) add(p, run_first, run_second);
    for (int64_t c = 0; c < s.channels; ++c) {
      first[c] += run_first[c];
      second[c] += run_second[c];
    }
  }
}

}  // namespace

extern "C" {

// result = relu(norm(y)); mean and rstd (N, groups).
void dp_norm_relu_forward(const float *__restrict__ y, const float *__restrict__ gamma, const float *__restrict__ beta,
                          float eps, int64_t pictures, int64_t places, int64_t channels, int64_t groups,
                          float *__restrict__ result, float *__restrict__ mean, float *__restrict__ rstd) {
  const Shape s{places, channels, groups};
  std::vector<float> rows(6 * channels);
  float *const buffer = rows.data(), *__restrict__ sum = buffer + 2 * channels, *__restrict__ square = sum + channels;
  float *__restrict__ scale = square + channels, *__restrict__ shift = scale + channels;
  for (int64_t n = 0; n < pictures; ++n) {
    const float *__restrict__ seen = y + n * places * channels;
    float *__restrict__ out = result + n * places * channels;
    sums_over_places(s, buffer, sum, square, [=](int64_t p, float *__restrict__ first, float *__restrict__ second) {
      const float *__restrict__ row = seen + p * channels;
      for (int64_t c = 0; c < channels; ++c) {
        first[c] += row[c];
        second[c] += row[c] * row[c];
      }
    });
    for (int64_t g = 0; g < groups; ++g) {
      double first = 0.0, second = 0.0;
      for (int64_t c = g * s.of_group(); c < (g + 1) * s.of_group(); ++c) {
        first += sum[c];
        second += square[c];
      }
      const double m = first * s.share(), variance = std::max(second * s.share() - m * m, 0.0);
      const float r = 1.0f / __builtin_sqrtf(static_cast<float>(variance) + eps);
      mean[n * groups + g] = static_cast<float>(m);
      rstd[n * groups + g] = r;
      for (int64_t c = g * s.of_group(); c < (g + 1) * s.of_group(); ++c) {
        scale[c] = r * gamma[c];
        shift[c] = beta[c] - static_cast<float>(m) * scale[c];
      }
    }
    for (int64_t p = 0; p < places; ++p) {
      for (int64_t c = 0; c < channels; ++c) {
        const float z = seen[p * channels + c] * scale[c] + shift[c];
        out[p * channels + c] = z > 0.0f ? z : 0.0f;
      }
    }
  }
}

// Gradients of y, gamma and beta from that of the result.
void dp_norm_relu_backward(const float *__restrict__ d_result, const float *__restrict__ result,
                           const float *__restrict__ y, const float *__restrict__ mean, const float *__restrict__ rstd,
                           const float *__restrict__ gamma, int64_t pictures, int64_t places, int64_t channels,
                           int64_t groups, float *__restrict__ d_y, float *__restrict__ d_gamma,
                           float *__restrict__ d_beta) {
  const Shape s{places, channels, groups};
  std::vector<float> rows(7 * channels);
  float *const buffer = rows.data(), *__restrict__ of_beta = buffer + 2 * channels;
  float *__restrict__ of_gamma = of_beta + channels, *__restrict__ of_z = of_gamma + channels;
  float *__restrict__ of_y = of_z + channels, *__restrict__ constant = of_y + channels;
  std::fill_n(d_gamma, channels, 0.0f);
  std::fill_n(d_beta, channels, 0.0f);
  for (int64_t n = 0; n < pictures; ++n) {
    const int64_t at = n * places * channels;
    const float *__restrict__ gradient = d_result + at, *__restrict__ rectified = result + at;
    const float *__restrict__ seen = y + at;
    float *__restrict__ out = d_y + at;
    sums_over_places(s, buffer, of_beta, of_gamma,
                     [=](int64_t p, float *__restrict__ first, float *__restrict__ second) {
                       for (int64_t c = 0; c < channels; ++c) {
                         const int64_t i = p * channels + c;
                         const float d_z = rectified[i] > 0.0f ? gradient[i] : 0.0f;
                         out[i] = d_z;
                         first[c] += d_z;
                         second[c] += d_z * seen[i];
                       }
                     });
    dp_ros::group_norm_gradient({mean + n * groups, rstd + n * groups, gamma, of_beta, of_gamma, of_z, of_y, constant,
                                 d_beta, d_gamma},
                                groups, s.of_group(), s.share());
    for (int64_t p = 0; p < places; ++p) {
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t i = p * channels + c;
        out[i] = constant[c] + seen[i] * of_y[c] + out[i] * of_z[c];
      }
    }
  }
}
}
