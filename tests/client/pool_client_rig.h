#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>

#include "client/pool_client.h"
#include "tests/client/pool_server.h"

namespace airlock::testing {

using Array = std::unique_ptr<PoolArray>;

/// Clients of a server of its own.
class PoolClientTest : public ::testing::Test {
 protected:
  PoolClientOptions options() const {
    PoolClientOptions options;
    options.endpoint = server_.endpoint();
    options.timeout = std::chrono::seconds(20);
    return options;
  }
  std::shared_ptr<PoolClient> connect() const { return PoolClient::connect(options()).value(); }

  static Array alloc(PoolClient& client, PoolUse use, const TensorDesc& desc) {
    return client.alloc(use, desc).value();
  }
  /// Once there is room: the server may still use what was dropped.
  static Array alloc_soon(PoolClient& client, PoolUse use, const TensorDesc& desc) {
    const Deadline give_up = Deadline::after(std::chrono::seconds(30));
    for (;;) {
      auto array = client.alloc(use, desc);
      if (array.ok() || give_up.expired()) return std::move(array).value();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  /// With small whole numbers, whose products no type rounds.
  static Array filled(PoolClient& client, PoolUse use, const TensorDesc& desc, int seed) {
    Array array = alloc(client, use, desc);
    for (std::size_t i = 0; i < desc.elements(); ++i) {
      const int value = static_cast<int>((i * 7 + static_cast<std::size_t>(seed)) % 11) - 5;
      put(*array, i, value);
    }
    return array;
  }
  static void put(PoolArray& array, std::size_t index, double value) {
    const MutableTensorView view{array.bytes().data(), array.desc()};
    if (array.desc().dtype == DType::kF64) {
      view.as<double>()[index] = value;
    } else {
      view.as<float>()[index] = static_cast<float>(value);
    }
  }
  static double at(const PoolArray& array, std::size_t index) {
    const TensorView view{array.bytes().data(), array.desc()};
    return array.desc().dtype == DType::kF64 ? view.as<double>()[index]
                                             : static_cast<double>(view.as<float>()[index]);
  }
  /// result = a x b of square matrices.
  static void expect_product(const PoolArray& a, const PoolArray& b, const PoolArray& result) {
    const auto n = static_cast<std::size_t>(a.desc().shape[0]);
    for (std::size_t i = 0; i < n * n; i += 7) {
      double sum = 0;
      for (std::size_t k = 0; k < n; ++k) sum += at(a, i / n * n + k) * at(b, k * n + i % n);
      ASSERT_EQ(at(result, i), sum) << i;
    }
  }
  static void multiply(PoolClient& client, PoolArray& a, PoolArray& b, PoolArray& result) {
    const auto job = client.start_matmul(a, b, Transpose::kNone, result);
    ASSERT_TRUE(job.ok()) << job.status().to_string();
    const Status status = (*job)->wait();
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_TRUE((*job)->wait().ok());
  }
  static TensorDesc square(DType dtype, std::int64_t n) { return {dtype, Shape{n, n}}; }

  PoolServer server_;
};

}  // namespace airlock::testing
