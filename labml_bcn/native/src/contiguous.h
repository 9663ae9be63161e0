// Inputs [B, C, L]: the positions of a channel side by side, in rows.
//
// Groups do not know of each other, not in training either: statistics of the batch,
// tables and output of a group need that group of x alone. So a task is some groups,
// few enough to stay in cache between the passes. Where there are not enough groups for
// all threads, each pass goes over all rows, with the tables in between. Either way a
// row and a table are computed alike.
#pragma once
#include "tables.h"

namespace bcn::BCN_KERNELS {

// Groups are taken together up to so many bytes of x (or of x and dy) in all samples,
// which are still near at the second reading; and up to so many in each sample, for
// memory is slow to give short runs.
constexpr int64_t NEAR = 640 << 10, LONG_RUN = 64 << 10;
// The same where a sample does not wait for the others.
constexpr int64_t SHORT_RUN = 32 << 10;

// Whether so many groups, or samples, keep all threads busy to the end.
inline bool enough(int64_t items, const Team &team) {
  return items % team.size() == 0 || items >= 4 * team.size();
}

template <class T>
auto apply_rows_for(bool relu, bool residual) {
  if (residual) return relu ? apply_rows<T, true, true> : apply_rows<T, false, true>;
  return relu ? apply_rows<T, true, false> : apply_rows<T, false, false>;
}
template <class T>
auto sum_rows_for(bool relu, bool by_y) {
  return by_y ? sum_rows<T, Gate::BY_Y>
         : relu ? sum_rows<T, Gate::BY_X> : sum_rows<T, Gate::OPEN>;
}
template <class T>
auto combine_rows_for(bool relu, bool by_y) {
  return by_y ? combine_rows<T, Gate::BY_Y>
         : relu ? combine_rows<T, Gate::BY_X> : combine_rows<T, Gate::OPEN>;
}

// How many groups are taken together, of which each has so many bytes.
inline int64_t groups_at_once(const Layer &n, int64_t bytes) {
  return at_least(1, at_least(NEAR / bytes, LONG_RUN * n.B / bytes));
}

template <class T>
class ContiguousForward {
 public:
  ContiguousForward(const Forward &f, const Layer &n, Threads threads)
      : f_(f), n_(n), team_(threads),
        apply_(apply_rows_for<T>(f.relu, f.residual)) {}

  Status run() {
    if (f_.how == EVALUATION && enough(n_.B, team_)) return evaluate_by_sample();
    const bool by_group = enough(n_.G, team_);
    Scratch scratch;
    tables_.ask_forward(scratch, n_, 1, by_group ? 1 : n_.B);
    if (!scratch.place()) return NO_MEMORY;
    by_group ? run_by_group() : run_in_phases();
    return team_.status();
  }

  Status measure_alone(const Pass &) {
    measure_all();
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
  void run_by_group() {
    const int64_t values = n_.B * n_.D * n_.L;
    const int64_t some = groups_at_once(n_, values * sizeof(T));
    team_.each(n_.G, values, [&](int64_t g, int64_t end) {
      if (f_.how == EVALUATION) {
        find_statistics(f_, n_, g * n_.D, end * n_.D);
        return evaluate(0, n_.B, g, end, tables_);
      }
      for (; g < end; g += some) train(g, at_most(g + some, end));
    });
  }

  // In evaluation, samples do not know of each other either. A thread that takes whole
  // ones goes through memory from end to end; each has a row of tables.
  Status evaluate_by_sample() {
    const int64_t parts = at_most(n_.B, team_.size());
    Scratch scratch;
    tables_.ask_forward(scratch, n_, parts, parts);
    if (!scratch.place()) return NO_MEMORY;
    find_statistics(f_, n_, 0, n_.C);
    team_.each(parts, n_.B / parts * n_.C * n_.L, [&](int64_t part, int64_t end) {
      for (; part < end; part++)
        evaluate(n_.B * part / parts, n_.B * (part + 1) / parts, 0, n_.G,
                 tables_.in_turn(part));
    });
    return team_.status();
  }

  void evaluate(int64_t b, int64_t samples, int64_t first, int64_t end,
                const Tables &tables) {
    for (; b < samples; b++)
      for (int64_t g = first; g < end; g++) {
        measure_groups(b, g, 1);
        apply_groups(b, g, 1, tables);
      }
  }

  void train(int64_t first, int64_t end) {
    for (int64_t b = 0; b < n_.B; b++) measure_groups(b, first, end - first);
    find_statistics(f_, n_, first * n_.D, end * n_.D);
    // Backwards, for what was read last is nearest.
    for (int64_t b = n_.B; b-- > 0;) apply_groups(b, first, end - first, tables_);
  }

  void run_in_phases() {
    measure_all();
    team_.each(n_.G, 4 * n_.B * n_.D, [&](int64_t first, int64_t end) {
      find_statistics(f_, n_, first * n_.D, end * n_.D);
      for (int64_t b = 0; b < n_.B; b++)
        slopes_and_offsets(n_, b, first, end, tables_);
    });
    apply_all();
  }

  void measure_all() {
    team_.each(n_.B * n_.C, n_.L,
               [&](int64_t i, int64_t end) { measure(i, end - i); });
  }
  void apply_all() {
    team_.each(n_.B * n_.C, n_.L, [&](int64_t i, int64_t end) {
      apply(i, end - i, tables_.lines(0, i));
    });
  }

  void measure(int64_t row, int64_t rows) {
    measure_rows((const T *)f_.x + row * n_.L, rows, n_.L, n_.mu + row, n_.v + row);
  }
  void measure_groups(int64_t b, int64_t g, int64_t some) {
    measure(b * n_.C + g * n_.D, some * n_.D);
  }
  void apply_groups(int64_t b, int64_t g, int64_t some, const Tables &tables) {
    slopes_and_offsets(n_, b, g, g + some, tables);
    apply(b * n_.C + g * n_.D, some * n_.D, tables.lines(b, g * n_.D));
  }
  void apply(int64_t row, int64_t rows, Lines lines) {
    const int64_t at = row * n_.L;
    apply_((const T *)f_.x + at, further((const T *)f_.residual, at), (T *)f_.y + at,
           rows, n_.L, lines);
  }

  const Forward &f_;
  Layer n_;
  Team team_;
  decltype(&apply_rows<T, false, false>) apply_;
  Tables tables_{};
};

template <class T>
class ContiguousBackward {
 public:
  ContiguousBackward(const Backward &f, const Layer &n, Threads threads)
      : f_(f), n_(n), team_(threads),
        sums_(sum_rows_for<T>(f.relu, f.y)),
        combine_(combine_rows_for<T>(f.relu, f.y)) {}

