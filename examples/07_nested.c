/* 07_nested: a page is made of parts that are cached themselves. A fetch that names the fill around
 * it (zc_fetch_opts.parent) hands its dependencies up, also when the part is a hit: so the page
 * ends with any of its parts, and its loader names no tag of theirs. */
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include <stdio.h>

static zc_cache *cache;
typedef struct part {
    const char *name, *tag, *text;
} part;
static part title = {"title/7", "product:7", "Lamp"}, price = {"price/7", "price:7", "19 EUR"};

static int load_part(zc_fill *fill, void *user) {
    const part *p = user;
    printf("  [%s]", p->name);
    zc_fill_dep(fill, zc_str(p->tag));
    return zc_fill_value(fill, zc_str(p->text));
}

static int load_page(zc_fill *fill, void *user) {
    const zc_fetch_opts nested = {.parent = fill};
    zc_view t, p;
    char text[64];
    (void)user;
    printf("  [page/7]");
    int rc = zc_fetch(cache, zc_str(title.name), load_part, &title, &nested, &t);
    if (rc != ZC_OK) return rc;
    rc = zc_fetch(cache, zc_str(price.name), load_part, &price, &nested, &p);
    if (rc == ZC_OK) {
        int n = snprintf(text, sizeof text, "%.*s: %.*s", (int)t.size, (const char *)t.data,
                         (int)p.size, (const char *)p.data);
        rc = zc_fill_value(fill, zc_slice(text, (size_t)n));
        zc_release(cache, &p);
    }
    zc_release(cache, &t);
    return rc;
}

static void show(const char *when) {
    zc_view v;
    printf("%-22s", when);
    if (zc_fetch(cache, zc_str("page/7"), load_page, NULL, NULL, &v) != ZC_OK) return;
    printf("  %.*s\n", (int)v.size, (const char *)v.data);
    zc_release(cache, &v);
}

int main(void) {
    if (zc_open(NULL, &cache) != ZC_OK) return 1;
    show("cold:");
    show("again:");
    price.text = "17 EUR";
    zc_invalidate(cache, zc_str("price:7"));
    show("a new price:"); /* the title is a hit, and hands its dependency up all the same */
    title.text = "Desk lamp";
    zc_invalidate(cache, zc_str("product:7"));
    show("a new title:");
    zc_close(cache);
    return 0;
}
