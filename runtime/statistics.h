/* The statistics of measurements: medians, and how well a ranking was predicted. */
#ifndef SPTX_RUNTIME_STATISTICS_H
#define SPTX_RUNTIME_STATISTICS_H

/* Sorts samples and returns their median; 0 when there are none. */
double sptx_median(double *samples, int count);

/* Spearman's rank correlation of two paired samples, equal values sharing their mean rank: from -1 to 1. NaN
 * for fewer than two pairs, or when one side is constant (Spearman 1904). */
double sptx_spearman(const double *a, const double *b, int count);

#endif
