#include "bench/cuda/bench_model.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>

namespace airlock::bench {

namespace {

/// splitmix64.
std::uint64_t next_random(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9e3779b97f4a7c15U);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

/// Which bits are random, and the exponent of the others: magnitudes from 1/32 to 1/16. Of integers
/// all are.
struct Pattern {
  std::uint64_t random_bits;
  std::uint64_t fixed_bits;
};

Pattern pattern_of(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return {0x807f807f807f807fU, 0x3d003d003d003d00U};
    case DType::kF16:
      return {0x83ff83ff83ff83ffU, 0x2800280028002800U};
    case DType::kU8:
    case DType::kU32:
    case DType::kI8:
      return {~std::uint64_t{0}, 0};
    default:
      return {0x807fffff807fffffU, 0x3d0000003d000000U};
  }
}

class BenchModel : public ModelSource {
 public:
  explicit BenchModel(LlamaConfig config) : config_(std::move(config)) {}
  const LlamaConfig& config() const override { return config_; }
  DType stored_dtype() const override { return DType::kBF16; }
  Status read_rows(const std::string& name, std::int64_t first_row,
                   MutableTensorView out) const override {
    const std::uint64_t seed =
        std::hash<std::string>{}(name) + static_cast<std::uint64_t>(first_row);
    fill_random(out.bytes(), out.desc.dtype, seed);
    return {};
  }
  std::optional<TensorView> mapped(const std::string&, DType) const override {
    return std::nullopt;
  }
  void release(const std::string&) const override {}
  Result<std::string> digest() const override { return std::string(64, '0'); }

 private:
  LlamaConfig config_;
};

}  // namespace

void fill_random(std::span<std::byte> bytes, DType dtype, std::uint64_t seed) {
  const Pattern pattern = pattern_of(dtype);
  for (std::size_t i = 0; i < bytes.size(); i += sizeof(std::uint64_t)) {
    const std::uint64_t word = (next_random(seed) & pattern.random_bits) | pattern.fixed_bits;
    std::memcpy(&bytes[i], &word, std::min(sizeof word, bytes.size() - i));
  }
}

Result<std::unique_ptr<ModelSource>> make_bench_model(const std::string& config_path,
                                                      std::int64_t layers) {
  ASSIGN_OR_RETURN(LlamaConfig config, load_config(config_path));
  config.dims.layers = std::min(config.dims.layers, layers);
  return std::unique_ptr<ModelSource>(std::make_unique<BenchModel>(std::move(config)));
}

}  // namespace airlock::bench
