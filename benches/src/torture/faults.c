/* Makes the n-th call of a kind fail, for files below one directory: loaded before the C library
 * (LD_PRELOAD) into a daemon under test. strace could do it too, but counts for each thread alone,
 * takes no directory, and every traced call costs two stops.
 *
 * FAULTS_UNDER   only files whose path begins with this
 * FAULTS_CALL    which calls fail: open, write, sync or rename; `nosync`: every sync says that it
 *                is done, and is not; anything else: none, they are only counted
 * FAULTS_AT      which of them, from 1, over all threads; later ones work again
 * FAULTS_ERRNO   with what
 * FAULTS_REPORT  a file for five numbers of 8 bytes: calls of each kind, and failures made
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN, WRITE, SYNC, RENAME, KINDS };

static const char *const names[KINDS] = { "open", "write", "sync", "rename" };
static const char *under;
static int kind_to_fail = -1, all_syncs_lie, error_number, report = -1;
static uint64_t at, counts[KINDS + 1];

__attribute__((constructor)) static void start(void) {
  under = getenv("FAULTS_UNDER");
  const char *call = getenv("FAULTS_CALL"), *n = getenv("FAULTS_AT");
  const char *code = getenv("FAULTS_ERRNO"), *to = getenv("FAULTS_REPORT");
  for (int kind = 0; call && kind < KINDS; kind++)
    if (!strcmp(call, names[kind])) kind_to_fail = kind;
  all_syncs_lie = call && !strcmp(call, "nosync");
  at = n ? strtoull(n, 0, 10) : 0;
  error_number = code ? atoi(code) : EIO;
  if (to) report = (int)syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
}

static int is_ours(const char *path) { return under && path && !strncmp(path, under, strlen(under)); }

static int is_ours_fd(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_ours(path);
}

/* Counts a call; whether it has to fail. */
static int fails(int kind) {
  uint64_t mine = __atomic_add_fetch(&counts[kind], 1, __ATOMIC_SEQ_CST);
  int failing = kind == kind_to_fail && mine == at;
  if (kind == SYNC && all_syncs_lie) failing = 1;
  if (failing) __atomic_add_fetch(&counts[KINDS], 1, __ATOMIC_SEQ_CST);
  if (report >= 0) syscall(SYS_pwrite64, report, counts, sizeof counts, (off_t)0);
  if (failing) errno = error_number;
  return failing;
}

#define REAL(result, name, ...)                                   \
  static result (*real)(__VA_ARGS__);                             \
  if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define MODE                                                      \
  mode_t mode = 0;                                                \
  if (flags & (O_CREAT | O_TMPFILE)) {                            \
    va_list rest;                                                 \
    va_start(rest, flags);                                        \
    mode = va_arg(rest, mode_t);                                  \
    va_end(rest);                                                 \
  }

int open(const char *path, int flags, ...) {
  MODE
  REAL(int, "open", const char *, int, ...);
  return is_ours(path) && fails(OPEN) ? -1 : real(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  MODE
  REAL(int, "open64", const char *, int, ...);
  return is_ours(path) && fails(OPEN) ? -1 : real(path, flags, mode);
}
int openat(int dir, const char *path, int flags, ...) {
  MODE
  REAL(int, "openat", int, const char *, int, ...);
  return is_ours(path) && fails(OPEN) ? -1 : real(dir, path, flags, mode);
}
int openat64(int dir, const char *path, int flags, ...) {
  MODE
  REAL(int, "openat64", int, const char *, int, ...);
  return is_ours(path) && fails(OPEN) ? -1 : real(dir, path, flags, mode);
}
ssize_t write(int fd, const void *bytes, size_t length) {
  REAL(ssize_t, "write", int, const void *, size_t);
  return is_ours_fd(fd) && fails(WRITE) ? -1 : real(fd, bytes, length);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(ssize_t, "writev", int, const struct iovec *, int);
  return is_ours_fd(fd) && fails(WRITE) ? -1 : real(fd, parts, count);
}
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
  REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
  return is_ours_fd(fd) && fails(WRITE) ? -1 : real(fd, bytes, length, offset);
}
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
  REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
  return is_ours_fd(fd) && fails(WRITE) ? -1 : real(fd, bytes, length, offset);
}
int ftruncate(int fd, off_t length) {
  REAL(int, "ftruncate", int, off_t);
  return is_ours_fd(fd) && fails(WRITE) ? -1 : real(fd, length);
}
int ftruncate64(int fd, off64_t length) {
  REAL(int, "ftruncate64", int, off64_t);
  return is_ours_fd(fd) && fails(WRITE) ? -1 : real(fd, length);
}
int fsync(int fd) {
  REAL(int, "fsync", int);
  return is_ours_fd(fd) && fails(SYNC) ? (all_syncs_lie ? 0 : -1) : real(fd);
}
int fdatasync(int fd) {
  REAL(int, "fdatasync", int);
  return is_ours_fd(fd) && fails(SYNC) ? (all_syncs_lie ? 0 : -1) : real(fd);
}
int sync_file_range(int fd, off64_t offset, off64_t length, unsigned int flags) {
  REAL(int, "sync_file_range", int, off64_t, off64_t, unsigned int);
  /* sled's own flush: no promise of durability, so it is not a lie either. */
  return !all_syncs_lie && is_ours_fd(fd) && fails(SYNC) ? -1 : real(fd, offset, length, flags);
}
int rename(const char *from, const char *to) {
  REAL(int, "rename", const char *, const char *);
  return is_ours(to) && fails(RENAME) ? -1 : real(from, to);
}
