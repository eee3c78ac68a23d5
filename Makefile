# Freehold's front door. `make help` lists what there is.

# ---- what the user may set ----------------------------------------------------------------------------------------
CPU    ?= max
SMP    ?= 4
MEM    ?= 1G
HOST   ?= reference
LOG    ?= info
APPEND ?=
GDB    ?=
GHOST  ?=
GUEST  ?=
GUESTS ?=
GUEST_INITRD ?=
GUEST_APPEND ?=
GUEST_MEM ?=
GUEST_CPUS ?=
PROTECTED ?=
TARGET ?=
DURATION ?= 60
JOBS   ?= 1
QEMU   ?= qemu-system-aarch64
BUILD  ?= build

# ---- the toolchain, as make setup found it ------------------------------------------------------------------------
-include $(BUILD)/toolchain.mk
CARGO  ?= cargo
OBJCOPY ?= aarch64-linux-gnu-objcopy

IMAGE_TARGET := aarch64-unknown-none-softfloat
PORTABLE_TARGET_DIRECTORY := $(or $(CARGO_TARGET_DIR),target)
IMAGES := $(PORTABLE_TARGET_DIRECTORY)/$(IMAGE_TARGET)/release
PAYLOADS := hello actor attacker spin fault pages registers smp interrupts uart mmio calls watcher latency identity tables guard sharing aarch32 seeds turns
IMAGE_PACKAGES := hyp loader host payloads image-start

# Relative to where tests run, a path means something else.
BUILD_PATH := $(abspath $(BUILD))
export QEMU
export FREEHOLD_BUILD := $(BUILD_PATH)
export FREEHOLD_HYP_ELF := $(BUILD_PATH)/hyp.stripped.elf

# Hyp alone, or hyp that compares itself with its specification.
FREEHOLD := $(if $(GHOST),freehold-ghost,freehold)
GHOST_TARGET_DIRECTORY := $(abspath $(PORTABLE_TARGET_DIRECTORY)/ghost)
GHOST_IMAGES := $(GHOST_TARGET_DIRECTORY)/$(IMAGE_TARGET)/release

IMAGE_CARGO = $(IMAGE_ENV) $(CARGO)
# Where the commit is what counts, Cargo.lock must be that of the commit.
LOCKED := $(if $(CI),--locked)
# And its verdict must not depend on luck: property tests draw the same cases each time. Elsewhere they draw new ones.
ifdef CI
export PROPTEST_RNG_SEED ?= 20261121
endif
IMAGE_FLAGS = $(LOCKED) --release --target $(IMAGE_TARGET) $(BUILD_STD)
PACKAGES = $(addprefix -p ,$(1))

# ---- QEMU ---------------------------------------------------------------------------------------------------------
# The loader is where QEMU puts a kernel. The host's kernel lies 32 MiB above the start of RAM, and the ramdisk behind
# it, where QEMU puts it: at the middle of RAM, or 128 MiB above its start, whichever is lower.
HOST_KERNEL_ADDRESS := 0x42000000

NAMED_GUESTS := $(strip $(GUEST) $(GUESTS))
ifneq ($(NAMED_GUESTS),)
ifneq ($(and $(GUEST),$(GUESTS)),)
$(error GUEST= and GUESTS=: give one of the two)
else ifneq ($(HOST),reference)
$(error HOST=$(HOST): GUEST= and GUESTS= are for HOST=reference)
else ifdef INITRD
$(error INITRD=$(INITRD): the ramdisk is made of what GUEST= and GUESTS= name; GUEST_INITRD= gives a guest an initrd)
endif
endif

