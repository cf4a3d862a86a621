// Float vectors of one width behind one set of names, for the sources that are compiled once per instruction-set level.
// Which of L4, L8 and L16 exist depends on the flags of the including file; `Widest` is the largest.
//
// Everything here and in the kernels built on it has internal linkage and uses no templates of the standard library:
// an inline function compiled for AVX-512 must never be the copy that the linker keeps for the whole program.
//
//   max(a, b)           the larger; b when either is NaN
//   fma(a, b, c)        a·b + c, rounded once where the level has FMA, twice in the baseline
//   in_range(s, …)      s where low[lane] < key ≤ high[lane], else fill
//   load_quads(p, n)    four floats from each of p, p + n, p + 2n, …, one four after the other in the lanes
//   store_quads(p, n)   the reverse
//   transpose4(a…d)     within each four lanes, (a, b, c, d)ᵀ
//   exp_scale(p, …)     p · 2^n for t = magic + n; 0 where x < exp_floor; NaN where x is NaN
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace kvgrind::kernels {
namespace {

constexpr float exp_floor = -87.3f;     // below it exp is taken as 0 (the last normal float is 2^-126 = e^-87.34)
constexpr float exp_magic = 0x1.8p23f;  // adding it rounds to an integer that sits in the low mantissa bits

struct L4 {
  using F = __m128;
  static constexpr int width = 4;
  static F zero() { return _mm_setzero_ps(); }
  static F set(float value) { return _mm_set1_ps(value); }
  static F load(const float* from) { return _mm_loadu_ps(from); }
  static void store(float* to, F value) { _mm_storeu_ps(to, value); }
  static F max(F a, F b) { return _mm_max_ps(a, b); }
  static F fma(F a, F b, F c) {
#ifdef __FMA__
    return _mm_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
  }
  static F load_bf16(const std::uint16_t* from) {
    const __m128i raw = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), raw));
  }
  static F load_f16(const std::uint16_t* from) {
    const __m128i raw = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
#ifdef __F16C__
    return _mm_cvtph_ps(raw);
#else
    const __m128i wide = _mm_unpacklo_epi16(raw, _mm_setzero_si128());
    const __m128i magnitude = _mm_slli_epi32(_mm_and_si128(wide, _mm_set1_epi32(0x7fff)), 13);
    const __m128i special = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x0f7fffff));  // infinity and NaN
    // Multiplying by 2^112 moves the exponent and makes subnormal halves exact.
    const __m128 scaled = _mm_castsi128_ps(magnitude) * _mm_set1_ps(0x1p112f);
    const __m128i fixed = _mm_or_si128(_mm_castps_si128(scaled), _mm_and_si128(special, _mm_set1_epi32(0x7f800000)));
    const __m128i sign = _mm_slli_epi32(_mm_and_si128(wide, _mm_set1_epi32(0x8000)), 16);
    return _mm_castsi128_ps(_mm_or_si128(fixed, sign));
#endif
  }
  static F in_range(F s, const std::int32_t* low, const std::int32_t* high, std::int32_t key, float fill) {
    const __m128i at = _mm_set1_epi32(key);
    const __m128i above = _mm_cmpgt_epi32(at, _mm_loadu_si128(reinterpret_cast<const __m128i*>(low)));
    const __m128i beyond = _mm_cmpgt_epi32(at, _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)));
    return select(_mm_castsi128_ps(_mm_andnot_si128(beyond, above)), s, set(fill));
  }
  static F exp_scale(F p, F t, F x) {
    const __m128i bits = _mm_add_epi32(_mm_castps_si128(p), _mm_slli_epi32(_mm_castps_si128(t), 23));
    const F kept = _mm_andnot_ps(_mm_cmplt_ps(x, set(exp_floor)), _mm_castsi128_ps(bits));
    return _mm_or_ps(kept, _mm_cmpunord_ps(x, x));
  }
  static F abs(F a) { return _mm_andnot_ps(set(-0.0f), a); }
  static F with_sign_of(F a, F sign) { return _mm_or_ps(a, _mm_and_ps(sign, set(-0.0f))); }
  static F if_less(F a, F b, F yes, F no) { return select(_mm_cmplt_ps(a, b), yes, no); }
  static bool any_not_equal(F a, F b) { return _mm_movemask_ps(_mm_cmpneq_ps(a, b)) != 0; }
  static F load_quads(const float* from, std::int64_t) { return load(from); }
  static void store_quads(float* to, std::int64_t, F value) { store(to, value); }
  static void transpose4(F& a, F& b, F& c, F& d) { _MM_TRANSPOSE4_PS(a, b, c, d); }

 private:
  static F select(F mask, F yes, F no) { return _mm_or_ps(_mm_and_ps(mask, yes), _mm_andnot_ps(mask, no)); }
};

