/* The lease: how old may a value be that a node serves from its own table?
 *
 * Property   A value served at x reflects every invalidation acknowledged more than T before x; more
 *            than T + L with replicas (REPLICA). It is the assertion in Reader.
 * Processes  Clock    one tick; whatever has an age grows older. Any number of ticks may pass between
 *                     two steps of anybody: this is how pauses, delays and skew come in
 *            Writer   changes the data, appends to the log (XADD), is acknowledged (with replicas:
 *                     after WAIT) or gives up; may also append for another tag (FILLERS)
 *            Poller   the node's connection: XREAD, then the checks, then the reply; any of them may
 *                     be the last, which is a lost connection
 *            Reader   the node's callers: a fill in three steps, a read in three steps
 *            Faults   without replicas: a restart that loses the log's tail, FLUSHALL or DEL (ids
 *                     begin again, same run id), trimming; with replicas: a cut, a promotion with a
 *                     lost tail while the old master lives on, the old master joining again
 * Abstraction
 *   - One node: nodes do not meet but at the server. One tag and one key; an entry for another tag
 *     only takes a place in the log.
 *   - The database is a counter; a value is what the counter was when the loader read it.
 *   - A nonce is unique; its high bit says that the entry is for another tag.
 *   - Instants are kept as ages, which stop growing once they are past every comparison. So time is
 *     unbounded, and the model finite.
 *   - "Nothing was invalidated since the fill began" is the flag fill_ok here; fill.pml has numbers.
 *   - Gaps in the ids are not looked at: trimming takes the oldest first, the entry at the cursor
 *     before those behind it, so the cursor check sees it. The model passes without.
 * Ablations (one -D each; every one must give a counterexample)
 *   NO_LEASE           an L1 hit needs no lease
 *   LEASE_FROM_REPLY   the lease counts from the reply, not from before the request
 *   NO_RECHECK         the clock is read before the value is copied, and not after
 *   RECHECK_RENEWED    the second look, after the copy, takes the lease of then instead of the one noted
 *                      before: it may have been renewed meanwhile, by the poll that killed the value
 *   NO_CURSOR_CHECK    the entry at the cursor is not compared with the nonce that was seen
 *   NO_RUN_ID          the server's identity is not looked at
 *   CHECK_BEFORE_READ  run id and cursor are asked for in front of XREAD instead of behind it
 *   FULL_RENEWS        a full reply renews the lease
 *   VERSION_AFTER_LOADER   the fill takes its begin after the loader
 *   NO_STAMP_AT_ATTACH     fills begun while detached are kept: the break alone killed
 *   WITNESS            not an ablation: a value is served after all writes and faults, so a model that
 *                      passes does not do so because nothing happens in it
 *   with REPLICA
 *   NO_WAIT            acknowledged without WAIT (split brain)
 *   NO_FENCE           the lease is renewed without the fencing write
 *   PROCESS_RUN_ID     the identity is the process's run_id, which a demotion and a promotion back do
 *                      not change, instead of the replication id, which each promotion changes
 */

#ifndef T
#define T 1 /* ticks that a lease lasts */
#endif
#ifndef L
#define L 1 /* min-replicas-max-lag */
#endif
#ifndef WRITES
#define WRITES 2
#endif
#ifndef FILLERS
#define FILLERS 0
#endif
#ifndef COUNT
#define COUNT 1 /* of XREAD */
#endif
#ifndef FAULTS
#define FAULTS 1
#endif

#ifdef REPLICA
#define BOUND (T + L)
#define SERVERS 2
#else
#define BOUND T
#define SERVERS 1
#endif

#define LEN (WRITES + FILLERS + 1)
#define LOG(s, p) log[(s) * LEN + (p)]
#define OTHER_TAG 64
#define NONE 255

