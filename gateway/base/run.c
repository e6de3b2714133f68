#include "base/run.h"

#define RUN_LETTER (RUN_PLAIN | RUN_NAME | RUN_BASE64 | RUN_URI)
#define RUN_DIGIT (RUN_LETTER | RUN_HEX)
#define RUN_MARK (RUN_PLAIN | RUN_URI)
const unsigned char RUN_KINDS[256] = {
    [' '] = RUN_PLAIN,
    ['!'] = RUN_MARK,
    ['#' ... '%'] = RUN_MARK,
    ['&' ... '\''] = RUN_URI,
    ['(' ... '*'] = RUN_MARK,
    ['+'] = RUN_MARK | RUN_BASE64,
    [','] = RUN_MARK,
    ['-' ... '.'] = RUN_MARK | RUN_NAME,
    ['/'] = RUN_MARK | RUN_BASE64,
    ['0' ... '9'] = RUN_DIGIT,
    [':' ... ';'] = RUN_MARK,
    ['='] = RUN_MARK,
    ['?' ... '@'] = RUN_MARK,
    ['A' ... 'F'] = RUN_DIGIT,
    ['G' ... 'Z'] = RUN_LETTER,
    ['['] = RUN_MARK,
    ['\\'] = RUN_PLAIN,
    [']'] = RUN_MARK,
    ['^'] = RUN_PLAIN,
    ['_'] = RUN_MARK | RUN_NAME,
    ['`'] = RUN_PLAIN,
    ['a' ... 'f'] = RUN_DIGIT,
    ['g' ... 'z'] = RUN_LETTER,
    ['{' ... '}'] = RUN_PLAIN,
    ['~'] = RUN_MARK,
};
