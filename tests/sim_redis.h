/* sim_redis.h: a model of a Redis server, for tests/x_simulate.c: the commands that >>redis sends,
 * its scripts natively. Include it after the implementation of zoocache.h.
 *
 *   sr_db         what a server holds: strings; for each shard the stream "log" and the hashes "tags"
 *                 and "tags2"
 *   sr_exec()     one command; the reply as the bytes of RESP
 *   sr_copy()     what a replica or a disk holds
 *
 * It knows neither time nor network: the caller says when a command runs. */
#ifndef SIM_REDIS_H
#define SIM_REDIS_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- commands, replies: bytes */

typedef struct sr_cmd {
    uint32_t refs;
    int argc;
    const char **arg; /* each ends with a NUL, too */
    size_t *len;
} sr_cmd;

static inline void *sr_alloc(size_t size) {
    void *p = malloc(size ? size : 1);
    if (!p) abort();
    return p;
}

static inline sr_cmd *sr_cmd_new(int argc, const char **arg, const size_t *len) {
    size_t n = (size_t)argc, size = sizeof(sr_cmd) + n * (sizeof(char *) + sizeof(size_t) + 1);
    for (size_t i = 0; i < n; i++) size += len[i];
    sr_cmd *c = (sr_cmd *)sr_alloc(size);
    c->refs = 1;
    c->argc = argc;
    c->arg = (const char **)(c + 1);
    c->len = (size_t *)(c->arg + n);
    char *p = (char *)(c->len + n);
    for (size_t i = 0; i < n; i++) {
        c->arg[i] = p;
        c->len[i] = len[i];
        memcpy(p, arg[i], len[i]);
        p[len[i]] = '\0';
        p += len[i] + 1;
    }
    return c;
}

static inline void sr_cmd_free(sr_cmd *c) {
    if (c && --c->refs == 0) free(c);
}

typedef struct sr_out {
    char *ptr;
    size_t len, cap;
} sr_out;

static inline void sr_bytes(sr_out *o, const void *p, size_t n) {
    if (o->len + n > o->cap) {
        o->cap = (o->len + n) * 2 + 64;
        o->ptr = (char *)realloc(o->ptr, o->cap);
        if (!o->ptr) abort();
    }
    if (n) memcpy(o->ptr + o->len, p, n);
    o->len += n;
}
static inline void sr_line(sr_out *o, char kind, const char *s) {
    sr_bytes(o, &kind, 1);
    sr_bytes(o, s, strlen(s));
    sr_bytes(o, "\r\n", 2);
}
static inline void sr_number(sr_out *o, char kind, uint64_t v) {
    char text[24], *p = text + sizeof text - 1;
    *p = '\0';
    do *--p = (char)('0' + v % 10);
    while (v /= 10);
    sr_line(o, kind, p);
}
static inline void sr_array(sr_out *o, size_t n) { sr_number(o, '*', n); }
static inline void sr_int(sr_out *o, uint64_t v) { sr_number(o, ':', v); }
static inline void sr_nil(sr_out *o) { sr_bytes(o, "$-1\r\n", 5); }
static inline void sr_bulk(sr_out *o, const void *p, size_t n) {
    sr_number(o, '$', n);
    sr_bytes(o, p, n);
    sr_bytes(o, "\r\n", 2);
}
static inline void sr_bulk_text(sr_out *o, const char *s) { sr_bulk(o, s, strlen(s)); }
static inline void sr_bulk_number(sr_out *o, uint64_t v) {
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)v);
    sr_bulk_text(o, text);
}

/* ---- what a server holds */

typedef struct sr_string { /* immutable, but for `expires` in a copy of its own */
    uint32_t refs;
    uint64_t hash, expires; /* ns; UINT64_MAX: never */
    size_t klen, vlen;
    char *bytes; /* key, value */
} sr_string;

typedef struct sr_entry {
    uint32_t refs;
    uint64_t gen, pos;
    size_t len[3];
    char *part[3]; /* n, h, t */
} sr_entry;

typedef struct sr_field {
    uint32_t len;
    uint64_t value;
    char name[64];
} sr_field;

typedef struct sr_hash {
    sr_field *fields; /* NULL: not there */
    size_t n, cap;
} sr_hash;

