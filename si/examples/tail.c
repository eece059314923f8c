/*
 * Prints what comes through an SI ring, as `pagewire si tail` does: an example of a reader in C.
 *
 *     cc -std=c11 -O2 -I si/include si/examples/tail.c -o tail
 *     ./tail /dev/shm/pagewire-42-0.si 42 [COUNT]
 *
 * Ends after COUNT messages, or when there is no writer any more.
 */
#define _GNU_SOURCE
#include "pagewire_si.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BATCH 64
/* Between two looks when nothing comes, and how many of them before the writer is looked for. */
#define PAUSE_NS 1000000
#define LOOKS_MAX 200

static uint32_t word(const uint8_t *message, int at)
{
    uint32_t value;
    memcpy(&value, message + at, sizeof value);
    return value;
}

static void print(const struct pagewire_si_entry *entry)
{
    const uint8_t *message = entry->message;
    int8_t id = (int8_t)message[0];
    uint32_t a = word(message, 4), b = word(message, 8), c = word(message, 12);

    printf("%" PRIu64 " from %u: ", entry->sequence, (unsigned)entry->publisher);
    if (id >= 0)
        printf("catcache %d database %" PRIu32 " hash 0x%08" PRIx32, id, a, b);
    else if (id == -1)
        printf("catalog %" PRIu32 " database %" PRIu32, b, a);
    else if (id == -2)
        printf("relcache %" PRIu32 " database %" PRIu32, b, a);
    else if (id == -3)
        printf("smgr %" PRIu32 " database %" PRIu32 " space %" PRIu32 " backend %d", c, b, a,
               (int8_t)message[1] * 65536 + (message[2] | message[3] << 8));
    else if (id == -4)
        printf("relmap database %" PRIu32, a);
    else if (id == -5)
        printf("snapshot %" PRIu32 " database %" PRIu32, b, a);
    else
        printf("unknown kind %d", id);
    putchar('\n');
}

static void rest(void)
{
    const struct timespec pause = {.tv_sec = 0, .tv_nsec = PAUSE_NS};
    nanosleep(&pause, NULL);
}

static int attach(struct pagewire_si_reader *reader, const char *path, uint64_t cluster)
{
    int error = pagewire_si_attach(reader, path, cluster);
    /* The new one is about to get its name. */
    for (int looks = 0; error == PAGEWIRE_SI_REPLACED && looks < LOOKS_MAX; looks++) {
        rest();
        error = pagewire_si_attach(reader, path, cluster);
    }
    if (error != 0)
        fprintf(stderr, "SI ring %s: %s\n", path, pagewire_si_error(error));
    else
        printf("attached to instance %u\n", (unsigned)reader->ring->instance);
    fflush(stdout);
    return error;
}

int main(int count, char **arguments)
{
    struct pagewire_si_reader reader;
    struct pagewire_si_entry batch[BATCH];
    uint64_t cluster, left;
    int looks = 0;

    if (count < 3) {
        fprintf(stderr, "usage: tail RING CLUSTER [COUNT]\n");
        return 2;
    }
    cluster = strtoull(arguments[2], NULL, 10);
    left = count > 3 ? strtoull(arguments[3], NULL, 10) : UINT64_MAX;
    if (attach(&reader, arguments[1], cluster) != 0)
        return 1;
    while (left > 0) {
        int64_t got;
        if (!pagewire_si_has_new(&reader)) {
            fflush(stdout);
            if (looks++ == LOOKS_MAX) {
                if (pagewire_si_has_writer(&reader) != 1)
                    break;
                looks = 0;
            }
            rest();
            continue;
        }
        looks = 0;
        got = pagewire_si_read(&reader, batch, left < BATCH ? (size_t)left : BATCH);
        if (got == PAGEWIRE_SI_RESET) {
            puts("reset");
        } else if (got == PAGEWIRE_SI_GONE) {
            puts("gone");
            pagewire_si_detach(&reader);
            if (attach(&reader, arguments[1], cluster) != 0)
                return 1;
        } else {
            for (int64_t at = 0; at < got; at++)
                print(&batch[at]);
            left -= (uint64_t)got;
        }
        fflush(stdout);
    }
    if (left > 0 && count > 3)
        fprintf(stderr, "SI ring %s: it has no writer any more\n", arguments[1]);
    pagewire_si_detach(&reader);
    return left > 0 && count > 3 ? 1 : 0;
}
