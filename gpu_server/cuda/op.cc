#include "gpu_server/cuda/op.h"

#include <algorithm>
#include <cstring>

#include "base/int8_rows.h"
#include "gpu_server/cuda/kernels.h"

namespace airlock::cuda {

Status OpWork::check() {
  if (is_integer(spec_.op)) return check_int8();
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
  return device_.check(cudaEventRecord(event.get(), stream.get()), "record an event");
}

Status OpWork::join(const Stream& stream, const Event& event) {
  return device_.check(cudaStreamWaitEvent(stream.get(), event.get(), 0), "join streams");
}

Status OpWork::copy_in() {
  if (spec_.op == Op::kPadLinear) return copy_pads();
  std::size_t bytes = 0;
  for (const TensorView& input : memory_.inputs) bytes += aligned(input.desc.bytes());
  RETURN_IF_ERROR(reserve(lane_->in, bytes, session_.in));
  RETURN_IF_ERROR(record(lane_->in_begin, session_.in));
  std::byte* to = lane_->in.data();
  operands_.clear();
  for (const TensorView& input : memory_.inputs) {
    // Of ids the checked copy, not what the peer can change.
    const bool is_ids = spec_.op == Op::kEmbedding;
    const std::byte* from = is_ids ? reinterpret_cast<const std::byte*>(ids_.data()) : input.data;
    RETURN_IF_ERROR(copy_operand(from, input.desc.bytes(), is_pinned(input) && !is_ids, to));
    operands_.push_back(to);
    to += aligned(input.desc.bytes());
  }
  RETURN_IF_ERROR(record(lane_->in_end, session_.in));
  return join(session_.compute, lane_->in_end);
}

Status OpWork::copy_operand(const std::byte* from, std::size_t bytes, bool pinned, std::byte* to) {
  constexpr std::string_view kWhat = "copy an operand";
  const cudaStream_t stream = session_.in.get();
  Staging& staging = session_.stage_in;
  if (!pinned) RETURN_IF_ERROR(staging.prepare());
  if (pinned || !staging.pinned()) {  // else CUDA stages it itself
    return device_.check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), kWhat);
  }
  for (std::size_t done = 0; done < bytes;) {
    ASSIGN_OR_RETURN(Staging::Piece * piece, staging.next_free());
    const std::size_t count = std::min(bytes - done, Staging::kPieceBytes);
    std::memcpy(piece->memory.data(), from + done, count);
    RETURN_IF_ERROR(staging.send(*piece, to + done, count, stream, kWhat));
    done += count;
  }
  return {};
}

Status OpWork::compute() {
  RETURN_IF_ERROR(plan_results());
  if (!is_integer(spec_.op)) RETURN_IF_ERROR(convert_operands());
  switch (spec_.op) {
    case Op::kEmbedding:
      RETURN_IF_ERROR(embed());
      break;
    case Op::kBatchLinear:
    case Op::kLmHead:
      RETURN_IF_ERROR(linear());
      break;
    case Op::kMatmul:
      RETURN_IF_ERROR(multiply());
      break;
    case Op::kIntLinear:
    case Op::kPadLinear:
      RETURN_IF_ERROR(multiply_words());
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
    values += aligned(result.desc.elements() * dtype_bytes(value_dtype()));
    if (!direct()) converted += aligned(result.desc.bytes());
  }
  RETURN_IF_ERROR(reserve(lane_->out, values + converted, session_.compute));
  device_results_.clear();
  // linear() and multiply_words() change this where their values are the results.
  std::byte* to = lane_->out.data() + (direct() ? 0 : values);
  for (const MutableTensorView& result : memory_.results) {
    const auto rows = static_cast<std::size_t>(result.desc.shape[0]);
    const std::size_t width_bytes = result.desc.bytes() / rows;
    device_results_.push_back({to, width_bytes, width_bytes, rows});
    to += aligned(result.desc.bytes());
  }
  return {};
}

Status OpWork::convert_operands() {
  const DType held = operand_dtype();
  const auto converts = [&](const TensorView& input) {
    return spec_.op != Op::kEmbedding && input.desc.dtype != held;
  };
  std::size_t bytes = 0;
  for (const TensorView& input : memory_.inputs) {
    if (converts(input)) bytes += aligned(input.desc.elements() * dtype_bytes(held));
  }
  RETURN_IF_ERROR(reserve(lane_->converted, bytes, session_.compute));
  RETURN_IF_ERROR(record(lane_->compute_begin, session_.compute));
  std::byte* to = lane_->converted.data();
  for (std::size_t i = 0; i < memory_.inputs.size(); ++i) {
    if (!converts(memory_.inputs[i])) continue;
    const TensorDesc& desc = memory_.inputs[i].desc;
    RETURN_IF_ERROR(device_.check(convert_operand(operands_[i], desc, to), "convert an operand"));
    operands_[i] = to;
    to += aligned(desc.elements() * dtype_bytes(held));
  }
  return {};
}

