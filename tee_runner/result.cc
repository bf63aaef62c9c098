#include "tee_runner/result.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "base/deadline.h"
#include "runtime/json/writer.h"
#include "runtime/text/table.h"

namespace airlock {

namespace {

constexpr std::size_t kTopCount = 5;

JsonObject comparison_json(const Comparison& c) {
  JsonObject ops;
  for (const Comparison::OpCost& op : c.ops) {
    ops.add(
        name_of(op.op),
        JsonObject{{"calls", op.calls}, {"remote_ns", op.remote_ns}, {"local_ns", op.local_ns}});
  }
  return {{"passed", c.passed()},
          {"same_bits", c.same_bits},
          {"differing", c.differing},
          {"largest_error", c.largest_error},
          {"tolerance", c.tolerance},
          {"remote_wall_ns", c.remote_wall_ns},
          {"local_wall_ns", c.local_wall_ns},
          {"overhead", c.overhead()},
          {"ops", ops}};
}

std::string format_json(const PrefillResult& result) {
  std::vector<JsonObject> top;
  for (const TopLogit& entry : result.top)
    top.push_back({{"id", entry.id}, {"logit", entry.logit}});
  JsonObject json = {{"tokens", result.tokens},
                     {"runs_ns", result.runs_ns},
                     {"wall_ns", result.wall_ns()},
                     {"tokens_per_s", JsonFixed{result.tokens_per_s(), 3}},
                     {"top", top}};
  if (result.comparison) json.add("compare_local", comparison_json(*result.comparison));
  return json.line();
}

std::string format_csv(const PrefillResult& result) {
  Cells keys = {"tokens", "runs", "wall_ns", "tokens_per_s"};
  Cells values = {result.tokens, result.runs_ns.size(), result.wall_ns(),
                  Cell::real(result.tokens_per_s(), 3)};
  for (std::size_t i = 0; i < result.top.size(); ++i) {
    keys.insert(keys.end(), {fmt::format("top{}_id", i + 1), fmt::format("top{}_logit", i + 1)});
    values.insert(values.end(), {result.top[i].id, fmt::format("{}", result.top[i].logit)});
  }
  if (const auto& comparison = result.comparison) {
    keys.insert(keys.end(), {"local_wall_ns", "overhead", "same_bits", "largest_error"});
    values.insert(values.end(), {comparison->local_wall_ns, Cell::real(comparison->overhead(), 6),
                                 comparison->same_bits ? 1 : 0, comparison->largest_error});
  }
  return csv_line(keys) + csv_line(values);
}

std::string comparison_table(const Comparison& c) {
  Table table({left("op"), "calls", "remote ms/call", "local ms/call", "over"});
  const auto add = [&table](std::string_view name, const Cell& calls, double remote_ns,
                            double local_ns, double over) {
    table.add({name, calls, Cell::real(remote_ns / 1e6, 3), Cell::real(local_ns / 1e6, 3),
               fmt::format("{:+.1f} %", 100 * over)});
  };
  for (const Comparison::OpCost& op : c.ops) {
    const auto calls = static_cast<double>(op.calls);
    const double remote_ns = static_cast<double>(op.remote_ns) / calls;
    const double local_ns = static_cast<double>(op.local_ns) / calls;
    add(name_of(op.op), op.calls, remote_ns, local_ns,
        local_ns > 0 ? remote_ns / local_ns - 1 : 0.0);
  }
  add("prefill", "", static_cast<double>(c.remote_wall_ns), static_cast<double>(c.local_wall_ns),
      c.overhead());
  const std::string text = '\n' + table.markdown(Table::Padding::kNone) + '\n';
  if (c.same_bits) return text + "The logits are the same bits.\n";
  return text +
         fmt::format("{} logits differ; the largest error is {:.3g} of the largest logit{}.\n",
                     c.differing, c.largest_error,
                     c.tolerance > 0 ? fmt::format(" (tolerance {:g})", c.tolerance) : "");
}

std::string format_markdown(const PrefillResult& result) {
  Table runs({"tokens", "runs", "median ms", "tokens/s"});
  runs.add({result.tokens, result.runs_ns.size(), Cell::ms(result.wall_ns()),
            Cell::real(result.tokens_per_s(), 1)});
  Table top({"top", "token id", "logit"});
  for (std::size_t i = 0; i < result.top.size(); ++i) {
    top.add({i + 1, result.top[i].id, Cell::real(result.top[i].logit, 5)});
  }
  return runs.markdown(Table::Padding::kNone) + '\n' + top.markdown(Table::Padding::kNone) +
         (result.comparison ? comparison_table(*result.comparison) : "");
}

std::string npy_header(const Shape& shape) {
  std::string extents = fmt::format("{}", fmt::join(shape.extents(), ", "));
  if (shape.rank() == 1) extents += ',';  // a tuple of one: (5,)
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", extents);
  constexpr std::size_t kPreamble = 10;  // magic, version, length
  header.append(63 - (kPreamble + header.size()) % 64, ' ');
  header.push_back('\n');
  std::string text("\x93NUMPY\x01\x00", 8);
  text.push_back(static_cast<char>(header.size() & 0xff));
  text.push_back(static_cast<char>(header.size() >> 8));
  return text + header;
}

}  // namespace

double tolerance_of(DType dtype) {
  if (dtype == DType::kI8) return 1e-1;
  return dtype == DType::kBF16 ? 4e-2 : dtype == DType::kF16 ? 4e-3 : 2e-5;
}

std::vector<TopLogit> top_logits(std::span<const float> logits, std::size_t count) {
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto key = [&](std::size_t i) {
    return std::isnan(logits[i]) ? -std::numeric_limits<float>::infinity() : logits[i];
  };
  const auto middle = order.begin() + static_cast<std::ptrdiff_t>(std::min(count, order.size()));
  std::partial_sort(order.begin(), middle, order.end(), [&](std::size_t a, std::size_t b) {
    return key(a) != key(b)
               ? key(a) > key(b)
               : std::pair(std::isnan(logits[a]), a) < std::pair(std::isnan(logits[b]), b);
  });
  std::vector<TopLogit> top;
  for (auto it = order.begin(); it != middle; ++it)
    top.push_back({static_cast<std::int64_t>(*it), logits[*it]});
  return top;
}

std::uint64_t PrefillResult::wall_ns() const {
  if (runs_ns.empty()) return 0;
  std::vector<std::uint64_t> sorted = runs_ns;
  std::sort(sorted.begin(), sorted.end());
  const std::size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half]
                                : sorted[half - 1] + (sorted[half] - sorted[half - 1]) / 2;
}

