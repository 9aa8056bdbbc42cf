#define _GNU_SOURCE
#include <link.h>
#include <malloc.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __GLIBC__
/* Blocks of this size and above go back to the system when they are freed. */
#define MAPPED_BYTES (1024 * 1024)
/* What may lie idle at the end of an arena. */
#define IDLE_BYTES (256 * 1024)
/* Arenas: as many threads allocate much. */
#define ARENAS 4

/* Runs before main. Left to itself, glibc takes each large block that is freed as a reason to keep the next ones: what
 * making one index needed for a second would stay with the process for ever. See docs/decisions. */
__attribute__((constructor)) static void tarn_set_up_malloc(void) {
    mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES);
    mallopt(M_TRIM_THRESHOLD, IDLE_BYTES);
    mallopt(M_ARENA_MAX, ARENAS);
}
#endif

/* True if the loader wrote into the read-only segments of the object: its pages are not what the file holds. */
static int has_text_relocations(const struct dl_phdr_info *object) {
    for (size_t i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &object->dlpi_phdr[i];
        if (header->p_type != PT_DYNAMIC) continue;
        const ElfW(Dyn) *entry = (const ElfW(Dyn) *)(object->dlpi_addr + header->p_vaddr);
        for (; entry->d_tag != DT_NULL; entry++) {
            if (entry->d_tag == DT_TEXTREL) return 1;
            if (entry->d_tag == DT_FLAGS && (entry->d_un.d_val & DF_TEXTREL)) return 1;
        }
    }
    return 0;
}

static int give_back_object(struct dl_phdr_info *object, size_t size, void *given) {
    (void)size;
    if (has_text_relocations(object)) return 0;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &object->dlpi_phdr[i];
        if (header->p_type != PT_LOAD || (header->p_flags & PF_W)) continue;
        uintptr_t from = object->dlpi_addr + header->p_vaddr;
        uintptr_t to = (from + header->p_memsz) & ~(page - 1);
        from = (from + page - 1) & ~(page - 1);
        /* The kernel's own object cannot be advised about and says EINVAL. */
        if (from < to && madvise((void *)from, to - from, MADV_DONTNEED) == 0) *(size_t *)given += to - from;
    }
    return 0;
}

/* Takes the pages of code and constants out of the process. They are clean pages of mapped files: whichever is touched again comes
 * back from the page cache. Returns how many bytes of mappings that was. */
size_t tarn_give_back_code(void) {
    size_t given = 0;
    dl_iterate_phdr(give_back_object, &given);
    return given;
}
