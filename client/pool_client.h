#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/page_buffer.h"
#include "base/status.h"
#include "base/tensor.h"
#include "pool/lease.h"
#include "proto/op.h"
#include "proto/pool.h"
#include "runtime/rpc/client.h"

namespace airlock {

struct PoolClientOptions {
  // As parse_endpoint() takes it.
  std::string endpoint;
  // The program, for the server's log.
  std::string client = "airlock_pool";
  // What encrypts a tcp endpoint and knows the server's key; null: nothing does.
  std::shared_ptr<const StreamSecurity> security;
  // The most that the server gives, unless less is asked for.
  PoolWish lease{{limits::kMaxPoolBytes, limits::kMaxPoolBytes, limits::kMaxPoolBytes}};
  // An array of fewer bytes lives here and rides along with a product; at least
  // limits::kMinPoolTensorBytes.
  std::uint32_t inline_bytes = 10240;
  std::chrono::milliseconds timeout{5000};
  std::chrono::milliseconds op_timeout{300000};
  // An array that finds no room in the lease lives here too.
  bool spills = false;
};

/// What one session has of its lease and has done with it.
struct PoolClientFigures {
  struct Use {
    std::uint64_t leased_bytes = 0;
    std::uint64_t used_bytes = 0;
    std::uint64_t largest_free = 0;
    std::uint64_t high_water_bytes = 0;
  };
  PerValue<PoolUse, Use> uses;
  std::uint64_t arrays = 0;
  std::uint64_t arrays_inside = 0;
  std::uint64_t products = 0;
  TransportSnapshot transport;
  OpSnapshotTable ops;
};

class PoolClient;

/// A dense array of a PoolClient, in its lease or in this process. Keeps the client's memory alive.
class PoolArray {
 public:
  ~PoolArray();
  PoolArray(const PoolArray&) = delete;
  PoolArray& operator=(const PoolArray&) = delete;

  const TensorDesc& desc() const { return desc_; }
  /// At a multiple of 4096 where it lies in the lease. The server may write there at any time.
  std::span<std::byte> bytes() const { return memory_->bytes; }
  bool is_inside() const { return memory_->block.has_value(); }
  PoolClient& client() const { return *client_; }

 private:
  friend class PoolClient;
  friend class PoolJob;
  /// Either of the two.
  struct Memory {
    std::optional<PoolBlock> block;
    std::optional<PageBuffer> own;
    std::span<std::byte> bytes;
  };
  /// A product that was sent. Over once its reply was looked at: then it holds nothing but what
  /// became of it.
  struct Running {
    std::unique_ptr<Pending> pending;  // null: it is over
    std::shared_ptr<Memory> result;
    // Those that write its operands; they are over before it is.
    std::vector<std::shared_ptr<Running>> before;
    Status outcome;
    bool is_told = false;  // to who waited for it
  };
  PoolArray(std::shared_ptr<PoolClient> client, const TensorDesc& desc,
            std::shared_ptr<Memory> memory)
      : client_(std::move(client)), desc_(desc), memory_(std::move(memory)) {}

  const std::shared_ptr<PoolClient> client_;
  const TensorDesc desc_;
  std::shared_ptr<Memory> memory_;  // the same until the destructor
  // The last product that it is the result of, unless it was written since; guarded by the client's
  // mutex.
  std::shared_ptr<Running> writer_;
};

/// A product that was started. Destroyed before its end it goes on at the server.
class PoolJob {
 public:
  ~PoolJob();
  PoolJob(const PoolJob&) = delete;
  PoolJob& operator=(const PoolJob&) = delete;

  /// Until the result is there. Again: the same. kUnavailable where the server ended meanwhile: the
  /// result may have been lost. Fails too where a product failed that wrote an operand.
  Status wait();

 private:
  friend class PoolClient;
  PoolJob(std::shared_ptr<PoolClient> client, std::shared_ptr<PoolArray::Running> running)
      : client_(std::move(client)), running_(std::move(running)) {}

  const std::shared_ptr<PoolClient> client_;
  std::shared_ptr<PoolArray::Running> running_;
};

/// A session for arrays of one's own and their products: allocates inside what it has leased of the
/// server's pool, without asking the server. Thread-safe: calls take turns.
class PoolClient : public std::enable_shared_from_this<PoolClient> {
 public:
  /// Errors as ClientSession::connect().
  static Result<std::shared_ptr<PoolClient>> connect(const PoolClientOptions& options);

  /// Where an array lives PoolClientOptions says. kInvalidInput: no array can be so;
  /// kResourceExhausted: says what is needed, what is free and the longest free run.
  Result<std::unique_ptr<PoolArray>> alloc(PoolUse use, const TensorDesc& desc);
  /// result = a x b, of rank 2, or 3 with heads and groups, either of them transposed. Products are
  /// computed in the order of their start. kInvalidInput where they do not fit together; the
  /// failure of the product that was to write an operand, unless somebody waited for that, or
  /// copied into it since.
  Result<std::unique_ptr<PoolJob>> start_matmul(PoolArray& a, PoolArray& b, Transpose transpose,
                                                PoolArray& result);
  /// Waits for the last product that writes the array, if there is one; its failure is returned, by
  /// copy_out() alone. copy_out() then looks whether the server is there: one that ended gives the
  /// memory away.
  Status copy_in(PoolArray& array, std::size_t offset, std::span<const std::byte> from);
  Status copy_out(PoolArray& array, std::size_t offset, std::span<std::byte> to);
  Status check() const;
  PoolClientFigures figures();
  /// "cpu, BLIS 0.9.0 for fp64"
  const std::string& device() const { return device_; }
  bool multiplies_fp64() const { return !session_->backend().info().fp64_products.empty(); }
  /// Ends the session, and what waits in it; arrays and jobs go on being valid, and their calls
  /// fail.
  void close();

 private:
  friend class PoolArray;
  friend class PoolJob;
  explicit PoolClient(const PoolClientOptions& options) : options_(options) {}
  Result<std::shared_ptr<PoolArray::Memory>> take(PoolUse use, std::size_t bytes);
  void conclude_first();
  Status conclude(const PoolArray::Running& running);
  Status conclude_answered();
  Status settle_operand(PoolArray& array, PoolArray::Running& next);

  const PoolClientOptions options_;
  std::unique_ptr<ClientSession> session_;
  std::string device_;
  std::atomic<bool> closed_{false};
  std::mutex mutex_;  // of all that follows, and of the session's backend and lease
  // Those that are not over, in the order of their start, which is that of their replies.
  std::deque<std::shared_ptr<PoolArray::Running>> running_;
  PerValue<PoolUse, std::uint64_t> high_water_{};
  std::uint64_t arrays_ = 0;
  std::uint64_t arrays_inside_ = 0;
  std::uint64_t products_ = 0;
};

}  // namespace airlock
