// The kernels for AVX-512 (F, VL, DQ, BW): sixteen lanes, 32 registers.
#if defined(__x86_64__) && !defined(ALIBI_PORTABLE_ONLY)
#include <immintrin.h>

#include "cpu/problem.h"

#pragma GCC push_options
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // both of GCC 12's own header
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c,prefer-vector-width=512")
namespace alibi::cpu {
namespace {
namespace avx512 {

typedef float V __attribute__((vector_size(64), may_alias));
typedef float VU __attribute__((vector_size(64), aligned(4), may_alias));
typedef int VI __attribute__((vector_size(64), may_alias));

constexpr int W = 16;
constexpr int kMostVectors = 4;  // of queries in a panel
constexpr int kTile = 64;
constexpr int kDecodeRows = 4;
constexpr int keysAtOnce(int vectors) { return vectors == 4 ? 6 : 8; }

inline V set1(float x) { return (V)_mm512_set1_ps(x); }
inline V fma(V a, V b, V c) { return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline V vmax(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }
inline bool anyNotLess(V a, V b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLT_UQ) != 0; }
inline bool anyLess(V a, V b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ) != 0; }
inline V low(V a, V b) { return (V)_mm512_unpacklo_ps((__m512)a, (__m512)b); }
inline V high(V a, V b) { return (V)_mm512_unpackhi_ps((__m512)a, (__m512)b); }
inline V firstHalves(V a, V b) { return (V)_mm512_shuffle_ps((__m512)a, (__m512)b, 0x44); }
inline V secondHalves(V a, V b) { return (V)_mm512_shuffle_ps((__m512)a, (__m512)b, 0xee); }
inline V gather4(float const* p, ptrdiff_t stride) {  // four floats each of rows 0, 4, 8, 12
    __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(p));
    x = _mm512_insertf32x4(x, _mm_loadu_ps(p + 4 * stride), 1);
    x = _mm512_insertf32x4(x, _mm_loadu_ps(p + 8 * stride), 2);
    return (V)_mm512_insertf32x4(x, _mm_loadu_ps(p + 12 * stride), 3);
}
inline V fromHalf(void const* p) { return (V)_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<__m256i const*>(p))); }
inline void toHalf(V x, void* p) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
}
#include "cpu/x86.inc"
#include "cpu/kernel.inc"

}  // namespace avx512
}  // namespace
Kernels const kAvx512 = avx512::kernels("avx512");
}  // namespace alibi::cpu
#pragma GCC pop_options
#endif
