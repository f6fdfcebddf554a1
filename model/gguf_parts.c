/* Models in several files: NAME-00001-of-00003.gguf and its siblings, as llama.cpp's gguf-split
 * writes them. The first part holds the metadata; each says with split.no which one it is (from 0),
 * with split.count how many there are, and with split.tensors.count how many tensors all of them
 * hold together.
 *
 * Names say where to look, keys say what was found: a part must be the one that its name promises,
 * of as many, with the same total, and no two parts may hold one tensor. So a part that is missing,
 * stands for another or comes from another model is found here and named, not by a text that makes
 * no sense. What cannot be seen is a part of a sister model that was cut in just the same way.
 *
 * Left out: opening from a later part (the metadata is in the first). */
#include "model/gguf.h"

#include <inttypes.h>
#include <string.h>

enum { SUFFIX_MAX = 32 };

/* How part `no` (from 0) of `count` ends. */
static void suffix_of(uint32_t no, uint32_t count, char out[static SUFFIX_MAX])
{
    snprintf(out, SUFFIX_MAX, "-%05" PRIu32 "-of-%05" PRIu32 ".gguf", no + 1, count);
}

/* The path of part `no`, where `path` is that of part `own`; base_free. ERR_FORMAT where `path`
 * does not end as that part's does, ERR_NOMEM. */
