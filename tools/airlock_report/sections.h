#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/airlock_report/chart.h"
#include "tools/airlock_report/input.h"

namespace airlock::report {

/// The parts of the page, each HTML. A part that the inputs have nothing for is empty.

/// By side and by op.
std::string time_section(const std::vector<Input>& inputs, ChartIds& ids);
/// Distribution per path, merged over the files of one side; percentiles of each file beside it.
std::string latency_section(const std::vector<Input>& inputs, ChartIds& ids);
/// What went by each path, as counted.
std::string paths_section(const std::vector<Input>& inputs, ChartIds& ids);
/// Bytes per path and the ring's fill over time, of each trace.
std::string timeline_section(const std::vector<Input>& inputs, ChartIds& ids);
/// Passes over prompts and steps of answers, of each trace: rows, and where the time of each went.
std::string passes_section(const std::vector<Input>& inputs, ChartIds& ids);
/// What runners counted that write text: tokens, time to the first one and between them.
std::string text_section(const std::vector<Input>& inputs, ChartIds& ids);
/// Of each trace, by bytes and by time.
std::string biggest_section(const std::vector<Input>& inputs);
/// What a runner sent against what its server received, session by session.
std::string reconcile_section(const std::vector<Input>& inputs);

/// What the report's config has under `key`; empty where it has nothing.
std::string config_value(const SideReport& report, std::string_view key);
/// "inputs.3."
std::string key_of(std::size_t input);
/// What `part` makes of each input, under its heading; nothing where it makes nothing. `key` is
/// key_of() it.
using InputPart = std::function<std::string(const Input& input, const std::string& key)>;
std::string for_each_input(const std::vector<Input>& inputs, const InputPart& part);

}  // namespace airlock::report
