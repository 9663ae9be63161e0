// Inputs [B, L, C]: the channels of a position side by side.
//
// A piece of work is a run of positions of one sample. Within it a pass goes down a
// strip of channels, one block wide, whose tables and sums stay in registers. How a
// sample is cut into runs depends on sizes alone, and runs are merged in order. Where
// samples do not wait for each other, one goes through all passes at once, while it is
// in cache.
#pragma once
#include "tables.h"

namespace bcn::BCN_KERNELS {

// An input of so many bytes is in cache, with its gradient and the results.
constexpr int64_t NEAR_INPUT = 2 << 20;

// The positions of a run, and how many of them are a strip.
struct Positions {
  int64_t count, strip;
};

// f(position, positions, channel, channels) for the strips of a run.
template <class F>
BCN_INLINE void by_strip(Positions positions, int64_t C, F &&f) {
  by_pieces(positions.count, positions.strip,
            [&](int64_t l, int64_t few) BCN_INLINE_LAMBDA {
    by_block(C, [&](int64_t c, int n) BCN_INLINE_LAMBDA { f(l, few, c, n); });
  });
}

// Two rows of sums over a run, and two for those over few of its positions.
struct RunSums {
  float *first, *second, *few_first, *few_second;
};

// Sums over a run: f(position, positions, channel, channels, first, second) adds those
// of a strip. In float32, a sum is of few values or of few such sums.
template <class F>
BCN_INLINE void sum_by_strip(Positions positions, int64_t C, const RunSums &to, F &&f) {
  by_pieces(positions.count, FEW, [&](int64_t at, int64_t some) BCN_INLINE_LAMBDA {
    const Positions these = {some, positions.strip};
    by_strip(these, C, [&](int64_t l, int64_t few, int64_t c, int n) BCN_INLINE_LAMBDA {
      Block first = l ? load(to.few_first + c) : Block{};
      Block second = l ? load(to.few_second + c) : Block{};
      f(at + l, few, c, n, first, second);
      store(to.few_first + c, first), store(to.few_second + c, second);
    });
    by_block(C, [&](int64_t c, int) BCN_INLINE_LAMBDA {
      const Block first = load(to.few_first + c), second = load(to.few_second + c);
      store(to.first + c, at ? load(to.first + c) + first : first);
      store(to.second + c, at ? load(to.second + c) + second : second);
    });
  });
}

// In which lanes the pivot lies near the mean.
BCN_INLINE Inside near_mean(Block shift, Block square) {
  const Block far = both(float(FAR + 1)) * shift * shift;
  return {far.a <= float(FAR) * square.a, far.b <= float(FAR) * square.b};
}
BCN_INLINE bool everywhere(Inside which) {
  const Mask each = which.a & which.b;
  int32_t result = -1;
  for (int i = 0; i < LANES; i++) result &= each[i];
  return result;
}

// Adds x - pivot and its square over the positions of a strip.
template <class T>
BCN_INLINE void add_up(const T *x, int64_t positions, int64_t C, int n, Block pivot,
                       Block &first, Block &second) {
  for (int64_t l = 0; l < positions; l++, x += C) {
    const Block d = read(x, n, pivot) - pivot;
    first = first + d, second = second + d * d;
  }
}

// The same for all channels of a run, around its first position.
template <class T>
BCN_ALONE void measure_run(const T *x, Positions positions, int64_t C, float *pivots,
                           const RunSums &to) {
  sum_by_strip(positions, C, to,
               [&](int64_t l, int64_t few, int64_t c, int n, Block &first,
                   Block &second) BCN_INLINE_LAMBDA {
    add_up(x + l * C + c, few, C, n, read(x + c, n), first, second);
  });
  const Block share = both(1.0f / positions.count);
  by_block(C, [&](int64_t c, int n) BCN_INLINE_LAMBDA {
    Block pivot = read(x + c, n);
    Block first = load(to.first + c), second = load(to.second + c);
    // A pivot far from the mean loses digits. The mean itself loses none.
    const Block shift = first * share;
    const Inside near = near_mean(shift, second * share);
    if (!everywhere(near)) {
      pivot = choose(near, pivot, pivot + shift);
      first = second = Block{};
      by_pieces(positions.count, FEW, [&](int64_t l, int64_t few) BCN_INLINE_LAMBDA {
        Block few_first{}, few_second{};
        add_up(x + l * C + c, few, C, n, pivot, few_first, few_second);
        first = first + few_first, second = second + few_second;
      });
    }
    store(pivots + c, unordered(x, pivot));
    store(to.first + c, unordered(x, first));
    store(to.second + c, unordered(x, second));
  });
}

template <class T, bool RELU, bool RESIDUAL>
BCN_ALONE void apply_run(const T *x, const T *residual, T *y, Positions positions,
                         int64_t C, Lines lines) {
  by_strip(positions, C,
           [&](int64_t l, int64_t few, int64_t c, int n) BCN_INLINE_LAMBDA {
    const Block mean = ordered(x, read(lines.mean + c, n));
    const Block slope = ordered(x, read(lines.slope + c, n));
    const Block offset = ordered(x, read(lines.offset + c, n));
    for (int64_t i = l * C + c; i < (l + few) * C; i += C) {
      Block v = affine(read(x + i, n) - mean, slope, offset);
      if (RESIDUAL) v = v + read(residual + i, n);
      if (RELU) v = where_open(v, v);
      write(y + i, n, v);
    }
  });
}

template <class T, Gate GATE>
BCN_ALONE void sum_run(const T *x, const T *dy, const T *y, Positions positions,
                       int64_t C, Lines lines, const RunSums &to) {
  sum_by_strip(positions, C, to,
               [&](int64_t l, int64_t few, int64_t c, int n, Block &s,
                   Block &t) BCN_INLINE_LAMBDA {
    const Block mean = ordered(x, read(lines.mean + c, n));
    const Block slope = ordered(x, read(lines.slope + c, n));
    const Block offset = ordered(x, read(lines.offset + c, n));
    for (int64_t i = l * C + c; i < (l + few) * C; i += C) {
      const Block d = read(x + i, n) - mean;
      const Block g = gradient<T, GATE>(dy, y, i, n, d, slope, offset);
      s = s + g, t = t + g * d;
    }
  });
  by_block(C, [&](int64_t c, int) BCN_INLINE_LAMBDA {
    store(to.first + c, unordered(x, load(to.first + c)));
    store(to.second + c, unordered(x, load(to.second + c)));
  });
}

template <class T, Gate GATE>
BCN_ALONE void combine_run(const T *x, const T *dy, const T *y, T *dx, T *d_residual,
                           Positions positions, int64_t C, Lines lines) {
  by_strip(positions, C,
           [&](int64_t l, int64_t few, int64_t c, int n) BCN_INLINE_LAMBDA {
    const Block mean = ordered(x, read(lines.mean + c, n));
    const Block slope = ordered(x, read(lines.slope + c, n));
    const Block offset = ordered(x, read(lines.offset + c, n));
    const Block q = ordered(x, read(lines.q + c, n));
    const Block r = ordered(x, read(lines.r + c, n));
    for (int64_t i = l * C + c; i < (l + few) * C; i += C) {
      const Block d = read(x + i, n) - mean;
      const Block g = gradient<T, GATE>(dy, y, i, n, d, slope, offset);
      if (GATE == Gate::BY_Y && d_residual) write(d_residual + i, n, g);
      if (dx) write(dx + i, n, slope * g + (q * d + r));
    }
  });
}

template <class T>
auto apply_run_for(bool relu, bool residual) {
  if (residual) return relu ? apply_run<T, true, true> : apply_run<T, false, true>;
  return relu ? apply_run<T, true, false> : apply_run<T, false, false>;
}
template <class T>
auto sum_run_for(bool relu, bool by_y) {
  return by_y ? sum_run<T, Gate::BY_Y>
         : relu ? sum_run<T, Gate::BY_X> : sum_run<T, Gate::OPEN>;
}
template <class T>
auto combine_run_for(bool relu, bool by_y) {
  return by_y ? combine_run<T, Gate::BY_Y>
         : relu ? combine_run<T, Gate::BY_X> : combine_run<T, Gate::OPEN>;
}

// How the positions of each sample are cut into runs, and those into strips.
class Runs {
 public:
  Runs(const Layer &n, int64_t value_size) : n_(n) {
    const int64_t positions = at_least(64, at_most(1024, GRAIN / n.C));
    each_ = (n.L + positions - 1) / positions;
    // Strips keep tables in registers, which counts while x is in cache, or has to be
    // converted. Otherwise memory counts, and that likes to be read in order; only
    // tables should not come from there too.
    const bool near = n.B * n.L * n.C * value_size <= NEAR_INPUT || value_size < 4;
    const int64_t fitting = (near ? 16 << 10 : 1 << 9) / (n.C * value_size);
    strip_ = at_least(near || n.C >= 1024 ? 4 : 1, at_most(FEW, fitting));
  }
  int64_t each() const { return each_; }
  int64_t all() const { return n_.B * each_; }
  int64_t values() const { return n_.L * n_.C / each_; }
  int64_t sample(int64_t run) const { return run / each_; }
  int64_t start(int64_t run) const { return n_.L * (run % each_) / each_; }
  Positions positions(int64_t run) const {
    return {n_.L * (run % each_ + 1) / each_ - start(run), strip_};
  }
  // The sums of a run are as many as fill whole blocks.
  int64_t width() const { return (n_.C + BLOCK - 1) / BLOCK * BLOCK; }
  // Where those of a run begin: pivots and four rows in the forward pass, four rows in
  // the backward one.
  int64_t moments_of(int64_t run) const { return 5 * run * width(); }
  int64_t sums_of(int64_t run) const { return 4 * run * width(); }
  RunSums rows(float *start) const {
    return {start, start + width(), start + 2 * width(), start + 3 * width()};
  }
  // The first value of a run.
  int64_t at(int64_t run) const { return (sample(run) * n_.L + start(run)) * n_.C; }