/* ---- servers ---- */
byte log[SERVERS * LEN]; /* nonces; position 0 is the genesis entry */
byte end[SERVERS];       /* the last position */
byte first = 0;          /* what is before it was trimmed */
byte ident[SERVERS];       /* identity: another after each restart and promotion */
byte next_nonce = 1, next_ident = 1;
byte faults = FAULTS;
#ifdef REPLICA
bool master[2];      /* takes itself for one */
bool linked = true;  /* the two servers hear each other */
byte cut_off = NONE; /* the master that was cut off */
byte lag = 0;        /* age of the last word that the master cut off had from a replica */
#define WRITABLE(s) (master[s] && (cut_off != (s) || lag <= L))
#else
#define WRITABLE(s) true
#endif

/* ---- data and writer ---- */
byte db = 0;        /* the data; each write adds one */
byte age[WRITES + 1]; /* 1 + age of the acknowledgement of a write; 0: none, or counted in must */
byte must = 0;      /* the last write acknowledged more than BOUND ago */
byte fillers = FILLERS;

/* ---- node ---- */
#define EXPIRED (T + 1)
bool attached = false;
byte known_ident = 0, cursor = 0, cursor_nonce = 0;
byte lease = EXPIRED; /* age of the t0 that the lease counts from */
byte t0 = 0;          /* age of the running poll's */
byte val = NONE;      /* the entry in L1 */
bool fill_ok = false; /* nothing was invalidated since the fill's begin */
byte read_lease = 0;  /* age of the lease that a reader has taken note of */

#ifdef WITNESS
#define GOOD (!(must == WRITES && faults == 0))
#else
#define GOOD (copy >= must)
#endif

proctype Clock() {
    byte i;
    do
    :: d_step {
           true ->
           if :: lease < EXPIRED -> lease++ :: else fi;
           if :: t0 < EXPIRED -> t0++ :: else fi;
           if :: read_lease < EXPIRED -> read_lease++ :: else fi;
#ifdef REPLICA
           if :: cut_off != NONE && lag <= L -> lag++ :: else fi;
#endif
           i = 1;
           do
           :: i <= WRITES ->
                  if
                  :: age[i] > BOUND -> must = i; age[i] = 0
                  :: age[i] > 0 && age[i] <= BOUND -> age[i]++
                  :: else
                  fi;
                  i++
           :: else -> break
           od;
           i = 0
       }
    od
}

/* XADD: the next position, with a nonce of its own. */
inline append(s, mark) {
    end[s]++;
    LOG(s, end[s]) = next_nonce | mark;
    next_nonce++
}

/* The call returns to whoever has invalidated. */
inline acknowledge() { age[db] = 1; stage = 0 }

proctype Writer() {
    byte stage = 0; /* 0 idle  1 data changed  2 appended */
    byte at = 0, pos = 0;
    do
    :: d_step { stage == 0 && db < WRITES -> db++; stage = 1 }
    :: d_step { stage == 1 && WRITABLE(0) -> append(0, 0); at = 0; pos = end[0]; stage = 2 }
#ifdef REPLICA
    :: d_step { stage == 1 && WRITABLE(1) -> append(1, 0); at = 1; pos = end[1]; stage = 2 }
#endif
    :: d_step { fillers > 0 -> fillers--; append(0, OTHER_TAG) }
#if defined(REPLICA) && !defined(NO_WAIT)
    /* WAIT: a replica has it. Who is not cut off has one, be it a third server. */
    :: d_step {
           stage == 2 && master[at] && cut_off != at && (!linked || end[1 - at] >= pos) ->
           acknowledge()
       }
#else
    :: d_step { stage == 2 -> acknowledge() }
#endif
    :: d_step { stage > 0 -> stage = 0 } /* the reply is lost: never acknowledged */
    od
}

/* Everything in L1 is gone, and no fill that has begun will be kept. */
inline flush() { val = NONE; fill_ok = false }

inline epoch_break() { attached = false; lease = EXPIRED; flush() }

#ifdef NO_CURSOR_CHECK
#define CURSOR_GOOD true
#else
#define CURSOR_GOOD (first <= cursor && cursor <= end[to] && LOG(to, cursor) == cursor_nonce)
#endif
#ifdef NO_RUN_ID
#define RUN_GOOD true
#else
#define RUN_GOOD (ident[to] == known_ident)
#endif
#if defined(NO_FENCE)
#define FENCE_GOOD true
#else
#define FENCE_GOOD WRITABLE(to)
#endif

