// The kernels of one instruction set, as the library picks them.
#pragma once
#include "interface.h"

namespace bcn {

struct Kernels {
  const char *instructions;
  Status (*forward)(const Forward &, Threads);
  Status (*backward)(const Backward &, Threads);
  Status (*standardize)(const Standardize &, Threads);
  Status (*standardize_backward)(const Standardize &, Threads);
  Status (*measure)(const Pass &, Threads);
  Status (*apply)(const Pass &, Threads);
  Status (*sums)(const Pass &, Threads);
  Status (*combine)(const Pass &, Threads);
};

namespace avx512 {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace base {
extern const Kernels kernels;
}

}  // namespace bcn
