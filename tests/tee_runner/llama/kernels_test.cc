#include "tee_runner/llama/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/convert.h"
#include "tee_runner/llama/vector_math.h"

namespace airlock {
namespace {

constexpr DType kFloatTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

Tensor random_tensor(DType dtype, Shape shape, unsigned seed, float spread = 1.0F) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  Tensor exact({DType::kF32, shape});
  for (float& value : exact.as<float>()) value = normal(engine);
  Tensor rounded({dtype, shape});
  convert(exact.view(), rounded.mutable_view());
  return rounded;
}

std::vector<float> floats(const Tensor& tensor) {
  std::vector<float> values(tensor.desc().elements());
  load_f32(tensor.desc().dtype, tensor.view().data, values.data(), values.size());
  return values;
}

/// Half a unit in the last place of a rounded result, with room for the fp32 arithmetic before.
double rounding(DType dtype) {
  return dtype == DType::kF32 ? 4e-6 : dtype == DType::kF16 ? 0.00049 : 0.0039;
}

void expect_close(double value, double expected, double relative, double absolute) {
  EXPECT_NEAR(value, expected, std::abs(expected) * relative + absolute);
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.desc() == b.desc() && std::memcmp(a.view().data, b.view().data, a.desc().bytes()) == 0;
}

TEST(RmsNorm, agrees_with_double_arithmetic_in_each_type) {
  for (const DType dtype : kFloatTypes) {
    for (const std::int64_t width : {1, 7, 64, 1100, 2048}) {
      const Tensor hidden = random_tensor(DType::kF32, {5, width}, 1, 3.0F);
      const Tensor weight = random_tensor(DType::kF32, {width}, 2);
      Tensor out({dtype, {3, width}});
      const auto owned_pool = ThreadPool::create(2).value();
      ThreadPool& pool = *owned_pool;
      rms_norm(pool, hidden, 2, weight.as<float>().data(), 1e-5, out.mutable_view());
      const std::vector<float> got = floats(out);
      for (std::int64_t row = 0; row < 3; ++row) {
        const float* x = hidden.as<float>().data() + (row + 2) * width;
        double sum = 0;
        for (std::int64_t i = 0; i < width; ++i)
          sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
        const double scale = 1 / std::sqrt(sum / static_cast<double>(width) + 1e-5);
        for (std::int64_t i = 0; i < width; ++i) {
          const auto at = static_cast<std::size_t>(i);
          const double expected =
              static_cast<double>(x[i]) * scale * static_cast<double>(weight.as<float>()[at]);
          expect_close(static_cast<double>(got[static_cast<std::size_t>(row * width + i)]),
                       expected, rounding(dtype), 1e-7);
        }
      }
    }
  }
}

TEST(Softmax, agrees_with_double_arithmetic_and_is_zero_above_the_diagonal) {
  for (const DType dtype : kFloatTypes) {
    const std::int64_t heads = 3, rows = 21, first = 16, keys = 37;
    const Tensor scores = random_tensor(dtype, {heads, rows, keys}, 3, 30.0F);
    Tensor out({dtype, {heads, rows, keys}});
    std::memset(out.mutable_view().data, 0x7f, out.desc().bytes());
    const auto owned_pool = ThreadPool::create(2).value();
    ThreadPool& pool = *owned_pool;
    causal_softmax(pool, scores.view(), first, 0.25F, out.mutable_view());
    const std::vector<float> in = floats(scores);
    const std::vector<float> got = floats(out);
    for (std::int64_t line = 0; line < heads * rows; ++line) {
      const auto start = static_cast<std::size_t>(line * keys);
      const auto visible = static_cast<std::size_t>(first + line % rows + 1);
      double peak = -1e300, total = 0;
      for (std::size_t i = 0; i < visible; ++i)
        peak = std::max(peak, static_cast<double>(in[start + i]) * 0.25);
      for (std::size_t i = 0; i < visible; ++i)
        total += std::exp(static_cast<double>(in[start + i]) * 0.25 - peak);
      for (std::size_t i = 0; i < static_cast<std::size_t>(keys); ++i) {
        const double expected =
            i < visible ? std::exp(static_cast<double>(in[start + i]) * 0.25 - peak) / total : 0;
        expect_close(static_cast<double>(got[start + i]), expected, rounding(dtype),
                     dtype == DType::kF16 ? 3e-8 : 1e-37);
        if (i >= visible) {
          EXPECT_EQ(got[start + i], 0.0F);
        }
      }
    }
  }
}

TEST(Softmax, survives_huge_scores) {
  Tensor scores({DType::kF32, {1, 2, 2}});
  scores.as<float>()[0] = 3e38F;
  scores.as<float>()[2] = -3e38F;
  scores.as<float>()[3] = 3e38F;
  Tensor out({DType::kF32, {1, 2, 2}});
  const auto owned_pool = ThreadPool::create(1).value();
  ThreadPool& pool = *owned_pool;
  causal_softmax(pool, scores.view(), 0, 1.0F, out.mutable_view());
  EXPECT_EQ(out.as<float>()[0], 1.0F);
  EXPECT_EQ(out.as<float>()[1], 0.0F);
  EXPECT_EQ(out.as<float>()[2], 0.0F);
  EXPECT_EQ(out.as<float>()[3], 1.0F);
}

TEST(Softmax, survives_scores_whose_product_with_the_scale_is_rounded) {
  Tensor scores({DType::kF32, {1, 2, 2}});
  for (float& score : scores.as<float>()) score = 3.3e30F;
  for (const float scale : {0.1F, 0.3F, 0.7F}) {
    Tensor out({DType::kF32, {1, 2, 2}});
    const auto owned_pool = ThreadPool::create(1).value();
    ThreadPool& pool = *owned_pool;
    causal_softmax(pool, scores.view(), 0, scale, out.mutable_view());
    EXPECT_EQ(out.as<float>()[0], 1.0F);
    EXPECT_EQ(out.as<float>()[2], 0.5F);
    EXPECT_EQ(out.as<float>()[3], 0.5F);
  }
}

TEST(Softmax, passes_nan_on_in_its_own_row_only) {
  for (const std::size_t at : {0U, 4U, 40U}) {
    Tensor scores = random_tensor(DType::kF32, {1, 64, 64}, 4);
    scores.as<float>()[50 * 64 + at] = std::nanf("");
    Tensor out({DType::kF32, {1, 64, 64}});
    const auto owned_pool = ThreadPool::create(1).value();
    ThreadPool& pool = *owned_pool;
    causal_softmax(pool, scores.view(), 0, 1.0F, out.mutable_view());
    EXPECT_TRUE(std::isnan(out.as<float>()[50 * 64]));
    EXPECT_EQ(out.as<float>()[50 * 64 + 63], 0.0F);
    EXPECT_TRUE(std::isfinite(out.as<float>()[49 * 64]));
    EXPECT_TRUE(std::isfinite(out.as<float>()[51 * 64]));
  }
}

TEST(Softmax, does_not_look_above_the_diagonal) {
  Tensor scores({DType::kF32, {1, 2, 2}});
  scores.as<float>()[1] = std::nanf("");
  Tensor out({DType::kF32, {1, 2, 2}});
  const auto owned_pool = ThreadPool::create(1).value();
  ThreadPool& pool = *owned_pool;
  causal_softmax(pool, scores.view(), 0, 1.0F, out.mutable_view());
  EXPECT_EQ(out.as<float>()[0], 1.0F);
  EXPECT_EQ(out.as<float>()[1], 0.0F);
}

TEST(Silu, agrees_with_double_arithmetic_in_each_type) {
  for (const DType dtype : kFloatTypes) {
    const Tensor gate = random_tensor(dtype, {3, 1001}, 5, 6.0F);
    const Tensor up = random_tensor(dtype, {3, 1001}, 6);
    Tensor out({dtype, {3, 1001}});
    const auto owned_pool = ThreadPool::create(3).value();
    ThreadPool& pool = *owned_pool;
    silu_multiply(pool, gate.view(), up.view(), out.mutable_view());
    const std::vector<float> g = floats(gate), u = floats(up), got = floats(out);
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double expected = static_cast<double>(g[i]) /
                              (1 + std::exp(-static_cast<double>(g[i]))) *
                              static_cast<double>(u[i]);
      expect_close(static_cast<double>(got[i]), expected, rounding(dtype),
                   dtype == DType::kF16 ? 3e-8 : 1e-37);
    }
  }
}

