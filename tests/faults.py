#!/usr/bin/env python3
"""Plants faults in copies of zoocache.h: s_linear must find a history, x_simulate a seed, that shows
each of them, t_hooks, t_holds, t_place, t_seal, t_seal_bus or s_readers must fail.

faults.py DIRECTORY PROGRAM [PART OF A NAME]: builds and runs in DIRECTORY with $CC. The text that a
fault replaces must be in the header once. The last line is the count."""

import concurrent.futures
import os
import pathlib
import random
import subprocess
import sys

LINEAR = {
    "a flight begins after its loader": (
        "        rc = loader(fill, user);",
        "        rc = loader(fill, user);\n        fill->begin = fill->flight->begin = zc__published(&c->trie);",
    ),
    "a put does not look at its begin": ("bool dead = begin && begin < published &&", "bool dead = 0 &&"),
    "a put that is refused leaves what is there": ("(void)zc_del(c, key);", "(void)key;"),
    "a put or del does not overtake a flight": ("if (f) f->fenced = true;", "(void)f;"),
    "a flight stores what was invalidated meanwhile": (
        "bool fresh = !zc__trie_killer(&c->trie, fill->deps, fill->ndeps, fill->begin);",
        "bool fresh = true;",
    ),
    "a follower gets what was invalidated before it joined": (
        "if (fill->begin <= f->good_up_to ?",
        "if (true ?",
    ),
    "a follower gets what was overtaken before it joined": ("? fill->unfenced ||", "? true ||"),
    "two lead at once": (
        "st->f = s->flights.count ? zc__flight_find(s, st->hash, st->key) : NULL;",
        "st->f = NULL;",
    ),
    "a version is published before it is in its node": (
        "    for (size_t i = 0; i < n; i++) {\n        zc__atomic_store_rel(&nodes[i]->version, v);",
        "    if (nodes[0]->parent) {\n        zc__atomic_store_rel(&t->published, v);\n        zc__yield();\n    }\n"
        "    for (size_t i = 0; i < n; i++) {\n        zc__atomic_store_rel(&nodes[i]->version, v);",
    ),
    "tags of one call are published one by one": (
        "        zc__atomic_store_rel(&nodes[i]->version, v);",
        "        zc__atomic_store_rel(&nodes[i]->version, v);\n"
        "        if (i + 1 < n && nodes[i]->parent) {\n            zc__atomic_store_rel(&t->published, v);\n            zc__yield();\n"
        "            v = zc_hlc_now(t->hlc);\n        }",
    ),
    "a put takes its begin when it stores": (
        "zc__entry *e = zc__fill_entry(fill, key, value, published, 0);",
        "zc__entry *e = zc__fill_entry(fill, key, value, published, 0);\n"
        "    if (e) e->begin = zc__published(&c->trie);",
    ),
    "a walk does not climb": (
        "for (; n; n = n->parent) {\n        uint64_t v = zc__atomic_load_acq(&n->version);",
        "for (; n; n = NULL) {\n        uint64_t v = zc__atomic_load_acq(&n->version);",
    ),
    "a hold is marked after it is stamped": (
        "    zc__hold_add(c, h);\n    uint64_t v = zc__trie_stamp(&c->trie, h->nodes.list, h->nodes.n, 0);",
        "    uint64_t v = zc__trie_stamp(&c->trie, h->nodes.list, h->nodes.n, 0);\n    zc__yield();\n"
        "    zc__hold_add(c, h);",
    ),
    "the mark of a hold goes before its end is stamped": (
        "    int rc = ZC_OK;\n    uint64_t v = zc__trie_stamp(&cache->trie, h->nodes.list, h->nodes.n, 0);",
        "    int rc = ZC_OK;\n    zc__hold_paint(h, 0, 0, ZC__HELD);\n    zc__yield();\n"
        "    uint64_t v = zc__trie_stamp(&cache->trie, h->nodes.list, h->nodes.n, 0);",
    ),
    "a hold ends those of others for a moment": (
        "    for (h = c->bus.holds; h; h = h->next) zc__hold_paint(h, 0, 0, ZC__RELEASED);\n",
        "    for (h = taken; h; h = h->next) zc__hold_paint(h, 0, 0, ZC__HELD);\n"
        "    for (int i = 0; i < 20; i++) zc__yield();\n"
        "    for (h = c->bus.holds; h; h = h->next) zc__hold_paint(h, 0, ZC__HELD, ZC__RELEASED);\n",
    ),
    "an entry is dead when anything was invalidated": (
        "if (ZC__LIKELY(newest <= begin)) return NULL;",
        "if (begin == zc__published(t)) return NULL;",
    ),
}