cudaError_t OpWork::convert_operand(const std::byte* from, const TensorDesc& desc,
                                    std::byte* to) const {
  const cudaStream_t stream = session_.compute.get();
  if (desc.dtype == DType::kI8) {
    return launch_widen_rows({.in = reinterpret_cast<const std::uint8_t*>(from),
                              .out = to,
                              .to = operand_dtype(),
                              .rows = desc.shape[0],
                              .columns = wire_width(desc.dtype, desc.shape[1])},
                             stream);
  }
  const auto count = static_cast<std::int64_t>(desc.elements());
  return launch_convert({from, desc.dtype, count, to, operand_dtype(), 1, count}, stream);
}

Status OpWork::embed() {
  const Gather job{.table = weights_.table.data,
                   .from = weights_.dtype,
                   .ids = reinterpret_cast<const std::int32_t*>(operands_[0]),
                   .out = lane_->out.data(),
                   .to = value_dtype(),
                   .tokens = static_cast<std::int64_t>(ids_.size()),
                   .hidden = weights_.table.k};
  RETURN_IF_ERROR(device_.check(launch_gather(job, session_.compute.get()), "look up embeddings"));
  return direct() ? Status() : convert_result(lane_->out.data(), job.hidden, 0);
}

Status OpWork::linear() {
  const std::int64_t rows = memory_.inputs[0].desc.shape[0];
  const std::size_t element = dtype_bytes(value_dtype());
  const std::size_t count = memory_.results.size();
  std::byte* values = lane_->out.data();
  for (std::size_t first = 0, end = 0; first < count; first = end) {
    // Weights that lie right behind each other are one: q, k, v; gate, up.
    DeviceWeight group = weight(first);
    for (end = first + 1; end < count; ++end) {
      const DeviceWeight& next = weight(end);
      if (next.k != group.k || next.data != group.data + group.bytes(weights_.dtype)) break;
      group.n += next.n;
    }
    RETURN_IF_ERROR(session_.products->linear(operands_[0], rows, group, weights_.dtype,
                                              {values, value_dtype()}));
    const std::size_t pitch_bytes = static_cast<std::size_t>(group.n) * element;
    std::byte* mine = values;
    for (std::size_t i = first; i < end; ++i) {
      const std::size_t width_bytes = static_cast<std::size_t>(weight(i).n) * element;
      if (direct()) {
        device_results_[i] = {mine, pitch_bytes, width_bytes, static_cast<std::size_t>(rows)};
      } else {
        RETURN_IF_ERROR(convert_result(mine, group.n, i));
      }
      mine += width_bytes;
    }
    values += aligned(static_cast<std::size_t>(rows) * pitch_bytes);
  }
  return {};
}

Status OpWork::multiply() {
  RETURN_IF_ERROR(session_.products->matmul(
      operands_[0], memory_.inputs[0].desc.shape, operands_[1], memory_.inputs[1].desc.shape,
      spec_.transpose, operand_dtype(), {lane_->out.data(), value_dtype()}));
  if (direct()) return {};
  const TensorDesc& desc = memory_.results[0].desc;
  return convert_result(lane_->out.data(),
                        static_cast<std::int64_t>(desc.elements()) / desc.shape[0], 0);
}

Status OpWork::convert_result(const std::byte* values, std::int64_t pitch, std::size_t index) {
  const TensorDesc& desc = memory_.results[index].desc;
  const std::int64_t rows = desc.shape[0];
  if (desc.dtype == DType::kI8) {
    const RoundRows job{.in = reinterpret_cast<const float*>(values),
                        .in_pitch = pitch,
                        .out = reinterpret_cast<std::uint8_t*>(device_results_[index].data),
                        .rows = rows,
                        .columns = wire_width(desc.dtype, desc.shape[1])};
    return device_.check(launch_round_rows(job, session_.compute.get()), "round a result");
  }
  const Conversion job{.in = values,
                       .from = value_dtype(),
                       .in_pitch = pitch,
                       .out = device_results_[index].data,
                       .to = desc.dtype,
                       .rows = rows,
                       .columns = static_cast<std::int64_t>(desc.elements()) / rows};
  return device_.check(launch_convert(job, session_.compute.get()), "convert a result");
}

// What waits in the out stream holds up whatever is queued behind it, and the pieces of the op
// before this one may still have to be. So an op that needs pieces queues nothing before it has
// computed.
Status OpWork::copy_out() {
  for (std::size_t i = 0; i < memory_.results.size(); ++i) {
    if (!is_pinned_result(i)) return session_.stage_out.prepare();
  }
  RETURN_IF_ERROR(join(session_.out, lane_->compute_end));
  RETURN_IF_ERROR(begin_copies());
  return record(lane_->out_end, session_.out);
}

