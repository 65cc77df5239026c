/* linear.h: is a history of concurrent calls what a sequential cache could have answered?
 *
 *   Idea        Each call is a step with the moments of its call and its return. The history is
 *               linearizable if one moment within each step can be chosen at which it took effect,
 *               such that a sequential cache gives these very answers (Herlihy and Wing 1990).
 *               The search tries the steps that may come next, one after the other (Wing and Gong
 *               1993), and never twice the same set of steps done with the same state (Lowe 2017).
 *   Steps       What takes effect at more than one moment is several steps: a writer writes to the
 *               source, then invalidates; a filler begins, reads the source, then stores. A
 *               transaction holds, writes to the source, then releases: both are invalidations, and
 *               in between nothing is stored.
 *   Fill        Each value has a number of its own, that of the fill that made it: a read names the
 *               one fill that it saw.
 *   The cache   Per key: what the source holds, what it held at the last invalidation, which fill
 *               is stored, which flight is open. A value that was stored, and was not killed,
 *               replaced or deleted, is there: a miss needs a reason, unless the history is `lossy`
 *               (evictions, deadlines, pruning), and then the value does not come back. In a
 *               `tiered` one it may: a storage is not asked while the key is being written there.
 *   Partitions  Keys that no invalidation joins are searched apart; linearizability is local. */
#ifndef LINEAR_H
#define LINEAR_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "zoocache.h"

enum {
    LIN_KEYS = 3,
    LIN_STEPS = 64,          /* of a history: a bit each */
    LIN_FILLS = 64,          /* number 0 is none */
    LIN_STATES = 1 << 22,    /* looked at, at most */
    LIN_TIMELESS = UINT8_MAX /* the version of a value that was not read from the source */
};

typedef enum lin_kind {
    LIN_WRITE,      /* key, version: the source is changed */
    LIN_READ,       /* key, version: what a filler found there */
    LIN_INVALIDATE, /* keys */
    LIN_HOLD,       /* keys: zc_hold() */
    LIN_RELEASE,    /* keys: zc_hold_end() */
    LIN_BEGIN,      /* key, fill: zc_begin() */
    LIN_PUT,        /* key, fill; good: stored, else refused */
    LIN_DEL,        /* key; good: there was something */
    LIN_GET,        /* key, fill: what it got, 0: a miss */
    LIN_FETCH,      /* the same without a loader of its own; not good: the loader's error */
    LIN_LEAD,       /* key, fill: a miss whose loader is about to run */
    LIN_END         /* key, fill; good: the loader gave a value */
} lin_kind;

typedef struct lin_step {
    uint64_t call, ret; /* one counter's, all different */
    lin_kind kind;
    uint8_t thread, keys /* a bit each */, fill, version;
    bool good;
} lin_step;

typedef struct lin_history {
    lin_step step[LIN_STEPS];
    unsigned n;
    bool lossy, tiered; /* tiered: lossy, too */
} lin_history;

typedef struct lin_key {
    uint8_t source, floor; /* versions: now, and at the last invalidation */
    uint8_t entry, flight; /* fills: stored; being computed */
    uint8_t weak;   /* an invalidation was under way when the entry was stored: it may be dead */
    uint8_t corpse; /* what is dead may still lie there, for zc_del() to find */
    uint8_t held;   /* by so many */
} lin_key;

typedef struct lin_state {          /* no padding: compared as bytes */
    uint64_t done;                  /* steps */
    uint64_t begun, killed, fenced; /* fills: running; of them, invalidated since, or overtaken */
    lin_key key[LIN_KEYS];
    uint8_t zero[32 - LIN_KEYS * sizeof(lin_key) % 32];
} lin_state;

typedef struct lin_search {
    const lin_history *h;
    uint64_t steps;             /* of this partition */
    uint64_t overlapped;        /* steps that ran while their key was being invalidated */
    uint64_t met_hold;          /* of them, those where that was by a hold */
    uint64_t fills[LIN_KEYS];   /* of each key */
    uint8_t version[LIN_FILLS]; /* of each fill */
    uint8_t order[LIN_STEPS], best[LIN_STEPS]; /* the longest that was possible is best */
    unsigned nbest;
    lin_state *seen; /* a hash table; no step done: free */
    size_t nseen, cap;
} lin_search;

