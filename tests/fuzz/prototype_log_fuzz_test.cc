#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/log_target.h"

namespace airlock {
namespace {

/// One small damage: a byte, a number or word of the format's own, a cut, a line doubled or gone.
void mutate(std::string& text, std::mt19937& random) {
  static constexpr const char* kPieces[] = {"\n",     "\r\n", " ",    "nan",       "-1",
                                            "1e9",    "0",    ".",    "999999999", "65536.10",
                                            "Matmul", "Init", "====", "SUMMARY\n", "Total: 1 s\n",
                                            "\0",     ":",    "1",    "LMHead",    "Avg 1 ms\n"};
  if (text.empty()) text.push_back('1');
  const std::size_t at = random() % text.size();
  const std::size_t line = text.rfind('\n', at) == std::string::npos ? 0 : text.rfind('\n', at) + 1;
  const std::size_t line_bytes = std::min(text.find('\n', at), text.size() - 1) + 1 - line;
  switch (random() % 7) {
    case 0:
      text[at] = static_cast<char>(random() & 0xffU);
      break;
    case 1:
      text.insert(at, kPieces[random() % std::size(kPieces)]);
      break;
    case 2:
      text.resize(at);
      break;
    case 3:
      text.erase(at, 1 + random() % 8);
      break;
    case 4:
      text.erase(line, line_bytes);
      break;
    case 5:
      text.insert(line, text.substr(line, line_bytes));
      break;
    default:
      if (text[at] >= '0' && text[at] <= '9') text[at] = static_cast<char>('0' + random() % 10);
  }
}

TEST(PrototypeLogFuzz, takes_the_logs_that_it_begins_with) {
  for (const std::string& text : valid_logs()) {
    const auto log = trace::parse_prototype_log(text, "log");
    ASSERT_TRUE(log.ok()) << log.status().message();
    const auto imported = trace::import_log(*log, two_layers(), "log");
    ASSERT_TRUE(imported.ok()) << imported.status().message();
    (void)import_anything(text);
  }
}

TEST(PrototypeLogFuzz, survives_random_bytes) {
  std::mt19937 random(1);
  for (int round = 0; round < 50000; ++round) {
    std::string text(random() % 200, ' ');
    for (char& c : text) c = static_cast<char>(random() & 0xffU);
    (void)import_anything(text);
  }
}

TEST(PrototypeLogFuzz, survives_damaged_logs) {
  const std::vector<std::string> logs = valid_logs();
  std::mt19937 random(2);
  for (int round = 0; round < 20000; ++round) {
    std::string text = logs[random() % logs.size()];
    for (std::size_t left = random() % 4 + 1; left > 0; --left) mutate(text, random);
    (void)import_anything(text);
  }
}

TEST(PrototypeLogFuzz, survives_every_cut) {
  const std::string text = valid_logs()[0];
  for (std::size_t bytes = 0; bytes < text.size(); ++bytes)
    (void)import_anything(text.substr(0, bytes));
}

}  // namespace
}  // namespace airlock
