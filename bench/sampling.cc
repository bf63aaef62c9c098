// What it takes to choose a token of LLaMA-3's vocabulary from its logits: normal ones of a few
// widths, and all of them equal.
//   sampling [TOKENS]
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "tee_runner/generate/sampler.h"

namespace airlock {
namespace {

constexpr std::int64_t kVocab = 128256;
constexpr std::size_t kPromptTokens = 1024;

struct Choice {
  std::string name;
  SamplingSettings settings;
};

std::vector<float> logits_of(double width, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> logits(static_cast<std::size_t>(kVocab));
  for (float& logit : logits) logit = static_cast<float>(width) * normal(random);
  return logits;
}

void measure(const Choice& choice, double width, std::size_t tokens) {
  Sampler sampler = Sampler::create(choice.settings, kVocab).value();
  std::vector<std::int32_t> prompt(kPromptTokens);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<std::int32_t>(i * 101);
  if (!sampler.add_prompt(prompt).ok()) return;
  const std::vector<std::vector<float>> logits = {logits_of(width, 1), logits_of(width, 2)};
  std::vector<double> us;
  for (std::size_t i = 0; i <= tokens; ++i) {
    const std::uint64_t start = now_ns();
    const auto sampled = sampler.sample(logits[i % logits.size()]);
    if (i > 0) us.push_back(static_cast<double>(now_ns() - start) / 1e3);
    if (!sampled.ok()) std::abort();
  }
  std::ranges::sort(us);
  fmt::print("| {} | {} | {:.0f} | {:.0f} | {:.0f} | {} |\n", choice.name, width, us[us.size() / 2],
             us.front(), us[us.size() * 99 / 100], sampler.candidates().size());
}

void run(std::size_t tokens) {
  const std::vector<Choice> choices = {
      {"greedy", {}},
      {"temperature 1", {.temperature = 1}},
      {"temperature 0.7, top-p 0.9", {.temperature = 0.7, .top_p = 0.9}},
      {"temperature 1, top-k 50", {.temperature = 1, .top_k = 50}},
      {"temperature 1, top-k 50, top-p 0.9, min-p 0.05",
       {.temperature = 1, .top_k = 50, .top_p = 0.9, .min_p = 0.05}},
      {"temperature 0.7, top-p 0.9, repetition 1.1, 5 log-probabilities",
       {.temperature = 0.7, .top_p = 0.9, .repetition_penalty = 1.1, .log_probabilities = 5}}};
  fmt::print(
      "| settings | width of the logits | median us | least | p99 | candidates |\n"
      "| --- | ---: | ---: | ---: | ---: | ---: |\n");
  for (const Choice& choice : choices) {
    for (const double width : {0.0, 1.0, 3.0}) measure(choice, width, tokens);
  }
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  const unsigned long tokens = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 500;
  if (argc > 2 || tokens == 0 || tokens > 1'000'000) {
    std::fprintf(stderr, "usage: sampling [TOKENS, 1 to 10^6]\n");
    return 2;
  }
  airlock::run(tokens);
  return 0;
}
