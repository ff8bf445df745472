/* Element types in host memory: conversion between doubles and the 4- and 2-byte formats that tensors hold.
 * Rounds to nearest even; bfloat16 by way of float32, as the kernels do. */
#ifndef SPTX_TUNER_ELEMENT_H
#define SPTX_TUNER_ELEMENT_H

#include "runtime/sptx.h"
#include <stddef.h>

size_t sptx_element_size(sptx_dtype type);
/* Element index of the array at data. */
double sptx_element_get(sptx_dtype type, const void *data, size_t index);
void sptx_element_set(sptx_dtype type, void *data, size_t index, double value);

#endif
