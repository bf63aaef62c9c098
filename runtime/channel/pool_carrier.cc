#include "runtime/channel/pool_carrier.h"

#include <utility>

namespace airlock {
namespace {

class PoolCarrier final : public Carrier {
 public:
  PoolCarrier(PoolMap leased, std::function<bool()> faulted)
      : leased_(std::move(leased)), faulted_(std::move(faulted)) {}

  Result<std::unique_ptr<Loan>> claim(const MessagePlan& plan, Deadline) override {
    return find<std::byte>(plan);
  }
  Status publish(Loan&, std::uint64_t, std::span<const std::byte>) override {
    return check_memory();
  }
  Status finish_send(Deadline) override { return {}; }
  bool sending() const override { return false; }

  Result<std::vector<std::byte>> receive_header(std::uint64_t, Deadline) override {
    return Status(StatusCode::kInternal, "no header takes the pool");
  }
  Result<std::unique_ptr<Lease>> receive_tensors(const MessagePlan& plan, std::uint64_t,
                                                 Deadline) override {
    RETURN_IF_ERROR(check_memory());
    return find<const std::byte>(plan);
  }

  std::size_t slots_in_use() const override { return 0; }
  WaitCounters counters() const override { return {}; }

 private:
  Status check_memory() const {
    if (!faulted_ || !faulted_()) return {};
    return {StatusCode::kResourceExhausted,
            "the system had no page left for the memory of the pool: use a smaller --pool, or "
            "--pool off"};
  }

  template <typename Byte>
  Result<std::unique_ptr<Places<Byte>>> find(const MessagePlan& plan) const {
    auto found = std::make_unique<Places<Byte>>();
    for (std::size_t i = 0; i < plan.tensor_count; ++i) {
      const MessagePlan::Tensor& tensor = plan.planned[i];
      if (tensor.path != Path::kPool) continue;
      std::byte* const place = leased_.find(tensor.place, tensor.bytes);
      if (place == nullptr) {
        return Status(StatusCode::kProtocolError,
                      "tensor {} of {} bytes has page {} of the pool, which the session has not "
                      "leased",
                      i, tensor.bytes, tensor.place.number);
      }
      found->places[i] = {place, tensor.bytes};
    }
    return found;
  }

  const PoolMap leased_;
  const std::function<bool()> faulted_;
};

}  // namespace

std::unique_ptr<Carrier> make_pool_carrier(PoolMap leased, std::function<bool()> faulted) {
  return std::make_unique<PoolCarrier>(std::move(leased), std::move(faulted));
}

}  // namespace airlock
