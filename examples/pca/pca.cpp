// A principal component analysis of a rows x columns matrix of double whose products an Airlock
// server computes. The matrix lies in memory that both share: it is made there, centered there, and
// stays there between fit and transform.
//
//   fit        C = Xc^T Xc, and its largest eigenvectors V by subspace iteration: products with C
//   by the server transform  T = Xc V
//
// C++17, airlock_pool.hpp and the standard library. Needs a server:
//   gpu_server --no-model --pool large --endpoint ipc:///tmp/x/ctl
#include <airlock_pool.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <future>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr double kTolerance = 1e-12;  // of a residual, relative to the largest eigenvalue

struct Options {
  std::string endpoint;
  std::int64_t rows = 10000, columns = 6400, k = 10, rank = 14, rounds = 1, clients = 1;
  std::uint64_t seed = 1;
  bool check = false;
};

thread_local std::string prefix;  // of what a client prints

__attribute__((format(printf, 1, 2))) void say(const char* format, ...) {
  char line[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof(line), format, arguments);
  va_end(arguments);
  std::printf("%s%s\n", prefix.c_str(), line);  // one call: lines of several clients stay whole
}

/// Dense, row-major, in this program.
struct Matrix {
  std::int64_t rows = 0, columns = 0;
  std::vector<double> values;
  Matrix(std::int64_t r, std::int64_t c)
      : rows(r), columns(c), values(static_cast<std::size_t>(r * c)) {}
  double* row(std::int64_t i) { return values.data() + i * columns; }
  const double* row(std::int64_t i) const { return values.data() + i * columns; }
};

/// Seconds by phase, in the order of their first use.
class Times {
 public:
  template <typename Work>
  void measure(const char* phase, const Work& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    for (auto& [name, seconds] : phases_) {
      if (name == phase) {
        seconds += took.count();
        return;
      }
    }
    phases_.emplace_back(phase, took.count());
  }
  void print() const {
    for (const auto& [name, seconds] : phases_) say("  %-20s %8.3f s", name.c_str(), seconds);
  }

 private:
  std::vector<std::pair<std::string, double>> phases_;
};

/// Random rows of rank options.rank, noise, and a mean that is not zero.
void fill(double* x, const Options& options) {
  std::mt19937_64 random(options.seed);
  std::normal_distribution<double> normal;
  Matrix basis(options.rank, options.columns);
  for (std::int64_t r = 0; r < options.rank; ++r)
    for (std::int64_t j = 0; j < options.columns; ++j)
      basis.row(r)[j] = std::pow(0.8, static_cast<double>(r)) * normal(random);
  std::vector<double> mean(static_cast<std::size_t>(options.columns));
  for (double& value : mean) value = normal(random);
  for (std::int64_t i = 0; i < options.rows; ++i) {
    double* const row = x + i * options.columns;
    for (std::int64_t j = 0; j < options.columns; ++j)
      row[j] = mean[static_cast<std::size_t>(j)] + 0.1 * normal(random);
    for (std::int64_t r = 0; r < options.rank; ++r) {
      const double weight = normal(random);
      const double* const direction = basis.row(r);
      for (std::int64_t j = 0; j < options.columns; ++j) row[j] += weight * direction[j];
    }
  }
}

void center(double* x, std::int64_t rows, std::int64_t columns) {
  std::vector<double> mean(static_cast<std::size_t>(columns));
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j)
      mean[static_cast<std::size_t>(j)] += x[i * columns + j];
  for (double& value : mean) value /= static_cast<double>(rows);
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j)
      x[i * columns + j] -= mean[static_cast<std::size_t>(j)];
}

/// a^T b.
Matrix transposed_product(const Matrix& a, const Matrix& b) {
  Matrix result(a.columns, b.columns);
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t p = 0; p < a.columns; ++p)
      for (std::int64_t q = 0; q < b.columns; ++q) result.row(p)[q] += a.row(i)[p] * b.row(i)[q];
  return result;
}

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix result(a.rows, b.columns);
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t p = 0; p < a.columns; ++p)
      for (std::int64_t q = 0; q < b.columns; ++q) result.row(i)[q] += a.row(i)[p] * b.row(p)[q];
  return result;
}

/// Modified Gram-Schmidt, twice: once loses orthogonality where columns are nearly dependent.
void orthonormalise(Matrix& v) {
  for (int pass = 0; pass < 2; ++pass) {
    for (std::int64_t p = 0; p < v.columns; ++p) {
      double norm = 0;
      for (std::int64_t i = 0; i < v.rows; ++i) norm += v.row(i)[p] * v.row(i)[p];
      norm = std::sqrt(norm);
      if (!(norm > 0))
        throw std::runtime_error("the matrix has fewer directions than were asked for");
      for (std::int64_t i = 0; i < v.rows; ++i) v.row(i)[p] /= norm;
      for (std::int64_t q = p + 1; q < v.columns; ++q) {
        double along = 0;
        for (std::int64_t i = 0; i < v.rows; ++i) along += v.row(i)[p] * v.row(i)[q];
        for (std::int64_t i = 0; i < v.rows; ++i) v.row(i)[q] -= along * v.row(i)[p];
      }
    }
  }
}

