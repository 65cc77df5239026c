/* The flight: one loader a key, however many callers wait.
 *
 * Properties  V1  at most one leader at a time whose lease runs (assertion in list)
 *             V2  every caller returns: nobody sleeps on, nobody is left untold. A missed wake-up is a
 *                 deadlock, which SPIN calls an invalid end state
 *             V3  who joined after an invalidation or a put had returned never gets a value loaded
 *                 before it (assertion in give)
 *             V4  what was put is never replaced by a value loaded before (assertion in store)
 * Processes   Caller   one zc_fetch(), by the steps of >>flight: look (the shard locked); then lead: load,
 *                      and commit, fail or die; or follow: asleep on the monitor, or listening
 *                      (zc_flight_notify); then perhaps again
 *             Writer   changes the data, and invalidates, puts or deletes
 *             Clock    a lease is over, at any moment, though its leader is alive
 *             Poller   zc_poll(): ends an overdue flight
 * Abstraction
 *   - One key, one tag. `seen` counts invalidations; an entry is fresh while its begin equals seen.
 *   - Steps with the shard locked are one step, and so are steps under the flight's monitor. State is
 *     stored with the shard locked; the sleeper looks at it again under the monitor, which the waker
 *     takes after the store.
 *   - A leader that dies does so between two steps; its lease is over at once, which is no loss: the
 *     others may take any time.
 *   - With LEASES=0 no lease is ever over, so nobody wakes but by being woken.
 *   - A failed flight is handed over: its followers begin again. A caller leads once at most, so there
 *     are as many flights as callers.
 * Ablations (one -D each; every one must give a counterexample)
 *   NO_FENCE             a leader whose lease was taken over stores all the same
 *   PUT_NO_FENCE         a put does not fence the flight that is listed
 *   SLEEP_NO_CHECK       the sleeper does not look at the state again under the monitor
 *   WAKE_FIRST           the waker wakes before the state is stored
 *   ANY_FOLLOWER         a follower takes the value whenever it joined
 *   UNFENCED_FOLLOWER    a follower does not mind a put or del before it joined
 *   LIST_NO_CHECK        a caller lists its flight without a second look, after it had let the lock go
 *   NO_POLL              nobody ends an overdue flight but the next caller
 *   NO_WAKE_AT_TAKEOVER  who takes over does not wake the followers of the flight that was lost
 *   FAIL_NO_WAKE         a leader that fails wakes nobody
 *   WITNESS              not an ablation: a value is given after a write, a failure and a lost lease
 *   VERSION_AFTER_LOADER the flight takes its begin after the loader
 */

#ifndef CALLERS
#define CALLERS 3
#endif
#ifndef LISTENERS
#define LISTENERS 1 /* of the callers */
#endif
#ifndef WRITES
#define WRITES 1
#endif
#ifndef LEASES
#define LEASES 1
#endif
#ifndef FAILS
#define FAILS 1
#endif

#define NONE 255
mtype = { RUNNING, DONE, FAILED, LOST };

/* ---- flights, by the number of their leader; 0 is none ---- */
#define N (CALLERS + 1)
byte listed = 0;
mtype state[N];
byte begin[N], result[N];
bool fenced[N];  /* a put came */
bool overdue[N]; /* its lease is over */
byte sleepers[N];
byte rings[N];   /* of the monitor */
byte calls[N];   /* of those who listen */
byte leases_running = 0;

/* ---- the entry and the data ---- */
byte e_val = NONE, e_begin = 0;
byte seen = 0;     /* the latest version */
byte db = 0;
byte returned = 0; /* the data when the last invalidation or put had returned */
byte put_val = 0;  /* the data at the last put or del */
byte writes = WRITES, leases = LEASES, fails = FAILS;

#define FRESH (e_val != NONE && e_begin == seen)

inline store(v, b) { assert(v >= put_val); e_val = v; e_begin = b }

#ifdef WITNESS
#define GOOD(v) (!(asked == WRITES && fails == 0 && leases == 0))
#else
#define GOOD(v) ((v) >= asked)
#endif
inline give(v) { assert(GOOD(v)) }

inline list() {
    listed = me;
    state[me] = RUNNING;
    leases_running++;
    assert(leases_running <= 1);
    begin[me] = seen
}

inline lease_over(f) { overdue[f] = true; leases_running-- }

/* With the shard locked: off the list, state stored. */
inline end_flight(f, how) {
    if
    :: listed == f ->
           listed = 0;
           if :: !overdue[f] -> leases_running-- :: else fi
    :: else
    fi;
    state[f] = how
}

