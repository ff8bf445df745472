/* What differs between targets and element types: the index loops, reductions over lanes, and the conversion
 * of elements. Compiled freestanding, once for each SPTX_ELEMENT (f32, bf16, f16) and target. */
#ifndef SPTX_MODEL_KERNELS_TARGET_H
#define SPTX_MODEL_KERNELS_TARGET_H

#include "kernels.h"
#include <stddef.h>

/* Rows are worked on in packs of elements; all widths are multiples of PACK. */
#define PACK 8
typedef float pack __attribute__((vector_size(4 * PACK)));

#define INLINE static inline __attribute__((always_inline))
#define PASTE_(a, b, c) sptx_##a##_##b##c
#define PASTE(a, b, c) PASTE_(a, b, c)

#ifdef __NVPTX__
#define SPTX_VARIANT
#define LANES 32
#define WARPS (SPTX_CTA_THREADS / LANES)
#define LANE (__nvvm_read_ptx_sreg_tid_x() % LANES)
#define THREAD ((int64_t)__nvvm_read_ptx_sreg_ctaid_x() * SPTX_CTA_THREADS + __nvvm_read_ptx_sreg_tid_x())
#define THREADS ((int64_t)__nvvm_read_ptx_sreg_nctaid_x() * SPTX_CTA_THREADS)
#define FIRST_ROW (begin + THREAD / LANES)
#define ROW_STEP (THREADS / LANES)
#define EACH_GROUP(index)                                                                                    \
  for (int64_t index = begin + __nvvm_read_ptx_sreg_ctaid_x(); index < end;                                  \
       index += __nvvm_read_ptx_sreg_nctaid_x())
