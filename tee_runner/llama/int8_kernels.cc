#include "tee_runner/llama/int8_kernels.h"

#include <vector>

#include "base/convert.h"
#include "base/int8_rows.h"
#include "tee_runner/llama/vector_math.h"

namespace airlock {

namespace {

// Up to so many elements one thread is through before another one is awake, as in kernels.cc.
constexpr std::size_t kElementsAlone = std::size_t{1} << 16;

std::size_t to_size(std::int64_t value) { return static_cast<std::size_t>(value); }

/// body(begin, end) over the rows of a matrix.
void for_rows(ThreadPool& pool, const TensorDesc& desc, const auto& body) {
  const std::size_t rows = to_size(desc.shape[0]);
  if (desc.elements() <= kElementsAlone && rows > 0) return body(std::size_t{0}, rows);
  pool.parallel_for(rows, body);
}

std::size_t width_of(const TensorDesc& int8_rows) { return to_size(widened(int8_rows).shape[1]); }

}  // namespace

void rms_norm_int8(ThreadPool& pool, const Tensor& hidden, std::int64_t first_row,
                   const float* weight, double epsilon, MutableTensorView out) {
  const std::size_t width = width_of(out.desc);
  CHECK(width == to_size(hidden.desc().shape[1]));
  CHECK(first_row + out.desc.shape[0] <= hidden.desc().shape[0]);
  const float* source = hidden.as<float>().data() + to_size(first_row) * width;
  const std::size_t row_bytes = to_size(out.desc.shape[1]);
  for_rows(pool, out.desc, [&](std::size_t begin, std::size_t end) {
    std::vector<float> line(width);
    for (std::size_t row = begin; row < end; ++row) {
      vector_math().rms_norm(source + row * width, weight, static_cast<float>(epsilon), line.data(),
                             width);
      store_int8_row(line.data(), width, out.data + row * row_bytes);
    }
  });
}

void silu_multiply_int8(ThreadPool& pool, TensorView gate, TensorView up, MutableTensorView out) {
  CHECK(gate.desc == out.desc && up.desc == out.desc);
  const std::size_t width = width_of(out.desc);
  const std::size_t row_bytes = to_size(out.desc.shape[1]);
  for_rows(pool, out.desc, [&](std::size_t begin, std::size_t end) {
    std::vector<float> left(width);
    std::vector<float> right(width);
    for (std::size_t row = begin; row < end; ++row) {
      load_int8_row(gate.data + row * row_bytes, width, left.data());
      load_int8_row(up.data + row * row_bytes, width, right.data());
      vector_math().silu_multiply(left.data(), right.data(), left.data(), width);
      store_int8_row(left.data(), width, out.data + row * row_bytes);
    }
  });
}

void add_residual_int8(ThreadPool& pool, TensorView delta, std::int64_t first_row, Tensor& hidden) {
  const std::size_t width = width_of(delta.desc);
  CHECK(width == to_size(hidden.desc().shape[1]));
  CHECK(first_row + delta.desc.shape[0] <= hidden.desc().shape[0]);
  float* target = hidden.as<float>().data() + to_size(first_row) * width;
  const std::size_t row_bytes = to_size(delta.desc.shape[1]);
  for_rows(pool, delta.desc, [&](std::size_t begin, std::size_t end) {
    std::vector<float> line(width);
    for (std::size_t row = begin; row < end; ++row) {
      load_int8_row(delta.data + row * row_bytes, width, line.data());
      vector_math().add(line.data(), target + row * width, width);
    }
  });
}

void widen_rows(ThreadPool& pool, TensorView rows, MutableTensorView values) {
  if (rows.desc.dtype != DType::kI8) return convert(rows, values);
  for_rows(pool, rows.desc, [&](std::size_t begin, std::size_t end) {
    const auto first = static_cast<std::int64_t>(begin);
    const auto count = static_cast<std::int64_t>(end - begin);
    load_int8_rows(rows_of(rows, first, count), rows_of(values, first, count));
  });
}

FloatRows::FloatRows(ThreadPool& pool, TensorView rows) : view_(rows) {
  if (rows.desc.dtype != DType::kI8) return;
  copy_ = Tensor(widened(rows.desc));
  widen_rows(pool, rows, copy_.mutable_view());
  view_ = copy_.view();
}

FloatRowsOut::FloatRowsOut(MutableTensorView rows) : rows_(rows), view_(rows) {
  if (rows.desc.dtype != DType::kI8) return;
  copy_ = Tensor(widened(rows.desc));
  view_ = copy_.mutable_view();
}

void FloatRowsOut::finish(ThreadPool& pool) {
  if (rows_.desc.dtype != DType::kI8) return;
  for_rows(pool, rows_.desc, [&](std::size_t begin, std::size_t end) {
    const auto first = static_cast<std::int64_t>(begin);
    const auto count = static_cast<std::int64_t>(end - begin);
    store_int8_rows(rows_of(TensorView(view_), first, count), rows_of(rows_, first, count));
  });
}

}  // namespace airlock
