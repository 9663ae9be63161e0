// Weight standardization: filters are rows, and their tables one number long.
#pragma once
#include "tables.h"

namespace bcn::BCN_KERNELS {

// So many filters take turns with the tables.
constexpr int64_t TURN = 8;

struct FilterLines {
  float mean[TURN], slope[TURN], offset[TURN], q[TURN], r[TURN];
  Lines lines() { return {mean, slope, offset, q, r}; }
};

// f(first filter, count) for all filters, few at a time.
template <class F>
Status by_filters(const Standardize &f, int64_t values_each, Threads threads,
                  F &&turn) {
  Team team(threads);
  team.each(f.filters, values_each, [&](int64_t o, int64_t end) {
    for (; o < end; o += TURN) turn(o, end - o < TURN ? end - o : TURN);
  });
  return team.status();
}

template <class T>
Status standardize(const Standardize &f, Threads threads) {
  return by_filters(f, f.elements, threads, [&](int64_t o, int64_t count) {
    double mean[TURN], var[TURN];
    FilterLines table;
    const T *const w = (const T *)f.w + o * f.elements;
    measure_rows(w, count, f.elements, mean, var);
    for (int64_t i = 0; i < count; i++) {
      const double slope = f.gain / __builtin_sqrt(var[i] + f.eps);
      table.mean[i] = whole(mean[i]);
      table.slope[i] = float(slope);
      table.offset[i] = float(-slope * left(mean[i]));
      f.saved[2 * (o + i)] = mean[i];
      f.saved[2 * (o + i) + 1] = var[i];
    }
    apply_rows<T, false, false>(w, nullptr, (T *)f.out + o * f.elements, count,
                                f.elements, table.lines());
  });
}

// With rho = 1 / sqrt(var + eps) and the sums S and T of a filter's gradient,
// dw = gain rho (dy - S / I - rho^2 T / I (w - mean)).
template <class T>
Status standardize_backward(const Standardize &f, Threads threads) {
  return by_filters(f, 2 * f.elements, threads, [&](int64_t o, int64_t count) {
    double s[TURN], t[TURN];
    FilterLines table{};
    const int64_t at = o * f.elements;
    const T *const w = (const T *)f.w + at, *const dy = (const T *)f.gradient + at;
    for (int64_t i = 0; i < count; i++) table.mean[i] = whole(f.saved[2 * (o + i)]);
    sum_rows<T, Gate::OPEN>(w, dy, nullptr, count, f.elements, table.lines(), s, t);
    for (int64_t i = 0; i < count; i++) {
      const double rest = left(f.saved[2 * (o + i)]);
      const double rho = 1 / __builtin_sqrt(f.saved[2 * (o + i) + 1] + f.eps);
      const double slope = f.gain * rho, share = slope / f.elements;
      const double q = -share * rho * rho * (t[i] - rest * s[i]);
      table.slope[i] = float(slope);
      table.q[i] = float(q);
      table.r[i] = float(-share * s[i] - q * rest);
    }
    combine_rows<T, Gate::OPEN>(w, dy, nullptr, (T *)f.out + at, nullptr, count,
                                f.elements, table.lines());
  });
}

}  // namespace bcn::BCN_KERNELS