# Those that it takes a storage to show, written through or behind.
THROUGH = {
    "the storage is read while the key is written there": (
        "!zc__store_readable(c, &lease, &epoch) || zc__store_is_old(c, fill->flight)",
        "!zc__store_readable(c, &lease, &epoch)",
    ),
}
BEHIND = {
    "the storage is read while what is newer waits": (
        "if (zc__is_writing(f) || zc__behind_has(c, zc__flight_key(f))) return true;",
        "",
    ),
    "what leaves the queue is not marked while it is written": (
        "if (goes) zc__written(s, &w);\n    if (rc < 0 && !later)",
        "if (rc < 0 && !later)",
        "        zc__writes(s, &w, hash, true);\n        w.state",
        "        w.state",
    ),
    "a deletion does not empty the queue": (
        "        zc__behind_forget(c, &key, &spent);\n        rc = e ?",
        "        if (e) zc__behind_forget(c, &key, &spent);\n        rc = e ?",
    ),
}

# A fault may be several replacements: old, new, old, new, ...
SIMULATION = {
    "no lease": (
        "return lease && (now <= lease || now - lease <= c->bus.serve_for);",
        "return lease || now;",
    ),
    "a lease is counted from the answer": (
        "if (reader.epoch == b->epoch) zc__atomic_store_rel(&b->lease, since ? since : 1);",
        "if (reader.epoch == b->epoch) zc__atomic_store_rel(&b->lease, zc__mono(&c->clock) + since * 0);",
    ),
    "the lease is not asked for again with the value in hand": (
        "if (rc == ZC_MISS || rc < 0 || zc__bus_holds(c, lease)) return rc;",
        "return rc;",
    ),
    "the entry at the cursor is not looked at": (
        "int proof = zc__redis_at_cursor(r, log, range->element[0], position);",
        "int proof = ZC_OK;",
    ),
    "neither the nonce nor the replication id is looked at": (
        "bool same = r->nonces[i] == e.nonce, ours",
        "bool same = true, ours",
        "bool other = r->nonce_at[i] == e->position + 1 && r->nonces[i] != e->nonce;",
        "bool other = false;",
        "return id.len ? XXH3_64bits(id.ptr, id.len) | 1 : 0;",
        "return id.len ? 1 : 0;",
    ),
    "the replication id is not looked at": (
        "return id.len ? XXH3_64bits(id.ptr, id.len) | 1 : 0;",
        "return id.len ? 1 : 0;",
    ),
    "the replication id is not in the identity": (
        "*identity = XXH3_64bits(&log, sizeof log) | 1;",
        "*identity = XXH3_64bits(&log, 2 * sizeof log.gen) | 1;",
    ),
    "the run id is not compared": (
        "if (rc == ZC_OK && reader && r->reader.run != log.run) rc = ZC_RETRY;",
        "",
    ),
    "the run id is not in the identity": (
        "*identity = XXH3_64bits(&log, sizeof log) | 1;",
        "*identity = XXH3_64bits(&log, sizeof log.gen) | 1;",
    ),
    "no fence": ("if (r->replicas) zc__req_cmd(q, \"SET $fence", "if (0) zc__req_cmd(q, \"SET $fence"),
    "gaps go unnoticed": (
        "if (e.gen != log.gen || e.position != position + 1 + i) return ZC_RETRY;",
        "if (e.gen != log.gen) return ZC_RETRY;",
        "if (reader->epoch != b->epoch || position > b->cursors[reader->log] + 1) rc = ZC_RETRY;",
        "if (reader->epoch != b->epoch) rc = ZC_RETRY;",
        "else if (reader->full) rc = ZC_E_NOMEM;",
        "else if (b->cursors[reader->log] = position - 1, reader->full) rc = ZC_E_NOMEM;",
        "return newest < position + range->elements ? proof : ZC_RETRY;",
        "return proof;",
    ),
    "a fill begins after its loader": (
        "        rc = loader(fill, user);",
        "        rc = loader(fill, user);\n        fill->begin = fill->flight->begin = zc__published(&c->trie);",
    ),
    "a record's begin is not cut down to the cursor": (
        "*position = *mark < high ? *mark : high;",
        "*position = *mark;",
        "if (unacknowledged && unacknowledged < *begin) *begin = unacknowledged; /* N3 */",
        "",
    ),
    "records of another log are believed": (
        "bool ours = b->attached && r->generation == b->identity && sum >= b->trusted;",
        "bool ours = b->attached;",
    ),
    "a node that joins late does not ask for versions": (
        "return *mark >= low;",
        "return true;",
    ),
    "an attach flushes nothing": (
        "zc__bus_rebase(b, zc__trie_stamp(&c->trie, &root, 1, 0));",
        "zc__bus_rebase(b, zc__trie_stamp(&c->trie, &root, 0, 0));",
    ),
    "what is written late passes for the new log's": (
        "return attached && !zc__trie_killer(&c->trie, zc__entry_deps(e), e->ndeps, begin);",
        "return attached;",
    ),
    "records pass while an invalidation here is not acknowledged": (
        "if (unacknowledged && unacknowledged < *begin) *begin = unacknowledged; /* N3 */",
        "",
    ),
    "what is not acknowledged is forgotten at an attach": (
        "zc__monitor_unlock(&b->apply);\n    zc__outbox_stamp(c);",
        "zc__monitor_unlock(&b->apply);\n    b->unacknowledged = 0;",
    ),
    "what the log did not take is not kept": (
        "        zc__outbox_add(c, tags, n);\n        (void)zc__invalidate_text(c, tags, n, false);\n"
        "        if (first",
        "        if (first",
    ),
    "a record's position is made of a version": (
        "r->begin = b->cursor;",
        "uint64_t at = (begin - b->base) >> 16;\n    if (at > b->cursor) at = b->cursor;\n"
        "    r->begin = at;",
        "zc__put_le(mark + 8 * i, b->cursors[i], 8);",
        "zc__put_le(mark + 8 * i, b->logs > 1 && b->cursor - at < ZC__HISTORY"
        " ? b->history[at % ZC__HISTORY * b->logs + i] : 0, 8);",
        "return attached && !zc__trie_killer(&c->trie, zc__entry_deps(e), e->ndeps, begin);",
        "return attached && begin >= zc__bus_local(b, b->base_at);",
        "if (v != local) zc__bus_rebase(b, v);",
        "(void)local;",
    ),
    "who is behind takes the place of what is newer": (
        "if (zc__redis_is_attached(r, log) && e->position >= r->nonce_at[i]) {",
        "if (zc__redis_is_attached(r, log)) {",
        "return !ours ? ZC_RETRY : later ? ZC_MORE : known && same ? ZC_OK : ZC_RETRY;",
        "(void)later;\n    return !ours || !known ? ZC_MORE : same ? ZC_OK : ZC_RETRY;",
    ),
    "reads wait for half of T": ("wait = t / 3,", "wait = t / 2,"),
    "shards: a mark is taken for the sum of its positions": (
        "bool known = zc__bus_locate(b, mark, which, &position);",
        "position = 0;\n    for (unsigned i = 0; i < b->logs; i++) position += mark[i];\n"
        "    bool known = position >= b->base_at;\n"
        "    if (position > b->cursor) position = b->cursor;",
    ),
    "shards: a node that joins late does not ask for versions": (
        "if (!zc__bus_within(b, low, mark, which)) return false;",
        "",
    ),
    "shards: one log is asked for the versions of all": (
        "if (which >> i & 1) rc = zc__bus_ask(c, deps, ndeps, i, mark[i]);",
        "if (which >> i & 1) {\n            rc = zc__bus_ask(c, deps, ndeps, i, mark[i]);\n"
        "            break;\n        }",
    ),
    "shards: the latest proof renews the lease": ("if (reader.log == 0) since = proof;", "since = proof;"),
    "shards: a log that cannot be read is passed over": (
        "for (; reader.log < b->logs && rc == ZC_OK; reader.log++) {",
        "for (; reader.log < b->logs && (rc == ZC_OK || (rc < 0 && reader.log > 1)); reader.log++) {",
        "if (rc < 0) return zc__bus_fault(c, rc);\n    if (rc == ZC_OK) {",
        "if (rc < 0 && reader.log == 1) return zc__bus_fault(c, rc);\n    if (rc <= 0) {",
    ),
    "shards: everything is told to the first log alone": (
        "if (all && count == marked) continue;",
        "if (all ? !count : log) continue;",
    ),
    "shards: a tag's log is not that of its first segment": (
        "if (colon) tag.len = (size_t)(colon - (const char *)tag.ptr);",
        "(void)colon;",
    ),
    "shards: the identity is the first log's": (
        "XXH3_64bits(ids, b->logs * sizeof *ids) | 1;",
        "ids[0];",
    ),
    "an entry that is deleted before it was heard goes unnoticed": (
        "return newest < position + range->elements ? proof : ZC_RETRY;",
        "return proof;",
    ),
    "the storage's breaker never closes": (
        "zc__atomic_store_rel(&c->store_epoch, zc__store_epoch(c) + 1);",
        "",
    ),
}

