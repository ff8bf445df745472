/* Intrinsics and inline assembly of the interpreter: what threads do together, shared memory, matrix
 * products. Fragment layouts are those of the PTX ISA, "Matrix fragments for mma.m16n8k16". */
#include "tests/support/simt_internal.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

float simt_to_float(uint64_t bits) {
  uint32_t word = (uint32_t)bits;
  float value;
  memcpy(&value, &word, 4);
  return value;
}

uint64_t simt_from_float(float value) {
  uint32_t word;
  memcpy(&word, &value, 4);
  return word;
}

float simt_half_to_float(uint16_t bits) {
  int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  float value = exponent == 31  ? (mantissa ? NAN : INFINITY)
                : exponent == 0 ? ldexpf((float)mantissa, -24)
                                : ldexpf((float)(mantissa + 1024), exponent - 25);
  return bits & 0x8000 ? -value : value;
}

uint16_t simt_to_half(float value) {
  uint16_t negative = signbit(value) ? 0x8000 : 0;
  float size = fabsf(value);
  if (isnan(value))
    return 0x7fff;
  if (size >= 65520)
    return negative | 0x7c00;
  int exponent;
  frexpf(size, &exponent);
  exponent = exponent < -13 ? -13 : exponent; /* size = mantissa * 2^(exponent - 11) */
  int mantissa = (int)nearbyintf(ldexpf(size, 11 - exponent));
  if (mantissa < 1024)
    return negative | (uint16_t)mantissa;
  if (mantissa == 2048)
    mantissa = 1024, exponent++;
  return negative | (uint16_t)((exponent + 14) << 10 | (mantissa - 1024));
}