struct Eigen {
  std::vector<double> values;  // largest first
  Matrix vectors;              // as columns
};

/// Of a small symmetric matrix, by Jacobi's rotations.
Eigen eigen_of(Matrix a) {
  const std::int64_t n = a.rows;
  Matrix q(n, n);
  for (std::int64_t i = 0; i < n; ++i) q.row(i)[i] = 1;
  for (std::int64_t i = 0; i < n; ++i)  // symmetric to the last bit
    for (std::int64_t j = 0; j < i; ++j)
      a.row(i)[j] = a.row(j)[i] = (a.row(i)[j] + a.row(j)[i]) / 2;
  for (int sweep = 0; sweep < 60; ++sweep) {
    double off = 0, diagonal = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      diagonal += a.row(i)[i] * a.row(i)[i];
      for (std::int64_t j = 0; j < i; ++j) off += a.row(i)[j] * a.row(i)[j];
    }
    if (off <= 1e-34 * diagonal) break;
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = i + 1; j < n; ++j) {
        if (a.row(i)[j] == 0) continue;
        const double theta = (a.row(j)[j] - a.row(i)[i]) / (2 * a.row(i)[j]);
        const double t = (theta >= 0 ? 1 : -1) / (std::fabs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1);
        const double s = t * c;
        const auto rotate = [c, s](double& x, double& y) {
          const double kept = x;
          x = c * kept - s * y;
          y = s * kept + c * y;
        };
        for (std::int64_t p = 0; p < n; ++p) rotate(a.row(p)[i], a.row(p)[j]);
        for (std::int64_t p = 0; p < n; ++p) rotate(a.row(i)[p], a.row(j)[p]);
        for (std::int64_t p = 0; p < n; ++p) rotate(q.row(p)[i], q.row(p)[j]);
      }
    }
  }
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&a](std::int64_t i, std::int64_t j) { return a.row(i)[i] > a.row(j)[j]; });
  Eigen sorted{{}, Matrix(n, n)};
  for (std::int64_t p = 0; p < n; ++p) {
    const std::int64_t from = order[static_cast<std::size_t>(p)];
    sorted.values.push_back(a.row(from)[from]);
    for (std::int64_t i = 0; i < n; ++i) sorted.vectors.row(i)[p] = q.row(i)[from];
  }
  return sorted;
}

Matrix first_columns(const Matrix& from, std::int64_t count) {
  Matrix result(from.rows, count);
  for (std::int64_t i = 0; i < from.rows; ++i) std::copy_n(from.row(i), count, result.row(i));
  return result;
}

/// A copy: what the server can still change is no ground for a decision.
Matrix copy_of(const airlock::pool::Array<double>& array) {
  Matrix result(array.shape()[0], array.shape()[1]);
  array.copy_out(result.values.data(), result.values.size());
  return result;
}

using airlock::pool::Transpose;
using airlock::pool::Use;

/// |image - ritz value| of column p.
double residual(const Matrix& image, const Matrix& ritz, double value, std::int64_t p) {
  double squares = 0;
  for (std::int64_t i = 0; i < image.rows; ++i) {
    const double difference = image.row(i)[p] - value * ritz.row(i)[p];
    squares += difference * difference;
  }
  return std::sqrt(squares);
}

/// The k largest eigenpairs of a symmetric array in the pool.
Eigen largest_eigenpairs(airlock::pool::Pool& pool, const airlock::pool::Array<double>& covariance,
                         const Options& options, Times& times, int& iterations) {
  const std::int64_t columns = options.columns;
  const std::int64_t width = std::min(columns, options.k + 10);  // more converge faster
  Matrix v(columns, width);
  std::mt19937_64 random(options.seed + 1);
  std::normal_distribution<double> normal;
  for (double& value : v.values) value = normal(random);
  auto sent = pool.alloc<double>(Use::in, {columns, width});
  auto image = pool.alloc<double>(Use::out, {columns, width});
  for (iterations = 1; iterations <= 200; ++iterations) {
    orthonormalise(v);
    sent.copy_in(v.values.data(), v.values.size());
    times.measure("iterations, server",
                  [&] { pool.matmul(covariance, sent, Transpose::none, image); });
    const Matrix y = copy_of(image);
    const Eigen small = eigen_of(transposed_product(v, y));
    const Matrix ritz = product(v, small.vectors);
    v = product(y, small.vectors);
    double worst = 0;
    for (std::int64_t p = 0; p < options.k; ++p)
      worst = std::max(worst, residual(v, ritz, small.values[static_cast<std::size_t>(p)], p));
    if (worst <= kTolerance * small.values[0])
      return {{small.values.begin(), small.values.begin() + options.k},
              first_columns(ritz, options.k)};
  }
  throw std::runtime_error("no convergence in 200 rounds");
}

