#include "gpu_server/cuda/op.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "gpu_server/cuda/kernels.h"
#include "gpu_server/cuda/wait.h"
#include "proto/limits.h"

namespace airlock::cuda {

namespace {

constexpr std::size_t kAlignment = 256;

constexpr std::size_t aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// A row of a result that lies among others fits one pinned piece.
static_assert(static_cast<std::size_t>(limits::kMaxHeads * limits::kMaxHeadDim) * sizeof(float) <=
                  Staging::kPieceBytes &&
              static_cast<std::size_t>(limits::kMaxIntermediate) * sizeof(float) <=
                  Staging::kPieceBytes);

}  // namespace

Status OpWork::check() {
  if (spec_.op != Op::kEmbedding) return {};
  ASSIGN_OR_RETURN(ids_, read_token_ids(memory_.inputs[0], session_.shared->info.dims.vocab));
  return {};
}

Status OpWork::start(Lane& lane) {
  lane_ = &lane;
  RETURN_IF_ERROR(copy_in());
  RETURN_IF_ERROR(compute());
  return copy_out();
}

Status OpWork::reserve(GrowingBuffer& buffer, std::size_t bytes, const Stream& stream) {
  Status status = buffer.reserve(bytes, stream.get());
  if (status.code() != StatusCode::kResourceExhausted) return status;
  session_.trim();
  return buffer.reserve(bytes, stream.get());
}

Status OpWork::record(const Event& event, const Stream& stream) {
  return session_.device.check(cudaEventRecord(event.get(), stream.get()), "record an event");
}

Status OpWork::copy_in() {
  std::size_t bytes = 0;
  for (const TensorView& input : memory_.inputs) bytes += aligned(input.desc.bytes());
  RETURN_IF_ERROR(reserve(lane_->in, bytes, session_.in));
  RETURN_IF_ERROR(record(lane_->in_begin, session_.in));
  std::byte* to = lane_->in.data();
  operands_.clear();
  for (const TensorView& input : memory_.inputs) {
    const bool is_ids =
        spec_.op == Op::kEmbedding;  // the checked copy, not what the peer can change
    const std::byte* from = is_ids ? reinterpret_cast<const std::byte*>(ids_.data()) : input.data;
    RETURN_IF_ERROR(copy_operand(from, input.desc.bytes(), is_pinned(input) && !is_ids, to));
    operands_.push_back(to);
    to += aligned(input.desc.bytes());
  }
  RETURN_IF_ERROR(record(lane_->in_end, session_.in));
  return session_.device.check(cudaStreamWaitEvent(session_.compute.get(), lane_->in_end.get(), 0),
                               "join streams");
}

Status OpWork::copy_operand(const std::byte* from, std::size_t bytes, bool pinned, std::byte* to) {
  const auto copy = [&](std::byte* device, const std::byte* host, std::size_t count) {
    return session_.device.check(
        cudaMemcpyAsync(device, host, count, cudaMemcpyHostToDevice, session_.in.get()),
        "copy an operand");
  };
  if (pinned) return copy(to, from, bytes);
  RETURN_IF_ERROR(session_.stage_in.prepare());
  if (!session_.stage_in.pinned()) return copy(to, from, bytes);  // CUDA stages it itself
  for (std::size_t done = 0; done < bytes;) {
    ASSIGN_OR_RETURN(Staging::Piece * piece, session_.stage_in.next_free());
    const std::size_t count = std::min(bytes - done, Staging::kPieceBytes);
    std::memcpy(piece->memory.data(), from + done, count);
    RETURN_IF_ERROR(copy(to + done, piece->memory.data(), count));
    RETURN_IF_ERROR(record(piece->copied, session_.in));
    piece->busy = true;
    done += count;
  }
  return {};
}

DType OpWork::product_dtype() const {
  return spec_.result_dtype == session_.shared->weights.dtype() ? spec_.result_dtype : DType::kF32;
}

bool OpWork::direct() const { return product_dtype() == spec_.result_dtype; }

Status OpWork::compute() {
  RETURN_IF_ERROR(plan_results());
  if (spec_.op != Op::kEmbedding) RETURN_IF_ERROR(convert_operands());
  switch (spec_.op) {
    case Op::kEmbedding:
      RETURN_IF_ERROR(embed());
      break;
    case Op::kBatchLinear:
      RETURN_IF_ERROR(linear());
      break;
    case Op::kMatmul:
      RETURN_IF_ERROR(multiply());
      break;
    case Op::kLmHead:
      RETURN_IF_ERROR(lm_head());
      break;
    case Op::kInit:
    case Op::kStats:
    case Op::kPing:
      // check_memory() takes none of them.
      CHECK(false);
  }
  return record(lane_->compute_end, session_.compute);
}

Status OpWork::plan_results() {
  std::size_t values = 0;
  std::size_t converted = 0;
  for (const MutableTensorView& result : memory_.results) {
    values += aligned(result.desc.elements() * dtype_bytes(product_dtype()));
    if (!direct() && spec_.op != Op::kEmbedding) converted += aligned(result.desc.bytes());
  }
  RETURN_IF_ERROR(reserve(lane_->out, values + converted, session_.compute));
  device_results_.assign(memory_.results.size(), {});
  std::byte* to = lane_->out.data() + values;
  // linear() and direct results change this.
  for (std::size_t i = 0; i < memory_.results.size(); ++i) {
    const TensorDesc& desc = memory_.results[i].desc;
    device_results_[i] = {to, desc.bytes(), desc.bytes(), 1};
    to += aligned(desc.bytes());
  }
  return {};
}

Status OpWork::convert_operands() {
  const DType held = session_.shared->weights.dtype();
  std::size_t bytes = 0;
  for (const TensorView& input : memory_.inputs) {
    if (input.desc.dtype != held) bytes += aligned(input.desc.elements() * dtype_bytes(held));
  }
  RETURN_IF_ERROR(reserve(lane_->converted, bytes, session_.compute));
  RETURN_IF_ERROR(record(lane_->compute_begin, session_.compute));
  std::byte* to = lane_->converted.data();
  for (std::size_t i = 0; i < memory_.inputs.size(); ++i) {
    const TensorDesc& desc = memory_.inputs[i].desc;
    if (desc.dtype == held) continue;
    const auto count = static_cast<std::int64_t>(desc.elements());
    const Conversion job{operands_[i], desc.dtype, count, to, held, 1, count};
    RETURN_IF_ERROR(
        session_.device.check(launch_convert(job, session_.compute.get()), "convert an operand"));
    operands_[i] = to;
    to += aligned(desc.elements() * dtype_bytes(held));
  }
  return {};
}

Status OpWork::embed() {
  RETURN_IF_ERROR(record(lane_->compute_begin, session_.compute));
  const DeviceWeight& table = session_.shared->weights.table();
  const Gather job{table.data,
                   session_.shared->weights.dtype(),
                   reinterpret_cast<const std::int32_t*>(operands_[0]),
                   lane_->out.data(),
                   spec_.result_dtype,
                   static_cast<std::int64_t>(ids_.size()),
                   table.k};
  device_results_[0].data = lane_->out.data();
  return session_.device.check(launch_gather(job, session_.compute.get()), "look up embeddings");
}

Status OpWork::linear() {
  const DeviceWeights& weights = session_.shared->weights;
  const std::int64_t rows = memory_.inputs[0].desc.shape[0];
  const std::size_t element = dtype_bytes(product_dtype());
  std::byte* values = lane_->out.data();
  for (std::size_t first = 0; first < spec_.weights.size();) {
    // Weights that lie right behind each other are one: q, k, v; gate, up.
    DeviceWeight group = weights.weight(spec_.weights[first]);
    std::size_t end = first + 1;
    for (; end < spec_.weights.size(); ++end) {
      const DeviceWeight& next = weights.weight(spec_.weights[end]);
      const auto group_bytes =
          static_cast<std::size_t>(group.n * group.k) * dtype_bytes(weights.dtype());
      if (next.k != group.k || next.data != group.data + group_bytes) break;
      group.n += next.n;
    }
    RETURN_IF_ERROR(session_.products->linear(operands_[0], rows, group, weights.dtype(),
                                              {values, product_dtype()}));
    std::int64_t column = 0;
    for (std::size_t i = first; i < end; ++i) {
      const std::int64_t n = weights.weight(spec_.weights[i]).n;
      const std::byte* mine = values + static_cast<std::size_t>(column) * element;
      if (direct()) {
        device_results_[i] = {mine, static_cast<std::size_t>(group.n) * element,
                              static_cast<std::size_t>(n) * element,
                              static_cast<std::size_t>(rows)};
      } else {
        RETURN_IF_ERROR(
            convert_result(mine, group.n, i, const_cast<std::byte*>(device_results_[i].data)));
      }
      column += n;
    }
    values += aligned(static_cast<std::size_t>(rows * group.n) * element);
    first = end;
  }
  return {};
}

Status OpWork::lm_head() {
  device_results_[0].data = lane_->out.data();  // fp32, which any product can give
  return session_.products->linear(
      operands_[0], memory_.inputs[0].desc.shape[0], session_.shared->weights.lm_head(),
      session_.shared->weights.dtype(), {lane_->out.data(), DType::kF32});
}

Status OpWork::multiply() {
  RETURN_IF_ERROR(session_.products->matmul(
      operands_[0], memory_.inputs[0].desc.shape, operands_[1], memory_.inputs[1].desc.shape,
      spec_.transpose, session_.shared->weights.dtype(), {lane_->out.data(), product_dtype()}));
  if (direct()) {
    device_results_[0].data = lane_->out.data();
    return {};
  }
  return convert_result(lane_->out.data(),
                        static_cast<std::int64_t>(memory_.results[0].desc.elements() /
                                                  memory_.results[0].desc.shape[0]),
                        0, const_cast<std::byte*>(device_results_[0].data));
}

Status OpWork::convert_result(const std::byte* values, std::int64_t pitch, std::size_t index,
                              std::byte* to) {
  const TensorDesc& desc = memory_.results[index].desc;
  const std::int64_t rows = desc.shape[0];
  const Conversion job{values,
                       product_dtype(),
                       pitch,
                       to,
                       desc.dtype,
                       rows,
                       static_cast<std::int64_t>(desc.elements()) / rows};
  return session_.device.check(launch_convert(job, session_.compute.get()), "convert a result");
}

// What waits in the out stream holds up whatever is queued behind it, and the pieces of the op
// before this one may still have to be. So an op that needs pieces queues nothing before it has
// computed.
Status OpWork::copy_out() {
  const auto pinned = [this](const MutableTensorView& result) { return is_pinned(result); };
  if (!std::ranges::all_of(memory_.results, pinned)) return session_.stage_out.prepare();
  RETURN_IF_ERROR(session_.device.check(
      cudaStreamWaitEvent(session_.out.get(), lane_->compute_end.get(), 0), "join streams"));
  RETURN_IF_ERROR(begin_copies());
  return record(lane_->out_end, session_.out);
}

Status OpWork::begin_copies() {
  copying_ = true;
  RETURN_IF_ERROR(record(lane_->out_begin, session_.out));
  for (std::size_t i = 0; i < memory_.results.size(); ++i) {
    if (is_pinned(memory_.results[i])) {
      RETURN_IF_ERROR(copy_result(device_results_[i], memory_.results[i].data));
    } else {
      split(device_results_[i], memory_.results[i].data);
    }
  }
  return {};
}

Status OpWork::copy_result(const DeviceResult& from, std::byte* to) {
  if (from.pitch_bytes == from.width_bytes || from.rows == 1) {
    return session_.device.check(cudaMemcpyAsync(to, from.data, from.width_bytes * from.rows,
                                                 cudaMemcpyDeviceToHost, session_.out.get()),
                                 "copy a result");
  }
  return session_.device.check(
      cudaMemcpy2DAsync(to, from.width_bytes, from.data, from.pitch_bytes, from.width_bytes,
                        from.rows, cudaMemcpyDeviceToHost, session_.out.get()),
      "copy a result");
}

void OpWork::split(const DeviceResult& from, std::byte* to) {
  DeviceResult whole = from;
  if (from.pitch_bytes == from.width_bytes) {  // dense: cut anywhere
    whole.width_bytes = whole.pitch_bytes = 1;
    whole.rows = from.width_bytes * from.rows;
  }
  const std::size_t step = Staging::kPieceBytes / whole.width_bytes;
  for (std::size_t row = 0; row < whole.rows; row += step) {
    const std::size_t rows = std::min(step, whole.rows - row);
    Part part{whole, to + row * whole.width_bytes};
    part.from.data += row * whole.pitch_bytes;
    part.from.rows = rows;
    if (whole.pitch_bytes == whole.width_bytes) {
      part.from = {part.from.data, rows * whole.width_bytes, rows * whole.width_bytes, 1};
    }
    parts_.push_back(part);
  }
}

Result<bool> OpWork::advance() {
  if (session_.device.lost()) return session_.device.health();
  if (!copying_) {
    ASSIGN_OR_RETURN(const bool computed,
                     is_over(session_.device, cudaEventQuery(lane_->compute_end.get())));
    if (!computed) return false;
    RETURN_IF_ERROR(begin_copies());
  }
  if (landed_ < parts_.size()) {
    ASSIGN_OR_RETURN(const bool all_landed, advance_parts());
    if (!all_landed) return false;
    RETURN_IF_ERROR(record(lane_->out_end, session_.out));
  }
  return is_over(session_.device, cudaEventQuery(lane_->out_end.get()));
}

// Only of the op that is the first to end: no other one uses the pieces meanwhile.
Result<bool> OpWork::advance_parts() {
  Device& device = session_.device;
  if (!session_.stage_out.pinned()) {  // then a copy waits in the call
    for (; landed_ < parts_.size(); ++landed_) {
      RETURN_IF_ERROR(copy_result(parts_[landed_].from, parts_[landed_].to));
    }
    return true;
  }
  for (;;) {
    for (; issued_ < parts_.size() && issued_ - landed_ < Staging::kPieces; ++issued_) {
      Staging::Piece& piece = session_.stage_out.piece(issued_);
      RETURN_IF_ERROR(copy_result(parts_[issued_].from, piece.memory.data()));
      RETURN_IF_ERROR(record(piece.copied, session_.out));
    }
    if (landed_ == parts_.size()) return true;
    const Staging::Piece& piece = session_.stage_out.piece(landed_);
    ASSIGN_OR_RETURN(const bool copied, is_over(device, cudaEventQuery(piece.copied.get())));
    if (!copied) return false;
    const Part& part = parts_[landed_++];
    std::memcpy(part.to, piece.memory.data(), part.from.width_bytes * part.from.rows);
  }
}

Result<DeviceTimes> OpWork::device_times() const {
  DeviceTimes times;
  const auto between = [&](const Event& begin, const Event& end, std::uint64_t& ns) {
    float milliseconds = 0;
    RETURN_IF_ERROR(session_.device.check(
        cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "time an op"));
    ns = static_cast<std::uint64_t>(std::max(0.0, static_cast<double>(milliseconds) * 1e6));
    return Status();
  };
  RETURN_IF_ERROR(between(lane_->in_begin, lane_->in_end, times.copy_in_ns));
  RETURN_IF_ERROR(between(lane_->compute_begin, lane_->compute_end, times.compute_ns));
  RETURN_IF_ERROR(between(lane_->out_begin, lane_->out_end, times.copy_out_ns));
  return times;
}

}  // namespace airlock::cuda
