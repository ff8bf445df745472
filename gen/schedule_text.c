/* Schedules as text. One row for each field: a new field of a schedule is a row here. */
#include "gen/schedule_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct field {
  const char *name;
  size_t offset; /* of an int, or of an enum sptx_isa */
  bool is_isa;
} field;

#define X86(member)                                                                                          \
  { #member, offsetof(sptx_schedule, x86.member), false }
#define PTX(member)                                                                                          \
  { #member, offsetof(sptx_schedule, ptx.member), false }

static const field x86_fields[] = {
    {"isa", offsetof(sptx_schedule, x86.isa), true},
    X86(query_tile),
    X86(key_tile),
    X86(register_rows),
    X86(register_vectors),
    X86(tile_items),
    X86(copy_rows),
    X86(key_ranges),
    {NULL, 0, false},
};

static const field ptx_fields[] = {
    PTX(query_tile),
    PTX(key_tile),
    PTX(warps),
    PTX(consumers),
    PTX(stages),
    PTX(ctas),
    PTX(producer_registers),
    PTX(consumer_registers),
    PTX(f32_mode),
    PTX(family),
    {NULL, 0, false},
};

static const field *fields_of(enum sptx_target_family family) {
  return family == SPTX_FAMILY_X86 ? x86_fields : ptx_fields;
}

_Static_assert(sizeof x86_fields / sizeof *x86_fields - 1 <= SPTX_SCHEDULE_FIELDS &&
                   sizeof ptx_fields / sizeof *ptx_fields - 1 <= SPTX_SCHEDULE_FIELDS,
               "room for all fields");

void sptx_schedule_numbers(enum sptx_target_family family, const sptx_schedule *schedule,
                           int numbers[SPTX_SCHEDULE_FIELDS]) {
  int count = 0;
  memset(numbers, 0, SPTX_SCHEDULE_FIELDS * sizeof *numbers);
  for (const field *f = fields_of(family); f->name; f++)
    memcpy(&numbers[count++], (const char *)schedule + f->offset, sizeof *numbers);
}

void sptx_schedule_print(enum sptx_target_family family, const sptx_schedule *schedule, char *text,
                         size_t size) {
  size_t used = 0;
  text[0] = '\0';
  for (const field *f = fields_of(family); f->name && used < size; f++) {
    int value;
    memcpy(&value, (const char *)schedule + f->offset, sizeof value);
    const char *space = used ? " " : "";
    int written = 0;
    if (f->is_isa)
      written =
          snprintf(text + used, size - used, "%s%s=%s", space, f->name, sptx_isa_name((enum sptx_isa)value));
    else if (value != 0)
      written = snprintf(text + used, size - used, "%s%s=%d", space, f->name, value);
    used += written > 0 ? (size_t)written : 0;
  }
}

static bool parse_isa(const char *text, size_t length, int *value) {
  for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AMX; isa++) {
    const char *name = sptx_isa_name((enum sptx_isa)isa);
    if (strlen(name) == length && memcmp(name, text, length) == 0) {
      *value = isa;
      return true;
    }
  }
  return false;
}

static bool parse_number(const char *text, size_t length, int *value) {
  long number = 0;
  for (size_t k = 0; k < length; k++) {
    if (text[k] < '0' || text[k] > '9' || number > 1000000)
      return false;
    number = 10 * number + (text[k] - '0');
  }
  *value = (int)number;
  return length > 0;
}

/* Reads one word name=value of the given length. */
static bool parse_word(const field *fields, const char *word, size_t length, sptx_schedule *schedule) {
  const char *equals = memchr(word, '=', length);
  for (const field *f = fields; equals && f->name; f++) {
    size_t name = (size_t)(equals - word);
    if (strlen(f->name) != name || memcmp(f->name, word, name) != 0)
      continue;
    int value = 0;
    bool good = f->is_isa ? parse_isa(equals + 1, length - name - 1, &value)
                          : parse_number(equals + 1, length - name - 1, &value);
    memcpy((char *)schedule + f->offset, &value, sizeof value);
    return good;
  }
  return false;
}

enum sptx_code sptx_schedule_parse(enum sptx_target_family family, const char *text, sptx_schedule *schedule,
                                   sptx_error *error) {
  memset(schedule, 0, sizeof *schedule);
  for (const char *word = text; *word;) {
    size_t length = strcspn(word, " ");
    if (!parse_word(fields_of(family), word, length, schedule))
      return sptx_fail(error, SPTX_CODE_FORMAT, "schedule '%s': cannot read '%.*s'; expected name=number",
                       text, (int)length, word);
    word += length;
    word += strspn(word, " ");
  }
  return SPTX_CODE_OK;
}