uint16_t simt_to_bfloat(float value) {
  uint32_t bits = (uint32_t)simt_from_float(value);
  return isnan(value) ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- shared memory ---- */

static bool touch(simt *s, int t, uint32_t address, int bytes, bool write) {
  uint32_t offset = address - SIMT_SHARED_BASE;
  int warp = t / 32;
  if (offset + (uint32_t)bytes > (uint32_t)s->shared_bytes || offset % (unsigned)bytes) {
    snprintf(s->detail, sizeof s->detail, "(thread %d, offset %d, %d bytes: outside or misaligned)", t,
             (int)offset, bytes);
    return false;
  }
  for (uint32_t word = offset / 4; word < (offset + (uint32_t)bytes) / 4; word++) {
    bool race = s->write_epoch[word] == s->epoch && s->writer[word] != warp;
    if (s->read_epoch[word] != s->epoch)
      s->readers[word] = 0;
    if (write && s->readers[word] & ~((uint32_t)1 << warp))
      race = true;
    if (race) {
      snprintf(s->detail, sizeof s->detail, "(race: thread %d %s offset %d)", t, write ? "writes" : "reads",
               (int)word * 4);
      return false;
    }
    if (write) {
      s->write_epoch[word] = s->epoch;
      s->writer[word] = warp;
    } else {
      s->read_epoch[word] = s->epoch;
      s->readers[word] |= (uint32_t)1 << warp;
    }
  }
  return true;
}

static unsigned char *shared_at(simt *s, uint64_t address) {
  return s->shared + ((uint32_t)address - SIMT_SHARED_BASE);
}

static const char *load_shared(simt *s, const simt_instruction *in, int fields) {
  for (int t = 0; t < s->threads; t++) {
    if (!s->active[t])
      continue;
    uint64_t address = AT(s, in->operand[0], 0, t);
    if (!touch(s, t, (uint32_t)address, 4 * fields, false))
      return "shared memory";
    for (int f = 0; f < fields; f++) {
      uint32_t word;
      memcpy(&word, shared_at(s, address) + 4 * f, 4);
      AT(s, in->result, f, t) = word;
    }
  }
  return NULL;
}

static const char *store_shared(simt *s, const simt_instruction *in, int fields) {
  for (int t = 0; t < s->threads; t++) {
    if (!s->active[t])
      continue;
    uint64_t address = AT(s, in->operand[0], 0, t);
    if (!touch(s, t, (uint32_t)address, 4 * fields, true))
      return "shared memory";
    for (int f = 0; f < fields; f++)
      memcpy(shared_at(s, address) + 4 * f, &AT(s, in->operand[1 + f], 0, t), 4);
  }
  return NULL;
}

static const char *begin_copy(simt *s, const simt_instruction *in, int bytes) {
  for (int t = 0; t < s->threads; t++) {
    if (!s->active[t])
      continue;
    if (s->copy_count[t] == SIMT_MAX_COPIES)
      return "too many copies under way";
    simt_copy copy = {(uint32_t)AT(s, in->operand[0], 0, t), bytes, (int)AT(s, in->operand[2], 0, t),
                      (const void *)(uintptr_t)AT(s, in->operand[1], 0, t)};
    if (!touch(s, t, copy.to, bytes, true) || (uintptr_t)copy.from % (unsigned)bytes)
      return "a copy to shared memory, or from a misaligned place";
    s->copy[t][s->copy_count[t]++] = copy;
  }
  return NULL;
}

static const char *finish_copies(simt *s) {
  for (int t = 0; t < s->threads; t++) {
    for (int i = 0; s->active[t] && i < s->copy_count[t]; i++) {
      const simt_copy *copy = &s->copy[t][i];
      if (!touch(s, t, copy->to, copy->bytes, true))
        return "a copy that arrives late";
      memset(shared_at(s, copy->to), 0, (size_t)copy->bytes);
      if (copy->read > 0)
        memcpy(shared_at(s, copy->to), copy->from, (size_t)copy->read);
    }
    if (s->active[t])
      s->copy_count[t] = 0;
  }
  return NULL;
}

/* ---- warps ---- */

/* Warp-wide instructions need all lanes of the warps that run them. */
static bool warps_whole(const simt *s) {
  for (int t = 0; t < s->threads; t++)
    if (s->active[t] != s->active[t & ~31])
      return false;
  return true;
}

static const char *load_matrices(simt *s, const simt_instruction *in, bool transpose) {
  for (int warp = 0; warp < s->threads; warp += 32) {
    if (!s->active[warp])
      continue;
    for (int lane = 0; lane < 32; lane++)
      if (!touch(s, warp + lane, (uint32_t)AT(s, in->operand[0], 0, warp + lane), 16, false))
        return "ldmatrix";
    for (int matrix = 0; matrix < 4; matrix++)
      for (int lane = 0; lane < 32; lane++) {
        uint32_t word = 0;
        for (int half = 0; half < 2; half++) {
          int row = lane / 4, column = lane % 4 * 2 + half;
          int from = warp + matrix * 8 + (transpose ? column : row);
          uint16_t element;
          memcpy(&element, shared_at(s, AT(s, in->operand[0], 0, from)) + 2 * (transpose ? row : column), 2);
          word |= (uint32_t)element << (16 * half);
        }
        AT(s, in->result, matrix, warp + lane) = word;
      }
  }
  return NULL;
}

typedef enum product_kind { PRODUCT_HALF, PRODUCT_BFLOAT, PRODUCT_TF32 } product_kind;

static float element_of(simt *s, product_kind kind, int place, int t, int half) {
  uint32_t word = (uint32_t)AT(s, place, 0, t);
  if (kind == PRODUCT_TF32)
    return simt_to_float(word & 0xffffe000u);
  uint16_t element = (uint16_t)(word >> (16 * half));
  return kind == PRODUCT_HALF ? simt_half_to_float(element) : simt_to_float((uint32_t)element << 16);
}

/* D = A B + C; A is 16 x k, B is k x 8. */
static void multiply_warp(simt *s, const simt_instruction *in, product_kind kind, int warp) {
  int depth = kind == PRODUCT_TF32 ? 8 : 16;
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; lane++) {
    int group = lane / 4, quad = lane % 4;
    for (int i = 0; i < 4; i++)
      for (int half = 0; half < (kind == PRODUCT_TF32 ? 1 : 2); half++) {
        int k = kind == PRODUCT_TF32 ? quad + i / 2 * 4 : quad * 2 + half + i / 2 * 8;
        a[group + i % 2 * 8][k] = element_of(s, kind, in->operand[i], warp + lane, half);
        if (i < 2) {
          k = kind == PRODUCT_TF32 ? quad + i * 4 : quad * 2 + half + i * 8;
          b[k][group] = element_of(s, kind, in->operand[4 + i], warp + lane, half);
        }
      }
  }
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < 4; i++) {
      int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      double sum = simt_to_float(AT(s, in->operand[6 + i], 0, warp + lane));
      for (int k = 0; k < depth; k++)
        sum += (double)a[row][k] * b[k][column];
      AT(s, in->result, i, warp + lane) = simt_from_float((float)sum);
    }
}

static const char *multiply(simt *s, const simt_instruction *in, product_kind kind) {
  for (int warp = 0; warp < s->threads; warp += 32)
    if (s->active[warp])
      multiply_warp(s, in, kind, warp);
  return NULL;
}

static const char *shuffle(simt *s, const simt_instruction *in, bool butterfly) {
  for (int t = 0; t < s->threads; t++) {
    if (!s->active[t])
      continue;
    int lane = (int)AT(s, in->operand[2], 0, t), from = butterfly ? t ^ lane : (t & ~31) | (lane & 31);
    AT(s, in->result, 0, t) = AT(s, in->operand[1], 0, from);
  }
  return NULL;
}

static const char *barrier(simt *s) {
  for (int t = 0; t < s->threads; t++)
    if (!s->active[t])
      return "a barrier that not all threads reach";
  s->epoch++;
  return NULL;
}

static bool has(const simt_instruction *in, const char *prefix) {
  return strncmp(in->text, prefix, strlen(prefix)) == 0;
}