Status OpWork::begin_copies() {
  copying_ = true;
  RETURN_IF_ERROR(record(lane_->out_begin, session_.out));
  for (std::size_t i = 0; i < memory_.results.size(); ++i) {
    const HostRows to{memory_.results[i].data, memory_.result_pitch(i)};
    if (is_pinned_result(i)) {
      RETURN_IF_ERROR(copy_result(device_results_[i], to));
    } else {
      split(device_results_[i], to);
    }
  }
  return {};
}

Status OpWork::copy_result(const DeviceResult& from, const HostRows& to) {
  const bool dense = (from.pitch_bytes == from.width_bytes && to.pitch_bytes == from.width_bytes) ||
                     from.rows == 1;
  const cudaStream_t stream = session_.out.get();
  return device_.check(
      dense ? cudaMemcpyAsync(to.data, from.data, from.width_bytes * from.rows,
                              cudaMemcpyDeviceToHost, stream)
            : cudaMemcpy2DAsync(to.data, to.pitch_bytes, from.data, from.pitch_bytes,
                                from.width_bytes, from.rows, cudaMemcpyDeviceToHost, stream),
      "copy a result");
}

void OpWork::split(const DeviceResult& from, const HostRows& to) {
  // A dense one is one long row.
  DeviceResult whole = from;
  if (from.pitch_bytes == from.width_bytes && to.pitch_bytes == from.width_bytes) {
    whole.width_bytes *= whole.rows;
    whole.rows = 1;
  }
  for (std::size_t column = 0; column < whole.width_bytes; column += Staging::kPieceBytes) {
    const std::size_t width = std::min(Staging::kPieceBytes, whole.width_bytes - column);
    const std::size_t step = Staging::kPieceBytes / width;
    for (std::size_t row = 0; row < whole.rows; row += step) {
      parts_.push_back({{whole.data + row * whole.pitch_bytes + column, whole.pitch_bytes, width,
                         std::min(step, whole.rows - row)},
                        {to.data + row * to.pitch_bytes + column, to.pitch_bytes}});
    }
  }
}

Result<bool> OpWork::advance(DeviceTimes& times) {
  RETURN_IF_ERROR(device_.health());
  if (!copying_) {
    ASSIGN_OR_RETURN(const bool computed,
                     device_.is_over(cudaEventQuery(lane_->compute_end.get())));
    if (!computed) return false;
    RETURN_IF_ERROR(begin_copies());
  }
  if (landed_ < parts_.size()) {
    ASSIGN_OR_RETURN(const bool all_landed, advance_parts());
    if (!all_landed) return false;
    RETURN_IF_ERROR(record(lane_->out_end, session_.out));
  }
  ASSIGN_OR_RETURN(const bool copied, device_.is_over(cudaEventQuery(lane_->out_end.get())));
  if (!copied) return false;
  ASSIGN_OR_RETURN(times.copy_in_ns, ns_between(lane_->in_begin, lane_->in_end));
  ASSIGN_OR_RETURN(times.compute_ns, ns_between(lane_->compute_begin, lane_->compute_end));
  ASSIGN_OR_RETURN(times.copy_out_ns, ns_between(lane_->out_begin, lane_->out_end));
  return true;
}

// Only of the op that is the first to end: no other one uses the pieces meanwhile.
Result<bool> OpWork::advance_parts() {
  if (!session_.stage_out.pinned()) {  // then a copy waits in the call
    for (; landed_ < parts_.size(); ++landed_) {
      RETURN_IF_ERROR(copy_result(parts_[landed_].from, parts_[landed_].to));
    }
    return true;
  }
  for (;;) {
    for (; issued_ < parts_.size() && issued_ - landed_ < Staging::kPieces; ++issued_) {
      Staging::Piece& piece = session_.stage_out.piece(issued_);
      const DeviceResult& from = parts_[issued_].from;
      RETURN_IF_ERROR(copy_result(from, {piece.memory.data(), from.width_bytes}));
      RETURN_IF_ERROR(record(piece.copied, session_.out));
    }
    if (landed_ == parts_.size()) return true;
    const Staging::Piece& piece = session_.stage_out.piece(landed_);
    ASSIGN_OR_RETURN(const bool copied, device_.is_over(cudaEventQuery(piece.copied.get())));
    if (!copied) return false;
    const auto& [from, to] = parts_[landed_++];
    for (std::size_t row = 0; row < from.rows; ++row) {
      std::memcpy(to.data + row * to.pitch_bytes, piece.memory.data() + row * from.width_bytes,
                  from.width_bytes);
    }
  }
}

Result<std::uint64_t> OpWork::ns_between(const Event& begin, const Event& end) const {
  float milliseconds = 0;
  RETURN_IF_ERROR(
      device_.check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "time an op"));
  return static_cast<std::uint64_t>(std::max(0.0, static_cast<double>(milliseconds) * 1e6));
}

}  // namespace airlock::cuda
