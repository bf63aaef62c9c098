#include "tools/airlock_report/run.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

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
  std::set<std::pair<dev_t, ino_t>> seen;
  struct stat info {};
  for (const std::string& file : options.inputs) {
    if (::stat(file.c_str(), &info) != 0) continue;  // reading it will say why
    if (!seen.emplace(info.st_dev, info.st_ino).second)
      return {StatusCode::kUsage, fmt::format("{} is given twice", file)};
  }
  if (options.output != "-" && ::stat(options.output.c_str(), &info) == 0 &&
      seen.contains({info.st_dev, info.st_ino})) {
    return {StatusCode::kUsage, fmt::format("-o {} would replace an input", options.output)};
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
