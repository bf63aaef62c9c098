#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/trace/trace.h"

namespace airlock {

/// The traces of tests/data/traces/golden-*.jsonl as values: between them each key of the format,
/// with each kind of value that it can have.

inline constexpr ModelDims kGoldenDims{.hidden = 64,
                                       .intermediate = 128,
                                       .layers = 2,
                                       .heads = 4,
                                       .kv_heads = 2,
                                       .head_dim = 16,
                                       .vocab = 100};

inline TraceHeader golden_header() {
  TraceHeader header;
  header.source = TraceSource::kRecorded;
  header.build = "airlock 0.1.0";
  header.host = {"box", "AMD EPYC \"Rome\" \\ \xc3\xa9", 2, "cuda:0 NVIDIA H100"};
  header.started_at = "2026-11-21T16:40:00Z";
  header.model = "tiny.json";
  header.dims = kGoldenDims;
  header.digest = "6f0c5a";
  header.tokens = 8;
  header.runs = 2;
  header.wire = DType::kBF16;
  header.dtype = DType::kF16;
  header.attention = "offload";
  header.backend = "remote";
  header.path_limit_bytes = 1024;
  header.ring_slots = 8;
  header.digests = true;
  header.payload = "golden.jsonl.safetensors";
  header.wall_ns = 123456789;
  header.records = 6;
  header.dropped = 3;
  return header;
}

inline void time_record(TraceRecord& record, std::uint64_t seq, std::uint64_t run) {
  record.seq = seq;
  record.run = run;
  record.slots_in_use = static_cast<std::uint32_t>(seq % 4 + 1);
  record.start_ns = 1000 * seq;
  record.times.tee_ns = 10 + seq;
  record.times.wire_ns = 20;
  record.times.queue_ns = seq % 2;
  record.times.server_ns = 400;
  record.times.total_ns =
      record.times.tee_ns + record.times.wire_ns + record.times.queue_ns + record.times.server_ns;
}

inline std::vector<TraceRecord> golden_records() {
  const PathPolicy policy{true, 1024, 8};
  const DType wire = DType::kBF16;
  const TensorDesc x{wire, {8, 64}};
  const std::vector<std::pair<OpSpec, std::optional<std::uint16_t>>> ops = {
      {embedding_spec(8, wire), std::nullopt},
      {linear_spec({{WeightKind::kQ, 1}, {WeightKind::kK, 1}, {WeightKind::kV, 1}}, x, wire), 1},
      {matmul_spec({wire, {4, 8, 16}}, {wire, {2, 8, 16}}, Transpose::kB, wire), 1},
      {matmul_spec({wire, {4, 8, 8}}, {wire, {2, 8, 16}}, Transpose::kNone, wire), 1},
      {matmul_spec({wire, {4, 8, 8}}, {wire, {2, 8, 16}}, Transpose::kA, wire), 1},
      {lm_head_spec({wire, {1, 64}}), std::nullopt}};
  std::vector<TraceRecord> records;
  for (const auto& [spec, layer] : ops) {
    const std::uint64_t seq = records.size();
    TraceRecord record = make_record(spec, layer, kGoldenDims, policy);
    time_record(record, seq, seq / 4);
    char digit = 'a';
    for (auto* tensors : {&record.inputs, &record.outputs}) {
      for (TraceTensor& tensor : *tensors) tensor.sha256 = std::string(63, '0') + digit++;
    }
    records.push_back(std::move(record));
  }
  return records;
}

/// One that was cut off, of a run in one process, with what an import had to guess.
inline TraceHeader golden_cut_header() {
  TraceHeader header;
  header.source = TraceSource::kImported;
  header.dims = kGoldenDims;
  header.tokens = 8;
  header.attention = "tee";
  header.backend = "local";
  header.assumed = {"model", "tokens"};
  return header;
}

inline std::vector<TraceRecord> golden_cut_records() {
  const TensorDesc x{DType::kF32, {8, 128}};
  std::vector<TraceRecord> records;
  records.push_back(make_record(linear_spec({{WeightKind::kDown, 0}}, x, DType::kF32), 0,
                                kGoldenDims, std::nullopt));
  return records;
}

}  // namespace airlock
