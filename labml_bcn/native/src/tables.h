// What happens on tables, in double: from moments to slopes and offsets, and from the
// two sums of a gradient to the gradients of parameters and the map of the input's.
// The symbols are those of the annotated page of the layer, and so are the formulas.
#pragma once
#include "rows.h"
#include "team.h"

namespace bcn::BCN_KERNELS {

// Sizes, weights and saved tables, in the letters of the page.
struct Layer {
  int64_t B, C, L, G, D;
  Weights weights;
  double *mu, *v, *m = nullptr, *rho_c = nullptr;
  // a and beta of each channel, in scratch memory.
  double *a = nullptr, *beta_c = nullptr;

  Layer(const Sizes &sizes, const Weights &given)
      : B(sizes.samples), C(sizes.channels), L(sizes.positions), G(sizes.groups),
        D(C / G), weights(given) {}
  template <class F>
  explicit Layer(const F &f) : Layer(f.sizes, f.weights) {
    mu = const_cast<double *>(f.saved), v = mu + B * C;
    m = v + B * C, rho_c = m + C;
  }
  // A pass alone has no more than these two tables.
  explicit Layer(const Pass &pass) : Layer(pass.sizes, {}) {
    mu = pass.mu, v = pass.v;
  }

  double gamma_g(int64_t g) const { return weights.gamma_g ? weights.gamma_g[g] : 1; }
  double beta_g(int64_t g) const { return weights.beta_g ? weights.beta_g[g] : 0; }
};

// The tables of a call. The forward pass has the first three and as many lines.
struct Tables {
  Table<double> delta, terms, rho_g;
  Table<double> s, t, q, r;
  Table<double> by_channel, by_channel_sum, by_group, by_group_sum;
  Table<float> mean, slope, offset, q_line, r_line;

  Lines lines(int64_t b, int64_t c) const {
    return {mean(b, c), slope(b, c), offset(b, c), q_line(b, c), r_line(b, c)};
  }
  // The same for samples that use the row of sample b in turn, which stays in cache. Of
  // what they add to the gradients of the parameters each keeps its own.
  Tables in_turn(int64_t b) const {
    Tables result = *this;
    for (Table<double> *table :
         {&result.delta, &result.terms, &result.rho_g, &result.s, &result.t, &result.q,
          &result.r})
      *table = {(*table)(b), 0};
    for (Table<float> *table : {&result.mean, &result.slope, &result.offset,
                                &result.q_line, &result.r_line})
      *table = {(*table)(b), 0};
    return result;
  }

  // For one row or for all samples. Where the passes go over all samples one by one,
  // only the lines wait in between.
  void ask_forward(Scratch &scratch, Layer &n, int64_t samples, int64_t line_samples) {
    scratch.ask(n.a, n.C);
    scratch.ask(n.beta_c, n.C);
    scratch.ask({&delta, &terms}, samples, n.C);
    scratch.ask({&rho_g}, samples, n.G);
    ask_lines(scratch, n, line_samples);
  }
  void ask_lines(Scratch &scratch, const Layer &n, int64_t samples) {
    scratch.ask({&mean, &slope, &offset}, samples, n.C);
  }
  // The sums for the parameters can be one row where others are not.
  void ask_backward(Scratch &scratch, Layer &n, int64_t samples, int64_t parts) {
    ask_forward(scratch, n, samples, samples);
    scratch.ask({&s, &t, &q, &r}, samples, n.C);
    scratch.ask({&q_line, &r_line}, samples, n.C);
    scratch.ask({&by_channel, &by_channel_sum}, parts, n.C);
    scratch.ask({&by_group, &by_group_sum}, parts, n.G);
  }
};

// The sum of a row of a table, in eight parts.
BCN_INLINE double sum(const double *p, int64_t n) {
  typedef double Two __attribute__((vector_size(16)));
  typedef double Doubles __attribute__((vector_size(16), aligned(8), may_alias));
  Two part[4] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int k = 0; k < 4; k++) part[k] += *(const Doubles *)(p + i + 2 * k);
  const Two two = (part[0] + part[1]) + (part[2] + part[3]);
  double result = two[0] + two[1];
  for (; i < n; i++) result += p[i];
  return result;
}

