/* Which generator this is: what decides, beside a kernel's name and LLVM's version, the code that comes out.
 */
#ifndef SPTX_GEN_GENERATOR_H
#define SPTX_GEN_GENERATOR_H

/* A hash of the sources of patterns/ and gen/, as text; static. */
const char *sptx_generator_id(void);

#endif
