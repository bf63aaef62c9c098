#include "tee_runner/privacy/private_backend.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "tee_runner/privacy/check.h"
#include "tee_runner/privacy/quantise.h"

namespace airlock {

namespace {

/// Adds the time that it lives.
class Booked {
 public:
  explicit Booked(Counter& sum_ns) : sum_ns_(sum_ns), start_ns_(now_ns()) {}
  ~Booked() { merge(sum_ns_, now_ns() - start_ns_); }
  Booked(const Booked&) = delete;
  Booked& operator=(const Booked&) = delete;

 private:
  Counter& sum_ns_;
  const std::uint64_t start_ns_;
};

// With less work than this for each thread, to wake one takes longer than what it saves.
constexpr std::size_t kWordsAWorker = std::size_t{1} << 15;

/// Calls body(worker, row) for each row, of so many words; each worker, one of the pool's threads,
/// has rows of its own. The first failure.
template <typename Body>
Status each_row(ThreadPool& pool, std::size_t rows, std::size_t row_words, const Body& body) {
  const std::size_t most = std::min(rows, pool.thread_count());
  const std::size_t workers =
      std::clamp<std::size_t>(rows * row_words / kWordsAWorker, 1, std::max<std::size_t>(most, 1));
  if (workers == 1) {
    for (std::size_t row = 0; row < rows; ++row) RETURN_IF_ERROR(body(std::size_t{0}, row));
    return {};
  }
  std::vector<Status> failures(workers);
  pool.parallel_for(workers, [&](std::size_t begin, std::size_t end) {
    for (std::size_t worker = begin; worker < end; ++worker) {
      const std::size_t last = rows * (worker + 1) / workers;
      for (std::size_t row = rows * worker / workers; row < last; ++row) {
        failures[worker] = body(worker, row);
        if (!failures[worker].ok()) break;
      }
    }
  });
  const auto failed = std::ranges::find_if(failures, [](const Status& s) { return !s.ok(); });
  return failed == failures.end() ? Status() : *failed;
}

/// The same for every op: it says nothing of where.
Status failed_check() {
  return {StatusCode::kMismatch,
          "an answer failed its check: the server computes something else than it was asked for; "
          "nothing of it was used"};
}

}  // namespace

/// Reads the table here.
class PrivateBackend::EmbeddingPending : public Pending {
 public:
  EmbeddingPending(PrivateBackend& owner, const OpSpec& spec, std::vector<TensorDesc> results)
      : owner_(owner), ids_(spec.inputs[0]), descs_(std::move(results)), rows_(descs_[0]) {}

  MutableTensorView input(std::size_t) override { return ids_.mutable_view(); }
  Status submit() override {
    ASSIGN_OR_RETURN(const std::vector<std::int32_t> ids,
                     read_token_ids(ids_.view(), owner_.info_.dims.vocab));
    const EmbeddingTable& table = owner_.parts_.model.embedding();
    if (owner_.parts_.options.oblivious_embedding) {
      table.gather_obliviously(owner_.parts_.pool, ids, rows_.mutable_view());
    } else {
      table.gather(ids, rows_.mutable_view());
    }
    return {};
  }
  bool done() override { return true; }
  Status wait() override { return {}; }
  std::span<const TensorDesc> result_descs() const override { return descs_; }
  TensorView result(std::size_t) const override { return rows_.view(); }
  OpTimes times() const override { return {}; }  // it crosses nothing
  std::size_t slots_in_use() const override { return 0; }

 private:
  PrivateBackend& owner_;
  Tensor ids_;
  const std::vector<TensorDesc> descs_;
  Tensor rows_;
};

/// A linear, or lm_head: floats on this side, integers beyond.
class PrivateBackend::LinearPending : public Pending {
 public:
  LinearPending(PrivateBackend& owner, const OpSpec& spec, std::vector<TensorDesc> results)
      : owner_(owner),
        linear_(owner.parts_.model.int8().linear(linear_of(spec), layer_of(spec))),
        id_{layer_of(spec), linear_of(spec)},
        input_(spec.inputs[0]),
        descs_(std::move(results)),
        rows_(static_cast<std::size_t>(spec.inputs[0].shape[0])),
        scales_(rows_) {}

