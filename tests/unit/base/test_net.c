#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/net.h"

static uint32_t dice(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* What balancers write into X-Forwarded-For. */
static void addresses_with_ports(void **state)
{
    static const struct {
        const char *bad, *good, *written;
    } CASES[] = {
        {"10.20.3.4:65536", "10.20.3.4:52113", "10.20.3.4"},
        {"10.20.3.4:", "10.20.3.4:0", "10.20.3.4"},
        {"10.20.3.4:80:80", "10.20.3.4", "10.20.3.4"},
        {"10.20.3.4:x", "10.20.3.4:1", "10.20.3.4"},
        {":80", "::80", "::80"},
        {"[2001:db8::1]:", "[2001:db8::1]:443", "2001:db8::1"},
        {"[2001:db8::1", "[2001:db8::1]", "2001:db8::1"},
        {"[2001:db8::1]443", "2001:db8::1:443", "2001:db8::1:443"}, /* without brackets it is all address */
        {"[10.20.3.4]:80", "[::ffff:10.20.3.4]:80", "10.20.3.4"},
        {"[]:80", "[::]:80", "::"},
        {"[", "::1", "::1"},
        {"unknown:80", "10.0.0.1:80", "10.0.0.1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct ip ip = {.known = false};
        char text[IP_TEXT];
        if (ip_parse_with_port(str_z(CASES[i].bad), &ip))
            fail_msg("`%s` is taken", CASES[i].bad);
        assert_false(ip.known);
        assert_true(ip_parse_with_port(str_z(CASES[i].good), &ip));
        ip_format(&ip, text);
        assert_string_equal(text, CASES[i].written);
    }
    struct ip ip;
    assert_false(ip_parse_with_port(STR(""), &ip));
    assert_false(ip_parse_with_port(STR_MISSING, &ip));
}

static void addresses(void **state)
{
    static const struct {
        const char *bad, *good, *written;
    } CASES[] = {
        {"10.0.0.256", "10.0.0.255", "10.0.0.255"},
        {"10.0.0", "10.0.0.0", "10.0.0.0"},
        {"010.0.0.1", "10.0.0.1", "10.0.0.1"}, /* octal for some, decimal for others */
        {"0x0a.0.0.1", "0.0.0.1", "0.0.0.1"},
        {"167772161", "0.0.0.0", "0.0.0.0"},
        {"10.0.0.1 ", "10.0.0.1", "10.0.0.1"},
        {" 10.0.0.1", "10.0.0.1", "10.0.0.1"},
        {"10.0.0.1.", "10.0.0.1", "10.0.0.1"},
        {"10.0.0.1:80", "10.0.0.1", "10.0.0.1"},
        {"[::1]", "::1", "::1"},
        {"::1::", "::", "::"},
        {"fe80::1%lo", "FE80::1", "fe80::1"},
        {"::ffff:1.2.3", "::ffff:1.2.3.4", "1.2.3.4"}, /* the IPv4 address that it carries */
        {"1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"},
        {"12345::", "1234::", "1234::"},
        {"", "::ffff:0102:0304", "1.2.3.4"},
        {"localhost", "127.0.0.1", "127.0.0.1"},
        {"ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255.255", "ffff:ffff:ffff:ffff:ffff:fffe:255.255.255.255",
         "ffff:ffff:ffff:ffff:ffff:fffe:ffff:ffff"},
        {"0000000000000000000000000000000000000000000000000::1", "::2", "::2"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct ip ip = {.known = false};
        char text[IP_TEXT];
        if (ip_parse(str_z(CASES[i].bad), &ip))
            fail_msg("`%s` is taken", CASES[i].bad);
        assert_false(ip.known); /* untouched */
        assert_true(ip_parse(str_z(CASES[i].good), &ip));
        assert_true(ip.known);
        ip_format(&ip, text);
        assert_string_equal(text, CASES[i].written);
    }
    struct ip ip;
    assert_false(ip_parse(STR_MISSING, &ip));
    assert_false(ip_parse((struct str){"1.2.3.4\0", 8}, &ip));
    assert_true(ip_parse((struct str){"1.2.3.45", 7}, &ip)); /* a view has no NUL behind it */
    char text[IP_TEXT];
    ip_format(&ip, text);
    assert_string_equal(text, "1.2.3.4");
    ip_format(&(struct ip){.known = false}, text);
    assert_string_equal(text, "unix");
    ip_format(&(struct ip){.garbled = true}, text);
    assert_string_equal(text, "unknown");
}

static void from_sockets(void **state)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = 80};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = 80};
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct ip ip, wanted;
    (void)state;
    inet_pton(AF_INET, "192.0.2.7", &four.sin_addr);
    ip_from_sockaddr((const struct sockaddr *)&four, &ip);
    assert_true(ip_parse(STR("192.0.2.7"), &wanted));
    assert_memory_equal(&ip, &wanted, sizeof ip);
    inet_pton(AF_INET6, "::ffff:192.0.2.7", &six.sin6_addr); /* an IPv4 client on a socket for both */
    ip_from_sockaddr((const struct sockaddr *)&six, &ip);
    assert_memory_equal(&ip, &wanted, sizeof ip);
    inet_pton(AF_INET6, "2001:db8::7", &six.sin6_addr);
    ip_from_sockaddr((const struct sockaddr *)&six, &ip);
    assert_true(ip_parse(STR("2001:db8::7"), &wanted));
    assert_memory_equal(&ip, &wanted, sizeof ip);
    ip_from_sockaddr((const struct sockaddr *)&local, &ip);
    assert_false(ip.known);
}

