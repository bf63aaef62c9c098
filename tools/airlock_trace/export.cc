#include "tools/airlock_trace/export.h"

#include <fmt/format.h>

#include "base/log.h"
#include "runtime/trace/trace_line.h"
#include "runtime/trace/trace_reader.h"
#include "tools/airlock_trace/chrome.h"
#include "tools/airlock_trace/output.h"
#include "tools/airlock_trace/text.h"

namespace airlock::trace {
namespace {

std::uint64_t bytes_by(const TraceRecord& record, Path path) {
  std::uint64_t bytes = 0;
  for (const auto* tensors : {&record.inputs, &record.outputs}) {
    for (const TraceTensor& tensor : *tensors) {
      if (tensor.path == path) bytes += tensor.desc.bytes();
    }
  }
  return bytes;
}

/// "bf16[32x1024x64]@ring bf16[8x1024x64]@zmq"
std::string tensors_text(const std::vector<TraceTensor>& tensors) {
  std::string text;
  for (const TraceTensor& tensor : tensors) {
    text += fmt::format("{}{}@{}", text.empty() ? "" : " ", desc_text(tensor.desc),
                        path_text(tensor.path));
  }
  return text;
}

std::string digests_text(const std::vector<TraceTensor>& tensors) {
  std::string text;
  for (const TraceTensor& tensor : tensors) {
    text += fmt::format("{}{}", text.empty() ? "" : " ", tensor.sha256);
  }
  return text;
}

std::string weights_text(const TraceRecord& record) {
  std::string text;
  for (const WeightId& weight : record.weights) {
    text += fmt::format("{}{}", text.empty() ? "" : " ", weight_text(weight));
  }
  return text;
}

/// The transformers name of a weight, as a checkpoint has it.
std::string full_name(const WeightId& weight) {
  const bool mlp = weight.kind == WeightKind::kGate || weight.kind == WeightKind::kUp ||
                   weight.kind == WeightKind::kDown;
  return fmt::format("model.layers.{}.{}.{}.weight", weight.layer, mlp ? "mlp" : "self_attn",
                     name_of(weight.kind));
}

}  // namespace

std::string csv_record(const TraceRecord& record) {
  const auto number = [](std::uint64_t value) { return std::to_string(value); };
  return csv_row({number(record.seq),
                  number(record.run),
                  std::string(name_of(record.op)),
                  record.layer ? std::to_string(*record.layer) : "",
                  weights_text(record),
                  record.op == Op::kMatmul ? std::string(transpose_text(record.transpose)) : "",
                  tensors_text(record.inputs),
                  tensors_text(record.outputs),
                  digests_text(record.inputs),
                  digests_text(record.outputs),
                  number(record.input_bytes()),
                  number(record.output_bytes()),
                  number(bytes_by(record, Path::kRing)),
                  number(bytes_by(record, Path::kZmq)),
                  record.slowest_path() ? std::string(path_text(record.slowest_path())) : "",
                  number(record.slots_in_use),
                  number(record.start_ns),
                  number(record.times.total_ns),
                  number(record.times.tee_ns),
                  number(record.times.wire_ns),
                  number(record.times.queue_ns),
                  number(record.times.server_ns)});
}

void RunningTotals::add(const TraceRecord& record) {
  ++ops;
  ring_bytes = add_capped(ring_bytes, bytes_by(record, Path::kRing));
  zmq_bytes = add_capped(zmq_bytes, bytes_by(record, Path::kZmq));
  total_ns = add_capped(total_ns, record.times.total_ns);
  tee_ns = add_capped(tee_ns, record.times.tee_ns);
  wire_ns = add_capped(wire_ns, record.times.wire_ns);
  queue_ns = add_capped(queue_ns, record.times.queue_ns);
  server_ns = add_capped(server_ns, record.times.server_ns);
}

std::string jsonl_record(const TraceRecord& record, const RunningTotals& so_far) {
  std::string line = encode_trace_line(record);
  line.pop_back();  // the object's end: what is added is of our own letters
  if (!record.weights.empty()) {
    line += ",\"weight_names\":[";
    for (const WeightId& weight : record.weights) {
      line += fmt::format("{}\"{}\"", line.back() == '[' ? "" : ",", full_name(weight));
    }
    line += ']';
  }
  const auto path = record.slowest_path();
  line += fmt::format(
      ",\"end_ns\":{},\"input_bytes\":{},\"output_bytes\":{},\"ring_bytes\":{},\"zmq_bytes\":{},"
      "\"path\":{}",
      record.start_ns + record.times.total_ns, record.input_bytes(), record.output_bytes(),
      bytes_by(record, Path::kRing), bytes_by(record, Path::kZmq),
      path ? fmt::format("\"{}\"", path_text(path)) : "null");
  return line + fmt::format(
                    ",\"so_far\":{{\"ops\":{},\"ring_bytes\":{},\"zmq_bytes\":{},"
                    "\"total_ns\":{},\"tee_ns\":{},\"wire_ns\":{},\"queue_ns\":{},"
                    "\"server_ns\":{}}}}}\n",
                    so_far.ops, so_far.ring_bytes, so_far.zmq_bytes, so_far.total_ns, so_far.tee_ns,
                    so_far.wire_ns, so_far.queue_ns, so_far.server_ns);
}

Status export_trace(const std::string& file, ExportFormat format, const std::string& output_path) {
  ASSIGN_OR_RETURN(TraceReader reader, TraceReader::open(file));
  ASSIGN_OR_RETURN(const auto output, Output::create(output_path));
  std::optional<ChromeExport> chrome;
  RunningTotals totals;
  if (format == ExportFormat::kChrome) chrome.emplace(reader.header(), *output);
  if (format == ExportFormat::kCsv) {
    output->add(csv_row({kCsvColumns.begin(), kCsvColumns.end()}));
  }
  while (!output->failed()) {
    ASSIGN_OR_RETURN(const std::optional<TraceRecord> record, reader.next());
    if (!record) break;
    if (chrome) {
      RETURN_IF_ERROR(chrome->add(*record).with_context(file));
    } else if (format == ExportFormat::kCsv) {
      output->add(csv_record(*record));
    } else {
      totals.add(*record);
      output->add(jsonl_record(*record, totals));
    }
  }
  if (chrome) chrome->finish(reader.cut());
  RETURN_IF_ERROR(output->close());
  if (!reader.cut().empty()) log_warning(reader.cut());
  return {};
}

}  // namespace airlock::trace
