#include "gpu_server/cuda/session.h"

#include <algorithm>

#include "gpu_server/cuda/int_linear.h"

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

std::shared_ptr<const DeviceInt8> Shared::int8_weights() {
  const std::lock_guard lock(mutex);
  return int8;
}

Result<std::vector<Int8Line>> Shared::prepare_int8(const ModelSource& model, Int8Weights choice,
                                                   const Int8Progress& progress) {
  if (info.dims.is_none() || choice == Int8Weights::kNone)
    return Status(StatusCode::kInvalidInput, "int8 weights: there is no model to make them of");
  const std::lock_guard making(int8_mutex);
  RETURN_IF_ERROR(device->health());
  std::optional<std::vector<Int8Line>>& lines = int8_lines[choice];
  if (lines) return *lines;
  RETURN_IF_ERROR(device->use());
  const std::shared_ptr<const DeviceInt8> had = int8_weights();
  if (had == nullptr) {
    const std::int64_t heads = info.dims.heads * info.dims.head_dim;
    RETURN_IF_ERROR(
        check_int_linear(*this, std::max({info.dims.hidden, info.dims.intermediate, heads})));
    RETURN_IF_ERROR(device->health());  // what the check gave back may have shown that it is lost
  }
  const ModelShare* share = model_share ? &*model_share : nullptr;
  ASSIGN_OR_RETURN(LoadedInt8 loaded, load_int8(*device, model, choice, had.get(),
                                                {share, info.threads, progress, warn}));
  lines = std::move(loaded.lines);
  const std::lock_guard lock(mutex);
  int8 = std::move(loaded.weights);
  return *lines;
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
