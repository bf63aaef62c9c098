#include "runtime/stats/transport_stats.h"

#include "base/check.h"

namespace airlock {
namespace {

void book(TransportStats& stats, DirectionStats PathStats::*direction, Path header,
          std::span<const Path> tensor_paths, std::span<const std::size_t> tensor_bytes) {
  CHECK(tensor_paths.size() == tensor_bytes.size());
  merge((stats[header].*direction).messages, 1);
  for (std::size_t i = 0; i < tensor_paths.size(); ++i) {
    DirectionStats& counts = stats[tensor_paths[i]].*direction;
    merge(counts.tensors, 1);
    merge(counts.bytes, tensor_bytes[i]);
  }
}

}  // namespace

void TransportStats::book_sent(Path header, std::span<const Path> tensor_paths,
                               std::span<const std::size_t> tensor_bytes) {
  book(*this, &PathStats::sent, header, tensor_paths, tensor_bytes);
}

void TransportStats::book_received(Path header, std::span<const Path> tensor_paths,
                                   std::span<const std::size_t> tensor_bytes) {
  book(*this, &PathStats::received, header, tensor_paths, tensor_bytes);
}

}  // namespace airlock