/// Whether V^T V is 1 and C v = l v, with a product of our own.
bool check(const airlock::pool::Array<double>& covariance, const Eigen& found) {
  const std::int64_t k = found.vectors.columns;
  const Matrix gram = transposed_product(found.vectors, found.vectors);
  double orthonormal = 0;
  for (std::int64_t p = 0; p < k; ++p)
    for (std::int64_t q = 0; q < k; ++q)
      orthonormal = std::max(orthonormal, std::fabs(gram.row(p)[q] - (p == q ? 1 : 0)));
  const std::int64_t n = found.vectors.rows;
  Matrix image(n, k);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j)
      for (std::int64_t p = 0; p < k; ++p)
        image.row(i)[p] +=
            covariance[static_cast<std::size_t>(i * n + j)] * found.vectors.row(j)[p];
  double worst = 0;
  for (std::int64_t p = 0; p < k; ++p)
    worst = std::max(worst,
                     residual(image, found.vectors, found.values[static_cast<std::size_t>(p)], p));
  worst /= found.values[0];
  const bool is_right = orthonormal <= 1e-9 && worst <= 1e-9;
  say("check: |V^T V - 1| %.1e, |C v - l v| / l1 %.1e: %s", orthonormal, worst,
      is_right ? "within 1e-9" : "WRONG");
  return is_right;
}

struct Memory {
  long rss_kib = 0, shared_kib = 0;
};

Memory memory_now() {
  Memory memory;
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    long kib = 0;
    words >> name >> kib;
    if (name == "VmRSS:") memory.rss_kib = kib;
    if (name == "RssShmem:") memory.shared_kib = kib;
  }
  return memory;
}

void print(const std::string& when, const Memory& memory) {
  say("memory %s: VmRSS %ld KiB, RssShmem %ld KiB", when.c_str(), memory.rss_kib,
      memory.shared_kib);
}

/// fit and transform, and all memory given back. Whether it is right.
bool analyse(airlock::pool::Pool& pool, const Options& options, bool is_checked, Times& times,
             int& iterations, std::vector<double>& variances) {
  auto x = pool.alloc<double>(Use::scratch, {options.rows, options.columns});
  times.measure("make the matrix", [&] { fill(x.data(), options); });
  times.measure("center", [&] { center(x.data(), options.rows, options.columns); });
  auto covariance = pool.alloc<double>(Use::scratch, {options.columns, options.columns});
  times.measure("covariance, server", [&] { pool.matmul(x, x, Transpose::a, covariance); });
  Eigen found{{}, Matrix(0, 0)};
  times.measure("eigenvectors",
                [&] { found = largest_eigenpairs(pool, covariance, options, times, iterations); });

  auto v = pool.alloc<double>(Use::in, {options.columns, options.k});
  v.copy_in(found.vectors.values.data(), found.vectors.values.size());
  auto transformed = pool.alloc<double>(Use::out, {options.rows, options.k});
  times.measure("transform, server", [&] { pool.matmul(x, v, Transpose::none, transformed); });
  const Matrix result = copy_of(transformed);

  variances.clear();
  for (const double value : found.values)
    variances.push_back(value / static_cast<double>(options.rows - 1));
  bool is_right = true;
  if (is_checked) {
    times.measure("check", [&] { is_right = check(covariance, found); });
    // T^T T is the diagonal of the eigenvalues.
    const Matrix gram = transposed_product(result, result);
    double worst = 0;
    for (std::int64_t p = 0; p < options.k; ++p)
      for (std::int64_t q = 0; q < options.k; ++q)
        worst = std::max(
            worst,
            std::fabs(gram.row(p)[q] - (p == q ? found.values[static_cast<std::size_t>(p)] : 0)));
    worst /= found.values[0];
    say("check: |T^T T - diag(l)| / l1 %.1e: %s", worst, worst <= 1e-9 ? "within 1e-9" : "WRONG");
    is_right = is_right && worst <= 1e-9;
  }
  return is_right;
}

