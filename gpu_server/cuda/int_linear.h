#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "gpu_server/cuda/session.h"

/// Internal to gpu_server/cuda. Products of words mod 2^32 with int8 weights: the words are split
/// into four digits of 8 bits, cuBLAS multiplies those, and what it gives is put together.
namespace airlock::cuda {

/// Rows of words on the device: uint32 [rows, columns].
struct IntRows {
  const std::byte* words = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

/// Weights that meet the rows, as many columns, and where their product goes on the device: uint32
/// [rows, weights.n].
struct IntProduct {
  DeviceInt8Rows weights;
  std::byte* out = nullptr;
};

/// How many rows go at once, so that what lies in between needs no more than kIntScratchBytes: the
/// digits, int8 [4 * rows, pitch], and behind them one product of theirs, int32.
inline constexpr std::size_t kIntScratchBytes = std::size_t{128} << 20;
struct IntBlocks {
  std::int64_t rows = 0;
  std::size_t digits_bytes = 0;
  std::size_t products_bytes = 0;

  std::size_t bytes() const { return digits_bytes + products_bytes; }
};
IntBlocks plan_blocks(const IntRows& x, std::span<const IntProduct> products);

/// Queues all of it on `stream`, which is that of `blas`; `scratch` has blocks.bytes() on the
/// device, aligned to kInt8Multiple. kDevice, kResourceExhausted.
Status int_linear(Device& device, Products& blas, cudaStream_t stream, const IntRows& x,
                  std::span<const IntProduct> products, const IntBlocks& blocks,
                  std::byte* scratch);

/// Whether the device's int8 products are exact, for sums over `columns` of the largest and the
/// smallest digits and weights. Right results rely on int32 sums that wrap where they do not fit
/// (over 132,104 columns, 2^31 / (128 * 127)); a device or a library whose sums saturate is found
/// out here. kDevice where one result is wrong. One thread; on a stream of its own.
Status check_int_linear(Shared& shared, std::int64_t columns);

}  // namespace airlock::cuda
