#include "tee_runner/privacy/pads.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/thread.h"

namespace airlock {

namespace {

// Rows of one product at most.
constexpr std::size_t kRowsAJob = 128;
// A pass of no more rows is a step of answers: the next ones are most likely like it. As a product
// of few rows takes as long as one of one, theirs are made together.
constexpr std::uint32_t kSmallPass = 16;
constexpr std::uint32_t kPassesAhead = 16;
// Made again where fewer are there: not for one pass at a time.
constexpr std::uint32_t kFewPassesAhead = 6;
constexpr std::chrono::milliseconds kLook{200};

}  // namespace

SecretWords& SecretWords::operator=(SecretWords&& other) noexcept {
  wipe();
  words_ = std::move(other.words_);
  count_ = std::exchange(other.count_, 0);
  return *this;
}

void SecretWords::wipe() {
  if (words_ != nullptr) airlock::wipe(std::as_writable_bytes(words()));
}

PadMaker::PadMaker(const PadMakerOptions& options, const Int8Model& model, Backend& products,
                   PrivacyStats& stats)
    : options_(options), model_(model), products_(products), stats_(stats) {
  for (std::int64_t layer = 0; layer < options.layers; ++layer) {
    for (const Linear linear : {Linear::kQkv, Linear::kO, Linear::kGateUp, Linear::kDown})
      order_.push_back({static_cast<std::uint16_t>(layer), linear});
  }
  order_.push_back({0, Linear::kLmHead});
}

Result<std::unique_ptr<PadMaker>> PadMaker::create(const PadMakerOptions& options,
                                                   const Int8Model& model, Backend& products,
                                                   PrivacyStats& stats) {
  std::unique_ptr<PadMaker> maker(new PadMaker(options, model, products, stats));
  ASSIGN_OR_RETURN(maker->thread_,
                   start_thread("the pads", [self = maker.get()] { self->work(); }));
  return maker;
}

PadMaker::~PadMaker() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  asked_.notify_all();
  if (thread_.joinable()) thread_.join();
  drop_before(std::numeric_limits<std::uint64_t>::max());
}

std::size_t PadMaker::row_words(const LinearId& id) const {
  const Int8Linear& linear = model_.linear(id.linear, id.layer);
  return static_cast<std::size_t>(linear.rows()) * linear.planes;
}

/// What a pass like those before it asks `id` for.
std::uint32_t PadMaker::likely_rows(const LinearId& id) const {
  return id.linear == Linear::kLmHead ? head_rows_ : small_rows_;
}

void PadMaker::drop_before(std::uint64_t epoch) {
  for (auto pass = made_.begin(); pass != made_.end() && pass->first < epoch;) {
    for (const auto& [id, reserve] : pass->second) {
      reserve_bytes_ -= reserve.rows.size() * row_words(id) * sizeof(std::uint32_t);
      merge(stats_.pads_dropped, reserve.rows.size());
    }
    pass = made_.erase(pass);
  }
}

void PadMaker::begin_pass(std::uint32_t epoch, std::int64_t rows) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto last = made_.find(epoch_); last != made_.end()) {
      // A piece of a prompt asks for none.
      const auto head = last->second.find({0, Linear::kLmHead});
      const std::uint32_t asked = head == last->second.end() ? 0 : head->second.next_row;
      head_rows_ = std::min(asked, kSmallPass);
    }
    drop_before(epoch);
    // Nobody waits for what was wanted of a pass that failed.
    wanted_.clear();
    epoch_ = epoch;
    rows_ = static_cast<std::uint32_t>(rows);
    if (rows_ <= kSmallPass) small_rows_ = rows_;
  }
  asked_.notify_all();
}

