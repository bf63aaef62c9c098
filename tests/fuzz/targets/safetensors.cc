// The header of a safetensors file: a model's, or the index of a trace's payload.
//
//   input: u64 bytes of data behind the header, then the JSON

#include "runtime/model/safetensors.h"

#include <algorithm>

#include "base/check.h"
#include "runtime/json/writer.h"
#include "tests/fuzz/take.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

constexpr std::uint64_t kLengthBytes = 8;

std::string header_of(const std::vector<SafetensorsEntry>& entries, std::uint64_t data_offset) {
  JsonObject header;
  for (const SafetensorsEntry& entry : entries) {
    const std::uint64_t first = entry.file_offset - data_offset;
    header.add(entry.name, JsonObject{{"dtype", entry.dtype_text},
                                      {"shape", entry.shape},
                                      {"data_offsets", std::pair(first, first + entry.bytes)}});
  }
  return header.text();
}

std::vector<Bytes> seeds() {
  std::vector<Bytes> all;
  for (
      const char* json :
      {R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
       R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})",
       R"({"empty":{"dtype":"F16","shape":[0],"data_offsets":[0,0]},)"
       R"("odd":{"dtype":"F4","shape":[],"data_offsets":[0,32]}})"}) {
    Bytes seed;
    put(seed, std::uint64_t{32});
    const Bytes text = bytes_of(json);
    seed.insert(seed.end(), text.begin(), text.end());
    all.push_back(std::move(seed));
  }
  return all;
}

bool is_same(const SafetensorsEntry& a, const SafetensorsEntry& b, std::uint64_t shift) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape && a.bytes == b.bytes &&
         a.file_offset + shift == b.file_offset;
}

bool run(std::span<const std::byte> input) {
  // Under half of the range, so that no sum in here wraps.
  const std::uint64_t data_bytes = take<std::uint64_t>(input) & (~std::uint64_t{0} >> 2);
  const std::uint64_t data_offset = kLengthBytes + input.size();
  const std::uint64_t file_bytes = data_offset + data_bytes;
  const auto entries = parse_safetensors_header(text_of(input), file_bytes, "fuzz");
  if (!entries.ok()) {
    CHECK(entries.status().code() == StatusCode::kInvalidInput);
    check_refusal(entries.status());
    return false;
  }
  std::uint64_t covered = 0;
  for (const SafetensorsEntry& entry : *entries) {
    CHECK(entry.file_offset >= data_offset && entry.file_offset <= file_bytes &&
          entry.bytes <= file_bytes - entry.file_offset);
    covered += entry.bytes;
    for (const std::int64_t extent : entry.shape) CHECK(extent >= 0);
  }
  CHECK(covered == data_bytes);
  CHECK(std::ranges::is_sorted(*entries, {}, &SafetensorsEntry::name));
  // Of a dtype that is none, the text was changed to be printed.
  const std::string header = header_of(*entries, data_offset);
  const std::uint64_t shift = kLengthBytes + header.size() - data_offset;  // may wrap, and back
  const auto again = parse_safetensors_header(header, file_bytes + shift, "again");
  CHECK(again.ok() && again->size() == entries->size());
  for (std::size_t i = 0; i < entries->size(); ++i)
    CHECK(is_same((*entries)[i], (*again)[i], shift));
  return true;
}

}  // namespace

constinit const Target kSafetensors = {"safetensors", seeds, run};

}  // namespace airlock::fuzz
