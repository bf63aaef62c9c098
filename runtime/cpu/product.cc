#include "runtime/cpu/product.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/convert.h"

namespace airlock {

namespace {

constexpr std::size_t kLine = 64;

std::size_t lines(std::int64_t elements, std::size_t element_bytes) {
  return (static_cast<std::size_t>(elements) * element_bytes + kLine - 1) / kLine * kLine;
}

/// to[row][column] = from[column][row], `stride` elements from one column of `to` to the next.
template <typename T>
void transpose_block(const T* from, std::int64_t stride, T* to, std::int64_t rows,
                     std::int64_t columns) {
  constexpr std::int64_t kTile = 16;
  for (std::int64_t column = 0; column < columns; column += kTile) {
    const std::int64_t end = std::min(column + kTile, columns);
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t c = column; c < end; ++c) to[row * columns + c] = from[c * stride + row];
    }
  }
}

}  // namespace

Product::Product(onednn::ProductCache& cache, const Numerics& numerics, const std::byte* x,
                 const HeldWeight& weight, MutableTensorView result)
    : held_(numerics.held),
      element_bytes_(dtype_bytes(numerics.held)),
      m_(result.desc.shape[0]),
      k_(weight.k),
      n_(weight.n),
      a_(x),
      weight_(&weight),
      few_rows_(weight.order.known() && m_ <= few_rows::kMostRows),
      result_(result),
      block_dtype_(numerics.writes(result.desc.dtype) ? result.desc.dtype : DType::kF32) {
  if (few_rows_) {
    pieces_ = {{1, 1}, {m_, m_}, {n_, few_rows::kBlockColumns}};
  } else {
    pieces_ = weight_pieces(m_, k_, n_);
    make_calls(cache);
  }
}

Product::Product(onednn::ProductCache& cache, const Numerics& numerics, const OpSpec& spec,
                 const std::byte* a, const std::byte* b, MutableTensorView result)
    : held_(numerics.held),
      element_bytes_(dtype_bytes(numerics.held)),
      m_(result.desc.shape[1]),
      k_(spec.inputs[0].shape[spec.transpose == Transpose::kA ? 1 : 2]),
      n_(result.desc.shape[2]),
      transpose_(spec.transpose),
      a_(a),
      b_(b),
      result_(result),
      block_dtype_(numerics.writes(result.desc.dtype) ? result.desc.dtype : DType::kF32) {
  std::int64_t batches = result.desc.shape[0];
  sharing_ = batches / spec.inputs[1].shape[0];
  if (transpose_ != Transpose::kA) {
    // The heads of a group lie one behind the other and meet the same b: they are the rows of one
    // matrix.
    batches /= sharing_;
    m_ *= std::exchange(sharing_, 1);
  }
  pieces_ = matmul_pieces(batches, m_, k_, n_, transpose_);
  make_calls(cache);
}

void Product::make_calls(onednn::ProductCache& cache) {
  const bool copies_a = transpose_ == Transpose::kA;
  const bool copies_b =
      weight_ == nullptr && transpose_ != Transpose::kB && pieces_.columns.parts() > 1;
  const Piece first = pieces_.at(0);
  b_at_ = copies_a ? lines(first.rows * k_, element_bytes_) : 0;
  block_at_ = b_at_ + (copies_b ? lines(first.columns * k_, element_bytes_) : 0);
  scratchpad_at_ = block_at_;
  // Where the first piece is a dense block of the result, so is each.
  if (!is_written_in_place(first)) {
    scratchpad_at_ += lines(first.batches * first.rows * first.columns, dtype_bytes(block_dtype_));
  }
  for (const std::int64_t batch : {std::int64_t{0}, pieces_.batches.parts() - 1}) {
    for (const std::int64_t column : {std::int64_t{0}, pieces_.columns.parts() - 1}) {
      for (const std::int64_t row : {std::int64_t{0}, pieces_.rows.parts() - 1}) {
        const Piece piece = pieces_.at(static_cast<std::size_t>(
            (batch * pieces_.columns.parts() + column) * pieces_.rows.parts() + row));
        onednn::Call*& call = calls_[call_index(piece)];
        if (call != nullptr) continue;  // the first part is the last one too
        const HeldWeight::Panel panel =
            weight_ != nullptr ? weight_->panel(piece.column) : HeldWeight::Panel{};
        onednn::CallKey key{piece.batches, piece.rows, k_, piece.columns};
        key.b = weight_ != nullptr && panel.packed                  ? onednn::Right::kPacked
                : weight_ != nullptr || transpose_ == Transpose::kB ? onednn::Right::kColumns
                                                                    : onednn::Right::kRows;
        key.result = block_dtype_;
        static const dnnl::memory::desc kNoLayout;
        call = &cache.get(key, panel.layout != nullptr ? *panel.layout : kNoLayout);
        scratchpad_bytes_ = std::max(scratchpad_bytes_, call->scratchpad_bytes());
      }
    }
  }
}

