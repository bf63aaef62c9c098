#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/replay/replay.h"
#include "runtime/trace/payload_writer.h"
#include "runtime/trace/trace_writer.h"
#include "tests/support/synthesise_records.h"

namespace airlock::testing {

inline constexpr ModelDims kReplayDims{.hidden = 32,
                                       .intermediate = 48,
                                       .layers = 2,
                                       .heads = 4,
                                       .kv_heads = 2,
                                       .head_dim = 10,
                                       .vocab = 50};
inline constexpr ForwardShape kReplayShape{
    .tokens = 5, .wire = DType::kF32, .attention = Attention::kOffload, .logits = Logits::kLast};
inline constexpr PathPolicy kReplayPolicy{.has_ring = true, .limit_bytes = 4096, .slot_count = 8};

/// Advances only where someone sleeps, or where a test says so.
class FakeClock : public ReplayClock {
 public:
  std::uint64_t now_ns() override { return now; }
  void sleep_until(std::uint64_t at_ns) override {
    sleeps.push_back(at_ns);
    now = std::max(now, at_ns);
  }
  std::uint64_t now = 1000;
  std::vector<std::uint64_t> sleeps;
};

inline float replay_value(std::size_t position) {
  return 0.5F + 0.25F * static_cast<float>(position % 7);
}

/// Gives the same results whatever the inputs, and remembers what was asked of it.
class FakeBackend : public Backend {
 public:
  FakeBackend() { info_.dims = kReplayDims; }
  const BackendInfo& info() const override { return info_; }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline) override;

  std::vector<OpSpec> submitted;
  std::vector<std::string> events;              // "submit 0", "wait 0"
  std::vector<std::vector<std::byte>> inputs0;  // the first input of each op
  std::vector<std::uint64_t> submit_ns;         // by `clock`
  std::size_t under_way = 0;
  std::size_t most_under_way = 0;
  std::size_t fail_at = SIZE_MAX;  // this wait says that the server is gone
  FakeClock* clock = nullptr;
  std::uint64_t op_ns = 10;  // each wait advances the clock by so much
  std::function<void(std::size_t op, Tensor& result)> spoil;

 private:
  friend class FakePending;
  BackendInfo info_;
};

class FakePending : public Pending {
 public:
  FakePending(FakeBackend& backend, const OpSpec& spec) : backend_(backend), spec_(spec) {
    for (const TensorDesc& desc : spec.inputs) inputs_.emplace_back(desc);
    result_descs_ = op_results(spec, kReplayDims).value();
    for (const TensorDesc& desc : result_descs_) results_.emplace_back(desc);
  }
  MutableTensorView input(std::size_t index) override { return inputs_[index].mutable_view(); }
  Status submit() override {
    index_ = backend_.submitted.size();
    backend_.submitted.push_back(spec_);
    backend_.events.push_back("submit " + std::to_string(index_));
    const auto bytes = inputs_[0].view().bytes();
    backend_.inputs0.emplace_back(bytes.begin(), bytes.end());
    if (backend_.clock != nullptr) backend_.submit_ns.push_back(backend_.clock->now);
    backend_.most_under_way = std::max(backend_.most_under_way, ++backend_.under_way);
    return {};
  }
  bool done() override { return true; }
  Status wait() override {
    backend_.events.push_back("wait " + std::to_string(index_));
    --backend_.under_way;
    if (index_ == backend_.fail_at) return {StatusCode::kUnavailable, "the server is gone"};
    if (backend_.clock != nullptr) backend_.clock->now += backend_.op_ns;
    for (Tensor& result : results_) {
      if (result.desc().dtype == DType::kU32) continue;  // zeros are words too
      const auto values = result.as<float>();
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = replay_value(i);
      if (backend_.spoil) backend_.spoil(index_, result);
    }
    return {};
  }
  TensorView result(std::size_t index) const override { return results_[index].view(); }
  std::span<const TensorDesc> result_descs() const override { return result_descs_; }
  OpTimes times() const override {
    return {.total_ns = backend_.op_ns,
            .tee_ns = 3,
            .wire_ns = backend_.op_ns - 6,
            .queue_ns = 1,
            .server_ns = 2};
  }
  std::size_t slots_in_use() const override { return 0; }

 private:
  FakeBackend& backend_;
  OpSpec spec_;
  std::size_t index_ = 0;
  std::vector<TensorDesc> result_descs_;
  std::vector<Tensor> inputs_;
  std::vector<Tensor> results_;
};

inline Result<std::unique_ptr<Pending>> FakeBackend::prepare(const OpSpec& spec, Deadline) {
  RETURN_IF_ERROR(op_results(spec, kReplayDims).status());
  return std::unique_ptr<Pending>(std::make_unique<FakePending>(*this, spec));
}

inline TraceHeader replay_header() {
  TraceHeader header;
  header.dims = kReplayDims;
  header.tokens = kReplayShape.tokens;
  header.attention = "offload";
  header.backend = "remote";
  header.path_limit_bytes = kReplayPolicy.limit_bytes;
  header.ring_slots = kReplayPolicy.slot_count;
  return header;
}

/// Op i starts at 100 + 1000 i and takes 600: 100 tee, 200 wire, 0 queue, 300 server.
inline std::vector<TraceRecord> replay_records() {
  std::vector<TraceRecord> records = synthesise_records(kReplayDims, kReplayShape, kReplayPolicy);
  for (TraceRecord& record : records) {
    record.start_ns = 100 + 1000 * record.seq;
    record.times.total_ns = 600;
    record.times.tee_ns = 100;
    record.times.wire_ns = 200;
    record.times.server_ns = 300;
  }
  return records;
}

/// A closed trace at `path`.
inline void write_trace(const std::string& path, const TraceHeader& header,
                        const std::vector<TraceRecord>& records) {
  auto writer =
      TraceWriter::create(OutputFile::open(path).value(), header, TraceWriter::WhenFull::kWait)
          .value();
  for (const TraceRecord& record : records) writer->add(record);
  CHECK(writer->close(1000 * records.size()).ok());
}

/// A payload as FakeBackend answers: inputs all zero. Fills in the records' digests.
inline void write_payload(const std::string& path, std::vector<TraceRecord>& records) {
  const auto plan = plan_forward(kReplayDims, kReplayShape).value();
  auto writer = PayloadWriter::create(path, payload_need(kReplayDims, plan, 1)).value();
  for (TraceRecord& record : records) {
    for (std::size_t i = 0; i < record.inputs.size(); ++i) {
      const Tensor zeros(record.inputs[i].desc);
      record.inputs[i].sha256 =
          writer->add(payload_tensor_name(record.seq, TraceSide::kInput, i), zeros.view()).value();
    }
    for (std::size_t i = 0; i < record.outputs.size(); ++i) {
      Tensor output(record.outputs[i].desc);
      const auto values = output.as<float>();
      for (std::size_t k = 0; k < values.size(); ++k) values[k] = replay_value(k);
      record.outputs[i].sha256 =
          writer->add(payload_tensor_name(record.seq, TraceSide::kOutput, i), output.view())
              .value();
    }
  }
}

}  // namespace airlock::testing
