// What the gradient of a group norm comes to once a sample's sums are known; `norm_mish.cpp` and `norm_relu.cpp` share it.

#pragma once

#include <cstdint>

namespace dp_ros {

// With h the normalised y and d the gradient of h, that of y is rstd (d - mean(d) - h mean(d h)), means over a group: for
// each channel d_y = constant + of_y y + of_z d_z.
struct GroupNormGradient {
  const float *mean, *rstd, *gamma;      // of one sample: (groups), (groups), (channels)
  float *of_beta, *of_gamma;             // (channels): sums of d_z and d_z y; the second becomes the gradient of gamma
  float *of_z, *of_y, *constant;         // (channels), made
  float *d_beta, *d_gamma;               // (channels), added to
};

// `share` is 1 over the values of a group.
inline void group_norm_gradient(const GroupNormGradient &to, int64_t groups, int64_t of_group, float share) {
  for (int64_t g = 0; g < groups; ++g) {
    const float m = to.mean[g], r = to.rstd[g];
    const int64_t begin = g * of_group, end = begin + of_group;
    float first = 0.0f, second = 0.0f;
    for (int64_t c = begin; c < end; ++c) {
      to.of_gamma[c] = (to.of_gamma[c] - m * to.of_beta[c]) * r;
      first += to.of_beta[c] * to.gamma[c];
      second += to.of_gamma[c] * to.gamma[c];
    }
    const float factor = -r * share * second * r, term = -r * share * first - m * factor;
    for (int64_t c = begin; c < end; ++c) {
      to.of_z[c] = r * to.gamma[c];
      to.of_y[c] = factor;
      to.constant[c] = term;
      to.d_beta[c] += to.of_beta[c];
      to.d_gamma[c] += to.of_gamma[c];
    }
  }
}

}  // namespace dp_ros
