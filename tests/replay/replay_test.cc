#include "runtime/replay/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

#include "base/convert.h"
#include "base/int8_rows.h"
#include "tests/replay/replay_rig.h"
#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using testing::FakeBackend;
using testing::FakeClock;
using ::testing::Ge;
using ::testing::HasSubstr;
using testing::kReplayDims;
using testing::replay_header;
using testing::replay_records;

/// One client against a FakeBackend.
struct Rig {
  explicit Rig(const std::vector<TraceRecord>& records, TraceHeader header = replay_header())
      : path(dir.file("trace.jsonl")) {
    testing::write_trace(path, header, records);
    open();
    tally.emplace(trace->header());
  }
  void open(std::size_t most_kept = kReplayRecordsKept) {
    trace = ReplayTrace::open(path, most_kept).value();
    source = trace->make_source().value();
  }
  Status run(const ReplaySettings& settings = {}) {
    return Replay({backend, *source, inputs, verifier, clock, *tally, check_server}, settings)
        .run();
  }

  ReplayCounts counts() const { return tally->counts(); }

  TempDir dir;
  std::string path;
  std::unique_ptr<ReplayTrace> trace;
  std::unique_ptr<RecordSource> source;
  ReplayInputs inputs = seeded_inputs(1, kReplayDims.vocab);
  const ReplayVerifier* verifier = nullptr;
  FakeBackend backend;
  FakeClock clock;
  std::function<Status()> check_server;
  std::optional<ReplayTally> tally;
};

std::vector<OpSpec> specs_of(const std::vector<TraceRecord>& records) {
  std::vector<OpSpec> specs;
  for (const TraceRecord& record : records) specs.push_back(record.spec());
  return specs;
}

TEST(Replay, asks_for_every_op_in_order) {
  const auto records = replay_records();
  Rig rig(records);
  ASSERT_TRUE(rig.run().ok());
  EXPECT_EQ(rig.backend.submitted, specs_of(records));
  EXPECT_EQ(rig.counts().ops(), records.size());
}

TraceRecord record_of(const OpSpec& spec, std::uint64_t seq) {
  TraceRecord record = make_record(spec, std::nullopt, kReplayDims, testing::kReplayPolicy);
  record.seq = seq;
  return record;
}

TEST(Replay, asks_for_integer_ops_with_words_and_their_planes) {
  const OpSpec one = int_linear_spec({{WeightKind::kDown, 1}}, 1, 3, kReplayDims);
  const OpSpec two = int_linear_spec({}, 2, 1, kReplayDims);
  Rig rig({record_of(one, 0), record_of(two, 1)});
  EXPECT_EQ(rig.trace->int8_weights(), Int8Weights::kW16);
  ASSERT_TRUE(rig.run().ok());
  EXPECT_THAT(rig.backend.submitted, ElementsAre(one, two));
  EXPECT_NE(rig.backend.inputs0[0], std::vector<std::byte>(rig.backend.inputs0[0].size()));
  EXPECT_EQ(Rig({record_of(one, 0)}).trace->int8_weights(), Int8Weights::kW8);
  EXPECT_EQ(Rig(replay_records()).trace->int8_weights(), Int8Weights::kNone);
}

TEST(Replay, has_no_key_for_a_pad_linear) {
  Rig rig({record_of(pad_linear_spec({{WeightKind::kO, 0}}, 1, 2), 7)});
  const Status status = rig.run();
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(status.message(), HasSubstr("op 7 (pad_linear)"));
  EXPECT_TRUE(rig.backend.submitted.empty());
}

TEST(Replay, streams_a_trace_that_is_too_long_to_keep) {
  const auto records = replay_records();
  Rig rig(records);
  rig.open(3);
  ReplaySettings settings;
  settings.repeat = 2;
  ASSERT_TRUE(rig.run(settings).ok());
  std::vector<OpSpec> twice = specs_of(records);
  for (const TraceRecord& record : records) twice.push_back(record.spec());
  EXPECT_EQ(rig.backend.submitted, twice);
}

