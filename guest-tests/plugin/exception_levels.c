/*
 * A TCG plugin that counts executed instructions by exception level, host and guest apart, and between markers also by address.
 *
 * A marker is the instruction MOVN XZR, #n, which does nothing: with n from 1 to 31 section n begins, with 0 it ends. What runs
 * meanwhile, on whichever CPU, belongs to the section. Works with one thread of emulation only (-icount, or -accel
 * tcg,thread=single).
 *
 *     cc -shared -fPIC -O2 -o exception_levels.so exception_levels.c
 *     qemu-system-aarch64 -plugin ./exception_levels.so,out=FILE …
 *
 * With whole=on all that runs belongs to section 31, until a marker comes.
 *
 * FILE, written when QEMU ends, has lines of these forms; a level is EL2, host-EL1, host-EL0, guest-EL1, guest-EL0, or EL3:
 *
 *     total LEVEL INSTRUCTIONS
 *     section NUMBER BEGINNINGS
 *     count NUMBER LEVEL ADDRESS INSTRUCTIONS
 *
 * A guest is what runs while VTTBR_EL2.VMID is not the one that was there when EL2 first left for EL1: that is the host's.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* QEMU's plugin interface, version 4 (QEMU 9.2 and 10.0), as far as it is used; there is no package that has the header. */
typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_register;
enum { QEMU_PLUGIN_CB_NO_REGS = 0, QEMU_PLUGIN_CB_R_REGS = 1 };
typedef void (*vcpu_callback)(qemu_plugin_id_t id, unsigned int vcpu);
typedef void (*exec_callback)(unsigned int vcpu, void *data);
typedef void (*translate_callback)(qemu_plugin_id_t id, struct qemu_plugin_tb *block);
typedef void (*exit_callback)(qemu_plugin_id_t id, void *data);
void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t id, vcpu_callback callback);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, translate_callback callback);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, exec_callback callback, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, exec_callback callback, int flags, void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, exit_callback callback, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *destination, size_t size);

/* GLib's arrays, as those functions return and fill them. */
struct array {
    char *data;
    unsigned int length;
};
struct register_descriptor {
    struct qemu_plugin_register *handle;
    const char *name;
    const char *feature;
};
struct array *qemu_plugin_get_registers(void);
int qemu_plugin_read_register(struct qemu_plugin_register *handle, struct array *bytes);
struct array *g_byte_array_new(void);
struct array *g_byte_array_set_size(struct array *bytes, unsigned int size);
unsigned int g_array_get_element_size(struct array *array);

__attribute__((visibility("default"))) int qemu_plugin_version = 4;

enum { HOST_EL0, HOST_EL1, GUEST_EL0, GUEST_EL1, EL2, EL3, LEVELS };
static const char *const level_names[LEVELS] = {"host-EL0", "host-EL1", "guest-EL0", "guest-EL1", "EL2", "EL3"};

enum { SECTIONS = 32, MOST_VCPUS = 64, TABLE_SIZE = 1 << 20 };
static const uint32_t marker = 0x9280001f, marker_mask = 0xffe0001f;

/* An instruction, by its virtual address. Its counts are there once it has run within a section. */
struct site {
    uint64_t address;
    uint64_t (*counts)[LEVELS];
    struct site *next;
};

static struct site *sites[TABLE_SIZE];
static uint64_t totals[LEVELS], beginnings[SECTIONS];
static unsigned section;
static struct {
    struct qemu_plugin_register *pstate, *vttbr;
    unsigned level;
} vcpus[MOST_VCPUS];
static struct array *bytes;
static uint64_t host_vmid;
static bool host_is_known;
static const char *out_path;

static void give_up(const char *what)
{
    fprintf(stderr, "exception_levels: %s\n", what);
    exit(1);
}

static struct site *site_at(uint64_t address)
{
    struct site **place = &sites[(address >> 2 ^ address >> 22) % TABLE_SIZE];
    for (struct site *site = *place; site; site = site->next)
        if (site->address == address)
            return site;
    struct site *site = calloc(1, sizeof *site);
    if (!site)
        give_up("out of memory");
    *site = (struct site){.address = address, .next = *place};
    return *place = site;
}

static uint64_t read_register(struct qemu_plugin_register *handle)
{
    uint64_t value = 0;
    g_byte_array_set_size(bytes, 0);
    if (qemu_plugin_read_register(handle, bytes) < 0)
        give_up("a register cannot be read");
    memcpy(&value, bytes->data, bytes->length < sizeof value ? bytes->length : sizeof value);
    return value;
}

