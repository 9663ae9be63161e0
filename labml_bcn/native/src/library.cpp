// The C interface, and the choice of an instruction set while running.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace bcn {
namespace {

#if defined(__x86_64__) || defined(_M_X64)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

const Kernels &choose() {
  const char *const given = std::getenv("LABML_BCN_INSTRUCTIONS");
  const char *const highest = given ? given : "";
  __builtin_cpu_init();
  if (!std::strcmp(highest, "base") || !has_avx2()) return base::kernels;
  if (!std::strcmp(highest, "avx2") || !has_avx512()) return avx2::kernels;
  return avx512::kernels;
}
#else
const Kernels &choose() { return base::kernels; }
#endif

const Kernels &chosen() {
  static const Kernels &kernels = choose();
  return kernels;
}

ParallelFor parallel_for = nullptr;

}  // namespace
}  // namespace bcn

using bcn::chosen;

int64_t bcn_interface() { return 1; }
const char *bcn_instructions() { return chosen().instructions; }
void bcn_use_threads_of(void *parallel_for) {
  bcn::parallel_for = (bcn::ParallelFor)parallel_for;
}
int64_t bcn_forward(const bcn::Forward *f, int64_t threads) {
  return chosen().forward(*f, {bcn::parallel_for, threads});
}
int64_t bcn_backward(const bcn::Backward *f, int64_t threads) {
  return chosen().backward(*f, {bcn::parallel_for, threads});
}
int64_t bcn_standardize(const bcn::Standardize *f, int64_t threads) {
  return chosen().standardize(*f, {bcn::parallel_for, threads});
}
int64_t bcn_standardize_backward(const bcn::Standardize *f, int64_t threads) {
  return chosen().standardize_backward(*f, {bcn::parallel_for, threads});
}
int64_t bcn_measure(const bcn::Pass *pass, int64_t threads) {
  return chosen().measure(*pass, {bcn::parallel_for, threads});
}
int64_t bcn_apply(const bcn::Pass *pass, int64_t threads) {
  return chosen().apply(*pass, {bcn::parallel_for, threads});
}
int64_t bcn_sums(const bcn::Pass *pass, int64_t threads) {
  return chosen().sums(*pass, {bcn::parallel_for, threads});
}
int64_t bcn_combine(const bcn::Pass *pass, int64_t threads) {
  return chosen().combine(*pass, {bcn::parallel_for, threads});
}