TEST(Silu, goes_to_its_limits) {
  Tensor gate({DType::kF32, {3}}), up({DType::kF32, {3}}), out({DType::kF32, {3}});
  gate.as<float>()[0] = -1000.0F;
  gate.as<float>()[1] = 1000.0F;
  gate.as<float>()[2] = std::nanf("");
  for (float& value : up.as<float>()) value = 2.0F;
  const auto owned_pool = ThreadPool::create(1).value();
  ThreadPool& pool = *owned_pool;
  silu_multiply(pool, gate.view(), up.view(), out.mutable_view());
  EXPECT_EQ(out.as<float>()[0], 0.0F);
  EXPECT_EQ(out.as<float>()[1], 2000.0F);
  EXPECT_TRUE(std::isnan(out.as<float>()[2]));
}

TEST(Residual, adds_to_the_rows_asked_for) {
  for (const DType dtype : kFloatTypes) {
    Tensor hidden = random_tensor(DType::kF32, {6, 700}, 7);
    const std::vector<float> before = floats(hidden);
    const Tensor delta = random_tensor(dtype, {3, 700}, 8);
    const auto owned_pool = ThreadPool::create(2).value();
    ThreadPool& pool = *owned_pool;
    add_residual(pool, delta.view(), 2, hidden);
    const std::vector<float> d = floats(delta);
    for (std::size_t i = 0; i < before.size(); ++i) {
      const bool inside = i >= 1400 && i < 3500;
      EXPECT_EQ(hidden.as<float>()[i], inside ? before[i] + d[i - 1400] : before[i]);
    }
  }
}

