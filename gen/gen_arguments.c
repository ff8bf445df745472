/* Reading sptx-gen's command line, and its help. */
#include "gen/gen_arguments.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char command[] = "sptx-gen";

const char sptx_gen_usage[] =
    "Usage: sptx-gen PATTERN.yaml --n N [OPTION...] -o DIR\n"
    "       sptx-gen PATTERN.yaml --n N [OPTION...] --check | --draw FILE | --mask FILE | --dump FORM\n"
    "       sptx-gen --targets\n"
    "Compiles an attention pattern. With -o, each step of it gives NAME_PASS.ll, .s and .o (x86) or .ll and\n"
    ".ptx (PTX), and a C header NAME.h that says how to call them: programs link the objects and need "
    "neither\n"
    "sptx nor LLVM.\n"
    "\n" SPTX_SIZE_USAGE
    "  --pass P           a list of forward, backward and decode (forward)\n" SPTX_STEP_USAGE
    "  --soft-cap         score = cap * tanh(score / cap); the kernels take the cap\n"
    "  --alibi            score += slope[head] * (j - i); the kernels take the slopes\n"
    "  --any-order        gradients may add up in another order from run to run\n"
    "  --target T         a row of --targets, or native, this machine's best (native)\n"
    "  --device cpu       the same as --target native\n"
    "  --schedule S       tile sizes and the like, as in \"query_tile=32 key_tile=96\"\n"
    "\n"
    "  -o DIR             writes the files into DIR, all of them or none\n"
    "  --name NAME        what files and functions begin with (the pattern's and the step's name)\n"
    "  --check            explains the pattern: its pieces, how much of their work is useful, and why a "
    "part\n"
    "                     has no closed form\n"
    "  --draw FILE        pictures the pattern in a .svg or .png file\n"
    "  --mask FILE.npy    writes the boolean mask (heads, n, n), n at most 8192\n"
    "  --dump FORM        prints one form of it: pattern, pieces, schedule, ir or asm\n"
    "  --targets          prints the support matrix\n"
    "  --json             one JSON object instead of text, with --check, --targets or -o\n"
    "  --help, --version\n"
    "\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage.\n";

enum { EVERY_PASS = 1u << SPTX_PASS_FORWARD | 1u << SPTX_PASS_BACKWARD | 1u << SPTX_PASS_DECODE };
enum {
  OPTION_OUTPUT = 'o',
  OPTION_TARGET = SPTX_OWN_OPTION,
  OPTION_SCHEDULE,
  OPTION_NAME,
  OPTION_SOFT_CAP,
  OPTION_ALIBI,
  OPTION_ANY_ORDER,
  OPTION_CHECK,
  OPTION_DRAW,
  OPTION_MASK,
  OPTION_DUMP,
  OPTION_TARGETS,
  OPTION_JSON,
  OPTION_HELP,
  OPTION_VERSION,
};

static const char *const forms[] = {"pattern", "pieces", "schedule", "ir", "asm"};

static bool read_form(const char *text, enum sptx_form *form) {
  for (int f = 0; f < SPTX_FORM_NONE; f++)
    if (strcmp(text, forms[f]) == 0) {
      *form = (enum sptx_form)f;
      return true;
    }
  return sptx_complain(command, "--dump is pattern, pieces, schedule, ir or asm, not", text);
}

static bool read_name(const char *text, const char **name) {
  size_t length = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
  if (length == 0 || text[length] || isdigit((unsigned char)text[0]) || length > 64)
    return sptx_complain(command, "--name needs letters, digits and _ (at most 64, no digit first), not",
                         text);
  *name = text;
  return true;
}

static bool read_option(int option, const char *value, sptx_gen_arguments *arguments) {
  const struct {
    int option;
    const char **text;
    bool *flag;
  } plain[] = {
      {OPTION_OUTPUT, &arguments->folder, NULL},     {OPTION_TARGET, &arguments->target, NULL},
      {OPTION_SCHEDULE, &arguments->schedule, NULL}, {OPTION_DRAW, &arguments->draw, NULL},
      {OPTION_MASK, &arguments->mask, NULL},         {OPTION_SOFT_CAP, NULL, &arguments->soft_cap},
      {OPTION_ALIBI, NULL, &arguments->alibi},       {OPTION_ANY_ORDER, NULL, &arguments->any_order},
      {OPTION_CHECK, NULL, &arguments->check},       {OPTION_TARGETS, NULL, &arguments->targets},
      {OPTION_JSON, NULL, &arguments->json},         {OPTION_HELP, NULL, &arguments->help},
      {OPTION_VERSION, NULL, &arguments->version},
  };
  if (option == OPTION_NAME)
    return read_name(value, &arguments->name);
  if (option == OPTION_DUMP)
    return read_form(value, &arguments->dump);
  for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
    if (plain[i].option == option) {
      if (plain[i].text)
        *plain[i].text = value;
      else
        *plain[i].flag = true;
      return true;
    }
  return sptx_command_option(&arguments->common, option, value);
}

