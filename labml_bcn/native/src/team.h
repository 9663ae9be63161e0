// Threads, and memory to work in: what a call needs besides its arguments.
//
// Whatever is here is a template or has its instruction set's name, and no header of
// the standard library that brings functions is included by kernels: a function that
// several instruction sets share would be kept once, in a form that not every machine
// can run.
#pragma once
#include <cstdlib>
#include <initializer_list>

#include "interface.h"

namespace bcn::BCN_KERNELS {

inline int64_t at_most(int64_t value, int64_t limit) {
  return value < limit ? value : limit;
}
inline int64_t at_least(int64_t value, int64_t limit) {
  return value > limit ? value : limit;
}

// A pointer that may be null, so many values further.
template <class T>
T *further(T *p, int64_t values) {
  return p ? p + values : nullptr;
}

// Values below which another thread is not worth waking.
constexpr int64_t GRAIN = 32768;

class Team {
 public:
  explicit Team(Threads threads) : threads_(threads) {}

  int64_t size() const { return threads_.run ? threads_.count : 1; }

  // f(begin, end) for ranges that make up [0, items), in several threads if they are
  // worth it. Which ranges these are must not change a result.
  template <class F>
  void each(int64_t items, int64_t values_each, F &&f) {
    const int64_t grain = at_least(1, GRAIN / at_least(1, values_each));
    if (size() <= 1 || items <= grain) {
      f(int64_t(0), items);
    } else if (threads_.run(0, items, grain, call<F>, (void *)&f)) {
      failed_ = true;
    }
  }

  Status status() const { return failed_ ? THREADS_FAILED : DONE; }

 private:
  template <class F>
  static void call(int64_t begin, int64_t end, void *f) {
    (*(F *)f)(begin, end);
  }

  Threads threads_;
  bool failed_ = false;
};

// Tables to work with, all from one piece of memory: first those of doubles, then those
// of floats.
class Scratch {
 public:
  Scratch(int64_t doubles, int64_t floats)
      : start_(std::malloc(8 * doubles + 4 * floats + 8)), doubles_((double *)start_),
        floats_(start_ ? (float *)(doubles_ + doubles) : nullptr) {}
  ~Scratch() { std::free(start_); }
  Scratch(const Scratch &) = delete;

  bool missing() const { return !start_; }
  double *doubles(int64_t n) { return (doubles_ += n) - n; }
  float *floats(int64_t n) { return (floats_ += n) - n; }

 private:
  void *start_;
  double *doubles_;
  float *floats_;
};

}  // namespace bcn::BCN_KERNELS