/* The entry at the cursor, the identity, the fencing write; a full reply proves nothing. */
inline check() {
    good = RUN_GOOD && CURSOR_GOOD;
    fenced = FENCE_GOOD
}

/* Up to COUNT entries behind the cursor; in the code, in one step with that at the cursor. */
inline xread() {
    last = cursor;
    hit = false;
    filled = false;
    if :: cursor + 1 < first -> last = first - 1 :: else fi;
    n = 0;
    do
    :: n < COUNT && last < end[to] ->
           last++;
           n++;
           hit = hit || LOG(to, last) < OTHER_TAG
    :: else -> break
    od;
    filled = n == COUNT;
    last_nonce = LOG(to, last);
    n = 0
}

/* The reply: apply what came, and renew the lease if everything was heard. */
inline apply() {
    if
    :: !good -> epoch_break()
    :: else ->
           if :: hit -> flush() :: else fi;
           if :: last != cursor -> cursor = last; cursor_nonce = last_nonce :: else fi;
#ifdef LEASE_FROM_REPLY
           t0 = 0;
#endif
           if
#ifdef FULL_RENEWS
           :: fenced -> lease = t0
#else
           :: fenced && !filled -> lease = t0
#endif
           :: else
           fi
    fi
}

/* The reply to an attach: from here on everything is heard, so what began before is void. */
inline attach() {
    attached = true;
    known_ident = ident_read;
    cursor = last;
    cursor_nonce = last_nonce;
    lease = t0;
#ifndef NO_STAMP_AT_ATTACH
    flush()
#endif
}

inline idle() {
    stage = 0; to = 0; last = 0; last_nonce = 0; ident_read = 0;
    hit = false; filled = false; good = false; fenced = false; t0 = EXPIRED
}

proctype Poller() {
    byte stage = 0; /* 0 idle  1 sent  2, 3 answered by halves, wholly */
    byte to = 0, last = 0, last_nonce = 0, ident_read = 0, n = 0;
    bool hit = false, filled = false, good = false, fenced = false;
    do
    :: d_step { stage == 0 -> to = 0; t0 = 0; stage = 1 }
#ifdef REPLICA
    :: d_step { stage == 0 && master[1] -> to = 1; t0 = 0; stage = 1 }
#endif
    :: d_step {
           stage == 1 && !attached ->
           last = end[to]; last_nonce = LOG(to, last); ident_read = ident[to]; stage = 3
       }
#ifdef CHECK_BEFORE_READ
    :: d_step { stage == 1 && attached -> check(); stage = 2 }
    :: d_step { stage == 2 -> xread(); stage = 3 }
#else
    :: d_step { stage == 1 && attached -> xread(); stage = 2 }
    :: d_step { stage == 2 -> check(); stage = 3 }
#endif
    :: d_step { stage == 3 && !attached -> attach(); idle() }
    :: d_step { stage == 3 && attached -> apply(); idle() }
    :: d_step { stage > 0 -> idle() } /* the connection is lost */
    od
}