void PadMaker::want(const LinearId& id, std::uint32_t first_row, std::size_t count) {
  {
    const std::lock_guard lock(mutex_);
    Reserve& reserve = made_[epoch_][id];
    const auto end = first_row + static_cast<std::uint32_t>(count);
    Job job{id, {}};
    add_missing(id, epoch_, first_row, end, job);
    reserve.next_row = std::max(reserve.next_row, end);
    std::size_t late = 0;
    for (std::uint32_t row = first_row; row < end; ++row)
      late += reserve.rows.contains(row) ? 0 : 1;
    merge(stats_.pads_late, late);
    for (std::size_t at = 0; at < job.places.size(); at += kRowsAJob) {
      const auto begin = job.places.begin() + static_cast<std::ptrdiff_t>(at);
      const std::size_t part = std::min(kRowsAJob, job.places.size() - at);
      wanted_.push_back({id, {begin, begin + static_cast<std::ptrdiff_t>(part)}});
    }
  }
  asked_.notify_all();
}

Result<std::vector<SecretWords>> PadMaker::take(const LinearId& id, std::uint32_t first_row,
                                                std::size_t count, Deadline deadline) {
  std::vector<SecretWords> taken;
  taken.reserve(count);
  std::unique_lock lock(mutex_);
  Reserve& reserve = made_[epoch_][id];
  while (taken.size() < count) {
    const auto row = first_row + static_cast<std::uint32_t>(taken.size());
    const auto found = reserve.rows.find(row);
    if (found != reserve.rows.end()) {
      taken.push_back(std::move(found->second));
      reserve.rows.erase(found);
      reserve_bytes_ -= row_words(id) * sizeof(std::uint32_t);
      continue;
    }
    if (!failure_.ok()) return failure_;
    if (deadline.expired())
      return Status(StatusCode::kDeadlineExceeded, "the pads' products were not there in time");
    if (options_.pulse != nullptr) options_.pulse->beat();
    ready_.wait_for(lock, deadline.slice(kLook).remaining());
  }
  merge(stats_.pads_used, count);
  lock.unlock();
  asked_.notify_all();
  return taken;
}

void PadMaker::work() {
  const Status status = without_exceptions([this]() -> Status {
    for (;;) {
      Job job;
      {
        std::unique_lock lock(mutex_);
        for (job = next_job(); job.places.empty() && !stopping_; job = next_job())
          asked_.wait(lock);
        if (stopping_) return {};
        under_way_ = job;
      }
      const std::uint64_t start_ns = now_ns();
      std::vector<SecretWords> made;
      RETURN_IF_ERROR(make(job, made));
      merge(stats_.pad_ns, now_ns() - start_ns);
      merge(stats_.pads_made, made.size());
      keep(std::move(made));
    }
  });
  {
    const std::lock_guard lock(mutex_);
    if (!status.ok()) failure_ = status.with_context("the pads' products");
  }
  ready_.notify_all();
}

/// Without places: there is nothing to do.
PadMaker::Job PadMaker::next_job() {
  if (wanted_.empty()) return ahead();
  Job wanted = std::move(wanted_.front());
  wanted_.pop_front();
  if (wanted.places.size() <= kSmallPass) add_next_passes(wanted);
  return wanted;
}

bool PadMaker::has_room(const LinearId& id, std::size_t count) const {
  return reserve_bytes_ + count * row_words(id) * sizeof(std::uint32_t) <= options_.reserve_bytes;
}

bool PadMaker::is_under_way(const LinearId& id, const Place& place) const {
  return id == under_way_.id &&
         std::ranges::find(under_way_.places, place) != under_way_.places.end();
}

/// Those of rows [first, end) that are neither made nor being made.
void PadMaker::add_missing(const LinearId& id, std::uint32_t epoch, std::uint32_t first,
                           std::uint32_t end, Job& job) {
  const std::map<std::uint32_t, SecretWords>& rows = made_[epoch][id].rows;
  for (std::uint32_t row = first; row < end; ++row) {
    const Place place{epoch, row};
    if (!rows.contains(row) && !is_under_way(id, place)) job.places.push_back(place);
  }
}

