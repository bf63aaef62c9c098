#include "tee_runner/recording.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "proto/limits.h"
#include "runtime/model/safetensors.h"
#include "tests/support/read_trace.h"
#include "tests/support/temp_dir.h"
#include "tests/tee_runner/naive_backend.h"
#include "tests/tee_runner/recorded_runs.h"

namespace airlock {
namespace {

using Bytes = std::vector<std::byte>;

/// Between the recorder and a backend: keeps copies of all that goes through, by payload name.
/// Op number `fail_at` fails in wait().
class Watcher : public Backend {
 public:
  explicit Watcher(Backend& inner) : inner_(inner) {}
  const BackendInfo& info() const override { return inner_.info(); }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline deadline) override {
    ASSIGN_OR_RETURN(auto pending, inner_.prepare(spec, deadline));
    return std::unique_ptr<Pending>(
        std::make_unique<Watched>(*this, std::move(pending), spec.inputs.size()));
  }
  std::map<std::string, Bytes> seen;
  std::uint64_t fail_at = ~std::uint64_t{0};

 private:
  class Watched : public ForwardingPending {
   public:
    Watched(Watcher& owner, std::unique_ptr<Pending> inner, std::size_t inputs)
        : ForwardingPending(std::move(inner)), owner_(owner), inputs_(inputs) {}
    Status submit() override {
      seq_ = owner_.submits_++;
      for (std::size_t i = 0; i < inputs_; ++i) keep(TraceSide::kInput, i, input(i));
      return ForwardingPending::submit();
    }
    Status wait() override {
      if (seq_ == owner_.fail_at) return {StatusCode::kUnavailable, "the server died"};
      RETURN_IF_ERROR(ForwardingPending::wait());
      for (std::size_t i = 0; i < result_descs().size(); ++i)
        keep(TraceSide::kOutput, i, result(i));
      return {};
    }

   private:
    void keep(TraceSide side, std::size_t index, TensorView tensor) {
      const auto bytes = tensor.bytes();
      owner_.seen[payload_tensor_name(seq_, side, index)] = Bytes(bytes.begin(), bytes.end());
    }
    Watcher& owner_;
    std::size_t inputs_;
    std::uint64_t seq_ = 0;
  };
  Backend& inner_;
  std::uint64_t submits_ = 0;
};

std::string openssl_sha256(const Bytes& bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  EXPECT_EQ(EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_sha256(), nullptr), 1);
  std::string hex;
  for (unsigned i = 0; i < length; ++i) {
    hex += "0123456789abcdef"[digest[i] >> 4];
    hex += "0123456789abcdef"[digest[i] & 15];
  }
  return hex;
}

TEST(RecordingBackend, an_op_without_weights_carries_the_layer_of_the_last_that_had_some) {
  ZeroBackend backend(kTiny);
  const auto records = record_runs(backend, {5, DType::kF32}, {}, 1);
  int matmuls = 0;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const bool outer = records[i].op == Op::kEmbedding || records[i].op == Op::kLmHead;
    ASSERT_EQ(records[i].layer.has_value(), !outer);
    if (records[i].op == Op::kMatmul) {
      EXPECT_EQ(records[i].layer, matmuls++ / 2);
    }
  }
  EXPECT_EQ(matmuls, 4);
}

TEST(RecordingBackend, takes_the_times_that_the_backend_tells) {
  ZeroBackend backend(kTiny);
  backend.times = {.total_ns = 1000, .tee_ns = 3, .wire_ns = 890, .queue_ns = 7, .server_ns = 100};
  backend.slots_in_use = 2;
  for (const TraceRecord& record : record_runs(backend, {5, DType::kF32}, {}, 1)) {
    EXPECT_EQ(record.times.total_ns, 1000U);
    EXPECT_EQ(record.times.tee_ns, 3U);
    EXPECT_EQ(record.times.queue_ns, 7U);
    EXPECT_EQ(record.times.server_ns, 100U);
    EXPECT_EQ(record.times.wire_ns, 890U);
    EXPECT_EQ(record.slots_in_use, 2U);
  }
}

