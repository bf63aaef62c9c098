#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "runtime/rpc/endpoint.h"
#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

namespace fs = std::filesystem;

/// Of a type of socket, as processes leave or hold them.
enum class Life { kDead, kBound, kListening };

class EndpointLockTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return temp_.file(name); }
  std::string content(const std::string& name) const { return read_all(path(name)); }
  void touch(const std::string& name, const std::string& text = "") const {
    std::ofstream(path(name)) << text;
  }
  Result<EndpointLock> acquire(const std::string& name = "ctl") const {
    return EndpointLock::acquire(path(name));
  }
  /// A socket at `name`; keep what is returned.
  UniqueFd make_socket(const std::string& name, int type, Life life) const {
    UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::ranges::copy(path(name), address.sun_path);
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0)
        << std::strerror(errno);
    if (life == Life::kDead) return {};
    if (life == Life::kListening) {
      EXPECT_EQ(::listen(fd.get(), 1), 0);
    }
    return fd;
  }
  static void expect_refused(const Result<EndpointLock>& lock, StatusCode code,
                             const std::string& word) {
    ASSERT_FALSE(lock.ok());
    EXPECT_EQ(lock.status().code(), code) << lock.status().to_string();
    EXPECT_NE(lock.status().message().find(word), std::string::npos) << lock.status().to_string();
  }
  TempDir temp_;
};

TEST_F(EndpointLockTest, writes_the_pid_into_the_file_and_removes_it) {
  {
    auto lock = acquire();
    ASSERT_TRUE(lock.ok()) << lock.status().to_string();
    EXPECT_EQ(content("ctl.lock"), std::to_string(::getpid()) + "\n");
  }
  EXPECT_FALSE(fs::exists(path("ctl.lock")));
}

TEST_F(EndpointLockTest, names_the_holder) {
  auto first = acquire();
  ASSERT_TRUE(first.ok());
  expect_refused(acquire(), StatusCode::kInUse, "pid " + std::to_string(::getpid()));
  EXPECT_TRUE(fs::exists(path("ctl.lock")));
}

TEST_F(EndpointLockTest, is_of_one_name_in_the_directory) {
  auto first = acquire();
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(acquire("ctl2").ok());
}

TEST_F(EndpointLockTest, lives_on_where_it_is_moved) {
  EndpointLock kept;
  {
    auto lock = acquire();
    ASSERT_TRUE(lock.ok());
    kept = std::move(lock).value();
  }
  EXPECT_TRUE(fs::exists(path("ctl.lock")));
  EXPECT_EQ(acquire().status().code(), StatusCode::kInUse);
}

