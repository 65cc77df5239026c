/* The fill: which value may a node keep, and which record of another node may it take?
 *
 * Property   What a node serves reflects every invalidation that it has heard of: those of the log up
 *            to its cursor, all that were appended before it attached, and its own from the moment
 *            they were applied here (that is when an asynchronous call returns). How old the cursor
 *            can be is lease.pml's matter. It is the assertion in Node; `known` is what was heard.
 * Processes  Node 0   attached from the start
 *            Node 1   attaches at any later time, and so lacks the versions of before
 *            Faults   the server restarts without the log's tail, prunes a tag's version into the
 *                     floor, takes an entry of some other tag
 * A node's steps, each one atomic, in any order that the protocol allows
 *   invalidate  the data changes; the tag is stamped here (seen + 1); the log is appended to; the entry
 *               is read back. From the stamp to the reading back the tag is "pending".
 *   poll        the next entry of the log: stamp max(position << 16, seen + 1); or, if the server's
 *               identity is not the known one, an epoch break: stamp the root, attach anew
 *   fill        take begin = seen, and the cursor; load; keep in L1 if nothing on the path is above
 *               begin; write the record to L2, at any later time
 *   record      learn the tag's version from the server; read a record from L2, judge it, keep it in L1
 *   serve       an entry of L1, by the rule
 * Versions   position * K + local counter, as (position << 16 | counter) in the header
 * Abstraction
 *   - One key, one tag, the root; an entry for another tag only takes a position. Entries of L1 are
 *     judged when they are served, so no flush is needed.
 *   - The data is a counter: a value is what the loader read. A log entry is what the data were when
 *     they were invalidated, 0 for another tag.
 *   - The append and the tag's version at the server are one step (they are one script there).
 * Ablations (one -D each; every one must give a counterexample)
 *   VERSION_AFTER_LOADER   begin and cursor are taken after the loader
 *   UNKNOWN_IS_ZERO        a tag that is not known here counts as never invalidated
 *   LEARN_ANY_HISTORY      the versions are learnt without a look at the server's identity
 *   FLOOR_FORGOTTEN        the server prunes a version without a floor
 *   ANY_IDENTITY           a record of another history of the log is taken
 *   NO_CLAMP               a record's begin is not clamped to the reader's cursor
 *   LOCAL_BEGIN            a record's begin is its writer's `seen`, local counter and all, instead of
 *                          the writer's cursor when the fill began
 *   RECORD_WHILE_PENDING   a record may be taken while its tag is pending here
 *   PENDING_TO_APPEND      pending ends with the append, not with the reading back
 *   READ_BACK_BY_POSITION  pending ends when the cursor is at the append's position or past it, whoever's
 *                          entry was read there (after a restart positions come again)
 *   STAMP_POSITION         an entry is stamped with its position, be it below `seen` or not
 *   WITNESS                not an ablation: a value is served after all writes, a fault and a learning
 *   NO_ROOT_STAMP          an epoch break does not stamp the root
 */

#ifndef WRITES
#define WRITES 1
#endif
#ifndef FILLERS
#define FILLERS 1
#endif
#ifndef FAULTS
#define FAULTS 1
#endif

#define K 8
#define LEN (2 * WRITES + FILLERS + 1) /* each write may be sent again once */
#define NONE 255
#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define MIN(a, b) ((a) < (b) -> (a) : (b))

/* ---- server ---- */
byte log[LEN];           /* position 0: the genesis entry */
byte end = 0, ident = 0; /* last position; another after each restart */
byte tag_pos = 0;        /* the tag's version: the position of its last invalidation */
byte floor = 0;          /* of what was pruned */
byte fillers = FILLERS, faults = FAULTS;

/* ---- L2: one record ---- */
byte r_val = NONE, r_begin = 0, r_ident = 0;

/* ---- data ---- */
byte db = 0;
byte appended = 0; /* the latest data that an entry was ever appended for */

/* Hands out the next version here. */
inline stamp(what, position) {
    seen = MAX(position * K, seen + 1);
    what = seen
}

inline attach() {
    attached = true;
    known_ident = ident;
    cursor = end;
    since = end;
    learned = false;
    known = MAX(known, appended)
}

inline end_fill() { fill = 0; begin = 0; at = 0; loaded = 0; by = 0 }

#ifdef BOTH_WRITE /* else node 0 alone invalidates */
#define MAY_WRITE true
#else
#define MAY_WRITE !late
#endif
#define NEWEST MAX(tag_v, root_v)

#ifdef UNKNOWN_IS_ZERO
#define IS_KNOWN true
#else
#define IS_KNOWN (learned || r_begin >= since * K)
#endif
#ifdef LEARN_ANY_HISTORY
#define SAME_HISTORY true
#else
#define SAME_HISTORY (ident == known_ident)
#endif
#ifdef ANY_IDENTITY
#define IS_OURS true
#else
#define IS_OURS (r_ident == known_ident)
#endif
#ifdef NO_CLAMP
#define CLAMPED r_begin
#else
#define CLAMPED MIN(r_begin, cursor * K)
#endif
#if defined(RECORD_WHILE_PENDING)
#define IS_PENDING false
#elif defined(PENDING_TO_APPEND)
#define IS_PENDING (inv == 2)
#else
#define IS_PENDING (inv >= 2)
#endif

