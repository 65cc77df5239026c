/* Transactions and holds: which value may be kept while a transaction is open, and when its process
 * dies round the commit?
 *
 * Property   A node that has heard the whole log serves nothing that is older than the last commit;
 *            nobody serves what a transaction has not committed. (How late a node hears is lease.pml's
 *            matter.) With HOLDS that is so whenever a process dies; without, while nobody dies, once
 *            the commit's invalidation is in the log. It is the assertion in Node.
 * Processes  Node 0, 1   each runs a transaction (with TRANSACTIONS=1 node 0 alone), fills of its own,
 *                        and reads its table; node 1 attaches at any time. A node may die at any
 *                        step of its transaction, DEATHS of them.
 * A node's steps, each one atomic, in any order that the protocol allows
 *   begin       the transaction's fills begin; then its snapshot is taken
 *   read        in the transaction, before it writes: from the snapshot, or what is committed now
 *               (READ_COMMITTED); kept if nothing was stamped since begin, and nothing is held
 *   write       from here on it reads its own value, which is not kept
 *   hold        in the list beside the log, then in the log, where it is an invalidation, too
 *   commit, or roll back; and then, as the end of the hold, one more invalidation. Only a rollback
 *               without a hold says nothing. The list forgets the hold before that, or after it
 *   hear        the next entry of the log: stamp; a hold is marked, after its end it is not
 *   expire      the lease of a hold is over: stamp, and mark it no more. The lease is longer than it
 *               takes to commit: it is over after the commit or the rollback, or when the holder is dead
 *   fill        begin; load; keep
 * Abstraction
 *   - One key, one tag. The data is a counter of commits. A death before the commit rolls back.
 *   - A stamp is above whatever began before, and below what begins later (fill.pml): it takes the
 *     value out of the table, and every fill that runs will not be kept.
 *   - Leases end at moments of each node's own: their clocks need not agree.
 * Ablations (one -D each; every one must give a counterexample)
 *   BEGIN_AFTER_SNAPSHOT      the fills of a transaction begin after its snapshot
 *   FILL_BEGINS_NOW           a fill in the transaction begins when it is made, as any other
 *   STORE_OWN_WRITES          what the transaction reads of its own writes is kept
 *   INVALIDATE_BEFORE_COMMIT  (without holds) the invalidation goes before the commit
 *   NO_HOLD                   a commit without one, and its process dies
 *   HOLD_AFTER_COMMIT         the hold is announced after the commit
 *   HOLD_NO_STAMP             a hold that is heard invalidates nothing
 *   STORE_WHILE_HELD          what depends on a held tag is kept
 *   EXPIRE_NO_STAMP           the end of a lease is no invalidation
 *   EXPIRE_EARLY              a lease may be over before the commit
 *   END_NO_STAMP              the end of a hold is no invalidation
 *   ATTACH_NO_LIST            who attaches does not read the lists beside the log
 *   LIST_AFTER_LOG            a hold is in the log before it is in the list
 *   LIST_BEFORE_POSITION      who attaches reads the lists before the position
 *   WITNESS                   not an ablation: the last commit is served by the node that is left
 */

#ifndef HOLDS
#define HOLDS 1
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef TRANSACTIONS
#define TRANSACTIONS 1
#endif

#define NONE 255
#define OWN 100 /* a value that was not committed */
#define LEN (2 * TRANSACTIONS + 1) /* two entries for each transaction */

mtype = { INV, HOLD };

/* ---- server ---- */
mtype what[LEN];
byte whose[LEN]; /* of which transaction */
byte end = 0;    /* the last position */
bool listed[2];  /* the lists beside the log */

/* ---- data ---- */
byte db = 0;
byte deaths = DEATHS;

/* What a transaction has come to, in this order; without a hold it is neither LISTED nor HELD. */
#define IDLE 0
#define BEGUN 1
#define OPEN 2
#define WRITTEN 3
#define LISTED 4
#define HELD 5
#define COMMITTED 6
#define ROLLED 7
#define SAID 8
byte is[2];
bool dead[2], did[2]; /* did: it has committed */

inline append(kind) {
    end++;
    what[end] = kind;
    whose[end] = me
}

inline stamp() {
    val = NONE; filling = false; loaded = NONE;
    t_lives = false; t_loaded = NONE
}

#ifdef STORE_WHILE_HELD
#define MAY_KEEP true
#else
#define MAY_KEEP (marked[0] != 1 && marked[1] != 1)
#endif
#ifdef EXPIRE_EARLY
#define IS_OVER(h) true
#else
#define IS_OVER(h) (dead[h] || is[h] >= COMMITTED)
#endif
#ifdef READ_COMMITTED
#define READS db
#else
#define READS snap
#endif
#if defined(NO_HOLD) || HOLDS == 0
#define HAS_HOLD false
#else
#define HAS_HOLD true
#endif
#define WRITES(t) (is[t] >= WRITTEN && is[t] < COMMITTED && !dead[t]) /* the row is locked */

#if HOLDS
#define MUST_KNOW (cursor == end)
#else /* a commit that nobody could have heard of yet: its node lives, and will say it */
#define UNSAID(t) (is[t] == COMMITTED && did[t])
#define MUST_KNOW (cursor == end && !UNSAID(0) && !UNSAID(1))
#endif
#ifdef WITNESS
#define GOOD (!(val == TRANSACTIONS && deaths == 0 && dead[1 - me]))
#else
#define GOOD (val < OWN && (!MUST_KNOW || val >= db))
#endif

