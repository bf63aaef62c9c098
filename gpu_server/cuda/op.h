#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "gpu_server/cuda/session.h"
#include "runtime/exact/pad.h"

/// Internal to gpu_server/cuda.
namespace airlock::cuda {

/// A result on the device: rows of `width_bytes`, each `pitch_bytes` after the one before.
struct DeviceResult {
  std::byte* data = nullptr;
  std::size_t pitch_bytes = 0;
  std::size_t width_bytes = 0;
  std::size_t rows = 0;
};

/// What one op queues on the device, from its operands' copies to its results'. It runs on a lane
/// that is its own from start() until it is over. Never waits, except for a piece of pinned memory
/// to become free. One thread.
class OpWork {
 public:
  OpWork(SessionDevice& session, const OpSpec& spec, OpMemory memory)
      : session_(session),
        device_(session.device),
        weights_(session.shared->weights),
        spec_(spec),
        memory_(std::move(memory)) {}

  Op op() const { return spec_.op; }
  /// Reads and checks what must be known before anything is queued (token ids, a pad's key and
  /// places; whether the int8 weights are there).
  Status check();
  /// Queues everything, or as much as it can before something fails: then what was queued is still
  /// under way, and drain is the way to its end.
  Status start(Lane& lane);
  /// Whether all of it is over and the results lie where they should. Moves on copies that go
  /// through pinned pieces. `times` is set where it gives true.
  Result<bool> advance(DeviceTimes& times);
  /// Wipes pads and their key from the host's memory. Once nothing of the op is under way.
  void wipe();

 private:
  /// Where rows of a result go in the host's memory.
  struct HostRows {
    std::byte* data = nullptr;
    std::size_t pitch_bytes = 0;
  };
  /// A part of a result on its way through a pinned piece.
  struct Part {
    DeviceResult from;
    HostRows to;
  };

  Status reserve(GrowingBuffer& buffer, std::size_t bytes, const Stream& stream);
  Status record(const Event& event, const Stream& stream);
  /// What is queued on `stream` from now on waits for `event`.
  Status join(const Stream& stream, const Event& event);
  Status copy_in();
  Status copy_operand(const std::byte* from, std::size_t bytes, bool pinned, std::byte* to);
  Status compute();
  /// Room for the op's values [rows, columns] and, where they are of another type than what is
  /// asked for, for the results.
  Status plan_results();
  Status convert_operands();
  /// Queues it: to operand_dtype().
  cudaError_t convert_operand(const std::byte* from, const TensorDesc& desc, std::byte* to) const;
  Status embed();
  /// batch_linear and lm_head.
  Status linear();
  Status multiply();
  Status check_int8();
  /// Makes the pads in pinned pieces.
  Status copy_pads();
  /// int_linear and pad_linear.
  Status multiply_words();
  Status convert_result(const std::byte* values, std::int64_t pitch, std::size_t index);
  Status copy_out();
  /// Of what lies in pinned memory; the rest is split into parts.
  Status begin_copies();
  Status copy_result(const DeviceResult& from, const HostRows& to);
  void split(const DeviceResult& from, const HostRows& to);
  Result<bool> advance_parts();
  Result<std::uint64_t> ns_between(const Event& begin, const Event& end) const;

  bool is_pinned(TensorView tensor) const {
    return session_.is_pinned(tensor.data, tensor.desc.bytes());
  }
  bool is_pinned_result(std::size_t index) const {
    return session_.is_pinned(memory_.results[index].data, memory_.result_extent(index));
  }
  const DeviceWeight& weight(std::size_t index) const {
    return spec_.op == Op::kLmHead ? weights_.lm_head : weights_.weight(spec_.weights[index]);
  }
  /// What operands are multiplied as. fp64 is so wherever the result is (op_results()).
  DType operand_dtype() const {
    return spec_.result_dtype == DType::kF64 ? DType::kF64 : weights_.dtype;
  }
  /// What the op's values are computed as: fp32 where a product does not give what is asked for.
  DType value_dtype() const {
    const bool gives = (spec_.op == Op::kEmbedding && spec_.result_dtype != DType::kI8) ||
                       is_integer(spec_.op) || spec_.result_dtype == operand_dtype();
    return gives ? spec_.result_dtype : DType::kF32;
  }
  /// The values are the results.
  bool direct() const { return value_dtype() == spec_.result_dtype; }

  SessionDevice& session_;
  Device& device_;
  const DeviceWeights& weights_;
  const OpSpec spec_;
  const OpMemory memory_;
  Lane* lane_ = nullptr;
  std::vector<std::int32_t> ids_;           // of an embedding, checked
  std::shared_ptr<const DeviceInt8> int8_;  // of an integer op; shared with the model's
  std::optional<WordStream> pads_;          // of a pad_linear, and where they are taken from
  std::vector<std::uint32_t> places_;       // [rows, 2], read once
  std::vector<std::byte*> operands_;        // on the device, of operand_dtype() (ids: int32)
  std::vector<DeviceResult> device_results_;
  bool copying_ = false;     // results
  std::vector<Part> parts_;  // of results that the device cannot copy by itself
  std::size_t issued_ = 0;   // of parts_
  std::size_t landed_ = 0;
};

}  // namespace airlock::cuda