typedef struct sr_log {
    bool has_log;
    uint64_t last_gen, last_pos; /* the last id given, also if its entry has gone */
    sr_entry **log;
    size_t entries, log_cap;
    sr_hash tags[2];
} sr_log;

#define SR_SHARDS 3

typedef struct sr_db {
    sr_string **strings;
    size_t n, cap;
    sr_log shards[SR_SHARDS];
} sr_db;

static inline void sr_string_free(sr_string *s) {
    if (--s->refs == 0) free(s);
}
static inline void sr_entry_free(sr_entry *e) {
    if (--e->refs == 0) free(e);
}

static inline void sr_hash_del(sr_hash *h) {
    free(h->fields);
    memset(h, 0, sizeof *h);
}
static inline void sr_log_del(sr_log *db) {
    for (size_t i = 0; i < db->entries; i++) sr_entry_free(db->log[i]);
    free(db->log);
    db->log = NULL;
    db->entries = db->log_cap = 0;
    db->has_log = false;
}
static inline void sr_empty(sr_db *db) {
    for (size_t i = 0; i < db->n; i++) sr_string_free(db->strings[i]);
    free(db->strings);
    for (int s = 0; s < SR_SHARDS; s++) {
        sr_log_del(&db->shards[s]);
        for (int i = 0; i < 2; i++) sr_hash_del(&db->shards[s].tags[i]);
    }
    memset(db, 0, sizeof *db);
}

static inline void *sr_dup(const void *p, size_t n) { return p ? memcpy(sr_alloc(n), p, n) : NULL; }

static inline void sr_copy(sr_db *to, const sr_db *from) {
    if (to == from) return;
    sr_empty(to);
    *to = *from;
    to->strings = (sr_string **)sr_dup(from->strings, from->cap * sizeof *from->strings);
    for (size_t i = 0; i < to->n; i++) to->strings[i]->refs++;
    for (int s = 0; s < SR_SHARDS; s++) {
        sr_log *l = &to->shards[s];
        l->log = (sr_entry **)sr_dup(l->log, l->log_cap * sizeof *l->log);
        for (int i = 0; i < 2; i++)
            l->tags[i].fields = (sr_field *)sr_dup(l->tags[i].fields,
                                                   l->tags[i].cap * sizeof(sr_field));
        for (size_t i = 0; i < l->entries; i++) l->log[i]->refs++;
    }
}

static inline size_t sr_find(sr_db *db, uint64_t now, const char *key, size_t n) {
    uint64_t hash = XXH3_64bits(key, n);
    for (size_t i = 0; i < db->n; i++) {
        sr_string *s = db->strings[i];
        if (s->hash != hash || s->klen != n || memcmp(s->bytes, key, n) != 0) continue;
        if (s->expires > now) return i;
        sr_string_free(s);
        db->strings[i] = db->strings[--db->n];
        return SIZE_MAX;
    }
    return SIZE_MAX;
}
static inline bool sr_unlink(sr_db *db, uint64_t now, const char *key, size_t n) {
    size_t i = sr_find(db, now, key, n);
    if (i == SIZE_MAX) return false;
    sr_string_free(db->strings[i]);
    db->strings[i] = db->strings[--db->n];
    return true;
}
static inline void sr_set(sr_db *db, uint64_t now, const char *key, size_t klen, const char *value,
                          size_t vlen, uint64_t expires) {
    sr_unlink(db, now, key, klen);
    if (db->n == db->cap) {
        db->cap = db->cap * 2 + 16;
        db->strings = (sr_string **)realloc(db->strings, db->cap * sizeof *db->strings);
        if (!db->strings) abort();
    }
    sr_string *s = (sr_string *)sr_alloc(sizeof *s + klen + vlen);
    s->refs = 1;
    s->hash = XXH3_64bits(key, klen);
    s->expires = expires;
    s->klen = klen;
    s->vlen = vlen;
    s->bytes = (char *)(s + 1);
    memcpy(s->bytes, key, klen);
    memcpy(s->bytes + klen, value, vlen);
    db->strings[db->n++] = s;
}
static inline void sr_reply_get(sr_db *db, uint64_t now, const char *key, size_t n, sr_out *o) {
    size_t i = sr_find(db, now, key, n);
    if (i == SIZE_MAX) sr_nil(o);
    else sr_bulk(o, db->strings[i]->bytes + db->strings[i]->klen, db->strings[i]->vlen);
}

