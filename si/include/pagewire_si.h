/*
 * The SI ring of a Pagewire instance, for readers in C11 on Linux. Layout version 1; docs/si.md draws
 * the bytes and says why the order of memory accesses is what it is.
 *
 * A reader:
 *
 *     struct pagewire_si_reader reader;
 *     struct pagewire_si_entry batch[64];
 *     int error = pagewire_si_attach(&reader, "/dev/shm/pagewire-42-0.si", 42);
 *     if (error != 0)
 *         return complain(pagewire_si_error(error));
 *     ... after each lock that was taken ...
 *     while (pagewire_si_has_new(&reader)) {
 *         int64_t count = pagewire_si_read(&reader, batch, 64);
 *         if (count == PAGEWIRE_SI_RESET)
 *             forget_everything();
 *         else if (count == PAGEWIRE_SI_GONE)
 *             forget_everything(), detach, attach again
 *         else
 *             for (int64_t at = 0; at < count; at++)
 *                 forget(batch[at].message);
 *     }
 *
 * One reader is for one thread. Nothing here allocates, locks or waits.
 */
#ifndef PAGEWIRE_SI_H
#define PAGEWIRE_SI_H

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGEWIRE_SI_VERSION 1u
/* "PGWSIRNG", little-endian. */
#define PAGEWIRE_SI_MAGIC UINT64_C(0x474e524953574750)
#define PAGEWIRE_SI_HEADER_BYTES 4096u
#define PAGEWIRE_SI_ENTRY_BYTES 32u
#define PAGEWIRE_SI_ENTRIES_MIN 16u
#define PAGEWIRE_SI_ENTRIES_MAX (1u << 24)
/* Value of `state` when another ring has taken this one's place. */
#define PAGEWIRE_SI_STATE_GONE 1u
/* Heads from here on are damage. */
#define PAGEWIRE_SI_POSITION_END (UINT64_C(1) << 63)

/* The first bytes of a ring. Little-endian, as the hosts it runs on. */
struct pagewire_si_header {
    /* Fixed for the life of the ring; the CRC-32C is of the 36 bytes before it. */
    uint64_t magic;
    uint32_t version;
    uint32_t header_bytes;
    uint32_t entry_bytes;
    uint32_t entries; /* a power of two */
    uint64_t cluster;
    uint16_t instance;
    uint16_t spare;
    uint32_t crc32c;
    uint8_t spare_fixed[24];
    /* Of the writer's life. */
    _Atomic uint64_t generation; /* writers that the ring has had */
    _Atomic uint64_t incarnation;
    _Atomic uint32_t pid;
    _Atomic uint32_t state;
    uint8_t spare_life[40];
    /* The next sequence to be written. */
    _Atomic uint64_t head;
    uint8_t spare_head[120];
    /* What is below this less `entries` may be overwritten by now. */
    _Atomic uint64_t reserved;
    uint8_t spare_reserved[3832];
};

/* An entry as it lies in the ring: words that are loaded one by one. */
struct pagewire_si_slot {
    _Atomic uint64_t words[4];
};

/* An entry as it is given out. */
struct pagewire_si_entry {
    uint64_t sequence;
    uint8_t message[16]; /* PostgreSQL 15's SharedInvalidationMessage */
    uint16_t publisher;
    uint16_t flags;
    uint32_t spare;
};

_Static_assert(sizeof(struct pagewire_si_header) == PAGEWIRE_SI_HEADER_BYTES, "header");
_Static_assert(offsetof(struct pagewire_si_header, crc32c) == 36, "crc32c");
_Static_assert(offsetof(struct pagewire_si_header, generation) == 64, "generation");
_Static_assert(offsetof(struct pagewire_si_header, incarnation) == 72, "incarnation");
_Static_assert(offsetof(struct pagewire_si_header, pid) == 80, "pid");
_Static_assert(offsetof(struct pagewire_si_header, state) == 84, "state");
_Static_assert(offsetof(struct pagewire_si_header, head) == 128, "head");
_Static_assert(offsetof(struct pagewire_si_header, reserved) == 256, "reserved");
_Static_assert(sizeof(struct pagewire_si_slot) == PAGEWIRE_SI_ENTRY_BYTES, "slot");
_Static_assert(sizeof(struct pagewire_si_entry) == PAGEWIRE_SI_ENTRY_BYTES, "entry");
_Static_assert(sizeof(_Atomic uint64_t) == 8 && sizeof(_Atomic uint32_t) == 4, "atomics");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the layout is little-endian");

