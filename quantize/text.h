// Texts as windows of tokens, for measurements on a model.
#pragma once

#include "output.h"

#include "../llm/model/model.h"

namespace ds {

struct text_windows {
    // each begins with BOS if the model's texts do, and has at least two tokens
    std::vector<std::vector<token_id>> list;
    uint64_t tokens = 0;  // in all of them

    // drops windows, evenly over the text, down to about `most` tokens; at least one window stays
    void keep(uint64_t most);
};

// Reads the files and cuts each into windows of at most `window` tokens. The texts of control tokens become
// those tokens, so that a conversation may be given as the model sees it. Any bytes are a text; a remark
// reports bad UTF-8 or an empty file. Throws status::argument if there is no window.
text_windows read_windows(const model &m, const std::vector<std::string> &paths, int64_t window,
                          const job &j);

}  // namespace ds
