// What int_linear and pad_linear do: words mod 2^32, and int8 weights.
#include <string.h>  // explicit_bzero

#include <algorithm>
#include <cstring>

#include "gpu_server/cuda/int_linear.h"
#include "gpu_server/cuda/op.h"
#include "proto/limits.h"

namespace airlock::cuda {

namespace {

constexpr std::size_t kWordBytes = sizeof(std::uint32_t);
// A row of pads fits one piece.
static_assert(static_cast<std::size_t>(std::max({limits::kMaxHidden, limits::kMaxIntermediate,
                                                 limits::kMaxHeads* limits::kMaxHeadDim})) *
                  kWordBytes <=
              Staging::kPieceBytes);

/// A key that the peer can change afterwards, read once.
Result<WordStream> read_key(TensorView tensor) {
  PadKey key;
  std::memcpy(key.data(), tensor.data, key.size());
  Result<WordStream> stream = WordStream::create(key);
  ::explicit_bzero(key.data(), key.size());
  return stream;
}

}  // namespace

Status OpWork::check_int8() {
  int8_ = session_.shared->int8_weights();
  if (int8_ == nullptr || !int8_->has_all(spec_)) {
    return {StatusCode::kInvalidInput, "{}: there are no int8 weights of {} planes for {}",
            name_of(spec_.op), spec_.planes, name_of(linear_of(spec_))};
  }
  if (spec_.op != Op::kPadLinear) return {};
  ASSIGN_OR_RETURN(WordStream pads, read_key(memory_.inputs[0]));
  pads_.emplace(std::move(pads));
  places_.resize(memory_.inputs[1].desc.elements());
  std::memcpy(places_.data(), memory_.inputs[1].data, memory_.inputs[1].desc.bytes());
  return {};
}

Status OpWork::copy_pads() {
  const std::size_t rows = places_.size() / 2;
  const auto columns = static_cast<std::size_t>(int8_->weight(spec_, 0, 0).k);
  const std::size_t row_bytes = columns * kWordBytes;
  Staging& staging = session_.stage_in;
  RETURN_IF_ERROR(reserve(lane_->in, rows * row_bytes, session_.in));
  RETURN_IF_ERROR(record(lane_->in_begin, session_.in));
  RETURN_IF_ERROR(staging.prepare());
  operands_.assign(1, lane_->in.data());
  const std::size_t step = Staging::kPieceBytes / row_bytes;
  for (std::size_t row = 0; row < rows; row += step) {
    const std::size_t count = std::min(step, rows - row);
    const std::size_t bytes = count * row_bytes;
    ASSIGN_OR_RETURN(Staging::Piece * piece, staging.next_for_secret(bytes, this));
    const std::span words(reinterpret_cast<std::uint32_t*>(piece->memory.data()), count * columns);
    for (std::size_t i = 0; i < count; ++i) {
      const WordsPlace place{.epoch = places_[2 * (row + i)],
                             .layer = layer_of(spec_),
                             .linear = linear_of(spec_),
                             .row = places_[2 * (row + i) + 1]};
      RETURN_IF_ERROR(pads_->words(place, words.subspan(i * columns, columns)));
    }
    RETURN_IF_ERROR(staging.send(*piece, operands_[0] + row * row_bytes, bytes, session_.in.get(),
                                 "copy pads"));
  }
  RETURN_IF_ERROR(record(lane_->in_end, session_.in));
  return join(session_.compute, lane_->in_end);
}

Status OpWork::multiply_words() {
  const std::int64_t rows = memory_.results[0].desc.shape[0];
  const auto planes = static_cast<std::size_t>(spec_.planes);
  const std::size_t count = memory_.results.size() / planes;
  std::vector<IntProduct> products;
  std::byte* values = lane_->out.data();
  for (std::size_t plane = 0; plane < planes; ++plane) {
    for (std::size_t first = 0, end = 0; first < count; first = end) {
      // Weights that lie right behind each other are one.
      DeviceInt8Rows group = int8_->weight(spec_, first, plane);
      for (end = first + 1; end < count; ++end) {
        const DeviceInt8Rows next = int8_->weight(spec_, end, plane);
        if (next.data != group.data + group.n * group.pitch) break;
        group.n += next.n;
      }
      products.push_back({group, values});
      const std::size_t pitch_bytes = static_cast<std::size_t>(group.n) * kWordBytes;
      std::byte* mine = values;
      for (std::size_t i = first; i < end; ++i) {
        const auto n = static_cast<std::size_t>(int8_->weight(spec_, i, plane).n);
        device_results_[i * planes + plane] = {mine, pitch_bytes, n * kWordBytes,
                                               static_cast<std::size_t>(rows)};
        mine += n * kWordBytes;
      }
      values += aligned(static_cast<std::size_t>(rows) * pitch_bytes);
    }
  }
  const IntRows x{operands_[0], rows, products[0].weights.k};
  const IntBlocks blocks = plan_blocks(x, products);
  RETURN_IF_ERROR(reserve(lane_->converted, blocks.bytes(), session_.compute));
  RETURN_IF_ERROR(record(lane_->compute_begin, session_.compute));
  return int_linear(device_, *session_.products, session_.compute.get(), x, products, blocks,
                    lane_->converted.data());
}

void OpWork::wipe() {
  if (!pads_) return;
  session_.stage_in.wipe(this);
  pads_.reset();
}

}  // namespace airlock::cuda