TEST(Replay, repeats_from_the_first_op) {
  const auto records = replay_records();
  Rig rig(records);
  ReplaySettings settings;
  settings.repeat = 3;
  ASSERT_TRUE(rig.run(settings).ok());
  EXPECT_EQ(rig.backend.submitted.size(), 3 * records.size());
  EXPECT_EQ(rig.backend.inputs0[0], rig.backend.inputs0[records.size()]);
  const ReplayCounts counts = rig.counts();
  EXPECT_EQ(counts.recorded.sums.all.calls, counts.replayed.sums.all.calls);
  EXPECT_EQ(counts.recorded.wall_ns, 3 * 1000 * records.size());
}

TEST(Replay, waits_for_each_op_before_the_next_by_default) {
  Rig rig(replay_records());
  ASSERT_TRUE(rig.run().ok());
  EXPECT_EQ(rig.backend.most_under_way, 1U);
}

TEST(Replay, keeps_inflight_ops_under_way_and_waits_for_the_oldest) {
  Rig rig(replay_records());
  ReplaySettings settings;
  settings.inflight = 3;
  ASSERT_TRUE(rig.run(settings).ok());
  EXPECT_EQ(rig.backend.most_under_way, 3U);
  EXPECT_EQ(rig.backend.under_way, 0U);
  const std::vector<std::string> first(rig.backend.events.begin(), rig.backend.events.begin() + 7);
  EXPECT_THAT(first, ElementsAre("submit 0", "submit 1", "submit 2", "wait 0", "submit 3", "wait 1",
                                 "submit 4"));
}

TEST(Replay, submits_no_op_before_its_recorded_start) {
  const auto records = replay_records();
  Rig rig(records);
  rig.backend.clock = &rig.clock;
  ReplaySettings settings;
  settings.speed = ReplaySpeed::kRecorded;
  settings.inflight = 2;
  ASSERT_TRUE(rig.run(settings).ok());
  for (std::size_t i = 0; i < records.size(); ++i) {
    EXPECT_EQ(rig.backend.submit_ns[i], 1000 + 1000 * i) << i;
  }
  EXPECT_EQ(rig.clock.sleeps.size(), records.size() - 1);
  const ReplayCounts counts = rig.counts();
  EXPECT_EQ(counts.replayed.idle_ns, (records.size() - 1) * 990);  // 10 each are the op's
  EXPECT_EQ(counts.replayed.between_ns, 0U);
}

TEST(Replay, notices_in_a_long_gap_that_the_server_is_gone) {
  auto records = replay_records();
  const std::uint64_t year = 366ULL * 24 * 3600 * 1'000'000'000;
  for (std::size_t i = 1; i < records.size(); ++i) records[i].start_ns = year;
  Rig rig(records);
  int looks = 0;
  rig.check_server = [&looks] {
    return ++looks < 4 ? Status() : Status(StatusCode::kUnavailable, "it was killed");
  };
  ReplaySettings settings;
  settings.speed = ReplaySpeed::kRecorded;
  const Status status = rig.run(settings);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("op 1 ("));
  EXPECT_THAT(status.message(), HasSubstr("it was killed"));
  EXPECT_THAT(rig.clock.sleeps, ElementsAre(100'001'000, 200'001'000, 300'001'000));
  EXPECT_EQ(rig.counts().replayed.idle_ns, 300'000'000U);
  EXPECT_EQ(rig.counts().ops(), 1U);
}

TEST(Replay, does_not_wait_for_a_start_that_has_passed) {
  Rig rig(replay_records());
  rig.backend.clock = &rig.clock;
  rig.backend.op_ns = 5000;  // slower than it was recorded
  ReplaySettings settings;
  settings.speed = ReplaySpeed::kRecorded;
  ASSERT_TRUE(rig.run(settings).ok());
  EXPECT_TRUE(rig.clock.sleeps.empty());
}

