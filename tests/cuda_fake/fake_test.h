#pragma once

#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/cuda_fake/fake_device.h"

/// Internal to tests/cuda_fake: what its tests share.
namespace airlock::cuda_fake {

/// Starts with a fresh device and ends with one that nothing is wrong with.
class FakeDevice : public testing::Test {
 protected:
  void SetUp() override { reset(options_); }
  void TearDown() override { EXPECT_THAT(reset(), testing::IsEmpty()); }
  void start(Mode mode) {
    options_.mode = mode;
    reset(options_);
  }

  static cudaStream_t stream() {
    cudaStream_t made = nullptr;
    EXPECT_EQ(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), cudaSuccess);
    return made;
  }
  static cudaEvent_t event(unsigned int flags = cudaEventDisableTiming) {
    cudaEvent_t made = nullptr;
    EXPECT_EQ(cudaEventCreateWithFlags(&made, flags), cudaSuccess);
    return made;
  }
  template <typename T = std::byte>
  static T* device(std::size_t count) {
    void* made = nullptr;
    EXPECT_EQ(cudaMalloc(&made, count * sizeof(T)), cudaSuccess);
    return static_cast<T*>(made);
  }
  /// Until it is done; the modes differ in how often that is asked.
  static void finish(cudaStream_t stream) {
    cudaError_t last = cudaErrorNotReady;
    while ((last = cudaStreamQuery(stream)) == cudaErrorNotReady) std::this_thread::yield();
    EXPECT_EQ(last, cudaSuccess);
    static_cast<void>(cudaGetLastError());
  }
  static void finish(cudaEvent_t event) {
    cudaError_t last = cudaErrorNotReady;
    while ((last = cudaEventQuery(event)) == cudaErrorNotReady) std::this_thread::yield();
    EXPECT_EQ(last, cudaSuccess);
    static_cast<void>(cudaGetLastError());
  }
  static void destroy(cudaStream_t stream) { EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess); }
  static void destroy(cudaEvent_t event) { EXPECT_EQ(cudaEventDestroy(event), cudaSuccess); }
  static void release(void* device) { EXPECT_EQ(cudaFree(device), cudaSuccess); }

  /// Exactly one misuse so far, and it says `what`.
  static void expect_misuse(const std::string& what) {
    EXPECT_THAT(take_misuses(), testing::ElementsAre(testing::HasSubstr(what)));
  }

  Options options_;
};

/// Host memory that is registered while it lives.
class Pinned {
 public:
  explicit Pinned(std::size_t bytes, int value = 0) : bytes_(bytes) {
    data_ = std::make_unique<std::byte[]>(bytes);
    std::memset(data_.get(), value, bytes);
    EXPECT_EQ(cudaHostRegister(data_.get(), bytes, cudaHostRegisterDefault), cudaSuccess);
  }
  ~Pinned() { EXPECT_EQ(cudaHostUnregister(data_.get()), cudaSuccess); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

  std::byte* data() { return data_.get(); }
  std::size_t bytes() const { return bytes_; }
  int at(std::size_t index) const { return std::to_integer<int>(data_[index]); }

 private:
  std::size_t bytes_;
  std::unique_ptr<std::byte[]> data_;
};

}  // namespace airlock::cuda_fake
