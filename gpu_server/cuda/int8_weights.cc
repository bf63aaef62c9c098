#include "gpu_server/cuda/int8_weights.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/thread.h"
#include "base/thread_pool.h"

namespace airlock::cuda {

namespace {

constexpr std::size_t kPieces = 4;  // that are filled, on their way or being sent
constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
constexpr std::chrono::seconds kCopyTimeout{60};

double gib(std::size_t bytes) { return static_cast<double>(bytes) / 1073741824.0; }

std::int64_t columns_of(const ModelDims& dims, Linear linear) {
  if (linear == Linear::kLmHead) return dims.hidden;
  return weight_shape(dims, kinds_of(linear)[0])[1];
}

/// What may be read behind the last row of any linear.
std::size_t slack_bytes(const ModelDims& dims) {
  std::int64_t pitch = 0;
  for (const Linear linear : kValuesOf<Linear>)
    pitch = std::max(pitch, int8_rounded(columns_of(dims, linear)));
  return static_cast<std::size_t>((kInt8Multiple - 1) * pitch);
}

struct PlaneId {
  Linear linear = Linear::kQkv;
  std::uint16_t layer = 0;
  std::size_t plane = 0;
};

std::size_t plane_bytes(const DeviceInt8& weights, const PlaneId& id) {
  const std::int64_t pitch = int8_rounded(columns_of(weights.dims, id.linear));
  return static_cast<std::size_t>(weights.rows_of(id.linear, id.layer) * pitch);
}

/// A piece whose rows go to `place`, from `first_row` of the linear on.
struct Filled {
  Staging::Piece* piece = nullptr;
  PlaneId place;
  std::int64_t first_row = 0;
  std::size_t bytes = 0;
};

/// Pieces between the threads that fill them and the one that sends them. Thread-safe.
class Feed {
 public:
  void add(Staging::Piece& piece) { free_.push_back(&piece); }

  /// A piece to fill, or why there will be none. The one who sends gives back or fails within its
  /// own time limit.
  Result<Staging::Piece*> take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !free_.empty() || !failure_.ok(); });
    RETURN_IF_ERROR(failure_);
    Staging::Piece* piece = free_.back();
    free_.pop_back();
    return piece;
  }
  void push(const Filled& filled) {
    const std::lock_guard lock(mutex_);
    filled_.push_back(filled);
    changed_.notify_all();
  }
  /// The next one; nothing once close() was called, as whoever fills pieces does in the end.
  std::optional<Filled> pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !filled_.empty() || closed_; });
    if (filled_.empty()) return std::nullopt;
    const Filled next = filled_.front();
    filled_.pop_front();
    return next;
  }
  void give_back(Staging::Piece& piece) {
    const std::lock_guard lock(mutex_);
    free_.push_back(&piece);
    changed_.notify_all();
  }
  void note(std::size_t done_bytes, std::size_t total_bytes) {
    const std::lock_guard lock(mutex_);
    noted_ = {done_bytes, total_bytes};
  }
  /// As note() last said.
  std::pair<std::size_t, std::size_t> noted() {
    const std::lock_guard lock(mutex_);
    return noted_;
  }
  void fail(const Status& why) {
    const std::lock_guard lock(mutex_);
    failure_ = why;
    changed_.notify_all();
  }
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;  // guards all of these
  std::condition_variable changed_;
  std::vector<Staging::Piece*> free_;
  std::deque<Filled> filled_;
  std::pair<std::size_t, std::size_t> noted_;
  Status failure_;
  bool closed_ = false;
};

/// Copies what its sink is given into `target`. All of CUDA is called on the thread that made it;
/// fill() on any.
class Uploader {
 public:
  Uploader(Device& device, const DeviceInt8* had, DeviceInt8& target)
      : device_(device),
        had_(had),
        target_(target),
        slack_(slack_bytes(target.dims)),
        // The last piece stays as it is made: zeros.
        staging_(device, kPieces + 1, std::max(slack_, kPieceBytes)) {}

  Status open(const std::function<void(const std::string&)>& warn) {
    ASSIGN_OR_RETURN(stream_, make_stream(device_));
    RETURN_IF_ERROR(staging_.prepare());
    if (warn && !staging_.pinned())
      warn("host memory could not be pinned: the int8 weights are copied more slowly");
    for (std::size_t i = 0; i < kPieces; ++i) feed_.add(staging_.piece(i));
    return {};
  }

