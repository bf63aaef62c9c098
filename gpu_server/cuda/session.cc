#include "gpu_server/cuda/session.h"

#include <algorithm>

namespace airlock::cuda {

namespace {
constexpr std::chrono::seconds kCloseTimeout{5};

/// Until nothing is queued on any stream, or the device is lost.
Status drain(SessionDevice& session) {
  const Deadline deadline = Deadline::after(kCloseTimeout);
  for (const cudaStream_t stream : session.streams()) {
    RETURN_IF_ERROR(
        session.device.wait_until_over(cudaStreamQuery, stream, "what is queued", deadline));
  }
  return {};
}
}  // namespace

Shared::~Shared() {
  if (device && !device->lost()) (void)device->use();  // whichever thread is the last
}

Result<Products> Shared::take_products() {
  {
    const std::lock_guard lock(mutex);
    if (!idle_products.empty()) {
      Products taken = std::move(idle_products.back());
      idle_products.pop_back();
      return taken;
    }
  }
  return Products::make(*device, tf32);
}

void Shared::give_back(Products products) {
  const std::lock_guard lock(mutex);
  idle_products.push_back(std::move(products));
}

Status SessionDevice::open(std::span<const std::span<std::byte>> memory) {
  RETURN_IF_ERROR(device.use());
  for (Stream* stream : {&in, &compute, &out}) {
    ASSIGN_OR_RETURN(*stream, make_stream(device));
  }
  for (Lane& lane : lanes) {
    for (Event* event : {&lane.in_begin, &lane.in_end, &lane.compute_begin, &lane.compute_end,
                         &lane.out_begin, &lane.out_end}) {
      ASSIGN_OR_RETURN(*event, make_event(device));
    }
  }
  ASSIGN_OR_RETURN(products, shared->take_products());
  RETURN_IF_ERROR(products->use(compute.get()));
  for (const std::span<std::byte> segment : memory) {
    ASSIGN_OR_RETURN(Registration made, Registration::make(device, segment));
    if (!made.pinned() && !shared->told.exchange(true, std::memory_order_relaxed) && shared->warn) {
      shared->warn(
          "host memory could not be pinned (the limit on locked memory, ulimit -l?): tensors are "
          "copied to and from the GPU more slowly");
    }
    segments.push_back(std::move(made));
  }
  return {};
}

SessionDevice::~SessionDevice() {
  // Another thread may end a session than the one that ran it.
  if (device.lost() || !out) return;
  (void)device.use();
  (void)drain(*this);
  trim();
  if (drain(*this).ok() && products) shared->give_back(std::move(*products));
}

bool SessionDevice::is_pinned(const std::byte* data, std::size_t bytes) const {
  return std::ranges::any_of(
      segments, [&](const Registration& segment) { return segment.covers(data, bytes); });
}

Lane* SessionDevice::free_lane() {
  const auto lane = std::ranges::find(lanes, false, &Lane::taken);
  return lane == lanes.end() ? nullptr : &*lane;
}

void SessionDevice::trim() {
  for (Lane& lane : lanes) {
    if (lane.taken) continue;
    (void)lane.in.release(in.get());
    (void)lane.converted.release(compute.get());
    (void)lane.out.release(compute.get());
  }
}

}  // namespace airlock::cuda
