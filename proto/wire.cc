#include "proto/wire.h"

#include <algorithm>
#include <exception>
#include <msgpack.hpp>
#include <string>

#include "base/safe_text.h"

namespace airlock {
namespace {

/// What msgpack::packer writes into.
struct ByteSink {
  std::vector<std::byte>& bytes;
  void write(const char* data, std::size_t count) {
    const auto* first = reinterpret_cast<const std::byte*>(data);
    bytes.insert(bytes.end(), first, first + count);
  }
};

std::size_t cut_between_characters(std::string_view value, std::size_t max_bytes) {
  if (value.size() <= max_bytes) return value.size();
  std::size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(value[end]) & 0xc0U) == 0x80U) --end;
  return end;
}

}  // namespace

void WireWriter::array(std::string_view, std::size_t count) {
  ByteSink sink{bytes_};
  msgpack::packer(sink).pack_array(static_cast<std::uint32_t>(count));
}

void WireWriter::pack_number(std::uint64_t value) {
  ByteSink sink{bytes_};
  msgpack::packer(sink).pack_uint64(value);
}

void WireWriter::text(std::string_view, std::string_view value, std::size_t max_bytes) {
  value = value.substr(0, cut_between_characters(value, max_bytes));
  ByteSink sink{bytes_};
  msgpack::packer(sink).pack_str(static_cast<std::uint32_t>(value.size()));
  // As many bytes as before.
  const std::string safe = without_controls(value, "?");
  sink.write(safe.data(), safe.size());
}

void WireWriter::status_code(StatusCode code, StatusCode) {
  CHECK(code != StatusCode::kBusy);
  number("the status code", code);
}

void WireWriter::tensor(std::string_view what, const TensorDesc& desc) {
  array(what, 2);
  enumerator("a tensor's dtype", desc.dtype);
  array("a tensor's shape", desc.shape.rank());
  for (std::int64_t extent : desc.shape.extents()) number("a tensor's extent", extent);
}

/// Flattens one msgpack value into the reader's tokens; refuses what is too deep or too many.
struct WireReader::Collector : msgpack::null_visitor {
  explicit Collector(WireReader& r) : reader(r) {}

  bool add(Kind kind, std::uint64_t number = 0, std::string_view text = {}) {
    if (reader.count_ == reader.tokens_.size()) return false;
    reader.tokens_[reader.count_++] = Token{kind, number, text};
    return true;
  }
  bool descend() { return ++depth <= limits::kMaxWireDepth; }
  bool ascend() {
    --depth;
    return true;
  }
  bool visit_nil() { return add(Kind::kOther); }
  bool visit_boolean(bool) { return add(Kind::kOther); }
  bool visit_positive_integer(std::uint64_t value) { return add(Kind::kNumber, value); }
  bool visit_negative_integer(std::int64_t) { return add(Kind::kOther); }
  bool visit_float32(float) { return add(Kind::kOther); }
  bool visit_float64(double) { return add(Kind::kOther); }
  bool visit_str(const char* text, std::uint32_t size) {
    return add(Kind::kText, size, std::string_view(text, size));
  }
  bool visit_bin(const char*, std::uint32_t) { return add(Kind::kOther); }
  bool visit_ext(const char*, std::uint32_t) { return add(Kind::kOther); }
  bool start_array(std::uint32_t count) { return add(Kind::kArray, count) && descend(); }
  bool end_array() { return ascend(); }
  bool start_map(std::uint32_t) { return add(Kind::kOther) && descend(); }
  bool end_map() { return ascend(); }

  WireReader& reader;
  std::size_t depth = 0;
};

WireReader::WireReader(std::span<const std::byte> bytes, Rest rest) : rest_(rest) {
  try {
    Collector collector(*this);
    std::size_t end = 0;
    const bool whole =
        msgpack::parse(reinterpret_cast<const char*>(bytes.data()), bytes.size(), end, collector);
    demand(whole, "{} bytes that are not one whole msgpack value within the limits", bytes.size());
    demand(end == bytes.size(), "{} bytes behind the value", bytes.size() - end);
  } catch (const std::exception&) {
    fail("{} bytes that are not msgpack", bytes.size());
  }
}

const WireReader::Token* WireReader::next(std::string_view what, Kind kind) {
  demand(at_ < count_, "{} is missing", what);
  if (!ok()) return nullptr;
  const Token* token = &tokens_[at_++];
  if (token->kind == kind) return token;
  static constexpr std::string_view kKindNames[] = {"an unsigned number", "a text", "an array"};
  fail("{} is not {}", what, kKindNames[static_cast<std::size_t>(kind)]);
  return nullptr;
}

std::size_t WireReader::counted(std::string_view what, std::size_t least, std::size_t most) {
  const Token* token = next(what, Kind::kArray);
  if (token == nullptr) return 0;
  if (token->number >= least && token->number <= most)
    return static_cast<std::size_t>(token->number);
  fail("{} has {} elements, expected {} to {}", what, token->number, least, most);
  return 0;
}

std::uint64_t WireReader::next_number(std::string_view what, std::uint64_t least,
                                      std::uint64_t most) {
  const Token* token = next(what, Kind::kNumber);
  if (token == nullptr) return least;
  if (token->number >= least && token->number <= most) return token->number;
  fail("{} is {}, expected {} to {}", what, token->number, least, most);
  return least;
}

void WireReader::text(std::string_view what, std::string& value, std::size_t max_bytes) {
  value.clear();
  const Token* token = next(what, Kind::kText);
  if (token == nullptr) return;
  const std::string_view text = token->text;
  demand(text.size() <= max_bytes, "{} has {} bytes, expected at most {}", what, text.size(),
         max_bytes);
  demand(!has_controls(text), "{} holds control characters or is not UTF-8", what);
  if (ok()) value = text;
}

void WireReader::status_code(StatusCode& code, StatusCode least) {
  constexpr auto kLast = static_cast<std::uint64_t>(kValuesOf<StatusCode>.back());
  number("the status code", code, static_cast<std::uint64_t>(least), kLast);
  demand(code != StatusCode::kBusy, "the status code is busy, which never travels");
}

void WireReader::tensor(std::string_view what, TensorDesc& desc) {
  array(what, 2);
  enumerator("a tensor's dtype", desc.dtype);
  const std::size_t rank = counted("a tensor's shape", 0, Shape::kMaxRank);
  std::array<std::int64_t, Shape::kMaxRank> extents{};
  for (std::size_t axis = 0; axis < rank; ++axis)
    number("a tensor's extent", extents[axis], 0, limits::kMaxTensorBytes);
  const auto shape = Shape::make({extents.data(), rank});
  const auto bytes = shape ? shape->byte_count(desc.dtype) : std::nullopt;
  demand(bytes && *bytes <= limits::kMaxTensorBytes, "{} has more than {} bytes", what,
         limits::kMaxTensorBytes);
  desc.shape = ok() ? *shape : Shape();
}

Status WireReader::finish() const {
  if (!ok() || rest_ == Rest::kIgnore || at_ == count_) return status_;
  return {StatusCode::kProtocolError, "{} values too many", count_ - at_};
}

}  // namespace airlock