/* What only all options together show. */
static bool check_arguments(const sptx_gen_arguments *arguments) {
  bool shown = arguments->check || arguments->draw || arguments->mask || arguments->dump != SPTX_FORM_NONE;
  if (!shown && !arguments->folder)
    return sptx_complain(command, "nothing to do, give one of", "-o, --check, --draw, --mask, --dump");
  if (arguments->json && arguments->check + (arguments->folder != NULL) != 1)
    return sptx_complain(command, "--json prints one object, of", "--check or -o");
  if (arguments->json && arguments->dump != SPTX_FORM_NONE)
    return sptx_complain(command, "--json does not go with", "--dump");
  if (strcmp(arguments->common.device, "cpu") != 0)
    return sptx_complain(command, "sptx-gen uses no device but cpu; emit for a GPU with --target, not",
                         arguments->common.device);
  return true;
}

bool sptx_gen_arguments_read(int argc, char **argv, sptx_gen_arguments *arguments) {
  *arguments = (sptx_gen_arguments){.target = "native", .dump = SPTX_FORM_NONE};
  sptx_command_options_begin(&arguments->common, command, EVERY_PASS);
  static const struct option names[] = {SPTX_SIZE_OPTIONS,
                                        {"output", required_argument, NULL, OPTION_OUTPUT},
                                        {"target", required_argument, NULL, OPTION_TARGET},
                                        {"schedule", required_argument, NULL, OPTION_SCHEDULE},
                                        {"name", required_argument, NULL, OPTION_NAME},
                                        {"soft-cap", no_argument, NULL, OPTION_SOFT_CAP},
                                        {"alibi", no_argument, NULL, OPTION_ALIBI},
                                        {"any-order", no_argument, NULL, OPTION_ANY_ORDER},
                                        {"check", no_argument, NULL, OPTION_CHECK},

                                        {"draw", required_argument, NULL, OPTION_DRAW},
                                        {"mask", required_argument, NULL, OPTION_MASK},
                                        {"dump", required_argument, NULL, OPTION_DUMP},
                                        {"targets", no_argument, NULL, OPTION_TARGETS},
                                        {"json", no_argument, NULL, OPTION_JSON},
                                        {"help", no_argument, NULL, OPTION_HELP},
                                        {"version", no_argument, NULL, OPTION_VERSION},
                                        {NULL, 0, NULL, 0}};
  int option;
  while ((option = getopt_long(argc, argv, "o:", names, NULL)) != -1)
    if (!read_option(option, optarg, arguments))
      return false;
  if (arguments->help || arguments->version)
    return true;
  if (optind < argc)
    arguments->path = argv[optind++];
  if (optind < argc)
    return sptx_complain(command, "unexpected argument", argv[optind]);
  if (arguments->targets)
    return !arguments->path || sptx_complain(command, "--targets takes no pattern, not", arguments->path);
  if (!arguments->path)
    return sptx_complain(command, "missing argument", "PATTERN.yaml");
  return sptx_command_options_finish(&arguments->common) && check_arguments(arguments);
}

/* One word, in quotes where a shell would read it otherwise. */
static void write_word(const char *word, FILE *stream) {
  bool plain = *word && !word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                           "_-+=.,:/@%")];
  if (plain) {
    fputs(word, stream);
    return;
  }
  putc('\'', stream);
  for (; *word; word++)
    if (*word == '\'')
      fputs("'\\''", stream);
    else
      putc(iscntrl((unsigned char)*word) ? '?' : *word, stream);
  putc('\'', stream);
}

char *sptx_gen_command_line(int argc, char **argv) {
  char *text = NULL;
  size_t size = 0;
  FILE *stream = open_memstream(&text, &size);
  if (!stream)
    return NULL;
  fputs(command, stream);
  for (int i = 1; i < argc; i++) {
    putc(' ', stream);
    write_word(argv[i], stream);
  }
  if (fclose(stream) == 0)
    return text;
  free(text);
  return NULL;
}
