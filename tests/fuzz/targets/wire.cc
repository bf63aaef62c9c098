// WireReader in any order of calls, over any bytes; and back from WireWriter.
//
//   input: u8 number of calls, so many bytes that each name a call, then the message

#include "proto/wire.h"

#include <limits>

#include "tests/fuzz/take.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

constexpr std::size_t kMaxTextBytes = 40;
constexpr std::size_t kMaxListed = 8;

/// What was read, in order.
struct Values {
  std::vector<std::uint64_t> numbers;
  std::vector<std::string> texts;
  std::vector<TensorDesc> tensors;
  std::vector<std::vector<std::uint16_t>> lists;
  bool operator==(const Values&) const = default;
};

/// The same calls for a writer and for a reader; `values` is const for the writer.
void each_call(auto& wire, std::span<const std::byte> calls, auto& values) {
  std::size_t number = 0;
  std::size_t text = 0;
  std::size_t tensor = 0;
  std::size_t list = 0;
  for (const std::byte call : calls) {
    switch (std::to_integer<unsigned>(call) % 5) {
      case 0:
        wire.number("a number", values.numbers[number++]);
        break;
      case 1:
        wire.text("a text", values.texts[text++], kMaxTextBytes);
        break;
      case 2:
        wire.tensor("a tensor", values.tensors[tensor++]);
        break;
      case 3:
        wire.list("a list", values.lists[list++], kMaxListed,
                  [&wire](auto& item) { wire.number("an item", item); });
        break;
      default:
        wire.array("an array", std::to_integer<unsigned>(call) / 5 % 8);
    }
  }
}

Values room_for(std::span<const std::byte> calls) {
  Values values;
  values.numbers.resize(calls.size());
  values.texts.resize(calls.size());
  values.tensors.resize(calls.size());
  values.lists.resize(calls.size());
  return values;
}

std::vector<Bytes> seeds() {
  const Bytes calls = {std::byte{4 + 5 * 4}, std::byte{0}, std::byte{1}, std::byte{2},
                       std::byte{3}};
  Values values = room_for(calls);
  values.numbers[0] = std::numeric_limits<std::uint64_t>::max();
  values.texts[0] = "text \xc3\xa9";
  values.tensors[0] = {DType::kBF16, Shape{3, 0, 70000}};
  values.lists[0] = {1, 300, 65535};
  WireWriter writer;
  each_call(writer, calls, values);
  Bytes seed = {std::byte{static_cast<unsigned char>(calls.size())}};
  seed.insert(seed.end(), calls.begin(), calls.end());
  const Bytes message = std::move(writer).take();
  seed.insert(seed.end(), message.begin(), message.end());
  return {seed};
}

bool run(std::span<const std::byte> input) {
  const std::size_t count = std::min<std::size_t>(take<std::uint8_t>(input), input.size());
  const auto calls = input.first(count);
  const auto message = input.subspan(count);
  WireReader reader(message);
  Values values = room_for(calls);
  each_call(reader, calls, values);
  for (const std::string& text : values.texts) CHECK(text.size() <= kMaxTextBytes);
  for (const TensorDesc& tensor : values.tensors) CHECK(tensor.bytes() <= limits::kMaxTensorBytes);
  for (const auto& list : values.lists) CHECK(list.size() <= kMaxListed);
  const Status status = reader.finish();
  if (!status.ok()) {
    CHECK(status.code() == StatusCode::kProtocolError);
    check_refusal(status);
    return false;
  }
  WireWriter writer;
  each_call(writer, calls, values);
  const Bytes again = std::move(writer).take();
  WireReader second(again);
  Values read = room_for(calls);
  each_call(second, calls, read);
  CHECK(second.finish().ok() && read == values);
  return true;
}

}  // namespace

constinit const Target kWire = {"wire", seeds, run};

}  // namespace airlock::fuzz
