/* airlock_pool.h as C11 sees it, against the server at argv[1]: arrays, products, errors. Exit 0:
 * all was as it says. */
#include <airlock_pool.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { M = 70, K = 50, N = 90 };

static void expect(int is_right, const char* what) {
  if (is_right) return;
  fprintf(stderr, "try_pool: WRONG: %s (%s)\n", what, airlock_pool_error());
  exit(1);
}

static airlock_array* alloc(airlock_pool* pool, airlock_use use, int64_t rows, int64_t columns) {
  const int64_t shape[2] = {rows, columns};
  airlock_array* array = NULL;
  expect(airlock_pool_alloc(pool, use, AIRLOCK_FP64, 2, shape, &array) == AIRLOCK_OK, "alloc");
  return array;
}

static void fill(airlock_array* array, double step) {
  double* const values = airlock_array_view(array);
  const size_t count = airlock_array_bytes(array) / sizeof(double);
  for (size_t i = 0; i < count; ++i) values[i] = sin(step * (double)(i + 1));
}

/* a and b lie as `transpose` says; result [M, N]. */
static void expect_product(airlock_array* a, airlock_array* b, airlock_transpose transpose,
                           airlock_array* result) {
  const double* const x = airlock_array_view(a);
  const double* const y = airlock_array_view(b);
  double* const copy = malloc(airlock_array_bytes(result));
  expect(copy != NULL &&
             airlock_array_copy_out(result, 0, copy, airlock_array_bytes(result)) == AIRLOCK_OK,
         "copy_out");
  for (size_t i = 0; i < M; ++i) {
    for (size_t j = 0; j < N; ++j) {
      double sum = 0;
      for (size_t p = 0; p < K; ++p)
        sum += x[transpose == AIRLOCK_TRANSPOSE_A ? p * M + i : i * K + p] *
               y[transpose == AIRLOCK_TRANSPOSE_B ? j * K + p : p * N + j];
      expect(fabs(sum - copy[i * N + j]) < 1e-12 * K, "a product");
    }
  }
  free(copy);
}

static void products(airlock_pool* pool) {
  airlock_array* const result = alloc(pool, AIRLOCK_OUT, M, N);
  expect(airlock_array_is_inside(result), "50400 bytes lie in the lease");
  for (int transpose = AIRLOCK_NO_TRANSPOSE; transpose <= AIRLOCK_TRANSPOSE_B; ++transpose) {
    airlock_array* const a = transpose == AIRLOCK_TRANSPOSE_A ? alloc(pool, AIRLOCK_IN, K, M)
                                                              : alloc(pool, AIRLOCK_IN, M, K);
    airlock_array* const b = transpose == AIRLOCK_TRANSPOSE_B ? alloc(pool, AIRLOCK_IN, N, K)
                                                              : alloc(pool, AIRLOCK_IN, K, N);
    fill(a, 0.7);
    fill(b, 0.3);
    expect(airlock_pool_matmul(a, b, (airlock_transpose)transpose, result) == AIRLOCK_OK, "matmul");
    expect_product(a, b, (airlock_transpose)transpose, result);
    airlock_array_free(a);
    airlock_array_free(b);
  }
  airlock_array_free(result);
}