TEST(AddAndNormalise, has_the_bits_of_the_sum_and_then_the_norm) {
  const auto owned_pool = ThreadPool::create(2).value();
  ThreadPool& pool = *owned_pool;
  for (const DType delta_type : kFloatTypes) {
    for (const DType out_type : kFloatTypes) {
      for (const std::int64_t width : {1, 7, 64, 1100, 2048}) {
        const Tensor delta = random_tensor(delta_type, {40, width}, 30);
        const Tensor weight = random_tensor(DType::kF32, {width}, 31);
        Tensor apart = random_tensor(DType::kF32, {43, width}, 32, 3.0F);
        Tensor at_once = random_tensor(DType::kF32, {43, width}, 32, 3.0F);
        Tensor expected({out_type, {40, width}}), out({out_type, {40, width}});
        add_residual(pool, delta.view(), 2, apart);
        rms_norm(pool, apart, 2, weight.as<float>().data(), 1e-5, expected.mutable_view());
        add_and_normalise(pool, delta.view(), 2, at_once, weight.as<float>().data(), 1e-5,
                          out.mutable_view());
        EXPECT_TRUE(same_bits(at_once, apart)) << width << " of " << name_of(delta_type);
        EXPECT_TRUE(same_bits(out, expected)) << width << " to " << name_of(out_type);
      }
    }
  }
}

TEST(Heads, splitting_and_merging_give_back_the_rows) {
  const auto owned_pool = ThreadPool::create(2).value();
  ThreadPool& pool = *owned_pool;
  const Tensor rows = random_tensor(DType::kBF16, {5, 6 * 10}, 9);
  Tensor back({DType::kBF16, {5, 6 * 10}});
  for (const std::int64_t head : {0, 2, 4}) {
    for (const auto& [row, count] : {std::pair<std::int64_t, std::int64_t>{0, 2}, {2, 3}}) {
      const HeadTile tile{head, 2, row, count};
      Tensor heads({DType::kBF16, {2, count, 10}});
      split_heads(pool, rows.view(), tile, heads.mutable_view());
      merge_heads(pool, heads.view(), tile, back.mutable_view());
    }
  }
  EXPECT_TRUE(same_bits(rows, back));
}

RopeTable rope_table(const LlamaConfig& config, std::int64_t positions) {
  RopeTable table;
  extend_rope_table(config, positions, table);
  return table;
}

