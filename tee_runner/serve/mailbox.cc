#include "tee_runner/serve/mailbox.h"

#include <utility>

#include "base/thread.h"

namespace airlock {

class Mailbox::Sink : public TokenSink {
 public:
  Sink(std::shared_ptr<Mailbox> mailbox, std::size_t choice)
      : mailbox_(std::move(mailbox)), choice_(choice) {}
  bool on_token(const GeneratedToken& token) override {
    return mailbox_->put_token(choice_, token);
  }
  void on_finish(const Finish& finish) override { mailbox_->put_finish(choice_, finish); }

 private:
  const std::shared_ptr<Mailbox> mailbox_;
  const std::size_t choice_;
};

std::shared_ptr<TokenSink> Mailbox::sink(std::size_t choice) {
  return std::make_shared<Sink>(shared_from_this(), choice);
}

bool Mailbox::put_token(std::size_t choice, const GeneratedToken& token) {
  const std::lock_guard lock(mutex_);
  if (closed_ || overflowed_) return false;
  const bool has_room = letters_.size() < kMaxLetters;
  const Status status = without_exceptions([&]() -> Status {
    if (has_room) put({choice, token, std::nullopt});
    return {};
  });
  overflowed_ = !has_room || !status.ok();
  return !overflowed_;
}

void Mailbox::put_finish(std::size_t choice, const Finish& finish) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  const Status status = without_exceptions([&]() -> Status {
    Letter letter{choice, std::nullopt, finish};
    if (overflowed_) {
      letter.finish->reason = FinishReason::kFailed;
      letter.finish->status =
          Status(StatusCode::kInternal, "tokens came faster than they were read");
    }
    put(std::move(letter));
    return {};
  });
  broken_ = broken_ || !status.ok();
}

void Mailbox::put(Letter letter) {
  letters_.push_back(std::move(letter));
  if (notified_) return;
  notify_();
  notified_ = true;
}

std::vector<Mailbox::Letter> Mailbox::take() {
  const std::lock_guard lock(mutex_);
  notified_ = false;
  return std::exchange(letters_, {});
}

bool Mailbox::is_broken() {
  const std::lock_guard lock(mutex_);
  return broken_;
}

void Mailbox::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  letters_.clear();
  notify_ = nullptr;
}

}  // namespace airlock
