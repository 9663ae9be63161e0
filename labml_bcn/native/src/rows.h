// The four passes over rows: over values of one sample and channel, side by side.
#pragma once
#include "vectors.h"

namespace bcn::BCN_KERNELS {

// Where relu lets a gradient through: everywhere, for there is none; where the output
// that it had, computed anew from x, is positive; where the output y is.
enum class Gate { OPEN, BY_X, BY_Y };

// Floats that stand beside rows: a number of each table for each row.
struct Lines {
  float *mean, *slope, *offset, *q, *r;
};

// Beside one huge value, small ones vanish from a sum in float32. So a sum is of few
// values, then of few such sums, and from there on in float64.
constexpr int64_t FEW = 16;
constexpr int64_t SHORT = FEW * 2 * BLOCK, LONG = FEW * SHORT;

// f(position, count) for the pieces of a length.
template <class F>
BCN_INLINE void by_pieces(int64_t length, int64_t piece, F &&f) {
  for (int64_t at = 0; at < length; at += piece)
    f(at, length - at < piece ? length - at : piece);
}

// f(position, count) for each block of a row. The count is known while compiling, but
// for the last block, which may be short.
template <class F>
BCN_INLINE void by_block(int64_t length, F &&f) {
  int64_t i = 0;
  for (; i + BLOCK <= length; i += BLOCK) f(i, BLOCK);
  if (i < length) f(i, int(length - i));
}

// The map that a layer is.
BCN_INLINE Block affine(Block distance, Block slope, Block offset) {
  return distance * slope + offset;
}
// What relu lets through: all but where its output is zero, so NaN too, as in PyTorch.
BCN_INLINE Vector where_open(Vector output, Vector v) {
  return output <= 0 ? Vector{} : v;
}
BCN_INLINE Block where_open(Block output, Block v) {
  return {where_open(output.a, v.a), where_open(output.b, v.b)};
}

// Sums over a row: of x - pivot and of its square, or of dy and of dy (x - mean).
struct Totals {
  double first, second;
};

// f(position, count, first, second) adds those of few values to blocks.
template <class F>
BCN_INLINE Totals sum_row(int64_t length, F &&f) {
  Totals result{};
  by_pieces(length, LONG, [&](int64_t at, int64_t many) BCN_INLINE_LAMBDA {
    Block first{}, second{};
    by_pieces(many, SHORT, [&](int64_t start, int64_t few) BCN_INLINE_LAMBDA {
      f(at + start, few, first, second);
    });
    const Sums part = sums(first, second);
    result.first += part.first;
    result.second += part.second;
  });
  return result;
}

// The same for all rows: f(row, position, count, first, second). Of four short rows the
// lanes are added up together, in the same order as those of one.
template <class F>
BCN_INLINE void sum_each_row(int64_t rows, int64_t length, double *first,
                             double *second, F &&f) {
  int64_t row = 0;
  for (; length <= SHORT && row + 4 <= rows; row += 4) {
    Four firsts[4], seconds[4];
    for (int k = 0; k < 4; k++) {
      Block a{}, b{};
      f(row + k, 0, length, a, b);
      firsts[k] = folded(a.a + a.b), seconds[k] = folded(b.a + b.b);
    }
    const Four a = sums(firsts), b = sums(seconds);
    for (int k = 0; k < 4; k++) first[row + k] = a[k], second[row + k] = b[k];
  }
  for (; row < rows; row++) {
    const Totals total = sum_row(
        length, [&](int64_t at, int64_t few, Block &a, Block &b) BCN_INLINE_LAMBDA {
          f(row, at, few, a, b);
        });
    first[row] = total.first, second[row] = total.second;
  }
}

// Adds x - pivot and its square over few values.
template <class T>
BCN_INLINE void add_around(Block pivot, const T *x, int64_t few, Block &first,
                           Block &second) {
  // Two chains of sums, for one would wait for itself.
  Block even{}, even_squares{}, odd{}, odd_squares{};
  int64_t i = 0;
  for (; i + 2 * BLOCK <= few; i += 2 * BLOCK) {
    const Block d = load(x + i) - pivot, e = load(x + i + BLOCK) - pivot;
    even = even + d, even_squares = even_squares + d * d;
    odd = odd + e, odd_squares = odd_squares + e * e;
  }
  by_block(few - i, [&](int64_t j, int n) BCN_INLINE_LAMBDA {
    const Block d = read(x + i + j, n, pivot) - pivot;
    even = even + d, even_squares = even_squares + d * d;
  });
  first = first + (even + odd), second = second + (even_squares + odd_squares);
}

// A row whose pivot turned out to lie far from its mean: digits were lost. Around the
// mean none are.
template <class T>
BCN_ALONE void measure_again(const T *x, int64_t length, double *mu, double *v) {
  const float pivot = float(*mu);
  const Totals total = sum_row(
      length, [&](int64_t at, int64_t few, Block &a, Block &b) BCN_INLINE_LAMBDA {
        add_around(both(pivot), x + at, few, a, b);
      });
  const double shift = total.first / length;
  const double var = total.second / length - shift * shift;
  *mu = pivot + shift;
  *v = var < 0 ? 0 : var;
}

// In units of the standard deviation, how far is far: squared.
constexpr double FAR = 16;

// mu and v of each row, in one pass around the row's first value.
template <class T>
BCN_ALONE void measure_rows(const T *x, int64_t rows, int64_t length, double *mu,
                            double *v) {
  // They are sums at first.
  sum_each_row(rows, length, mu, v,
               [&](int64_t row, int64_t at, int64_t few, Block &a,
                   Block &b) BCN_INLINE_LAMBDA {
    const T *const start = x + row * length;
    add_around(both(number(*start)), start + at, few, a, b);
  });
  const double share = 1.0 / length;
  BCN_APART
  for (int64_t row = 0; row < rows; row++) {
    const double shift = mu[row] * share, var = v[row] * share - shift * shift;
    mu[row] = number(x[row * length]) + shift;
    v[row] = shift * shift <= FAR * var ? var : -1;
  }
  for (int64_t row = 0; row < rows; row++)
    if (v[row] < 0) measure_again(x + row * length, length, mu + row, v + row);
}

// y = slope (x - mean) + offset, + residual, through relu.
template <class T, bool RELU, bool RESIDUAL>
BCN_ALONE void apply_rows(const T *x, const T *residual, T *y, int64_t rows,
                          int64_t length, Lines lines) {
  for (int64_t row = 0; row < rows; row++) {
    const Block mean = both(lines.mean[row]), slope = both(lines.slope[row]),
                offset = both(lines.offset[row]);
    by_block(length, [&](int64_t i, int n) BCN_INLINE_LAMBDA {
      Block v = affine(read(x + i, n) - mean, slope, offset);
      if (RESIDUAL) v = v + read(residual + i, n);
      if (RELU) v = where_open(v, v);
      write(y + i, n, v);
    });
    x += length, y += length;
    if (RESIDUAL) residual += length;
  }
}

// dy as it comes through relu.
template <class T, Gate GATE>
BCN_INLINE Block gradient(const T *dy, const T *y, int64_t i, int n, Block distance,
                          Block slope, Block offset) {
  const Block v = read(dy + i, n);
  if (GATE == Gate::BY_X) return where_open(affine(distance, slope, offset), v);
  if (GATE == Gate::BY_Y) return where_open(read(y + i, n), v);
  return v;
}

// S = sum of dy and T = sum of dy (x - mean) for each row.
template <class T, Gate GATE>
BCN_ALONE void sum_rows(const T *x, const T *dy, const T *y, int64_t rows,
                        int64_t length, Lines lines, double *s, double *t) {
  sum_each_row(rows, length, s, t,
               [&](int64_t row, int64_t at, int64_t few, Block &first,
                   Block &second) BCN_INLINE_LAMBDA {
    const Block mean = both(lines.mean[row]), slope = both(lines.slope[row]),
                offset = both(lines.offset[row]);
    Block some{}, products{};
    by_block(few, [&](int64_t j, int n) BCN_INLINE_LAMBDA {
      const int64_t i = row * length + at + j;
      const Block d = read(x + i, n, mean) - mean;
      const Block g = gradient<T, GATE>(dy, y, i, n, d, slope, offset);
      some = some + g, products = products + g * d;
    });
    first = first + some, second = second + products;
  });
}

// dx = slope dy + q (x - mean) + r, and what of dy goes to the residual.
template <class T, Gate GATE>
BCN_ALONE void combine_rows(const T *x, const T *dy, const T *y, T *dx, T *d_residual,
                            int64_t rows, int64_t length, Lines lines) {
  for (int64_t row = 0; row < rows; row++) {
    const Block mean = both(lines.mean[row]), slope = both(lines.slope[row]),
                offset = both(lines.offset[row]), q = both(lines.q[row]),
                r = both(lines.r[row]);
    by_block(length, [&](int64_t i, int n) BCN_INLINE_LAMBDA {
      const Block d = read(x + i, n) - mean;
      const Block g = gradient<T, GATE>(dy, y, i, n, d, slope, offset);
      if (GATE == Gate::BY_Y && d_residual) write(d_residual + i, n, g);
      if (dx) write(dx + i, n, slope * g + (q * d + r));
    });
    x += length, dy += length;
    if (dx) dx += length;
    if (GATE == Gate::BY_Y) y += length;
    if (d_residual) d_residual += length;
  }
}

}  // namespace bcn::BCN_KERNELS