 private:
  const Layer &n_;
  int64_t each_, strip_;
};

// From the sums of a sample's runs to its mu and v, for channels c to end: Chan's
// formula, which takes the mean and the sum of squares around it of two parts to those
// of the whole.
BCN_ALONE inline void merge_moments(const Layer &n, const Runs &runs, const float *sums,
                                    int64_t b, int64_t c, int64_t end) {
  double *const mu = n.mu + b * n.C, *const v = n.v + b * n.C;
  double before = 0;
  for (int64_t k = 0; k < runs.each(); k++) {
    const int64_t run = b * runs.each() + k;
    const float *const pivot = sums + runs.moments_of(run);
    const float *const first = pivot + runs.width();
    const float *const second = first + runs.width();
    const double count = runs.positions(run).count, share = 1 / count;
    const double part = count / (before + count), weight = before * part;
    BCN_APART
    for (int64_t i = c; i < end; i++) {
      const double shift = first[i] * share, mean = pivot[i] + shift;
      const double squares = second[i] - shift * first[i];
      const double step = before ? mean - mu[i] : 0;
      mu[i] = before ? mu[i] + step * part : mean;
      v[i] = (before ? v[i] : 0) + (squares + step * step * weight);
    }
    before += count;
  }
  BCN_APART
  for (int64_t i = c; i < end; i++) v[i] = v[i] < 0 ? 0 : v[i] / n.L;
}

// A single position is its own mean.
template <class T>
BCN_ALONE void take_as_means(const Layer &n, const T *x, int64_t b, int64_t c,
                             int64_t end) {
  double *const mu = n.mu + b * n.C, *const v = n.v + b * n.C;
  x += b * n.C;
  BCN_APART
  for (int64_t i = c; i < end; i++) {
    mu[i] = number(x[i]);
    v[i] = mu[i] - mu[i];  // which is NaN where x is not finite
  }
}

// Samples can take turns on the threads, each as a whole.
inline bool enough_samples(const Layer &n, const Team &team) {
  return n.B % team.size() == 0 || n.B >= 4 * team.size();
}

template <class T>
class ChannelsLastForward {
 public:
  ChannelsLastForward(const Forward &f, const Layer &n, Threads threads)
      : f_(f), n_(n), runs_(n_, sizeof(T)), team_(threads),
        apply_(apply_run_for<T>(f.relu, f.residual)) {}

