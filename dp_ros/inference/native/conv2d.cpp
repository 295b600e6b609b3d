// Pictures through a list of 2-D convolutions on a CPU, one picture or a few at a time.
//
// `dp_ros/inference/native/encoder.py` lays a network out as that list; this file knows no ResNet. A convolution takes
// pixels of channels and writes pixels, and does to its result, while it is in the cache, all that comes before the next
// one: bias, group norm, what is added, ReLU, max pooling. Weights lie in blocks of 16 outputs,
//
//     weights[cout / 16][row of the kernel][column][cin][16]
//
// and so does the norm: a group is a block. Pixels that take the same tap are multiplied with it together, up to six of
// them in registers, and taps that fall outside of the picture are no work at all: of a 3 x 3 kernel on 3 x 3 pixels that
// is nearly half. Where there are few channels (the first convolution has three), a whole row of the kernel is one run
// of numbers, and zeros around the picture take the place of pixels that are not there.
//
// Threads share the blocks of a convolution and wait for one another after it. What a number is does not depend on
// threads or on other pictures. Written from the definition in dp_ros/policies/vision.py (He et al., 2016, arXiv
// 1512.03385, with the group norm of Chi et al., 2023), which tests hold it against.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <vector>

#include "team.hpp"
#include "vectors.hpp"

extern "C" {

// One convolution. Offsets count floats: in the memory of a picture, and in that of the network; -1: none.
struct DpConvolution2d {
  int64_t input, output, added;  // first pixel, behind the zeros where there are; pixels that are added
  int64_t weights, bias, gamma, beta;
  int32_t cin, cout, kernel, stride;      // cout: whole blocks
  int32_t in_height, in_width, in_pitch;  // pixels; floats from row to row
  int32_t height, width;                  // written, before the pooling
  int32_t runs;                           // whether there are zeros around the input, and a row of the kernel is one run
  int32_t relu, pool;                     // pool: the largest of 3 x 3 pixels, every second one
  int32_t joins;                          // whether the next one may begin before this one is finished
};

}

namespace {

constexpr int TILE = 6;  // pixels: with 2 x 8 outputs they leave registers for the weights and for a value
constexpr int AHEAD = CHUNK_BYTES / sizeof(float);  // weights of the next chunk, fetched while this one is used
constexpr float EPSILON = 1e-5f;

struct Tap {  // pixels that take it
  int64_t weights;              // of this tap, in a block
  std::vector<int32_t> in, out; // floats from the first pixel of the input, and from the first sum
};

struct Plan {
  DpConvolution2d op;
  int values, segments;  // floats of a pixel or a run; runs of a tap, one for each row of the kernel
  std::vector<Tap> taps;
};

Plan planned(const DpConvolution2d &op) {
  Plan plan{op, op.runs ? op.kernel * op.cin : op.cin, op.runs ? op.kernel : 1, {}};
  const int half = op.kernel / 2;
  for (int ky = 0; ky < (op.runs ? 1 : op.kernel); ++ky) {
    for (int kx = 0; kx < (op.runs ? 1 : op.kernel); ++kx) {
      Tap tap{int64_t(ky * op.kernel + kx) * op.cin * BLOCK, {}, {}};
      for (int y = 0; y < op.height; ++y) {
        for (int x = 0; x < op.width; ++x) {
          const int row = y * op.stride + ky - half, column = x * op.stride + kx - half;
          if (!op.runs && (row < 0 || row >= op.in_height || column < 0 || column >= op.in_width)) continue;
          tap.in.push_back(row * op.in_pitch + column * op.cin);
          tap.out.push_back((y * op.width + x) * BLOCK);
        }
      }
      plan.taps.push_back(std::move(tap));
    }
  }
  return plan;
}

// Adds the products of `segments` runs of `n` inputs to PIXELS x 16 sums.
template <int PIXELS>
inline void multiply(const float *x, const int32_t *in, int segments, int64_t pitch, const float *w, int64_t w_pitch, int n,
                     float *sums, const int32_t *out) {
  const float *pixel[PIXELS];
  Floats sum[PIXELS][2];
#pragma GCC unroll 6
  for (int p = 0; p < PIXELS; ++p) {
    pixel[p] = x + in[p];
    sum[p][0] = load(sums + out[p]);
    sum[p][1] = load(sums + out[p] + LANES);
  }
  for (int s = 0; s < segments; ++s) {
    const float *weights = w + s * w_pitch;
    for (int c = 0; c < n; ++c, weights += BLOCK) {
      __builtin_prefetch(weights + AHEAD, 0, 2);
      const Floats w0 = load(weights), w1 = load(weights + LANES);
#pragma GCC unroll 6
      for (int p = 0; p < PIXELS; ++p) {
        const Floats value = all(pixel[p][c]);
        sum[p][0] += w0 * value;
        sum[p][1] += w1 * value;
      }
    }
#pragma GCC unroll 6
    for (int p = 0; p < PIXELS; ++p) pixel[p] += pitch;
  }
#pragma GCC unroll 6
  for (int p = 0; p < PIXELS; ++p) {
    store(sums + out[p], sum[p][0]);
    store(sums + out[p] + LANES, sum[p][1]);
  }
}

// The same for any number of pixels: as many tiles as it takes, all of nearly the same size.
inline void multiply_all(const Tap &tap, const float *x, int segments, int64_t pitch, const float *w, int64_t w_pitch, int n,
                         float *sums) {
  const int pixels = int(tap.in.size()), tiles = (pixels + TILE - 1) / TILE;
  for (int i = 0, at = 0; i < tiles; ++i) {
    const int size = (pixels - at + tiles - i - 1) / (tiles - i);
    const int32_t *in = tap.in.data() + at, *out = tap.out.data() + at;
    at += size;
    switch (size) {
      case 1: multiply<1>(x, in, segments, pitch, w, w_pitch, n, sums, out); break;
      case 2: multiply<2>(x, in, segments, pitch, w, w_pitch, n, sums, out); break;
      case 3: multiply<3>(x, in, segments, pitch, w, w_pitch, n, sums, out); break;
      case 4: multiply<4>(x, in, segments, pitch, w, w_pitch, n, sums, out); break;
      case 5: multiply<5>(x, in, segments, pitch, w, w_pitch, n, sums, out); break;
      default: multiply<6>(x, in, segments, pitch, w, w_pitch, n, sums, out);
    }
  }
}

struct Call {
  int pictures;
  const uint8_t *pixels;        // (pictures, height, width, channels)
  const float *scale, *offset;  // (channels): what becomes of a value
  float *features;              // (pictures, output_floats)
};

class Encoder {
 public:
  Encoder(const DpConvolution2d *ops, int n_ops, const float *parameters, int64_t n_parameters, int64_t picture_floats,
          int64_t output, int64_t output_floats, int threads, int spin)
      : parameters_(parameters, n_parameters), picture_floats_(picture_floats), output_(output),
        output_floats_(output_floats), threads_(threads), scratch_(threads), team_(threads, spin, [this](int i) { work(i); }) {
    for (int i = 0; i < n_ops; ++i) {
      plans_.push_back(planned(ops[i]));
      most_sums_ = std::max(most_sums_, size_t(ops[i].height) * ops[i].width * BLOCK);
    }
  }

