/* zoocache.h - v0.1.0 - a cache that invalidates when its data changes - MIT, see end of file
 *
 * Readers say what a value depends on ("user:42", "org:1:team:a"), writers say what has changed,
 * and everything that depended on it, or on anything below it, is gone at once.
 *
 * DO THIS
 *   Put zoocache.h beside xxhash.h. In ONE source file, before anything else is included:
 *       #define ZOOCACHE_IMPLEMENTATION
 *       #include "zoocache.h"
 *   and include it plainly everywhere else. Link with -llz4, and -pthread where that is needed.
 *   (Never put the define in a header: each file that includes it would be one more copy.)
 *
 * A PROGRAM (examples/01_hello.c)
 *
 *    #define ZOOCACHE_IMPLEMENTATION
 *    #include "zoocache.h"
 *    #include <stdio.h>
 *
 *    static const char *name = "Ada Byron"; // stands for a row of a database
 *
 *    static int load(zc_fill *fill, void *user) {
 *        (void)user;
 *        puts("loading");
 *        zc_fill_dep(fill, zc_str("user:42"));
 *        return zc_fill_value(fill, zc_str(name));
 *    }
 *
 *    static void show(zc_cache *cache) {
 *        zc_view v;
 *        if (zc_fetch(cache, zc_str("profile/42"), load, NULL, NULL, &v) != ZC_OK) return;
 *        printf("%.*s\n", (int)v.size, (const char *)v.data);
 *        zc_release(cache, &v);
 *    }
 *
 *    int main(void) {
 *        zc_cache *cache;
 *        if (zc_open(NULL, &cache) != ZC_OK) return 1;
 *        show(cache); // a miss: the loader runs
 *        show(cache); // a hit
 *        name = "Ada Lovelace";
 *        zc_invalidate(cache, zc_str("user:42"));
 *        show(cache); // what depended on user:42 is gone: the loader runs again
 *        zc_close(cache);
 *        return 0;
 *    }
 *
 * CONTENTS (search for the tag)
 *   Manual             concepts, macros, threads, ownership, errors, costs, caveats, changes
 *   Declarations       results, types, hooks, zc_desc, functions by what they do
 *   >>platform         compiler, operating system, clocks
 *   >>thread           atomics, locks, waiting, threads; the lock order
 *   >>mem              the allocator hook; an arena for the fixed block
 *   >>slab             small entries close together, on huge pages
 *   >>bytes            little-endian numbers, comparing, text
 *   >>hash             the seeded hash, random numbers
 *   >>codec            the stored record, byte by byte
 *   >>hlc              the hybrid logical clock
 *   >>chains           hash tables of linked things, which grow in small steps
 *   >>trie             tags, versions, floors, pruning: the one rule
 *   >>rcu              reads that share nothing
 *   >>table            entries, buckets, shards
 *   >>policy           eviction
 *   >>expiry           deadlines, what a read makes of an entry, inserting, sweeping
 *   >>bus              several nodes: the log, the lease
 *   >>flight           singleflight
 *   >>store            the second tier
 *   >>seal             sealed records, keys and tags, for a storage that others can read
 *   >>cache            the public functions
 *   >>metrics          numbers, texts, explanations
 *   >>walk             keys and tags, in steps
 *   >>check            validators
 *   >>backends         what LMDB, Redis and places have in common
 *   >>lmdb             LMDB as storage and bus of the processes of one machine
 *   >>redis            Redis as storage and bus
 *   >>place            any place that can compare and set, as storage and bus
 *
 * WHAT IT IS
 *   A concurrent hash table from byte keys to byte values or objects, with a limit and an eviction
 *   policy; a trie of tags with versions, by which entries are invalidated; flights, by which each
 *   missing value is computed once; deadlines; and hooks for memory, time, storage and telemetry.
 *   All state is in the cache that zc_open() makes. Global is a number for each thread alone.
 *
 * WHAT IT DOES NOT DO
 *   It is no server, and opens no socket but to the Redis that you name. It does not serialize: a
 *   value is bytes, or an object of yours that never leaves the process. It does not know your
 *   database: you say what changed. It does not store what was read before an invalidation, whoever
 *   asks.
 *
 * MACROS
 *   in the file with the implementation alone
 *     ZOOCACHE_IMPLEMENTATION   compile the implementation here
 *     ZOOCACHE_WITH_LMDB        zc_lmdb_open(): an LMDB file as storage and bus; -llmdb
 *     ZOOCACHE_WITH_REDIS       zc_redis_open(): Redis as storage and bus; -lhiredis
 *     ZOOCACHE_WITH_REDIS_TLS   beside it: rediss://; OpenSSL 1.1.1 or later, -lssl -lcrypto
 *     ZOOCACHE_WITH_SEAL        zc_desc.sealer, zc_seal_open(): what a storage gets is encrypted;
 *                               OpenSSL 1.1.1 or later, -lcrypto
 *     ZOOCACHE_WITH_BUS         what both need, for a bus or a shared storage of your own:
 *                               zc_desc.bus, zc_place_open(), the storage's breaker, write_behind,
 *                               fleet, get_many
 *     ZOOCACHE_WITH_WALK        zc_keys(), zc_tags()
 *     ZOOCACHE_NO_LZ4           no compression of stored records; <lz4.h> and -llz4 are not needed
 *     ZOOCACHE_NO_STORE         no zc_desc.store (ZC_E_BUILD), zc_sink_write(), zc_record_encode(),
 *                               zc_record_decode(): 8 KB less; implies NO_LZ4
 *     ZOOCACHE_NO_TEXT          no zc_stats_prometheus(), zc_explain(), zc_hlc_format(),
 *                               zc_hlc_parse(); zc_strerror() gives names: 6 KB less. Both without
 *                               ZOOCACHE_WITH_BUS, _SEAL, _LMDB and _REDIS
 *     ZOOCACHE_NO_THREADS       one thread: no locks, no atomics, no background thread. Not two
 *                               threads, not even one after the other without a barrier of yours.
 *                               zc_begin_ago() remembers nothing then
 *     ZOOCACHE_NO_STDLIB        no malloc, no clocks of the system: give a block or an allocator,
 *                               and a clock. What is left of libc: memcpy, memmove, memset, memcmp
 *                               and strlen
 *     ZOOCACHE_MALLOC(size), ZOOCACHE_FREE(ptr)   both or neither; default malloc and free
 *     ZOOCACHE_ASSERT(x)        default assert(x); for broken invariants alone
 *     ZOOCACHE_DEBUG            check cheap invariants everywhere
 *   in every file that includes it
 *     ZOOCACHE_STATIC           everything is static: a copy of its own in each file that has the
 *                               implementation
 *     ZOOCACHE_API              instead: what stands before every function (dllexport, ...)
 *     ZOOCACHE_NO_CXX           without the types of C++, where that is C++17 or later
 *   No macro changes the layout of a public struct. The declarations are C99 and C++, by any
 *   compiler. The implementation asks for gcc or clang, C11 or C++17; on Windows for mingw-w64 or
 *   clang with its headers. MSVC has none of the __atomic built-ins, attributes and 128-bit
 *   products that it is written in.
 *   Tried by `make reach`: Linux with glibc and musl on x86-64, i386, AArch64, ARM, riscv64,
 *   ppc64le and s390x; Windows; WASI; Emscripten; Cortex-M4, M0+ and M0. Built and linked alone:
 *   macOS, FreeBSD, NetBSD.
 *   Strict -std=c11 hides the monotonic clock and signal masks. On Linux, in WASI and Emscripten
 *   the implementation asks for both by itself (_POSIX_C_SOURCE), if it is included first.
 *   Elsewhere, or after another #include, define that as 200809L, or take gnu11: else the wall
 *   clock serves for deadlines.
 *
 * CONCEPTS
 *   Tag        A path: segments, separated by ':', of any bytes but NUL ('*' is one like any
 *              other). "org:1" is above "org:1:team:a". To invalidate a tag is to invalidate
 *              everything below it.
 *   Version    Each invalidation gets one, an HLC stamp, larger than all before. The tag's node in
 *              the trie remembers it.
 *   The rule   An entry remembers `begin`: the latest version that had been handed out when its
 *              fill began, before the loader read anything. It is fresh while no tag on the path of
 *              any of its dependencies, the root included, has a version above that. So an
 *              invalidation is one number in one node, however many depend on it; and a value that
 *              was read before an invalidation is never served after it, however long its loader
 *              took.
 *   Fill       What computes a missing value: zc_fetch() with a loader, or the same in pieces. The
 *              dependencies are what the loader says with zc_fill_dep(), as it finds them out.
 *              A nested fetch (zc_fetch_opts.parent) hands its dependencies up, on a hit as well.
 *   Flight     A fill and all who wait for it. One a key at a time. Its leader has a lease; past it
 *              somebody else may take over, and the late value is not stored. What an invalidation,
 *              a zc_put() or a zc_del() has overtaken is given to who asked before, and not stored.
 *   Entry      lives until its ttl, or its tti (time to idle) since it was last read, is over,
 *              until it is invalidated, replaced, deleted or evicted. What is dead is no longer
 *              served at once; its memory comes back when housekeeping, a refill or the policy gets
 *              there.
 *   Stale      All off by default: soft_ttl serves a value past it and renews it in the background;
 *              early_percent renews popular values at random before their end; stale_if_error
 *              serves an expired value instead of the loader's error. None of them serves what was
 *              invalidated, unless serve_invalidated says so.
 *   Policy     Three queues, balanced by what ghosts of evicted keys tell (>>policy). Nothing to
 *              set.
 *
 * MEMORY
 *   By default malloc, on Linux with small entries close together on huge pages (>>slab); or
 *   zc_desc.allocator; or one block (zc_desc.block), from which everything is taken, the cache
 *   itself included; zc_block_size() says how large. A full block makes entries give way; if there
 *   are none left, ZC_E_NOMEM.
 *   max_entries and max_bytes hold at every instant, over all shards together. max_bytes
 *   counts entries: header, key, value, dependencies, and an object by its size. Tables and tags
 *   come on top; zc_stats.memory has it all but the objects, which are yours. Tags that nothing
 *   depends on are pruned after prune_after, and sooner when they are many.
 *
 * THREADS
 *   Every function may be called from any thread at any time, but for zc_open() and zc_close(), and
 *   zc_check(). A zc_fill belongs to one thread at a time. Call-backs: see "hooks".
 *   The order of locks is zc__rank (>>thread); with ZOOCACHE_DEBUG each lock that is taken is
 *   checked against it. What waits for long is a mutex, the rest are spin locks of a few
 *   instructions. zc_get_copy() mostly takes none (>>rcu); a number that each thread gets there is
 *   all that the library keeps outside of a cache.
 *   Two background threads, unless no_thread. One keeps house: it removes what is dead, prunes,
 *   ends overdue flights, looks after the storage; at most a fifth of a core. The other runs
 *   refreshes; refresh_threads makes it several. With no_thread call zc_poll(), say every 100 ms or
 *   each frame: it does both. Each duty has its turn in each call, however much another has to do.
 *   Ages for pruning are as exact as polling is.
 *   The library's threads are pthreads wherever there are any, else C11's (or Windows'). They block
 *   all signals but those of a fault of their own (SIGSEGV, SIGBUS, SIGFPE, SIGILL), and so does
 *   what a loader starts there. Waits count by the monotonic clock; with C11 threads a wall clock
 *   that is set back makes them longer.
 *   fork(): wrap it in zc_fork_prepare(), zc_fork_parent() and zc_fork_child().
 *
 * OWNERSHIP
 *   what                      who owns it                   until
 *   keys, tags, bytes given   you                           the call returns: they are copied
 *   zc_view                   the cache; pinned for you     zc_release()
 *   objects (drop)            the cache, once ZC_OK         the last holder lets go: drop is called
 *                                                           (drop_in_poll: by the next zc_poll())
 *   zc_fill                   you                           commit, abandon, or wait (not PENDING),
 *                                                           before or after those of its parent
 *   zc_fill_opts()            the fill                      its end
 *   zc_tag                    you, counted                  zc_tag_release(), before zc_close()
 *   zc_desc, hook tables      you                           zc_open() returns: they are copied
 *   zc_desc.block, and what   you                           the cache is closed, all pins released,
 *   allocator and clock use                                 all fills ended
 *   loader's user pointer     you                           zc_fetch() returns; with soft_ttl or
 *                                                           early_percent: release(user) is called
 *
 * ERRORS
 *   rc < 0 a failure: nothing has changed, outputs are zeroed. 0 done. rc > 0 an expected outcome.
 *   A loader's negative code reaches every waiting caller unchanged (use ZC_E_USER and below) and
 *   is not cached. Invalid arguments are errors; only broken invariants abort, through
 *   ZOOCACHE_ASSERT.
 *
 * COSTS           (n: entries; d: depth of a tag; measured figures: README.md, `make bench`)
 *   operation             time                          allocations         locks
 *   zc_get, a hit         1 hash, 2-3 cache lines       none                shard
 *     after invalidation  + d nodes for each dependency, once an entry
 *   zc_get_copy, a hit    the same, and the copy        none                none, mostly
 *   zc_put                O(key + value)                1                   shard
 *   zc_fetch, a miss      put + loader                  3 and the value     shard, three times
 *   zc_invalidate         O(length of the tag)          0; 1 a new node     stripe, writer
 *   zc_invalidate_many    that for each tag             1 and new nodes     stripe; writer, 1-2 ns
 *                                                                           for each tag
 *   zc_hold, zc_hold_end  that, O(tags held), the log   1 and new nodes     stripe, writer
 *   zc_clear              O(shards); housekeeping frees none                each shard in turn
 *   eviction              at most 16 looks, mostly 1    none                shard
 *   zc_poll               its budget, and one step      none                shard, for 8 buckets
 *   An entry costs 48 bytes, 8 for each dependency, and about 15 of the table, on top of key and
 *   value; 48 more with a tti, soft_ttl, stale_if_error or a weigher; 8 for ghosts once it evicts.
 *   A tag's node costs 48 bytes, its last segment, and 8 to 16 of its table.
 *   A step of housekeeping is some 32 dependencies or entries, or 16 KiB, however large one of them
 *   is: an entry of 65,535 dependencies and a value of 1 GiB are freed in many, and so is what a
 *   put or del lets go of; a put does as many of these steps as what it brings is worth. Whole in
 *   one step are: a destructor of yours, what your allocator, or malloc when it trims its heap,
 *   takes to free, and, when a fixed block is full, what has to be freed for a put.
 *
 * STORAGE
 *   zc_desc.store is a second tier: a miss of the table asks it before the loader runs, and what is
 *   stored is written through. What comes back is judged by the rule, so a storage that keeps
 *   versions (generation, tag_put, tag_get) makes restarts warm and never stale; one that does not
 *   cannot tell what of an earlier life is stale, and is cleared by zc_open(). A fault of the
 *   storage never reaches the caller: it is counted, told by ZC_EVENT_STORE_FAULT, and the loader
 *   runs. If a record cannot be overwritten or deleted, all that were written before are taken for
 *   misses. The functions may be called from several threads at once. examples/06_own_storage.c is
 *   one. The record's format: >>codec. Objects are not stored.
 *
 * SEALING (with ZOOCACHE_WITH_SEAL)
 *   zc_desc.sealer encrypts what the storage and the log get, and authenticates what comes back:
 *   who holds the file, the server or a backup learns the number of records, their lengths and
 *   their times, can change none unseen, and cannot put one in the place of another. Keys become
 *   names that tell nothing. What does not open, plain records included, is a miss, counted
 *   (store_forged, store_unkeyed) and told; with seal_strict it is the caller's error. Old records
 *   can be put back, and versions set back: then they are judged as they were. Lengths of
 *   compressed values can tell something of what an attacker has written into them
 *   (zc_put_opts.plain).
 *   Tags become names, too, on the log and where versions are kept: of them show only when the same
 *   one is invalidated again, how long it is and, with log_shards, which shard its first segment
 *   is in. In the process all is as ever. An entry of the log that is not sealed, or was changed,
 *   invalidates everything.
 *   A log is sealed or it is not: from the first node with a key on, one without is refused
 *   (ZC_E_UNKEYED; it serves nothing, and its zc_invalidate() is ZC_E_BUS), for what it said would
 *   be heard, but not known to nodes that join later. So begin to seal, or end it, under another
 *   prefix. Needs zc_bus.hold, as ours have. To change keys, give every node the new one as second,
 *   then all as first, then drop the old one: each step when all nodes have taken the one before.
 *
 *       unsigned char secret[ZC_SEAL_KEY];      // 32 random bytes, from where you keep secrets
 *       zc_bytes key = zc_slice(secret, sizeof secret);
 *       zc_seal_desc seal = {.keys = &key, .nkeys = 1, .prefix = zc_str("shop")};
 *       if (zc_seal_open(&seal, &d.sealer) == ZC_OK) rc = zc_open(&d, &cache);
 *
 *   examples/11_sealed.c keeps two tenants apart.
 *
 * C++ (17 and later)
 *   zoocache::cache, view, tag and fill end by themselves, are moved, and allocate nothing:
 *
 *       zoocache::cache cache;
 *       if (cache.open() != ZC_OK) return 1;
 *       auto name = cache.fetch("profile/42", [&](zoocache::fill &fill) {
 *           fill.dep("user:42");
 *           return database.name_of(42); // what it throws, fetch() throws; else there are codes
 *       });
 *       if (name) std::cout << name.text();
 *       cache.invalidate("user:42");
 *
 *   See the end of the declarations, and examples/14_cpp.cc. -fno-exceptions will do.
 *
 * SEVERAL NODES (with ZOOCACHE_WITH_LMDB, _REDIS or _BUS)
 *   Nodes, be they processes or machines, share a log of invalidations (zc_desc.bus) and, if they
 *   like, a storage (zc_desc.store). zc_lmdb_open(), zc_redis_open() and zc_place_open() fill both.
 *
 *       zc_desc d = {.max_entries = 100000};
 *       zc_redis_desc r = {.url = "redis://cache.internal", .prefix = "shop"};
 *       if (zc_redis_open(&r, &d.store, &d.bus) == ZC_OK) rc = zc_open(&d, &cache);
 *
 *   The promise  A value served at time x reflects every invalidation that was acknowledged before
 *                x - T, where T is max_staleness (1 s): whatever is lost, delayed, restarted, or
 *                wrong about the time. Each node has, on every read of the log, proof that it has
 *                heard everything; while the proof is younger than T it serves its table. Lost
 *                connections, trimming, FLUSHALL, restarts and failovers end in a replay or in an
 *                O(1) flush, never in silence. With replicas the bound is T and the lag that they
 *                allow, for strict writers, too. With LMDB each read looks at the file: T is 0.
 *   Silence      If the log cannot be reached for T, each function chooses: zc_desc.silence, or
 *                zc_fetch_opts.silence. Bypass: the loader runs, still once for all who wait;
 *                serve: as ZC_STALE, up to max_stale longer; error: ZC_E_BUS. What was invalidated
 *                here is never served.
 *   Writers      zc_invalidate() takes effect here at once, and then, by zc_desc.ack, waits for
 *                nothing, for the log, for its replicas, or until no node can serve the old value.
 *                What the log did not take (ZC_E_BUS) is kept, bounded, and sent as soon as it can
 *                be. zc_token() and zc_catch_up() let another node wait until it has heard.
 *   Holds        A process that dies between the commit of a transaction and its zc_invalidate()
 *                leaves stale values behind, unless it has held the tags before: zc_hold(), then
 *                the commit, then zc_hold_end(). What is held is not stored anywhere, until the end
 *                or, if the holder has died, the end of its lease. Then a value served at time x
 *                reflects every commit before x - T, whoever has died when.
 *   Records      are judged by the same rule: positions of the log take the place of versions. A
 *                node that joins late learns what it lacks in one round trip. Puts and deletes do
 *                not cross the bus: another node's table may hold what zc_put() has replaced, until
 *                its ttl. Invalidate what others may have.
 *   Shards       zc_redis_desc.log_shards spreads the log and the records over several slots of a
 *                cluster: a tag is in that of its first segment, zc_clear() in all. The promise
 *                is the same, and needs a proof from every shard: if one is lost or silent, so is
 *                the whole. What is invalidated in one step is one step on another node only within
 *                a shard. zc_catch_up() always reads.
 *   Storage down A call that times out opens the storage's breaker: nobody waits a second time, and
 *                housekeeping looks when it is back. However many calls time out together, that is
 *                one failure; to wait for calls of one's own (ZC_E_BUSY) is none.
 *   fleet        (zc_fetch_opts) one loader in all nodes: the key is locked in the storage.
 *   write_behind The storage is written by the background thread. What has not been written when
 *                the process dies is lost, which costs misses.
 *   Places       zc_place_open() makes both of whatever can compare and set: Memcached, a database,
 *                files on a server; you fill in six functions (zc_place). The log is one value
 *                there, which each node reads every T / 4; so an invalidation is heard up to T / 4
 *                later than with Redis, and the promise is the same. A log that is lost, evicted,
 *                rolled back or written twice is found out, and ends in a flush: a rollback, by a
 *                node that had heard more, when it next reads; until then others may serve what
 *                is older than T. If the place puts an older state of everything back while no node
 *                is running, or none that had heard it all, delete "<prefix>.log".
 *   Threads      The bus has a thread of its own, and none with LMDB. With no_thread, zc_poll()
 *                reads the log: call it several times in T, and again while it returns ZC_MORE.
 *   A bus of your own needs four functions: see zc_bus. Versions are then counted, not HLC stamps.
 *
 * CAVEATS
 *   - zc_put() after reading takes zc_put_opts.begin = zc_begin() from BEFORE the reading; without
 *     it an invalidation in between goes unseen. zc_fetch() does this by itself: prefer it.
 *   - A loader that reads in a snapshot of a database, or from a replica that lags, reads what was:
 *     zc_fetch_opts.begin says since when. zc_begin() from before the snapshot was taken, for
 *     fetches inside a loader, too; zc_begin_ago(cache, lag) for a replica that is at most `lag`
 *     behind. Else a fill passes for newer than what it has read.
 *   - Invalidate after the change is committed, not before: else a fill may read the old row and
 *     begin after the invalidation.
 *   - A change that moves what a tag names (country:FR:A:x becomes country:FR:B:x) invalidates the
 *     old place; the next change names the new one. Invalidate such in the order of the commits.
 *   - Deadlines use a coarse clock: up to 4 ms late on Linux.
 *   - A key is bytes: whoever builds one from parts must make different parts differ ("a", "bc" and
 *     "ab", "c"). Only lookups of equal bytes meet.
 *   - A refresh in the background needs the loader and its user pointer later: see ownership. Who
 *     has to wait for one that has not begun yet runs it himself.
 *   - With a clock of your own that stands still, zc_poll() ends only when nothing is left to do;
 *     zc_poll(cache, 0) does one step.
 *   - Between zc_fork_prepare() and zc_fork_parent() all other calls wait, spinning: do not wait
 *     there for a lock that such a thread may hold (an interpreter's global lock).
 *   - The hash is seeded, which keeps strangers from guessing collisions; it is not cryptographic.
 *   - zc_tag_version() of a tag that was pruned may be later than its own last invalidation.
 *   - Short of memory, zc_invalidate() stamps the deepest tag above that exists: more than was
 *     asked.
 *   - max_staleness is measured by the system's monotonic clock. On Linux that one stands still
 *     while a machine is suspended: for T after it wakes, what it had heard before counts.
 *
 * CHANGES
 *   0.1.0   the first version: see CHANGELOG.md
 */

#ifndef ZOOCACHE_H
#define ZOOCACHE_H

/* Before the first #include of all: see the manual, "Macros". */
#if defined(ZOOCACHE_IMPLEMENTATION) && defined(__STRICT_ANSI__) && !defined(_FEATURES_H) && \
    (defined(__linux__) || defined(__wasi__) || defined(__EMSCRIPTEN__)) && \
    !defined(_POSIX_C_SOURCE)
#  define _POSIX_C_SOURCE 200809L
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- version, linkage ----------------------------------------------------------------------- */

#define ZOOCACHE_VERSION_MAJOR 0
#define ZOOCACHE_VERSION_MINOR 1
#define ZOOCACHE_VERSION_PATCH 0
#define ZOOCACHE_VERSION "0.1.0"
#define ZOOCACHE_ABI 0 /* another: a library and a program of different versions do not fit */

#ifndef ZOOCACHE_API
#  ifdef ZOOCACHE_STATIC
#    define ZOOCACHE_API static inline
#  else
#    define ZOOCACHE_API extern
#  endif
#endif

/* ---- units, limits, sentinels --------------------------------------------------------------- */

/* Every duration and instant of this interface is a uint64_t of nanoseconds, unless a name ends in
 * _ms. Instants are of the monotonic clock, unless a name says wall. */
#define ZC_MICROSECOND UINT64_C(1000)
#define ZC_MILLISECOND UINT64_C(1000000)
#define ZC_SECOND UINT64_C(1000000000)
#define ZC_NEVER UINT64_MAX   /* a duration without end; in a field where 0 means "default" */
#define ZC_UNLIMITED SIZE_MAX /* in a size field where 0 means "default" */

#define ZC_KEY_MAX 65535u  /* bytes of a key */
#define ZC_TAG_MAX 1024u   /* bytes of a tag */
#define ZC_TAG_DEPTH 32u   /* segments of a tag */
#define ZC_DEPS_MAX 65535u /* different dependencies of one entry */
#define ZC_LOGS_MAX 16u    /* logs of one bus */

/* ---- results -------------------------------------------------------------------------------- */

/* rc < 0: failure, nothing has changed and outputs are zeroed. rc == 0: done. rc > 0: an expected
 * outcome that is not the plain one. zc_strerror() gives the texts below; zc_result_name() the
 * names. A loader may return negative codes of its own, from ZC_E_USER downwards; they reach every
 * caller of the flight unchanged. */
#define ZC_RESULTS(X)                                                                              \
    X(ZC_OK, 0, "done")                                                                            \
    X(ZC_MISS, 1, "no fresh value under this key")                                                 \
    X(ZC_STALE, 2, "a value past its time, served because the options allow it")                   \
    X(ZC_ABSENT, 3, "the loader has said that there is no such thing (cached negative result)")    \
    X(ZC_REFUSED, 4, "not stored: too large, or invalidated while it was being computed")          \
    X(ZC_LEAD, 5, "this caller leads the flight: compute the value, then commit or abandon")       \
    X(ZC_FOLLOW, 6, "another caller computes the value: wait for it")                              \
    X(ZC_PENDING, 7, "not finished yet")                                                           \
    X(ZC_RETRY, 8, "the flight ended without a value for this caller: begin again")                \
    X(ZC_MORE, 9, "the budget is used up and work remains: call again")                            \
    X(ZC_E_NOMEM, -1, "out of memory: the allocator or the fixed block is exhausted")              \
    X(ZC_E_INVAL, -2, "invalid argument")                                                          \
    X(ZC_E_KEY, -3, "invalid key: longer than ZC_KEY_MAX bytes")                                   \
    X(ZC_E_TAG_EMPTY, -4, "invalid tag: it is empty")                                              \
    X(ZC_E_TAG_SEGMENT, -5, "invalid tag: a segment is empty (a ':' leads, trails or is doubled)") \
    X(ZC_E_TAG_NUL, -6, "invalid tag: it contains a NUL byte")                                     \
    X(ZC_E_TAG_LONG, -7, "invalid tag: longer than ZC_TAG_MAX bytes")                              \
    X(ZC_E_TAG_DEEP, -8, "invalid tag: more than ZC_TAG_DEPTH segments")                           \
    X(ZC_E_DEPS, -9, "more than ZC_DEPS_MAX dependencies on one entry")                            \
    X(ZC_E_TIMEOUT, -10, "timed out")                                                            \
    X(ZC_E_LEASE, -11, "the flight had lost its lease, or its key was written: not stored")        \
    X(ZC_E_DEADLOCK, -12, "a fill waits for itself, directly or through other fills")              \
    X(ZC_E_CLOCK, -13, "a remote stamp is too far ahead of the local clock")                       \
    X(ZC_E_CORRUPT, -14, "corrupt data: a record or a structure fails its check")                  \
    X(ZC_E_STORE, -15, "the storage has failed")                                                   \
    X(ZC_E_LOADER, -16, "the loader has failed, or has ended without a value")                     \
    X(ZC_E_CLOSED, -17, "the cache is closed")                                                     \
    X(ZC_E_THREAD, -18, "a thread, mutex or condition variable could not be made")                 \
    X(ZC_E_RANGE, -19, "the buffer given is too small")                                            \
    X(ZC_E_BUS, -20, "the bus cannot be reached, or has been silent for too long")                 \
    X(ZC_E_FULL, -21, "the storage is full")                                                       \
    X(ZC_E_BUILD, -22, "this build is without the optional part that was asked for")               \
    X(ZC_E_BUSY, -23, "not done in time, because other calls of this process were in the way")     \
    X(ZC_E_SEAL, -24, "a record of the storage was not sealed by us for this key, or was changed") \
    X(ZC_E_UNKEYED, -25, "it is sealed with a key that is not here")

#define ZC_X(name, value, text) name = value,
typedef enum zc_result { ZC_RESULTS(ZC_X) ZC_E_USER = -1000 } zc_result;
#undef ZC_X

/* The text of a result. Never NULL; static storage. */
ZOOCACHE_API const char *zc_strerror(int rc);
/* The name of a result, "ZC_E_NOMEM"; "ZC_E_USER" for a loader's own code. Static storage. */
ZOOCACHE_API const char *zc_result_name(int rc);

/* ZOOCACHE_VERSION and ZOOCACHE_ABI of the implementation, which may be a shared library. */
ZOOCACHE_API const char *zc_version(void);
ZOOCACHE_API unsigned zc_abi(void);

/* ---- small types ---------------------------------------------------------------------------- */

/* Bytes with a length, always borrowed for the duration of the call that takes them. */
typedef struct zc_bytes {
    const void *ptr;
    size_t len;
} zc_bytes;

static inline zc_bytes zc_slice(const void *ptr, size_t len) {
    zc_bytes b;
    b.ptr = ptr;
    b.len = len;
    return b;
}

/* The bytes of a C string, without its NUL. */
static inline zc_bytes zc_str(const char *s) { return zc_slice(s, strlen(s)); }

typedef struct zc_cache zc_cache; /* a cache; a process may hold many */
typedef struct zc_tag zc_tag;     /* an interned tag: parsed once, then used without parsing */
typedef struct zc_fill zc_fill;   /* a caller's part in a flight: the leader's, or a follower's */

/* Shared between threads: aligned as one access of 64 bits wants it, on 32-bit machines, too. */
#ifdef _WIN32 /* where it is so anyway, and MSVC has no attributes */
typedef uint64_t zc_shared64;
#else
typedef uint64_t zc_shared64 __attribute__((aligned(8)));
#endif

/* A pinned value: `data` stays valid and unchanged until zc_release(), whatever happens to its
 * entry meanwhile. A view that was never filled, or is released, is all zero; releasing it again
 * does nothing. */
typedef struct zc_view {
    const void *data; /* the value's bytes, or the object's pointer */
    size_t size;      /* its length in bytes, or the object's size as it was given */
    void *pin;        /* private */
} zc_view;

/* Ends an object's life. Called once, with no lock held, from whichever thread lets go last; or,
 * with zc_desc.drop_in_poll, by zc_poll(), in the order in which they were let go, one after the
 * other while its budget lasts. What waits for that is out of the table and of its limits, so poll
 * often. zc_close() calls what is left; after it, whoever lets go of a view or a fill. */
typedef void (*zc_drop_fn)(void *user, void *object, size_t size);

/* ---- hooks ---------------------------------------------------------------------------------- */

/* Every hook table starts with `version` (set it to 1; 0 means "no hook, use the default") and has
 * a `user` pointer that is handed to each function. Tables are copied at open. Loaders,
 * destructors, events, log and completion callbacks are called with no lock held and may call the
 * cache; allocator, clock, weigher, storage and assert may not. */

/* Memory. `free` gets the size that was asked for. Thread-safe unless ZOOCACHE_NO_THREADS.
 * Alignment: 16 bytes or that of max_align_t, as malloc does. */
typedef struct zc_allocator {
    uint32_t version;
    void *(*alloc)(void *user, size_t size);
    void (*free)(void *user, void *ptr, size_t size);
    void *user;
} zc_allocator;

/* Time. `mono_ns` must never step back; `wall_ns` is nanoseconds since 1970 UTC and may do what
 * it likes. */
typedef struct zc_clock {
    uint32_t version;
    uint64_t (*mono_ns)(void *user);
    uint64_t (*wall_ns)(void *user);
    void *user;
} zc_clock;

typedef enum zc_log_level { ZC_LOG_ERROR = 1, ZC_LOG_WARN } zc_log_level;

/* Messages for people: one line, no newline at the end. */
typedef struct zc_log {
    uint32_t version;
    void (*write)(void *user, zc_log_level level, const char *message);
    void *user;
} zc_log;

/* Why an entry left the cache: exactly one of these, once for each entry. */
#define ZC_CAUSES(X)                                                                               \
    X(ZC_CAUSE_REPLACED, "replaced")                                                               \
    X(ZC_CAUSE_EXPIRED, "expired")                                                                 \
    X(ZC_CAUSE_EVICTED, "evicted")                                                                 \
    X(ZC_CAUSE_INVALIDATED, "invalidated")                                                         \
    X(ZC_CAUSE_DELETED, "deleted")                                                                 \
    X(ZC_CAUSE_CLOSED, "closed")

#define ZC_X(name, text) name,
typedef enum zc_cause { ZC_CAUSES(ZC_X) ZC_CAUSE_COUNT } zc_cause;
#undef ZC_X

/* "replaced", "expired", ...; "?" for what is not a cause. Static storage. */
ZOOCACHE_API const char *zc_cause_name(int cause);

typedef enum zc_event_kind {
    ZC_EVENT_REMOVED = 1,     /* key, value, cause */
    ZC_EVENT_INVALIDATED = 2, /* key = the tag (empty for zc_clear), version */
    ZC_EVENT_FILLED = 4,      /* key, value, elapsed; rc: ZC_OK stored, ZC_REFUSED not stored */
    ZC_EVENT_FILL_FAILED = 8, /* key, rc = the leader's error, elapsed */
    ZC_EVENT_STORE_FAULT = 16 /* key, rc = the storage's error or ZC_E_CORRUPT */
} zc_event_kind;

typedef struct zc_event {
    zc_event_kind kind;
    zc_cause cause;
    int rc;
    zc_bytes key;     /* borrowed until the hook returns */
    zc_bytes value;   /* likewise */
    uint64_t version; /* of the invalidation */
    uint64_t elapsed; /* the loader's run time */
} zc_event;

/* What happened, as it happens: called with no lock held, in the thread that made it happen, once
 * that has let go of its locks: what two threads make happen may be told in another order, and what
 * a hook makes happen, inside of it. What other nodes invalidate is told by who has heard it; for
 * want of memory, as everything. The hook may call the cache. `mask`: the kinds wanted, or-ed;
 * 0 = all. */
typedef struct zc_events {
    uint32_t version;
    uint32_t mask;
    void (*on_event)(void *user, const zc_event *event);
    void *user;
} zc_events;

/* What an entry weighs against max_bytes, instead of the bytes that it and its object occupy.
 * Called once an entry, before it is stored. */
typedef struct zc_weigher {
    uint32_t version;
    size_t (*weigh)(void *user, zc_bytes key, zc_bytes value);
    void *user;
} zc_weigher;

/* Where a storage puts a record that it has read: call it once or several times, in order.
 * Returns 0, or a negative code that `get` then passes on. */
typedef struct zc_sink zc_sink;
#ifndef ZOOCACHE_NO_STORE
ZOOCACHE_API int zc_sink_write(zc_sink *sink, const void *data, size_t len);
#endif

/* A second tier behind the table: records outlive the process, or are shared. See the manual,
 * "Storage". Return 0 for done, ZC_MISS for "not there", any negative code for a failure; a failure
 * never reaches the caller of the cache, it is counted and the loader runs. A call that takes long
 * should give up by itself, with ZC_E_TIMEOUT; with ZC_E_BUSY if it was other calls that it waited
 * for, which is no fault of the storage. Every function but `get`, `put`, `del` and `clear` may be
 * NULL. */
typedef struct zc_store {
    uint32_t version;
    int (*get)(void *user, zc_bytes key, zc_sink *sink);
    /* `expires_ms`: wall clock, milliseconds since 1970; 0: never. */
    int (*put)(void *user, zc_bytes key, zc_bytes record, uint64_t expires_ms);
    /* NULL, or the same for a record that is not in one piece: a head, and n parts. */
    int (*put_parts)(void *user, zc_bytes key, zc_bytes head, const zc_bytes *parts, size_t n,
                     uint64_t expires_ms);
    int (*del)(void *user, zc_bytes key);
    int (*touch)(void *user, zc_bytes key, uint64_t expires_ms);
    int (*clear)(void *user);
    /* Versions, all three or none. With them the storage keeps what was invalidated when, and its
     * records survive a restart; without them zc_open() clears it.
     * `generation`: an id, never 0, that changes when the kept versions are lost; and the highest
     * version ever put (0: none).
     * `tag_put`: raise each path's version to `version` if lower, all or none.
     * `tag_get`: the versions of n paths, 0 where unknown. The empty path is the root.
     * What is above 2^62 is no version: ZC_E_CORRUPT, and nothing is learned. */
    int (*generation)(void *user, uint64_t *generation, uint64_t *latest);
    int (*tag_put)(void *user, const zc_bytes *paths, size_t n, uint64_t version);
    int (*tag_get)(void *user, const zc_bytes *paths, size_t n, uint64_t *versions);
    /* n keys in one step: results[i] is what get(keys[i], sinks[i]) would return. NULL: `get` is
     * called n times. A failure as a whole is a negative code. */
    int (*get_many)(void *user, const zc_bytes *keys, size_t n, zc_sink *const *sinks,
                    int *results);
    /* One loader in the whole fleet (zc_fetch_opts.fleet), both or none. `lock`: ZC_OK, the key is
     * locked for `lease` ns and *token says by whom; ZC_MISS: somebody else has it. With a *token
     * that is not 0: renews that lock; ZC_MISS: it is lost. `unlock`: ends it, if it is still ours.
     * */
    int (*lock)(void *user, zc_bytes key, uint64_t lease, uint64_t *token);
    int (*unlock)(void *user, zc_bytes key, uint64_t token);
    void (*report)(void *user); /* with ZOOCACHE_WITH_BUS: called soon after the others, no lock
                                   held: the place for what may use the cache, as a log hook */
    void (*forked)(void *user); /* in the child of a fork: lets go of what it shares */
    void (*close)(void *user);
    void *user;
} zc_store;

/* What seals records before a storage gets them, and hides their keys, and tags. Every function may
 * be called from several threads at once, and must not call the cache; negative codes are failures.
 * See the manual, "Sealing". */
typedef struct zc_sealer {
    uint32_t version;
    /* Writes the sealed form of a record, bound to its key. */
    int (*seal)(void *user, zc_bytes key, zc_bytes plain, zc_sink *out);
    /* Writes what was sealed. ZC_E_SEAL: it was not sealed for this key, or was changed;
     * ZC_E_UNKEYED: the key that seals it is not here. */
    int (*open)(void *user, zc_bytes key, zc_bytes sealed, zc_sink *out);
    /* The name in the place of a key, ZC_SEAL_NAME bytes, one-way. i == 0: the one in use; then
     * those of earlier times, until ZC_MISS. */
    int (*blind)(void *user, unsigned i, zc_bytes key, unsigned char *out);
    /* The name in the place of a tag that a zc_bus gets, and zc_store.tag_put and tag_get, by key i
     * of nkeys: the same for the same tag, and begun by a colon, which no tag is. It is at most
     * ZC_SEAL_TAG bytes longer, any bytes, and `out` has room for it. */
    int (*tag_seal)(void *user, unsigned i, zc_bytes tag, unsigned char *out, size_t *len);
    /* The tag of a name, into as much room as the name takes, and which key has sealed it. Codes as
     * of `open`. */
    int (*tag_open)(void *user, zc_bytes name, unsigned char *out, size_t *len, unsigned *i);
    void (*close)(void *user);
    void *user;
    unsigned nkeys; /* that are here, at least 1 */
} zc_sealer;

#define ZC_SEAL_KEY 32u  /* bytes of a key that seals */
#define ZC_SEAL_KEYS 8u  /* of them at most */
#define ZC_SEAL_NAME 16u /* bytes of a key's name */
#define ZC_SEAL_TAG 21u  /* by so many a tag's name is longer than it */

/* Where a bus gives the entries that it has read: in order, each once. n == 0: everything (a
 * zc_clear). Returns 0, or a code that the caller passes on. */
typedef struct zc_bus_sink zc_bus_sink;
ZOOCACHE_API int zc_bus_entry(zc_bus_sink *sink, uint64_t position, const zc_bytes *tags, size_t n);

/* A log of invalidations that caches share, and the authority over their order: see the manual,
 * "Several nodes". Positions are dense: the entry after 7 is 8; none is above 2^47. `read` is
 * called by one thread at a time, the others by any, at the same time. Codes: 0 done; ZC_RETRY: the
 * log is not the one that `attach` has seen, or entries are missing, so the cache attaches anew;
 * negative: a failure. */
typedef struct zc_bus {
    uint32_t version;
    /* The log's identity, never 0, another one whenever entries may have been lost or positions may
     * be given twice; and the position of its last entry (0: none). */
    int (*attach)(void *user, uint64_t *identity, uint64_t *position);
    /* Gives every entry after `position`. If there is none, waits up to `wait` ns for one. ZC_OK:
     * all that was in the log when the call began has been given, and that is proven; ZC_MORE: some
     * were given, there are more; or none, and nothing is proven: it was woken. */
    int (*read)(void *user, uint64_t position, uint64_t wait, zc_bus_sink *sink);
    /* Appends one entry (n == 0: everything) and records its position as the version of each tag,
     * in one atomic step; then gives the entries after `position`, its own included. `durable`:
     * returns only when a crash of the server cannot lose it. ZC_MORE: appended, but not all were
     * given. A failure may have appended: it will be appended again. */
    int (*append)(void *user, const zc_bytes *tags, size_t n, bool durable, uint64_t position,
                  zc_bus_sink *sink);
    /* The positions of the last entries that named these paths; 0: none. The empty path: the last
     * that named everything. Too high is a miss, too low is not allowed. */
    int (*versions)(void *user, const zc_bytes *paths, size_t n, uint64_t *positions);
    /* NULL, or the position of the last entry, in a few nanoseconds. With it there is no lease:
     * each read of the cache looks at it, and is never stale. */
    int (*peek)(void *user, uint64_t *position);
    /* NULL, or called every second with what the node may tell about itself, as Prometheus text. */
    int (*beat)(void *user, zc_bytes text);
    void (*wake)(void *user);   /* makes a `read` that waits, or the next one, return at once */
    void (*report)(void *user); /* NULL, or as that of zc_store */
    void (*forked)(void *user); /* in the child of a fork: lets go of what it shares */
    void (*close)(void *user);
    void *user;
    /* A log in several parts, each with identity and positions of its own; 0 and 1: it is one. Then
     * `attach`, `read`, `append` and `versions` get logs[i] for `user`; `read` never waits, but
     * `wait` does, until one may have entries after its position, at most `wait` ns, or until
     * `wake`. The cache chooses a tag's log by its first segment; everything goes to all. Not with
     * `peek`. */
    unsigned nlogs;
    void *const *logs; /* borrowed until `close` */
    void (*wait)(void *user, const uint64_t *positions, uint64_t wait);
    /* Lists of tags beside the log, for zc_hold(), both or none; of several logs, those of logs[0].
     * `hold` keeps a list under an id, or, with n == 0, forgets it; `holds` gives each list, with
     * its id as position, for a node that has attached. ZC_RETRY as above. */
    int (*hold)(void *user, uint64_t id, const zc_bytes *tags, size_t n);
    int (*holds)(void *user, zc_bus_sink *sink);
} zc_bus;

/* When zc_invalidate() returns, in the order of what it waits for. In any case it is done here, and
 * is sent again until it has been taken. */
typedef enum zc_ack {
    ZC_ACK_DEFAULT, /* ZC_ACKED */
    ZC_ASYNC,       /* at once */
    ZC_ACKED,       /* the log has taken it: ZC_E_BUS if not */
    ZC_DURABLE,     /* the log has taken it, and its replicas or its disk, too */
    ZC_STRICT       /* the log has taken it, and no node can serve what it killed any more */
} zc_ack;

/* What a read does while the bus has been silent for longer than max_staleness. */
typedef enum zc_silence {
    ZC_SILENCE_DEFAULT, /* what zc_desc says; there: bypass */
    ZC_SILENCE_BYPASS,  /* takes the entry for a miss */
    ZC_SILENCE_SERVE,   /* serves it as ZC_STALE, for max_stale longer */
    ZC_SILENCE_ERROR    /* ZC_E_BUS */
} zc_silence;

/* ---- description ---------------------------------------------------------------------------- */

/* Zero means the default in every field: zc_open(NULL, &cache) and a zeroed zc_desc are the
 * same. */
typedef struct zc_desc {
    /* Limits, held at every instant. */
    size_t max_entries;     /* default: no limit */
    size_t max_bytes;       /* default: no limit. What entries occupy, objects at the size given
                               with them; or what `weigher` says */
    size_t max_entry_bytes; /* default: max_bytes. A larger entry is refused, not stored */
    /* Time. */
    uint64_t ttl;            /* default: ZC_NEVER. An entry's life, unless its put or fill says */
    uint64_t tti;            /* default: ZC_NEVER. An entry dies when unread for so long */
    uint64_t negative_ttl;   /* default: as any entry's. The life of "there is no such thing" */
    unsigned ttl_jitter;     /* default: 0. Lives are shortened at random, by so many % at most */
    uint64_t flight_timeout; /* default: 60 s. A leader's lease */
    uint64_t prune_after;    /* default: 1 h. Tags that nothing depends on are kept so long */
    /* Memory: one fixed block, from which everything is taken, the cache itself included. */
    void *block;       /* default: NULL, use the allocator. Borrowed until every pin is released */
    size_t block_size; /* its size in bytes */
    /* Concurrency. */
    unsigned shards; /* default: by max_entries, at most four a processor; 1 to 64, powers of two */
    bool no_thread;  /* default: false, background threads. True: call zc_poll() yourself */
    bool drop_in_poll; /* default: false. True: destructors of objects are called by zc_poll()
                          alone, in its thread, whichever thread has let go; see zc_drop_fn */
    unsigned refresh_threads; /* default: 1, at most 64. So many refreshes at the same time */
    uint64_t seed;   /* default: random. Of the hash and the jitter: set it to repeat a run */
    uint64_t max_clock_drift; /* default: 60 s. See zc_observe() */
    /* Hooks. */
    zc_allocator allocator; /* default: malloc and free, or ZOOCACHE_MALLOC and ZOOCACHE_FREE */
    zc_clock clock;         /* default: the system's clocks */
    zc_log log;             /* default: silent */
    zc_events events;       /* default: none */
    zc_weigher weigher;     /* default: as max_bytes says */
    zc_store store;         /* default: none, memory only */
    uint64_t store_ttl;     /* default: as in the table. An entry's life in the storage */
    bool write_behind;      /* default: false. The storage is written by the background thread */
    unsigned breaker_failures; /* default: 3. So many calls in a row that fail open the storage's
                                  breaker; one that times out does at once */
    uint64_t breaker_pause; /* default: 100 ms. Then it is not asked for so long; while it does not
                               answer, for twice as long each time, up to 50 times that */
    zc_sealer sealer;       /* default: none; see zc_seal_open(). With ZOOCACHE_WITH_SEAL */
    bool seal_strict;       /* default: false, a record that does not open is a miss. True: reading
                               its key fails (ZC_E_SEAL, ZC_E_UNKEYED), and it is left as it is */
    /* Several nodes. */
    zc_bus bus;             /* default: none, this cache is alone */
    uint64_t max_staleness; /* default: 1 s. How late a node may hear of an invalidation */
    uint64_t bus_pause;     /* default: 10 ms between reads of a busy log; 1: none */
    zc_ack ack;             /* default: ZC_ACKED */
    zc_silence silence;     /* default: ZC_SILENCE_BYPASS */
    uint64_t max_stale;     /* default: 0. See ZC_SILENCE_SERVE */
} zc_desc;

/* ---- open, close ---------------------------------------------------------------------------- */

/* Makes a cache. `desc` is copied; NULL: all defaults. On failure *cache is NULL.
 * Free with zc_close(). Fails: ZC_E_NOMEM, ZC_E_INVAL (a contradiction in desc), ZC_E_THREAD,
 * ZC_E_STORE (the storage cannot say its generation, or, without versions, cannot be cleared),
 * ZC_E_CORRUPT (what it says are no versions). */
ZOOCACHE_API int zc_open(const zc_desc *desc, zc_cache **cache);

/* How large a zc_desc.block must be, whatever its alignment, for zc_open() to succeed and
 * max_entries entries to find room, of max_entry_bytes each or of max_bytes in all, whichever is
 * less; of these two, one may be missing. It is for this machine and build, at least 128 bytes an
 * entry, and else at most 8 an entry and some 100 a shard above what is used. On top come tags and
 * flights (manual, "Costs"), a value while it replaces another, and what a storage, a bus or a
 * sealer needs: what lacks room makes entries give way. 0: no block is large enough, or a limit is
 * missing. */
ZOOCACHE_API size_t zc_block_size(const zc_desc *desc);

/* Ends a cache: its thread stops, its entries are removed (cause: closed), outstanding flights end
 * with ZC_E_CLOSED. No other call may run at the same time or begin later, but for zc_release() of
 * pins, zc_fill_*() and zc_flight_commit/abandon/wait/notify of fills that are still out: they
 * stay valid, and what they need is freed with the last of them. A commit that is writing to the
 * storage is waited for; what any of these calls has to tell may come as long as it runs, and
 * nothing of calls that begin after the return, but for destructors. Call-backs may use the cache
 * while it closes: it takes nothing in any more (ZC_E_NOMEM). Not from a call-back, which is part
 * of a call that runs. NULL: does nothing. */
ZOOCACHE_API void zc_close(zc_cache *cache);

/* ---- read ----------------------------------------------------------------------------------- */

/* The value of `key`, pinned, without a copy. ZC_OK: *view is filled, free with zc_release().
 * ZC_STALE: likewise, but its soft deadline has passed. ZC_ABSENT: a cached negative result;
 * ZC_MISS: neither here nor in the storage; *view is zeroed.
 * Threads: any. Cost: one hash, one or two cache lines, one uncontended lock; no allocation. */
ZOOCACHE_API int zc_get(zc_cache *cache, zc_bytes key, zc_view *view);

/* The same, copied: up to `cap` bytes into `buf`; *len (may be NULL) is the value's whole length.
 * A hit on up to 4 KiB, and a miss, take no lock and write to no memory that other threads read, so
 * reads of one key scale with the cores (>>rcu says when not). Cheaper than zc_get() as well where
 * the value is in an LMDB file, and the table is full.
 * ZC_E_RANGE: the value is longer than `cap`, nothing was copied. For an object: ZC_E_INVAL. */
ZOOCACHE_API int zc_get_copy(zc_cache *cache, zc_bytes key, void *buf, size_t cap, size_t *len);

/* n keys at once, results[i] and views[i] as zc_get() gives them; faster than n calls, because the
 * memory accesses of different keys overlap: of 1e6 entries, in about half the time (bench/,
 * hit.many). Returns how many were ZC_OK, or a failure. */
ZOOCACHE_API int zc_get_many(zc_cache *cache, const zc_bytes *keys, size_t n, zc_view *views,
                             int *results);

/* Ends a pin and zeroes the view. Threads: any, also after zc_close(). */
ZOOCACHE_API void zc_release(zc_cache *cache, zc_view *view);

/* ---- write ---------------------------------------------------------------------------------- */

/* How to store a value: of zc_put_...() and of a fetch. NULL or zero: the defaults of zc_desc. */
typedef struct zc_put_opts {
    const zc_bytes *deps;    /* tags that the value depends on, as text */
    size_t ndeps;            /*   how many */
    zc_tag *const *tags;     /* and as interned tags */
    size_t ntags;            /*   how many */
    uint64_t ttl;            /* 0: zc_desc.ttl */
    uint64_t tti;            /* 0: zc_desc.tti */
    uint64_t soft_ttl;       /* 0: none. From then on ZC_STALE, and one refresh (zc_fetch) */
    uint64_t negative_ttl;   /* 0: zc_desc.negative_ttl */
    uint64_t stale_if_error; /* 0: none. How long after its end it may stand in for an error */
    uint64_t begin;          /* 0: now. zc_begin(), as it was before the value was read */
    bool plain;              /* a storage gets the value as it is, not compressed */
} zc_put_opts;

/* Stores a value under a key, in place of what was there. A running fill of the key is fenced: its
 * late value will not undo this. Bytes are copied.
 * If the value was read from somewhere, say when, by opts->begin: else an invalidation between the
 * reading and this call goes unseen. zc_fetch() does that by itself.
 * ZC_REFUSED: larger than the limits allow, or invalidated since opts->begin; what was there under
 * the key is removed. Fails: ZC_E_NOMEM, ZC_E_KEY, ZC_E_TAG_*, ZC_E_DEPS, ZC_E_INVAL.
 * Threads: any. Cost: one allocation, and the removal of what must give way. */
ZOOCACHE_API int zc_put(zc_cache *cache, zc_bytes key, zc_bytes value, const zc_put_opts *opts);
/* The same for an object: zc_get() gives its pointer back, and `drop` is called when the last
 * holder lets go. It is transferred only when ZC_OK is returned. */
ZOOCACHE_API int zc_put_object(zc_cache *cache, zc_bytes key, void *object, size_t size,
                               zc_drop_fn drop, void *drop_user, const zc_put_opts *opts);
/* The same for "there is no such thing", which is kept for negative_ttl. */
ZOOCACHE_API int zc_put_absent(zc_cache *cache, zc_bytes key, const zc_put_opts *opts);

/* The same for bytes in n parts, which are for the storage alone, and uncompressed: if it has
 * `put_parts`, they are not copied; and the table does not keep them. Fails as well without a
 * storage: ZC_E_INVAL; ZC_E_BUILD: without ZOOCACHE_WITH_BUS. */
ZOOCACHE_API int zc_put_parts(zc_cache *cache, zc_bytes key, const zc_bytes *parts, size_t n,
                              const zc_put_opts *opts);

/* Removes a key, here and in the storage; a running fill of it is fenced. ZC_MISS: was not here. */
ZOOCACHE_API int zc_del(zc_cache *cache, zc_bytes key);

/* The point in the order of invalidations to hand to zc_put_opts.begin: take it before reading. */
ZOOCACHE_API uint64_t zc_begin(zc_cache *cache);
/* That point as it was at least `lag` ago: for what is read from a replica that may be so much
 * behind. Known from earlier calls, so it may be older, which costs values that are not stored; at
 * first it is before every invalidation. Threads: any. Cost: some 100 ns; no allocation. */
ZOOCACHE_API uint64_t zc_begin_ago(zc_cache *cache, uint64_t lag);

/* ---- fill ----------------------------------------------------------------------------------- */

/* Computes the value of a missing key: calls zc_fill_dep() and one of zc_fill_value(),
 * zc_fill_object(), zc_fill_absent(), and returns 0; or returns a negative code, which every
 * waiting caller gets. Called with no lock held. It may use the cache freely; for a nested fetch
 * pass its fill as zc_fetch_opts.parent, so that the inner dependencies become its own. */
typedef int (*zc_loader)(zc_fill *fill, void *user);

/* How to fetch. NULL or zero: the defaults. */
typedef struct zc_fetch_opts {
    zc_put_opts put;           /* how to store the value; the loader may add to it and change it */
    uint64_t begin;            /* 0: put.begin. zc_begin(), as it was when the snapshot was taken
                                  that the loader reads in; zc_begin_ago(), if it reads a replica.
                                  A loader cannot change it */
    zc_fill *parent;           /* the fill that this fetch is part of: it inherits dependencies,
                                  unless it ends before */
    uint64_t wait_timeout;     /* 0: no limit but the leader's lease. ZC_E_TIMEOUT past it; also
                                  for a leader of another node (`fleet`) */
    uint64_t flight_timeout;   /* 0: zc_desc.flight_timeout. The lease, if this caller leads */
    uint32_t early_percent;    /* 0: off. XFetch's beta (Vattani et al. 2015); 100 is usual */
    bool promote;              /* a leader's failure is not passed on: one follower tries again */
    bool serve_invalidated;    /* soft_ttl and stale_if_error may serve what was invalidated, too */
    bool refresh_here;         /* a refresh runs in this call, for its result: loader and user are
                                  not needed later. What is there is returned if it fails */
    bool fleet;                /* one loader in all nodes that share the storage, if it can lock */
    zc_silence silence;        /* ZC_SILENCE_DEFAULT: zc_desc.silence */
    void (*release)(void *user); /* not NULL: called once, when `user` is no longer needed */
} zc_fetch_opts;

/* The value of `key`: from the table, from the storage, or from the loader, which runs once however
 * many callers wait. ZC_OK, ZC_STALE (soft_ttl, stale_if_error) or ZC_ABSENT, as in zc_get(); free
 * *view with zc_release(). A value that could not be stored is returned all the same.
 * With soft_ttl or early_percent the loader may run later, in a thread of its own or in zc_poll():
 * then loader and user must stay valid until `release` is called, or until zc_close() has returned.
 * Fails: the loader's code; ZC_E_LOADER, ZC_E_TIMEOUT, ZC_E_DEADLOCK, ZC_E_NOMEM, ZC_E_KEY, ... */
ZOOCACHE_API int zc_fetch(zc_cache *cache, zc_bytes key, zc_loader loader, void *user,
                          const zc_fetch_opts *opts, zc_view *view);

/* In a loader, or between begin and commit. One thread at a time. */
/* Adds a dependency. Fails: ZC_E_TAG_*, ZC_E_DEPS, ZC_E_NOMEM; the fill's value is then still
 * returned to its callers, but not stored: it would be missing a dependency. */
ZOOCACHE_API int zc_fill_dep(zc_fill *fill, zc_bytes tag);
ZOOCACHE_API int zc_fill_dep_tag(zc_fill *fill, zc_tag *tag);
/* Sets the value: bytes, copied. A second call replaces the first. */
ZOOCACHE_API int zc_fill_value(zc_fill *fill, zc_bytes value);
/* Sets the value: an object, transferred when ZC_OK is returned; `drop` as in zc_put_object().
 * Fails: ZC_E_NOMEM, with drop_in_poll. */
ZOOCACHE_API int zc_fill_object(zc_fill *fill, void *object, size_t size, zc_drop_fn drop,
                                void *drop_user);
/* Sets the value: there is no such thing. Cached for negative_ttl. */
ZOOCACHE_API int zc_fill_absent(zc_fill *fill);
/* How to store the value: change ttl, tti, ... Borrowed, as long as the fill. */
ZOOCACHE_API zc_put_opts *zc_fill_opts(zc_fill *fill);
/* Do not store the value: only this flight's callers get it. */
ZOOCACHE_API void zc_fill_no_store(zc_fill *fill);

/* ---- flights in pieces: for event loops, game loops, coroutines ------------------------------ */

/* Starts what zc_fetch() does, without ever blocking.
 * ZC_OK, ZC_ABSENT, ZC_STALE: *view as in zc_fetch(); *fill is NULL, or, with soft_ttl or
 *   early_percent, a leader's fill if this caller should refresh the value.
 * ZC_LEAD: *fill is the leader's: call zc_fill_*(), then zc_flight_commit() or abandon().
 * ZC_FOLLOW: *fill is a follower's: zc_flight_wait(), with zc_flight_notify() before it. */
ZOOCACHE_API int zc_flight_begin(zc_cache *cache, zc_bytes key, const zc_fetch_opts *opts,
                                 zc_view *view, zc_fill **fill);

/* Ends a leader's flight with the value that was set; consumes the fill. *view (may be NULL) is
 * the value, pinned. ZC_OK: stored; ZC_ABSENT: likewise, a negative result; ZC_REFUSED: valid for
 * this caller, not stored; ZC_E_LEASE: likewise, because the lease was lost or the key was written
 * meanwhile; ZC_E_LOADER: no value was set, and the flight has failed. ZC_STALE or ZC_ABSENT in an
 * error's place: an old result that stands in (stale_if_error). */
ZOOCACHE_API int zc_flight_commit(zc_fill *fill, zc_view *view);

/* Leader: ends the flight without a value. error < 0: followers get it, unless they asked for
 * `promote`; error == 0: hand over, one of them leads next (a cancelled task).
 * Follower: leaves; nobody else notices. Consumes the fill. */
ZOOCACHE_API void zc_flight_abandon(zc_fill *fill, int error);

/* Waits for the leader, at most `timeout` (0: does not block). ZC_OK, ZC_STALE, ZC_ABSENT, or the
 * leader's error: consumes the fill. ZC_RETRY: likewise; begin again (the leader lost its lease
 * or handed over, or an invalidation came between its start and yours). ZC_PENDING: not yet, the
 * fill stays. If it is a refresh that nobody has begun to run, this call runs its loader. */
ZOOCACHE_API int zc_flight_wait(zc_fill *fill, uint64_t timeout, zc_view *view);

/* Follower: calls fn(user) once, as soon as zc_flight_wait() would not be pending; in the thread
 * that ended the flight, no lock held; at once if it has ended already. Not called any more after
 * the fill is consumed, except by a thread that is doing so at that moment. */
ZOOCACHE_API int zc_flight_notify(zc_fill *fill, void (*fn)(void *user), void *user);

/* ---- invalidate ----------------------------------------------------------------------------- */

/* Everything that depends on `tag`, or on a tag below it, is gone: no read begun after the return
 * gives a value whose fill began before it. Cost: O(length of the tag), however many depend on it.
 * Never fails for want of memory. Fails: ZC_E_TAG_*; ZC_E_STORE: done here, but the storage could
 * not keep it. Threads: any. */
ZOOCACHE_API int zc_invalidate(zc_cache *cache, zc_bytes tag);
/* n tags in one step: with one version, and no reader sees some of them done and others not; on
 * other nodes, with several shards, within each shard. */
ZOOCACHE_API int zc_invalidate_many(zc_cache *cache, const zc_bytes *tags, size_t n);
/* The same without parsing. */
ZOOCACHE_API int zc_invalidate_tag(zc_cache *cache, zc_tag *tag);
/* Tags that a transaction is about to change, for a process that may die between its commit and
 * zc_invalidate(). From here on until zc_hold_end() they are held: they are invalidated at once,
 * and what depends on one of them, or on a tag below it, is given to who has asked for it, and not
 * stored, on any node. If this process dies, the others end the hold when `lease` is over, as if
 * it had invalidated then. So call it after the changes and before the commit, with a lease (1 ms
 * to an hour) that the commit is sure to be over in, also if the process dies meanwhile, and
 * zc_hold_end() after the commit, or the rollback. Then whatever dies when, a value served at time
 * x reflects every commit before x - T, if every node knows of holds.
 * *hold: what to end. Fails: ZC_E_TAG_*; ZC_E_NOMEM; ZC_E_BUS, ZC_E_STORE: not announced, and not
 * held; ZC_E_BUILD: without ZOOCACHE_WITH_BUS, or for a bus that cannot hold. Threads: any. Cost:
 * that of zc_invalidate_many(), whatever zc_desc.ack, and a round trip; none for reads. */
ZOOCACHE_API int zc_hold(zc_cache *cache, const zc_bytes *tags, size_t n, uint64_t lease,
                         uint64_t *hold);
/* Ends a hold: what was held is invalidated once more. As zc_invalidate_many(), and ZC_E_INVAL for
 * what is not held by this process. Cost: O(all tags that are held). */
ZOOCACHE_API int zc_hold_end(zc_cache *cache, uint64_t hold);
/* Everything: also what has no dependency, also in the storage. It is gone at once, and not counted
 * by zc_stats.entries and bytes any more; its memory comes back, its destructors and events are
 * called, by housekeeping or when it gives way, before anything else does. Cost: O(shards). */
ZOOCACHE_API int zc_clear(zc_cache *cache);

/* Read your writes on another node. A token stands for all invalidations that this cache has
 * finished; zc_catch_up() on any node of the same bus returns when that node has heard of them.
 * Fails: ZC_E_TIMEOUT, ZC_E_BUS. Without a bus the token is 0, and there is nothing to wait for. */
ZOOCACHE_API uint64_t zc_token(zc_cache *cache);
ZOOCACHE_API int zc_catch_up(zc_cache *cache, uint64_t token, uint64_t timeout);

/* For a bus of your own: takes note of a stamp that another node has sent, before its invalidation
 * is applied here with zc_invalidate(); that version, and all later ones, are then above it.
 * ZC_E_CLOCK: more than max_clock_drift ahead; counted, and nothing changes. */
ZOOCACHE_API int zc_observe(zc_cache *cache, uint64_t remote);

/* Interns a tag. Free with zc_tag_release(), before zc_close(). */
ZOOCACHE_API int zc_tag_intern(zc_cache *cache, zc_bytes tag, zc_tag **out);
ZOOCACHE_API void zc_tag_release(zc_cache *cache, zc_tag *tag);
/* ZC_OK, or the ZC_E_TAG_* that says what is wrong with it. */
ZOOCACHE_API int zc_tag_check(zc_bytes tag);
/* The version of the tag's last invalidation, an HLC stamp; 0: never, as far as is remembered. For
 * a tag that was pruned: that of the latest pruned near it, which may be later than its own. */
ZOOCACHE_API int zc_tag_version(zc_cache *cache, zc_bytes tag, uint64_t *version);
/* Forgets the tags that nothing depends on and that were idle for `max_age`; what they knew is kept
 * in their parent's floor, so that nothing stale comes back. Returns how many. The cache does it by
 * itself with zc_desc.prune_after. */
ZOOCACHE_API size_t zc_prune(zc_cache *cache, uint64_t max_age);

/* ---- keep house ----------------------------------------------------------------------------- */

/* Does what the background threads would do: refreshes (runs loaders), removes what is expired or
 * invalidated, prunes; stops when `budget` is used up (a loader is not interrupted). A Redis that
 * hangs is not waited for: what it was to be told or asked is for a later call.
 * Each duty has its turn in each call, at least for one small step (see COSTS).
 * ZC_OK: nothing is left to do now; ZC_MORE: call again. Where invalidations kill little, looking
 * for what they killed is put off, up to 8 s: that costs memory, not freshness. */
ZOOCACHE_API int zc_poll(zc_cache *cache, uint64_t budget);

/* Round fork(): call the first before it, the second after it in the parent and the third in the
 * child, in the threads that forked; then both can go on using the cache, each its own copy.
 * Flights of the parent's other threads are abandoned in the child. A storage must be fit for
 * it. */
ZOOCACHE_API void zc_fork_prepare(zc_cache *cache);
ZOOCACHE_API void zc_fork_parent(zc_cache *cache);
ZOOCACHE_API int zc_fork_child(zc_cache *cache);

/* ---- know what happens ---------------------------------------------------------------------- */

#define ZC_LOAD_BUCKETS 24 /* bucket i: loads of less than 2^i microseconds; the last: the rest */

typedef struct zc_stats {
    uint64_t hits;               /* reads answered from the table, negative ones included */
    uint64_t hits_stale;         /*   of them: served as ZC_STALE */
    uint64_t hits_store;         /* reads answered from the storage */
    uint64_t misses_absent;      /* misses: no entry */
    uint64_t misses_expired;     /*   past its time */
    uint64_t misses_invalidated; /*   killed by an invalidation */
    uint64_t puts;               /* values stored: zc_put, fills, from the storage */
    uint64_t refused;            /* values not stored: too large, or invalidated while computed */
    uint64_t removed[ZC_CAUSE_COUNT];
    uint64_t fills, fill_errors; /* loaders that ended: with a value, with an error */
    uint64_t fills_late;         /* values of leaders that had lost their lease or were fenced */
    uint64_t waits;              /* callers that waited for another's fill */
    uint64_t refreshes;          /* loads begun for soft_ttl or early_percent */
    uint64_t load_ns;            /* time spent in loaders, in all */
    uint64_t load_histogram[ZC_LOAD_BUCKETS];
    uint64_t invalidations;      /* versions handed out */
    uint64_t tags_pruned;
    uint64_t clock_refused;      /* remote stamps beyond max_clock_drift */
    uint64_t store_errors;       /* failed calls of the storage */
    uint64_t store_corrupt;      /* records that were no good: damaged, hostile, of the future */
    uint64_t store_forged;       /* records that were not sealed by us for their key, or changed;
                                    and entries of the log, likewise */
    uint64_t store_unkeyed;      /* those that were sealed with a key that is not here */
    uint64_t store_stale;        /* records that had expired or were invalidated */
    uint64_t store_skipped;      /* calls of the storage that its breaker spared */
    uint64_t bus_entries;        /* invalidations heard from the log, one's own included */
    uint64_t bus_breaks;         /* times that the log had to be attached anew */
    uint64_t bus_errors;         /* failed calls of the bus */
    uint64_t bus_silent;         /* reads that met a bus silent for too long */
    /* Levels, now. */
    size_t entries, bytes;       /* in the table; bytes as counted against max_bytes */
    size_t flights;              /* running */
    size_t tags, tags_idle, tag_bytes; /* nodes of the trie; nothing depends on; memory */
    size_t memory;               /* taken from the allocator or the block, all in all */
    size_t bus_pending;          /* tags of invalidations that the log has not taken yet */
    uint64_t bus_age;            /* since it was last proven that all was heard; 0: no bus */
    bool store_open;             /* the breaker is open: the storage is not asked */
} zc_stats;

/* A snapshot; each shard's part is consistent in itself. Cost: O(shards). */
ZOOCACHE_API void zc_stats_read(zc_cache *cache, zc_stats *stats);

#ifndef ZOOCACHE_NO_TEXT
/* Writes the snapshot in the Prometheus text format. `name`: the value of the label cache="..."
 * (quotes and newlines escaped). Returns the whole length without the NUL; as much as fits is
 * written and terminated, like snprintf. */
ZOOCACHE_API size_t zc_stats_prometheus(const zc_stats *stats, const char *name, char *buf,
                                        size_t cap);
#endif

typedef struct zc_explanation {
    int state;            /* ZC_OK fresh; ZC_STALE soft deadline past; ZC_ABSENT negative, fresh;
                             ZC_MISS: not there, or expired or invalidated as below */
    bool present;         /* there is an entry */
    bool expired;         /* its time is over */
    bool invalidated;     /* a tag on the path of a dependency is newer than it */
    bool filling;         /* a flight is running for this key */
    uint64_t begin;       /* the point in the order of invalidations up to which it is good */
    uint64_t expires_in;  /* ZC_NEVER: no limit */
    uint64_t killed_at;   /* version of the tag that killed it */
    size_t bytes, deps;   /* its cost; how many dependencies */
    uint32_t pins;        /* views that hold it */
    char killer[ZC_TAG_MAX + 1]; /* the tag that killed it; "" for zc_clear */
} zc_explanation;

#ifndef ZOOCACHE_NO_TEXT
/* Why a read of `key` would be a hit or a miss; counts nothing and changes nothing. */
ZOOCACHE_API int zc_explain(zc_cache *cache, zc_bytes key, zc_explanation *out);
#endif

/* Whether the table has a value that zc_get() would give; counts nothing and changes nothing, and
 * does not ask the storage. What it says may be over when it returns. Threads: any. Cost: a hit. */
ZOOCACHE_API bool zc_contains(zc_cache *cache, zc_bytes key);

#ifdef ZOOCACHE_WITH_WALK
/* The keys of the table that zc_contains(), in steps: calls fn(user, key, value) for some of them,
 * from *cursor on, and moves that; 0: the beginning. ZC_MORE: call again; ZC_OK: that was all, and
 * *cursor is 0. A step ends after about n keys and empty places, at least one. Key and value are
 * borrowed until fn returns; of an object, its pointer and size.
 * A key that is there from the first step to the last comes once; one that comes or goes meanwhile
 * once or not at all: in the order of their hashes, whatever is written meanwhile.
 * Threads: any. No lock is held while fn runs, which may use the cache. Counts as no read. */
ZOOCACHE_API int zc_keys(zc_cache *cache, uint64_t *cursor, size_t n,
                         void (*fn)(void *user, zc_bytes key, zc_bytes value), void *user);
/* The same for tags that are in use: that an entry, a fill or an interned tag names, or one below
 * it. */
ZOOCACHE_API int zc_tags(zc_cache *cache, uint64_t *cursor, size_t n,
                         void (*fn)(void *user, zc_bytes tag), void *user);
#endif

/* Checks every structure of the cache against its invariants, with everything locked. ZC_OK, or
 * ZC_E_CORRUPT and a message in the log. Cost: O(entries + tags). For tests and debugging: no other
 * thread may use the cache meanwhile, but for its own; not from a call-back. */
ZOOCACHE_API int zc_check(zc_cache *cache);

/* ---- the clock, by itself ------------------------------------------------------------------- */

/* A hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014) in one 64-bit stamp:
 * 48 bits of milliseconds since 1970, 16 bits of counter. Zero-initialize; set `clock` or leave it
 * for the system's. Threads: any, no lock. */
typedef struct zc_hlc {
    zc_shared64 last;    /* private: the last stamp given */
    zc_shared64 refused; /* remote stamps that were too far ahead */
    uint64_t max_drift; /* 0: 60 s */
    zc_clock clock;
} zc_hlc;

#define ZC_HLC_TEXT 32 /* bytes for zc_hlc_format, its NUL included */

/* A stamp above every stamp given or merged before, whatever the wall clock does. */
ZOOCACHE_API uint64_t zc_hlc_now(zc_hlc *hlc);
/* Takes note of another node's stamp: later stamps are above it. ZC_E_CLOCK: more than max_drift
 * ahead of the wall clock, or above 2^62; counted, and nothing changes. */
ZOOCACHE_API int zc_hlc_merge(zc_hlc *hlc, uint64_t remote);
#ifndef ZOOCACHE_NO_TEXT
/* "2026-11-21T07:32:11.123Z+0042": sorts as the stamps do. Returns `text`, terminated. */
ZOOCACHE_API char *zc_hlc_format(uint64_t stamp, char text[ZC_HLC_TEXT]);
/* Reads exactly what zc_hlc_format() writes. ZC_E_INVAL: anything else. Cost: that of 65 texts. */
ZOOCACHE_API int zc_hlc_parse(zc_bytes text, uint64_t *stamp);
#endif

/* ---- the stored record, by itself ----------------------------------------------------------- */

/* What a storage keeps for a key. The bytes are described in >>codec. */
typedef struct zc_record {
    zc_bytes key, value;
    const zc_bytes *deps;
    size_t ndeps;
    uint64_t generation, begin;
    zc_bytes mark;                /* in the place of begin, with a bus of several logs */
    uint64_t expires_ms, soft_ms; /* wall clock, milliseconds since 1970; 0: never */
    uint64_t tti_ms, grace_ms;    /* durations; 0: none */
    bool absent, plain;           /* plain: encode does not compress the value */
} zc_record;

#ifndef ZOOCACHE_NO_STORE
/* Encodes a record into memory from `allocator` (NULL: malloc); *out is transferred: free it with
 * the same allocator and out->len. Fails: ZC_E_NOMEM, ZC_E_INVAL (a part too long). */
ZOOCACHE_API int zc_record_encode(const zc_record *record, const zc_allocator *allocator,
                                  zc_bytes *out);
/* Decodes: trusts no length, checks the checksum. *memory (free with the same allocator and its
 * len) holds what `record` points to beside `bytes`: dependencies, and the decompressed value.
 * `max_value`: refuse longer values. Fails: ZC_E_CORRUPT, ZC_E_NOMEM; both outputs are then
 * zeroed. */
ZOOCACHE_API int zc_record_decode(zc_bytes bytes, size_t max_value, const zc_allocator *allocator,
                                  zc_record *record, zc_bytes *memory);
#endif

/* ---- sealing -------------------------------------------------------------------------------- */

/* Zero means the default in every field but `keys`. Borrowed until zc_seal_open() returns. */
typedef struct zc_seal_desc {
    const zc_bytes *keys; /* ZC_SEAL_KEY random bytes each. The first seals, all open; to change it
                             give every process the new one as second, then as first */
    size_t nkeys;         /* 1 to ZC_SEAL_KEYS */
    zc_bytes prefix;      /* default: "". Whatever tells caches with these keys apart: what is
                             sealed for one prefix does not open for another */
    /* default: NULL, one scope. Else the scope of a key, say a tenant: each has a key of its own.
     * Borrowed until the next call in this thread. */
    zc_bytes (*scope_of)(void *user, zc_bytes key);
    void *user;
} zc_seal_desc;

#ifdef ZOOCACHE_WITH_SEAL
/* Fills *sealer for zc_desc.sealer, over OpenSSL's libcrypto. zc_open() takes it over; close it
 * yourself (sealer->close(sealer->user)) if it was not called, or has failed. Keys are copied, and
 * wiped when it is closed. Fails: ZC_E_INVAL (a key of another length, too many), ZC_E_NOMEM (also
 * if OpenSSL has not got the algorithms). *sealer is then zeroed.
 * Threads: any. Cost: about 50 us a key. */
ZOOCACHE_API int zc_seal_open(const zc_seal_desc *desc, zc_sealer *sealer);
#endif

/* ---- storage and bus: LMDB ------------------------------------------------------------------ */

#ifdef ZOOCACHE_WITH_LMDB

/* One LMDB environment, shared by the processes of one machine that open the same directory. Zero
 * means the default in every field but `path`. Borrowed until zc_lmdb_open() returns. */
typedef struct zc_lmdb_desc {
    const char *path; /* a directory of a local file system, for this alone; made if need be */
    size_t map_size;  /* default: 1 GiB; at least 8 MiB. The most that the file may occupy. If it is
                         there already, it is made larger if no other process has it open, and
                         never smaller */
    size_t max_entries; /* default: no limit. Records in the file at most, of all processes, which
                         give the same: each heeds it at its own writes. What has ended goes first,
                         then what was not used for longest. Where the file has more when it is
                         opened, each write and each second take some away */
    bool sync;        /* default: false, the cache survives kill -9 but begins empty after a reboot.
                         True: each write waits for the disk, and the cache survives that, too */
    zc_allocator allocator; /* default: malloc and free. LMDB itself uses malloc all the same */
    zc_clock clock;         /* default: the system's clocks */
    zc_log log;             /* default: silent. Says why an open has failed, if the file is lost,
                               and, at most once a minute, that the disk cannot be written */
} zc_lmdb_desc;

/* Fills *store and *bus for zc_desc, both of one environment: its records, and its log of
 * invalidations. zc_open() takes them over; close each of them yourself (store->close(store->user),
 * bus->close(bus->user)) if it was not called, or has failed. The last of the two lets go.
 * A process may have a directory open once: ZC_E_INVAL if it is already (told on Linux; elsewhere
 * it is for you to see to). A directory that a program on another machine, or in another pid
 * namespace, has open must not be opened.
 * Fails: ZC_E_INVAL, ZC_E_NOMEM, ZC_E_THREAD; ZC_E_CORRUPT: the file is damaged, of another version
 * or not of this library, and is left as it is; ZC_E_FULL: no space; ZC_E_STORE: anything else that
 * the system has against it. Both tables are then zeroed.
 * Damage: LMDB aborts the process, or crashes, at pages that make no sense. So the first process
 * that opens a file (told on Linux) looks at all pages but those of values above some 2 KB. What
 * changes in a file while a process has it open, and values that a disk cannot read, still end it;
 * a file that became shorter is not read any more when that is seen, within a second or so.
 * Threads: any. Cost: some milliseconds; for who comes first 0.1 ms for each MB of large values, up
 * to 0.7 ms of records of 100 bytes, and the disk's time if they are not in memory. */
ZOOCACHE_API int zc_lmdb_open(const zc_lmdb_desc *desc, zc_store *store, zc_bus *bus);

#endif

/* ---- storage and bus: Redis ----------------------------------------------------------------- */

/* Zero means the default in every field. See >>redis for keys, protocol and costs. */
typedef struct zc_redis_desc {
    /* default: "redis://127.0.0.1". In user and password, %XX stands for a byte.
     *   redis://[[user]:password@]host[:port][/database]       rediss://...: over TLS
     *   unix://[[user]:password@]/path/to/socket[?db=database]
     *   redis+sentinel://[[user]:password@]host[:port],.../name-of-master[/database] */
    const char *url;
    const char *prefix;   /* default: "zoocache". Keys are "{prefix}:..."; no brace in it */
    uint64_t timeout;     /* default: 250 ms. For a call, and for connecting; see >>redis */
    unsigned connections; /* default: 8. The pool, for each shard; the bus's reading has one more,
                             with several shards two */
    unsigned replicas;    /* default: 0. That many must have an entry for ZC_DURABLE; and if not 0,
                             every proof includes a write that a master cut off from its replicas
                             refuses: the server must have min-replicas-to-write */
    uint64_t log_length;  /* default: 100000 entries or more. Who is further behind, flushes */
    unsigned log_shards;  /* default: 1, at most ZC_LOGS_MAX. The log is in so many parts, and the
                             records, too; each may be on another node of a cluster. The same for
                             all caches with this prefix: who differs attaches not (ZC_E_INVAL) */
    uint64_t max_tags;    /* default: 200000 a shard. Tags whose last position is remembered */
    uint64_t max_ttl;     /* default: 30 days. A record's life in Redis at most */
    /* Of rediss://, files (PEM), read once; default: the system's CAs, no certificate of our own.
     * The server's certificate must be valid and name the host of the URL, or the IP address if the
     * URL has one; after a redirection (MOVED), the host that it names. */
    const char *tls_ca, *tls_cert, *tls_key;
    zc_allocator allocator;  /* default: malloc and free */
    zc_clock clock;          /* default: the system's clocks */
    zc_log log;              /* default: silent. Says, each time, that a server cannot be reached or
                                what it refuses; of much at once the beginning */
} zc_redis_desc;

#ifdef ZOOCACHE_WITH_REDIS
/* Fills *store, *bus, or both (NULL: not wanted), for zc_desc; one pool of connections serves both.
 * `desc` and its texts are copied; NULL: all defaults. Nothing is connected yet, and the server
 * need not be up. Each table is freed by its `close`, which zc_close() calls.
 * Fails: ZC_E_INVAL (the URL or the prefix; tls_cert and tls_key are no pair, or one of the files
 * cannot be read), ZC_E_BUILD (rediss:// in a build without TLS), ZC_E_NOMEM, ZC_E_THREAD. */
ZOOCACHE_API int zc_redis_open(const zc_redis_desc *desc, zc_store *store, zc_bus *bus);
#endif

/* ---- storage and bus: any place that can compare and set ------------------------------------ */

#define ZC_PLACE_KEY 128u /* bytes of a place's key at most */

/* A place for values under keys that all nodes share: Memcached, a database, a server of files with
 * ETags, a directory. What it must promise: `read` and `swap` of one key are linearizable. So each
 * `read` asks the one server that decides, never a replica or a cache of the client's, and of all
 * swaps with one token at most one takes effect. It may lose values, and be down.
 * A key is of letters, digits, '_', '-' and '.', does not begin with '.', and is no longer than
 * ZC_PLACE_KEY; a value, any bytes: up to 96 KiB under the keys of `read` and `swap`, a record
 * under the others. Every function may be called from several threads at once, and gives up by
 * itself: ZC_E_TIMEOUT. Return 0 for done, ZC_MISS as said below, any negative code for a failure:
 * ZC_E_BUSY if it was other calls that it waited for, else ZC_E_STORE, say. */
typedef struct zc_place {
    uint32_t version; /* 1 */
    /* Records: as those of zc_store. A record that is lost or old does no harm. */
    int (*get)(void *user, zc_bytes key, zc_sink *sink);
    int (*get_many)(void *user, const zc_bytes *keys, size_t n, zc_sink *const *sinks,
                    int *results); /* NULL: `get` is called n times */
    int (*put)(void *user, zc_bytes key, zc_bytes value, uint64_t expires_ms); /* never 0 */
    int (*del)(void *user, zc_bytes key);
    /* The value as it is now, and a token that stands for it, any bytes, which never stands for
     * another value that the key has had or will have. ZC_MISS: there is none, and the token stands
     * for that; it may be empty. */
    int (*read)(void *user, zc_bytes key, zc_sink *value, zc_sink *token);
    /* Puts a value that does not expire, if the key still has what the token stands for. ZC_MISS:
     * it has not, and nothing has changed. A failure may have taken effect, or may yet. */
    int (*swap)(void *user, zc_bytes key, zc_bytes value, zc_bytes token);
    void (*forked)(void *user); /* NULL, or in the child of a fork: lets go of what it shares */
    void (*close)(void *user);  /* NULL, or called once, after everything else */
    void *user;
} zc_place;

/* Zero means the default in every field but `place`. */
typedef struct zc_place_desc {
    zc_place place;
    const char *prefix; /* default: "zoocache". Keys are "<prefix>.<more>"; at most 64 of the bytes
                           of a key */
    uint64_t poll;      /* default: a quarter of max_staleness, which it is at most. The log is read
                           so often, and an invalidation heard so late */
    uint64_t max_ttl;   /* default: 30 days. A record's life in the place at most */
    zc_allocator allocator; /* default: malloc and free */
    zc_clock clock;         /* default: the system's clocks */
    zc_log log;             /* default: silent. Says why a place was refused */
} zc_place_desc;

#if defined(ZOOCACHE_WITH_BUS) || defined(ZOOCACHE_WITH_LMDB) || defined(ZOOCACHE_WITH_REDIS)
/* Fills *store, *bus, or both (NULL: not wanted), for zc_desc, over a place; see >>place for its
 * keys and costs. `desc` and its text are copied. The place is taken over with ZC_OK: its `close`
 * is called when the last of the tables is closed (store->close(store->user), and that of the bus),
 * as zc_close() does.
 * Tries the place with a value of its own: ZC_E_INVAL, if of two swaps with one token both win, or
 * a read does not give what was swapped last. If it cannot be reached, it is tried before it is
 * first used, and until it has passed every call fails.
 * Fails: ZC_E_INVAL (that; a function or a good prefix is missing), ZC_E_NOMEM, ZC_E_THREAD. Both
 * tables are then zeroed, and the place is still yours.
 * Threads: any. Cost: some ten calls of the place. */
ZOOCACHE_API int zc_place_open(const zc_place_desc *desc, zc_store *store, zc_bus *bus);
#endif

#ifdef __cplusplus
}
#endif

/* ---- C++ ------------------------------------------------------------------------------------ */

#if defined(__cplusplus) && __cplusplus >= 201703L && !defined(ZOOCACHE_NO_CXX)
#  include <exception>
#  include <memory>
#  include <string_view>
#  include <type_traits>
#  include <utility>
#  if __cplusplus >= 202002L
#    include <span>
#  endif

/* Owners of what the functions above give: moved, not copied, ended by their destructors; they
 * allocate nothing. Errors are the codes of C, in exceptions' place, too; only what a loader throws
 * is thrown on. What has no method here: zc_clear(cache.handle()), ... Threads, costs: as in C. */
namespace zoocache {

inline zc_bytes bytes(std::string_view s) noexcept { return zc_slice(s.data(), s.size()); }

template <class T> void drop(void *, void *object, size_t) { delete static_cast<T *>(object); }

/* An interned tag; false if its text is none. To be gone before its cache is. */
class tag {
    struct release {
        zc_cache *cache;
        void operator()(zc_tag *t) const noexcept { zc_tag_release(cache, t); }
    };
    std::unique_ptr<zc_tag, release> tag_;

public:
    tag() = default;
    tag(zc_cache *cache, std::string_view text) noexcept : tag_(nullptr, release{cache}) {
        zc_tag *t;
        if (zc_tag_intern(cache, bytes(text), &t) == ZC_OK) tag_.reset(t);
    }
    explicit operator bool() const noexcept { return tag_ != nullptr; }
    zc_tag *handle() const noexcept { return tag_.get(); }
};

/* What a read gave: true if there is a value, which stays as it is until the view ends, also after
 * its cache; and the code. */
class view {
    struct unpin {
        zc_cache *cache;
        void operator()(void *pin) const noexcept {
            zc_view v = {nullptr, 0, pin};
            zc_release(cache, &v);
        }
    };
    std::unique_ptr<void, unpin> pin_;
    zc_bytes value_ = {nullptr, 0};
    int code_ = ZC_MISS;

public:
    view() = default;
    view(zc_cache *cache, int code, const zc_view &v) noexcept
        : pin_(v.pin, unpin{cache}), value_(zc_slice(v.data, v.size)), code_(code) {}
    explicit operator bool() const noexcept { return pin_ != nullptr; }
    int code() const noexcept { return code_; } /* ZC_OK, ZC_STALE; ZC_MISS, ZC_ABSENT, ZC_E_... */
    std::string_view text() const noexcept {
        if (!pin_) return {};
        return {static_cast<const char *>(value_.ptr), value_.len};
    }
#  if __cplusplus >= 202002L
    std::span<const std::byte> span() const noexcept { return std::as_bytes(std::span(text())); }
#  endif
    template <class T> T *object() const noexcept { /* put as a std::unique_ptr<T> */
        return pin_ ? static_cast<T *>(const_cast<void *>(value_.ptr)) : nullptr;
    }
};

/* A loader's part in a flight: zc_fill_...() of the same names. */
class fill {
    zc_fill *fill_;

public:
    explicit fill(zc_fill *f) noexcept : fill_(f) {}
    int dep(std::string_view text) noexcept { return zc_fill_dep(fill_, bytes(text)); }
    int dep(const tag &t) noexcept { return zc_fill_dep_tag(fill_, t.handle()); }
    int value(std::string_view v) noexcept { return zc_fill_value(fill_, bytes(v)); }
    template <class T> int value(std::unique_ptr<T> object, size_t size = sizeof(T)) {
        int rc = zc_fill_object(fill_, object.get(), size, drop<T>, nullptr);
        if (rc == ZC_OK) (void)object.release();
        return rc;
    }
    int absent() noexcept { return zc_fill_absent(fill_); }
    zc_put_opts &opts() noexcept { return *zc_fill_opts(fill_); }
    zc_fill *handle() const noexcept { return fill_; }
};

/* Runs a loader for C, and keeps what it throws. */
template <class F> struct loading {
    F &load;
#  ifdef __cpp_exceptions
    std::exception_ptr thrown = nullptr;
    static int run(zc_fill *f, void *user) noexcept {
        try {
            return call(fill(f), *static_cast<loading *>(user));
        } catch (...) {
            static_cast<loading *>(user)->thrown = std::current_exception();
            return ZC_E_LOADER;
        }
    }
    void rethrow() const {
        if (thrown) std::rethrow_exception(thrown);
    }
#  else
    static int run(zc_fill *f, void *user) { return call(fill(f), *static_cast<loading *>(user)); }
    void rethrow() const noexcept {}
#  endif
    static int call(fill f, loading &l) {
        if constexpr (std::is_same_v<decltype(l.load(f)), int>) return l.load(f);
        else return f.value(l.load(f));
    }
};

class cache {
    struct close {
        void operator()(zc_cache *c) const noexcept { zc_close(c); }
    };
    std::unique_ptr<zc_cache, close> cache_;

public:
    /* In the place of what was open. */
    int open(const zc_desc &desc = {}) noexcept {
        zc_cache *c;
        int rc = zc_open(&desc, &c);
        cache_.reset(c);
        return rc;
    }
    explicit operator bool() const noexcept { return cache_ != nullptr; }
    zc_cache *handle() const noexcept { return cache_.get(); }
    view get(std::string_view key) noexcept {
        zc_view v = {};
        int rc = zc_get(handle(), bytes(key), &v);
        return view(handle(), rc, v);
    }
    int put(std::string_view key, std::string_view value, const zc_put_opts &opts = {}) noexcept {
        return zc_put(handle(), bytes(key), bytes(value), &opts);
    }
    /* `object` is the cache's with ZC_OK, and else the caller's as before. */
    template <class T>
    int put(std::string_view key, std::unique_ptr<T> &&object, const zc_put_opts &opts = {},
            size_t size = sizeof(T)) {
        int rc = zc_put_object(handle(), bytes(key), object.get(), size, drop<T>, nullptr, &opts);
        if (rc == ZC_OK) (void)object.release();
        return rc;
    }
    int del(std::string_view key) noexcept { return zc_del(handle(), bytes(key)); }
    /* `load` gets a fill, and returns the value, a text or a std::unique_ptr<T>; or a code, having
     * set it. If it throws, and nothing stale may stand in, so does this call; who has waited gets
     * ZC_E_LOADER. It runs within this call or not at all: opts.refresh_here. */
    template <class F> view fetch(std::string_view key, F &&load, zc_fetch_opts opts = {}) {
        loading<F> l{load};
        zc_view v = {};
        opts.refresh_here = true;
        opts.release = nullptr;
        int rc = zc_fetch(handle(), bytes(key), l.run, &l, &opts, &v);
        if (rc < 0) l.rethrow();
        return view(handle(), rc, v);
    }
    int invalidate(std::string_view text) noexcept { return zc_invalidate(handle(), bytes(text)); }
    int invalidate(const tag &t) noexcept { return zc_invalidate_tag(handle(), t.handle()); }
};

} // namespace zoocache
#endif

#endif /* ZOOCACHE_H */

/* ============================================================================================ *
 *                                      IMPLEMENTATION                                          *
 * ============================================================================================ */

#if defined(ZOOCACHE_IMPLEMENTATION) && !defined(ZC__IMPLEMENTED)
#define ZC__IMPLEMENTED

/* FOLLOW ONE KEY
 *
 *     zc_get, zc_fetch                                                     zc_invalidate
 *          |                                                                     |
 *     hash -> shard -> bucket -> entry -- deps --> org:1:team --> org:1 --> org --> root
 *          |             (>>table)  begin  >=?   version      version   version  (>>trie)
 *          | nothing fresh                                                       |
 *          v                                                                     v
 *     flight (>>flight) --- first ---> storage (>>store) <-- records, positions --> log (>>bus)
 *          | then                          |
 *          v                               |
 *     loader --- value, deps, begin ---> entry ---> table, and through to the storage
 *
 * A hit         zc_get() hashes the key. Under the lock of its shard, zc__look() finds the entry by
 *               zc__table_find() and asks zc__entry_state(): is its time over, and is it fresh? If
 *               `begin` is the newest version that there is, it is. If not, zc__trie_killer() walks
 *               the path of each dependency, and what it finds fresh has its `begin` raised to now.
 *               zc__entry_touch() tells the policy, zc__entry_pin() counts the view, and
 *               zc__deliver() fills it after the lock. zc_get_copy() first tries it without lock
 *               and pin: zc__copy_shared(). With a bus, zc__bus_gate() is asked before
 *               and zc__bus_holds() after: is the proof that everything was heard young enough?
 * A miss        zc_fetch() calls zc__begin(): under the shard's lock, either there is a flight for
 *               the key (zc__wait() sleeps until it ends), or this caller becomes its leader and
 *               takes `begin` = the newest version, before anything is read. zc__lead() asks the
 *               storage, then runs the loader, in which zc_fill_dep() gathers tags. zc__commit()
 *               makes the entry and asks zc__trie_killer() whether a dependency was invalidated
 *               since `begin`: if so, the value goes to who asked before, and not into the table.
 *               Otherwise zc__table_admit() inserts it, making room by the policy if need be,
 *               zc__store_through() writes the record, and zc__flight_wake() wakes the waiters.
 * An            zc_invalidate() finds the tag's node by zc__tag_acquire(), and zc__trie_stamp()
 * invalidation  writes a new version into it: nothing else. What depends on it, or on a tag below,
 *               is dead at its next look; housekeeping (zc_poll(), zc__sweep_some()) takes it out
 *               later.
 *               With a bus, zc__bus_publish() appends the tag to the log. There every other node
 *               hears it, zc__bus_read() calling zc__bus_read_entry(), and stamps its own node of
 *               the trie.
 * A foreign     zc__store_load() reads what another node has written, zc__record_decode() takes it
 * record        apart and trusts nothing in it. zc__store_judge() applies the same rule: the record
 *               carries the position of the log up to which its writer had heard, and found that
 *               nothing had killed it, when it wrote (zc__bus_position()). zc__bus_judge() turns
 *               that into a version of this node; for what is older than this node's attachment,
 *               zc__bus_ask() gets the versions of the paths, mostly in one round trip. If nothing
 *               is newer it becomes an entry as if it were loaded here.
 *
 * WORDS THAT ARE OURS
 *   published     the newest version that all see; up to it, every version is in its tag's node
 *   begin         `published` before the loader read anything: what an entry is good up to
 *   flight, fill  the computing of a value, one a key; a caller's part in it (zc_fill)
 *   killer        the tag whose version makes an entry stale
 *   floor         of a tag: the highest version of what was pruned below it
 *   fenced        a put or delete of the key came after the flight began: it does not store
 *   house         what housekeeping does: zc_poll(), or a thread
 */

/* ============================================================================================
 * >>platform   Compiler, operating system, clocks
 *   Idea        What differs between compilers and systems is here, or, if it is about threads, in
 *               >>thread. Later sections have an #if only for what they alone ask of a system
 *               (>>seal, >>backends, >>lmdb).
 *   Clocks      The coarse clocks, where there are any (Linux: 4 ns a call, 1 to 4 ms steps), serve
 *               deadlines on the hit path; the fine ones measure loads.
 * ========================================================================================== */

#if !defined(__GNUC__) && !defined(__clang__)
#  error "zoocache: the implementation needs gcc or clang (on Windows mingw-w64): see its manual"
#elif defined(__cplusplus) ? __cplusplus < 201703L : __STDC_VERSION__ < 201112L
#  error "zoocache: the implementation needs -std=c11 or -std=c++17, or later"
#endif
#ifndef ZOOCACHE_NO_STDLIB
#  include <stdlib.h>
#  include <time.h>
#endif
#ifdef _WIN32
#  ifndef WIN32_LEAN_AND_MEAN
#    define WIN32_LEAN_AND_MEAN
#  endif
#  include <windows.h>
#endif

#ifndef XXH_INLINE_ALL
#  define XXH_INLINE_ALL
#endif
#include <xxhash.h>
#ifdef __SSE2__
#  include <emmintrin.h>
#endif
#if defined(ZOOCACHE_NO_STORE) && !defined(ZOOCACHE_NO_LZ4)
#  define ZOOCACHE_NO_LZ4
#endif
#ifndef ZOOCACHE_NO_LZ4
#  include <lz4.h>
#endif

#if defined(ZOOCACHE_MALLOC) != defined(ZOOCACHE_FREE)
#  error "zoocache: define both ZOOCACHE_MALLOC(size) and ZOOCACHE_FREE(ptr), or neither"
#endif
#if !defined(ZOOCACHE_MALLOC) && !defined(ZOOCACHE_NO_STDLIB)
#  define ZOOCACHE_MALLOC(size) malloc(size)
#  define ZOOCACHE_FREE(ptr) free(ptr)
#  if defined(__linux__) && !defined(__ANDROID__)
#    define ZC__PAGES /* what malloc gives are pages that the system takes back one by one */
#    ifndef ZOOCACHE_NO_THREADS
#      define ZC__SLABS /* >>slab is compiled */
#    endif
#    include <sys/mman.h>
#    ifndef MADV_HUGEPAGE /* strict -std=c11 hides all three */
#      define MADV_DONTNEED 4
#      define MADV_HUGEPAGE 14
extern int madvise(void *start, size_t size, int advice);
#    endif
#  endif
#endif

/* ZC__WATCHED: a tool may watch each block of malloc. */
#if defined(ZOOCACHE_DEBUG) || defined(__SANITIZE_ADDRESS__)
#  define ZC__WATCHED true
#elif defined(__has_feature)
#  if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#    define ZC__WATCHED true
#  endif
#endif
#ifndef ZC__WATCHED
#  define ZC__WATCHED false
#endif

/* ZOOCACHE_ASSERT: misuse of the interface. ZC__ASSERT: broken invariants, cheap to see; compiled
 * in with ZOOCACHE_DEBUG. */
#ifndef ZOOCACHE_ASSERT
#  include <assert.h>
#  define ZOOCACHE_ASSERT(x) assert(x)
#endif
#ifdef ZOOCACHE_DEBUG
#  define ZC__ASSERT(x) ZOOCACHE_ASSERT(x)
#else
#  define ZC__ASSERT(x) ((void)0)
#endif

#define ZC__LIKELY(x) __builtin_expect(!!(x), 1)
#define ZC__UNLIKELY(x) __builtin_expect(!!(x), 0)
#define ZC__NOINLINE __attribute__((noinline))
#define ZC__ALIGNED(n) __attribute__((aligned(n)))
#ifdef __OPTIMIZE_SIZE__
#  define ZC__PREFETCH(p) ((void)(p))
#else
#  define ZC__PREFETCH(p) __builtin_prefetch(p)
#endif
#define ZC__LINE 64 /* bytes of a cache line */

static inline unsigned zc__ctz64(uint64_t x) { return (unsigned)__builtin_ctzll(x); }
static inline unsigned zc__clz64(uint64_t x) { return (unsigned)__builtin_clzll(x); }

#ifndef ZOOCACHE_NO_STDLIB
static inline uint64_t zc__from_timespec(const struct timespec *t) {
    return (uint64_t)t->tv_sec * ZC_SECOND + (uint64_t)t->tv_nsec;
}
static inline struct timespec zc__to_timespec(uint64_t ns) {
    struct timespec t;
    t.tv_sec = (time_t)(ns / ZC_SECOND);
    t.tv_nsec = (long)(ns % ZC_SECOND);
    return t;
}
#endif

#if defined(ZOOCACHE_NO_STDLIB)
static inline uint64_t zc__sys_mono(void) { return 0; }
static inline uint64_t zc__sys_wall(void) { return 0; }
static inline uint64_t zc__sys_coarse(void) { return 0; }
#elif defined(_WIN32)
static inline uint64_t zc__sys_wall(void) { /* counts 100 ns since 1601 */
    FILETIME t;
    GetSystemTimeAsFileTime(&t);
    uint64_t ticks = (uint64_t)t.dwHighDateTime << 32 | t.dwLowDateTime;
    return (ticks - UINT64_C(116444736000000000)) * 100;
}
static inline uint64_t zc__sys_mono(void) {
    LARGE_INTEGER n, hz;
    QueryPerformanceCounter(&n);
    QueryPerformanceFrequency(&hz);
    uint64_t ticks = (uint64_t)n.QuadPart, rate = (uint64_t)hz.QuadPart;
    return ticks / rate * ZC_SECOND + ticks % rate * ZC_SECOND / rate;
}
static inline uint64_t zc__sys_coarse(void) { return (uint64_t)GetTickCount64() * ZC_MILLISECOND; }
#elif defined(CLOCK_MONOTONIC)
static inline uint64_t zc__sys_clock(clockid_t id) {
    struct timespec t;
    return clock_gettime(id, &t) == 0 ? zc__from_timespec(&t) : 0;
}
#  if defined(CLOCK_MONOTONIC_COARSE) && !defined(__EMSCRIPTEN__) /* which has but the names */
#    define ZC__COARSE(id) id##_COARSE
#  else
#    define ZC__COARSE(id) id
#  endif
static inline uint64_t zc__sys_mono(void) { return zc__sys_clock(CLOCK_MONOTONIC); }
static inline uint64_t zc__sys_wall(void) { return zc__sys_clock(ZC__COARSE(CLOCK_REALTIME)); }
static inline uint64_t zc__sys_coarse(void) { return zc__sys_clock(ZC__COARSE(CLOCK_MONOTONIC)); }
#else /* strict C11 without POSIX: the wall clock is all there is; see the manual, "Macros" */
static inline uint64_t zc__sys_wall(void) {
    struct timespec t;
    return timespec_get(&t, TIME_UTC) == TIME_UTC ? zc__from_timespec(&t) : 0;
}
static inline uint64_t zc__sys_mono(void) { return zc__sys_wall(); }
static inline uint64_t zc__sys_coarse(void) { return zc__sys_wall(); }
#endif

/* The clocks of one cache: the hook's, or the system's. */
static inline uint64_t zc__mono(const zc_clock *c) {
    return c->version ? c->mono_ns(c->user) : zc__sys_mono();
}
static inline uint64_t zc__coarse(const zc_clock *c) {
    return c->version ? c->mono_ns(c->user) : zc__sys_coarse();
}
static inline uint64_t zc__wall(const zc_clock *c) {
    return c->version ? c->wall_ns(c->user) : zc__sys_wall();
}

/* ============================================================================================
 * >>thread   Atomics, locks, waiting, one thread
 *   Idea        Win32; pthreads wherever there are any, for their condition variables can count by
 *               the monotonic clock, their threads can block signals, and TSan knows them; C11
 *               threads elsewhere; nothing at all with ZOOCACHE_NO_THREADS, where every atomic is a
 *               plain access and every lock empty.
 *   Atomics     GCC's __atomic built-ins on plain fields, so that the same text is C11 and C++17.
 *               Names say the order. A load_acq pairs with the store_rel or rmw of the same field.
 *   Spin locks  For short sections without calls out: 4 bytes, one exchange to lock, one store to
 *               unlock. A waiter spins a little, yields some times, so a preempted holder can
 *               finish, and then sleeps between looks, so one of lower priority can, too.
 *   Lock order  zc__rank, below. With ZOOCACHE_DEBUG each thread has a list of the locks that it
 *               holds: whoever is about to wait for one asserts that its rank is above theirs, and
 *               functions that need a lock assert that it is in the list.
 *   Calls out   No lock is held while anything of the user's is called, the weigher apart: an event
 *               or log hook, a loader, a destructor, a completion, a release. What comes up under a
 *               lock is chained or noted, and reported after it. With ZOOCACHE_DEBUG each such call
 *               asserts that the list is empty. A storage writes under its caller's turn, but may
 *               use other caches: their locks have a list of their own meanwhile (ZC__APART).
 * ========================================================================================== */

#if defined(ZOOCACHE_NO_THREADS)
#  define ZC__THREAD_LOCAL
#  define zc__atomic_load_rlx(p) (*(p))
#  define zc__atomic_load_acq(p) (*(p))
#  define zc__atomic_load_sc(p) (*(p))
#  define zc__atomic_store_rlx(p, v) ((void)(*(p) = (v)))
#  define zc__atomic_store_rel(p, v) ((void)(*(p) = (v)))
#  define zc__atomic_add_rlx(p, v) ((*(p) += (v)) - (v))
#  define zc__atomic_sub_rlx(p, v) ((*(p) -= (v)) + (v))
#  define zc__atomic_sub_acqrel(p, v) ((*(p) -= (v)) + (v))
#  define zc__atomic_cas(p, expected, desired) ((void)(expected), *(p) = (desired), true)
#else
#  define zc__atomic_load_rlx(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#  define zc__atomic_load_acq(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#  define zc__atomic_load_sc(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#  define zc__atomic_store_rlx(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#  define zc__atomic_store_rel(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#  define zc__atomic_add_rlx(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#  define zc__atomic_sub_rlx(p, v) __atomic_fetch_sub((p), (v), __ATOMIC_RELAXED)
#  define zc__atomic_sub_acqrel(p, v) __atomic_fetch_sub((p), (v), __ATOMIC_ACQ_REL)
#  define zc__atomic_cas(p, expected, desired)                                                     \
      __atomic_compare_exchange_n((p), (expected), (desired), false, __ATOMIC_ACQ_REL,             \
                                  __ATOMIC_ACQUIRE)
#  define zc__atomic_swap_sc(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
#  define zc__atomic_cas_sc(p, expected, desired)                                                  \
      __atomic_compare_exchange_n((p), (expected), (desired), false, __ATOMIC_SEQ_CST,             \
                                  __ATOMIC_SEQ_CST)
static inline void zc__atomic_fence(void) {
#  ifdef __SANITIZE_THREAD__ /* gcc's knows no fences */
    char any = 0;
    (void)__atomic_exchange_n(&any, 1, __ATOMIC_SEQ_CST);
#  else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#  endif
}
#  ifdef __cplusplus
#    define ZC__THREAD_LOCAL thread_local
#  else
#    define ZC__THREAD_LOCAL _Thread_local
#  endif
#  if defined(_WIN32)
#    define ZC__WIN32_THREADS
#  elif __has_include(<pthread.h>) && !defined(ZC__C11_THREADS) /* tests/matrix.sh defines it */
#    define ZC__POSIX_THREADS
#    include <pthread.h>
#    include <sched.h>
#    include <signal.h>
#    include <unistd.h>
#    ifndef CLOCK_MONOTONIC /* strict -std=c11 hides this, too */
extern int nanosleep(const struct timespec *, struct timespec *);
#    endif
#  else
#    undef ZC__C11_THREADS
#    define ZC__C11_THREADS
#    include <threads.h>
#  endif
#endif

/* *p = max(*p, v) */
static inline void zc__atomic_raise(zc_shared64 *p, uint64_t v) {
    uint64_t old = zc__atomic_load_rlx(p);
    while (old < v && !zc__atomic_cas(p, &old, v)) {}
}

/* Counters that several threads bump and that nothing else depends on. */
static inline void zc__count(zc_shared64 *p, uint64_t n) { (void)zc__atomic_add_rlx(p, n); }

/* Lets other threads run: of this priority and above; for `ns`, all. */
static inline void zc__yield(void) {
#if defined(ZC__WIN32_THREADS)
    SwitchToThread();
#elif defined(ZC__POSIX_THREADS)
    sched_yield();
#elif defined(ZC__C11_THREADS)
    thrd_yield();
#endif
}
static inline void zc__nap(uint64_t ns) {
#if defined(ZC__WIN32_THREADS)
    Sleep((DWORD)(ns / ZC_MILLISECOND + 1));
#elif defined(ZC__C11_THREADS)
    struct timespec t = zc__to_timespec(ns);
    (void)thrd_sleep(&t, NULL);
#elif defined(ZC__POSIX_THREADS) || defined(CLOCK_MONOTONIC)
    struct timespec t = zc__to_timespec(ns);
    (void)nanosleep(&t, NULL);
#else
    (void)ns;
#endif
}

/* How many threads can run at the same time; many, if that is not known. */
static inline size_t zc__processors(void) {
#if defined(ZC__WIN32_THREADS)
    SYSTEM_INFO system;
    GetSystemInfo(&system);
    return system.dwNumberOfProcessors;
#elif defined(ZC__POSIX_THREADS) && defined(_SC_NPROCESSORS_ONLN)
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 || n > 1024 ? 1024 : (size_t)n;
#else
    return 1024;
#endif
}

/* The order of locks: who holds one may wait for one of a higher rank alone, or of the same at a
 * higher address. To try a lock is no waiting. */
typedef enum zc__rank {
    ZC__RANK_OUTSIDE,  /* locks that are not ours */
    ZC__RANK_HOUSE,    /* spin: one housekeeper; only tried, but by zc_check() */
    ZC__RANK_SLEEP,    /* to sleep on: a flight's, the threads' */
    ZC__RANK_ORDER,    /* of a shard: who waits for his turn to write to the storage */
    ZC__RANK_TURN,     /* that turn: taken as if tried, when there is nothing to wait for */
    ZC__RANK_READING,  /* gate: the reader of the bus */
    ZC__RANK_SLOT,     /* spin, LMDB: a pooled reader; only tried */
    ZC__RANK_GATE,     /* gate, LMDB: the writer */
    ZC__RANK_WAKE,     /* LMDB: a read of the log that waits */
    ZC__RANK_POOL,     /* Redis: connections */
    ZC__RANK_WAITER,   /* Redis: who waits for one */
    ZC__RANK_APPLY,    /* bus: the position */
    ZC__RANK_OUT,      /* bus: the outbox */
    ZC__RANK_WRITER,   /* spin, as all that follow. The writer of versions */
    ZC__RANK_SHARD,
    ZC__RANK_STRIPE,   /* of the trie */
    ZC__RANK_QUEUE,    /* refreshes, who waits for whom, write-behind, destructors: one at a time */
    ZC__RANK_LIMBO,    /* entries at which readers may still look */
    ZC__RANK_ARENA,
    ZC__RANK_LARGE,    /* large blocks that are being freed */
    ZC__RANK_SLAB,     /* a pool of slabs */
    ZC__RANK_REGIONS,  /* of all slabs */
    ZC__RANK_LEAF      /* of a storage of ours: a few fields */
} zc__rank;

/* What the debug build knows of a lock, within it. */
typedef struct zc__ranked zc__ranked;
#ifdef ZOOCACHE_DEBUG
struct zc__ranked {
    zc__ranked *below; /* the one that its holder took before */
    zc__rank rank;
};
#  define ZC__RANKED zc__ranked ranked;
static ZC__THREAD_LOCAL zc__ranked *zc__locks; /* that this thread holds, the latest first */
/* Another list takes its place, until this is called again. */
static inline void zc__locks_swap(zc__ranked **locks) {
    zc__ranked *mine = zc__locks;
    zc__locks = *locks;
    *locks = mine;
}
static inline bool zc__holds(const zc__ranked *l) {
    const zc__ranked *held = zc__locks;
    while (held && held != l) held = held->below;
    return held != NULL;
}
/* All locks and unlocks pass through these three: about to wait; has it; is about to let it go. */
static inline void zc__locking(const zc__ranked *l) {
    for (const zc__ranked *held = zc__locks; held; held = held->below)
        ZC__ASSERT(held->rank < l->rank || (held->rank == l->rank && held < l));
}
static inline void zc__locked(zc__ranked *l) {
    l->below = zc__locks;
    zc__locks = l;
}
static inline void zc__unlocking(const zc__ranked *l) {
    zc__ranked **at = &zc__locks;
    while (*at && *at != l) at = &(*at)->below;
    ZC__ASSERT(*at == l);
    if (*at) *at = l->below;
}
/* Calls what has locks of its own, caches perhaps, which are not ranked with the caller's. */
#  define ZC__APART(call)                                                                          \
      do {                                                                                         \
          zc__ranked *theirs = NULL;                                                               \
          zc__locks_swap(&theirs);                                                                 \
          (void)(call);                                                                            \
          zc__locks_swap(&theirs);                                                                 \
      } while (0)
#  define ZC__SET_RANK(lock, as) ((void)((lock)->ranked.rank = (as)))
#  define ZC__LOCKING(lock) zc__locking(&(lock)->ranked)
#  define ZC__LOCKED(lock) zc__locked(&(lock)->ranked)
#  define ZC__UNLOCKING(lock) zc__unlocking(&(lock)->ranked)
#else
#  define ZC__RANKED
#  define ZC__SET_RANK(lock, as) ((void)(lock), (void)(as))
#  define ZC__LOCKING(lock) ((void)(lock))
#  define ZC__LOCKED(lock) ((void)(lock))
#  define ZC__UNLOCKING(lock) ((void)(lock))
#  define ZC__APART(call) ((void)(call))
#  define zc__locks_swap(locks) ((void)0)
#endif
#define ZC__ASSERT_HELD(lock) ZC__ASSERT(zc__holds(&(lock)->ranked))
#define ZC__CALLS_OUT() ZC__ASSERT(zc__locks == NULL)

typedef struct zc__spin {
    uint32_t held;
    ZC__RANKED
} zc__spin;

static inline void zc__pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Between two looks at what another thread is about to change. */
static inline void zc__back_off(unsigned *looks) {
#ifdef ZOOCACHE_NO_THREADS
    (void)looks;
#else
    if (*looks < 100) zc__pause();
    else if (*looks < 120) zc__yield();
    else zc__nap(50000);
    if (*looks < 120) ++*looks;
#endif
}

static inline bool zc__spin_take(zc__spin *l) {
#ifdef ZOOCACHE_NO_THREADS
    bool mine = !l->held;
    l->held = 1;
    return mine;
#else
    return !__atomic_exchange_n(&l->held, 1, __ATOMIC_ACQUIRE);
#endif
}
static inline bool zc__spin_trylock(zc__spin *l) {
    if (zc__atomic_load_rlx(&l->held) || !zc__spin_take(l)) return false;
    ZC__LOCKED(l);
    return true;
}
/* Ends what zc__spin_trylock() began: that is real without threads, too, as the same thread may
 * come here again. */
static inline void zc__spin_end(zc__spin *l) {
    ZC__UNLOCKING(l);
    zc__atomic_store_rel(&l->held, 0);
}
#if defined(ZOOCACHE_NO_THREADS) && !defined(ZOOCACHE_DEBUG)
static inline void zc__spin_lock(zc__spin *l) { (void)l; }
static inline void zc__spin_unlock(zc__spin *l) { (void)l; }
#else
static ZC__NOINLINE void zc__spin_wait(zc__spin *l) {
    unsigned looks = 0;
    do
        while (zc__atomic_load_rlx(&l->held)) zc__back_off(&looks);
    while (!zc__spin_take(l));
}
static inline void zc__spin_lock(zc__spin *l) {
    ZC__LOCKING(l);
    if (ZC__UNLIKELY(!zc__spin_take(l))) zc__spin_wait(l);
    ZC__LOCKED(l);
}
static inline void zc__spin_unlock(zc__spin *l) { zc__spin_end(l); }
#endif
/* Locks, or unlocks: for what does so with everything. */
static inline void zc__spin_set(zc__spin *l, bool lock) {
    if (lock) zc__spin_lock(l);
    else zc__spin_unlock(l);
}

/* A mutex with its condition, for sleeping until woken, or for about `ns`, a minute at most: who
 * sleeps looks at the clock again. */
#define ZC__SLICE (60 * ZC_SECOND)
#if defined(ZC__WIN32_THREADS)
typedef struct zc__monitor {
    SRWLOCK mutex;
    CONDITION_VARIABLE cond;
    ZC__RANKED
} zc__monitor;
static inline bool zc__mutex_init(zc__monitor *m) {
    InitializeSRWLock(&m->mutex);
    InitializeConditionVariable(&m->cond);
    return true;
}
static inline void zc__monitor_destroy(zc__monitor *m) { (void)m; }
static inline void zc__mutex_lock(zc__monitor *m) { AcquireSRWLockExclusive(&m->mutex); }
static inline void zc__mutex_unlock(zc__monitor *m) { ReleaseSRWLockExclusive(&m->mutex); }
static inline void zc__monitor_wake(zc__monitor *m) { WakeAllConditionVariable(&m->cond); }
static inline void zc__monitor_wake_one(zc__monitor *m) { WakeConditionVariable(&m->cond); }
static inline void zc__mutex_sleep(zc__monitor *m, uint64_t ns) {
    SleepConditionVariableSRW(&m->cond, &m->mutex, (DWORD)(ns / ZC_MILLISECOND + 1), 0);
}
#elif defined(ZC__POSIX_THREADS)
typedef struct zc__monitor {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    ZC__RANKED
} zc__monitor;
/* Its clock is that of zc__sys_mono(). */
static inline bool zc__cond_init(pthread_cond_t *cond) {
#  if defined(CLOCK_MONOTONIC) && !defined(__APPLE__)
    pthread_condattr_t a;
    if (pthread_condattr_init(&a) != 0) return false;
    bool good = pthread_condattr_setclock(&a, CLOCK_MONOTONIC) == 0;
    good = good && pthread_cond_init(cond, &a) == 0;
    pthread_condattr_destroy(&a);
    return good;
#  else
    return pthread_cond_init(cond, NULL) == 0;
#  endif
}
static inline bool zc__mutex_init(zc__monitor *m) {
    if (pthread_mutex_init(&m->mutex, NULL) != 0) return false;
    if (zc__cond_init(&m->cond)) return true;
    pthread_mutex_destroy(&m->mutex);
    return false;
}
static inline void zc__monitor_destroy(zc__monitor *m) {
    pthread_cond_destroy(&m->cond);
    pthread_mutex_destroy(&m->mutex);
}
static inline void zc__mutex_lock(zc__monitor *m) { pthread_mutex_lock(&m->mutex); }
static inline void zc__mutex_unlock(zc__monitor *m) { pthread_mutex_unlock(&m->mutex); }
static inline void zc__monitor_wake(zc__monitor *m) { pthread_cond_broadcast(&m->cond); }
static inline void zc__monitor_wake_one(zc__monitor *m) { pthread_cond_signal(&m->cond); }
#  ifdef __APPLE__
#    if defined(_POSIX_C_SOURCE) && !defined(_DARWIN_C_SOURCE) /* hides it */
extern int pthread_cond_timedwait_relative_np(pthread_cond_t *, pthread_mutex_t *,
                                              const struct timespec *);
#    endif
#  endif
static inline void zc__mutex_sleep(zc__monitor *m, uint64_t ns) {
#  ifdef __APPLE__
    struct timespec t = zc__to_timespec(ns);
    pthread_cond_timedwait_relative_np(&m->cond, &m->mutex, &t);
#  else
    struct timespec t = zc__to_timespec(zc__sys_mono() + ns);
    pthread_cond_timedwait(&m->cond, &m->mutex, &t);
#  endif
}
#elif defined(ZC__C11_THREADS)
typedef struct zc__monitor {
    mtx_t mutex;
    cnd_t cond;
    ZC__RANKED
} zc__monitor;
static inline bool zc__mutex_init(zc__monitor *m) {
    if (mtx_init(&m->mutex, mtx_plain) != thrd_success) return false;
    if (cnd_init(&m->cond) == thrd_success) return true;
    mtx_destroy(&m->mutex);
    return false;
}
static inline void zc__monitor_destroy(zc__monitor *m) {
    cnd_destroy(&m->cond);
    mtx_destroy(&m->mutex);
}
static inline void zc__mutex_lock(zc__monitor *m) { mtx_lock(&m->mutex); }
static inline void zc__mutex_unlock(zc__monitor *m) { mtx_unlock(&m->mutex); }
static inline void zc__monitor_wake(zc__monitor *m) { cnd_broadcast(&m->cond); }
static inline void zc__monitor_wake_one(zc__monitor *m) { cnd_signal(&m->cond); }
static inline void zc__mutex_sleep(zc__monitor *m, uint64_t ns) {
    struct timespec t;
    (void)timespec_get(&t, TIME_UTC); /* there is no other clock for it */
    t = zc__to_timespec(zc__from_timespec(&t) + ns);
    cnd_timedwait(&m->cond, &m->mutex, &t);
}
#else
typedef struct zc__monitor {
    char none;
    ZC__RANKED
} zc__monitor;
static inline bool zc__mutex_init(zc__monitor *m) { (void)m; return true; }
static inline void zc__monitor_destroy(zc__monitor *m) { (void)m; }
static inline void zc__mutex_lock(zc__monitor *m) { (void)m; }
static inline void zc__mutex_unlock(zc__monitor *m) { (void)m; }
static inline void zc__monitor_wake(zc__monitor *m) { (void)m; }
static inline void zc__monitor_wake_one(zc__monitor *m) { (void)m; }
static inline void zc__mutex_sleep(zc__monitor *m, uint64_t ns) { (void)m; (void)ns; }
#endif
static inline bool zc__monitor_init(zc__monitor *m, zc__rank rank) {
    ZC__SET_RANK(m, rank);
    return zc__mutex_init(m);
}
static inline void zc__monitor_lock(zc__monitor *m) {
    ZC__LOCKING(m);
    zc__mutex_lock(m);
    ZC__LOCKED(m);
}
static inline void zc__monitor_unlock(zc__monitor *m) {
    ZC__UNLOCKING(m);
    zc__mutex_unlock(m);
}
static inline void zc__monitor_sleep(zc__monitor *m, uint64_t ns) {
    ZC__UNLOCKING(m);
    ZC__LOCKING(m);
    zc__mutex_sleep(m, ns < ZC__SLICE ? ns : ZC__SLICE);
    ZC__LOCKED(m);
}
/* Wakes all who sleep there; the caller does not hold it. */
static inline void zc__monitor_notify(zc__monitor *m) {
    zc__monitor_lock(m);
    zc__monitor_wake(m);
    zc__monitor_unlock(m);
}
#ifdef ZOOCACHE_NO_THREADS
#  define ZC__CAN_SLEEP 0
#else
#  define ZC__CAN_SLEEP 1
#endif

/* A lock that may be held for long: who wants it says how long he waits. */
typedef struct zc__timed {
    zc__monitor monitor;
    bool held; /* [monitor] */
    ZC__RANKED
} zc__timed;

static inline bool zc__timed_init(zc__timed *g, zc__rank rank) {
    g->held = false;
    ZC__SET_RANK(g, rank);
    return zc__monitor_init(&g->monitor, rank);
}
static inline void zc__timed_destroy(zc__timed *g) { zc__monitor_destroy(&g->monitor); }

/* False: it was held until `until`. A clock of the user's own does not tell when it will have moved
 * on: look often. */
static inline bool zc__timed_lock(zc__timed *g, const zc_clock *clock, uint64_t until) {
    uint64_t now;
    zc__monitor_lock(&g->monitor);
    while (ZC__CAN_SLEEP && g->held && (now = zc__mono(clock)) < until)
        zc__monitor_sleep(&g->monitor, clock->version ? ZC_MILLISECOND : until - now);
    bool mine = !g->held;
    g->held = true;
    zc__monitor_unlock(&g->monitor);
    if (mine) ZC__LOCKED(g);
    return mine;
}
static inline void zc__timed_unlock(zc__timed *g) {
    ZC__UNLOCKING(g);
    zc__monitor_lock(&g->monitor);
    g->held = false;
    zc__monitor_wake_one(&g->monitor);
    zc__monitor_unlock(&g->monitor);
}

/* Which thread this is; never 0. */
static inline uintptr_t zc__self(void) {
#if defined(ZC__WIN32_THREADS)
    return GetCurrentThreadId();
#elif defined(ZC__POSIX_THREADS)
    return (uintptr_t)pthread_self();
#elif defined(ZC__C11_THREADS)
    return (uintptr_t)thrd_current();
#else
    return 1;
#endif
}

/* A thread that runs fn(arg), and is joined at the end. */
#if defined(ZC__WIN32_THREADS)
typedef HANDLE zc__thread;
#  define ZC__THREAD_FN(name, arg) static DWORD WINAPI name(LPVOID arg)
#  define ZC__THREAD_RESULT 0
static inline bool zc__thread_start(zc__thread *t, LPTHREAD_START_ROUTINE fn, void *arg) {
    *t = CreateThread(NULL, 0, fn, arg, 0, NULL);
    return *t != NULL;
}
static inline void zc__thread_join(zc__thread t) {
    WaitForSingleObject(t, INFINITE);
    CloseHandle(t);
}
#elif defined(ZC__POSIX_THREADS)
typedef pthread_t zc__thread;
#  define ZC__THREAD_FN(name, arg) static void *name(void *arg)
#  define ZC__THREAD_RESULT NULL
/* The process's handlers are for its own threads: this one inherits a mask that keeps all signals
 * away, but for those of a fault, which must be handled where it happens. */
static inline bool zc__thread_start(zc__thread *t, void *(*fn)(void *), void *arg) {
#  ifdef SIG_SETMASK /* strict -std=c11 may hide it */
    sigset_t mask, old;
    sigfillset(&mask);
    sigdelset(&mask, SIGSEGV);
    sigdelset(&mask, SIGBUS);
    sigdelset(&mask, SIGFPE);
    sigdelset(&mask, SIGILL);
    pthread_sigmask(SIG_SETMASK, &mask, &old);
#  endif
    bool good = pthread_create(t, NULL, fn, arg) == 0;
#  ifdef SIG_SETMASK
    pthread_sigmask(SIG_SETMASK, &old, NULL);
#  endif
    return good;
}
static inline void zc__thread_join(zc__thread t) { pthread_join(t, NULL); }
#elif defined(ZC__C11_THREADS)
typedef thrd_t zc__thread;
#  define ZC__THREAD_FN(name, arg) static int name(void *arg)
#  define ZC__THREAD_RESULT 0
static inline bool zc__thread_start(zc__thread *t, thrd_start_t fn, void *arg) {
    return thrd_create(t, fn, arg) == thrd_success;
}
static inline void zc__thread_join(zc__thread t) { thrd_join(t, NULL); }
#endif

/* ============================================================================================
 * >>mem   Memory: the allocator hook, and an arena for the fixed block
 *   Idea        All memory of a cache comes from one place, through zc__alloc(). With a fixed block
 *               that place is an arena: two-level segregated fit (Masmano et al., "TLSF", 2004):
 *               allocation and release in constant time, neighbours merged at once.
 *   Layout      The block is cut in granules of 16 bytes; a chunk is n granules:
 *
 *                 granule g                    g+1                          g+n
 *                 | ....... | prev | size|free | payload, 16-aligned ...... | ....... | prev | ...
 *                             4      4 bytes     16n - 8 bytes
 *
 *               `prev` is the size of the chunk before, so a chunk finds both its neighbours. A
 *               free chunk keeps its list links, two granule numbers, in its first 8 bytes of
 *               payload. Free lists: one for each power of two, cut in 16; below 16 granules one a
 *               size.
 *   Invariants  M1 chunks tile the arena, each one's `prev` is the size of the one before it
 *               M2 no two free neighbours   M3 a chunk is in the list of its class iff it is free
 *               M4 a bit of the bitmaps is set iff its list is not empty
 *   Large       What malloc has mapped for a large table or entry goes back to the system a piece
 *               at a time, with the puts and the housekeeping that follow: all at once is a
 *               millisecond for some MiB. A large put frees as much at once, for malloc to use it
 *               again.
 *   Locking     the arena's own spin lock; of what is being given back, large_lock, and whoever
 *               has taken a block off the list has it for himself
 *   Cost        8 bytes a chunk and rounding up to 16; of the chunks in the list of its own size, a
 *               request sees the first alone (the price of constant time)
 * ========================================================================================== */

#define ZC__GRAIN 16u
#define ZC__ARENA_CLASSES 28u /* powers of two of granules: up to 2^31 granules, 32 GiB */

typedef struct zc__chunk {
    uint32_t prev;       /* granules of the chunk before; 0: this is the first */
    uint32_t size;       /* granules, and ZC__FREE */
    uint32_t next_free;  /* free chunks only: granule numbers; 0: none */
    uint32_t prev_free;
} zc__chunk;
#define ZC__FREE 0x80000000u

typedef struct zc__arena {
    unsigned char *base; /* granule 0 */
    uint32_t granules;   /* the last one is the end mark */
    zc__spin lock;
    uint32_t top;                       /* bit c: some list of class c is not empty */
    uint16_t lists[ZC__ARENA_CLASSES];  /* bit i: list i of the class is not empty */
    uint32_t head[ZC__ARENA_CLASSES][16];
    size_t used; /* bytes in chunks that are taken */
} zc__arena;
#define ZC__ARENA_HEAD ((sizeof(zc__arena) + ZC__GRAIN - 1) & ~(size_t)(ZC__GRAIN - 1))

typedef struct zc__slabs zc__slabs; /* >>slab */

/* A large block that is being freed, a piece at a time; at its beginning. */
typedef struct zc__large {
    struct zc__large *next;
    size_t size, left;
} zc__large;

typedef struct zc__mem {
    zc_allocator hook; /* version 0: ZOOCACHE_MALLOC */
    zc__large *large;  /* [large_lock] */
    size_t large_size; /* [large_lock] */
    zc__spin large_lock;
    uint32_t unmerged; /* small blocks freed since malloc has merged them */
    zc__arena *arena;  /* not NULL: everything comes from here */
    zc__slabs *slabs;  /* not NULL: small entries come from here */
} zc__mem;

/* Memory by an allocator; NULL: malloc's. */
static inline zc__mem zc__mem_by(const zc_allocator *hook) {
    zc__mem m;
    memset(&m, 0, sizeof m);
    if (hook) m.hook = *hook;
    return m;
}

static inline zc__chunk *zc__chunk_at(const zc__arena *a, uint32_t g) {
    return (zc__chunk *)(void *)(a->base + (size_t)g * ZC__GRAIN + 8);
}
static inline uint32_t zc__chunk_size(const zc__chunk *c) { return c->size & ~ZC__FREE; }

/* The list of a chunk of n granules: class in the high part, 4 bits of list in the low. */
static inline uint32_t zc__arena_list(uint32_t n) {
    if (n < 16) return n;
    uint32_t log = 63 - zc__clz64(n);
    return (log - 3) * 16 + ((n >> (log - 4)) & 15);
}

static void zc__arena_link(zc__arena *a, uint32_t g) {
    zc__chunk *c = zc__chunk_at(a, g);
    uint32_t list = zc__arena_list(c->size), cls = list / 16, i = list % 16;
    c->next_free = a->head[cls][i];
    c->prev_free = 0;
    if (c->next_free) zc__chunk_at(a, c->next_free)->prev_free = g;
    a->head[cls][i] = g;
    a->lists[cls] = (uint16_t)(a->lists[cls] | 1u << i);
    a->top |= 1u << cls;
    c->size |= ZC__FREE;
}

static void zc__arena_unlink(zc__arena *a, uint32_t g) {
    zc__chunk *c = zc__chunk_at(a, g);
    c->size &= ~ZC__FREE;
    uint32_t list = zc__arena_list(c->size), cls = list / 16, i = list % 16;
    if (c->next_free) zc__chunk_at(a, c->next_free)->prev_free = c->prev_free;
    if (c->prev_free) {
        zc__chunk_at(a, c->prev_free)->next_free = c->next_free;
        return;
    }
    a->head[cls][i] = c->next_free;
    if (c->next_free) return;
    a->lists[cls] = (uint16_t)(a->lists[cls] & ~(1u << i));
    if (!a->lists[cls]) a->top &= ~(1u << cls);
}

/* Cuts a taken chunk down to n granules, and puts the rest back. */
static void zc__arena_trim(zc__arena *a, uint32_t g, uint32_t n) {
    zc__chunk *c = zc__chunk_at(a, g);
    uint32_t rest = c->size - n;
    if (rest == 0) return;
    c->size = n;
    zc__chunk *r = zc__chunk_at(a, g + n);
    r->prev = n;
    r->size = rest;
    zc__chunk_at(a, g + n + rest)->prev = rest;
    zc__arena_link(a, g + n);
}

/* Makes an arena in [block, block + size), or returns NULL if that is too small for it. */
static zc__arena *zc__arena_init(void *block, size_t size) {
    size_t skip = (size_t)(-(uintptr_t)block & (ZC__GRAIN - 1));
    if (size < skip + ZC__ARENA_HEAD + 8 * ZC__GRAIN) return NULL;
    size_t granules = (size - skip - ZC__ARENA_HEAD) / ZC__GRAIN;
    if (granules >= ZC__FREE) granules = ZC__FREE - 1;
    zc__arena *a = (zc__arena *)(void *)((unsigned char *)block + skip);
    memset(a, 0, sizeof *a);
    ZC__SET_RANK(&a->lock, ZC__RANK_ARENA);
    a->base = (unsigned char *)a + ZC__ARENA_HEAD;
    a->granules = (uint32_t)granules;
    /* Granule 0 only holds the first header, so that 0 can mean "none"; the last, the end mark. */
    zc__chunk *first = zc__chunk_at(a, 1), *end = zc__chunk_at(a, a->granules - 1);
    first->prev = 0;
    first->size = a->granules - 2;
    end->prev = first->size;
    end->size = 0;
    zc__arena_link(a, 1);
    return a;
}

static ZC__NOINLINE void *zc__arena_alloc(zc__arena *a, size_t size) {
    size_t need = (size + 8 + ZC__GRAIN - 1) / ZC__GRAIN;
    if (size > (size_t)a->granules * ZC__GRAIN || need >= a->granules) return NULL;
    uint32_t n = (uint32_t)need, list = zc__arena_list(n), cls = list / 16, i = list % 16;
    zc__spin_lock(&a->lock);
    uint32_t g = a->head[cls][i];
    if (!g || zc__chunk_size(zc__chunk_at(a, g)) < n) { /* in the lists above all are larger */
        uint32_t bits = a->lists[cls] & (~1u << i), above = a->top & (~1u << cls);
        if (!bits && above) {
            cls = zc__ctz64(above);
            bits = a->lists[cls];
        }
        g = bits ? a->head[cls][zc__ctz64(bits)] : 0;
    }
    if (g) {
        zc__arena_unlink(a, g);
        zc__arena_trim(a, g, n);
        a->used += (size_t)n * ZC__GRAIN;
    }
    zc__spin_unlock(&a->lock);
    return g ? a->base + (size_t)(g + 1) * ZC__GRAIN : NULL;
}

static ZC__NOINLINE void zc__arena_free(zc__arena *a, void *ptr) {
    uint32_t g = (uint32_t)((size_t)((unsigned char *)ptr - a->base) / ZC__GRAIN) - 1;
    zc__spin_lock(&a->lock);
    zc__chunk *c = zc__chunk_at(a, g);
    ZC__ASSERT(!(c->size & ZC__FREE));
    a->used -= (size_t)c->size * ZC__GRAIN;
    zc__chunk *next = zc__chunk_at(a, g + c->size);
    if (next->size & ZC__FREE) { /* M2 */
        zc__arena_unlink(a, g + c->size);
        c->size += next->size;
    }
    if (c->prev && (zc__chunk_at(a, g - c->prev)->size & ZC__FREE)) {
        uint32_t before = g - c->prev;
        zc__arena_unlink(a, before);
        zc__chunk_at(a, before)->size += c->size;
        g = before;
        c = zc__chunk_at(a, g);
    }
    zc__chunk_at(a, g + c->size)->prev = c->size; /* M1 */
    zc__arena_link(a, g);
    zc__spin_unlock(&a->lock);
}

/* M1 to M4; the lock must be held, or nobody else about. */
static bool zc__arena_check(const zc__arena *a) {
    uint32_t prev = 0, free_chunks = 0, listed = 0;
    bool was_free = false;
    size_t used = 0;
    uint32_t g = 1;
    while (g < a->granules - 1) {
        const zc__chunk *c = zc__chunk_at(a, g);
        bool is_free = (c->size & ZC__FREE) != 0;
        if (c->prev != prev || zc__chunk_size(c) == 0) return false;
        if (is_free && was_free) return false;
        free_chunks += is_free;
        if (!is_free) used += (size_t)c->size * ZC__GRAIN;
        was_free = is_free;
        prev = zc__chunk_size(c);
        g += prev;
    }
    if (g != a->granules - 1 || zc__chunk_at(a, g)->prev != prev || used != a->used) return false;
    for (uint32_t list = 0; list < ZC__ARENA_CLASSES * 16; list++) {
        uint32_t cls = list / 16, i = list % 16, head = a->head[cls][i];
        if ((head != 0) != (a->lists[cls] >> i & 1)) return false;
        uint32_t before = 0;
        if ((a->lists[cls] != 0) != (a->top >> cls & 1)) return false;
        for (; head; before = head, head = zc__chunk_at(a, head)->next_free) {
            const zc__chunk *c = zc__chunk_at(a, head);
            if (c->prev_free != before) return false;
            if (!(c->size & ZC__FREE) || zc__arena_list(zc__chunk_size(c)) != list) return false;
            if (++listed > free_chunks) return false;
        }
    }
    return listed == free_chunks && !(a->top >> ZC__ARENA_CLASSES);
}

static void *zc__alloc(const zc__mem *m, size_t size) {
    if (m->arena) return zc__arena_alloc(m->arena, size);
    if (m->hook.version) return m->hook.alloc(m->hook.user, size);
#ifdef ZOOCACHE_MALLOC
    return ZOOCACHE_MALLOC(size);
#else
    return NULL;
#endif
}

static void *zc__alloc_zero(const zc__mem *m, size_t size) {
    void *p = zc__alloc(m, size);
    if (p) memset(p, 0, size);
    return p;
}

static void zc__free(const zc__mem *m, void *ptr, size_t size) {
    if (!ptr) return;
    if (m->arena) zc__arena_free(m->arena, ptr);
    else if (m->hook.version) m->hook.free(m->hook.user, ptr, size);
#ifdef ZOOCACHE_FREE
    else ZOOCACHE_FREE(ptr);
#endif
}

#ifdef ZC__PAGES
#define ZC__PIECE 16384u
#define ZC__LARGE 131072u /* malloc takes no less than that from the system by itself */

static void zc__large_push(zc__mem *m, zc__large *h, size_t more) {
    zc__spin_lock(&m->large_lock);
    h->next = m->large;
    zc__atomic_store_rlx(&m->large, h);
    m->large_size += more;
    zc__spin_unlock(&m->large_lock);
}

/* Frees what may be large: to take millions of bytes from a process is the system's work for a
 * millisecond. zc__free_piece() does it. */
static void zc__free_large(zc__mem *m, void *ptr, size_t size) {
    zc__large *h = (zc__large *)ptr;
    if (size < ZC__LARGE || m->arena || m->hook.version) {
        zc__free(m, ptr, size);
        return;
    }
    h->size = h->left = size;
    zc__large_push(m, h, size);
}

/* Gives one piece of what zc__free_large() was given back to the system, from the end on, or a
 * whole block of up to `most` bytes to malloc. No lock is held. Returns how much it was; 0: there
 * is none. */
static size_t zc__free_piece(zc__mem *m, size_t most) {
    if (ZC__LIKELY(!zc__atomic_load_rlx(&m->large))) return 0;
    zc__spin_lock(&m->large_lock);
    zc__large *h = m->large;
    size_t left = h ? h->left : 0;
    bool last = h && (left < 2 * ZC__PIECE || left <= most);
    if (h) zc__atomic_store_rlx(&m->large, h->next);
    if (last) m->large_size -= h->size;
    zc__spin_unlock(&m->large_lock);
    if (last) zc__free(m, h, h->size);
    if (last || !h) return left;
    h->left -= ZC__PIECE;
    uintptr_t piece = ((uintptr_t)h + h->left) & ~(uintptr_t)(ZC__PIECE - 1);
    (void)madvise((void *)piece, ZC__PIECE, MADV_DONTNEED);
    zc__large_push(m, h, 0);
    return ZC__PIECE;
}
#else
static inline void zc__free_large(zc__mem *m, void *ptr, size_t size) { zc__free(m, ptr, size); }
static inline size_t zc__free_piece(zc__mem *m, size_t most) { (void)m; (void)most; return 0; }
#endif

/* n small blocks were freed. glibc's malloc keeps such as they are and merges all of them when next
 * something larger is asked for: so that is done while they are few. */
static inline void zc__freed(zc__mem *m, uint32_t n) {
#if defined(__GLIBC__) && defined(ZC__PAGES) && !defined(ZC__SLABS)
    if (m->arena || m->hook.version || (m->unmerged += n) < 32) return;
    m->unmerged = 0;
    void *volatile larger = malloc(2048); /* volatile: or the compiler leaves both out */
    free(larger);
#else
    (void)m;
    (void)n;
#endif
}

/* A growing array of bytes. `size` is used, `cap` is owned. */
typedef struct zc__buf {
    unsigned char *ptr;
    size_t size, cap;
} zc__buf;

static bool zc__buf_reserve(const zc__mem *m, zc__buf *b, size_t extra) {
    if (extra > SIZE_MAX / 2 - b->size) return false;
    size_t need = b->size + extra;
    if (need <= b->cap) return true;
    size_t cap = b->cap * 2 > need ? b->cap * 2 : need < 64 ? 64 : need;
    unsigned char *p = (unsigned char *)zc__alloc(m, cap);
    if (!p) return false;
    if (b->size) memcpy(p, b->ptr, b->size);
    zc__free(m, b->ptr, b->cap);
    b->ptr = p;
    b->cap = cap;
    return true;
}

static void zc__buf_free(const zc__mem *m, zc__buf *b) {
    zc__free(m, b->ptr, b->cap);
    memset(b, 0, sizeof *b);
}

/* ============================================================================================
 * >>slab   Small entries close together, on huge pages
 *   Idea        What a hit costs is its misses, of the caches and of the TLB. So where memory is
 *               libc's malloc, entries of up to 512 bytes do not come from it one by one: they are
 *               blocks of pages, rounded up to 8 bytes and without headers, and the pages are cut
 *               from regions of 2 MiB, which Linux backs with huge pages if asked.
 *
 *                 region   | zc__region | page | page | page | ...     2 MiB, aligned to that
 *                 page     | block | block | block | ... | rest        4 KiB, blocks of one size
 *
 *   Pools       Up to 16, by the hash of the key: a lock, and a chain of free blocks for each size.
 *               What was freed last is used first, while it is in the caches.
 *   Giving back When less than half is used, housekeeping begins a new generation: from then on
 *               blocks come from new regions alone. Sweeping moves the entries that it finds in old
 *               ones, unless they are pinned; an old region goes back to malloc when its last block
 *               is given. So what lives stays close together, and what is given back is whole.
 *   Small caches  take a page at a time from the first region, which is on huge pages once it is
 *               full.
 *   Where not   An allocator or block of the user's; ZOOCACHE_NO_THREADS, for the sake of its code
 *               size; ZOOCACHE_DEBUG and AddressSanitizer: there each entry is malloc's, and
 *               watched.
 *   Invariants  S1 a free block is in the chain of its size, whole in a page of this generation
 *               S2 of a page with a free block, all are free or used   S3 a pool's `used` is the
 *               size of the blocks that are used   S4 regions of this generation but the first are
 *               full
 *   Locking     pool: its lock, and used[] of its pages, which housekeeping reads without; regions:
 *               the lock of zc__slabs, taken alone or after that of all pools. A generation begins
 *               with all locked. old, look, compacting, retry: the housekeeper alone.
 *   Cost        a block: one lock, and its page's count. Half a page for each size and pool, half a
 *               region; half of what is there may be free, and is there once more while entries
 *               move
 * ========================================================================================== */

#ifdef ZC__SLABS

#define ZC__SLAB_MAX 512u
#define ZC__SLAB_PAGE 4096u
#define ZC__SLAB_REGION 2097152u
#define ZC__SLAB_PAGES (ZC__SLAB_REGION / ZC__SLAB_PAGE)
#define ZC__SLAB_POOLS 16u
#define ZC__SLAB_FEW 128u /* pages: no more are not worth a new generation */
#define ZC__SLAB_DROP 64u /* pages that are given back in a step */

typedef struct zc__block {
    struct zc__block *next;
} zc__block;

typedef struct zc__region {
    struct zc__region *next;
    uint32_t generation;
    uint32_t fresh; /* the first page that was never taken; page 0 is this struct's */
    bool huge;
    uint16_t used[ZC__SLAB_PAGES]; /* blocks of each page that are taken; 1 while it is being cut */
} zc__region;

typedef struct zc__pool {
    zc__spin lock;
    size_t used; /* bytes in blocks that are taken */
    zc__block *chain[ZC__SLAB_MAX / 8 + 1];
} ZC__ALIGNED(ZC__LINE) zc__pool;

struct zc__slabs {
    zc__spin lock;
    uint32_t generation;
    zc__region *first, *last; /* of this generation; only the first may have room */
    zc__region *old;          /* of those before */
    uint32_t pages;           /* of this generation */
    size_t renew_below;       /* what `used` must come down to before a new generation begins */
    zc__region **look; /* the link to the next old region that is looked at */
    bool compacting;   /* entries are being moved [lock, to set it] */
    uint64_t retry;    /* s: not before, those that were pinned */
    uint32_t npools;   /* a power of two */
    zc__pool *pools;   /* behind this struct */
} ZC__ALIGNED(ZC__LINE);

static size_t zc__slabs_size(uint32_t npools) {
    return sizeof(zc__slabs) + npools * sizeof(zc__pool);
}

static zc__slabs *zc__slabs_make(uint32_t shards) {
    uint32_t n = shards < ZC__SLAB_POOLS ? shards : ZC__SLAB_POOLS;
    zc__slabs *s = (zc__slabs *)aligned_alloc(ZC__LINE, zc__slabs_size(n));
    if (!s) return NULL;
    memset((void *)s, 0, zc__slabs_size(n));
    s->npools = n;
    s->pools = (zc__pool *)(void *)(s + 1);
    ZC__SET_RANK(&s->lock, ZC__RANK_REGIONS);
    for (uint32_t i = 0; i < n; i++) ZC__SET_RANK(&s->pools[i].lock, ZC__RANK_SLAB);
    s->look = &s->old;
    return s;
}

static void zc__regions_free(zc__region *r) {
    for (zc__region *next; r; r = next) {
        next = r->next;
        free(r);
    }
}

static void zc__slabs_destroy(zc__slabs *s) {
    if (!s) return;
    zc__regions_free(s->first);
    zc__regions_free(s->old);
    free(s);
}

static inline zc__pool *zc__slab_pool(zc__slabs *s, uint64_t hash) {
    return &s->pools[hash >> 58 & (s->npools - 1)];
}

/* ---- regions ---- */

static inline zc__region *zc__region_of(const void *p) {
    return (zc__region *)((uintptr_t)p & ~(uintptr_t)(ZC__SLAB_REGION - 1));
}
static inline uint16_t *zc__region_used(const void *block) {
    size_t at = (uintptr_t)block & (ZC__SLAB_REGION - 1);
    return &zc__region_of(block)->used[at / ZC__SLAB_PAGE];
}
/* Is this of a generation that is over? Then the answer stays, else as long as its pool is
 * locked. */
static inline bool zc__block_is_old(const zc__slabs *s, const void *block) {
    return zc__region_of(block)->generation != zc__atomic_load_rlx(&s->generation);
}

static inline bool zc__region_full(const zc__region *r) { return r->fresh == ZC__SLAB_PAGES; }

/* Lets the lock go meanwhile. While entries are being moved, the region gets its huge
 * page when it is full, from the kernel's own thread: to clear one takes longer than a step may. */
static bool zc__region_add(zc__slabs *s) {
    bool huge = s->first && !s->compacting;
    zc__spin_unlock(&s->lock);
    zc__region *r = (zc__region *)aligned_alloc(ZC__SLAB_REGION, ZC__SLAB_REGION);
    if (r && huge) (void)madvise(r, ZC__SLAB_REGION, MADV_HUGEPAGE);
    if (r) memset(r, 0, sizeof *r);
    zc__spin_lock(&s->lock);
    if (!r) return false;
    if (s->first && !zc__region_full(s->first)) { /* S4: another was faster */
        zc__spin_unlock(&s->lock);
        free(r);
        zc__spin_lock(&s->lock);
        return true;
    }
    r->huge = huge;
    r->fresh = 1;
    r->generation = s->generation;
    r->next = s->first;
    if (!r->next) s->last = r;
    s->first = r;
    return true;
}

/* A page that its pool is to cut. */
static zc__block *zc__page_take(zc__slabs *s) {
    bool room = true, crowded = false;
    zc__block *page = NULL;
    zc__region *r = NULL;
    zc__spin_lock(&s->lock);
    while (room && (!s->first || zc__region_full(s->first))) room = zc__region_add(s);
    if (room) {
        r = s->first;
        page = (zc__block *)(void *)((unsigned char *)r + ZC__SLAB_PAGE * (size_t)r->fresh);
        r->used[r->fresh++] = 1;
        crowded = zc__region_full(r) && !r->huge;
        r->huge |= crowded;
        if (++s->pages > ZC__SLAB_FEW) s->renew_below += ZC__SLAB_PAGE / 2;
    }
    zc__spin_unlock(&s->lock);
    if (crowded) (void)madvise(r, ZC__SLAB_REGION, MADV_HUGEPAGE);
    return page;
}

static size_t zc__region_size(const zc__region *r) {
    return r->huge ? ZC__SLAB_REGION : ZC__SLAB_PAGE * (size_t)r->fresh;
}

/* ---- blocks ---- */

/* Cuts a new page into blocks of 8 * cls bytes. Lets the pool's lock go meanwhile. False: no
 * memory. */
static bool zc__pool_grow(zc__slabs *s, zc__pool *p, size_t cls) {
    zc__spin_unlock(&p->lock);
    zc__block *page = zc__page_take(s), *last = page;
    size_t n = ZC__SLAB_PAGE / (cls * 8);
    for (size_t i = 1; page && i < n; i++, last = last->next)
        last->next = (zc__block *)(void *)((unsigned char *)last + cls * 8);
    zc__spin_lock(&p->lock);
    if (!page) return false;
    if (!zc__block_is_old(s, page)) {
        last->next = p->chain[cls];
        p->chain[cls] = page;
    }
    zc__atomic_store_rel(zc__region_used(page), (uint16_t)0);
    return true;
}

/* For 1 to ZC__SLAB_MAX bytes, aligned to 8. NULL: no memory. */
static void *zc__slab_take(zc__slabs *s, uint64_t hash, size_t size) {
    zc__pool *p = zc__slab_pool(s, hash);
    size_t cls = (size + 7) / 8;
    zc__block *b = NULL;
    zc__spin_lock(&p->lock);
    /* Again if a generation began meanwhile, or another has taken it all. */
    while (ZC__UNLIKELY(!p->chain[cls]) && zc__pool_grow(s, p, cls)) {}
    if (ZC__LIKELY((b = p->chain[cls]) != NULL)) {
        uint16_t *used = zc__region_used(b);
        p->chain[cls] = b->next;
        p->used += cls * 8;
        zc__atomic_store_rlx(used, (uint16_t)(*used + 1));
    }
    zc__spin_unlock(&p->lock);
    return b;
}

static void zc__slab_give(zc__slabs *s, uint64_t hash, void *ptr, size_t size) {
    zc__pool *p = zc__slab_pool(s, hash);
    size_t cls = (size + 7) / 8;
    zc__block *b = (zc__block *)ptr;
    uint16_t *used = zc__region_used(b);
    zc__spin_lock(&p->lock);
    if (ZC__LIKELY(!zc__block_is_old(s, b))) {
        b->next = p->chain[cls];
        p->chain[cls] = b;
    }
    p->used -= cls * 8;
    zc__atomic_store_rel(used, (uint16_t)(*used - 1)); /* now an old region may be gone */
    zc__spin_unlock(&p->lock);
}

/* ---- everything: figures, generations, fork, check ---- */

static void zc__slabs_lock(zc__slabs *s, bool lock) {
    for (uint32_t i = 0; s && i < s->npools; i++) zc__spin_set(&s->pools[i].lock, lock);
    if (s) zc__spin_set(&s->lock, lock);
}

static size_t zc__slabs_used(zc__slabs *s) {
    size_t n = 0;
    for (uint32_t i = 0; i < s->npools; i++) {
        zc__spin_lock(&s->pools[i].lock);
        n += s->pools[i].used;
        zc__spin_unlock(&s->pools[i].lock);
    }
    return n;
}

/* Memory that is taken, but not by entries. */
static size_t zc__slabs_slack(zc__slabs *s) {
    if (!s) return 0;
    size_t n = zc__slabs_size(s->npools);
    zc__spin_lock(&s->lock);
    for (const zc__region *r = s->first; r; r = r->next) n += zc__region_size(r);
    for (const zc__region *r = s->old; r; r = r->next) n += zc__region_size(r);
    zc__spin_unlock(&s->lock);
    size_t used = zc__slabs_used(s);
    return n > used ? n - used : 0;
}

/* Begins a new generation, if too little is used. True: then, or if `again`, entries are to be
 * moved. */
static bool zc__slabs_renew(zc__slabs *s, bool again) {
    size_t used = zc__slabs_used(s);
    zc__spin_lock(&s->lock);
    bool due = used < s->renew_below;
    zc__spin_unlock(&s->lock);
    if (!due && !again) return false;
    zc__slabs_lock(s, true);
    s->compacting = true;
    if (due) {
        zc__atomic_store_rlx(&s->generation, s->generation + 1);
        for (uint32_t i = 0; i < s->npools; i++)
            memset(s->pools[i].chain, 0, sizeof s->pools[i].chain);
        s->last->next = s->old;
        s->old = s->first;
        s->first = s->last = NULL;
        s->pages = 0;
        s->renew_below = 0;
    }
    zc__slabs_lock(s, false);
    return true;
}

/* All are where they belong: what is used now is not to be moved again before it is half of it. */
static void zc__slabs_compacted(zc__slabs *s) {
    size_t used = zc__slabs_used(s);
    zc__spin_lock(&s->lock);
    s->compacting = false;
    if (s->renew_below > used / 2) s->renew_below = s->pages > ZC__SLAB_FEW ? used / 2 : 0;
    zc__spin_unlock(&s->lock);
}

static bool zc__region_is_empty(const zc__region *r) {
    for (uint32_t i = 1; i < r->fresh; i++)
        if (zc__atomic_load_acq(&r->used[i])) return false;
    return true;
}

/* Gives the last pages of an empty old region back to the kernel, whether malloc would or not; with
 * the first of them the region goes, to which *s->look points. */
static void zc__region_drop(zc__slabs *s, zc__region *r) {
    uint32_t end = r->fresh, keep = end > ZC__SLAB_DROP ? end - ZC__SLAB_DROP : 0;
    zc__spin_lock(&s->lock);
    r->fresh = keep;
    if (!keep) *s->look = r->next;
    zc__spin_unlock(&s->lock);
    (void)madvise((unsigned char *)r + ZC__SLAB_PAGE * (size_t)keep,
                  ZC__SLAB_PAGE * (size_t)(end - keep), MADV_DONTNEED);
    if (!keep) free(r);
}

/* Looks at some old regions from where it stopped, and gives back a part of the first that is
 * empty. False: none was. */
static bool zc__slabs_drop(zc__slabs *s) {
    zc__region *r = NULL;
    for (unsigned n = 0; n < 16 && (r = *s->look) != NULL && !zc__region_is_empty(r); n++)
        s->look = &r->next;
    bool empty = r && r == *s->look;
    if (empty) zc__region_drop(s, r);
    if (!*s->look) s->look = &s->old;
    return empty;
}

/* S1 to S4, with everything locked. */
static bool zc__slabs_check(zc__slabs *s) {
    size_t used = 0, blocks = 0;
    bool good = true;
    for (const zc__region *r = s ? s->first : NULL; r; r = r->next) {
        if (r != s->first && !zc__region_full(r)) return false;
        for (uint32_t i = 1; i < r->fresh; i++) blocks += r->used[i];
    }
    for (const zc__region *r = s ? s->old : NULL; r; r = r->next)
        for (uint32_t i = 1; i < r->fresh; i++) blocks += r->used[i];
    for (uint32_t i = 0; s && i < s->npools; i++) {
        const zc__pool *p = &s->pools[i];
        used += p->used;
        for (size_t size = 8; size <= ZC__SLAB_MAX; size += 8) {
            for (const zc__block *b = p->chain[size / 8]; b; b = b->next) {
                size_t at = (uintptr_t)b % ZC__SLAB_PAGE;
                if (at % size != 0 || at + size > ZC__SLAB_PAGE) return false;
                if (zc__block_is_old(s, b)) return false;
            }
            /* S2: the counts, with the free ones added for a moment. */
            for (zc__block *b = p->chain[size / 8]; b; b = b->next) ++*zc__region_used(b);
            for (zc__block *b = p->chain[size / 8]; b; b = b->next)
                good = good && *zc__region_used(b) == ZC__SLAB_PAGE / size;
            for (zc__block *b = p->chain[size / 8]; b; b = b->next) --*zc__region_used(b);
        }
    }
    return good && used >= blocks * 8 && used <= blocks * ZC__SLAB_MAX;
}

/* Is this what blocks are for? */
static inline bool zc__slabs_serve(const zc__mem *m, size_t size) {
    return m->slabs && size <= ZC__SLAB_MAX;
}

/* Is this a block of theirs that is to be moved? */
static inline bool zc__slab_moves(const zc__mem *m, const void *block, size_t size) {
    return zc__slabs_serve(m, size) && zc__block_is_old(m->slabs, block);
}

#else
#  define zc__slabs_make(shards) NULL
#  define zc__slabs_destroy(s) ((void)0)
#  define zc__slab_take(s, hash, size) ((void)(hash), (void)(size), (void *)NULL)
#  define zc__slab_give(s, hash, block, size) ((void)(hash), (void)(size))
#  define zc__slabs_slack(s) 0
#  define zc__slabs_lock(s, lock) ((void)0)
#  define zc__slabs_check(s) true
#  define zc__slabs_serve(m, size) ((void)(size), false)
#  define zc__slab_moves(m, block, size) ((void)(block), (void)(size), false)
#endif

/* ============================================================================================
 * >>bytes   Texts of results, little-endian numbers, comparing, checked sums, decimal text
 * ========================================================================================== */

/* The name or the text of a result. */
static ZC__NOINLINE const char *zc__result(int rc, bool text) {
    static const struct {
        int rc;
        const char *is[2];
    } all[] = {
#ifdef ZOOCACHE_NO_TEXT
#  define ZC_X(name, value, words) {value, {#name, #name}},
#else
#  define ZC_X(name, value, words) {value, {#name, words}},
#endif
        ZC_RESULTS(ZC_X) ZC_X(ZC_E_USER, ZC_E_USER, "the loader's own error")
#undef ZC_X
    };
    if (rc < ZC_E_USER) rc = ZC_E_USER;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i].rc == rc) return all[i].is[text];
    return text ? "unknown result" : "?";
}

ZOOCACHE_API const char *zc_strerror(int rc) { return zc__result(rc, true); }
ZOOCACHE_API const char *zc_result_name(int rc) { return zc__result(rc, false); }
ZOOCACHE_API const char *zc_version(void) { return ZOOCACHE_VERSION; }
ZOOCACHE_API unsigned zc_abi(void) { return ZOOCACHE_ABI; }

static inline uint64_t zc__get64(const unsigned char *p) {
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
           (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 |
           (uint64_t)p[7] << 56;
}
static inline uint32_t zc__get32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint32_t zc__get16(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}
static inline void zc__put_le(unsigned char *p, uint64_t v, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++, v >>= 8) p[i] = (unsigned char)v;
}

/* memcmp() == 0, inline and fast for the lengths that keys have. */
static inline bool zc__equal(const unsigned char *a, const unsigned char *b, size_t n) {
    uint64_t x, y;
    if (ZC__LIKELY(n >= 8)) {
        for (size_t i = 0; i + 8 < n; i += 8) {
            memcpy(&x, a + i, 8);
            memcpy(&y, b + i, 8);
            if (x != y) return false;
        }
        memcpy(&x, a + n - 8, 8);
        memcpy(&y, b + n - 8, 8);
        return x == y;
    }
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i]) return false;
    return true;
}

/* memcpy(), inline for the lengths that small values have. */
static inline void zc__copy(unsigned char *to, const unsigned char *from, size_t n) {
    if (ZC__LIKELY(n >= 32 && n <= 64)) {
        memcpy(to, from, 32);
        memcpy(to + n - 32, from + n - 32, 32);
    } else if (n) {
        memcpy(to, from, n);
    }
}

static inline uint64_t zc__add_sat(uint64_t a, uint64_t b) {
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}
static ZC__NOINLINE uint64_t zc__mul_sat(uint64_t a, uint64_t b) {
    return b && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}
/* a * b / c */
static uint64_t zc__mul_div(uint64_t a, uint64_t b, uint64_t c) {
    return zc__add_sat(zc__mul_sat(a / c, b), zc__mul_sat(a % c, b) / c);
}
static inline bool zc__is_pow2(size_t n) { return n && !(n & (n - 1)); }

/* A list of tags, in records and logs: of each a length of 2 bytes and its text. */
static size_t zc__list_size(const zc_bytes *tags, size_t n) {
    size_t size = 0;
    for (size_t i = 0; i < n; i++) size += 2 + tags[i].len;
    return size;
}

/* Returns what comes after them. */
static inline unsigned char *zc__put_bytes(unsigned char *to, zc_bytes b) {
    if (b.len) memcpy(to, b.ptr, b.len);
    return to + b.len;
}

static void zc__list_write(unsigned char *to, const zc_bytes *tags, size_t n) {
    for (size_t i = 0; i < n; i++) {
        zc__put_le(to, tags[i].len, 2);
        to = zc__put_bytes(to + 2, tags[i]);
    }
}

/* False: it is not a list of n. */
static bool zc__list_read(const unsigned char *p, size_t size, zc_bytes *tags, size_t n) {
    for (size_t i = 0; i < n; i++) {
        size_t len = size < 2 ? 0 : zc__get16(p);
        if (size < 2 + len) return false;
        tags[i] = zc_slice(p + 2, len);
        p += 2 + len;
        size -= 2 + len;
    }
    return size == 0;
}

/* Text that is cut where the buffer ends, but counted whole: snprintf without stdio. */
typedef struct zc__text {
    char *buf;
    size_t cap, len;
} zc__text;

static void zc__text_bytes(zc__text *t, const char *s, size_t n) {
    if (t->len < t->cap) memcpy(t->buf + t->len, s, n < t->cap - t->len ? n : t->cap - t->len);
    t->len += n;
}
static inline void zc__text_str(zc__text *t, const char *s) { zc__text_bytes(t, s, strlen(s)); }
/* At least `width` digits. */
static inline void zc__text_num(zc__text *t, uint64_t v, unsigned width) {
    char digits[20];
    unsigned n = 0;
    do digits[19 - n++] = (char)('0' + v % 10);
    while ((v /= 10) || n < width);
    zc__text_bytes(t, digits + 20 - n, n);
}
/* The low `digits` hex digits. */
static inline void zc__text_hex(zc__text *t, uint64_t v, unsigned digits) {
    while (digits-- > 0) zc__text_bytes(t, &"0123456789abcdef"[v >> 4 * digits & 15], 1);
}
/* Each % is the next of a and b. */
static void zc__text_with(zc__text *t, const char *format, const char *a, const char *b) {
    for (; *format; format++) {
        zc__text_bytes(t, *format == '%' ? a : format, *format == '%' ? strlen(a) : 1);
        if (*format == '%') a = b;
    }
}
static size_t zc__text_end(zc__text *t) {
    if (t->cap) t->buf[t->len < t->cap ? t->len : t->cap - 1] = '\0';
    return t->len;
}

/* ============================================================================================
 * >>hash   The seeded hash, and the random numbers
 *   One 64-bit hash serves everything, each use its own bits:
 *     0..7 fingerprint   8..39 bucket   24..55 ghost   58..63 shard
 *   It is XXH3; but for 8 to 16 bytes, which most keys have, two multiplications to 128 bits,
 *   folded (the mixing of wyhash, Wang Yi 2019), inline. It is never stored: machines may differ.
 * ========================================================================================== */

#ifdef __SIZEOF_INT128__
__extension__ typedef unsigned __int128 zc__u128;
static inline uint64_t zc__hash_short(const unsigned char *p, size_t len, uint64_t seed) {
    uint64_t a, b;
    memcpy(&a, p, 8);
    memcpy(&b, p + len - 8, 8);
    zc__u128 m = (zc__u128)(a ^ seed ^ UINT64_C(0x2d358dccaa6c78a5)) *
                 (b ^ len ^ (seed << 32 | seed >> 32) ^ UINT64_C(0x8bb84b93962eacc9));
    m = (zc__u128)((uint64_t)m ^ UINT64_C(0x4b33a62ed433d4a3)) * ((uint64_t)(m >> 64) ^ seed);
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}
#else
static inline uint64_t zc__hash_short(const unsigned char *p, size_t len, uint64_t seed) {
    return XXH3_64bits_withSeed(p, len, seed);
}
#endif

static inline uint64_t zc__hash(zc_bytes b, uint64_t seed) {
    if (ZC__LIKELY(b.len >= 8 && b.len <= 16))
        return zc__hash_short((const unsigned char *)b.ptr, b.len, seed);
    return XXH3_64bits_withSeed(b.ptr, b.len, seed);
}

/* splitmix64 (Steele et al. 2014): the state is a counter, so any seed will do. */
static inline uint64_t zc__random(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* ============================================================================================
 * >>codec   The stored record, version 1
 *   Idea        One self-contained block of bytes: whoever reads it can tell whether it is whole,
 *               whose it is, and whether it is still fresh, without trusting any length in it.
 *   Layout      little-endian everywhere
 *                  0  4  "ZOOC"                       32  8  expires, ms since 1970; 0: never
 *                  4  1  version: 1                   40  8  soft deadline, likewise; 0: none
 *                  5  1  flags: 1 LZ4, 2 absent       48  8  tti, ms; 0: none
 *                  6  2  number of dependencies       56  8  stale_if_error, ms; 0: none
 *                  8  8  checksum                     64  2  length of the key
 *                 16  8  generation                   66  2  length of the mark
 *                 24  8  begin                        68  4  length of the value
 *                                                     72  4  length of the value as stored here
 *                                                     76  4  length of the dependencies
 *                 80  key | mark | dependencies, each a length of 2 bytes and its text | value
 *               The mark is empty, or a position of 8 bytes for each log of the bus.
 *               The checksum is XXH3-64 of all from byte 16 on, seeded with bytes 0 to 7.
 *               The length of the whole is exactly 80 and the four parts.
 *   Compression LZ4 for values from 256 bytes that shrink by an eighth, unless zc_put_opts.plain.
 *               ZOOCACHE_NO_LZ4 writes all of them plain, and takes compressed ones for misses.
 *   Fails       encode: ZC_E_NOMEM, ZC_E_INVAL; decode: ZC_E_CORRUPT, ZC_E_NOMEM
 * ========================================================================================== */

#define ZC__RECORD_HEAD 80u
#define ZC__RECORD_VERSION 1u
#define ZC__RECORD_LZ4 1u
#define ZC__RECORD_ABSENT 2u
#define ZC__LZ4_MIN 256u
#define ZC__MARK (8 * ZC_LOGS_MAX) /* bytes of a mark */

static uint64_t zc__record_checksum(const unsigned char *p, size_t len) {
    return XXH3_64bits_withSeed(p + 16, len - 16, zc__get64(p));
}

/* Appends the value, compressed if that pays, and is wanted. */
static bool zc__record_value(const zc__mem *m, zc__buf *b, const zc_record *r) {
    zc_bytes value = r->value;
    unsigned flags = 0;
    size_t stored = value.len;
#ifndef ZOOCACHE_NO_LZ4
    if (!r->plain && value.len >= ZC__LZ4_MIN && value.len <= LZ4_MAX_INPUT_SIZE) {
        size_t most = value.len - value.len / 8;
        if (!zc__buf_reserve(m, b, most)) return false;
        int n = LZ4_compress_default((const char *)value.ptr, (char *)b->ptr + b->size,
                                     (int)value.len, (int)most);
        if (n > 0) {
            stored = (size_t)n;
            flags = ZC__RECORD_LZ4;
        }
    }
#endif
    if (!flags) {
        if (!zc__buf_reserve(m, b, value.len)) return false;
        if (value.len) memcpy(b->ptr + b->size, value.ptr, value.len);
    }
    b->size += stored;
    b->ptr[5] = (unsigned char)(b->ptr[5] | flags);
    zc__put_le(b->ptr + 72, stored, 4);
    return true;
}

/* All but the value, its length as stored, and the checksum. */
static int zc__record_front(const zc__mem *m, const zc_record *r, zc__buf *b) {
    if (r->ndeps > ZC_DEPS_MAX || r->key.len > ZC_KEY_MAX || r->mark.len > ZC__MARK)
        return ZC_E_INVAL;
    if (r->value.len > UINT32_MAX / 2) return ZC_E_INVAL;
    for (size_t i = 0; i < r->ndeps; i++)
        if (r->deps[i].len > ZC_TAG_MAX) return ZC_E_INVAL;
    size_t deps_len = zc__list_size(r->deps, r->ndeps);
    size_t front = ZC__RECORD_HEAD + r->key.len + r->mark.len + deps_len;
    if (!zc__buf_reserve(m, b, front)) return ZC_E_NOMEM;
    unsigned char *p = b->ptr;
    memcpy(p, "ZOOC", 4);
    p[4] = ZC__RECORD_VERSION;
    p[5] = r->absent ? ZC__RECORD_ABSENT : 0;
    zc__put_le(p + 6, r->ndeps, 2);
    zc__put_le(p + 16, r->generation, 8);
    zc__put_le(p + 24, r->begin, 8);
    zc__put_le(p + 32, r->expires_ms, 8);
    zc__put_le(p + 40, r->soft_ms, 8);
    zc__put_le(p + 48, r->tti_ms, 8);
    zc__put_le(p + 56, r->grace_ms, 8);
    zc__put_le(p + 64, r->key.len, 2);
    zc__put_le(p + 66, r->mark.len, 2);
    zc__put_le(p + 68, r->value.len, 4);
    zc__put_le(p + 76, deps_len, 4);
    p = zc__put_bytes(p + ZC__RECORD_HEAD, r->key);
    p = zc__put_bytes(p, r->mark);
    zc__list_write(p, r->deps, r->ndeps);
    b->size = front;
    return ZC_OK;
}

static int zc__record_encode(const zc__mem *m, const zc_record *r, zc__buf *b) {
    int rc = zc__record_front(m, r, b);
    if (rc != ZC_OK) return rc;
    if (!zc__record_value(m, b, r)) return ZC_E_NOMEM;
    zc__put_le(b->ptr + 8, zc__record_checksum(b->ptr, b->size), 8);
    return ZC_OK;
}

/* What is behind a record's head and key. */
typedef struct zc__record_body {
    const unsigned char *deps, *value;
    size_t deps_len, stored_len;
    bool packed;
} zc__record_body;

/* Checks the whole, and reads all but the dependencies and a packed value, of which there are the
 * number and the length. */
static int zc__record_open(zc_bytes bytes, size_t max_value, zc_record *r, zc__record_body *body) {
    const unsigned char *p = (const unsigned char *)bytes.ptr;
    memset(r, 0, sizeof *r);
    if (bytes.len < ZC__RECORD_HEAD || memcmp(p, "ZOOC", 4) != 0) return ZC_E_CORRUPT;
    if (p[4] != ZC__RECORD_VERSION || p[5] & ~(ZC__RECORD_LZ4 | ZC__RECORD_ABSENT))
        return ZC_E_CORRUPT;
    uint64_t key_len = zc__get16(p + 64), value_len = zc__get32(p + 68);
    uint64_t stored_len = zc__get32(p + 72), deps_len = zc__get32(p + 76);
    size_t ndeps = zc__get16(p + 6), mark_len = zc__get16(p + 66);
    bool packed = p[5] & ZC__RECORD_LZ4;
    if (ZC__RECORD_HEAD + key_len + mark_len + deps_len + stored_len != bytes.len)
        return ZC_E_CORRUPT;
    if (mark_len > ZC__MARK || value_len > max_value) return ZC_E_CORRUPT;
    /* LZ4 expands at most 255 times: a short record cannot ask for much memory. */
    if (packed ? !value_len || value_len > stored_len * 255 : value_len != stored_len)
        return ZC_E_CORRUPT;
    if (ndeps * 2 > deps_len || (ndeps == 0 && deps_len)) return ZC_E_CORRUPT;
    if (zc__get64(p + 8) != zc__record_checksum(p, bytes.len)) return ZC_E_CORRUPT;
    r->key = zc_slice(p + ZC__RECORD_HEAD, (size_t)key_len);
    r->mark = zc_slice(p + ZC__RECORD_HEAD + key_len, mark_len);
    body->deps = p + ZC__RECORD_HEAD + key_len + mark_len;
    body->deps_len = (size_t)deps_len;
    body->value = body->deps + deps_len;
    body->stored_len = (size_t)stored_len;
    body->packed = packed;
    r->value = zc_slice(packed ? NULL : body->value, (size_t)value_len);
    r->ndeps = ndeps;
    r->generation = zc__get64(p + 16);
    r->begin = zc__get64(p + 24);
    r->expires_ms = zc__get64(p + 32);
    r->soft_ms = zc__get64(p + 40);
    r->tti_ms = zc__get64(p + 48);
    r->grace_ms = zc__get64(p + 56);
    r->absent = (p[5] & ZC__RECORD_ABSENT) != 0;
    return ZC_OK;
}

/* Reads the n dependencies. */
static bool zc__record_deps(const zc__record_body *body, size_t n, zc_bytes *deps) {
    if (!zc__list_read(body->deps, body->deps_len, deps, n)) return false;
    while (n && deps[n - 1].len <= ZC_TAG_MAX) n--;
    return n == 0;
}

/* Writes a packed value, of `len` bytes. */
static bool zc__record_unpack(const zc__record_body *body, void *to, size_t len) {
#ifndef ZOOCACHE_NO_LZ4
    return len <= LZ4_MAX_INPUT_SIZE &&
           LZ4_decompress_safe((const char *)body->value, (char *)to, (int)body->stored_len,
                               (int)len) == (int)len;
#else
    (void)body, (void)to, (void)len;
    return false;
#endif
}

/* Decodes into *r, which points into `bytes` and into *memory. */
static int zc__record_decode(const zc__mem *m, zc_bytes bytes, size_t max_value, zc_record *r,
                             zc_bytes *memory) {
    zc__record_body body;
    *memory = zc_slice(NULL, 0);
    int rc = zc__record_open(bytes, max_value, r, &body);
    if (rc != ZC_OK) return rc;
    size_t deps_size = r->ndeps * sizeof(zc_bytes);
    size_t need = deps_size + (body.packed ? r->value.len : 0);
    unsigned char *mem = need ? (unsigned char *)zc__alloc(m, need) : NULL;
    zc_bytes *deps = (zc_bytes *)(void *)mem;
    if (need && !mem) rc = ZC_E_NOMEM;
    else if (!zc__record_deps(&body, r->ndeps, deps)) rc = ZC_E_CORRUPT;
    else if (body.packed && !zc__record_unpack(&body, mem + deps_size, r->value.len))
        rc = ZC_E_CORRUPT;
    if (rc != ZC_OK) {
        zc__free(m, mem, need);
        memset(r, 0, sizeof *r);
        return rc;
    }
    r->deps = deps;
    if (body.packed) r->value.ptr = mem + deps_size;
    *memory = zc_slice(mem, need);
    return ZC_OK;
}

#ifndef ZOOCACHE_NO_STORE
ZOOCACHE_API int zc_record_encode(const zc_record *record, const zc_allocator *allocator,
                                  zc_bytes *out) {
    zc__buf b;
    if (!out) return ZC_E_INVAL;
    *out = zc_slice(NULL, 0);
    if (!record) return ZC_E_INVAL;
    const zc__mem m = zc__mem_by(allocator);
    memset(&b, 0, sizeof b);
    int rc = zc__record_encode(&m, record, &b);
    unsigned char *exact = rc == ZC_OK ? (unsigned char *)zc__alloc(&m, b.size) : NULL;
    if (exact) {
        memcpy(exact, b.ptr, b.size);
        *out = zc_slice(exact, b.size);
    }
    zc__buf_free(&m, &b);
    return rc == ZC_OK && !exact ? ZC_E_NOMEM : rc;
}

ZOOCACHE_API int zc_record_decode(zc_bytes bytes, size_t max_value, const zc_allocator *allocator,
                                  zc_record *record, zc_bytes *memory) {
    if (!record || !memory) return ZC_E_INVAL;
    const zc__mem m = zc__mem_by(allocator);
    return zc__record_decode(&m, bytes, max_value, record, memory);
}
#endif

/* ============================================================================================
 * >>hlc   The hybrid logical clock
 *   Idea        A stamp is wall-clock milliseconds in the high 48 bits and a counter in the low 16;
 *               as one number it only grows: the next stamp is the larger of "the wall clock now"
 *               and "the last one plus 1". A counter that overflows runs into the milliseconds,
 *               which is harmless: only the order matters.  (Kulkarni et al. 2014, section 3.)
 *   Invariants  H1 every stamp given is above all given and all merged before it
 *               H2 a merged stamp is at most max_drift above the wall clock, and never so high that
 *                  stamps might end: whatever comes in is at most ZC__VERSION_MAX, which no wall
 *                  clock reaches, and from which on there are more than will ever be given
 *   Locking     none: one compare-and-swap
 * ========================================================================================== */

#define ZC__HLC_BITS 16
#define ZC__VERSION_MAX (UINT64_C(1) << 62) /* what is above is no version, wherever it is from */

static uint64_t zc__hlc_wall(const zc_hlc *h) {
    return zc__wall(&h->clock) / ZC_MILLISECOND << ZC__HLC_BITS;
}

ZOOCACHE_API uint64_t zc_hlc_now(zc_hlc *h) {
    uint64_t wall = zc__hlc_wall(h), last = zc__atomic_load_rlx(&h->last), next;
    do next = last >= wall && last < 2 * ZC__VERSION_MAX ? last + 1 : wall;
    while (!zc__atomic_cas(&h->last, &last, next));
    return next; /* H1 */
}

ZOOCACHE_API int zc_hlc_merge(zc_hlc *h, uint64_t remote) {
    uint64_t drift = h->max_drift ? h->max_drift : 60 * ZC_SECOND;
    uint64_t most = drift == ZC_NEVER
                        ? ZC__VERSION_MAX
                        : zc__add_sat(zc__hlc_wall(h), drift / ZC_MILLISECOND << ZC__HLC_BITS);
    if (remote > most) { /* H2 */
        zc__count(&h->refused, 1);
        return ZC_E_CLOCK;
    }
    zc__atomic_raise(&h->last, remote);
    return ZC_OK;
}

#ifndef ZOOCACHE_NO_TEXT
/* The date of a day since 1970 in the proleptic Gregorian calendar. The year begins in March here,
 * so that the leap day is its last; an era is 400 years. */
static void zc__date_of(uint32_t days, uint32_t *y, uint32_t *m, uint32_t *d) {
    uint32_t z = days + 719468, in_era = z % 146097;
    uint32_t year = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
    uint32_t day = in_era - (365 * year + year / 4 - year / 100);
    uint32_t month = (5 * day + 2) / 153;
    *d = day - (153 * month + 2) / 5 + 1;
    *m = month < 10 ? month + 3 : month - 9;
    *y = z / 146097 * 400 + year + (*m <= 2);
}

/* Digits of year, month, day, hour, minute, second, millisecond, counter. */
static const unsigned char zc__hlc_width[8] = {4, 2, 2, 2, 2, 2, 3, 4};
static const uint16_t zc__hlc_base[7] = {0, 0, 0, 24, 60, 60, 1000}; /* of the time of day */

ZOOCACHE_API char *zc_hlc_format(uint64_t stamp, char text[ZC_HLC_TEXT]) {
    uint64_t left = stamp >> ZC__HLC_BITS;
    uint32_t parts[7];
    zc__text t = {text, ZC_HLC_TEXT, 0};
    for (unsigned i = 7; i-- > 3; left /= zc__hlc_base[i])
        parts[i] = (uint32_t)(left % zc__hlc_base[i]);
    zc__date_of((uint32_t)left, &parts[0], &parts[1], &parts[2]);
    for (unsigned i = 0; i < 7; i++) {
        zc__text_num(&t, parts[i], zc__hlc_width[i]);
        zc__text_bytes(&t, &"--T::.Z"[i], 1);
    }
    zc__text_str(&t, "+");
    zc__text_hex(&t, stamp, 4);
    zc__text_end(&t);
    return text;
}

/* The order of stamps is that of their texts, so the bits of the stamp are found one by one. */
ZOOCACHE_API int zc_hlc_parse(zc_bytes text, uint64_t *stamp) {
    char of[ZC_HLC_TEXT];
    uint64_t v = 0;
    if (!stamp) return ZC_E_INVAL;
    *stamp = 0;
    if (!text.ptr || (text.len != 29 && text.len != 30)) return ZC_E_INVAL;
    for (unsigned bit = 64; bit--;) {
        size_t len = strlen(zc_hlc_format(v | UINT64_C(1) << bit, of));
        if (len < text.len || (len == text.len && memcmp(of, text.ptr, len) <= 0))
            v |= UINT64_C(1) << bit;
    }
    if (memcmp(zc_hlc_format(v, of), text.ptr, text.len) != 0 || of[text.len]) return ZC_E_INVAL;
    *stamp = v;
    return ZC_OK;
}
#endif

/* ============================================================================================
 * >>chains   Hash tables of linked things, which grow in small steps
 *   Idea        Tags and flights are found by chains, one for each value of some bits of a hash.
 *               When there are more things than chains, twice as many chains begin to be used, and
 *               with each thing that is added a few of the old ones are moved: chain i splits into
 *               i and i + half. What is not moved yet is looked for in the old ones, and the new
 *               ones need not be cleared before. So no step takes long, however much there is.
 *
 *                 old   | moved | moved | 2 | 3 |
 *                 to    | 0 | 1 |  ?  |  ?  | 4 | 5 |  ?  |  ?  |          half 4, moved 2
 *
 *   Invariants  C1 a thing is in the chain of its hash   C2 count is right
 *               C3 moving ends before the next doubling is due
 *   Locking     their owner's
 *   Cost        8 bytes a chain, 8 to 16 a thing; half as much again while they move
 * ========================================================================================== */

#define ZC__CHAINS_MOVED 4u /* with each thing that is added */

typedef struct zc__link {
    struct zc__link *next;
    uint32_t hash;
    uint32_t refs; /* its owner's: here it fills a gap */
} zc__link;

typedef struct zc__chains {
    zc__link **to;
    zc__link **old;           /* not NULL: the n / 2 from before, of which `moved` are in `to` */
    uint32_t n, moved, count; /* n: a power of two; 0: there are none yet */
} zc__chains;

/* A hash's chain. There are some. */
static zc__link **zc__chain(const zc__chains *t, uint32_t hash) {
    uint32_t low = hash & (t->n / 2 - 1);
    return t->old && low >= t->moved ? &t->old[low] : &t->to[hash & (t->n - 1)];
}

/* The chains of 0 up to here are all, each once. Moving raises it, and moves things to higher ones
 * alone: who goes through them upwards, in steps, passes none by. */
static inline uint32_t zc__chains_end(const zc__chains *t) {
    return t->old ? t->n / 2 + t->moved : t->n;
}

static void zc__chains_move(zc__mem *m, zc__chains *t) {
    uint32_t half = t->n / 2;
    for (unsigned i = 0; i < ZC__CHAINS_MOVED && t->old; i++) {
        zc__link *l = t->old[t->moved], *next;
        t->to[t->moved] = t->to[t->moved + half] = NULL;
        t->moved++;
        for (; l; l = next) {
            zc__link **chain = &t->to[l->hash & (t->n - 1)];
            next = l->next;
            l->next = *chain;
            *chain = l;
        }
        if (t->moved < half) continue;
        zc__free_large(m, t->old, half * sizeof *t->old);
        t->old = NULL;
    }
}

/* Adds a thing. False: there is no memory for the first chains; without memory for more, they grow
 * longer. */
static bool zc__chains_add(zc__mem *m, zc__chains *t, zc__link *l) {
    if (t->count >= t->n && !t->old) {
        uint32_t n = t->n ? t->n * 2 : 8;
        zc__link **to = (zc__link **)zc__alloc(m, n * sizeof *to);
        if (to) {
            t->old = t->to;
            t->to = to;
            t->n = n;
            t->moved = 0;
            if (!t->old) memset((void *)to, 0, n * sizeof *to);
        }
    }
    if (!t->n) return false;
    zc__chains_move(m, t);
    zc__link **chain = zc__chain(t, l->hash);
    l->next = *chain;
    *chain = l;
    t->count++;
    return true;
}

static size_t zc__chains_size(const zc__chains *t) {
    return (t->n + (t->old ? t->n / 2 : 0)) * sizeof *t->to;
}

/* Frees the chains; what is in them stays. */
static void zc__chains_free(const zc__mem *m, zc__chains *t) {
    zc__free(m, t->old, t->n / 2 * sizeof *t->old);
    zc__free(m, t->to, t->n * sizeof *t->to);
    memset(t, 0, sizeof *t);
}

/* ============================================================================================
 * >>trie   Tags, versions, floors, pruning: hierarchical invalidation in O(depth)
 *   Idea        A tag is a path. Each prefix of it is a node with the version of its last
 *               invalidation. An entry points at the nodes of its dependencies; it is fresh while
 *               no node from there up to the root has a version above the entry's `begin`.
 *
 *                   root v0 --- org v0 --- org:1 v7 --- org:1:team v0 --- org:1:team:a v3
 *                                     \--- org:2 v0             (an entry with begin 5 that depends
 *                                                                on org:1:team:a is dead: v7 > 5)
 *
 *   Layout      All nodes are in one hash table keyed by the whole path, cut in 16 stripes; a node
 *               stores its own segment and its parent, so a path is compared segment by segment,
 *               upwards. One hash and one probe find a tag, whatever its depth. 48 bytes and the
 *               segment's text a node; no child lists.
 *   Publishing  A writer stamps its nodes with a new version and then publishes that version in
 *               `published`; writers take turns. So whoever reads published == S finds every
 *               version up to S in its node, and `published` is also the change counter: an entry
 *               whose begin equals it needs no walk. After a successful walk an entry's begin moves
 *               up to the `published` that was read before the walk. A reader that meets a version
 *               above `published` waits until it is published, so the tags of one invalidation take
 *               effect together.
 *   Pruning     A node without references may be dropped. Its version goes into its parent's
 *               `floor`, and a node that is born later starts from its parent's floor. That can be
 *               too high, which costs one miss for fills in flight; it is never too low.
 *   Invariants  T1 version, floor <= published, but for the writer's own between stamp and publish
 *               T2 a child holds a reference on its parent: what is reachable upwards lives
 *               T3 refs == 0 -> nobody points at the node; it counts in `idle`
 *               T4 a node is in the stripe and bucket of its hash; depth is its parent's plus 1
 *               T5 floor >= version of every dropped descendant
 *   Locking     Stripe lock: chains, birth, death. A reference may be added by a holder of one,
 *               else only with the stripe locked; so the dropper, who holds it, can trust refs ==
 *               0. Writer lock: stamp and publish. Walks take no lock: the entry's references keep
 *               the path alive. version: store_rel in stamp / load_acq in the walk;
 *               published likewise.
 *   Cost        invalidate: O(length), no allocation if the node is there. Walk: O(depth).
 *   Fails       zc__tag_acquire: ZC_E_NOMEM. Invalidation never: see zc__nodes_acquire.
 * ========================================================================================== */

#define ZC__STRIPES 16u
#define ZC__IDLE_SLACK 4096 /* so many idle nodes are never too many */

struct zc_tag {
    zc__link link;    /* chain [stripe]; hash of the path; refs of entries, fills, interned handles,
                       * children */
    zc_tag *parent;   /* NULL: the root */
    zc_shared64 version; /* of the last invalidation; born with the parent's floor */
    zc_shared64 floor; /* T5 */
    uint32_t touched; /* seconds of the monotonic clock when last let go or invalidated */
    uint16_t len;     /* bytes of the segment, which follows this struct */
    uint8_t depth;    /* root 0 */
    uint8_t marks;    /* [writer] ZC__LEARNED, ZC__HELD, ZC__RELEASED */
};

#define ZC__LEARNED 1u /* its version was asked of the storage, or need not be */
#define ZC__HELD 2u    /* see >>bus, Holds */
#define ZC__RELEASED 4u /* within zc__holds_end() */

typedef struct zc__stripe {
    zc__spin lock;
    uint32_t hand; /* the next chain to look for idle nodes */
    zc__chains tags;
    char pad[ZC__LINE - sizeof(zc__spin) - 4 - sizeof(zc__chains)];
} zc__stripe;

#define ZC__PAST 32u /* moments of which is known what was published then */

typedef struct zc__past {
    uint64_t at[ZC__PAST], version[ZC__PAST];
    unsigned n;
} zc__past;

typedef struct zc__trie {
    zc_shared64 published; /* all versions up to it are in their nodes; alone in its cache line */
    char pad[ZC__LINE - 8];
    zc__mem *mem;
    zc_hlc *hlc;
    uint64_t seed;
    bool has_store; /* versions may be known to a storage: new nodes ask (>>store) */
    bool counts;    /* versions are counted, not HLC stamps: there is a bus (>>bus) */
    zc__spin writer;
    uint64_t invalidations; /* [writer] */
#ifndef ZOOCACHE_NO_THREADS
    zc__past past; /* [writer] */
#endif
    zc_shared64 now_s; /* the monotonic clock's seconds, as last read by anyone */
    zc_shared64 tags, idle, bytes, pruned;
    uint64_t prune_due;                  /* [house] nothing idle was let go before this second */
    uint64_t prune_next;                 /* [house] of the look under way, and */
    uint32_t prune_stripe, prune_at;     /* [house]   where it goes on */
    zc_tag root, all; /* all: its version is that of the last zc_clear() */
    zc__stripe stripes[ZC__STRIPES];
} zc__trie;

static inline const unsigned char *zc__tag_label(const zc_tag *n) {
    return (const unsigned char *)(n + 1);
}

/* A tag as text, checked, with the end of each of its segments. */
typedef struct zc__path {
    const unsigned char *text;
    unsigned depth;
    uint16_t end[ZC_TAG_DEPTH];
} zc__path;

static int zc__path_parse(zc_bytes tag, zc__path *path) {
    const unsigned char *s = (const unsigned char *)tag.ptr;
    size_t start = 0;
    path->text = s;
    path->depth = 0;
    if (tag.len == 0) return ZC_E_TAG_EMPTY;
    if (!s) return ZC_E_INVAL;
    if (tag.len > ZC_TAG_MAX) return ZC_E_TAG_LONG;
    for (size_t i = 0; i < tag.len; i++) {
        if (s[i] == '\0') return ZC_E_TAG_NUL;
        if (s[i] != ':') continue;
        if (i == start) return ZC_E_TAG_SEGMENT;
        if (path->depth == ZC_TAG_DEPTH - 1) return ZC_E_TAG_DEEP;
        path->end[path->depth++] = (uint16_t)i;
        start = i + 1;
    }
    if (start == tag.len) return ZC_E_TAG_SEGMENT;
    path->end[path->depth++] = (uint16_t)tag.len;
    return ZC_OK;
}

static inline uint64_t zc__path_hash(const zc__trie *t, const zc__path *path, unsigned depth) {
    return zc__hash(zc_slice(path->text, path->end[depth - 1]), t->seed);
}
static inline zc__stripe *zc__stripe_of(zc__trie *t, uint64_t hash) {
    return &t->stripes[hash >> 60];
}

static bool zc__tag_is(const zc_tag *n, const zc__path *path, unsigned depth) {
    if (n->depth != depth) return false;
    for (; depth > 0; n = n->parent, depth--) {
        size_t start = depth > 1 ? (size_t)path->end[depth - 2] + 1 : 0;
        size_t len = path->end[depth - 1] - start;
        if (n->len != len || !zc__equal(zc__tag_label(n), path->text + start, len)) return false;
    }
    return true;
}

/* The node of the first `depth` segments, or NULL. */
static zc_tag *zc__stripe_find(zc__stripe *s, uint64_t hash, const zc__path *path, unsigned depth) {
    ZC__ASSERT_HELD(&s->lock);
    if (!s->tags.n) return NULL;
    zc__link *l = *zc__chain(&s->tags, (uint32_t)hash);
    while (l && (l->hash != (uint32_t)hash || !zc__tag_is((zc_tag *)l, path, depth))) l = l->next;
    return (zc_tag *)l;
}

static inline void zc__tag_ref(zc_tag *n) { (void)zc__atomic_add_rlx(&n->link.refs, 1u); }

/* Adds a reference with the stripe locked, which may wake an idle node. */
static inline void zc__tag_revive(zc__trie *t, zc_tag *n) {
    if (zc__atomic_add_rlx(&n->link.refs, 1u) == 0) (void)zc__atomic_sub_rlx(&t->idle, 1u);
}

static inline void zc__tag_unref(zc__trie *t, zc_tag *n) {
    zc__atomic_store_rlx(&n->touched, (uint32_t)zc__atomic_load_rlx(&t->now_s));
    /* From the moment it is idle it may be freed: no access after this one. */
    if (zc__atomic_sub_acqrel(&n->link.refs, 1u) == 1) (void)zc__atomic_add_rlx(&t->idle, 1u);
}

static zc_tag *zc__tag_lookup(zc__trie *t, const zc__path *path, unsigned depth) {
    uint64_t hash = zc__path_hash(t, path, depth);
    zc__stripe *s = zc__stripe_of(t, hash);
    zc__spin_lock(&s->lock);
    zc_tag *n = zc__stripe_find(s, hash, path, depth);
    if (n) zc__tag_revive(t, n);
    zc__spin_unlock(&s->lock);
    return n;
}

static size_t zc__tag_size(const zc_tag *n) { return sizeof *n + n->len; }

/* Takes the idle nodes of one chain that were let go at or before `until`, and chains them up to be
 * freed; *next becomes at most the second in which one of the others was. */
static void zc__stripe_prune(zc__stripe *s, uint32_t chain, uint64_t until, uint64_t *next,
                             zc__link **dead) {
    ZC__ASSERT_HELD(&s->lock);
    for (zc__link **link = zc__chain(&s->tags, chain), *l; (l = *link) != NULL;) {
        zc_tag *n = (zc_tag *)l;
        bool idle = zc__atomic_load_acq(&l->refs) == 0;
        uint32_t touched = zc__atomic_load_rlx(&n->touched);
        if (!idle || touched > until) {
            if (idle && touched < *next) *next = touched;
            link = &l->next;
            continue;
        }
        uint64_t v = zc__atomic_load_acq(&n->version), f = zc__atomic_load_acq(&n->floor);
        zc__atomic_raise(&n->parent->floor, v > f ? v : f); /* T5, before it can be born again */
        *link = l->next;
        l->next = *dead;
        *dead = l;
        s->tags.count--;
    }
}

static size_t zc__tags_free(zc__trie *t, zc__link *link) {
    size_t n = 0;
    for (zc_tag *dead; (dead = (zc_tag *)link) != NULL; n++) {
        link = link->next;
        /* not a use of the parent: its idle time goes on */
        if (zc__atomic_sub_acqrel(&dead->parent->link.refs, 1u) == 1)
            (void)zc__atomic_add_rlx(&t->idle, 1u);
        (void)zc__atomic_sub_rlx(&t->bytes, zc__tag_size(dead));
        zc__free(t->mem, dead, zc__tag_size(dead));
    }
    (void)zc__atomic_sub_rlx(&t->tags, n);
    (void)zc__atomic_sub_rlx(&t->idle, n);
    zc__count(&t->pruned, n);
    zc__freed(t->mem, (uint32_t)n);
    return n;
}

/* Prunes a few chains of a stripe from *hand on, which moves behind them, and to 0 when it comes to
 * the end. Returns how many nodes it freed. */
static size_t zc__stripe_sweep(zc__trie *t, zc__stripe *s, uint32_t *hand, unsigned chains,
                               uint64_t until, uint64_t *next) {
    zc__link *dead = NULL;
    zc__spin_lock(&s->lock);
    for (; chains && *hand < zc__chains_end(&s->tags); chains--, ++*hand)
        zc__stripe_prune(s, *hand, until, next, &dead);
    if (*hand >= zc__chains_end(&s->tags)) *hand = 0;
    zc__spin_unlock(&s->lock);
    return zc__tags_free(t, dead);
}

/* Makes the node of the first `depth` segments below `parent`, on which the caller has a reference;
 * or finds it, if another was faster. Returns it with a reference, NULL without memory. */
static ZC__NOINLINE zc_tag *zc__tag_create(zc__trie *t, zc_tag *parent, const zc__path *path,
                                           unsigned depth) {
    size_t start = depth > 1 ? (size_t)path->end[depth - 2] + 1 : 0;
    size_t len = path->end[depth - 1] - start;
    zc_tag *n = (zc_tag *)zc__alloc_zero(t->mem, sizeof *n + len);
    if (!n) return NULL;
    uint64_t hash = zc__path_hash(t, path, depth);
    zc__stripe *s = zc__stripe_of(t, hash);
    n->parent = parent;
    n->link.refs = 1;
    n->link.hash = (uint32_t)hash;
    n->len = (uint16_t)len;
    n->depth = (uint8_t)depth;
    n->marks = !t->has_store; /* ZC__LEARNED */
    memcpy(n + 1, path->text + start, len);

    zc__spin_lock(&s->lock);
    zc_tag *other = zc__stripe_find(s, hash, path, depth);
    bool lost = other || !zc__chains_add(t->mem, &s->tags, &n->link);
    if (other) zc__tag_revive(t, other);
    if (!lost) {
        zc__tag_ref(parent); /* T2 */
        n->version = n->floor = zc__atomic_load_acq(&parent->floor);
        (void)zc__atomic_add_rlx(&t->tags, 1u);
        (void)zc__atomic_add_rlx(&t->bytes, zc__tag_size(n));
    }
    zc__spin_unlock(&s->lock);
    if (lost) {
        zc__free(t->mem, n, sizeof *n + len);
        return other;
    }
    /* Memory is bounded by live nodes: each birth looks at some buckets while too many are idle.
     * Of a dead chain only the end is idle, so the chain counts for as many as it may have. */
    uint64_t idle = zc__atomic_load_rlx(&t->idle);
    if (idle < UINT64_MAX / 2 &&
        idle > zc__atomic_load_rlx(&t->tags) / (2 * ZC_TAG_DEPTH) + ZC__IDLE_SLACK)
        zc__stripe_sweep(t, s, &s->hand, 4 * depth, UINT32_MAX, &idle);
    return n;
}

/* The deepest node on a path that there is, with a reference. */
static zc_tag *zc__tag_deepest(zc__trie *t, const zc__path *path) {
    for (unsigned depth = path->depth; depth; depth--) {
        zc_tag *n = zc__tag_lookup(t, path, depth);
        if (n) return n;
    }
    zc__tag_ref(&t->root);
    return &t->root;
}

/* The node of a path, made if need be, with a reference. NULL: no memory. */
static zc_tag *zc__tag_acquire(zc__trie *t, const zc__path *path) {
    zc_tag *n = zc__tag_lookup(t, path, path->depth);
    if (n) return n;
    zc_tag *parent = &t->root;
    zc__tag_ref(parent);
    for (unsigned depth = 1; depth <= path->depth; depth++) {
        n = depth < path->depth ? zc__tag_lookup(t, path, depth) : NULL;
        if (!n) n = zc__tag_create(t, parent, path, depth);
        zc__tag_unref(t, parent);
        if (!n) return NULL;
        parent = n;
    }
    return n;
}

/* The length of the text of a node's path. */
static ZC__NOINLINE size_t zc__tag_len(const zc_tag *n) {
    size_t len = 0;
    for (; n->parent; n = n->parent) len += (size_t)n->len + (n->parent->parent != NULL);
    return len;
}

/* The text of a node's path. `buf` has room for it, at most ZC_TAG_MAX bytes; not terminated. */
static size_t zc__tag_text(const zc_tag *n, char *buf) {
    size_t len = zc__tag_len(n);
    for (size_t at = len; n->parent; n = n->parent) {
        at -= n->len;
        memcpy(buf + at, zc__tag_label(n), n->len);
        if (n->parent->parent) buf[--at] = ':';
    }
    return len;
}

static inline uint64_t zc__published(const zc__trie *t) {
    return zc__atomic_load_acq(&t->published);
}

/* The newest version from a node up to the root; *who: the node that has it. */
static inline uint64_t zc__tag_newest(const zc_tag *n, const zc_tag **who) {
    uint64_t newest = 0;
    for (; n; n = n->parent) {
        uint64_t v = zc__atomic_load_acq(&n->version);
        if (ZC__UNLIKELY(v > newest)) {
            newest = v;
            *who = n;
        }
    }
    return newest;
}

/* The one rule. NULL: fresh, no version on the path of any dependency is above `begin`. Else the
 * tag that is, once its version has been published. No dependency at all: the root alone counts. */
static const zc_tag *zc__trie_killer(const zc__trie *t, zc_tag *const *deps, size_t n,
                                     uint64_t begin) {
    const zc_tag *who = &t->root;
    uint64_t newest = n ? 0 : zc__atomic_load_acq(&t->root.version);
    for (size_t i = 0; i < n && newest <= begin; i++) newest = zc__tag_newest(deps[i], &who);
    if (ZC__LIKELY(newest <= begin)) return NULL;
    unsigned looks = 0;
    while (ZC__CAN_SLEEP && zc__published(t) < newest)
        zc__back_off(&looks); /* its writer is about to publish it */
    return who;
}

/* Stamps nodes, on which the caller has references, with one new version, and publishes it. */
static uint64_t zc__trie_stamp(zc__trie *t, zc_tag *const *nodes, size_t n, uint64_t at_least) {
    zc__spin_lock(&t->writer);
    uint64_t v = t->counts ? t->published + 1 : zc_hlc_now(t->hlc);
    if (v < at_least) v = at_least;
    for (size_t i = 0; i < n; i++) {
        zc__atomic_store_rel(&nodes[i]->version, v);
        zc__atomic_store_rlx(&nodes[i]->touched, (uint32_t)zc__atomic_load_rlx(&t->now_s));
    }
    t->invalidations++;
    zc__atomic_store_rel(&t->published, v);
    zc__spin_unlock(&t->writer);
    return v;
}

#ifndef ZOOCACHE_NO_THREADS
/* The moment that can be missed most easily: the one that leaves the smallest gap for its age, so
 * that short and long lags are served alike. */
static unsigned zc__past_spare(const zc__past *p, uint64_t now) {
    uint64_t least = UINT64_MAX;
    unsigned spare = 1;
    for (unsigned i = 1; i + 1 < p->n; i++) {
        uint64_t gap = (p->at[i + 1] - p->at[i - 1]) / (((now - p->at[i]) >> 20) + 1);
        if (gap >= least) continue;
        least = gap;
        spare = i;
    }
    return spare;
}

/* What was published at least `lag` ago; 1, if that is not known. A moment is noted when the last
 * is a sixteenth of the lag ago. */
static uint64_t zc__trie_ago(zc__trie *t, uint64_t now, uint64_t lag) {
    ZC__ASSERT_HELD(&t->writer);
    zc__past *p = &t->past;
    if (!p->n || now - p->at[p->n - 1] >= lag / 16) {
        unsigned i = p->n < ZC__PAST ? p->n++ : zc__past_spare(p, now);
        for (; i + 1 < p->n; i++) {
            p->at[i] = p->at[i + 1];
            p->version[i] = p->version[i + 1];
        }
        p->at[i] = now;
        p->version[i] = t->published;
    }
    unsigned n = p->n;
    while (n && now - p->at[n - 1] < lag) n--;
    return n ? p->version[n - 1] : 1;
}
#endif

/* Takes note of a version that was handed out elsewhere or in an earlier life. */
static void zc__trie_learn(zc__trie *t, zc_tag *n, uint64_t version) {
    zc__spin_lock(&t->writer);
    zc__atomic_raise(&n->version, version);
    zc__atomic_raise(&t->hlc->last, version);
    if (t->published < version) zc__atomic_store_rel(&t->published, version); /* T1 */
    zc__atomic_store_rel(&n->marks, (uint8_t)(n->marks | ZC__LEARNED));
    zc__spin_unlock(&t->writer);
}

static void zc__trie_init(zc__trie *t, zc__mem *mem, zc_hlc *hlc, uint64_t seed) {
    t->mem = mem;
    t->hlc = hlc;
    t->seed = seed;
    ZC__SET_RANK(&t->writer, ZC__RANK_WRITER);
    for (unsigned i = 0; i < ZC__STRIPES; i++) ZC__SET_RANK(&t->stripes[i].lock, ZC__RANK_STRIPE);
    t->published = 1; /* above the 0 of "never invalidated", so that no begin is 0 */
    zc__atomic_raise(&hlc->last, t->published);
    t->root.link.refs = 1;
    t->root.marks = ZC__LEARNED;
}

static void zc__trie_destroy(zc__trie *t) {
    for (unsigned i = 0; i < ZC__STRIPES; i++) {
        zc__chains *tags = &t->stripes[i].tags;
        for (uint32_t k = 0; k < zc__chains_end(tags); k++) {
            for (zc__link *l = *zc__chain(tags, k), *next; l; l = next) {
                next = l->next;
                zc__free(t->mem, l, zc__tag_size((zc_tag *)l));
            }
        }
        zc__chains_free(t->mem, tags);
    }
}

/* Counts anew, after a fork that other threads were at work around: what they were about to count
 * is lost with them (and so is the memory that they were about to free). */
static void zc__trie_recount(zc__trie *t) {
    ZC__ASSERT_HELD(&t->writer); /* as all that there is */
    t->tags = t->idle = t->bytes = 0;
    for (unsigned i = 0; i < ZC__STRIPES; i++) {
        const zc__chains *tags = &t->stripes[i].tags;
        for (uint32_t k = 0; k < zc__chains_end(tags); k++) {
            for (const zc__link *l = *zc__chain(tags, k); l; l = l->next) {
                t->tags++;
                t->idle += l->refs == 0;
                t->bytes += zc__tag_size((const zc_tag *)l);
            }
        }
    }
}

/* T1 to T4, with every stripe and the writer locked. NULL: good; else which one is broken. */
static const char *zc__trie_check(zc__trie *t) {
    uint64_t tags = 0, idle = 0, bytes = 0;
    for (unsigned i = 0; i < ZC__STRIPES; i++) {
        const zc__chains *all = &t->stripes[i].tags;
        uint32_t count = 0;
        for (uint32_t k = 0; k < zc__chains_end(all); k++) {
            for (zc__link *l = *zc__chain(all, k); l; l = l->next, count++) {
                zc_tag *n = (zc_tag *)l;
                if (n->version > t->published || n->floor > t->published) return "T1";
                if (!n->parent || zc__atomic_load_rlx(&n->parent->link.refs) == 0) return "T2";
                if (zc__chain(all, l->hash) != zc__chain(all, k)) return "T4: chain";
                if (n->depth != n->parent->depth + 1) return "T4: depth";
                idle += zc__atomic_load_rlx(&l->refs) == 0;
                bytes += zc__tag_size(n);
            }
        }
        if (count != all->count) return "T4: count";
        tags += count;
    }
    if (tags != zc__atomic_load_rlx(&t->tags) || bytes != zc__atomic_load_rlx(&t->bytes))
        return "T4: totals";
    return idle == zc__atomic_load_rlx(&t->idle) ? NULL : "T3";
}

/* ============================================================================================
 * >>rcu   Reads that share nothing
 *   Idea        A lock, a count of pins or of hits is a write to a line that all readers of a key
 *               share: with two cores, each read waits for the line. But an entry does not change
 *               while it is in the table, its mark and `begin` apart; so who copies a value needs
 *               no lock, only that the memory stays while he looks (read-copy-update, McKenney and
 *               Slingwine 1998). He writes to a line of his own: that he reads, and that he hit.
 *
 *                 reader   in = 1 | table -> slot -> entry: the key? fresh? -> copy | in = 0
 *                 writer   slot = NULL -> limbo, up to 16 entries -> all seats left? -> free
 *
 *   Seats       A thread has a number, and with it a seat in each cache, which it takes by an
 *               exchange, as it would a lock. If another thread of that number sits there, it reads
 *               with the shard's lock instead.
 *   Limbo       What a thread has unlinked is freed some at a time, after a look at all seats: one
 *               that is free, or left since, holds nothing that was unlinked before the look. A
 *               reader who was interrupted is not waited for, unless very much waits.
 *   The lock    is taken when it needs more than a compare: an entry that is not known to be
 *               fresh, is expired, an object, has a soft deadline or a long value; a miss with a
 *               storage, or while the shard puts an entry (the old one goes before the new one is
 *               there); while its table is changed for another, and then it helps along; and always
 *               where memory is to go back at once (a fixed block, an allocator of the user's).
 *   Why it      R3: The reader's exchange and his load of the slot, the writer's fence and his look
 *   is right    at the seat are sequentially consistent. If the load does not see that the entry
 *               was unlinked, it comes before the fence, so the exchange comes before the look: the
 *               look sees the seat taken, or what the reader has left behind him with his release.
 *               So what is read was not freed. It is the key's: key, value and lengths are constant
 *               from the release of the slot on, and the key is compared. It is not stale: the read
 *               takes effect when the slot is loaded, where the entry was linked; `published` is
 *               loaded later, and no version of any tag was above `begin` even then. A miss is
 *               one: `turn` is the same before and after, so nothing that had been there was put
 *               anew meanwhile; and who links an entry counts it in `over` before.
 *   Not so      A sequence number over memory that keeps its type: a value is copied word by word,
 *               twice the time; and tables are freed some time, so it needs this as well. Hazard
 *               pointers: the slot is loaded once more after the exchange, as fast for one key, 1.6
 *               times the time for many; and the table needs another one.
 *   Invariants  R1 a seat is one thread's from its exchange to its release   R2 its hits or misses
 *               grow when it is left with one   R3 nothing is freed that a reader may look at
 *               R4 without ZC__TURN_TABLE in shard.turn, `table` is whole and has all entries
 *   Locking     seat.in, used, slots, turn: as above. hits, misses: who sits there. limbo: `lock`
 *   Cost        a hit or miss: one exchange; no line is written that others read, once the
 *               entry's mark is set. An entry that is freed: a lock; for 16 a fence and a line of
 *               each thread. 8 KiB a cache.
 * ========================================================================================== */

#ifdef ZOOCACHE_NO_THREADS
#  define ZC__THREADED 0
#  define zc__rcu_stop(s, what) ((void)0)
#  define zc__rcu_resume(s, what) ((void)0)
#  define zc__rcu_wait(c) ((void)0)
#else
#  define ZC__THREADED 1
#  define ZC__SEATS 64u
#  ifndef ZC__LIMBO_FEW /* tests/s_linear.c defines it */
#    define ZC__LIMBO_FEW 16u /* entries that are freed together */
#  endif
#  define ZC__LIMBO_BYTES 16384u /* or so much, if it is more */
#  define ZC__LIMBO_MOST 64u     /* times that: readers are waited for */
#  define ZC__LIMBOS_MOST 128u   /* entries that a poll frees of what others have left there */
#  define ZC__SEAT_LOOKS 16u     /* at one who may be about to leave */

enum { ZC__SEAT_FREE, ZC__SEAT_TAKEN, ZC__SEAT_NEW /* free, and nobody was ever there */ };

typedef struct zc__seat {
    uint64_t hits, misses;
    uint32_t in; /* of the first, which is nobody's: taken */
    char pad[ZC__LINE - 2 * sizeof(uint64_t) - sizeof(uint32_t)];
    zc__spin lock; /* from here on, the limbo; processors fetch lines in pairs: so in the other */
    uint32_t n;
    size_t bytes;
    struct zc__entry *limbo;
} ZC__ALIGNED(2 * ZC__LINE) zc__seat;

typedef struct zc__rcu {
    zc__seat seat[ZC__SEATS];
    uint32_t used; /* seats that were ever taken: those before it */
    void *raw;     /* as allocated */
} zc__rcu;
#  define ZC__RCU_SIZE (sizeof(zc__rcu) + 2 * ZC__LINE)

static uint32_t zc__numbers; /* how many were given */
#  ifdef __cplusplus
static thread_local uint32_t zc__number; /* this thread's: its seat in each cache; 0: none yet */
#  else
static _Thread_local uint32_t zc__number;
#  endif

/* NULL: no memory, and all reads take the lock. */
static zc__rcu *zc__rcu_make(const zc__mem *m) {
    unsigned char *raw = (unsigned char *)zc__alloc_zero(m, ZC__RCU_SIZE);
    if (!raw) return NULL;
    zc__rcu *r = (zc__rcu *)(void *)(raw + (size_t)(-(uintptr_t)raw & (2 * ZC__LINE - 1)));
    for (uint32_t i = 0; i < ZC__SEATS; i++) {
        ZC__SET_RANK(&r->seat[i].lock, ZC__RANK_LIMBO);
        r->seat[i].in = i ? ZC__SEAT_NEW : ZC__SEAT_TAKEN;
    }
    r->raw = raw;
    return r;
}

/* This thread's seat; others may have the same. */
static inline zc__seat *zc__rcu_seat(zc__rcu *r) {
    if (ZC__UNLIKELY(!zc__number))
        zc__number = 1 + zc__atomic_add_rlx(&zc__numbers, 1u) % (ZC__SEATS - 1);
    return &r->seat[zc__number];
}

/* What is rare when a seat is to be taken. */
static ZC__NOINLINE zc__seat *zc__rcu_sit(zc__rcu *r, zc__seat *me, uint32_t was) {
    uint32_t used = 0, n = zc__number + 1;
    if (was == ZC__SEAT_TAKEN) {
        (void)zc__rcu_seat(r); /* for the next time, if it has none */
        return NULL;
    }
    while (used < n && !zc__atomic_cas_sc(&r->used, &used, n)) {}
    return me;
}

/* Begins a read; NULL: the seat is taken. */
static inline zc__seat *zc__rcu_enter(zc__rcu *r) {
    zc__seat *me = &r->seat[zc__number];
    uint32_t was = zc__atomic_swap_sc(&me->in, ZC__SEAT_TAKEN);
    return ZC__LIKELY(was == ZC__SEAT_FREE) ? me : zc__rcu_sit(r, me, was);
}
static inline int zc__rcu_leave(zc__seat *me, int rc) {
    if (rc == ZC_OK) zc__atomic_store_rel(&me->hits, me->hits + 1);
    if (rc == ZC_MISS) zc__atomic_store_rel(&me->misses, me->misses + 1);
    zc__atomic_store_rel(&me->in, (uint32_t)ZC__SEAT_FREE);
    return rc;
}

/* R3: has every reader left who may have seen what was unlinked before? */
static bool zc__rcu_passed(zc__rcu *r, bool wait) {
    zc__atomic_fence();
    uint32_t n = zc__atomic_load_sc(&r->used);
    for (zc__seat *seat = r->seat + 1; seat < r->seat + n; seat++) {
        bool in = zc__atomic_load_sc(&seat->in) == ZC__SEAT_TAKEN;
        uint64_t hits = zc__atomic_load_acq(&seat->hits);
        for (unsigned looks = 0; in && zc__atomic_load_acq(&seat->hits) == hits;) {
            if (!wait && looks == ZC__SEAT_LOOKS) return false;
            zc__back_off(&looks);
            in = zc__atomic_load_acq(&seat->in) == ZC__SEAT_TAKEN;
        }
    }
    return true;
}

/* R4: between these, a reader does not believe that he sees the table whole, or that what he does
 * not find is not there. zc__rcu_wait() is for an old table: a growth is rare, readers are fast. */
#  define ZC__TURN_TABLE 1u
#  define ZC__TURN_ENTRY 2u
#  define zc__rcu_stop(s, what) zc__atomic_store_rlx(&(s)->turn, (s)->turn | (what))
#  define zc__rcu_resume(s, what) zc__atomic_store_rel(&(s)->turn, ((s)->turn & ~(what)) + 4)
#  define zc__rcu_wait(c) ((void)((c)->rcu && zc__rcu_passed((c)->rcu, true)))
#endif

/* ============================================================================================
 * >>table   Entries, buckets, shards
 *   Idea        An entry is one allocation: header, key, value, dependencies. A shard is a lock and
 *               a hash table of pointers to entries. A bucket is one cache line: seven one-byte
 *               fingerprints, a count of overflows, seven pointers; so a hit costs the bucket's
 *               line and the entry's, and a miss mostly the bucket's alone.
 *
 *                 bucket   | fp fp fp fp fp fp fp | over | entry* x 7 |             64 bytes
 *                 entry    | header 48 | key | pad to 8 | value | pad | dep* x n | (extras 48) |
 *
 *   Probing     A key's home bucket is hash * nbuckets / 2^32, so the number of buckets need not be
 *               a power of two. If it is full, the next ones serve. `over` counts the entries that
 *               have passed a bucket over on their way; a search ends at the first bucket where it
 *               is 0, so nothing is moved when an entry goes and there are no tombstones. A count
 *               that reached 255 stays (the next growth mends it).
 *               (Compare F14, Bronson & Shi 2019: the overflow counts are theirs.)
 *   Growth      A table that is full to 6/7 gets a larger one beside it, and each put moves a few
 *               homes there, in their order: the entries whose home in the old table is the next
 *               one. So it is known of every key in which of both it is. The larger one is cleared
 *               as the homes go over, never at once: that, and the page faults, would take longer
 *               than all else. Housekeeping moves homes before it sweeps, zc_get_copy() when it had
 *               to take the lock. A table that is full to less than an eighth becomes smaller in
 *               the same way.
 *   Life        `refs` counts the owner (the table) and the pins. The owner's reference is dropped
 *               exactly once, by zc__entry_drop(), never with a lock held; whoever drops the last
 *               reference runs the object's destructor and frees; with drop_in_poll it puts the
 *               entry into the queue of those that wait for zc_poll(). Entries leave the table into
 *               a garbage chain, which is worked off after unlocking. Of very many dependencies an
 *               entry lets go some at a time, on the list `parting`: each put, del and step of
 *               housekeeping takes one off, has it for himself, and puts it back.
 *   Invariants  B1 every entry is found by its key   B2 count == entries in buckets
 *               B3 over == entries whose probe passed the bucket, unless 255
 *               B4 bytes, cost == sums over the entries   B5 used entries, cost <= the limits
 *               B6 while it grows: what has one of the first `moved` homes is in `table`, the rest
 *               in `old`; the buckets of `table` from `ready` on are as they were found
 *   Locking     all fields of a shard, and next, prev, begin, expires, hits, state of its entries:
 *               the shard's lock. refs: atomic; sub_acqrel pairs with itself. Lengths, key, value,
 *               dependencies: constant once the entry is visible.
 *   Cost        64 / 7 bytes a slot at 64 to 86 % load; growth by a third: both tables for a while
 * ========================================================================================== */

typedef struct zc__entry zc__entry;

struct zc__entry {
    zc__entry *next, *prev; /* queue of the policy; next: garbage chain; parting: see there */
    uint64_t expires;       /* its end; moved by reads if it has a tti; ZC_NEVER */
    /* From here on, what a hit looks at: close to the key and the value. */
    zc_shared64 begin; /* fresh if no version on the paths of its dependencies is above */
    uint32_t refs;
    uint32_t value_len;
    uint16_t key_len;
    uint16_t ndeps;
    uint16_t flags;
    uint8_t hits;  /* since the policy last looked, at most ZC__HITS_MAX */
    uint8_t state; /* of the policy; once it has left the table: its zc_cause */
};

enum {
    ZC__EXTRAS = 1, /* zc__extras follow the header */
    ZC__TIMED = 2,  /* a read must look at the clock */
    ZC__ABSENT = 4, /* "there is no such thing" */
    ZC__OBJECT = 8, /* the value is a zc__object */
    ZC__KEEP = 16,  /* may be served after an invalidation: asked for by serve_invalidated */
    ZC__PLAIN = 32, /* the storage does not compress it */
    ZC__PARTS = 64, /* the value is zc_bytes, whose bytes are its parts: it is in no table */
    ZC__COPIED = ZC__THREADED * (ZC__TIMED | ZC__KEEP | ZC__PLAIN) /* by zc__copy_plain() */
};

/* What most entries do not have. Times are of the monotonic clock. */
typedef struct zc__extras {
    uint64_t hard;  /* the end that tti cannot move */
    uint64_t tti;   /* 0: none */
    uint64_t soft;  /* from then on stale; ZC_NEVER */
    uint64_t grace; /* how long after the end it may stand in for an error */
    uint64_t cost;  /* as weighed */
    uint64_t load;  /* how long its loader took */
} zc__extras;

typedef struct zc__object {
    void *ptr;
    size_t size;
    zc_drop_fn drop;
    void *user;
} zc__object;

/* The key is at a constant offset and the value right after it, so that both are on their way from
 * memory together with the header. */
static inline size_t zc__align8(size_t n) { return (n + 7) & ~(size_t)7; }
static inline size_t zc__value_at(size_t key_len) {
    return zc__align8(sizeof(zc__entry) + key_len);
}
static inline size_t zc__deps_at(const zc__entry *e) {
    return zc__align8(zc__value_at(e->key_len) + e->value_len);
}
static inline size_t zc__extras_at(const zc__entry *e) {
    return zc__align8(zc__deps_at(e) + e->ndeps * sizeof(zc_tag *));
}
static inline size_t zc__entry_size(const zc__entry *e) {
    return zc__extras_at(e) + (e->flags & ZC__EXTRAS ? sizeof(zc__extras) : 0);
}

static inline unsigned char *zc__entry_bytes(const zc__entry *e) {
    return (unsigned char *)(uintptr_t)e;
}
static inline zc__extras *zc__entry_extras(const zc__entry *e) {
    return (zc__extras *)(void *)(zc__entry_bytes(e) + zc__extras_at(e));
}
static inline zc_tag **zc__entry_deps(const zc__entry *e) {
    return (zc_tag **)(void *)(zc__entry_bytes(e) + zc__deps_at(e));
}
static inline zc_bytes zc__entry_key(const zc__entry *e) {
    return zc_slice(e + 1, e->key_len);
}
static inline bool zc__entry_is(const zc__entry *e, zc_bytes key) {
    return e->key_len == key.len && zc__equal((const unsigned char *)(e + 1),
                                              (const unsigned char *)key.ptr, key.len);
}
static inline zc_bytes zc__entry_raw(const zc__entry *e) {
    return zc_slice(zc__entry_bytes(e) + zc__value_at(e->key_len), e->value_len);
}
static inline zc__object *zc__entry_object(const zc__entry *e) {
    return (zc__object *)(void *)(zc__entry_bytes(e) + zc__value_at(e->key_len));
}
/* The value as a user sees it. */
static inline zc_bytes zc__entry_value(const zc__entry *e) {
    if (!(e->flags & ZC__OBJECT)) return zc__entry_raw(e);
    return zc_slice(zc__entry_object(e)->ptr, zc__entry_object(e)->size);
}
/* What it takes in memory, an object's own included. */
static size_t zc__entry_weight(const zc__entry *e) {
    size_t size = zc__entry_size(e), more = e->flags & ZC__OBJECT ? zc__entry_object(e)->size : 0;
    return more < SIZE_MAX - size ? size + more : SIZE_MAX;
}
static inline size_t zc__entry_cost(const zc__entry *e) {
    return e->flags & ZC__EXTRAS ? (size_t)zc__entry_extras(e)->cost : zc__entry_weight(e);
}

#define ZC__SLOTS 7u
#define ZC__OVER ZC__SLOTS /* fp[ZC__OVER]: how many entries have passed the bucket over */
#define ZC__MOVES 8u       /* homes that are moved with a put while a table grows */

typedef struct zc__bucket {
    union {
        unsigned char fp[ZC__SLOTS + 1]; /* 0: free; the last is `over` */
        zc_shared64 fps;                 /* the same, as readers without the lock take it */
    };
    zc__entry *slot[ZC__SLOTS];
} zc__bucket;

static inline void zc__fp_set(zc__bucket *b, unsigned k, unsigned fp) {
#ifdef ZOOCACHE_NO_THREADS
    b->fp[k] = (unsigned char)fp;
#else
    uint64_t fps = b->fps;
    ((unsigned char *)&fps)[k] = (unsigned char)fp;
    zc__atomic_store_rel(&b->fps, fps);
#endif
}

typedef struct zc__table {
    zc__bucket *buckets;
    uint32_t nbuckets, count;
} zc__table;

typedef struct zc__flight zc__flight; /* >>flight */

typedef struct zc__queue {
    zc__entry *oldest, *newest; /* next: towards the newest */
    uint32_t count;
} zc__queue;

enum { ZC__WINDOW, ZC__PROBATION, ZC__MAIN, ZC__CLEARED, ZC__QUEUES };

/* The state of the policy, see >>policy. */
typedef struct zc__policy {
    zc__queue queue[ZC__QUEUES];
    uint64_t cleared; /* the version of the last zc_clear() that the shard has taken note of */
    uint64_t cap;     /* entries that this shard is expected to hold when full; 0: no limit */
    int64_t target;   /* of window and probation together, in 1/256 entry */
    bool full;        /* it has evicted, and not lost an eighth of its content since */
    uint8_t passed;   /* keys that need not be put, modulo 256 */
    uint32_t *ghosts; /* buckets of 8 slots; NULL: not yet needed, or no memory */
    uint32_t nghosts, ghosts_ready; /* buckets; of them, cleared */
    uint32_t tick;    /* a step of the ghosts' stamps is 2^tick evictions */
    uint64_t gone[2]; /* evicted so far from window and probation, and from main */
} zc__policy;

typedef struct zc__writer zc__writer; /* >>store */

typedef struct zc__jobs { /* refreshes to run; see >>cache */
    zc_fill *first, *last;
} zc__jobs;

typedef struct zc__shard {
    zc__spin lock;
    uint32_t moved;       /* homes of `old` whose entries are in `table` */
    zc__table table, old; /* old: while the table grows */
    uint64_t hits, misses_absent; /* without those that zc__rcu count */
    uint32_t ready;       /* buckets of `table` that were cleared; the rest is as it was found */
    uint32_t turn;        /* odd: readers need the lock; what a look-up needs ends here: one line */
    uint64_t hits_stale, misses_expired, misses_invalidated, puts;
    uint32_t shrink_below; /* with fewer entries it is too large */
    uint32_t count;
    size_t bytes, cost;   /* of its entries: memory, and as counted against the limit */
    size_t cleared_cost;  /* of these: of what zc_clear() has killed */
    uint32_t cursor;      /* the next bucket to sweep */
    uint64_t removed[ZC_CAUSE_COUNT];
    zc__policy policy;
    /* >>expiry */
    uint64_t next_expiry; /* no entry ends before */
    uint64_t swept;       /* what was dead at this `published` has been removed */
    uint64_t sweep_published, sweep_expiry; /* of the sweep under way */
    uint32_t sweep_found;              /* invalidated entries it has found so far */
    uint64_t next_sweep, sweep_pause;  /* for the sake of invalidations: not before, and how long */
    zc__entry *broad;  /* of very many dependencies, at which sweeping is; */
    uint32_t broad_at; /*   and at the how-manieth; 0: at none */
    /* >>flight */
    zc__chains flights;
    uint64_t next_lease; /* no flight is overdue before */
    uint64_t lease_found; /* of the flights that the look under way has seen; and */
    uint32_t lease_at;    /*   its next chain */
    uint64_t random;
    /* >>store */
    zc__writer *writers; /* changes that the storage does not have yet, the latest first */
    uint32_t sleepers;   /* who wait at `order` */
    zc__monitor order;   /* for a turn to write */
} ZC__ALIGNED(ZC__LINE) zc__shard;

/* A limit that all shards share. SIZE_MAX: none, and nothing is counted here. */
typedef struct zc__limit {
    size_t max;
    char pad[ZC__LINE - sizeof(size_t)];
    size_t used;
    char pad2[ZC__LINE - sizeof(size_t)];
} zc__limit;

#if defined(ZOOCACHE_WITH_LMDB) || defined(ZOOCACHE_WITH_REDIS)
#  ifndef ZOOCACHE_WITH_BUS
#    define ZOOCACHE_WITH_BUS
#  endif
#endif
#if (defined(ZOOCACHE_NO_STORE) || defined(ZOOCACHE_NO_TEXT)) &&                                   \
    (defined(ZOOCACHE_WITH_BUS) || defined(ZOOCACHE_WITH_SEAL))
#  error "zoocache: bus, LMDB, Redis and sealing need what ZOOCACHE_NO_STORE and NO_TEXT leave out"
#endif

/* Beyond `until` this thread has no time for calls of a storage or a bus: they give up, with
 * ZC_E_BUSY, and are made again. ZC_NEVER: they have their own. Returns what was, to go back. */
#ifdef ZOOCACHE_WITH_BUS
static ZC__THREAD_LOCAL uint64_t zc__until = ZC_NEVER;
static inline uint64_t zc__hurry(uint64_t until) {
    uint64_t was = zc__until;
    zc__until = until;
    return was;
}
#else
static inline uint64_t zc__hurry(uint64_t until) { return until; }
#endif

/* See >>bus. */
typedef struct zc__deferred {
    zc__entry *garbage; /* entries that gave way */
    zc__buf tags;       /* that were invalidated: version, 8 bytes; length, 2; text */
    uint64_t others;    /* the version of those for which there was no room; 0: none */
} zc__deferred;

typedef struct zc__hold zc__hold;

typedef struct zc__bus {
#ifdef ZOOCACHE_WITH_BUS
    zc__hold *holds; /* [writer of the trie] */
    uint32_t nholds; /* how many; 0: no tag has ZC__HELD */
    bool on;    /* there is a bus */
    bool marked; /* [reading] ZC__SEALED was there */
    bool peeks; /* reads look at the log itself: no lease, no thread */
    bool runs;  /* its thread does */
    uint64_t serve_for; /* T, less what the clock may lag */
    zc__timed reading;
    zc__monitor apply, monitor, out;
    uint32_t attached;           /* [apply] */
    uint64_t identity;           /* [apply] of the log */
    uint64_t base, base_at;      /* [apply] see Versions: the base, from which position on */
    uint64_t trusted;            /* [apply] records that are not from here on are misses */
    uint64_t epoch;              /* [apply] moves with each attach and detach */
    zc_shared64 cursor;          /* [apply] N1; the sum of: */
    zc_shared64 cursors[ZC_LOGS_MAX];   /* [apply] of each log */
    uint64_t *history; /* [apply] with several logs: `cursors` at the last ZC__HISTORY positions */
    unsigned logs;
    zc_shared64 lease;           /* [apply] N2; monotonic; 0: none */
    uint64_t last_beat;             /* [reading] when it last told about itself */
    uint32_t down, stop;
    bool woken; /* [monitor] */
    zc__buf outbox;     /* [out] of tags: length, 2 bytes; text */
    size_t outbox_tags; /* [out] */
    uint16_t *index;   /* [out] where in the outbox a tag is, + 1, by its hash; 0: none */
    size_t index_size;     /* [out] a power of two, at least twice the tags; or 0 */
    size_t in_flight;  /* [out] tags in batches */
    bool everything;    /* [out] the outbox is the root */
    zc_shared64 unacknowledged; /* [out] N3; 0: the log has all */
    zc_shared64 entries, breaks, errors, silent;
    zc__deferred deferred;  /* [reading] what was heard, to be told after unlocking */
    int32_t fault;  /* to be said after unlocking; 0: nothing */
    uintptr_t self; /* which thread is the bus's own */
#  ifndef ZOOCACHE_NO_THREADS
    zc__thread thread;
#  endif
#else
    char none;
#endif
} zc__bus;

/* Counters of rare things, as zc_stats has them. */
#ifdef ZOOCACHE_WITH_SEAL
#  define ZC__SEAL_COUNTERS(X) X(store_forged) X(store_unkeyed)
#else
#  define ZC__SEAL_COUNTERS(X)
#endif
#define ZC__COUNTERS(X)                                                                            \
    X(hits_store) X(refused) X(fills) X(fill_errors) X(fills_late) X(waits) X(refreshes)           \
    X(store_errors) X(store_corrupt) X(store_stale) X(store_skipped) ZC__SEAL_COUNTERS(X)

struct zc_cache {
    zc__trie trie; /* first: its `published` is read by every hit */
    zc__shard *shards;
#ifdef ZOOCACHE_DEBUG
    zc__ranked *lent; /* locks, from zc_fork_prepare() on: the caller's, no call's of ours */
#endif
    uint32_t nshards;
    unsigned nthreads;
    uint64_t seed;
    zc_clock clock;
    zc__mem mem;
    zc_desc desc; /* defaults resolved */
    zc_hlc hlc;
    zc__limit entries, cost;
    void *raw_cache, *raw_shards; /* as allocated: the structs are aligned within */
#ifndef ZOOCACHE_NO_THREADS
    zc__rcu *rcu; /* NULL: all reads take the lock */
#endif
    size_t raw_shards_size;
    uint32_t refs;    /* the cache itself, fills, entries that outlived the table: frees at 0 */
    uint32_t closed;  /* 1: it closes, and tables do not grow any more; 2: nothing is told either */
    uint32_t evict_turn; /* the shard that gives way next */
    uint64_t generation;
    zc_shared64 trusted; /* records of the storage that began before are not (see >>store) */
    zc_shared64 kept;    /* the highest version that the storage has kept */
#define ZC_X(name) zc_shared64 name;
    ZC__COUNTERS(ZC_X)
#undef ZC_X
    zc_shared64 load_ns, load_histogram[ZC_LOAD_BUCKETS];
#ifdef ZOOCACHE_WITH_SEAL
    zc_store inside; /* what desc.store, which seals, has inside */
#endif
    /* >>store: its breaker, and what waits to be written */
    uint32_t store_epoch, store_failures; /* odd: its breaker is open */
    int32_t store_fault;                    /* what opened it, to be said; 0: nothing */
    zc_shared64 store_pause, store_retry;
    zc__spin behind_lock;
    uint32_t behind_at, behind_end; /* [behind_lock] from where to where; they only grow */
    zc__entry **behind;             /* [behind_lock] a ring of ZC__BEHIND; see there */
    zc__bus bus;
    /* >>flight: refreshes to run, and who waits for whom */
    zc__spin jobs_lock, graph_lock, drops_lock;
    zc__jobs jobs, postponed; /* the latter wait for another node */
    zc__entry *drops, *drops_tail; /* [drops_lock] of objects that wait for their destructor */
    zc__entry *parting; /* [drops_lock] see zc__entry_part(); and */
    size_t parting_size; /* [drops_lock]   their bytes */
    uint32_t sweep_shard, lease_shard; /* where housekeeping goes on [house] */
    uint32_t limbo_seat;               /*   likewise */
    zc__spin house;
#ifndef ZOOCACHE_NO_THREADS
    zc__thread *threads; /* nthreads: the housekeeper, and after it those that refresh */
    zc__monitor keeper, refresher; /* who sleeps there: the one, the others */
    uint32_t stop;
#endif
};

static inline zc__shard *zc__shard_of(const zc_cache *c, uint64_t hash) {
    return &c->shards[(hash >> 58) & (c->nshards - 1)];
}

/* ---- entries: life ---- */

/* Gives back the memory of an entry, and that alone. */
static void zc__entry_give(zc_cache *c, zc__entry *e) {
    size_t size = zc__entry_size(e);
    if (!zc__slabs_serve(&c->mem, size)) zc__free_large(&c->mem, e, size);
    else zc__slab_give(c->mem.slabs, zc__hash(zc__entry_key(e), c->seed), e, size);
}

#ifdef ZOOCACHE_NO_THREADS
#  define zc__entry_retire(c, e) zc__entry_give((c), (e))
#  define zc__limbos_empty(c, most) ((void)0)
#else
/* Frees what is in a limbo, if no reader can look at it any more. */
static void zc__limbo_empty(zc_cache *c, zc__seat *seat, bool wait) {
    ZC__ASSERT_HELD(&seat->lock);
    if (!seat->n || !zc__rcu_passed(c->rcu, wait)) return;
    for (zc__entry *e = seat->limbo, *next; e; e = next) {
        next = e->next;
        zc__entry_give(c, e);
    }
    seat->limbo = NULL;
    seat->bytes = seat->n = 0;
}

/* The memory of an entry that is in no table any more. */
static void zc__entry_retire(zc_cache *c, zc__entry *e) {
    if (!c->rcu) {
        zc__entry_give(c, e);
        return;
    }
    zc__seat *seat = zc__rcu_seat(c->rcu);
    zc__spin_lock(&seat->lock);
    e->next = seat->limbo;
    seat->limbo = e;
    seat->bytes += zc__entry_size(e);
    if (++seat->n % ZC__LIMBO_FEW == 0 || seat->bytes > ZC__LIMBO_BYTES)
        zc__limbo_empty(c, seat, seat->n >= ZC__LIMBO_MOST * ZC__LIMBO_FEW ||
                                     seat->bytes > ZC__LIMBO_MOST * ZC__LIMBO_BYTES);
    zc__spin_unlock(&seat->lock);
}

/* Frees up to `most` entries, or those of one seat, from where it stopped. */
static void zc__limbos_empty(zc_cache *c, uint32_t most) {
    for (uint32_t i = 0, n = 0; c->rcu && i < ZC__SEATS && n < most; i++) {
        zc__seat *seat = &c->rcu->seat[c->limbo_seat++ % ZC__SEATS];
        zc__spin_lock(&seat->lock);
        n += seat->n;
        zc__limbo_empty(c, seat, false);
        zc__spin_unlock(&seat->lock);
    }
}
#endif

#define ZC__BROAD 32u /* dependencies; more are not looked at, or let go of, in one step */
#define ZC__PART (ZC__BROAD * sizeof(zc_tag *))
static inline bool zc__is_broad(const zc__entry *e) { return e->ndeps > ZC__BROAD; }

/* Lets go of up to n of the dependencies of an entry that nobody has any more, of which `left` are
 * left, and with the last of its memory; till then it is on the list `parting`, with their number
 * for `prev`. Returns what is left of n. */
static inline size_t zc__entry_part(zc_cache *c, zc__entry *e, size_t left, size_t n) {
    zc_tag **deps = zc__entry_deps(e);
    for (; left && n; n--) zc__tag_unref(&c->trie, deps[--left]);
    if (ZC__LIKELY(!left)) {
        zc__entry_retire(c, e);
        return n;
    }
    e->prev = (zc__entry *)(uintptr_t)left;
    zc__spin_lock(&c->drops_lock);
    e->next = c->parting;
    zc__atomic_store_rlx(&c->parting, e);
    c->parting_size += zc__entry_size(e);
    zc__spin_unlock(&c->drops_lock);
    return 0;
}

static ZC__NOINLINE bool zc__part_more(zc_cache *c, size_t size) {
    size_t deps = size / sizeof(zc_tag *), n;
    bool some = false;
    while (deps && zc__atomic_load_rlx(&c->parting)) {
        zc__spin_lock(&c->drops_lock);
        zc__entry *e = c->parting;
        if (e) {
            zc__atomic_store_rlx(&c->parting, e->next);
            c->parting_size -= zc__entry_size(e);
        }
        zc__spin_unlock(&c->drops_lock);
        if (!e) break;
        deps = zc__entry_part(c, e, (uintptr_t)e->prev, deps);
        some = true;
    }
    for (; size && (n = zc__free_piece(&c->mem, size)) != 0; some = true)
        size -= n < size ? n : size;
    return some;
}

/* Goes on with what is freed in steps: `size` bytes, or dependencies that take as much. False:
 * there is nothing. */
static inline bool zc__part_some(zc_cache *c, size_t size) {
    bool any = zc__atomic_load_rlx(&c->parting) || zc__atomic_load_rlx(&c->mem.large);
    return ZC__UNLIKELY(any) && zc__part_more(c, size);
}

static void zc__cache_free(zc_cache *c) {
    (void)zc__part_some(c, SIZE_MAX);
    zc__limbos_empty(c, UINT32_MAX);
    zc__mem mem = c->mem;
#ifndef ZOOCACHE_NO_THREADS
    if (c->rcu) zc__free(&mem, c->rcu->raw, ZC__RCU_SIZE);
#endif
    for (uint32_t i = 0; i < c->nshards && c->desc.store.version; i++)
        zc__monitor_destroy(&c->shards[i].order);
    zc__trie_destroy(&c->trie);
    zc__free(&mem, c->raw_shards, c->raw_shards_size);
    zc__free(&mem, c->raw_cache, sizeof *c + ZC__LINE);
    while (zc__free_piece(&mem, SIZE_MAX)) {}
    zc__slabs_destroy(mem.slabs);
}

static inline void zc__cache_ref(zc_cache *c) { (void)zc__atomic_add_rlx(&c->refs, 1u); }
static inline void zc__cache_unref(zc_cache *c) {
    if (zc__atomic_sub_acqrel(&c->refs, 1u) == 1) zc__cache_free(c);
}

static inline void zc__entry_pin(zc__entry *e) { (void)zc__atomic_add_rlx(&e->refs, 1u); }

static void zc__entry_free(zc_cache *c, zc__entry *e) {
    if (e->flags & ZC__OBJECT) {
        zc__object *o = zc__entry_object(e);
        ZC__CALLS_OUT();
        o->drop(o->user, o->ptr, o->size);
    }
    (void)zc__entry_part(c, e, e->ndeps, ZC__BROAD);
}

/* With drop_in_poll an object's entry waits for its turn, until the cache is closed: as that is
 * asked with the lock held, none comes after the last was taken. */
static void zc__entry_destroy(zc_cache *c, zc__entry *e) {
    bool waits = c->desc.drop_in_poll && e->flags & ZC__OBJECT;
    if (waits) {
        zc__spin_lock(&c->drops_lock);
        waits = zc__atomic_load_rlx(&c->closed) < 2;
        e->next = NULL;
        if (waits) {
            if (c->drops) c->drops_tail->next = e;
            else c->drops = e;
            c->drops_tail = e;
        }
        zc__spin_unlock(&c->drops_lock);
    }
    if (!waits) zc__entry_free(c, e);
}

/* Calls the destructor that has waited longest. False: none waits. */
static bool zc__drop_one(zc_cache *c) {
    if (!c->desc.drop_in_poll) return false;
    zc__spin_lock(&c->drops_lock);
    zc__entry *e = c->drops;
    if (e) c->drops = e->next;
    zc__spin_unlock(&c->drops_lock);
    if (e) zc__entry_free(c, e);
    return e != NULL;
}

/* Drops the owner's reference. Pins that are left keep the entry, and the cache, from now on. */
static void zc__entry_drop(zc_cache *c, zc__entry *e) {
    if (zc__atomic_load_acq(&e->refs) == 1) { /* nobody can add one: it is in no table */
        zc__entry_destroy(c, e);
        return;
    }
    zc__cache_ref(c);
    if (zc__atomic_sub_acqrel(&e->refs, 1u) == 1) {
        zc__entry_destroy(c, e);
        zc__cache_unref(c);
    }
}

static void zc__entry_unpin(zc_cache *c, zc__entry *e) {
    if (zc__atomic_sub_acqrel(&e->refs, 1u) != 1) return;
    zc__entry_destroy(c, e); /* so its owner has let go before, and held the cache for it */
    zc__cache_unref(c);
}

/* ---- buckets ---- */

static inline unsigned char zc__fp_of(uint64_t hash) {
    unsigned char fp = (unsigned char)hash;
    return (unsigned char)(fp + !fp);
}
static inline uint32_t zc__home_of(uint64_t hash, uint32_t nbuckets) {
    return (uint32_t)(((hash >> 8 & UINT32_MAX) * nbuckets) >> 32);
}

/* One bit for each of the seven bytes that equal fp; the slot of the lowest is zc__match_slot(). 0,
 * which is no entry's, matches the free ones. */
#ifdef __SSE2__
static inline uint64_t zc__fps_match(uint64_t fps, unsigned char fp) {
    __m128i eq = _mm_cmpeq_epi8(_mm_set_epi64x(0, (long long)fps), _mm_set1_epi8((char)fp));
    return (unsigned)_mm_movemask_epi8(eq) & 0x7f;
}
static inline unsigned zc__match_slot(uint64_t match) { return zc__ctz64(match); }
#else
static inline uint64_t zc__fps_match(uint64_t fps, unsigned char fp) {
    const uint64_t low7 = UINT64_C(0x7f7f7f7f7f7f7f7f);
    uint64_t x = zc__get64((const unsigned char *)&fps) ^ UINT64_C(0x0101010101010101) * fp;
    return ~(((x & low7) + low7) | x) & UINT64_C(0x0080808080808080);
}
static inline unsigned zc__match_slot(uint64_t match) { return zc__ctz64(match) >> 3; }
#endif

/* Where a key belongs: what is not moved yet is in the old table. */
static inline zc__table *zc__table_of(const zc__shard *s, uint64_t hash) {
    bool old = ZC__UNLIKELY(s->old.nbuckets) && zc__home_of(hash, s->old.nbuckets) >= s->moved;
    return (zc__table *)(uintptr_t)(old ? &s->old : &s->table);
}

/* With the lock, or within a reader's section: then what is found was there at the moment when its
 * slot was read, but what is there may not be found. */
static inline zc__entry *zc__buckets_find(const zc__bucket *buckets, uint32_t n, uint64_t hash,
                                          zc_bytes key) {
    unsigned char fp = zc__fp_of(hash);
    uint32_t i = zc__home_of(hash, n);
    for (uint32_t probes = n; probes; probes--) {
        const zc__bucket *b = &buckets[i];
        uint64_t fps = zc__atomic_load_acq(&b->fps);
        for (uint64_t m = zc__fps_match(fps, fp); m; m &= m - 1) {
            zc__entry *e = zc__atomic_load_sc(&b->slot[zc__match_slot(m)]);
            if (ZC__THREADED && ZC__UNLIKELY(!e)) continue;
            ZC__PREFETCH(zc__entry_bytes(e) + ZC__LINE);
            ZC__PREFETCH(zc__entry_bytes(e) + 2 * ZC__LINE);
            if (zc__entry_is(e, key)) return e;
        }
        if (ZC__LIKELY(!((const unsigned char *)&fps)[ZC__OVER])) return NULL;
        if (++i == n) i = 0;
    }
    return NULL;
}

static inline zc__entry *zc__table_find(const zc__shard *s, uint64_t hash, zc_bytes key) {
    const zc__table *t = zc__table_of(s, hash);
    return zc__buckets_find(t->buckets, t->nbuckets, hash, key);
}

/* Clears the table's buckets before the n-th. */
static void zc__table_clear(zc__shard *s, uint32_t n) {
    if (n <= s->ready) return;
    memset(&s->table.buckets[s->ready], 0, (n - s->ready) * sizeof(zc__bucket));
    s->ready = n;
}

/* Puts an entry in the first free slot from its home on; there is one. */
static void zc__table_link(zc__shard *s, zc__table *t, zc__entry *e, uint64_t hash) {
    t->count++;
    for (uint32_t i = zc__home_of(hash, t->nbuckets);;) {
        zc__bucket *b = &t->buckets[i];
        uint64_t free_slots = zc__fps_match(b->fps, 0);
        if (free_slots) {
            unsigned k = zc__match_slot(free_slots);
            zc__fp_set(b, k, zc__fp_of(hash));
            zc__atomic_store_rel(&b->slot[k], e);
            return;
        }
        if (b->fp[ZC__OVER] < 255) zc__fp_set(b, ZC__OVER, b->fp[ZC__OVER] + 1u);
        if (++i == t->nbuckets) i = 0;
        if (t == &s->table) zc__table_clear(s, i + 1);
    }
}

static void zc__table_unlink(zc__table *t, zc__entry *e, uint64_t hash) {
    t->count--;
    for (uint32_t i = zc__home_of(hash, t->nbuckets);; i = i + 1 == t->nbuckets ? 0 : i + 1) {
        zc__bucket *b = &t->buckets[i];
        for (uint64_t m = zc__fps_match(b->fps, zc__fp_of(hash)); m; m &= m - 1) {
            unsigned k = zc__match_slot(m);
            if (b->slot[k] != e) continue;
            zc__fp_set(b, k, 0);
            zc__atomic_store_rel(&b->slot[k], (zc__entry *)NULL);
            return;
        }
        ZC__ASSERT(b->fp[ZC__OVER] > 0);
        if (b->fp[ZC__OVER] < 255) zc__fp_set(b, ZC__OVER, b->fp[ZC__OVER] - 1u);
    }
}

static uint64_t zc__entry_hash(const zc_cache *c, const zc__entry *e) {
    return zc__hash(zc__entry_key(e), c->seed);
}

/* Asks for a key's home bucket, without the lock: a stale look does no harm. */
static inline void zc__bucket_prefetch(const zc__shard *s, uint64_t hash) {
    uintptr_t buckets = (uintptr_t)zc__atomic_load_rlx(&s->table.buckets);
    size_t home = zc__home_of(hash, zc__atomic_load_rlx(&s->table.nbuckets));
    ZC__PREFETCH((const void *)(buckets + home * sizeof(zc__bucket)));
}

/* ---- growing and shrinking ---- */

/* Begins to move into a table of n buckets, of which nothing is cleared yet; a first one is at
 * once. */
static bool zc__table_resize(zc_cache *c, zc__shard *s, uint32_t n) {
    zc__bucket *to = (zc__bucket *)zc__alloc(&c->mem, n * sizeof *to);
    if (!to) return false;
    zc__rcu_stop(s, ZC__TURN_TABLE);
    s->old = s->table;
    s->table.count = s->moved = s->ready = s->cursor = s->broad_at = 0;
    zc__atomic_store_rel(&s->table.buckets, to); /* see zc__bucket_prefetch() */
    zc__atomic_store_rel(&s->table.nbuckets, n);
    s->shrink_below = c->mem.arena || n <= 64 ? 0 : n - n / 8;
    if (!s->old.nbuckets) {
        zc__table_clear(s, n);
        zc__rcu_resume(s, ZC__TURN_TABLE);
    }
    return true;
}

/* Moves the entries whose home in the old table is one of the next few. Their new homes are
 * cleared; it has at most twice as many. */
static void zc__table_move_homes(zc_cache *c, zc__shard *s) {
    zc__table *old = &s->old;
    uint32_t from = s->moved, n = old->nbuckets - from, i = from, to = s->table.nbuckets;
    if (n > ZC__MOVES) n = ZC__MOVES;
    s->moved += n;
    zc__table_clear(s, 2 * s->moved + 1 < to ? 2 * s->moved + 1 : to);
    for (uint32_t looked = 1;; looked++) {
        zc__bucket *b = &old->buckets[i];
        for (unsigned k = 0; k < ZC__SLOTS; k++) {
            zc__entry *e = b->slot[k];
            if (!e) continue;
            uint64_t hash = zc__entry_hash(c, e);
            if (zc__home_of(hash, old->nbuckets) - from >= n) continue;
            zc__table_unlink(old, e, hash);
            zc__table_link(s, &s->table, e, hash);
        }
        if (looked >= n && (!b->fp[ZC__OVER] || looked == old->nbuckets)) return;
        if (++i == old->nbuckets) i = 0;
    }
}

static void zc__table_free(zc_cache *c, zc__table *t) {
    zc__free_large(&c->mem, t->buckets, t->nbuckets * sizeof(zc__bucket));
    memset(t, 0, sizeof *t);
}

/* Goes on with the move under way: a few homes. */
static void zc__table_move(zc_cache *c, zc__shard *s) {
    zc__table_move_homes(c, s);
    /* For the next time: whom it will look at. */
    for (uint32_t i = s->moved; i < s->old.nbuckets && i < s->moved + ZC__MOVES; i++)
        for (unsigned k = 0; k < ZC__SLOTS; k++)
            ZC__PREFETCH((const void *)((uintptr_t)s->old.buckets[i].slot[k] + sizeof(zc__entry)));
    if (s->moved != s->old.nbuckets) return;
    zc__rcu_wait(c); /* it is seldom: once a growth */
    zc__table_free(c, &s->old);
    zc__rcu_resume(s, ZC__TURN_TABLE);
}

/* A table that is full to less than an eighth becomes smaller. Not by more than an eighth at once:
 * what is put while the homes move, eight with each put, must find room. Without memory it
 * stays. */
static void zc__table_shrink(zc_cache *c, zc__shard *s) {
    uint32_t least = s->table.nbuckets / 8, n = s->count / ZC__SLOTS * 2 + 2;
    if (!zc__table_resize(c, s, n > least ? n : least)) s->shrink_below = 0;
}

/* Room for one entry more: true if there is, after growing if that is due. At worst the table fills
 * up to its last slot but one. */
static bool zc__table_reserve(zc_cache *c, zc__shard *s, uint64_t hash) {
    uint32_t n = s->table.nbuckets;
    bool due = !s->old.nbuckets && (uint64_t)s->count * 7 >= (uint64_t)n * ZC__SLOTS * 6;
    if (ZC__UNLIKELY(due) && !zc__atomic_load_rlx(&c->closed))
        (void)zc__table_resize(c, s, n < 2 ? 2 : n + n / 3 + 1);
    if (ZC__UNLIKELY(s->old.nbuckets)) zc__table_move(c, s);
    const zc__table *t = zc__table_of(s, hash);
    return t->count + 1 < (uint64_t)t->nbuckets * ZC__SLOTS;
}

/* ============================================================================================
 * >>policy   Eviction: a window, a probation and a main queue, balanced by evidence
 *   Idea        New entries enter a small FIFO, the window W, and go on to a FIFO on probation, Q.
 *               Who was hit twice by the end of Q is promoted to the main queue M, a CLOCK; who was
 *               not is evicted. So a scan passes through W and Q and leaves M alone. How much room
 *               W and Q get together, `target`, is what workloads differ in, and it adapts:
 *
 *                 put --> [ W: 1/32 ] --> [ Q ]  --hits >= 2--> [ M: CLOCK, counter 0..2 ]
 *                                           |                         |
 *                                      ghosts A (left W, Q)      ghosts B (left M)
 *
 *               Evidence is weighed per slot. A key that comes back d evictions after it left would
 *               have been a hit with d more slots, so a ghost hit is worth 1/d: in A it moves
 *               target up, in B down. A hit seen at the end of a queue of n entries is worth 1/n:
 *               in Q up, in M down. Hits in W say nothing: they are mostly one caller reading
 *               again.
 *   Details     An entry that left M without ever having been hit there goes to W when it returns
 *               ("proven" is false): else loops make M thrash. Until the cache is full, what is
 *               over target moves on into M, instead of out. A removed entry that had earned its
 *               place in M gets it back: for a cache of which much is invalidated, that is where
 *               hot keys are.
 *   Ghosts      Slots of 4 bytes, in buckets of 8: 14 bits of fingerprint, from which side, proven,
 *               a stamp of 16 bits on a clock that counts the side's evictions. Nothing is queued:
 *               a slot is overwritten when it is the oldest of its bucket. Two slots an entry,
 *               taken with the first eviction, and cleared with it and those after it, a few
 *               buckets each; a bucket that is not cleared yet has no ghosts.
 *   Origin      FIFOs with lazy promotion: S3-FIFO (Yang et al. 2023), 2Q (Johnson & Shasha 1994);
 *               ghosts that steer: ARC (Megiddo & Modha 2003); the correlated window: Clock2Q+
 *               (2024). The weighing per slot and `proven` are ours; bench/ replays traces.
 *   Cleared     zc_clear() looks at no entry: the queues become one, of what waits to be freed,
 *               and an entry is in that one if its begin is below the version of the clear. What
 *               is in it gives way before anything else, and to look-ups it is not there.
 *   Invariants  P1 every entry is in exactly the queue that its state says, but:
 *               P2 counts are right   P3 1 <= target <= cap, in entries
 *               P4 what begins below `cleared` is in the queue of the cleared, whatever its state
 *   Locking     the shard's lock
 *   Cost        a hit: one byte, written only below 2. A victim: at most 16 looks. 8 bytes an
 *               entry.
 * ========================================================================================== */

enum {
    ZC__HITS_MAX = 2,  /* with 3, a dead working set stays for a round longer */
    ZC__PROMOTE = 2,   /* hits in W and Q that earn a place in M */
    ZC__LOOKS = 16,    /* for one victim; the last one looked at goes in any case */
    ZC__SMALLEST = 32, /* cap over this: the least target, and the window */
    ZC__START = 5,     /* cap over this: target at first */
    ZC__PASS = 16,     /* one of so many is put, of those that need not be */
    /* An entry's state: */
    ZC__QUEUE_BITS = 3,
    ZC__EARLY = 4, /* times 0..2: hits while in W */
    ZC__PROVEN = 16
};

/* P4. A reader that finds a later `begin` finds the clear's version, too: an entry that began after
 * a clear comes into the shard after zc__policy_clear() has taken note of that. */
static inline bool zc__is_cleared(const zc__shard *s, const zc__entry *e) {
    return e->begin < s->policy.cleared;
}

/* The hits of an entry: readers without the lock count them, too. */
static inline unsigned zc__hits(const zc__entry *e) { return zc__atomic_load_rlx(&e->hits); }
static inline void zc__hits_set(zc__entry *e, unsigned n) {
    zc__atomic_store_rlx(&e->hits, (uint8_t)n);
}

/* What a shard has under a key, unless it was cleared. */
static zc__entry *zc__shard_find(const zc__shard *s, uint64_t hash, zc_bytes key) {
    zc__entry *e = zc__table_find(s, hash, key);
    return e && zc__is_cleared(s, e) ? NULL : e;
}

static inline zc__queue *zc__queue_of(zc__shard *s, const zc__entry *e) {
    return &s->policy.queue[zc__is_cleared(s, e) ? ZC__CLEARED : e->state & ZC__QUEUE_BITS];
}

static void zc__queue_unlink(zc__shard *s, zc__entry *e) {
    zc__queue *q = zc__queue_of(s, e);
    if (e->next) e->next->prev = e->prev;
    else q->newest = e->prev;
    if (e->prev) e->prev->next = e->next;
    else q->oldest = e->next;
    q->count--;
}

/* Puts the chain from `first` to `last` at the end of a queue. */
static void zc__queue_append(zc__queue *q, zc__entry *first, zc__entry *last) {
    first->prev = q->newest;
    if (q->newest) q->newest->next = first;
    else q->oldest = first;
    q->newest = last;
}

static void zc__queue_push(zc__shard *s, zc__entry *e, unsigned to) {
    zc__queue *q = &s->policy.queue[to];
    e->state = (uint8_t)((e->state & ~(unsigned)ZC__QUEUE_BITS) | to);
    e->next = NULL;
    zc__queue_append(q, e, e);
    q->count++;
}

/* Takes note of a zc_clear(): all entries change to the queue of what is cleared, in one step. Not
 * before it is published: zc_del() finds nothing from here on, and reads must not either. */
static void zc__policy_clear(zc_cache *c, zc__shard *s) {
    zc__policy *p = &s->policy;
    uint64_t version = zc__atomic_load_acq(&c->trie.all.version);
    if (version <= p->cleared || version > zc__published(&c->trie)) return;
    zc__queue *to = &p->queue[ZC__CLEARED];
    for (zc__queue *q = p->queue; q < to; q++)
        if (q->oldest) zc__queue_append(to, q->oldest, q->newest);
    memset(p->queue, 0, ZC__CLEARED * sizeof *to);
    to->count = s->count;
    p->cleared = version;
    p->full = false;
    s->cleared_cost = s->cost;
}

/* Moves the target by d, in 1/256 entry. */
static void zc__policy_step(zc__policy *p, int64_t d) {
    int64_t most = (int64_t)p->cap * 256, least = most / ZC__SMALLEST;
    if (least < 256) least = 256;
    p->target += d;
    if (p->target < least) p->target = least;
    if (p->target > most) p->target = most;
}

/* What evidence is worth: gain/256 of cap / distance, at most `most` entries, in 1/256 entry. */
static int64_t zc__policy_worth(const zc__policy *p, uint64_t gain, uint64_t distance,
                                int64_t most) {
    uint64_t worth = p->cap * gain / (distance ? distance : 1);
    return worth < (uint64_t)most * 256 ? (int64_t)worth : most * 256;
}

/* ---- ghosts ---- */

#define ZC__GHOST_WAYS 8u
#define ZC__GHOSTS_CLEARED 64u /* buckets, with an eviction */

static uint32_t zc__ghosts_for(uint64_t cap) {
    uint64_t n = (cap * 2 + ZC__GHOST_WAYS - 1) / ZC__GHOST_WAYS;
    return n < 4 ? 4 : n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

static void zc__ghosts_make(zc_cache *c, zc__policy *p) {
    uint32_t n = zc__ghosts_for(p->cap);
    size_t size = (size_t)n * ZC__GHOST_WAYS * sizeof(uint32_t);
    p->ghosts_ready = 0;
    zc__atomic_store_rlx(&p->ghosts, (uint32_t *)zc__alloc(&c->mem, size));
    zc__atomic_store_rlx(&p->nghosts, p->ghosts ? n : 0);
}

/* Clears some more of the ghosts' buckets: with every eviction, until all are. */
static void zc__ghosts_clear(zc__policy *p) {
    uint32_t n = p->nghosts - p->ghosts_ready;
    if (n > ZC__GHOSTS_CLEARED) n = ZC__GHOSTS_CLEARED;
    memset(p->ghosts + (size_t)p->ghosts_ready * ZC__GHOST_WAYS, 0,
           n * ZC__GHOST_WAYS * sizeof(uint32_t));
    p->ghosts_ready += n;
}

static ZC__NOINLINE void zc__ghosts_free(zc_cache *c, zc__policy *p) {
    zc__free_large(&c->mem, p->ghosts, (size_t)p->nghosts * ZC__GHOST_WAYS * sizeof(uint32_t));
    zc__atomic_store_rlx(&p->ghosts, (uint32_t *)NULL);
    zc__atomic_store_rlx(&p->nghosts, 0u);
    p->ghosts_ready = 0;
}

static inline size_t zc__ghost_at(uint64_t hash, uint32_t nghosts) {
    return ZC__GHOST_WAYS * (size_t)(((hash >> 24 & UINT32_MAX) * nghosts) >> 32);
}
/* NULL: there are none, or they are not cleared yet. */
static inline uint32_t *zc__ghost_bucket(zc__policy *p, uint64_t hash) {
    size_t at = zc__ghost_at(hash, p->nghosts);
    return at < (size_t)p->ghosts_ready * ZC__GHOST_WAYS ? p->ghosts + at : NULL;
}

/* A put touches lines all over the memory, so it asks for them as early as it knows them: for its
 * bucket and its ghosts before the entry is made, without the lock; for what the next eviction will
 * change, at the end of the one before. */
static inline void zc__put_prefetch(const zc__shard *s, uint64_t hash) {
    uintptr_t ghosts = (uintptr_t)zc__atomic_load_rlx(&s->policy.ghosts);
    size_t ghost = zc__ghost_at(hash, zc__atomic_load_rlx(&s->policy.nghosts));
    zc__bucket_prefetch(s, hash);
    ZC__PREFETCH((const void *)(ghosts + ghost * sizeof(uint32_t)));
}

/* Header, key, and mostly the dependencies. */
static inline void zc__entry_prefetch(const zc__entry *e) {
    if (!e) return;
    ZC__PREFETCH(e);
    ZC__PREFETCH((const unsigned char *)e + ZC__LINE);
    ZC__PREFETCH((const unsigned char *)e + 2 * ZC__LINE);
}
static inline uint32_t zc__ghost_print(uint64_t hash) {
    uint32_t f = ((uint32_t)(hash >> 24) * UINT32_C(0x9e3779b1)) >> 18;
    return f ? f : 1;
}
static inline unsigned zc__ghost_side(uint32_t g) { return g >> 17 & 1; }

/* How many were evicted from its side since. */
static uint64_t zc__ghost_age(const zc__policy *p, uint32_t g) {
    uint64_t now = p->gone[zc__ghost_side(g)] >> p->tick;
    return (uint64_t)(uint16_t)(now - g) << p->tick;
}
/* A ghost counts for one cache-full of evictions from its side; in A for a quarter more. */
static bool zc__ghost_expired(const zc__policy *p, uint32_t g) {
    return zc__ghost_age(p, g) * 8 > p->cap * (zc__ghost_side(g) ? 8u : 10u);
}

static void zc__ghost_add(zc__policy *p, uint64_t hash, unsigned side, bool proven) {
    uint32_t *b = zc__ghost_bucket(p, hash), print = zc__ghost_print(hash), at = 0;
    if (!b) return;
    uint64_t oldest = 0;
    for (uint32_t i = 0; i < ZC__GHOST_WAYS; i++) {
        bool gone = !b[i] || b[i] >> 18 == print;
        uint64_t age = gone ? UINT64_MAX : zc__ghost_age(p, b[i]);
        at = age > oldest ? i : at;
        oldest = age > oldest ? age : oldest;
    }
    uint16_t stamp = (uint16_t)(p->gone[side] >> p->tick);
    b[at] = print << 18 | (uint32_t)side << 17 | (uint32_t)proven << 16 | stamp;
}

/* ---- the interface ---- */

/* Sets or changes what the shard is expected to hold. The ghosts' stamps change their unit. */
static void zc__policy_resize(zc_cache *c, zc__policy *p, uint64_t cap) {
    if (cap < 1) cap = 1;
    if (cap >> 48) cap = UINT64_C(1) << 48; /* no cache holds more; what is reckoned with it fits */
    p->target = p->cap ? (int64_t)zc__mul_div((uint64_t)p->target, cap, p->cap)
                       : (int64_t)(cap / ZC__START) * 256;
    p->cap = cap;
    p->tick = cap >> 10 ? 63 - zc__clz64(cap >> 10) : 0;
    zc__policy_step(p, 0);
    zc__ghosts_free(c, p);
}

/* With a limit of bytes, the number of entries that it holds is known from those that are there. */
static void zc__policy_measure(zc_cache *c, zc__shard *s) {
    zc__policy *p = &s->policy;
    bool weighed = c->cost.max != SIZE_MAX; /* else a block is what is full some time */
    size_t held = weighed ? s->cost : s->bytes;
    if (c->entries.max != SIZE_MAX || !held) return;
    size_t share = (weighed ? c->cost.max : c->desc.block_size / 4 * 3) / c->nshards;
    if (!share) return;
    uint64_t cap = zc__mul_div(share, s->count, held);
    if (cap < 1) cap = 1;
    if (cap > p->cap + p->cap / 4 || cap < p->cap - p->cap / 4) zc__policy_resize(c, p, cap);
}

/* A key that was not there is put: learns from its ghost, and returns the queue that it belongs
 * in. */
static unsigned zc__policy_miss(zc__shard *s, uint64_t hash) {
    zc__policy *p = &s->policy;
    uint32_t *b = zc__ghost_bucket(p, hash), print = zc__ghost_print(hash);
    if (!b) return ZC__WINDOW;
    for (uint32_t i = 0; i < ZC__GHOST_WAYS; i++) {
        uint32_t g = b[i];
        if (g >> 18 != print) continue; /* no print is 0 */
        b[i] = 0;
        if (zc__ghost_expired(p, g)) break;
        bool from_main = zc__ghost_side(g), proven = g >> 16 & 1;
        if (!from_main && proven) return ZC__MAIN; /* was removed: no evidence */
        int64_t worth = zc__policy_worth(p, 64, zc__ghost_age(p, g) + 1, 5);
        zc__policy_step(p, from_main ? -worth : worth);
        return from_main && !proven ? ZC__WINDOW : ZC__MAIN;
    }
    return ZC__WINDOW;
}

/* A key that is not there is read, and need not be put. True: then it better is not, as another
 * would have to go; but for some, by which the shard learns what is read often. */
static inline bool zc__policy_pass(zc__shard *s) {
    return s->policy.full && ++s->policy.passed % ZC__PASS != 0;
}

/* Links a new entry, for which room has been made: only now its ghosts are looked at, as their line
 * has been on its way meanwhile. */
static void zc__policy_add(zc_cache *c, zc__shard *s, zc__entry *e, uint64_t hash) {
    unsigned queue = zc__is_cleared(s, e) ? (unsigned)ZC__CLEARED : zc__policy_miss(s, hash);
    zc__policy *p = &s->policy;
    zc__queue *w = &p->queue[ZC__WINDOW], *q = &p->queue[ZC__PROBATION];
    e->hits = e->state = 0;
    zc__queue_push(s, e, queue);
    if (!p->full) zc__policy_measure(c, s);
    if (!p->cap) return;
    uint64_t window = p->cap / ZC__SMALLEST ? p->cap / ZC__SMALLEST : 1;
    for (int n = 0; n < 4 && w->count > window; n++) {
        zc__entry *o = w->oldest;
        zc__queue_unlink(s, o);
        o->state = (uint8_t)(zc__hits(o) * ZC__EARLY);
        zc__hits_set(o, 0);
        zc__queue_push(s, o, ZC__PROBATION);
    }
    if (w->oldest && w->oldest->next) ZC__PREFETCH(w->oldest->next);
    if (s->count + 1 < p->cap - p->cap / 8) p->full = false;
    for (int n = 0; n < 4 && !p->full && w->count + q->count > (uint64_t)p->target / 256; n++) {
        zc__entry *o = q->oldest ? q->oldest : w->oldest;
        zc__queue_unlink(s, o);
        zc__queue_push(s, o, ZC__MAIN);
    }
}

/* Puts e in the place of `old` in its queue. */
static void zc__queue_swap(zc__shard *s, const zc__entry *old, zc__entry *e) {
    zc__queue *q = zc__queue_of(s, old);
    e->state = old->state;
    e->next = old->next;
    e->prev = old->prev;
    if (e->next) e->next->prev = e;
    else q->newest = e;
    if (e->prev) e->prev->next = e;
    else q->oldest = e;
}

/* The same for one that replaces `old`, which counts as a hit. */
static void zc__policy_replace(zc__shard *s, const zc__entry *old, zc__entry *e) {
    unsigned hits = zc__hits(old);
    e->hits = (uint8_t)(hits < ZC__HITS_MAX ? hits + 1 : hits);
    zc__queue_swap(s, old, e);
}

/* Unlinks an entry that is deleted, invalidated or expired. */
static void zc__policy_remove(zc__shard *s, zc__entry *e, uint64_t hash) {
    bool in_main = (e->state & ZC__QUEUE_BITS) == ZC__MAIN;
    zc__queue_unlink(s, e);
    if (zc__is_cleared(s, e)) return;
    if (in_main ? zc__hits(e) || e->state & ZC__PROVEN
                : zc__hits(e) + e->state / ZC__EARLY % 4 >= ZC__PROMOTE)
        zc__ghost_add(&s->policy, hash, 0, true);
}

/* For the next put: who will have to give way then, if the same queue is in turn, with its bucket
 * and ghosts, and who is behind it in the queue, whose link will change. */
static inline void zc__victim_prefetch(const zc_cache *c, const zc__shard *s, const zc__entry *e) {
    if (!e) return;
    zc__put_prefetch(s, zc__entry_hash(c, e));
    zc__entry_prefetch(e->next);
}

/* Chooses who gives way, and unlinks it; *hash is its key's. The shard is not empty. */
static zc__entry *zc__policy_victim(zc_cache *c, zc__shard *s, uint64_t *hash) {
    zc__policy *p = &s->policy;
    zc__queue *w = &p->queue[ZC__WINDOW], *q = &p->queue[ZC__PROBATION], *m = &p->queue[ZC__MAIN];
    zc__entry *dead = p->queue[ZC__CLEARED].oldest;
    if (dead) {
        zc__queue_unlink(s, dead);
        *hash = zc__entry_hash(c, dead);
        return dead;
    }
    zc__policy_measure(c, s);
    if (!p->cap) zc__policy_resize(c, p, s->count);
    if (!p->ghosts) zc__ghosts_make(c, p);
    if (p->ghosts_ready < p->nghosts) zc__ghosts_clear(p);
    p->full = true;
    for (unsigned looks = 1;; looks++) {
        bool last = looks == ZC__LOOKS;
        bool probation = w->count + q->count >= (uint64_t)p->target / 256 || !m->oldest;
        bool from_main = !probation || !(q->oldest || w->oldest);
        zc__entry *e = from_main ? m->oldest : q->oldest ? q->oldest : w->oldest;
        if (from_main && zc__hits(e) && !last) { /* a second chance */
            zc__policy_step(p, -zc__policy_worth(p, 40, m->count, 2));
            zc__queue_unlink(s, e);
            zc__hits_set(e, zc__hits(e) - 1);
            e->state |= ZC__PROVEN;
            zc__queue_push(s, e, ZC__MAIN);
            continue;
        }
        if (!from_main) {
            if (q->oldest && zc__hits(e)) zc__policy_step(p, zc__policy_worth(p, 51, q->count, 2));
            if (zc__hits(e) + e->state / ZC__EARLY % 4 >= ZC__PROMOTE && !last) {
                zc__queue_unlink(s, e);
                zc__hits_set(e, 0);
                zc__queue_push(s, e, ZC__MAIN);
                continue;
            }
        }
        zc__queue_unlink(s, e);
        *hash = zc__entry_hash(c, e);
        zc__bucket_prefetch(s, *hash);
        zc__ghost_add(p, *hash, from_main, e->state & ZC__PROVEN);
        p->gone[from_main]++;
        zc__victim_prefetch(c, s, from_main ? m->oldest : q->oldest);
        return e;
    }
}

/* ============================================================================================
 * >>expiry   TTL, TTI, what a read makes of an entry, and sweeping
 *   Idea        There is no timer structure. A read looks at the entry's own deadlines; sweeping
 *               goes round the buckets, a few at a time, and removes what is expired or
 *               invalidated. A shard knows a time before which none of its entries ends, and the
 *               `published` up to which it was swept, so a shard with nothing to do is not touched.
 *   Reads       never remove: the fill that follows replaces the dead entry in its place and
 *               inherits its heat, and a dead entry may still be asked for by stale_if_error.
 *   Broad       An entry with very many dependencies is not looked at under the lock (ZC__LATER),
 *               but pinned and without it; then the key is looked up again, as the entry may have
 *               left the table. Sweeping looks at some of them in each of its steps and does not go
 *               on before it has seen them all, eviction does not look.
 *   Locking     the shard's lock
 *   Cost        a read: nothing for entries without a deadline, a coarse clock otherwise
 * ========================================================================================== */

typedef enum zc__state { ZC__FRESH, ZC__SOFT, ZC__EXPIRED, ZC__DEAD, ZC__LATER } zc__state;

static inline bool zc__is_later(zc__state state) { return ZC__CAN_SLEEP && state == ZC__LATER; }

static inline uint64_t zc__now(zc_cache *c) {
    uint64_t now = zc__coarse(&c->clock);
    zc__atomic_store_rlx(&c->trie.now_s, now / ZC_SECOND);
    return now;
}

/* Applies the one rule, then the clock. A walk that finds the entry fresh moves its begin up.
 * ZC__LATER: see zc__entry_apart(). */
static inline zc__state zc__entry_state(zc_cache *c, zc__entry *e, uint64_t published) {
    if (e->begin < published) {
        if (ZC__CAN_SLEEP && ZC__UNLIKELY(zc__is_broad(e))) return ZC__LATER;
        if (zc__trie_killer(&c->trie, zc__entry_deps(e), e->ndeps, e->begin)) return ZC__DEAD;
        zc__atomic_store_rlx(&e->begin, published);
    }
    if (ZC__LIKELY(!(e->flags & ZC__TIMED))) return ZC__FRESH;
    uint64_t now = zc__coarse(&c->clock);
    if (now >= e->expires) return ZC__EXPIRED;
    return e->flags & ZC__EXTRAS && now >= zc__entry_extras(e)->soft ? ZC__SOFT : ZC__FRESH;
}

static const zc_tag *zc__entry_killer(const zc_cache *c, zc__entry *e) {
    return zc__trie_killer(&c->trie, zc__entry_deps(e), e->ndeps, zc__atomic_load_rlx(&e->begin));
}

/* The state of an entry with very many dependencies, at which it looks without the shard's lock,
 * pinned. What was invalidated meanwhile is of no account: the caller has begun before. ZC__LATER:
 * the entry has left the table meanwhile; look the key up again. */
static ZC__NOINLINE zc__state zc__entry_apart(zc_cache *c, zc__shard *s, uint64_t hash,
                                              zc__entry *e, uint64_t published) {
    ZC__ASSERT_HELD(&s->lock);
    zc__entry_pin(e);
    zc__spin_unlock(&s->lock);
    bool dead = zc__entry_killer(c, e) != NULL;
    zc__spin_lock(&s->lock);
    bool there = zc__table_find(s, hash, zc__entry_key(e)) == e;
    if (!dead && e->begin < published) zc__atomic_store_rlx(&e->begin, published);
    if (there) {
        (void)zc__atomic_sub_rlx(&e->refs, 1u); /* the table has it, too */
        return dead ? ZC__DEAD : zc__entry_state(c, e, published);
    }
    zc__spin_unlock(&s->lock);
    zc__entry_unpin(c, e);
    zc__spin_lock(&s->lock);
    return ZC__LATER;
}

/* The policy sees a hit. Once the mark is set nothing is written. */
static inline void zc__entry_mark(zc__entry *e) {
    unsigned hits = zc__hits(e);
    if (ZC__UNLIKELY(hits < ZC__HITS_MAX)) zc__hits_set(e, hits + 1);
}

/* After a hit: the policy sees it, and an idle deadline moves. */
static inline void zc__entry_touch(zc_cache *c, zc__entry *e) {
    zc__entry_mark(e);
    if (ZC__UNLIKELY(e->flags & ZC__EXTRAS)) {
        const zc__extras *x = zc__entry_extras(e);
        uint64_t idle = x->tti ? zc__add_sat(zc__coarse(&c->clock), x->tti) : ZC_NEVER;
        e->expires = idle < x->hard ? idle : x->hard;
    }
}

/* Counts a miss by its reason. */
static int zc__miss(zc__shard *s, const zc__entry *e, zc__state state) {
    ZC__ASSERT_HELD(&s->lock);
    if (!e || zc__is_cleared(s, e)) s->misses_absent++;
    else if (state == ZC__DEAD) s->misses_invalidated++;
    else s->misses_expired++;
    return ZC_MISS;
}

/* The end of even the grace in which it may stand in for an error. */
static uint64_t zc__entry_end(const zc__entry *e) {
    return e->flags & ZC__EXTRAS ? zc__add_sat(e->expires, zc__entry_extras(e)->grace) : e->expires;
}

/* How an entry is to live, with the defaults resolved. */
typedef struct zc__life {
    uint64_t ttl, tti, soft, grace, load;
    bool keep, extras;
} zc__life;

static zc__life zc__life_of(zc_cache *c, const zc_put_opts *o, bool absent) {
    zc__life l;
    const zc_desc *d = &c->desc;
    memset(&l, 0, sizeof l);
    l.ttl = o->ttl ? o->ttl : d->ttl;
    if (absent && (o->negative_ttl || d->negative_ttl))
        l.ttl = o->negative_ttl ? o->negative_ttl : d->negative_ttl;
    l.tti = o->tti ? o->tti : d->tti;
    if (l.tti == ZC_NEVER) l.tti = 0;
    l.soft = o->soft_ttl;
    l.grace = o->stale_if_error;
    l.extras = l.tti || l.soft || l.grace || d->weigher.version;
    return l;
}

/* Makes an entry: copies key and value, takes over the references on deps. `object`: instead of the
 * bytes. NULL: no memory. */
static zc__entry *zc__entry_new(zc_cache *c, zc_bytes key, zc_bytes value, const zc__object *object,
                                zc_tag *const *deps, size_t ndeps, const zc__life *life,
                                uint64_t begin) {
    zc_bytes raw = object ? zc_slice(object, sizeof *object) : value;
    zc__entry head;
    memset(&head, 0, sizeof head);
    head.begin = begin;
    head.expires = ZC_NEVER;
    head.refs = 1;
    head.value_len = (uint32_t)raw.len;
    head.key_len = (uint16_t)key.len;
    head.ndeps = (uint16_t)ndeps;
    if (object) head.flags |= ZC__OBJECT;
    if (life->keep) head.flags |= ZC__KEEP;
    if (life->extras) head.flags |= ZC__EXTRAS;
    size_t size = zc__entry_size(&head);
    /* Who brings much frees as much: so it does not add up, though nobody keeps house. */
    if (size > ZC__PART) (void)zc__part_some(c, size);
    zc__entry *e = (zc__entry *)(zc__slabs_serve(&c->mem, size)
                                     ? zc__slab_take(c->mem.slabs, zc__hash(key, c->seed), size)
                                     : zc__alloc(&c->mem, size));
    if (!e) return NULL;
    *e = head;
    if (key.len) memcpy(e + 1, key.ptr, key.len);
    if (raw.len) memcpy(zc__entry_bytes(e) + zc__value_at(key.len), raw.ptr, raw.len);
    if (ndeps) memcpy(zc__entry_deps(e), deps, ndeps * sizeof *deps);

    if (life->ttl == ZC_NEVER && !life->extras) return e;
    uint64_t now = zc__now(c), ttl = life->ttl;
    unsigned jitter = c->desc.ttl_jitter;
    if (jitter && ttl != ZC_NEVER) {
        uint64_t seed = now ^ c->seed ^ (uintptr_t)e;
        ttl -= ttl / 1000 * (zc__random(&seed) % (jitter * 10 + 1));
    }
    uint64_t hard = zc__add_sat(now, ttl);
    e->expires = hard;
    if (life->extras) {
        zc__extras *x = zc__entry_extras(e);
        x->hard = hard;
        x->tti = life->tti;
        x->soft = !life->soft ? ZC_NEVER : zc__add_sat(now, life->soft - 1);
        x->grace = life->grace;
        x->load = life->load;
        if (x->tti && zc__add_sat(now, x->tti) < hard) e->expires = zc__add_sat(now, x->tti);
        if (x->soft != ZC_NEVER) e->flags |= ZC__TIMED;
        zc_bytes seen_as = zc__entry_value(e);
        x->cost = c->desc.weigher.version
                      ? c->desc.weigher.weigh(c->desc.weigher.user, zc__entry_key(e), seen_as)
                      : zc__entry_weight(e);
    }
    if (e->expires != ZC_NEVER) e->flags |= ZC__TIMED;
    return e;
}

/* ---- shards: insert, remove, sweep ---- */

static inline bool zc__limit_take(zc__limit *l, size_t n) {
    if (l->max == SIZE_MAX || n == 0) return true;
    size_t used = zc__atomic_load_rlx(&l->used);
    do
        if (n > l->max || used > l->max - n) return false;
    while (!zc__atomic_cas(&l->used, &used, used + n));
    return true;
}
static inline void zc__limit_give(zc__limit *l, size_t n) {
    if (l->max != SIZE_MAX && n) (void)zc__atomic_sub_rlx(&l->used, n);
}

/* Takes an entry out of the table; what it counted for stays taken, for the caller to use. */
static void zc__shard_detach(zc__shard *s, zc__entry *e, uint64_t hash, zc_cause cause,
                             zc__entry **garbage) {
    ZC__ASSERT_HELD(&s->lock);
    zc__table_unlink(zc__table_of(s, hash), e, hash);
    if (ZC__UNLIKELY(s->broad == e)) s->broad_at = 0;
    s->count--;
    s->bytes -= zc__entry_size(e);
    s->cost -= zc__entry_cost(e);
    if (zc__is_cleared(s, e)) {
        s->cleared_cost -= zc__entry_cost(e);
        cause = ZC_CAUSE_INVALIDATED;
    }
    s->removed[cause]++;
    e->state = (uint8_t)cause;
    e->next = *garbage;
    *garbage = e;
}

static void zc__shard_remove(zc_cache *c, zc__shard *s, zc__entry *e, uint64_t hash, zc_cause cause,
                             zc__entry **garbage) {
    size_t cost = zc__entry_cost(e);
    zc__policy_remove(s, e, hash);
    zc__shard_detach(s, e, hash, cause, garbage);
    zc__limit_give(&c->entries, 1);
    zc__limit_give(&c->cost, cost);
}

/* Evicts one entry; what it counted for stays taken. NULL: the shard is empty. */
static zc__entry *zc__shard_evict(zc_cache *c, zc__shard *s, zc__entry **garbage) {
    if (!s->count) return NULL;
    uint64_t hash;
    zc__entry *e = zc__policy_victim(c, s, &hash);
    zc__state state = zc__is_broad(e) ? ZC__LATER : zc__entry_state(c, e, zc__published(&c->trie));
    zc__shard_detach(s, e, hash,
                     state == ZC__DEAD      ? ZC_CAUSE_INVALIDATED
                     : state == ZC__EXPIRED ? ZC_CAUSE_EXPIRED
                                            : ZC_CAUSE_EVICTED,
                     garbage);
    return e;
}

/* Puts e into the table, in place of an entry with its key, after evicting what must give way.
 * ZC_OK; ZC_MORE: this shard is empty and another must give way; ZC_E_NOMEM: the table cannot grow.
 * Unless ZC_OK, the old entry may have left already: the new value supersedes it in any case. */
static int zc__shard_insert(zc_cache *c, zc__shard *s, zc__entry *e, uint64_t hash,
                            zc__entry **garbage) {
    ZC__ASSERT_HELD(&s->lock);
    size_t n = 0, cost = 0, need = zc__entry_cost(e);
    bool room = zc__table_reserve(c, s, hash);
    zc__entry *old = zc__table_find(s, hash, zc__entry_key(e));
    zc__policy_clear(c, s);
    if (old && (zc__is_cleared(s, old) || zc__is_cleared(s, e))) { /* not in its place */
        zc__shard_remove(c, s, old, hash, ZC_CAUSE_REPLACED, garbage);
        old = NULL;
        room = true;
    }
    if (old) {
        n = 1;
        cost = zc__entry_cost(old);
        zc__policy_replace(s, old, e);
        zc__shard_detach(s, old, hash, ZC_CAUSE_REPLACED, garbage);
        room = true;
    }
    for (;;) {
        size_t more_n = n ? 0 : 1, more_cost = need > cost ? need - cost : 0;
        if (room && zc__limit_take(&c->entries, more_n)) {
            if (zc__limit_take(&c->cost, more_cost)) break;
            zc__limit_give(&c->entries, more_n);
        }
        if (old) zc__queue_unlink(s, e); /* it may not be its own victim */
        zc__entry *victim = room || c->mem.arena ? zc__shard_evict(c, s, garbage) : NULL;
        if (victim) {
            n++;
            cost += zc__entry_cost(victim);
        } else {
            zc__limit_give(&c->entries, n);
            zc__limit_give(&c->cost, cost);
            return room ? ZC_MORE : ZC_E_NOMEM;
        }
        old = NULL;
        room = true;
    }
    zc__limit_give(&c->entries, n ? n - 1 : 0);
    zc__limit_give(&c->cost, cost > need ? cost - need : 0);
    if (!old) zc__policy_add(c, s, e, hash);
    zc__table_link(s, zc__table_of(s, hash), e, hash);
    s->count++;
    s->bytes += zc__entry_size(e);
    s->cost += need;
    if (zc__is_cleared(s, e)) s->cleared_cost += need;
    s->puts++;
    if (e->expires < s->next_expiry) s->next_expiry = e->expires;
    if (e->expires < s->sweep_expiry) s->sweep_expiry = e->expires;
    return ZC_OK;
}

/* A line for people: "zoocache: <what>: <detail>". */
static void zc__log_write(zc_cache *c, zc_log_level level, const char *what, const char *detail) {
    char line[160];
    zc__text t = {line, sizeof line, 0};
    if (!c->desc.log.version || zc__atomic_load_rlx(&c->closed) > 1) return;
    zc__text_with(&t, "zoocache: %: %", what, detail);
    zc__text_end(&t);
    ZC__CALLS_OUT();
    c->desc.log.write(c->desc.log.user, level, line);
}

/* Says what was noted while a lock was held: a result; 0: nothing. */
static inline void zc__log_fault(zc_cache *c, int32_t *noted, const char *what) {
    int32_t rc = zc__atomic_load_rlx(noted);
    if (rc && zc__atomic_cas(noted, &rc, 0)) zc__log_write(c, ZC_LOG_WARN, what, zc_strerror(rc));
}

static inline bool zc__wants(const zc_cache *c, zc_event_kind kind) {
    uint32_t mask = c->desc.events.mask;
    return c->desc.events.version && (mask == 0 || mask & (uint32_t)kind);
}

static void zc__event(zc_cache *c, const zc_event *event) {
    const zc_events *ev = &c->desc.events;
    ZC__CALLS_OUT();
    if (!zc__wants(c, event->kind) || zc__atomic_load_rlx(&c->closed) >= 2) return;
    uint64_t was = zc__hurry(ZC_NEVER); /* what the hook calls is his */
    ev->on_event(ev->user, event);
    (void)zc__hurry(was);
}

static zc_event zc__event_of(zc_event_kind kind, zc_bytes key) {
    zc_event event;
    memset(&event, 0, sizeof event);
    event.kind = kind;
    event.key = key;
    return event;
}

/* Works off a garbage chain: tells, and lets go. True: it has gone on, for a step, with what takes
 * several. */
static bool zc__garbage_free(zc_cache *c, zc__entry *garbage) {
    ZC__CALLS_OUT();
    bool more = zc__part_some(c, ZC__PART);
    for (zc__entry *next; garbage; garbage = next, zc__freed(&c->mem, 1)) {
        next = garbage->next;
        if (c->desc.events.version) {
            zc_event ev = zc__event_of(ZC_EVENT_REMOVED, zc__entry_key(garbage));
            ev.cause = (zc_cause)garbage->state;
            ev.value = zc__entry_value(garbage);
            zc__event(c, &ev);
        }
        zc__entry_drop(c, garbage);
    }
    return more;
}

/* Makes one entry of some shard give way; false: there is none. No spin lock is held. */
static bool zc__evict_any(zc_cache *c, zc__entry **garbage) {
    for (uint32_t i = 0; i < c->nshards; i++) {
        uint32_t turn = zc__atomic_add_rlx(&c->evict_turn, 1u);
        zc__shard *s = &c->shards[turn & (c->nshards - 1)];
        zc__spin_lock(&s->lock);
        zc__entry *victim = zc__shard_evict(c, s, garbage);
        if (victim) {
            zc__limit_give(&c->entries, 1);
            zc__limit_give(&c->cost, zc__entry_cost(victim));
        }
        zc__spin_unlock(&s->lock);
        if (victim) return true;
    }
    return false;
}

/* After a failed allocation: can memory be had by evicting? Only a fixed block works that way. What
 * has been evicted already is freed first, however much that is. */
static bool zc__evict_for_memory(zc_cache *c) {
    zc__entry *garbage = NULL;
    if (!c->mem.arena) return false;
    if (zc__part_some(c, SIZE_MAX)) return true;
    bool found = zc__evict_any(c, &garbage);
    (void)zc__garbage_free(c, garbage);
    return found;
}

/* What comes before sweeping: growing, shrinking, and freeing what was cleared. */
static bool zc__shard_needs_upkeep(const zc__shard *s) {
    return s->old.nbuckets || s->policy.queue[ZC__CLEARED].oldest || s->count < s->shrink_below;
}
static void zc__shard_upkeep(zc_cache *c, zc__shard *s, int work, zc__entry **garbage) {
    zc__queue *q = &s->policy.queue[ZC__CLEARED];
    if (s->old.nbuckets) zc__table_move(c, s);
    while (work > 0 && q->oldest) {
        work -= (int)(ZC__SLOTS + q->oldest->ndeps / 4);
        zc__shard_remove(c, s, q->oldest, zc__entry_hash(c, q->oldest), ZC_CAUSE_INVALIDATED,
                         garbage);
    }
    if (!s->old.nbuckets && !q->oldest && s->count < s->shrink_below) zc__table_shrink(c, s);
}

/* Moves an entry of the table to where memory is dense, if it is not there and nobody has it
 * pinned: *slot is its place. */
static inline void zc__entry_move(zc_cache *c, zc__shard *s, zc__entry **slot) {
    ZC__ASSERT_HELD(&s->lock);
    zc__entry *e = *slot;
    size_t size = zc__entry_size(e);
    if (!zc__slab_moves(&c->mem, e, size) || zc__atomic_load_acq(&e->refs) != 1) return;
    uint64_t hash = zc__entry_hash(c, e);
    zc__entry *to = (zc__entry *)zc__slab_take(c->mem.slabs, hash, size);
    if (!to) return;
    memcpy((void *)to, e, offsetof(zc__entry, hits)); /* which readers may be changing */
    to->hits = (uint8_t)zc__hits(e);
    memcpy((void *)(to + 1), e + 1, size - sizeof *e);
    zc__queue_swap(s, e, to);
    zc__atomic_store_rel(slot, to);
    zc__entry_retire(c, e);
}

/* Looks at some more of the very many dependencies of an entry. ZC__LATER: it is not through. */
static zc__state zc__sweep_broad(zc_cache *c, zc__shard *s, zc__entry *e) {
    ZC__ASSERT_HELD(&s->lock);
    uint32_t at = s->broad == e ? s->broad_at : 0, n = e->ndeps - at;
    if (s->broad == e) s->broad_at = 0;
    if (e->begin >= s->sweep_published || e->flags & ZC__KEEP) return ZC__FRESH;
    s->broad = e;
    if (n > ZC__BROAD) {
        n = ZC__BROAD;
        s->broad_at = at + n;
    }
    if (zc__trie_killer(&c->trie, zc__entry_deps(e) + at, n, e->begin)) return ZC__DEAD;
    if (s->broad_at) return ZC__LATER;
    zc__atomic_store_rlx(&e->begin, s->sweep_published);
    return ZC__FRESH;
}

/* Looks at up to `buckets` buckets, at fewer where much is removed or dependencies are many, for
 * what is expired, invalidated, or to be moved. True: the round is done. */
static bool zc__shard_sweep(zc_cache *c, zc__shard *s, uint32_t buckets, uint64_t now,
                            zc__entry **garbage) {
    ZC__ASSERT_HELD(&s->lock);
    int work = (int)(buckets * ZC__SLOTS);
    if (zc__shard_needs_upkeep(s)) {
        zc__shard_upkeep(c, s, work, garbage);
        return false;
    }
    if (s->cursor == 0 && !s->broad_at) {
        s->sweep_published = zc__published(&c->trie);
        s->sweep_expiry = ZC_NEVER;
        s->sweep_found = 0;
    }
    for (; work > 0 && s->cursor < s->table.nbuckets; s->cursor++) {
        for (unsigned k = 0; k < ZC__SLOTS; k++, work--) {
            zc__entry *e = s->table.buckets[s->cursor].slot[k];
            if (!e) continue;
            bool broad = ZC__UNLIKELY(zc__is_broad(e));
            zc__state state = broad ? zc__sweep_broad(c, s, e)
                                    : zc__entry_state(c, e, s->sweep_published);
            if (state == ZC__LATER) return false;
            bool over = now >= zc__entry_end(e);
            bool dead = state == ZC__DEAD && !(e->flags & ZC__KEEP);
            s->sweep_found += dead;
            work -= e->ndeps / 4;
            if (dead || over) {
                work -= (int)ZC__SLOTS; /* to remove one takes longer than to look */
                zc__shard_remove(c, s, e, zc__entry_hash(c, e),
                                 state == ZC__DEAD ? ZC_CAUSE_INVALIDATED : ZC_CAUSE_EXPIRED,
                                 garbage);
                continue;
            }
            if (zc__entry_end(e) < s->sweep_expiry) s->sweep_expiry = zc__entry_end(e);
            zc__entry_move(c, s, &s->table.buckets[s->cursor].slot[k]);
        }
    }
    if (s->cursor < s->table.nbuckets) return false;
    s->cursor = 0;
    s->swept = s->sweep_published;
    s->next_expiry = s->sweep_expiry;
    /* Where invalidations are many and kill little, a round is not soon repeated. */
    uint64_t pause = s->sweep_pause ? s->sweep_pause * 2 : ZC_SECOND / 2;
    if (s->sweep_found > s->count / 32) s->sweep_pause = 0;
    else if (pause < 8 * ZC_SECOND) s->sweep_pause = pause;
    s->next_sweep = zc__add_sat(now, s->sweep_pause);
    return true;
}

/* ============================================================================================
 * >>bus   Several nodes: reading what the others invalidate, and publishing to them
 *   Idea        A log of invalidations, the same for all. A node follows it with a cursor, and on
 *               every read of it has proof that it has heard everything up to that moment: its
 *               lease. It serves its table only while the lease is younger than max_staleness (T).
 *               So whatever is lost, delayed or restarted, a value is served at most T after the
 *               invalidation that killed it had been acknowledged. Where the log can be looked at
 *               in a few nanoseconds (`peek`), each read does that, and there is no lease.
 *   Versions    The table and the trie go on using local versions. The entry at a position of the
 *               log is applied at  base + (position << 16);  where `published` is past that
 *               already, it is applied above `published`, and `base` moves: the positions before
 *               are then as if from before an attach. An invalidation of one's own is applied at
 *               once, at published + 1, and once more when it comes back from the log. A record
 *               of the storage carries a position: that of the cursor before it was found that
 *               nothing has killed the value. It is never made of a version, which moves without
 *               the log. No position above one's own cursor is believed, so what was killed here
 *               and has not reached the log yet stays dead.
 *   Breaks      Another identity of the log, or a gap, and the node attaches anew: the root is
 *               stamped, which flushes the table in O(1) and fences fills in flight, and positions
 *               count from a new base.
 *   Logs        A bus may have several. A position here is then the sum of how far each was heard:
 *               a node's own, as it depends on which was heard first. What nodes share is the mark,
 *               how far each was heard at a position: the writer of a record looks it up in
 *               `history`. The reader takes the last position of its own up to which it had heard
 *               nothing that the mark is without, in the logs of the record's dependencies: what
 *               the others say does not concern it. The lease is the oldest of the proofs.
 *   Outbox      Invalidations that the log has not taken yet: a bounded set of tags, which
 *               collapses to first segments and then to everything. What is in it is stamped after
 *               it was put there, and again after each attach.
 *   Holds       A tag that is held has a mark in its node, which a fill looks for where it would
 *               store, after reading `published` and before looking for its killer; a read never
 *               does. The mark is set before the tag is stamped, so whoever has begun after the
 *               stamp finds it; who has begun before is killed. It goes with the end of the hold,
 *               after the stamp of that: zc_hold_end() here, the same heard from the log, or, if it
 *               is another's, its lease, counted from when it was heard here, which is after its
 *               holder began to count. In the log a hold is an entry whose first tag is a mark with
 *               id and lease, and its end one without lease; for a node that does not know of
 *               holds, an invalidation. Who attaches has not heard of it, and reads the lists
 *               beside the log, after the position and before serving: a hold is there before it
 *               is in the log. What a dead holder has left there goes with its lease. So what is
 *               served reflects every commit that is T old, be its process alive or not.
 *   Sealed      With a sealer the log has names in the place of tags (>>seal). Who has no key would
 *               not know what they are, nor be known to who attaches later: a mark beside the log,
 *               which each who attaches reads, keeps him away.
 *   Invariants  N1 every entry up to `cursor` has been applied since `base` was set
 *               N2 lease: everything acknowledged before it has been applied
 *               N3 while an invalidation of one's own has not come back from the log, its tags'
 *                  versions are above `unacknowledged`, and no record is believed to be newer
 *                  than that: other entries may move the cursor past it
 *               N4 with several logs: `history` has `cursors` as they were at each of the last
 *                  positions since the attach
 *               N5 the tags of every hold that was announced up to `cursor`, and has not ended,
 *                  have ZC__HELD
 *   Locking     `reading` (gate): one reader, one attach at a time. `apply` (mutex): identity,
 *               epoch, base, cursor move together, entries are applied in order. `out` (mutex): the
 *               outbox. The trie's writer lock: the holds, and their marks.
 *   Time        Within zc_poll(), and for who waits until a time, calls of the bus and the storage
 *               give up then, with ZC_E_BUSY (`zc__until`), and are made again by a later round.
 *               The outbox has as long as a read would wait: the log is read, sent or not.
 *   Cost        a hit: the coarse clock and two loads, twice. An invalidation: one round trip.
 *   Source      zoocache's log-and-lease protocol: the manual, "Several nodes"
 *   Without     ZOOCACHE_WITH_BUS, a part of it alone is compiled: what invalidates here.
 * ========================================================================================== */

/* Whoever calls `read` or `append` says what is to be done with the entries. */
struct zc_bus_sink {
    int (*entry)(void *user, uint64_t position, const zc_bytes *tags, size_t n);
    void *user;
};

ZOOCACHE_API int zc_bus_entry(zc_bus_sink *sink, uint64_t position, const zc_bytes *tags,
                              size_t n) {
    if (!sink || (n && !tags)) return ZC_E_INVAL;
    return sink->entry(sink->user, position, tags, n);
}

static void zc__report_invalidated(zc_cache *c, zc_bytes tag, uint64_t version) {
    if (!c->desc.events.version) return;
    zc_event ev = zc__event_of(ZC_EVENT_INVALIDATED, tag);
    ev.version = version;
    zc__event(c, &ev);
}

/* ---- invalidating here ---- */

/* The nodes of n checked tags, with references; n == 0: the root. Where a node cannot be made for
 * want of memory, it is the deepest one above: too much is invalidated rather than too little. */
typedef struct zc__nodes {
    zc_tag **list, *one;
    size_t n, size;
} zc__nodes;

/* `locked`: a lock is held, and no entry can give way. False: some node could not be made. */
static bool zc__nodes_acquire(zc_cache *c, const zc_bytes *tags, size_t n, bool locked,
                              zc__nodes *out) {
    bool all = true;
    out->list = &out->one;
    out->n = n;
    out->size = n > 1 ? n * sizeof *out->list : 0;
    if (n > 1 && !(out->list = (zc_tag **)zc__alloc(&c->mem, out->size))) n = 0;
    if (n == 0) {
        out->list = &out->one;
        out->one = &c->trie.root;
        zc__tag_ref(out->one);
        out->n = 1;
        out->size = 0;
    }
    for (size_t i = 0; i < n; i++) {
        zc__path path;
        (void)zc__path_parse(tags[i], &path);
        zc_tag *node;
        do node = zc__tag_acquire(&c->trie, &path);
        while (!node && !locked && zc__evict_for_memory(c));
        all = all && node;
        out->list[i] = node ? node : zc__tag_deepest(&c->trie, &path);
    }
    return all;
}

static void zc__nodes_release(zc_cache *c, zc__nodes *nodes) {
    for (size_t i = 0; i < nodes->n; i++) zc__tag_unref(&c->trie, nodes->list[i]);
    if (nodes->size) zc__free(&c->mem, nodes->list, nodes->size);
}

/* Invalidates n checked tags in one step; n == 0: everything. */
static uint64_t zc__invalidate_text(zc_cache *c, const zc_bytes *tags, size_t n, bool locked) {
    zc__nodes nodes;
    (void)zc__nodes_acquire(c, tags, n, locked, &nodes);
    uint64_t v = zc__trie_stamp(&c->trie, nodes.list, nodes.n, 0);
    zc__nodes_release(c, &nodes);
    return v;
}

static int zc__tags_check(const zc_bytes *tags, size_t n) {
    zc__path path;
    int rc = ZC_OK;
    for (size_t i = 0; i < n && rc == ZC_OK; i++) rc = zc__path_parse(tags[i], &path);
    return rc;
}

/* ---- sealed tags: what is said of tags outside of the process; see >>seal ---- */

typedef struct zc__names {
    const zc_bytes *list;
    size_t n;
    void *block; /* NULL: the list is the caller's */
    size_t size;
    uint64_t *versions; /* room for one of each name */
} zc__names;

static inline void zc__names_free(zc_cache *c, zc__names *names) {
    if (names->block) zc__free(&c->mem, names->block, names->size);
}

/* Is this the name of a tag, or what tells that a log has such? */
static inline bool zc__is_name(const zc_bytes *tags, size_t n) {
    return n && tags[0].len && *(const char *)tags[0].ptr == ':';
}

#ifdef ZOOCACHE_WITH_SEAL
static inline bool zc__seals(const zc_cache *c) { return c->desc.sealer.version != 0; }

/* The list as it is; or, with a sealer, a block for `times` as many, each `more` bytes longer. */
static inline int zc__names_make(zc_cache *c, const zc_bytes *list, size_t n, size_t times,
                                 size_t more, zc__names *names) {
    size_t text = n * more;
    memset(names, 0, sizeof *names);
    names->list = list;
    names->n = n;
    if (!zc__seals(c) || n == 0) return ZC_OK;
    for (size_t i = 0; i < n; i++) text += list[i].len;
    n *= times;
    names->size = n * (sizeof *names->list + sizeof *names->versions) + text * times;
    if (!(names->block = zc__alloc_zero(&c->mem, names->size))) return ZC_E_NOMEM;
    names->list = (const zc_bytes *)names->block;
    names->versions = (uint64_t *)(void *)((zc_bytes *)names->block + n);
    return ZC_OK;
}

/* The names of n tags by the first key, then by the next, and so on: who knows any of the keys
 * hears of it. The empty path has itself for a name. */
static inline int zc__names_seal(zc_cache *c, const zc_bytes *tags, size_t n, zc__names *names) {
    const zc_sealer *s = &c->desc.sealer;
    size_t len;
    int rc = zc__names_make(c, tags, n, s->nkeys, ZC_SEAL_TAG, names);
    if (rc != ZC_OK || !names->block) return rc;
    names->n = n * s->nkeys;
    unsigned char *at = (unsigned char *)(names->versions + names->n);
    for (size_t i = 0; i < names->n && rc == ZC_OK; i++, at += len) {
        len = 0;
        if (tags[i % n].len) rc = s->tag_seal(s->user, (unsigned)(i / n), tags[i % n], at, &len);
        ((zc_bytes *)names->block)[i] = zc_slice(at, len);
    }
    if (rc != ZC_OK) zc__names_free(c, names);
    return rc;
}

/* The tags of names: of those by the first key that is known here. ZC_E_UNKEYED: there are none;
 * ZC_E_SEAL: not all that begin as names by such a key are names. */
static inline int zc__names_open(zc_cache *c, const zc_bytes *list, size_t n, zc__names *names) {
    const zc_sealer *s = &c->desc.sealer;
    size_t len;
    unsigned by = 0, key = 0;
    int rc = zc__names_make(c, list, n, 1, 0, names);
    if (rc != ZC_OK || !names->block) return rc;
    names->n = 0;
    unsigned char *at = (unsigned char *)(names->versions + n);
    for (size_t i = 0; i < n && rc == ZC_OK; i++) {
        rc = s->tag_open(s->user, list[i], at, &len, &key);
        if (rc == ZC_OK && names->n == 0) by = key;
        if (rc == ZC_OK && by == key) {
            ((zc_bytes *)names->block)[names->n++] = zc_slice(at, len);
            at += len;
        }
        if (rc == ZC_E_UNKEYED) rc = ZC_OK;
    }
    if (rc == ZC_OK && names->n == 0) rc = ZC_E_UNKEYED;
    if (rc == ZC_OK) return ZC_OK;
    if (rc != ZC_E_NOMEM) zc__count(rc == ZC_E_SEAL ? &c->store_forged : &c->store_unkeyed, 1);
    zc__names_free(c, names);
    return rc;
}
#else
static inline bool zc__seals(const zc_cache *c) { (void)c; return false; }
static inline int zc__names_seal(zc_cache *c, const zc_bytes *tags, size_t n, zc__names *names) {
    (void)c;
    memset(names, 0, sizeof *names);
    names->list = tags;
    names->n = n;
    return ZC_OK;
}
#  define zc__names_open zc__names_seal
#endif

/* Asks for the versions of paths, which are 0 before, under all their names. */
static inline int zc__names_ask(zc_cache *c,
                                int (*ask)(void *, const zc_bytes *, size_t, uint64_t *),
                                void *user, const zc_bytes *paths, size_t n, uint64_t *versions) {
    zc__names names;
    int rc = zc__names_seal(c, paths, n, &names);
    if (rc != ZC_OK || !names.block) return rc != ZC_OK ? rc : ask(user, paths, n, versions);
    rc = ask(user, names.list, names.n, names.versions);
    for (size_t i = 0; i < names.n; i++)
        if (versions[i % n] < names.versions[i]) versions[i % n] = names.versions[i];
    zc__names_free(c, &names);
    return rc;
}

#ifdef ZOOCACHE_WITH_BUS
#define ZC__OUTBOX_BYTES 65536u     /* of tags that wait for the log; more collapse */
#define ZC__COARSE_SLACK (10 * ZC_MILLISECOND) /* a coarse clock may lag so much */
#define ZC__DEFERRED_BYTES 65536u       /* of tags that were heard and are not told yet */
#define ZC__HISTORY 4096u           /* positions whose parts are remembered, with several logs */
#define ZC__POSITION_MAX (UINT64_C(1) << 47) /* of one log; what is above is none */

/* What LMDB's or Redis' part has to say: it may be under a lock then, and must not call the user's
 * hook. `report` does that. */
typedef struct zc__lines {
    zc_log log;
    zc__spin lock;
    size_t size;     /* [lock] */
    char text[1024]; /* [lock] of each line: its level, itself, NUL; what has no room is left out */
} zc__lines;

static inline void zc__lines_init(zc__lines *l, zc_log log) {
    memset(l, 0, sizeof *l);
    l->log = log;
    ZC__SET_RANK(&l->lock, ZC__RANK_LEAF);
}
static inline void zc__lines_add(zc__lines *l, zc_log_level level, const char *line) {
    size_t size = strlen(line) + 2;
    zc__spin_lock(&l->lock);
    if (l->log.version && size <= sizeof l->text - l->size) {
        l->text[l->size] = (char)level;
        memcpy(l->text + l->size + 1, line, size - 1);
        zc__atomic_store_rlx(&l->size, l->size + size);
    }
    zc__spin_unlock(&l->lock);
}
static inline void zc__lines_report(zc__lines *l) {
    char text[sizeof l->text];
    if (zc__atomic_load_rlx(&l->size) == 0) return;
    zc__spin_lock(&l->lock);
    size_t size = l->size;
    memcpy(text, l->text, size);
    zc__atomic_store_rlx(&l->size, (size_t)0);
    zc__spin_unlock(&l->lock);
    ZC__CALLS_OUT();
    for (size_t at = 0; at < size; at += strlen(text + at) + 1)
        l->log.write(l->log.user, (zc_log_level)text[at], text + at + 1);
}

static inline uint64_t zc__bus_local(const zc__bus *b, uint64_t position) {
    return b->base + (position << 16); /* modulo 2^64: base may be "negative" */
}

/* ---- several logs ---- */

/* The log of a tag, by its first segment. */
static unsigned zc__bus_log(const zc__bus *b, zc_bytes segment) {
    return b->logs == 1 ? 0 : (unsigned)(XXH3_64bits(segment.ptr, segment.len) % b->logs);
}
static unsigned zc__bus_log_of_text(const zc__bus *b, zc_bytes tag) {
    const char *colon = b->logs == 1 ? NULL : (const char *)memchr(tag.ptr, ':', tag.len);
    if (colon) tag.len = (size_t)(colon - (const char *)tag.ptr);
    return zc__bus_log(b, tag);
}
static unsigned zc__bus_log_of(const zc__bus *b, const zc_tag *tag) {
    while (tag->parent->parent) tag = tag->parent;
    return zc__bus_log(b, zc_slice(zc__tag_label(tag), tag->len));
}

static void *zc__bus_user(const zc_cache *c, unsigned log) {
    return c->bus.logs == 1 ? c->desc.bus.user : c->desc.bus.logs[log];
}

/* ---- holds ---- */

#define ZC__HOLD_MARK 33u /* bytes of "\1hold:<id>:<lease in ms>" */
#define ZC__SEAL_MARK 2u    /* in the place of a hold's id, which is odd: the log is sealed */
#define ZC__SEALING ":seal" /* what is there while all are being told of it, and then */
#define ZC__SEALED ":sealed"

struct zc__hold {
    zc__hold *next;
    uint64_t id, until; /* monotonic */
    bool own;           /* this process has begun it: it lasts until zc_hold_end() */
    size_t n, size;     /* of the list, the mark included; of the block */
    zc_bytes *list;     /* as it is in the log */
    zc__nodes nodes;
};

static void zc__hold_mark(char *to, uint64_t id, uint64_t lease) {
    zc__text t = {to, ZC__HOLD_MARK, 0};
    zc__text_str(&t, "\1hold:");
    zc__text_hex(&t, id, 16);
    zc__text_str(&t, ":");
    zc__text_num(&t, lease / ZC_MILLISECOND, 10);
}

/* Reads n digits of the base. False, and *v as it was: something else is among them, or too much;
 * or there are none. */
static bool zc__digits(const char *s, size_t n, unsigned base, uint64_t *v) {
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned d = s[i] >= '0' && s[i] <= '9'   ? (unsigned)(s[i] - '0')
                     : s[i] >= 'a' && s[i] <= 'f' ? (unsigned)(s[i] - 'a' + 10)
                                                  : 99;
        if (d >= base || __builtin_mul_overflow(sum, base, &sum) ||
            __builtin_add_overflow(sum, d, &sum))
            return false;
    }
    *v = sum;
    return n != 0;
}

/* Does a list begin with the mark of a hold? A lease of 0: its end. */
static bool zc__hold_read(const zc_bytes *tags, size_t n, uint64_t *id, uint64_t *lease) {
    const char *s = n > 1 ? (const char *)tags[0].ptr : NULL;
    if (!s || tags[0].len != ZC__HOLD_MARK || memcmp(s, "\1hold:", 6) != 0 || s[22] != ':')
        return false;
    if (!zc__digits(s + 23, 10, 10, lease) || !zc__digits(s + 6, 16, 16, id)) return false;
    if (*id == UINT64_MAX) return false;
    *lease *= ZC_MILLISECOND;
    return true;
}
static bool zc__hold_marks(const zc_bytes *tags, size_t n) {
    uint64_t id, lease;
    return zc__hold_read(tags, n, &id, &lease);
}

static inline bool zc__is_marked(const zc_bytes *tags, size_t n) {
    size_t len = sizeof ZC__SEALED - 1;
    return n == 1 && tags[0].len == len && memcmp(tags[0].ptr, ZC__SEALED, len) == 0;
}

static void zc__holds_free(zc_cache *c, zc__hold *hold) {
    for (zc__hold *next; hold; hold = next) {
        next = hold->next;
        zc__nodes_release(c, &hold->nodes);
        zc__free(&c->mem, hold, hold->size);
    }
}

/* A hold on n tags, which begins now. `locked` as in zc__nodes_acquire(): a hold of another's then
 * holds too much rather than nothing. NULL: no memory. */
static zc__hold *zc__hold_new(zc_cache *c, uint64_t id, uint64_t lease, const zc_bytes *tags,
                              size_t n, bool locked) {
    size_t size = sizeof(zc__hold) + (n + 1) * sizeof *tags + ZC__HOLD_MARK;
    for (size_t i = 0; i < n; i++) size += tags[i].len;
    zc__hold *h;
    do h = (zc__hold *)zc__alloc_zero(&c->mem, size);
    while (!h && !locked && zc__evict_for_memory(c));
    if (!h) return NULL;
    h->id = id;
    h->until = zc__add_sat(zc__mono(&c->clock), lease);
    h->n = n + 1;
    h->size = size;
    h->list = (zc_bytes *)(void *)(h + 1);
    char *text = (char *)(h->list + n + 1);
    h->list[0] = zc_slice(text, ZC__HOLD_MARK);
    zc__hold_mark(text, id, lease);
    text += ZC__HOLD_MARK;
    for (size_t i = 0; i < n; text += tags[i++].len) {
        memcpy(text, tags[i].ptr, tags[i].len);
        h->list[i + 1] = zc_slice(text, tags[i].len);
    }
    if (zc__nodes_acquire(c, tags, n, locked, &h->nodes) || locked) return h;
    zc__holds_free(c, h);
    return NULL;
}

/* Changes the marks of those of a hold's tags that have all of `with`. */
static void zc__hold_paint(const zc__hold *h, unsigned with, unsigned set, unsigned clear) {
    for (size_t i = 0; i < h->nodes.n; i++) {
        zc_tag *tag = h->nodes.list[i];
        if ((tag->marks & with) == with)
            zc__atomic_store_rel(&tag->marks, (uint8_t)((tag->marks | set) & ~clear));
    }
}

/* Holds; the caller stamps after that. False: it is our own, as it came back from the log. */
static bool zc__hold_add(zc_cache *c, zc__hold *h) {
    zc__spin_lock(&c->trie.writer);
    const zc__hold *own = c->bus.holds;
    while (own && !(own->own && own->id == h->id)) own = own->next;
    if (!own) {
        h->next = c->bus.holds;
        c->bus.holds = h;
        (void)zc__atomic_add_rlx(&c->bus.nholds, 1u);
        zc__hold_paint(h, 0, ZC__HELD, 0);
    }
    zc__spin_unlock(&c->trie.writer);
    return !own;
}

/* Takes holds off the list: our own with this id, or the others' with this id, or, for 0, those of
 * them whose time is over. They hold until zc__holds_end(). */
static zc__hold *zc__holds_take(zc_cache *c, uint64_t id, bool own, uint64_t now) {
    zc__hold *taken = NULL, *h;
    zc__spin_lock(&c->trie.writer);
    for (zc__hold **at = &c->bus.holds; (h = *at) != NULL;) {
        if (h->own != own || (id ? h->id != id : now < h->until)) {
            at = &h->next;
            continue;
        }
        *at = h->next;
        h->next = taken;
        taken = h;
    }
    zc__spin_unlock(&c->trie.writer);
    return taken;
}

/* Ends holds that were taken off the list; the caller has stamped. What another holds as well is
 * marked all the time. */
static void zc__holds_end(zc_cache *c, zc__hold *taken) {
    zc__hold *h;
    if (!taken) return;
    zc__spin_lock(&c->trie.writer);
    for (h = taken; h; h = h->next) zc__hold_paint(h, 0, ZC__RELEASED, 0);
    for (h = c->bus.holds; h; h = h->next) zc__hold_paint(h, 0, 0, ZC__RELEASED);
    for (h = taken; h; h = h->next) {
        zc__hold_paint(h, ZC__RELEASED, 0, ZC__HELD | ZC__RELEASED);
        (void)zc__atomic_sub_rlx(&c->bus.nholds, 1u);
    }
    zc__spin_unlock(&c->trie.writer);
    zc__holds_free(c, taken);
}

/* Is a tag on the path of any of these held? */
static inline bool zc__held(const zc_cache *c, zc_tag *const *deps, size_t n) {
    if (ZC__LIKELY(!zc__atomic_load_acq(&c->bus.nholds))) return false;
    if (zc__atomic_load_acq(&c->trie.root.marks) & ZC__HELD) return true;
    for (size_t i = 0; i < n; i++)
        for (const zc_tag *t = deps[i]; t; t = t->parent)
            if (zc__atomic_load_acq(&t->marks) & ZC__HELD) return true;
    return false;
}

/* A hold that was announced before this node attached, for zc_bus.holds; or the mark of a sealed
 * log, which is for nobody who has no key, nor for one who lacks that of a hold. */
static int zc__hold_learn(void *user, uint64_t id, const zc_bytes *tags, size_t n) {
    zc_cache *c = (zc_cache *)user;
    uint64_t lease;
    zc__names names;
    if (id == ZC__SEAL_MARK) {
        c->bus.marked = zc__is_marked(tags, n);
        return zc__seals(c) ? ZC_OK : ZC_E_UNKEYED;
    }
    int rc = zc__names_open(c, tags, n, &names);
    if (rc != ZC_OK) return rc == ZC_E_SEAL ? ZC_OK : rc;
    bool ours = zc__hold_read(names.list, names.n, &id, &lease) && lease &&
                zc__tags_check(names.list, names.n) == ZC_OK;
    zc__hold *h = ours ? zc__hold_new(c, id, lease, names.list + 1, names.n - 1, true) : NULL;
    if (h) {
        zc__hold *known = zc__holds_take(c, id, false, 0); /* what each log has told of it */
        if (!zc__hold_add(c, h)) zc__holds_free(c, h);
        zc__holds_end(c, known);
    }
    zc__names_free(c, &names);
    return ours && !h ? ZC_E_NOMEM : ZC_OK;
}

/* Forgets the list beside the log. */
static int zc__hold_forget(zc_cache *c, uint64_t id) {
    if (!c->bus.on || !c->desc.bus.hold) return ZC_OK;
    return c->desc.bus.hold(zc__bus_user(c, 0), id, NULL, 0);
}

static void zc__holds_close(zc_cache *c) {
    zc__holds_end(c, zc__holds_take(c, 0, true, UINT64_MAX));
    zc__holds_end(c, zc__holds_take(c, 0, false, UINT64_MAX));
}

/* In the child of a fork, which ends no hold of its parent's. */
static void zc__holds_fork(zc_cache *c) {
    for (zc__hold *h = c->bus.holds; h; h = h->next) h->own = false;
}

/* Ends the holds of who has died. */
static void zc__holds_expire(zc_cache *c) {
    if (!zc__atomic_load_acq(&c->bus.nholds)) return;
    zc__hold *over = zc__holds_take(c, 0, false, zc__mono(&c->clock));
    int rc = ZC_OK;
    for (zc__hold *h = over; h; h = h->next) {
        uint64_t v = zc__trie_stamp(&c->trie, h->nodes.list, h->nodes.n, 0);
        if (rc == ZC_OK) rc = zc__hold_forget(c, h->id);
        for (size_t i = 1; i < h->n; i++) zc__report_invalidated(c, h->list[i], v);
    }
    zc__holds_end(c, over);
}

/* ---- positions ---- */

/* N4. The cursor has moved. */
static void zc__bus_moved(zc__bus *b) {
    ZC__ASSERT_HELD(&b->apply);
    size_t size = b->logs * sizeof *b->history;
    if (b->history) memcpy(&b->history[b->cursor % ZC__HISTORY * b->logs], b->cursors, size);
}

/* The cursor's entry, or an attach, has been applied at this version. */
static void zc__bus_rebase(zc__bus *b, uint64_t version) {
    ZC__ASSERT_HELD(&b->apply);
    b->base = version - (b->cursor << 16);
    b->base_at = b->cursor;
}

/* Is nothing of the logs in `which` heard up to `position`, which is remembered, that `mark` is
 * without? */
static bool zc__bus_within(const zc__bus *b, uint64_t position, const uint64_t *mark,
                           uint32_t which) {
    const uint64_t *heard = &b->history[position % ZC__HISTORY * b->logs];
    for (unsigned i = 0; i < b->logs; i++)
        if (which >> i & 1 && heard[i] > mark[i]) return false;
    return true;
}

/* The last position here for which that is so; false: not known. */
static bool zc__bus_locate(const zc__bus *b, const uint64_t *mark, uint32_t which,
                          uint64_t *position) {
    ZC__ASSERT_HELD(&b->apply);
    uint64_t low = b->base_at, high = b->cursor;
    if (b->logs == 1) {
        *position = *mark < high ? *mark : high;
        return *mark >= low;
    }
    if (high - low >= ZC__HISTORY) low = high - ZC__HISTORY + 1;
    if (!zc__bus_within(b, low, mark, which)) return false;
    while (low < high) {
        uint64_t middle = low + (high - low + 1) / 2;
        if (zc__bus_within(b, middle, mark, which)) low = middle;
        else high = middle - 1;
    }
    *position = low;
    return true;
}

/* ---- the outbox ---- */

static void zc__outbox_forget(zc_cache *c) {
    zc__bus *b = &c->bus;
    zc__free(&c->mem, b->index, b->index_size * sizeof *b->index);
    b->index = NULL;
    b->outbox.size = b->outbox_tags = b->index_size = 0;
}

static void zc__outbox_everything(zc_cache *c) {
    zc__outbox_forget(c);
    c->bus.everything = true;
}

/* The place of a tag in the index, which is there, or the empty one for it. */
static uint16_t *zc__outbox_slot(zc_cache *c, zc_bytes tag) {
    zc__bus *b = &c->bus;
    ZC__ASSERT_HELD(&b->out);
    for (size_t i = (size_t)zc__hash(tag, c->seed);; i++) {
        uint16_t *place = &b->index[i & (b->index_size - 1)];
        if (!*place) return place;
        const unsigned char *at = b->outbox.ptr + (*place - 1);
        if (zc__get16(at) == tag.len && memcmp(at + 2, tag.ptr, tag.len) == 0) return place;
    }
}

/* Sees to it that the index has room for one more. False: no memory. */
static bool zc__outbox_grow(zc_cache *c) {
    zc__bus *b = &c->bus;
    size_t n = b->index_size ? b->index_size * 2 : 16, was = b->index_size * sizeof *b->index;
    ZC__ASSERT_HELD(&b->out);
    if (2 * (b->outbox_tags + 1) <= b->index_size) return true;
    uint16_t *to = (uint16_t *)zc__alloc_zero(&c->mem, n * sizeof *to);
    if (!to) return false;
    zc__free(&c->mem, b->index, was);
    b->index = to;
    b->index_size = n;
    for (size_t at = 0, len; at < b->outbox.size; at += 2 + len) {
        len = zc__get16(b->outbox.ptr + at);
        *zc__outbox_slot(c, zc_slice(b->outbox.ptr + at + 2, len)) = (uint16_t)(at + 1);
    }
    return true;
}

/* Puts a tag into the outbox, if it is not there; false: no room. */
static bool zc__outbox_put(zc_cache *c, zc_bytes tag) {
    zc__bus *b = &c->bus;
    size_t at = b->outbox.size;
    if (!zc__outbox_grow(c)) return false;
    uint16_t *place = zc__outbox_slot(c, tag);
    if (*place) return true;
    if (at + 2 + tag.len > ZC__OUTBOX_BYTES) return false;
    if (!zc__buf_reserve(&c->mem, &b->outbox, 2 + tag.len)) return false;
    zc__list_write(b->outbox.ptr + at, &tag, 1);
    b->outbox.size = at + 2 + tag.len;
    b->outbox_tags++;
    *place = (uint16_t)(at + 1);
    return true;
}

/* Puts first segments in the place of tags. */
static void zc__outbox_collapse(zc_cache *c) {
    zc__bus *b = &c->bus;
    ZC__ASSERT_HELD(&b->out);
    size_t end = b->outbox.size, len;
    b->outbox.size = b->outbox_tags = 0;
    if (b->index) memset(b->index, 0, b->index_size * sizeof *b->index);
    /* In place: what is written never gets ahead of what is read. */
    for (size_t at = 0; at < end; at += 2 + len) {
        unsigned char segment[ZC_TAG_MAX];
        len = zc__get16(b->outbox.ptr + at);
        const void *colon = memchr(b->outbox.ptr + at + 2, ':', len);
        size_t n = colon ? (size_t)((const unsigned char *)colon - (b->outbox.ptr + at + 2)) : len;
        memcpy(segment, b->outbox.ptr + at + 2, n);
        (void)zc__outbox_put(c, zc_slice(segment, n));
    }
    if (b->outbox.size > ZC__OUTBOX_BYTES / 2) zc__outbox_everything(c);
}

static void zc__outbox_add(zc_cache *c, const zc_bytes *tags, size_t n) {
    zc__bus *b = &c->bus;
    zc__monitor_lock(&b->out);
    if (!b->unacknowledged) zc__atomic_store_rel(&b->unacknowledged, zc__published(&c->trie));
    if (n == 0) zc__outbox_everything(c);
    for (size_t i = 0; i < n && !b->everything; i++) {
        if (zc__outbox_put(c, tags[i])) continue;
        zc__outbox_collapse(c);
        if (!b->everything && !zc__outbox_put(c, tags[i])) zc__outbox_everything(c);
    }
    zc__monitor_unlock(&b->out);
}

static bool zc__outbox_empty(zc__bus *b) {
    zc__monitor_lock(&b->out);
    bool empty = !b->everything && b->outbox.size == 0;
    zc__monitor_unlock(&b->out);
    return empty;
}

static size_t zc__outbox_count(const zc__bus *b) { return b->everything ? 1 : b->outbox_tags; }

/* The outbox as an array of tags, to be freed with zc__batch_free(). */
typedef struct zc__batch {
    zc__buf text;
    zc_bytes *tags; /* NULL, n == 0: everything */
    size_t n, size, counted;
} zc__batch;

static void zc__batch_free(zc_cache *c, zc__batch *batch) {
    zc__monitor_lock(&c->bus.out);
    c->bus.in_flight -= batch->counted;
    zc__monitor_unlock(&c->bus.out);
    zc__free(&c->mem, batch->tags, batch->size);
    zc__buf_free(&c->mem, &batch->text);
}

/* Takes everything out of the outbox; false: it was empty. */
static bool zc__outbox_take(zc_cache *c, zc__batch *batch) {
    zc__bus *b = &c->bus;
    memset(batch, 0, sizeof *batch);
    zc__monitor_lock(&b->out);
    bool any = b->everything || b->outbox.size, everything = b->everything;
    batch->text = b->outbox;
    batch->n = b->outbox_tags;
    b->in_flight += batch->counted = zc__outbox_count(b);
    memset(&b->outbox, 0, sizeof b->outbox);
    zc__outbox_forget(c);
    b->everything = false;
    zc__monitor_unlock(&b->out);
    if (everything) batch->n = 0;
    batch->size = batch->n * sizeof *batch->tags;
    if (batch->n && !(batch->tags = (zc_bytes *)zc__alloc(&c->mem, batch->size)))
        batch->n = batch->size = 0;
    (void)zc__list_read(batch->text.ptr, batch->text.size, batch->tags, batch->n);
    return any;
}

/* After an attach: what is in the outbox is dead here, whatever the new base. */
static void zc__outbox_stamp(zc_cache *c) {
    zc__batch batch;
    zc__monitor_lock(&c->bus.out);
    if (c->bus.unacknowledged)
        zc__atomic_store_rel(&c->bus.unacknowledged, 1); /* no record, until the log has all */
    zc__monitor_unlock(&c->bus.out);
    if (!zc__outbox_take(c, &batch)) return;
    zc__outbox_add(c, batch.tags, batch.n);
    (void)zc__invalidate_text(c, batch.tags, batch.n, true);
    zc__batch_free(c, &batch);
}

/* The log has been read to its end after the outbox was sent: what was sent came back. */
static void zc__outbox_acknowledged(zc__bus *b) {
    zc__monitor_lock(&b->out);
    if (!b->everything && b->outbox.size == 0) zc__atomic_store_rel(&b->unacknowledged, 0);
    zc__monitor_unlock(&b->out);
}

/* ---- reading ---- */

static int zc__bus_fault(zc_cache *c, int rc) {
    zc__count(&c->bus.errors, 1);
    if (rc == ZC_E_BUSY) return rc; /* no fault of the bus */
    if (!zc__atomic_load_rlx(&c->bus.down)) zc__atomic_store_rlx(&c->bus.fault, (int32_t)rc);
    zc__atomic_store_rlx(&c->bus.down, 1);
    return rc;
}

/* Notes an invalidation that was heard, at the end of *b, for which there is room. */
static void zc__deferred_put(zc__buf *b, zc_bytes tag, uint64_t version) {
    unsigned char *to = b->ptr + b->size;
    zc__put_le(to, version, 8);
    zc__put_le(to + 8, tag.len, 2);
    if (tag.len) memcpy(to + 10, tag.ptr, tag.len);
    b->size += 10 + tag.len;
}

/* Room for what an entry of the log will have to tell. */
static bool zc__deferred_reserve(zc_cache *c, zc__deferred *deferred, const zc_bytes *tags,
                                 size_t n) {
    size_t size = n ? 0 : 10, has = deferred->tags.size;
    if (!zc__wants(c, ZC_EVENT_INVALIDATED)) return true;
    for (size_t i = 0; i < n; i++) size += 10 + tags[i].len;
    return (!has || has + size <= ZC__DEFERRED_BYTES) &&
           zc__buf_reserve(&c->mem, &deferred->tags, size);
}

static void zc__deferred_add(zc_cache *c, zc__deferred *deferred, const zc_bytes *tags,
                             size_t n, uint64_t v, bool room) {
    if (!zc__wants(c, ZC_EVENT_INVALIDATED)) return;
    for (size_t i = 0; i < n && room; i++) zc__deferred_put(&deferred->tags, tags[i], v);
    if (n == 0 && room) zc__deferred_put(&deferred->tags, zc_slice("", 0), v);
    if (!room) deferred->others = v;
}

static void zc__deferred_report(zc_cache *c, zc__deferred *deferred) {
    (void)zc__garbage_free(c, deferred->garbage);
    for (size_t at = 0, len; at < deferred->tags.size; at += 10 + len) {
        const unsigned char *p = deferred->tags.ptr + at;
        len = zc__get16(p + 8);
        zc__report_invalidated(c, zc_slice(p + 10, len), zc__get64(p));
    }
    if (deferred->others) zc__report_invalidated(c, zc_slice("", 0), deferred->others);
    zc__buf_free(&c->mem, &deferred->tags);
}

static void zc__bus_log_fault(zc_cache *c) {
    zc__log_fault(c, &c->bus.fault, "the bus has failed");
    if (c->desc.bus.report) c->desc.bus.report(c->desc.bus.user);
}

/* Who reads, and since when: what belongs to an epoch that is over is not applied any more. */
typedef struct zc__reader {
    zc_cache *cache;
    zc__deferred *deferred;
    uint64_t epoch;
    unsigned log;
    unsigned entries;  /* that it was given */
    bool full; /* what came last is to be heard again, after telling what came before */
    zc_bus_sink sink;
} zc__reader;

#define ZC__ENTRIES_LEAST 32u /* entries in a round, however small its budget */

/* Some entries are enough when the caller's time is over. */
static bool zc__reader_is_late(const zc__reader *reader) {
    return zc__until != ZC_NEVER && reader->entries >= ZC__ENTRIES_LEAST &&
           zc__mono(&reader->cache->clock) >= zc__until;
}

/* The next entry of the log. */
static uint64_t zc__bus_apply(zc_cache *c, unsigned log, zc__nodes *nodes) {
    zc__bus *b = &c->bus;
    ZC__ASSERT_HELD(&b->apply);
    uint64_t local = zc__bus_local(b, b->cursor + 1);
    uint64_t v = zc__trie_stamp(&c->trie, nodes->list, nodes->n, local);
    zc__atomic_store_rel(&b->cursors[log], b->cursors[log] + 1);
    zc__atomic_store_rel(&b->cursor, b->cursor + 1);
    if (v != local) zc__bus_rebase(b, v);
    zc__bus_moved(b);
    zc__count(&b->entries, 1);
    return v;
}

/* Locks are held, those of the bus's own, too: what is to be told is noted. Where there is no room
 * for that, or for a tag's node, but will be after telling, the entry is not heard yet: reading
 * ends, and is begun again. Else too much is invalidated, and what finds no room is told as
 * everything. */
static int zc__bus_hear(void *user, uint64_t position, const zc_bytes *tags, size_t n) {
    zc__reader *reader = (zc__reader *)user;
    zc_cache *c = reader->cache;
    zc__bus *b = &c->bus;
    zc__deferred *deferred = reader->deferred;
    zc__nodes nodes;
    zc__hold *hold = NULL, *ended = NULL;
    uint64_t id = 0, lease = 0;
    int rc = ZC_OK;
    if (zc__tags_check(tags, n) != ZC_OK) n = 0; /* no tag of ours: too much rather than nothing */
    if (zc__hold_read(tags, n, &id, &lease)) {
        tags++;
        n--;
        hold = lease ? zc__hold_new(c, id, lease, tags, n, true) : NULL;
        if (lease && !hold) return ZC_E_NOMEM;
    }
    bool made = zc__nodes_acquire(c, tags, n, true, &nodes);
    bool room = zc__deferred_reserve(c, deferred, tags, n), any = deferred->tags.size != 0;
    bool gives = (!made || !room) && c->mem.arena && zc__evict_any(c, &deferred->garbage);
    reader->full = gives || (!room && any);
    zc__monitor_lock(&b->apply);
    if (reader->epoch != b->epoch || position > b->cursors[reader->log] + 1) rc = ZC_RETRY;
    else if (position <= b->cursors[reader->log]) reader->full = false;
    else if (reader->full) rc = ZC_E_NOMEM;
    else {
        if (hold && zc__hold_add(c, hold)) hold = NULL; /* N5 */
        zc__deferred_add(c, deferred, tags, n, zc__bus_apply(c, reader->log, &nodes), room);
        if (id && !lease) ended = zc__holds_take(c, id, false, 0);
    }
    zc__monitor_unlock(&b->apply);
    zc__holds_end(c, ended);
    zc__holds_free(c, hold);
    zc__nodes_release(c, &nodes);
    reader->entries++;
    return rc == ZC_OK && zc__reader_is_late(reader) ? ZC_MORE : rc;
}

/* The same of an entry as it is in the log. One that is not sealed, or not for us, is everything:
 * who has no key can make us forget, and nothing else. Without a key, a sealed one is for others:
 * to attach again tells. */
static int zc__bus_read_entry(void *user, uint64_t position, const zc_bytes *tags, size_t n) {
    zc_cache *c = ((zc__reader *)user)->cache;
    zc__names names;
    if (!zc__seals(c))
        return zc__is_name(tags, n) ? ZC_RETRY : zc__bus_hear(user, position, tags, n);
    int rc = zc__is_marked(tags, n) ? ZC_MISS : zc__names_open(c, tags, n, &names);
    if (rc == ZC_E_NOMEM) return rc;
    if (rc != ZC_OK) return zc__bus_hear(user, position, NULL, 0);
    rc = zc__bus_hear(user, position, names.list, names.n);
    zc__names_free(c, &names);
    return rc;
}

static uint64_t zc__bus_epoch(zc__bus *b) {
    zc__monitor_lock(&b->apply);
    uint64_t epoch = b->epoch;
    zc__monitor_unlock(&b->apply);
    return epoch;
}

/* Forgets the log that it was attached to in `epoch`: nothing is served from now on. */
static void zc__bus_detach(zc_cache *c, uint64_t epoch) {
    zc__bus *b = &c->bus;
    zc__monitor_lock(&b->apply);
    if (b->attached && b->epoch == epoch) { /* or another has done it, and attached anew */
        zc__count(&b->breaks, 1);
        zc__atomic_store_rel(&b->attached, 0u);
        zc__atomic_store_rel(&b->lease, 0);
        b->epoch++;
    }
    zc__monitor_unlock(&b->apply);
}

/* Where the logs are, and what is held. */
static int zc__bus_look(zc_cache *c, uint64_t *ids, uint64_t *at) {
    zc_bus_sink sink = {zc__hold_learn, c};
    for (unsigned i = 0; i < c->bus.logs; i++) {
        ids[i] = at[i] = 0;
        int rc = c->desc.bus.attach(zc__bus_user(c, i), &ids[i], &at[i]);
        if (rc == ZC_OK && at[i] > ZC__POSITION_MAX) rc = ZC_E_CORRUPT;
        if (rc != ZC_OK) return rc;
    }
    c->bus.marked = false;
    if (!c->desc.bus.holds) return ZC_OK;
    return c->desc.bus.holds(zc__bus_user(c, 0), &sink); /* what is not there yet will be heard */
}

static int zc__bus_unheard(void *user, uint64_t position, const zc_bytes *tags, size_t n) {
    (void)user; (void)position; (void)tags; (void)n;
    return ZC_OK;
}

/* Marks the log as sealed, and tells those who are attached to it. Who has no key would neither
 * hear of what is invalidated nor be heard: he finds the mark, if not by the entry, then when he
 * attaches. What is stored here is stored after that. */
static int zc__bus_mark(zc_cache *c, uint64_t position) {
    zc_bytes sealing = zc_str(ZC__SEALING), sealed = zc_str(ZC__SEALED);
    zc_bus_sink sink = {zc__bus_unheard, NULL};
    void *log = zc__bus_user(c, 0);
    int rc = c->desc.bus.hold(log, ZC__SEAL_MARK, &sealing, 1);
    if (rc == ZC_OK) rc = c->desc.bus.append(log, &sealed, 1, false, position, &sink);
    if (rc == ZC_MORE) rc = ZC_OK;
    return rc == ZC_OK ? c->desc.bus.hold(log, ZC__SEAL_MARK, &sealed, 1) : rc;
}

/* Attaches: what was missed is taken for everything. */
static int zc__bus_attach(zc_cache *c) {
    zc__bus *b = &c->bus;
    ZC__ASSERT_HELD(&b->reading);
    zc_tag *root = &c->trie.root;
    uint64_t ids[ZC_LOGS_MAX], at[ZC_LOGS_MAX], position = 0, before = zc__mono(&c->clock);
    int rc = zc__bus_look(c, ids, at);
    if (rc == ZC_OK && zc__seals(c) && c->desc.bus.holds && !b->marked) {
        rc = zc__bus_mark(c, at[0]);
        if (rc == ZC_OK) rc = zc__bus_look(c, ids, at);
    }
    if (rc != ZC_OK) return zc__bus_fault(c, rc < 0 ? rc : ZC_E_BUS);
    for (unsigned i = 0; i < b->logs; i++) position += at[i];
    zc__monitor_lock(&b->apply);
    uint64_t identity = b->logs == 1 ? ids[0] : XXH3_64bits(ids, b->logs * sizeof *ids) | 1;
    if (identity != b->identity) b->trusted = 0; /* a position of the log that was */
    b->epoch++;
    b->identity = identity;
    for (unsigned i = 0; i < b->logs; i++) b->cursors[i] = at[i];
    b->cursor = position;
    zc__bus_moved(b);
    zc__bus_rebase(b, zc__trie_stamp(&c->trie, &root, 1, 0));
    zc__atomic_store_rel(&b->attached, 1u);
    zc__atomic_store_rel(&b->lease, before ? before : 1);
    zc__atomic_store_rlx(&b->down, 0);
    zc__monitor_unlock(&b->apply);
    zc__outbox_stamp(c);
    return ZC_OK;
}

static void zc__reader_open(zc__reader *reader, zc_cache *c, zc__deferred *deferred) {
    const zc__reader r = {c, deferred, zc__bus_epoch(&c->bus), 0, 0, false,
                          {zc__bus_read_entry, reader}};
    *reader = r;
}

/* Reads one log to its end, or to the end of `wait`. ZC_OK: everything up to *since has been heard;
 * ZC_MORE: it was woken, or its time is up. */
static int zc__bus_read_log(zc_cache *c, zc__reader *reader, uint64_t wait, uint64_t *since) {
    const zc_shared64 *at = &c->bus.cursors[reader->log];
    for (;; wait = 0) {
        uint64_t cursor = zc__atomic_load_acq(at);
        *since = zc__mono(&c->clock);
        int rc = c->desc.bus.read(zc__bus_user(c, reader->log), cursor, wait, &reader->sink);
        if (reader->full || rc != ZC_MORE || zc__atomic_load_acq(at) == cursor) return rc;
        if (zc__reader_is_late(reader)) return rc;
    }
}

/* Waits until one of several logs may have grown. */
static void zc__bus_wait(zc_cache *c, uint64_t wait) {
    uint64_t at[ZC_LOGS_MAX];
    for (unsigned i = 0; i < c->bus.logs; i++) at[i] = zc__atomic_load_acq(&c->bus.cursors[i]);
    c->desc.bus.wait(c->desc.bus.user, at, wait);
}

/* Reads the log to its end, or to the end of `wait`. ZC_OK: the lease is renewed; ZC_PENDING: there
 * is more, but what was heard is to be told first; ZC_RETRY: it was woken, or the reader's time is
 * up. Of several logs the lease is as old as the oldest proof, that of the first. */
static int zc__bus_read(zc_cache *c, uint64_t wait) {
    zc__bus *b = &c->bus;
    uint64_t since = 0, proof;
    int rc = ZC_OK;
    ZC__ASSERT_HELD(&b->reading);
    if (!zc__atomic_load_acq(&b->attached)) return zc__bus_attach(c);
    zc__reader reader;
    zc__reader_open(&reader, c, &b->deferred);
    if (b->logs > 1 && wait) zc__bus_wait(c, wait);
    for (; reader.log < b->logs && rc == ZC_OK; reader.log++) {
        rc = zc__bus_read_log(c, &reader, b->logs == 1 ? wait : 0, &proof);
        if (reader.log == 0) since = proof;
    }
    if (reader.full) return ZC_PENDING;
    if (rc == ZC_MORE) return ZC_RETRY;
    if (rc < 0) return zc__bus_fault(c, rc);
    if (rc == ZC_OK) {
        zc__monitor_lock(&b->apply);
        if (reader.epoch == b->epoch) zc__atomic_store_rel(&b->lease, since ? since : 1);
        zc__atomic_store_rlx(&b->down, 0);
        zc__monitor_unlock(&b->apply);
        return ZC_OK;
    }
    zc__bus_detach(c, reader.epoch);
    return zc__bus_attach(c);
}

/* Ends reading, and tells what was heard. */
static void zc__bus_unlock(zc_cache *c) {
    zc__deferred deferred = c->bus.deferred;
    memset(&c->bus.deferred, 0, sizeof deferred);
    zc__timed_unlock(&c->bus.reading);
    zc__deferred_report(c, &deferred);
    zc__bus_log_fault(c);
}

/* Reads the log to its end, as zc__bus_read(), and tells. ZC_E_BUS: others read until `end`. */
static int zc__bus_catch_up(zc_cache *c, uint64_t wait, uint64_t end) {
    int rc = ZC_PENDING;
    for (; rc == ZC_PENDING; wait = 0) {
        if (!zc__timed_lock(&c->bus.reading, &c->clock, end)) return ZC_E_BUS;
        uint64_t was = zc__hurry(end);
        rc = zc__bus_read(c, wait);
        (void)zc__hurry(was);
        zc__bus_unlock(c);
    }
    return rc;
}

/* ---- serving ---- */

/* Is this lease young enough? To be asked once more when the value is in hand, for the process may
 * have slept in between; and of the lease as it was before: the one of now may have been renewed by
 * the very read that killed the value. */
static inline bool zc__bus_holds(zc_cache *c, uint64_t lease) {
    if (c->bus.peeks) return true;
    uint64_t now = zc__coarse(&c->clock);
    return lease && (now <= lease || now - lease <= c->bus.serve_for);
}

/* Is anything held, so that what others have committed since `started` may have been T ago? */
static inline bool zc__bus_hides(zc_cache *c, uint64_t started) {
    if (!c->bus.on || !zc__atomic_load_acq(&c->bus.nholds)) return false;
    uint64_t now = zc__coarse(&c->clock);
    return now > started && now - started > c->bus.serve_for;
}

static inline uint64_t zc__bus_lease(const zc_cache *c) {
    return zc__atomic_load_acq(&c->bus.lease);
}

static bool zc__bus_is_current(zc_cache *c, uint64_t *lease) {
    zc__bus *b = &c->bus;
    uint64_t tail;
    *lease = zc__atomic_load_acq(&b->lease);
    if (!b->peeks) return zc__bus_holds(c, *lease);
    return zc__atomic_load_acq(&b->attached) &&
           c->desc.bus.peek(c->desc.bus.user, &tail) == ZC_OK &&
           tail == zc__atomic_load_acq(&b->cursor);
}

/* May the table be served? ZC_OK, as long as *lease holds; ZC_STALE: as stale; ZC_MISS: no;
 * ZC_E_BUS. */
static int zc__bus_gate(zc_cache *c, zc_silence silence, uint64_t *lease) {
    zc__bus *b = &c->bus;
    *lease = 0;
    if (!b->on || ZC__LIKELY(zc__bus_is_current(c, lease))) return ZC_OK;
    uint64_t until = b->peeks ? zc__add_sat(zc__mono(&c->clock), c->desc.max_staleness) : 0;
    while (b->peeks && zc__timed_lock(&b->reading, &c->clock, until)) {
        int rc = zc__bus_is_current(c, lease) ? ZC_OK : zc__bus_read(c, 0);
        zc__bus_unlock(c);
        if (rc != ZC_OK && rc != ZC_PENDING) break;
        if (rc == ZC_OK) return ZC_OK;
    }
    zc__count(&b->silent, 1);
    if (silence == ZC_SILENCE_DEFAULT) silence = c->desc.silence;
    if (silence == ZC_SILENCE_ERROR) return ZC_E_BUS;
    uint64_t end = zc__add_sat(*lease, zc__add_sat(b->serve_for, c->desc.max_stale));
    bool soon = *lease && zc__coarse(&c->clock) <= end;
    return silence == ZC_SILENCE_SERVE && soon ? ZC_STALE : ZC_MISS;
}

/* ---- publishing ---- */

/* Is it up to this thread to read? Else the bus's own does. */
static bool zc__bus_is_mine(zc__bus *b) {
    return b->peeks || !b->runs || zc__atomic_load_rlx(&b->self) == zc__self();
}

/* Waits until the log has been read to its end after `since`, or attached; `end` at the latest. */
static int zc__bus_await(zc_cache *c, uint64_t since, uint64_t end) {
    zc__bus *b = &c->bus;
    if (zc__bus_is_mine(b)) return zc__bus_catch_up(c, 0, end);
    for (;;) {
        if (zc__atomic_load_acq(&b->lease) >= since) return ZC_OK;
        if (zc__mono(&c->clock) >= end) return ZC_E_BUS;
        if (c->desc.bus.wake) c->desc.bus.wake(c->desc.bus.user);
        zc__monitor_lock(&b->monitor);
        if (!b->woken) zc__monitor_wake(&b->monitor); /* else two who wait here wake each other */
        b->woken = true;
        zc__monitor_sleep(&b->monitor, ZC_MILLISECOND);
        zc__monitor_unlock(&b->monitor);
    }
}

static int zc__bus_append_to(zc__reader *reader, unsigned log, const zc_bytes *tags, size_t n,
                             bool durable) {
    zc_cache *c = reader->cache;
    uint64_t cursor = zc__atomic_load_acq(&c->bus.cursors[log]);
    zc__names names;
    reader->log = log;
    int rc = zc__names_seal(c, tags, n, &names);
    if (rc != ZC_OK) return rc;
    rc = c->desc.bus.append(zc__bus_user(c, log), names.list, names.n, durable, cursor,
                            &reader->sink);
    zc__names_free(c, &names);
    return rc;
}

/* Appends to each log what belongs there. ZC_OK, ZC_MORE: all have it. */
static int zc__bus_append(zc__reader *reader, const zc_bytes *tags, size_t n, bool durable) {
    zc_cache *c = reader->cache;
    zc__bus *b = &c->bus;
    int rc = ZC_OK, got;
    if (b->logs == 1 || n == 1)
        return zc__bus_append_to(reader, n ? zc__bus_log_of_text(b, tags[0]) : 0, tags, n, durable);
    zc_bytes *some = n ? (zc_bytes *)zc__alloc(&c->mem, n * sizeof *some) : NULL;
    size_t all = some ? n : 0, size = all * sizeof *some; /* short of memory: everything */
    bool marked = zc__hold_marks(tags, n); /* then each log concerned gets the mark */
    if (marked && !some) return ZC_E_NOMEM;
    for (unsigned log = 0; log < b->logs && (rc == ZC_OK || rc == ZC_MORE); log++) {
        size_t count = 0;
        for (size_t i = 0; i < all; i++)
            if ((marked && !i) || zc__bus_log_of_text(b, tags[i]) == log) some[count++] = tags[i];
        if (all && count == marked) continue;
        got = zc__bus_append_to(reader, log, some, count, durable);
        if (got != ZC_OK) rc = got;
    }
    zc__free(&c->mem, some, size);
    return rc;
}

/* Appends to the log, and reads what came before, within T but for the append itself. What is to
 * be told comes to `deferred`; NULL: the caller is the reader. */
static int zc__bus_send(zc_cache *c, const zc_bytes *tags, size_t n, bool durable,
                        zc__deferred *deferred) {
    zc__bus *b = &c->bus;
    bool reading = !deferred;
    uint64_t end = zc__add_sat(zc__mono(&c->clock), c->desc.max_staleness);
    zc__reader reader;
    int rc = ZC_RETRY;
    for (unsigned tries = 0; tries < 3 && rc == ZC_RETRY; tries++) {
        uint64_t since = zc__mono(&c->clock);
        if (zc__atomic_load_rlx(&b->down) && !b->peeks && !reading)
            return ZC_E_BUS; /* others try */
        if (!zc__atomic_load_acq(&b->attached)) {
            rc = reading ? zc__bus_attach(c) : zc__bus_await(c, since, end);
            if (rc != ZC_OK) return rc;
        }
        zc__reader_open(&reader, c, reading ? &b->deferred : deferred);
        rc = zc__bus_append(&reader, tags, n, durable);
        if (reader.full) rc = ZC_MORE; /* it was appended: entries are given after that */
        if (rc == ZC_MORE) return reading ? ZC_OK : zc__bus_await(c, zc__mono(&c->clock), end);
        if (rc == ZC_RETRY) zc__bus_detach(c, reader.epoch);
    }
    if (rc == ZC_OK) return ZC_OK;
    return zc__bus_fault(c, rc < 0 ? rc : ZC_E_BUS);
}

/* Sends what waits. */
static int zc__bus_flush(zc_cache *c) {
    zc__batch batch;
    ZC__ASSERT_HELD(&c->bus.reading);
    if (!zc__outbox_take(c, &batch)) return ZC_OK;
    int rc = zc__bus_send(c, batch.tags, batch.n, false, NULL);
    if (rc != ZC_OK) {
        zc__outbox_add(c, batch.tags, batch.n);
        (void)zc__invalidate_text(c, batch.tags, batch.n, true);
    }
    zc__batch_free(c, &batch);
    return rc;
}

/* Announces a hold, so that the lists and the log of one attach have it. ZC_OK, or ZC_E_BUS. */
static int zc__bus_announce(zc_cache *c, const zc__hold *h) {
    zc__deferred deferred;
    memset(&deferred, 0, sizeof deferred);
    uint64_t end = zc__add_sat(zc__mono(&c->clock), c->desc.max_staleness);
    int rc = ZC_RETRY;
    for (unsigned tries = 0; tries < 3 && rc == ZC_RETRY; tries++) {
        uint64_t epoch = zc__bus_epoch(&c->bus);
        zc__names names;
        if ((rc = zc__names_seal(c, h->list, h->n, &names)) != ZC_OK) break;
        rc = c->desc.bus.hold(zc__bus_user(c, 0), h->id, names.list, names.n);
        zc__names_free(c, &names);
        if (rc == ZC_OK)
            rc = zc__bus_send(c, h->list, h->n, c->desc.ack == ZC_DURABLE, &deferred);
        else if (rc == ZC_RETRY && zc__bus_await(c, zc__mono(&c->clock), end) != ZC_OK)
            rc = ZC_E_BUS;
        if (rc == ZC_OK && zc__bus_epoch(&c->bus) != epoch) rc = ZC_RETRY;
    }
    zc__deferred_report(c, &deferred);
    zc__bus_log_fault(c);
    return rc == ZC_OK ? ZC_OK : ZC_E_BUS;
}

#ifndef ZOOCACHE_NO_THREADS
/* Sleeps, or is woken by zc__bus_end(). */
static void zc__bus_sleep(zc__bus *b, uint64_t ns) {
    zc__monitor_lock(&b->monitor);
    if (!b->stop && !b->woken) zc__monitor_sleep(&b->monitor, ns);
    b->woken = false;
    zc__monitor_unlock(&b->monitor);
}
#endif

/* Tells the other nodes of an invalidation that has been done here; n == 0: everything. ZC_OK, or
 * ZC_E_BUS: it is kept. */
static int zc__bus_publish(zc_cache *c, const zc_bytes *tags, size_t n) {
    zc__bus *b = &c->bus;
    zc_ack ack = c->desc.ack;
    zc__deferred deferred;
    memset(&deferred, 0, sizeof deferred);
    int rc = ack == ZC_ASYNC ? ZC_PENDING
                             : zc__bus_send(c, tags, n, ack == ZC_DURABLE, &deferred);
    if (rc != ZC_OK) {
        bool first = zc__outbox_empty(b);
        if (zc__hold_marks(tags, n)) { /* the end of a hold: others wait for its lease */
            tags++;
            n--;
        }
        zc__outbox_add(c, tags, n);
        (void)zc__invalidate_text(c, tags, n, false);
        if (first && b->runs && c->desc.bus.wake) c->desc.bus.wake(c->desc.bus.user);
    }
    zc__deferred_report(c, &deferred);
    zc__bus_log_fault(c);
    if (rc != ZC_OK) return ack == ZC_ASYNC ? ZC_OK : ZC_E_BUS;
    if (ack != ZC_STRICT || b->peeks) return ZC_OK;
    uint64_t end = zc__add_sat(zc__mono(&c->clock), c->desc.max_staleness);
    for (uint64_t now = 0; (now = zc__mono(&c->clock)) < end;) {
        uint64_t left = end - now, pause = c->clock.version ? ZC_MILLISECOND : left;
        if (zc__bus_is_mine(b)) { /* nobody else renews the lease meanwhile */
            if (pause > c->desc.max_staleness / 3) pause = c->desc.max_staleness / 3;
            if (zc__bus_catch_up(c, pause, end) == ZC_OK) continue;
            pause = ZC_MILLISECOND;
        }
        zc__monitor_lock(&b->monitor);
        zc__monitor_sleep(&b->monitor, pause);
        zc__monitor_unlock(&b->monitor);
    }
    return ZC_OK;
}

/* ---- the thread ---- */

/* Tells what a monitor may want to know. */
static void zc__bus_beat(zc_cache *c) {
    zc_stats stats;
    zc_stats_read(c, &stats);
    size_t size = zc_stats_prometheus(&stats, "", NULL, 0) + 1;
    char *text = (char *)zc__alloc(&c->mem, size);
    if (!text) return;
    size_t len = zc_stats_prometheus(&stats, "", text, size);
    if (len < size && c->desc.bus.beat(c->desc.bus.user, zc_slice(text, len)) < 0)
        zc__count(&c->bus.errors, 1);
    zc__free(&c->mem, text, size);
}

/* Sends what waits, for no longer than a read would have waited: writers may have all connections
 * until replicas have followed, and meanwhile the log is to be read. */
static int zc__bus_flush_within(zc_cache *c, uint64_t wait) {
    uint64_t was = zc__hurry(ZC_NEVER), end = zc__add_sat(zc__mono(&c->clock), wait);
    (void)zc__hurry(wait && end < was ? end : was);
    int rc = zc__bus_flush(c);
    (void)zc__hurry(was);
    return rc;
}

/* One round: sends, reads, tells about itself. ZC_MORE: entries were read; ZC_RETRY: not all of
 * them, in the caller's time; ZC_E_BUSY: they were, but what waits was not sent. Without a `wait`
 * it does not wait for another reader either. */
static int zc__bus_round(zc_cache *c, uint64_t wait) {
    zc__bus *b = &c->bus;
    uint64_t heard = zc__atomic_load_rlx(&b->entries);
    int rc = ZC_OK;
    if (!zc__timed_lock(&b->reading, &c->clock, wait ? ZC_NEVER : 0)) return ZC_OK;
    if (!zc__atomic_load_acq(&b->attached)) rc = zc__bus_attach(c);
    if (rc == ZC_OK) rc = zc__bus_flush_within(c, wait);
    bool sent = rc == ZC_OK && zc__outbox_empty(b), busy = wait && rc == ZC_E_BUSY;
    if (rc == ZC_OK || busy) rc = zc__bus_read(c, sent ? wait : 0);
    if (rc == ZC_OK && sent) zc__outbox_acknowledged(b);
    uint64_t now = zc__mono(&c->clock);
    bool beats = rc == ZC_OK && c->desc.bus.beat && now - b->last_beat >= ZC_SECOND;
    if (beats) b->last_beat = now;
    zc__bus_unlock(c);
    if (beats) zc__bus_beat(c);
    if (rc == ZC_PENDING) rc = zc__bus_catch_up(c, 0, wait ? ZC_NEVER : 0);
    if (rc != ZC_OK || busy) return rc != ZC_OK ? rc : ZC_E_BUSY;
    return zc__atomic_load_rlx(&b->entries) != heard ? ZC_MORE : ZC_OK;
}

#ifndef ZOOCACHE_NO_THREADS
ZC__THREAD_FN(zc__bus_main, arg) {
    zc_cache *c = (zc_cache *)arg;
    zc__bus *b = &c->bus;
    /* A lease counts from before its read, and lasts until the end of the next: two waits. */
    uint64_t t = c->desc.max_staleness, wait = t / 3, backoff = 0, random = c->seed;
    zc__atomic_store_rlx(&b->self, zc__self());
    while (!zc__atomic_load_acq(&b->stop)) {
        int rc = zc__bus_round(c, wait);
        if (rc < 0) { /* again soon, but not all nodes at once */
            backoff = backoff ? backoff * 2 : 2 * ZC_MILLISECOND;
            if (backoff > t / 4) backoff = t / 4;
            zc__bus_sleep(b, backoff / 2 + zc__random(&random) % (backoff / 2 + 1));
        } else {
            backoff = 0;
            if (rc == ZC_MORE && c->desc.bus_pause > 1) zc__bus_sleep(b, c->desc.bus_pause);
        }
    }
    return ZC__THREAD_RESULT;
}
#endif

static int zc__bus_start(zc_cache *c) {
    zc__bus *b = &c->bus;
    b->stop = 0;
#ifndef ZOOCACHE_NO_THREADS
    if (!c->desc.no_thread && !b->peeks) {
        b->runs = true;
        if (zc__thread_start(&b->thread, zc__bus_main, c)) return ZC_OK;
        b->runs = false;
        return ZC_E_THREAD;
    }
#endif
    return ZC_OK;
}

static bool zc__bus_monitors(zc__bus *b) {
    bool reading = zc__timed_init(&b->reading, ZC__RANK_READING);
    bool apply = reading && zc__monitor_init(&b->apply, ZC__RANK_APPLY);
    bool monitor = apply && zc__monitor_init(&b->monitor, ZC__RANK_SLEEP);
    if (monitor && zc__monitor_init(&b->out, ZC__RANK_OUT)) return true;
    if (monitor) zc__monitor_destroy(&b->monitor);
    if (apply) zc__monitor_destroy(&b->apply);
    if (reading) zc__timed_destroy(&b->reading);
    return false;
}

static bool zc__bus_valid(const zc_desc *d) {
    const zc_bus *b = &d->bus;
    if (b->version && (!b->attach || !b->read || !b->append || !b->versions)) return false;
    if (!b->hold != !b->holds) return false;
    if (b->nlogs > ZC_LOGS_MAX || (b->nlogs > 1 && (!b->logs || !b->wait || b->peek))) return false;
    if (b->version > 1 || (d->max_staleness && d->max_staleness < 20 * ZC_MILLISECOND))
        return false;
    if (!ZC__CAN_SLEEP && d->ack == ZC_STRICT) return false;
    return d->ack <= ZC_STRICT && d->silence <= ZC_SILENCE_ERROR;
}

/* Attaches, if the log can be reached; else the thread goes on trying, and reads are misses. */
static int zc__bus_open(zc_cache *c) {
    zc__bus *b = &c->bus;
    uint64_t t = c->desc.max_staleness;
    b->logs = c->desc.bus.nlogs ? c->desc.bus.nlogs : 1;
    size_t history = ZC__HISTORY * b->logs * sizeof *b->history;
    if (b->logs > 1 && !(b->history = (uint64_t *)zc__alloc(&c->mem, history))) return ZC_E_NOMEM;
    if (!zc__bus_monitors(b)) {
        zc__free(&c->mem, b->history, history);
        return ZC_E_THREAD;
    }
    b->on = true;
    b->peeks = c->desc.bus.peek != NULL;
    b->serve_for = c->clock.version ? t : t - ZC__COARSE_SLACK;
    c->trie.counts = true;
    (void)zc__timed_lock(&b->reading, &c->clock, ZC_NEVER);
    (void)zc__bus_attach(c);
    zc__bus_unlock(c);
    return zc__bus_start(c);
}

/* Stops the thread, and sends what is left. */
static void zc__bus_end(zc_cache *c) {
    zc__bus *b = &c->bus;
    if (!b->on) return;
#ifndef ZOOCACHE_NO_THREADS
    if (b->runs) {
        zc__monitor_lock(&b->monitor);
        zc__atomic_store_rel(&b->stop, 1u);
        zc__monitor_wake(&b->monitor);
        zc__monitor_unlock(&b->monitor);
        if (c->desc.bus.wake) c->desc.bus.wake(c->desc.bus.user);
        zc__thread_join(b->thread);
        b->runs = false;
    }
#endif
    (void)zc__timed_lock(&b->reading, &c->clock, ZC_NEVER);
    (void)zc__bus_flush(c);
    zc__bus_unlock(c);
    zc__outbox_forget(c);
    zc__buf_free(&c->mem, &b->outbox);
    zc__free(&c->mem, b->history, ZC__HISTORY * b->logs * sizeof *b->history);
    zc__monitor_destroy(&b->out);
    zc__monitor_destroy(&b->monitor);
    zc__monitor_destroy(&b->apply);
    zc__timed_destroy(&b->reading);
    b->on = false;
}

/* Round fork() nothing is being applied; the child has no thread, and its own sockets. */
static void zc__bus_lock(zc__bus *b, bool lock) {
    if (!b->on) return;
    (lock ? zc__monitor_lock : zc__monitor_unlock)(&b->apply);
    (lock ? zc__monitor_lock : zc__monitor_unlock)(&b->out);
}
static int zc__bus_fork_child(zc_cache *c) {
    zc__bus *b = &c->bus;
    if (!b->on) return ZC_OK;
    if (!zc__bus_monitors(b)) return ZC_E_THREAD;
    if (c->desc.bus.forked) c->desc.bus.forked(c->desc.bus.user);
    return b->runs ? zc__bus_start(c) : ZC_OK;
}

static void zc__bus_stats(zc_cache *c, zc_stats *st) {
    zc__bus *b = &c->bus;
    if (!b->on) return;
    uint64_t lease = zc__atomic_load_acq(&b->lease), now = zc__mono(&c->clock);
    st->bus_entries = zc__atomic_load_rlx(&b->entries);
    st->bus_breaks = zc__atomic_load_rlx(&b->breaks);
    st->bus_errors = zc__atomic_load_rlx(&b->errors);
    st->bus_silent = zc__atomic_load_rlx(&b->silent);
    st->bus_age = !lease ? ZC_NEVER : b->peeks || now <= lease ? 0 : now - lease;
    zc__monitor_lock(&b->out);
    st->bus_pending = zc__outbox_count(b) + b->in_flight;
    zc__monitor_unlock(&b->out);
}

static inline bool zc__bus_on(const zc_cache *c) { return c->bus.on; }
static inline bool zc__bus_runs(const zc_cache *c) { return c->bus.runs; }

/* A token: where the log was when this cache had been heard, and which log. Of several, there is
 * no room to say where: who catches up reads them all. */
ZOOCACHE_API uint64_t zc_token(zc_cache *cache) {
    if (!cache || !cache->bus.on) return 0;
    zc__bus *b = &cache->bus;
    zc__monitor_lock(&b->apply);
    uint64_t token = (b->identity << 48) | (b->cursor & ((UINT64_C(1) << 48) - 1));
    zc__monitor_unlock(&b->apply);
    return token;
}

ZOOCACHE_API int zc_catch_up(zc_cache *cache, uint64_t token, uint64_t timeout) {
    if (!cache) return ZC_E_INVAL;
    zc__bus *b = &cache->bus;
    uint64_t position = token & ((UINT64_C(1) << 48) - 1);
    uint64_t start = zc__mono(&cache->clock), end = zc__add_sat(start, timeout);
    if (!b->on || !token) return ZC_OK;
    for (int rc = ZC_PENDING;;) {
        zc__monitor_lock(&b->apply);
        bool attached = b->attached;
        bool same = b->logs == 1 && (b->identity ^ token >> 48) << 48 == 0;
        bool there = attached && same && b->cursor >= position;
        zc__monitor_unlock(&b->apply);
        /* A token of another log: of an older one, once ours is proven to be the present one. */
        if (there || (attached && !same && zc__atomic_load_acq(&b->lease) >= start)) return ZC_OK;
        uint64_t now = zc__mono(&cache->clock);
        if (rc != ZC_PENDING && now >= end)
            return rc < 0 && rc != ZC_E_BUSY ? rc : ZC_E_TIMEOUT;
        rc = zc__bus_await(cache, now, end);
    }
}

#else /* a cache that is alone */
ZOOCACHE_API uint64_t zc_token(zc_cache *cache) { (void)cache; return 0; }
ZOOCACHE_API int zc_catch_up(zc_cache *cache, uint64_t token, uint64_t timeout) {
    (void)token; (void)timeout;
    return cache ? ZC_OK : ZC_E_INVAL;
}
#  define zc__held(c, deps, n) false
static inline void zc__holds_expire(zc_cache *c) { (void)c; }
static inline void zc__holds_close(zc_cache *c) { (void)c; }
static inline void zc__holds_fork(zc_cache *c) { (void)c; }
static inline bool zc__bus_on(const zc_cache *c) { (void)c; return false; }
static inline bool zc__bus_runs(const zc_cache *c) { (void)c; return false; }
static inline bool zc__bus_holds(zc_cache *c, uint64_t lease) { (void)c; (void)lease; return true; }
#  define zc__bus_hides(c, started) false
#  define zc__bus_gate(c, silence, lease) (*(lease) = 0, ZC_OK)
static inline bool zc__bus_valid(const zc_desc *d) { (void)d; return true; }
static inline int zc__bus_open(zc_cache *c) { (void)c; return ZC_E_BUILD; }
static inline void zc__bus_end(zc_cache *c) { (void)c; }
#  define zc__bus_round(c, wait) ZC_OK
#  define zc__bus_publish(c, tags, n) ZC_OK
static inline void zc__bus_lock(zc__bus *b, bool lock) { (void)b; (void)lock; }
static inline int zc__bus_fork_child(zc_cache *c) { (void)c; return ZC_OK; }
static inline void zc__bus_stats(zc_cache *c, zc_stats *st) { (void)c; (void)st; }
#endif /* ZOOCACHE_WITH_BUS */

/* ============================================================================================
 * >>flight   Singleflight: one loader a key, however many callers wait
 *   Idea        A miss starts a flight; who comes later, follows it. Each caller has his part in
 *               it, a zc_fill. A flight remembers `begin`, the `published` before its loader ran,
 *               and that number fences it: its value is stored only if no dependency was
 *               invalidated since, if no put or del of the key came in between, and if it still has
 *               its lease.
 *
 *                 begin --- LEAD ---> loader ---> commit ---> DONE     the value, or RETRY
 *                    \                   \------> abandon --> FAILED   the error, or RETRY
 *                     \-- FOLLOW --> wait         lease over: LOST     RETRY    (for followers)
 *
 *   Who may have the value   At commit the value is found to be fresh up to some `published`; or it
 *               is dead, and good up to the flight's begin alone. A follower that joined at that
 *               `published` or before gets it, if no put or del of the key came before it joined.
 *               Else it begins again: whoever joins after an invalidation never gets what was read
 *               before it.
 *   Lease       A leader has flight_timeout. Past it, whoever comes next takes the key over: the
 *               old flight leaves the table (LOST), its late commit finds that out and is not
 *               stored.
 *   Deadlock    A thread does not wait for a flight that it runs itself: its loader, or a hook
 *               meanwhile, asks for the key. Beyond that, a nested fetch knows its parent fill: a
 *               key that waits for itself is seen in the chain of parents; flights that wait for
 *               each other, by following waits_for, which a flight sets while its loader follows or
 *               leads another.
 *   Life        A fill has its owner, and those of nested fetches, which look at its flight and
 *               hand up their dependencies: with the last of them go flight, dependencies, memory.
 *               Each holds the cache. So fills may end in any order, also after zc_close().
 *   Invariants  F1 at most one flight a key is listed   F2 only a listed flight stores
 *               F3 state leaves RUNNING once; whoever changes it wakes all sleepers and watchers
 *   Locking     the shard's lock: list, refs, watchers, sleepers, listed, fenced. state: store_rel
 *               under that lock / load_acq in the sleeper, who holds the flight's monitor; the
 *               waker takes the monitor after the store, so no wake-up is missed. result, error:
 *               written before the state. A fill belongs to one thread at a time.
 *   Cost        two allocations for fill and flight, and those of the value
 * ========================================================================================== */

typedef enum zc__flight_state { ZC__RUNNING, ZC__DONE, ZC__FAILED, ZC__LOST } zc__flight_state;

struct zc__flight {
    zc__link link;    /* chain of the shard's table; refs of fills and the table */
    zc__shard *shard;
    uint64_t hash;
    uint64_t begin;
    uint64_t started;     /* monotonic */
    uint64_t lease;       /* until then the leader has it */
    uint32_t state;       /* zc__flight_state */
    bool listed;          /* in the shard's table */
    bool fenced;          /* a put or del of the key came: do not store */
    uint64_t good_up_to;  /* the result is fit for who joined at this `published` or before */
    bool stale;           /* the result stands in for an error */
    int dep_error;        /* the result lacks a dependency */
    int error;            /* FAILED: what followers get; 0: begin again */
    zc__entry *result;    /* DONE: pinned */
    zc__entry *fallback;  /* pinned: stands in for an error */
    zc_fill *watchers;    /* followers to be notified */
    uint32_t sleepers;
    uintptr_t runner;      /* the thread that does not return before it has ended; 0: none */
    zc_fill *job;          /* its leader's fill, while that waits to be run [jobs] */
    zc__flight *waits_for; /* the flight that this one's loader follows or leads [graph] */
    zc__monitor monitor;
    uint32_t key_len; /* the key follows this struct */
};

struct zc_fill {
    zc_cache *cache;
    zc__flight *flight;
    zc_fill *parent;      /* held, also when it has ended */
    zc_fill *next, *prev; /* in the flight's watchers, or in a queue of refreshes: */
    zc__jobs *queue;      /* [jobs] */
    uint32_t refs;        /* its owner, and the fills of nested fetches */
    bool leader, watching;
    bool unfenced; /* follower: no put or del had come when it joined */
    bool promote, serve_invalidated;
    bool has_value, absent, no_store, from_store;
    bool fleet;     /* the loader is to run in one node only */
    uint64_t due;   /* of a refresh that waits for another node: when to look again; 0: none */
    bool asked;     /* the storage had nothing, or could not be asked: a write replaces nothing */
    bool unsaved;   /* no record is written: another node has taken over, or the storage is slow */
    int dep_error; /* a dependency is missing: the value must not be stored */
    uint64_t begin; /* leader: the flight's or the record's; follower: `published` as it joined */
    uint64_t started; /* monotonic */
    zc_tag **deps, *few[4];
    size_t ndeps, deps_cap;
    zc__buf value;
    zc__object object; /* drop != NULL: the value */
    zc__entry *holder;   /* with drop_in_poll: what the object may have to wait in */
    zc_put_opts put;
    bool timed;
    zc_loader loader;
    void *user;
    void (*release)(void *user);
    void (*notify)(void *user);
    void *notify_user;
};

static inline zc_bytes zc__flight_key(const zc__flight *f) { return zc_slice(f + 1, f->key_len); }
static size_t zc__flight_size(const zc__flight *f) { return sizeof *f + f->key_len; }

static bool zc__flight_is(const zc__flight *f, uint64_t hash, zc_bytes key) {
    return f->hash == hash && f->key_len == key.len &&
           zc__equal((const unsigned char *)(f + 1), (const unsigned char *)key.ptr, key.len);
}

static zc__flight *zc__flight_find(const zc__shard *s, uint64_t hash, zc_bytes key) {
    if (!s->flights.count) return NULL;
    zc__link *l = *zc__chain(&s->flights, (uint32_t)hash);
    while (l && !zc__flight_is((zc__flight *)l, hash, key)) l = l->next;
    return (zc__flight *)l;
}

/* Lists a flight. False: no memory for the first chains, or the cache is closed. */
static bool zc__flight_list(zc_cache *c, zc__shard *s, zc__flight *f) {
    if (zc__atomic_load_rlx(&c->closed) && !s->flights.n) return false;
    if (!zc__chains_add(&c->mem, &s->flights, &f->link)) return false;
    f->listed = true;
    if (f->lease < s->next_lease) s->next_lease = f->lease;
    if (f->lease < s->lease_found) s->lease_found = f->lease;
    return true;
}

/* Ends a flight: takes it off the list, sets its state. */
static void zc__flight_end(zc__shard *s, zc__flight *f, zc__flight_state state) {
    ZC__ASSERT_HELD(&s->lock);
    ZC__ASSERT(f->state == ZC__RUNNING); /* F3 */
    if (f->listed) {
        zc__link **link = zc__chain(&s->flights, f->link.hash);
        while (*link != &f->link) link = &(*link)->next;
        *link = f->link.next;
        f->listed = false;
        f->link.refs--;
        s->flights.count--;
    }
    zc__atomic_store_rel(&f->state, (uint32_t)state);
}

/* Wakes who waits for an ended flight, which the caller's fill keeps alive. No lock is held.
 * Watchers leave the list one by one, so that a callback may consume any fill it likes. */
static void zc__flight_wake(zc__flight *f) {
    zc__shard *s = f->shard;
    bool sleepers;
    do {
        zc__spin_lock(&s->lock);
        sleepers = f->sleepers != 0;
        f->sleepers = 0;
        zc_fill *w = f->watchers;
        void (*fn)(void *) = w ? w->notify : NULL;
        void *user = w ? w->notify_user : NULL;
        if (w) {
            f->watchers = w->next;
            if (w->next) w->next->prev = NULL;
            w->watching = false;
        }
        zc__spin_unlock(&s->lock);
        if (sleepers) zc__monitor_notify(&f->monitor);
        ZC__CALLS_OUT();
        if (!fn) return;
        fn(user);
    } while (true);
}

static void zc__fill_init(zc_fill *fill, zc_cache *c) {
    memset(fill, 0, sizeof *fill);
    fill->cache = c;
    fill->refs = 1;
    fill->deps = fill->few;
    fill->deps_cap = sizeof fill->few / sizeof fill->few[0];
}

/* Frees a fill's dependencies. */
static void zc__fill_clear(zc_fill *fill) {
    zc_cache *c = fill->cache;
    for (size_t i = 0; i < fill->ndeps; i++) zc__tag_unref(&c->trie, fill->deps[i]);
    if (fill->deps != fill->few) zc__free(&c->mem, fill->deps, fill->deps_cap * sizeof *fill->deps);
}

static void zc__flight_free(zc_cache *c, zc__flight *f) {
    if (f->result) zc__entry_unpin(c, f->result);
    if (f->fallback) zc__entry_unpin(c, f->fallback);
    zc__monitor_destroy(&f->monitor);
    zc__free(&c->mem, f, zc__flight_size(f));
}

/* Gives a reference on a flight back. */
static void zc__flight_unref(zc_cache *c, zc__flight *f) {
    zc__spin_lock(&f->shard->lock);
    bool last = --f->link.refs == 0;
    zc__spin_unlock(&f->shard->lock);
    ZC__CALLS_OUT();
    if (last) zc__flight_free(c, f);
}

/* Gives a reference on a fill back. The last one gives back what is looked at from below: its
 * flight, its dependencies, its parent. */
static void zc__fill_unref(zc_fill *fill) {
    for (zc_fill *parent; fill && zc__atomic_sub_acqrel(&fill->refs, 1u) == 1; fill = parent) {
        zc_cache *c = fill->cache;
        parent = fill->parent;
        if (fill->flight) zc__flight_unref(c, fill->flight);
        zc__fill_clear(fill);
        zc__free(&c->mem, fill, sizeof *fill);
        zc__cache_unref(c);
    }
}

/* Lets go of a fill's object, if it has not become an entry's. */
static void zc__fill_drop(zc_fill *fill) {
    ZC__CALLS_OUT();
    zc__object o = fill->object;
    zc__entry *holder = fill->holder;
    fill->object.drop = NULL;
    fill->holder = NULL;
    if (holder && !o.drop) holder->flags = 0;
    if (holder) zc__entry_drop(fill->cache, holder);
    else if (o.drop) o.drop(o.user, o.ptr, o.size);
}

/* Ends a fill. */
static void zc__fill_close(zc_fill *fill) {
    zc__flight *f = fill->flight;
    if (f) {
        zc__spin_lock(&f->shard->lock);
        if (fill->watching) {
            if (fill->next) fill->next->prev = fill->prev;
            if (fill->prev) fill->prev->next = fill->next;
            else f->watchers = fill->next;
        }
        zc__spin_unlock(&f->shard->lock);
    }
    zc__fill_drop(fill);
    zc__buf_free(&fill->cache->mem, &fill->value);
    if (fill->release) fill->release(fill->user);
    zc__fill_unref(fill);
}

static zc_fill *zc__fill_new(zc_cache *c, const zc_fetch_opts *o) {
    zc_fill *fill;
    do fill = (zc_fill *)zc__alloc(&c->mem, sizeof *fill);
    while (!fill && zc__evict_for_memory(c));
    if (!fill) return NULL;
    zc__cache_ref(c);
    zc__fill_init(fill, c);
    fill->promote = o->promote;
    fill->serve_invalidated = o->serve_invalidated;
    fill->timed = o->early_percent > 0;
    fill->fleet = o->fleet;
    fill->put = o->put;
    fill->put.deps = NULL; /* borrowed for the call only: they are resolved at once */
    fill->put.tags = NULL;
    fill->put.ndeps = fill->put.ntags = 0;
    return fill;
}

static zc__flight *zc__flight_new(zc_cache *c, uint64_t hash, zc_bytes key) {
    zc__flight *f;
    do f = (zc__flight *)zc__alloc_zero(&c->mem, sizeof *f + key.len);
    while (!f && zc__evict_for_memory(c));
    if (!f) return NULL;
    if (!zc__monitor_init(&f->monitor, ZC__RANK_SLEEP)) {
        zc__free(&c->mem, f, sizeof *f + key.len);
        return NULL;
    }
    f->hash = hash;
    f->link.hash = (uint32_t)hash;
    f->shard = zc__shard_of(c, hash);
    f->key_len = (uint32_t)key.len;
    if (key.len) memcpy(f + 1, key.ptr, key.len);
    return f;
}

/* ---- dependencies of a fill ---- */

/* Adds a node, whose reference it takes over. */
static int zc__fill_add(zc_fill *fill, zc_tag *n) {
    zc_cache *c = fill->cache;
    /* The same tag often comes in a row; the rest of the doubles go at commit. */
    for (size_t i = fill->ndeps; i > 0 && i + 8 > fill->ndeps; i--) {
        if (fill->deps[i - 1] != n) continue;
        zc__tag_unref(&c->trie, n);
        return ZC_OK;
    }
    if (fill->ndeps == fill->deps_cap) {
        size_t cap = fill->deps_cap * 2;
        zc_tag **to;
        do to = (zc_tag **)zc__alloc(&c->mem, cap * sizeof *to);
        while (!to && zc__evict_for_memory(c));
        if (!to) {
            zc__tag_unref(&c->trie, n);
            return fill->dep_error = ZC_E_NOMEM;
        }
        memcpy(to, fill->deps, fill->ndeps * sizeof *to);
        if (fill->deps != fill->few) zc__free(&c->mem, fill->deps, fill->deps_cap * sizeof *to);
        fill->deps = to;
        fill->deps_cap = cap;
    }
    fill->deps[fill->ndeps++] = n;
    return ZC_OK;
}

/* The node of a tag's text, with a reference. `locked`: a lock is held, and no entry can give
 * way. */
static int zc__tag_get(zc_cache *c, zc_bytes tag, bool locked, zc_tag **n) {
    zc__path path;
    int rc = zc__path_parse(tag, &path);
    *n = NULL;
    if (rc != ZC_OK) return rc;
    do *n = zc__tag_acquire(&c->trie, &path);
    while (!*n && !locked && zc__evict_for_memory(c));
    return *n ? ZC_OK : ZC_E_NOMEM;
}

static int zc__fill_add_text(zc_fill *fill, zc_bytes tag) {
    zc_tag *n;
    int rc = zc__tag_get(fill->cache, tag, false, &n);
    if (rc != ZC_OK) return fill->dep_error = rc;
    return zc__fill_add(fill, n);
}

/* Sorts the dependencies and drops doubles. Shell sort: small, in place, no recursion. */
static int zc__fill_sort_deps(zc_fill *fill) {
    size_t n = fill->ndeps, gap = 1, kept = 0;
    zc_tag **d = fill->deps;
    if (n < 2) return ZC_OK;
    while (gap < n / 3) gap = gap * 3 + 1;
    for (; gap; gap /= 3) {
        for (size_t i = gap; i < n; i++) {
            zc_tag *x = d[i];
            size_t j = i;
            for (; j >= gap && (uintptr_t)d[j - gap] > (uintptr_t)x; j -= gap) d[j] = d[j - gap];
            d[j] = x;
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (kept && d[kept - 1] == d[i]) zc__tag_unref(&fill->cache->trie, d[i]);
        else d[kept++] = d[i];
    }
    fill->ndeps = kept;
    return kept > ZC_DEPS_MAX ? (fill->dep_error = ZC_E_DEPS) : ZC_OK;
}

/* What a nested fetch read, and what is good up to some version alone, becomes part of the fill
 * around it. The entry is pinned. */
static void zc__fill_inherit(zc_fill *fill, const zc__entry *e, uint64_t good_up_to) {
    zc_tag **deps = zc__entry_deps(e);
    if (good_up_to < fill->begin) fill->begin = fill->flight->begin = good_up_to;
    for (unsigned i = 0; i < e->ndeps; i++) {
        zc__tag_ref(deps[i]);
        (void)zc__fill_add(fill, deps[i]); /* a failure is kept in dep_error */
    }
}

static int zc__fill_static_deps(zc_fill *fill, const zc_put_opts *o) {
    int rc = ZC_OK;
    for (size_t i = 0; i < o->ndeps && rc == ZC_OK; i++) rc = zc__fill_add_text(fill, o->deps[i]);
    for (size_t i = 0; i < o->ntags && rc == ZC_OK; i++) {
        zc__tag_ref(o->tags[i]);
        rc = zc__fill_add(fill, o->tags[i]);
    }
    return rc;
}

ZOOCACHE_API int zc_fill_dep(zc_fill *fill, zc_bytes tag) {
    if (!fill) return ZC_E_INVAL;
    return zc__fill_add_text(fill, tag);
}

ZOOCACHE_API int zc_fill_dep_tag(zc_fill *fill, zc_tag *tag) {
    if (!fill || !tag) return ZC_E_INVAL;
    zc__tag_ref(tag);
    return zc__fill_add(fill, tag);
}

static void zc__fill_unset(zc_fill *fill) {
    zc__fill_drop(fill);
    fill->value.size = 0;
    fill->has_value = fill->absent = false;
}

ZOOCACHE_API int zc_fill_value(zc_fill *fill, zc_bytes value) {
    if (!fill || !fill->leader || (!value.ptr && value.len)) return ZC_E_INVAL;
    if (value.len > UINT32_MAX / 2) return ZC_E_INVAL;
    size_t more = value.len > fill->value.size ? value.len - fill->value.size : 0;
    bool room;
    do room = zc__buf_reserve(&fill->cache->mem, &fill->value, more);
    while (!room && zc__evict_for_memory(fill->cache));
    if (!room) return ZC_E_NOMEM;
    zc__fill_unset(fill);
    if (value.len) memcpy(fill->value.ptr, value.ptr, value.len);
    fill->value.size = value.len;
    fill->has_value = true;
    return ZC_OK;
}

ZOOCACHE_API int zc_fill_object(zc_fill *fill, void *object, size_t size, zc_drop_fn drop,
                                void *drop_user) {
    if (!fill || !fill->leader || !drop) return ZC_E_INVAL;
    const zc__object o = {object, size, drop, drop_user};
    zc__life life;
    zc__entry *holder = NULL;
    memset(&life, 0, sizeof life);
    life.ttl = ZC_NEVER;
    if (fill->cache->desc.drop_in_poll) {
        do holder = zc__entry_new(fill->cache, zc_str(""), zc_str(""), &o, NULL, 0, &life, 0);
        while (!holder && zc__evict_for_memory(fill->cache));
        if (!holder) return ZC_E_NOMEM;
    }
    zc__fill_unset(fill);
    fill->object = o;
    fill->holder = holder;
    fill->has_value = true;
    return ZC_OK;
}

ZOOCACHE_API int zc_fill_absent(zc_fill *fill) {
    if (!fill || !fill->leader) return ZC_E_INVAL;
    zc__fill_unset(fill);
    fill->has_value = fill->absent = true;
    return ZC_OK;
}

ZOOCACHE_API zc_put_opts *zc_fill_opts(zc_fill *fill) { return fill ? &fill->put : NULL; }

ZOOCACHE_API void zc_fill_no_store(zc_fill *fill) {
    if (fill) fill->no_store = true;
}

/* ---- begin ---- */

/* Hands a pinned entry out as a view, and its dependencies to the fill around. There is nothing to
 * see of a negative result. */
static int zc__deliver(zc_cache *c, zc__entry *e, zc_fill *parent, uint64_t good_up_to, int rc,
                       zc_view *view) {
    if (parent) zc__fill_inherit(parent, e, good_up_to);
    if (e->flags & ZC__ABSENT) {
        zc__entry_unpin(c, e);
        return rc < 0 ? rc : ZC_ABSENT;
    }
    zc_bytes v = zc__entry_value(e);
    view->data = v.ptr;
    view->size = v.len;
    view->pin = e;
    return rc;
}

/* XFetch: true with a probability that grows as the end comes near, the more so the longer a load
 * takes: now + load * beta * -ln(random) >= end. The logarithm is good to 1 %. */
static bool zc__early(zc_cache *c, zc__shard *s, const zc__entry *e, uint32_t percent) {
    if (!percent || !(e->flags & ZC__EXTRAS) || e->expires == ZC_NEVER) return false;
    uint64_t r = zc__random(&s->random) | 1, now = zc__coarse(&c->clock);
    unsigned zeros = zc__clz64(r);
    uint64_t m = r << zeros << 1 >> 48;                       /* all in 1/65536; 1 + m < 2 */
    uint64_t log2_m = m * (65536 + (22485 * (65536 - m) >> 16)) >> 16;
    uint64_t minus_ln = (((1 + zeros) << 16) - log2_m) * 45426 >> 16;
    return zc__mul_sat(zc__entry_extras(e)->load >> 10, percent * minus_ln) >
           zc__mul_sat((e->expires - now) >> 10, 100 << 16);
}

/* A caller at its key: what it brings, and what it finds there. */
typedef struct zc__start {
    zc_cache *c;
    zc__shard *s;
    uint64_t hash;
    zc_bytes key;
    const zc_fetch_opts *o;
    zc_fill *fill;     /* NULL: none yet; most reads are hits and need none */
    zc__flight *spare; /* to be listed if this caller leads */
    bool no_memory;    /* for a fill */
    zc__entry *e;
    uint64_t good_up_to; /* what e was found to be */
    zc__flight *f;
    zc__flight *lost; /* the flight that was overdue: to be woken */
    bool early;       /* the dice of early_percent, thrown once a call */
    bool refresh;     /* the value may be served, and this caller is to renew it */
    int gate;         /* what the bus allows: ZC_OK, ZC_STALE, ZC_MISS */
} zc__start;

/* May what is there be served? ZC_OK, ZC_STALE, or ZC_MISS; counts. */
static int zc__start_serve(zc__start *st, uint64_t published, zc__state *state) {
    zc__entry *e;
    do {
        if (!(e = st->e = zc__shard_find(st->s, st->hash, st->key))) return ZC_MISS;
        *state = zc__entry_state(st->c, e, published);
        if (zc__is_later(*state)) *state = zc__entry_apart(st->c, st->s, st->hash, e, published);
    } while (zc__is_later(*state));
    if (st->gate != ZC_OK) {
        if (*state == ZC__FRESH && st->gate == ZC_STALE) return ZC_STALE;
        *state = *state == ZC__DEAD ? ZC__DEAD : ZC__EXPIRED;
        return ZC_MISS;
    }
    if (*state == ZC__FRESH) {
        if (!st->fill) st->early = zc__early(st->c, st->s, e, st->o->early_percent);
        st->refresh = st->early;
        return ZC_OK;
    }
    bool soft = e->flags & ZC__EXTRAS && zc__entry_extras(e)->soft != ZC_NEVER;
    bool in_time = soft && zc__coarse(&st->c->clock) < e->expires;
    if (*state == ZC__SOFT || (*state == ZC__DEAD && in_time && st->o->serve_invalidated)) {
        st->refresh = true;
        return ZC_STALE;
    }
    return ZC_MISS;
}

/* Makes this caller the leader. False: no memory. */
static bool zc__start_lead(zc__start *st, uint64_t now, bool miss) {
    zc__flight *f = st->spare;
    uint64_t timeout = st->o->flight_timeout ? st->o->flight_timeout : st->c->desc.flight_timeout;
    f->lease = zc__add_sat(now, timeout);
    f->begin = st->fill->begin;
    f->started = st->fill->started = now;
    if (ZC__CAN_SLEEP) f->runner = zc__self();
    if (!zc__flight_list(st->c, st->s, f)) return false;
    f->link.refs = 2; /* the table's, and the fill's */
    st->fill->leader = true;
    st->fill->flight = st->f = f;
    bool grace = miss && st->e && st->e->flags & ZC__EXTRAS && zc__entry_extras(st->e)->grace;
    if (grace || (st->e && st->o->refresh_here)) {
        zc__entry_pin(st->e);
        f->fallback = st->e;
    }
    return true;
}

/* One look. ZC_OK, ZC_STALE: e is pinned, and with `refresh` t leads.
 * ZC_LEAD, ZC_FOLLOW: `fill` belongs to f. ZC_MORE: come again with a fill and a spare flight. */
static int zc__start_look(zc__start *st) {
    zc_cache *c = st->c;
    zc__shard *s = st->s;
    ZC__ASSERT_HELD(&s->lock);
    uint64_t published = zc__published(&c->trie), now = 0;
    zc__state state = ZC__DEAD;
    st->refresh = false;
    int rc = zc__start_serve(st, published, &state);
    st->f = s->flights.count ? zc__flight_find(s, st->hash, st->key) : NULL;
    if (st->f || st->fill) now = zc__mono(&c->clock);
    bool overdue = st->f && now >= st->f->lease;
    if (st->no_memory || (st->f && !overdue)) st->refresh = false; /* somebody is at it already */
    bool needs_fill = rc == ZC_MISS || st->refresh;
    if (needs_fill && st->no_memory) return ZC_E_NOMEM;
    if (needs_fill && !st->fill) return ZC_MORE;
    /* Read anew: the look may have met a version that was published after it began. */
    uint64_t begin = st->o->begin ? st->o->begin : st->o->put.begin;
    if (needs_fill) st->fill->begin = begin ? begin : zc__published(&c->trie);
    if (needs_fill && overdue) { /* its leader has had its time */
        st->lost = st->f;
        st->lost->link.refs++;
        zc__flight_end(s, st->lost, ZC__LOST);
        st->f = NULL;
    }
    if (needs_fill && !st->f && !zc__start_lead(st, now, rc == ZC_MISS)) {
        if (rc == ZC_MISS) return ZC_E_NOMEM;
        st->refresh = false;
    }
    if (rc != ZC_MISS) {
        st->good_up_to = st->e->begin;
        zc__entry_pin(st->e);
        zc__entry_touch(c, st->e);
        s->hits++;
        s->hits_stale += rc == ZC_STALE;
        return rc;
    }
    zc__miss(s, st->e, state);
    if (st->fill->leader) return ZC_LEAD;
    st->fill->flight = st->f;
    st->fill->unfenced = !st->f->fenced;
    /* While the bus is silent, or what was committed is still held, what kills the value may not
     * have been heard since the loader ran: a flight that is older than T is waited for, but its
     * result is not fit for who joins now. */
    if ((st->gate != ZC_OK && !zc__bus_holds(c, st->f->started)) ||
        zc__bus_hides(c, st->f->started))
        st->fill->begin = UINT64_MAX;
    st->f->link.refs++;
    return ZC_FOLLOW;
}

static bool zc__is_recursive(const zc_fill *parent, uint64_t hash, zc_bytes key) {
    for (; parent; parent = parent->parent) {
        const zc__flight *f = parent->flight;
        if (zc__flight_is(f, hash, key) && zc__atomic_load_acq(&f->state) == ZC__RUNNING)
            return true;
    }
    return false;
}

/* zc_flight_begin(), with what the bus allows: `gate`. */
static int zc__begin_gated(zc_cache *c, zc_bytes key, const zc_fetch_opts *o, int gate,
                           zc_view *view, zc_fill **fill) {
    zc__start st;
    memset(&st, 0, sizeof st);
    st.c = c;
    st.hash = zc__hash(key, c->seed);
    st.s = zc__shard_of(c, st.hash);
    st.key = key;
    st.o = o;
    *fill = NULL;
    if (o->parent && zc__is_recursive(o->parent, st.hash, key)) return ZC_E_DEADLOCK;
    st.gate = gate;
    zc__spin_lock(&st.s->lock);
    int rc = zc__start_look(&st);
    zc__spin_unlock(&st.s->lock);
    if (rc == ZC_MORE) {
        int made = ZC_E_NOMEM;
        st.fill = zc__fill_new(c, o);
        if (st.fill) made = zc__fill_static_deps(st.fill, &o->put);
        if (made == ZC_OK && !(st.spare = zc__flight_new(c, st.hash, key))) made = ZC_E_NOMEM;
        st.no_memory = made == ZC_E_NOMEM;
        rc = made;
        if (made == ZC_OK || made == ZC_E_NOMEM) {
            zc__spin_lock(&st.s->lock);
            rc = zc__start_look(&st);
            zc__spin_unlock(&st.s->lock);
        }
        if (st.lost) {
            zc__flight_wake(st.lost);
            zc__flight_unref(c, st.lost);
        }
        if (st.spare && st.fill->flight != st.spare) zc__flight_free(c, st.spare);
        if (st.fill && !st.fill->flight) {
            zc__fill_close(st.fill);
        } else if (st.fill) {
            *fill = st.fill;
            if (o->parent && !st.refresh) { /* for which nobody waits */
                (void)zc__atomic_add_rlx(&o->parent->refs, 1u);
                st.fill->parent = o->parent;
            }
        }
    }
    if (rc != ZC_OK && rc != ZC_STALE) return rc;
    return zc__deliver(c, st.e, o->parent, st.good_up_to, rc, view);
}

static int zc__begin(zc_cache *c, zc_bytes key, const zc_fetch_opts *o, zc_view *view,
                     zc_fill **fill) {
    for (uint64_t lease;;) {
        *fill = NULL;
        int gate = zc__bus_gate(c, o->silence, &lease);
        if (gate < 0) return gate;
        int rc = zc__begin_gated(c, key, o, gate, view, fill);
        if (gate != ZC_OK || (rc != ZC_OK && rc != ZC_STALE)) return rc;
        if (!zc__bus_on(c) || zc__bus_holds(c, lease)) return rc;
        /* The lease ran out with the value in hand: perhaps this process slept. */
        zc_release(c, view);
        if (*fill) zc_flight_abandon(*fill, 0);
    }
}

/* ---- wait ---- */

/* Notes that the flight of `t`'s parent waits for `t`'s, be it that t follows it or leads it; false
 * if that closes a circle. */
static bool zc__wait_for(zc_fill *fill, bool on) {
    zc_cache *c = fill->cache;
    zc__flight *p = fill->parent ? fill->parent->flight : NULL;
    bool good = true;
    if (!ZC__CAN_SLEEP || !p) return true;
    zc__spin_lock(&c->graph_lock);
    for (zc__flight *f = fill->flight; on && f && good; f = f->waits_for) good = f != p;
    p->waits_for = on && good ? fill->flight : NULL;
    zc__spin_unlock(&c->graph_lock);
    return good;
}

/* Says which thread runs a flight's loader in this call; 0: its fill is handed out or put aside,
 * and anybody may. */
static inline void zc__flight_runs(zc_fill *fill, uintptr_t runner) {
    if (!ZC__CAN_SLEEP) return;
    zc__spin_lock(&fill->flight->shard->lock);
    fill->flight->runner = runner;
    zc__spin_unlock(&fill->flight->shard->lock);
}

/* Sleeps until the flight has ended, its lease is over, or the time is up. */
static int zc__flight_sleep(zc_fill *fill, uint64_t timeout) {
    zc_cache *c = fill->cache;
    zc__flight *f = fill->flight;
    zc__spin_lock(&f->shard->lock);
    bool running = f->state == ZC__RUNNING, own = f->runner == zc__self();
    if (running && !own) f->sleepers++;
    zc__spin_unlock(&f->shard->lock);
    if (!running) return ZC_OK;
    if (own || !zc__wait_for(fill, true)) return ZC_E_DEADLOCK;
    uint64_t now = zc__mono(&c->clock), until = zc__add_sat(now, timeout);
    if (f->lease < until) until = f->lease;
    zc__monitor_lock(&f->monitor);
    for (; zc__atomic_load_acq(&f->state) == ZC__RUNNING && now < until;
         now = zc__mono(&c->clock)) {
        /* A clock of the user's own does not tell when it will have moved on: look often. */
        uint64_t slice = c->clock.version ? 5 * ZC_MILLISECOND : until - now;
        zc__monitor_sleep(&f->monitor, slice);
    }
    zc__monitor_unlock(&f->monitor);
    zc__wait_for(fill, false);
    return ZC_OK;
}

/* The outcome for a follower; ZC_PENDING while there is none. Does not consume the fill. */
static int zc__outcome(zc_fill *fill, zc_view *view) {
    zc__flight *f = fill->flight;
    switch (zc__atomic_load_acq(&f->state)) {
    case ZC__RUNNING: return zc__mono(&fill->cache->clock) >= f->lease ? ZC_RETRY : ZC_PENDING;
    case ZC__LOST: return ZC_RETRY;
    case ZC__DONE:
        if (fill->begin <= f->good_up_to ? fill->unfenced || f->stale
                                      : f->stale && fill->serve_invalidated) {
            if (fill->parent && f->dep_error) fill->parent->dep_error = f->dep_error;
            zc__entry_pin(f->result);
            int rc = f->stale ? ZC_STALE : ZC_OK;
            return zc__deliver(fill->cache, f->result, fill->parent, f->good_up_to, rc,
                               view);
        }
        break;
    default: break;
    }
    return f->error == 0 || fill->promote ? ZC_RETRY : f->error;
}

static int zc__wait(zc_fill *fill, uint64_t timeout, zc_view *view) {
    int rc = ZC_OK;
    if (ZC__CAN_SLEEP && timeout) rc = zc__flight_sleep(fill, timeout);
    return rc < 0 ? rc : zc__outcome(fill, view);
}

/* ============================================================================================
 * >>store   The second tier behind the table
 *   Idea        A leader asks the storage before it runs the loader; what is stored in the table is
 *               written through. A record is judged by the one rule, with the versions known here;
 *               a tag that is not known yet is first asked of the storage.
 *   Generation  Records carry the id of the version history they belong to. A storage that keeps
 *               the versions has a generation of its own; otherwise each open makes a new one, and
 *               clears the storage: where clocks and addresses repeat, so does the generation.
 *   Order       Who changes the table joins the shard's list of writers, under the same lock, and
 *               leaves it when the storage has the change. One at a time writes a key; of those
 *               that wait for it the latest goes next, and takes the others with it, for what they
 *               have is replaced already. So the storage sees changes in the table's order, and
 *               nobody waits for more than two writes. Meanwhile it is not asked for that key (the
 *               list, or the queue): the table may have lost what the storage does not have yet. A
 *               writer that is not ready yet may call out: its completions may write that key.
 *   Trust       If a record cannot be overwritten or deleted, the storage holds a value that it
 *               should not. So a new version is handed out, and records that began before it are
 *               misses from then on: what the storage has is forgotten, in O(1), rather than
 *               trusted. With a bus the next position of the log does the same.
 *   Kept        A record's begin is never above the highest version that the storage has kept:
 *               after a crash it might otherwise outlive an invalidation that gets a lower version.
 *   Faults      are counted and told (ZC_EVENT_STORE_FAULT); the caller never sees one, but for an
 *               invalidation that the storage could not keep (ZC_E_STORE).
 *   Breaker     (this and the next two: with ZOOCACHE_WITH_BUS) A call that timed out, or several
 *               that failed in a row, open it: then the storage is spared, and reads are misses.
 *               Housekeeping tries it again, after a time that doubles, so no caller waits for
 *               that. A write that was spared counts as failed.
 *   Behind      With write_behind, what is stored is written by housekeeping, in order, from a
 *               queue of pinned entries; who finds no room there writes at once. An entry is taken
 *               out by housekeeping, as a writer of its key, while there is no other; or by who
 *               deletes or writes the key before that, and lets it go when he has written;
 *               zc_clear() takes all out. Nothing comes back, and at no moment is an older record
 *               read. What a zc_poll() had no time to write goes on waiting: that is no failure.
 *   Fleet       Before a loader runs, the key is locked in the storage; who does not get the lock
 *               looks for the other's record until the lock is free, or wait_timeout is over: then
 *               it hands its flight over. A refresh does not wait: it is put aside, and looks
 *               again. Only saves work: what is stored is judged by the rule all the same.
 *   With a bus  Records carry positions of its log, and are judged by >>bus.
 *   Copies      If it can be peeked at, so that a read of the storage costs little, most of the
 *               values that the full table does not have are copied from the record to the caller
 *               while the storage shows it, and stay out of the table: of those that are read often
 *               it sees enough.
 *   Locking     nothing is locked while the storage is called. writers, sleepers: the shard's lock;
 *               `order` before it, to sleep
 * ========================================================================================== */

typedef struct zc__copying zc__copying;

struct zc_sink {
    zc__mem *mem;
    zc__buf buf;
    size_t most;
    bool (*take)(void *user, zc_bytes record); /* may do with what the storage shows first */
    void *user;
};

static void zc__sink_init(zc_sink *sink, zc_cache *c) {
    memset(sink, 0, sizeof *sink);
    sink->mem = &c->mem;
    sink->most = UINT32_MAX / 2;
}

#define ZC__BATCH 16u /* keys that one call asks for at most */

#ifdef ZOOCACHE_NO_STORE /* what is behind these two is left out by the compiler */
static inline bool zc__has_store(const zc_cache *c) { (void)c; return false; }
static inline bool zc__keeps_versions(const zc_cache *c) { (void)c; return false; }
#else
ZOOCACHE_API int zc_sink_write(zc_sink *sink, const void *data, size_t len) {
    if (!sink || (!data && len)) return ZC_E_INVAL;
    if (len > sink->most - sink->buf.size) return ZC_E_CORRUPT;
    bool first = sink->buf.size == 0;
    if (first && sink->take && sink->take(sink->user, zc_slice(data, len))) return ZC_OK;
    if (!zc__buf_reserve(sink->mem, &sink->buf, len)) return ZC_E_NOMEM;
    if (len) memcpy(sink->buf.ptr + sink->buf.size, data, len);
    sink->buf.size += len;
    return ZC_OK;
}

static inline bool zc__has_store(const zc_cache *c) { return c->desc.store.version != 0; }

/* Versions of tags are kept by the storage itself. */
static inline bool zc__keeps_versions(const zc_cache *c) {
    return c->desc.store.tag_put && !zc__bus_on(c);
}
#endif

#ifdef ZOOCACHE_WITH_BUS
#define ZC__BREAKER_FAILURES 3u
#define ZC__BREAKER_LEAST (100 * ZC_MILLISECOND)
#define ZC__BREAKER_MOST 50u /* times the least */

/* The breaker is closed, then open, then closed: each is an epoch, and a call belongs to the one
 * that it began in. */
static inline uint32_t zc__store_epoch(const zc_cache *c) {
    return zc__atomic_load_acq(&c->store_epoch);
}
static inline bool zc__store_is_open(const zc_cache *c) { return zc__store_epoch(c) & 1; }

/* Half of the pause is drawn, so that not all nodes come back at once. */
static void zc__store_pause(zc_cache *c, uint64_t pause) {
    uint64_t now = zc__mono(&c->clock), random = now ^ c->seed;
    zc__atomic_store_rlx(&c->store_pause, pause);
    zc__atomic_store_rlx(&c->store_retry, now + pause / 2 + zc__random(&random) % (pause / 2 + 1));
}

/* What a call of the storage tells about its health. Of those that fail together the first opens
 * the breaker; the others, and all that began before it was closed again, have nothing to add. */
static int zc__store_outcome(zc_cache *c, uint32_t epoch, int rc) {
    bool lost = rc == ZC_E_TIMEOUT, bad = lost || rc == ZC_E_STORE || rc == ZC_E_BUS;
    if (rc >= 0 && zc__atomic_load_rlx(&c->store_failures))
        zc__atomic_store_rlx(&c->store_failures, 0u);
    if (!bad || epoch & 1 || epoch != zc__store_epoch(c)) return rc;
    uint32_t n = zc__atomic_add_rlx(&c->store_failures, 1u) + 1;
    if (!lost && n < c->desc.breaker_failures) return rc;
    zc__store_pause(c, c->desc.breaker_pause);
    if (zc__atomic_cas(&c->store_epoch, &epoch, epoch + 1))
        zc__atomic_store_rlx(&c->store_fault, (int32_t)rc);
    return rc;
}

/* False: the storage is to be spared. */
static inline bool zc__store_up(zc_cache *c, uint32_t *epoch) {
    *epoch = zc__store_epoch(c);
    if (ZC__LIKELY(!(*epoch & 1))) return true;
    zc__count(&c->store_skipped, 1);
    return false;
}

/* Says that it has opened, and lets the storage say what it has to: whoever saw that may have had
 * his turn to write, and could not. */
static void zc__store_log_fault(zc_cache *c) {
    zc__log_fault(c, &c->store_fault, "the storage is not asked for a while");
    if (c->desc.store.report) c->desc.store.report(c->desc.store.user);
}

/* Tries a storage that was spared: housekeeping alone does, one thread at a time. */
static void zc__store_try(zc_cache *c) {
    zc_sink sink;
    uint64_t retry = zc__atomic_load_rlx(&c->store_retry),
             pause = zc__atomic_load_rlx(&c->store_pause);
    zc__store_log_fault(c);
    if (!zc__store_is_open(c) || zc__mono(&c->clock) < retry) return;
    if (!zc__atomic_cas(&c->store_retry, &retry, ZC_NEVER)) return;
    zc__sink_init(&sink, c);
    int rc = c->desc.store.get(c->desc.store.user, zc_slice("", 0), &sink);
    zc__buf_free(&c->mem, &sink.buf);
    if (rc < 0) {
        uint64_t most = zc__mul_sat(c->desc.breaker_pause, ZC__BREAKER_MOST);
        zc__store_pause(c, pause < most / 2 ? pause * 2 : most);
        return;
    }
    zc__atomic_store_rlx(&c->store_failures, 0u);
    zc__atomic_store_rel(&c->store_epoch, zc__store_epoch(c) + 1);
}
#else
static inline uint32_t zc__store_epoch(const zc_cache *c) { (void)c; return 0; }
#  define zc__store_outcome(c, epoch, rc) ((void)(epoch), (rc))
#  define zc__store_up(c, epoch) ((void)(c), *(epoch) = 0, true)
static inline bool zc__store_is_open(const zc_cache *c) { (void)c; return false; }
static inline void zc__store_log_fault(zc_cache *c) { (void)c; }
static inline void zc__store_try(zc_cache *c) { (void)c; }
#endif

/* Has a call used up the time that a caller is ready to wait? Then he makes no other. */
static inline bool zc__store_was_slow(int rc) { return rc == ZC_E_TIMEOUT || rc == ZC_E_BUSY; }

#ifdef ZOOCACHE_WITH_SEAL
static inline bool zc__is_unsealed(int rc) { return rc == ZC_E_SEAL || rc == ZC_E_UNKEYED; }
static inline zc_shared64 *zc__unsealed(zc_cache *c, int rc) {
    return rc == ZC_E_SEAL ? &c->store_forged : &c->store_unkeyed;
}
#else
static inline bool zc__is_unsealed(int rc) { (void)rc; return false; }
static inline zc_shared64 *zc__unsealed(zc_cache *c, int rc) { (void)c; (void)rc; return NULL; }
#endif

/* Is it the caller's error that a record does not open? Else it is a miss. */
static inline bool zc__seal_refuses(const zc_cache *c, int rc) {
    return zc__is_unsealed(rc) && c->desc.seal_strict;
}

/* Tells of a call that has failed. */
static void zc__store_fault(zc_cache *c, zc_bytes key, int rc) {
    zc_event ev = zc__event_of(ZC_EVENT_STORE_FAULT, key);
    bool unsealed = zc__is_unsealed(rc), bad = unsealed || rc == ZC_E_CORRUPT;
    zc__count(unsealed ? zc__unsealed(c, rc) : bad ? &c->store_corrupt : &c->store_errors, 1);
    ev.rc = rc;
    zc__event(c, &ev);
    zc__log_write(c, ZC_LOG_WARN,
            bad ? "the storage has what is no good" : "a call of the storage has failed",
            zc_strerror(rc));
    zc__store_log_fault(c);
}

/* Asks the storage for the versions of nodes on a path that are not known here. */
static int zc__store_learn(zc_cache *c, zc_tag *leaf) {
    const zc_store *st = &c->desc.store;
    char text[ZC_TAG_MAX];
    zc_bytes paths[ZC_TAG_DEPTH];
    uint64_t versions[ZC_TAG_DEPTH];
    zc_tag *nodes[ZC_TAG_DEPTH];
    size_t n = 0;
    if (!st->tag_get) return ZC_OK;
    size_t len = zc__tag_text(leaf, text);
    for (zc_tag *p = leaf; p->parent; p = p->parent) {
        if (!(zc__atomic_load_acq(&p->marks) & ZC__LEARNED)) {
            nodes[n] = p;
            versions[n] = 0;
            paths[n++] = zc_slice(text, len);
        }
        len -= (size_t)p->len + (p->parent->parent != NULL);
    }
    if (n == 0) return ZC_OK;
    int rc = st->tag_get(st->user, paths, n, versions);
    for (size_t i = 0; i < n && rc == ZC_OK; i++)
        if (versions[i] > ZC__VERSION_MAX) rc = ZC_E_CORRUPT;
    for (size_t i = 0; i < n && rc == ZC_OK; i++) zc__trie_learn(&c->trie, nodes[i], versions[i]);
    return rc;
}

static uint64_t zc__wall_ms(zc_cache *c) { return zc__wall(&c->clock) / ZC_MILLISECOND; }

/* What is left of a deadline on the wall clock; ZC_NEVER for 0. */
static uint64_t zc__left(uint64_t at_ms, uint64_t now_ms) {
    if (at_ms == 0) return ZC_NEVER;
    return at_ms > now_ms ? zc__mul_sat(at_ms - now_ms, ZC_MILLISECOND) : 0;
}

#ifdef ZOOCACHE_WITH_BUS
#define ZC__ASK 64u /* dependencies that one call asks about */

/* Has a log something after `position` that kills a value with these dependencies? ZC_OK: no;
 * ZC_MISS: perhaps. Asks for the paths of those that are in this log. */
static int zc__bus_ask_some(zc_cache *c, zc_tag *const *deps, size_t ndeps, unsigned log,
                            uint64_t position) {
    size_t n = 1, text_len = 0;
    for (size_t i = 0; i < ndeps; i++) {
        n += deps[i]->depth;
        text_len += zc__tag_len(deps[i]);
    }
    size_t size = n * (sizeof(zc_bytes) + sizeof(uint64_t)) + text_len;
    zc_bytes *paths = (zc_bytes *)zc__alloc(&c->mem, size);
    if (!paths) return ZC_MISS;
    uint64_t *positions = (uint64_t *)(void *)(paths + n), newest = 0;
    char *text = (char *)(positions + n);
    paths[0] = zc_slice("", 0);
    n = 1;
    for (size_t i = 0; i < ndeps; i++) {
        if (zc__bus_log_of(&c->bus, deps[i]) != log) continue;
        size_t len = zc__tag_text(deps[i], text);
        const char *start = text;
        text += len;
        for (const zc_tag *p = deps[i]; p->parent; p = p->parent) {
            paths[n++] = zc_slice(start, len);
            len -= (size_t)p->len + (p->parent->parent != NULL);
        }
    }
    memset(positions, 0, n * sizeof *positions);
    int rc = zc__names_ask(c, c->desc.bus.versions, zc__bus_user(c, log), paths, n, positions);
    for (size_t i = 0; i < n; i++)
        if (positions[i] > newest) newest = positions[i];
    zc__free(&c->mem, paths, size);
    if (rc != ZC_OK) return rc < 0 ? rc : ZC_E_BUS;
    if (newest > ZC__POSITION_MAX) return ZC_E_CORRUPT;
    return newest <= position ? ZC_OK : ZC_MISS;
}

/* Some at a time: neither memory nor a message grows with what a record names. Mostly one call does
 * it. What is appended between two is heard, and comes after all that the record can claim. */
static int zc__bus_ask(zc_cache *c, zc_tag *const *deps, size_t ndeps, unsigned log,
                       uint64_t position) {
    int rc = ZC_OK;
    size_t n = 0;
    do {
        deps += n;
        ndeps -= n;
        n = ndeps < ZC__ASK ? ndeps : ZC__ASK;
        rc = zc__bus_ask_some(c, deps, n, log, position);
    } while (rc == ZC_OK && n < ndeps);
    return rc;
}

/* Up to where each log was known to who wrote the record, and the sum. ZC_MISS: their number was
 * another. */
static int zc__mark_get(const zc__bus *b, const zc_record *r, uint64_t *mark, uint64_t *sum) {
    mark[0] = r->begin;
    *sum = 0;
    if (r->mark.len != (b->logs == 1 ? 0 : 8 * b->logs)) return ZC_MISS;
    for (unsigned i = 0; i < b->logs; i++) {
        if (b->logs > 1) mark[i] = zc__get64((const unsigned char *)r->mark.ptr + 8 * i);
        if (mark[i] > ZC__POSITION_MAX) return ZC_E_CORRUPT;
        *sum += mark[i];
    }
    return ZC_OK;
}

/* What a record's position means here. ZC_OK: *begin is the local version up to which it is good,
 * for all that is known; ZC_MISS: it is of another log, or invalidated. If it was begun before this
 * node attached, one round trip for each log concerned and every ZC__ASK dependencies. */
static int zc__bus_judge(zc_cache *c, const zc_record *r, zc_tag *const *deps, size_t ndeps,
                         uint64_t *begin) {
    zc__bus *b = &c->bus;
    uint64_t mark[ZC_LOGS_MAX], sum, position;
    uint32_t which = 0;
    int rc = zc__mark_get(b, r, mark, &sum);
    if (rc != ZC_OK) return rc;
    for (size_t i = 0; i < ndeps; i++) which |= 1u << zc__bus_log_of(b, deps[i]);
    if (!which) which = 1; /* the root is in each */
    zc__monitor_lock(&b->apply);
    bool ours = b->attached && r->generation == b->identity && sum >= b->trusted;
    bool known = zc__bus_locate(b, mark, which, &position);
    *begin = zc__bus_local(b, known ? position : b->cursor);
    uint64_t unacknowledged = zc__atomic_load_acq(&b->unacknowledged);
    if (unacknowledged && unacknowledged < *begin) *begin = unacknowledged; /* N3 */
    zc__monitor_unlock(&b->apply);
    if (!ours) return ZC_MISS;
    for (unsigned i = 0; i < b->logs && !known && rc == ZC_OK; i++)
        if (which >> i & 1) rc = zc__bus_ask(c, deps, ndeps, i, mark[i]);
    return rc;
}

/* The position that a record of an entry, whose begin is r->begin, may claim: that of the cursor
 * now, if nothing up to it has killed the entry. `mark` has room for ZC__MARK bytes. False: it is
 * dead, or there is no log. */
static bool zc__bus_position(zc_cache *c, zc__entry *e, zc_record *r, unsigned char *mark) {
    zc__bus *b = &c->bus;
    uint64_t begin = r->begin;
    zc__monitor_lock(&b->apply);
    bool attached = b->attached;
    r->generation = b->identity;
    r->begin = b->cursor;
    for (unsigned i = 0; i < b->logs; i++) zc__put_le(mark + 8 * i, b->cursors[i], 8);
    zc__monitor_unlock(&b->apply);
    if (b->logs > 1) r->mark = zc_slice(mark, 8 * b->logs);
    return attached && !zc__trie_killer(&c->trie, zc__entry_deps(e), e->ndeps, begin);
}

/* No record that there may be now is to be trusted. */
static void zc__bus_distrust(zc__bus *b) {
    zc__monitor_lock(&b->apply);
    b->trusted = b->cursor + 1;
    zc__monitor_unlock(&b->apply);
}
#else
#  define zc__bus_judge(c, r, deps, ndeps, begin) ZC_OK
#  define zc__bus_position(c, e, r, mark) ((void)(mark), true)
static inline void zc__bus_distrust(zc__bus *b) { (void)b; }
#endif

/* A record's value becomes the fill's, in the buffer that it was read into, if it is there. */
static int zc__store_value(zc_fill *fill, zc_bytes value, zc__buf *read) {
    uintptr_t at = (uintptr_t)value.ptr - (uintptr_t)read->ptr;
    if (fill->value.ptr || value.len == 0 || at >= read->size) return zc_fill_value(fill, value);
    memmove(read->ptr, value.ptr, value.len);
    fill->value = *read;
    fill->value.size = value.len;
    fill->has_value = true;
    memset(read, 0, sizeof *read);
    return ZC_OK;
}

/* Is a record with these dependencies good? Then *begin is the local version up to which it is
 * known to be. ZC_MISS: it is stale. */
static int zc__store_judge(zc_cache *c, const zc_record *r, zc_tag *const *deps, size_t ndeps,
                           uint64_t *begin) {
    int rc = ZC_OK;
    *begin = r->begin;
    if (zc__bus_on(c)) rc = zc__bus_judge(c, r, deps, ndeps, begin);
    else if (r->generation != c->generation || *begin > zc__published(&c->trie)) return ZC_MISS;
    for (size_t i = 0; i < ndeps && zc__keeps_versions(c) && rc == ZC_OK; i++)
        rc = zc__store_learn(c, deps[i]);
    bool told = rc == ZC_MISS || rc == ZC_E_CORRUPT || zc__store_was_slow(rc);
    if (rc != ZC_OK) return told ? rc : ZC_E_STORE;
    if (*begin < zc__atomic_load_acq(&c->trusted)) return ZC_MISS;
    return zc__trie_killer(&c->trie, deps, ndeps, *begin) ? ZC_MISS : ZC_OK;
}

/* Turns a good record into the value of a leader's fill. ZC_OK, or ZC_MISS if it is stale. */
static int zc__store_accept(zc_fill *fill, const zc_record *r, zc__buf *read) {
    zc_cache *c = fill->cache;
    uint64_t now_ms = zc__wall_ms(c), begin;
    uint64_t left = zc__left(r->expires_ms, now_ms), soft = zc__left(r->soft_ms, now_ms);
    int rc = ZC_OK;
    if (left == 0 || (fill->due && soft == 0)) return ZC_MISS; /* a refresh wants a newer one */
    for (size_t i = 0; i < r->ndeps && rc == ZC_OK; i++) rc = zc__fill_add_text(fill, r->deps[i]);
    if (rc != ZC_OK) return rc == ZC_E_NOMEM ? ZC_MISS : ZC_E_CORRUPT;
    rc = zc__store_judge(c, r, fill->deps, fill->ndeps, &begin);
    if (rc != ZC_OK) return rc;
    rc = r->absent ? zc_fill_absent(fill) : zc__store_value(fill, r->value, read);
    if (rc != ZC_OK) return ZC_MISS;
    if (c->desc.store_ttl && c->desc.ttl < left) left = c->desc.ttl; /* the table's own */
    fill->begin = begin;
    fill->from_store = true;
    fill->put.ttl = fill->put.negative_ttl = left;
    fill->put.tti = r->tti_ms ? zc__mul_sat(r->tti_ms, ZC_MILLISECOND) : ZC_NEVER;
    fill->put.soft_ttl = r->soft_ms ? (soft ? soft : 1) : 0;
    fill->put.stale_if_error = zc__mul_sat(r->grace_ms, ZC_MILLISECOND);
    return ZC_OK;
}

/* Idle time starts again. */
static void zc__store_used(zc_cache *c, zc_bytes key, const zc_record *r) {
    const zc_store *st = &c->desc.store;
    uint32_t epoch;
    if (!r->tti_ms || !st->touch || !zc__store_up(c, &epoch)) return;
    uint64_t until = zc__add_sat(zc__wall_ms(c), r->tti_ms);
    if (r->expires_ms && r->expires_ms < until) until = r->expires_ms;
    int rc = zc__store_outcome(c, epoch, st->touch(st->user, key, until));
    if (rc < 0) zc__store_fault(c, key, rc);
}

/* What the storage has answered, `got`, becomes the fill's value. ZC_OK; ZC_MISS: as if nothing
 * had been read, also if that took longer than `lease` holds; or a failure that is the caller's, of
 * which the record is to be left as it is. Frees the sink. */
static int zc__store_take(zc_fill *fill, int got, zc_sink *sink, uint64_t lease) {
    zc_cache *c = fill->cache;
    zc_bytes key = zc__flight_key(fill->flight), memory;
    size_t deps = fill->ndeps;
    zc_put_opts put = fill->put;
    zc_record r;
    int rc = got;
    if (rc == ZC_OK) {
        rc = zc__record_decode(&c->mem, zc_slice(sink->buf.ptr, sink->buf.size), sink->most, &r,
                               &memory);
        if (rc == ZC_OK && (r.key.len != key.len || memcmp(r.key.ptr, key.ptr, key.len) != 0))
            rc = ZC_E_CORRUPT;
        if (rc == ZC_OK) rc = zc__store_accept(fill, &r, &sink->buf);
        if (rc == ZC_OK && zc__bus_on(c) && !zc__bus_holds(c, lease)) rc = ZC_MISS;
        if (rc == ZC_MISS) zc__count(&c->store_stale, 1);
        if (rc == ZC_OK) zc__store_used(c, key, &r);
        zc__free(&c->mem, (void *)(uintptr_t)memory.ptr, memory.len);
    }
    zc__buf_free(&c->mem, &sink->buf);
    if (rc == ZC_OK) {
        zc__count(&c->hits_store, 1);
        return ZC_OK;
    }
    if (rc < 0) zc__store_fault(c, key, rc);
    if (zc__store_was_slow(rc)) fill->unsaved = true;
    for (; fill->ndeps > deps; fill->ndeps--) zc__tag_unref(&c->trie, fill->deps[fill->ndeps - 1]);
    zc__fill_unset(fill);
    fill->put = put;
    fill->dep_error = 0;
    fill->from_store = false;
    fill->begin = fill->flight->begin;
    return zc__seal_refuses(c, rc) ? rc : ZC_MISS;
}

#ifdef ZOOCACHE_WITH_BUS
#define ZC__BEHIND 1024u /* entries that may wait; then writers write themselves */

/* Is an entry of this key there? */
static bool zc__behind_has(zc_cache *c, zc_bytes key) {
    bool has = false;
    if (!c->behind) return false;
    zc__spin_lock(&c->behind_lock);
    for (uint32_t i = c->behind_at; i != c->behind_end && !has; i++) {
        zc__entry *e = c->behind[i % ZC__BEHIND];
        has = e && zc__entry_is(e, key);
    }
    zc__spin_unlock(&c->behind_lock);
    return has;
}
#endif

/* A change of a key that the table has, and the storage not yet. It is on its author's stack. */
typedef enum zc__writer_state { ZC__JOINED, ZC__READY, ZC__WRITING, ZC__WRITTEN } zc__writer_state;
struct zc__writer {
    zc__writer *next;
    uint64_t hash;
    zc__writer_state state;
    bool replaces; /* the storage may have a record */
    bool again;    /* it is tried again if there was no time */
    ZC__RANKED     /* its turn */
};

/* The latest change of a key, or of what hashes alike. The shard is locked. */
static inline zc__writer *zc__writer_of(zc__writer *from, uint64_t hash) {
    while (from && from->hash != hash) from = from->next;
    return from;
}

/* The shard's table has been changed just now, under the same lock: from here on the storage is not
 * asked for this key, until zc__written(). */
static void zc__writes(zc__shard *s, zc__writer *w, uint64_t hash, bool replaces) {
    ZC__ASSERT_HELD(&s->lock);
    const zc__writer *before = zc__writer_of(s->writers, hash);
    w->next = s->writers;
    w->hash = hash;
    w->state = ZC__JOINED;
    ZC__SET_RANK(w, ZC__RANK_TURN);
    w->replaces = replaces || (before && before->replaces);
    w->again = false;
    s->writers = w;
}

/* Is it this one's turn to write? Not while another writes this key; and among those that are ready
 * the latest goes first, which makes the others superfluous. */
static bool zc__writer_goes(const zc__shard *s, const zc__writer *w) {
    ZC__ASSERT_HELD(&s->lock);
    bool later = true;
    for (zc__writer *x = s->writers; (x = zc__writer_of(x, w->hash)) != NULL; x = x->next) {
        later = later && x != w;
        if (x->state == ZC__WRITING || (later && x->state == ZC__READY)) return false;
    }
    return true;
}

/* Waits for one's turn to write. False: a later change of the key has been written meanwhile. */
static bool zc__write_turn(zc__shard *s, zc__writer *w) {
    zc__monitor_lock(&s->order);
    zc__spin_lock(&s->lock);
    if (w->state == ZC__JOINED) w->state = ZC__READY;
    while (ZC__CAN_SLEEP && w->state == ZC__READY && !zc__writer_goes(s, w)) {
        s->sleepers++;
        zc__spin_unlock(&s->lock);
        zc__monitor_sleep(&s->order, ZC_NEVER);
        zc__spin_lock(&s->lock);
        s->sleepers--;
    }
    bool mine = w->state == ZC__READY;
    if (mine) w->state = ZC__WRITING;
    if (mine) ZC__LOCKED(w); /* others wait for it, as for a lock */
    zc__spin_unlock(&s->lock);
    zc__monitor_unlock(&s->order);
    return mine;
}

/* The storage has this change, and so nothing of those before it has to be written any more. */
static void zc__written(zc__shard *s, zc__writer *w) {
    ZC__UNLOCKING(w);
    zc__spin_lock(&s->lock);
    zc__writer **at = &s->writers;
    while (*at && *at != w) at = &(*at)->next; /* after a fork it is not there */
    while (*at) {
        if ((*at)->hash == w->hash) {
            (*at)->state = ZC__WRITTEN;
            *at = (*at)->next;
        } else {
            at = &(*at)->next;
        }
    }
    bool wake = s->sleepers != 0;
    zc__spin_unlock(&s->lock);
    if (wake) zc__monitor_notify(&s->order);
}

static bool zc__is_writing(zc__flight *f) {
    zc__spin_lock(&f->shard->lock);
    bool writing = zc__writer_of(f->shard->writers, f->hash) != NULL;
    zc__spin_unlock(&f->shard->lock);
    return writing;
}

/* Is what the storage has of a flight's key about to be replaced or deleted? If that begins later,
 * the flight is fenced. Entries join the queue and leave it while their key is being written, so
 * that between two looks at that none goes unseen. */
static bool zc__store_is_old(zc_cache *c, zc__flight *f) {
#ifdef ZOOCACHE_WITH_BUS
    if (zc__is_writing(f) || zc__behind_has(c, zc__flight_key(f))) return true;
#else
    (void)c;
#endif
    return zc__is_writing(f);
}

/* The storage is asked only while its records can be judged. */
static bool zc__store_readable(zc_cache *c, uint64_t *lease, uint32_t *epoch) {
    return zc__bus_gate(c, ZC_SILENCE_BYPASS, lease) == ZC_OK && zc__store_up(c, epoch);
}

/* Looks the fill's key up in the storage. ZC_OK: the fill has its value. Else as zc__store_take. */
static ZC__NOINLINE int zc__store_load(zc_fill *fill) {
    zc_cache *c = fill->cache;
    zc_sink sink;
    uint64_t lease;
    uint32_t epoch;
    if (!zc__store_readable(c, &lease, &epoch) || zc__store_is_old(c, fill->flight)) return ZC_MISS;
    zc__sink_init(&sink, c);
    int got = c->desc.store.get(c->desc.store.user, zc__flight_key(fill->flight), &sink);
    return zc__store_take(fill, zc__store_outcome(c, epoch, got), &sink, lease);
}

/* The end of a deadline of the monotonic clock, on the wall clock; 0 for ZC_NEVER. */
static uint64_t zc__until_ms(uint64_t at, uint64_t now, uint64_t now_ms) {
    if (at == ZC_NEVER) return 0;
    return zc__add_sat(now_ms, at > now ? (at - now) / ZC_MILLISECOND : 0);
}

/* Trusts none of the records that there are, in the next life neither. */
static void zc__store_distrust(zc_cache *c) {
    const zc_store *st = &c->desc.store;
    if (zc__bus_on(c)) {
        zc__bus_distrust(&c->bus);
        return;
    }
    uint64_t v = zc__trie_stamp(&c->trie, NULL, 0, 0);
    zc_bytes root = zc_slice("", 0);
    zc__atomic_raise(&c->trusted, v);
    if (zc__keeps_versions(c) && st->tag_put(st->user, &root, 1, v) >= 0)
        zc__atomic_raise(&c->kept, v);
}

/* Deletes a record; if that fails, or the storage was spared (ZC_PENDING), trusts none. It is the
 * caller's turn. */
static int zc__store_del(zc_cache *c, zc_bytes key, const zc__writer *w) {
    const zc_store *st = &c->desc.store;
    uint32_t epoch;
    int rc = ZC_PENDING;
    if (zc__store_up(c, &epoch)) {
        ZC__APART(rc = st->del(st->user, key));
        rc = zc__store_outcome(c, epoch, rc);
    }
    bool later = rc == ZC_E_BUSY && w->again;
    if ((rc < 0 && !later) || rc == ZC_PENDING) zc__store_distrust(c);
    return rc;
}

#ifdef ZOOCACHE_WITH_BUS
/* The record of a value in parts, without them if the storage takes them. */
static int zc__store_encode_parts(zc_cache *c, zc_record *r, zc__buf *b) {
    const zc_bytes *parts = (const zc_bytes *)r->value.ptr;
    size_t n = r->value.len / sizeof *parts;
    bool whole = !c->desc.store.put_parts;
    XXH3_state_t x;
    r->value = zc_slice(NULL, 0);
    for (size_t i = 0; i < n; i++) {
        if (parts[i].len > UINT32_MAX / 2 - r->value.len) return ZC_E_INVAL;
        r->value.len += parts[i].len;
    }
    int rc = zc__record_front(&c->mem, r, b);
    if (rc != ZC_OK) return rc;
    if (whole && !zc__buf_reserve(&c->mem, b, r->value.len)) return ZC_E_NOMEM;
    zc__put_le(b->ptr + 72, r->value.len, 4);
    memset(&x, 0, sizeof x);
    (void)XXH3_64bits_reset_withSeed(&x, zc__get64(b->ptr));
    (void)XXH3_64bits_update(&x, b->ptr + 16, b->size - 16);
    for (size_t i = 0; i < n; i++) {
        if (!parts[i].len) continue;
        (void)XXH3_64bits_update(&x, parts[i].ptr, parts[i].len);
        if (!whole) continue;
        memcpy(b->ptr + b->size, parts[i].ptr, parts[i].len);
        b->size += parts[i].len;
    }
    zc__put_le(b->ptr + 8, XXH3_64bits_digest(&x), 8);
    return ZC_OK;
}

static int zc__store_encode(zc_cache *c, const zc__entry *e, zc_record *r, zc__buf *b) {
    return e->flags & ZC__PARTS ? zc__store_encode_parts(c, r, b)
                                : zc__record_encode(&c->mem, r, b);
}

static int zc__store_put(const zc_store *st, const zc__entry *e, zc_bytes record, uint64_t end_ms) {
    zc_bytes key = zc__entry_key(e), parts = zc__entry_raw(e);
    if (!(e->flags & ZC__PARTS) || !st->put_parts) return st->put(st->user, key, record, end_ms);
    return st->put_parts(st->user, key, record, (const zc_bytes *)parts.ptr,
                         parts.len / sizeof(zc_bytes), end_ms);
}
#else
#  define zc__store_encode(c, e, r, b) zc__record_encode(&(c)->mem, r, b)
#  define zc__store_put(st, e, record, end_ms)                                                    \
      (st)->put((st)->user, zc__entry_key(e), record, end_ms)
#endif

/* The texts of an entry's dependencies, in `size` bytes. NULL: there are none, or no memory. */
static zc_bytes *zc__store_deps(zc_cache *c, zc__entry *e, size_t *size) {
    zc_tag **nodes = zc__entry_deps(e);
    *size = e->ndeps * sizeof(zc_bytes);
    for (size_t i = 0; i < e->ndeps; i++) *size += zc__tag_len(nodes[i]);
    zc_bytes *deps = *size ? (zc_bytes *)zc__alloc(&c->mem, *size) : NULL;
    char *text = deps ? (char *)(deps + e->ndeps) : NULL;
    for (size_t i = 0; i < e->ndeps && deps; i++) {
        deps[i] = zc_slice(text, zc__tag_text(nodes[i], text));
        text += deps[i].len;
    }
    return deps;
}

/* Writes an entry that ends at `end`, as a record whose `begin`, generation and mark are known. */
static int zc__store_record(zc_cache *c, zc__entry *e, zc_record *r, uint64_t end,
                            uint32_t epoch) {
    uint64_t now = zc__now(c), now_ms = zc__wall_ms(c), hard = end;
    zc__buf record;
    size_t size;
    zc_bytes *deps = zc__store_deps(c, e, &size);
    if (size && !deps) return ZC_E_NOMEM;
    memset(&record, 0, sizeof record);
    r->key = zc__entry_key(e);
    r->absent = (e->flags & ZC__ABSENT) != 0;
    r->value = zc__entry_raw(e);
#ifndef ZOOCACHE_NO_LZ4
    r->plain = (e->flags & ZC__PLAIN) != 0;
#endif
    r->deps = deps;
    r->ndeps = e->ndeps;
    if (e->flags & ZC__EXTRAS) {
        const zc__extras *x = zc__entry_extras(e);
        hard = x->hard;
        r->soft_ms = zc__until_ms(x->soft, now, now_ms);
        r->tti_ms = x->tti / ZC_MILLISECOND;
        r->grace_ms = x->grace / ZC_MILLISECOND;
    }
    if (c->desc.store_ttl) hard = end = zc__add_sat(now, c->desc.store_ttl);
    r->expires_ms = zc__until_ms(hard, now, now_ms);
    int rc = zc__store_encode(c, e, r, &record);
    if (rc == ZC_OK) {
        ZC__APART(rc = zc__store_put(&c->desc.store, e, zc_slice(record.ptr, record.size),
                                     zc__until_ms(end, now, now_ms)));
        rc = zc__store_outcome(c, epoch, rc);
    }
    zc__buf_free(&c->mem, &record);
    zc__free(&c->mem, deps, size);
    return rc;
}

/* Writes an entry, which is pinned, to the storage. If it replaces what may be there, an object, or
 * what cannot be written or is dead by now, at least takes that away. It is the caller's turn. */
static int zc__store_save(zc_cache *c, zc__entry *e, const zc__writer *w) {
    zc__shard *s = zc__shard_of(c, zc__entry_hash(c, e));
    unsigned char mark[ZC__MARK];
    zc_record r;
    memset(&r, 0, sizeof r);
    r.generation = c->generation;
    zc__spin_lock(&s->lock);
    r.begin = e->begin;
    uint64_t end = e->expires;
    zc__spin_unlock(&s->lock);
    uint64_t kept = zc__atomic_load_acq(&c->kept);
    if (zc__keeps_versions(c) && r.begin > kept) r.begin = kept;
    uint32_t epoch = zc__store_epoch(c);
    bool can = !(e->flags & ZC__OBJECT) && !(epoch & 1) &&
               (!zc__bus_on(c) || zc__bus_position(c, e, &r, mark));
    if (!can) return w->replaces ? zc__store_del(c, zc__entry_key(e), w) : ZC_OK;
    int rc = zc__store_record(c, e, &r, end, epoch);
    if (rc >= 0 || !w->replaces || (rc == ZC_E_BUSY && w->again)) return rc;
    if (zc__store_was_slow(rc)) zc__store_distrust(c);
    else (void)zc__store_del(c, zc__entry_key(e), w);
    return rc;
}

/* Keeps a version in the storage, if it keeps versions. */
static int zc__store_stamp(zc_cache *c, const zc_bytes *tags, size_t n, uint64_t version) {
    const zc_store *st = &c->desc.store;
    if (!st->tag_put) return ZC_OK;
    int rc = st->tag_put(st->user, tags, n, version);
    if (rc >= 0) {
        zc__atomic_raise(&c->kept, version);
        return ZC_OK;
    }
    zc__store_fault(c, tags[0], rc);
    return ZC_E_STORE;
}

#ifdef ZOOCACHE_WITH_BUS
/* ---- a copy of a value, from where the storage has it ---- */

#define ZC__COPYING_DEPS 16u /* at most, of a record that is read so */

struct zc__copying {
    zc_cache *cache;
    zc_bytes key;
    void *to;
    size_t cap, len;
    zc_record record;
    int rc; /* ZC_MORE: the storage has not shown such a record */
};

static int zc__copying_judge(zc_cache *c, const zc_record *r, const zc__record_body *body) {
    zc_bytes deps[ZC__COPYING_DEPS];
    zc_tag *nodes[ZC__COPYING_DEPS] = {NULL};
    uint64_t begin;
    size_t n = 0;
    int rc = ZC_OK;
    if (!zc__record_deps(body, r->ndeps, deps)) return ZC_E_CORRUPT;
    if (r->expires_ms && zc__left(r->expires_ms, zc__wall_ms(c)) == 0) return ZC_MISS;
    for (; n < r->ndeps && rc == ZC_OK; n += rc == ZC_OK)
        rc = zc__tag_get(c, deps[n], true, &nodes[n]);
    if (rc == ZC_OK) rc = zc__store_judge(c, r, nodes, n, &begin);
    else rc = rc == ZC_E_NOMEM ? ZC_MORE : ZC_E_CORRUPT;
    while (n > 0) zc__tag_unref(&c->trie, nodes[--n]);
    return rc;
}

/* Judges the record, and copies its value. False: it is not whole, or has too many dependencies. */
static bool zc__copying_take(void *user, zc_bytes bytes) {
    zc__copying *w = (zc__copying *)user;
    zc_record *r = &w->record;
    zc__record_body body;
    if (w->rc != ZC_MORE || zc__record_open(bytes, UINT32_MAX / 2, r, &body) != ZC_OK ||
        r->ndeps > ZC__COPYING_DEPS)
        return false;
    bool same = r->key.len == w->key.len && memcmp(r->key.ptr, w->key.ptr, w->key.len) == 0;
    w->rc = same ? zc__copying_judge(w->cache, r, &body) : ZC_E_CORRUPT;
    if (w->rc == ZC_OK && r->absent) w->rc = ZC_ABSENT;
    if (w->rc != ZC_OK) return true;
    size_t len = r->value.len;
    if (len > w->cap) w->rc = ZC_E_RANGE;
    else if (body.packed && !zc__record_unpack(&body, w->to, len)) w->rc = ZC_E_CORRUPT;
    else if (r->soft_ms && zc__left(r->soft_ms, zc__wall_ms(w->cache)) == 0) w->rc = ZC_STALE;
    if (w->rc == ZC_E_CORRUPT) return true;
    if (w->rc != ZC_E_RANGE && !body.packed && len) memcpy(w->to, body.value, len);
    w->len = len;
    return true;
}

/* Reads a value that the table need not have: no fill, no entry, no memory. False: it is for
 * zc__get_through(). */
static bool zc__store_copy(zc__copying *w) {
    zc_cache *c = w->cache;
    zc_sink sink;
    uint32_t epoch;
    w->rc = ZC_MISS;
    if (!zc__store_up(c, &epoch)) return true;
    zc__sink_init(&sink, c);
    sink.take = zc__copying_take;
    sink.user = w;
    w->rc = ZC_MORE;
    int got = zc__store_outcome(c, epoch, c->desc.store.get(c->desc.store.user, w->key, &sink));
    if (got != ZC_OK || sink.buf.size) { /* it failed later on, or there was more than a record */
        w->rc = got != ZC_OK ? got : ZC_MORE;
        w->len = 0;
    }
    zc__buf_free(&c->mem, &sink.buf);
    if (w->rc == ZC_MORE) return false;
    if (w->rc == ZC_MISS || (w->rc < 0 && w->rc != ZC_E_RANGE)) {
        if (w->rc < 0) zc__store_fault(c, w->key, w->rc);
        else zc__count(&c->store_stale, got == ZC_OK);
        if (!zc__seal_refuses(c, w->rc)) w->rc = ZC_MISS;
        return true;
    }
    zc__count(&c->hits_store, 1);
    zc__store_used(c, w->key, &w->record);
    return true;
}

/* ---- write-behind ---- */

static bool zc__behind_make(zc_cache *c) {
    c->behind = (zc__entry **)zc__alloc(&c->mem, ZC__BEHIND * sizeof *c->behind);
    return c->behind != NULL;
}

/* Leaves an entry to housekeeping; false: it is to be written now. Its key is being written. */
static bool zc__behind_add(zc_cache *c, zc__entry *e) {
    if (!c->desc.write_behind || e->flags & ZC__PARTS) return false;
    zc__spin_lock(&c->behind_lock);
    bool room = c->behind && c->behind_end - c->behind_at < ZC__BEHIND;
    if (room) {
        zc__entry_pin(e);
        c->behind[c->behind_end++ % ZC__BEHIND] = e;
    }
    zc__spin_unlock(&c->behind_lock);
    return room;
}

/* Takes the entries of a key out of the queue, or all. The key is being written: what was queued
 * before must not be written after. Those whose last pin was the queue's are chained to *spent. */
static void zc__behind_forget(zc_cache *c, const zc_bytes *key, zc__entry **spent) {
    if (!c->behind) return;
    zc__spin_lock(&c->behind_lock);
    uint32_t i = c->behind_at, end = c->behind_end;
    zc__spin_unlock(&c->behind_lock);
    for (; i != end; i++) {
        zc__spin_lock(&c->behind_lock);
        bool waits = i - c->behind_at < ZC__BEHIND; /* or others have written it meanwhile */
        zc__entry **at = &c->behind[i % ZC__BEHIND], *e = waits ? *at : NULL;
        if (e && key && !zc__entry_is(e, *key)) e = NULL;
        if (e) *at = NULL;
        zc__spin_unlock(&c->behind_lock);
        if (!e || zc__atomic_sub_acqrel(&e->refs, 1u) != 1) continue;
        e->next = *spent;
        *spent = e;
    }
}

/* Ends entries without a pin. */
static void zc__entries_destroy(zc_cache *c, zc__entry *spent) {
    ZC__CALLS_OUT();
    for (zc__entry *next; spent; spent = next) {
        next = spent->next;
        zc__entry_destroy(c, spent);
        zc__cache_unref(c);
    }
}

/* The first that waits, pinned, or NULL. */
static zc__entry *zc__behind_first(zc_cache *c) {
    zc__entry *e = NULL;
    zc__spin_lock(&c->behind_lock);
    while (c->behind_at != c->behind_end && !(e = c->behind[c->behind_at % ZC__BEHIND]))
        c->behind_at++;
    if (e) zc__entry_pin(e);
    zc__spin_unlock(&c->behind_lock);
    return e;
}

static void zc__behind_end(zc_cache *c) {
    zc__entry *spent = NULL;
    zc__behind_forget(c, NULL, &spent);
    zc__entries_destroy(c, spent);
    zc__free(&c->mem, c->behind, ZC__BEHIND * sizeof *c->behind);
    c->behind = NULL;
}

/* Is an entry still the first? `take`: takes it out, with the queue's pin. */
static bool zc__behind_starts(zc_cache *c, const zc__entry *e, bool take) {
    zc__spin_lock(&c->behind_lock);
    bool first = c->behind_at != c->behind_end && c->behind[c->behind_at % ZC__BEHIND] == e;
    c->behind_at += first && take;
    zc__spin_unlock(&c->behind_lock);
    return first;
}

/* Writes the entry that has waited longest. False: none waits, somebody is writing its key, the
 * storage is spared, or there is no time: then it goes on waiting. */
static bool zc__behind_write(zc_cache *c) {
    zc__entry *e = c->behind ? zc__behind_first(c) : NULL;
    if (!e) return false;
    uint64_t hash = zc__entry_hash(c, e);
    zc__shard *s = zc__shard_of(c, hash);
    zc__writer w;
    zc__spin_lock(&s->lock);
    bool goes = !zc__store_is_open(c) && !zc__writer_of(s->writers, hash);
    if (goes) {
        zc__writes(s, &w, hash, true);
        w.state = ZC__WRITING;
        w.again = true;
        ZC__LOCKED(&w); /* as by zc__write_turn() */
    }
    zc__spin_unlock(&s->lock);
    bool first = goes && zc__behind_starts(c, e, false);
    int rc = first ? zc__store_save(c, e, &w) : ZC_OK;
    bool later = rc == ZC_E_BUSY, taken = first && !later && zc__behind_starts(c, e, true);
    if (goes) zc__written(s, &w);
    if (rc < 0 && !later) zc__store_fault(c, zc__entry_key(e), rc);
    if (taken) zc__entry_unpin(c, e); /* the queue's */
    zc__entry_unpin(c, e);
    return goes && !later;
}

/* ---- one loader in the fleet ---- */

#define ZC__FLEET_PAUSE (50 * ZC_MILLISECOND) /* between looks for another node's record */

/* Locks the fill's key in the storage, or waits until the other's record is there, or until
 * `until`. ZC_OK: the fill has its value; ZC_MISS: the loader is to run; ZC_E_TIMEOUT. */
static int zc__fleet_lock(zc_fill *fill, uint64_t until, uint64_t *token) {
    zc_cache *c = fill->cache;
    const zc_store *st = &c->desc.store;
    zc_bytes key = zc__flight_key(fill->flight);
    uint64_t pause = 2 * ZC_MILLISECOND, random = c->seed ^ fill->started;
    *token = 0;
    if (!zc__has_store(c) || !st->lock || fill->unsaved) return ZC_MISS;
    for (uint32_t epoch; zc__store_up(c, &epoch);) {
        uint64_t now = zc__mono(&c->clock);
        if (now >= fill->flight->lease) return ZC_MISS;
        uint64_t left = fill->flight->lease - now;
        int rc = zc__store_outcome(c, epoch, st->lock(st->user, key, left, token));
        if (rc != ZC_OK) *token = 0;
        if (rc < 0) zc__store_fault(c, key, rc);
        fill->unsaved = fill->unsaved || zc__store_was_slow(rc);
        if (*token) { /* the flight outlives its fill: it has the key */
            zc__spin_lock(&fill->flight->shard->lock);
            fill->flight->link.refs++;
            zc__spin_unlock(&fill->flight->shard->lock);
        }
        if (rc != ZC_MISS || (until && !ZC__CAN_SLEEP)) return ZC_MISS;
        if ((now = zc__mono(&c->clock)) >= until) return ZC_E_TIMEOUT;
        uint64_t nap = pause / 2 + zc__random(&random) % (pause / 2);
        zc__monitor_lock(&fill->flight->monitor);
        zc__monitor_sleep(&fill->flight->monitor, nap < until - now ? nap : until - now);
        zc__monitor_unlock(&fill->flight->monitor);
        if (pause < ZC__FLEET_PAUSE) pause *= 2;
        if ((rc = zc__store_load(fill)) != ZC_MISS) return rc;
    }
    return ZC_MISS;
}

/* Who lost the lock to another, because its lease was over, does not write over the other's. */
static void zc__fleet_check(zc_fill *fill, uint64_t token) {
    zc_cache *c = fill->cache;
    uint32_t epoch;
    if (!token || !zc__store_up(c, &epoch)) return;
    zc_bytes key = zc__flight_key(fill->flight);
    int rc = c->desc.store.lock(c->desc.store.user, key, ZC_SECOND, &token);
    if (zc__store_outcome(c, epoch, rc) == ZC_MISS || zc__store_was_slow(rc)) fill->unsaved = true;
    zc__store_log_fault(c);
}

static void zc__fleet_unlock(zc_cache *c, zc__flight *f, uint64_t token) {
    const zc_store *st = &c->desc.store;
    uint32_t epoch;
    if (zc__store_up(c, &epoch))
        (void)zc__store_outcome(c, epoch, st->unlock(st->user, zc__flight_key(f), token));
    zc__store_log_fault(c);
    zc__flight_unref(c, f);
}

#else
struct zc__copying {
    int rc;
};
static inline bool zc__store_copy(zc__copying *w) { (void)w; return false; }
static inline bool zc__behind_make(zc_cache *c) { (void)c; return true; }
static inline void zc__behind_end(zc_cache *c) { (void)c; }
static inline bool zc__behind_add(zc_cache *c, zc__entry *e) { (void)c; (void)e; return false; }
#  define zc__behind_forget(c, key, spent) ((void)0)
static inline void zc__entries_destroy(zc_cache *c, zc__entry *spent) { (void)c; (void)spent; }
static inline bool zc__behind_write(zc_cache *c) { (void)c; return false; }
#  define zc__fleet_lock(fill, until, token) ((void)(until), *(token) = 0, ZC_MISS)
static inline void zc__fleet_check(zc_fill *fill, uint64_t token) { (void)fill; (void)token; }
#  define zc__fleet_unlock(c, f, token) ((void)(f))
#endif

/* A step of housekeeping. False: there is nothing to do. */
static bool zc__store_keep(zc_cache *c) {
    zc__store_try(c);
    return zc__behind_write(c);
}

/* Brings a change to the storage when it is its turn: an entry, now or later; NULL: the key is
 * deleted. */
static void zc__store_through(zc_cache *c, zc__shard *s, zc__writer *w, zc_bytes key,
                              zc__entry *e) {
    int rc = ZC_OK;
    zc__entry *spent = NULL;
    if (!zc__write_turn(s, w)) return;
    if (!e || !zc__behind_add(c, e)) {
        zc__behind_forget(c, &key, &spent);
        rc = e ? zc__store_save(c, e, w) : zc__store_del(c, key, w);
    }
    zc__written(s, w);
    zc__entries_destroy(c, spent);
    if (rc < 0) zc__store_fault(c, key, rc);
}

#ifdef ZOOCACHE_WITH_SEAL
/* ============================================================================================
 * >>seal   Records that tell a storage nothing
 *   Idea        The cache's storage is one that has another inside: keys become names, records are
 *               sealed, on their way in, and opened on their way out. Of the rest, >>store alone
 *               knows, by the errors that it counts, and >>bus, which does the same with tags. The
 *               process that has the key has the values anyway: its table is as ever.
 *   Envelope    "ZCS1", key id (4), nonce (24), ciphertext of the whole record, tag (16).
 *               XAES-256-GCM (C2SP, XAES-256-GCM.md): AES-256-GCM by a key derived for each message
 *               from the first half of its nonce. Nonces are random; 2^80 of them are safe, so
 *               there is nothing to count or to keep. They are drawn many at a time, into a page
 *               that the kernel empties in the child of a fork; where it cannot, one by one. The
 *               head and the key are authenticated: a record that was moved to another key does
 *               not open. The key id picks from the ring; nothing is tried.
 *   Keys        All by HKDF-SHA256 (RFC 5869) from a key of the ring: its id; the key of names;
 *               for each scope the one that seals. Names and scopes have the prefix in them: what
 *               was sealed for another cache does not open. The id is the same for all scopes, and
 *               links nobody.
 *   Names       HMAC-SHA256, 16 bytes of it: who does not have the key cannot try out what a name
 *               stands for.
 *   Tags        ":", key id, 16 bytes of the tag's HMAC, and the tag by AES-256 in counter mode
 *               from there: SIV (Rogaway, Shrimpton 2006), which without a nonce tells equals from
 *               others, and nothing else. The same tag has the same name, so that versions are
 *               found by it; who has the key reads the tag, be it known here or not, and sees if it
 *               was changed. A path and those above it have nothing in common.
 *   Rotation    The first key seals records, and gives their names. What is under the name of an
 *               older key is found by it, and gives way to what is written. Tags are named by every
 *               key, and versions asked for by every key: a node without the old ones is to know
 *               what was said before, one without the new one what is said now.
 *   Failure     is a miss, counted (store_forged, store_unkeyed) and told; with seal_strict the
 *               caller's error, and the record is left as it is. A record that is not sealed is a
 *               forgery.
 *   Locking     none: who seals takes a context out of a few slots, or makes one, and puts it back
 *   Cost        1 to 2 us to seal 1 KiB or to open it, 0.3 us for a name
 * ========================================================================================== */

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#define ZC__SEAL_MAGIC "ZCS1"
#define ZC__SEAL_ID 4u
#define ZC__SEAL_HALF 12u /* of a nonce */
#define ZC__SEAL_AAD 8u   /* magic and id */
#define ZC__SEAL_HEAD (ZC__SEAL_AAD + 2 * ZC__SEAL_HALF)
#define ZC__SEAL_TAG 16u
#define ZC__SEAL_BLOCK 16u
#define ZC__SEAL_ROOM 65536u /* bytes of a context that are kept */
#define ZC__SEAL_SPARE 16u   /* contexts that wait */
#define ZC__SEAL_SCOPES 8u   /* keys of scopes that a context knows */
#define ZC__SEAL_SCOPE 256u  /* bytes of a scope that it knows by; longer ones are derived anew */

typedef struct zc__seal_scope {
    size_t len;
    unsigned ring;
    unsigned char name[ZC__SEAL_SCOPE], key[ZC_SEAL_KEY];
    bool known;
} zc__seal_scope;

#if defined(ZC__PAGES) && !defined(MAP_ANONYMOUS) && (defined(__x86_64__) || defined(__aarch64__))
#  define MAP_ANONYMOUS 0x20 /* strict -std=c11 hides both */
#endif
#ifndef MADV_WIPEONFORK
#  define MADV_WIPEONFORK 18
#endif

typedef struct zc__seal_pool {
    size_t left; /* of the random bytes, the first */
    unsigned char bytes[4096 - sizeof(size_t)];
} zc__seal_pool;

/* What one thread needs at a time. */
typedef struct zc__seal_context {
    EVP_CIPHER_CTX *block, *gcm, *ctr;
    EVP_MD_CTX *mac;
    unsigned char *buf; /* of `size` bytes */
    size_t size;
    zc__seal_pool *pool; /* NULL: it would not be empty after a fork */
    zc__seal_scope scopes[ZC__SEAL_SCOPES];
} zc__seal_context;

/* SHA-256 after HMAC's first blocks. */
typedef struct zc__seal_mac {
    EVP_MD_CTX *inner, *outer;
} zc__seal_mac;

typedef struct zc__seal_ring {
    unsigned char id[ZC__SEAL_ID], key[ZC_SEAL_KEY], text[ZC_SEAL_KEY]; /* text: of tags */
    zc__seal_mac names, tags;
} zc__seal_ring;

typedef struct zc__seal {
    zc__seal_ring ring[ZC_SEAL_KEYS];
    unsigned nkeys;
    zc_bytes (*scope_of)(void *user, zc_bytes key);
    void *user;
    uintptr_t spare[ZC__SEAL_SPARE];
    unsigned char *prefix;
    size_t prefix_len;
} zc__seal;

/* ---- keys ---- */

/* SHA-256 that has taken HMAC's first block: the key with each byte changed by `pad` (RFC 2104). */
static EVP_MD_CTX *zc__hmac_begin(const unsigned char *key, unsigned char pad) {
    unsigned char block[64];
    memset(block, pad, sizeof block);
    for (unsigned i = 0; i < ZC_SEAL_KEY; i++) block[i] ^= key[i];
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool ok = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) > 0 &&
              EVP_DigestUpdate(c, block, sizeof block) > 0;
    OPENSSL_cleanse(block, sizeof block);
    if (ok) return c;
    EVP_MD_CTX_free(c);
    return NULL;
}

static bool zc__mac_make(zc__seal_mac *m, const unsigned char *key) {
    m->inner = zc__hmac_begin(key, 0x36);
    m->outer = zc__hmac_begin(key, 0x5c);
    return m->inner && m->outer;
}
static void zc__mac_free(const zc__seal_mac *m) {
    EVP_MD_CTX_free(m->inner);
    EVP_MD_CTX_free(m->outer);
}

/* HMAC-SHA256 of n parts, one after the other. */
static bool zc__mac_run(const zc__seal_mac *m, EVP_MD_CTX *work, const zc_bytes *parts, size_t n,
                        unsigned char out[ZC_SEAL_KEY]) {
    bool ok = EVP_MD_CTX_copy_ex(work, m->inner) > 0;
    for (size_t i = 0; i < n && ok; i++)
        ok = !parts[i].len || EVP_DigestUpdate(work, parts[i].ptr, parts[i].len) > 0;
    return ok && EVP_DigestFinal_ex(work, out, NULL) > 0 &&
           EVP_MD_CTX_copy_ex(work, m->outer) > 0 && EVP_DigestUpdate(work, out, ZC_SEAL_KEY) > 0 &&
           EVP_DigestFinal_ex(work, out, NULL) > 0;
}

static bool zc__hmac(const unsigned char *key, const zc_bytes *parts, size_t n,
                     unsigned char *out) {
    zc__seal_mac m;
    EVP_MD_CTX *work = EVP_MD_CTX_new();
    bool ok = zc__mac_make(&m, key) && work && zc__mac_run(&m, work, parts, n, out);
    EVP_MD_CTX_free(work);
    zc__mac_free(&m);
    return ok;
}

/* HKDF-SHA256 without salt, its first block; info: what it is for, and two parts, the first with
 * its length. */
static bool zc__seal_derive(const unsigned char *key, const char *purpose, zc_bytes prefix,
                            zc_bytes scope, unsigned char *out) {
    unsigned char none[ZC_SEAL_KEY] = {0}, extracted[ZC_SEAL_KEY], size[8], one = 1;
    zc__put_le(size, prefix.len, 8);
    zc_bytes whole = zc_slice(key, ZC_SEAL_KEY);
    zc_bytes info[] = {zc_str(purpose), zc_slice(size, 8), prefix, scope, zc_slice(&one, 1)};
    bool ok = zc__hmac(none, &whole, 1, extracted) && zc__hmac(extracted, info, 5, out);
    OPENSSL_cleanse(extracted, sizeof extracted);
    return ok;
}

#if defined(ZC__PAGES) && defined(MAP_ANONYMOUS)
static void zc__seal_pool_free(zc__seal_pool *p) {
    if (!p) return;
    OPENSSL_cleanse(p, sizeof *p);
    (void)munmap((void *)p, sizeof *p);
}
/* Some emulators take any advice and heed none. */
static zc__seal_pool *zc__seal_pool_make(void) {
    void *p = mmap(NULL, sizeof(zc__seal_pool), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (madvise(p, sizeof(zc__seal_pool), MADV_WIPEONFORK) == 0 &&
        madvise(p, sizeof(zc__seal_pool), -1) != 0)
        return (zc__seal_pool *)p;
    zc__seal_pool_free((zc__seal_pool *)p);
    return NULL;
}
#else
static void zc__seal_pool_free(zc__seal_pool *p) { (void)p; }
static zc__seal_pool *zc__seal_pool_make(void) { return NULL; }
#endif

/* No bytes are given twice. */
static bool zc__seal_nonce(zc__seal_pool *p, unsigned char *out) {
    size_t n = 2 * ZC__SEAL_HALF;
    if (!p) return RAND_bytes(out, (int)n) > 0;
    if (p->left < n) {
        if (RAND_bytes(p->bytes, (int)sizeof p->bytes) <= 0) return false;
        p->left = sizeof p->bytes;
    }
    p->left -= n;
    memcpy(out, p->bytes + p->left, n);
    return true;
}

static void zc__seal_context_free(zc__seal_context *x) {
    if (!x) return;
    zc__seal_pool_free(x->pool);
    EVP_CIPHER_CTX_free(x->block);
    EVP_CIPHER_CTX_free(x->gcm);
    EVP_CIPHER_CTX_free(x->ctr);
    EVP_MD_CTX_free(x->mac);
    OPENSSL_clear_free(x->buf, x->size);
    OPENSSL_clear_free(x, sizeof *x);
}

/* A context with `size` bytes of room, which is the caller's until he gives it back. */
static zc__seal_context *zc__seal_take(zc__seal *s, size_t size) {
    zc__seal_context *x = NULL;
    for (unsigned i = 0; i < ZC__SEAL_SPARE && !x; i++) {
        uintptr_t p = zc__atomic_load_acq(&s->spare[i]);
        if (p && zc__atomic_cas(&s->spare[i], &p, (uintptr_t)0)) x = (zc__seal_context *)p;
    }
    if (!x && (x = (zc__seal_context *)OPENSSL_zalloc(sizeof *x)) != NULL) {
        x->block = EVP_CIPHER_CTX_new();
        x->gcm = EVP_CIPHER_CTX_new();
        x->ctr = EVP_CIPHER_CTX_new();
        x->pool = zc__seal_pool_make();
        x->mac = EVP_MD_CTX_new();
        if (!x->block || !x->gcm || !x->ctr || !x->mac ||
            EVP_EncryptInit_ex(x->block, EVP_aes_256_ecb(), NULL, NULL, NULL) <= 0 ||
            EVP_CIPHER_CTX_set_padding(x->block, 0) <= 0 ||
            EVP_EncryptInit_ex(x->gcm, EVP_aes_256_gcm(), NULL, NULL, NULL) <= 0 ||
            EVP_EncryptInit_ex(x->ctr, EVP_aes_256_ctr(), NULL, NULL, NULL) <= 0) {
            zc__seal_context_free(x);
            return NULL;
        }
    }
    bool ok = x != NULL;
    if (ok && x->size < size) {
        OPENSSL_clear_free(x->buf, x->size);
        x->buf = (unsigned char *)OPENSSL_malloc(size);
        x->size = x->buf ? size : 0;
        ok = x->buf != NULL;
    }
    if (ok) return x;
    zc__seal_context_free(x);
    return NULL;
}

/* `used` bytes of its room may hold what is secret. */
static void zc__seal_give(zc__seal *s, zc__seal_context *x, size_t used) {
    if (used) OPENSSL_cleanse(x->buf, used);
    for (unsigned i = 0; i < ZC__SEAL_SPARE && x->size <= ZC__SEAL_ROOM; i++) {
        uintptr_t none = 0;
        if (!zc__atomic_load_rlx(&s->spare[i]) &&
            zc__atomic_cas(&s->spare[i], &none, (uintptr_t)x))
            return;
    }
    zc__seal_context_free(x);
}

/* The key that seals in a scope. Borrowed from the context, until its next use. */
static const unsigned char *zc__seal_scope_key(const zc__seal *s, zc__seal_context *x,
                                               unsigned ring, zc_bytes scope) {
    zc_bytes prefix = zc_slice(s->prefix, s->prefix_len);
    bool fits = scope.len <= ZC__SEAL_SCOPE;
    zc__seal_scope *k = &x->scopes[fits ? zc__hash(scope, ring) % ZC__SEAL_SCOPES : 0];
    if (fits && k->known && k->ring == ring && k->len == scope.len &&
        (!scope.len || memcmp(k->name, scope.ptr, scope.len) == 0))
        return k->key;
    k->known = false;
    if (!zc__seal_derive(s->ring[ring].key, "zoocache seal", prefix, scope, k->key))
        return NULL;
    k->known = fits;
    k->ring = ring;
    k->len = scope.len;
    if (fits && scope.len) memcpy(k->name, scope.ptr, scope.len);
    return k->key;
}

/* ---- XAES-256-GCM ---- */

/* The key of one message: CMAC-AES256 of a counter, "X", and the first half of the nonce. */
static bool zc__xaes_derive(EVP_CIPHER_CTX *block, const unsigned char *key,
                            const unsigned char *nonce, unsigned char *out) {
    unsigned char sub[ZC__SEAL_BLOCK] = {0}, in[2 * ZC__SEAL_BLOCK];
    int n = 0;
    bool ok = EVP_EncryptInit_ex(block, NULL, NULL, key, NULL) > 0 &&
              EVP_EncryptUpdate(block, sub, &n, sub, ZC__SEAL_BLOCK) > 0;
    unsigned carry = sub[0] >> 7;
    for (unsigned i = 0; i < ZC__SEAL_BLOCK; i++)
        sub[i] = (unsigned char)(sub[i] << 1 | (i + 1 < ZC__SEAL_BLOCK ? sub[i + 1] >> 7 : 0));
    sub[ZC__SEAL_BLOCK - 1] ^= (unsigned char)(0x87 * carry);
    for (unsigned i = 0; i < 2; i++) {
        unsigned char *m = in + i * ZC__SEAL_BLOCK;
        m[0] = m[3] = 0;
        m[1] = (unsigned char)(i + 1);
        m[2] = 'X';
        memcpy(m + 4, nonce, ZC__SEAL_HALF);
        for (unsigned k = 0; k < ZC__SEAL_BLOCK; k++) m[k] ^= sub[k];
    }
    return ok && EVP_EncryptUpdate(block, out, &n, in, 2 * ZC__SEAL_BLOCK) > 0;
}

/* Sets the cipher up for one message, and gives it what is authenticated beside it. */
static bool zc__xaes_init(zc__seal_context *x, const unsigned char *key, const unsigned char *nonce,
                          zc_bytes aad, zc_bytes more, int encrypts) {
    unsigned char derived[ZC_SEAL_KEY];
    int n = 0;
    bool ok = zc__xaes_derive(x->block, key, nonce, derived) &&
              EVP_CipherInit_ex(x->gcm, NULL, NULL, derived, nonce + ZC__SEAL_HALF, encrypts) > 0;
    OPENSSL_cleanse(derived, sizeof derived);
    if (ok && aad.len)
        ok = EVP_CipherUpdate(x->gcm, NULL, &n, (const unsigned char *)aad.ptr, (int)aad.len) > 0;
    if (ok && more.len)
        ok = EVP_CipherUpdate(x->gcm, NULL, &n, (const unsigned char *)more.ptr, (int)more.len) > 0;
    return ok;
}

/* Both parts of a message; `tag` is written or compared. */
static bool zc__xaes_run(zc__seal_context *x, zc_bytes from, unsigned char *to, unsigned char *tag,
                         int encrypts) {
    unsigned char none[ZC__SEAL_BLOCK];
    int n = 0;
    if (!encrypts &&
        EVP_CIPHER_CTX_ctrl(x->gcm, EVP_CTRL_AEAD_SET_TAG, (int)ZC__SEAL_TAG, tag) <= 0)
        return false;
    if (from.len && EVP_CipherUpdate(x->gcm, to, &n, (const unsigned char *)from.ptr,
                                     (int)from.len) <= 0)
        return false;
    return EVP_CipherFinal_ex(x->gcm, none, &n) > 0 &&
           (!encrypts ||
            EVP_CIPHER_CTX_ctrl(x->gcm, EVP_CTRL_AEAD_GET_TAG, (int)ZC__SEAL_TAG, tag) > 0);
}

/* ---- the hooks ---- */

/* The key with an id; nkeys: it is not here. */
static unsigned zc__seal_which(const zc__seal *s, const unsigned char *id) {
    unsigned i = 0;
    while (i < s->nkeys && memcmp(s->ring[i].id, id, ZC__SEAL_ID) != 0) i++;
    return i;
}

static zc_bytes zc__seal_scope_of(const zc__seal *s, zc_bytes key) {
    return s->scope_of ? s->scope_of(s->user, key) : zc_slice("", 0);
}

static int zc__seal_seal(void *user, zc_bytes key, zc_bytes plain, zc_sink *out) {
    zc__seal *s = (zc__seal *)user;
    size_t size = ZC__SEAL_HEAD + plain.len + ZC__SEAL_TAG;
    if (plain.len > INT32_MAX / 2) return ZC_E_INVAL;
    zc__seal_context *x = zc__seal_take(s, size);
    if (!x) return ZC_E_NOMEM;
    unsigned char *head = x->buf, *nonce = head + ZC__SEAL_AAD, *body = head + ZC__SEAL_HEAD;
    memcpy(head, ZC__SEAL_MAGIC, 4);
    memcpy(head + 4, s->ring[0].id, ZC__SEAL_ID);
    const unsigned char *k = zc__seal_scope_key(s, x, 0, zc__seal_scope_of(s, key));
    bool ok = k && zc__seal_nonce(x->pool, nonce) &&
              zc__xaes_init(x, k, nonce, zc_slice(head, ZC__SEAL_AAD), key, 1) &&
              zc__xaes_run(x, plain, body, body + plain.len, 1);
    int rc = ok ? zc_sink_write(out, x->buf, size) : ZC_E_NOMEM;
    zc__seal_give(s, x, ok ? 0 : size);
    return rc;
}

static int zc__seal_open(void *user, zc_bytes key, zc_bytes sealed, zc_sink *out) {
    zc__seal *s = (zc__seal *)user;
    const unsigned char *head = (const unsigned char *)sealed.ptr;
    unsigned char tag[ZC__SEAL_TAG];
    if (sealed.len < ZC__SEAL_HEAD + ZC__SEAL_TAG || sealed.len > INT32_MAX / 2 ||
        memcmp(head, ZC__SEAL_MAGIC, 4) != 0)
        return ZC_E_SEAL;
    unsigned ring = zc__seal_which(s, head + 4);
    if (ring == s->nkeys) return ZC_E_UNKEYED;
    size_t len = sealed.len - ZC__SEAL_HEAD - ZC__SEAL_TAG;
    zc__seal_context *x = zc__seal_take(s, len + 1);
    if (!x) return ZC_E_NOMEM;
    memcpy(tag, head + ZC__SEAL_HEAD + len, ZC__SEAL_TAG);
    const unsigned char *k = zc__seal_scope_key(s, x, ring, zc__seal_scope_of(s, key));
    int rc = k && zc__xaes_init(x, k, head + ZC__SEAL_AAD, zc_slice(head, ZC__SEAL_AAD), key, 0)
                 ? ZC_OK : ZC_E_NOMEM;
    if (rc == ZC_OK && !zc__xaes_run(x, zc_slice(head + ZC__SEAL_HEAD, len), x->buf, tag, 0))
        rc = ZC_E_SEAL;
    if (rc == ZC_OK) rc = zc_sink_write(out, x->buf, len);
    zc__seal_give(s, x, len);
    return rc;
}

/* The first ZC_SEAL_NAME bytes of HMAC-SHA256. */
static bool zc__seal_digest(zc__seal_context *x, const zc__seal_mac *mac, zc_bytes text,
                            unsigned char *out) {
    unsigned char digest[ZC_SEAL_KEY];
    bool ok = zc__mac_run(mac, x->mac, &text, 1, digest);
    if (ok) memcpy(out, digest, ZC_SEAL_NAME);
    return ok;
}

static int zc__seal_blind(void *user, unsigned i, zc_bytes name, unsigned char *out) {
    zc__seal *s = (zc__seal *)user;
    if (i >= s->nkeys) return ZC_MISS;
    zc__seal_context *x = zc__seal_take(s, 0);
    if (!x) return ZC_E_NOMEM;
    bool ok = zc__seal_digest(x, &s->ring[i].names, name, out);
    zc__seal_give(s, x, 0);
    return ok ? ZC_OK : ZC_E_NOMEM;
}

/* What turns a tag's text into that of its name, and back. */
static bool zc__seal_mask(zc__seal_context *x, const zc__seal_ring *r, const unsigned char *iv,
                          zc_bytes from, unsigned char *to) {
    int n = 0;
    return EVP_EncryptInit_ex(x->ctr, NULL, NULL, r->text, iv) > 0 &&
           EVP_EncryptUpdate(x->ctr, to, &n, (const unsigned char *)from.ptr, (int)from.len) > 0;
}

static int zc__seal_tag_seal(void *user, unsigned i, zc_bytes tag, unsigned char *out,
                             size_t *len) {
    zc__seal *s = (zc__seal *)user;
    unsigned char *iv = out + 1 + ZC__SEAL_ID;
    if (i >= s->nkeys) return ZC_MISS;
    zc__seal_context *x = zc__seal_take(s, 0);
    if (!x) return ZC_E_NOMEM;
    out[0] = ':';
    memcpy(out + 1, s->ring[i].id, ZC__SEAL_ID);
    bool ok = zc__seal_digest(x, &s->ring[i].tags, tag, iv) &&
              zc__seal_mask(x, &s->ring[i], iv, tag, out + ZC_SEAL_TAG);
    zc__seal_give(s, x, 0);
    *len = ZC_SEAL_TAG + tag.len;
    return ok ? ZC_OK : ZC_E_NOMEM;
}

static int zc__seal_tag_open(void *user, zc_bytes name, unsigned char *out, size_t *len,
                             unsigned *i) {
    zc__seal *s = (zc__seal *)user;
    const unsigned char *from = (const unsigned char *)name.ptr, *iv = from + 1 + ZC__SEAL_ID;
    unsigned char again[ZC_SEAL_NAME];
    if (name.len <= ZC_SEAL_TAG || name.len > ZC_SEAL_TAG + ZC_TAG_MAX || from[0] != ':')
        return ZC_E_SEAL;
    if ((*i = zc__seal_which(s, from + 1)) == s->nkeys) return ZC_E_UNKEYED;
    zc__seal_context *x = zc__seal_take(s, 0);
    if (!x) return ZC_E_NOMEM;
    *len = name.len - ZC_SEAL_TAG;
    bool ok = zc__seal_mask(x, &s->ring[*i], iv, zc_slice(from + ZC_SEAL_TAG, *len), out) &&
              zc__seal_digest(x, &s->ring[*i].tags, zc_slice(out, *len), again);
    zc__seal_give(s, x, 0);
    if (!ok) return ZC_E_NOMEM;
    return CRYPTO_memcmp(again, iv, sizeof again) == 0 ? ZC_OK : ZC_E_SEAL;
}

static void zc__seal_close(void *user) {
    zc__seal *s = (zc__seal *)user;
    for (unsigned i = 0; i < ZC__SEAL_SPARE; i++)
        zc__seal_context_free((zc__seal_context *)s->spare[i]);
    for (unsigned i = 0; i < s->nkeys; i++) {
        zc__mac_free(&s->ring[i].names);
        zc__mac_free(&s->ring[i].tags);
    }
    OPENSSL_free(s->prefix);
    OPENSSL_clear_free(s, sizeof *s);
}

/* HMAC by a key that is derived for a purpose. */
static bool zc__seal_mac_make(const zc__seal *s, const unsigned char *from, const char *purpose,
                              zc__seal_mac *mac) {
    unsigned char key[ZC_SEAL_KEY];
    zc_bytes prefix = zc_slice(s->prefix, s->prefix_len);
    bool ok = zc__seal_derive(from, purpose, prefix, zc_slice("", 0), key) &&
              zc__mac_make(mac, key);
    OPENSSL_cleanse(key, sizeof key);
    return ok;
}

static bool zc__seal_ring_add(zc__seal *s, zc_bytes key) {
    unsigned char id[ZC_SEAL_KEY];
    zc__seal_ring *r = &s->ring[s->nkeys++];
    zc_bytes none = zc_slice("", 0), prefix = zc_slice(s->prefix, s->prefix_len);
    memcpy(r->key, key.ptr, ZC_SEAL_KEY);
    bool ok = zc__seal_derive(r->key, "zoocache id", none, none, id) &&
              zc__seal_derive(r->key, "zoocache text of tags", prefix, none, r->text) &&
              zc__seal_mac_make(s, r->key, "zoocache names", &r->names) &&
              zc__seal_mac_make(s, r->key, "zoocache tags", &r->tags);
    if (ok) memcpy(r->id, id, ZC__SEAL_ID);
    return ok;
}

ZOOCACHE_API int zc_seal_open(const zc_seal_desc *desc, zc_sealer *sealer) {
    if (!sealer) return ZC_E_INVAL;
    memset(sealer, 0, sizeof *sealer);
    if (!desc || !desc->keys || !desc->nkeys || desc->nkeys > ZC_SEAL_KEYS ||
        desc->prefix.len > ZC_TAG_MAX || (desc->prefix.len && !desc->prefix.ptr))
        return ZC_E_INVAL;
    for (size_t i = 0; i < desc->nkeys; i++)
        if (!desc->keys[i].ptr || desc->keys[i].len != ZC_SEAL_KEY) return ZC_E_INVAL;
    zc__seal *s = (zc__seal *)OPENSSL_zalloc(sizeof *s);
    if (!s) return ZC_E_NOMEM;
    s->scope_of = desc->scope_of;
    s->user = desc->user;
    s->prefix_len = desc->prefix.len;
    s->prefix = (unsigned char *)OPENSSL_malloc(s->prefix_len + 1);
    bool ok = s->prefix != NULL;
    if (ok && s->prefix_len) memcpy(s->prefix, desc->prefix.ptr, s->prefix_len);
    for (size_t i = 0; i < desc->nkeys && ok; i++) ok = zc__seal_ring_add(s, desc->keys[i]);
    if (!ok) {
        zc__seal_close(s);
        return ZC_E_NOMEM;
    }
    zc_sealer made = {1, zc__seal_seal, zc__seal_open, zc__seal_blind, zc__seal_tag_seal,
                      zc__seal_tag_open, zc__seal_close, s, s->nkeys};
    *sealer = made;
    return ZC_OK;
}

/* ---- the storage in between: `user` is the cache ---- */

/* The i-th name of a key, with the text to be there. ZC_MISS: there are no more. */
static int zc__sealed_name(zc_cache *c, unsigned i, zc_bytes key, unsigned char text[ZC_SEAL_NAME],
                           zc_bytes *name) {
    *name = zc_slice(text, ZC_SEAL_NAME);
    return c->desc.sealer.blind(c->desc.sealer.user, i, key, text);
}

/* Gives what the storage has answered to the cache: opened. Frees `raw`. */
static int zc__sealed_open(zc_cache *c, zc_bytes key, int rc, zc_sink *raw, zc_sink *sink) {
    const zc_sealer *sealer = &c->desc.sealer;
    if (rc == ZC_OK)
        rc = sealer->open(sealer->user, key, zc_slice(raw->buf.ptr, raw->buf.size), sink);
    zc__buf_free(&c->mem, &raw->buf);
    return rc;
}

/* Asks for the names of a key from the i-th on. */
static int zc__sealed_look(zc_cache *c, unsigned i, zc_bytes key, zc_sink *sink) {
    const zc_store *in = &c->inside;
    unsigned char text[ZC_SEAL_NAME];
    zc_bytes name;
    zc_sink raw;
    int rc = ZC_MISS, got = ZC_MISS;
    zc__sink_init(&raw, c);
    while (got == ZC_MISS && (rc = zc__sealed_name(c, i++, key, text, &name)) == ZC_OK)
        got = in->get(in->user, name, &raw);
    return zc__sealed_open(c, key, got == ZC_MISS ? rc : got, &raw, sink);
}

static int zc__sealed_get(void *user, zc_bytes key, zc_sink *sink) {
    return zc__sealed_look((zc_cache *)user, 0, key, sink);
}

/* Deletes what is there under the names of a key, from the i-th on. */
static int zc__sealed_forget(zc_cache *c, unsigned i, zc_bytes key) {
    const zc_store *in = &c->inside;
    unsigned char text[ZC_SEAL_NAME];
    zc_bytes name;
    int rc = ZC_MISS, one;
    while ((one = zc__sealed_name(c, i++, key, text, &name)) == ZC_OK) {
        one = in->del(in->user, name);
        if (one < 0) return one;
        if (one == ZC_OK) rc = ZC_OK;
    }
    return one < 0 ? one : rc;
}

static int zc__sealed_del(void *user, zc_bytes key) {
    return zc__sealed_forget((zc_cache *)user, 0, key);
}

static int zc__sealed_put(void *user, zc_bytes key, zc_bytes record, uint64_t expires_ms) {
    zc_cache *c = (zc_cache *)user;
    const zc_sealer *sealer = &c->desc.sealer;
    unsigned char text[ZC_SEAL_NAME];
    zc_bytes name;
    zc_sink sealed;
    zc__sink_init(&sealed, c);
    int rc = zc__sealed_name(c, 0, key, text, &name);
    if (rc == ZC_OK) rc = sealer->seal(sealer->user, key, record, &sealed);
    if (rc == ZC_OK)
        rc = c->inside.put(c->inside.user, name, zc_slice(sealed.buf.ptr, sealed.buf.size),
                           expires_ms);
    zc__buf_free(&c->mem, &sealed.buf);
    if (rc < 0) return rc;
    int forgot = zc__sealed_forget(c, 1, key);
    return forgot < 0 ? forgot : rc;
}

static int zc__sealed_touch(void *user, zc_bytes key, uint64_t expires_ms) {
    zc_cache *c = (zc_cache *)user;
    unsigned char text[ZC_SEAL_NAME];
    zc_bytes name;
    int rc = zc__sealed_name(c, 0, key, text, &name);
    return rc == ZC_OK ? c->inside.touch(c->inside.user, name, expires_ms) : rc;
}

static int zc__sealed_get_many(void *user, const zc_bytes *keys, size_t n, zc_sink *const *sinks,
                               int *results) {
    zc_cache *c = (zc_cache *)user;
    unsigned char texts[ZC__BATCH][ZC_SEAL_NAME];
    zc_bytes names[ZC__BATCH];
    zc_sink raw[ZC__BATCH], *to[ZC__BATCH];
    int rc = n && n <= ZC__BATCH ? ZC_OK : ZC_E_INVAL; /* the cache asks for no more */
    for (size_t i = 0; i < ZC__BATCH; i++) {
        zc__sink_init(&raw[i], c);
        to[i] = &raw[i];
        if (rc == ZC_OK && i < n) rc = zc__sealed_name(c, 0, keys[i], texts[i], &names[i]);
    }
    if (rc != ZC_OK) return rc;
    rc = c->inside.get_many(c->inside.user, names, n, to, results);
    for (size_t i = 0; i < n; i++) {
        bool older = rc >= 0 && results[i] == ZC_MISS;
        results[i] = zc__sealed_open(c, keys[i], rc < 0 ? rc : results[i], &raw[i], sinks[i]);
        if (older) results[i] = zc__sealed_look(c, 1, keys[i], sinks[i]);
    }
    return rc;
}

static int zc__sealed_lock(void *user, zc_bytes key, uint64_t lease, uint64_t *token) {
    zc_cache *c = (zc_cache *)user;
    unsigned char text[ZC_SEAL_NAME];
    zc_bytes name;
    int rc = zc__sealed_name(c, 0, key, text, &name);
    return rc == ZC_OK ? c->inside.lock(c->inside.user, name, lease, token) : rc;
}

static int zc__sealed_unlock(void *user, zc_bytes key, uint64_t token) {
    zc_cache *c = (zc_cache *)user;
    unsigned char text[ZC_SEAL_NAME];
    zc_bytes name;
    int rc = zc__sealed_name(c, 0, key, text, &name);
    return rc == ZC_OK ? c->inside.unlock(c->inside.user, name, token) : rc;
}

#define ZC__INSIDE(user) (&((zc_cache *)(user))->inside)

static int zc__sealed_clear(void *user) {
    return ZC__INSIDE(user)->clear(ZC__INSIDE(user)->user);
}
static int zc__sealed_generation(void *user, uint64_t *generation, uint64_t *latest) {
    return ZC__INSIDE(user)->generation(ZC__INSIDE(user)->user, generation, latest);
}
static int zc__sealed_tag_put(void *user, const zc_bytes *paths, size_t n, uint64_t version) {
    zc_cache *c = (zc_cache *)user;
    zc__names names;
    int rc = zc__names_seal(c, paths, n, &names);
    if (rc != ZC_OK) return rc;
    rc = c->inside.tag_put(c->inside.user, names.list, names.n, version);
    zc__names_free(c, &names);
    return rc;
}
static int zc__sealed_tag_get(void *user, const zc_bytes *paths, size_t n, uint64_t *versions) {
    zc_cache *c = (zc_cache *)user;
    return zc__names_ask(c, c->inside.tag_get, c->inside.user, paths, n, versions);
}
static void zc__sealed_report(void *user) { ZC__INSIDE(user)->report(ZC__INSIDE(user)->user); }
static void zc__sealed_forked(void *user) { ZC__INSIDE(user)->forked(ZC__INSIDE(user)->user); }
static void zc__sealed_close(void *user) {
    if (ZC__INSIDE(user)->close) ZC__INSIDE(user)->close(ZC__INSIDE(user)->user);
}

/* Puts itself between the cache and its storage. What it does not know of is not there: values in
 * parts are sealed in one piece. */
static void zc__seal_between(zc_cache *c) {
    const zc_store *in = &c->inside;
    zc_store *st = &c->desc.store;
    if (!c->desc.sealer.version || !st->version) return;
    c->inside = *st;
    memset(st, 0, sizeof *st);
    st->version = in->version;
    st->get = zc__sealed_get;
    st->put = zc__sealed_put;
    st->del = zc__sealed_del;
    st->clear = zc__sealed_clear;
    if (in->touch) st->touch = zc__sealed_touch;
    if (in->generation) {
        st->generation = zc__sealed_generation;
        st->tag_put = zc__sealed_tag_put;
        st->tag_get = zc__sealed_tag_get;
    }
    if (in->get_many) st->get_many = zc__sealed_get_many;
    if (in->lock) {
        st->lock = zc__sealed_lock;
        st->unlock = zc__sealed_unlock;
    }
    if (in->report) st->report = zc__sealed_report;
    if (in->forked) st->forked = zc__sealed_forked;
    st->close = zc__sealed_close;
    st->user = c;
}

static bool zc__sealer_valid(const zc_desc *d) {
    const zc_sealer *s = &d->sealer;
    if (!s->version) return true;
    return s->version == 1 && s->seal && s->open && s->blind && s->tag_seal && s->tag_open &&
           s->nkeys && (d->store.version || d->bus.version);
}
static void zc__sealer_leave(zc_cache *c) { c->desc.sealer.close = NULL; }
static void zc__sealer_close(zc_cache *c) {
    if (c->desc.sealer.close) c->desc.sealer.close(c->desc.sealer.user);
}
#else
static inline bool zc__sealer_valid(const zc_desc *d) { return !d->sealer.version; }
static inline void zc__seal_between(zc_cache *c) { (void)c; }
static inline void zc__sealer_leave(zc_cache *c) { (void)c; }
static inline void zc__sealer_close(zc_cache *c) { (void)c; }
#endif

/* ============================================================================================
 * >>cache   The public functions
 *   Reading     zc_get: hash, shard lock, bucket, entry, one rule, clock if it has a deadline.
 *   Writing     An entry is made before the lock is taken, and put into the table under it; what
 *               gave way is told and freed after it. Room is made in the entry's own shard; if that
 *               is empty, in the others, one after the other.
 *   Ending      A cache is freed when the last of these is gone: itself, fills, pinned entries
 *               that have left the table. zc_close() closes shard after shard, under its locks: no
 *               flight is listed there and the table has no bucket, so nothing is added or written
 *               from then on, whoever still tries. Only then go threads, bus and storage.
 *   Locking     the shard's, for one step of one key at a time: to look and to pin; to fence, to
 *               insert, to join the writers and to end the flight. What leaves the table under it
 *               is chained, and told and destroyed after it. zc_clear() goes from shard to shard;
 *               zc_fork_prepare() and zc_check() alone lock all.
 *   Cost        the manual's, "Costs"
 * ========================================================================================== */

/* ---- end a flight ---- */

static void zc__count_load(zc_cache *c, uint64_t elapsed) {
    uint64_t us = elapsed / 1000;
    unsigned bucket = us ? 64 - zc__clz64(us) : 0;
    zc__count(&c->load_ns, elapsed);
    zc__count(&c->load_histogram[bucket < ZC_LOAD_BUCKETS ? bucket : ZC_LOAD_BUCKETS - 1], 1);
}

/* Ends a leader's flight with an error; consumes the fill. A value that may stand in for an error
 * is delivered instead: to those who joined up to now, if nothing has killed it; if something has,
 * only to who takes what was invalidated (good_up_to 0: nobody joined so early). */
static int zc__fail(zc_fill *fill, int error, zc_view *view) {
    zc_cache *c = fill->cache;
    zc__flight *f = fill->flight;
    zc__shard *s = f->shard;
    int rc = error;
    bool ended = false;
    zc__entry *stand_in = error < 0 ? f->fallback : NULL;
    uint64_t published = zc__published(&c->trie), now = stand_in ? zc__now(c) : 0;
    bool dead = stand_in && zc__entry_killer(c, stand_in);
    zc__spin_lock(&s->lock);
    if (stand_in) {
        if (now >= zc__entry_end(stand_in) || (dead && !fill->serve_invalidated)) stand_in = NULL;
        f->good_up_to = stand_in && !dead ? published : 0;
    }
    if (f->state == ZC__RUNNING) {
        ended = true;
        f->error = error;
        if (stand_in) {
            zc__entry_pin(stand_in);
            f->result = stand_in;
            f->stale = true;
        }
        zc__flight_end(s, f, stand_in ? ZC__DONE : ZC__FAILED);
    }
    zc__spin_unlock(&s->lock);
    if (stand_in) {
        zc__entry_pin(stand_in);
        if (view) rc = zc__deliver(c, stand_in, fill->parent, f->good_up_to, ZC_STALE, view);
        else zc__entry_unpin(c, stand_in);
    }
    if (ended) zc__flight_wake(f);
    if (error < 0) {
        zc_event ev = zc__event_of(ZC_EVENT_FILL_FAILED, zc__flight_key(f));
        ev.rc = error;
        ev.elapsed = zc__mono(&c->clock) - fill->started;
        zc__count(&c->fill_errors, 1);
        zc__count_load(c, ev.elapsed);
        zc__event(c, &ev);
    }
    zc__fill_close(fill);
    return rc;
}

/* Puts e into the table, making room elsewhere if need be, while `allowed` (may be NULL) may store:
 * asked anew each time, as the lock was let go while other shards gave way. Returns with the lock
 * held, so that the caller ends the flight, or takes his turn to write, in the same step: ZC_OK,
 * ZC_REFUSED, ZC_E_NOMEM. */
static int zc__table_admit(zc_cache *c, zc__shard *s, zc__entry *e, uint64_t hash,
                           const zc__flight *allowed, zc__entry **garbage) {
    for (unsigned tries = 0;; tries++) {
        zc__spin_lock(&s->lock);
        if (allowed && (!allowed->listed || allowed->fenced)) return ZC_REFUSED;
        zc__rcu_stop(s, ZC__TURN_ENTRY); /* the old one goes before the new one is there */
        int rc = zc__shard_insert(c, s, e, hash, garbage);
        zc__rcu_resume(s, ZC__TURN_ENTRY);
        if (rc != ZC_MORE) return rc;
        zc__spin_unlock(&s->lock);
        /* Room can be taken for a moment by other inserts that are about to finish. */
        if (!zc__evict_any(c, garbage) && tries > 1000) {
            zc__spin_lock(&s->lock);
            return ZC_REFUSED;
        }
    }
}

/* Makes the entry of a fill's value; the fill's dependencies and object are then the
 * entry's. */
static zc__entry *zc__fill_entry(zc_fill *fill, zc_bytes key, zc_bytes value, uint64_t begin,
                                 uint64_t elapsed) {
    zc_cache *c = fill->cache;
    zc__life life = zc__life_of(c, &fill->put, fill->absent);
    life.keep = fill->serve_invalidated;
    life.load = elapsed;
    life.extras = life.extras || fill->timed;
    size_t ndeps = fill->dep_error ? 0 : fill->ndeps;
    const zc__object *object = fill->object.drop ? &fill->object : NULL;
    zc__entry *e;
    do e = zc__entry_new(c, key, value, object, fill->deps, ndeps, &life, begin);
    while (!e && zc__evict_for_memory(c));
    if (!e) return NULL;
    if (fill->absent) e->flags |= ZC__ABSENT;
#ifndef ZOOCACHE_NO_LZ4
    if (fill->put.plain) e->flags |= ZC__PLAIN;
#endif
    if (ndeps) fill->ndeps = 0;
    fill->object.drop = NULL;
    return e;
}

/* Ends a leader's flight with its value; consumes the fill. Three numbers decide. `published` is
 * read first: what is invalidated after that has a higher version, and the look for a killer need
 * not see it, for an entry that is good up to `published` is found dead by its first read. If
 * nothing has killed the value since `begin`, it is good up to `published`, and is stored; else up
 * to the flight's begin, for those alone who joined by then. The entry goes into the table, the
 * flight ends, and the turn to write to the storage is taken, under one hold of the lock (F2): a
 * put or del comes before all three, and fences, or after them, and replaces. Waiters are woken
 * before the storage is written, callbacks come after the lock. */
static int zc__commit(zc_fill *fill, zc_view *view) {
    zc_cache *c = fill->cache;
    zc__flight *f = fill->flight;
    zc__shard *s = f->shard;
    uint64_t elapsed = zc__mono(&c->clock) - fill->started, published = zc__published(&c->trie);
    zc__entry *garbage = NULL;
    if (!fill->has_value) return zc__fail(fill, ZC_E_LOADER, view);
    if (!fill->dep_error) (void)zc__fill_sort_deps(fill);
    if (fill->dep_error && fill->parent) fill->parent->dep_error = fill->dep_error;
    bool held = zc__held(c, fill->deps, fill->ndeps); /* before it is looked for what kills it */
    bool fresh = !zc__trie_killer(&c->trie, fill->deps, fill->ndeps, fill->begin);
    uint64_t good_up_to = fresh ? published : f->begin;
    zc_bytes value = zc_slice(fill->value.ptr, fill->value.size);
    zc__entry *e = zc__fill_entry(fill, zc__flight_key(f), value, good_up_to, elapsed);
    if (!e) return zc__fail(fill, ZC_E_NOMEM, view);
    bool fits = zc__entry_cost(e) <= c->desc.max_entry_bytes;
    bool store = fresh && fits && !held && !fill->no_store && !fill->dep_error;
    bool through = zc__has_store(c) && store && !fill->from_store && !fill->unsaved;

    zc__writer w;
    int put = ZC_REFUSED;
    if (store) put = zc__table_admit(c, s, e, f->hash, f, &garbage);
    else zc__spin_lock(&s->lock);
    bool late = !f->listed || f->fenced, ended = f->state == ZC__RUNNING;
    zc__entry_pin(e); /* ours, until the end of this function */
    through = through && put == ZC_OK;
    if (through) zc__writes(s, &w, f->hash, !fill->asked);
    if (ended) {
        zc__entry_pin(e);
        f->result = e;
        f->good_up_to = good_up_to;
        f->dep_error = fill->dep_error;
        zc__flight_end(s, f, ZC__DONE);
    }
    zc__spin_unlock(&s->lock);
    if (ended) zc__flight_wake(f); /* nobody waits for the storage but this caller */
    if (through) zc__store_through(c, s, &w, zc__entry_key(e), e);
    (void)zc__garbage_free(c, garbage);

    int rc = put == ZC_OK ? ZC_OK : late ? ZC_E_LEASE : ZC_REFUSED;
    zc__count(late ? &c->fills_late : &c->fills, !fill->from_store);
    if (put != ZC_OK && !late) zc__count(&c->refused, 1);
    if (!fill->from_store) {
        zc_event ev = zc__event_of(ZC_EVENT_FILLED, zc__entry_key(e));
        ev.value = zc__entry_value(e);
        ev.rc = rc;
        ev.elapsed = elapsed;
        zc__count_load(c, elapsed);
        zc__event(c, &ev);
    }
    if (put == ZC_OK && e->flags & ZC__ABSENT) rc = ZC_ABSENT;
    zc_fill *parent = fill->parent;
    if (put != ZC_OK) zc__entry_drop(c, e); /* the table does not own it */
    if (parent) zc__fill_inherit(parent, e, good_up_to);
    if (view) (void)zc__deliver(c, e, NULL, 0, ZC_OK, view); /* our pin is the view's */
    else zc__entry_unpin(c, e);
    zc__fill_close(fill);
    return rc;
}

/* Commits; a value that could not be stored is good for this caller all the same. What comes from
 * the storage past its soft deadline is stale. */
static int zc__commit_value(zc_fill *fill, zc_view *view) {
    bool absent = fill->absent, stale = fill->from_store && fill->put.soft_ttl == 1;
    int rc = zc__commit(fill, view);
    if (rc == ZC_REFUSED || rc == ZC_E_LEASE) rc = absent ? ZC_ABSENT : ZC_OK;
    return rc == ZC_OK && stale ? ZC_STALE : rc;
}

/* ---- read ---- */

/* A read that the table cannot answer, with a storage behind it. The bus allows it. It is a fill
 * whose loader is the storage: so what is invalidated meanwhile kills what it finds, and of many
 * who read one key, one asks. */
static int zc__get_through(zc_cache *c, zc_bytes key, zc_view *view) {
    zc_fetch_opts o;
    zc_fill *fill;
    memset(&o, 0, sizeof o);
    int rc = zc__begin_gated(c, key, &o, ZC_OK, view, &fill);
    if (!fill) return rc;
    if (rc == ZC_FOLLOW) {
        /* Somebody computes it; what the storage has may do. A flight of our own, which is not
         * listed and so stores nothing. */
        zc__fill_close(fill);
        if (!(fill = zc__fill_new(c, &o))) return ZC_E_NOMEM;
        fill->leader = true;
        fill->flight = zc__flight_new(c, zc__hash(key, c->seed), key);
        if (!fill->flight) {
            zc__fill_close(fill);
            return ZC_E_NOMEM;
        }
        fill->flight->link.refs = 1;
        fill->flight->begin = fill->begin = zc__published(&c->trie);
        fill->started = zc__mono(&c->clock);
    }
    if (rc == ZC_OK || rc == ZC_STALE) { /* a refresh is for zc_fetch */
        (void)zc__fail(fill, 0, NULL);
        return rc;
    }
    rc = zc__store_load(fill);
    if (rc == ZC_OK) return zc__commit_value(fill, view);
    (void)zc__fail(fill, 0, NULL);
    return rc;
}

/* What a look-up in the table gives: *e is the entry, if it may be served. */
static inline int zc__look(zc_cache *c, zc__shard *s, uint64_t hash, zc_bytes key, zc__entry **e) {
    ZC__ASSERT_HELD(&s->lock);
    uint64_t published = zc__published(&c->trie);
    zc__state state = ZC__DEAD;
    while (ZC__LIKELY((*e = zc__table_find(s, hash, key)) != NULL)) {
        state = zc__entry_state(c, *e, published);
        if (ZC__UNLIKELY(zc__is_later(state)))
            state = zc__entry_apart(c, s, hash, *e, published);
        if (state <= ZC__SOFT) {
            zc__entry_touch(c, *e);
            s->hits++;
            s->hits_stale += state == ZC__SOFT;
            return (*e)->flags & ZC__ABSENT ? ZC_ABSENT : state == ZC__SOFT ? ZC_STALE : ZC_OK;
        }
        if (!zc__is_later(state)) break;
    }
    if (!zc__has_store(c)) zc__miss(s, *e, state);
    return ZC_MISS;
}

static inline int zc__get_hashed(zc_cache *c, zc_bytes key, uint64_t hash, zc_view *view,
                                 zc__copying *copy) {
    zc__shard *s = zc__shard_of(c, hash);
    zc__entry *e;
    zc__spin_lock(&s->lock);
    int rc = zc__look(c, s, hash, key, &e);
    bool pass = copy && rc == ZC_MISS && !e && !c->behind &&
                !zc__writer_of(s->writers, hash) && zc__policy_pass(s);
    if (pass) s->misses_absent++;
    if (rc != ZC_MISS) zc__entry_pin(e);
    zc__spin_unlock(&s->lock);
    if (pass && zc__store_copy(copy)) return copy->rc;
    if (rc != ZC_MISS) return zc__deliver(c, e, NULL, 0, rc, view);
    return ZC__UNLIKELY(zc__has_store(c)) ? zc__get_through(c, key, view) : ZC_MISS;
}

/* The same with a bus: only while it is proven that everything was heard. Asked again, of the same
 * lease, when the value is in hand: zc__bus_holds(). */
static ZC__NOINLINE int zc__get_proven(zc_cache *c, zc_bytes key, uint64_t hash, zc_view *view,
                                      zc__copying *copy) {
    for (uint64_t lease;;) {
        int gate = zc__bus_gate(c, ZC_SILENCE_DEFAULT, &lease);
        if (gate == ZC_MISS || gate < 0) return gate;
        int rc = zc__get_hashed(c, key, hash, view, gate == ZC_OK ? copy : NULL);
        if (gate == ZC_STALE) return rc == ZC_OK ? ZC_STALE : rc;
        if (rc == ZC_MISS || rc < 0 || zc__bus_holds(c, lease)) return rc;
        zc_release(c, view);
    }
}

static inline int zc__check_key(const zc_cache *c, zc_bytes key) {
    if (ZC__UNLIKELY(!c || (!key.ptr && key.len))) return ZC_E_INVAL;
    return ZC__UNLIKELY(key.len > ZC_KEY_MAX) ? ZC_E_KEY : ZC_OK;
}

ZOOCACHE_API int zc_get(zc_cache *cache, zc_bytes key, zc_view *view) {
    if (!view) return ZC_E_INVAL;
    memset(view, 0, sizeof *view);
    int rc = zc__check_key(cache, key);
    if (rc != ZC_OK) return rc;
    uint64_t hash = zc__hash(key, cache->seed);
    return zc__bus_on(cache) ? zc__get_proven(cache, key, hash, view, NULL)
                             : zc__get_hashed(cache, key, hash, view, NULL);
}

#define ZC__COPY_LOCKED 4096u /* longer values are pinned and copied without the lock */

/* The bytes of a pinned value, copied; ends the pin. */
static int zc__copy_view(zc_cache *c, zc_view *view, int rc, void *buf, size_t cap, size_t *len) {
    if (!view->pin) return rc;
    if (((zc__entry *)view->pin)->flags & ZC__OBJECT) {
        rc = ZC_E_INVAL;
    } else {
        if (len) *len = view->size;
        if (view->size > cap) rc = ZC_E_RANGE;
        else if (view->size) memcpy(buf, view->data, view->size);
    }
    zc__entry_unpin(c, (zc__entry *)view->pin);
    return rc;
}

/* Copies plain bytes that are known to be fresh: few instructions behind the loads, so that the
 * loads of the next call are under way as well. With the shard's lock or in a reader's section. */
static inline bool zc__copy_plain(const zc_cache *c, zc__entry *e, size_t key_len, void *buf,
                                  size_t cap, size_t *len) {
    size_t n = e->value_len;
    if (e->flags & ~ZC__COPIED || zc__atomic_load_rlx(&e->begin) < zc__published(&c->trie) ||
        n > cap || n > ZC__COPY_LOCKED ||
        (e->flags & ZC__COPIED & ZC__TIMED && zc__coarse(&c->clock) >= e->expires))
        return false;
    zc__entry_mark(e);
    if (len) *len = n;
    const unsigned char *value = zc__entry_bytes(e) + zc__value_at(key_len);
    if (ZC__LIKELY(n == cap)) zc__copy((unsigned char *)buf, value, cap); /* is known at once */
    else zc__copy((unsigned char *)buf, value, n);
    return true;
}

#ifdef ZOOCACHE_NO_THREADS
#  define zc__copy_shared(c, key, hash, buf, cap, len) ZC_RETRY
#else
/* The same without a lock. ZC_OK; ZC_MISS; ZC_RETRY: it takes the lock to tell. */
static inline int zc__copy_shared(zc_cache *c, zc_bytes key, uint64_t hash, void *buf, size_t cap,
                                  size_t *len) {
    zc__seat *me = c->rcu ? zc__rcu_enter(c->rcu) : NULL;
    if (ZC__UNLIKELY(!me)) return ZC_RETRY;
    const zc__shard *s = zc__shard_of(c, hash);
    uint32_t turn = zc__atomic_load_acq(&s->turn);
    const zc__bucket *buckets = zc__atomic_load_acq(&s->table.buckets);
    uint32_t n = zc__atomic_load_acq(&s->table.nbuckets);
    if (ZC__UNLIKELY(turn & ZC__TURN_TABLE || zc__atomic_load_acq(&s->turn) != turn))
        return zc__rcu_leave(me, ZC_RETRY);
    zc__entry *e = zc__buckets_find(buckets, n, hash, key);
    if (ZC__LIKELY(e != NULL))
        return zc__rcu_leave(me, zc__copy_plain(c, e, key.len, buf, cap, len) ? ZC_OK : ZC_RETRY);
    bool sure = !(turn & ZC__TURN_ENTRY) && zc__atomic_load_rlx(&s->turn) == turn;
    return zc__rcu_leave(me, sure && !zc__has_store(c) ? ZC_MISS : ZC_RETRY);
}
#endif

#ifdef ZOOCACHE_WITH_BUS
/* With a bus; the lease is asked for again after the copy. */
static ZC__NOINLINE int zc__copy_proven(zc_cache *c, zc_bytes key, uint64_t hash, void *buf,
                                       size_t cap, size_t *len) {
    zc__copying copy;
    copy.cache = c;
    copy.key = key;
    copy.to = buf;
    copy.cap = cap;
    bool copies = c->bus.peeks && zc__has_store(c);
    uint64_t lease;
    if (zc__bus_is_current(c, &lease)) {
        int rc = zc__copy_shared(c, key, hash, buf, cap, len);
        if (rc != ZC_RETRY && zc__bus_holds(c, lease)) return rc;
    }
    for (;;) {
        zc_view view;
        memset(&view, 0, sizeof view);
        copy.len = 0;
        lease = zc__bus_lease(c); /* no younger than the one that the read goes by */
        int rc = zc__get_proven(c, key, hash, &view, copies ? &copy : NULL);
        if (len) *len = copy.len;
        rc = zc__copy_view(c, &view, rc, buf, cap, len);
        if (rc != ZC_OK || zc__bus_holds(c, lease)) return rc;
    }
}
#else
#  define zc__copy_proven(c, key, hash, buf, cap, len) ZC_MISS
#endif

/* What zc__copy_shared() has not told, with the shard's lock. */
static ZC__NOINLINE int zc__copy_locked(zc_cache *c, zc_bytes key, uint64_t hash, void *buf,
                                        size_t cap, size_t *len) {
    zc__shard *s = zc__shard_of(c, hash);
    zc__entry *e;
    zc__spin_lock(&s->lock);
#ifndef ZOOCACHE_NO_THREADS
    if (s->old.nbuckets && c->rcu) zc__table_move(c, s); /* so that soon none needs the lock */
#endif
#ifndef __OPTIMIZE_SIZE__ /* zc__look() does it as well */
    e = zc__table_find(s, hash, key);
    if (ZC__LIKELY(e && zc__copy_plain(c, e, key.len, buf, cap, len))) {
        s->hits++;
        zc__spin_unlock(&s->lock);
        return ZC_OK;
    }
#endif
    int rc = zc__look(c, s, hash, key, &e);
#ifndef __OPTIMIZE_SIZE__ /* zc__copy_view() does it as well */
    if (ZC__LIKELY(rc != ZC_MISS && e->value_len <= ZC__COPY_LOCKED && !(e->flags & ZC__OBJECT))) {
        size_t n = e->value_len;
        if (len) *len = n;
        if (ZC__LIKELY(n <= cap))
            zc__copy((unsigned char *)buf, zc__entry_bytes(e) + zc__value_at(key.len), n);
        else
            rc = ZC_E_RANGE;
        zc__spin_unlock(&s->lock);
        return rc;
    }
#endif
    if (rc != ZC_MISS) zc__entry_pin(e);
    zc__spin_unlock(&s->lock);
    zc_view view;
    memset(&view, 0, sizeof view);
    if (rc != ZC_MISS) rc = zc__deliver(c, e, NULL, 0, rc, &view);
    else if (zc__has_store(c)) rc = zc__get_through(c, key, &view);
    return zc__copy_view(c, &view, rc, buf, cap, len);
}

ZOOCACHE_API int zc_get_copy(zc_cache *cache, zc_bytes key, void *buf, size_t cap, size_t *len) {
    int rc = zc__check_key(cache, key);
    if (len) *len = 0;
    if (rc != ZC_OK || (!buf && cap)) return rc != ZC_OK ? rc : ZC_E_INVAL;
    uint64_t hash = zc__hash(key, cache->seed);
    if (zc__bus_on(cache)) return zc__copy_proven(cache, key, hash, buf, cap, len);
    rc = zc__copy_shared(cache, key, hash, buf, cap, len);
    if (ZC__LIKELY(rc != ZC_RETRY)) return rc;
    return zc__copy_locked(cache, key, hash, buf, cap, len);
}

#ifdef ZOOCACHE_WITH_BUS
/* Asks the storage for several keys at once; fills[i], if not NULL, leads keys[i]'s flight. All of
 * these began before the storage is asked, so what is invalidated meanwhile kills what it finds;
 * and the lease is that of before, too. The m that are asked for are those at[0] to at[m - 1]. */
static void zc__load_many(zc_cache *c, zc_fill **fills, const zc_bytes *keys, size_t n,
                          zc_view *views, int *results) {
    const zc_store *st = &c->desc.store;
    zc_sink sinks[ZC__BATCH], *to[ZC__BATCH];
    zc_bytes wanted[ZC__BATCH];
    size_t at[ZC__BATCH], m = 0;
    int got[ZC__BATCH];
    for (size_t i = 0; i < n; i++) {
        if (!fills[i]) continue;
        if (zc__store_is_old(c, fills[i]->flight)) {
            (void)zc__fail(fills[i], 0, NULL);
            continue;
        }
        zc__sink_init(&sinks[m], c);
        to[m] = &sinks[m];
        wanted[m] = keys[i];
        at[m++] = i;
    }
    int rc = m ? ZC_MISS : ZC_OK;
    for (size_t k = 0; k < m; k++) got[k] = ZC_MISS;
    uint64_t lease = 0;
    uint32_t epoch;
    if (m && zc__store_readable(c, &lease, &epoch))
        rc = zc__store_outcome(c, epoch, st->get_many(st->user, wanted, m, to, got));
    for (size_t k = 0; k < m; k++) {
        zc_fill *fill = fills[at[k]];
        int taken = zc__store_take(fill, rc < 0 ? rc : got[k], &sinks[k], lease);
        if (taken == ZC_OK) results[at[k]] = zc__commit_value(fill, &views[at[k]]);
        else (void)zc__fail(fill, 0, NULL);
        if (taken < 0) results[at[k]] = taken;
    }
}

/* One batch of keys, hashed. Whoever leads some flights waits for none: two batches with the same
 * keys in another order would wait for each other. */
static void zc__get_batch(zc_cache *c, const zc_bytes *keys, const uint64_t *hash, size_t n,
                          zc_view *views, int *results) {
    zc_fill *fills[ZC__BATCH];
    bool many = zc__has_store(c) && c->desc.store.get_many;
    zc_fetch_opts o;
    memset(&o, 0, sizeof o);
    uint64_t lease = zc__bus_on(c) ? zc__bus_lease(c) : 0;
    bool held = zc__bus_on(c) && zc__bus_holds(c, lease);
    for (size_t k = 0; k < n; k++) {
        fills[k] = NULL;
        if (results[k] != ZC_OK) continue;
        if (!many) {
            results[k] = zc__bus_on(c) ? zc__get_proven(c, keys[k], hash[k], &views[k], NULL)
                                       : zc__get_hashed(c, keys[k], hash[k], &views[k], NULL);
            continue;
        }
        int rc = zc__begin(c, keys[k], &o, &views[k], &fills[k]);
        if (fills[k] && rc != ZC_LEAD) { /* a key twice, somebody else's fill, a refresh */
            if (rc == ZC_FOLLOW) zc__fill_close(fills[k]);
            else (void)zc__fail(fills[k], 0, NULL);
            fills[k] = NULL;
            if (rc == ZC_FOLLOW)
                rc = zc__bus_on(c) ? zc__get_proven(c, keys[k], hash[k], &views[k], NULL)
                                   : zc__get_through(c, keys[k], &views[k]);
        }
        results[k] = rc == ZC_LEAD ? ZC_MISS : rc;
    }
    if (many) zc__load_many(c, fills, keys, n, views, results);
    if (!held || zc__bus_holds(c, lease)) return;
    /* What was found first has become too old while the storage was asked for the rest. */
    for (size_t k = 0; k < n; k++) {
        if (results[k] < 0) continue;
        zc_release(c, &views[k]);
        results[k] = ZC_MISS;
    }
}
#else
static inline void zc__get_batch(zc_cache *c, const zc_bytes *keys, const uint64_t *hash, size_t n,
                                 zc_view *views, int *results) {
    for (size_t k = 0; k < n; k++)
        if (results[k] == ZC_OK) results[k] = zc__get_hashed(c, keys[k], hash[k], &views[k], NULL);
}
#endif

/* Asks for what a key's home bucket has under its fingerprint. */
static void zc__entry_ahead(zc__shard *s, uint64_t hash) {
    zc__spin_lock(&s->lock);
    const zc__table *t = zc__table_of(s, hash);
    if (t->nbuckets) {
        const zc__bucket *b = &t->buckets[zc__home_of(hash, t->nbuckets)];
        uint64_t m = zc__fps_match(b->fps, zc__fp_of(hash));
        if (m) zc__entry_prefetch(b->slot[zc__match_slot(m)]);
    }
    zc__spin_unlock(&s->lock);
}

/* Three passes over each batch, which ask for the buckets, ask for the entries, and read: so the
 * memory is at work for several keys at the same time. */
ZOOCACHE_API int zc_get_many(zc_cache *cache, const zc_bytes *keys, size_t n, zc_view *views,
                             int *results) {
    uint64_t hash[ZC__BATCH];
    int found = 0;
    if (!cache || (n && (!keys || !views || !results))) return ZC_E_INVAL;
    if (n) memset(views, 0, n * sizeof *views);
    for (size_t i = 0; i < n; i += ZC__BATCH) {
        size_t batch = n - i < ZC__BATCH ? n - i : ZC__BATCH;
        for (size_t k = 0; k < batch; k++) {
            results[i + k] = zc__check_key(cache, keys[i + k]);
            if (results[i + k] != ZC_OK) continue;
            hash[k] = zc__hash(keys[i + k], cache->seed);
            zc__bucket_prefetch(zc__shard_of(cache, hash[k]), hash[k]);
        }
        for (size_t k = 0; k < batch; k++)
            if (results[i + k] == ZC_OK) zc__entry_ahead(zc__shard_of(cache, hash[k]), hash[k]);
        zc__get_batch(cache, &keys[i], hash, batch, &views[i], &results[i]);
        for (size_t k = 0; k < batch; k++) found += results[i + k] == ZC_OK;
    }
    return found;
}

ZOOCACHE_API void zc_release(zc_cache *cache, zc_view *view) {
    if (!view || !view->pin) return;
    zc__entry *e = (zc__entry *)view->pin;
    memset(view, 0, sizeof *view);
    zc__entry_unpin(cache, e);
}

/* ---- write ---- */

/* A put or del of a key that is being computed: the value to come must not undo it. */
static void zc__fence(zc__shard *s, uint64_t hash, zc_bytes key) {
    zc__flight *f = s->flights.count ? zc__flight_find(s, hash, key) : NULL;
    if (f) f->fenced = true;
}

/* Removes a key. In the storage `other` takes its place, unless that is NULL. As in zc__commit(),
 * the fence, the table and the turn to write are one step: no flight comes in between. */
static int zc__del(zc_cache *c, zc_bytes key, zc__entry *other) {
    uint64_t hash = zc__hash(key, c->seed);
    zc__shard *s = zc__shard_of(c, hash);
    zc__entry *garbage = NULL;
    zc__writer w;
    bool through = zc__has_store(c);
    zc__spin_lock(&s->lock);
    zc__fence(s, hash, key);
    zc__entry *e = zc__shard_find(s, hash, key);
    zc_cause cause = other ? ZC_CAUSE_REPLACED : ZC_CAUSE_DELETED;
    if (e) zc__shard_remove(c, s, e, hash, cause, &garbage);
    if (through) zc__writes(s, &w, hash, true);
    zc__spin_unlock(&s->lock);
    if (through) zc__store_through(c, s, &w, key, other);
    (void)zc__garbage_free(c, garbage);
    return e ? ZC_OK : ZC_MISS;
}

ZOOCACHE_API int zc_del(zc_cache *cache, zc_bytes key) {
    int rc = zc__check_key(cache, key);
    return rc == ZC_OK ? zc__del(cache, key, NULL) : rc;
}

/* A begin that is still to come would outlive what is invalidated until then. */
static bool zc__opts_good(const zc_put_opts *o, const zc_cache *c) {
    return (o->deps || !o->ndeps) && (o->tags || !o->ntags) && o->begin <= zc__published(&c->trie);
}

/* A value that somebody has computed outside of a flight. As in zc__commit(), `published` is read
 * before the killer is looked for; without a begin of the caller's the value is good up to there
 * whatever came before. What may not be stored removes what is there: that is older still. */
static int zc__put(zc_fill *fill, zc_bytes key, zc_bytes value) {
    zc_cache *c = fill->cache;
    uint64_t published = zc__published(&c->trie), begin = fill->put.begin;
    uint64_t hash = zc__hash(key, c->seed);
    zc__shard *s = zc__shard_of(c, hash);
    zc__entry *garbage = NULL;
    zc__put_prefetch(s, hash);
    int rc = zc__fill_static_deps(fill, &fill->put);
    if (rc == ZC_OK) rc = zc__fill_sort_deps(fill);
    if (rc != ZC_OK) return rc;
    bool held = zc__held(c, fill->deps, fill->ndeps);
    bool dead = begin && begin < published &&
                zc__trie_killer(&c->trie, fill->deps, fill->ndeps, begin);
    zc__entry *e = zc__fill_entry(fill, key, value, published, 0);
    if (!e) return ZC_E_NOMEM;
    if (dead || held || zc__entry_cost(e) > c->desc.max_entry_bytes) {
        rc = ZC_REFUSED;
    } else {
        zc__writer w;
        rc = zc__table_admit(c, s, e, hash, NULL, &garbage);
        bool through = rc == ZC_OK && zc__has_store(c);
        if (rc == ZC_OK) zc__fence(s, hash, key);
        if (through) {
            zc__entry_pin(e);
            zc__writes(s, &w, hash, true);
        }
        zc__spin_unlock(&s->lock);
        if (through) {
            zc__store_through(c, s, &w, key, e);
            zc__entry_unpin(c, e);
        }
        (void)zc__garbage_free(c, garbage);
    }
    if (rc == ZC_OK) return ZC_OK;
    e->flags &= (uint16_t)~ZC__OBJECT; /* the object stays the caller's */
    zc__entry_drop(c, e);
    if (rc == ZC_REFUSED) {
        zc__count(&c->refused, 1);
        (void)zc_del(c, key);
    }
    return rc;
}

/* A fill without a flight, for one value. */
static int zc__put_begin(zc_fill *fill, zc_cache *c, zc_bytes key, const zc_put_opts *opts) {
    int rc = zc__check_key(c, key);
    if (rc != ZC_OK) return rc;
    zc__fill_init(fill, c);
    if (opts) fill->put = *opts;
    return zc__opts_good(&fill->put, c) ? ZC_OK : ZC_E_INVAL;
}

/* Puts bytes; or an object; or, with neither, that there is no such thing. */
static int zc__put_any(zc_cache *c, zc_bytes key, const zc_bytes *value, const zc__object *object,
                       const zc_put_opts *opts) {
    zc_fill fill;
    int rc = zc__put_begin(&fill, c, key, opts);
    if (rc != ZC_OK) return rc;
    if (object) fill.object = *object;
    fill.absent = !object && !value;
    rc = zc__put(&fill, key, value ? *value : zc_str(""));
    zc__fill_clear(&fill);
    return rc;
}

ZOOCACHE_API int zc_put(zc_cache *cache, zc_bytes key, zc_bytes value, const zc_put_opts *opts) {
    if ((!value.ptr && value.len) || value.len > UINT32_MAX / 2) return ZC_E_INVAL;
    return zc__put_any(cache, key, &value, NULL, opts);
}

ZOOCACHE_API int zc_put_object(zc_cache *cache, zc_bytes key, void *object, size_t size,
                               zc_drop_fn drop, void *drop_user, const zc_put_opts *opts) {
    const zc__object o = {object, size, drop, drop_user};
    return drop ? zc__put_any(cache, key, NULL, &o, opts) : ZC_E_INVAL;
}

ZOOCACHE_API int zc_put_absent(zc_cache *cache, zc_bytes key, const zc_put_opts *opts) {
    return zc__put_any(cache, key, NULL, NULL, opts);
}

#ifdef ZOOCACHE_WITH_BUS
/* The entry is only what the record is made of: the table lets go of the key, and the storage gets
 * one in its place, or, if it is dead by now, none. */
static int zc__put_parts(zc_fill *fill, zc_bytes key, zc_bytes parts) {
    zc_cache *c = fill->cache;
    uint64_t published = zc__published(&c->trie), begin = fill->put.begin;
    int rc = zc__fill_static_deps(fill, &fill->put);
    if (rc == ZC_OK) rc = zc__fill_sort_deps(fill);
    if (rc != ZC_OK) return rc;
    bool dead = begin && zc__trie_killer(&c->trie, fill->deps, fill->ndeps, begin);
    zc__entry *e = zc__fill_entry(fill, key, parts, published, 0);
    if (!e) return ZC_E_NOMEM;
    e->flags |= ZC__PARTS;
    zc__count(&c->refused, dead);
    (void)zc__del(c, key, dead ? NULL : e);
    zc__entry_drop(c, e);
    return dead ? ZC_REFUSED : ZC_OK;
}

ZOOCACHE_API int zc_put_parts(zc_cache *cache, zc_bytes key, const zc_bytes *parts, size_t n,
                              const zc_put_opts *opts) {
    zc_fill fill;
    int rc = zc__put_begin(&fill, cache, key, opts);
    if (rc != ZC_OK) return rc;
    if (!zc__has_store(cache) || (n && !parts) || n > ZC_DEPS_MAX) return ZC_E_INVAL;
    rc = zc__put_parts(&fill, key, zc_slice(parts, n * sizeof *parts));
    zc__fill_clear(&fill);
    return rc;
}
#else
ZOOCACHE_API int zc_put_parts(zc_cache *cache, zc_bytes key, const zc_bytes *parts, size_t n,
                              const zc_put_opts *opts) {
    (void)cache; (void)key; (void)parts; (void)n; (void)opts;
    return ZC_E_BUILD;
}
#endif

ZOOCACHE_API uint64_t zc_begin(zc_cache *cache) { return cache ? zc__published(&cache->trie) : 0; }

ZOOCACHE_API uint64_t zc_begin_ago(zc_cache *cache, uint64_t lag) {
#ifdef ZOOCACHE_NO_THREADS
    (void)lag;
    return cache != NULL; /* before every invalidation */
#else
    if (!cache) return 0;
    zc__spin_lock(&cache->trie.writer);
    uint64_t begin = zc__trie_ago(&cache->trie, zc__mono(&cache->clock), lag);
    zc__spin_unlock(&cache->trie.writer);
    return begin;
#endif
}

/* ---- fill ---- */

static int zc__check_opts(const zc_cache *c, zc_bytes key, const zc_fetch_opts *o) {
    int rc = zc__check_key(c, key);
    if (rc != ZC_OK) return rc;
    if (o->parent && o->parent->cache != c) return ZC_E_INVAL; /* its tags are of another trie */
#ifndef ZOOCACHE_WITH_BUS
    if (o->fleet) return ZC_E_BUILD;
#endif
    return o->begin <= zc__published(&c->trie) && zc__opts_good(&o->put, c) ? ZC_OK : ZC_E_INVAL;
}

/* Runs a leader's flight to its end, by the storage, by what another node of the fleet puts there
 * meanwhile, or by the loader; consumes the fill. The value of a flight that could not store it is
 * good for this caller all the same. Who cannot wait any longer, past `until`, for another node's
 * value, hands over: ZC_E_TIMEOUT; a refresh never waits, and one that is run by itself keeps its
 * fill: ZC_PENDING. */
static int zc__lead(zc_fill *fill, zc_loader loader, void *user, uint64_t until, bool refresh,
                    zc_view *view) {
    zc_cache *c = fill->cache;
    fill->asked = zc__has_store(c) && (!refresh || fill->due);
    int rc = fill->asked ? zc__store_load(fill) : ZC_MISS;
    zc__flight *f = fill->flight;
    uint64_t token = 0;
    if (rc == ZC_MISS && fill->fleet) {
        rc = zc__fleet_lock(fill, until, &token);
        if (rc == ZC_E_TIMEOUT && fill->loader) return ZC_PENDING;
        if (rc == ZC_E_TIMEOUT && refresh) return zc__fail(fill, rc, view);
        if (rc == ZC_E_TIMEOUT) return (void)zc__fail(fill, 0, NULL), rc;
    }
    if (rc == ZC_MISS) {
        (void)zc__wait_for(fill, true); /* a new flight waits for nobody: no circle */
        ZC__CALLS_OUT();
        uint64_t was = zc__hurry(ZC_NEVER);
        rc = loader(fill, user);
        (void)zc__hurry(was);
        (void)zc__wait_for(fill, false);
    }
    if (rc == ZC_OK) {
        zc__fleet_check(fill, token);
        rc = zc__commit_value(fill, view);
    } else {
        rc = zc__fail(fill, rc < 0 ? rc : ZC_E_LOADER, view);
    }
    if (token) zc__fleet_unlock(c, f, token);
    return rc;
}

/* Puts a refresh behind those that wait. Nobody runs its flight meanwhile: so a thread that asks
 * for the key does not take it for its own, and may run it (zc__follow()). */
static void zc__job_put(zc_cache *c, zc__jobs *jobs, zc_fill *fill) {
    zc__flight_runs(fill, 0);
    fill->next = NULL;
    fill->queue = jobs;
    zc__spin_lock(&c->jobs_lock);
    fill->prev = jobs->last;
    if (fill->prev) fill->prev->next = fill;
    else jobs->first = fill;
    jobs->last = fill;
    fill->flight->job = fill;
    zc__spin_unlock(&c->jobs_lock);
}

/* Takes a refresh out of its queue; without threads, always the first. */
static zc_fill *zc__job_take(zc_fill *fill) {
    if (!fill) return NULL;
    ZC__ASSERT_HELD(&fill->cache->jobs_lock);
    if (ZC__CAN_SLEEP && fill->prev) fill->prev->next = fill->next;
    else fill->queue->first = fill->next;
    if (fill->next) fill->next->prev = fill->prev;
    else fill->queue->last = fill->prev;
    fill->flight->job = NULL;
    return fill;
}

/* The refresh that a flight waits for, if it is still to be run: else who follows it would wait for
 * what perhaps only he himself would run. */
static inline zc_fill *zc__job_of(zc_cache *c, zc__flight *f) {
    zc__spin_lock(&c->jobs_lock);
    zc_fill *fill = zc__job_take(f->job);
    zc__spin_unlock(&c->jobs_lock);
    return fill;
}

/* Leaves a refresh to a thread, or to the next zc_poll(). */
static void zc__refresh_later(zc_cache *c, zc_fill *fill) {
    zc__job_put(c, &c->jobs, fill);
#ifndef ZOOCACHE_NO_THREADS
    if (c->threads) zc__monitor_notify(&c->refresher);
#endif
}

/* The queue whose first refresh is to run now; NULL: none. All that are postponed wait equally
 * long, so the first is due first; at the end none waits. */
static zc__jobs *zc__jobs_due(zc_cache *c) {
    ZC__ASSERT_HELD(&c->jobs_lock);
#ifdef ZOOCACHE_WITH_BUS
    zc__jobs *other = &c->postponed;
    if (other->first && (c->closed || zc__mono(&c->clock) >= other->first->due)) return other;
#endif
    return c->jobs.first ? &c->jobs : NULL;
}

static zc_fill *zc__next_refresh(zc_cache *c) {
    zc__spin_lock(&c->jobs_lock);
    zc__jobs *jobs = zc__jobs_due(c);
    zc_fill *fill = jobs ? zc__job_take(jobs->first) : NULL;
    zc__spin_unlock(&c->jobs_lock);
    return fill;
}

/* Runs a refresh that was taken out. */
static void zc__refresh_run(zc_cache *c, zc_fill *fill) {
    zc_view view;
    memset(&view, 0, sizeof view);
    fill->started = zc__mono(&c->clock);
    zc__flight_runs(fill, zc__self());
    int rc = zc__lead(fill, fill->loader, fill->user, 0, true, &view);
    zc_release(c, &view);
#ifdef ZOOCACHE_WITH_BUS
    if (rc == ZC_PENDING) { /* another node is at it: look again later, and do others meanwhile */
        fill->due = zc__mono(&c->clock) + ZC__FLEET_PAUSE;
        zc__job_put(c, &c->postponed, fill);
    }
#else
    (void)rc;
#endif
}

/* Waits for a flight, for whose refresh nobody has had time yet: then this thread runs it. */
static int zc__follow(zc_fill *fill, uint64_t timeout, zc_view *view) {
    zc_fill *job = ZC__CAN_SLEEP && timeout ? zc__job_of(fill->cache, fill->flight) : NULL;
    if (job) zc__refresh_run(fill->cache, job);
    return zc__wait(fill, timeout, view);
}

/* One go of zc_fetch. ZC_RETRY: another is needed; *scheduled: `user` is needed later, too. */
static int zc__fetch_once(zc_cache *c, zc_bytes key, zc_loader loader, void *user,
                          const zc_fetch_opts *o, uint64_t deadline, zc_view *view,
                          bool *scheduled) {
    zc_fill *fill;
    int rc = zc__begin(c, key, o, view, &fill);
    bool refresh = fill && rc != ZC_FOLLOW && rc != ZC_LEAD;
    zc__count(&c->refreshes, refresh);
    if (refresh && o->refresh_here) zc_release(c, view); /* the flight's fallback has it, too */
    if (rc == ZC_LEAD || (refresh && o->refresh_here))
        return zc__lead(fill, loader, user, deadline, refresh, view);
    if (rc != ZC_FOLLOW) {
        if (fill) {
            fill->loader = loader;
            fill->user = user;
            fill->release = o->release;
            *scheduled = true;
            zc__refresh_later(c, fill);
        }
        return rc;
    }
    zc__count(&c->waits, 1);
    uint64_t now = o->wait_timeout ? zc__mono(&c->clock) : 0;
    uint64_t left = deadline == ZC_NEVER ? ZC_NEVER : deadline > now ? deadline - now : 0;
    rc = zc__follow(fill, left, view);
    zc__fill_close(fill);
    /* Without threads nobody else can end the flight while this call waits. */
    return rc != ZC_PENDING ? rc : ZC_E_TIMEOUT;
}

ZOOCACHE_API int zc_fetch(zc_cache *cache, zc_bytes key, zc_loader loader, void *user,
                          const zc_fetch_opts *opts, zc_view *view) {
    zc_fetch_opts none;
    bool scheduled = false;
    memset(&none, 0, sizeof none);
    if (!opts) opts = &none;
    if (view) memset(view, 0, sizeof *view);
    int rc = view && loader ? zc__check_opts(cache, key, opts) : ZC_E_INVAL;
    if (rc == ZC_OK) {
        uint64_t deadline = ZC_NEVER;
        if (opts->wait_timeout)
            deadline = zc__add_sat(zc__mono(&cache->clock), opts->wait_timeout);
        do rc = zc__fetch_once(cache, key, loader, user, opts, deadline, view, &scheduled);
        while (rc == ZC_RETRY);
    }
    if (opts->release && !scheduled) opts->release(user);
    return rc;
}

ZOOCACHE_API int zc_flight_begin(zc_cache *cache, zc_bytes key, const zc_fetch_opts *opts,
                                 zc_view *view, zc_fill **fill) {
    zc_fetch_opts none;
    if (!view || !fill) return ZC_E_INVAL;
    memset(view, 0, sizeof *view);
    *fill = NULL;
    memset(&none, 0, sizeof none);
    if (!opts) opts = &none;
    int rc = zc__check_opts(cache, key, opts);
    if (rc != ZC_OK) return rc;
    rc = zc__begin(cache, key, opts, view, fill);
    if (rc == ZC_FOLLOW) zc__count(&cache->waits, 1);
    if (rc == ZC_LEAD) (*fill)->asked = zc__has_store(cache);
    int loaded = ZC_MISS;
    if (rc == ZC_LEAD && zc__has_store(cache) && (loaded = zc__store_load(*fill)) != ZC_MISS) {
        rc = zc__is_unsealed(loaded) ? zc__fail(*fill, loaded, view)
                                     : zc__commit_value(*fill, view);
        *fill = NULL;
    }
    if (*fill && (*fill)->leader) zc__flight_runs(*fill, 0);
    return rc;
}

ZOOCACHE_API int zc_flight_commit(zc_fill *fill, zc_view *view) {
    if (view) memset(view, 0, sizeof *view);
    if (!fill || !fill->leader) return ZC_E_INVAL;
    return zc__commit(fill, view);
}

ZOOCACHE_API void zc_flight_abandon(zc_fill *fill, int error) {
    if (!fill) return;
    if (fill->leader) (void)zc__fail(fill, error > 0 ? ZC_E_LOADER : error, NULL);
    else zc__fill_close(fill);
}

ZOOCACHE_API int zc_flight_wait(zc_fill *fill, uint64_t timeout, zc_view *view) {
    if (!view) return ZC_E_INVAL;
    memset(view, 0, sizeof *view);
    if (!fill || fill->leader) return ZC_E_INVAL;
    int rc = zc__follow(fill, timeout, view);
    if (rc != ZC_PENDING) zc__fill_close(fill);
    return rc;
}

/* A flight ends under the lock under which it is looked at here: if it still runs, whoever ends it
 * finds the watcher; if not, it is told here. So once, and never not at all. */
ZOOCACHE_API int zc_flight_notify(zc_fill *fill, void (*fn)(void *user), void *user) {
    if (!fill || !fn || fill->leader || fill->watching) return ZC_E_INVAL;
    zc__flight *f = fill->flight;
    zc__spin_lock(&f->shard->lock);
    bool running = f->state == ZC__RUNNING;
    if (running) {
        fill->notify = fn;
        fill->notify_user = user;
        fill->prev = NULL;
        fill->next = f->watchers;
        if (f->watchers) f->watchers->prev = fill;
        f->watchers = fill;
        fill->watching = true;
    }
    zc__spin_unlock(&f->shard->lock);
    if (!running) fn(user);
    return ZC_OK;
}

/* ---- invalidate ---- */

/* What is done here is kept by the storage, and told to the other nodes. n == 0: everything. */
static int zc__invalidated(zc_cache *c, const zc_bytes *tags, size_t n, uint64_t version) {
    zc_bytes root = zc_slice("", 0);
    int rc = ZC_OK;
    if (zc__bus_on(c)) rc = zc__bus_publish(c, tags, n);
    else if (zc__has_store(c)) rc = zc__store_stamp(c, n ? tags : &root, n ? n : 1, version);
    for (size_t i = 0; i < n; i++) zc__report_invalidated(c, tags[i], version);
    return rc;
}

ZOOCACHE_API int zc_invalidate(zc_cache *cache, zc_bytes tag) {
    return zc_invalidate_many(cache, &tag, 1);
}

ZOOCACHE_API int zc_invalidate_many(zc_cache *cache, const zc_bytes *tags, size_t n) {
    if (!cache || (n && !tags) || n > SIZE_MAX / 256) return ZC_E_INVAL;
    int rc = zc__tags_check(tags, n);
    if (rc != ZC_OK || n == 0) return rc;
    return zc__invalidated(cache, tags, n, zc__invalidate_text(cache, tags, n, false));
}

#ifdef ZOOCACHE_WITH_BUS
/* 64 bits that no other node draws, nor this one again. */
static uint64_t zc__hold_id(zc_cache *c) {
    uint64_t from[5] = {c->seed, (uintptr_t)c, zc__mono(&c->clock), zc__wall(&c->clock),
                        zc__published(&c->trie)};
    return XXH3_64bits(from, sizeof from) | 1;
}

/* Holds, then stamps, then tells of it: once the tags are marked nothing that depends on them is
 * stored, and the stamp kills what was stored before. The other way round, a fill that begins and
 * ends in between would be stored, with what was before the commit. */
static int zc__hold_begin(zc_cache *c, zc__hold *h) {
    zc__hold_add(c, h);
    uint64_t v = zc__trie_stamp(&c->trie, h->nodes.list, h->nodes.n, 0);
    int rc = ZC_OK;
    if (c->bus.on) rc = zc__bus_announce(c, h);
    else if (zc__has_store(c)) rc = zc__store_stamp(c, h->list + 1, h->n - 1, v);
    for (size_t i = 1; i < h->n; i++) zc__report_invalidated(c, h->list[i], v);
    return rc;
}

ZOOCACHE_API int zc_hold(zc_cache *cache, const zc_bytes *tags, size_t n, uint64_t lease,
                         uint64_t *hold) {
    if (!hold) return ZC_E_INVAL;
    *hold = 0;
    if (!cache || !tags || !n || n > SIZE_MAX / 256) return ZC_E_INVAL;
    if (lease < ZC_MILLISECOND || lease > 3600 * ZC_SECOND) return ZC_E_INVAL;
    int rc = zc__tags_check(tags, n);
    if (rc != ZC_OK) return rc;
    if (cache->bus.on && !cache->desc.bus.hold) return ZC_E_BUILD;
    uint64_t id = zc__hold_id(cache);
    zc__hold *h = zc__hold_new(cache, id, lease, tags, n, false);
    if (!h) return ZC_E_NOMEM;
    h->own = true;
    rc = zc__hold_begin(cache, h);
    if (rc == ZC_OK) {
        *hold = id;
        return ZC_OK;
    }
    (void)zc__hold_forget(cache, id);
    zc__holds_end(cache, zc__holds_take(cache, id, true, 0));
    return rc;
}

/* Stamps while it is still held, here and, by the entry, elsewhere: what is stored from the end on
 * began after that. The list beside the log goes after the entry is in the log, so a node that
 * attaches in between knows at least one of them; and the tags are let go last. */
ZOOCACHE_API int zc_hold_end(zc_cache *cache, uint64_t hold) {
    zc__hold *h = cache && hold ? zc__holds_take(cache, hold, true, 0) : NULL;
    if (!h) return ZC_E_INVAL;
    int rc = ZC_OK;
    uint64_t v = zc__trie_stamp(&cache->trie, h->nodes.list, h->nodes.n, 0);
    zc__hold_mark((char *)(uintptr_t)h->list[0].ptr, hold, 0);
    if (cache->bus.on) rc = zc__bus_publish(cache, h->list, h->n);
    else if (zc__has_store(cache)) rc = zc__store_stamp(cache, h->list + 1, h->n - 1, v);
    (void)zc__hold_forget(cache, hold);
    for (size_t i = 1; i < h->n; i++) zc__report_invalidated(cache, h->list[i], v);
    zc__holds_end(cache, h);
    zc__holds_end(cache, zc__holds_take(cache, hold, false, 0)); /* as it came back from the log */
    return rc;
}
#else
ZOOCACHE_API int zc_hold(zc_cache *cache, const zc_bytes *tags, size_t n, uint64_t lease,
                         uint64_t *hold) {
    (void)cache; (void)tags; (void)n; (void)lease; (void)hold;
    return ZC_E_BUILD;
}
ZOOCACHE_API int zc_hold_end(zc_cache *cache, uint64_t hold) {
    (void)cache; (void)hold;
    return ZC_E_BUILD;
}
#endif

ZOOCACHE_API int zc_invalidate_tag(zc_cache *cache, zc_tag *tag) {
    char text[ZC_TAG_MAX];
    if (!cache || !tag) return ZC_E_INVAL;
    uint64_t v = zc__trie_stamp(&cache->trie, &tag, 1, 0);
    if (!zc__has_store(cache) && !zc__bus_on(cache) && !cache->desc.events.version) return ZC_OK;
    zc_bytes name = zc_slice(text, zc__tag_text(tag, text));
    return zc__invalidated(cache, &name, 1, v);
}

/* Dead first, by one version of the root: then it does not matter in which order the other nodes,
 * the storage and the shards get rid of it, nor that a fill which began before is on its way. */
ZOOCACHE_API int zc_clear(zc_cache *cache) {
    if (!cache) return ZC_E_INVAL;
    zc_bytes name = zc_slice("", 0);
    zc_tag *everything[2] = {&cache->trie.root, &cache->trie.all};
    uint64_t v = zc__trie_stamp(&cache->trie, everything, 2, 0);
    int rc = zc__invalidated(cache, NULL, 0, v);
    if (zc__has_store(cache)) {
        zc__entry *spent = NULL;
        zc__behind_forget(cache, NULL, &spent);
        zc__entries_destroy(cache, spent);
        int cleared = cache->desc.store.clear(cache->desc.store.user);
        if (cleared < 0) {
            zc__store_fault(cache, name, cleared);
            if (rc == ZC_OK) rc = ZC_E_STORE;
        }
    }
    for (uint32_t i = 0; i < cache->nshards; i++) {
        zc__spin_lock(&cache->shards[i].lock);
        zc__policy_clear(cache, &cache->shards[i]);
        zc__spin_unlock(&cache->shards[i].lock);
    }
    zc__report_invalidated(cache, name, v);
    return rc;
}

ZOOCACHE_API int zc_observe(zc_cache *cache, uint64_t remote) {
    return cache ? zc_hlc_merge(&cache->hlc, remote) : ZC_E_INVAL;
}

ZOOCACHE_API int zc_tag_check(zc_bytes tag) {
    zc__path path;
    return zc__path_parse(tag, &path);
}

ZOOCACHE_API int zc_tag_intern(zc_cache *cache, zc_bytes tag, zc_tag **out) {
    if (!out) return ZC_E_INVAL;
    *out = NULL;
    return cache ? zc__tag_get(cache, tag, false, out) : ZC_E_INVAL;
}

ZOOCACHE_API void zc_tag_release(zc_cache *cache, zc_tag *tag) {
    if (cache && tag) zc__tag_unref(&cache->trie, tag);
}

ZOOCACHE_API int zc_tag_version(zc_cache *cache, zc_bytes tag, uint64_t *version) {
    zc__path path;
    if (!version) return ZC_E_INVAL;
    *version = 0;
    if (!cache) return ZC_E_INVAL;
    int rc = zc__path_parse(tag, &path);
    if (rc != ZC_OK) return rc;
    zc_tag *n = NULL;
    if (zc__keeps_versions(cache)) { /* only a node can be asked about */
        rc = zc__tag_get(cache, tag, false, &n);
        if (rc == ZC_OK && zc__store_learn(cache, n) != ZC_OK) rc = ZC_E_STORE;
        if (rc == ZC_OK) *version = zc__atomic_load_acq(&n->version);
    } else {
        n = zc__tag_deepest(&cache->trie, &path);
        *version = zc__atomic_load_acq(n->depth == path.depth ? &n->version : &n->floor);
    }
    if (n) zc__tag_unref(&cache->trie, n);
    return rc;
}

ZOOCACHE_API size_t zc_prune(zc_cache *cache, uint64_t max_age) {
    size_t total = 0, found;
    if (!cache) return 0;
    zc__trie *t = &cache->trie;
    (void)zc__part_some(cache, SIZE_MAX);
    uint64_t now_s = zc__now(cache) / ZC_SECOND, age_s = max_age / ZC_SECOND, next = UINT64_MAX;
    if (age_s > now_s) return 0;
    do { /* a parent is idle when its last child has gone */
        found = 0;
        for (unsigned i = 0; i < ZC__STRIPES; i++) {
            uint32_t at = 0;
            do
                found += zc__stripe_sweep(t, &t->stripes[i], &at, 64, now_s - age_s, &next);
            while (at);
        }
        total += found;
    } while (found);
    return total;
}

/* ---- keep house ---- */

/* Ends some of a shard's flights whose leaders have had their time, so that those who wait only for
 * a call-back are told. Looks at a few chains, from where it stopped; growing moves flights to
 * later ones, so a look over all has seen each, and when the next is due. False: none is due. */
static bool zc__flights_expire(zc__shard *s, uint64_t now, zc__link **late) {
    zc__link *l, *next;
    unsigned looks = 64, ended = 0;
    zc__spin_lock(&s->lock);
    bool due = now >= s->next_lease;
    for (; due && looks && ended < 8 && s->lease_at < zc__chains_end(&s->flights); looks--) {
        for (l = *zc__chain(&s->flights, s->lease_at++); l; l = next) {
            zc__flight *f = (zc__flight *)l;
            next = l->next;
            if (f->lease > now) {
                if (f->lease < s->lease_found) s->lease_found = f->lease;
                continue;
            }
            l->refs++;
            zc__flight_end(s, f, ZC__LOST);
            l->next = *late;
            *late = l;
            ended++;
        }
    }
    if (due && s->lease_at >= zc__chains_end(&s->flights)) {
        s->next_lease = s->lease_found;
        s->lease_found = ZC_NEVER;
        s->lease_at = 0;
    }
    zc__spin_unlock(&s->lock);
    return due;
}

/* Wakes who waits for the flights of a chain, and lets go of them. */
static void zc__flights_wake(zc_cache *c, zc__link *ended) {
    for (zc__link *l; (l = ended) != NULL; zc__flight_unref(c, (zc__flight *)l)) {
        ended = l->next;
        zc__flight_wake((zc__flight *)l);
    }
}

/* A step for the first shard from where the last ended that has overdue flights. False: none. */
static bool zc__expire_some(zc_cache *c, zc__link **late) {
    uint64_t now = zc__mono(&c->clock);
    for (uint32_t i = 0; i < c->nshards; i++) {
        zc__shard *s = &c->shards[c->lease_shard];
        c->lease_shard = (c->lease_shard + 1) & (c->nshards - 1);
        if (zc__flights_expire(s, now, late)) return true;
    }
    return false;
}

/* Sweeps a few buckets of the first shard, from where the last step ended, that has something to
 * sweep: what was dead at `published`, or is over at `now`. False: there is none. */
static bool zc__sweep_some(zc_cache *c, uint64_t now, uint64_t published, zc__entry **garbage) {
    for (uint32_t i = 0; i < c->nshards; i++) {
        zc__shard *s = &c->shards[c->sweep_shard];
        zc__spin_lock(&s->lock);
        if (!s->count) s->cursor = 0;
        bool idle = !zc__shard_needs_upkeep(s) &&
                    (!s->count || (s->cursor == 0 && now < s->next_expiry &&
                                   (s->swept >= published || now < s->next_sweep)));
        bool over = idle || zc__shard_sweep(c, s, 8, now, garbage);
        zc__spin_unlock(&s->lock);
        if (over) c->sweep_shard = (c->sweep_shard + 1) & (c->nshards - 1);
        if (!idle) return true;
    }
    return false;
}

/* Looks at a few chains for tags that are idle for prune_after. A look over all finds out when the
 * next is due; after one that found any comes another, as a parent is idle when its last child has
 * gone. False: none is due. */
static bool zc__prune_some(zc_cache *c) {
    zc__trie *t = &c->trie;
    uint64_t now_s = zc__atomic_load_rlx(&t->now_s), age_s = c->desc.prune_after / ZC_SECOND;
    if (!zc__atomic_load_rlx(&t->idle) || age_s > now_s || now_s - age_s < t->prune_due)
        return false;
    if (!t->prune_at && !t->prune_stripe) t->prune_next = now_s;
    if (zc__stripe_sweep(t, &t->stripes[t->prune_stripe], &t->prune_at, 16, now_s - age_s,
                         &t->prune_next))
        t->prune_next = 0;
    if (t->prune_at || (t->prune_stripe = (t->prune_stripe + 1) % ZC__STRIPES) != 0) return true;
    t->prune_due = t->prune_next;
    return true;
}

#ifdef ZC__SLABS
#define ZC__SLAB_RETRY 10u /* s: after so long, what could not be moved is looked at again */

/* Has each shard been swept since zc__compact_begin()? */
static bool zc__compact_done(zc_cache *c) {
    bool over = true;
    for (uint32_t i = 0; i < c->nshards && over; i++) {
        zc__shard *s = &c->shards[i];
        zc__spin_lock(&s->lock);
        over = !s->count || s->next_expiry != 0;
        zc__spin_unlock(&s->lock);
    }
    return over;
}

/* Lets each shard be swept, from its first bucket on. */
static void zc__compact_begin(zc_cache *c) {
    for (uint32_t i = 0; i < c->nshards; i++) {
        zc__spin_lock(&c->shards[i].lock);
        c->shards[i].next_expiry = c->shards[i].cursor = c->shards[i].broad_at = 0;
        zc__spin_unlock(&c->shards[i].lock);
    }
}

/* A step of giving memory back. False: there is nothing to do, or sweeping will tell. */
static bool zc__slabs_keep(zc_cache *c) {
    zc__slabs *s = c->mem.slabs;
    uint64_t now_s = zc__atomic_load_rlx(&c->trie.now_s);
    if (!s) return false;
    if (zc__slabs_drop(s)) return true;
    if (s->compacting) {
        if (!zc__compact_done(c)) return false;
        s->retry = now_s + ZC__SLAB_RETRY;
        zc__slabs_compacted(s);
        return true;
    }
    bool again = s->old && now_s >= s->retry;
    if (!zc__slabs_renew(s, again)) return false;
    zc__compact_begin(c);
    return true;
}
#else
static inline bool zc__slabs_keep(zc_cache *c) { (void)c; return false; }
#endif

/* Runs the refresh that has waited longest. False: none waits. */
static bool zc__refresh_one(zc_cache *c) {
    zc_fill *fill = zc__next_refresh(c);
    if (fill) zc__refresh_run(c, fill);
    return fill != NULL;
}

/* Rounds until the budget is used up, in each of which every duty has its turn, for one small step,
 * however much another has to do. ZC_MORE: work remains. */
static int zc__housekeeping(zc_cache *c, uint64_t budget, bool polled) {
    uint64_t now = zc__now(c), published = zc__published(&c->trie);
    uint64_t deadline = zc__add_sat(zc__mono(&c->clock), budget), was = zc__hurry(deadline);
    bool more, first = true, behind = false;
    do {
        zc__entry *garbage = NULL;
        zc__link *late = NULL;
        if (first && zc__bus_on(c) && !zc__bus_runs(c))
            behind = zc__bus_round(c, 0) == ZC_RETRY;
        more = zc__has_store(c) && zc__store_keep(c);
        if (first) zc__holds_expire(c);
        if (zc__spin_trylock(&c->house)) { /* else somebody is at it */
            if (first) zc__limbos_empty(c, ZC__LIMBOS_MOST);
            more = zc__expire_some(c, &late) || more;
            more = zc__sweep_some(c, now, published, &garbage) || more;
            more = zc__prune_some(c) || more;
            more = zc__slabs_keep(c) || more;
            zc__spin_end(&c->house);
        }
        first = false;
        zc__flights_wake(c, late);
        more = zc__garbage_free(c, garbage) || more;
        more = (polled && zc__refresh_one(c)) || more;
        more = (polled && zc__drop_one(c)) || more;
    } while (more && zc__mono(&c->clock) < deadline);
    (void)zc__hurry(was);
    return more || behind ? ZC_MORE : ZC_OK;
}

ZOOCACHE_API int zc_poll(zc_cache *cache, uint64_t budget) {
    return cache ? zc__housekeeping(cache, budget, true) : ZC_E_INVAL;
}

/* ---- the threads ---- */

#ifndef ZOOCACHE_NO_THREADS
/* Keeps house, at most a fifth of a core, however much there is to do. While it pauses, it goes on
 * writing behind: that is mostly waiting for the storage. */
ZC__THREAD_FN(zc__housekeeper_main, arg) {
    zc_cache *c = (zc_cache *)arg;
    while (!zc__atomic_load_acq(&c->stop)) {
        bool more = zc__housekeeping(c, 2 * ZC_MILLISECOND, false) == ZC_MORE;
        uint64_t pause = (more ? 8 : 100) * ZC_MILLISECOND, now = zc__mono(&c->clock);
        uint64_t end = now + pause;
        (void)zc__hurry(end);
        while (now < end && !zc__atomic_load_acq(&c->stop) && zc__has_store(c) &&
               zc__store_keep(c))
            now = zc__mono(&c->clock);
        zc__monitor_lock(&c->keeper);
        if (now < end && !zc__atomic_load_acq(&c->stop)) zc__monitor_sleep(&c->keeper, end - now);
        zc__monitor_unlock(&c->keeper);
    }
    return ZC__THREAD_RESULT;
}

/* How long there will be no refresh to run, if none comes. */
static uint64_t zc__refresh_pause(zc_cache *c) {
    uint64_t now = zc__mono(&c->clock);
    zc__spin_lock(&c->jobs_lock);
    const zc_fill *fill = c->postponed.first;
    uint64_t pause = !fill ? ZC_SECOND : fill->due > now ? fill->due - now : 0;
    zc__spin_unlock(&c->jobs_lock);
    return pause;
}

/* To be asked under the monitor's lock: who adds a refresh notifies after that, so no wake-up is
 * missed between the question and the sleep. */
static bool zc__refreshes_wait(zc_cache *c) {
    zc__spin_lock(&c->jobs_lock);
    bool any = zc__jobs_due(c) != NULL;
    zc__spin_unlock(&c->jobs_lock);
    return any;
}

ZC__THREAD_FN(zc__refresher_main, arg) {
    zc_cache *c = (zc_cache *)arg;
    while (!zc__atomic_load_acq(&c->stop)) {
        if (zc__refresh_one(c)) continue;
        zc__monitor_lock(&c->refresher);
        if (!zc__atomic_load_acq(&c->stop) && !zc__refreshes_wait(c))
            zc__monitor_sleep(&c->refresher, zc__refresh_pause(c));
        zc__monitor_unlock(&c->refresher);
    }
    return ZC__THREAD_RESULT;
}

/* The monitors are those of `threads`, which holds room for all that run. */
static void zc__threads_end(zc_cache *c) {
    if (!c->threads) return;
    zc__atomic_store_rel(&c->stop, 1u);
    zc__monitor_notify(&c->keeper);
    zc__monitor_notify(&c->refresher);
    while (c->nthreads) zc__thread_join(c->threads[--c->nthreads]);
    zc__monitor_destroy(&c->refresher);
    zc__monitor_destroy(&c->keeper);
    zc__free(&c->mem, c->threads, (c->desc.refresh_threads + 1) * sizeof *c->threads);
    c->threads = NULL;
}

static bool zc__threads_monitors(zc_cache *c) {
    if (!zc__monitor_init(&c->keeper, ZC__RANK_SLEEP)) return false;
    if (zc__monitor_init(&c->refresher, ZC__RANK_SLEEP)) return true;
    zc__monitor_destroy(&c->keeper);
    return false;
}

/* The housekeeper, and then those that refresh; what could be started runs, whatever is returned.
 * In the child of a fork the room for them is there already. */
static int zc__threads_start(zc_cache *c) {
    unsigned all = c->desc.refresh_threads + 1;
    size_t size = all * sizeof *c->threads;
    zc__thread *room = c->threads ? c->threads : (zc__thread *)zc__alloc(&c->mem, size);
    if (!room) return ZC_E_NOMEM;
    c->threads = room;
    c->nthreads = c->stop = 0;
    if (!zc__threads_monitors(c)) {
        zc__free(&c->mem, room, size);
        c->threads = NULL;
        return ZC_E_THREAD;
    }
    for (bool good = true; good && c->nthreads < all; c->nthreads += good)
        good = zc__thread_start(&room[c->nthreads],
                                c->nthreads ? zc__refresher_main : zc__housekeeper_main, c);
    return c->nthreads == all ? ZC_OK : ZC_E_THREAD;
}
#else
static inline void zc__threads_end(zc_cache *c) { (void)c; }
#endif

/* ---- locking everything: fork, check ---- */

#ifdef ZOOCACHE_NO_THREADS
#  define zc__limbos_lock(c, lock) ((void)0)
#  define zc__rcu_fork(c) ((void)0)
#else
static void zc__limbos_lock(zc_cache *c, bool lock) {
    for (uint32_t i = 0; c->rcu && i < ZC__SEATS; i++) zc__spin_set(&c->rcu->seat[i].lock, lock);
}
/* The parent's readers are not in the child. */
static void zc__rcu_fork(zc_cache *c) {
    for (zc__seat *seat = c->rcu ? c->rcu->seat + 1 : NULL; seat && seat < c->rcu->seat + ZC__SEATS;
         seat++)
        if (seat->in == ZC__SEAT_TAKEN) seat->in = ZC__SEAT_NEW;
}
#endif

/* In the order of zc__rank; of one rank, by address, so these stand in this order in zc_cache, too.
 * `house` is not among them: zc_fork_child() takes it from a housekeeper that is not there. */
static void zc__lock_all(zc_cache *c, bool lock) {
    zc__bus_lock(&c->bus, lock);
    zc__spin_set(&c->trie.writer, lock);
    for (uint32_t i = 0; i < c->nshards; i++) zc__spin_set(&c->shards[i].lock, lock);
    for (uint32_t i = 0; i < ZC__STRIPES; i++) zc__spin_set(&c->trie.stripes[i].lock, lock);
    zc__spin_set(&c->behind_lock, lock);
    zc__spin_set(&c->jobs_lock, lock);
    zc__spin_set(&c->graph_lock, lock);
    zc__spin_set(&c->drops_lock, lock);
    zc__limbos_lock(c, lock);
    if (c->mem.arena) zc__spin_set(&c->mem.arena->lock, lock);
    zc__spin_set(&c->mem.large_lock, lock);
    zc__slabs_lock(c->mem.slabs, lock);
}

/* All locks, taken or given back, in a list of their own: between the two they are the caller's. */
static void zc__fork_lock(zc_cache *c, bool lock) {
    if (!c) return;
    zc__locks_swap(&c->lent);
    zc__lock_all(c, lock);
    zc__locks_swap(&c->lent);
}

/* From here to one of the two below this thread has every lock, so the child, in which it is the
 * only one, finds nothing half done. */
ZOOCACHE_API void zc_fork_prepare(zc_cache *cache) { zc__fork_lock(cache, true); }
ZOOCACHE_API void zc_fork_parent(zc_cache *cache) { zc__fork_lock(cache, false); }

ZOOCACHE_API int zc_fork_child(zc_cache *cache) {
    int rc = ZC_OK;
    bool writing = false;
    if (!cache) return ZC_E_INVAL;
    zc__locks_swap(&cache->lent);
    for (uint32_t i = 0; i < cache->nshards; i++) {
        zc__shard *s = &cache->shards[i];
        if (zc__has_store(cache) && !zc__monitor_init(&s->order, ZC__RANK_ORDER)) rc = ZC_E_THREAD;
        if (ZC__CAN_SLEEP && s->writers) { /* other threads' */
            writing = true;
            s->writers = NULL;
        }
        s->sleepers = 0;
        /* Their leaders and followers are threads of the parent: their fills are lost here. */
        for (uint32_t k = 0; k < zc__chains_end(&s->flights); k++)
            for (zc__link *l; (l = *zc__chain(&s->flights, k)) != NULL;)
                zc__flight_end(s, (zc__flight *)l, ZC__LOST);
    }
    zc__rcu_fork(cache);
    if (ZC__CAN_SLEEP) zc__trie_recount(&cache->trie); /* else nobody was in the middle of it */
    zc__holds_fork(cache);
    zc__lock_all(cache, false);
    zc__locks_swap(&cache->lent);
    cache->house.held = 0; /* another thread's */
    if (zc__has_store(cache) && cache->desc.store.forked)
        cache->desc.store.forked(cache->desc.store.user);
    if (zc__bus_fork_child(cache) != ZC_OK) rc = ZC_E_THREAD;
    if (writing) zc__store_distrust(cache); /* what became of those is not known here */
#ifndef ZOOCACHE_NO_THREADS
    if (cache->threads && zc__threads_start(cache) != ZC_OK) rc = ZC_E_THREAD;
#endif
    return rc;
}

/* ---- open, close ---- */

static bool zc__desc_valid(const zc_desc *d) {
    const zc_store *st = &d->store;
    if (d->shards & (d->shards - 1) || d->shards > 64) return false; /* no power of two */
    if (d->refresh_threads > 64) return false;
    if (d->ttl_jitter > 100 || (d->block && d->allocator.version)) return false;
    if (!d->block != !d->block_size) return false;
    if (d->allocator.version && (!d->allocator.alloc || !d->allocator.free)) return false;
    if (d->clock.version && (!d->clock.mono_ns || !d->clock.wall_ns)) return false;
    if (d->log.version && !d->log.write) return false;
    if (d->events.version && !d->events.on_event) return false;
    if (d->weigher.version && !d->weigher.weigh) return false;
    if (st->version && (!st->get || !st->put || !st->del || !st->clear)) return false;
    if (!st->generation != !st->tag_put || !st->tag_put != !st->tag_get) return false;
    if (!st->lock != !st->unlock) return false;
    if (!zc__bus_valid(d) || !zc__sealer_valid(d)) return false;
    return d->allocator.version <= 1 && d->clock.version <= 1 && d->log.version <= 1 &&
           d->events.version <= 1 && d->weigher.version <= 1 && st->version <= 1;
}

/* How many shards: enough that threads seldom meet, each large enough for its policy to learn; no
 * more, as what a put changes in each of them is to stay in the caches. */
static uint32_t zc__shards_for(const zc_desc *d, size_t block) {
    if (d->shards || !ZC__THREADED) return d->shards ? d->shards : 1;
    size_t n = 1, most = 4 * zc__processors();
    if (most > 64) most = 64;
    if (d->max_entries && d->max_entries / 512 < most) most = d->max_entries / 512;
    if (d->max_bytes && d->max_bytes / 262144 < most) most = d->max_bytes / 262144;
    if (block / 262144 < most) most = block / 262144;
    while (n * 2 <= most) n *= 2;
    return (uint32_t)n;
}

static void zc__desc_defaults(zc_desc *d) {
    if (!d->max_entries) d->max_entries = SIZE_MAX;
    if (!d->max_bytes) d->max_bytes = SIZE_MAX;
    if (!d->max_entry_bytes || d->max_entry_bytes > d->max_bytes) d->max_entry_bytes = d->max_bytes;
    if (!d->ttl) d->ttl = ZC_NEVER;
    if (!d->tti) d->tti = ZC_NEVER;
    if (!d->flight_timeout) d->flight_timeout = 60 * ZC_SECOND;
    if (!d->prune_after) d->prune_after = 3600 * ZC_SECOND;
    if (!d->max_staleness) d->max_staleness = ZC_SECOND;
    if (!d->bus_pause) d->bus_pause = 10 * ZC_MILLISECOND;
    if (!d->refresh_threads) d->refresh_threads = 1;
#ifdef ZOOCACHE_WITH_BUS
    if (!d->breaker_failures) d->breaker_failures = ZC__BREAKER_FAILURES;
    if (!d->breaker_pause) d->breaker_pause = ZC__BREAKER_LEAST;
#endif
#ifdef ZOOCACHE_NO_THREADS
    d->no_thread = true;
#endif
}

#define ZC__BLOCK_SHARE 128u /* bytes of a block for each of max_entries; without them twice that */

/* The buckets of a table that need not grow for so many entries. */
static inline uint32_t zc__buckets_for(uint64_t entries) { return (uint32_t)(entries / 5 + 2); }

/* Makes a shard's table and ghosts at once where memory is a fixed block and the limit is known:
 * then nothing large has to be found later. */
static bool zc__shard_reserve(zc_cache *c, zc__shard *s) {
    uint32_t shards = c->desc.shards;
    bool limited = c->entries.max != SIZE_MAX;
    if (limited) zc__policy_resize(c, &s->policy, c->entries.max / shards);
    if (!c->mem.arena) return true;
    uint64_t n = c->desc.block_size / ZC__BLOCK_SHARE / shards;
    if (!limited) zc__policy_resize(c, &s->policy, n /= 2);
    else if (n > s->policy.cap) n = s->policy.cap;
    zc__ghosts_make(c, &s->policy);
    return zc__table_resize(c, s, zc__buckets_for(n));
}

ZOOCACHE_API size_t zc_block_size(const zc_desc *desc) {
    const uint64_t most = SIZE_MAX / ZC__GRAIN < ZC__FREE ? SIZE_MAX / 2
                                                          : (uint64_t)ZC__FREE * ZC__GRAIN;
    if (!desc) return 0;
    uint64_t n = desc->max_entries, entries = zc__mul_sat(n, desc->max_entry_bytes);
    if (entries - 1 >= desc->max_bytes - 1) entries = desc->max_bytes; /* 0: no limit */
    if (n - 1 >= most / ZC__BLOCK_SHARE || entries - 1 >= most) return 0;
    uint64_t shards = zc__shards_for(desc, SIZE_MAX), cap = n / shards; /* it may have fewer */
    uint64_t size = sizeof(zc__shard) + zc__buckets_for(cap) * sizeof(zc__bucket) +
                    zc__ghosts_for(cap) * ZC__GHOST_WAYS * sizeof(uint32_t);
    size = ZC__ARENA_HEAD + 3 * ZC__GRAIN + sizeof(zc_cache) + 2 * ZC__LINE + shards * size;
#ifndef ZOOCACHE_NO_THREADS
    size += (desc->refresh_threads + 2) * sizeof(zc__thread);
#endif
    /* A chunk is up to 23 bytes larger than what it holds; 16, as entries are multiples of 8. */
    size += (3 + 2 * shards) * 23 + n * 16 + entries;
    if (size / ZC__BLOCK_SHARE < n) size = n * ZC__BLOCK_SHARE;
    return size <= most ? (size_t)size : 0;
}

/* All shards, or as many as could be made. */
static int zc__shards_make(zc_cache *c) {
    uint32_t n = c->desc.shards;
    c->raw_shards_size = n * sizeof(zc__shard) + ZC__LINE;
    c->raw_shards = zc__alloc_zero(&c->mem, c->raw_shards_size);
    if (!c->raw_shards) return ZC_E_NOMEM;
    unsigned char *p = (unsigned char *)c->raw_shards;
    c->shards = (zc__shard *)(void *)(p + (size_t)(-(uintptr_t)p & (ZC__LINE - 1)));
    for (uint32_t i = 0; i < n; i++) {
        zc__shard *s = &c->shards[i];
        c->nshards = i; /* in case this one cannot be made */
        if (zc__has_store(c) && !zc__monitor_init(&s->order, ZC__RANK_ORDER)) return ZC_E_THREAD;
        c->nshards = i + 1;
        ZC__SET_RANK(&s->lock, ZC__RANK_SHARD);
        s->random = c->seed + i;
        s->next_expiry = s->sweep_expiry = s->next_lease = s->lease_found = ZC_NEVER;
        s->swept = zc__published(&c->trie);
        if (!zc__shard_reserve(c, s)) return ZC_E_NOMEM;
    }
    return ZC_OK;
}

/* Empties a shard for good. */
static void zc__shard_purge(zc__shard *s, zc__entry **garbage) {
    for (unsigned i = 0; i < ZC__QUEUES; i++) {
        for (zc__entry *e = s->policy.queue[i].oldest, *next; e; e = next) {
            next = e->next;
            e->state = i == ZC__CLEARED ? ZC_CAUSE_INVALIDATED : ZC_CAUSE_CLOSED;
            e->next = *garbage;
            *garbage = e;
        }
    }
    memset(s->policy.queue, 0, sizeof s->policy.queue);
    s->count = 0;
}

/* Locks a shard when the storage has all its changes. */
static void zc__writes_wait(zc_cache *c, zc__shard *s) {
    if (zc__has_store(c)) zc__monitor_lock(&s->order);
    zc__spin_lock(&s->lock);
    while (ZC__CAN_SLEEP && s->writers) {
        s->sleepers++;
        zc__spin_unlock(&s->lock);
        zc__monitor_sleep(&s->order, ZC_NEVER);
        zc__spin_lock(&s->lock);
        s->sleepers--;
    }
    if (zc__has_store(c)) zc__monitor_unlock(&s->order);
}

/* Ends a shard: its flights, its entries, its tables. What is on its way to the storage arrives
 * first; from now on nothing is added. */
static void zc__shard_close(zc_cache *c, zc__shard *s) {
    zc__entry *garbage = NULL;
    zc__link *ended = NULL, *l;
    zc__writes_wait(c, s);
    for (uint32_t k = 0; k < zc__chains_end(&s->flights); k++) {
        while ((l = *zc__chain(&s->flights, k)) != NULL) {
            l->refs++;
            ((zc__flight *)l)->error = ZC_E_CLOSED;
            zc__flight_end(s, (zc__flight *)l, ZC__FAILED);
            l->next = ended;
            ended = l;
        }
    }
    zc__rcu_stop(s, ZC__TURN_TABLE); /* for good: who reads without a lock stays out, */
    zc__rcu_wait(c);                 /*   and who is in is waited for */
    zc__shard_purge(s, &garbage);
    zc__chains_free(&c->mem, &s->flights);
    zc__table_free(c, &s->table);
    zc__table_free(c, &s->old);
    zc__ghosts_free(c, &s->policy);
    zc__spin_unlock(&s->lock);
    zc__flights_wake(c, ended);
    (void)zc__garbage_free(c, garbage);
}

/* Ends everything but the memory that late fills and pins still need. Flights end first: the
 * thread of a refresh may be waiting for one. */
static void zc__close(zc_cache *c) {
    zc__atomic_store_rlx(&c->closed, 1u);
    for (uint32_t i = 0; i < c->nshards; i++) zc__shard_close(c, &c->shards[i]);
    zc__threads_end(c);
    for (zc_fill *fill; (fill = zc__next_refresh(c)) != NULL;)
        (void)zc__fail(fill, ZC_E_CLOSED, NULL);
    while (zc__behind_write(c)) {}
    zc__behind_end(c);
    zc__bus_end(c);
    zc__holds_close(c);
    if (zc__has_store(c) && c->desc.store.close) c->desc.store.close(c->desc.store.user);
    if (c->desc.bus.version && c->desc.bus.close) c->desc.bus.close(c->desc.bus.user);
    zc__sealer_close(c);
    zc__atomic_store_rlx(&c->closed, 2u);
    while (zc__drop_one(c)) {}
    zc__cache_unref(c);
}

/* What can fail after the cache's own memory is there. Versions come before anything is stored: a
 * storage that keeps them says the highest that it has, and all that are given here are above, so
 * its records are under the one rule; one that does not is cleared; with a bus they are counted. */
static int zc__setup(zc_cache *c) {
    const zc_store *st = &c->desc.store;
    uint64_t latest = 0, entropy = zc__wall(&c->clock) ^ (uintptr_t)c ^ zc__mono(&c->clock) << 20;
    if (st->version && !zc__has_store(c)) return ZC_E_BUILD;
    c->seed = c->desc.seed ? c->desc.seed : zc__random(&entropy);
    zc__trie_init(&c->trie, &c->mem, &c->hlc, zc__hash(zc_slice("tags", 4), c->seed));
    c->generation = zc__random(&entropy) | 1;
    if (c->desc.bus.version) {
        c->generation = 0; /* the log's identity is */
    } else if (zc__has_store(c) && st->generation) {
        zc_bytes root = zc_slice("", 0);
        uint64_t version = 0;
        if (st->generation(st->user, &c->generation, &latest) < 0 ||
            st->tag_get(st->user, &root, 1, &version) < 0)
            return ZC_E_STORE;
        if (latest > ZC__VERSION_MAX || version > ZC__VERSION_MAX) return ZC_E_CORRUPT;
        c->trie.has_store = true;
        zc__atomic_raise(&c->trie.published, latest);
        c->kept = latest;
        zc__atomic_raise(&c->hlc.last, latest);
        zc__trie_learn(&c->trie, &c->trie.root, version);
    } else if (zc__has_store(c) && st->clear(st->user) < 0) {
        return ZC_E_STORE;
    }
    (void)zc__now(c); /* ages count from now on */
    if (c->desc.write_behind && zc__has_store(c) && !zc__behind_make(c)) return ZC_E_NOMEM;
#ifndef ZOOCACHE_WITH_BUS
    if (c->desc.write_behind) return ZC_E_BUILD;
#endif
    int rc = zc__shards_make(c);
    if (rc == ZC_OK && c->desc.bus.version) rc = zc__bus_open(c);
#ifndef ZOOCACHE_NO_THREADS
    if (rc == ZC_OK && !c->desc.no_thread) rc = zc__threads_start(c);
#endif
    return rc;
}

ZOOCACHE_API int zc_open(const zc_desc *desc, zc_cache **cache) {
    zc_desc d;
    if (!cache) return ZC_E_INVAL;
    *cache = NULL;
    memset(&d, 0, sizeof d);
    if (desc) d = *desc;
    if (!zc__desc_valid(&d)) return ZC_E_INVAL;
    d.shards = zc__shards_for(&d, d.block ? d.block_size : SIZE_MAX);
    zc__desc_defaults(&d);
    zc__mem mem = zc__mem_by(&d.allocator);
    ZC__SET_RANK(&mem.large_lock, ZC__RANK_LARGE);
    if (d.block && !(mem.arena = zc__arena_init(d.block, d.block_size))) return ZC_E_NOMEM;
    unsigned char *raw = (unsigned char *)zc__alloc_zero(&mem, sizeof(zc_cache) + ZC__LINE);
    if (!raw) return ZC_E_NOMEM;
    zc_cache *c = (zc_cache *)(void *)(raw + (size_t)(-(uintptr_t)raw & (ZC__LINE - 1)));
    c->raw_cache = raw;
    c->mem = mem;
    if (!ZC__WATCHED && !d.block && !d.allocator.version) c->mem.slabs = zc__slabs_make(d.shards);
#ifndef ZOOCACHE_NO_THREADS
    if (!d.block && !d.allocator.version) c->rcu = zc__rcu_make(&c->mem);
#endif
    c->desc = d;
    c->clock = c->hlc.clock = d.clock;
    c->hlc.max_drift = d.max_clock_drift;
    c->entries.max = d.max_entries;
    c->cost.max = d.max_bytes;
    c->refs = 1;
    ZC__SET_RANK(&c->house, ZC__RANK_HOUSE);
    ZC__SET_RANK(&c->behind_lock, ZC__RANK_QUEUE);
    ZC__SET_RANK(&c->jobs_lock, ZC__RANK_QUEUE);
    ZC__SET_RANK(&c->graph_lock, ZC__RANK_QUEUE);
    ZC__SET_RANK(&c->drops_lock, ZC__RANK_QUEUE);
    zc__seal_between(c);
    int rc = zc__setup(c);
    if (rc == ZC_OK) {
        *cache = c;
        return ZC_OK;
    }
    c->desc.store.close = c->desc.bus.close = NULL; /* not ours to close: the caller has them */
    zc__sealer_leave(c);
    zc__close(c);
    return rc;
}

ZOOCACHE_API void zc_close(zc_cache *cache) {
    if (cache) zc__close(cache);
}

/* ============================================================================================
 * >>metrics   Numbers, texts, explanations
 * ========================================================================================== */

#ifdef ZOOCACHE_NO_THREADS
#  define zc__rcu_stats(c, out) ((void)0)
#else
static void zc__rcu_stats(zc_cache *c, zc_stats *out) {
    if (c->rcu) out->memory += ZC__RCU_SIZE;
    for (uint32_t i = 0; c->rcu && i < ZC__SEATS; i++) {
        zc__seat *seat = &c->rcu->seat[i];
        out->hits += zc__atomic_load_rlx(&seat->hits);
        out->misses_absent += zc__atomic_load_rlx(&seat->misses);
        zc__spin_lock(&seat->lock);
        out->memory += seat->bytes;
        zc__spin_unlock(&seat->lock);
    }
}
#endif

ZOOCACHE_API void zc_stats_read(zc_cache *cache, zc_stats *out) {
    if (!out) return;
    memset(out, 0, sizeof *out);
    if (!cache) return;
    out->memory = sizeof *cache + ZC__LINE + cache->raw_shards_size;
    out->memory += zc__slabs_slack(cache->mem.slabs);
    out->memory += zc__atomic_load_rlx(&cache->mem.large_size);
    zc__spin_lock(&cache->drops_lock);
    out->memory += cache->parting_size;
    zc__spin_unlock(&cache->drops_lock);
    zc__rcu_stats(cache, out);
    for (uint32_t i = 0; i < cache->nshards; i++) {
        zc__shard *s = &cache->shards[i];
        zc__spin_lock(&s->lock);
        out->hits += s->hits;
        out->hits_stale += s->hits_stale;
        out->misses_absent += s->misses_absent;
        out->misses_expired += s->misses_expired;
        out->misses_invalidated += s->misses_invalidated;
        out->puts += s->puts;
        for (unsigned k = 0; k < ZC_CAUSE_COUNT; k++) out->removed[k] += s->removed[k];
        out->entries += s->count - s->policy.queue[ZC__CLEARED].count;
        out->bytes += s->cost - s->cleared_cost;
        out->flights += s->flights.count;
        out->memory += s->bytes +
                       ((size_t)s->table.nbuckets + s->old.nbuckets) * sizeof(zc__bucket) +
                       (size_t)s->policy.nghosts * ZC__GHOST_WAYS * sizeof(uint32_t) +
                       zc__chains_size(&s->flights);
        zc__spin_unlock(&s->lock);
    }
    zc__trie *t = &cache->trie;
    for (unsigned i = 0; i < ZC__STRIPES; i++) {
        zc__spin_lock(&t->stripes[i].lock);
        out->tag_bytes += zc__chains_size(&t->stripes[i].tags);
        zc__spin_unlock(&t->stripes[i].lock);
    }
    zc__spin_lock(&t->writer);
    out->invalidations = t->invalidations;
    zc__spin_unlock(&t->writer);
    out->tags = (size_t)zc__atomic_load_rlx(&t->tags);
    uint64_t idle = zc__atomic_load_rlx(&t->idle);
    out->tags_idle = idle > UINT64_MAX / 2 ? 0 : (size_t)idle; /* it may dip below 0 for a moment */
    out->tag_bytes += (size_t)zc__atomic_load_rlx(&t->bytes);
    out->memory += out->tag_bytes;
    out->tags_pruned = zc__atomic_load_rlx(&t->pruned);
    out->clock_refused = zc__atomic_load_rlx(&cache->hlc.refused);
#define ZC_X(name) out->name = zc__atomic_load_rlx(&cache->name);
    ZC__COUNTERS(ZC_X)
#undef ZC_X
    out->load_ns = zc__atomic_load_rlx(&cache->load_ns);
    for (unsigned i = 0; i < ZC_LOAD_BUCKETS; i++)
        out->load_histogram[i] = zc__atomic_load_rlx(&cache->load_histogram[i]);
    out->store_open = zc__store_is_open(cache);
    zc__bus_stats(cache, out);
}

ZOOCACHE_API const char *zc_cause_name(int cause) {
    switch (cause) {
#define ZC_X(name, text)                                                                           \
    case name: return text;
        ZC_CAUSES(ZC_X)
#undef ZC_X
    default: return "?";
    }
}

#ifndef ZOOCACHE_NO_TEXT
/* name{cache="...",label="value"} number */
static void zc__metric(zc__text *t, const char *name, const char *cache, const char *label,
                       const char *value, uint64_t number) {
    zc__text_with(t, "zoocache_%{cache=\"", name, NULL);
    for (const char *p = cache; *p; p++) {
        if (*p == '\n') zc__text_str(t, "\\n");
        else if (*p == '"' || *p == '\\') zc__text_str(t, "\\");
        if (*p != '\n') zc__text_bytes(t, p, 1);
    }
    if (label) zc__text_with(t, "\",%=\"%", label, value);
    zc__text_str(t, "\"} ");
    zc__text_num(t, number, 1);
    zc__text_str(t, "\n");
}

static void zc__metric_type(zc__text *t, const char *name, const char *type) {
    zc__text_with(t, "# TYPE zoocache_% %\n", name, type);
}

/* Microseconds as seconds, "0.000128". */
static void zc__text_seconds(zc__text *t, uint64_t us) {
    zc__text_num(t, us / 1000000, 1);
    zc__text_str(t, ".");
    zc__text_num(t, us % 1000000, 6);
}

static void zc__metric_loads(zc__text *t, const zc_stats *s, const char *cache) {
    char bound[24];
    uint64_t sum = 0;
    zc__metric_type(t, "load_seconds", "histogram");
    for (unsigned i = 0; i < ZC_LOAD_BUCKETS; i++) {
        zc__text b = {bound, sizeof bound, 0};
        if (i + 1 < ZC_LOAD_BUCKETS) zc__text_seconds(&b, UINT64_C(1) << i);
        else zc__text_str(&b, "+Inf");
        zc__text_end(&b);
        sum += s->load_histogram[i];
        zc__metric(t, "load_seconds_bucket", cache, "le", bound, sum);
    }
    zc__metric(t, "load_seconds_count", cache, NULL, NULL, sum);
    zc__metric(t, "load_seconds_sum", cache, NULL, NULL, 0);
    t->len -= 2; /* "0\n": it has a fraction */
    zc__text_seconds(t, s->load_ns / 1000);
    zc__text_str(t, "\n");
}

ZOOCACHE_API size_t zc_stats_prometheus(const zc_stats *stats, const char *name, char *buf,
                                        size_t cap) {
    static const char *const reasons[] = {"absent", "expired", "invalidated"};
#define ZC__METRIC(name, type, field)                                                              \
    {name, type, offsetof(zc_stats, field), sizeof ((zc_stats *)NULL)->field},
#define ZC__TOTAL(field) ZC__METRIC(#field "_total", "counter", field)
#define ZC__LEVEL(field) ZC__METRIC(#field, "gauge", field)
    static const struct {
        const char *name, *type;
        size_t at, size;
    } plain[] = {
        ZC__TOTAL(hits) ZC__TOTAL(hits_stale) ZC__COUNTERS(ZC__TOTAL) ZC__TOTAL(puts)
        ZC__TOTAL(invalidations) ZC__TOTAL(tags_pruned) ZC__TOTAL(clock_refused)
        ZC__LEVEL(entries) ZC__LEVEL(bytes) ZC__METRIC("memory_bytes", "gauge", memory)
        ZC__LEVEL(flights) ZC__LEVEL(tags) ZC__LEVEL(tags_idle) ZC__LEVEL(tag_bytes)
#ifdef ZOOCACHE_WITH_BUS
        ZC__TOTAL(bus_entries) ZC__TOTAL(bus_breaks) ZC__TOTAL(bus_errors) ZC__TOTAL(bus_silent)
        ZC__LEVEL(bus_pending) ZC__LEVEL(store_open)
#endif
    };
#undef ZC__LEVEL
#undef ZC__TOTAL
#undef ZC__METRIC
    zc__text t = {buf, buf ? cap : 0, 0};
    if (!stats) return zc__text_end(&t);
    if (!name) name = "";
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        const void *field = (const char *)stats + plain[i].at;
        uint64_t value = plain[i].size == sizeof(uint64_t) ? *(const uint64_t *)field
                         : plain[i].size == sizeof(size_t) ? *(const size_t *)field
                                                           : *(const bool *)field;
        zc__metric_type(&t, plain[i].name, plain[i].type);
        zc__metric(&t, plain[i].name, name, NULL, NULL, value);
    }
    const uint64_t misses[] = {stats->misses_absent, stats->misses_expired,
                               stats->misses_invalidated};
    zc__metric_type(&t, "misses_total", "counter");
    for (size_t i = 0; i < 3; i++)
        zc__metric(&t, "misses_total", name, "reason", reasons[i], misses[i]);
    zc__metric_type(&t, "removed_total", "counter");
    for (int i = 0; i < ZC_CAUSE_COUNT; i++)
        zc__metric(&t, "removed_total", name, "cause", zc_cause_name(i), stats->removed[i]);
    zc__metric_loads(&t, stats, name);
    return zc__text_end(&t);
}

ZOOCACHE_API int zc_explain(zc_cache *cache, zc_bytes key, zc_explanation *out) {
    if (!out) return ZC_E_INVAL;
    memset(out, 0, sizeof *out);
    int rc = zc__check_key(cache, key);
    if (rc != ZC_OK) return rc;
    uint64_t hash = zc__hash(key, cache->seed), now = zc__now(cache);
    zc__shard *s = zc__shard_of(cache, hash);
    out->state = ZC_MISS;
    zc__spin_lock(&s->lock);
    out->filling = s->flights.count && zc__flight_find(s, hash, key);
    zc__entry *e = zc__shard_find(s, hash, key);
    if (e) {
        uint64_t soft = e->flags & ZC__EXTRAS ? zc__entry_extras(e)->soft : ZC_NEVER;
        out->present = true;
        out->expired = now >= e->expires;
        out->expires_in = e->expires == ZC_NEVER ? ZC_NEVER : out->expired ? 0 : e->expires - now;
        out->begin = e->begin;
        out->bytes = zc__entry_cost(e);
        out->deps = e->ndeps;
        out->pins = zc__atomic_load_rlx(&e->refs) - 1;
        if (!out->expired)
            out->state = e->flags & ZC__ABSENT ? ZC_ABSENT : now >= soft ? ZC_STALE : ZC_OK;
        zc__entry_pin(e);
    }
    zc__spin_unlock(&s->lock);
    const zc_tag *killer = e ? zc__entry_killer(cache, e) : NULL;
    if (killer) {
        out->invalidated = true;
        out->state = ZC_MISS;
        out->killed_at = zc__atomic_load_acq(&killer->version);
        out->killer[zc__tag_text(killer, out->killer)] = '\0';
    }
    if (e) zc__entry_unpin(cache, e);
    return ZC_OK;
}
#endif

ZOOCACHE_API bool zc_contains(zc_cache *cache, zc_bytes key) {
    if (zc__check_key(cache, key) != ZC_OK) return false;
    uint64_t hash = zc__hash(key, cache->seed);
    zc__shard *s = zc__shard_of(cache, hash);
    zc__spin_lock(&s->lock);
    zc__entry *e = zc__shard_find(s, hash, key);
    bool is = e && !(e->flags & ZC__ABSENT) &&
              zc__entry_state(cache, e, zc__published(&cache->trie)) <= ZC__SOFT;
    zc__spin_unlock(&s->lock);
    return is;
}

/* ============================================================================================
 * >>walk     Keys and tags, in steps
 *   Idea        A walk goes in an order of hashes, in which a home of the table, or a chain, is a
 *               range: that of the upper bits for the one, of the lowest first for the other. So it
 *               does not matter how tables grow and shrink between two steps, and a cursor is two
 *               numbers: the shard, or stripe, and where in the order.
 *   Step        What is in the range of a home is pinned, and told after unlocking. If that is too
 *               much, the range is halved. (More of one hash, of 32 bits, than can be pinned
 *               there are not in practice: they would be left out.)
 *   Locking     the shard's, or the stripe's, lock for one home
 * ========================================================================================== */
#ifdef ZOOCACHE_WITH_WALK

#define ZC__WALKED 64u /* are pinned at once */

typedef struct zc__range {
    uint64_t from, end; /* of 2^32 */
    void *found[ZC__WALKED];
} zc__range;

/* False: all that is in it has one hash. */
static bool zc__range_halve(zc__range *r) {
    r->end -= (r->end - r->from) / 2;
    return r->end - r->from > 1;
}

/* Where a home ends. */
static uint64_t zc__home_end(uint64_t home, uint32_t nbuckets) {
    return nbuckets ? (((home + 1) << 32) + nbuckets - 1) / nbuckets : UINT64_C(1) << 32;
}

/* The entries of a range that lies in a home: how many, and the first of them. */
static size_t zc__walk_bucket(zc_cache *c, zc__shard *s, zc__range *r) {
    const zc__table *t = zc__table_of(s, r->from << 8);
    uint64_t published = zc__published(&c->trie);
    uint32_t i = zc__home_of(r->from << 8, t->nbuckets);
    size_t n = 0;
    for (uint32_t probes = t->nbuckets; probes; probes--) {
        const zc__bucket *b = &t->buckets[i];
        for (unsigned k = 0; k < ZC__SLOTS; k++) {
            zc__entry *e = b->fp[k] ? b->slot[k] : NULL;
            if (!e || zc__is_cleared(s, e) || e->flags & ZC__ABSENT) continue;
            uint64_t at = zc__hash(zc__entry_key(e), c->seed) >> 8 & UINT32_MAX;
            if (at < r->from || at >= r->end) continue;
            zc__state state = zc__entry_state(c, e, published);
            if (state > ZC__SOFT && !zc__is_later(state)) continue;
            if (n < ZC__WALKED) r->found[n] = e;
            n++;
        }
        if (!b->fp[ZC__OVER]) break;
        if (++i == t->nbuckets) i = 0;
    }
    return n;
}

/* Pins what there is of the home at r->from, or of its beginning. */
static size_t zc__walk_home(zc_cache *c, zc__shard *s, zc__range *r) {
    const zc__table *t = zc__table_of(s, r->from << 8);
    size_t n;
    r->end = zc__home_end(zc__home_of(r->from << 8, t->nbuckets), t->nbuckets);
    if (t == &s->table && s->old.nbuckets) { /* B6: some of it may not be there yet */
        uint64_t moved = zc__home_end(s->moved - UINT64_C(1), s->old.nbuckets);
        if (moved < r->end) r->end = moved;
    }
    while ((n = zc__walk_bucket(c, s, r)) > ZC__WALKED && zc__range_halve(r)) {}
    for (size_t i = 0; i < n && i < ZC__WALKED; i++) zc__entry_pin((zc__entry *)r->found[i]);
    return n < ZC__WALKED ? n : ZC__WALKED;
}

ZOOCACHE_API int zc_keys(zc_cache *cache, uint64_t *cursor, size_t n,
                         void (*fn)(void *user, zc_bytes key, zc_bytes value), void *user) {
    zc__range r;
    if (!cache || !cursor || !fn) return ZC_E_INVAL;
    for (size_t work = 0; *cursor >> 32 < cache->nshards;) {
        zc__shard *s = &cache->shards[*cursor >> 32];
        r.from = *cursor & UINT32_MAX;
        zc__spin_lock(&s->lock);
        size_t found = zc__walk_home(cache, s, &r);
        zc__spin_unlock(&s->lock);
        *cursor += r.end - r.from; /* at the end of a shard, to the next */
        for (size_t i = 0; i < found; i++) {
            zc__entry *e = (zc__entry *)r.found[i];
            zc_bytes value = zc__entry_value(e);
            ZC__CALLS_OUT();
            if (!ZC__CAN_SLEEP || !zc__is_broad(e) || !zc__entry_killer(cache, e))
                fn(user, zc__entry_key(e), value);
            zc__entry_unpin(cache, e);
        }
        work += found + 1;
        if (work >= n) return ZC_MORE;
    }
    *cursor = 0;
    return ZC_OK;
}

/* With its bits in reverse: then chains are ranges. */
static uint32_t zc__reverse(uint32_t x) {
    uint32_t y = 0;
    for (unsigned i = 0; i < 32; i++) y = y << 1 | (x >> i & 1);
    return y;
}

static size_t zc__walk_links(const zc__chains *t, zc__range *r) {
    size_t n = 0;
    for (zc__link *l = *zc__chain(t, zc__reverse((uint32_t)r->from)); l; l = l->next) {
        uint32_t at = zc__reverse(l->hash);
        if (at < r->from || at >= r->end || !zc__atomic_load_acq(&l->refs)) continue;
        if (n < ZC__WALKED) r->found[n] = l;
        n++;
    }
    return n;
}

static size_t zc__walk_chain(zc__trie *t, const zc__chains *chains, zc__range *r) {
    size_t n;
    r->end = UINT64_C(1) << 32;
    if (!chains->n) return 0;
    uint32_t low = zc__reverse((uint32_t)r->from) & (chains->n / 2 - 1);
    uint32_t used = chains->old && low >= chains->moved ? chains->n / 2 : chains->n;
    uint64_t size = (UINT64_C(1) << 32) / used;
    r->end = (r->from / size + 1) * size;
    while ((n = zc__walk_links(chains, r)) > ZC__WALKED && zc__range_halve(r)) {}
    for (size_t i = 0; i < n && i < ZC__WALKED; i++) zc__tag_revive(t, (zc_tag *)r->found[i]);
    return n < ZC__WALKED ? n : ZC__WALKED;
}

ZOOCACHE_API int zc_tags(zc_cache *cache, uint64_t *cursor, size_t n,
                         void (*fn)(void *user, zc_bytes tag), void *user) {
    zc__range r;
    char text[ZC_TAG_MAX];
    if (!cache || !cursor || !fn) return ZC_E_INVAL;
    for (size_t work = 0; *cursor >> 32 < ZC__STRIPES;) {
        zc__stripe *s = &cache->trie.stripes[*cursor >> 32];
        r.from = *cursor & UINT32_MAX;
        zc__spin_lock(&s->lock);
        size_t found = zc__walk_chain(&cache->trie, &s->tags, &r);
        zc__spin_unlock(&s->lock);
        *cursor += r.end - r.from;
        for (size_t i = 0; i < found; i++) {
            zc_tag *tag = (zc_tag *)r.found[i];
            zc_bytes name = zc_slice(text, zc__tag_text(tag, text));
            ZC__CALLS_OUT();
            fn(user, name);
            zc__tag_unref(&cache->trie, tag);
        }
        work += found + 1;
        if (work >= n) return ZC_MORE;
    }
    *cursor = 0;
    return ZC_OK;
}
#endif /* ZOOCACHE_WITH_WALK */

/* ============================================================================================
 * >>check   Validators: every numbered invariant of the openers above
 * ========================================================================================== */

/* B1, B2, B3 and B6 of a table, of which `ready` buckets are cleared. */
static const char *zc__check_buckets(const zc_cache *c, const zc__shard *s, const zc__table *t,
                                     uint32_t ready) {
    uint64_t passed = 0, over = 0;
    uint32_t count = 0;
    bool exact = true;
    for (uint32_t i = 0; i < ready; i++) {
        const zc__bucket *b = &t->buckets[i];
        over += b->fp[ZC__OVER];
        exact = exact && b->fp[ZC__OVER] < 255;
        for (unsigned k = 0; k < ZC__SLOTS; k++) {
            const zc__entry *e = b->slot[k];
            if (!e != !b->fp[k]) return "B1: fingerprint";
            if (!e) continue;
            uint64_t hash = zc__entry_hash(c, e);
            if (zc__shard_of(c, hash) != s) return "B1: shard";
            if (zc__table_of(s, hash) != t) return "B6";
            if (zc__table_find(s, hash, zc__entry_key(e)) != e) return "B1";
            if (e->begin > zc__published(&c->trie)) return "T1: begin";
            passed += (i + t->nbuckets - zc__home_of(hash, t->nbuckets)) % t->nbuckets;
            count++;
        }
    }
    if (count != t->count) return "B2";
    return exact && over != passed ? "B3" : NULL;
}

/* P1 to P4, and B4. */
static const char *zc__check_policy(const zc__shard *s) {
    const zc__policy *p = &s->policy;
    uint32_t total = 0;
    size_t bytes = 0, cost = 0, cleared = 0;
    for (unsigned i = 0; i < ZC__QUEUES; i++) {
        uint32_t count = 0;
        const zc__entry *prev = NULL;
        for (const zc__entry *e = p->queue[i].oldest; e; prev = e, e = e->next, count++) {
            if (count > s->count || e->prev != prev) return "P1: links";
            bytes += zc__entry_size(e);
            cost += zc__entry_cost(e);
            if (zc__is_cleared(s, e) != (i == ZC__CLEARED)) return "P4";
            if (i == ZC__CLEARED) cleared += zc__entry_cost(e);
            else if ((e->state & ZC__QUEUE_BITS) != i || zc__hits(e) > ZC__HITS_MAX) return "P1";
        }
        if (prev != p->queue[i].newest || count != p->queue[i].count) return "P2";
        total += count;
    }
    if (total != s->count || total != s->table.count + s->old.count) return "P2: total";
    if (!s->old.nbuckets && s->ready != s->table.nbuckets) return "B6: ready";
    if (bytes != s->bytes || cost != s->cost || cleared != s->cleared_cost) return "B4";
    if (p->cap && (p->target < 256 || p->target > (int64_t)p->cap * 256)) return "P3";
    return NULL;
}

static const char *zc__check_flights(const zc__shard *s) {
    uint32_t n = 0;
    for (uint32_t k = 0; k < zc__chains_end(&s->flights); k++) {
        for (const zc__link *l = *zc__chain(&s->flights, k); l; l = l->next, n++) {
            const zc__flight *f = (const zc__flight *)l, *g;
            if (!f->listed || f->state != ZC__RUNNING || l->refs == 0) return "F2";
            for (const zc__link *m = l->next; (g = (const zc__flight *)m) != NULL; m = m->next)
                if (g->hash == f->hash && g->key_len == f->key_len &&
                    memcmp(f + 1, g + 1, f->key_len) == 0)
                    return "F1";
        }
    }
    return n == s->flights.count ? NULL : "F1: count";
}

ZOOCACHE_API int zc_check(zc_cache *cache) {
    if (!cache) return ZC_E_INVAL;
    size_t entries = 0, cost = 0;
    zc__spin_lock(&cache->house); /* no housekeeping meanwhile */
    zc__lock_all(cache, true);
    const char *broken = zc__trie_check(&cache->trie);
    if (!broken && cache->mem.arena && !zc__arena_check(cache->mem.arena)) broken = "M1 to M4";
    if (!broken && !zc__slabs_check(cache->mem.slabs)) broken = "S1 to S4";
    for (uint32_t i = 0; i < cache->nshards && !broken; i++) {
        const zc__shard *s = &cache->shards[i];
        broken = zc__check_buckets(cache, s, &s->table, s->ready);
        if (!broken) broken = zc__check_buckets(cache, s, &s->old, s->old.nbuckets);
        if (!broken) broken = zc__check_policy(s);
        if (!broken) broken = zc__check_flights(s);
        entries += s->count;
        cost += s->cost;
    }
    const zc__limit *le = &cache->entries, *lc = &cache->cost;
    if (!broken && (entries > le->max || cost > lc->max)) broken = "B5";
    /* What is taken and not in the table belongs to inserts under way. */
    if (!broken && le->max != SIZE_MAX && le->used < entries) broken = "B5: entries";
    if (!broken && lc->max != SIZE_MAX && lc->used < cost) broken = "B5: cost";
    zc__lock_all(cache, false);
    zc__spin_unlock(&cache->house);
    if (!broken) return ZC_OK;
    zc__log_write(cache, ZC_LOG_ERROR, "broken invariant", broken);
    return ZC_E_CORRUPT;
}

#if defined(ZOOCACHE_WITH_BUS) && !defined(ZOOCACHE_NO_STDLIB)
/* ============================================================================================
 * >>backends   What LMDB, Redis and places have in common
 *   An entry of their logs is a list of tags (>>bytes); one of none stands for everything.
 * ========================================================================================== */

#include <fcntl.h>
#include <unistd.h>
#ifdef _WIN32
#  include <ntsecapi.h>
#endif

/* Gives the entry at `position`. ZC_E_CORRUPT: that is no list. */
static int zc__list_deliver(const zc__mem *m, zc_bytes list, uint64_t position, zc_bus_sink *sink) {
    const unsigned char *p = (const unsigned char *)list.ptr;
    zc_bytes few[16], *tags = few;
    size_t n = 0, at = 0;
    for (; at + 2 <= list.len; n++) at += 2 + zc__get16(p + at);
    if (at != list.len) return ZC_E_CORRUPT;
    if (n == 0) return zc_bus_entry(sink, position, NULL, 0);
    if (n > 16 && !(tags = (zc_bytes *)zc__alloc(m, n * sizeof *tags))) return ZC_E_NOMEM;
    (void)zc__list_read(p, list.len, tags, n);
    int rc = zc_bus_entry(sink, position, tags, n);
    if (tags != few) zc__free(m, tags, n * sizeof *tags);
    return rc;
}

/* What is no list is taken for everything. */
static inline int zc__entry_deliver(const zc__mem *m, zc_bytes list, uint64_t position,
                                    zc_bus_sink *sink) {
    int rc = zc__list_deliver(m, list, position, sink);
    return rc == ZC_E_CORRUPT ? zc_bus_entry(sink, position, NULL, 0) : rc;
}

static inline int zc__bus_rc(int rc) { return rc == ZC_E_STORE ? ZC_E_BUS : rc; }

/* Empties the tables that are wanted; returns how many. */
static inline uint32_t zc__tables_begin(zc_store *store, zc_bus *bus) {
    if (store) memset(store, 0, sizeof *store);
    if (bus) memset(bus, 0, sizeof *bus);
    return (store ? 1u : 0u) + (bus ? 1u : 0u);
}

/* 64 bits that no other process draws, or, where the system gives none, hardly one. */
static uint64_t zc__system_random(void) {
    uint64_t v = 0;
#ifdef _WIN32
    bool good = RtlGenRandom(&v, sizeof v);
#else
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    bool good = fd >= 0 && read(fd, &v, sizeof v) == (ssize_t)sizeof v;
    if (fd >= 0) close(fd);
#endif
    if (good) return v;
    v = zc__sys_mono() ^ zc__sys_wall() << 20 ^ (uint64_t)getpid() << 40 ^ (uintptr_t)&v;
    return zc__random(&v);
}
#endif

#ifdef ZOOCACHE_WITH_LMDB
/* ============================================================================================
 * >>lmdb   One LMDB environment as storage and bus of the processes that share it
 *   Idea        Records, tag versions and the log of invalidations are in one file, and each change
 *               is one transaction of it: whoever reads sees all of an invalidation or nothing. A
 *               write ends when it is visible to all, so nobody needs a lease: `peek` compares one
 *               number in shared memory, the id of the last transaction.
 *   Files       path/zoocache   who may open, and under which boot of the system: see "Boot"
 *               path/data.mdb, path/lock.mdb   LMDB's
 *   Databases   numbers in values are little-endian, in keys big-endian, so that they sort
 *                 (main)   "zoocache" -> 9 numbers of 8 bytes: format, identity, tail (position of
 *                          the last entry), floor, swapped, root (position of the last entry that
 *                          named everything), stamp, token, young; and the names of the others
 *                 records  H -> end 8 | length of the key 2 | key | record
 *                 uses     H -> stamp 8 | end 8          of each record: its places in:
 *                 lru      stamp 8 -> H                  ascending: the longest unused first
 *                 ends     end 8 | H ->                  ascending: what ends first
 *                 log      position 8 -> tags, each a length of 2 bytes and its text; none: all
 *                 tags0,1  XXH3-64 of the path -> position 8
 *                 locks    H -> token 8 | end 8
 *                 holds    id 8 -> tags, as in log
 *               `uses` is apart from the records, so that a use writes 16 bytes, not the record;
 *               without `ends` those that have ended would be found by reading all.
 *               H: XXH3-128 of the key, 16 bytes, seeded with the identity: any key, empty or long,
 *               is the same to LMDB. A record's key is compared. `end`: wall clock, ms; 0: never.
 *   Versions    Two generations of tags. Writes go to the young one; when that has its share, the
 *               old one is emptied and takes its place. A path that is in neither was last named at
 *               `floor` or before: the last position that the emptied one could hold. Paths that
 *               hash alike share the higher position. Either costs misses, never staleness.
 *   Use         A hit writes nothing: it notes H in a small table in memory, if it has a place,
 *               which later writes, or `beat`, or `close`, bring to the file, some at a time. Ends
 *               that `touch` moves go the same way, but are never dropped, as long as the process
 *               lives; they move to later only.
 *   Room        What is live stays below 7/8 of the map, and records are max_entries at most, which
 *               LMDB counts itself: each write deletes a few that have ended and, above that, the
 *               longest unused. The rest is for pages that were freed, but not yet for all readers:
 *               those of the last two transactions at the least.
 *               If LMDB is out of pages all the same, the transaction is aborted, dead readers are
 *               cleared, others given time, more and more is evicted, and it is tried again, for
 *               a quarter of a second; then ZC_E_FULL. If the disk is full, ZC_E_FULL without
 *               waiting, unless what was freed will do; reading goes on, and so does writing when
 *               there is space again. The lock file, which LMDB writes through a map, has its space
 *               from the beginning: else the process would end with SIGBUS.
 *   Boot        Without `sync` the system may write pages in any order, so after its crash the file
 *               is worth nothing. path/zoocache has the id of the boot under which it was written,
 *               on disk before the first byte of data is; under another one the data is deleted,
 *               and what takes its place has another identity. Where a system tells no such id,
 *               `sync` is always on. kill -9 harms nothing: what was written is the system's.
 *   Damage      Whoever opens the file as the first checks its pages, as far as LMDB trusts them:
 *               see "is data.mdb sound?". What rows say is checked wherever they are read.
 *   Invariants  L1 records, uses and lru have the same H; ends has those that end
 *               L2 the log has all positions from its first to the tail
 *               L3 every tag of an entry has a position >= that entry's, or the floor is
 *               L4 `known_txn` is never above the transaction that `tail` was read in, or after
 *   Locking     One writer at a time: `gate` in a process, byte 0 after the text of path/zoocache
 *               among processes (Linux; elsewhere LMDB's own lock does it alone). A killed holder's
 *               is released by the system; behind one that is stopped (SIGSTOP) each call gets
 *               ZC_E_TIMEOUT or ZC_E_BUSY after a second of its own. Readers wait for nobody: one
 *               of a few pooled read transactions, each under its own spin lock; or, beyond those,
 *               a new one, for which the writer's lock is taken a moment. No transaction is open in
 *               two threads. `notes` (spin) is a leaf. Sinks are called with a read transaction and
 *               its slot held, and may come back to read.
 *   fork        An environment may not cross it: `forked` makes the child open its own, and leaves
 *               the parent's alone: closing it would give the parent's slots of readers away.
 *   Cost        get: 1 renewal, 2 descents of a tree (of the names, of the records), 1 copy; put
 *               and append: some 10 descents, some 10 pages written, 2 system calls for the lock;
 *               no wait for the disk without `sync`. `make bench-lmdb` measures them.
 *   Fails       whatever fails is aborted: nothing has changed
 * ========================================================================================== */

#ifdef ZOOCACHE_NO_STDLIB
#  error "zoocache: ZOOCACHE_WITH_LMDB needs the standard library"
#endif
#if defined(__STRICT_ANSI__) && !defined(_POSIX_C_SOURCE)
#  error "zoocache: ZOOCACHE_WITH_LMDB needs -D_POSIX_C_SOURCE=200809L, or gnu11"
#endif
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ZC__LMDB_MAP ((size_t)1 << 30)
#define ZC__LMDB_MAP_MIN ((size_t)8 << 20)
#define ZC__LMDB_READERS 4096 /* slots in the lock file, all processes together */
#define ZC__LMDB_SLOTS 16     /* pooled read transactions */
#define ZC__LMDB_LOG 4096     /* entries kept */
#define ZC__LMDB_READ 1024    /* entries given by one call */
#define ZC__LMDB_NOTES 512    /* uses noted in memory */
#define ZC__LMDB_PROBES 8
#define ZC__LMDB_WAIT ZC_SECOND /* for another writer */
#define ZC__LMDB_TRIES 8  /* of a write that finds no room: a quarter of a second */
#define ZC__LMDB_FLUSH 8   /* notes that one write brings to the file, */
#define ZC__LMDB_EXPIRE 2  /*   records that have ended that it deletes, */
#define ZC__LMDB_EVICT 8   /*   and records that it evicts */
#define ZC__LMDB_SPARE 512 /* pages that three such writes may need, at the least */
#define ZC__LMDB_PAUSE ZC_MILLISECOND /* between looks of a waiting `read` */
#define ZC__LMDB_H 16
#define ZC__LMDB_PATH 4096 /* bytes of the longest name of a file */

enum { /* the numbers of the row "zoocache" */
    ZC__LMDB_FORMAT,
    ZC__LMDB_IDENTITY,
    ZC__LMDB_TAIL,
    ZC__LMDB_FLOOR,
    ZC__LMDB_SWAPPED,
    ZC__LMDB_ROOT,
    ZC__LMDB_STAMP,
    ZC__LMDB_TOKEN,
    ZC__LMDB_YOUNG,
    ZC__LMDB_META
};
#define ZC__LMDB_FORMAT_1 UINT64_C(0x31656863616f6f7a) /* "zoocache" abbreviated, and '1' */

enum {
    ZC__LMDB_RECORDS,
    ZC__LMDB_USES,
    ZC__LMDB_LRU,
    ZC__LMDB_ENDS,
    ZC__LMDB_ENTRIES,
    ZC__LMDB_TAGS0,
    ZC__LMDB_TAGS1,
    ZC__LMDB_LOCKS,
    ZC__LMDB_HOLDS,
    ZC__LMDB_DBS
};

typedef struct zc__lmdb_h {
    unsigned char b[ZC__LMDB_H];
} zc__lmdb_h;

/* A record that was read; `end`: not 0, it lives until then. All zero: an empty place. */
typedef struct zc__lmdb_note {
    uint64_t h[2];
    uint64_t end;
} zc__lmdb_note;

typedef struct zc__lmdb_slot {
    zc__spin lock;
    MDB_txn *txn; /* reset, or NULL */
    char pad[ZC__LINE - 2 * sizeof(void *)];
} zc__lmdb_slot;

typedef struct zc__lmdb {
    MDB_env *env;  /* NULL: the child of a fork could not open it again */
    uint32_t trouble;    /* the system had something against the last commit; atomic */
    uint64_t trouble_at; /*   when it had that last; 0: never [gate] */
    uint32_t lost; /* data.mdb is no longer this file: nothing is to be believed any more */
    MDB_dbi dbi[ZC__LMDB_DBS];
    uint64_t identity;
    zc_shared64 known_txn, tail; /* the newest known, and the tail that it or a later one has */
    size_t max_pages, max_record;     /* pages that may be live; bytes of a record */
    size_t max_entries;     /* records */
    size_t tags, log_pages; /* paths of one generation; pages of the log */
    uint32_t refs;          /* 2, then 1 */
    uint32_t wakes;         /* reads that are not to wait [wake] */
    zc__spin notes;
    zc__lmdb_note note[ZC__LMDB_NOTES]; /* [notes] */
    zc__lmdb_slot slot[ZC__LMDB_SLOTS];
    zc__monitor wake;
    zc__timed gate; /* held by who writes here */
    zc__mem mem;
    zc_clock clock;
    zc__lines lines;
    size_t map_size, path_len;
    bool sync;
    int control; /* path/zoocache: open, and locked at this process's byte */
    pid_t pid;
    dev_t dev; /* of data.mdb */
    ino_t ino;
    zc_shared64 size; /*   which it once had */
    char path[ZC__LMDB_PATH];
} zc__lmdb;

static void zc__lmdb_say(zc__lmdb *db, const char *what, const char *detail) {
    char message[256];
    zc__text t = {message, sizeof message, 0};
    zc__text_with(&t, "zoocache: lmdb: %: %", db->path, what);
    if (detail) zc__text_with(&t, ": %", detail, NULL);
    zc__text_end(&t);
    zc__lines_add(&db->lines, ZC_LOG_ERROR, message);
}

/* What LMDB or the system says, as a result of ours. */
static int zc__lmdb_result(int rc) {
    switch (rc) {
    case MDB_SUCCESS: return ZC_OK;
    case MDB_NOTFOUND: return ZC_MISS;
    case MDB_MAP_FULL:
    case MDB_TXN_FULL:
    case EDQUOT:
    case EFBIG:
    case ENOSPC: return ZC_E_FULL;
    case ENOMEM: return ZC_E_NOMEM;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
    case MDB_INCOMPATIBLE:
    case MDB_BAD_VALSIZE:
    case MDB_KEYEXIST: return ZC_E_CORRUPT;
    default: return ZC_E_STORE;
    }
}

/* What the system has against it, as a result of ours: in errno. */
static int zc__lmdb_refused(zc__lmdb *db, const char *what) {
    int e = errno;
    zc__lmdb_say(db, what, mdb_strerror(e));
    return zc__lmdb_result(e);
}

static inline bool zc__lmdb_usable(zc__lmdb *db) {
    return db->env && !zc__atomic_load_rlx(&db->lost);
}

static inline MDB_val zc__lmdb_val(const void *p, size_t n) {
    MDB_val v;
    v.mv_data = (void *)(uintptr_t)p;
    v.mv_size = n;
    return v;
}
static inline const unsigned char *zc__lmdb_at(const MDB_val *v, size_t i) {
    return (const unsigned char *)v->mv_data + i;
}

static inline void zc__put_be64(unsigned char *p, uint64_t v) {
    for (unsigned i = 8; i-- > 0; v >>= 8) p[i] = (unsigned char)v;
}
static inline uint64_t zc__get_be64(const unsigned char *p) {
    uint64_t v = 0;
    for (unsigned i = 0; i < 8; i++) v = v << 8 | p[i];
    return v;
}

static inline zc__lmdb_h zc__lmdb_hash(const zc__lmdb *db, zc_bytes key) {
    zc__lmdb_h h;
    XXH128_hash_t x = XXH3_128bits_withSeed(key.ptr, key.len, db->identity);
    zc__put_le(h.b, x.low64, 8);
    zc__put_le(h.b + 8, x.high64, 8);
    return h;
}

static inline uint64_t zc__lmdb_ms(const zc__lmdb *db) {
    return zc__wall(&db->clock) / ZC_MILLISECOND;
}
static inline bool zc__lmdb_over(uint64_t end, uint64_t now_ms) { return end && end <= now_ms; }

/* ---- one writer ---- */

#if defined(__linux__) && !defined(F_OFD_SETLK) /* hidden without _GNU_SOURCE */
#  define ZC__LMDB_GETLK 36
#  define ZC__LMDB_SETLK 37
#elif defined(F_OFD_SETLK)
#  define ZC__LMDB_GETLK F_OFD_GETLK
#  define ZC__LMDB_SETLK F_OFD_SETLK
#endif

#define ZC__LMDB_CONTROL 48 /* bytes of path/zoocache: "zoocache ", the boot's id, how written */

/* A lock of one byte of path/zoocache, of this open of it, by F_WRLCK or F_UNLCK. */
static bool zc__lmdb_lock_byte(const zc__lmdb *db, uint64_t at, short type) {
#ifdef ZC__LMDB_SETLK
    struct flock l;
    memset(&l, 0, sizeof l);
    l.l_type = type;
    l.l_whence = SEEK_SET;
    l.l_start = ZC__LMDB_CONTROL + (off_t)at;
    l.l_len = 1;
    return fcntl(db->control, ZC__LMDB_SETLK, &l) == 0 || (errno != EAGAIN && errno != EACCES);
#else
    (void)db, (void)at, (void)type;
    return true;
#endif
}

/* Before LMDB's own locks, so that nobody ever waits for those: a process that is killed just when
 * it is woken for one takes the wake-up of all others with it. ZC_E_TIMEOUT: somebody keeps it;
 * ZC_E_BUSY: another thread of this process was there first, all the time. */
static int zc__lmdb_enter(zc__lmdb *db) {
    zc_clock real = {0, NULL, NULL, NULL}; /* what the others wait by, too */
    uint64_t until = zc__mono(&real) + ZC__LMDB_WAIT;
    bool hurry = zc__until < until;
    if (hurry) until = zc__until;
    if (!zc__timed_lock(&db->gate, &real, until)) return ZC_E_BUSY;
    for (uint64_t pause = 20000; !zc__lmdb_lock_byte(db, 0, F_WRLCK);) {
        if (zc__mono(&real) >= until) {
            zc__timed_unlock(&db->gate);
            return hurry ? ZC_E_BUSY : ZC_E_TIMEOUT;
        }
        zc__nap(pause);
        if (pause < ZC_MILLISECOND) pause *= 2;
    }
    return ZC_OK;
}
static void zc__lmdb_leave(zc__lmdb *db) {
    (void)zc__lmdb_lock_byte(db, 0, F_UNLCK);
    zc__timed_unlock(&db->gate);
}

/* Frees the slots of readers that have died. */
static void zc__lmdb_clear_dead_readers(zc__lmdb *db) {
    int dead;
    if (zc__lmdb_enter(db) != ZC_OK) return;
    (void)mdb_reader_check(db->env, &dead);
    zc__lmdb_leave(db);
}

/* ---- reading: pooled transactions ---- */

typedef struct zc__lmdb_rd {
    zc__lmdb *db;
    MDB_txn *txn;
    zc__lmdb_slot *slot; /* NULL: a transaction of its own */
} zc__lmdb_rd;

/* A transaction with a new slot of the file. */
static int zc__lmdb_new_reader(zc__lmdb *db, MDB_txn **txn) {
    int dead, rc = zc__lmdb_enter(db);
    if (rc != ZC_OK) return rc;
    rc = mdb_txn_begin(db->env, NULL, MDB_RDONLY, txn);
    if (rc == MDB_READERS_FULL && mdb_reader_check(db->env, &dead) == MDB_SUCCESS && dead > 0)
        rc = mdb_txn_begin(db->env, NULL, MDB_RDONLY, txn);
    zc__lmdb_leave(db);
    return zc__lmdb_result(rc);
}

/* A thread begins to look for a free slot where its stack says, so that it mostly gets the same. */
static int zc__lmdb_begin(zc__lmdb *db, zc__lmdb_rd *r) {
    size_t at = (size_t)((uint64_t)((uintptr_t)r >> 16) * UINT64_C(0x9e3779b97f4a7c15) >> 60);
    r->db = db;
    r->slot = NULL;
    if (!zc__lmdb_usable(db)) return ZC_E_STORE;
    for (size_t i = 0; i < ZC__LMDB_SLOTS; i++) {
        zc__lmdb_slot *s = &db->slot[(at + i) % ZC__LMDB_SLOTS];
        if (!zc__spin_trylock(&s->lock)) continue;
        int rc = s->txn ? zc__lmdb_result(mdb_txn_renew(s->txn))
                        : zc__lmdb_new_reader(db, &s->txn);
        r->slot = s;
        r->txn = s->txn;
        if (rc != ZC_OK) zc__spin_end(&s->lock);
        return rc;
    }
    return zc__lmdb_new_reader(db, &r->txn);
}

static void zc__lmdb_end(zc__lmdb_rd *r) {
    if (!r->slot) {
        mdb_txn_abort(r->txn);
        return;
    }
    mdb_txn_reset(r->txn);
    zc__spin_end(&r->slot->lock);
}

/* The value of `key`, which must have at least `size` bytes. ZC_MISS: none. */
static inline int zc__lmdb_get(MDB_txn *txn, MDB_dbi dbi, MDB_val key, MDB_val *value,
                               size_t size) {
    int rc = mdb_get(txn, dbi, &key, value);
    if (ZC__UNLIKELY(rc != MDB_SUCCESS)) return zc__lmdb_result(rc);
    return ZC__LIKELY(value->mv_size >= size) ? ZC_OK : ZC_E_CORRUPT;
}

#define ZC__LMDB_MAIN 1 /* LMDB's handle of the unnamed database */

/* ZC_E_CORRUPT: there are none, or they do not come from counting. */
static int zc__lmdb_load(MDB_txn *txn, uint64_t meta[ZC__LMDB_META]) {
    MDB_val v;
    int rc = zc__lmdb_get(txn, ZC__LMDB_MAIN, zc__lmdb_val("zoocache", 8), &v, ZC__LMDB_META * 8);
    if (rc != ZC_OK) return rc == ZC_MISS ? ZC_E_CORRUPT : rc;
    for (size_t i = 0; i < ZC__LMDB_META; i++) meta[i] = zc__get64(zc__lmdb_at(&v, i * 8));
    uint64_t tail = meta[ZC__LMDB_TAIL];
    bool good = meta[ZC__LMDB_FORMAT] == ZC__LMDB_FORMAT_1 && meta[ZC__LMDB_IDENTITY] != 0 &&
                meta[ZC__LMDB_YOUNG] <= 1 && tail <= ZC__POSITION_MAX &&
                meta[ZC__LMDB_FLOOR] <= tail && meta[ZC__LMDB_SWAPPED] <= tail &&
                meta[ZC__LMDB_ROOT] <= tail &&
                meta[ZC__LMDB_STAMP] <= ZC__VERSION_MAX && meta[ZC__LMDB_TOKEN] <= ZC__VERSION_MAX;
    return good ? ZC_OK : ZC_E_CORRUPT;
}

static int zc__lmdb_save(MDB_txn *txn, const uint64_t meta[ZC__LMDB_META]) {
    unsigned char row[ZC__LMDB_META * 8];
    MDB_val key = zc__lmdb_val("zoocache", 8), value = zc__lmdb_val(row, sizeof row);
    for (size_t i = 0; i < ZC__LMDB_META; i++) zc__put_le(row + i * 8, meta[i], 8);
    return zc__lmdb_result(mdb_put(txn, ZC__LMDB_MAIN, &key, &value, 0));
}

/* Remembers the tail as this transaction sees it. The transaction is named by its own id: the
 * file's last may be ahead of what a reader gets. The tail first: L4. */
static void zc__lmdb_learn_tail(zc__lmdb *db, MDB_txn *txn, uint64_t tail) {
    zc__atomic_raise(&db->tail, tail);
    zc__atomic_raise(&db->known_txn, mdb_txn_id(txn));
}

/* A read transaction and the numbers as it sees them. */
static int zc__lmdb_begin_meta(zc__lmdb *db, zc__lmdb_rd *r, uint64_t meta[ZC__LMDB_META]) {
    int rc = zc__lmdb_begin(db, r);
    if (rc != ZC_OK) return rc;
    rc = zc__lmdb_load(r->txn, meta);
    if (rc == ZC_OK) zc__lmdb_learn_tail(db, r->txn, meta[ZC__LMDB_TAIL]);
    else zc__lmdb_end(r);
    return rc;
}

/* ---- notes of use ---- */

static inline zc__lmdb_note zc__lmdb_note_of(const zc__lmdb_h *h, uint64_t end) {
    zc__lmdb_note n;
    memcpy(n.h, h->b, sizeof n.h);
    n.end = end;
    return n;
}
static inline bool zc__lmdb_note_is(const zc__lmdb_note *n, const zc__lmdb_note *of) {
    return n->h[0] == of->h[0] && n->h[1] == of->h[1];
}
static inline zc__lmdb_note *zc__lmdb_place(zc__lmdb *db, const zc__lmdb_note *n, size_t i) {
    return &db->note[((size_t)n->h[0] + i) % ZC__LMDB_NOTES];
}

/* The place near that of `n` where there is `of`, which may be the empty note; or NULL. */
static zc__lmdb_note *zc__lmdb_noted(zc__lmdb *db, const zc__lmdb_note *n,
                                     const zc__lmdb_note *of) {
    ZC__ASSERT_HELD(&db->notes);
    for (size_t i = 0; i < ZC__LMDB_PROBES; i++)
        if (zc__lmdb_note_is(zc__lmdb_place(db, n, i), of)) return zc__lmdb_place(db, n, i);
    return NULL;
}

/* Without the lock: is there a place for it, and is it not there yet? Notes that find none are
 * lost: what is read often comes again. */
static bool zc__lmdb_worth_noting(zc__lmdb *db, const zc__lmdb_note *n) {
    bool room = false;
    for (size_t i = 0; i < ZC__LMDB_PROBES; i++) {
        uint64_t at = zc__atomic_load_rlx(&zc__lmdb_place(db, n, i)->h[0]);
        if (at == n->h[0]) return false;
        room |= at == 0;
    }
    return room;
}

/* Notes a use in its place, an empty one, or that of another without an end. False: all are taken
 * by such as have one. */
static bool zc__lmdb_note_use(zc__lmdb *db, const zc__lmdb_note *n) {
    static const zc__lmdb_note none = {{0, 0}, 0};
    zc__spin_lock(&db->notes);
    zc__lmdb_note *to = zc__lmdb_noted(db, n, n);
    if (!to) to = zc__lmdb_noted(db, n, &none);
    for (size_t i = 0; i < ZC__LMDB_PROBES && !to; i++)
        if (!zc__lmdb_place(db, n, i)->end) to = zc__lmdb_place(db, n, i);
    if (to && !(zc__lmdb_note_is(to, n) && to->end >= n->end)) {
        zc__atomic_store_rlx(&to->h[0], n->h[0]);
        to->h[1] = n->h[1];
        to->end = n->end;
    }
    zc__spin_unlock(&db->notes);
    return to != NULL;
}

/* The end that a note has for this record; 0: none. */
static uint64_t zc__lmdb_noted_end(zc__lmdb *db, const zc__lmdb_h *h) {
    zc__lmdb_note n = zc__lmdb_note_of(h, 0);
    zc__spin_lock(&db->notes);
    const zc__lmdb_note *at = zc__lmdb_noted(db, &n, &n);
    uint64_t end = at ? at->end : 0;
    zc__spin_unlock(&db->notes);
    return end;
}

/* Forgets the notes that are in the file now, unless they have changed since. */
static void zc__lmdb_forget(zc__lmdb *db, const zc__lmdb_note *n, size_t count) {
    zc__spin_lock(&db->notes);
    for (size_t i = 0; i < count; i++) {
        zc__lmdb_note *at = zc__lmdb_noted(db, &n[i], &n[i]);
        if (!at || at->end > n[i].end) continue;
        zc__atomic_store_rlx(&at->h[0], (uint64_t)0);
        at->h[1] = at->end = 0;
    }
    zc__spin_unlock(&db->notes);
}

/* ---- writing: one transaction, again with more room if there is none ---- */

typedef struct zc__lmdb_tx {
    zc__lmdb *db;
    MDB_txn *txn;
    uint64_t meta[ZC__LMDB_META];
    zc__lmdb_note flushed[ZC__LMDB_NOTES]; /* to be forgotten once this is committed */
    size_t nflushed;
} zc__lmdb_tx;

static inline MDB_dbi zc__lmdb_db(const zc__lmdb_tx *t, unsigned which) {
    return t->db->dbi[which];
}

static int zc__lmdb_put(zc__lmdb_tx *t, unsigned which, MDB_val key, MDB_val value) {
    return zc__lmdb_result(mdb_put(t->txn, zc__lmdb_db(t, which), &key, &value, 0));
}
/* ZC_OK as well if there is none. */
static int zc__lmdb_rm(zc__lmdb_tx *t, unsigned which, MDB_val key) {
    int rc = mdb_del(t->txn, zc__lmdb_db(t, which), &key, NULL);
    return rc == MDB_NOTFOUND ? ZC_OK : zc__lmdb_result(rc);
}

static size_t zc__lmdb_pages(const zc__lmdb_tx *t, MDB_dbi dbi) {
    MDB_stat s;
    if (mdb_stat(t->txn, dbi, &s) != MDB_SUCCESS) return 0;
    return s.ms_branch_pages + s.ms_leaf_pages + s.ms_overflow_pages;
}

/* The first pair of a database. ZC_MISS: it is empty. */
static int zc__lmdb_first(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *value) {
    MDB_cursor *c;
    int rc = mdb_cursor_open(txn, dbi, &c);
    if (rc != MDB_SUCCESS) return zc__lmdb_result(rc);
    rc = mdb_cursor_get(c, key, value, MDB_FIRST);
    mdb_cursor_close(c);
    return zc__lmdb_result(rc);
}

typedef int (*zc__lmdb_step)(zc__lmdb_tx *t, void *arg);

/* LMDB's own codes are negative, and its business. It says EIO of a write that was cut short, which
 * is how a disk mostly becomes full. There many fail, and some do not: one line tells of them. */
static int zc__lmdb_commit(zc__lmdb *db, MDB_txn *txn) {
    int e = mdb_txn_commit(txn);
    uint64_t now = e > 0 ? zc__mono(&db->clock) | 1 : 0;
    if (now && (!db->trouble_at || now - db->trouble_at > 60 * ZC_SECOND))
        zc__lmdb_say(db, e == EIO ? "cannot be written: the disk is full, or broken"
                                  : "cannot be written", mdb_strerror(e));
    if (now) db->trouble_at = now;
    zc__atomic_store_rlx(&db->trouble, now ? 1u : 0u);
    return e == EIO ? ZC_E_FULL : zc__lmdb_result(e);
}

/* Runs `step` in one transaction: committed if it returns ZC_OK, aborted if it returns anything
 * else. */
static int zc__lmdb_try(zc__lmdb *db, zc__lmdb_step step, void *arg) {
    zc__lmdb_tx t;
    if (!zc__lmdb_usable(db)) return ZC_E_STORE;
    t.db = db;
    t.txn = NULL;
    t.nflushed = 0;
    int rc = zc__lmdb_enter(db);
    if (rc != ZC_OK) return rc;
    rc = zc__lmdb_result(mdb_txn_begin(db->env, NULL, 0, &t.txn));
    if (rc == ZC_OK) rc = zc__lmdb_load(t.txn, t.meta);
    if (rc == ZC_OK) rc = step(&t, arg);
    if (rc == ZC_OK) rc = zc__lmdb_save(t.txn, t.meta);
    if (rc == ZC_OK) rc = zc__lmdb_commit(db, t.txn);
    else if (t.txn) mdb_txn_abort(t.txn);
    zc__lmdb_leave(db);
    if (rc == ZC_OK) zc__lmdb_forget(db, t.flushed, t.nflushed);
    return rc;
}

/* A record's row of `uses`. ZC_MISS: there is no such record. */
static int zc__lmdb_uses(MDB_txn *txn, const zc__lmdb *db, const zc__lmdb_h *h, uint64_t *stamp,
                         uint64_t *end) {
    MDB_val uses, hv = zc__lmdb_val(h->b, ZC__LMDB_H);
    int rc = zc__lmdb_get(txn, db->dbi[ZC__LMDB_USES], hv, &uses, 16);
    if (rc != ZC_OK) return rc;
    *stamp = zc__get64(zc__lmdb_at(&uses, 0));
    *end = zc__get64(zc__lmdb_at(&uses, 8));
    return ZC_OK;
}

/* A record's place in `ends`. */
static MDB_val zc__lmdb_ends_key(unsigned char at[8 + ZC__LMDB_H], const zc__lmdb_h *h,
                                 uint64_t end) {
    zc__put_be64(at, end);
    memcpy(at + 8, h->b, ZC__LMDB_H);
    return zc__lmdb_val(at, 8 + ZC__LMDB_H);
}

/* Takes a record's places in lru and ends away. */
static int zc__lmdb_unindex(zc__lmdb_tx *t, const zc__lmdb_h *h, uint64_t stamp, uint64_t end) {
    unsigned char at[8 + ZC__LMDB_H];
    zc__put_be64(at, stamp);
    int rc = zc__lmdb_rm(t, ZC__LMDB_LRU, zc__lmdb_val(at, 8));
    if (rc != ZC_OK || !end) return rc;
    return zc__lmdb_rm(t, ZC__LMDB_ENDS, zc__lmdb_ends_key(at, h, end));
}

/* Deletes a record and its places (L1). ZC_MISS: there is none. */
static int zc__lmdb_drop(zc__lmdb_tx *t, const zc__lmdb_h *h) {
    MDB_val hv = zc__lmdb_val(h->b, ZC__LMDB_H);
    uint64_t stamp, end;
    int rc = zc__lmdb_uses(t->txn, t->db, h, &stamp, &end);
    if (rc != ZC_OK) return rc;
    rc = zc__lmdb_unindex(t, h, stamp, end);
    if (rc == ZC_OK) rc = zc__lmdb_rm(t, ZC__LMDB_USES, hv);
    return rc == ZC_OK ? zc__lmdb_rm(t, ZC__LMDB_RECORDS, hv) : rc;
}

/* Gives a record that has none its places: the last of all to be evicted. */
static int zc__lmdb_index(zc__lmdb_tx *t, const zc__lmdb_h *h, uint64_t end) {
    unsigned char at[8 + ZC__LMDB_H], uses[16];
    MDB_val hv = zc__lmdb_val(h->b, ZC__LMDB_H);
    uint64_t stamp = ++t->meta[ZC__LMDB_STAMP];
    zc__put_le(uses, stamp, 8);
    zc__put_le(uses + 8, end, 8);
    zc__put_be64(at, stamp);
    int rc = zc__lmdb_put(t, ZC__LMDB_USES, hv, zc__lmdb_val(uses, 16));
    if (rc == ZC_OK) rc = zc__lmdb_put(t, ZC__LMDB_LRU, zc__lmdb_val(at, 8), hv);
    if (rc != ZC_OK || !end) return rc;
    return zc__lmdb_put(t, ZC__LMDB_ENDS, zc__lmdb_ends_key(at, h, end), zc__lmdb_val("", 0));
}

/* Deletes the first record of ends or lru. ZC_MISS: there is none, or it has not ended. */
static int zc__lmdb_drop_first(zc__lmdb_tx *t, unsigned which) {
    bool ends = which == ZC__LMDB_ENDS;
    MDB_val key, value;
    zc__lmdb_h h;
    int rc = zc__lmdb_first(t->txn, zc__lmdb_db(t, which), &key, &value);
    if (rc != ZC_OK) return rc;
    if (ends ? key.mv_size != 8 + ZC__LMDB_H : value.mv_size != ZC__LMDB_H) return ZC_E_CORRUPT;
    if (ends && !zc__lmdb_over(zc__get_be64(zc__lmdb_at(&key, 0)), zc__lmdb_ms(t->db)))
        return ZC_MISS;
    memcpy(h.b, ends ? zc__lmdb_at(&key, 8) : zc__lmdb_at(&value, 0), ZC__LMDB_H);
    rc = zc__lmdb_drop(t, &h);
    return rc == ZC_MISS ? ZC_E_CORRUPT : rc;
}

/* Deletes up to n records that have ended. */
static int zc__lmdb_expire(zc__lmdb_tx *t, size_t n) {
    int rc = ZC_OK;
    for (; n > 0 && rc == ZC_OK; n--) rc = zc__lmdb_drop_first(t, ZC__LMDB_ENDS);
    return rc == ZC_MISS ? ZC_OK : rc;
}

/* Is more live than may be? */
static bool zc__lmdb_too_much(const zc__lmdb_tx *t) {
    const zc__lmdb *db = t->db;
    MDB_envinfo info;
    MDB_stat s;
    if (mdb_stat(t->txn, zc__lmdb_db(t, ZC__LMDB_RECORDS), &s) == MDB_SUCCESS &&
        s.ms_entries > db->max_entries)
        return true;
    (void)mdb_env_info(db->env, &info);
    if (info.me_last_pgno < db->max_pages) return false; /* never has been */
    size_t live = zc__lmdb_pages(t, ZC__LMDB_MAIN);
    for (unsigned i = 0; i < ZC__LMDB_DBS; i++) live += zc__lmdb_pages(t, db->dbi[i]);
    return live > db->max_pages;
}

/* While more is live than may be: deletes what has ended, then evicts, up to n of each. */
static int zc__lmdb_shrink(zc__lmdb_tx *t, size_t n) {
    if (!zc__lmdb_too_much(t)) return ZC_OK;
    int rc = zc__lmdb_expire(t, n);
    for (; n > 0 && rc == ZC_OK && zc__lmdb_too_much(t); n--)
        rc = zc__lmdb_drop_first(t, ZC__LMDB_LRU);
    return rc == ZC_MISS ? ZC_OK : rc;
}

/* Brings one note to the file. A use that is recent already, as uses go, is let be. */
static int zc__lmdb_apply(zc__lmdb_tx *t, const zc__lmdb_note *n, uint64_t recent) {
    zc__lmdb_h h;
    uint64_t stamp, end;
    memcpy(h.b, n->h, ZC__LMDB_H);
    int rc = zc__lmdb_uses(t->txn, t->db, &h, &stamp, &end);
    if (rc != ZC_OK) return rc == ZC_MISS ? ZC_OK : rc;
    uint64_t later = end && n->end > end ? n->end : end;
    if (later == end && stamp > recent) return ZC_OK;
    rc = zc__lmdb_unindex(t, &h, stamp, end);
    return rc == ZC_OK ? zc__lmdb_index(t, &h, later) : rc;
}

/* Brings up to n notes to the file. */
static int zc__lmdb_flush(zc__lmdb_tx *t, size_t n) {
    zc__lmdb *db = t->db;
    MDB_stat lru;
    if (mdb_stat(t->txn, zc__lmdb_db(t, ZC__LMDB_LRU), &lru) != MDB_SUCCESS) return ZC_OK;
    uint64_t spare = lru.ms_entries / 4, now = t->meta[ZC__LMDB_STAMP];
    zc__spin_lock(&db->notes);
    size_t from = (size_t)now; /* anywhere: writes take turns */
    for (size_t i = 0; i < ZC__LMDB_NOTES && t->nflushed < n; i++) {
        const zc__lmdb_note *at = &db->note[(from + i) % ZC__LMDB_NOTES];
        if (at->h[0] || at->h[1]) t->flushed[t->nflushed++] = *at;
    }
    zc__spin_unlock(&db->notes);
    int rc = ZC_OK;
    for (size_t i = 0; i < t->nflushed && rc == ZC_OK; i++)
        rc = zc__lmdb_apply(t, &t->flushed[i], now > spare ? now - spare : 0);
    return rc;
}

/* What every write does after its own: makes what gives way to it, of so many bytes, go. */
static int zc__lmdb_maintain_after(zc__lmdb_tx *t, size_t size) {
    int rc = zc__lmdb_expire(t, ZC__LMDB_EXPIRE);
    return rc == ZC_OK ? zc__lmdb_shrink(t, ZC__LMDB_EVICT + size / 1024) : rc;
}

/* All that has been put off. */
static int zc__lmdb_maintain_all(zc__lmdb_tx *t, void *arg) {
    (void)arg;
    int rc = zc__lmdb_flush(t, ZC__LMDB_NOTES);
    if (rc == ZC_OK) rc = zc__lmdb_expire(t, ZC__LMDB_NOTES);
    return rc == ZC_OK ? zc__lmdb_shrink(t, ZC__LMDB_NOTES) : rc;
}

/* Evicts *(size_t *)arg records, as many as there are; says how many. */
static int zc__lmdb_make_room(zc__lmdb_tx *t, void *arg) {
    size_t *n = (size_t *)arg, done = 0;
    int rc = ZC_OK;
    while (done < *n && (rc = zc__lmdb_drop_first(t, ZC__LMDB_LRU)) == ZC_OK) done++;
    *n = done;
    return rc == ZC_MISS ? ZC_OK : rc;
}

/* Runs `step`, with patience if there is no room for it. Mostly there are pages enough that have
 * been freed, but a reader that was interrupted may still see them: so wait, a little and then
 * longer. Where runs of pages are missing, for a large record, evicting helps; more and more. If it
 * is the disk that is full, waiting does not: the file has to do with the pages that it has. */
static int zc__lmdb_write(zc__lmdb *db, zc__lmdb_step step, void *arg) {
    for (unsigned tries = 0;; tries++) {
        int rc = zc__lmdb_try(db, step, arg);
        unsigned last = zc__atomic_load_rlx(&db->trouble) ? 1 : ZC__LMDB_TRIES;
        if (rc != ZC_E_FULL || tries >= last) return rc;
        zc__lmdb_clear_dead_readers(db);
        if (tries > 0) zc__nap(ZC_MILLISECOND << tries);
        /* Deleting takes pages, too: the fewer, the better. A transaction that deletes nothing
         * helps as well: what one has freed can be used by the next but one. */
        size_t many = (size_t)16 << tries, few = 1, none = 0;
        if (zc__lmdb_try(db, zc__lmdb_make_room, &many) == ZC_E_FULL &&
            zc__lmdb_try(db, zc__lmdb_make_room, &few) == ZC_E_FULL)
            (void)zc__lmdb_try(db, zc__lmdb_make_room, &none);
    }
}

/* ---- the storage ---- */

static int zc__lmdb_read_record(zc__lmdb_rd *r, zc_bytes key, zc_sink *sink) {
    zc__lmdb *db = r->db;
    zc__lmdb_h h = zc__lmdb_hash(db, key);
    MDB_val hv = zc__lmdb_val(h.b, ZC__LMDB_H), row;
    int rc = zc__lmdb_get(r->txn, db->dbi[ZC__LMDB_RECORDS], hv, &row, 10);
    if (rc != ZC_OK) return rc;
    size_t len = zc__get16(zc__lmdb_at(&row, 8));
    if (row.mv_size < 10 + len) return ZC_E_CORRUPT;
    if (len != key.len || !zc__equal(zc__lmdb_at(&row, 10), (const unsigned char *)key.ptr, len))
        return ZC_MISS;
    uint64_t end = zc__get64(zc__lmdb_at(&row, 0)), now = end ? zc__lmdb_ms(db) : 0;
    if (ZC__UNLIKELY(zc__lmdb_over(end, now))) { /* unless a later end was noted meanwhile */
        uint64_t stamp;
        rc = zc__lmdb_uses(r->txn, db, &h, &stamp, &end);
        if (rc != ZC_OK) return rc;
        if (zc__lmdb_over(end, now) && zc__lmdb_noted_end(db, &h) <= now) return ZC_MISS;
    }
    zc__lmdb_note n = zc__lmdb_note_of(&h, 0);
    if (zc__lmdb_worth_noting(db, &n)) (void)zc__lmdb_note_use(db, &n);
    return zc_sink_write(sink, zc__lmdb_at(&row, 10 + len), row.mv_size - 10 - len);
}

static int zc__lmdb_store_get_many(void *user, const zc_bytes *keys, size_t n,
                                   zc_sink *const *sinks, int *results) {
    zc__lmdb_rd r;
    int rc = zc__lmdb_begin((zc__lmdb *)user, &r);
    if (rc != ZC_OK) return rc;
    for (size_t i = 0; i < n; i++) results[i] = zc__lmdb_read_record(&r, keys[i], sinks[i]);
    zc__lmdb_end(&r);
    return ZC_OK;
}

static int zc__lmdb_store_get(void *user, zc_bytes key, zc_sink *sink) {
    int got, rc = zc__lmdb_store_get_many(user, &key, 1, &sink, &got);
    return rc == ZC_OK ? got : rc;
}

typedef struct zc__lmdb_row {
    zc__lmdb_h h;
    zc_bytes key, head;
    const zc_bytes *parts;
    size_t n, len; /* parts; bytes of the record */
    uint64_t end;
} zc__lmdb_row;

static int zc__lmdb_put_step(zc__lmdb_tx *t, void *arg) {
    const zc__lmdb_row *row = (const zc__lmdb_row *)arg;
    MDB_val key = zc__lmdb_val(row->h.b, ZC__LMDB_H), value;
    int rc = zc__lmdb_flush(t, ZC__LMDB_FLUSH);
    if (rc == ZC_OK) rc = zc__lmdb_drop(t, &row->h);
    if (rc < 0) return rc;
    value = zc__lmdb_val(NULL, 10 + row->key.len + row->len);
    rc = zc__lmdb_result(
        mdb_put(t->txn, zc__lmdb_db(t, ZC__LMDB_RECORDS), &key, &value, MDB_RESERVE));
    if (rc != ZC_OK) return rc;
    unsigned char *p = (unsigned char *)value.mv_data;
    zc__put_le(p, row->end, 8);
    zc__put_le(p + 8, row->key.len, 2);
    p = zc__put_bytes(p + 10, row->key);
    p = zc__put_bytes(p, row->head);
    for (size_t i = 0; i < row->n; i++) p = zc__put_bytes(p, row->parts[i]);
    rc = zc__lmdb_index(t, &row->h, row->end);
    return rc == ZC_OK ? zc__lmdb_maintain_after(t, row->len) : rc;
}

/* What was noted of a record that is replaced or deleted is of no use to the next. */
static void zc__lmdb_unnote(zc__lmdb *db, const zc__lmdb_h *h) {
    zc__lmdb_note n = zc__lmdb_note_of(h, UINT64_MAX);
    zc__lmdb_forget(db, &n, 1);
}

static int zc__lmdb_store_put_parts(void *user, zc_bytes key, zc_bytes head,
                                    const zc_bytes *parts, size_t n, uint64_t expires_ms) {
    zc__lmdb *db = (zc__lmdb *)user;
    zc__lmdb_row row;
    if (key.len > ZC_KEY_MAX) return ZC_E_KEY;
    row.len = head.len;
    for (size_t i = 0; i < n; i++) row.len += parts[i].len;
    if (row.len > db->max_record) return ZC_E_FULL;
    row.h = zc__lmdb_hash(db, key);
    row.key = key;
    row.head = head;
    row.parts = parts;
    row.n = n;
    row.end = expires_ms;
    zc__lmdb_unnote(db, &row.h);
    return zc__lmdb_write(db, zc__lmdb_put_step, &row);
}

static int zc__lmdb_store_put(void *user, zc_bytes key, zc_bytes record, uint64_t expires_ms) {
    return zc__lmdb_store_put_parts(user, key, record, NULL, 0, expires_ms);
}

static int zc__lmdb_del_step(zc__lmdb_tx *t, void *arg) {
    return zc__lmdb_drop(t, (const zc__lmdb_h *)arg);
}

static int zc__lmdb_store_del(void *user, zc_bytes key) {
    zc__lmdb *db = (zc__lmdb *)user;
    zc__lmdb_h h = zc__lmdb_hash(db, key);
    zc__lmdb_unnote(db, &h);
    return zc__lmdb_write(db, zc__lmdb_del_step, &h);
}

static int zc__lmdb_store_touch(void *user, zc_bytes key, uint64_t expires_ms) {
    zc__lmdb *db = (zc__lmdb *)user;
    zc__lmdb_h h = zc__lmdb_hash(db, key);
    zc__lmdb_note n = zc__lmdb_note_of(&h, expires_ms ? expires_ms : UINT64_MAX);
    if (zc__lmdb_note_use(db, &n)) return ZC_OK;
    int rc = zc__lmdb_write(db, zc__lmdb_maintain_all, NULL);
    return rc != ZC_OK || zc__lmdb_note_use(db, &n) ? rc : ZC_E_FULL;
}

static int zc__lmdb_clear_step(zc__lmdb_tx *t, void *arg) {
    (void)arg;
    for (unsigned i = ZC__LMDB_RECORDS; i <= ZC__LMDB_ENDS; i++) {
        int rc = zc__lmdb_result(mdb_drop(t->txn, zc__lmdb_db(t, i), 0));
        if (rc != ZC_OK) return rc;
    }
    return ZC_OK;
}

static int zc__lmdb_store_clear(void *user) {
    return zc__lmdb_write((zc__lmdb *)user, zc__lmdb_clear_step, NULL);
}

/* ---- flights of the fleet ---- */

typedef struct zc__lmdb_lock {
    zc__lmdb_h h;
    uint64_t lease_ms; /* 0: unlocks */
    uint64_t token;    /* asked for; 0: a new one */
    uint64_t given;    /* apart: the step may run again */
} zc__lmdb_lock;

/* Deletes the first lock at or after `h` if it has ended: holders that die leave theirs, and so
 * they do not add up. */
static int zc__lmdb_expire_lock(zc__lmdb_tx *t, const zc__lmdb_h *h, uint64_t now) {
    MDB_cursor *c;
    MDB_val key = zc__lmdb_val(h->b, ZC__LMDB_H), row;
    int rc = mdb_cursor_open(t->txn, zc__lmdb_db(t, ZC__LMDB_LOCKS), &c);
    if (rc != MDB_SUCCESS) return zc__lmdb_result(rc);
    rc = mdb_cursor_get(c, &key, &row, MDB_SET_RANGE);
    if (rc == MDB_NOTFOUND) rc = mdb_cursor_get(c, &key, &row, MDB_FIRST);
    if (rc == MDB_SUCCESS && (row.mv_size != 16 || zc__get64(zc__lmdb_at(&row, 8)) <= now))
        rc = mdb_cursor_del(c, 0);
    mdb_cursor_close(c);
    return rc == MDB_NOTFOUND ? ZC_OK : zc__lmdb_result(rc);
}

static int zc__lmdb_lock_step(zc__lmdb_tx *t, void *arg) {
    zc__lmdb_lock *l = (zc__lmdb_lock *)arg;
    unsigned char row[16];
    MDB_val key = zc__lmdb_val(l->h.b, ZC__LMDB_H), old;
    uint64_t now = zc__lmdb_ms(t->db), token = 0, end = 0;
    int rc = zc__lmdb_get(t->txn, zc__lmdb_db(t, ZC__LMDB_LOCKS), key, &old, 16);
    if (rc < 0) return rc;
    if (rc == ZC_OK) {
        token = zc__get64(zc__lmdb_at(&old, 0));
        end = zc__get64(zc__lmdb_at(&old, 8));
    }
    if (l->token ? l->token != token : end > now) return ZC_MISS;
    if (!l->lease_ms) return zc__lmdb_rm(t, ZC__LMDB_LOCKS, key);
    if (!l->token) rc = zc__lmdb_expire_lock(t, &l->h, now);
    if (rc < 0) return rc;
    l->given = l->token ? l->token : ++t->meta[ZC__LMDB_TOKEN];
    zc__put_le(row, l->given, 8);
    zc__put_le(row + 8, zc__add_sat(now, l->lease_ms), 8);
    return zc__lmdb_put(t, ZC__LMDB_LOCKS, key, zc__lmdb_val(row, 16));
}

static int zc__lmdb_lock_for(void *user, zc_bytes key, uint64_t lease_ms, uint64_t *token) {
    zc__lmdb *db = (zc__lmdb *)user;
    zc__lmdb_lock l = {zc__lmdb_hash(db, key), lease_ms, *token, *token};
    int rc = zc__lmdb_write(db, zc__lmdb_lock_step, &l);
    if (rc == ZC_OK) *token = l.given;
    return rc;
}

static int zc__lmdb_store_lock(void *user, zc_bytes key, uint64_t lease, uint64_t *token) {
    return zc__lmdb_lock_for(user, key, lease / ZC_MILLISECOND + 1, token);
}

static int zc__lmdb_store_unlock(void *user, zc_bytes key, uint64_t token) {
    return token ? zc__lmdb_lock_for(user, key, 0, &token) : ZC_MISS;
}

/* ---- the bus ---- */

static int zc__lmdb_bus_attach(void *user, uint64_t *identity, uint64_t *position) {
    zc__lmdb_rd r;
    uint64_t meta[ZC__LMDB_META];
    int rc = zc__lmdb_begin_meta((zc__lmdb *)user, &r, meta);
    if (rc != ZC_OK) return rc;
    zc__lmdb_end(&r);
    *identity = meta[ZC__LMDB_IDENTITY];
    *position = meta[ZC__LMDB_TAIL];
    return ZC_OK;
}

static int zc__lmdb_bus_peek(void *user, uint64_t *position) {
    zc__lmdb *db = (zc__lmdb *)user;
    MDB_envinfo info;
    uint64_t identity;
    if (ZC__UNLIKELY(!zc__lmdb_usable(db))) return ZC_E_STORE;
    (void)mdb_env_info(db->env, &info);
    if (ZC__UNLIKELY(zc__atomic_load_acq(&db->known_txn) < info.me_last_txnid))
        return zc__lmdb_bus_attach(user, &identity, position);
    *position = zc__atomic_load_acq(&db->tail);
    return ZC_OK;
}

/* Gives the entries after `position` that this transaction sees. ZC_MORE: as many as one call may;
 * ZC_RETRY: some of them are gone, or never were. */
static int zc__lmdb_deliver_after(zc__lmdb_rd *r, uint64_t position, uint64_t tail,
                               zc_bus_sink *sink) {
    unsigned char at[8];
    MDB_cursor *c;
    MDB_val entry = zc__lmdb_val(NULL, 0);
    MDB_cursor_op op = MDB_SET_RANGE;
    if (position >= tail) return position == tail ? ZC_OK : ZC_RETRY;
    int rc = zc__lmdb_result(mdb_cursor_open(r->txn, r->db->dbi[ZC__LMDB_ENTRIES], &c));
    if (rc != ZC_OK) return rc;
    zc__put_be64(at, position + 1);
    MDB_val key = zc__lmdb_val(at, sizeof at);
    for (size_t n = 0; rc == ZC_OK && position < tail; n++, op = MDB_NEXT) {
        if (n == ZC__LMDB_READ) {
            rc = ZC_MORE;
            break;
        }
        rc = zc__lmdb_result(mdb_cursor_get(c, &key, &entry, op));
        if (rc == ZC_OK && (key.mv_size != 8 || zc__get_be64(zc__lmdb_at(&key, 0)) != ++position))
            rc = ZC_RETRY; /* trimmed: L2 */
        if (rc == ZC_MISS) rc = ZC_E_CORRUPT;
        zc_bytes list = zc_slice(entry.mv_data, entry.mv_size);
        if (rc == ZC_OK) rc = zc__list_deliver(&r->db->mem, list, position, sink);
    }
    mdb_cursor_close(c);
    return rc;
}

/* Sleeps a little, unless it is past `until` or somebody has called wake(): then false. */
static bool zc__lmdb_sleep(zc__lmdb *db, uint64_t until) {
    uint64_t now = zc__mono(&db->clock);
    bool wait = now < until;
    zc__monitor_lock(&db->wake);
    if (wait && db->wakes) {
        db->wakes--;
        wait = false;
    }
    if (wait) {
        uint64_t left = until - now;
        zc__monitor_sleep(&db->wake, left < ZC__LMDB_PAUSE ? left : ZC__LMDB_PAUSE);
    }
    zc__monitor_unlock(&db->wake);
    return wait;
}

static int zc__lmdb_bus_read(void *user, uint64_t position, uint64_t wait, zc_bus_sink *sink) {
    zc__lmdb *db = (zc__lmdb *)user;
    zc__lmdb_rd r;
    uint64_t meta[ZC__LMDB_META], tail;
    uint64_t until = zc__add_sat(zc__mono(&db->clock), wait);
    int rc;
    while ((rc = zc__lmdb_bus_peek(db, &tail)) == ZC_OK && tail == position)
        if (!zc__lmdb_sleep(db, until)) return ZC_OK;
    if (rc == ZC_OK) rc = zc__lmdb_begin_meta(db, &r, meta);
    if (rc != ZC_OK) return rc;
    rc = zc__lmdb_deliver_after(&r, position, meta[ZC__LMDB_TAIL], sink);
    zc__lmdb_end(&r);
    return rc;
}

typedef struct zc__lmdb_list {
    uint64_t at; /* of a hold: its id */
    const zc_bytes *tags;
    size_t n;
} zc__lmdb_list;

/* The row of tags at `at` in the log, or of a hold. */
static int zc__lmdb_put_list(zc__lmdb_tx *t, unsigned which, uint64_t at, const zc__lmdb_list *l,
                             unsigned flags) {
    unsigned char place[8];
    zc__put_be64(place, at);
    MDB_val key = zc__lmdb_val(place, 8), value = zc__lmdb_val(NULL, zc__list_size(l->tags, l->n));
    int rc = zc__lmdb_result(
        mdb_put(t->txn, zc__lmdb_db(t, which), &key, &value, flags | MDB_RESERVE));
    if (rc == ZC_OK) zc__list_write((unsigned char *)value.mv_data, l->tags, l->n);
    return rc;
}

static MDB_val zc__lmdb_tag_key(const zc__lmdb *db, zc_bytes path, unsigned char at[8]) {
    zc__put_le(at, XXH3_64bits_withSeed(path.ptr, path.len, db->identity), 8);
    return zc__lmdb_val(at, 8);
}

/* Records the position of a path (L3). */
static int zc__lmdb_put_tag(zc__lmdb_tx *t, zc_bytes path, uint64_t position) {
    unsigned char at[8], value[8];
    unsigned young = (unsigned)t->meta[ZC__LMDB_YOUNG];
    zc__put_le(value, position, 8);
    return zc__lmdb_put(t, ZC__LMDB_TAGS0 + young, zc__lmdb_tag_key(t->db, path, at),
                        zc__lmdb_val(value, 8));
}

/* Swaps the generations of tags if the young one has its share. */
static int zc__lmdb_age_tags(zc__lmdb_tx *t) {
    unsigned young = (unsigned)t->meta[ZC__LMDB_YOUNG];
    MDB_stat s;
    int rc = zc__lmdb_result(mdb_stat(t->txn, zc__lmdb_db(t, ZC__LMDB_TAGS0 + young), &s));
    if (rc != ZC_OK || s.ms_entries < t->db->tags) return rc;
    t->meta[ZC__LMDB_FLOOR] = t->meta[ZC__LMDB_SWAPPED];
    t->meta[ZC__LMDB_SWAPPED] = t->meta[ZC__LMDB_TAIL];
    t->meta[ZC__LMDB_YOUNG] = young ^ 1;
    return zc__lmdb_result(mdb_drop(t->txn, zc__lmdb_db(t, ZC__LMDB_TAGS0 + (young ^ 1)), 0));
}

/* Forgets the oldest entries: those too many, and, if the log has grown too large, some more. */
static int zc__lmdb_trim(zc__lmdb_tx *t) {
    MDB_dbi log = zc__lmdb_db(t, ZC__LMDB_ENTRIES);
    MDB_val key, entry;
    MDB_stat s;
    for (;;) {
        int rc = zc__lmdb_result(mdb_stat(t->txn, log, &s));
        if (rc != ZC_OK || s.ms_entries <= 1) return rc;
        bool many = s.ms_entries > ZC__LMDB_LOG;
        if (!many && zc__lmdb_pages(t, log) <= t->db->log_pages) return ZC_OK;
        rc = zc__lmdb_first(t->txn, log, &key, &entry);
        if (rc == ZC_OK) rc = zc__lmdb_result(mdb_del(t->txn, log, &key, NULL));
        if (rc != ZC_OK) return rc;
    }
}

static int zc__lmdb_append_step(zc__lmdb_tx *t, void *arg) {
    const zc__lmdb_list *l = (const zc__lmdb_list *)arg;
    int rc = zc__lmdb_flush(t, ZC__LMDB_FLUSH);
    if (rc == ZC_OK) rc = zc__lmdb_age_tags(t);
    if (rc != ZC_OK) return rc;
    uint64_t position = ++t->meta[ZC__LMDB_TAIL];
    rc = zc__lmdb_put_list(t, ZC__LMDB_ENTRIES, position, l, MDB_APPEND);
    for (size_t i = 0; i < l->n && rc == ZC_OK; i++) rc = zc__lmdb_put_tag(t, l->tags[i], position);
    if (l->n == 0) t->meta[ZC__LMDB_ROOT] = position;
    if (rc == ZC_OK) rc = zc__lmdb_trim(t);
    return rc == ZC_OK ? zc__lmdb_maintain_after(t, 0) : rc;
}

/* `durable` asks for nothing more: with `sync` each write is on the disk, and without it what a
 * crash of the system may have lost is never believed again. */
static int zc__lmdb_bus_append(void *user, const zc_bytes *tags, size_t n, bool durable,
                               uint64_t position, zc_bus_sink *sink) {
    zc__lmdb_list l = {0, tags, n};
    (void)durable;
    for (size_t i = 0; i < n; i++)
        if (tags[i].len == 0 || tags[i].len > ZC_TAG_MAX + ZC_SEAL_TAG) return ZC_E_INVAL;
    int rc = zc__lmdb_write((zc__lmdb *)user, zc__lmdb_append_step, &l);
    return rc == ZC_OK ? zc__lmdb_bus_read(user, position, 0, sink) : rc;
}

static int zc__lmdb_bus_versions(void *user, const zc_bytes *paths, size_t n,
                                 uint64_t *positions) {
    zc__lmdb *db = (zc__lmdb *)user;
    zc__lmdb_rd r;
    uint64_t meta[ZC__LMDB_META];
    unsigned char at[8];
    MDB_val value;
    int rc = zc__lmdb_begin_meta(db, &r, meta);
    if (rc != ZC_OK) return rc;
    unsigned young = (unsigned)meta[ZC__LMDB_YOUNG];
    for (size_t i = 0; i < n && rc >= 0; i++) {
        positions[i] = meta[ZC__LMDB_ROOT];
        if (paths[i].len == 0) continue;
        MDB_val k = zc__lmdb_tag_key(db, paths[i], at);
        rc = zc__lmdb_get(r.txn, db->dbi[ZC__LMDB_TAGS0 + young], k, &value, 8);
        if (rc == ZC_MISS && meta[ZC__LMDB_SWAPPED]) /* else the old one is empty */
            rc = zc__lmdb_get(r.txn, db->dbi[ZC__LMDB_TAGS0 + (young ^ 1)], k, &value, 8);
        positions[i] = rc == ZC_OK ? zc__get64(zc__lmdb_at(&value, 0)) : meta[ZC__LMDB_FLOOR];
    }
    zc__lmdb_end(&r);
    return rc < 0 ? rc : ZC_OK;
}

static int zc__lmdb_hold_step(zc__lmdb_tx *t, void *arg) {
    const zc__lmdb_list *l = (const zc__lmdb_list *)arg;
    unsigned char id[8];
    if (l->n > 0) return zc__lmdb_put_list(t, ZC__LMDB_HOLDS, l->at, l, 0);
    zc__put_be64(id, l->at);
    return zc__lmdb_rm(t, ZC__LMDB_HOLDS, zc__lmdb_val(id, sizeof id));
}

static int zc__lmdb_bus_hold(void *user, uint64_t id, const zc_bytes *tags, size_t n) {
    zc__lmdb_list l = {id, tags, n};
    return zc__lmdb_write((zc__lmdb *)user, zc__lmdb_hold_step, &l);
}

static int zc__lmdb_bus_holds(void *user, zc_bus_sink *sink) {
    zc__lmdb *db = (zc__lmdb *)user;
    zc__lmdb_rd r;
    MDB_cursor *c;
    MDB_val key, list;
    int rc = zc__lmdb_begin(db, &r);
    if (rc != ZC_OK) return rc;
    rc = zc__lmdb_result(mdb_cursor_open(r.txn, db->dbi[ZC__LMDB_HOLDS], &c));
    if (rc == ZC_OK) {
        while ((rc = zc__lmdb_result(mdb_cursor_get(c, &key, &list, MDB_NEXT))) == ZC_OK) {
            if (key.mv_size != 8) rc = ZC_E_CORRUPT;
            else rc = zc__list_deliver(&db->mem, zc_slice(list.mv_data, list.mv_size),
                                       zc__get_be64(zc__lmdb_at(&key, 0)), sink);
            if (rc != ZC_OK) break;
        }
        mdb_cursor_close(c);
    }
    zc__lmdb_end(&r);
    return rc == ZC_MISS ? ZC_OK : rc;
}

/* Something to bring to the file, or to delete. */
static bool zc__lmdb_has_work(zc__lmdb *db) {
    zc__lmdb_rd r;
    MDB_val key, value;
    MDB_stat s;
    bool any = false;
    zc__spin_lock(&db->notes);
    for (size_t i = 0; i < ZC__LMDB_NOTES && !any; i++) any = db->note[i].h[0] || db->note[i].h[1];
    zc__spin_unlock(&db->notes);
    if (any || zc__lmdb_begin(db, &r) != ZC_OK) return any;
    any = zc__lmdb_first(r.txn, db->dbi[ZC__LMDB_ENDS], &key, &value) == ZC_OK &&
          key.mv_size >= 8 && zc__lmdb_over(zc__get_be64(zc__lmdb_at(&key, 0)), zc__lmdb_ms(db));
    any |= mdb_stat(r.txn, db->dbi[ZC__LMDB_RECORDS], &s) == MDB_SUCCESS &&
           s.ms_entries > db->max_entries;
    zc__lmdb_end(&r);
    return any;
}

/* Writes the name of a file in the directory. */
static char *zc__lmdb_file(const zc__lmdb *db, const char *name, char *out, size_t cap) {
    zc__text t = {out, cap, 0};
    zc__text_bytes(&t, db->path, db->path_len);
    zc__text_str(&t, name);
    zc__text_end(&t);
    return out;
}

/* Processes of one machine need not tell each other anything; it is time to keep house. */
static int zc__lmdb_bus_beat(void *user, zc_bytes text) {
    zc__lmdb *db = (zc__lmdb *)user;
    char name[ZC__LMDB_PATH];
    struct stat st;
    (void)text;
    if (!zc__lmdb_usable(db)) return ZC_E_STORE;
    zc__lmdb_file(db, "/data.mdb", name, sizeof name);
    uint64_t had = zc__atomic_load_acq(&db->size); /* before; others may beat at the same time */
    bool there = stat(name, &st) == 0 && st.st_dev == db->dev && st.st_ino == db->ino;
    if (!there || (uint64_t)st.st_size < had) {
        zc__atomic_store_rlx(&db->lost, 1u);
        zc__lmdb_say(db, "the file was removed, replaced or cut while it was open", NULL);
        return ZC_E_STORE;
    }
    zc__atomic_raise(&db->size, (uint64_t)st.st_size);
    zc__lmdb_clear_dead_readers(db);
    return zc__lmdb_has_work(db) ? zc__lmdb_write(db, zc__lmdb_maintain_all, NULL) : ZC_OK;
}

/* The read that waits, and the next. */
static void zc__lmdb_bus_wake(void *user) {
    zc__lmdb *db = (zc__lmdb *)user;
    zc__monitor_lock(&db->wake);
    db->wakes = 2;
    zc__monitor_wake(&db->wake);
    zc__monitor_unlock(&db->wake);
}

/* ---- open, fork, close ---- */

/* The id of this boot of the system, 36 bytes. False: it does not tell. */
static bool zc__lmdb_boot(char id[36]) {
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool good = read(fd, id, 36) == 36;
    close(fd);
    return good;
}

/* Every process that has the directory open holds a lock on one byte of path/zoocache, at its pid:
 * a lock of the open file, so a second open in the same process meets it, and kill -9 releases it.
 * *alone: nobody else holds any. ZC_E_INVAL: this process has the directory open. */
static int zc__lmdb_register(zc__lmdb *db, bool *alone) {
    *alone = false;
#ifdef ZC__LMDB_SETLK
    struct flock all;
    memset(&all, 0, sizeof all);
    all.l_type = F_WRLCK;
    all.l_whence = SEEK_SET;
    if (fcntl(db->control, ZC__LMDB_GETLK, &all) == 0) *alone = all.l_type == F_UNLCK;
#endif
    if (zc__lmdb_lock_byte(db, (uint64_t)db->pid, F_WRLCK)) return ZC_OK;
    zc__lmdb_say(db, "is open in this process already (or in another pid namespace)", NULL);
    return ZC_E_INVAL;
}

static bool zc__lmdb_sync_dir(const zc__lmdb *db) {
    int fd = open(db->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool good = fsync(fd) == 0;
    close(fd);
    return good;
}

/* Sees to it that data.mdb can be believed: deletes what another boot has written without `sync`,
 * and says in path/zoocache, on disk, how it is written from now on. */
static int zc__lmdb_check_boot(zc__lmdb *db) {
    char now[ZC__LMDB_CONTROL], was[ZC__LMDB_CONTROL], name[ZC__LMDB_PATH];
    memset(now, ' ', sizeof now);
    memcpy(now, "zoocache", 8);
    if (!zc__lmdb_boot(now + 9)) db->sync = true;
    now[46] = db->sync ? 's' : 'n';
    now[47] = '\n';
    ssize_t got = pread(db->control, was, sizeof was, 0);
    bool known = got == (ssize_t)sizeof was && memcmp(was, now, 9) == 0;
    bool same_boot = known && memcmp(was + 9, now + 9, 36) == 0;
    zc__lmdb_file(db, "/data.mdb", name, sizeof name);
    if (!known && access(name, F_OK) == 0) {
        zc__lmdb_say(db, "data.mdb is there, but not of this library", NULL);
        return ZC_E_CORRUPT;
    }
    if (known && was[46] != 's' && (!same_boot || now[9] == ' ')) {
        bool gone = unlink(name) == 0 || errno == ENOENT;
        zc__lmdb_file(db, "/lock.mdb", name, sizeof name);
        if (!gone || (unlink(name) != 0 && errno != ENOENT))
            return zc__lmdb_refused(db, "what is of before the reboot cannot be deleted");
    } else if (known && was[46] != 's') {
        now[46] = 'n'; /* some of it is not on disk */
    }
    if (known && memcmp(was, now, sizeof now) == 0) return ZC_OK;
    if (pwrite(db->control, now, sizeof now, 0) != (ssize_t)sizeof now || fsync(db->control) != 0 ||
        !zc__lmdb_sync_dir(db))
        return zc__lmdb_refused(db, "path/zoocache cannot be written");
    return ZC_OK;
}

/* ---- is data.mdb sound? ----
 * LMDB believes what it reads: a number that is wrong makes it abort, leave its map, or give one
 * page away twice. So all that LMDB may follow is followed here, from the newest meta: each page is
 * of one tree, or free; it says its own number; leaves of a tree are equally deep; nodes fill the
 * end of their page without gaps; keys ascend; each tree has as much as it says. Values are not
 * looked at: records have checksums, and rows are read with care. Layouts: LMDB's mdb.c. */

typedef struct zc__mdb_tree {
    uint32_t page_size; /* in that of free pages */
    uint16_t flags, depth;
    size_t branches, leaves, overflow, entries, root;
} zc__mdb_tree;

typedef struct zc__mdb_meta {
    uint32_t magic, version;
    size_t address, map_size;
    zc__mdb_tree unused, main; /* `unused`: transaction -> pages that it has freed */
    size_t last, txn;          /* the last page that was ever used; transactions */
} zc__mdb_meta;

typedef struct zc__mdb_page { /* then the places of its nodes, 2 bytes each */
    size_t number;
    uint16_t pad, flags;
    uint16_t lower, upper; /* of what is free; where values are, both are the number of pages */
} zc__mdb_page;

typedef struct zc__mdb_row {
    const unsigned char *value; /* its length; in a branch, the page below */
    size_t len, size;           /* `size`: of the node */
    zc_bytes key;
    unsigned flags;
} zc__mdb_row;

enum {
    ZC__MDB_BRANCH = 1, /* pages */
    ZC__MDB_LEAF = 2,
    ZC__MDB_OVERFLOW = 4,
    ZC__MDB_META = 8,
    ZC__MDB_BIG = 1, /* nodes: the value is on pages of its own, */
    ZC__MDB_SUB = 2, /*   or a tree */
    ZC__MDB_KEY = 511,
    ZC__MDB_NODE = 8,
    ZC__MDB_DEPTH = 32,
    ZC__MDB_PAGE = 32768,   /* the largest */
    ZC__MDB_DIRTY = 1 << 17 /* pages of one transaction, at most */
};

typedef struct zc__mdb_check {
    const unsigned char *map;
    size_t page, in_file, pages; /* bytes of a page; pages of the file, and of bits in `taken` */
    unsigned char *taken;
    zc__mdb_meta meta;
    const zc__mdb_tree *tree; /* that is walked: */
    zc__mdb_tree seen;        /*   what it has, counted */
    zc_bytes before;          /*   its last key */
    zc__mdb_tree sub[ZC__LMDB_DBS];
    size_t nsub;
} zc__mdb_check;

static size_t zc__mdb_number(const void *p) {
    size_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static const zc__mdb_page *zc__mdb_page_at(const zc__mdb_check *c, size_t number) {
    return (const zc__mdb_page *)(const void *)(c->map + number * c->page);
}

/* Gives these pages, which end below `end`, their one owner. */
static bool zc__mdb_take(zc__mdb_check *c, size_t number, size_t n, size_t end) {
    if (number < 2 || n > end || number > end - n) return false;
    for (; n > 0; number++, n--) {
        unsigned char bit = (unsigned char)(1u << number % 8);
        if (c->taken[number / 8] & bit) return false;
        c->taken[number / 8] |= bit;
    }
    return true;
}

/* The node at an even place of a page. False: it is none, or leaves the page. */
static bool zc__mdb_read_node(const zc__mdb_check *c, const zc__mdb_page *page, size_t at,
                              zc__mdb_row *r) {
    const unsigned char *p = (const unsigned char *)page + at;
    bool branch = page->flags == ZC__MDB_BRANCH;
    size_t most = (c->page - sizeof *page) / 4 * 2 - 2;
    uint16_t half[2];
    uint32_t low;
    if (at > c->page - ZC__MDB_NODE) return false;
    memcpy(&low, p, 4);
    memcpy(half, p + 4, 4);
    r->flags = half[0];
    r->key = zc_slice(p + ZC__MDB_NODE, half[1]);
    r->value = p + ZC__MDB_NODE + half[1];
    r->len = branch ? (size_t)((uint64_t)half[0] << 32 | low) : low;
    r->size = ZC__MDB_NODE + (size_t)half[1];
    if (!branch) r->size += r->flags & ZC__MDB_BIG ? sizeof(size_t) : r->len;
    if (r->key.len > ZC__MDB_KEY || r->size > most) return false;
    r->size += r->size % 2;
    return r->size <= c->page - at;
}

static size_t zc__mdb_nodes(const zc__mdb_page *p) { return (p->lower - sizeof *p) / 2; }

/* Do the nodes that the page names fill it from `upper` on, each once? */
static bool zc__mdb_filled(const zc__mdb_check *c, const zc__mdb_page *page) {
    size_t n = zc__mdb_nodes(page);
    const uint16_t *places = (const uint16_t *)(page + 1);
    unsigned char begins[ZC__MDB_PAGE / 16];
    zc__mdb_row r;
    memset(begins, 0, c->page / 16);
    for (size_t i = 0; i < n; i++) {
        if (places[i] % 2 || places[i] >= c->page) return false;
        begins[places[i] / 16] |= (unsigned char)(1u << places[i] / 2 % 8);
    }
    for (size_t at = page->upper; at < c->page; at += r.size, n--)
        if (!(begins[at / 16] >> at / 2 % 8 & 1) || !zc__mdb_read_node(c, page, at, &r))
            return false;
    return n == 0;
}

/* Takes a page of a tree. NULL: it is not sound. */
static const zc__mdb_page *zc__mdb_take_page(zc__mdb_check *c, size_t number, unsigned flags) {
    if (!zc__mdb_take(c, number, 1, c->in_file)) return NULL;
    const zc__mdb_page *p = zc__mdb_page_at(c, number);
    if (p->number != number || p->flags != flags) return NULL;
    if (p->lower <= sizeof *p || p->lower % 2 || p->upper % 2) return NULL;
    if (p->lower > p->upper || p->upper > c->page) return NULL;
    return zc__mdb_filled(c, p) ? p : NULL;
}

/* Takes the pages of a large value, and finds it there. */
static bool zc__mdb_take_value(zc__mdb_check *c, zc__mdb_row *r) {
    size_t number = zc__mdb_number(r->value);
    uint32_t pages;
    if (number >= c->in_file) return false;
    const zc__mdb_page *p = zc__mdb_page_at(c, number);
    if (p->number != number || p->flags != ZC__MDB_OVERFLOW) return false;
    memcpy(&pages, &p->lower, sizeof pages);
    r->value = (const unsigned char *)(p + 1);
    c->seen.overflow += pages;
    return pages > (r->len + sizeof *p - 1) / c->page &&
           zc__mdb_take(c, number, pages, c->in_file);
}

/* Takes the pages of a list of free ones: how many, and they, descending. */
static bool zc__mdb_take_free(zc__mdb_check *c, const zc__mdb_row *r) {
    size_t words = r->len / sizeof(size_t), before = SIZE_MAX;
    if (r->key.len != sizeof(size_t) || words == 0) return false;
    size_t n = zc__mdb_number(r->value), txn = zc__mdb_number(r->key.ptr);
    if (n >= words || txn == 0 || txn > c->meta.txn) return false;
    for (size_t i = 1; i <= n; i++) {
        size_t number = zc__mdb_number(r->value + i * sizeof number);
        if (number >= before || !zc__mdb_take(c, number, 1, c->pages)) return false;
        before = number;
    }
    return true;
}

/* Is `key` above the one before? Those of free pages are numbers. */
static bool zc__mdb_ascends(const zc__mdb_check *c, zc_bytes key) {
    zc_bytes was = c->before;
    if (!was.ptr) return true;
    if (c->tree == &c->meta.unused) return zc__mdb_number(was.ptr) < zc__mdb_number(key.ptr);
    int order = memcmp(was.ptr, key.ptr, was.len < key.len ? was.len : key.len);
    return order < 0 || (order == 0 && was.len < key.len);
}

static bool zc__mdb_check_row(zc__mdb_check *c, zc__mdb_row *r) {
    if (r->flags == ZC__MDB_SUB) {
        bool here = c->tree == &c->meta.main && c->nsub < ZC__LMDB_DBS;
        if (!here || r->len != sizeof *c->sub) return false;
        memcpy(&c->sub[c->nsub++], r->value, sizeof *c->sub);
    } else if (r->flags && (r->flags != ZC__MDB_BIG || !zc__mdb_take_value(c, r))) return false;
    if (c->tree == &c->meta.unused && !zc__mdb_take_free(c, r)) return false;
    bool good = zc__mdb_ascends(c, r->key);
    c->before = r->key;
    c->seen.entries++;
    return good;
}

/* A page and all below it; level 1: a leaf. */
static bool zc__mdb_check_page(zc__mdb_check *c, size_t number, unsigned level) {
    bool branch = level > 1;
    const zc__mdb_page *page =
        zc__mdb_take_page(c, number, branch ? ZC__MDB_BRANCH : ZC__MDB_LEAF);
    zc__mdb_row r;
    if (!page) return false;
    const uint16_t *places = (const uint16_t *)(page + 1);
    size_t n = zc__mdb_nodes(page);
    if (branch && n == 1 && c->tree != &c->meta.unused) return false;
    if (branch) c->seen.branches++;
    else c->seen.leaves++;
    for (size_t i = 0; i < n; i++) {
        if (!zc__mdb_read_node(c, page, places[i], &r)) return false;
        bool good = branch ? zc__mdb_check_page(c, r.len, level - 1) : zc__mdb_check_row(c, &r);
        if (!good) return false;
    }
    return true;
}

static bool zc__mdb_check_tree(zc__mdb_check *c, const zc__mdb_tree *tree) {
    c->tree = tree;
    c->before = zc_slice(NULL, 0);
    c->seen = *tree;
    c->seen.branches = c->seen.leaves = c->seen.overflow = c->seen.entries = 0;
    if (tree->depth > ZC__MDB_DEPTH || (tree->depth == 0) != (tree->root == SIZE_MAX)) return false;
    if (tree->depth && !zc__mdb_check_page(c, tree->root, tree->depth)) return false;
    return memcmp(&c->seen, tree, sizeof *tree) == 0;
}

/* Finds the newer of the two metas, as LMDB does. */
static bool zc__mdb_check_metas(zc__mdb_check *c, size_t size) {
    zc__mdb_meta m;
    for (size_t i = 0; i < 2; i++) {
        const zc__mdb_page *p = zc__mdb_page_at(c, i);
        if (size < i * c->page + sizeof *p + sizeof m) return false;
        memcpy(&m, p + 1, sizeof m);
        if (p->flags != ZC__MDB_META || m.magic != 0xbeefc0de || m.version != 1) return false;
        if (i == 0) c->page = m.unused.page_size;
        if (m.unused.page_size != c->page || c->page < 512 || c->page > ZC__MDB_PAGE ||
            c->page & (c->page - 1))
            return false;
        if (i == 0 || m.txn > c->meta.txn) c->meta = m;
    }
    c->pages = c->meta.last + 1;
    c->in_file = size / c->page < c->pages ? size / c->page : c->pages;
    /* What a transaction has used and freed again at the end of the file, it has not written. */
    return c->meta.last < c->meta.map_size / c->page && c->pages - c->in_file < ZC__MDB_DIRTY &&
           c->meta.txn < SIZE_MAX / 4 && c->meta.unused.flags == MDB_INTEGERKEY &&
           c->meta.main.flags == 0;
}

static bool zc__mdb_check_trees(zc__mdb_check *c) {
    bool good = zc__mdb_check_tree(c, &c->meta.unused) && zc__mdb_check_tree(c, &c->meta.main);
    for (size_t i = 0; i < c->nsub && good; i++)
        good = c->sub[i].flags == 0 && zc__mdb_check_tree(c, &c->sub[i]);
    return good;
}

static int zc__lmdb_damaged(zc__lmdb *db) {
    zc__lmdb_say(db, "data.mdb is damaged, of another version or not of this library", NULL);
    return ZC_E_CORRUPT;
}

/* Nobody has data.mdb open. */
static int zc__lmdb_check_file(zc__lmdb *db) {
    zc__mdb_check c;
    char name[ZC__LMDB_PATH];
    struct stat st;
    memset(&c, 0, sizeof c);
    zc__lmdb_file(db, "/data.mdb", name, sizeof name);
    if (stat(name, &st) != 0 || st.st_size == 0) return ZC_OK; /* LMDB makes it */
    size_t size = (size_t)st.st_size;
    int fd = open(name, O_RDONLY | O_CLOEXEC), rc = ZC_E_CORRUPT;
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    if (map == MAP_FAILED) return zc__lmdb_refused(db, "data.mdb cannot be read");
    c.map = (const unsigned char *)map;
    if (zc__mdb_check_metas(&c, size)) {
        c.taken = (unsigned char *)zc__alloc_zero(&db->mem, c.pages / 8 + 1);
        rc = !c.taken ? ZC_E_NOMEM : zc__mdb_check_trees(&c) ? ZC_OK : ZC_E_CORRUPT;
        zc__free(&db->mem, c.taken, c.pages / 8 + 1);
    }
    (void)munmap(map, size);
    return rc == ZC_E_CORRUPT ? zc__lmdb_damaged(db) : rc;
}

/* Opens the databases, and makes the row "zoocache" of a new file. With `grown` it is written
 * again, so that LMDB tells the map's size to those who open it later. Else nothing is written, for
 * which there might be no room. */
static int zc__lmdb_setup(zc__lmdb *db, MDB_txn *txn, bool grown) {
    static const char *const names[ZC__LMDB_DBS] = {"zc.records", "zc.uses",  "zc.lru",
                                                    "zc.ends",    "zc.log",   "zc.tags0",
                                                    "zc.tags1",   "zc.locks", "zc.holds"};
    uint64_t meta[ZC__LMDB_META] = {ZC__LMDB_FORMAT_1};
    MDB_dbi unnamed;
    MDB_stat s;
    int rc = mdb_dbi_open(txn, NULL, 0, &unnamed);
    if (rc == MDB_SUCCESS) rc = mdb_stat(txn, unnamed, &s);
    if (rc != MDB_SUCCESS) return zc__lmdb_result(rc);
    bool fresh = s.ms_entries == 0;
    rc = fresh ? ZC_OK : zc__lmdb_load(txn, meta);
    while (meta[ZC__LMDB_IDENTITY] == 0) meta[ZC__LMDB_IDENTITY] = zc__system_random();
    db->identity = meta[ZC__LMDB_IDENTITY];
    if (rc == ZC_OK && (fresh || grown)) rc = zc__lmdb_save(txn, meta);
    for (size_t i = 0; i < ZC__LMDB_DBS && rc == ZC_OK; i++)
        rc = zc__lmdb_result(mdb_dbi_open(txn, names[i], fresh ? MDB_CREATE : 0, &db->dbi[i]));
    return rc == ZC_MISS ? ZC_E_CORRUPT : rc;
}

/* What the size of the map allows, and which file it is of. */
static int zc__lmdb_learn_file(zc__lmdb *db) {
    MDB_envinfo info;
    MDB_stat s;
    mdb_filehandle_t fd;
    struct stat st;
    (void)mdb_env_info(db->env, &info);
    (void)mdb_env_stat(db->env, &s);
    size_t pages = info.me_mapsize / s.ms_psize;
    db->max_pages = pages - (pages / 8 > ZC__LMDB_SPARE ? pages / 8 : ZC__LMDB_SPARE);
    db->max_record = info.me_mapsize / 8;
    db->log_pages = pages / 16;
    db->tags = info.me_mapsize / 4096;
    if (mdb_env_get_fd(db->env, &fd) != MDB_SUCCESS || fstat(fd, &st) != 0) return ZC_E_STORE;
    db->dev = st.st_dev;
    db->ino = st.st_ino;
    db->size = (uint64_t)st.st_size;
    return ZC_OK;
}

/* Gives lock.mdb its space on disk. Nobody has it open: LMDB's locks of it end with any close. */
static int zc__lmdb_reserve_lock_file(zc__lmdb *db) {
    int e = 0;
#if defined(_POSIX_ADVISORY_INFO) && _POSIX_ADVISORY_INFO > 0
    char name[ZC__LMDB_PATH];
    zc__lmdb_file(db, "/lock.mdb", name, sizeof name);
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    e = fd < 0 ? errno : posix_fallocate(fd, 0, 4096 + 64 * ZC__LMDB_READERS);
    if (fd >= 0) close(fd);
    if (e == EOPNOTSUPP || e == EINVAL) e = 0; /* not with this file system */
#endif
    errno = e;
    return e ? zc__lmdb_refused(db, "lock.mdb cannot be made") : ZC_OK;
}

static int zc__lmdb_open_env(zc__lmdb *db, bool alone) {
    char name[ZC__LMDB_PATH];
    struct stat st;
    unsigned flags = MDB_NOTLS | (db->sync ? 0u : (unsigned)MDB_NOSYNC);
    MDB_envinfo info;
    MDB_txn *txn;
    int rc = mdb_env_create(&db->env), dead;
    if (rc != MDB_SUCCESS) return zc__lmdb_result(rc);
    zc__lmdb_file(db, "/data.mdb", name, sizeof name);
    /* An existing file says itself how large its map is; all processes must have the same. */
    if (stat(name, &st) != 0 || st.st_size == 0)
        (void)mdb_env_set_mapsize(db->env, db->map_size);
    (void)mdb_env_set_maxdbs(db->env, ZC__LMDB_DBS);
    (void)mdb_env_set_maxreaders(db->env, ZC__LMDB_READERS);
    rc = mdb_env_open(db->env, db->path, flags, 0600);
    if (rc != MDB_SUCCESS) {
        zc__lmdb_say(db, "cannot be opened", mdb_strerror(rc));
        return zc__lmdb_result(rc);
    }
    (void)mdb_env_info(db->env, &info);
    bool grow = alone && info.me_mapsize < db->map_size;
    if (grow) (void)mdb_env_set_mapsize(db->env, db->map_size);
    rc = zc__lmdb_learn_file(db);
    if (rc == ZC_OK) rc = zc__lmdb_enter(db);
    if (rc != ZC_OK) return rc;
    (void)mdb_reader_check(db->env, &dead);
    rc = zc__lmdb_result(mdb_txn_begin(db->env, NULL, 0, &txn));
    if (rc == ZC_OK) {
        rc = zc__lmdb_setup(db, txn, grow);
        if (rc == ZC_OK) rc = zc__lmdb_result(mdb_txn_commit(txn));
        else mdb_txn_abort(txn);
    }
    for (size_t i = 0; i < ZC__LMDB_SLOTS && rc == ZC_OK; i++) {
        zc__lmdb_slot *slot = &db->slot[i];
        if (mdb_txn_begin(db->env, NULL, MDB_RDONLY, &slot->txn) == MDB_SUCCESS)
            mdb_txn_reset(slot->txn);
        else slot->txn = NULL; /* all are taken: it is tried again when it is needed */
    }
    zc__lmdb_leave(db);
    return rc == ZC_E_CORRUPT ? zc__lmdb_damaged(db) : rc;
}

static void zc__lmdb_close_env(zc__lmdb *db) {
    for (size_t i = 0; i < ZC__LMDB_SLOTS; i++) {
        if (db->slot[i].txn) mdb_txn_abort(db->slot[i].txn);
        db->slot[i].txn = NULL;
    }
    if (db->env) mdb_env_close(db->env);
    db->env = NULL;
    if (db->control >= 0) close(db->control);
    db->control = -1;
}

/* Opens everything, one process at a time. Nothing is left open on failure. */
static int zc__lmdb_start(zc__lmdb *db) {
    char name[ZC__LMDB_PATH];
    bool alone;
    int locked, rc = ZC_E_STORE;
    db->pid = getpid();
    if (mkdir(db->path, 0700) != 0 && errno != EEXIST)
        return zc__lmdb_refused(db, "the directory cannot be made");
    zc__lmdb_file(db, "/zoocache", name, sizeof name);
    db->control = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (db->control < 0) return zc__lmdb_refused(db, "path/zoocache cannot be opened");
    do locked = flock(db->control, LOCK_EX);
    while (locked != 0 && errno == EINTR);
    if (locked == 0) rc = zc__lmdb_register(db, &alone);
    if (rc == ZC_OK) rc = zc__lmdb_check_boot(db);
    if (rc == ZC_OK && alone) rc = zc__lmdb_check_file(db);
    if (rc == ZC_OK && alone) rc = zc__lmdb_reserve_lock_file(db);
    if (rc == ZC_OK) rc = zc__lmdb_open_env(db, alone);
    if (rc == ZC_OK) (void)flock(db->control, LOCK_UN);
    else zc__lmdb_close_env(db);
    return rc;
}

static bool zc__lmdb_locks(zc__lmdb *db) {
    for (size_t i = 0; i < ZC__LMDB_SLOTS; i++) ZC__SET_RANK(&db->slot[i].lock, ZC__RANK_SLOT);
    ZC__SET_RANK(&db->notes, ZC__RANK_LEAF);
    if (!zc__monitor_init(&db->wake, ZC__RANK_WAKE)) return false;
    if (zc__timed_init(&db->gate, ZC__RANK_GATE)) return true;
    zc__monitor_destroy(&db->wake);
    return false;
}

/* The first of the two hooks that comes here opens the environment again; the parent's is left
 * open, unused: its slots of readers and its locks are the parent's. */
static void zc__lmdb_forked(void *user) {
    zc__lmdb *db = (zc__lmdb *)user;
    if (db->pid == getpid()) return;
    memset(db->slot, 0, sizeof db->slot);
    memset(&db->notes, 0, sizeof db->notes);
    memset(db->note, 0, sizeof db->note);
    db->wakes = 0;
    zc__lines_init(&db->lines, db->lines.log); /* what the parent has to say, it says */
    db->known_txn = db->tail = 0;
    db->env = NULL;
    if (db->control >= 0) close(db->control);
    if (!zc__lmdb_locks(db)) return;
    (void)zc__lmdb_start(db);
}

static void zc__lmdb_report(void *user) { zc__lines_report(&((zc__lmdb *)user)->lines); }

static void zc__lmdb_destroy(zc__lmdb *db, bool locks) {
    zc__mem mem = db->mem;
    zc__lmdb_report(db);
    if (locks) zc__monitor_destroy(&db->wake);
    if (locks) zc__timed_destroy(&db->gate);
    zc__free(&mem, db, sizeof *db);
}

static void zc__lmdb_close(void *user) {
    zc__lmdb *db = (zc__lmdb *)user;
    if (zc__atomic_sub_acqrel(&db->refs, 1u) != 1) return;
    if (db->pid == getpid()) {
        if (zc__lmdb_usable(db) && zc__lmdb_has_work(db))
            (void)zc__lmdb_write(db, zc__lmdb_maintain_all, NULL);
        zc__lmdb_close_env(db);
    }
    zc__lmdb_destroy(db, true);
}

static void zc__lmdb_tables(zc__lmdb *db, zc_store *store, zc_bus *bus) {
    const zc_store s = {1, zc__lmdb_store_get, zc__lmdb_store_put, zc__lmdb_store_put_parts,
                        zc__lmdb_store_del, zc__lmdb_store_touch, zc__lmdb_store_clear, NULL, NULL,
                        NULL, zc__lmdb_store_get_many, zc__lmdb_store_lock, zc__lmdb_store_unlock,
                        zc__lmdb_report, zc__lmdb_forked, zc__lmdb_close, db};
    const zc_bus b = {1, zc__lmdb_bus_attach, zc__lmdb_bus_read, zc__lmdb_bus_append,
                      zc__lmdb_bus_versions, zc__lmdb_bus_peek, zc__lmdb_bus_beat,
                      zc__lmdb_bus_wake, zc__lmdb_report, zc__lmdb_forked, zc__lmdb_close, db, 0,
                      NULL, NULL, zc__lmdb_bus_hold, zc__lmdb_bus_holds};
    *store = s;
    *bus = b;
}

ZOOCACHE_API int zc_lmdb_open(const zc_lmdb_desc *desc, zc_store *store, zc_bus *bus) {
    if (zc__tables_begin(store, bus) != 2 || !desc || !desc->path || !desc->path[0])
        return ZC_E_INVAL;
    size_t len = strlen(desc->path);
    if (len + 16 > ZC__LMDB_PATH) return ZC_E_INVAL;
    if (desc->map_size && desc->map_size < ZC__LMDB_MAP_MIN) return ZC_E_INVAL;
    zc__mem mem = zc__mem_by(&desc->allocator);
    zc__lmdb *db = (zc__lmdb *)zc__alloc_zero(&mem, sizeof *db);
    if (!db) return ZC_E_NOMEM;
    db->mem = mem;
    db->clock = desc->clock;
    zc__lines_init(&db->lines, desc->log);
    db->sync = desc->sync;
    db->max_entries = desc->max_entries ? desc->max_entries : SIZE_MAX;
    db->map_size = desc->map_size ? desc->map_size : ZC__LMDB_MAP;
    db->map_size -= db->map_size % 65536; /* whole pages */
    db->path_len = len;
    memcpy(db->path, desc->path, len + 1);
    db->refs = 2;
    bool locks = zc__lmdb_locks(db);
    int rc = locks ? zc__lmdb_start(db) : ZC_E_THREAD;
    if (rc == ZC_OK) zc__lmdb_tables(db, store, bus);
    else zc__lmdb_destroy(db, locks);
    return rc;
}
#endif /* ZOOCACHE_WITH_LMDB */

#ifdef ZOOCACHE_WITH_REDIS
/* ============================================================================================
 * >>redis   Redis as storage and bus
 *   Idea        The storage is plain keys with an expiry. The bus is one stream with dense ids,
 *               which is read with a proof that nothing was missed.
 *   Keys        all of a shard in one hash slot: "{prefix}:", from the second on "{prefix:<i>}:",
 *               and then
 *                 <era>:<key>   a record (string, PX). <era>: 16 hex digits
 *                 era           the present one; clearing puts another one there, in O(1), and the
 *                               records of the old end by their expiry, max_ttl at the latest
 *                 lock:<key>    a fleet lock: the holder's token (string, PX)
 *                 log           the stream. Ids <gen>-<position>; entry 0 is the genesis. The low 4
 *                               bits of the first shard's <gen>: the number of shards, less 1.
 *                               Fields: n nonce <node>.<count>, h wall clock in ms, t the tags,
 *                               each a length (2 bytes, little-endian) and its bytes; none:
 *                               everything
 *                 tags, tags2   hashes, tag -> position of the last entry that named it; "" stands
 *                               for everything. Fields of ours begin with NUL: "\0g" the gen, "\0n"
 *                               the newest position, "\0f" the floor (of tags in neither hash),
 *                               "\0s" the position when `tags` was begun. When `tags` is full it
 *                               becomes tags2, and the tags2 before it is forgotten: the floor is
 *                               then its "\0s", in O(1)
 *                 holds         of the first shard. A hash, id in hex -> tags, as in log
 *                 run           where INFO is refused: the digest of a script that was loaded in
 *                               this run of the server
 *                 fence         written by whoever needs to know that it asks the true master
 *                 nodes         sorted set: node -> wall clock in ms of its last beat
 *                 node:<id>     what the node tells about itself (string, PX 5 s)
 *                 inspect:<id>  list: a monitor pushes a token of its own, and the node answers
 *                               within a beat: the text is pushed to the list reply:<token>
 *   Storage     A hit is one command, MGET era record: so a node learns that another has cleared
 *               without a second round trip. Every write carries GET era and is done again if that
 *               was not ours.
 *   Bus         attach   one script: the log's generation and last entry, or a new log if there is
 *                        none, or if its hashes or its last entry are gone, or the newest
 *                        position is no position or not that entry's. Identity: a hash of the
 *                        generation, a random number, and of the server's run id
 *               append   one script (entry, positions) and XRANGE from the cursor, in one
 *                        pipeline. ZC_OK only if the entry itself came back
 *               read     XREAD BLOCK, to wait, the newest position, and XRANGE from the cursor,
 *                        in one pipeline. ZC_OK only if the entry at the cursor has the nonce that
 *                        was seen there, the next has the next id, the newest was among them, the
 *                        connection's run id is the attached one, the fence was taken, and the
 *                        reply was not full
 *               versions both hashes in one MULTI
 *   Waking      A read that waits can be woken, for what is to be sent, or for a proof now. Its
 *               replies stay pending, in a connection that stays. Until they have come,
 *               as any entry makes them, reads that do not wait go over the pool, or by a new
 *               connection if writers have all; the next that does takes these replies first, and
 *               does not look at them.
 *   Shards      Each is a storage and a log by itself, a zc__redis with connections of its own; the
 *               first stands for all. >>bus makes one order of their logs, and a record is in the
 *               shard that its key's hash names. An entry of several tags is atomic within a shard.
 *               Waiting is left to one more connection a shard, for wake-ups: its XREAD BLOCK says
 *               when to read, and what it answers is not looked at. Proofs come from reads alone.
 *   Invariants  R1 an entry given as read is the next one, or the answer is ZC_RETRY
 *               R2 a position told by `versions` is never below the true one
 *               R3 a connection that failed in any way is closed: replies never shift
 *   Time-outs   A call has one deadline, desc.timeout, whatever it consists of: queueing for
 *               a connection, connecting, being sent again, several shards. For the server's
 *               answer it waits 16 times the smoothed latency, at least a quarter of that, but for
 *               a request of more than 64 KiB. Each time-out doubles the estimate. Who has had to
 *               queue for too long says ZC_E_BUSY, and nothing of the server; likewise a
 *               zc_poll() without the time: then connecting goes on in the next, and a request is
 *               given up, with its connection, after 8 times the latency and 5 ms. A dropped
 *               connection is replaced once, after a random pause of up to 2 ms; one that cannot be
 *               made is not tried again for a time that grows from 20 ms to a second. Looking up a
 *               host's name takes what the system takes.
 *   Run         A server's run id is what INFO says. Where the user may not run INFO (+@all
 *               -@dangerous), a mark takes its place, from Redis 7 on: a script with a random text,
 *               whose digest is in the key `run`. Scripts are neither written to disk nor sent to
 *               replicas there, so a server that has it is in the run in which it was loaded; one
 *               that has not gets another mark. SCRIPT FLUSH, or losing the key, costs a flush.
 *   Permissions of the user, in full: keys ~{prefix}:*, ~{prefix:*}:* with several shards, and
 *               +get +mget +set +del +unlink +pexpire +xadd +xread +xrange +xrevrange +xinfo|stream
 *               +hget +hset +hdel +hgetall +hmget +hlen +rename +multi +exec +eval +evalsha
 *               +script|load +script|exists +zadd +zremrangebyscore +lrange +ltrim +rpush; +select
 *               with a database; with replicas +info +wait; ZC_DURABLE without: +waitaof or
 *               +config|get; in a cluster +asking. +info is no loss: it saves round trips when
 *               connecting.
 *   Protocol    RESP3 where hiredis (1.0) and the server (6) have it, else RESP2. HELLO is the last
 *               of the handshake's commands, so that an older server's refusal costs nothing
 *   TLS         OpenSSL over the socket of hiredis; its handshake has the deadline of ours
 *   Not done    Slots of a cluster but one a shard; Sentinels with a password of their own, or over
 *               TLS. ZC_DURABLE without replicas asks for appendfsync always or WAITAOF.
 *   Locking     pool (monitor; never held during I/O), a waiter's monitor; state (spin; a few
 *               instructions). A slot of the pool belongs to who took it.
 *   Cost        get, put, del, touch, lock, append, versions: one round trip each; append and
 *               versions: for each shard concerned, read: for each shard
 * ========================================================================================== */

#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#ifdef ZOOCACHE_WITH_REDIS_TLS
#  include <openssl/err.h>
#  include <openssl/ssl.h>
#  include <openssl/x509v3.h>
#endif

/* Types of replies that only RESP3 has; -1: none is of that type. */
#if HIREDIS_MAJOR >= 1
enum { ZC__REDIS_MAP = REDIS_REPLY_MAP, ZC__REDIS_PUSH = REDIS_REPLY_PUSH };
enum { ZC__REDIS_VERBATIM = REDIS_REPLY_VERB };
#else
enum { ZC__REDIS_MAP = -1, ZC__REDIS_PUSH = -1, ZC__REDIS_VERBATIM = -1 };
#endif

#define ZC__REDIS_PREFIX 72     /* bytes of "{prefix:<i>}:" at most, and a NUL */
#define ZC__REDIS_HOST 256      /* bytes of a host's name or a socket's path */
#define ZC__REDIS_SENTINELS 16
#define ZC__REDIS_CMDS 12       /* commands of one request */
#define ZC__REDIS_BATCH UINT64_C(1000) /* entries asked for at once */
#define ZC__REDIS_NONCES 256    /* nonces remembered; a power of two */
#define ZC__REDIS_BACKOFF (20 * ZC_MILLISECOND)
#define ZC__REDIS_WAKEUP 5000   /* ms that a wake-up connection waits for an entry */
#define ZC__REDIS_PAUSE (10 * ZC_MILLISECOND) /* between reads while there is none */
#define ZC__REDIS_REPLY_MAX ((size_t)512 << 20) /* bytes of a string of Redis */

/* What this section does with the outside, for a simulator to fill; times come from the clock. A
 * connection is used by one thread at a time, but for `wake`. Negative results are failures. */
typedef struct zc__redis_io {
    /* Connects within `timeout`; 0: does not wait for that, `reply` does. port 0: `host` is the
     * path of a unix socket. */
    int (*open)(void *user, const char *host, int port, bool tls, uint64_t timeout, void **conn);
    /* Puts one command, which is copied, behind those that wait to be sent. */
    int (*append)(void *user, void *conn, int argc, const char **argv, const size_t *argvlen);
    /* Sends what waits, then gives the next whole reply, to be freed with freeReplyObject().
     * ZC_E_TIMEOUT: not whole within `timeout`. After any failure the connection is only closed. */
    int (*reply)(void *user, void *conn, uint64_t timeout, redisReply **reply);
    /* From any thread: makes a `reply` that waits on this connection give ZC_MORE at once, after
     * which it may be called again for the same reply; a `wait`, ZC_E_TIMEOUT. (Or makes both fail,
     * and each later `reply`: then a wake costs a connection.) */
    void (*wake)(void *user, void *conn);
    /* `forked`: in the child of a fork, a thread that no longer exists may have been in the middle
     * of using it: let go of the descriptor alone. */
    void (*close)(void *user, void *conn, bool forked);
    void (*sleep)(uint64_t ns);
    uint64_t (*random)(void); /* 64 bits that no other process draws */
    /* Sends what waits on n connections, then gives the index of one from which `reply` would take
     * something, if only an error. ZC_E_TIMEOUT: none within `timeout`. */
    int (*wait)(void *user, void *const *conns, unsigned n, uint64_t timeout);
    void *user;
} zc__redis_io;

typedef struct zc__redis_addr {
    char host[ZC__REDIS_HOST];
    int port; /* 0: a unix socket */
} zc__redis_addr;

typedef enum zc__redis_script {
    ZC__GENESIS,
    ZC__APPEND,
    ZC__RELOCK,
    ZC__REDIS_SCRIPTS,
    ZC__NO_SCRIPT
} zc__redis_script;

typedef struct zc__redis_conn {
    void *link;    /* of the io; NULL: closed */
    uint64_t run;  /* hash of the server's run id; 0: not told */
    bool taken;    /* by a caller; the pool's monitor, but for the reader's */
    bool master, fenced; /* as the server said: it is one; it has min-replicas-to-write */
    bool asking;         /* at a node that only a redirection has named */
    unsigned pending;       /* replies still to come of a request that was given up, */
    uint64_t pending_until; /*   and until when */
    struct zc__redis_req *greeting; /* what was sent first; NULL: it has been answered */
    char sha[ZC__REDIS_SCRIPTS][41]; /* "": not loaded, send the text */
} zc__redis_conn;

/* What the bus is attached to. */
typedef struct zc__redis_log {
    uint64_t gen, run, replid; /* gen 0: nothing; replid: see zc__req_replid() */
} zc__redis_log;

typedef struct zc__redis_waiter {
    struct zc__redis_waiter *next;
    zc__redis_conn *conn; /* that it was given [monitor] */
    zc__monitor monitor;
} zc__redis_waiter;

typedef struct zc__redis {
    zc__mem mem;
    zc_clock clock;
    zc__lines lines;
    zc__redis_io io;
    uint64_t timeout, log_length, max_tags, max_ttl;
    unsigned replicas;
    uint32_t refs; /* tables that are open; atomic */
    /* Of the URL. */
    char *text; /* a copy of it, cut in pieces */
    size_t text_size;
    const char *user, *password, *master; /* NULL: none. master: what the Sentinels call it */
    uint32_t db;
    bool tls;
    zc__redis_addr addrs[ZC__REDIS_SENTINELS]; /* the server, or the Sentinels */
    unsigned naddrs;
    char prefix[ZC__REDIS_PREFIX]; /* "{prefix}:" */
    size_t prefix_len;
    /* Shared; pool. */
    zc__monitor pool;
    zc__redis_waiter *queue; /* for a connection: who came first, and so on */
    zc__redis_addr moved; /* where a cluster has sent us; host "": nowhere */
    uint64_t down_until;  /* no connecting before */
    unsigned fails;       /* to connect, in a row */
    unsigned nconns;
    zc__redis_conn *conns;
    zc_shared64 latency;  /* smoothed, ns; 0: unknown */
    zc_shared64 era;
    zc_shared64 count; /* of nonces */
    uint64_t node;     /* who we are: random */
    /* Of the bus; state. */
    zc__spin state;
    zc__redis_conn reader;
    zc__redis_log attached;
    void *blocked; /* the link on which the reader waits, to be woken; NULL: it does not wait */
    bool woken;    /* the next read does not wait */
    uint64_t nonces[ZC__REDIS_NONCES];   /* of the entries that were read last, */
    uint64_t nonce_at[ZC__REDIS_NONCES]; /*   and their positions + 1; 0: none */
    /* Several shards. */
    void *shards[ZC_LOGS_MAX]; /* of the first: all of them, itself included */
    unsigned nshards, shard;   /* shard: which one this is */
    zc__redis_conn wakeup;
    uint64_t wakeup_gen;   /* the log that it was asked of; */
    uint64_t wakeup_until; /*   when the answer must be there, 0: it was not asked */
    int wake_pipe[2];                  /* of the default io: a pipe, whose other end wakes */
#ifdef ZOOCACHE_WITH_REDIS_TLS
    SSL_CTX *tls_ctx; /* NULL: no TLS */
    BIO_METHOD *tls_bio;
#endif
} zc__redis;

/* ---- scripts */

/* KEYS log tags tags2, ARGV gen nonce ms. The last entry of a log that is whole, or a new one's. An
 * error that says nothing about the log (NOPERM) is returned. */
static const char zc__redis_lua_genesis[] =
    "local bad "
    "local function failed(x)"
    " if type(x) ~= 'table' or not x.err then return false end"
    " if not x.err:find('WRONGTYPE') and not x.err:find('no such key') then bad = x end"
    " return true "
    "end "
    "local function whole()"
    " local info = redis.pcall('XINFO', 'STREAM', KEYS[1])"
    " if failed(info) then return end"
    " local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]"
    " if not last then return end"
    " for i = 1, #info, 2 do"
    "  if info[i] == 'last-generated-id' and info[i + 1] ~= last[1] then return end"
    " end"
    " local g = redis.pcall('HGET', KEYS[2], '\\0g')"
    " if failed(g) or type(g) ~= 'string' or last[1]:sub(1, #g + 1) ~= g .. '-' then return end"
    " local seq = last[1]:sub(#g + 2)"
    " if seq ~= redis.call('HGET', KEYS[2], '\\0n') or tonumber(seq) > 2^47 then return end"
    " return last "
    "end "
    "local last = whole() "
    "if last or bad then return last or bad end "
    "redis.call('DEL', KEYS[1], KEYS[2], KEYS[3]) "
    "redis.call('XADD', KEYS[1], ARGV[1] .. '-0', 'n', ARGV[2], 'h', ARGV[3], 't', '') "
    "redis.call('HSET', KEYS[2], '\\0g', ARGV[1], '\\0n', '0', '\\0f', '0', '\\0s', '0') "
    "return {ARGV[1] .. '-0', {'n', ARGV[2]}}";

/* KEYS log tags tags2, ARGV gen nonce ms packed log_length max_tags tag... The entry's position, or
 * 0: another log. */
static const char zc__redis_lua_append[] =
    "local g = ARGV[1] "
    "if redis.call('HGET', KEYS[2], '\\0g') ~= g then return 0 end "
    "local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1] "
    "if not last or last[1]:sub(1, #g + 1) ~= g .. '-' then return 0 end "
    "local seq = string.format('%.0f', tonumber(last[1]:sub(#g + 2)) + 1) "
    "redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[5], g .. '-' .. seq,"
    " 'n', ARGV[2], 'h', ARGV[3], 't', ARGV[4]) "
    "redis.call('HSET', KEYS[2], '\\0n', seq) "
    "if #ARGV < 7 then redis.call('HSET', KEYS[2], '', seq) end "
    "for i = 7, #ARGV, 500 do"
    " local set = {}"
    " for j = i, math.min(i + 499, #ARGV) do"
    "  set[#set + 1] = ARGV[j]"
    "  set[#set + 1] = seq"
    " end"
    " redis.call('HSET', KEYS[2], unpack(set)) "
    "end "
    "if redis.call('HLEN', KEYS[2]) > tonumber(ARGV[6]) then"
    " local all = redis.call('HGET', KEYS[2], '')"
    " local floor = redis.call('HGET', KEYS[2], '\\0s')"
    " redis.call('DEL', KEYS[3])"
    " redis.call('RENAME', KEYS[2], KEYS[3])"
    " redis.call('HSET', KEYS[2], '\\0g', g, '\\0n', seq, '\\0f', floor, '\\0s', seq)"
    " if all then redis.call('HSET', KEYS[2], '', all) end "
    "end "
    "return seq";

/* KEYS lock, ARGV token ms; 0: unlocks. Gives 0 if the lock is not ours. */
static const char zc__redis_lua_relock[] =
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end "
    "if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end "
    "return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

static const char *zc__redis_script_text(zc__redis_script s) {
    static const char *const texts[] = {zc__redis_lua_genesis, zc__redis_lua_append,
                                        zc__redis_lua_relock};
    return texts[s];
}

/* ---- texts */

static void zc__redis_hex(char *to, uint64_t v) {
    zc__text t = {to, 16, 0};
    zc__text_hex(&t, v, 16);
}

static bool zc__redis_is(const redisReply *reply, int type) { return reply && reply->type == type; }
static bool zc__redis_starts(const redisReply *reply, const char *s) {
    size_t n = strlen(s);
    return reply->len >= n && memcmp(reply->str, s, n) == 0;
}
/* A string that is there. */
static bool zc__redis_string(const redisReply *reply) {
    return (zc__redis_is(reply, REDIS_REPLY_STRING) || zc__redis_is(reply, ZC__REDIS_VERBATIM)) &&
           reply->str;
}

static bool zc__redis_number(const redisReply *reply, uint64_t *v) {
    return zc__redis_string(reply) && zc__digits(reply->str, reply->len, 10, v);
}
/* 16 hex digits. */
static bool zc__redis_unhex(const redisReply *reply, uint64_t *v) {
    return zc__redis_string(reply) && reply->len == 16 && zc__digits(reply->str, 16, 16, v);
}

/* An array of so many. */
static bool zc__redis_array(const redisReply *reply, size_t n) {
    return zc__redis_is(reply, REDIS_REPLY_ARRAY) && reply->elements == n;
}
/* -1: it is none. */
static long long zc__redis_integer(const redisReply *reply) {
    return zc__redis_is(reply, REDIS_REPLY_INTEGER) ? reply->integer : -1;
}
static bool zc__redis_same(zc_bytes a, const char *b) {
    return a.len == strlen(b) && memcmp(a.ptr, b, a.len) == 0;
}
/* A script's digest; "": it is none. */
static void zc__redis_digest(const redisReply *reply, char sha[41]) {
    bool good = zc__redis_string(reply) && reply->len == 40;
    memcpy(sha, good ? reply->str : "", good ? 41 : 1);
}

/* The value of `name` where names and values stand by turns, in an array or a map; "": none. */
static zc_bytes zc__redis_value(const redisReply *all, const char *name) {
    bool pairs = zc__redis_is(all, REDIS_REPLY_ARRAY) || zc__redis_is(all, ZC__REDIS_MAP);
    for (size_t i = 0; pairs && i + 1 < all->elements; i += 2) {
        const redisReply *key = all->element[i], *value = all->element[i + 1];
        if (zc__redis_string(key) && zc__redis_string(value) &&
            zc__redis_same(zc_slice(key->str, key->len), name))
            return zc_slice(value->str, value->len);
    }
    return zc_slice("", 0);
}

/* The value of a line "name:value" of what INFO says; "": none. */
static zc_bytes zc__redis_info(const redisReply *info, const char *name) {
    size_t n = strlen(name);
    const char *line = zc__redis_string(info) ? info->str : NULL;
    for (; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, n) == 0 && line[n] == ':')
            return zc_slice(line + n + 1, strcspn(line + n + 1, "\r\n"));
    }
    return zc_slice("", 0);
}

/* Does an error begin so? Before Redis 7 that of a command in a script stands behind another. */
static bool zc__redis_says(const redisReply *e, const char *code) {
    return zc__redis_starts(e, code) ||
           (zc__redis_starts(e, "ERR Error running script") && strstr(e->str, code));
}

/* What an error of the server means for the caller. */
static int zc__redis_error(const redisReply *reply) {
    if (!zc__redis_is(reply, REDIS_REPLY_ERROR)) return ZC_OK;
    return zc__redis_says(reply, "OOM ") ? ZC_E_FULL : ZC_E_STORE;
}

/* ---- the default io: hiredis connects, formats and parses; waiting is our own, so that a deadline
 * holds for a whole reply, however slowly it trickles, and a vanished peer raises no SIGPIPE. */

typedef struct zc__redis_link {
    redisContext *ctx;
    zc__buf out;
    size_t sent;       /* bytes of `out` */
    uint64_t recv_timeout; /* the socket's own time-out for reading */
#ifdef ZOOCACHE_WITH_REDIS_TLS
    SSL *ssl; /* NULL: no TLS */
#endif
} zc__redis_link;

static struct timeval zc__redis_timeval(uint64_t ns) {
    struct timeval t;
    t.tv_sec = (time_t)(ns / ZC_SECOND);
    t.tv_usec = (suseconds_t)(ns % ZC_SECOND / 1000);
    if (t.tv_sec == 0 && t.tv_usec == 0) t.tv_usec = 1; /* 0 would be for ever */
    return t;
}

static void zc__redis_io_close(void *user, void *conn, bool forked) {
    zc__redis *r = (zc__redis *)user;
    zc__redis_link *l = (zc__redis_link *)conn;
    if (forked) {
        close(l->ctx->fd);
        return;
    }
#ifdef ZOOCACHE_WITH_REDIS_TLS
    SSL_free(l->ssl);
#endif
    if (l->ctx) redisFree(l->ctx);
    zc__buf_free(&r->mem, &l->out);
    zc__free(&r->mem, l, sizeof *l);
}

#ifdef ZOOCACHE_WITH_REDIS_TLS
/* OpenSSL's own way to a socket would raise SIGPIPE, and block. */
static int zc__redis_bio_read(BIO *bio, char *to, int n) {
    ssize_t got = recv((int)(intptr_t)BIO_get_data(bio), to, (size_t)n, MSG_DONTWAIT);
    BIO_clear_retry_flags(bio);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_read(bio);
    return (int)got;
}
static int zc__redis_bio_write(BIO *bio, const char *from, int n) {
    int fd = (int)(intptr_t)BIO_get_data(bio);
    ssize_t sent = send(fd, from, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
    BIO_clear_retry_flags(bio);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_write(bio);
    return (int)sent;
}
static long zc__redis_bio_ctrl(BIO *bio, int cmd, long number, void *ptr) {
    (void)bio, (void)number, (void)ptr;
    return cmd == BIO_CTRL_FLUSH;
}

/* The certificate must be of this host: an address or a name. */
static bool zc__redis_tls_expect(SSL *ssl, const char *host) {
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host)) return true;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, host) && SSL_set_tlsext_host_name(ssl, host);
}

/* The first write or read will shake hands. */
static bool zc__redis_io_secure(zc__redis *r, zc__redis_link *l, const char *host) {
    BIO *bio = BIO_new(r->tls_bio);
    l->ssl = SSL_new(r->tls_ctx);
    if (!bio || !l->ssl || !zc__redis_tls_expect(l->ssl, host)) {
        BIO_free(bio);
        return false;
    }
    BIO_set_data(bio, (void *)(intptr_t)l->ctx->fd);
    BIO_set_init(bio, 1);
    SSL_set_bio(l->ssl, bio, bio);
    SSL_set_connect_state(l->ssl);
    return true;
}

/* May what has not succeeded, later? Leaves nothing in the thread's queue of errors. */
static bool zc__redis_tls_again(SSL *ssl) {
    int e = SSL_get_error(ssl, 0);
    ERR_clear_error();
    return e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE;
}

/* Everything, or nothing yet: it is called again with the same. */
static ssize_t zc__redis_tls_write(SSL *ssl, const void *from, size_t n) {
    size_t done = 0;
    ERR_clear_error();
    if (SSL_write_ex(ssl, from, n, &done)) return (ssize_t)done;
    return zc__redis_tls_again(ssl) ? 0 : -1;
}

/* All that was decrypted, because poll() does not know of it. */
static bool zc__redis_tls_read(SSL *ssl, redisReader *to) {
    char bytes[4096];
    size_t n;
    do {
        ERR_clear_error();
        if (!SSL_read_ex(ssl, bytes, sizeof bytes, &n)) return zc__redis_tls_again(ssl);
        if (redisReaderFeed(to, bytes, n) != REDIS_OK) return false;
    } while (SSL_pending(ssl));
    return true;
}
#endif

static int zc__redis_io_open(void *user, const char *host, int port, bool tls, uint64_t timeout,
                             void **conn) {
    zc__redis *r = (zc__redis *)user;
    struct timeval t = zc__redis_timeval(timeout);
    zc__redis_link *l = (zc__redis_link *)zc__alloc_zero(&r->mem, sizeof *l);
    if (!l) return ZC_E_NOMEM;
    uint64_t begin = zc__mono(&r->clock);
    if (timeout)
        l->ctx = port ? redisConnectWithTimeout(host, port, t)
                      : redisConnectUnixWithTimeout(host, t);
    else l->ctx = port ? redisConnectNonBlock(host, port) : redisConnectUnixNonBlock(host);
    int rc = !l->ctx ? ZC_E_NOMEM : l->ctx->err ? ZC_E_STORE : ZC_OK;
    if (rc == ZC_E_STORE && timeout && zc__mono(&r->clock) - begin >= timeout) rc = ZC_E_TIMEOUT;
#ifdef ZOOCACHE_WITH_REDIS_TLS
    if (rc == ZC_OK && tls && !zc__redis_io_secure(r, l, host)) rc = ZC_E_NOMEM;
#else
    (void)tls;
#endif
    if (rc == ZC_OK) {
        (void)fcntl(l->ctx->fd, F_SETFD, FD_CLOEXEC);
        l->ctx->flags &= ~REDIS_BLOCK; /* hiredis: a read that times out is no error */
    }
    if (rc == ZC_OK) *conn = l;
    else zc__redis_io_close(user, l, false);
    return rc;
}

static int zc__redis_io_append(void *user, void *conn, int argc, const char **argv,
                               const size_t *argvlen) {
    zc__redis *r = (zc__redis *)user;
    zc__redis_link *l = (zc__redis_link *)conn;
    char *cmd = NULL;
    long long len = redisFormatCommandArgv(&cmd, argc, argv, argvlen);
    if (len < 0) return ZC_E_NOMEM;
    bool room = zc__buf_reserve(&r->mem, &l->out, (size_t)len);
    if (room) {
        memcpy(l->out.ptr + l->out.size, cmd, (size_t)len);
        l->out.size += (size_t)len;
    }
    redisFreeCommand(cmd);
    return room ? ZC_OK : ZC_E_NOMEM;
}

/* How many bytes the socket takes now; -1: it is broken. */
static ssize_t zc__redis_io_write(zc__redis_link *l, const void *from, size_t n) {
#ifdef ZOOCACHE_WITH_REDIS_TLS
    if (l->ssl) return zc__redis_tls_write(l->ssl, from, n);
#endif
    ssize_t sent = send(l->ctx->fd, from, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : sent;
}

static int zc__redis_io_send(zc__redis_link *l) {
    ssize_t n = zc__redis_io_write(l, l->out.ptr + l->sent, l->out.size - l->sent);
    if (n < 0) return ZC_E_STORE;
    l->sent += (size_t)n;
    if (l->sent == l->out.size) l->out.size = l->sent = 0;
    return ZC_OK;
}

static bool zc__redis_io_read(zc__redis_link *l) {
#ifdef ZOOCACHE_WITH_REDIS_TLS
    if (l->ssl) return zc__redis_tls_read(l->ssl, l->ctx->reader);
#endif
    return redisBufferRead(l->ctx) == REDIS_OK;
}

static int zc__redis_io_recv(zc__redis_link *l) {
    if (!zc__redis_io_read(l)) return ZC_E_STORE;
    return l->ctx->reader->len > ZC__REDIS_REPLY_MAX ? ZC_E_CORRUPT : ZC_OK;
}

/* Is it for the socket's room that we wait, too? Not while the other end must shake hands first. */
static bool zc__redis_io_writes(const zc__redis_link *l) {
#ifdef ZOOCACHE_WITH_REDIS_TLS
    if (l->ssl && SSL_in_init(l->ssl)) return SSL_want_write(l->ssl);
#endif
    return l->out.size != 0;
}

static int zc__redis_io_poll(struct pollfd *p, nfds_t n, uint64_t left) {
    uint64_t ms = left / ZC_MILLISECOND + (left % ZC_MILLISECOND != 0);
    return poll(p, n, ms > 3600000 ? 3600000 : (int)ms);
}

/* Waits until the socket has something to read, or takes something to write, then does that.
 * `wake_fd`: -1, or what ends the waiting, too: ZC_MORE. */
static int zc__redis_io_pump(zc__redis_link *l, int wake_fd, uint64_t left) {
    struct pollfd p[2];
    char bytes[64];
    p[0].fd = l->ctx->fd;
    p[0].events = (short)(zc__redis_io_writes(l) ? POLLIN | POLLOUT : POLLIN);
    p[1].fd = wake_fd;
    p[1].events = POLLIN;
    p[0].revents = p[1].revents = 0;
    int n = zc__redis_io_poll(p, 2, left);
    if (n == 0) return ZC_E_TIMEOUT;
    if (n < 0) return errno == EINTR ? ZC_OK : ZC_E_STORE;
    if (p[0].revents & POLLOUT) return zc__redis_io_send(l);
    if (p[0].revents) return zc__redis_io_recv(l);
    return read(wake_fd, bytes, sizeof bytes) > 0 ? ZC_MORE : ZC_OK;
}

/* The wake_fd of who waits on this connection and may be woken; else -1. */
static int zc__redis_io_wake_fd(zc__redis *r, const zc__redis_link *l) {
    zc__spin_lock(&r->state);
    int wake_fd = r->blocked == l ? r->wake_pipe[0] : -1;
    zc__spin_unlock(&r->state);
    return wake_fd;
}

/* The usual case, a small request and a small reply: waits in the read itself, which saves a call
 * of the system. Its time-out is set anew only when it is no longer about right; the system's ticks
 * make it up to 10 ms longer. Under TLS one read is several of the socket, and must not wait. */
static int zc__redis_io_await(zc__redis_link *l, int wake_fd, uint64_t left) {
    if (wake_fd >= 0 || left < 50 * ZC_MILLISECOND) return zc__redis_io_pump(l, wake_fd, left);
#ifdef ZOOCACHE_WITH_REDIS_TLS
    if (l->ssl) return zc__redis_io_pump(l, wake_fd, left);
#endif
    uint64_t off = left > l->recv_timeout ? left - l->recv_timeout : l->recv_timeout - left;
    if (off > left / 16) {
        struct timeval t = zc__redis_timeval(left);
        if (setsockopt(l->ctx->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) != 0) return ZC_E_STORE;
        l->recv_timeout = left;
    }
    return zc__redis_io_recv(l);
}

static int zc__redis_io_reply(void *user, void *conn, uint64_t timeout, redisReply **reply) {
    zc__redis *r = (zc__redis *)user;
    zc__redis_link *l = (zc__redis_link *)conn;
    uint64_t deadline = 0;
    int rc = l->out.size ? zc__redis_io_send(l) : ZC_OK, wake_fd = -1;
    while (rc == ZC_OK) {
        void *got = NULL;
        if (redisReaderGetReply(l->ctx->reader, &got) != REDIS_OK) return ZC_E_CORRUPT;
        if (got && zc__redis_is((redisReply *)got, ZC__REDIS_PUSH)) { /* nobody asked for it */
            freeReplyObject(got);
            continue;
        }
        *reply = (redisReply *)got;
        if (got) return ZC_OK;
        uint64_t now = zc__mono(&r->clock);
        bool first = !deadline;
        if (first) deadline = zc__add_sat(now, timeout);
        if (first) wake_fd = zc__redis_io_wake_fd(r, l);
        if (now >= deadline && !first) return ZC_E_TIMEOUT;
        rc = first && !l->out.size ? zc__redis_io_await(l, wake_fd, deadline - now)
                                   : zc__redis_io_pump(l, wake_fd, deadline - now);
    }
    return rc;
}

static int zc__redis_io_wait(void *user, void *const *conns, unsigned n, uint64_t timeout) {
    const zc__redis *r = (const zc__redis *)user;
    struct pollfd p[ZC_LOGS_MAX + 1];
    char bytes[64];
    for (unsigned i = 0; i <= n; i++) {
        zc__redis_link *l = i < n ? (zc__redis_link *)conns[i] : NULL;
        if (l && l->out.size && zc__redis_io_send(l) != ZC_OK) return (int)i;
        p[i].fd = l ? l->ctx->fd : r->wake_pipe[0];
        p[i].events = POLLIN;
        p[i].revents = 0;
    }
    (void)zc__redis_io_poll(p, n + 1, timeout);
    if (p[n].revents && read(r->wake_pipe[0], bytes, sizeof bytes) > 0) return ZC_E_TIMEOUT;
    for (unsigned i = 0; i < n; i++)
        if (p[i].revents) return (int)i;
    return ZC_E_TIMEOUT;
}

static void zc__redis_io_wake(void *user, void *conn) {
    const zc__redis *r = (const zc__redis *)user;
    (void)conn;
    (void)!write(r->wake_pipe[1], "", 1); /* if it is full, that will do */
}

static void zc__redis_pipe_close(zc__redis *r) {
    for (unsigned i = 0; i < 2; i++)
        if (r->wake_pipe[i] >= 0) close(r->wake_pipe[i]);
    r->wake_pipe[0] = r->wake_pipe[1] = -1;
}

/* False: there are no more descriptors, and nobody can be woken. */
static bool zc__redis_pipe_open(zc__redis *r) {
    if (pipe(r->wake_pipe) != 0) r->wake_pipe[0] = r->wake_pipe[1] = -1;
    for (unsigned i = 0; i < 2 && r->wake_pipe[i] >= 0; i++) {
        (void)fcntl(r->wake_pipe[i], F_SETFD, FD_CLOEXEC);
        (void)fcntl(r->wake_pipe[i], F_SETFL, O_NONBLOCK);
    }
    return r->wake_pipe[0] >= 0;
}

/* ---- requests: one pipeline, kept until it is answered, so that it can be sent again */

typedef struct zc__redis_req {
    zc__redis *r;
    uint64_t begin; /* of the call that it is part of */
    uint64_t until; /* beyond that the caller has no time */
    const char **argv; /* its words, */
    size_t *len;
    size_t argc, cap;
    char *text; /*   and what was made for them */
    size_t text_len, text_cap;
    size_t end[ZC__REDIS_CMDS]; /* of each command, in argv */
    unsigned ncmds;
    unsigned script_at; /* the command that is a script; its first two arguments come at sending */
    zc__redis_script script;
    bool at_once; /* it waits for no connection of the pool: ZC_E_BUSY */
    bool undo;   /* the last command is sent only if there is no answer in time */
    bool eval;   /* the server has forgotten the script: send its text */
    bool failed; /* out of memory */
    unsigned got; /* replies that have come */
    redisReply *reply[ZC__REDIS_CMDS];
    const char *argv_fixed[40];
    size_t len_fixed[40];
    char text_fixed[768];
} zc__redis_req;

static uint64_t zc__redis_now(const zc__redis *r) { return zc__mono(&r->clock); }

static void zc__req_init(zc__redis *r, zc__redis_req *q) {
    memset(q, 0, offsetof(zc__redis_req, argv_fixed));
    q->r = r;
    q->begin = zc__redis_now(r);
    q->until = zc__until;
    q->argv = q->argv_fixed;
    q->len = q->len_fixed;
    q->cap = sizeof q->argv_fixed / sizeof q->argv_fixed[0];
    q->text = q->text_fixed;
    q->text_cap = sizeof q->text_fixed;
    q->script = ZC__NO_SCRIPT;
}

static void zc__req_forget(zc__redis_req *q) {
    for (unsigned i = 0; i < q->ncmds; i++) {
        if (q->reply[i]) freeReplyObject(q->reply[i]);
        q->reply[i] = NULL;
    }
    q->got = 0;
}

#define ZC__REQ_WORD (sizeof(char *) + sizeof(size_t))

static void zc__req_free_room(zc__redis_req *q) {
    size_t size = q->cap * ZC__REQ_WORD + q->text_cap;
    if (q->argv != q->argv_fixed) zc__free(&q->r->mem, (void *)q->argv, size);
}
static void zc__req_free(zc__redis_req *q) {
    zc__req_forget(q);
    zc__req_free_room(q);
}

/* Makes room for n more bytes of text, or, with 0, for more words. The words that are in the text
 * move with it. */
static bool zc__req_grow(zc__redis_req *q, size_t n) {
    size_t cap = n ? q->cap : q->cap * 4, text_cap = n ? (q->text_cap + n) * 2 : q->text_cap;
    const char **argv = (const char **)zc__alloc(&q->r->mem, cap * ZC__REQ_WORD + text_cap);
    if (!argv) return false;
    size_t *len = (size_t *)(void *)(argv + cap);
    char *text = (char *)(len + cap);
    memcpy(len, q->len, q->argc * sizeof *len);
    memcpy(text, q->text, q->text_len);
    for (size_t i = 0; i < q->argc; i++) {
        uintptr_t at = (uintptr_t)q->argv[i] - (uintptr_t)q->text;
        argv[i] = at < q->text_cap ? text + at : q->argv[i];
    }
    zc__req_free_room(q);
    q->argv = argv;
    q->len = len;
    q->cap = cap;
    q->text = text;
    q->text_cap = text_cap;
    return true;
}

static void zc__req_put(zc__redis_req *q, const void *ptr, size_t n) {
    if (n > q->text_cap - q->text_len && !zc__req_grow(q, n)) q->failed = true;
    if (q->failed || n == 0) return;
    memcpy(q->text + q->text_len, ptr, n);
    q->text_len += n;
}

static void zc__req_arg(zc__redis_req *q, const void *ptr, size_t n) {
    if (q->failed) return;
    q->argv[q->argc] = ptr ? (const char *)ptr : "";
    q->len[q->argc++] = n;
    if (q->argc == q->cap && !zc__req_grow(q, 0)) q->failed = true; /* moves the text: afterwards */
}
/* A part of a word that is made: %u is a number, %x one as 16 hex digits, %b bytes. */
static void zc__req_part(zc__redis_req *q, char part, va_list *args) {
    char digits[20];
    zc__text t = {digits, sizeof digits, 0};
    if (part == 'b') {
        const void *ptr = va_arg(*args, const void *);
        zc__req_put(q, ptr, va_arg(*args, size_t));
        return;
    }
    uint64_t v = va_arg(*args, uint64_t);
    if (part == 'u') zc__text_num(&t, v, 1);
    else zc__redis_hex(digits, v);
    zc__req_put(q, digits, part == 'u' ? t.len : 16);
}

/* $ stands for the prefix of our keys, @ for NUL. */
static void zc__req_made(zc__redis_req *q, const char *word, size_t n, va_list *args) {
    size_t from = q->text_len;
    for (size_t i = 0; i < n; i++) {
        if (word[i] == '%') zc__req_part(q, word[++i], args);
        else if (word[i] == '$') zc__req_put(q, q->r->prefix, q->r->prefix_len);
        else zc__req_put(q, word[i] == '@' ? "" : word + i, 1);
    }
    size_t len = q->text_len - from;
    zc__req_put(q, "", 1); /* so that a command's name can be said */
    if (!q->failed) zc__req_arg(q, q->text + from, len);
}

/* Words of a command, each as it stands or made of `args`: uint64_t for a number; for bytes an
 * address and a size_t. A word that is %b and no more, or %s, a text, is not copied. */
static void zc__req_words(zc__redis_req *q, const char *words, va_list *args) {
    for (size_t n; *words; words += n + (words[n] == ' ')) {
        n = strcspn(words, " ");
        bool borrowed = n == 2 && words[0] == '%' && (words[1] == 's' || words[1] == 'b');
        if (!borrowed) {
            zc__req_made(q, words, n, args);
            continue;
        }
        const char *ptr = va_arg(*args, const char *);
        zc__req_arg(q, ptr, words[1] == 's' ? strlen(ptr) : va_arg(*args, size_t));
    }
}
static void zc__req_add(zc__redis_req *q, const char *words, ...) {
    va_list args;
    va_start(args, words);
    zc__req_words(q, words, &args);
    va_end(args);
}
static void zc__req_end(zc__redis_req *q) {
    ZC__ASSERT(q->ncmds < ZC__REDIS_CMDS);
    q->end[q->ncmds++] = q->argc;
}
/* A whole command, or the rest of one. */
static void zc__req_cmd(zc__redis_req *q, const char *words, ...) {
    va_list args;
    va_start(args, words);
    zc__req_words(q, words, &args);
    va_end(args);
    zc__req_end(q);
}
/* Begins a command that runs a script over `nkeys` keys, which follow. */
static void zc__req_script(zc__redis_req *q, zc__redis_script s, unsigned nkeys) {
    q->script = s;
    q->script_at = q->ncmds;
    zc__req_arg(q, "", 0);
    zc__req_arg(q, "", 0);
    zc__req_add(q, "%u", (uint64_t)nkeys);
}

/* ---- what is said. Of the URL only where it leads; of what AUTH is answered only the first word:
 * an error may repeat its command */

static void zc__redis_say(zc__redis *r, zc_log_level level, const char *what, zc_bytes detail) {
    char message[256];
    zc__text t = {message, sizeof message, 0};
    const char *from = (const char *)detail.ptr;
    bool port = !r->master && r->addrs[0].port;
    zc__text_with(&t, port ? "zoocache: redis: %:" : "zoocache: redis: %",
                  r->master ? r->master : r->addrs[0].host, NULL);
    if (port) zc__text_num(&t, (uint64_t)r->addrs[0].port, 1);
    zc__text_with(&t, detail.len ? ": %: " : ": %", what, NULL);
    for (size_t i = 0; i < detail.len; i++)
        zc__text_bytes(&t, from[i] < ' ' || from[i] > '~' ? "?" : from + i, 1);
    zc__text_end(&t);
    zc__lines_add(&r->lines, level, message);
}

static void zc__redis_unreachable(zc__redis *r, int rc) {
    const char *why = rc == ZC_E_TIMEOUT ? "no answer in time" : "refused, closed or not known";
    if (rc != ZC_OK) zc__redis_say(r, ZC_LOG_WARN, "cannot be reached", zc_str(why));
}

/* A command was answered with an error. */
static void zc__redis_complain(zc__redis *r, const char *cmd, const redisReply *e) {
    if (!zc__redis_is(e, REDIS_REPLY_ERROR)) return;
    const char *end = strcmp(cmd, "AUTH") ? NULL : (const char *)memchr(e->str, ' ', e->len);
    zc__redis_say(r, ZC_LOG_ERROR, cmd, zc_slice(e->str, end ? (size_t)(end - e->str) : e->len));
}

/* ---- connections */

static void zc__redis_greeted(zc__redis_conn *c) {
    if (!c->greeting) return;
    const zc__mem *mem = &c->greeting->r->mem;
    zc__req_free(c->greeting);
    zc__free(mem, c->greeting, sizeof *c->greeting);
    c->greeting = NULL;
}

static void zc__redis_drop(zc__redis *r, zc__redis_conn *c) {
    zc__spin_lock(&r->state); /* zc__redis_wake() */
    void *link = c->link;
    c->link = NULL;
    if (link && r->blocked == link) r->blocked = NULL;
    zc__spin_unlock(&r->state);
    zc__redis_greeted(c);
    c->pending = 0;
    if (link) r->io.close(r->io.user, link, false);
}

/* One command of a request, with what a script needs in front. */
static int zc__redis_append_cmd(zc__redis *r, const zc__redis_conn *c, zc__redis_req *q,
                                unsigned i) {
    size_t from = i ? q->end[i - 1] : 0;
    if (q->script != ZC__NO_SCRIPT && i == q->script_at) {
        bool eval = q->eval || !c->sha[q->script][0];
        q->argv[from] = eval ? "EVAL" : "EVALSHA";
        q->argv[from + 1] = eval ? zc__redis_script_text(q->script) : c->sha[q->script];
        q->len[from] = strlen(q->argv[from]);
        q->len[from + 1] = strlen(q->argv[from + 1]);
    }
    int argc = (int)(q->end[i] - from);
    return r->io.append(r->io.user, c->link, argc, q->argv + from, q->len + from);
}

/* The server finds it behind the rest, on the same connection, when it comes to that. */
static void zc__redis_undo(zc__redis *r, const zc__redis_conn *c, zc__redis_req *q) {
    redisReply *late = NULL;
    if (zc__redis_append_cmd(r, c, q, q->ncmds - 1) == ZC_OK)
        (void)r->io.reply(r->io.user, c->link, 0, &late); /* sends it */
    if (late) freeReplyObject(late);
}

/* Puts a request behind what waits to be sent. */
static int zc__redis_say_all(zc__redis *r, const zc__redis_conn *c, zc__redis_req *q) {
    static const char *asking[] = {"ASKING"};
    static const size_t asking_len[] = {6};
    int rc = q->failed ? ZC_E_NOMEM : ZC_OK;
    zc__req_forget(q);
    for (unsigned i = 0; i < q->ncmds - q->undo && rc == ZC_OK; i++) {
        if (c->asking) rc = r->io.append(r->io.user, c->link, 1, asking, asking_len);
        if (rc == ZC_OK) rc = zc__redis_append_cmd(r, c, q, i);
    }
    return rc;
}

/* Takes the replies that are still to come. */
static int zc__redis_hear_all(zc__redis *r, zc__redis_conn *c, zc__redis_req *q,
                              uint64_t deadline) {
    unsigned each = 1 + c->asking, all = (q->ncmds - q->undo) * each;
    int rc = ZC_OK;
    for (; q->got < all && rc == ZC_OK; q->got += (unsigned)(rc == ZC_OK)) {
        redisReply **to = &q->reply[q->got / each];
        uint64_t now = zc__redis_now(r), left = deadline > now ? deadline - now : 0;
        if (*to) freeReplyObject(*to);
        *to = NULL;
        rc = r->io.reply(r->io.user, c->link, left, to);
    }
    c->pending = rc == ZC_MORE ? all - q->got : 0;
    c->pending_until = deadline;
    return rc;
}

/* Sends a request and takes all its replies. On failure the connection is dropped (R3). ZC_MORE:
 * who waited was woken, and the other replies are pending. */
static int zc__redis_exchange(zc__redis *r, zc__redis_conn *c, zc__redis_req *q,
                              uint64_t deadline) {
    int rc = zc__redis_say_all(r, c, q);
    if (rc == ZC_OK) rc = zc__redis_hear_all(r, c, q, deadline);
    if (rc == ZC_E_TIMEOUT && q->undo) zc__redis_undo(r, c, q);
    if (rc != ZC_OK && rc != ZC_MORE) zc__redis_drop(r, c);
    return rc;
}

/* The digest of the script that marks this run of the server, as the key `run` has it; or, `anew`,
 * of one that is loaded now. 0: there is none, it is of another run, or it cannot be loaded. */
static uint64_t zc__redis_mark(zc__redis *r, zc__redis_conn *c, bool anew, uint64_t deadline) {
    char text[] = "return '0123456789abcdef'", sha[41];
    zc__redis_req q;
    if (anew) zc__redis_hex(text + 8, r->io.random());
    zc__req_init(r, &q);
    if (anew) zc__req_cmd(&q, "SCRIPT LOAD %s", text);
    else zc__req_cmd(&q, "GET $run");
    (void)zc__redis_exchange(r, c, &q, deadline);
    zc__redis_complain(r, anew ? "SCRIPT LOAD" : "GET", q.reply[0]);
    zc__redis_digest(q.reply[0], sha);
    zc__req_free(&q);
    if (!sha[0]) return 0;
    zc__req_init(r, &q);
    zc__req_cmd(&q, anew ? "SET $run %s" : "SCRIPT EXISTS %s", sha);
    (void)zc__redis_exchange(r, c, &q, deadline);
    const redisReply *got = q.reply[0];
    zc__redis_complain(r, anew ? "SET" : "SCRIPT EXISTS", got);
    bool good = anew ? zc__redis_is(got, REDIS_REPLY_STATUS)
                     : zc__redis_array(got, 1) && zc__redis_integer(got->element[0]) == 1;
    zc__req_free(&q);
    return good ? XXH3_64bits(sha, 40) | 1 : 0;
}

/* Who the server is, where INFO is refused. */
static void zc__redis_identify(zc__redis *r, zc__redis_conn *c, const redisReply *hello,
                               uint64_t deadline) {
    zc_bytes version = zc__redis_value(hello, "version");
    bool early = version.len < 2 || (((const char *)version.ptr)[1] == '.' &&
                                     ((const char *)version.ptr)[0] < '7');
    c->run = 0;
    c->fenced = false;
    c->master = zc__redis_same(zc__redis_value(hello, "role"), "master");
    if (early || r->replicas) {
        zc__redis_say(r, ZC_LOG_ERROR, "INFO is refused, and needed",
                      zc_str(early ? "the server is older than Redis 7" : "there are replicas"));
        return;
    }
    if (c->master) c->run = zc__redis_mark(r, c, false, deadline);
    if (c->master && !c->run && c->link) c->run = zc__redis_mark(r, c, true, deadline);
}

/* What the replies of a handshake say about the server. */
static int zc__redis_handshake_read(zc__redis *r, zc__redis_conn *c, const zc__redis_req *q,
                                    uint64_t deadline) {
    unsigned info = (r->password ? 1u : 0u) + (r->db ? 1u : 0u);
    const redisReply *server = q->reply[info];
    zc_bytes run = zc__redis_info(server, "run_id");
    for (unsigned i = 0; i < info; i++) {
        zc__redis_complain(r, r->password && i == 0 ? "AUTH" : "SELECT", q->reply[i]);
        int rc = zc__redis_error(q->reply[i]);
        if (rc != ZC_OK) return rc;
    }
    c->run = run.len ? XXH3_64bits(run.ptr, run.len) | 1 : 0;
    c->master = zc__redis_same(zc__redis_info(q->reply[info + 1], "role"), "master");
    c->fenced = zc__redis_info(q->reply[info + 1], "min_slaves_good_slaves").len != 0;
    for (unsigned i = info + 2; i < q->ncmds - 1; i++)
        zc__redis_digest(q->reply[i], c->sha[i - info - 2]);
    if (zc__redis_is(server, REDIS_REPLY_ERROR) && zc__redis_starts(server, "NOAUTH")) {
        zc__redis_complain(r, "INFO", server);
        return ZC_E_STORE;
    }
    if (zc__redis_is(server, REDIS_REPLY_ERROR))
        zc__redis_identify(r, c, q->reply[q->ncmds - 1], deadline);
    if (!c->link) return ZC_E_STORE;
    if (!r->master || c->master) return ZC_OK;
    zc__redis_say(r, ZC_LOG_WARN, "the Sentinel's news is old", zc_str("no master there"));
    return ZC_E_STORE;
}

/* Who are we, which database, who is the server, the scripts, the protocol: one round trip. */
static int zc__redis_greet(zc__redis *r, zc__redis_conn *c) {
    zc__redis_req *q = (zc__redis_req *)zc__alloc(&r->mem, sizeof *q);
    if (!q) return ZC_E_NOMEM;
    zc__req_init(r, q);
    if (r->password && r->user) zc__req_cmd(q, "AUTH %s %s", r->user, r->password);
    else if (r->password) zc__req_cmd(q, "AUTH %s", r->password);
    if (r->db) zc__req_cmd(q, "SELECT %u", (uint64_t)r->db);
    zc__req_cmd(q, "INFO server");
    zc__req_cmd(q, "INFO replication");
    for (unsigned i = 0; c != &r->reader && i < ZC__REDIS_SCRIPTS; i++)
        zc__req_cmd(q, "SCRIPT LOAD %s", zc__redis_script_text((zc__redis_script)i));
    zc__req_cmd(q, HIREDIS_MAJOR >= 1 ? "HELLO 3" : "HELLO 2"); /* if not, RESP2 */
    c->greeting = q;
    return zc__redis_say_all(r, c, q);
}

/* Greets, or waits on for the answer. ZC_E_BUSY: it has not come in the caller's time, but may
 * still; then the connection stays, and whoever uses it next goes on here. */
static int zc__redis_handshake(zc__redis *r, zc__redis_conn *c, uint64_t until, uint64_t deadline) {
    int rc = c->greeting ? ZC_OK : zc__redis_greet(r, c);
    if (rc == ZC_OK)
        rc = zc__redis_hear_all(r, c, c->greeting, until < deadline ? until : deadline);
    if (rc == ZC_E_TIMEOUT && until < deadline) return ZC_E_BUSY;
    zc__redis_unreachable(r, rc);
    if (rc == ZC_OK) rc = zc__redis_handshake_read(r, c, c->greeting, deadline);
    if (rc == ZC_OK) zc__redis_greeted(c);
    else zc__redis_drop(r, c);
    return rc;
}

/* `until`: who has no time does not wait for the connection itself either. */
static int zc__redis_link_to(zc__redis *r, zc__redis_conn *c, const zc__redis_addr *a,
                             uint64_t until, uint64_t deadline) {
    uint64_t now = zc__redis_now(r);
    void *link = NULL;
    if (now >= deadline) return ZC_E_TIMEOUT;
    uint64_t timeout = until == ZC_NEVER ? deadline - now : 0;
    int rc = r->io.open(r->io.user, a->host, a->port, r->tls, timeout, &link);
    zc__spin_lock(&r->state);
    c->link = rc == ZC_OK ? link : NULL;
    zc__spin_unlock(&r->state);
    return rc;
}

static bool zc__redis_addr_set(zc__redis_addr *a, const char *host, size_t n, uint64_t port) {
    if (n == 0 || n >= sizeof a->host || memchr(host, 0, n) || port == 0 || port > 65535)
        return false;
    memcpy(a->host, host, n);
    a->host[n] = '\0';
    a->port = (int)port;
    return true;
}

/* Asks one Sentinel where the master is. */
static int zc__redis_ask_sentinel(zc__redis *r, const zc__redis_addr *sentinel, zc__redis_addr *at,
                                  uint64_t deadline) {
    zc__redis_conn c;
    zc__redis_req q;
    memset(&c, 0, sizeof c);
    int rc = zc__redis_link_to(r, &c, sentinel, ZC_NEVER, deadline);
    if (rc != ZC_OK) return rc;
    zc__req_init(r, &q);
    zc__req_cmd(&q, "SENTINEL GET-MASTER-ADDR-BY-NAME %s", r->master);
    rc = zc__redis_exchange(r, &c, &q, deadline);
    const redisReply *got = q.reply[0];
    uint64_t port;
    if (rc == ZC_OK &&
        (!zc__redis_array(got, 2) || !zc__redis_string(got->element[0]) ||
         !zc__redis_number(got->element[1], &port) ||
         !zc__redis_addr_set(at, got->element[0]->str, got->element[0]->len, port)))
        rc = ZC_E_STORE;
    zc__req_free(&q);
    zc__redis_drop(r, &c);
    return rc;
}

/* When to give up for want of the caller's time. That costs the connection, so the server gets 8
 * times what it usually takes, and 5 ms, in any case. */
static uint64_t zc__redis_limit(zc__redis *r, uint64_t until, uint64_t now, uint64_t deadline) {
    uint64_t least = zc__mul_sat(zc__atomic_load_rlx(&r->latency), 8);
    if (!least) least = r->timeout / 4;
    if (least < 5 * ZC_MILLISECOND) least = 5 * ZC_MILLISECOND;
    uint64_t limit = until > now + least ? until : now + least;
    return limit < deadline ? limit : deadline;
}

static int zc__redis_resolve(zc__redis *r, zc__redis_addr *at, uint64_t deadline) {
    zc__monitor_lock(&r->pool);
    *at = r->moved.host[0] ? r->moved : r->addrs[0];
    bool moved = r->moved.host[0] != '\0';
    zc__monitor_unlock(&r->pool);
    if (moved || !r->master) return ZC_OK;
    int rc = ZC_E_STORE;
    for (unsigned i = 0; i < r->naddrs && rc != ZC_OK; i++) {
        /* Each of those left gets its share: a Sentinel that hangs must not cost the others'. */
        uint64_t now = zc__redis_now(r), left = deadline > now ? deadline - now : 0;
        rc = zc__redis_ask_sentinel(r, &r->addrs[i], at, now + left / (r->naddrs - i + 1));
    }
    return rc;
}

/* After a try to connect. */
static void zc__redis_connected(zc__redis *r, bool good) {
    uint64_t now = zc__redis_now(r), jitter = good ? 0 : r->io.random();
    zc__monitor_lock(&r->pool);
    if (good) {
        r->fails = 0;
        r->down_until = 0;
    } else {
        uint64_t pause = ZC__REDIS_BACKOFF << (r->fails < 6 ? r->fails : 6);
        if (pause > ZC_SECOND) pause = ZC_SECOND;
        r->down_until = now + pause / 2 + jitter % (pause / 2);
        r->fails++;
        r->moved.host[0] = '\0';
    }
    zc__monitor_unlock(&r->pool);
}

/* Finds a server and begins to connect. */
static int zc__redis_reach(zc__redis *r, zc__redis_conn *c, uint64_t until, uint64_t deadline) {
    zc__redis_addr at;
    int rc = zc__redis_resolve(r, &at, zc__redis_limit(r, until, zc__redis_now(r), deadline));
    c->asking = false;
    if (rc == ZC_OK) rc = zc__redis_link_to(r, c, &at, until, deadline);
    zc__redis_unreachable(r, rc);
    return rc;
}

/* Connects, or goes on with it; that takes `timeout` at most, in however many calls. What the
 * caller's time is, `until`, and ZC_E_BUSY: zc__redis_handshake(). */
static int zc__redis_connect(zc__redis *r, zc__redis_conn *c, uint64_t until,
                             uint64_t deadline) {
    zc__monitor_lock(&r->pool);
    bool wait = zc__redis_now(r) < r->down_until && !c->greeting;
    zc__monitor_unlock(&r->pool);
    if (wait) return ZC_E_STORE;
    int rc = c->greeting ? ZC_OK : zc__redis_reach(r, c, until, deadline);
    uint64_t begin = c->greeting ? c->greeting->begin : zc__redis_now(r);
    uint64_t end = c->greeting ? begin + r->timeout : deadline;
    if (rc == ZC_OK) rc = zc__redis_handshake(r, c, until, end < deadline ? end : deadline);
    if (rc == ZC_E_BUSY) return rc;
    zc__redis_connected(r, rc == ZC_OK);
    uint64_t took = zc__redis_now(r) - begin, most = r->timeout / 16;
    if (rc == ZC_OK && !zc__atomic_load_rlx(&r->latency)) /* a first guess */
        zc__atomic_store_rlx(&r->latency, took < most ? took : most);
    return rc;
}

/* "MOVED 1234 host:port", "ASK 1234 host:port": where to go instead. */
static bool zc__redis_redirect(const redisReply *reply, zc__redis_addr *to) {
    if (!zc__redis_is(reply, REDIS_REPLY_ERROR)) return false;
    if (!zc__redis_starts(reply, "MOVED ") && !zc__redis_starts(reply, "ASK ")) return false;
    const char *host = strrchr(reply->str, ' ') + 1, *colon = strrchr(host, ':');
    uint64_t port;
    return colon && zc__digits(colon + 1, strlen(colon + 1), 10, &port) &&
           zc__redis_addr_set(to, host, (size_t)(colon - host), port);
}

/* Looks for errors that mean "elsewhere" or "again"; true: the request must be sent again. */
static bool zc__redis_redirected(zc__redis *r, zc__redis_conn *c, zc__redis_req *q,
                                 uint64_t deadline) {
    zc__redis_addr to;
    for (unsigned i = 0; i < q->ncmds; i++) {
        const redisReply *e = q->reply[i];
        if (!zc__redis_is(e, REDIS_REPLY_ERROR)) continue;
        if (zc__redis_starts(e, "NOSCRIPT") && !q->eval) return q->eval = true;
        if (zc__redis_redirect(e, &to)) {
            bool ask = zc__redis_starts(e, "ASK ");
            zc__redis_drop(r, c);
            if (!ask) {
                zc__monitor_lock(&r->pool);
                r->moved = to;
                zc__monitor_unlock(&r->pool);
                return true;
            }
            c->asking = false;
            if (zc__redis_link_to(r, c, &to, ZC_NEVER, deadline) != ZC_OK) return false;
            if (zc__redis_handshake(r, c, ZC_NEVER, deadline) != ZC_OK) return false;
            return c->asking = true;
        }
        /* No longer who it was: the next call finds out anew. */
        if (zc__redis_says(e, "READONLY ") || zc__redis_says(e, "NOREPLICAS ") ||
            zc__redis_starts(e, "NOAUTH"))
            zc__redis_drop(r, c);
    }
    return false;
}

/* Was a command answered with an error? Those about the disk are only a question. */
static bool zc__req_refused(const zc__redis_req *q, unsigned i) {
    if (!zc__redis_is(q->reply[i], REDIS_REPLY_ERROR)) return false;
    const char *cmd = q->argv[i ? q->end[i - 1] : 0];
    return strcmp(cmd, "WAITAOF") && strcmp(cmd, "CONFIG");
}

static uint64_t zc__redis_reply_timeout(const zc__redis *r) {
    uint64_t t = zc__mul_sat(zc__atomic_load_rlx(&r->latency), 16);
    if (t == 0 || t > r->timeout) return r->timeout;
    return t < r->timeout / 4 ? r->timeout / 4 : t;
}

static void zc__redis_latency_update(zc__redis *r, uint64_t took, int rc) {
    uint64_t old = zc__atomic_load_rlx(&r->latency);
    if (rc == ZC_E_TIMEOUT && old)
        zc__atomic_store_rlx(&r->latency, zc__redis_reply_timeout(r) / 8);
    if (rc == ZC_OK) zc__atomic_store_rlx(&r->latency, old ? old - old / 8 + took / 8 : took);
}

static bool zc__req_is_large(const zc__redis_req *q) {
    size_t size = 0;
    for (size_t i = 0; i < q->argc; i++) size += q->len[i] + 16;
    return size > 65536;
}

/* Sends a request over a connection of the caller's, connecting first if need be. `extra`: how much
 * longer than usual the server may take on purpose. ZC_OK: every command has its reply, which may
 * be an error. */
static int zc__redis_send(zc__redis *r, zc__redis_conn *c, zc__redis_req *q, uint64_t extra) {
    uint64_t end = q->begin + r->timeout, most = zc__add_sat(end, extra);
    uint64_t limit = end, full = end;
    bool again = c != &r->reader || !r->blocked;
    int rc = ZC_E_STORE;
    for (unsigned hops = 0; hops < 5; hops++) {
        bool fresh = !c->link || c->greeting;
        if (fresh && (rc = zc__redis_connect(r, c, q->until, end)) != ZC_OK) break;
        uint64_t now = zc__redis_now(r), deadline = most, usual = now + zc__redis_reply_timeout(r);
        if (!fresh && !extra && usual < most && !zc__req_is_large(q)) deadline = usual;
        full = deadline;
        limit = zc__redis_limit(r, q->until, now, full);
        rc = zc__redis_exchange(r, c, q, limit);
        if (!extra && !fresh && (rc == ZC_OK || (usual <= most && limit == full)))
            zc__redis_latency_update(r, zc__redis_now(r) - now, rc);
        if (rc == ZC_OK && zc__redis_redirected(r, c, q, extra ? most : limit)) continue;
        if (rc != ZC_E_STORE || !again) break;
        again = false; /* dropped by the server, perhaps long ago: once more */
        if (q->until == ZC_NEVER) r->io.sleep(r->io.random() % (2 * ZC_MILLISECOND));
        if (zc__redis_now(r) >= most) break;
    }
    if (c->asking) zc__redis_drop(r, c);
    if (rc != ZC_OK) zc__req_forget(q);
    for (unsigned i = 0; i < q->ncmds; i++)
        if (zc__req_refused(q, i))
            zc__redis_complain(r, q->argv[i ? q->end[i - 1] : 0], q->reply[i]);
    return rc == ZC_E_TIMEOUT && limit < full ? ZC_E_BUSY : rc;
}

/* ---- the pool: a thread finds the connection that it used before, unless somebody has it */

static size_t zc__redis_affinity(void) {
#ifdef ZOOCACHE_NO_THREADS
    return 0;
#else
    pthread_t self = pthread_self();
    return (size_t)XXH3_64bits(&self, sizeof self);
#endif
}

static zc__redis_conn *zc__redis_free_conn(zc__redis *r, size_t first) {
    for (unsigned i = 0; i < r->nconns; i++) {
        zc__redis_conn *c = &r->conns[(first + i) % r->nconns];
        if (!c->taken) return c;
    }
    return NULL;
}

#ifndef ZOOCACHE_NO_THREADS
/* Waits its turn, until `until` (NULL). Lets `pool` go meanwhile. */
static zc__redis_conn *zc__redis_queue(zc__redis *r, uint64_t until) {
    zc__redis_waiter w, **at = &r->queue;
    ZC__ASSERT_HELD(&r->pool);
    memset(&w, 0, sizeof w);
    if (!zc__monitor_init(&w.monitor, ZC__RANK_WAITER)) return NULL;
    while (*at) at = &(*at)->next;
    *at = &w;
    zc__monitor_unlock(&r->pool);
    zc__monitor_lock(&w.monitor);
    for (uint64_t now; !w.conn && (now = zc__redis_now(r)) < until;)
        zc__monitor_sleep(&w.monitor, until - now);
    zc__monitor_unlock(&w.monitor);
    zc__monitor_lock(&r->pool);
    if (!w.conn) {
        for (at = &r->queue; *at != &w;) at = &(*at)->next;
        *at = w.next;
    }
    zc__monitor_destroy(&w.monitor); /* who gave a connection has let go of `pool` since */
    return w.conn;
}
#endif

/* NULL: all are taken, and none has come back by `until`. */
static zc__redis_conn *zc__redis_acquire(zc__redis *r, uint64_t until) {
    size_t first = zc__redis_affinity() % r->nconns;
    zc__monitor_lock(&r->pool);
    zc__redis_conn *c = zc__redis_free_conn(r, first);
    if (c) c->taken = true;
#ifndef ZOOCACHE_NO_THREADS
    else c = zc__redis_queue(r, until);
#endif
    zc__monitor_unlock(&r->pool);
    (void)until;
    return c;
}

/* To the first in the queue, if there is one: who comes later does not get ahead. */
static void zc__redis_release(zc__redis *r, zc__redis_conn *c) {
    zc__monitor_lock(&r->pool);
    zc__redis_waiter *w = r->queue;
    c->taken = w != NULL;
    if (w) {
        r->queue = w->next;
        zc__monitor_lock(&w->monitor);
        w->conn = c;
        zc__monitor_wake(&w->monitor);
        zc__monitor_unlock(&w->monitor);
    }
    zc__monitor_unlock(&r->pool);
}

/* The server at the other end; 0: it is no master, or no replica fences it although one should. */
static uint64_t zc__redis_run(const zc__redis *r, const zc__redis_conn *c) {
    return c->master && (c->fenced || !r->replicas) ? c->run : 0;
}

/* A request over a connection of the pool. `run` (0: any): where the log is attached. A connection
 * to another server, which may be an old master, is made anew; ZC_RETRY: there, too, is another. */
static int zc__redis_call(zc__redis *r, zc__redis_req *q, uint64_t extra, uint64_t run) {
    uint64_t patience = zc__redis_reply_timeout(r);
    uint64_t rest = patience < r->timeout / 2 ? patience : r->timeout / 2;
    uint64_t turn = q->at_once ? 0 : q->begin + r->timeout - rest;
    zc__redis_conn *c = zc__redis_acquire(r, turn < q->until ? turn : q->until);
    if (!c) return ZC_E_BUSY;
    uint64_t waited = zc__redis_now(r) - q->begin;
    if (run && c->link && !c->greeting && c->run != run) zc__redis_drop(r, c);
    int rc = zc__redis_send(r, c, q, extra);
    if (rc == ZC_E_TIMEOUT && waited > r->timeout / 16 && waited + patience > r->timeout)
        rc = ZC_E_BUSY; /* the server has had less time than it may take */
    if (rc == ZC_OK && run && zc__redis_run(r, c) != run) {
        zc__redis_drop(r, c); /* it was a replica, and may be a master by now */
        rc = ZC_RETRY;
    }
    zc__redis_release(r, c);
    return rc;
}

/* ---- the storage */

static unsigned zc__redis_shard_index(const zc__redis *r, zc_bytes key) {
    return r->nshards == 1 ? 0 : (unsigned)(XXH3_64bits(key.ptr, key.len) % r->nshards);
}

/* The shard of a record. `user`: the first. */
static zc__redis *zc__redis_shard_of(void *user, zc_bytes key) {
    zc__redis *r = (zc__redis *)user;
    return (zc__redis *)r->shards[zc__redis_shard_index(r, key)];
}

/* Makes an era if there is none, and learns it. */
static int zc__redis_new_era(zc__redis *r, bool replace, uint64_t begin) {
    zc__redis_req q;
    uint64_t era = 0;
    zc__req_init(r, &q);
    q.begin = begin;
    zc__req_cmd(&q, replace ? "SET $era %x" : "SET $era %x NX", r->io.random());
    zc__req_cmd(&q, "GET $era");
    int rc = zc__redis_call(r, &q, 0, 0);
    if (rc == ZC_OK) rc = zc__redis_error(q.reply[0]);
    if (rc == ZC_OK && !zc__redis_unhex(q.reply[1], &era)) rc = ZC_E_STORE;
    if (rc == ZC_OK) zc__atomic_store_rel(&r->era, era);
    zc__req_free(&q);
    return rc;
}

/* What the server says about the era. ZC_OK: it is `era`; ZC_RETRY: the caller's is old, begin
 * again. */
static int zc__redis_era(zc__redis *r, const redisReply *said, uint64_t era, uint64_t begin) {
    uint64_t now;
    int rc = zc__redis_error(said);
    if (rc != ZC_OK) return rc;
    if (!zc__redis_unhex(said, &now))
        rc = zc__redis_new_era(r, !zc__redis_is(said, REDIS_REPLY_NIL), begin);
    else if (now == era) return ZC_OK;
    else zc__atomic_store_rel(&r->era, now);
    return rc == ZC_OK ? ZC_RETRY : rc;
}

#define ZC__REDIS_ERAS 4 /* tries while others clear */

/* Gets those of the records that are in this shard. */
static int zc__redis_get_once(zc__redis *r, const zc_bytes *keys, size_t n, zc_sink *const *sinks,
                              int *results, uint64_t begin) {
    uint64_t era = zc__atomic_load_acq(&r->era);
    size_t here = 0;
    zc__redis_req q;
    zc__req_init(r, &q);
    q.begin = begin;
    zc__req_add(&q, "MGET $era");
    for (size_t i = 0; i < n; i++) {
        if (zc__redis_shard_index(r, keys[i]) != r->shard) continue;
        zc__req_add(&q, "$%x:%b", era, keys[i].ptr, keys[i].len);
        here++;
    }
    zc__req_end(&q);
    int rc = here ? zc__redis_call(r, &q, 0, 0) : ZC_OK;
    const redisReply *got = q.reply[0];
    if (here && rc == ZC_OK) rc = zc__redis_error(got);
    if (here && rc == ZC_OK && !zc__redis_array(got, here + 1)) rc = ZC_E_CORRUPT;
    if (here && rc == ZC_OK) rc = zc__redis_era(r, got->element[0], era, begin);
    for (size_t i = 0, at = 0; at < here && rc == ZC_OK; i++) {
        if (zc__redis_shard_index(r, keys[i]) != r->shard) continue;
        const redisReply *v = got->element[++at];
        results[i] = zc__redis_string(v) ? zc_sink_write(sinks[i], v->str, v->len) : ZC_MISS;
    }
    zc__req_free(&q);
    return rc;
}

static int zc__redis_get_here(zc__redis *r, const zc_bytes *keys, size_t n, zc_sink *const *sinks,
                              int *results, uint64_t begin) {
    int rc = ZC_RETRY;
    for (int i = 0; i < ZC__REDIS_ERAS && rc == ZC_RETRY; i++)
        rc = zc__redis_get_once(r, keys, n, sinks, results, begin);
    return rc == ZC_RETRY ? ZC_E_STORE : rc;
}

static int zc__redis_get(void *user, zc_bytes key, zc_sink *sink) {
    zc__redis *r = zc__redis_shard_of(user, key);
    int result = ZC_MISS;
    int rc = zc__redis_get_here(r, &key, 1, &sink, &result, zc__redis_now(r));
    return rc == ZC_OK ? result : rc;
}

/* Shard by shard. */
static int zc__redis_get_many(void *user, const zc_bytes *keys, size_t n, zc_sink *const *sinks,
                              int *results) {
    const zc__redis *r = (const zc__redis *)user;
    uint64_t begin = zc__redis_now(r);
    int rc = ZC_OK;
    for (unsigned i = 0; i < r->nshards && rc == ZC_OK; i++)
        rc = zc__redis_get_here((zc__redis *)r->shards[i], keys, n, sinks, results, begin);
    return rc;
}

/* Writes a record; NULL: lets it live for `ms` from now, or deletes it if that is 0. */
static int zc__redis_write_once(zc__redis *r, zc_bytes key, const zc_bytes *record, uint64_t ms,
                                uint64_t begin) {
    uint64_t era = zc__atomic_load_acq(&r->era);
    zc__redis_req q;
    zc__req_init(r, &q);
    q.begin = begin;
    zc__req_cmd(&q, "GET $era");
    zc__req_add(&q, record ? "SET" : ms ? "PEXPIRE" : "UNLINK");
    zc__req_add(&q, "$%x:%b", era, key.ptr, key.len);
    if (record) zc__req_add(&q, "%b PX", record->ptr, record->len);
    if (ms) zc__req_add(&q, "%u", ms);
    zc__req_end(&q);
    int rc = zc__redis_call(r, &q, 0, 0);
    if (rc == ZC_OK) rc = zc__redis_era(r, q.reply[0], era, begin);
    if (rc == ZC_OK) rc = zc__redis_error(q.reply[1]);
    if (rc == ZC_OK && zc__redis_integer(q.reply[1]) == 0) rc = ZC_MISS;
    zc__req_free(&q);
    return rc;
}

static int zc__redis_write(zc__redis *r, zc_bytes key, const zc_bytes *record, uint64_t ms) {
    uint64_t begin = zc__redis_now(r);
    int rc = ZC_RETRY;
    for (int i = 0; i < ZC__REDIS_ERAS && rc == ZC_RETRY; i++)
        rc = zc__redis_write_once(r, key, record, ms, begin);
    return rc == ZC_RETRY ? ZC_E_STORE : rc;
}

/* From now until `expires_ms`, at least 1 and at most max_ttl. */
static uint64_t zc__redis_ttl_ms(const zc__redis *r, uint64_t expires_ms) {
    uint64_t now = zc__wall(&r->clock) / ZC_MILLISECOND, most = r->max_ttl / ZC_MILLISECOND;
    if (expires_ms == 0) return most;
    uint64_t ms = expires_ms > now ? expires_ms - now : 1;
    return ms < most ? ms : most;
}

static int zc__redis_put(void *user, zc_bytes key, zc_bytes record, uint64_t expires_ms) {
    zc__redis *r = zc__redis_shard_of(user, key);
    return zc__redis_write(r, key, &record, zc__redis_ttl_ms(r, expires_ms));
}
static int zc__redis_del(void *user, zc_bytes key) {
    return zc__redis_write(zc__redis_shard_of(user, key), key, NULL, 0);
}
static int zc__redis_touch(void *user, zc_bytes key, uint64_t expires_ms) {
    zc__redis *r = zc__redis_shard_of(user, key);
    return zc__redis_write(r, key, NULL, zc__redis_ttl_ms(r, expires_ms));
}
static int zc__redis_clear(void *user) {
    const zc__redis *r = (const zc__redis *)user;
    int rc = ZC_OK, got;
    uint64_t begin = zc__redis_now(r);
    for (unsigned i = 0; i < r->nshards && !zc__store_was_slow(rc); i++)
        if ((got = zc__redis_new_era((zc__redis *)r->shards[i], true, begin)) != ZC_OK) rc = got;
    return rc;
}

/* SET NX for a lock that is new, which is given back if that is not answered in time; a script for
 * one that is ours. No `ms`: unlocks. */
static int zc__redis_lock_call(zc__redis *r, zc_bytes key, bool fresh, uint64_t token,
                               uint64_t ms) {
    zc__redis_req q;
    zc__req_init(r, &q);
    q.undo = fresh;
    if (fresh) zc__req_cmd(&q, "SET $lock:%b %x NX PX %u", key.ptr, key.len, token, ms);
    zc__req_script(&q, ZC__RELOCK, 1);
    zc__req_cmd(&q, "$lock:%b %x %u", key.ptr, key.len, token, fresh ? 0 : ms);
    int rc = zc__redis_call(r, &q, 0, 0);
    const redisReply *got = q.reply[0];
    if (rc == ZC_OK) rc = zc__redis_error(got);
    if (rc == ZC_OK && !zc__redis_is(got, REDIS_REPLY_STATUS) && zc__redis_integer(got) <= 0)
        rc = ZC_MISS;
    zc__req_free(&q);
    return rc;
}

static int zc__redis_lock(void *user, zc_bytes key, uint64_t lease, uint64_t *token) {
    zc__redis *r = zc__redis_shard_of(user, key);
    uint64_t ms = lease / ZC_MILLISECOND;
    if (ms == 0) ms = 1;
    uint64_t mine = *token ? *token : r->io.random() | 1;
    int rc = zc__redis_lock_call(r, key, *token == 0, mine, ms);
    if (rc == ZC_OK) *token = mine;
    return rc;
}

static int zc__redis_unlock_key(void *user, zc_bytes key, uint64_t token) {
    return zc__redis_lock_call(zc__redis_shard_of(user, key), key, false, token, 0);
}

/* ---- the log's entries */

/* "<gen>-<position>" */
static bool zc__redis_id(const redisReply *id, uint64_t *gen, uint64_t *position) {
    if (!zc__redis_string(id)) return false;
    const char *dash = (const char *)memchr(id->str, '-', id->len);
    if (!dash) return false;
    size_t n = (size_t)(dash - id->str);
    return zc__digits(id->str, n, 10, gen) &&
           zc__digits(dash + 1, id->len - n - 1, 10, position);
}

/* [id, [field, value, ...]] */
typedef struct zc__redis_entry {
    uint64_t gen, position, nonce;
    zc_bytes tags; /* a list */
} zc__redis_entry;

static bool zc__redis_entry_read(const redisReply *e, zc__redis_entry *out) {
    if (!zc__redis_array(e, 2) || !zc__redis_is(e->element[1], REDIS_REPLY_ARRAY)) return false;
    zc_bytes nonce = zc__redis_value(e->element[1], "n");
    out->nonce = XXH3_64bits(nonce.ptr, nonce.len);
    out->tags = zc__redis_value(e->element[1], "t");
    return zc__redis_id(e->element[0], &out->gen, &out->position);
}

/* A copy, because another thread may attach anew meanwhile. */
static zc__redis_log zc__redis_attached(zc__redis *r) {
    zc__spin_lock(&r->state);
    zc__redis_log log = r->attached;
    zc__spin_unlock(&r->state);
    return log;
}

static bool zc__redis_is_attached(const zc__redis *r, zc__redis_log log) {
    return memcmp(&r->attached, &log, sizeof log) == 0;
}

/* Several may be at it, and who is behind must not take the place of what is newer. ZC_RETRY: this
 * position was another entry's. */
static int zc__redis_remember(zc__redis *r, zc__redis_log log, const zc__redis_entry *e) {
    size_t i = e->position % ZC__REDIS_NONCES;
    zc__spin_lock(&r->state);
    if (zc__redis_is_attached(r, log) && e->position >= r->nonce_at[i]) {
        r->nonce_at[i] = e->position + 1;
        r->nonces[i] = e->nonce;
    }
    bool other = r->nonce_at[i] == e->position + 1 && r->nonces[i] != e->nonce;
    zc__spin_unlock(&r->state);
    return other ? ZC_RETRY : ZC_OK;
}

/* Is this the entry that was seen at the cursor? ZC_MORE: its nonce is no longer remembered, for
 * many have been heard since the caller looked at its cursor. */
static int zc__redis_at_cursor(zc__redis *r, zc__redis_log log, const redisReply *entry,
                               uint64_t position) {
    zc__redis_entry e;
    if (!zc__redis_entry_read(entry, &e)) return ZC_RETRY;
    if (e.gen != log.gen || e.position != position) return ZC_RETRY;
    size_t i = position % ZC__REDIS_NONCES;
    zc__spin_lock(&r->state);
    bool later = r->nonce_at[i] > position + 1, known = r->nonce_at[i] == position + 1;
    bool same = r->nonces[i] == e.nonce, ours = zc__redis_is_attached(r, log);
    zc__spin_unlock(&r->state);
    return !ours ? ZC_RETRY : later ? ZC_MORE : known && same ? ZC_OK : ZC_RETRY;
}

/* Gives entries, which must be those right after `position` (R1). */
static int zc__redis_deliver(zc__redis *r, zc__redis_log log, redisReply *const *entries, size_t n,
                          uint64_t position, zc_bus_sink *sink) {
    int rc = ZC_OK;
    for (size_t i = 0; i < n && rc == ZC_OK; i++) {
        zc__redis_entry e;
        if (!zc__redis_entry_read(entries[i], &e)) return ZC_RETRY;
        if (e.gen != log.gen || e.position != position + 1 + i) return ZC_RETRY;
        rc = zc__redis_remember(r, log, &e);
        if (rc == ZC_OK) rc = zc__entry_deliver(&r->mem, e.tags, e.position, sink);
    }
    return rc;
}

/* ---- the bus */

/* An error of a command on the log or its hashes: is it not ours any more, or can it not be had? */
static int zc__redis_log_error(const redisReply *reply) {
    if (!zc__redis_is(reply, REDIS_REPLY_ERROR)) return ZC_OK;
    if (zc__redis_says(reply, "WRONGTYPE ") || zc__redis_says(reply, "ERR The ID"))
        return ZC_RETRY;
    return zc__bus_rc(zc__redis_error(reply));
}

/* A small write: refused by a master that its replicas have left. */
static void zc__req_fence(zc__redis *r, zc__redis_req *q) {
    if (r->replicas) zc__req_cmd(q, "SET $fence %x PX 60000", r->node);
}

/* With replicas a server may be a master twice, with the same run id, and have lost entries in
 * between. Its replication id is another one then, also where a connection has outlived that. */
static void zc__req_replid(zc__redis *r, zc__redis_req *q) {
    if (r->replicas) zc__req_cmd(q, "INFO replication");
}

/* What it says, as the i-th reply; 0: not asked, or not told. */
static uint64_t zc__redis_replid(const zc__redis *r, const zc__redis_req *q, unsigned i) {
    if (!r->replicas) return 0;
    zc_bytes id = zc__redis_info(q->reply[i], "master_replid");
    return id.len ? XXH3_64bits(id.ptr, id.len) | 1 : 0;
}

/* Sends commands about the log that is attached, over the reader's connection or the pool. ZC_OK:
 * that log's server has answered them, of the same history, and none with an error. ZC_RETRY, too:
 * there is none. */
static int zc__redis_log_call(zc__redis *r, zc__redis_req *q, zc__redis_log log, bool reader,
                              uint64_t extra) {
    if (!log.gen) return ZC_RETRY;
    zc__req_replid(r, q); /* last: so what was read is of that history */
    int rc = zc__bus_rc(reader ? zc__redis_send(r, &r->reader, q, extra)
                               : zc__redis_call(r, q, extra, log.run));
    if (rc == ZC_OK && reader && r->reader.run != log.run) rc = ZC_RETRY;
    for (unsigned i = 0; i < q->ncmds && rc == ZC_OK; i++)
        if (zc__req_refused(q, i)) rc = zc__redis_log_error(q->reply[i]);
    if (rc == ZC_OK && zc__redis_replid(r, q, q->ncmds - 1) != log.replid) rc = ZC_RETRY;
    return rc;
}

/* What identifies an entry, and the time. */
static void zc__req_nonce(zc__redis *r, zc__redis_req *q) {
    uint64_t count = zc__atomic_add_rlx(&r->count, (uint64_t)1);
    zc__req_add(q, "%x.%u %u", r->node, count, zc__wall(&r->clock) / ZC_MILLISECOND);
}

/* A new log's generation: random, and tells how many shards there are. */
static uint64_t zc__redis_new_gen(const zc__redis *r) {
    return (((r->io.random() >> 2) | 16) & ~UINT64_C(15)) | (r->nshards - 1);
}

static int zc__redis_attach(void *user, uint64_t *identity, uint64_t *position) {
    zc__redis *r = (zc__redis *)user;
    zc__redis_req q;
    zc__redis_entry e;
    zc__redis_log log = {0, 0, 0};
    memset(&e, 0, sizeof e);
    zc__req_init(r, &q);
    zc__req_fence(r, &q);
    zc__req_replid(r, &q); /* first: a record must not seem to be of a later history than it is */
    zc__req_script(&q, ZC__GENESIS, 3);
    zc__req_add(&q, "$log $tags $tags2 %u", zc__redis_new_gen(r));
    zc__req_nonce(r, &q);
    zc__req_end(&q);
    /* Over a new connection of the reader's: an old one may lead to a master of the past, and what
     * is attached is what will be read. */
    zc__redis_drop(r, &r->wakeup);
    if (!r->reader.greeting) zc__redis_drop(r, &r->reader);
    int rc = zc__bus_rc(zc__redis_send(r, &r->reader, &q, 0));
    log.run = zc__redis_run(r, &r->reader);
    for (unsigned i = 0; i < q.ncmds && rc == ZC_OK; i++) rc = zc__redis_log_error(q.reply[i]);
    if (rc == ZC_RETRY || (rc == ZC_OK && log.run == 0)) rc = ZC_E_BUS;
    if (rc == ZC_OK && !zc__redis_entry_read(q.reply[q.ncmds - 1], &e)) rc = ZC_E_BUS;
    if (rc == ZC_OK) log.replid = zc__redis_replid(r, &q, 1);
    zc__req_free(&q);
    if (rc == ZC_OK && r->shard == 0 && (e.gen & 15) != r->nshards - 1) rc = ZC_E_INVAL;
    if (rc != ZC_OK) return rc;
    log.gen = e.gen;
    *identity = XXH3_64bits(&log, sizeof log) | 1;
    *position = e.position;
    zc__spin_lock(&r->state);
    r->attached = log;
    memset(r->nonce_at, 0, sizeof r->nonce_at);
    zc__spin_unlock(&r->state);
    return zc__redis_remember(r, log, &e);
}

/* What XRANGE from the cursor on says: gives what is new. The newest must be among it, or one of
 * them was deleted. */
static int zc__redis_range(zc__redis *r, zc__redis_log log, uint64_t newest,
                           const redisReply *range, uint64_t position, zc_bus_sink *sink) {
    if (!zc__redis_is(range, REDIS_REPLY_ARRAY)) return ZC_E_BUS;
    if (range->elements == 0) return ZC_RETRY;
    int proof = zc__redis_at_cursor(r, log, range->element[0], position);
    if (proof == ZC_RETRY) return ZC_RETRY;
    int rc = zc__redis_deliver(r, log, range->element + 1, range->elements - 1, position, sink);
    if (rc != ZC_OK) return rc;
    if (range->elements > ZC__REDIS_BATCH) return ZC_MORE;
    return newest < position + range->elements ? proof : ZC_RETRY;
}

static void zc__req_range(zc__redis_req *q, zc__redis_log log, uint64_t position) {
    zc__req_cmd(q, "XRANGE $log %u-%u + COUNT %u", log.gen, position, ZC__REDIS_BATCH + 1);
}

/* Waits for an entry, by XREAD, for at most `ms`; then asks which is the newest, and for all from
 * the cursor on. Over the pool as long as the reader's connection has replies pending: ZC_E_BUSY if
 * that has none to spare, as writers may wait there until replicas have followed. */
static int zc__redis_read_once(zc__redis *r, zc__redis_log log, uint64_t position, uint64_t ms,
                               zc_bus_sink *sink) {
    zc__redis_req q;
    uint64_t newest = 0;
    zc__req_init(r, &q);
    zc__req_fence(r, &q);
    zc__req_add(&q, "XREAD COUNT 1");
    if (ms) zc__req_add(&q, "BLOCK %u", ms);
    zc__req_cmd(&q, "STREAMS $log %u-%u", log.gen, position);
    unsigned at = q.ncmds;
    zc__req_cmd(&q, "HMGET $tags @n");
    zc__req_range(&q, log, position);
    q.at_once = r->reader.pending;
    int rc = zc__redis_log_call(r, &q, log, !r->reader.pending, ms * ZC_MILLISECOND);
    const redisReply *last = q.reply[at]; /* appended, whether it is still there or not */
    if (rc == ZC_OK && !(zc__redis_array(last, 1) && zc__redis_number(last->element[0], &newest)))
        rc = ZC_RETRY;
    if (rc == ZC_OK) rc = zc__redis_range(r, log, newest, q.reply[at + 1], position, sink);
    zc__req_free(&q);
    return rc;
}

/* May it wait on this link? Not the first after a wake, nor without one. What does not wait is
 * never interrupted, so that many wakes cannot keep a node from its proof. */
static bool zc__redis_may_wait(zc__redis *r, void *link) {
    zc__spin_lock(&r->state);
    r->blocked = r->woken ? NULL : link;
    r->woken = false;
    bool may = r->blocked != NULL;
    zc__spin_unlock(&r->state);
    return may;
}

/* It does not wait any more. Was it woken? */
static bool zc__redis_waited(zc__redis *r) {
    zc__spin_lock(&r->state);
    bool woken = r->woken;
    r->blocked = NULL;
    zc__spin_unlock(&r->state);
    return woken;
}

/* Takes the reader's pending replies. ZC_MORE: woken again; else there are none any more,
 * because it is closed perhaps. */
static int zc__redis_take_pending(zc__redis *r) {
    zc__redis_conn *c = &r->reader;
    int rc = ZC_OK;
    while (c->pending && rc == ZC_OK) {
        redisReply *reply = NULL;
        uint64_t now = zc__redis_now(r), left = c->pending_until > now ? c->pending_until - now : 0;
        rc = r->io.reply(r->io.user, c->link, left, &reply);
        if (reply) freeReplyObject(reply);
        if (rc == ZC_OK) c->pending--;
        else if (rc != ZC_MORE) zc__redis_drop(r, c);
    }
    return rc == ZC_MORE ? rc : ZC_OK;
}

/* Waits for what was left behind, then for an entry, and reads. */
static int zc__redis_read_waiting(zc__redis *r, zc__redis_log log, uint64_t position, uint64_t ms,
                                  zc_bus_sink *sink) {
    uint64_t begin = zc__redis_now(r);
    if (zc__redis_take_pending(r) == ZC_MORE) return ZC_MORE;
    uint64_t gone = (zc__redis_now(r) - begin) / ZC_MILLISECOND;
    return zc__redis_read_once(r, log, position, gone < ms && r->reader.link ? ms - gone : 0, sink);
}

static int zc__redis_read(void *user, uint64_t position, uint64_t wait, zc_bus_sink *sink) {
    zc__redis *r = (zc__redis *)user;
    zc__redis_log log = zc__redis_attached(r);
    uint64_t ms = wait / ZC_MILLISECOND + (wait % ZC_MILLISECOND != 0);
    if (!log.gen) return ZC_RETRY;
    zc__atomic_store_rel(&r->reader.taken, true);
    bool may = zc__redis_may_wait(r, ms ? r->reader.link : NULL);
    int rc = may ? zc__redis_read_waiting(r, log, position, ms, sink)
                 : zc__redis_read_once(r, log, position, 0, sink);
    if (rc == ZC_E_BUSY && r->reader.pending) {
        zc__redis_drop(r, &r->reader);
        rc = zc__redis_read_once(r, log, position, 0, sink);
    }
    bool woken = zc__redis_waited(r);
    if (may && woken && rc < 0) rc = ZC_MORE;
    else if (may && rc == ZC_E_BUS) rc = zc__redis_read_once(r, log, position, 0, sink);
    if (rc < 0 && r->reader.pending) zc__redis_drop(r, &r->reader); /* not over the pool again */
    zc__atomic_store_rel(&r->reader.taken, false);
    return rc;
}

/* Asks for what comes after `position`, over the wake-up connection. False: it cannot be had now.
 * What was asked before will do while it is of this log, and not overdue. */
static bool zc__redis_arm_wakeup(zc__redis *r, uint64_t position) {
    zc__redis_log log = zc__redis_attached(r);
    uint64_t now = zc__redis_now(r);
    zc__redis_req q;
    bool asked = r->wakeup.link && r->wakeup_until;
    if (asked && log.gen == r->wakeup_gen && now < r->wakeup_until) return true;
    if (asked) zc__redis_drop(r, &r->wakeup);
    if (!r->wakeup.link && zc__redis_connect(r, &r->wakeup, ZC_NEVER, now + r->timeout))
        return false;
    zc__req_init(r, &q);
    zc__req_cmd(&q, "XREAD COUNT 1 BLOCK %u STREAMS $log %u-%u", (uint64_t)ZC__REDIS_WAKEUP,
                log.gen, position);
    bool sent = !q.failed && zc__redis_append_cmd(r, &r->wakeup, &q, 0) == ZC_OK;
    zc__req_free(&q);
    r->wakeup_gen = log.gen;
    r->wakeup_until = now + ZC__REDIS_WAKEUP * ZC_MILLISECOND + r->timeout;
    if (!sent) zc__redis_drop(r, &r->wakeup);
    return sent;
}

/* Takes a wake-up. False: it is an error. */
static bool zc__redis_wakeup_fired(zc__redis *r) {
    redisReply *reply = NULL;
    int rc = r->io.reply(r->io.user, r->wakeup.link, r->timeout, &reply);
    bool good = rc == ZC_OK && !zc__redis_is(reply, REDIS_REPLY_ERROR);
    if (reply) freeReplyObject(reply);
    r->wakeup_until = 0;
    if (!good) zc__redis_drop(r, &r->wakeup);
    return good;
}

/* Waits for a wake-up, then takes those of other shards, too. False: one is an error. */
static bool zc__redis_wait_wakeups(zc__redis *r, uint64_t wait) {
    void *links[ZC_LOGS_MAX];
    zc__redis *of[ZC_LOGS_MAX];
    for (bool good = true;; wait = 0) {
        unsigned n = 0;
        for (unsigned i = 0; i < r->nshards; i++) {
            of[n] = (zc__redis *)r->shards[i];
            links[n] = of[n]->wakeup_until ? of[n]->wakeup.link : NULL;
            n += links[n] != NULL;
        }
        int i = r->io.wait(r->io.user, links, n, wait);
        if (i < 0) return good;
        good = zc__redis_wakeup_fired(of[i]) && good;
    }
}

static void zc__redis_wait(void *user, const uint64_t *positions, uint64_t wait) {
    zc__redis *r = (zc__redis *)user;
    bool good = true;
    for (unsigned i = 0; i < r->nshards; i++) {
        zc__redis *s = (zc__redis *)r->shards[i];
        zc__atomic_store_rel(&s->wakeup.taken, true);
        good = zc__redis_arm_wakeup(s, positions[i]) && good;
    }
    bool may = zc__redis_may_wait(r, good ? r->wakeup.link : NULL);
    if (may) good = zc__redis_wait_wakeups(r, wait);
    bool woken = zc__redis_waited(r);
    /* Without wake-ups it reads now and then. */
    if (!good && !woken) r->io.sleep(wait < ZC__REDIS_PAUSE ? wait : ZC__REDIS_PAUSE);
    for (unsigned i = 0; i < r->nshards; i++)
        zc__atomic_store_rel(&((zc__redis *)r->shards[i])->wakeup.taken, false);
}

/* Is what was appended safe? */
static bool zc__redis_is_durable(const zc__redis *r, const redisReply *wait,
                                 const redisReply *config) {
    if (r->replicas) return zc__redis_integer(wait) >= (long long)r->replicas;
    if (zc__redis_array(wait, 2)) return zc__redis_integer(wait->element[0]) >= 1;
    return zc__redis_same(zc__redis_value(config, "appendonly"), "yes") &&
           zc__redis_same(zc__redis_value(config, "appendfsync"), "always");
}

/* WAIT for the replicas; or, without any, WAITAOF (from Redis 7.2) and how the disk is written. */
static void zc__req_durable(zc__redis *r, zc__redis_req *q) {
    uint64_t ms = r->timeout / ZC_MILLISECOND + 1;
    if (r->replicas) {
        zc__req_cmd(q, "WAIT %u %u", (uint64_t)r->replicas, ms);
        return;
    }
    zc__req_cmd(q, "WAITAOF 1 0 %u", ms);
    zc__req_cmd(q, "CONFIG GET append*");
}

/* The list of an entry, with memory even if it is empty. False: there is none. */
static bool zc__redis_list(const zc__redis *r, const zc_bytes *tags, size_t n, zc__buf *list) {
    size_t size = zc__list_size(tags, n);
    memset(list, 0, sizeof *list);
    if (!zc__buf_reserve(&r->mem, list, size + 1)) return false;
    zc__list_write(list->ptr, tags, n);
    list->size = size;
    return true;
}

static int zc__redis_append(void *user, const zc_bytes *tags, size_t n, bool durable,
                            uint64_t position, zc_bus_sink *sink) {
    zc__redis *r = (zc__redis *)user;
    zc__redis_log log = zc__redis_attached(r);
    zc__redis_req q;
    zc__buf list;
    uint64_t own = 0;
    if (!zc__redis_list(r, tags, n, &list)) return ZC_E_NOMEM;
    zc__req_init(r, &q);
    zc__req_script(&q, ZC__APPEND, 3);
    zc__req_add(&q, "$log $tags $tags2 %u", log.gen);
    zc__req_nonce(r, &q);
    zc__req_add(&q, "%b %u %u", list.ptr, list.size, r->log_length, r->max_tags / 2 + 4);
    for (size_t i = 0; i < n; i++) zc__req_arg(&q, tags[i].ptr, tags[i].len);
    zc__req_end(&q);
    zc__req_range(&q, log, position);
    if (durable) zc__req_durable(r, &q);
    int rc = zc__redis_log_call(r, &q, log, false, durable ? r->timeout : 0);
    if (rc == ZC_OK && zc__redis_is(q.reply[0], REDIS_REPLY_INTEGER)) rc = ZC_RETRY;
    if (rc == ZC_OK && !zc__redis_number(q.reply[0], &own)) rc = ZC_E_BUS;
    if (rc == ZC_OK) rc = zc__redis_range(r, log, own, q.reply[1], position, sink);
    bool done = rc == ZC_OK || rc == ZC_MORE;
    if (done && durable && !zc__redis_is_durable(r, q.reply[2], q.reply[3])) {
        zc__redis_say(r, ZC_LOG_ERROR, "ZC_DURABLE: not known to be safe", zc_slice("", 0));
        rc = ZC_E_BUS;
    }
    zc__req_free(&q);
    zc__buf_free(&r->mem, &list);
    return rc;
}

static void zc__req_versions(zc__redis_req *q, const char *command, const zc_bytes *paths,
                             size_t n) {
    zc__req_add(q, command);
    for (size_t i = 0; i < n; i++) zc__req_arg(q, paths[i].ptr, paths[i].len);
    zc__req_end(q);
}

/* *v: 0 if it is not there. false: it is there, and no number. */
static bool zc__redis_field(const redisReply *f, uint64_t *v) {
    *v = 0;
    if (zc__redis_is(f, REDIS_REPLY_NIL)) return true;
    return zc__redis_number(f, v);
}

/* R2. Both are [g, f, s, position...]. */
static int zc__redis_versions_read(zc__redis_log log, const redisReply *young,
                                   const redisReply *old, const zc_bytes *paths, size_t n,
                                   uint64_t *positions) {
    uint64_t gen, old_gen, floor, begun, v, w;
    if (!zc__redis_array(young, n + 3) || !zc__redis_array(old, n + 3)) return ZC_RETRY;
    if (!zc__redis_field(young->element[0], &gen) || gen != log.gen) return ZC_RETRY;
    if (!zc__redis_field(old->element[0], &old_gen)) return ZC_RETRY;
    if (!zc__redis_field(young->element[1], &floor) || !zc__redis_field(young->element[2], &begun))
        return ZC_RETRY;
    if (old_gen != gen) floor = begun; /* tags2 is lost, or there never was one: begun is 0 */
    for (size_t i = 0; i < n; i++) {
        if (!zc__redis_field(young->element[i + 3], &v)) return ZC_RETRY;
        if (!zc__redis_field(old->element[i + 3], &w)) return ZC_RETRY;
        if (old_gen == gen && w > v) v = w;
        positions[i] = v || paths[i].len == 0 ? v : floor;
    }
    return ZC_OK;
}

static int zc__redis_versions(void *user, const zc_bytes *paths, size_t n, uint64_t *positions) {
    zc__redis *r = (zc__redis *)user;
    zc__redis_log log = zc__redis_attached(r);
    zc__redis_req q;
    zc__req_init(r, &q);
    zc__req_fence(r, &q);
    zc__req_cmd(&q, "MULTI"); /* between two commands the hashes might change places */
    zc__req_versions(&q, "HMGET $tags @g @f @s", paths, n);
    zc__req_versions(&q, "HMGET $tags2 @g @f @s", paths, n);
    zc__req_cmd(&q, "EXEC");
    unsigned exec = q.ncmds - 1;
    int rc = zc__redis_log_call(r, &q, log, false, 0);
    const redisReply *both = q.reply[exec];
    if (rc == ZC_OK && !zc__redis_array(both, 2)) rc = ZC_E_BUS;
    if (rc == ZC_OK)
        rc = zc__redis_versions_read(log, both->element[0], both->element[1], paths, n, positions);
    zc__req_free(&q);
    return rc;
}

static int zc__redis_hold(void *user, uint64_t id, const zc_bytes *tags, size_t n) {
    zc__redis *r = (zc__redis *)user;
    zc__redis_log log = zc__redis_attached(r);
    zc__redis_req q;
    zc__buf list;
    if (!zc__redis_list(r, tags, n, &list)) return ZC_E_NOMEM;
    zc__req_init(r, &q);
    zc__req_fence(r, &q);
    if (n) zc__req_cmd(&q, "HSET $holds %x %b", id, list.ptr, list.size);
    else zc__req_cmd(&q, "HDEL $holds %x", id);
    int rc = zc__redis_log_call(r, &q, log, false, 0);
    zc__req_free(&q);
    zc__buf_free(&r->mem, &list);
    return rc;
}

static int zc__redis_holds(void *user, zc_bus_sink *sink) {
    zc__redis *r = (zc__redis *)user;
    zc__redis_log log = zc__redis_attached(r);
    zc__redis_req q;
    uint64_t id;
    zc__req_init(r, &q);
    zc__req_fence(r, &q);
    zc__req_cmd(&q, "HGETALL $holds");
    unsigned all = q.ncmds - 1;
    /* Writers who wait for replicas may have all other connections. */
    int rc = zc__redis_log_call(r, &q, log, true, 0);
    const redisReply *got = q.reply[all];
    bool pairs = zc__redis_is(got, REDIS_REPLY_ARRAY) || zc__redis_is(got, ZC__REDIS_MAP);
    if (rc == ZC_OK && !pairs) rc = ZC_E_BUS;
    for (size_t i = 0; rc == ZC_OK && i + 1 < got->elements; i += 2) {
        const redisReply *name = got->element[i], *list = got->element[i + 1];
        if (!zc__redis_string(name) || !zc__redis_string(list)) rc = ZC_E_BUS;
        else if (zc__redis_unhex(name, &id))
            rc = zc__list_deliver(&r->mem, zc_slice(list->str, list->len), id, sink);
        if (rc == ZC_E_CORRUPT) rc = ZC_OK; /* none of ours */
    }
    zc__req_free(&q);
    return rc;
}

/* Answers a monitor that asked under `token`. */
static int zc__redis_answer(zc__redis *r, const redisReply *token, zc_bytes text) {
    zc__redis_req q;
    zc__req_init(r, &q);
    q.at_once = true;
    zc__req_cmd(&q, "RPUSH $reply:%b %b", token->str, token->len, text.ptr, text.len);
    zc__req_cmd(&q, "PEXPIRE $reply:%b 5000", token->str, token->len);
    int rc = zc__redis_call(r, &q, 0, 0);
    if (rc == ZC_OK) rc = zc__redis_error(q.reply[0]);
    zc__req_free(&q);
    return zc__bus_rc(rc);
}

#define ZC__REDIS_ANSWERS UINT64_C(16) /* monitors answered in one beat */

/* By the thread that reads the log, which must not wait for writers who have all connections,
 * perhaps for as long as replicas lag: then the next beat does. */
static int zc__redis_beat(void *user, zc_bytes text) {
    zc__redis *r = (zc__redis *)user;
    uint64_t ms = zc__wall(&r->clock) / ZC_MILLISECOND;
    zc__redis_req q;
    zc__req_init(r, &q);
    q.at_once = true;
    zc__req_cmd(&q, "SET $node:%x %b PX 5000", r->node, text.ptr, text.len);
    zc__req_cmd(&q, "ZADD $nodes %u %x", ms, r->node);
    zc__req_cmd(&q, "ZREMRANGEBYSCORE $nodes -inf %u", ms > 60000 ? ms - 60000 : 0);
    zc__req_cmd(&q, "MULTI"); /* what is asked in between is not trimmed */
    zc__req_cmd(&q, "LRANGE $inspect:%x 0 %u", r->node, ZC__REDIS_ANSWERS - 1);
    zc__req_cmd(&q, "LTRIM $inspect:%x %u -1", r->node, ZC__REDIS_ANSWERS);
    zc__req_cmd(&q, "EXEC");
    int rc = zc__redis_call(r, &q, 0, 0);
    for (unsigned i = 0; i < q.ncmds && rc == ZC_OK; i++) rc = zc__redis_error(q.reply[i]);
    const redisReply *both = q.reply[q.ncmds - 1];
    if (rc == ZC_OK && !zc__redis_array(both, 2)) rc = ZC_E_BUS;
    const redisReply *asked = rc == ZC_OK ? both->element[0] : NULL;
    for (size_t i = 0; rc == ZC_OK && zc__redis_is(asked, REDIS_REPLY_ARRAY) && i < asked->elements;
         i++)
        if (zc__redis_string(asked->element[i]) && asked->element[i]->len <= 64)
            rc = zc__redis_answer(r, asked->element[i], text);
    zc__req_free(&q);
    return rc == ZC_E_BUSY ? ZC_OK : zc__bus_rc(rc);
}

static void zc__redis_wake(void *user) {
    zc__redis *r = (zc__redis *)user;
    zc__spin_lock(&r->state);
    r->woken = true;
    if (r->blocked) r->io.wake(r->io.user, r->blocked);
    zc__spin_unlock(&r->state);
}

/* ---- open, fork, close */

static void zc__redis_fork(zc__redis *r) {
    for (unsigned i = 0; i <= r->nconns + 1; i++) {
        zc__redis_conn *c = i < r->nconns ? &r->conns[i] : i == r->nconns ? &r->reader : &r->wakeup;
        if (c->link) r->io.close(r->io.user, c->link, c->taken);
        if (!c->taken) zc__redis_greeted(c);
        memset(c, 0, sizeof *c);
    }
    (void)zc__monitor_init(&r->pool, ZC__RANK_POOL);
    r->queue = NULL;
    memset(&r->state, 0, sizeof r->state);
    ZC__SET_RANK(&r->state, ZC__RANK_LEAF);
    zc__lines_init(&r->lines, r->lines.log);
    r->woken = false;
    r->blocked = NULL;
    if (r->wake_pipe[0] >= 0) { /* the parent's is the parent's */
        zc__redis_pipe_close(r);
        (void)zc__redis_pipe_open(r);
    }
    r->node = r->io.random(); /* nonces are one process's own */
}

static void zc__redis_forked(void *user) {
    const zc__redis *r = (const zc__redis *)user;
    for (unsigned i = 0; i < r->nshards; i++) zc__redis_fork((zc__redis *)r->shards[i]);
}

static void zc__redis_report(void *user) {
    const zc__redis *r = (const zc__redis *)user;
    for (unsigned i = 0; i < r->nshards; i++) zc__lines_report(&((zc__redis *)r->shards[i])->lines);
}

static void zc__redis_free(zc__redis *r) {
    for (unsigned i = 0; r->conns && i < r->nconns; i++) zc__redis_drop(r, &r->conns[i]);
    zc__redis_drop(r, &r->reader);
    zc__redis_drop(r, &r->wakeup);
    zc__free(&r->mem, r->conns, r->nconns * sizeof *r->conns);
    zc__free(&r->mem, r->text, r->text_size);
#ifdef ZOOCACHE_WITH_REDIS_TLS
    SSL_CTX_free(r->tls_ctx);
    BIO_meth_free(r->tls_bio);
#endif
    zc__redis_pipe_close(r);
    zc__monitor_destroy(&r->pool);
    zc__mem mem = r->mem;
    zc__free(&mem, r, sizeof *r);
}

static void zc__redis_free_all(zc__redis *r) {
    for (unsigned i = r->nshards; i--;)
        if (r->shards[i]) zc__redis_free((zc__redis *)r->shards[i]);
}

static void zc__redis_close(void *user) {
    zc__redis *r = (zc__redis *)user;
    if (zc__atomic_sub_acqrel(&r->refs, 1u) != 1) return;
    zc__redis_report(r);
    zc__redis_free_all(r);
}

/* %XX, in place. */
static bool zc__redis_unescape(char *s) {
    char *to = s;
    for (; *s; s++) {
        uint64_t v = (unsigned char)*s;
        if (*s == '%') {
            char hex[2] = {(char)(s[1] | ' '), (char)(s[1] ? s[2] | ' ' : 0)}; /* of either case */
            if (!zc__digits(hex, 2, 16, &v) || v == 0) return false;
            s += 2;
        }
        *to++ = (char)v;
    }
    *to = '\0';
    return true;
}

/* [[user]:password@], cut off. */
static bool zc__redis_url_user(zc__redis *r, char **rest) {
    char *at = strrchr(*rest, '@');
    if (!at) return true;
    char *colon = strchr(*rest, ':');
    if (!colon || colon > at) return false;
    *colon = *at = '\0';
    if (colon != *rest) r->user = *rest;
    r->password = colon + 1;
    char *user = *rest;
    *rest = at + 1;
    return zc__redis_unescape(user) && zc__redis_unescape(colon + 1);
}

static bool zc__redis_url_db(zc__redis *r, const char *s) {
    uint64_t db;
    if (!zc__digits(s, strlen(s), 10, &db) || db > INT32_MAX) return false;
    r->db = (uint32_t)db;
    return true;
}

/* host[:port], [v6]:port */
static bool zc__redis_url_host(zc__redis *r, char *s, uint64_t port) {
    if (r->naddrs == ZC__REDIS_SENTINELS) return false;
    char *end = *s == '[' ? strchr(s, ']') : NULL, *colon = strchr(end ? end : s, ':');
    if (*s == '[' && (!end || (end[1] && end[1] != ':'))) return false;
    if (colon && !zc__digits(colon + 1, strlen(colon + 1), 10, &port)) return false;
    const char *host = end ? s + 1 : s;
    size_t n = end ? (size_t)(end - s - 1) : colon ? (size_t)(colon - s) : strlen(s);
    if (n == 0) return zc__redis_addr_set(&r->addrs[r->naddrs++], "127.0.0.1", 9, port);
    return zc__redis_addr_set(&r->addrs[r->naddrs++], host, n, port);
}

static bool zc__redis_url_unix(zc__redis *r, char *s) {
    char *query = strchr(s, '?');
    if (query) *query++ = '\0';
    if (query && (strncmp(query, "db=", 3) != 0 || !zc__redis_url_db(r, query + 3))) return false;
    size_t n = strlen(s);
    if (n == 0 || n >= sizeof r->addrs[0].host) return false;
    memcpy(r->addrs[0].host, s, n + 1);
    r->naddrs = 1;
    return true;
}

/* hosts[/master][/database]. A query or a fragment, in which there may be a password, would come to
 * be a part of a name, and into the log. */
static bool zc__redis_url_hosts(zc__redis *r, char *s, bool sentinel) {
    char *slash = strchr(s, '/'), *second = NULL;
    if (strchr(s, '?') || strchr(s, '#')) return false;
    if (slash) *slash++ = '\0';
    if (sentinel) {
        if (!slash || !*slash || *slash == '/') return false;
        r->master = slash;
        second = strchr(slash, '/');
        if (second) *second++ = '\0';
        slash = second;
    }
    if (slash && *slash && !zc__redis_url_db(r, slash)) return false;
    while (s) {
        char *comma = sentinel ? strchr(s, ',') : NULL;
        if (comma) *comma++ = '\0';
        if (!zc__redis_url_host(r, s, sentinel ? 26379 : 6379)) return false;
        s = comma;
    }
    return true;
}

static bool zc__redis_cut(char **s, const char *scheme) {
    size_t n = strlen(scheme);
    if (strncmp(*s, scheme, n) != 0) return false;
    *s += n;
    return true;
}

static int zc__redis_url(zc__redis *r) {
    char *s = r->text;
    bool local = zc__redis_cut(&s, "unix://"), sentinel = zc__redis_cut(&s, "redis+sentinel://");
    if (!local && !sentinel) {
        r->tls = zc__redis_cut(&s, "rediss://");
        if (!r->tls && !zc__redis_cut(&s, "redis://")) return ZC_E_INVAL;
    }
    if (!zc__redis_url_user(r, &s)) return ZC_E_INVAL;
    bool good = local ? zc__redis_url_unix(r, s) : zc__redis_url_hosts(r, s, sentinel);
    return good ? ZC_OK : ZC_E_INVAL;
}

#ifdef ZOOCACHE_WITH_REDIS_TLS
static bool zc__redis_tls_files(SSL_CTX *ctx, const zc_redis_desc *d) {
    if (!(d->tls_ca ? SSL_CTX_load_verify_locations(ctx, d->tls_ca, NULL)
                    : SSL_CTX_set_default_verify_paths(ctx)))
        return false;
    if (!d->tls_cert || !d->tls_key) return !d->tls_cert && !d->tls_key;
    char no_password[] = ""; /* else OpenSSL would ask at the terminal */
    SSL_CTX_set_default_passwd_cb_userdata(ctx, no_password);
    bool good = SSL_CTX_use_certificate_chain_file(ctx, d->tls_cert) == 1 &&
                SSL_CTX_use_PrivateKey_file(ctx, d->tls_key, SSL_FILETYPE_PEM) == 1 &&
                SSL_CTX_check_private_key(ctx) == 1;
    SSL_CTX_set_default_passwd_cb_userdata(ctx, NULL);
    return good;
}

static int zc__redis_tls(zc__redis *r, const zc_redis_desc *d) {
    if (!r->tls) return ZC_OK;
    /* Without zc_close() a thread may still be in there when the program ends. */
    (void)OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL);
    r->tls_ctx = SSL_CTX_new(TLS_client_method());
    r->tls_bio = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "zoocache");
    bool good = r->tls_ctx && r->tls_bio && BIO_meth_set_read(r->tls_bio, zc__redis_bio_read) &&
                BIO_meth_set_write(r->tls_bio, zc__redis_bio_write) &&
                BIO_meth_set_ctrl(r->tls_bio, zc__redis_bio_ctrl) &&
                SSL_CTX_set_min_proto_version(r->tls_ctx, TLS1_2_VERSION);
    if (good) {
        SSL_CTX_set_verify(r->tls_ctx, SSL_VERIFY_PEER, NULL);
        (void)SSL_CTX_set_options(r->tls_ctx, SSL_OP_NO_RENEGOTIATION);
    }
    int rc = !good ? ZC_E_NOMEM : zc__redis_tls_files(r->tls_ctx, d) ? ZC_OK : ZC_E_INVAL;
    ERR_clear_error();
    return rc;
}
#else
static int zc__redis_tls(zc__redis *r, const zc_redis_desc *d) {
    (void)d;
    return r->tls ? ZC_E_BUILD : ZC_OK;
}
#endif

static void zc__redis_defaults(zc__redis *r, const zc_redis_desc *d, const zc__redis_io *io) {
    const zc__redis_io real = {zc__redis_io_open, zc__redis_io_append, zc__redis_io_reply,
                               zc__redis_io_wake, zc__redis_io_close,  zc__nap,
                               zc__system_random, zc__redis_io_wait,   r};
    r->clock = d->clock;
    zc__lines_init(&r->lines, d->log);
    r->io = io ? *io : real;
    r->timeout = d->timeout ? d->timeout : 250 * ZC_MILLISECOND;
    r->nconns = d->connections ? d->connections : 8;
    r->replicas = d->replicas;
    r->log_length = d->log_length ? d->log_length : 100000;
    r->max_tags = d->max_tags ? d->max_tags : 200000;
    r->max_ttl = d->max_ttl ? d->max_ttl : 30 * 86400 * ZC_SECOND;
    if (r->max_ttl < ZC_MILLISECOND) r->max_ttl = ZC_MILLISECOND;
    r->node = r->io.random();
}

static int zc__redis_texts(zc__redis *r, const zc_redis_desc *d) {
    const char *url = d->url ? d->url : "redis://127.0.0.1";
    const char *prefix = d->prefix ? d->prefix : "zoocache";
    size_t n = strlen(prefix);
    if (n == 0 || n > 64 || strpbrk(prefix, "{}")) return ZC_E_INVAL;
    r->text_size = strlen(url) + 1;
    r->text = (char *)zc__alloc(&r->mem, r->text_size);
    zc__text t = {r->prefix, ZC__REDIS_PREFIX, 0};
    r->conns = (zc__redis_conn *)zc__alloc_zero(&r->mem, r->nconns * sizeof *r->conns);
    if (!r->text || !r->conns) return ZC_E_NOMEM;
    memcpy(r->text, url, r->text_size);
    zc__text_with(&t, r->shard ? "{%:" : "{%", prefix, NULL);
    if (r->shard) zc__text_num(&t, r->shard, 1);
    zc__text_str(&t, "}:");
    r->prefix_len = t.len;
    return zc__redis_url(r);
}

static void zc__redis_tables(zc__redis *r, zc_store *store, zc_bus *bus) {
    const zc_store s = {1, zc__redis_get, zc__redis_put, NULL, zc__redis_del, zc__redis_touch,
                        zc__redis_clear, NULL, NULL, NULL, zc__redis_get_many, zc__redis_lock,
                        zc__redis_unlock_key, zc__redis_report, zc__redis_forked, zc__redis_close,
                        r};
    const zc_bus b = {1, zc__redis_attach, zc__redis_read, zc__redis_append, zc__redis_versions,
                      NULL, zc__redis_beat, zc__redis_wake, zc__redis_report, zc__redis_forked,
                      zc__redis_close, r, r->nshards, r->shards, zc__redis_wait, zc__redis_hold,
                      zc__redis_holds};
    if (store) *store = s;
    if (bus) *bus = b;
}

static int zc__redis_new(const zc_redis_desc *d, const zc__redis_io *io, unsigned shard,
                         zc__redis **out) {
    zc__mem mem = zc__mem_by(&d->allocator);
    zc__redis *r = (zc__redis *)zc__alloc_zero(&mem, sizeof *r);
    if (!r) return ZC_E_NOMEM;
    r->mem = mem;
    r->shard = shard;
    r->nshards = d->log_shards;
    ZC__SET_RANK(&r->state, ZC__RANK_LEAF);
    if (!zc__monitor_init(&r->pool, ZC__RANK_POOL)) {
        zc__free(&mem, r, sizeof *r);
        return ZC_E_THREAD;
    }
    zc__redis_defaults(r, d, io);
    r->wake_pipe[0] = r->wake_pipe[1] = -1;
    int rc = zc__redis_texts(r, d);
    if (rc == ZC_OK) rc = zc__redis_tls(r, d);
    if (rc == ZC_OK && !shard && !zc__redis_pipe_open(r)) rc = ZC_E_THREAD;
    if (rc == ZC_OK) *out = r;
    else zc__redis_free(r);
    return rc;
}

/* `io`: NULL: sockets. */
static int zc__redis_open(const zc_redis_desc *desc, const zc__redis_io *io, zc_store *store,
                          zc_bus *bus) {
    zc_redis_desc d;
    zc__redis *r, *next;
    uint32_t wanted = zc__tables_begin(store, bus);
    if (!wanted) return ZC_E_INVAL;
    if (desc) d = *desc;
    else memset(&d, 0, sizeof d);
    if (!d.log_shards) d.log_shards = 1;
    if (d.log_shards > ZC_LOGS_MAX) return ZC_E_INVAL;
    int rc = zc__redis_new(&d, io, 0, &r);
    if (rc != ZC_OK) return rc;
    r->shards[0] = r;
    for (unsigned i = 1; i < d.log_shards && rc == ZC_OK; i++) {
        rc = zc__redis_new(&d, io, i, &next);
        if (rc == ZC_OK) r->shards[i] = next;
    }
    if (rc != ZC_OK) {
        zc__redis_free_all(r);
        return rc;
    }
    r->refs = wanted;
    zc__redis_tables(r, store, bus);
    return ZC_OK;
}

ZOOCACHE_API int zc_redis_open(const zc_redis_desc *desc, zc_store *store, zc_bus *bus) {
    return zc__redis_open(desc, NULL, store, bus);
}
#endif /* ZOOCACHE_WITH_REDIS */

#if defined(ZOOCACHE_WITH_BUS) && !defined(ZOOCACHE_NO_STDLIB)
/* ============================================================================================
 * >>place   Any place that can compare and set, as storage and bus
 *   Promise     `read` and `swap` of one key are linearizable: that is all that a place must do.
 *   Idea        The log is one value under one key. Whoever appends reads it, puts his entries
 *               behind the last, and swaps; if somebody was faster, again. So each value is what
 *               one swap has made of the value before, and one read is proof: every entry after
 *               the cursor is in it, or it is another log.
 *   Keys        "<prefix>." and then
 *                 r.<name>      a record. Its name: 32 hex digits, the XXH3-128 of its key, seeded
 *                               with the era: clearing makes another era, in O(1), and the records
 *                               of the old end by their expiry, max_ttl at the latest
 *                 log           the log
 *                 lock.<slot>   fleet locks, those of the keys whose XXH3-64 ends so (2 hex
 *                               digits): of each hash 8, token 8, end 8 (wall clock, ms)
 *                 test.<hex>    what the place is tried with; deleted then
 *   Log         numbers little-endian: "zooplac1" 8 | generation 8 | era 8 | position of the first
 *               entry 8 | entries 4 | bytes of entries 4 | entries | holds | XXH3-64 of all that 8.
 *               An entry: nonce 8 | size 4 | list of tags; none: everything. A hold: id instead of
 *               nonce. A new log has an entry at position 0, which nobody is given.
 *   Window      The last 1,024 entries, 64 KiB of them at most, are there. One swap adds half of
 *               that at most, so who polls in time always finds the entry at his cursor. Who does
 *               not, attaches anew. An entry of more than 30 KiB stands for everything.
 *   Versions    A path that no entry there names was last named before the first one. So a node
 *               that joins does not take records which are older than that.
 *   Breaks      Lost, evicted, damaged: the next who attaches makes another log, with a random
 *               generation, which is the log's identity, and era. Rolled back: a value whose entry
 *               at the last position that was seen here has another nonce, or none, or whose
 *               generation is one that was left. Positions would be given twice, so another log
 *               takes its place, too. One node that has seen what is gone must be alive for that.
 *   Turns       In a process, one exchange with the log at a time, a read and perhaps a swap, for
 *               all who wait for one. They take their turns in the order in which they came.
 *   Answers     that are lost: a swap that has failed, or not won, may have taken effect all the
 *               same (a client that sends again). So nonces are looked for before an entry is
 *               appended once more, under another nonce.
 *   Invariants  P1 a node is given the entry after its cursor or nothing, and only from values
 *                  that follow (by nonce) from those that it was given before
 *               P2 what `versions` and `holds` tell is of a value that was read at the attach or
 *                  later
 *   Locking     `monitor`: everything of zc__place; never held while the place, or a sink, is
 *               called. The log itself belongs to who has his turn (`busy`).
 *   Cost        get, put, del: one call, and a read of the log where it was not read for a second;
 *               append, hold, clear, lock, unlock: a read and a swap; read, attach: one read, after
 *               a quarter of T while it may wait; versions, holds: none
 *   Not done    `touch`, and `beat`: a place has no list of nodes. ZC_DURABLE is as ZC_ACKED: where
 *               the log loses what it has taken, all nodes flush.
 * ========================================================================================== */

#define ZC__PLACE_MAGIC UINT64_C(0x3163616c706f6f7a) /* "zooplac1" */
#define ZC__PLACE_HEAD 40u
#define ZC__PLACE_ENTRIES 1024u
#define ZC__PLACE_BYTES 65536u
#define ZC__PLACE_LIST 30720u      /* bytes of an entry's tags */
#define ZC__PLACE_BATCH 32768u     /* bytes, and half of the entries, that one swap adds */
#define ZC__PLACE_HOLDS 16384u     /* bytes of holds */
#define ZC__PLACE_TRIES 32u        /* swaps, while others are faster */
#define ZC__PLACE_PAUSE (100 * ZC_MICROSECOND) /* before the next, at random; at first */
#define ZC__PLACE_LEFT 4u          /* generations that are remembered */
#define ZC__PLACE_LOCK 24u         /* bytes of a lock */

/* A value of the log, taken apart. */
typedef struct zc__place_log {
    uint32_t refs; /* [monitor] */
    uint32_t n;
    uint64_t gen, era, first;
    size_t holds; /* where they begin, and the entries end */
    zc__buf value, token;
} zc__place_log;

typedef enum zc__place_what {
    ZC__PLACE_READ,   /* nothing is changed */
    ZC__PLACE_OPEN,   /* nothing, but a log is made if there is none */
    ZC__PLACE_CLEAR,  /* another era; likewise */
    ZC__PLACE_APPEND, /* an entry */
    ZC__PLACE_HOLD    /* a hold; without tags: its end */
} zc__place_what;

/* What somebody wants of the log. */
typedef struct zc__place_op {
    struct zc__place_op *next;
    zc__place_what what;
    uint64_t gen; /* the log that is meant, but for OPEN and CLEAR */
    uint64_t id;  /* of the hold; of the entry, the nonce under which it was tried, or 0 */
    const zc_bytes *tags;
    size_t n, size; /* of the list */
    int result, rc; /* rc: ZC_PENDING until it is over [monitor] */
} zc__place_op;

typedef struct zc__place {
    zc__mem mem;
    zc_clock clock;
    zc__lines lines;
    zc_place place;
    uint64_t (*draw)(void); /* 64 bits that no other process draws */
    uint64_t poll, max_ttl;
    uint32_t refs, tried; /* atomic. tables that are open; ZC__PLACE_TRIED: it keeps its promise */
    pid_t pid;
    char prefix[ZC_PLACE_KEY]; /* "prefix." */
    size_t prefix_len;
    zc__monitor monitor;
    uint64_t random;
    zc__place_op *queue, **queue_end;
    bool busy;  /* somebody has his turn */
    bool woken; /* a read is not to wait */
    zc__place_log *log; /* as it was seen last; NULL: never */
    uint64_t seen_at;   /*   when */
    uint64_t left[ZC__PLACE_LEFT]; /* generations before that one, */
    unsigned nleft;                /*   and how many were ever left */
    uint64_t attached; /* the generation that the bus was told of; 0: none */
} zc__place;

static uint64_t zc__place_random(zc__place *p) {
    zc__monitor_lock(&p->monitor);
    uint64_t v = zc__random(&p->random);
    zc__monitor_unlock(&p->monitor);
    return v ? v : 1;
}

/* "<prefix>.<kind>" and hex digits of numbers. */
static zc_bytes zc__place_key(const zc__place *p, char *to, const char *kind, uint64_t high,
                              uint64_t low, unsigned digits) {
    zc__text t = {to, ZC_PLACE_KEY, 0};
    zc__text_bytes(&t, p->prefix, p->prefix_len);
    zc__text_str(&t, kind);
    if (digits > 16) zc__text_hex(&t, high, digits - 16);
    zc__text_hex(&t, low, digits > 16 ? 16 : digits);
    return zc_slice(to, t.len);
}

/* ---- what a place is asked */

/* A result of the place's: of what it may not say, a failure. */
static int zc__place_rc(int rc, bool may_miss) {
    return rc <= 0 || (rc == ZC_MISS && may_miss) ? rc : ZC_E_STORE;
}

static int zc__place_read(zc__place *p, zc_bytes key, zc__buf *value, zc__buf *token) {
    zc_sink sinks[2];
    memset(sinks, 0, sizeof sinks);
    value->size = token->size = 0;
    zc__buf *to[2] = {value, token};
    for (int i = 0; i < 2; i++) {
        sinks[i].mem = &p->mem;
        sinks[i].most = UINT32_MAX / 2;
        sinks[i].buf = *to[i];
    }
    int rc = zc__place_rc(p->place.read(p->place.user, key, &sinks[0], &sinks[1]), true);
    for (int i = 0; i < 2; i++) *to[i] = sinks[i].buf;
    if (rc != ZC_OK) value->size = 0;
    return rc;
}

static int zc__place_swap(zc__place *p, zc_bytes key, const zc__buf *value, const zc__buf *token) {
    int rc = p->place.swap(p->place.user, key, zc_slice(value->ptr, value->size),
                           zc_slice(token->ptr, token->size));
    return zc__place_rc(rc, true);
}

/* Somebody was faster: a pause at random, longer each time. `cost`: what a try has taken. */
static void zc__place_back_off(zc__place *p, unsigned tries, uint64_t cost) {
    uint64_t most = cost < ZC__PLACE_PAUSE ? ZC__PLACE_PAUSE : cost;
    if (most > 20 * ZC_MILLISECOND) most = 20 * ZC_MILLISECOND;
    most <<= tries < 4 ? tries : 4;
    uint64_t pause = zc__place_random(p) % most;
    zc__monitor_lock(&p->monitor);
    zc__monitor_sleep(&p->monitor, pause);
    zc__monitor_unlock(&p->monitor);
}

/* ---- the self-test */

enum { ZC__PLACE_UNTRIED, ZC__PLACE_TRIED, ZC__PLACE_REFUSED };

/* A value of one letter is swapped in, by a token that is good; then another, by the same. NULL:
 * it is as it must be. Negative *rc: the place cannot be asked. */
static const char *zc__place_try(zc__place *p, zc_bytes key, char letter, zc__buf *value,
                                 zc__buf *token, int *rc) {
    unsigned char text[2] = {(unsigned char)letter, (unsigned char)(letter + 1)};
    zc__buf one = {text, 1, 1}, two = {text + 1, 1, 1};
    if ((*rc = zc__place_swap(p, key, &one, token)) != ZC_OK) return "a swap does not win";
    if ((*rc = zc__place_swap(p, key, &two, token)) != ZC_MISS)
        return "of two swaps with one token both win";
    *rc = zc__place_read(p, key, value, token);
    bool same = *rc == ZC_OK && value->size == 1 && *value->ptr == text[0];
    return same ? NULL : "a read does not give what was swapped last";
}

/* Tries the place, unless that was done. ZC_E_INVAL: it does not keep its promise. */
static int zc__place_ready(zc__place *p) {
    uint32_t tried = zc__atomic_load_acq(&p->tried);
    if (ZC__LIKELY(tried == ZC__PLACE_TRIED)) return ZC_OK;
    if (tried == ZC__PLACE_REFUSED) return ZC_E_INVAL;
    char text[ZC_PLACE_KEY], line[160];
    zc_bytes key = zc__place_key(p, text, "test.", 0, zc__place_random(p), 16);
    zc__buf value = {NULL, 0, 0}, token = {NULL, 0, 0};
    const char *why = "a key that nobody has used has a value";
    int rc = zc__place_read(p, key, &value, &token);
    if (rc == ZC_MISS) why = zc__place_try(p, key, 'a', &value, &token, &rc);
    if (!why) why = zc__place_try(p, key, 'c', &value, &token, &rc);
    (void)p->place.del(p->place.user, key);
    zc__buf_free(&p->mem, &value);
    zc__buf_free(&p->mem, &token);
    if (rc < 0) return rc;
    if (why) {
        zc__text t = {line, sizeof line, 0};
        zc__text_with(&t, "zoocache: place: refused: %", why, NULL);
        zc__text_end(&t);
        zc__lines_add(&p->lines, ZC_LOG_ERROR, line);
    }
    zc__atomic_store_rel(&p->tried, (uint32_t)(why ? ZC__PLACE_REFUSED : ZC__PLACE_TRIED));
    return why ? ZC_E_INVAL : ZC_OK;
}

/* ---- the log, as a value */

/* Goes from entry to entry of a log, or from hold to hold. */
typedef struct zc__place_items {
    const unsigned char *value;
    size_t at, next, end; /* where this one is, and the next, and where they end */
    uint64_t number;      /* its nonce; its id */
    zc_bytes list;
} zc__place_items;

static zc__place_items zc__place_items_of(const zc__place_log *l, bool holds) {
    size_t end = holds ? l->value.size - 8 : l->holds;
    zc__place_items it = {l->value.ptr, 0, holds ? l->holds : ZC__PLACE_HEAD, end, 0, {NULL, 0}};
    return it;
}

/* False: there is no other. */
static bool zc__place_item(zc__place_items *it) {
    const unsigned char *p = it->value + it->next;
    size_t left = it->end - it->next;
    if (left < 12 || zc__get32(p + 8) > left - 12) return false;
    it->number = zc__get64(p);
    it->list = zc_slice(p + 12, zc__get32(p + 8));
    it->at = it->next;
    it->next += 12 + it->list.len;
    return true;
}

/* Takes l->value apart; false: it is no log. */
static bool zc__place_parse(zc__place_log *l) {
    const unsigned char *v = l->value.ptr;
    size_t size = l->value.size;
    if (size < ZC__PLACE_HEAD + 8 || zc__get64(v) != ZC__PLACE_MAGIC) return false;
    size -= 8;
    if (zc__get64(v + size) != XXH3_64bits(v, size)) return false;
    l->gen = zc__get64(v + 8);
    l->era = zc__get64(v + 16);
    l->first = zc__get64(v + 24);
    l->n = zc__get32(v + 32);
    if (!l->gen || !l->n || l->first > ZC__POSITION_MAX) return false;
    if (zc__get32(v + 36) > size - ZC__PLACE_HEAD) return false;
    l->holds = ZC__PLACE_HEAD + zc__get32(v + 36);
    zc__place_items entries = zc__place_items_of(l, false), holds = zc__place_items_of(l, true);
    for (uint32_t i = 0; i < l->n; i++)
        if (!zc__place_item(&entries)) return false;
    while (zc__place_item(&holds)) {}
    return entries.next == entries.end && holds.next == holds.end;
}

static uint64_t zc__place_last(const zc__place_log *l) { return l->first + l->n - 1; }

/* The nonce at a position that is there. */
static uint64_t zc__place_nonce(const zc__place_log *l, uint64_t position) {
    zc__place_items it = zc__place_items_of(l, false);
    for (uint64_t i = l->first; i <= position; i++) (void)zc__place_item(&it);
    return it.number;
}

static bool zc__place_has(const zc__place_log *l, uint64_t nonce) {
    zc__place_items it = zc__place_items_of(l, false);
    while (zc__place_item(&it))
        if (it.number == nonce) return true;
    return false;
}

/* Is this log one that may come after what was seen here? P1 */
static bool zc__place_follows(const zc__place *p, const zc__place_log *l) {
    const zc__place_log *seen = p->log;
    unsigned n = p->nleft < ZC__PLACE_LEFT ? p->nleft : ZC__PLACE_LEFT;
    for (unsigned i = 0; i < n; i++)
        if (p->left[i] == l->gen) return false;
    if (!seen || seen->gen != l->gen) return true;
    uint64_t last = zc__place_last(seen);
    if (zc__place_last(l) < last) return false;
    return l->first > last || zc__place_nonce(l, last) == zc__place_nonce(seen, last);
}

static void zc__place_unref(zc__place *p, zc__place_log *l) {
    if (!l) return;
    zc__monitor_lock(&p->monitor);
    bool last = --l->refs == 0;
    zc__monitor_unlock(&p->monitor);
    if (!last) return;
    zc__buf_free(&p->mem, &l->value);
    zc__buf_free(&p->mem, &l->token);
    zc__free(&p->mem, l, sizeof *l);
}

/* What was seen last, if it is of that log; with a reference. */
static zc__place_log *zc__place_seen(zc__place *p, uint64_t gen) {
    zc__monitor_lock(&p->monitor);
    zc__place_log *l = p->log && gen && p->log->gen == gen ? p->log : NULL;
    if (l) l->refs++;
    zc__monitor_unlock(&p->monitor);
    return l;
}

/* This is what the log is now. Takes over the reference. */
static void zc__place_saw(zc__place *p, zc__place_log *l, uint64_t at) {
    zc__monitor_lock(&p->monitor);
    zc__place_log *old = p->log;
    if (old && old->gen != l->gen) p->left[p->nleft++ % ZC__PLACE_LEFT] = old->gen;
    p->log = l;
    p->seen_at = at;
    zc__monitor_unlock(&p->monitor);
    zc__place_unref(p, old);
}

/* ---- changing it */

static void zc__place_put_item(zc__buf *to, uint64_t number, const zc__place_op *op) {
    unsigned char *p = to->ptr + to->size;
    zc__put_le(p, number, 8);
    zc__put_le(p + 8, op->size, 4);
    zc__list_write(p + 12, op->tags, op->n);
    to->size += 12 + op->size;
}

/* Of an op that is not over. */
static bool zc__place_wants(const zc__place_op *op, zc__place_what what) {
    return op->what == what && op->result == ZC_PENDING;
}

/* The head; entries and holds follow. */
static zc__place_log *zc__place_begin(zc__place *p, uint64_t gen, uint64_t era, size_t room) {
    zc__place_log *l = (zc__place_log *)zc__alloc_zero(&p->mem, sizeof *l);
    if (!l || !zc__buf_reserve(&p->mem, &l->value, ZC__PLACE_HEAD + room + 8)) {
        zc__free(&p->mem, l, sizeof *l);
        return NULL;
    }
    l->refs = 1;
    l->gen = gen;
    l->era = era;
    l->value.size = ZC__PLACE_HEAD;
    return l;
}

static void zc__place_end(zc__place_log *l) {
    unsigned char *v = l->value.ptr;
    zc__put_le(v, ZC__PLACE_MAGIC, 8);
    zc__put_le(v + 8, l->gen, 8);
    zc__put_le(v + 16, l->era, 8);
    zc__put_le(v + 24, l->first, 8);
    zc__put_le(v + 32, l->n, 4);
    zc__put_le(v + 36, l->holds - ZC__PLACE_HEAD, 4);
    zc__put_le(v + l->value.size, XXH3_64bits(v, l->value.size), 8);
    l->value.size += 8;
}

/* A new log, with one entry; NULL: no memory. */
static zc__place_log *zc__place_first(zc__place *p) {
    zc__place_op genesis;
    memset(&genesis, 0, sizeof genesis);
    uint64_t gen = zc__place_random(p);
    zc__place_log *l = zc__place_begin(p, gen, zc__place_random(p), 12);
    if (!l) return NULL;
    zc__place_put_item(&l->value, zc__place_random(p), &genesis);
    l->n = 1;
    l->holds = l->value.size;
    zc__place_end(l);
    return l;
}

/* Those of the last entries that have room beside what the batch adds, and that. */
static void zc__place_put_entries(zc__place *p, zc__place_log *to, const zc__place_log *from,
                                  zc__place_op *batch) {
    zc__place_items it = zc__place_items_of(from, false);
    size_t bytes = from->holds - ZC__PLACE_HEAD;
    to->first = from->first;
    to->n = from->n;
    for (zc__place_op *op = batch; op; op = op->next) {
        if (!zc__place_wants(op, ZC__PLACE_APPEND)) continue;
        bytes += 12 + op->size;
        to->n++;
    }
    for (; to->n > ZC__PLACE_ENTRIES || bytes > ZC__PLACE_BYTES; to->n--, to->first++) {
        (void)zc__place_item(&it);
        bytes -= it.next - it.at;
    }
    memcpy(to->value.ptr + to->value.size, it.value + it.next, it.end - it.next);
    to->value.size += it.end - it.next;
    for (zc__place_op *op = batch; op; op = op->next) {
        if (!zc__place_wants(op, ZC__PLACE_APPEND)) continue;
        op->id = zc__place_random(p);
        zc__place_put_item(&to->value, op->id, op);
    }
    to->holds = to->value.size;
}

/* The holds that the batch does not change, and those that it has. */
static void zc__place_put_holds(zc__place_log *to, const zc__place_log *from,
                                const zc__place_op *batch) {
    for (zc__place_items it = zc__place_items_of(from, true); zc__place_item(&it);) {
        const zc__place_op *op = batch;
        while (op && !(zc__place_wants(op, ZC__PLACE_HOLD) && op->id == it.number)) op = op->next;
        if (op) continue;
        memcpy(to->value.ptr + to->value.size, it.value + it.at, it.next - it.at);
        to->value.size += it.next - it.at;
    }
    for (const zc__place_op *op = batch; op; op = op->next)
        if (zc__place_wants(op, ZC__PLACE_HOLD) && op->n)
            zc__place_put_item(&to->value, op->id, op);
}

/* The log that a batch makes of `from`; NULL: no memory. */
static zc__place_log *zc__place_next(zc__place *p, const zc__place_log *from,
                                     zc__place_op *batch) {
    uint64_t era = from->era;
    size_t room = from->value.size;
    for (zc__place_op *op = batch; op; op = op->next) {
        room += 12 + op->size;
        if (zc__place_wants(op, ZC__PLACE_CLEAR)) op->id = era = zc__place_random(p);
    }
    zc__place_log *to = zc__place_begin(p, from->gen, era, room);
    if (!to) return NULL;
    zc__place_put_entries(p, to, from, batch);
    zc__place_put_holds(to, from, batch);
    zc__place_end(to);
    return to;
}

/* ---- exchanges */

/* Reads the log. ZC_MISS: there is none, or one that has been before; l->token is good. */
static int zc__place_read_log(zc__place *p, zc_bytes key, zc__place_log *l) {
    int rc = zc__place_read(p, key, &l->value, &l->token);
    return rc == ZC_OK && !(zc__place_parse(l) && zc__place_follows(p, l)) ? ZC_MISS : rc;
}

/* What an op has come to, with this log (NULL: none): ZC_PENDING, it is to change it. */
static int zc__place_judge(const zc__place_op *op, const zc__place_log *l, size_t *holds) {
    if (op->what == ZC__PLACE_OPEN) return l ? ZC_OK : ZC_PENDING;
    if (op->what == ZC__PLACE_CLEAR) return l && op->id == l->era ? ZC_OK : ZC_PENDING;
    if (!l || op->gen != l->gen) return ZC_RETRY;
    if (op->what == ZC__PLACE_READ) return ZC_OK;
    if (op->what == ZC__PLACE_APPEND)
        return op->id && zc__place_has(l, op->id) ? ZC_OK : ZC_PENDING;
    if (op->n) *holds += 12 + op->size;
    return op->n && *holds > ZC__PLACE_HOLDS ? ZC_E_FULL : ZC_PENDING;
}

/* Gives those that are not over this result. False: there are none. */
static bool zc__place_finish(zc__place_op *batch, int rc) {
    bool any = false;
    for (; batch; batch = batch->next) {
        if (batch->result != ZC_PENDING) continue;
        batch->result = rc;
        any = true;
    }
    return any;
}

/* One read and, if the batch has to change the log, one swap. ZC_MISS: somebody was faster; or it
 * has *failed, and may have won all the same, which another read tells. */
static int zc__place_once(zc__place *p, zc__place_op *batch, int *failed) {
    char text[ZC_PLACE_KEY];
    zc_bytes key = zc__place_key(p, text, "log", 0, 0, 0);
    uint64_t begin = zc__mono(&p->clock);
    zc__place_log *l = zc__place_begin(p, 0, 0, 0), *next = NULL;
    int rc = l ? zc__place_read_log(p, key, l) : ZC_E_NOMEM;
    bool whole = rc == ZC_OK;
    if (rc >= 0) {
        size_t holds = whole ? l->value.size - 8 - l->holds : 0;
        for (zc__place_op *op = batch; op; op = op->next)
            if (op->result == ZC_PENDING)
                op->result = zc__place_judge(op, whole ? l : NULL, &holds);
        if (*failed) (void)zc__place_finish(batch, *failed);
        rc = ZC_OK;
        if (zc__place_finish(batch, ZC_PENDING)) {
            next = whole ? zc__place_next(p, l, batch) : zc__place_first(p);
            rc = next ? zc__place_swap(p, key, &next->value, &l->token) : ZC_E_NOMEM;
            if (next && rc < 0) *failed = rc, rc = ZC_MISS;
        }
    }
    zc__place_log *now = rc != ZC_OK ? NULL : next ? next : whole ? l : NULL;
    if (now) zc__place_saw(p, now, begin);
    if (now != l) zc__place_unref(p, l);
    if (now != next) zc__place_unref(p, next);
    return rc;
}

/* For a batch, which is over then: until a swap has won. */
static void zc__place_exchange(zc__place *p, zc__place_op *batch) {
    int rc = ZC_MISS, failed = ZC_OK;
    for (unsigned tries = 0; tries < ZC__PLACE_TRIES && rc == ZC_MISS; tries++) {
        uint64_t begin = zc__mono(&p->clock);
        if (tries && begin >= zc__until) break;
        rc = zc__place_once(p, batch, &failed);
        if (rc == ZC_MISS && !failed) zc__place_back_off(p, tries, zc__mono(&p->clock) - begin);
    }
    (void)zc__place_finish(batch, rc != ZC_MISS ? rc : failed ? failed : ZC_E_BUSY);
}

/* Those that wait, as many as one swap can carry. */
static zc__place_op *zc__place_take(zc__place *p) {
    zc__place_op *batch = p->queue, **end = &p->queue;
    size_t bytes = 0;
    for (uint32_t n = 0; *end && n < ZC__PLACE_ENTRIES / 2; n++, end = &(*end)->next)
        if ((bytes += 12 + (*end)->size) > ZC__PLACE_BATCH) break;
    p->queue = *end;
    *end = NULL;
    if (!p->queue) p->queue_end = &p->queue;
    return batch;
}

/* Takes an op out of the queue, whose author has no time. False: it is being done. */
static bool zc__place_withdraw(zc__place *p, const zc__place_op *op) {
    zc__place_op **at = &p->queue;
    while (*at && *at != op) at = &(*at)->next;
    if (!*at) return false;
    *at = op->next;
    if (!op->next) p->queue_end = at;
    return true;
}

/* Waits until an op is over, as one of a batch; whoever comes to his turn is busy for all. */
static int zc__place_call(zc__place *p, zc__place_op *op) {
    int rc = zc__place_ready(p);
    if (rc != ZC_OK) return rc;
    op->next = NULL;
    op->result = op->rc = ZC_PENDING;
    zc__monitor_lock(&p->monitor);
    *p->queue_end = op;
    p->queue_end = &op->next;
    while (op->rc == ZC_PENDING) {
        if (p->busy) {
            uint64_t now = zc__mono(&p->clock);
            if (now >= zc__until && zc__place_withdraw(p, op)) op->rc = ZC_E_BUSY;
            else zc__monitor_sleep(&p->monitor, now < zc__until ? zc__until - now : ZC_NEVER);
            continue;
        }
        zc__place_op *batch = zc__place_take(p), *next;
        p->busy = true;
        zc__monitor_unlock(&p->monitor);
        zc__place_exchange(p, batch);
        zc__monitor_lock(&p->monitor);
        for (; batch; batch = next) {
            next = batch->next; /* it is gone as soon as it is over */
            batch->rc = batch->result;
        }
        p->busy = false;
        zc__monitor_wake(&p->monitor);
    }
    zc__monitor_unlock(&p->monitor);
    return op->rc;
}

static int zc__place_do(zc__place *p, zc__place_what what, uint64_t gen, uint64_t id,
                        const zc_bytes *tags, size_t n) {
    zc__place_op op = {NULL, what, gen, id, tags, n, zc__list_size(tags, n), 0, 0};
    if (op.size > ZC__PLACE_LIST) {
        if (what == ZC__PLACE_HOLD) return ZC_E_FULL;
        op.n = op.size = 0;
    }
    return zc__place_call(p, &op);
}

/* ---- the storage */

/* The era, as it was a second ago or later. */
static int zc__place_era(zc__place *p, uint64_t *era) {
    uint64_t now = zc__mono(&p->clock);
    for (bool asked = false;; asked = true) {
        zc__monitor_lock(&p->monitor);
        bool known = p->log && (asked || now - p->seen_at < ZC_SECOND);
        *era = known ? p->log->era : 0;
        zc__monitor_unlock(&p->monitor);
        if (known) return ZC_OK;
        int rc = zc__place_do(p, ZC__PLACE_OPEN, 0, 0, NULL, 0);
        if (rc != ZC_OK) return rc;
    }
}

/* The name of a record, in the present era. */
static int zc__place_record(zc__place *p, zc_bytes key, char *to, zc_bytes *name) {
    uint64_t era;
    int rc = zc__place_era(p, &era);
    if (rc != ZC_OK) return rc;
    XXH128_hash_t h = XXH3_128bits_withSeed(key.ptr, key.len, era);
    *name = zc__place_key(p, to, "r.", h.high64, h.low64, 32);
    return ZC_OK;
}

static int zc__place_get(void *user, zc_bytes key, zc_sink *sink) {
    zc__place *p = (zc__place *)user;
    char text[ZC_PLACE_KEY];
    zc_bytes name;
    int rc = zc__place_record(p, key, text, &name);
    return rc != ZC_OK ? rc : zc__place_rc(p->place.get(p->place.user, name, sink), true);
}

static int zc__place_get_many(void *user, const zc_bytes *keys, size_t n, zc_sink *const *sinks,
                              int *results) {
    zc__place *p = (zc__place *)user;
    size_t size = n * (sizeof *keys + ZC_PLACE_KEY);
    int rc = ZC_OK;
    zc_bytes *names = (zc_bytes *)zc__alloc(&p->mem, size);
    if (!names) return ZC_E_NOMEM;
    char *text = (char *)(names + n);
    for (size_t i = 0; i < n && rc == ZC_OK; i++)
        rc = zc__place_record(p, keys[i], text + i * ZC_PLACE_KEY, &names[i]);
    if (rc == ZC_OK)
        rc = zc__place_rc(p->place.get_many(p->place.user, names, n, sinks, results), false);
    zc__free(&p->mem, names, size);
    return rc;
}

static int zc__place_put(void *user, zc_bytes key, zc_bytes record, uint64_t expires_ms) {
    zc__place *p = (zc__place *)user;
    char text[ZC_PLACE_KEY];
    zc_bytes name;
    uint64_t last = (zc__wall(&p->clock) + p->max_ttl) / ZC_MILLISECOND;
    if (expires_ms == 0 || expires_ms > last) expires_ms = last;
    int rc = zc__place_record(p, key, text, &name);
    if (rc != ZC_OK) return rc;
    return zc__place_rc(p->place.put(p->place.user, name, record, expires_ms), false);
}

static int zc__place_del(void *user, zc_bytes key) {
    zc__place *p = (zc__place *)user;
    char text[ZC_PLACE_KEY];
    zc_bytes name;
    int rc = zc__place_record(p, key, text, &name);
    return rc != ZC_OK ? rc : zc__place_rc(p->place.del(p->place.user, name), true);
}

static int zc__place_clear(void *user) {
    return zc__place_do((zc__place *)user, ZC__PLACE_CLEAR, 0, 0, NULL, 0);
}

/* In a slot, the locks that have not ended; then that of `hash`, for `lease` ms, 0: none. ZC_MISS:
 * it is somebody else's; or, with `renews`, no longer there. */
static int zc__place_slot(zc__buf *slot, uint64_t hash, uint64_t token, uint64_t now,
                          uint64_t lease, bool renews) {
    size_t end = slot->size % ZC__PLACE_LOCK ? 0 : slot->size; /* that is none of ours */
    unsigned char *v = slot->ptr;
    bool found = false;
    slot->size = 0;
    for (size_t at = 0; at < end; at += ZC__PLACE_LOCK) {
        if (zc__get64(v + at + 16) <= now) continue;
        if (zc__get64(v + at) == hash) {
            if (zc__get64(v + at + 8) != token) return ZC_MISS;
            found = true;
            continue;
        }
        memmove(v + slot->size, v + at, ZC__PLACE_LOCK);
        slot->size += ZC__PLACE_LOCK;
    }
    if (renews && !found) return ZC_MISS;
    if (!lease) return ZC_OK;
    zc__put_le(v + slot->size, hash, 8);
    zc__put_le(v + slot->size + 8, token, 8);
    zc__put_le(v + slot->size + 16, now + lease, 8);
    slot->size += ZC__PLACE_LOCK;
    return ZC_OK;
}

static int zc__place_relock(zc__place *p, zc_bytes key, uint64_t token, uint64_t lease,
                            bool renews) {
    char text[ZC_PLACE_KEY];
    uint64_t hash = XXH3_64bits(key.ptr, key.len);
    zc_bytes name = zc__place_key(p, text, "lock.", 0, hash, 2);
    zc__buf slot = {NULL, 0, 0}, seen = {NULL, 0, 0};
    int rc = zc__place_ready(p);
    bool lost = rc == ZC_OK;
    for (unsigned tries = 0; lost && tries < ZC__PLACE_TRIES; tries++) {
        if (tries && zc__mono(&p->clock) >= zc__until) break;
        uint64_t begin = zc__mono(&p->clock), now = zc__wall(&p->clock) / ZC_MILLISECOND;
        rc = zc__place_read(p, name, &slot, &seen);
        if (rc < 0) break;
        rc = zc__buf_reserve(&p->mem, &slot, ZC__PLACE_LOCK)
                 ? zc__place_slot(&slot, hash, token, now, lease, renews)
                 : ZC_E_NOMEM;
        if (rc != ZC_OK) break;
        rc = zc__place_swap(p, name, &slot, &seen);
        lost = rc == ZC_MISS;
        if (lost) zc__place_back_off(p, tries, zc__mono(&p->clock) - begin);
        if (lost) rc = ZC_E_BUSY;
    }
    zc__buf_free(&p->mem, &slot);
    zc__buf_free(&p->mem, &seen);
    return rc;
}

static int zc__place_lock(void *user, zc_bytes key, uint64_t lease, uint64_t *token) {
    zc__place *p = (zc__place *)user;
    uint64_t mine = *token ? *token : zc__place_random(p), ms = lease / ZC_MILLISECOND;
    int rc = zc__place_relock(p, key, mine, ms ? ms : 1, *token != 0);
    if (rc == ZC_OK) *token = mine;
    return rc;
}

static int zc__place_unlock(void *user, zc_bytes key, uint64_t token) {
    return zc__place_relock((zc__place *)user, key, token, 0, true);
}

/* ---- the bus */

static uint64_t zc__place_attached(zc__place *p) { return zc__atomic_load_acq(&p->attached); }

static int zc__place_attach(void *user, uint64_t *identity, uint64_t *position) {
    zc__place *p = (zc__place *)user;
    int rc = zc__bus_rc(zc__place_do(p, ZC__PLACE_OPEN, 0, 0, NULL, 0));
    if (rc != ZC_OK) return rc;
    zc__monitor_lock(&p->monitor);
    zc__atomic_store_rel(&p->attached, p->log->gen);
    *identity = p->log->gen;
    *position = zc__place_last(p->log);
    zc__monitor_unlock(&p->monitor);
    return ZC_OK;
}

/* Gives the entries after `position` of what was seen last. */
static int zc__place_give(zc__place *p, uint64_t gen, uint64_t position, zc_bus_sink *sink) {
    zc__place_log *l = zc__place_seen(p, gen);
    if (!l) return ZC_RETRY;
    int rc = position >= l->first && position <= zc__place_last(l) ? ZC_OK : ZC_RETRY;
    zc__place_items it = zc__place_items_of(l, false);
    for (uint64_t at = l->first; rc == ZC_OK && zc__place_item(&it); at++)
        if (at > position) rc = zc__entry_deliver(&p->mem, it.list, at, sink);
    zc__place_unref(p, l);
    return rc;
}

/* Sleeps for a quarter of T, of which `wait` is a third. True: it was woken, and the next will not
 * sleep. */
static bool zc__place_sleep(zc__place *p, uint64_t wait) {
    uint64_t now, pause = wait - wait / 4;
    if (p->poll && p->poll < pause) pause = p->poll;
    uint64_t until = zc__mono(&p->clock) + pause;
    zc__monitor_lock(&p->monitor);
    bool sleeps = wait && !p->woken;
    while (sleeps && !p->woken && (now = zc__mono(&p->clock)) < until)
        zc__monitor_sleep(&p->monitor, p->clock.version ? ZC_MILLISECOND : until - now);
    bool woken = sleeps && p->woken;
    if (!sleeps) p->woken = false;
    zc__monitor_unlock(&p->monitor);
    return woken;
}

static int zc__place_bus_read(void *user, uint64_t position, uint64_t wait, zc_bus_sink *sink) {
    zc__place *p = (zc__place *)user;
    uint64_t gen = zc__place_attached(p);
    if (zc__place_sleep(p, wait)) return ZC_MORE;
    int rc = zc__bus_rc(zc__place_do(p, ZC__PLACE_READ, gen, 0, NULL, 0));
    return rc == ZC_OK ? zc__place_give(p, gen, position, sink) : rc;
}

static int zc__place_append(void *user, const zc_bytes *tags, size_t n, bool durable,
                            uint64_t position, zc_bus_sink *sink) {
    zc__place *p = (zc__place *)user;
    uint64_t gen = zc__place_attached(p);
    (void)durable;
    int rc = zc__bus_rc(zc__place_do(p, ZC__PLACE_APPEND, gen, 0, tags, n));
    return rc == ZC_OK ? zc__place_give(p, gen, position, sink) : rc;
}

static int zc__place_hold(void *user, uint64_t id, const zc_bytes *tags, size_t n) {
    zc__place *p = (zc__place *)user;
    return zc__bus_rc(zc__place_do(p, ZC__PLACE_HOLD, zc__place_attached(p), id, tags, n));
}

/* P2 */
static int zc__place_holds(void *user, zc_bus_sink *sink) {
    zc__place *p = (zc__place *)user;
    zc__place_log *l = zc__place_seen(p, zc__place_attached(p));
    if (!l) return ZC_RETRY;
    int rc = ZC_OK;
    for (zc__place_items it = zc__place_items_of(l, true); rc == ZC_OK && zc__place_item(&it);) {
        rc = zc__list_deliver(&p->mem, it.list, it.number, sink);
        if (rc == ZC_E_CORRUPT) rc = ZC_OK; /* none of ours */
    }
    zc__place_unref(p, l);
    return rc;
}

/* P2. The positions at which a list names paths. */
static void zc__place_named(zc_bytes list, uint64_t position, const zc_bytes *paths, size_t n,
                            uint64_t *positions) {
    const unsigned char *v = (const unsigned char *)list.ptr;
    for (size_t i = 0; i < n && !list.len; i++)
        if (!paths[i].len) positions[i] = position;
    for (size_t at = 0, len; at + 2 <= list.len; at += 2 + len) {
        len = zc__get16(v + at);
        for (size_t i = 0; i < n && at + 2 + len <= list.len; i++)
            if (paths[i].len == len && memcmp(paths[i].ptr, v + at + 2, len) == 0)
                positions[i] = position;
    }
}

static int zc__place_versions(void *user, const zc_bytes *paths, size_t n, uint64_t *positions) {
    zc__place *p = (zc__place *)user;
    zc__place_log *l = zc__place_seen(p, zc__place_attached(p));
    if (!l) return ZC_RETRY;
    uint64_t position = l->first;
    for (size_t i = 0; i < n; i++) positions[i] = position ? position - 1 : 0;
    for (zc__place_items it = zc__place_items_of(l, false); zc__place_item(&it); position++)
        if (position) zc__place_named(it.list, position, paths, n, positions);
    zc__place_unref(p, l);
    return ZC_OK;
}

static void zc__place_wake(void *user) {
    zc__place *p = (zc__place *)user;
    zc__monitor_lock(&p->monitor);
    p->woken = true;
    zc__monitor_wake(&p->monitor);
    zc__monitor_unlock(&p->monitor);
}

/* ---- open, fork, close */

static void zc__place_report(void *user) { zc__lines_report(&((zc__place *)user)->lines); }

/* Of both tables; once a child. Nobody else is there, and nothing was kept back for anybody. */
static void zc__place_forked(void *user) {
    zc__place *p = (zc__place *)user;
    if (p->pid == getpid()) return;
    p->pid = getpid();
    (void)zc__monitor_init(&p->monitor, ZC__RANK_POOL);
    zc__lines_init(&p->lines, p->lines.log);
    p->queue = NULL;
    p->queue_end = &p->queue;
    p->busy = p->woken = false;
    p->random = p->draw();
    if (p->log) p->log->refs = 1;
    if (p->place.forked) p->place.forked(p->place.user);
}

static void zc__place_free(zc__place *p) {
    zc__place_unref(p, p->log);
    zc__monitor_destroy(&p->monitor);
    zc__mem mem = p->mem;
    zc__free(&mem, p, sizeof *p);
}

static void zc__place_close(void *user) {
    zc__place *p = (zc__place *)user;
    if (zc__atomic_sub_acqrel(&p->refs, 1u) != 1) return;
    zc__place_report(p);
    zc_place place = p->place;
    zc__place_free(p);
    if (place.close) place.close(place.user);
}

static void zc__place_tables(zc__place *p, zc_store *store, zc_bus *bus) {
    const zc_store s = {1, zc__place_get, zc__place_put, NULL, zc__place_del, NULL, zc__place_clear,
                        NULL, NULL, NULL, p->place.get_many ? zc__place_get_many : NULL,
                        zc__place_lock, zc__place_unlock, zc__place_report, zc__place_forked,
                        zc__place_close, p};
    const zc_bus b = {1, zc__place_attach, zc__place_bus_read, zc__place_append, zc__place_versions,
                      NULL, NULL, zc__place_wake, zc__place_report, zc__place_forked,
                      zc__place_close, p, 0, NULL, NULL, zc__place_hold, zc__place_holds};
    if (store) *store = s;
    if (bus) *bus = b;
}

/* Letters, digits, '_', '-' and '.', that not first. */
static bool zc__place_prefix(zc__place *p, const char *prefix) {
    const char *good = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    size_t n = strlen(prefix);
    if (n == 0 || n > 64 || *prefix == '.' || strspn(prefix, good) != n) return false;
    memcpy(p->prefix, prefix, n);
    p->prefix[n] = '.';
    p->prefix_len = n + 1;
    return true;
}

static int zc__place_new(const zc_place_desc *d, uint64_t (*draw)(void), zc__place **out) {
    const zc_place *place = &d->place;
    if (place->version != 1 || !place->get || !place->put || !place->del || !place->read ||
        !place->swap)
        return ZC_E_INVAL;
    zc__mem mem = zc__mem_by(&d->allocator);
    zc__place *p = (zc__place *)zc__alloc_zero(&mem, sizeof *p);
    if (!p) return ZC_E_NOMEM;
    p->mem = mem;
    p->clock = d->clock;
    zc__lines_init(&p->lines, d->log);
    p->place = *place;
    p->draw = draw;
    p->random = draw();
    p->poll = d->poll;
    p->max_ttl = d->max_ttl ? d->max_ttl : 30 * 86400 * ZC_SECOND;
    p->pid = getpid();
    p->queue_end = &p->queue;
    bool good = zc__place_prefix(p, d->prefix ? d->prefix : "zoocache");
    if (good && zc__monitor_init(&p->monitor, ZC__RANK_POOL)) {
        *out = p;
        return ZC_OK;
    }
    zc__free(&mem, p, sizeof *p);
    return good ? ZC_E_THREAD : ZC_E_INVAL;
}

static int zc__place_open(const zc_place_desc *d, uint64_t (*draw)(void), zc_store *store,
                          zc_bus *bus) {
    zc__place *p;
    uint32_t wanted = zc__tables_begin(store, bus);
    if (!d || !wanted) return ZC_E_INVAL;
    int rc = zc__place_new(d, draw, &p);
    if (rc != ZC_OK) return rc;
    rc = zc__place_ready(p);
    if (rc == ZC_E_INVAL || rc == ZC_E_NOMEM) {
        zc__place_report(p);
        zc__place_free(p);
        return rc;
    }
    p->refs = wanted;
    zc__place_tables(p, store, bus);
    return ZC_OK;
}

ZOOCACHE_API int zc_place_open(const zc_place_desc *desc, zc_store *store, zc_bus *bus) {
    return zc__place_open(desc, zc__system_random, store, bus);
}
#endif /* >>place */

#endif /* ZOOCACHE_IMPLEMENTATION */

/*
 * MIT License
 *
 * Copyright (c) 2026 the zoocache authors
 *
 * Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
 * associated documentation files (the "Software"), to deal in the Software without restriction,
 * including without limitation the rights to use, copy, modify, merge, publish, distribute,
 * sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
 * furnished to do so, subject to the following conditions:
 *
 * The above copyright notice and this permission notice shall be included in all copies or
 * substantial portions of the Software.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
 * NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
 * NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
 * DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
 * OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
 */