static void find_registers(qemu_plugin_id_t id, unsigned int vcpu)
{
    (void)id;
    if (vcpu >= MOST_VCPUS)
        give_up("too many CPUs");
    struct array *all = qemu_plugin_get_registers();
    for (unsigned index = 0; index < all->length; index++) {
        /* Later versions have more fields. */
        const struct register_descriptor *one = (void *)(all->data + index * g_array_get_element_size(all));
        if (!strcmp(one->name, "cpsr"))
            vcpus[vcpu].pstate = one->handle;
        if (!strcmp(one->name, "VTTBR_EL2"))
            vcpus[vcpu].vttbr = one->handle;
    }
    if (!vcpus[vcpu].pstate)
        give_up("there is no register cpsr");
}

/* A block is about to run: its instructions have one exception level. */
static void block_runs(unsigned int vcpu, void *data)
{
    (void)data;
    unsigned exception_level = read_register(vcpus[vcpu].pstate) >> 2 & 3;
    if (exception_level >= 2) {
        vcpus[vcpu].level = exception_level == 2 ? EL2 : EL3;
        return;
    }
    uint64_t vmid = vcpus[vcpu].vttbr ? read_register(vcpus[vcpu].vttbr) >> 48 : 0;
    if (!host_is_known) {
        host_is_known = true;
        host_vmid = vmid;
    }
    if (vmid == host_vmid)
        vcpus[vcpu].level = exception_level == 1 ? HOST_EL1 : HOST_EL0;
    else
        vcpus[vcpu].level = exception_level == 1 ? GUEST_EL1 : GUEST_EL0;
}

static void instruction_runs(unsigned int vcpu, void *data)
{
    unsigned level = vcpus[vcpu].level;
    totals[level]++;
    if (!section)
        return;
    struct site *site = data;
    if (!site->counts && !(site->counts = calloc(SECTIONS, sizeof *site->counts)))
        give_up("out of memory");
    site->counts[section][level]++;
}

static void marker_runs(unsigned int vcpu, void *data)
{
    (void)vcpu;
    section = (uintptr_t)data;
    beginnings[section]++;
}

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, block_runs, QEMU_PLUGIN_CB_R_REGS, NULL);
    size_t count = qemu_plugin_tb_n_insns(block);
    for (size_t index = 0; index < count; index++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, index);
        uint32_t code = 0;
        qemu_plugin_insn_data(insn, &code, sizeof code);
        unsigned number = code >> 5 & 0xffff;
        if ((code & marker_mask) == marker && number < SECTIONS) {
            /* Neither end belongs to the section. */
            qemu_plugin_register_vcpu_insn_exec_cb(insn, marker_runs, QEMU_PLUGIN_CB_NO_REGS, (void *)(uintptr_t)number);
            continue;
        }
        struct site *site = site_at(qemu_plugin_insn_vaddr(insn));
        qemu_plugin_register_vcpu_insn_exec_cb(insn, instruction_runs, QEMU_PLUGIN_CB_NO_REGS, site);
    }
}

static void report(qemu_plugin_id_t id, void *data)
{
    (void)id, (void)data;
    FILE *out = fopen(out_path, "w");
    if (!out)
        give_up("the output file cannot be written");
    for (unsigned level = 0; level < LEVELS; level++)
        fprintf(out, "total %s %" PRIu64 "\n", level_names[level], totals[level]);
    for (unsigned number = 1; number < SECTIONS; number++)
        if (beginnings[number])
            fprintf(out, "section %u %" PRIu64 "\n", number, beginnings[number]);
    for (size_t place = 0; place < TABLE_SIZE; place++)
        for (struct site *site = sites[place]; site; site = site->next)
            for (unsigned number = 1; site->counts && number < SECTIONS; number++)
                for (unsigned level = 0; level < LEVELS; level++)
                    if (site->counts[number][level])
                        fprintf(out, "count %u %s %" PRIx64 " %" PRIu64 "\n", number, level_names[level], site->address,
                                site->counts[number][level]);
    fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int index = 0; index < argc; index++) {
        if (!strncmp(argv[index], "out=", 4))
            out_path = strdup(argv[index] + 4);
        else if (!strcmp(argv[index], "whole=on"))
            beginnings[section = SECTIONS - 1] = 1;
    }
    if (!out_path) {
        fprintf(stderr, "exception_levels: say where the counts go: out=FILE\n");
        return 1;
    }
    bytes = g_byte_array_new();
    qemu_plugin_register_vcpu_init_cb(id, find_registers);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    qemu_plugin_register_atexit_cb(id, report, NULL);
    return 0;
}
