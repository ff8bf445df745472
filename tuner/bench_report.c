/* The two forms of sptx-bench's report: a table for people, JSON for programs. */
#include "tuner/bench_report.h"

#include "gen/problem.h"
#include "tuner/ceiling.h"
#include "tuner/element.h"
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

static const char *const pass_names[] = {"forward", "backward"};

static void cpu_name(char *name, size_t size) {
  char line[256];
  FILE *file = fopen("/proc/cpuinfo", "r");
  snprintf(name, size, "unknown");
  while (file && fgets(line, sizeof line, file))
    if (!strncmp(line, "model name", 10)) {
      const char *value = strchr(line, ':');
      if (value)
        snprintf(name, size, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
      break;
    }
  if (file)
    fclose(file);
}

static void print_header(const sptx_bench_report *report) {
  const sptx_bench_request *r = report->request;
  char cpu[128];
  cpu_name(cpu, sizeof cpu);
  fprintf(report->table, "%s: batch %lld, heads %lld (%lld key), n %lld", report->pattern_name,
          (long long)r->batch, (long long)r->heads, (long long)r->kv_heads, (long long)r->n_k);
  if (r->n_q != r->n_k)
    fprintf(report->table, " (%lld queries)", (long long)r->n_q);
  fprintf(report->table, ", head dimension %lld, %s; %s, %d threads of %s\n", (long long)r->head_dim,
          sptx_element_name((enum sptx_element)r->dtype), r->device, r->threads, cpu);
  fprintf(report->table, "%-12s %-8s %10s %10s %10s %9s %9s %6s %10s %9s  %s\n", "step", "pass", "ms", "min",
          "max", "GFLOP/s", "GEMM", "ratio", "dense ms", "error", "compared");
}

enum sptx_code sptx_bench_report_open(sptx_bench_report *report, FILE *table, sptx_error *error) {
  const sptx_bench_request *r = report->request;
  char cpu[128];
  cpu_name(cpu, sizeof cpu);
  report->table = table;
  report->json = NULL;
  report->headed = false;
  if (table)
    return SPTX_CODE_OK;
  cJSON *json = report->json = cJSON_CreateObject();
  bool complete = json && cJSON_AddStringToObject(json, "pattern", report->pattern_name) &&
                  cJSON_AddStringToObject(json, "version", sptx_version()) &&
                  cJSON_AddStringToObject(json, "cpu", cpu) &&
                  cJSON_AddStringToObject(json, "device", r->device) &&
                  cJSON_AddNumberToObject(json, "threads", r->threads) &&
                  cJSON_AddNumberToObject(json, "batch", (double)r->batch) &&
                  cJSON_AddNumberToObject(json, "heads", (double)r->heads) &&
                  cJSON_AddNumberToObject(json, "kv_heads", (double)r->kv_heads) &&
                  cJSON_AddNumberToObject(json, "n", (double)r->n_k) &&
                  cJSON_AddNumberToObject(json, "n_q", (double)r->n_q) &&
                  cJSON_AddNumberToObject(json, "head_dim", (double)r->head_dim) &&
                  cJSON_AddStringToObject(json, "dtype", sptx_element_name((enum sptx_element)r->dtype)) &&
                  cJSON_AddArrayToObject(json, "passes");
  if (complete)
    return SPTX_CODE_OK;
  cJSON_Delete(json);
  report->json = NULL;
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for the report");
}

static double pass_error(const sptx_bench_check *check, int pass) {
  return pass == SPTX_BENCH_FORWARD ? check->forward_error : check->backward_error;
}

static void print_pass(const sptx_bench_report *report, const char *step_name, const sptx_bench_step *step,
                       int pass) {
  const sptx_bench_result *result = &step->results[pass];
  const sptx_bench_check *check = &step->check;
  char dense[32], gemm[32] = "-", ratio[32] = "-";
  if (result->dense_ms < 0)
    strcpy(dense, "-");
  else
    snprintf(dense, sizeof dense, "%.3f", result->dense_ms);
  if (result->gemm_gflops > 0) {
    snprintf(gemm, sizeof gemm, "%.1f", result->gemm_gflops);
    snprintf(ratio, sizeof ratio, "%.3f", result->ratio_to_gemm);
  }
  fprintf(report->table, "%-12s %-8s %10.4f %10.4f %10.4f %9.1f %9s %6s %10s %9.1e  ",
          *step_name ? step_name : "-", pass_names[pass], result->ms, result->min_ms, result->max_ms,
          result->useful_gflops, gemm, ratio, dense, pass_error(check, pass));
  if (check->rows == check->rows_total && check->keys == check->keys_total)
    fputs("every row\n", report->table);
  else
    fprintf(report->table, "%lld of %lld rows\n", (long long)check->rows, (long long)check->rows_total);
  fflush(report->table);
}

/* null where there is no such figure: a GPU's GEMM rate is not measured. */
static bool add_positive(cJSON *json, const char *name, double value) {
  return value > 0 ? cJSON_AddNumberToObject(json, name, value) : cJSON_AddNullToObject(json, name);
}

static bool add_pass(cJSON *passes, const char *step_name, const sptx_bench_step *step, int pass) {
  const sptx_bench_result *result = &step->results[pass];
  const sptx_bench_check *check = &step->check;
  cJSON *json = cJSON_CreateObject();
  if (!json || !cJSON_AddItemToArray(passes, json))
    return false;
  return cJSON_AddStringToObject(json, "pass", pass_names[pass]) &&
         (*step_name ? cJSON_AddStringToObject(json, "step", step_name)
                     : cJSON_AddNullToObject(json, "step")) &&
         cJSON_AddNumberToObject(json, "ms", result->ms) &&
         cJSON_AddNumberToObject(json, "min_ms", result->min_ms) &&
         cJSON_AddNumberToObject(json, "max_ms", result->max_ms) &&
         cJSON_AddNumberToObject(json, "samples", result->samples) &&
         cJSON_AddNumberToObject(json, "useful_gflops", result->useful_gflops) &&
         add_positive(json, "gemm_gflops", result->gemm_gflops) &&
         add_positive(json, "ratio_to_gemm", result->ratio_to_gemm) &&
         (result->dense_ms < 0 ? cJSON_AddNullToObject(json, "dense_ms")
                               : cJSON_AddNumberToObject(json, "dense_ms", result->dense_ms)) &&
         cJSON_AddNumberToObject(json, "max_rel_error", pass_error(check, pass)) &&
         cJSON_AddNumberToObject(json, "compared_rows", (double)check->rows) &&
         cJSON_AddNumberToObject(json, "rows", (double)check->rows_total) &&
         cJSON_AddNumberToObject(json, "compared_keys", (double)check->keys) &&
         cJSON_AddNumberToObject(json, "keys", (double)check->keys_total) &&
         cJSON_AddNumberToObject(json, "useful_pairs", (double)step->info.useful_pairs) &&
         cJSON_AddNumberToObject(json, "computed_pairs", (double)step->info.computed_pairs) &&
         cJSON_AddNumberToObject(json, "create_ms", 1e3 * step->info.create_seconds) &&
         cJSON_AddBoolToObject(json, "cache_hit", step->info.cache_hit);
}

enum sptx_code sptx_bench_report_step(sptx_bench_report *report, const char *step_name,
                                      const sptx_bench_step *step, sptx_error *error) {
  if (report->table && !report->headed)
    print_header(report);
  report->headed = true;
  for (int pass = 0; pass < SPTX_BENCH_PASSES; pass++) {
    if (!report->request->passes[pass])
      continue;
    if (report->table)
      print_pass(report, step_name, step, pass);
    else if (!add_pass(cJSON_GetObjectItem(report->json, "passes"), step_name, step, pass))
      return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for the report");
  }
  return SPTX_CODE_OK;
}

void sptx_bench_report_close(sptx_bench_report *report, FILE *file) {
  char *text = file ? cJSON_Print(report->json) : NULL;
  if (text)
    fprintf(file, "%s\n", text);
  cJSON_free(text);
  cJSON_Delete(report->json);
  report->json = NULL;
}
