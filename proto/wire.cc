#include "proto/wire.h"

#include <fmt/format.h>

#include <exception>
#include <msgpack.hpp>

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

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}

std::size_t cut_between_characters(std::string_view value, std::size_t max_bytes) {
  if (value.size() <= max_bytes) return value.size();
  std::size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(value[end]) & 0xc0U) == 0x80U) --end;
  return end;
}

}  // namespace

void WireWriter::array(std::size_t count) {
  ByteSink sink{bytes_};
  msgpack::packer<ByteSink>(sink).pack_array(static_cast<std::uint32_t>(count));
}

void WireWriter::number(std::uint64_t value) {
  ByteSink sink{bytes_};
  msgpack::packer<ByteSink>(sink).pack_uint64(value);
}

void WireWriter::text(std::string_view value, std::size_t max_bytes) {
  const std::size_t count = cut_between_characters(value, max_bytes);
  ByteSink sink{bytes_};
  msgpack::packer<ByteSink>(sink).pack_str(static_cast<std::uint32_t>(count));
  for (char c : value.substr(0, count))
    bytes_.push_back(static_cast<std::byte>(is_control(c) ? '?' : c));
}

void WireWriter::status_code(StatusCode code) {
  CHECK(code != StatusCode::kBusy);
  number(static_cast<std::uint64_t>(code));
}

void WireWriter::tensor(const TensorDesc& desc) {
  array(2);
  number(static_cast<std::uint64_t>(desc.dtype));
  array(desc.shape.rank());
  for (std::int64_t extent : desc.shape.extents()) number(static_cast<std::uint64_t>(extent));
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

WireReader::WireReader(std::span<const std::byte> bytes) {
  try {
    Collector collector(*this);
    std::size_t end = 0;
    const bool whole =
        msgpack::parse(reinterpret_cast<const char*>(bytes.data()), bytes.size(), end, collector);
    if (!whole) {
      fail(fmt::format("{} bytes that are not one whole msgpack value within the limits",
                       bytes.size()));
    } else if (end != bytes.size()) {
      fail(fmt::format("{} bytes behind the value", bytes.size() - end));
    }
  } catch (const std::exception&) {
    fail(fmt::format("{} bytes that are not msgpack", bytes.size()));
  }
}

void WireReader::fail(std::string message) {
  if (status_.ok()) status_ = Status(StatusCode::kProtocolError, std::move(message));
}

const WireReader::Token* WireReader::next(std::string_view what, Kind kind) {
  if (!ok()) return nullptr;
  if (at_ == count_) {
    fail(fmt::format("{} is missing", what));
    return nullptr;
  }
  const Token* token = &tokens_[at_++];
  if (token->kind == kind) return token;
  static constexpr std::string_view kKindNames[] = {"an unsigned number", "a text", "an array"};
  fail(fmt::format("{} is not {}", what, kKindNames[static_cast<std::size_t>(kind)]));
  return nullptr;
}

std::size_t WireReader::array(std::string_view what, std::size_t least, std::size_t most) {
  const Token* token = next(what, Kind::kArray);
  if (token == nullptr) return 0;
  if (token->number >= least && token->number <= most)
    return static_cast<std::size_t>(token->number);
  fail(fmt::format("{} has {} elements, expected {} to {}", what, token->number, least, most));
  return 0;
}

std::uint64_t WireReader::number(std::string_view what, std::uint64_t least, std::uint64_t most) {
  const Token* token = next(what, Kind::kNumber);
  if (token == nullptr) return least;
  if (token->number >= least && token->number <= most) return token->number;
  fail(fmt::format("{} is {}, expected {} to {}", what, token->number, least, most));
  return least;
}

std::string_view WireReader::text(std::string_view what, std::size_t max_bytes) {
  const Token* token = next(what, Kind::kText);
  if (token == nullptr) return {};
  if (token->text.size() > max_bytes) {
    fail(fmt::format("{} has {} bytes, expected at most {}", what, token->text.size(), max_bytes));
    return {};
  }
  for (char c : token->text) {
    if (!is_control(c)) continue;
    fail(fmt::format("{} holds the control byte {}", what,
                     static_cast<unsigned>(static_cast<unsigned char>(c))));
    return {};
  }
  return token->text;
}

StatusCode WireReader::status_code(StatusCode least) {
  constexpr auto kLast = static_cast<std::uint64_t>(kValuesOf<StatusCode>.back());
  const auto code =
      static_cast<StatusCode>(number("the status code", static_cast<std::uint64_t>(least), kLast));
  if (code == StatusCode::kBusy) fail("the status code is busy, which never travels");
  return code;
}

TensorDesc WireReader::tensor(std::string_view what) {
  array(what, 2, 2);
  const auto dtype = from_number<DType>(number("a tensor's dtype", 0, UINT8_MAX));
  const std::size_t rank = array("a tensor's shape", 0, Shape::kMaxRank);
  std::array<std::int64_t, Shape::kMaxRank> extents{};
  for (std::size_t axis = 0; axis < rank; ++axis) {
    extents[axis] =
        static_cast<std::int64_t>(number("a tensor's extent", 0, limits::kMaxTensorBytes));
  }
  if (!ok()) return {};
  if (!dtype) {
    fail(fmt::format("{} has an unknown dtype", what));
    return {};
  }
  const auto shape = Shape::make({extents.data(), rank});
  const auto bytes = shape ? shape->byte_count(*dtype) : std::nullopt;
  if (!bytes || *bytes > limits::kMaxTensorBytes) {
    fail(fmt::format("{} has more than {} bytes", what, limits::kMaxTensorBytes));
    return {};
  }
  return {*dtype, *shape};
}

Status WireReader::finish(Rest rest) const {
  if (!ok() || rest == Rest::kIgnore || at_ == count_) return status_;
  return {StatusCode::kProtocolError, "{} values too many", count_ - at_};
}

}  // namespace airlock