struct pagewire_si_reader {
    const struct pagewire_si_header *ring;
    const struct pagewire_si_slot *slots;
    uint64_t cursor; /* the next sequence that is wanted */
    uint64_t entries;
    size_t bytes;
    int fd;
};

/* What pagewire_si_read gives beside a count. */
enum {
    /* Messages are lost to this reader: forget all that was cached before the call. */
    PAGEWIRE_SI_RESET = -1,
    /* The same, and nothing will come here any more: detach and attach again. */
    PAGEWIRE_SI_GONE = -2
};

/* Why a ring is refused. Positive errors are errno's. */
enum {
    PAGEWIRE_SI_NOT_A_FILE = -1,
    PAGEWIRE_SI_BAD_LENGTH = -2,
    PAGEWIRE_SI_BAD_MAGIC = -3,
    PAGEWIRE_SI_BAD_CRC = -4,
    PAGEWIRE_SI_BAD_VERSION = -5,
    PAGEWIRE_SI_BAD_SIZES = -6,
    PAGEWIRE_SI_BAD_CLUSTER = -7,
    PAGEWIRE_SI_BAD_POSITION = -8,
    PAGEWIRE_SI_REPLACED = -9
};

static inline const char *pagewire_si_error(int error)
{
    switch (error) {
    case PAGEWIRE_SI_NOT_A_FILE:
        return "not a regular file";
    case PAGEWIRE_SI_BAD_LENGTH:
        return "shorter or longer than its header says";
    case PAGEWIRE_SI_BAD_MAGIC:
        return "no SI ring";
    case PAGEWIRE_SI_BAD_CRC:
        return "damaged: its header does not match its CRC-32C";
    case PAGEWIRE_SI_BAD_VERSION:
        return "of another layout version";
    case PAGEWIRE_SI_BAD_SIZES:
        return "damaged: its sizes cannot be";
    case PAGEWIRE_SI_BAD_CLUSTER:
        return "of another cluster";
    case PAGEWIRE_SI_BAD_POSITION:
        return "damaged: its head cannot be";
    case PAGEWIRE_SI_REPLACED:
        return "replaced by another ring: attach again";
    default:
        return strerror(error);
    }
}

/* CRC-32C, bit by bit: of 36 bytes, once. */
static inline uint32_t pagewire_si_crc32c(const uint8_t *bytes, size_t count)
{
    uint32_t crc = UINT32_MAX;
    for (size_t at = 0; at < count; at++) {
        crc ^= bytes[at];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1u) != 0 ? UINT32_C(0x82f63b78) : 0);
    }
    return ~crc;
}

/* Judges the header of a file of `bytes` bytes; 0 when it is a ring of this cluster. */
static inline int pagewire_si_check(const struct pagewire_si_header *ring, uint64_t bytes,
                                    uint64_t cluster)
{
    if (ring->magic != PAGEWIRE_SI_MAGIC)
        return PAGEWIRE_SI_BAD_MAGIC;
    if (pagewire_si_crc32c((const uint8_t *)ring, 36) != ring->crc32c)
        return PAGEWIRE_SI_BAD_CRC;
    if (ring->version != PAGEWIRE_SI_VERSION)
        return PAGEWIRE_SI_BAD_VERSION;
    if (ring->header_bytes != PAGEWIRE_SI_HEADER_BYTES ||
        ring->entry_bytes != PAGEWIRE_SI_ENTRY_BYTES ||
        ring->entries < PAGEWIRE_SI_ENTRIES_MIN || ring->entries > PAGEWIRE_SI_ENTRIES_MAX ||
        (ring->entries & (ring->entries - 1)) != 0)
        return PAGEWIRE_SI_BAD_SIZES;
    if (bytes != PAGEWIRE_SI_HEADER_BYTES + (uint64_t)ring->entries * PAGEWIRE_SI_ENTRY_BYTES)
        return PAGEWIRE_SI_BAD_LENGTH;
    if (ring->cluster != cluster)
        return PAGEWIRE_SI_BAD_CLUSTER;
    return 0;
}

