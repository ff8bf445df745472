/* The C header of emitted PTX: the plan's launches as data, and a driver that makes them through the CUDA
 * driver API, there when cuda.h has been included first. */
#include "gen/emission/emission.h"

#include "gen/problem.h"
#include <inttypes.h>

_Static_assert(sizeof(sptx_gpu_args) == 12 * 8 + 16 && SPTX_GPU_WORKSPACE == 9 && SPTX_GPU_MAP_RANK == 5 &&
                   SPTX_GPU_MAX_MAPS == 16,
               "the structs in the header's text must change with those of gen/ptx/plan.h");

static const char common[] =
    "\n"
    "/* The first argument of every kernel, by value: device pointers, 16-byte aligned (lse: 4). lse must "
    "not be\n"
    " * NULL; what a pass does not use is not read. */\n"
    "typedef struct @_arguments {\n"
    "  uint64_t q, k, v, o;\n"
    "  uint64_t lse;\n"
    "  uint64_t d_o, d_q, d_k, d_v;\n"
    "  uint64_t workspace;    /* as many bytes as the pass asks for, 256-byte aligned */\n"
    "  uint64_t constants;    /* a copy of the pass's constants, 256-byte aligned */\n"
    "  uint64_t alibi_slopes; /* a float for each head */\n"
    "  float scale, soft_cap; /* both above 0 */\n"
    "  int64_t position;\n"
    "} @_arguments;\n"
    "\n"
    "/* A tensor map (CUtensorMap) over one of the first ten pointers of the arguments, counted from 0.\n"
    " * Sizes and boxes count elements, strides bytes; element is 0 float, 1 half, 2 bfloat16. */\n"
    "typedef struct @_map {\n"
    "  int tensor;\n"
    "  int64_t byte_offset;\n"
    "  int element, rank;\n"
    "  uint64_t size[5], stride[5]; /* stride[0] is not used */\n"
    "  uint32_t box[5];\n"
    "  int swizzle_bytes;\n"
    "} @_map;\n"
    "\n"
    "/* One kernel launch. The kernel's arguments, all by value: the arguments above, the block params, and\n"
    " * the maps, in this order. First, clear_bytes of the workspace from clear_offset on are set to zero. "
    "*/\n"
    "typedef struct @_launch {\n"
    "  const char *kernel;\n"
    "  uint32_t grid[3], block, shared_bytes;\n"
    "  const uint64_t *params;\n"
    "  size_t params_bytes;\n"
    "  const @_map *maps;\n"
    "  int map_count;\n"
    "  size_t clear_offset, clear_bytes;\n"
    "} @_launch;\n"
    "\n"
    "/* One pass: its launches run in order on one stream. */\n"
    "typedef struct @_plan {\n"
    "  const @_launch *launches;\n"
    "  int launch_count;\n"
    "  size_t workspace_bytes;\n"
    "  const uint64_t *constants; /* to be copied to the device once */\n"
    "  size_t constants_bytes;\n"
    "} @_plan;\n"
    "\n"
    "#ifdef CUDA_VERSION /* of cuda.h */\n"
    "static inline CUresult @_encode_map(const @_map *map, const @_arguments *arguments, CUtensorMap "
    "*encoded) {\n"
    "  static const CUtensorMapDataType types[] = {CU_TENSOR_MAP_DATA_TYPE_FLOAT32,\n"
    "      CU_TENSOR_MAP_DATA_TYPE_FLOAT16, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16};\n"
    "  static const uint32_t ones[5] = {1, 1, 1, 1, 1};\n"
    "  const uint64_t address = (&arguments->q)[map->tensor] + (uint64_t)map->byte_offset;\n"
    "  const CUtensorMapSwizzle swizzle = map->swizzle_bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B\n"
    "                                     : map->swizzle_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B\n"
    "                                     : map->swizzle_bytes == 32 ? CU_TENSOR_MAP_SWIZZLE_32B\n"
    "                                                                : CU_TENSOR_MAP_SWIZZLE_NONE;\n"
    "  return cuTensorMapEncodeTiled(encoded, types[map->element], (cuuint32_t)map->rank,\n"
    "      (void *)(uintptr_t)address, (const cuuint64_t *)map->size, (const cuuint64_t *)map->stride + 1,\n"
    "      map->box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,\n"
    "      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);\n"
    "}\n"
    "\n"
    "/* Queues one launch; module holds the pass's PTX. */\n"
    "static inline CUresult @_queue(CUmodule module, const @_launch *launch, const @_arguments *arguments,\n"
    "    CUstream stream) {\n"
    "  CUtensorMap maps[16];\n"
    "  void *parameters[18];\n"
    "  CUfunction function;\n"
    "  CUresult result = cuModuleGetFunction(&function, module, launch->kernel);\n"
    "  parameters[0] = (void *)(uintptr_t)arguments;\n"
    "  parameters[1] = (void *)(uintptr_t)launch->params;\n"
    "  for (int i = 0; i < launch->map_count && result == CUDA_SUCCESS; i++) {\n"
    "    result = @_encode_map(&launch->maps[i], arguments, &maps[i]);\n"
    "    parameters[i + 2] = &maps[i];\n"
    "  }\n"
    "  if (result == CUDA_SUCCESS)\n"
    "    result = cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,\n"
    "        (int)launch->shared_bytes);\n"
    "  if (result == CUDA_SUCCESS && launch->clear_bytes)\n"
    "    result = cuMemsetD32Async(arguments->workspace + launch->clear_offset, 0, launch->clear_bytes / 4, "
    "stream);\n"
    "  if (result == CUDA_SUCCESS)\n"
    "    result = cuLaunchKernel(function, launch->grid[0], launch->grid[1], launch->grid[2], launch->block, "
    "1, 1,\n"
    "        launch->shared_bytes, stream, parameters, NULL);\n"
    "  return result;\n"
    "}\n"
    "\n"
    "/* Queues a whole pass. */\n"
    "static inline CUresult @_run(CUmodule module, const @_plan *plan, const @_arguments *arguments,\n"
    "    CUstream stream) {\n"
    "  CUresult result = CUDA_SUCCESS;\n"
    "  for (int i = 0; i < plan->launch_count && result == CUDA_SUCCESS; i++)\n"
    "    result = @_queue(module, &plan->launches[i], arguments, stream);\n"
    "  return result;\n"
    "}\n"
    "#endif\n";