TEST(RecordingBackend, digests_are_those_of_the_bytes_that_went_through) {
  const RandomModel model(config_of(kTiny));
  NaiveBackend naive(model);
  Watcher watcher(naive);
  const auto records =
      record_runs(watcher, {6, DType::kBF16}, {PathPolicy{true, 4096, 8}, true, nullptr}, 2);
  std::size_t tensors = 0;
  for (const TraceRecord& record : records) {
    for (const TraceSide side : {TraceSide::kInput, TraceSide::kOutput}) {
      const auto& list = side == TraceSide::kInput ? record.inputs : record.outputs;
      for (std::size_t i = 0; i < list.size(); ++i) {
        const auto seen = watcher.seen.find(payload_tensor_name(record.seq, side, i));
        ASSERT_NE(seen, watcher.seen.end());
        EXPECT_EQ(list[i].sha256, openssl_sha256(seen->second));
        ++tensors;
      }
    }
  }
  EXPECT_EQ(tensors, watcher.seen.size());
}

/// Two tokens, prepared.
std::unique_ptr<Pending> embedding(Backend& backend) {
  return backend.prepare(embedding_spec(2, DType::kF32), Deadline::after(std::chrono::seconds(9)))
      .value();
}

TEST(RecordingBackend, hashes_what_was_written_once_however_often_it_is_waited_for) {
  ZeroBackend backend(kTiny);
  std::vector<TraceRecord> records;
  RecordingBackend recording(backend, {std::nullopt, true, nullptr},
                             [&](TraceRecord record) { records.push_back(std::move(record)); });
  const auto pending = embedding(recording);
  pending->input(0).as<std::int32_t>()[0] = 9;
  const auto written = pending->input(0).bytes();
  const std::string expected = openssl_sha256(Bytes(written.begin(), written.end()));
  ASSERT_TRUE(pending->submit().ok() && pending->wait().ok() && pending->wait().ok());
  EXPECT_EQ(records.size(), 1U);
  EXPECT_EQ(records.at(0).inputs[0].sha256, expected);
}

/// The whole op, with everything in its inputs `filled`.
void run_filled(Backend& backend, const OpSpec& spec) {
  const auto pending = backend.prepare(spec, Deadline::after(std::chrono::seconds(9))).value();
  for (std::size_t i = 0; i < spec.inputs.size(); ++i) {
    const auto place = pending->input(i).bytes();
    std::memset(place.data(), 0x5a, place.size());
  }
  ASSERT_TRUE(pending->submit().ok() && pending->wait().ok());
}

TEST(RecordingBackend, integer_ops_carry_planes_and_the_layer_of_their_weights) {
  ZeroBackend backend(kTiny);
  std::vector<TraceRecord> records;
  RecordingBackend recording(backend, {std::nullopt, true, nullptr},
                             [&](TraceRecord record) { records.push_back(std::move(record)); });
  const OpSpec linear = int_linear_spec({{WeightKind::kDown, 1}}, 2, 3, kTiny);
  run_filled(recording, linear);
  run_filled(recording, int_linear_spec({}, 1, 2, kTiny));
  ASSERT_EQ(records.size(), 2U);
  EXPECT_EQ(records[0].layer, 1);
  EXPECT_EQ(records[0].spec(), linear);
  EXPECT_EQ(records[0].inputs[0].sha256.size(), 64U);
  EXPECT_EQ(records[1].layer, std::nullopt);
}