// What a pass over samples needs of the batch norm, a = gamma rho and beta, in double.
BCN_ALONE inline void prepare(const Layer &n, int64_t c, int64_t end) {
  const Weights &given = n.weights;
  BCN_APART
  for (int64_t i = c; i < end; i++)
    n.a[i] = (given.gamma_c ? given.gamma_c[i] : 1) * n.rho_c[i];
  BCN_APART
  for (int64_t i = c; i < end; i++) n.beta_c[i] = given.beta_c ? given.beta_c[i] : 0;
}

inline bool finite(float value) { return value - value == 0; }

// Mean and variance of the channels c to end over the batch, from those of its samples:
// into m, and for now into rho.
BCN_ALONE inline void pool_moments(const Layer &n, int64_t c, int64_t end) {
  double *const mean = n.m, *const var = n.rho_c;
  BCN_APART
  for (int64_t i = c; i < end; i++) mean[i] = var[i] = 0;
  for (int64_t b = 0; b < n.B; b++)
    BCN_APART
    for (int64_t i = c; i < end; i++) mean[i] += n.mu[b * n.C + i];
  BCN_APART
  for (int64_t i = c; i < end; i++) mean[i] /= n.B;
  for (int64_t b = 0; b < n.B; b++)
    BCN_APART
    for (int64_t i = c; i < end; i++) {
      const double between = n.mu[b * n.C + i] - mean[i];
      var[i] += n.v[b * n.C + i] + between * between;
    }
  BCN_APART
  for (int64_t i = c; i < end; i++) var[i] /= n.B;
}

// The running statistics of a channel learn from the batch's mean and variance. If the
// batch is not finite it teaches nothing.
inline void learn(const Forward &f, int64_t c, double mean, double var, double count) {
  const double old_mean = f.exp_mean[c], old_var = f.exp_var[c];
  const double step = mean - old_mean;
  if (f.how == AROUND_RUNNING_MEAN) var += step * step;
  if (f.how == PLAIN) var *= count / (count - 1);
  const float new_mean = float(old_mean + f.momentum * step);
  const float new_var = float(old_var + f.momentum * (var - old_var));
  if (!finite(new_mean) || !finite(new_var)) return;
  f.exp_mean[c] = new_mean;
  f.exp_var[c] = new_var;
}

// What the batch norm normalizes with: m and rho of the channels first to end. In
// training, the running statistics are updated before.
BCN_ALONE inline void find_statistics(const Forward &f, const Layer &n, int64_t first,
                                      int64_t end) {
  if (f.how != EVALUATION) {
    pool_moments(n, first, end);
    BCN_APART
    for (int64_t c = first; c < end; c++)
      learn(f, c, n.m[c], n.rho_c[c], double(n.B) * n.L);
  }
  BCN_APART
  for (int64_t c = first; c < end; c++) {
    if (f.how != PLAIN) n.m[c] = f.exp_mean[c];
    const double var = f.how == PLAIN ? n.rho_c[c] : f.exp_var[c];
    n.rho_c[c] = 1 / __builtin_sqrt(var + n.weights.eps_c);
  }
  prepare(n, first, end);
}

// A pass takes the mean in float32. What that leaves of it goes into the offset.
inline float whole(double mu) { return float(mu); }
inline double left(double mu) { return mu - float(mu); }

