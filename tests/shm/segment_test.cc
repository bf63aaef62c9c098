#include "shm/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <csignal>
#include <thread>

#include "proto/ring.h"
#include "shm/segment_guard.h"
#include "tests/shm/ring_fixture.h"

namespace airlock {
namespace {

std::string path_of(const std::string& name) { return "/dev/shm/" + name; }
bool exists(const std::string& name) { return ::access(path_of(name).c_str(), F_OK) == 0; }

TEST(Segment, names_say_user_epoch_and_direction) {
  EXPECT_EQ(make_segment_name(1000, 0xAB, SegmentDirection::kRequest),
            "airlock-1000-00000000000000ab-req");
  EXPECT_EQ(make_segment_name(0, ~std::uint64_t{0}, SegmentDirection::kReply),
            "airlock-0-ffffffffffffffff-rep");
  EXPECT_TRUE(is_segment_name(make_segment_name(4294967295, 1, SegmentDirection::kReply)));
}

TEST(Segment, refuses_names_from_elsewhere) {
  for (const std::string& bad : {std::string(), std::string("airlock-"), std::string("airlock-a/b"),
                                 std::string("airlock-../x"), std::string("Airlock-a"),
                                 std::string("airlock-A"), std::string("airlock-a\0b", 11),
                                 std::string("other-a"), "airlock-" + std::string(81, 'a')}) {
    EXPECT_FALSE(is_segment_name(bad));
    EXPECT_EQ(Segment::open(bad, 4096).status().code(), StatusCode::kProtocolError);
  }
}

TEST(Segment, is_private_zeroed_and_gone_with_its_creator) {
  const std::string name = unique_segment_name();
  {
    auto segment = Segment::create(name, 8192).value();
    struct stat info = {};
    ASSERT_EQ(::stat(path_of(name).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0600u);
    EXPECT_EQ(info.st_size, 8192);
    ASSERT_TRUE(segment->reserve().ok());
    ASSERT_EQ(::stat(path_of(name).c_str(), &info), 0);
    EXPECT_GE(info.st_blocks * 512, 8192);
    for (const std::byte b : segment->bytes()) ASSERT_EQ(b, std::byte{0});
    EXPECT_EQ(Segment::create(name, 8192).status().code(), StatusCode::kInUse);
    auto other = Segment::open(name, 8192).value();
    other->bytes()[5] = std::byte{7};
    EXPECT_EQ(segment->bytes()[5], std::byte{7});
    other.reset();
    EXPECT_TRUE(exists(name));
  }
  EXPECT_FALSE(exists(name));
}

TEST(Segment, refuses_files_that_are_not_what_was_agreed) {
  const std::string name = unique_segment_name();
  EXPECT_EQ(Segment::open(name, 4096).status().code(), StatusCode::kUnavailable);
  auto segment = Segment::create(name, 8192).value();
  EXPECT_EQ(Segment::open(name, 4096).status().code(), StatusCode::kProtocolError);
  EXPECT_EQ(Segment::open(name, 12288).status().code(), StatusCode::kProtocolError);
  ASSERT_EQ(::chmod(path_of(name).c_str(), 0644), 0);
  EXPECT_EQ(Segment::open(name, 8192).status().code(), StatusCode::kProtocolError);
  ASSERT_EQ(::chmod(path_of(name).c_str(), 0600), 0);
  const std::string link = unique_segment_name();
  ASSERT_EQ(::symlink(path_of(name).c_str(), path_of(link).c_str()), 0);
  EXPECT_EQ(Segment::open(link, 8192).status().code(), StatusCode::kProtocolError);
  ::unlink(path_of(link).c_str());
  ASSERT_EQ(::mkdir(path_of(link).c_str(), 0600), 0);
  EXPECT_EQ(Segment::open(link, 8192).status().code(), StatusCode::kProtocolError);
  ::rmdir(path_of(link).c_str());
  ASSERT_EQ(::mkfifo(path_of(link).c_str(), 0600), 0);
  EXPECT_EQ(Segment::open(link, 8192).status().code(), StatusCode::kProtocolError);
  ::unlink(path_of(link).c_str());
  EXPECT_TRUE(Segment::open(name, 8192).ok());
}

TEST(SealedSegment, is_the_same_memory_for_whoever_has_its_descriptor) {
  auto segment = Segment::create_sealed("a test", 8192).value();
  const UniqueFd passed_on(::dup(segment->descriptor()));
  EXPECT_EQ(::ftruncate(passed_on.get(), 0), -1);
  EXPECT_EQ(::ftruncate(passed_on.get(), 1 << 20), -1);
  EXPECT_EQ(::fcntl(passed_on.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
  auto other = Segment::open_sealed(passed_on, 8192).value();
  EXPECT_LT(other->descriptor(), 0);
  other->bytes()[5] = std::byte{7};
  EXPECT_EQ(segment->bytes()[5], std::byte{7});
}

TEST(SealedSegment, costs_next_to_nothing_before_it_is_reserved_and_nothing_after) {
  constexpr std::size_t kBytes = std::size_t{8} << 20;
  auto segment = Segment::create_sealed("a test", kBytes).value();
  const UniqueFd kept(::dup(segment->descriptor()));
  const auto held_bytes = [&] {
    struct stat info = {};
    EXPECT_EQ(::fstat(kept.get(), &info), 0);
    return static_cast<std::size_t>(info.st_blocks) * 512;
  };
  auto other = Segment::open_sealed(kept, kBytes).value();
  EXPECT_EQ(held_bytes(), 0u);
  ASSERT_TRUE(segment->reserve().ok());
  EXPECT_EQ(held_bytes(), kBytes);
  // A peer that keeps its mapping keeps no memory of the creator's.
  segment->discard();
  segment.reset();
  EXPECT_EQ(held_bytes(), 0u);
  EXPECT_EQ(other->bytes()[12345], std::byte{0});
}

TEST(SealedSegment, refuses_what_is_not_sealed_or_of_another_size) {
  const auto code = [](const UniqueFd& fd, std::size_t bytes) {
    return Segment::open_sealed(fd, bytes).status().code();
  };
  auto sealed = Segment::create_sealed("a test", 8192).value();
  const UniqueFd fd(::dup(sealed->descriptor()));
  EXPECT_EQ(code(fd, 4096), StatusCode::kProtocolError);
  EXPECT_EQ(code(fd, 12288), StatusCode::kProtocolError);
  const UniqueFd open_end(::memfd_create("a test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(open_end.get(), 8192), 0);
  EXPECT_EQ(code(open_end, 8192), StatusCode::kProtocolError);
  ASSERT_EQ(::fcntl(open_end.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  EXPECT_EQ(code(open_end, 8192), StatusCode::kProtocolError);
  auto named = Segment::create(unique_segment_name(), 8192).value();
  EXPECT_EQ(code(UniqueFd(::dup(named->descriptor())), 8192), StatusCode::kProtocolError);
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const UniqueFd reader(ends[0]);
  const UniqueFd writer(ends[1]);
  EXPECT_EQ(code(writer, 8192), StatusCode::kProtocolError);
}

TEST(Segment, refuses_the_file_of_another_user) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to make a file of another user";
  auto segment = Segment::create(unique_segment_name(), 4096).value();
  ASSERT_EQ(::chown(path_of(segment->name()).c_str(), 12345, 12345), 0);
  EXPECT_EQ(Segment::open(segment->name(), 4096).status().code(), StatusCode::kProtocolError);
}

TEST(Segment, full_shm_is_a_message_that_helps) {
  struct statvfs info = {};
  ASSERT_EQ(::statvfs("/dev/shm", &info), 0);
  if (info.f_blocks == 0) GTEST_SKIP() << "/dev/shm has no limit";
  const std::string name = unique_segment_name();
  const std::size_t too_many = std::size_t{info.f_blocks} * info.f_frsize + 4096;
  const auto segment = Segment::create(name, too_many);
  if (!segment.ok()) {
    EXPECT_EQ(segment.status().code(), StatusCode::kResourceExhausted);
    GTEST_SKIP() << "no address space for so much, as under an emulator";
  }
  const Status status = (*segment)->reserve();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find(std::to_string(too_many)), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("--ring-slots"), std::string::npos);
  EXPECT_NE(status.message().find("--ring off"), std::string::npos);
}

TEST(Segment, sweep_removes_what_a_dead_owner_left_and_nothing_else) {
  auto live = Segment::create(unique_segment_name(), 4096).value();
  const std::string stale = unique_segment_name();
  const pid_t owner = ::fork();
  if (owner == 0) {
    auto segment = Segment::create(stale, 4096);
    ::raise(SIGKILL);
  }
  ASSERT_EQ(::waitpid(owner, nullptr, 0), owner);
  sweep_stale_segments();  // another program's sweep may have been first, so its count says nothing
  EXPECT_FALSE(exists(stale));
  EXPECT_TRUE(exists(live->name()));
}

TEST(Segment, sweep_leaves_what_only_has_a_segments_name) {
  const std::string target = path_of(unique_segment_name());
  const std::string link = path_of(unique_segment_name());
  const std::string folder = path_of(unique_segment_name());
  const std::string pipe = path_of(unique_segment_name());
  auto live = Segment::create(target.substr(target.rfind('/') + 1), 4096).value();
  ASSERT_EQ(::symlink(target.c_str(), link.c_str()), 0);
  ASSERT_EQ(::mkdir(folder.c_str(), 0700), 0);
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  sweep_stale_segments();
  for (const std::string& path : {target, link, folder, pipe}) {
    struct stat info {};
    EXPECT_EQ(::lstat(path.c_str(), &info), 0) << path;
    ::remove(path.c_str());
  }
}

TEST(SegmentGuard, truncated_ring_is_a_protocol_error_at_both_ends) {
  TestRing ring;
  ASSERT_TRUE(send(*ring.producer, "held", {"bytes"}).ok());
  const RingMessage held = ring.consumer->receive(soon(), {}).value();
  const auto open_slots = ring.producer->claim(2, soon(), {}).value();
  ASSERT_TRUE(send(*ring.producer, "unread", {"bytes"}).ok());

  UniqueFd peer(::open(path_of(ring.segment->name()).c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(::ftruncate(peer.get(), 0), 0);

  EXPECT_FALSE(ring.segment->faulted());
  EXPECT_EQ(ring.consumer->payload(held.slots[0])[0], std::byte{0});  // zeros, no crash
  EXPECT_TRUE(ring.segment->faulted());
  std::memset(ring.producer->payload(open_slots[0]).data(), 1, 4096);
  EXPECT_EQ(ring.producer->commit(open_slots, {}).code(), StatusCode::kProtocolError);
  EXPECT_EQ(ring.producer->claim(1, soon(), {}).status().code(), StatusCode::kProtocolError);
  EXPECT_EQ(ring.consumer->receive(soon(), {}).status().code(), StatusCode::kProtocolError);
  ring.consumer->release(held.slots[0]);
}

TEST(SegmentGuard, first_write_after_truncation_is_a_protocol_error) {
  TestRing ring;
  const auto slots = ring.producer->claim(1, soon(), {}).value();
  ASSERT_EQ(::truncate(path_of(ring.segment->name()).c_str(), 0), 0);
  std::memset(ring.producer->payload(slots[0]).data(), 1, 4096);
  EXPECT_EQ(ring.producer->commit(slots, text_bytes("h")).code(), StatusCode::kProtocolError);
}

TEST(SegmentGuard, truncation_under_a_parked_consumer_is_a_protocol_error) {
  TestRing ring;
  std::atomic<bool> parking{false};
  std::thread peer([&] {
    parking.wait(false);
    EXPECT_EQ(::truncate(path_of(ring.segment->name()).c_str(), 0), 0);
  });
  const auto message = ring.consumer->receive(soon(), [&] {
    parking = true;
    parking.notify_one();
    return Status();
  });
  EXPECT_EQ(message.status().code(), StatusCode::kProtocolError);
  peer.join();
}

TEST(SegmentGuard, one_truncated_segment_leaves_others_alone) {
  TestRing bad;
  TestRing good;
  ASSERT_EQ(::truncate(path_of(bad.segment->name()).c_str(), 0), 0);
  EXPECT_EQ(bad.consumer->receive(Deadline::now(), {}).status().code(), StatusCode::kProtocolError);
  EXPECT_FALSE(good.segment->faulted());
  ASSERT_TRUE(send(*good.producer, "x", {"y"}).ok());
  EXPECT_TRUE(good.consumer->receive(Deadline::now(), {}).ok());
}

TEST(SegmentGuardDeathTest, foreign_fault_still_ends_the_process) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        TestRing guarded;
        guarded.segment->unlink();
        auto segment = Segment::create(unique_segment_name(), 8192).value();
        UniqueFd fd(::open(path_of(segment->name()).c_str(), O_RDWR | O_CLOEXEC));
        void* foreign = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd.get(), 4096);
        segment->unlink();
        if (::ftruncate(fd.get(), 4096) != 0) ::_exit(0);
        *static_cast<volatile const char*>(foreign);
        ::_exit(0);
      },
      "");
}

TEST(SegmentGuard, table_entries_are_given_back) {
  for (std::size_t i = 0; i < 2 * SegmentGuard::kMaxRanges; ++i) {
    ASSERT_TRUE(Segment::create(unique_segment_name(), 4096).ok());
  }
}

}  // namespace
}  // namespace airlock