# Calls of the user's code under a lock, and threads that wait for themselves: t_hooks ends by an
# assertion, by a failed check, or not at all.
HOOKS = {
    "what is heard is told while the log is read": (
        "    zc__timed_unlock(&c->bus.reading);\n    zc__deferred_report(c, &deferred);\n",
        "    zc__deferred_report(c, &deferred);\n    zc__timed_unlock(&c->bus.reading);\n",
    ),
    "what gives way is told while the log is read": (
        "bool made = zc__nodes_acquire(c, tags, n, true, &nodes);",
        "bool made = zc__nodes_acquire(c, tags, n, false, &nodes);",
    ),
    "what is heard and finds no memory is not told": ("if (!room) deferred->others = v;", ""),
    "more is heard than can be told at once": (
        "(!has || has + size <= ZC__DEFERRED_BYTES) &&",
        "!has &&",
        "reader->full = gives || (!room && any);",
        "reader->full = false && any && gives;",
    ),
    "the bus's fault is said while the log is read": (
        "zc__atomic_store_rlx(&c->bus.fault, (int32_t)rc);",
        'zc__log_write(c, ZC_LOG_WARN, "the bus has failed", zc_strerror(rc));',
    ),
    "the breaker is told by whose turn it is to write": (
        "        zc__atomic_store_rlx(&c->store_fault, (int32_t)rc);",
        '        zc__log_write(c, ZC_LOG_WARN, "the storage", zc_strerror(rc));',
    ),
    "housekeeping tells while it has its turn": (
        "            zc__spin_end(&c->house);\n",
        "            zc__garbage_free(c, garbage);\n            garbage = NULL;\n"
        "            zc__spin_end(&c->house);\n",
    ),
    "the bus's thread waits for itself": (
        "return b->peeks || !b->runs || zc__atomic_load_rlx(&b->self) == zc__self();",
        "return b->peeks || !b->runs;",
    ),
    "a thread waits for a flight that it runs": ("own = f->runner == zc__self();", "own = false;"),
}