// Slopes and offsets of one sample, for its groups from `group` to `end`. Each step is
// taken for all of them: a group alone would wait for its sums and its root.
BCN_ALONE inline void slopes_and_offsets(const Layer &n, int64_t b, int64_t group,
                                         int64_t end, const Tables &tables) {
  const int64_t D = n.D, first = group * D, some = end - group, row = b * n.C + first;
  const double *const mu = n.mu + row, *const v = n.v + row;
  const double *const a = n.a + first, *const m = n.m + first;
  const double *const beta_c = n.beta_c + first;
  double *const delta = tables.delta(b, first);
  double *const terms = tables.terms(b, first);
  double *const rho_g = tables.rho_g(b, group);
  const double share = 1.0 / D, eps = n.weights.eps_g;
  // delta is eta at first, and rho_g is V.
  BCN_APART
  for (int64_t c = 0; c < some * D; c++) delta[c] = a[c] * (mu[c] - m[c]) + beta_c[c];
  for (int64_t g = 0; g < some; g++) {
    const double eta_mean = share * sum(delta + g * D, D);
    BCN_APART
    for (int64_t c = g * D; c < (g + 1) * D; c++) {
      delta[c] -= eta_mean;
      terms[c] = a[c] * a[c] * v[c] + delta[c] * delta[c];
    }
    rho_g[g] = share * sum(terms + g * D, D);
  }
  BCN_APART
  for (int64_t g = 0; g < some; g++) rho_g[g] = 1 / __builtin_sqrt(rho_g[g] + eps);
  const Lines lines = tables.lines(b, first);
  float *const mean = lines.mean, *const slope = lines.slope;
  float *const offset = lines.offset;
  for (int64_t g = 0; g < some; g++) {
    const double kappa = n.gamma_g(group + g) * rho_g[g], beta_g = n.beta_g(group + g);
    BCN_APART
    for (int64_t c = g * D; c < (g + 1) * D; c++) {
      const double s = kappa * a[c], o = kappa * delta[c] + beta_g;
      mean[c] = whole(mu[c]);
      slope[c] = float(s);
      offset[c] = float(o - s * left(mu[c]));
    }
  }
}

// From S and T of one sample's groups: q and r, and what the sample adds to the sums
// that are the parameters' gradients.
BCN_ALONE inline void back_through_groups(const Layer &n, int64_t b, int64_t group,
                                          int64_t end, const Tables &tables) {
  const int64_t D = n.D, first = group * D, some = end - group, row = b * n.C + first;
  const double *const mu = n.mu + row, *const v = n.v + row;
  const double *const a = n.a + first, *const m = n.m + first;
  const double *const delta = tables.delta(b, first), *const s = tables.s(b, first);
  const double *const rho_g = tables.rho_g(b, group);
  double *const t = tables.t(b, first);
  double *const terms = tables.terms(b, first);
  double *const q = tables.q(b, first);
  double *const r = tables.r(b, first);
  double *const by_channel = tables.by_channel(b, first);
  double *const by_channel_sum = tables.by_channel_sum(b, first);
  double *const by_group = tables.by_group(b, group);
  double *const by_group_sum = tables.by_group_sum(b, group);
  const double share = 1.0 / D, scale = -share / n.L;
  // Samples that share a row of a table add to it. The others have theirs alone.
  if (b == 0 || tables.by_channel.stride) {
    BCN_APART
    for (int64_t c = 0; c < some * D; c++) by_channel[c] = by_channel_sum[c] = 0;
    for (int64_t g = 0; g < some; g++) by_group[g] = by_group_sum[g] = 0;
  }
  BCN_APART
  for (int64_t c = 0; c < some * D; c++) {
    t[c] -= left(mu[c]) * s[c];
    terms[c] = a[c] * t[c] + delta[c] * s[c];
  }
  for (int64_t g = 0; g < some; g++) {
    const double U = sum(terms + g * D, D), sum_s = sum(s + g * D, D);
    const double kappa = n.gamma_g(group + g) * rho_g[g];
    const double phi = rho_g[g] * rho_g[g] * U;
    by_group[g] += rho_g[g] * U;
    by_group_sum[g] += sum_s;
    BCN_APART
    for (int64_t c = g * D; c < (g + 1) * D; c++) {
      const double omega = sum_s + phi * delta[c], along = phi * a[c];
      const double sz = kappa * (s[c] - omega * share);
      const double tz = kappa * (t[c] - along * v[c] * share);
      by_channel[c] += tz + (mu[c] - m[c]) * sz;
      by_channel_sum[c] += sz;
      q[c] = scale * kappa * a[c] * along;
      r[c] = scale * kappa * a[c] * omega;
    }
  }
}