  /// First of all; where it fails the object is of no use.
  Status prepare(const OpSpec& spec, Deadline deadline) {
    deadline_ = deadline;
    const auto rows = static_cast<std::int64_t>(rows_);
    const std::int64_t shown = shown_rows(owner_.parts_.options, id_.linear, rows);
    shown_ = static_cast<std::size_t>(shown);
    epoch_ = owner_.epoch_;
    first_row_ = owner_.next_row_[id_];
    owner_.next_row_[id_] += static_cast<std::uint32_t>(shown);
    ASSIGN_OR_RETURN(
        inner_,
        owner_.parts_.worker.prepare(
            int_linear_spec(spec.weights, linear_.planes, shown, owner_.info_.dims), deadline));
    ScratchPool& scratch = owner_.scratch_;
    ASSIGN_OR_RETURN(x_, scratch.take(input_.bytes()));
    ASSIGN_OR_RETURN(integers_, scratch.take(input_.bytes()));
    row_words_ = static_cast<std::size_t>(linear_.rows()) * linear_.planes;
    ASSIGN_OR_RETURN(words_, scratch.take(owner_.parts_.pool.thread_count() * row_words_ *
                                          sizeof(std::uint32_t)));
    for (const TensorDesc& desc : descs_) {
      ASSIGN_OR_RETURN(results_.emplace_back(), scratch.take(desc.bytes()));
    }
    return {};
  }

  MutableTensorView input(std::size_t) override { return {x_.data(), input_}; }

  Status submit() override {
    if (owner_.has_failed_) return failed_check();
    RETURN_IF_ERROR(owner_.parts_.model.secret().check_process());
    // What one pad hides is one row, once: another pass has other pads.
    if (std::exchange(submitted_, true) || epoch_ != owner_.epoch_)
      return {StatusCode::kInternal, "an op was submitted twice, or after its pass"};
    PadMaker* const pads = owner_.parts_.pads;
    if (pads != nullptr) pads->want(id_, first_row_, pad_rows());
    {
      const Booked booked(owner_.parts_.stats.mask_ns);
      RETURN_IF_ERROR(each_row(owner_.parts_.pool, shown_, columns(),
                               [this](auto worker, auto row) { return send_row(worker, row); }));
    }
    return inner_->submit();
  }
  bool done() override { return inner_->done(); }
  Status wait() override {
    RETURN_IF_ERROR(inner_->wait());
    std::vector<SecretWords> pads;
    if (owner_.parts_.pads != nullptr) {
      ASSIGN_OR_RETURN(pads, owner_.parts_.pads->take(id_, first_row_, pad_rows(), deadline_));
    }
    const ModelCheck* const checks = owner_.parts_.model.check();
    const LinearCheck* const check =
        checks == nullptr ? nullptr : &checks->linear(id_.linear, id_.layer);
    // Until all has passed it has not, whatever happens on the way; and what has failed once has.
    const bool had_failed = std::exchange(owner_.has_failed_, true);
    std::vector<char> passed(rows_, check == nullptr ? 1 : 0);
    std::vector<std::uint64_t> checking_ns(owner_.parts_.pool.thread_count());
    const std::uint64_t start_ns = now_ns();
    // A row is taken in, checked and scaled while it lies in a cache. Nobody reads one before all
    // have passed; each is looked at, whatever the others say.
    RETURN_IF_ERROR(each_row(owner_.parts_.pool, rows_, row_words_, [&](auto worker, auto row) {
      take_in(worker, row, pads.empty() ? nullptr : pads[row].words().data());
      if (check != nullptr) {
        const std::uint64_t begin_ns = now_ns();
        passed[row] = check->passes(1, integers(row), results_of(worker)) ? 1 : 0;
        checking_ns[worker] += now_ns() - begin_ns;
      }
      scale(worker, row);
      return Status();
    }));
    const std::uint64_t all_ns = now_ns() - start_ns;
    const std::uint64_t verify_ns = std::min(all_ns, *std::ranges::max_element(checking_ns));
    PrivacyStats& stats = owner_.parts_.stats;
    merge(stats.verify_ns, verify_ns);
    merge(stats.unmask_ns, all_ns - verify_ns);
    if (check != nullptr) merge(stats.checks, rows_);
    const bool all_passed = std::ranges::count(passed, 1) == static_cast<std::ptrdiff_t>(rows_);
    owner_.has_failed_ = had_failed || !all_passed;
    if (!all_passed) merge(stats.failures, 1);
    return owner_.has_failed_ ? failed_check() : Status();
  }
  std::span<const TensorDesc> result_descs() const override { return descs_; }
  TensorView result(std::size_t index) const override {
    return {results_[index].data(), descs_[index]};
  }
  OpTimes times() const override { return inner_->times(); }
  std::size_t slots_in_use() const override { return inner_->slots_in_use(); }