TEST(Replay, starts_each_repetition_at_its_own_beginning) {
  const auto records = replay_records();
  Rig rig(records);
  rig.backend.clock = &rig.clock;
  ReplaySettings settings;
  settings.speed = ReplaySpeed::kRecorded;
  settings.repeat = 2;
  ASSERT_TRUE(rig.run(settings).ok());
  const std::uint64_t second = rig.backend.submit_ns[records.size()];
  EXPECT_EQ(rig.backend.submit_ns[records.size() + 1], second + 1000);
}

TEST(Replay, names_the_op_that_failed_and_counts_those_before_it) {
  Rig rig(replay_records());
  rig.backend.fail_at = 4;
  ReplaySettings settings;
  settings.inflight = 2;
  const Status status = rig.run(settings);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("op 4 ("));
  EXPECT_EQ(rig.counts().ops(), 4U);
}

TEST(Replay, counts_the_ops_under_way_where_it_cannot_make_the_next) {
  Rig rig(replay_records());
  rig.inputs = [](const TraceRecord& record, std::size_t, MutableTensorView) {
    return record.seq == 5 ? Status(StatusCode::kInvalidInput, "no such tensor") : Status();
  };
  ReplaySettings settings;
  settings.inflight = 4;
  const Status status = rig.run(settings);
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(status.message(), HasSubstr("op 5 ("));
  EXPECT_EQ(rig.counts().ops(), 5U);
}

TEST(Replay, replays_what_comes_before_a_bad_line) {
  const auto records = replay_records();
  Rig rig(records);
  std::ofstream(rig.path, std::ios::app) << "{\"seq\":\n{}\n";
  rig.open(2);
  ReplaySettings settings;
  settings.inflight = 4;
  EXPECT_EQ(rig.run(settings).code(), StatusCode::kInvalidInput);
  EXPECT_EQ(rig.counts().ops(), records.size());
}

TEST(Replay, plays_a_trace_that_was_cut_off_up_to_the_cut) {
  const auto records = replay_records();
  Rig rig(records);
  std::filesystem::resize_file(rig.path, std::filesystem::file_size(rig.path) - 10);
  for (const std::size_t kept : {std::size_t{2}, kReplayRecordsKept}) {
    rig.backend.submitted.clear();
    rig.open(kept);
    ASSERT_TRUE(rig.run().ok());
    EXPECT_EQ(rig.backend.submitted.size(), records.size() - 1);
    EXPECT_THAT(rig.source->cut(), HasSubstr("cut off"));
  }
}

TEST(ReplayTrace, notices_a_file_that_became_another) {
  Rig rig(replay_records());
  rig.open(2);
  TraceHeader other = replay_header();
  other.tokens = 7;
  testing::write_trace(rig.path, other, replay_records());
  EXPECT_EQ(rig.trace->make_source().status().code(), StatusCode::kInvalidInput);
}

TEST(ReplayInputs, are_a_function_of_seed_op_input_and_position) {
  const TraceRecord record = replay_records()[1];
  const auto fill = [&](std::uint64_t seed, std::uint64_t seq, std::size_t index) {
    TraceRecord other = record;
    other.seq = seq;
    Tensor tensor({DType::kF32, {40, 4}});
    EXPECT_TRUE(seeded_inputs(seed, 50)(other, index, tensor.mutable_view()).ok());
    const auto values = tensor.as<float>();
    return std::vector<float>(values.begin(), values.end());
  };
  const auto first = fill(1, 2, 0);
  EXPECT_EQ(first, fill(1, 2, 0));
  EXPECT_NE(first, fill(2, 2, 0));
  EXPECT_NE(first, fill(1, 3, 0));
  EXPECT_NE(first, fill(1, 2, 1));
}