// With a digest of the key, whoever has the trace could try keys; with what it makes, solve for
// pads.
TEST(RecordingBackend, keeps_nothing_of_a_pad_linear_but_its_sizes) {
  const TempDir directory;
  ZeroBackend backend(kTiny);
  auto payload = PayloadWriter::create(directory.file("payload"), {4096, 1 << 20, 100});
  ASSERT_TRUE(payload.ok()) << payload.status().to_string();
  std::vector<TraceRecord> records;
  RecordingBackend recording(backend, {std::nullopt, true, payload->get()},
                             [&](TraceRecord record) { records.push_back(std::move(record)); });
  const OpSpec pads = pad_linear_spec({{WeightKind::kO, 1}}, 2, 3);
  run_filled(recording, pads);
  run_filled(recording, int_linear_spec({}, 1, 1, kTiny));
  ASSERT_TRUE(recording.status().ok()) << recording.status().to_string();
  ASSERT_EQ(records.size(), 2U);
  EXPECT_EQ(records[0].spec(), pads);
  for (const auto* tensors : {&records[0].inputs, &records[0].outputs}) {
    for (const TraceTensor& tensor : *tensors) EXPECT_EQ(tensor.sha256, "");
  }
  payload->reset();
  const auto file = SafetensorsFile::open(directory.file("payload"));
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_EQ((*file)->find(payload_tensor_name(0, TraceSide::kInput, 0)), nullptr);
  EXPECT_EQ((*file)->find(payload_tensor_name(0, TraceSide::kInput, 1)), nullptr);
  EXPECT_EQ((*file)->find(payload_tensor_name(0, TraceSide::kOutput, 0)), nullptr);
  EXPECT_NE((*file)->find(payload_tensor_name(1, TraceSide::kInput, 0)), nullptr);
  EXPECT_EQ((*file)->find(payload_tensor_name(1, TraceSide::kInput, 0))->dtype_text, "U32");
}

TEST(RecordingBackend, an_op_that_nobody_waited_for_is_not_recorded) {
  ZeroBackend backend(kTiny);
  std::vector<TraceRecord> records;
  RecordingBackend recording(backend, {},
                             [&](TraceRecord record) { records.push_back(std::move(record)); });
  for (int i = 0; i < 2; ++i) {
    const auto pending = embedding(recording);
    ASSERT_TRUE(pending->submit().ok());
    if (i == 1) {
      ASSERT_TRUE(pending->wait().ok());
    }
  }
  ASSERT_EQ(records.size(), 1U);
  EXPECT_EQ(records[0].seq, 1U);
}

TEST(RecordingBackend, an_op_starts_as_long_before_its_submit_as_prepare_took) {
  ZeroBackend backend(kTiny);
  backend.prepare_ns = 1'000'000;
  std::vector<TraceRecord> records;
  RecordingBackend recording(backend, {},
                             [&](TraceRecord record) { records.push_back(std::move(record)); });
  const std::uint64_t begin_ns = now_ns();
  recording.begin_run();
  const auto pending = embedding(recording);
  ASSERT_TRUE(pending->submit().ok() && pending->wait().ok());
  const std::uint64_t elapsed_ns = now_ns() - begin_ns;
  EXPECT_LE(records.at(0).start_ns + backend.prepare_ns, elapsed_ns);
}

/// `tee_runner prefill --record` without the program around it.
struct RecordedRun {
  explicit RecordedRun(const std::string& path)
      : model(config_of(kTiny)), naive(model), watcher(naive) {
    options.record = path;
    options.synthetic = "/configs/tiny.json";
    options.repeat = 2;
  }
  Result<PrefillResult> run() {
    Recording recording(options);
    RETURN_IF_ERROR(recording.check());
    ASSIGN_OR_RETURN(Backend* const backend,
                     recording.start(watcher, {PathPolicy{true, 4096, 8}, DType::kF32, 5}));
    TeeStatsTable stats;
    LlamaOptions llama;
    llama.chunk = options.chunk;
    ASSIGN_OR_RETURN(auto driver,
                     LlamaDriver::create(model.config, ones(kTiny), llama, *backend, stats));
    if (started) started();
    auto result = run_prefill(*driver, tokens_of(5, kTiny.vocab), options.repeat,
                              [&] { recording.begin_run(); });
    recording.finish(result);
    recorded = recording.status();
    cost_ns = recording.cost_ns();
    return result;
  }
  RandomModel model;
  NaiveBackend naive;
  Watcher watcher;
  PrefillOptions options;
  std::function<void()> started;
  Status recorded;
  std::optional<std::uint64_t> cost_ns;
};