proctype Node(byte me) {
    byte cursor = 0;
    bool attached = (me == 0), asked = false;
    byte marked[2];    /* 1 held, 2 it was: its end was heard, or its lease is over */
    byte val = NONE;   /* the entry in the table */
    bool filling = false;
    byte loaded = NONE;
    bool t_lives = false; /* nothing was stamped since its fills began */
    byte snap = 0, t_loaded = NONE;
    byte h;
end_node:
    do
    :: dead[me] -> break
    :: d_step {
           deaths > 0 && !dead[me] && is[me] >= BEGUN && (is[me] < SAID || listed[me]) ->
           deaths--;
           dead[me] = true;
           stamp();
           snap = 0; cursor = 0; marked[0] = 0; marked[1] = 0
       }
#ifdef LIST_BEFORE_POSITION
    :: d_step { !attached && asked -> attached = true; cursor = end }
#else
    :: d_step { !attached && !asked -> asked = true; cursor = end }
#endif
    :: d_step {
#ifdef LIST_BEFORE_POSITION
           !attached && !asked -> asked = true;
#else
           !attached && asked -> attached = true;
#endif
#ifndef ATTACH_NO_LIST
           marked[0] = (listed[0] -> 1 : 0);
           marked[1] = (listed[1] -> 1 : 0)
#endif
       }

    /* ---- the transaction ---- */
#ifdef BEGIN_AFTER_SNAPSHOT
    :: d_step { attached && !dead[me] && is[me] == IDLE && me < TRANSACTIONS -> snap = db; is[me] = BEGUN }
    :: d_step { !dead[me] && is[me] == BEGUN -> t_lives = true; is[me] = OPEN }
#else
    :: d_step { attached && !dead[me] && is[me] == IDLE && me < TRANSACTIONS -> t_lives = true; is[me] = BEGUN }
    :: d_step { !dead[me] && is[me] == BEGUN -> snap = db; is[me] = OPEN }
#endif
    :: d_step {
           !dead[me] && is[me] == OPEN && t_loaded == NONE ->
#ifdef FILL_BEGINS_NOW
           t_lives = true;
#endif
           t_loaded = (t_lives -> READS : NONE)
       }
    :: d_step {
           !dead[me] && t_loaded != NONE ->
           val = (MAY_KEEP -> t_loaded : val);
           t_loaded = NONE
       }
    :: d_step {
           !dead[me] && is[me] == OPEN && !WRITES(1 - me) ->
           is[me] = WRITTEN;
           snap = 0
#ifdef STORE_OWN_WRITES
           ; val = OWN
#endif
       }
#ifdef HOLD_AFTER_COMMIT
    :: d_step { !dead[me] && is[me] == WRITTEN -> db++; did[me] = true; is[me] = LISTED }
    :: d_step { !dead[me] && is[me] == LISTED -> listed[me] = true; append(HOLD); is[me] = COMMITTED }
#else
#ifdef LIST_AFTER_LOG
    :: d_step { !dead[me] && is[me] == WRITTEN && HAS_HOLD -> append(HOLD); is[me] = LISTED }
    :: d_step { !dead[me] && is[me] == LISTED -> listed[me] = true; is[me] = HELD }
#else
    :: d_step { !dead[me] && is[me] == WRITTEN && HAS_HOLD -> listed[me] = true; is[me] = LISTED }
    :: d_step { !dead[me] && is[me] == LISTED -> append(HOLD); is[me] = HELD }
#endif
#ifdef INVALIDATE_BEFORE_COMMIT
    :: d_step { !dead[me] && is[me] == WRITTEN -> append(INV); is[me] = HELD }
    :: d_step { !dead[me] && is[me] == HELD -> db++; did[me] = true; is[me] = SAID }
#else
    :: d_step {
           !dead[me] && is[me] == (HAS_HOLD -> HELD : WRITTEN) ->
           db++;
           did[me] = true;
           is[me] = COMMITTED
       }
#endif
    :: d_step {
           !dead[me] && is[me] == (HAS_HOLD -> HELD : WRITTEN) -> is[me] = (HAS_HOLD -> ROLLED : SAID)
       }
#endif
    :: d_step { !dead[me] && (is[me] == COMMITTED || is[me] == ROLLED) -> append(INV); is[me] = SAID }
    :: d_step { !dead[me] && is[me] >= COMMITTED && listed[me] -> listed[me] = false }

    /* ---- hear ---- */
    :: d_step {
           attached && !dead[me] && cursor < end ->
           cursor++;
           h = whose[cursor];
           if
           :: what[cursor] == HOLD ->
#ifndef HOLD_NO_STAMP
              stamp();
#endif
              marked[h] = 1
           :: else ->
#ifndef END_NO_STAMP
              stamp();
#endif
              marked[h] = 2
           fi;
           h = 0
       }
    :: d_step {
           attached && !dead[me] && (marked[0] == 1 && IS_OVER(0) || marked[1] == 1 && IS_OVER(1)) ->
           h = (marked[0] == 1 && IS_OVER(0) -> 0 : 1);
#ifndef EXPIRE_NO_STAMP
           stamp();
#endif
           marked[h] = 2;
           h = 0
       }

    /* ---- fill, serve ---- */
    :: d_step { attached && !dead[me] && !filling -> filling = true }
    :: d_step { filling && loaded == NONE -> loaded = db }
    :: d_step {
           loaded != NONE ->
           val = (MAY_KEEP -> loaded : val);
           filling = false;
           loaded = NONE
       }
    :: d_step { val != NONE -> assert(GOOD) }
    od
}

init {
    atomic { run Node(0); run Node(1) }
}