/* The head, with everything below it. */
static inline uint64_t pagewire_si_head(const struct pagewire_si_reader *reader)
{
    uint64_t head = atomic_load_explicit(&reader->ring->head, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    return head;
}

static inline void pagewire_si_detach(struct pagewire_si_reader *reader)
{
    if (reader->ring != NULL)
        munmap((void *)(uintptr_t)reader->ring, reader->bytes);
    if (reader->fd >= 0)
        close(reader->fd);
    reader->ring = NULL;
    reader->fd = -1;
}

/*
 * Attaches behind the last message: attach before anything is cached. 0, or why not
 * (pagewire_si_error).
 */
static inline int pagewire_si_attach(struct pagewire_si_reader *reader, const char *path,
                                     uint64_t cluster)
{
    struct stat about;
    int error = 0;

    memset(reader, 0, sizeof *reader);
    reader->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (reader->fd < 0)
        return errno;
    if (fstat(reader->fd, &about) != 0)
        error = errno;
    else if (!S_ISREG(about.st_mode))
        error = PAGEWIRE_SI_NOT_A_FILE;
    else if (about.st_size < (off_t)PAGEWIRE_SI_HEADER_BYTES)
        error = PAGEWIRE_SI_BAD_LENGTH;
    if (error == 0) {
        void *at = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, reader->fd, 0);
        if (at == MAP_FAILED) {
            error = errno;
        } else {
            reader->ring = at;
            reader->bytes = (size_t)about.st_size;
            error = pagewire_si_check(reader->ring, (uint64_t)about.st_size, cluster);
        }
    }
    if (error == 0) {
        reader->slots = (const void *)((const char *)reader->ring + PAGEWIRE_SI_HEADER_BYTES);
        reader->entries = reader->ring->entries;
        reader->cursor = pagewire_si_head(reader);
        /* Behind the head: the cursor of a ring that is gone would never hear of it. */
        if (atomic_load_explicit(&reader->ring->state, memory_order_relaxed) ==
            PAGEWIRE_SI_STATE_GONE)
            error = PAGEWIRE_SI_REPLACED;
        else if (reader->cursor >= PAGEWIRE_SI_POSITION_END)
            error = PAGEWIRE_SI_BAD_POSITION;
    }
    if (error != 0)
        pagewire_si_detach(reader);
    return error;
}

/* True when there is something to read, a reset included. One load. */
static inline bool pagewire_si_has_new(const struct pagewire_si_reader *reader)
{
    return atomic_load_explicit(&reader->ring->head, memory_order_relaxed) != reader->cursor;
}

/* What the cursor wanted is not there any more. */
static inline int64_t pagewire_si_lost(struct pagewire_si_reader *reader)
{
    /* First the head: what is published from here on is behind the cursor. */
    uint64_t head = pagewire_si_head(reader);
    if (atomic_load_explicit(&reader->ring->state, memory_order_relaxed) == PAGEWIRE_SI_STATE_GONE)
        return PAGEWIRE_SI_GONE;
    reader->cursor = head;
    return PAGEWIRE_SI_RESET;
}

/*
 * Copies as many entries as are there and `room` holds, in order, and gives their number (0: nothing
 * new), PAGEWIRE_SI_RESET or PAGEWIRE_SI_GONE.
 */
static inline int64_t pagewire_si_read(struct pagewire_si_reader *reader,
                                       struct pagewire_si_entry *out, size_t room)
{
    uint64_t cursor = reader->cursor;
    uint64_t waiting = pagewire_si_head(reader) - cursor;
    uint64_t wrong = 0;
    uint64_t reserved;
    size_t count;

    if (waiting > reader->entries)
        return pagewire_si_lost(reader);
    count = waiting < room ? (size_t)waiting : room;
    for (size_t at = 0; at < count; at++) {
        const struct pagewire_si_slot *slot =
            &reader->slots[(cursor + at) & (reader->entries - 1)];
        uint64_t words[4];
        for (int word = 0; word < 4; word++)
            words[word] = atomic_load_explicit(&slot->words[word], memory_order_relaxed);
        wrong |= words[0] ^ (cursor + at);
        memcpy(&out[at], words, sizeof words);
    }
    /* Whatever was copied before this was written before, or `reserved` says so. */
    atomic_thread_fence(memory_order_acquire);
    reserved = atomic_load_explicit(&reader->ring->reserved, memory_order_relaxed);
    if (wrong != 0 || reserved - cursor > reader->entries)
        return pagewire_si_lost(reader);
    reader->cursor = cursor + count;
    return (int64_t)count;
}

#ifdef F_OFD_GETLK /* with _GNU_SOURCE */
/*
 * 1 when a writer has the ring, 0 when none has now, PAGEWIRE_SI_GONE when the file was replaced or
 * removed (attach again). Asks the system: for times when nothing comes.
 */
static inline int pagewire_si_has_writer(const struct pagewire_si_reader *reader)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    struct stat about;
    if (atomic_load_explicit(&reader->ring->state, memory_order_relaxed) ==
            PAGEWIRE_SI_STATE_GONE ||
        (fstat(reader->fd, &about) == 0 && about.st_nlink == 0))
        return PAGEWIRE_SI_GONE;
    return fcntl(reader->fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}
#endif

#endif
