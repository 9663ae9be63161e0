// Threads, and memory to work in: what a call needs besides its arguments.
//
// Whatever is here is a template or has its instruction set's name, and no header of
// the standard library that brings functions is included by kernels: a function that
// several instruction sets share would be kept once, in a form that not every machine
// can run.
#pragma once
#include <cstdlib>
#include <cstring>
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

// A table [B, C], or one row [C] of it that the samples use in turn.
template <class N>
struct Table {
  N *start;
  int64_t stride;
  N *operator()(int64_t b, int64_t c = 0) const { return start + b * stride + c; }
};

// Tables to work with, all in one piece of memory: first they are asked for, then they
// get their place.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch &) = delete;
  ~Scratch() { std::free(start_); }

  template <class N>
  void ask(N *&table, int64_t size) {
    asked_[count_++] = {&table, bytes_};
    bytes_ += (size * int64_t(sizeof(N)) + 63) / 64 * 64;
  }
  template <class N>
  void ask(std::initializer_list<Table<N> *> tables, int64_t samples, int64_t columns) {
    for (Table<N> *table : tables) {
      ask(table->start, samples * columns);
      table->stride = samples > 1 ? columns : 0;
    }
  }

  // False if there is no memory.
  bool place() {
    start_ = (char *)std::malloc(bytes_);
    for (int i = 0; i < count_ && start_; i++) {
      char *const table = start_ + asked_[i].at;
      std::memcpy(asked_[i].pointer, &table, sizeof table);
    }
    return start_;
  }

 private:
  struct Asked {
    void *pointer;
    int64_t at;
  };
  Asked asked_[24];
  int count_ = 0;
  int64_t bytes_ = 0;
  char *start_ = nullptr;
};

}  // namespace bcn::BCN_KERNELS
