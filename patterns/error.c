/* The one place where a failure's sentence is formatted. */
#include "patterns/error.h"

#include <stdarg.h>
#include <stdio.h>

enum sptx_code sptx_fail(sptx_error *error, enum sptx_code code, const char *format, ...) {
  if (!error)
    return code;
  error->code = code;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error->message, sizeof error->message, format, arguments);
  va_end(arguments);
  return code;
}