 private:
  /// Rows whose pads' products are made: a dealer does not learn which rows only look like others.
  std::size_t pad_rows() const {
    return owner_.parts_.options.mode == PrivacyMode::kOtpDealer ? shown_ : rows_;
  }
  std::size_t columns() const { return static_cast<std::size_t>(linear_.columns); }
  std::span<std::int32_t> integers(std::size_t row) const {
    return {reinterpret_cast<std::int32_t*>(integers_.data()) + row * columns(), columns()};
  }
  /// Those of the row that a worker is at.
  std::span<std::uint32_t> words(std::size_t worker) const {
    return {reinterpret_cast<std::uint32_t*>(words_.data()) + worker * row_words_, row_words_};
  }

  std::span<const std::int32_t> integer_words(std::size_t worker) const {
    return {reinterpret_cast<const std::int32_t*>(words_.data()) + worker * row_words_, row_words_};
  }

  /// A row's words as what each weight and plane gave.
  std::vector<std::span<const std::int32_t>> results_of(std::size_t worker) const {
    std::vector<std::span<const std::int32_t>> results;
    std::span<const std::int32_t> left = integer_words(worker);
    for (const TensorDesc& desc : inner_->result_descs()) {
      const auto count = static_cast<std::size_t>(desc.shape[1]);
      results.push_back(left.first(count));
      left = left.subspan(count);
    }
    return results;
  }

  /// Rounds a row and writes it where the peer sees it: hidden, if the mode hides. Rows beyond the
  /// op's own are zeros, hidden likewise.
  Status send_row(std::size_t worker, std::size_t row) {
    std::uint32_t* const to = inner_->input(0).as<std::uint32_t>().data() + row * columns();
    const bool is_own = row < rows_;
    if (is_own) {
      const std::span<const float> x(reinterpret_cast<const float*>(x_.data()) + row * columns(),
                                     columns());
      ASSIGN_OR_RETURN(scales_[row], quantise_row(x, linear_, integers(row)));
    }
    if (owner_.streams_.empty()) {
      if (is_own) {
        std::memcpy(to, integers(row).data(), columns() * sizeof(std::uint32_t));
      } else {
        std::fill_n(to, columns(), 0U);
      }
      return {};
    }
    SecretWords pad(columns());
    RETURN_IF_ERROR(owner_.streams_[worker].words(
        {epoch_, id_.layer, id_.linear, first_row_ + static_cast<std::uint32_t>(row)},
        pad.words()));
    const std::uint32_t* const r = pad.words().data();
    const std::int32_t* const x = is_own ? integers(row).data() : nullptr;
    for (std::size_t j = 0; j < columns(); ++j)
      to[j] = (x != nullptr ? static_cast<std::uint32_t>(x[j]) : 0U) - r[j];
    return {};
  }

  /// The peer's words, each read once, and the pad's product: the true ones.
  void take_in(std::size_t worker, std::size_t row, const std::uint32_t* pad) {
    std::uint32_t* to = words(worker).data();
    for (std::size_t part = 0; part < inner_->result_descs().size(); ++part) {
      const TensorView result = inner_->result(part);
      const auto count = static_cast<std::size_t>(result.desc.shape[1]);
      const std::uint32_t* const from = result.as<std::uint32_t>().data() + row * count;
      if (pad == nullptr) {
        std::memcpy(to, from, count * sizeof(std::uint32_t));
      } else {
        for (std::size_t i = 0; i < count; ++i) to[i] = from[i] + pad[i];
        pad += count;
      }
      to += count;
    }
  }

  void scale(std::size_t worker, std::size_t row) {
    const std::span<const std::int32_t> all = integer_words(worker);
    std::size_t at = 0;
    std::size_t first = 0;
    for (std::size_t weight = 0; weight < descs_.size(); ++weight) {
      const auto count = static_cast<std::size_t>(descs_[weight].shape[1]);
      float* const to = reinterpret_cast<float*>(results_[weight].data()) + row * count;
      const auto second = linear_.planes > 1 ? all.subspan(at + count, count) : all.subspan(0, 0);
      dequantise_row(all.subspan(at, count), second, scales_[row],
                     std::span(linear_.scales).subspan(first, count), {to, count});
      at += count * linear_.planes;
      first += count;
    }
  }

