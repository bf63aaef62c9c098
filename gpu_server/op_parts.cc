#include "gpu_server/op_parts.h"

#include <algorithm>
#include <utility>

namespace airlock {

namespace {

std::int64_t columns_of(const TensorDesc& desc) { return desc.shape[desc.shape.rank() - 1]; }

}  // namespace

OpMemory part_memory(const OpPart& part, const OpMemory& memory) {
  OpMemory mine{memory.inputs, {}, {}};
  for (const OpPart::Columns& columns : part.results) {
    MutableTensorView view = memory.results[columns.result];
    std::size_t pitch = memory.is_dense(columns.result) ? 0 : memory.result_pitch(columns.result);
    if (columns.count != columns_of(view.desc)) {
      pitch = memory.result_pitch(columns.result);
      view.data += static_cast<std::size_t>(columns.first) * dtype_bytes(view.desc.dtype);
      view.desc.shape = Shape{view.desc.shape[0], columns.count};
    }
    mine.results.push_back(view);
    mine.pitches.push_back(pitch);
  }
  return mine;
}

OpPart whole_part(std::size_t rank, const OpSpec& spec, const OpMemory& memory) {
  return {rank, spec, {{0, 0, columns_of(memory.results[0].desc)}}};
}

void end_parts(OpTimes& times, std::uint64_t total_ns) {
  times.total_ns = total_ns;
  times.server_ns = std::min(times.server_ns, total_ns);
  times.queue_ns = total_ns - times.server_ns;
}

}  // namespace airlock
