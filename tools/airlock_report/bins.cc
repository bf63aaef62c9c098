#include "tools/airlock_report/bins.h"

#include <algorithm>

namespace airlock::report {

void Bin::merge(const Bin& other) {
  ring_bytes = add_saturating(ring_bytes, other.ring_bytes);
  zmq_bytes = add_saturating(zmq_bytes, other.zmq_bytes);
  ops = add_saturating(ops, other.ops);
  slots_most = std::max(slots_most, other.slots_most);
}

Bins::Bins(std::size_t most) : most_(std::max<std::size_t>(most, 1)) {}

Bin& Bins::at(std::uint64_t position) {
  while ((position >> width_log2_) >= most_) {
    for (std::size_t i = 0; 2 * i < bins_.size(); ++i) {
      Bin pair = bins_[2 * i];
      if (2 * i + 1 < bins_.size()) pair.merge(bins_[2 * i + 1]);
      bins_[i] = pair;
    }
    bins_.resize((bins_.size() + 1) / 2);
    ++width_log2_;
  }
  const auto index = static_cast<std::size_t>(position >> width_log2_);
  if (index >= bins_.size()) bins_.resize(index + 1);
  return bins_[index];
}

}  // namespace airlock::report