  void run(const Call &call) {
    std::lock_guard<std::mutex> one_call_at_a_time(calls_);
    const size_t needed = size_t(call.pictures * picture_floats_);
    if (memory_.size() < needed) memory_.resize(needed, 0.0f);
    for (auto &scratch : scratch_) scratch.resize(std::max(scratch.size(), most_sums_ * call.pictures));
    call_ = call;
    team_.run();
  }

 private:
  void work(int thread) {
    for (int b = thread; b < call_.pictures; b += threads_) begin(b);
    team_.wait_for_one_another();
    for (const Plan &plan : plans_) {
      for (int block = thread; block * BLOCK < plan.op.cout; block += threads_) convolution(plan, block, scratch_[thread].data());
      if (!plan.op.joins) team_.wait_for_one_another();
    }
    for (int b = thread; b < call_.pictures; b += threads_) {
      const float *from = memory_.data() + b * picture_floats_ + output_;
      std::copy(from, from + output_floats_, call_.features + b * output_floats_);
    }
  }

  // A picture as the input of the first convolution; the zeros around it stay.
  void begin(int b) {
    const DpConvolution2d &op = plans_.front().op;
    const uint8_t *from = call_.pixels + int64_t(b) * op.in_height * op.in_width * op.cin;
    for (int y = 0; y < op.in_height; ++y) {
      float *to = memory_.data() + b * picture_floats_ + op.input + int64_t(y) * op.in_pitch;
      for (int x = 0; x < op.in_width; ++x)
        for (int c = 0; c < op.cin; ++c) *to++ = float(*from++) * call_.scale[c] + call_.offset[c];
    }
  }

  void convolution(const Plan &plan, int block, float *sums) {
    const DpConvolution2d &op = plan.op;
    const int64_t sums_of_a_picture = int64_t(op.height) * op.width * BLOCK;
    const float zeros[BLOCK] = {}, *bias = op.bias < 0 ? zeros : &parameters_[op.bias] + block * BLOCK;
    for (int64_t i = 0; i < sums_of_a_picture * call_.pictures; i += BLOCK) std::copy(bias, bias + BLOCK, sums + i);
    const float *w = &parameters_[op.weights] + int64_t(block) * op.kernel * op.kernel * op.cin * BLOCK;
    const int chunk = plan.segments > 1 ? plan.values : CHUNK_BYTES / int(BLOCK * sizeof(float));
    for (const Tap &tap : plan.taps) {
      for (int c = 0; c < plan.values; c += chunk) {
        const int n = std::min(chunk, plan.values - c);
        for (int b = 0; b < call_.pictures; ++b) {
          const float *x = memory_.data() + b * picture_floats_ + op.input + c;
          multiply_all(tap, x, plan.segments, op.in_pitch, w + tap.weights + int64_t(c) * BLOCK,
                       int64_t(plan.values) * BLOCK, n, sums + b * sums_of_a_picture);
        }
      }
    }
    for (int b = 0; b < call_.pictures; ++b) finish(op, block, b, sums + b * sums_of_a_picture);
  }