TEST(Heads, are_rotated_by_their_position_wherever_a_pass_begins) {
  LlamaConfig config;
  config.dims.head_dim = 10;
  const RopeTable table = rope_table(config, 8);
  const auto owned_pool = ThreadPool::create(2).value();
  ThreadPool& pool = *owned_pool;
  const Tensor rows = random_tensor(DType::kBF16, {8, 3 * 10}, 9);
  Tensor whole({DType::kBF16, {3, 8, 10}});
  rotate_heads(pool, table, rows.view(), {0, 3, 0, 8}, 0, whole.mutable_view());
  TensorView last = rows.view();
  last.desc.shape = Shape{3, 30};
  last.data += 5 * 30 * 2;
  Tensor pieces({DType::kBF16, {3, 8, 10}});
  rotate_heads(pool, table, rows.view(), {0, 3, 0, 5, 0}, 0, pieces.mutable_view());
  rotate_heads(pool, table, last, {0, 3, 0, 3, 5}, 5, pieces.mutable_view());
  EXPECT_TRUE(same_bits(whole, pieces));
}

/// Attention in double over [tokens, heads * d] operands of fp32 values.
std::vector<double> naive_attention(const ModelDims& dims, const RopeTable& table,
                                    std::int64_t tokens, std::vector<float> q, std::vector<float> k,
                                    const std::vector<float>& v) {
  const auto d = static_cast<std::size_t>(dims.head_dim), t = static_cast<std::size_t>(tokens);
  const auto heads = static_cast<std::size_t>(dims.heads),
             groups = static_cast<std::size_t>(dims.kv_heads);
  const auto rotate = [&](std::vector<float>& x, std::size_t count) {
    for (std::size_t i = 0; i < t * count; ++i) {
      std::vector<float> out(d);
      vector_math().rotate_head(&x[i * d], &table.cos[i / count * table.half],
                                &table.sin[i / count * table.half], table.half, out.data());
      std::copy(out.begin(), out.end(), &x[i * d]);
    }
  };
  rotate(q, heads);
  rotate(k, groups);
  std::vector<double> out(t * heads * d);
  for (std::size_t h = 0; h < heads; ++h) {
    const std::size_t g = h / (heads / groups);
    for (std::size_t i = 0; i < t; ++i) {
      std::vector<double> p(i + 1);
      double peak = -1e300, total = 0;
      for (std::size_t j = 0; j <= i; ++j) {
        for (std::size_t c = 0; c < d; ++c) {
          p[j] += static_cast<double>(q[(i * heads + h) * d + c]) *
                  static_cast<double>(k[(j * groups + g) * d + c]);
        }
        p[j] /= std::sqrt(static_cast<double>(d));
        peak = std::max(peak, p[j]);
      }
      for (double& value : p) total += value = std::exp(value - peak);
      for (std::size_t j = 0; j <= i; ++j) {
        for (std::size_t c = 0; c < d; ++c) {
          out[(i * heads + h) * d + c] +=
              p[j] / total * static_cast<double>(v[(j * groups + g) * d + c]);
        }
      }
    }
  }
  return out;
}

LlamaConfig attention_config(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim) {
  LlamaConfig config;
  config.dims = {64, 64, 1, heads, kv_heads, head_dim, 16};
  return config;
}

/// Keys and values as a cache holds them, with room for three more positions, which are NaN.
struct Cached {
  Tensor keys;
  Tensor values;

  Cached(const ModelDims& dims, const RopeTable& table, const Tensor& k, const Tensor& v) {
    const std::int64_t tokens = k.desc().shape[0];
    for (Tensor* tensor : {&keys, &values}) {
      *tensor = Tensor({DType::kF32, {dims.kv_heads, tokens + 3, dims.head_dim}});
      for (float& value : tensor->as<float>()) value = std::nanf("");
    }
    const auto owned_pool = ThreadPool::create(1).value();
    ThreadPool& pool = *owned_pool;
    const HeadTile all{0, dims.kv_heads, 0, tokens};
    rotate_heads(pool, table, k.view(), all, 0, keys.mutable_view());
    split_heads(pool, v.view(), all, values.mutable_view());
  }
};

