#pragma once

#include <charconv>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/enum.h"
#include "base/status.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace airlock {

/// "64", "4K", "128M", "1G" (either case; powers of 1024) as bytes; nullopt for anything else and
/// for what 64 bits do not hold.
std::optional<std::uint64_t> parse_size(std::string_view text);

/// One declared option: a handle that its CommandLine outlives.
class CommandOption {
 public:
  explicit CommandOption(CLI::Option* option) : option_(option) {}
  CommandOption required() const;
  CommandOption excludes(CommandOption other) const;
  CommandOption needs(CommandOption other) const;
  /// How often it may be given, or how many positional values there may be.
  CommandOption count(std::size_t least, std::size_t most) const;
  bool given() const;

 private:
  CLI::Option* option_;
};

/// The options of a program, or of one of its subcommands: a handle that its CommandLine outlives.
/// What an option fills in must live until parse(). A value that is refused is a usage error that
/// names the option.
class CommandOptions {
 public:
  explicit CommandOptions(CLI::App* app) : app_(app) {}

  /// The base of all others: `set` gets the text and says what is wrong with it ("'x' is no size").
  /// `type` is what --help shows for the value.
  CommandOption parsed(const std::string& name, const std::string& type, const std::string& help,
                       std::function<Status(const std::string&)> set) const;
  CommandOption text(const std::string& name, std::string& value, const std::string& help) const;
  CommandOption text(const std::string& name, std::optional<std::string>& value,
                     const std::string& help) const;
  /// A file to write to; an empty name, which a script may have by mistake, is refused.
  CommandOption file(const std::string& name, std::string& path, const std::string& help) const;
  /// Positional, or an option that may be given several times.
  CommandOption texts(const std::string& name, std::vector<std::string>& values,
                      const std::string& help) const;
  CommandOption flag(const std::string& name, bool& value, const std::string& help) const;
  /// A number of [least, most].
  template <std::integral T, typename Target>
  CommandOption number(const std::string& name, Target& value, T least, T most,
                       const std::string& help) const {
    return parsed(name, "N", help, [&value, least, most](const std::string& text) -> Status {
      T number = 0;
      const char* const end = text.data() + text.size();
      const auto [stop, error] = std::from_chars(text.data(), end, number);
      if (error == std::errc() && stop == end && number >= least && number <= most) {
        value = static_cast<Target>(number);
        return {};
      }
      return {StatusCode::kUsage, "'{}' is not a number from {} to {}", text, least, most};
    });
  }
  CommandOption real(const std::string& name, double& value, double least, double most,
                     const std::string& help) const;
  /// One of the names of E's values, or of `among`.
  template <typename E>
  CommandOption choice(const std::string& name, E& value, const std::string& help,
                       std::span<const E> among = kValuesOf<E>) const {
    return choice(name, help, names(among),
                  [&value](const std::string& word) { value = *from_name<E>(word); });
  }
  /// The same, or "auto" for nullopt.
  template <typename E>
  CommandOption choice(const std::string& name, std::optional<E>& value, const std::string& help,
                       std::span<const E> among = kValuesOf<E>) const {
    std::vector<std::string_view> words = names(among);
    words.insert(words.begin(), "auto");
    return choice(name, help, words,
                  [&value](const std::string& word) { value = from_name<E>(word); });
  }

  CommandOptions subcommand(const std::string& name, const std::string& description) const;
  /// Whether this subcommand was asked for.
  bool chosen() const;

 private:
  template <typename E>
  static std::vector<std::string_view> names(std::span<const E> values) {
    std::vector<std::string_view> names;
    for (const E value : values) names.push_back(name_of(value));
    return names;
  }
  CommandOption choice(const std::string& name, const std::string& help,
                       const std::vector<std::string_view>& names,
                       std::function<void(const std::string&)> set) const;
  CLI::App* app_;
};

/// A program's command line, over CLI11. One thread.
class CommandLine {
 public:
  /// --version prints "PROGRAM VERSION" and `version_suffix`.
  CommandLine(std::string program, const std::string& description,
              std::string_view version_suffix = {});
  ~CommandLine();

  CommandOptions options() const { return CommandOptions(app_.get()); }
  /// One subcommand has to be given.
  void require_subcommand();
  /// false: --help or --version was asked for and printed. kUsage with where to read on.
  Result<bool> parse(int argc, const char* const* argv) const;
  /// kUsage with `what` and where to read on.
  Status refuse(std::string_view what) const;

 private:
  std::string program_;
  std::unique_ptr<CLI::App> app_;
};

}  // namespace airlock
