/* What the library says to bad input on a GPU, and that the context is usable afterwards. */
#ifndef SPTX_TESTS_GPU_BAD_INPUT_H
#define SPTX_TESTS_GPU_BAD_INPUT_H

#include "tests/gpu/gpu_case.h"

/* Prints a line for each wrong answer; returns how many there are. */
int check_bad_input(gpu_session *session);

#endif