typedef enum lin_verdict { LIN_GOOD, LIN_BAD, LIN_UNDECIDED } lin_verdict;

/* ---- the sequential cache ---- */

static inline uint64_t lin_bit(unsigned i) { return UINT64_C(1) << i; }

/* Nothing fresh is there. False: there was. */
static inline bool lin_miss(lin_key *k, const lin_history *h) {
    if (h->tiered) return true;
    if (k->entry && !k->weak && !h->lossy) return false;
    k->corpse |= k->entry != 0;
    k->entry = k->weak = 0;
    return true;
}

static inline void lin_set(lin_key *k, uint8_t fill, bool weak, bool corpse) {
    k->entry = fill;
    k->weak = fill && weak;
    k->corpse = corpse;
}

/* `holds`: one more, or less, does. */
static inline void lin_invalidate(const lin_search *x, unsigned keys, int holds, lin_state *s) {
    for (unsigned i = 0; i < LIN_KEYS; i++) {
        lin_key *k = &s->key[i];
        if (!(keys >> i & 1)) continue;
        k->held = (uint8_t)(k->held + holds);
        k->floor = k->source;
        lin_set(k, 0, false, k->corpse || k->entry);
        s->killed |= s->begun & x->fills[i];
    }
}

/* A refused put deletes; a put whose fill was invalidated while it ran may store what is dead, and
 * one that met the beginning or the end of a hold may be refused. */
static inline bool lin_put(const lin_search *x, const lin_step *p, bool overlapped, lin_key *k,
                           lin_state *s) {
    uint64_t me = lin_bit(p->fill);
    bool dead = s->killed & me || k->held;
    bool may_refuse = dead || x->met_hold & lin_bit((unsigned)(p - x->h->step));
    if (!x->h->lossy && (p->good ? dead && !overlapped : !may_refuse)) return false;
    lin_set(k, p->good && !dead ? p->fill : 0, overlapped, p->good && dead);
    s->begun &= ~me;
    s->killed &= ~me;
    return true;
}

static inline bool lin_del(const lin_search *x, const lin_step *p, lin_key *k) {
    bool may = p->good ? k->entry || k->corpse : !k->entry || k->weak;
    lin_set(k, 0, false, false);
    return may || x->h->lossy;
}

/* A hit; or, for a fetch, what a flight is about to give, if nothing has overtaken it yet. */
static inline bool lin_read(const lin_search *x, const lin_step *p, lin_key *k,
                            const lin_state *s) {
    bool flies = p->kind == LIN_FETCH && p->fill && k->flight == p->fill;
    if (!p->good) return flies;
    if (!p->fill) return lin_miss(k, x->h);
    if (x->version[p->fill] < k->floor) return false;
    return k->entry == p->fill || (flies && !((s->killed | s->fenced) & lin_bit(p->fill)));
}

static inline bool lin_lead(const lin_search *x, const lin_step *p, lin_key *k, lin_state *s) {
    if (k->flight || !lin_miss(k, x->h)) return false;
    k->flight = p->fill;
    s->begun |= lin_bit(p->fill);
    return true;
}

static inline bool lin_end(const lin_step *p, bool overlapped, lin_key *k, lin_state *s) {
    uint64_t me = lin_bit(p->fill);
    if (k->flight != p->fill) return false;
    k->flight = 0;
    if (p->good && !(s->fenced & me)) {
        if (s->killed & me) k->corpse = 1;
        else if (!k->held) lin_set(k, p->fill, overlapped, false);
    }
    s->begun &= ~me;
    s->killed &= ~me;
    s->fenced &= ~me;
    return true;
}