static void networks(void **state)
{
    static const struct {
        const char *bad, *good, *in, *out;
    } CASES[] = {
        {"10.0.0.1/8", "10.0.0.0/8", "10.255.0.1", "11.0.0.0"},
        {"10.0.0.0/33", "10.0.0.0/32", "10.0.0.0", "10.0.0.1"},
        {"10.0.0.0/", "10.0.0.0", "10.0.0.0", "10.0.0.1"},
        {"10.0.0.0/+8", "10.0.0.0/08", "10.0.0.1", "9.255.255.255"},
        {"/8", "0.0.0.0/0", "255.255.255.255", "::"}, /* all of IPv4, and nothing else */
        {"0.0.0.1/0", "0.0.0.0/0", "1.2.3.4", "::1"},
        {"::/129", "::/0", "ffff::", "1.2.3.4"},
        {"::1/127", "::/127", "::1", "::2"},
        {"::1/64", "::1/128", "::1", "::"},
        {"2001:db8::/16", "2001:db8::/32", "2001:db8:ffff::", "2001:db9::"},
        {"10.0.0.0/8/8", "::ffff:10.0.0.0/104", "10.1.2.3", "11.1.2.3"},
        {"10.0.0.0/255.0.0.0", "::ffff:0.0.0.0/96", "9.9.9.9", "::9.9.9.9"},
        {"10.0.0.128/24", "10.0.0.128/25", "::ffff:10.0.0.200", "10.0.0.127"},
        {"", "192.0.2.1/32", "192.0.2.1", "192.0.2.0"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct cidr net;
        struct ip in, out;
        if (cidr_parse(str_z(CASES[i].bad), &net))
            fail_msg("`%s` is taken", CASES[i].bad);
        if (!cidr_parse(str_z(CASES[i].good), &net))
            fail_msg("`%s` is refused", CASES[i].good);
        assert_true(ip_parse(str_z(CASES[i].in), &in) && ip_parse(str_z(CASES[i].out), &out));
        assert_true(cidr_contains(&net, &in));
        assert_false(cidr_contains(&net, &out));
        in.known = false; /* a Unix socket's peer is in no network */
        assert_false(cidr_contains(&net, &in));
    }
    struct cidr net;
    assert_false(cidr_parse(STR_MISSING, &net));
}

/* Bit by bit, on addresses as inet_pton() reads them. */
static bool same_bits(int family, const char *a, const char *b, unsigned bits)
{
    uint8_t x[16], y[16];
    assert_int_equal(inet_pton(family, a, x), 1);
    assert_int_equal(inet_pton(family, b, y), 1);
    for (unsigned i = 0; i < bits; i++)
        if ((x[i / 8] ^ y[i / 8]) >> (7 - i % 8) & 1)
            return false;
    return true;
}

static void networks_bit_by_bit(void **state)
{
    uint32_t seed = 10;
    unsigned inside = 0;
    (void)state;
    for (int round = 0; round < 100000; round++) {
        const int family = round % 2 ? AF_INET : AF_INET6;
        const unsigned size = family == AF_INET ? 4 : 16, bits = dice(&seed) % (size * 8 + 1);
        uint8_t base[16] = {0}, other[16];
        char a[64], b[64], net_text[80];
        struct cidr net;
        struct ip ip;
        for (unsigned i = 0; i < bits; i++)
            base[i / 8] |= (uint8_t)((dice(&seed) & 1) << (7 - i % 8));
        memcpy(other, base, sizeof other);
        for (unsigned i = 0, flips = dice(&seed) % 4; i < flips; i++) {
            const unsigned bit = dice(&seed) % (size * 8);
            other[bit / 8] ^= (uint8_t)(1 << (7 - bit % 8));
        }
        inet_ntop(family, base, a, sizeof a);
        inet_ntop(family, other, b, sizeof b);
        snprintf(net_text, sizeof net_text, "%s/%u", a, bits);
        const bool wanted = same_bits(family, a, b, bits);
        inside += wanted;
        assert_true(cidr_parse(str_z(net_text), &net) && ip_parse(str_z(b), &ip));
        if (cidr_contains(&net, &ip) != wanted)
            fail_msg("%s in %s", b, net_text);
    }
    assert_true(inside > 10000 && inside < 90000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(addresses), cmocka_unit_test(addresses_with_ports),
                                       cmocka_unit_test(from_sockets),
                                       cmocka_unit_test(networks), cmocka_unit_test(networks_bit_by_bit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
