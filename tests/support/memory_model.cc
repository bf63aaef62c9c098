#include "tests/support/memory_model.h"

#include <cmath>
#include <functional>

#include "base/check.h"
#include "base/convert.h"

namespace airlock::testing {

namespace {

std::uint64_t mix(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

std::uint64_t hash_name(const std::string& name, std::uint64_t seed) {
  std::uint64_t hash = mix(seed);
  for (const char c : name)
    hash = mix(hash ^ static_cast<std::uint64_t>(static_cast<unsigned char>(c)));
  return hash;
}

bool is_norm(const std::string& name) { return name.find("norm.weight") != std::string::npos; }

/// Uniform with variance 1 / columns; norms near 1.
float value_at(std::uint64_t hash, std::uint64_t index, double scale, bool norm) {
  const double uniform = static_cast<double>(mix(hash + index) >> 11) * 0x1p-53 * 2.0 - 1.0;
  return static_cast<float>(norm ? 1.0 + 0.1 * uniform : uniform * scale);
}

}  // namespace

MemoryModel::MemoryModel(const Options& options) : options_(options) {
  config_.dims = options.dims;
  config_.tie_word_embeddings = options.tied;
  config_.dtype = options.stored_dtype;
}

Shape MemoryModel::shape(const std::string& name) const {
  const ModelDims& dims = options_.dims;
  if (name == kEmbedName) return {dims.vocab, dims.hidden};
  if (name == kLmHeadName) {
    CHECK(!options_.tied);
    return {dims.vocab, dims.hidden};
  }
  if (is_norm(name)) return {1, dims.hidden};
  for (std::int64_t layer = 0; layer < dims.layers; ++layer) {
    for (int kind = 1; kind <= 7; ++kind) {
      const WeightId id{static_cast<WeightKind>(kind), static_cast<std::uint16_t>(layer)};
      if (weight_name(id) == name) return weight_shape(dims, id.kind);
    }
  }
  check_failed(__FILE__, __LINE__, name.c_str());
}

Status MemoryModel::read_rows(const std::string& name, std::int64_t first_row,
                              MutableTensorView out) const {
  if (name == options_.broken_tensor) return {StatusCode::kInvalidInput, "this tensor is broken"};
  const Shape whole = shape(name);
  const std::size_t columns = static_cast<std::size_t>(whole[1]);
  const std::size_t count = out.desc.elements();
  CHECK(first_row >= 0 && static_cast<std::size_t>(first_row) * columns + count <=
                              static_cast<std::size_t>(whole[0]) * columns);
  const std::uint64_t hash = hash_name(name, options_.seed);
  const double scale = std::sqrt(3.0 / static_cast<double>(columns));
  const std::size_t start = static_cast<std::size_t>(first_row) * columns;
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = value_at(hash, start + i, scale, is_norm(name));
  if (options_.stored_dtype != DType::kF32) {
    std::vector<std::uint16_t> stored(count);
    store_f32(options_.stored_dtype, values.data(), reinterpret_cast<std::byte*>(stored.data()),
              count);
    load_f32(options_.stored_dtype, reinterpret_cast<const std::byte*>(stored.data()),
             values.data(), count);
  }
  store_f32(out.desc.dtype, values.data(), out.data, count);
  return {};
}

void MemoryModel::release(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  ++releases_[name];
}

std::map<std::string, int> MemoryModel::releases() const {
  const std::lock_guard lock(mutex_);
  return releases_;
}

Result<std::string> MemoryModel::digest() const {
  std::string digest;
  for (std::uint64_t part = 0; part < 8; ++part) {
    constexpr char kHex[] = "0123456789abcdef";
    std::uint64_t bits = mix(hash_name("digest", options_.seed) + part);
    for (int i = 0; i < 8; ++i, bits >>= 4) digest.push_back(kHex[bits & 15U]);
  }
  return digest;
}

std::vector<float> MemoryModel::values(const std::string& name, DType dtype) const {
  Tensor tensor(TensorDesc{dtype, shape(name)});
  CHECK(read_rows(name, 0, tensor.mutable_view()).ok());
  std::vector<float> values(tensor.desc().elements());
  load_f32(dtype, tensor.view().data, values.data(), values.size());
  return values;
}

}  // namespace airlock::testing
