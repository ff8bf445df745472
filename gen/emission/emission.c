/* Emission: each pass goes through the compiler's own list of passes, its text forms are taken on the way,
 * and everything lands in memory. */
#include "gen/emission/emission.h"

#include "gen/machine.h"
#include "gen/problem.h"
#include <stdlib.h>
#include <string.h>

enum { PASSES = 3 };

/* Who wrote an object, for `readelf -p .comment`; in assembly it is an .ident line. */
static void add_ident(LLVMModuleRef module, const char *origin) {
  LLVMContextRef context = LLVMGetModuleContext(module);
  for (const char *line = origin; *line;) {
    size_t length = strcspn(line, "\n");
    LLVMMetadataRef string = LLVMMDStringInContext2(context, line, length);
    LLVMMetadataRef node = LLVMMDNodeInContext2(context, &string, 1);
    LLVMAddNamedMetadataOperand(module, "llvm.ident", LLVMMetadataAsValue(context, node));
    line += length + (line[length] == '\n');
  }
}

/* The origin's lines as comments, then the text. NULL: no memory, or no text. */
static char *with_origin(const char *origin, const char *comment, const char *text) {
  char *whole = NULL;
  size_t size = 0;
  FILE *stream = text ? open_memstream(&whole, &size) : NULL;
  if (!stream)
    return NULL;
  sptx_origin_write(origin, comment, stream);
  fputs(text, stream);
  if (fclose(stream) == 0)
    return whole;
  free(whole);
  return NULL;
}

static enum sptx_code print_ir(sptx_emitted_pass *pass, sptx_error *error) {
  char *text = LLVMPrintModuleToString(pass->unit.module);
  pass->ir = with_origin(pass->origin, "; ", text);
  LLVMDisposeMessage(text);
  return pass->ir ? SPTX_CODE_OK
                  : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the text of the IR");
}

/* Plans a pass and describes it. */
static enum sptx_code plan(const sptx_emission *emission, enum sptx_pass which, sptx_emitted_pass *pass,
                           sptx_error *error) {
  const sptx_compilation *compilation = emission->compilation;
  pass->problem = compilation->problem;
  if (which == SPTX_PASS_DECODE)
    pass->problem.q = pass->problem.o =
        sptx_contiguous_strides(pass->problem.heads, 1, pass->problem.head_dim);
  pass->unit = (sptx_unit){.problem = &pass->problem,
                           .lists = compilation->lists,
                           .class_of_head = compilation->instance.class_of_head,
                           .pass = which,
                           .target = emission->target,
                           .schedule = emission->schedule};
  SPTX_TRY(sptx_compile_unit(&pass->unit, SPTX_STAGE_SCHEDULE, error));
  pass->origin = sptx_origin_text(emission, &pass->unit);
  return pass->origin ? SPTX_CODE_OK
                      : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the head of a file");
}

/* IR is printed as the next stage gets it: optimised for x86; for PTX as generated, because emission
 * optimises and prints in one go. */
static enum sptx_code compile(const sptx_emission *emission, sptx_emitted_pass *pass, sptx_error *error) {
  sptx_unit *unit = &pass->unit;
  SPTX_TRY(sptx_compile_unit(unit, SPTX_STAGE_BUILD, error));
  if (unit->x86) {
    SPTX_TRY(sptx_entry_add(emission, unit, error));
    add_ident(unit->module, pass->origin);
  }
  SPTX_TRY(sptx_compile_unit(unit, SPTX_STAGE_OPTIMISE, error));
  SPTX_TRY(print_ir(pass, error));
  return sptx_compile_unit(unit, SPTX_STAGE_EMIT, error);
}

/* Assembly or PTX with its origin at the head; the caller frees it. */
static enum sptx_code assembly(const sptx_emitted_pass *pass, char **text, sptx_error *error) {
  char *bare = NULL;
  size_t size;
  if (pass->unit.x86)
    SPTX_TRY(sptx_x86_emit(pass->unit.module, true, &bare, &size, error));
  *text = with_origin(pass->origin, pass->unit.x86 ? "# " : "// ", bare ? bare : pass->unit.code);
  free(bare);
  return *text ? SPTX_CODE_OK : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for assembly");
}

/* Hands a text over to the artefacts. */
static enum sptx_code add_text(sptx_artefacts *artefacts, const char *name, const char *suffix, char *text,
                               sptx_error *error) {
  return sptx_artefacts_add(artefacts, name, suffix, text, text ? strlen(text) : 0, error);
}