/// Rows [first, first + count) of `all`, as a tensor of the given shape.
TensorView rows_of(const Tensor& all, std::int64_t first, std::int64_t count, Shape shape) {
  const std::size_t row_bytes = all.desc().bytes() / static_cast<std::size_t>(all.desc().shape[0]);
  const TensorDesc desc{all.desc().dtype, shape};
  EXPECT_EQ(desc.bytes(), static_cast<std::size_t>(count) * row_bytes);
  return {all.view().data + static_cast<std::size_t>(first) * row_bytes, desc};
}

Tensor copy_of(TensorView view) {
  Tensor copy(view.desc);
  std::memcpy(copy.mutable_view().data, view.data, view.desc.bytes());
  return copy;
}

TEST(BlockedAttention, agrees_with_double_arithmetic) {
  struct Case {
    std::int64_t tokens, heads, kv_heads, head_dim;
  };
  for (const Case& c :
       {Case{1, 1, 1, 2}, {31, 4, 2, 16}, {64, 2, 2, 32}, {65, 6, 1, 24}, {200, 4, 2, 80}}) {
    const LlamaConfig config = attention_config(c.heads, c.kv_heads, c.head_dim);
    const RopeTable table = rope_table(config, c.tokens);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const Tensor q = random_tensor(dtype, {c.tokens, c.heads * c.head_dim}, 10, 2.0F);
      const Tensor k = random_tensor(dtype, {c.tokens, c.kv_heads * c.head_dim}, 11, 2.0F);
      const Tensor v = random_tensor(dtype, {c.tokens, c.kv_heads * c.head_dim}, 12);
      Tensor out({dtype, {c.tokens, c.heads * c.head_dim}});
      const auto owned_pool = ThreadPool::create(2).value();
      ThreadPool& pool = *owned_pool;
      const Cached cached(config.dims, table, k, v);
      blocked_attention(pool, table, q.view(), 0, cached.keys.view(), cached.values.view(),
                        out.mutable_view());
      const auto expected =
          naive_attention(config.dims, table, c.tokens, floats(q), floats(k), floats(v));
      const std::vector<float> got = floats(out);
      for (std::size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(static_cast<double>(got[i]), expected[i],
                    rounding(dtype) * std::abs(expected[i]) + 4e-6)
            << "tokens " << c.tokens << ", element " << i;
      }
    }
  }
}

TEST(BlockedAttention, a_nan_value_stays_in_the_rows_that_see_it) {
  const LlamaConfig config = attention_config(2, 1, 16);
  const RopeTable table = rope_table(config, 100);
  const Tensor q = random_tensor(DType::kF32, {100, 32}, 13);
  Tensor k = random_tensor(DType::kF32, {100, 16}, 14);
  const Tensor v = random_tensor(DType::kF32, {100, 16}, 15);
  k.as<float>()[70 * 16] = std::nanf("");
  Tensor out({DType::kF32, {100, 32}});
  const auto owned_pool = ThreadPool::create(1).value();
  ThreadPool& pool = *owned_pool;
  const Cached cached(config.dims, table, k, v);
  blocked_attention(pool, table, q.view(), 0, cached.keys.view(), cached.values.view(),
                    out.mutable_view());
  EXPECT_TRUE(std::isfinite(out.as<float>()[69 * 32]));
  EXPECT_TRUE(std::isnan(out.as<float>()[70 * 32]));
  EXPECT_TRUE(std::isnan(out.as<float>()[99 * 32 + 31]));
}

TEST(BlockedAttention, a_nan_among_the_values_reaches_no_row_before_its_block_of_keys) {
  const LlamaConfig config = attention_config(1, 1, 16);
  const RopeTable table = rope_table(config, 130);
  const Tensor q = random_tensor(DType::kF32, {130, 16}, 13);
  const Tensor k = random_tensor(DType::kF32, {130, 16}, 14);
  Tensor v = random_tensor(DType::kF32, {130, 16}, 15);
  v.as<float>()[100 * 16] = std::nanf("");
  const Cached cached(config.dims, table, k, v);
  const auto owned_pool = ThreadPool::create(1).value();
  ThreadPool& pool = *owned_pool;
  for (const std::int64_t first : {0, 1, 50}) {
    Tensor out({DType::kF32, {130 - first, 16}});
    blocked_attention(pool, table, rows_of(q, first, 130 - first, {130 - first, 16}), first,
                      cached.keys.view(), cached.values.view(), out.mutable_view());
    for (std::int64_t row = first; row < 130; ++row) {
      const bool finite =
          std::isfinite(out.as<float>()[static_cast<std::size_t>(row - first) * 16]);
      if (row < 64 || row >= 100) {
        EXPECT_EQ(finite, row < 64) << row << " of a pass from " << first;
      }
    }
  }
}

