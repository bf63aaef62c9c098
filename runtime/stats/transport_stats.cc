#include "runtime/stats/transport_stats.h"

namespace airlock {
namespace {

void add(std::atomic<std::uint64_t>& counter, std::uint64_t count) {
  counter.fetch_add(count, std::memory_order_relaxed);
}

std::uint64_t read(const std::atomic<std::uint64_t>& counter) {
  return counter.load(std::memory_order_relaxed);
}

DirectionSnapshot read(const DirectionStats& stats) {
  return {read(stats.messages), read(stats.tensors), read(stats.bytes)};
}

void add(DirectionSnapshot& sum, const DirectionSnapshot& other) {
  sum.messages += other.messages;
  sum.tensors += other.tensors;
  sum.bytes += other.bytes;
}

void book(TransportStats& stats, DirectionStats PathStats::*direction, const MessagePlan& plan) {
  add((stats.path(plan.header_path).*direction).messages, 1);
  for (const MessagePlan::Tensor& tensor : plan.tensors()) {
    add((stats.path(tensor.path).*direction).tensors, 1);
    add((stats.path(tensor.path).*direction).bytes, tensor.bytes);
  }
}

}  // namespace

void PathSnapshot::merge(const PathSnapshot& other) {
  add(sent, other.sent);
  add(received, other.received);
  errors += other.errors;
  slot_waits += other.slot_waits;
  spins += other.spins;
  parks += other.parks;
  latency_ns.merge(other.latency_ns);
}

void TransportSnapshot::merge(const TransportSnapshot& other) {
  for (std::size_t i = 0; i < paths.size(); ++i) paths[i].merge(other.paths[i]);
}

void TransportStats::book_sent(const MessagePlan& plan) { book(*this, &PathStats::sent, plan); }

void TransportStats::book_received(const MessagePlan& plan) {
  book(*this, &PathStats::received, plan);
}

void TransportStats::merge(const TransportSnapshot& other) {
  const auto add_direction = [](DirectionStats& to, const DirectionSnapshot& from) {
    add(to.messages, from.messages);
    add(to.tensors, from.tensors);
    add(to.bytes, from.bytes);
  };
  for (std::size_t i = 0; i < paths.size(); ++i) {
    PathStats& to = paths[i];
    const PathSnapshot& from = other.paths[i];
    add_direction(to.sent, from.sent);
    add_direction(to.received, from.received);
    add(to.errors, from.errors);
    add(to.slot_waits, from.slot_waits);
    add(to.spins, from.spins);
    add(to.parks, from.parks);
    to.latency_ns.merge(from.latency_ns);
  }
}

TransportSnapshot TransportStats::snapshot() const {
  TransportSnapshot snapshot;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    PathSnapshot& to = snapshot.paths[i];
    const PathStats& from = paths[i];
    to.sent = read(from.sent);
    to.received = read(from.received);
    to.errors = read(from.errors);
    to.slot_waits = read(from.slot_waits);
    to.spins = read(from.spins);
    to.parks = read(from.parks);
    to.latency_ns = from.latency_ns.snapshot();
  }
  return snapshot;
}

}  // namespace airlock
