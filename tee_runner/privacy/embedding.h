#pragma once

#include <cstdint>
#include <span>

#include "base/page_buffer.h"
#include "base/status.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "runtime/model/model_source.h"

namespace airlock {

/// The embedding table, in private memory and in the type that the model stores. Never changes once
/// read.
class EmbeddingTable {
 public:
  /// Errors as ModelSource::read_rows(), and no memory.
  static Result<EmbeddingTable> read(const ModelSource& model);

  /// The rows of `ids`, each in [0, vocab) (CHECKed), as fp32 [ids, hidden].
  void gather(std::span<const std::int32_t> ids, MutableTensorView out) const;
  /// The same, by reading every word of the table for each id: which row is wanted shows neither in
  /// addresses nor, but for what the memory does by itself, in time.
  void gather_obliviously(ThreadPool& pool, std::span<const std::int32_t> ids,
                          MutableTensorView out) const;
  std::size_t bytes() const { return table_.desc.bytes(); }

 private:
  PageBuffer pages_;
  TensorView table_;  // [vocab, hidden]
};

}  // namespace airlock
