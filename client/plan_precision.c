/* What `shoal plan --precision` says before the plan itself: the type of each run of layers, what the
 * same cluster would do with all layers in one type, and the command that writes the file which the
 * plan is for. */
#include "client/plan.h"

#include <math.h>

/* Layers from `layer` on that have one type. */
static uint32_t run_of(const struct coord_precise *x, uint32_t layer)
{
    uint32_t n = 1;
    while (layer + n < x->n_layers && x->choice[layer + n] == x->choice[layer])
        n++;
    return n;
}

/* Of layers [layer, layer + n): squared, summed; and bytes of weights. */
static double run_loss(const struct coord_precise *x, uint32_t layer, uint32_t n, uint64_t *bytes)
{
    double sum = 0;
    *bytes = 0;
    for (uint32_t l = layer; l < layer + n; l++) {
        sum += x->loss[l];
        *bytes += x->bytes[l];
    }
    return sum;
}

/* Of the whole budget, in percent. */
static double share_of(const struct cli_plan *p, double loss)
{
    const double all = p->budget * p->budget / 1e4 * p->precision.n_layers;
    return all > 0 ? 100 * loss / all : 0;
}

static void print_run(const struct cli_plan *p, uint32_t layer, uint32_t n)
{
    char layers[24], weights[24];
    uint64_t bytes;
    const double loss = run_loss(&p->precision, layer, n, &bytes);
    snprintf(layers, sizeof layers, n > 1 ? "%u-%u" : "%u", layer, layer + n - 1);
    printf("%-8s  %-6s %8.2f %% %9.1f %% %10s\n", layers,
           model_quantise_choice(p->precision.choice[layer]), 100 * sqrt(loss / n),
           share_of(p, loss), base_bytes_text(bytes, weights));
}

static void print_row(const struct cli_plan *p, const char *name, const struct coord_precise_row *r)
{
    char memory[24];
    printf("%-16s %8.2f %%", name, 100 * r->loss);
    if (r->found)
        printf(" %12.3f %8.1f %10s", r->latency_s * 1e3, r->rate,
               base_bytes_text(r->memory_bytes, memory));
    else
        printf(" %12s %8s %10s", "-", "-", "-");
    printf("%s\n", !r->found                                ? "  no plan was found"
                   : 100 * r->loss > p->budget * (1 + 1e-6) ? "  over the budget"
                                                            : "");
}

void cli_plan_print_precision(const struct cli_plan *p)
{
    const struct coord_precise *x = &p->precision;
    char name[32];
    printf("layers    type        off     budget    weights\n");
    for (uint32_t l = 0; l < x->n_layers; l += run_of(x, l))
        print_run(p, l, run_of(x, l));
    printf("\n%-16s %10s %12s %8s %10s\n", "types", "off", "ms a token", "tok/s", "memory");
    print_row(p, "as chosen", &x->chosen);
    for (unsigned k = 0; k < MODEL_QUANTISE_CHOICES; k++) {
        snprintf(name, sizeof name, "all %s", model_quantise_choice(k));
        print_row(p, name, &x->all[k]);
    }
    printf("\nembedding and output matrix are Q8_0 in all of them; large matrices' rows were "
           "sampled\nthe plan is for the file that this writes:\n\n    shoal quantize ");
    cli_put_name(base_span_str(p->source), 1024);
    printf(" OUT '%s'\n\n", x->list);
}

static json_t *row_json(const char *name, const struct coord_precise_row *r)
{
    json_t *o = json_object();
    int bad = json_object_set_new(o, "type", cli_json_text(base_span_str(name)));
    bad |= json_object_set_new(o, "off", cli_json_number(r->loss));
    if (r->found) {
        bad |= json_object_set_new(o, "ms_per_token", cli_json_number(r->latency_s * 1e3));
        bad |= json_object_set_new(o, "tok_s", cli_json_number(r->rate));
        bad |= json_object_set_new(o, "memory", json_integer((json_int_t)r->memory_bytes));
    }
    if (bad == 0)
        return o;
    json_decref(o);
    return NULL;
}

json_t *cli_plan_precision_json(const struct cli_plan *p)
{
    const struct coord_precise *x = &p->precision;
    json_t *o = json_object(), *layers = json_array(), *all = json_array();
    int bad = json_object_set_new(o, "budget", cli_json_number(p->budget / 100));
    bad |= json_object_set_new(o, "types", cli_json_text(base_span_str(x->list)));
    for (uint32_t l = 0; l < x->n_layers; l++) {
        json_t *one = json_object();
        const char *type = model_quantise_choice(x->choice[l]);
        bad |= json_object_set_new(one, "type", cli_json_text(base_span_str(type)));
        bad |= json_object_set_new(one, "off", cli_json_number(sqrt(x->loss[l])));
        bad |= json_object_set_new(one, "weights", json_integer((json_int_t)x->bytes[l]));
        bad |= json_array_append_new(layers, one);
    }
    for (unsigned k = 0; k < MODEL_QUANTISE_CHOICES; k++)
        bad |= json_array_append_new(all, row_json(model_quantise_choice(k), &x->all[k]));
    bad |= json_object_set_new(o, "layers", layers);
    bad |= json_object_set_new(o, "chosen", row_json("chosen", &x->chosen));
    bad |= json_object_set_new(o, "one_type", all);
    if (bad == 0)
        return o;
    json_decref(o);
    return NULL;
}
