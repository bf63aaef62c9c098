#include "runtime/rpc/endpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/safe_text.h"
#include "tests/support/temp_dir.h"

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

TEST(Endpoint, holds_nothing_that_drives_a_terminal_or_ends_a_c_string) {
  using std::string_literals::operator""s;
  for (const std::string& text :
       {"ipc:///tmp/a\0b"s, "ipc:///tmp/\x1b[2J"s, "tcp://\xc2\x9b:1"s, "no\nendpoint"s}) {
    const auto endpoint = parse_endpoint(text);
    EXPECT_EQ(endpoint.status().code(), StatusCode::kUsage);
    EXPECT_FALSE(has_controls(endpoint.status().message())) << endpoint.status().message();
  }
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
                          "ipc:///tmp/dir/.",
                          "ipc:///tmp/dir/..",
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

TEST(Endpoint, drops_what_means_nothing_in_a_path_and_keeps_what_may) {
  EXPECT_EQ(parse_endpoint("ipc:////tmp//a/./b/.//ctl")->text(), "ipc:///tmp/a/b/ctl");
  EXPECT_EQ(parse_endpoint("ipc:///tmp/a/../b/.../ctl")->path, "/tmp/a/../b/.../ctl");
  EXPECT_EQ(parse_endpoint("ipc:///tmp/link/./ctl")->directory(), "/tmp/link");
  EXPECT_EQ(parse_endpoint("ipc:///ctl")->directory(), "/");
  // 107 bytes of what is left.
  EXPECT_TRUE(parse_endpoint("ipc://" + std::string(50, '/') + std::string(106, 'a')).ok());
}

TEST(Endpoint, refuses_a_path_with_a_zero_byte) {
  using namespace std::string_view_literals;
  EXPECT_EQ(parse_endpoint("ipc:///tmp/ctl\0x"sv).status().code(), StatusCode::kUsage);
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

std::string found_by(const std::string& control, const std::string& claimed) {
  const auto endpoint = session_endpoint(parse_endpoint(control).value(), claimed);
  return endpoint.ok() ? *endpoint : std::string(name_of(endpoint.status().code()));
}

TEST(SessionEndpoint, is_the_name_beside_the_clients_own_control_socket) {
  EXPECT_EQ(found_by("ipc:///tmp/a/ctl", "ipc:///tmp/a/ctl.0000beef"), "ipc:///tmp/a/ctl.0000beef");
  // The server's spelling of the directory, as it may be in a container.
  EXPECT_EQ(found_by("ipc:///home/a/ctl", "ipc:///airlock/ctl.0000beef"),
            "ipc:///home/a/ctl.0000beef");
  EXPECT_EQ(found_by("ipc:///home/link", "ipc:///airlock/s0000beef"), "ipc:///home/s0000beef");
  EXPECT_EQ(found_by("ipc:///link", "ipc:///airlock/sa"), "ipc:///sa");
}

TEST(SessionEndpoint, is_the_claimed_port_of_the_clients_own_host) {
  EXPECT_EQ(found_by("tcp://gpu:5", "tcp://0.0.0.0:77"), "tcp://gpu:77");
  EXPECT_EQ(found_by("tcp://gpu:5", "tcp://evil.example:77"), "tcp://gpu:77");
}

TEST(SessionEndpoint, is_never_anything_but_a_sessions) {
  const std::string refused(name_of(StatusCode::kProtocolError));
  for (const char* claimed :
       {"ipc:///tmp/a/ctl", "ipc:///tmp/a/ctl.lock", "ipc:///tmp/a/ctl.0000BEEF",
        "ipc:///tmp/a/ctl.0000beef/x", "ipc:///tmp/a/.0000beef", "ipc:///tmp/a/s",
        "ipc:///tmp/a/sx", "ipc:///tmp/a/s0000beef0", "ipc://ctl.0000beef", "tcp://127.0.0.1:1",
        "junk", ""}) {
    EXPECT_EQ(found_by("ipc:///tmp/a/ctl", claimed), refused) << claimed;
  }
  EXPECT_EQ(found_by("tcp://gpu:5", "ipc:///tmp/a/ctl.0000beef"), refused);
}

TEST(SessionEndpoint, asks_for_a_shorter_spelling_where_the_clients_is_too_long) {
  const std::string directory = "/" + std::string(98, 'd');
  EXPECT_EQ(found_by("ipc://" + directory + "/ctl", "ipc:///a/ctl.0000beef"),
            name_of(StatusCode::kUsage));
}

class EndpointFiles : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return temp_.file(name); }
  void touch(const std::string& name) const { std::ofstream(path(name)).flush(); }
  static void expect_refused(const std::string& directory, const std::string& word) {
    for (const IfMissing if_missing : {IfMissing::kCreate, IfMissing::kRefuse}) {
      const Status status = check_endpoint_directory(directory, if_missing);
      EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
      EXPECT_NE(status.message().find(word), std::string::npos) << status.to_string();
      EXPECT_NE(status.message().find(directory), std::string::npos) << status.to_string();
    }
  }
  TempDir temp_;
  const std::string directory_ = temp_.path();
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

TEST_F(EndpointFiles, makes_it_with_mode_0700_whatever_the_umask) {
  for (const mode_t mask : {0000U, 0022U, 0177U, 0777U}) {
    const std::string directory = path("umask" + std::to_string(mask));
    const mode_t before = ::umask(mask);
    const Status status = check_endpoint_directory(directory, IfMissing::kCreate);
    ::umask(before);
    EXPECT_TRUE(status.ok()) << status.to_string();
  }
}

TEST_F(EndpointFiles, follows_a_link_in_a_parent) {
  fs::create_directory(path("real"));
  fs::create_symlink(path("real"), path("link"));
  EXPECT_TRUE(check_endpoint_directory(path("link/ours"), IfMissing::kCreate).ok());
  EXPECT_TRUE(check_endpoint_directory(path("real/ours"), IfMissing::kRefuse).ok());
  EXPECT_TRUE(check_endpoint_directory(path("link/../real/ours"), IfMissing::kRefuse).ok());
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

class DefaultEndpoint : public EndpointFiles {
 protected:
  DefaultEndpoint() {
    const char* old = std::getenv("XDG_RUNTIME_DIR");
    had_ = old != nullptr;
    old_ = had_ ? old : "";
  }
  ~DefaultEndpoint() override {
    had_ ? ::setenv("XDG_RUNTIME_DIR", old_.c_str(), 1) : ::unsetenv("XDG_RUNTIME_DIR");
  }
  /// With the variable at `value` the default endpoint's directory is refused, and it is said why.
  static void expect_named(const std::string& value, const std::string& fault, StatusCode code,
                           IfMissing if_missing) {
    ::setenv("XDG_RUNTIME_DIR", value.c_str(), 1);
    const Status status = check_endpoint_directory(default_endpoint().directory(), if_missing);
    EXPECT_EQ(status.code(), code) << status.to_string();
    for (const std::string& word : {std::string("XDG_RUNTIME_DIR is ") + value, fault,
                                    std::string("--endpoint"), std::string("nset")})
      EXPECT_NE(status.message().find(word), std::string::npos) << status.to_string();
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

TEST_F(DefaultEndpoint, is_made_in_a_runtime_directory_of_our_own) {
  ::setenv("XDG_RUNTIME_DIR", (directory_ + "/./").c_str(), 1);
  EXPECT_EQ(default_endpoint().path, path("airlock/ctl"));
  EXPECT_TRUE(check_endpoint_directory(path("airlock"), IfMissing::kCreate).ok());
}

TEST_F(DefaultEndpoint, names_the_variable_whose_directory_is_missing) {
  expect_named(path("gone"), "does not exist", StatusCode::kInvalidInput, IfMissing::kCreate);
  // To a client there is no server.
  expect_named(path("gone"), "does not exist", StatusCode::kUnavailable, IfMissing::kRefuse);
}

TEST_F(DefaultEndpoint, names_the_variable_that_is_no_directory) {
  touch("file");
  for (const IfMissing if_missing : {IfMissing::kCreate, IfMissing::kRefuse}) {
    expect_named(path("file"), "not a directory", StatusCode::kInvalidInput, if_missing);
    expect_named(path("file/below"), "Not a directory", StatusCode::kInvalidInput, if_missing);
  }
}

TEST_F(DefaultEndpoint, names_the_variable_whose_directory_is_another_users) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give a directory away";
  ASSERT_EQ(::chown(directory_.c_str(), 12345, 12345), 0);
  for (const IfMissing if_missing : {IfMissing::kCreate, IfMissing::kRefuse})
    expect_named(directory_, "user 12345", StatusCode::kInvalidInput, if_missing);
  EXPECT_FALSE(fs::exists(path("airlock")));
}

TEST_F(DefaultEndpoint, names_the_variable_that_makes_too_long_a_path) {
  ::setenv("XDG_RUNTIME_DIR", ("/" + std::string(100, 'r')).c_str(), 1);
  const Status status = parse_endpoint(default_endpoint().text()).status();
  EXPECT_EQ(status.code(), StatusCode::kUsage);
  EXPECT_NE(status.message().find("XDG_RUNTIME_DIR"), std::string::npos) << status.to_string();
}

}  // namespace
}  // namespace airlock