ifeq ($(HOST),linux)
KERNEL ?= $(BUILD)/linux/Image
INITRD ?= $(BUILD)/linux/initrd.cpio.gz
BOOTARGS = console=ttyAMA0 freehold.cpus=$(SMP) $(APPEND)
else ifeq ($(HOST),reference)
KERNEL ?= $(BUILD)/host.img
ifeq ($(NAMED_GUESTS),)
INITRD ?= $(BUILD)/guests.cpio
BOOTARGS = $(if $(findstring scenario=,$(APPEND)),,scenario=story) report $(APPEND)
else
INITRD ?= $(BUILD)/run/guests.cpio
BOOTARGS = $(if $(findstring scenario=,$(APPEND)),,scenario=guests) $(APPEND)
endif
else
$(error HOST=$(HOST): there are HOST=reference and HOST=linux)
endif

# A comma within a value of QEMU's -device is written twice.
comma := ,
double_commas = $(subst $(comma),$(comma)$(comma),$(1))

QEMU_COMMAND = $(QEMU) -M virt,virtualization=on,gic-version=3 -cpu $(CPU) -smp $(SMP) -m $(MEM) -nographic -nic none \
	$(if $(GDB),-s -S) \
	-kernel $(BUILD)/$(FREEHOLD).img -append 'freehold.log=$(LOG)' \
	-device 'guest-loader,addr=$(HOST_KERNEL_ADDRESS),kernel=$(call double_commas,$(KERNEL)),bootargs=$(call double_commas,$(strip $(BOOTARGS)))' \
	-initrd '$(INITRD)'

# ---- goals --------------------------------------------------------------------------------------------------------
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

.PHONY: help
help:
	@echo 'Goals:'
	@echo '  make setup      get all that is needed: Rust for aarch64, QEMU, dtc, Debian'"'"'s arm64 kernel; once, safe to repeat'
	@echo '  make run        boot Freehold in QEMU with the reference host and one protected guest; ends by itself'
	@echo '                  GUEST=name boots that guest instead, with this terminal as its console'
	@echo '  make build      build the images into $(BUILD)/'
	@echo '  make replay     run a script of calls, FILE=path, on the simulated machine and in QEMU (host/script says what it looks like)'
	@echo '  make test       unit tests, build, seeds of the fuzzers and scenario tests; ends with "N passed, N failed"'
	@echo '  make unit       the tests of the portable crates, on this machine'
	@echo '  make exhaustive every state and every call of the ownership model, the whole size (hours)'
	@echo '  make scenarios  the tests that boot QEMU; ONLY=word runs those whose name has the word'
	@echo '  make clippy     the linter for both targets, warnings denied'
	@echo '  make fmt        format the source (CHECK=1 only checks)'
	@echo '  make doc        the reference as HTML, warnings denied'
	@echo '  make bench      instruction counts (needs valgrind) and times of the translation tables, beside another crate'"'"'s'
	@echo '  make profile    where the instructions of exits of the guest `latency` (or GUEST=) go, by exception level and function'
	@echo '  make fuzz       fuzz (needs cargo-fuzz): TARGET=ownership, what host and guests ask of hyp; TARGET=tables or'
	@echo '                  TARGET=contents, the translation tables'
	@echo '  make fuzz-seeds run every seed of the fuzz targets and every kept script once, without a fuzzer'
	@echo '  make fuzz-demo  plant a bug in a copy of the tree, find it by fuzzing, shrink it, and see it fail in QEMU too'
	@echo '  make coverage   which lines of ownership and of the decoder the seeds of TARGET=ownership reach'
	@echo '  make clean      remove what was built (not what make setup fetched)'
	@echo 'Variables:'
	@echo '  HOST=reference  which host runs: reference, or linux (Debian'"'"'s kernel with a busybox shell; Ctrl-A x ends QEMU)'
	@echo '  GUEST=name      for run: a guest of the reference host: linux or linux-6.1 (Debian'"'"'s kernels with a busybox shell),'
	@echo '                  the path of an unpacked arm64 Image, or one of: $(PAYLOADS)'
	@echo '  GUESTS="a b"    several of them; each may have settings of its own, as in "linux,cpus=4,memory=512M hello,protected=0"'
	@echo '  PROTECTED=0     guests that are not protected'
	@echo '  GUEST_CPUS=2    virtual CPUs of a guest; 1 for the small ones'
	@echo '  GUEST_MEM=256M  memory of a guest; 16M for the small ones'
	@echo '  GUEST_APPEND=words  more words for a guest'"'"'s command line, such as freehold.test=online,fork (guest-tests/linux)'
	@echo '  GUEST_INITRD=path   a guest'"'"'s initrd'
	@echo '  KERNEL=path     the host'"'"'s kernel, an unpacked arm64 Image'
	@echo '  INITRD=path     the host'"'"'s initrd; for the reference host a newc cpio archive of guest images'
	@echo '  APPEND=words    more words for the host'"'"'s command line, such as scenario=attacks for the reference host'
	@echo '  CPU=max         QEMU'"'"'s CPU model: cortex-a53, cortex-a76, neoverse-v1, max, ...'
	@echo '  SMP=4           number of CPUs'
	@echo '  MEM=1G          amount of RAM; with GUEST= and GUESTS= as much as they need'
	@echo '  LOG=info        what Freehold itself logs: off, error, warn, info, debug, trace'
	@echo '  GDB=1           wait for a debugger, and say how to attach it'
	@echo '  GHOST=1         for build and run: hyp compares each call with its specification, and stops where they differ'
	@echo '  QEMU=path       the QEMU to use'
	@echo '  DURATION=60     seconds that make fuzz takes'
	@echo '  JOBS=1          processes that make fuzz runs'
	@echo '  TOOLCHAIN=way   for make setup: rustup or debian, instead of what is found to work'

