#include "proto/handshake.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/limits.h"
#include "tests/proto/hex.h"

namespace airlock {
namespace {

using testing::HasSubstr;

// A change of these bytes is a change of the protocol: raise its version and docs/PROTOCOL.md in
// the same commit.
constexpr const char* kHelloHex =
    "4149524c4f434b0008000000019ba672756e6e6572011000a4616231320593ce0001000000cd1000cd2800cd0400"
    "0000";
constexpr const char* kWelcomeHex =
    "4149524c4f434b000800000002dc0014cf8000000000000001d9203031323334353637383961626364656630313233"
    "3435"
    "3637383961626364656601"
    "08ce00a00000cd280001cd0400ab6169726c6f636b2d612d71ab6169726c6f636b2d612d70"
    "97cd0800cd200010200840ce0001f500a26364030102a3637075cd02bc0001a162";
constexpr const char* kRefusalHex = "4149524c4f434b0008000000039208a466756c6c";
constexpr const char* kSignHex = "4149524c4f434b00080000000490";
constexpr const char* kGoodbyeHex = "4149524c4f434b00080000000591a4646f6e65";
constexpr const char* kDataSocketHex = "4149524c4f434b00080000000691ac6970633a2f2f2f746d702f61";
constexpr const char* kAttachedHex = "4149524c4f434b00080000000792919301ce00020000ce00010000a0";

Hello hello() {
  return {"runner", {RingChoice::kOn, 16, 0}, "ab12", 5, {{65536, 0, 4096}}, 10240, 1024};
}

Welcome welcome() {
  Welcome message;
  message.epoch = (std::uint64_t{1} << 63) + 1;
  message.token = "0123456789abcdef0123456789abcdef";
  message.has_ring = true;
  message.geometry = {8, 10485760};
  message.path_limit = 10240;
  message.calibrates = true;
  message.inline_bytes = 1024;
  message.request_segment = "airlock-a-q";
  message.reply_segment = "airlock-a-p";
  message.dims = {2048, 8192, 16, 32, 8, 64, 128256};
  message.digest = "cd";
  message.dtype = DType::kBF16;
  message.stored_dtype = DType::kF32;
  message.threads = 2;
  message.device = "cpu";
  message.config_bytes = 700;
  message.has_pool = true;
  message.fp64_products = "b";
  return message;
}

std::vector<std::pair<ControlMessage, const char*>> golden() {
  return {{hello(), kHelloHex},
          {welcome(), kWelcomeHex},
          {Refusal{StatusCode::kResourceExhausted, "full"}, kRefusalHex},
          {Sign{}, kSignHex},
          {Goodbye{"done"}, kGoodbyeHex},
          {DataSocket{"ipc:///tmp/a"}, kDataSocketHex},
          {Attached{{{PoolUse::kOutput, 131072, 65536}}}, kAttachedHex}};
}

void expect_refused(const std::vector<std::byte>& bytes, const char* text = "") {
  const auto decoded = decode_control(bytes);
  ASSERT_FALSE(decoded.ok()) << to_hex(bytes);
  EXPECT_EQ(decoded.status().code(), StatusCode::kProtocolError);
  EXPECT_THAT(decoded.status().message(), HasSubstr(text));
}

TEST(Control, has_the_bytes_of_the_document) {
  for (const auto& [message, hex] : golden()) EXPECT_EQ(to_hex(encode_control(message)), hex);
}

TEST(Control, is_read_from_the_bytes_of_the_document) {
  for (const auto& [message, hex] : golden())
    EXPECT_TRUE(decode_control(from_hex(hex)).value() == message) << hex;
}

TEST(Control, without_a_ring_names_no_segments) {
  Welcome plain = welcome();
  plain.has_ring = false;
  plain.calibrates = false;
  plain.request_segment.clear();
  plain.reply_segment.clear();
  EXPECT_TRUE(decode_control(encode_control(plain)).value() == ControlMessage(plain));
}

TEST(Control, refuses_every_cut_and_anything_behind) {
  for (const auto& [message, hex] : golden()) {
    const auto whole = encode_control(message);
    for (std::size_t count = 0; count < whole.size(); ++count) {
      expect_refused({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(count)});
    }
    expect_refused(joined(whole, {std::byte{0}}));
  }
}

TEST(Control, refuses_what_is_no_airlock_message) {
  expect_refused(from_hex("47455420206874747020202020202020"), "no Airlock program");
  expect_refused(with_byte(encode_control(Sign{}), 12, 0), "unknown kind 0");
  expect_refused(with_byte(encode_control(Sign{}), 12, 8), "unknown kind 8");
  expect_refused(std::vector<std::byte>(limits::kMaxControlFrameBytes + 1), "at most");
}

TEST(ControlVersion, another_major_is_a_mismatch_that_names_both) {
  const auto decoded = decode_control(with_byte(encode_control(hello()), 8, 1));
  EXPECT_EQ(decoded.status().code(), StatusCode::kVersionMismatch);
  EXPECT_THAT(decoded.status().message(), HasSubstr("peer speaks protocol 1.0, this program 8.0"));
}

TEST(ControlVersion, another_major_is_told_whatever_follows) {
  const auto decoded =
      decode_control(from_hex("4149524c4f434b000201"
                              "0700"));
  EXPECT_EQ(decoded.status().code(), StatusCode::kVersionMismatch);
  EXPECT_THAT(decoded.status().message(), HasSubstr("258.7"));
}

TEST(ControlVersion, a_higher_minor_may_add_elements_at_the_end) {
  auto bytes = with_byte(from_hex(kGoodbyeHex), 10, 1);
  EXPECT_TRUE(decode_control(bytes).value() == ControlMessage(Goodbye{"done"}));
  bytes = joined(with_byte(bytes, 13, 0x93), from_hex("81a16101"
                                                      "c0"));  // a map and a nil
  EXPECT_TRUE(decode_control(bytes).value() == ControlMessage(Goodbye{"done"}));
  const auto sign =
      joined(with_byte(with_byte(from_hex(kSignHex), 10, 9), 13, 0x91), from_hex("05"));
  EXPECT_TRUE(decode_control(sign).value() == ControlMessage(Sign{}));
}

TEST(ControlVersion, the_same_minor_may_not_add_elements) {
  expect_refused(joined(with_byte(from_hex(kGoodbyeHex), 13, 0x92), from_hex("05")), "2 elements");
}

TEST(ControlVersion, a_higher_minor_may_not_leave_elements_out) {
  expect_refused(from_hex("4149524c4f434b0008000100"
                          "05"
                          "90"),
                 "0 elements");
}

TEST(HelloMessage, refuses_a_geometry_outside_the_limits) {
  for (std::uint32_t count : {7U, 1025U}) {
    Hello wrong = hello();
    wrong.ring.slot_count = count;
    expect_refused(encode_control(wrong), "slot count");
  }
  for (std::uint32_t bytes : {4095U, 4097U, 67108864U + 4096U}) {
    Hello wrong = hello();
    wrong.ring.slot_bytes = bytes;
    expect_refused(encode_control(wrong), "slot bytes");
  }
}

TEST(HelloMessage, cuts_a_long_client_name) {
  Hello long_name = hello();
  long_name.client.assign(1000, 'n');
  const auto decoded = decode_control(encode_control(long_name)).value();
  EXPECT_EQ(std::get<Hello>(decoded).client, std::string(limits::kMaxClientNameBytes, 'n'));
}

TEST(HelloMessage, asks_for_int8_weights_exactly_where_it_is_private) {
  for (const Privacy privacy : kValuesOf<Privacy>) {
    for (const Int8Weights weights : kValuesOf<Int8Weights>) {
      Hello asking = hello();
      asking.privacy = privacy;
      asking.int8_weights = weights;
      const bool agree = (privacy == Privacy::kPlain) == (weights == Int8Weights::kNone);
      if (agree) {
        EXPECT_TRUE(decode_control(encode_control(asking)).value() == ControlMessage(asking));
      } else {
        expect_refused(encode_control(asking), "privacy");
      }
    }
  }
}

TEST(HelloMessage, refuses_modes_and_weights_that_are_none) {
  const auto plain = encode_control(hello());
  expect_refused(with_byte(plain, plain.size() - 2, 6), "privacy mode");
  expect_refused(with_byte(plain, plain.size() - 1, 4), "int8 weights");
}

TEST(AttachedMessage, tells_the_digest_of_the_int8_weights) {
  const Attached attached{{}, "00ff"};
  EXPECT_TRUE(decode_control(encode_control(attached)).value() == ControlMessage(attached));
  expect_refused(encode_control(Attached{{}, "no hex"}), "hex");
}

TEST(HelloMessage, refuses_a_digest_that_is_not_hex) {
  Hello wrong = hello();
  wrong.digest = "../../etc";
  expect_refused(encode_control(wrong), "hex");
}

TEST(WelcomeMessage, refuses_each_field_that_is_out_of_bounds) {
  const std::pair<const char*, void (*)(Welcome&)> cases[] = {
      {"token", [](Welcome& w) { w.token = "0123"; }},
      {"token", [](Welcome& w) { w.token[3] = 'g'; }},
      {"slot count", [](Welcome& w) { w.geometry.slot_count = 4096; }},
      {"slot bytes", [](Welcome& w) { w.geometry.slot_bytes = 1U << 31; }},
      {"path limit", [](Welcome& w) { w.path_limit = 0; }},
      {"path limit", [](Welcome& w) { w.path_limit = 10485761; }},
      {"request segment", [](Welcome& w) { w.request_segment = "airlock-../x"; }},
      {"one of two", [](Welcome& w) { w.request_segment = ""; }},
      {"reply segment", [](Welcome& w) { w.reply_segment = "other"; }},
      {"one segment", [](Welcome& w) { w.reply_segment = w.request_segment; }},
      {"without a ring", [](Welcome& w) { w.has_ring = false; }},
      {"hidden", [](Welcome& w) { w.dims.hidden = 0; }},
      {"dimension", [](Welcome& w) { w.dims.vocab = -1; }},
      {"layers", [](Welcome& w) { w.dims.layers = 513; }},
      {"kv heads", [](Welcome& w) { w.dims.kv_heads = 5; }},
      {"digest", [](Welcome& w) { w.digest = "xyz"; }},
      {"dtype", [](Welcome& w) { w.dtype = DType::kI32; }},
      {"dtype", [](Welcome& w) { w.stored_dtype = DType::kU8; }},
      {"thread", [](Welcome& w) { w.threads = 0; }},
      {"config", [](Welcome& w) { w.config_bytes = 1U << 20; }}};
  for (const auto& [text, spoil] : cases) {
    Welcome wrong = welcome();
    spoil(wrong);
    expect_refused(encode_control(wrong), text);
  }
}

TEST(WelcomeMessage, may_have_no_model) {
  Welcome products = welcome();
  products.dims = {};
  EXPECT_TRUE(decode_control(encode_control(products)).value() == ControlMessage(products));
}

TEST(WelcomeMessage, names_no_segments_whose_descriptors_come_beside_it) {
  Welcome sealed = welcome();
  sealed.request_segment.clear();
  sealed.reply_segment.clear();
  EXPECT_TRUE(decode_control(encode_control(sealed)).value() == ControlMessage(sealed));
}

TEST(DataSocketMessage, has_an_endpoint_of_ours) {
  expect_refused(encode_control(DataSocket{"pgm://x"}), "endpoint");
  expect_refused(encode_control(DataSocket{""}), "endpoint");
}

TEST(RefusalMessage, must_carry_an_error) {
  expect_refused(encode_control(Refusal{StatusCode::kOk, "fine"}), "status code");
}

TEST(RefusalMessage, cannot_ask_to_be_tried_again) {
  auto bytes = from_hex(kRefusalHex);
  expect_refused(with_byte(bytes, 14, static_cast<unsigned>(StatusCode::kBusy)), "busy");
  expect_refused(with_byte(bytes, 14, kCountOf<StatusCode>), "status code");
}

TEST(Geometry, is_accepted_only_within_the_limits) {
  EXPECT_TRUE(check_geometry({8, 4096}).ok());
  EXPECT_TRUE(check_geometry({1024, 67108864}).ok());
  for (const RingGeometry& wrong :
       {RingGeometry{7, 4096}, RingGeometry{1025, 4096}, RingGeometry{8, 4095},
        RingGeometry{8, 8191}, RingGeometry{8, 67112960}, RingGeometry{0, 0}}) {
    EXPECT_EQ(check_geometry(wrong).code(), StatusCode::kProtocolError);
  }
}

}  // namespace
}  // namespace airlock