  Status run() {
    const bool by_group = enough(n_.G, team_);
    // In plain training the last pass waits for sums over all samples, and their tables
    // with it.
    const int64_t samples = by_group && !f_.plain ? 1 : n_.B;
    Scratch scratch;
    tables_.ask_backward(scratch, n_, samples, by_group ? 1 : n_.B);
    if (!scratch.place()) return NO_MEMORY;
    by_group ? run_by_group() : run_in_phases();
    return team_.status();
  }

  Status sum_alone(const Pass &pass) {
    return alone(pass, [&] {
      tables_.s = {pass.s, n_.C}, tables_.t = {pass.t, n_.C};
      sum_all();
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
    if (!scratch.place()) return NO_MEMORY;
    take_lines(pass, n_.B * n_.C, tables_.lines(0, 0));
    f();
    return team_.status();
  }

  bool input_wanted() const { return f_.dx || f_.d_residual; }

  void run_by_group() {
    const int64_t values = n_.B * n_.D * n_.L;
    const int64_t some = groups_at_once(n_, 2 * values * sizeof(T));
    team_.each(n_.G, 2 * values, [&](int64_t g, int64_t end) {
      prepare(n_, g * n_.D, end * n_.D);
      if (!f_.plain) return through_estimates(g, end);
      for (; g < end; g += some) through_batch(g, at_most(g + some, end));
    });
  }

  // With statistics that are constants, a sample's group needs itself alone.
  void through_estimates(int64_t first, int64_t end) {
    const int64_t few = at_least(1, SHORT_RUN / (n_.D * n_.L * int64_t(sizeof(T))));
    for (int64_t b = 0; b < n_.B; b++)
      by_pieces(end - first, few, [&](int64_t at, int64_t some) {
        sum_groups(b, first + at, some);
        if (input_wanted()) combine_groups(b, first + at, some);
      });
    find_gradients(f_, n_, first, end, tables_);
  }

  void through_batch(int64_t first, int64_t end) {
    for (int64_t b = 0; b < n_.B; b++) sum_groups(b, first, end - first);
    find_gradients(f_, n_, first, end, tables_);
    for (int64_t b = n_.B; b-- > 0 && input_wanted();) {
      back_through_statistics(n_, b, first, end, tables_);
      combine_groups(b, first, end - first);
    }
  }

  void run_in_phases() {
    team_.each(n_.G, 4 * n_.B * n_.D, [&](int64_t first, int64_t end) {
      prepare(n_, first * n_.D, end * n_.D);
      for (int64_t b = 0; b < n_.B; b++)
        slopes_and_offsets(n_, b, first, end, tables_);
    });
    sum_all();
    team_.each(n_.G, 4 * n_.B * n_.D, [&](int64_t first, int64_t end) {
      back_through_tables(f_, n_, first, end, tables_);
    });
    if (input_wanted()) combine_all();
  }

  void sum_all() {
    team_.each(n_.B * n_.C, 2 * n_.L,
               [&](int64_t i, int64_t end) { sum(i, end - i, 0, i); });
  }
  void combine_all() {
    team_.each(n_.B * n_.C, 2 * n_.L, [&](int64_t i, int64_t end) {
      combine(i, end - i, tables_.lines(0, i));
    });
  }

  void sum_groups(int64_t b, int64_t g, int64_t some) {
    slopes_and_offsets(n_, b, g, g + some, tables_);
    sum(b * n_.C + g * n_.D, some * n_.D, b, g * n_.D);
    back_through_groups(n_, b, g, g + some, tables_);
  }
  void sum(int64_t row, int64_t rows, int64_t b, int64_t c) {
    const int64_t at = row * n_.L;
    sums_((const T *)f_.x + at, (const T *)f_.dy + at, further((const T *)f_.y, at),
          rows, n_.L, tables_.lines(b, c), tables_.s(b, c), tables_.t(b, c));
  }
  void combine_groups(int64_t b, int64_t g, int64_t some) {
    settle(n_, b, g, g + some, tables_);
    combine(b * n_.C + g * n_.D, some * n_.D, tables_.lines(b, g * n_.D));
  }
  void combine(int64_t row, int64_t rows, Lines lines) {
    const int64_t at = row * n_.L;
    combine_((const T *)f_.x + at, (const T *)f_.dy + at, further((const T *)f_.y, at),
             further((T *)f_.dx, at), further((T *)f_.d_residual, at), rows, n_.L,
             lines);
  }

  const Backward &f_;
  Layer n_;
  Team team_;
  decltype(&sum_rows<T, Gate::OPEN>) sums_;
  decltype(&combine_rows<T, Gate::OPEN>) combine_;
  Tables tables_{};
};

}  // namespace bcn::BCN_KERNELS
