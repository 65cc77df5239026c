/* redis_server.h: real redis-servers for tests, each in a folder of its own, on a free port of
 * loopback and a unix socket. Include it after zc_test.h.
 *
 *   redis_server s;
 *   rs_start(&s, "--maxmemory", "3mb", NULL);      extra arguments of redis-server
 *   s.port, s.url, s.path                          where it is; path: its unix socket
 *   rs_say(&s, "GET", "x", NULL);                  one command; its reply as text, until the next
 *   rs_hang(&s); rs_go_on(&s);                     SIGSTOP, SIGCONT
 *   rs_kill(&s); rs_again(&s);                     kill -9; again, same port, same folder
 *   rs_stop(&s);                                   ends it, by its pid, and removes the folder
 *
 * Certificates, made by openssl in a folder that the program removes at its end:
 *
 *   rs_authority("ca")                             <rs_tls_dir>/ca.pem, ca.key
 *   rs_certificate("x", "ca", "/CN=x", "IP:127.0.0.1,DNS:localhost")
 *
 *   rs_start_tls(&s, "x", "ca", NULL);             s.url is rediss://; clients' are of ca, too
 *
 * With RS_TLS that of rs_start() is, too; its authority is "all".
 *
 * A program that dies takes its servers with it (PR_SET_PDEATHSIG). */
#ifndef REDIS_SERVER_H
#define REDIS_SERVER_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define RS_ARGS 40

typedef struct redis_server {
    pid_t pid;          /* 0: not running */
    int port, tls_port; /* tls_port 0: none */
    bool sentinel;
    char dir[64], path[96], url[64];
    char args[RS_ARGS][160];
    int nargs;
    redisContext *ctx;
    char *said;
} redis_server;

static inline void rs_remove(const char *dir) {
    pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-rf", "--", dir, (char *)NULL);
        _exit(127);
    }
    if (pid > 0) waitpid(pid, NULL, 0);
}

static char rs_tls_dir[32];
static pid_t rs_tls_owner;

static inline void rs_tls_remove(void) {
    if (getpid() == rs_tls_owner) rs_remove(rs_tls_dir);
}

/* <rs_tls_dir>/<name>, in one of a few places: for the end of a full expression. */
static inline const char *rs_tls_file(const char *name) {
    static char paths[4][96];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", rs_tls_dir, name);
    return path;
}

/* A self-signed one without `ca`. */
static inline bool rs_certificate(const char *name, const char *ca, const char *subject,
                                  const char *names) {
    char line[600], by[64] = "";
    if (!rs_tls_dir[0]) {
        snprintf(rs_tls_dir, sizeof rs_tls_dir, "/tmp/zc-redis-tls-XXXXXX");
        rs_tls_owner = getpid();
        if (!CHECK(mkdtemp(rs_tls_dir) != NULL) || atexit(rs_tls_remove) != 0) return false;
    }
    if (ca) snprintf(by, sizeof by, "-CA %s.pem -CAkey %s.key", ca, ca);
    snprintf(line, sizeof line,
             "cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
             "-keyout %s.key -out %s.pem -subj %s %s%s -days 2 %s 2>%s.log",
             rs_tls_dir, name, name, subject, names ? "-addext subjectAltName=" : "",
             names ? names : "", by, name);
    return CHECK_EQ(system(line), 0);
}
static inline bool rs_authority(const char *name) {
    return rs_certificate(name, NULL, "/CN=authority", NULL);
}

/* A port that nobody has at this moment. */
static inline int rs_free_port(void) {
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool good = fd >= 0 && bind(fd, (struct sockaddr *)&a, n) == 0 &&
                getsockname(fd, (struct sockaddr *)&a, &n) == 0;
    if (fd >= 0) close(fd);
    return good ? ntohs(a.sin_port) : 0;
}