TEST(ReplayInputs, are_finite_and_small_in_each_type_and_longer_than_a_cycle) {
  const auto inputs = seeded_inputs(9, 50);
  const TraceRecord record = replay_records()[0];
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    Tensor tensor({dtype, {3, 65521}});
    ASSERT_TRUE(inputs(record, 0, tensor.mutable_view()).ok());
    std::vector<float> values(tensor.desc().elements());
    load_f32(dtype, tensor.view().data, values.data(), values.size());
    float largest = 0;
    for (const float value : values) {
      ASSERT_TRUE(std::isfinite(value));
      largest = std::max(largest, std::abs(value));
    }
    EXPECT_GT(largest, 0.9F);
    EXPECT_LE(largest, 1.0F);
    EXPECT_NE(values.front(), values.back());
  }
  Tensor ids({DType::kI32, {200000}});
  ASSERT_TRUE(inputs(record, 0, ids.mutable_view()).ok());
  EXPECT_THAT(ids.as<std::int32_t>(), Each(Ge(0)));
  EXPECT_THAT(ids.as<std::int32_t>(), Each(::testing::Lt(50)));
}

/// A trace with its payload, and the verifier that compares with it.
struct VerifyRig {
  explicit VerifyRig(ReplayVerify mode, double tolerance = 1e-3) {
    std::vector<TraceRecord> records = replay_records();
    TraceHeader header = replay_header();
    header.digests = true;
    header.payload = "p.safetensors";
    payload_file = dir.file("p.safetensors");
    testing::write_payload(payload_file, records);
    rig = std::make_unique<Rig>(records, header);
    payload = SafetensorsFile::open(payload_file).value();
    rig->inputs = recorded_inputs(*payload);
    verifier = std::make_unique<ReplayVerifier>(mode, payload.get(), tolerance);
    rig->verifier = verifier.get();
  }
  TempDir dir;
  std::string payload_file;
  std::unique_ptr<Rig> rig;
  std::unique_ptr<SafetensorsFile> payload;
  std::unique_ptr<ReplayVerifier> verifier;
};

void flip_a_bit(Tensor& result) {
  result.mutable_view().data[result.desc().bytes() - 4] ^= std::byte{1};  // the mantissa's least
}

TEST(ReplayVerify, finds_nothing_where_outputs_are_as_recorded) {
  for (const ReplayVerify mode : {ReplayVerify::kDigest, ReplayVerify::kTolerance}) {
    VerifyRig rig(mode, 0);
    ASSERT_TRUE(rig.rig->run().ok());
    const ReplayCounts counts = rig.rig->counts();
    EXPECT_EQ(counts.tensors_differing, 0U) << counts.first_difference;
    EXPECT_GT(counts.tensors_checked, counts.ops());
    EXPECT_THAT(rig.rig->backend.inputs0[1], Each(std::byte{0}));  // the recorded ones
  }
}

TEST(ReplayVerify, digest_finds_a_flipped_bit_and_names_the_first) {
  VerifyRig rig(ReplayVerify::kDigest);
  rig.rig->backend.spoil = [](std::size_t op, Tensor& result) {
    if (op == 6 || op == 8) flip_a_bit(result);
  };
  ASSERT_TRUE(rig.rig->run().ok());  // the rest is replayed all the same
  const ReplayCounts counts = rig.rig->counts();
  EXPECT_GE(counts.tensors_differing, 2U);
  EXPECT_THAT(counts.first_difference, HasSubstr("op 6 ("));
  EXPECT_THAT(counts.first_difference, HasSubstr("output 0: SHA-256"));
}

/// Changes one byte of a payload's tensor.
void spoil_payload(const std::string& file, const std::string& tensor) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  std::uint64_t header_bytes = 0;
  stream.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes);
  std::string header(header_bytes, ' ');
  stream.read(header.data(), static_cast<std::streamsize>(header.size()));
  const std::size_t offsets = header.find("\"data_offsets\":[", header.find(tensor));
  ASSERT_NE(offsets, std::string::npos);
  const std::uint64_t begin = std::stoull(header.substr(offsets + 16));
  stream.seekp(static_cast<std::streamoff>(8 + header_bytes + begin));
  stream.put('\1');
}