static inline sr_field *sr_field_of(sr_hash *h, const char *name, size_t n) {
    for (size_t i = 0; i < h->n; i++)
        if (h->fields[i].len == n && memcmp(h->fields[i].name, name, n) == 0) return &h->fields[i];
    return NULL;
}
static inline void sr_hset(sr_hash *h, const char *name, size_t n, uint64_t value) {
    sr_field *f = sr_field_of(h, name, n);
    if (!f) {
        if (h->n == h->cap) {
            h->cap = h->cap * 2 + 16;
            h->fields = (sr_field *)realloc(h->fields, h->cap * sizeof *h->fields);
            if (!h->fields) abort();
        }
        f = &h->fields[h->n++];
        if (n > sizeof f->name) abort();
        f->len = (uint32_t)n;
        memcpy(f->name, name, n);
    }
    f->value = value;
}
static inline uint64_t sr_hget(sr_hash *h, const char *name, size_t n, uint64_t none) {
    sr_field *f = sr_field_of(h, name, n);
    return f ? f->value : none;
}

static inline void sr_xadd(sr_log *db, uint64_t gen, uint64_t pos, const char *const part[3],
                           const size_t len[3], uint64_t most) {
    sr_entry *e = (sr_entry *)sr_alloc(sizeof *e + len[0] + len[1] + len[2]);
    char *p = (char *)(e + 1);
    e->refs = 1;
    e->gen = gen;
    e->pos = pos;
    for (int i = 0; i < 3; i++) {
        e->part[i] = p;
        e->len[i] = len[i];
        memcpy(p, part[i], len[i]);
        p += len[i];
    }
    if (db->entries == db->log_cap) {
        db->log_cap = db->log_cap * 2 + 16;
        db->log = (sr_entry **)realloc(db->log, db->log_cap * sizeof *db->log);
        if (!db->log) abort();
    }
    db->log[db->entries++] = e;
    db->has_log = true;
    db->last_gen = gen;
    db->last_pos = pos;
    for (; db->entries > most; db->entries--) { /* "about" `most` may be exactly that */
        sr_entry_free(db->log[0]);
        memmove(db->log, db->log + 1, (db->entries - 1) * sizeof *db->log);
    }
}
static inline void sr_reply_entry(const sr_entry *e, sr_out *o) {
    static const char *const names[3] = {"n", "h", "t"};
    char id[48];
    snprintf(id, sizeof id, "%llu-%llu", (unsigned long long)e->gen, (unsigned long long)e->pos);
    sr_array(o, 2);
    sr_bulk_text(o, id);
    sr_array(o, 6);
    for (int i = 0; i < 3; i++) {
        sr_bulk_text(o, names[i]);
        sr_bulk(o, e->part[i], e->len[i]);
    }
}

/* ---- commands */

static inline uint64_t sr_num(const char *s) { return strtoull(s, NULL, 10); }

static inline bool sr_is(const sr_cmd *c, int i, const char *word) {
    return i < c->argc && strcmp(c->arg[i], word) == 0;
}

/* What of the key comes after "{prefix}:". */
static inline const char *sr_name(const char *key) {
    const char *s = strstr(key, "}:");
    return s ? s + 2 : key;
}
/* "{prefix:1}:...": the shard. */
static inline sr_log *sr_log_of(sr_db *db, const char *key) {
    const char *s = strchr(key, ':');
    size_t i = s && s > key && s[-1] != '}' ? (size_t)strtoull(s + 1, NULL, 10) : 0;
    if (i >= SR_SHARDS) abort();
    return &db->shards[i];
}
static inline int sr_hash_of(const char *key) {
    if (strcmp(sr_name(key), "tags") == 0) return 0;
    return strcmp(sr_name(key), "tags2") == 0 ? 1 : -1;
}

