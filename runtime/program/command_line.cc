#include "runtime/program/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <utility>

#include "base/safe_text.h"
#include "base/version.h"
#include "runtime/program/program.h"

namespace airlock {

std::optional<std::uint64_t> parse_size(std::string_view text) {
  std::uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc()) return std::nullopt;
  std::size_t shift = 0;
  if (stop != end) {
    const std::size_t unit = std::string_view("KMGkmg").find(*stop);
    if (stop + 1 != end || unit == std::string_view::npos) return std::nullopt;
    shift = 10 * (unit % 3 + 1);
  }
  if (number > (~std::uint64_t{0} >> shift)) return std::nullopt;
  return number << shift;
}

CommandOption CommandOption::required() const { return CommandOption(option_->required()); }

CommandOption CommandOption::excludes(CommandOption other) const {
  return CommandOption(option_->excludes(other.option_));
}

CommandOption CommandOption::needs(CommandOption other) const {
  return CommandOption(option_->needs(other.option_));
}

CommandOption CommandOption::count(std::size_t least, std::size_t most) const {
  return CommandOption(option_->expected(static_cast<int>(least), static_cast<int>(most)));
}

bool CommandOption::given() const { return option_->count() > 0; }

CommandOption CommandOptions::parsed(const std::string& name, const std::string& type,
                                     const std::string& help,
                                     std::function<Status(const std::string&)> set) const {
  CLI::Option* option = app_->add_option_function<std::string>(
      name, [](const std::string&) {}, help);
  // CLI11 puts the option's name before what a check says.
  option->check([set = std::move(set)](const std::string& text) { return set(text).message(); }, "")
      ->type_name(type);
  return CommandOption(option);
}

CommandOption CommandOptions::text(const std::string& name, std::string& value,
                                   const std::string& help) const {
  return CommandOption(app_->add_option(name, value, help));
}

CommandOption CommandOptions::text(const std::string& name, std::optional<std::string>& value,
                                   const std::string& help) const {
  return CommandOption(app_->add_option(name, value, help));
}

CommandOption CommandOptions::file(const std::string& name, std::string& path,
                                   const std::string& help) const {
  return parsed(name, "FILE", help, [&path](const std::string& text) -> Status {
    path = text;
    return text.empty() ? Status(StatusCode::kUsage, "the file's name is empty") : Status();
  });
}

CommandOption CommandOptions::texts(const std::string& name, std::vector<std::string>& values,
                                    const std::string& help) const {
  return CommandOption(app_->add_option(name, values, help));
}

CommandOption CommandOptions::flag(const std::string& name, bool& value,
                                   const std::string& help) const {
  return CommandOption(app_->add_flag(name, value, help));
}

CommandOption CommandOptions::real(const std::string& name, double& value, double least,
                                   double most, const std::string& help) const {
  return parsed(name, "NUMBER", help, [&value, least, most](const std::string& text) -> Status {
    char* end = nullptr;
    const double number = std::strtod(text.c_str(), &end);
    // False for NaN.
    if (!text.empty() && *end == '\0' && number >= least && number <= most) {
      value = number;
      return {};
    }
    return {StatusCode::kUsage, "'{}' is not a number from {} to {}", text, least, most};
  });
}

CommandOption CommandOptions::choice(const std::string& name, const std::string& help,
                                     const std::vector<std::string_view>& names,
                                     std::function<void(const std::string&)> set) const {
  return parsed(
      name, fmt::format("{}", fmt::join(names, "|")), help,
      [names, set = std::move(set)](const std::string& text) -> Status {
        if (std::ranges::find(names, text) == names.end()) {
          return {StatusCode::kUsage, "'{}' is not one of: {}", text, fmt::join(names, ", ")};
        }
        set(text);
        return {};
      });
}

CommandOptions CommandOptions::subcommand(const std::string& name,
                                          const std::string& description) const {
  return CommandOptions(app_->add_subcommand(name, description));
}

bool CommandOptions::chosen() const { return app_->parsed(); }

CommandLine::CommandLine(std::string program, const std::string& description,
                         std::string_view version_suffix)
    : program_(std::move(program)), app_(std::make_unique<CLI::App>(description, program_)) {
  app_->set_version_flag("--version", fmt::format("{} {}{}", program_, kVersion, version_suffix));
}

CommandLine::~CommandLine() = default;

void CommandLine::require_subcommand() { app_->require_subcommand(1); }

Result<bool> CommandLine::parse(int argc, const char* const* argv) const {
  try {
    app_->parse(argc, argv);
    return true;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) return refuse(error.what());
    std::ostringstream text;
    app_->exit(error, text, text);
    RETURN_IF_ERROR(print(text.str()));
    return false;
  } catch (const std::exception& error) {
    return refuse(error.what());
  }
}

Status CommandLine::refuse(std::string_view what) const {
  std::string command = program_;
  for (const CLI::App* chosen : app_->get_subcommands()) command += " " + chosen->get_name();
  // What was given is quoted.
  return {StatusCode::kUsage, "{} (see {} --help)", without_controls(what, "?"), command};
}

}  // namespace airlock