bool Product::is_written_in_place(const Piece& piece) const {
  return result_.desc.dtype == block_dtype_ &&
         (piece.columns == n_ || piece.rows * piece.batches == 1);
}

std::size_t Product::call_index(const Piece& piece) const {
  return (piece.batches != pieces_.batches.step ? 4U : 0U) +
         (piece.rows != pieces_.rows.step ? 2U : 0U) +
         (piece.columns != pieces_.columns.step ? 1U : 0U);
}

const std::byte* Product::left(const Piece& piece, PieceMemory& memory) const {
  const auto bytes = static_cast<std::int64_t>(element_bytes_);
  if (transpose_ != Transpose::kA) return a_ + (piece.batch * m_ + piece.row) * k_ * bytes;
  const std::byte* from = a_ + (piece.batch * k_ * m_ + piece.row) * bytes;
  if (element_bytes_ == sizeof(std::uint32_t)) {
    transpose_block(reinterpret_cast<const std::uint32_t*>(from), m_,
                    reinterpret_cast<std::uint32_t*>(memory.data), piece.rows, k_);
  } else {
    transpose_block(reinterpret_cast<const std::uint16_t*>(from), m_,
                    reinterpret_cast<std::uint16_t*>(memory.data), piece.rows, k_);
  }
  return memory.data;
}

const std::byte* Product::right(const Piece& piece, PieceMemory& memory) const {
  const auto bytes = static_cast<std::int64_t>(element_bytes_);
  if (weight_ != nullptr) return weight_->panel(piece.column).data;
  const std::int64_t batch = piece.batch / sharing_;
  if (transpose_ == Transpose::kB) return b_ + (batch * n_ + piece.column) * k_ * bytes;
  const std::byte* from = b_ + (batch * k_ * n_ + piece.column) * bytes;
  if (piece.columns == n_) return from;
  std::byte* to = memory.data + b_at_;
  if (memory.copied_batch == batch && memory.copied_column == piece.column) return to;
  for (std::int64_t row = 0; row < k_; ++row) {
    std::memcpy(to + row * piece.columns * bytes, from + row * n_ * bytes,
                static_cast<std::size_t>(piece.columns * bytes));
  }
  memory.copied_batch = batch;
  memory.copied_column = piece.column;
  return to;
}

void Product::put(const Piece& piece, const std::byte* block) const {
  const auto columns = static_cast<std::size_t>(piece.columns);
  const std::size_t block_bytes = columns * dtype_bytes(block_dtype_);
  const std::size_t result_bytes = dtype_bytes(result_.desc.dtype);
  // Only whole products come several at a time: their rows follow each other.
  for (std::int64_t row = 0; row < piece.batches * piece.rows; ++row, block += block_bytes) {
    std::byte* to = result_.data + static_cast<std::size_t>(
                                       (piece.batch * m_ + piece.row + row) * n_ + piece.column) *
                                       result_bytes;
    if (result_.desc.dtype == block_dtype_) {
      std::memcpy(to, block, block_bytes);
    } else {
      store_f32(result_.desc.dtype, reinterpret_cast<const float*>(block), to, columns);
    }
  }
}

void Product::run_few_rows(const Piece& piece) const {
  alignas(kLine) float sums[few_rows::kMostRows * few_rows::kBlockColumns];
  const auto layout = few_rows::Layout::of(held_, k_);
  const auto block = static_cast<std::size_t>(piece.column / few_rows::kBlockColumns);
  few_rows::multiply(held_, layout, weight_->order, m_, a_,
                     static_cast<std::size_t>(k_) * element_bytes_,
                     weight_->data + block * layout.block_bytes, sums);
  const auto columns = static_cast<std::size_t>(piece.columns);
  const std::size_t result_bytes = dtype_bytes(result_.desc.dtype);
  for (std::int64_t row = 0; row < m_; ++row) {
    const float* from = sums + row * few_rows::kBlockColumns;
    std::byte* to = result_.data + static_cast<std::size_t>(row * n_ + piece.column) * result_bytes;
    if (block_dtype_ == DType::kBF16) {
      few_rows::round_to_bf16(from, to, columns);
    } else {
      store_f32(result_.desc.dtype, from, to, columns);
    }
  }
}

void Product::run(std::size_t index, std::size_t worker, PieceMemory& memory,
                  dnnl::stream& stream) const {
  const Piece piece = pieces_.at(index);
  if (few_rows_) return run_few_rows(piece);
  if (memory.product != this) memory = PieceMemory{memory.data, this};
  const std::byte* a = left(piece, memory);
  const std::byte* b = right(piece, memory);
  const bool in_place = is_written_in_place(piece);
  std::byte* block = memory.data + block_at_;
  if (in_place) {
    block = result_.data +
            static_cast<std::size_t>((piece.batch * m_ + piece.row) * n_ + piece.column) *
                dtype_bytes(block_dtype_);
  }
  calls_[call_index(piece)]->run(worker, stream, a, b, block, memory.data + scratchpad_at_);
  if (!in_place) put(piece, block);
}

}  // namespace airlock