/* zc__redis_lua_genesis */
static inline void sr_genesis(sr_log *db, const sr_cmd *c, sr_out *o) {
    const char *gen = c->arg[6], *part[3] = {c->arg[7], c->arg[8], ""};
    const size_t len[3] = {c->len[7], c->len[8], 0};
    const sr_entry *last = db->entries ? db->log[db->entries - 1] : NULL;
    if (last && (last->gen != db->last_gen || last->pos != db->last_pos)) last = NULL;
    if (last && sr_hget(&db->tags[0], "\0n", 2, UINT64_MAX) != last->pos) last = NULL;
    if (last && last->pos <= UINT64_C(1) << 47 &&
        sr_hget(&db->tags[0], "\0g", 2, 0) == last->gen) {
        sr_reply_entry(last, o);
        return;
    }
    sr_log_del(db);
    for (int i = 0; i < 2; i++) sr_hash_del(&db->tags[i]);
    sr_xadd(db, sr_num(gen), 0, part, len, SIZE_MAX);
    sr_hset(&db->tags[0], "\0g", 2, sr_num(gen));
    sr_hset(&db->tags[0], "\0n", 2, 0);
    sr_hset(&db->tags[0], "\0f", 2, 0);
    sr_hset(&db->tags[0], "\0s", 2, 0);
    sr_array(o, 2);
    char id[48];
    snprintf(id, sizeof id, "%s-0", gen);
    sr_bulk_text(o, id);
    sr_array(o, 2);
    sr_bulk_text(o, "n");
    sr_bulk(o, part[0], len[0]);
}

/* zc__redis_lua_append */
static inline void sr_append(sr_log *db, const sr_cmd *c, sr_out *o) {
    enum { GEN = 6, NONCE, MS, PACKED, LENGTH, MOST, TAGS };
    uint64_t g = sr_num(c->arg[GEN]);
    const sr_entry *last = db->entries ? db->log[db->entries - 1] : NULL;
    if (sr_hget(&db->tags[0], "\0g", 2, 0) != g || !last || last->gen != g) {
        sr_int(o, 0);
        return;
    }
    uint64_t seq = last->pos + 1;
    if (db->last_gen == g && seq <= db->last_pos) {
        sr_line(o, '-', "ERR The ID specified in XADD is equal or smaller than the target stream");
        return;
    }
    const char *part[3] = {c->arg[NONCE], c->arg[MS], c->arg[PACKED]};
    const size_t len[3] = {c->len[NONCE], c->len[MS], c->len[PACKED]};
    sr_xadd(db, g, seq, part, len, sr_num(c->arg[LENGTH]));
    sr_hset(&db->tags[0], "\0n", 2, seq);
    if (c->argc == TAGS) sr_hset(&db->tags[0], "", 0, seq);
    for (int i = TAGS; i < c->argc; i++) sr_hset(&db->tags[0], c->arg[i], c->len[i], seq);
    if (db->tags[0].n > sr_num(c->arg[MOST])) {
        sr_field *all = sr_field_of(&db->tags[0], "", 0);
        uint64_t floor = sr_hget(&db->tags[0], "\0s", 2, 0), everything = all ? all->value : 0;
        bool had = all != NULL;
        sr_hash_del(&db->tags[1]);
        db->tags[1] = db->tags[0];
        memset(&db->tags[0], 0, sizeof db->tags[0]);
        sr_hset(&db->tags[0], "\0g", 2, g);
        sr_hset(&db->tags[0], "\0n", 2, seq);
        sr_hset(&db->tags[0], "\0f", 2, floor);
        sr_hset(&db->tags[0], "\0s", 2, seq);
        if (had) sr_hset(&db->tags[0], "", 0, everything);
    }
    sr_bulk_number(o, seq);
}

static inline void sr_script(sr_db *db, uint64_t now, zc__redis_script s, const sr_cmd *c,
                             sr_out *o) {
    size_t i;
    if (s == ZC__GENESIS) sr_genesis(sr_log_of(db, c->arg[3]), c, o);
    if (s == ZC__APPEND) sr_append(sr_log_of(db, c->arg[3]), c, o);
    if (s == ZC__GENESIS || s == ZC__APPEND) return;
    i = sr_find(db, now, c->arg[3], c->len[3]);
    const sr_string *lock = i == SIZE_MAX ? NULL : db->strings[i];
    bool ours = lock && lock->vlen == c->len[4] &&
                memcmp(lock->bytes + lock->klen, c->arg[4], lock->vlen) == 0;
    if (ours && sr_num(c->arg[5]) == 0) sr_unlink(db, now, c->arg[3], c->len[3]);
    else if (ours)
        sr_set(db, now, c->arg[3], c->len[3], c->arg[4], c->len[4],
               now + sr_num(c->arg[5]) * ZC_MILLISECOND);
    sr_int(o, ours);
}

