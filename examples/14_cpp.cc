/* From C++: a cache, its views and its tags end by themselves; a loader is a lambda, which returns a
 * text or an object, and what it throws arrives at the caller whose fetch has run it. C++17. */
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>

struct account {
    std::string name;
    int balance;
};

static std::map<int, account> database = {{42, {"Ada Byron", 100}}, {43, {"Charles Babbage", 0}}};
static int queries;

static const account &row(int id) {
    queries++;
    return database.at(id); // throws std::out_of_range
}

static std::string greeting(zoocache::cache &cache, int id) {
    zoocache::view view = cache.fetch("greeting/" + std::to_string(id), [&](zoocache::fill &fill) {
        fill.dep("account:" + std::to_string(id));
        return "Good morning, " + row(id).name;
    });
    return std::string(view.text());
}

int main() {
    zoocache::cache cache;
    if (int rc = cache.open(); rc != ZC_OK) {
        std::cerr << zc_strerror(rc) << '\n';
        return 1;
    }
    for (int i = 0; i < 3; i++) std::cout << greeting(cache, 42) << '\n';
    std::cout << queries << " query\n";
    database[42].name = "Ada Lovelace";
    cache.invalidate("account:42");
    std::cout << greeting(cache, 42) << '\n';
    try {
        greeting(cache, 44);
    } catch (const std::out_of_range &) {
        std::cout << "there is no account 44\n";
    }

    // An object of yours, which lives as long as the cache or a view has it.
    zoocache::tag accounts(cache.handle(), "account");
    auto load = [&](zoocache::fill &fill) {
        fill.dep(accounts);
        return std::make_unique<account>(row(43));
    };
    zoocache::view view = cache.fetch("account/43", load);
    cache.invalidate(accounts); // and everything below it
    database[43].balance = 5;
    std::cout << view.object<account>()->balance << ", and now "
              << cache.fetch("account/43", load).object<account>()->balance << '\n';
}