TEST(Recording, without_the_option_is_nothing) {
  RecordedRun run("");
  ASSERT_TRUE(run.run().ok());
  EXPECT_FALSE(run.cost_ns.has_value());
}

TEST(Recording, writes_a_whole_trace_with_what_is_known_of_the_run) {
  const TempDir dir;
  RecordedRun run(dir.file("t.jsonl"));
  const auto result = run.run();
  ASSERT_TRUE(result.ok() && run.recorded.ok());
  ASSERT_TRUE(run.cost_ns.has_value());
  const auto trace = read_trace(dir.file("t.jsonl"));
  ASSERT_TRUE(trace.ok()) << trace.status().to_string();
  EXPECT_EQ(trace->cut, "");
  const TraceHeader& header = trace->header;
  EXPECT_EQ(header.model, "tiny.json");
  EXPECT_EQ(header.tokens, 5);
  EXPECT_EQ(header.runs, 2U);
  EXPECT_EQ(header.backend, "remote");
  EXPECT_EQ(header.path_limit_bytes, 4096U);
  EXPECT_EQ(header.ring_slots, 8U);
  EXPECT_EQ(header.host.device, "naive");
  EXPECT_FALSE(header.digests);
  EXPECT_EQ(header.wall_ns, result->runs_ns[0] + result->runs_ns[1] - *run.cost_ns);
  EXPECT_EQ(trace->records.size(), 2 * plan_forward(kTiny, {5, DType::kF32}).value().size());
  EXPECT_EQ(trace->records.back().run, 1U);
}

/// 5 tokens, `chunk` at a time.
void expect_payloads(std::int64_t chunk) {
  const TempDir dir;
  RecordedRun run(dir.file("t.jsonl"));
  run.options.chunk = chunk;
  run.options.record_payload = true;
  ASSERT_TRUE(run.run().ok() && run.recorded.ok());
  const auto trace = read_trace(dir.file("t.jsonl"));
  ASSERT_TRUE(trace.ok()) << trace.status().to_string();
  EXPECT_TRUE(trace->header.digests);
  EXPECT_EQ(trace->header.payload, "t.jsonl.safetensors");
  const auto file = SafetensorsFile::open(dir.file(trace->header.payload));
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_EQ((*file)->entries().size(), run.watcher.seen.size());
  for (const auto& [name, bytes] : run.watcher.seen) {
    const SafetensorsEntry* entry = (*file)->find(name);
    ASSERT_NE(entry, nullptr) << name;
    const auto mapped = (*file)->mapped(*entry);
    EXPECT_EQ(Bytes(mapped.begin(), mapped.end()), bytes) << name;
  }
  const TraceRecord& last = trace->records.back();
  EXPECT_EQ(last.outputs[0].sha256,
            openssl_sha256(run.watcher.seen[payload_tensor_name(last.seq, TraceSide::kOutput, 0)]));
}

TEST(Recording, payloads_are_the_bytes_that_went_through) { expect_payloads(0); }

TEST(Recording, payloads_of_a_prompt_in_pieces_have_room) {
  for (const std::int64_t chunk : {1, 2}) expect_payloads(chunk);
}

TEST(Recording, of_a_run_that_fails_is_a_trace_that_was_cut_off) {
  const TempDir dir;
  RecordedRun run(dir.file("t.jsonl"));
  run.options.record_payload = true;
  run.watcher.fail_at = 4;
  const auto result = run.run();
  EXPECT_EQ(result.status().code(), StatusCode::kUnavailable);
  const auto trace = read_trace(dir.file("t.jsonl"));
  ASSERT_TRUE(trace.ok()) << trace.status().to_string();
  EXPECT_EQ(trace->records.size(), 4U);
  EXPECT_THAT(trace->cut, testing::HasSubstr("was cut off"));
  EXPECT_TRUE(SafetensorsFile::open(dir.file("t.jsonl.safetensors")).ok());
}

