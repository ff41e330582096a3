// Texts as windows of tokens, for runs over a model that measure something.
#pragma once

#include "output.h"

#include "../llm/model/model.h"

namespace ds {

struct text_windows {
    // each begins with BOS where the model's texts do, and has at least two tokens
    std::vector<std::vector<token_id>> list;
    uint64_t tokens = 0;  // in all of them

    // no more than `most` tokens, or one window: whole windows, evenly spread over the text
    void keep(uint64_t most);
};

// Reads the files and cuts each into windows of at most `window` tokens. Control tokens' texts become those
// tokens, so that a conversation may be given as the model sees it. Any bytes are a text; bad UTF-8 and an
// empty file are remarked. Throws status::argument when all together are no two tokens.
text_windows read_windows(const model &m, const std::vector<std::string> &paths, int64_t window,
                          const job &j);

}  // namespace ds