static enum sptx_code add_pass(const sptx_emission *emission, sptx_emitted_pass *pass,
                               sptx_artefacts *artefacts, sptx_error *error) {
  sptx_unit *unit = &pass->unit;
  char *name = NULL, *text = NULL;
  if (asprintf(&name, "%s_%s", emission->name, sptx_pass_name(unit->pass)) < 0)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a file name");
  enum sptx_code code = add_text(artefacts, name, ".ll", pass->ir, error);
  pass->ir = NULL;
  if (code == SPTX_CODE_OK)
    code = assembly(pass, &text, error);
  if (code == SPTX_CODE_OK)
    code = add_text(artefacts, name, unit->x86 ? ".s" : ".ptx", text, error);
  if (code == SPTX_CODE_OK && unit->x86) {
    code = sptx_artefacts_add(artefacts, name, ".o", unit->code, unit->code_bytes, error);
    unit->code = NULL;
  }
  free(name);
  return code;
}

static enum sptx_code add_header(const sptx_emission *emission, const sptx_emitted_pass *passes, int count,
                                 sptx_artefacts *artefacts, sptx_error *error) {
  char *text = NULL;
  size_t size = 0;
  FILE *stream = open_memstream(&text, &size);
  if (!stream)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a header");
  if (emission->target->family == SPTX_FAMILY_X86)
    sptx_header_x86(emission, passes, count, stream);
  else
    sptx_header_ptx(emission, passes, count, stream);
  if (fclose(stream) != 0) {
    free(text);
    text = NULL;
  }
  return sptx_artefacts_add(artefacts, emission->name, ".h", text, size, error);
}

static void clear_passes(sptx_emitted_pass *passes, int count) {
  for (int i = 0; i < count; i++) {
    sptx_unit_clear(&passes[i].unit);
    free(passes[i].origin);
    free(passes[i].ir);
  }
}

enum sptx_code sptx_emit(const sptx_emission *emission, sptx_artefacts *artefacts, sptx_error *error) {
  sptx_emitted_pass passes[PASSES] = {0};
  int count = 0;
  enum sptx_code code = SPTX_CODE_OK;
  for (int which = 0; which < PASSES && code == SPTX_CODE_OK; which++) {
    if (!(emission->passes >> which & 1))
      continue;
    sptx_emitted_pass *pass = &passes[count++];
    code = plan(emission, (enum sptx_pass)which, pass, error);
    if (code == SPTX_CODE_OK)
      code = compile(emission, pass, error);
    if (code == SPTX_CODE_OK)
      code = add_pass(emission, pass, artefacts, error);
  }
  if (code == SPTX_CODE_OK)
    code = add_header(emission, passes, count, artefacts, error);
  clear_passes(passes, count);
  return code;
}

static enum sptx_code dump_pass(const sptx_emission *emission, sptx_emitted_pass *pass, enum sptx_dump what,
                                FILE *stream, sptx_error *error) {
  if (what == SPTX_DUMP_SCHEDULE) {
    fprintf(stream, "%s %s for %s\n", emission->name, sptx_pass_name(pass->unit.pass),
            emission->target->name);
    if (pass->unit.x86)
      sptx_x86_plan_print(pass->unit.x86, stream);
    else
      sptx_gpu_plan_print(pass->unit.gpu, stream);
    return SPTX_CODE_OK;
  }
  SPTX_TRY(compile(emission, pass, error));
  char *text = pass->ir;
  if (what == SPTX_DUMP_ASM)
    SPTX_TRY(assembly(pass, &text, error));
  fputs(text, stream);
  if (text != pass->ir)
    free(text);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_emission_dump(const sptx_emission *emission, enum sptx_dump what, FILE *stream,
                                  sptx_error *error) {
  enum sptx_code code = SPTX_CODE_OK;
  for (int which = 0; which < PASSES && code == SPTX_CODE_OK; which++) {
    sptx_emitted_pass pass = {0};
    if (!(emission->passes >> which & 1))
      continue;
    code = plan(emission, (enum sptx_pass)which, &pass, error);
    if (code == SPTX_CODE_OK)
      code = dump_pass(emission, &pass, what, stream, error);
    clear_passes(&pass, 1);
  }
  return code;
}