  /// One allocation for all of the planes that are not there yet.
  Status allocate_planes(const std::vector<PlaneId>& wanted) {
    std::size_t need = 0;
    std::vector<std::pair<PlaneId, std::size_t>> places;
    for (const PlaneId& id : wanted) {
      const std::size_t bytes = plane_bytes(target_, id);
      if (bytes == 0 || target_.plane(id.linear, id.layer, id.plane) != nullptr) continue;
      places.emplace_back(id, need);
      need += aligned(bytes);
    }
    if (places.empty()) return {};
    need += slack_;
    ASSIGN_OR_RETURN(const std::size_t have, device_.free_bytes());
    if (need > have) {
      return {StatusCode::kResourceExhausted,
              "{}: the int8 weights need {:.2f} GiB more of device memory, {:.2f} GiB are free: "
              "end what else uses the GPU, or ask for --int8-weights w8",
              device_.label(), gib(need), gib(have)};
    }
    ASSIGN_OR_RETURN(DeviceMemory memory, allocate(device_, need, "the int8 weights"));
    auto* data = static_cast<std::byte*>(memory.get());
    target_.memory.emplace_back(std::move(memory));
    for (const auto& [id, offset] : places)
      target_.plane(id.linear, id.layer, id.plane) = data + offset;
    return staging_.send(staging_.piece(kPieces), data + need - slack_, slack_, stream_.get(),
                         "clear what is behind the int8 weights");
  }

  /// An Int8Sink.
  Status fill(const Int8Rows& rows) {
    const PlaneId place{rows.linear, rows.layer, rows.plane};
    const RowRange& mine = target_.rows(rows.linear, rows.layer, rows.weight);
    if (rows.first_row < mine.begin || rows.first_row >= mine.end) return {};
    if (had_ != nullptr && had_->plane(place.linear, place.layer, place.plane) != nullptr)
      return {};
    const auto columns = static_cast<std::size_t>(rows.columns);
    const auto pitch = static_cast<std::size_t>(int8_rounded(rows.columns));
    const auto step = static_cast<std::int64_t>(kPieceBytes / pitch);
    const std::int64_t first =
        target_.rows_of(rows.linear, rows.layer, rows.weight) + rows.first_row - mine.begin;
    for (std::int64_t row = 0; row < rows.row_count; row += step) {
      const auto count = static_cast<std::size_t>(std::min(step, rows.row_count - row));
      ASSIGN_OR_RETURN(Staging::Piece * piece, feed_.take());
      std::byte* to = piece->memory.data();
      const std::int8_t* from = rows.values.data() + static_cast<std::size_t>(row) * columns;
      for (std::size_t i = 0; i < count; ++i) {
        std::memcpy(to + i * pitch, from + i * columns, columns);
        std::memset(to + i * pitch + columns, 0, pitch - columns);
      }
      feed_.push({piece, place, first + row, count * pitch});
    }
    return {};
  }
  /// No fill() comes any more.
  void close() { feed_.close(); }

  /// How much has been made; told by send_all().
  void note(std::size_t done_bytes, std::size_t total_bytes) {
    feed_.note(done_bytes, total_bytes);
  }

  /// Sends what fill() makes until close(). Once it failed, so does fill().
  Status send_all(const Int8Progress& progress) {
    const Status status = without_exceptions([&] { return send_until_closed(progress); });
    if (!status.ok()) feed_.fail(status);
    return status;
  }

  /// Also after a failure: what is still being copied lies in this one's memory.
  Status finish() {
    return device_.wait_until_over(cudaStreamQuery, stream_.get(), "what is queued",
                                   Deadline::after(kCopyTimeout));
  }

 private:
  Status send_until_closed(const Int8Progress& progress) {
    const auto tell = [&] {
      const auto [done, total] = feed_.noted();
      if (progress && total != 0) progress(done, total);
    };
    Staging::Piece* under_way = nullptr;
    while (const std::optional<Filled> filled = feed_.pop()) {
      tell();
      RETURN_IF_ERROR(send(*filled));
      if (under_way != nullptr) {
        RETURN_IF_ERROR(device_.wait_until_over(cudaEventQuery, under_way->copied.get(), "a copy",
                                                Deadline::after(kCopyTimeout)));
        feed_.give_back(*under_way);
      }
      under_way = filled->piece;
    }
    tell();
    return {};
  }

  Status send(const Filled& filled) {
    const PlaneId& id = filled.place;
    RETURN_IF_ERROR(allocate_planes({id}));  // which kAuto chooses one by one
    const std::int64_t pitch = int8_rounded(columns_of(target_.dims, id.linear));
    return staging_.send(*filled.piece,
                         target_.plane(id.linear, id.layer, id.plane) + filled.first_row * pitch,
                         filled.bytes, stream_.get(), "copy int8 weights");
  }

  Device& device_;
  const DeviceInt8* const had_;
  DeviceInt8& target_;
  const std::size_t slack_;
  Staging staging_;
  Stream stream_;
  Feed feed_;
};

