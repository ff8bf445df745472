/* Errors as values for every layer: a pinned code and a full sentence that says the place and the remedy.
 * runtime/sptx.h publishes the same numbers as sptx_status; a static assertion there keeps them equal. */
#ifndef SPTX_PATTERNS_ERROR_H
#define SPTX_PATTERNS_ERROR_H

/* Spaced by topic; a number, once released, keeps its meaning for ever. */
enum sptx_code {
  SPTX_CODE_OK = 0,
  SPTX_CODE_INVALID_ARGUMENT = 10, /* a null pointer, a negative size, a name nobody knows */
  SPTX_CODE_OUT_OF_MEMORY = 11,
  SPTX_CODE_OVERFLOW = 12,       /* a size or offset does not fit 63 bits */
  SPTX_CODE_PATTERN_SYNTAX = 20, /* not YAML, or not an expression: file:line:column, what was expected */
  SPTX_CODE_PATTERN_VALUE = 21,  /* well formed, but a key, type or value is wrong: file:line:column */
  SPTX_CODE_PATTERN_LIMIT = 22,  /* refused to keep memory bounded: nesting, aliases, scalar length */
  SPTX_CODE_UNSUPPORTED = 30,    /* a shape, element type or target that sptx cannot do */
  SPTX_CODE_IO = 40,             /* a file cannot be opened, read or written */
  SPTX_CODE_FORMAT = 41,         /* a file's content is damaged or of another kind */
  SPTX_CODE_COMPILE = 50,        /* LLVM or the driver refused the generated code: a defect of sptx */
  SPTX_CODE_NO_DEVICE = 60,      /* no such device, or no driver */
  SPTX_CODE_DEVICE = 61,         /* a driver call failed */
  SPTX_CODE_DEVICE_MEMORY = 62,  /* the device has too little memory */
};

typedef struct sptx_error {
  enum sptx_code code;
  char message[1024]; /* one sentence; cut, never overrun */
} sptx_error;

/* Fills *error (when not NULL) and returns code, so that a caller writes `return sptx_fail(...)`. */
__attribute__((format(printf, 3, 4))) enum sptx_code sptx_fail(sptx_error *error, enum sptx_code code,
                                                               const char *format, ...);

/* Forwards a failure. The callee has already filled the error. */
#define SPTX_TRY(call)                                                                                       \
  do {                                                                                                       \
    enum sptx_code sptx_try_code_ = (call);                                                                  \
    if (sptx_try_code_ != SPTX_CODE_OK)                                                                      \
      return sptx_try_code_;                                                                                 \
  } while (0)

/* Forwards a failure through a cleanup label; needs a local `enum sptx_code code`. */
#define SPTX_TRY_GOTO(call, label)                                                                           \
  do {                                                                                                       \
    code = (call);                                                                                           \
    if (code != SPTX_CODE_OK)                                                                                \
      goto label;                                                                                            \
  } while (0)

#endif