TEST(ReplayVerify, digest_names_the_payload_whose_input_is_not_the_recorded_one) {
  VerifyRig rig(ReplayVerify::kDigest);
  spoil_payload(rig.payload_file, "000004.in.0");
  ReplaySettings settings;
  settings.inflight = 3;
  const Status status = rig.rig->run(settings);
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(status.message(), HasSubstr(rig.payload_file));
  EXPECT_THAT(status.message(), HasSubstr("000004.in.0"));
  EXPECT_EQ(rig.rig->counts().ops(), 4U);
}

TEST(ReplayVerify, counts_what_was_under_way_where_the_payload_lacks_an_output) {
  VerifyRig rig(ReplayVerify::kTolerance);
  auto records = replay_records();
  records[3].seq = 99999;  // of no tensor
  for (std::size_t i = 4; i < records.size(); ++i) records[i].seq = 100000 + i;
  Rig other(records);
  other.verifier = rig.verifier.get();
  ReplaySettings settings;
  settings.inflight = 3;
  EXPECT_EQ(other.run(settings).code(), StatusCode::kInvalidInput);
  EXPECT_EQ(other.counts().ops(), 6U);  // the one that was compared, and two more under way
}

TEST(ReplayVerify, of_nothing_or_of_a_part_is_no_success) {
  TraceHeader header = replay_header();
  header.records = 10;
  EXPECT_TRUE(check_verified_all(header, "", {10, 12}).ok());
  const Status nothing = check_verified_all(header, "", {});
  EXPECT_EQ(nothing.code(), StatusCode::kMismatch);
  EXPECT_THAT(nothing.message(), HasSubstr("nothing was verified"));
  const Status cut = check_verified_all(header, "t was cut off", {7, 8});
  EXPECT_EQ(cut.code(), StatusCode::kMismatch);
  EXPECT_THAT(cut.message(), HasSubstr("7 of 10 ops"));
  EXPECT_THAT(check_verified_all(header, "t has 11 ops, its header says 10", {11, 12}).message(),
              HasSubstr("not certain that the whole trace was verified: t has 11 ops"));
  header.dropped = 2;
  EXPECT_THAT(check_verified_all(header, "", {10, 12}).message(), HasSubstr("10 of 12 ops"));
  header.records.reset();
  EXPECT_THAT(check_verified_all(header, "t was cut off", {7, 8}).message(),
              HasSubstr("7 of an unknown number of ops"));
}

TEST(ReplayVerify, tolerance_takes_a_flipped_bit_and_refuses_a_large_error) {
  VerifyRig rig(ReplayVerify::kTolerance);
  rig.rig->backend.spoil = [](std::size_t op, Tensor& result) {
    if (op == 2) flip_a_bit(result);
    if (op == 3) result.as<float>()[0] += 0.1F;
  };
  ASSERT_TRUE(rig.rig->run().ok());
  const ReplayCounts counts = rig.rig->counts();
  EXPECT_EQ(counts.tensors_differing, 1U);
  EXPECT_THAT(counts.first_difference, HasSubstr("op 3 ("));
}

/// Rows of so many numbers from a batch_linear of int8 rows.
TraceRecord int8_record() {
  const TensorDesc x{DType::kI8, {3, wire_columns(DType::kI8, kReplayDims.hidden)}};
  return record_of(linear_spec({{WeightKind::kUp, 0}}, x, DType::kI8), 0);
}

TEST(ReplayInputs, of_int8_rows_are_numbers_as_those_of_floats) {
  const ReplayInputs inputs = seeded_inputs(5, kReplayDims.vocab);
  const TraceRecord record = int8_record();
  Tensor rows(record.inputs[0].desc);
  ASSERT_TRUE(inputs(record, 0, rows.mutable_view()).ok());
  Tensor values(widened(rows.desc()));
  load_int8_rows(rows.view(), values.mutable_view());
  float largest = 0;
  for (const float value : values.as<float>()) largest = std::max(largest, std::abs(value));
  EXPECT_GT(largest, 0.5F);
  EXPECT_LE(largest, 1.0F);
}