/* A group's warps take its members in turns. */
#define FIRST_MEMBER(from) ((from) + __nvvm_read_ptx_sreg_tid_x() / LANES)
#define EACH_MEMBER(k, from, to) for (int64_t k = FIRST_MEMBER(from), k##_end = (to); k < k##_end; k += WARPS)
#define EACH_MEMBER_BATCH(k, from, to)                                                                       \
  for (int64_t k = FIRST_MEMBER(from), k##_end = (to); k < k##_end; k += BATCH * WARPS)
#define EACH_ELEMENT(i) for (int64_t i = begin + THREAD; i < end; i += THREADS)
#define EACH_LANE(i, n) for (int64_t i = LANE, i##_end = (n); i < i##_end; i += LANES)
#define EACH_LANE_IN_ORDER EACH_LANE
#define FIRST_LANE if (LANE == 0)
#define SYNC_LANES __nvvm_bar_warp_sync(-1)
/* Addresses of packs are multiples of 16: two loads of 16 bytes, or one. */
#define ALIGNED(p) __builtin_assume_aligned(p, 16)
#define ENTRY(name)                                                                                          \
  __attribute__((nvptx_kernel)) void PASTE(name, SPTX_ELEMENT, SPTX_VARIANT)(int64_t begin, int64_t end,     \
                                                                             struct sptx_##name##_args a) {  \
    name##_rows(begin, end, a);                                                                              \
  }
INLINE float lane_sum(float x) {
  for (int distance = LANES / 2; distance; distance /= 2)
    x += __nvvm_shfl_sync_bfly_f32(-1, x, distance, LANES - 1);
  return x;
}
INLINE float lane_max(float x) {
  for (int distance = LANES / 2; distance; distance /= 2)
    x = __builtin_fmaxf(x, __nvvm_shfl_sync_bfly_f32(-1, x, distance, LANES - 1));
  return x;
}
INLINE pack lane_sum_pack(pack x) {
  for (int k = 0; k < PACK; k++)
    x[k] = lane_sum(x[k]);
  return x;
}
INLINE double lane_sum_double(double x) {
  for (int distance = LANES / 2; distance; distance /= 2) {
    union {
      double whole;
      int half[2];
    } mine = {x}, other;
    other.half[0] = __nvvm_shfl_sync_bfly_i32(-1, mine.half[0], distance, LANES - 1);
    other.half[1] = __nvvm_shfl_sync_bfly_i32(-1, mine.half[1], distance, LANES - 1);
    x += other.whole;
  }
  return x;
}
/* 1 / (1 + exp(-x)) by the hardware's approximations, below 1e-6. */
INLINE float sigmoid(float x) {
  return __nvvm_rcp_approx_ftz_f(1.0f + __nvvm_ex2_approx_ftz_f(-1.44269504f * x));
}
enum { HELD_PACKS = 4, BATCH = 4 };
#define UNROLL _Pragma("unroll")
/* Sums over rows stay in registers, each warp's for its rows; the group adds them up in the warps' order. */
enum { SUM_PACKS = SPTX_CTA_COLUMNS / (LANES * PACK) };
#define EACH_COLUMN_PACK(p, i, first, width)                                                                 \
  _Pragma("unroll") for (int p = 0; p < SUM_PACKS;                                                           \
                         p++) for (int64_t i = (first) + (p * LANES + LANE) * PACK,                          \
                                   i##_end = i < (width) ? i + 1 : i;                                        \
                                   i < i##_end; i = i##_end)
/* Of rows that are held there is one block. */
#define EACH_HELD_COLUMN_PACK(p, i, first, width, packs)                                                     \
  UNROLL for (int p = 0; p < ((packs) ? (packs) : SUM_PACKS);                                                \
              p++) for (int64_t i = (first) + (p * LANES + LANE) * PACK,                                     \
                        i##_end = (packs) || i < (width) ? i + 1 : i;                                        \
                        i < i##_end; i = i##_end)
#define COLUMN_SUMS(sums, to, first, width) pack sums[SUM_PACKS] = {{0}}
#define ADD_COLUMNS(sums, p, i, value) sums[p] += (value)
#define KEEP_COLUMNS(sums, to, first, width) keep_columns(to, first, width, sums)
/* Adds to sums the rows that `at`, an expression in k, points to for members k; NULL adds nothing. Several
 * rows are loaded before the first is added. */
#define ADD_ROWS(sums, k, from, to, at, first, width)                                                        \
  EACH_MEMBER_BATCH(k##_0, from, to) {                                                                       \
    elements rows_[BATCH][SUM_PACKS] = {0};                                                                  \
    UNROLL for (int b_ = 0; b_ < BATCH; b_++) {                                                              \
      const int64_t k = k##_0 + b_ * WARPS;                                                                  \
      const element *const at_ = k < (to) ? (at) : NULL;                                                     \
      if (at_)                                                                                               \
        EACH_COLUMN_PACK(p_, i_, first, width)                                                               \
      rows_[b_][p_] = load_elements(at_ + i_);                                                               \
    }                                                                                                        \
    UNROLL for (int b_ = 0; b_ < BATCH; b_++) UNROLL for (int p_ = 0; p_ < SUM_PACKS; p_++) sums[p_] +=      \
        widen(rows_[b_][p_]);                                                                                \
  }
#else
#define LANES 1
#define LANE 0
#define WARPS 1
#define FIRST_MEMBER(from) (from)
#define FIRST_ROW begin
#define ROW_STEP 1
#define EACH_GROUP(index) for (int64_t index = begin; index < end; index++)
#define EACH_MEMBER(k, from, to) for (int64_t k = (from); k < (to); k++)
#ifdef __clang__
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety) interleave(enable)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif
#define EACH_ELEMENT(i) INDEPENDENT for (int64_t i = begin; i < end; i++)
#define EACH_LANE(i, n) INDEPENDENT for (int64_t i = 0; i < (n); i++)
#define EACH_LANE_IN_ORDER(i, n)                                                                             \
  for (int64_t i = 0; i < (n); i++) /* what no compiler vectorises: NaN-safe max */
#define FIRST_LANE
#define SYNC_LANES
#define ALIGNED(p) (p)
#define ENTRY(name)                                                                                          \
  void PASTE(name, SPTX_ELEMENT, SPTX_VARIANT)(int64_t begin, int64_t end, const void *arguments);           \
  void PASTE(name, SPTX_ELEMENT, SPTX_VARIANT)(int64_t begin, int64_t end, const void *arguments) {          \
    name##_rows(begin, end, *(const struct sptx_##name##_args *)arguments);                                  \
  }
INLINE float lane_sum(float x) {
  return x;
}
INLINE float lane_max(float x) {
  return x;
}
INLINE pack lane_sum_pack(pack x) {
  return x;
}
INLINE double lane_sum_double(double x) {
  return x;
}
enum { HELD_PACKS = 1, SUM_PACKS = 0 };
#define UNROLL
/* Sums over rows are kept where they belong; there is one block of columns. */
#define EACH_COLUMN_PACK(p, i, first, width)                                                                 \
  for (int64_t p __attribute__((unused)) = 0, i = (first); i < (width); p++, i += PACK)
#define EACH_HELD_COLUMN_PACK(p, i, first, width, packs) EACH_COLUMN_PACK(p, i, first, width)
#define COLUMN_SUMS(sums, to, first, width)                                                                  \
  float *const sums = (to);                                                                                  \
  EACH_COLUMN_PACK(p, i, first, width)                                                                       \
  store_floats(sums + i, (pack){0})
#define ADD_COLUMNS(sums, p, i, value) store_floats(sums + i, load_floats(sums + i) + (value))
#define KEEP_COLUMNS(sums, to, first, width) (void)0
#define ADD_ROWS(sums, k, from, to, at, first, width)                                                        \
  EACH_MEMBER(k, from, to) {                                                                                 \
    const element *const at_ = (at);                                                                         \
    if (at_)                                                                                                 \
      EACH_COLUMN_PACK(p_, i_, first, width)                                                                 \
    ADD_COLUMNS(sums, p_, i_, load_pack(at_ + i_));                                                          \
  }
#endif

#define EACH_ROW(row) for (int64_t row = FIRST_ROW; row < end; row += ROW_STEP)
/* The packs of a lane in a row. */
#define EACH_PACK(i, n) for (int64_t i = (int64_t)LANE * PACK, i##_end = (n); i < i##_end; i += LANES * PACK)
/* The same, numbered. packs is a constant: how many packs of each row a lane holds in registers, all lanes
 * the same, so that nothing needs to be guarded; or 0. */
#define EACH_NUMBERED_PACK(p, i, n, packs)                                                                   \
  UNROLL for (int64_t p __attribute__((unused)) = 0, i = (int64_t)LANE * PACK;                               \
              (packs) ? p < (packs) : i < (n); p++, i += LANES * PACK)
/* Runs `call`, which names PACKS, for rows of such a width. None are held where there would be too many or
 * lanes differ, and on the CPU, whose cache holds a row. */
#define WITH_PACKS(width, call)                                                                              \
  do {                                                                                                       \
    if (SUM_PACKS == 2 && (width) == 2 * LANES * PACK) {                                                     \
      enum { PACKS = SUM_PACKS };                                                                            \
      call;                                                                                                  \
    } else if (SUM_PACKS == 2 && (width) == LANES * PACK) {                                                  \
      enum { PACKS = SUM_PACKS / 2 };                                                                        \
      call;                                                                                                  \
    } else {                                                                                                 \
      enum { PACKS = 0 };                                                                                    \
      call;                                                                                                  \
    }                                                                                                        \
  } while (0)
/* A chunk of rows and a block of columns, which begins with `first`, of each index. */
#define EACH_CHUNK(chunk, first, a)                                                                          \
  EACH_GROUP(index_)                                                                                         \
  for (int64_t blocks_ = ((a).width + (a).block_columns - 1) / (a).block_columns, chunk = index_ / blocks_,  \
               first = index_ % blocks_ * (a).block_columns;                                                 \
       blocks_; blocks_ = 0)
#define EACH_CHUNK_ROW(row, chunk, a)                                                                        \
  EACH_MEMBER(row, (chunk) * (a).chunk_rows, smaller(((chunk) + 1) * (a).chunk_rows, (a).rows))
/* HELD_PACKS packs of a lane. */
#define EACH_HELD_PACK(p, i, first, n)                                                                       \
  UNROLL for (int64_t p = 0, i = (first); p < HELD_PACKS; p++, i += LANES * PACK) if (i < (n))

INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

INLINE pack load_floats(const float *p) {
  pack x;
  __builtin_memcpy(&x, ALIGNED(p), sizeof x);
  return x;
}
INLINE void store_floats(float *p, pack x) {
  __builtin_memcpy(ALIGNED(p), &x, sizeof x);
}
#ifdef __NVPTX__
/* Called by all threads of a CTA: to[first..] = the sums of its warps, which lie in shared memory meanwhile.
 */
INLINE void keep_columns(float *to, int64_t first, int64_t width, const pack *sums) {
  static __attribute__((address_space(3), aligned(16))) float warps[WARPS][SPTX_CTA_COLUMNS];
  const int64_t thread = __nvvm_read_ptx_sreg_tid_x();
  __syncthreads(); /* the last call's sums have been read */
  for (int p = 0; p < SUM_PACKS; p++)
    for (int k = 0; k < PACK; k++)
      warps[thread / LANES][(p * LANES + LANE) * PACK + k] = sums[p][k];
  __syncthreads();
  for (int64_t i = thread; i < SPTX_CTA_COLUMNS && first + i < width; i += SPTX_CTA_THREADS) {
    float sum = 0;
    for (int warp = 0; warp < WARPS; warp++)
      sum += warps[warp][i];
    to[first + i] = sum;
  }
}
#endif

/* KERNEL(name) { body over begin, end and the arguments a } */
#define KERNEL(name)                                                                                         \
  INLINE void name##_rows(int64_t begin, int64_t end, struct sptx_##name##_args a);                          \
  ENTRY(name)                                                                                                \
  INLINE void name##_rows(int64_t begin, int64_t end, struct sptx_##name##_args a)

union float_bits {
  float value;
  uint32_t bits;
};

typedef uint32_t words __attribute__((vector_size(4 * PACK)));
#if defined(SPTX_ELEMENT_bf16)
typedef uint16_t element;
typedef uint16_t elements __attribute__((vector_size(2 * PACK)));
INLINE pack widen(elements x) {
  return (pack)(__builtin_convertvector(x, words) << 16);
}
/* Round to nearest even; a NaN stays one (its upper half is made quiet). */
INLINE elements narrow(pack x) {
#ifdef __NVPTX__
  elements result;
  for (int k = 0; k < PACK; k += 2) {
    uint32_t pair;
    __asm__("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(x[k + 1]), "f"(x[k]));
    result[k] = (uint16_t)pair;
    result[k + 1] = (uint16_t)(pair >> 16);
  }
  return result;
#else
  words bits = (words)x, number = (words)(x == x);
  words rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return __builtin_convertvector((rounded & number) | ((bits >> 16 | 0x40) & ~number), elements);
#endif
}
#elif defined(SPTX_ELEMENT_f16)
typedef _Float16 element;
typedef _Float16 elements __attribute__((vector_size(2 * PACK)));
INLINE pack widen(elements x) {
  return __builtin_convertvector(x, pack);
}
INLINE elements narrow(pack x) {
  return __builtin_convertvector(x, elements);
}
#else
typedef float element;
typedef pack elements;
INLINE pack widen(elements x) {
  return x;
}
INLINE elements narrow(pack x) {
  return x;
}
#endif

INLINE elements load_elements(const element *p) {
  elements x;
  __builtin_memcpy(&x, ALIGNED(p), sizeof x);
  return x;
}
INLINE pack load_pack(const element *p) {
  return widen(load_elements(p));
}
INLINE void store_elements(element *p, elements x) {
  __builtin_memcpy(ALIGNED(p), &x, sizeof x);
}
INLINE void store_pack(element *p, pack x) {
  store_elements(p, narrow(x));
}
/* A row that a lane holds its packs of, or reads again from memory where packs is 0. */
struct held {
  const element *at;
  elements packs[HELD_PACKS];
};
INLINE void hold(struct held *row, const element *at, int64_t width, int packs) {
  row->at = at;
  if (packs)
    EACH_NUMBERED_PACK(p, i, width, packs)
  row->packs[p] = load_elements(at + i);
}
INLINE void hold_columns(struct held *row, const element *at, int64_t first, int64_t width) {
  row->at = at;
  if (SUM_PACKS)
    EACH_COLUMN_PACK(p, i, first, width)
  row->packs[p] = load_elements(at + i);
}
INLINE pack held_pack(const struct held *row, int64_t p, int64_t i, int packs) {
  return packs ? widen(row->packs[p]) : load_pack(row->at + i);
}
INLINE float pack_sum(pack x) {
  return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}
/* One element, where rows of packs do not serve. */
#if defined(SPTX_ELEMENT_bf16)
INLINE element narrow_one(float x) {
  union float_bits u = {x};
  uint32_t rounded = (u.bits + 0x7fff + (u.bits >> 16 & 1)) >> 16;
  return (element)(x == x ? rounded : u.bits >> 16 | 0x40);
}
#else
INLINE element narrow_one(float x) {
  return (element)x;
}
#endif

/* exp by 2^n * polynomial on [-ln2/2, ln2/2] (Cephes' minimax coefficients), below 2 ulp. */
INLINE float exp_float(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  float n = __builtin_rintf(x * 1.44269504f);
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  union float_bits scale = {.bits = (uint32_t)((int32_t)n + 127) << 23};
  return p * scale.value;
}

#ifndef __NVPTX__
INLINE float sigmoid(float x) {
  return 1.0f / (1.0f + exp_float(-x));
}
#endif

/* ln of a positive normal number: exponent plus the series of atanh((m - 1) / (m + 1)), m in [0.7, 1.42). */
INLINE float log_float(float x) {
  union float_bits u = {x};
  int32_t exponent = (int32_t)(u.bits >> 23) - 127;
  u.bits = (u.bits & 0x7fffff) | 0x3f800000;
  if (u.value > 1.41421356f) {
    u.value *= 0.5f;
    exponent++;
  }
  float s = (u.value - 1.0f) / (u.value + 1.0f), s2 = s * s;
  float series =
      2.0f * s *
      (1.0f + s2 * (1.0f / 3 + s2 * (1.0f / 5 + s2 * (1.0f / 7 + s2 * (1.0f / 9 + s2 * (1.0f / 11))))));
  return (float)exponent * 0.693147181f + series;
}

/* Philox4x32-10 (Salmon et al. 2011): four random words for a counter and a key. */
INLINE void philox(uint32_t counter[4], uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; round++) {
    uint64_t a = (uint64_t)0xD2511F53u * counter[0], b = (uint64_t)0xCD9E8D57u * counter[2];
    uint32_t next0 = (uint32_t)(b >> 32) ^ counter[1] ^ key0, next2 = (uint32_t)(a >> 32) ^ counter[3] ^ key1;
    counter[1] = (uint32_t)b;
    counter[3] = (uint32_t)a;
    counter[0] = next0;
    counter[2] = next2;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

/* x where dropout keeps it, scaled; else 0. `first` counts x's first element within the global batch. */
INLINE pack drop(const struct sptx_dropout *dropout, int64_t first, pack x) {
  int64_t index = first / PACK;
  uint32_t word[4] = {(uint32_t)index, (uint32_t)(index >> 32), dropout->stream, dropout->step};
  philox(word, dropout->key[0], dropout->key[1]);
  for (int k = 0; k < PACK; k++)
    x[k] = (word[k / 2] >> 16 * (k % 2) & 0xffff) >= dropout->threshold ? x[k] * dropout->scale : 0.0f;
  return x;
}

#endif
