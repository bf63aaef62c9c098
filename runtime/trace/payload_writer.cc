#include "runtime/trace/payload_writer.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "base/file.h"
#include "base/readable_file.h"
#include "base/saturating.h"
#include "proto/limits.h"
#include "runtime/json/reader.h"
#include "runtime/json/writer.h"
#include "runtime/model/digest.h"
#include "runtime/model/safetensors.h"
#include "runtime/trace/trace.h"

namespace airlock {
namespace {

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kDataAlignment = 64;
constexpr std::size_t kCopyBytes = std::size_t{1} << 20;
constexpr std::string_view kEmptyHeader = R"({"__metadata__":{"made_by":"airlock"}})";

/// What goes where the header's last brace is: a comma before it, the new last brace behind it.
std::string entry_json(std::string_view name, const TensorDesc& desc, std::uint64_t begin,
                       std::uint64_t end) {
  const JsonObject entry = {{"dtype", safetensors_dtype(desc.dtype)},
                            {"shape", desc.shape.extents()},
                            {"data_offsets", std::pair(begin, end)}};
  std::string json = JsonObject{{name, entry}}.text();
  json.front() = ',';
  return json;
}

std::uint64_t times(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<std::uint64_t>::max()
                                                : product;
}

Status check_need(const std::string& path, const PayloadNeed& need) {
  if (need.header_bytes > limits::kMaxSafetensorsHeaderBytes || need.json_values > kMaxJsonValues) {
    return Status(
        StatusCode::kUsage,
        "the tensors of this run need a safetensors header of {} bytes and {} values, at most {} "
        "and {} can be read: record fewer runs (--repeat) or without payloads",
        need.header_bytes, need.json_values, limits::kMaxSafetensorsHeaderBytes, kMaxJsonValues);
  }
  struct statvfs disk {};
  if (::statvfs(folder_of(path).c_str(), &disk) != 0)
    return os_error("create the payload file " + path, errno);
  const std::uint64_t have = times(disk.f_bavail, disk.f_frsize);
  const std::uint64_t bytes = add_saturating(need.data_bytes, need.header_bytes);
  if (bytes > have) {
    return {StatusCode::kResourceExhausted,
            "the payload file {} needs {} bytes, the disk has {}: record fewer tokens or runs, or "
            "elsewhere",
            path, bytes, have};
  }
  return {};
}

}  // namespace

PayloadNeed payload_need(const ModelDims& dims, std::span<const PlannedOp> plan,
                         std::uint64_t runs) {
  PayloadNeed one;
  std::uint64_t tensors = 0;
  const std::uint64_t last_seq = times(plan.size(), runs);
  const auto count = [&](std::span<const TensorDesc> descs, TraceSide side) {
    for (std::size_t i = 0; i < descs.size(); ++i) {
      ++tensors;
      one.data_bytes += descs[i].bytes();
      // Without the last brace, and with offsets of one digit, for which the longest come below.
      one.header_bytes +=
          entry_json(payload_tensor_name(last_seq, side, i), descs[i], 0, 0).size() - 1;
      one.json_values += 6 + descs[i].shape.rank();
    }
  };
  for (const PlannedOp& op : plan) {
    const auto results = op_results(op.spec, dims);
    CHECK(results.ok());
    count(op.spec.inputs, TraceSide::kInput);
    count(*results, TraceSide::kOutput);
  }
  PayloadNeed all;
  all.data_bytes = times(one.data_bytes, runs);
  const std::uint64_t offset_bytes = 2 * (std::to_string(all.data_bytes).size() - 1);
  const std::uint64_t run_bytes = one.header_bytes + tensors * offset_bytes;
  all.header_bytes = add_saturating(times(run_bytes, runs), kEmptyHeader.size() + kDataAlignment);
  all.json_values = add_saturating(times(one.json_values, runs), 3);
  return all;
}

PayloadWriter::PayloadWriter(std::string path, std::unique_ptr<OutputDraft> file,
                             std::uint64_t room_bytes)
    : path_(std::move(path)), file_(std::move(file)), room_bytes_(room_bytes), copy_(kCopyBytes) {}

Status PayloadWriter::check_place(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? Status() : os_error("look at " + path, errno);
  }
  if (S_ISDIR(info.st_mode)) return os_error("replace the payload file " + path, EISDIR);
  std::string begin(kLengthBytes + kEmptyHeader.size(), '\0');
  if (S_ISREG(info.st_mode)) {
    ASSIGN_OR_RETURN(const ReadableFile file, ReadableFile::open(path));
    ASSIGN_OR_RETURN(const std::size_t count,
                     file.read_some(0, std::as_writable_bytes(std::span(begin))));
    begin.resize(count);
  }
  // A file with tensors goes on behind the metadata.
  const std::string_view metadata = kEmptyHeader.substr(0, kEmptyHeader.size() - 1);
  if (begin.size() > kLengthBytes &&
      std::string_view(begin).substr(kLengthBytes).starts_with(metadata)) {
    return {};
  }
  return {StatusCode::kUsage,
          "{} would be replaced by payloads, but is no payload file of airlock's: "
          "remove it or choose another name for the trace",
          path};
}

