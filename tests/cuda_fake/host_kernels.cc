/// Host loops in place of gpu_server/cuda/kernels.cu, in the fake device's streams.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "gpu_server/cuda/kernels.h"
#include "tests/cuda_fake/fake_state.h"

namespace airlock::cuda {

namespace {

using cuda_fake::Access;
using cuda_fake::Lock;
using cuda_fake::Resolved;
using cuda_fake::State;
using cuda_fake::Work;

Access access(const void* data, std::int64_t count, DType dtype, bool write) {
  Access made;
  made.address = reinterpret_cast<std::uintptr_t>(data);
  made.bytes = static_cast<std::size_t>(count) * dtype_bytes(dtype);
  made.write = write;
  return made;
}

Work::Run fill_result(std::size_t index, std::size_t bytes) {
  return [index, bytes](std::span<const Resolved> at) -> std::string {
    cuda_fake::fill({at[index].data, bytes, bytes, 1});
    return "";
  };
}

cudaError_t queue(State& s, Lock& lock, Work work, std::int64_t count, cudaStream_t handle) {
  cuda_fake::Stream* stream = s.schedule.find_stream(handle, work.function);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (stream->device != s.current_device()) {
    s.misuse(fmt::format("{} on a stream of another device", work.function));
    return cudaErrorInvalidResourceHandle;
  }
  if (count <= 0) {
    s.misuse(fmt::format("{} of {} elements", work.function, count));
    return cudaErrorInvalidConfiguration;  // a grid of no blocks
  }
  ++s.counters.kernels;
  s.schedule.queue(*stream, std::move(work), lock);
  return cudaSuccess;
}

std::string gather(Gather job, std::span<const Resolved> at) {
  const auto* ids = reinterpret_cast<const std::int32_t*>(at[0].data);
  const auto row_bytes = static_cast<std::size_t>(job.hidden) * dtype_bytes(job.from);
  const std::size_t rows = at[1].available / row_bytes;
  for (std::int64_t token = 0; token < job.tokens; ++token) {
    if (ids[token] < 0 || static_cast<std::size_t>(ids[token]) >= rows) {
      return fmt::format("row {} of a table that has room for {}", ids[token], rows);
    }
  }
  job.ids = ids;
  job.table = at[1].data;
  job.out = at[2].data;
  for (std::int64_t i = 0; i < job.count(); ++i) gather_element(job, i);
  return "";
}

}  // namespace

cudaError_t launch_convert(const Conversion& job, cudaStream_t stream) {
  return cuda_fake::call("launch_convert", [&](State& s, Lock& lock) {
    // It would be read as fp16.
    if (!is_model_float(job.from) || !is_model_float(job.to)) {
      s.misuse(fmt::format("launch_convert from {} to {}", name_of(job.from), name_of(job.to)));
      return cudaErrorInvalidValue;
    }
    Work work;
    work.function = "launch_convert";
    const std::int64_t read = job.count() == 0 ? 0 : (job.rows - 1) * job.in_pitch + job.columns;
    work.accesses = {access(job.in, read, job.from, false),
                     access(job.out, job.count(), job.to, true)};
    work.spoil = fill_result(1, work.accesses[1].bytes);
    work.run = [job](std::span<const Resolved> at) -> std::string {
      Conversion placed = job;
      placed.in = at[0].data;
      placed.out = at[1].data;
      for (std::int64_t i = 0; i < placed.count(); ++i) convert_element(placed, i);
      return "";
    };
    return queue(s, lock, std::move(work), job.count(), stream);
  });
}

cudaError_t launch_gather(const Gather& job, cudaStream_t stream) {
  return cuda_fake::call("launch_gather", [&](State& s, Lock& lock) {
    Work work;
    work.function = "launch_gather";
    work.accesses = {access(job.ids, job.tokens, DType::kI32, false),
                     access(job.table, job.hidden, job.from, false),
                     access(job.out, job.count(), job.to, true)};
    work.spoil = fill_result(2, work.accesses[2].bytes);
    work.run = [job](std::span<const Resolved> at) { return gather(job, at); };
    return queue(s, lock, std::move(work), job.count(), stream);
  });
}

cudaError_t launch_widen_rows(const WidenRows& job, cudaStream_t stream) {
  return cuda_fake::call("launch_widen_rows", [&](State& s, Lock& lock) {
    if (!is_model_float(job.to)) {
      s.misuse(fmt::format("launch_widen_rows to {}", name_of(job.to)));
      return cudaErrorInvalidValue;
    }
    Work work;
    work.function = "launch_widen_rows";
    work.accesses = {
        access(job.in, job.rows * wire_columns(DType::kI8, job.columns), DType::kI8, false),
        access(job.out, job.count(), job.to, true)};
    work.spoil = fill_result(1, work.accesses[1].bytes);
    work.run = [job](std::span<const Resolved> at) -> std::string {
      WidenRows placed = job;
      placed.in = reinterpret_cast<const std::uint8_t*>(at[0].data);
      placed.out = at[1].data;
      for (std::int64_t i = 0; i < placed.count(); ++i) widen_element(placed, i);
      return "";
    };
    return queue(s, lock, std::move(work), job.count(), stream);
  });
}

cudaError_t launch_round_rows(const RoundRows& job, cudaStream_t stream) {
  return cuda_fake::call("launch_round_rows", [&](State& s, Lock& lock) {
    Work work;
    work.function = "launch_round_rows";
    const std::int64_t read = job.rows == 0 ? 0 : (job.rows - 1) * job.in_pitch + job.columns;
    work.accesses = {
        access(job.in, read, DType::kF32, false),
        access(job.out, job.rows * wire_columns(DType::kI8, job.columns), DType::kI8, true)};
    work.spoil = fill_result(1, work.accesses[1].bytes);
    work.run = [job](std::span<const Resolved> at) -> std::string {
      RoundRows placed = job;
      placed.in = reinterpret_cast<const float*>(at[0].data);
      placed.out = reinterpret_cast<std::uint8_t*>(at[1].data);
      for (std::int64_t i = 0; i < placed.count(); ++i) round_block(placed, i);
      return "";
    };
    return queue(s, lock, std::move(work), job.rows * job.columns, stream);
  });
}

cudaError_t launch_split(const Split& job, cudaStream_t stream) {
  return cuda_fake::call("launch_split", [&](State& s, Lock& lock) {
    if (job.pitch % 4 != 0 || job.pitch < job.columns) {
      s.misuse(
          fmt::format("launch_split of {} columns to rows of {} bytes", job.columns, job.pitch));
      return cudaErrorInvalidValue;
    }
    Work work;
    work.function = "launch_split";
    work.accesses = {access(job.in, job.rows * job.columns, DType::kU32, false),
                     access(job.out, kDigits * job.count(), DType::kU32, true)};
    work.spoil = fill_result(1, work.accesses[1].bytes);
    work.run = [job](std::span<const Resolved> at) -> std::string {
      Split placed = job;
      placed.in = reinterpret_cast<const std::uint32_t*>(at[0].data);
      placed.out = reinterpret_cast<std::uint32_t*>(at[1].data);
      for (std::int64_t i = 0; i < placed.count(); ++i) split_element(placed, i);
      return "";
    };
    return queue(s, lock, std::move(work), job.count(), stream);
  });
}

cudaError_t launch_combine(const Combine& job, cudaStream_t stream) {
  return cuda_fake::call("launch_combine", [&](State& s, Lock& lock) {
    Work work;
    work.function = "launch_combine";
    const std::int64_t read =
        job.count() == 0 ? 0 : (kDigits * job.rows - 1) * job.pitch + job.columns;
    work.accesses = {access(job.in, read, DType::kI32, false),
                     access(job.out, job.count(), DType::kU32, true)};
    work.spoil = fill_result(1, work.accesses[1].bytes);
    work.run = [job](std::span<const Resolved> at) -> std::string {
      Combine placed = job;
      placed.in = reinterpret_cast<const std::int32_t*>(at[0].data);
      placed.out = reinterpret_cast<std::uint32_t*>(at[1].data);
      for (std::int64_t i = 0; i < placed.count(); ++i) combine_element(placed, i);
      return "";
    };
    return queue(s, lock, std::move(work), job.count(), stream);
  });
}

}  // namespace airlock::cuda
