#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <exception>
#include <string_view>
#include <utility>

#include "base/version.h"
#include "gpu_server/mpi_module_abi.h"

/// airlock_mpi.so: all of Airlock that knows MPI.
namespace airlock {

namespace {

Status check(int code, std::string_view what) {
  if (code == MPI_SUCCESS) return {};
  std::string text(MPI_MAX_ERROR_STRING, '\0');
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  text.resize(static_cast<std::size_t>(length));
  return {StatusCode::kDevice, "MPI, {}: {}", what, text};
}

/// Of rows that do not lie one behind the other; one unit of it is all of them.
class RowsType {
 public:
  static Result<RowsType> make(const ByteRows& rows) {
    RowsType made;
    RETURN_IF_ERROR(
        check(MPI_Type_create_hvector(static_cast<int>(rows.rows), static_cast<int>(rows.width),
                                      static_cast<MPI_Aint>(rows.pitch), MPI_BYTE, &made.type_),
              "rows"));
    RETURN_IF_ERROR(check(MPI_Type_commit(&made.type_), "rows"));
    return made;
  }
  RowsType(RowsType&& other) noexcept
      : type_(std::exchange(other.type_, static_cast<MPI_Datatype>(MPI_DATATYPE_NULL))) {}
  RowsType& operator=(RowsType&&) = delete;
  // MPI keeps it until what uses it is over.
  ~RowsType() {
    if (type_ != static_cast<MPI_Datatype>(MPI_DATATYPE_NULL)) MPI_Type_free(&type_);
  }
  MPI_Datatype get() const { return type_; }

 private:
  RowsType() = default;
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

class MpiLink : public GroupLink {
 public:
  static Result<std::unique_ptr<GroupLink>> open() {
    std::unique_ptr<MpiLink> link(new MpiLink);
    int given = 0;
    // This thread alone calls MPI.
    RETURN_IF_ERROR(check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given), "start"));
    RETURN_IF_ERROR(check(MPI_Comm_dup(MPI_COMM_WORLD, &link->ranks_of_), "start"));
    MPI_Comm_set_errhandler(link->ranks_of_, MPI_ERRORS_RETURN);
    int rank = 0;
    int ranks = 0;
    MPI_Comm_rank(link->ranks_of_, &rank);
    MPI_Comm_size(link->ranks_of_, &ranks);
    link->rank_ = static_cast<std::size_t>(rank);
    link->ranks_ = static_cast<std::size_t>(ranks);
    return std::unique_ptr<GroupLink>(std::move(link));
  }

  std::size_t rank() const override { return rank_; }
  std::size_t ranks() const override { return ranks_; }
  std::string host() const override {
    std::string name(MPI_MAX_PROCESSOR_NAME, '\0');
    int length = 0;
    MPI_Get_processor_name(name.data(), &length);
    name.resize(static_cast<std::size_t>(length));
    return name;
  }
  std::string what() const override {
    std::string text(MPI_MAX_LIBRARY_VERSION_STRING, '\0');
    int length = 0;
    MPI_Get_library_version(text.data(), &length);
    text.resize(static_cast<std::size_t>(length));
    return text.substr(0, text.find_first_of(",\n"));
  }

  Status send(std::size_t to, int tag, const ByteRows& rows, Ticket ticket) override {
    return start(rows, ticket, [&](void* data, int count, MPI_Datatype type, MPI_Request* request) {
      return MPI_Isend(data, count, type, static_cast<int>(to), tag, ranks_of_, request);
    });
  }
  Status receive(std::size_t from, int tag, const ByteRows& rows, Ticket ticket) override {
    return start(rows, ticket, [&](void* data, int count, MPI_Datatype type, MPI_Request* request) {
      return MPI_Irecv(data, count, type, static_cast<int>(from), tag, ranks_of_, request);
    });
  }

  Status poll(std::vector<Ticket>& over) override {
    int count = 0;
    ended_.resize(requests_.size());
    // Open MPI looks, moves on what is under way and does not look again.
    for (int look = 0; look < 2 && count == 0; ++look) {
      RETURN_IF_ERROR(check(MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(),
                                         &count, ended_.data(), MPI_STATUSES_IGNORE),
                            "a message"));
    }
    if (count == MPI_UNDEFINED || count == 0) return {};
    for (int i = 0; i < count; ++i)
      over.push_back(tickets_[static_cast<std::size_t>(ended_[static_cast<std::size_t>(i)])]);
    std::size_t kept = 0;
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] == static_cast<MPI_Request>(MPI_REQUEST_NULL)) continue;
      requests_[kept] = requests_[i];
      tickets_[kept++] = tickets_[i];
    }
    requests_.resize(kept);
    tickets_.resize(kept);
    return {};
  }

  void finish() override {
    for (MPI_Request& request : requests_) {
      MPI_Cancel(&request);
      MPI_Request_free(&request);
    }
    requests_.clear();
    tickets_.clear();
    MPI_Finalize();
  }

  [[noreturn]] void abort(int exit_code) override {
    MPI_Abort(ranks_of_, exit_code);
    std::terminate();  // it does not come back
  }

 private:
  MpiLink() = default;

  // MPI counts in int: a row of a tensor is shorter, and rows that are not dense are one of a type.
  template <typename Begin>
  Status start(const ByteRows& rows, Ticket ticket, const Begin& begin) {
    MPI_Request request = MPI_REQUEST_NULL;
    if (rows.rows == 1 || rows.pitch == rows.width) {
      RETURN_IF_ERROR(
          check(begin(rows.data, static_cast<int>(rows.bytes()), MPI_BYTE, &request), "a message"));
    } else {
      ASSIGN_OR_RETURN(const RowsType type, RowsType::make(rows));
      RETURN_IF_ERROR(check(begin(rows.data, 1, type.get(), &request), "a message"));
    }
    requests_.push_back(request);
    tickets_.push_back(ticket);
    return {};
  }

  MPI_Comm ranks_of_ = MPI_COMM_NULL;
  std::size_t rank_ = 0;
  std::size_t ranks_ = 0;
  std::vector<MPI_Request> requests_;
  std::vector<Ticket> tickets_;  // of each request
  std::vector<int> ended_;
};

/// MpiModule::open. Exceptions do not cross the module's border.
Result<std::unique_ptr<GroupLink>> open_link() {
  try {
    return MpiLink::open();
  } catch (const std::exception& error) {
    return Status(StatusCode::kInternal, "the MPI module: {}", error.what());
  }
}

}  // namespace
}  // namespace airlock

extern "C" __attribute__((visibility("default"))) const airlock::MpiModule* airlock_mpi_module() {
  static const airlock::MpiModule module{{airlock::kModuleAbi, airlock::kVersion},
                                         airlock::open_link};
  return &module;
}
