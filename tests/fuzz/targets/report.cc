#include "runtime/stats/report.h"

#include "base/check.h"
#include "tests/fuzz/target.h"
#include "tests/stats/sample_reports.h"

namespace airlock::fuzz {
namespace {

std::vector<Bytes> seeds() {
  SideReport writer = sample_runner();
  writer.text = sample_text();
  return bytes_of(
      {report_json(sample_runner()), report_json(writer), report_json(sample_server())});
}

bool run(std::span<const std::byte> input) {
  const auto report = read_report(text_of(input), "fuzz");
  if (!report.ok()) {
    CHECK(report.status().code() == StatusCode::kInvalidInput);
    CHECK(report.status().message().starts_with("fuzz: "));
    check_refusal(report.status());
    return false;
  }
  const std::string text = report_json(*report);
  const auto again = read_report(text, "again");
  CHECK(again.ok() && report_json(*again) == text);
  (void)report_table(*report);
  return true;
}

}  // namespace

constinit const Target kReport = {"report", seeds, run};

}  // namespace airlock::fuzz
