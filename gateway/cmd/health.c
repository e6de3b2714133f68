#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/config.h"
#include "cmd/cmd.h"

static int health_ask(const struct config *c)
{
    static const char REQUEST[] = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    char reply[16] = {0};
    size_t n = 0;
    const struct timeval wait = {3, 0};
    const int fd = socket(c->admin.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return EXIT_NEGATIVE;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    const bool sent = connect(fd, (const struct sockaddr *)&c->admin.sa, c->admin.sa_len) == 0 &&
                      send(fd, REQUEST, sizeof REQUEST - 1, MSG_NOSIGNAL) == (ssize_t)sizeof REQUEST - 1;
    while (sent && n < 13) {
        const ssize_t got = recv(fd, reply + n, 13 - n, 0);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    close(fd);
    if (!sent)
        complain("health: no response from %s", c->admin.address);
    else if (!str_starts((struct str){reply, n}, STR("HTTP/1.1 200 ")))
        complain("health: not ready");
    else
        return EXIT_DONE;
    return EXIT_NEGATIVE;
}

struct health_options {
    const char *config;
};

static int health_run(const void *given)
{
    const struct health_options *q = given;
    struct faults faults = {0};
    struct config *c = config_load(q->config, &faults);
    faults_print(&faults, stderr);
    faults_free(&faults);
    if (!c)
        return EXIT_NEGATIVE;
    const int code = health_ask(c);
    config_free(c);
    return code;
}

static const struct command_option HEALTH_OPTIONS[] = {OPTION_CONFIG(struct health_options, config)};
const struct command COMMAND_HEALTH = {
    .name = "health", .does = "test whether a running gateway is ready",
    .about = "Requests `/readyz` at the admin address of a running gateway. Suitable as the health check of a "
             "container.",
    .exits = "0 ready; 1 not ready, or no response",
    COMMAND_OPTIONS(HEALTH_OPTIONS), .size = sizeof(struct health_options), .run = health_run};
