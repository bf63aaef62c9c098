#include "proto/message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/limits.h"
#include "proto/wire.h"
#include "tests/proto/hex.h"

namespace airlock {
namespace {

using testing::HasSubstr;

// A change of these bytes is a change of the protocol: raise its version and docs/PROTOCOL.md in
// the same commit.
constexpr const char* kRequestHex = "9807030300929201059202050091920392cc80cd080093000200";
constexpr const char* kResponseHex = "97cd012c0300a091920392cc80cd0800cd03e8ce00011170";
constexpr const char* kErrorHex = "97010702a26e6f900000";

constexpr ModelDims kDims{.hidden = 64,
                          .intermediate = 128,
                          .layers = 10,
                          .heads = 4,
                          .kv_heads = 2,
                          .head_dim = 16,
                          .vocab = 256};

RequestHeader request() {
  return {7,
          linear_spec({{WeightKind::kQ, 5}, {WeightKind::kK, 5}}, {DType::kBF16, {128, 2048}},
                      DType::kBF16),
          {PoolPlace(), PoolPlace::at(4096), PoolPlace()}};
}

ResponseHeader response() {
  ResponseHeader header;
  header.request_id = 300;
  header.op = Op::kBatchLinear;
  header.results = {{DType::kBF16, {128, 2048}}};
  header.queue_ns = 1000;
  header.server_ns = 70000;
  return header;
}

ResponseHeader error() {
  ResponseHeader header;
  header.request_id = 1;
  header.code = StatusCode::kInvalidInput;
  header.message = "no";
  return header;
}

void expect_request_refused(const std::vector<std::byte>& bytes) {
  const auto decoded = decode_request(bytes);
  ASSERT_FALSE(decoded.ok()) << to_hex(bytes);
  EXPECT_EQ(decoded.status().code(), StatusCode::kProtocolError);
}

void expect_response_refused(const std::vector<std::byte>& bytes) {
  const auto decoded = decode_response(bytes);
  ASSERT_FALSE(decoded.ok()) << to_hex(bytes);
  EXPECT_EQ(decoded.status().code(), StatusCode::kProtocolError);
}

TEST(Header, has_the_bytes_of_the_document) {
  EXPECT_EQ(to_hex(encode(request())), kRequestHex);
  EXPECT_EQ(to_hex(encode(response())), kResponseHex);
  EXPECT_EQ(to_hex(encode(error())), kErrorHex);
}

TEST(Header, is_read_from_the_bytes_of_the_document) {
  EXPECT_EQ(decode_request(from_hex(kRequestHex)).value(), request());
  EXPECT_EQ(decode_response(from_hex(kResponseHex)).value(), response());
  EXPECT_EQ(decode_response(from_hex(kErrorHex)).value(), error());
}

TEST(Header, of_every_op_comes_back_as_it_was) {
  const TensorDesc a{DType::kF16, {32, 7, 64}};
  const TensorDesc b{DType::kF16, {8, 9, 64}};
  OpSpec init;
  init.op = Op::kInit;
  for (const OpSpec& spec :
       {OpSpec{}, init, embedding_spec(3, DType::kF16), lm_head_spec({DType::kF32, {1, 64}}),
        matmul_spec(a, b, Transpose::kB, DType::kF32),
        int_linear_spec({{WeightKind::kGate, 3}, {WeightKind::kUp, 3}}, 2, 5, kDims),
        int_linear_spec({}, 1, 1, kDims), pad_linear_spec({{WeightKind::kDown, 9}}, 2, 70)}) {
    const RequestHeader header{UINT64_MAX, spec};
    EXPECT_EQ(decode_request(encode(header)).value(), header) << name_of(spec.op);
  }
}

TEST(Header, of_the_greatest_size_fits_its_place) {
  RequestHeader large{UINT64_MAX, {}};
  large.spec.op = Op::kBatchLinear;
  large.spec.weights.assign(limits::kMaxWeightsPerOp, {WeightKind::kDown, UINT16_MAX});
  large.spec.inputs.assign(limits::kMaxTensorsPerMessage,
                           {DType::kU8, {1, 1, 1, std::int64_t{1} << 30}});
  large.places.assign(2 * limits::kMaxTensorsPerMessage,
                      PoolPlace::at(limits::kMaxPoolBytes - limits::kPoolPageBytes));
  EXPECT_EQ(decode_request(encode(large)).value(), large);
  ResponseHeader failed = error();
  failed.message.assign(limits::kMaxErrorTextBytes, 'x');
  EXPECT_EQ(decode_response(encode(failed)).value(), failed);
}

TEST(Header, error_texts_are_cut_and_cleaned_when_they_are_sent) {
  ResponseHeader failed = error();
  failed.message = "line\n" + std::string(5000, 'x');
  const auto decoded = decode_response(encode(failed));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->message, "line?" + std::string(limits::kMaxErrorTextBytes - 5, 'x'));
}

TEST(DecodeRequest, refuses_more_planes_than_weights_can_have) {
  RequestHeader header{1, int_linear_spec({{WeightKind::kQ, 0}}, 2, 3, kDims)};
  EXPECT_TRUE(decode_request(encode(header)).ok());
  header.spec.planes = 3;
  expect_request_refused(encode(header));
}

TEST(DecodeRequest, refuses_every_cut) {
  const auto whole = encode(request());
  for (std::size_t count = 0; count < whole.size(); ++count) {
    expect_request_refused({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(count)});
  }
}

TEST(DecodeRequest, refuses_anything_behind_the_header) {
  expect_request_refused(joined(encode(request()), {std::byte{0}}));
}

TEST(DecodeRequest, refuses_unknown_values) {
  const auto whole = encode(request());  // 98 id op dtype transpose 92 92 kind layer ...
  expect_request_refused(with_byte(whole, 0, 0x97));
  for (unsigned op : {0U, 10U, 100U}) expect_request_refused(with_byte(whole, 2, op));
  for (unsigned dtype : {0U, 9U}) expect_request_refused(with_byte(whole, 3, dtype));
  expect_request_refused(with_byte(whole, 4, 3));
  for (unsigned kind : {0U, 8U}) expect_request_refused(with_byte(whole, 7, kind));
  // 257 in the place of the op, of the dtype: 1 in eight bits.
  for (const char* hex : {"9807cd0101010090009090", "980703cd01010090009090"})
    expect_request_refused(from_hex(hex));
}

TEST(DecodeRequest, refuses_more_than_a_header_can_hold) {
  expect_request_refused(std::vector<std::byte>(limits::kHeaderBytes, std::byte{0}));
  expect_request_refused({});
}

TEST(DecodeRequest, refuses_a_layer_over_16_bits) {
  expect_request_refused(
      from_hex("980703010091"
               "9201ce00010000"
               "00"
               "9090"));
}

TEST(DecodeRequest, refuses_nine_weights_and_nine_inputs) {
  expect_request_refused(
      from_hex("980703010099"
               "920100920100920100920100920100920100920100920100920100"
               "00"
               "9090"));
  expect_request_refused(
      from_hex("98070201009000"
               "99"
               "9201910192019101920191019201910192019101"
               "92019101920191019201910192019101"
               "90"));
}

TEST(DecodeRequest, refuses_tensors_that_are_too_large_together) {
  expect_request_refused(
      from_hex("98070201009000"
               "93"
               "920191ce40000000"
               "920191ce40000000"
               "920191ce40000000"
               "90"));
}

TEST(DecodeRequest, says_what_was_wrong) {
  EXPECT_THAT(decode_request(from_hex("98070a01009000"
                                      "9090"))
                  .status()
                  .message(),
              HasSubstr("the op is 10"));
}

TEST(DecodeResponse, refuses_every_cut) {
  for (const auto& whole : {encode(response()), encode(error())}) {
    for (std::size_t count = 0; count < whole.size(); ++count) {
      expect_response_refused({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(count)});
    }
  }
}

TEST(DecodeResponse, refuses_a_status_code_that_is_none) {
  expect_response_refused(from_hex("9701070ea0900000"));
}

// Busy is ordinary flow between a caller and its own channel: a peer that could say it would make
// callers try again.
TEST(DecodeResponse, refuses_a_peer_that_says_busy) {
  const auto decoded = decode_response(from_hex("9701070da0900000"));
  EXPECT_EQ(decoded.status().code(), StatusCode::kProtocolError);
  EXPECT_THAT(decoded.status().message(), HasSubstr("busy"));
}

TEST(DecodeResponse, refuses_a_text_without_error_and_results_beside_one) {
  expect_response_refused(from_hex("97010700a16e900000"));
  expect_response_refused(from_hex("97010702a16e91920191010000"));
}

TEST(DecodeResponse, refuses_a_long_error_text) {
  WireWriter writer;
  writer.array("the header", 7);
  for (std::uint64_t value : {1U, 7U, 2U}) writer.number("a number", value);
  writer.text("the error text", std::string(limits::kMaxErrorTextBytes + 1, 'x'), 4000);
  writer.array("the results", 0);
  writer.number("a time", 0);
  writer.number("a time", 0);
  expect_response_refused(std::move(writer).take());
}

}  // namespace
}  // namespace airlock
