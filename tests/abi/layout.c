/* Every structure of ABI 1 on 64-bit processors: its size, every field's offset and size, and that there is
 * no padding. A later version's structures may be longer; the fields of version 1 keep their offsets.
 * OF_ABI_1 checks the header of ABI 1 (deepseek-1.h) instead of the current one. */
#ifdef OF_ABI_1
#include "deepseek-1.h"
#else
#include "../../deepseek.h"
#endif

#define IS(x) _Static_assert(x, #x)
#define AT(type, field, offset, size)                                                                        \
    IS(offsetof(type, field) == (offset) && sizeof(((type *)0)->field) == (size))
#define SIZE(type, size) IS(sizeof(type) >= (size) && sizeof(type) % 8 == 0)
#define FIXED(type, size) IS(sizeof(type) == (size))

IS(sizeof(void *) == 8 && sizeof(size_t) == 8);
IS(DS_ABI_VERSION == 1);
#include "layout.inc"
