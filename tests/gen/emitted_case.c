/* A program around emitted kernels, compiled by test_sptx_gen.py for each case:
 *
 *   cc -DHEADER='"name.h"' -DNAME=name -DUPPER=NAME [-DBF16|-DF16] [-DSOFT_CAP] [-DALIBI] [-DBACKWARD]
 * [-DDECODE]
 *
 * It reads the pattern's mask (heads, n_q, n_k) from the .npy file that is its argument, and compares the
 * kernels' results with plain float64 loops over that mask. Exit status: 0 equal, 1 not, 77 wrong CPU. */
#include HEADER
#include <math.h>
#include <stdio.h>
#include <string.h>

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define SIZE(what) JOIN(UPPER, what)
#define CALL(what) JOIN(NAME, what)

enum {
  B = SIZE(BATCH),
  H = SIZE(HEADS),
  KV = SIZE(KV_HEADS),
  NQ = SIZE(N_Q),
  NK = SIZE(N_K),
  D = SIZE(HEAD_DIM),
  QUERIES = B * H * NQ * D,
  KEYS = B * KV * NK * D
};

#if defined(BF16) || defined(F16)
typedef uint16_t element;
#else
typedef float element;
#endif
#ifdef F16
static const double unit = 0x1p-11;
#elif defined(BF16)
static const double unit = 0x1p-8;
#else
static const double unit = 0x1p-23;
#endif

static double load(element cell) {
#ifdef BF16
  uint32_t bits = (uint32_t)cell << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
#elif defined(F16)
  int exponent = cell >> 10 & 31, fraction = cell & 1023;
  double size = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
  return cell >> 15 ? -size : size;
#else
  return cell;
#endif
}

/* A random element of size below 1. */
static element make(void) {
  static uint64_t state = 88172645463325252u;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
#ifdef BF16
  return (element)((state & 0x8000) | (120 + state % 7) << 7 | (state >> 20 & 127));
#elif defined(F16)
  return (element)((state & 0x8000) | (8 + state % 7) << 10 | (state >> 20 & 1023));
#else
  return (element)((double)(state >> 11) * 0x1p-52 - 1);
#endif
}

static element q[QUERIES], o[QUERIES], d_o[QUERIES], d_q[QUERIES], k[KEYS], v[KEYS], d_k[KEYS], d_v[KEYS];
static float lse[B * H * NQ], slopes[H];
static double want_o[QUERIES], want_lse[B * H * NQ], want_q[QUERIES], want_k[KEYS], want_v[KEYS];
static unsigned char mask[H][NQ][NK];
static const double scale = 0.3, soft_cap = 2.5;

static double dot(const element *a, const element *b) {
  double sum = 0;
  for (int d = 0; d < D; d++)
    sum += load(a[d]) * load(b[d]);
  return sum;
}

/* The score of a pair, and its derivative by scale * q k^T. */
static double score(const element *query, const element *key, int h, int i, int j, double *slope) {
  double s = scale * dot(query, key);
  *slope = 1;
#ifdef SOFT_CAP
  double t = tanh(s / soft_cap);
  *slope = 1 - t * t;
  s = soft_cap * t;
#endif
#ifdef ALIBI
  s += slopes[h] * (j - (NK - NQ + i));
#endif
  (void)h, (void)i, (void)j;
  return s;
}

static void plain_row(int b, int h, int i) {
  int row = (b * H + h) * NQ + i, first = (b * KV + h / (H / KV)) * NK;
  double p[NK], slope, total = 0, delta = 0;
  for (int j = 0; j < NK; j++)
    total += p[j] = mask[h][i][j] ? exp(score(q + row * D, k + (first + j) * D, h, i, j, &slope)) : 0;
  want_lse[row] = log(total);
  for (int j = 0; j < NK; j++) {
    p[j] = total > 0 ? p[j] / total : 0;
    delta += p[j] * dot(d_o + row * D, v + (first + j) * D);
    for (int d = 0; d < D; d++)
      want_o[row * D + d] += p[j] * load(v[(first + j) * D + d]);
  }
  for (int j = 0; j < NK; j++) {
    score(q + row * D, k + (first + j) * D, h, i, j, &slope);
    double d_score = scale * slope * p[j] * (dot(d_o + row * D, v + (first + j) * D) - delta);
    for (int d = 0; d < D; d++) {
      want_q[row * D + d] += d_score * load(k[(first + j) * D + d]);
      want_k[(first + j) * D + d] += d_score * load(q[row * D + d]);
      want_v[(first + j) * D + d] += p[j] * load(d_o[row * D + d]);
    }
  }
}

