#include "base/run.h"

#define RUN_LETTER (RUN_PLAIN | RUN_NAME | RUN_BASE64 | RUN_URI | RUN_JSON)
#define RUN_DIGIT (RUN_LETTER | RUN_HEX)
#define RUN_MARK (RUN_PLAIN | RUN_URI | RUN_JSON)
#define RUN_OTHER (RUN_PLAIN | RUN_JSON)
const unsigned char RUN_KINDS[256] = {
    [' '] = RUN_OTHER,
    ['!'] = RUN_MARK,
    ['#' ... '%'] = RUN_MARK,
    ['&' ... '\''] = RUN_URI | RUN_JSON,
    ['(' ... '*'] = RUN_MARK,
    ['+'] = RUN_MARK | RUN_BASE64,
    [','] = RUN_MARK,
    ['-' ... '.'] = RUN_MARK | RUN_NAME,
    ['/'] = RUN_MARK | RUN_BASE64,
    ['0' ... '9'] = RUN_DIGIT,
    [':' ... ';'] = RUN_MARK,
    ['<'] = RUN_JSON,
    ['='] = RUN_MARK,
    ['>'] = RUN_JSON,
    ['?' ... '@'] = RUN_MARK,
    ['A' ... 'F'] = RUN_DIGIT,
    ['G' ... 'Z'] = RUN_LETTER,
    ['['] = RUN_MARK,
    ['\\'] = RUN_PLAIN,
    [']'] = RUN_MARK,
    ['^'] = RUN_OTHER,
    ['_'] = RUN_MARK | RUN_NAME,
    ['`'] = RUN_OTHER,
    ['a' ... 'f'] = RUN_DIGIT,
    ['g' ... 'z'] = RUN_LETTER,
    ['{' ... '}'] = RUN_OTHER,
    ['~'] = RUN_MARK,
};