TEST(BlockedAttention, gives_a_row_the_same_bits_whichever_rows_come_with_it) {
  const LlamaConfig config = attention_config(4, 2, 24);
  constexpr std::int64_t kTokens = 200;
  const RopeTable table = rope_table(config, kTokens);
  const Tensor q = random_tensor(DType::kBF16, {kTokens, 4 * 24}, 10, 2.0F);
  const Tensor k = random_tensor(DType::kBF16, {kTokens, 2 * 24}, 11, 2.0F);
  const Tensor v = random_tensor(DType::kBF16, {kTokens, 2 * 24}, 12);
  const auto owned_pool = ThreadPool::create(2).value();
  ThreadPool& pool = *owned_pool;
  const Cached cached(config.dims, table, k, v);
  Tensor whole({DType::kF32, {kTokens, 4 * 24}});
  blocked_attention(pool, table, q.view(), 0, cached.keys.view(), cached.values.view(),
                    whole.mutable_view());
  for (const auto& [first, count] : {std::pair<std::int64_t, std::int64_t>{0, 1},
                                     {1, 1},
                                     {31, 2},
                                     {63, 70},
                                     {100, 100},
                                     {199, 1}}) {
    Tensor piece({DType::kF32, {count, 4 * 24}});
    // The positions behind the piece are not there yet.
    const Cached so_far(config.dims, table,
                        copy_of(rows_of(k, 0, first + count, {first + count, 2 * 24})),
                        copy_of(rows_of(v, 0, first + count, {first + count, 2 * 24})));
    blocked_attention(pool, table, rows_of(q, first, count, {count, 4 * 24}), first,
                      so_far.keys.view(), so_far.values.view(), piece.mutable_view());
    const TensorView expected = rows_of(whole, first, count, {count, 4 * 24});
    EXPECT_EQ(std::memcmp(piece.view().data, expected.data, expected.desc.bytes()), 0)
        << count << " rows from " << first;
  }
}

/// Angles of 0 for `tokens` positions: heads stay as they are.
RopeTable no_rotation(std::size_t half, std::size_t tokens) {
  return {half, std::vector<float>(half * tokens, 1.0F), std::vector<float>(half * tokens, 0.0F)};
}

TEST(BlockedAttention, gives_no_weight_to_scores_of_minus_infinity) {
  constexpr std::int64_t kTokens = 200;
  const ModelDims dims = attention_config(1, 1, 2).dims;
  Tensor q({DType::kF32, {kTokens, 2}});
  Tensor k({DType::kF32, {kTokens, 2}});
  const Tensor v = random_tensor(DType::kF32, {kTokens, 2}, 22);
  for (std::size_t token = 0; token < kTokens; ++token) {
    q.as<float>()[2 * token] = 1e20F;
    // The first 70 keys fill a block of 64 and a part of the next.
    k.as<float>()[2 * token] = token < 70 || token == 150 ? -1e20F : 0.0F;
  }
  Tensor out({DType::kF32, {kTokens, 2}});
  const auto owned_pool = ThreadPool::create(1).value();
  ThreadPool& pool = *owned_pool;
  const RopeTable table = no_rotation(1, kTokens);
  const Cached cached(dims, table, k, v);
  blocked_attention(pool, table, q.view(), 0, cached.keys.view(), cached.values.view(),
                    out.mutable_view());
  EXPECT_TRUE(std::isnan(out.as<float>()[2 * 69]));  // nothing to attend to, as causal_softmax
  double sum = 0;
  for (std::size_t token = 70; token < kTokens; ++token) {
    if (token != 150) sum += static_cast<double>(v.as<float>()[2 * token]);
    const double keys = static_cast<double>(token < 150 ? token - 69 : token - 70);
    ASSERT_NEAR(static_cast<double>(out.as<float>()[2 * token]), sum / keys, 4e-6) << token;
  }
}

