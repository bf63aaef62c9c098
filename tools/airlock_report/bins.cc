#include "tools/airlock_report/bins.h"

#include <algorithm>

namespace airlock::report {

void Bin::merge(const Bin& other) {
  airlock::merge(bytes, other.bytes);
  airlock::merge(ops, other.ops);
  slots_most = std::max(slots_most, other.slots_most);
}

void Bins::add(std::uint64_t begin, std::uint64_t end, const TraceRecord& record) {
  Bin& first = at(begin);
  merge(first.ops, 1);
  first.slots_most = std::max<std::uint64_t>(first.slots_most, record.slots_in_use);
  for (const TraceTensor& tensor : record.inputs) {
    if (tensor.path) merge(first.bytes[*tensor.path], tensor.desc.bytes());
  }
  Bin& last = at(end > begin ? end - 1 : end);  // what ends there, not what begins
  for (const TraceTensor& tensor : record.outputs) {
    if (tensor.path) merge(last.bytes[*tensor.path], tensor.desc.bytes());
  }
}

}  // namespace airlock::report