TEST(ReplayVerify, tolerance_is_of_what_int8_rows_say) {
  const TempDir dir;
  const TraceRecord record = int8_record();
  Tensor values(widened(record.outputs[0].desc));
  for (std::size_t i = 0; i < values.as<float>().size(); ++i)
    values.as<float>()[i] = std::sin(static_cast<float>(i));
  Tensor recorded(record.outputs[0].desc);
  store_int8_rows(values.view(), recorded.mutable_view());
  auto writer = PayloadWriter::create(dir.file("p"), {4096, 1 << 20, 100}).value();
  ASSERT_TRUE(writer->add(payload_tensor_name(0, TraceSide::kOutput, 0), recorded.view()).ok());
  writer.reset();
  const auto payload = SafetensorsFile::open(dir.file("p")).value();
  const ReplayVerifier verifier(ReplayVerify::kTolerance, payload.get(), 1e-2);
  EXPECT_EQ(verifier.check(record, 0, recorded.view()).value(), "");
  // A step of 127 is within it, two are not.
  auto* const number = reinterpret_cast<std::int8_t*>(recorded.mutable_view().data) + 60;
  *number = static_cast<std::int8_t>(*number + (*number > 0 ? -1 : 1));
  EXPECT_EQ(verifier.check(record, 0, recorded.view()).value(), "");
  *number = static_cast<std::int8_t>(*number + (*number > 0 ? -1 : 1));
  EXPECT_THAT(verifier.check(record, 0, recorded.view()).value(), HasSubstr("an error of"));
  // The same numbers of another scale.
  for (float& value : values.as<float>()) value *= 2;
  store_int8_rows(values.view(), recorded.mutable_view());
  EXPECT_THAT(verifier.check(record, 0, recorded.view()).value(), HasSubstr("an error of"));
}

TEST(ReplayVerify, tolerance_takes_no_other_word) {
  const TempDir dir;
  const TraceRecord record = record_of(int_linear_spec({}, 1, 200, kReplayDims), 0);
  Tensor recorded(record.outputs[0].desc);
  for (std::size_t i = 0; i < recorded.as<std::uint32_t>().size(); ++i)
    recorded.as<std::uint32_t>()[i] = static_cast<std::uint32_t>(i * 2654435761U);
  auto writer = PayloadWriter::create(dir.file("p"), {4096, 1 << 20, 100}).value();
  ASSERT_TRUE(writer->add(payload_tensor_name(0, TraceSide::kOutput, 0), recorded.view()).ok());
  writer.reset();
  const auto payload = SafetensorsFile::open(dir.file("p")).value();
  const ReplayVerifier verifier(ReplayVerify::kTolerance, payload.get(), 1e6);
  EXPECT_EQ(verifier.check(record, 0, recorded.view()).value(), "");
  recorded.as<std::uint32_t>()[9999] ^= 1U;
  recorded.as<std::uint32_t>()[3] ^= 1U << 31;
  EXPECT_EQ(verifier.check(record, 0, recorded.view()).value(), "2 of 10000 words are others");
}

TEST(ReplayVerify, tolerance_refuses_what_is_not_finite) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    VerifyRig rig(ReplayVerify::kTolerance, 1e6);
    rig.rig->backend.spoil = [bad](std::size_t op, Tensor& result) {
      if (op == 3) result.as<float>()[1] = bad;
    };
    ASSERT_TRUE(rig.rig->run().ok());
    EXPECT_EQ(rig.rig->counts().tensors_differing, 1U);
  }
}

