#include "tools/airlock_report/bins.h"

#include <algorithm>

#include "runtime/stats/counters.h"

namespace airlock::report {

void Bin::merge(const Bin& other) {
  airlock::merge(bytes, other.bytes);
  airlock::merge(ops, other.ops);
  slots_most = std::max(slots_most, other.slots_most);
}

Bins::Bins(std::size_t most) : most_(std::max<std::size_t>(most, 1)) {}

Bin& Bins::at(std::uint64_t position) {
  while ((position >> width_log2_) >= most_) {
    // The last of an odd number is merged with an empty one.
    bins_.resize((bins_.size() + 1) / 2 * 2);
    for (std::size_t i = 0; i < bins_.size() / 2; ++i) {
      bins_[i] = bins_[2 * i];
      bins_[i].merge(bins_[2 * i + 1]);
    }
    bins_.resize(bins_.size() / 2);
    ++width_log2_;
  }
  const auto index = static_cast<std::size_t>(position >> width_log2_);
  if (index >= bins_.size()) bins_.resize(index + 1);
  return bins_[index];
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
