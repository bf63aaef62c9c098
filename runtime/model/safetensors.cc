#include "runtime/model/safetensors.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/file.h"
#include "proto/limits.h"
#include "runtime/json/reader.h"

namespace airlock {

namespace {

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::size_t kMaxNameBytes = 1024;
constexpr std::size_t kMaxRank = 16;

std::optional<DType> dtype_of(std::string_view text) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (text == safetensors_dtype(dtype)) return dtype;
  }
  return std::nullopt;
}

/// Bytes of an element of any dtype that the format knows in whole bytes; 0 for others.
std::uint64_t element_bytes(std::string_view dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64" || dtype == "C64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL" || dtype.starts_with("F8_")) return 1;
  return 0;
}

/// nullopt on overflow.
std::optional<std::uint64_t> product(const std::vector<std::int64_t>& shape, std::uint64_t unit) {
  std::uint64_t result = unit;
  for (const std::int64_t extent : shape) {
    if (__builtin_mul_overflow(result, static_cast<std::uint64_t>(extent), &result))
      return std::nullopt;
  }
  return result;
}

/// `data_offset` is where the data begins in the file, `data_bytes` how much of it there is.
SafetensorsEntry read_entry(std::string_view name, const JsonReader& json,
                            std::uint64_t data_offset, std::uint64_t data_bytes) {
  SafetensorsEntry entry;
  entry.name = name;
  if (name.size() > kMaxNameBytes) json.fail(fmt::format("has a name of {} bytes", name.size()));
  std::string dtype;
  json.read("dtype", dtype);
  entry.dtype_text = printable(dtype);
  entry.dtype = dtype_of(dtype);
  for (const JsonReader& extent : json.at("shape").items(kMaxRank))
    extent.get(entry.shape.emplace_back());
  const auto offsets = json.at("data_offsets").items(2);
  if (offsets.size() != 2) json.at("data_offsets").refuse("a pair");
  if (!json.ok()) return entry;
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  offsets[0].get(first);
  offsets[1].get(last);
  if (last < first || last > data_bytes) {
    json.fail(fmt::format(
        "has data_offsets [{}, {}], which do not lie in the {} bytes of data (a truncated file?)",
        first, last, data_bytes));
  }
  entry.file_offset = data_offset + first;
  entry.bytes = last - first;
  if (const std::uint64_t unit = element_bytes(dtype); unit != 0) {
    const auto wanted = product(entry.shape, unit);
    if (!wanted || *wanted != entry.bytes) {
      json.fail(fmt::format("has {} bytes, its dtype {} and shape ask for {}", entry.bytes,
                            entry.dtype_text,
                            wanted ? fmt::format("{}", *wanted) : "more than 2^64"));
    }
  }
  return entry;
}

/// What lies behind the last entry.
enum class Tail : std::uint8_t { kRefused, kTaken };

/// Sorts the entries by where they lie.
Status check_coverage(std::vector<SafetensorsEntry>& entries, std::uint64_t data_offset,
                      std::uint64_t file_bytes, Tail tail, const std::string& source) {
  std::ranges::sort(entries, {}, [](const SafetensorsEntry& entry) {
    return std::pair(entry.file_offset, entry.bytes);
  });
  std::uint64_t end = data_offset;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.file_offset != end) {
      return Status(
          StatusCode::kInvalidInput,
          "{}: tensor '{}' begins at byte {} of the data, {} byte {} where the one before ends",
          source, printable(entry.name), entry.file_offset - data_offset,
          entry.file_offset < end ? "overlapping:" : "leaving a hole:", end - data_offset);
    }
    end += entry.bytes;
  }
  if (end == file_bytes || tail == Tail::kTaken) return {};
  return Status(StatusCode::kInvalidInput, "{}: {} bytes behind the last tensor", source,
                file_bytes - end);
}

}  // namespace

std::string_view safetensors_dtype(DType dtype) {
  constexpr auto kNames =
      std::to_array<std::string_view>({"F32", "F16", "BF16", "I32", "U8", "F64", "U32", "I8"});
  static_assert(kNames.size() == kCountOf<DType>);
  return kNames[index_of(dtype)];
}

