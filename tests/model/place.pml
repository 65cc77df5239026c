/* The log as one value of a place that compares and sets: how old may a value be that is served?
 *
 * Property   A value served at x reflects every invalidation acknowledged more than T before x. It is the
 *            assertion in Node.
 * Processes  Clock    one tick; any number of them may pass between two steps of anybody
 *            Writer   two: changes the data, reads the log, and swaps in one with its entry, until that
 *                     has won; may die between any two steps
 *            Poller   the node's reading of the log: notes the time, reads, checks, renews the lease
 *            Node     the node's callers: a fill in two steps, a record of the storage, a read
 *            Faults   the log is evicted, or rolled back to what it was before the last swap; the node
 *                     starts anew, and knows nothing then but what the storage has
 * Abstraction
 *   - One tag, one key. The data is a counter; a value is what the counter was when it was read.
 *   - A token, a nonce, a generation: a number that is never given twice.
 *   - The window is longer than the log: who is too far behind has no entry at his cursor, which the
 *     nonce's check sees.
 *   - A rollback takes back what the node has heard, and the node lives until it has noticed: one that
 *     nobody has seen cannot be found out by anybody.
 * Ablations (one -D each; every one must give a counterexample)
 *   NO_LEASE       a value is served however long ago the log was read
 *   NO_NONCE       the entry at the cursor is known by its position alone
 *   NO_GENERATION  a new log has the generation of the old one
 *   STALE_READ     a read may give what was there before the last swap: it is not linearizable
 *   ANY_TOKEN      of two swaps with one token both win
 *   WITNESS        not an ablation: a value is served after all writes and faults
 */

#ifndef T
#define T 1 /* ticks that a lease lasts */
#endif
#ifndef FAULTS
#define FAULTS 1
#endif

#ifdef NO_LEASE
#define HELD true
#else
#define HELD lease <= T
#endif

#define WRITES 2
#define LEN (WRITES + 1)
#define NONE 255
#define OLDER(age) age = (age < T + 1 -> age + 1 : age)

typedef Log {
    bool there;
    byte gen, end, token;
    byte nonce[LEN]; /* position 0 is the genesis entry */
};

Log place, before; /* what is there, and what was before the last swap */
byte fresh = 1;    /* the next number that nobody has had */
byte data;
byte acked[LEN] = NONE; /* how long ago; NONE: not yet, or already too long to matter */
byte faults, ended;

/* The node. */
bool attached, rolled;
byte gen, cursor, seen, lease, polled;
byte l1 = NONE, filling = NONE; /* values; NONE: none */
bool fill_ok;
byte record = NONE, record_gen, record_at; /* in the storage */

#define number(x) x = fresh; fresh++
#define copy(a, b) \
    a.there = b.there; a.gen = b.gen; a.end = b.end; a.token = b.token; \
    a.nonce[0] = b.nonce[0]; a.nonce[1] = b.nonce[1]; a.nonce[2] = b.nonce[2]
#define clear(l) \
    l.there = false; l.gen = 0; l.end = 0; l.token = 0; \
    l.nonce[0] = 0; l.nonce[1] = 0; l.nonce[2] = 0

inline make(l) { /* a new log */
    l.there = true;
    l.end = 0;
#ifdef NO_GENERATION
    l.gen = 1;
#else
    number(l.gen);
#endif
    number(l.nonce[0]);
    l.nonce[1] = 0;
    l.nonce[2] = 0
}

inline swap(l) { /* it has won */
    copy(before, place);
    copy(place, l);
    number(place.token)
}

proctype Writer() {
    Log l;
    byte mine;
    atomic { data++; mine = data }
again:
    atomic { copy(l, place) }
    if
    :: goto died
    :: skip
    fi;
    atomic {
        if
#ifndef ANY_TOKEN
        :: l.token != place.token -> clear(l); goto again
        :: else ->
#else
        :: true ->
#endif
            if
            :: !l.there -> make(l)
            :: else
            fi;
            l.end++;
            number(l.nonce[l.end]);
            swap(l);
            acked[mine] = 0
        fi
    }
died:
    atomic { clear(l); mine = 0; ended++ }
}

inline forget() { l1 = NONE; fill_ok = false }

proctype Poller() {
    Log l;
    bool same;
end:
    do
    :: polled = 0;
        atomic {
            if
            :: true -> copy(l, place)
#ifdef STALE_READ
            :: before.there -> copy(l, before)
#endif
            fi;
            same = attached && l.there && l.gen == gen && l.end >= cursor
        };
        d_step {
#ifndef NO_NONCE
            same = same && l.nonce[(same -> cursor : 0)] == seen;
#endif
            if
            :: same && attached ->
                if
                :: l.end > cursor -> forget()
                :: else
                fi;
                cursor = l.end;
                lease = polled
            :: else -> /* a break: attaches, to another log if this one is not to be believed */
                forget();
                if
                :: !place.there || (attached && place.gen == gen && (place.end < cursor ||
                                                                    place.nonce[cursor] != seen)) ->
                    copy(l, place);
                    make(l);
                    swap(l)
                :: else
                fi;
                rolled = false;
                gen = place.gen;
                cursor = place.end;
                lease = 0;
                attached = true
            fi;
            seen = place.nonce[cursor];
            if
            :: same -> seen = l.nonce[cursor]
            :: else
            fi;
            same = false;
            clear(l)
        }
    od
}

proctype Node() {
end:
    do
    :: atomic { attached && filling == NONE -> filling = data; fill_ok = true }
    :: atomic {
            filling != NONE ->
            if
            :: fill_ok -> l1 = filling; record = filling; record_gen = gen; record_at = cursor
            :: else
            fi;
            filling = NONE
        }
    :: atomic {
            attached && l1 == NONE && record != NONE && record_gen == gen && record_at >= cursor ->
            l1 = record
        }
    :: d_step {
            attached && l1 != NONE && HELD ->
#ifdef WITNESS
            assert(!(ended == WRITES && faults == FAULTS && l1 == WRITES));
#endif
            assert(!(acked[1] == T + 1 && l1 < 1) && !(acked[2] == T + 1 && l1 < 2))
        }
    od
}

proctype Clock() {
end:
    do
    :: d_step {
            OLDER(lease);
            OLDER(polled);
            if :: acked[1] != NONE -> OLDER(acked[1]) :: else fi;
            if :: acked[2] != NONE -> OLDER(acked[2]) :: else fi
        }
    od
}

proctype Faults() {
end:
    do
    :: d_step { faults < FAULTS && place.there -> faults++; place.there = false; number(place.token) }
    :: d_step {
            faults < FAULTS && attached && before.there && before.gen == gen && place.there &&
            place.gen == gen && place.end == cursor && seen == place.nonce[cursor] && before.end < cursor ->
            faults++;
            rolled = true;
            copy(place, before);
            number(place.token)
        }
    :: d_step {
            faults < FAULTS && attached && !rolled ->
            faults++;
            attached = false;
            l1 = NONE; filling = NONE; fill_ok = false;
            cursor = 0; seen = 0; gen = 0; lease = T + 1
        }
    od
}

init {
    atomic { run Writer(); run Writer(); run Poller(); run Node(); run Clock(); run Faults() }
}