# s_readers must fail.
READERS = {
    "what a reader looks at is freed": (
        "if (!seat->n || !zc__rcu_passed(c->rcu, wait)) return;",
        "(void)wait;",
    ),
    "a reader does not say that he reads": (
        "uint32_t was = zc__atomic_swap_sc(&me->in, ZC__SEAT_TAKEN);",
        "uint32_t was = me->in;",
    ),
    "seats that were never taken before are not looked at": (
        "while (used < n && !zc__atomic_cas_sc(&r->used, &used, n)) {}",
        "(void)used;\n    (void)n;",
    ),
    "an old table is freed at once": ("zc__rcu_wait(c); /* it is seldom", "/* it is seldom"),
    "a table that is not cleared is read": (
        "    zc__rcu_stop(s, ZC__TURN_TABLE);\n    s->old = s->table;",
        "    s->old = s->table;",
    ),
    "what is replaced is missed": ("        zc__rcu_stop(s, ZC__TURN_ENTRY); /*", "        /*"),
    "a reader does not ask what was invalidated": (
        "if (e->flags & ~ZC__COPIED || zc__atomic_load_rlx(&e->begin) < zc__published(&c->trie) ||",
        "if (e->flags & ~ZC__COPIED ||",
    ),
    "a reader does not look at the clock": (
        "(e->flags & ZC__COPIED & ZC__TIMED && zc__coarse(&c->clock) >= e->expires))",
        "false)",
    ),
    "a child waits for readers of its parent": ("    zc__rcu_fork(cache);\n", ""),
    "hits without the lock are not counted": (
        "if (rc == ZC_OK) zc__atomic_store_rel(&me->hits, me->hits + 1);",
        "",
    ),
    "a hit is written to its entry each time": (
        "if (ZC__UNLIKELY(hits < ZC__HITS_MAX)) zc__hits_set(e, hits + 1);",
        "e->prev += hits;",
    ),
}