  Status run() {
    Scratch scratch;
    const bool by_sample = f_.how == EVALUATION && enough_samples(n_, team_);
    tables_.ask_forward(scratch, n_, by_sample ? n_.B : 1, n_.B);
    scratch.ask(sums_, runs_.moments_of(runs_.all()));
    if (!scratch.place()) return NO_MEMORY;
    by_sample ? evaluate() : run_in_phases();
    return team_.status();
  }

  Status measure_alone(const Pass &) {
    Scratch scratch;
    scratch.ask(sums_, runs_.moments_of(runs_.all()));
    if (!scratch.place()) return NO_MEMORY;
    measure_all();
    for (int64_t b = 0; b < n_.B; b++) merge(b, 0, n_.C);
    return team_.status();
  }
  Status apply_alone(const Pass &pass) {
    Scratch scratch;
    tables_.ask_lines(scratch, n_, n_.B);
    if (!scratch.place()) return NO_MEMORY;
    take_lines(pass, n_.B * n_.C, tables_.lines(0, 0));
    apply_all();
    return team_.status();
  }

 private:
  void evaluate() {
    find_statistics(f_, n_, 0, n_.C);
    team_.each(n_.B, n_.L * n_.C, [&](int64_t b, int64_t end) {
      for (const Tables tables = tables_.in_turn(b); b < end; b++) {
        const int64_t first = b * runs_.each(), last = first + runs_.each();
        for (int64_t run = first; run < last; run++) measure(run);
        merge(b, 0, n_.C);
        slopes_and_offsets(n_, b, 0, n_.G, tables);
        for (int64_t run = last; run-- > first;) apply(run, tables);
      }
    });
  }

