/* What each compiler pass guarantees, checked by other means than the pass's own: debug builds run these
 * between passes, tests run them always. All fail with SPTX_CODE_COMPILE: a defect of sptx. */
#ifndef SPTX_GEN_VERIFY_H
#define SPTX_GEN_VERIFY_H

#include "gen/compile.h"

/* Every pair of some rows (all of them where n is small) lies in exactly one piece when the oracle has it and
 * in none when it does not; the pieces' pair counts are those of the oracle where all rows were looked at. */
enum sptx_code sptx_verify_pieces(const sptx_compilation *compilation, sptx_error *error);
/* The plan's useful pairs are the pieces', and every launch has a name and items. */
enum sptx_code sptx_verify_plan(const sptx_unit *unit, sptx_error *error);
/* LLVM's verifier, and every kernel of the plan is defined in the module. */
enum sptx_code sptx_verify_module(const sptx_unit *unit, sptx_error *error);

#endif
