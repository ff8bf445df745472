/* The text form of a GPU plan, for `sptx-gen --dump schedule` and for the heads of what is emitted. */
#include "gen/ptx/plan.h"

#include <inttypes.h>

void sptx_gpu_plan_print(const sptx_gpu_plan *plan, FILE *stream) {
  for (int k = 0; k < plan->launch_count; k++) {
    const sptx_gpu_launch *launch = &plan->launches[k];
    fprintf(stream,
            "launch %d: %s grid %" PRIu32 " x %" PRIu32 " x %" PRIu32 " block %" PRIu32 " shared %" PRIu32
            " params %zu maps %d",
            k, plan->kernels[launch->kernel].symbol, launch->grid[0], launch->grid[1], launch->grid[2],
            launch->block, launch->shared_bytes, launch->params_bytes, launch->map_count);
    if (launch->clear_bytes)
      fprintf(stream, " clears %zu", launch->clear_bytes);
    putc('\n', stream);
  }
  fprintf(stream,
          "workspace %zu bytes, constants %zu bytes, useful pairs %" PRId64 ", computed pairs %" PRId64 "\n",
          plan->workspace_bytes, plan->constants_bytes, plan->useful_pairs, plan->computed_pairs);
}
