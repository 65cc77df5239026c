/* Reads that share nothing: one slot of the table, readers without a lock, a writer who replaces the
 * entry and frees what he took out.
 *
 * Properties  R1  a reader never looks at memory that was freed, nor at an entry before it is whole
 *                 (assertions in look)
 *             R2  what it gives was not invalidated before it began (assertion in read)
 *             R3  what is there is never missed, though it is replaced (assertion in read)
 *             R4  nobody waits for ever (else SPIN finds an invalid end state)
 * Processes   Reader   zc__copy_shared(): takes its seat, loads the slot, compares the key, asks
 *                      whether it is fresh, copies, leaves
 *             Writer   invalidates, makes an entry, puts it in the place of the old one, looks at the
 *                      seats (zc__rcu_passed()), frees the old one
 *             Drain    a store becomes visible
 * Abstraction
 *   - Stores wait in a buffer of their thread, and become visible in any order, but for two to one
 *     address; a release waits for all before it. So what the text does not order is not in order.
 *     An exchange and a fence wait until the buffer is empty.
 *   - Loads are done in their order: what is acquire or seq_cst there may not be late here. That one
 *     is early is an ablation (SLOT_FIRST, LEAVE_FIRST).
 *   - A version is a number; the entry that is made after invalidation v has the value and begin v.
 * Ablations (one -D each; every one must give a counterexample)
 *   NO_EXCHANGE   a reader says with a plain store that he reads
 *   SLOT_FIRST    the slot is loaded before he says so
 *   LEAVE_FIRST   he leaves before he has copied
 *   NO_FRESH      he does not compare begin and published
 *   NO_FENCE      the writer looks at the seats before all can see what he took out
 *   NO_LOOK       he does not look at all
 *   ONE_SEAT      he looks at the first only
 *   FREE_FIRST    he frees before he takes out
 *   NO_RELEASE    the slot is stored without release, out and in
 *   NO_TURN       the writer does not say that he replaces
 *   TURN_LATE     a reader does not look at it again
 *   TURN_LOOSE    the old entry may leave the slot before the others see that he does
 *   WITNESS       not an ablation: the last value is read after an older one was freed
 */

#ifndef READERS
#define READERS 1
#endif
#ifndef READS
#define READS 2
#endif
#ifndef WRITES
#define WRITES 2
#endif

#define SLOT 0
#define PUBLISHED 1
#define CELL 2 /* and 3: what is in the memory of two entries: 0 nothing, else its value + 1 */
#define TURN 4 /* odd: the slot is being replaced */
#define IN(r) (5 + 2 * (r))
#define HITS(r) (6 + 2 * (r))
#define ADDRESSES (5 + 2 * READERS)
#define ROOM 7
#define WRITER READERS

byte memory[ADDRESSES];
bool live[2];
byte floor; /* what every read that begins now must be up to */
byte freed;

typedef buffer {
    byte n;
    byte at[ROOM];
    byte value[ROOM];
    bool release[ROOM]
};
buffer stores[READERS + 1];

#define EMPTY(me) (stores[me].n == 0)

inline store(me, a, v, rel) {
    atomic {
        stores[me].n < ROOM;
        stores[me].at[stores[me].n] = a;
        stores[me].value[stores[me].n] = v;
        stores[me].release[stores[me].n] = rel;
        stores[me].n++
    }
}

/* The newest that the thread itself has stored, or what all see. */
inline load(me, a, to) {
    d_step {
        to = memory[a];
        k = 0;
        do
        :: k < stores[me].n ->
            if
            :: stores[me].at[k] == a -> to = stores[me].value[k]
            :: else
            fi;
            k++
        :: else -> break
        od;
        k = 0
    }
}

proctype Drain(byte me) {
    byte i, j;
    bool may;
end:
    do
    :: atomic {
        stores[me].n > 0 ->
        i = 0;
        do /* any of them */
        :: i + 1 < stores[me].n -> i++
        :: break
        od;
        may = !stores[me].release[i] || i == 0;
        j = 0;
        do
        :: j < i -> may = may && stores[me].at[j] != stores[me].at[i]; j++
        :: else -> break
        od;
        if
        :: may ->
            memory[stores[me].at[i]] = stores[me].value[i];
            if
            :: stores[me].at[i] == PUBLISHED -> floor = stores[me].value[i]
            :: else
            fi;
            j = i;
            do
            :: j + 1 < stores[me].n ->
                stores[me].at[j] = stores[me].at[j + 1];
                stores[me].value[j] = stores[me].value[j + 1];
                stores[me].release[j] = stores[me].release[j + 1];
                j++
            :: else -> break
            od;
            stores[me].n--;
            stores[me].at[stores[me].n] = 0;
            stores[me].value[stores[me].n] = 0;
            stores[me].release[stores[me].n] = false
        :: else
        fi;
        i = 0; j = 0; may = false
    }
    od
}