  PrivateBackend& owner_;
  const Int8Linear& linear_;
  const LinearId id_;
  const TensorDesc input_;
  const std::vector<TensorDesc> descs_;
  const std::size_t rows_;
  std::size_t shown_ = 0;
  bool submitted_ = false;
  std::uint32_t epoch_ = 0;
  std::uint32_t first_row_ = 0;
  std::size_t row_words_ = 0;
  Deadline deadline_ = Deadline::now();
  std::vector<float> scales_;
  ScratchPool::Buffer x_;         // fp32 [rows, columns]
  ScratchPool::Buffer integers_;  // int32 [rows, columns]
  ScratchPool::Buffer words_;     // uint32 [threads, row_words_]
  std::vector<ScratchPool::Buffer> results_;
  std::unique_ptr<Pending> inner_;
};

PrivateBackend::PrivateBackend(const Parts& parts, std::vector<WordStream> streams)
    : parts_(parts), streams_(std::move(streams)) {
  next_epoch_ = parts.first_epoch;
  info_ = parts.worker.info();
  info_.dtype = DType::kF32;
  info_.stored_dtype = DType::kF32;
}

Result<std::unique_ptr<PrivateBackend>> PrivateBackend::create(const Parts& parts) {
  std::vector<WordStream> streams;
  if (parts.pads != nullptr) {
    for (std::size_t i = 0; i < parts.pool.thread_count(); ++i) {
      ASSIGN_OR_RETURN(WordStream stream, WordStream::create(*parts.pad_key));
      streams.push_back(std::move(stream));
    }
  }
  if (!(parts.worker.info().dims == parts.model.dims()))
    return Status(StatusCode::kMismatch, "the server's model has another shape than ours");
  return std::unique_ptr<PrivateBackend>(new PrivateBackend(parts, std::move(streams)));
}

Status PrivateBackend::begin_pass(std::int64_t rows) {
  if (next_epoch_ > std::numeric_limits<std::uint32_t>::max())
    return {StatusCode::kUnavailable, "the session's pads are used up: 2^32 passes"};
  epoch_ = static_cast<std::uint32_t>(next_epoch_++);
  has_begun_ = true;
  next_row_.clear();
  const bool is_dealt = parts_.options.mode == PrivacyMode::kOtpDealer;
  const std::int64_t dealt = shown_rows(parts_.options, Linear::kQkv, rows);
  if (parts_.pads != nullptr) parts_.pads->begin_pass(epoch_, is_dealt ? dealt : rows);
  return {};
}

Result<std::unique_ptr<Pending>> PrivateBackend::prepare(const OpSpec& spec, Deadline deadline) {
  if (has_failed_) return failed_check();
  // What a fork has of the keys, and of what was used of them, is a copy.
  RETURN_IF_ERROR(parts_.model.secret().check_process());
  ASSIGN_OR_RETURN(std::vector<TensorDesc> results, op_results(spec, info_.dims));
  const auto is_f32 = [](const TensorDesc& desc) { return desc.dtype == DType::kF32; };
  if (!std::ranges::all_of(results, is_f32))
    return Status(StatusCode::kInvalidInput, "in a private mode results are fp32");
  if (spec.op == Op::kEmbedding) {
    RETURN_IF_ERROR(begin_pass(spec.inputs[0].shape[0]));
    return std::unique_ptr<Pending>(
        std::make_unique<EmbeddingPending>(*this, spec, std::move(results)));
  }
  const bool is_linear = spec.op == Op::kBatchLinear || spec.op == Op::kLmHead;
  if (!is_linear || !is_f32(spec.inputs[0])) {
    return Status(StatusCode::kInvalidInput, "{} is not asked for in a private mode",
                  name_of(spec.op));
  }
  if (!has_begun_) return Status(StatusCode::kInvalidInput, "a pass begins with its embedding");
  if (spec.weights != weights_of(linear_of(spec), layer_of(spec))) {
    return Status(StatusCode::kInvalidInput, "{} asks for some of the weights of {}",
                  name_of(spec.op), name_of(linear_of(spec)));
  }
  auto pending = std::make_unique<LinearPending>(*this, spec, std::move(results));
  RETURN_IF_ERROR(pending->prepare(spec, deadline));
  return std::unique_ptr<Pending>(std::move(pending));
}

}  // namespace airlock
