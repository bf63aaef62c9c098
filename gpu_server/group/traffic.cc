#include "gpu_server/group/traffic.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>

namespace airlock {

namespace {

// InfiniBand counts words of four bytes.
constexpr std::uint64_t kRdmaWord = 4;

std::uint64_t number_in(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  return file >> number ? number : 0;
}

template <typename Each>
void for_each_entry(const std::filesystem::path& folder, const Each& each) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error))
    each(entry->path());
}

/// The name of what carried most; more than half of `bytes`, or empty.
std::string carrier(std::uint64_t bytes, const std::map<std::string, std::uint64_t>& before,
                    const std::map<std::string, std::uint64_t>& after) {
  std::uint64_t most = bytes / 2;
  std::string name;
  for (const auto& [each, count] : after) {
    const auto earlier = before.find(each);
    const std::uint64_t start = earlier == before.end() ? 0 : earlier->second;
    const std::uint64_t sent = count > start ? count - start : 0;  // a counter may begin again
    if (sent > most) std::tie(most, name) = std::pair(sent, each);
  }
  return name;
}

}  // namespace

Traffic read_traffic(const std::string& sys) {
  Traffic traffic;
  for_each_entry(sys + "/class/infiniband", [&](const std::filesystem::path& device) {
    for_each_entry(device / "ports", [&](const std::filesystem::path& port) {
      traffic.rdma[device.filename()] +=
          kRdmaWord * number_in(port / "counters" / "port_xmit_data");
    });
  });
  for_each_entry(sys + "/class/net", [&](const std::filesystem::path& interface) {
    if (interface.filename() == "lo") return;
    traffic.network[interface.filename()] = number_in(interface / "statistics" / "tx_bytes");
  });
  return traffic;
}

Way way_of(std::uint64_t bytes, const Traffic& before, const Traffic& after) {
  if (const std::string port = carrier(bytes, before.rdma, after.rdma); !port.empty())
    return {.text = "RDMA over " + port, .is_rdma = true};
  if (const std::string name = carrier(bytes, before.network, after.network); !name.empty())
    return {.text = name, .is_network = true};
  return {.text = "memory"};
}

std::string asked_for_rdma() {
  constexpr std::pair<const char*, std::string_view> kAsks[] = {
      {"OMPI_MCA_pml", "ucx"}, {"OMPI_MCA_btl", "openib"}, {"OMPI_MCA_pml", "cm"},
      {"UCX_TLS", "rc"},       {"UCX_TLS", "dc"},          {"UCX_TLS", "ud"},
      {"UCX_TLS", "ib"}};
  for (const auto& [name, word] : kAsks) {
    const char* text = std::getenv(name);
    if (text == nullptr) continue;
    const std::string value = text;
    // A list of what is not to be used begins so.
    if (!value.starts_with('^') && value.find(word) != std::string::npos)
      return fmt::format("{}={}", name, value);
  }
  return {};
}

}  // namespace airlock
