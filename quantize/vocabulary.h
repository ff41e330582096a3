// A tokenizer's vocabulary, read from a checkpoint directory.
#pragma once

#include "json.h"
#include "output.h"

#include "../llm/text/vocabulary.h"

namespace ds {

// Reads tokenizer.json and, if present, tokenizer_config.json, generation_config.json and the files of chat
// templates. `config` is config.json, or null if the directory has none. Its vocab_size is the number of
// tokens; ids without a token get fillers, as in llama.cpp's converter. Throws status::format and
// status::unsupported naming file, field and value.
vocabulary read_vocabulary(const std::string &directory, const json_node *config, const job &j);

}  // namespace ds