/* "<gen>-<position>" */
static inline void sr_id(const char *s, uint64_t *gen, uint64_t *pos) {
    char *end;
    *gen = strtoull(s, &end, 10);
    *pos = *end == '-' ? sr_num(end + 1) : 0;
}

static inline void sr_range(sr_log *db, const char *from, bool after, const char *to, size_t most,
                            sr_out *o) {
    uint64_t g, p, to_g = UINT64_MAX, to_p = UINT64_MAX;
    size_t first = 0, n = 0;
    sr_id(from, &g, &p);
    if (strcmp(to, "+") != 0) sr_id(to, &to_g, &to_p);
    for (; first < db->entries; first++) {
        const sr_entry *e = db->log[first];
        if (e->gen > g || (e->gen == g && e->pos >= p + after)) break;
    }
    while (n < most && first + n < db->entries) {
        const sr_entry *e = db->log[first + n];
        if (e->gen > to_g || (e->gen == to_g && e->pos > to_p)) break;
        n++;
    }
    if (after && n == 0) {
        sr_bytes(o, "*-1\r\n", 5);
        return;
    }
    if (after) { /* XREAD */
        sr_array(o, 1);
        sr_array(o, 2);
        sr_bulk_text(o, "log");
    }
    sr_array(o, n);
    for (size_t i = 0; i < n; i++) sr_reply_entry(db->log[first + i], o);
}

static inline void sr_del(sr_db *db, uint64_t now, const char *key, size_t n) {
    int hash = sr_hash_of(key);
    if (hash >= 0) sr_hash_del(&sr_log_of(db, key)->tags[hash]);
    else if (strcmp(sr_name(key), "log") == 0) sr_log_del(sr_log_of(db, key));
    else sr_unlink(db, now, key, n);
}

/* SET key value [NX] [PX ms] */
static inline void sr_exec_set(sr_db *db, uint64_t now, const sr_cmd *c, sr_out *o) {
    uint64_t expires = UINT64_MAX;
    bool nx = false;
    for (int i = 3; i < c->argc; i++) {
        if (sr_is(c, i, "NX")) nx = true;
        if (sr_is(c, i, "PX")) expires = now + sr_num(c->arg[i + 1]) * ZC_MILLISECOND;
    }
    if (nx && sr_find(db, now, c->arg[1], c->len[1]) != SIZE_MAX) {
        sr_nil(o);
        return;
    }
    sr_set(db, now, c->arg[1], c->len[1], c->arg[2], c->len[2], expires);
    sr_line(o, '+', "OK");
}

static inline void sr_exec_hmget(sr_db *db, const sr_cmd *c, sr_out *o) {
    sr_hash *h = &sr_log_of(db, c->arg[1])->tags[sr_hash_of(c->arg[1]) == 1];
    sr_array(o, (size_t)c->argc - 2);
    for (int i = 2; i < c->argc; i++) {
        const sr_field *f = sr_field_of(h, c->arg[i], c->len[i]);
        if (f) sr_bulk_number(o, f->value);
        else sr_nil(o);
    }
}

/* The fields of `holds`, each kept as a string whose key is the hash's, a space, and the field. */
static inline void sr_exec_holds(sr_db *db, uint64_t now, const sr_cmd *c, sr_out *o) {
    char key[256];
    size_t klen = c->len[1] + 1, fields = 0;
    int n = snprintf(key, sizeof key, "%s %s", c->arg[1], c->argc > 2 ? c->arg[2] : "");
    if (n < 0 || (size_t)n >= sizeof key) abort();
    if (sr_is(c, 0, "HSET")) {
        sr_set(db, now, key, (size_t)n, c->arg[3], c->len[3], UINT64_MAX);
        sr_int(o, 1);
        return;
    }
    if (sr_is(c, 0, "HDEL")) {
        sr_int(o, sr_unlink(db, now, key, (size_t)n));
        return;
    }
    for (int pass = 0; pass < 2; pass++) {
        if (pass) sr_array(o, 2 * fields);
        for (size_t i = 0; i < db->n; i++) {
            const sr_string *s = db->strings[i];
            if (s->klen <= klen || memcmp(s->bytes, key, klen) != 0) continue;
            fields += pass == 0;
            if (!pass) continue;
            sr_bulk(o, s->bytes + klen, s->klen - klen);
            sr_bulk(o, s->bytes + s->klen, s->vlen);
        }
    }
}

