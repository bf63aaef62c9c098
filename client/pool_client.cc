#include "client/pool_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"
#include "runtime/rpc/endpoint.h"

namespace airlock {
namespace {

Status closed() { return {StatusCode::kUnavailable, "the session was closed"}; }

/// As the op has it: [heads, rows, columns].
Result<TensorDesc> as_batch(const char* name, const TensorDesc& desc) {
  const Shape& shape = desc.shape;
  if (shape.rank() == 3) return desc;
  if (shape.rank() == 2) return TensorDesc{desc.dtype, Shape{1, shape[0], shape[1]}};
  return Status(StatusCode::kInvalidInput, "{} has shape {}, expected rank 2 or 3", name,
                shape.to_string());
}

}  // namespace

Result<std::shared_ptr<PoolClient>> PoolClient::connect(const PoolClientOptions& options) {
  ConnectOptions connect;
  connect.endpoint = options.endpoint;
  // What rides along does so behind its product's header; more than that has room takes a slot of
  // a small ring.
  connect.ring.choice = RingChoice::kAuto;
  connect.path_limit = std::max(options.inline_bytes, std::uint32_t{limits::kMinPoolTensorBytes});
  connect.inline_bytes = std::min(connect.path_limit, std::uint32_t{limits::kMaxInlineBytes});
  connect.pool = options.lease;
  connect.client = options.client;
  connect.timeout = options.timeout;
  connect.needs_model = false;
  connect.security = options.security;
  std::shared_ptr<PoolClient> made(new PoolClient(options));
  ASSIGN_OR_RETURN(made->session_, ClientSession::connect(connect));
  const BackendInfo& info = made->session_->backend().info();
  made->device_ = info.device;
  if (!info.fp64_products.empty())
    made->device_ += fmt::format(", {} for fp64", info.fp64_products);
  return made;
}

void PoolClient::close() {
  if (closed_.exchange(true)) return;
  // Who waits has the mutex, and waits no more.
  session_->end(closed());
  const std::lock_guard lock(mutex_);
  session_->close();
}

Status PoolClient::check() const {
  if (closed_) return closed();
  RETURN_IF_ERROR(session_->check());
  const PoolLease* const lease = session_->pool();
  if (lease == nullptr || !lease->faulted()) return {};
  return {
      StatusCode::kUnavailable,
      "the memory of the lease was taken away: what lay there may be lost, and arrays in it are "
      "of no use; connect again"};
}

Result<std::shared_ptr<PoolArray::Memory>> PoolClient::take(PoolUse use, std::size_t bytes) {
  auto memory = std::make_shared<PoolArray::Memory>();
  PoolLease* const lease = session_->pool();
  const PathPolicy& policy = session_->policy();
  const bool is_for_pool = lease != nullptr && lease->leased_bytes(use) > 0 &&
                           policy.carries(Path::kPool, bytes) &&
                           !policy.carries(Path::kRing, bytes);
  if (is_for_pool) {
    const auto take_block = [&] {
      if (auto block = lease->take(use, bytes)) memory->block.emplace(std::move(*block));
      return memory->block.has_value();
    };
    if (!take_block()) {
      // What dropped jobs held is free once their replies were looked at.
      RETURN_IF_ERROR(conclude_answered());
      (void)take_block();
    }
    if (memory->block) {
      memory->bytes = {lease->pool_map().find(memory->block->place(), bytes), bytes};
      high_water_[use] =
          std::max(high_water_[use], lease->leased_bytes(use) - lease->free_bytes(use));
      return memory;
    }
    if (!options_.spills) {
      return Status(StatusCode::kResourceExhausted,
                    "no room for {} bytes ({}) in the lease: {} of {} are free, the largest free "
                    "run has {}",
                    bytes, name_of(use), lease->free_bytes(use), lease->leased_bytes(use),
                    lease->longest_run(use));
    }
  }
  ASSIGN_OR_RETURN(memory->own, PageBuffer::allocate(bytes));
  memory->bytes = {memory->own->data(), bytes};
  return memory;
}

Result<std::unique_ptr<PoolArray>> PoolClient::alloc(PoolUse use, const TensorDesc& desc) {
  const auto bytes = desc.shape.byte_count(desc.dtype);
  if (desc.shape.rank() < 1 || !bytes || *bytes == 0 || *bytes > limits::kMaxTensorBytes) {
    return Status(StatusCode::kInvalidInput,
                  "an array of shape {} of {}: its rank is 1 to {}, and it has 1 to {} bytes",
                  desc.shape.to_string(), name_of(desc.dtype), Shape::kMaxRank,
                  limits::kMaxTensorBytes);
  }
  const std::lock_guard lock(mutex_);
  if (closed_) return closed();
  ASSIGN_OR_RETURN(auto memory, take(use, *bytes));
  std::unique_ptr<PoolArray> array(new PoolArray(shared_from_this(), desc, std::move(memory)));
  ++arrays_;
  if (array->is_inside()) ++arrays_inside_;
  return array;
}

PoolArray::~PoolArray() {
  const std::lock_guard lock(client_->mutex_);
  --client_->arrays_;
  if (is_inside()) --client_->arrays_inside_;
  writer_.reset();
  memory_.reset();
}

/// Waits for the oldest product. Its private result is copied though nobody may wait for it: a
/// later one may need it.
void PoolClient::conclude_first() {
  const std::shared_ptr<PoolArray::Running> running = std::move(running_.front());
  running_.pop_front();
  Status& outcome = running->outcome;
  outcome = closed_ ? closed() : running->pending->wait();
  if (outcome.ok() && running->result->own) {
    const auto bytes = running->pending->result(0).bytes();
    std::memcpy(running->result->bytes.data(), bytes.data(), bytes.size());
  }
  for (const auto& earlier : running->before) {
    if (outcome.ok() && !earlier->outcome.ok())
      outcome = earlier->outcome.with_context("the product that was to write an operand failed");
  }
  // What was read, and what lies in the lease, is the server's only as long as it is there.
  if (outcome.ok()) outcome = check();
  running->pending.reset();
  running->result.reset();
  running->before.clear();
}

/// Until `running` is over.
Status PoolClient::conclude(const PoolArray::Running& running) {
  while (running.pending != nullptr) conclude_first();
  return running.outcome;
}

/// Those whose replies have come. Does not wait.
Status PoolClient::conclude_answered() {
  RETURN_IF_ERROR(session_->backend().take_replies());
  while (!running_.empty() && running_.front()->pending->done()) conclude_first();
  return {};
}

/// What lies in this process is complete before it is sent; in the lease the server keeps the
/// order, and `next` learns what became of it.
Status PoolClient::settle_operand(PoolArray& array, PoolArray::Running& next) {
  if (array.writer_ == nullptr) return {};
  if (array.is_inside() && array.writer_->pending != nullptr) {
    next.before.push_back(array.writer_);
    return {};
  }
  const Status status = conclude(*array.writer_);
  if (status.ok() || array.writer_->is_told) return {};
  return status.with_context("the product that was to write an operand failed");
}

Result<std::unique_ptr<PoolJob>> PoolClient::start_matmul(PoolArray& a, PoolArray& b,
                                                          Transpose transpose, PoolArray& result) {
  if (&a.client() != this || &b.client() != this || &result.client() != this)
    return Status(StatusCode::kInvalidInput, "arrays of different sessions");
  if (&result == &a || &result == &b)
    return Status(StatusCode::kInvalidInput, "the result of a product is one of its operands");
  ASSIGN_OR_RETURN(const TensorDesc a_desc, as_batch("a", a.desc()));
  ASSIGN_OR_RETURN(const TensorDesc b_desc, as_batch("b", b.desc()));
  ASSIGN_OR_RETURN(const TensorDesc result_desc, as_batch("the result", result.desc()));
  const BackendInfo& info = session_->backend().info();
  if (a_desc.dtype == DType::kF64 && info.fp64_products.empty())
    return Status(StatusCode::kInvalidInput, "this server does not multiply fp64");
  const OpSpec spec = matmul_spec(a_desc, b_desc, transpose, result_desc.dtype);
  ASSIGN_OR_RETURN(const auto results, op_results(spec, info.dims));
  if (!(results[0] == result_desc)) {
    const Shape& expected = results[0].shape;
    const bool is_flat = result.desc().shape.rank() == 2 && expected[0] == 1;
    return Status(StatusCode::kInvalidInput, "the result has shape {}, expected {}",
                  result.desc().shape.to_string(),
                  (is_flat ? Shape{expected[1], expected[2]} : expected).to_string());
  }

  const std::lock_guard lock(mutex_);
  if (closed_) return closed();
  auto running = std::make_shared<PoolArray::Running>();
  // So that what is sent finds room, and few are under way.
  RETURN_IF_ERROR(conclude_answered());
  RETURN_IF_ERROR(settle_operand(a, *running));
  RETURN_IF_ERROR(settle_operand(b, *running));
  std::vector<PoolPlace> places;
  auto keeps = std::make_shared<std::vector<std::shared_ptr<PoolArray::Memory>>>();
  for (const PoolArray* array : {&a, &b, &result}) {
    places.push_back(array->is_inside() ? array->memory_->block->place() : PoolPlace());
    if (array->is_inside()) keeps->push_back(array->memory_);
  }
  ASSIGN_OR_RETURN(running->pending,
                   session_->backend().prepare_in_place(spec, std::move(places), std::move(keeps),
                                                        Deadline::after(options_.op_timeout)));
  const std::array operands = {&a, &b};
  for (std::size_t i = 0; i < operands.size(); ++i) {
    if (operands[i]->is_inside()) continue;
    const auto bytes = operands[i]->bytes();
    std::memcpy(running->pending->input(i).data, bytes.data(), bytes.size());
  }
  RETURN_IF_ERROR(running->pending->submit());
  ++products_;
  running->result = result.memory_;
  result.writer_ = running;
  running_.push_back(running);
  return std::unique_ptr<PoolJob>(new PoolJob(shared_from_this(), std::move(running)));
}

Status PoolJob::wait() {
  const std::lock_guard lock(client_->mutex_);
  running_->is_told = true;
  return client_->conclude(*running_);
}

PoolJob::~PoolJob() {
  const std::lock_guard lock(client_->mutex_);
  running_.reset();
}

Status PoolClient::copy_in(PoolArray& array, std::size_t offset, std::span<const std::byte> from) {
  {
    const std::lock_guard lock(mutex_);
    if (array.writer_ != nullptr) (void)conclude(*array.writer_);
    array.writer_.reset();
  }
  if (!from.empty()) std::memcpy(array.bytes().data() + offset, from.data(), from.size());
  return {};
}

Status PoolClient::copy_out(PoolArray& array, std::size_t offset, std::span<std::byte> to) {
  {
    const std::lock_guard lock(mutex_);
    if (array.writer_ != nullptr) {
      const Status written = conclude(*array.writer_);
      if (!written.ok() && !array.writer_->is_told) return written;
    }
  }
  if (!to.empty()) std::memcpy(to.data(), array.bytes().data() + offset, to.size());
  return array.is_inside() ? check() : Status();
}

PoolClientFigures PoolClient::figures() {
  const std::lock_guard lock(mutex_);
  PoolClientFigures figures;
  if (const PoolLease* lease = session_->pool()) {
    for (const PoolUse use : kValuesOf<PoolUse>) {
      figures.uses[use] = {lease->leased_bytes(use),
                           lease->leased_bytes(use) - lease->free_bytes(use),
                           lease->longest_run(use), high_water_[use]};
    }
  }
  figures.arrays = arrays_;
  figures.arrays_inside = arrays_inside_;
  figures.products = products_;
  figures.transport = snapshot_of(session_->transport_stats());
  figures.ops = snapshot_of(session_->op_stats());
  return figures;
}

}  // namespace airlock