Result<std::vector<SafetensorsEntry>> parse_safetensors_header(std::string_view json,
                                                               std::uint64_t file_bytes,
                                                               const std::string& source) {
  const std::uint64_t data_offset = kLengthBytes + json.size();
  if (data_offset > file_bytes) {
    return Status(StatusCode::kInvalidInput, "{}: its header does not fit the file", source);
  }
  const std::string header = source + ": header";
  ASSIGN_OR_RETURN(const Json root, parse_json(json, header));
  Status status;
  Tail tail = Tail::kRefused;
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, entry] : JsonReader(root, header, status).members(kMaxJsonValues)) {
    if (name == "__metadata__") {
      const Json* const maker = entry.json().find(kSafetensorsMakerKey);
      if (maker != nullptr && maker->text == kSafetensorsMaker) tail = Tail::kTaken;
      continue;
    }
    entries.push_back(read_entry(name, entry, data_offset, file_bytes - data_offset));
    RETURN_IF_ERROR(status);
  }
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(check_coverage(entries, data_offset, file_bytes, tail, source));
  std::ranges::sort(entries, {}, &SafetensorsEntry::name);
  return entries;
}

Result<std::unique_ptr<SafetensorsFile>> SafetensorsFile::open(const std::string& path) {
  ASSIGN_OR_RETURN(ReadableFile file, ReadableFile::open(path));
  const std::uint64_t file_bytes = file.size_bytes();
  if (file_bytes < kLengthBytes) {
    return Status(StatusCode::kInvalidInput, "{}: has {} bytes, too few for a safetensors file",
                  path, file_bytes);
  }
  std::array<std::byte, kLengthBytes> length{};
  RETURN_IF_ERROR(file.read_at(0, length));
  std::uint64_t header_bytes = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i)
    header_bytes |= std::to_integer<std::uint64_t>(length[i]) << (8 * i);
  if (header_bytes > file_bytes - kLengthBytes) {
    return Status(StatusCode::kInvalidInput,
                  "{}: its header length is {}, beyond the file of {} bytes (truncated, or not "
                  "safetensors)",
                  path, header_bytes, file_bytes);
  }
  if (header_bytes > limits::kMaxSafetensorsHeaderBytes) {
    return Status(StatusCode::kInvalidInput, "{}: its header has {} bytes, at most {} are taken",
                  path, header_bytes, limits::kMaxSafetensorsHeaderBytes);
  }
  std::string json(header_bytes, '\0');
  RETURN_IF_ERROR(file.read_at(kLengthBytes, std::as_writable_bytes(std::span(json))));
  ASSIGN_OR_RETURN(auto entries, parse_safetensors_header(json, file_bytes, path));
  void* base = ::mmap(nullptr, file_bytes, PROT_READ, MAP_SHARED, file.fd(), 0);
  if (base == MAP_FAILED) {
    return Status(StatusCode::kResourceExhausted, "{}: cannot map {} bytes: {}", path, file_bytes,
                  os_message(errno));
  }
  // A process that locks its memory (keep_out_of_swap()) would keep the file there, and release()
  // would do nothing.
  (void)::munlock(base, file_bytes);
  return std::unique_ptr<SafetensorsFile>(new SafetensorsFile(std::move(file), std::move(entries),
                                                              static_cast<const std::byte*>(base)));
}

SafetensorsFile::~SafetensorsFile() { ::munmap(const_cast<std::byte*>(base_), file_.size_bytes()); }

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto place = std::ranges::lower_bound(entries_, name, {}, &SafetensorsEntry::name);
  return place != entries_.end() && place->name == name ? &*place : nullptr;
}

Status SafetensorsFile::read(const SafetensorsEntry& entry, std::uint64_t offset,
                             std::span<std::byte> out) const {
  CHECK(offset <= entry.bytes && out.size() <= entry.bytes - offset);
  return file_.read_at(entry.file_offset + offset, out);
}

std::span<const std::byte> SafetensorsFile::mapped(const SafetensorsEntry& entry) const {
  if (!file_.same_size()) return {};
  return {base_ + entry.file_offset, entry.bytes};
}

void SafetensorsFile::release(const SafetensorsEntry& entry) const {
  // Only pages that lie wholly in the entry: its neighbours may be in use.
  constexpr std::uint64_t kPageBytes = 4096;
  const std::uint64_t begin = (entry.file_offset + kPageBytes - 1) / kPageBytes * kPageBytes;
  const std::uint64_t end = (entry.file_offset + entry.bytes) / kPageBytes * kPageBytes;
  if (begin >= end) return;
  ::madvise(const_cast<std::byte*>(base_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace airlock
