/* Finding or making the kernels' objects; see cpu_code.h. A kernel is filed under what decides its code: its
 * name, the generator, and LLVM's version; so are the functions that kernels have in common. So a kernel that
 * is there costs no LLVM at all but the loading, and patterns that need the same kernel share it. */
#include "runtime/cpu_code.h"

#include "gen/generator.h"
#include <stdlib.h>
#include <string.h>

/* One distinct kernel, or the functions that some have in common. */
typedef struct kernel_object {
  const sptx_unit *unit;
  const char *symbol;
  bool common; /* symbol is no function's: kernels pull theirs in */
  sptx_cache_key key;
  char *object;
  size_t size;
  bool compiled;
  enum sptx_code code;
  sptx_error error;
} kernel_object;

typedef struct kernel_list {
  kernel_object *items;
  int count;
} kernel_list;

static sptx_cache_key key_of(const char *symbol) {
  unsigned llvm[3];
  LLVMGetVersion(&llvm[0], &llvm[1], &llvm[2]);
  sptx_cache_key key = {0};
  sptx_cache_key_add(&key, sptx_generator_id(), strlen(sptx_generator_id()));
  sptx_cache_key_add(&key, llvm, sizeof llvm);
  sptx_cache_key_add(&key, symbol, strlen(symbol));
  return key;
}

static bool is_listed(const kernel_list *list, const char *symbol) {
  for (int i = 0; i < list->count; i++)
    if (strcmp(list->items[i].symbol, symbol) == 0)
      return true;
  return false;
}

static void add_object(kernel_list *list, const sptx_unit *unit, const char *symbol, bool common) {
  if (symbol[0] && !is_listed(list, symbol))
    list->items[list->count++] =
        (kernel_object){.unit = unit, .symbol = symbol, .common = common, .key = key_of(symbol)};
}

static enum sptx_code list_kernels(const sptx_unit *units, int unit_count, kernel_list *list,
                                   sptx_error *error) {
  size_t launches = 0;
  for (int u = 0; u < unit_count; u++)
    launches += units[u].x86 ? (size_t)units[u].x86->launch_count : 0;
  list->items = calloc(2 * launches + 1, sizeof *list->items);
  if (!list->items)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a list of %zu kernels", launches);
  for (int u = 0; u < unit_count; u++)
    for (int i = 0; units[u].x86 && i < units[u].x86->launch_count; i++) {
      add_object(list, &units[u], units[u].x86->launches[i].common, true);
      add_object(list, &units[u], units[u].x86->launches[i].symbol, false);
    }
  return SPTX_CODE_OK;
}

static void clear_list(kernel_list *list) {
  for (int i = 0; i < list->count; i++)
    free(list->items[i].object);
  free(list->items);
}

static void compile(kernel_object *kernel) {
  sptx_unit unit = *kernel->unit;
  unit.symbol = kernel->symbol;
  kernel->compiled = true;
  kernel->code = sptx_compile_unit(&unit, SPTX_STAGE_EMIT, &kernel->error);
  kernel->object = unit.code;
  kernel->size = unit.code_bytes;
  unit.code = NULL;
  unit.x86 = NULL; /* the plan is the caller's */
  sptx_unit_clear(&unit);
}

/* Compiles those that have no object. LLVM takes nearly all the time and works in each alone. */
static enum sptx_code compile_missing(kernel_list *list, int threads, sptx_error *error) {
  int missing = 0;
  for (int i = 0; i < list->count; i++)
    missing += !list->items[i].object;
  int workers = threads < missing ? threads : missing;
#pragma omp parallel for num_threads(workers > 1 ? workers : 1) schedule(dynamic, 1)
  for (int i = 0; i < list->count; i++)
    if (!list->items[i].object)
      compile(&list->items[i]);
  for (int i = 0; i < list->count; i++)
    if (list->items[i].code != SPTX_CODE_OK)
      return sptx_fail(error, list->items[i].code, "%s", list->items[i].error.message);
  return SPTX_CODE_OK;
}

/* Loads all objects and links them by asking for each kernel. */
static enum sptx_code link_objects(const kernel_list *list, sptx_jit **jit, sptx_error *error) {
  enum sptx_code code = sptx_jit_create(jit, error);
  for (int i = 0; i < list->count && code == SPTX_CODE_OK; i++)
    code = sptx_jit_add(*jit, list->items[i].object, list->items[i].size, error);
  for (int i = 0; i < list->count && code == SPTX_CODE_OK; i++) {
    void *ignored;
    if (list->items[i].common)
      continue;
    code = sptx_jit_lookup(*jit, list->items[i].symbol, &ignored, error);
  }
  if (code != SPTX_CODE_OK) {
    sptx_jit_free(*jit);
    *jit = NULL;
  }
  return code;
}

/* Drops what came from the cache; true when there was any. */
static bool forget_cached(kernel_list *list) {
  bool any = false;
  for (int i = 0; i < list->count; i++)
    if (!list->items[i].compiled) {
      free(list->items[i].object);
      list->items[i].object = NULL;
      any = true;
    }
  return any;
}

static enum sptx_code load_kernels(kernel_list *list, const sptx_cache *cache, int threads, sptx_jit **jit,
                                   sptx_error *error) {
  for (int i = 0; i < list->count; i++)
    list->items[i].object = sptx_cache_load(cache, list->items[i].key, "o", &list->items[i].size);
  SPTX_TRY(compile_missing(list, threads, error));
  enum sptx_code code = link_objects(list, jit, error);
  if (code == SPTX_CODE_OK || !forget_cached(list))
    return code;
  SPTX_TRY(compile_missing(list, threads, error)); /* what does not link is one more kind of damage */
  return link_objects(list, jit, error);
}

enum sptx_code sptx_cpu_code_load(const sptx_unit *units, int unit_count, const sptx_cache *cache,
                                  int threads, sptx_cpu_code *code, sptx_error *error) {
  kernel_list list = {0};
  *code = (sptx_cpu_code){0};
  enum sptx_code result = list_kernels(units, unit_count, &list, error);
  if (result == SPTX_CODE_OK)
    result = load_kernels(&list, cache, threads, &code->jit, error);
  for (int i = 0; i < list.count && result == SPTX_CODE_OK; i++)
    if (list.items[i].compiled) {
      code->compiled = true;
      sptx_cache_store(cache, list.items[i].key, "o", list.items[i].object, list.items[i].size);
    }
  clear_list(&list);
  return result;
}

enum sptx_code sptx_cpu_code_find(const sptx_cpu_code *code, const char *symbol, sptx_x86_kernel *kernel,
                                  sptx_error *error) {
  void *address;
  SPTX_TRY(sptx_jit_lookup(code->jit, symbol, &address, error));
  memcpy(kernel, &address, sizeof address); /* ISO C has no such cast */
  return SPTX_CODE_OK;
}

void sptx_cpu_code_clear(sptx_cpu_code *code) {
  sptx_jit_free(code->jit);
  code->jit = NULL;
}
