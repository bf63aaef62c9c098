#include "tools/airlock_trace/text.h"

#include <fmt/format.h>

namespace airlock::trace {

std::string desc_text(const TensorDesc& desc) {
  return fmt::format("{}[{}]", name_of(desc.dtype),
                     desc.shape.rank() == 0
                         ? std::string("-")
                         : fmt::format("{}", fmt::join(desc.shape.extents(), "x")));
}

std::string shapes_text(const TraceRecord& record) {
  std::string text;
  for (const TraceTensor& tensor : record.inputs) (text += desc_text(tensor.desc)) += ' ';
  text += "->";
  for (const TraceTensor& tensor : record.outputs) (text += ' ') += desc_text(tensor.desc);
  return text;
}

std::string weight_text(const WeightId& weight) {
  return fmt::format("{}.{}", weight.layer, name_of(weight.kind));
}

std::string_view path_text(const std::optional<Path>& path) { return path ? name_of(*path) : "-"; }

}  // namespace airlock::trace
