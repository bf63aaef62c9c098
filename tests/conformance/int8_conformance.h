#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "base/float_bits.h"
#include "base/int8_rows.h"
#include "tests/conformance/backend_conformance.h"

/// What every Backend must do with int8 rows. Joins the suite where it is included.
namespace airlock::testing {

/// As they cross.
inline Tensor rounded_to_int8(const Tensor& values) {
  const Shape& shape = values.desc().shape;
  Tensor rows({DType::kI8, Shape{shape[0], wire_columns(DType::kI8, shape[1])}});
  store_int8_rows(values.view(), rows.mutable_view());
  return rows;
}
inline Tensor widened_rows(const Tensor& rows) {
  Tensor values(widened(rows.desc()));
  load_int8_rows(rows.view(), values.mutable_view());
  return values;
}

TEST_P(BackendConformance, takes_int8_rows_for_the_numbers_that_they_are) {
  for (const std::int64_t rows : {1, 5, 40}) {
    SCOPED_TRACE(rows);
    const auto x = [&](std::int64_t width) {
      return rounded_to_int8(activations(rows, width, DType::kF32));
    };
    for (const WeightKind kind : {WeightKind::kUp, WeightKind::kDown}) {
      Tensor in = x(weight_shape(dims(), kind)[1]);
      const OpSpec spec = linear_spec({{kind, 1}}, in.desc(), DType::kF32);
      const auto want = reference(spec, list(widened_rows(in)));
      const Outcome outcome = run(spec, list(std::move(in)));
      ASSERT_TRUE(outcome.status.ok()) << outcome.status.to_string();
      expect_close(outcome.results, want);
    }
    Tensor in = x(dims().hidden);
    const OpSpec spec = lm_head_spec(in.desc());
    const auto want = reference(spec, list(widened_rows(in)));
    const Outcome outcome = run(spec, list(std::move(in)));
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.to_string();
    expect_close(outcome.results, want);
  }
}

// Rounded once, each block of a row by itself: what fp32 results are, in int8.
TEST_P(BackendConformance, gives_int8_rows_of_what_fp32_results_are) {
  const auto expect_rounded = [&](OpSpec spec, const std::function<std::vector<Tensor>()>& inputs) {
    const Outcome exact = run(spec, inputs());
    spec.result_dtype = DType::kI8;
    const Outcome rounded = run(spec, inputs());
    ASSERT_TRUE(exact.status.ok()) << exact.status.to_string();
    ASSERT_TRUE(rounded.status.ok()) << rounded.status.to_string();
    ASSERT_EQ(rounded.results.size(), exact.results.size());
    for (std::size_t i = 0; i < exact.results.size(); ++i)
      EXPECT_TRUE(same_bits(rounded.results[i], rounded_to_int8(exact.results[i]))) << i;
  };
  const std::array<std::int32_t, 6> ids{0, 499, 17, 17, 384, 1};
  expect_rounded(embedding_spec(6, DType::kF32), [&] { return list(token_tensor(ids)); });
  for (const std::int64_t rows : {1, 3, 33, 70}) {
    SCOPED_TRACE(rows);
    const auto inputs = [&] {
      return list(rounded_to_int8(activations(rows, dims().hidden, DType::kF32)));
    };
    expect_rounded(linear_spec({{WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kV, 0}},
                               inputs()[0].desc(), DType::kF32),
                   inputs);
    const auto wide = [&] { return list(activations(rows, dims().intermediate, DType::kBF16)); };
    expect_rounded(linear_spec({{WeightKind::kDown, 1}}, wide()[0].desc(), DType::kF32), wide);
  }
}

// The scales are the peer's word: they make numbers, and nothing else.
TEST_P(BackendConformance, takes_any_scale_of_int8_rows) {
  constexpr std::array kScales{1.0F,
                               std::numeric_limits<float>::quiet_NaN(),
                               std::numeric_limits<float>::infinity(),
                               -0x1p127F,
                               1e-40F,
                               0.0F,
                               -2.0F};
  const auto rows = static_cast<std::int64_t>(kScales.size());
  Tensor x({DType::kI8, Shape{rows, wire_columns(DType::kI8, dims().hidden)}});
  const auto row_bytes = static_cast<std::size_t>(x.desc().shape[1]);
  for (std::size_t row = 0; row < kScales.size(); ++row) {
    std::byte* const at = x.mutable_view().data + row * row_bytes;
    std::memset(at, 0x80, row_bytes);  // -128
    const std::uint16_t scale = bf16_from_f32(kScales[row]);
    for (std::int64_t first = 0; first < dims().hidden; first += kInt8Block) {
      const std::int64_t end = std::min(first + kInt8Block, dims().hidden);
      std::memcpy(at + int8_place(first) + (end - first), &scale, sizeof(scale));
    }
  }
  const OpSpec spec = linear_spec({{WeightKind::kQ, 0}}, x.desc(), DType::kI8);
  const Outcome outcome = run(spec, list(std::move(x)));
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.to_string();
  const Tensor values = widened_rows(outcome.results[0]);
  const auto width = static_cast<std::size_t>(values.desc().shape[1]);
  for (std::size_t row = 0; row < kScales.size(); ++row) {
    const float first = values.as<float>()[row * width];
    if (row >= 1 && row <= 3) {
      EXPECT_TRUE(std::isnan(first)) << row;
    } else {
      EXPECT_TRUE(std::isfinite(first)) << row;
    }
  }
}

}  // namespace airlock::testing