#ifdef __AVX2__
struct L8 {
  using F = __m256;
  static constexpr int width = 8;
  static F zero() { return _mm256_setzero_ps(); }
  static F set(float value) { return _mm256_set1_ps(value); }
  static F load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, F value) { _mm256_storeu_ps(to, value); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F load_bf16(const std::uint16_t* from) {
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
  }
  static F load_f16(const std::uint16_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static F in_range(F s, const std::int32_t* low, const std::int32_t* high, std::int32_t key, float fill) {
    const __m256i at = _mm256_set1_epi32(key);
    const __m256i above = _mm256_cmpgt_epi32(at, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(low)));
    const __m256i beyond = _mm256_cmpgt_epi32(at, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high)));
    return _mm256_blendv_ps(set(fill), s, _mm256_castsi256_ps(_mm256_andnot_si256(beyond, above)));
  }
  static F exp_scale(F p, F t, F x) {
    const __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23));
    const F kept = _mm256_andnot_ps(_mm256_cmp_ps(x, set(exp_floor), _CMP_LT_OQ), _mm256_castsi256_ps(bits));
    return _mm256_or_ps(kept, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  }
  static F abs(F a) { return _mm256_andnot_ps(set(-0.0f), a); }
  static F with_sign_of(F a, F sign) { return _mm256_or_ps(a, _mm256_and_ps(sign, set(-0.0f))); }
  static F if_less(F a, F b, F yes, F no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
  static bool any_not_equal(F a, F b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ)) != 0; }
  static F load_quads(const float* from, std::int64_t stride) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from)), _mm_loadu_ps(from + stride), 1);
  }
  static void store_quads(float* to, std::int64_t stride, F value) {
    _mm_storeu_ps(to, _mm256_castps256_ps128(value));
    _mm_storeu_ps(to + stride, _mm256_extractf128_ps(value, 1));
  }
  static void transpose4(F& a, F& b, F& c, F& d) {
    const F ab_low = _mm256_unpacklo_ps(a, b), ab_high = _mm256_unpackhi_ps(a, b);
    const F cd_low = _mm256_unpacklo_ps(c, d), cd_high = _mm256_unpackhi_ps(c, d);
    a = _mm256_shuffle_ps(ab_low, cd_low, 0x44);
    b = _mm256_shuffle_ps(ab_low, cd_low, 0xee);
    c = _mm256_shuffle_ps(ab_high, cd_high, 0x44);
    d = _mm256_shuffle_ps(ab_high, cd_high, 0xee);
  }
};
#endif