TEST_F(EndpointLockTest, of_a_dead_server_is_taken_over) {
  const pid_t child = ::fork();
  if (child == 0) {
    auto lock = acquire();
    ::_exit(lock.ok() ? 0 : 1);  // no destructor runs: as killed
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  ASSERT_EQ(content("ctl.lock"), std::to_string(child) + "\n");
  auto lock = acquire();
  ASSERT_TRUE(lock.ok()) << lock.status().to_string();
  EXPECT_EQ(content("ctl.lock"), std::to_string(::getpid()) + "\n");
}

TEST_F(EndpointLockTest, goes_to_one_of_those_that_start_at_once) {
  constexpr int kServers = 8;
  for (int round = 0; round < 20; ++round) {
    int go[2];
    int won[2];
    int end[2];
    ASSERT_EQ(::pipe(go) | ::pipe(won) | ::pipe(end), 0);
    for (int i = 0; i < kServers; ++i) {
      if (::fork() != 0) continue;
      ::close(go[1]);
      ::close(end[1]);
      char byte = 0;
      (void)!::read(go[0], &byte, 1);  // until the parent closes it
      auto lock = acquire();
      byte = lock.ok() ? 'y' : lock.status().code() == StatusCode::kInUse ? 'n' : '?';
      (void)!::write(won[1], &byte, 1);
      (void)!::read(end[0], &byte, 1);
      ::_exit(0);
    }
    ::close(go[1]);
    std::string answers(kServers, ' ');
    for (char& answer : answers) ASSERT_EQ(::read(won[0], &answer, 1), 1);
    ::close(end[1]);
    for (int i = 0; i < kServers; ++i) ::wait(nullptr);
    for (const int fd : {go[0], won[0], won[1], end[0]}) ::close(fd);
    EXPECT_EQ(std::ranges::count(answers, 'y'), 1) << answers;
    EXPECT_EQ(std::ranges::count(answers, 'n'), kServers - 1) << answers;
  }
}

TEST_F(EndpointLockTest, holds_though_somebody_removes_its_file) {
  auto first = acquire();
  ASSERT_TRUE(first.ok());
  fs::remove(path("ctl.lock"));
  expect_refused(acquire(), StatusCode::kInUse, path("ctl"));
  EXPECT_TRUE(first->still_ours().ok());
  EXPECT_EQ(content("ctl.lock"), std::to_string(::getpid()) + "\n");
  expect_refused(acquire(), StatusCode::kInUse, "pid " + std::to_string(::getpid()));
}

TEST_F(EndpointLockTest, holds_by_every_spelling_of_the_directory) {
  fs::create_directories(path("real/ours"));
  ::chmod(path("real/ours").c_str(), 0700);
  fs::create_symlink(path("real"), path("link"));
  auto first = acquire("real/ours/ctl");
  ASSERT_TRUE(first.ok()) << first.status().to_string();
  for (const char* spelling : {"link/ours/ctl", "real/../real/ours/ctl", "link/ours/../ours/ctl"}) {
    expect_refused(acquire(spelling), StatusCode::kInUse, "pid");
    fs::remove(path("real/ours/ctl.lock"));
    expect_refused(acquire(spelling), StatusCode::kInUse, "lock file");
    ASSERT_TRUE(first->still_ours().ok());
  }
}

TEST_F(EndpointLockTest, takes_no_directory_that_is_a_link_or_others_can_write) {
  fs::create_directory(path("real"));
  ::chmod(path("real").c_str(), 0700);
  fs::create_symlink(path("real"), path("link"));
  EXPECT_EQ(acquire("link/ctl").status().code(), StatusCode::kInvalidInput);
  ::chmod(path("real").c_str(), 0770);
  expect_refused(acquire("real/ctl"), StatusCode::kInvalidInput, "mode 0770");
}

TEST_F(EndpointLockTest, survives_junk_in_a_held_file) {
  auto first = acquire();
  ASSERT_TRUE(first.ok());
  touch("ctl.lock", std::string(1000, 'x'));
  EXPECT_EQ(acquire().status().code(), StatusCode::kInUse);
}

TEST_F(EndpointLockTest, follows_no_link_to_its_file) {
  touch("victim", "precious");
  fs::create_symlink(path("victim"), path("ctl.lock"));
  EXPECT_EQ(acquire().status().code(), StatusCode::kInvalidInput);
  EXPECT_EQ(content("victim"), "precious");
}

TEST_F(EndpointLockTest, takes_nothing_but_a_file_for_its_file) {
  ASSERT_EQ(::mkfifo(path("ctl.lock").c_str(), 0600), 0);
  expect_refused(acquire(), StatusCode::kInvalidInput, "in the way");
  EXPECT_TRUE(fs::exists(path("ctl.lock")));
}

TEST_F(EndpointLockTest, makes_its_file_with_mode_0600_whatever_the_umask) {
  for (const mode_t mask : {0000U, 0177U, 0777U}) {
    const mode_t before = ::umask(mask);
    auto lock = acquire();
    ::umask(before);
    ASSERT_TRUE(lock.ok()) << lock.status().to_string();
    struct stat info {};
    ASSERT_EQ(::stat(path("ctl.lock").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777U, 0600U);
  }
}

TEST_F(EndpointLockTest, removes_a_dead_servers_socket) {
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    make_socket("ctl", type, Life::kDead);
    auto lock = acquire();
    EXPECT_TRUE(lock.ok()) << lock.status().to_string();
    EXPECT_FALSE(fs::exists(path("ctl")));
  }
}

TEST_F(EndpointLockTest, leaves_a_socket_that_somebody_has) {
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    for (const Life life : {Life::kBound, Life::kListening}) {
      const UniqueFd somebody = make_socket("ctl", type, life);
      expect_refused(acquire(), StatusCode::kInUse, path("ctl"));
      EXPECT_FALSE(fs::exists(path("ctl.lock")));
      // It was asked without a connection.
      EXPECT_LT(::accept4(somebody.get(), nullptr, nullptr, SOCK_CLOEXEC), 0);
      fs::remove(path("ctl"));
    }
  }
}

TEST_F(EndpointLockTest, leaves_what_is_no_socket) {
  touch("ctl", "precious");
  expect_refused(acquire(), StatusCode::kInvalidInput, "in the way");
  EXPECT_EQ(content("ctl"), "precious");
  fs::remove(path("ctl"));
  make_socket("dead", SOCK_STREAM, Life::kDead);
  fs::create_symlink("dead", path("ctl"));
  expect_refused(acquire(), StatusCode::kInvalidInput, "in the way");
  EXPECT_TRUE(fs::exists(fs::symlink_status(path("dead"))));
}

TEST_F(EndpointLockTest, removes_its_own_socket_and_no_other) {
  auto lock = acquire();
  ASSERT_TRUE(lock.ok());
  EXPECT_EQ(lock->own_socket().code(), StatusCode::kUnavailable);
  {
    const UniqueFd own = make_socket("ctl", SOCK_SEQPACKET, Life::kListening);
    ASSERT_TRUE(lock->own_socket().ok());
    lock->remove_files();
    EXPECT_TRUE(fs::is_empty(temp_.path()));
    EXPECT_EQ(acquire().status().code(), StatusCode::kInUse);  // held to the end
    const UniqueFd next = make_socket("ctl", SOCK_SEQPACKET, Life::kListening);
    touch("ctl.lock");
    lock->remove_files();
    EXPECT_TRUE(fs::exists(path("ctl")));
  }
  lock = EndpointLock();
  EXPECT_TRUE(fs::exists(path("ctl")));
  EXPECT_TRUE(fs::exists(path("ctl.lock")));
}

