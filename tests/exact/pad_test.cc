#include "runtime/exact/pad.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "tests/proto/hex.h"
#include "tests/support/golden_otp.h"

namespace airlock {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::Ne;
using testing::read_golden_json;
using testing::read_golden_npy;
using Words = std::vector<std::uint32_t>;

PadKey key_from(const std::string& hex) {
  const auto bytes = from_hex(hex);
  PadKey key{};
  std::copy_n(bytes.begin(), key.size(), key.begin());
  return key;
}

// FIPS 197's key of its example, for tests that need any.
PadKey some_key() { return key_from("000102030405060708090a0b0c0d0e0f"); }

Words words(WordStream& stream, const WordsPlace& place, std::size_t count) {
  Words out(count, 0xdeadbeefU);
  EXPECT_TRUE(stream.words(place, out).ok());
  return out;
}

std::vector<std::byte> derive(std::string_view label, const std::string& secret,
                              const std::string& salt) {
  const auto secret_bytes = from_hex(secret);
  const auto salt_bytes = from_hex(salt);
  const auto key = derive_key(std::span<const std::byte, 32>(secret_bytes),
                              std::span<const std::byte, 16>(salt_bytes), label);
  EXPECT_TRUE(key.ok());
  return {key->begin(), key->end()};
}

TEST(Pad, KeysAreThoseOfTheGoldenVectors) {
  SKIP_WITHOUT_GOLDEN_OTP();
  const auto keys = read_golden_json("keys.json");
  EXPECT_EQ(derive(kPadLabel, keys["boot"], keys["session"]),
            from_hex(keys["pad_key"].get<std::string>()));
  EXPECT_EQ(derive(kCheckLabel, keys["boot"], keys["session"]),
            from_hex(keys["check_key"].get<std::string>()));
}

TEST(Pad, OneLabelsKeyIsNotTheOthersNorAnotherSessions) {
  const std::string secret(64, '1');
  const std::string salt(32, '2');
  const auto pad = derive(kPadLabel, secret, salt);
  EXPECT_THAT(derive(kCheckLabel, secret, salt), Ne(pad));
  EXPECT_THAT(derive(kPadLabel, secret, std::string(32, '3')), Ne(pad));
  EXPECT_THAT(derive(kPadLabel, std::string(64, '4'), salt), Ne(pad));
}

// openssl enc -aes-128-ctr -K 00..0f -iv 07000000030001000200000000000000 of zeros.
TEST(Pad, CountersAreLaidOutAsDrawn) {
  auto stream = WordStream::create(some_key());
  ASSERT_TRUE(stream.ok());
  const WordsPlace place{.epoch = 7, .layer = 3, .linear = Linear::kO, .row = 2};
  EXPECT_THAT(words(*stream, place, 8),
              ElementsAre(0x61dcc94cU, 0xfe550f41U, 0xdfb0f867U, 0xd930c5daU, 0x1ed2cfaaU,
                          0x46dff82aU, 0xfe3391edU, 0x7d6ff7e4U));
}

TEST(Pad, WordsAreThoseOfTheGoldenPads) {
  SKIP_WITHOUT_GOLDEN_OTP();
  const auto keys = read_golden_json("keys.json");
  auto stream = WordStream::create(key_from(keys["pad_key"]));
  ASSERT_TRUE(stream.ok());
  for (const std::string name : {"a", "b"}) {
    const auto shape = read_golden_json(name + "/case.json");
    const auto expected = read_golden_npy<std::uint32_t>(name + "/q32_r_u32");
    const std::size_t rows = shape["n"];
    const std::size_t columns = shape["K"];
    ASSERT_EQ(expected.size(), rows * columns);
    for (std::size_t row = 0; row < rows; ++row) {
      const WordsPlace place{.epoch = shape["epoch"],
                             .layer = shape["layer"],
                             .linear = static_cast<Linear>(shape["op"].get<int>()),
                             .row = static_cast<std::uint32_t>(row)};
      EXPECT_THAT(
          words(*stream, place, columns),
          ElementsAreArray(expected.begin() + static_cast<std::ptrdiff_t>(row * columns),
                           expected.begin() + static_cast<std::ptrdiff_t>((row + 1) * columns)))
          << name << " row " << row;
    }
  }
}

TEST(Pad, FewerWordsAreTheFirstOfMore) {
  auto stream = WordStream::create(some_key());
  ASSERT_TRUE(stream.ok());
  const WordsPlace place{.epoch = 1, .layer = 2, .linear = Linear::kDown, .row = 3};
  // More than one call of the library takes.
  const Words all = words(*stream, place, (std::size_t{1} << 22) + 5);
  for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{3}, std::size_t{4},
                                  std::size_t{5}, std::size_t{1} << 22, all.size()}) {
    const Words some = words(*stream, place, count);
    EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin())) << count;
  }
  // A counter that began anew would repeat itself.
  EXPECT_FALSE(std::equal(all.end() - 5, all.end(), all.begin()));
}

TEST(Pad, EveryFieldOfAPlaceGivesOtherWords) {
  auto stream = WordStream::create(some_key());
  ASSERT_TRUE(stream.ok());
  const WordsPlace place{.epoch = 1, .layer = 2, .linear = Linear::kO, .row = 3};
  std::vector<WordsPlace> others(7, place);
  others[0].epoch = 2;
  others[1].epoch = 0x01000001;
  others[2].layer = 3;
  others[3].layer = 0x0102;
  others[4].linear = Linear::kGateUp;
  others[5].row = 4;
  others[6].row = 0x80000003U;
  const Words expected = words(*stream, place, 16);
  for (const WordsPlace& other : others) EXPECT_THAT(words(*stream, other, 16), Ne(expected));
  EXPECT_EQ(words(*stream, place, 16), expected);
}

TEST(Pad, AnotherKeyGivesOtherWords) {
  auto stream = WordStream::create(some_key());
  auto other = WordStream::create(key_from("100102030405060708090a0b0c0d0e0f"));
  ASSERT_TRUE(stream.ok() && other.ok());
  EXPECT_THAT(words(*other, {}, 16), Ne(words(*stream, {}, 16)));
}

TEST(Pad, WipingLeavesNothing) {
  std::vector<std::byte> secret(37, std::byte{0x5a});
  wipe(std::span(secret).subspan(1));
  EXPECT_EQ(secret[0], std::byte{0x5a});
  EXPECT_EQ(std::count(secret.begin(), secret.end(), std::byte{0x5a}), 1);
}

TEST(Pad, AStreamThatMovedGoesOn) {
  auto stream = WordStream::create(some_key());
  ASSERT_TRUE(stream.ok());
  const Words expected = words(*stream, {}, 16);
  WordStream moved = std::move(stream).value();
  EXPECT_EQ(words(moved, {}, 16), expected);
}

}  // namespace
}  // namespace airlock
