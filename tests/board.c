/* What examples/13_firmware.c finds on a Cortex-M in qemu: it starts, prints and halts by
 * semihosting, and has no C library but the five functions that the manual names. The stack lies
 * at the beginning of the RAM, so overrunning it is a fault, and is painted: how deep it went is
 * checked at the end. */
#include <stddef.h>
#include <stdint.h>

enum { STACK = 2048 };
extern unsigned char data_load[], data_begin[], data_end[], bss_end[];
static uint32_t stack[STACK / 4] __attribute__((section(".stack"), used));

int main(void);
void board_print(const char *text);
void board_halt(const char *why);

void *memcpy(void *to, const void *from, size_t n) {
    for (size_t i = 0; i < n; i++) ((unsigned char *)to)[i] = ((const unsigned char *)from)[i];
    return to;
}
void *memmove(void *to, const void *from, size_t n) {
    if ((uintptr_t)to <= (uintptr_t)from) return memcpy(to, from, n);
    while (n--) ((unsigned char *)to)[n] = ((const unsigned char *)from)[n];
    return to;
}
void *memset(void *to, int c, size_t n) {
    for (size_t i = 0; i < n; i++) ((unsigned char *)to)[i] = (unsigned char)c;
    return to;
}
int memcmp(const void *a, const void *b, size_t n) {
    const unsigned char *p = a, *q = b;
    while (n && *p == *q) p++, q++, n--;
    return n ? *p - *q : 0;
}
size_t strlen(const char *s) {
    size_t n = 0;
    while (s[n]) n++;
    return n;
}

static void host(uint32_t what, const void *with) {
    register uint32_t r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = with;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}
static void end(uint32_t status) {
    const uint32_t why[] = {0x20026, status}; /* the application has ended */
    host(0x20, why);
    for (;;) {}
}
void board_print(const char *text) { host(4, text); }
void board_halt(const char *why) {
    board_print(why);
    end(1);
}
static void fault(void) { board_halt("a fault: the stack is too small, or a bug"); }

static void reset(void) {
    memcpy(data_begin, data_load, (size_t)(data_end - data_begin));
    memset(data_end, 0, (size_t)(bss_end - data_end));
    for (size_t i = 0; i < STACK / 4 - 32; i++) ((volatile uint32_t *)stack)[i] = 0x57ac4ed5;
    int status = main();
    size_t left = 0;
    while (((volatile uint32_t *)stack)[left] == 0x57ac4ed5) left++;
    char line[] = "stack: 0000 of 2048 bytes\n";
    uint32_t used = (uint32_t)(STACK - 4 * left);
    for (int i = 10; i > 6; i--, used /= 10) line[i] = (char)('0' + used % 10);
    board_print(line);
    end((uint32_t)status);
}

static void (*const vectors[16])(void) __attribute__((section(".vectors"), used)) = {
    (void (*)(void))(uintptr_t)(0x20000000 + STACK), reset, fault, fault, fault, fault, fault};
