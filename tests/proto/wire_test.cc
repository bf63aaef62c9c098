#include "proto/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/proto/hex.h"

namespace airlock {
namespace {

using testing::HasSubstr;

std::string message_of(const WireReader& reader) { return reader.finish().message(); }

std::uint64_t number_of(WireReader& reader, std::string_view what, std::uint64_t least,
                        std::uint64_t most) {
  std::uint64_t value = 0;
  reader.number(what, value, least, most);
  return value;
}

std::string text_of(WireReader& reader, std::string_view what, std::size_t max_bytes) {
  std::string value;
  reader.text(what, value, max_bytes);
  return value;
}

TEST(WireReader, reads_what_the_writer_wrote) {
  WireWriter writer;
  writer.array("all", 2);
  writer.number("number", UINT64_MAX);
  writer.text("text", "text", 10);
  const auto bytes = std::move(writer).take();
  WireReader reader(bytes);
  reader.array("all", 2);
  EXPECT_EQ(number_of(reader, "number", 0, UINT64_MAX), UINT64_MAX);
  EXPECT_EQ(text_of(reader, "text", 4), "text");
  EXPECT_TRUE(reader.finish().ok());
}

TEST(WireReader, names_what_is_out_of_range) {
  const auto bytes = from_hex("9105");
  WireReader reader(bytes);
  reader.array("all", 1);
  EXPECT_EQ(number_of(reader, "the colour", 6, 9), 6U);
  EXPECT_EQ(message_of(reader), "the colour is 5, expected 6 to 9");
}

TEST(WireReader, keeps_the_first_error) {
  const auto bytes = from_hex("920506");
  WireReader reader(bytes);
  reader.array("all", 3);
  number_of(reader, "a number", 7, 7);
  EXPECT_THAT(message_of(reader), HasSubstr("all has 2 elements"));
}

TEST(WireReader, refuses_another_kind_of_value) {
  for (const char* hex :
       {"c0", "c3", "ff", "cb3ff0000000000000", "80", "c40100", "d40100", "90", "a161"}) {
    const auto bytes = from_hex(hex);
    WireReader reader(bytes);
    number_of(reader, "it", 0, UINT64_MAX);
    EXPECT_THAT(message_of(reader), HasSubstr("it is not an unsigned number")) << hex;
  }
}

TEST(WireReader, refuses_what_is_cut_off_or_has_something_behind_it) {
  for (const char* hex : {"", "91", "cd01", "d9", "a3aabb", "dd", "c1", "0505", "9105ff",
                          "ddffffffff", "dbffffffff"}) {
    const auto bytes = from_hex(hex);
    EXPECT_FALSE(WireReader(bytes).ok()) << hex;
  }
}

TEST(WireReader, refuses_deep_nesting) {
  const std::vector<std::byte> bytes(4096, std::byte{0x91});
  EXPECT_FALSE(WireReader(bytes).ok());
  const auto seven = from_hex("9191919191919100");
  EXPECT_FALSE(WireReader(seven).ok());
  const auto six = from_hex("91919191919100");
  EXPECT_TRUE(WireReader(six).ok());
}

TEST(WireReader, refuses_more_values_than_any_message_has) {
  auto bytes = from_hex("dc1000");
  bytes.resize(bytes.size() + 4096, std::byte{1});
  EXPECT_FALSE(WireReader(bytes).ok());
}

TEST(WireReader, refuses_long_texts_and_control_bytes) {
  const auto bytes = from_hex("a3610a62");
  WireReader control(bytes);
  text_of(control, "name", 3);
  EXPECT_THAT(message_of(control), HasSubstr("control characters"));
  WireReader longer(bytes);
  text_of(longer, "name", 2);
  EXPECT_THAT(message_of(longer), HasSubstr("3 bytes, expected at most 2"));
}

TEST(WireReader, refuses_tensors_that_overflow_or_exceed_the_limit) {
  for (const char* hex : {"9201"
                          "94"
                          "ce80000000"
                          "ce80000000"
                          "ce80000000"
                          "ce80000000",  // 2^124 elements
                          "9201"
                          "92"
                          "ce80000000"
                          "02",  // 16 GiB
                          "9201"
                          "91"
                          "cfffffffffffffffff",  // a negative extent
                          "9200"
                          "9101",
                          "9209"
                          "9101",  // dtypes that are none
                          "9201"
                          "950101010101",  // rank 5
                          "93019101"
                          "00"}) {
    const auto bytes = from_hex(hex);
    WireReader reader(bytes);
    TensorDesc tensor;
    reader.tensor("x", tensor);
    EXPECT_FALSE(reader.finish().ok()) << hex;
  }
}

TEST(WireWriter, cuts_long_texts_between_characters) {
  WireWriter writer;
  writer.text("text", "a\xc3\xa4\xc3\xb6", 4);
  EXPECT_EQ(to_hex(std::move(writer).take()), "a361c3a4");
}

TEST(WireWriter, replaces_control_bytes) {
  WireWriter writer;
  writer.text("text", "a\n\x1b[2J", 10);
  EXPECT_EQ(to_hex(std::move(writer).take()), "a6613f3f5b324a");
}

}  // namespace
}  // namespace airlock
