#include "tee_runner/generate/sampling_settings.h"

#include <string_view>

namespace airlock {
namespace {

enum class Least { kAllowed, kExcluded };

Status check(std::string_view name, double value, double least, double most,
             Least bound = Least::kAllowed) {
  // Not so for NaN either.
  if (value <= most && (bound == Least::kAllowed ? value >= least : value > least)) return {};
  return {StatusCode::kInvalidInput,
          "{} is {}, expected {} {} to {}",
          name,
          value,
          bound == Least::kAllowed ? "a number from" : "a number over",
          least,
          most};
}

}  // namespace

Status check(const SamplingSettings& settings) {
  using S = SamplingSettings;
  RETURN_IF_ERROR(check("temperature", settings.temperature, 0, S::kMaxTemperature));
  if (settings.top_k < 0 || settings.top_k > S::kMaxTopK) {
    return {StatusCode::kInvalidInput, "top_k is {}, expected an integer from 0 to {}",
            settings.top_k, S::kMaxTopK};
  }
  RETURN_IF_ERROR(check("top_p", settings.top_p, 0, 1, Least::kExcluded));
  RETURN_IF_ERROR(check("min_p", settings.min_p, 0, 1));
  RETURN_IF_ERROR(check("repetition_penalty", settings.repetition_penalty, 0,
                        S::kMaxRepetitionPenalty, Least::kExcluded));
  RETURN_IF_ERROR(
      check("presence_penalty", settings.presence_penalty, -S::kMaxPenalty, S::kMaxPenalty));
  RETURN_IF_ERROR(
      check("frequency_penalty", settings.frequency_penalty, -S::kMaxPenalty, S::kMaxPenalty));
  const int count = settings.log_probabilities.value_or(0);
  if (count < 0 || count > S::kMaxLogProbabilities) {
    return {StatusCode::kInvalidInput, "log_probabilities is {}, expected an integer from 0 to {}",
            count, S::kMaxLogProbabilities};
  }
  return {};
}

}  // namespace airlock
