#include "runtime/stats/transport_stats.h"

namespace airlock {
namespace {

void book(TransportStats& stats, DirectionStats PathStats::*direction, const MessagePlan& plan) {
  merge((stats[plan.header_path].*direction).messages, 1);
  for (const MessagePlan::Tensor& tensor : plan.tensors()) {
    DirectionStats& counts = stats[tensor.path].*direction;
    merge(counts.tensors, 1);
    merge(counts.bytes, tensor.bytes);
  }
}

}  // namespace

void TransportStats::book_sent(const MessagePlan& plan) { book(*this, &PathStats::sent, plan); }

void TransportStats::book_received(const MessagePlan& plan) {
  book(*this, &PathStats::received, plan);
}

}  // namespace airlock