# t_bus must fail.
SLEPT = {
    "the lease is not asked for again by who has copied without the lock": (
        "if (rc != ZC_RETRY && zc__bus_holds(c, lease)) return rc;",
        "if (rc != ZC_RETRY) return rc;",
    ),
    "the lease is not asked for again by who has copied what he pinned": (
        "        if (rc != ZC_OK || zc__bus_holds(c, lease)) return rc;",
        "        return rc;",
    ),
}

# t_holds must fail.
HOLDS = {
    "a fill does not look for holds": ("fits && !held && !fill->no_store", "fits && !fill->no_store"),
    "a put does not look for holds": ("if (dead || held || ", "if (dead || "),
    "a held tag does not hold what is below it": (
        "for (const zc_tag *t = deps[i]; t; t = t->parent)\n            if (zc__atomic_load_acq(&t->marks)",
        "for (const zc_tag *t = deps[i]; t; t = NULL)\n            if (zc__atomic_load_acq(&t->marks)",
    ),
    "who joins an old flight gets what is held": ("zc__bus_hides(c, st->f->started))", "false)"),
    "a hold does not invalidate": (
        "    zc__hold_add(c, h);\n    uint64_t v = zc__trie_stamp(&c->trie, h->nodes.list, h->nodes.n, 0);",
        "    zc__hold_add(c, h);\n    uint64_t v = 0;",
    ),
    "the hold of who has died does not end": ("(id ? h->id != id : now < h->until)", "(id ? h->id != id : own)"),
    "it ends early": ("h->until = zc__add_sat(zc__mono(&c->clock), lease);", "h->until = lease / 2;"),
    "its end does not invalidate": (
        "uint64_t v = zc__trie_stamp(&c->trie, h->nodes.list, h->nodes.n, 0);\n        if (rc == ZC_OK)",
        "uint64_t v = 0;\n        if (rc == ZC_OK)",
    ),
    "a hold ends those of others": (
        "    for (h = c->bus.holds; h; h = h->next) zc__hold_paint(h, 0, 0, ZC__RELEASED);\n",
        "",
    ),
    "who attaches does not ask for holds": ("if (!c->desc.bus.holds) return ZC_OK;", "return ZC_OK;"),
    "a hold is in no list": ("rc = c->desc.bus.hold(zc__bus_user(c, 0), h->id, names.list, names.n);", "rc = ZC_OK;"),
    "the lists and the log may be of two attaches": ("if (rc == ZC_OK && zc__bus_epoch(&c->bus) != epoch) rc = ZC_RETRY;", ""),
    "a child ends what its parent holds": ("h = h->next) h->own = false;", "h = h->next) (void)h;"),
    "what a dead holder has left stays": ("if (rc == ZC_OK) rc = zc__hold_forget(c, h->id);", ""),
}
HELD = [  # x_simulate finds these, too
    "a fill does not look for holds",
    "a put does not look for holds",
    "a held tag does not hold what is below it",
    "it ends early",
    "a hold is in no list",
]