static const char *call_assembly(simt *s, const simt_instruction *in) {
  if (has(in, "cp.async.cg.shared.global"))
    return begin_copy(s, in, 16);
  if (has(in, "cp.async.ca.shared.global"))
    return begin_copy(s, in, 4);
  if (has(in, "cp.async.commit_group"))
    return NULL;
  if (has(in, "cp.async.wait_group 0"))
    return finish_copies(s);
  if (has(in, "ld.shared.v4.f32"))
    return load_shared(s, in, 4);
  if (has(in, "ld.shared.v2.f32"))
    return load_shared(s, in, 2);
  if (has(in, "ld.shared.f32"))
    return load_shared(s, in, 1);
  if (has(in, "st.shared.b32"))
    return store_shared(s, in, 1);
  if (has(in, "st.shared.v4.b32"))
    return store_shared(s, in, 4);
  if (!warps_whole(s))
    return "a warp-wide instruction that not all lanes reach";
  if (has(in, "ldmatrix.sync.aligned.m8n8.x4.trans"))
    return load_matrices(s, in, true);
  if (has(in, "ldmatrix.sync.aligned.m8n8.x4.shared"))
    return load_matrices(s, in, false);
  if (has(in, "mma.sync.aligned.m16n8k16.row.col.f32.f16"))
    return multiply(s, in, PRODUCT_HALF);
  if (has(in, "mma.sync.aligned.m16n8k16.row.col.f32.bf16"))
    return multiply(s, in, PRODUCT_BFLOAT);
  if (has(in, "mma.sync.aligned.m16n8k8.row.col.f32.tf32"))
    return multiply(s, in, PRODUCT_TF32);
  return "assembly it does not know:";
}

/* Instructions of one thread. False: unknown. */
static bool call_thread(simt *s, const simt_instruction *in, int t) {
  uint64_t a = in->operand_count > 0 ? AT(s, in->operand[0], 0, t) : 0;
  uint64_t b = in->operand_count > 1 ? AT(s, in->operand[1], 0, t) : 0;
  uint64_t *result = &AT(s, in->result, 0, t);
  float x = simt_to_float(a), y = simt_to_float(b);
  if (has(in, "mov.b32"))
    *result = a;
  else if (has(in, "cvt.rn.bf16x2.f32"))
    *result = (uint32_t)simt_to_bfloat(x) << 16 | simt_to_bfloat(y);
  else if (has(in, "cvt.rn.f16x2.f32"))
    *result = (uint32_t)simt_to_half(x) << 16 | simt_to_half(y);
  else if (has(in, "llvm.smin.i32"))
    *result = (int32_t)a < (int32_t)b ? a : b;
  else if (has(in, "llvm.smax.i32"))
    *result = (int32_t)a > (int32_t)b ? a : b;
  else if (has(in, "llvm.smin.i64"))
    *result = (int64_t)a < (int64_t)b ? a : b;
  else if (has(in, "llvm.smax.i64"))
    *result = (int64_t)a > (int64_t)b ? a : b;
  else if (has(in, "llvm.minnum.f32"))
    *result = simt_from_float(fminf(x, y));
  else if (has(in, "llvm.maxnum.f32"))
    *result = simt_from_float(fmaxf(x, y));
  else if (has(in, "llvm.fma.f32"))
    *result = simt_from_float(fmaf(x, y, simt_to_float(AT(s, in->operand[2], 0, t))));
  else if (has(in, "llvm.nvvm.ex2.approx.ftz.f"))
    *result = simt_from_float(exp2f(x));
  else if (has(in, "llvm.nvvm.lg2.approx.f"))
    *result = simt_from_float(log2f(x));
  else if (has(in, "llvm.nvvm.rcp.approx.ftz.f"))
    *result = simt_from_float(1 / x);
  else if (has(in, "llvm.ctlz.i32"))
    *result = (uint32_t)a ? (uint64_t)__builtin_clz((uint32_t)a) : 32;
  else if (has(in, "llvm.nvvm.read.ptx.sreg.tid.x"))
    *result = (uint64_t)t;
  else if (has(in, "llvm.nvvm.read.ptx.sreg.ctaid.x"))
    *result = (uint64_t)s->cta;
  else
    return false;
  return true;
}

const char *simt_call(simt *s, const simt_instruction *in) {
  bool known = true;
  if (has(in, "llvm.nvvm.barrier0"))
    return barrier(s);
  if (has(in, "llvm.nvvm.shfl.sync"))
    return !warps_whole(s) ? "a shuffle that not all lanes reach" : shuffle(s, in, strstr(in->text, "bfly"));
  for (int t = 0; t < s->threads && known; t++)
    known = !s->active[t] || call_thread(s, in, t);
  if (known)
    return NULL;
  const char *failure = call_assembly(s, in);
  if (failure && !s->detail[0])
    snprintf(s->detail, sizeof s->detail, "%.100s", in->text);
  return failure;
}
