#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gpu_server/cuda/memory.h"
#include "proto/op.h"
#include "runtime/compute.h"
#include "runtime/exact/int8_weights.h"
#include "runtime/model/model_source.h"
#include "runtime/placement/placement.h"

/// Internal to gpu_server/cuda.
namespace airlock::cuda {

/// A row of int8 begins at a multiple of so many bytes, zeros behind its values: cuBLAS demands 4,
/// and its fastest kernels like 16. Products are of as many rows.
inline constexpr std::int64_t kInt8Multiple = 16;
constexpr std::int64_t int8_rounded(std::int64_t count) {
  return (count + kInt8Multiple - 1) / kInt8Multiple * kInt8Multiple;
}

/// One plane of a weight, or of some that lie behind each other: int8 [n, pitch] on the device, of
/// each row k values, then zeros. Up to int8_rounded(n) rows may be read: what lies behind the last
/// is memory too.
struct DeviceInt8Rows {
  const std::byte* data = nullptr;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t pitch = 0;  // a multiple of kInt8Multiple
};

/// The int8 weights of a model on the device: of each linear up to two planes, in each its weights'
/// rows that are held one behind the other. Never changes once it is made; with more planes it is
/// another one, which shares the memory of the first.
struct DeviceInt8 {
  DeviceInt8(const ModelDims& model_dims, const ModelShare& model_share);

  /// Null where it is not there.
  std::byte*& plane(Linear linear, std::uint16_t layer, std::size_t plane) {
    return planes[slot(linear, layer)][plane];
  }
  const std::byte* plane(Linear linear, std::uint16_t layer, std::size_t plane) const {
    return planes[slot(linear, layer)][plane];
  }
  /// Whether the linear of an int_linear or pad_linear has the planes that it asks for; what of it
  /// is held says the share.
  bool has_all(const OpSpec& spec) const;
  /// The `index`th weight of an op for which has_all() is true.
  DeviceInt8Rows weight(const OpSpec& spec, std::size_t index, std::size_t plane) const;

  std::size_t slot(Linear linear, std::uint16_t layer) const;  // in `planes`
  /// Of one of the linear's weights, 0 to 2.
  const RowRange& rows(Linear linear, std::uint16_t layer, std::size_t weight) const;
  /// That are held of the linear's first `count` weights.
  std::int64_t rows_of(Linear linear, std::uint16_t layer, std::size_t count) const;
  std::int64_t rows_of(Linear linear, std::uint16_t layer) const;

  ModelDims dims;
  ModelShare share;
  std::vector<std::array<std::byte*, kMaxInt8Planes>> planes;  // four a layer, then lm_head
  std::vector<std::shared_ptr<void>> memory;                   // shared by those made from it
};

struct LoadedInt8 {
  std::shared_ptr<const DeviceInt8> weights;
  std::vector<Int8Line> lines;  // of the linears that were made
};

struct Int8Loading {
  const ModelShare* share = nullptr;             // always the same; null: all of the model
  std::size_t threads = 1;                       // that make the weights, and one more
  Int8Progress progress;                         // may be empty
  std::function<void(const std::string&)> warn;  // may be empty
};

/// Makes what `choice` asks for and `had` (may be null) has not, and copies it through pinned
/// buffers while it is made. kResourceExhausted where the device has too little memory free (need
/// and have); else the model's errors, or the device's: then all is as it was.
Result<LoadedInt8> load_int8(Device& device, const ModelSource& model, Int8Weights choice,
                             const DeviceInt8* had, const Int8Loading& how);

}  // namespace airlock::cuda