  void run_in_phases() {
    measure_all();
    team_.each(n_.G, 4 * n_.B * n_.D, [&](int64_t first, int64_t end) {
      for (int64_t b = 0; b < n_.B; b++)
        merge(b, first * n_.D, end * n_.D);
      find_statistics(f_, n_, first * n_.D, end * n_.D);
      for (int64_t b = 0; b < n_.B; b++)
        slopes_and_offsets(n_, b, first, end, tables_);
    });
    apply_all();
  }

  void measure_all() {
    team_.each(runs_.all(), runs_.values(), [&](int64_t run, int64_t end) {
      for (; run < end; run++) measure(run);
    });
  }
  void apply_all() {
    team_.each(runs_.all(), runs_.values(), [&](int64_t first, int64_t run) {
      while (run-- > first) apply(run, tables_);
    });
  }
  void measure(int64_t run) {
    if (n_.L == 1) return;
    float *const pivots = sums_ + runs_.moments_of(run);
    measure_run((const T *)f_.x + runs_.at(run), runs_.positions(run), n_.C, pivots,
                runs_.rows(pivots + runs_.width()));
  }
  void merge(int64_t b, int64_t c, int64_t end) {
    n_.L == 1 ? take_as_means(n_, (const T *)f_.x, b, c, end)
              : merge_moments(n_, runs_, sums_, b, c, end);
  }
  void apply(int64_t run, const Tables &tables) {
    const int64_t at = runs_.at(run);
    apply_((const T *)f_.x + at, further((const T *)f_.residual, at), (T *)f_.y + at,
           runs_.positions(run), n_.C, tables.lines(runs_.sample(run), 0));
  }

  const Forward &f_;
  Layer n_;
  Runs runs_;
  Team team_;
  decltype(&apply_run<T, false, false>) apply_;
  Tables tables_{};
  float *sums_ = nullptr;
};

template <class T>
class ChannelsLastBackward {
 public:
  ChannelsLastBackward(const Backward &f, const Layer &n, Threads threads)
      : f_(f), n_(n), runs_(n_, sizeof(T)), team_(threads),
        sums_of_(sum_run_for<T>(f.relu, f.y)),
        combine_(combine_run_for<T>(f.relu, f.y)) {}

  Status run() {
    Scratch scratch;
    tables_.ask_backward(scratch, n_, n_.B, team_.size() > 1 ? n_.B : 1);
    scratch.ask(sums_, runs_.sums_of(runs_.all()));
    if (!scratch.place()) return NO_MEMORY;
    if (!f_.plain && enough_samples(n_, team_))
      run_by_sample();
    else
      run_in_phases();
    return team_.status();
  }

  Status sum_alone(const Pass &pass) {
    return alone(pass, [&] {
      tables_.s = {pass.s, n_.C}, tables_.t = {pass.t, n_.C};
      sum_all();
      for (int64_t b = 0; b < n_.B; b++) merge_sums(b, 0, n_.C, tables_);
      finish_sums(pass, n_.B * n_.C);
    });
  }
  Status combine_alone(const Pass &pass) {
    return alone(pass, [&] { combine_all(); });
  }

