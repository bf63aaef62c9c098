#include "base/cgroup.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <filesystem>
#include <string>
#include <thread>

#include "base/available_memory.h"
#include "base/cpu_count.h"
#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

/// A machine's /proc and /sys, as far as they say something about control groups.
class Machine {
 public:
  void put(const std::string& path, const std::string& text) {
    const std::filesystem::path file = folder_.path() / path.substr(1);
    std::filesystem::create_directories(file.parent_path());
    write_all(file, text);
  }
  CgroupLimits limits() const { return read_cgroup_limits(root()); }
  std::string root() const { return folder_.path(); }

 private:
  TempDir folder_;
};

constexpr const char* kV2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
constexpr const char* kV1 =
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw shared:3 master:1 - cgroup cgroup rw,memory\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";

TEST(Cgroup, leaves_everything_where_there_is_none) {
  Machine machine;
  EXPECT_EQ(machine.limits(), CgroupLimits());
  machine.put("/proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
  machine.put("/proc/self/cgroup", "0::/\n");
  EXPECT_EQ(machine.limits(), CgroupLimits());
}

TEST(Cgroup, v2_takes_the_least_of_every_ancestor) {
  Machine machine;
  machine.put("/proc/self/mountinfo", kV2);
  machine.put("/proc/self/cgroup", "0::/a.slice/b.service/c\n");
  machine.put("/sys/fs/cgroup/a.slice/b.service/c/cpu.max", "max 100000\n");
  machine.put("/sys/fs/cgroup/a.slice/b.service/cpu.max", "150000 100000\n");
  machine.put("/sys/fs/cgroup/a.slice/cpu.max", "40000 20000\n");
  EXPECT_EQ(machine.limits().cpus, 1.5);
  machine.put("/sys/fs/cgroup/a.slice/cpu.max", "10000 20000\n");
  EXPECT_EQ(machine.limits().cpus, 0.5);

  machine.put("/sys/fs/cgroup/a.slice/b.service/c/memory.max", "max\n");
  machine.put("/sys/fs/cgroup/a.slice/b.service/c/memory.current", "5000\n");
  EXPECT_EQ(machine.limits().memory_left_bytes, std::nullopt);
  machine.put("/sys/fs/cgroup/a.slice/memory.max", "1000000\n");
  machine.put("/sys/fs/cgroup/a.slice/memory.current", "700000\n");
  machine.put("/sys/fs/cgroup/a.slice/memory.stat",
              "anon 600000\ninactive_file 50000\nfile 80000\n");
  EXPECT_EQ(machine.limits().memory_left_bytes, 350000U);
}

TEST(Cgroup, v1_takes_each_controller_from_its_own_hierarchy) {
  Machine machine;
  machine.put("/proc/self/mountinfo", kV1);
  machine.put("/proc/self/cgroup", "9:name=systemd:/s\n4:memory:/m/n\n1:cpu,cpuacct:/c\n0::/\n");
  machine.put("/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "250000\n");
  machine.put("/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us", "100000\n");
  machine.put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  machine.put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  // Not ours: it lies at the path of another controller.
  machine.put("/sys/fs/cgroup/cpu,cpuacct/m/n/cpu.cfs_quota_us", "1000\n");
  machine.put("/sys/fs/cgroup/cpu,cpuacct/m/n/cpu.cfs_period_us", "100000\n");
  machine.put("/sys/fs/cgroup/memory/m/n/memory.limit_in_bytes", "9223372036854771712\n");
  machine.put("/sys/fs/cgroup/memory/m/n/memory.usage_in_bytes", "77\n");
  machine.put("/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "4096\n");
  machine.put("/sys/fs/cgroup/memory/m/memory.usage_in_bytes", "4000\n");
  machine.put("/sys/fs/cgroup/memory/m/memory.stat", "inactive_file 7\ntotal_inactive_file 100\n");
  EXPECT_EQ(machine.limits(), (CgroupLimits{2.5, 196U}));
}

TEST(Cgroup, finds_a_containers_own_group_where_that_is_what_is_mounted) {
  Machine machine;
  // Without a namespace of its own a container sees the host's path, of which only the end is
  // mounted.
  machine.put("/proc/self/mountinfo",
              "32 31 0:29 /docker/x\\040y /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n");
  machine.put("/proc/self/cgroup", "1:cpu:/docker/x y/inner\n");
  machine.put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n");
  machine.put("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "50000\n");
  EXPECT_EQ(machine.limits().cpus, 2.0);
  machine.put("/sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "50000\n");
  machine.put("/sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "50000\n");
  EXPECT_EQ(machine.limits().cpus, 1.0);
  for (const char* elsewhere : {"1:cpu:/docker/x yz\n", "1:cpu:/../other\n", "1:cpu:/\n"}) {
    machine.put("/proc/self/cgroup", elsewhere);
    EXPECT_EQ(machine.limits().cpus, 2.0) << elsewhere;
  }
}

TEST(Cgroup, takes_no_other_group_that_is_mounted_elsewhere_for_its_own) {
  Machine machine;
  const std::string v2 = "41 24 0:30 /other /mnt/other rw - cgroup2 cgroup2 rw\n" +
                         std::string(kV2) +
                         "42 24 0:30 /mine/inner /mnt/inner rw - cgroup2 cgroup2 rw\n";
  const std::string v1 =
      "43 31 0:29 /other /mnt/other rw - cgroup cgroup rw,cpu,cpuacct\n" + std::string(kV1);
  machine.put("/mnt/other/cpu.max", "10000 100000\n");
  machine.put("/mnt/other/cpu.cfs_quota_us", "20000\n");
  machine.put("/mnt/other/cpu.cfs_period_us", "100000\n");
  machine.put("/mnt/inner/cpu.max", "30000 100000\n");
  machine.put("/sys/fs/cgroup/mine/cpu.max", "200000 100000\n");
  machine.put("/sys/fs/cgroup/cpu,cpuacct/mine/cpu.cfs_quota_us", "300000\n");
  machine.put("/sys/fs/cgroup/cpu,cpuacct/mine/cpu.cfs_period_us", "100000\n");
  machine.put("/proc/self/mountinfo", v2);
  machine.put("/proc/self/cgroup", "0::/mine\n");
  EXPECT_EQ(machine.limits().cpus, 2.0);
  machine.put("/proc/self/mountinfo", v1);
  machine.put("/proc/self/cgroup", "1:cpu,cpuacct:/mine\n");
  EXPECT_EQ(machine.limits().cpus, 3.0);
  // Another hierarchy's mount says nothing of this one's.
  machine.put("/proc/self/mountinfo",
              "41 24 0:30 /here /mnt/other rw - cgroup2 cgroup2 rw\n" + std::string(kV1));
  machine.put("/proc/self/cgroup", "1:cpu,cpuacct:/mine\n0::/there\n");
  EXPECT_EQ(machine.limits().cpus, 0.1);
}

TEST(Cgroup, overlooks_what_cannot_be_read) {
  Machine machine;
  machine.put("/proc/self/mountinfo", std::string("35 24\n\n35 24 0:30 / /x - cgroup2\n") + kV2);
  machine.put("/proc/self/cgroup", "nonsense\n0:\n0::/a\n");
  for (const char* text : {"", "max", "12", "12 0", "x y", "99999999999999999999999 1"}) {
    machine.put("/sys/fs/cgroup/a/cpu.max", text);
    EXPECT_EQ(machine.limits(), CgroupLimits()) << text;
  }
  machine.put("/sys/fs/cgroup/a/memory.max", "10\n");
  machine.put("/sys/fs/cgroup/a/memory.current", "12\n");
  machine.put("/sys/fs/cgroup/a/memory.stat", "inactive_file\n");
  EXPECT_EQ(machine.limits().memory_left_bytes, 0U);
  machine.put("/sys/fs/cgroup/a/memory.stat", "inactive_file 99\n");
  EXPECT_EQ(machine.limits().memory_left_bytes, 10U);
}

TEST(AvailableMemory, is_the_least_of_the_machine_and_its_groups) {
  Machine machine;
  EXPECT_EQ(memory_available_bytes(machine.root()), std::nullopt);
  machine.put("/proc/meminfo", "MemTotal: 900 kB\nHugePages_Total: 0\nMemAvailable:   300 kB\n");
  EXPECT_EQ(memory_available_bytes(machine.root()), 300U * 1024);
  machine.put("/proc/self/mountinfo", kV2);
  machine.put("/proc/self/cgroup", "0::/\n");
  machine.put("/sys/fs/cgroup/memory.max", "200000\n");
  machine.put("/sys/fs/cgroup/memory.current", "1\n");
  EXPECT_EQ(memory_available_bytes(machine.root()), 199999U);
  machine.put("/sys/fs/cgroup/memory.max", "2000000\n");
  EXPECT_EQ(memory_available_bytes(machine.root()), 300U * 1024);
}

TEST(AvailableMemory, is_said_by_this_machine) {
  const auto bytes = memory_available_bytes();
  ASSERT_TRUE(bytes.has_value());
  EXPECT_GT(*bytes, 0U);
}

TEST(CpuCount, is_bounded_by_quota_and_never_zero) {
  EXPECT_EQ(usable_cpu_count(8, std::nullopt), 8U);
  EXPECT_EQ(usable_cpu_count(8, 100.0), 8U);
  EXPECT_EQ(usable_cpu_count(8, 3.0), 3U);
  EXPECT_EQ(usable_cpu_count(8, 2.1), 3U);
  EXPECT_EQ(usable_cpu_count(8, 0.01), 1U);
  EXPECT_EQ(usable_cpu_count(8, 0.0), 1U);
  EXPECT_EQ(usable_cpu_count(0, std::nullopt), 1U);
}

TEST(CpuCount, follows_the_affinity_of_the_thread) {
  std::size_t bound = 0;
  std::thread([&bound] {
    cpu_set_t all;
    ASSERT_EQ(::sched_getaffinity(0, sizeof(all), &all), 0);
    cpu_set_t one;
    CPU_ZERO(&one);
    for (std::size_t cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu) {
      if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
    }
    ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
    bound = usable_cpu_count();
  }).join();
  EXPECT_EQ(bound, 1U);
  EXPECT_GE(usable_cpu_count(), 1U);
}

}  // namespace
}  // namespace airlock
