/* The start of a child process, without a shell and at a cost that no number of open files changes.
 *
 * posix_spawn(3) copies the descriptor table of the caller, and cannot set resource limits, enter a cgroup or
 * note the child anywhere. Here the child shares the table for a moment, and then copies only the few
 * descriptors below `above`. The child notes its own pid in its runtime record before it executes the agent:
 * no agent is ever unrecorded, even when the daemon dies in between.
 *
 * Until execve, the child shares the memory of the daemon, and the calling thread waits (CLONE_VFORK). The
 * child therefore runs on a stack apart, allocates nothing and takes no lock. Python calls through ctypes,
 * which releases the interpreter's lock meanwhile. Layout of `struct request`: see spawning.py.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the call of clone is written for x86-64; elsewhere the daemon starts agents through a shell"
#endif

enum { CLONE, TABLE, DESCRIPTOR, NOTE, LIMIT, NICE, DIRECTORY, EXEC };
enum { INPUT, OUTPUT, LOCK, RECORD, PASSED };
enum { NO_NICE = 127, UNSHARE = 2, CLOSE_AT_EXEC = 4, SIGNALS = 64, STACK = 32768 };
enum { VM = 0x100, FILES = 0x400, PIDFD = 0x1000, VFORK = 0x4000 };
#define INTO_CGROUP 0x200000000ULL

struct limit {
    uint64_t soft, hard;
};

struct request {
    const char *program;
    char *argv, *env; /* texts one behind the other, each ended by a NUL */
    const char *directory;
    const char *note; /* the text for the record; its last `digits` bytes become the pid, behind blanks */
    const int32_t *limit_names;
    const struct limit *limits;
    int64_t argv_count, env_count;
    int64_t note_length, note_at, digits;
    char **words; /* filled here: the pointers to all texts, as execve(2) takes them */
    int32_t passed[PASSED]; /* descriptors of the caller; -1: none */
    int32_t slots[PASSED];  /* low descriptors of the caller, through which the child gets the others */
    int32_t above;          /* the child copies no descriptor from here on */
    int32_t lock_number;    /* the number of the lock in the child */
    int32_t limits_before;  /* so many limits are set before the note */
    int32_t limit_count;
    int32_t cgroup; /* a descriptor of the cgroup's directory; -1: none */
    int32_t join;   /* the child enters the cgroup itself, which takes longer */
    int32_t umask;  /* -1: that of the caller */
    int32_t nice;   /* NO_NICE: that of the caller */
    /* results */
    int32_t pid, pidfd, step, error, failed_limit;
};

/* The caller compares it: an old library beside a new caller would misread the request. */
__attribute__((visibility("default"))) const int32_t hostmanager_spawn_layout = 4 << 16 | sizeof(struct request);

struct clone_args_3 {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size,
        cgroup;
};

