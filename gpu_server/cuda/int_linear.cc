#include "gpu_server/cuda/int_linear.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/mix.h"
#include "gpu_server/cuda/kernels.h"

namespace airlock::cuda {

namespace {

constexpr std::size_t kWordBytes = sizeof(std::uint32_t);
constexpr std::chrono::seconds kCheckTimeout{60};

std::int64_t pitch_of(const IntRows& x) { return int8_rounded(x.columns); }

std::size_t bytes_of(std::int64_t rows, std::int64_t row_bytes) {
  return static_cast<std::size_t>(rows * row_bytes);
}

}  // namespace

IntBlocks plan_blocks(const IntRows& x, std::span<const IntProduct> products) {
  std::int64_t outputs = 0;
  for (const IntProduct& product : products)
    outputs = std::max(outputs, int8_rounded(product.weights.n));
  const std::int64_t digits = kDigits * pitch_of(x);
  const std::int64_t sums = kDigits * outputs * static_cast<std::int64_t>(kWordBytes);
  const std::int64_t most = static_cast<std::int64_t>(kIntScratchBytes) / (digits + sums);
  IntBlocks blocks;
  blocks.rows = std::clamp<std::int64_t>(most, 1, x.rows);
  blocks.digits_bytes = aligned(bytes_of(blocks.rows, digits));
  blocks.products_bytes = bytes_of(blocks.rows, sums);
  return blocks;
}

Status int_linear(Device& device, Products& blas, cudaStream_t stream, const IntRows& x,
                  std::span<const IntProduct> products, const IntBlocks& blocks,
                  std::byte* scratch) {
  std::byte* sums = scratch + blocks.digits_bytes;
  for (std::int64_t first = 0; first < x.rows; first += blocks.rows) {
    const std::int64_t rows = std::min(blocks.rows, x.rows - first);
    const Split split{.in = reinterpret_cast<const std::uint32_t*>(x.words) + first * x.columns,
                      .out = reinterpret_cast<std::uint32_t*>(scratch),
                      .rows = rows,
                      .columns = x.columns,
                      .pitch = pitch_of(x)};
    RETURN_IF_ERROR(device.check(launch_split(split, stream), "split words into digits"));
    for (const IntProduct& product : products) {
      const std::int64_t n = product.weights.n;
      RETURN_IF_ERROR(blas.int8_linear(scratch, kDigits * rows, product.weights, sums));
      const Combine combine{.in = reinterpret_cast<const std::int32_t*>(sums),
                            .pitch = int8_rounded(n),
                            .out = reinterpret_cast<std::uint32_t*>(product.out) + first * n,
                            .rows = rows,
                            .columns = n};
      RETURN_IF_ERROR(device.check(launch_combine(combine, stream), "put digits together"));
    }
  }
  return {};
}

namespace {

// Words whose digits are all -128, all 127, -128 and 127 in turn, -1; the last row has any.
constexpr std::array<std::uint32_t, 5> kWords{0x7f7f7f80U, 0x7f7f7f7fU, 0x7f7f7f80U, 0xffffffffU,
                                              0};
// As many weights' rows, the last with any values; no multiple of what cuBLAS likes.
constexpr std::int64_t kOutputs = 5;

std::uint32_t word_at(std::size_t row, std::int64_t column) {
  if (row + 1 == kWords.size())
    return static_cast<std::uint32_t>(mix(static_cast<std::uint64_t>(column)));
  return row == 2 && column % 2 != 0 ? kWords[1] : kWords[row];
}

/// All 127; all -127; in turn; one alone, at the end; any.
int weight_at(std::int64_t output, std::int64_t column, std::int64_t columns) {
  switch (output) {
    case 0:
      return 127;
    case 1:
      return -127;
    case 2:
      return column % 2 == 0 ? 127 : -127;
    case 3:
      return column + 1 == columns ? 127 : 0;
    default:
      return static_cast<int>(mix(static_cast<std::uint64_t>(~column)) % 255) - 127;
  }
}

/// Where things lie in host memory that the device copies, and on the device.
struct CheckPlan {
  IntRows x;
  std::int64_t pitch = 0;
  std::size_t weights_bytes = 0;
  std::size_t words_bytes = 0;
  std::size_t results_bytes = 0;
  std::size_t weights_at = 0, words_at = 0, results_at = 0, scratch_at = 0;

