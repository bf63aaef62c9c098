#include "gpu_server/group/group_model.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/sink.h"
#include "gpu_server/group/int8_lines.h"
#include "gpu_server/op_parts.h"
#include "runtime/scratch.h"

namespace airlock {

namespace {

/// What a rank that is told that nobody wants an op has to end it; then it hangs.
constexpr std::chrono::seconds kAbandonTimeout{5};
constexpr std::chrono::milliseconds kLookInterval{10};
/// The others have their inputs before this process computes on the CPU that its link's thread
/// needs, or so long and a nanosecond a byte.
constexpr std::chrono::milliseconds kHeadStart{1};
constexpr std::chrono::milliseconds kHeadStartLook{2};

/// A result as bytes.
ByteRows rows_of(const OpMemory& memory, std::size_t result) {
  const auto& [data, desc] = memory.results[result];
  ByteRows rows = tensor_rows(data, desc);
  if (!memory.is_dense(result)) rows.pitch = memory.result_pitch(result);
  return rows;
}

/// What the session's own thread computes.
struct OwnPart {
  // Of results that are not all of theirs: where they are computed, and where they go.
  std::vector<ScratchPool::Buffer> buffers;
  std::vector<std::pair<const std::byte*, ByteRows>> copies;
  // Last: it may write the buffers until it is gone.
  std::unique_ptr<Computation> computation;
};

class GroupCompute : public Compute {
 public:
  GroupCompute(std::shared_ptr<const GroupGround> ground, std::unique_ptr<Compute> own)
      : ground_(std::move(ground)), own_(std::move(own)) {
    if (own_ && own_->info().on_cpu()) is_computing_ = std::make_shared<std::atomic<bool>>(false);
  }

  const BackendInfo& info() const override { return ground_->info; }
  Result<std::unique_ptr<Computation>> prepare(const OpSpec& spec, OpMemory memory,
                                               const OpLife& life) override;

  GroupLeader& leader() { return ground_->leader; }

 private:
  std::vector<OpPart> parts_of(const OpSpec& spec, const OpMemory& memory);
  Result<OwnPart> prepare_own(const OpPart& part, const OpMemory& memory, const OpLife& life);
  std::shared_ptr<RemoteOp> make_remote(const OpPart& part, const OpMemory& memory,
                                        Deadline deadline) const;

  const std::shared_ptr<const GroupGround> ground_;
  const std::unique_ptr<Compute> own_;
  ScratchPool scratch_;
  // Whether the session's thread computes on the CPU; null: it never does.
  std::shared_ptr<std::atomic<bool>> is_computing_;
  static std::atomic<std::size_t> next_rank_;
};

std::atomic<std::size_t> GroupCompute::next_rank_{0};

/// All parts at once; its server_ns is that of the slowest.
class GroupComputation : public Computation {
 public:
  /// `is_computing`: as GroupCompute has it, for all the session's ops.
  GroupComputation(GroupLeader& leader, std::optional<OwnPart> own,
                   std::vector<std::shared_ptr<RemoteOp>> remote,
                   std::shared_ptr<std::atomic<bool>> is_computing, OpLife life)
      : leader_(leader),
        own_(std::move(own)),
        remote_(std::move(remote)),
        is_computing_(std::move(is_computing)),
        life_(std::move(life)) {}
  GroupComputation(const GroupComputation&) = delete;
  GroupComputation& operator=(const GroupComputation&) = delete;

  ~GroupComputation() override {
    if (!submitted_) return;
    abandon();
    // The memory must not change hands while the link reads or writes it.
    const Deadline deadline = Deadline::after(
        std::max<std::chrono::nanoseconds>(life_.deadline.remaining(), kAbandonTimeout));
    for (const auto& op : remote_) {
      if (op->wait(deadline)) continue;
      leader_.lose(
          {StatusCode::kDevice, "rank {} does not end an op that nobody waits for", op->rank});
      if (op->wait(Deadline::after(kAbandonTimeout))) continue;
      log_error("the link to the other ranks hangs, and memory of a session with it");
      exit_at_once(exit_code(StatusCode::kDevice));
    }
  }

  Status submit() override {
    CHECK(!std::exchange(submitted_, true));
    start_ns_ = now_ns();
    for (const auto& op : remote_) leader_.submit(op);
    if (!own_) return {};
    if (!is_computing_) return own_->computation->submit();
    RETURN_IF_ERROR(give_way());
    is_computing_->store(true, std::memory_order_relaxed);
    const Status status = own_->computation->submit();
    is_computing_->store(false, std::memory_order_relaxed);
    leader_.look();
    return status;
  }

  bool done() override {
    // Asked in any case: a device moves on by it.
    const bool own_is_done = !own_ || own_->computation->done();
    return own_is_done &&
           std::ranges::all_of(remote_, [](const auto& op) { return op->is_over(); });
  }

  Status wait() override {
    CHECK(submitted_);
    if (own_) {
      RETURN_IF_ERROR(own_->computation->wait());
      take_slowest(times_, own_->computation->times());
      for (const auto& [from, to] : own_->copies) {
        for (std::size_t row = 0; row < to.rows; ++row)
          std::memcpy(to.data + row * to.pitch, from + row * to.width, to.width);
      }
    }
    for (const auto& op : remote_) {
      while (!op->wait(life_.deadline.slice(kLookInterval))) RETURN_IF_ERROR(life_.check());
      RETURN_IF_ERROR(op->status());
      take_slowest(times_, op->times());
    }
    // The link's time too is waiting: the session waits for it as it waits for its turn.
    end_parts(times_, now_ns() - start_ns_);
    return {};
  }

