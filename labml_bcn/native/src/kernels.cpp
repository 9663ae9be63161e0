// All kernels for one instruction set: BCN_KERNELS is avx512, avx2 or base, and the
// compiler's options must fit it.
#include "kernels.h"

#include "channels_last.h"
#include "contiguous.h"
#include "standardize.h"

namespace bcn::BCN_KERNELS {
namespace {

template <class T>
struct Contiguous {
  typedef ContiguousForward<T> Forwards;
  typedef ContiguousBackward<T> Backwards;
};
template <class T>
struct ChannelsLast {
  typedef ChannelsLastForward<T> Forwards;
  typedef ChannelsLastBackward<T> Backwards;
};

// f(layout), for the layout and type of x. With a single position both layouts are the
// same, and only one is quick.
template <class F>
Status with_layout(const Sizes &sizes, F &&f) {
  const bool last = sizes.channels_last || sizes.positions == 1;
  if (sizes.bfloat16)
    return last ? f(ChannelsLast<BFloat16>{}) : f(Contiguous<BFloat16>{});
  return last ? f(ChannelsLast<float>{}) : f(Contiguous<float>{});
}

Status forward(const Forward &f, Threads threads) {
  return with_layout(f.sizes, [&](auto layout) {
    return typename decltype(layout)::Forwards(f, Layer(f), threads).run();
  });
}

Status backward(const Backward &f, Threads threads) {
  return with_layout(f.sizes, [&](auto layout) {
    return typename decltype(layout)::Backwards(f, Layer(f), threads).run();
  });
}

Status measure(const Pass &pass, Threads threads) {
  Forward f{};
  f.sizes = pass.sizes, f.x = pass.x;
  return with_layout(f.sizes, [&](auto layout) {
    return typename decltype(layout)::Forwards(f, Layer(pass), threads)
        .measure_alone(pass);
  });
}

Status apply(const Pass &pass, Threads threads) {
  Forward f{};
  f.sizes = pass.sizes, f.x = pass.x, f.y = pass.out;
  return with_layout(f.sizes, [&](auto layout) {
    return typename decltype(layout)::Forwards(f, Layer(pass), threads)
        .apply_alone(pass);
  });
}

Status sums(const Pass &pass, Threads threads) {
  Backward f{};
  f.sizes = pass.sizes, f.x = pass.x, f.dy = pass.dy;
  return with_layout(f.sizes, [&](auto layout) {
    return typename decltype(layout)::Backwards(f, Layer(pass), threads)
        .sum_alone(pass);
  });
}

Status combine(const Pass &pass, Threads threads) {
  Backward f{};
  f.sizes = pass.sizes, f.x = pass.x, f.dy = pass.dy, f.dx = pass.out;
  return with_layout(f.sizes, [&](auto layout) {
    return typename decltype(layout)::Backwards(f, Layer(pass), threads)
        .combine_alone(pass);
  });
}

Status standardize_filters(const Standardize &f, Threads threads) {
  return f.bfloat16 ? standardize<BFloat16>(f, threads)
                    : standardize<float>(f, threads);
}

Status standardize_filters_backward(const Standardize &f, Threads threads) {
  return f.bfloat16 ? standardize_backward<BFloat16>(f, threads)
                    : standardize_backward<float>(f, threads);
}

}  // namespace

const Kernels kernels = {
    INSTRUCTIONS, forward, backward, standardize_filters, standardize_filters_backward,
    measure,      apply,   sums,     combine,
};

}  // namespace bcn::BCN_KERNELS
