#include "tools/airlock_report/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/log.h"
#include "runtime/program/program.h"
#include "tools/airlock_report/input.h"
#include "tools/airlock_report/page.h"

namespace airlock::report {
namespace {

/// A file counted twice would make merged histograms wrong; a page over its own input would destroy
/// it.
Status check_files(const Options& options) {
  const std::vector<std::string>& files = options.inputs;
  for (auto file = files.begin(); file != files.end(); ++file) {
    const auto is_this = [&](const std::string& other) { return is_same_file(*file, other); };
    if (std::any_of(files.begin(), file, is_this))
      return {StatusCode::kUsage, "{} is given twice", *file};
    if (options.output != "-" && is_this(options.output))
      return {StatusCode::kUsage, "-o {} would replace an input", options.output};
  }
  return {};
}

}  // namespace

Status run(const Options& options) {
  RETURN_IF_ERROR(check_files(options));
  ASSIGN_OR_RETURN(const std::vector<Input> inputs, read_inputs(options.inputs));
  for (const Input& input : inputs) {
    if (input.trace() != nullptr && !input.trace()->cut.empty()) log_warning(input.trace()->cut);
  }
  const std::string page = render_page(inputs, {build_name(), utc_now()});
  if (options.output == "-") return print(page);
  RETURN_IF_ERROR(write_file_atomically(options.output, page));
  log_info(fmt::format("{}: {} bytes from {} files", options.output, page.size(), inputs.size()));
  return {};
}

}  // namespace airlock::report