TEST(ReplayPayload, refuses_a_tensor_that_is_missing_or_of_another_shape) {
  const VerifyRig rig(ReplayVerify::kNone);
  TraceRecord record = replay_records()[1];
  std::vector<std::byte> bytes(record.inputs[0].desc.bytes());
  EXPECT_TRUE(read_recorded(*rig.payload, record, TraceSide::kInput, 0, 0, bytes).ok());
  TraceRecord transposed = record;
  transposed.inputs[0].desc.shape = {32, 5};
  TraceRecord other_type = record;
  other_type.inputs[0].desc.dtype = DType::kI32;
  TraceRecord missing = record;
  missing.seq = 999999;
  for (const TraceRecord& wrong : {transposed, other_type, missing}) {
    const Status status = read_recorded(*rig.payload, wrong, TraceSide::kInput, 0, 0, bytes);
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
    EXPECT_THAT(status.message(), HasSubstr("p.safetensors"));
  }
}

TEST(ReplayPayload, lies_beside_the_trace) {
  TraceHeader header;
  EXPECT_EQ(payload_path("/a/b.jsonl", header), "");
  header.payload = "b.safetensors";
  EXPECT_EQ(payload_path("/a/b.jsonl", header), "/a/b.safetensors");
  EXPECT_EQ(payload_path("b.jsonl", header), "b.safetensors");
}

TEST(ReplayPayload, lies_beside_the_file_that_a_link_leads_to_unless_it_is_linked_too) {
  const TempDir dir;
  std::filesystem::create_directory(dir.file("far"));
  write_all(dir.file("far/t.jsonl"), "");
  std::filesystem::create_symlink("far/t.jsonl", dir.file("link"));
  TraceHeader header;
  header.payload = "t.jsonl.safetensors";
  EXPECT_EQ(payload_path(dir.file("link"), header), dir.file("far/t.jsonl.safetensors"));
  write_all(dir.file("t.jsonl.safetensors"), "");
  EXPECT_EQ(payload_path(dir.file("link"), header), dir.file("t.jsonl.safetensors"));
}

TEST(ReplayVerify, is_refused_without_what_it_needs) {
  TraceHeader header = replay_header();
  EXPECT_TRUE(check_can_verify(header, ReplayVerify::kNone).ok());
  for (const ReplayVerify verify : {ReplayVerify::kDigest, ReplayVerify::kTolerance}) {
    const Status status = check_can_verify(header, verify);
    EXPECT_EQ(status.code(), StatusCode::kUsage);
    EXPECT_THAT(status.message(), HasSubstr("--record-payload"));
  }
  header.payload = "p";
  EXPECT_TRUE(check_can_verify(header, ReplayVerify::kTolerance).ok());
  EXPECT_EQ(check_can_verify(header, ReplayVerify::kDigest).code(), StatusCode::kUsage);
}

TEST(ReplayModel, of_another_shape_is_refused_with_both_shapes) {
  BackendInfo server;
  server.dims = kReplayDims;
  server.dims.layers = 7;
  const Status status = check_replay_model(replay_header(), server, ReplayVerify::kNone);
  EXPECT_EQ(status.code(), StatusCode::kMismatch);
  EXPECT_THAT(status.message(), HasSubstr("layers 7"));
  EXPECT_THAT(status.message(), HasSubstr("layers 2"));
}

TEST(ReplayModel, of_another_digest_is_refused_only_where_outputs_are_compared) {
  BackendInfo server;
  server.dims = kReplayDims;
  server.digest = "aa";
  TraceHeader header = replay_header();
  header.digest = "bb";
  EXPECT_TRUE(check_replay_model(header, server, ReplayVerify::kNone).ok());
  EXPECT_EQ(check_replay_model(header, server, ReplayVerify::kDigest).code(),
            StatusCode::kMismatch);
  header.digest = "aa";
  EXPECT_TRUE(check_replay_model(header, server, ReplayVerify::kTolerance).ok());
}

}  // namespace
}  // namespace airlock