#ifdef __AVX512F__
struct L16 {
  using F = __m512;
  static constexpr int width = 16;
  static F zero() { return _mm512_setzero_ps(); }
  static F set(float value) { return _mm512_set1_ps(value); }
  static F load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, F value) { _mm512_storeu_ps(to, value); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F load_bf16(const std::uint16_t* from) {
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
  }
  static F load_f16(const std::uint16_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static F in_range(F s, const std::int32_t* low, const std::int32_t* high, std::int32_t key, float fill) {
    const __m512i at = _mm512_set1_epi32(key);
    const __mmask16 in = _mm512_cmp_epi32_mask(_mm512_loadu_si512(low), at, _MM_CMPINT_LT) &
                         _mm512_cmp_epi32_mask(at, _mm512_loadu_si512(high), _MM_CMPINT_LE);
    return _mm512_mask_blend_ps(in, set(fill), s);
  }
  static F exp_scale(F p, F t, F x) {
    const __mmask16 kept = _mm512_cmp_ps_mask(x, set(exp_floor), _CMP_NLT_UQ);
    return _mm512_maskz_scalef_ps(kept, p, t - set(exp_magic));
  }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F with_sign_of(F a, F sign) { return _mm512_or_ps(a, _mm512_and_ps(sign, set(-0.0f))); }
  static F if_less(F a, F b, F yes, F no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
  }
  static bool any_not_equal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ) != 0; }
  static F load_quads(const float* from, std::int64_t stride) {
    F all = _mm512_castps128_ps512(_mm_loadu_ps(from));
    all = _mm512_insertf32x4(all, _mm_loadu_ps(from + stride), 1);
    all = _mm512_insertf32x4(all, _mm_loadu_ps(from + 2 * stride), 2);
    return _mm512_insertf32x4(all, _mm_loadu_ps(from + 3 * stride), 3);
  }
  static void store_quads(float* to, std::int64_t stride, F value) {
    _mm_storeu_ps(to, _mm512_castps512_ps128(value));
    _mm_storeu_ps(to + stride, _mm512_extractf32x4_ps(value, 1));
    _mm_storeu_ps(to + 2 * stride, _mm512_extractf32x4_ps(value, 2));
    _mm_storeu_ps(to + 3 * stride, _mm512_extractf32x4_ps(value, 3));
  }
  static void transpose4(F& a, F& b, F& c, F& d) {
    const F ab_low = _mm512_unpacklo_ps(a, b), ab_high = _mm512_unpackhi_ps(a, b);
    const F cd_low = _mm512_unpacklo_ps(c, d), cd_high = _mm512_unpackhi_ps(c, d);
    a = _mm512_shuffle_ps(ab_low, cd_low, 0x44);
    b = _mm512_shuffle_ps(ab_low, cd_low, 0xee);
    c = _mm512_shuffle_ps(ab_high, cd_high, 0x44);
    d = _mm512_shuffle_ps(ab_high, cd_high, 0xee);
  }
};
#endif

#if defined(__AVX512F__)
using Widest = L16;
#elif defined(__AVX2__)
using Widest = L8;
#else
using Widest = L4;
#endif

// e^x for x ≤ 0: relative error ≤ 2e-7 down to exp_floor, 0 below it, exactly 1 at 0, NaN for NaN. x = n·ln 2 + r with
// |r| ≤ ln 2 / 2 (ln 2 in two parts), then 1 + r + r²·q(r), q fitted for least relative error.
template <class L>
inline typename L::F exp_nonpositive(typename L::F x) {
  const auto t = L::fma(x, L::set(0x1.715476p+0f), L::set(exp_magic));
  const auto n = t - L::set(exp_magic);
  auto r = L::fma(n, L::set(-0x1.62e4p-1f), x);
  r = L::fma(n, L::set(-0x1.7f7d1cp-20f), r);
  auto q = L::fma(r, L::set(0x1.1061b8p-7f), L::set(0x1.572bc4p-5f));
  q = L::fma(q, r, L::set(0x1.5557b4p-3f));
  q = L::fma(q, r, L::set(0x1.fffdf8p-2f));
  return L::exp_scale(L::fma(q * r, r, r) + L::set(1.0f), t, x);
}

// tanh with relative error ≤ 1e-6: an odd polynomial near 0, (1 − e) / (1 + e) with e = e^(−2|x|) elsewhere.
template <class L>
inline typename L::F tanh_lanes(typename L::F x) {
  const auto a = L::abs(x);
  const auto e = exp_nonpositive<L>(a * L::set(-2.0f));
  const auto large = (L::set(1.0f) - e) / (L::set(1.0f) + e);
  const auto y = a * a;
  auto q = L::fma(y, L::set(-0x1.76ac16p-8f), L::set(0x1.5256d6p-6f));
  q = L::fma(q, y, L::set(-0x1.b84448p-5f));
  q = L::fma(q, y, L::set(0x1.110768p-3f));
  q = L::fma(q, y, L::set(-0x1.555534p-2f));
  const auto small = L::fma(q * y, a, a);
  return L::with_sign_of(L::if_less(a, L::set(0.625f), small, large), x);
}

}  // namespace
}  // namespace kvgrind::kernels