/// Those that `choice` surely has.
std::vector<PlaneId> planes_of(const ModelDims& dims, std::size_t plane) {
  std::vector<PlaneId> ids;
  for (std::int64_t layer = 0; layer < dims.layers; ++layer) {
    for (const Linear linear : kValuesOf<Linear>) {
      if (linear != Linear::kLmHead)
        ids.push_back({linear, static_cast<std::uint16_t>(layer), plane});
    }
  }
  ids.push_back({Linear::kLmHead, 0, plane});
  return ids;
}

}  // namespace

DeviceInt8::DeviceInt8(const ModelDims& model_dims, const ModelShare& model_share)
    : dims(model_dims), share(model_share) {
  planes.resize(static_cast<std::size_t>(dims.layers) * index_of(Linear::kLmHead) + 1);
}

std::size_t DeviceInt8::slot(Linear linear, std::uint16_t layer) const {
  if (linear == Linear::kLmHead) return planes.size() - 1;
  return layer * index_of(Linear::kLmHead) + index_of(linear);
}

const RowRange& DeviceInt8::rows(Linear linear, std::uint16_t layer, std::size_t weight) const {
  if (linear == Linear::kLmHead) return share.lm_head;
  return share.rows({kinds_of(linear)[weight], layer});
}

std::int64_t DeviceInt8::rows_of(Linear linear, std::uint16_t layer, std::size_t count) const {
  std::int64_t total = 0;
  for (std::size_t weight = 0; weight < count; ++weight)
    total += rows(linear, layer, weight).count();
  return total;
}

std::int64_t DeviceInt8::rows_of(Linear linear, std::uint16_t layer) const {
  return rows_of(linear, layer, std::max<std::size_t>(kinds_of(linear).size(), 1));
}

bool DeviceInt8::has_all(const OpSpec& spec) const {
  for (std::size_t i = 0; i < spec.planes; ++i) {
    if (plane(linear_of(spec), layer_of(spec), i) == nullptr) return false;
  }
  return true;
}

DeviceInt8Rows DeviceInt8::weight(const OpSpec& spec, std::size_t index, std::size_t plane) const {
  const Linear linear = linear_of(spec);
  const std::int64_t k = columns_of(dims, linear);
  const std::int64_t pitch = int8_rounded(k);
  const std::uint16_t layer = layer_of(spec);
  const std::byte* data = this->plane(linear, layer, plane);
  std::size_t weight = 0;  // of the linear's
  while (linear != Linear::kLmHead && kinds_of(linear)[weight] != spec.weights[index].kind)
    ++weight;
  return {data + rows_of(linear, layer, weight) * pitch, rows(linear, layer, weight).count(), k,
          pitch};
}

Result<LoadedInt8> load_int8(Device& device, const ModelSource& model, Int8Weights choice,
                             const DeviceInt8* had, const Int8Loading& how) {
  const ModelDims& dims = model.config().dims;
  const ModelShare share = how.share != nullptr ? *how.share : ModelShare::whole(dims);
  auto made = had != nullptr ? std::make_shared<DeviceInt8>(*had)
                             : std::make_shared<DeviceInt8>(dims, share);
  ASSIGN_OR_RETURN(const auto pool, ThreadPool::create(std::max<std::size_t>(1, how.threads)));
  Uploader uploader(device, had, *made);
  RETURN_IF_ERROR(uploader.open(how.warn));
  Status allocated = uploader.allocate_planes(planes_of(dims, 0));
  if (allocated.ok() && choice == Int8Weights::kW16)
    allocated = uploader.allocate_planes(planes_of(dims, 1));
  if (!allocated.ok()) {
    RETURN_IF_ERROR(uploader.finish());
    return allocated;
  }
  std::vector<Int8Line> lines;
  Status status;
  auto maker = start_thread("the int8 weights", [&] {
    status = without_exceptions([&]() -> Status {
      const Int8Sink sink = [&](const Int8Rows& rows) { return uploader.fill(rows); };
      const Int8Progress note = [&](std::size_t done, std::size_t all) {
        uploader.note(done, all);
      };
      ASSIGN_OR_RETURN(Int8Model weights,
                       make_int8_weights(model, choice, *pool, sink, note, how.share));
      lines = std::move(weights.lines);
      return {};
    });
    uploader.close();
  });
  Status sent = maker.status();
  if (maker.ok()) {
    sent = uploader.send_all(how.progress);
    maker->join();
  }
  const Status finished = uploader.finish();
  RETURN_IF_ERROR(sent);
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(finished);
  return LoadedInt8{std::move(made), std::move(lines)};
}

}  // namespace airlock::cuda