  // Norm, addition, ReLU and pooling of a block of outputs, and writing it.
  void finish(const DpConvolution2d &op, int block, int b, float *sums) {
    const int pixels = op.height * op.width;
    float scale[BLOCK], shift[BLOCK];
    std::fill(scale, scale + BLOCK, 1.0f);
    std::fill(shift, shift + BLOCK, 0.0f);
    if (op.gamma >= 0) norm(sums, pixels, &parameters_[op.gamma] + block * BLOCK, &parameters_[op.beta] + block * BLOCK, scale, shift);
    const Floats scales[2] = {load(scale), load(scale + LANES)}, shifts[2] = {load(shift), load(shift + LANES)};
    float *memory = memory_.data() + b * picture_floats_;
    const float *added = op.added < 0 ? nullptr : memory + op.added + block * BLOCK;
    float *to = op.pool ? sums : memory + op.output + block * BLOCK;
    const int64_t step = op.pool ? BLOCK : op.cout;
    for (int p = 0; p < pixels; ++p) {
      for (int h = 0; h < 2; ++h) {
        Floats value = load(sums + p * BLOCK + h * LANES) * scales[h] + shifts[h];
        if (added) value += load(added + int64_t(p) * op.cout + h * LANES);
        if (op.relu) value = value < Floats{} ? Floats{} : value;  // what is no number stays none
        store(to + p * step + h * LANES, value);
      }
    }
    if (op.pool) pool(op, sums, memory + op.output + block * BLOCK);
  }

  static void pool(const DpConvolution2d &op, const float *from, float *to) {
    const int height = (op.height + 1) / 2, width = (op.width + 1) / 2;
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x, to += op.cout) {
        const float *middle = from + (int64_t(2 * y) * op.width + 2 * x) * BLOCK;
        Floats most[2] = {load(middle), load(middle + LANES)};
        for (int row = std::max(2 * y - 1, 0); row < std::min(2 * y + 2, op.height); ++row) {
          for (int column = std::max(2 * x - 1, 0); column < std::min(2 * x + 2, op.width); ++column) {
            for (int h = 0; h < 2; ++h) {
              const Floats value = load(from + (int64_t(row) * op.width + column) * BLOCK + h * LANES);
              most[h] = value > most[h] ? value : most[h];
            }
          }
        }
        store(to, most[0]);
        store(to + LANES, most[1]);
      }
    }
  }

  // Group norm of one group, as a scale and a shift for each of its outputs.
  static void norm(const float *sums, int pixels, const float *gamma, const float *beta, float *scale, float *shift) {
    const int64_t n = int64_t(pixels) * BLOCK;
    const float share = 1.0f / float(n);
    const float mean = total(sums, n, 0.0f, false) * share;
    const float factor = 1.0f / std::sqrt(total(sums, n, mean, true) * share + EPSILON);
    for (int c = 0; c < BLOCK; ++c) {
      scale[c] = gamma[c] * factor;
      shift[c] = beta[c] - mean * scale[c];
    }
  }

  // Sum of values, or of the squares of their distances from `mean`.
  static float total(const float *values, int64_t n, float mean, bool squares) {
    Floats sums[4] = {};
    for (int64_t i = 0; i < n; i += BLOCK) {
      for (int h = 0; h < 2; ++h) {
        const Floats away = load(values + i + h * LANES) - mean;
        Floats &to = sums[2 * ((i / BLOCK) % 2) + h];
        to += squares ? away * away : away;
      }
    }
    const Floats sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    float found = 0.0f;
    for (int i = 0; i < LANES; ++i) found += sum[i];
    return found;
  }

  std::vector<Plan> plans_;
  const Weights<float> parameters_;
  const int64_t picture_floats_, output_, output_floats_;
  const int threads_;
  size_t most_sums_ = 0;  // of a convolution, for a picture
  std::vector<float> memory_;
  std::vector<std::vector<float>> scratch_;
  std::mutex calls_;
  Call call_{};
  Team team_;  // last: its threads need the rest
};

}  // namespace

extern "C" {

void *dp_conv2d_create(const DpConvolution2d *ops, int n_ops, const float *parameters, int64_t n_parameters,
                       int64_t picture_floats, int64_t output, int64_t output_floats, int threads, int spin) {
  try {
    return new Encoder(ops, n_ops, parameters, n_parameters, picture_floats, output, output_floats, threads, spin);
  } catch (...) {  // no memory, no thread: nothing may be thrown into Python
    return nullptr;
  }
}

void dp_conv2d_destroy(void *encoder) { delete static_cast<Encoder *>(encoder); }

// Returns 0, or 1 if there was no memory for it.
int dp_conv2d_run(void *encoder, int pictures, const uint8_t *pixels, const float *scale, const float *offset, float *features) {
  try {
    static_cast<Encoder *>(encoder)->run({pictures, pixels, scale, offset, features});
    return 0;
  } catch (...) {
    return 1;
  }
}

}
