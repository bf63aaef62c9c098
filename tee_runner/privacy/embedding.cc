#include "tee_runner/privacy/embedding.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/convert.h"
#include "base/vectorize.h"
#include "runtime/cpu/numerics.h"
#include "runtime/exact/pad.h"

namespace airlock {

namespace {

constexpr std::int64_t kRowsARead = 4096;

/// to |= from where `row` is `wanted`, without a branch; both of `count` words.
AIRLOCK_VECTORIZE void take_if(std::uint32_t row, std::uint32_t wanted, const std::uint16_t* from,
                               std::uint16_t* to, std::size_t count) {
  const std::uint32_t difference = row ^ wanted;
  // All ones where they are equal.
  const auto mask =
      static_cast<std::uint16_t>(((static_cast<std::uint64_t>(difference) - 1) >> 32U) & 0xffffU);
  for (std::size_t i = 0; i < count; ++i)
    to[i] = static_cast<std::uint16_t>(to[i] | (from[i] & mask));
}

}  // namespace

Result<EmbeddingTable> EmbeddingTable::read(const ModelSource& model) {
  const ModelDims& dims = model.config().dims;
  EmbeddingTable made;
  const TensorDesc desc{model.stored_dtype(), Shape{dims.vocab, dims.hidden}};
  ASSIGN_OR_RETURN(made.pages_, PageBuffer::allocate(desc.bytes()));
  made.table_ = {made.pages_.data(), desc};
  const std::size_t row_bytes = static_cast<std::size_t>(dims.hidden) * dtype_bytes(desc.dtype);
  for (std::int64_t row = 0; row < dims.vocab; row += kRowsARead) {
    const std::int64_t count = std::min(kRowsARead, dims.vocab - row);
    RETURN_IF_ERROR(model.read_rows(kEmbedName, row,
                                    {made.pages_.data() + static_cast<std::size_t>(row) * row_bytes,
                                     {desc.dtype, Shape{count, dims.hidden}}}));
  }
  model.release(kEmbedName);
  return made;
}

void EmbeddingTable::gather(std::span<const std::int32_t> ids, MutableTensorView out) const {
  const std::int64_t vocab = table_.desc.shape[0];
  CHECK(std::ranges::all_of(ids, [vocab](std::int32_t id) { return id >= 0 && id < vocab; }));
  gather_rows(table_, ids, out);
}

void EmbeddingTable::gather_obliviously(ThreadPool& pool, std::span<const std::int32_t> ids,
                                        MutableTensorView out) const {
  const auto hidden = static_cast<std::size_t>(table_.desc.shape[1]);
  const std::size_t row_bytes = hidden * dtype_bytes(table_.desc.dtype);
  CHECK(out.desc == (TensorDesc{DType::kF32, Shape{static_cast<std::int64_t>(ids.size()),
                                                   table_.desc.shape[1]}}));
  std::vector<std::uint16_t> rows(ids.size() * row_bytes / sizeof(std::uint16_t), 0);
  const std::size_t words = row_bytes / sizeof(std::uint16_t);
  const auto count = static_cast<std::uint32_t>(table_.desc.shape[0]);
  pool.parallel_for(ids.size(), [&](std::size_t begin, std::size_t end) {
    // A row of the table stays in the cache while all ids look at it.
    for (std::uint32_t row = 0; row < count; ++row) {
      const auto* from = reinterpret_cast<const std::uint16_t*>(table_.data + row * row_bytes);
      for (std::size_t i = begin; i < end; ++i)
        take_if(row, static_cast<std::uint32_t>(ids[i]), from, rows.data() + i * words, words);
    }
  });
  load_f32(table_.desc.dtype, reinterpret_cast<const std::byte*>(rows.data()),
           out.as<float>().data(), ids.size() * hidden);
  wipe(std::as_writable_bytes(std::span(rows)));
}

}  // namespace airlock
