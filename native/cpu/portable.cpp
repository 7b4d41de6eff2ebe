// The kernels for any processor: four lanes by the compiler's vector extensions, which are SSE2 and NEON instructions.
#include "cpu/problem.h"

namespace alibi::cpu {
namespace {
namespace portable {

typedef float V __attribute__((vector_size(16), may_alias));
typedef float VU __attribute__((vector_size(16), aligned(4), may_alias));
typedef int VI __attribute__((vector_size(16), may_alias));

constexpr int W = 4;
#if defined(__aarch64__)
constexpr int kMostVectors = 4;  // 32 registers
constexpr int keysAtOnce(int vectors) { return vectors == 4 ? 6 : vectors == 3 ? 8 : 12; }
#else
constexpr int kMostVectors = 2;
constexpr int keysAtOnce(int vectors) { return vectors == 2 ? 5 : 8; }
#endif
constexpr int kTile = 64;
constexpr int kDecodeRows = 2;

inline V set1(float x) { return V{x, x, x, x}; }
inline V fma(V a, V b, V c) { return a * b + c; }
inline V vmax(V a, V b) { return a > b ? a : b; }
inline bool any(VI x) { return (x[0] | x[1] | x[2] | x[3]) != 0; }
inline bool anyNotLess(V a, V b) { return any(~(a < b)); }
inline bool anyLess(V a, V b) { return any(a < b); }
inline V low(V a, V b) { return __builtin_shuffle(a, b, VI{0, 4, 1, 5}); }
inline V high(V a, V b) { return __builtin_shuffle(a, b, VI{2, 6, 3, 7}); }
inline V firstHalves(V a, V b) { return __builtin_shuffle(a, b, VI{0, 1, 4, 5}); }
inline V secondHalves(V a, V b) { return __builtin_shuffle(a, b, VI{2, 3, 6, 7}); }
inline V gather4(float const* p, ptrdiff_t) { return *reinterpret_cast<VU const*>(p); }
inline V fromHalf(void const*) { return V{}; }
inline void toHalf(V, void*) {}
constexpr bool kHardwareHalf = false;
#if defined(__aarch64__)
inline uint64_t flushDenormals() {
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" ::"r"(before | (uint64_t{1} << 24)));
    return before;
}
inline void restore(uint64_t before) { __asm__ volatile("msr fpcr, %0" ::"r"(before)); }
#elif defined(__x86_64__)
inline unsigned flushDenormals() {
    unsigned const before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before | 0x8040);
    return before;
}
inline void restore(unsigned before) { __builtin_ia32_ldmxcsr(before); }
#else
inline int flushDenormals() { return 0; }
inline void restore(int) {}
#endif

#include "cpu/kernel.inc"

}  // namespace portable
}  // namespace
Kernels const kPortable = portable::kernels("portable");
}  // namespace alibi::cpu