TEST(Kernels, give_a_row_the_same_bits_whatever_rows_are_beside_it) {
  const Tensor hidden = random_tensor(DType::kF32, {100, 77}, 23);
  const Tensor scores = random_tensor(DType::kF32, {100, 100}, 24, 9.0F);
  // Each computes rows [first, first + rows).
  const auto owned_pool = ThreadPool::create(1).value();
  ThreadPool& pool = *owned_pool;
  const auto norm = [&](std::int64_t first, std::int64_t rows) {
    Tensor out({DType::kF32, {rows, 77}});
    rms_norm(pool, hidden, first, hidden.as<float>().data(), 1e-6, out.mutable_view());
    return out;
  };
  const auto softmax_rows = [&](std::int64_t first, std::int64_t rows) {
    Tensor out({DType::kF32, {1, rows, 100}});
    causal_softmax(pool, rows_of(scores, first, rows, {1, rows, 100}), first, 0.2F,
                   out.mutable_view());
    return out;
  };
  const auto silu = [&](std::int64_t first, std::int64_t rows) {
    Tensor out({DType::kF32, {rows, 77}});
    const TensorView in = rows_of(hidden, first, rows, {rows, 77});
    silu_multiply(pool, in, in, out.mutable_view());
    return out;
  };
  const auto expect_same = [](const auto& kernel, std::int64_t first, std::int64_t rows) {
    const std::vector<float> part = floats(kernel(first, rows));
    const std::vector<float> all = floats(kernel(0, 100));
    const std::size_t start = all.size() / 100 * static_cast<std::size_t>(first);
    EXPECT_EQ(std::memcmp(part.data(), &all[start], part.size() * sizeof(float)), 0);
  };
  expect_same(norm, 13, 5);
  expect_same(softmax_rows, 41, 7);
  expect_same(silu, 31, 3);
}

TEST(Kernels, give_the_same_bits_with_any_number_of_threads) {
  const LlamaConfig config = attention_config(6, 3, 20);
  const RopeTable table = rope_table(config, 150);
  const Tensor hidden = random_tensor(DType::kF32, {150, 120}, 16);
  const Tensor weight = random_tensor(DType::kF32, {120}, 17);
  const Tensor q = random_tensor(DType::kBF16, {150, 120}, 18);
  const Tensor k = random_tensor(DType::kBF16, {150, 60}, 19);
  const Tensor v = random_tensor(DType::kBF16, {150, 60}, 20);
  const Tensor scores = random_tensor(DType::kBF16, {6, 150, 150}, 21, 9.0F);
  const Cached cached(config.dims, table, k, v);
  const auto compute = [&](std::size_t threads) {
    const auto owned_pool = ThreadPool::create(threads).value();
    ThreadPool& pool = *owned_pool;
    std::vector<Tensor> results;
    const auto result = [&](Shape shape) {
      return results.emplace_back(TensorDesc{DType::kBF16, shape}).mutable_view();
    };
    results.push_back(random_tensor(DType::kF32, {700, 120}, 25));
    {
      const Tensor delta = random_tensor(DType::kBF16, {700, 120}, 26);
      Tensor out({DType::kBF16, {700, 120}});
      add_and_normalise(pool, delta.view(), 0, results[0], weight.as<float>().data(), 1e-6,
                        out.mutable_view());
      results.push_back(std::move(out));
    }
    rms_norm(pool, hidden, 0, weight.as<float>().data(), 1e-6, result({150, 120}));
    causal_softmax(pool, scores.view(), 0, 0.2F, result({6, 150, 150}));
    silu_multiply(pool, q.view(), q.view(), result({150, 120}));
    rotate_heads(pool, table, q.view(), {0, 6, 0, 150}, 0, result({6, 150, 20}));
    blocked_attention(pool, table, q.view(), 0, cached.keys.view(), cached.values.view(),
                      result({150, 120}));
    return results;
  };
  const std::vector<Tensor> one = compute(1);
  for (const std::size_t threads : {2U, 3U, 7U}) {
    const std::vector<Tensor> many = compute(threads);
    for (std::size_t i = 0; i < one.size(); ++i)
      EXPECT_TRUE(same_bits(one[i], many[i])) << "kernel " << i;
  }
}

}  // namespace
}  // namespace airlock
