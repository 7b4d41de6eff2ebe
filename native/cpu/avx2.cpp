// The kernels for AVX2 with FMA and F16C: eight lanes, 16 registers.
#if defined(__x86_64__) && !defined(ALIBI_PORTABLE_ONLY)
#include <immintrin.h>

#include "cpu/problem.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace alibi::cpu {
namespace {
namespace avx2 {

typedef float V __attribute__((vector_size(32), may_alias));
typedef float VU __attribute__((vector_size(32), aligned(4), may_alias));
typedef int VI __attribute__((vector_size(32), may_alias));

constexpr int W = 8;
constexpr int kMostVectors = 2;
constexpr int kTile = 64;
constexpr int kDecodeRows = 2;
constexpr int keysAtOnce(int vectors) { return vectors == 2 ? 6 : 12; }

inline V set1(float x) { return (V)_mm256_set1_ps(x); }
inline V fma(V a, V b, V c) { return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline V vmax(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
inline bool anyNotLess(V a, V b) { return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_NLT_UQ)) != 0; }
inline bool anyLess(V a, V b) { return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LT_OQ)) != 0; }
inline V low(V a, V b) { return (V)_mm256_unpacklo_ps((__m256)a, (__m256)b); }
inline V high(V a, V b) { return (V)_mm256_unpackhi_ps((__m256)a, (__m256)b); }
inline V firstHalves(V a, V b) { return (V)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x44); }
inline V secondHalves(V a, V b) { return (V)_mm256_shuffle_ps((__m256)a, (__m256)b, 0xee); }
inline V gather4(float const* p, ptrdiff_t stride) {  // four floats each of rows 0 and 4
    return (V)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * stride), 1);
}
inline V fromHalf(void const* p) { return (V)_mm256_cvtph_ps(_mm_loadu_si128(static_cast<__m128i const*>(p))); }
inline void toHalf(V x, void* p) {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
}
#include "cpu/x86.inc"
#include "cpu/kernel.inc"

}  // namespace avx2
}  // namespace
Kernels const kAvx2 = avx2::kernels("avx2");
}  // namespace alibi::cpu
#pragma GCC pop_options
#endif
