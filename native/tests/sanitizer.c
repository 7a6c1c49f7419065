/* Linked into build/berth-shim-asan only: reports go to files, because helpers have no standard error. */
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);
const char *__asan_default_options(void) { return "log_path=/tmp/berth-shim-asan:detect_leaks=0:exitcode=99"; }
const char *__ubsan_default_options(void) { return "log_path=/tmp/berth-shim-ubsan:print_stacktrace=1:halt_on_error=1:exitcode=98"; }
