#include "tests/cuda_fake/fake_gemm.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "base/float_bits.h"
#include "base/vectorize.h"
#include "gpu_server/cuda/elements.h"

namespace airlock::cuda_fake {

namespace {

constexpr std::int64_t kRows = 8;  // of C in a tile
constexpr std::int64_t kColumns = 4;

using Vector = float __attribute__((vector_size(16), may_alias));

float to_tf32(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7f800000U) == 0x7f800000U) return value;
  return std::bit_cast<float>((bits + 0x1000U) & ~0x1fffU);
}

template <typename Load>
void pack(const Load& load, std::int64_t first, std::int64_t lanes, std::int64_t width,
          std::int64_t k, std::int64_t lane_step, std::int64_t k_step, float* out) {
  for (std::int64_t lane = 0; lane < lanes; ++lane) {
    const std::int64_t start = (first + lane) * lane_step;
    for (std::int64_t l = 0; l < k; ++l) out[l * width + lane] = load(start + l * k_step);
  }
  for (std::int64_t lane = lanes; lane < width; ++lane) {
    for (std::int64_t l = 0; l < k; ++l) out[l * width + lane] = 0;
  }
}

/// `width` rows (or columns) from `first` on as [k, width] floats; those past the end are 0.
void pack(const Operand& from, bool along_ld, bool tf32, std::int64_t first, std::int64_t end,
          std::int64_t width, std::int64_t k, float* out) {
  const std::int64_t lanes = std::min(width, end - first);
  const std::int64_t lane_step = along_ld ? from.ld : 1;
  const std::int64_t k_step = along_ld ? 1 : from.ld;
  const auto run = [&](auto load) { pack(load, first, lanes, width, k, lane_step, k_step, out); };
  if (from.dtype == DType::kF32) {
    const auto* data = reinterpret_cast<const float*>(from.data);
    if (tf32) {
      run([data](std::int64_t i) { return to_tf32(data[i]); });
    } else {
      run([data](std::int64_t i) { return data[i]; });
    }
    return;
  }
  const auto* data = reinterpret_cast<const std::uint16_t*>(from.data);
  if (from.dtype == DType::kBF16) {
    run([data](std::int64_t i) { return f32_from_bf16(data[i]); });
  } else {
    run([data](std::int64_t i) { return f32_from_f16(data[i]); });
  }
}

/// a: [k, kRows], b: [k, kColumns], out: [kColumns, kRows].
AIRLOCK_VECTORIZE void multiply_tile(const float* a, const float* b, std::int64_t k, float* out) {
  Vector sum[kColumns][2] = {};
  for (std::int64_t l = 0; l < k; ++l) {
    const auto* row = reinterpret_cast<const Vector*>(a + l * kRows);
    const Vector low = row[0];
    const Vector high = row[1];
    const float* factors = b + l * kColumns;
    sum[0][0] += low * factors[0];
    sum[0][1] += high * factors[0];
    sum[1][0] += low * factors[1];
    sum[1][1] += high * factors[1];
    sum[2][0] += low * factors[2];
    sum[2][1] += high * factors[2];
    sum[3][0] += low * factors[3];
    sum[3][1] += high * factors[3];
  }
  std::memcpy(out, sum, sizeof sum);
}

void store_tile(const Product& p, const float* tile, std::int64_t i0, std::int64_t j0) {
  const auto alpha = static_cast<float>(p.alpha);
  const auto beta = static_cast<float>(p.beta);
  for (std::int64_t j = j0; j < std::min(j0 + kColumns, p.n); ++j) {
    for (std::int64_t i = i0; i < std::min(i0 + kRows, p.m); ++i) {
      const std::int64_t at = i + j * p.ldc;
      float value = alpha == 0 ? 0.0F : alpha * tile[(j - j0) * kRows + (i - i0)];
      if (beta != 0) value += beta * cuda::load_element(p.c, p.c_dtype, at);
      cuda::store_element(p.c, p.c_dtype, at, value);
    }
  }
}

/// Floats, aligned for Vector.
class Packed {
 public:
  explicit Packed(std::int64_t count) : memory_(static_cast<std::size_t>(count) + 8) {}
  float* data() {
    void* start = memory_.data();
    std::size_t space = memory_.size() * sizeof(float);
    return static_cast<float*>(std::align(16, sizeof(float), start, space));
  }

 private:
  std::vector<float> memory_;
};