 private:
  template <class F>
  Status alone(const Pass &pass, F &&f) {
    Scratch scratch;
    tables_.ask_lines(scratch, n_, n_.B);
    scratch.ask({&tables_.q_line, &tables_.r_line}, n_.B, n_.C);
    scratch.ask(sums_, runs_.sums_of(runs_.all()));
    if (!scratch.place()) return NO_MEMORY;
    take_lines(pass, n_.B * n_.C, tables_.lines(0, 0));
    f();
    return team_.status();
  }

  bool input_wanted() const { return f_.dx || f_.d_residual; }

  void run_by_sample() {
    prepare(n_, 0, n_.C);
    team_.each(n_.B, 2 * n_.L * n_.C, [&](int64_t b, int64_t end) {
      for (const Tables tables = tables_.in_turn(b); b < end; b++) {
        const int64_t first = b * runs_.each(), last = first + runs_.each();
        slopes_and_offsets(n_, b, 0, n_.G, tables);
        for (int64_t run = first; run < last; run++) sum(run, tables);
        merge_sums(b, 0, n_.C, tables);
        back_through_groups(n_, b, 0, n_.G, tables);
        settle(n_, b, 0, n_.G, tables);
        for (int64_t run = last; run-- > first && input_wanted();)
          combine(run, tables);
      }
    });
    team_.each(n_.G, n_.B * n_.D, [&](int64_t first, int64_t end) {
      find_gradients(f_, n_, first, end, tables_);
    });
  }

  void run_in_phases() {
    team_.each(n_.G, 4 * n_.B * n_.D, [&](int64_t first, int64_t end) {
      prepare(n_, first * n_.D, end * n_.D);
      for (int64_t b = 0; b < n_.B; b++)
        slopes_and_offsets(n_, b, first, end, tables_);
    });
    sum_all();
    team_.each(n_.G, 4 * n_.B * n_.D, [&](int64_t first, int64_t end) {
      for (int64_t b = 0; b < n_.B; b++)
        merge_sums(b, first * n_.D, end * n_.D, tables_);
      back_through_tables(f_, n_, first, end, tables_);
    });
    if (input_wanted()) combine_all();
  }

  void sum_all() {
    team_.each(runs_.all(), 2 * runs_.values(), [&](int64_t run, int64_t end) {
      for (; run < end; run++) sum(run, tables_);
    });
  }
  void combine_all() {
    team_.each(runs_.all(), 2 * runs_.values(), [&](int64_t first, int64_t run) {
      while (run-- > first) combine(run, tables_);
    });
  }
  void merge_sums(int64_t b, int64_t c, int64_t end, const Tables &tables) {
    double *const s = tables.s(b), *const t = tables.t(b);
    for (int64_t k = 0; k < runs_.each(); k++) {
      const float *const part_s = sums_ + runs_.sums_of(b * runs_.each() + k);
      const float *const part_t = part_s + runs_.width();
      BCN_APART
      for (int64_t i = c; i < end; i++) {
        s[i] = (k ? s[i] : 0) + part_s[i];
        t[i] = (k ? t[i] : 0) + part_t[i];
      }
    }
  }
  void sum(int64_t run, const Tables &tables) {
    const int64_t at = runs_.at(run);
    sums_of_((const T *)f_.x + at, (const T *)f_.dy + at, further((const T *)f_.y, at),
             runs_.positions(run), n_.C, tables.lines(runs_.sample(run), 0),
             runs_.rows(sums_ + runs_.sums_of(run)));
  }
  void combine(int64_t run, const Tables &tables) {
    const int64_t at = runs_.at(run);
    combine_((const T *)f_.x + at, (const T *)f_.dy + at, further((const T *)f_.y, at),
             further((T *)f_.dx, at), further((T *)f_.d_residual, at),
             runs_.positions(run), n_.C, tables.lines(runs_.sample(run), 0));
  }

  const Backward &f_;
  Layer n_;
  Runs runs_;
  Team team_;
  decltype(&sum_run<T, Gate::OPEN>) sums_of_;
  decltype(&combine_run<T, Gate::OPEN>) combine_;
  Tables tables_{};
  float *sums_ = nullptr;
};

}  // namespace bcn::BCN_KERNELS