#ifdef WITNESS
#define GOOD (!(known == WRITES && faults == 0 && learned))
#else
#define GOOD (val >= known)
#endif

proctype Node(bool late) {
    bool attached = !late;
    byte known_ident = 0, cursor = 0, seen = 0, tag_v = 0, root_v = 0;
    byte since = 0;         /* the cursor when it attached */
    bool learned = false;   /* the tag's version was learnt since */
    byte known = 0;
    byte inv = 0, sent = 0, changed = 0; /* 0 none  1 data changed  2 stamped  3 appended at `sent` */
    byte val = NONE, val_begin = 0; /* the entry in L1 */
    /* 0 none  1 begun  2 loaded  3 to be written to L2 */
    byte fill = 0, begin = 0, at = 0, loaded = 0, by = 0;
    do
    :: d_step { !attached -> attach(); seen = MAX(seen, cursor * K) }

    /* ---- invalidate ---- */
    :: d_step { attached && inv == 0 && db < WRITES && MAY_WRITE -> db++; changed = db; inv = 1 }
    :: d_step { inv == 1 -> stamp(tag_v, 0); known = MAX(known, changed); inv = 2 }
    :: d_step {
           inv == 2 && end + 1 < LEN ->
           end++; log[end] = changed; tag_pos = end;
           appended = MAX(appended, changed);
           sent = end; inv = 3
       }
#ifdef READ_BACK_BY_POSITION
    :: d_step { inv == 3 && cursor >= sent -> inv = 0; sent = 0; changed = 0 }
#endif

    /* ---- poll ---- */
    :: d_step {
           attached && ident == known_ident && cursor < end ->
           cursor++;
           if
           :: log[cursor] > 0 ->
#ifdef STAMP_POSITION
                  tag_v = cursor * K; seen = MAX(seen, tag_v);
#else
                  stamp(tag_v, cursor);
#endif
                  known = MAX(known, log[cursor])
           :: else -> seen = MAX(cursor * K, seen + 1)
           fi;
           if :: inv == 3 && cursor == sent -> inv = 0; sent = 0; changed = 0 :: else fi
       }
    :: d_step {
           attached && ident != known_ident ->
           attach();
#ifdef NO_ROOT_STAMP
           seen = MAX(cursor * K, seen + 1);
#else
           stamp(root_v, cursor);
#endif
           if :: inv == 3 -> inv = 2; sent = 0 :: else fi /* sent again */
       }

    /* ---- fill ---- */
#ifdef VERSION_AFTER_LOADER
    :: d_step { attached && fill == 0 && val == NONE -> fill = 1 }
    :: d_step { fill == 1 -> loaded = db; fill = 6 }
    :: d_step { fill == 6 -> begin = seen; at = cursor; by = known_ident; fill = 2 }
#else
    :: d_step { attached && fill == 0 && val == NONE -> begin = seen; at = cursor; by = known_ident; fill = 1 }
    :: d_step { fill == 1 -> loaded = db; fill = 2 }
#endif
    :: d_step {
           fill == 2 && NEWEST <= begin ->
           val = loaded; val_begin = begin;
#ifndef LOCAL_BEGIN
           begin = at * K; /* of the record */
#endif
           at = 0; fill = 3
       }
    :: d_step { fill == 2 && NEWEST > begin -> end_fill() }
    :: d_step {
           fill == 3 ->
           r_val = loaded; r_begin = begin; r_ident = by;
           end_fill()
       }

    /* ---- record ---- */
    :: d_step {
           attached && fill == 0 && val == NONE && r_val != NONE && !IS_KNOWN && SAME_HISTORY ->
#ifdef FLOOR_FORGOTTEN
           tag_v = MAX(tag_v, tag_pos * K);
#else
           tag_v = MAX(tag_v, MAX(tag_pos, floor) * K);
#endif
           seen = MAX(seen, tag_v);
           learned = true
       }
    :: d_step {
           attached && fill == 0 && val == NONE && r_val != NONE &&
           IS_OURS && IS_KNOWN && !IS_PENDING && NEWEST <= CLAMPED ->
           val = r_val; val_begin = CLAMPED
       }

    /* ---- serve; evict ---- */
    :: d_step {
           val != NONE ->
           if :: NEWEST <= val_begin -> assert(GOOD) :: else fi;
           val = NONE; val_begin = 0
       }
    od
}

proctype Faults() {
    do
    :: d_step { fillers > 0 && end + 1 < LEN -> fillers--; end++ }
    :: d_step { tag_pos > 0 -> floor = MAX(floor, tag_pos); tag_pos = 0 }
    :: d_step {
           faults > 0 && end > 0 ->
           log[end] = 0; end--;
           floor = MIN(floor, end);
           if
           :: tag_pos > end -> /* as it was when the tail was not there yet */
                  do
                  :: tag_pos > 0 && (tag_pos > end || log[tag_pos] == 0) -> tag_pos--
                  :: else -> break
                  od
           :: else
           fi;
           faults--; ident++
       }
    od
}

init { atomic { run Node(0); run Node(1); run Faults() } }
