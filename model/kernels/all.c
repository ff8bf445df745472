/* One translation unit for one target and element type. */
#include "embedding.c"
#include "norm.c"
#include "pointwise.c"
#include "training.c"
