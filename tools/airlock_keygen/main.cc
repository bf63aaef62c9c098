#include <fmt/format.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <vector>

#include "base/output_file.h"
#include "runtime/program/command_line.h"
#include "runtime/program/program.h"
#include "runtime/secure/keys.h"

namespace airlock {
namespace {

struct Options {
  std::string path;  // without .key and .pub
};

Result<std::optional<Options>> parse_options(int argc, const char* const* argv) {
  const CommandLine line(
      "airlock_keygen",
      "Makes the key of one side of a tcp connection: NAME.key, which stays there (mode 0600), "
      "and\n"
      "NAME.pub, one line for the other side. The server has --key SERVER.key and "
      "--authorized-keys\n"
      "with the lines of its clients; a client has --key CLIENT.key and --server-key SERVER.pub.\n"
      "Exit codes: 0 done, 1 a file cannot be made, 2 usage, 5 there is such a key already.");
  std::vector<std::string> paths;
  (void)line.options()
      .texts("NAME", paths, "what the files are called, with a folder in front or not")
      .required()
      .count(1, 1);
  ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
  if (!asked) return std::optional<Options>();
  return std::optional<Options>(Options{paths.front()});
}

Status run(const Options& options) {
  if (options.path.empty() || options.path.ends_with('/'))
    return {StatusCode::kUsage, "'{}' names no key", options.path};
  const std::string secret_path = options.path + ".key";
  const std::string public_path = options.path + ".pub";
  if (::access(public_path.c_str(), F_OK) == 0)
    return {StatusCode::kInUse, "{} is there already: a key is not replaced", public_path};
  ASSIGN_OR_RETURN(const SecretKey key,
                   SecretKey::make(options.path.substr(options.path.rfind('/') + 1)));
  const std::string line = key.public_key().line() + "\n";
  ASSIGN_OR_RETURN(const OutputFile half, OutputFile::open(public_path));
  RETURN_IF_ERROR(key.write(secret_path));
  if (const Status written = half.write(line); !written.ok()) {
    ::unlink(secret_path.c_str());
    return written;
  }
  return print(line);
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  using namespace airlock;
  return run_program(
      "airlock_keygen", [&] { return parse_options(argc, argv); }, run);
}