/* Does it write? Then replicas get it, and a master without its replicas refuses it. */
static inline bool sr_writes(const sr_cmd *c) {
    static const char *const words[] = {"SET",     "UNLINK",   "PEXPIRE", "EVAL",
                                        "EVALSHA", "FLUSHALL", "DEL",     "XTRIM",
                                        "XDEL",    "HSET",     "HDEL"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (sr_is(c, 0, words[i])) return true;
    return false;
}

/* One command at `now`; `script`: what EVAL or EVALSHA means. */
static inline void sr_exec(sr_db *db, uint64_t now, const sr_cmd *c, zc__redis_script script,
                           sr_out *o) {
    if (script != ZC__NO_SCRIPT) {
        sr_script(db, now, script, c, o);
    } else if (sr_is(c, 0, "GET")) {
        sr_reply_get(db, now, c->arg[1], c->len[1], o);
    } else if (sr_is(c, 0, "MGET")) {
        sr_array(o, (size_t)c->argc - 1);
        for (int i = 1; i < c->argc; i++) sr_reply_get(db, now, c->arg[i], c->len[i], o);
    } else if (sr_is(c, 0, "SET")) {
        sr_exec_set(db, now, c, o);
    } else if (sr_is(c, 0, "UNLINK")) {
        sr_int(o, sr_unlink(db, now, c->arg[1], c->len[1]));
    } else if (sr_is(c, 0, "PEXPIRE")) {
        size_t i = sr_find(db, now, c->arg[1], c->len[1]);
        sr_int(o, i != SIZE_MAX);
        if (i == SIZE_MAX) return;
        sr_string *s = db->strings[i];
        s->refs++;
        sr_set(db, now, c->arg[1], c->len[1], s->bytes + s->klen, s->vlen,
               now + sr_num(c->arg[2]) * ZC_MILLISECOND);
        sr_string_free(s);
    } else if (sr_is(c, 0, "HMGET")) {
        sr_exec_hmget(db, c, o);
    } else if (sr_is(c, 0, "HSET") || sr_is(c, 0, "HDEL") || sr_is(c, 0, "HGETALL")) {
        sr_exec_holds(db, now, c, o);
    } else if (sr_is(c, 0, "XREAD") && sr_is(c, 3, "STREAMS")) { /* XREAD COUNT n STREAMS key id */
        sr_range(sr_log_of(db, c->arg[4]), c->arg[5], true, "+", sr_num(c->arg[2]), o);
    } else if (sr_is(c, 0, "XRANGE")) { /* XRANGE key from to [COUNT n] */
        sr_range(sr_log_of(db, c->arg[1]), c->arg[2], false, c->arg[3],
                 c->argc > 5 ? sr_num(c->arg[5]) : SIZE_MAX, o);
    } else if (sr_is(c, 0, "FLUSHALL")) {
        sr_empty(db);
    } else if (sr_is(c, 0, "DEL")) {
        sr_del(db, now, c->arg[1], c->len[1]);
    } else if (sr_is(c, 0, "XTRIM")) { /* XTRIM key n */
        sr_log *l = sr_log_of(db, c->arg[1]);
        for (size_t most = sr_num(c->arg[2]); l->entries > most; l->entries--) {
            sr_entry_free(l->log[0]);
            memmove(l->log, l->log + 1, (l->entries - 1) * sizeof *l->log);
        }
    } else if (sr_is(c, 0, "XDEL")) { /* XDEL key n: the n-th from the end */
        size_t n = sr_num(c->arg[2]) + 1;
        sr_log *l = sr_log_of(db, c->arg[1]);
        if (n > l->entries) return;
        sr_entry **at = &l->log[l->entries-- - n];
        sr_entry_free(*at);
        memmove(at, at + 1, (n - 1) * sizeof *at);
    } else if (sr_is(c, 0, "LRANGE")) {
        sr_array(o, 0);
    } else if (sr_is(c, 0, "LTRIM")) {
        sr_line(o, '+', "OK");
    } else if (sr_is(c, 0, "ZADD") || sr_is(c, 0, "ZREMRANGEBYSCORE")) {
        sr_int(o, 0);
    } else {
        sr_line(o, '-', "ERR unknown command");
    }
}

#endif