struct kernel_sigaction {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

static void fail(struct request *request, int step) {
    request->step = step;
    request->error = errno;
    syscall(SYS_exit_group, 127);
}

static void pass(struct request *request, int which, int number) {
    int slot = request->slots[which];
    if (request->passed[which] < 0)
        return;
    if ((slot == number ? syscall(SYS_fcntl, slot, F_SETFD, 0) : syscall(SYS_dup3, slot, number, 0)) < 0)
        fail(request, DESCRIPTOR);
}

static void note(struct request *request) {
    char text[128];
    int64_t at = request->note_length, first = at - request->digits;
    if (at > (int64_t)sizeof text || first < 0) {
        errno = EINVAL;
        fail(request, NOTE);
    }
    for (int64_t i = 0; i < first; i++)
        text[i] = request->note[i];
    for (long pid = syscall(SYS_getpid); at > first; pid /= 10)
        text[--at] = pid ? (char)('0' + pid % 10) : ' ';
    errno = EIO; /* for a write that ends early */
    if (syscall(SYS_pwrite64, request->slots[RECORD], text, request->note_length, request->note_at) !=
        request->note_length)
        fail(request, NOTE);
}

static void set_limits(struct request *request, int from, int to) {
    for (int i = from; i < to; i++) {
        request->failed_limit = i;
        if (syscall(SYS_prlimit64, 0, request->limit_names[i], &request->limits[i], NULL) < 0)
            fail(request, LIMIT);
    }
}

/* Best effort: the table of descriptors is still that of the caller. */
static void join_cgroup(struct request *request) {
    long file = syscall(SYS_openat, request->cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (file >= 0) {
        syscall(SYS_write, file, "0", 1);
        syscall(SYS_close, file);
    }
}

__attribute__((noreturn, used)) static void run_child(struct request *request) {
    if (request->join)
        join_cgroup(request);
    if (syscall(SYS_close_range, request->above, ~0U, UNSHARE) < 0)
        fail(request, TABLE);
    syscall(SYS_setsid);
    struct kernel_sigaction standard = {0};
    for (int number = 1; number <= SIGNALS; number++) /* ignored signals stay ignored across execve */
        syscall(SYS_rt_sigaction, number, &standard, NULL, sizeof standard.mask);
    pass(request, INPUT, 0);
    pass(request, OUTPUT, 1);
    pass(request, OUTPUT, 2);
    syscall(SYS_close_range, 3, ~0U, CLOSE_AT_EXEC); /* from Linux 5.11; a guard only, Python does the same */
    set_limits(request, 0, request->limits_before);
    if (request->passed[RECORD] >= 0)
        note(request);
    pass(request, LOCK, request->lock_number); /* last, as the slot of the record may have this number */
    set_limits(request, request->limits_before, request->limit_count);
    if (request->umask >= 0)
        syscall(SYS_umask, request->umask);
    if (request->nice != NO_NICE && syscall(SYS_setpriority, 0, 0, request->nice) < 0) /* PRIO_PROCESS */
        fail(request, NICE);
    if (syscall(SYS_chdir, request->directory) < 0)
        fail(request, DIRECTORY);
    uint64_t none = 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof none);
    syscall(SYS_execve, request->program, request->words, request->words + request->argv_count + 1);
    fail(request, EXEC);
    __builtin_unreachable();
}

/* Starts a child on the stack that the arguments name. The result in the caller is that of clone(2).
 *
 * Filters of system calls often refuse clone3, as they cannot see its flags, so only a cgroup asks for it.
 */
static long start(struct clone_args_3 *args, struct request *request) {
    int new = args->flags & INTO_CGROUP ? 1 : 0;
    long result = new ? SYS_clone3 : SYS_clone;
    uint64_t first = new ? (uint64_t)(uintptr_t)args : args->flags | args->exit_signal;
    uint64_t second = new ? sizeof *args : args->stack + args->stack_size;
    register struct request *argument __asm__("r12") = request;
    register uint64_t fourth __asm__("r10") = 0, fifth __asm__("r8") = 0;
    register void (*child)(struct request *) __asm__("r9") = run_child; /* never in rbp, which is cleared */
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r12, %%rdi\n\t"
                     "call *%[child]\n\t"
                     "1:"
                     : "+a"(result)
                     : "D"(first), "S"(second), "d"(args->pidfd), "r"(fourth), "r"(fifth), "r"(argument),
                       [child] "r"(child)
                     : "rcx", "r11", "memory", "cc");
    return result;
}

static char **point(char **to, char *text, int64_t count) {
    for (int64_t i = 0; i < count; i++, text += strlen(text) + 1)
        *to++ = text;
    *to++ = NULL;
    return to;
}

/* Returns 0, or -1 with the failed step and its error in the request; no child is left then. */
__attribute__((visibility("default"))) int hostmanager_spawn(struct request *request) {
    char stack[STACK] __attribute__((aligned(16)));
    struct clone_args_3 args = {
        .flags = VM | VFORK | FILES | PIDFD,
        .pidfd = (uint64_t)(uintptr_t)&request->pidfd,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = STACK,
    };
    if (request->cgroup >= 0 && !request->join) {
        args.flags |= INTO_CGROUP;
        args.cgroup = (uint64_t)request->cgroup;
    }
    request->step = CLONE;
    request->error = 0;
    request->words = malloc((size_t)(request->argv_count + request->env_count + 2) * sizeof *request->words);
    if (!request->words) {
        request->error = ENOMEM;
        return -1;
    }
    point(point(request->words, request->argv, request->argv_count), request->env, request->env_count);
    uint64_t all = ~0ULL, before = 0;
    for (int i = 0; i < PASSED; i++)
        if (request->passed[i] >= 0)
            syscall(SYS_dup3, request->passed[i], request->slots[i], O_CLOEXEC);
    /* A handler of the daemon in the child would change the memory of the daemon. */
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
    long pid = start(&args, request);
    if (pid < 0)
        request->error = (int)-pid;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
    /* The slots keep no file: the daemon must not hold the lock of a run. */
    for (int i = INPUT + 1; i < PASSED; i++)
        if (request->passed[i] >= 0)
            syscall(SYS_dup3, request->slots[INPUT], request->slots[i], O_CLOEXEC);
    if (pid > 0 && request->error) {
        while (waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
            ;
        close(request->pidfd);
    }
    free(request->words);
    request->pid = (int32_t)pid;
    return request->error ? -1 : 0;
}
