#include "runtime/rpc/endpoint.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace airlock {
namespace {

namespace fs = std::filesystem;

TEST(Endpoint, parses_an_absolute_ipc_path) {
  auto endpoint = parse_endpoint("ipc:///run/user/1000/airlock/ctl");
  ASSERT_TRUE(endpoint.ok());
  EXPECT_EQ(endpoint->kind, Endpoint::Kind::kIpc);
  EXPECT_EQ(endpoint->path, "/run/user/1000/airlock/ctl");
  EXPECT_EQ(endpoint->directory(), "/run/user/1000/airlock");
  EXPECT_EQ(endpoint->text(), "ipc:///run/user/1000/airlock/ctl");
  EXPECT_TRUE(endpoint->is_loopback());
}

TEST(Endpoint, takes_107_bytes_of_path_and_refuses_108) {
  const std::string longest = "/" + std::string(106, 'a');
  EXPECT_TRUE(parse_endpoint("ipc://" + longest).ok());
  const auto longer = parse_endpoint("ipc://" + longest + "a");
  ASSERT_FALSE(longer.ok());
  EXPECT_EQ(longer.status().code(), StatusCode::kUsage);
  EXPECT_NE(longer.status().message().find("108"), std::string::npos);
}

TEST(Endpoint, parses_tcp) {
  auto endpoint = parse_endpoint("tcp://127.0.0.1:5555");
  ASSERT_TRUE(endpoint.ok());
  EXPECT_EQ(endpoint->kind, Endpoint::Kind::kTcp);
  EXPECT_EQ(endpoint->host, "127.0.0.1");
  EXPECT_EQ(endpoint->port, "5555");
  EXPECT_EQ(endpoint->text(), "tcp://127.0.0.1:5555");
  for (const char* good :
       {"tcp://localhost:0", "tcp://[::1]:65535", "tcp://*:*", "tcp://host.example:1"}) {
    EXPECT_TRUE(parse_endpoint(good).ok()) << good;
  }
}

TEST(Endpoint, knows_what_other_machines_can_reach) {
  for (const char* loopback : {"ipc:///a", "tcp://127.0.0.1:1", "tcp://127.1.2.3:1",
                               "tcp://localhost:1", "tcp://[::1]:1"}) {
    EXPECT_TRUE(parse_endpoint(loopback)->is_loopback()) << loopback;
  }
  for (const char* open :
       {"tcp://*:1", "tcp://0.0.0.0:1", "tcp://192.168.0.1:1", "tcp://[::]:1", "tcp://eth0:1"}) {
    EXPECT_FALSE(parse_endpoint(open)->is_loopback()) << open;
  }
}

TEST(Endpoint, takes_no_host_name_that_only_starts_like_loopback) {
  EXPECT_FALSE(parse_endpoint("tcp://127.evil.example:1")->is_loopback());
  EXPECT_FALSE(parse_endpoint("tcp://localhost.evil.example:1")->is_loopback());
}

TEST(Endpoint, refuses_everything_else_as_usage) {
  for (const char* bad : {"",
                          "ctl",
                          "/tmp/ctl",
                          "ipc://",
                          "ipc://relative",
                          "ipc://./ctl",
                          "ipc:///tmp/dir/",
                          "ipc:///",
                          "ipc://@abstract",
                          "ipc://*",
                          "inproc://a",
                          "udp://1.2.3.4:5",
                          "tcp://",
                          "tcp://host",
                          "tcp://:5555",
                          "tcp://host:",
                          "tcp://host:65536",
                          "tcp://host:99999",
                          "tcp://host:123456",
                          "tcp://host:-1",
                          "tcp://host:5x",
                          "tcp://host: 5",
                          "TCP://host:5"}) {
    const auto endpoint = parse_endpoint(bad);
    ASSERT_FALSE(endpoint.ok()) << bad;
    EXPECT_EQ(endpoint.status().code(), StatusCode::kUsage) << bad;
    EXPECT_NE(endpoint.status().message().find(bad), std::string::npos);
  }
}

TEST(SessionSocket, lies_beside_the_control_socket_and_fits_a_unix_socket) {
  EXPECT_EQ(session_socket_path("/tmp/a/ctl", 0xbeef).value(), "/tmp/a/ctl.0000beef");
  for (std::size_t bytes = 90; bytes <= 107; ++bytes) {  // of the control socket's path
    const std::string directory = "/tmp/d/";
    const std::string control = directory + std::string(bytes - directory.size(), 'c');
    const std::string path = session_socket_path(control, 0x12345678).value();
    EXPECT_LE(path.size(), 107U);
    EXPECT_TRUE(path.starts_with(directory));
    EXPECT_NE(path, control);
  }
}

TEST(SessionSocket, has_no_place_in_a_directory_that_takes_all_the_room) {
  const std::string directory = "/" + std::string(105, 'd') + "/";  // 107 bytes
  EXPECT_EQ(session_socket_path(directory + "c", 1).status().code(), StatusCode::kUsage);
}

class EndpointFiles : public ::testing::Test {
 protected:
  EndpointFiles() {
    std::string name = "/tmp/airlock-endpoint-XXXXXX";
    directory_ = ::mkdtemp(name.data());
  }
  ~EndpointFiles() override { fs::remove_all(directory_); }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  void touch(const std::string& name, const std::string& text = "") const {
    std::ofstream(path(name)) << text;
  }
  std::string content(const std::string& name) const {
    std::ifstream file(path(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static void expect_refused(const std::string& directory, const std::string& word) {
    for (const IfMissing if_missing : {IfMissing::kCreate, IfMissing::kRefuse}) {
      const Status status = check_endpoint_directory(directory, if_missing);
      EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
      EXPECT_NE(status.message().find(word), std::string::npos) << status.to_string();
      EXPECT_NE(status.message().find(directory), std::string::npos) << status.to_string();
    }
  }
  std::string directory_;
};

TEST_F(EndpointFiles, takes_a_directory_of_our_own) {
  EXPECT_TRUE(check_endpoint_directory(directory_, IfMissing::kRefuse).ok());
  EXPECT_TRUE(check_endpoint_directory(directory_, IfMissing::kCreate).ok());
}

TEST_F(EndpointFiles, makes_a_missing_directory_with_mode_0700) {
  ASSERT_TRUE(check_endpoint_directory(path("new"), IfMissing::kCreate).ok());
  struct stat info {};
  ASSERT_EQ(::stat(path("new").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777U, 0700U);
}

TEST_F(EndpointFiles, makes_one_directory_and_not_its_parents) {
  const Status status = check_endpoint_directory(path("a/b"), IfMissing::kCreate);
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  EXPECT_NE(status.message().find(path("a/b")), std::string::npos);
}

TEST_F(EndpointFiles, says_no_server_where_the_directory_is_missing) {
  EXPECT_EQ(check_endpoint_directory(path("new"), IfMissing::kRefuse).code(),
            StatusCode::kUnavailable);
  EXPECT_FALSE(fs::exists(path("new")));
}

TEST_F(EndpointFiles, refuses_a_link_to_a_good_directory) {
  fs::create_directory(path("real"));
  ::chmod(path("real").c_str(), 0700);
  fs::create_symlink(path("real"), path("link"));
  expect_refused(path("link"), "link");
}

TEST_F(EndpointFiles, refuses_a_dangling_link) {
  fs::create_symlink(path("nowhere"), path("link"));
  expect_refused(path("link"), "link");
  EXPECT_FALSE(fs::exists(path("nowhere")));
}

TEST_F(EndpointFiles, refuses_a_file) {
  touch("file");
  expect_refused(path("file"), "not a directory");
}

TEST_F(EndpointFiles, refuses_any_other_mode) {
  fs::create_directory(path("open"));
  for (const mode_t mode : {0755, 0777, 0701, 0710, 0500}) {
    ::chmod(path("open").c_str(), mode);
    expect_refused(path("open"), "mode");
  }
}

TEST_F(EndpointFiles, refuses_another_users_directory) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give a directory away";
  fs::create_directory(path("theirs"));
  ::chmod(path("theirs").c_str(), 0700);
  ASSERT_EQ(::chown(path("theirs").c_str(), 12345, 12345), 0);
  expect_refused(path("theirs"), "12345");
}

TEST_F(EndpointFiles, writes_the_pid_into_the_lock_and_removes_it) {
  {
    auto lock = EndpointLock::acquire(path("ctl"));
    ASSERT_TRUE(lock.ok()) << lock.status().to_string();
    EXPECT_EQ(content("ctl.lock"), std::to_string(::getpid()) + "\n");
  }
  EXPECT_FALSE(fs::exists(path("ctl.lock")));
}

TEST_F(EndpointFiles, names_the_holder_of_a_held_lock) {
  auto first = EndpointLock::acquire(path("ctl"));
  ASSERT_TRUE(first.ok());
  auto second = EndpointLock::acquire(path("ctl"));
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), StatusCode::kInUse);
  EXPECT_NE(second.status().message().find("pid " + std::to_string(::getpid())), std::string::npos)
      << second.status().to_string();
  EXPECT_TRUE(fs::exists(path("ctl.lock")));
}

TEST_F(EndpointFiles, keeps_a_moved_lock) {
  EndpointLock kept;
  {
    auto lock = EndpointLock::acquire(path("ctl"));
    ASSERT_TRUE(lock.ok());
    kept = std::move(lock).value();
  }
  EXPECT_TRUE(fs::exists(path("ctl.lock")));
  EXPECT_EQ(EndpointLock::acquire(path("ctl")).status().code(), StatusCode::kInUse);
}

TEST_F(EndpointFiles, takes_over_a_dead_servers_lock) {
  const pid_t child = ::fork();
  if (child == 0) {
    auto lock = EndpointLock::acquire(path("ctl"));
    ::_exit(lock.ok() ? 0 : 1);  // no destructor runs: as killed
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  ASSERT_EQ(content("ctl.lock"), std::to_string(child) + "\n");
  auto lock = EndpointLock::acquire(path("ctl"));
  ASSERT_TRUE(lock.ok()) << lock.status().to_string();
  EXPECT_EQ(content("ctl.lock"), std::to_string(::getpid()) + "\n");
}

TEST_F(EndpointFiles, survives_junk_in_a_held_lock) {
  auto first = EndpointLock::acquire(path("ctl"));
  ASSERT_TRUE(first.ok());
  touch("ctl.lock", std::string(1000, 'x'));
  EXPECT_EQ(EndpointLock::acquire(path("ctl")).status().code(), StatusCode::kInUse);
}

TEST_F(EndpointFiles, follows_no_link_to_a_lock) {
  touch("victim", "precious");
  fs::create_symlink(path("victim"), path("ctl.lock"));
  EXPECT_EQ(EndpointLock::acquire(path("ctl")).status().code(), StatusCode::kInvalidInput);
  EXPECT_EQ(content("victim"), "precious");
}

TEST_F(EndpointFiles, sweeps_session_sockets_and_nothing_else) {
  const std::vector<std::string> stale{"ctl.00000000", "ctl.deadbeef", "ctl.0123abcd"};
  const std::vector<std::string> others{
      "ctl",          "ctl.lock",       "ctl.deadbee",   "ctl.deadbeef0", "ctl.DEADBEEF",
      "ctl.deadbeeg", "other.deadbeef", "xctl.deadbeef", "ctl-deadbeef"};
  for (const std::string& name : stale) touch(name);
  for (const std::string& name : others) touch(name);
  sweep_session_sockets(path("ctl"));
  for (const std::string& name : stale) EXPECT_FALSE(fs::exists(path(name))) << name;
  for (const std::string& name : others) EXPECT_TRUE(fs::exists(path(name))) << name;
}

TEST_F(EndpointFiles, sweeps_nothing_where_there_is_no_directory) {
  sweep_session_sockets(path("missing/ctl"));
}

class DefaultEndpoint : public ::testing::Test {
 protected:
  DefaultEndpoint() {
    const char* old = std::getenv("XDG_RUNTIME_DIR");
    had_ = old != nullptr;
    old_ = had_ ? old : "";
  }
  ~DefaultEndpoint() override {
    had_ ? ::setenv("XDG_RUNTIME_DIR", old_.c_str(), 1) : ::unsetenv("XDG_RUNTIME_DIR");
  }
  bool had_ = false;
  std::string old_;
};

TEST_F(DefaultEndpoint, lies_in_the_runtime_directory) {
  ::setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
  EXPECT_EQ(default_endpoint().text(), "ipc:///run/user/7/airlock/ctl");
}

TEST_F(DefaultEndpoint, else_lies_in_tmp_by_user) {
  const std::string want = "ipc:///tmp/airlock-" + std::to_string(::getuid()) + "/ctl";
  ::unsetenv("XDG_RUNTIME_DIR");
  EXPECT_EQ(default_endpoint().text(), want);
  ::setenv("XDG_RUNTIME_DIR", "relative", 1);
  EXPECT_EQ(default_endpoint().text(), want);
}

}  // namespace
}  // namespace airlock