static inline void rs_exec(redis_server *s, pid_t parent) {
    char port[16];
    char *argv[RS_ARGS + 16];
    int n = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(126);
    int log = open("log", O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(log, 1);
    dup2(log, 2);
    snprintf(port, sizeof port, "%d", s->port);
    argv[n++] = (char *)(uintptr_t) "redis-server";
    if (s->sentinel) argv[n++] = (char *)(uintptr_t) "sentinel.conf";
    static const char *const fixed[] = {"--bind", "127.0.0.1", "--save", "", "--unixsocket"};
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        if (!s->sentinel || i < 2) argv[n++] = (char *)(uintptr_t)fixed[i];
    if (!s->sentinel) argv[n++] = s->path;
    argv[n++] = (char *)(uintptr_t) "--port";
    argv[n++] = port;
    if (s->sentinel) argv[n++] = (char *)(uintptr_t) "--sentinel";
    for (int i = 0; i < s->nargs; i++) argv[n++] = s->args[i];
    argv[n] = NULL;
    execvp(argv[0], argv);
    _exit(127);
}

/* The reply as text: arrays as "a b c", nil as "(nil)". */
static inline void rs_text(const redisReply *r, char **text) {
    char *old = *text, num[32];
    const char *add = r->str;
    if (r->type == REDIS_REPLY_NIL) add = "(nil)";
    if (r->type == REDIS_REPLY_INTEGER) {
        snprintf(num, sizeof num, "%lld", r->integer);
        add = num;
    }
    if (r->type == REDIS_REPLY_ARRAY) {
        for (size_t i = 0; i < r->elements; i++) rs_text(r->element[i], text);
        return;
    }
    size_t n = (old ? strlen(old) + 1 : 0) + strlen(add) + 1;
    *text = (char *)malloc(n);
    snprintf(*text, n, "%s%s%s", old ? old : "", old ? " " : "", add);
    free(old);
}

static inline const char *rs_saidv(redis_server *s, int argc, const char **argv) {
    struct timeval t = {5, 0};
    free(s->said);
    s->said = NULL;
    if (!s->ctx) s->ctx = redisConnectWithTimeout("127.0.0.1", s->port, t);
    redisReply *r = NULL;
    if (s->ctx && !s->ctx->err && redisSetTimeout(s->ctx, t) == REDIS_OK)
        r = (redisReply *)redisCommandArgv(s->ctx, argc, argv, NULL);
    if (r) {
        rs_text(r, &s->said);
        freeReplyObject(r);
    } else if (s->ctx) {
        redisFree(s->ctx);
        s->ctx = NULL;
    }
    if (!s->said) s->said = strdup(r ? "" : "(no reply)");
    return s->said;
}

__attribute__((sentinel)) static inline const char *rs_say(redis_server *s, const char *cmd, ...) {
    const char *argv[RS_ARGS];
    int n = 0;
    va_list ap;
    va_start(ap, cmd);
    for (const char *a = cmd; a && n < RS_ARGS; a = va_arg(ap, const char *)) argv[n++] = a;
    va_end(ap);
    return rs_saidv(s, n, argv);
}

/* Waits until a command says what is wanted. */
static inline bool rs_until(redis_server *s, const char *want, const char *a, const char *b) {
    for (time_t begin = time(NULL); time(NULL) - begin < 60;) { /* it is broken, not slow */
        const char *argv[] = {a, b};
        if (strstr(rs_saidv(s, b ? 2 : 1, argv), want)) return true;
        usleep(10000);
    }
    printf("    waited for \"%s\", last said \"%.300s\"\n", want, s->said);
    return false;
}

static inline bool rs_again(redis_server *s) {
    pid_t parent = getpid();
    s->pid = fork();
    if (s->pid == 0) {
        if (chdir(s->dir) != 0) _exit(125);
        rs_exec(s, parent);
    }
    return s->pid > 0;
}

static inline void rs_arg(redis_server *s, const char *a) {
    if (s->nargs < RS_ARGS) snprintf(s->args[s->nargs++], sizeof s->args[0], "%s", a);
}
/* The server also speaks TLS, as the owner of a certificate, and vouched for by `ca`. */
static inline void rs_tls(redis_server *s, const char *name, const char *ca) {
    char text[32];
    s->tls_port = rs_free_port();
    snprintf(text, sizeof text, "%d", s->tls_port);
    rs_arg(s, "--tls-port");
    rs_arg(s, text);
    static const char *const options[] = {"--tls-cert-file", "--tls-key-file",
                                          "--tls-ca-cert-file"};
    for (int i = 0; i < 3; i++) {
        snprintf(text, sizeof text, "%s.%s", i == 2 ? ca : name, i == 1 ? "key" : "pem");
        rs_arg(s, options[i]);
        rs_arg(s, rs_tls_file(text));
    }
    rs_arg(s, "--tls-auth-clients");
    rs_arg(s, "no");
    snprintf(s->url, sizeof s->url, "rediss://127.0.0.1:%d", s->tls_port);
}

static inline bool rs_begin(redis_server *s, const char *name, const char *ca, va_list ap) {
    bool sentinel = s->sentinel;
    memset(s, 0, sizeof *s);
    s->sentinel = sentinel;
    snprintf(s->dir, sizeof s->dir, "/tmp/zc-redis-XXXXXX");
    if (!mkdtemp(s->dir)) return false;
    snprintf(s->path, sizeof s->path, "%s/socket", s->dir);
    s->port = rs_free_port();
    snprintf(s->url, sizeof s->url, "redis://127.0.0.1:%d", s->port);
    if (name) rs_tls(s, name, ca);
    for (const char *a; (a = va_arg(ap, const char *));) rs_arg(s, a);
    return s->port != 0;
}

/* Up and answering, also if only to say that it wants a password. */
static inline bool rs_up(redis_server *s) {
    for (int i = 0; i < 1000; i++) {
        const char *said = rs_say(s, "PING", NULL);
        if (strstr(said, "PONG") || strstr(said, "NOAUTH")) return true;
        usleep(10000);
    }
    printf("    redis-server did not start: %s/log\n", s->dir);
    return false;
}

static inline bool rs_start(redis_server *s, ...) {
    va_list ap;
    const char *name = NULL;
    s->sentinel = false;
#ifdef RS_TLS
    name = "any";
    if (!rs_tls_dir[0] && !(rs_authority("all") &&
                            rs_certificate(name, "all", "/CN=redis", "IP:127.0.0.1,DNS:localhost")))
        return false;
#endif
    va_start(ap, s);
    bool good = rs_begin(s, name, "all", ap);
    va_end(ap);
    return CHECK(good && rs_again(s) && rs_up(s));
}

static inline bool rs_start_tls(redis_server *s, const char *name, const char *ca, ...) {
    va_list ap;
    s->sentinel = false;
    va_start(ap, ca);
    bool good = rs_begin(s, name, ca, ap);
    va_end(ap);
    return CHECK(good && rs_again(s) && rs_up(s));
}

static inline bool rs_start_sentinel(redis_server *s, int master_port) {
    char path[128];
    memset(s, 0, sizeof *s);
    s->sentinel = true;
    snprintf(s->dir, sizeof s->dir, "/tmp/zc-redis-XXXXXX");
    if (!CHECK(mkdtemp(s->dir) != NULL)) return false;
    s->port = rs_free_port();
    snprintf(path, sizeof path, "%s/sentinel.conf", s->dir);
    FILE *f = fopen(path, "w");
    if (!CHECK(f != NULL)) return false;
    fprintf(f,
            "sentinel monitor zoo 127.0.0.1 %d 1\nsentinel down-after-milliseconds zoo 500\n"
            "sentinel failover-timeout zoo 2000\n",
            master_port);
    fclose(f);
    return CHECK(rs_again(s) && rs_up(s));
}

/* Of a server that was killed, nothing: kill(0) would stop the test and who started it. */
static inline void rs_hang(redis_server *s) {
    int status;
    if (s->pid > 0 && kill(s->pid, SIGSTOP) == 0) waitpid(s->pid, &status, WUNTRACED);
}
static inline void rs_go_on(redis_server *s) {
    if (s->pid > 0) kill(s->pid, SIGCONT);
}

static inline void rs_kill(redis_server *s) {
    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, 0);
    }
    s->pid = 0;
    if (s->ctx) redisFree(s->ctx);
    s->ctx = NULL;
}

static inline void rs_stop(redis_server *s) {
    rs_kill(s);
    free(s->said);
    s->said = NULL;
    if (strncmp(s->dir, "/tmp/zc-redis-", 14) == 0) rs_remove(s->dir);
}

#endif
