#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gpu_server/cuda/int8_weights.h"
#include "gpu_server/cuda/memory.h"
#include "gpu_server/cuda/products.h"
#include "gpu_server/cuda/weights.h"
#include "runtime/compute.h"

/// Internal to gpu_server/cuda.
namespace airlock::cuda {

/// What all sessions share. Never changes once made, but for `told`, the idle products and the int8
/// weights.
struct Shared {
  ~Shared();

  std::shared_ptr<Device> device;  // first: it outlives the weights
  DeviceWeights weights;
  BackendInfo info;
  std::optional<ModelShare> model_share;  // what is held; nothing: all
  bool tf32 = false;
  std::function<void(const std::string&)> warn;
  std::atomic<bool> told{false};  // that memory could not be pinned: once a server
  std::mutex mutex;
  std::vector<Products> idle_products;     // guarded by mutex
  std::shared_ptr<const DeviceInt8> int8;  // guarded by mutex; shared by the ops that use it
  std::mutex int8_mutex;                   // held while int8 weights are made
  // Guarded by int8_mutex; nothing: not asked for.
  PerValue<Int8Weights, std::optional<std::vector<Int8Line>>> int8_lines;

  /// Of a session that has ended, or new ones. To destroy a cuBLAS handle waits for all that the
  /// device has to do, other sessions' work too: so it is kept.
  Result<Products> take_products();
  void give_back(Products products);

  /// Those there are; null where nobody has asked for any.
  std::shared_ptr<const DeviceInt8> int8_weights();
  /// ComputeModel::prepare_int8_share(). Sessions compute meanwhile.
  Result<std::vector<Int8Line>> prepare_int8(const ModelSource& model, Int8Weights choice,
                                             const Int8Progress& progress);
};

/// Device memory and events of one op under way.
struct Lane {
  explicit Lane(Device& device) : in(device), converted(device), out(device) {}

  GrowingBuffer in;         // operands as they came; grows on the in stream
  GrowingBuffer converted;  // operands in the type to multiply; grows on the compute stream
  GrowingBuffer out;        // results; grows on the compute stream
  // Each pair encloses what the op has queued on one stream.
  Event in_begin, in_end, compute_begin, compute_end, out_begin, out_end;
  bool taken = false;
};

/// One session's streams, lanes, pinned memory and cuBLAS handle: what its ops run on. One thread.
///
///   in       [copy op 1][copy op 2]        [copy op 3]
///   compute             [op 1     ][op 2       ][op 3 ...
///   out                            [copy op 1]  [copy op 2]
struct SessionDevice {
  static constexpr std::size_t kLanes = 2;

  explicit SessionDevice(std::shared_ptr<Shared> model)
      : shared(std::move(model)),
        device(*shared->device),
        lanes{Lane(device), Lane(device)},
        stage_in(device),
        stage_out(device) {}
  ~SessionDevice();
  SessionDevice(const SessionDevice&) = delete;
  SessionDevice& operator=(const SessionDevice&) = delete;

  Status open(std::span<const std::span<std::byte>> segments);
  std::array<cudaStream_t, 3> streams() const { return {in.get(), compute.get(), out.get()}; }
  /// Lies in memory that the device copies by itself.
  bool is_pinned(const std::byte* data, std::size_t bytes) const;
  Lane* free_lane();
  /// Gives the idle lanes' memory back; for an op that found none.
  void trim();

  std::shared_ptr<Shared> shared;
  Device& device;
  Stream in, compute, out;
  std::optional<Products> products;  // on the compute stream
  std::array<Lane, kLanes> lanes;
  std::vector<Registration> segments;
  Staging stage_in, stage_out;
};

}  // namespace airlock::cuda
