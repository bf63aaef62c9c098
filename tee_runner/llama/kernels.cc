#include "tee_runner/llama/kernels.h"

#include <algorithm>
#include <cstring>

#include "base/convert.h"
#include "tee_runner/llama/vector_math.h"

namespace airlock {

namespace {

// Floats of one block of scratch on the stack.
constexpr std::size_t kBlock = 1024;
constexpr std::size_t kSoftmaxRows = 16;

std::size_t to_size(std::int64_t value) { return static_cast<std::size_t>(value); }

}  // namespace

void rms_norm(ThreadPool& pool, const Tensor& hidden, std::int64_t first_row, const float* weight,
              double epsilon, MutableTensorView out) {
  const std::size_t width = to_size(hidden.desc().shape[1]);
  const std::size_t rows = to_size(out.desc.shape[0]);
  const std::size_t first = to_size(first_row);
  CHECK(out.desc.shape[1] == hidden.desc().shape[1] &&
        first + rows <= to_size(hidden.desc().shape[0]));
  const float* source = hidden.as<float>().data() + first * width;
  const std::size_t row_bytes = width * dtype_bytes(out.desc.dtype);
  const VectorMath& math = vector_math();
  pool.parallel_for(rows, [&](std::size_t begin, std::size_t end) {
    // A tensor because its start is aligned for vectors.
    Tensor line({DType::kF32, {hidden.desc().shape[1]}});
    float* values = line.as<float>().data();
    for (std::size_t row = begin; row < end; ++row) {
      math.rms_norm(source + row * width, weight, static_cast<float>(epsilon), values, width);
      store_f32(out.desc.dtype, values, out.data + row * row_bytes, width);
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
  const VectorMath& math = vector_math();
  pool.parallel_for(heads * blocks, [&](std::size_t begin, std::size_t end) {
    Tensor line({DType::kF32, {static_cast<std::int64_t>(round_up(keys, kSumLanes))}});
    float* values = line.as<float>().data();
    for (std::size_t item = begin; item < end; ++item) {
      const std::size_t head = item / blocks;
      const std::size_t start = balanced_index(item % blocks, blocks) * kSoftmaxRows;
      for (std::size_t row = start; row < std::min(rows, start + kSoftmaxRows); ++row) {
        const std::size_t visible = first + row + 1;
        const std::size_t offset = (head * rows + row) * keys;
        load_f32(scores.desc.dtype, scores.data + offset * in_element, values, visible);
        math.softmax(values, visible, scale);
        std::byte* target = out.data + offset * out_element;
        store_f32(out.desc.dtype, values, target, visible);
        std::memset(target + visible * out_element, 0, (keys - visible) * out_element);
      }
    }
  });
}

void silu_multiply(ThreadPool& pool, TensorView gate, TensorView up, MutableTensorView out) {
  const std::size_t total = out.desc.elements();
  CHECK(gate.desc.elements() == total && up.desc.elements() == total);
  const VectorMath& math = vector_math();
  pool.parallel_for((total + kBlock - 1) / kBlock, [&](std::size_t begin, std::size_t end) {
    alignas(64) float left[kBlock];
    alignas(64) float right[kBlock];
    for (std::size_t i = begin * kBlock; i < std::min(total, end * kBlock); i += kBlock) {
      const std::size_t count = std::min(kBlock, total - i);
      load_f32(gate.desc.dtype, gate.data + i * dtype_bytes(gate.desc.dtype), left, count);
      load_f32(up.desc.dtype, up.data + i * dtype_bytes(up.desc.dtype), right, count);
      math.silu_multiply(left, right, count);
      store_f32(out.desc.dtype, left, out.data + i * dtype_bytes(out.desc.dtype), count);
    }
  });
}

void add_residual(ThreadPool& pool, TensorView delta, std::int64_t first_row, Tensor& hidden) {
  const std::size_t width = to_size(hidden.desc().shape[1]);
  const std::size_t total = delta.desc.elements();
  CHECK(to_size(first_row) * width + total <= hidden.desc().elements());
  float* target = hidden.as<float>().data() + to_size(first_row) * width;
  const VectorMath& math = vector_math();
  pool.parallel_for((total + kBlock - 1) / kBlock, [&](std::size_t begin, std::size_t end) {
    alignas(64) float block[kBlock];
    for (std::size_t i = begin * kBlock; i < std::min(total, end * kBlock); i += kBlock) {
      const std::size_t count = std::min(kBlock, total - i);
      load_f32(delta.desc.dtype, delta.data + i * dtype_bytes(delta.desc.dtype), block, count);
      math.add(block, target + i, count);
    }
  });
}

}  // namespace airlock