static int compare(const char *name, const element *got, const double *want, int count) {
  for (int e = 0; e < count; e++)
    if (!(fabs(load(got[e]) - want[e]) <= 16 * unit * (1 + fabs(want[e])))) {
      printf("%s[%d] is %.9g, not %.9g\n", name, e, load(got[e]), want[e]);
      return 1;
    }
  return 0;
}

static int compare_lse(const float *got, const double *want, int count) {
  for (int e = 0; e < count; e++)
    if (!(isinf(want[e]) ? got[e] == want[e] : fabs(got[e] - want[e]) <= 1e-4)) {
      printf("lse[%d] is %.9g, not %.9g\n", e, (double)got[e], want[e]);
      return 1;
    }
  return 0;
}

#ifdef SOFT_CAP
#define CAP_ARGUMENT , (float)soft_cap
#else
#define CAP_ARGUMENT
#endif
#ifdef ALIBI
#define ALIBI_ARGUMENT , slopes
#else
#define ALIBI_ARGUMENT
#endif
#define LAST_ARGUMENTS (float)scale CAP_ARGUMENT ALIBI_ARGUMENT, 2

/* Decoding the last query of each head finds the last row of forward's. */
static int check_decode(void) {
  int bad = 0;
#ifdef DECODE
  static element last_q[B * H * D], last_o[B * H * D];
  static float last_lse[B * H];
  static double last_want[B * H * D], last_want_lse[B * H];
  for (int row = 0; row < B * H; row++) {
    memcpy(last_q + row * D, q + (row * NQ + NQ - 1) * D, sizeof(element) * D);
    memcpy(last_want + row * D, want_o + (row * NQ + NQ - 1) * D, sizeof(double) * D);
    last_want_lse[row] = want_lse[row * NQ + NQ - 1];
  }
  memset(last_o, 0x7b, sizeof last_o);
  bad |= CALL(decode)(last_q, k, v, last_o, last_lse, NK - 1, LAST_ARGUMENTS);
  bad |= compare("decode's o", last_o, last_want, B * H * D) | compare_lse(last_lse, last_want_lse, B * H);
#endif
  return bad;
}

static int read_mask(const char *path) {
  FILE *file = fopen(path, "rb");
  unsigned char head[10];
  int read = file && fread(head, 1, 10, file) == 10 && fseek(file, head[8] | head[9] << 8, SEEK_CUR) == 0 &&
             fread(mask, 1, sizeof mask, file) == sizeof mask && fgetc(file) == EOF;
  if (file)
    fclose(file);
  return read;
}

int main(int argc, char **argv) {
  if (argc != 2 || !read_mask(argv[1])) {
    puts("the argument must be the mask's file");
    return 1;
  }
  for (int e = 0; e < QUERIES; e++)
    q[e] = make(), d_o[e] = make();
  for (int e = 0; e < KEYS; e++)
    k[e] = make(), v[e] = make();
  for (int h = 0; h < H; h++)
    slopes[h] = 0.5f / (float)(h + 1);
  for (int row = 0; row < B * H * NQ; row++)
    plain_row(row / NQ / H, row / NQ % H, row % NQ);
  memset(o, 0x7b, sizeof o), memset(lse, 0x7b, sizeof lse);

  int status = CALL(forward)(q, k, v, o, NULL, LAST_ARGUMENTS);
  if (status == SIZE(WRONG_CPU))
    return 77;
  int bad = status | compare("o without lse", o, want_o, QUERIES);
  bad |= CALL(forward)(q, k, v, o, lse, LAST_ARGUMENTS);
  bad |= compare("o", o, want_o, QUERIES) | compare_lse(lse, want_lse, B * H * NQ);
#ifdef BACKWARD
  memset(d_q, 0x7b, sizeof d_q), memset(d_k, 0x7b, sizeof d_k), memset(d_v, 0x7b, sizeof d_v);
  bad |= CALL(backward)(q, k, v, o, lse, d_o, d_q, d_k, d_v, LAST_ARGUMENTS);
  bad |= compare("d_q", d_q, want_q, QUERIES) | compare("d_k", d_k, want_k, KEYS) |
         compare("d_v", d_v, want_v, KEYS);
#endif
  return bad | check_decode();
}