.PHONY: setup
setup:
	@env -u RUSTC -u RUSTDOC -u RUSTUP_TOOLCHAIN FREEHOLD_BUILD=$(BUILD_PATH) TOOLCHAIN='$(TOOLCHAIN)' scripts/setup

.PHONY: toolchain
toolchain:
	@[ -f $(BUILD)/toolchain.mk ] || { echo 'There is no $(BUILD)/toolchain.mk yet: run "make setup" first.' >&2; exit 1; }

# ---- images -------------------------------------------------------------------------------------------------------
# Linux as host and as guest has an initrd each, where make setup could fetch busybox.
LINUX_INITRDS := $(if $(wildcard $(BUILD)/linux/busybox),$(BUILD)/linux/initrd.cpio.gz $(BUILD)/linux/guest-initrd.cpio)
LINUX_GUEST_TESTS := $(wildcard guest-tests/linux/*)

.PHONY: build
build: $(BUILD)/$(FREEHOLD).img $(BUILD)/host.img $(BUILD)/guests.cpio $(LINUX_INITRDS)

.PHONY: FORCE
FORCE:

# Cargo knows best what is out of date, so it is always asked; a file is replaced only when its content is new, so that
# what depends on it is not built again for nothing.
replace = cmp -s $(1).new $(1) && rm $(1).new || mv $(1).new $(1)

$(BUILD)/hyp.elf: FORCE | toolchain
	@mkdir -p $(@D)
	$(IMAGE_CARGO) build $(IMAGE_FLAGS) -p hyp
	@cp $(IMAGES)/hyp $@.new && $(call replace,$@)

# The copy inside the loader goes without symbols; hyp.elf keeps them for the debugger.
$(BUILD)/hyp.stripped.elf: $(BUILD)/hyp.elf
	@$(OBJCOPY) --strip-all $< $@.new && $(call replace,$@)

$(BUILD)/loader.elf: $(BUILD)/hyp.stripped.elf FORCE
	$(IMAGE_CARGO) build $(IMAGE_FLAGS) -p loader
	@cp $(IMAGES)/loader $@.new && $(call replace,$@)

# Each has its own files in Cargo's directory too, so that building one after the other builds little.
$(BUILD)/hyp-ghost.elf: FORCE | toolchain
	@mkdir -p $(@D)
	$(IMAGE_CARGO) build $(IMAGE_FLAGS) --target-dir $(GHOST_TARGET_DIRECTORY) -p hyp --features ghost
	@cp $(GHOST_IMAGES)/hyp $@.new && $(call replace,$@)

$(BUILD)/hyp-ghost.stripped.elf: $(BUILD)/hyp-ghost.elf
	@$(OBJCOPY) --strip-all $< $@.new && $(call replace,$@)

$(BUILD)/loader-ghost.elf: $(BUILD)/hyp-ghost.stripped.elf FORCE
	FREEHOLD_HYP_ELF=$(BUILD_PATH)/hyp-ghost.stripped.elf \
		$(IMAGE_CARGO) build $(IMAGE_FLAGS) --target-dir $(GHOST_TARGET_DIRECTORY) -p loader
	@cp $(GHOST_IMAGES)/loader $@.new && $(call replace,$@)

$(BUILD)/host.elf: FORCE | toolchain
	@mkdir -p $(@D)
	$(IMAGE_CARGO) build $(IMAGE_FLAGS) -p host
	@cp $(IMAGES)/host $@.new && $(call replace,$@)

$(BUILD)/freehold.img: $(BUILD)/loader.elf
	@$(OBJCOPY) -O binary $< $@

$(BUILD)/freehold-ghost.img: $(BUILD)/loader-ghost.elf
	@$(OBJCOPY) -O binary $< $@

$(BUILD)/host.img: $(BUILD)/host.elf
	@$(OBJCOPY) -O binary $< $@

.PHONY: payloads
payloads: | toolchain
	@mkdir -p $(BUILD)/guests
	$(IMAGE_CARGO) build $(IMAGE_FLAGS) -p payloads

$(BUILD)/guests/%.img: payloads
	@$(OBJCOPY) -O binary $(IMAGES)/$* $@.new && $(call replace,$@)

# The reference host's ramdisk: guest images under their own names, in the format of `cpio -o -H newc`.
$(BUILD)/guests.cpio: $(PAYLOADS:%=$(BUILD)/guests/%.img)
	@rm -rf $(BUILD)/guests/pack && mkdir -p $(BUILD)/guests/pack
	@for guest in $(PAYLOADS); do cp $(BUILD)/guests/$$guest.img $(BUILD)/guests/pack/$$guest; done
	@cd $(BUILD)/guests/pack && printf '%s\n' $(PAYLOADS) | cpio --quiet -o -H newc > $(BUILD_PATH)/guests.cpio

$(BUILD)/linux/initrd.cpio.gz: scripts/linux-init
$(BUILD)/linux/guest-initrd.cpio: scripts/linux-guest-init $(LINUX_GUEST_TESTS)
$(LINUX_INITRDS): scripts/make-linux-initrd scripts/linux-common $(BUILD)/linux/busybox
	@scripts/make-linux-initrd $@ $(BUILD)/linux/busybox $(filter %-init,$^) $(filter guest-tests/linux/%,$^)

# ---- run ----------------------------------------------------------------------------------------------------------
.PHONY: run
ifneq ($(NAMED_GUESTS),)
run: run-guests
else
run: build
	@$(if $(GDB),scripts/say-how-to-debug $(BUILD))
ifeq ($(HOST),linux)
	@for file in '$(KERNEL)' '$(INITRD)'; do [ -s "$$file" ] || { echo "$$file is not there; make setup fetches Debian's" >&2; exit 1; }; done
	$(QEMU_COMMAND)
else
	@scripts/run-reference-host $(QEMU_COMMAND)
endif
endif

# The guests that the user names. What is wrong with them is said before anything is built.
export GUEST GUESTS GUEST_INITRD GUEST_APPEND GUEST_MEM GUEST_CPUS PROTECTED PAYLOADS
GUEST_WORDS := $(if $(GUEST),"$$GUEST",$$GUESTS)

.PHONY: check-guests
check-guests:
	@scripts/pack-guests check '$(BUILD)' $(GUEST_WORDS)

# Unless the user says how much RAM the machine has, it is as much as they need. QEMU leaves Ctrl-C to the guest.
.PHONY: run-guests
ifeq ($(origin MEM),file)
run-guests: MEM = "$$(cat '$(BUILD)/run/memory')"
endif
run-guests: check-guests build
	@scripts/pack-guests pack '$(BUILD)' $(GUEST_WORDS)
	@$(if $(GDB),scripts/say-how-to-debug $(BUILD))
	$(QEMU_COMMAND)

# Where the instructions of guests' exits go: guests as for run, `latency` unless the user names others, on a machine that counts
# instructions, with the plugin in guest-tests/plugin.
$(BUILD)/exception_levels.so: guest-tests/plugin/exception_levels.c
	@mkdir -p $(@D)
	cc -Wall -Wextra -O2 -shared -fPIC -o $@ $<

.PHONY: profile
profile: MEM = 1G
profile: SMP = 2
profile: BOOTARGS = scenario=guests report $(APPEND)
profile: INITRD = $(BUILD)/run/guests.cpio
profile: build $(BUILD)/exception_levels.so
	@scripts/pack-guests pack '$(BUILD)' $(if $(NAMED_GUESTS),$(GUEST_WORDS),latency$(comma)memory=64M$(comma)cpus=2)
	$(QEMU_COMMAND) -no-reboot -icount shift=0 \
		-plugin $(BUILD)/exception_levels.so$(comma)out=$(BUILD)/run/counts < /dev/null > $(BUILD)/run/console
	@$(CARGO) run $(LOCKED) --quiet -p guest-tests --bin profile -- $(BUILD)/run/counts $(BUILD)/run/console $(BUILD)

# A script of calls (host/script): first on the simulated machine, then by the reference host against the real hyp. It
# must come out as it says, and as the specification does, on both.
.PHONY: replay
replay:
	@status=0; \
	for where in simulated qemu; do $(MAKE) --no-print-directory replay-$$where || status=1; done; \
	exit $$status

.PHONY: replay-script
replay-script:
	@[ -r '$(FILE)' ] || { echo 'Say which script: make replay FILE=path' >&2; exit 1; }

.PHONY: replay-simulated
replay-simulated: replay-script
	@cd fuzz && $(CARGO) run $(LOCKED) --quiet --target-dir $(FUZZ_TARGET_DIRECTORY) --bin replay -- '$(abspath $(FILE))'

.PHONY: replay-qemu
replay-qemu: INITRD = $(BUILD)/replay.cpio
replay-qemu: BOOTARGS = scenario=replay report $(APPEND)
replay-qemu: replay-script build
	@rm -rf $(BUILD)/replay && mkdir -p $(BUILD)/replay && cp '$(FILE)' $(BUILD)/replay/script
	@cp $(BUILD)/guests/pack/* $(BUILD)/replay/
	@cd $(BUILD)/replay && printf '%s\n' script $(PAYLOADS) | cpio --quiet -o -H newc > $(BUILD_PATH)/replay.cpio
	@scripts/run-reference-host $(QEMU_COMMAND)

# ---- tests --------------------------------------------------------------------------------------------------------
UNIT = $(CARGO) test $(LOCKED) --no-fail-fast
SEEDS = cd fuzz && $(CARGO) test $(LOCKED) --target-dir $(FUZZ_TARGET_DIRECTORY)
SCENARIOS = $(CARGO) test $(LOCKED) --no-fail-fast -p guest-tests -- $(ONLY)

.PHONY: unit
unit:
	$(UNIT)

# The small size is among the unit tests.
.PHONY: exhaustive
exhaustive:
	EXHAUSTIVE=whole $(CARGO) test $(LOCKED) -p ownership -p monitor --test exhaustive -- --nocapture --test-threads=2

.PHONY: scenarios
scenarios: build $(BUILD)/freehold-ghost.img
	$(SCENARIOS)

.PHONY: test
test: build $(BUILD)/freehold-ghost.img
	@scripts/run-tests '$(UNIT)' '$(SEEDS)' '$(SCENARIOS)'

# ---- the source ---------------------------------------------------------------------------------------------------
.PHONY: fmt
fmt:
	$(CARGO) fmt --all $(if $(CHECK),-- --check)
	cd fuzz && $(CARGO) fmt $(if $(CHECK),-- --check)
	cd benches/pgtable && $(CARGO) fmt $(if $(CHECK),-- --check)

.PHONY: clippy
clippy: $(BUILD)/hyp.stripped.elf
	$(CARGO) clippy $(LOCKED) --all-targets -- -D warnings
	$(CARGO) clippy $(LOCKED) --all-targets -p guest-tests -- -D warnings
	$(IMAGE_CARGO) clippy $(IMAGE_FLAGS) $(call PACKAGES,$(IMAGE_PACKAGES)) -- -D warnings
	$(IMAGE_CARGO) clippy $(IMAGE_FLAGS) -p hyp --features ghost -- -D warnings
	cd fuzz && $(CARGO) clippy $(LOCKED) --all-targets --target-dir $(FUZZ_TARGET_DIRECTORY) -- -D warnings
	cd benches/pgtable && $(CARGO) clippy $(LOCKED) --all-targets --target-dir $(abspath $(PORTABLE_TARGET_DIRECTORY))/benches -- -D warnings

.PHONY: bench
bench:
	cd benches/pgtable && $(CARGO) run $(LOCKED) --quiet --release --target-dir $(abspath $(PORTABLE_TARGET_DIRECTORY))/benches --bin count
	cd benches/pgtable && $(CARGO) bench $(LOCKED) --quiet --target-dir $(abspath $(PORTABLE_TARGET_DIRECTORY))/benches --bench wall_time -- --quiet

# Fuzzing takes as long as it is given, and is not part of `test`; the seeds are.
FUZZ_TARGET_DIRECTORY = $(abspath $(PORTABLE_TARGET_DIRECTORY))/fuzz

.PHONY: fuzz
fuzz:
	@FREEHOLD_BUILD=$(BUILD_PATH) CARGO=$(CARGO) FUZZ_TARGET_DIRECTORY=$(FUZZ_TARGET_DIRECTORY) \
		fuzz/run '$(TARGET)' '$(DURATION)' '$(JOBS)'

.PHONY: fuzz-seeds
fuzz-seeds:
	$(SEEDS)

.PHONY: fuzz-demo
fuzz-demo:
	@MAKE='$(MAKE)' CARGO=$(CARGO) FREEHOLD_BUILD=$(BUILD_PATH) fuzz/demo/run

.PHONY: coverage
coverage:
	@CARGO=$(CARGO) FUZZ_TARGET_DIRECTORY=$(FUZZ_TARGET_DIRECTORY) fuzz/coverage

.PHONY: doc
doc: $(BUILD)/hyp.stripped.elf
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(LOCKED) --no-deps
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(LOCKED) --no-deps -p guest-tests
	RUSTDOCFLAGS='-D warnings' $(IMAGE_CARGO) doc $(IMAGE_FLAGS) --no-deps $(call PACKAGES,$(IMAGE_PACKAGES))

.PHONY: clean
clean:
	$(CARGO) clean
	rm -rf $(BUILD)/*.img $(BUILD)/*.elf $(BUILD)/guests $(BUILD)/guests.cpio $(BUILD)/replay $(BUILD)/replay.cpio $(BUILD)/run $(LINUX_INITRDS) $(BUILD)/fuzz-demo
