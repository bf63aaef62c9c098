#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/readable_file.h"
#include "base/status.h"

namespace airlock {

/// One tensor of a safetensors header. Its bytes lie within the file, overlap no other's, and are
/// as many as dtype and shape demand (where we know the dtype).
struct SafetensorsEntry {
  std::string name;
  std::string dtype_text;      // as the file has it: "BF16"
  std::optional<DType> dtype;  // nullopt: not a float type of ours
  std::vector<std::int64_t> shape;
  std::uint64_t file_offset = 0;
  std::uint64_t bytes = 0;
};

/// What the format calls `dtype`: "F32", "F16", "BF16", "I32", "U8".
std::string_view safetensors_dtype(DType dtype);

/// What the metadata of a payload file says (runtime/trace/payload_writer.h): "made_by":"airlock".
inline constexpr std::string_view kSafetensorsMakerKey = "made_by";
inline constexpr std::string_view kSafetensorsMaker = "airlock";

/// Reads and checks the header of a safetensors file: 8 bytes little-endian length, that many bytes
/// of JSON, then data that the entries cover without holes or overlaps. Behind the last entry there
/// is nothing, except in a payload file, whose writer may have been killed when it had made room
/// for the next. `file_bytes` is the length of the whole file. Entries by name.
Result<std::vector<SafetensorsEntry>> parse_safetensors_header(std::string_view json,
                                                               std::uint64_t file_bytes,
                                                               const std::string& source);

/// A safetensors file, mapped for reading. The mapped bytes are for callers that read in place: the
/// file must not shrink while they do (a page behind the new end is a SIGBUS); read() is checked at
/// every call. Any thread may read.
class SafetensorsFile {
 public:
  static Result<std::unique_ptr<SafetensorsFile>> open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const ReadableFile& file() const { return file_; }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  /// Binary search by name; nullptr where it is not there.
  const SafetensorsEntry* find(std::string_view name) const;
  /// Copies bytes [offset, offset + out.size()) of the entry.
  Status read(const SafetensorsEntry& entry, std::uint64_t offset, std::span<std::byte> out) const;
  /// The entry's bytes in place; empty where the file has changed its length since it was opened.
  std::span<const std::byte> mapped(const SafetensorsEntry& entry) const;
  /// Tells the kernel that the entry's pages are not needed any more. Later reads bring them back.
  void release(const SafetensorsEntry& entry) const;

 private:
  SafetensorsFile(ReadableFile file, std::vector<SafetensorsEntry> entries, const std::byte* base)
      : file_(std::move(file)), entries_(std::move(entries)), base_(base) {}

  ReadableFile file_;
  std::vector<SafetensorsEntry> entries_;
  const std::byte* base_ = nullptr;
};

}  // namespace airlock