int run(const Options& options) {
  const auto start = std::chrono::steady_clock::now();
  airlock_pool_options connect = airlock::pool::Pool::options_for(options.endpoint.c_str());
  connect.client = "pca";
  connect.op_timeout_ms = 3600000;
  airlock::pool::Pool pool(connect);
  say("%lld x %lld double, %lld MiB, %lld components; server: %s",
      static_cast<long long>(options.rows), static_cast<long long>(options.columns),
      static_cast<long long>(options.rows * options.columns * 8 >> 20),
      static_cast<long long>(options.k), pool.device().c_str());
  print("at start", memory_now());
  bool is_right = true;
  int iterations = 0;
  std::vector<double> variances;
  Memory first, last;
  for (std::int64_t round = 0; round < options.rounds; ++round) {
    Times times;
    is_right = analyse(pool, options, options.check && round == 0, times, iterations, variances) &&
               is_right;
    last = memory_now();
    if (round == 0) first = last;
    if (round + 1 == options.rounds) times.print();
  }
  std::ostringstream text;
  text.precision(4);
  for (std::size_t i = 0; i < std::min<std::size_t>(variances.size(), 10); ++i)
    text << ' ' << variances[i];
  say("%d rounds of iteration; variances:%s", iterations, text.str().c_str());
  if (options.rounds > 1) {
    print("after round 1", first);
    print("after round " + std::to_string(options.rounds), last);
    const bool is_flat =
        last.rss_kib - first.rss_kib <= 8192 && last.shared_kib - first.shared_kib <= 8192;
    say("memory: %s", is_flat ? "flat" : "GROWS");
    is_right = is_right && is_flat;
  }
  const airlock_pool_stats stats = pool.stats();
  say("bytes of products by path: pool %llu, ring %llu, zmq %llu",
      static_cast<unsigned long long>(stats.pool_bytes),
      static_cast<unsigned long long>(stats.ring_bytes),
      static_cast<unsigned long long>(stats.sent_bytes));
  const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - start;
  say("whole: %.3f s", whole.count());
  if (stats.sent_bytes == 0) return is_right ? 0 : 1;
  say("WRONG: %llu bytes were sent: not all arrays had room in a lease",
      static_cast<unsigned long long>(stats.sent_bytes));
  return 1;
}

/// Each a session of its own, on a thread of its own.
int run_clients(const Options& options) {
  if (options.clients == 1) return run(options);
  say("%lld clients, each with %lld MiB of scratch; 4 of the default size need gpu_server --pool "
      "large",
      static_cast<long long>(options.clients),
      static_cast<long long>((options.rows + options.columns) * options.columns * 8 >> 20));
  std::vector<std::future<int>> clients;
  for (std::int64_t i = 0; i < options.clients; ++i) {
    Options of_client = options;
    of_client.seed += static_cast<std::uint64_t>(i);
    clients.push_back(std::async(std::launch::async, [of_client, i] {
      prefix = "client " + std::to_string(i) + ": ";
      return run(of_client);
    }));
  }
  int failed = 0;
  for (auto& client : clients) {
    try {
      failed += client.get() != 0;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "pca: %s\n", error.what());
      ++failed;
    }
  }
  say("all clients: %d failed", failed);
  return failed == 0 ? 0 : 1;
}

std::int64_t number(const char* name, const char* text) {
  char* end = nullptr;
  const long long value = std::strtoll(text, &end, 10);
  if (end == text || *end != '\0' || value < 1)
    throw std::runtime_error(std::string(name) + ": not a number: " + text);
  return value;
}

Options parse(int count, char** words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word == "--check") {
      options.check = true;
      continue;
    }
    if (i + 1 == count) throw std::runtime_error("unknown, or without its value: " + word);
    const char* const value = words[++i];
    if (word == "--endpoint")
      options.endpoint = value;
    else if (word == "--rows")
      options.rows = number("--rows", value);
    else if (word == "--columns")
      options.columns = number("--columns", value);
    else if (word == "-k")
      options.k = number("-k", value);
    else if (word == "--rank")
      options.rank = number("--rank", value);
    else if (word == "--seed")
      options.seed = static_cast<std::uint64_t>(number("--seed", value));
    else if (word == "--clients")
      options.clients = number("--clients", value);
    else if (word == "--rounds")
      options.rounds = number("--rounds", value);
    else
      throw std::runtime_error("unknown: " + word);
  }
  if (options.k > std::min(options.rows, options.columns))
    throw std::runtime_error("-k is larger than the matrix");
  return options;
}

}  // namespace

int main(int count, char** words) {
  try {
    return run_clients(parse(count, words));
  } catch (const std::exception& error) {
    std::fprintf(
        stderr,
        "pca: %s\nusage: pca [--endpoint E] [--rows N] [--columns N] [-k N] [--rank N] [--seed N] "
        "[--rounds N] [--clients N] [--check]\n",
        error.what());
    return 1;
  }
}