static void copies(airlock_pool* pool) {
  const double values[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  double back[12] = {0};
  airlock_array* const array = alloc(pool, AIRLOCK_IN, 3, 4);
  expect(!airlock_array_is_inside(array), "96 bytes lie in this program");
  expect(airlock_array_bytes(array) == sizeof(values), "bytes");
  expect(airlock_array_copy_in(array, 0, values, sizeof(values)) == AIRLOCK_OK, "copy_in");
  expect(airlock_array_copy_out(array, 8, back, sizeof(values) - 8) == AIRLOCK_OK,
         "copy_out from 8 on");
  expect(memcmp(back, values + 1, sizeof(values) - 8) == 0, "what was copied");
  expect(airlock_array_copy_in(array, 8, values, sizeof(values)) == AIRLOCK_INVALID,
         "past the end");
  expect(airlock_array_copy_in(array, SIZE_MAX, values, 2) == AIRLOCK_INVALID,
         "an offset that wraps");
  expect(airlock_array_copy_out(array, 96, back, 0) == AIRLOCK_OK, "nothing, at the end");
  airlock_array_free(array);
}

static void errors(airlock_pool* pool) {
  const int64_t square[2] = {60, 60};
  const int64_t negative[2] = {-1, 60};
  const int64_t huge[2] = {1 << 20, 256};
  airlock_array* none = NULL;
  expect(airlock_pool_alloc(NULL, AIRLOCK_IN, AIRLOCK_FP64, 2, square, &none) == AIRLOCK_INVALID,
         "no session");
  expect(strlen(airlock_pool_error()) > 0, "an error has words");
  expect(airlock_pool_alloc(pool, AIRLOCK_IN, AIRLOCK_FP64, 0, square, &none) == AIRLOCK_INVALID,
         "rank 0");
  expect(airlock_pool_alloc(pool, AIRLOCK_IN, AIRLOCK_FP64, 5, square, &none) == AIRLOCK_INVALID,
         "rank 5");
  expect(airlock_pool_alloc(pool, AIRLOCK_IN, AIRLOCK_FP64, 2, negative, &none) == AIRLOCK_INVALID,
         "a negative extent");
  expect(
      airlock_pool_alloc(pool, (airlock_use)3, AIRLOCK_FP64, 2, square, &none) == AIRLOCK_INVALID,
      "a use");
  expect(
      airlock_pool_alloc(pool, AIRLOCK_IN, (airlock_dtype)7, 2, square, &none) == AIRLOCK_INVALID,
      "a type");
  expect(airlock_pool_alloc(pool, AIRLOCK_IN, AIRLOCK_FP64, 2, huge, &none) == AIRLOCK_NO_ROOM &&
             none == NULL,
         "2 GiB");
  expect(strstr(airlock_pool_error(), "2147483648") != NULL, "what was needed is named");

  airlock_array* const a = alloc(pool, AIRLOCK_IN, 60, 60);
  airlock_array* const b = alloc(pool, AIRLOCK_IN, 61, 60);
  airlock_array* const result = alloc(pool, AIRLOCK_OUT, 60, 60);
  expect(airlock_pool_matmul(a, b, AIRLOCK_NO_TRANSPOSE, result) == AIRLOCK_INVALID,
         "60 x 60 by 61 x 60");
  expect(airlock_pool_matmul(a, a, AIRLOCK_NO_TRANSPOSE, a) == AIRLOCK_INVALID, "in place");
  expect(airlock_pool_matmul(a, NULL, AIRLOCK_NO_TRANSPOSE, result) == AIRLOCK_INVALID,
         "no operand");
  expect(airlock_job_wait(NULL) == AIRLOCK_INVALID, "no job");
  airlock_array_free(a);
  airlock_array_free(b);
  airlock_array_free(result);
  airlock_array_free(NULL);
  airlock_job_free(NULL);
  airlock_pool_close(NULL);
}

int main(int count, char** words) {
  expect(count == 2, "usage: try_pool ENDPOINT");
  airlock_pool_options options = {0};
  options.struct_size = sizeof(options);
  options.endpoint = words[1];
  options.client = "try_pool";
  airlock_pool* pool = NULL;
  expect(airlock_pool_connect(&options, &pool) == AIRLOCK_OK, "connect");
  copies(pool);
  products(pool);
  errors(pool);

  airlock_array* const a = alloc(pool, AIRLOCK_IN, 60, 60);
  airlock_array* const result = alloc(pool, AIRLOCK_SCRATCH, 60, 60);
  airlock_array* const next = alloc(pool, AIRLOCK_OUT, 60, 60);
  fill(a, 0.1);
  airlock_job* first = NULL;
  airlock_job* second = NULL;
  expect(airlock_pool_matmul_start(a, a, AIRLOCK_NO_TRANSPOSE, result, &first) == AIRLOCK_OK,
         "start");
  expect(airlock_pool_matmul_start(result, a, AIRLOCK_NO_TRANSPOSE, next, &second) == AIRLOCK_OK,
         "start on a result");
  expect(airlock_job_wait(second) == AIRLOCK_OK && airlock_job_wait(second) == AIRLOCK_OK,
         "wait, twice");
  airlock_job_free(second);
  airlock_job_free(first);

  airlock_pool_stats stats = {0};
  stats.struct_size = sizeof(stats);
  expect(airlock_pool_get_stats(pool, &stats) == AIRLOCK_OK, "stats");
  expect(stats.arrays == 3 && stats.products == 5 && stats.sent_bytes == 0 && stats.ring_bytes == 0,
         "what was counted");
  expect(airlock_pool_check(pool) == AIRLOCK_OK, "check");
  airlock_job* last = NULL;
  expect(airlock_pool_matmul_start(a, a, AIRLOCK_NO_TRANSPOSE, next, &last) == AIRLOCK_OK, "start");
  airlock_pool_close(pool);
  expect(airlock_job_wait(last) == AIRLOCK_UNAVAILABLE, "a job after the session");
  airlock_job_free(last);
  airlock_array_free(a);
  airlock_array_free(result);
  airlock_array_free(next);
  printf("try_pool: all right, %s\n", airlock_pool_version());
  return 0;
}
