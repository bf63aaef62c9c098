#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numbers>

#include "base/convert.h"
#include "base/mix.h"
#include "runtime/model/digest.h"
#include "runtime/model/model_source.h"

namespace airlock {

namespace {

/// Goes up whenever the same name and seed give other values. Part of the digest.
constexpr std::uint64_t kGeneratorVersion = 1;
constexpr std::size_t kQuantileCount = 65536;
constexpr std::size_t kLanes = 4;  // elements from one 64-bit mix, 16 bits each
constexpr float kNormSpread = 0.1F;

/// FNV-1a.
std::uint64_t hash_name(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return hash;
}

/// x with P(normal < x) == p for p in (0, 0.5]: a start in closed form (Abramowitz and
/// Stegun 26.2.23), then Newton.
double lower_quantile(double p) {
  const double t = std::sqrt(-2.0 * std::log(p));
  double x = -(t - (2.515517 + t * (0.802853 + t * 0.010328)) /
                       (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308))));
  for (int step = 0; step < 4; ++step) {
    const double error = 0.5 * std::erfc(-x / std::numbers::sqrt2) - p;
    x -= error * std::sqrt(2.0 * std::numbers::pi) * std::exp(0.5 * x * x);
  }
  return x;
}

/// The quantiles at the middles of 65536 equal parts, rounded to multiples of 2^-16: so the last
/// bits of a libm do not matter, and values are the same on every machine.
const float* quantiles() {
  static const std::vector<float> kTable = [] {
    std::vector<float> table(kQuantileCount);
    for (std::size_t i = 0; i < kQuantileCount / 2; ++i) {
      const double p = (static_cast<double>(i) + 0.5) / static_cast<double>(kQuantileCount);
      const auto value = static_cast<float>(std::round(lower_quantile(p) * 65536.0) / 65536.0);
      table[i] = value;
      table[kQuantileCount - 1 - i] = -value;
    }
    return table;
  }();
  return kTable.data();
}

/// Elements [first, first + count) of the stream `key`, times `scale` plus `offset`.
void generate(std::uint64_t key, std::uint64_t first, float scale, float offset, float* out,
              std::size_t count) {
  const float* table = quantiles();
  const auto bits_of = [key](std::uint64_t block) {
    return mix(key + block * 0x9e3779b97f4a7c15U);
  };
  const auto value = [&](std::uint64_t bits, std::uint64_t lane) {
    return table[(bits >> (16 * lane)) & 0xffffU] * scale + offset;
  };
  const auto element = [&](std::uint64_t at) { return value(bits_of(at / kLanes), at % kLanes); };
  std::size_t done = 0;
  for (; done < count && (first + done) % kLanes != 0; ++done) out[done] = element(first + done);
  for (; count - done >= kLanes; done += kLanes) {
    const std::uint64_t bits = bits_of((first + done) / kLanes);
    out[done] = value(bits, 0);
    out[done + 1] = value(bits, 1);
    out[done + 2] = value(bits, 2);
    out[done + 3] = value(bits, 3);
  }
  for (; done < count; ++done) out[done] = element(first + done);
}

class SyntheticModel : public ModelSource {
 public:
  SyntheticModel(const LlamaConfig& config, std::uint64_t seed) : config_(config), seed_(seed) {
    for (ExpectedTensor& tensor : expected_tensors(config))
      shapes_.emplace(std::move(tensor.name), tensor.shape);
  }

  const LlamaConfig& config() const override { return config_; }
  DType stored_dtype() const override { return config_.dtype; }

  Status read_rows(const std::string& name, std::int64_t first_row,
                   MutableTensorView out) const override {
    const auto place = shapes_.find(name);
    if (place == shapes_.end())
      return {StatusCode::kInvalidInput, "the model has no tensor '{}'", name};
    const Shape& shape = place->second;
    ASSIGN_OR_RETURN(const std::int64_t rows, check_rows(name, shape, first_row, out.desc));
    const std::int64_t columns = shape[shape.rank() - 1];
    const bool norm = shape.rank() == 1;
    const float scale =
        norm ? kNormSpread : static_cast<float>(1.0 / std::sqrt(static_cast<double>(columns)));
    const float offset = norm ? 1.0F : 0.0F;
    const std::uint64_t key = mix(hash_name(name) ^ mix(seed_ + mix(kGeneratorVersion)));
    const auto first = static_cast<std::uint64_t>(first_row * columns);
    const auto count = static_cast<std::size_t>(rows * columns);
    const std::size_t element = dtype_bytes(out.desc.dtype);
    std::array<float, 4096> chunk;  // NOLINT: written before it is read
    for (std::size_t done = 0; done < count;) {
      const std::size_t now = std::min(chunk.size(), count - done);
      generate(key, first + done, scale, offset, chunk.data(), now);
      store_f32(out.desc.dtype, chunk.data(), out.data + done * element, now);
      done += now;
    }
    return {};
  }

  std::optional<TensorView> mapped(const std::string& /*name*/, DType /*dtype*/) const override {
    return std::nullopt;
  }
  void release(const std::string& /*name*/) const override {}

  Result<std::string> digest() const override {
    const std::string text = fmt::format("airlock synthetic model\ngenerator {}\nseed {}\n{}\n",
                                         kGeneratorVersion, seed_, config_to_json(config_));
    return sha256_of(std::as_bytes(std::span(text)));
  }

 private:
  LlamaConfig config_;
  std::uint64_t seed_;
  std::map<std::string, Shape, std::less<>> shapes_;
};

}  // namespace

Result<std::unique_ptr<ModelSource>> make_synthetic_model(const std::string& config_path,
                                                          std::uint64_t seed) {
  ASSIGN_OR_RETURN(const LlamaConfig config, load_config(config_path));
  return std::unique_ptr<ModelSource>(std::make_unique<SyntheticModel>(config, seed));
}

}  // namespace airlock