TEST(Recording, that_cannot_be_written_any_more_does_not_end_the_run) {
  ::signal(SIGPIPE, SIG_IGN);
  const TempDir dir;
  const std::string pipe = dir.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  UniqueFd reader(::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  RecordedRun run(pipe);
  run.started = [&] { reader.reset(); };
  const auto result = run.run();
  EXPECT_TRUE(result.ok()) << result.status().to_string();
  EXPECT_EQ(run.recorded.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(run.recorded.message(), testing::HasSubstr(pipe));
}

TEST(Recording, on_a_full_disk_is_refused_before_the_run) {
  RecordedRun run("/dev/full");
  const auto result = run.run();
  EXPECT_EQ(result.status().code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(run.watcher.seen.empty());
}

TEST(Recording, where_no_file_can_be_is_refused_before_anything_else) {
  const TempDir dir;
  for (const std::string& path : {dir.path().string(), dir.file("no/such")}) {
    RecordedRun run(path);
    const Status status = Recording(run.options).check();
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
    EXPECT_THAT(status.message(), testing::HasSubstr(path));
  }
}

TEST(Recording, through_a_link_leaves_the_link) {
  const TempDir dir;
  write_all(dir.file("kept"), "kept");
  for (const char* target : {"kept", "nowhere"}) {
    const std::string link = dir.file(std::string("to-") + target);
    ASSERT_EQ(::symlink(target, link.c_str()), 0);
    RecordedRun run(link);
    ASSERT_TRUE(run.run().ok()) << target;
    EXPECT_TRUE(std::filesystem::is_symlink(link));
    EXPECT_EQ(read_trace(dir.file(target))->cut, "") << target;
  }
}

TEST(Recording, through_a_link_keeps_trace_and_payload_together) {
  const TempDir dir;
  std::filesystem::create_directory(dir.file("far"));
  const std::string link = dir.file("link");
  ASSERT_EQ(::symlink("far/t.jsonl", link.c_str()), 0);
  RecordedRun run(link);
  run.options.record_payload = true;
  ASSERT_TRUE(run.run().ok());
  const auto trace = read_trace(dir.file("far/t.jsonl"));
  ASSERT_TRUE(trace.ok());
  EXPECT_EQ(trace->header.payload, "t.jsonl.safetensors");
  EXPECT_TRUE(SafetensorsFile::open(dir.file("far/t.jsonl.safetensors")).ok());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 2);
}

TEST(Recording, whose_trace_cannot_begin_leaves_the_payload_that_was_there) {
  const TempDir dir;
  const std::string path = dir.file("t.jsonl");
  {
    RecordedRun run(path);
    run.options.record_payload = true;
    ASSERT_TRUE(run.run().ok());
  }
  const std::string older = read_all(path + ".safetensors");
  RecordedRun run(path);
  run.options.record_payload = true;
  Recording recording(run.options);
  ASSERT_TRUE(recording.check().ok());
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  ZeroBackend backend(kTiny);
  Recording::Session session;
  session.tokens = 3;
  EXPECT_FALSE(recording.start(backend, session).ok());
  EXPECT_EQ(read_all(path + ".safetensors"), older);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 2);
}

TEST(Recording, of_a_run_that_does_not_begin_leaves_the_trace_that_was_there) {
  const TempDir dir;
  const std::string path = write_all(dir.file("t.jsonl"), "older");
  Recording recording(RecordedRun(path).options);
  ASSERT_TRUE(recording.check().ok());
  EXPECT_EQ(read_all(path), "older");
}

TEST(Recording, to_stdout_is_refused_where_the_result_goes_there) {
  const TempDir dir;
  const UniqueFd before(::dup(STDOUT_FILENO));
  const std::string file = write_all(dir.file("out"), "");
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const UniqueFd pipe_out(pipe[0]);
  const UniqueFd pipe_in(pipe[1]);
  const UniqueFd file_out(::open(file.c_str(), O_WRONLY | O_CLOEXEC));
  for (const int fd : {pipe_in.get(), file_out.get()}) {
    std::fflush(stdout);
    ASSERT_GE(::dup2(fd, STDOUT_FILENO), 0);
    const Status status = Recording(RecordedRun("/dev/stdout").options).check();
    ::dup2(before.get(), STDOUT_FILENO);
    EXPECT_EQ(status.code(), StatusCode::kUsage);
    EXPECT_THAT(status.message(), testing::HasSubstr("that is stdout"));
  }
  EXPECT_TRUE(Recording(RecordedRun("/dev/null").options).check().ok());
}

TEST(Recording, payloads_never_replace_weights_or_join_them) {
  const TempDir dir;
  const std::string weights = write_all(dir.file("model.safetensors"), "weights");
  RecordedRun run(dir.file("model"));
  EXPECT_TRUE(Recording(run.options).check().ok()) << "without payloads";
  run.options.record_payload = true;
  Status status = Recording(run.options).check();
  EXPECT_EQ(status.code(), StatusCode::kUsage);
  EXPECT_THAT(status.message(), testing::HasSubstr(weights));
  EXPECT_EQ(run.run().status().code(), StatusCode::kUsage);
  EXPECT_EQ(read_all(weights), "weights");
  run.options.record = dir.file("t.jsonl");
  EXPECT_TRUE(Recording(run.options).check().ok());
  run.options.model = dir.file("x/..");
  std::filesystem::create_directory(dir.file("x"));
  status = Recording(run.options).check();
  EXPECT_EQ(status.code(), StatusCode::kUsage);
  EXPECT_THAT(status.message(), testing::HasSubstr("--model"));
}

TEST(Recording, a_payload_that_a_trace_could_not_name_is_refused) {
  const TempDir dir;
  for (const char* name : {".hidden", "bad\xffname"}) {
    RecordedRun run(dir.file(name));
    EXPECT_TRUE(Recording(run.options).check().ok());
    run.options.record_payload = true;
    EXPECT_EQ(Recording(run.options).check().code(), StatusCode::kUsage) << name;
  }
  RecordedRun good(dir.file("t.jsonl"));
  good.options.record_payload = true;
  EXPECT_TRUE(Recording(good.options).check().ok());
}

TEST(Recording, payloads_of_a_servers_dims_over_the_limits_are_refused) {
  struct Case {
    ModelDims dims;
    std::size_t tokens;
    StatusCode code;
  };
  ModelDims wide = kTiny;  // o_proj's input has more than 4 GiB
  wide.heads = wide.kv_heads = 1024;
  wide.head_dim = 1024;
  ModelDims deep = kTiny;  // 268 million ops
  deep.heads = deep.kv_heads = 1024;
  deep.layers = 512;
  for (const Case& c :
       {Case{wide, 1025, StatusCode::kInvalidInput},
        Case{deep, static_cast<std::size_t>(limits::kMaxTokens), StatusCode::kResourceExhausted}}) {
    ASSERT_TRUE(c.dims.check().ok());
    const TempDir dir;
    ZeroBackend backend(c.dims);
    PrefillOptions options;
    options.record = dir.file("t.jsonl");
    options.record_payload = true;
    Recording recording(options);
    ASSERT_TRUE(recording.check().ok());
    const auto started = recording.start(backend, {std::nullopt, DType::kF32, c.tokens});
    EXPECT_EQ(started.status().code(), c.code) << started.status().to_string();
    EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  }
}

TEST(Recording, payloads_of_too_many_runs_are_refused_before_the_run) {
  const TempDir dir;
  RecordedRun run(dir.file("t.jsonl"));
  run.options.record_payload = true;
  run.options.repeat = 1'000'000;
  const auto result = run.run();
  EXPECT_EQ(result.status().code(), StatusCode::kUsage);
  EXPECT_FALSE(std::filesystem::exists(dir.file("t.jsonl")));
}

}  // namespace
}  // namespace airlock