static void write_numbers64(const uint64_t *numbers, int count, FILE *stream) {
  for (int i = 0; i < count; i++)
    fprintf(stream, "%s%" PRIu64, i ? ", " : "{", numbers[i]);
  fputc('}', stream);
}

static void write_map(const sptx_gpu_map *map, FILE *stream) {
  fprintf(stream, "      {%d, %" PRId64 ", %d, %d, ", (int)map->tensor, map->byte_offset, (int)map->element,
          map->rank);
  write_numbers64(map->size, map->rank, stream);
  fputs(", ", stream);
  write_numbers64(map->stride, map->rank, stream);
  for (int i = 0; i < map->rank; i++)
    fprintf(stream, "%s%" PRIu32, i ? ", " : ", {", map->box[i]);
  fprintf(stream, "}, %d},\n", map->swizzle_bytes);
}

/* The tables that a launch points to. */
static void write_tables(const sptx_emission *emission, const sptx_gpu_launch *launch, int index,
                         FILE *stream) {
  fprintf(stream, "  static const uint64_t params_%d[] = {", index);
  sptx_template_words(launch->params, launch->params_bytes, stream);
  fputs("};\n", stream);
  if (launch->map_count == 0)
    return;
  fprintf(stream, "  static const %s_map maps_%d[] = {\n", emission->name, index);
  for (int i = 0; i < launch->map_count; i++)
    write_map(&launch->maps[i], stream);
  fputs("  };\n", stream);
}

static void write_launch(const sptx_gpu_plan *plan, int index, FILE *stream) {
  const sptx_gpu_launch *launch = &plan->launches[index];
  char maps[32] = "NULL";
  if (launch->map_count)
    snprintf(maps, sizeof maps, "maps_%d", index);
  fprintf(stream,
          "      {\"%s\",\n       {%" PRIu32 ", %" PRIu32 ", %" PRIu32 "}, %" PRIu32 ", %" PRIu32
          ", params_%d, %zu, %s, %d, %zu, %zu},\n",
          plan->kernels[launch->kernel].symbol, launch->grid[0], launch->grid[1], launch->grid[2],
          launch->block, launch->shared_bytes, index, launch->params_bytes, maps, launch->map_count,
          launch->clear_offset, launch->clear_bytes);
}

static void write_pass(const sptx_emission *emission, const sptx_unit *unit, FILE *stream) {
  const sptx_gpu_plan *plan = unit->gpu;
  const char *name = emission->name, *pass = sptx_pass_name(unit->pass);
  fprintf(stream, "\n/* The plan of the %s pass, whose kernels are in %s_%s.ptx. Static data. */\n", pass,
          name, pass);
  fprintf(stream, "static inline const %s_plan *%s_%s_plan(void) {\n", name, name, pass);
  for (int i = 0; i < plan->launch_count; i++)
    write_tables(emission, &plan->launches[i], i, stream);
  fputs("  static const uint64_t constants[] = {", stream);
  sptx_template_words(plan->constants_bytes ? plan->constants : "\0\0\0\0\0\0\0",
                      plan->constants_bytes ? plan->constants_bytes : 8, stream);
  fprintf(stream, "};\n  static const %s_launch launches[] = {\n", name);
  for (int i = 0; i < plan->launch_count; i++)
    write_launch(plan, i, stream);
  fprintf(stream, "  };\n  static const %s_plan plan = {launches, %d, %zu, constants, %zu};\n", name,
          plan->launch_count, plan->workspace_bytes, plan->constants_bytes);
  fputs("  return &plan;\n}\n", stream);
}

void sptx_header_ptx(const sptx_emission *emission, const sptx_emitted_pass *passes, int count,
                     FILE *stream) {
  sptx_template_head(emission, passes, count, stream);
  sptx_template_write(common, emission->name, stream);
  for (int i = 0; i < count; i++)
    write_pass(emission, &passes[i].unit, stream);
  fputs("\n#endif\n", stream);
}