  explicit CheckPlan(std::int64_t columns) : pitch(int8_rounded(columns)) {
    x = {nullptr, static_cast<std::int64_t>(kWords.size()), columns};
    weights_bytes = bytes_of(int8_rounded(kOutputs), pitch);
    words_bytes = bytes_of(x.rows * columns, static_cast<std::int64_t>(kWordBytes));
    results_bytes = bytes_of(x.rows * kOutputs, static_cast<std::int64_t>(kWordBytes));
    words_at = aligned(weights_bytes);
    results_at = words_at + aligned(words_bytes);
    scratch_at = results_at + aligned(results_bytes);
  }
};

void fill(const CheckPlan& plan, std::byte* host) {
  std::memset(host, 0, plan.weights_bytes);
  for (std::int64_t output = 0; output < kOutputs; ++output) {
    for (std::int64_t column = 0; column < plan.x.columns; ++column) {
      host[output * plan.pitch + column] =
          static_cast<std::byte>(weight_at(output, column, plan.x.columns));
    }
  }
  auto* words = reinterpret_cast<std::uint32_t*>(host + plan.words_at);
  for (std::size_t row = 0; row < kWords.size(); ++row) {
    for (std::int64_t column = 0; column < plan.x.columns; ++column)
      *words++ = word_at(row, column);
  }
}

Status compare(const CheckPlan& plan, const std::byte* host, const Device& device) {
  const auto* got = reinterpret_cast<const std::uint32_t*>(host + plan.results_at);
  for (std::size_t row = 0; row < kWords.size(); ++row) {
    for (std::int64_t output = 0; output < kOutputs; ++output, ++got) {
      std::uint32_t want = 0;
      for (std::int64_t column = 0; column < plan.x.columns; ++column) {
        want += word_at(row, column) *
                static_cast<std::uint32_t>(weight_at(output, column, plan.x.columns));
      }
      if (*got == want) continue;
      return {StatusCode::kDevice,
              "{}: int8 products of {} columns are not exact ({} where {} is right): no private "
              "session can use it; --device cpu can",
              device.label(),
              plan.x.columns,
              *got,
              want};
    }
  }
  return {};
}

/// Queues the check from the staging's piece to the device's `memory` and back.
Status queue(const CheckPlan& plan, const IntBlocks& blocks, Device& device, Products& blas,
             cudaStream_t stream, std::byte* memory, Staging& staging) {
  constexpr std::string_view kWhat = "check int8 products";
  Staging::Piece& host = staging.piece(0);
  RETURN_IF_ERROR(staging.send(host, memory, plan.results_at, stream, kWhat));
  IntRows x = plan.x;
  x.words = memory + plan.words_at;
  const std::array<IntProduct, 1> product{
      {{{memory + plan.weights_at, kOutputs, x.columns, plan.pitch}, memory + plan.results_at}}};
  RETURN_IF_ERROR(int_linear(device, blas, stream, x, product, blocks, memory + plan.scratch_at));
  return device.check(
      cudaMemcpyAsync(host.memory.data() + plan.results_at, memory + plan.results_at,
                      plan.results_bytes, cudaMemcpyDeviceToHost, stream),
      kWhat);
}

}  // namespace

Status check_int_linear(Shared& shared, std::int64_t columns) {
  Device& device = *shared.device;
  const CheckPlan plan(columns);
  const std::array<IntProduct, 1> shape{{{{nullptr, kOutputs, columns, plan.pitch}, nullptr}}};
  const IntBlocks blocks = plan_blocks(plan.x, shape);
  ASSIGN_OR_RETURN(const DeviceMemory memory,
                   allocate(device, plan.scratch_at + blocks.bytes(), "a check of int8 products"));
  Staging staging(device, 1, plan.scratch_at);
  RETURN_IF_ERROR(staging.prepare());
  ASSIGN_OR_RETURN(const Stream stream, make_stream(device));
  ASSIGN_OR_RETURN(Products blas, shared.take_products());
  RETURN_IF_ERROR(blas.use(stream.get()));
  std::byte* host = staging.piece(0).memory.data();
  fill(plan, host);
  const Status queued = queue(plan, blocks, device, blas, stream.get(),
                              static_cast<std::byte*>(memory.get()), staging);
  RETURN_IF_ERROR(device.wait_until_over(cudaStreamQuery, stream.get(), "a check of int8 products",
                                         Deadline::after(kCheckTimeout)));
  shared.give_back(std::move(blas));
  RETURN_IF_ERROR(queued);
  return compare(plan, host, device);
}

}  // namespace airlock::cuda