// The gradients of the parameters of the groups first to end: sums over samples, or one
// row if these shared it.
BCN_ALONE inline void find_gradients(const Backward &f, const Layer &n, int64_t first,
                                     int64_t end, const Tables &tables) {
  double *const y = tables.by_channel(0), *const sz = tables.by_channel_sum(0);
  double *const by_group = tables.by_group(0), *const sum_s = tables.by_group_sum(0);
  const int64_t rows = tables.by_channel.stride ? n.B : 1;
  for (int64_t b = 1; b < rows; b++) {
    const double *const more_y = tables.by_channel(b);
    const double *const more_sz = tables.by_channel_sum(b);
    BCN_APART
    for (int64_t c = first * n.D; c < end * n.D; c++) y[c] += more_y[c];
    BCN_APART
    for (int64_t c = first * n.D; c < end * n.D; c++) sz[c] += more_sz[c];
    for (int64_t g = first; g < end; g++) {
      by_group[g] += *tables.by_group(b, g);
      sum_s[g] += *tables.by_group_sum(b, g);
    }
  }
  BCN_APART
  for (int64_t c = first * n.D; c < end * n.D; c++) {
    f.d_gamma_c[c] = float(n.rho_c[c] * y[c]);
    f.d_beta_c[c] = float(sz[c]);
  }
  for (int64_t g = first; g < end; g++) {
    f.d_gamma_g[g] = float(by_group[g]);
    f.d_beta_g[g] = float(sum_s[g]);
  }
}

// What statistics of the batch itself add to q and r.
BCN_ALONE inline void back_through_statistics(const Layer &n, int64_t b, int64_t group,
                                              int64_t end, const Tables &tables) {
  const double *const y = tables.by_channel(0), *const sz = tables.by_channel_sum(0);
  double *const q = tables.q(b), *const r = tables.r(b);
  const double share = 1 / (double(n.B) * n.L);
  BCN_APART
  for (int64_t c = group * n.D; c < end * n.D; c++) {
    const double more = -n.a[c] * n.rho_c[c] * n.rho_c[c] * y[c] * share;
    q[c] += more;
    r[c] += more * (n.mu[b * n.C + c] - n.m[c]) - n.a[c] * sz[c] * share;
  }
}

// q and r as the last pass takes them.
BCN_ALONE inline void settle(const Layer &n, int64_t b, int64_t group, int64_t end,
                             const Tables &tables) {
  const double *const mu = n.mu + b * n.C;
  const double *const q = tables.q(b), *const r = tables.r(b);
  const Lines lines = tables.lines(b, 0);
  float *const q_line = lines.q, *const r_line = lines.r;
  BCN_APART
  for (int64_t c = group * n.D; c < end * n.D; c++) {
    q_line[c] = float(q[c]);
    r_line[c] = float(r[c] - q[c] * left(mu[c]));
  }
}

// All of it for the groups first to end, after sums over all samples.
BCN_ALONE inline void back_through_tables(const Backward &f, const Layer &n,
                                          int64_t first, int64_t end,
                                          const Tables &tables) {
  for (int64_t b = 0; b < n.B; b++) back_through_groups(n, b, first, end, tables);
  find_gradients(f, n, first, end, tables);
  for (int64_t b = 0; b < n.B; b++) {
    if (f.plain) back_through_statistics(n, b, first, end, tables);
    settle(n, b, first, end, tables);
  }
}

// The lines of a pass alone, from the tables that it was given.
BCN_ALONE inline void take_lines(const Pass &pass, int64_t rows, const Lines &lines) {
  BCN_APART
  for (int64_t i = 0; i < rows; i++) {
    const double rest = left(pass.mu[i]), slope = pass.slope ? pass.slope[i] : 0;
    lines.mean[i] = whole(pass.mu[i]);
    lines.slope[i] = float(slope);
    lines.offset[i] = pass.offset ? float(pass.offset[i] - slope * rest) : 0;
    if (!pass.q) continue;
    lines.q[i] = float(pass.q[i]);
    lines.r[i] = float(pass.r[i] - pass.q[i] * rest);
  }
}

// And T around the whole mean, for its sums.
inline void finish_sums(const Pass &pass, int64_t rows) {
  BCN_APART
  for (int64_t i = 0; i < rows; i++) pass.t[i] -= left(pass.mu[i]) * pass.s[i];
}

}  // namespace bcn::BCN_KERNELS
