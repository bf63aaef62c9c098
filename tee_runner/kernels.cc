#include "tee_runner/kernels.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/convert.h"
#include "base/vectorize.h"
#include "tee_runner/vector_math.h"

namespace airlock {

namespace {

constexpr std::size_t kBlock = 1024;  // floats of one block of scratch on the stack
constexpr std::size_t kSoftmaxRows = 16;

std::size_t to_size(std::int64_t value) { return static_cast<std::size_t>(value); }

AIRLOCK_VECTORIZE float sum_of_squares(const float* x, std::size_t count) {
  FloatLanes sum = {};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    FloatLanes block;
    std::memcpy(&block, x + i, sizeof(block));
    sum += block * block;
  }
  float result = sum_lanes(sum);
  for (; i < count; ++i) result += x[i] * x[i];
  return result;
}

AIRLOCK_VECTORIZE void scale_and_weigh(const float* x, const float* weight, float scale, float* out,
                                       std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = weight[i] * (x[i] * scale);
}

/// values := softmax(values * scale), in place.
AIRLOCK_VECTORIZE void softmax_in_place(float* values, std::size_t count, float scale) {
  const float peak = max_of(values, count) * scale;
  for (std::size_t i = 0; i < count; ++i) values[i] = exp_f32(values[i] * scale - peak);
  const float inverse = 1.0F / sum_of(values, count);
  for (std::size_t i = 0; i < count; ++i) values[i] *= inverse;
}

AIRLOCK_VECTORIZE void silu_times(float* gate, const float* up, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) gate[i] = gate[i] / (1.0F + exp_f32(-gate[i])) * up[i];
}

AIRLOCK_VECTORIZE void add_to(const float* delta, float* sum, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) sum[i] += delta[i];
}

}  // namespace

AIRLOCK_VECTORIZE void exp_f32_array(const float* in, float* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = exp_f32(in[i]);
}

void rms_norm(ThreadPool& pool, const Tensor& hidden, std::int64_t first_row, const float* weight,
              double epsilon, MutableTensorView out) {
  const std::size_t width = to_size(hidden.desc().shape[1]);
  const std::size_t rows = to_size(out.desc.shape[0]);
  const std::size_t first = to_size(first_row);
  CHECK(out.desc.shape[1] == hidden.desc().shape[1] &&
        first + rows <= to_size(hidden.desc().shape[0]));
  const float* source = hidden.as<float>().data() + first * width;
  const std::size_t element = dtype_bytes(out.desc.dtype);
  pool.parallel_for(rows, [&](std::size_t begin, std::size_t end) {
    float block[kBlock];
    for (std::size_t row = begin; row < end; ++row) {
      const float* x = source + row * width;
      const float mean = sum_of_squares(x, width) / static_cast<float>(width);
      const float scale = 1.0F / std::sqrt(mean + static_cast<float>(epsilon));
      for (std::size_t i = 0; i < width; i += kBlock) {
        const std::size_t count = std::min(kBlock, width - i);
        scale_and_weigh(x + i, weight + i, scale, block, count);
        store_f32(out.desc.dtype, block, out.data + (row * width + i) * element, count);
      }
    }
  });
}

void causal_softmax(ThreadPool& pool, TensorView scores, std::int64_t first_row, float scale,
                    MutableTensorView out) {
  const std::size_t heads = to_size(scores.desc.shape[0]);
  const std::size_t rows = to_size(scores.desc.shape[1]);
  const std::size_t keys = to_size(scores.desc.shape[2]);
  const std::size_t first = to_size(first_row);
  CHECK(scores.desc.shape == out.desc.shape && first + rows <= keys);
  const std::size_t in_element = dtype_bytes(scores.desc.dtype);
  const std::size_t out_element = dtype_bytes(out.desc.dtype);
  const std::size_t blocks = (rows + kSoftmaxRows - 1) / kSoftmaxRows;
  pool.parallel_for(heads * blocks, [&](std::size_t begin, std::size_t end) {
    std::vector<float> line(keys);
    for (std::size_t item = begin; item < end; ++item) {
      const std::size_t head = item / blocks;
      const std::size_t start = balanced_index(item % blocks, blocks) * kSoftmaxRows;
      for (std::size_t row = start; row < std::min(rows, start + kSoftmaxRows); ++row) {
        const std::size_t visible = first + row + 1;
        const std::size_t offset = (head * rows + row) * keys;
        load_f32(scores.desc.dtype, scores.data + offset * in_element, line.data(), visible);
        softmax_in_place(line.data(), visible, scale);
        std::byte* target = out.data + offset * out_element;
        store_f32(out.desc.dtype, line.data(), target, visible);
        std::memset(target + visible * out_element, 0, (keys - visible) * out_element);
      }
    }
  });
}

void silu_multiply(ThreadPool& pool, TensorView gate, TensorView up, MutableTensorView out) {
  const std::size_t total = out.desc.elements();
  CHECK(gate.desc.elements() == total && up.desc.elements() == total);
  pool.parallel_for((total + kBlock - 1) / kBlock, [&](std::size_t begin, std::size_t end) {
    float left[kBlock];
    float right[kBlock];
    for (std::size_t i = begin * kBlock; i < std::min(total, end * kBlock); i += kBlock) {
      const std::size_t count = std::min(kBlock, total - i);
      load_f32(gate.desc.dtype, gate.data + i * dtype_bytes(gate.desc.dtype), left, count);
      load_f32(up.desc.dtype, up.data + i * dtype_bytes(up.desc.dtype), right, count);
      silu_times(left, right, count);
      store_f32(out.desc.dtype, left, out.data + i * dtype_bytes(out.desc.dtype), count);
    }
  });
}

void add_residual(ThreadPool& pool, TensorView delta, std::int64_t first_row, Tensor& hidden) {
  const std::size_t width = to_size(hidden.desc().shape[1]);
  const std::size_t total = delta.desc.elements();
  CHECK(to_size(first_row) * width + total <= hidden.desc().elements());
  float* target = hidden.as<float>().data() + to_size(first_row) * width;
  pool.parallel_for((total + kBlock - 1) / kBlock, [&](std::size_t begin, std::size_t end) {
    float block[kBlock];
    for (std::size_t i = begin * kBlock; i < std::min(total, end * kBlock); i += kBlock) {
      const std::size_t count = std::min(kBlock, total - i);
      load_f32(delta.desc.dtype, delta.data + i * dtype_bytes(delta.desc.dtype), block, count);
      add_to(block, target + i, count);
    }
  });
}

}  // namespace airlock
