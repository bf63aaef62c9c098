#include "gpu_server/cuda_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>

#include "base/check.h"
#include "base/unique_fd.h"

namespace airlock::testing {
namespace {

using ::testing::HasSubstr;

/// Not root while it lives: root may open everything.
class AsNobody {
 public:
  AsNobody() {
    if (::geteuid() == 0) was_root_ = ::seteuid(65534) == 0;
  }
  ~AsNobody() {
    if (was_root_) CHECK(::seteuid(0) == 0);
  }
  AsNobody(const AsNobody&) = delete;
  AsNobody& operator=(const AsNobody&) = delete;

 private:
  bool was_root_ = false;
};

/// A file in /tmp that nobody may open.
class ClosedFile {
 public:
  explicit ClosedFile(mode_t mode) {
    const UniqueFd fd(::mkstemp(path_.data()));
    CHECK(fd.valid() && ::fchmod(fd.get(), mode) == 0);
  }
  ~ClosedFile() { ::unlink(path_.c_str()); }
  ClosedFile(const ClosedFile&) = delete;
  ClosedFile& operator=(const ClosedFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/airlock-probe-XXXXXX";
};

Status explain(int error, std::string_view name, const std::string& file) {
  const std::array<std::string, 2> files{"/dev/no-such-device", file};
  const AsNobody nobody;
  return explain_cuda_start(error, name, files);
}

TEST(CudaProbe, a_device_file_that_may_not_be_opened_is_named_whatever_the_driver_says) {
  const ClosedFile closed(0000);
  for (const int error : {100, 999}) {
    const Status status = explain(error, "CUDA_ERROR_WHATEVER", closed.path());
    EXPECT_EQ(status.code(), StatusCode::kDevice);
    EXPECT_THAT(status.message(), HasSubstr("no permission"));
    EXPECT_THAT(status.message(), HasSubstr(closed.path()));
    EXPECT_THAT(status.message(), HasSubstr("only its owner may"));
  }
}

TEST(CudaProbe, the_group_that_may_use_the_device_is_named) {
  if (::getegid() != 0) GTEST_SKIP() << "the file's group is one of this user's";
  const ClosedFile closed(0660);
  EXPECT_EQ(::setegid(65534), 0);
  const Status status = explain(100, "", closed.path());
  EXPECT_EQ(::setegid(0), 0);
  EXPECT_THAT(status.message(), HasSubstr("group 'root'"));
}

TEST(CudaProbe, a_device_file_that_can_be_opened_is_not_the_reason) {
  const ClosedFile open(0666);
  EXPECT_THAT(explain(100, "CUDA_ERROR_NO_DEVICE", open.path()).message(),
              HasSubstr("finds no device"));
}

TEST(CudaProbe, an_error_has_its_number_and_its_name) {
  const std::string none = "/dev/no-such-device";
  EXPECT_THAT(explain(803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", none).message(),
              HasSubstr("cuInit gave error 803, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"));
  EXPECT_THAT(explain(12345, "", none).message(), ::testing::EndsWith("cuInit gave error 12345"));
}

}  // namespace
}  // namespace airlock::testing
