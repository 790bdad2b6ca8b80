/* The trivial static child of the benchmarks: it reports its start, then sleeps.
 *
 * child FIFO NAME      writes "NAME PID NANOSECONDS" (CLOCK_MONOTONIC) to the FIFO as its first act
 * child                the same; FIFO from HM_BENCH_FIFO, NAME from the last part of the working directory
 * child --crowd COUNT  starts COUNT processes that only sleep, writes "ready", and sleeps
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

static int crowd(int count)
{
    for (int started = 0; started < count; started++) {
        pid_t pid = fork();
        if (pid < 0)
            return 1;
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;)
                pause();
        }
    }
    if (write(1, "ready\n", 6) != 6)
        return 1;
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    struct timespec now;
    char folder[4096], line[512];
    const char *fifo = argc > 2 ? argv[1] : getenv("HM_BENCH_FIFO");
    const char *name = argc > 2 ? argv[2] : NULL;

    clock_gettime(CLOCK_MONOTONIC, &now);
    if (argc > 2 && strcmp(argv[1], "--crowd") == 0)
        return crowd(atoi(argv[2]));
    if (name == NULL && getcwd(folder, sizeof folder) != NULL && strrchr(folder, '/') != NULL)
        name = strrchr(folder, '/') + 1;
    if (fifo == NULL || name == NULL)
        return 2;
    int length = snprintf(line, sizeof line, "%s %d %lld\n", name, (int)getpid(),
                          (long long)now.tv_sec * 1000000000 + now.tv_nsec);
    int fd = open(fifo, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, line, length) != length)
        return 3;
    close(fd);
    for (;;)
        pause();
}