# t_seal_bus must fail.
SEALED = {
    "tags are appended as they are": (
        "    int rc = zc__names_seal(c, tags, n, &names);\n    if (rc != ZC_OK) return rc;\n    rc = c->desc.bus.append(",
        "    int rc = zc__names_seal(c, tags, n, &names);\n    if (rc != ZC_OK) return rc;\n"
        "    names.list = tags;\n    names.n = n;\n    rc = c->desc.bus.append(",
    ),
    "holds are listed as they are": (
        "rc = c->desc.bus.hold(zc__bus_user(c, 0), h->id, names.list, names.n);",
        "rc = c->desc.bus.hold(zc__bus_user(c, 0), h->id, h->list, h->n);",
    ),
    "a storage keeps versions under tags": (
        "rc = c->inside.tag_put(c->inside.user, names.list, names.n, version);",
        "rc = c->inside.tag_put(c->inside.user, paths, n, version);",
    ),
    "the first key alone names what is invalidated": ("names->n = n * s->nkeys;", "names->n = n;"),
    "versions are asked for by the first key alone": (
        "rc = ask(user, names.list, names.n, names.versions);",
        "rc = ask(user, names.list, n, names.versions);",
    ),
    "a list is heard once by each key": ("if (rc == ZC_OK && by == key) {", "if (rc == ZC_OK) {"),
    "what is not sealed for us is passed over": (
        "if (rc != ZC_OK) return zc__bus_hear(user, position, NULL, 0);",
        "zc_bytes other = zc_str(\"other\");\n    if (rc != ZC_OK) return zc__bus_hear(user, position, &other, 1);",
    ),
    "a name is believed as it comes": ("CRYPTO_memcmp(again, iv, sizeof again) == 0 ?", "true ?"),
    "a sealed entry is one of plain tags": ("return zc__is_name(tags, n) ? ZC_RETRY :", "return"),
    "the log is not marked": ("zc__seals(c) && c->desc.bus.holds && !b->marked", "0"),
    "half a mark is one": ("c->bus.marked = zc__is_marked(tags, n);", "c->bus.marked = true;"),
    "who has no key does not heed the mark": ("return zc__seals(c) ? ZC_OK : ZC_E_UNKEYED;", "return ZC_OK;"),
    "nobody is told of the mark": (
        "if (rc == ZC_OK) rc = c->desc.bus.append(log, &sealed, 1, false, position, &sink);",
        "(void)position;\n    (void)sink;",
    ),
    "a hold that does not open is none": ("return rc == ZC_E_SEAL ? ZC_OK : rc;", "return ZC_OK;"),
}

# t_seal must fail.
NONCES = {
    "a child has the nonces of its parent": (
        "if (madvise(p, sizeof(zc__seal_pool), MADV_WIPEONFORK) == 0 &&",
        "if (",
    ),
    "a nonce is given twice": ("    p->left -= n;\n    memcpy(out, p->bytes", "    memcpy(out, p->bytes"),
}


# t_place must fail.
PLACE = {
    "an entry is known by its position": (
        "return l->first > last || zc__place_nonce(l, last) == zc__place_nonce(seen, last);",
        "return true;",
    ),
    "a new log has the generation of the old one": ("uint64_t gen = zc__place_random(p);", "uint64_t gen = 1;"),
    "a place needs no lease": ("return lease && (now <= lease || now - lease <= c->bus.serve_for);", "return lease;"),
    "a log that was left is believed": ("if (p->left[i] == l->gen) return false;", ""),
    "a lost answer is not looked for": ("op->id && zc__place_has(l, op->id) ? ZC_OK : ZC_PENDING;", "ZC_PENDING;"),
    "a tag that is not named any more has never been": ("position ? position - 1 : 0;", "0;"),
    "who is behind is given what there is": ("int rc = position >= l->first &&", "int rc ="),
    "a place is not tried": ("if (rc == ZC_MISS) why = zc__place_try(p, key, 'a',", "if (rc < 0) why = zc__place_try(p, key, 'a',"),
    "clearing keeps the era": ("op->id = era = zc__place_random(p);", "op->id = era;"),
    "a damaged log is believed": ("if (zc__get64(v + size) != XXH3_64bits(v, size)) return false;", ""),
    "locks are for everybody": ("if (zc__get64(v + at + 8) != token) return ZC_MISS;", ""),
    "holds are not kept": ("if (zc__place_wants(op, ZC__PLACE_HOLD) && op->n)", "if (false)"),
    "a swap carries one entry": ("for (uint32_t n = 0; *end && n < ZC__PLACE_ENTRIES / 2;", "for (uint32_t n = 0; *end && n < 1;"),
}