TEST_F(EndpointLockTest, removes_no_socket_that_took_its_own_ones_place) {
  auto lock = acquire();
  ASSERT_TRUE(lock.ok());
  const UniqueFd own = make_socket("ctl", SOCK_SEQPACKET, Life::kListening);
  ASSERT_TRUE(lock->own_socket().ok());
  EXPECT_TRUE(lock->still_ours().ok());
  fs::remove(path("ctl"));
  EXPECT_EQ(lock->still_ours().code(), StatusCode::kUnavailable);
  const UniqueFd other = make_socket("ctl", SOCK_SEQPACKET, Life::kListening);
  EXPECT_EQ(lock->still_ours().code(), StatusCode::kUnavailable);
  lock = EndpointLock();
  EXPECT_TRUE(fs::exists(path("ctl")));
}

TEST_F(EndpointLockTest, leaves_the_next_servers_files_where_the_directory_was_replaced) {
  const auto make_directory = [&] {
    fs::create_directory(path("run"));
    ::chmod(path("run").c_str(), 0700);
  };
  make_directory();
  auto first = acquire("run/ctl");
  const UniqueFd first_socket = make_socket("run/ctl", SOCK_STREAM, Life::kListening);
  ASSERT_TRUE(first->own_socket().ok());
  fs::remove_all(path("run"));
  EXPECT_EQ(first->still_ours().code(), StatusCode::kUnavailable);
  make_directory();
  EXPECT_EQ(first->still_ours().code(), StatusCode::kUnavailable);
  auto second = acquire("run/ctl");
  ASSERT_TRUE(second.ok()) << second.status().to_string();
  const UniqueFd second_socket = make_socket("run/ctl", SOCK_STREAM, Life::kListening);
  ASSERT_TRUE(second->own_socket().ok());
  first = EndpointLock();
  EXPECT_TRUE(second->still_ours().ok());
  EXPECT_TRUE(fs::exists(path("run/ctl")));
  EXPECT_TRUE(fs::exists(path("run/ctl.lock")));
}

TEST_F(EndpointLockTest, sweeps_dead_sockets_of_its_sessions_and_nothing_else) {
  std::vector<UniqueFd> held;
  const std::vector<std::string> stale{"ctl.00000000", "ctl.deadbeef", "ctl.0123abcd"};
  for (const std::string& name : stale) make_socket(name, SOCK_STREAM, Life::kDead);
  const std::vector<std::string> others{
      "ctl",          "ctl.lock",    "ctl.deadbee",   "ctl.deadbeef0", "ctl.DEADBEEF",
      "ctl.deadbeeg", "ct.deadbeef", "xctl.deadbeef", "ctl-deadbeef",  "sdeadbeef"};
  for (const std::string& name : others) make_socket(name, SOCK_STREAM, Life::kDead);
  held.push_back(make_socket("ctl.00000001", SOCK_STREAM, Life::kListening));
  held.push_back(make_socket("ctl.00000002", SOCK_SEQPACKET, Life::kListening));
  held.push_back(make_socket("ctl.00000003", SOCK_STREAM, Life::kBound));
  touch("ctl.00000004");
  fs::create_symlink("ctl", path("ctl.00000005"));
  fs::create_directory(path("ctl.00000006"));
  sweep_session_sockets(path("ctl"));
  for (const std::string& name : stale) EXPECT_FALSE(fs::exists(path(name))) << name;
  for (const std::string& name : others) EXPECT_TRUE(fs::exists(path(name))) << name;
  for (char i = '1'; i <= '6'; ++i)
    EXPECT_TRUE(fs::exists(path(std::string("ctl.0000000") + i))) << i;
}

TEST_F(EndpointLockTest, sweeps_short_names_where_only_they_fit) {
  const std::string directory = std::string(107 - temp_.path().string().size() - 7, 'd');
  fs::create_directory(path(directory));
  const auto short_name = session_socket_path(path(directory + "/ctl"), 0xabcdef12);
  ASSERT_TRUE(short_name.ok());
  const std::string name = directory + "/" + fs::path(*short_name).filename().string();
  ASSERT_EQ(name[directory.size() + 1], 's');
  make_socket(name, SOCK_STREAM, Life::kDead);
  make_socket(directory + "/sx", SOCK_STREAM, Life::kDead);
  sweep_session_sockets(path(directory + "/ctl"));
  EXPECT_FALSE(fs::exists(path(name)));
  EXPECT_TRUE(fs::exists(path(directory + "/sx")));
}

TEST_F(EndpointLockTest, sweeps_nothing_where_there_is_no_directory) {
  sweep_session_sockets(path("missing/ctl"));
}

}  // namespace
}  // namespace airlock
