/*
 * Digits of hex and of base64, one at a time, by arithmetic: no branch and no address depends on what a digit is worth,
 * as keys are read and written so. sixteen.h and eight.h do the same of many.
 *
 *     const unsigned high = digit_hex(p[0]), low = digit_hex(p[1]);
 *     if ((high | low) >= DIGIT_HEX_NONE) ... not both are digits; else high << 4 | low
 */
#ifndef KMSGATE_BASE_DIGIT_H
#define KMSGATE_BASE_DIGIT_H

/* Above each digit, in a bit that none has: digits are asked for together. */
enum { DIGIT_HEX_NONE = 16, DIGIT_BASE64_NONE = 64 };

/* All bits where first <= byte <= last, else none. */
static inline unsigned digit_within(unsigned byte, unsigned first, unsigned last)
{
    return 0 - (((first - 1 - byte) & (byte - last - 1)) >> 31);
}

/* 0 to 15, in either case, or DIGIT_HEX_NONE. */
static inline unsigned digit_hex(char c)
{
    const unsigned byte = (unsigned char)c, lower = byte | 0x20;
    return DIGIT_HEX_NONE + (digit_within(byte, '0', '9') & (byte - '0' - DIGIT_HEX_NONE)) +
           (digit_within(lower, 'a', 'f') & (lower - 'a' + 10 - DIGIT_HEX_NONE));
}

/* 0 to 63, or DIGIT_BASE64_NONE. */
static inline unsigned digit_base64(char c)
{
    const unsigned byte = (unsigned char)c;
    return DIGIT_BASE64_NONE + (digit_within(byte, 'A', 'Z') & (byte - 'A' - DIGIT_BASE64_NONE)) +
           (digit_within(byte, 'a', 'z') & (byte - 'a' + 26 - DIGIT_BASE64_NONE)) +
           (digit_within(byte, '0', '9') & (byte - '0' + 52 - DIGIT_BASE64_NONE)) +
           (digit_within(byte, '+', '+') & (62u - DIGIT_BASE64_NONE)) +
           (digit_within(byte, '/', '/') & (63u - DIGIT_BASE64_NONE));
}

/* Of 0 to 15. `letter`: 'a' or 'A'. */
static inline char digit_to_hex(unsigned v, char letter)
{
    return (char)('0' + v + ((9 - v) >> 16 & (unsigned)(letter - '9' - 1)));
}

/* Of 0 to 63. Each range adds what its characters are off by from the range before. */
static inline char digit_to_base64(unsigned v)
{
    return (char)('A' + v + ((25 - v) >> 16 & ('a' - 26 - 'A')) - ((51 - v) >> 16 & ('a' - 26 - ('0' - 52))) -
                  ((61 - v) >> 16 & ('0' - 52 - ('+' - 62))) + ((62 - v) >> 16 & ('/' - 63 - ('+' - 62))));
}

#endif
