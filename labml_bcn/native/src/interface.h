// What the library offers to Python: functions of C, and the arguments they take.
//
// Python packs each structure as a row of eight-byte fields, in this order. Tensors
// come as pointers to their first value. B samples, C channels, L positions, G groups
// of D = C / G channels, as on the annotated page of the layer.
#pragma once
#include <cstdint>

namespace bcn {

// What the batch norm normalizes with.
enum How : int64_t {
  EVALUATION = 0,           // the running statistics
  AROUND_BATCH_MEAN = 1,    // the running ones, moved by the batch's variance
  AROUND_RUNNING_MEAN = 2,  // the same, with the variance around the running mean
  PLAIN = 3,                // the batch's own; the running ones learn along
};

struct Sizes {
  int64_t samples, channels, positions, groups;
  int64_t bfloat16;       // else float32; x, y and their like
  int64_t channels_last;  // x lies as [B, L, C], else as [B, C, L]
};

// gamma and beta of the batch norm [C] and of the channel norm [G], in float32.
// A null pointer stands for ones, or for zeros.
struct Weights {
  const float *gamma_c, *beta_c, *gamma_g, *beta_g;
  double eps_c, eps_g;
};

struct Forward {
  Sizes sizes;
  Weights weights;
  const void *x, *residual;  // residual: null, or added to the output
  void *y;
  float *exp_mean, *exp_var;  // [C], moved in training
  double momentum;
  int64_t how, relu;
  // For the backward pass: mu [B, C], v [B, C], m [C], rho [C], in one row.
  double *saved;
};

struct Backward {
  Sizes sizes;
  Weights weights;
  const void *x, *dy;
  const void *y;  // the output, if relu followed a residual; else null
  void *dx;           // null if nobody asks for it
  void *d_residual;   // null, or dy where relu let it through
  const double *saved;
  float *d_gamma_c, *d_beta_c, *d_gamma_g, *d_beta_g;
  int64_t plain, relu;
};

// Weight standardization of filters [O, I]: w -> gain (w - mean) / sqrt(var + eps).
struct Standardize {
  const void *w;
  const void *gradient;  // of the result; null in the forward pass
  void *out;             // the result, or the gradient of w
  double *saved;         // mean and variance of each filter, [O, 2]
  int64_t filters, elements, bfloat16;
  double eps, gain;
};

// The four passes alone, for statistics that several processes share. Tables are
// float64, [B, C].
struct Pass {
  Sizes sizes;
  const void *x, *dy;
  void *out;                            // y or dx
  double *mu, *v;                       // written by measure, read by the others
  const double *slope, *offset;         // apply: slope (x - mu) + offset
  double *s, *t;                        // sums: of dy, and of dy (x - mu)
  const double *q, *r;                  // combine: slope dy + q (x - mu) + r
};

// How a call ended. After anything but DONE what it should have written is undefined.
enum Status : int64_t { DONE = 0, NO_MEMORY = 1, THREADS_FAILED = 2 };

// torch_parallel_for: calls body(begin, end, context) for ranges that make up the whole
// one, each of at least `grain` items. Not zero: an error.
typedef int (*ParallelFor)(int64_t begin, int64_t end, int64_t grain,
                           void (*body)(int64_t, int64_t, void *), void *context);
struct Threads {
  ParallelFor run;
  int64_t count;
};

}  // namespace bcn

#if defined(_WIN32)
#define BCN_API extern "C" __declspec(dllexport)
#else
#define BCN_API extern "C" __attribute__((visibility("default")))
#endif

// Grows whenever a structure or a function changes.
BCN_API int64_t bcn_interface();
// "AVX-512", "AVX2" or "base": chosen while running, lowered by the environment
// variable LABML_BCN_INSTRUCTIONS (avx512, avx2, base).
BCN_API const char *bcn_instructions();
// torch_parallel_for of libtorch_cpu: the kernels run in PyTorch's own threads.
BCN_API void bcn_use_threads_of(void *parallel_for);
// These return a Status. `threads` of one or less: all in the calling thread.
BCN_API int64_t bcn_forward(const bcn::Forward *, int64_t threads);
BCN_API int64_t bcn_backward(const bcn::Backward *, int64_t threads);
BCN_API int64_t bcn_standardize(const bcn::Standardize *, int64_t threads);
BCN_API int64_t bcn_standardize_backward(const bcn::Standardize *, int64_t threads);
BCN_API int64_t bcn_measure(const bcn::Pass *, int64_t threads);
BCN_API int64_t bcn_apply(const bcn::Pass *, int64_t threads);
BCN_API int64_t bcn_sums(const bcn::Pass *, int64_t threads);
BCN_API int64_t bcn_combine(const bcn::Pass *, int64_t threads);