proctype Reader() {
    byte fill = 0, loaded = 0; /* 0 none  1 begun  2 loaded */
    byte step = 0, copy = 0;   /* 0 none  1 lease noted  2 value copied */
    do
#ifdef VERSION_AFTER_LOADER
    :: d_step { fill == 0 && val == NONE -> fill = 1 }
    :: d_step { fill == 1 -> loaded = db; fill = 2 }
    :: d_step { fill == 2 -> fill_ok = true; fill = 3 }
    :: d_step { fill == 3 -> if :: fill_ok -> val = loaded :: else fi; fill = 0; loaded = 0; fill_ok = false }
#else
    :: d_step { fill == 0 && val == NONE -> fill_ok = true; fill = 1 }
    :: d_step { fill == 1 -> loaded = db; fill = 2 }
    :: d_step { fill == 2 -> if :: fill_ok -> val = loaded :: else fi; fill = 0; loaded = 0; fill_ok = false }
#endif
#if defined(NO_LEASE)
    :: d_step { step == 0 && val != NONE -> copy = val; step = 2 }
    :: d_step { step == 2 -> assert(GOOD); step = 0; copy = 0 }
#elif defined(RECHECK_RENEWED)
    :: d_step { step == 0 && lease <= T -> step = 1 }
    :: d_step { step == 1 && val != NONE -> copy = val; step = 2 }
    :: d_step { step == 1 && val == NONE -> step = 0 }
    :: d_step { step == 2 && lease <= T -> assert(GOOD); step = 0; copy = 0 }
    :: d_step { step == 2 && lease > T -> step = 0; copy = 0 }
#else
    :: d_step { step == 0 && lease <= T -> read_lease = lease; step = 1 }
    :: d_step { step == 1 && val != NONE -> copy = val; step = 2 }
    :: d_step { step == 1 && val == NONE -> step = 0; read_lease = EXPIRED }
#ifdef NO_RECHECK
    :: d_step { step == 2 -> assert(GOOD); step = 0; copy = 0; read_lease = EXPIRED }
#else
    :: d_step { step == 2 && read_lease <= T -> assert(GOOD); step = 0; copy = 0; read_lease = EXPIRED }
    :: d_step { step == 2 && read_lease > T -> step = 0; copy = 0; read_lease = EXPIRED } /* bypass */
#endif
#endif
    od
}

#ifdef REPLICA

inline promote(s) {
    master[s] = true;
#ifndef PROCESS_RUN_ID
    ident[s] = next_ident;
    next_ident++;
#endif
}

/* The master that was cut off joins again, as a replica of the other: a full copy. */
inline demote(s) {
    master[s] = false;
    p = 0;
    do
    :: p < LEN -> LOG(s, p) = LOG(1 - s, p); p++
    :: else -> break
    od;
    p = 0;
    end[s] = end[1 - s];
#ifndef PROCESS_RUN_ID
    ident[s] = ident[1 - s];
#endif
    cut_off = NONE; lag = 0; linked = true
}

proctype Faults() {
    byte p;
    do
    /* replication, an entry at a time */
    :: d_step { linked && master[0] && end[1] < end[0] -> end[1]++; LOG(1, end[1]) = LOG(0, end[1]) }
    :: d_step { linked && master[1] && end[0] < end[1] -> end[0]++; LOG(0, end[0]) = LOG(1, end[0]) }
    :: d_step { linked && faults > 0 -> faults--; linked = false; cut_off = (master[0] -> 0 : 1) }
    :: d_step { !linked && !master[1] -> promote(1) }
    :: d_step { !linked && !master[0] -> promote(0) }
    :: d_step { !linked && !(master[0] && master[1]) -> linked = true; cut_off = NONE; lag = 0 }
    :: d_step { !linked && master[0] && master[1] && cut_off == 0 -> demote(0) }
    :: d_step { !linked && master[0] && master[1] && cut_off == 1 -> demote(1) }
    od
}

#else

/* The log ends at position p: what came later was not on the disk. */
inline truncate(p) {
    faults--;
    i = p + 1;
    do :: i <= end[0] -> LOG(0, i) = 0; i++ :: else -> break od;
    i = 0;
    end[0] = p
}

inline restart(p) { truncate(p); ident[0] = next_ident; next_ident++ }

proctype Faults() {
    byte i;
    do
    :: d_step { faults > 0 && end[0] >= first + 1 -> restart(end[0] - 1) }
    :: d_step { faults > 0 && end[0] >= first + 2 -> restart(end[0] - 2) }
    :: d_step { faults > 0 -> restart(end[0]) }
    :: d_step { /* FLUSHALL, and the genesis entry of whoever comes first */
           faults > 0 ->
           truncate(0); LOG(0, 0) = next_nonce; next_nonce++;
           first = 0
       }
    :: d_step { first < end[0] && fillers == 0 && FILLERS > 0 -> LOG(0, first) = 0; first++ }
    od
}

#endif

init {
    d_step {
#ifdef REPLICA
        master[0] = true;
        ident[1] = 1; next_ident = 2;
#endif
        LOG(0, 0) = 0
    }
    atomic { run Clock(); run Writer(); run Poller(); run Reader(); run Faults() }
}