inline enter() {
#ifdef NO_EXCHANGE
    store(me, IN(me), 1, false)
#else
    atomic { EMPTY(me) && !memory[IN(me)] -> memory[IN(me)] = 1 }
#endif
}
inline leave() {
    load(me, HITS(me), h);
    store(me, HITS(me), (h + hit), true);
    store(me, IN(me), 0, true);
    h = 0
}
inline look(to) {
    load(me, (CELL + e - 1), to);
    assert(live[e - 1] && to > 0) /* R1 */
}

proctype Reader(byte me) {
    byte begun, e, c, again, p, h, k, n, turn;
    bool hit;
    do
    :: n < READS ->
        begun = floor;
#ifdef SLOT_FIRST
        load(me, SLOT, e);
        enter();
#else
        enter();
        load(me, TURN, turn);
        load(me, SLOT, e);
#endif
        hit = false;
        if
        :: e > 0 ->
            look(c);
            load(me, PUBLISHED, p);
            hit = true;
#ifndef NO_FRESH
            hit = c - 1 >= p;
#endif
#ifdef LEAVE_FIRST
            leave();
#endif
            if
            :: hit -> look(again); assert(again == c); assert(c - 1 >= begun) /* R2 */
            :: else
            fi;
#ifdef WITNESS
            assert(!(hit && freed && c - 1 == WRITES));
#endif
        :: else ->
#ifdef TURN_LATE
            p = turn;
#else
            load(me, TURN, p);
#endif
            assert(p != turn || p % 2); /* R3 */
#ifdef LEAVE_FIRST
            leave()
#endif
        fi;
#ifndef LEAVE_FIRST
        leave();
#endif
        e = 0; c = 0; again = 0; p = 0; hit = false; turn = 0;
        n++
    :: else -> break
    od
}

inline passed() {
#ifndef NO_FENCE
    EMPTY(WRITER);
#endif
#ifndef NO_LOOK
    r = 0;
    do
    :: r < READERS ->
        load(WRITER, IN(r), in);
        load(WRITER, HITS(r), h);
        do
        :: in ->
            load(WRITER, HITS(r), p);
            if
            :: p != h -> break
            :: else -> load(WRITER, IN(r), in)
            fi
        :: else -> break
        od;
#ifdef ONE_SEAT
        break
#else
        r++
#endif
    :: else -> break
    od;
    in = 0; h = 0; p = 0; r = 0
#endif
}
inline give(cell) {
    atomic { live[cell] = false; freed = 1 }
    store(WRITER, (CELL + cell), 0, false) /* by whoever has the memory next */
}

proctype Writer() {
    byte v = 1, r, in, h, p, k, old;
    do
    :: v <= WRITES ->
        old = (v + 1) % 2; /* where the last one is; the other place is free */
        store(WRITER, PUBLISHED, v, true);
        live[v % 2] = true;
        store(WRITER, (CELL + v % 2), (v + 1), false);
#ifdef FREE_FIRST
        passed();
        give(old);
#endif
#ifndef NO_TURN
        store(WRITER, TURN, (2 * v - 1), false);
#endif
#if defined(TURN_LOOSE) || defined(NO_RELEASE)
        store(WRITER, SLOT, 0, false);
#else
        store(WRITER, SLOT, 0, true);
#endif
#ifdef NO_RELEASE
        store(WRITER, SLOT, (v % 2 + 1), false);
#else
        store(WRITER, SLOT, (v % 2 + 1), true);
#endif
#ifndef NO_TURN
        store(WRITER, TURN, (2 * v), true);
#endif
#ifndef FREE_FIRST
        passed();
        give(old);
#endif
        EMPTY(WRITER); /* the locks that are taken before the next one */
        v++
    :: else -> break
    od
}

init {
    byte i;
    atomic {
        memory[SLOT] = 1;
        memory[CELL] = 1;
        live[0] = true;
        do
        :: i < READERS -> run Reader(i); run Drain(i); i++
        :: else -> break
        od;
        run Writer();
        run Drain(WRITER)
    }
}