  OpTimes times() const override { return times_; }

 private:
  Status give_way() const {
    std::size_t bytes = 0;
    for (const auto& op : remote_) {
      for (const ByteRows& input : op->inputs) bytes += input.bytes();
    }
    const Deadline until = Deadline::after(kHeadStart + std::chrono::nanoseconds(bytes));
    for (const auto& op : remote_) {
      while (!until.expired() && !op->wait_sent(until.slice(kHeadStartLook)))
        RETURN_IF_ERROR(life_.check());
    }
    return {};
  }
  void abandon() {
    for (const auto& op : remote_) {
      if (!op->is_over()) leader_.cancel(op);
    }
  }

  GroupLeader& leader_;
  std::optional<OwnPart> own_;
  const std::vector<std::shared_ptr<RemoteOp>> remote_;
  const std::shared_ptr<std::atomic<bool>> is_computing_;
  const OpLife life_;
  OpTimes times_;
  std::uint64_t start_ns_ = 0;
  bool submitted_ = false;
};

// A product of the clients' own arrays needs no weights: rank 0's, or in turn that of one that
// computes.
std::vector<OpPart> GroupCompute::parts_of(const OpSpec& spec, const OpMemory& memory) {
  if (spec.op != Op::kMatmul) return ground_->placement.split(spec);
  std::size_t rank = 0;
  const Placement& placement = ground_->placement;
  if (own_ == nullptr) {
    do {
      rank = 1 + next_rank_.fetch_add(1, std::memory_order_relaxed) % (placement.ranks() - 1);
    } while (placement.share(rank).empty());
  }
  return {whole_part(rank, spec, memory)};
}

Result<OwnPart> GroupCompute::prepare_own(const OpPart& part, const OpMemory& memory,
                                          const OpLife& life) {
  OwnPart own;
  OpMemory mine = part_memory(part, memory);
  for (std::size_t i = 0; i < mine.results.size(); ++i) {
    if (mine.is_dense(i)) continue;
    const ByteRows rows = rows_of(mine, i);
    ASSIGN_OR_RETURN(own.buffers.emplace_back(), scratch_.take(rows.bytes()));
    mine.results[i].data = own.buffers.back().data();
    mine.pitches[i] = 0;
    own.copies.emplace_back(mine.results[i].data, rows);
  }
  ASSIGN_OR_RETURN(own.computation, own_->prepare(part.spec, std::move(mine), life));
  return own;
}

std::shared_ptr<RemoteOp> GroupCompute::make_remote(const OpPart& part, const OpMemory& memory,
                                                    Deadline deadline) const {
  auto op = std::make_shared<RemoteOp>();
  op->rank = part.rank;
  op->spec = part.spec;
  op->deadline = deadline;
  op->is_put_off = is_computing_;
  for (const TensorView& input : memory.inputs) {
    // The link only reads it.
    op->inputs.push_back(ByteRows::dense(const_cast<std::byte*>(input.data), input.desc.bytes()));
  }
  const OpMemory its = part_memory(part, memory);
  for (std::size_t i = 0; i < its.results.size(); ++i) {
    op->result_descs.push_back(its.results[i].desc);
    op->results.push_back(rows_of(its, i));
  }
  return op;
}

Result<std::unique_ptr<Computation>> GroupCompute::prepare(const OpSpec& spec, OpMemory memory,
                                                           const OpLife& life) {
  if (const Status group = leader().health(); !group.ok())
    return Status(StatusCode::kDevice, "{}", group.message());
  check_memory(spec, memory);
  std::optional<OwnPart> own;
  std::vector<std::shared_ptr<RemoteOp>> remote;
  for (const OpPart& part : parts_of(spec, memory)) {
    if (part.rank == 0) {
      ASSIGN_OR_RETURN(own.emplace(), prepare_own(part, memory, life));
    } else {
      remote.push_back(make_remote(part, memory, life.deadline));
    }
  }
  return std::unique_ptr<Computation>(std::make_unique<GroupComputation>(
      leader(), std::move(own), std::move(remote), is_computing_, life));
}

class GroupModel : public ComputeModel {
 public:
  explicit GroupModel(std::shared_ptr<const GroupGround> ground) : ground_(std::move(ground)) {}

  const BackendInfo& info() const override { return ground_->info; }
  Result<std::unique_ptr<Compute>> make_compute(
      std::span<const std::span<std::byte>> segments) override {
    RETURN_IF_ERROR(health());
    std::unique_ptr<Compute> own;
    if (ground_->own) {
      ASSIGN_OR_RETURN(own, ground_->own->make_compute(segments));
    }
    return std::unique_ptr<Compute>(std::make_unique<GroupCompute>(ground_, std::move(own)));
  }
  Result<std::string> prepare_int8(const ModelSource& model, Int8Weights weights,
                                   const Int8Progress& progress) override {
    return prepare_group_int8(ground_->leader, ground_->own.get(), model, weights, progress);
  }
  Result<std::vector<Int8Line>> prepare_int8_share(const ModelSource&, Int8Weights,
                                                   const Int8Progress&) override {
    return Status(StatusCode::kInvalidInput, "a group of ranks is no share of another");
  }
  Status health() const override {
    const Status group = ground_->leader.health();
    if (!group.ok()) return {StatusCode::kDevice, "{}", group.message()};
    return ground_->own ? ground_->own->health() : Status();
  }

 private:
  const std::shared_ptr<const GroupGround> ground_;
};

}  // namespace

std::shared_ptr<ComputeModel> make_group_model(GroupGround ground) {
  return std::make_shared<GroupModel>(std::make_shared<const GroupGround>(std::move(ground)));
}

}  // namespace airlock