/* Does step i to the state; false: it could not have answered what it did. */
static inline bool lin_apply(const lin_search *x, unsigned i, lin_state *s) {
    const lin_step *p = &x->h->step[i];
    unsigned at = (unsigned)__builtin_ctz(p->keys);
    lin_key *k = &s->key[at];
    bool overlapped = x->overlapped & lin_bit(i);
    s->done |= lin_bit(i);
    /* Puts and dels, refused ones too, overtake the key's flight. */
    if (p->kind == LIN_PUT || p->kind == LIN_DEL) s->fenced |= k->flight ? lin_bit(k->flight) : 0;
    switch (p->kind) {
    case LIN_WRITE: return ++k->source == p->version;
    case LIN_READ: return k->source == p->version;
    case LIN_INVALIDATE: lin_invalidate(x, p->keys, 0, s); return true;
    case LIN_HOLD: lin_invalidate(x, p->keys, 1, s); return true;
    case LIN_RELEASE: lin_invalidate(x, p->keys, -1, s); return true;
    case LIN_BEGIN: s->begun |= lin_bit(p->fill); return true;
    case LIN_PUT: return lin_put(x, p, overlapped, k, s);
    case LIN_DEL: return lin_del(x, p, k);
    case LIN_LEAD: return lin_lead(x, p, k, s);
    case LIN_END: return lin_end(p, overlapped, k, s);
    default: return lin_read(x, p, k, s);
    }
}

/* ---- the search ---- */

/* The place of a state in the table: where it is, or where it would be. */
static inline lin_state *lin_place(const lin_search *x, const lin_state *s) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325), word[sizeof *s / 8];
    memcpy(word, s, sizeof word);
    for (size_t i = 0; i < sizeof word / sizeof *word; i++) {
        hash = (hash ^ word[i]) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 29;
    }
    size_t at = hash & (x->cap - 1);
    while (x->seen[at].done && memcmp(&x->seen[at], s, sizeof *s) != 0)
        at = (at + 1) & (x->cap - 1);
    return &x->seen[at];
}

static inline void lin_grow(lin_search *x) {
    lin_state *old = x->seen;
    size_t n = x->cap;
    x->cap = n ? 2 * n : 1024;
    x->seen = (lin_state *)calloc(x->cap, sizeof *x->seen);
    if (!x->seen) abort();
    for (size_t i = 0; i < n; i++)
        if (old[i].done) *lin_place(x, &old[i]) = old[i];
    free(old);
}

/* False: this state has led nowhere before. */
static inline bool lin_is_new(lin_search *x, const lin_state *s) {
    if (4 * x->nseen >= 3 * x->cap) lin_grow(x);
    lin_state *at = lin_place(x, s);
    if (at->done) return false;
    *at = *s;
    x->nseen++;
    return true;
}

/* Can the steps that are left follow? `depth` of them are done. */
static inline bool lin_go(lin_search *x, const lin_state *s, unsigned depth) {
    uint64_t left = x->steps & ~s->done, first_return = UINT64_MAX;
    if (depth > x->nbest) memcpy(x->best, x->order, x->nbest = depth);
    if (!left) return true;
    if (s->done && (x->nseen >= LIN_STATES || !lin_is_new(x, s))) return false;
    for (uint64_t m = left; m; m &= m - 1) {
        const lin_step *p = &x->h->step[__builtin_ctzll(m)];
        if (p->ret < first_return) first_return = p->ret;
    }
    for (uint64_t m = left; m; m &= m - 1) {
        unsigned i = (unsigned)__builtin_ctzll(m);
        lin_state next = *s;
        x->order[depth] = (uint8_t)i;
        if (x->h->step[i].call < first_return && lin_apply(x, i, &next) &&
            lin_go(x, &next, depth + 1))
            return true;
    }
    return false;
}

