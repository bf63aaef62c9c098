#include "runtime/stats/report.h"

#include <unistd.h>

#include <array>
#include <fstream>
#include <thread>

namespace airlock {
namespace {

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace

HostReport describe_host(std::string_view device) {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) name[0] = '\0';
  return {name.data(), cpu_model(), std::thread::hardware_concurrency(), std::string(device)};
}

void SessionReport::merge_older(const SessionReport& older) {
  sessions += older.sessions;
  airlock::merge(transport, older.transport);
  airlock::merge(ops, older.ops);
}

void SideReport::merge(const SessionReport& session) {
  airlock::merge(transport, session.transport);
  airlock::merge(ops, session.ops);
}

}  // namespace airlock