def plant(changes, directory):
    """A copy of the header with a fault; False: its text is not there once."""
    header = pathlib.Path("zoocache.h").read_text()
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        if header.count(old) != 1:
            return False
        header = header.replace(old, new)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "zoocache.h").write_text(header)
    return True


def build(program, directory):
    command = [os.environ.get("CC", "gcc"), "-std=c11", "-O1", "-w", f"-I{directory}", "-Itests"]
    command += ["-DZOOCACHE_DEBUG"] * (program == "t_hooks")
    command += [f"tests/{program}.c", "-o", f"{directory}/{program}", "-llz4", "-pthread"]
    command += {"x_simulate": ["-lhiredis", "-lcrypto"]}.get(program, [])
    command += ["-llmdb", "-lcrypto"] * program.startswith("t_seal")
    return subprocess.run(command).returncode == 0


def simulated(directory, _):
    """What a seed showed; None: it was not found."""
    command = [directory / "x_simulate", "--seeds", "60000", "--jobs", "1"]
    out = subprocess.run(command, capture_output=True, text=True).stdout
    shown = [line for line in out.splitlines() if line.startswith(("seed ", "failed: "))]
    return f"by {shown[0]}" if shown else None


def found(directory, name):
    """The number of histories that it took; None: it was not found, or something else is wrong."""
    test = "through" if name in THROUGH else "behind" if name in BEHIND else "with_dependencies"
    env = os.environ | {"LINEAR_ROUNDS": "20"}
    for _ in range(8):  # with some faults the cache frees what it still has: then another seed is to show it
        command = [directory / "s_linear", "--seed", str(random.getrandbits(60)), test]
        ended = subprocess.run(command, env=env, capture_output=True, text=True)
        if ended.returncode >= 0:
            break
    good = [int(line.split()[0]) for line in ended.stdout.splitlines() if " histories, " in line]
    return f"in history {min(good) + 1}" if "not linearizable" in ended.stdout and good else None


def failed_check(directory, _):
    """How it ended; None: well."""
    (program,) = {"t_bus", "t_holds", "t_place", "t_seal", "t_seal_bus"} & set(os.listdir(directory))
    return "by a check" if subprocess.run([directory / program], capture_output=True).returncode else None


def hung_or_failed(directory, _):
    """The same, if it ends."""
    program = next(directory / name for name in ("t_hooks", "s_readers") if (directory / name).exists())
    try:
        ended = subprocess.run([program], capture_output=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "as it does not end"
    out = ended.stdout + ended.stderr
    return "by an assertion" if b"zc__locks" in out else "by a check" if ended.returncode else None


def main():
    directory, program = pathlib.Path(sys.argv[1]), sys.argv[2]
    programs = {
        "s_linear": (LINEAR | THROUGH | BEHIND, found),
        "x_simulate": (SIMULATION | {name: HOLDS[name] for name in HELD}, simulated),
        "t_hooks": (HOOKS, hung_or_failed),
        "t_bus": (SLEPT, failed_check),
        "t_holds": (HOLDS, failed_check),
        "t_place": (PLACE, failed_check),
        "t_seal": (NONCES, failed_check),
        "t_seal_bus": (SEALED, failed_check),
        "s_readers": (READERS, hung_or_failed),
    }
    faults, look = programs[program]

    def verdict(name):
        where = directory / name.replace(" ", "-")
        if not plant(faults[name], where):
            return "FAILED: zoocache.h has not this text once"
        if not build(program, where):
            return "FAILED: does not compile"
        when = look(where, name)
        return f"found {when}" if when else "FAILED: not found"

    names = [name for name in faults if "".join(sys.argv[3:]) in name]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("JOBS", "2"))) as pool:
        for name, said in zip(names, pool.map(verdict, names)):
            failed += "FAILED" in said
            print(f"{name}: {said}", flush=True)
    print(f"{len(names) - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