Result<std::unique_ptr<PayloadWriter>> PayloadWriter::create(const std::string& path,
                                                             const PayloadNeed& need) {
  ASSIGN_OR_RETURN(auto writer, prepare(path, need));
  RETURN_IF_ERROR(writer->take_place());
  return writer;
}

Result<std::unique_ptr<PayloadWriter>> PayloadWriter::prepare(const std::string& path,
                                                              const PayloadNeed& need) {
  RETURN_IF_ERROR(check_place(path));
  RETURN_IF_ERROR(check_need(path, need));
  ASSIGN_OR_RETURN(auto file, OutputDraft::beside(path, path));
  const std::uint64_t start =
      (kLengthBytes + std::max<std::uint64_t>(need.header_bytes, kEmptyHeader.size()) +
       kDataAlignment - 1) /
      kDataAlignment * kDataAlignment;
  std::unique_ptr<PayloadWriter> writer(
      new PayloadWriter(path, std::move(file), start - kLengthBytes));
  std::string header;
  for (std::size_t i = 0; i < kLengthBytes; ++i)
    header += static_cast<char>((writer->room_bytes_ >> (8 * i)) & 0xff);
  header += kEmptyHeader;
  header.resize(start, ' ');
  writer->json_bytes_ = kEmptyHeader.size();
  RETURN_IF_ERROR(writer->write_at(0, header));
  return writer;
}

Status PayloadWriter::write_at(std::uint64_t offset, std::string_view bytes) const {
  if (::lseek(file_->fd(), static_cast<off_t>(offset), SEEK_SET) < 0)
    return os_error("write the payload file " + path_, errno);
  return write_all(file_->fd(), bytes, path_);
}

Result<std::string> PayloadWriter::append(std::string_view name, TensorView tensor) {
  const std::uint64_t bytes = tensor.desc.bytes();
  const std::string entry = entry_json(name, tensor.desc, data_bytes_, data_bytes_ + bytes);
  if (json_bytes_ - 1 + entry.size() > room_bytes_) {
    return Status(StatusCode::kInternal,
                  "the payload file {} has no room for the entry of {}: the run is not "
                  "as planned",
                  path_, name);
  }
  const std::uint64_t place = kLengthBytes + room_bytes_ + data_bytes_;
  if (::ftruncate(file_->fd(), static_cast<off_t>(place + bytes)) != 0) {
    return os_error("write the payload file " + path_, errno);
  }
  RETURN_IF_ERROR(write_at(kLengthBytes + json_bytes_ - 1, entry));
  Sha256 digest;
  for (std::uint64_t done = 0; done < bytes;) {
    const std::size_t step = std::min<std::uint64_t>(copy_.size(), bytes - done);
    std::memcpy(copy_.data(), tensor.data + done, step);
    digest.add(std::span<const std::byte>(copy_.data(), step));
    RETURN_IF_ERROR(write_at(place + done, {reinterpret_cast<const char*>(copy_.data()), step}));
    done += step;
  }
  json_bytes_ += entry.size() - 1;
  data_bytes_ += bytes;
  return digest.finish();
}

Result<std::string> PayloadWriter::add(std::string_view name, TensorView tensor) {
  RETURN_IF_ERROR(failure_);
  auto digest = append(name, tensor);
  if (!digest.ok()) {
    failure_ = digest.status();
    // Back to what it was; on a full disk this needs no new block.
    std::string rest(1 + room_bytes_ - json_bytes_, ' ');
    rest[0] = '}';
    (void)write_at(kLengthBytes + json_bytes_ - 1, rest);
    if (::ftruncate(file_->fd(), static_cast<off_t>(kLengthBytes + room_bytes_ + data_bytes_)) !=
        0) {
      failure_ = failure_.with_context("and it cannot be cut back");
    }
  }
  return digest;
}

}  // namespace airlock