/* Two critical sections: the shard's, then the monitor's. */
inline wake(f) {
    atomic { asleep = sleepers[f] > 0; sleepers[f] = 0; calls[f]++ }
    d_step { if :: asleep -> rings[f]++ :: else fi; asleep = false }
}

proctype Caller(byte me; bool listens) {
    byte f = 0, joined = 0, asked = 0, loaded = 0, heard = 0;
    bool unfenced = false, asleep = false;

look:
    atomic {
        f = listed; joined = seen; asked = returned;
        if
        :: FRESH -> give(e_val); f = 0; goto out
        :: !FRESH && f == 0 ->
#ifdef LIST_NO_CHECK
               goto list_it
#else
               list(); goto lead
#endif
        :: !FRESH && f != 0 && overdue[f] -> end_flight(f, LOST); list(); goto took_over
        :: else -> unfenced = !fenced[f]
        fi
    }
    if
    :: listens -> goto listen
    :: else
    fi;

    /* ---- follow: zc__flight_sleep ---- */
    atomic {
        if
        :: state[f] != RUNNING -> goto outcome
        :: else -> sleepers[f]++
        fi
    }
#ifdef SLEEP_NO_CHECK
    heard = rings[f];
    rings[f] != heard || overdue[f];
#else
    do
    :: atomic { state[f] == RUNNING && !overdue[f] -> heard = rings[f] }
       rings[f] != heard || overdue[f]
    :: atomic { (state[f] != RUNNING || overdue[f]) -> break }
    od;
#endif
    goto outcome;

listen: /* zc_flight_notify: registered with the shard locked, or told at once */
    atomic {
        if
        :: state[f] != RUNNING -> goto outcome
        :: else -> heard = calls[f]
        fi
    }
    calls[f] != heard;

outcome:
    atomic {
        heard = 0;
        if
#ifdef ANY_FOLLOWER
        :: state[f] == DONE && unfenced -> give(result[f]); f = 0; goto out
#elif defined(UNFENCED_FOLLOWER)
        :: state[f] == DONE && joined <= begin[f] -> give(result[f]); f = 0; goto out
#else
        :: state[f] == DONE && joined <= begin[f] && unfenced -> give(result[f]); f = 0; goto out
#endif
        :: else -> unfenced = false; goto look
        fi
    }

#ifdef LIST_NO_CHECK
list_it:
    atomic { list(); goto lead }
#endif

took_over:
#ifndef NO_WAKE_AT_TAKEOVER
    wake(f);
#endif
lead:
    atomic { f = 0; loaded = db }
#ifdef VERSION_AFTER_LOADER
    begin[me] = seen;
#endif
    if
    :: goto commit
    :: d_step { fails > 0 -> fails--; if :: state[me] == RUNNING -> end_flight(me, FAILED) :: else fi }
#ifndef FAIL_NO_WAKE
       wake(me);
#endif
       goto out
    :: d_step { leases > 0 && listed == me && !overdue[me] -> leases--; lease_over(me) }
       goto out /* dead */
    fi;

commit:
#ifdef WAKE_FIRST
    wake(me);
#endif
    atomic {
        give(loaded);
        if
#ifdef NO_FENCE
        :: seen == begin[me] && !fenced[me] -> store(loaded, seen)
#elif defined(PUT_NO_FENCE)
        :: listed == me && seen == begin[me] -> store(loaded, seen)
#else
        :: listed == me && seen == begin[me] && !fenced[me] -> store(loaded, seen)
#endif
        :: else
        fi;
        if :: state[me] == RUNNING -> result[me] = loaded; end_flight(me, DONE) :: else fi
    }
#ifndef WAKE_FIRST
    wake(me);
#endif

out:
    skip
}

/* A put or del, which fences the flight that is listed. */
inline overtake() {
    put_val = db; returned = db;
    if :: listed != 0 -> fenced[listed] = true :: else fi
}

proctype Writer() {
end:
    do
    :: d_step { writes > 0 -> writes--; db++ }
       if
       :: d_step { seen++; returned = db }
       :: d_step { store(db, seen); overtake() }
       :: d_step { e_val = NONE; overtake() }
       fi
    od
}

proctype Clock() {
end:
    do
    :: d_step { leases > 0 && listed != 0 && !overdue[listed] -> leases--; lease_over(listed) }
    od
}

proctype Poller() {
    byte f = 0;
    bool asleep = false;
end:
    do
#ifndef NO_POLL
    :: d_step { listed != 0 && overdue[listed] -> f = listed; end_flight(f, LOST) }
       wake(f)
#else
    :: false
#endif
    od
}

init {
    byte i = 1;
    atomic {
        run Writer(); run Clock(); run Poller();
        do
        :: i <= CALLERS -> run Caller(i, i <= LISTENERS); i++
        :: else -> break
        od
    }
}
