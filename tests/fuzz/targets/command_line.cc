// A command line with an option of each kind, a word a line.

#include "runtime/program/command_line.h"

#include "base/check.h"
#include "proto/path.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

std::vector<Bytes> seeds() {
  return bytes_of({"--size\n64K\n--number\n-7\n--real\n0.5\n--path\nring\n--flag\nFILE",
                   "--size=18446744073709551615\n--text\n\n--choice\nauto",
                   "command\n--words\na\n--words\nb"});
}

void check_size(std::string_view text) {
  const auto bytes = parse_size(text);
  if (!bytes) return;
  CHECK(parse_size(std::to_string(*bytes)) == bytes);
  // A number without its suffix is at most the size.
  CHECK(text.find_first_of("KMGkmg") == std::string_view::npos ||
        parse_size(text.substr(0, text.size() - 1)).value() <= *bytes);
}

bool run(std::span<const std::byte> input) {
  // As from the shell: no word holds a zero byte.
  std::vector<std::string> words = {"fuzz"};
  std::string_view rest = text_of(input);
  if (rest.find('\0') != std::string_view::npos || rest.size() > 4096) return false;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    words.emplace_back(rest.substr(0, end));
    check_size(words.back());
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());

  std::uint64_t size = 0;
  int number = 0;
  double real = 0;
  Path path = Path::kRing;
  std::optional<Path> choice;
  std::string text;
  std::vector<std::string> many;
  std::vector<std::string> files;
  bool flag = false;
  CommandLine line("fuzz", "a command line");
  const CommandOptions options = line.options();
  options.parsed("--size", "BYTES", "", [&size](const std::string& word) -> Status {
    const auto bytes = parse_size(word);
    if (!bytes) return {StatusCode::kUsage, "'{}' is no size", word};
    size = *bytes;
    return {};
  });
  options.number("--number", number, -9, 99, "");
  options.real("--real", real, 0, 1, "");
  options.choice("--path", path, "");
  options.choice("--choice", choice, "");
  options.text("--text", text, "");
  options.flag("--flag", flag, "");
  options.texts("files", files, "").count(0, 4);
  options.subcommand("command", "one").texts("--words", many, "");
  const auto asked = line.parse(static_cast<int>(argv.size()), argv.data());
  if (!asked.ok()) {
    CHECK(asked.status().code() == StatusCode::kUsage);
    check_refusal(asked.status());
    return false;
  }
  CHECK(number >= -9 && number <= 99 && real >= 0 && real <= 1);
  CHECK(!name_of(path).empty() && files.size() <= 4);
  return true;
}

}  // namespace

constinit const Target kCommandLine = {"command_line", seeds, run};

}  // namespace airlock::fuzz
