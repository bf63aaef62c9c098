#include "tests/quality/subject.h"

#include <algorithm>
#include <cstdlib>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/readable_file.h"
#include "tee_runner/tokenizer/tokenizer.h"
#include "tests/quality/naive_rounding.h"
#include "tests/support/shared_data.h"

namespace airlock::testing {

namespace fs = std::filesystem;

namespace {
constexpr std::uint64_t kMostTextBytes = std::uint64_t{1} << 20;
}  // namespace

fs::path text_kjv() { return shared_data() / "golden" / "text-kjv"; }

fs::path smollm2() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const fs::path root = cache != nullptr ? fs::path(cache) : fs::path(home ? home : "/") / ".cache";
  return root / "airlock" / "models" / "smollm2";
}

Result<Subject> Subject::open(const fs::path& folder, const std::string& text, std::size_t threads,
                              std::size_t most_windows) {
  ASSIGN_OR_RETURN(auto model, open_model_directory(folder.string()));
  Subject subject(std::move(model), threads);
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::open(folder.string()));
  const fs::path path = fs::path(AIRLOCK_SOURCE_DIR) / "bench" / "data" / text;
  ASSIGN_OR_RETURN(const std::string read, read_text_file(path.string(), kMostTextBytes));
  ASSIGN_OR_RETURN(const auto ids, tokenizer->encode(read, Specials::kPlain, Around::kNothing));
  ASSIGN_OR_RETURN(subject.floats_, ComputedLlama::create(*subject.model_, Way::kF32, threads));
  const std::size_t count = std::min(most_windows, ids.size() / kWindowTokens);
  CHECK(count > 0);
  for (std::size_t i = 0; i < count; ++i) {
    const auto window = std::span(ids).subspan(i * kWindowTokens, kWindowTokens);
    subject.windows_.emplace_back(window.begin(), window.end());
    ASSIGN_OR_RETURN(Tensor logits, subject.floats_->logits(window));
    subject.logits_.push_back(std::move(logits));
  }
  return subject;
}

Closeness::Figures Subject::compare(const ModelSource& model, Backend& backend,
                                    std::size_t most_windows) const {
  Closeness closeness;
  for (std::size_t i = 0; i < std::min(most_windows, windows_.size()); ++i) {
    const Tensor got = all_logits(model, backend, DType::kF32, threads_, windows_[i]).value();
    closeness.add(windows_[i], logits_[i].as<float>(), got.as<float>());
  }
  return closeness.figures();
}

Closeness::Figures Subject::compare(ComputedLlama& llama) const {
  Closeness closeness;
  for (std::size_t i = 0; i < windows_.size(); ++i) {
    const Tensor got = llama.logits(windows_[i]).value();
    closeness.add(windows_[i], logits_[i].as<float>(), got.as<float>());
  }
  return closeness.figures();
}

Closeness::Figures Subject::compare(Way way) const {
  return compare(*ComputedLlama::create(*model_, way, threads_).value());
}

OutlierKl outlier_kl(const Subject& subject, const Outliers& outliers, std::size_t most_windows) {
  const OutlierModel changed(subject.model(), outliers);
  const RoundedModel rounded(changed);
  const auto exact = ComputedLlama::create(changed, Way::kF32, subject.threads()).value();
  const auto w8 = ComputedLlama::create(changed, Way::kW8, subject.threads()).value();
  const auto plain = ComputedLlama::create(rounded, Way::kF32, subject.threads()).value();
  RoundingBackend mean(plain->backend(), exact->backend(),
                       {.scale = ActivationRule::Scale::kMean, .units = 512});
  RoundingBackend absmax(plain->backend(), exact->backend(),
                         {.scale = ActivationRule::Scale::kAbsmax, .units = kInt8Most});
  const auto kl = [&](Backend& backend) {
    return subject.compare(changed, backend, most_windows).mean_kl;
  };
  return {kl(exact->backend()), kl(w8->backend()), kl(mean), kl(absmax)};
}

}  // namespace airlock::testing
