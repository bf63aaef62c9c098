#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace airlock {

/// Bytes that left this machine so far, by RDMA port ("mlx5_0") and by network interface.
struct Traffic {
  std::map<std::string, std::uint64_t> rdma;
  std::map<std::string, std::uint64_t> network;
};
/// From SYS/class/infiniband and SYS/class/net; what cannot be read counts as nothing.
Traffic read_traffic(const std::string& sys = "/sys");

/// Which way `bytes` went between two readings; "RDMA over mlx5_0", "eth0", or "memory" where no
/// port and no interface beside the loopback has carried half of them.
struct Way {
  std::string text;
  bool is_rdma = false;
  bool is_network = false;
};
Way way_of(std::uint64_t bytes, const Traffic& before, const Traffic& after);

/// What the launcher's environment asks MPI for that is RDMA ("OMPI_MCA_pml=ucx"); empty: nothing.
std::string asked_for_rdma();

}  // namespace airlock