/* What the steps of some keys say once and for all. */
static inline void lin_prepare(lin_search *x, unsigned keys) {
    const lin_history *h = x->h;
    memset(x->version, LIN_TIMELESS, sizeof x->version);
    for (unsigned i = 0; i < h->n; i++) {
        const lin_step *p = &h->step[i];
        if (!(p->keys & keys)) continue;
        x->steps |= lin_bit(i);
        if (p->kind == LIN_READ) x->version[p->fill] = p->version;
        if (p->fill) x->fills[__builtin_ctz(p->keys)] |= lin_bit(p->fill);
        for (unsigned j = 0; j < h->n; j++) {
            const lin_step *q = &h->step[j];
            bool meet = q->call < p->ret && p->call < q->ret;
            if (q->kind < LIN_INVALIDATE || q->kind > LIN_RELEASE || !(q->keys & p->keys) || !meet)
                continue;
            x->overlapped |= lin_bit(i);
            if (q->kind != LIN_INVALIDATE) x->met_hold |= lin_bit(i);
        }
    }
}

/* ---- for people ---- */

static inline void lin_print_step(const lin_step *p) {
    static const char *const name[] = {"write", "read source", "invalidate", "hold",
                                       "release", "begin", "put", "del",
                                       "get", "fetch", "lead", "end"};
    printf("  %4" PRIu64 "..%-4" PRIu64 " thread %d  %-11s", p->call, p->ret, p->thread,
           name[p->kind]);
    for (unsigned i = 0; i < LIN_KEYS; i++)
        if (p->keys >> i & 1) printf(" k%u", i);
    if (p->kind == LIN_WRITE || p->kind == LIN_READ) printf(" version %d", p->version);
    if (p->fill) printf(" fill %d", p->fill);
    else if (p->kind == LIN_GET || p->kind == LIN_FETCH) printf(" miss");
    if (p->kind == LIN_DEL && !p->good) printf(" nothing there");
    else if (!p->good) printf(p->kind == LIN_PUT ? " refused" : " error");
}

/* The steps of a partition as they were called; which of them can be explained, in what order. */
static inline void lin_print(const lin_search *x) {
    uint64_t left = x->steps;
    printf("not linearizable%s; (n): the n-th of the longest order found\n",
           x->h->tiered ? " (tiered)" : x->h->lossy ? " (lossy)" : "");
    while (left) {
        unsigned first = (unsigned)__builtin_ctzll(left), rank = 0;
        for (uint64_t m = left; m; m &= m - 1) {
            unsigned i = (unsigned)__builtin_ctzll(m);
            if (x->h->step[i].call < x->h->step[first].call) first = i;
        }
        left &= ~lin_bit(first);
        while (rank < x->nbest && x->best[rank] != first) rank++;
        lin_print_step(&x->h->step[first]);
        if (rank < x->nbest) printf("  (%u)\n", rank + 1);
        else printf("  <-- unexplained\n");
    }
    fflush(stdout);
}

/* ---- verdict ---- */

static inline lin_verdict lin_check_keys(const lin_history *h, unsigned keys, bool print) {
    lin_search x;
    lin_state start;
    memset(&x, 0, sizeof x);
    memset(&start, 0, sizeof start);
    x.h = h;
    lin_prepare(&x, keys);
    lin_verdict v = lin_go(&x, &start, 0) ? LIN_GOOD : LIN_BAD;
    if (v == LIN_BAD && x.nseen >= LIN_STATES) v = LIN_UNDECIDED;
    if (v == LIN_BAD && print) lin_print(&x);
    free(x.seen);
    return v;
}

/* LIN_GOOD: linearizable. Threads: any. */
static inline lin_verdict lin_check(const lin_history *h, bool print) {
    unsigned left = (1u << LIN_KEYS) - 1;
    while (left) {
        unsigned keys = left & -left, before = 0;
        while (keys != before) {
            before = keys;
            for (unsigned i = 0; i < h->n; i++)
                if (h->step[i].keys & keys) keys |= h->step[i].keys;
        }
        lin_verdict v = lin_check_keys(h, keys, print);
        if (v != LIN_GOOD) return v;
        left &= ~keys;
    }
    return LIN_GOOD;
}

#endif