double PrefillResult::tokens_per_s() const {
  return static_cast<double>(tokens) * 1e9 /
         static_cast<double>(std::max<std::uint64_t>(1, wall_ns()));
}

Result<PrefillResult> run_prefill(LlamaDriver& driver, std::span<const std::int32_t> tokens,
                                  std::size_t repeat, const std::function<void()>& before_run) {
  PrefillResult result;
  result.tokens = tokens.size();
  for (std::size_t run = 0; run < repeat; ++run) {
    const std::uint64_t start_ns = now_ns();
    if (before_run) before_run();
    ASSIGN_OR_RETURN(result.logits, driver.prefill(tokens));
    result.runs_ns.push_back(now_ns() - start_ns);
  }
  const auto vocab = static_cast<std::size_t>(result.logits.desc().shape[1]);
  const std::span<const float> all = std::as_const(result.logits).as<float>();
  result.top = top_logits(all.last(vocab), kTopCount);
  return result;
}

double Comparison::overhead() const {
  return static_cast<double>(remote_wall_ns) /
             static_cast<double>(std::max<std::uint64_t>(1, local_wall_ns)) -
         1;
}

Comparison compare(const PrefillResult& remote, const OpSnapshotTable& remote_ops,
                   const BackendInfo& server, DType wire, const PrefillResult& local,
                   const OpSnapshotTable& local_ops) {
  Comparison result;
  result.remote_wall_ns = remote.wall_ns();
  result.local_wall_ns = local.wall_ns();
  for (const Op op : kOps) {
    const OpSnapshot& there = remote_ops[op];
    const OpSnapshot& here = local_ops[op];
    if (there.calls == 0 || here.calls == 0) continue;
    result.ops.push_back({op, there.calls, there.times.total_ns, here.times.total_ns});
  }
  const std::span<const float> got = remote.logits.as<float>();
  const std::span<const float> expected = local.logits.as<float>();
  CHECK(got.size() == expected.size());
  double worst = 0;
  double largest = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::memcmp(&got[i], &expected[i], sizeof(float)) != 0) ++result.differing;
    const double error = std::abs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
    worst = error > worst || std::isnan(error) ? error : worst;
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  result.same_bits = result.differing == 0;
  result.largest_error = result.same_bits ? 0 : worst / std::max(largest, 1e-300);
  if (!server.device.starts_with("cpu"))
    result.tolerance = std::max(tolerance_of(wire), tolerance_of(server.dtype));
  return result;
}

Status check_comparison(const Comparison& comparison) {
  if (comparison.passed()) return {};
  return {StatusCode::kMismatch,
          "--compare-local: {} of the server's logits differ from this process's; the largest "
          "error is {:.3g} of the largest logit{}",
          comparison.differing, comparison.largest_error,
          comparison.tolerance > 0 ? fmt::format(", the tolerance {:g}", comparison.tolerance)
                                   : std::string(", and a CPU server must give the same bits")};
}

std::string format_result(const PrefillResult& result, OutputForm form) {
  switch (form) {
    case OutputForm::kJson:
      return format_json(result);
    case OutputForm::kCsv:
      return format_csv(result);
    case OutputForm::kMarkdown:
      break;
  }
  return format_markdown(result);
}

Status write_npy(const OutputFile& file, TensorView tensor) {
  CHECK(tensor.desc.dtype == DType::kF32);
  const std::span<const std::byte> data = tensor.bytes();
  return file.write(
      {npy_header(tensor.desc.shape), {reinterpret_cast<const char*>(data.data()), data.size()}});
}

}  // namespace airlock