static int path_of(const char *path, uint32_t own, uint32_t no, uint32_t count, char **out,
                   struct err *e)
{
    char ours[SUFFIX_MAX], theirs[SUFFIX_MAX];
    suffix_of(own, count, ours);
    suffix_of(no, count, theirs);
    const size_t len = strlen(path), n = strlen(ours);
    if (len < n || strcmp(path + len - n, ours) != 0)
        return err_set(e, ERR_FORMAT,
                       "%s: it is part %" PRIu32 " of %" PRIu32
                       ", so its name must end in %s for the others to be found beside it",
                       path, own + 1, count, ours);
    *out = base_alloc(len + SUFFIX_MAX);
    if (*out == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the name of a part of %s", path);
    memcpy(*out, path, len - n);
    strcpy(*out + len - n, theirs);
    return 0;
}

/* What a part says of itself. */
struct split {
    uint32_t no, count, n_tensors;
    bool total_given;
};

/* Keys that are not there are 0. */
static int read_split(const struct gguf *g, struct split *s, struct err *e)
{
    *s = (struct split){0};
    int rc = model_gguf_u32(g, "split.count", &s->count, e);
    if (rc == 0 || rc == ERR_NOTFOUND)
        rc = model_gguf_u32(g, "split.no", &s->no, e);
    if (rc == 0 || rc == ERR_NOTFOUND)
        rc = model_gguf_u32(g, "split.tensors.count", &s->n_tensors, e);
    s->total_given = rc == 0;
    return rc == ERR_NOTFOUND ? 0 : rc;
}

/* Whether `part` is number `no` of the model that `first` began. */
static int check_part(const struct gguf *part, const struct split *first, uint32_t no,
                      const char *path, struct err *e)
{
    struct split s;
    const int rc = read_split(part, &s, e);
    if (rc != 0)
        return err_wrap(e, rc, "%s", path);
    if (s.count != first->count)
        return err_set(e, ERR_FORMAT,
                       "%s: it says that it is one of %" PRIu32 " parts, not of %" PRIu32
                       ": it belongs to another model",
                       path, s.count, first->count);
    if (s.no != no)
        return err_set(e, ERR_FORMAT,
                       "%s: it holds part %" PRIu32 ", not part %" PRIu32
                       ": it was renamed or repeated; download it again",
                       path, s.no + 1, no + 1);
    if (s.total_given != first->total_given || s.n_tensors != first->n_tensors)
        return err_set(e, ERR_FORMAT,
                       "%s: it says that the model has %" PRIu32
                       " tensors, the first part says %" PRIu32 ": it belongs to another model",
                       path, s.n_tensors, first->n_tensors);
    return 0;
}

/* Append a part's tensors to the table of the whole; the index is made when all are there. */
static int take_tensors(struct gguf *g, const struct gguf *part, const char *path, struct err *e)
{
    const size_t n = g->n_tensors + part->n_tensors; /* two counts up to 2^18 */
    if (n > GGUF_TENSORS_MAX)
        return err_set(e, ERR_FORMAT, "%s: with it the model has %zu tensors, at most %d are taken",
                       path, n, GGUF_TENSORS_MAX);
    struct gguf_tensor *all = base_realloc(g->tensors, (n > 0 ? n : 1) * sizeof *all);
    if (all == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a table of %zu tensors", n);
    g->tensors = all;
    if (part->n_tensors > 0)
        memcpy(all + g->n_tensors, part->tensors, part->n_tensors * sizeof *all);
    g->n_tensors = n;
    return 0;
}

/* The index of all parts' tensors in place of the first one's; a name that is there twice is
 * reported with the later part. */
static int index_all(struct gguf *g, const struct split *first, const char *path, struct err *e)
{
    model_index_deinit(&g->tensor_index);
    const int rc = model_gguf_index_tensors(g, e);
    if (rc != ERR_FORMAT)
        return rc;
    size_t end = g->n_tensors;
    uint32_t no = first->count - 1;
    char *file = NULL;
    while (no > 0 &&
           model_index_duplicate(&g->tensor_index)->id < end - g->others[no - 1]->n_tensors)
        end -= g->others[--no]->n_tensors;
    if (path_of(path, 0, no, first->count, &file, NULL) != 0)
        return rc;
    err_wrap(e, rc, "%s repeats an earlier part", file);
    base_free(file);
    return rc;
}

static int join_part(struct gguf *g, const struct split *first, uint32_t no, const char *path,
                     int mode, struct err *e)
{
    struct gguf *part = NULL;
    int rc = model_gguf_open_file(path, mode, &part, e);
    if (rc != 0)
        return err_wrap(e, rc, "part %" PRIu32 " of %" PRIu32, no + 1, first->count);
    g->others[g->n_others++] = part; /* closed with the whole from here on */
    rc = check_part(part, first, no, path, e);
    return rc != 0 ? rc : take_tensors(g, part, path, e);
}

static int not_the_first(const struct split *s, const char *path, struct err *e)
{
    char *first = NULL;
    int rc = path_of(path, s->no, 0, s->count, &first, e);
    if (rc == 0)
        rc = err_set(e, ERR_FORMAT,
                     "%s: it is part %" PRIu32 " of %" PRIu32
                     " and the metadata is in the first; open %s",
                     path, s->no + 1, s->count, first);
    base_free(first);
    return rc;
}

int model_gguf_join(struct gguf *g, const char *path, int mode, struct err *e)
{
    struct split s;
    int rc = read_split(g, &s, e);
    if (rc != 0)
        return err_wrap(e, rc, "%s", path);
    if (s.count <= 1)
        return 0;
    if (s.count > GGUF_PARTS_MAX || s.no >= s.count)
        return err_set(e, ERR_FORMAT,
                       "%s: it says that it is part %" PRIu64 " of %" PRIu32
                       ", which is no part of at most %d",
                       path, (uint64_t)s.no + 1, s.count, GGUF_PARTS_MAX);
    if (s.no != 0)
        return not_the_first(&s, path, e);
    g->others = base_zalloc(s.count, sizeof(struct gguf *));
    if (g->others == NULL)
        return err_set(e, ERR_NOMEM, "no memory for %" PRIu32 " parts of %s", s.count, path);
    for (uint32_t no = 1; no < s.count && rc == 0; no++) {
        char *beside = NULL;
        rc = path_of(path, 0, no, s.count, &beside, e);
        if (rc == 0)
            rc = join_part(g, &s, no, beside, mode, e);
        base_free(beside);
    }
    if (rc == 0 && s.total_given && g->n_tensors != s.n_tensors)
        rc = err_set(e, ERR_FORMAT,
                     "%s: its %" PRIu32 " parts hold %zu tensors where it says %" PRIu32
                     ": one of them belongs to another model",
                     path, s.count, g->n_tensors, s.n_tensors);
    return rc != 0 ? rc : index_all(g, &s, path, e);
}
