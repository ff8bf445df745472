/* The clock that everything is timed with: monotonic, so that setting the time of day changes nothing. */
#ifndef SPTX_RUNTIME_CLOCK_H
#define SPTX_RUNTIME_CLOCK_H

/* Seconds since some fixed moment. */
double sptx_now(void);

#endif
