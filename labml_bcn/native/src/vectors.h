// Floats in registers: vectors as wide as the instruction set has them. Compilers split
// wider ones through memory.
//
// Values come and go in blocks of two vectors. A block of float32 lies as in memory.
// Of a block of bfloat16 the first vector has the even values and the second the odd
// ones: this is how a register of pairs comes apart, and goes together again, without
// a shuffle. Nothing here reads or writes beyond the n values that it is told of.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define BCN_INLINE inline __attribute__((always_inline))
#define BCN_INLINE_LAMBDA __attribute__((always_inline))
#define BCN_ALONE __attribute__((noinline))
// Before a loop over tables: they do not overlap. Compilers would compare the addresses
// of all of them, which takes longer than a short loop.
#if defined(__clang__)
#define BCN_APART _Pragma("clang loop vectorize(assume_safety)")
#else
#define BCN_APART _Pragma("GCC ivdep")
#endif

namespace bcn::BCN_KERNELS {

#if defined(__AVX512F__)
constexpr int BYTES = 64;
constexpr const char *INSTRUCTIONS = "AVX-512";
#elif defined(__AVX2__)
constexpr int BYTES = 32;
constexpr const char *INSTRUCTIONS = "AVX2";
#else
constexpr int BYTES = 16;
constexpr const char *INSTRUCTIONS = "base";
#endif
constexpr int LANES = BYTES / 4;
constexpr int BLOCK = 2 * LANES;

typedef float Vector __attribute__((vector_size(BYTES)));
typedef uint32_t Bits __attribute__((vector_size(BYTES)));
typedef int32_t Mask __attribute__((vector_size(BYTES)));
// The same in memory, where nothing need be aligned.
typedef float Floats __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef uint32_t Pairs __attribute__((vector_size(BYTES), aligned(2), may_alias));

struct Block {
  Vector a, b;
};

struct BFloat16 {
  uint16_t bits;
};

BCN_INLINE Vector all(float value) { return value - Vector{}; }
BCN_INLINE Block both(float value) { return {all(value), all(value)}; }

BCN_INLINE Block operator+(Block x, Block y) { return {x.a + y.a, x.b + y.b}; }
BCN_INLINE Block operator-(Block x, Block y) { return {x.a - y.a, x.b - y.b}; }
BCN_INLINE Block operator*(Block x, Block y) { return {x.a * y.a, x.b * y.b}; }

BCN_INLINE float number(float value) { return value; }
BCN_INLINE float number(BFloat16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// Which lanes of a block hold values below n.
struct Inside {
  Mask a, b;
};
BCN_INLINE Mask lanes() {
  Mask result{};
  for (int i = 0; i < LANES; i++) result[i] = i;
  return result;
}
BCN_INLINE Inside inside(const float *, int n) {
  return {lanes() < n, lanes() + LANES < n};
}
BCN_INLINE Inside inside(const BFloat16 *, int n) {
  return {2 * lanes() < n, 2 * lanes() + 1 < n};
}
BCN_INLINE Block choose(Inside which, Block yes, Block no) {
  return {which.a ? yes.a : no.a, which.b ? yes.b : no.b};
}

BCN_INLINE Block apart(Bits pairs) {
  return {(Vector)(pairs << 16), (Vector)(pairs & 0xffff0000u)};
}
// To bfloat16 in the upper half of each lane: to the nearest, ties to even, and what is
// no number stays none.
BCN_INLINE Bits rounded(Vector v) {
  const Bits bits = (Bits)v, up = bits + 0x7fffu + (bits >> 16 & 1u);
  return v == v ? up : Bits{} + 0x7fc00000u;
}
BCN_INLINE Bits together(Block v) {
  return rounded(v.a) >> 16 | (rounded(v.b) & 0xffff0000u);
}

BCN_INLINE Block load(const float *p) {
  return {*(const Floats *)p, *(const Floats *)(p + LANES)};
}
BCN_INLINE Block load(const BFloat16 *p) { return apart(*(const Pairs *)p); }
BCN_INLINE void store(float *p, Block v) {
  *(Floats *)p = v.a;
  *(Floats *)(p + LANES) = v.b;
}
BCN_INLINE void store(BFloat16 *p, Block v) { *(Pairs *)p = together(v); }

// The first n < BLOCK values, `rest` in the other lanes.
#if defined(__AVX512F__)
BCN_INLINE Block load(const float *p, int n, Block rest) {
  const uint32_t mask = (1u << n) - 1;
  return {(Vector)_mm512_mask_loadu_ps((__m512)rest.a, __mmask16(mask), p),
          (Vector)_mm512_mask_loadu_ps((__m512)rest.b, __mmask16(mask >> LANES),
                                       p + LANES)};
}
BCN_INLINE Block load(const BFloat16 *p, int n, Block rest) {
  const Bits pairs = (Bits)_mm512_maskz_loadu_epi16((1u << n) - 1, p);
  return choose(inside(p, n), apart(pairs), rest);
}
BCN_INLINE void store(float *p, int n, Block v) {
  const uint32_t mask = (1u << n) - 1;
  _mm512_mask_storeu_ps(p, __mmask16(mask), (__m512)v.a);
  _mm512_mask_storeu_ps(p + LANES, __mmask16(mask >> LANES), (__m512)v.b);
}
BCN_INLINE void store(BFloat16 *p, int n, Block v) {
  _mm512_mask_storeu_epi16(p, (1u << n) - 1, (__m512i)together(v));
}
#else
template <class T>
BCN_INLINE Block load(const T *p, int n, Block rest) {
  T values[BLOCK] = {};
  std::memcpy(values, p, n * sizeof(T));
  return choose(inside(p, n), load(values), rest);
}
template <class T>
BCN_INLINE void store(T *p, int n, Block v) {
  T values[BLOCK];
  store(values, v);
  std::memcpy(p, values, n * sizeof(T));
}
#if defined(__AVX2__)
BCN_INLINE Block load(const float *p, int n, Block rest) {
  const Inside in = inside(p, n);
  const Block v = {(Vector)_mm256_maskload_ps(p, (__m256i)in.a),
                   (Vector)_mm256_maskload_ps(p + LANES, (__m256i)in.b)};
  return choose(in, v, rest);
}
BCN_INLINE void store(float *p, int n, Block v) {
  const Inside in = inside(p, n);
  _mm256_maskstore_ps(p, (__m256i)in.a, (__m256)v.a);
  _mm256_maskstore_ps(p + LANES, (__m256i)in.b, (__m256)v.b);
}
#endif
#endif

#if defined(__AVX512F__)
#define BCN_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define BCN_ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define BCN_LOWER 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define BCN_UPPER 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define BCN_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define BCN_ODD 1, 3, 5, 7, 9, 11, 13, 15
#define BCN_LOWER 0, 8, 1, 9, 2, 10, 3, 11
#define BCN_UPPER 4, 12, 5, 13, 6, 14, 7, 15
#else
#define BCN_EVEN 0, 2, 4, 6
#define BCN_ODD 1, 3, 5, 7
#define BCN_LOWER 0, 4, 1, 5
#define BCN_UPPER 2, 6, 3, 7
#endif
// From the order of a table to that of a block of T, and back.
BCN_INLINE Block ordered(const float *, Block v) { return v; }
BCN_INLINE Block ordered(const BFloat16 *, Block v) {
  return {__builtin_shufflevector(v.a, v.b, BCN_EVEN),
          __builtin_shufflevector(v.a, v.b, BCN_ODD)};
}
BCN_INLINE Block unordered(const float *, Block v) { return v; }
BCN_INLINE Block unordered(const BFloat16 *, Block v) {
  return {__builtin_shufflevector(v.a, v.b, BCN_LOWER),
          __builtin_shufflevector(v.a, v.b, BCN_UPPER)};
}

// A whole block where there is one, else its first n values.
template <class T>
BCN_INLINE Block read(const T *p, int n, Block rest = Block{}) {
  return n == BLOCK ? load(p) : load(p, n, rest);
}
template <class T>
BCN_INLINE void write(T *p, int n, Block v) {
  n == BLOCK ? store(p, v) : store(p, n, v);
}

// A vector folded in half until four lanes are left.
typedef float Four __attribute__((vector_size(16)));
typedef float Eight __attribute__((vector_size(32)));
typedef float Sixteen __attribute__((vector_size(64)));
BCN_INLINE Four folded(Four v) { return v; }
#if defined(__AVX2__)
BCN_INLINE Four folded(Eight v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3) +
         __builtin_shufflevector(v, v, 4, 5, 6, 7);
}
#endif
#if defined(__AVX512F__)
BCN_INLINE Four folded(Sixteen v) {
  return folded(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
}
#endif

struct Sums {
  float first, second;
};
// The sums of two blocks at once.
BCN_INLINE Sums sums(Block first, Block second) {
  const Four a = folded(first.a + first.b), b = folded(second.a + second.b);
  const Four c = __builtin_shufflevector(a, b, 0, 1, 4, 5) +
                 __builtin_shufflevector(a, b, 2, 3, 6, 7);
  return {c[0] + c[1], c[2] + c[3]};
}
// And of four vectors.
BCN_INLINE Four sums(const Four (&of)[4]) {
  const Four a = __builtin_shufflevector(of[0], of[1], 0, 1, 4, 5) +
                 __builtin_shufflevector(of[0], of[1], 2, 3, 6, 7);
  const Four b = __builtin_shufflevector(of[2], of[3], 0, 1, 4, 5) +
                 __builtin_shufflevector(of[2], of[3], 2, 3, 6, 7);
  return __builtin_shufflevector(a, b, 0, 2, 4, 6) +
         __builtin_shufflevector(a, b, 1, 3, 5, 7);
}

}  // namespace bcn::BCN_KERNELS