/// By the definition. No test multiplies so much fp64 that this would have to be fast.
void multiply_f64(const Product& p) {
  const auto* a = reinterpret_cast<const double*>(p.a.data);
  const auto* b = reinterpret_cast<const double*>(p.b.data);
  auto* c = reinterpret_cast<double*>(p.c);
  const std::int64_t k = p.alpha == 0 ? 0 : p.k;
  for (std::int64_t j = 0; j < p.n; ++j) {
    for (std::int64_t i = 0; i < p.m; ++i) {
      double sum = 0;
      for (std::int64_t l = 0; l < k; ++l) {
        sum += a[p.a.transposed ? l + i * p.a.ld : i + l * p.a.ld] *
               b[p.b.transposed ? j + l * p.b.ld : l + j * p.b.ld];
      }
      double& out = c[i + j * p.ldc];
      out = (k == 0 ? 0.0 : p.alpha * sum) + (p.beta == 0 ? 0.0 : p.beta * out);
    }
  }
}

/// `values` bytes `step` apart as int32, dense.
void widen(const std::byte* from, std::int64_t step, std::int64_t values, std::int32_t* out) {
  const auto* bytes = reinterpret_cast<const std::int8_t*>(from);
  for (std::int64_t i = 0; i < values; ++i) out[i] = bytes[i * step];
}

std::uint32_t saturating_dot(const std::int32_t* a, const std::int32_t* b, std::int64_t k) {
  std::int64_t sum = 0;
  for (std::int64_t l = 0; l < k; ++l) {
    sum = std::clamp<std::int64_t>(sum + a[l] * b[l], std::numeric_limits<std::int32_t>::min(),
                                   std::numeric_limits<std::int32_t>::max());
  }
  return static_cast<std::uint32_t>(sum);
}

/// Unsigned words wrap as a device's int32 sums do.
AIRLOCK_VECTORIZE std::uint32_t dot(const std::int32_t* a, const std::int32_t* b, std::int64_t k) {
  std::uint32_t sum = 0;
  for (std::int64_t l = 0; l < k; ++l) sum += static_cast<std::uint32_t>(a[l] * b[l]);
  return sum;
}

void multiply_int8(const Product& p) {
  auto* c = reinterpret_cast<std::int32_t*>(p.c);
  const std::int64_t k = p.alpha == 0 ? 0 : p.k;
  const auto alpha = static_cast<std::uint32_t>(static_cast<std::int32_t>(p.alpha));
  const auto beta = static_cast<std::uint32_t>(static_cast<std::int32_t>(p.beta));
  const auto size = static_cast<std::size_t>(k);
  const auto sum_of = p.saturate ? saturating_dot : dot;
  std::vector<std::int32_t> columns(size * static_cast<std::size_t>(p.n));  // of B
  std::vector<std::int32_t> row(size);                                      // of A
  for (std::int64_t j = 0; j < p.n && k > 0; ++j) {
    widen(p.b.data + (p.b.transposed ? j : j * p.b.ld), p.b.transposed ? p.b.ld : 1, k,
          &columns[static_cast<std::size_t>(j) * size]);
  }
  for (std::int64_t i = 0; i < p.m; ++i) {
    if (k > 0)
      widen(p.a.data + (p.a.transposed ? i * p.a.ld : i), p.a.transposed ? 1 : p.a.ld, k,
            row.data());
    for (std::int64_t j = 0; j < p.n; ++j) {
      std::int32_t& out = c[i + j * p.ldc];
      std::uint32_t value =
          alpha * sum_of(row.data(), columns.data() + static_cast<std::size_t>(j) * size, k);
      if (beta != 0) value += beta * static_cast<std::uint32_t>(out);
      out = static_cast<std::int32_t>(value);
    }
  }
}

}  // namespace

void multiply(const Product& p) {
  if (p.c_dtype == DType::kF64) return multiply_f64(p);
  if (p.c_dtype == DType::kI32) return multiply_int8(p);
  const std::int64_t k = p.alpha == 0 ? 0 : p.k;
  const std::int64_t panels = (p.n + kColumns - 1) / kColumns;
  Packed b_memory(panels * k * kColumns);
  Packed a_memory(k * kRows);
  float* b = b_memory.data();
  float* a = a_memory.data();
  for (std::int64_t panel = 0; panel < panels; ++panel) {
    pack(p.b, !p.b.transposed, p.tf32, panel * kColumns, p.n, kColumns, k,
         b + panel * k * kColumns);
  }
  for (std::int64_t i = 0; i < p.m; i += kRows) {
    pack(p.a, p.a.transposed, p.tf32, i, p.m, kRows, k, a);
    for (std::int64_t panel = 0; panel < panels; ++panel) {
      float tile[kRows * kColumns];
      multiply_tile(a, b + panel * k * kColumns, k, tile);
      store_tile(p, tile, i, panel * kColumns);
    }
  }
}

}  // namespace airlock::cuda_fake
