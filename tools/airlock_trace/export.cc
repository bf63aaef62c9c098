#include "tools/airlock_trace/export.h"

#include <fmt/format.h>

#include <optional>

#include "base/log.h"
#include "runtime/trace/trace_line.h"
#include "runtime/trace/trace_reader.h"
#include "tools/airlock_trace/chrome.h"
#include "tools/airlock_trace/output.h"
#include "tools/airlock_trace/text.h"

namespace airlock::trace {
namespace {

/// What `text_of` gives for each, with a space between them.
template <typename T, typename TextOf>
std::string joined(const std::vector<T>& items, TextOf text_of) {
  std::string text;
  for (const T& item : items) {
    if (!text.empty()) text += ' ';
    text += text_of(item);
  }
  return text;
}

/// "bf16[32x1024x64]@ring"
std::string tensor_text(const TraceTensor& tensor) {
  return fmt::format("{}@{}", desc_text(tensor.desc), path_text(tensor.path));
}

const std::string& digest_text(const TraceTensor& tensor) { return tensor.sha256; }

/// The transformers name of a weight, as a checkpoint has it.
std::string full_name(const WeightId& weight) {
  const bool mlp = weight.kind == WeightKind::kGate || weight.kind == WeightKind::kUp ||
                   weight.kind == WeightKind::kDown;
  return fmt::format("model.layers.{}.{}.{}.weight", weight.layer, mlp ? "mlp" : "self_attn",
                     name_of(weight.kind));
}

std::string bytes_key(Path path) { return fmt::format("{}_bytes", name_of(path)); }

std::string csv_head() {
  Cells keys;
  for (const auto& [key, cell] : csv_record({})) keys.emplace_back(key);
  return csv_line(keys);
}

std::string csv_row(const TraceRecord& record) {
  Cells cells;
  for (auto& [key, cell] : csv_record(record)) cells.push_back(std::move(cell));
  return csv_line(cells);
}

}  // namespace

std::vector<std::pair<std::string, Cell>> csv_record(const TraceRecord& record) {
  const bool matmul = record.op == Op::kMatmul;
  std::vector<std::pair<std::string, Cell>> cells = {
      {"seq", record.seq},
      {"run", record.run},
      {"op", name_of(record.op)},
      {"layer", record.layer},
      {"weights", joined(record.weights, weight_text)},
      {"transpose", matmul ? name_of(record.transpose) : ""},
      {"inputs", joined(record.inputs, tensor_text)},
      {"outputs", joined(record.outputs, tensor_text)},
      {"input_sha256", joined(record.inputs, digest_text)},
      {"output_sha256", joined(record.outputs, digest_text)},
      {"input_bytes", record.input_bytes()},
      {"output_bytes", record.output_bytes()}};
  for (const Path path : kPaths) cells.emplace_back(bytes_key(path), record.bytes_by(path));
  const auto slowest = record.slowest_path();
  cells.emplace_back("path", slowest ? name_of(*slowest) : "");
  cells.emplace_back("slots", record.slots_in_use);
  cells.emplace_back("start_ns", record.start_ns);
  visit_times([&](std::string_view key, std::uint64_t ns) { cells.emplace_back(key, ns); },
              record.times);
  return cells;
}

std::string jsonl_record(const TraceRecord& record, const TraceSummary& so_far) {
  JsonObject json = record_object(record);
  if (!record.weights.empty()) {
    std::vector<std::string> names;
    for (const WeightId& weight : record.weights) names.push_back(full_name(weight));
    json.add("weight_names", names);
  }
  json.add("end_ns", record.end_ns())
      .add("input_bytes", record.input_bytes())
      .add("output_bytes", record.output_bytes());
  JsonObject sums;
  sums.add("ops", so_far.all.calls);
  for (const Path path : kPaths) {
    json.add(bytes_key(path), record.bytes_by(path));
    sums.add(bytes_key(path),
             add_saturating(so_far.paths[path].sent.bytes, so_far.paths[path].received.bytes));
  }
  visit_times([&](std::string_view key, std::uint64_t ns) { sums.add(key, ns); }, so_far.all.times);
  return json.add("path", record.slowest_path()).add("so_far", sums).line();
}

Status export_trace(const std::string& file, ExportFormat format, const std::string& output_path) {
  ASSIGN_OR_RETURN(TraceReader reader, TraceReader::open(file));
  ASSIGN_OR_RETURN(const auto output, Output::create(output_path));
  std::optional<ChromeExport> chrome;
  TraceSummary so_far;
  if (format == ExportFormat::kChrome) chrome.emplace(reader.header(), *output);
  if (format == ExportFormat::kCsv) output->add(csv_head());
  while (!output->failed()) {
    ASSIGN_OR_RETURN(const std::optional<TraceRecord> record, reader.next());
    if (!record) break;
    switch (format) {
      case ExportFormat::kChrome:
        RETURN_IF_ERROR(chrome->add(*record).with_context(file));
        break;
      case ExportFormat::kCsv:
        output->add(csv_row(*record));
        break;
      case ExportFormat::kJsonl:
        so_far.add(*record);
        output->add(jsonl_record(*record, so_far));
        break;
    }
  }
  if (chrome) chrome->finish(reader.cut());
  RETURN_IF_ERROR(output->close());
  if (!reader.cut().empty()) log_warning(reader.cut());
  return {};
}

}  // namespace airlock::trace