/// What the next passes will want of the job's linear, where little of it is there.
void PadMaker::add_next_passes(Job& job) {
  const std::uint32_t rows = likely_rows(job.id);
  std::uint32_t ready = 0;
  for (std::uint32_t ahead = 1; ahead <= kPassesAhead; ++ahead) {
    const auto pass = made_.find(epoch_ + ahead);
    if (pass == made_.end()) break;
    const auto reserve = pass->second.find(job.id);
    if (reserve == pass->second.end() || reserve->second.rows.size() < rows) break;
    ++ready;
  }
  if (ready > kFewPassesAhead) return;
  for (std::uint32_t ahead = ready + 1; ahead <= kPassesAhead; ++ahead) {
    // The session ends before its epochs do.
    if (epoch_ + ahead < epoch_ || !has_room(job.id, job.places.size() + rows)) return;
    if (job.places.size() + rows > kRowsAJob) return;
    add_missing(job.id, epoch_ + ahead, 0, rows, job);
  }
}

/// What this pass will want, and the next ones will.
PadMaker::Job PadMaker::ahead() {
  if (rows_ == 0) return {};
  for (const LinearId& id : order_) {
    const std::uint32_t end = id.linear == Linear::kLmHead ? head_rows_ : rows_;
    Job job{id, {}};
    add_missing(id, epoch_, made_[epoch_][id].next_row, end, job);
    if (job.places.empty()) continue;
    if (job.places.size() > kRowsAJob) job.places.resize(kRowsAJob);
    if (!has_room(id, job.places.size())) return {};
    if (job.places.size() <= kSmallPass) add_next_passes(job);
    return job;
  }
  for (const LinearId& id : order_) {
    Job job{id, {}};
    add_next_passes(job);
    if (!job.places.empty()) return job;
  }
  return {};
}

Status PadMaker::make(const Job& job, std::vector<SecretWords>& made) {
  const std::size_t count = job.places.size();
  const Int8Linear& linear = model_.linear(job.id.linear, job.id.layer);
  const OpSpec spec = pad_linear_spec(weights_of(job.id.linear, job.id.layer), linear.planes,
                                      static_cast<std::int64_t>(count));
  ASSIGN_OR_RETURN(const auto pending,
                   products_.prepare(spec, Deadline::after(options_.op_timeout)));
  std::memcpy(pending->input(0).data, options_.key.data(), options_.key.size());
  const std::span<std::uint32_t> places = pending->input(1).as<std::uint32_t>();
  for (std::size_t i = 0; i < count; ++i) {
    places[2 * i] = job.places[i].epoch;
    places[2 * i + 1] = job.places[i].row;
  }
  RETURN_IF_ERROR(pending->submit());
  RETURN_IF_ERROR(pending->wait());
  for (std::size_t i = 0; i < count; ++i) {
    SecretWords row(row_words(job.id));
    std::uint32_t* to = row.words().data();
    for (std::size_t part = 0; part < pending->result_descs().size(); ++part) {
      const auto words = static_cast<std::size_t>(pending->result_descs()[part].shape[1]);
      std::memcpy(to, pending->result(part).as<std::uint32_t>().data() + i * words,
                  words * sizeof(std::uint32_t));
      to += words;
    }
    made.push_back(std::move(row));
  }
  return {};
}

void PadMaker::keep(std::vector<SecretWords> made) {
  {
    const std::lock_guard lock(mutex_);
    const Job job = std::exchange(under_way_, {});
    for (std::size_t i = 0; i < made.size(); ++i) {
      const Place& place = job.places[i];
      if (place.epoch < epoch_) {
        merge(stats_.pads_dropped, 1);
        continue;
      }
      made_[place.epoch][job.id].rows.insert_or_assign(place.row, std::move(made[i]));
      reserve_bytes_ += row_words(job.id) * sizeof(std::uint32_t);
    }
    const std::uint64_t peak = stats_.reserve_peak_bytes.load(std::memory_order_relaxed);
    if (reserve_bytes_ > peak) merge(stats_.reserve_peak_bytes, reserve_bytes_ - peak);
  }
  ready_.notify_all();
}

}  // namespace airlock
